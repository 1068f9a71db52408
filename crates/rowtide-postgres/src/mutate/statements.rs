//! The statements of one connection that are prepared in Postgres. Each costs the server process memory, and a client
//! can ask for as many as a table has subsets of columns. So their number is bounded, the one that was not
//! used for the longest goes first, and of writes that are asked for once only a part is prepared at all. What is not
//! prepared is parsed each time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use rowtide_plan::plan::TableId;
use rowtide_plan::write::Param;
use rowtide_protocol::OpKind;

/// The most prepared statements of a connection.
const MAX_PREPARED: usize = 100;
/// With so many, a write is prepared only when it comes again.
const ROOM_FOR_ANY: usize = MAX_PREPARED / 2;
/// How many writes are remembered that came once.
const REMEMBERED: usize = 200;

/// What a statement is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum StatementKey {
    Own(&'static str),
    Lock(TableId, bool),
    LimitLock(TableId),
    Write(TableId, OpKind, Vec<usize>),
    /// What the role that writes does.
    AsRole(TableId, OpKind, Vec<usize>),
    /// What a named mutation does, by its index; as the role that writes, if there is one.
    Call(usize),
}

/// What the parameters of a statement are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatementOf {
    /// Rowtide itself: no client has asked for it.
    Server,
    /// A table.
    Table(TableId),
    /// A table, of an insert that the role does that writes.
    InsertByRole(TableId),
    /// A named mutation.
    Call(usize),
}

impl StatementKey {
    pub(super) fn of(&self) -> StatementOf {
        match self {
            StatementKey::Own(_) => StatementOf::Server,
            StatementKey::AsRole(table, OpKind::Insert, _) => StatementOf::InsertByRole(*table),
            StatementKey::Lock(table, _)
            | StatementKey::LimitLock(table)
            | StatementKey::Write(table, ..)
            | StatementKey::AsRole(table, ..) => StatementOf::Table(*table),
            StatementKey::Call(call) => StatementOf::Call(*call),
        }
    }

    /// Whether the role that writes does it, if there is one.
    pub(super) fn is_of_role(&self) -> bool {
        matches!(self, StatementKey::AsRole(..) | StatementKey::Call(_))
    }
}

/// A statement, prepared if that is worth it, with its parameters.
#[derive(Clone)]
pub(super) struct ReadyStatement {
    pub(super) statement: Option<tokio_postgres::Statement>,
    pub(super) sql: Arc<str>,
    pub(super) params: Arc<[Param]>,
    pub(super) of: StatementOf,
    /// Whether the role that writes does it, and not the server's own.
    pub(super) as_role: bool,
}

/// The statements by what they are for; `S` is [`ReadyStatement`] but in tests. One that is dropped here, and is not
/// about to be sent, is closed in Postgres.
pub(super) struct Statements<S> {
    ready: HashMap<StatementKey, (u64, S)>,
    /// Writes that came once, the oldest first.
    once: VecDeque<StatementKey>,
    clock: u64,
}

impl<S> Default for Statements<S> {
    fn default() -> Self {
        Statements { ready: HashMap::new(), once: VecDeque::new(), clock: 0 }
    }
}

impl<S: Clone> Statements<S> {
    /// One that is there.
    pub(super) fn get(&mut self, key: &StatementKey) -> Option<S> {
        self.clock += 1;
        let (used, ready) = self.ready.get_mut(key)?;
        *used = self.clock;
        Some(ready.clone())
    }

    /// Whether to prepare one that is not there.
    pub(super) fn is_worth_it(&mut self, key: &StatementKey) -> bool {
        let of_columns = matches!(key, StatementKey::Write(..) | StatementKey::AsRole(..));
        if self.ready.len() < ROOM_FOR_ANY || !of_columns {
            return true;
        }
        if let Some(at) = self.once.iter().position(|other| other == key) {
            self.once.remove(at);
            return true;
        }
        if self.once.len() >= REMEMBERED {
            self.once.pop_front();
        }
        self.once.push_back(key.clone());
        false
    }

    /// Keeps one.
    pub(super) fn keep(&mut self, key: StatementKey, ready: S) {
        if self.ready.len() >= MAX_PREPARED {
            let oldest = self.ready.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.ready.remove(&oldest);
            }
        }
        self.clock += 1;
        self.ready.insert(key, (self.clock, ready));
    }

    /// Drops all.
    pub(super) fn clear(&mut self) {
        self.ready.clear();
        self.once.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_of_columns_do_not_drive_out_what_is_used() {
        let mut statements: Statements<usize> = Statements::default();
        let write = |n: usize| StatementKey::Write(TableId(0), OpKind::Update, vec![n]);
        let mut prepared = 0;
        let mut ask = |statements: &mut Statements<usize>, key: StatementKey| {
            if statements.get(&key).is_none() && statements.is_worth_it(&key) {
                prepared += 1;
                statements.keep(key, 0);
            }
        };
        for n in 0..255 {
            ask(&mut statements, StatementKey::Own("advance"));
            ask(&mut statements, write(n));
            ask(&mut statements, write(1_000));
        }
        // What came once is not prepared beyond a part.
        assert_eq!(statements.ready.len(), ROOM_FOR_ANY);
        for n in (0..255).chain(0..255) {
            ask(&mut statements, StatementKey::Own("advance"));
            ask(&mut statements, write(1_000));
            ask(&mut statements, write(n));
            ask(&mut statements, write(n));
            assert!(statements.ready.len() <= MAX_PREPARED && statements.once.len() <= REMEMBERED);
        }
        assert!(statements.get(&StatementKey::Own("advance")).is_some());
        assert!(statements.get(&write(1_000)).is_some());
        statements.clear();
        assert!(statements.get(&write(1_000)).is_none());
    }
}
