//! With what a server is logged in to: accounts, passwords, and how its TLS is judged. Below `config` and `dba`, which
//! both speak of it. A password is never printed.

use std::path::PathBuf;

#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) user: String,
    pub(crate) password: Secret,
}

/// An account whose password changes while we run: servers may know the new one or still the one before.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) account: Account,
    pub(crate) before: Option<Secret>,
}

/// A password. Never printed, wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(zeroize::Zeroizing<String>);

impl From<Account> for Credential {
    fn from(account: Account) -> Self {
        Self { account, before: None }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ServerTls {
    pub(crate) mode: TlsMode,
    pub(crate) ca: Option<PathBuf>,
    /// What we show to servers that ask who we are.
    pub(crate) certificate: Option<CertificateFiles>,
}

/// A certificate chain and its key, as PEM.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsMode {
    Disabled,
    /// TLS when the server offers it; certificates are not checked.
    Preferred,
    Required,
    VerifyCa,
    VerifyIdentity,
}

impl Secret {
    pub(crate) fn new(password: String) -> Self {
        Self(zeroize::Zeroizing::new(password))
    }

    /// The clear text, for a login and nothing else.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:<secret>", self.user)
    }
}
