//! One step forward of a view, made once and shared by its sessions. What was touched is said when the
//! message is made; where a view has gained many rows at once, these are frozen and said when somebody sends
//! the message, because the engine does not wait for that.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rowtide_plan::map::SeededSet;
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::value::rfc3339;
use rowtide_protocol::{Cursor, delete_change, put_change, tx_frame};

use crate::view_rows::{Place, ViewRows};

/// How many gained rows are said within a step at the most.
const SAID_AT_ONCE: usize = if cfg!(test) { 2 } else { 1_000 };
/// How many bytes of rows are looked up at a time.
const SLICE_BYTES: usize = 64 * 1024;

/// What has changed for a view since its last message.
#[derive(Debug)]
pub struct ViewMessage {
    /// Up to this commit.
    pub cursor: Cursor,
    /// About how many changes they are; not fewer than they are.
    pub rows: usize,
    /// When the last of the commits happened, microseconds since 1970 UTC.
    pub commit_time_us: Option<i64>,
    /// The changes as far as they are said, as JSON, separated by commas.
    said: Bytes,
    /// What is to be said besides.
    gained: Option<Box<Gained>>,
    /// The message as a frame, once somebody has asked for it.
    frame: OnceLock<Bytes>,
}

/// Rows that a view has gained.
#[derive(Debug)]
struct Gained {
    rows: ViewRows,
    /// Some of these are said already.
    except: SeededSet<(TableId, Bytes)>,
    /// All changes, once somebody has asked for them.
    changes: OnceLock<Bytes>,
}

/// The changes of one message, while it is made.
#[derive(Debug, Default)]
pub(crate) struct Body {
    said: Vec<u8>,
    rows: usize,
    gained: Option<Box<Gained>>,
}

impl ViewMessage {
    /// A message of these changes, which are JSON, separated by commas. Its frame is made when it is asked for.
    pub fn new(
        cursor: Cursor,
        changes: Bytes,
        rows: usize,
        commit_time_us: Option<i64>,
    ) -> Arc<ViewMessage> {
        let (said, frame) = (changes, OnceLock::new());
        Arc::new(ViewMessage { cursor, rows, commit_time_us, said, gained: None, frame })
    }

    pub(crate) fn of(cursor: Cursor, body: Body, commit_time_us: Option<i64>) -> Arc<ViewMessage> {
        let Body { said, rows, gained } = body;
        let (said, frame) = (said.into(), OnceLock::new());
        Arc::new(ViewMessage { cursor, rows, commit_time_us, said, gained, frame })
    }

    /// The changes as JSON, separated by commas; shared where views are sent the same.
    pub fn changes(&self) -> &Bytes {
        match &self.gained {
            None => &self.said,
            Some(gained) => gained.changes.get_or_init(|| {
                let mut changes = self.said.to_vec();
                gained.say(&mut changes);
                changes.into()
            }),
        }
    }

    /// About how many bytes it takes by itself; rows that it shares with the engine do not count.
    pub fn size(&self) -> usize {
        size_of::<ViewMessage>() + self.said.len()
    }

    /// The `tx` frame of this message alone, without an acknowledgement; the same bytes for all who ask.
    pub fn frame(&self) -> Bytes {
        let make = || {
            let time = self.commit_time_us.map(rfc3339);
            tx_frame(self.cursor, [&self.changes()[..]], None, &[], time.as_deref())
        };
        self.frame.get_or_init(make).clone()
    }
}

impl Body {
    /// Whether there is nothing to say.
    pub(crate) fn is_empty(&self) -> bool {
        self.said.is_empty() && self.gained.is_none()
    }

    /// The JSON of a body to which no gained rows were added.
    pub(crate) fn into_said(self) -> Bytes {
        self.said.into()
    }

    /// Says what a row is now: its JSON, or that it is gone.
    pub(crate) fn push(&mut self, plan: &Plan, table: TableId, key: &[u8], row: Option<&[u8]>) {
        push_change(&mut self.said, plan, table, key, row);
        self.rows += 1;
    }

    /// Says rows that were gained, but for those that are said already. Nothing is pushed behind them.
    pub(crate) fn gain(&mut self, rows: ViewRows, except: SeededSet<(TableId, Bytes)>) {
        let most = rows.most_rows();
        let gained = Gained { rows, except, changes: OnceLock::new() };
        if most <= SAID_AT_ONCE {
            self.rows += gained.say(&mut self.said);
        } else {
            self.rows += most;
            self.gained = Some(Box::new(gained));
        }
    }
}

impl Gained {
    /// Appends its changes; returns how many they are.
    fn say(&self, into: &mut Vec<u8>) -> usize {
        let (mut place, mut count) = (Place::default(), 0);
        while let Some(slice) = self.rows.slice(place, SLICE_BYTES) {
            place = slice.next;
            for row in slice.rows {
                let key = &row.image.key;
                if self.except.is_empty() || !self.except.contains(&(slice.table, key.clone())) {
                    push_change(into, self.rows.plan(), slice.table, key, Some(&row.json));
                    count += 1;
                }
            }
        }
        count
    }
}

fn push_change(into: &mut Vec<u8>, plan: &Plan, table: TableId, key: &[u8], row: Option<&[u8]>) {
    if !into.is_empty() {
        into.push(b',');
    }
    let name = &plan.table(table).name_json;
    match row {
        Some(row) => put_change(into, name, row),
        None => delete_change(into, name, key),
    }
}
