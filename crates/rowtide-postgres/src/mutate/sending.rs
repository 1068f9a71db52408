//! How statements are prepared and sent over the connection of mutations, and what their failures are. What is sent in which
//! order is decided in [`connection`](super::connection).

use std::future::Future;
use std::sync::{Arc, PoisonError};

use rowtide_plan::write::Param;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::bound::{BoundStatement, Text};
use super::connection::{BEGIN, MutationConnection};
use super::failure::{Failure, Sent, is_no_right};
use super::statements::{ReadyStatement, StatementKey, StatementOf};
use crate::connect::message_without_values;

impl MutationConnection {
    pub(super) async fn own(
        &mut self,
        key: &'static str,
        sql: &str,
        values: Vec<Option<String>>,
    ) -> Result<BoundStatement, Failure> {
        let ready = self.ready(StatementKey::Own(key), || (sql.to_owned(), Vec::new())).await?;
        Ok(BoundStatement { ready, values: values.into_iter().map(Text).collect() })
    }

    pub(super) async fn ready(
        &mut self,
        key: StatementKey,
        make: impl FnOnce() -> (String, Vec<Param>),
    ) -> Result<ReadyStatement, Failure> {
        if let Some(ready) = self.ready.get(&key) {
            return Ok(ready);
        }
        let (sql, params) = make();
        let (of, as_role) = (key.of(), key.is_of_role());
        let (sql, params): (Arc<str>, Arc<[Param]>) = (sql.into(), params.into());
        let mut ready = ReadyStatement { statement: None, sql, params, of, as_role };
        let is_kept = self.ready.is_worth_it(&key);
        if is_kept && self.prepare {
            // It is planned under the settings of then, some of which Postgres does not take for another's.
            let is_set = self.in_transaction || self.begin == BEGIN;
            if !is_set {
                self.begin().await?;
            }
            let prepared = self.in_time(self.client.prepare(&ready.sql)).await?;
            if !is_set {
                self.roll_back().await?;
            }
            let prepared = prepared.map_err(|error| self.failure(&error, &ready))?;
            ready.statement = Some(prepared);
        }
        if is_kept {
            self.ready.keep(key, ready.clone());
        }
        Ok(ready)
    }

    pub(super) async fn send(&self, bound: &BoundStatement) -> Result<Vec<Row>, Failure> {
        let answer = match &bound.ready.statement {
            Some(statement) => {
                let values: Vec<&(dyn ToSql + Sync)> =
                    bound.values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
                self.client.query(statement, &values).await
            }
            None => {
                // The SQL casts each parameter, so Postgres knows its type.
                let values: Vec<(&(dyn ToSql + Sync), Type)> = (bound.values.iter())
                    .map(|value| (value as &(dyn ToSql + Sync), Type::UNKNOWN))
                    .collect();
                self.client.query_typed(&bound.ready.sql, &values).await
            }
        };
        answer.map_err(|error| self.failure(&error, &bound.ready))
    }

    fn failure(&self, error: &tokio_postgres::Error, ready: &ReadyStatement) -> Failure {
        let role = ready.as_role.then(|| self.role()).flatten();
        if let Some(role) = role {
            self.say_what_is_not_granted(role, error);
        }
        let plan = self.plan.as_deref();
        match (ready.of, plan) {
            (StatementOf::Table(id) | StatementOf::InsertByRole(id), Some(plan)) => {
                let table = plan.table(id);
                let sent = Sent {
                    table: &table.catalog,
                    hidden: &table.hidden,
                    name: &table.name,
                    sql: &ready.sql,
                    params: &ready.params,
                };
                let failure = Failure::of_whom(error, Some(&sent), role);
                match ready.of {
                    StatementOf::InsertByRole(_) => failure.of_insert_by_role(plan, id),
                    _ => failure,
                }
            }
            (StatementOf::Call(call), Some(plan)) => {
                Failure::of_call(error, plan, call, &ready.params, role)
            }
            _ => Failure::of_own(error),
        }
    }

    /// The role that writes, if it is one of its own.
    pub(super) fn role(&self) -> Option<&str> {
        self.plan.as_ref()?.writes_as.as_deref()
    }

    /// Clients are told nothing of it that would help, and whoever can grant it reads it here.
    fn say_what_is_not_granted(&self, role: &str, error: &tokio_postgres::Error) {
        let Some(said) = error.as_db_error().filter(|error| is_no_right(error)) else { return };
        let said = message_without_values(said);
        if self.said.lock().unwrap_or_else(PoisonError::into_inner).is_new(&said) {
            tracing::warn!(
                role,
                said,
                "mutations are rejected, because the role that writes lacks a right in the database"
            );
        }
    }

    pub(super) async fn query(&mut self, bound: BoundStatement) -> Result<Vec<Row>, Failure> {
        self.round_trips += 1;
        self.in_time(self.send(&bound)).await?
    }

    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        let begin = self.begin.clone();
        self.in_transaction = true;
        self.run(&begin).await.map_err(Failure::of_ours)
    }

    /// Commits; with `has_call` what a mutation that calls something with a name has done.
    pub(super) async fn commit(&mut self, has_call: bool) -> Result<(), Failure> {
        self.in_transaction = false;
        self.round_trips += 1;
        let committed = self.in_time(self.client.batch_execute("COMMIT")).await?;
        self.committed(committed, has_call)
    }

    /// What the answer to a commit means.
    pub(super) fn committed(
        &self,
        answer: Result<(), tokio_postgres::Error>,
        has_call: bool,
    ) -> Result<(), Failure> {
        // What is deferred runs now, and as the role that wrote.
        answer.map_err(|error| {
            let role = self.role();
            if let Some(role) = role {
                self.say_what_is_not_granted(role, &error);
            }
            Failure::of_commit(&error, has_call, role)
        })
    }

    pub(super) async fn roll_back(&mut self) -> Result<(), Failure> {
        self.in_transaction = false;
        self.run("ROLLBACK").await
    }

    pub(super) async fn run(&mut self, sql: &str) -> Result<(), Failure> {
        self.round_trips += 1;
        Ok(self.in_time(self.client.batch_execute(sql)).await??)
    }

    /// Waits for an answer, but not for ever. Postgres would have ended the statement long before, so a late
    /// answer means that the connection is broken.
    pub(super) async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Result<T, Failure> {
        let late = |_| Failure::Away("Postgres does not answer".to_owned());
        tokio::time::timeout(self.answer_within, answer).await.map_err(late)
    }
}
