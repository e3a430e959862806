//! Our connector against our login, over loopback and Unix sockets.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::*;
use crate::backend::connect::{Connected, Connector, Request};
use crate::config::{ServerTls, TlsMode, Users as UsersConfig};
use crate::model::server::Address;

mod scripted;

/// Stands for a server: knows passwords, and schemas that exist.
#[derive(Default)]
struct Server {
    passwords: Mutex<HashMap<String, Vec<u8>>>,
    is_down: bool,
    asked: Mutex<Vec<String>>,
}

impl Check for Server {
    async fn check(&self, login: ServerLogin<'_>) -> Result<Arc<Beginning>, CheckError> {
        let user = &login.credentials.user;
        self.asked.lock().push(user.to_string());
        if self.is_down {
            return Err(CheckError::from(ConnectError::timed_out()));
        }
        if self.passwords.lock().get(&**user).map(Vec::as_slice) != Some(login.credentials.password()) {
            return Err(CheckError::Refused(ErrPacket::new(1045, "28000", "the server's words")));
        }
        if !matches!(login.schema, None | Some(b"shop")) {
            return Err(CheckError::Refused(ErrPacket::new(1049, "42000", "Unknown database")));
        }
        Ok(Arc::default())
    }
}

fn context(tls: bool, recheck: Duration) -> LoginContext {
    LoginContext {
        tls: tls.then(|| Acceptor::self_signed(None).expect("a certificate")),
        tls_is_needed: false,
        certificate_is_needed: false,
        rsa: RsaKey::generate().expect("a key"),
        users: Users::new(&UsersConfig { known: Vec::new(), recheck }),
    }
}

const MINUTE: Duration = Duration::from_secs(60);

const INTRODUCTION: Introduction<'static> = Introduction {
    server_version: "9.7.0-readwright",
    server_capabilities: Capabilities(u32::MAX),
    collation: 255,
    connection_id: 77,
};

/// How the two ends are connected.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Link {
    Tcp,
    Tls,
    Unix,
}

/// One login of our connector at our login; what came of it on both sides.
async fn pair(
    link: Link,
    context: &LoginContext,
    server: &Server,
    credentials: &Credentials,
    schema: Option<&[u8]>,
) -> (Result<Connected, ConnectError>, Result<LoggedIn, LoginError>) {
    let tls = ServerTls {
        mode: if link == Link::Tls { TlsMode::Required } else { TlsMode::Disabled },
        ca: None,
        certificate: None,
    };
    let connector = Connector::new(&tls, Duration::from_secs(60)).expect("no CA to read");
    let folder = Folder::new();
    let (address, accept): (Address, Listener) = match link {
        Link::Unix => {
            let path = folder.0.join("socket");
            let listener = UnixListener::bind(&path).expect("a socket");
            (Address { host: path.to_string_lossy().into(), port: 1 }, Listener::Unix(listener))
        }
        Link::Tcp | Link::Tls => {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("bound").port();
            (Address { host: "127.0.0.1".into(), port }, Listener::Tcp(listener))
        }
    };
    let attributes = Attributes::default().with("program_name", b"test");
    let request = Request {
        address: &address,
        credentials,
        capabilities: Capabilities::DEPRECATE_EOF | Capabilities::FOUND_ROWS | Capabilities::COMPRESS,
        collation: 45,
        schema,
        attributes: &attributes,
    };
    let front = async {
        let stream = match accept {
            Listener::Tcp(listener) => Stream::tcp(listener.accept().await.expect("a client").0),
            Listener::Unix(listener) => Stream::unix(listener.accept().await.expect("a client").0),
        };
        login(stream, context, INTRODUCTION, server).await
    };
    Box::pin(async { tokio::join!(connector.connect(request), front) }).await
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A folder that is gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let Nonce(name) = Nonce::random().expect("random bytes");
        let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = std::env::temp_dir().join(format!("readwright-{name}"));
        std::fs::create_dir(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn server(users: &[(&str, &[u8])]) -> Server {
    let server = Server::default();
    server.passwords.lock().extend(users.iter().map(|(user, word)| ((*user).to_owned(), word.to_vec())));
    server
}

#[tokio::test]
async fn logins_over_every_link() {
    const LONG: &[u8] = &[b'x'; 200];
    /// User, password, schema, the error's code, and how often the server was asked so far.
    type Case = (&'static str, &'static [u8], Option<&'static [u8]>, Option<u16>, usize);
    for link in [Link::Tcp, Link::Tls, Link::Unix] {
        let context = context(true, MINUTE);
        let server = server(&[("ann", b"secret"), ("bob", b""), ("eve", LONG), ("umlaut", b"p\xe4ss")]);
        let cases: &[Case] = &[
            ("ann", b"secret", None, None, 1),
            ("ann", b"secret", None, None, 1),
            ("ann", b"secret", Some(b"shop"), None, 2),
            ("ann", b"secret", Some(b"shop"), None, 2),
            ("ann", b"secret", Some(b"nothing"), Some(1049), 3),
            ("ann", b"wrong", None, Some(1045), 4),
            ("ann", b"secret", None, None, 5),
            ("ann", b"", None, Some(1045), 6),
            ("bob", b"", None, None, 7),
            ("bob", b"", None, None, 7),
            ("bob", b"secret", None, Some(1045), 8),
            ("eve", LONG, None, None, 9),
            ("eve", LONG, None, None, 9),
            ("umlaut", b"p\xe4ss", None, None, 10),
            ("umlaut", b"p\xe4ss", None, None, 10),
            ("nobody", b"secret", None, Some(1045), 11),
        ];
        for (user, password, schema, code, asked) in cases {
            let case = format!("{link:?} {user} {schema:?} {asked}");
            let (client, front) =
                pair(link, &context, &server, &Credentials::new(*user, password), *schema).await;
            assert_eq!(server.asked.lock().len(), *asked, "{case}");
            match code {
                None => {
                    let client = client.expect(&case);
                    let front = front.expect(&case);
                    assert_eq!(client.thread_id, 77);
                    assert_eq!(client.capabilities, front.capabilities, "{case}");
                    assert!(
                        client.capabilities.contains(Capabilities::DEPRECATE_EOF | Capabilities::FOUND_ROWS)
                    );
                    assert_eq!(client.stream.is_secure(), link != Link::Tcp);
                    let identity = front.identity;
                    assert_eq!(
                        (&*identity.credentials.user, identity.credentials.password()),
                        (*user, *password)
                    );
                    assert_eq!(identity.schema.as_deref(), *schema);
                    assert_eq!(identity.collation, 45);
                    assert_eq!(identity.attributes.find("program_name"), Some(&b"test"[..]));
                }
                Some(code) => {
                    let error = client.expect_err(&case);
                    let server_error = error.server_error().expect(&case);
                    assert_eq!(server_error.code, *code, "{case}");
                    assert_eq!(error.is_access_denied(), *code == 1045);
                    assert!(!error.retry_elsewhere());
                    assert!(matches!(front, Err(LoginError::Refused(error)) if error == *server_error));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_password_changed_elsewhere() {
    let context = context(true, Duration::ZERO);
    let server = server(&[("ann", b"old")]);
    let old = Credentials::new("ann", b"old");
    let new = Credentials::new("ann", b"new");
    for _ in 0..2 {
        pair(Link::Tls, &context, &server, &old, None).await.0.expect("the right password");
    }
    assert_eq!(server.asked.lock().len(), 2, "nothing is believed without asking");
    server.passwords.lock().insert("ann".to_owned(), b"new".to_vec());
    let denied = pair(Link::Tls, &context, &server, &old, None).await.0.expect_err("the old password");
    assert!(denied.is_access_denied());
    assert!(context.users.find("ann").is_none(), "it is forgotten");
    pair(Link::Tls, &context, &server, &new, None).await.0.expect("the new password");
}

#[tokio::test]
async fn a_new_password_works_while_the_old_one_is_remembered() {
    let context = context(true, MINUTE);
    let server = server(&[("ann", b"old")]);
    pair(Link::Tcp, &context, &server, &Credentials::new("ann", b"old"), None).await.0.expect("right");
    server.passwords.lock().insert("ann".to_owned(), b"new".to_vec());
    pair(Link::Tcp, &context, &server, &Credentials::new("ann", b"new"), None).await.0.expect("right");
    let denied = pair(Link::Tcp, &context, &server, &Credentials::new("ann", b"old"), None).await.0;
    assert!(denied.expect_err("the old password").is_access_denied());
}

#[tokio::test]
async fn a_character_set_that_servers_refuse_is_asked_about() {
    let (context, server) = (context(false, MINUTE), server(&[("app", b"secret")]));
    let (credentials, attributes) = (Arc::new(Credentials::new("app", b"secret")), Attributes::default());
    for (collation, asked) in [(45, 1), (35, 2), (54, 3), (183, 4), (45, 4)] {
        let capabilities = Capabilities::NONE;
        let login = ServerLogin {
            credentials: &credentials,
            capabilities,
            collation,
            schema: None,
            attributes: &attributes,
        };
        confirm(&context.users, login, &server).await.expect("the password is right");
        assert_eq!(server.asked.lock().len(), asked, "{collation}");
    }
}

#[tokio::test]
async fn no_server_to_ask() {
    let context = context(false, MINUTE);
    let server = Server { is_down: true, ..server(&[("ann", b"secret")]) };
    let (client, _) = pair(Link::Tcp, &context, &server, &Credentials::new("ann", b"secret"), None).await;
    let error = client.expect_err("nobody let it in");
    let error = error.server_error().expect("an ERR packet");
    assert_eq!(error.code, 1429);
    let text = "readwright: no MySQL server could check this login: the server did not let us in in time";
    assert_eq!(String::from_utf8_lossy(&error.message), text);
}

#[tokio::test]
async fn many_logins_of_a_stale_user_ask_once() {
    let context = context(false, MINUTE);
    let server = server(&[("ann", b"secret")]);
    let credentials = Credentials::new("ann", b"secret");
    pair(Link::Unix, &context, &server, &credentials, None).await.0.expect("the right password");
    context.users.forget_all_verifications();
    let logins = (0..20).map(|_| pair(Link::Unix, &context, &server, &credentials, None));
    for (client, _) in futures_util::future::join_all(logins).await {
        client.expect("the right password");
    }
    assert_eq!(server.asked.lock().len(), 2);
}
