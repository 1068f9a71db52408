//! What the writer and the readers share: which segments the log has, and where it ends. A reader takes the
//! state of one moment and reads by it alone, whatever is appended or removed meanwhile. The writer changes
//! it after what it says is durable.

use std::sync::{Arc, PoisonError, RwLock};

use rowtide_protocol::{Epoch, Lsn};

use crate::rules::LogEnd;
use crate::segment::Segment;

/// What writer and readers share.
#[derive(Debug)]
pub(crate) struct Shared(RwLock<State>);

/// The log as it is at one moment.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) epoch: Epoch,
    /// Not empty; each ends where the next begins, and only the last is written.
    pub(crate) segments: Arc<[Arc<Segment>]>,
    /// `None` if nothing has begun in it: then its one segment is empty.
    pub(crate) end: Option<LogEnd>,
}

impl Shared {
    pub(crate) fn new(state: State) -> Shared {
        Shared(RwLock::new(state))
    }

    pub(crate) fn state(&self) -> State {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl State {
    pub(crate) fn newest(&self) -> &Arc<Segment> {
        &self.segments[self.segments.len() - 1]
    }

    /// Behind which position it goes, and where it ends; `None` if nothing has begun in it.
    pub(crate) fn range(&self) -> Option<(Lsn, LogEnd)> {
        self.segments[0].after.zip(self.end)
    }

    /// The segments that hold something of what is after `after` and up to `up_to`, in order.
    pub(crate) fn within(
        &self,
        after: Lsn,
        up_to: Lsn,
    ) -> impl DoubleEndedIterator<Item = &Arc<Segment>> {
        let end = self.end.map(|end| end.position());
        let ends = self.segments[1..].iter().map(|next| next.after).chain([end]);
        let with_ends: Vec<_> = self.segments.iter().zip(ends).collect();
        with_ends
            .into_iter()
            .filter(move |(segment, end)| segment.after < Some(up_to) && *end > Some(after))
            .map(|(segment, _)| segment)
    }
}
