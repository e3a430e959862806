//! What a session has set up and every connection that serves it must have: schema, system variables, user variables
//! with literal values. Values only; how they reach a server is `backend::reset`.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// One session's settings. Sessions and connections share them behind an `Arc`: equal pointers mean nothing to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Settings {
    pub(crate) schema: Option<Arc<[u8]>>,
    /// System variables by lower-case name, with the value the server's tracker reported. Sorted by name.
    variables: Vec<(Box<[u8]>, Box<[u8]>)>,
    /// User variables by lower-case name, with the literal the client wrote. Sorted by name. NULL keeps the type of the
    /// value before it, and so stands behind that: `1,NULL`.
    user_variables: Vec<(Box<[u8]>, Box<[u8]>)>,
    /// COM_SET_OPTION; None is what the capability flags said.
    pub(crate) multi_statements: Option<bool>,
    /// What the client set its session_track_* variables to. None: nothing.
    pub(crate) trackers: Option<Arc<Trackers>>,
    pub(crate) trackers_view: TrackersView,
    /// COM_RESET_CONNECTION was there: the character sets are not as the login left them, but as the server has them.
    pub(crate) after_reset: bool,
}

/// What a server gives a session of its own accord, by its global variables and `init_connect`; of no schema. Default: as long
/// as nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// Behind a login.
    pub(crate) login: Settings,
    /// Behind COM_RESET_CONNECTION and COM_CHANGE_USER, which run no `init_connect`.
    pub(crate) reset: Settings,
    /// `character_set_client` of these two.
    pub(crate) login_charset: Box<[u8]>,
    pub(crate) reset_charset: Box<[u8]>,
}

/// Which values a connection's session_track_* variables have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum TrackersView {
    /// What the client wants to be told, and what we need to know.
    #[default]
    Merged,
    /// As the client set them, for a statement that looks at the variables.
    AsSet,
    /// The same in a transaction, where session_track_gtids cannot be changed.
    AsSetInTransaction,
}

/// The session_track_* variables: what a server tells of a session's changes.
/// <https://dev.mysql.com/doc/refman/9.7/en/session-state-tracking.html>
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Trackers {
    pub(crate) gtids: Box<[u8]>,
    pub(crate) schema: bool,
    pub(crate) state_change: bool,
    /// Names, with commas between them, or `*`.
    pub(crate) system_variables: Box<[u8]>,
    pub(crate) transaction_info: Box<[u8]>,
}

/// Makes equal settings one `Arc`, so that comparing them is comparing pointers.
#[derive(Debug, Default)]
pub(crate) struct Interner(Mutex<HashSet<Arc<Settings>>>);

/// One assignment that makes a connection look like a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Assignment<'a> {
    Variable {
        name: &'a [u8],
        value: &'a [u8],
    },
    /// Back to what a new connection has.
    VariableDefault {
        name: &'a [u8],
    },
    UserVariable {
        name: &'a [u8],
        literal: &'a [u8],
    },
    UserVariableNull {
        name: &'a [u8],
    },
}

impl Default for Trackers {
    /// As a server without a configuration has them.
    fn default() -> Self {
        let variables =
            b"time_zone,autocommit,character_set_client,character_set_results,character_set_connection";
        Self {
            gtids: Box::from(&b"OFF"[..]),
            schema: true,
            state_change: false,
            system_variables: Box::from(&variables[..]),
            transaction_info: Box::from(&b"OFF"[..]),
        }
    }
}

impl Trackers {
    /// The variables, in the order in which [`Trackers::set`] and those who ask servers know them.
    pub(crate) const VARIABLES: [&str; 5] = [
        "session_track_gtids",
        "session_track_schema",
        "session_track_state_change",
        "session_track_system_variables",
        "session_track_transaction_info",
    ];

    /// Takes in the value of one of the variables, as a server says it. False for any other name.
    pub(crate) fn set(&mut self, name: &[u8], value: &[u8]) -> bool {
        let on = matches!(value, b"1" | b"ON");
        match Self::VARIABLES.iter().position(|variable| variable.as_bytes() == name) {
            Some(0) => self.gtids = Box::from(value),
            Some(1) => self.schema = on,
            Some(2) => self.state_change = on,
            Some(3) => self.system_variables = Box::from(value),
            Some(4) => self.transaction_info = Box::from(value),
            _ => return false,
        }
        true
    }

    /// True when a change of this system variable is told.
    pub(crate) fn tells(&self, variable: &[u8]) -> bool {
        let listed =
            |name: &[u8]| name.trim_ascii() == b"*" || name.trim_ascii().eq_ignore_ascii_case(variable);
        self.system_variables.split(|&byte| byte == b',').any(listed)
    }

    pub(crate) fn tells_gtids(&self) -> bool {
        *self.gtids != *b"OFF"
    }
}

impl Settings {
    /// Nothing but this schema.
    pub(crate) fn with_schema(schema: Option<Arc<[u8]>>) -> Self {
        Self { schema, ..Self::default() }
    }

    /// The same in another schema.
    pub(crate) fn in_schema(&self, schema: Option<Arc<[u8]>>) -> Self {
        Self { schema, ..self.clone() }
    }

    /// The same for a statement that looks at the session_track_* variables.
    pub(crate) fn viewed(&self, trackers_view: TrackersView) -> Arc<Self> {
        Arc::new(Self { trackers_view, ..self.clone() })
    }

    /// What decides how a text is read, and nothing else.
    pub(crate) fn reading(&self) -> Self {
        let mut reading =
            Self { schema: self.schema.clone(), after_reset: self.after_reset, ..Self::default() };
        for name in READING {
            reading.copy_variable(name.as_bytes(), self);
        }
        reading
    }

    /// The same session, but that it reads texts as `other` does. There is no way back to no schema: without one servers
    /// prepare only what needs none (else error 1046), and of that DATABASE() alone tells the difference.
    pub(crate) fn reading_as(&self, other: &Self) -> Arc<Self> {
        let mut settings = self.clone();
        if let (Some(schema), Some(theirs)) = (&mut settings.schema, &other.schema) {
            schema.clone_from(theirs);
        }
        for name in READING {
            settings.copy_variable(name.as_bytes(), other);
        }
        Arc::new(settings)
    }

    fn copy_variable(&mut self, name: &[u8], from: &Self) {
        match from.variable(name) {
            Some(value) => self.set_variable(name, value),
            None => self.variables.retain(|(found, _)| **found != *name),
        }
    }

    pub(crate) fn variable(&self, name: &[u8]) -> Option<&[u8]> {
        find(&self.variables, name)
    }

    pub(crate) fn set_variable(&mut self, name: &[u8], value: &[u8]) {
        if name == b"character_set_results" {
            self.variables.retain(|(found, _)| **found != *RESULTS_COLLATION.as_bytes());
        }
        set(&mut self.variables, name, value);
    }

    pub(crate) fn set_user_variable(&mut self, name: &[u8], literal: &[u8]) {
        if !literal.eq_ignore_ascii_case(b"NULL") {
            return set(&mut self.user_variables, name, literal);
        }
        let before = find(&self.user_variables, name).unwrap_or(UNSET);
        if !before.ends_with(b",NULL") {
            let typed = [before, b",NULL"].concat();
            set(&mut self.user_variables, name, &typed);
        }
    }

    /// The literal that gives a user variable its value.
    pub(crate) fn user_variable(&self, name: &[u8]) -> Option<&[u8]> {
        find(&self.user_variables, name)
    }

    pub(crate) fn forget_user_variable(&mut self, name: &[u8]) {
        self.user_variables.retain(|(found, _)| **found != *name);
    }

    /// Bytes held, for the bound on one session's state.
    pub(crate) fn size(&self) -> usize {
        self.variables.iter().chain(&self.user_variables).map(|(name, value)| name.len() + value.len()).sum()
    }

    /// What must be assigned on a connection that looks like `from`, but for the schema, COM_SET_OPTION, trackers and
    /// [`CHARACTER_SETS`].
    pub(crate) fn assignments<'a>(&'a self, from: &'a Self) -> impl Iterator<Item = Assignment<'a>> {
        let variables = self
            .variables
            .iter()
            .filter(|(name, value)| from.variable(name) != Some(value) && !is_character_set(name))
            .map(|(name, value)| Assignment::Variable { name, value });
        let defaults = from
            .variables
            .iter()
            .filter(|(name, _)| self.variable(name).is_none() && !is_character_set(name))
            .map(|(name, _)| Assignment::VariableDefault { name });
        let users = self
            .user_variables
            .iter()
            .filter(|(name, literal)| find(&from.user_variables, name) != Some(literal))
            .map(|(name, literal)| Assignment::UserVariable { name, literal });
        let nulls = from
            .user_variables
            .iter()
            .filter(|(name, _)| find(&self.user_variables, name).is_none())
            .map(|(name, _)| Assignment::UserVariableNull { name });
        variables.chain(defaults).chain(users).chain(nulls)
    }
}

impl Interner {
    /// The one `Arc` of settings equal to these.
    pub(crate) fn intern(&self, settings: &Arc<Settings>) -> Arc<Settings> {
        let mut known = self.0.lock();
        if let Some(found) = known.get(settings) {
            return Arc::clone(found);
        }
        // What nobody uses any more goes when the set would have to grow.
        if known.len() == known.capacity() {
            known.retain(|settings| Arc::strong_count(settings) > 1);
        }
        known.insert(Arc::clone(settings));
        Arc::clone(settings)
    }
}

/// A user variable that was never set has the type of this.
pub(crate) const UNSET: &[u8] = b"X''";

/// The variables that say which character set a session speaks. They depend on one another and go together.
pub(crate) const CHARACTER_SETS: [&str; 4] =
    ["character_set_client", "character_set_connection", "character_set_results", "collation_connection"];

/// Stands among the variables for what no variable shows: the number of the collation that results have. None: that of
/// the login, or the one that `character_set_results` has by default. It goes when that is set.
pub(crate) const RESULTS_COLLATION: &str = "collation_results";

/// The access mode of transactions that do not say their own, by both of its names.
pub(crate) const ACCESS_MODE: [&str; 2] = ["transaction_read_only", "tx_read_only"];

pub(crate) fn is_access_mode(name: &[u8]) -> bool {
    ACCESS_MODE.iter().any(|known| known.as_bytes() == name)
}

fn is_character_set(name: &[u8]) -> bool {
    CHARACTER_SETS.iter().chain([&RESULTS_COLLATION]).any(|known| known.as_bytes() == name)
}

/// The variables that decide how a text is read.
const READING: [&str; 4] =
    ["sql_mode", "character_set_client", "character_set_connection", "collation_connection"];

fn find<'a>(list: &'a [(Box<[u8]>, Box<[u8]>)], name: &[u8]) -> Option<&'a [u8]> {
    let at = list.binary_search_by(|(found, _)| (**found).cmp(name)).ok()?;
    Some(&list[at].1)
}

fn set(list: &mut Vec<(Box<[u8]>, Box<[u8]>)>, name: &[u8], value: &[u8]) {
    match list.binary_search_by(|(found, _)| (**found).cmp(name)) {
        Ok(at) => list[at].1 = Box::from(value),
        Err(at) => list.insert(at, (Box::from(name), Box::from(value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_settings_are_one() {
        let interner = Interner::default();
        let one = |value: &[u8]| {
            let mut settings = Settings::default();
            settings.set_variable(b"sql_mode", value);
            Arc::new(settings)
        };
        let first = interner.intern(&one(b"A"));
        assert!(Arc::ptr_eq(&first, &interner.intern(&one(b"A"))));
        assert!(!Arc::ptr_eq(&first, &interner.intern(&one(b"B"))));
    }

    #[test]
    fn assignments_make_one_like_the_other() {
        let mut from = Settings::default();
        from.set_variable(b"time_zone", b"+01:00");
        from.set_variable(b"sql_mode", b"");
        from.set_user_variable(b"a", b"1");
        let mut to = Settings::default();
        to.set_variable(b"time_zone", b"+02:00");
        to.set_user_variable(b"b", b"'x'");
        let found: Vec<_> = to.assignments(&from).collect();
        assert_eq!(
            found,
            [
                Assignment::Variable { name: b"time_zone", value: b"+02:00" },
                Assignment::VariableDefault { name: b"sql_mode" },
                Assignment::UserVariable { name: b"b", literal: b"'x'" },
                Assignment::UserVariableNull { name: b"a" },
            ]
        );
        assert_eq!(to.assignments(&to).count(), 0);
    }

    #[test]
    fn null_keeps_the_type_before_it() {
        for (literals, expected) in
            [(&["NULL"][..], "X'',NULL"), (&["1", "null", "NULL"], "1,NULL"), (&["NULL", "'NULL'"], "'NULL'")]
        {
            let mut settings = Settings::default();
            for literal in literals {
                settings.set_user_variable(b"a", literal.as_bytes());
            }
            let literal = find(&settings.user_variables, b"a").map(String::from_utf8_lossy);
            assert_eq!(literal.as_deref(), Some(expected), "{literals:?}");
        }
    }
}
