//! From sessions to Postgres: the mutations of one client wait in one queue and are applied in order,
//! those of different clients side by side. A queue outlives its session, because what has reached the
//! server is settled. While Postgres is away mutations wait; a queue that is full sends its client
//! away, which will send them again.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rowtide_plan::plan::Plan;
use rowtide_plan::write::Rejection;
use rowtide_postgres::mutate::{Author, MutateError, Mutator, Number, Outcome, Ticket, Work};
use rowtide_protocol::{Op, RejectCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::hub::Hub;
use crate::limits::{CONFLICT_RETRIES, LIMITED_GATHER, MUTATION_QUEUE, MUTATION_QUEUE_BYTES};
use crate::telemetry::{self, WaitingMutation};

/// What is to become of a mutation.
pub(crate) enum Asked {
    /// Its operations are to be applied.
    Apply(Vec<Op>),
    /// It is refused already.
    Refuse(Rejection),
}

/// A mutation that waits.
struct Waiting {
    since: Instant,
    number: Number,
    author: Arc<Author>,
    asked: Asked,
    /// There for as long as something waits in it, so that what comes meanwhile comes behind.
    _queue: Arc<Queue>,
    /// Its bytes in memory.
    _bytes: OwnedSemaphorePermit,
    _counted: WaitingMutation,
}

/// Why a client's mutations are not taken any further; its session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// A number does not follow the last one that was settled.
    Gap { number: u64, last: u64 },
    /// The client id belongs to another user, or is not known any more.
    NotTheirs,
    /// The server stops.
    Stopped,
}

/// There is no room; nothing was taken.
pub(crate) struct Full;

/// Takes mutations. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Writer {
    mutator: Arc<Mutator>,
    hub: Hub,
    bytes: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The queue of one client.
pub(crate) struct Queue {
    waiting: mpsc::Sender<Waiting>,
    bytes: Arc<Semaphore>,
    broken: watch::Receiver<Option<Broken>>,
}

impl Writer {
    /// After `stop` what waits for Postgres to come back is let go.
    pub(crate) fn new(
        mutator: Mutator,
        hub: Hub,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Writer {
        let bytes = Arc::new(Semaphore::new(MUTATION_QUEUE_BYTES));
        Writer { mutator: Arc::new(mutator), hub, bytes, tasks, stop }
    }

    /// How many bytes of mutations wait, of the [`MUTATION_QUEUE_BYTES`] that may.
    pub(crate) fn waiting_bytes(&self) -> usize {
        MUTATION_QUEUE_BYTES - self.bytes.available_permits()
    }

    /// A queue for a client of a user.
    pub(crate) fn queue(&self, client: &str, user_id: &str) -> Arc<Queue> {
        let (waiting, receiver) = mpsc::channel(MUTATION_QUEUE);
        let (ends, broken) = watch::channel(None);
        let (client, user_id) = (client.into(), user_id.into());
        let queue = Running { writer: self.clone(), client, user_id };
        self.tasks.spawn(async move {
            let broken = queue.run(receiver).await;
            ends.send_replace(broken);
        });
        Arc::new(Queue { waiting, bytes: Arc::clone(&self.bytes), broken })
    }
}

impl Queue {
    /// Waits until mutations are not taken any further. Cancel safe.
    pub(crate) async fn broken(&self) -> Broken {
        let mut broken = self.broken.clone();
        let found = broken.wait_for(Option::is_some).await;
        found.ok().and_then(|broken| broken.clone()).unwrap_or(Broken::Stopped)
    }

    /// Puts a mutation of about `bytes` behind the others.
    ///
    /// # Errors
    /// When too many wait.
    pub(crate) fn push(
        self: &Arc<Queue>,
        number: Number,
        author: Arc<Author>,
        asked: Asked,
        bytes: usize,
    ) -> Result<(), Full> {
        let bytes = u32::try_from(bytes).map_err(|_| Full)?;
        let permit = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).map_err(|_| Full)?;
        let since = Instant::now();
        let _counted = WaitingMutation::new();
        let _queue = Arc::clone(self);
        let waiting = Waiting { since, number, author, asked, _queue, _bytes: permit, _counted };
        self.waiting.try_send(waiting).map_err(|_| Full)
    }
}

/// A queue's task.
struct Running {
    writer: Writer,
    client: Arc<str>,
    user_id: Arc<str>,
}

impl Running {
    /// Ends when there is nothing more to come, or with why nothing more is taken.
    async fn run(self, mut waiting: mpsc::Receiver<Waiting>) -> Option<Broken> {
        let mut held = None;
        loop {
            let next = match held.take() {
                Some(next) => next,
                None => match waiting.recv().await {
                    Some(next) => next,
                    None => return None,
                },
            };
            let number = next.number.clone();
            let mut count = 1;
            let settled = match next.asked {
                Asked::Apply(ops) => self.settle(&number, &next.author, &ops).await,
                Asked::Refuse(first) => {
                    let mut rejections = vec![first];
                    held = self.gather_refused(&number, &mut rejections, &mut waiting).await;
                    count = rejections.len();
                    self.settle_refused(&number, &next.author, rejections).await
                }
            };
            return Some(match (settled, number) {
                (Ok(Outcome::Settled { refused }), _) => {
                    let outcome = refused.as_deref().unwrap_or("applied");
                    telemetry::mutations_settled(outcome, count, next.since);
                    continue;
                }
                (Ok(Outcome::Repeated), _) => {
                    telemetry::mutations_settled("repeated", count, next.since);
                    continue;
                }
                (Ok(Outcome::Gap { last }), Number::Given(number)) => Broken::Gap { number, last },
                (Ok(Outcome::Gap { .. } | Outcome::NotTheirs), _) => Broken::NotTheirs,
                // The client sends it again.
                (Err(Stopping), _) => Broken::Stopped,
            });
        }
    }

    /// A client that is refused one after the other must not cost a transaction each: those that
    /// follow are settled together. Returns the first that is not refused.
    async fn gather_refused(
        &self,
        number: &Number,
        rejections: &mut Vec<Rejection>,
        waiting: &mut mpsc::Receiver<Waiting>,
    ) -> Option<Waiting> {
        let Number::Given(first) = number else { return None };
        if rejections[0].code != RejectCode::RateLimitExceeded {
            return None;
        }
        tokio::time::sleep(LIMITED_GATHER).await;
        while let Ok(next) = waiting.try_recv() {
            let follows = Number::Given(first + rejections.len() as u64);
            match next.asked {
                Asked::Refuse(rejection) if next.number == follows => rejections.push(rejection),
                asked => return Some(Waiting { asked, ..next }),
            }
        }
        None
    }

    /// The first of them may have been settled over another connection; then the rest follows.
    async fn settle_refused(
        &self,
        number: &Number,
        author: &Author,
        mut rejections: Vec<Rejection>,
    ) -> Result<Outcome, Stopping> {
        let mut number = number.clone();
        loop {
            let more = rejections.len() > 1;
            let refuse = |_: &Plan| Work::Refuse(rejections.clone());
            let outcome = self.persist(&number, author, refuse).await?;
            match (&outcome, &mut number) {
                (Outcome::Repeated, Number::Given(number)) if more => {
                    *number += 1;
                    rejections.remove(0);
                }
                _ => return Ok(outcome),
            }
        }
    }

    async fn settle(
        &self,
        number: &Number,
        author: &Author,
        ops: &[Op],
    ) -> Result<Outcome, Stopping> {
        let read = |plan: &Plan| {
            let read = |(index, op): (usize, &Op)| {
                plan.read_op(op).map_err(|rejection| Rejection {
                    message: format!("ops[{index}]: {}", rejection.message),
                    ..rejection
                })
            };
            match ops.iter().enumerate().map(read).collect() {
                Ok(writes) => Work::Apply(writes),
                Err(rejection) => Work::Refuse(vec![rejection]),
            }
        };
        self.persist(number, author, read).await
    }

    /// Tries until the mutation is settled. What there is to do is read for each try anew: its tables and
    /// columns are places in a plan, and another may serve by then.
    async fn persist(
        &self,
        number: &Number,
        author: &Author,
        read: impl Fn(&Plan) -> Work,
    ) -> Result<Outcome, Stopping> {
        let ticket = Ticket {
            client: Arc::clone(&self.client),
            user_id: Arc::clone(&self.user_id),
            number: number.clone(),
        };
        let give_up = || {
            let message = "others were writing the same rows all the time; try again later";
            Work::Refuse(vec![Rejection::new(RejectCode::UnknownError, message)])
        };
        let mut conflicts = 0;
        let mut pause = Duration::from_millis(50);
        loop {
            let plan = self.writer.hub.plan();
            let work = if conflicts < CONFLICT_RETRIES { read(&plan) } else { give_up() };
            let wait = match self.writer.mutator.apply(&plan, &ticket, author, &work).await {
                Ok(outcome) => return Ok(outcome),
                Err(MutateError::Conflict(what)) => {
                    telemetry::mutation_retried("conflict");
                    conflicts += 1;
                    tracing::debug!(what, conflicts, "a mutation is tried again");
                    Duration::from_millis(5) * conflicts.min(20)
                }
                Err(MutateError::Away(what)) => {
                    telemetry::mutation_retried("away");
                    tracing::warn!(what, "a mutation waits for Postgres");
                    pause = (pause * 2).min(Duration::from_secs(5));
                    pause
                }
            };
            let wait = tokio::time::sleep(wait.mul_f64(rand::rng().random_range(0.5..1.0)));
            self.writer.stop.run_until_cancelled(wait).await.ok_or(Stopping)?;
        }
    }
}

struct Stopping;
