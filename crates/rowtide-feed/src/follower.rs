//! How one follows the feed, whatever carries it: each event is the next one, or known already, or shows
//! that something between is missing. Pure: the model tests and the simulation lose, repeat and reorder
//! events in front of it.

use rowtide_protocol::Lsn;

use crate::Event;

/// What an event is to one who follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// What comes next; the follower has moved on.
    Next,
    /// It was taken before.
    Known,
    /// Transactions behind this position are missing; the follower has not moved.
    Gap {
        /// The last position that it has.
        after: Lsn,
    },
}

/// Where one stands who follows an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    /// The position after the last transaction or [`Event::Reshaped`], or where the epoch began.
    transaction: Lsn,
    position: Lsn,
}

impl Follower {
    /// One who has everything up to a position, which is that of its last transaction or the beginning of the
    /// epoch.
    pub fn at(position: Lsn) -> Follower {
        Follower { transaction: position, position }
    }

    /// One who has everything up to a position, with `transaction` as the last transaction before it (or the
    /// beginning of the epoch).
    pub fn behind(transaction: Lsn, position: Lsn) -> Follower {
        Follower { transaction, position: position.max(transaction) }
    }

    /// The position after the last transaction that was taken, or where the epoch began.
    pub fn transaction(&self) -> Lsn {
        self.transaction
    }

    /// Everything up to here has been taken.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Takes an event, if it is the next one.
    pub fn take(&mut self, event: &Event) -> Taken {
        match event {
            Event::EpochBegan { .. } | Event::StreamBegan { .. } | Event::TableChanged { .. } => {
                Taken::Next
            }
            Event::Transaction { transaction, .. } if transaction.lsn <= self.position => {
                Taken::Known
            }
            Event::Position { lsn, .. } | Event::Reshaped { lsn, .. } if *lsn <= self.position => {
                Taken::Known
            }
            Event::Transaction { previous, .. }
            | Event::Position { previous, .. }
            | Event::Reshaped { previous, .. }
                if *previous > self.transaction =>
            {
                Taken::Gap { after: self.position }
            }
            Event::Transaction { transaction, .. } => {
                self.transaction = transaction.lsn;
                self.position = transaction.lsn;
                Taken::Next
            }
            Event::Reshaped { lsn, .. } => {
                (self.transaction, self.position) = (*lsn, *lsn);
                Taken::Next
            }
            Event::Position { lsn, .. } => {
                self.position = *lsn;
                Taken::Next
            }
        }
    }
}
