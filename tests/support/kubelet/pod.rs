//! The life of one pod: a network, volumes, init containers one by one, the others all at once, a status that says so; and
//! in the end its containers stopped in order and the pod taken out of the API. Knows nothing of other pods.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::container::{Kind, Stop, Supervisor};
use super::image::Images;
use super::names::Names;
use super::network::{Network, PodNetwork};
use super::status::{Observed, State, is_sidecar, status};
use super::volume::Volumes;

/// What all pods of a kubelet share.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) network: Arc<Network>,
    pub(super) images: Images,
    pub(super) names: Arc<Names>,
    /// Below it, a folder per pod and `claims`.
    pub(super) folder: PathBuf,
    pub(super) cluster: Vec<(String, String)>,
}

pub(super) struct Life {
    pub(super) machine: Machine,
    /// None: it is gone from the API.
    pub(super) pod: watch::Receiver<Option<Arc<Pod>>>,
    pub(super) seen: watch::Sender<Observed>,
    /// Whether the pod's link is up.
    pub(super) link: watch::Receiver<bool>,
}

/// The containers that run, and how they are stopped.
#[derive(Default)]
struct Running {
    mains: Group,
    sidecars: Vec<Group>,
}

struct Group {
    tasks: JoinSet<()>,
    stop: watch::Sender<Stop>,
}

impl Default for Group {
    fn default() -> Self {
        Self { tasks: JoinSet::new(), stop: watch::channel(Stop::No).0 }
    }
}

impl Life {
    pub(super) async fn run(self) {
        let Some(pod) = self.pod.borrow().clone() else { return };
        let name = pod.metadata.name.clone().unwrap_or_default();
        let network = match self.machine.network.join() {
            Ok(network) => network,
            Err(why) => {
                eprintln!("kubelet: {name}: {why}");
                return;
            }
        };
        let address = network.address();
        self.machine.names.add(&pod, address);
        let mut running = Running::default();
        let links = self.links(&network);
        let work = async {
            let mut deletion = self.pod.clone();
            tokio::select! {
                () = self.bring_up(&pod, &network, &mut running) => {}
                _ = deletion.wait_for(|pod| pod.as_ref().is_none_or(|pod| is_deleted(pod))) => {}
            }
            self.stop(&mut running).await;
        };
        tokio::select! {
            () = work => {}
            () = self.report(&name) => {}
            () = links => {}
        }
        self.machine.names.remove(address);
        drop(network);
        self.report_once(&name).await;
        self.take_out(&name, &pod).await;
        let _ = std::fs::remove_dir_all(self.folder(&pod));
    }

    fn folder(&self, pod: &Pod) -> PathBuf {
        let metadata = &pod.metadata;
        let name = metadata.name.as_deref().unwrap_or_default();
        self.machine.folder.join(format!("{name}-{}", metadata.uid.as_deref().unwrap_or_default()))
    }

    /// Everything until the pod is to be deleted; then it is dropped at any point.
    async fn bring_up(&self, pod: &Arc<Pod>, network: &PodNetwork, running: &mut Running) {
        let volumes = Arc::new(Volumes {
            client: self.machine.client.clone(),
            namespace: self.machine.namespace.clone(),
            folder: self.folder(pod),
            claims: self.machine.folder.join("claims"),
            address: network.address().to_string(),
            remembered: Mutex::default(),
        });
        while let Err(why) = volumes.prepare(pod).await {
            self.seen.send_modify(|seen| seen.waiting_for = Some(why));
            sleep(Duration::from_millis(500)).await;
        }
        self.seen.send_modify(|seen| {
            seen.waiting_for = None;
            seen.address = Some(network.address());
        });
        let spec = pod.spec.clone().unwrap_or_default();
        for container in spec.init_containers.into_iter().flatten() {
            let name = container.name.clone();
            if is_sidecar(&container) {
                let mut group = Group::default();
                self.start(
                    container,
                    Kind::Sidecar,
                    pod,
                    network.path(),
                    network.address(),
                    &volumes,
                    &mut group,
                );
                running.sidecars.push(group);
                self.until(|seen| seen.containers.get(&name).is_some_and(|one| one.started)).await;
            } else {
                self.start(
                    container,
                    Kind::Init,
                    pod,
                    network.path(),
                    network.address(),
                    &volumes,
                    &mut running.mains,
                );
                let ended = |seen: &Observed| {
                    let state = seen.containers.get(&name).map(|one| &one.state);
                    matches!(state, Some(State::Ended(ended)) if ended.code == 0)
                };
                self.until(ended).await;
            }
        }
        self.seen.send_modify(|seen| seen.initialised = true);
        for container in spec.containers {
            self.start(
                container,
                Kind::Main,
                pod,
                network.path(),
                network.address(),
                &volumes,
                &mut running.mains,
            );
        }
        loop {
            // The kubelet takes up to a minute or so.
            sleep(Duration::from_secs(2)).await;
            // A Secret that is gone leaves the files as they are.
            let _ = volumes.prepare(pod).await;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what differs between containers, listed")]
    fn start(
        &self,
        spec: Container,
        kind: Kind,
        pod: &Arc<Pod>,
        network: String,
        address: Ipv4Addr,
        volumes: &Arc<Volumes>,
        group: &mut Group,
    ) {
        let supervisor = Supervisor {
            folder: self.folder(pod).join(&spec.name),
            spec,
            kind,
            pod: Arc::clone(pod),
            images: self.machine.images.clone(),
            volumes: Arc::clone(volumes),
            address,
            network,
            hosts: self.machine.names.file().to_owned(),
            cluster: self.machine.cluster.clone(),
            seen: self.seen.clone(),
            stop: group.stop.subscribe(),
        };
        group.tasks.spawn(supervisor.run());
    }

    async fn until(&self, condition: impl FnMut(&Observed) -> bool) {
        let _ = self.seen.subscribe().wait_for(condition).await;
    }

    /// The main containers, then the sidecars from the last to the first. A pod that is gone from the API is killed.
    async fn stop(&self, running: &mut Running) {
        let begun = Instant::now();
        let mut groups = vec![std::mem::take(&mut running.mains)];
        groups.extend(std::mem::take(&mut running.sidecars).into_iter().rev());
        let mut pod = self.pod.clone();
        let all = async {
            for group in &mut groups {
                let grace =
                    self.pod.borrow().as_ref().and_then(|pod| pod.metadata.deletion_grace_period_seconds);
                let grace =
                    Duration::from_secs(grace.and_then(|grace| u64::try_from(grace).ok()).unwrap_or(30));
                group.stop.send_replace(Stop::By(begun + grace));
                while group.tasks.join_next().await.is_some() {}
            }
        };
        let gone = tokio::select! {
            () = all => false,
            _ = pod.wait_for(Option::is_none) => true,
        };
        if gone {
            for group in &mut groups {
                group.stop.send_replace(Stop::Now);
                while group.tasks.join_next().await.is_some() {}
            }
        }
    }

    /// Sends the status whenever it changes. Never ends.
    async fn report(&self, name: &str) {
        let (mut seen, mut pod) = (self.seen.subscribe(), self.pod.clone());
        let mut sent: Option<Value> = None;
        loop {
            seen.borrow_and_update();
            let known = pod.borrow_and_update().clone();
            let again = match known {
                Some(known) => {
                    let status = status(&known, &seen.borrow(), NODE_ADDRESS);
                    if sent.as_ref() == Some(&status) {
                        false
                    } else {
                        let sends = self.send(name, &status).await;
                        sent = sends.then_some(status);
                        !sends
                    }
                }
                None => false,
            };
            tokio::select! {
                _ = seen.changed() => {}
                _ = pod.changed() => {}
                () = sleep(Duration::from_millis(500)), if again => {}
            }
        }
    }

    async fn report_once(&self, name: &str) {
        let Some(pod) = self.pod.borrow().clone() else { return };
        let status = status(&pod, &self.seen.borrow(), NODE_ADDRESS);
        self.send(name, &status).await;
    }

    async fn send(&self, name: &str, status: &Value) -> bool {
        let api = self.api();
        let parameters = PatchParams::default();
        let patch = Patch::Strategic(status);
        let sending = api.patch_status(name, &parameters, &patch);
        match timeout(Duration::from_secs(5), sending).await {
            Ok(Ok(_)) => true,
            // Another pod has the name by now, or none: there is nobody to be told.
            Ok(Err(kube::Error::Api(answer))) if answer.code == 404 || answer.code == 409 => true,
            Ok(Err(kube::Error::Api(answer))) => {
                eprintln!("kubelet: the status of {name} is refused: {answer}");
                false
            }
            // The API server is away.
            _ => false,
        }
    }

    /// Ends the pod's time in the API, for as long as that takes.
    async fn take_out(&self, name: &str, pod: &Pod) {
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        let api = self.api();
        loop {
            match timeout(Duration::from_secs(5), api.delete(name, &parameters)).await {
                Ok(Ok(_)) => return,
                Ok(Err(kube::Error::Api(answer))) if answer.code == 404 || answer.code == 409 => return,
                _ if self.pod.borrow().is_none() => return,
                _ => sleep(Duration::from_millis(500)).await,
            }
        }
    }

    /// Takes the link down and up as it is wanted. Never ends.
    async fn links(&self, network: &PodNetwork) {
        let mut link = self.link.clone();
        loop {
            if link.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let up = *link.borrow_and_update();
            if let Err(why) = network.link(up) {
                eprintln!("kubelet: {why}");
            }
        }
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.machine.client.clone(), &self.machine.namespace)
    }
}

pub(super) fn is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Of documentation: nobody connects to it.
const NODE_ADDRESS: &str = "192.0.2.1";
