//! The controller's record as everybody may read it: the one ConfigMap, and what in it names the primary. An unreadable
//! record is an error, never an empty one: an empty one would let discovery name somebody else.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::client::{self, Access, Call};
use crate::model::appointment::Appointment;
use crate::model::server::ServerId;
use crate::model::wishes::{Wish, Wishes};

/// The record's text: cluster, primary, watermark.
pub(crate) const RECORD: &str = "record";
/// Counts appointments.
pub(crate) const EPOCH: &str = "epoch";
/// There while a switchover runs: new writes wait.
pub(crate) const HANDOVER: &str = "handover";

/// A person's wish for another primary: `{"id": .., "to": .., "force": ..}`, the last only where it is true.
pub(crate) const SWITCHOVER: &str = "switchover";
/// `true` while people want the controller to change nothing.
pub(crate) const PAUSE: &str = "pause";

/// Why the ConfigMap was not read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Api(#[from] client::Error),
    #[error(transparent)]
    Bad(#[from] BadState),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{key}` of the controller's ConfigMap cannot be read ({why}); restore it, or remove the ConfigMap")]
pub(crate) struct BadState {
    key: &'static str,
    why: String,
}

/// Whom the ConfigMap appoints. One without a record appoints nobody.
///
/// # Errors
/// When what it says cannot be understood.
pub(crate) fn appointment(state: &ConfigMap) -> Result<Appointment, BadState> {
    let text = |key: &str| state.data.as_ref().and_then(|data| data.get(key)).map(String::as_str);
    let bad = |key: &'static str, why: String| BadState { key, why };
    let mut appointment = Appointment {
        handover: text(HANDOVER).is_some_and(|handover| !handover.trim().is_empty()),
        ..Appointment::default()
    };
    if let Some(epoch) = text(EPOCH) {
        appointment.epoch =
            epoch.trim().parse().map_err(|_| bad(EPOCH, format!("`{epoch}` is no number")))?;
    }
    if let Some(record) = text(RECORD) {
        let record: Value = serde_json::from_str(record).map_err(|error| bad(RECORD, error.to_string()))?;
        let optional = |key: &str| match record.get(key) {
            Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.as_str())),
            _ => Err(bad(RECORD, format!("its `{key}` is no text"))),
        };
        appointment.primary = optional("primary")?.map(ServerId::new);
        appointment.cluster = optional("cluster")?.map(Arc::from);
    }
    Ok(appointment)
}

/// What people want, as they wrote it.
///
/// # Errors
/// When what it says cannot be understood.
pub(crate) fn wishes(state: &ConfigMap) -> Result<Wishes, BadState> {
    let text = |key: &str| state.data.as_ref().and_then(|data| data.get(key)).map(|text| text.trim());
    let switchover = match text(SWITCHOVER).filter(|text| !text.is_empty()) {
        None => None,
        Some(wish) => Some(read_wish(wish).ok_or_else(|| BadState {
            key: SWITCHOVER,
            why: format!("`{wish}` is not {{\"id\": .., \"to\": ..}}"),
        })?),
    };
    Ok(Wishes { paused: text(PAUSE) == Some("true"), switchover })
}

fn read_wish(text: &str) -> Option<Wish> {
    let wish: Value = serde_json::from_str(text).ok()?;
    let id = wish.get("id")?.as_str().filter(|id| !id.is_empty())?;
    let to = match wish.get("to") {
        None | Some(Value::Null) => None,
        Some(to) => Some(ServerId::new(to.as_str()?)),
    };
    let force = match wish.get("force") {
        None => false,
        Some(force) => force.as_bool()?,
    };
    Some(Wish { id: Arc::from(id), to, force })
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Waits,
    Runs { from: String, to: String },
    Done { primary: String },
    Failed { why: String },
}

/// Reads the answer to a wish.
///
/// # Errors
/// When the ConfigMap cannot be read or understood.
pub(crate) async fn outcome(access: &Access, name: &str, wish: &Wish) -> Result<Outcome, Error> {
    let api = access.api::<ConfigMap>();
    let state = access.ask(Call::core("get", CONFIG_MAPS), api.get(name)).await?;
    Ok(answer(&state, wish)?)
}

fn answer(state: &ConfigMap, wish: &Wish) -> Result<Outcome, BadState> {
    let Some(record) = state.data.as_ref().and_then(|data| data.get(RECORD)) else {
        return Ok(Outcome::Waits);
    };
    let record: Value =
        serde_json::from_str(record).map_err(|error| BadState { key: RECORD, why: error.to_string() })?;
    let ours = |key: &str| record.get(key).filter(|part| part["id"] == *wish.id);
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    if let Some(ended) = ours("ended") {
        return Ok(match &ended["failure"] {
            Value::Null => Outcome::Done { primary: text(&record["primary"]) },
            why => Outcome::Failed { why: text(why) },
        });
    }
    Ok(match ours("handover") {
        Some(running) => Outcome::Runs { from: text(&running["from"]), to: text(&running["to"]) },
        None => Outcome::Waits,
    })
}

/// Asks for a switchover.
///
/// # Errors
/// When the ConfigMap cannot be changed: it is the controller that creates it.
pub(crate) async fn wish(access: &Access, name: &str, wish: &Wish) -> Result<(), Error> {
    let mut text = json!({"id": &*wish.id, "to": wish.to.as_ref().map(ServerId::as_str)});
    // A controller from before that was known takes it for a planned one, and then does nothing about a dead primary.
    if wish.force {
        text["force"] = json!(true);
    }
    patch(access, name, json!({"data": {SWITCHOVER: text.to_string()}})).await
}

/// Takes a wish back, unless another one has taken its place. One that is being fulfilled goes on.
///
/// # Errors
/// As [`wish`].
pub(crate) async fn withdraw(access: &Access, name: &str, wish: &Wish) -> Result<(), Error> {
    let api = access.api::<ConfigMap>();
    let state = access.ask(Call::core("get", CONFIG_MAPS), api.get(name)).await?;
    if wishes(&state)?.switchover.as_ref() != Some(wish) {
        return Ok(());
    }
    // With the version that was read: the removal is of this wish, or it fails.
    let version = state.metadata.resource_version;
    let change = json!({"metadata": {"resourceVersion": version}, "data": {SWITCHOVER: null}});
    patch(access, name, change).await
}

/// Pauses the controller, or lets it go on.
///
/// # Errors
/// As [`wish`].
pub(crate) async fn pause(access: &Access, name: &str, paused: bool) -> Result<(), Error> {
    let value = if paused { json!("true") } else { Value::Null };
    patch(access, name, json!({"data": {PAUSE: value}})).await
}

/// A merge patch of these keys alone: what the controller writes at the same time stays.
async fn patch(access: &Access, name: &str, change: Value) -> Result<(), Error> {
    let api = access.api::<ConfigMap>();
    let (parameters, change) = (PatchParams::default(), Patch::Merge(&change));
    access.ask(Call::core("patch", CONFIG_MAPS), api.patch(name, &parameters, &change)).await?;
    Ok(())
}

const CONFIG_MAPS: &str = "configmaps";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &[(&str, &str)]) -> Result<Appointment, BadState> {
        let data = data.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        appointment(&ConfigMap { data: Some(data), ..ConfigMap::default() })
    }

    #[test]
    fn what_a_record_appoints() {
        assert_eq!(appointment(&ConfigMap::default()), Ok(Appointment::default()));
        let record =
            r#"{"cluster":"c","bootstrapped":true,"primary":"mysql-1","primary_uuid":null,"watermark":""}"#;
        let appointed = Appointment {
            primary: Some(ServerId::new("mysql-1")),
            cluster: Some(Arc::from("c")),
            epoch: 7,
            handover: false,
        };
        assert_eq!(read(&[(RECORD, record), (EPOCH, "7")]), Ok(appointed.clone()));
        let running = [(RECORD, record), (EPOCH, "7"), (HANDOVER, "mysql-2")];
        assert_eq!(read(&running), Ok(Appointment { handover: true, ..appointed }));
        assert_eq!(read(&[(RECORD, r#"{"cluster":null,"primary":null}"#)]), Ok(Appointment::default()));
    }

    #[test]
    fn an_unreadable_record_is_no_empty_one() {
        for data in [(EPOCH, "x"), (RECORD, ""), (RECORD, "{}"), (RECORD, r#"{"cluster":1,"primary":null}"#)]
        {
            assert!(read(&[data]).is_err(), "{data:?}");
        }
    }

    #[test]
    fn what_people_want() {
        let read = |data: &[(&str, &str)]| {
            let data = data.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
            wishes(&ConfigMap { data: Some(data), ..ConfigMap::default() })
        };
        let wish = |to: Option<&str>| Some(Wish { id: "a".into(), to: to.map(ServerId::new), force: false });
        let forced = wish(Some("mysql-1")).map(|wish| Wish { force: true, ..wish });
        for (data, paused, switchover) in [
            (vec![], false, None),
            (vec![(PAUSE, "true")], true, None),
            (vec![(PAUSE, "false"), (SWITCHOVER, "")], false, None),
            (vec![(SWITCHOVER, r#"{"id":"a","to":"mysql-1"}"#)], false, wish(Some("mysql-1"))),
            (vec![(SWITCHOVER, r#"{"id":"a","to":null}"#)], false, wish(None)),
            (vec![(SWITCHOVER, r#"{"id":"a","to":"mysql-1","force":true}"#)], false, forced),
        ] {
            assert_eq!(read(&data), Ok(Wishes { paused, switchover }), "{data:?}");
        }
        for text in ["mysql-1", "{}", r#"{"id":""}"#, r#"{"id":"a","to":1}"#, r#"{"id":"a","force":"no"}"#] {
            assert!(read(&[(SWITCHOVER, text)]).is_err(), "{text}");
        }
    }

    #[test]
    fn what_became_of_a_wish() {
        let wish = Wish { id: "a".into(), to: None, force: false };
        let check = |record: &str, expected: Outcome| {
            let data = [(RECORD.to_owned(), record.to_owned())].into();
            let state = ConfigMap { data: Some(data), ..ConfigMap::default() };
            assert_eq!(answer(&state, &wish), Ok(expected), "{record}");
        };
        check(r#"{"primary":"mysql-0"}"#, Outcome::Waits);
        check(r#"{"ended":{"id":"b","failure":null},"handover":null}"#, Outcome::Waits);
        let (from, to) = ("mysql-0".to_owned(), "mysql-1".to_owned());
        check(r#"{"handover":{"id":"a","from":"mysql-0","to":"mysql-1"}}"#, Outcome::Runs { from, to });
        let primary = "mysql-1".to_owned();
        check(r#"{"primary":"mysql-1","ended":{"id":"a","failure":null}}"#, Outcome::Done { primary });
        check(r#"{"ended":{"id":"a","failure":"why"}}"#, Outcome::Failed { why: "why".to_owned() });
    }
}
