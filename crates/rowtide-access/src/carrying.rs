//! The shell around [`DocumentEffects`]: it follows the feed, keeps what is to be done, asks what rows say, and has the host
//! do it. One task. It goes on where the one before has ended, in the log's history; where that does not go back so far,
//! all documents are held against their rows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use rowtide_documents::host::{DocumentId, Host};
use rowtide_feed::{
    Event, Feed, FeedState, FollowError, Generation, ReplicatorStatus, Subscription,
};
use rowtide_plan::plan::Plan;
use rowtide_postgres::standings::{StandingAsked, StandingError, Standings};
use rowtide_protocol::Lsn;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval, sleep, sleep_until};

use crate::closed::EffectsShared;
use crate::desk::Desk;
use crate::effects::{
    DocumentEffects, EffectStep, Gone, Kept, Mark, PendingEffect, Work, WorkFailure,
};
use crate::ledger::{EffectLedger, Followed, LedgerError, LedgerWrite};
use crate::limits::{
    CURSOR_EVERY, MAX_PAUSE, MIN_PAUSE, NEVER, RECONCILED_AT_ONCE, REPEATS_EVERY, SAID_AGAIN_AFTER,
};
use crate::marks::StreamMarks;
use crate::reconciling::{Page, Reconciling, is_possible, kinds};
use crate::saying::PublishErrors;
use crate::telemetry;
use crate::working::{carry_out, words};

/// So many works that have ended are taken together.
const ENDED_AT_ONCE: usize = 64;

/// What the task needs.
pub(crate) struct EffectsNeed<'a> {
    pub(crate) host: &'a Arc<Host>,
    pub(crate) dir: &'a Path,
    pub(crate) feed: &'a Feed,
    pub(crate) desk: &'a Desk,
    pub(crate) errors: PublishErrors,
    pub(crate) shared: &'a EffectsShared,
    /// Why nobody can open documents, if so.
    pub(crate) missing: &'a watch::Sender<Option<String>>,
}

impl EffectsNeed<'_> {
    /// What is kept cannot be read or written: nobody comes to a document before it can.
    fn cannot_keep(&self, error: &LedgerError, said: &mut Option<Instant>) {
        self.missing.send_replace(Some(error.to_string()));
        if said.is_none_or(|said| said.elapsed() >= SAID_AGAIN_AFTER) {
            *said = Some(Instant::now());
            tracing::error!(%error, "nothing is done because of rows, and nobody may be able to open documents; it is tried again");
        }
    }
}

type Asked = BoxFuture<'static, (Vec<DocumentId>, Result<Standings, StandingError>)>;
type Ended = BoxFuture<'static, (DocumentId, Result<(), WorkFailure>)>;

/// Carries out effects until it is dropped.
pub(crate) async fn carry_out_effects(need: EffectsNeed<'_>) {
    let (mut pause, mut said) = (MIN_PAUSE, None);
    let (ledger, followed, pending) = loop {
        match open(need.dir).await {
            Ok(opened) => break opened,
            Err(error) => need.cannot_keep(&error, &mut said),
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    };
    need.missing.send_replace(None);
    let mut effects = DocumentEffects::default();
    effects.resume(pending, Duration::ZERO);
    let task = EffectsTask {
        states: need.feed.watch(),
        need,
        effects,
        marks: StreamMarks::default(),
        ledger: Some(ledger),
        followed,
        is_unwritten: false,
        reconciling: None,
        behind: None,
        asked: None,
        under_way: FuturesUnordered::new(),
        began: Instant::now(),
        is_caught_up: false,
        kept_aside: 0,
    };
    task.run().await;
}

type Opened = (EffectLedger, Option<Followed>, BTreeMap<DocumentId, PendingEffect>);

async fn open(dir: &Path) -> Result<Opened, LedgerError> {
    let dir = dir.to_owned();
    let opened = spawn_blocking(move || {
        let ledger = EffectLedger::open(&dir)?;
        let (followed, pending) = (ledger.followed()?, ledger.pending()?);
        Ok((ledger, followed, pending))
    });
    opened.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

struct EffectsTask<'a> {
    need: EffectsNeed<'a>,
    states: watch::Receiver<FeedState>,
    effects: DocumentEffects,
    marks: StreamMarks,
    /// Away while it is written.
    ledger: Option<EffectLedger>,
    followed: Option<Followed>,
    /// How far it was followed is not written.
    is_unwritten: bool,
    reconciling: Option<Reconciling>,
    /// Whoever looks has to have seen this transaction, for which all documents are held against their rows.
    behind: Option<u32>,
    asked: Option<Asked>,
    under_way: FuturesUnordered<Ended>,
    began: Instant,
    is_caught_up: bool,
    /// So many documents were kept aside since it was said last.
    kept_aside: usize,
}

impl EffectsTask<'_> {
    async fn run(mut self) {
        let mut subscription: Option<Subscription> = None;
        let (mut repeats, mut writes) = (interval(REPEATS_EVERY), interval(CURSOR_EVERY));
        loop {
            let (generation, status) = {
                let state = self.states.borrow_and_update();
                (state.generation.clone(), state.status.clone())
            };
            if subscription.is_none() {
                subscription = generation.and_then(|generation| self.begin(&generation));
            }
            self.keep(false).await;
            self.pass();
            if status == ReplicatorStatus::Streaming && !self.is_caught_up {
                self.catch_up(subscription.as_mut()).await;
            }
            let now = self.now();
            let deadline = self.effects.deadline(now).map_or(NEVER, |at| at.min(NEVER));
            let again = if subscription.is_none() { now + MIN_PAUSE } else { NEVER };
            let has_room = self.effects.counts().0 < 2 * RECONCILED_AT_ONCE;
            tokio::select! {
                events = next(subscription.as_mut()) => match events {
                    Ok(events) => self.follow(&events),
                    Err(why) => {
                        tracing::debug!(%why, "effects follow the feed anew");
                        if why == FollowError::Missed {
                            self.forget("the log does not go back to where it was followed");
                        }
                        subscription = None;
                    }
                },
                (asked, answered) = answer(self.asked.as_mut()) => {
                    self.asked = None;
                    self.answered(asked, answered);
                }
                Some((document, done)) = self.under_way.next() => {
                    self.ended(&document, done);
                    for _ in 1..ENDED_AT_ONCE {
                        let Some(Some((document, done))) = self.under_way.next().now_or_never() else { break };
                        self.ended(&document, done);
                    }
                }
                page = page(self.reconciling.as_mut()), if has_room => self.take_page(page),
                Ok(()) = self.states.changed() => {}
                _ = repeats.tick() => self.take_repeats().await,
                _ = writes.tick() => {
                    self.keep(true).await;
                    self.say_kept_aside();
                }
                () = sleep_until(self.began + deadline.min(again)) => {}
            }
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn plan(&self) -> Option<Arc<Plan>> {
        self.states.borrow().plan.clone()
    }

    /// Goes on in a generation where it was followed before, or begins in it.
    fn begin(&mut self, generation: &Arc<Generation>) -> Option<Subscription> {
        let now = self.now();
        let kinds = kinds(&generation.plan);
        let known = self.followed.as_ref().filter(|followed| followed.epoch == generation.epoch);
        // What the log has not got any more nobody can bring.
        let oldest = self.states.borrow().log.map_or(Lsn(0), |log| log.oldest);
        let begins = generation.position.max(oldest);
        let from = known.map_or(begins, |known| known.lsn.min(generation.position));
        let subscription = self.need.feed.subscribe(generation, from).ok()?;
        // Of a table that is not there now nothing can be asked, and an answer for what no row can have never comes.
        let of_plan: BTreeSet<String> =
            generation.plan.documents.iter().map(|kind| kind.name.clone()).collect();
        self.effects.know(of_plan, |document| is_possible(&generation.plan, document));
        let why = match (&self.followed, known) {
            (None, _) => Some("they were never held against each other"),
            (Some(_), None) => Some("the stream has begun anew"),
            (_, Some(known)) if known.kinds != kinds => Some("the definition is another one"),
            (_, Some(known)) if !known.is_reconciled && self.reconciling.is_none() => {
                Some("it was not done yet")
            }
            _ => None,
        };
        if known.is_none() {
            self.behind = None;
            self.marks = StreamMarks::default();
            self.effects.interrupted(now);
            for transaction in &generation.recent {
                let marked = self.marks.take(&generation.plan, transaction);
                for (document, _) in marked.documents {
                    // It may be done already.
                    self.effects.mark(document, Mark::Changed(Some(transaction.xid)), now);
                }
            }
        }
        let lsn = known.map_or(begins, |known| known.lsn);
        let is_reconciled = why.is_none() && self.reconciling.is_none();
        self.followed = Some(Followed { epoch: generation.epoch, lsn, kinds, is_reconciled });
        self.is_unwritten = true;
        if let Some(why) = why {
            self.reconcile(&generation.plan, why);
        }
        Some(subscription)
    }

    /// All documents are held against their rows.
    fn reconcile(&mut self, plan: &Arc<Plan>, why: &str) {
        tracing::info!("all documents are held against their rows: {why}");
        let (host, desk) = (Arc::clone(self.need.host), self.need.desk.clone());
        self.reconciling = Some(Reconciling::begin(host, desk, Arc::clone(plan)));
        if let Some(followed) = &mut self.followed {
            followed.is_reconciled = false;
        }
        self.is_unwritten = true;
    }

    /// Where it was followed before counts no more.
    fn forget(&mut self, why: &str) {
        tracing::debug!("{why}");
        self.followed = None;
    }

    /// Takes what the stream has ready, until there is nothing more.
    async fn catch_up(&mut self, subscription: Option<&mut Subscription>) {
        let Some(subscription) = subscription else { return };
        while let Some(Ok(events)) = subscription.next().now_or_never() {
            self.follow(&events);
        }
        if subscription.position() >= subscription.generation().position {
            // Marks are to be there before anybody comes.
            self.keep(false).await;
            self.is_caught_up = true;
            self.need.shared.caught_up();
        }
    }

    fn follow(&mut self, events: &[Event]) {
        let now = self.now();
        let Some(plan) = self.plan() else { return };
        let mut position = self.followed.as_ref().map_or(Lsn(0), |followed| followed.lsn);
        for event in events {
            if event.lsn().is_none_or(|lsn| lsn <= position) {
                continue;
            }
            if let Event::Transaction { transaction, .. } = event {
                let marked = self.marks.take(&plan, transaction);
                for (document, mark) in marked.documents {
                    self.effects.mark(document, mark, now);
                }
                if marked.is_unknown {
                    // Rows that are there again under the ids of those that are gone count as the same.
                    self.behind = Some(transaction.xid);
                    let why = "a table was truncated, or more of it changed than can be held";
                    self.reconcile(&plan, why);
                }
            }
            position = event.lsn().unwrap_or(position);
        }
        if let Some(followed) = &mut self.followed
            && followed.lsn < position
        {
            followed.lsn = position;
            self.is_unwritten = true;
        }
    }

    fn take_page(&mut self, page: Page) {
        let now = self.now();
        match page {
            Page::Some(documents) => {
                for document in documents {
                    self.effects.mark(document, Mark::Changed(self.behind), now);
                }
            }
            Page::Last => {
                self.reconciling = None;
                if let Some(followed) = &mut self.followed {
                    followed.is_reconciled = true;
                }
                self.is_unwritten = true;
            }
        }
    }

    /// Writes what is to be kept, as often as it takes, and then says what follows. How far the stream was followed alone
    /// is written if it is `due`.
    async fn keep(&mut self, due: bool) {
        let Kept { closed, entries, opened, failed } = self.effects.take_kept();
        self.need.shared.close(closed);
        if !entries.is_empty() || (due && self.is_unwritten) {
            let followed = self.followed.clone();
            self.is_unwritten = false;
            self.write(LedgerWrite { entries, followed }).await;
        }
        self.need.shared.open(&opened);
        for (document, work, reason) in failed {
            let kind = document.kind();
            tracing::error!(
                kind,
                id = document.id(),
                reason,
                "a document cannot be {}; `rowtide effects` shows it, and has it tried again",
                words(&work)
            );
            if !matches!(work, Work::Delete(_)) {
                self.need.errors.failed(&document, reason);
            }
        }
        self.need.shared.set_counts(self.effects.counts());
    }

    async fn write(&mut self, write: LedgerWrite) {
        let (mut pause, mut said) = (MIN_PAUSE, None);
        let mut write = write;
        loop {
            let Some(mut ledger) = self.ledger.take() else { return };
            let written = spawn_blocking(move || {
                let written = ledger.write(&write);
                (ledger, write, written)
            });
            let (ledger, back, written) = match written.await {
                Ok(written) => written,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            self.ledger = Some(ledger);
            write = back;
            let Err(error) = written else {
                if said.is_some() {
                    self.need.missing.send_replace(None);
                }
                return;
            };
            self.need.cannot_keep(&error, &mut said);
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn take_repeats(&mut self) {
        let Some(ledger) = self.ledger.take() else { return };
        let read = spawn_blocking(move || (ledger.repeats(), ledger));
        let (repeats, ledger) = match read.await {
            Ok(read) => read,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.ledger = Some(ledger);
        let now = self.now();
        let wanted = self.need.shared.take_begun();
        for document in repeats.unwrap_or_default().iter().chain(&wanted) {
            if self.effects.repeat(document, now) {
                tracing::info!(kind = document.kind(), id = document.id(), "it is tried again");
            }
        }
    }

    /// Whoever has the wrong database before them is to notice.
    fn say_kept_aside(&mut self) {
        let documents = std::mem::take(&mut self.kept_aside);
        if documents > 0 {
            tracing::warn!(
                documents,
                "documents have no rows, and nobody told of their deletion: they are deleted, and kept below `removed/`"
            );
        }
    }

    fn pass(&mut self) {
        for step in self.effects.pass(self.now()) {
            match step {
                EffectStep::Ask(documents) => {
                    let desk = self.need.desk.clone();
                    self.asked = Some(Box::pin(async move {
                        let asks = documents.iter().map(|document| StandingAsked {
                            kind: document.kind().into(),
                            id: document.id().into(),
                            who: None,
                        });
                        let answered = desk.ask(asks.collect()).await;
                        (documents, answered)
                    }));
                }
                EffectStep::Do(document, work) => {
                    self.kept_aside += usize::from(work == Work::Delete(Gone::Missing));
                    let host = Arc::clone(self.need.host);
                    let errors = self.need.errors.clone();
                    self.under_way.push(Box::pin(async move {
                        let done = carry_out(&host, &errors, &document, &work).await;
                        (document, done)
                    }));
                }
            }
        }
    }

    fn answered(&mut self, asked: Vec<DocumentId>, answered: Result<Standings, StandingError>) {
        let now = self.now();
        let Standings { snapshot, answers } = match answered {
            Ok(standings) => standings,
            Err(error) => {
                tracing::debug!(%error, "what rows say of documents is asked again");
                return self.effects.not_answered(now);
            }
        };
        let answers = answers.into_iter().map(|answer| answer.ok().map(|answer| answer.row));
        let plan = self.plan();
        let publishes = |document: &DocumentId| {
            let kind = plan.as_ref().and_then(|plan| plan.document_kind(document.kind()));
            kind.is_some_and(|kind| kind.publishing.is_some())
        };
        self.effects.answered(&snapshot, asked.into_iter().zip(answers).collect(), publishes, now);
    }

    fn ended(&mut self, document: &DocumentId, done: Result<(), WorkFailure>) {
        let now = self.now();
        match &done {
            Ok(()) => telemetry::effect_done(),
            Err(failure) => {
                let (kind, reason) = (document.kind(), &failure.reason);
                tracing::warn!(kind, id = document.id(), reason, "what a row says is not done yet");
                telemetry::effect_tried();
            }
        }
        self.effects.ended(document, done, now);
    }
}

async fn next(subscription: Option<&mut Subscription>) -> Result<Arc<[Event]>, FollowError> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}

async fn answer(asked: Option<&mut Asked>) -> (Vec<DocumentId>, Result<Standings, StandingError>) {
    match asked {
        Some(asked) => asked.await,
        None => std::future::pending().await,
    }
}

async fn page(reconciling: Option<&mut Reconciling>) -> Page {
    match reconciling {
        Some(reconciling) => reconciling.next().await,
        None => std::future::pending().await,
    }
}
