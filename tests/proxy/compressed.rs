//! The compressed protocol, towards clients that want it.

use std::io::Read;

use flate2::read::ZlibDecoder;
use futures_util::{StreamExt, future, stream};
use mysql_async::prelude::Queryable;
use mysql_async::{Compression, Conn, OptsBuilder};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::support::client::mysql;
use super::support::cluster::{APP, Cluster};
use super::support::raw::{Raw, USUAL, flag, refusal};
use super::{proxy, run};

#[test]
fn the_mysql_client_compresses() {
    run(async {
        let (cluster, proxy) = (Cluster::shared().await, proxy().await);
        cluster
            .script(
                "SET GLOBAL local_infile = ON; CREATE TABLE d.packed (i INT PRIMARY KEY, t LONGTEXT); \
                 CREATE TABLE d.packed_in (i INT PRIMARY KEY, t TEXT)",
            )
            .await;
        let lines = cluster.folder().join("packed.txt");
        let text: String = (0..50_000).map(|line| format!("{line}\tline {line}\n")).collect();
        std::fs::write(&lines, text).expect("the folder is ours");
        // A statement of two frames and a row of two frames.
        let long = 17_000_000;
        let statements = format!(
            "SET SESSION cte_max_recursion_depth = 50000; \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) SELECT i, SHA2(i, 256) FROM n; \
             LOAD DATA LOCAL INFILE '{}' INTO TABLE d.packed_in; \
             SELECT COUNT(*), SUM(i), MAX(t) FROM d.packed_in; \
             INSERT INTO d.packed VALUES (1, '{}'); SELECT LENGTH(t), t FROM d.packed; \
             TRUNCATE d.packed; TRUNCATE d.packed_in",
            lines.display(),
            "x".repeat(long),
        );
        let user = [format!("-u{}", APP.user), format!("-p{}", APP.password)];
        let ask = async |port: u16, options: &[&str]| {
            let port = format!("--port={port}");
            let always = [
                "--protocol=TCP",
                "--host=127.0.0.1",
                &port,
                &user[0],
                &user[1],
                "--local-infile=1",
                "--max-allowed-packet=64M",
            ];
            mysql(cluster, &[&always, options].concat(), &statements).await
        };
        let expected = ask(cluster.server(0).port(), &[]).await.expect("the primary answers");
        assert!(expected.len() > long + 50_000 * 65, "{}", expected.len());
        for options in [
            &["--compression-algorithms=zlib"][..],
            &["--compression-algorithms=zstd"],
            &["--compression-algorithms=zstd", "--zstd-compression-level=19"],
            &["--compression-algorithms=zstd", "--ssl-mode=DISABLED"],
        ] {
            let said =
                ask(proxy.port(), options).await.unwrap_or_else(|error| panic!("{options:?}: {error}"));
            assert!(said == expected, "{options:?}: {} bytes, not {}", said.len(), expected.len());
        }
    });
}

/// A compressed packet: its number, what it says its content is long, and what it has.
async fn packet(stream: &mut TcpStream) -> (u8, usize, Vec<u8>) {
    let mut header = [0; 7];
    stream.read_exact(&mut header).await.expect("an answer");
    let length = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]) as usize;
    let mut payload = vec![0; length(&header)];
    stream.read_exact(&mut payload).await.expect("a whole packet");
    (header[3], length(&header[4..]), payload)
}

#[test]
fn what_goes_over_the_wire() {
    run(async {
        let proxy = proxy().await;
        let connect = || Raw::connect(proxy.port(), APP, USUAL | flag::COMPRESS);
        let mut raw = connect().await;
        raw.send_bytes(b"\x05\0\0\0\0\0\0\x01\0\0\0\x0E").await.expect("it is taken");
        let mut stream = raw.into_stream();
        // A short answer is not worth it.
        let (sequence, plain, payload) = packet(&mut stream).await;
        assert_eq!((sequence, plain), (1, 0));
        assert_eq!(payload, b"\x07\0\0\x01\0\0\0\x02\0\0\0");
        let sql = b"SELECT REPEAT('x', 100000)";
        let mut raw = connect().await;
        let length = u8::try_from(sql.len() + 1).expect("short");
        raw.send_bytes(&[&[length + 4, 0, 0, 0, 0, 0, 0, length, 0, 0, 0, 3][..], sql].concat())
            .await
            .expect("it is taken");
        let (mut stream, mut all, mut sent, mut next) = (raw.into_stream(), Vec::new(), 0, 1);
        while all.len() < 100_000 || !all.ends_with(b"\xfe\0\0\x02\0\0\0") {
            let (sequence, plain, payload) = packet(&mut stream).await;
            assert_eq!(sequence, next, "compressed packets are counted");
            next += 1;
            sent += payload.len();
            let before = all.len();
            match plain {
                0 => all.extend_from_slice(&payload),
                _ => {
                    ZlibDecoder::new(&payload[..]).read_to_end(&mut all).expect("zlib");
                    assert_eq!(all.len() - before, plain);
                }
            }
        }
        assert!(sent < 2000, "{sent}");
    });
}

/// A driver that looks at the numbers of packets within compressed ones.
#[test]
fn results_that_follow_others() {
    run(async {
        let (cluster, proxy) = (Cluster::shared().await, proxy().await);
        cluster.script("SET GLOBAL local_infile = ON; CREATE TABLE d.packed_follow (i INT)").await;
        // Knows the password from then on.
        drop(proxy.connect(APP).await);
        let rows = stream::once(future::ready(Ok("1\n2\n".into())));
        let file = move || async move { Ok(rows.boxed()) };
        let options = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(proxy.port())
            .user(Some(APP.user))
            .pass(Some(APP.password))
            .prefer_socket(false)
            .compression(Compression::fast());
        let mut conn = Conn::new(options).await.unwrap();
        conn.set_infile_handler(file());
        let text = "SELECT 1; DO 2; LOAD DATA LOCAL INFILE 'rows' INTO TABLE d.packed_follow; \
                    SELECT i, REPEAT('x', 5000) FROM d.packed_follow; SELECT SLEEP(0.1); SELECT * FROM d.nothing";
        let mut results = conn.query_iter(text).await.unwrap();
        for count in [1, 0, 0, 2, 1] {
            assert_eq!(results.collect::<mysql_async::Row>().await.unwrap().len(), count);
        }
        let refused = results.collect::<mysql_async::Row>().await.unwrap_err().to_string();
        assert!(refused.contains("1146"), "{refused}");
        drop(results);
        let sum: Option<u32> = conn.query_first("SELECT SUM(i) FROM d.packed_follow").await.unwrap();
        assert_eq!(sum, Some(3));
        cluster.script("DROP TABLE d.packed_follow").await;
    });
}

#[test]
fn what_is_not_compressed_as_it_must_be_is_refused() {
    run(async {
        let proxy = proxy().await;
        for (bytes, code, text) in [
            (
                &b"\x05\0\0\x01\0\0\0\x01\0\0\0\x0E"[..],
                1156,
                "packets out of order: number 1 came, 0 was due",
            ),
            (
                b"\x05\0\0\0\x64\0\0hello",
                1157,
                "malformed packet: a compressed packet cannot be decompressed",
            ),
        ] {
            let mut raw = Raw::connect(proxy.port(), APP, USUAL | flag::COMPRESS).await;
            raw.send_bytes(bytes).await.expect("it is taken");
            let mut stream = raw.into_stream();
            let (_, plain, mut payload) = packet(&mut stream).await;
            if plain > 0 {
                let packed = std::mem::take(&mut payload);
                ZlibDecoder::new(&packed[..]).read_to_end(&mut payload).expect("zlib");
            }
            let refusal = refusal(&payload[4..]);
            assert_eq!((refusal.code, refusal.text), (code, format!("Readwright: {text}")));
            assert_eq!(stream.read(&mut [0]).await.expect("closed in order"), 0);
        }
        let refused =
            Raw::try_connect(proxy.port(), APP, USUAL | flag::ZSTD, "").await.err().expect("no such level");
        assert_eq!(
            (refused.code, refused.text.as_str()),
            (3923, "Invalid zstd compression level for algorithm 'zstd'.")
        );
    });
}
