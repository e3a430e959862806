//! Copying a whole server with the clone plugin: <https://dev.mysql.com/doc/refman/9.7/en/clone-plugin-remote.html>.
//! From the moment CLONE INSTANCE begins, the recipient's own data is gone.

use std::num::NonZeroU32;
use std::time::Duration;

use super::error::Error;
use super::session::{Session, quoted};
use crate::model::access::{Account, ServerTls, TlsMode};
use crate::model::server::Address;

/// How CLONE INSTANCE ended, as far as its own connection can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloneEnd {
    /// The server restarts, stops, or cannot be asked any more: whether the copy is complete is known only afterwards.
    AskAfterRestart,
    /// The server said so itself.
    Done,
}

/// A clone lasts as long as it moves; it is judged by its progress, from another connection.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// ER_RESTART_SERVER_FAILED: the data is complete, nothing supervises mysqld, and mysqld stops by itself.
const RESTART_FAILED: u16 = 3707;
/// ER_UDF_EXISTS, which the server answers for a plugin that is there already.
const ALREADY_INSTALLED: u16 = 1125;

/// Installs the plugin where the configuration does not load it. Needs a server that takes writes.
pub(crate) async fn install_clone_plugin(session: &mut Session) -> Result<(), Error> {
    match session.execute("INSTALL PLUGIN clone SONAME 'mysql_clone.so'").await {
        Err(error) if error.code() == Some(ALREADY_INSTALLED) => Ok(()),
        outcome => outcome,
    }
}

/// Ends replication for good and opens the server for what CLONE itself does to the old data, which `super_read_only`
/// would refuse. Applications stay locked out: `read_only` remains.
pub(crate) async fn stop_for_copy(session: &mut Session) -> Result<(), Error> {
    super::replication::drop_channel(session).await?;
    session.execute("SET GLOBAL super_read_only = OFF").await?;
    session.execute("SET GLOBAL read_only = ON").await
}

/// Names the one donor that a clone may come from. `bandwidth` is in MiB/s, of the files and of the network; None is
/// unlimited. Needs the clone plugin.
pub(crate) async fn allow_donor(
    session: &mut Session,
    donor: &Address,
    bandwidth: Option<NonZeroU32>,
) -> Result<(), Error> {
    let donors = quoted(&format!("{}:{}", donor.host.to_ascii_lowercase(), donor.port));
    session.execute(&format!("SET GLOBAL clone_valid_donor_list = {donors}")).await?;
    let limit = bandwidth.map_or(0, NonZeroU32::get);
    for setting in BANDWIDTH {
        session.execute(&format!("SET GLOBAL {setting} = {limit}")).await?;
    }
    Ok(())
}

/// Takes back what was set for a clone that has failed; one that succeeds ends in a restart, which does it.
pub(crate) async fn forget_donor(session: &mut Session) -> Result<(), Error> {
    for setting in ["clone_valid_donor_list"].iter().chain(&BANDWIDTH) {
        session.execute(&format!("SET GLOBAL {setting} = DEFAULT")).await?;
    }
    session.execute("SET GLOBAL super_read_only = ON").await
}

/// <https://dev.mysql.com/doc/refman/9.7/en/clone-plugin-options-variables.html>
const BANDWIDTH: [&str; 2] = ["clone_max_data_bandwidth", "clone_max_network_bandwidth"];

/// Ends a clone into the server that no longer moves; its connection is the one the survey names.
pub(crate) async fn stop_clone(session: &mut Session, process: u64) -> Result<(), Error> {
    session.execute(&format!("KILL QUERY {process}")).await
}

/// Overwrites the server with a copy of `donor`, logging in there with `account`. Uses the session up.
pub(crate) async fn clone_from(
    mut session: Session,
    donor: &Address,
    account: &Account,
    tls: &ServerTls,
) -> Result<CloneEnd, Error> {
    session.set_deadline(LONGEST);
    let encryption = match tls.mode {
        TlsMode::Disabled | TlsMode::Preferred => "",
        TlsMode::Required | TlsMode::VerifyCa | TlsMode::VerifyIdentity => " REQUIRE SSL",
    };
    let sql = format!(
        "CLONE INSTANCE FROM {user}@{host}:{port} IDENTIFIED BY {password}{encryption}",
        user = quoted(&account.user),
        host = quoted(&donor.host.to_ascii_lowercase()),
        port = donor.port,
        password = quoted(account.password.reveal()),
    );
    let outcome = session.execute_secret(&sql, account.password.reveal()).await;
    session.close().await;
    match outcome {
        Ok(()) => Ok(CloneEnd::Done),
        Err(error) if error.code() == Some(RESTART_FAILED) || error.no_answer() => {
            Ok(CloneEnd::AskAfterRestart)
        }
        Err(error) => Err(error),
    }
}
