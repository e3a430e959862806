//! The verdicts, as tables: every case of `tests/routing/cases`, effects, what the lexer must follow, and properties
//! that hold for every text.

use proptest::prelude::*;

use super::*;

const CASES: &str = include_str!("../../tests/routing/cases/routing_cases.tsv");
const OWN_CASES: &str = include_str!("../../tests/routing/cases/own_cases.tsv");

/// Lines of a case file: the statement and where it goes.
fn cases() -> impl Iterator<Item = (Vec<u8>, &'static str)> {
    CASES.lines().chain(OWN_CASES.lines()).filter(|line| !line.starts_with("# ")).map(|line| {
        let mut fields = line.split('\t');
        let (sql, expected) = (fields.next().expect("a case"), fields.next().expect("an expectation"));
        (unescape(sql), expected)
    })
}

/// `\\ \t \n \r \xHH` of the case files.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (byte, used) = match tail {
            [b'\\', ..] => (b'\\', 1),
            [b't', ..] => (b'\t', 1),
            [b'n', ..] => (b'\n', 1),
            [b'r', ..] => (b'\r', 1),
            [b'x', high, low, ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16).expect("the case has two digits") as u8;
                (digit(*high) << 4 | digit(*low), 3)
            }
            other => panic!("unknown escape in {text}: {other:?}"),
        };
        bytes.push(byte);
        rest = &tail[used..];
    }
    bytes
}

fn route(sql: &[u8], dialect: Dialect) -> &'static str {
    Classifier::new(10).classify(sql, dialect).route().label()
}

#[test]
fn every_single_case() {
    let classifier = Classifier::new(10_000);
    let mut wrong = Vec::new();
    // The second round is answered from the cache, among all other shapes.
    for (sql, expected) in cases().chain(cases()) {
        let statement = classifier.classify(&sql, Dialect::for_tests());
        let found = statement.route().label();
        if found != expected {
            let sql = String::from_utf8_lossy(&sql);
            wrong.push(format!("{sql}\n    expected {expected}, found {found}: {statement:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_lexer_follows_the_session() {
    let default = Dialect::for_tests();
    let check = |sql: &str, dialect: Dialect, expected: &str| {
        assert_eq!(route(&unescape(sql), dialect), expected, "{sql} {dialect:?}");
    };
    let no_escapes = Dialect { no_backslash_escapes: true, ..default };
    check("SELECT 'a\\\\'; DELETE FROM t WHERE id=-1; -- '", default, "either");
    check("SELECT 'a\\\\'; DELETE FROM t WHERE id=-1; -- '", no_escapes, "write");
    check("SELECT 'a\\\\' FROM t", no_escapes, "read");
    check("SELECT 'a''b', N'\\\\' FROM t", no_escapes, "read");

    let ansi = Dialect { ansi_quotes: true, ..default };
    check("SELECT \"a\\\\\" FROM t FOR UPDATE -- \"", default, "either");
    check("SELECT \"a\\\\\" FROM t FOR UPDATE -- \"", ansi, "write");
    check("SELECT \"f_write\"(1)", ansi, "write");
    check("SELECT \"GET_LOCK\"('l',0)", ansi, "pin");
    check("SELECT \"for update\" FROM t", ansi, "read");

    let ignore_space = Dialect { ignore_space: true, ..default };
    check("SELECT COUNT (*) FROM t", default, "write");
    check("SELECT COUNT (*) FROM t", ignore_space, "read");
    check("SELECT COUNT/**/(*) FROM t", ignore_space, "write");

    let charset = |charset| Dialect { charset, ..default };
    let sjis = "SELECT '\\x95\\\\', a FROM t FOR UPDATE -- '";
    check(sjis, default, "either");
    check(sjis, charset(Charset::Sjis), "write");
    check("SELECT '\\xbf\\\\', a FROM t FOR UPDATE -- '", charset(Charset::Gbk), "write");
    check("SELECT '\\xbf\\\\', a FROM t FOR UPDATE -- '", charset(Charset::Gb18030), "write");
    check("SELECT '\\xa5\\\\', a FROM t FOR UPDATE -- '", charset(Charset::Big5), "write");
    check("SELECT '\\x81\\x30\\x81\\x30' FROM t FOR UPDATE", charset(Charset::Gb18030), "write");
    check("SELECT `\\xbf` FROM t` FROM t", charset(Charset::Gbk), "read");
    check("SELECT `\\xbf` FROM t` FROM t", default, "write");
    // A half katakana is no first byte.
    check("SELECT '\\xb1\\\\', a FROM t FOR UPDATE -- '", charset(Charset::Sjis), "either");
    check("SELECT a FROM t FOR\\xa0UPDATE", charset(Charset::EightBit), "write");
    check("SELECT \\xe9t\\xe9 FROM t", charset(Charset::EightBit), "read");
    check("SELECT \\xc3\\xa0 FROM t", default, "read");
    check("SELECT \\xe9 FROM t", default, "write");

    let version = |version| Dialect { version, ..default };
    check("/*!80400 DELETE FROM t */ SELECT 1", version(80_036), "either");
    check("/*!80400 DELETE FROM t */ SELECT 1", version(80_400), "write");
    check("/*!080000 DELETE FROM t */ SELECT 1", version(50_744), "write");
    check("/*!110101 DELETE FROM t */ SELECT 1", version(90_704), "either");
    check("SELECT STRING_TO_VECTOR('[1]')", version(80_036), "write");
    check("SELECT X(g) FROM t", version(50_744), "read");

    let mariadb = Dialect { version: 101_106, mariadb: true, ..default };
    check("/*M! DELETE FROM t */ SELECT 1", default, "either");
    check("/*M! DELETE FROM t */ SELECT 1", mariadb, "write");
    check("/*M!100100 DELETE FROM t */ SELECT 1", mariadb, "write");
    check("/*!50701 DELETE FROM t */ SELECT 1", mariadb, "either");
    check("/*!50600 DELETE FROM t */ SELECT 1", mariadb, "write");
    check("SELECT NEXTVAL(s)", mariadb, "write");
    check("SELECT s.nextval", mariadb, "write");
    check("SELECT LINESTRING(POINTFROMTEXT('POINT(1 1)'), p) FROM t", mariadb, "read");
    check("SELECT LINESTRING()", mariadb, "write");
    check("SELECT POINT(1)", mariadb, "write");
    check("SELECT POINT(1)", default, "read");
    check("SELECT JSON_TABLE('[1]')", mariadb, "write");
    check("WITH polygon (a, b) AS (SELECT 1, 2) SELECT * FROM polygon", mariadb, "read");
    check("SELECT RANK() OVER (ORDER BY a) FROM t", mariadb, "read");
    check("SELECT RANK () OVER (ORDER BY a) FROM t", mariadb, "write");
    check("SELECT SQL_CACHE(1)", default, "write");
    check("SELECT CAST(a AS DATETIME(6)) FROM t", mariadb, "read");
    check(
        "SELECT PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY a) OVER (PARTITION BY b) FROM t",
        mariadb,
        "read",
    );
    check("SELECT @@last_gtid", mariadb, "write");
    check("SELECT * FROM information_schema.SLAVE_STATUS", mariadb, "write");
    check("SHOW SLAVE 'x' STATUS", mariadb, "read");
    check("BACKUP STAGE START", mariadb, "pin");
}

#[test]
fn effects() {
    let name = |name: &str| -> Box<[u8]> { Box::from(name.as_bytes()) };
    let check = |sql: &str, expected: &[Effect]| {
        let statement = Classifier::new(10).classify(sql.as_bytes(), Dialect::for_tests());
        assert_eq!(statement.effects, expected, "{sql}");
    };
    let pin = Effect::Pin;
    let lock = |lock: &str| pin(Cause::NamedLock(Some(name(lock))));
    let variables =
        |names: &[&str]| Effect::SetVariables(names.iter().map(|name| Box::from(*name)).collect());
    let user = |variable: &str, literal: &str| Effect::SetUserVariable {
        name: name(variable),
        literal: name(literal),
    };
    check("SELECT GET_LOCK('My\\'Lock',1)", &[lock("my'lock")]);
    check("SELECT GET_LOCK('a',1), GET_LOCK('b',1)", &[lock("a"), lock("b")]);
    check("SELECT GET_LOCK(CONCAT('a','b'),1)", &[pin(Cause::NamedLock(None))]);
    check("SELECT GET_LOCK('a' 'b',1)", &[pin(Cause::NamedLock(None))]);
    check("SELECT RELEASE_LOCK('A')", &[Effect::Release(Release::NamedLock(Some(name("a"))))]);
    check("DO RELEASE_ALL_LOCKS()", &[Effect::Release(Release::AllNamedLocks)]);
    check("CREATE TEMPORARY TABLE `D`.`X``y` (a INT)", &[pin(Cause::TemporaryTable(name("d.x`y")))]);
    check(
        "DROP TEMPORARY TABLE IF EXISTS A, d.B",
        &[Effect::Release(Release::TemporaryTables(vec![name("a"), name("d.b")]))],
    );
    check("HANDLER d.T OPEN AS H", &[pin(Cause::Handler(name("h")))]);
    check("HANDLER d.T OPEN", &[pin(Cause::Handler(name("t")))]);
    check("HANDLER t CLOSE", &[Effect::Release(Release::Handler(name("t")))]);
    check("PREPARE S FROM 'SELECT ?'", &[pin(Cause::TextPrepared(name("s")))]);
    check(
        "PREPARE s FROM 'SELECT GET_LOCK(''k'',1)'",
        &[pin(Cause::TextPrepared(name("s"))), pin(Cause::NamedLock(None))],
    );
    check("DEALLOCATE PREPARE `S`", &[Effect::Release(Release::TextPrepared(name("s")))]);
    check("SET @A=5, @b='x''y', @c=-1", &[user("a", "5"), user("b", "'x''y'"), user("c", "-1")]);
    check("SET @a=\"x\", @b=_utf8mb4\"y\"", &[user("a", "'x'"), user("b", "_utf8mb4'y'")]);
    for literal in ["'\\n'", "'\u{e9}'", "\"it's\"", "\"a\"\"b\""] {
        check(&format!("SET @a={literal}"), &[pin(Cause::UserVariable(Some(name("a"))))]);
    }
    check("SET @a=5, sql_mode='', @b=NULL", &[user("a", "5"), variables(&["sql_mode"]), user("b", "NULL")]);
    check("SET @a=(SELECT 1)", &[pin(Cause::UserVariable(Some(name("a"))))]);
    check(
        "SELECT 1, 2 INTO @a, @`B c`",
        &[pin(Cause::UserVariable(Some(name("a")))), pin(Cause::UserVariable(Some(name("b c"))))],
    );
    check("SET SQL_LOG_BIN=0", &[pin(Cause::Variable("sql_log_bin"))]);
    check("SET sql_log_bin=ON", &[Effect::Restore(Cause::Variable("sql_log_bin"))]);
    check("SET @@timestamp=DEFAULT", &[Effect::Restore(Cause::Variable("timestamp"))]);
    check("SET gtid_next='AUTOMATIC'", &[Effect::Restore(Cause::Variable("gtid_next"))]);
    check("SET gtid_next=AUTOMATIC", &[Effect::Restore(Cause::Variable("gtid_next"))]);
    check("SET GLOBAL max_connections=5", &[]);
    check("SET GLOBAL max_connections=5, SESSION sql_mode=''", &[variables(&["sql_mode"])]);
    check("SET SESSION TRANSACTION READ ONLY", &[variables(&["transaction_read_only"])]);
    check(
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE",
        &[variables(&["transaction_isolation", "transaction_read_only"])],
    );
    let next = |access, isolation| Effect::NextTransaction { access, isolation };
    check("SET TRANSACTION READ ONLY", &[next(Some(Access::ReadOnly), None)]);
    check(
        "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED, READ WRITE",
        &[next(Some(Access::ReadWrite), Some(Isolation::ReadUncommitted))],
    );
    check("SET @@transaction_isolation='SERIALIZABLE'", &[next(None, Some(Isolation::Serializable))]);
    check("SET transaction_isolation='SERIALIZABLE'", &[variables(&["transaction_isolation"])]);
    check("SET @@transaction_read_only=ON", &[next(Some(Access::ReadOnly), None)]);
    check(
        "SET collation_connection=latin1_bin",
        &[variables(&["collation_connection", "character_set_connection"])],
    );
    check(
        "SET NAMES latin1",
        &[variables(&[
            "character_set_client",
            "character_set_connection",
            "character_set_results",
            "collation_connection",
        ])],
    );
    check("SET SESSION kind.name=1", &[variables(&["kind.name"])]);
    check("SET ROLE r", &[pin(Cause::Role)]);
    check("COMMIT RELEASE", &[Effect::Disconnects]);
    check("COMMIT AND NO CHAIN NO RELEASE", &[]);
    check("BEGIN; SELECT 1", &[Effect::Begins]);
    check("BEGIN; SELECT 1; COMMIT", &[]);
    check("GRANT SELECT ON d.* TO u@'%'", &[Effect::AccountsChange]);
    check("FLUSH PRIVILEGES", &[Effect::AccountsChange]);
    check("SELECT SQL_CALC_FOUND_ROWS a FROM t", &[Effect::CountsFoundRows]);
    check("XA START 'x'", &[pin(Cause::Xa)]);
    check("XA PREPARE 'x'", &[Effect::Release(Release::Xa)]);
    check("XA COMMIT 'x'", &[]);
    check("UNLOCK TABLES", &[Effect::Release(Release::Tables)]);
    check("CREATE PROCEDURE p() BEGIN SET @a=1; SELECT GET_LOCK('a',1); END", &[Effect::RoutinesChange]);
    check("ALTER FUNCTION f READS SQL DATA", &[Effect::RoutinesChange]);
    check("DROP FUNCTION IF EXISTS f", &[Effect::RoutinesChange]);
    check(
        "CREATE PROCEDURE p() BEGIN IF 1 THEN SELECT 1; END IF; END; LOCK TABLES t READ",
        &[Effect::RoutinesChange, pin(Cause::TableLocks)],
    );
    check(
        "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.a=1; SELECT GET_LOCK('a',1)",
        &[Effect::RoutinesChange, lock("a")],
    );
    check(
        "CREATE TEMPORARY TABLE x AS SELECT GET_LOCK('a',1)",
        &[pin(Cause::TemporaryTable(name("x"))), lock("a")],
    );
}

#[test]
fn kinds_needs_and_hints() {
    let check = |sql: &str, kind: Kind| {
        let statement = Classifier::new(10).classify(sql.as_bytes(), Dialect::for_tests());
        assert_eq!(statement.kind, kind, "{sql}");
    };
    check("KILL 5", Kind::Kill { id: Some(5), whole_connection: true });
    check("KILL QUERY 18446744073709551615", Kind::Kill { id: Some(u64::MAX), whole_connection: false });
    check("KILL CONNECTION_ID()", Kind::Kill { id: None, whole_connection: true });
    check("KILL QUERY connection_id()", Kind::Kill { id: None, whole_connection: false });
    check("KILL CONNECTION_ID() + 1", Kind::Write);
    check("KILL 18446744073709551616", Kind::Write);
    check("KILL 5; SELECT 1", Kind::Write);
    check("START TRANSACTION", Kind::Begin(Access::Unspecified));
    check("START TRANSACTION READ WRITE", Kind::Begin(Access::ReadWrite));
    check("SHOW WARNINGS", Kind::Previous);
    check("SELECT FOUND_ROWS()", Kind::Previous);
    check("SELECT FOUND_ROWS(); SELECT a FROM t", Kind::Write);

    let needs = |sql: &str, last_insert_id: bool, user_variables: bool| {
        let statement = Classifier::new(10).classify(sql.as_bytes(), Dialect::for_tests());
        assert_eq!(statement.needs, Needs { last_insert_id, user_variables, ..Needs::default() }, "{sql}");
    };
    for (sql, previous) in [
        ("INSERT INTO t VALUES (ROW_COUNT())", true),
        ("UPDATE t SET a = @@warning_count", true),
        ("SHOW WARNINGS; SELECT a FROM t", true),
        ("GET DIAGNOSTICS @n = NUMBER; UPDATE t SET a = 1", true),
        ("INSERT INTO t VALUES ('ROW_COUNT()')", false),
    ] {
        let statement = Classifier::new(10).classify(sql.as_bytes(), Dialect::for_tests());
        assert_eq!((statement.kind, statement.needs.previous), (Kind::Write, previous), "{sql}");
    }
    needs("INSERT INTO t VALUES (LAST_INSERT_ID(), @u)", true, true);
    needs("SELECT @@identity", true, false);
    needs("CALL p()", true, false);
    needs("LOAD DATA LOCAL INFILE 'a' INTO TABLE t", true, false);
    needs("GRANT SELECT ON d.* TO u@'%'", false, false);
    needs("EXECUTE s USING @a", false, true);
    needs("SELECT 'LAST_INSERT_ID() @u'", false, false);

    let hint = |sql: &str, hint: Option<Hint>| {
        let statement = Classifier::new(10).classify(sql.as_bytes(), Dialect::for_tests());
        assert_eq!(statement.hint, hint, "{sql}");
    };
    hint("/* readwright: primary */ SELECT 1", Some(Hint::Primary));
    hint("SELECT a FROM t /*READWRIGHT:Replica*/", Some(Hint::Replica));
    hint("SELECT a FROM t -- readwright: primary\n", Some(Hint::Primary));
    hint("SELECT /*readwright : primary*/ a /* readwright: replica */ FROM t", Some(Hint::Primary));
    hint("SELECT '/* readwright: primary */'", None);
    hint("/* readwright: elsewhere */ SELECT 1", None);
    hint("/* not readwright: primary */ SELECT 1", None);
}

/// As 9.7.4 does.
#[test]
fn what_is_left_for_found_rows() {
    use Counts::{Incidental, NotEven, Nothing, One, Rows, Unknown};
    for (sql, counts) in [
        ("SELECT a FROM t LIMIT 3", Rows),
        ("(SELECT 1) UNION (SELECT 2)", Rows),
        ("SELECT a FROM t LIMIT 1, 2", Incidental),
        ("SELECT SQL_CALC_FOUND_ROWS a FROM t", Unknown),
        ("WITH c AS (SELECT 1) SELECT * FROM c", Rows),
        ("WITH c AS (SELECT 1) DELETE FROM t WHERE a IN (SELECT * FROM c)", Incidental),
        ("SHOW TABLES", Rows),
        ("SHOW FULL COLUMNS FROM t", Rows),
        ("SHOW WARNINGS", Nothing),
        ("SHOW CREATE TABLE t", Nothing),
        ("DESCRIBE t", Rows),
        ("EXPLAIN SELECT a FROM t", Nothing),
        ("EXPLAIN UPDATE t SET a = 1", Nothing),
        ("EXPLAIN ANALYZE SELECT a FROM t", Unknown),
        ("INSERT INTO t VALUES (1)", Nothing),
        ("INSERT INTO t SELECT 1", Incidental),
        ("INSERT INTO t TABLE s", Incidental),
        ("DELETE FROM t WHERE a = 1", Nothing),
        ("DELETE FROM t USING t JOIN s", Unknown),
        ("DELETE FROM t WHERE a IN (SELECT a FROM s)", Incidental),
        ("DELETE t FROM t, s", Unknown),
        ("UPDATE t SET a = 1", Incidental),
        ("CALL p()", Unknown),
        ("DO 1", One),
        ("SET @a = (SELECT 1)", Nothing),
        ("GET DIAGNOSTICS @n = NUMBER", NotEven),
        ("SELECT 1; SELECT 2", Rows),
        ("CALL p(); SELECT 2", Rows),
        ("INSERT INTO t SELECT 1; SELECT a FROM t", Rows),
        ("SELECT a FROM t LIMIT 1, 2; SELECT a FROM t", Rows),
        ("SET @a = 1; COMMIT", Nothing),
        ("UPDATE t SET a = 1; COMMIT", Incidental),
        ("CALL p(); COMMIT", Unknown),
        ("SELECT 1; COMMIT", Unknown),
        ("SET @a = 1; GET DIAGNOSTICS @n = NUMBER", Unknown),
    ] {
        let statement = Classifier::new(10).classify(sql.as_bytes(), Dialect::for_tests());
        assert_eq!(statement.counts, counts, "{sql}");
    }
}

#[test]
fn a_shape_is_what_a_verdict_depends_on() {
    let key = shape::ShapeKey::random();
    let shape = |sql: &str| key.shape(sql.as_bytes(), Dialect::for_tests());
    let same = |a: &str, b: &str| assert_eq!(shape(a), shape(b), "{a} / {b}");
    let other = |a: &str, b: &str| assert_ne!(shape(a), shape(b), "{a} / {b}");
    same("SELECT a FROM t WHERE id=1", "select A from T where id = 'x' -- c");
    same("SELECT a FROM t WHERE id IN (1,2,3)", "SELECT a FROM t WHERE id IN (4)");
    same("INSERT INTO t VALUES (1,'a'),(2,'b')", "INSERT INTO t VALUES (1,'a')");
    same("SELECT 1 /*!50000 , a */ FROM t", "SELECT 1, a FROM t");
    same("SELECT 1 /*!99999 , a */ FROM t", "SELECT 1 FROM t");
    same("SELECT ?", "SELECT 'long'");
    other("SELECT a FROM t", "SELECT `a` FROM t");
    other("SELECT `a` FROM t", "SELECT `b` FROM t");
    other("SELECT f(1)", "SELECT f (1)");
    other("SELECT t.update", "SELECT t update");
    other("SELECT t.update", "SELECT t. update");
    other("SELECT abcdefgh", "SELECT abcdefg h");
    other("SELECT abcdefghi", "SELECT abcdefgh");
    other("SELECT 1", "/* readwright: primary */ SELECT 1");
    other("SELECT 'x'", "SELECT 'x");
    other("SELECT @a", "SELECT @b");
    other("SELECT 1, (2), (a)", "SELECT 1, (2), (b)");
    other("VALUES (1), (2), (a)", "VALUES (1), (2)");
    other("SELECT \u{105}", "SELECT \u{125}");
    for upper in b'A'..=b'Z' {
        let word = |byte: u8| format!("SELECT x{0}yyyyyyyy{0}", char::from(byte));
        same(&word(upper), &word(upper.to_ascii_lowercase()));
    }
    let ansi = Dialect { ansi_quotes: true, ..Dialect::for_tests() };
    assert_ne!(key.shape(b"SELECT 1", ansi), shape("SELECT 1"));
}

#[test]
fn a_refused_shape_is_a_write_from_then_on() {
    let classifier = Classifier::new(10);
    let dialect = Dialect::for_tests();
    let check = |sql: &str, expected: &str| {
        assert_eq!(classifier.classify(sql.as_bytes(), dialect).route().label(), expected, "{sql}");
    };
    check("SELECT * FROM v_fn WHERE a=1", "read");
    classifier.learn_write(b"SELECT * FROM v_fn WHERE a=2", dialect);
    check("SELECT * FROM v_fn WHERE a=3", "write");
    check("SELECT * FROM v WHERE a=3", "read");
    check("SHOW VARIABLES LIKE 'sql_mode'", "either");
    classifier.learn_write(b"SHOW VARIABLES LIKE 'sql_mode'", dialect);
    check("SHOW VARIABLES LIKE 'time_zone'", "write");
}

#[test]
fn a_head_is_never_a_read() {
    let classifier = Classifier::new(10);
    let head = |sql: &str| classifier.classify_head(sql.as_bytes(), Dialect::for_tests());
    assert_eq!(head("SELECT a FROM t WHERE b='xxxx").kind, Kind::Write);
    assert_eq!(head("SELECT 1").reason, Reason::TooLong);
    assert_eq!(head("SELECT GET_LOCK('a',1), 'xxxx").effects.len(), 1);
    assert_eq!(head("BEGIN; INSERT INTO t VALUES ('xxx").effects, [Effect::Begins]);
}

#[test]
fn literals_decide_where_they_matter() {
    let classifier = Classifier::new(10);
    let check = |sql: &str, expected: &str| {
        let found = classifier.classify(sql.as_bytes(), Dialect::for_tests()).route().label();
        assert_eq!(found, expected, "{sql}");
    };
    check("SHOW VARIABLES LIKE 'sql_mode'", "either");
    check("SHOW VARIABLES LIKE 'read_only'", "write");
    check("SET sql_auto_is_null=0", "either");
    check("SET sql_auto_is_null=1", "pin");
    check("SET NAMES utf8mb4; SELECT 'a' FROM t", "read");
    check("SET NAMES utf8mb4; SELECT 'a\\'' FROM t", "write");
}

#[test]
fn long_texts_take_linear_time() {
    let list = |rows: usize| {
        let mut sql = String::from("SELECT a FROM t WHERE id IN (0");
        for id in 0..rows {
            sql.push_str(&format!(",{id}+f"));
        }
        sql + ")"
    };
    let nested = "(".repeat(500_000) + "SELECT 1" + &")".repeat(500_000);
    assert_eq!(route(list(100_000).as_bytes(), Dialect::for_tests()), "read");
    assert_eq!(route(nested.as_bytes(), Dialect::for_tests()), "either");
    assert_eq!(route("SELECT f(a,".repeat(100_000).as_bytes(), Dialect::for_tests()), "write");
    assert_eq!(route("SELECT @a,".repeat(100_000).as_bytes(), Dialect::for_tests()), "either");
    assert_eq!(route("SET sql_mode='';SET a=1;".repeat(50_000).as_bytes(), Dialect::for_tests()), "write");
    assert_eq!(
        route("DO GET_LOCK('a',1);BEGIN;COMMIT;".repeat(30_000).as_bytes(), Dialect::for_tests()),
        "pin"
    );
    assert_eq!(route("SELECT 1;".repeat(100_000).as_bytes(), Dialect::for_tests()), "either");
}

fn any_dialect() -> impl Strategy<Value = Dialect> {
    let charset = prop_oneof![
        Just(Charset::AsciiSafe),
        Just(Charset::EightBit),
        Just(Charset::Gbk),
        Just(Charset::Gb18030),
        Just(Charset::Big5),
        Just(Charset::Sjis),
    ];
    let version = prop_oneof![Just(50_744), Just(80_036), Just(90_704), Just(101_106)];
    (any::<[bool; 5]>(), charset, version).prop_map(|(flags, charset, version)| Dialect {
        no_backslash_escapes: flags[0],
        ansi_quotes: flags[1],
        ignore_space: flags[2],
        mariadb: flags[3],
        multi_statements: flags[4],
        charset,
        version,
    })
}

/// Pieces that statements are made of, for texts that look more like SQL than random bytes do.
fn any_pieces() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&'static [u8]> = vec![
        b"SELECT",
        b"FROM",
        b"t",
        b"(",
        b")",
        b",",
        b";",
        b"'",
        b"\"",
        b"`",
        b"\\",
        b"@",
        b"@@",
        b":=",
        b"=",
        b".",
        b"/*",
        b"*/",
        b"/*!",
        b"/*!50000",
        b"/*!99999",
        b"/*+",
        b"--",
        b"-- ",
        b"#",
        b"\n",
        b" ",
        b"FOR",
        b"UPDATE",
        b"SET",
        b"INTO",
        b"BEGIN",
        b"END",
        b"CREATE",
        b"PROCEDURE",
        b"f",
        b"GET_LOCK",
        b"1",
        b"1e",
        b"0x",
        b"N'",
        b"x'",
        b"$$",
        b"\x81",
        b"\xa0",
        b"\xe3\x81\x82",
        b"\0",
        b"PREPARE",
        b"FROM",
        b"KILL",
        b"SHOW",
        b"global",
    ];
    prop::collection::vec(prop::sample::select(pieces), 0..24).prop_map(|pieces| pieces.concat())
}

/// Statements of the tables that can take something at their end: no comment or unclosed quote there.
fn open_reads() -> impl Iterator<Item = Vec<u8>> {
    cases()
        .filter(|(sql, expected)| {
            let text = String::from_utf8_lossy(sql);
            let tail = ["#", "-- ", "--\t", ";", "INTO", "/*!"];
            *expected == "read" && sql.starts_with(b"SELECT") && !tail.iter().any(|tail| text.contains(tail))
        })
        .map(|(sql, _)| sql)
}

#[test]
fn a_lock_at_the_end_of_any_read_is_seen() {
    let mut count = 0;
    for sql in open_reads() {
        for lock in [&b" FOR UPDATE"[..], b"/**/for\tShare", b" LOCK IN SHARE MODE", b" /*!FOR*/ UPDATE;"] {
            let locked = [sql.as_slice(), lock].concat();
            assert_eq!(route(&locked, Dialect::for_tests()), "write", "{}", String::from_utf8_lossy(&locked));
            count += 1;
        }
        let stored = [sql.as_slice(), b" INTO @a"].concat();
        assert_eq!(route(&stored, Dialect::for_tests()), "pin", "{}", String::from_utf8_lossy(&stored));
    }
    assert!(count > 300, "{count}");
}

/// The text with `blank` put between every two tokens that may have one: not beside a dot or a sign that the server
/// joins, not between a function and its parenthesis.
fn spread(sql: &[u8], blank: &[u8], dialect: Dialect) -> Vec<u8> {
    let mut lexer = scan::Lexer::new(sql, dialect);
    let mut out = Vec::new();
    let (mut from, mut before_is_sign) = (0, true);
    while let Some(token) = lexer.next() {
        let sign = matches!(
            token.kind,
            scan::TokenKind::Sign(
                b'.' | b'(' | b'*' | b'/' | b'-' | b'!' | b'<' | b'>' | b'=' | b'|' | b'&' | b'{'
            ) | scan::TokenKind::SystemMark
                | scan::TokenKind::Text
        );
        if !sign && !before_is_sign && token.gap != scan::Gap::None {
            out.extend_from_slice(blank);
        }
        out.extend_from_slice(&sql[from..lexer.position()]);
        from = lexer.position();
        before_is_sign = sign;
    }
    out.extend_from_slice(&sql[from..]);
    out
}

#[test]
fn blanks_and_comments_between_tokens_change_nothing() {
    for (sql, expected) in cases() {
        for blank in [&b" "[..], b"\n\t", b"/* FOR UPDATE */", b"-- x\n", b"#'\n", b"/*!99999 DELETE */"] {
            let spread = spread(&sql, blank, Dialect::for_tests());
            let found = route(&spread, Dialect::for_tests());
            assert_eq!(found, expected, "{}", String::from_utf8_lossy(&spread));
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(sql in prop::collection::vec(any::<u8>(), 0..200), dialect in any_dialect()) {
        let classifier = Classifier::new(10);
        let first = classifier.classify(&sql, dialect);
        prop_assert_eq!(&first, &classifier.classify(&sql, dialect));
        classifier.learn_write(&sql, dialect);
        prop_assert_ne!(classifier.classify(&sql, dialect).kind, Kind::Read);
        prop_assert_eq!(classifier.classify_head(&sql, dialect).kind, Kind::Write);
    }

    #[test]
    fn the_cache_never_changes_a_verdict(
        texts in prop::collection::vec(any_pieces(), 1..20),
        dialect in any_dialect(),
    ) {
        let shared = Classifier::new(100);
        for sql in &texts {
            let alone = Classifier::new(1).classify(sql, dialect);
            prop_assert_eq!(shared.classify(sql, dialect), alone, "{}", String::from_utf8_lossy(sql));
        }
    }

    #[test]
    fn a_write_in_a_text_makes_the_text_a_write(sql in any_pieces(), dialect in any_dialect()) {
        let text = [b"DELETE FROM t;".as_slice(), &sql].concat();
        prop_assert_ne!(route(&text, dialect), "read");
        prop_assert_ne!(route(&text, dialect), "either");
    }
}
