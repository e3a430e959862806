//! The checks with `mysql_async` and with `sqlx`: `clients DRIVER`.

mod async_driver;
mod report;
mod sqlx_driver;

use std::env;

/// What the program is given.
fn given(name: &str) -> String {
    env::var(format!("CLIENT_{name}")).expect("the runner says it")
}

fn tls() -> bool {
    given("TLS") == "on"
}

fn blob() -> Vec<u8> {
    (0..17_u32 << 20).map(|at| at as u8).collect()
}

const COLUMNS: usize = 18;

fn insert_types() -> String {
    format!("INSERT INTO types VALUES ({})", vec!["?"; COLUMNS].join(", "))
}

/// What a server refuses, its error's number and SQLSTATE; the first when there is a word `one`.
const ERRORS: [(&str, u16, &str); 3] = [
    ("INSERT INTO notes (word) VALUES ('one')", 1062, "23000"),
    ("SELECT * FROM nothing", 1146, "42S02"),
    ("SELEKT 1", 1064, "42000"),
];

/// What another session does to a table while a statement on it is prepared.
const ALTERS: [&str; 2] =
    ["ALTER TABLE notes ADD COLUMN more INT DEFAULT 5", "ALTER TABLE notes DROP COLUMN more"];

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let well = match env::args().nth(1).as_deref() {
        Some("sqlx") => sqlx_driver::run().await,
        _ => async_driver::run().await,
    };
    std::process::exit(i32::from(!well));
}
