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

#[tokio::main(flavor = "current_thread")]
async fn main() {
    match env::args().nth(1).as_deref() {
        Some("sqlx") => sqlx_driver::run().await,
        _ => async_driver::run().await,
    }
}
