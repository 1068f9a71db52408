//! What the engine asks of Postgres, and what comes back.

use std::sync::Arc;

use rowtide_plan::map::Id;
use rowtide_plan::plan::Plan;
use rowtide_plan::row::Topic;
use rowtide_protocol::Lsn;

use crate::{TopicRows, TransactionSnapshot};

/// Names one load among those under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoadId(pub u64);

impl Id for LoadId {}

/// A question: the rows of these topics, as one snapshot sees them. With no topics the engine only
/// wants to know the snapshot, or a commit.
#[derive(Clone, Debug)]
pub struct Load {
    /// To be given back with the answer.
    pub id: LoadId,
    /// What the rows are to be of.
    pub plan: Arc<Plan>,
    /// Each topic once.
    pub topics: Vec<Topic>,
    /// For each topic the rows that it was thought to have, if it was loaded before. What is read is best put
    /// into these, with [`TopicRows::loaded_anew`]: then the engine looks at what has changed alone.
    pub before: Vec<TopicRows>,
    /// For each topic how many rows are wanted, the first in the order of its branch's window; `None` where it has none, and all
    /// rows are wanted. More than these do no harm, if they are the first, too.
    pub most: Vec<Option<usize>>,
    /// Rows come or go by time, which passes with commits: before the snapshot is taken one is to be made that changes nothing and is
    /// streamed all the same, if Postgres' clock is behind this, in microseconds since 1970 UTC.
    pub commit_behind_us: Option<i64>,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the rows' snapshot had seen. Must have been taken after the load was asked for.
    pub snapshot: TransactionSnapshot,
    /// A WAL position read after the snapshot was taken: no commit that it had seen lies behind it.
    pub position: Lsn,
    /// The rows of each topic, in the order of [`Load::topics`]; `None` where they cannot be read at the
    /// moment. These are asked for again after the next [`Input::Tick`](crate::Input::Tick), and whoever
    /// does not need them does not wait for them.
    pub rows: Vec<Option<TopicRows>>,
}
