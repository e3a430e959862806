//! How a MySQL server is named and reached.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of one server in the cluster, such as `mysql-0`. Cheap to clone; equal names are the same server.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServerId(Arc<str>);

impl ServerId {
    pub(crate) fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The ordinal that a StatefulSet gives its pods: `mysql-2` is 2. None for a name of another form.
    pub(crate) fn ordinal(&self) -> Option<u32> {
        self.0.rsplit_once('-').and_then(|(_, digits)| digits.parse().ok())
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Host (name or IP address) and port, written `host:port`, an IPv6 address as `[::1]:3306`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

/// One server as discovery knows it, before anything has been asked of the server itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) id: ServerId,
    /// The pod's uid, where discovery knows it: the next pod of the same name is another one.
    pub(crate) uid: Option<Arc<str>>,
    pub(crate) address: Address,
    /// Where the other servers find it. Outlives its IP address, so that replication may be set up with it.
    pub(crate) name: Address,
    /// Failure domain, where discovery knows it.
    pub(crate) zone: Option<Arc<str>>,
    /// The machine it runs on, where discovery knows it.
    pub(crate) node: Option<Arc<str>>,
    /// False when discovery says that no new connections should go there.
    pub(crate) ready: bool,
    /// It is being taken away, and still answers: its last chance to hand over what it does.
    pub(crate) terminating: bool,
    pub(crate) role: Role,
}

/// What discovery takes a server for. That a primary takes writes is proven by probing it, never by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Primary,
    Replica,
}

/// Why a text is no address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not HOST:PORT (an IPv6 address in brackets, a port from 1 to 65535)")]
pub(crate) struct BadAddress(String);

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        if host.is_empty() || (bracketed.is_none() && host.contains([':', '[', ']'])) {
            return Err(bad());
        }
        match port.parse() {
            Ok(0) | Err(_) => Err(bad()),
            Ok(port) => Ok(Self { host: Arc::from(host), port }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, host, port) in [
            ("mysql-0.mysql:3306", "mysql-0.mysql", 3306),
            ("[::1]:1", "::1", 1),
            ("127.0.0.1:65535", "127.0.0.1", 65535),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!((&*address.host, address.port), (host, port));
            assert_eq!(address.to_string(), text);
        }
        for text in ["", "mysql", "mysql:", ":3306", "mysql:0", "mysql:65536", "::1:3306", "[::1", "mysql:x"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn ordinals() {
        for (name, ordinal) in [
            ("mysql-0", Some(0)),
            ("my-sql-12", Some(12)),
            ("mysql", None),
            ("mysql-", None),
            ("mysql-x", None),
        ] {
            assert_eq!(ServerId::new(name).ordinal(), ordinal, "{name}");
        }
    }
}
