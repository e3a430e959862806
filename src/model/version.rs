//! A MySQL server's version. Series are compared, never version strings: calendar versions (26.7) exist too.

use std::fmt;

/// `major.minor.patch` as `@@version` begins; a suffix such as `-log` or `-MariaDB` is kept only as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Version {
    pub(crate) major: u16,
    pub(crate) minor: u16,
    pub(crate) patch: u16,
    pub(crate) mariadb: bool,
}

impl Version {
    pub(crate) const fn mysql(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch, mariadb: false }
    }

    /// Reads `@@version` or the greeting's version. None when it does not begin with `major.minor.patch`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // MariaDB prefixes its greeting with 5.5.5- because old replicas refused a major version of 10.
        let text = text.strip_prefix("5.5.5-").unwrap_or(text);
        let mut parts = text.splitn(3, '.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let rest = parts.next()?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let patch = rest[..digits].parse().ok()?;
        Some(Self { major, minor, patch, mariadb: text.to_ascii_lowercase().contains("mariadb") })
    }

    /// The number that version comments such as `/*!80400 ... */` compare with: `major*10000 + minor*100 + patch`.
    pub(crate) fn comment_number(self) -> u32 {
        u32::from(self.major) * 10_000 + u32::from(self.minor) * 100 + u32::from(self.patch)
    }

    /// CLONE and replication are promised within a series (same major and minor).
    pub(crate) fn same_series(self, other: Self) -> bool {
        (self.major, self.minor, self.mariadb) == (other.major, other.minor, other.mariadb)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        if self.mariadb { f.write_str("-MariaDB") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let check = |text: &str, expected: Option<(u16, u16, u16, bool)>| {
            let version = Version::parse(text).map(|v| (v.major, v.minor, v.patch, v.mariadb));
            assert_eq!(version, expected, "{text}");
        };
        check("9.7.4", Some((9, 7, 4, false)));
        check("8.0.36-0ubuntu0.22.04.1", Some((8, 0, 36, false)));
        check("5.5.5-10.11.19-MariaDB-log", Some((10, 11, 19, true)));
        check("26.10.0", Some((26, 10, 0, false)));
        check("8.4", None);
        check("", None);
    }
}
