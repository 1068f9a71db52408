//! The last events of an epoch, in batches that all who follow share. The ring is bounded in bytes: beyond
//! that what is durable elsewhere goes, the oldest first, and whoever is behind it has to replay that. What is
//! not durable yet stays whatever it takes; the publisher waits as long as that alone fills the ring.

use std::collections::VecDeque;
use std::sync::Arc;

use rowtide_protocol::Lsn;

use crate::Event;

#[derive(Debug)]
struct Batch {
    events: Arc<[Event]>,
    bytes: usize,
    /// The position after it.
    end: Lsn,
}

/// The ring. Pure: see [`crate::Feed`] for what waits on it.
#[derive(Debug)]
pub struct Ring {
    limit_bytes: usize,
    batches: VecDeque<Batch>,
    /// The number of the first batch that is held; grows by one with each batch.
    first: u64,
    bytes: usize,
    /// Bytes of the batches that are not durable.
    volatile_bytes: usize,
    /// How many batches at the front are durable.
    durable_batches: usize,
    /// Everything up to here can be replayed.
    durable: Lsn,
    /// The position after the last batch that went.
    evicted: Lsn,
    end: Lsn,
    /// What the last [`Event::StreamBegan`] said, so that nobody misses it who is behind.
    wal_end: Option<Lsn>,
}

/// What has come since a batch.
#[derive(Debug)]
pub enum Since {
    /// The batches, in order, and the number of the one that comes after them.
    Batches(Vec<Arc<[Event]>>, u64),
    /// Some of it has gone: everything behind the follower's position must be replayed.
    Evicted,
}

impl Ring {
    /// An empty ring at a position, of about `limit_bytes`.
    pub fn new(position: Lsn, limit_bytes: usize) -> Ring {
        Ring {
            limit_bytes,
            batches: VecDeque::new(),
            first: 0,
            bytes: 0,
            volatile_bytes: 0,
            durable_batches: 0,
            durable: position,
            evicted: position,
            end: position,
            wal_end: None,
        }
    }

    /// Adds a batch, and evicts what there is no room for any more.
    pub fn push(&mut self, events: Arc<[Event]>) {
        let bytes = events.iter().map(Event::bytes).sum();
        for event in events.iter() {
            if let Event::StreamBegan { wal_end } = event {
                self.wal_end = Some(*wal_end);
            }
            self.end = self.end.max(event.lsn().unwrap_or(self.end));
        }
        self.bytes += bytes;
        self.volatile_bytes += bytes;
        self.batches.push_back(Batch { events, bytes, end: self.end });
        // It may bring again what is durable.
        self.durable(self.durable);
    }

    /// Everything up to `lsn` can be replayed.
    pub fn durable(&mut self, lsn: Lsn) {
        self.durable = self.durable.max(lsn);
        while let Some(batch) = self.batches.get(self.durable_batches)
            && batch.end <= self.durable
        {
            self.durable_batches += 1;
            self.volatile_bytes -= batch.bytes;
        }
        self.evict();
    }

    fn evict(&mut self) {
        while self.bytes > self.limit_bytes
            && self.durable_batches > 0
            && let Some(batch) = self.batches.pop_front()
        {
            self.durable_batches -= 1;
            self.first += 1;
            self.bytes -= batch.bytes;
            self.evicted = batch.end;
        }
    }

    /// Whether what is not durable yet has all the room.
    pub fn is_full(&self) -> bool {
        self.volatile_bytes >= self.limit_bytes
    }

    /// How much is held, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How much of it is not durable yet, in bytes.
    pub fn volatile_bytes(&self) -> usize {
        self.volatile_bytes
    }

    /// The position after the last event.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// What the last stream said of the end of WAL when it began.
    pub fn wal_end(&self) -> Option<Lsn> {
        self.wal_end
    }

    /// The number of the first batch that is held, or of the next one if none is.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The number of the next batch.
    pub fn next(&self) -> u64 {
        self.first + self.batches.len() as u64
    }

    /// What has come since and with batch `number`, at most `most` batches.
    pub fn since(&self, number: u64, most: usize) -> Since {
        let Some(skipped) = number.checked_sub(self.first) else { return Since::Evicted };
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let batches = self.batches.iter().skip(skipped).take(most);
        let batches: Vec<_> = batches.map(|batch| Arc::clone(&batch.events)).collect();
        let next = number + batches.len() as u64;
        Since::Batches(batches, next)
    }

    /// The number of the first batch that has something behind `position`; `None` if something behind it has
    /// gone.
    pub fn number_after(&self, position: Lsn) -> Option<u64> {
        if position < self.evicted {
            return None;
        }
        let passed = self.batches.partition_point(|batch| batch.end <= position);
        Some(self.first + passed as u64)
    }
}
