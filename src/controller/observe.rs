//! One look at every server, all at once, over connections that are kept. Changes nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::world::{LoggedIn, Node, Seen, State};
use crate::dba::{self, Login, Session, Survey};
use crate::model::access::{Credential, ServerTls};
use crate::model::gtid::GtidSet;
use crate::model::leadership::Mandate;
use crate::model::server::{Address, Endpoint, ServerId};

/// How the controller logs in: with its own account, and where that is unknown with the installation's.
#[derive(Clone, Debug)]
pub(crate) struct Logins {
    pub(crate) ours: Credential,
    pub(crate) installation: Option<Credential>,
    pub(crate) tls: ServerTls,
    /// Holds for every session, of looks and of steps.
    pub(crate) mandate: Mandate,
}

impl Logins {
    pub(super) async fn open(
        &self,
        address: &Address,
        deadline: std::time::Duration,
    ) -> Result<(Session, LoggedIn), dba::Error> {
        let login = |credential: &Credential| Login::new(credential.clone(), &self.tls, deadline);
        let denied = match Session::open(address, &login(&self.ours)).await {
            Ok(session) => return Ok((session.under(&self.mandate), LoggedIn::Ours)),
            Err(error) if error.denied() => error,
            Err(error) => return Err(error),
        };
        let Some(installation) = &self.installation else { return Err(denied) };
        let session = Session::open(address, &login(installation)).await?;
        Ok((session.under(&self.mandate), LoggedIn::Installation))
    }

    /// For what our own account cannot do, which is to give rights: it may be there without its own, where setting it up
    /// was interrupted.
    pub(super) async fn open_to_grant(
        &self,
        address: &Address,
        deadline: std::time::Duration,
    ) -> Result<Session, dba::Error> {
        if let Some(installation) = &self.installation {
            match Session::open(address, &Login::new(installation.clone(), &self.tls, deadline)).await {
                Err(error) if error.denied() => {}
                other => return other.map(|session| session.under(&self.mandate)),
            }
        }
        Ok(self.open(address, deadline).await?.0)
    }
}

/// Connections for looking, one to each server.
pub(super) struct Observer {
    logins: Logins,
    deadline: std::time::Duration,
    sessions: HashMap<ServerId, (Session, LoggedIn)>,
    /// When it was asked, and the answer if one came.
    sizes: BTreeMap<ServerId, (Instant, Option<u64>)>,
}

const MEASURE_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// What one look gave.
pub(super) struct Look {
    pub(super) nodes: Vec<Node>,
    /// What the primary had after all others had been asked.
    pub(super) primary_after: Option<GtidSet>,
}

impl Observer {
    pub(super) fn new(logins: Logins, deadline: std::time::Duration) -> Self {
        Self { logins, deadline, sessions: HashMap::new(), sizes: BTreeMap::new() }
    }

    /// `measure`: somebody will ask for [`Self::sizes`].
    pub(super) async fn look(
        &mut self,
        endpoints: &[Endpoint],
        primary: Option<&ServerId>,
        measure: bool,
    ) -> Look {
        let looks = endpoints.iter().map(|endpoint| {
            let kept = self
                .sessions
                .remove(&endpoint.id)
                .filter(|(session, _)| session.usable() && *session.address() == endpoint.address);
            let (logins, deadline) = (&self.logins, self.deadline);
            async move {
                match survey(logins, deadline, endpoint, kept).await {
                    Ok((survey, session, login)) => {
                        let state = State::Seen(Box::new(Seen { survey, login }));
                        (Node { endpoint: endpoint.clone(), state }, Some((session, login)))
                    }
                    Err(error) => {
                        let why = Arc::from(error.to_string());
                        let state =
                            if error.refused() { State::Refused(why) } else { State::Unreachable(why) };
                        (Node { endpoint: endpoint.clone(), state }, None)
                    }
                }
            }
        });
        let mut nodes = Vec::new();
        // Connections to servers that are no longer known go with the old map.
        let mut sessions = HashMap::new();
        for (node, kept) in join_all(looks).await {
            if let Some(kept) = kept {
                sessions.insert(node.endpoint.id.clone(), kept);
            }
            nodes.push(node);
        }
        self.sessions = sessions;
        nodes.sort_by_key(|node| {
            let id = &node.endpoint.id;
            (id.ordinal().unwrap_or(u32::MAX), id.clone())
        });
        if measure {
            self.measure().await;
        }
        let primary_after = match primary.and_then(|id| self.sessions.get_mut(id)) {
            Some((session, _)) => dba::probe(session).await.ok().map(|probe| probe.executed),
            None => None,
        };
        Look { nodes, primary_after }
    }

    /// How much data a copy of a server is, as last asked.
    pub(super) fn sizes(&self) -> BTreeMap<ServerId, u64> {
        self.sizes.iter().filter_map(|(id, (_, bytes))| Some((id.clone(), (*bytes)?))).collect()
    }

    /// Asks at most one server each look, and each server now and then.
    async fn measure(&mut self) {
        self.sizes.retain(|id, _| self.sessions.contains_key(id));
        let due = |at: &Instant| at.elapsed() >= MEASURE_EVERY;
        let next = self.sessions.iter_mut().find(|(id, _)| self.sizes.get(*id).is_none_or(|(at, _)| due(at)));
        if let Some((id, (session, _))) = next {
            let bytes = dba::data_bytes(session).await.ok();
            self.sizes.insert(id.clone(), (Instant::now(), bytes));
        }
    }
}

/// A kept connection may have died unnoticed: one failure on it is answered with a new one.
async fn survey(
    logins: &Logins,
    deadline: std::time::Duration,
    endpoint: &Endpoint,
    kept: Option<(Session, LoggedIn)>,
) -> Result<(Survey, Session, LoggedIn), dba::Error> {
    if let Some((mut session, LoggedIn::Ours)) = kept
        && let Ok(survey) = dba::survey(&mut session).await
    {
        return Ok((survey, session, LoggedIn::Ours));
    }
    let (mut session, login) = logins.open(&endpoint.address, deadline).await?;
    let survey = dba::survey(&mut session).await?;
    Ok((survey, session, login))
}
