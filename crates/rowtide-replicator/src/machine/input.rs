//! What goes into the replicator's state machine, and what comes out.

use std::sync::Arc;
use std::time::Duration;

use rowtide_feed::{EpochReason, Event, Generation, LogExtent, ReplicatorStatus, Transaction};
use rowtide_log::{Committed, LogIdentity};
use rowtide_plan::plan::Plan;
use rowtide_postgres::slot::SystemIdentity;
use rowtide_postgres::unseen::Unseen;
use rowtide_postgres::watch::Observed;
use rowtide_protocol::{Epoch, Lsn};

/// What came of what was asked for. A failure that may heal comes as a sentence for a person.
#[derive(Debug)]
pub enum Input {
    /// It may begin, or the pause is over: the answer to [`Next::Wait`].
    Go,
    /// The answer to [`Next::Look`].
    Looked(Result<Box<Looked>, String>),
    /// The answer to [`Next::MakeSlot`].
    SlotMade(Result<(), String>),
    /// The answer to [`Next::Connect`].
    Connected(Result<SlotFound, StreamFailure>),
    /// The answer to [`Next::OpenLog`].
    LogOpened(Result<LogFound, LogFailure>),
    /// The answer to [`Next::ReadLog`].
    LogRead(Result<LogRead, String>),
    /// The answer to [`Next::LookForUnseen`].
    Unseen(Result<UnseenBehind, String>),
    /// The answer to [`Next::BeginEpoch`]; `None` if the log's writer has ended.
    EpochBegan(Option<Epoch>),
    /// While it streams: what came, and why no more comes, if so.
    Streamed(Vec<Brought>, Option<StreamFailure>),
    /// While it streams: everything up to here is in the log, durably.
    Durable(Lsn),
    /// At any time: the log's writer has ended.
    LogEnded,
    /// While it streams: the log does not go back to where someone is who follows, nor to where the generation began,
    /// so that nobody could begin to follow it any more.
    Outrun,
    /// While it streams: what the database has may be something else than at the last look.
    Observed(Box<Observed>),
    /// While it streams: the database cannot be looked at for a while, and why.
    Blind(String),
}

/// What a look at the database comes to.
#[derive(Clone, Debug)]
pub struct Looked {
    /// What the plan relies on. Seen before the rest, so that what changes in between is noticed later.
    pub observed: Observed,
    /// The definition, compiled as far as it fits.
    pub plan: Arc<Plan>,
    /// The tables that are not served, each with why not.
    pub rejected: Vec<(String, String)>,
    /// The tables that nobody can write, because Postgres does not take a rule for that, each with why not.
    pub unwritable: Vec<(String, String)>,
    /// What is wrong with Rowtide's own tables.
    pub own: Vec<String>,
    /// Which database it is.
    pub system: SystemIdentity,
    /// Where WAL ended then: whatever made the tables what they are lies before it, and what is behind it comes soon.
    pub wal_end: Lsn,
}

/// Where a slot stands as its stream begins.
#[derive(Clone, Copy, Debug)]
pub struct SlotFound {
    /// It brings what was committed behind this.
    pub confirmed: Lsn,
    /// Where WAL ended then.
    pub wal_ends: Lsn,
    /// Of which database.
    pub system: SystemIdentity,
    /// What is streamed of a partition may follow from what it was when this connection first came to it: only a
    /// connection that begins where the epoch does, or behind that, brings what it is.
    pub remembers_partitions: bool,
}

/// Why there is no stream, or no more of it.
#[derive(Clone, Debug)]
pub enum StreamFailure {
    /// There is no slot.
    SlotMissing(String),
    /// Nothing can be had from the slot any more.
    SlotLost(String),
    /// Another server uses it.
    SlotTaken(String),
    /// An earlier connection of this server still had it, and was ended.
    OwnConnection(String),
    /// There was no publication when something was written that is to be decoded.
    PublicationMissing(String),
    /// A change does not fit the plan's table. The stream goes on without it.
    Unfit {
        /// The table.
        table: String,
        /// What is different.
        what: String,
        /// Where the commit begins of the transaction that it is of.
        committed: Lsn,
    },
    /// The connection ended, or could not be made.
    Ended(String),
}

/// What the stream brings.
#[derive(Clone, Debug)]
pub enum Brought {
    /// A transaction.
    Transaction(Arc<Transaction>),
    /// Rows are of the plan of [`Effect::Switch`] from here on. What is behind the position comes with it.
    Switched,
    /// There was none up to here.
    Position {
        /// Up to where.
        lsn: Lsn,
        /// When that was so, microseconds since 1970 UTC.
        time_us: i64,
    },
}

/// The log as it is found when it is opened, or is open already.
#[derive(Clone, Debug)]
pub struct LogFound {
    /// What its records are of.
    pub of: LogIdentity,
    /// Its epoch.
    pub epoch: Epoch,
    /// From where to where it goes. `None` if nothing has begun in it: it is new, or an earlier server has ended it.
    pub extent: Option<LogExtent>,
    /// Why nothing can be its continuation, if so.
    pub broken: Option<EpochReason>,
    /// What the database was like when the log was written last ([`Effect::KeepLook`]), if it has just been opened and that
    /// is known.
    pub seen: Option<Box<Observed>>,
}

/// Why the log is not open.
#[derive(Clone, Debug)]
pub enum LogFailure {
    /// Another server has it.
    Taken(String),
    /// It cannot be used now.
    Unusable(String),
}

/// What is read from a log that goes on.
#[derive(Clone, Debug)]
pub struct LogRead {
    /// Its transactions behind the position that was asked for, in order.
    pub expected: Vec<Committed>,
    /// Its last transactions, whole and in order: loads may not see them yet.
    pub recent: Vec<Arc<Transaction>>,
}

/// Which transactions are to be looked for that may be committed and unseen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnseenQuestion {
    /// Those before the end of WAL as it is then.
    BeforeEnd,
    /// Those before now.
    Now,
    /// Which of these.
    Still(Vec<u32>),
}

/// Which transactions may be committed and unseen.
#[derive(Clone, Debug)]
pub struct UnseenBehind {
    /// For [`UnseenQuestion::BeforeEnd`]: where WAL ended before they were looked for, at the end of a record that is
    /// flushed. Nothing for others.
    pub end: Option<Lsn>,
    /// The transactions.
    pub unseen: Vec<Unseen>,
}

/// What the state machine wants.
#[derive(Debug)]
pub struct Step {
    /// To be carried out in order, before anything is waited for.
    pub effects: Vec<Effect>,
    /// What it waits for; `None` as before.
    pub next: Option<Next>,
}

/// What is to be waited for. Each is answered by one input, [`Next::Stream`] by any number.
#[derive(Clone, Debug)]
pub enum Next {
    /// Pass so much time, about.
    Wait(Duration),
    /// Look at the database, and compile the definition.
    Look,
    /// Make the slot, also if there is one when `anew`.
    MakeSlot {
        /// Drop the one that is there.
        anew: bool,
    },
    /// Begin to stream from what the slot has confirmed, once all that was handed to the log is in it.
    Connect(Arc<Plan>),
    /// Open the log as one of these records, if it is not open.
    OpenLog(LogIdentity),
    /// Read from the open log what lies behind a position, and its end.
    ReadLog {
        /// The position.
        behind: Lsn,
    },
    /// Look for transactions that may be committed and unseen, after a pause.
    LookForUnseen(UnseenQuestion, Duration),
    /// Empty the log, so that nothing can be its continuation. Answered by [`Input::EpochBegan`].
    EndLog(LogIdentity),
    /// Empty the log and begin anew at a position.
    BeginEpoch(LogIdentity, Lsn),
    /// Take what the stream brings, what becomes durable, and what is different in the database.
    Stream,
}

/// What is to be done. None of it fails.
#[derive(Debug)]
pub enum Effect {
    /// Show how it is doing.
    Status(ReplicatorStatus),
    /// Show which tables are not served, each with why not.
    Rejected(Vec<(String, String)>),
    /// What of the definition has not fitted since the start, if anything has not.
    Incomplete(Option<String>),
    /// Begin a generation. Who writes goes by another plan from the beginning, if there is one: the generation's was that of
    /// before its tables got more columns.
    Begin(Generation, Option<Arc<Plan>>),
    /// End it; there is none then.
    EndGeneration,
    /// Hand events to the log and publish them, once there is room.
    HandOn(Arc<[Event]>),
    /// From the connection that has just begun to stream have what is committed behind a position as rows of another plan.
    Switch {
        /// The position.
        at: Lsn,
        /// The plan, with the same topics and more columns.
        plan: Arc<Plan>,
    },
    /// Have the log be of something else from here on, hand an [`Event::Reshaped`] to it, and publish it once it is durable:
    /// a log that has lost it would take those for its own who were told of it.
    Reshape {
        /// What the log is of.
        of: LogIdentity,
        /// What rows are of.
        plan: Arc<Plan>,
        /// What is told.
        event: Event,
    },
    /// Keep with the log what the database is like, behind what it is told before.
    KeepLook(Box<Observed>),
    /// Publish events that the log does not keep.
    Publish(Arc<[Event]>),
    /// Tell Postgres that everything up to here is not needed again.
    Confirm(Lsn),
    /// End the stream, if there is one.
    Disconnect,
    /// Write what is queued, if it can be written, and give the log free.
    CloseLog,
    /// Count an epoch.
    EpochBegan {
        /// Why.
        reason: EpochReason,
        /// Where.
        position: Lsn,
    },
    /// Say something to the operator.
    Info(String),
    /// Say something to the operator that may need care.
    Warn(String),
    /// Say something to the operator that does not heal by itself.
    Error(String),
}
