//! The configuration of `run` and `check`: every problem that can be found without touching anything but the files it
//! names.

use std::error::Error;
use std::path::Path;

use super::Failure;
use crate::config::raw::Problem;
use crate::config::{CertificateFiles, Config, resolve};
use crate::wire::tls::{Acceptor, Initiator, PemFiles, TlsError, Verify};

/// # Errors
/// Every problem at once, those of certificates included.
pub(super) fn load(path: Option<&Path>, set: &[String]) -> Result<Config, Failure> {
    let config = resolve::load(path, set).map_err(Failure::Configuration)?;
    let problems = certificates(&config);
    if problems.is_empty() { Ok(config) } else { Err(Failure::Configuration(problems)) }
}

/// Whether the certificates and keys can be used, which `resolve` cannot know: TLS belongs to another layer.
fn certificates(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut note = |key: &str, error: &TlsError, remedy: &str| {
        problems.push(Problem::new(key, chain(error), remedy));
    };
    let own = |files: &CertificateFiles| PemFiles::new(&files.certificate, &files.key);
    let own_remedy = "give a PEM certificate chain and its own private key";
    let ca_remedy = "give a PEM file of CA certificates";
    if let Some(files) = &config.client_tls.certificate
        && let Err(error) = Acceptor::from_files(own(files), None)
    {
        note("client_tls.certificate_file", &error, own_remedy);
    }
    if let Some(ca) = &config.client_tls.ca
        && let Err(error) = Acceptor::self_signed(Some(ca))
    {
        note("client_tls.ca_file", &error, ca_remedy);
    }
    if let Some(files) = &config.server_tls.certificate
        && let Err(error) = Initiator::new(Verify::Nothing, None, Some(&own(files)))
    {
        note("server_tls.certificate_file", &error, own_remedy);
    }
    if let Some(ca) = &config.server_tls.ca
        && let Err(error) = Initiator::new(Verify::Chain, Some(ca), None)
    {
        note("server_tls.ca_file", &error, ca_remedy);
    }
    problems
}

/// An error with what caused it, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some libraries repeat their cause in their own words.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_cannot_be_used() {
        let folder = std::env::temp_dir().join(format!("readwright-check-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let pem = folder.join("broken.pem");
        std::fs::write(&pem, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .expect("written");
        let set = |key: &str| format!("{key}={}", pem.display());
        let flags = ["client_tls.certificate_file", "client_tls.key_file", "server_tls.ca_file"].map(set);
        let told = load(None, &flags);
        std::fs::remove_dir_all(&folder).expect("removed");
        let Err(Failure::Configuration(problems)) = told else { panic!("{told:?}") };
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["client_tls.certificate_file", "server_tls.ca_file"], "{problems:?}");
    }
}
