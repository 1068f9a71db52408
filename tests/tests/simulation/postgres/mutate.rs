//! Mutations, as Postgres takes them: the client's row moves from the number before to this one, and with it
//! the operations are applied, or refused.

use std::sync::Arc;

use rowtide_feed::Acknowledgement;
use rowtide_postgres::mutate::Number;
use rowtide_protocol::{Lsn, Rejected};

use super::Postgres;
use super::database::{ClientRow, Work};
use crate::rules::{Judged, Op, judge};

/// What became of an attempt at a mutation.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Others are writing the same rows.
    MustWait,
    /// A table or a column that it names is not there.
    Changed,
    Settled(Lsn),
    Repeated(Lsn),
    Gap {
        last: u64,
    },
    NotTheirs,
}

/// A mutation as the server gives it to Postgres.
#[derive(Clone, Debug)]
pub struct Mutation {
    pub number: Number,
    pub tag: u64,
    pub asked: Result<Vec<Op>, &'static str>,
}

impl Postgres {
    /// One transaction, begun as `xid`.
    pub fn mutate(
        &mut self,
        xid: u64,
        client: &str,
        user: &str,
        mutation: &Mutation,
        now_ms: u64,
    ) -> Outcome {
        let state = Arc::clone(self.now());
        let Some(row) = state.database.clients.get(client) else {
            // The database has gone back to before the client was known.
            self.abort(xid);
            return Outcome::Gap { last: 0 };
        };
        if row.user != user {
            self.abort(xid);
            return Outcome::NotTheirs;
        }
        let (number, repeated) = match &mutation.number {
            Number::Given(number) => (*number, *number <= row.last),
            // The name is known, or the next number is given to it.
            Number::Next { name } => match row.names.get(name) {
                Some(number) => (*number, true),
                None => (row.last + 1, false),
            },
        };
        let mut work =
            Work { client: Some((client.to_owned(), Arc::clone(row))), ..Work::default() };
        if self.must_wait(&work) {
            return Outcome::MustWait;
        }
        if number > row.last + 1 {
            self.abort(xid);
            return Outcome::Gap { last: row.last };
        }
        let mut row = ClientRow::clone(row);
        let name = match &mutation.number {
            Number::Given(_) => None,
            Number::Next { name } => Some(Arc::clone(name)),
        };
        if !repeated {
            row.last = number;
            row.names.extend(name.iter().map(|name| (Arc::clone(name), number)));
            let judged = match &mutation.asked {
                Ok(ops) => judge(&state.database, user, ops),
                Err(code) => Judged::Refused(code),
            };
            match judged {
                Judged::Writes(writes) => {
                    (work.writes, work.applied) = (writes, Some(mutation.tag));
                }
                Judged::Refused(code) => {
                    row.refused.insert(number, code.to_owned());
                    work.refused.push(mutation.tag);
                }
                Judged::Changed => {
                    self.abort(xid);
                    return Outcome::Changed;
                }
            }
        }
        // A repeat tells again of every number that it acknowledges.
        let told = if name.is_some() { number..=number } else { number..=row.last.max(number) };
        let rejected = row.refused.range(told).map(|(number, code)| refusal(*number, code));
        work.acknowledgement = Some(Acknowledgement {
            client: client.into(),
            last_mutation: row.last,
            rejected: rejected.collect(),
            name: name.map(|name| name.as_ref().into()),
        });
        work.client = Some((client.to_owned(), Arc::new(row)));
        if self.must_wait(&work) {
            return Outcome::MustWait;
        }
        let lsn = self.commit(xid, work, now_ms);
        if repeated { Outcome::Repeated(lsn) } else { Outcome::Settled(lsn) }
    }
}

pub fn refusal(id: u64, code: &str) -> Rejected {
    Rejected { id, code: code.to_owned(), message: String::new() }
}
