//! The accounts and the marker that are written on the primary; replication and clone carry them on.

use std::time::Duration;

use super::error::Error;
use super::session::{Login, Session, first, quoted};
use crate::model::access::{Account, ServerTls};
use crate::model::server::Address;
use crate::model::version::Version;

/// The accounts to create, each for any host.
#[derive(Clone, Debug)]
pub(crate) struct AccountPlan {
    /// Ours: probes, replication, clone on both of its sides.
    pub(crate) ours: Account,
    /// The replicas' threads.
    pub(crate) replication: Account,
    /// The proxies' account for probes, where it is one to be created.
    pub(crate) probes: Option<Account>,
    /// A developer's account with a schema to begin with, where one is wanted.
    pub(crate) application: Option<(Account, String)>,
}

/// BACKUP_ADMIN is what a donor asks of the account that clones from it, CLONE_ADMIN what the recipient asks.
/// <https://dev.mysql.com/doc/refman/9.7/en/privileges-provided.html>
const OURS: &str = "\
BACKUP_ADMIN, CLONE_ADMIN, CONNECTION_ADMIN, PERSIST_RO_VARIABLES_ADMIN, REPLICATION_SLAVE_ADMIN, SERVICE_CONNECTION_ADMIN, \
SYSTEM_VARIABLES_ADMIN, CREATE USER, PROCESS, RELOAD, REPLICATION CLIENT, REPLICATION SLAVE, SHOW DATABASES, SHUTDOWN";

/// What a developer's account may: schemas of its own and all that is in them, and a look at the server.
const APPLICATION: &str = "\
SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, CREATE VIEW, SHOW VIEW, TRIGGER, EVENT, EXECUTE, \
CREATE ROUTINE, ALTER ROUTINE, CREATE TEMPORARY TABLES, LOCK TABLES, PROCESS, REPLICATION CLIENT, CREATE USER, RELOAD";

/// What the account that probes may: see how a server is, and no data.
const PROBES: &str = "PROCESS, REPLICATION CLIENT";

/// Servers that have the right to see the bodies of routines, and no data with them.
const SINCE_SHOW_ROUTINE: Version = Version::mysql(8, 0, 20);

impl AccountPlan {
    /// Those that applications do not use.
    pub(crate) fn own(&self) -> impl Iterator<Item = &Account> {
        [&self.ours, &self.replication].into_iter().chain(&self.probes)
    }
}

/// Creates what is missing, and gives each of our accounts the plan's password where it has another one, which stays good
/// until it is discarded. Needs a server that takes writes.
/// <https://dev.mysql.com/doc/refman/9.7/en/password-management.html#dual-passwords>
pub(crate) async fn create_accounts(
    session: &mut Session,
    plan: &AccountPlan,
    tls: &ServerTls,
    deadline: Duration,
) -> Result<(), Error> {
    // Two that do this at the same time would retain the new password as the old one. The lock ends with the session.
    session.execute("DO GET_LOCK('readwright.accounts', 10)").await?;
    for account in plan.own() {
        if !logs_in(session.address(), account, tls, deadline).await? {
            set_password(session, account).await?;
        }
    }
    let ours = name(&plan.ours);
    session.execute(&format!("GRANT {OURS} ON *.* TO {ours}")).await?;
    for schema in ["performance_schema", "mysql", "sys"] {
        session.execute(&format!("GRANT SELECT ON {schema}.* TO {ours}")).await?;
    }
    session.execute(&format!("GRANT INSERT, DELETE ON mysql.plugin TO {ours}")).await?;
    session.execute(&format!("GRANT ALL ON ctl.* TO {ours}")).await?;
    grant_show_routine(session, &ours).await?;

    let replication = name(&plan.replication);
    session.execute(&format!("GRANT REPLICATION SLAVE ON *.* TO {replication}")).await?;

    if let Some(account) = &plan.probes {
        let probes = name(account);
        session.execute(&format!("GRANT {PROBES} ON *.* TO {probes}")).await?;
        for schema in ["performance_schema", "ctl"] {
            session.execute(&format!("GRANT SELECT ON {schema}.* TO {probes}")).await?;
        }
        grant_show_routine(session, &probes).await?;
    }

    if let Some((account, schema)) = &plan.application {
        let (application, schema) = (name(account), schema.replace('`', "``"));
        session.execute(&format!("CREATE DATABASE IF NOT EXISTS `{schema}`")).await?;
        let password = account.password.reveal();
        for verb in ["CREATE USER IF NOT EXISTS", "ALTER USER"] {
            let sql = format!("{verb} {application} IDENTIFIED BY {}", quoted(password));
            session.execute_secret(&sql, password).await?;
        }
        session.execute(&format!("GRANT {APPLICATION} ON *.* TO {application}")).await?;
    }
    session.execute("DO RELEASE_LOCK('readwright.accounts')").await
}

async fn grant_show_routine(session: &mut Session, account: &str) -> Result<(), Error> {
    if session.version() < SINCE_SHOW_ROUTINE {
        return Ok(());
    }
    session.execute(&format!("GRANT SHOW_ROUTINE ON *.* TO {account}")).await
}

/// The server lets this account in with this password.
pub(crate) async fn logs_in(
    address: &Address,
    account: &Account,
    tls: &ServerTls,
    deadline: Duration,
) -> Result<bool, Error> {
    let login = Login::new(account.clone(), tls, deadline);
    match Session::open(address, &login).await {
        Ok(session) => {
            session.close().await;
            Ok(true)
        }
        Err(error) if error.denied() => Ok(false),
        Err(error) => Err(error),
    }
}

async fn set_password(session: &mut Session, account: &Account) -> Result<(), Error> {
    let user = quoted(&account.user);
    let known = format!("SELECT COUNT(*) FROM mysql.user WHERE User = {user} AND Host = '%'");
    let rows = session.rows(&known).await?;
    let known: u32 = session.fields(first(&rows, session.address())?).value(0)?;
    // Servers before 8.0.14 have one password to an account.
    let retained = if session.version() < Version::mysql(8, 0, 14) { "" } else { " RETAIN CURRENT PASSWORD" };
    let (verb, retained) = if known == 0 { ("CREATE USER", "") } else { ("ALTER USER", retained) };
    let password = account.password.reveal();
    let sql = format!("{verb} {} IDENTIFIED BY {}{retained}", name(account), quoted(password));
    session.execute_secret(&sql, password).await
}

/// Those of our accounts whose password before is still good.
pub(crate) async fn with_old_password<'a>(
    session: &mut Session,
    plan: &'a AccountPlan,
) -> Result<Vec<&'a Account>, Error> {
    let sql = "SELECT User FROM mysql.user WHERE Host = '%' \
               AND JSON_CONTAINS_PATH(User_attributes, 'one', '$.additional_password')";
    let rows = session.rows(sql).await?;
    let users: Vec<String> =
        rows.iter().map(|row| session.fields(row).text(0)).collect::<Result<_, Error>>()?;
    Ok(plan.own().filter(|account| users.contains(&account.user)).collect())
}

pub(crate) async fn discard_old_password(session: &mut Session, account: &Account) -> Result<(), Error> {
    session.execute(&format!("ALTER USER {} DISCARD OLD PASSWORD", name(account))).await
}

/// Writes the cluster's id, unless there is one already: a marker never changes. Gives the id that stands.
pub(crate) async fn create_marker(session: &mut Session, id: &str) -> Result<String, Error> {
    session.execute("CREATE DATABASE IF NOT EXISTS ctl").await?;
    session
        .execute(
            "CREATE TABLE IF NOT EXISTS ctl.cluster (id CHAR(36) NOT NULL PRIMARY KEY, \
             created TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)",
        )
        .await?;
    let insert = "INSERT INTO ctl.cluster (id) SELECT * FROM (SELECT ";
    let unless = " AS id) AS mark WHERE NOT EXISTS (SELECT 1 FROM ctl.cluster)";
    session.execute(&format!("{insert}{}{unless}", quoted(id))).await?;
    let rows = session.rows("SELECT id FROM ctl.cluster LIMIT 1").await?;
    let row = first(&rows, session.address())?;
    session.fields(row).text(0)
}

/// The account's name as SQL.
fn name(account: &Account) -> String {
    format!("{}@'%'", quoted(&account.user))
}
