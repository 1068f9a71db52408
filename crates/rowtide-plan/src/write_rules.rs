//! The rules of a table for inserts, updates and deletes: who may do which of them, to which columns, and how many
//! rows there may be.

use crate::judged_rule::JudgedRule;

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
    pub delete: Option<JudgedRule>,
}

/// The rule for inserts.
#[derive(Clone, Debug)]
pub struct InsertRule {
    /// Over `new`.
    pub allow: JudgedRule,
    /// An insert must not exceed any of them.
    pub limits: Vec<RowLimit>,
}

/// How many rows there may be.
#[derive(Clone, Debug)]
pub struct RowLimit {
    /// Which rows count: over the table's columns, without a prefix.
    pub counted: JudgedRule,
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
    pub allow: JudgedRule,
}

impl WriteRules {
    /// Every rule, in the order of the definition's reference.
    pub fn rules(&self) -> impl Iterator<Item = &JudgedRule> {
        let insert = self.insert.iter().flat_map(|insert| {
            let counted = insert.limits.iter().map(|limit| &limit.counted);
            std::iter::once(&insert.allow).chain(counted)
        });
        insert.chain(self.updates.iter().map(|rule| &rule.allow)).chain(&self.delete)
    }

    /// As [`WriteRules::rules`], mutable.
    pub fn rules_mut(&mut self) -> impl Iterator<Item = &mut JudgedRule> {
        let insert = self.insert.iter_mut().flat_map(|insert| {
            let counted = insert.limits.iter_mut().map(|limit| &mut limit.counted);
            std::iter::once(&mut insert.allow).chain(counted)
        });
        insert.chain(self.updates.iter_mut().map(|rule| &mut rule.allow)).chain(&mut self.delete)
    }
}
