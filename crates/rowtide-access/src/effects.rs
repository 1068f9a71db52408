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

mod schedule;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rowtide_documents::host::DocumentId;
use rowtide_engine::TransactionSnapshot;
use rowtide_postgres::standings::DocumentRow;

use self::schedule::{Answered, Doing, OfDocument, Schedule};
use self::work::wanted;
pub(crate) use self::work::{
    EffectStep, Gone, Kept, Mark, PendingEffect, Retry, Work, WorkFailure,
};
use crate::limits::{
    ASKED_AT_ONCE, EFFECT_TRIES, EFFECTS_AT_ONCE, MAX_EFFECT_PAUSE, MAX_PAUSE, MIN_EFFECT_PAUSE,
    MIN_PAUSE,
};

/// See the module. Has one entry for each document at most for which something is to be done.
#[derive(Debug, Default)]
pub(crate) struct DocumentEffects {
    documents: Schedule,
    /// Which documents wait for the address of each, unless they wait no more.
    waiting: BTreeMap<DocumentId, BTreeSet<DocumentId>>,
    /// So much was done with documents: each may have freed an address.
    done: u64,
    /// What the rows say of these is being asked.
    asked: Vec<DocumentId>,
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
        let documents: Vec<DocumentId> = self.documents.all().map(|(of, _)| of.clone()).collect();
        for document in documents {
            self.documents.change(&document, |of| {
                // What is being deleted is deleted.
                if of.kept.gone == Some(Gone::Missing) && !matches!(of.doing, Doing::Works(_)) {
                    of.kept.gone = None;
                }
                of.kept.xid = None;
            });
            self.mark(document, Mark::Changed(None), now);
        }
    }

    /// The row of a document has changed.
    pub(crate) fn mark(&mut self, document: DocumentId, mark: Mark, now: Duration) {
        if self.documents.get(&document).is_none() {
            self.documents.insert(document.clone(), OfDocument::new(now));
        }
        let closes = self.documents.change(&document, |of| {
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
            of.kept.gone.is_some() && !std::mem::replace(&mut of.is_closed, true)
        });
        if closes == Some(true) {
            self.kept.closed.push(document.clone());
        }
        self.keep(document);
    }

    /// Something that failed is tried again, as if it never had been. Tells whether it had.
    pub(crate) fn repeat(&mut self, document: &DocumentId, now: Duration) -> bool {
        let had_failed = self.documents.change(document, |of| {
            let had_failed = of.kept.failure.take().is_some();
            if had_failed {
                (of.tries, of.not_before, of.wants, of.waits_for) = (0, now, None, None);
            }
            had_failed
        });
        if had_failed == Some(true) {
            self.keep(document.clone());
        }
        had_failed == Some(true)
    }

    /// What the rows say that were asked for; `None`: it could not be told of this one.
    pub(crate) fn answered(
        &mut self,
        snapshot: &TransactionSnapshot,
        answers: Vec<(DocumentId, Option<Option<DocumentRow>>)>,
        publishes: impl Fn(&DocumentId) -> bool,
        now: Duration,
    ) {
        self.asked.clear();
        self.ask_pause = Duration::ZERO;
        for (document, answer) in answers {
            let wants = |row| publishes(&document).then(|| wanted(row));
            let answered = self.documents.change(&document, |of| {
                (of.doing == Doing::Asked).then(|| of.answered(snapshot, answer, wants, now))
            });
            match answered.flatten() {
                None | Some(Answered::AskedAgain) => {}
                Some(Answered::IsMissing) => self.keep(document),
                Some(Answered::SeemsMissing) => self.kept.closed.push(document),
                Some(Answered::Says { has_opened, is_settled }) => {
                    if has_opened {
                        self.kept.opened.push(document.clone());
                    }
                    if is_settled {
                        self.settled(document);
                    }
                }
            }
        }
    }

    /// What was asked could not be answered at all.
    pub(crate) fn not_answered(&mut self, now: Duration) {
        self.ask_pause = (self.ask_pause * 2).clamp(MIN_PAUSE, MAX_PAUSE);
        let again = now + self.ask_pause;
        for document in std::mem::take(&mut self.asked) {
            self.documents.change(&document, |of| {
                if of.doing == Doing::Asked {
                    (of.doing, of.not_before) = (Doing::Nothing, again);
                }
            });
        }
    }

    /// What became of something that was done.
    pub(crate) fn ended(
        &mut self,
        document: &DocumentId,
        done: Result<(), WorkFailure>,
        now: Duration,
    ) {
        let ended = self.documents.change(document, |of| match &of.doing {
            Doing::Works(_) => {
                let doing = std::mem::replace(&mut of.doing, Doing::Nothing);
                if let Doing::Works(work) = doing { Some((work, of.is_marked)) } else { None }
            }
            Doing::Nothing | Doing::Asked => None,
        });
        let Some(Some((work, is_marked))) = ended else { return };
        let is_delete = matches!(work, Work::Delete(_));
        match done {
            Ok(()) => {
                self.documents.change(document, |of| (of.tries, of.not_before) = (0, now));
                self.may_have_freed(document, now);
                if is_delete {
                    // There may be a row that came after it.
                    let is_changed = self.documents.change(document, |of| {
                        of.kept.gone = None;
                        of.is_closed = of.is_closed && !of.kept.is_changed;
                        of.kept.is_changed
                    });
                    if is_changed == Some(true) {
                        self.kept.opened.push(document.clone());
                        return self.keep(document.clone());
                    }
                } else if is_marked {
                    return;
                }
                self.settled(document.clone());
            }
            // What it is marked for since may be another thing.
            Err(_) if is_marked && !is_delete => {}
            Err(failure) => self.failed(document, work, failure, now),
        }
    }

    fn failed(&mut self, document: &DocumentId, work: Work, failure: WorkFailure, now: Duration) {
        let WorkFailure { reason, retry } = failure;
        let Some(begun_at) = self.documents.get(document).map(|of| of.begun_at) else { return };
        let may_be_free = begun_at != self.done;
        let is_final = match &retry {
            Retry::Later => false,
            Retry::After(owner) => !may_be_free && !self.is_to_be_seen_to(owner),
            Retry::Never => true,
        };
        let waits_for = if let Retry::After(owner) = retry { Some(owner) } else { None };
        if let Some(owner) = &waits_for {
            self.waiting.entry(owner.clone()).or_default().insert(document.clone());
        }
        let gives_up = self.documents.change(document, |of| {
            of.tries += 1;
            of.waits_for = waits_for.or(of.waits_for.take());
            let gives_up = is_final || of.tries >= EFFECT_TRIES;
            if gives_up {
                of.kept.failure = Some(reason.clone());
            } else {
                let pause = MIN_EFFECT_PAUSE.saturating_mul(1 << (of.tries - 1).min(16));
                of.not_before = now + pause.min(MAX_EFFECT_PAUSE);
            }
            gives_up
        });
        if gives_up == Some(true) {
            self.kept.failed.push((document.clone(), work, reason));
            self.keep(document.clone());
        }
    }

    /// Something was done with a document: whoever waits for its address may have it by now.
    fn may_have_freed(&mut self, owner: &DocumentId, now: Duration) {
        self.done += 1;
        for document in self.waiting.remove(owner).unwrap_or_default() {
            let is_free = self.documents.change(&document, |of| {
                let is_free = of.waits_for.as_ref() == Some(owner) && of.doing == Doing::Nothing;
                if is_free {
                    of.waits_for = None;
                    (of.tries, of.not_before, of.wants, of.kept.failure) = (0, now, None, None);
                }
                is_free
            });
            if is_free == Some(true) {
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
        let known = self.documents.all().filter(|(document, _)| kinds.contains(document.kind()));
        let impossible = known.filter(|(document, of)| idle(of) && !is_possible(document));
        let impossible: Vec<DocumentId> =
            impossible.map(|(document, _)| document.clone()).collect();
        impossible.into_iter().for_each(|document| self.settled(document));
        self.documents.know(kinds);
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

    /// What is to be begun now: with who has waited longest first, so that nobody waits for ever.
    pub(crate) fn pass(&mut self, now: Duration) -> Vec<EffectStep> {
        // No two at a time want one address, so that it is clear whose it is.
        let slug = |work: &Work| {
            if let Work::Publish { slug, .. } = work { Some(slug.clone()) } else { None }
        };
        let mut slugs: BTreeSet<String> = self.documents.works().filter_map(slug).collect();
        let free = EFFECTS_AT_ONCE.saturating_sub(self.documents.works().count());
        let mut begun = Vec::new();
        if free > 0 {
            for (document, of) in self.documents.ready(now) {
                let Some(work) = of.work() else { continue };
                if slug(&work).is_none_or(|slug| slugs.insert(slug)) {
                    begun.push((document.clone(), work));
                }
                if begun.len() == free {
                    break;
                }
            }
        }
        let mut steps = Vec::new();
        for (document, work) in begun {
            self.documents.change(&document, |of| {
                (of.waits_for, of.begun_at) = (None, self.done);
                of.doing = Doing::Works(work.clone());
            });
            steps.push(EffectStep::Do(document, work));
        }
        if self.asked.is_empty() {
            self.asked = self.documents.to_ask(now).take(ASKED_AT_ONCE).cloned().collect();
            for document in &self.asked {
                self.documents.change(document, |of| {
                    (of.doing, of.is_marked) = (Doing::Asked, false);
                });
            }
            if !self.asked.is_empty() {
                steps.push(EffectStep::Ask(self.asked.clone()));
            }
        }
        steps
    }

    /// When there is something to begin after this moment, if nothing happens before. What could be begun already waits for
    /// an answer, or for something else to end.
    pub(crate) fn deadline(&self, now: Duration) -> Option<Duration> {
        self.documents.after(now)
    }

    /// How many documents are to be seen to, and of how many nothing is tried any more.
    pub(crate) fn counts(&self) -> (usize, usize) {
        self.documents.counts()
    }
}

#[cfg(test)]
mod many;
#[cfg(test)]
mod tests;
