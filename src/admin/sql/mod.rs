//! The admin SQL port: SHOW commands over the MySQL protocol, for `mysql` and every driver. Our own login first (a
//! password, TLS when the client wants it), then `opensrv-mysql` writes the answers; no other module knows that library.

mod bridge;
mod login;
mod shim;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::Source;
use super::door::receive;
use crate::model::access::Account;
use crate::wire::stream::{self, Stream};
use crate::wire::tls::Acceptor;

/// Who may come in, and how.
pub(crate) struct Door {
    pub(crate) account: Account,
    /// None: TLS is not offered.
    pub(crate) tls: Option<Acceptor>,
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: TcpListener, door: Door, source: Arc<Source>, stop: CancellationToken) {
    let door = Arc::new(door);
    receive(listener, MAX_VISITORS, &stop, |stream| {
        let (door, source, stop) = (Arc::clone(&door), Arc::clone(&source), stop.clone());
        async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = visit(stream, &door, source) => {}
            }
        }
    })
    .await;
}

async fn visit(stream: TcpStream, door: &Door, source: Arc<Source>) {
    let peer = stream.peer_addr().map_or_else(|_| "unknown".to_owned(), |peer| peer.to_string());
    // A socket without these options still works.
    let _ = stream::tune(&stream);
    let login = login::login(Stream::tcp(stream), door);
    let entered = match tokio::time::timeout(LOGIN, login).await {
        Ok(Ok(entered)) => entered,
        Ok(Err(error)) => {
            tracing::info!(%peer, error = %error, "admin login refused");
            return;
        }
        Err(_) => return,
    };
    tracing::debug!(%peer, "admin logged in");
    if let Err(error) = bridge::run(entered, source).await {
        tracing::debug!(%peer, %error, "admin connection ended");
    }
}

const MAX_VISITORS: usize = 32;
const LOGIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::source;
    use crate::model::access::Secret;
    use crate::wire::auth;
    use crate::wire::handshake::{Answer, Attributes, Greeting, HandshakeResponse, MAX_PACKET};
    use crate::wire::packet::{ErrPacket, read_packet, write_packet};

    /// Logs in as `mysql` does; the error when that is refused.
    async fn enter(port: u16, plugin: &str, password: &str) -> Result<Stream, ErrPacket> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        let mut stream = Stream::tcp(stream);
        let packet = read_packet(&mut stream, MAX_PACKET).await.expect("a greeting");
        let greeting = Greeting::parse(&packet.payload).expect("a greeting");
        let bytes = password.as_bytes();
        let answer = match plugin {
            "mysql_native_password" => auth::answer_native(bytes, &greeting.nonce),
            _ => auth::answer_caching_sha2(bytes, &greeting.nonce),
        };
        let response = HandshakeResponse {
            capabilities: greeting.capabilities,
            max_packet: 1 << 24,
            collation: 45,
            user: b"admin".to_vec(),
            answer: Answer::new(answer.clone()),
            schema: Some(b"anything".to_vec()),
            plugin: Some(plugin.as_bytes().to_vec()),
            attributes: Attributes::default(),
            zstd_level: None,
        };
        write_packet(&mut stream, 1, &response.encode()).await.expect("it reads");
        loop {
            let packet = read_packet(&mut stream, MAX_PACKET).await.expect("an answer");
            match packet.payload.first() {
                Some(0) => return Ok(stream),
                Some(1) => assert_eq!(packet.payload, [1, 3]),
                Some(0xfe) => {
                    write_packet(&mut stream, packet.sequence + 1, &answer).await.expect("it reads");
                }
                _ => return Err(ErrPacket::parse(&packet.payload).expect("an error")),
            }
        }
    }

    /// The packets that answer one command, up to an OK, EOF or ERR.
    async fn ask(stream: &mut Stream, command: &[u8]) -> Vec<Vec<u8>> {
        write_packet(stream, 0, command).await.expect("it reads");
        let mut packets = Vec::new();
        loop {
            let packet = read_packet(stream, MAX_PACKET).await.expect("an answer");
            let last = matches!(packet.payload.first(), Some(0xfe | 0xff))
                || (packets.is_empty() && packet.payload.first() == Some(&0));
            packets.push(packet.payload);
            if last {
                return packets;
            }
        }
    }

    #[tokio::test]
    async fn a_conversation() {
        let (source, _state, _topology) = source();
        let client = source.clients.register(None);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let stop = CancellationToken::new();
        let account = Account { user: "admin".into(), password: Secret::new("secret".into()) };
        let conversation = async {
            for plugin in ["caching_sha2_password", "mysql_native_password", "sha256_password"] {
                let denied = enter(port, plugin, "wrong").await.expect_err(plugin);
                assert_eq!((denied.code, &denied.sqlstate), (1045, b"28000"), "{plugin}");
                assert_eq!(enter(port, plugin, "").await.expect_err(plugin).code, 1045, "{plugin}");
                let mut stream = enter(port, plugin, "secret").await.expect(plugin);
                assert_eq!(ask(&mut stream, b"\x0e").await.len(), 1, "{plugin}: ping");
            }
            let mut stream = enter(port, "caching_sha2_password", "secret").await.expect("right");
            // A count, 13 columns, 3 rows, the end.
            let servers = ask(&mut stream, b"\x03SHOW SERVERS").await;
            assert_eq!(servers.len(), 1 + 13 + 3 + 1);
            assert!(servers[14].starts_with(b"\x07mysql-0\x0e127.0.0.1:3306\xfb\x07primary"));
            let code = |packets: Vec<Vec<u8>>| ErrPacket::parse(&packets[0]).map(|error| error.code);
            let kill = |id: u32| format!("\x03KILL QUERY {id}").into_bytes();
            for (command, expected) in [
                (&b"\x03DROP TABLE t"[..], Some(1064)),
                (b"\x03SELECT '\xff'", Some(1047)),
                (b"\x16SELECT 1", Some(1047)),
                (b"\x1f", Some(1047)),
                (b"\x11admin\0", Some(1047)),
                (b"\x02anything", None),
                (b"\x03SET NAMES utf8mb4", None),
                (b"\x03USE anything", None),
                (&kill(7), Some(1094)),
                (&kill(client.id()), None),
            ] {
                let shown = String::from_utf8_lossy(command).into_owned();
                assert_eq!(code(ask(&mut stream, command).await), expected, "{shown}");
            }
            let signal = std::future::poll_fn(|context| client.poll_signals(context)).await;
            assert_eq!(signal, crate::telemetry::clients::Signals::KILL_STATEMENT);
            write_packet(&mut stream, 0, b"\x01").await.expect("it reads");
            assert!(read_packet(&mut stream, MAX_PACKET).await.is_err());
            stop.cancel();
        };
        let door = Door { account, tls: None };
        tokio::join!(serve(listener, door, Arc::clone(&source), stop.clone()), conversation);
    }
}
