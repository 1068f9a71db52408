//! The statements of a mutation's operations with their values, in the order in which they are sent: who writes, the client's
//! row, and for each operation what locks, judges and writes, as the server's own role or as the one that writes.

use std::sync::Arc;

use rowtide_plan::plan::Plan;
use rowtide_plan::write::{self, Call, Write};
use rowtide_protocol::OpKind;

use super::bound::{BoundStatement, bind, bind_call};
use super::connection::MutationConnection;
use super::failure::Failure;
use super::statements::StatementKey;
use super::{Author, Number, Ticket};

/// `$1` all claims as JSON, `$2` the user: settings of the transaction, under the names that PostgREST gives them and one of
/// our own, for triggers, defaults and policies.
const WHO_WRITES: &str = "SELECT pg_catalog.set_config('request.jwt.claims', $1::text, true), \
    pg_catalog.set_config('request.jwt.claim.sub', $2::text, true), \
    pg_catalog.set_config('rowtide.user_id', $2::text, true)";

impl MutationConnection {
    /// The statements of a named mutation, the last of which runs it: as the role that writes, if there is one.
    pub(super) async fn call(
        &mut self,
        plan: &Arc<Plan>,
        author: &Author,
        call: &Call,
    ) -> Result<Vec<BoundStatement>, Failure> {
        let make = || {
            let statement = write::run(plan, call.call);
            (statement.sql, statement.params)
        };
        let ready = self.ready(StatementKey::Call(call.call), make).await?;
        let mut statements =
            vec![self.own("go on or fail", &write::go_on_or_fail(), Vec::new()).await?];
        if let Some(role) = &plan.writes_as {
            statements.push(self.becomes(role).await?);
        }
        statements.push(bind_call(ready, call, author));
        Ok(statements)
    }

    /// Makes the transaction the role's.
    pub(super) async fn becomes(&mut self, role: &str) -> Result<BoundStatement, Failure> {
        let sql = "SELECT pg_catalog.set_config('role', $1::text, true)";
        self.own("as role", sql, vec![Some(role.to_owned())]).await
    }

    /// Makes the transaction the server's own again.
    pub(super) async fn as_server(&mut self) -> Result<BoundStatement, Failure> {
        self.own("as server", "RESET ROLE", Vec::new()).await
    }

    /// What does a write that was judged, if a role does it: the statement that makes the transaction the role's, and the write.
    /// It stays the role's until the next write or the end, because triggers that are deferred are the role's, too.
    pub(super) async fn by_role(
        &mut self,
        plan: &Arc<Plan>,
        author: &Author,
        write: &Write,
    ) -> Result<Option<[BoundStatement; 2]>, Failure> {
        let Some(role) = &plan.writes_as else { return Ok(None) };
        let columns: Vec<usize> = write.values.iter().map(|(column, _)| *column).collect();
        let key = StatementKey::AsRole(write.table, write.kind, columns.clone());
        let make = || {
            let statement = write::write_as_role(plan, write.table, write.kind, &columns);
            (statement.sql, statement.params)
        };
        let ready = self.ready(key, make).await?;
        Ok(Some([self.becomes(role).await?, bind(ready, write, author)]))
    }

    /// The statement that tells the database who writes.
    pub(super) async fn who_writes(&mut self, author: &Author) -> Result<BoundStatement, Failure> {
        let values = vec![Some(author.claims_text()), Some(author.user_id.clone())];
        self.own("who writes", WHO_WRITES, values).await
    }

    pub(super) async fn advance(&mut self, ticket: &Ticket) -> Result<BoundStatement, Failure> {
        let mut values = ticket.parameters();
        let (key, sql) = match &ticket.number {
            Number::Given(_) => ("advance given", self.row.advance_given.clone()),
            Number::Next { session, .. } => {
                values.extend([None, Some(session.to_string())]);
                ("advance next", self.row.advance_next.clone())
            }
        };
        self.own(key, &sql, values).await
    }

    /// The statement that locks what a write is checked against; `None` if it needs no lock.
    pub(super) async fn before(
        &mut self,
        plan: &Arc<Plan>,
        author: &Author,
        write: &Write,
    ) -> Result<Option<BoundStatement>, Failure> {
        let table = write.table;
        let (key, statement) = if write.kind == OpKind::Insert {
            match write::limit_lock(plan, table) {
                Some(statement) => (StatementKey::LimitLock(table), statement),
                None => return Ok(None),
            }
        } else {
            let key = StatementKey::Lock(table, write.kind == OpKind::Delete);
            (key, write::lock(plan, table, write.kind))
        };
        let ready = self.ready(key, || (statement.sql, statement.params)).await?;
        Ok(Some(bind(ready, write, author)))
    }

    pub(super) async fn write(
        &mut self,
        plan: &Arc<Plan>,
        author: &Author,
        write: &Write,
    ) -> Result<BoundStatement, Failure> {
        let columns: Vec<usize> = write.values.iter().map(|(column, _)| *column).collect();
        let key = StatementKey::Write(write.table, write.kind, columns.clone());
        let make = || {
            let statement = write::write(plan, write.table, write.kind, &columns);
            (statement.sql, statement.params)
        };
        Ok(bind(self.ready(key, make).await?, write, author))
    }
}
