//! Carries what the [`Scheduler`] and each [`attempt`] decide: runs mutations over the connections to Postgres, tries them again when
//! it is time, and tells sessions whose mutations are not taken any further. While Postgres is away mutations wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rowtide_postgres::mutate::{MutateError, Mutator, Ticket};
use rowtide_postgres::said_once::SaidOnce;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::attempt::{self, Came, Note};
use crate::conversation::Mutation;
use crate::engines::Engines;
use crate::limits::{MUTATION_QUEUE, MUTATION_QUEUE_BYTES};
use crate::now::Clock;
use crate::scheduler::{Broken, Ended, Full, Job, QueueId, Scheduler, SchedulerOptions};
use crate::telemetry::{self, WaitingMutation};

/// A mutation that waits.
struct Queued {
    mutation: Mutation,
    since: Instant,
    _counted: WaitingMutation,
}

struct Works {
    scheduler: Mutex<Scheduler<Queued>>,
    mutator: Mutator,
    engines: Engines,
    clock: Clock,
    /// Told when there may be another deadline, or nothing more to do.
    changed: Notify,
    /// Why mutations wait for Postgres, as far as it was said since one that had waited was taken.
    said: Mutex<SaidOnce>,
    /// Why there is no way for mutations, as was seen when none was there that could tell.
    no_way: Mutex<Option<String>>,
    /// Grows with every queue that is broken.
    breaks: watch::Sender<u64>,
}

impl Works {
    fn lock(&self) -> MutexGuard<'_, Scheduler<Queued>> {
        // Whole between any two statements that hold it.
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn said(&self) -> MutexGuard<'_, SaidOnce> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn no_way(&self) -> MutexGuard<'_, Option<String>> {
        self.no_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self) {
        let seen = self.mutator.look().await;
        *self.no_way() = match seen {
            Ok(()) => {
                self.said().clear();
                None
            }
            Err(
                MutateError::Away(what) | MutateError::Conflict(what) | MutateError::Slow(what),
            ) => {
                if self.said().is_new(&what) {
                    tracing::warn!(what, "no mutation can be applied");
                }
                Some(what)
            }
        };
    }
}

/// Takes mutations. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Writer {
    shared: Arc<Works>,
}

/// A session's share of the queue of its client. What waits when it is dropped is applied all the same.
pub(crate) struct Queue {
    writer: Writer,
    id: QueueId,
    breaks: watch::Receiver<u64>,
}

impl Writer {
    /// Mutations run over so many `connections` of the mutator. After `stop` Postgres is not waited for any more;
    /// `ends` ends the writer itself.
    pub(crate) fn start(
        mutator: Mutator,
        connections: usize,
        engines: Engines,
        clock: Clock,
        stop: CancellationToken,
        ends: CancellationToken,
    ) -> Writer {
        let options =
            SchedulerOptions { connections, queue: MUTATION_QUEUE, bytes: MUTATION_QUEUE_BYTES };
        let shared = Arc::new(Works {
            scheduler: Mutex::new(Scheduler::new(options)),
            mutator,
            engines,
            clock,
            changed: Notify::new(),
            said: Mutex::default(),
            no_way: Mutex::default(),
            breaks: watch::channel(0).0,
        });
        let writer = Writer { shared };
        let timer = writer.clone();
        tokio::spawn(async move { ends.run_until_cancelled(timer.wait_and_try_again()).await });
        let stopped = writer.clone();
        tokio::spawn(async move {
            stop.cancelled().await;
            stopped.shared.lock().stop();
            stopped.start_jobs();
        });
        writer
    }

    /// The queue of a client of a user, with those who share it.
    pub(crate) fn attach(&self, client: &str, user: &str, shared: bool) -> Queue {
        let id = self.shared.lock().attach(client, user, shared);
        Queue { writer: self.clone(), id, breaks: self.shared.breaks.subscribe() }
    }

    /// Lets go what waits of older connections of a client; see [`Scheduler::supersede`].
    pub(crate) fn supersede(&self, client: &str, user: &str) {
        let lost = self.shared.lock().supersede(client, user);
        if !lost.is_empty() {
            self.broke();
        }
    }

    /// Looks now and then whether mutations could be applied, until `ends`: else nobody knows before one waits.
    pub(crate) fn look_at_the_way(&self, every: Duration, ends: CancellationToken) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let looks = async {
                let mut times = interval(every);
                times.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    times.tick().await;
                    // What is there tells by itself.
                    if shared.lock().is_idle() {
                        shared.look().await;
                    }
                }
            };
            ends.run_until_cancelled(looks).await;
        });
    }

    /// Why mutations cannot be applied and wait, if so. Waits for nothing.
    pub(crate) fn waits_for(&self) -> Option<String> {
        let away = self.shared.lock().away().map(str::to_owned);
        away.or_else(|| self.shared.no_way().clone())
    }

    /// How many bytes of mutations wait, of the [`MUTATION_QUEUE_BYTES`] that may.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.shared.lock().bytes()
    }

    /// Waits until nothing waits and nothing runs.
    pub(crate) async fn is_idle(&self) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.shared.lock().is_idle() {
                return;
            }
            changed.await;
        }
    }

    fn broke(&self) {
        self.shared.breaks.send_modify(|breaks| *breaks += 1);
        self.shared.changed.notify_waiters();
    }

    /// Starts what can be started.
    fn start_jobs(&self) {
        loop {
            let job = self.shared.lock().start(self.shared.clock.time());
            let Some(job) = job else { return };
            tokio::spawn(self.clone().run(job));
        }
    }

    /// Runs one mutation after the other, as long as there is one for this connection.
    async fn run(self, job: Job<Queued>) {
        let mut next = Some(job);
        while let Some(job) = next {
            let ended = self.attempt(&job).await;
            let breaks = ended != Ended::Acknowledged;
            let queue = job.queue;
            drop(job);
            let (now, jitter) = (self.shared.clock.time(), rand::random());
            let mut scheduler = self.shared.lock();
            scheduler.ended(queue, ended, now, jitter);
            next = scheduler.start(now);
            drop(scheduler);
            if breaks {
                self.broke();
            }
            self.shared.changed.notify_waiters();
            self.start_jobs();
        }
    }

    async fn wait_and_try_again(self) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let deadline = self.shared.lock().deadline();
            match deadline {
                None => changed.await,
                Some(at) => tokio::select! {
                    () = sleep_until(self.shared.clock.instant(at)) => self.start_jobs(),
                    () = changed => {}
                },
            }
        }
    }

    /// Runs a mutation once.
    async fn attempt(&self, job: &Job<Queued>) -> Ended {
        let mutation = &job.mutation.mutation;
        let Came { ended, note } =
            match attempt::work(self.shared.engines.plan(), mutation, job.gives_up) {
                Err(came) => came,
                Ok((plan, work)) => {
                    let number = mutation.number.clone();
                    let (client, user_id) = (Arc::clone(&job.client), Arc::clone(&job.user));
                    let ticket = Ticket { client, user_id, number };
                    let mutator = &self.shared.mutator;
                    let answer = mutator.apply(&plan, &ticket, &mutation.author, &work).await;
                    attempt::came(&ticket.number, answer)
                }
            };
        self.note(job, note);
        ended
    }

    /// Tells those who watch.
    fn note(&self, job: &Job<Queued>, note: Note) {
        match note {
            Note::Nothing => {}
            Note::Acknowledged(outcome) => {
                // What the others wait for may never have been in its way.
                if job.waited {
                    self.shared.said().clear();
                }
                *self.shared.no_way() = None;
                let plan = self.shared.engines.plan();
                let tables = plan.iter().flat_map(|plan| &plan.tables);
                let limits =
                    tables.flat_map(|table| &table.write.insert).flat_map(|insert| &insert.limits);
                let codes = limits.map(|limit| limit.code.as_str());
                telemetry::mutation_acknowledged(&outcome, codes, job.mutation.since);
            }
            Note::WaitsForTable(table) => {
                telemetry::mutation_retried("away");
                let what = "a mutation waits for a table, or a named mutation, that does not fit the database now";
                tracing::debug!(table, "{what}");
            }
            Note::WaitsForPostgres(what) => {
                telemetry::mutation_retried("away");
                if self.shared.said().is_new(&what) {
                    tracing::warn!(what, "a mutation waits for Postgres");
                }
            }
            Note::InTheWay(what) => {
                telemetry::mutation_retried("conflict");
                tracing::debug!(what, "a mutation is tried again");
            }
            Note::TookTooLong(what) => {
                telemetry::mutation_retried("conflict");
                tracing::warn!(what, "a mutation took too long, and is tried again");
            }
        }
    }
}

impl Queue {
    /// Waits until mutations are not taken any further. Cancel safe.
    pub(crate) async fn broken(&mut self) -> Broken {
        loop {
            self.breaks.borrow_and_update();
            if let Some(broken) = self.writer.shared.lock().broken(self.id) {
                return broken.clone();
            }
            if self.breaks.changed().await.is_err() {
                return Broken::Stopped;
            }
        }
    }

    /// Puts a mutation behind the others.
    ///
    /// # Errors
    /// When too many wait: with the mutation.
    pub(crate) fn push(&self, mutation: Mutation) -> Result<(), Mutation> {
        let (operations, bytes) = (mutation.operations, mutation.bytes);
        let _counted = WaitingMutation::new();
        let queued = Queued { mutation, since: Instant::now(), _counted };
        let pushed = self.writer.shared.lock().push(self.id, queued, operations, bytes);
        pushed.map_err(|Full(queued)| queued.mutation)?;
        self.writer.start_jobs();
        Ok(())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.writer.shared.lock().detach(self.id);
        self.writer.start_jobs();
    }
}
