//! Reads a whole text, statement by statement, and says what each of them is. Looks at every token, trusts none: a
//! verb, a word or a function that is not known to be harmless makes a write.

use super::names::{Folded, lower_name};
use super::routines::Views;
use super::scan::{Lexer, Token, TokenKind};
use super::tables::is_system_schema;
use super::{Cause, Counts, Dialect, Effect, Ends, Kind, Needs, Question, Reason, Release, Statement};

/// A verdict, and whether it holds for every text of the same shape.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) statement: Statement,
    /// The verdict depends on literals (names of locks, values of variables), which are no part of a shape.
    pub(super) varies: bool,
}

/// What one statement of a text is.
pub(super) type Judgement = (Kind, Reason);

/// Judges a text that is held from its first to its last byte.
pub(super) fn judge(text: &[u8], views: &Views, dialect: Dialect) -> Judged {
    let mut walk = Walk::new(text, views, dialect);
    let (mut kind, mut reason) = walk.text();
    // Effects stand: the first statement of a text runs before the server reads the second.
    if walk.lexer.is_malformed() && kind != Kind::Write {
        (kind, reason) = (Kind::Write, Reason::Malformed);
    }
    if walk.lexer.sets_variables() {
        walk.effects.push(Effect::SetVariables(Vec::new()));
    }
    let hint = walk.lexer.hint();
    let asks = question(text, dialect);
    let (effects, needs, counts) = (walk.effects, walk.needs, walk.counts.unwrap_or_default());
    let several = walk.several;
    // A COMMIT by itself runs where its transaction is.
    let ends = if several || reason != Reason::EndsTransaction { walk.ends } else { Ends::Nothing };
    let calls = walk.calls;
    let leaves_nothing = false;
    let statement =
        Statement { kind, reason, effects, needs, hint, asks, counts, several, calls, leaves_nothing, ends };
    Judged { statement, varies: walk.varies }
}

/// Judges a text of which only the first bytes are held. The rest may be anything, so it is a write.
pub(super) fn judge_head(head: &[u8], views: &Views, dialect: Dialect) -> Statement {
    let mut walk = Walk::new(head, views, dialect);
    let (kind, _) = walk.text();
    if matches!(kind, Kind::Begin(_)) {
        walk.begins();
    }
    let hint = walk.lexer.hint();
    let (effects, needs) = (walk.effects, Needs { previous: true, ..walk.needs });
    Statement {
        kind: Kind::Write,
        reason: Reason::TooLong,
        effects,
        needs,
        hint,
        asks: None,
        counts: Counts::Unknown,
        several: true,
        calls: walk.calls,
        leaves_nothing: false,
        ends: walk.ends,
    }
}

/// `SELECT ROW_COUNT() [[AS] name]` and its like, from the first to the last token.
fn question(text: &[u8], dialect: Dialect) -> Option<Question> {
    let mut lexer = Lexer::new(text, dialect);
    let mut next = || lexer.next();
    next().filter(|token| token.is("select"))?;
    let question = match Folded::keyword(&next()?).as_str() {
        "connection_id" => Question::ConnectionId,
        "row_count" => Question::RowCount,
        "found_rows" => Question::FoundRows,
        _ => return None,
    };
    next().filter(|token| token.is_sign(b'('))?;
    next().filter(|token| token.is_sign(b')'))?;
    let mut token = next();
    if token.is_some_and(|token| token.is("as")) {
        token = next();
    }
    if token.is_some_and(|token| token.is_name()) {
        token = next();
    }
    while token.is_some_and(|token| token.is_sign(b';')) {
        token = next();
    }
    token.is_none().then_some(question)
}

/// The statement that EXPLAIN ROUTE asks about; None for SHOW ROUTE. For texts whose kind is [`Kind::AskRoute`].
pub(crate) fn route_question(text: &[u8], dialect: Dialect) -> Option<&[u8]> {
    let mut lexer = Lexer::new(text, dialect);
    let explains = lexer.next().is_some_and(|token| token.is("explain"));
    lexer.next();
    explains.then(|| text[lexer.position()..].trim_ascii())
}

/// A cursor over the tokens of a text, and what has been found so far.
pub(super) struct Walk<'a> {
    text: &'a [u8],
    lexer: Lexer<'a>,
    /// The next token.
    ahead: Option<Token<'a>>,
    pub(super) dialect: Dialect,
    pub(super) effects: Vec<Effect>,
    pub(super) needs: Needs,
    /// As in [`Statement::calls`].
    pub(super) calls: Vec<Box<[u8]>>,
    /// Views that are no mere tables.
    pub(super) views: &'a Views,
    /// Names that come next may be those of tables, and what of that holds outside each parenthesis around.
    pub(super) names_tables: bool,
    pub(super) outside: u64,
    pub(super) reads_system_variables: bool,
    pub(super) varies: bool,
    /// Where among the effects the text opened a transaction that it has not ended.
    begun: Option<usize>,
    /// The text has assigned something that the server's own lexer follows.
    pub(super) lexer_changed: bool,
    /// The text has assigned what decides where its later reads belong; true: to the primary.
    claims_reads: Option<bool>,
    /// Behind the last byte that two lexers could read in two ways; found when first asked for.
    doubtful_end: Option<usize>,
    /// Inside the text that PREPARE or EXECUTE IMMEDIATE quotes.
    pub(super) nested: bool,
    /// Inside the body of a stored routine, where INTO may name variables of its own.
    pub(super) in_routine: bool,
    /// None: no statement yet.
    counts: Option<Counts>,
    several: bool,
    ends: Ends,
    /// There is a LIMIT that passes rows over.
    pub(super) has_offset: bool,
    /// There is a query, perhaps within another statement.
    pub(super) has_query: bool,
    /// What this form of SHOW, EXPLAIN or DELETE leaves for FOUND_ROWS().
    pub(super) finds: Counts,
}

impl<'a> Walk<'a> {
    pub(super) fn new(text: &'a [u8], views: &'a Views, dialect: Dialect) -> Self {
        let mut lexer = Lexer::new(text, dialect);
        let ahead = lexer.next();
        Self {
            text,
            lexer,
            ahead,
            dialect,
            effects: Vec::new(),
            needs: Needs::default(),
            calls: Vec::new(),
            views,
            names_tables: false,
            outside: 0,
            reads_system_variables: false,
            varies: false,
            begun: None,
            lexer_changed: false,
            claims_reads: None,
            doubtful_end: None,
            nested: false,
            in_routine: false,
            counts: None,
            several: false,
            ends: Ends::Nothing,
            has_offset: false,
            has_query: false,
            finds: Counts::Unknown,
        }
    }

    /// Over the body of a stored routine.
    pub(super) fn of_routine(body: &'a [u8], views: &'a Views, dialect: Dialect) -> Self {
        Self { in_routine: true, ..Self::new(body, views, dialect) }
    }

    /// The next token of a routine's body, which is not taken; None at the end of the body.
    pub(super) fn next_of_routine(&mut self) -> Option<Token<'a>> {
        while self.ahead.is_some_and(|token| token.is_sign(b';')) {
            self.ahead = self.lexer.next();
        }
        self.ahead
    }

    pub(super) fn is_malformed(&self) -> bool {
        self.lexer.is_malformed()
    }

    /// The next token of this statement; None at its end.
    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.ahead.filter(|token| !token.is_sign(b';'))
    }

    /// The token behind the next one.
    pub(super) fn second(&self) -> Option<Token<'a>> {
        let mut lexer = self.lexer;
        lexer.next().filter(|token| !token.is_sign(b';'))
    }

    /// The tokens behind the next one, of this statement and beyond.
    pub(super) fn lookahead(&self) -> Lexer<'a> {
        self.lexer
    }

    pub(super) fn take(&mut self) -> Option<Token<'a>> {
        let token = self.peek()?;
        self.ahead = self.lexer.next();
        Some(token)
    }

    pub(super) fn accept(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.is(word));
        if found {
            self.take();
        }
        found
    }

    pub(super) fn accept_sign(&mut self, sign: u8) -> bool {
        let found = self.peek().is_some_and(|token| token.is_sign(sign));
        if found {
            self.take();
        }
        found
    }

    pub(super) fn next_is(&self, word: &str) -> bool {
        self.peek().is_some_and(|token| token.is(word))
    }

    pub(super) fn next_is_sign(&self, sign: u8) -> bool {
        self.peek().is_some_and(|token| token.is_sign(sign))
    }

    pub(super) fn skip_rest(&mut self) {
        while self.take().is_some() {}
    }

    pub(super) fn pin(&mut self, cause: Cause) {
        self.effects.push(Effect::Pin(cause));
    }

    pub(super) fn release(&mut self, release: Release) {
        self.effects.push(Effect::Release(release));
    }

    /// All statements of the text.
    pub(super) fn text(&mut self) -> Judgement {
        let mut total: Option<Judgement> = None;
        loop {
            while self.ahead.is_some_and(|token| token.is_sign(b';')) {
                self.ahead = self.lexer.next();
            }
            let Some(first) = self.ahead else {
                return total.unwrap_or((Kind::Anywhere, Reason::Empty));
            };
            if let Some((Kind::Begin(_), reason)) = total {
                self.begins();
                total = Some((Kind::Write, reason));
            }
            let in_doubt = self.lexer_changed && self.is_doubtful(first);
            let mut found = self.statement();
            self.skip_rest();
            self.count(first, found.1);
            if self.ends == Ends::Nothing && self.ends_transaction(first, found.1) {
                self.ends = if total.is_none() { Ends::First } else { Ends::Later };
            }
            if in_doubt && found.0 != Kind::Write {
                found = (Kind::Write, Reason::LexerChanges);
            }
            if let (Kind::Read, Some(claims)) = (found.0, self.claims_reads) {
                self.varies = true;
                found = if claims { (Kind::Write, Reason::MixedText) } else { found };
            }
            total = Some(match total {
                None => found,
                Some(before) => self.join(before, found),
            });
        }
    }

    /// What the statement that begins with this token leaves for FOUND_ROWS().
    fn count(&mut self, first: Token<'a>, reason: Reason) {
        let calculates = self.effects.contains(&Effect::CountsFoundRows);
        let next = match Folded::keyword(&first).as_str() {
            _ if calculates => Counts::Unknown,
            _ if self.has_offset => Counts::Incidental,
            "select" | "table" | "values" => Counts::Rows,
            "with" if reason != Reason::ChangesData => Counts::Rows,
            _ if first.is_sign(b'(') => Counts::Rows,
            "get" => Counts::NotEven,
            "set" | "use" | "begin" | "start" | "commit" | "rollback" | "savepoint" | "release"
            | "prepare" | "deallocate" | "create" | "alter" | "drop" | "truncate" | "lock" | "unlock"
            | "handler" | "flush" | "kill" | "signal" | "grant" | "revoke" | "xa" | "checksum"
            | "analyze" | "help" => Counts::Nothing,
            "do" if !self.dialect.mariadb => Counts::One,
            "update" | "with" => Counts::Incidental,
            "insert" | "replace" | "delete" if self.has_query => Counts::Incidental,
            "insert" | "replace" => Counts::Nothing,
            "show" | "explain" | "describe" | "desc" | "delete" => self.finds,
            // Of rows that a query in them finds.
            _ => Counts::Unknown,
        };
        self.several |= self.counts.is_some();
        self.counts = Some(match (self.counts, next) {
            (Some(before @ (Counts::Nothing | Counts::Incidental)), Counts::Nothing) => before,
            (Some(_), Counts::Nothing | Counts::NotEven) => Counts::Unknown,
            (_, next) => next,
        });
        (self.has_offset, self.has_query, self.finds) = (false, false, Counts::Unknown);
    }

    /// True when the statement that begins with this token commits the transaction that is open before it runs, or ends it.
    /// (Of administration this was asked of 9.7.4.)
    fn ends_transaction(&self, first: Token<'a>, reason: Reason) -> bool {
        let locks = |effect: &Effect| matches!(effect, Effect::Pin(Cause::TableLocks | Cause::FlushLock));
        match reason {
            Reason::ChangesSchema | Reason::ChangesAccounts | Reason::EndsTransaction => true,
            // Not LOCK INSTANCE, and UNLOCK TABLES only where tables are locked, which no transaction has.
            Reason::TableLock => self.effects.iter().any(locks),
            Reason::Administration => matches!(
                Folded::keyword(&first).as_str(),
                "flush"
                    | "analyze"
                    | "optimize"
                    | "repair"
                    | "check"
                    | "cache"
                    | "load"
                    | "reset"
                    | "change"
                    | "start"
                    | "stop"
                    | "install"
                    | "uninstall"
                    | "import"
                    | "clone"
            ),
            _ => false,
        }
    }

    /// What the session is now decides where reads belong, those of the same text too: with autocommit off they begin a
    /// transaction, say.
    pub(super) fn claim_reads(&mut self, for_primary: bool) {
        self.claims_reads = Some(for_primary || self.claims_reads == Some(true));
    }

    /// A transaction begins in the middle of the text.
    pub(super) fn begins(&mut self) {
        if self.begun.is_none() {
            self.begun = Some(self.effects.len());
            self.effects.push(Effect::Begins);
        }
    }

    /// True when sql_mode or a character set, changed in this text, may make the server read the rest in another way.
    fn is_doubtful(&mut self, first: Token<'a>) -> bool {
        self.varies = true;
        let end = *self.doubtful_end.get_or_insert_with(|| {
            let doubtful = |&byte: &u8| matches!(byte, b'\\' | b'"' | 0x80..);
            self.text.iter().rposition(doubtful).map_or(0, |at| at + 1)
        });
        self.dialect.ignore_space || self.lexer.position().saturating_sub(first.text.len() + 2) < end
    }

    /// What two statements in one text are together.
    fn join(&mut self, before: Judgement, next: Judgement) -> Judgement {
        self.needs.previous |= before.0 == Kind::Previous;
        match (before.0, next.0) {
            (Kind::Kill { .. } | Kind::AskRoute, _) => (Kind::Write, before.1),
            (_, Kind::Kill { .. } | Kind::AskRoute) => (Kind::Write, next.1),
            (_, Kind::Begin(_)) => {
                self.begins();
                (Kind::Write, next.1)
            }
            (Kind::Write | Kind::Begin(_), _) => {
                if let (Reason::EndsTransaction, Some(at)) = (next.1, self.begun) {
                    self.effects.remove(at);
                    self.begun = None;
                }
                (Kind::Write, before.1)
            }
            (_, Kind::Write) => next,
            // Within a text, the statement before is a statement of the text.
            (_, Kind::Anywhere) | (Kind::Anywhere | Kind::Read, Kind::Previous) => before,
            (Kind::Anywhere | Kind::Read, Kind::Read) => next,
            (Kind::Previous, Kind::Previous) => before,
            (Kind::Previous, Kind::Read) => (Kind::Write, Reason::MixedText),
        }
    }

    fn statement(&mut self) -> Judgement {
        if self.next_is_sign(b'(') {
            while self.accept_sign(b'(') {}
            let query = self.peek().is_some_and(|token| {
                matches!(Folded::keyword(&token).as_str(), "select" | "table" | "values" | "with")
            });
            return if query { self.query() } else { (Kind::Write, Reason::UnknownStatement) };
        }
        let Some(verb) = self.peek().filter(Token::is_keyword) else {
            return (Kind::Write, Reason::UnknownStatement);
        };
        let verb = Folded::keyword(&verb);
        if matches!(verb.as_str(), "select" | "table" | "values" | "with") {
            return self.query();
        }
        self.take();
        match verb.as_str() {
            "show" => self.show(),
            "explain" if self.asks_route() => {
                self.skip_rest();
                (Kind::AskRoute, Reason::AsksRoute)
            }
            "explain" | "describe" | "desc" => self.explain(),
            "do" => {
                let found = self.expression(false);
                found.judgement()
            }
            "help" => (Kind::Read, Reason::Catalog),
            "checksum" => self.checksum(),
            "use" => {
                self.effects.push(Effect::UsesSchema);
                if self.peek().is_some_and(|schema| is_system_schema(&lower_name(&schema))) {
                    self.claim_reads(true);
                }
                (Kind::Anywhere, Reason::SessionState)
            }
            "set" => self.set(),
            "begin" => self.begin(),
            "start" => self.start(),
            "commit" => self.end_transaction(),
            "rollback" => self.rollback(),
            "savepoint" | "release" => (Kind::Write, Reason::TransactionPart),
            "insert" | "replace" | "update" | "delete" => {
                if self.next_is("from") {
                    self.finds = Counts::Nothing;
                }
                self.names_tables = true;
                self.expression(false);
                (Kind::Write, Reason::ChangesData)
            }
            "load" if self.next_is("index") => (Kind::Write, Reason::Administration),
            "load" => {
                self.arguments();
                // Its answer does not tell which numbers it has made.
                self.needs.last_insert_id = true;
                (Kind::Write, Reason::ChangesData)
            }
            "call" => {
                let name = self.table();
                self.calls.push(name);
                self.arguments();
                // The same.
                self.needs.last_insert_id = true;
                (Kind::Write, Reason::CallsProcedure)
            }
            "create" => self.create(),
            "alter" => self.alter(),
            "drop" => self.drop(),
            "rename" if self.next_is("user") => self.accounts(),
            "rename" => {
                // Perhaps a view.
                self.effects.push(Effect::RoutinesChange);
                (Kind::Write, Reason::ChangesSchema)
            }
            "truncate" => (Kind::Write, Reason::ChangesSchema),
            "grant" | "revoke" => self.accounts(),
            "prepare" => self.prepare(),
            "execute" => self.execute(),
            "deallocate" => self.deallocate(),
            _ => self.administration(verb.as_str()),
        }
    }

    /// Behind EXPLAIN: ROUTE and a statement. ROUTE and a single name would be a column of a table of that name, and behind a
    /// dot a table of a schema of that name.
    fn asks_route(&self) -> bool {
        let mut lexer = self.lookahead();
        let mut further = || lexer.next().filter(|token| !token.is_sign(b';'));
        self.next_is("route") && further().is_some_and(|token| !token.is_sign(b'.')) && further().is_some()
    }

    pub(super) fn accounts(&mut self) -> Judgement {
        self.effects.push(Effect::AccountsChange);
        (Kind::Write, Reason::ChangesAccounts)
    }

    /// GET DIAGNOSTICS assigns to user variables what is known of the statement before.
    pub(super) fn get_diagnostics(&mut self) -> Judgement {
        while let Some(token) = self.take() {
            if token.kind == TokenKind::UserVariable && self.next_is_sign(b'=') {
                self.pin(Cause::UserVariable(Some(lower_name(&token))));
            }
        }
        (Kind::Previous, Reason::PreviousStatement)
    }

    /// CALL and LOAD DATA: a user variable standing alone as an argument may be assigned to.
    fn arguments(&mut self) {
        let mut before: Option<Token<'_>> = None;
        while let Some(token) = self.peek() {
            let begins = before.is_some_and(|before| before.is_sign(b'(') || before.is_sign(b','));
            let ends = || self.second().is_none_or(|next| next.is_sign(b')') || next.is_sign(b','));
            if token.kind == TokenKind::UserVariable && begins && ends() {
                self.needs.user_variables = true;
                self.pin(Cause::UserVariable(Some(lower_name(&token))));
                self.take();
            } else {
                self.expression_token(&mut super::expression::Findings::default());
            }
            before = Some(token);
        }
    }

    /// Moves to the end of a routine: to the semicolon that is in no compound statement, or to the end of the text.
    pub(super) fn skip_body(&mut self, mut depth: usize) {
        // At the start of a statement IF, LOOP, WHILE and REPEAT are compounds, elsewhere functions and options.
        let mut starts = false;
        while let Some(token) = self.ahead {
            if token.is_sign(b';') && depth == 0 {
                return;
            }
            self.ahead = self.lexer.next();
            let word = Folded::keyword(&token);
            match word.as_str() {
                "begin" | "case" => depth += 1,
                "if" | "loop" | "while" | "repeat" if starts => depth += 1,
                "end" => {
                    depth = depth.saturating_sub(1);
                    let of = self.ahead.map(|token| Folded::keyword(&token)).unwrap_or_default();
                    if matches!(of.as_str(), "if" | "loop" | "while" | "repeat" | "case") {
                        self.ahead = self.lexer.next();
                    }
                }
                _ => {}
            }
            let opens = matches!(word.as_str(), "begin" | "then" | "else" | "do" | "loop" | "repeat");
            starts = opens || token.is_sign(b';') || token.is_sign(b')') || token.is_sign(b':');
        }
    }
}
