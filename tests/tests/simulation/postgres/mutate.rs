//! Mutations, as Postgres takes them: the client's row moves from the number before to this one, and with it
//! the operations are applied, or refused.

use std::sync::Arc;

use rowtide_feed::Acknowledgement;
use rowtide_plan::plan::Plan;
use rowtide_postgres::mutate::{self, MutateError, Number, Outcome};
use rowtide_postgres::named_outcomes::{NamedOutcome, Tab, Told};
use rowtide_protocol::{Lsn, Rejected};

use super::database::{ClientRow, Database, Named, Work};
use super::{Claim, Postgres};
use crate::rules::{Judged, Op, judge};

/// How far a try at a mutation has come.
#[derive(Debug)]
pub enum Answer {
    /// Others are writing the same rows.
    MustWait,
    /// It is committed there; this is the answer once that can be seen.
    Committed(Lsn, Outcome),
    /// Nothing was done.
    Nothing(Result<Outcome, MutateError>),
}

/// A mutation as the server gives it to Postgres.
#[derive(Clone, Debug)]
pub struct Mutation {
    pub number: Number,
    pub tag: u64,
    /// Its operations as they were sent.
    pub ops: Vec<Op>,
    pub plan: Arc<Plan>,
    pub work: mutate::Work,
}

fn changed() -> MutateError {
    MutateError::Away("a table was changed, and the server is about to notice".to_owned())
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
    ) -> Answer {
        let answer = self.mutate_as(xid, client, user, mutation, now_ms);
        if matches!(answer, Answer::Nothing(_)) {
            self.abort(xid);
        }
        answer
    }

    /// What becomes of the operations in this state of the database.
    fn judge(&self, database: &Database, user: &str, mutation: &Mutation) -> Judged {
        let catalog = &self.visible.catalog;
        let rejections = match &mutation.work {
            mutate::Work::Apply(_) => {
                return judge(database, user, &mutation.ops, &mutation.plan);
            }
            mutate::Work::RejectIfItFits { table, rejection } => {
                let known = &mutation.plan.table(*table).catalog;
                if !catalog.read().tables.iter().any(|table| table.is_written_as(known)) {
                    return Judged::Changed;
                }
                std::slice::from_ref(rejection)
            }
            mutate::Work::Reject(rejections) => rejections,
        };
        let code = rejections[0].code.as_str();
        let takes = mutation.ops.iter().all(|op| op.is_taken(catalog));
        assert!(code != "bad_request" || !takes, "a mutation is rejected that the tables fit");
        Judged::Refused(code.to_owned())
    }

    fn mutate_as(
        &mut self,
        xid: u64,
        client: &str,
        user: &str,
        mutation: &Mutation,
        now_ms: u64,
    ) -> Answer {
        let state = Arc::clone(self.now());
        let new = Arc::new(ClientRow { user: user.to_owned(), ..ClientRow::default() });
        let is_older = matches!(mutation.number, Number::Next { .. });
        let Some(row) = state.database.clients.get(client).or(is_older.then_some(&new)) else {
            // The database has gone back to before the client was known.
            return Answer::Nothing(Ok(Outcome::Gap { last: 0 }));
        };
        if row.user != user {
            return Answer::Nothing(Ok(Outcome::NotTheirs));
        }
        let (number, repeated) = match &mutation.number {
            Number::Given(number) => (*number, *number <= row.last),
            // The name is known, or the next number is given to it.
            Number::Next { name, .. } => match row.names.get(name) {
                Some(named) => (named.number, true),
                None => (row.last + 1, false),
            },
        };
        let mut work =
            Work { client: Some((client.to_owned(), Arc::clone(row))), ..Work::default() };
        if self.must_wait(&work) {
            return Answer::MustWait;
        }
        if number > row.last + 1 {
            return Answer::Nothing(Ok(Outcome::Gap { last: row.last }));
        }
        let mut row = ClientRow::clone(row);
        let name = match &mutation.number {
            Number::Given(_) => None,
            Number::Next { name, .. } => Some(Arc::clone(name)),
        };
        let mut outcome = Outcome::Repeated;
        if !repeated {
            row.last = number;
            if let Number::Next { name, session } = &mutation.number {
                let named = Named { number, session: Arc::clone(session), told: false };
                row.names.insert(Arc::clone(name), named);
            }
            outcome = Outcome::Acked { rejected: None };
            match self.judge(&state.database, user, mutation) {
                Judged::Writes(writes) => {
                    (work.writes, work.applied) = (writes, Some(mutation.tag));
                }
                Judged::Refused(code) => {
                    row.refused.insert(number, code.clone());
                    work.refused.push(mutation.tag);
                    outcome = Outcome::Acked { rejected: Some(code) };
                }
                Judged::Changed => return Answer::Nothing(Err(changed())),
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
            keys: Vec::new(),
        });
        work.client = Some((client.to_owned(), Arc::new(row)));
        if self.must_wait(&work) {
            return Answer::MustWait;
        }
        let lsn = self.commit(xid, work, now_ms);
        Answer::Committed(lsn, outcome)
    }
}

impl Postgres {
    /// What became of the mutations of a tab that it is not known to have heard of; `None` while another transaction has
    /// the row of its user, unless nobody waits for that. Where something is found, the row is written again.
    pub fn outcomes(&mut self, tab: &Tab, waits: bool, now_ms: u64) -> Option<Vec<NamedOutcome>> {
        let client = tab.client.to_string();
        let Claim::Row(_) = self.claim(&client, &tab.user, 0, now_ms) else { return None };
        let row = match waits {
            true => self.now().database.clients.get(&client),
            false => self.visible.clients.get(&client),
        };
        let row = Arc::clone(row?);
        let own = Some((client.clone(), Arc::clone(&row)));
        let mut work = Work { client: own, ..Work::default() };
        if self.must_wait(&work) {
            if waits {
                return None;
            }
            work.client = None;
        }
        let theirs = row.names.iter().filter(|(_, of)| of.session == tab.session.clone().into());
        let missed = theirs.filter(|(_, named)| !named.told);
        let outcome = |(name, named): (&Arc<str>, &Named)| NamedOutcome {
            name: name.as_ref().into(),
            number: named.number,
            rejected: row.refused.get(&named.number).cloned(),
        };
        let mut found: Vec<NamedOutcome> = missed.map(outcome).collect();
        found.sort_by_key(|outcome| outcome.number);
        if !found.is_empty() {
            let (client, last_mutation) = (client.as_str().into(), row.last);
            let (rejected, keys, name) = (Vec::new(), Vec::new(), None);
            work.acknowledgement =
                Some(Acknowledgement { client, last_mutation, rejected, keys, name });
            let xid = self.begin();
            let lsn = self.commit(xid, work, now_ms);
            self.show(lsn);
        }
        Some(found)
    }

    /// A tab has heard what became of a mutation. Whether that could be written: another transaction may have the row.
    pub fn mark_told(&mut self, told: &Told, now_ms: u64) -> bool {
        let client = told.client.to_string();
        let Some(row) = self.now().database.clients.get(&client) else { return true };
        let mut row = ClientRow::clone(row);
        let Some(named) = row.names.get_mut(&*told.name) else { return true };
        named.told = true;
        let work = Work { client: Some((client, Arc::new(row))), ..Work::default() };
        if self.must_wait(&work) {
            return false;
        }
        let xid = self.begin();
        let lsn = self.commit(xid, work, now_ms);
        self.show(lsn);
        true
    }
}

pub fn refusal(id: u64, code: &str) -> Rejected {
    Rejected { id, code: code.to_owned(), message: String::new() }
}
