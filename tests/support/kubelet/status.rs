//! What the kubelet has seen of a pod, and the pod status that follows from it. Pure: the caller sends it. Never names
//! conditions of others, so that a strategic merge leaves them as they are.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// A pod as it runs.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub(crate) address: Option<Ipv4Addr>,
    /// Why containers cannot be made yet; for people.
    pub(crate) waiting_for: Option<String>,
    pub(crate) begun: Timestamp,
    /// All init containers have ended, sidecars have started.
    pub(crate) initialised: bool,
    pub(crate) containers: BTreeMap<String, Seen>,
}

/// One container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) state: State,
    pub(crate) last: Option<Ended>,
    pub(crate) restarts: u32,
    /// Its startup probe has succeeded.
    pub(crate) started: bool,
    pub(crate) ready: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) enum State {
    #[default]
    Creating,
    /// It has ended and is started again later.
    BackingOff,
    /// The image or a part of the pod is not to be had; for people.
    Stuck(String),
    Running {
        since: Timestamp,
        process: u32,
    },
    Ended(Ended),
}

#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// 128 and the signal's number when a signal ended it.
    pub(crate) code: i32,
    pub(crate) since: Timestamp,
    pub(crate) finished: Timestamp,
}

impl Observed {
    pub(crate) fn new() -> Self {
        Self {
            address: None,
            waiting_for: None,
            begun: Timestamp::now(),
            initialised: false,
            containers: BTreeMap::new(),
        }
    }

    pub(crate) fn process(&self, container: &str) -> Option<u32> {
        match self.containers.get(container)?.state {
            State::Running { process, .. } => Some(process),
            _ => None,
        }
    }
}

/// A patch for `pods/status`. `pod` is what the API server has.
pub(super) fn status(pod: &Pod, seen: &Observed, node_address: &str) -> Value {
    let spec = pod.spec.clone().unwrap_or_default();
    let inits = spec.init_containers.unwrap_or_default();
    let sidecars: Vec<&Container> = inits.iter().filter(|container| is_sidecar(container)).collect();
    let ready = |container: &Container| seen.containers.get(&container.name).is_some_and(|one| one.ready);
    let all_ready = !spec.containers.is_empty()
        && spec.containers.iter().all(ready)
        && sidecars.iter().all(|container| ready(container));
    let missing_gates: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .map(|gate| gate.condition_type.clone())
        .filter(|gate| !is_true(pod, gate))
        .collect();
    let unready = if all_ready { "ReadinessGatesNotReady" } else { "ContainersNotReady" };
    let has_begun = |container: &Container| {
        seen.containers
            .get(&container.name)
            .is_some_and(|one| !matches!(one.state, State::Creating | State::Stuck(_)))
    };
    let running = seen.initialised && spec.containers.iter().all(has_begun);
    let reason = |truth: bool, reason: &str| (!truth).then(|| reason.to_owned());
    let is_ready = all_ready && missing_gates.is_empty();
    let conditions = json!([
        condition(pod, "PodReadyToStartContainers", seen.address.is_some(), None),
        condition(pod, "Initialized", seen.initialised, reason(seen.initialised, "ContainersNotInitialized")),
        condition(pod, "ContainersReady", all_ready, reason(all_ready, "ContainersNotReady")),
        condition(pod, "Ready", is_ready, reason(is_ready, unready)),
    ]);
    let mut status = json!({
        "phase": if running { "Running" } else { "Pending" },
        "conditions": conditions,
        "hostIP": node_address,
        "startTime": seen.begun.to_string(),
        "initContainerStatuses": inits.iter().map(|one| container_status(one, seen)).collect::<Vec<_>>(),
        "containerStatuses": spec.containers.iter().map(|one| container_status(one, seen)).collect::<Vec<_>>(),
        "observedGeneration": pod.metadata.generation,
    });
    if inits.is_empty() {
        status["initContainerStatuses"] = Value::Null;
    }
    if let Some(address) = seen.address {
        status["podIP"] = json!(address);
        status["podIPs"] = json!([{ "ip": address }]);
    }
    json!({ "metadata": { "uid": pod.metadata.uid }, "status": status })
}

pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub(super) fn is_true(pod: &Pod, kind: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn condition(pod: &Pod, kind: &str, truth: bool, reason: Option<String>) -> Value {
    let status = if truth { "True" } else { "False" };
    let known = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let since = known
        .into_iter()
        .find(|condition| condition.type_ == kind && condition.status == status)
        .and_then(|condition| condition.last_transition_time.as_ref())
        .map_or_else(Timestamp::now, |time| time.0);
    // The API has whole seconds.
    let since = since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({ "type": kind, "status": status, "reason": reason, "lastTransitionTime": since })
}

fn container_status(container: &Container, seen: &Observed) -> Value {
    let one = seen.containers.get(&container.name).cloned().unwrap_or_default();
    let ended = |ended: &Ended| {
        json!({ "terminated": {
            "exitCode": ended.code,
            "reason": if ended.code == 0 { "Completed" } else { "Error" },
            "startedAt": seconds(ended.since),
            "finishedAt": seconds(ended.finished),
        }})
    };
    let state = match &one.state {
        State::Creating => {
            let reason = if seen.initialised { "ContainerCreating" } else { "PodInitializing" };
            json!({ "waiting": { "reason": reason, "message": seen.waiting_for } })
        }
        State::BackingOff => json!({ "waiting": { "reason": "CrashLoopBackOff" } }),
        State::Stuck(why) => json!({ "waiting": { "reason": "CreateContainerError", "message": why } }),
        State::Running { since, .. } => json!({ "running": { "startedAt": seconds(*since) } }),
        State::Ended(end) => ended(end),
    };
    // A merge would keep what the state was before beside what it is now.
    let state = json!({ "waiting": state.get("waiting"), "running": state.get("running"), "terminated": state.get("terminated") });
    json!({
        "name": container.name,
        "image": container.image,
        "imageID": container.image,
        "state": state,
        "lastState": one.last.as_ref().map(ended).unwrap_or_else(|| json!({})),
        "ready": one.ready,
        "started": one.started,
        "restartCount": one.restarts,
    })
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
