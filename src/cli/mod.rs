//! The commands: from arguments to one call each, and from what came of it to an exit code. Nothing is decided here
//! that a library user would miss.

mod check;
mod configuration;
mod demo;
mod explain;
mod output;
mod run;
mod status;
mod switchover;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::raw::Problem;

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    // clap itself prints help and mistakes, and exits with 0 or 2.
    let arguments = Arguments::parse();
    match dispatch(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell();
            failure.exit_code()
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Switchover(arguments) => switchover::switch(&arguments),
        Command::Pause(arguments) => switchover::pause(&arguments, true),
        Command::Resume(arguments) => switchover::pause(&arguments, false),
    }
}

/// A read/write-splitting MySQL proxy made for Kubernetes, with an embedded controller.
#[derive(Debug, Parser)]
#[command(name = "readwright", version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(RunArguments),
    Demo(DemoArguments),
    Explain(ExplainArguments),
    Check(CheckArguments),
    Status(StatusArguments),
    Switchover(SwitchoverArguments),
    /// Let the controller look and report, and change nothing, until `resume`
    Pause(StateArguments),
    /// Let the controller go on
    Resume(StateArguments),
}

/// Run the proxy until SIGTERM or SIGINT
#[derive(Debug, clap::Args)]
struct RunArguments {
    /// The configuration, YAML; without it every key has its default
    #[arg(long, value_name = "FILE", env = "READWRIGHT_CONFIG")]
    config: Option<PathBuf>,
    /// Name every problem of the configuration and end, as `readwright check` does
    #[arg(long)]
    check: bool,
    /// A key above file and environment, as pool.idle_s=30; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Run a primary, replicas and the proxy on this machine, and show where statements go
///
/// Real MySQL servers, in a folder of their own, brought up by the controller. Ctrl-C ends everything; the data stays
/// for the next start.
#[derive(Debug, clap::Args)]
struct DemoArguments {
    /// How many replicas
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=8))]
    replicas: u32,
    /// Where the servers keep their data [default: readwright/demo below XDG_DATA_HOME or ~/.local/share]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Start over: remove what an earlier demo left in that folder
    #[arg(long)]
    fresh: bool,
    /// The proxy's port on 127.0.0.1 [default: 6033, or another when that is taken]
    #[arg(long)]
    port: Option<u16>,
    /// How many MiB a second a copy of a server may take [default: no limit]
    #[arg(long, value_name = "MIB")]
    clone_bandwidth_mib: Option<NonZeroU32>,
    /// Run these statements through the proxy, print which server ran each and what it answered, and end
    #[arg(long, value_name = "SQL")]
    exec: Option<String>,
    /// What to log to standard error, as RUST_LOG
    #[arg(long, default_value = "error", value_name = "FILTER")]
    log: String,
}

/// Say where a statement would go, and why
///
/// Prints `route<TAB>reason<TAB>statement`. The route is that of a fresh session with autocommit: read (a replica may
/// serve it), write (the primary), pin (the primary, and the session stays on that connection) or either (any server).
#[derive(Debug, clap::Args)]
struct ExplainArguments {
    /// The statement
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    sql: Option<OsString>,
    /// A file with a statement a line, `-` for standard input; `\\ \t \n \r \xHH` are escapes
    #[arg(long)]
    file: Option<PathBuf>,
    /// The session's sql_mode; ANSI_QUOTES, NO_BACKSLASH_ESCAPES and IGNORE_SPACE change how text is read
    #[arg(long, default_value = "")]
    sql_mode: String,
    /// The session's character_set_client
    #[arg(long, default_value = "utf8mb4")]
    charset: String,
    /// The version of the servers, as @@version shows it
    #[arg(long, default_value = "9.7.4")]
    server_version: String,
    /// Print the reason as a clause instead of a word
    #[arg(long)]
    words: bool,
}

/// Name every problem of a configuration at once; touches nothing
#[derive(Debug, clap::Args)]
struct CheckArguments {
    /// The configuration, YAML
    file: PathBuf,
    /// A key above file and environment, as pool.idle_s=30; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Ask a running proxy how it is; exit code 0 when it is ready, 1 when not
#[derive(Debug, clap::Args)]
struct StatusArguments {
    /// Its admin HTTP address (`admin.http`)
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "HOST:PORT")]
    address: String,
    /// A table for people, or JSON
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Table)]
    output: StatusOutput,
}

/// Make another server the primary; clients wait for a moment. Exit code 0 when it is, 1 when all is as before
///
/// Nothing is lost: a primary that does not answer stays the primary, unless --force says that it is gone for good.
///
/// Asks the controller for it, by the ConfigMap that both know, and follows what it does: in a pod with the pod's service
/// account, elsewhere with KUBECONFIG.
#[derive(Debug, clap::Args)]
struct SwitchoverArguments {
    /// The server that takes over [default: the best replica]
    #[arg(long, value_name = "SERVER")]
    to: Option<String>,
    /// Also when the primary is dead or has lost its data: what only it had is lost with it (`status` says what is known of
    /// that). End its pod or its node first
    #[arg(long)]
    force: bool,
    /// Give up when the controller has not answered after so many seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
    #[command(flatten)]
    state: StateArguments,
}

/// Where the controller keeps its record.
#[derive(Debug, clap::Args)]
struct StateArguments {
    /// [default: the pod's own, or that of the kubeconfig]
    #[arg(long)]
    namespace: Option<String>,
    /// The controller's ConfigMap (`controller.state`)
    #[arg(long, default_value = "readwright", value_name = "CONFIGMAP")]
    state: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum StatusOutput {
    Table,
    Json,
}

/// Why a command ends with something other than 0.
#[derive(Debug)]
enum Failure {
    /// Told already, by what was printed.
    Silent,
    /// It did not work; the text says what to do.
    Failed(String),
    /// The configuration is wrong.
    Configuration(Vec<Problem>),
}

impl Failure {
    fn tell(&self) {
        match self {
            Self::Silent => {}
            Self::Failed(text) => output::error(text),
            Self::Configuration(problems) => {
                for problem in problems {
                    output::error(&problem.to_string());
                }
            }
        }
    }

    /// The only place that knows exit codes.
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Silent | Self::Failed(_) => ExitCode::from(1),
            Self::Configuration(_) => ExitCode::from(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_sound() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}
