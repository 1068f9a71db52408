//! One step forward of a view, made once and shared by its sessions. What was touched is said when the
//! message is made; where a view has gained many rows at once, these are frozen and said when somebody sends
//! the message, because the engine does not wait for that.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rowtide_plan::map::SeededSet;
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::row::Row;
use rowtide_plan::value::rfc3339;
use rowtide_protocol::{Cursor, Lsn, TextFrame, TxParts, delete_change, put_change, tx_frame};

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
    /// Those of them that say that a row is gone from the view, in order.
    removed: Box<[Removed]>,
    /// The rows that the others say; none where nobody is told of several views.
    put: Box<[(TableId, Bytes)]>,
    /// What is to be said besides.
    later: Later,
    /// The message as a frame, once somebody has asked for it.
    frame: OnceLock<TextFrame>,
}

/// What is known of a row that is gone from a view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GoneRow<'a> {
    /// The row as it is now, as far as that is known: where else it may be seen. None where it is nowhere.
    pub(crate) latest: Option<&'a Arc<Row>>,
    /// As of this commit that is known.
    pub(crate) at: Lsn,
    /// Whether it is known of a change of the row. Another view that sees the row has said it then, as of this commit or a
    /// later one: if it has not, the row was changed again, and is not what is known here.
    pub(crate) by_change: bool,
}

/// A row is gone from a view. Who has it in another view still is not told.
#[derive(Clone, Debug)]
pub(crate) struct Removed {
    pub(crate) table: TableId,
    pub(crate) key: Bytes,
    /// As in [`GoneRow`].
    pub(crate) latest: Option<Arc<Row>>,
    /// As in [`GoneRow`].
    pub(crate) at: Lsn,
    /// As in [`GoneRow`].
    pub(crate) by_change: bool,
    /// Where the view's message says it.
    said: Range<usize>,
}

impl Removed {
    /// One that is not said yet.
    pub(crate) fn new(table: TableId, key: Bytes, gone: GoneRow<'_>) -> Removed {
        let GoneRow { latest, at, by_change } = gone;
        Removed { table, key, latest: latest.cloned(), at, by_change, said: 0..0 }
    }
}

/// What a message says that is not said when it is made.
#[derive(Debug)]
enum Later {
    Nothing,
    Gained(Box<Gained>),
    Composed(Box<Composed>),
}

/// What several views have said, and rows of others.
#[derive(Debug, Default)]
pub(crate) struct Composed {
    /// In order, each with the removed rows that are not said, by their places in the message.
    parts: Vec<(Arc<ViewMessage>, Vec<usize>)>,
    /// All that views see who are said for the first time.
    whole: Vec<Arc<ViewRows>>,
    /// All changes, once somebody has asked for them.
    changes: OnceLock<Bytes>,
}

/// Rows that a view has gained.
#[derive(Debug)]
struct Gained {
    rows: ViewRows,
    /// Some of these are said already.
    except: SeededSet<(TableId, Bytes)>,
    /// All changes, once somebody has asked for them.
    changes: OnceLock<Bytes>,
    /// Which rows they are, once somebody has asked.
    keys: OnceLock<SeededSet<(TableId, Bytes)>>,
}

/// The one change that a message says.
#[derive(Debug)]
pub(crate) enum Said {
    /// A row.
    Put(TableId, Bytes),
    /// That a row is gone.
    Removed(Removed),
}

/// The changes of one message, while it is made.
#[derive(Debug, Default)]
pub(crate) struct Body {
    said: Vec<u8>,
    removed: Vec<Removed>,
    put: Vec<(TableId, Bytes)>,
    /// Whether it is noted which rows are said.
    notes: bool,
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
        ViewMessage::of_one(cursor, changes, None, rows, commit_time_us)
    }

    /// A message of one change, or more where no row is gone; of one that is gone, where it may be seen still.
    pub(crate) fn of_one(
        cursor: Cursor,
        said: Bytes,
        only: Option<Said>,
        rows: usize,
        commit_time_us: Option<i64>,
    ) -> Arc<ViewMessage> {
        let (removed, put): (Box<[Removed]>, Box<[_]>) = match only {
            None => Default::default(),
            Some(Said::Put(table, key)) => (Box::default(), Box::new([(table, key)])),
            Some(Said::Removed(removed)) => {
                (Box::new([Removed { said: 0..said.len(), ..removed }]), Box::default())
            }
        };
        let (later, frame) = (Later::Nothing, OnceLock::new());
        Arc::new(ViewMessage { cursor, rows, commit_time_us, said, removed, put, later, frame })
    }

    /// What several views have said, as of a later commit that all of them have seen.
    pub(crate) fn composed(
        cursor: Cursor,
        composed: Composed,
        own: Body,
        commit_time_us: Option<i64>,
    ) -> Arc<ViewMessage> {
        if let ([(part, left_out)], [], true) =
            (&composed.parts[..], &composed.whole[..], own.is_empty())
            && left_out.is_empty()
            && matches!(part.later, Later::Nothing)
        {
            let (said, rows) = (part.said.clone(), part.rows);
            return ViewMessage::of_one(cursor, said, None, rows, commit_time_us);
        }
        let rows =
            composed.parts.iter().map(|(part, left_out)| part.rows - left_out.len()).sum::<usize>()
                + composed.whole.iter().map(|rows| rows.most_rows()).sum::<usize>()
                + own.rows;
        let (said, removed, frame) = (own.said.into(), Box::default(), OnceLock::new());
        let later = Later::Composed(Box::new(composed));
        let put = Box::default();
        Arc::new(ViewMessage { cursor, rows, commit_time_us, said, removed, put, later, frame })
    }

    /// The rows that are gone from the view.
    pub(crate) fn removed(&self) -> &[Removed] {
        &self.removed
    }

    /// Calls `visit` with those of the rows `wanted` that it says.
    pub(crate) fn puts_of<T>(
        &self,
        wanted: &mut BTreeMap<(TableId, Bytes), T>,
        mut visit: impl FnMut(&mut T),
    ) {
        for row in &self.put {
            if let Some(of_row) = wanted.get_mut(row) {
                visit(of_row);
            }
        }
        if let Later::Gained(gained) = &self.later {
            let keys = gained.keys.get_or_init(|| gained.rows.keys().collect());
            for (_, of_row) in wanted.iter_mut().filter(|(row, _)| keys.contains(row)) {
                visit(of_row);
            }
        }
    }

    pub(crate) fn of(cursor: Cursor, body: Body, commit_time_us: Option<i64>) -> Arc<ViewMessage> {
        let Body { said, removed, put, rows, gained, .. } = body;
        let (said, removed, put, frame) =
            (said.into(), removed.into(), put.into(), OnceLock::new());
        let later = gained.map_or(Later::Nothing, Later::Gained);
        Arc::new(ViewMessage { cursor, rows, commit_time_us, said, removed, put, later, frame })
    }

    /// The changes as JSON, separated by commas; shared where views are sent the same.
    pub fn changes(&self) -> &Bytes {
        match &self.later {
            Later::Nothing => &self.said,
            Later::Gained(gained) => gained.changes.get_or_init(|| {
                let mut changes = self.said.to_vec();
                gained.say(&mut changes);
                changes.into()
            }),
            Later::Composed(composed) => composed.changes.get_or_init(|| {
                let mut changes = Vec::new();
                composed.say(&mut changes);
                append(&mut changes, &self.said);
                changes.into()
            }),
        }
    }

    /// About how many bytes it takes by itself; rows that it shares with the engine do not count.
    pub fn size(&self) -> usize {
        let parts = match &self.later {
            Later::Composed(composed) => composed.parts.iter().map(|(part, _)| part.size()).sum(),
            Later::Nothing | Later::Gained(_) => 0,
        };
        size_of::<ViewMessage>() + self.said.len() + parts
    }

    /// The `tx` frame of this message alone, without an acknowledgement; the same bytes for all who ask.
    pub fn frame(&self) -> TextFrame {
        let make = || {
            let time = self.commit_time_us.map(rfc3339);
            let parts = TxParts { commit_time: time.as_deref(), ..TxParts::default() };
            TextFrame::new(tx_frame(self.cursor, [&self.changes()[..]], parts))
        };
        self.frame.get_or_init(make).clone()
    }
}

impl Body {
    /// Nothing yet; with `notes` it is noted which rows are said.
    pub(crate) fn new(notes: bool) -> Body {
        Body { notes, ..Body::default() }
    }

    /// Whether there is nothing to say.
    pub(crate) fn is_empty(&self) -> bool {
        self.said.is_empty() && self.gained.is_none()
    }

    /// The JSON of a body to which no gained rows were added.
    pub(crate) fn into_said(self) -> Bytes {
        self.said.into()
    }

    /// Says what a row is now: its JSON, or that it is gone from the view, and what is known of it.
    pub(crate) fn push(
        &mut self,
        plan: &Plan,
        table: TableId,
        key: &Bytes,
        row: Result<&[u8], GoneRow<'_>>,
    ) {
        let from = self.said.len() + usize::from(!self.said.is_empty());
        push_change(&mut self.said, plan, table, key, row.ok());
        match row {
            Ok(_) if self.notes => self.put.push((table, key.clone())),
            Ok(_) => {}
            Err(gone) => {
                let removed = Removed::new(table, key.clone(), gone);
                self.removed.push(Removed { said: from..self.said.len(), ..removed });
            }
        }
        self.rows += 1;
    }

    /// Says rows that were gained, but for those that are said already. Nothing is pushed behind them.
    pub(crate) fn gain(&mut self, rows: ViewRows, except: SeededSet<(TableId, Bytes)>) {
        let most = rows.most_rows();
        let (changes, keys) = (OnceLock::new(), OnceLock::new());
        let gained = Gained { rows, except, changes, keys };
        if most <= SAID_AT_ONCE {
            if self.notes {
                self.put.extend(gained.rows.keys());
            }
            self.rows += gained.say(&mut self.said);
        } else {
            self.rows += most;
            self.gained = Some(Box::new(gained));
        }
    }
}

impl Composed {
    /// Nothing yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.whole.is_empty()
    }

    /// Adds what a view has said but for these of its removed rows.
    pub(crate) fn push(&mut self, message: Arc<ViewMessage>, left_out: Vec<usize>) {
        self.parts.push((message, left_out));
    }

    /// Adds all that a view sees.
    pub(crate) fn push_whole(&mut self, rows: Arc<ViewRows>) {
        self.whole.push(rows);
    }

    fn say(&self, into: &mut Vec<u8>) {
        for (message, left_out) in &self.parts {
            // What is said besides comes behind what is said, and nothing of it is gone.
            let changes = message.changes();
            let mut from = 0;
            for at in left_out {
                let said = &message.removed[*at].said;
                append(into, &changes[from..said.start]);
                from = said.end;
            }
            append(into, &changes[from..]);
        }
        for rows in &self.whole {
            let mut place = Place::default();
            while let Some(slice) = rows.slice(place, SLICE_BYTES) {
                place = slice.next;
                for row in slice.rows {
                    push_change(into, rows.plan(), slice.table, &row.image.key, Some(&row.json));
                }
            }
        }
    }
}

/// Appends changes, of which the ends may be commas.
fn append(into: &mut Vec<u8>, changes: &[u8]) {
    let changes = changes.strip_prefix(b",").unwrap_or(changes);
    let changes = changes.strip_suffix(b",").unwrap_or(changes);
    if !changes.is_empty() {
        if !into.is_empty() {
            into.push(b',');
        }
        into.extend_from_slice(changes);
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
