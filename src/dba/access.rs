//! The accounts and the marker that are written once, on the first primary; replication and clone carry them on.

use super::error::Error;
use super::session::{Session, quoted};
use crate::model::access::Account;

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

/// Creates what is missing and sets the passwords. Needs a server that takes writes.
pub(crate) async fn create_accounts(session: &mut Session, plan: &AccountPlan) -> Result<(), Error> {
    let ours = create(session, &plan.ours).await?;
    session.execute(&format!("GRANT {OURS} ON *.* TO {ours}")).await?;
    for schema in ["performance_schema", "mysql", "sys"] {
        session.execute(&format!("GRANT SELECT ON {schema}.* TO {ours}")).await?;
    }
    session.execute(&format!("GRANT INSERT, DELETE ON mysql.plugin TO {ours}")).await?;
    session.execute(&format!("GRANT ALL ON ctl.* TO {ours}")).await?;

    let replication = create(session, &plan.replication).await?;
    session.execute(&format!("GRANT REPLICATION SLAVE ON *.* TO {replication}")).await?;

    if let Some(account) = &plan.probes {
        let probes = create(session, account).await?;
        session.execute(&format!("GRANT PROCESS, REPLICATION CLIENT ON *.* TO {probes}")).await?;
        for schema in ["performance_schema", "ctl"] {
            session.execute(&format!("GRANT SELECT ON {schema}.* TO {probes}")).await?;
        }
    }

    if let Some((account, schema)) = &plan.application {
        let schema = schema.replace('`', "``");
        session.execute(&format!("CREATE DATABASE IF NOT EXISTS `{schema}`")).await?;
        let application = create(session, account).await?;
        session.execute(&format!("GRANT {APPLICATION} ON *.* TO {application}")).await?;
    }
    Ok(())
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
    let row = super::session::first(&rows, session.address())?;
    session.fields(row).text(0)
}

/// The account's name as SQL.
async fn create(session: &mut Session, account: &Account) -> Result<String, Error> {
    let name = format!("{}@'%'", quoted(&account.user));
    let password = account.password.reveal();
    for verb in ["CREATE USER IF NOT EXISTS", "ALTER USER"] {
        let sql = format!("{verb} {name} IDENTIFIED BY {}", quoted(password));
        session.execute_secret(&sql, password).await?;
    }
    Ok(name)
}
