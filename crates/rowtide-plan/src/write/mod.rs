//! Writes: the rules of a table for inserts, updates and deletes, and the operations of a mutation in terms
//! of the plan. A mutation's values become parameters and its names come from the catalog, so no text of a
//! client ever becomes SQL. Everything here is pure. `rowtide-postgres` runs the statements in one
//! transaction and passes the answers back.

mod input;
mod op;
mod rule;
mod statement;

use rowtide_protocol::RejectCode;

pub use op::Write;
pub use rule::{RuleClaim, WriteRule};
pub use statement::{
    Param, RuleStatement, Statement, Verdict, limit_lock, lock, rule_statements, write,
};

/// The rules of one table.
#[derive(Clone, Debug, Default)]
pub struct WriteRules {
    /// Columns that an insert writes and an update never does.
    pub immutable: Vec<usize>,
    /// Columns that a client never writes.
    pub readonly: Vec<usize>,
    /// Who may insert; `None`: nobody.
    pub insert: Option<InsertRule>,
    /// Who may update. A column may be written if any rule that names it holds.
    pub updates: Vec<UpdateRule>,
    /// Who may delete; `None`: nobody.
    pub delete: Option<WriteRule>,
}

/// The rule for inserts.
#[derive(Clone, Debug)]
pub struct InsertRule {
    /// Over `new`.
    pub allow: WriteRule,
    /// An insert must not exceed any of them.
    pub limits: Vec<Limit>,
}

/// How many rows there may be.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Which rows count: over the table's columns, without a prefix.
    pub counted: WriteRule,
    /// The most.
    pub max: i64,
    /// The code that an insert beyond it is rejected with.
    pub code: String,
}

/// A rule for updates.
#[derive(Clone, Debug)]
pub struct UpdateRule {
    /// The columns that it is about; `None`: all that are written.
    pub columns: Option<Vec<usize>>,
    /// Over `old` and `new`.
    pub allow: WriteRule,
}

impl WriteRules {
    /// Every rule, in the order of the definition's reference.
    pub fn rules(&self) -> impl Iterator<Item = &WriteRule> {
        let insert = self.insert.iter().flat_map(|insert| {
            let counted = insert.limits.iter().map(|limit| &limit.counted);
            std::iter::once(&insert.allow).chain(counted)
        });
        insert.chain(self.updates.iter().map(|rule| &rule.allow)).chain(&self.delete)
    }

    /// As [`WriteRules::rules`], mutable.
    pub fn rules_mut(&mut self) -> impl Iterator<Item = &mut WriteRule> {
        let insert = self.insert.iter_mut().flat_map(|insert| {
            let counted = insert.limits.iter_mut().map(|limit| &mut limit.counted);
            std::iter::once(&mut insert.allow).chain(counted)
        });
        insert.chain(self.updates.iter_mut().map(|rule| &mut rule.allow)).chain(&mut self.delete)
    }
}

/// The longest message of a rejection, in characters; what is beyond is left out.
pub const MAX_MESSAGE_CHARS: usize = 400;

/// Why a mutation is rejected. The message names columns, rules and constraints. It never has values from
/// another user's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The code of the `reject`.
    pub code: RejectCode,
    /// For the developer.
    pub message: String,
}

impl Rejection {
    /// A rejection with this message. The message may repeat what a client sent, and it is stored in the
    /// database. So it is cut to [`MAX_MESSAGE_CHARS`], and control characters become spaces (Postgres
    /// cannot store NUL).
    pub fn new(code: RejectCode, message: impl AsRef<str>) -> Rejection {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        Rejection {
            code,
            message: message.as_ref().chars().take(MAX_MESSAGE_CHARS).map(plain).collect(),
        }
    }
}
