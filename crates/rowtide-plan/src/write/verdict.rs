//! What the answer to a write's statement means: whether it was done, and if not, what to tell the client. The
//! message names the table, the column or the limit, and nothing of rows that the writer may not see.

use rowtide_protocol::{OpKind, RejectCode};

use super::columns::{coverage, immutable, written};
use super::op::Write;
use super::rejection::Rejection;
use serde_json::{Map, Value};

use crate::ids::TableId;
use crate::plan::Plan;
use crate::write_rules::RowLimit;

/// What the statement of a write answered: one row of `(boolean, boolean[], boolean[])`, or none.
/// An update or a delete treats a row that the writer may not see as if it did not exist. So neither the
/// answer nor the time that it takes reveals anything about that row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteVerdict {
    /// The write was done. The key, of an insert that left it, or a part of it, out.
    Written(Option<Map<String, Value>>),
    /// An insert met a row, or is not allowed. The caller repeats it as an update of the row with its key. If
    /// the update finds no row, the rejection stands. The rejection and the way to it are the same whether
    /// there is a row that the writer may not see, or none and the rules say no.
    Exists(Rejection),
    /// The write is rejected.
    Rejected(Rejection),
}

/// That an insert is not done: in the same words whether rules or policies say no, or a row is there that the writer may not see.
pub fn insert_refused(plan: &Plan, table: TableId) -> Rejection {
    let name = &plan.table(table).name;
    let or_policy = if plan.writes_as.is_some() { ", or the database does," } else { "," };
    let what =
        format!("the rule for inserts into table `{name}` says no{or_policy} or the key is taken");
    Rejection::new(RejectCode::Forbidden, what)
}

impl WriteVerdict {
    /// What it means whether the role that does a write has written a row; `key` as in [`WriteVerdict::of`].
    pub fn of_role(
        plan: &Plan,
        write: &Write,
        written: bool,
        key: Option<&[String]>,
    ) -> WriteVerdict {
        if written {
            return WriteVerdict::Written(key.map(|texts| plan.key_of(write.table, texts)));
        }
        if write.kind == OpKind::Insert {
            return WriteVerdict::Rejected(insert_refused(plan, write.table));
        }
        let what = format!(
            "the database lets nobody in your place write this row of table `{}`",
            plan.table(write.table).name
        );
        WriteVerdict::Rejected(Rejection::new(RejectCode::Forbidden, what))
    }

    /// What an answer means; `None` if there was no row. `key` is what Postgres prints of the columns of a key that was made.
    pub fn of(
        plan: &Plan,
        write: &Write,
        answer: Option<(bool, Vec<bool>, Vec<bool>)>,
        key: Option<&[String]>,
    ) -> WriteVerdict {
        let table = plan.table(write.table);
        let name = &table.name;
        let reject = |code, message: String| WriteVerdict::Rejected(Rejection::new(code, message));
        let not_found =
            || reject(RejectCode::NotFound, format!("there is no such row in table `{name}`"));
        let Some((first, rules, more)) = answer else { return not_found() };
        let columns: Vec<usize> = write.values.iter().map(|(column, _)| *column).collect();
        match write.kind {
            OpKind::Insert => {
                let (allowed, written) =
                    (rules.first() == Some(&true), rules.get(1) == Some(&true));
                let limits = table.write.insert.as_ref().map_or(&[][..], |insert| &insert.limits);
                let reached =
                    more.iter().position(|reached| *reached).and_then(|at| limits.get(at));
                let too_many = |limit: &RowLimit| {
                    let message = format!(
                        "there are {} such rows in table `{name}` already, and no more are allowed",
                        limit.max
                    );
                    Rejection::new(RejectCode::Application(limit.code.clone()), message)
                };
                match (written, first, allowed, reached) {
                    (true, ..) => {
                        WriteVerdict::Written(key.map(|texts| plan.key_of(write.table, texts)))
                    }
                    (_, false, true, Some(limit)) => WriteVerdict::Rejected(too_many(limit)),
                    // Beyond a limit nothing is told of the row, either.
                    (_, true, true, Some(limit)) => WriteVerdict::Exists(too_many(limit)),
                    // There is no row that it could have met.
                    _ if write.makes_key(plan) => {
                        WriteVerdict::Rejected(insert_refused(plan, write.table))
                    }
                    // The rule says no, or the row was there, or came to be while the statement ran.
                    _ => WriteVerdict::Exists(insert_refused(plan, write.table)),
                }
            }
            OpKind::Update if !first => not_found(),
            OpKind::Update => {
                let changed = immutable(table, &columns).zip(&more).find(|(_, same)| !**same);
                if let Some((column, _)) = changed {
                    let column = &table.catalog.columns[column].name;
                    let what = format!(
                        "column `{column}` of table `{name}` is written by an insert alone"
                    );
                    return reject(RejectCode::Forbidden, what);
                }
                let covering = coverage(table, &columns);
                let uncovered = written(table, &columns).zip(covering).find(|(_, covering)| {
                    !covering.iter().any(|rule| rules.get(*rule) == Some(&true))
                });
                match uncovered {
                    None if rules.contains(&true) => WriteVerdict::Written(None),
                    None => {
                        let what = format!("the rules for updates of table `{name}` say no");
                        reject(RejectCode::Forbidden, what)
                    }
                    Some((column, _)) => {
                        let column = &table.catalog.columns[column].name;
                        let what = format!(
                            "no rule allows this update of column `{column}` of table `{name}`"
                        );
                        reject(RejectCode::Forbidden, what)
                    }
                }
            }
            OpKind::Delete if !first => not_found(),
            OpKind::Delete if rules.first() == Some(&true) => WriteVerdict::Written(None),
            OpKind::Delete => {
                let what = format!("the rule for deletes from table `{name}` says no");
                reject(RejectCode::Forbidden, what)
            }
        }
    }
}
