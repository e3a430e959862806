//! The controller's record as everybody may read it: the one ConfigMap, and what in it names the primary. An unreadable
//! record is an error, never an empty one: an empty one would let discovery name somebody else.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

use crate::model::appointment::Appointment;
use crate::model::server::ServerId;

/// The record's text: cluster, primary, watermark.
pub(crate) const RECORD: &str = "record";
/// Counts appointments.
pub(crate) const EPOCH: &str = "epoch";
/// There while a switchover runs: new writes wait.
pub(crate) const HANDOVER: &str = "handover";

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
}
