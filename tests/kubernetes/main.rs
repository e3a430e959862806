//! Scenarios in a real API server with pods that are real servers; see tests/README.md for the list.

mod boot;
mod cluster;
mod controller;
mod existing;
#[path = "../support/kube/mod.rs"]
mod kube_api;
#[path = "../support/kubelet/mod.rs"]
mod kubelet;
mod loss;
mod managed;
mod manifests;
#[expect(dead_code, reason = "only the installation is used")]
#[path = "../../src/demo/mysqld/mod.rs"]
mod mysqld;
mod pods;
mod scene;
mod storage;
mod takeover;
mod told;
mod traffic;
mod walk;
