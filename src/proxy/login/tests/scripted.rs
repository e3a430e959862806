//! Clients written packet by packet.

use std::sync::LazyLock;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::wire::auth::{answer_caching_sha2, answer_native, encrypt_password};
use crate::wire::packet::{read_packet, write_packet};

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
        let ok = self.expect(sequence).await;
        // A client that tracks its session is told its schema.
        let with_schema = b"\0\0\0\x02\x40\0\0\0\x07\x01\x05\x04shop";
        assert!(ok == b"\0\0\0\x02\0\0\0" || ok == with_schema, "{ok:?}");
    }

    async fn expect_error(&mut self, sequence: u8, code: u16) {
        let error = ErrPacket::parse(&self.expect(sequence).await).expect("an ERR packet");
        assert_eq!(error.code, code, "{error}");
    }
}

fn knowing_ann(context: &LoginContext) -> Server {
    let ann = Arc::new(Credentials::new("ann", b"secret"));
    let manner = Manner { schema: None, collation: 255, capabilities: RELAYED };
    context.users.learn(&ann, manner, Arc::default(), context.users.generation());
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

/// A client of mysql_native_password is wrong, or what we know is: the server says which.
#[tokio::test]
async fn native_clients_and_other_passwords() {
    #[derive(Debug)]
    enum Kind {
        Answers,
        Waits,
        KnowsNoPlugins,
    }
    // What the client is, whether the password was changed past us, and what it is told.
    let cases = [
        (Kind::Answers, false, Some(1045)),
        (Kind::Waits, false, Some(1045)),
        (Kind::KnowsNoPlugins, false, Some(1045)),
        (Kind::Answers, true, None),
        (Kind::Waits, true, Some(1045)),
        (Kind::KnowsNoPlugins, true, Some(1251)),
    ];
    for (kind, changed, code) in cases {
        let context = context(true, MINUTE);
        let server = knowing_ann(&context);
        if changed {
            server.passwords.lock().insert("ann".to_owned(), b"other".to_vec());
        }
        let outcome = scripted(true, &context, &server, async |mut client| {
            let mut answer = answer_native(b"other", &client.greeting.nonce);
            if matches!(kind, Kind::Waits) {
                answer.clear();
            }
            let mut response = client.response(Plugin::Native, answer);
            if matches!(kind, Kind::KnowsNoPlugins) {
                response.capabilities = response.capabilities - Capabilities::PLUGIN_AUTH;
            }
            client.send(1, &response.encode()).await;
            let mut sequence = 2;
            if matches!(kind, Kind::Waits) {
                let nonce = client.expect_switch(2, Plugin::Native).await;
                client.send(3, &answer_native(b"other", &nonce)).await;
                sequence = 4;
            }
            if let Some(code) = code {
                return client.expect_error(sequence, code).await;
            }
            let nonce = client.expect_switch(2, Plugin::CachingSha2).await;
            client.send(3, &answer_caching_sha2(b"other", &nonce)).await;
            assert_eq!(client.expect(4).await, [AUTH_MORE_DATA, FULL_AUTHENTICATION]);
            client.send(5, b"other\0").await;
            client.expect_ok(6).await;
        });
        assert_eq!(outcome.await.is_ok(), code.is_none(), "{kind:?}");
        let known = context.users.find("ann").map(|known| known.credentials.password().to_vec());
        let expected = match (changed, code) {
            (false, _) => Some(b"secret".to_vec()),
            (true, None) => Some(b"other".to_vec()),
            (true, Some(_)) => None,
        };
        assert_eq!(known, expected, "{kind:?}");
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
        (b"\x02\0\0\x01\x05\x00", Some(1043)),
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
    assert_eq!(greeting.capabilities, (RELAYED | COMPRESSION) - Capabilities::QUERY_ATTRIBUTES);
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
        let change = change_user(&mut far, &packet, capabilities, 45, Nonce([1; 20]), &context, &server);
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

/// As MariaDB's C library changes users: what it says first answers to the last nonce, and it reads no other.
#[tokio::test]
async fn a_change_of_user_that_answers_to_the_last_nonce() {
    let context = context(true, MINUTE);
    let server = knowing_ann(&context);
    let capabilities = RELAYED - Capabilities::CONNECT_WITH_DB;
    let last = Nonce([3; 20]);
    for (password, code) in [(&b"secret"[..], None), (b"wrong", Some(1045))] {
        let (near, far) = UnixStream::pair().expect("a socket pair");
        let mut far = Stream::unix(far);
        let answer = answer_native(password, &last);
        let request = ChangeUser {
            user: b"ann".to_vec(),
            answer: Answer::new(answer.clone()),
            schema: None,
            collation: Some(255),
            plugin: Some(Plugin::Native.name().as_bytes().to_vec()),
            attributes: Attributes::default(),
        };
        let packet = [&b"\x11"[..], &request.encode(capabilities)].concat();
        let client = async {
            let greeting = Greeting::parse(&captured_greeting()).expect("a greeting");
            let mut client = Client { stream: Stream::unix(near), greeting };
            let Some(code) = code else { return client.expect_ok(1).await };
            client.expect_switch(1, Plugin::Native).await;
            client.send(2, &answer).await;
            client.expect_error(3, code).await;
        };
        let change = change_user(&mut far, &packet, capabilities, 45, last, &context, &server);
        let ((), changed) = Box::pin(async { tokio::join!(client, change) }).await;
        assert_eq!(changed.is_ok(), code.is_none());
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
            let outcome = tokio::time::timeout(Duration::from_secs(60), outcome).await.expect("an end");
            assert!(outcome.is_err());
        });
    }
}
