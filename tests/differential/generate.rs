//! Sessions made by chance: statements out of tables of templates, and commands of the protocol. Each session prefers some
//! kinds of them, so that what belongs together meets.

use super::support::raw::flag;

/// The schemas of the two clients of a case.
pub(crate) const SCHEMAS: [&str; 2] = ["fuzz_a", "fuzz_b"];

/// A case: what two clients do, in this order.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) capabilities: u32,
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Which client.
    pub(crate) who: usize,
    pub(crate) action: Action,
}

#[derive(Clone, Debug)]
pub(crate) enum Action {
    Query(String),
    Prepare(u8, String),
    Execute {
        slot: u8,
        parameters: Vec<Parameter>,
        cursor: bool,
    },
    Fetch(u8, u8),
    LongData(u8, String),
    ResetStatement(u8),
    CloseStatement(u8),
    InitDb(String),
    Ping,
    SetOption(bool),
    FieldList(String),
    Reset,
    ChangeUser {
        other: bool,
        schema: String,
    },
    /// Long enough for the proxy to give connections back.
    Pause,
    /// Replicas apply nothing for a moment, and serve reads on.
    HoldUpReplicas,
}

#[derive(Clone, Debug)]
pub(crate) enum Parameter {
    Number(i64),
    Text(String),
    Null,
}

/// The case of a seed.
pub(crate) fn case(seed: u64) -> Wanted {
    let mut random = Random(seed);
    let mut capabilities = flag::MULTI_RESULTS | flag::PS_MULTI_RESULTS;
    for (flag, of_ten) in [
        (flag::MULTI_STATEMENTS, 7),
        (flag::DEPRECATE_EOF, 7),
        (flag::SESSION_TRACK, 4),
        (flag::FOUND_ROWS, 2),
        (flag::OPTIONAL_RESULTSET_METADATA, 2),
        (flag::QUERY_ATTRIBUTES, 3),
    ] {
        if random.below(10) < of_ten {
            capabilities |= flag;
        }
    }
    // A few kinds of statements, each as likely as its weight says, drawn anew for each case.
    let weights: Vec<u64> = KINDS.iter().map(|_| [0, 1, 1, 4][random.index(4)]).collect();
    let count = 10 + random.below(30);
    let mut steps = Vec::new();
    while (steps.len() as u64) < count {
        // The second client does less: it is there to get what the first leaves behind.
        let who = usize::from(random.below(4) == 0);
        let action = random.action(&weights, capabilities);
        let asks =
            matches!(&action, Action::Query(sql) if sql.starts_with("SELECT ")) && random.below(6) == 0;
        steps.push(Step { who, action: without_tracking(action, capabilities) });
        if random.below(6) == 0 {
            steps.push(Step { who, action: Action::Pause });
        }
        if asks {
            // About queries only: what other statements leave of it is of no use to anybody.
            steps.push(Step { who, action: Action::Query(random.one(FOUND_ROWS).to_owned()) });
        }
    }
    hold_up_replicas(seed, &mut steps);
    Wanted { capabilities, steps }
}

/// In a third of the cases, now and then.
fn hold_up_replicas(seed: u64, steps: &mut Vec<Step>) {
    let mut random = Random(seed.rotate_left(32));
    if random.below(3) > 0 {
        return;
    }
    for Step { who, action } in std::mem::take(steps) {
        if random.below(6) == 0 {
            steps.push(Step { who, action: Action::HoldUpReplicas });
        }
        steps.push(Step { who, action });
    }
}

/// A function that sets session state, hidden in a view, is only seen in OK packets; without the flag rows end with EOF.
fn without_tracking(action: Action, capabilities: u32) -> Action {
    let plain = |text: String| text.replace("v_sets", "v");
    match action {
        _ if capabilities & flag::DEPRECATE_EOF != 0 => action,
        Action::Query(text) => Action::Query(plain(text)),
        Action::Prepare(slot, text) => Action::Prepare(slot, plain(text)),
        other => other,
    }
}

/// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>): the same numbers from the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("less than a length")
    }

    fn one<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.index(list.len())]
    }

    fn action(&mut self, weights: &[u64], capabilities: u32) -> Action {
        match self.below(20) {
            0 => self.command(),
            1..=3 => self.prepared(weights),
            4 if capabilities & flag::MULTI_STATEMENTS != 0 => {
                let mut texts: Vec<String> =
                    (0..2 + self.below(2)).map(|_| self.statement(weights)).collect();
                // What asks about the statement before asks for one connection, and the rest of the text for another.
                let asks = ["SHOW ", "GET ", "SELECT ROW_COUNT()", "SELECT @@warning_count"];
                if asks.iter().any(|question| texts[0].starts_with(question)) {
                    texts[0] = String::from("DO 1");
                }
                Action::Query(texts.join("; "))
            }
            _ => Action::Query(self.statement(weights)),
        }
    }

    fn command(&mut self) -> Action {
        match self.below(12) {
            0..=2 => Action::InitDb(self.one(&["fuzz_a", "fuzz_b", "nowhere"]).to_owned()),
            3 => Action::Ping,
            4 => Action::SetOption(self.below(2) == 0),
            5 | 6 => Action::FieldList(self.one(&["t0", "v", "nothing"]).to_owned()),
            7 | 8 => Action::Reset,
            9 => Action::ChangeUser {
                other: self.below(2) == 0,
                schema: self.one(&["fuzz_a", "", "fuzz_b"]).to_owned(),
            },
            _ => Action::Ping,
        }
    }

    /// A step of the binary protocol.
    fn prepared(&mut self, weights: &[u64]) -> Action {
        let slot = self.below(3).to_le_bytes()[0];
        match self.below(10) {
            0..=2 => {
                let template = self.one(PREPARED);
                Action::Prepare(slot, self.fill(template))
            }
            3 => Action::Prepare(slot, self.statement(weights)),
            4..=6 => {
                let parameters = (0..2).map(|_| self.parameter()).collect();
                Action::Execute { slot, parameters, cursor: self.below(4) == 0 }
            }
            7 => Action::Fetch(slot, 1 + self.below(3).to_le_bytes()[0]),
            8 => match self.below(3) {
                0 => Action::LongData(slot, self.one(&["1", "long", ""]).to_owned()),
                1 => Action::ResetStatement(slot),
                _ => Action::CloseStatement(slot),
            },
            _ => Action::Execute { slot, parameters: vec![self.parameter()], cursor: false },
        }
    }

    fn parameter(&mut self) -> Parameter {
        match self.below(5) {
            0..=2 => Parameter::Number(i64::try_from(self.below(5)).expect("small")),
            3 => Parameter::Text(self.one(&["x", "2", "it's"]).to_owned()),
            _ => Parameter::Null,
        }
    }

    fn statement(&mut self, weights: &[u64]) -> String {
        let total: u64 = weights.iter().sum();
        let mut drawn = self.below(total.max(1));
        let mut kind = KINDS[0];
        for (at, weight) in weights.iter().enumerate() {
            if drawn < *weight {
                kind = KINDS[at];
                break;
            }
            drawn -= weight;
        }
        let template = self.one(kind);
        self.fill(template)
    }

    /// Puts something for each name in braces.
    fn fill(&mut self, template: &str) -> String {
        let mut text = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').expect("braces come in pairs");
            text.push_str(before);
            match name {
                "n" => text.push_str(&self.below(5).to_string()),
                _ => {
                    let (_, choices) = PLACES
                        .iter()
                        .find(|(place, _)| *place == name)
                        .unwrap_or_else(|| panic!("{{{name}}}"));
                    let chosen = self.one(choices);
                    let filled = self.fill(chosen);
                    text.push_str(&filled);
                }
            }
            rest = after;
        }
        text + rest
    }
}

const PLACES: &[(&str, &[&str])] = &[
    ("t", &["t0", "t0", "t1", "t1", "m0", "m1", "v", "fuzz_a.t0", "fuzz_b.t1", "nothing"]),
    ("m", &["m0", "m1", "t0"]),
    ("v", &["a", "b", "c"]),
    ("s", &["'x'", "''", "NULL", "'it''s'", "\"q\"", "'\\\\'", "_latin1'\\xe4'", "'ä'", "X'41'", "DEFAULT"]),
    (
        "literal",
        &[
            "{n}",
            "-{n}",
            "1.50",
            "1e3",
            "'text'",
            "\"text\"",
            "NULL",
            "TRUE",
            "X'4142'",
            "_utf8mb4'ä'",
            "0x41",
            "b'11'",
        ],
    ),
    (
        "e",
        &[
            "1",
            "{n} + 1",
            "'a'",
            "NULL",
            "@{v}",
            "@{v} + 1",
            "CONCAT(@{v}, 'x')",
            "CAST('a' AS SIGNED)",
            "1/0",
            "ABS(-{n})",
            "DATABASE()",
            "USER()",
            "CURRENT_USER()",
            "CURRENT_ROLE()",
            "@@sql_mode",
            "@@autocommit",
            "@@session.time_zone",
            "@@transaction_isolation",
            "@@group_concat_max_len",
            "LAST_INSERT_ID()",
            "LAST_INSERT_ID({n})",
            "f_pure({n})",
            "f_reads()",
            "f_writes({n})",
            "f_sets({n})",
            "f_liar({n})",
            "nothing({n})",
            "(SELECT MAX(id) FROM {t})",
            "'a' = 0",
            "CHARSET('a')",
            "NOW() > 0",
            "UNIX_TIMESTAMP() > 5",
            "LENGTH('\\\\')",
            "'a' 'b'",
            "\"id\"",
            "GET_LOCK('{lock}', 0)",
            "IS_FREE_LOCK('{lock}')",
            "RELEASE_LOCK('{lock}')",
        ],
    ),
    ("lock", &["l0", "l1"]),
    ("level", &["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]),
    ("access", &["READ ONLY", "READ WRITE"]),
    (
        "mode",
        &[
            "''",
            "'ANSI_QUOTES'",
            "'NO_BACKSLASH_ESCAPES'",
            "DEFAULT",
            "'STRICT_TRANS_TABLES,NO_ZERO_DATE'",
            "'ANSI'",
            "CONCAT(@@sql_mode, ',PIPES_AS_CONCAT')",
            "'TRADITIONAL'",
            "'nonsense'",
            "'NO_UNSIGNED_SUBTRACTION'",
        ],
    ),
    ("charset", &["utf8mb4", "latin1", "utf8mb3", "gbk", "binary", "ascii", "nonsense", "DEFAULT"]),
    ("prepared", &["p0", "p1"]),
];

const KINDS: &[&[&str]] = &[
    READS,
    READS,
    PREVIOUS,
    WRITES,
    WRITES,
    TRANSACTIONS,
    STATE,
    USER_VARIABLES,
    LOCKS,
    TEMPORARY,
    TEXT_PREPARED,
    ROUTINES,
    ODD,
];

const READS: &[&str] = &[
    "SELECT id, a, b FROM {t} ORDER BY id",
    "SELECT a FROM {t} WHERE id = {n}",
    "SELECT COUNT(*), SUM(a) FROM {t}",
    "SELECT {e}",
    "SELECT {e}, {e} FROM {t} WHERE id = {n}",
    "SELECT b FROM {t} ORDER BY id LIMIT {n}",
    "SELECT SQL_CALC_FOUND_ROWS id FROM {t} ORDER BY id LIMIT 1",
    "SELECT id FROM {t} WHERE a = 'x{n}' ORDER BY id",
    "TABLE {t} ORDER BY 1",
    "WITH c AS (SELECT id FROM {t}) SELECT * FROM c ORDER BY id",
    "(SELECT id FROM {t} ORDER BY id LIMIT 1) UNION ALL (SELECT {n})",
    "SELECT id FROM {t} WHERE id = {n} FOR UPDATE",
    "SELECT id FROM {t} WHERE id = {n} LOCK IN SHARE MODE",
    "SELECT * FROM v_sets ORDER BY id",
    "SELECT * FROM v_writes ORDER BY id",
    "SELECT nope FROM {t}",
    "SELECT {e} AS x, b FROM t0 WHERE f_pure(a) > {n} ORDER BY id",
    "VALUES ROW({n}, {e}), ROW(1, 2)",
    "DO {e}",
    "SELECT /* readwright: primary */ a FROM {t} WHERE id = {n}",
    "SELECT GROUP_CONCAT(b ORDER BY id) FROM {t}",
    "SELECT CAST(b AS SIGNED) FROM {t} ORDER BY id",
];

const PREVIOUS: &[&str] = &[
    "SELECT ROW_COUNT()",
    "SELECT ROW_COUNT() AS n",
    "SHOW WARNINGS",
    "SHOW ERRORS",
    "SHOW WARNINGS LIMIT 1",
    "SHOW COUNT(*) WARNINGS",
    "SHOW COUNT(*) ERRORS",
    "SELECT @@warning_count, @@error_count",
    "SELECT LAST_INSERT_ID()",
    "SELECT @@last_insert_id, @@identity",
    "GET DIAGNOSTICS @{v} = NUMBER",
    "GET DIAGNOSTICS CONDITION 1 @{v} = MESSAGE_TEXT, @{v} = RETURNED_SQLSTATE",
    "SELECT @a, @b, @c",
];

const FOUND_ROWS: &[&str] = &["SELECT FOUND_ROWS()", "select found_rows() n;"];

const WRITES: &[&str] = &[
    "INSERT INTO {t} (a, b) VALUES ({n}, {s})",
    "INSERT INTO {t} (a, b) VALUES ({n}, {s}), ({n}, {s}), ({n}, 'last')",
    "INSERT INTO {t} (id, a) VALUES ({n}, {n})",
    "INSERT IGNORE INTO {t} (id, a) VALUES ({n}, {n}), (2, 2)",
    "INSERT INTO {t} (a) VALUES ('x')",
    "INSERT INTO {t} (id, a) VALUES ({n}, 1) ON DUPLICATE KEY UPDATE id = LAST_INSERT_ID(id), a = a + 1",
    "INSERT INTO {t} (a) SELECT a FROM t0 WHERE id < {n}",
    "REPLACE INTO {t} (id, a) VALUES ({n}, {n})",
    "UPDATE {t} SET a = a + {n}",
    "UPDATE {t} SET a = {n} WHERE id = {n}",
    "UPDATE {t} SET b = a WHERE id < {n}",
    "UPDATE t0 SET a = LAST_INSERT_ID(a + 1) WHERE id = 1",
    "UPDATE {t} SET a = 1000",
    "UPDATE {t} SET b = {e} WHERE id = {n}",
    "DELETE FROM {t} WHERE id > {n} + 1",
    "DELETE FROM {t} WHERE id = {n}",
    "DELETE FROM {t} WHERE a = 'x'",
    "TRUNCATE {t}",
    "CREATE TABLE IF NOT EXISTS x{n} (id INT)",
    "CREATE TABLE x{n} SELECT id, a FROM t0",
    "DROP TABLE IF EXISTS x{n}",
    "ALTER TABLE t{n} COMMENT 'c{n}'",
    "CREATE DATABASE IF NOT EXISTS fuzz_a",
];

const TRANSACTIONS: &[&str] = &[
    "BEGIN",
    "START TRANSACTION",
    "START TRANSACTION READ ONLY",
    "START TRANSACTION {access}",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "ROLLBACK",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "COMMIT AND NO CHAIN NO RELEASE",
    "SAVEPOINT s{n}",
    "ROLLBACK TO SAVEPOINT s{n}",
    "RELEASE SAVEPOINT s{n}",
    "SET autocommit = 0",
    "SET autocommit = 1",
    "SET autocommit = 1",
    "SET TRANSACTION ISOLATION LEVEL {level}",
    "SET TRANSACTION {access}",
    "SET TRANSACTION ISOLATION LEVEL {level}, {access}",
    "SET SESSION TRANSACTION {access}",
    "SET SESSION TRANSACTION ISOLATION LEVEL {level}",
    "SET @@transaction_isolation = 'READ-COMMITTED'",
    "SET transaction_read_only = {n}",
    "SET SESSION transaction_isolation = 'SERIALIZABLE'",
    "SET completion_type = {n}",
    "SELECT @@transaction_isolation, @@transaction_read_only",
    "XA START 'fuzz-{n}'",
    "XA END 'fuzz-{n}'",
    "XA PREPARE 'fuzz-{n}'",
    "XA COMMIT 'fuzz-{n}' ONE PHASE",
    "XA ROLLBACK 'fuzz-{n}'",
    "INSERT INTO t0 (a) VALUES ({n})",
    "SELECT id, a FROM t0 ORDER BY id",
];

const STATE: &[&str] = &[
    "SET NAMES {charset}",
    "SET NAMES latin1 COLLATE latin1_bin",
    "SET CHARACTER SET {charset}",
    "SET sql_mode = {mode}",
    "SET SESSION time_zone = '+0{n}:30'",
    "SET foreign_key_checks = {n}, unique_checks = 0",
    "SET group_concat_max_len = 1{n}",
    "SET sql_select_limit = {n}",
    "SET sql_select_limit = DEFAULT",
    "SET max_error_count = {n}",
    "SET sql_notes = {n}",
    "SET sql_warnings = 1",
    "SET div_precision_increment = {n}, @{v} = {literal}",
    "SET character_set_results = NULL",
    "SET character_set_results = latin1",
    "SET collation_connection = utf8mb4_bin",
    "SET sql_auto_is_null = {n}",
    "SET sql_safe_updates = {n}",
    "SET timestamp = 1700000000",
    "SET timestamp = DEFAULT",
    "SET insert_id = 50{n}",
    "SET last_insert_id = {n}",
    "SET @@session.lc_time_names = 'de_DE'",
    "SET SESSION nonsense = 1",
    "SET sql_mode = {mode}, time_zone = 'nowhere'",
    "SET max_execution_time = 1000{n}",
    "SET SESSION optimizer_switch = 'index_merge=off'",
    "SET ROLE NONE",
    "SET ROLE nobody",
    "SET default_week_format = {n}",
    "SET SESSION session_track_gtids = OWN_GTID",
    "SET SESSION session_track_schema = {n}",
    "SET SESSION session_track_state_change = {n}",
    "SET SESSION session_track_system_variables = 'sql_mode,time_zone'",
    "SET SESSION session_track_system_variables = '*'",
    "SET SESSION session_track_transaction_info = 'STATE'",
    "SET SESSION session_track_transaction_info = 'CHARACTERISTICS'",
    "SET resultset_metadata = NONE",
    "SET resultset_metadata = FULL",
    "USE fuzz_a",
    "USE fuzz_b",
    "USE nowhere",
    "SELECT @@sql_mode, @@time_zone, @@character_set_client, @@collation_connection, @@sql_select_limit, @@max_error_count",
    "SELECT @@session_track_gtids, @@session_track_schema, @@session_track_state_change, @@session_track_system_variables",
    "SELECT DATE_FORMAT(FROM_UNIXTIME(0), '%M %H'), 1/3, WEEK('2020-01-01')",
    "SHOW VARIABLES LIKE 'sql_%'",
    "SELECT b FROM t1 ORDER BY id",
];

const USER_VARIABLES: &[&str] = &[
    "SET @{v} = {literal}",
    "SET @{v} = {e}",
    "SET @{v} := @{v}",
    "SET @{v} = {literal}, @{v} = {e}",
    "SELECT @{v} := {n}",
    "SELECT a INTO @{v} FROM t0 WHERE id = {n}",
    "SELECT 1, 'two' INTO @a, @b",
    "SELECT @a, @b, @c",
    "SELECT id FROM t0 WHERE a = @{v} ORDER BY id",
    "SELECT @`{v}`, @'{v}'",
];

const LOCKS: &[&str] = &[
    "SELECT GET_LOCK('{lock}', 0)",
    "SELECT RELEASE_LOCK('{lock}')",
    "SELECT RELEASE_ALL_LOCKS()",
    "SELECT IS_FREE_LOCK('{lock}')",
    "DO GET_LOCK('{lock}', 0)",
    "LOCK TABLES t0 READ",
    "LOCK TABLES t0 WRITE, t1 READ",
    "UNLOCK TABLES",
    "UNLOCK TABLES",
    "FLUSH TABLES t0 WITH READ LOCK",
    "HANDLER {m} OPEN AS h",
    "HANDLER h READ FIRST",
    "HANDLER h READ NEXT",
    "HANDLER h CLOSE",
    "LOCK INSTANCE FOR BACKUP",
    "UNLOCK INSTANCE",
    "SELECT id, a FROM t0 ORDER BY id",
    "INSERT INTO t0 (a) VALUES ({n})",
];

const TEMPORARY: &[&str] = &[
    "CREATE TEMPORARY TABLE {m} (id INT AUTO_INCREMENT PRIMARY KEY, a INT, b VARCHAR(9))",
    "CREATE TEMPORARY TABLE IF NOT EXISTS {m} (id INT AUTO_INCREMENT PRIMARY KEY, a INT)",
    "CREATE TEMPORARY TABLE {m} SELECT id, a FROM t0",
    "CREATE TEMPORARY TABLE {m} LIKE t1",
    "DROP TEMPORARY TABLE {m}",
    "DROP TEMPORARY TABLE IF EXISTS {m}",
    "DROP TABLE IF EXISTS m{n}",
    "ALTER TABLE {m} RENAME TO m1",
    "INSERT INTO {m} (a) VALUES ({n}), ({n})",
    "SELECT * FROM {m} ORDER BY id",
    "TRUNCATE {m}",
];

const TEXT_PREPARED: &[&str] = &[
    "PREPARE {prepared} FROM 'SELECT id, a FROM t0 WHERE id = ?'",
    "PREPARE {prepared} FROM 'INSERT INTO t0 (a) VALUES (?)'",
    "PREPARE {prepared} FROM 'SELECT 1'",
    "PREPARE {prepared} FROM 'SELECT nope FROM t0'",
    "PREPARE {prepared} FROM @{v}",
    "SET @{v} = 'SELECT 2'",
    "EXECUTE {prepared}",
    "EXECUTE {prepared} USING @{v}",
    "DEALLOCATE PREPARE {prepared}",
    "DROP PREPARE {prepared}",
];

const ROUTINES: &[&str] = &[
    "CALL p_rows({n})",
    "CALL p_out(@{v})",
    "CALL p_insert({n})",
    "CALL p_state()",
    "CALL p_settings()",
    "CALL p_temporary()",
    "CALL p_begin()",
    "CALL p_lock()",
    "CALL p_warns()",
    "CALL p_fails()",
    "CALL p_next()",
    "CALL p_next_fails()",
    "CALL p_begin_fails()",
    "CALL p_state_fails()",
    "CALL p_temporary_fails()",
    "CALL p_handles()",
    "CALL nothing()",
    "SELECT f_pure({n}), f_reads()",
    "SELECT f_writes({n})",
    "SELECT f_sets({n})",
    "SELECT f_liar({n})",
    "SELECT * FROM v_sets ORDER BY id",
    "SELECT * FROM v_writes ORDER BY id",
    "UPDATE t1 SET a = a + 1",
    "SELECT * FROM log ORDER BY id",
    "SELECT @a, @b, @c",
    "CREATE FUNCTION g{n}() RETURNS INT DETERMINISTIC NO SQL RETURN {n}",
    "DROP FUNCTION IF EXISTS g{n}",
    "SELECT g{n}()",
];

const ODD: &[&str] = &[
    "",
    ";",
    "-- nothing",
    "SELEC 1",
    "SELECT 'open",
    "SHOW TABLES",
    "SHOW COLUMNS FROM {t}",
    "SHOW CREATE TABLE {t}",
    "SHOW CREATE VIEW v",
    "DESCRIBE {t}",
    "SHOW DATABASES LIKE 'fuzz%'",
    "SHOW FUNCTION STATUS WHERE Db = 'fuzz_a' AND 0",
    "EXPLAIN FORMAT=TREE SELECT 1",
    "EXPLAIN SELECT nope",
    "CHECKSUM TABLE t0",
    "ANALYZE TABLE nothing",
    "KILL 0",
    "SIGNAL SQLSTATE '01000' SET MESSAGE_TEXT = 'signalled'",
    "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'signalled', MYSQL_ERRNO = {n}000",
    "SELECT /*!80000 {n} + */ 1",
    "SELECT /*!99999 nonsense */ 1",
    "/* a */ SELECT # b\n 1 -- c",
    "SELECT SLEEP(0)",
    "SELECT 1 INTO @a; SELECT @a",
    "DO 1; DO 2",
    "SELECT 1; SELECT nope; SELECT 2",
    "INSERT INTO t0 (a) VALUES (7); SELECT ROW_COUNT(); SELECT LAST_INSERT_ID()",
    "BEGIN; INSERT INTO t0 (a) VALUES (8); ROLLBACK; SELECT COUNT(*) FROM t0",
    "HELP 'nothing at all'",
];

const PREPARED: &[&str] = &[
    "SELECT id, a, b FROM t0 WHERE id >= ? ORDER BY id",
    "SELECT ?",
    "SELECT ? + 1, CONCAT(?, 'x')",
    "INSERT INTO t0 (a, b) VALUES (?, ?)",
    "UPDATE {t} SET a = ? WHERE id = ?",
    "DELETE FROM t0 WHERE id = ?",
    "CALL p_rows(?)",
    "CALL p_out(?)",
    "CALL p_insert(?)",
    "DO ?",
    "SELECT @{v}, ?",
    "SELECT a FROM {t} WHERE id = ? FOR UPDATE",
    "SELECT f_writes(?)",
    "SELECT f_sets(?)",
    "SELECT LAST_INSERT_ID()",
    "SELECT ROW_COUNT()",
    "SHOW WARNINGS",
    "BEGIN",
    "COMMIT",
    "SET time_zone = ?",
    "SET TRANSACTION {access}",
    "USE fuzz_b",
    "SELECT GET_LOCK(?, 0)",
    "CREATE TEMPORARY TABLE {m} (id INT AUTO_INCREMENT PRIMARY KEY, a INT)",
    "DO {n}",
    "SELECT * FROM v_sets WHERE id > ? ORDER BY id",
];
