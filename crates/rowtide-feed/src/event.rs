//! What the feed carries. An event that has a position also has the position of the transaction before it,
//! so that a gap shows itself wherever events may be lost, reordered or brought twice.

use std::fmt;
use std::sync::Arc;

use rowtide_plan::plan::TableId;
use rowtide_protocol::{Epoch, Lsn};

use crate::Transaction;

/// Which plan the topics of an epoch are of: [`rowtide_plan::plan::Plan::fingerprint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// One event of the feed.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An epoch begins: what was told before is of another history, and the plan may be another one.
    EpochBegan {
        /// Its id.
        epoch: Epoch,
        /// The plan that its topics are of.
        plan: Fingerprint,
        /// Its first transaction lies behind this.
        position: Lsn,
        /// Why the epoch before ended.
        reason: EpochReason,
    },
    /// A connection to Postgres begins to stream, and WAL ended here then: nobody was ever told of anything
    /// behind it.
    StreamBegan {
        /// Where WAL ended.
        wal_end: Lsn,
    },
    /// A transaction was committed.
    Transaction {
        /// The position after the transaction before it, or where the epoch began.
        previous: Lsn,
        /// What it did.
        transaction: Arc<Transaction>,
    },
    /// Everything up to a position has been brought, and no transaction was between the last one and it.
    Position {
        /// The position after the last transaction, or where the epoch began.
        previous: Lsn,
        /// Up to here.
        lsn: Lsn,
        /// The clock of Postgres when it said so, microseconds since 1970 UTC.
        time_us: i64,
    },
    /// From here on rows are of another plan, with the same topics and views, in which tables have more columns. What was
    /// told of rows of these tables before has not got them: all of them are to be loaded again. It is a link of the chain
    /// of positions as a transaction is.
    Reshaped {
        /// The position after the transaction before it, or where the epoch began.
        previous: Lsn,
        /// The position after it. No transaction ends there.
        lsn: Lsn,
        /// The plan that rows are of behind it.
        plan: Fingerprint,
        /// The tables whose rows are others.
        tables: Vec<TableId>,
    },
    /// A table is not what the plan was compiled for any more. What follows from it is an event of its own.
    TableChanged {
        /// The table, with its schema.
        table: String,
        /// What is different, for a person.
        what: String,
    },
}

impl Event {
    /// The position after it, if it has one.
    pub fn lsn(&self) -> Option<Lsn> {
        match self {
            Event::Transaction { transaction, .. } => Some(transaction.lsn),
            Event::Position { lsn, .. } | Event::Reshaped { lsn, .. } => Some(*lsn),
            Event::EpochBegan { position, .. } => Some(*position),
            Event::StreamBegan { .. } | Event::TableChanged { .. } => None,
        }
    }

    /// About how much memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        let held = match self {
            Event::Transaction { transaction, .. } => transaction.bytes(),
            Event::TableChanged { table, what } => table.len() + what.len(),
            Event::Reshaped { tables, .. } => size_of_val(&tables[..]),
            Event::EpochBegan { .. } | Event::StreamBegan { .. } | Event::Position { .. } => 0,
        };
        size_of::<Event>() + held
    }
}

/// Why an epoch began: why what comes is not the continuation of what clients hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EpochReason {
    /// There was no log.
    NewLog,
    /// There was a log that cannot be read.
    UnusableLog,
    /// The database is another one, or on another timeline.
    OtherDatabase,
    /// The definition or the tables are others, so that topics are others.
    OtherTables,
    /// The slot has confirmed more than the log has.
    LogBehind,
    /// The slot asks for more than the log still has, so that nothing can be compared.
    LogShort,
    /// The database ends before the log does.
    DatabaseBehind,
    /// The database brings other transactions than those that the log has.
    OtherTransactions,
    /// The database does not bring what the log has.
    MissingTransactions,
    /// Postgres has thrown away WAL that the slot needs.
    SlotLost,
    /// There was no slot.
    SlotMissing,
    /// A table was altered and altered back, and what was written in between cannot be told.
    AlteredBack,
    /// What the stream brings has changed: the publication, or what it brings of a table.
    PublicationChanged,
    /// Rows of a table may have changed without a trace in the stream.
    TableReplaced,
}

impl EpochReason {
    /// All of them.
    pub const ALL: [EpochReason; 14] = [
        EpochReason::NewLog,
        EpochReason::UnusableLog,
        EpochReason::OtherDatabase,
        EpochReason::OtherTables,
        EpochReason::LogBehind,
        EpochReason::LogShort,
        EpochReason::DatabaseBehind,
        EpochReason::OtherTransactions,
        EpochReason::MissingTransactions,
        EpochReason::SlotLost,
        EpochReason::SlotMissing,
        EpochReason::AlteredBack,
        EpochReason::PublicationChanged,
        EpochReason::TableReplaced,
    ];

    /// Its name in metrics and log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            EpochReason::NewLog => "new_log",
            EpochReason::UnusableLog => "log_replaced",
            EpochReason::OtherDatabase => "other_database",
            EpochReason::OtherTables => "other_tables",
            EpochReason::LogBehind => "log_behind",
            EpochReason::LogShort => "log_short",
            EpochReason::DatabaseBehind => "database_behind",
            EpochReason::OtherTransactions => "other_transactions",
            EpochReason::MissingTransactions => "missing_transactions",
            EpochReason::SlotLost => "slot_lost",
            EpochReason::SlotMissing => "slot_missing",
            EpochReason::AlteredBack => "altered_back",
            EpochReason::PublicationChanged => "publication_changed",
            EpochReason::TableReplaced => "table_replaced",
        }
    }
}

impl fmt::Display for EpochReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
