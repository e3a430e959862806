//! The controller's word on a server, as it stands at its pod: read, and written. Thin: what is to stand there is decided
//! elsewhere. Every patch names the pod's uid, so that it never hits the next pod of the same name.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::client::{Access, Call, Error};
use crate::model::pod::{self, Condition, Owner};
use crate::model::server::ServerId;

/// What Services select by.
const ROLE: &str = "readwright.dev/role";
/// The readiness gate.
const SERVING: &str = "readwright.dev/serving";

pub(crate) const LABEL: Call = Call::core("patch", "pods");
pub(crate) const STATUS: Call = Call::core("patch", "pods/status");

/// What stands at a pod; None where it is none of a StatefulSet's, or has ended.
pub(crate) fn read(pod: &Pod) -> Option<pod::Pod> {
    let id = ServerId::new(pod.metadata.name.as_deref()?);
    id.ordinal()?;
    let status = pod.status.as_ref();
    if matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed")) {
        return None;
    }
    let mut conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
    let serving = conditions.find(|condition| condition.type_ == SERVING).map(|condition| Condition {
        truth: condition.status == "True",
        reason: Arc::from(condition.reason.as_deref().unwrap_or_default()),
        message: Arc::from(condition.message.as_deref().unwrap_or_default()),
    });
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners
        .find(|owner| owner.controller == Some(true) && owner.kind == "StatefulSet")
        .map(|owner| Owner { name: Arc::from(owner.name.as_str()), uid: Arc::from(owner.uid.as_str()) });
    let role = pod.metadata.labels.as_ref().and_then(|labels| labels.get(ROLE));
    Some(pod::Pod {
        id,
        uid: Arc::from(pod.metadata.uid.as_deref()?),
        role: role.map(|role| Arc::from(role.as_str())),
        serving,
        owner,
    })
}

/// Sets the role, or takes it away.
///
/// # Errors
/// A conflict when the pod is another one by now.
pub(crate) async fn set_role(
    access: &Access,
    id: &ServerId,
    uid: &str,
    role: Option<&str>,
) -> Result<(), Error> {
    let change = json!({ "metadata": { "uid": uid, "labels": { ROLE: role } } });
    let (api, parameters) = (access.api::<Pod>(), PatchParams::default());
    access.ask(LABEL, api.patch(id.as_str(), &parameters, &Patch::Merge(&change))).await?;
    Ok(())
}

/// Sets the condition, and leaves those of others as they are. `turned`: it was not so before.
///
/// # Errors
/// A conflict when the pod is another one by now.
pub(crate) async fn set_serving(
    access: &Access,
    id: &ServerId,
    uid: &str,
    condition: &Condition,
    turned: bool,
) -> Result<(), Error> {
    let mut entry = json!({
        "type": SERVING,
        "status": if condition.truth { "True" } else { "False" },
        "reason": &*condition.reason,
        "message": &*condition.message,
    });
    if turned {
        // The API has whole seconds. Without it, what stands there stays.
        entry["lastTransitionTime"] =
            Value::from(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    // By a strategic merge the list is one of types: https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/
    let change = json!({ "metadata": { "uid": uid }, "status": { "conditions": [entry] } });
    let (api, parameters) = (access.api::<Pod>(), PatchParams::default());
    access.ask(STATUS, api.patch_status(id.as_str(), &parameters, &Patch::Strategic(&change))).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_at_a_pod() {
        let check = |pod: Value, expected: Option<pod::Pod>| {
            let pod: Pod = serde_json::from_value(pod).expect("a pod");
            assert_eq!(read(&pod), expected);
        };
        let full = json!({
            "metadata": {
                "name": "mysql-1", "uid": "u", "labels": {"app": "mysql", ROLE: "replica"},
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "n"},
                    {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "mysql", "uid": "s", "controller": true},
                ],
            },
            "status": {"conditions": [
                {"type": "Ready", "status": "True"},
                {"type": SERVING, "status": "False", "reason": "Cloning", "message": "copies"},
            ]},
        });
        let condition = Condition { truth: false, reason: "Cloning".into(), message: "copies".into() };
        let pod = pod::Pod {
            id: ServerId::new("mysql-1"),
            uid: "u".into(),
            role: Some("replica".into()),
            serving: Some(condition),
            owner: Some(Owner { name: "mysql".into(), uid: "s".into() }),
        };
        check(full, Some(pod.clone()));
        let bare = json!({"metadata": {"name": "mysql-1", "uid": "u"}});
        check(bare, Some(pod::Pod { role: None, serving: None, owner: None, ..pod }));
        check(json!({"metadata": {"name": "mysql-client", "uid": "u"}}), None);
        check(json!({"metadata": {"name": "mysql-1", "uid": "u"}, "status": {"phase": "Failed"}}), None);
    }
}
