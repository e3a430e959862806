//! What a process has cost: CPU time, memory and system calls, from /proc and perf (or strace).

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// CPU seconds that a process has used, user and system, all threads.
pub(crate) fn cpu_seconds(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in parentheses may hold spaces. After it, utime and stime are the 12th and 13th.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks =
        |place: usize| fields.get(place).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

/// Memory that a process holds now, in KiB.
pub(crate) fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}

/// Counts the system calls of a process until [`Self::stop`].
pub(crate) struct SystemCalls {
    child: Child,
    output: std::path::PathBuf,
    tool: Tool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    /// Costs little.
    Perf,
    /// Slows the process down many times; the count is what it would be for a slow one.
    Strace,
}

impl SystemCalls {
    /// None when neither tool can do it here.
    pub(crate) async fn count(process: u32, folder: &Path) -> Option<Self> {
        for tool in [Tool::Perf, Tool::Strace] {
            let output = folder.join("system-calls");
            let mut command = match tool {
                Tool::Perf => {
                    let mut command = Command::new("perf");
                    command.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-o"]).arg(&output);
                    command
                }
                Tool::Strace => {
                    let mut command = Command::new("strace");
                    command.args(["-c", "-f", "-q", "-o"]).arg(&output);
                    command
                }
            };
            command.arg("-p").arg(process.to_string());
            let spawned = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn();
            let Ok(mut child) = spawned else { continue };
            // It attaches, or ends with a complaint.
            sleep(Duration::from_millis(500)).await;
            if matches!(child.try_wait(), Ok(None)) {
                return Some(Self { child, output, tool });
            }
        }
        None
    }

    pub(crate) async fn stop(mut self) -> Option<u64> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()?).ok()?)?;
        kill_process(pid, Signal::INT).ok()?;
        timeout(Duration::from_secs(10), self.child.wait()).await.ok()?.ok()?;
        let text = fs::read_to_string(&self.output).ok()?;
        match self.tool {
            Tool::Perf => {
                text.lines().find(|line| line.contains("sys_enter"))?.split(',').next()?.parse().ok()
            }
            // `100.00    0.123456           1     54321        12 total`
            Tool::Strace => {
                let total = text.lines().find(|line| line.ends_with("total"))?;
                total.split_whitespace().nth(3)?.parse().ok()
            }
        }
    }
}

/// What /proc/PID/stat counts in: USER_HZ is 100 on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
