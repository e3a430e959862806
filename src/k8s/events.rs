//! Events (events.k8s.io): what happened, for `kubectl describe` and `kubectl get events`. Written one by one, not by the
//! library's recorder: that one counts an Event of the same reason up for six minutes, and drops what the new one says.
//! <https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/>

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;

use super::client::{Access, Call, Error};
use crate::model::progress::Tone;

/// What an Event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Pod,
    StatefulSet,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    pub(crate) name: Arc<str>,
    pub(crate) uid: Arc<str>,
}

pub(crate) const CREATE: Call = Call { verb: "create", resource: "events", group: "events.k8s.io" };

const CONTROLLER: &str = "readwright.dev/controller";
/// Of a note, in bytes.
const MOST: usize = 1024;

/// Writes one Event, in the name of the process `instance`.
///
/// # Errors
/// As [`Access::ask`].
pub(crate) async fn write(
    access: &Access,
    instance: &str,
    subject: &Subject,
    tone: Tone,
    reason: &str,
    note: &str,
) -> Result<(), Error> {
    let (kind, version) = match subject.kind {
        Kind::Pod => ("Pod", "v1"),
        Kind::StatefulSet => ("StatefulSet", "apps/v1"),
    };
    let now = Timestamp::now();
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", subject.name, now.as_nanosecond())),
            namespace: Some(access.namespace().to_string()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        action: Some(reason.to_owned()),
        reason: Some(reason.to_owned()),
        note: Some(shortened(note).to_owned()),
        type_: Some(match tone {
            Tone::Normal => "Normal".to_owned(),
            Tone::Warning => "Warning".to_owned(),
        }),
        regarding: Some(ObjectReference {
            api_version: Some(version.to_owned()),
            kind: Some(kind.to_owned()),
            name: Some(subject.name.to_string()),
            namespace: Some(access.namespace().to_string()),
            uid: Some(subject.uid.to_string()),
            ..ObjectReference::default()
        }),
        ..Event::default()
    };
    access.ask(CREATE, access.api::<Event>().create(&PostParams::default(), &event)).await?;
    Ok(())
}

/// GTID sets and errors of servers may be long; what matters is said first.
fn shortened(note: &str) -> &str {
    let mut end = note.len().min(MOST);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    &note[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_fit() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"x".repeat(2000)).len(), MOST);
        assert_eq!(shortened(&"ä€".repeat(1000)).len(), 1022);
    }
}
