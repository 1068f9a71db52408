//! What a log is of. A log goes on only for the same plan, database and slot, because positions and topics
//! of any others mean something else. The identity is stored with the log, and compared when it is opened.

/// What a log is of. Cursors into a log of anything else mean nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// [`rowtide_plan::plan::Plan::fingerprint`].
    pub plan: [u8; 32],
    /// How many columns each of the plan's tables has, in the plan's order. That is in [`LogIdentity::plan`] already; by this it
    /// is found out whether another plan is this one with more columns.
    pub columns: Vec<u16>,
    /// The database cluster (`pg_control_system()`).
    pub system: u64,
    /// The database (`pg_database.oid`).
    pub database: u32,
    /// The timeline of its WAL.
    pub timeline: u32,
    /// The replication slot.
    pub slot: String,
}

impl LogIdentity {
    /// Whether a log of `older` may be of the same plan before its tables got more columns. Only the plan's digest tells
    /// whether it is.
    pub(crate) fn may_have_grown_from(&self, older: &LogIdentity) -> bool {
        let columns = || older.columns.iter().zip(&self.columns);
        self.columns.len() == older.columns.len()
            && columns().all(|(older, newer)| older <= newer)
            && self.columns != older.columns
            && self.bytes()[32..] == older.bytes()[32..]
    }

    /// What a log says of itself: plan, cluster, database, timeline, slot; numbers little-endian. The columns are apart.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.plan.to_vec();
        bytes.extend_from_slice(&self.system.to_le_bytes());
        bytes.extend_from_slice(&self.database.to_le_bytes());
        bytes.extend_from_slice(&self.timeline.to_le_bytes());
        bytes.extend_from_slice(self.slot.as_bytes());
        bytes
    }
}
