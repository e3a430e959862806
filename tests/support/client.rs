//! The real `mysql` client, as a person uses it.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::cluster::Cluster;

/// `mysql ARGUMENTS` with these statements as its input; its output, or what it says went wrong.
pub(crate) async fn mysql(cluster: &Cluster, arguments: &[&str], statements: &str) -> Result<String, String> {
    let client: PathBuf = cluster.home().installation().client("mysql").expect("the client is there");
    let mut run = Command::new(client)
        .args(["--no-defaults", "--batch", "--skip-column-names", "--connect-timeout=60"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the client runs");
    let mut input = run.stdin.take().expect("asked for above");
    let write = async move {
        // A client that cannot log in reads nothing.
        let _ = input.write_all(statements.as_bytes()).await;
    };
    let both = async { tokio::join!(write, run.wait_with_output()).1 };
    let Output { status, stdout, stderr } = timeout(Duration::from_secs(300), both)
        .await
        .expect("the client ends in time")
        .expect("it can be waited for");
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&stderr).into_owned();
    Err(said.lines().filter(|line| line.starts_with("ERROR")).collect())
}
