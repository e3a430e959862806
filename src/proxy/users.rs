//! What is known of users: passwords that a server confirmed, and when it last did. Memory only; MySQL is where users live,
//! and everything here can be forgotten at any time at the price of one login at a server.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use crate::backend::connect::{Credentials, what_matters};
use crate::config;
use crate::model::settings::Beginning;
use crate::wire::flags::Capabilities;

/// All users; one for the whole process.
pub(crate) struct Users {
    /// By user name. Those that log in least often go when it is full.
    learned: Cache<Arc<str>, Arc<Known>>,
    /// From the configuration; believed no more than what was learned, but never dropped.
    configured: HashMap<Arc<str>, Arc<Credentials>>,
    recheck: Duration,
    /// Counts the changes of accounts that we saw; what a server confirmed before the last one is worth nothing.
    generation: AtomicU64,
}

/// One user whose password is known.
pub(crate) struct Known {
    pub(crate) credentials: Arc<Credentials>,
    confirmed: Mutex<Vec<Confirmed>>,
    checking: tokio::sync::Mutex<()>,
}

/// How somebody logs in, as far as servers make different sessions of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner<'a> {
    pub(crate) schema: Option<&'a [u8]>,
    pub(crate) collation: u16,
    pub(crate) capabilities: Capabilities,
}

/// A server let this user in, in this manner.
struct Confirmed {
    schema: Option<Box<[u8]>>,
    collation: u16,
    capabilities: Capabilities,
    beginning: Arc<Beginning>,
    at: Instant,
    generation: Generation,
}

/// Taken before a server is asked, so that an account that changes meanwhile is asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u64);

/// The right to ask a server about one user while others wait for what comes of it.
pub(crate) struct Turn<'a>(
    #[expect(dead_code, reason = "held until dropped")] Option<tokio::sync::MutexGuard<'a, ()>>,
);

/// Users that are remembered.
const CAPACITY: usize = 10_000;
/// Manners that are remembered for one user.
const MANNERS: usize = 16;
/// How long a login waits for another one's check of the same user before it asks a server itself.
const PATIENCE: Duration = Duration::from_millis(250);

impl Users {
    pub(crate) fn new(config: &config::Users) -> Self {
        let configured = config.known.iter().map(|account| {
            let credentials = Credentials::new(account.user.as_str(), account.password.reveal().as_bytes());
            (Arc::clone(&credentials.user), Arc::new(credentials))
        });
        Self {
            learned: Cache::new(CAPACITY),
            configured: configured.collect(),
            recheck: config.recheck,
            generation: AtomicU64::new(0),
        }
    }

    /// What is known of this user.
    pub(crate) fn find(&self, user: &str) -> Option<Arc<Known>> {
        self.learned.get(user).or_else(|| {
            let known = Arc::new(Known::new(Arc::clone(self.configured.get(user)?)));
            self.learned.insert(Arc::clone(&known.credentials.user), Arc::clone(&known));
            Some(known)
        })
    }

    /// What the session begins with, when a server let this user in like this (with any schema, if there is none) so recently
    /// that it need not be asked again.
    pub(crate) fn confirmed(&self, known: &Known, manner: Manner<'_>) -> Option<Arc<Beginning>> {
        let generation = self.generation();
        let confirmed = known.confirmed.lock();
        let found = confirmed.iter().find(|confirmed| {
            confirmed.generation == generation
                && (manner.schema.is_none() || manner.schema == confirmed.schema.as_deref())
                && confirmed.is_like(manner)
                && confirmed.at.elapsed() < self.recheck
        });
        found.map(|confirmed| Arc::clone(&confirmed.beginning))
    }

    /// To be taken before a server is asked, and given to [`learn`](Self::learn).
    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// Remembers that a server, asked at `generation`, let these credentials in, and with what the session begins there;
    /// returns that, shared by all sessions of the user that begin so.
    pub(crate) fn learn(
        &self,
        credentials: &Arc<Credentials>,
        manner: Manner<'_>,
        beginning: Arc<Beginning>,
        generation: Generation,
    ) -> Arc<Beginning> {
        let known = self.find(&credentials.user).filter(|known| known.is_same(credentials));
        let known = known.unwrap_or_else(|| {
            let known = Arc::new(Known::new(Arc::clone(credentials)));
            self.learned.insert(Arc::clone(&credentials.user), Arc::clone(&known));
            known
        });
        let Manner { schema, collation, capabilities } = manner;
        let (schema, capabilities) = (schema.map(Box::from), what_matters(capabilities));
        let at = Instant::now();
        known.confirm(Confirmed { schema, collation, capabilities, beginning, at, generation })
    }

    /// A server refused these credentials. What is known of the user stays where it is another password: somebody may have
    /// guessed wrong. Servers count that (FAILED_LOGIN_ATTEMPTS), and so are asked about the right one again.
    pub(crate) fn forget(&self, credentials: &Credentials) {
        self.learned.remove_if(&*credentials.user, |known| known.is_same(credentials));
        if let Some(known) = self.learned.get(&*credentials.user) {
            known.confirmed.lock().clear();
        }
    }

    /// Accounts may have changed (CREATE USER, ALTER USER, DROP USER, GRANT, REVOKE, SET PASSWORD, DROP DATABASE, ...):
    /// from now on every user is asked for again.
    pub(crate) fn forget_all_verifications(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Users({} learned, {} configured)", self.learned.len(), self.configured.len())
    }
}

impl Known {
    fn new(credentials: Arc<Credentials>) -> Self {
        Self { credentials, confirmed: Mutex::default(), checking: tokio::sync::Mutex::default() }
    }

    /// Waits while another login asks a server about this user, so that a hundred of them do not ask a hundred times;
    /// afterwards the answer may be known. Waits a moment only: a server that hangs must not make a queue.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        Turn(tokio::time::timeout(PATIENCE, self.checking.lock()).await.ok())
    }

    pub(crate) fn is_same(&self, credentials: &Credentials) -> bool {
        self.credentials.user == credentials.user && self.credentials.password() == credentials.password()
    }

    fn confirm(&self, mut new: Confirmed) -> Arc<Beginning> {
        let mut confirmed = self.confirmed.lock();
        if let Some(same) = confirmed.iter().find(|old| old.beginning == new.beginning) {
            new.beginning = Arc::clone(&same.beginning);
        }
        let beginning = Arc::clone(&new.beginning);
        let manner = |of: &Confirmed| (of.collation, of.capabilities);
        confirmed.retain(|old| old.schema != new.schema || manner(old) != manner(&new));
        if confirmed.len() >= MANNERS {
            // The oldest is first.
            confirmed.remove(0);
        }
        confirmed.push(new);
        beginning
    }
}

impl Confirmed {
    /// But for the schema.
    fn is_like(&self, manner: Manner<'_>) -> bool {
        (self.collation, self.capabilities) == (manner.collation, what_matters(manner.capabilities))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(schema: Option<&[u8]>) -> Manner<'_> {
        Manner { schema, collation: 255, capabilities: Capabilities::NONE }
    }

    fn users(recheck: u64) -> Users {
        let account =
            config::Account { user: "app".to_owned(), password: config::Secret::new("secret".to_owned()) };
        Users::new(&config::Users { known: vec![account], recheck: Duration::from_secs(recheck) })
    }

    fn credentials(user: &str, password: &str) -> Arc<Credentials> {
        Arc::new(Credentials::new(user, password.as_bytes()))
    }

    fn learn(
        users: &Users,
        credentials: &Arc<Credentials>,
        schema: Option<&[u8]>,
        generation: Generation,
    ) -> Arc<Known> {
        users.learn(credentials, with(schema), Arc::default(), generation);
        users.find(&credentials.user).expect("just learned")
    }

    fn is_confirmed(users: &Users, known: &Known, schema: Option<&[u8]>) -> bool {
        users.confirmed(known, with(schema)).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_confirmation_has_an_age_and_a_schema() {
        let users = users(60);
        let known = learn(&users, &credentials("ann", "1"), Some(b"shop"), users.generation());
        assert!(is_confirmed(&users, &known, None), "with a schema means without one, too");
        assert!(is_confirmed(&users, &known, Some(b"shop")));
        assert!(!is_confirmed(&users, &known, Some(b"mysql")));
        let elsewise = [
            Manner { collation: 45, ..with(None) },
            Manner { capabilities: Capabilities::IGNORE_SPACE, ..with(None) },
        ];
        assert!(elsewise.iter().all(|manner| users.confirmed(&known, *manner).is_none()), "another session");
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(is_confirmed(&users, &known, Some(b"shop")));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!is_confirmed(&users, &known, Some(b"shop")));
    }

    #[tokio::test(start_paused = true)]
    async fn no_recheck_time_means_every_login_is_checked() {
        let users = users(0);
        let known = learn(&users, &credentials("ann", "1"), None, users.generation());
        assert!(!is_confirmed(&users, &known, None));
    }

    #[tokio::test]
    async fn changed_accounts_are_asked_for_again() {
        let users = users(60);
        let before = users.generation();
        let known = learn(&users, &credentials("ann", "1"), None, before);
        users.forget_all_verifications();
        assert!(!is_confirmed(&users, &known, None));
        learn(&users, &credentials("ann", "1"), None, before);
        assert!(!is_confirmed(&users, &known, None), "this server was asked before the change");
        learn(&users, &credentials("ann", "1"), None, users.generation());
        assert!(is_confirmed(&users, &known, None), "the same user, confirmed again");
    }

    #[tokio::test]
    async fn only_the_refused_password_is_forgotten() {
        let users = users(60);
        learn(&users, &credentials("ann", "1"), None, users.generation());
        users.forget(&credentials("ann", "2"));
        let known = users.find("ann").expect("that was somebody else's guess");
        assert!(!is_confirmed(&users, &known, None), "the server has counted it");
        users.forget(&credentials("ann", "1"));
        assert!(users.find("ann").is_none());
    }

    #[tokio::test]
    async fn a_new_password_replaces_the_old() {
        let users = users(60);
        learn(&users, &credentials("ann", "1"), None, users.generation());
        learn(&users, &credentials("ann", "2"), None, users.generation());
        assert_eq!(users.find("ann").expect("known").credentials.password(), b"2");
    }

    #[tokio::test]
    async fn configured_users_are_known_but_not_confirmed() {
        let users = users(60);
        let known = users.find("app").expect("configured");
        assert_eq!(known.credentials.password(), b"secret");
        assert!(!is_confirmed(&users, &known, None));
        learn(&users, &known.credentials, None, users.generation());
        assert!(is_confirmed(&users, &users.find("app").expect("known"), None));
        users.forget(&known.credentials);
        assert!(!is_confirmed(&users, &users.find("app").expect("configured"), None));
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let users = users(60);
        for number in 0..2 * CAPACITY {
            learn(&users, &credentials(&number.to_string(), "1"), None, users.generation());
        }
        assert!(users.learned.len() <= CAPACITY, "{users:?}");
        let known = learn(&users, &credentials("ann", "1"), None, users.generation());
        for number in 0..100 {
            learn(&users, &known.credentials, Some(format!("s{number}").as_bytes()), users.generation());
        }
        assert_eq!(known.confirmed.lock().len(), MANNERS);
        assert!(is_confirmed(&users, &known, Some(b"s99")));
        assert!(!is_confirmed(&users, &known, Some(b"s0")));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_long_for_a_turn() {
        let users = users(60);
        let known = users.find("app").expect("configured");
        let first = known.turn().await;
        let waited = Instant::now();
        let second = known.turn().await;
        assert_eq!(waited.elapsed(), PATIENCE);
        drop((first, second));
        let waited = Instant::now();
        known.turn().await;
        assert_eq!(waited.elapsed(), Duration::ZERO);
    }
}
