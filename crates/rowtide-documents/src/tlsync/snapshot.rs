//! What is stored of a document: a snapshot of the whole, and the edits that came after it, both JSON. Snapshots of
//! other servers are read too; they say less. An edit says which clock it leads to, so that one that a snapshot has
//! already is passed over, and one that is missing is noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use super::application::{NewerSchema, named};
use super::diff::{Flavour, RecordsDiff};
use super::document::{Document, MAX_CLOCK};
use super::json::{Json, write_value};
use super::limits::TlsyncLimits;
use super::record::Record;
use super::schema::Schema;
use super::telling::Entries;

/// Why something is no snapshot of a document.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// It is no JSON, or something in it is not what it should be.
    #[error("it cannot be read as a snapshot: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// It says no clock, or one that is too large.
    #[error("it has no clock")]
    NoClock,
    /// Its schema is of a form that is not known.
    #[error("its schema cannot be read")]
    Schema,
    /// It is of a newer schema than the application's.
    #[error(transparent)]
    Newer(#[from] NewerSchema),
}

/// Why an edit does not follow on a document. The document is of no use then.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// It is no JSON, or something in it is not what it should be.
    #[error("it cannot be read as an edit: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// What it restores is no snapshot.
    #[error("what it restores: {0}")]
    Snapshot(#[from] SnapshotError),
    /// Edits are missing before it.
    #[error("the document is at clock {at}, and the edit leads to {to}")]
    Gap {
        /// The clock of the document.
        at: u64,
        /// The clock that the edit leads to.
        to: u64,
    },
    /// It was made of another document.
    #[error("the edit that leads to clock {to} does not fit the document")]
    Misfit {
        /// The clock that the edit leads to.
        to: u64,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored<'a> {
    document_clock: Option<u64>,
    /// What older servers call it.
    clock: Option<u64>,
    tombstone_history_starts_at_clock: Option<u64>,
    #[serde(borrow)]
    documents: Vec<StoredRecord<'a>>,
    #[serde(default)]
    tombstones: BTreeMap<Box<str>, u64>,
    /// `null` if nobody has edited the document yet.
    #[serde(default = "earliest")]
    schema: Option<Json>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredRecord<'a> {
    #[serde(borrow)]
    state: &'a RawValue,
    last_changed_clock: u64,
}

#[derive(Deserialize)]
struct Edit<'a> {
    clock: u64,
    /// Said by the first edit of all: at which clock the document began, if not at 0.
    #[serde(default)]
    begun: u64,
    /// Said with it: the records that a new document had for the application, if it has a schema of its own.
    initial: Option<Vec<Json>>,
    #[serde(default)]
    diff: RecordsDiff,
    schema: Option<Json>,
    #[serde(borrow)]
    restored: Option<&'a RawValue>,
}

/// How a document began, which its first edit says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun<'a> {
    /// At which clock.
    pub(super) at: u64,
    /// With which records, if the application has a schema of its own.
    pub(super) initial: Option<&'a [(Box<str>, Json)]>,
}

fn earliest() -> Option<Json> {
    Some(Schema::earliest().written().clone())
}

/// Reads a snapshot.
pub(super) fn read(snapshot: &[u8]) -> Result<Document, SnapshotError> {
    let stored: Stored<'_> = serde_json::from_slice(snapshot)?;
    let clock = stored.document_clock.or(stored.clock);
    let clock = clock.filter(|clock| *clock <= MAX_CLOCK).ok_or(SnapshotError::NoClock)?;
    let read = |schema| Schema::read(schema).map(Arc::new).ok_or(SnapshotError::Schema);
    let schema = stored.schema.map(read).transpose()?;
    let mut records = BTreeMap::new();
    for StoredRecord { state, last_changed_clock } in stored.documents {
        let (id, record) = Record::load(state, last_changed_clock.min(clock))?;
        records.insert(id, record);
    }
    let mut tombstones = stored.tombstones;
    tombstones.retain(|id, _| !records.contains_key(id));
    tombstones.values_mut().for_each(|removed_at| *removed_at = clock.min(*removed_at));
    let history_start = stored.tombstone_history_starts_at_clock.unwrap_or(clock).min(clock);
    Ok(Document::of(clock, history_start, records, tombstones, schema))
}

/// Writes a snapshot, of a schema where the document has none yet.
pub(super) fn write(document: &Document, otherwise: Option<&Schema>) -> Bytes {
    let mut out = Vec::new();
    out.extend_from_slice(br#"{"documentClock":"#);
    write_value(&mut out, &document.clock);
    out.extend_from_slice(br#","clock":"#);
    write_value(&mut out, &document.clock);
    out.extend_from_slice(br#","tombstoneHistoryStartsAtClock":"#);
    write_value(&mut out, &document.history_start);
    out.extend_from_slice(br#","schema":"#);
    let schema = document.schema.as_deref().or(otherwise);
    write_value(&mut out, &schema.map(Schema::written));
    out.extend_from_slice(br#","tombstones":"#);
    write_value(&mut out, &document.tombstones);
    out.extend_from_slice(br#","documents":["#);
    for (n, record) in document.records.values().enumerate() {
        out.extend_from_slice(if n == 0 { br#"{"state":"# } else { br#",{"state":"# });
        record.write(&mut out);
        out.extend_from_slice(br#","lastChangedClock":"#);
        write_value(&mut out, &record.changed_at);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    out.into()
}

/// Writes the edit that has led to a clock, with where the document began if it is the first one, and with the schema if
/// nobody who reads the edits could know it.
pub(super) fn write_edit(
    clock: u64,
    begun: Option<Begun<'_>>,
    diff: &Entries,
    schema: Option<&Schema>,
) -> Bytes {
    let mut out = Vec::with_capacity(diff.as_bytes().len() + 64);
    write_clock(&mut out, clock, begun);
    if let Some(schema) = schema {
        out.extend_from_slice(br#","schema":"#);
        schema.written().write(&mut out);
    }
    out.extend_from_slice(br#","diff":{"#);
    out.extend_from_slice(diff.as_bytes());
    out.extend_from_slice(b"}}");
    out.into()
}

/// Writes the edit that has led to a clock by restoring a snapshot.
pub(super) fn write_restored(clock: u64, begun: Option<Begun<'_>>, snapshot: &Document) -> Bytes {
    let mut out = Vec::new();
    write_clock(&mut out, clock, begun);
    out.extend_from_slice(br#","restored":"#);
    out.extend_from_slice(&write(snapshot, None));
    out.push(b'}');
    out.into()
}

fn write_clock(out: &mut Vec<u8>, clock: u64, begun: Option<Begun<'_>>) {
    out.extend_from_slice(br#"{"clock":"#);
    write_value(out, &clock);
    let Some(Begun { at, initial }) = begun else { return };
    if at > 0 {
        out.extend_from_slice(br#","begun":"#);
        write_value(out, &at);
    }
    if let Some(initial) = initial {
        out.extend_from_slice(br#","initial":"#);
        write_value(out, &initial.iter().map(|(_, state)| state).collect::<Vec<_>>());
    }
}

/// Does again what an edit did, unless it is done.
pub(super) fn replay(
    document: &mut Document,
    edit: &[u8],
    limits: &TlsyncLimits,
) -> Result<(), ReplayError> {
    let edit: Edit<'_> = serde_json::from_slice(edit)?;
    if document.begun.is_some() {
        *document = match edit.initial {
            None => Document::begin(edit.begun),
            Some(initial) => {
                let with_id = |state: Json| Some((named(&state)?.0.into(), state));
                let initial: Vec<_> = initial.into_iter().filter_map(with_id).collect();
                Document::begin_with(edit.begun, &initial)
            }
        };
    }
    if edit.clock <= document.clock {
        return Ok(());
    }
    if edit.clock != document.clock + 1 {
        return Err(ReplayError::Gap { at: document.clock, to: edit.clock });
    }
    if let Some(restored) = edit.restored {
        *document = document.restored(read(restored.get().as_bytes())?, limits);
        return Ok(());
    }
    let is_schema_alone = edit.schema.is_some() && edit.diff.0.is_empty();
    if let Some(schema) = edit.schema {
        document.schema = Some(Schema::read(schema).map(Arc::new).ok_or(SnapshotError::Schema)?);
    }
    let change = document.change(edit.diff, Flavour::Eight, limits);
    if is_schema_alone {
        // No record is another in it.
        document.clock = edit.clock;
    }
    if change.exact && document.clock == edit.clock {
        document.begun = None;
        Ok(())
    } else {
        Err(ReplayError::Misfit { to: edit.clock })
    }
}

/// Does what an edit did, as a client would ask for it, on a document that others have changed since: whether all of it had
/// an effect. What was restored is not restored again over what others have made of the document, and what was said in
/// another schema than the document's is no change of it. Records that are `left_out` stay as they are. `said_in` is the schema
/// of edits that do not say theirs: that of the edit before. The ids of records that are changed go to `changed`.
pub(super) fn merge(
    document: &mut Document,
    edit: &[u8],
    said_in: &mut Option<Arc<Schema>>,
    left_out: &impl Fn(&str) -> bool,
    changed: &mut BTreeSet<Box<str>>,
    limits: &TlsyncLimits,
) -> Result<bool, ReplayError> {
    let mut edit: Edit<'_> = serde_json::from_slice(edit)?;
    // Once it is stored, the document has this edit, whatever of it had an effect.
    document.clock = document.clock.max(edit.clock);
    if edit.restored.is_some() {
        return Ok(false);
    }
    if let Some(schema) = edit.schema {
        *said_in = Some(Schema::read(schema).map(Arc::new).ok_or(SnapshotError::Schema)?);
    }
    let schema = match (said_in.clone(), document.schema.clone()) {
        (Some(own), Some(there)) if there.serves(&own).is_err() => return Ok(false),
        (own, there) => there.or(own),
    };
    let records = edit.diff.0.len();
    edit.diff.0.retain(|(id, _)| !left_out(id));
    let is_whole = edit.diff.0.len() == records;
    let mut do_it = |document: &mut Document, diff| {
        let change = document.change(diff, Flavour::Eight, limits);
        changed.extend(change.became.into_iter().map(|(id, _)| id));
        is_whole && change.exact
    };
    let Some(schema) = schema else {
        return Ok(do_it(document, edit.diff));
    };
    // Records that the document cannot take are nobody's any more.
    document.schema = Some(schema);
    // Which types are stored was looked at when the edit was taken.
    let fits = document.check(&edit.diff, |_| true, limits).is_ok()
        && document.would_fit(&edit.diff, limits);
    Ok(fits && do_it(document, edit.diff))
}
