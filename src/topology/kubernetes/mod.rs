//! Discovery through the API server: the pods of a headless Service, its EndpointSlices, the controller's record, and for
//! the controller the pods' claims. What may not be read is done without, down to the EndpointSlices alone. While the API server is away, the last that
//! was read holds. Writes nothing.

mod view;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, PodSpec, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::Lookup;
use kube::runtime::watcher;
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::dns::Hosts;
use crate::config::Kubernetes;
use crate::k8s::client::{self, Access, Call};
use crate::k8s::follow::{Followed, Follower, Kind};
use crate::k8s::{pods, state};
use crate::model::appointment::Appointment;
use crate::model::claims::Claim;
use crate::model::pod;
use crate::model::server::Endpoint;
use crate::model::wishes::Wishes;

/// What to look for.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    service: Arc<str>,
    primary_service: Option<Arc<str>>,
    port: u16,
    /// The ConfigMap with the record.
    state: Arc<str>,
    hosts: Hosts,
}

impl Settings {
    pub(crate) fn new(kubernetes: &Kubernetes, state: &str, hosts: Hosts) -> Self {
        Self {
            service: Arc::from(kubernetes.service.as_str()),
            primary_service: kubernetes.primary_service.as_deref().map(Arc::from),
            port: kubernetes.port,
            state: Arc::from(state),
            hosts,
        }
    }
}

/// Where discovery tells what it finds.
pub(crate) struct Outputs {
    pub(crate) endpoints: watch::Sender<Arc<[Endpoint]>>,
    pub(crate) appointments: watch::Sender<Appointment>,
    pub(crate) wishes: watch::Sender<Wishes>,
    /// What the controller has written at the pods, by ordinal.
    pub(crate) pods: watch::Sender<Arc<[pod::Pod]>>,
    /// None: nobody asks for claims, and none are read.
    pub(crate) claims: Option<watch::Sender<Arc<[Claim]>>>,
}

const PODS: Kind = Kind {
    resource: "pods",
    group: "",
    without: "without pods the EndpointSlices alone say who is there; a pod that is deleted is seen a little later",
};
const SLICES: Kind = Kind {
    resource: "endpointslices",
    group: "discovery.k8s.io",
    without: "without EndpointSlices zones are not known, nor is anything where pods may not be read either",
};
const STATE: Kind = Kind {
    resource: "configmaps",
    group: "",
    without: "without the controller's record the Service topology.primary_service names the primary, else ordinal 0",
};
const CLAIMS: Kind = Kind {
    resource: "persistentvolumeclaims",
    group: "",
    without: "without claims it is not known whether data lies on a volume whose pod is away, nor whether a copy will fit",
};
const GET_SERVICE: Call = Call::core("get", "services");

/// How often the Service is asked for its selector, which hardly ever changes, where EndpointSlices cannot tell.
const SELECTOR_EVERY: Duration = Duration::from_secs(60);
/// The least time from one answer to the next question: slices change whenever a pod is ready or not.
const SELECTOR_REST: Duration = Duration::from_millis(300);
const SELECTOR_AGAIN: Duration = Duration::from_secs(10);

/// Follows the objects until `stop`.
pub(crate) async fn run(access: Access, settings: Settings, outputs: Outputs, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    let slices = follow_slices(&mut tasks, &access, &settings);
    let selector = || Selector {
        access: access.clone(),
        service: Arc::clone(&settings.service),
        slices: slices.clone(),
        last: None,
    };
    let pods = follow_selected(&mut tasks, selector(), PODS, slim_pod);
    let claims = outputs.claims.is_some().then(|| {
        let slim = |claim: &mut PersistentVolumeClaim| claim.metadata.managed_fields = None;
        follow_selected(&mut tasks, selector(), CLAIMS, slim)
    });
    let state = follow_state(&mut tasks, &access, &settings);
    tracing::info!(namespace = &**access.namespace(), service = &*settings.service, "kubernetes");
    let mut finder = Finder {
        settings,
        pods,
        claims,
        slices,
        state,
        outputs,
        notices: Vec::new(),
        mistake: None,
        misunderstood: None,
    };
    loop {
        finder.tell();
        let told = tokio::select! {
            told = finder.pods.changed() => told,
            told = finder.slices.changed() => told,
            told = finder.state.changed() => told,
            told = changed(&mut finder.claims) => told,
            () = stop.cancelled() => break,
        };
        if !told {
            // A follower ends only by a bug; without it nothing new is learned, and the last snapshot holds.
            tracing::error!("discovery has ended; restart this process");
            stop.cancelled().await;
            break;
        }
    }
    tasks.shutdown().await;
}

/// Makes one picture of what the followers have read.
struct Finder {
    settings: Settings,
    pods: Followed<Pod>,
    claims: Option<Followed<PersistentVolumeClaim>>,
    slices: Followed<EndpointSlice>,
    state: Followed<ConfigMap>,
    outputs: Outputs,
    /// What was last said to people.
    notices: Vec<String>,
    mistake: Option<state::BadState>,
    /// The same of what people want.
    misunderstood: Option<state::BadState>,
}

impl Finder {
    fn tell(&mut self) {
        if !self.tell_claims() {
            // With a claim that is not known of yet, the controller would take its server for one that never was.
            return;
        }
        let states = self.state.list();
        if states.is_none() && !self.state.is_forbidden() {
            // Whoever is the primary by discovery may not be it by the record.
            return;
        }
        if let Some(states) = &states {
            let state = states.iter().find(|state| state.name_any() == *self.settings.state);
            self.appoint(state.map(|state| &**state));
            self.wish(state.map(|state| &**state));
        }
        let slices = self.slices.list();
        let pods = self.pods.list();
        // Pods that may not be read any more are an old list beside slices that are new.
        let pods = if self.pods.is_forbidden() && slices.is_some() { None } else { pods };
        if pods.is_none() && slices.is_none() {
            return;
        }
        if let Some(pods) = &pods {
            self.stand(pods);
        }
        let objects = view::Objects { pods, slices: slices.unwrap_or_default(), record: states.is_some() };
        let view::View { endpoints, notices } = view::view(&objects, &self.settings);
        for notice in notices.iter().filter(|notice| !self.notices.contains(notice)) {
            tracing::warn!("{notice}");
        }
        self.notices = notices;
        self.outputs.endpoints.send_if_modified(|known| {
            let changed = **known != *endpoints;
            if changed {
                *known = Arc::from(endpoints);
            }
            changed
        });
    }

    /// False while they are wanted and have not been read.
    fn tell_claims(&self) -> bool {
        let (Some(claims), Some(sender)) = (&self.claims, &self.outputs.claims) else { return true };
        let listed = if claims.is_forbidden() { Some(Vec::new()) } else { claims.list() };
        let Some(listed) = listed else { return false };
        let found = view::claims(&listed);
        sender.send_if_modified(|known| {
            let changed = **known != *found;
            if changed {
                *known = Arc::from(found);
            }
            changed
        });
        true
    }

    /// A record that is gone or cannot be understood changes nothing but that nobody waits for a switchover any more.
    fn appoint(&mut self, state: Option<&ConfigMap>) {
        let appointment = match state.map(state::appointment) {
            Some(Ok(appointment)) => {
                self.mistake = None;
                appointment
            }
            Some(Err(error)) => {
                if self.mistake.as_ref() != Some(&error) {
                    tracing::error!(%error, "the last appointment holds");
                    self.mistake = Some(error);
                }
                return;
            }
            None => {
                let last = self.outputs.appointments.borrow().clone();
                Appointment { handover: false, ..last }
            }
        };
        self.outputs.appointments.send_if_modified(|known| {
            let changed = *known != appointment;
            if changed {
                tracing::info!(?appointment, "record");
                *known = appointment;
            }
            changed
        });
    }

    fn stand(&self, pods: &[Arc<Pod>]) {
        if self.outputs.pods.is_closed() {
            return;
        }
        let mut standing: Vec<pod::Pod> = pods.iter().filter_map(|pod| pods::read(pod)).collect();
        standing.sort_by_key(|pod| (pod.id.ordinal(), pod.id.clone()));
        self.outputs.pods.send_if_modified(|known| {
            let changed = **known != *standing;
            if changed {
                *known = Arc::from(standing);
            }
            changed
        });
    }

    /// What cannot be understood changes nothing.
    fn wish(&mut self, state: Option<&ConfigMap>) {
        let wishes = match state.map_or(Ok(Wishes::default()), state::wishes) {
            Ok(wishes) => wishes,
            Err(error) => {
                if self.misunderstood.as_ref() != Some(&error) {
                    tracing::error!(%error, "what was wanted before is wanted still");
                    self.misunderstood = Some(error);
                }
                return;
            }
        };
        self.misunderstood = None;
        self.outputs.wishes.send_if_modified(|known| {
            let changed = *known != wishes;
            if changed {
                *known = wishes;
            }
            changed
        });
    }
}

fn follow_slices(tasks: &mut JoinSet<()>, access: &Access, settings: &Settings) -> Followed<EndpointSlice> {
    let (mut follower, followed) = Follower::new(SLICES);
    let names = [Some(&*settings.service), settings.primary_service.as_deref()];
    let names: Vec<&str> = names.into_iter().flatten().collect();
    let labels = format!("kubernetes.io/service-name in ({})", names.join(","));
    let access = access.clone();
    tasks.spawn(async move {
        let selection = watcher::Config::default().labels(&labels);
        let slim = |slice: &mut EndpointSlice| slice.metadata.managed_fields = None;
        follower.run(&access.watched(), access.namespace(), selection, slim).await;
    });
    followed
}

fn follow_state(tasks: &mut JoinSet<()>, access: &Access, settings: &Settings) -> Followed<ConfigMap> {
    let (mut follower, followed) = Follower::new(STATE);
    // By its name, so that a Role can grant this one ConfigMap and no other.
    let fields = format!("metadata.name={}", settings.state);
    let access = access.clone();
    tasks.spawn(async move {
        let selection = watcher::Config::default().fields(&fields);
        let slim = |state: &mut ConfigMap| state.metadata.managed_fields = None;
        follower.run(&access.watched(), access.namespace(), selection, slim).await;
    });
    followed
}

/// What the Service's selector of now selects. Claims carry the labels that a StatefulSet selects its pods by.
fn follow_selected<K>(
    tasks: &mut JoinSet<()>,
    mut selector: Selector,
    kind: Kind,
    slim: fn(&mut K),
) -> Followed<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Lookup<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync,
{
    let (mut follower, followed) = Follower::new(kind);
    tasks.spawn(async move {
        let api = selector.access.watched();
        let namespace = Arc::clone(selector.access.namespace());
        let mut missing = false;
        loop {
            match selector.ask().await {
                Ok(_) => missing = false,
                Err(error) if error.is_missing() => {
                    if !missing && selector.last.is_none() {
                        let service = &*selector.service;
                        tracing::warn!(service, "topology.service: there is no such Service in {namespace}");
                    }
                    missing = true;
                }
                // The selector of before holds.
                Err(_) if selector.last.is_some() => {}
                Err(error) => follower.note("get", &error),
            }
            let Some(labels) = selector.last.clone() else {
                sleep(SELECTOR_AGAIN).await;
                continue;
            };
            let selection = watcher::Config::default().labels(&labels);
            tokio::select! {
                () = follower.run(&api, &namespace, selection, slim) => {}
                () = selector.changed() => {}
            }
        }
    });
    followed
}

/// Waits for ever where nothing is followed.
async fn changed<K>(followed: &mut Option<Followed<K>>) -> bool
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone,
{
    match followed {
        Some(followed) => followed.changed().await,
        None => std::future::pending().await,
    }
}

/// The Service's selector, as last read.
struct Selector {
    access: Access,
    service: Arc<str>,
    /// They change with what the selector selects.
    slices: Followed<EndpointSlice>,
    last: Option<String>,
}

impl Selector {
    /// True when it is another one now.
    async fn ask(&mut self) -> Result<bool, client::Error> {
        let services = self.access.api::<Service>();
        let service = self.access.ask(GET_SERVICE, services.get(&self.service)).await?;
        let Some(found) = view::label_selector(&service) else { return Ok(false) };
        let changed = self.last.as_ref() != Some(&found);
        self.last = Some(found);
        Ok(changed)
    }

    async fn changed(&mut self) {
        loop {
            sleep(SELECTOR_REST).await;
            let _ = timeout(SELECTOR_EVERY, self.slices.changed()).await;
            if let Ok(true) = self.ask().await {
                return;
            }
        }
    }
}

/// A pod's specification is long, and only its node is read.
fn slim_pod(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.spec = pod.spec.take().map(|spec| PodSpec { node_name: spec.node_name, ..PodSpec::default() });
}
