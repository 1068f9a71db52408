//! Carries what the [`Scheduler`] decides: runs mutations over the connections to Postgres, tries them again when
//! it is time, and tells sessions whose mutations are not taken any further. While Postgres is away mutations wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rowtide_plan::plan::Plan;
use rowtide_plan::write::{Rejection, Tolerance, Unreadable, Write};
use rowtide_postgres::mutate::{MutateError, Mutator, Number, Outcome, Ticket, Work};
use rowtide_postgres::said_once::SaidOnce;
use rowtide_protocol::{Op, RejectCode};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::conversation::{Asked, Mutation};
use crate::engines::Engines;
use crate::limits::{MUTATION_QUEUE, MUTATION_QUEUE_BYTES};
use crate::now::Clock;
use crate::scheduler::{Broken, Ended, Full, Job, QueueId, Scheduler, SchedulerOptions};
use crate::telemetry::{self, WaitingMutation};

/// A mutation that waits.
struct Queued {
    mutation: Mutation,
    since: Instant,
    /// Postgres was away for it.
    waited: AtomicBool,
    /// It took too long when it was tried last.
    slow: AtomicBool,
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
    /// Grows with every queue that is broken.
    breaks: watch::Sender<u64>,
}

impl Works {
    fn lock(&self) -> MutexGuard<'_, Scheduler<Queued>> {
        // Whole between any two statements that hold it.
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Runs a mutation once. What there is to do is read for each try anew: its tables and columns are places in a
    /// plan, and another may serve by then.
    async fn attempt(&self, job: &Job<Queued>) -> Ended {
        let Queued { mutation, since, waited, slow, .. } = &*job.mutation;
        let Some(plan) = self.shared.engines.plan() else { return Ended::Away };
        if let Asked::Apply(ops) = &mutation.asked
            && let Some(table) = plan.waits_for(ops).filter(|_| !job.gives_up)
        {
            // To reject it would lose what its client has written.
            telemetry::mutation_retried("away");
            tracing::debug!(table, "a mutation waits for a table that does not fit its rules now");
            return Ended::Away;
        }
        let work = match &mutation.asked {
            _ if job.gives_up => {
                let message = if slow.load(Ordering::Relaxed) {
                    "it takes longer in the database than it may take"
                } else {
                    "others were writing the same rows all the time; try again later"
                };
                Work::Reject(vec![Rejection::new(RejectCode::UnknownError, message)])
            }
            Asked::Reject(rejection) => Work::Reject(vec![rejection.clone()]),
            Asked::Apply(ops) => read(&plan, ops, mutation.tolerance),
        };
        let number = mutation.number.clone();
        let (client, user_id) = (Arc::clone(&job.client), Arc::clone(&job.user));
        let ticket = Ticket { client, user_id, number };
        let said = || self.shared.said.lock().unwrap_or_else(PoisonError::into_inner);
        let acked = |outcome: &str| {
            // Others may never have been in its way.
            if waited.load(Ordering::Relaxed) {
                said().clear();
            }
            telemetry::mutation_acknowledged(outcome, *since);
            Ended::Acknowledged
        };
        match self.shared.mutator.apply(&plan, &ticket, &mutation.author, &work).await {
            Ok(Outcome::Acked { rejected }) => acked(rejected.as_deref().unwrap_or("applied")),
            Ok(Outcome::Repeated) => acked("repeated"),
            Ok(Outcome::Gap { last }) => match ticket.number {
                Number::Given(number) => Ended::Broken(Broken::Gap { number, last }),
                Number::Next { .. } => Ended::Broken(Broken::NotTheirs),
            },
            Ok(Outcome::NotTheirs) => Ended::Broken(Broken::NotTheirs),
            Err(MutateError::Conflict(what)) => {
                telemetry::mutation_retried("conflict");
                tracing::debug!(what, "a mutation is tried again");
                slow.store(false, Ordering::Relaxed);
                Ended::Conflict
            }
            Err(MutateError::Slow(what)) => {
                telemetry::mutation_retried("conflict");
                let user = &*job.user;
                tracing::warn!(what, user, "a mutation took too long, and is tried again");
                slow.store(true, Ordering::Relaxed);
                Ended::Slow
            }
            Err(MutateError::Away(what)) => {
                telemetry::mutation_retried("away");
                waited.store(true, Ordering::Relaxed);
                if said().is_new(&what) {
                    tracing::warn!(what, "a mutation waits for Postgres");
                }
                Ended::Away
            }
        }
    }
}

fn read(plan: &Plan, ops: &[Op], tolerance: Option<fn(&Plan, &Write) -> Tolerance>) -> Work {
    let read = |(index, op): (usize, &Op)| {
        let read = plan.read_op(op).map_err(|Unreadable { rejection, table }| {
            let message = format!("ops[{index}]: {}", rejection.message);
            (Rejection { message, ..rejection }, table)
        });
        let mut write = read?;
        if let Some(tolerance) = tolerance {
            write.tolerance = tolerance(plan, &write);
        }
        Ok(write)
    };
    match ops.iter().enumerate().map(read).collect() {
        Ok(writes) => Work::Apply(writes),
        Err((rejection, Some(table))) => Work::RejectIfItFits { table, rejection },
        Err((rejection, None)) => Work::Reject(vec![rejection]),
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
        let (since, waited) = (Instant::now(), AtomicBool::new(false));
        let queued = Queued { mutation, since, waited, slow: AtomicBool::new(false), _counted };
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
