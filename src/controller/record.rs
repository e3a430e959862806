//! The record as text, for wherever it is kept. An unknown or damaged text is an error, never an empty record: an empty
//! one would allow a new first primary.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::plan::Change;
use super::world::{Ended, Handover, Overwriting, Record};
use crate::model::appointment::Appointment;
use crate::model::gtid::GtidSet;
use crate::model::server::ServerId;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the controller's record cannot be read: {0}")]
pub(crate) struct BadRecord(String);

impl Record {
    pub(crate) fn to_text(&self) -> String {
        json!({
            "cluster": self.cluster.as_deref(),
            "bootstrapped": self.bootstrapped,
            "primary": self.primary.as_ref().map(ServerId::as_str),
            "primary_uuid": self.primary_uuid.as_deref(),
            "watermark": self.watermark.to_string(),
            "epoch": self.epoch,
            "handover": self.handover.as_ref().map(|handover| json!({
                "from": handover.from.as_str(), "to": handover.to.as_str(), "id": &*handover.id,
            })),
            "overwriting": self.overwriting.iter().map(|(id, begun)| {
                (id.to_string(), json!({"uuid": &*begun.uuid, "before": &*begun.before}))
            }).collect::<Map<String, Value>>(),
            "ended": self.ended.as_ref().map(|ended| json!({
                "id": &*ended.id, "failure": ended.failure.as_deref(),
            })),
        })
        .to_string()
    }

    pub(crate) fn from_text(text: &str) -> Result<Self, BadRecord> {
        let value: Value = serde_json::from_str(text).map_err(|error| BadRecord(error.to_string()))?;
        let optional = |key: &str| optional_of(&value, key);
        let bootstrapped = value.get("bootstrapped").and_then(Value::as_bool);
        let watermark = optional("watermark")?.unwrap_or_default();
        Ok(Self {
            cluster: optional("cluster")?,
            bootstrapped: bootstrapped.ok_or_else(|| BadRecord("`bootstrapped` is missing".to_owned()))?,
            primary: optional("primary")?.map(|name| ServerId::new(&name)),
            primary_uuid: optional("primary_uuid")?,
            watermark: GtidSet::parse(&watermark).map_err(|error| BadRecord(error.to_string()))?,
            // Records from before there were switchovers lack the rest.
            epoch: match value.get("epoch") {
                None => 0,
                Some(epoch) => epoch.as_u64().ok_or_else(|| BadRecord("`epoch` is no number".to_owned()))?,
            },
            handover: match value.get("handover") {
                None | Some(Value::Null) => None,
                Some(handover) => Some(Handover {
                    from: ServerId::new(&text_of(handover, "from")?),
                    to: ServerId::new(&text_of(handover, "to")?),
                    id: text_of(handover, "id")?,
                }),
            },
            overwriting: match value.get("overwriting") {
                None => BTreeMap::new(),
                Some(servers) => overwriting_of(servers)?,
            },
            ended: match value.get("ended") {
                None | Some(Value::Null) => None,
                Some(ended) => {
                    Some(Ended { id: text_of(ended, "id")?, failure: optional_of(ended, "failure")? })
                }
            },
        })
    }

    /// The record with this change of a switchover. Each is complete by itself: whoever reads it goes on from there.
    pub(super) fn after(&self, change: &Change) -> Self {
        let mut record = self.clone();
        let ended = |id: &Arc<str>, failure: Option<&Arc<str>>| {
            Some(Ended { id: Arc::clone(id), failure: failure.map(Arc::clone) })
        };
        match change {
            Change::Begin { handover } => record.handover = Some(handover.clone()),
            Change::Appoint { server, uuid, executed } => {
                record.primary = Some(server.clone());
                record.primary_uuid = Some(Arc::clone(uuid));
                record.watermark.union(executed);
                record.epoch += 1;
            }
            Change::GiveUp { id, server, uuid, executed, .. } => {
                record.primary = Some(server.clone());
                record.primary_uuid = Some(Arc::clone(uuid));
                // What is lost is not asked for any more.
                record.watermark = executed.clone();
                record.epoch += 1;
                record.handover = None;
                record.ended = ended(id, None);
            }
            Change::End => record.ended = record.handover.take().and_then(|done| ended(&done.id, None)),
            Change::Abandon { why } => {
                record.ended = record.handover.take().and_then(|tried| ended(&tried.id, Some(why)));
            }
            Change::Refuse { id, why } => record.ended = ended(id, Some(why)),
        }
        record
    }

    /// What proxies need to know of it.
    pub(crate) fn appointment(&self) -> Appointment {
        Appointment {
            primary: self.primary.clone(),
            cluster: self.cluster.clone(),
            epoch: self.epoch,
            handover: self.handover.is_some(),
        }
    }
}

fn overwriting_of(servers: &Value) -> Result<BTreeMap<ServerId, Overwriting>, BadRecord> {
    let servers = servers.as_object();
    let servers = servers.ok_or_else(|| BadRecord("`overwriting` is no object".to_owned()))?;
    let entry = |(id, begun): (&String, &Value)| {
        let begun = Overwriting { uuid: text_of(begun, "uuid")?, before: text_of(begun, "before")? };
        Ok((ServerId::new(id), begun))
    };
    servers.iter().map(entry).collect()
}

fn optional_of(value: &Value, key: &str) -> Result<Option<Arc<str>>, BadRecord> {
    match value.get(key) {
        Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(Arc::from(text.as_str()))),
        _ => Err(BadRecord(format!("`{key}` is no text"))),
    }
}

fn text_of(value: &Value, key: &str) -> Result<Arc<str>, BadRecord> {
    optional_of(value, key)?.ok_or_else(|| BadRecord(format!("`{key}` is missing")))
}

#[cfg(test)]
mod tests {
    use super::super::story;
    use super::*;

    #[test]
    fn records_come_back_as_they_were() {
        let well = story::well().record;
        let (from, to) = (story::id(0), story::id(1));
        let running = Record {
            epoch: 7,
            handover: Some(Handover { from, to, id: "wish".into() }),
            ended: Some(Ended { id: "before".into(), failure: Some("why".into()) }),
            ..well.clone()
        };
        let begun = Overwriting { uuid: "a".into(), before: "".into() };
        let copying = Record { overwriting: [(story::id(2), begun)].into(), ..well.clone() };
        let done = Record { ended: Some(Ended { id: "wish".into(), failure: None }), ..well.clone() };
        for record in [Record::default(), well, running, copying, done] {
            assert_eq!(Record::from_text(&record.to_text()), Ok(record));
        }
    }

    #[test]
    fn a_damaged_record_is_no_empty_record() {
        for text in ["", "{}", "null", r#"{"bootstrapped":true}"#, r#"{"cluster":1,"bootstrapped":false}"#] {
            assert!(Record::from_text(text).is_err(), "{text}");
        }
    }
}
