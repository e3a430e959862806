//! A kubelet for tests: runs the pods that real controllers make in a real API server as real processes, each in a network
//! namespace with an address of its own, its data in a folder per claim. It is also the scheduler and the provisioner of
//! volumes. What it leaves out: isolation between processes, limits of resources, images (it knows `mysql` and
//! `readwright` only), ClusterIPs, network policies, and logs by the API. One per namespace of the API server.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use image::Images;
pub(crate) use network::Network;
pub(crate) use rustix::process::Signal;
pub(crate) use status::Observed;

use container::send;
use names::Names;
use pod::{Life, Machine, is_deleted};
use process::Entered;
use scheduler::{Scheduler, node_of};

mod container;
mod environment;
mod image;
mod names;
mod network;
mod pod;
mod probe;
mod process;
mod scheduler;
mod status;
mod volume;

/// Ends its pods when dropped; [`Self::close`] waits for that.
pub(crate) struct Kubelet {
    pods: Pods,
    claims: PathBuf,
    images: Images,
    stop: CancellationToken,
    work: JoinSet<()>,
}

type Pods = Arc<Mutex<BTreeMap<String, Handle>>>;

/// A pod that runs here; by its uid.
struct Handle {
    name: String,
    folder: PathBuf,
    pod: watch::Sender<Option<Arc<Pod>>>,
    seen: watch::Sender<Observed>,
    link: watch::Sender<bool>,
}

impl Kubelet {
    /// For the pods of one namespace. `nodes`: name and zone; the names get the namespace in front. `api` is where pods find the
    /// API server.
    pub(crate) async fn start(
        client: Client,
        namespace: &str,
        network: &Arc<Network>,
        images: &Images,
        nodes: &[(&str, &str)],
        api: SocketAddr,
    ) -> Result<Self, String> {
        let folder = network.folder().join(namespace);
        let claims = folder.join("claims");
        fs::create_dir_all(&claims).map_err(|error| format!("{}: {error}", claims.display()))?;
        let images = images.another();
        let machine = Machine {
            client: client.clone(),
            namespace: namespace.to_owned(),
            network: Arc::clone(network),
            images: images.clone(),
            names: Arc::new(Names::open(folder.join("hosts"))?),
            folder,
            cluster: vec![
                ("KUBERNETES_SERVICE_HOST".to_owned(), api.ip().to_string()),
                ("KUBERNETES_SERVICE_PORT".to_owned(), api.port().to_string()),
            ],
        };
        let nodes = nodes.iter().map(|(name, zone)| (format!("{namespace}-{name}"), (*zone).to_owned()));
        let scheduler = Arc::new(Scheduler {
            client,
            namespace: namespace.to_owned(),
            claims: claims.clone(),
            nodes: nodes.collect(),
            limited: Mutex::default(),
        });
        scheduler.keep_nodes().await.map_err(|error| format!("nodes: {error}"))?;
        let (pods, stop) = (Pods::default(), CancellationToken::new());
        let mut work = JoinSet::new();
        let known = watch::Sender::new(BTreeMap::new());
        work.spawn(schedule(scheduler, known.subscribe(), stop.clone()));
        work.spawn(run(machine, Arc::clone(&pods), known, stop.clone()));
        Ok(Self { pods, claims, images, stop, work })
    }

    /// Kills all pods and waits until they are gone from this machine; the API server is told nothing.
    pub(crate) async fn close(mut self) {
        self.stop.cancel();
        while self.work.join_next().await.is_some() {}
    }

    /// Further options of every mysqld that is started from now on.
    pub(crate) fn mysqld_options(&self, options: &[&str]) {
        self.images.set_options(options);
    }

    /// What is known of a pod of this name that runs here.
    pub(crate) fn seen(&self, pod: &str) -> Option<Observed> {
        self.with(pod, |handle| handle.seen.borrow().clone())
    }

    pub(crate) fn address(&self, pod: &str) -> Option<Ipv4Addr> {
        self.seen(pod)?.address
    }

    /// False: no such container runs.
    pub(crate) fn signal(&self, pod: &str, container: &str, signal: Signal) -> bool {
        let process = self.seen(pod).and_then(|seen| seen.process(container));
        process.inspect(|process| send(*process, signal)).is_some()
    }

    /// Runs a command in a container, as `kubectl exec` does, but as root. Err is what it printed.
    pub(crate) async fn exec(&self, pod: &str, container: &str, command: &[&str]) -> Result<(), String> {
        let process = self.seen(pod).and_then(|seen| seen.process(container));
        let process = process.ok_or_else(|| format!("{pod}/{container} does not run"))?;
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        Entered { process, user: 0, group: 0, variables: variables_of(process) }.run(&command).await
    }

    /// Takes a pod off the network, or puts it back: packets vanish, nobody is told.
    pub(crate) fn link(&self, pod: &str, up: bool) -> bool {
        self.with(pod, |handle| handle.link.send_replace(up)).is_some()
    }

    /// What a container has printed, in all its runs.
    pub(crate) fn log(&self, pod: &str, container: &str) -> String {
        self.with(pod, |handle| {
            fs::read_to_string(handle.folder.join(container).join("log")).unwrap_or_default()
        })
        .unwrap_or_default()
    }

    /// The folder of a claim.
    pub(crate) fn claim(&self, name: &str) -> PathBuf {
        self.claims.join(name)
    }

    /// Names of the pods whose names begin with one of these, whose containers are all ready, and that stay.
    pub(crate) fn ready(&self, beginnings: &[String]) -> Vec<String> {
        let pods = self.pods.lock();
        let ready = |handle: &&Handle| {
            let seen = handle.seen.borrow();
            let pod = handle.pod.borrow();
            // Before its containers are started, none of them is not ready.
            let spec = pod.as_deref().filter(|pod| !is_deleted(pod)).and_then(|pod| pod.spec.as_ref());
            let is_ready = |name: &str| seen.containers.get(name).is_some_and(|one| one.ready);
            seen.initialised
                && spec.is_some_and(|spec| spec.containers.iter().all(|one| is_ready(&one.name)))
                && seen.containers.values().all(|one| one.ready)
        };
        let wanted = |handle: &&Handle| beginnings.iter().any(|beginning| handle.name.starts_with(beginning));
        let mut names: Vec<String> =
            pods.values().filter(wanted).filter(ready).map(|handle| handle.name.clone()).collect();
        names.sort();
        names
    }

    /// Names of the pods that run here.
    pub(crate) fn names(&self) -> Vec<String> {
        self.pods.lock().values().map(|handle| handle.name.clone()).collect()
    }

    fn with<T>(&self, name: &str, look: impl FnOnce(&Handle) -> T) -> Option<T> {
        let pods = self.pods.lock();
        // A pod that is being taken out may still be here beside its successor.
        let mut named: Vec<&Handle> = pods.values().filter(|handle| handle.name == name).collect();
        named.sort_by_key(|handle| handle.pod.borrow().is_some());
        named.last().copied().map(look)
    }
}

/// Nodes, claims and assignments, over and over.
async fn schedule(
    scheduler: Arc<Scheduler>,
    pods: watch::Receiver<BTreeMap<String, Pod>>,
    stop: CancellationToken,
) {
    let mut said = Instant::now();
    let work = async {
        loop {
            let known: Vec<Pod> = pods.borrow().values().cloned().collect();
            let round = async {
                scheduler.keep_claims().await?;
                scheduler.assign(&known).await?;
                if said.elapsed() > HEARTBEAT {
                    scheduler.keep_nodes().await?;
                    said = Instant::now();
                }
                Ok::<_, kube::Error>(())
            };
            // The API server may be away: that is one of the scenarios.
            if let Ok(Err(kube::Error::Api(answer))) = timeout(Duration::from_secs(5), round).await {
                eprintln!("kubelet: {answer}");
            }
            sleep(ROUND).await;
        }
    };
    stop.run_until_cancelled(Box::pin(work)).await;
    scheduler.remove_limits().await;
    let _ = timeout(Duration::from_secs(2), scheduler.remove_nodes()).await;
}

/// Follows the pods of the namespace, and gives each of ours a life.
async fn run(
    machine: Machine,
    handles: Pods,
    known: watch::Sender<BTreeMap<String, Pod>>,
    stop: CancellationToken,
) {
    let api = Api::<Pod>::namespaced(machine.client.clone(), &machine.namespace);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut lives = JoinSet::new();
    let mut listed = BTreeMap::new();
    loop {
        let event = tokio::select! {
            event = events.try_next() => event,
            Some(ended) = lives.join_next() => {
                match ended {
                    Ok(uid) => drop(handles.lock().remove::<String>(&uid)),
                    Err(error) => eprintln!("kubelet: a pod's life ended badly: {error}"),
                }
                continue;
            }
            () = stop.cancelled() => break,
        };
        let now = match event {
            Ok(Some(watcher::Event::Apply(pod))) => {
                known.send_modify(|known| drop(known.insert(uid(&pod), pod)));
                known.borrow().clone()
            }
            Ok(Some(watcher::Event::Delete(pod))) => {
                known.send_modify(|known| drop(known.remove(&uid(&pod))));
                known.borrow().clone()
            }
            Ok(Some(watcher::Event::Init)) => {
                listed.clear();
                continue;
            }
            Ok(Some(watcher::Event::InitApply(pod))) => {
                listed.insert(uid(&pod), pod);
                continue;
            }
            Ok(Some(watcher::Event::InitDone)) => {
                known.send_replace(std::mem::take(&mut listed));
                known.borrow().clone()
            }
            // It tries again.
            Err(_) => continue,
            Ok(None) => break,
        };
        for (uid, handle) in handles.lock().iter() {
            if !now.contains_key(uid) {
                handle.pod.send_if_modified(|pod| pod.take().is_some());
            }
        }
        for (uid, pod) in now {
            let mut handles = handles.lock();
            if let Some(handle) = handles.get(&uid) {
                handle.pod.send_if_modified(|known| {
                    let changed = known.as_deref() != Some(&pod);
                    *known = Some(Arc::new(pod));
                    changed
                });
            } else if node_of(&pod).is_some() {
                let handle = Handle {
                    name: pod.metadata.name.clone().unwrap_or_default(),
                    folder: machine
                        .folder
                        .join(format!("{}-{uid}", pod.metadata.name.as_deref().unwrap_or_default())),
                    pod: watch::Sender::new(Some(Arc::new(pod))),
                    seen: watch::Sender::new(Observed::new()),
                    link: watch::Sender::new(true),
                };
                let life = Life {
                    machine: machine.clone(),
                    pod: handle.pod.subscribe(),
                    seen: handle.seen.clone(),
                    link: handle.link.subscribe(),
                };
                handles.insert(uid.clone(), handle);
                lives.spawn(async move {
                    Box::pin(life.run()).await;
                    uid
                });
            }
        }
    }
    lives.shutdown().await;
    handles.lock().clear();
}

/// What a process was started with.
fn variables_of(process: u32) -> Vec<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{process}/environ")).unwrap_or_default();
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

const ROUND: Duration = Duration::from_millis(300);
const HEARTBEAT: Duration = Duration::from_secs(8);
