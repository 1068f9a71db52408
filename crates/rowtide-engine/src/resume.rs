//! What is known of a session that has come back with a cursor. Its topics are those that its claims
//! and the link rows name now; what the log says of them since the cursor is collected here, with what
//! is streamed meanwhile, until it is enough to tell the view's state at the cursor from its state now.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rowtide_feed::{Change, Changes, Transaction};
use rowtide_plan::map::{Id, SeededSet};
use rowtide_plan::plan::TableId;
use rowtide_plan::row::{Image, Row, Topic};
use rowtide_plan::value::Instant;
use rowtide_protocol::Lsn;

use crate::rows::TopicRows;
use crate::sessions::Opening;

/// How many bytes of transactions are kept for a session that comes back, while the log is asked for it; all who
/// come back share them. Past that it is sent all of its rows.
pub const MAX_RESUME_BYTES: usize = 64 << 20;

/// How many ticks a session that comes back waits for a stream that has caught up to come to its cursor, before it is
/// sent all of its rows. A stream that stands still is waited for: nobody is sent more because Postgres is away.
pub const MAX_RESUME_TICKS: u64 = 10;
/// A stream of which nothing was heard for so many ticks stands still.
pub(crate) const STILL_TICKS: u64 = 20;

/// Names one question to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HistoryId(pub u64);

impl Id for HistoryId {}

/// A question to the log: what has changed in these topics. Of the interrupted tables all must be told that are
/// among `tables`.
#[derive(Clone, Debug)]
pub struct HistoryRequest {
    /// To be given back with the answer.
    pub id: HistoryId,
    /// Each once.
    pub topics: Vec<Topic>,
    /// The tables of all topics that the view could ever reach.
    pub tables: Arc<[TableId]>,
    /// Behind this commit.
    pub after: Lsn,
    /// Up to this one, which the engine has taken in.
    pub up_to: Lsn,
}

#[derive(Debug)]
pub(crate) struct Resume {
    /// How the session would come without a cursor.
    pub(crate) opening: Opening,
    /// The client's cursor.
    pub(crate) from: Lsn,
    /// The tick until which the stream must have come to the cursor.
    pub(crate) until_tick: u64,
    /// More has been streamed than is kept.
    pub(crate) is_too_much: bool,
    pub(crate) tables: Arc<[TableId]>,
    /// Where the log's answers end, and `since` begins; set by the first question.
    pub(crate) base: Option<Lsn>,
    /// Topics whose history is in `past`.
    pub(crate) known: SeededSet<Topic>,
    /// What time it was at the cursor, once the log has said so.
    pub(crate) from_time: Instant,
    /// Whether an answer is waited for.
    pub(crate) asked: bool,
    /// In commit order; one change for each row of a commit.
    pub(crate) past: BTreeMap<(Lsn, TableId, Bytes), Change>,
    /// Tables whose rows have become others since the cursor, because they got more columns.
    pub(crate) reshaped: Vec<TableId>,
    /// What was streamed behind `base`.
    pub(crate) since: Vec<Arc<Transaction>>,
    pub(crate) since_bytes: usize,
}

impl Resume {
    /// Every change behind the cursor that is known, in commit order, with its commit.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (Lsn, &Change)> {
        let since = self.since.iter().flat_map(|transaction| {
            let changes = match &transaction.changes {
                Changes::Rows(changes) => changes.as_slice(),
                Changes::TooLarge(_) => &[],
            };
            changes.iter().map(|change| (transaction.lsn, change))
        });
        self.past.iter().map(|((lsn, ..), change)| (*lsn, change)).chain(since)
    }

    /// The rows of a topic at the cursor, from its rows now: the first change of a row since then says how
    /// it was before. One that has not changed comes with what it is.
    pub(crate) fn states_then<'a>(
        &'a self,
        topic: &Topic,
        now: &'a TopicRows,
    ) -> Vec<(&'a Image, Option<&'a Arc<Row>>)> {
        let mut changed: SeededSet<&Bytes> = SeededSet::default();
        let mut then: Vec<&Image> = Vec::new();
        for (_, change) in self.changes() {
            let old = change.before().filter(|old| old.topics.contains(topic));
            let new = change.after().filter(|new| new.image.topics.contains(topic));
            if (old.is_some() || new.is_some()) && changed.insert(change.key()) {
                then.extend(old);
            }
        }
        let untouched = now.iter().filter(|row| !changed.contains(&row.image.key));
        let untouched = untouched.map(|row| (&row.image, Some(row)));
        untouched.chain(then.into_iter().map(|image| (image, None))).collect()
    }
}
