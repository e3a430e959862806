//! Where statements really run: every case of `tests/routing/cases` through a proxy over a primary and two replicas, told
//! by the servers' general logs, and what the client is answered, compared with the primary itself.

use std::fmt::Write as _;
use std::time::Duration;

use client::{Answer, Client};
use mysql_async::prelude::Queryable;
use support::cluster::{APP, Account, Cluster, ROOT};
use support::general_log::Ran;
use support::proxy::Proxy;
use support::raw::PreparedAs;
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use tokio::time::{Instant, sleep};

#[path = "routing/client.rs"]
mod client;
#[path = "routing/freshness.rs"]
mod freshness;
mod support;

/// What a step of a case expects of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placement {
    /// A replica; the primary only after a replica has refused.
    Read,
    Write,
    /// The primary, and the session stays on that connection.
    Pin,
    /// Any server, or none.
    Either,
    /// The connection of the statement before.
    Last,
}

/// One statement of a case.
#[derive(Clone, Debug)]
struct Step {
    name: String,
    /// As sent, or a directive that begins with `!`; see [`Session::act`].
    sql: Vec<u8>,
    placement: Placement,
    /// The first value of the answer, or `!` and an error code; `*` is what the primary itself says.
    answer: Option<String>,
}

/// What became of a step.
struct Done {
    step: Step,
    answer: Answer,
    /// What the primary answered to the same, asked without a proxy.
    expected: Answer,
    ran: Vec<Ran>,
    /// What the proxy did on its own account meanwhile.
    around: Vec<Ran>,
    /// The client's statement before and this one have taken longer than a connection lingers: a busy machine.
    late: bool,
}

/// How long a session keeps a connection that it does not need.
const LINGER: Duration = Duration::from_millis(100);

/// Steps where the design does better than the case asks, or differs from it on purpose: sequence, step, why. The answers
/// must be right all the same.
const RELAXED: [(&str, &str); 4] =
    [("uv 1", LITERAL), ("uv 2", LITERAL), ("uv 3", LITERAL), ("ctas 1", LITERAL)];
const LITERAL: &str =
    "a variable that got a literal is given it again on whichever server runs the next statement";

#[test]
fn every_single_statement_runs_where_it_must() {
    support::run(async {
        let scene = Scene::enter().await;
        let cases: Vec<Vec<Step>> = lines(include_str!("routing/cases/routing_cases.tsv"))
            .map(|fields| {
                let expected = match &*fields[0] {
                    // It declares and does no more than reading, as the proxy has learned of the primary.
                    "SELECT f_read(1)" => "read",
                    // No parser sees that this view writes, but of views the proxy has learned as well.
                    sql if sql.contains("v_fn") => "write",
                    _ => &fields[1],
                };
                let step = Step::new(format!("{:?}", fields[0]), &fields[0], expected);
                let probe = Step::new("the probe after it".to_owned(), PROBE, "either");
                if step.placement == Placement::Pin { vec![step, probe] } else { vec![step] }
            })
            .collect();
        assert_eq!(cases.len(), 245);
        let mut wrong = String::new();
        for done in scene.run(&cases).await {
            let step = &done[0];
            let mut complain = |what: &str| complain(&mut wrong, step, what);
            judge(step, None, &mut complain);
            if let Some(probe) = done.get(1)
                && step.succeeded()
                && (probe.place().is_none() || probe.place() != step.place())
            {
                complain(&format!("does not hold the session: then on {:?}", probe.place()));
            }
            // Doing it twice changes nothing for these only.
            if matches!(step.step.placement, Placement::Read | Placement::Either) {
                compare(step, &mut complain);
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
    });
}

#[test]
fn every_sequence_runs_where_it_must() {
    support::run(async {
        let scene = Scene::enter().await;
        let sequences = sequences(include_str!("routing/cases/routing_sequences.tsv"));
        let mut wrong = String::new();
        scene.check(&sequences, &mut wrong).await;
        assert!(wrong.is_empty(), "\n{wrong}");
    });
}

#[test]
fn sessions_keep_what_they_set_up() {
    support::run(async {
        let scene = Scene::enter().await;
        let sequences = sequences(include_str!("routing/cases/own_sequences.tsv"));
        let mut wrong = String::new();
        scene.check(&sequences, &mut wrong).await;
        assert!(wrong.is_empty(), "\n{wrong}");
    });
}

/// The servers and a proxy, for one test at a time.
struct Scene {
    cluster: &'static Cluster,
    proxy: Proxy,
    _turn: MutexGuard<'static, ()>,
}

const PROBE: &str = "SELECT /*probe*/ a FROM t LIMIT 1";

impl Scene {
    async fn enter() -> Self {
        static TURN: Mutex<()> = Mutex::const_new(());
        static READY: OnceCell<()> = OnceCell::const_new();
        let turn = TURN.lock().await;
        let cluster = Cluster::shared().await;
        READY
            .get_or_init(|| async {
                for ordinal in 0..cluster.servers().len() {
                    let mut server = cluster.connect(ordinal, ROOT).await;
                    server
                        .query_drop("SET GLOBAL log_bin_trust_function_creators=ON")
                        .await
                        .expect("root may");
                }
                cluster.script(include_str!("routing/cases/schema.sql")).await;
                cluster.script(include_str!("routing/cases/own_schema.sql")).await;
            })
            .await;
        let proxy = Proxy::start(cluster, &format!("pool: {{linger_ms: {}}}", LINGER.as_millis())).await;
        Self { cluster, proxy, _turn: turn }
    }

    /// Runs sequences and says what is wrong.
    async fn check(&self, sequences: &[Vec<Step>], wrong: &mut String) {
        for done in self.run(sequences).await {
            let mut before: Option<&Done> = None;
            for step in &done {
                let mut complain = |what: &str| complain(wrong, step, what);
                judge(step, before, &mut complain);
                compare(step, &mut complain);
                if step.step.is_of_client() {
                    before = Some(step);
                }
            }
        }
    }

    /// Runs each case on a session of its own through the proxy, and on one with the primary, one case after the other.
    async fn run(&self, cases: &[Vec<Step>]) -> Vec<Vec<Done>> {
        // The first login of all is made by a driver, which asks for things of its own.
        drop(Client::connect(self.proxy.port(), APP).await);
        let mut marks = vec![self.cluster.mark()];
        let (mut answers, mut expected) = (Vec::new(), Vec::new());
        for steps in cases {
            self.cluster.caught_up().await;
            let mut session = Session::begin(self.cluster, self.proxy.port(), APP).await;
            let mut before = Instant::now();
            for step in steps {
                let began = Instant::now();
                answers.push((session.act(step).await, before.elapsed() >= LINGER));
                marks.push(self.cluster.mark());
                if step.is_of_client() {
                    before = began;
                }
            }
            drop(session);
            // By another user, so that the logs tell it apart.
            let mut direct = Session::begin(self.cluster, self.cluster.server(0).port(), ROOT).await;
            for step in steps {
                expected.push(direct.act(step).await);
            }
        }
        let ran = self.cluster.ran_between(&marks, APP.user);
        let steps = cases.iter().flatten().cloned();
        let mut done = steps.zip(answers.into_iter().zip(expected)).zip(ran).map(
            |((step, ((answer, late), expected)), ran)| {
                let (ran, around) = ran.into_iter().partition(|ran| is_of_client(ran, &step.sql));
                Done { step, answer, expected, ran, around, late }
            },
        );
        cases.iter().map(|steps| done.by_ref().take(steps.len()).collect()).collect()
    }
}

/// A client of a case, and beside it another one when the case asks for it.
struct Session {
    cluster: &'static Cluster,
    port: u16,
    account: Account,
    client: Client,
    prepared: Option<PreparedAs>,
    other: Option<Client>,
}

impl Session {
    async fn begin(cluster: &'static Cluster, port: u16, account: Account) -> Self {
        let client = Client::connect(port, account).await;
        Self { cluster, port, account, client, prepared: None, other: None }
    }

    /// Sends a step's statement, or does what its directive says.
    async fn act(&mut self, step: &Step) -> Answer {
        let Some(directive) = step.sql.strip_prefix(b"!") else { return self.client.query(&step.sql).await };
        let end = directive.iter().position(|&byte| byte == b' ').unwrap_or(directive.len());
        let (word, rest) = (&directive[..end], directive.get(end + 1..).unwrap_or_default());
        let text = || std::str::from_utf8(rest).expect("UTF-8");
        match word {
            b"sleep" => sleep(Duration::from_millis(text().parse().expect("milliseconds"))).await,
            b"caught-up" => self.cluster.caught_up().await,
            b"init-db" => return self.client.init_db(rest).await,
            b"reset" => return self.client.reset().await,
            b"execute" => match self.client.prepare(text()).await {
                Ok(prepared) => {
                    self.prepared = Some(prepared);
                    return self.client.execute(prepared).await;
                }
                Err(refused) => return refused,
            },
            b"again" => return self.client.execute(self.prepared.expect("it was prepared")).await,
            b"other" => {
                if self.other.is_none() {
                    self.other = Some(Client::connect(self.port, self.account).await);
                }
                return self.other.as_mut().expect("just made").query(rest).await;
            }
            _ => panic!("{} is no directive", step.name),
        }
        Answer::default()
    }
}

impl Step {
    fn new(name: String, sql: &str, expected: &str) -> Self {
        let (word, answer) = match expected.split_once('=') {
            Some((word, answer)) => (word, Some(answer.to_owned())),
            None => (expected, None),
        };
        let placement = match word {
            "read" => Placement::Read,
            "write" => Placement::Write,
            "pin" => Placement::Pin,
            "either" => Placement::Either,
            "last" => Placement::Last,
            _ => panic!("{name}: {word} is no placement"),
        };
        Self { name, sql: unescape(sql), placement, answer }
    }

    fn mentions(&self, word: &str) -> bool {
        String::from_utf8_lossy(&self.sql).contains(word)
    }

    /// False for what happens beside the client of the case.
    fn is_of_client(&self) -> bool {
        !["!sleep", "!caught-up", "!other"].iter().any(|word| self.sql.starts_with(word.as_bytes()))
    }
}

impl Done {
    fn succeeded(&self) -> bool {
        self.answer.code().is_none()
    }

    /// Server and thread of what ran last. What a replica has refused ran on the primary then.
    fn place(&self) -> Option<(usize, u64)> {
        self.ran.iter().rev().min_by_key(|ran| ran.server != 0).map(|ran| (ran.server, ran.thread))
    }

    fn leaves_transaction(&self) -> bool {
        self.answer.leaves_transaction()
    }
}

/// The primary, asked without a proxy, must have given as many rows, or the same error.
fn compare(done: &Done, complain: &mut impl FnMut(&str)) {
    let shape = |answer: &Answer| (answer.code(), answer.counts());
    // Only a replica has something to say.
    if shape(&done.answer) != shape(&done.expected) && done.step.sql != b"SHOW REPLICA STATUS" {
        complain(&format!("the primary itself answers {:?}", shape(&done.expected)));
    }
}

fn judge(done: &Done, before: Option<&Done>, complain: &mut impl FnMut(&str)) {
    let Done { step, answer, ran, .. } = done;
    if let Some(refusal) = answer.refusal()
        && refusal.text.contains("Readwright")
    {
        complain(&format!("the proxy itself says {} {}", refusal.code, refusal.text));
    }
    if let Some(expected) = &step.answer {
        let text = |answer: &Answer| match answer.code() {
            Some(code) => format!("!{code}"),
            None => answer.first().unwrap_or_else(|| "NULL".to_owned()),
        };
        let answer = text(answer);
        let expected = if expected == "*" { text(&done.expected) } else { expected.clone() };
        if answer != expected {
            complain(&format!("answered {answer}, not {expected}"));
        }
    }
    let same = before.is_some_and(|before| before.place().is_some() && before.place() == done.place());
    let reset = step.sql.starts_with(b"!reset");
    if before.is_some_and(Done::leaves_transaction) && step.is_of_client() && !same && !reset {
        complain("the transaction is on another connection");
    }
    if is_relaxed(step) {
        return;
    }
    let at = |primary: bool| ran.iter().any(|ran| (ran.server == 0) == primary);
    let right = match step.placement {
        // This view is too long to be looked into, and an error may only mean that the replica is behind.
        Placement::Read if at(true) => at(false) && (!done.succeeded() || step.mentions("v_unseen")),
        Placement::Read => at(false),
        Placement::Write => at(true) && !at(false),
        Placement::Pin => {
            let pinned = before.is_some_and(|before| {
                before.step.placement == Placement::Pin && before.succeeded() && !is_relaxed(&before.step)
            });
            at(true) && !at(false) && (same || !pinned)
        }
        Placement::Either => true,
        Placement::Last => same || done.late,
    };
    if !right {
        complain(&format!("after {:?}", before.map(Done::place)));
    }
}

fn is_relaxed(step: &Step) -> bool {
    RELAXED.iter().any(|(name, _)| *name == step.name)
}

fn complain(wrong: &mut String, done: &Done, what: &str) {
    let Done { step, answer, ran, around, .. } = done;
    let _ = write!(wrong, "{}: expected {:?}: {what}", step.name, step.placement);
    for (whose, ran) in [("ran", ran), ("around", around)] {
        for Ran { server, thread, command, text, .. } in ran {
            let _ = write!(wrong, "\n    {whose}: mysql-{server}/{thread} {command} {text:?}");
        }
    }
    let _ = writeln!(wrong, "\n    answer: {:?} {:?}", answer.code(), answer.counts());
}

/// What a proxy sends on its own account makes a connection look like the session; the rest is the client's.
fn is_of_client(ran: &Ran, sent: &[u8]) -> bool {
    const OWN: [&str; 12] = [
        "SET NAMES '",
        "SET SESSION ",
        "SET @`",
        "SET TRANSACTION ",
        "SELECT IFNULL(@@SESSION.",
        "SELECT CAST(IFNULL(@@SESSION.",
        "SELECT WAIT_FOR_EXECUTED_GTID_SET('",
        "SELECT LAST_INSERT_ID()",
        "SELECT FOUND_ROWS() LIMIT 1",
        "SELECT @@GLOBAL.gtid_executed",
        "DO 0",
        "SET SESSION last_insert_id=",
    ];
    let sent = String::from_utf8_lossy(sent);
    let is_sent = ran.text.trim() == sent.trim();
    matches!(ran.command.as_str(), "Query" | "Execute")
        && (is_sent || !OWN.iter().any(|own| ran.text.starts_with(own)))
        || ran.command == "Init DB" && sent.starts_with("!init-db")
}

fn sequences(text: &str) -> Vec<Vec<Step>> {
    let mut sequences: Vec<(String, Vec<Step>)> = Vec::new();
    for fields in lines(text) {
        let [sequence, number, sql, expected, ..] = &fields[..] else { panic!("four fields: {fields:?}") };
        if sequences.last().is_none_or(|(name, _)| name != sequence) {
            sequences.push((sequence.clone(), Vec::new()));
        }
        let (_, steps) = sequences.last_mut().expect("just pushed");
        steps.push(Step::new(format!("{sequence} {number}"), sql, expected));
    }
    sequences.into_iter().map(|(_, steps)| steps).collect()
}

/// The lines of a table, split into fields.
fn lines(text: &str) -> impl Iterator<Item = Vec<String>> {
    text.lines().filter(|line| !line.is_empty()).map(|line| line.split('\t').map(str::to_owned).collect())
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let (byte, after) = match rest {
            [b't', after @ ..] => (b'\t', after),
            [b'n', after @ ..] => (b'\n', after),
            [b'r', after @ ..] => (b'\r', after),
            [b'\\', after @ ..] => (b'\\', after),
            [b'x', high, low, after @ ..] => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("ASCII");
                (u8::from_str_radix(digits, 16).expect("hexadecimal"), after)
            }
            _ => panic!("an escape that is none: {text}"),
        };
        bytes.push(byte);
        rest = after;
    }
    bytes
}
