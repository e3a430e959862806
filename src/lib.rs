//! Readwright: one endpoint in front of a MySQL primary and its replicas.
//!
//! A module may use the rows below it, never its own row nor one above (`tests/architecture.rs` holds this):
//!
//! | layer | modules |
//! |---|---|
//! | 6 | [`cli`] |
//! | 5 | [`server`] |
//! | 4 | [`proxy`] [`admin`] [`controller`] [`demo`] |
//! | 3 | [`routing`] [`backend`] [`topology`] [`monitor`] |
//! | 2 | [`wire`] [`sql`] [`config`] [`dba`] [`k8s`] |
//! | 1 | [`model`] [`telemetry`] |
//!
//! Row-mates meet through [`model`] types and channels that [`server`] wires.

mod admin;
mod backend;
pub mod cli;
mod config;
mod controller;
mod dba;
mod demo;
mod k8s;
mod model;
mod monitor;
mod proxy;
mod routing;
mod server;
mod sql;
mod telemetry;
mod topology;
mod wire;
