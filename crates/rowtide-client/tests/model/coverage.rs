//! How often the runs came to each of the hard cases. The test proves nothing if they never do.

/// How often the runs came to each of the hard cases.
#[derive(Debug, Default)]
pub struct Coverage {
    pub applied: u64,
    pub rejected: u64,
    pub applied_at_connect: u64,
    pub rejected_at_connect: u64,
    pub dropped: u64,
    pub sent_again: u64,
    pub crashes: u64,
    pub rejected_sent_again: u64,
    pub subscribed: u64,
    pub subscriptions_named: u64,
    pub subscriptions_refused: u64,
    pub unsubscribed: u64,
}

impl Coverage {
    pub fn add(&mut self, other: &Coverage) {
        self.applied += other.applied;
        self.rejected += other.rejected;
        self.applied_at_connect += other.applied_at_connect;
        self.rejected_at_connect += other.rejected_at_connect;
        self.dropped += other.dropped;
        self.sent_again += other.sent_again;
        self.crashes += other.crashes;
        self.rejected_sent_again += other.rejected_sent_again;
        self.subscribed += other.subscribed;
        self.subscriptions_named += other.subscriptions_named;
        self.subscriptions_refused += other.subscriptions_refused;
        self.unsubscribed += other.unsubscribed;
    }

    pub fn all(&self) -> bool {
        let counts = [
            self.applied,
            self.rejected,
            self.applied_at_connect,
            self.rejected_at_connect,
            self.dropped,
            self.sent_again,
            self.crashes,
            self.subscribed,
            self.subscriptions_named,
            self.subscriptions_refused,
            self.unsubscribed,
        ];
        counts.iter().all(|count| *count > 100)
    }
}
