//! Why a statement of ours failed. The text never holds a password: statements that carry one are scrubbed.

use std::time::Duration;

use crate::model::server::Address;
use crate::model::version::Version;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0} cannot be reached: {1}")]
    Unreachable(Address, String),
    #[error("{0} did not answer within {1:?}")]
    Timeout(Address, Duration),
    #[error(
        "{address} refused the login of `{user}` (error {code}: {message}); does it have another password?"
    )]
    Denied { address: Address, user: String, code: u16, message: String },
    #[error("{address} answered with error {code}: {message}")]
    Server { address: Address, code: u16, message: String },
    #[error("the connection to {0} was lost: {1}")]
    Lost(Address, String),
    #[error("{0} runs {1}, and MySQL 8.0 or MariaDB 10.11.6 or later is needed")]
    TooOld(Address, Version),
    #[error("{0} runs {1}, and the controller knows MySQL only")]
    NotMysql(Address, Version),
    #[error("{0} sent an answer that makes no sense: {1}")]
    Unexpected(Address, String),
    #[error("nothing more is sent to {0}: this process leads no more")]
    NoMandate(Address),
}

impl Error {
    /// True when nothing is known of the server's state: it may be fine, busy or gone.
    pub(crate) fn no_answer(&self) -> bool {
        matches!(self, Self::Unreachable(..) | Self::Timeout(..) | Self::Lost(..))
    }

    /// True when the server knows the account not, or not with this password.
    pub(crate) fn denied(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }

    /// True when the server answers, and will go on answering like this until somebody changes something.
    pub(crate) fn refused(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::TooOld(..))
    }

    /// The server's error number, where the server answered with one.
    /// <https://dev.mysql.com/doc/mysql-errors/9.7/en/server-error-reference.html>
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Self::Denied { code, .. } | Self::Server { code, .. } => Some(*code),
            Self::Unreachable(..)
            | Self::Timeout(..)
            | Self::Lost(..)
            | Self::TooOld(..)
            | Self::NotMysql(..)
            | Self::Unexpected(..)
            | Self::NoMandate(..) => None,
        }
    }

    /// The server's disk is full, or what it was to take does not fit: ER_DISK_FULL, ER_CLONE_DISK_SPACE, or ENOSPC in the text
    /// of whatever failed for it.
    pub(crate) fn lacks_room(&self) -> bool {
        matches!(self.code(), Some(1021 | 3873))
            || matches!(self, Self::Server { message, .. } if message.contains("errno: 28"))
    }

    /// The same error with every occurrence of `secret` covered. Servers quote the statement in syntax errors.
    pub(super) fn scrubbed(mut self, secret: &str) -> Self {
        if let Self::Server { message, .. } = &mut self
            && !secret.is_empty()
            && message.contains(secret)
        {
            *message = message.replace(secret, "<secret>");
        }
        self
    }
}
