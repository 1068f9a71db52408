//! The durable part of a client: its id, its user, and the mutations that the server has not acknowledged
//! yet, numbered without gaps. The queue changes only by [`Record`]s, so the stored records always lead to
//! the queue in memory. A mutation has an id for the application, which grows as long as the queue exists,
//! and a number for the server, which begins with 1 for every client id. The difference between the two
//! is [`MutationQueue::offset`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::op::Op;
use crate::row::KeyColumns;

/// One change of a queue. A storage keeps records in order and does not interpret them. Their `serde` form
/// is stable: stored queues have the names `refused` and `settled` for rejections and acknowledgements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Record {
    /// The queue took a client id. It has no mutations up to `acked`, and those behind it belong to no
    /// user yet.
    Client {
        /// The id.
        client_id: String,
        /// A mutation's id plus this is its number.
        offset: i64,
        /// The highest acknowledged mutation.
        #[serde(rename = "settled")]
        acked: u64,
    },
    /// The queue belongs to this user.
    User {
        /// The user's id, from the server.
        user_id: String,
    },
    /// The tables that the server named.
    Tables {
        /// The columns of each table's primary key.
        keys: BTreeMap<String, Vec<String>>,
    },
    /// The numbers have changed.
    Offset {
        /// A mutation's id plus this is its number.
        offset: i64,
    },
    /// The application made a mutation.
    Mutation {
        /// One more than that of the mutation before.
        id: u64,
        /// Its operations.
        #[serde(with = "shared")]
        ops: Arc<[Op]>,
    },
    /// The server rejected a mutation. It stays in the queue, since its number may have to be sent again.
    #[serde(rename = "refused")]
    Rejected {
        /// Which one.
        id: u64,
    },
    /// The server acknowledged every mutation up to this one. They leave the queue.
    #[serde(rename = "settled")]
    Acked {
        /// The last of them.
        id: u64,
    },
}

impl Record {
    /// Whether mutations must not be sent before this record is durable.
    pub(crate) fn is_header(&self) -> bool {
        matches!(self, Record::Client { .. } | Record::User { .. } | Record::Offset { .. })
    }
}

/// Records that do not follow from each other.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("record {position} of the stored queue does not fit those before it: {why}")]
pub struct CorruptQueue {
    /// Counted from 1.
    pub position: usize,
    /// What is wrong with it.
    pub why: String,
}

/// A mutation in the queue.
#[derive(Clone, Debug)]
pub(crate) struct QueueEntry {
    pub(crate) ops: Arc<[Op]>,
    /// The server rejected it, so its effects are not shown.
    pub(crate) rejected: bool,
    bytes: usize,
}

/// The mutations that are not acknowledged yet. See the module's text.
#[derive(Clone, Debug)]
pub(crate) struct MutationQueue {
    pub(crate) client_id: String,
    pub(crate) user_id: Option<String>,
    pub(crate) keys: KeyColumns,
    pub(crate) offset: i64,
    /// Every mutation up to this id has left the queue.
    pub(crate) acked: u64,
    /// Those behind `acked`, without a gap.
    entries: VecDeque<QueueEntry>,
    bytes: usize,
}

impl MutationQueue {
    /// The empty queue that a [`Record::Client`] describes; any other record is an error.
    fn begin(first: &Record) -> Result<MutationQueue, String> {
        let Record::Client { client_id, offset, acked } = first else {
            return Err("a queue begins with a client id".to_owned());
        };
        Ok(MutationQueue {
            client_id: client_id.clone(),
            user_id: None,
            keys: KeyColumns::new(),
            offset: *offset,
            acked: *acked,
            entries: VecDeque::new(),
            bytes: 0,
        })
    }

    /// The queue of a client that has made no mutation, and the record of that.
    pub(crate) fn new(client_id: String) -> (MutationQueue, Record) {
        let queue = MutationQueue {
            client_id: client_id.clone(),
            user_id: None,
            keys: KeyColumns::new(),
            offset: 0,
            acked: 0,
            entries: VecDeque::new(),
            bytes: 0,
        };
        (queue, Record::Client { client_id, offset: 0, acked: 0 })
    }

    /// The queue that these records led to; `None` if there are none.
    pub(crate) fn restore(records: &[Record]) -> Result<Option<MutationQueue>, CorruptQueue> {
        let Some((first, rest)) = records.split_first() else { return Ok(None) };
        let corrupt = |position, why| CorruptQueue { position, why };
        let mut queue = MutationQueue::begin(first).map_err(|why| corrupt(1, why))?;
        for (index, record) in rest.iter().enumerate() {
            queue.apply(record).map_err(|why| corrupt(index + 2, why))?;
        }
        Ok(Some(queue))
    }

    /// The fewest records that lead to this queue.
    pub(crate) fn records(&self) -> Vec<Record> {
        let client_id = self.client_id.clone();
        let mut records =
            vec![Record::Client { client_id, offset: self.offset, acked: self.acked }];
        records.extend(self.user_id.clone().map(|user_id| Record::User { user_id }));
        if !self.keys.is_empty() {
            records.push(Record::Tables { keys: self.keys.clone() });
        }
        for (id, entry) in self.entries() {
            records.push(Record::Mutation { id, ops: Arc::clone(&entry.ops) });
            if entry.rejected {
                records.push(Record::Rejected { id });
            }
        }
        records
    }

    /// Applies one record; an error leaves the queue as it was.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<(), String> {
        match record {
            Record::Client { client_id, offset, acked } => {
                self.acknowledge(*acked)?;
                self.client_id.clone_from(client_id);
                self.user_id = None;
                self.offset = *offset;
            }
            Record::User { user_id } => self.user_id = Some(user_id.clone()),
            Record::Tables { keys } => self.keys.clone_from(keys),
            Record::Offset { offset } => self.offset = *offset,
            Record::Mutation { id, ops } => {
                if *id != self.last() + 1 {
                    return Err(format!("mutation {id} follows {}", self.last()));
                }
                let bytes = size(ops);
                self.bytes += bytes;
                self.entries.push_back(QueueEntry { ops: Arc::clone(ops), rejected: false, bytes });
            }
            // An outcome may be stored after a record that has already removed its mutation.
            Record::Rejected { id } | Record::Acked { id } if *id <= self.acked => {}
            Record::Rejected { id } => match self.index(*id) {
                Some(index) => self.entries[index].rejected = true,
                None => return Err(format!("mutation {id} is rejected, but not in the queue")),
            },
            Record::Acked { id } => self.acknowledge(*id)?,
        }
        Ok(())
    }

    fn acknowledge(&mut self, id: u64) -> Result<(), String> {
        if id < self.acked || id > self.last() {
            let (acked, last) = (self.acked, self.last());
            return Err(format!(
                "mutation {id} is acknowledged, but the queue has {acked} to {last}"
            ));
        }
        while self.acked < id {
            self.acked += 1;
            self.bytes -= self.entries.pop_front().map_or(0, |entry| entry.bytes);
        }
        Ok(())
    }

    fn index(&self, id: u64) -> Option<usize> {
        let index = usize::try_from(id.checked_sub(self.acked + 1)?).ok()?;
        (index < self.entries.len()).then_some(index)
    }

    /// The highest id in use.
    pub(crate) fn last(&self) -> u64 {
        self.acked + self.entries.len() as u64
    }

    /// How many mutations are in the queue.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How large their operations are, in bytes of JSON.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&self, id: u64) -> Option<&QueueEntry> {
        self.index(id).map(|index| &self.entries[index])
    }

    /// The mutations in the queue, in order, with their ids.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, &QueueEntry)> {
        (self.acked + 1..).zip(&self.entries)
    }

    /// The number by which the server knows a mutation.
    pub(crate) fn number(&self, id: u64) -> u64 {
        id.saturating_add_signed(self.offset)
    }

    /// The id of the mutation that the server knows by this number; 0 if this queue never had it.
    pub(crate) fn id(&self, number: u64) -> u64 {
        number.saturating_add_signed(self.offset.saturating_neg())
    }

    /// The offset by which `id` has `number`.
    pub(crate) fn offset_for(id: u64, number: u64) -> i64 {
        if number >= id {
            i64::try_from(number - id).unwrap_or(i64::MAX)
        } else {
            i64::try_from(id - number).map_or(i64::MIN, |difference| -difference)
        }
    }
}

/// Serializes shared operations as a sequence.
pub(crate) mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::op::Op;

    pub(crate) fn serialize<S: Serializer>(ops: &Arc<[Op]>, to: S) -> Result<S::Ok, S::Error> {
        (**ops).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<[Op]>, D::Error> {
        Ok(Vec::deserialize(from)?.into())
    }
}

/// The size of operations in bytes of JSON.
pub(crate) fn size(ops: &[Op]) -> usize {
    serde_json::to_string(ops).map_or(0, |text| text.len())
}
