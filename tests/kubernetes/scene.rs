//! The stage of a scenario: an API server, which most share, and a namespace with a kubelet of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use mysql_async::{Conn, OptsBuilder};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use crate::kube_api::{Kube, assets};
use crate::kubelet::{Images, Kubelet, Network};

/// What all scenarios stand on.
struct World {
    assets: PathBuf,
    network: Arc<Network>,
    images: Images,
    kube: OnceCell<Arc<Kube>>,
}

/// A namespace with nodes; whatever is applied to it runs.
pub(crate) struct Scene {
    pub(crate) kube: Arc<Kube>,
    pub(crate) namespace: String,
    pub(crate) kubelet: Arc<Kubelet>,
}

/// One runtime for the whole binary: the API server outlives the scenario that started it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime can be made"));
/// A small machine has no room for more clusters.
static ROOM: Semaphore = Semaphore::const_new(2);

/// Runs a scenario in a namespace of this name, or says why it cannot be run here. When it fails, says how things were.
pub(crate) fn scenario(name: &str, play: impl AsyncFnOnce(&Scene)) {
    RUNTIME.block_on(perform(name, World::shared_kube, play));
}

/// The same with an API server of its own, which it may take away.
pub(crate) fn scenario_apart(name: &str, play: impl AsyncFnOnce(&Scene)) {
    RUNTIME.block_on(perform(name, async |world| world.another_kube(name).await, play));
}

async fn perform(
    name: &str,
    kube: impl AsyncFnOnce(&'static World) -> Arc<Kube>,
    play: impl AsyncFnOnce(&Scene),
) {
    let _room = ROOM.acquire().await.expect("it is never closed");
    let world = match World::shared().await {
        Ok(world) => world,
        Err(why) if std::env::var_os("CI").is_none_or(|ci| ci.is_empty()) => {
            eprintln!("SKIPPED {name}: {why}");
            return;
        }
        Err(why) => panic!("{name} cannot be run: {why}"),
    };
    let scene = Scene::open(world, kube(world).await, name).await;
    let begun = Instant::now();
    let outcome = AssertUnwindSafe(play(&scene)).catch_unwind().await;
    eprintln!("{name}: {:.1} s", begun.elapsed().as_secs_f64());
    if outcome.is_err() {
        eprintln!("{}", scene.story().await);
    }
    scene.close().await;
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

/// Polls until it is so, and gives what came of it; a panic tells what was missing last.
pub(crate) async fn until<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let patience = Instant::now() + within;
    loop {
        let why = match timeout(Duration::from_secs(20), look()).await {
            Ok(Ok(found)) => return found,
            Ok(Err(why)) => why,
            Err(_) => "the look takes too long".to_owned(),
        };
        assert!(Instant::now() < patience, "not within {} s: {what}: {why}", within.as_secs());
        sleep(Duration::from_millis(100)).await;
    }
}

impl World {
    async fn shared() -> Result<&'static Self, String> {
        static SHARED: OnceCell<Result<World, String>> = OnceCell::const_new();
        SHARED.get_or_init(Self::make).await.as_ref().map_err(Clone::clone)
    }

    async fn make() -> Result<Self, String> {
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kubernetes-{}", std::process::id()));
        let network = Network::make(&folder)?;
        let assets = assets().await?;
        // From here on all that is needed is there: what goes wrong is a failure.
        let images =
            Images::find(Path::new(env!("CARGO_BIN_EXE_readwright"))).await.expect("there is a MySQL");
        Ok(Self { assets, network, images, kube: OnceCell::new() })
    }

    async fn shared_kube(&self) -> Arc<Kube> {
        Arc::clone(self.kube.get_or_init(|| self.another_kube("shared")).await)
    }

    async fn another_kube(&self, name: &str) -> Arc<Kube> {
        let folder = self.network.folder().join(format!("kube-{name}"));
        let kube = Kube::start(self.assets.clone(), &folder, self.network.gateway().into()).await;
        Arc::new(kube.expect("the API server starts"))
    }
}

impl Scene {
    async fn open(world: &World, kube: Arc<Kube>, name: &str) -> Self {
        let namespace = name.to_owned();
        kubectl(&kube, &["create", "namespace", name], None).await.expect("a new namespace");
        let nodes = [("a", "zone-a"), ("b", "zone-b"), ("c", "zone-c")];
        let kubelet =
            Kubelet::start(kube.client(), name, &world.network, &world.images, &nodes, kube.address());
        let kubelet = Arc::new(kubelet.await.expect("the kubelet starts"));
        Self { kube, namespace, kubelet }
    }

    async fn close(self) {
        let arguments = ["delete", "namespace", &self.namespace, "--wait=false"];
        let _ = kubectl(&self.kube, &arguments, None).await;
        let _ = self
            .try_kubectl(&["delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false"])
            .await;
        match Arc::try_unwrap(self.kubelet) {
            Ok(kubelet) => kubelet.close().await,
            Err(_) => eprintln!("{}: something of it still runs", self.namespace),
        }
    }

    /// `kubectl` in this namespace, as an administrator. It prints what is given back.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).await.unwrap_or_else(|why| panic!("{why}"))
    }

    pub(crate) async fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let all = [&["--namespace", &self.namespace], arguments].concat();
        kubectl(&self.kube, &all, None).await
    }

    /// `kubectl apply` of a text.
    pub(crate) async fn apply(&self, manifest: &str) {
        let all = ["--namespace", &self.namespace, "apply", "-f", "-"];
        kubectl(&self.kube, &all, Some(manifest)).await.unwrap_or_else(|why| panic!("{why}"));
    }

    /// A field of an object, as `kubectl get -o jsonpath` prints it; empty when it is not there.
    pub(crate) async fn field(&self, object: &str, path: &str) -> Result<String, String> {
        self.try_kubectl(&["get", object, "-o", &format!("jsonpath={{{path}}}")]).await
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.kube.client(), &self.namespace)
    }

    pub(crate) async fn pod(&self, name: &str) -> Result<Pod, String> {
        self.pods().get(name).await.map_err(|error| error.to_string())
    }

    /// The controller's Events about an object: reasons and notes.
    pub(crate) async fn events(&self, name: &str) -> BTreeMap<String, String> {
        let api: Api<Event> = Api::namespaced(self.kube.client(), &self.namespace);
        let events = api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
        let ours = events.into_iter().filter(|event| {
            event.reporting_controller.as_deref() == Some("readwright.dev/controller")
                && event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some(name)
        });
        ours.map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default())).collect()
    }

    /// Waits until all of these pods are ready, and none of them is about to go.
    pub(crate) async fn ready(&self, names: &[&str], within: Duration) {
        until(&format!("{names:?} are ready"), within, async || {
            for name in names {
                let pod = self.pod(name).await?;
                if pod.metadata.deletion_timestamp.is_some() {
                    return Err(format!("{name} is being deleted"));
                }
                if condition(&pod, "Ready") != Some("True") {
                    return Err(format!("{name} is not ready"));
                }
            }
            Ok(())
        })
        .await;
    }

    /// Logs in to a pod's MySQL, past any proxy.
    pub(crate) async fn mysql(&self, pod: &str, user: &str, password: &str) -> Result<Conn, String> {
        let address = self.kubelet.address(pod).ok_or_else(|| format!("{pod} has no address"))?;
        connect(SocketAddr::from((address, 3306)), user, password).await
    }

    /// What `/status` of a Readwright says.
    pub(crate) async fn status(&self, pod: &str) -> Result<Value, String> {
        let address = self.kubelet.address(pod).ok_or_else(|| format!("{pod} has no address"))?;
        let get = async {
            let mut stream = TcpStream::connect((address, 9090)).await?;
            let request = format!("GET /status HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer =
            timeout(Duration::from_secs(10), get).await.map_err(|_| format!("{pod} does not answer"))?;
        let answer = answer.map_err(|error| format!("{pod}: {error}"))?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        serde_json::from_str(body).map_err(|error| format!("{pod}: {error}: {answer}"))
    }

    /// How things are: for a person who looks for the reason.
    async fn story(&self) -> String {
        let mut story = format!("--- namespace {}\n", self.namespace);
        for what in ["pods,pvc,statefulsets,endpointslices,configmaps,leases", "events"] {
            let arguments = ["get", what, "-o", "wide"];
            story.push_str(&self.try_kubectl(&arguments).await.unwrap_or_else(|why| why));
        }
        let pods = self.pods().list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
        for pod in pods {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let spec = pod.spec.unwrap_or_default();
            for container in spec.init_containers.unwrap_or_default().iter().chain(&spec.containers) {
                let log = self.kubelet.log(&name, &container.name);
                // What mysqladmin and its like look up at every login.
                let lines: Vec<&str> = log.lines().filter(|line| !line.contains("[MY-013360]")).collect();
                let last = &lines[lines.len().saturating_sub(40)..];
                let seen =
                    self.kubelet.seen(&name).and_then(|seen| seen.containers.get(&container.name).cloned());
                let _ = write!(story, "--- {name}/{}: {seen:?}\n{}\n", container.name, last.join("\n"));
            }
        }
        story
    }
}

/// Logs in over TCP without TLS.
pub(crate) async fn connect(address: SocketAddr, user: &str, password: &str) -> Result<Conn, String> {
    let options = OptsBuilder::default()
        .ip_or_hostname(address.ip().to_string())
        .tcp_port(address.port())
        .user(Some(user))
        .pass(Some(password))
        // Else it looks for a Unix socket and prefers that, past a proxy.
        .prefer_socket(false);
    match timeout(Duration::from_secs(20), Conn::new(options)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the login does not end".to_owned()),
    }
}

pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    Some(conditions.iter().find(|condition| condition.type_ == kind)?.status.as_str())
}

/// By name, the number of times the kubelet has started its containers again.
pub(crate) fn restarts(pod: &Pod) -> BTreeMap<String, i32> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| (status.name.clone(), status.restart_count)).collect()
}

async fn kubectl(kube: &Kube, arguments: &[&str], input: Option<&str>) -> Result<String, String> {
    let mut child = Command::new(kube.kubectl())
        .arg("--kubeconfig")
        .arg(kube.kubeconfig())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("kubectl: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.unwrap_or_default().as_bytes()).await.map_err(|error| error.to_string())?;
    }
    let output = timeout(Duration::from_secs(600), child.wait_with_output()).await;
    let output = output.map_err(|_| format!("kubectl {arguments:?} does not end"))?;
    let output = output.map_err(|error| format!("kubectl: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
