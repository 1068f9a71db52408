//! The documents for which something is to be done, by when it may be begun: so whoever looks for what comes next, or counts
//! what waits, looks at that and not at all of them. What is done with a hundred thousand documents takes a hundred thousand
//! steps then, and not so many for each.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use rowtide_documents::host::DocumentId;
use rowtide_engine::TransactionSnapshot;
use rowtide_postgres::standings::DocumentRow;

use super::work::{Gone, PendingEffect, Work};
use crate::limits::{ASK_AGAIN, MAX_PAUSE};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Nothing,
    Asked,
    Works(Work),
}

#[derive(Debug)]
pub(super) struct OfDocument {
    pub(super) kept: PendingEffect,
    /// Nobody may come, because it is gone or seems to be.
    pub(super) is_closed: bool,
    /// The row says this, of all that it was marked for.
    pub(super) wants: Option<Work>,
    pub(super) doing: Doing,
    /// It was marked since it was asked.
    pub(super) is_marked: bool,
    /// Has the address at which it is to be published.
    pub(super) waits_for: Option<DocumentId>,
    /// So much was done with documents when this was begun.
    pub(super) begun_at: u64,
    pub(super) tries: u32,
    pub(super) not_before: Duration,
}

impl OfDocument {
    pub(super) fn new(now: Duration) -> OfDocument {
        OfDocument {
            kept: PendingEffect::default(),
            is_closed: false,
            wants: None,
            doing: Doing::Nothing,
            is_marked: false,
            waits_for: None,
            begun_at: 0,
            tries: 0,
            not_before: now,
        }
    }

    /// Its row was asked for, and this is what is known of it; `wants`: what follows, if it says something of that.
    pub(super) fn answered(
        &mut self,
        snapshot: &TransactionSnapshot,
        answer: Option<Option<DocumentRow>>,
        wants: impl FnOnce(DocumentRow) -> Option<Work>,
        now: Duration,
    ) -> Answered {
        self.doing = Doing::Nothing;
        let is_told = answer.is_some();
        // Whoever asks may ask too early: the stream is ahead of what can be seen.
        let has_seen = self.kept.xid.is_none_or(|xid| snapshot.contains(xid));
        let Some(row) = answer.filter(|_| has_seen && !self.is_marked) else {
            self.not_before = now + if is_told { ASK_AGAIN } else { MAX_PAUSE };
            return Answered::AskedAgain;
        };
        match row {
            None if self.is_closed => {
                (self.kept.gone, self.kept.is_changed) = (Some(Gone::Missing), false);
                Answered::IsMissing
            }
            None => {
                self.is_closed = true;
                Answered::SeemsMissing
            }
            Some(row) => {
                self.wants = wants(row);
                let has_opened = std::mem::replace(&mut self.is_closed, false);
                Answered::Says { has_opened, is_settled: self.wants.is_none() }
            }
        }
    }

    /// What is to be done with it, if that is known.
    pub(super) fn work(&self) -> Option<Work> {
        self.kept.gone.map(Work::Delete).or_else(|| self.wants.clone())
    }
}

/// What an answer comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// It does not count.
    AskedAgain,
    /// There is no row, and nobody could come while it was looked for.
    IsMissing,
    /// There is no row: it is looked for again, with nobody let in.
    SeemsMissing,
    /// There is a row.
    Says {
        /// Nobody could come, because it seemed to be missing.
        has_opened: bool,
        /// Nothing follows from it.
        is_settled: bool,
    },
}

/// How a document stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Of its kind nothing can be asked or done.
    Unknown,
    /// It is known what is to be done, not before this.
    Ready(Duration),
    /// It is to be asked what is to be done, not before this.
    ToAsk(Duration),
    Asked,
    Works,
    Failed,
}

/// Documents by when they may be begun: those who have waited longest come first.
#[derive(Debug, Default)]
struct Lane(BTreeMap<Duration, BTreeSet<DocumentId>>);

impl Lane {
    fn insert(&mut self, at: Duration, document: &DocumentId) {
        self.0.entry(at).or_default().insert(document.clone());
    }

    fn remove(&mut self, at: Duration, document: &DocumentId) {
        if let Some(documents) = self.0.get_mut(&at) {
            documents.remove(document);
            if documents.is_empty() {
                self.0.remove(&at);
            }
        }
    }

    fn until(&self, now: Duration) -> impl Iterator<Item = &DocumentId> {
        self.0.range(..=now).flat_map(|(_, documents)| documents)
    }

    fn after(&self, now: Duration) -> Option<Duration> {
        self.0.range((Bound::Excluded(now), Bound::Unbounded)).next().map(|(at, _)| *at)
    }
}

/// See the module. A document changes only where its place is seen to.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    documents: BTreeMap<DocumentId, OfDocument>,
    /// Those of which something can be asked and done; all, as long as nobody has said.
    kinds: Option<BTreeSet<String>>,
    ready: Lane,
    to_ask: Lane,
    works: BTreeSet<DocumentId>,
    /// How many are to be seen to, and of how many nothing is tried any more.
    counts: (usize, usize),
    /// How many documents were looked at to find what comes next.
    #[cfg(test)]
    pub(super) looked_at: std::sync::atomic::AtomicUsize,
}

impl Schedule {
    pub(super) fn get(&self, document: &DocumentId) -> Option<&OfDocument> {
        self.documents.get(document)
    }

    /// All of them. Whoever needs them often needs something else.
    pub(super) fn all(&self) -> impl Iterator<Item = (&DocumentId, &OfDocument)> {
        self.look_at(self.documents.iter())
    }

    /// Changes what is known of a document, if anything is.
    pub(super) fn change<T>(
        &mut self,
        document: &DocumentId,
        change: impl FnOnce(&mut OfDocument) -> T,
    ) -> Option<T> {
        let of = self.documents.get_mut(document)?;
        let before = place(&self.kinds, document, of);
        let told = change(of);
        let after = place(&self.kinds, document, of);
        if before != after {
            self.leave(document, before);
            self.enter(document, after);
        }
        Some(told)
    }

    /// Adds a document, in place of what was known of it.
    pub(super) fn insert(&mut self, document: DocumentId, of: OfDocument) {
        self.remove(&document);
        self.enter(&document, place(&self.kinds, &document, &of));
        self.documents.insert(document, of);
    }

    pub(super) fn remove(&mut self, document: &DocumentId) -> Option<OfDocument> {
        let of = self.documents.remove(document)?;
        self.leave(document, place(&self.kinds, document, &of));
        Some(of)
    }

    /// From now on only of these something can be asked and done.
    pub(super) fn know(&mut self, kinds: BTreeSet<String>) {
        let documents = std::mem::take(&mut self.documents);
        (self.ready, self.to_ask) = (Lane::default(), Lane::default());
        (self.works, self.counts) = (BTreeSet::new(), (0, 0));
        self.kinds = Some(kinds);
        for (document, of) in documents {
            self.insert(document, of);
        }
    }

    /// With which it is known what is to be done, now.
    pub(super) fn ready(&self, now: Duration) -> impl Iterator<Item = (&DocumentId, &OfDocument)> {
        self.look_at(self.of(self.ready.until(now)))
    }

    /// Which are to be asked, now.
    pub(super) fn to_ask(&self, now: Duration) -> impl Iterator<Item = &DocumentId> {
        self.look_at(self.of(self.to_ask.until(now))).map(|(document, _)| document)
    }

    /// With which something is being done.
    pub(super) fn works(&self) -> impl Iterator<Item = &Work> {
        let works = self.look_at(self.of(self.works.iter()));
        works.filter_map(|(_, of)| match &of.doing {
            Doing::Works(work) => Some(work),
            Doing::Nothing | Doing::Asked => None,
        })
    }

    /// When there is something to begin after this moment.
    pub(super) fn after(&self, now: Duration) -> Option<Duration> {
        self.ready.after(now).into_iter().chain(self.to_ask.after(now)).min()
    }

    /// How many are to be seen to, and of how many nothing is tried any more.
    pub(super) fn counts(&self) -> (usize, usize) {
        self.counts
    }

    fn of<'a>(
        &'a self,
        documents: impl Iterator<Item = &'a DocumentId>,
    ) -> impl Iterator<Item = (&'a DocumentId, &'a OfDocument)> {
        documents.filter_map(|document| Some((document, self.documents.get(document)?)))
    }

    fn look_at<T>(&self, looked_at: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
        looked_at.inspect(|_| {
            #[cfg(test)]
            self.looked_at.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        })
    }

    fn enter(&mut self, document: &DocumentId, place: Place) {
        match place {
            Place::Ready(at) => self.ready.insert(at, document),
            Place::ToAsk(at) => self.to_ask.insert(at, document),
            Place::Works => {
                self.works.insert(document.clone());
            }
            Place::Asked | Place::Failed | Place::Unknown => {}
        }
        match place {
            Place::Unknown => {}
            Place::Failed => self.counts.1 += 1,
            Place::Ready(_) | Place::ToAsk(_) | Place::Asked | Place::Works => self.counts.0 += 1,
        }
    }

    fn leave(&mut self, document: &DocumentId, place: Place) {
        match place {
            Place::Ready(at) => self.ready.remove(at, document),
            Place::ToAsk(at) => self.to_ask.remove(at, document),
            Place::Works => {
                self.works.remove(document);
            }
            Place::Asked | Place::Failed | Place::Unknown => {}
        }
        match place {
            Place::Unknown => {}
            Place::Failed => self.counts.1 -= 1,
            Place::Ready(_) | Place::ToAsk(_) | Place::Asked | Place::Works => self.counts.0 -= 1,
        }
    }
}

fn place(kinds: &Option<BTreeSet<String>>, document: &DocumentId, of: &OfDocument) -> Place {
    if kinds.as_ref().is_some_and(|kinds| !kinds.contains(document.kind())) {
        return Place::Unknown;
    }
    match &of.doing {
        Doing::Works(_) => Place::Works,
        _ if of.kept.failure.is_some() => Place::Failed,
        Doing::Asked => Place::Asked,
        Doing::Nothing if of.kept.gone.is_some() || of.wants.is_some() => {
            Place::Ready(of.not_before)
        }
        Doing::Nothing => Place::ToAsk(of.not_before),
    }
}
