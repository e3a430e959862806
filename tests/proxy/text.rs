//! The text protocol: results of every form, and the commands beside COM_QUERY.

use mysql_async::Row;
use mysql_async::prelude::Queryable;

use super::support::cluster::{APP, Cluster, ROOT};
use super::support::raw::{Outcome, Raw, USUAL, command, flag, refusal};
use super::{proxy, run};

const TYPES: &str = "CREATE TABLE d.types (id INT PRIMARY KEY, ti TINYINT, ui INT UNSIGNED, bi BIGINT, de DECIMAL(30,10), \
     fl FLOAT, db DOUBLE, da DATE, ti6 TIME(6), dt DATETIME(6), ts TIMESTAMP NULL, ye YEAR, ch CHAR(5), vc VARCHAR(100), \
     vb VARBINARY(100), bl BLOB, tx MEDIUMTEXT, en ENUM('a','b'), se SET('x','y'), bt BIT(9), js JSON, ge GEOMETRY, \
     ve VECTOR(2)); \
     INSERT INTO d.types VALUES \
     (1, -128, 4294967295, -9223372036854775808, -12345678901234567890.0123456789, 1.5, 2.25e300, '1000-01-01', \
      '-838:59:59.000000', '9999-12-31 23:59:59.999999', '2038-01-19 03:14:07', 1901, 'ab', 'äöü', X'00FF0A', X'00', \
      REPEAT('long', 1000), 'b', 'x,y', b'101010101', '{\"a\": [1, null]}', ST_GeomFromText('POINT(1 2)'), \
      STRING_TO_VECTOR('[1,2]')), \
     (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
      NULL, NULL, NULL, NULL)";

#[test]
fn every_type_is_as_the_server_says_it() {
    run(async {
        let proxy = proxy().await;
        let cluster = Cluster::shared().await;
        cluster.script(TYPES).await;
        for capabilities in
            [USUAL, USUAL & !flag::DEPRECATE_EOF, USUAL | flag::SESSION_TRACK, USUAL | flag::QUERY_ATTRIBUTES]
        {
            let mut through = Raw::connect(proxy.port(), APP, capabilities).await;
            let mut direct = Raw::connect(cluster.server(1).port(), APP, capabilities).await;
            for sql in [
                "SELECT * FROM d.types ORDER BY id",
                "SELECT * FROM d.types WHERE id > 7",
                "SELECT NULL",
                "SELECT 1, 'two', 3.0, NULL, REPEAT('x', 300), REPEAT('y', 70000)",
                "SHOW COLUMNS FROM d.types",
                "SELECT * FROM d.no_such_table",
                "SELEKT 1",
                "",
                "/* nothing */",
                "DO 1",
                "EXPLAIN SELECT * FROM d.one",
                "SELECT 1; SELECT 2, 3; SELECT * FROM d.one",
                "SELECT 1; SELECT * FROM d.no_such_table; SELECT 3",
                "SELECT 1;",
                "SELECT * FROM d.one WHERE t = (SELECT t FROM d.one)",
            ] {
                assert_eq!(
                    through.query_all(sql).await,
                    direct.query_all(sql).await,
                    "{sql} with {capabilities:#x}"
                );
            }
            // As prepared statements, in binary.
            let prepared = through.prepare("SELECT * FROM d.types ORDER BY id").await.unwrap();
            let on_server = direct.prepare("SELECT * FROM d.types ORDER BY id").await.unwrap();
            assert_eq!((prepared.columns, prepared.parameters), (on_server.columns, on_server.parameters));
            let rows = through.execute(prepared.id, 0, &[], &[], &[]).await;
            assert_eq!(rows, direct.execute(on_server.id, 0, &[], &[], &[]).await);
        }
    });
}

#[test]
fn procedures_give_several_results() {
    run(async {
        let proxy = proxy().await;
        Cluster::shared()
            .await
            .script(
                "DELIMITER //\nCREATE PROCEDURE d.several() BEGIN SELECT 1; SELECT * FROM d.one; DO 1; SELECT 3; END//\n\
                 CREATE PROCEDURE d.fails() BEGIN SELECT 1; SIGNAL SQLSTATE '45001' SET MYSQL_ERRNO=7777, MESSAGE_TEXT='as told'; END//\n\
                 CREATE PROCEDURE d.gives(IN a INT, OUT b INT) BEGIN SET b = a + 1; SELECT a; END//",
            )
            .await;
        for capabilities in [USUAL, USUAL & !flag::DEPRECATE_EOF] {
            let mut raw = Raw::connect(proxy.port(), APP, capabilities).await;
            let all = raw.query_all("CALL d.several()").await;
            assert_eq!(all.len(), 4, "{all:?}");
            assert!(matches!(all[3], Outcome::Done(_)), "{all:?}");
            let all = raw.query_all("CALL d.fails()").await;
            match &all[..] {
                [Outcome::Rows { .. }, Outcome::Refused(refusal)] => {
                    assert_eq!((refusal.code, &*refusal.state, &*refusal.text), (7777, "45001", "as told"));
                }
                other => panic!("{other:?}"),
            }
            // A prepared CALL with an OUT parameter.
            let mut direct = Raw::connect(Cluster::shared().await.server(0).port(), APP, capabilities).await;
            let mut gives = Vec::new();
            for raw in [&mut raw, &mut direct] {
                let call = raw.prepare("CALL d.gives(?, ?)").await.unwrap();
                let parameters = [5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                gives.push(raw.execute(call.id, 0, &[0], &[8, 0, 8, 0], &parameters).await);
            }
            assert_eq!(gives[0], gives[1]);
            assert_eq!(raw.text("SELECT 'in step'").await, "in step");
        }
    });
}

#[test]
fn statements_of_one_packet_write_in_order_and_stop_at_an_error() {
    run(async {
        let proxy = proxy().await;
        Cluster::shared().await.script("CREATE TABLE d.multi (id INT PRIMARY KEY)").await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        let sql = "INSERT INTO d.multi VALUES (1); INSERT INTO d.multi VALUES (2); SELECT COUNT(*) FROM d.multi; \
                   INSERT INTO d.multi VALUES (1); INSERT INTO d.multi VALUES (3)";
        let all = raw.query_all(sql).await;
        assert_eq!(all.len(), 4, "{all:?}");
        assert!(
            matches!(&all[3], Outcome::Refused(refusal) if refusal.code == 1062 && refusal.state == "23000"),
            "{all:?}"
        );
        assert_eq!(raw.text("SELECT GROUP_CONCAT(id) FROM d.multi").await, "1,2");
        // Without the flag the server reads them as one statement, and says so.
        let mut single = Raw::connect(proxy.port(), APP, USUAL & !flag::MULTI_STATEMENTS).await;
        assert_eq!(single.refused("SELECT 1; SELECT 2").await.code, 1064);
        // COM_SET_OPTION turns it on for this session, wherever it runs, and off again.
        for (option, results) in [(0u8, 2), (1, 1), (0, 2)] {
            single.command(command::SET_OPTION, &[option, 0]).await;
            assert_eq!(single.packet().await[0], 0xFE);
            for _ in 0..4 {
                assert_eq!(single.query_all("SELECT 1; SELECT 2").await.len(), results);
                assert_eq!(single.query_all("DO 1; SELECT 2 FOR UPDATE").await.len(), results);
            }
        }
        single.change_user(APP, "").await.expect("the password is known");
        assert_eq!(single.query_all("SELECT 1; SELECT 2").await.len(), 2, "it is the connection's own");
    });
}

/// A view may write, which a replica refuses when the client has the results before it.
#[test]
fn a_text_goes_on_at_the_primary_where_a_replica_refuses_it() {
    run(async {
        let proxy = proxy().await;
        let mut maker = Raw::connect(proxy.port(), ROOT, USUAL).await;
        for sql in [
            "CREATE TABLE d.notes (id INT AUTO_INCREMENT PRIMARY KEY)",
            "CREATE FUNCTION d.note() RETURNS INT DETERMINISTIC BEGIN INSERT INTO d.notes VALUES (); RETURN 7; END",
            // Too long to be looked into.
            &format!(
                "CREATE VIEW d.v_notes AS SELECT id, d.note() AS n FROM d.one WHERE '{}' <> ''",
                "x".repeat(70_000)
            ),
        ] {
            maker.run(sql).await;
        }
        Cluster::shared().await.caught_up().await;
        let fields = |outcome: &Outcome| match outcome {
            Outcome::Rows { rows, end: Ok(_), .. } => rows.len(),
            other => panic!("{other:?}"),
        };
        for (at, capabilities) in
            [USUAL, USUAL & !flag::DEPRECATE_EOF, USUAL | flag::SESSION_TRACK].into_iter().enumerate()
        {
            let mut raw = Raw::connect(proxy.port(), APP, capabilities).await;
            // Shapes that nobody has seen.
            let text = format!(
                "SELECT server > 0 AS at_{at}, REPEAT('x', 40000) FROM d.home; SELECT * FROM d.one; \
                 SELECT * FROM d.v_notes ORDER BY id; SELECT server > 0 FROM d.home; SELECT * FROM d.no_such_table"
            );
            let all = raw.query_all(&text).await;
            let [first, rows @ .., second, refused] = &all[..] else { panic!("{all:?}") };
            assert_eq!(rows.iter().map(fields).collect::<Vec<_>>(), [2, 2]);
            assert!(matches!(refused, Outcome::Refused(refusal) if refusal.code == 1146), "{refused:?}");
            let starts = |outcome: &Outcome, with: &[u8]| match outcome {
                Outcome::Rows { rows, .. } => rows[0].starts_with(with),
                _ => false,
            };
            assert!(starts(first, b"\x011"), "from a replica");
            assert!(starts(second, b"\x010"), "from the primary");
            let count = raw.text("SELECT COUNT(*) FROM d.notes FOR UPDATE").await;
            assert_eq!(count, (2 * (at + 1)).to_string(), "it has written once");
            // From now on it is known.
            let again = raw.query_all(&text).await;
            assert!(starts(&again[0], b"\x010"), "it is known");
            raw.run("DELETE FROM d.notes ORDER BY id DESC LIMIT 2").await;
        }
        // What comes next fails on the primary too.
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        let all = raw.query_all("SELECT 1 AS fails; SELECT *, d.no_such_function() FROM d.v_notes").await;
        assert!(matches!(&all[..], [_, Outcome::Refused(_)]), "{all:?}");
    });
}

#[test]
fn small_commands_are_answered() {
    run(async {
        let proxy = proxy().await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        raw.command(command::PING, b"").await;
        assert_eq!(raw.packet().await[0], 0);
        raw.command(command::STATISTICS, b"").await;
        assert!(raw.packet().await.starts_with(b"Uptime:"));
        raw.command(command::FIELD_LIST, b"one\0").await;
        assert_eq!(refusal(&raw.packet().await).code, 1046);
        raw.command(command::INIT_DB, b"d").await;
        assert_eq!(raw.packet().await[0], 0);
        raw.command(command::FIELD_LIST, b"one\0").await;
        let (fields, end) = raw.rows().await;
        assert_eq!((fields.len(), end.is_ok()), (2, true));
        raw.command(command::INIT_DB, b"no_such_schema").await;
        assert_eq!(refusal(&raw.packet().await).code, 1049);
        assert_eq!(raw.text("SELECT DATABASE()").await, "d");
        assert_eq!(raw.text("SELECT t FROM one WHERE id = 1").await, "one");
        for unknown in [0x00, 0x05, 0x06, 0x0B, 0x0F, 0x10, 0x13, 0x14, 0x1D, 0x22, 0xFF] {
            raw.command(unknown, b"whatever").await;
            let refusal = refusal(&raw.packet().await);
            assert_eq!((refusal.code, &*refusal.state), (1047, "08S01"), "{unknown}");
        }
        // COM_REFRESH, COM_DEBUG and COM_PROCESS_INFO: whatever the server says.
        let mut direct = Raw::connect(Cluster::shared().await.server(0).port(), APP, USUAL).await;
        for old in [0x07, 0x0D, 0x0A] {
            direct.command(old, b"\x01").await;
            raw.command(old, b"\x01").await;
            assert_eq!(raw.packet().await[0], direct.packet().await[0], "{old}");
        }
        // COM_PROCESS_KILL of nobody.
        raw.command(0x0C, &[0xFF, 0xFF, 0xFF, 0x7F]).await;
        let packet = raw.packet().await;
        assert!(packet[0] == 0xFF, "{packet:?}");
        assert_eq!(raw.text("SELECT 'in step'").await, "in step");
    });
}

#[test]
fn replication_is_refused_clearly() {
    const TOLD: &str = "Readwright: replication is not relayed; connect to the MySQL server itself";
    run(async {
        let (cluster, proxy) = (Cluster::shared().await, proxy().await);
        // COM_REGISTER_SLAVE, COM_BINLOG_DUMP, COM_BINLOG_DUMP_GTID; a server closes the connection behind a dump.
        for (replication, closes) in [(0x15, false), (0x12, true), (0x1E, true)] {
            let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
            raw.command(replication, &[4, 0, 0, 0, 0, 0, 9, 0, 0, 0]).await;
            let refused = refusal(&raw.packet().await);
            assert_eq!((refused.code, refused.text.as_str()), (1227, TOLD), "{replication}");
            if closes {
                assert!(raw.is_closed().await);
            } else {
                assert_eq!(raw.text("SELECT 'in step'").await, "in step");
            }
        }
        let output =
            tokio::process::Command::new(cluster.home().installation().client("mysqlbinlog").unwrap())
                .args(["--no-defaults", "--read-from-remote-server", "--protocol=TCP", "--host=127.0.0.1"])
                .args([
                    format!("--port={}", proxy.port()),
                    format!("--user={}", APP.user),
                    format!("--password={}", APP.password),
                    "binlog.000001".to_owned(),
                ])
                .output()
                .await
                .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(TOLD), "{said}");
    });
}

#[test]
fn pipelined_commands_are_answered_in_order() {
    run(async {
        let proxy = proxy().await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        let mut bytes = Vec::new();
        let mut push = |payload: &[u8]| {
            bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes()[..3]);
            bytes.push(0);
            bytes.extend_from_slice(payload);
        };
        for number in 0..500 {
            push(format!("\x03SELECT {number}").as_bytes());
            push(b"\x0e");
            if number % 50 == 0 {
                push(format!("\x03UPDATE d.one SET t = t WHERE id = {number}").as_bytes());
            }
        }
        raw.send_bytes(&bytes).await.unwrap();
        for number in 0..500 {
            for outcome in [number.to_string(), String::new(), String::new()]
                .iter()
                .take(if number % 50 == 0 { 3 } else { 2 })
            {
                raw.next_command();
                match raw.outcome().await {
                    Outcome::Rows { rows, .. } => assert_eq!(rows[0][1..], *outcome.as_bytes()),
                    Outcome::Done(_) => assert_eq!(outcome, ""),
                    other => panic!("{other:?}"),
                }
            }
        }
    });
}

#[test]
fn errors_are_the_servers_own() {
    run(async {
        let proxy = proxy().await;
        let cluster = Cluster::shared().await;
        let mut through = Raw::connect(proxy.port(), APP, USUAL).await;
        let mut direct = Raw::connect(cluster.server(0).port(), APP, USUAL).await;
        for sql in [
            "SELECT * FROM d.no_such",
            "SELECT * FROM no_schema_chosen",
            "SELECT nothing FROM d.one",
            "INSERT INTO d.one VALUES (1, 'again')",
            "INSERT INTO d.one VALUES (1, 'again') ON DUPLICATE KEY UPDATE id = NULL",
            "SELECT d.no_function()",
            "CALL d.no_procedure()",
            "USE no_such_schema",
            "SELECT 1 FROM",
            "SET SESSION no_such_variable = 1",
            "SET SESSION sql_mode = 'NONSENSE'",
            "KILL 4294967",
            "DROP TABLE d.no_such",
            "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'mine'",
            "EXECUTE nothing",
            "LOAD DATA INFILE '/no/such/file' INTO TABLE d.one",
            "COMMIT AND CHAIN RELEASE NONSENSE",
        ] {
            assert_eq!(through.refused(sql).await, direct.refused(sql).await, "{sql}");
        }
        // A replica may say that it is read-only before it looks at them.
        for sql in [
            "INSERT INTO d.no_such VALUES (1)",
            "UPDATE d.one SET nope = 1",
            "UPDATE d.one SET t = 'x'",
            "EXPLAIN DELETE FROM d.no_such",
            "LOAD DATA LOCAL INFILE 'rows' INTO TABLE d.one",
        ] {
            for client in [&mut through, &mut direct] {
                client.run("START TRANSACTION READ ONLY").await;
            }
            assert_eq!(through.refused(sql).await, direct.refused(sql).await, "{sql}");
            for client in [&mut through, &mut direct] {
                client.run("COMMIT").await;
            }
        }
        assert_eq!(through.text("SELECT 'in step'").await, "in step");
    });
}

#[test]
fn optional_metadata_and_query_attributes() {
    run(async {
        let proxy = proxy().await;
        let cluster = Cluster::shared().await;
        for capabilities in [0, flag::DEPRECATE_EOF] {
            let capabilities =
                USUAL & !flag::DEPRECATE_EOF | capabilities | flag::OPTIONAL_RESULTSET_METADATA;
            let mut direct = Raw::connect(cluster.server(0).port(), APP, capabilities).await;
            let mut through = Raw::connect(proxy.port(), APP, capabilities).await;
            for _ in 0..2 {
                for sql in [
                    "SELECT 1, 2, 3",
                    "SELECT * FROM d.one",
                    "SELECT 1; SELECT 2, 3",
                    "SELECT 1, 2 FROM d.one FOR UPDATE",
                    "SELECT 1 WHERE 0",
                ] {
                    assert_eq!(direct.query_all(sql).await, through.query_all(sql).await, "{sql}");
                }
                for raw in [&mut direct, &mut through] {
                    let prepared = raw.prepare("SELECT ?, id FROM d.one").await.unwrap();
                    let all = raw.execute(prepared.id, 0, &[0], &[8, 0], &[1, 0, 0, 0, 0, 0, 0, 0]).await;
                    assert!(matches!(&all[..], [Outcome::Rows { rows, .. }] if rows.len() == 2), "{all:?}");
                    raw.run("SET resultset_metadata = NONE").await;
                }
            }
        }
        // A query attribute reaches the server, and ours decides where the statement runs.
        let mut raw = Raw::connect(proxy.port(), APP, USUAL | flag::QUERY_ATTRIBUTES).await;
        let attribute = |name: &str, value: &str| {
            let mut payload = vec![command::QUERY, 1, 1, 0, 1, 0xFD, 0];
            payload.push(u8::try_from(name.len()).unwrap());
            payload.extend_from_slice(name.as_bytes());
            payload.push(u8::try_from(value.len()).unwrap());
            payload.extend_from_slice(value.as_bytes());
            payload
        };
        cluster.script("INSTALL COMPONENT 'file://component_query_attributes'").await;
        for (name, value, primary) in
            [("readwright", "primary", true), ("readwright", "replica", false), ("other", "x", false)]
        {
            for (sql, seen) in [
                (format!("SELECT mysql_query_attribute_string('{name}')"), value),
                (
                    "SELECT IF(server = 0, 'primary', 'replica') FROM d.home".to_owned(),
                    if primary { "primary" } else { "replica" },
                ),
            ] {
                raw.send(&[&attribute(name, value)[..], sql.as_bytes()].concat()).await;
                match raw.outcome().await {
                    Outcome::Rows { rows, .. } => {
                        assert_eq!(rows[0][1..], *seen.as_bytes(), "{name} {value} {sql}")
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    });
}

#[test]
fn a_driver_reads_everything() {
    run(async {
        let mut connection = proxy().await.connect(APP).await;
        let rows: Vec<Row> =
            connection.query("SELECT * FROM information_schema.COLUMNS LIMIT 2000").await.unwrap();
        assert_eq!(rows.len(), 2000);
        let mut result = connection.query_iter("SELECT 1; SELECT 2; SELECT 3").await.unwrap();
        for expected in 1..=3 {
            assert_eq!(result.collect::<u32>().await.unwrap(), [expected]);
        }
        drop(result);
        connection.disconnect().await.unwrap();
    });
}
