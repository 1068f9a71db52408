//! A connection that streams, on Postgres' side: every transaction behind a position in commit order, as
//! messages of `pgoutput`. Each is decoded with the catalog as it was then, published by the publication as it
//! was then, and the shape of a table is told before its first change and after each change of its shape.

use std::collections::{BTreeMap, VecDeque};

use rowtide_protocol::Lsn;

use super::catalog::{CLIENT, Catalog, Column, Field, Identity, Kind, Oid, Operations, Relation};
use super::database::{Database, Place};
use super::{Commit, Postgres};
use crate::data::{Row, Stored};

/// What travels over the connection.
#[derive(Clone, Debug)]
pub enum Sent {
    Message(Vec<u8>),
    KeepAlive(Lsn),
}

/// Why it ends.
#[derive(Debug, PartialEq, Eq)]
pub enum WalsenderError {
    /// `42704`: what is to be decoded was written when there was no such publication.
    NoPublication,
}

/// The connection.
#[derive(Debug)]
pub struct Walsender {
    /// Everything up to here was sent.
    pub position: Lsn,
    /// Of each table the shape that was told.
    told: BTreeMap<Oid, Option<Relation>>,
}

impl Walsender {
    pub fn new(position: Lsn) -> Walsender {
        Walsender { position, told: BTreeMap::new() }
    }

    /// What comes next: one transaction, or how far WAL has come; nothing if that is known.
    ///
    /// # Errors
    /// When it cannot be decoded. It never can be then, by this slot.
    pub fn next(&mut self, postgres: &mut Postgres) -> Result<VecDeque<Sent>, WalsenderError> {
        let next = postgres.log.partition_point(|commit| commit.lsn <= self.position);
        let Some(commit) = postgres.log.get(next) else {
            let end = postgres.wal_end;
            let news = self.position < end;
            self.position = end;
            return Ok(news.then_some(Sent::KeepAlive(end)).into_iter().collect());
        };
        let messages = self.decode(commit, postgres.newer)?;
        self.position = commit.lsn;
        postgres.streamed = postgres.streamed.max(commit.lsn);
        let (lsn, xid) = (commit.lsn, commit.xid as u32);
        let commit_time_us = commit.time_ms as i64 * 1000 + 1;
        let mut sent = VecDeque::from([begin_message(lsn, xid, commit_time_us)]);
        sent.extend(messages);
        sent.push_back(commit_message(lsn, commit_time_us));
        Ok(sent.into_iter().map(Sent::Message).collect())
    }

    fn decode(&mut self, commit: &Commit, newer: bool) -> Result<Vec<Vec<u8>>, WalsenderError> {
        let work = &commit.work;
        let changes = !work.writes.is_empty() || !work.truncated.is_empty();
        if !changes && work.client.is_none() {
            return Ok(Vec::new());
        }
        let (before, after) = (&commit.before.database, &commit.after.database);
        let Some(publication) = &after.catalog.publication else {
            // From version 18 on it says so in its log, and leaves the changes out.
            return if newer { Ok(Vec::new()) } else { Err(WalsenderError::NoPublication) };
        };
        let mut messages = Vec::new();
        let operations = publication.operations;
        let truncated = work.truncated.iter().copied();
        let truncated: Vec<Oid> = truncated
            .filter(|oid| operations.truncate && publication.members.contains_key(oid))
            .collect();
        for oid in &truncated {
            self.tell_shape(&after.catalog, *oid, &mut messages);
        }
        if !truncated.is_empty() {
            let mut message = vec![b'T'];
            message.extend((truncated.len() as u32).to_be_bytes());
            message.push(0);
            truncated.iter().for_each(|oid| message.extend(oid.to_be_bytes()));
            messages.push(message);
        }
        for (place, new) in &work.writes {
            let Some(member) = publication.members.get(&place.0) else { continue };
            let Some(relation) = after.catalog.relations.get(&place.0) else { continue };
            let old = old_row(before, place, &work.truncated);
            let change = (old.map(|old| &old.row), new.as_ref().map(|new| &new.row));
            let Some((old, new)) = published(change, operations, member.filtered) else { continue };
            self.tell_shape(&after.catalog, place.0, &mut messages);
            messages.push(change_message(relation, old, new));
        }
        if let Some((client, row)) = &work.client
            && publication.members.contains_key(&CLIENT)
        {
            self.tell_shape(&after.catalog, CLIENT, &mut messages);
            let there = before.clients.contains_key(client);
            let rejected = work.acknowledgement.as_ref().map(|told| &told.rejected);
            let rejected = rejected.filter(|rejected| !rejected.is_empty());
            let rejected = rejected.map(|rejected| serde_json::to_string(rejected).unwrap());
            let last = row.last.to_string();
            let values = [
                Some(client.as_str()),
                Some(row.user.as_str()),
                Some(last.as_str()),
                rejected.as_deref(),
                work.acknowledgement.as_ref().and_then(|told| told.name.as_deref()),
            ];
            let mut message = vec![if there { b'U' } else { b'I' }];
            message.extend(CLIENT.to_be_bytes());
            message.push(b'N');
            push_tuple(&mut message, values);
            messages.push(message);
        }
        Ok(messages)
    }

    fn tell_shape(&mut self, catalog: &Catalog, oid: Oid, messages: &mut Vec<Vec<u8>>) {
        let shape = catalog.relations.get(&oid);
        if self.told.get(&oid).is_some_and(|told| told.as_ref() == shape) {
            return;
        }
        self.told.insert(oid, shape.cloned());
        let Some(relation) = catalog.relations.get(&oid) else {
            let columns = [
                ("client_id", Kind::Text),
                ("user_id", Kind::Text),
                ("last_mutation", Kind::Bigint),
                ("refused", Kind::Text),
                ("name", Kind::Text),
            ];
            return messages.push(relation_message(CLIENT, "rowtide", "client", b'd', &columns));
        };
        let identity = match relation.identity {
            Identity::Full => b'f',
            Identity::Key => b'd',
            Identity::Nothing => b'n',
        };
        let column = |column: &Column| (column.name.clone(), column.kind);
        let columns: Vec<(String, Kind)> = relation.columns.iter().map(column).collect();
        let columns: Vec<(&str, Kind)> =
            columns.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
        messages.push(relation_message(oid, "public", &relation.name, identity, &columns));
    }
}

/// Between the epochs of Unix and of Postgres, in microseconds.
const US_1970_TO_2000: i64 = 946_684_800_000_000;

/// Where the commit of a transaction begins that ends at `lsn`: a commit record has a length.
fn commit_record(lsn: Lsn) -> u64 {
    lsn.0 - 8
}

fn begin_message(lsn: Lsn, xid: u32, commit_time_us: i64) -> Vec<u8> {
    let mut message = vec![b'B'];
    message.extend(commit_record(lsn).to_be_bytes());
    message.extend((commit_time_us - US_1970_TO_2000).to_be_bytes());
    message.extend(xid.to_be_bytes());
    message
}

fn commit_message(lsn: Lsn, commit_time_us: i64) -> Vec<u8> {
    let mut message = vec![b'C', 0];
    message.extend(commit_record(lsn).to_be_bytes());
    message.extend(lsn.0.to_be_bytes());
    message.extend((commit_time_us - US_1970_TO_2000).to_be_bytes());
    message
}

fn old_row<'a>(before: &'a Database, place: &Place, truncated: &[Oid]) -> Option<&'a Stored> {
    let old = before.rows.get(place).filter(|_| !truncated.contains(&place.0))?;
    Some(old)
}

/// A row before and after, each if it is there.
type Change<'a> = (Option<&'a Row>, Option<&'a Row>);

/// What of a change is published: operations are left out as they were done, and rows that a filter does not
/// take are as if they were not there.
fn published(change: Change<'_>, operations: Operations, filtered: bool) -> Option<Change<'_>> {
    let takes = match change {
        (None, None) => false,
        (None, Some(_)) => operations.insert,
        (Some(_), Some(_)) => operations.update,
        (Some(_), None) => operations.delete,
    };
    let passes = |row: &&Row| !filtered || !row.hidden;
    let (old, new) = (change.0.filter(passes), change.1.filter(passes));
    (takes && (old.is_some() || new.is_some())).then_some((old, new))
}

fn change_message(relation: &Relation, old: Option<&Row>, new: Option<&Row>) -> Vec<u8> {
    let values = |row: &Row| -> Vec<Option<String>> {
        relation.columns.iter().map(|column| relation.text(row, column)).collect()
    };
    let key = |row: &Row| -> Vec<Option<String>> {
        let text =
            |column: &Column| relation.text(row, column).filter(|_| column.field == Field::Id);
        relation.columns.iter().map(text).collect()
    };
    let full = relation.identity == Identity::Full;
    let mut message = vec![match (old, new) {
        (None, _) => b'I',
        (Some(_), Some(_)) => b'U',
        (Some(_), None) => b'D',
    }];
    message.extend(relation.oid.to_be_bytes());
    // The key of a row does not change, so without a full identity an update brings no old one.
    if let Some(old) = old.filter(|_| full || new.is_none()) {
        message.push(if full { b'O' } else { b'K' });
        let values = if full { values(old) } else { key(old) };
        push_tuple(&mut message, values.iter().map(Option::as_deref));
    }
    if let Some(new) = new {
        message.push(b'N');
        push_tuple(&mut message, values(new).iter().map(Option::as_deref));
    }
    message
}

fn push_tuple<'a>(
    message: &mut Vec<u8>,
    values: impl IntoIterator<Item = Option<&'a str>, IntoIter: ExactSizeIterator>,
) {
    let values = values.into_iter();
    message.extend((values.len() as u16).to_be_bytes());
    for value in values {
        match value {
            None => message.push(b'n'),
            Some(text) => {
                message.push(b't');
                message.extend((text.len() as u32).to_be_bytes());
                message.extend(text.as_bytes());
            }
        }
    }
}

fn relation_message(
    oid: Oid,
    schema: &str,
    name: &str,
    identity: u8,
    columns: &[(&str, Kind)],
) -> Vec<u8> {
    let mut message = vec![b'R'];
    message.extend(oid.to_be_bytes());
    for text in [schema, name] {
        message.extend(text.as_bytes());
        message.push(0);
    }
    message.push(identity);
    message.extend((columns.len() as u16).to_be_bytes());
    for (index, (name, kind)) in columns.iter().enumerate() {
        message.push(u8::from(identity == b'f' || identity == b'd' && index == 0));
        message.extend(name.as_bytes());
        message.push(0);
        message.extend(kind.oid().to_be_bytes());
        message.extend((-1i32).to_be_bytes());
    }
    message
}
