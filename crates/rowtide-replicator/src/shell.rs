//! Carries out what the replicator's state machine wants, against Postgres and the disk, and tells it what came of
//! it. Nothing is decided here. It runs on one thread of its own; only the log's writer, which waits for the disk,
//! and the answers to those who follow have others.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use rand::Rng;
use rowtide_feed::{EpochReason, LogExtent, Publisher, ReplicatorStatus};
use rowtide_log::{Began, LogError, LogIdentity};
use rowtide_plan::definition::Definition;
use rowtide_postgres::connect::{ConnectError, ConnectOptions, Names, connect};
use rowtide_postgres::slot_making::make_slot;
use rowtide_postgres::stream::Instance;
use rowtide_postgres::unseen::{still_unseen, unseen, unseen_before_end};
use rowtide_postgres::watch::{Observed, Watcher};
use rowtide_protocol::Lsn;
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::compile::{LookError, look};
use crate::limits::{LOOK_TIMEOUT, WATCH};
use crate::log_threads::{LogStatus, LogThreads};
use crate::machine::{
    Core, Effect, Input, LogFailure, LogFound, LogRead, Next, UnseenBehind, UnseenQuestion,
};
use crate::patience::Patience;
use crate::source::Source;
use crate::{OpenLog, ReplicatorOptions, SharedLog, telemetry};

pub(crate) struct Shell {
    options: ReplicatorOptions,
    publisher: Arc<Publisher>,
    shared_log: SharedLog,
    look: Arc<Notify>,
    /// Someone who follows could not be told what comes next.
    outrun: Arc<Notify>,
    stop: CancellationToken,
    instance: Instance,
    core: Core,
    source: Option<Source>,
    log: Option<Log>,
    /// Looks at the database while it streams.
    watching: Option<Watching>,
}

/// A look at the database that is under way, and comes to an end when there may be something else.
type Watching = Pin<Box<dyn Future<Output = Sight> + Send>>;

/// What a watch comes to.
enum Sight {
    /// What is there, which may be something else than at the last look of this watcher.
    Observed(Box<Observed>, Box<Watcher>),
    /// Nothing has been seen for longer than its [`Patience`], and why.
    Blind(String),
}

/// The log while it is open.
struct Log {
    threads: LogThreads,
    /// What its records are of.
    of: LogIdentity,
    status: watch::Receiver<LogStatus>,
}

/// Why it is not known what can be seen.
#[derive(Debug, Error)]
enum UnseenError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Unseen(#[from] rowtide_postgres::unseen::UnseenError),
}

impl Shell {
    pub(crate) fn new(
        options: ReplicatorOptions,
        publisher: Publisher,
        shared_log: SharedLog,
        look: Arc<Notify>,
        outrun: Arc<Notify>,
        stop: CancellationToken,
    ) -> Shell {
        let core = Core::new(options.names.clone());
        Shell {
            options,
            publisher: Arc::new(publisher),
            shared_log,
            look,
            outrun,
            stop,
            instance: Instance(rand::random()),
            core,
            source: None,
            log: None,
            watching: None,
        }
    }

    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        let mut input = Some(Input::Go);
        while let Some(told) = input {
            let step = self.core.step(told);
            let carried_out = stop.run_until_cancelled(self.carry_out(step.effects)).await;
            let Some(()) = carried_out else { break };
            input = match step.next {
                // It has to be given up in Postgres, too, and does that by itself.
                Some(Next::MakeSlot { anew }) => Some(self.make_slot(anew).await),
                next => {
                    let next = next.unwrap_or(Next::Stream);
                    if !matches!(next, Next::Stream) {
                        // What it sees would be older than the next look.
                        self.watching = None;
                    }
                    stop.run_until_cancelled(self.answer(next)).await
                }
            };
            if stop.is_cancelled() {
                break;
            }
        }
        let effects = self.core.stop();
        self.carry_out(effects).await;
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Status(status) => self.set_status(status),
                Effect::Rejected(rejected) => self.set_rejected(rejected),
                Effect::Incomplete(incomplete) => self.set_incomplete(incomplete),
                Effect::Begin(generation, newest) => {
                    drop(self.publisher.begin(generation, newest));
                }
                Effect::EndGeneration => self.publisher.end(),
                Effect::HandOn(events) => {
                    self.publisher.room().await;
                    // If its writer has ended that is told by the next answer.
                    if let Some(Log { threads: log, .. }) = &mut self.log
                        && log.append(Arc::clone(&events)).await.is_ok()
                    {
                        self.publisher.publish(events);
                    }
                }
                Effect::Switch { at, plan } => {
                    if let Some(source) = &mut self.source {
                        source.switch(at, plan);
                    }
                }
                Effect::Reshape { of: identity, plan, event } => {
                    self.publisher.room().await;
                    if let Some(Log { threads: log, of, .. }) = &mut self.log
                        && log.reshape(identity.clone(), event.clone()).await.is_ok()
                        && log.flushed().await.is_ok()
                    {
                        *of = identity;
                        tracing::info!("tables have more columns; their rows are loaded again");
                        self.publisher.reshape(plan, event);
                    }
                }
                Effect::KeepLook(observed) => {
                    if let Some(Log { threads: log, .. }) = &mut self.log {
                        // If its writer has ended that is told by the next answer.
                        drop(log.keep(observed).await);
                    }
                }
                Effect::Publish(events) => self.publisher.publish(events),
                Effect::Confirm(lsn) => {
                    if let Some(source) = &self.source {
                        source.confirm(lsn);
                    }
                }
                Effect::Disconnect => {
                    if let Some(source) = self.source.take() {
                        source.stop().await;
                    }
                }
                Effect::CloseLog => {
                    *self.shared_log.write().unwrap_or_else(PoisonError::into_inner) = None;
                    if let Some(log) = self.log.take() {
                        log.threads.close().await;
                    }
                }
                Effect::EpochBegan { reason, position } => {
                    tracing::info!(
                        %reason,
                        %position,
                        "a new epoch begins: every client is sent all of its rows"
                    );
                    telemetry::epoch_began(reason);
                }
                Effect::Info(text) => tracing::info!("{text}"),
                Effect::Warn(text) => tracing::warn!("{text}"),
                Effect::Error(text) => tracing::error!("{text}"),
            }
        }
    }

    fn set_status(&self, status: ReplicatorStatus) {
        self.publisher.update(|state| {
            let news = state.status != status;
            if let ReplicatorStatus::Standby(why) = &status
                && news
            {
                tracing::info!(reason = why, "standing by");
            }
            state.status = status;
            news
        });
    }

    fn set_rejected(&self, rejected: Vec<(String, String)>) {
        self.publisher.update(|state| {
            let news = state.rejected_tables != rejected;
            if news {
                for (table, problems) in &rejected {
                    tracing::error!(table, problems, "a table is not served");
                }
                state.rejected_tables = rejected;
            }
            news
        });
    }

    fn set_incomplete(&self, incomplete: Option<String>) {
        self.publisher.update(|state| {
            let news = state.incomplete != incomplete;
            if let Some(what) = incomplete.as_ref().filter(|_| news) {
                tracing::warn!("not all of the definition can be served yet: {what}");
            }
            state.incomplete = incomplete;
            news
        });
    }

    async fn answer(&mut self, next: Next) -> Input {
        match next {
            Next::Wait(pause) => {
                // Several servers that lost the same Postgres do not come back at the same moment.
                let jitter = rand::rng().random_range(0.5..1.0);
                tokio::time::sleep(pause.mul_f64(jitter)).await;
                Input::Go
            }
            Next::Look => {
                let ReplicatorOptions { database, names, definition, .. } = &self.options;
                let looked = timeout(LOOK_TIMEOUT, look(database, names, definition)).await;
                let late =
                    format!("Postgres has not answered a look at the tables for {LOOK_TIMEOUT:?}");
                let looked = looked.map_or(Err(late), |looked| looked.map_err(|e| e.to_string()));
                Input::Looked(looked.map(Box::new))
            }
            Next::MakeSlot { anew } => self.make_slot(anew).await,
            Next::Connect(plan) => {
                // What was handed to the log is there when the stream is held against it.
                if let Some(Log { threads: log, .. }) = &self.log
                    && log.flushed().await.is_err()
                {
                    return Input::LogEnded;
                }
                let ReplicatorOptions { database, names, .. } = &self.options;
                let started = Source::start(database, names, plan, self.instance).await;
                Input::Connected(started.map(|(source, found)| {
                    self.source = Some(source);
                    found
                }))
            }
            Next::OpenLog(identity) => Input::LogOpened(self.open_log(identity)),
            Next::ReadLog { behind } => Input::LogRead(self.read_log(behind)),
            Next::LookForUnseen(question, pause) => {
                tokio::time::sleep(pause).await;
                let unseen = self.look_for_unseen(question).await;
                Input::Unseen(unseen.map_err(|error| error.to_string()))
            }
            Next::EndLog(identity) => Input::EpochBegan(match &mut self.log {
                Some(Log { threads: log, of, .. }) => {
                    of.clone_from(&identity);
                    log.begin(identity, None).await.ok()
                }
                None => None,
            }),
            Next::BeginEpoch(identity, position) => Input::EpochBegan(match &mut self.log {
                Some(Log { threads: log, of, .. }) => {
                    of.clone_from(&identity);
                    log.begin(identity, Some(position)).await.ok()
                }
                None => None,
            }),
            Next::Stream => self.stream().await,
        }
    }

    async fn make_slot(&self, anew: bool) -> Input {
        let waits = |why| self.set_status(ReplicatorStatus::Waiting(why));
        let ReplicatorOptions { database, names, .. } = &self.options;
        let made = make_slot(database, &names.slot, anew, waits, &self.stop).await;
        Input::SlotMade(made.map_err(|error| error.to_string()))
    }

    fn open_log(&mut self, identity: LogIdentity) -> Result<LogFound, LogFailure> {
        let (mut broken, mut seen) = (None, None);
        if self.log.is_none() {
            let options = self.options.log.clone();
            let opened = LogThreads::open(options, identity, Arc::clone(&self.publisher));
            let (log, of, began, kept) = opened.map_err(|error| match error {
                LogError::Locked(dir) => {
                    LogFailure::Taken(format!("another server uses the log in `{}`", dir.display()))
                }
                error => LogFailure::Unusable(format!("cannot use the log: {error}")),
            })?;
            seen = kept.map(Box::new);
            broken = said_of(began, log.status().extent);
            let open = OpenLog { reader: log.reader().clone(), status: log.watch() };
            *self.shared_log.write().unwrap_or_else(PoisonError::into_inner) = Some(open);
            let status = log.watch();
            self.log = Some(Log { threads: log, of, status });
        }
        let Some(Log { threads: log, of, .. }) = &self.log else {
            return Err(LogFailure::Unusable("the log is not open".to_owned()));
        };
        let LogStatus { epoch, extent, .. } = log.status();
        Ok(LogFound { of: of.clone(), epoch, extent, broken, seen })
    }

    fn read_log(&self, behind: Lsn) -> Result<LogRead, String> {
        let Some(Log { threads: log, .. }) = &self.log else {
            return Err("the log is not open".to_owned());
        };
        let read = || Ok(LogRead { expected: log.committed(behind)?, recent: log.recent()? });
        read().map_err(|error: rowtide_log::HistoryError| error.to_string())
    }

    async fn look_for_unseen(&self, question: UnseenQuestion) -> Result<UnseenBehind, UnseenError> {
        let client = connect(&self.options.database, "slot").await?;
        let (end, unseen) = match question {
            UnseenQuestion::BeforeEnd => {
                let (end, unseen) = unseen_before_end(&client).await?;
                (Some(end), unseen)
            }
            UnseenQuestion::Now => (None, unseen(&client).await?),
            UnseenQuestion::Still(xids) => (None, still_unseen(&client, &xids).await?),
        };
        Ok(UnseenBehind { end, unseen })
    }

    /// The next thing that comes while it streams.
    async fn stream(&mut self) -> Input {
        let (Some(source), Some(log)) = (&mut self.source, &mut self.log) else {
            return Input::LogEnded;
        };
        let ReplicatorOptions { database, names, definition, .. } = &self.options;
        let look = &self.look;
        let watching = self.watching.get_or_insert_with(|| {
            let (database, names) = (database.clone(), names.clone());
            Box::pin(watch(database, names, Arc::clone(definition), Arc::clone(look), None))
        });
        tokio::select! {
            (brought, failure) = source.next_batch() => Input::Streamed(brought, failure),
            changed = log.status.changed() => match changed {
                Ok(()) => match log.status.borrow_and_update().extent {
                    Some(extent) => Input::Durable(extent.durable),
                    None => Input::LogEnded,
                },
                Err(_) => Input::LogEnded,
            },
            () = self.outrun.notified() => Input::Outrun,
            sight = watching => {
                let (watcher, input) = match sight {
                    Sight::Observed(observed, watcher) => {
                        (Some(*watcher), Input::Observed(observed))
                    }
                    Sight::Blind(why) => (None, Input::Blind(why)),
                };
                let (database, names) = (database.clone(), names.clone());
                let (definition, look) = (Arc::clone(definition), Arc::clone(look));
                let again = watch(database, names, definition, look, watcher);
                self.watching = Some(Box::pin(again));
                input
            }
        }
    }
}

/// Looks at the database now and then, and when it is asked for, until it may be something else than at the last
/// look of this watcher, or cannot be looked at: then nobody knows what clients hold.
async fn watch(
    database: ConnectOptions,
    names: Names,
    definition: Arc<Definition>,
    asked: Arc<Notify>,
    mut watcher: Option<Watcher>,
) -> Sight {
    let began = Instant::now();
    let mut patience = Patience::new(began.elapsed());
    loop {
        tokio::select! {
            () = tokio::time::sleep(WATCH) => {}
            () = asked.notified() => {}
        }
        let looked = look_again(&database, &names, &definition, watcher.take());
        let why = match timeout(LOOK_TIMEOUT, looked).await {
            Ok(Ok((Some(observed), watcher))) => {
                return Sight::Observed(Box::new(observed), Box::new(watcher));
            }
            Ok(Ok((None, same))) => {
                watcher = Some(same);
                patience.saw(began.elapsed());
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                format!("Postgres has not answered a look at the tables for {LOOK_TIMEOUT:?}")
            }
        };
        tracing::debug!(why, "the database cannot be looked at now");
        if patience.failed(began.elapsed()) {
            return Sight::Blind(why);
        }
    }
}

async fn look_again(
    database: &ConnectOptions,
    names: &Names,
    definition: &Definition,
    watcher: Option<Watcher>,
) -> Result<(Option<Observed>, Watcher), LookError> {
    let mut watcher = match watcher {
        Some(watcher) => watcher,
        None => {
            let client = connect(database, "watch").await?;
            Watcher::new(client, names, &definition.tables()).await?
        }
    };
    Ok((watcher.look_again().await?, watcher))
}

/// What was found in the log's directory, for people; and why nothing can be its continuation, if so.
fn said_of(began: Began, extent: Option<LogExtent>) -> Option<EpochReason> {
    let end = extent.map_or_else(|| "nothing".to_owned(), |extent| extent.durable.to_string());
    match began {
        Began::Continued => {
            tracing::info!(%end, "the log goes on");
            None
        }
        Began::Shortened(reason) => {
            tracing::warn!(reason, %end, "the log has lost its oldest part");
            None
        }
        Began::New => Some(EpochReason::NewLog),
        Began::Replaced(reason) => {
            tracing::warn!(%reason, "the log could not be used; a new one begins");
            Some(EpochReason::UnusableLog)
        }
    }
}
