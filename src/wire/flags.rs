//! Capability flags. Bits that have no name here are kept as they are, so that what is relayed is never narrowed by what
//! we know.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Sub};

/// What one side of a connection can do, or what both agreed on.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/group__group__cs__capabilities__flags.html>
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Capabilities(pub(crate) u32);

impl Capabilities {
    pub(crate) const NONE: Self = Self(0);
    /// Ignored by today's servers, set by all clients.
    pub(crate) const LONG_PASSWORD: Self = Self(1);
    /// Affected rows are found rows.
    pub(crate) const FOUND_ROWS: Self = Self(1 << 1);
    pub(crate) const LONG_FLAG: Self = Self(1 << 2);
    /// The handshake response names a schema.
    pub(crate) const CONNECT_WITH_DB: Self = Self(1 << 3);
    /// `schema.table.column` is not understood.
    pub(crate) const NO_SCHEMA: Self = Self(1 << 4);
    /// The zlib form of the compressed protocol.
    pub(crate) const COMPRESS: Self = Self(1 << 5);
    pub(crate) const ODBC: Self = Self(1 << 6);
    /// LOAD DATA LOCAL INFILE.
    pub(crate) const LOCAL_FILES: Self = Self(1 << 7);
    pub(crate) const IGNORE_SPACE: Self = Self(1 << 8);
    pub(crate) const PROTOCOL_41: Self = Self(1 << 9);
    /// The session ends after `interactive_timeout`, not `wait_timeout`.
    pub(crate) const INTERACTIVE: Self = Self(1 << 10);
    pub(crate) const SSL: Self = Self(1 << 11);
    pub(crate) const IGNORE_SIGPIPE: Self = Self(1 << 12);
    /// The server sends status flags in OK and EOF packets.
    pub(crate) const TRANSACTIONS: Self = Self(1 << 13);
    /// Once the flag of the 4.1 protocol; named RESERVED today.
    pub(crate) const RESERVED: Self = Self(1 << 14);
    /// The authentication data has a length byte (RESERVED2 in today's sources).
    pub(crate) const SECURE_CONNECTION: Self = Self(1 << 15);
    pub(crate) const MULTI_STATEMENTS: Self = Self(1 << 16);
    pub(crate) const MULTI_RESULTS: Self = Self(1 << 17);
    pub(crate) const PS_MULTI_RESULTS: Self = Self(1 << 18);
    pub(crate) const PLUGIN_AUTH: Self = Self(1 << 19);
    pub(crate) const CONNECT_ATTRS: Self = Self(1 << 20);
    pub(crate) const PLUGIN_AUTH_LENENC: Self = Self(1 << 21);
    pub(crate) const CAN_HANDLE_EXPIRED_PASSWORDS: Self = Self(1 << 22);
    /// OK packets carry what changed in the session.
    pub(crate) const SESSION_TRACK: Self = Self(1 << 23);
    /// An OK packet (with header 0xFE) ends a result set, and no EOF follows the column definitions.
    pub(crate) const DEPRECATE_EOF: Self = Self(1 << 24);
    /// `resultset_metadata = NONE` is possible.
    pub(crate) const OPTIONAL_RESULTSET_METADATA: Self = Self(1 << 25);
    /// The zstd form of the compressed protocol.
    pub(crate) const ZSTD: Self = Self(1 << 26);
    /// COM_QUERY and COM_STMT_EXECUTE carry query attributes.
    pub(crate) const QUERY_ATTRIBUTES: Self = Self(1 << 27);
    pub(crate) const MULTI_FACTOR: Self = Self(1 << 28);
    pub(crate) const CAPABILITY_EXTENSION: Self = Self(1 << 29);
    pub(crate) const SSL_VERIFY_SERVER_CERT: Self = Self(1 << 30);
    pub(crate) const REMEMBER_OPTIONS: Self = Self(1 << 31);

    /// True when every flag of `other` is set here.
    pub(crate) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and those of `other`; `|` for constants.
    pub(crate) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These flags without those of `other`; `-` for constants.
    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Capabilities {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

impl BitOrAssign for Capabilities {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.with(other);
    }
}

impl BitAnd for Capabilities {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Sub for Capabilities {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.without(other)
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capabilities({:#010x})", self.0)
    }
}
