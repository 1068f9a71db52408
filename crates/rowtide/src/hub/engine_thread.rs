//! One engine on one thread. The thread takes commands in order, steps the engine and puts what it
//! says into the outboxes. Loads are asked for one at a time and not at once: topics gather for a few
//! milliseconds, longer when the load before took long, and for as long as it is under way, so that
//! ten thousand clients that arrive together are a handful of queries.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rowtide_engine::{
    Counts, Engine, HistoryId, Input, Load, LoadId, Loaded, Opening, Output, Place, SessionId,
    ViewRows,
};
use rowtide_feed::History;
use rowtide_protocol::Lsn;
use rustc_hash::FxHashMap;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::RESTARTING;
use super::frames::SnapshotFrames;
use super::garbage::Garbage;
use super::log_threads::Question;
use super::outbox::{Item, Outbox};
use crate::telemetry;

/// How many commands may wait for one engine before the stream is held up.
const COMMANDS: usize = 256;
/// How many commands are taken before the engine looks at its timers again.
const BATCH: usize = 64;
/// How long topics gather before they are loaded, at least.
const GATHER: Duration = Duration::from_millis(4);
/// How long they gather at most.
const MAX_GATHER: Duration = Duration::from_millis(100);
/// Why a session is closed that cannot be told what has changed.
const RESET: &str = "more has changed than can be said; come back for all rows";
/// The most topics in one load of one engine.
const MAX_LOAD_TOPICS: usize = 20_000;

pub(super) enum Command {
    /// What the stream brought, in order, and its share of the memory that all of it may take.
    Stream(Vec<Input>, Arc<OwnedSemaphorePermit>),
    Open(Opening, Arriving),
    Loaded(LoadId, Loaded),
    History(HistoryId, Option<History>),
    Counts(oneshot::Sender<Counts>),
}

/// A session on its way into an engine. If the engine ends before it is there, the session is told.
pub(super) struct Arriving(Option<Arc<Outbox>>);

impl Arriving {
    pub(super) fn new(outbox: Arc<Outbox>) -> Arriving {
        Arriving(Some(outbox))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if let Some(outbox) = &self.0 {
            outbox.close(RESTARTING.0, RESTARTING.1);
        }
    }
}

/// A load of one engine, on its way to the loader.
pub(super) struct LoadRequest {
    pub(super) load: Load,
    pub(super) reply: mpsc::Sender<Command>,
}

/// The front of an engine thread.
#[derive(Clone)]
pub(super) struct EngineHandle {
    pub(super) commands: mpsc::Sender<Command>,
    /// One entry for each session that went, so its length is bounded by the sessions.
    pub(super) closes: mpsc::UnboundedSender<SessionId>,
    position: Arc<AtomicU64>,
}

impl EngineHandle {
    /// Everything up to here has been taken in.
    pub(super) fn position(&self) -> Lsn {
        Lsn(self.position.load(Ordering::Relaxed))
    }
}

struct EngineThread {
    engine: Engine,
    outboxes: FxHashMap<SessionId, Arc<Outbox>>,
    outputs: Vec<Output>,
    /// Snapshots that some session is being sent.
    snapshots: Vec<Weak<SnapshotFrames>>,
    garbage: Garbage,
    /// Sessions that are to be woken.
    filled: Vec<Arc<Outbox>>,
    position: Arc<AtomicU64>,
    loads: mpsc::Sender<LoadRequest>,
    questions: mpsc::UnboundedSender<Question>,
    /// For the replies of loads and of the log; weak, so that it does not keep the thread itself alive.
    commands: mpsc::WeakSender<Command>,
    loading: Option<(LoadId, Instant)>,
    /// How long topics gather before the next load.
    gather: Duration,
    /// When to ask for the next load.
    load_at: Option<Instant>,
    turn: u64,
    /// Changed rows for clients that were not counted yet.
    sent_rows: u64,
    stop: CancellationToken,
}

impl Drop for EngineThread {
    /// However it ends, its sessions are told.
    fn drop(&mut self) {
        for outbox in self.outboxes.values() {
            outbox.close(RESTARTING.0, RESTARTING.1);
        }
    }
}

/// Starts an engine's thread; it ends with `stop`.
///
/// # Errors
/// When the operating system gives no thread.
pub(super) fn start(
    name: String,
    engine: Engine,
    loads: mpsc::Sender<LoadRequest>,
    questions: mpsc::UnboundedSender<Question>,
    garbage: Garbage,
    stop: CancellationToken,
) -> std::io::Result<EngineHandle> {
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let (closes, closed) = mpsc::unbounded_channel();
    let reached = Arc::new(AtomicU64::new(engine.position().0));
    let thread = EngineThread {
        engine,
        outboxes: FxHashMap::default(),
        outputs: Vec::new(),
        snapshots: Vec::new(),
        garbage,
        filled: Vec::new(),
        position: Arc::clone(&reached),
        loads,
        questions,
        commands: commands.downgrade(),
        loading: None,
        gather: GATHER,
        load_at: None,
        turn: 0,
        sent_rows: 0,
        stop,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new()
        .name(name)
        .spawn(move || runtime.block_on(thread.run(receiver, closed)))?;
    Ok(EngineHandle { commands, closes, position: reached })
}

impl EngineThread {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut closes: mpsc::UnboundedReceiver<SessionId>,
    ) {
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let load_at = self.load_at;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = sleep_until(load_at.unwrap_or_else(Instant::now)), if load_at.is_some() => {
                    self.ask_for_load();
                }
                _ = tick.tick() => {
                    self.turn += 1;
                    self.step(Input::Tick(self.turn));
                }
                Some(session) = closes.recv() => {
                    self.outboxes.remove(&session);
                    self.step(Input::Close(session));
                }
                count = commands.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    for command in batch.drain(..) {
                        self.take(command);
                        self.wake_sessions();
                    }
                }
            }
            self.wake_sessions();
            self.position.store(self.engine.position().0, Ordering::Relaxed);
            if self.load_at.is_none() && self.loading.is_none() && self.engine.wants_load() {
                self.load_at = Some(Instant::now() + self.gather);
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Stream(inputs, _permit) => {
                inputs.into_iter().for_each(|input| self.step(input));
            }
            Command::History(id, history) => self.step(Input::History(id, history)),
            Command::Loaded(id, loaded) => {
                if let Some((_, begun)) = self.loading.take() {
                    // The busier Postgres is, the more is asked with one query.
                    self.gather = (begun.elapsed() * 2).clamp(GATHER, MAX_GATHER);
                }
                self.step(Input::Loaded(id, loaded));
            }
            Command::Open(opening, mut arriving) => {
                if let Some(outbox) = arriving.0.take() {
                    self.outboxes.insert(opening.session, outbox);
                    self.step(Input::Open(opening));
                }
            }
            // Whoever asked may have gone.
            Command::Counts(reply) => drop(reply.send(self.engine.counts())),
        }
    }

    fn step(&mut self, input: Input) {
        self.engine.step(input, &mut self.outputs);
        for output in self.outputs.drain(..) {
            let (session, item) = match output {
                Output::Snapshot { session, rows } => {
                    let frames = frames_of(&mut self.snapshots, rows, &self.garbage);
                    (session, Item::Snapshot { frames, at: Place::default() })
                }
                Output::Discarded(rows) => {
                    self.garbage.throw(rows);
                    continue;
                }
                Output::Ready { session, cursor } => (session, Item::Ready(cursor)),
                Output::Begin { session, mode } => (session, Item::Begin(mode)),
                Output::Tx { session, message, acknowledgements } => {
                    self.sent_rows += message.rows as u64;
                    (session, Item::Tx { message, acknowledgements })
                }
                Output::Reset { session } => {
                    if let Some(outbox) = self.outboxes.remove(&session) {
                        outbox.close(RESTARTING.0, RESET);
                    }
                    continue;
                }
            };
            if let Some(outbox) = self.outboxes.get(&session)
                && outbox.push(item)
            {
                self.filled.push(Arc::clone(outbox));
            }
        }
        while let Some(request) = self.engine.take_history() {
            let Some(reply) = self.commands.upgrade() else { return };
            let id = request.id;
            if self.questions.send(Question { request, reply: reply.downgrade() }).is_err() {
                self.engine.step(Input::History(id, None), &mut self.outputs);
            }
        }
    }

    /// Only now, so that a session that was sent several commits at once writes them as one message.
    fn wake_sessions(&mut self) {
        self.filled.drain(..).for_each(|outbox| outbox.wake());
        telemetry::rows_sent(std::mem::take(&mut self.sent_rows));
    }

    fn ask_for_load(&mut self) {
        self.load_at = None;
        let Some(reply) = self.commands.upgrade() else { return };
        let Some(load) = self.engine.take_load(MAX_LOAD_TOPICS) else { return };
        let id = load.id;
        // The loader's queue has a place for each engine, and each has one load under way.
        match self.loads.try_send(LoadRequest { load, reply }) {
            Ok(()) => self.loading = Some((id, Instant::now())),
            Err(_) => self.step(Input::LoadFailed(id)),
        }
    }
}

/// The frames of a snapshot, shared with those who are being sent it already.
fn frames_of(
    snapshots: &mut Vec<Weak<SnapshotFrames>>,
    rows: Arc<ViewRows>,
    garbage: &Garbage,
) -> Arc<SnapshotFrames> {
    snapshots.retain(|frames| frames.strong_count() > 0);
    let known = snapshots.iter().filter_map(Weak::upgrade).find(|frames| frames.are_of(&rows));
    known.unwrap_or_else(|| {
        let frames = Arc::new(SnapshotFrames::new(rows, garbage.clone()));
        snapshots.push(Arc::downgrade(&frames));
        frames
    })
}
