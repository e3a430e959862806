//! A client that speaks the protocol packet by packet, for what no driver would send. Panics on whatever is not as the
//! protocol says: sequence numbers, framing, the forms of answers.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>

use std::io;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::cluster::{Account, connect};

/// Capability flags; [`BASE`] is always there.
pub(crate) mod flag {
    pub(crate) const FOUND_ROWS: u32 = 1 << 1;
    pub(crate) const CONNECT_WITH_DB: u32 = 1 << 3;
    pub(crate) const COMPRESS: u32 = 1 << 5;
    pub(crate) const LOCAL_FILES: u32 = 1 << 7;
    pub(crate) const IGNORE_SPACE: u32 = 1 << 8;
    pub(crate) const INTERACTIVE: u32 = 1 << 10;
    pub(crate) const MULTI_STATEMENTS: u32 = 1 << 16;
    pub(crate) const MULTI_RESULTS: u32 = 1 << 17;
    pub(crate) const PS_MULTI_RESULTS: u32 = 1 << 18;
    pub(crate) const SESSION_TRACK: u32 = 1 << 23;
    pub(crate) const DEPRECATE_EOF: u32 = 1 << 24;
    pub(crate) const OPTIONAL_RESULTSET_METADATA: u32 = 1 << 25;
    pub(crate) const ZSTD: u32 = 1 << 26;
    pub(crate) const QUERY_ATTRIBUTES: u32 = 1 << 27;
    /// LONG_PASSWORD, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH.
    pub(super) const BASE: u32 = 1 | 1 << 9 | 1 << 13 | 1 << 15 | 1 << 19;
}

/// What most drivers have.
pub(crate) const USUAL: u32 =
    flag::MULTI_STATEMENTS | flag::MULTI_RESULTS | flag::PS_MULTI_RESULTS | flag::DEPRECATE_EOF;

/// Commands.
pub(crate) mod command {
    pub(crate) const QUIT: u8 = 0x01;
    pub(crate) const INIT_DB: u8 = 0x02;
    pub(crate) const QUERY: u8 = 0x03;
    pub(crate) const FIELD_LIST: u8 = 0x04;
    pub(crate) const STATISTICS: u8 = 0x09;
    pub(crate) const PING: u8 = 0x0E;
    pub(crate) const CHANGE_USER: u8 = 0x11;
    pub(crate) const STMT_PREPARE: u8 = 0x16;
    pub(crate) const STMT_EXECUTE: u8 = 0x17;
    pub(crate) const STMT_SEND_LONG_DATA: u8 = 0x18;
    pub(crate) const STMT_CLOSE: u8 = 0x19;
    pub(crate) const STMT_RESET: u8 = 0x1A;
    pub(crate) const SET_OPTION: u8 = 0x1B;
    pub(crate) const STMT_FETCH: u8 = 0x1C;
    pub(crate) const RESET_CONNECTION: u8 = 0x1F;
}

/// A connection that is logged in.
pub(crate) struct Raw {
    stream: TcpStream,
    sequence: u8,
    capabilities: u32,
    /// As the greeting said it.
    pub(crate) connection_id: u32,
    pub(crate) server_version: String,
    pub(crate) server_capabilities: u32,
    /// How the login was answered.
    pub(crate) welcome: Done,
}

/// An OK packet, or the end of rows in either form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) affected_rows: u64,
    pub(crate) last_insert_id: u64,
    pub(crate) status: u16,
    pub(crate) warnings: u16,
    /// "Rows matched: 1  Changed: 1  Warnings: 0".
    pub(crate) info: Vec<u8>,
    /// Kind and data of each session change.
    pub(crate) changes: Vec<(u8, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) state: String,
    pub(crate) text: String,
}

/// One result of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done(Done),
    Refused(Refusal),
    /// Rows as they came, undecoded, with their end.
    Rows {
        columns: Vec<Vec<u8>>,
        rows: Vec<Vec<u8>>,
        end: Result<Done, Refusal>,
    },
    /// The server wants this file.
    Infile(Vec<u8>),
}

/// What COM_STMT_PREPARE was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PreparedAs {
    pub(crate) id: u32,
    pub(crate) columns: u16,
    pub(crate) parameters: u16,
}

const DEADLINE: Duration = Duration::from_secs(240);
const FULL_FRAME: usize = 0xFF_FFFF;
const MORE_RESULTS: u16 = 0x0008;
const CURSOR_EXISTS: u16 = 0x0040;
const PS_OUT_PARAMS: u16 = 0x1000;
const SESSION_STATE_CHANGED: u16 = 0x4000;

impl Raw {
    /// Logs in over TCP; the schema needs [`flag::CONNECT_WITH_DB`].
    pub(crate) async fn connect(port: u16, account: Account, capabilities: u32) -> Self {
        Self::try_connect(port, account, capabilities, "").await.expect("the login is accepted")
    }

    pub(crate) async fn try_connect(
        port: u16,
        account: Account,
        capabilities: u32,
        schema: &str,
    ) -> Result<Self, Refusal> {
        match Self::log_in(port, account, capabilities, schema).await {
            // The full way needs RSA or TLS: a driver goes it first, then the password is known there.
            Ok(None) => {
                match connect(port, account).await {
                    Ok(driver) => drop(driver.disconnect().await),
                    Err(mysql_async::Error::Server(error)) => {
                        return Err(Refusal { code: error.code, state: error.state, text: error.message });
                    }
                    Err(error) => panic!("{error}"),
                }
                let again = Self::log_in(port, account, capabilities, schema).await;
                again.map(|raw| raw.expect("the password is known there by now"))
            }
            Ok(Some(raw)) => Ok(raw),
            Err(refusal) => Err(refusal),
        }
    }

    /// None: full authentication is asked for.
    async fn log_in(
        port: u16,
        account: Account,
        capabilities: u32,
        schema: &str,
    ) -> Result<Option<Self>, Refusal> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("somebody listens");
        Self::over(stream, account, capabilities, schema).await
    }

    /// Logs in over this connection; None: full authentication is asked for.
    pub(crate) async fn over(
        stream: TcpStream,
        account: Account,
        capabilities: u32,
        schema: &str,
    ) -> Result<Option<Self>, Refusal> {
        stream.set_nodelay(true).expect("a TCP socket");
        let mut raw = Self {
            stream,
            sequence: 0,
            capabilities: capabilities | flag::BASE,
            connection_id: 0,
            server_version: String::new(),
            server_capabilities: 0,
            welcome: Done::default(),
        };
        let greeting = raw.packet().await;
        if greeting[0] == 0xFF {
            return Err(refusal(&greeting));
        }
        let version_end = greeting.iter().position(|&byte| byte == 0).expect("a greeting");
        raw.server_version = String::from_utf8_lossy(&greeting[1..version_end]).into_owned();
        let rest = &greeting[version_end + 1..];
        raw.connection_id = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
        raw.server_capabilities = u32::from_le_bytes([rest[13], rest[14], rest[18], rest[19]]);
        let nonce = [&rest[4..12], &rest[31..43]].concat();
        // What was not offered is not agreed.
        raw.capabilities &= raw.server_capabilities;

        let mut answer = Vec::new();
        answer.extend_from_slice(&raw.capabilities.to_le_bytes());
        answer.extend_from_slice(&(1u32 << 30).to_le_bytes());
        answer.push(45);
        answer.extend_from_slice(&[0; 23]);
        answer.extend_from_slice(account.user.as_bytes());
        answer.push(0);
        let scramble = scramble(account.password, &nonce);
        answer.push(u8::try_from(scramble.len()).expect("32 bytes"));
        answer.extend_from_slice(&scramble);
        if raw.capabilities & flag::CONNECT_WITH_DB != 0 {
            answer.extend_from_slice(schema.as_bytes());
            answer.push(0);
        }
        answer.extend_from_slice(b"caching_sha2_password\0");
        if raw.capabilities & flag::ZSTD != 0 {
            // A level that there is not.
            answer.push(23);
        }
        raw.continue_with(&answer).await;
        raw.authenticated(account).await
    }

    /// Follows a login (or COM_CHANGE_USER) to its end.
    async fn authenticated(mut self, account: Account) -> Result<Option<Self>, Refusal> {
        loop {
            let packet = self.packet().await;
            match packet[..] {
                [0x00, ..] => {
                    self.welcome = self.done(&packet);
                    return Ok(Some(self));
                }
                [0xFF, ..] => return Err(refusal(&packet)),
                [0xFE, ref switch @ ..] => self.continue_with(&switched(switch, account)).await,
                [0x01, 3] => {}
                [0x01, 4] => return Ok(None),
                _ => panic!("not a part of a login: {packet:?}"),
            }
        }
    }

    /// COM_CHANGE_USER; the password must be known there.
    pub(crate) async fn change_user(&mut self, account: Account, schema: &str) -> Result<Done, Refusal> {
        let mut payload = vec![command::CHANGE_USER];
        payload.extend_from_slice(account.user.as_bytes());
        // An answer to no nonce at all: the other side switches and sends one.
        payload.extend_from_slice(b"\0\0");
        payload.extend_from_slice(schema.as_bytes());
        payload.extend_from_slice(b"\0\xff\0caching_sha2_password\0");
        self.send(&payload).await;
        loop {
            let packet = self.packet().await;
            match packet[..] {
                [0x00, ..] => return Ok(self.done(&packet)),
                [0xFF, ..] => return Err(refusal(&packet)),
                [0xFE, ref switch @ ..] => self.continue_with(&switched(switch, account)).await,
                [0x01, 3] => {}
                _ => panic!("not a part of a change of user: {packet:?}"),
            }
        }
    }

    /// Sends a command as one packet, in as many frames as it takes.
    pub(crate) async fn send(&mut self, payload: &[u8]) {
        self.sequence = 0;
        self.continue_with(payload).await;
    }

    /// True when the command that was sent has results, false when it is refused or the connection breaks.
    pub(crate) async fn command_answered(&mut self) -> bool {
        let mut head = [0; 5];
        let read = timeout(DEADLINE, self.stream.read_exact(&mut head)).await.expect("an answer in time");
        read.is_ok() && head[4] != 0xFF
    }

    /// The answer that comes next is to a further command, sent before.
    pub(crate) fn next_command(&mut self) {
        self.sequence = 1;
    }

    /// Expects a packet that answers no command.
    pub(crate) fn no_command(&mut self) {
        self.sequence = 0;
    }

    /// Sends a further packet of an exchange.
    pub(crate) async fn continue_with(&mut self, payload: &[u8]) {
        let mut bytes = Vec::with_capacity(payload.len() + 16);
        let mut rest = payload;
        loop {
            let (frame, after) = rest.split_at(rest.len().min(FULL_FRAME));
            let length = u32::try_from(frame.len()).expect("a frame is small").to_le_bytes();
            bytes.extend_from_slice(&[length[0], length[1], length[2], self.sequence]);
            bytes.extend_from_slice(frame);
            self.sequence = self.sequence.wrapping_add(1);
            rest = after;
            if frame.len() < FULL_FRAME {
                break;
            }
        }
        self.send_bytes(&bytes).await.expect("it is taken");
    }

    /// Sends bytes as they are.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(DEADLINE, self.stream.write_all(bytes)).await.expect("it is taken in time")
    }

    /// The next packet, its frames joined.
    pub(crate) async fn packet(&mut self) -> Vec<u8> {
        self.try_packet().await.expect("the connection is open")
    }

    pub(crate) async fn try_packet(&mut self) -> io::Result<Vec<u8>> {
        let mut payload = Vec::new();
        loop {
            let mut header = [0; 4];
            timeout(DEADLINE, self.stream.read_exact(&mut header)).await.expect("an answer in time")?;
            assert_eq!(header[3], self.sequence, "the packet's number");
            self.sequence = self.sequence.wrapping_add(1);
            let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
            let start = payload.len();
            payload.resize(start + length, 0);
            let read = self.stream.read_exact(&mut payload[start..]);
            timeout(DEADLINE, read).await.expect("a packet in time")?;
            if length < FULL_FRAME {
                return Ok(payload);
            }
        }
    }

    /// True when the other side closes the connection without another byte.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        let read = timeout(DEADLINE, self.stream.read(&mut byte)).await;
        matches!(read, Ok(Ok(0) | Err(_)))
    }

    /// True when the other side ends the connection, whatever it says before.
    pub(crate) async fn is_ended(&mut self) -> bool {
        let mut sink = Vec::new();
        timeout(DEADLINE, self.stream.read_to_end(&mut sink)).await.is_ok()
    }

    /// True when nothing comes for so long.
    pub(crate) async fn is_silent(&mut self, during: Duration) -> bool {
        timeout(during, self.stream.peek(&mut [0])).await.is_err()
    }

    /// The socket, to do with it what no client would.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    pub(crate) async fn command(&mut self, command: u8, body: &[u8]) {
        self.send(&[&[command], body].concat()).await;
    }

    /// COM_QUERY without attributes.
    pub(crate) async fn send_query(&mut self, sql: &[u8]) {
        let head: &[u8] =
            if self.has(flag::QUERY_ATTRIBUTES) { &[command::QUERY, 0, 1] } else { &[command::QUERY] };
        self.send(&[head, sql].concat()).await;
    }

    /// Runs a statement; all its results.
    pub(crate) async fn query_all(&mut self, sql: &str) -> Vec<Outcome> {
        self.send_query(sql.as_bytes()).await;
        self.outcomes().await
    }

    /// Runs a statement of one result.
    pub(crate) async fn query(&mut self, sql: &str) -> Outcome {
        let mut all = self.query_all(sql).await;
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// The first column of the first row, as text; panics when there is none.
    pub(crate) async fn text(&mut self, sql: &str) -> String {
        match self.query(sql).await {
            Outcome::Rows { rows, .. } if !rows.is_empty() => {
                let (length, size) = length(&rows[0]);
                String::from_utf8_lossy(&rows[0][size..size + usize::try_from(length).expect("small")])
                    .into_owned()
            }
            other => panic!("{sql}: {other:?}"),
        }
    }

    /// Runs a statement that answers OK.
    pub(crate) async fn run(&mut self, sql: &str) -> Done {
        match self.query(sql).await {
            Outcome::Done(done) => done,
            other => panic!("{sql}: {other:?}"),
        }
    }

    /// Runs a statement that is refused.
    pub(crate) async fn refused(&mut self, sql: &str) -> Refusal {
        match self.query(sql).await {
            Outcome::Refused(refusal) => refusal,
            other => panic!("{sql}: {other:?}"),
        }
    }

    /// All results of a COM_QUERY or COM_STMT_EXECUTE that was sent.
    pub(crate) async fn outcomes(&mut self) -> Vec<Outcome> {
        let mut all = Vec::new();
        loop {
            let outcome = self.outcome().await;
            let status = match &outcome {
                Outcome::Done(done) | Outcome::Rows { end: Ok(done), .. } => done.status,
                _ => 0,
            };
            all.push(outcome);
            if status & MORE_RESULTS == 0 {
                return all;
            }
        }
    }

    /// One result.
    pub(crate) async fn outcome(&mut self) -> Outcome {
        let packet = self.packet().await;
        match packet[0] {
            0x00 => Outcome::Done(self.done(&packet)),
            0xFF => Outcome::Refused(refusal(&packet)),
            0xFB => Outcome::Infile(packet[1..].to_vec()),
            _ => {
                let (count, size) = length(&packet);
                // Column count, then the flag: as servers really do.
                let metadata = !self.has(flag::OPTIONAL_RESULTSET_METADATA) || packet[size] == 1;
                let mut columns = Vec::new();
                if metadata {
                    for _ in 0..count {
                        columns.push(self.packet().await);
                    }
                }
                let mut sure = 0;
                if !self.has(flag::DEPRECATE_EOF) {
                    let end = self.packet().await;
                    let done = self.eof(&end);
                    if done.status & CURSOR_EXISTS != 0 {
                        return Outcome::Rows { columns, rows: Vec::new(), end: Ok(done) };
                    }
                    // The end of a result of OUT parameters does not repeat it.
                    if done.status & PS_OUT_PARAMS != 0 {
                        sure = done.status & MORE_RESULTS;
                    }
                }
                let (rows, mut end) = self.rows().await;
                if let Ok(end) = &mut end {
                    end.status |= sure;
                }
                Outcome::Rows { columns, rows, end }
            }
        }
    }

    /// Rows up to their end, as COM_STMT_FETCH answers.
    pub(crate) async fn rows(&mut self) -> (Vec<Vec<u8>>, Result<Done, Refusal>) {
        let mut rows = Vec::new();
        loop {
            let packet = self.packet().await;
            match packet[0] {
                0xFF => return (rows, Err(refusal(&packet))),
                0xFE if self.has(flag::DEPRECATE_EOF) && packet.len() < FULL_FRAME => {
                    return (rows, Ok(self.done(&packet)));
                }
                0xFE if !self.has(flag::DEPRECATE_EOF) && packet.len() < 9 => {
                    return (rows, Ok(self.eof(&packet)));
                }
                _ => rows.push(packet),
            }
        }
    }

    /// COM_STMT_PREPARE.
    pub(crate) async fn prepare(&mut self, sql: &str) -> Result<PreparedAs, Refusal> {
        self.prepare_with_definitions(sql).await.map(|(prepared, _)| prepared)
    }

    /// COM_STMT_PREPARE; also the definitions of parameters and columns as they came.
    pub(crate) async fn prepare_with_definitions(
        &mut self,
        sql: &str,
    ) -> Result<(PreparedAs, Vec<Vec<u8>>), Refusal> {
        self.command(command::STMT_PREPARE, sql.as_bytes()).await;
        let packet = self.packet().await;
        if packet[0] == 0xFF {
            return Err(refusal(&packet));
        }
        let prepared = PreparedAs {
            id: u32::from_le_bytes([packet[1], packet[2], packet[3], packet[4]]),
            columns: u16::from_le_bytes([packet[5], packet[6]]),
            parameters: u16::from_le_bytes([packet[7], packet[8]]),
        };
        let metadata = !self.has(flag::OPTIONAL_RESULTSET_METADATA) || packet[12] == 1;
        let mut definitions = Vec::new();
        for count in [prepared.parameters, prepared.columns] {
            if count > 0 {
                for _ in 0..if metadata { count } else { 0 } {
                    definitions.push(self.packet().await);
                }
                if !self.has(flag::DEPRECATE_EOF) {
                    let end = self.packet().await;
                    self.eof(&end);
                }
            }
        }
        Ok((prepared, definitions))
    }

    /// COM_STMT_EXECUTE. `types` is empty for a client that relies on those it sent before; `nulls` and `values` are
    /// as the protocol has them.
    pub(crate) async fn execute(
        &mut self,
        id: u32,
        cursor: u8,
        nulls: &[u8],
        types: &[u8],
        values: &[u8],
    ) -> Vec<Outcome> {
        self.send_execute(id, cursor, nulls, types, values).await;
        self.outcomes().await
    }

    pub(crate) async fn send_execute(
        &mut self,
        id: u32,
        cursor: u8,
        nulls: &[u8],
        types: &[u8],
        values: &[u8],
    ) {
        assert!(!self.has(flag::QUERY_ATTRIBUTES) || nulls.is_empty(), "this form has no attributes");
        let mut payload = vec![command::STMT_EXECUTE];
        payload.extend_from_slice(&id.to_le_bytes());
        payload.push(cursor);
        payload.extend_from_slice(&1u32.to_le_bytes());
        if !nulls.is_empty() {
            payload.extend_from_slice(nulls);
            payload.push(u8::from(!types.is_empty()));
            payload.extend_from_slice(types);
            payload.extend_from_slice(values);
        }
        self.send(&payload).await;
    }

    fn has(&self, flag: u32) -> bool {
        self.capabilities & flag != 0
    }

    fn done(&self, packet: &[u8]) -> Done {
        let mut at = 1;
        let mut number = || {
            let (number, size) = length(&packet[at..]);
            at += size;
            number
        };
        let (affected_rows, last_insert_id) = (number(), number());
        let mut done = Done { affected_rows, last_insert_id, ..Done::default() };
        done.status = u16::from_le_bytes([packet[at], packet[at + 1]]);
        done.warnings = u16::from_le_bytes([packet[at + 2], packet[at + 3]]);
        let rest = &packet[at + 4..];
        if !self.has(flag::SESSION_TRACK) {
            done.info = rest.to_vec();
        } else if !rest.is_empty() {
            done.info = string(rest).0.to_vec();
        }
        if done.status & SESSION_STATE_CHANGED != 0 {
            assert!(self.has(flag::SESSION_TRACK), "changes for a client that takes none: {packet:?}");
            let (_, rest) = string(rest);
            let (mut changes, after) = string(rest);
            assert_eq!(after, b"", "{packet:?}");
            while let Some((&kind, rest)) = changes.split_first() {
                let (data, after) = string(rest);
                done.changes.push((kind, data.to_vec()));
                changes = after;
            }
        }
        done
    }

    fn eof(&self, packet: &[u8]) -> Done {
        assert!(packet[0] == 0xFE && packet.len() == 5, "{packet:?}");
        Done {
            warnings: u16::from_le_bytes([packet[1], packet[2]]),
            status: u16::from_le_bytes([packet[3], packet[4]]),
            ..Done::default()
        }
    }
}

/// A length-encoded integer and its size.
pub(crate) fn length(bytes: &[u8]) -> (u64, usize) {
    let wide = |size: usize| {
        let mut value = [0; 8];
        value[..size].copy_from_slice(&bytes[1..=size]);
        (u64::from_le_bytes(value), size + 1)
    };
    match bytes[0] {
        0xFC => wide(2),
        0xFD => wide(3),
        0xFE => wide(8),
        small => (u64::from(small), 1),
    }
}

/// A length-encoded string and what follows it.
pub(crate) fn string(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (length, size) = length(bytes);
    bytes[size..].split_at(usize::try_from(length).expect("it is in memory"))
}

pub(crate) fn refusal(packet: &[u8]) -> Refusal {
    let code = u16::from_le_bytes([packet[1], packet[2]]);
    let (state, text) = match &packet[3..] {
        [b'#', rest @ ..] => rest.split_at(5),
        rest => (&b""[..], rest),
    };
    Refusal {
        code,
        state: String::from_utf8_lossy(state).into_owned(),
        text: String::from_utf8_lossy(text).into_owned(),
    }
}

/// The answer to AuthSwitchRequest: what proves the password to the plugin that it names.
fn switched(switch: &[u8], account: Account) -> Vec<u8> {
    let mut parts = switch.split(|&byte| byte == 0);
    let (plugin, nonce) = (parts.next().unwrap_or_default(), parts.next().expect("a switch has a nonce"));
    match plugin {
        b"mysql_native_password" => native(account.password, &nonce[..20]),
        _ => scramble(account.password, &nonce[..20]),
    }
}

/// `mysql_native_password`: SHA1(password) XOR SHA1(nonce, SHA1(SHA1(password))).
fn native(password: &str, nonce: &[u8]) -> Vec<u8> {
    let sha1 = |bytes: &[u8]| digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes);
    let first = sha1(password.as_bytes());
    let second = sha1(&[nonce, sha1(first.as_ref()).as_ref()].concat());
    first.as_ref().iter().zip(second.as_ref()).map(|(a, b)| a ^ b).collect()
}

/// XOR(SHA256(password), SHA256(SHA256(SHA256(password)), nonce)).
fn scramble(password: &str, nonce: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = digest(&SHA256, password.as_bytes());
    let twice = digest(&SHA256, once.as_ref());
    let mixed = digest(&SHA256, &[twice.as_ref(), nonce].concat());
    once.as_ref().iter().zip(mixed.as_ref()).map(|(a, b)| a ^ b).collect()
}
