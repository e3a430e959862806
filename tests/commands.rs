//! The commands as a person runs them: what they print, and what they exit with. Needs no server.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn readwright(arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_readwright"))
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cargo built it");
    // A command that does not read its input closes it, which is no failure here.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

/// A file that is gone when the test ends, however it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("readwright-{}-{name}", std::process::id()));
        std::fs::write(&path, content).expect("a scratch file");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_example_configuration_has_no_problems() {
    let (code, out, err) = readwright(&["check", "config/readwright.yaml"], "");
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out, "config/readwright.yaml: no problems\n");
}

#[test]
fn every_problem_is_a_line_and_the_code_is_2() {
    let bad = Scratch::new(
        "bad.yaml",
        "routing: {max_lag: 5s}\npool: {wait_ms: soon}\nlisten: {address: nowhere}\naccount: {password: hunter2}\n",
    );
    let (code, out, err) = readwright(&["check", bad.path()], "");
    assert_eq!((code, out.as_str()), (2, ""));
    let lines: Vec<&str> = err.lines().collect();
    for (key, remedy) in [
        ("listen.address", "write for example 127.0.0.1:3306"),
        ("pool.wait_ms", "give a whole number from 1 to 600000 (milliseconds)"),
        ("account.password", "use password_file or password_env"),
        ("routing.max_lag", "did you mean `routing.max_lag_ms`?"),
    ] {
        let told = lines.iter().find(|line| line.starts_with(&format!("readwright: {key}: ")));
        assert!(told.is_some_and(|line| line.contains(remedy)), "{key}\n{err}");
    }
    assert_eq!(lines.len(), 4, "{err}");
    assert!(!err.contains("hunter2"), "{err}");
}

#[test]
fn explain_prints_a_line_for_each_statement() {
    let (code, out, err) = readwright(&["explain", "SELECT * FROM t"], "");
    assert_eq!((code, out.as_str(), err.as_str()), (0, "read\tplain-read\tSELECT * FROM t\n", ""));
    let (_, out, _) = readwright(&["explain", "/* readwright: primary */ SELECT * FROM t"], "");
    assert_eq!(out, "write\thint-primary\t/* readwright: primary */ SELECT * FROM t\n");
    let (code, out, _) = readwright(&["explain", "--file", "-"], "DELETE\\tFROM t\nBEGIN\n");
    assert_eq!(code, 0);
    let routes: Vec<&str> = out.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(routes, ["write", "pin"], "{out}");
    assert!(out.contains("DELETE\\tFROM t\n"), "{out}");
    let (_, out, _) = readwright(&["explain", "--words", "SELECT * FROM t FOR UPDATE"], "");
    assert!(out.starts_with("write\tit "), "{out}");
}

#[test]
fn mistakes_say_what_to_do() {
    for (arguments, code, told) in [
        (&["check", "/nowhere/readwright.yaml"][..], 2, "give the path of a readable YAML file"),
        (&["explain", "--file", "/nowhere"], 2, "give a file or -"),
        (&["explain", "--server-version", "new", "SELECT 1"], 2, "such as 9.7.4"),
        (&["explain"], 2, "Usage: readwright explain"),
        (&["status", "--address", "127.0.0.1:1"], 1, "is it the proxy's admin.http address?"),
        (&["dance"], 2, "unrecognized subcommand"),
    ] {
        let (got, out, err) = readwright(arguments, "");
        assert_eq!((got, out.as_str()), (code, ""), "{arguments:?}: {err}");
        assert!(err.contains(told), "{arguments:?}: {err}");
    }
}
