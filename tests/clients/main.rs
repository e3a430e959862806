//! Drivers of many languages, as applications use them, through the proxy to real servers: `checks.tsv` says what each has
//! to do, `scripts/client-tools` brings the drivers. A program prints `ok CHECK`, or `none CHECK why` for what its driver
//! cannot do; anything else fails its test. Where a language is missing a test says SKIPPED; with CI set it fails.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use support::cluster::{APP, Cluster, ROOT};
use support::proxy::Proxy;
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

mod suites;
#[path = "../support/mod.rs"]
mod support;

#[test]
fn mysql_mysqldump_and_mysqlslap() {
    check("cli", None, |_| program(sources("cli").join("checks"), &[]));
}

#[test]
fn mysql_async() {
    check("mysql_async", Some("rust"), |tools| program(tools.join("clients"), &["mysql_async"]));
}

#[test]
fn sqlx() {
    check("sqlx", Some("rust"), |tools| program(tools.join("clients"), &["sqlx"]));
}

#[test]
fn pymysql() {
    check("pymysql", Some("python"), |tools| python(tools, &["dbapi.py", "pymysql"]));
}

#[test]
fn mysqlclient() {
    check("mysqlclient", Some("python"), |tools| python(tools, &["dbapi.py", "mysqlclient"]));
}

#[test]
fn mysql_connector_python() {
    check("mysql-connector-python", Some("python"), |tools| {
        python(tools, &["dbapi.py", "mysql-connector-python"])
    });
}

#[test]
fn sqlalchemy() {
    check("sqlalchemy", Some("python"), |tools| python(tools, &["orm.py"]));
}

#[test]
fn mysql2() {
    check("mysql2", Some("node"), |tools| node(tools, "mysql2.js"));
}

#[test]
fn typeorm() {
    check("typeorm", Some("node"), |tools| node(tools, "orm.js"));
}

#[test]
fn go_sql_driver() {
    check("go-sql-driver", Some("go"), |tools| program(tools.join("clients"), &["driver"]));
}

#[test]
fn gorm() {
    check("gorm", Some("go"), |tools| program(tools.join("clients"), &["gorm"]));
}

#[test]
fn connector_j_behind_hikaricp() {
    check("connector-j", Some("java"), |tools| {
        let path = format!("{0}/target/classes:{0}/target/dependency/*", tools.display());
        program("java", &["-cp", &path, "Client"])
    });
}

fn program(path: impl AsRef<Path>, arguments: &[&str]) -> Command {
    let mut command = Command::new(path.as_ref());
    command.args(arguments);
    command
}

fn python(tools: &Path, arguments: &[&str]) -> Command {
    let mut command = program(tools.join("venv/bin/python"), &["-B", "-W", "ignore::DeprecationWarning"]);
    command.args(arguments).current_dir(sources("python"));
    command
}

fn node(tools: &Path, script: &str) -> Command {
    let mut command = program("node", &[script]);
    command.current_dir(sources("node")).env("NODE_PATH", tools.join("node_modules"));
    command
}

fn sources(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(language)
}

/// What the tests share: the servers, and a proxy in front of them for each kind of connection.
struct Scene {
    cluster: &'static Cluster,
    plain: Proxy,
    encrypted: Proxy,
}

impl Scene {
    async fn enter() -> &'static Self {
        static SCENE: OnceCell<Scene> = OnceCell::const_new();
        SCENE.get_or_init(Self::make).await
    }

    async fn make() -> Self {
        let cluster = Cluster::shared().await;
        allow(cluster).await;
        let rows: String = (0..1000).map(|number| format!("row {number}\n")).collect();
        fs::write(cluster.folder().join("rows.txt"), rows).expect("the folder is ours");
        let proxy = async |tls| Proxy::start(cluster, &format!("client_tls: {{mode: {tls}}}")).await;
        let (plain, encrypted) = (proxy("disabled").await, proxy("required").await);
        // Some drivers log in without TLS only where their password is known, as with a server.
        drop(plain.connect(APP).await);
        Self { cluster, plain, encrypted }
    }
}

/// What drivers need of the servers.
async fn allow(cluster: &Cluster) {
    for ordinal in 0..cluster.servers().len() {
        let mut root = cluster.connect(ordinal, ROOT).await;
        for setting in ["local_infile = ON", "general_log = OFF", "binlog_transaction_compression = ON"] {
            root.query_drop(format!("SET GLOBAL {setting}")).await.expect("root may");
        }
    }
}

/// Runs a program without and with TLS, each time in a schema of its own.
fn check(client: &str, language: Option<&str>, command: impl Fn(&Path) -> Command) {
    support::run(async {
        let tools = match language {
            None => PathBuf::new(),
            Some(language) => match fetched("client-tools", &[language]).await {
                Ok(tools) => tools,
                Err(reason) if std::env::var_os("CI").is_none() => {
                    return eprintln!("SKIPPED {client}: {reason}");
                }
                Err(reason) => panic!("{client} cannot be tested: {reason}"),
            },
        };
        let scene = Scene::enter().await;
        for (tls, proxy) in [("off", &scene.plain), ("on", &scene.encrypted)] {
            let schema = format!("{}_{tls}", client.replace('-', "_"));
            let sql = include_str!("schema.sql");
            scene.cluster.script(&format!("CREATE DATABASE {schema}; USE {schema};\n{sql}")).await;
            let programs = scene.cluster.home().installation().client("mysql").expect("there is one");
            let run = command(&tools)
                .env("CLIENT_HOST", "127.0.0.1")
                .env("CLIENT_PORT", proxy.port().to_string())
                .env("CLIENT_USER", APP.user)
                .env("CLIENT_PASSWORD", APP.password)
                .env("CLIENT_SCHEMA", &schema)
                .env("CLIENT_TLS", tls)
                .env("CLIENT_ROWS", scene.cluster.folder().join("rows.txt"))
                .env("CLIENT_PROGRAMS", programs.parent().expect("a program is in a folder"))
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output();
            let output = timeout(Duration::from_secs(600), run).await.expect("in time").expect("it runs");
            judge(&format!("{client}, TLS {tls}"), &output);
            scene.cluster.script(&format!("DROP DATABASE {schema}")).await;
        }
    });
}

/// Every check of `checks.tsv` must be done, or be said to be none of this driver's.
fn judge(run: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    let found: BTreeMap<&str, &str> = said
        .lines()
        .filter_map(|line| {
            let (how, rest) = line.split_once(' ')?;
            Some((rest.split(' ').next()?, how))
        })
        .collect();
    let wrong: Vec<&str> = include_str!("checks.tsv")
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(check, _)| check)
        .filter(|check| !matches!(found.get(check), Some(&("ok" | "none"))))
        .collect();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(wrong.is_empty() && output.status.success(), "{run}: {wrong:?}\n{said}\n{complaints}");
}

/// The folder that one of `scripts/` prints, which is filled at the first time. An error is what this machine lacks.
async fn fetched(script: &str, arguments: &[&str]) -> Result<PathBuf, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
    let run = program(path, arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(Duration::from_secs(1800), run).await.expect("in time").expect("it runs");
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())),
        Some(3) => Err(complaints),
        _ => panic!("scripts/{script} {arguments:?}: {complaints}"),
    }
}
