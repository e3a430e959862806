//! One connection to one server, logged in as one user, and what it looks like to the server at the moment.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::model::settings::{Beginning, Settings};
use crate::wire::flags::Capabilities;
use crate::wire::handshake::Attributes;
use crate::wire::response::Format;
use crate::wire::stream::Stream;

use super::connect::{Credentials, what_matters};

/// As whom, and how, connections are opened for a client. Connections of equal identities are shared.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) credentials: Arc<Credentials>,
    /// What the client and we agreed on; the flags that change bytes are the same towards servers.
    pub(crate) capabilities: Capabilities,
    pub(crate) collation: u16,
    /// Connection attributes of the client; those of its driver are no part of what makes identities equal.
    pub(crate) attributes: Attributes,
}

/// A pooled connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    pub(crate) mariadb: bool,
    pub(crate) thread_id: u32,
    pub(crate) capabilities: Capabilities,
    pub(crate) identity: Arc<Identity>,
    /// What the server has been told; see `reset`.
    pub(crate) applied: Arc<Settings>,
    /// What the server made of it before anybody asked for anything.
    pub(crate) beginning: Arc<Beginning>,
    /// What the login left in variables that no `SET ... = DEFAULT` brings back, and in the trackers.
    pub(crate) initial: Arc<[(&'static str, Box<[u8]>)]>,
    /// What COM_RESET_CONNECTION would make of the character set variables.
    pub(crate) globals: Arc<[(&'static str, Box<[u8]>)]>,
    /// The variables that the server tells us of, with commas, where it refuses names that it does not know (MariaDB).
    pub(crate) tracked: Option<Box<[u8]>>,
    pub(crate) prepared: PreparedCache,
    pub(crate) idle_since: Instant,
    /// The pool's when this was opened.
    pub(super) generation: u64,
    /// It was told of a next transaction (SET TRANSACTION) that has not come: to be closed instead of pooled.
    pub(crate) spoiled: bool,
    /// What a failed statement of a session has set on it nobody knows: to be closed too.
    pub(crate) doubtful: bool,
    pub(crate) guard: Guard,
    /// A command of ours was the last: ROW_COUNT() is about that one.
    pub(crate) asked: bool,
    /// A KILL QUERY of the statement that runs, which is under way.
    pub(crate) killing: Option<JoinHandle<()>>,
}

/// What keeps reads on a replica from writing there that lets accounts with enough rights write (a view may call a function
/// that does): the connection's transactions are read-only (`transaction_read_only`), whatever the session has set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Guard {
    /// It is to the primary, or to a server that refuses writes itself.
    #[default]
    None,
    Up,
    /// The variable is the session's own, for a statement in a read-only transaction that looks at it or sets it.
    Lifted,
}

/// The text of a prepared statement with all that decides what it means: the key of what is prepared where.
#[derive(Debug)]
pub(crate) struct PreparedText {
    hash: u64,
    /// One client's second statement of the same text is another one: each has its own cursor and long data.
    pub(crate) copy: u32,
    pub(crate) sql: Box<[u8]>,
    /// How the session that prepared it reads texts; see [`Settings::reading`].
    pub(crate) reading: Settings,
}

/// What a server knows of one prepared statement on one connection.
#[derive(Debug)]
pub(crate) struct OnServer {
    pub(crate) id: u32,
    /// The parameter types this connection was last told.
    pub(crate) types: Box<[u8]>,
    pub(crate) history: TypeHistory,
    pub(crate) executed: Executed,
    used: u64,
}

/// The types that the parameters of a statement have had. What a server makes of a value depends on them: a text where a
/// number was given before is read as a number (seen in 9.7.4). So a session's statement is executed where it has had the
/// types that it has had in the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TypeHistory {
    /// Over all that came before the last change.
    before: u64,
    /// The type and its sign, for each parameter; that of NULL where there was no other yet.
    kinds: Arc<[Kind]>,
}

type Kind = [u8; 2];

fn is_null(kind: Kind) -> bool {
    kind[0] == 0x06
}

impl TypeHistory {
    /// An EXECUTE has these.
    pub(crate) fn then(&self, kinds: &[Kind]) -> Self {
        if self.kinds.len() != kinds.len() {
            return Self { before: self.before, kinds: kinds.into() };
        }
        let merged = self.kinds.iter().zip(kinds).map(|(old, new)| if is_null(*new) { *old } else { *new });
        let kinds: Arc<[Kind]> = merged.collect();
        if self.is_near(&kinds) {
            return Self { before: self.before, kinds };
        }
        let mut hasher = std::hash::DefaultHasher::new();
        (self.before, &self.kinds).hash(&mut hasher);
        Self { before: hasher.finish(), kinds }
    }

    /// NULL is like any type.
    fn is_near(&self, kinds: &[Kind]) -> bool {
        self.kinds.len() == kinds.len()
            && self.kinds.iter().zip(kinds).all(|(a, b)| a == b || is_null(*a) || is_null(*b))
    }

    fn is_like(&self, other: &Self) -> bool {
        self.before == other.before && (Arc::ptr_eq(&self.kinds, &other.kinds) || self.is_near(&other.kinds))
    }
}

impl OnServer {
    /// True when an EXECUTE that leads to this history means here what it means in its session.
    pub(crate) fn suits(&self, history: &TypeHistory) -> bool {
        self.executed == Executed::Never
            || self.history.kinds.len() == history.kinds.len()
                && (self.history.is_like(history) || self.history.then(&history.kinds).is_like(history))
    }

    /// It was executed, which led to this history in its session.
    pub(crate) fn was_executed(&mut self, history: &TypeHistory) {
        if self.executed == Executed::Never {
            self.history = history.clone();
        } else if self.history != *history {
            self.history = self.history.then(&history.kinds);
        }
    }
}

/// How a statement was executed first. A server that executed it first with a cursor answers every later EXECUTE without
/// one with column definitions and nothing behind them (seen in 9.7.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Executed {
    #[default]
    Never,
    Plain,
    WithCursor,
}

/// The statements prepared on one connection; the least recently used go when it is full.
#[derive(Debug, Default)]
pub(crate) struct PreparedCache {
    statements: HashMap<Arc<PreparedText>, OnServer, rapidhash::fast::RandomState>,
    uses: u64,
}

impl Identity {
    pub(crate) fn matches(&self, other: &Self) -> bool {
        self.collation == other.collation
            && what_matters(self.capabilities) == what_matters(other.capabilities)
            && self.credentials.user == other.credentials.user
            && self.attributes.are_of_same_application(&other.attributes)
    }
}

impl Connection {
    pub(crate) fn format(&self) -> Format {
        Format {
            deprecate_eof: self.capabilities.contains(Capabilities::DEPRECATE_EOF),
            optional_metadata: self.capabilities.contains(Capabilities::OPTIONAL_RESULTSET_METADATA),
        }
    }

    /// A session without a schema cannot be given a connection that has one: there is no way to leave a schema.
    pub(crate) fn suits(&self, identity: &Arc<Identity>, settings: &Settings) -> bool {
        (Arc::ptr_eq(&self.identity, identity) || self.identity.matches(identity))
            && (self.applied.schema.is_none() || settings.schema.is_some())
    }
}

impl PreparedText {
    pub(crate) fn new(sql: &[u8], settings: &Settings) -> Self {
        let reading = settings.reading();
        let mut hasher = std::hash::DefaultHasher::new();
        (sql, &reading).hash(&mut hasher);
        Self { hash: hasher.finish(), copy: 0, sql: Box::from(sql), reading }
    }
}

impl Hash for PreparedText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl PartialEq for PreparedText {
    fn eq(&self, other: &Self) -> bool {
        self.copy == other.copy && self.is_same_text(other)
    }
}

impl PreparedText {
    /// Equal but for [`copy`](Self::copy).
    pub(crate) fn is_same_text(&self, other: &Self) -> bool {
        self.hash == other.hash && self.sql == other.sql && self.reading == other.reading
    }
}

impl Eq for PreparedText {}

impl PreparedCache {
    pub(crate) fn find(&mut self, text: &Arc<PreparedText>) -> Option<&mut OnServer> {
        self.uses += 1;
        let found = self.statements.get_mut(text)?;
        found.used = self.uses;
        Some(found)
    }

    /// Remembers a statement; returns the server's id of the one that had to go, which is to be closed. Those in `kept`
    /// have a cursor or long data there and stay.
    pub(crate) fn insert(
        &mut self,
        text: Arc<PreparedText>,
        id: u32,
        capacity: usize,
        kept: &[Arc<PreparedText>],
    ) -> Option<u32> {
        self.uses += 1;
        let evicted = if self.statements.len() >= capacity.max(1) {
            let oldest = self.statements.iter().filter(|(text, _)| !kept.contains(text));
            let oldest = oldest.min_by_key(|(_, on_server)| on_server.used);
            oldest.map(|(text, on_server)| (Arc::clone(text), on_server.id))
        } else {
            None
        };
        if let Some((oldest, _)) = &evicted {
            self.statements.remove(oldest);
        }
        self.statements.insert(
            text,
            OnServer {
                id,
                types: Box::default(),
                history: TypeHistory::default(),
                executed: Executed::Never,
                used: self.uses,
            },
        );
        evicted.map(|(_, id)| id)
    }

    /// The server no longer knows it (error 1243), or it must be prepared anew (1615).
    pub(crate) fn forget(&mut self, text: &Arc<PreparedText>) -> Option<u32> {
        self.statements.remove(text).map(|on_server| on_server.id)
    }

    /// Forgets all but those in `kept`, which have a cursor or long data there; the server's ids, which are to be closed.
    pub(crate) fn take_all(&mut self, kept: &[Arc<PreparedText>]) -> Vec<u32> {
        self.statements
            .extract_if(|text, _| !kept.contains(text))
            .map(|(_, on_server)| on_server.id)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_statement_goes() {
        let text = |sql: &str| Arc::new(PreparedText::new(sql.as_bytes(), &Settings::default()));
        let mut cache = PreparedCache::default();
        assert_eq!(cache.insert(text("a"), 1, 2, &[]), None);
        assert_eq!(cache.insert(text("b"), 2, 2, &[]), None);
        assert!(cache.find(&text("a")).is_some());
        assert_eq!(cache.insert(text("c"), 3, 2, &[]), Some(2));
        assert!(cache.find(&text("b")).is_none());
        assert_eq!(cache.insert(text("d"), 4, 2, &[text("a")]), Some(3));
        assert_eq!(cache.insert(text("e"), 5, 2, &[text("a"), text("d")]), None);
        assert_eq!(cache.take_all(&[text("d")]).len(), 2);
        assert!(cache.find(&text("d")).is_some());
    }

    #[test]
    fn types_that_parameters_have_had() {
        const NULL: Kind = [6, 0];
        const NUMBER: Kind = [8, 0];
        const TEXT: Kind = [0xFD, 0];
        let history =
            |all: &[&[Kind]]| all.iter().fold(TypeHistory::default(), |past, kinds| past.then(kinds));
        // What the connection has seen, what the session has, and whether the session's last EXECUTE may run there.
        let cases: [(&[&[Kind]], &[&[Kind]], bool); 12] = [
            (&[], &[&[NUMBER]], true),
            (&[&[NUMBER]], &[&[NUMBER]], true),
            (&[&[NUMBER]], &[], false),
            (&[&[NUMBER]], &[&[NUMBER], &[NUMBER]], true),
            (&[&[NUMBER]], &[&[TEXT]], false),
            (&[&[NUMBER]], &[&[NUMBER], &[TEXT]], true),
            (&[&[NUMBER], &[TEXT]], &[&[TEXT]], false),
            (&[&[NUMBER], &[TEXT]], &[&[NUMBER], &[TEXT]], true),
            (&[&[NUMBER], &[TEXT]], &[&[NUMBER], &[TEXT], &[NUMBER]], true),
            (&[&[NUMBER, NULL]], &[&[NUMBER, TEXT]], true),
            (&[&[NUMBER, TEXT]], &[&[NULL, TEXT], &[NUMBER, NULL]], true),
            (&[&[NUMBER, TEXT]], &[&[NULL, TEXT], &[TEXT, NULL]], false),
        ];
        for (seen, had, fits) in cases {
            let executed = if seen.is_empty() { Executed::Never } else { Executed::Plain };
            let mut on_server =
                OnServer { id: 1, types: Box::default(), history: history(seen), executed, used: 1 };
            let had_history = history(had);
            assert_eq!(on_server.suits(&had_history), fits, "{seen:?} {had:?}");
            if fits {
                on_server.was_executed(&had_history);
                assert!(on_server.suits(&had_history), "{seen:?} {had:?}");
            }
        }
    }

    #[test]
    fn drivers_share_connections_where_their_flags_mean_the_same() {
        let identity = |user: &str, capabilities: u32, collation| Identity {
            credentials: Arc::new(Credentials::new(user, b"")),
            capabilities: Capabilities(capabilities),
            collation,
            attributes: Attributes::default().with("_pid", b"7").with("program_name", b"shop"),
        };
        let says = |name: &str, value: &[u8]| {
            let ann = identity("ann", 0x0006_f3cf, 255);
            let attributes = ann.attributes.with(name, value);
            Identity { attributes, ..ann }
        };
        // As `mysql` 9.7.4 and the two drivers for Node.js log in, and with DEPRECATE_EOF.
        let cases = [
            (identity("ann", 0x19bf_a285, 255), false),
            (identity("ann", 0x0006_f3cf, 255), true),
            (identity("ann", 0x0086_f38f, 255), true),
            (identity("ann", 0x0106_f3cf, 255), false),
            (identity("ann", 0x0006_f3cf, 45), false),
            (identity("bob", 0x0006_f3cf, 255), false),
            (says("_client_version", b"8"), true),
            (says("instance", b"8"), false),
        ];
        let this = identity("ann", 0x0006_f3cf, 255);
        for (other, expected) in cases {
            assert_eq!(this.matches(&other), expected, "{other:?}");
            assert_eq!(other.matches(&this), expected, "{other:?}");
        }
    }

    #[test]
    fn a_text_means_something_else_under_another_schema() {
        let mut settings = Settings::default();
        let plain = PreparedText::new(b"SELECT * FROM t", &settings);
        settings.schema = Some(Arc::from(&b"d"[..]));
        assert_ne!(plain, PreparedText::new(b"SELECT * FROM t", &settings));
    }
}
