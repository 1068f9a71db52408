//! A connection that streams, on the server's side: what the walsender says goes through the server's own
//! decoder, for the server's plan, as `rowtide_postgres::stream` does it over a socket.

use std::collections::VecDeque;
use std::sync::Arc;

use rowtide_feed::Transaction;
use rowtide_plan::plan::Plan;
use rowtide_postgres::assemble::{AssembleError, Assembler};
use rowtide_protocol::Lsn;

use crate::postgres::{Postgres, Sent, Walsender, WalsenderError};
use crate::sql::LARGE;

/// More bytes than this of one transaction are not held.
const MAX_TRANSACTION_BYTES: usize = LARGE * 330;

/// What the stream brings.
#[derive(Debug)]
pub enum Streamed {
    Transaction(Arc<Transaction>),
    Position(Lsn),
}

/// Why it does not go on.
#[derive(Debug)]
pub enum Interrupted {
    /// `42704`, and the connection is over.
    NoPublication,
    /// A table does not have the plan's shape any more. The stream can go on.
    SchemaChanged { table: String, what: String, committed: Lsn },
}

pub struct Decoder {
    assembler: Assembler,
    messages: VecDeque<Sent>,
    /// Where the transaction is committed whose changes come.
    open: Option<Lsn>,
}

impl Decoder {
    pub fn new(plan: Arc<Plan>) -> Decoder {
        let assembler = Assembler::new(plan, "rowtide".to_owned(), MAX_TRANSACTION_BYTES);
        Decoder { assembler, messages: VecDeque::new(), open: None }
    }

    /// What comes next, if something is there.
    pub fn next(
        &mut self,
        walsender: &mut Walsender,
        postgres: &mut Postgres,
    ) -> Option<Result<Streamed, Interrupted>> {
        loop {
            if self.messages.is_empty() {
                match walsender.next(postgres) {
                    Ok(sent) if sent.is_empty() => return None,
                    Ok(sent) => self.messages = sent,
                    Err(WalsenderError::NoPublication) => {
                        return Some(Err(Interrupted::NoPublication));
                    }
                }
            }
            match self.messages.pop_front()? {
                Sent::Begin { lsn, xid, commit_time_us } => {
                    self.open = Some(lsn);
                    self.assembler.begin(xid, commit_time_us);
                }
                Sent::Message(bytes) => match self.assembler.message(&bytes) {
                    Ok(()) => {}
                    Err(AssembleError::SchemaChanged { table, what }) => {
                        let committed = self.open.expect("a transaction is open");
                        let changed = Interrupted::SchemaChanged { table, what, committed };
                        return Some(Err(changed));
                    }
                    Err(other) => panic!("what Postgres sends is decoded: {other}"),
                },
                Sent::Commit { lsn } => {
                    self.open = None;
                    let transaction = Arc::new(self.assembler.commit(lsn));
                    return Some(Ok(Streamed::Transaction(transaction)));
                }
                Sent::KeepAlive(lsn) => return Some(Ok(Streamed::Position(lsn))),
            }
        }
    }
}
