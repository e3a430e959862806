//! One client of a case: carries its steps out and writes down all that it sees, but for what must differ between two
//! servers.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::generate::{Action, Ends, Parameter};
use super::support::cluster::Account;
use super::support::raw::{Done, Outcome, PreparedAs, Raw, Refusal, command, flag};

/// Its host is the same on both sides, and so all that a server says of it.
pub(crate) const ACCOUNT: Account = Account { user: "fuzz", password: "fuzz-password" };
pub(crate) const OTHER_ACCOUNT: Account = Account { user: "fuzz2", password: "fuzz2-password" };

/// The connection is of no more use after what begins so.
pub(crate) const BROKEN: &str = "BROKEN";
const CLOSED: &str = "CLOSED";

pub(crate) struct Player {
    raw: Raw,
    port: u16,
    schema: String,
    capabilities: u32,
    statements: HashMap<u8, PreparedAs>,
    /// With what they were executed last.
    values: HashMap<u8, Vec<Parameter>>,
    /// Those that were prepared with user variables.
    of_variables: HashSet<u8>,
    /// FOUND_ROWS() is about something.
    finds: bool,
    /// The session has set what it wants to be told of its transactions.
    asks_of_transactions: bool,
    in_transaction: bool,
    /// The last answer was an error, or ended with rows in the old form. What has changed before that the next answer tells,
    /// if nobody has asked before.
    untold: bool,
}

pub(crate) fn is_over(seen: &str) -> bool {
    seen.starts_with(BROKEN) || seen.starts_with(CLOSED)
}

/// A read-only transaction runs on a replica. What would do harm there is refused when the transaction has read; and where it
/// is ended for a statement that only the primary can run, the answer does not tell of the end.
/// What a view has set there cannot come along to the primary. And what the primary has locked is read on replicas.
pub(crate) fn is_known(action: &Action, expected: &str, seen: &str) -> bool {
    const REFUSED: &str = "Readwright: this read-only transaction has read on a replica";
    /// SESSION_TRACK_TRANSACTION_STATE: there is none.
    const ENDED: &str = " changed 5:\\x08________";
    if expected.starts_with(BROKEN) {
        // A statement that was executed with a cursor, and then without, may get no answer of a server (seen in 9.7.4).
        return true;
    }
    /// ER_LOCK_WAIT_TIMEOUT.
    const WAITED: &str = "refused 1205 ";
    let reads = match action {
        Action::Query(sql) => !sql.contains(" FOR UPDATE") && !sql.contains(" LOCK IN SHARE MODE"),
        _ => false,
    };
    let reads_what_is_locked = reads && expected.starts_with(WAITED) && seen.starts_with("rows");
    const LEFT: &str = "has left session state on";
    seen.contains(REFUSED)
        || seen.contains(LEFT)
        || reads_what_is_locked
        || expected.contains(ENDED) && !seen.contains(ENDED)
}

/// Ends what an earlier case left behind and others would wait for: its prepared transactions. Its connections let go of
/// their locks a moment after its clients are gone.
pub(crate) async fn clean(root: &mut Raw) {
    const FREE: &str = "SELECT IS_FREE_LOCK('l0') AND IS_FREE_LOCK('l1')";
    if let Outcome::Rows { rows, .. } = root.query("XA RECOVER CONVERT XID").await {
        for row in rows {
            let text = String::from_utf8_lossy(&row).into_owned();
            if let Some(at) = text.find("0x") {
                let _ = root.query(&format!("XA ROLLBACK X'{}'", &text[at + 2..])).await;
            }
        }
    }
    // As MariaDB writes them.
    if let Outcome::Rows { rows, .. } = root.query("XA RECOVER FORMAT='SQL'").await {
        for row in rows {
            let text = String::from_utf8_lossy(&row).into_owned();
            if let Some(at) = text.find("X'") {
                let _ = root.query(&format!("XA ROLLBACK {}", &text[at..])).await;
            }
        }
    }
    // One that is not let go of is a difference that the case will find.
    let patience = Instant::now() + Duration::from_secs(20);
    while root.text(FREE).await != "1" && Instant::now() < patience {
        sleep(Duration::from_millis(5)).await;
    }
}

impl Player {
    pub(crate) async fn connect(port: u16, capabilities: u32, schema: &str) -> Self {
        let raw = Raw::try_connect(port, ACCOUNT, capabilities | flag::CONNECT_WITH_DB, schema).await;
        Self {
            raw: raw.expect("the login is accepted"),
            port,
            schema: schema.to_owned(),
            capabilities,
            statements: HashMap::new(),
            values: HashMap::new(),
            of_variables: HashSet::new(),
            finds: true,
            asks_of_transactions: false,
            in_transaction: false,
            untold: false,
        }
    }

    /// How the login was answered.
    pub(crate) fn welcome(&self) -> String {
        tell_done(&self.raw.welcome)
    }

    /// Carries a step out; what is seen of it.
    pub(crate) async fn act(&mut self, action: &Action) -> String {
        match action {
            Action::Query(sql) | Action::Prepare(_, sql) => self.hear(sql),
            Action::Together(texts) => return self.act_together(texts).await,
            Action::Reset | Action::ChangeUser { .. } => self.asks_of_transactions = false,
            _ => {}
        }
        let seen = self.carry_out(action).await;
        self.judge(seen)
    }

    async fn act_together(&mut self, texts: &[String]) -> String {
        for sql in texts {
            self.raw.send_query(sql.as_bytes()).await;
        }
        let mut all = Vec::new();
        for sql in texts {
            self.raw.next_command();
            self.hear(sql);
            let seen = self.results_of(sql).await;
            all.push(self.judge(seen));
        }
        all.join(" || ")
    }

    fn hear(&mut self, sql: &str) {
        self.asks_of_transactions |= sql.contains("session_track_transaction_info");
    }

    /// What of an answer is to be the same everywhere.
    fn judge(&mut self, mut seen: String) -> String {
        if seen.is_empty() {
            return seen;
        }
        let transactions: Vec<bool> = transactions(&seen).collect();
        if self.in_transaction || transactions.contains(&true) {
            // What session_track_gtids is cannot be changed for a question in a transaction.
            seen = seen.replace("\\x03OFF", "\\x08OWN_GTID");
        }
        self.in_transaction = transactions.last().copied().unwrap_or(self.in_transaction);
        if !self.asks_of_transactions {
            seen = without_transactions(&seen);
        }
        let untold = seen.contains("refused ")
            || self.capabilities & flag::DEPRECATE_EOF == 0 && seen.contains("rows ");
        // The answer to a PREPARE tells nothing of the session.
        let stays = self.untold && !seen.contains(" status=");
        if std::mem::replace(&mut self.untold, untold || stays) { without_changes(&seen) } else { seen }
    }

    async fn carry_out(&mut self, action: &Action) -> String {
        match action {
            Action::Query(sql) if sql.to_ascii_uppercase().contains("FOUND_ROWS()") && !self.finds => {
                String::new()
            }
            Action::Query(sql) => {
                self.raw.send_query(sql.as_bytes()).await;
                self.results_of(sql).await
            }
            // Answer by answer: `act_together`.
            Action::Together(_) => String::new(),
            Action::Prepare(slot, sql) => self.prepare(*slot, sql).await,
            Action::Execute { slot, parameters, cursor } => {
                let Some(prepared) = self.statements.get(slot).copied() else { return String::new() };
                self.values.insert(*slot, parameters.clone());
                let seen = self.executed(prepared, parameters, *cursor, true).await;
                // A variable has the type there that it had when its connection prepared the statement.
                if *cursor && self.of_variables.contains(slot) { without_definitions(&seen) } else { seen }
            }
            Action::ExecuteAgain(slot) => {
                let (Some(prepared), Some(parameters)) = (self.statements.get(slot), self.values.get(slot))
                else {
                    return String::new();
                };
                let (prepared, parameters) = (*prepared, parameters.clone());
                self.executed(prepared, &parameters, false, false).await
            }
            Action::Fetch(slot, count) => {
                let Some(prepared) = self.statements.get(slot) else { return String::new() };
                let body = [prepared.id.to_le_bytes(), u32::from(*count).to_le_bytes()].concat();
                let id = prepared.id;
                self.raw.command(command::STMT_FETCH, &body).await;
                let (rows, end) = self.raw.rows().await;
                if end.is_err() {
                    // The proxy says by itself that there is no cursor, and no server could show that again.
                    self.raw.query("DO 0").await;
                }
                let seen = tell(&Outcome::Rows { columns: Vec::new(), rows, end });
                // Ids differ; what the texts say of them does too.
                seen.replace(&format!("({id})"), "(id)")
            }
            Action::LongData(slot, text) => {
                if let Some(prepared) = self.statements.get(slot).filter(|prepared| prepared.parameters > 0) {
                    let body = [&prepared.id.to_le_bytes()[..], &[0, 0], text.as_bytes()].concat();
                    self.raw.command(command::STMT_SEND_LONG_DATA, &body).await;
                }
                String::new()
            }
            Action::ResetStatement(slot) => {
                let Some(prepared) = self.statements.get(slot) else { return String::new() };
                let id = prepared.id.to_le_bytes();
                self.raw.command(command::STMT_RESET, &id).await;
                self.results().await
            }
            Action::CloseStatement(slot) => {
                self.values.remove(slot);
                if let Some(prepared) = self.statements.remove(slot) {
                    self.raw.command(command::STMT_CLOSE, &prepared.id.to_le_bytes()).await;
                }
                String::new()
            }
            Action::InitDb(schema) => {
                without_warnings(&self.command(command::INIT_DB, schema.as_bytes()).await)
            }
            Action::Ping => without_warnings(&self.command(command::PING, b"").await),
            Action::SetOption(on) => without_warnings(&self.set_option(*on).await),
            Action::FieldList(table) => {
                self.raw.command(command::FIELD_LIST, &[table.as_bytes(), b"\0"].concat()).await;
                let (rows, end) = self.raw.rows().await;
                // It leaves conditions of which its answer says nothing.
                self.raw.query("DO 0").await;
                tell(&Outcome::Rows { columns: Vec::new(), rows, end })
            }
            Action::Reset => {
                self.statements.clear();
                self.values.clear();
                self.command(command::RESET_CONNECTION, b"").await
            }
            Action::Kill(ends) => self.kill(*ends).await,
            Action::ChangeUser { other, schema } => {
                self.statements.clear();
                self.values.clear();
                let account = if *other { OTHER_ACCOUNT } else { ACCOUNT };
                match self.raw.change_user(account, schema).await {
                    Ok(done) => tell_done(&done),
                    Err(refusal) => tell_refusal(&refusal),
                }
            }
            Action::Reconnect { quits } => self.reconnect(*quits).await,
            // Of the servers, not of a client.
            Action::HoldUpReplicas => String::new(),
            Action::Pause => {
                sleep(Duration::from_millis(15)).await;
                String::new()
            }
        }
    }

    async fn prepare(&mut self, slot: u8, sql: &str) -> String {
        match self.raw.prepare_with_definitions(sql).await {
            Ok((prepared, definitions)) => {
                self.values.remove(&slot);
                self.of_variables.remove(&slot);
                if sql.contains('@') {
                    self.of_variables.insert(slot);
                }
                if let Some(old) = self.statements.insert(slot, prepared) {
                    self.raw.command(command::STMT_CLOSE, &old.id.to_le_bytes()).await;
                }
                let counts = (prepared.parameters, prepared.columns);
                let mut seen = format!("prepared {counts:?}");
                for definition in &definitions {
                    let _ = write!(seen, " [{}]", tell_definition(definition));
                }
                seen
            }
            Err(refusal) => tell_refusal(&refusal),
        }
    }

    async fn reconnect(&mut self, quits: bool) -> String {
        // Nobody waits for these, and servers notice a moment later that a client is gone.
        self.raw.query("DO RELEASE_ALL_LOCKS()").await;
        if quits {
            self.raw.command(command::QUIT, b"").await;
        }
        *self = Self::connect(self.port, self.capabilities, &self.schema).await;
        sleep(Duration::from_millis(15)).await;
        self.welcome()
    }

    async fn kill(&mut self, ends: Ends) -> String {
        let what = match ends {
            Ends::Query => "QUERY",
            Ends::Connection => "CONNECTION",
        };
        self.raw.send_query(format!("KILL {what} {}", self.raw.connection_id).as_bytes()).await;
        let seen = self.results().await;
        if matches!(ends, Ends::Query) {
            // The proxy says it by itself, and no server could show that again.
            self.raw.query("DO 0").await;
        }
        seen
    }

    async fn command(&mut self, code: u8, body: &[u8]) -> String {
        self.raw.command(code, body).await;
        self.results().await
    }

    /// Answered by an EOF packet, which in the new form looks like OK.
    async fn set_option(&mut self, on: bool) -> String {
        self.raw.command(command::SET_OPTION, &[u8::from(!on), 0]).await;
        let (rows, end) = self.raw.rows().await;
        tell(&Outcome::Rows { columns: Vec::new(), rows, end })
    }

    async fn executed(
        &mut self,
        prepared: PreparedAs,
        parameters: &[Parameter],
        cursor: bool,
        types: bool,
    ) -> String {
        self.finds = false;
        self.execute(prepared, parameters, cursor, types).await;
        let seen = self.results().await;
        // A NULL has the type that the parameter had before on its connection.
        let has_null = parameters.iter().any(|parameter| matches!(parameter, Parameter::Null));
        let has_text = parameters.iter().any(|parameter| matches!(parameter, Parameter::Text(_)));
        match (has_null, has_text && seen.starts_with("rows")) {
            (true, _) => without_definitions(&seen),
            // Row by row, or once: servers take it for a number when the statement is prepared, or executed.
            (false, true) => without_warnings(&seen),
            (false, false) => seen,
        }
    }

    async fn execute(&mut self, prepared: PreparedAs, parameters: &[Parameter], cursor: bool, types: bool) {
        let attributes = self.capabilities & flag::QUERY_ATTRIBUTES != 0;
        let count = usize::from(prepared.parameters);
        let mut payload = vec![command::STMT_EXECUTE];
        payload.extend_from_slice(&prepared.id.to_le_bytes());
        payload.push(u8::from(cursor) | if attributes { 8 } else { 0 });
        payload.extend_from_slice(&1u32.to_le_bytes());
        if attributes {
            payload.push(prepared.parameters.to_le_bytes()[0]);
        }
        if count > 0 {
            let given: Vec<&Parameter> = parameters.iter().cycle().take(count).collect();
            let mut nulls = vec![0_u8; count.div_ceil(8)];
            for (at, _) in given.iter().enumerate().filter(|(_, given)| matches!(given, Parameter::Null)) {
                nulls[at / 8] |= 1 << (at % 8);
            }
            payload.extend_from_slice(&nulls);
            payload.push(u8::from(types));
            for parameter in given.iter().filter(|_| types) {
                let kind: [u8; 2] = match parameter {
                    Parameter::Number(_) => [8, 0],
                    Parameter::Double(_) => [5, 0],
                    Parameter::Date(..) => [10, 0],
                    Parameter::Text(_) => [0xFD, 0],
                    Parameter::Null => [6, 0],
                };
                payload.extend_from_slice(&kind);
                if attributes {
                    payload.push(0);
                }
            }
            for parameter in given {
                match parameter {
                    Parameter::Number(number) => payload.extend_from_slice(&number.to_le_bytes()),
                    Parameter::Double(number) => payload.extend_from_slice(&number.to_le_bytes()),
                    Parameter::Date(year, month, day) => {
                        payload.push(4);
                        payload.extend_from_slice(&year.to_le_bytes());
                        payload.extend_from_slice(&[*month, *day]);
                    }
                    Parameter::Text(text) => {
                        payload.push(text.len().to_le_bytes()[0]);
                        payload.extend_from_slice(text.as_bytes());
                    }
                    Parameter::Null => {}
                }
            }
        }
        self.raw.send(&payload).await;
    }

    /// Of a statement of this text, which was sent.
    async fn results_of(&mut self, sql: &str) -> String {
        let seen = self.results().await;
        self.finds = finds(sql, &seen).unwrap_or(self.finds);
        seen
    }

    async fn results(&mut self) -> String {
        let mut seen = Vec::new();
        loop {
            let outcomes = self.raw.outcomes().await;
            seen.extend(outcomes.iter().map(tell));
            let Some(Outcome::Infile(name)) = outcomes.last() else { return seen.join(" | ") };
            if name == b"rows" {
                self.raw.continue_with(b"7\tseven\n8\tacht\nx\t9\n").await;
            }
            self.raw.continue_with(b"").await;
        }
    }
}

/// Whether a statement leaves something for FOUND_ROWS(); None: what was there. Procedures, writes and errors leave what
/// their connection had, and nobody asks.
fn finds(sql: &str, seen: &str) -> Option<bool> {
    let text = sql.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let rows = seen.rsplit(" | ").next().is_some_and(|last| last.starts_with("rows"));
    match has(&["CALL ", "EXECUTE "]) || seen.contains("refused") {
        false if rows => Some(true),
        false if !has(&["UPDATE", "DELETE", "SELECT"]) => None,
        _ => Some(false),
    }
}

/// A server tells something of transactions to those who did not ask too.
fn without_transactions(seen: &str) -> String {
    const STATE: &str = " changed 5:\\x08";
    let mut parts = seen.split(STATE);
    let mut told = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        told.push_str(part.get("________".len()..).unwrap_or_default());
    }
    told
}

/// Of the first result.
fn without_changes(seen: &str) -> String {
    let end = seen.find(" | ").unwrap_or(seen.len());
    let (first, rest) = seen.split_at(end);
    let told = first.find(" changed ").unwrap_or(first.len());
    let columns = first[told..].find(" [").map_or(first.len(), |at| told + at);
    format!("{}{}{rest}", &first[..told], &first[columns..])
}

/// Whether the session was in a transaction at the end of each result.
fn transactions(seen: &str) -> impl Iterator<Item = bool> {
    let flags =
        seen.split(" status=0x").skip(1).filter_map(|rest| u16::from_str_radix(rest.get(..4)?, 16).ok());
    flags.map(|flags| flags & 1 != 0)
}

fn without_definitions(seen: &str) -> String {
    let results = seen.split(" | ").map(|result| result.split(" [").next().unwrap_or_default());
    results.collect::<Vec<_>>().join(" | ")
}

/// A row of SHOW CREATE TABLE without the next number of its table, and how long it is: no replica hears of numbers that
/// nobody has used.
fn without_next_number(row: &[u8]) -> Cow<'_, [u8]> {
    const CREATE: &[u8] = b"CREATE TABLE `";
    const NEXT: &[u8] = b" AUTO_INCREMENT=";
    let Some(text) = row.windows(CREATE.len()).position(|part| part == CREATE) else { return row.into() };
    let length = match row[..text] {
        [.., 0xFC, _, _] => 3,
        _ => 1,
    };
    let (name, text) = (&row[..text - length], &row[text..]);
    let at = text.windows(NEXT.len()).position(|part| part == NEXT).unwrap_or(text.len());
    let digits = text[at..].iter().skip(NEXT.len()).take_while(|byte| byte.is_ascii_digit()).count();
    let rest = text.get(at + NEXT.len() + digits..).unwrap_or_default();
    [name, &text[..at], rest].concat().into()
}

/// These commands repeat the number of warnings that the statement before left, which only its connection knows.
fn without_warnings(seen: &str) -> String {
    let words = seen.split(' ').filter(|word| !word.starts_with("warnings="));
    words.collect::<Vec<_>>().join(" ")
}

fn tell(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(done) => tell_done(done),
        Outcome::Refused(refusal) => tell_refusal(refusal),
        Outcome::Infile(name) => format!("infile {}", name.escape_ascii()),
        Outcome::Rows { columns, rows, end } => {
            let mut seen = String::from("rows");
            for row in rows {
                let _ = write!(seen, " ({})", without_next_number(row).escape_ascii());
            }
            let end = match end {
                Ok(done) => tell_done(done),
                Err(refusal) => tell_refusal(refusal),
            };
            let _ = write!(seen, " {end}");
            for column in columns {
                let _ = write!(seen, " [{}]", tell_definition(column));
            }
            seen
        }
    }
}

/// A user variable that was never set is a string of 65 532 bytes, and of no character set where it meets others. One that a
/// pooled connection was made to forget is a binary NULL of 16 MiB: only COM_RESET_CONNECTION would take it away, and with it
/// all that is prepared there. What kind of a string it is, is told up to here.
fn tell_definition(definition: &[u8]) -> String {
    const LONGEST: u32 = 65_532;
    /// From `MYSQL_TYPE_TINY_BLOB` to `MYSQL_TYPE_STRING`.
    const STRINGS: std::ops::RangeInclusive<u8> = 249..=254;
    // Character set, length, type, flags, digits, and two bytes of nothing.
    let at = definition.len().saturating_sub(12);
    match definition[at..] {
        [_, _, l0, l1, l2, l3, kind, ..]
            if STRINGS.contains(&kind) && u32::from_le_bytes([l0, l1, l2, l3]) >= LONGEST =>
        {
            format!("{}(long)", definition[..at].escape_ascii())
        }
        _ => definition.escape_ascii().to_string(),
    }
}

fn tell_done(done: &Done) -> String {
    /// SERVER_QUERY_WAS_SLOW: a matter of time.
    const SLOW: u16 = 0x0800;
    /// SERVER_SESSION_STATE_CHANGED says no more than the changes that are listed; servers send it without any now and then.
    const CHANGED: u16 = 0x4000;
    /// `statement_id` of SESSION_TRACK_SYSTEM_VARIABLES: how many statements a server was sent.
    const STATEMENT_ID: &[u8] = b"\x0cstatement_id";
    /// What MariaDB has instead of a GTID: each server counts its own.
    const LAST_GTID: &[u8] = b"\x09last_gtid";
    let counted = |data: &[u8]| data.starts_with(STATEMENT_ID) || data.starts_with(LAST_GTID);
    let mut changes: Vec<_> = done.changes.iter().filter(|(_, data)| !counted(data)).collect();
    // MariaDB tells of variables in the order of a table of those that it was asked for.
    changes.sort_by_key(|(kind, data)| (*kind, if *kind == 0 { data.clone() } else { Vec::new() }));
    let mut seen = format!(
        "ok affected={} id={} status={:#06x} warnings={}",
        done.affected_rows,
        done.last_insert_id,
        done.status & !(SLOW | CHANGED),
        done.warnings
    );
    if !done.info.is_empty() {
        let _ = write!(seen, " info={}", done.info.escape_ascii());
    }
    for (kind, data) in changes {
        /// SESSION_TRACK_GTIDS: each server counts its own.
        const GTIDS: u8 = 3;
        let data = if *kind == GTIDS { String::from("GTIDs") } else { data.escape_ascii().to_string() };
        let _ = write!(seen, " changed {kind}:{data}");
    }
    seen
}

fn tell_refusal(refusal: &Refusal) -> String {
    format!("refused {} {} {}", refusal.code, refusal.state, refusal.text)
}
