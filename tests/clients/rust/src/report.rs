//! Runs the checks and prints what became of each.

use std::error::Error;

use futures_util::future::LocalBoxFuture;

pub(crate) type Checked = Result<(), Box<dyn Error>>;

/// The driver has no such thing; says what it lacks.
#[derive(Debug)]
struct Missing(&'static str);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Missing {}

/// Of a driver that has no such thing.
pub(crate) async fn missing(what: &'static str) -> Checked {
    Err(Missing(what).into())
}

/// The names in `checks.tsv`.
const CHECKS: [&str; 12] = [
    "connect",
    "text",
    "prepared",
    "own-writes",
    "transaction",
    "blob",
    "procedure",
    "batch",
    "local-infile",
    "errors",
    "cancel",
    "reset",
];

/// Runs the checks, given in the order of `checks.tsv`; true when nothing is wrong. A panic ends the program, which the
/// runner sees.
pub(crate) async fn run(checks: [LocalBoxFuture<'_, Checked>; CHECKS.len()]) -> bool {
    let mut well = true;
    for (name, check) in CHECKS.into_iter().zip(checks) {
        match check.await {
            Ok(()) => println!("ok {name}"),
            Err(error) => match error.downcast_ref::<Missing>() {
                Some(missing) => println!("none {name} {missing}"),
                None => {
                    eprintln!("{name}: {error}");
                    println!("FAILED {name}");
                    well = false;
                }
            },
        }
    }
    well
}
