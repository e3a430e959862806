//! The demo as a person or a script meets it: the program itself, its output, its exit codes, and what it leaves behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tokio::time::Instant;

/// A data folder of one test's own. However the test ends, no server of it is left running and no file of it stays.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        Self(folder)
    }

    fn demo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_readwright"));
        command.arg("demo").arg("--data").arg(&self.0).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.demo(arguments).output().expect("the program runs")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let ended = within(Duration::from_secs(120), || servers(&self.0) == 0);
        let _ = fs::remove_dir_all(&self.0);
        assert!(ended || std::thread::panicking(), "servers are still running in {}", self.0.display());
    }
}

/// Processes that have a file below this folder among their arguments.
fn servers(folder: &Path) -> usize {
    let marker = format!("--defaults-file={}/", folder.display()).into_bytes();
    fs::read_dir("/proc")
        .expect("Linux")
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| line.windows(marker.len()).any(|part| part == marker))
        .count()
}

fn within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + time;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status();
    assert!(status.expect("kill runs").success());
}

/// The server that ran each statement, and the first line of what came of it.
fn answers(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines().peekable();
    let mut answers = Vec::new();
    while let Some(line) = lines.next() {
        let (server, statement) = line.split_once('\t').expect("SERVER<TAB>STATEMENT");
        let mut result = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with("  ")) {
            result.push(line.trim());
        }
        let role = if server == "mysql-0" { "primary" } else { "replica" };
        answers.push(format!("{role}: {statement}: {}", result.join(" ")));
    }
    answers
}

#[test]
fn statements_go_where_they_belong_and_data_stays() {
    let folder = Folder::new("demo-exec");
    let first = folder.run(&[
        "--exec",
        "CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1), (2); SELECT COUNT(*) FROM t; \
         BEGIN; SELECT MAX(id) FROM t; COMMIT; SELECT 'a;b'",
    ]);
    let told = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(first.status.success(), "{told}");
    let mut answered = answers(&first);
    // A replica that is slow to apply the session's own write leaves the read to the primary.
    for read in [2, 6] {
        answered[read] = answered[read].replacen("replica", "primary", 1);
    }
    assert_eq!(
        answered,
        [
            "primary: CREATE TABLE t (id INT PRIMARY KEY): ok, 0 rows affected",
            "primary: INSERT INTO t VALUES (1), (2): ok, 2 rows affected",
            "primary: SELECT COUNT(*) FROM t: COUNT(*) 2",
            "primary: BEGIN: ok, 0 rows affected",
            "primary: SELECT MAX(id) FROM t: MAX(id) 2",
            "primary: COMMIT: ok, 0 rows affected",
            "primary: SELECT 'a;b': a;b a;b",
        ],
        "{told}"
    );
    for shown in ["becomes the first primary", "is copied from mysql-0", "is copied from mysql-1"] {
        assert!(told.contains(shown), "{shown} is not in\n{told}");
    }

    let second = folder.run(&["--exec", "SELECT COUNT(*) FROM t; SELEC; SELECT 1"]);
    let told = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{told}");
    let answers = answers(&second);
    assert_eq!(answers.len(), 2, "the first failure ends it: {answers:?}");
    assert_eq!(answers[0], "replica: SELECT COUNT(*) FROM t: COUNT(*) 2");
    assert!(answers[1].contains("error 1064"), "{answers:?}");
    assert!(!told.contains("copied"), "nothing is copied twice:\n{told}");

    let fresh = folder.run(&["--fresh", "--replicas", "0", "--exec", "SHOW TABLES"]);
    assert_eq!(String::from_utf8_lossy(&fresh.stdout), "mysql-0\tSHOW TABLES\n  Tables_in_demo\n");
}

#[test]
fn signals_end_it_with_all_its_servers() {
    let folder = Folder::new("demo-signals");
    let start = || {
        let mut child = folder
            .demo(&["--replicas", "1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it prints the line to paste");
        (child, line)
    };
    let (mut child, line) = start();
    assert!(line.contains("-h127.0.0.1 -P") && line.contains(" -uapp -p"), "{line}");
    let mut words = line.split_whitespace();
    let client = words.next().expect("a program");
    let pasted = Command::new(client).args(words).args(["-Ne", "SELECT 40 + 2"]).output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&pasted.stdout).trim(), "42", "{pasted:?}");
    signal(&child, "INT");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(servers(&folder.0), 0);

    let (mut child, _) = start();
    signal(&child, "KILL");
    child.wait().expect("it ends");
    assert!(within(Duration::from_secs(120), || servers(&folder.0) == 0), "servers outlive the demo");
}

#[test]
fn a_folder_with_other_things_in_it_is_left_alone() {
    let folder = Folder::new("demo-foreign");
    fs::create_dir_all(&folder.0).expect("made");
    fs::write(folder.0.join("notes"), "mine").expect("written");
    let output = folder.run(&["--fresh", "--exec", "SELECT 1"]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("is not empty and is no folder of the demo"), "{told}");
    assert_eq!(fs::read_dir(&folder.0).expect("there").count(), 1);
}
