//! One connection that applies mutations, with its prepared statements.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::maybe_done;
use rowtide_plan::catalog::TableName;
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::write::{self, Call, KnownKeys, Operation, Rejection, Write, WriteVerdict};
use rowtide_protocol::{OpKind, RejectCode, Rejected};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::answers::{
    is_call, made, of_op, tolerates, verdict, verdict_of_role, with_keys, with_number, with_op,
};
use super::client_row::{ClientRowSql, rejections_json};
use super::failure::{BrokenTrigger, Failure};
use super::statements::{ReadyStatement, Statements};
use super::{Author, Number, Outcome, Ticket};
use crate::catalog::read_catalog;
use crate::connect::{ConnectError, ConnectOptions, Names, connect_shared, reason};
use crate::said_once::SaidOnce;

/// The most writes that are sent together: what waits to be answered is held in memory. Older clients may send more.
const MAX_AT_ONCE: usize = rowtide_protocol::MAX_OPS;

/// The begin of a mutation's transaction, with settings that last as long as it does. The transaction does
/// not wait for a lock longer than a client would, and Postgres soon ends it if the server has died. The
/// isolation is READ COMMITTED, whatever the database's default is: a statement must see what was committed
/// while the one before it waited for a lock, so that limits count it.
pub const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '5s'; \
    SET LOCAL statement_timeout = '20s'; SET LOCAL idle_in_transaction_session_timeout = '10s'; \
    SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO,YMD'";

pub(super) struct MutationConnection {
    pub(super) client: Client,
    pub(super) row: ClientRowSql,
    /// [`BEGIN`], and what else must be set here.
    pub(super) begin: String,
    /// A transaction is open, or about to be.
    pub(super) in_transaction: bool,
    pub(super) prepare: bool,
    pub(super) answer_within: Duration,
    /// The plan that the prepared statements are for.
    pub(super) plan: Option<Arc<Plan>>,
    pub(super) ready: Statements<ReadyStatement>,
    pub(super) round_trips: u64,
    /// What the role that writes may not do, as far as it was said.
    pub(super) said: Arc<Mutex<SaidOnce>>,
}

impl MutationConnection {
    pub(super) async fn open(
        options: &ConnectOptions,
        names: &Names,
        prepare: bool,
        answer_within: Duration,
        said: Arc<Mutex<SaidOnce>>,
    ) -> Result<MutationConnection, ConnectError> {
        let (client, amiss) = connect_shared(options, "mutate").await?;
        let row = ClientRowSql::new(names);
        let ready = Statements::default();
        let begin = format!("{BEGIN}{}", amiss.local());
        Ok(MutationConnection {
            client,
            row,
            begin,
            in_transaction: false,
            prepare,
            answer_within,
            plan: None,
            ready,
            round_trips: 0,
            said,
        })
    }

    pub(super) fn is_open(&self) -> bool {
        !self.client.is_closed()
    }

    pub(super) fn take_round_trips(&mut self) -> u64 {
        std::mem::take(&mut self.round_trips)
    }

    /// Applies all operations, or acknowledges the number with the rejection of the first one that fails.
    pub(super) async fn apply(
        &mut self,
        plan: &Arc<Plan>,
        ticket: &Ticket,
        author: &Author,
        operations: &[Operation],
    ) -> Result<Outcome, Failure> {
        self.serve(plan);
        let attempt = match self.at_once(plan, ticket, author, operations).await {
            Ok(Attempt::LookAgain) => {
                self.roll_back().await?;
                self.step_by_step(plan, ticket, author, operations).await
            }
            other => other,
        };
        match attempt {
            Ok(Attempt::Written(known)) => {
                let has_call = operations.iter().any(is_call);
                match self.commit_with_keys(plan, ticket, &known, has_call).await {
                    Ok(()) => Ok(Outcome::Acked { rejected: None }),
                    // A deferred constraint, which Postgres checks at the commit.
                    Err(Failure::Rejected(rejection)) => self.reject(ticket, &[rejection]).await,
                    Err(Failure::Broken(broken)) => {
                        self.reject_broken(plan, ticket, operations, &broken).await
                    }
                    Err(other) => Err(other),
                }
            }
            Ok(Attempt::OutOfOrder) => {
                self.roll_back().await?;
                self.out_of_order(ticket).await
            }
            Ok(Attempt::Rejected(rejection)) | Err(Failure::Rejected(rejection)) => {
                self.roll_back().await?;
                self.reject(ticket, &[rejection]).await
            }
            Err(Failure::Broken(broken)) => {
                self.roll_back().await?;
                self.reject_broken(plan, ticket, operations, &broken).await
            }
            Ok(Attempt::LookAgain) => Err(Failure::Conflict("a row came and went".to_owned())),
            Err(other) => Err(other),
        }
    }

    /// Acknowledges the number with a rejection that follows from what the plan says of a table, if the table still is
    /// as the plan says.
    pub(super) async fn reject_if_it_fits(
        &mut self,
        plan: &Arc<Plan>,
        ticket: &Ticket,
        table: TableId,
        rejection: &Rejection,
    ) -> Result<Outcome, Failure> {
        self.serve(plan);
        self.fits(plan, &[table]).await?;
        self.reject(ticket, std::slice::from_ref(rejection)).await
    }

    /// Begins a mutation's transaction, looks whether Rowtide's own tables are there as they must be, and does nothing in it.
    pub(super) async fn look(&mut self) -> Result<(), Failure> {
        let sql = format!("{}; {}", self.begin, self.row.look_at_all);
        self.in_transaction = true;
        self.round_trips += 1;
        let begun = self.in_time(self.client.batch_execute(&sql)).await?;
        begun.map_err(|error| Failure::of_own(&error))?;
        self.roll_back().await
    }

    fn serve(&mut self, plan: &Arc<Plan>) {
        if !self.plan.as_ref().is_some_and(|known| Arc::ptr_eq(known, plan)) {
            self.ready.clear();
            self.plan = Some(Arc::clone(plan));
        }
    }

    /// Acknowledges the number with the rejection of what is broken in the database, if that is not because the tables have
    /// changed.
    async fn reject_broken(
        &mut self,
        plan: &Arc<Plan>,
        ticket: &Ticket,
        operations: &[Operation],
        broken: &BrokenTrigger,
    ) -> Result<Outcome, Failure> {
        let table = |operation: &Operation| match operation {
            Operation::Write(write) => Some(write.table),
            Operation::Call(_) => None,
        };
        let mut tables: Vec<TableId> = operations.iter().filter_map(table).collect();
        tables.sort_unstable();
        tables.dedup();
        self.fits(plan, &tables).await?;
        let source = match broken.function() {
            Some(function) => self.source(function).await?,
            None => None,
        };
        self.reject(ticket, &[broken.rejection(source.as_deref())]).await
    }

    /// The source of a function, if Postgres finds it by its name.
    async fn source(&mut self, function: &str) -> Result<Option<String>, Failure> {
        let sql =
            "SELECT prosrc FROM pg_catalog.pg_proc WHERE oid = pg_catalog.to_regprocedure($1)";
        self.round_trips += 1;
        let params: [(&(dyn ToSql + Sync), Type); 1] = [(&function, Type::TEXT)];
        let rows = self.in_time(self.client.query_typed(sql, &params)).await?;
        // It is told with less then.
        let rows = rows.unwrap_or_default();
        Ok(rows.first().and_then(|row| row.try_get(0).ok()))
    }

    /// Looks whether tables are in the database as they are in the plan. Where they are not, the plan that serves is about
    /// to be replaced, and what it says decides nothing.
    async fn fits(&mut self, plan: &Plan, tables: &[TableId]) -> Result<(), Failure> {
        let name = |table: &TableId| {
            let catalog = &plan.table(*table).catalog;
            TableName { schema: catalog.schema.clone(), name: catalog.name.clone() }
        };
        let names: Vec<TableName> = tables.iter().map(name).collect();
        self.round_trips += 1;
        let now = self.in_time(read_catalog(&self.client, &names)).await?;
        // Whatever is in the way of looking, the mutation has not caused it.
        let now = now.map_err(|error| Failure::Away(reason(&error)))?;
        let is_other = |table: &&TableId| {
            let known = &plan.table(**table).catalog;
            !now.tables.iter().any(|found| found.is_written_as(known))
        };
        match tables.iter().find(is_other) {
            Some(table) => Err(Failure::Away(format!(
                "table `{}` was changed, and the server is about to notice",
                plan.table(*table).name
            ))),
            None => Ok(()),
        }
    }

    /// Acknowledges the number with the first rejection, and those behind it with the others.
    pub(super) async fn reject(
        &mut self,
        ticket: &Ticket,
        rejections: &[Rejection],
    ) -> Result<Outcome, Failure> {
        let mut values = ticket.parameters();
        let first = if let Number::Given(number) = ticket.number { number } else { 0 };
        let numbered: Vec<Rejected> =
            (first..).zip(rejections).map(|(id, rejection)| with_number(id, rejection)).collect();
        values.push(Some(rejections_json(&numbered)));
        let (key, sql) = match &ticket.number {
            Number::Given(_) => {
                let last = numbered.last().map_or(first, |rejection| rejection.id);
                values.push(Some(last.to_string()));
                ("reject given", self.row.reject_given.clone())
            }
            Number::Next { session, .. } => {
                values.push(Some(session.to_string()));
                ("advance next", self.row.advance_next.clone())
            }
        };
        let bound = self.own(key, &sql, values).await?;
        self.begin().await?;
        if self.query(bound).await?.is_empty() {
            self.roll_back().await?;
            return self.out_of_order(ticket).await;
        }
        self.commit(false).await?;
        let rejected = numbered.first().map(|rejection| rejection.code.clone());
        Ok(Outcome::Acked { rejected })
    }

    /// Does everything up to the commit, in one round trip for each [`MAX_AT_ONCE`] writes, and one more where operations refer
    /// to keys: for those that earlier mutations made, and before each that refers to one of this round trip. Stops at an
    /// insert that meets a row, and at a row that is not there: it may have been replaced while it was waited for.
    async fn at_once(
        &mut self,
        plan: &Arc<Plan>,
        ticket: &Ticket,
        author: &Author,
        operations: &[Operation],
    ) -> Result<Attempt, Failure> {
        let mut known = KnownKeys::default();
        let mut begins = Some(ticket);
        let earlier = ticket.earlier(operations);
        // Of no operations, too, it is asked whether the number is the next: so a mutation is tried.
        if !earlier.is_empty() || operations.is_empty() {
            let begun = self.together(plan, begins.take(), author, Part::NONE, ticket, &mut known);
            if let Some(attempt) = begun.await? {
                return Ok(attempt);
            }
            self.look_up(ticket, &earlier, &mut known).await?;
        }
        let (number, mut done) = (ticket.number.given(), 0);
        while done < operations.len() {
            let rest = &operations[done..];
            let refers = |operation: &Operation| {
                let mut references = operation.references().iter();
                references.any(|(_, to)| to.id == number && to.op as usize >= done)
            };
            // One that refers to what does not come before it was rejected when it was read.
            let until = rest.iter().position(refers).unwrap_or(rest.len()).clamp(1, MAX_AT_ONCE);
            let operations = match with_keys(plan, &rest[..until], &known, done) {
                Ok(operations) => operations,
                Err(rejection) => return Ok(Attempt::Rejected(rejection)),
            };
            let part = Part { operations: &operations, offset: done };
            done += until;
            let did = self.together(plan, begins.take(), author, part, ticket, &mut known);
            if let Some(attempt) = did.await? {
                return Ok(attempt);
            }
        }
        Ok(Attempt::Written(known))
    }

    /// Does writes in one round trip, and notes the keys that they make. Begins with the begin and the client's row if `begins`
    /// has the ticket. `None`: all was done.
    async fn together(
        &mut self,
        plan: &Arc<Plan>,
        begins: Option<&Ticket>,
        author: &Author,
        Part { operations, offset }: Part<'_>,
        ticket: &Ticket,
        known: &mut KnownKeys,
    ) -> Result<Option<Attempt>, Failure> {
        let mut statements = Vec::new();
        if let Some(ticket) = begins {
            statements.push(self.who_writes(author).await?);
            statements.push(self.advance(ticket).await?);
        }
        // For each operation the index of the statement that returns its verdict, and of what the role does.
        let mut verdicts = Vec::with_capacity(operations.len());
        for (index, operation) in operations.iter().enumerate() {
            if plan.writes_as.is_some() && (index > 0 || begins.is_none()) {
                statements.push(self.as_server().await?);
            }
            match operation {
                Operation::Write(write) => {
                    statements.extend(self.before(plan, author, write).await?);
                    let verdict = statements.len();
                    statements.push(self.write(plan, author, write).await?);
                    let by_role = self.by_role(plan, author, write).await?;
                    verdicts.push((verdict, by_role.as_ref().map(|_| statements.len() + 1)));
                    statements.extend(by_role.into_iter().flatten());
                }
                Operation::Call(call) => {
                    statements.extend(self.call(plan, author, call).await?);
                    verdicts.push((statements.len() - 1, None));
                }
            }
        }
        // What a call runs is the definition's, and does not ask whether there is a transaction.
        let begins_first = begins.is_some() && operations.iter().any(is_call);
        if begins_first {
            self.begin().await?;
        }
        self.round_trips += 1;
        if begins.is_some() {
            self.in_transaction = true;
        }
        let begin = async {
            match begins {
                Some(_) if !begins_first => self.client.batch_execute(&self.begin).await,
                _ => Ok(()),
            }
        };
        let mut begin = Box::pin(maybe_done(begin));
        let mut sent: Vec<_> =
            statements.iter().map(|bound| Box::pin(maybe_done(self.send(bound)))).collect();
        // The first poll of each future sends its statement, and Postgres runs them in that order.
        poll_fn(|cx| {
            let _pending = begin.as_mut().poll(cx);
            for future in &mut sent {
                let _pending = future.as_mut().poll(cx);
            }
            Poll::Ready(())
        })
        .await;
        self.in_time(begin.as_mut()).await?;
        let begun = begin.as_mut().take_output().unwrap_or(Ok(()));
        begun.map_err(|error| Failure::from(error).of_ours())?;
        for future in &mut sent {
            self.in_time(future.as_mut()).await?;
        }
        let mut answers: Vec<_> =
            sent.iter_mut().map(|future| future.as_mut().take_output()).collect();
        drop(sent);
        let mut answer = |index: usize| -> Result<Vec<Row>, Failure> {
            match answers.get_mut(index).and_then(Option::take) {
                Some(answer) => answer,
                None => Err(Failure::Away("Postgres did not answer".to_owned())),
            }
        };
        let mut next = 0;
        if begins.is_some() {
            answer(0)?;
            if answer(1)?.is_empty() {
                return Ok(Some(Attempt::OutOfOrder));
            }
            next = 2;
        }
        for (index, (operation, (at, by_role))) in (offset..).zip(operations.iter().zip(verdicts)) {
            // The first error causes those behind it.
            for locked in next..at {
                answer(locked).map_err(|failure| of_op(index, failure))?;
            }
            let rows = answer(at).map_err(|failure| of_op(index, failure))?;
            next = at + 1;
            let Operation::Write(write) = operation else { continue };
            let mut verdict = verdict(plan, write, &rows)?;
            if let (WriteVerdict::Written(_), Some(by_role)) = (&verdict, by_role) {
                answer(next).map_err(|failure| of_op(index, failure))?;
                let rows = match answer(by_role) {
                    // A row with its key may have come to be since it was judged: the next look meets it.
                    Err(Failure::Rejected(rejection))
                        if write.kind == OpKind::Insert
                            && rejection.code == RejectCode::Constraint =>
                    {
                        return Ok(Some(Attempt::LookAgain));
                    }
                    answered => answered.map_err(|failure| of_op(index, failure))?,
                };
                verdict = verdict_of_role(plan, write, &rows)?;
                next = by_role + 1;
            }
            match verdict {
                WriteVerdict::Written(key) => known.made.extend(made(ticket, index, key)),
                WriteVerdict::Exists(_) => return Ok(Some(Attempt::LookAgain)),
                WriteVerdict::Rejected(rejection) if rejection.code == RejectCode::NotFound => {
                    return Ok(Some(Attempt::LookAgain));
                }
                WriteVerdict::Rejected(rejection) => {
                    return Ok(Some(Attempt::Rejected(with_op(index, rejection))));
                }
            }
        }
        Ok(None)
    }

    /// Does one write after the other. An insert that meets a row becomes an update of it; what tolerates that its row is
    /// not there is passed over.
    async fn step_by_step(
        &mut self,
        plan: &Arc<Plan>,
        ticket: &Ticket,
        author: &Author,
        operations: &[Operation],
    ) -> Result<Attempt, Failure> {
        self.begin().await?;
        let who = self.who_writes(author).await?;
        self.query(who).await?;
        let advance = self.advance(ticket).await?;
        if self.query(advance).await?.is_empty() {
            return Ok(Attempt::OutOfOrder);
        }
        let mut known = KnownKeys::default();
        self.look_up(ticket, &ticket.earlier(operations), &mut known).await?;
        for (index, operation) in operations.iter().enumerate() {
            let operation = match plan.with_keys(operation, &known) {
                Ok(operation) => operation,
                Err(rejection) => return Ok(Attempt::Rejected(with_op(index, rejection))),
            };
            let write = match &*operation {
                Operation::Write(write) => write,
                Operation::Call(call) => {
                    let called = self.call_now(plan, author, call).await;
                    called.map_err(|failure| of_op(index, failure))?;
                    continue;
                }
            };
            let mut verdict = self.step(plan, author, write).await;
            if let Ok(WriteVerdict::Exists(_)) = verdict {
                verdict = self.over_a_row(plan, author, write).await;
            }
            match verdict.map_err(|failure| of_op(index, failure))? {
                WriteVerdict::Written(key) => known.made.extend(made(ticket, index, key)),
                // There is nothing to do, and what comes behind is done all the same.
                WriteVerdict::Rejected(rejection) if tolerates(write, &rejection) => {
                    self.go_on().await?
                }
                WriteVerdict::Exists(rejection) | WriteVerdict::Rejected(rejection) => {
                    return Ok(Attempt::Rejected(with_op(index, rejection)));
                }
            }
        }
        // What is deferred is the role's, also behind an operation that did nothing.
        if let Some(role) = &plan.writes_as {
            let becomes = self.becomes(role).await?;
            self.query(becomes).await?;
        }
        Ok(Attempt::Written(known))
    }

    /// Does an insert as an update of the row that it met. If the update finds no row that the writer may see,
    /// tries the insert once more, because the row may have gone meanwhile.
    async fn over_a_row(
        &mut self,
        plan: &Arc<Plan>,
        author: &Author,
        write: &Write,
    ) -> Result<WriteVerdict, Failure> {
        let mut update = Write { kind: OpKind::Update, ..write.clone() };
        update.values.retain(|(column, _)| !write.tolerance.left_out.contains(column));
        self.go_on().await?;
        match self.step(plan, author, &update).await? {
            WriteVerdict::Rejected(rejection) if rejection.code == RejectCode::NotFound => {
                self.go_on().await?;
                self.step(plan, author, write).await
            }
            other => Ok(other),
        }
    }

    /// Lets the next write of the transaction be done though the one before was not.
    async fn go_on(&mut self) -> Result<(), Failure> {
        let bound = self.own("go on", &format!("SELECT {}", write::GO_ON), Vec::new()).await?;
        self.query(bound).await.map(drop)
    }

    /// Does one write. Whoever had the row may have replaced it while it was waited for: where there is none, it is looked for
    /// once more.
    async fn step(
        &mut self,
        plan: &Arc<Plan>,
        author: &Author,
        write: &Write,
    ) -> Result<WriteVerdict, Failure> {
        match self.step_once(plan, author, write).await? {
            WriteVerdict::Rejected(rejection) if rejection.code == RejectCode::NotFound => {
                self.go_on().await?;
                self.step_once(plan, author, write).await
            }
            other => Ok(other),
        }
    }

    async fn step_once(
        &mut self,
        plan: &Arc<Plan>,
        author: &Author,
        write: &Write,
    ) -> Result<WriteVerdict, Failure> {
        if plan.writes_as.is_some() {
            let back = self.as_server().await?;
            self.query(back).await?;
        }
        if let Some(before) = self.before(plan, author, write).await? {
            self.query(before).await?;
        }
        let statement = self.write(plan, author, write).await?;
        let by_role = self.by_role(plan, author, write).await?;
        let rows = self.query(statement).await?;
        match (verdict(plan, write, &rows)?, by_role) {
            (WriteVerdict::Written(_), Some([becomes, writes])) => {
                self.query(becomes).await?;
                let rows = self.query(writes).await?;
                verdict_of_role(plan, write, &rows)
            }
            (verdict, _) => Ok(verdict),
        }
    }

    /// Runs a named mutation, after what came before in the transaction.
    async fn call_now(
        &mut self,
        plan: &Arc<Plan>,
        author: &Author,
        call: &Call,
    ) -> Result<(), Failure> {
        if plan.writes_as.is_some() {
            let back = self.as_server().await?;
            self.query(back).await?;
        }
        for statement in self.call(plan, author, call).await? {
            self.query(statement).await?;
        }
        Ok(())
    }

    /// Handles a number that does not follow the last one: a repeat, or a gap.
    async fn out_of_order(&mut self, ticket: &Ticket) -> Result<Outcome, Failure> {
        let client = Some(ticket.client.to_string());
        match &ticket.number {
            Number::Given(number) => {
                let sql = self.row.look.clone();
                let look = self.own("look", &sql, vec![client.clone()]).await?;
                let sql = self.row.touch.clone();
                let values = vec![client, Some(number.to_string())];
                let touch = self.own("touch", &sql, values).await?;
                self.begin().await?;
                let rows = self.query(look).await?;
                // A restored database may have no row for a client that is connected.
                let last = rows.first().map_or(0, |row| row.get::<_, i64>(1));
                let last = u64::try_from(last).unwrap_or(0);
                let theirs = |row: &Row| row.get::<_, &str>(0) == &*ticket.user_id;
                if !rows.first().is_none_or(theirs) {
                    self.roll_back().await?;
                    return Ok(Outcome::NotTheirs);
                }
                if last < *number {
                    self.roll_back().await?;
                    return Ok(Outcome::Gap { last });
                }
                self.query(touch).await?;
                self.commit(false).await?;
                Ok(Outcome::Repeated)
            }
            Number::Next { name, .. } => {
                let sql = self.row.look_name.clone();
                let values = vec![client.clone(), Some(name.to_string())];
                let look = self.own("look name", &sql, values).await?;
                let rows = self.query(look).await?;
                let Some(row) =
                    rows.first().filter(|row| row.get::<_, &str>(0) == &*ticket.user_id)
                else {
                    return Ok(Outcome::NotTheirs);
                };
                if !row.get::<_, bool>(2) {
                    return Err(Failure::Conflict("the client's row was in use".to_owned()));
                }
                let refused = row.get::<_, Option<String>>(1);
                let sql = self.row.touch_name.clone();
                let values = vec![client, Some(name.to_string()), refused];
                let touch = self.own("touch name", &sql, values).await?;
                self.begin().await?;
                self.query(touch).await?;
                self.commit(false).await?;
                Ok(Outcome::Repeated)
            }
        }
    }
}

/// Operations of a mutation that are done together, the first of which is its operation at `offset`.
#[derive(Clone, Copy)]
struct Part<'a> {
    operations: &'a [Operation],
    offset: usize,
}

impl Part<'_> {
    const NONE: Part<'static> = Part { operations: &[], offset: 0 };
}

enum Attempt {
    /// Everything but the commit is done, with these keys.
    Written(KnownKeys),
    /// The client's row is not at the number before.
    OutOfOrder,
    /// An insert met a row, or a row is not there: only a later statement can tell.
    LookAgain,
    Rejected(Rejection),
}
