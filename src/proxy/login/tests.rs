//! Our connector, and clients written packet by packet, against our login, over loopback and Unix sockets.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::*;
use crate::backend::connect::{Connected, Connector, Request};
use crate::config::{ServerTls, TlsMode, Users as UsersConfig};
use crate::model::server::Address;
use crate::wire::auth::{answer_caching_sha2, answer_native, encrypt_password};
use crate::wire::packet::{read_packet, write_packet};

/// Stands for a server: knows passwords, and schemas that exist.
#[derive(Default)]
struct Server {
    passwords: Mutex<HashMap<String, Vec<u8>>>,
    is_down: bool,
    asked: Mutex<Vec<String>>,
}

impl Check for Server {
    async fn check(&self, login: ServerLogin<'_>) -> Result<(), CheckError> {
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
        Ok(())
    }
}

fn context(tls: bool, recheck: Duration) -> LoginContext {
    LoginContext {
        tls: tls.then(|| Acceptor::self_signed().expect("a certificate")),
        tls_is_needed: false,
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
    let tls =
        ServerTls { mode: if link == Link::Tls { TlsMode::Required } else { TlsMode::Disabled }, ca: None };
    let connector = Connector::new(&tls, Duration::from_secs(20)).expect("no CA to read");
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
            ("ann", b"secret", None, None, 4),
            ("ann", b"", None, Some(1045), 5),
            ("bob", b"", None, None, 6),
            ("bob", b"", None, None, 6),
            ("bob", b"secret", None, Some(1045), 7),
            ("eve", LONG, None, None, 8),
            ("eve", LONG, None, None, 8),
            ("umlaut", b"p\xe4ss", None, None, 9),
            ("umlaut", b"p\xe4ss", None, None, 9),
            ("nobody", b"secret", None, Some(1045), 10),
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
async fn no_server_to_ask() {
    let context = context(false, MINUTE);
    let server = Server { is_down: true, ..server(&[("ann", b"secret")]) };
    let (client, _) = pair(Link::Tcp, &context, &server, &Credentials::new("ann", b"secret"), None).await;
    let error = client.expect_err("nobody let it in");
    let error = error.server_error().expect("an ERR packet");
    assert_eq!(error.code, 2003);
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

/// A client written packet by packet.
struct Client {
    stream: Stream,
    greeting: Greeting,
}

/// Runs `client` against a login; what came of it on our side. `secure` is a Unix socket, else it is TCP.
async fn scripted<F>(
    secure: bool,
    context: &LoginContext,
    server: &Server,
    client: impl FnOnce(Client) -> F,
) -> Result<LoggedIn, LoginError>
where
    F: Future<Output = ()>,
{
    let (near, far) = if secure {
        let (near, far) = UnixStream::pair().expect("a socket pair");
        (Stream::unix(near), Stream::unix(far))
    } else {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let connect = TcpStream::connect(listener.local_addr().expect("bound"));
        let (near, far) = tokio::join!(connect, listener.accept());
        (Stream::tcp(near.expect("connected")), Stream::tcp(far.expect("accepted").0))
    };
    let client = async {
        let mut stream = near;
        let greeting = read_packet(&mut stream, MAX_PACKET).await.expect("a greeting");
        assert_eq!(greeting.sequence, 0);
        let greeting = Greeting::parse(&greeting.payload).expect("a greeting");
        client(Client { stream, greeting }).await;
    };
    Box::pin(async { tokio::join!(client, login(far, context, INTRODUCTION, server)) }).await.1
}

impl Client {
    fn response(&self, plugin: Plugin, answer: Vec<u8>) -> HandshakeResponse {
        HandshakeResponse {
            capabilities: RELAYED - Capabilities::CONNECT_WITH_DB,
            max_packet: 1 << 24,
            collation: 255,
            user: b"ann".to_vec(),
            answer: Answer::new(answer),
            schema: None,
            plugin: Some(plugin.name().as_bytes().to_vec()),
            attributes: Attributes::default(),
            zstd_level: None,
        }
    }

    async fn send(&mut self, sequence: u8, payload: &[u8]) {
        write_packet(&mut self.stream, sequence, payload).await.expect("written");
    }

    async fn expect(&mut self, sequence: u8) -> Vec<u8> {
        let packet = read_packet(&mut self.stream, MAX_PACKET).await.expect("an answer");
        assert_eq!(packet.sequence, sequence);
        packet.payload
    }

    async fn expect_switch(&mut self, sequence: u8, plugin: Plugin) -> Nonce {
        let switch = AuthSwitch::parse(&self.expect(sequence).await).expect("a switch");
        assert_eq!(switch.plugin, plugin.name());
        let nonce = switch.nonce.expect("a nonce");
        assert_ne!(nonce, self.greeting.nonce);
        nonce
    }

    async fn expect_ok(&mut self, sequence: u8) {
        assert_eq!(self.expect(sequence).await, b"\0\0\0\x02\0\0\0");
    }

    async fn expect_error(&mut self, sequence: u8, code: u16) {
        let error = ErrPacket::parse(&self.expect(sequence).await).expect("an ERR packet");
        assert_eq!(error.code, code, "{error}");
    }
}

fn knowing_ann(context: &LoginContext) -> Server {
    let ann = Arc::new(Credentials::new("ann", b"secret"));
    context.users.learn(&ann, None, context.users.generation());
    server(&[("ann", b"secret")])
}

#[tokio::test]
async fn the_fast_path_is_one_write() {
    let context = context(true, MINUTE);
    let server = knowing_ann(&context);
    let logged_in = scripted(true, &context, &server, async |mut client| {
        let answer = answer_caching_sha2(b"secret", &client.greeting.nonce);
        let response = client.response(Plugin::CachingSha2, answer);
        client.send(1, &response.encode()).await;
        assert_eq!(client.expect(2).await, [AUTH_MORE_DATA, FAST_AUTH_SUCCESS]);
        client.expect_ok(3).await;
    });
    let logged_in = logged_in.await.expect("the right password");
    let known = context.users.find("ann").expect("known");
    assert!(Arc::ptr_eq(&logged_in.identity.credentials, &known.credentials), "sessions share them");
    assert!(server.asked.lock().is_empty());
}

#[tokio::test]
async fn native_clients() {
    let context = context(true, MINUTE);
    let server = knowing_ann(&context);
    let answered = scripted(false, &context, &server, async |mut client| {
        let answer = answer_native(b"secret", &client.greeting.nonce);
        let response = client.response(Plugin::Native, answer);
        client.send(1, &response.encode()).await;
        client.expect_ok(2).await;
    });
    answered.await.expect("known, and proved by the old plugin");

    let waiting = scripted(false, &context, &server, async |mut client| {
        let response = client.response(Plugin::Native, Vec::new());
        client.send(1, &response.encode()).await;
        let nonce = client.expect_switch(2, Plugin::Native).await;
        client.send(3, &answer_native(b"secret", &nonce)).await;
        client.expect_ok(4).await;
    });
    waiting.await.expect("known, and proved once it had its nonce");

    let without_plugins = scripted(false, &context, &server, async |mut client| {
        let answer = answer_native(b"secret", &client.greeting.nonce);
        let mut response = client.response(Plugin::Native, answer);
        response.capabilities = response.capabilities - Capabilities::PLUGIN_AUTH;
        client.send(1, &response.encode()).await;
        client.expect_ok(2).await;
    });
    without_plugins.await.expect("known, and proved by the only way before there were plugins");

    let wrong_without_plugins = scripted(false, &context, &server, async |mut client| {
        let answer = answer_native(b"wrong", &client.greeting.nonce);
        let mut response = client.response(Plugin::Native, answer);
        response.capabilities = response.capabilities - Capabilities::PLUGIN_AUTH;
        client.send(1, &response.encode()).await;
        client.expect_error(2, 1045).await;
    });
    assert!(matches!(wrong_without_plugins.await, Err(LoginError::Refused(_))));

    // Those that nobody knows yet: whoever has no password says so, all others cannot tell theirs.
    server.passwords.lock().insert("bob".to_owned(), Vec::new());
    for (answer, code) in [(Vec::new(), None), (vec![7; 20], Some(1251))] {
        let unknown = scripted(false, &context, &server, async |mut client| {
            let mut response = client.response(Plugin::Native, answer);
            response.user = b"bob".to_vec();
            response.capabilities = response.capabilities - Capabilities::PLUGIN_AUTH;
            client.send(1, &response.encode()).await;
            match code {
                Some(code) => client.expect_error(2, code).await,
                None => client.expect_ok(2).await,
            }
        });
        assert_eq!(unknown.await.is_ok(), code.is_none());
        context.users.forget(&Credentials::new("bob", b""));
    }
}

#[tokio::test]
async fn other_plugins_are_switched() {
    for plugin in [Plugin::Native, Plugin::Clear, Plugin::Sha256] {
        let context = context(true, MINUTE);
        let server = server(&[("ann", b"secret")]);
        let unknown = scripted(true, &context, &server, async |mut client| {
            let response = client.response(plugin, b"whatever it says first".to_vec());
            client.send(1, &response.encode()).await;
            let nonce = client.expect_switch(2, Plugin::CachingSha2).await;
            client.send(3, &answer_caching_sha2(b"secret", &nonce)).await;
            assert_eq!(client.expect(4).await, [AUTH_MORE_DATA, FULL_AUTHENTICATION]);
            client.send(5, b"secret\0").await;
            client.expect_ok(6).await;
        });
        unknown.await.expect("the right password");
        assert!(context.users.find("ann").is_some(), "it is learned");
    }
}

#[tokio::test]
async fn passwords_that_are_none() {
    let context = context(false, MINUTE);
    let server = server(&[("ann", b"secret")]);
    // Over a Unix socket and over TCP; both end in an access denied of our own words, and ask nobody.
    for (secure, sent) in [(true, &b"no end"[..]), (true, b""), (false, b"secret\0"), (false, &[7; 256])] {
        let refused = scripted(secure, &context, &server, async |mut client| {
            let answer = answer_caching_sha2(b"secret", &client.greeting.nonce);
            let response = client.response(Plugin::CachingSha2, answer);
            client.send(1, &response.encode()).await;
            assert_eq!(client.expect(2).await, [AUTH_MORE_DATA, FULL_AUTHENTICATION]);
            client.send(3, sent).await;
            client.expect_error(4, 1045).await;
        });
        assert!(matches!(refused.await, Err(LoginError::Refused(_))));
    }
    assert!(server.asked.lock().is_empty());
}

#[tokio::test]
async fn a_client_that_has_the_rsa_key_already() {
    let context = context(false, MINUTE);
    let server = server(&[("ann", b"secret")]);
    let logged_in = scripted(false, &context, &server, async |mut client| {
        let nonce = client.greeting.nonce;
        let response = client.response(Plugin::CachingSha2, answer_caching_sha2(b"secret", &nonce));
        client.send(1, &response.encode()).await;
        assert_eq!(client.expect(2).await, [AUTH_MORE_DATA, FULL_AUTHENTICATION]);
        let sent = encrypt_password(context.rsa.public_pem().as_bytes(), b"secret", &nonce);
        client.send(3, &sent.expect("encrypted")).await;
        client.expect_ok(4).await;
    });
    logged_in.await.expect("the right password");
}

#[tokio::test]
async fn clients_that_break_the_protocol() {
    let context = context(true, MINUTE);
    // What they send after the greeting, and the code of the error they get.
    let cases: &[(&[u8], Option<u16>)] = &[
        (b"GET / HTTP/1.1\r\n\r\n", Some(1153)),
        (b"\x02\0\0\x01\x05\x00", Some(1251)),
        (b"\x04\0\0\x01\0\x02\0\0", Some(1043)),
        (b"\0\0\0\x01", Some(1043)),
        (b"\x02\0\0\x02\x05\x00", Some(1156)),
        (b"\x01\0\x03\x01", Some(1153)),
        (b"\x05\0\0\x01abc", None),
        (b"", None),
    ];
    for (bytes, code) in cases {
        let server = Server::default();
        let outcome = scripted(true, &context, &server, async |mut client| {
            client.stream.write_all(bytes).await.expect("written");
            match code {
                Some(code) => {
                    let packet = read_packet(&mut client.stream, MAX_PACKET).await.expect("an ERR packet");
                    let error = ErrPacket::parse(&packet.payload).expect("an ERR packet");
                    assert_eq!(error.code, *code, "{bytes:?}");
                }
                None => client.stream.shutdown().await.expect("shut down"),
            }
        });
        let error = outcome.await.expect_err("no login");
        assert_eq!(error.is_noteworthy(), !bytes.is_empty(), "{error:?}");
    }
}

#[tokio::test]
async fn tls_that_is_needed() {
    let context = LoginContext { tls_is_needed: true, ..context(true, MINUTE) };
    let server = server(&[("ann", b"secret")]);
    let plain = scripted(false, &context, &server, async |mut client| {
        assert!(client.greeting.capabilities.contains(Capabilities::SSL));
        let response = client.response(Plugin::CachingSha2, vec![1; 32]);
        client.send(1, &response.encode()).await;
        client.expect_error(2, 3159).await;
    });
    assert!(matches!(plain.await, Err(LoginError::Refused(_))));
    for link in [Link::Tls, Link::Unix] {
        let (client, _) = pair(link, &context, &server, &Credentials::new("ann", b"secret"), None).await;
        client.expect("secure enough");
    }
}

#[tokio::test]
async fn what_is_offered() {
    let context = context(false, MINUTE);
    let introduction = Introduction {
        server_capabilities: Capabilities(u32::MAX) - Capabilities::QUERY_ATTRIBUTES,
        ..INTRODUCTION
    };
    let (near, far) = UnixStream::pair().expect("a socket pair");
    let server = Server::default();
    let client = async {
        let mut stream = Stream::unix(near);
        let packet = read_packet(&mut stream, MAX_PACKET).await.expect("a greeting");
        Greeting::parse(&packet.payload).expect("a greeting")
    };
    let (greeting, _) =
        tokio::join!(client, Box::pin(login(Stream::unix(far), &context, introduction, &server)));
    assert_eq!(greeting.capabilities, RELAYED - Capabilities::QUERY_ATTRIBUTES);
    assert_eq!(greeting.plugin, "caching_sha2_password");
    assert_eq!((greeting.collation, greeting.status, greeting.thread_id), (255, status::AUTOCOMMIT, 77));
}

#[tokio::test]
async fn bytes_that_came_too_early_are_kept() {
    let context = context(true, MINUTE);
    let server = knowing_ann(&context);
    let logged_in = scripted(true, &context, &server, async |mut client| {
        let answer = answer_caching_sha2(b"secret", &client.greeting.nonce);
        let response = client.response(Plugin::CachingSha2, answer).encode();
        let mut bytes = Vec::new();
        push_packet(&mut bytes, 1, &response);
        push_packet(&mut bytes, 0, b"\x0e");
        client.stream.write_all(&bytes).await.expect("written");
        client.expect(2).await;
        client.expect_ok(3).await;
    });
    let mut logged_in = logged_in.await.expect("the right password");
    let packet = read_packet(&mut logged_in.stream, 10).await.expect("the ping that was sent early");
    assert_eq!((packet.payload.as_slice(), packet.sequence), (&b"\x0e"[..], 0));
}

#[tokio::test]
async fn change_of_user() {
    /// User, password, plugin of the client, whether it is known already, the error's code.
    type Case = (&'static [u8], &'static [u8], Plugin, bool, Option<u16>);
    let context = context(true, MINUTE);
    let server = knowing_ann(&context);
    server.passwords.lock().insert("bob".to_owned(), b"other".to_vec());
    let capabilities = RELAYED - Capabilities::CONNECT_WITH_DB;
    let cases: &[Case] = &[
        (b"ann", b"secret", Plugin::CachingSha2, true, None),
        (b"bob", b"other", Plugin::CachingSha2, false, None),
        (b"bob", b"other", Plugin::Native, true, None),
        (b"bob", b"wrong", Plugin::CachingSha2, false, Some(1045)),
        (b"\xff", b"", Plugin::CachingSha2, true, Some(1045)),
    ];
    for (user, password, plugin, known, code) in cases {
        let (near, far) = UnixStream::pair().expect("a socket pair");
        let mut far = Stream::unix(far);
        let request = ChangeUser {
            user: user.to_vec(),
            answer: Answer::new(vec![1; 20]),
            schema: Some(b"shop".to_vec()),
            collation: Some(255),
            plugin: Some(plugin.name().as_bytes().to_vec()),
            attributes: Attributes::default(),
        };
        let packet = [&b"\x11"[..], &request.encode(capabilities)].concat();
        let client = async {
            let greeting = Greeting::parse(&captured_greeting()).expect("a greeting");
            let mut client = Client { stream: Stream::unix(near), greeting };
            if user == b"\xff" {
                return client.expect_error(1, 1045).await;
            }
            let nonce = client.expect_switch(1, *plugin).await;
            let answer = match plugin {
                Plugin::Native => answer_native(password, &nonce),
                _ => answer_caching_sha2(password, &nonce),
            };
            client.send(2, &answer).await;
            let mut sequence = 3;
            if *plugin == Plugin::CachingSha2 {
                let more = client.expect(3).await;
                sequence = 4;
                if *known {
                    assert_eq!(more, [AUTH_MORE_DATA, FAST_AUTH_SUCCESS]);
                } else {
                    client.send(4, &[password, &b"\0"[..]].concat()).await;
                    sequence = 5;
                }
            }
            match code {
                Some(code) => client.expect_error(sequence, *code).await,
                None => client.expect_ok(sequence).await,
            }
        };
        let change = change_user(&mut far, &packet, capabilities, 45, &context, &server);
        let ((), changed) = Box::pin(async { tokio::join!(client, change) }).await;
        match changed {
            Ok(changed) => {
                assert_eq!(*code, None);
                assert_eq!(changed.credentials.user.as_bytes(), *user);
                assert_eq!(changed.schema.as_deref(), Some(&b"shop"[..]));
                assert_eq!(changed.collation, 255);
            }
            Err(error) => assert!(code.is_some(), "{error}"),
        }
    }
}

/// Any greeting; its nonce must differ from all others.
fn captured_greeting() -> Vec<u8> {
    Greeting {
        server_version: String::new(),
        thread_id: 1,
        nonce: Nonce([1; 20]),
        capabilities: RELAYED,
        collation: 255,
        status: 0,
        plugin: String::new(),
    }
    .encode()
}

proptest! {
    /// Whatever a client sends after the greeting, the login ends and nothing panics; nobody gets in.
    #[test]
    fn clients_that_send_anything(packets: Vec<Vec<u8>>, tail: Vec<u8>, polite: bool, secure: bool) {
        static CONTEXT: LazyLock<LoginContext> = LazyLock::new(|| context(true, MINUTE));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let server = knowing_ann(&CONTEXT);
            let outcome = scripted(secure, &CONTEXT, &server, async |mut client| {
                let mut bytes = Vec::new();
                if polite {
                    let response = client.response(Plugin::CachingSha2, vec![1; 32]);
                    push_packet(&mut bytes, 1, &response.encode());
                }
                for packet in packets.iter().take(10) {
                    // The server's packets have the numbers between.
                    let number = if bytes.is_empty() { 1 } else { 3 };
                    push_packet(&mut bytes, number, packet);
                }
                bytes.extend_from_slice(&tail);
                client.stream.write_all(&bytes).await.ok();
                client.stream.shutdown().await.ok();
                let mut sink = Vec::new();
                client.stream.read_to_end(&mut sink).await.ok();
            });
            let outcome = tokio::time::timeout(Duration::from_secs(5), outcome).await.expect("an end");
            assert!(outcome.is_err());
        });
    }
}
