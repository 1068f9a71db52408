//! What comes out of the optimistic layer: what a message has changed, for the application, and mutations, for the
//! server. They are plain values. What the application is told of a message it is told at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::op::Op;
use crate::queue::shared;
use crate::replica::RowChange;
use crate::row::Row;
use crate::subscriptions::RefusedSubscription;

/// What a message changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// The shown rows that have changed, each once. An application shows them all at the same time.
    pub changes: Vec<RowChange>,
    /// The mutations that are acknowledged now, in order.
    pub acked: Vec<Acked>,
    /// The subscriptions whose rows are there with these changes, and were not before.
    pub subscribed: Vec<u64>,
    /// The subscriptions that the server has refused.
    pub refused: Vec<RefusedSubscription>,
}

/// The outcome of a mutation that the server has acknowledged. It is reported once, or again if the process
/// ended before the outcome was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acked {
    /// The mutation.
    pub id: u64,
    /// Whether it was applied.
    pub outcome: Outcome,
    /// The keys that the server made for inserts which left theirs out, by the place of the operation. They are of rows that
    /// are shown from now on; nothing was shown of them before. Empty also where they are not known any more.
    pub keys: BTreeMap<usize, Row>,
}

/// Whether a mutation was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server applied all of it.
    Applied,
    /// The server rejected it, and applied nothing of it.
    Rejected {
        /// See the protocol's codes of a `reject`.
        code: String,
        /// For the developer.
        message: String,
    },
}

/// A mutation to send.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename = "mutate")]
pub struct Outgoing {
    /// The number by which the server knows it.
    #[serde(rename = "id")]
    pub number: u64,
    /// Its operations.
    #[serde(with = "shared")]
    pub ops: Arc<[Op]>,
}
