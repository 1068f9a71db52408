//! The shell around [`Watching`]: it follows the feed, asks Postgres, and tells those who wait at documents and are in
//! them. One task, one question at a time over one connection.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rowtide_documents::host::DocumentId;
use rowtide_documents::place::{Access, Closing, Reason};
use rowtide_feed::{
    Event, Feed, FeedState, FollowError, Generation, ReplicatorStatus, Subscription,
};
use rowtide_plan::documents::Standing;
use rowtide_plan::plan::Plan;
use rowtide_postgres::connect::ConnectOptions;
use rowtide_postgres::mutate::Author;
use rowtide_postgres::said_once::SaidOnce;
use rowtide_postgres::standings::{
    STANDING_TIMEOUT, StandingAsked, StandingAsker, StandingError, Standings,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::limits::{MAX_PAUSE, MIN_PAUSE, NEVER};
use crate::telemetry;
use crate::watching::{MemberId, MemberTold, WatchEffect, Watching};

/// How many arrivals are taken before anything else is looked at again.
const BATCH: usize = 256;

enum Arrival {
    Comes(MemberId, DocumentId, Option<Arc<Author>>, watch::Sender<Option<MemberTold>>),
    Leaves(MemberId),
}

/// Where those who come to documents ask. Cheap to clone.
#[derive(Clone)]
pub struct Doorkeeper {
    /// Two entries at most for each socket, which bounds them.
    inbox: mpsc::UnboundedSender<Arrival>,
    next: Arc<AtomicU64>,
}

/// Somebody at a document; dropping it leaves.
pub struct AtDoor {
    member: MemberId,
    told: watch::Receiver<Option<MemberTold>>,
    inbox: mpsc::UnboundedSender<Arrival>,
}

impl Doorkeeper {
    /// Starts to follow the feed, until `stop`. `named` is called with what the row calls a document that somebody is in,
    /// and must not wait.
    pub fn start(
        database: ConnectOptions,
        feed: Feed,
        named: impl FnMut(DocumentId, String) + Send + 'static,
        stop: CancellationToken,
    ) -> Doorkeeper {
        let (inbox, arrivals) = mpsc::unbounded_channel();
        let task = DoorkeeperTask {
            watching: Watching::default(),
            began: Instant::now(),
            tells: BTreeMap::new(),
            states: feed.watch(),
            feed,
            asker: Some(StandingAsker::new(database)),
            answer: None,
            pause: MIN_PAUSE,
            said: SaidOnce::default(),
            named: Box::new(named),
        };
        tokio::spawn(async move { stop.run_until_cancelled(task.run(arrivals)).await });
        Doorkeeper { inbox, next: Arc::default() }
    }

    /// Somebody comes to a document.
    pub fn come(&self, document: DocumentId, who: Option<Arc<Author>>) -> AtDoor {
        let member = MemberId(self.next.fetch_add(1, Ordering::Relaxed));
        let (tells, told) = watch::channel(None);
        // Where nobody listens any more, the receiver hears of it.
        drop(self.inbox.send(Arrival::Comes(member, document, who, tells)));
        AtDoor { member, told, inbox: self.inbox.clone() }
    }
}

impl AtDoor {
    /// Who it is.
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// What they may do, as it changes: the newest, each once. Nothing is known any more once the server ends. Cancel
    /// safe.
    pub async fn told(&mut self) -> MemberTold {
        loop {
            if self.told.changed().await.is_err() {
                return MemberTold::Unknown;
            }
            if let Some(told) = *self.told.borrow_and_update() {
                return told;
            }
        }
    }
}

impl Drop for AtDoor {
    fn drop(&mut self) {
        drop(self.inbox.send(Arrival::Leaves(self.member)));
    }
}

/// What somebody may do, or how their socket is closed.
pub(crate) fn access(told: MemberTold) -> Result<Access, Closing> {
    match told {
        MemberTold::May(Standing::Edit) => Ok(Access::Edit),
        MemberTold::May(Standing::Read) => Ok(Access::Read),
        MemberTold::May(Standing::Missing | Standing::Gone) => {
            Err(Closing::Final(Reason::NotFound))
        }
        MemberTold::May(Standing::Forbidden) => Err(Closing::Final(Reason::Forbidden)),
        MemberTold::May(Standing::NotSignedIn) => Err(Closing::Final(Reason::NotAuthenticated)),
        MemberTold::Unknown => Err(Closing::ComeBack),
    }
}

/// What was asked, and who asked it.
type Answered = (StandingAsker, Result<Standings, StandingError>);

struct DoorkeeperTask {
    watching: Watching,
    began: Instant,
    tells: BTreeMap<MemberId, watch::Sender<Option<MemberTold>>>,
    states: watch::Receiver<FeedState>,
    feed: Feed,
    /// Away while a question is under way.
    asker: Option<StandingAsker>,
    answer: Option<Pin<Box<dyn Future<Output = Answered> + Send>>>,
    pause: Duration,
    said: SaidOnce,
    named: Box<dyn FnMut(DocumentId, String) + Send>,
}

impl DoorkeeperTask {
    async fn run(mut self, mut arrivals: mpsc::UnboundedReceiver<Arrival>) {
        let mut subscription: Option<Subscription> = None;
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let (generation, status) = {
                let state = self.states.borrow_and_update();
                (state.generation.clone(), state.status.clone())
            };
            if subscription.is_none() {
                subscription = generation.and_then(|generation| self.begin(&generation));
            }
            if matches!(status, ReplicatorStatus::Standby(_)) {
                self.watching.send_away();
            }
            let streams = status == ReplicatorStatus::Streaming && subscription.is_some();
            self.watching.streams(streams, self.now());
            self.pass();
            let deadline = self.watching.deadline().map_or(NEVER, |at| at.min(NEVER));
            // A generation that could not be followed is about to be another.
            let again = if subscription.is_none() { self.now() + MIN_PAUSE } else { NEVER };
            tokio::select! {
                count = arrivals.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    batch.drain(..).for_each(|arrival| self.take(arrival));
                }
                events = next(subscription.as_mut()) => match events {
                    Ok(events) => self.follow(&events),
                    Err(why) => {
                        tracing::debug!(%why, "standings follow the feed anew");
                        subscription = None;
                    }
                },
                (asker, answered) = wait_for(self.answer.as_mut()) => {
                    self.answer = None;
                    self.asker = Some(asker);
                    self.answered(answered);
                }
                // Without the publisher's side nothing streams, as its last state says or its subscription.
                Ok(()) = self.states.changed() => {}
                () = sleep_until(self.began + deadline.min(again)) => {}
            }
            self.pass();
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn plan(&self) -> Option<Arc<Plan>> {
        self.states.borrow().plan.clone()
    }

    fn begin(&mut self, generation: &Arc<Generation>) -> Option<Subscription> {
        let subscription = self.feed.subscribe(generation, generation.position).ok()?;
        let now = self.now();
        self.watching.begin(&generation.plan, &generation.recent, now);
        Some(subscription)
    }

    fn take(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Comes(member, document, who, tells) => {
                self.tells.insert(member, tells);
                self.watching.come(member, document, who, self.began.elapsed());
            }
            Arrival::Leaves(member) => {
                self.tells.remove(&member);
                self.watching.leave(member);
            }
        }
    }

    fn follow(&mut self, events: &[Event]) {
        let Some(plan) = self.plan() else { return };
        let now = self.now();
        for event in events {
            if let Event::Transaction { transaction, .. } = event {
                self.watching.follow(&plan, transaction, now);
            }
        }
    }

    fn answered(&mut self, answered: Result<Standings, StandingError>) {
        let now = self.now();
        let mut failed = None;
        match answered {
            Ok(Standings { snapshot, answers }) => {
                let answers = answers.into_iter();
                let answers =
                    answers.map(|answer| answer.map_err(|error| failed = Some(error)).ok());
                self.watching.answered(&snapshot, answers.collect(), now);
                self.pause = MIN_PAUSE;
            }
            Err(error) => {
                self.watching.failed(self.pause, now);
                self.pause = (self.pause * 2).min(MAX_PAUSE);
                failed = Some(error);
            }
        }
        let Some(error) = failed else { return self.said.clear() };
        telemetry::standings_failed();
        if error.asks_for_a_look() {
            self.feed.look();
        }
        if self.said.is_new(&error.to_string()) {
            tracing::warn!(%error, "who may open documents cannot be told; it is asked again");
        }
    }

    fn pass(&mut self) {
        for effect in self.watching.pass(self.now()) {
            match effect {
                WatchEffect::Ask(members) => self.ask(&members),
                WatchEffect::Tell(member, told) => {
                    if let Some(tells) = self.tells.get(&member) {
                        tells.send_replace(Some(told));
                    }
                }
                WatchEffect::Name(document, name) => (self.named)(document, name),
            }
        }
    }

    fn ask(&mut self, members: &[MemberId]) {
        let asks = members.iter().filter_map(|member| {
            let (document, who) = self.watching.member(*member)?;
            let (kind, id) = (document.kind().into(), document.id().into());
            Some(StandingAsked { kind, id, who: who.cloned() })
        });
        let asked: Vec<StandingAsked> = asks.collect();
        // Before there is a plan there is nothing to ask by.
        let ready = self.plan().and_then(|plan| Some((self.asker.take()?, plan)));
        let Some((mut asker, plan)) = ready else {
            return self.watching.failed(self.pause, self.now());
        };
        telemetry::standings_asked(asked.len());
        self.answer = Some(Box::pin(async move {
            let answered = timeout(STANDING_TIMEOUT * 2, asker.ask(&plan, &asked)).await;
            let answered = answered.unwrap_or(Err(StandingError::Silent));
            (asker, answered)
        }));
    }
}

async fn next(subscription: Option<&mut Subscription>) -> Result<Arc<[Event]>, FollowError> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}

async fn wait_for(answer: Option<&mut Pin<Box<dyn Future<Output = Answered> + Send>>>) -> Answered {
    match answer {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}
