//! Rows as they travel through the server. A row is turned into JSON once, when it leaves Postgres,
//! and routed once: the topics that it belongs to are found when it is made. From there on rows are
//! shared, never copied.

use bytes::Bytes;

use crate::ids::BranchId;
use crate::value::Value;

/// A branch at one value of its anchor: the unit of routing, loading and caching.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic {
    /// The branch.
    pub branch: BranchId,
    /// The value of the anchor; `None` when the branch has no anchor and is the same for all.
    pub anchor: Option<Value>,
}

/// What the engine must know of a row to decide who sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The JSON object of the primary key: the row's identity, and the body of its `delete`.
    pub key: Bytes,
    /// The columns that are needed later: link columns and those compared with claims, in the order
    /// of [`crate::plan::Table::kept`].
    pub kept: Box<[Value]>,
    /// Every topic that the row is in, published or not: anchor not null and filter true.
    pub topics: Box<[Topic]>,
}

/// A row with its JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Identity, kept columns and topics.
    pub image: Image,
    /// The row as clients are sent it: a JSON object of the columns that the definition lets out, in the order of `attnum`.
    pub json: Bytes,
}
