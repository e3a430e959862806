//! Prints what became of each check.

use std::error::Error;
use std::future::Future;

pub(crate) type Checked = Result<(), Box<dyn Error>>;

/// The driver has no such thing; says what it lacks.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) &'static str);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Missing {}

/// Runs one check; true when nothing is wrong. A panic ends the program, which the runner sees.
pub(crate) async fn check(name: &str, work: impl Future<Output = Checked>) -> bool {
    match work.await {
        Ok(()) => println!("ok {name}"),
        Err(error) => match error.downcast_ref::<Missing>() {
            Some(missing) => println!("none {name} {missing}"),
            None => {
                eprintln!("{name}: {error}");
                println!("FAILED {name}");
                return false;
            }
        },
    }
    true
}
