//! Replication commands, each safe to repeat. Servers before 8.0.23 get the old spelling of the same statements.

use zeroize::Zeroizing;

use super::error::Error;
use super::session::{Session, quoted};
use crate::model::access::{Account, ServerTls, TlsMode};
use crate::model::server::Address;
use crate::model::version::Version;

/// Where a replica replicates from, and how.
#[derive(Clone, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) address: &'a Address,
    pub(crate) account: &'a Account,
    pub(crate) tls: &'a ServerTls,
}

/// Points the server at `source` and starts both threads; whatever channel it had is forgotten first, with its relay
/// logs: GTIDs say what is missing, and the source has it.
/// <https://dev.mysql.com/doc/refman/9.7/en/change-replication-source-to.html>
pub(crate) async fn follow(session: &mut Session, source: &Source<'_>) -> Result<(), Error> {
    drop_channel(session).await?;
    let password = source.account.password.reveal();
    let sql = change_source(session.version(), source);
    session.execute_secret(&sql, password).await?;
    start(session).await
}

/// Starts both threads with the channel as it is.
pub(crate) async fn start(session: &mut Session) -> Result<(), Error> {
    let words = Words::of(session.version());
    session.execute(&format!("START {}", words.replica)).await
}

/// Gives the channel the account's password where it has another one; what it has received stays. True when it had.
pub(crate) async fn renew_password(session: &mut Session, account: &Account) -> Result<bool, Error> {
    let sql = "SELECT User_name, User_password FROM mysql.slave_master_info WHERE Channel_name = ''";
    let rows = session.rows(sql).await?;
    let Some(row) = rows.first() else { return Ok(false) };
    let fields = session.fields(row);
    let password = account.password.reveal();
    if fields.text(0)? == account.user && Zeroizing::new(fields.text(1)?).as_str() == password {
        return Ok(false);
    }
    let Words { replica, source, change, .. } = Words::of(session.version());
    session.execute(&format!("STOP {replica} IO_THREAD")).await?;
    let (user, literal) = (quoted(&account.user), quoted(password));
    let sql = format!("{change} {source}_USER = {user}, {source}_PASSWORD = {literal}");
    session.execute_secret(&sql, password).await?;
    session.execute(&format!("START {replica} IO_THREAD")).await?;
    Ok(true)
}

/// From its next restart on the server replicates only when it is told to: by then its source may be another one.
pub(crate) async fn stay_stopped(session: &mut Session) -> Result<(), Error> {
    let words = Words::of(session.version());
    session.execute(&format!("SET PERSIST_ONLY {} = ON", words.skip_start)).await
}

/// Gives the server another `server_id`, for good. Threads that know it by the old one are stopped.
pub(crate) async fn set_server_id(session: &mut Session, id: u32) -> Result<(), Error> {
    session.execute(&format!("SET PERSIST server_id = {id}")).await?;
    let words = Words::of(session.version());
    session.execute(&format!("STOP {}", words.replica)).await
}

/// Stops replication and forgets the channel, also one that came with a clone.
pub(crate) async fn drop_channel(session: &mut Session) -> Result<(), Error> {
    let words = Words::of(session.version());
    session.execute(&format!("STOP {}", words.replica)).await?;
    session.execute(&format!("RESET {} ALL", words.replica)).await
}

/// Nothing more is received; what was received is still applied.
pub(crate) async fn stop_receiving(session: &mut Session) -> Result<(), Error> {
    let words = Words::of(session.version());
    session.execute(&format!("STOP {} IO_THREAD", words.replica)).await
}

/// Refuses writes of everybody but the replication threads, until the server restarts. Waits for open transactions,
/// so the session's deadline bounds it.
pub(crate) async fn fence(session: &mut Session) -> Result<(), Error> {
    session.execute("SET GLOBAL super_read_only = ON").await
}

/// Allows writes until the server restarts. Never persisted: a server that comes back asks first.
pub(crate) async fn set_writable(session: &mut Session) -> Result<(), Error> {
    session.execute("SET GLOBAL super_read_only = OFF").await?;
    session.execute("SET GLOBAL read_only = OFF").await
}

/// How servers spell it, from a version on. The oldest come first.
#[derive(Clone, Copy, Debug)]
struct Words {
    since: Version,
    replica: &'static str,
    source: &'static str,
    change: &'static str,
    public_key: &'static str,
    skip_start: &'static str,
}

const WORDS: [Words; 3] = [
    Words {
        since: Version::mysql(0, 0, 0),
        replica: "SLAVE",
        source: "MASTER",
        change: "CHANGE MASTER TO",
        public_key: "GET_MASTER_PUBLIC_KEY",
        skip_start: "skip_slave_start",
    },
    Words { since: Version::mysql(8, 0, 23), skip_start: "skip_slave_start", ..NEW },
    NEW,
];

const NEW: Words = Words {
    since: Version::mysql(8, 0, 26),
    replica: "REPLICA",
    source: "SOURCE",
    change: "CHANGE REPLICATION SOURCE TO",
    public_key: "GET_SOURCE_PUBLIC_KEY",
    skip_start: "skip_replica_start",
};

impl Words {
    fn of(version: Version) -> Self {
        WORDS.into_iter().rev().find(|words| version >= words.since).unwrap_or(WORDS[0])
    }
}

/// The retry count is written out because servers differ: 8.4 gives up after ten tries. A primary that comes back is
/// found within a second, for a day.
fn change_source(version: Version, source: &Source<'_>) -> String {
    let Words { source: word, change, public_key, .. } = Words::of(version);
    let encrypted = match source.tls.mode {
        // The source's certificate is not ours to check from here: its authority lies on the replica's own disk.
        TlsMode::Required | TlsMode::VerifyCa | TlsMode::VerifyIdentity => 1,
        TlsMode::Disabled | TlsMode::Preferred => 0,
    };
    format!(
        "{change} {word}_HOST = {host}, {word}_PORT = {port}, {word}_USER = {user}, {word}_PASSWORD = {password}, \
         {word}_AUTO_POSITION = 1, {word}_SSL = {encrypted}, {public_key} = 1, {word}_HEARTBEAT_PERIOD = 2, \
         {word}_CONNECT_RETRY = 1, {word}_RETRY_COUNT = 86400",
        host = quoted(&source.address.host),
        port = source.address.port,
        user = quoted(&source.account.user),
        password = quoted(source.account.password.reveal()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::access::Secret;

    #[test]
    fn spelling_follows_the_version() {
        let address: Address = "mysql-0.mysql:3306".parse().expect("an address");
        let account = Account { user: "repl".to_owned(), password: Secret::new("it's".to_owned()) };
        let tls = ServerTls { mode: TlsMode::Preferred, ca: None, certificate: None };
        let check = |version: Version, expected: &[&str]| {
            let sql = change_source(version, &Source { address: &address, account: &account, tls: &tls });
            for part in expected {
                assert!(sql.contains(part), "{sql} lacks {part}");
            }
        };
        check(
            Version::mysql(9, 7, 4),
            &[
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'mysql-0.mysql'",
                r"SOURCE_PASSWORD = 'it\'s'",
                "GET_SOURCE_",
            ],
        );
        check(Version::mysql(8, 0, 22), &["CHANGE MASTER TO MASTER_HOST", "GET_MASTER_PUBLIC_KEY = 1"]);
        for (patch, replica, skip_start) in [
            (17, "SLAVE", "skip_slave_start"),
            (22, "SLAVE", "skip_slave_start"),
            (23, "REPLICA", "skip_slave_start"),
            (25, "REPLICA", "skip_slave_start"),
            (26, "REPLICA", "skip_replica_start"),
        ] {
            let words = Words::of(Version::mysql(8, 0, patch));
            assert_eq!((words.replica, words.skip_start), (replica, skip_start), "8.0.{patch}");
        }
    }
}
