//! The live table of clients: who is connected, what pins a session, which server connection it holds. For SHOW
//! CLIENTS, SHOW PINS and KILL. A session writes to its row only when something changes; an idle client costs less than
//! 500 bytes here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use rapidhash::RapidHashMap;
use tokio::time::Instant;

/// The table. Cheap to clone; all clones are the same table.
#[derive(Clone, Default)]
pub(crate) struct Clients(Arc<Table>);

#[derive(Default)]
struct Table {
    rows: Mutex<RapidHashMap<u32, Arc<Row>>>,
    last_id: AtomicU32,
    /// Bytes of the clients that have left; changed under the lock of `rows`.
    left: Bytes,
}

/// Bytes relayed. Each client counts its own, so that no two threads write to one counter.
#[derive(Debug, Default)]
struct Bytes {
    to_client: AtomicU64,
    to_server: AtomicU64,
}

struct Row {
    id: u32,
    /// None: it came by the Unix socket.
    address: Option<SocketAddr>,
    since: Instant,
    busy: AtomicBool,
    bytes: Bytes,
    signals: AtomicU8,
    waker: AtomicWaker,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    user: Box<str>,
    schema: Option<Box<str>>,
    server: Option<ServerThread>,
    pins: Vec<Pin>,
}

/// The server connection that a session holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerThread {
    pub(crate) server: Arc<str>,
    /// The server's own id of the connection, as its KILL takes it.
    pub(crate) thread: u32,
}

/// Why a session stays on one connection.
#[derive(Clone, Debug)]
pub(crate) struct Pin {
    pub(crate) cause: &'static str,
    pub(crate) since: Instant,
    /// The statement that did it, without its literals.
    pub(crate) statement: Box<str>,
}

/// What others ask of a session; several may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signals(u8);

impl Signals {
    /// KILL QUERY: end the statement that runs; the session goes on.
    pub(crate) const KILL_STATEMENT: Self = Self(1);
    /// KILL: close the client's connection.
    pub(crate) const KILL_CONNECTION: Self = Self(2);
    /// The topology changed for the worse: see whether the server that is waited for is still there.
    pub(crate) const LOOK: Self = Self(4);
    /// We are stopping: close when nothing is open.
    pub(crate) const DRAIN: Self = Self(8);

    pub(crate) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One row of the table as it was when it was read.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) id: u32,
    pub(crate) user: Box<str>,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) connected: Duration,
    pub(crate) busy: bool,
    pub(crate) schema: Option<Box<str>>,
    pub(crate) server: Option<ServerThread>,
    pub(crate) pins: Vec<Pin>,
    /// Bytes of answers that it took, and of statements that it sent.
    pub(crate) to_client: u64,
    pub(crate) to_server: u64,
}

/// The table in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) connected: u64,
    /// Clients whose statement runs now.
    pub(crate) busy: u64,
    /// Sessions by what pins them; one that is pinned twice counts for both.
    pub(crate) pins: BTreeMap<&'static str, u64>,
    /// Bytes relayed since the start, to and from all clients that ever were.
    pub(crate) to_clients: u64,
    pub(crate) to_servers: u64,
}

/// A client's place in the table; dropping it removes the row. Belongs to the session.
pub(crate) struct Registration {
    table: Arc<Table>,
    row: Arc<Row>,
}

impl Clients {
    /// Gives the new client its connection id, unique among those connected.
    pub(crate) fn register(&self, address: Option<SocketAddr>) -> Registration {
        let mut rows = self.0.rows.lock();
        let id = loop {
            let id = self.0.last_id.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            // Ours have the highest bit, so that no server's own id is taken for one of them.
            let id = id | FIRST_ID;
            if !rows.contains_key(&id) {
                break id;
            }
        };
        let row = Arc::new(Row {
            id,
            address,
            since: Instant::now(),
            busy: AtomicBool::new(false),
            bytes: Bytes::default(),
            signals: AtomicU8::new(0),
            waker: AtomicWaker::new(),
            state: Mutex::new(State { user: UNAUTHENTICATED.into(), ..State::default() }),
        });
        rows.insert(id, Arc::clone(&row));
        Registration { table: Arc::clone(&self.0), row }
    }

    pub(crate) fn count(&self) -> usize {
        self.0.rows.lock().len()
    }

    pub(crate) fn find(&self, id: u32) -> Option<Client> {
        let row = self.0.rows.lock().get(&id).map(Arc::clone)?;
        Some(row.read())
    }

    /// All clients, by id.
    pub(crate) fn list(&self) -> Vec<Client> {
        // The rows are read after the table is let go, so that a long list holds up no login.
        let rows: Vec<Arc<Row>> = self.0.rows.lock().values().map(Arc::clone).collect();
        let mut clients: Vec<Client> = rows.iter().map(|row| row.read()).collect();
        clients.sort_unstable_by_key(|client| client.id);
        clients
    }

    pub(crate) fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        let rows: Vec<Arc<Row>> = {
            let rows = self.0.rows.lock();
            (summary.to_clients, summary.to_servers) = self.0.left.read();
            rows.values().map(Arc::clone).collect()
        };
        summary.connected = rows.len() as u64;
        for row in rows {
            summary.busy += u64::from(row.busy.load(Ordering::Relaxed));
            let (to_client, to_server) = row.bytes.read();
            summary.to_clients += to_client;
            summary.to_servers += to_server;
            for pin in &row.state.lock().pins {
                *summary.pins.entry(pin.cause).or_default() += 1;
            }
        }
        summary
    }

    /// Tells the session of this client. False when there is none.
    pub(crate) fn signal(&self, id: u32, signal: Signals) -> bool {
        let Some(row) = self.0.rows.lock().get(&id).map(Arc::clone) else { return false };
        row.signal(signal);
        true
    }

    /// Tells all sessions.
    pub(crate) fn signal_all(&self, signal: Signals) {
        let rows: Vec<Arc<Row>> = self.0.rows.lock().values().map(Arc::clone).collect();
        for row in rows {
            row.signal(signal);
        }
    }
}

impl Registration {
    pub(crate) fn id(&self) -> u32 {
        self.row.id
    }

    /// The login is over, or COM_CHANGE_USER has changed the user.
    pub(crate) fn logged_in(&self, user: &str, schema: Option<&str>) {
        let mut state = self.row.state.lock();
        state.user = user.into();
        state.schema = schema.map(Box::from);
    }

    pub(crate) fn schema(&self, schema: Option<&str>) {
        self.row.state.lock().schema = schema.map(Box::from);
    }

    /// True while a statement runs.
    pub(crate) fn busy(&self, busy: bool) {
        self.row.busy.store(busy, Ordering::Relaxed);
    }

    pub(crate) fn relayed_to_client(&self, bytes: usize) {
        self.row.bytes.to_client.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn relayed_to_server(&self, bytes: usize) {
        self.row.bytes.to_server.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The server connection that the session holds now, or None when it gave it back.
    pub(crate) fn holds(&self, server: Option<ServerThread>) {
        self.row.state.lock().server = server;
    }

    /// The causes that pin the session from now on; to be called when they change. `statement` is the text that changed
    /// them; only its shape is kept, and no more than a line of it. Returns the causes that are new.
    pub(crate) fn pinned(&self, causes: &[&'static str], statement: &[u8]) -> Vec<&'static str> {
        let mut state = self.row.state.lock();
        state.pins.retain(|pin| causes.contains(&pin.cause));
        let mut new = Vec::new();
        for &cause in causes {
            if state.pins.len() < MAX_PINS && !state.pins.iter().any(|pin| pin.cause == cause) {
                state.pins.push(Pin { cause, since: Instant::now(), statement: shape(statement) });
                new.push(cause);
            }
        }
        state.pins.shrink_to_fit();
        new
    }

    /// True when the client was killed and the session does not know it yet.
    pub(crate) fn is_killed(&self) -> bool {
        Signals(self.row.signals.load(Ordering::Acquire)).contains(Signals::KILL_CONNECTION)
    }

    /// The signals that came since the last call. Ready only when there is one.
    ///
    /// Cancel safety: a signal is lost only once it was returned.
    pub(crate) fn poll_signals(&self, context: &mut Context<'_>) -> Poll<Signals> {
        // Registered first, so that a signal between the two steps wakes.
        self.row.waker.register(context.waker());
        match self.row.signals.swap(0, Ordering::AcqRel) {
            0 => Poll::Pending,
            bits => Poll::Ready(Signals(bits)),
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let (to_client, to_server) = self.row.bytes.read();
        let mut rows = self.table.rows.lock();
        self.table.left.to_client.fetch_add(to_client, Ordering::Relaxed);
        self.table.left.to_server.fetch_add(to_server, Ordering::Relaxed);
        rows.remove(&self.row.id);
    }
}

impl Bytes {
    fn read(&self) -> (u64, u64) {
        (self.to_client.load(Ordering::Relaxed), self.to_server.load(Ordering::Relaxed))
    }
}

impl Row {
    fn signal(&self, signal: Signals) {
        self.signals.fetch_or(signal.0, Ordering::AcqRel);
        self.waker.wake();
    }

    fn read(&self) -> Client {
        let state = self.state.lock();
        let (to_client, to_server) = self.bytes.read();
        Client {
            id: self.id,
            user: state.user.clone(),
            address: self.address,
            connected: self.since.elapsed(),
            busy: self.busy.load(Ordering::Relaxed),
            schema: state.schema.clone(),
            server: state.server.clone(),
            pins: state.pins.clone(),
            to_client,
            to_server,
        }
    }
}

/// The statement without what may be somebody's data: literals become `?`, comments go, and where it is not certain
/// that a literal has ended the text ends.
pub(crate) fn shape(statement: &[u8]) -> Box<str> {
    let mut shape = String::new();
    let mut at = 0;
    while at < statement.len() {
        if shape.len() >= SHAPE_BYTES {
            shape.push_str("...");
            break;
        }
        let byte = statement[at];
        let rest = &statement[at..];
        match byte {
            b'\'' | b'"' => {
                shape.push('?');
                match string_end(rest) {
                    Some(length) => at += length,
                    None => {
                        shape.push_str("...");
                        break;
                    }
                }
            }
            b'/' if rest.starts_with(b"/*") => match memchr::memmem::find(rest, b"*/") {
                Some(end) => at += end + 2,
                None => break,
            },
            b'#' => break,
            b'-' if rest.starts_with(b"--") => break,
            b'0'..=b'9' if !shape.ends_with(|c: char| c.is_ascii_alphanumeric() || "_$@`".contains(c)) => {
                let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'.';
                at += rest.iter().take_while(|byte| word(byte)).count();
                shape.push('?');
            }
            byte if byte.is_ascii_whitespace() => {
                if !shape.is_empty() && !shape.ends_with(' ') {
                    shape.push(' ');
                }
                at += 1;
            }
            byte => {
                shape.push(if byte.is_ascii_graphic() { char::from(byte) } else { '_' });
                at += 1;
            }
        }
    }
    shape.trim_end().into()
}

/// The length of the quoted text that `rest` begins with. None when the text ends before it, or has a backslash: whether
/// that escapes depends on the session.
fn string_end(rest: &[u8]) -> Option<usize> {
    let quote = rest[0];
    let mut at = 1;
    while let Some(&byte) = rest.get(at) {
        if byte == b'\\' {
            return None;
        }
        if byte == quote {
            if rest.get(at + 1) != Some(&quote) {
                return Some(at + 1);
            }
            at += 1;
        }
        at += 1;
    }
    None
}

/// The lowest connection id of ours.
pub(crate) const FIRST_ID: u32 = 1 << 31;
const UNAUTHENTICATED: &str = "unauthenticated user";
/// A statement's shape is cut here; a table of pins is to be read in a terminal.
const SHAPE_BYTES: usize = 160;
/// More causes at once are not shown.
const MAX_PINS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_and_go() {
        let clients = Clients::default();
        let first = clients.register("127.0.0.1:5".parse().ok());
        let second = clients.register(None);
        assert_eq!((first.id(), second.id(), clients.count()), (FIRST_ID + 1, FIRST_ID + 2, 2));
        second.logged_in("app", Some("shop"));
        second.holds(Some(ServerThread { server: "mysql-0".into(), thread: 9 }));
        second.pinned(&["named-lock"], b"SELECT GET_LOCK('secret', 10)");
        assert_eq!(second.pinned(&["named-lock", "transaction"], b"BEGIN"), ["transaction"]);
        let row = clients.find(second.id()).expect("registered");
        assert_eq!((&*row.user, row.schema.as_deref(), row.pins.len()), ("app", Some("shop"), 2));
        assert_eq!(&*row.pins[0].statement, "SELECT GET_LOCK(?, ?)");
        second.busy(true);
        let summary = clients.summary();
        assert_eq!((summary.connected, summary.busy, summary.pins.get("named-lock")), (2, 1, Some(&1)));
        second.pinned(&[], b"");
        first.relayed_to_client(7);
        drop(first);
        second.relayed_to_client(3);
        second.relayed_to_server(2);
        let summary = clients.summary();
        assert_eq!((summary.to_clients, summary.to_servers), (10, 2));
        let rows = clients.list();
        assert_eq!((rows.len(), rows[0].pins.len(), rows[0].id), (1, 0, second.id()));
    }

    #[test]
    fn signals_reach_the_session() {
        let clients = Clients::default();
        let client = clients.register(None);
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(client.poll_signals(&mut context).is_pending());
        assert!(!clients.signal(99, Signals::KILL_CONNECTION));
        assert!(clients.signal(client.id(), Signals::KILL_STATEMENT));
        clients.signal_all(Signals::DRAIN);
        let Poll::Ready(signals) = client.poll_signals(&mut context) else { panic!("signals were lost") };
        assert!(signals.contains(Signals::KILL_STATEMENT) && signals.contains(Signals::DRAIN));
        assert!(!signals.contains(Signals::KILL_CONNECTION) && !client.is_killed());
        assert!(client.poll_signals(&mut context).is_pending());
        assert!(clients.signal(client.id(), Signals::KILL_CONNECTION) && client.is_killed());
    }

    #[test]
    fn an_idle_client_is_small() {
        // The row, its two counters in the Arc, the user's name, and a slot of the map at its emptiest.
        let bytes =
            size_of::<Row>() + 16 + 32 + 2 * (size_of::<(u32, Arc<Row>)>() + 1) + size_of::<Registration>();
        assert!(bytes < 500, "{bytes}");
    }

    #[test]
    fn shapes_hide_literals() {
        let check = |statement: &str, expected: &str| {
            assert_eq!(&*shape(statement.as_bytes()), expected, "{statement}");
        };
        check("SET @a := 'x''y', @b = \"z\"", "SET @a := ?, @b = ?");
        check("SELECT  1,\n t1.c2 FROM t1 -- bob", "SELECT ?, t1.c2 FROM t1");
        check("SELECT 0x616263, 1.5e3, x'61'", "SELECT ?, ?, x?");
        check("SELECT /* bob */ 'a\\' bob '", "SELECT ?...");
        check("SELECT 'bob", "SELECT ?...");
        check("SELECT /* bob", "SELECT");
        check("SELECT é # bob", "SELECT __");
        let long = shape("a, ".repeat(1000).as_bytes());
        assert!(long.len() <= SHAPE_BYTES + 3 && long.ends_with("..."), "{long}");
    }

    proptest::proptest! {
        #[test]
        fn shapes_of_anything(statement: Vec<u8>) {
            let shape = shape(&statement);
            proptest::prop_assert!(shape.len() <= SHAPE_BYTES + 3 && shape.is_ascii());
        }

        /// No mode and no charset may let a quoted text through.
        #[test]
        fn shapes_never_show_a_literal(secret in "[^'\\\\]{0,20}", quote in "['\"]") {
            let marked = format!("SELECT {quote}XYZZY{}{quote}", secret.replace(&quote, ""));
            proptest::prop_assert!(!shape(marked.as_bytes()).contains("XYZZY"));
        }
    }
}
