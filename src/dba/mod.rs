//! Every statement that we send on our own account: probes, surveys, replication, clone, accounts. The only place that
//! knows `mysql_async`. Nothing here decides anything, and nothing here repeats a statement by itself.

mod access;
mod clone;
mod error;
mod handover;
mod locks;
mod mariadb;
mod mysql;
mod probe;
mod replication;
mod routines;
mod session;
mod survey;

pub(crate) use access::{
    AccountPlan, create_accounts, create_marker, discard_old_password, logs_in, with_old_password,
};
pub(crate) use clone::{
    allow_donor, clone_from, forget_donor, install_clone_plugin, stop_clone, stop_for_copy,
};
pub(crate) use error::Error;
pub(crate) use handover::{
    SNAPSHOT_OF_WRITING, await_executed, begun_transactions, end_session, fence_within, writing_sessions,
};
pub(crate) use locks::named_locks;
#[cfg(test)]
pub(crate) use probe::{Applier, Receiver};
pub(crate) use probe::{Channel, Probe, ThreadError, ThreadState};
pub(crate) use replication::{
    Source, drop_channel, fence, follow, renew_password, set_server_id, set_writable, start, stay_stopped,
    stop_receiving,
};
pub(crate) use routines::{routines, routines_mark, shows_all_routines};
pub(crate) use session::{Answer, Login, Micros, Session};
pub(crate) use survey::{CloneRun, CloneState, Survey, data_bytes, survey};

/// Asks a server once what it is and how it is.
pub(crate) async fn probe(session: &mut Session) -> Result<Probe, Error> {
    match session.version().mariadb {
        true => mariadb::probe(session).await,
        false => mysql::probe(session).await,
    }
}
