//! The task that owns the stream and the log. It takes its place first: the log's directory and the slot
//! are each one server's, and as long as another has them this one stands by. It hands every transaction to
//! the log and to the feed, in order, waiting where the log is behind, so that Postgres is held up and not
//! our memory; and it confirms to Postgres what is durable. What ends the stream is said, waited out with
//! growing pauses, and begun again.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use rand::Rng;
use rowtide_feed::{EpochReason, Event, Fingerprint, Generation, Publisher, ReplicatorStatus};
use rowtide_log::{Began, Committed, HistoryError, Identity, LogError};
use rowtide_postgres::connect::{ConnectError, connect, reason};
use rowtide_postgres::slot::SystemIdentity;
use rowtide_postgres::stream::{
    Instance, SlotPosition, Stream, StreamError, StreamEvent, create_slot, drop_slot,
};
use rowtide_protocol::Lsn;
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::compile::{CompileError, Compiled, compile};
use crate::limits::{BATCH, BATCH_BYTES, MAX_PAUSE, MIN_PAUSE, STANDBY_LOOK};
use crate::log_threads::{LogEnded, LogThreads};
use crate::{OpenLog, ReplicatorOptions, SharedLog, telemetry};

/// Why the stream is not served from.
#[derive(Debug, Error)]
enum Ended {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error("cannot mend the replication slot: {}", reason(.0))]
    Slot(#[source] tokio_postgres::Error),
    #[error("cannot use the log: {0}")]
    LogUnusable(LogError),
    #[error(transparent)]
    LogUnreadable(#[from] HistoryError),
    /// Another server has the log's directory.
    #[error("another server uses the log in `{0}`")]
    LogTaken(String),
    /// The database does not go on from where the log ends.
    #[error("the database is not the one that the log is of: {0}")]
    Diverged(EpochReason),
    #[error(transparent)]
    Log(#[from] LogEnded),
    /// The tables have another shape: it is only begun again.
    #[error("begins anew")]
    Renewed,
}

pub(crate) struct Shell {
    options: ReplicatorOptions,
    publisher: Arc<Publisher>,
    shared_log: SharedLog,
    look: Arc<Notify>,
    stop: CancellationToken,
    instance: Instance,
    compiled: Option<Compiled>,
    log: Option<LogThreads>,
    /// What the log's records are of, while it is open.
    identity: Option<Identity>,
    generation: Option<Arc<Generation>>,
    /// The position after the last transaction, or where the epoch began.
    previous: Lsn,
    /// Everything up to here was published.
    published: Lsn,
    /// Why the next stream cannot be the continuation of the log, if it cannot.
    broken: Option<EpochReason>,
    /// Nobody holds anything that was read before this, so changes up to here may be passed over.
    read_since: Lsn,
}

impl Shell {
    pub(crate) fn new(
        options: ReplicatorOptions,
        publisher: Publisher,
        shared_log: SharedLog,
        look: Arc<Notify>,
        stop: CancellationToken,
    ) -> Shell {
        Shell {
            options,
            publisher: Arc::new(publisher),
            shared_log,
            look,
            stop,
            instance: Instance(rand::random()),
            compiled: None,
            log: None,
            identity: None,
            generation: None,
            previous: Lsn(0),
            published: Lsn(0),
            broken: None,
            read_since: Lsn(0),
        }
    }

    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        let mut pause = MIN_PAUSE;
        while !stop.is_cancelled() {
            let Err(ended) = self.stream_until_it_ends(&mut pause).await else { break };
            let wait = match &ended {
                Ended::Renewed => continue,
                Ended::LogTaken(_) | Ended::Stream(StreamError::SlotActive { .. }) => {
                    if self.set_status(ReplicatorStatus::Standby(ended.to_string())) {
                        tracing::info!(reason = %ended, "standing by");
                    }
                    self.step_down().await;
                    STANDBY_LOOK
                }
                Ended::Stream(StreamError::OwnConnection { .. }) => STANDBY_LOOK,
                _ => {
                    self.set_status(ReplicatorStatus::Waiting(ended.to_string()));
                    tracing::warn!(error = %ended, ?pause, "the stream is interrupted");
                    if matches!(ended, Ended::Log(_)) {
                        self.step_down().await;
                    }
                    if let Some(Err(error)) = stop.run_until_cancelled(self.mend(&ended)).await {
                        tracing::warn!(%error, "cannot mend the stream yet");
                    }
                    let wait = pause;
                    pause = (pause * 2).min(MAX_PAUSE);
                    wait
                }
            };
            let jitter = rand::rng().random_range(0.5..1.0);
            if stop.run_until_cancelled(tokio::time::sleep(wait.mul_f64(jitter))).await.is_none() {
                break;
            }
        }
        self.step_down().await;
    }

    /// Whether that is news.
    fn set_status(&self, status: ReplicatorStatus) -> bool {
        let mut news = false;
        self.publisher.update(|state| {
            news = state.status != status;
            state.status = status;
            news
        });
        news
    }

    /// Ends the generation and gives the log free.
    async fn step_down(&mut self) {
        self.generation = None;
        self.publisher.end();
        *self.shared_log.write().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(log) = self.log.take() {
            log.close().await;
        }
    }

    /// Takes its place, and streams until that ends; `Ok` when the server stops.
    async fn stream_until_it_ends(&mut self, pause: &mut Duration) -> Result<(), Ended> {
        let stop = self.stop.clone();
        let begun = stop.run_until_cancelled(self.start()).await;
        let Some(begun) = begun else { return Ok(()) };
        let (mut stream, slot) = begun?;
        let streamed = async {
            self.take_log(slot)?;
            let continuation = self.continue_or_begin(slot).await?;
            *pause = MIN_PAUSE;
            self.feed(&mut stream, slot.end, continuation).await
        };
        let ended = stop.run_until_cancelled(streamed).await;
        // So that the slot is free at once.
        stream.stop().await;
        ended.unwrap_or(Ok(()))
    }

    /// Takes the slot. It is what servers are told apart by, so it comes before the log.
    async fn start(&mut self) -> Result<(Stream, SlotPosition), Ended> {
        // What was handed to the log before is there when the stream is held against it. A log that another
        // server may have gone on with may be of other tables, so these are looked at anew.
        match &self.log {
            Some(log) => log.flushed().await?,
            None => {
                self.compile_again().await?;
            }
        }
        let Some(compiled) = &self.compiled else { return Err(Ended::Renewed) };
        let plan = Arc::clone(&compiled.plan);
        let ReplicatorOptions { database, names, .. } = &self.options;
        Ok(Stream::start(database, names, plan, self.instance).await?)
    }

    /// Compiles the definition again. Whether the tables have another shape than before.
    async fn compile_again(&mut self) -> Result<bool, Ended> {
        let client = connect(&self.options.database, "catalog").await?;
        let mut next = compile(&client, &self.options.definition).await?;
        let shape = |compiled: &Compiled| -> Vec<_> {
            compiled.plan.tables.iter().map(|table| table.catalog.clone()).collect()
        };
        let same = self.compiled.as_ref().filter(|serving| shape(serving) == shape(&next));
        let changed = same.is_none();
        if let Some(serving) = same {
            next.plan = Arc::clone(&serving.plan);
        }
        self.publisher.update(|state| {
            let changed = state.refused_tables != next.refused;
            state.refused_tables.clone_from(&next.refused);
            changed
        });
        self.compiled = Some(next);
        Ok(changed)
    }

    /// What the log's records are of, with the plan that serves now and the database of the stream.
    fn identity_of(&self, system: SystemIdentity) -> Option<Identity> {
        let SystemIdentity { cluster, database, timeline } = system;
        let plan = self.compiled.as_ref()?.plan.fingerprint();
        let slot = self.options.names.slot.clone();
        Some(Identity { plan, system: cluster, database, timeline, slot })
    }

    /// Opens the log, if it was given free.
    fn take_log(&mut self, slot: SlotPosition) -> Result<(), Ended> {
        if self.log.is_some() {
            return Ok(());
        }
        let Some(identity) = self.identity_of(slot.system) else { return Err(Ended::Renewed) };
        let options = self.options.log.clone();
        let dir = options.dir.display().to_string();
        let opened = LogThreads::open(options, identity.clone(), Arc::clone(&self.publisher));
        let (log, began) = opened.map_err(|error| match error {
            LogError::Locked(_) => Ended::LogTaken(dir),
            error => Ended::LogUnusable(error),
        })?;
        let end = log.status().end;
        let broken = match began {
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
                tracing::warn!(reason, "the log could not be used; a new one begins");
                Some(EpochReason::UnusableLog)
            }
        };
        let open = OpenLog { reader: log.reader().clone(), status: log.watch() };
        *self.shared_log.write().unwrap_or_else(PoisonError::into_inner) = Some(open);
        self.log = Some(log);
        self.identity = Some(identity);
        self.broken = self.broken.or(broken);
        Ok(())
    }

    /// Sees to it that there is a generation that the stream feeds: the one that is there, one that takes up
    /// where the log ends, or one with a new epoch where the stream is not the log's continuation. What the
    /// stream must bring again to be that is returned.
    async fn continue_or_begin(&mut self, slot: SlotPosition) -> Result<Continuation, Ended> {
        let identity = self.identity_of(slot.system);
        let (Some(log), Some(of_log), Some(identity)) = (&self.log, &self.identity, identity)
        else {
            return Err(Ended::Renewed);
        };
        let status = log.status();
        let of_tables = Identity { plan: identity.plan, ..of_log.clone() };
        let broken = if let Some(broken) = self.broken {
            Some(broken)
        } else if identity != of_tables {
            Some(EpochReason::OtherDatabase)
        } else if identity != *of_log {
            Some(EpochReason::OtherTables)
        } else if slot.confirmed > status.end {
            Some(EpochReason::LogBehind)
        } else if slot.confirmed < status.oldest {
            Some(EpochReason::LogShort)
        } else if slot.end < status.end {
            Some(EpochReason::DatabaseBehind)
        } else {
            None
        };
        if let Some(reason) = broken {
            self.begin_epoch(identity, slot.confirmed, reason).await?;
            return Ok(Continuation::default());
        }
        let expected = VecDeque::from(log.committed(slot.confirmed)?);
        if self.generation.is_none() {
            let recent = log.recent()?;
            self.read_since = Lsn(0);
            self.previous = recent.last().map_or(status.oldest, |last| last.lsn);
            self.begin(status.epoch, status.end, recent)?;
        }
        Ok(Continuation { expected, end: status.end })
    }

    async fn begin_epoch(
        &mut self,
        identity: Identity,
        position: Lsn,
        reason: EpochReason,
    ) -> Result<(), Ended> {
        let (Some(log), Some(compiled)) = (&mut self.log, &self.compiled) else {
            return Err(Ended::Renewed);
        };
        tracing::info!(%reason, %position, "a new epoch begins: every client is sent all of its rows");
        telemetry::epoch_began(reason);
        self.read_since = compiled.as_of;
        let plan = Fingerprint(identity.plan);
        let epoch = log.begin(identity.clone(), position).await?;
        self.identity = Some(identity);
        self.broken = None;
        self.previous = position;
        self.begin(epoch, position, Vec::new())?;
        self.publisher.publish([Event::EpochBegan { epoch, plan, position, reason }].into());
        Ok(())
    }

    fn begin(
        &mut self,
        epoch: rowtide_protocol::Epoch,
        position: Lsn,
        recent: Vec<Arc<rowtide_feed::Transaction>>,
    ) -> Result<(), Ended> {
        let Some(compiled) = &self.compiled else { return Err(Ended::Renewed) };
        let plan = Arc::clone(&compiled.plan);
        self.published = position;
        self.generation = Some(self.publisher.begin(Generation { epoch, plan, position, recent }));
        // Whoever waits for a generation has one now.
        self.publisher.update(|state| {
            let changes = state.status != ReplicatorStatus::Streaming
                && state.status != ReplicatorStatus::Starting;
            if changes {
                state.status = ReplicatorStatus::Starting;
            }
            changes
        });
        Ok(())
    }

    async fn feed(
        &mut self,
        stream: &mut Stream,
        end: Lsn,
        mut continuation: Continuation,
    ) -> Result<(), Ended> {
        let Some(log) = &self.log else { return Err(Ended::Renewed) };
        let mut log_status = log.watch();
        let slot = &self.options.names.slot;
        tracing::info!(slot, position = %self.published, "streaming");
        // Until there nobody's cursor is too far ahead.
        self.publisher.publish([Event::StreamBegan { wal_end: end }].into());
        loop {
            let first = tokio::select! {
                event = stream.next() => event,
                () = self.look.notified() => {
                    tracing::warn!("a statement did not fit its table; reading the catalog again");
                    if self.compile_again().await? {
                        return Err(Ended::Renewed);
                    }
                    continue;
                }
                // What has become durable is confirmed, also if nothing more comes.
                changed = log_status.changed() => {
                    changed.map_err(|_| LogEnded)?;
                    let durable = log_status.borrow_and_update().end;
                    // What has not come again yet must be able to.
                    if continuation.expected.is_empty() {
                        stream.confirm(durable);
                    }
                    continue;
                }
            };
            let Batch { events, reached, error, .. } = self.batch(first, stream);
            check_continuation(&events, &mut continuation)?;
            self.hand_on(events).await?;
            if reached >= end {
                self.set_status(ReplicatorStatus::Streaming);
            }
            match error {
                None => {}
                // It is from before anything was read.
                Some(StreamError::SchemaChanged { committed, .. })
                    if committed < self.read_since => {}
                Some(StreamError::SchemaChanged { table, what, .. }) => {
                    tracing::warn!(table, what, "a table has changed; reading the catalog again");
                    self.publisher.publish([Event::TableChanged { table, what }].into());
                    if !self.compile_again().await? {
                        // It was altered back since, and what was written meanwhile cannot be told.
                        self.broken = Some(EpochReason::AlteredBack);
                    }
                    return Err(Ended::Renewed);
                }
                Some(error) => return Err(error.into()),
            }
        }
    }

    /// Hands events to the log, and to those who follow what of it is new to them.
    async fn hand_on(&mut self, events: Vec<Event>) -> Result<(), Ended> {
        let published = self.published;
        let new = |event: &Event| event.lsn().is_none_or(|lsn| lsn > published);
        let events: Arc<[Event]> = events.into_iter().filter(new).collect();
        if events.is_empty() {
            return Ok(());
        }
        self.publisher.room().await;
        let Some(log) = &mut self.log else { return Err(Ended::Renewed) };
        log.append(Arc::clone(&events)).await?;
        let end = events.iter().filter_map(Event::lsn).max();
        self.published = end.unwrap_or(published);
        self.publisher.publish(events);
        Ok(())
    }

    /// The first event and those that need not be waited for, up to an error: handing on each by itself would
    /// wake everyone for each.
    fn batch(&mut self, first: Result<StreamEvent, StreamError>, stream: &mut Stream) -> Batch {
        let mut batch = Batch { events: Vec::new(), bytes: 0, reached: Lsn(0), error: None };
        let mut next = Some(first);
        while let Some(event) = next {
            let event = match event {
                Ok(event) => event,
                Err(error) => return Batch { error: Some(error), ..batch },
            };
            let (event, lsn) = self.event(event);
            batch.bytes += event.bytes();
            batch.events.push(event);
            batch.reached = lsn;
            let more = batch.events.len() < BATCH && batch.bytes < BATCH_BYTES;
            next = more.then(|| stream.next().now_or_never()).flatten();
        }
        batch
    }

    fn event(&mut self, event: StreamEvent) -> (Event, Lsn) {
        let previous = self.previous;
        match event {
            StreamEvent::Transaction(transaction) => {
                let lsn = transaction.lsn;
                self.previous = self.previous.max(lsn);
                (Event::Transaction { previous, transaction: Arc::new(transaction) }, lsn)
            }
            StreamEvent::Position(lsn) => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let time_us = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
                (Event::Position { previous, lsn, time_us }, lsn)
            }
        }
    }

    /// What can be done about a stream that does not start, or is another database's.
    async fn mend(&mut self, ended: &Ended) -> Result<(), Ended> {
        let slot = &self.options.names.slot;
        let reason = match ended {
            Ended::Diverged(reason) => {
                self.broken = Some(*reason);
                return Ok(());
            }
            Ended::Stream(StreamError::SlotLost(_)) => EpochReason::SlotLost,
            Ended::Stream(StreamError::SlotMissing(_)) => EpochReason::SlotMissing,
            _ => return Ok(()),
        };
        let client = connect(&self.options.database, "slot").await?;
        if reason == EpochReason::SlotLost {
            drop_slot(&client, slot).await.map_err(Ended::Slot)?;
        }
        create_slot(&client, slot).await.map_err(Ended::Slot)?;
        tracing::error!(slot, %reason, "the replication slot was gone, and is made anew");
        // What was committed in between was not streamed, so nothing that is held is true any more.
        self.broken = Some(reason);
        Ok(())
    }
}

/// What the stream must bring to be the continuation of the log.
#[derive(Default)]
struct Continuation {
    /// The transactions of the log that the slot has not confirmed.
    expected: VecDeque<Committed>,
    /// Where the log ended.
    end: Lsn,
}

/// The transactions of the log that the slot had not confirmed must come again, the same ones: otherwise the
/// database has another history than the one that clients were told of.
fn check_continuation(events: &[Event], continuation: &mut Continuation) -> Result<(), Ended> {
    let Continuation { expected, end } = continuation;
    for event in events {
        let Some(next) = expected.front() else {
            // All of the log has come again, so what comes now is behind it.
            match event {
                Event::Transaction { transaction, .. } if transaction.lsn <= *end => {
                    return Err(Ended::Diverged(EpochReason::OtherTransactions));
                }
                _ => continue,
            }
        };
        match event {
            Event::Transaction { transaction, .. } => {
                let (lsn, xid) = (transaction.lsn, transaction.xid);
                let commit_time_us = transaction.commit_time_us;
                if *next != (Committed { lsn, xid, commit_time_us }) {
                    return Err(Ended::Diverged(EpochReason::OtherTransactions));
                }
                expected.pop_front();
            }
            Event::Position { lsn, .. } if *lsn >= next.lsn => {
                return Err(Ended::Diverged(EpochReason::MissingTransactions));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What was there at once.
struct Batch {
    events: Vec<Event>,
    bytes: usize,
    /// The position after them.
    reached: Lsn,
    error: Option<StreamError>,
}
