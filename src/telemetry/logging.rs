//! Where log lines go and which of them: standard error, text for people or JSON for collectors.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoggingError {
    #[error("`{filter}` is not a log filter ({source})")]
    BadFilter { filter: String, source: tracing_subscriber::filter::ParseError },
    #[error("logging was started twice")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Checks a filter without starting anything.
///
/// # Errors
/// When `filter` is not what `EnvFilter` reads.
pub(crate) fn check(filter: &str) -> Result<EnvFilter, LoggingError> {
    // They tell every failure again each time; what is news of it we tell ourselves. A filter that names them counts.
    let quiet = if filter.contains("kube_") { "" } else { ",kube_runtime=off,kube_client=off" };
    EnvFilter::builder()
        .parse(format!("{filter}{quiet}"))
        .map_err(|source| LoggingError::BadFilter { filter: filter.to_owned(), source })
}

/// Sends all `tracing` events of the process to standard error.
///
/// # Errors
/// When `filter` is not what `EnvFilter` reads, or logging runs already.
pub(crate) fn start(filter: &str, json: bool) -> Result<(), LoggingError> {
    let builder = tracing_subscriber::fmt().with_env_filter(check(filter)?).with_writer(std::io::stderr);
    if json {
        builder.json().flatten_event(true).finish().try_init().map_err(LoggingError::Twice)
    } else {
        // Colours only where a person looks.
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
        builder.with_ansi(colours).finish().try_init().map_err(LoggingError::Twice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for (filter, good) in
            [("info", true), ("warn,readwright::proxy=debug", true), ("info,x=loud", false), ("a=b=c", false)]
        {
            assert_eq!(check(filter).is_ok(), good, "{filter}");
        }
    }
}
