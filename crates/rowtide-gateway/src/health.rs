//! How the gateway is doing, for operators and tests.

use rowtide_engine::Counts;
use rowtide_protocol::Lsn;

/// How engines and loads are doing.
#[derive(Clone, Debug, Default)]
pub struct EnginesHealth {
    /// What all engines have taken in; `None` if there are none.
    pub position: Option<Lsn>,
    /// What is wrong with an engine or a load.
    pub trouble: Option<String>,
    /// How much the engines hold together, as of a moment ago.
    pub counts: Counts,
    /// How many `SELECT`s of rows the loads have run since the start.
    pub load_queries: u64,
    /// How many rows these have read.
    pub loaded_rows: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Tables that could not be read by the last load that wanted to; who sees their rows waits.
    pub unreadable_tables: Vec<String>,
}
