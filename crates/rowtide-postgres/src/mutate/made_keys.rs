//! Keys that a mutation made are kept in its own transaction, beside the client's row and in it: the stream has them with the
//! acknowledgement, and whoever sends the mutation again, or refers to it, finds them. Those that it refers to are looked up
//! behind the client's row, when nothing of the client can be written by anybody else.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use rowtide_plan::plan::Plan;
use rowtide_plan::write::{KnownKeys, Operation};
use rowtide_protocol::MadeKey;

use super::bound::BoundStatement;
use super::connection::MutationConnection;
use super::failure::Failure;
use super::{Number, Ticket};

impl Ticket {
    /// The earlier mutations, and the inserts in them, whose keys operations refer to.
    pub(super) fn earlier(&self, operations: &[Operation]) -> BTreeSet<(u64, u32)> {
        let references = operations.iter().flat_map(Operation::references);
        let inserts = references.map(|(_, reference)| (reference.id, reference.op));
        inserts.filter(|(id, _)| *id != self.number.given()).collect()
    }
}

impl Number {
    /// The number that operations of the mutation refer to each other by; 0 if its client does not number.
    pub(super) fn given(&self) -> u64 {
        match self {
            Number::Given(number) => *number,
            Number::Next { .. } => 0,
        }
    }
}

impl MutationConnection {
    /// Looks up keys that earlier mutations made.
    pub(super) async fn look_up(
        &mut self,
        ticket: &Ticket,
        earlier: &BTreeSet<(u64, u32)>,
        known: &mut KnownKeys,
    ) -> Result<(), Failure> {
        if earlier.is_empty() {
            return Ok(());
        }
        let list = |of: fn(&(u64, u32)) -> u64| {
            let numbers: Vec<String> = earlier.iter().map(|one| of(one).to_string()).collect();
            Some(format!("{{{}}}", numbers.join(",")))
        };
        let (ids, ops) = (list(|(id, _)| *id), list(|(_, op)| u64::from(*op)));
        let values = vec![Some(ticket.client.to_string()), ids, ops];
        let sql = self.row.look_keys.clone();
        let look = self.own("look keys", &sql, values).await?;
        for row in self.query(look).await? {
            let id = u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0);
            if row.try_get(3)? {
                known.was_rejected(id);
            }
            if row.try_get(4)? {
                known.makes(id);
            }
            let Some(key) = row.try_get::<_, Option<&str>>(2)? else { continue };
            let op = u32::try_from(row.try_get::<_, i64>(1)?);
            if let (Ok(op), Ok(key)) = (op, serde_json::from_str(key)) {
                known.add(MadeKey { id, op, key });
            }
        }
        Ok(())
    }

    /// The statements that keep the keys that a mutation made, as the server's own role. What is deferred is the writing
    /// role's again.
    async fn keep(
        &mut self,
        plan: &Plan,
        ticket: &Ticket,
        made: &[&MadeKey],
    ) -> Result<Vec<BoundStatement>, Failure> {
        let keys = serde_json::to_string(made)
            .map_err(|error| Failure::Away(format!("keys cannot be written: {error}")))?;
        let number = ticket.number.given().to_string();
        let values = vec![Some(ticket.client.to_string()), Some(number), Some(keys)];
        let sql = self.row.keep_keys.clone();
        if plan.writes_as.is_some() {
            // Behind it and not together: the statement cannot be prepared as a role that may not use Rowtide's schema.
            let back = self.as_server().await?;
            self.query(back).await?;
        }
        let keep = self.own("keep keys", &sql, values).await?;
        let Some(role) = &plan.writes_as else { return Ok(vec![keep]) };
        Ok(vec![keep, self.becomes(role).await?])
    }

    /// Commits, with the keys of those that this mutation made.
    pub(super) async fn commit_with_keys(
        &mut self,
        plan: &Plan,
        ticket: &Ticket,
        known: &KnownKeys,
        has_call: bool,
    ) -> Result<(), Failure> {
        let number = ticket.number.given();
        let made: Vec<&MadeKey> = known.of(number).filter(|made| made.id > 0).collect();
        if made.is_empty() {
            return self.commit(has_call).await;
        }
        let statements = self.keep(plan, ticket, &made).await?;
        self.commit_behind(&statements, has_call).await
    }

    /// Sends statements and the commit together. If one fails nothing is committed.
    async fn commit_behind(
        &mut self,
        statements: &[BoundStatement],
        has_call: bool,
    ) -> Result<(), Failure> {
        self.in_transaction = false;
        self.round_trips += 1;
        let sent = join_all(statements.iter().map(|bound| self.send(bound)));
        let commit = self.client.batch_execute("COMMIT");
        let both = futures_util::future::join(sent, commit);
        let (answers, committed) = self.in_time(both).await?;
        for answer in answers {
            answer.map_err(Failure::of_ours)?;
        }
        self.committed(committed, has_call)
    }
}
