//! The controller's ConfigMap in the hands of who leads. A leader begins by writing its name into it; from then on
//! whatever an earlier leader still wants to write fails. What people write into it at the same time stays.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;

use super::client::{self, Access, Call};
use crate::model::leadership::Mandate;

/// Who writes the record: what another one has written, it reads first.
const WRITER: &str = "writer";

/// Keys and their values; None removes one.
pub(crate) type Changes = Vec<(&'static str, Option<String>)>;

pub(crate) struct Keeper {
    access: Access,
    name: String,
    writer: Arc<str>,
    mandate: Mandate,
    /// As last read or written; None: there is none.
    known: Option<ConfigMap>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Api(client::Error),
    #[error("another process leads by now")]
    Superseded,
    #[error("the ConfigMap changes all the time")]
    Busy,
}

/// Tries in a row while others write.
const TRIES: u32 = 5;

impl Keeper {
    /// Takes over what is there, or makes it.
    ///
    /// # Errors
    /// When the ConfigMap cannot be read or written, or the mandate has ended.
    pub(crate) async fn take_over(
        access: Access,
        name: String,
        writer: Arc<str>,
        mandate: Mandate,
    ) -> Result<Self, Error> {
        let mut keeper = Self { access, name, writer, mandate, known: None };
        for _ in 0..TRIES {
            keeper.read().await?;
            if keeper.put(Vec::new()).await? {
                return Ok(keeper);
            }
        }
        Err(Error::Busy)
    }

    /// The value of a key, as last read or written.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.known.as_ref()?.data.as_ref()?.get(key).map(String::as_str)
    }

    /// Writes all of these or nothing; durable when it returns. After an error the changes may have been written all the
    /// same: take over anew.
    ///
    /// # Errors
    /// When another process has taken over, or as [`Keeper::take_over`].
    pub(crate) async fn write(&mut self, changes: &Changes) -> Result<(), Error> {
        for _ in 0..TRIES {
            if self.put(changes.clone()).await? {
                return Ok(());
            }
            self.read().await?;
            if self.known.is_some() && self.value(WRITER) != Some(&*self.writer) {
                return Err(Error::Superseded);
            }
        }
        Err(Error::Busy)
    }

    async fn read(&mut self) -> Result<(), Error> {
        let api = self.access.api::<ConfigMap>();
        self.known = match self.access.ask(call("get"), api.get(&self.name)).await {
            Ok(known) => Some(known),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(Error::Api(error)),
        };
        Ok(())
    }

    /// False when what is known is not the newest.
    async fn put(&mut self, changes: Changes) -> Result<bool, Error> {
        if !self.mandate.holds() {
            return Err(Error::Superseded);
        }
        let (api, parameters) = (self.access.api::<ConfigMap>(), PostParams::default());
        let written = match &self.known {
            Some(known) => {
                let next = self.with(known.clone(), changes);
                self.access.ask(call("update"), api.replace(&self.name, &parameters, &next)).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let next = self.with(ConfigMap { metadata, ..ConfigMap::default() }, changes);
                self.access.ask(call("create"), api.create(&parameters, &next)).await
            }
        };
        match written {
            Ok(written) => {
                self.known = Some(written);
                Ok(true)
            }
            Err(error) if error.is_conflict() || error.is_missing() => Ok(false),
            Err(error) => Err(Error::Api(error)),
        }
    }

    fn with(&self, mut state: ConfigMap, changes: Changes) -> ConfigMap {
        let data = state.data.get_or_insert_default();
        data.insert(WRITER.to_owned(), self.writer.to_string());
        for (key, value) in changes {
            match value {
                Some(value) => data.insert(key.to_owned(), value),
                None => data.remove(key),
            };
        }
        state
    }
}

const fn call(verb: &'static str) -> Call {
    Call::core(verb, "configmaps")
}
