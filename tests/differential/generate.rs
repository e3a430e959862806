//! Sessions made by chance: statements out of the templates of `statements`, and commands of the protocol. Each session prefers some
//! kinds of them, so that what belongs together meets.

use super::statements::{FOUND_ROWS, KINDS, PLACES, PREPARED};
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
    /// Statements that are sent before the first of them is answered.
    Together(Vec<String>),
    Prepare(u8, String),
    Execute {
        slot: u8,
        parameters: Vec<Parameter>,
        cursor: bool,
    },
    /// With the values of the last time, and without a word of their types.
    ExecuteAgain(u8),
    Fetch(u8, u8),
    LongData(u8, String),
    ResetStatement(u8),
    CloseStatement(u8),
    InitDb(String),
    Ping,
    SetOption(bool),
    FieldList(String),
    Reset,
    /// Of the client's own statement, or connection.
    Kill(Ends),
    ChangeUser {
        other: bool,
        schema: String,
    },
    /// The client goes, with a word (COM_QUIT) or without, and logs in anew.
    Reconnect {
        quits: bool,
    },
    /// Long enough for the proxy to give connections back.
    Pause,
    /// Replicas apply nothing for a moment, and serve reads on.
    HoldUpReplicas,
}

/// What a KILL ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ends {
    Query,
    Connection,
}

#[derive(Clone, Debug)]
pub(crate) enum Parameter {
    Number(i64),
    Double(f64),
    /// Year, month and day.
    Date(u16, u8, u8),
    Text(String),
    Null,
}

/// The case of a seed.
pub(crate) fn case(seed: u64) -> Wanted {
    let mut random = Random(seed);
    let mut capabilities = 0;
    for (flag, of_ten) in [
        (flag::MULTI_RESULTS, 9),
        (flag::PS_MULTI_RESULTS, 9),
        (flag::MULTI_STATEMENTS, 7),
        (flag::DEPRECATE_EOF, 7),
        (flag::SESSION_TRACK, 4),
        (flag::FOUND_ROWS, 2),
        (flag::OPTIONAL_RESULTSET_METADATA, 2),
        (flag::QUERY_ATTRIBUTES, 3),
        (flag::LOCAL_FILES, 3),
        (flag::INTERACTIVE, 2),
        (flag::IGNORE_SPACE, 1),
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
        Action::Together(texts) => Action::Together(texts.into_iter().map(plain).collect()),
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
                let asks = ["SHOW ", "GET ", "SELECT @@warning_count"];
                if asks.iter().any(|question| texts[0].starts_with(question))
                    || texts[0].contains("ROW_COUNT()")
                {
                    texts[0] = String::from("DO 1");
                }
                Action::Query(texts.join("; "))
            }
            5 if self.below(2) == 0 => {
                // The server asks for a file in the middle.
                let loads = |text: &String| text.contains("LOAD ");
                let texts = (0..2 + self.below(2)).map(|_| self.statement(weights));
                Action::Together(texts.filter(|text| !loads(text)).collect())
            }
            _ => Action::Query(self.statement(weights)),
        }
    }

    fn command(&mut self) -> Action {
        match self.below(14) {
            0..=2 => Action::InitDb(self.one(&["fuzz_a", "fuzz_b", "nowhere"]).to_owned()),
            3 => Action::Ping,
            4 => Action::SetOption(self.below(2) == 0),
            5 | 6 => Action::FieldList(self.one(&["t0", "v", "nothing"]).to_owned()),
            7 | 8 => Action::Reset,
            9 => Action::ChangeUser {
                other: self.below(2) == 0,
                schema: self.one(&["fuzz_a", "", "fuzz_b"]).to_owned(),
            },
            10 => Action::Kill(if self.below(4) > 0 { Ends::Query } else { Ends::Connection }),
            11 => Action::Reconnect { quits: self.below(2) == 0 },
            _ => Action::Ping,
        }
    }

    /// A step of the binary protocol.
    fn prepared(&mut self, weights: &[u64]) -> Action {
        let slot = self.below(3).to_le_bytes()[0];
        match self.below(11) {
            0..=2 => {
                let template = self.one(PREPARED);
                Action::Prepare(slot, self.fill(template))
            }
            3 => {
                let statement = self.statement(weights);
                // In the middle of one that is prepared it is the connection's.
                let asks = statement.contains("ROW_COUNT()") && !statement.starts_with("SELECT");
                Action::Prepare(slot, if asks { String::from("DO 1") } else { statement })
            }
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
            9 => Action::ExecuteAgain(slot),
            _ => Action::Execute { slot, parameters: vec![self.parameter()], cursor: false },
        }
    }

    fn parameter(&mut self) -> Parameter {
        match self.below(7) {
            0..=2 => Parameter::Number(i64::try_from(self.below(5)).expect("small")),
            3 => Parameter::Double([0.5, -1.0, 1e10][self.index(3)]),
            4 => Parameter::Date(2020, 1, 1 + self.below(9).to_le_bytes()[0]),
            5 => Parameter::Text(self.one(&["x", "2", "it's"]).to_owned()),
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
