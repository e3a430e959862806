//! PREPARE, EXECUTE and DEALLOCATE as texts, and the statements that they have in strings.
//! <https://dev.mysql.com/doc/refman/9.7/en/sql-prepared-statements.html>

use super::names::{literal_value, lower_name};
use super::routines::NO_VIEWS;
use super::scan::{Lexer, TokenKind};
use super::walk::{Judgement, Walk};
use super::{Cause, Dialect, Effect, Kind, Reason, Release};

/// What an SQL text that a literal says would pin. None: that cannot be known.
pub(crate) fn pins_of(literal: &[u8], dialect: Dialect) -> Option<Vec<Cause>> {
    let token = Lexer::new(literal, dialect).next().filter(|token| token.text.len() == literal.len())?;
    let text = literal_value(&token, dialect);
    let mut walk = Walk::new(&text, &NO_VIEWS, dialect);
    walk.text();
    let known = token.kind == TokenKind::Text && walk.calls.is_empty() && !walk.is_malformed();
    walk.effects.iter_mut().for_each(forget_lock_name);
    let pins = walk.effects.into_iter().filter_map(|effect| match effect {
        Effect::Pin(cause) => Some(cause),
        _ => None,
    });
    known.then(|| pins.collect())
}

fn forget_lock_name(effect: &mut Effect) {
    if let Effect::Pin(Cause::NamedLock(name)) = effect {
        *name = None;
    }
}

impl Walk<'_> {
    pub(super) fn prepare(&mut self) -> Judgement {
        let Some(name) = self.take() else {
            return (Kind::Write, Reason::TextPrepare);
        };
        self.pin(Cause::TextPrepared(lower_name(&name)));
        self.accept("from");
        let before = self.effects.len();
        self.quoted_statement();
        // Each EXECUTE may take its locks again.
        self.effects[before..].iter_mut().for_each(forget_lock_name);
        self.expression(false);
        (Kind::Write, Reason::TextPrepare)
    }

    pub(super) fn execute(&mut self) -> Judgement {
        if self.next_is("immediate") && self.second().is_some_and(|token| !token.is("using")) {
            self.take();
            self.quoted_statement();
            self.expression(false);
            return (Kind::Write, Reason::UnknownStatement);
        }
        while let Some(token) = self.take() {
            self.needs.user_variables |= token.kind == TokenKind::UserVariable;
        }
        (Kind::Anywhere, Reason::TextExecute)
    }

    /// What a statement in a string would pin, it may pin from now on.
    fn quoted_statement(&mut self) {
        let Some(token) = self.peek().filter(|_| !self.nested) else { return };
        let is_alone = self.second().is_none_or(|next| next.is("using"));
        if !is_alone || token.kind != TokenKind::Text {
            let variable = Some(token).filter(|token| is_alone && token.kind == TokenKind::UserVariable);
            self.effects.push(Effect::RunsUnseen(variable.map(|token| lower_name(&token))));
            return;
        }
        self.varies = true;
        let text = literal_value(&token, self.dialect);
        let mut walk = Walk::new(&text, self.views, self.dialect);
        walk.nested = true;
        walk.text();
        self.effects.extend(walk.effects.into_iter().filter(|effect| matches!(effect, Effect::Pin(_))));
        self.calls.extend(walk.calls);
        self.needs.last_insert_id |= walk.needs.last_insert_id;
        self.needs.user_variables |= walk.needs.user_variables;
    }

    pub(super) fn deallocate(&mut self) -> Judgement {
        self.accept("prepare");
        if let Some(name) = self.take() {
            self.release(Release::TextPrepared(lower_name(&name)));
        }
        (Kind::Anywhere, Reason::TextExecute)
    }
}
