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
    /// User variables by lower-case name, with the literal the client wrote. Sorted by name.
    user_variables: Vec<(Box<[u8]>, Box<[u8]>)>,
    /// COM_SET_OPTION; None is what the capability flags said.
    pub(crate) multi_statements: Option<bool>,
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

impl Settings {
    /// What a connection has right after a login with this schema.
    pub(crate) fn with_schema(schema: Option<Arc<[u8]>>) -> Self {
        Self { schema, ..Self::default() }
    }

    pub(crate) fn variable(&self, name: &[u8]) -> Option<&[u8]> {
        find(&self.variables, name)
    }

    pub(crate) fn set_variable(&mut self, name: &[u8], value: &[u8]) {
        set(&mut self.variables, name, value);
    }

    pub(crate) fn set_user_variable(&mut self, name: &[u8], literal: &[u8]) {
        set(&mut self.user_variables, name, literal);
    }

    pub(crate) fn forget_user_variable(&mut self, name: &[u8]) {
        self.user_variables.retain(|(found, _)| **found != *name);
    }

    /// Bytes held, for the bound on one session's state.
    pub(crate) fn size(&self) -> usize {
        self.variables.iter().chain(&self.user_variables).map(|(name, value)| name.len() + value.len()).sum()
    }

    /// What must be assigned on a connection that looks like `from`, schema and COM_SET_OPTION apart.
    pub(crate) fn assignments<'a>(&'a self, from: &'a Self) -> impl Iterator<Item = Assignment<'a>> {
        let variables = self
            .variables
            .iter()
            .filter(|(name, value)| from.variable(name) != Some(value))
            .map(|(name, value)| Assignment::Variable { name, value });
        let defaults = from
            .variables
            .iter()
            .filter(|(name, _)| self.variable(name).is_none())
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
}
