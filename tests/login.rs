//! Logins through the built proxy: the real `mysql` client, real accounts, and what becomes of a login when they change.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use support::client::mysql;
use support::cluster::{APP, Account, Cluster, ROOT, connect};
use support::proxy::Proxy;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

mod support;

/// A user of a test. `%` so that it may come from anywhere.
const ANN: Account = Account { user: "ann", password: "secret" };

/// How to reach the proxy, further arguments, and what the client prints or how its error begins.
type Case<'a> = (&'a [&'a str], &'a [&'a str], Result<&'a str, &'a str>);

#[test]
fn the_mysql_client_in_every_way() {
    support::run(async {
        let cluster = Cluster::start(1).await;
        cluster
            .script(
                "CREATE DATABASE shop; CREATE USER ann IDENTIFIED BY 'secret'; CREATE USER nobody; \
                 CREATE USER old IDENTIFIED WITH sha256_password BY 'secret'; \
                 CREATE USER late IDENTIFIED BY 'secret'; CREATE USER later IDENTIFIED BY 'secret'; \
                 CREATE USER closed IDENTIFIED BY 'secret' ACCOUNT LOCK; \
                 GRANT ALL ON shop.* TO ann, old, late, later, nobody",
            )
            .await;
        let socket = cluster.folder().join("proxy.sock");
        let socket = socket.to_str().expect("the folder's name is UTF-8");
        let proxy = Proxy::start(&cluster, &format!("listen: {{socket: \"{socket}\"}}")).await;
        let port = format!("--port={}", proxy.port());
        let tcp = ["--protocol=TCP", "--host=127.0.0.1", &port];
        let unix = ["--protocol=SOCKET", &format!("--socket={socket}")];

        let denied = "ERROR 1045 (28000): Access denied for user";
        let cases: &[Case<'_>] = &[
            // TLS, as the client wants it when it is offered.
            (&tcp, &["-uann", "-psecret"], Ok("ann@%\tNULL")),
            (&tcp, &["-uann", "-psecret", "shop"], Ok("ann@%\tshop")),
            (&tcp, &["-uann", "-psecret", "--ssl-mode=REQUIRED", "--tls-version=TLSv1.2"], Ok("ann@%\tNULL")),
            (&tcp, &["-uann", "-pwrong"], Err(denied)),
            (&tcp, &["-uann"], Err(denied)),
            (
                &tcp,
                &["-uann", "-psecret", "nothing"],
                Err("ERROR 1044 (42000): Access denied for user 'ann'@'%'"),
            ),
            (&tcp, &["-uunknown", "-psecret"], Err(denied)),
            (&tcp, &["-uclosed", "-psecret"], Err("ERROR 3118 (HY000): Access denied for user 'closed'@")),
            (&tcp, &["-unobody"], Ok("nobody@%\tNULL")),
            (&tcp, &["-unobody", "-psecret"], Err(denied)),
            (&tcp, &["-uold", "-psecret"], Ok("old@%\tNULL")),
            (&tcp, &["-uold", "-psecret", "--default-auth=sha256_password"], Ok("old@%\tNULL")),
            // Without TLS the password travels under RSA, once; afterwards it need not travel.
            (&tcp, &["-ulate", "-psecret", "--ssl-mode=DISABLED"], Err("ERROR 2061 (HY000)")),
            (
                &tcp,
                &["-ulate", "-psecret", "--ssl-mode=DISABLED", "--get-server-public-key"],
                Ok("late@%\tNULL"),
            ),
            (&tcp, &["-ulate", "-psecret", "--ssl-mode=DISABLED"], Ok("late@%\tNULL")),
            (&tcp, &["-unobody", "--ssl-mode=DISABLED"], Ok("nobody@%\tNULL")),
            // A Unix socket needs no TLS.
            (&unix, &["-ulater", "-psecret"], Ok("later@%\tNULL")),
            (&unix, &["-ulater", "-psecret", "--ssl-mode=REQUIRED"], Ok("later@%\tNULL")),
            (&unix, &["-ulater", "-pwrong"], Err(denied)),
            (&tcp, &["-uann", "-psecret", "--compression-algorithms=zlib"], Ok("ann@%\tNULL")),
            (&unix, &["-uann", "-psecret", "--compression-algorithms=zstd,uncompressed"], Ok("ann@%\tNULL")),
        ];
        for (link, arguments, expected) in cases {
            let arguments = [*link, arguments].concat();
            let said = mysql(&cluster, &arguments, "SELECT CURRENT_USER(), DATABASE()").await;
            match (&said, expected) {
                (Ok(said), Ok(expected)) => assert_eq!(said, expected, "{arguments:?}"),
                (Err(said), Err(expected)) => assert!(said.starts_with(expected), "{arguments:?}: {said}"),
                _ => panic!("{arguments:?}: {said:?}\n{}", proxy.log()),
            }
        }
        assert!(!proxy.log().contains("secret"), "passwords are never printed");
        let mut greeting = vec![0; 30];
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        stream.read_exact(&mut greeting).await.unwrap();
        let greeting = String::from_utf8_lossy(&greeting).into_owned();
        assert!(greeting.contains("-readwright\0"), "{greeting:?}");
    });
}

/// Towards a server without TLS the password travels under the server's RSA key.
#[test]
fn passwords_under_a_servers_key() {
    support::run(async {
        let cluster = Cluster::start(0).await;
        cluster
            .script(
                "CREATE USER ann IDENTIFIED BY 'secret'; CREATE USER old IDENTIFIED WITH sha256_password BY 'secret'",
            )
            .await;
        let proxy = Proxy::start(&cluster, "server_tls: {mode: disabled}").await;
        let port = format!("--port={}", proxy.port());
        for user in ["ann", "old"] {
            for (password, expected) in [("wrong", None), ("secret", Some("Ssl_cipher")), ("wrong", None)] {
                let login = [format!("-u{user}"), format!("-p{password}")];
                let arguments = ["--protocol=TCP", "--host=127.0.0.1", &port, &login[0], &login[1]];
                let said = mysql(&cluster, &arguments, "SHOW STATUS LIKE 'Ssl_cipher'").await;
                match (&said, expected) {
                    (Ok(said), Some(expected)) => assert_eq!(said, expected, "{user}"),
                    (Err(said), None) => assert!(said.starts_with("ERROR 1045 (28000)"), "{user}: {said}"),
                    _ => panic!("{user}: {said:?}\n{}", proxy.log()),
                }
            }
        }
    });
}

#[test]
fn accounts_change() {
    support::run(async {
        let cluster = Cluster::start(1).await;
        // Long enough that a login would rest on the last check if nothing told the proxy of a change.
        let proxy = Proxy::start(&cluster, "users: {recheck_ms: 600000}").await;
        let login = |password| {
            let account = Account { password, ..ANN };
            let proxy = &proxy;
            async move { proxy.try_connect(account).await.map(drop).map_err(|error| error.to_string()) }
        };
        let denied =
            |outcome: Result<(), String>| outcome.is_err_and(|error| error.contains("Access denied"));
        let mut through = proxy.connect(APP).await;

        assert!(denied(login("secret").await));
        through.query_drop("CREATE USER ann IDENTIFIED BY 'secret'").await.unwrap();
        login("secret").await.expect("a user is there as soon as it is created");
        login("secret").await.expect("and stays");
        assert!(denied(login("wrong").await));
        login("secret").await.expect("a wrong guess makes no difference");
        through.query_drop("ALTER USER ann IDENTIFIED BY 'another'").await.unwrap();
        assert!(denied(login("secret").await), "the old password is worth nothing at once");
        login("another").await.expect("the new one is good");
        through.query_drop("ALTER USER ann ACCOUNT LOCK").await.unwrap();
        let locked = login("another").await.expect_err("the account is locked");
        assert!(locked.contains("Account is locked"), "{locked}");
        through.query_drop("ALTER USER ann ACCOUNT UNLOCK").await.unwrap();
        login("another").await.expect("it is open again");
        through.query_drop("DROP USER ann").await.unwrap();
        assert!(denied(login("another").await));
    });
}

#[test]
fn accounts_change_past_the_proxy() {
    support::run(async {
        let cluster = Cluster::start(0).await;
        let proxy = Proxy::start(&cluster, "users: {recheck_ms: 500}").await;
        cluster.script("CREATE USER ann IDENTIFIED BY 'secret'").await;
        drop(proxy.connect(ANN).await);
        cluster.script("ALTER USER ann IDENTIFIED BY 'another'").await;
        drop(proxy.connect(Account { password: "another", ..ANN }).await);
        cluster.script("DROP USER ann; FLUSH PRIVILEGES").await;
        sleep(Duration::from_millis(600)).await;
        let gone = proxy.try_connect(Account { password: "another", ..ANN }).await.expect_err("it is gone");
        assert!(gone.to_string().contains("Access denied"), "{gone}");
    });
}

/// On a server a session lives on when its password is changed, by itself or by somebody else.
#[test]
fn sessions_outlive_their_passwords() {
    support::run(async {
        let cluster = Cluster::start(1).await;
        cluster.script("CREATE DATABASE d; CREATE TABLE d.t (id INT); CREATE USER ann IDENTIFIED BY 'secret'; GRANT ALL ON d.* TO ann").await;
        let proxy = Proxy::start(&cluster, "pool: {linger_ms: 0}").await;
        let mut root = proxy.connect(ROOT).await;
        let mut own = proxy.connect(ANN).await;
        let mut other = proxy.connect(ANN).await;
        let go_on = async |client: &mut Conn| {
            client.query_drop("INSERT INTO d.t VALUES (1)").await?;
            client.query_drop("SELECT * FROM d.t").await
        };
        go_on(&mut own).await.expect("it may");
        go_on(&mut other).await.expect("it may");
        own.query_drop("SET PASSWORD = 'another'").await.expect("everybody may");
        go_on(&mut own).await.expect("it has its connection");
        // Nobody here has the new password yet.
        let refused = go_on(&mut other).await.expect_err("no new connection").to_string();
        assert!(refused.contains("1045"), "{refused}");
        drop(proxy.connect(Account { password: "another", ..ANN }).await);
        // Whatever is pooled goes.
        root.query_drop("GRANT SELECT ON mysql.user TO ann").await.expect("root may");
        go_on(&mut other).await.expect("it logs in with the new one");
        go_on(&mut own).await.expect("it still has its connection");
    });
}

#[test]
fn a_password_that_has_expired() {
    support::run(async {
        let cluster = Cluster::start(1).await;
        cluster
            .script(
                "CREATE DATABASE d; CREATE TABLE d.t (id INT); CREATE USER ann IDENTIFIED BY 'secret' PASSWORD EXPIRE; \
                 GRANT ALL ON d.* TO ann",
            )
            .await;
        let proxy = Proxy::start(&cluster, "users: {recheck_ms: 0}").await;
        let port = format!("--port={}", proxy.port());
        let ask = async |arguments: &[&str], sql: &str| {
            let always = ["--protocol=TCP", "--host=127.0.0.1", &port, "-uann"];
            mysql(&cluster, &[&always, arguments].concat(), sql).await
        };
        let told = "ERROR 1820 (HY000)";
        // Who cannot handle it is told at the login; others may do one thing.
        ask(&["-psecret"], "SELECT 1").await.expect_err("it has expired");
        proxy.logs("ERROR 1862 (HY000)").await;
        for sql in ["SELECT 1", "INSERT INTO d.t VALUES (1)", "SET @a = 1"] {
            let said =
                ask(&["-psecret", "--connect-expired-password"], sql).await.expect_err("it has expired");
            assert!(said.starts_with(told), "{sql}: {said}");
        }
        let change =
            "ALTER USER USER() IDENTIFIED BY 'another'; INSERT INTO d.t VALUES (1); SELECT COUNT(*) FROM d.t";
        let said = ask(&["-psecret", "--connect-expired-password"], change).await;
        assert_eq!(said.as_deref(), Ok("1"));
        assert_eq!(ask(&["-panother"], "SELECT 'well'").await.as_deref(), Ok("well"));

        // It expires past the proxy, which has connections from before.
        for sql in ["SELECT COUNT(*) FROM d.t", "INSERT INTO d.t VALUES (2)"] {
            ask(&["-panother"], sql).await.expect("it is good");
        }
        cluster.script("ALTER USER ann PASSWORD EXPIRE").await;
        for sql in ["SELECT COUNT(*) FROM d.t", "INSERT INTO d.t VALUES (3)"] {
            let said =
                ask(&["-panother", "--connect-expired-password"], sql).await.expect_err("it has expired");
            assert!(said.starts_with(told), "{sql}: {said}");
        }
    });
}

#[test]
fn an_account_with_a_limit_is_told_of_it() {
    support::run(async {
        let cluster = Cluster::start(0).await;
        cluster.script("CREATE USER ann IDENTIFIED BY 'secret' WITH MAX_USER_CONNECTIONS 1").await;
        let proxy = Proxy::start(&cluster, "").await;
        let direct = cluster.connect(0, ANN).await;
        let refused = proxy.try_connect(ANN).await.expect_err("one more than it may have").to_string();
        assert!(refused.contains("1226") && refused.contains("User 'ann' has exceeded"), "{refused}");
        direct.disconnect().await.expect("a good-bye");

        // The server has a limit too; one connection more is root's.
        let mut root = cluster.connect(0, ROOT).await;
        root.query_drop("SET GLOBAL max_connections = 1").await.expect("root may");
        let refused = proxy.try_connect(ANN).await.expect_err("the server is full").to_string();
        assert!(refused.contains("1040") && refused.contains("Too many connections"), "{refused}");
    });
}

#[test]
fn wrong_passwords_are_counted_as_on_the_server() {
    support::run(async {
        let cluster = Cluster::start(1).await;
        let proxy = Proxy::start(&cluster, "users: {recheck_ms: 600000}").await;
        let create = "DROP USER IF EXISTS ann; CREATE USER ann IDENTIFIED BY 'secret' \
                      FAILED_LOGIN_ATTEMPTS 3 PASSWORD_LOCK_TIME 1";
        let mut told = Vec::new();
        for port in [cluster.server(0).port(), proxy.port()] {
            cluster.script(create).await;
            let mut codes = Vec::new();
            for password in ["secret", "1", "2", "secret", "3", "4", "5", "secret"] {
                let refused = connect(port, Account { password, ..ANN }).await.err();
                codes.push(refused.map(|error| match error {
                    mysql_async::Error::Server(error) => error.code,
                    error => panic!("{error}"),
                }));
            }
            told.push(codes);
        }
        assert_eq!(told[0].last(), Some(&Some(3955)), "it is locked");
        assert_eq!(told[0], told[1]);
    });
}

#[test]
fn many_first_logins_at_once() {
    support::run(async {
        let cluster = Cluster::start(0).await;
        cluster.script("CREATE USER ann IDENTIFIED BY 'secret'").await;
        let proxy = Proxy::start(&cluster, "").await;
        let logins = (0..100).map(|number| {
            let account = if number % 2 == 0 { ANN } else { APP };
            let proxy = &proxy;
            async move {
                let mut client = proxy.connect(account).await;
                client.query_first::<String, _>("SELECT CURRENT_USER()").await.unwrap()
            }
        });
        for user in join_all(logins).await {
            assert!(matches!(user.as_deref(), Some("ann@%" | "app@%")), "{user:?}");
        }
    });
}

#[test]
fn a_change_of_user() {
    support::run(async {
        let cluster = Cluster::start(1).await;
        cluster
            .script(
                "CREATE DATABASE shop; CREATE USER ann IDENTIFIED BY 'secret'; GRANT ALL ON shop.* TO ann",
            )
            .await;
        let proxy = Proxy::start(&cluster, "").await;
        let mut client = proxy.connect(APP).await;
        client.query_drop("SET @mine = 7").await.unwrap();
        for _ in 0..2 {
            let to_ann = mysql_async::ChangeUserOpts::new()
                .with_user(Some(ANN.user.to_owned()))
                .with_pass(Some(ANN.password.to_owned()))
                .with_db_name(Some("shop".to_owned()));
            client.change_user(to_ann).await.unwrap();
            let row: Option<(String, String, Option<i64>)> =
                client.query_first("SELECT CURRENT_USER(), DATABASE(), @mine").await.unwrap();
            assert_eq!(row, Some(("ann@%".to_owned(), "shop".to_owned(), None)));
            client.change_user(as_app()).await.unwrap();
            let user: Option<String> = client.query_first("SELECT CURRENT_USER()").await.unwrap();
            assert_eq!(user.as_deref(), Some("app@%"));
        }
        let wrong = as_app().with_pass(Some("wrong".to_owned()));
        let refused = client.change_user(wrong).await.expect_err("the password is wrong");
        assert!(refused.to_string().contains("Access denied"), "{refused}");
        assert!(client.query_drop("SELECT 1").await.is_err(), "the connection is closed");
    });
}

fn as_app() -> mysql_async::ChangeUserOpts {
    mysql_async::ChangeUserOpts::new()
        .with_user(Some(APP.user.to_owned()))
        .with_pass(Some(APP.password.to_owned()))
}

#[test]
fn tls_that_is_demanded() {
    support::run(async {
        let cluster = Cluster::start(0).await;
        // The certificates that mysqld makes for itself name no host.
        let [_, _, ca] = certify(&cluster, "127.0.0.1").await;
        let verify = |mode: &str| format!("server_tls: {{mode: {mode}, ca_file: \"{}\"}}", ca.display());
        for mode in ["verify-ca", "verify-identity"] {
            let overrides = format!("client_tls: {{mode: required}}\n{}", verify(mode));
            let proxy = Proxy::start(&cluster, &overrides).await;
            let plain = proxy.try_connect(APP).await.expect_err("TLS is demanded").to_string();
            assert!(plain.contains("3159") && plain.contains("insecure transport"), "{plain}");
            let port = format!("--port={}", proxy.port());
            let password = format!("-p{}", APP.password);
            let arguments = ["--protocol=TCP", "--host=127.0.0.1", &port, "-uapp", &password];
            let cipher = mysql(&cluster, &arguments, "SHOW STATUS LIKE 'Ssl_cipher'").await;
            let cipher = cipher.expect("a login over TLS");
            assert!(cipher.contains("TLS_"), "the server, too, is reached over TLS: {cipher}");
        }

        // A server that others sign for, or that says it is another host.
        certify(&cluster, "127.0.0.1").await;
        for mode in ["verify-ca", "verify-identity"] {
            nobody_gets_in(&cluster, &verify(mode)).await;
        }
        let [_, _, ca] = certify(&cluster, "mysql-0.elsewhere").await;
        let verify = format!("server_tls: {{mode: verify-identity, ca_file: \"{}\"}}", ca.display());
        nobody_gets_in(&cluster, &verify).await;
    });
}

/// A proxy that trusts no server serves, but lets nobody in.
async fn nobody_gets_in(cluster: &Cluster, overrides: &str) {
    let mut proxy = Proxy::launch(cluster, &format!("{overrides}\nrouting: {{primary_wait_ms: 100}}"));
    let refused = async {
        loop {
            match Conn::new(options(proxy.port())).await {
                Err(mysql_async::Error::Server(error)) => break error,
                Err(_) => sleep(Duration::from_millis(50)).await,
                Ok(_) => panic!("nobody can have checked this login"),
            }
        }
    };
    let refused = timeout(Duration::from_secs(60), refused).await.expect("it starts");
    assert_eq!(refused.code, 1429, "{refused}");
    proxy.terminate();
    proxy.ended(Duration::from_secs(60)).await.expect("it ends when it is told to");
}

/// Gives the server a certificate for `host` of a new CA; the files of its key, of itself and of the CA.
async fn certify(cluster: &Cluster, host: &str) -> [PathBuf; 3] {
    let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(DnType::CommonName, "a CA");
    let ca = CertifiedIssuer::self_signed(parameters, KeyPair::generate().expect("a key")).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec![host.to_owned()])
        .expect("a name")
        .signed_by(&key, &ca)
        .expect("a certificate");
    let mut root = cluster.connect(0, ROOT).await;
    let count = cluster.folder().read_dir().expect("the folder is ours").count();
    let pem = [("ssl_key", key.serialize_pem()), ("ssl_cert", certificate.pem()), ("ssl_ca", ca.pem())];
    let files = pem.map(|(variable, text)| {
        let file = cluster.folder().join(format!("{variable}-{count}.pem"));
        std::fs::write(&file, text).expect("the folder is ours");
        (variable, file)
    });
    for (variable, file) in &files {
        let set = format!("SET GLOBAL {variable} = '{}'", file.display());
        root.query_drop(set).await.expect("the server takes it");
    }
    root.query_drop("ALTER INSTANCE RELOAD TLS").await.expect("the server takes it");
    files.map(|(_, file)| file)
}

#[test]
fn who_shows_a_certificate() {
    support::run(async {
        let cluster = Cluster::start(0).await;
        let theirs = certify(&cluster, "127.0.0.1").await;
        let ours = certify(&cluster, "127.0.0.1").await;
        cluster.script("CREATE USER strict IDENTIFIED BY 'secret' REQUIRE X509").await;
        let ask = async |proxy: &Proxy, arguments: &[&str]| {
            let port = format!("--port={}", proxy.port());
            let always = ["--protocol=TCP", "--host=127.0.0.1", &port, "-ustrict", "-psecret"];
            mysql(&cluster, &[&always, arguments].concat(), "SELECT CURRENT_USER()").await
        };
        let shows = |[key, certificate, _]: &[PathBuf; 3]| {
            [format!("--ssl-key={}", key.display()), format!("--ssl-cert={}", certificate.display())]
        };
        let shows_ours = shows(&ours);
        let shows_ours = shows_ours.each_ref().map(String::as_str);

        // What the client shows to the proxy does not reach the server.
        let proxy = Proxy::start(&cluster, "").await;
        let denied = ask(&proxy, &shows_ours).await.expect_err("the proxy shows none");
        assert!(denied.starts_with("ERROR 1045 (28000): Access denied for user 'strict'"), "{denied}");

        // The probes too.
        cluster.script("ALTER USER monitor REQUIRE X509").await;
        let [key, certificate, ca] = ours.each_ref().map(|file| file.display());
        let proxy = Proxy::start(
            &cluster,
            &format!(
                "server_tls: {{mode: verify-ca, ca_file: {ca}, certificate_file: {certificate}, key_file: {key}}}\n\
                 client_tls: {{mode: verify-ca, ca_file: {ca}}}"
            ),
        )
        .await;
        assert_eq!(ask(&proxy, &shows_ours).await.as_deref(), Ok("strict@%"), "{}", proxy.log());
        let refused = "ERROR 1045 (28000): Access denied: readwright lets in only who shows a certificate";
        let said = ask(&proxy, &[]).await.expect_err("no certificate");
        assert!(said.starts_with(refused), "{said}");
        let said = ask(&proxy, &["--ssl-mode=DISABLED"]).await.expect_err("no TLS");
        assert!(said.starts_with("ERROR 3159 (HY000)"), "{said}");
        let shows_theirs = shows(&theirs);
        let said = ask(&proxy, &shows_theirs.each_ref().map(String::as_str)).await.expect_err("another CA");
        assert!(said.starts_with("ERROR 2013 (HY000)") || said.starts_with("ERROR 2026 (HY000)"), "{said}");
    });
}

fn options(port: u16) -> OptsBuilder {
    OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some(APP.user))
        .pass(Some(APP.password))
        .prefer_socket(false)
}

#[test]
fn the_server_sees_what_the_client_says_of_itself() {
    support::run(async {
        let cluster = Cluster::start(0).await;
        let proxy = Proxy::start(&cluster, "").await;
        let port = format!("--port={}", proxy.port());
        let password = format!("-p{}", APP.password);
        let arguments = ["--protocol=TCP", "--host=127.0.0.1", &port, "-uapp", &password];
        let statement = "SELECT ATTR_NAME, ATTR_VALUE FROM performance_schema.session_connect_attrs \
                         WHERE PROCESSLIST_ID = CONNECTION_ID()";
        let attributes = mysql(&cluster, &arguments, statement).await.expect("a login");
        assert!(attributes.contains("program_name\tmysql\n"), "{attributes}");
        assert!(attributes.contains("_proxy\treadwright "), "{attributes}");
        let mut direct = connect(cluster.server(0).port(), ROOT).await.unwrap();
        let users: Vec<String> =
            direct.query("SELECT DISTINCT PROCESSLIST_USER FROM performance_schema.threads WHERE PROCESSLIST_USER = 'app'").await.unwrap();
        assert_eq!(users, ["app"], "servers see the client's user, not one of ours");
    });
}

/// A server keeps a connection's global privileges as they were when it was opened; so must no new login be given a
/// connection from before they changed.
#[test]
fn rights_that_are_taken_away() {
    support::run(async {
        let cluster = Cluster::start(1).await;
        cluster
            .script("CREATE DATABASE d; CREATE TABLE d.t (id INT); CREATE USER ann IDENTIFIED BY 'secret'; GRANT SELECT ON *.* TO ann")
            .await;
        let proxy = Proxy::start(&cluster, "users: {recheck_ms: 600000}").await;
        let mut through = proxy.connect(ROOT).await;
        let mut before = proxy.connect(ANN).await;
        before.query_drop("SELECT * FROM d.t").await.expect("it may");
        through.query_drop("REVOKE SELECT ON *.* FROM ann").await.unwrap();
        cluster.caught_up().await;
        for _ in 0..3 {
            let mut after = proxy.connect(ANN).await;
            let refused = after.query_drop("SELECT * FROM d.t").await.expect_err("it may no longer");
            assert!(refused.to_string().contains("1142"), "{refused}");
        }
    });
}
