//! One connection of ours to one server, with a deadline on every call. A connection that missed a deadline is dropped
//! and never used again: `mysql_async` would hand the late answer to the next statement.

use std::time::Duration;

use mysql_async::prelude::{FromValue, Queryable};
use mysql_async::{ClientIdentity, Conn, OptsBuilder, Row, SslOpts};
use tokio::time::timeout;

use super::error::Error;
use crate::model::access::{Account, Credential, Secret, ServerTls, TlsMode};
use crate::model::gtid::GtidSet;
use crate::model::leadership::Mandate;
use crate::model::server::Address;
use crate::model::version::Version;

/// Microseconds since 1970, by the clock of the server that gave them.
pub(crate) type Micros = u64;

/// How to log in to a server.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) account: Account,
    /// Tried where the server does not know the account's password yet.
    pub(crate) before: Option<Secret>,
    pub(crate) tls: ServerTls,
    /// Of the connect with the login, and of each statement.
    pub(crate) deadline: Duration,
}

impl Login {
    pub(crate) fn new(credential: impl Into<Credential>, tls: &ServerTls, deadline: Duration) -> Self {
        let Credential { account, before } = credential.into();
        Self { account, before, tls: tls.clone(), deadline }
    }
}

pub(crate) struct Session {
    address: Address,
    deadline: Duration,
    /// Zero in a guest's session, which does not ask.
    version: Version,
    /// Asked before every statement.
    mandate: Mandate,
    /// What a MariaDB replica had received when that last changed, and when that was by its own clock.
    heard: Option<(String, Micros)>,
    /// None once a call failed in a way that leaves the connection in doubt.
    conn: Option<Conn>,
}

/// The first with `server_uid`, by which a server is known.
const OLDEST_MARIADB: Version = Version { major: 10, minor: 11, patch: 6, mariadb: true };

/// What a statement gave, as text, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Rows { columns: Vec<String>, rows: Vec<Vec<Option<String>>> },
    Done { affected: u64 },
}

/// One row, read by position. Problems name the column.
pub(super) struct Fields<'a> {
    address: &'a Address,
    row: &'a Row,
}

impl Session {
    /// As [`open_for_probes`](Self::open_for_probes), for statements that MySQL only understands.
    pub(crate) async fn open(address: &Address, login: &Login) -> Result<Self, Error> {
        let session = Self::open_for_probes(address, login).await?;
        if session.version.mariadb {
            let version = session.version;
            session.close().await;
            return Err(Error::NotMysql(address.clone(), version));
        }
        Ok(session)
    }

    /// Connects and logs in, with settings that our own statements rely on.
    pub(crate) async fn open_for_probes(address: &Address, login: &Login) -> Result<Self, Error> {
        // Literals are written for an empty sql_mode, timestamps are read as UTC, and a server's own limits for its
        // applications must not make it look dead.
        let settings =
            ["SET SESSION sql_mode = '', time_zone = '+00:00', autocommit = 1, sql_big_selects = 1, \
             sql_select_limit = 18446744073709551615, sql_safe_updates = 0"];
        let mut session = match (Self::connect(address, login, None, &settings).await, &login.before) {
            (Err(error), Some(before)) if error.denied() => {
                let account = Account { user: login.account.user.clone(), password: before.clone() };
                let login = Login { account, before: None, ..login.clone() };
                Self::connect(address, &login, None, &settings).await?
            }
            (outcome, _) => outcome?,
        };
        // The driver's own reading of the version does not tell MariaDB.
        let rows = session.rows("SELECT @@version").await?;
        session.version = session.fields(first(&rows, address)?).parsed(0, Version::parse)?;
        let oldest = if session.version.mariadb { OLDEST_MARIADB } else { Version::mysql(8, 0, 0) };
        if session.version < oldest {
            let version = session.version;
            session.close().await;
            return Err(Error::TooOld(address.clone(), version));
        }
        Ok(session)
    }

    /// Connects and logs in as an application does, for statements of people.
    pub(crate) async fn guest(address: &Address, login: &Login, schema: &str) -> Result<Self, Error> {
        Self::connect(address, login, Some(schema), &[]).await
    }

    async fn connect(
        address: &Address,
        login: &Login,
        schema: Option<&str>,
        settings: &[&str],
    ) -> Result<Self, Error> {
        let connect = |tls: Option<SslOpts>| {
            let opts = options(address, login, tls).db_name(schema).init(settings.to_vec());
            async move {
                timeout(login.deadline, Conn::new(opts))
                    .await
                    .map_err(|_| Error::Timeout(address.clone(), login.deadline))
            }
        };
        let conn = match connect(tls_options(&login.tls)).await? {
            Err(error) if login.tls.mode == TlsMode::Preferred && no_tls_offered(&error) => {
                connect(None).await?
            }
            outcome => outcome,
        };
        let conn = conn.map_err(|error| login_error(address, login, error))?;
        Ok(Self {
            address: address.clone(),
            deadline: login.deadline,
            version: Version::mysql(0, 0, 0),
            mandate: Mandate::Unlimited,
            heard: None,
            conn: Some(conn),
        })
    }

    /// From now on no statement is begun that the mandate does not cover.
    pub(crate) fn under(self, mandate: &Mandate) -> Self {
        Self { mandate: mandate.clone(), ..self }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// When something was last received, if this is what was received by now.
    pub(super) fn heard(&mut self, signs: String, clock: Micros) -> Micros {
        match &self.heard {
            Some((before, at)) if *before == signs => *at,
            _ => self.heard.insert((signs, clock)).1,
        }
    }

    pub(super) fn last_heard(&self) -> Option<Micros> {
        self.heard.as_ref().map(|(_, at)| *at)
    }

    /// False when the last failure cost the connection: open another.
    pub(crate) fn usable(&self) -> bool {
        self.conn.is_some()
    }

    /// The other deadline counts for the statements that follow.
    pub(crate) fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Says goodbye, briefly.
    pub(crate) async fn close(mut self) {
        if let Some(conn) = self.conn.take() {
            discard(conn).await;
        }
    }

    /// Runs a statement whose answer does not matter.
    pub(crate) async fn execute(&mut self, sql: &str) -> Result<(), Error> {
        self.call(async move |conn| conn.query_drop(sql).await).await
    }

    /// Runs a statement that holds `secret`, which no error will show.
    pub(super) async fn execute_secret(&mut self, sql: &str, secret: &str) -> Result<(), Error> {
        // The server quotes the literal as we wrote it.
        let literal = quoted(secret);
        self.execute(sql).await.map_err(|error| error.scrubbed(&literal[1..literal.len() - 1]))
    }

    pub(super) async fn rows(&mut self, sql: &str) -> Result<Vec<Row>, Error> {
        self.call(async move |conn| conn.query::<Row, _>(sql).await).await
    }

    /// Runs several statements in one round trip. The first that fails ends them; the results before it are kept.
    pub(super) async fn many(
        &mut self,
        sql: &str,
    ) -> Result<(Vec<Vec<Row>>, Option<mysql_async::ServerError>), Error> {
        self.call(async move |conn| {
            let mut sets = Vec::new();
            let mut result = match conn.query_iter(sql).await {
                Ok(result) => result,
                Err(mysql_async::Error::Server(error)) => return Ok((sets, Some(error))),
                Err(error) => return Err(error),
            };
            loop {
                match result.collect::<Row>().await {
                    Ok(rows) => sets.push(rows),
                    Err(mysql_async::Error::Server(error)) => return Ok((sets, Some(error))),
                    Err(error) => return Err(error),
                }
                if result.is_empty() {
                    // A failure of a later statement waits here; left there, the next call would meet it.
                    return match result.drop_result().await {
                        Ok(()) => Ok((sets, None)),
                        Err(mysql_async::Error::Server(error)) => Ok((sets, Some(error))),
                        Err(error) => Err(error),
                    };
                }
            }
        })
        .await
    }

    /// Runs a statement of a person and gives its first result as text.
    pub(crate) async fn ask(&mut self, sql: &str) -> Result<Answer, Error> {
        self.call(async move |conn| {
            let mut result = conn.query_iter(sql).await?;
            let columns: Vec<String> =
                result.columns_ref().iter().map(|column| column.name_str().into_owned()).collect();
            let affected = result.affected_rows();
            let rows: Vec<Row> = result.collect().await?;
            result.drop_result().await?;
            if columns.is_empty() {
                return Ok(Answer::Done { affected });
            }
            let texts = |row: Row| row.unwrap_raw().into_iter().map(|value| value.and_then(shown)).collect();
            let rows = rows.into_iter().map(texts).collect();
            Ok(Answer::Rows { columns, rows })
        })
        .await
    }

    pub(super) fn fields<'a>(&'a self, row: &'a Row) -> Fields<'a> {
        Fields { address: &self.address, row }
    }

    async fn call<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut Conn) -> mysql_async::Result<T>,
    ) -> Result<T, Error> {
        if !self.mandate.holds() {
            return Err(Error::NoMandate(self.address.clone()));
        }
        // Taken out for the call: if the caller is cancelled, the connection goes with it.
        let Some(mut conn) = self.conn.take() else {
            return Err(Error::Lost(
                self.address.clone(),
                "it was closed after an earlier failure".to_owned(),
            ));
        };
        let outcome = timeout(self.deadline, call(&mut conn)).await;
        match outcome {
            Ok(Ok(value)) => {
                self.conn = Some(conn);
                Ok(value)
            }
            Ok(Err(mysql_async::Error::Server(error))) => {
                self.conn = Some(conn);
                let mysql_async::ServerError { code, message, .. } = error;
                Err(Error::Server { address: self.address.clone(), code, message })
            }
            Ok(Err(error)) => {
                discard(conn).await;
                Err(Error::Lost(self.address.clone(), error.to_string()))
            }
            Err(_) => {
                discard(conn).await;
                Err(Error::Timeout(self.address.clone(), self.deadline))
            }
        }
    }
}

impl<'a> Fields<'a> {
    /// The value in this column; None for NULL.
    pub(super) fn optional<T: FromValue>(&self, column: usize) -> Result<Option<T>, Error> {
        match self.row.get_opt::<Option<T>, _>(column) {
            Some(Ok(value)) => Ok(value),
            Some(Err(_)) | None => Err(self.bad(column)),
        }
    }

    pub(super) fn value<T: FromValue>(&self, column: usize) -> Result<T, Error> {
        self.optional(column)?.ok_or_else(|| self.bad(column))
    }

    /// Text, empty for NULL. Bytes that are no UTF-8 are replaced: these texts are for people.
    pub(super) fn text(&self, column: usize) -> Result<String, Error> {
        let bytes: Option<Vec<u8>> = self.optional(column)?;
        Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
    }

    pub(super) fn parsed<T>(&self, column: usize, parse: impl Fn(&str) -> Option<T>) -> Result<T, Error> {
        parse(&self.text(column)?).ok_or_else(|| self.bad(column))
    }

    pub(super) fn gtids(&self, column: usize) -> Result<GtidSet, Error> {
        GtidSet::parse(&self.text(column)?)
            .map_err(|error| Error::Unexpected(self.address.clone(), error.to_string()))
    }

    /// Where the column of this name is.
    pub(super) fn column(&self, name: &str) -> Result<usize, Error> {
        let found = self.row.columns_ref().iter().position(|column| column.name_str() == name);
        found.ok_or_else(|| Error::Unexpected(self.address.clone(), format!("no column {name}")))
    }

    fn bad(&self, column: usize) -> Error {
        let name = self.row.columns_ref().get(column).map_or("?".into(), |column| column.name_str());
        Error::Unexpected(self.address.clone(), format!("column {column} ({name})"))
    }
}

pub(super) fn first<'a>(rows: &'a [Row], address: &Address) -> Result<&'a Row, Error> {
    rows.first().ok_or_else(|| Error::Unexpected(address.clone(), "no row".to_owned()))
}

/// A string literal. Our sessions run without a `sql_mode`, so the backslash escapes.
pub(super) fn quoted(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('\'');
    for character in text.chars() {
        match character {
            '\'' | '\\' => literal.extend(['\\', character]),
            '\0' => literal.push_str("\\0"),
            _ => literal.push(character),
        }
    }
    literal.push('\'');
    literal
}

fn options(address: &Address, login: &Login, tls: Option<SslOpts>) -> OptsBuilder {
    OptsBuilder::default()
        .ip_or_hostname(address.host.as_ref())
        .tcp_port(address.port)
        .user(Some(login.account.user.as_str()))
        .pass(Some(login.account.password.reveal()))
        // Else a loopback connection comes back through the Unix socket that the server names.
        .prefer_socket(false)
        // Given, so that the driver does not spend a round trip on asking for them.
        .max_allowed_packet(Some(16 * 1024 * 1024))
        .wait_timeout(Some(28_800))
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .stmt_cache_size(0)
        .ssl_opts(tls)
}

fn tls_options(tls: &ServerTls) -> Option<SslOpts> {
    let options = match &tls.ca {
        Some(ca) => {
            SslOpts::default().with_root_certs(vec![ca.clone().into()]).with_disable_built_in_roots(true)
        }
        None => SslOpts::default(),
    };
    let options = options.with_client_identity(
        tls.certificate
            .as_ref()
            .map(|files| ClientIdentity::new(files.certificate.clone().into(), files.key.clone().into())),
    );
    match tls.mode {
        TlsMode::Disabled => None,
        TlsMode::Preferred | TlsMode::Required => Some(options.with_danger_accept_invalid_certs(true)),
        TlsMode::VerifyCa => Some(options.with_danger_skip_domain_validation(true)),
        TlsMode::VerifyIdentity => Some(options),
    }
}

fn no_tls_offered(error: &mysql_async::Error) -> bool {
    matches!(error, mysql_async::Error::Driver(mysql_async::DriverError::NoClientSslFlagFromServer))
}

fn login_error(address: &Address, login: &Login, error: mysql_async::Error) -> Error {
    match error {
        // ER_ACCESS_DENIED_ERROR, ER_ACCESS_DENIED_NO_PASSWORD_ERROR, ER_HOST_NOT_PRIVILEGED,
        // ER_MUST_CHANGE_PASSWORD_LOGIN, ER_ACCOUNT_HAS_BEEN_LOCKED.
        mysql_async::Error::Server(error) if matches!(error.code, 1045 | 1698 | 1130 | 1862 | 3118) => {
            Error::Denied {
                address: address.clone(),
                user: login.account.user.clone(),
                code: error.code,
                message: error.message,
            }
        }
        mysql_async::Error::Server(error) => {
            Error::Server { address: address.clone(), code: error.code, message: error.message }
        }
        // For an account that it has not, a server asks for a plugin chosen at random, so that nobody learns which
        // accounts there are. ER_NOT_SUPPORTED_AUTH_MODE is the number for that.
        mysql_async::Error::Driver(mysql_async::DriverError::UnknownAuthPlugin { name }) => Error::Denied {
            address: address.clone(),
            user: login.account.user.clone(),
            code: 1251,
            message: format!("it asks for `{name}`, as for an account that it has not"),
        },
        error => {
            let mut why = innermost(&error);
            // The driver means to overlook the name, and does not recognise the error of today's TLS library.
            if login.tls.mode == TlsMode::VerifyCa && why.contains("not valid for name") {
                why.push_str("; probes need a certificate that names the host, with verify-ca too");
            }
            Error::Unreachable(address.clone(), why)
        }
    }
}

/// The driver wraps each cause in the same words; the last one says what happened.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Closes without waiting for an answer that may never come; dropping a connection would wait for it in a task of
/// the driver's.
async fn discard(conn: Conn) {
    let _ = timeout(Duration::from_millis(100), conn.disconnect()).await;
}

fn shown(value: mysql_async::Value) -> Option<String> {
    match value {
        mysql_async::Value::NULL => None,
        mysql_async::Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(other.as_sql(true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        for (text, literal) in [("", "''"), ("a'b", r"'a\'b'"), (r"a\b", r"'a\\b'"), ("é", "'é'")] {
            assert_eq!(quoted(text), literal);
        }
    }

    #[test]
    fn a_server_that_quotes_a_password_is_scrubbed() {
        let address: Address = "db:3306".parse().expect("an address");
        let error = Error::Server { address, code: 1064, message: "near 'hunter2' at line 1".to_owned() };
        assert!(!error.scrubbed("hunter2").to_string().contains("hunter2"));
    }
}
