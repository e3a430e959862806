//! The record as text, for wherever it is kept. An unknown or damaged text is an error, never an empty record: an empty
//! one would allow a new first primary.

use std::sync::Arc;

use serde_json::{Value, json};

use super::world::Record;
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
        })
        .to_string()
    }

    pub(crate) fn from_text(text: &str) -> Result<Self, BadRecord> {
        let value: Value = serde_json::from_str(text).map_err(|error| BadRecord(error.to_string()))?;
        let optional = |key: &str| match value.get(key) {
            Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(Arc::<str>::from(text.as_str()))),
            _ => Err(BadRecord(format!("`{key}` is no text"))),
        };
        let bootstrapped = value.get("bootstrapped").and_then(Value::as_bool);
        let watermark = optional("watermark")?.unwrap_or_default();
        Ok(Self {
            cluster: optional("cluster")?,
            bootstrapped: bootstrapped.ok_or_else(|| BadRecord("`bootstrapped` is missing".to_owned()))?,
            primary: optional("primary")?.map(|name| ServerId::new(&name)),
            primary_uuid: optional("primary_uuid")?,
            watermark: GtidSet::parse(&watermark).map_err(|error| BadRecord(error.to_string()))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::story;
    use super::*;

    #[test]
    fn records_come_back_as_they_were() {
        for record in [Record::default(), story::well().record] {
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
