//! What a log is of. A log goes on only for the same plan, database and slot, because positions and topics
//! of any others mean something else. The identity is stored with the log, and compared when it is opened.

/// What a log is of. Cursors into a log of anything else mean nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// [`rowtide_plan::plan::Plan::fingerprint`].
    pub plan: [u8; 32],
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
    /// What a log says of itself: plan, cluster, database, timeline, slot; numbers little-endian.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.plan.to_vec();
        bytes.extend_from_slice(&self.system.to_le_bytes());
        bytes.extend_from_slice(&self.database.to_le_bytes());
        bytes.extend_from_slice(&self.timeline.to_le_bytes());
        bytes.extend_from_slice(self.slot.as_bytes());
        bytes
    }
}
