//! The durable part of a client: its id, its user, and its mutations that are not settled, each with
//! a number without a gap. It changes only by [`Record`]s, so that what is stored (the records, in
//! order) and what is in memory cannot differ. Mutations have an id for the application, which grows
//! as long as the queue lives, and a number for the server, which begins with 1 for every client id;
//! the difference is [`Queue::offset`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::op::Op;

/// The columns of each table's primary key.
pub(crate) type KeyColumns = BTreeMap<String, Vec<String>>;

/// One step of a queue's history. A storage keeps records in order and need not understand them; their
/// `serde` form is stable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Record {
    /// A client id was taken. Mutations up to `settled` are gone, those behind it belong to nobody yet.
    Client {
        /// The id.
        client_id: String,
        /// Added to a mutation's id it gives its number.
        offset: i64,
        /// The highest mutation that is settled.
        settled: u64,
    },
    /// The queue belongs to this user.
    User {
        /// The user's id, as the server says it.
        user_id: String,
    },
    /// What the server says of its tables.
    Tables {
        /// The columns of each table's primary key.
        keys: BTreeMap<String, Vec<String>>,
    },
    /// Numbers have shifted.
    Offset {
        /// Added to a mutation's id it gives its number.
        offset: i64,
    },
    /// A mutation was made.
    Mutation {
        /// One more than that of the mutation before.
        id: u64,
        /// What it does.
        #[serde(with = "shared")]
        ops: Arc<[Op]>,
    },
    /// A mutation was refused. It stays in the queue, since its number may have to be sent again.
    Refused {
        /// Which one.
        id: u64,
    },
    /// Every mutation up to this one is settled and leaves the queue.
    Settled {
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

/// A mutation that is not settled.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) ops: Arc<[Op]>,
    /// It was refused, and shows nothing.
    pub(crate) refused: bool,
    bytes: usize,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) client_id: String,
    pub(crate) user_id: Option<String>,
    pub(crate) keys: KeyColumns,
    pub(crate) offset: i64,
    /// Every mutation up to this id has left the queue.
    pub(crate) settled: u64,
    /// Those behind `settled`, without a gap.
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Queue {
    /// An empty queue, which the record describes if it is a [`Record::Client`].
    fn begin(first: &Record) -> Result<Queue, String> {
        let Record::Client { client_id, offset, settled } = first else {
            return Err("a queue begins with a client id".to_owned());
        };
        Ok(Queue {
            client_id: client_id.clone(),
            user_id: None,
            keys: KeyColumns::new(),
            offset: *offset,
            settled: *settled,
            entries: VecDeque::new(),
            bytes: 0,
        })
    }

    /// The queue of a client that has made no mutation, and the record of that.
    pub(crate) fn new(client_id: String) -> (Queue, Record) {
        let queue = Queue {
            client_id: client_id.clone(),
            user_id: None,
            keys: KeyColumns::new(),
            offset: 0,
            settled: 0,
            entries: VecDeque::new(),
            bytes: 0,
        };
        (queue, Record::Client { client_id, offset: 0, settled: 0 })
    }

    /// The queue that these records led to; `None` if there are none.
    pub(crate) fn restore(records: &[Record]) -> Result<Option<Queue>, CorruptQueue> {
        let Some((first, rest)) = records.split_first() else { return Ok(None) };
        let corrupt = |position, why| CorruptQueue { position, why };
        let mut queue = Queue::begin(first).map_err(|why| corrupt(1, why))?;
        for (index, record) in rest.iter().enumerate() {
            queue.apply(record).map_err(|why| corrupt(index + 2, why))?;
        }
        Ok(Some(queue))
    }

    /// The fewest records that lead to this queue.
    pub(crate) fn records(&self) -> Vec<Record> {
        let client_id = self.client_id.clone();
        let mut records =
            vec![Record::Client { client_id, offset: self.offset, settled: self.settled }];
        records.extend(self.user_id.clone().map(|user_id| Record::User { user_id }));
        if !self.keys.is_empty() {
            records.push(Record::Tables { keys: self.keys.clone() });
        }
        for (id, entry) in self.entries() {
            records.push(Record::Mutation { id, ops: Arc::clone(&entry.ops) });
            if entry.refused {
                records.push(Record::Refused { id });
            }
        }
        records
    }

    /// Takes one step; an error leaves the queue as it was.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<(), String> {
        match record {
            Record::Client { client_id, offset, settled } => {
                self.settle(*settled)?;
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
                self.entries.push_back(Entry { ops: Arc::clone(ops), refused: false, bytes });
            }
            // An outcome may be stored later than what has made it void.
            Record::Refused { id } | Record::Settled { id } if *id <= self.settled => {}
            Record::Refused { id } => match self.index(*id) {
                Some(index) => self.entries[index].refused = true,
                None => return Err(format!("mutation {id} is refused, but not in the queue")),
            },
            Record::Settled { id } => self.settle(*id)?,
        }
        Ok(())
    }

    fn settle(&mut self, id: u64) -> Result<(), String> {
        if id < self.settled || id > self.last() {
            return Err(format!("settled up to {id}, but {}..={}", self.settled, self.last()));
        }
        while self.settled < id {
            self.settled += 1;
            self.bytes -= self.entries.pop_front().map_or(0, |entry| entry.bytes);
        }
        Ok(())
    }

    fn index(&self, id: u64) -> Option<usize> {
        let index = usize::try_from(id.checked_sub(self.settled + 1)?).ok()?;
        (index < self.entries.len()).then_some(index)
    }

    /// The highest id that was given.
    pub(crate) fn last(&self) -> u64 {
        self.settled + self.entries.len() as u64
    }

    /// How many mutations are in the queue.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How large their operations are, in bytes of JSON.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Entry> {
        self.index(id).map(|index| &self.entries[index])
    }

    /// Those in the queue, in order, with their ids.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, &Entry)> {
        (self.settled + 1..).zip(&self.entries)
    }

    /// The number by which the server knows a mutation.
    pub(crate) fn number(&self, id: u64) -> u64 {
        id.saturating_add_signed(self.offset)
    }

    /// The mutation that the server knows by this number; 0 if it was never this queue's.
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

/// How operations that are shared are serialized: as a sequence.
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
