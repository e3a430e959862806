//! Statements, parameters, rows and results that are larger than any buffer.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use tokio::io::AsyncReadExt;
use tokio::time::sleep;

use super::support::cluster::{APP, Cluster, ROOT};
use super::support::proxy::Proxy;
use super::support::raw::{Outcome, Raw, USUAL, command, flag};
use super::{proxy, run};

const FULL_FRAME: usize = 0xFF_FFFF;

/// A number of `/proc/<id>/status`, in KiB.
pub(super) fn memory(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with(name)).expect("the kernel names it");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn a_statement_longer_than_the_server_takes_is_refused_in_its_words() {
    run(async {
        proxy().await;
        let limits = "limits: {max_packet_mib: 128, statement_memory_mib: 256}";
        let proxy = Proxy::start(Cluster::shared().await, limits).await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        // The default of max_allowed_packet is 64 MiB.
        let sql = [b"SELECT '", &vec![b'x'; 66 << 20][..], b"'"].concat();
        raw.send_query(&sql).await;
        match raw.outcome().await {
            Outcome::Refused(refusal) => {
                assert_eq!((refusal.code, &*refusal.state), (1153, "08S01"));
                assert_eq!(refusal.text, "Got a packet bigger than 'max_allowed_packet' bytes");
            }
            _ => panic!("it is too long"),
        }
        assert!(raw.is_closed().await, "as a server does");
        let mut other = Raw::connect(proxy.port(), APP, USUAL).await;
        assert_eq!(other.text("SELECT t FROM d.one WHERE id = 1").await, "one");
    });
}

#[test]
fn packets_over_a_frame_pass_both_ways() {
    run(async {
        let proxy = proxy().await;
        Cluster::shared().await.script("CREATE TABLE d.big (id BIGINT PRIMARY KEY, b LONGBLOB)").await;
        for capabilities in [USUAL, USUAL & !flag::DEPRECATE_EOF] {
            let mut raw = Raw::connect(proxy.port(), APP, capabilities).await;
            raw.run("DELETE FROM d.big").await;
            // As text: the payload one byte less than a frame, exactly a frame, one more; then 20 MB and two frames.
            for (id, payload) in [FULL_FRAME - 1, FULL_FRAME, FULL_FRAME + 1, 20_000_000, 2 * FULL_FRAME]
                .into_iter()
                .enumerate()
            {
                let head = format!("INSERT INTO d.big VALUES ({id}, '");
                let length = payload - 1 - head.len() - 2;
                let sql = [head.as_bytes(), &vec![b'x'; length], b"')"].concat();
                raw.send_query(&sql).await;
                assert!(matches!(raw.outcome().await, Outcome::Done(done) if done.affected_rows == 1));
                assert_eq!(
                    raw.text(&format!("SELECT LENGTH(b) FROM d.big WHERE id = {id}")).await,
                    length.to_string()
                );
            }
            // Rows of these sizes, from replicas too.
            for length in [FULL_FRAME - 4, FULL_FRAME - 5, FULL_FRAME, 20_000_000] {
                let sql = format!("SELECT REPEAT('y', {length}), 'end'");
                match raw.query(&sql).await {
                    Outcome::Rows { rows, .. } => {
                        assert_eq!(rows.len(), 1);
                        assert!(rows[0].ends_with(b"y\x03end"));
                        assert!(rows[0].len() > length);
                    }
                    other => panic!("{length}: {other:?}"),
                }
                let exact = format!("SELECT REPEAT('y', {length})");
                match raw.query(&exact).await {
                    Outcome::Rows { rows, .. } => {
                        assert!(rows.len() == 1 && rows[0].ends_with(b"yy"), "{length}")
                    }
                    other => panic!("{length}: {other:?}"),
                }
            }
            // A parameter of 20 MB, on a server that has not prepared the statement yet.
            for sql in ["SELECT LENGTH(?)", "SELECT LENGTH(?) FROM d.home FOR UPDATE", "SELECT LENGTH(?)"] {
                let statement = raw.prepare(sql).await.unwrap();
                for (length, types) in [(20_000_000usize, &[0xFC, 0][..]), (5, &[])] {
                    let mut value = vec![0xFE];
                    value.extend_from_slice(&(length as u64).to_le_bytes());
                    value.resize(9 + length, b'z');
                    let all = raw.execute(statement.id, 0, &[0], types, &value).await;
                    match &all[..] {
                        [Outcome::Rows { rows, .. }] => {
                            assert_eq!(rows[0][2..6], u32::try_from(length).unwrap().to_le_bytes())
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
            // A statement of 17 MB is prepared as it is, on each server that needs it.
            let sql = format!("SELECT LENGTH('{}'), server FROM d.home", "w".repeat(17_000_000));
            let statement = raw.prepare(&sql).await.unwrap();
            for _ in 0..3 {
                match &raw.execute(statement.id, 0, &[], &[], &[]).await[..] {
                    [Outcome::Rows { rows, .. }] => assert_eq!(rows[0][2..6], 17_000_000u32.to_le_bytes()),
                    other => panic!("{other:?}"),
                }
            }
        }
    });
}

#[test]
fn a_streamed_statement_that_no_server_gets_leaves_the_session_in_step() {
    run(async {
        let proxy = proxy().await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        // KILL of nobody, then 20 MB of what must never be read as commands.
        let mut sql = format!("KILL {} /* ", u32::MAX).into_bytes();
        while sql.len() < 20_000_000 {
            sql.extend_from_slice(b"\x01\0\0\0\x01\x0b\0\0\0\x03DROP DATABASE d;");
        }
        sql.extend_from_slice(b" */");
        raw.send_query(&sql).await;
        // Checked by `Raw`: the number of the answer counts both frames.
        let answer = raw.outcome().await;
        assert!(matches!(&answer, Outcome::Refused(_)), "{answer:?}");
        assert_eq!(raw.text("SELECT t FROM d.one WHERE id = 1").await, "one");
    });
}

#[test]
fn too_large_is_said() {
    run(async {
        super::proxy().await;
        let proxy = Proxy::start(Cluster::shared().await, "limits: {max_packet_mib: 1}").await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        raw.run("DO 1").await;
        raw.send_query(&vec![b' '; 2_000_000]).await;
        assert!(
            matches!(raw.outcome().await, Outcome::Refused(refusal) if refusal.code == 1153 && refusal.state == "08S01")
        );
        assert!(raw.is_closed().await);
        // Past the default limit only in the fifth frame.
        let mut raw = Raw::connect(super::proxy().await.port(), APP, USUAL).await;
        for _ in 0..6 {
            let frame = [&[0xFF, 0xFF, 0xFF, 0][..], &vec![b' '; FULL_FRAME]].concat();
            if raw.send_bytes(&frame).await.is_err() {
                break;
            }
        }
        assert!(raw.is_ended().await);
    });
}

#[test]
fn a_large_result_needs_no_memory_and_the_client_sets_the_pace() {
    run(async {
        super::proxy().await;
        let proxy = Proxy::start(Cluster::shared().await, "").await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        raw.run("SET SESSION cte_max_recursion_depth = 1000000").await;
        let before = memory(proxy.process(), "VmRSS:");
        raw.send_query(
            b"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT REPEAT('r', 10000) FROM n",
        )
        .await;
        let mut stream = raw.into_stream();
        // A client that takes nothing for a while.
        sleep(Duration::from_millis(700)).await;
        let mut total = 0usize;
        let mut buffer = vec![0; 1 << 20];
        while total < 200_000_000 {
            total += stream.read(&mut buffer).await.unwrap();
        }
        let peak = memory(proxy.process(), "VmHWM:");
        println!("200 MB of rows: {} KiB more at the peak", peak.saturating_sub(before));
        assert!(peak.saturating_sub(before) < 8 << 10, "{before} KiB before, {peak} KiB at the peak");
    });
}

#[test]
fn the_first_row_comes_before_the_last() {
    run(async {
        let cluster = Cluster::shared().await;
        // Its own connections: over one that has carried a large packet, the server keeps rows for a buffer as large.
        let proxy = Proxy::start(cluster, "").await;
        let mut gate = cluster.connect(0, ROOT).await;
        let locked: Option<i64> =
            gate.query_first("SELECT GET_LOCK('second row', 0)").await.expect("it is free");
        assert_eq!(locked, Some(1));
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        // Rows of more than the server's own buffer.
        let rows = "SELECT REPEAT('x', 40000), IF(n = 1, 0, GET_LOCK('second row', 80)) \
                    FROM (VALUES ROW(1), ROW(2)) AS v(n)";
        raw.send_query(rows.as_bytes()).await;
        let count = raw.packet().await;
        assert_eq!(count, [2]);
        for _ in 0..2 {
            raw.packet().await;
        }
        assert!(raw.packet().await.len() > 40_000);
        gate.query_drop("DO RELEASE_LOCK('second row')").await.expect("it is ours");
        let (rows, end) = raw.rows().await;
        assert!(end.is_ok(), "{end:?}");
        assert_eq!(rows.len(), 1);
        assert!(rows[0].ends_with(b"1"), "the first row was withheld");
    });
}

#[test]
fn files_of_the_client_are_loaded() {
    run(async {
        let cluster = Cluster::shared().await;
        super::proxy().await;
        cluster
            .script("SET GLOBAL local_infile = ON; CREATE TABLE d.loaded (i INT PRIMARY KEY, t TEXT)")
            .await;
        let proxy = super::proxy().await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL | flag::LOCAL_FILES).await;
        let load = "LOAD DATA LOCAL INFILE 'any' INTO TABLE d.loaded";
        for round in 0..2 {
            raw.send_query(load.as_bytes()).await;
            assert_eq!(raw.outcome().await, Outcome::Infile(b"any".to_vec()));
            let lines: Vec<String> =
                (0..50_000).map(|line| format!("{}\tline {line}\n", round * 50_000 + line)).collect();
            for piece in lines.concat().as_bytes().chunks(30_000) {
                raw.continue_with(piece).await;
            }
            raw.continue_with(b"").await;
            assert!(matches!(raw.outcome().await, Outcome::Done(done) if done.affected_rows == 50_000));
        }
        // Bad lines are warnings; a refusal comes before the file is asked for.
        raw.send_query(load.as_bytes()).await;
        assert!(matches!(raw.outcome().await, Outcome::Infile(_)));
        raw.continue_with(b"not a number\n").await;
        raw.continue_with(b"").await;
        assert!(matches!(raw.outcome().await, Outcome::Done(done) if done.warnings > 0));
        assert_eq!(raw.refused("LOAD DATA LOCAL INFILE 'any' INTO TABLE d.no_such").await.code, 1146);
        assert_eq!(raw.text("SELECT COUNT(*) FROM d.loaded").await, "100000");
        // The mysql client itself.
        let file = cluster.folder().join("load.txt");
        std::fs::write(&file, "1000000\tfrom a file\n").unwrap();
        let client = cluster.home().installation().client("mysql").unwrap();
        let output = tokio::process::Command::new(client)
            .args(["--no-defaults", "--protocol=TCP", "--host=127.0.0.1", "--local-infile=1", "-N"])
            .args([
                format!("--port={}", proxy.port()),
                format!("--user={}", APP.user),
                format!("--password={}", APP.password),
            ])
            .arg(format!(
                "-eLOAD DATA LOCAL INFILE '{}' INTO TABLE d.loaded; SELECT t FROM d.loaded WHERE i = 1000000",
                file.display()
            ))
            .output()
            .await
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "from a file\n", "{output:?}");
    });
}

#[test]
#[expect(clippy::disallowed_methods, reason = "each is waited for below")]
fn many_large_statements_at_once_are_bounded() {
    run(async {
        super::proxy().await;
        let limits = "limits: {max_packet_mib: 64, statement_memory_mib: 64}";
        let proxy = Proxy::start(Cluster::shared().await, limits).await;
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(tokio::spawn({
                let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
                async move {
                    let statement = raw.prepare("SELECT LENGTH(?)").await.unwrap();
                    let mut value = vec![0xFE];
                    value.extend_from_slice(&20_000_000u64.to_le_bytes());
                    value.resize(9 + 20_000_000, b'z');
                    raw.send_execute(statement.id, 0, &[0], &[0xFC, 0], &value).await;
                    raw.command_answered().await
                }
            }));
        }
        // One that is refused may be so while it still sends.
        let mut answered = 0;
        for client in clients {
            answered += u32::from(client.await.unwrap_or(false));
        }
        assert!(answered >= 3, "{answered}");
        let mut connection = proxy.connect(APP).await;
        assert_eq!(connection.query_first::<u32, _>("SELECT 1").await.unwrap(), Some(1));
    });
}

#[test]
fn malformed_packets_close_only_their_connection() {
    run(async {
        let proxy = proxy().await;
        let mut witness = Raw::connect(proxy.port(), APP, USUAL).await;
        witness.run("SET @mine = 5").await;
        let prepared = |id: u8| vec![command::STMT_EXECUTE, id, 0, 0, 0, 0, 1, 0, 0, 0];
        for bytes in [
            vec![0, 0, 0, 0],
            vec![5, 0, 0, 0, command::STMT_EXECUTE, 1],
            vec![0xFF, 0xFF, 0xFF, 0, command::QUERY],
            vec![0xFF; 5000],
            vec![2, 0, 0, 0, command::STMT_PREPARE],
        ] {
            let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
            raw.send_bytes(&bytes).await.unwrap();
            sleep(Duration::from_millis(20)).await;
            drop(raw);
            assert_eq!(witness.text("SELECT @mine").await, "5");
        }
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        let statement = raw.prepare("SELECT ?").await.unwrap();
        // Whole packets that promise more than they hold.
        for payload in [
            prepared(u8::try_from(statement.id).unwrap()),
            [&prepared(u8::try_from(statement.id).unwrap())[..], &[0, 1, 8]].concat(),
            vec![command::STMT_EXECUTE],
            vec![command::STMT_FETCH, 1],
            vec![command::STMT_RESET],
            vec![0x0C, 1],
        ] {
            raw.send(&payload).await;
            assert_eq!(raw.packet().await[0], 0xFF, "{payload:?}");
        }
        assert_eq!(raw.text("SELECT 'in step'").await, "in step");
    });
}
