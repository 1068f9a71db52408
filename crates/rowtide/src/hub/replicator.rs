//! The task that owns the stream and the log. It takes its place first: the log's directory and the slot
//! are each one server's, and as long as another has them this one stands by. It hands every transaction to
//! every engine and to the log, in order, waiting where one is behind, so that Postgres is held up and not
//! our memory; and it confirms to Postgres what is durable. What ends the stream is said, waited out with
//! growing pauses, and begun again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use rand::Rng;
use rowtide_engine::Input;
use rowtide_feed::Event;
use rowtide_log::{Committed, Identity};
use rowtide_postgres::connect::connect;
use rowtide_postgres::slot::SystemIdentity;
use rowtide_postgres::stream::{
    Instance, SlotPosition, Stream, StreamError, StreamEvent, create_slot, drop_slot,
};
use rowtide_protocol::Lsn;
use thiserror::Error;

use super::engine_thread::Command;
use super::log_threads::{LogEnded, LogThreads};
use super::{Generation, HubError, Shared, Status};
use crate::limits::{STANDBY_LOOK, STREAM_BYTES};
use crate::telemetry;

/// The pause after the first failure; it doubles with each.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// How many events that are there already are handed on together.
const BATCH: usize = 64;
/// About how many bytes of them.
const BATCH_BYTES: usize = 4 << 20;

/// Why the stream is not served from.
#[derive(Debug, Error)]
enum Ended {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Another server has the log's directory.
    #[error("another server uses the log in `{0}`")]
    LogTaken(String),
    /// The database does not go on from where the log ends.
    #[error("the database is not the one that the log is of: {0}")]
    Diverged(&'static str),
    #[error(transparent)]
    Log(#[from] LogEnded),
    /// An engine has ended by itself.
    #[error("an engine has ended")]
    EngineGone,
    /// The tables have another shape, or the server stops: it is only begun again.
    #[error("begins anew")]
    Renewed,
}

pub(super) struct Replicator {
    pub(super) shared: Arc<Shared>,
    pub(super) log: Option<LogThreads>,
    /// What the log's records are of.
    pub(super) identity: Identity,
    pub(super) instance: Instance,
    /// Why the next stream cannot be the continuation of the log, if it cannot.
    pub(super) broken: Option<&'static str>,
    /// Nobody holds anything that was read before this, so changes up to here may be passed over.
    pub(super) read_since: Lsn,
}

impl Replicator {
    pub(super) async fn run(mut self) {
        let stop = self.shared.stop.clone();
        let mut pause = MIN_PAUSE;
        while !stop.is_cancelled() {
            let Err(ended) = self.stream_until_it_ends(&mut pause).await else { break };
            let wait = match &ended {
                Ended::Renewed => continue,
                Ended::LogTaken(_) | Ended::Stream(StreamError::SlotActive { .. }) => {
                    self.stand_by(&ended).await;
                    STANDBY_LOOK
                }
                Ended::Stream(StreamError::OwnConnection { .. }) => STANDBY_LOOK,
                _ => {
                    self.shared.set_status(Status::Waiting(ended.to_string()));
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

    /// Another server has the place; it is waited for.
    async fn stand_by(&mut self, why: &Ended) {
        if self.shared.set_status(Status::Standby(why.to_string())) {
            tracing::info!(reason = %why, "standing by");
        }
        self.step_down().await;
    }

    /// Ends the engines, with their sessions, and gives the log free.
    async fn step_down(&mut self) {
        if let Some(generation) = self.shared.replace_generation(None) {
            generation.stop.cancel();
        }
        if let Some(log) = self.log.take() {
            self.shared.show_log(None);
            log.close().await;
        }
    }

    /// Takes its place, and streams until that ends; `Ok` when the server stops.
    async fn stream_until_it_ends(&mut self, pause: &mut Duration) -> Result<(), Ended> {
        let shared = Arc::clone(&self.shared);
        let stop = shared.stop.clone();
        let begun = stop.run_until_cancelled(self.start()).await;
        let Some(begun) = begun else { return Ok(()) };
        let (mut stream, slot) = begun?;
        let streamed = async {
            self.take_log().await?;
            let (generation, continuation) = self.follow_on(slot).await?;
            let slot_name = &shared.options.names.slot;
            tracing::info!(slot = slot_name, position = %generation.position(), "streaming");
            *pause = MIN_PAUSE;
            self.feed(&generation, &mut stream, slot.end, continuation).await
        };
        let ended = stop.run_until_cancelled(streamed).await;
        // So that the slot is free at once.
        stream.stop().await;
        ended.unwrap_or(Ok(()))
    }

    /// Takes the slot. It is what servers are told apart by, so it comes before the log.
    async fn start(&mut self) -> Result<(Stream, SlotPosition), Ended> {
        let shared = &self.shared;
        // What was handed to the log before is there when the stream is held against it.
        if let Some(log) = &self.log {
            log.flushed().await?;
        }
        let options = &shared.options;
        let plan = Arc::clone(&shared.compiled().plan);
        let started = Stream::start(&options.database, &options.names, plan, self.instance).await?;
        Ok(started)
    }

    /// Opens the log, if it was given free. Another server may have gone on with it, also for other tables,
    /// so these are looked at anew.
    async fn take_log(&mut self) -> Result<(), Ended> {
        if self.log.is_some() {
            return Ok(());
        }
        if self.shared.compile_again().await? {
            return Err(Ended::Renewed);
        }
        self.identity = self.shared.identity(&self.identity);
        let opened = self.shared.open_log(&self.identity)?;
        let dir = || self.shared.options.log.dir.display().to_string();
        let (log, broken) = opened.ok_or_else(|| Ended::LogTaken(dir()))?;
        self.log = Some(log);
        self.broken = self.broken.or(broken);
        Ok(())
    }

    /// The generation that the stream feeds: the one that is there, one that takes up where the log ends, or
    /// one with a new epoch where the stream is not the log's continuation. With it the transactions that the
    /// stream must bring again to be that.
    async fn follow_on(
        &mut self,
        slot: SlotPosition,
    ) -> Result<(Arc<Generation>, Continuation), Ended> {
        let Some(log) = &self.log else { return Err(Ended::Renewed) };
        let status = log.status();
        let tables = self.shared.identity(&self.identity);
        let SystemIdentity { cluster, database, timeline } = slot.system;
        let identity = Identity { system: cluster, database, timeline, ..tables };
        let of_tables = Identity { plan: identity.plan, ..self.identity.clone() };
        let broken = if let Some(broken) = self.broken {
            Some(broken)
        } else if identity != of_tables {
            Some("other_database")
        } else if identity != self.identity {
            Some("other_tables")
        } else if slot.confirmed > status.end {
            Some("log_behind")
        } else if slot.confirmed < status.oldest {
            Some("log_short")
        } else if slot.end < status.end {
            Some("database_behind")
        } else {
            None
        };
        if let Some(reason) = broken {
            return Ok((
                self.begin_epoch(identity, slot.confirmed, reason).await?,
                Continuation::default(),
            ));
        }
        let seen = log.reader().transactions(slot.confirmed, status.end);
        let expected = VecDeque::from(seen.map_err(HubError::from)?);
        let continuation = Continuation { expected, end: status.end };
        if let Some(generation) = self.shared.generation() {
            return Ok((generation, continuation));
        }
        let recent = log.recent().map_err(HubError::from)?;
        self.read_since = Lsn(0);
        let generation = self.shared.begin(log, status.epoch, status.end, &recent)?;
        Ok((generation, continuation))
    }

    async fn begin_epoch(
        &mut self,
        identity: Identity,
        position: Lsn,
        reason: &'static str,
    ) -> Result<Arc<Generation>, Ended> {
        let Some(log) = &self.log else { return Err(Ended::Renewed) };
        tracing::info!(reason, %position, "a new epoch begins: every client is sent all of its rows");
        telemetry::epoch_began(reason);
        self.read_since = self.shared.compiled().as_of;
        let epoch = log.begin(identity.clone(), position).await?;
        let generation = self.shared.begin(log, epoch, position, &[])?;
        self.identity = identity;
        self.broken = None;
        Ok(generation)
    }

    async fn feed(
        &mut self,
        generation: &Generation,
        stream: &mut Stream,
        end: Lsn,
        mut continuation: Continuation,
    ) -> Result<(), Ended> {
        let shared = Arc::clone(&self.shared);
        let Some(log) = &self.log else { return Err(Ended::Renewed) };
        let mut log_status = log.watch();
        let mut previous = log.reader().last_transaction();
        // Until there nobody's cursor is too far ahead.
        let began = shared.reserve(0).await;
        for engine in &generation.engines {
            let command = Command::Stream(vec![Input::StreamBegan(end)], Arc::clone(&began));
            engine.commands.send(command).await.map_err(|_| Ended::EngineGone)?;
        }
        drop(began);
        loop {
            let first = tokio::select! {
                event = stream.next() => event,
                () = generation.schema_changed.notified() => {
                    tracing::warn!("a load did not fit its table; reading the catalog again");
                    if shared.compile_again().await? {
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
                        stream.confirm(generation.position().min(durable));
                    }
                    continue;
                }
            };
            let Gathered { inputs, bytes, reached, error } = gather(first, stream);
            check_continuation(&inputs, &mut continuation)?;
            if !inputs.is_empty() {
                let permit = shared.reserve(bytes).await;
                let entries =
                    inputs.iter().filter_map(|input| event_of(input, &mut previous)).collect();
                log.append(entries, Arc::clone(&permit)).await?;
                for engine in &generation.engines {
                    let command = Command::Stream(inputs.clone(), Arc::clone(&permit));
                    if engine.commands.send(command).await.is_err() {
                        // One that has ended by itself is followed by others.
                        shared.replace_generation(None);
                        generation.stop.cancel();
                        return Err(Ended::EngineGone);
                    }
                }
            }
            if reached >= end {
                shared.set_status(Status::Streaming);
            }
            match error {
                None => {}
                // It is from before anything was read.
                Some(StreamError::SchemaChanged { committed, .. })
                    if committed < self.read_since => {}
                Some(error @ StreamError::SchemaChanged { .. }) => {
                    tracing::warn!(%error, "reading the catalog again");
                    if !shared.compile_again().await? {
                        // It was altered back since, and what was written meanwhile cannot be told.
                        self.broken = Some("altered_back");
                    }
                    return Err(Ended::Renewed);
                }
                Some(error) => return Err(error.into()),
            }
        }
    }

    /// What can be done about a stream that does not start, or is another database's.
    async fn mend(&mut self, ended: &Ended) -> Result<(), HubError> {
        let slot = &self.shared.options.names.slot;
        let reason = match ended {
            Ended::Diverged(reason) => {
                self.broken = Some(reason);
                return Ok(());
            }
            Ended::Stream(StreamError::SlotLost(_)) => "slot_lost",
            Ended::Stream(StreamError::SlotMissing(_)) => "slot_missing",
            _ => return Ok(()),
        };
        let client = connect(&self.shared.options.database, "slot").await?;
        if reason == "slot_lost" {
            drop_slot(&client, slot).await?;
        }
        create_slot(&client, slot).await?;
        tracing::error!(slot, reason, "the replication slot was gone, and is made anew");
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
fn check_continuation(inputs: &[Input], continuation: &mut Continuation) -> Result<(), Ended> {
    let Continuation { expected, end } = continuation;
    for input in inputs {
        let Some(next) = expected.front() else {
            // All of the log has come again, so what comes now is behind it.
            match input {
                Input::Transaction(transaction) if transaction.lsn <= *end => {
                    return Err(Ended::Diverged("other_transactions"));
                }
                _ => continue,
            }
        };
        match input {
            Input::Transaction(transaction) => {
                let (lsn, xid) = (transaction.lsn, transaction.xid);
                let commit_time_us = transaction.commit_time_us;
                if *next != (Committed { lsn, xid, commit_time_us }) {
                    return Err(Ended::Diverged("other_transactions"));
                }
                expected.pop_front();
            }
            Input::Position(position) if *position >= next.lsn => {
                return Err(Ended::Diverged("missing_transactions"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What goes into the log, behind the transaction that ended at `previous`.
fn event_of(input: &Input, previous: &mut Lsn) -> Option<Event> {
    match input {
        Input::Transaction(transaction) => {
            let before = *previous;
            *previous = transaction.lsn.max(before);
            let transaction = Arc::clone(transaction);
            Some(Event::Transaction { previous: before, transaction })
        }
        Input::Position(lsn) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let time_us = now.map_or(0, |now| now.as_micros() as i64);
            Some(Event::Position { previous: *previous, lsn: *lsn, time_us })
        }
        _ => None,
    }
}

/// What was there at once.
struct Gathered {
    inputs: Vec<Input>,
    bytes: usize,
    /// The position after them.
    reached: Lsn,
    error: Option<StreamError>,
}

/// The first event and those that need not be waited for, up to an error: handing on each by itself
/// would wake every engine for each.
fn gather(first: Result<StreamEvent, StreamError>, stream: &mut Stream) -> Gathered {
    let mut gathered = Gathered { inputs: Vec::new(), bytes: 0, reached: Lsn(0), error: None };
    let mut next = Some(first);
    while let Some(event) = next {
        let (input, lsn) = match event {
            Ok(StreamEvent::Transaction(transaction)) => {
                let lsn = transaction.lsn;
                gathered.bytes += transaction.bytes();
                (Input::Transaction(Arc::new(transaction)), lsn)
            }
            Ok(StreamEvent::Position(lsn)) => (Input::Position(lsn), lsn),
            Err(error) => return Gathered { error: Some(error), ..gathered },
        };
        gathered.inputs.push(input);
        gathered.reached = lsn;
        let more = gathered.inputs.len() < BATCH && gathered.bytes < BATCH_BYTES;
        next = more.then(|| stream.next().now_or_never()).flatten();
    }
    gathered
}

/// How many permits there are, one for each so many bytes.
pub(super) const PERMIT_BYTES: usize = 1 << 10;
/// All of them.
pub(super) const PERMITS: usize = STREAM_BYTES / PERMIT_BYTES;
