//! What is to be done with documents because of their rows: one whose row is gone is deleted, and one that is published,
//! published anew or not any more becomes so. A change of a row does but mark its document; what is done then follows from
//! what the row says by now, so that doing it twice does no more than doing it once, and one document's are in order.
//!
//! Pure: told what the stream brought, what rows say and what became of what was done, it answers what is to be kept,
//! what is to be asked and what is to be done. What it says is to be kept must be durable before anything else of it is
//! carried out: then a mark is lost by no crash, and what was done for it is not done again for a later row.
//!
//! A row that was deleted ends its document, also if there is a row of that id again: it is another one's. Where it is not
//! known what happened (`Mark::Changed`), a document goes if there is no row. It is looked for twice, with nobody let in
//! from before the second time on, so that nothing of a row that has just come goes with it; and what it was is kept aside,
//! since rows can be missing that nobody has deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rowtide_documents::host::DocumentId;
use rowtide_engine::TransactionSnapshot;
use rowtide_postgres::standings::DocumentRow;

use crate::limits::{
    ASK_AGAIN, ASKED_AT_ONCE, EFFECT_TRIES, EFFECTS_AT_ONCE, MAX_EFFECT_PAUSE, MAX_PAUSE,
    MIN_EFFECT_PAUSE, MIN_PAUSE,
};

/// What is known of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It is another one, or may be gone; whoever looks has to have seen this transaction.
    Changed(Option<u32>),
    /// It was deleted.
    Deleted,
}

/// How it is known that the row of a document is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The stream has told of its deletion.
    Deleted,
    /// It was not there when it was looked for.
    Missing,
}

/// What is kept of a document while something is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PendingEffect {
    /// What is stored goes, whatever row there is by now.
    pub(crate) gone: Option<Gone>,
    /// What its row says is to be seen to.
    pub(crate) is_changed: bool,
    /// Who looks has to have seen this transaction.
    pub(crate) xid: Option<u32>,
    /// Why nothing more is tried.
    pub(crate) failure: Option<String>,
}

/// What is done with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// It is deleted, with all that is kept of it; of one whose row is but missing, what it was is kept aside.
    Delete(Gone),
    /// It is published at an address, as this edition.
    Publish {
        /// The address.
        slug: String,
        /// What is another value each time that it is published anew.
        edition: String,
        /// Whether it begins as something else, once somebody opens it.
        has_source: bool,
    },
    /// Nothing of it is published any more.
    Unpublish,
}

/// Why it was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkFailure {
    /// For a person.
    pub(crate) reason: String,
    /// When trying again could come to something else.
    pub(crate) retry: Retry,
}

/// When something that was not done is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// After a pause.
    Later,
    /// When something has been done with this document, which has the address.
    After(DocumentId),
    /// When somebody wants it.
    Never,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EffectStep {
    /// To ask what the rows of these documents say; the answer comes before anything else is asked.
    Ask(Vec<DocumentId>),
    /// To do something, and to say what became of it.
    Do(DocumentId, Work),
}

/// What follows at once, and what follows when all is durable.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// To let nobody come to these from now on.
    pub(crate) closed: Vec<DocumentId>,
    /// What is to be kept of each; `None`: nothing any more.
    pub(crate) entries: BTreeMap<DocumentId, Option<PendingEffect>>,
    /// To let people come to these again, once that is durable.
    pub(crate) opened: Vec<DocumentId>,
    /// What failed and is not tried again, with what was to be done.
    pub(crate) failed: Vec<(DocumentId, Work, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Doing {
    Nothing,
    Asked,
    Works(Work),
}

#[derive(Debug)]
struct OfDocument {
    kept: PendingEffect,
    /// Nobody may come, because it is gone or seems to be.
    is_closed: bool,
    /// The row says this, of all that it was marked for.
    wants: Option<Work>,
    doing: Doing,
    /// It was marked since it was asked.
    is_marked: bool,
    /// Has the address at which it is to be published.
    waits_for: Option<DocumentId>,
    /// So much was done with documents when this was begun.
    begun_at: u64,
    tries: u32,
    not_before: Duration,
}

/// See the module. Has one entry for each document at most for which something is to be done.
#[derive(Debug, Default)]
pub(crate) struct DocumentEffects {
    documents: BTreeMap<DocumentId, OfDocument>,
    /// Those of which something can be asked and done; all, as long as nobody has said.
    kinds: Option<BTreeSet<String>>,
    /// Which documents wait for the address of each, unless they wait no more.
    waiting: BTreeMap<DocumentId, BTreeSet<DocumentId>>,
    /// So much was done with documents: each may have freed an address.
    done: u64,
    is_asking: bool,
    ask_pause: Duration,
    kept: Kept,
}

impl DocumentEffects {
    /// Goes on with what was kept. What had failed is tried once more.
    pub(crate) fn resume(&mut self, kept: BTreeMap<DocumentId, PendingEffect>, now: Duration) {
        for (document, mut kept) in kept {
            let tries = if kept.failure.take().is_some() { EFFECT_TRIES - 1 } else { 0 };
            let is_closed = kept.gone.is_some();
            if is_closed {
                self.kept.closed.push(document.clone());
            }
            let of = OfDocument { kept, is_closed, tries, ..OfDocument::new(now) };
            self.documents.insert(document, of);
        }
    }

    /// What happened in between nobody knows: whether a row that was missing still is, is to be asked. What was deleted stays
    /// so. Transactions that were to be seen are of another history.
    pub(crate) fn interrupted(&mut self, now: Duration) {
        let documents: Vec<DocumentId> = self.documents.keys().cloned().collect();
        for document in documents {
            let Some(of) = self.documents.get_mut(&document) else { continue };
            // What is being deleted is deleted.
            if of.kept.gone == Some(Gone::Missing) && !matches!(of.doing, Doing::Works(_)) {
                of.kept.gone = None;
            }
            of.kept.xid = None;
            self.mark(document, Mark::Changed(None), now);
        }
    }

    /// The row of a document has changed.
    pub(crate) fn mark(&mut self, document: DocumentId, mark: Mark, now: Duration) {
        let of = self.documents.entry(document.clone()).or_insert_with(|| OfDocument::new(now));
        (of.is_marked, of.wants, of.waits_for) = (true, None, None);
        match mark {
            Mark::Changed(xid) => {
                of.kept.is_changed = true;
                of.kept.xid = xid.or(of.kept.xid);
            }
            Mark::Deleted => {
                // Nothing that its row said before counts any more.
                let gone = Some(Gone::Deleted);
                (of.kept.gone, of.kept.is_changed, of.kept.xid) = (gone, false, None);
            }
        }
        let is_waiting = of.kept.failure.is_none() && of.tries > 0;
        if !is_waiting || mark == Mark::Deleted {
            (of.tries, of.not_before) = (0, now);
        }
        of.kept.failure = None;
        if of.kept.gone.is_some() && !std::mem::replace(&mut of.is_closed, true) {
            self.kept.closed.push(document.clone());
        }
        self.keep(document);
    }

    /// Something that failed is tried again, as if it never had been. Tells whether it had.
    pub(crate) fn repeat(&mut self, document: &DocumentId, now: Duration) -> bool {
        let Some(of) = self.documents.get_mut(document) else { return false };
        if of.kept.failure.take().is_none() {
            return false;
        }
        (of.tries, of.not_before, of.wants, of.waits_for) = (0, now, None, None);
        self.keep(document.clone());
        true
    }

    /// What the rows say that were asked for; `None`: it could not be told of this one.
    pub(crate) fn answered(
        &mut self,
        snapshot: &TransactionSnapshot,
        answers: Vec<(DocumentId, Option<Option<DocumentRow>>)>,
        publishes: impl Fn(&DocumentId) -> bool,
        now: Duration,
    ) {
        self.is_asking = false;
        self.ask_pause = Duration::ZERO;
        for (document, answer) in answers {
            let Some(of) = self.documents.get_mut(&document) else { continue };
            if of.doing != Doing::Asked {
                continue;
            }
            of.doing = Doing::Nothing;
            let is_told = answer.is_some();
            // Whoever asks may ask too early: the stream is ahead of what can be seen.
            let has_seen = of.kept.xid.is_none_or(|xid| snapshot.contains(xid));
            let Some(row) = answer.filter(|_| has_seen && !of.is_marked) else {
                of.not_before = now + if is_told { ASK_AGAIN } else { MAX_PAUSE };
                continue;
            };
            match row {
                None if of.is_closed => {
                    (of.kept.gone, of.kept.is_changed) = (Some(Gone::Missing), false);
                    self.keep(document);
                }
                None => {
                    of.is_closed = true;
                    self.kept.closed.push(document);
                }
                Some(row) => {
                    let wants = publishes(&document).then(|| wanted(row));
                    of.wants = wants;
                    if of.is_closed {
                        of.is_closed = false;
                        self.kept.opened.push(document.clone());
                    }
                    if of.wants.is_none() {
                        self.settled(document);
                    }
                }
            }
        }
    }

    /// What was asked could not be answered at all.
    pub(crate) fn not_answered(&mut self, now: Duration) {
        self.is_asking = false;
        self.ask_pause = (self.ask_pause * 2).clamp(MIN_PAUSE, MAX_PAUSE);
        let asked = self.documents.values_mut().filter(|of| of.doing == Doing::Asked);
        for of in asked {
            of.doing = Doing::Nothing;
            of.not_before = now + self.ask_pause;
        }
    }

    /// What became of something that was done.
    pub(crate) fn ended(
        &mut self,
        document: &DocumentId,
        done: Result<(), WorkFailure>,
        now: Duration,
    ) {
        let Some(of) = self.documents.get_mut(document) else { return };
        let Doing::Works(work) = std::mem::replace(&mut of.doing, Doing::Nothing) else { return };
        let is_delete = matches!(work, Work::Delete(_));
        match done {
            Ok(()) => {
                (of.tries, of.not_before) = (0, now);
                self.may_have_freed(document, now);
                let Some(of) = self.documents.get_mut(document) else { return };
                if is_delete {
                    of.kept.gone = None;
                    if of.kept.is_changed {
                        // There may be a row that came after it.
                        of.is_closed = false;
                        self.kept.opened.push(document.clone());
                        return self.keep(document.clone());
                    }
                } else if of.is_marked {
                    return;
                }
                self.settled(document.clone());
            }
            Err(failure) => {
                // What it is marked for since may be another thing.
                if of.is_marked && !is_delete {
                    return;
                }
                of.tries += 1;
                let (tries, may_be_free) = (of.tries, of.begun_at != self.done);
                let is_final = match &failure.retry {
                    Retry::Later => false,
                    Retry::After(owner) => !may_be_free && !self.is_to_be_seen_to(owner),
                    Retry::Never => true,
                };
                let Some(of) = self.documents.get_mut(document) else { return };
                if let Retry::After(owner) = failure.retry {
                    let waiting = self.waiting.entry(owner.clone()).or_default();
                    waiting.insert(document.clone());
                    of.waits_for = Some(owner);
                }
                if is_final || tries >= EFFECT_TRIES {
                    of.kept.failure = Some(failure.reason.clone());
                    self.kept.failed.push((document.clone(), work, failure.reason));
                    return self.keep(document.clone());
                }
                let pause = MIN_EFFECT_PAUSE.saturating_mul(1 << (of.tries - 1).min(16));
                of.not_before = now + pause.min(MAX_EFFECT_PAUSE);
            }
        }
    }

    /// Something was done with a document: whoever waits for its address may have it by now.
    fn may_have_freed(&mut self, owner: &DocumentId, now: Duration) {
        self.done += 1;
        for document in self.waiting.remove(owner).unwrap_or_default() {
            let Some(of) = self.documents.get_mut(&document) else { continue };
            if of.waits_for.as_ref() == Some(owner) && of.doing == Doing::Nothing {
                of.waits_for = None;
                (of.tries, of.not_before, of.wants, of.kept.failure) = (0, now, None, None);
                self.keep(document);
            }
        }
    }

    /// Whether something is going to be done with a document.
    fn is_to_be_seen_to(&self, document: &DocumentId) -> bool {
        self.documents.get(document).is_some_and(|of| of.kept.failure.is_none())
    }

    /// What is no document of a kind that there is, nothing can be asked about: it is forgotten, where `is_possible` says
    /// that no row can have it. Kinds that are not among `kinds` wait until they are.
    pub(crate) fn know(
        &mut self,
        kinds: BTreeSet<String>,
        is_possible: impl Fn(&DocumentId) -> bool,
    ) {
        let idle = |of: &OfDocument| of.doing == Doing::Nothing && of.kept.gone.is_none();
        let known = self.documents.iter().filter(|(document, _)| kinds.contains(document.kind()));
        let impossible = known.filter(|(document, of)| idle(of) && !is_possible(document));
        let impossible: Vec<DocumentId> =
            impossible.map(|(document, _)| document.clone()).collect();
        impossible.into_iter().for_each(|document| self.settled(document));
        self.kinds = Some(kinds);
    }

    /// All that it was marked for is done.
    fn settled(&mut self, document: DocumentId) {
        if let Some(of) = self.documents.remove(&document)
            && of.is_closed
        {
            self.kept.opened.push(document.clone());
        }
        self.kept.entries.insert(document, None);
    }

    fn keep(&mut self, document: DocumentId) {
        let kept = self.documents.get(&document).map(|of| of.kept.clone());
        self.kept.entries.insert(document, kept);
    }

    /// What is to be kept, and what follows from that, since this was asked last. To be asked before [`DocumentEffects::pass`].
    pub(crate) fn take_kept(&mut self) -> Kept {
        std::mem::take(&mut self.kept)
    }

    /// What is to be begun now.
    pub(crate) fn pass(&mut self, now: Duration) -> Vec<EffectStep> {
        let mut steps = Vec::new();
        let works = |of: &OfDocument| matches!(of.doing, Doing::Works(_));
        let mut free =
            EFFECTS_AT_ONCE.saturating_sub(self.documents.values().filter(|of| works(of)).count());
        // No two at a time want one address, so that it is clear whose it is.
        let mut slugs: BTreeSet<String> = BTreeSet::new();
        for of in self.documents.values() {
            if let Doing::Works(Work::Publish { slug, .. }) = &of.doing {
                slugs.insert(slug.clone());
            }
        }
        if free == 0 && self.is_asking {
            return steps;
        }
        let ready = self.documents.iter_mut();
        let ready = ready.filter(|(document, of)| {
            let waits = of.doing == Doing::Nothing && of.kept.failure.is_none();
            waits && of.not_before <= now && is_known(&self.kinds, document)
        });
        let mut ready: Vec<_> = ready.collect();
        // Who has waited longest is first, so that nobody waits for ever.
        ready.sort_by_key(|(_, of)| of.not_before);
        let mut asked = Vec::new();
        for (document, of) in ready {
            let work = of.kept.gone.map(Work::Delete).or_else(|| of.wants.clone());
            let Some(work) = work else {
                if !self.is_asking && asked.len() < ASKED_AT_ONCE {
                    (of.doing, of.is_marked) = (Doing::Asked, false);
                    asked.push(document.clone());
                }
                continue;
            };
            if free == 0 {
                continue;
            }
            if let Work::Publish { slug, .. } = &work
                && !slugs.insert(slug.clone())
            {
                continue;
            }
            free -= 1;
            (of.waits_for, of.begun_at) = (None, self.done);
            of.doing = Doing::Works(work.clone());
            steps.push(EffectStep::Do(document.clone(), work));
        }
        if !asked.is_empty() {
            self.is_asking = true;
            steps.push(EffectStep::Ask(asked));
        }
        steps
    }

    /// When there is something to begin after this moment, if nothing happens before. What could be begun already waits for
    /// an answer, or for something else to end.
    pub(crate) fn deadline(&self, now: Duration) -> Option<Duration> {
        let waits = |of: &OfDocument| of.doing == Doing::Nothing && of.kept.failure.is_none();
        let waiting = self.documents.iter();
        let waiting = waiting.filter(|(document, of)| waits(of) && is_known(&self.kinds, document));
        let waiting = waiting.map(|(_, of)| of.not_before);
        waiting.filter(|not_before| *not_before > now).min()
    }

    /// How many documents are to be seen to, and of how many nothing is tried any more.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let known = self.documents.iter();
        let known = known.filter(|(document, _)| is_known(&self.kinds, document));
        known.fold((0, 0), |(waiting, failed), (_, of)| match of.kept.failure {
            None => (waiting + 1, failed),
            Some(_) => (waiting, failed + 1),
        })
    }
}

fn is_known(kinds: &Option<BTreeSet<String>>, document: &DocumentId) -> bool {
    kinds.as_ref().is_none_or(|kinds| kinds.contains(document.kind()))
}

impl OfDocument {
    fn new(now: Duration) -> OfDocument {
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
}

/// What follows from what a row says.
fn wanted(row: DocumentRow) -> Work {
    match row.published {
        true => Work::Publish {
            slug: row.slug.unwrap_or_default(),
            edition: row.edition.unwrap_or_default(),
            has_source: row.source.is_some_and(|source| !source.is_empty()),
        },
        false => Work::Unpublish,
    }
}

#[cfg(test)]
mod tests;
