//! The messages of `pgoutput`, protocol version 1 (PostgreSQL documentation, "Logical Replication
//! Message Formats"). The decoder borrows from the message and is total: any bytes give a message or
//! an error that says where they stop making sense.

use thiserror::Error;

/// One message inside the stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Message<'a> {
    /// A transaction begins.
    Begin {
        /// The LSN of its commit record.
        final_lsn: u64,
        /// Microseconds since 2000-01-01.
        commit_time_us: i64,
        /// Its id.
        xid: u32,
    },
    /// A transaction ends.
    Commit {
        /// The LSN of the commit record.
        commit_lsn: u64,
        /// The LSN after it.
        end_lsn: u64,
        /// Microseconds since 2000-01-01.
        commit_time_us: i64,
    },
    /// Where the transaction comes from, if it was replicated itself.
    Origin,
    /// The shape of a table, before its first change and after each change of its shape.
    Relation(Relation<'a>),
    /// The name of a type that is not built in.
    Type,
    /// A new row.
    Insert {
        /// The table.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A changed row.
    Update {
        /// The table.
        relation: u32,
        /// The columns of the replica identity before, if one of them changed or it is `FULL`.
        old: Option<Tuple<'a>>,
        /// The row.
        new: Tuple<'a>,
    },
    /// A row that is gone.
    Delete {
        /// The table.
        relation: u32,
        /// The columns of the replica identity.
        old: Tuple<'a>,
    },
    /// Tables that were emptied.
    Truncate {
        /// Their ids.
        relations: Vec<u32>,
    },
    /// From `pg_logical_emit_message`.
    Logical {
        /// Whether it belongs to a transaction.
        transactional: bool,
        /// Says what it is.
        prefix: &'a str,
        /// Anything.
        content: &'a [u8],
    },
}

/// The shape of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Relation<'a> {
    /// `pg_class.oid`.
    pub id: u32,
    /// The schema; empty for `pg_catalog`.
    pub schema: &'a str,
    /// The table.
    pub name: &'a str,
    /// `pg_class.relreplident`.
    pub replica_identity: u8,
    /// In the order in which tuples have them.
    pub columns: Vec<RelationColumn<'a>>,
}

/// A column of a [`Relation`].
#[derive(Clone, Debug, PartialEq)]
pub struct RelationColumn<'a> {
    /// Whether it is part of the replica identity.
    pub key: bool,
    /// The column.
    pub name: &'a str,
    /// `pg_type.oid`.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`.
    pub type_modifier: i32,
}

/// The values of a row.
pub type Tuple<'a> = Vec<TupleValue<'a>>;

/// One value of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TupleValue<'a> {
    /// SQL `NULL`; in an old tuple that is not `FULL`, also a column that is not part of it.
    Null,
    /// A value stored out of line that did not change, and was not sent.
    Unchanged,
    /// What the type's output function prints.
    Text(&'a [u8]),
}

/// A message that is not of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the replication stream holds a malformed `{kind}` message: {what} at byte {offset}")]
pub struct Malformed {
    /// The message's first byte, `?` if there is none.
    pub kind: char,
    /// What was expected.
    pub what: &'static str,
    /// Where.
    pub offset: usize,
}

/// Decodes one message.
///
/// # Errors
/// When the bytes are not exactly one message.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut reader = Reader { bytes, at: 0 };
    let message = reader.message()?;
    if reader.at < bytes.len() {
        return Err(reader.malformed("more bytes than the message has"));
    }
    Ok(message)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn malformed(&self, what: &'static str) -> Malformed {
        let kind = self.bytes.first().map_or('?', |byte| char::from(*byte));
        Malformed { kind, what, offset: self.at }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else { return Err(self.malformed("the message is cut off")) };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().position(|byte| *byte == 0) else {
            return Err(self.malformed("a text has no end"));
        };
        let text = std::str::from_utf8(&rest[..length])
            .map_err(|_| self.malformed("a text is not UTF-8"))?;
        self.at += length + 1;
        Ok(text)
    }

    fn message(&mut self) -> Result<Message<'a>, Malformed> {
        Ok(match self.u8()? {
            b'B' => Message::Begin {
                final_lsn: self.u64()?,
                commit_time_us: self.u64()? as i64,
                xid: self.u32()?,
            },
            b'C' => {
                self.u8()?;
                let (commit_lsn, end_lsn) = (self.u64()?, self.u64()?);
                Message::Commit { commit_lsn, end_lsn, commit_time_us: self.u64()? as i64 }
            }
            b'O' => {
                self.u64()?;
                self.text()?;
                Message::Origin
            }
            b'R' => Message::Relation(self.relation()?),
            b'Y' => {
                self.u32()?;
                self.text()?;
                self.text()?;
                Message::Type
            }
            b'I' => {
                let relation = self.u32()?;
                self.expect(b'N')?;
                Message::Insert { relation, new: self.tuple()? }
            }
            b'U' => {
                let relation = self.u32()?;
                let old = match self.u8()? {
                    b'K' | b'O' => {
                        let old = self.tuple()?;
                        self.expect(b'N')?;
                        Some(old)
                    }
                    b'N' => None,
                    _ => return Err(self.malformed("a tuple of another kind was expected")),
                };
                Message::Update { relation, old, new: self.tuple()? }
            }
            b'D' => {
                let relation = self.u32()?;
                if !matches!(self.u8()?, b'K' | b'O') {
                    return Err(self.malformed("an old tuple was expected"));
                }
                Message::Delete { relation, old: self.tuple()? }
            }
            b'T' => {
                let count = self.u32()?;
                self.u8()?;
                let mut relations = Vec::new();
                for _ in 0..count {
                    relations.push(self.u32()?);
                }
                Message::Truncate { relations }
            }
            b'M' => {
                let transactional = self.u8()? & 1 == 1;
                self.u64()?;
                let prefix = self.text()?;
                let length = self.u32()?;
                let content = self.take(length as usize)?;
                Message::Logical { transactional, prefix, content }
            }
            _ => return Err(self.malformed("the kind of message is unknown")),
        })
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.u8()? == byte { Ok(()) } else { Err(self.malformed("a new tuple was expected")) }
    }

    fn relation(&mut self) -> Result<Relation<'a>, Malformed> {
        let (id, schema, name) = (self.u32()?, self.text()?, self.text()?);
        let replica_identity = self.u8()?;
        let count = self.u16()?;
        let mut columns = Vec::new();
        for _ in 0..count {
            columns.push(RelationColumn {
                key: self.u8()? & 1 == 1,
                name: self.text()?,
                type_oid: self.u32()?,
                type_modifier: self.u32()? as i32,
            });
        }
        Ok(Relation { id, schema, name, replica_identity, columns })
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, Malformed> {
        let count = usize::from(self.u16()?);
        // A value takes at least a byte, so a count that lies cannot make us reserve much.
        let mut values = Vec::with_capacity(count.min(self.bytes.len() - self.at));
        for _ in 0..count {
            values.push(match self.u8()? {
                b'n' => TupleValue::Null,
                b'u' => TupleValue::Unchanged,
                b't' => {
                    let length = self.u32()?;
                    TupleValue::Text(self.take(length as usize)?)
                }
                _ => return Err(self.malformed("the kind of a value is unknown")),
            });
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What Postgres would send for a message.
    fn encode(message: &Message<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let text = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        };
        let tuple = |bytes: &mut Vec<u8>, tuple: &Tuple<'_>| {
            bytes.extend_from_slice(&(tuple.len() as u16).to_be_bytes());
            for value in tuple {
                match value {
                    TupleValue::Null => bytes.push(b'n'),
                    TupleValue::Unchanged => bytes.push(b'u'),
                    TupleValue::Text(text) => {
                        bytes.push(b't');
                        bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
                        bytes.extend_from_slice(text);
                    }
                }
            }
        };
        match message {
            Message::Begin { final_lsn, commit_time_us, xid } => {
                bytes.push(b'B');
                bytes.extend_from_slice(&final_lsn.to_be_bytes());
                bytes.extend_from_slice(&commit_time_us.to_be_bytes());
                bytes.extend_from_slice(&xid.to_be_bytes());
            }
            Message::Commit { commit_lsn, end_lsn, commit_time_us } => {
                bytes.extend_from_slice(b"C\0");
                bytes.extend_from_slice(&commit_lsn.to_be_bytes());
                bytes.extend_from_slice(&end_lsn.to_be_bytes());
                bytes.extend_from_slice(&commit_time_us.to_be_bytes());
            }
            Message::Relation(relation) => {
                bytes.push(b'R');
                bytes.extend_from_slice(&relation.id.to_be_bytes());
                text(&mut bytes, relation.schema);
                text(&mut bytes, relation.name);
                bytes.push(relation.replica_identity);
                bytes.extend_from_slice(&(relation.columns.len() as u16).to_be_bytes());
                for column in &relation.columns {
                    bytes.push(u8::from(column.key));
                    text(&mut bytes, column.name);
                    bytes.extend_from_slice(&column.type_oid.to_be_bytes());
                    bytes.extend_from_slice(&column.type_modifier.to_be_bytes());
                }
            }
            Message::Insert { relation, new } => {
                bytes.push(b'I');
                bytes.extend_from_slice(&relation.to_be_bytes());
                bytes.push(b'N');
                tuple(&mut bytes, new);
            }
            Message::Update { relation, old, new } => {
                bytes.push(b'U');
                bytes.extend_from_slice(&relation.to_be_bytes());
                if let Some(old) = old {
                    bytes.push(b'O');
                    tuple(&mut bytes, old);
                }
                bytes.push(b'N');
                tuple(&mut bytes, new);
            }
            Message::Delete { relation, old } => {
                bytes.push(b'D');
                bytes.extend_from_slice(&relation.to_be_bytes());
                bytes.push(b'K');
                tuple(&mut bytes, old);
            }
            Message::Truncate { relations } => {
                bytes.push(b'T');
                bytes.extend_from_slice(&(relations.len() as u32).to_be_bytes());
                bytes.push(0);
                relations.iter().for_each(|id| bytes.extend_from_slice(&id.to_be_bytes()));
            }
            Message::Logical { transactional, prefix, content } => {
                bytes.push(b'M');
                bytes.push(u8::from(*transactional));
                bytes.extend_from_slice(&7u64.to_be_bytes());
                text(&mut bytes, prefix);
                bytes.extend_from_slice(&(content.len() as u32).to_be_bytes());
                bytes.extend_from_slice(content);
            }
            Message::Origin => bytes.extend_from_slice(b"O\0\0\0\0\0\0\0\0x\0"),
            Message::Type => bytes.extend_from_slice(b"Y\0\0\0\x01s\0t\0"),
        }
        bytes
    }

    fn value() -> impl Strategy<Value = TupleValue<'static>> {
        let texts: [&'static [u8]; 3] = [b"", b"1", b"\xff long"];
        prop_oneof![
            Just(TupleValue::Null),
            Just(TupleValue::Unchanged),
            proptest::sample::select(texts.to_vec()).prop_map(TupleValue::Text),
        ]
    }

    fn message() -> impl Strategy<Value = Message<'static>> {
        let tuple = || proptest::collection::vec(value(), 0..5);
        let column = (any::<bool>(), any::<u32>(), any::<i32>()).prop_map(
            |(key, type_oid, type_modifier)| RelationColumn {
                key,
                name: "ä",
                type_oid,
                type_modifier,
            },
        );
        let columns = proptest::collection::vec(column, 0..4);
        prop_oneof![
            any::<(u64, i64, u32)>().prop_map(|(final_lsn, commit_time_us, xid)| {
                Message::Begin { final_lsn, commit_time_us, xid }
            }),
            any::<(u64, u64, i64)>().prop_map(|(commit_lsn, end_lsn, commit_time_us)| {
                Message::Commit { commit_lsn, end_lsn, commit_time_us }
            }),
            (any::<u32>(), columns).prop_map(|(id, columns)| Message::Relation(Relation {
                id,
                schema: "s",
                name: "t",
                replica_identity: b'f',
                columns
            })),
            (any::<u32>(), tuple()).prop_map(|(relation, new)| Message::Insert { relation, new }),
            (any::<u32>(), proptest::option::of(tuple()), tuple())
                .prop_map(|(relation, old, new)| Message::Update { relation, old, new }),
            (any::<u32>(), tuple()).prop_map(|(relation, old)| Message::Delete { relation, old }),
            proptest::collection::vec(any::<u32>(), 0..4)
                .prop_map(|relations| Message::Truncate { relations }),
            Just(Message::Logical { transactional: true, prefix: "p", content: b"c" }),
            Just(Message::Origin),
            Just(Message::Type),
        ]
    }

    proptest! {
        #[test]
        fn every_message_is_read_back(message in message()) {
            let bytes = encode(&message);
            prop_assert_eq!(decode(&bytes), Ok(message));
        }

        #[test]
        fn a_message_that_is_cut_off_or_too_long_is_rejected(message in message(), cut in 0usize..64) {
            let mut bytes = encode(&message);
            let mut longer = bytes.clone();
            longer.push(0);
            prop_assert!(decode(&longer).is_err());
            bytes.truncate(cut.min(bytes.len() - 1));
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_decoded_or_rejected(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), kind in 0usize..11) {
            if let Some(first) = bytes.first_mut() {
                *first = b"BCORYIUDTMx"[kind];
            }
            // It must come back at all, and whatever it took must be a message.
            if let Ok(message) = decode(&bytes) {
                let insert = matches!(message, Message::Insert { .. });
                prop_assert_eq!(insert, bytes[0] == b'I');
            }
        }
    }
}
