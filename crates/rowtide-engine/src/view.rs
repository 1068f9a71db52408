//! What one set of claims sees of what is synced always, or of what a query selects, and what its sessions have been sent of it. A view counts how often
//! it reaches each topic: once from its claims, and once for every link row that names it. Between
//! two messages it collects the rows that were touched, with whether they were visible at the last
//! message; a message is then the difference to what is visible now. Holding a view back is nothing
//! but not making that message yet. A client that comes back has a view of its own, whose last message
//! is the one that the client had, until it can join the others of its claims.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use rowtide_feed::Acknowledgement;
use rowtide_plan::claims::Claims;
use rowtide_plan::map::{IdMap, IdSet};
use rowtide_plan::plan::{Branch, Selection, TableId, WindowId};
use rowtide_plan::value::{Instant, Value};
use rowtide_protocol::{Cursor, Epoch, Lsn, ViewId};

use crate::resume::Resume;
use crate::sessions::SessionId;
use crate::sets::{Moment, ViewSets};
use crate::topic::TopicKey;
use crate::touched::{Touched, TouchedRow};
use crate::view_rows::ViewRows;
use crate::window::ViewWindow;

#[derive(Debug)]
pub(crate) struct View {
    /// What it is of all that its claims may see.
    pub(crate) selection: Selection,
    pub(crate) claims: Claims,
    pub(crate) id: ViewId,
    phase: ViewPhase,
    /// Sessions that hold the rows of the last message.
    pub(crate) live: Vec<SessionId>,
    /// Sessions that wait for their first rows.
    pub(crate) joining: Vec<Joining>,
    /// Sessions that are told of several views, and wait for the rows of this one, or to be told that they have them no
    /// longer.
    pub(crate) awaited_by: Vec<SessionId>,
    /// What the next message acknowledges to some of its sessions.
    pub(crate) acknowledgements: Vec<(SessionId, Arc<Acknowledgement>)>,
    /// How often each topic is named; never zero.
    pub(crate) reach: IdMap<TopicKey, u32>,
    /// Topics of `reach` that were not there at the last message.
    pub(crate) gained: IdSet<TopicKey>,
    /// Topics of which the next message says all rows, though they were there at the last one: their rows are others. Those
    /// that are not in reach any more do not count.
    pub(crate) retold: IdSet<TopicKey>,
    /// Topics that were in reach at the last message and are not any more, and whose rows must be read
    /// to say which ones that takes away.
    pub(crate) leaving: IdSet<TopicKey>,
    /// How many topics of `reach` and `leaving` have rows that are waited for; one more where the time is.
    waiting: usize,
    /// Where the stream must be before the next message, if that was ever ahead of it.
    release_at: Option<Lsn>,
    pub(crate) touched: Touched,
    /// What else decides which rows it sees.
    pub(crate) sets: ViewSets,
    /// Of what its query selects of these tables it sees the first rows alone.
    pub(crate) windows: Vec<ViewWindow>,
    /// Whether these may have other rows than when they were looked through last.
    pub(crate) windows_are_stale: bool,
    /// As of when the last message was made.
    pub(crate) told_at: Instant,
    /// Topics whose rows may have turned since.
    pub(crate) turned: IdSet<TopicKey>,
    /// What was frozen last, if nothing has changed since and somebody has it still.
    frozen: Weak<ViewRows>,
    /// The position of the last message.
    pub(crate) sent: Option<Lsn>,
    /// Whether the engine already has it on its list of views to look at after this step.
    pub(super) is_dirty: bool,
}

/// Whose view it is.
#[derive(Debug)]
pub(crate) enum ViewPhase {
    /// The view of its claims and selection: whoever comes for it and without a cursor joins it.
    ///
    /// Ends with its last session.
    Shared,
    /// Of a session that has come back, while it is found out what has changed for it.
    ///
    /// To `Returning`, when that is known; it ends when it cannot be told, and the session comes anew.
    Resuming(Box<Resume>),
    /// Of a session that has come back: the view is as it was at the client's cursor, and what was touched since
    /// is known. The next message is the session's first.
    ///
    /// To `Apart`, with that message.
    Returning(SessionId),
    /// Of a session that has come back and was told what had changed.
    ///
    /// To `Shared`, if there is no view of its claims; else it ends when both say the same, and its session goes
    /// on in the other.
    Apart,
}

/// A session that waits for its first rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Joining {
    pub(crate) session: SessionId,
    /// Where the stream must be for these.
    pub(crate) not_before: Option<Lsn>,
}

impl View {
    pub(super) fn new(
        selection: Selection,
        claims: Claims,
        phase: ViewPhase,
        sets: usize,
        windows: Vec<ViewWindow>,
    ) -> View {
        View {
            selection,
            id: claims.view_id(),
            claims,
            phase,
            live: Vec::new(),
            joining: Vec::new(),
            awaited_by: Vec::new(),
            acknowledgements: Vec::new(),
            reach: IdMap::default(),
            gained: IdSet::default(),
            retold: IdSet::default(),
            leaving: IdSet::default(),
            waiting: 0,
            release_at: None,
            touched: Touched::default(),
            sets: ViewSets::new(sets),
            windows,
            windows_are_stale: false,
            told_at: Instant::MINUS_INFINITY,
            turned: IdSet::default(),
            frozen: Weak::new(),
            sent: None,
            is_dirty: false,
        }
    }

    pub(crate) fn phase(&self) -> &ViewPhase {
        &self.phase
    }

    /// The view itself is moved to another place by [`Views`](crate::views::Views).
    pub(super) fn set_phase(&mut self, phase: ViewPhase) -> ViewPhase {
        std::mem::replace(&mut self.phase, phase)
    }

    /// What is known of the session that has come back, while that is found out.
    pub(crate) fn resume(&self) -> Option<&Resume> {
        match &self.phase {
            ViewPhase::Resuming(resume) => Some(resume),
            _ => None,
        }
    }

    pub(crate) fn resume_mut(&mut self) -> Option<&mut Resume> {
        match &mut self.phase {
            ViewPhase::Resuming(resume) => Some(resume),
            _ => None,
        }
    }

    /// The session that has come back, once it is known what it must be told.
    pub(crate) fn returning(&self) -> Option<SessionId> {
        match self.phase {
            ViewPhase::Returning(session) => Some(session),
            _ => None,
        }
    }

    /// Whether it sees a row with these kept columns, where it reaches a topic of the branch that has it.
    pub(crate) fn sees(&self, branch: &Branch, kept: &[Value], now: Instant) -> bool {
        self.sets.pass(Moment::Now, branch, kept, &self.claims, now)
    }

    /// Whether it saw it at its last message.
    pub(crate) fn saw(&self, branch: &Branch, kept: &[Value]) -> bool {
        self.sets.pass(Moment::Told, branch, kept, &self.claims, self.told_at)
    }

    /// Whether the last message was made with this topic in reach.
    pub(crate) fn had(&self, topic: TopicKey) -> bool {
        (self.reach.contains_key(&topic) && !self.gained.contains(&topic))
            || self.leaving.contains(&topic)
    }

    /// Whether it looks at this topic.
    pub(crate) fn looks_at(&self, topic: TopicKey) -> bool {
        self.reach.contains_key(&topic) || self.leaving.contains(&topic)
    }

    /// Whether the next message has nothing to say.
    pub(crate) fn is_silent(&self) -> bool {
        self.touched.is_empty()
            && self.gained.is_empty()
            && self.retold.is_empty()
            && self.leaving.is_empty()
            && self.turned.is_empty()
            && self.acknowledgements.is_empty()
            && !self.sets.any_differ(Moment::Told)
            && !self.windows_are_stale
    }

    /// Whether its windows must be looked through before the next message.
    pub(crate) fn windows_may_differ(&self) -> bool {
        !self.windows.is_empty() && (self.windows_are_stale || self.sets.any_differ(Moment::Told))
    }

    /// What it is told of a window, if it has it.
    pub(crate) fn window(&self, id: WindowId) -> Option<&ViewWindow> {
        self.windows.iter().find(|window| window.id == id)
    }

    /// Whether the last message was made with this row in a window.
    pub(crate) fn had_in_window(&self, id: WindowId, key: &Bytes) -> bool {
        self.window(id).is_some_and(|window| window.told.contains_key(key))
    }

    /// Whether of this table it sees the first rows alone.
    pub(crate) fn is_windowed(&self, table: TableId) -> bool {
        self.windows.iter().any(|window| window.table == table)
    }

    /// What its windows are was told.
    pub(crate) fn windows_were_told(&mut self) {
        for window in &mut self.windows {
            if let Some(next) = window.next.take() {
                window.was_told(next);
                self.frozen = Weak::new();
            }
        }
    }

    /// Whether nobody waits for a first message.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.joining.is_empty()
            && self.awaited_by.is_empty()
            && matches!(self.phase, ViewPhase::Shared | ViewPhase::Apart)
    }

    /// A session goes. Whether nobody is left.
    pub(crate) fn leave(&mut self, session: SessionId) -> bool {
        self.live.retain(|other| *other != session);
        self.joining.retain(|joining| joining.session != session);
        self.awaited_by.retain(|other| *other != session);
        self.acknowledgements.retain(|(other, _)| *other != session);
        match &self.phase {
            ViewPhase::Resuming(resume) => resume.opening.session == session,
            ViewPhase::Returning(returning) => *returning == session,
            ViewPhase::Shared | ViewPhase::Apart => {
                self.live.is_empty() && self.joining.is_empty() && self.awaited_by.is_empty()
            }
        }
    }

    /// Where its sessions stand at `lsn`.
    pub(crate) fn cursor(&self, epoch: Epoch, lsn: Lsn) -> Cursor {
        Cursor { epoch, view: self.id, lsn }
    }

    /// One topic more that it looks at, or of those that it looks at, waits for its rows; or it is not known what time it is.
    pub(crate) fn wait_for_one(&mut self) {
        self.waiting += 1;
    }

    /// One less.
    pub(crate) fn waited_for_one(&mut self) {
        self.waiting -= 1;
    }

    /// Nothing is said before the stream is at `lsn`.
    pub(crate) fn hold_until(&mut self, lsn: Option<Lsn>) {
        self.release_at = self.release_at.max(lsn);
    }

    /// Whether nothing that it reaches is missing, and nothing runs ahead of the stream.
    pub(crate) fn is_whole(&self, position: Lsn) -> bool {
        self.waiting == 0 && self.release_at <= Some(position)
    }

    /// Where the stream must come to, if that is all that it waits for.
    pub(crate) fn waits_until(&self, position: Lsn) -> Option<Lsn> {
        self.release_at.filter(|lsn| self.waiting == 0 && *lsn > position)
    }

    /// Where the stream must be before the next message.
    pub(super) fn release_at(&self) -> Option<Lsn> {
        self.release_at
    }

    /// Takes what the next message says of rows: those that were touched, and topics of which it says all.
    pub(crate) fn take_news(&mut self) -> (Vec<TouchedRow>, IdSet<TopicKey>) {
        let (touched, mut whole) = (self.touched.take(), std::mem::take(&mut self.gained));
        let retold = std::mem::take(&mut self.retold);
        whole.extend(retold.into_iter().filter(|topic| self.reach.contains_key(topic)));
        if !touched.is_empty() || !whole.is_empty() {
            self.frozen = Weak::new();
        }
        (touched, whole)
    }

    /// What was frozen at this or an earlier message, if it is still what the view sees.
    pub(crate) fn frozen(&self) -> Option<Arc<ViewRows>> {
        self.frozen.upgrade()
    }

    /// What it sees is something else now, and nobody knows what has changed.
    pub(crate) fn was_changed_unseen(&mut self) {
        self.frozen = Weak::new();
    }

    /// What it sees now was frozen.
    pub(crate) fn was_frozen(&mut self, rows: &Arc<ViewRows>) {
        self.frozen = Arc::downgrade(rows);
    }

    /// How many topics it waits for, and whether for the time.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }
}
