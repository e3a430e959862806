//! Load balancers that say by the PROXY protocol whom they bring.

use std::net::SocketAddr;

use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::support::cluster::{APP, Account, Cluster, ROOT, connect};
use super::support::proxy::{ADMIN, Proxy};
use super::support::raw::{Raw, USUAL, flag};
use super::{proxy, run};

/// A connection that comes from this address.
async fn from(address: [u8; 4], proxy: &Proxy) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((address, 0))).expect("all of 127.0.0.0/8 is this machine");
    socket.connect(SocketAddr::from(([127, 0, 0, 1], proxy.port()))).await.expect("the proxy listens")
}

const BALANCER: [u8; 4] = [127, 0, 0, 2];
const VERSION_1: &[u8] = b"PROXY TCP4 192.0.2.7 127.0.0.1 40000 3306\r\n";
/// From 2001:db8::9, port 40001, with a TLV that says nothing.
const VERSION_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x27\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x09\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x9c\x41\x0c\xea\x04\0\0";
/// The load balancer's own connection.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[test]
fn a_load_balancer_says_whom_it_brings() {
    run(async {
        proxy().await;
        let cluster = Cluster::shared().await;
        let listed = "listen: {proxy_protocol_from: [127.0.0.2]}";
        let proxy = Proxy::start(cluster, listed).await;
        drop(proxy.connect(APP).await);
        let mut admin = connect(proxy.sql().port(), ADMIN).await.expect("the admin port is open");
        let mut root = cluster.connect(0, ROOT).await;
        for (header, client) in [
            (VERSION_1, "192.0.2.7:40000"),
            (VERSION_2, "[2001:db8::9]:40001"),
            (LOCAL, "127.0.0.2:"),
            (b"PROXY UNKNOWN\r\n", "127.0.0.2:"),
        ] {
            let mut stream = from(BALANCER, &proxy).await;
            // In two pieces, as a network may bring it.
            let (head, tail) = header.split_at(9);
            stream.write_all(head).await.expect("it is taken");
            stream.flush().await.expect("it is taken");
            stream.write_all(tail).await.expect("it is taken");
            let login =
                Raw::over(stream, APP, USUAL | flag::FOUND_ROWS, "").await.expect("the login is accepted");
            let mut raw = login.expect("the password is known");
            assert_eq!(raw.text("SELECT 'in step'").await, "in step");
            let clients: Vec<mysql_async::Row> = admin.query("SHOW CLIENTS").await.expect("it answers");
            let shown = clients.iter().map(|row| row.get::<String, _>("address").expect("a column"));
            let shown: Vec<String> = shown.collect();
            assert!(shown.iter().any(|address| address.starts_with(client)), "{client}: {shown:?}");
            if !client.starts_with("127") {
                // On the server that was asked whether it lets them in.
                let sql = "SELECT attr_value FROM performance_schema.session_connect_attrs WHERE attr_name = '_client_address'";
                raw.run("SET @bound = GET_LOCK('proxied', 60)").await;
                let told: Vec<String> = root.query(sql).await.expect("it answers");
                assert!(told.iter().any(|address| address == client), "{client}: {told:?}");
            }
        }
        // One that breaks its login off is named in the log as itself.
        let mut stream = from(BALANCER, &proxy).await;
        stream.write_all(VERSION_1).await.expect("it is taken");
        let nobody = Account { user: "nobody", password: "wrong" };
        assert!(Raw::over(stream, nobody, USUAL, "").await.expect("it asks for the password").is_none());
        proxy.logs("was not logged in client=192.0.2.7:40000").await;
        // No header, or a bad one: closed without a greeting.
        let hasty = Proxy::start(cluster, &format!("{listed}\nlimits: {{login_s: 2}}")).await;
        let refused =
            [&b""[..], b"PROXY TCP5 ", b"\x20\0\0\x01\x85\xa6\xff\x01"].map(async |bytes: &[u8]| {
                let mut stream = from(BALANCER, &hasty).await;
                stream.write_all(bytes).await.expect("it is taken");
                let mut said = Vec::new();
                let _ = stream.read_to_end(&mut said).await;
                assert_eq!(said, b"", "{bytes:?}");
            });
        join_all(refused).await;
        // Anybody else's header is no header: the greeting comes, then a refusal of what is no login.
        let mut stream = from([127, 0, 0, 3], &proxy).await;
        stream.write_all(VERSION_1).await.expect("it is taken");
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        assert_eq!(said.get(4), Some(&10), "a greeting: {said:?}");
    });
}
