//! The same session twice: once with a MySQL server itself, once through the proxy over a primary and two replicas. A
//! client must not be able to tell which is which: results, metadata, status flags, warnings, counts and errors are compared.
//! Sessions are made by chance from a seed; one that differs is shrunk to the few steps that it takes and printed.
//!
//! `READWRIGHT_FUZZ_MINUTES=10 cargo test --test differential -- --nocapture` runs for longer, `READWRIGHT_FUZZ_SEED=N`
//! begins with another seed, and with `READWRIGHT_FUZZ_CASES=1` runs that one case alone.

use std::env;
use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use act::Player;
use futures_util::FutureExt;
use generate::{Action, Step, Wanted};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use servers::{Make, Servers};
use support::cluster::ROOT;
use support::proxy::Proxy;
use support::raw::{Outcome, Raw, USUAL};
use tokio::time::{Instant, sleep_until, timeout};

mod act;
mod generate;
mod servers;
mod statements;
#[path = "../support/mod.rs"]
mod support;

/// Without a word from the environment: for so long, and no further than seeds that have been tried.
const USUAL_TIME: Duration = Duration::from_secs(600);
const SEED: u64 = 1;
const CASES: u64 = 1300;

/// How long a step may take. Locks are waited for one second.
const STEP: Duration = Duration::from_secs(20);
/// How long replicas are held up.
const HELD_UP: Duration = Duration::from_millis(60);
/// How often a case that differs is run again to make it smaller.
const SHRINKING: u32 = 150;
/// How often a whole case is run again of which the smaller one did not differ again.
const AGAIN: u32 = 4;

#[test]
fn nobody_can_tell_the_proxy_from_a_server() {
    support::run(async {
        let number = |name: &str| env::var(name).ok().map(|text| text.parse().expect("a number"));
        let seed = number("READWRIGHT_FUZZ_SEED").unwrap_or(SEED);
        let make = env::var("READWRIGHT_FUZZ_SERVERS").map_or(Make::MySql, |name| Make::named(&name));
        let minutes = number("READWRIGHT_FUZZ_MINUTES");
        let wanted = number("READWRIGHT_FUZZ_CASES");
        // What chance alone can show, and not again, is for people who look for it.
        let is_usual = minutes.is_none() && wanted.is_none();
        let cases = wanted.unwrap_or(if is_usual { CASES } else { u64::MAX });
        let time = minutes.map_or(USUAL_TIME, |minutes| Duration::from_secs(60 * minutes));
        let scene = Scene::start(make).await;
        say(&format!("random sessions of seeds from {seed}, for {time:?} or {cases} cases"));
        let started = Instant::now();
        let (mut steps, mut different) = (0, String::new());
        let mut done = 0;
        while done < cases && started.elapsed() < time {
            let case = generate::case(seed + done);
            steps += case.steps.len();
            if let Some(difference) = scene.difference(&case).await {
                let (small, shows_again) = scene.shrink(case, difference).await;
                let text = format!("--- READWRIGHT_FUZZ_SEED={} ---\n{small}\n", seed + done);
                say(&text);
                if shows_again || !is_usual {
                    different.push_str(&text);
                }
            }
            done += 1;
        }
        say(&format!("{done} cases of {steps} steps, seeds from {seed}, in {:?}", started.elapsed()));
        assert!(different.is_empty(), "\n{different}");
    });
}

/// To the terminal or the log of CI, also when the test passes.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The servers: one alone, and the proxy's.
struct Scene {
    make: Make,
    single: Servers,
    cluster: Servers,
    proxy: Proxy,
}

/// Replicas that apply nothing: what their root has locked nobody may change.
struct HeldUp {
    locked: Vec<Conn>,
    until: Instant,
}

impl HeldUp {
    /// Lets them go on in the middle of what happens, when it is time.
    async fn during<T>(held_up: &mut Option<Self>, happens: impl Future<Output = T>) -> T {
        let mut happens = pin!(happens);
        if let Some(held) = held_up {
            tokio::select! {
                seen = &mut happens => return seen,
                () = sleep_until(held.until) => {}
            }
            Self::end(held_up.take()).await;
        }
        happens.await
    }

    async fn end(held_up: Option<Self>) {
        for mut root in held_up.map(|held| held.locked).unwrap_or_default() {
            root.query_drop("UNLOCK TABLES").await.expect("root may");
        }
    }
}

/// Where two sessions part.
struct Difference {
    step: usize,
    text: String,
}

const SCHEMA: &str = "CREATE DATABASE {schema}; USE {schema}";
const TABLES: &str = include_str!("tables.sql");
const ROUTINES: &str = include_str!("routines.sql");

impl Scene {
    async fn start(make: Make) -> Self {
        let (single, cluster) = tokio::join!(Servers::start(make, 0), Servers::start(make, 2));
        for cluster in [&single, &cluster] {
            for ordinal in 0..cluster.len() {
                let mut root = cluster.root(ordinal).await;
                for sql in [
                    "SET GLOBAL log_bin_trust_function_creators = ON",
                    "SET GLOBAL innodb_lock_wait_timeout = 1",
                    "SET GLOBAL lock_wait_timeout = 1",
                    "SET GLOBAL general_log = OFF",
                    "SET GLOBAL local_infile = ON",
                ] {
                    root.query_drop(sql).await.expect("root may");
                }
            }
            let mut root = cluster.root(0).await;
            for account in [act::ACCOUNT, act::OTHER_ACCOUNT] {
                let (user, password) = (account.user, account.password);
                root.query_drop(format!("CREATE USER {user}@'%' IDENTIFIED BY '{password}'"))
                    .await
                    .expect("root may");
                root.query_drop(format!("GRANT ALL ON *.* TO {user}@'%'")).await.expect("root may");
                if let Some(sql) = make.takes_from(user) {
                    root.query_drop(sql).await.expect("root may");
                }
            }
            for sql in [
                "CREATE ROLE r0, r1",
                "GRANT SELECT ON *.* TO r0",
                "GRANT r0 TO fuzz@'%', fuzz2@'%'",
                "GRANT r1 TO fuzz@'%', fuzz2@'%'",
            ] {
                root.query_drop(sql).await.expect("root may");
            }
            cluster.caught_up().await;
        }
        // Connections change hands after every pause, and there are few of them.
        let proxy = cluster.behind_proxy("pool: {linger_ms: 5, max_per_server: 4}").await;
        // Everybody knows both passwords from here on.
        for port in [single.port(0), cluster.port(0), proxy.port()] {
            for account in [act::ACCOUNT, act::OTHER_ACCOUNT] {
                drop(support::cluster::connect(port, account).await.expect("the login is accepted"));
            }
        }
        // Through the proxy, which knows at once what they do.
        for port in [single.port(0), proxy.port()] {
            let mut root = Raw::connect(port, ROOT, USUAL).await;
            for schema in generate::SCHEMAS {
                for text in [SCHEMA, TABLES, ROUTINES] {
                    script(&mut root, &make.adapt(text), schema).await;
                }
            }
        }
        Self { make, single, cluster, proxy }
    }

    /// Runs a case on both sides, step by step. None: no difference.
    async fn difference(&self, case: &Wanted) -> Option<Difference> {
        let mut one = self.players(case, self.single.port(0), self.single.port(0)).await;
        let mut other = self.players(case, self.proxy.port(), self.cluster.port(0)).await;
        self.cluster.caught_up().await;
        let mut found = None;
        for (one, other) in one.iter().zip(&other) {
            let (expected, seen) = (one.welcome(), other.welcome());
            if expected != seen {
                found = Some(Difference { step: 0, text: format!("  server: {expected}\n  proxy:  {seen}") });
            }
        }
        let mut last = 0;
        let mut held_up = None;
        for (at, step) in case.steps.iter().enumerate() {
            let is_new = matches!(step.action, Action::Reconnect { .. });
            if std::mem::replace(&mut last, step.who) != step.who || is_new {
                // A session is promised its own writes, and those of others only later.
                HeldUp::end(held_up.take()).await;
                self.cluster.caught_up().await;
            }
            if matches!(step.action, Action::HoldUpReplicas) && held_up.is_none() {
                held_up = Some(self.hold_up_replicas().await);
            }
            let expected = act(&mut one[step.who], step).await;
            let seen = HeldUp::during(&mut held_up, act(&mut other[step.who], step)).await;
            let is_known = act::is_known(&step.action, &expected, &seen);
            if expected != seen && !is_known {
                found =
                    Some(Difference { step: at, text: format!("  server: {expected}\n  proxy:  {seen}") });
                break;
            }
            if act::is_over(&expected) || is_known {
                break;
            }
        }
        HeldUp::end(held_up).await;
        found
    }

    async fn hold_up_replicas(&self) -> HeldUp {
        let mut locked = Vec::new();
        for ordinal in 1..self.cluster.len() {
            let mut root = self.cluster.root(ordinal).await;
            // One whose statements do not end for so long is left alone.
            if root.query_drop("FLUSH TABLES WITH READ LOCK").await.is_ok() {
                locked.push(root);
            }
        }
        HeldUp { locked, until: Instant::now() + HELD_UP }
    }

    /// The clients of a case, each with its own schema, as it was at the beginning.
    async fn players(&self, case: &Wanted, port: u16, primary: u16) -> Vec<Player> {
        let mut root = Raw::connect(primary, ROOT, USUAL).await;
        act::clean(&mut root).await;
        for schema in generate::SCHEMAS {
            script(&mut root, &self.make.adapt(TABLES), schema).await;
        }
        let mut players = Vec::new();
        for schema in generate::SCHEMAS {
            players.push(Player::connect(port, case.capabilities, schema).await);
        }
        players
    }

    /// Leaves out what it can of a case that differs, and tells what is left; and whether it differs whenever it is run.
    async fn shrink(&self, mut case: Wanted, first: Difference) -> (String, bool) {
        case.steps.truncate(first.step + 1);
        let whole = case.clone();
        let mut runs = 0;
        let mut size = case.steps.len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            let mut smaller = false;
            while at < case.steps.len() && runs < SHRINKING {
                let mut tried = case.clone();
                tried.steps.drain(at..(at + size).min(case.steps.len()));
                runs += 1;
                match self.difference(&tried).await {
                    Some(difference) => {
                        tried.steps.truncate(difference.step + 1);
                        case = tried;
                        smaller = true;
                    }
                    None => at += size,
                }
            }
            if runs >= SHRINKING || (size == 1 && !smaller) {
                break;
            }
            size = (size / 2).max(1);
        }
        let capabilities = case.capabilities;
        let (note, case, end) = match self.difference(&case).await {
            Some(end) => ("", case, end),
            None => (", by chance", whole, first),
        };
        let mut shows_again = note.is_empty();
        for _ in 0..if shows_again { 0 } else { AGAIN } {
            shows_again |= self.difference(&case).await.is_some();
        }
        let mut text = format!("capabilities {capabilities:#x}, {runs} runs{note}\n");
        for step in &case.steps {
            let _ = writeln!(text, "{} {:?}", step.who, step.action);
        }
        (text + &end.text, shows_again)
    }
}

async fn script(root: &mut Raw, text: &str, schema: &str) {
    for outcome in root.query_all(&text.replace("{schema}", schema)).await {
        assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    }
}

/// What a client sees of a step; a broken protocol and a silence are sights like any other.
async fn act(player: &mut Player, step: &Step) -> String {
    let seen = AssertUnwindSafe(player.act(&step.action)).catch_unwind();
    match timeout(STEP, seen).await {
        Ok(Ok(seen)) => seen,
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<String>().cloned();
            format!("{} {}", act::BROKEN, text.unwrap_or_default())
        }
        Err(_) => format!("{} nothing for {STEP:?}", act::BROKEN),
    }
}
