//! Which mutation is applied next, over a bounded number of connections to Postgres. The mutations of one client
//! wait in one queue and are applied in order; a queue outlives its session, because what has reached the server is
//! acknowledged. Users share the connections fairly, whatever the number of their clients and the size of their
//! mutations (start-time fair queueing, by operations). Pure: whoever runs the mutations says what became of them
//! and what time it is.
//!
//! **The bound.** A user who is there, has nothing waiting or running, and has not had more than others lately
//! sends a mutation. Before it starts, at most one mutation each of those users starts who were there then, waiting,
//! with nothing running. With one user flooding there is no such user, and where there are two connections or more
//! a flood never holds the last one: the mutation starts at once.
//!
//! *Why.* Each user has a tag that grows by the operations of what is started; the lowest tag is served first, and
//! the virtual time `V` is the tag that was served last, to which lower tags are raised. So the mutation's tag is
//! `V`, and nothing with a higher tag starts before it. Of users with the same tag those with the fewest running
//! come first, then who waits longest, counted from when one of theirs last ended: so only those with nothing
//! running can be before it, and each of them has a higher tag once it was served.
//!
//! **The bound of every mutation.** A user who is there waits for others only while something of theirs may start
//! and nothing of theirs runs. Until one of theirs starts, each other user starts at most one mutation besides
//! others that have together no more operations than the user's own last one: whoever sends one operation at a time
//! waits for at most two mutations of each other, however much those have.
//!
//! *Why.* `V` was at least the tag of their last one when that was started, and their tag is higher by its operations
//! alone. What another starts before has a tag of `V` or more, which grows with each by its operations, and no
//! higher one than theirs.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How often a mutation that others are in the way of is tried.
pub const CONFLICT_RETRIES: u32 = 20;
/// How many of these a try counts for that took too long: each keeps a connection for many seconds.
const SLOW_COUNTS: u32 = 5;
/// The first pause while Postgres is away; it doubles with each.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The pause after a conflict; it grows by as much with each.
const CONFLICT_PAUSE: Duration = Duration::from_millis(5);
/// How many users there are before those who are of no concern any more are looked for.
const MIN_SWEEP: usize = 1_024;

/// Names one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(u64);

/// What a scheduler goes by.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerOptions {
    /// How many mutations run at a time; at least one.
    pub connections: usize,
    /// How many mutations may wait in one queue.
    pub queue: usize,
    /// How many bytes of mutations may wait in all.
    pub bytes: usize,
}

/// A mutation to be run now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job<M> {
    /// Where it waits, until [`Scheduler::ended`] is called with it.
    pub queue: QueueId,
    /// Whose it is.
    pub client: Arc<str>,
    /// Of which user.
    pub user: Arc<str>,
    /// What is to be applied.
    pub mutation: Arc<M>,
    /// It was tried too often, and is to be rejected: why.
    pub gives_up: Option<GivesUp>,
    /// What it waits for was away for it.
    pub waited: bool,
}

/// Why a mutation is not tried any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivesUp {
    /// Others were in the way each time, also the last.
    InTheWay,
    /// It took longer than it may, the last time at least.
    TookTooLong,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is acknowledged.
    Acknowledged,
    /// Another transaction was in the way; it is tried again.
    Conflict,
    /// A statement took longer than it may; it is tried again.
    Slow,
    /// Postgres was not there, or cannot take it now: why. It is tried again.
    Away(String),
    /// Nothing of this queue can be acknowledged any more.
    Broken(Broken),
}

/// Why a client's mutations are not taken any further; its session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A number does not follow the last one that is acknowledged.
    Gap {
        /// The number.
        number: u64,
        /// That one.
        last: u64,
    },
    /// The client id belongs to another user, or is not known any more.
    NotTheirs,
    /// A newer connection of the client sends again what waited here.
    Superseded,
    /// The server stops.
    Stopped,
}

/// There is no room; nothing was taken.
#[derive(Debug)]
pub struct Full<M>(pub M);

#[derive(Debug)]
struct Waiting<M> {
    mutation: Arc<M>,
    operations: u64,
    bytes: usize,
}

/// What a queue is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Its first mutation, if there is one, may be started.
    Ready,
    /// Its first mutation runs.
    Running,
    /// Its first mutation is tried again then.
    Paused(Duration),
}

#[derive(Debug)]
struct ClientQueue<M> {
    client: Arc<str>,
    user: Arc<str>,
    /// How many sessions use it.
    attached: usize,
    /// The first is the one that runs or is tried again.
    waiting: VecDeque<Waiting<M>>,
    state: Doing,
    conflicts: u32,
    /// Its first mutation took too long when it was tried last.
    is_slow: bool,
    /// What its first mutation waits for was away for it.
    waited: bool,
    pause: Duration,
    /// A newer connection has come while its first mutation ran: that is not tried again.
    is_superseded: bool,
    /// The server stops, and its first mutation is tried for the last time while Postgres is away.
    is_last_try: bool,
    broken: Option<Broken>,
}

#[derive(Debug, Default)]
struct User {
    /// How much was started of theirs, as others' tags measure it.
    tag: u64,
    running: usize,
    /// How many of their queues sessions use.
    attached: usize,
    /// Their queues.
    queues: usize,
    /// Queues that may start something, in turn.
    ready: VecDeque<QueueId>,
    /// Where they are in `Scheduler::order`, if something may start.
    place: Option<Place>,
}

/// Who is served first: those who are there, then the lowest tag, then the fewest running, then the longest wait.
type Place = (bool, u64, usize, u64);

/// The scheduler, of mutations of the form `M`.
#[derive(Debug)]
pub struct Scheduler<M> {
    options: SchedulerOptions,
    queues: HashMap<QueueId, ClientQueue<M>>,
    clients: HashMap<Arc<str>, Vec<QueueId>>,
    users: HashMap<Arc<str>, User>,
    order: BTreeSet<(Place, Arc<str>)>,
    /// How many of `order` are there.
    present: usize,
    paused: BTreeSet<(Duration, QueueId)>,
    /// Why queues wait whose first mutation found Postgres away when it was tried last.
    away: BTreeMap<QueueId, String>,
    running: usize,
    waiting: usize,
    bytes: usize,
    /// The virtual time: the tag that was served last.
    served: u64,
    /// The highest tag that was given.
    highest: u64,
    stamps: u64,
    next_queue: u64,
    sweep_at: usize,
    stopping: bool,
}

impl<M> Scheduler<M> {
    /// A scheduler with nothing to do.
    pub fn new(options: SchedulerOptions) -> Scheduler<M> {
        Scheduler {
            options: SchedulerOptions { connections: options.connections.max(1), ..options },
            queues: HashMap::new(),
            clients: HashMap::new(),
            users: HashMap::new(),
            order: BTreeSet::new(),
            present: 0,
            paused: BTreeSet::new(),
            away: BTreeMap::new(),
            running: 0,
            waiting: 0,
            bytes: 0,
            served: 0,
            highest: 0,
            stamps: 0,
            next_queue: 0,
            sweep_at: MIN_SWEEP,
            stopping: false,
        }
    }

    /// A session of a client of a user has mutations: a queue of its own, or the one that the client has already if
    /// it is `shared`.
    pub fn attach(&mut self, client: &str, user: &str, shared: bool) -> QueueId {
        let mut known = self.clients.get(client).into_iter().flatten().copied();
        let known = known.rfind(|id| shared && self.queues[id].broken.is_none());
        let id = known.unwrap_or_else(|| self.make_queue(client, user));
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.attached += 1;
            if queue.attached == 1 {
                let user = Arc::clone(&queue.user);
                self.change(&user, |user| user.attached += 1);
            }
        }
        id
    }

    fn make_queue(&mut self, client: &str, user: &str) -> QueueId {
        let id = QueueId(self.next_queue);
        self.next_queue += 1;
        let client: Arc<str> = client.into();
        let user: Arc<str> = match self.users.get_key_value(user) {
            Some((user, _)) => Arc::clone(user),
            None => user.into(),
        };
        self.clients.entry(Arc::clone(&client)).or_default().push(id);
        self.users.entry(Arc::clone(&user)).or_default().queues += 1;
        let queue = ClientQueue {
            client,
            user,
            attached: 0,
            waiting: VecDeque::new(),
            state: Doing::Ready,
            conflicts: 0,
            is_slow: false,
            waited: false,
            pause: MIN_PAUSE,
            is_superseded: false,
            is_last_try: false,
            broken: None,
        };
        self.queues.insert(id, queue);
        id
    }

    /// A session has gone. What waits in its queue is still applied, but after what those want who are there.
    pub fn detach(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        queue.attached = queue.attached.saturating_sub(1);
        if queue.attached == 0 {
            let user = Arc::clone(&queue.user);
            self.change(&user, |user| user.attached -= 1);
            self.drop_if_done(id);
        }
    }

    /// Puts a mutation of so many operations and about so many bytes behind the others of its queue.
    ///
    /// # Errors
    /// When too much waits. One that comes to a broken queue is let go: its session is about to end.
    pub fn push(
        &mut self,
        id: QueueId,
        mutation: M,
        operations: usize,
        bytes: usize,
    ) -> Result<(), Full<M>> {
        let Some(queue) = self.queues.get_mut(&id).filter(|queue| queue.broken.is_none()) else {
            return Ok(());
        };
        // The one that runs does not wait.
        let waiting = queue.waiting.len() - usize::from(queue.state != Doing::Ready);
        if waiting >= self.options.queue || self.bytes + bytes > self.options.bytes {
            return Err(Full(mutation));
        }
        let operations = operations.max(1) as u64;
        queue.waiting.push_back(Waiting { mutation: Arc::new(mutation), operations, bytes });
        self.bytes += bytes;
        self.waiting += 1;
        if queue.state == Doing::Ready && queue.waiting.len() == 1 {
            self.make_ready(id);
        }
        Ok(())
    }

    /// A newer connection of a client is about to ask for its last number: what waits of older ones is let go,
    /// because the client sends it again. What runs goes on, and is not tried again. Returns the queues that lost
    /// something; their sessions must end. This spares Postgres repeats. What is right does not hang on it: what
    /// runs, or arrives late over an older connection or another server, bears the number that it has in the client,
    /// and the client's row takes one of all copies of it (see `rowtide_postgres::client_registry`).
    pub fn supersede(&mut self, client: &str, user: &str) -> Vec<QueueId> {
        let of_client = self.clients.get(client).cloned().unwrap_or_default();
        for id in &of_client {
            if let Some(queue) = self.queues.get_mut(id)
                && &*queue.user == user
                && queue.state == Doing::Running
            {
                queue.is_superseded = true;
            }
        }
        let loses = |id: &QueueId| {
            let queue = &self.queues[id];
            // A client id that somebody else only names is not theirs.
            &*queue.user == user && queue.waiting.len() > usize::from(queue.state == Doing::Running)
        };
        let losing: Vec<QueueId> = of_client.into_iter().filter(loses).collect();
        losing.iter().for_each(|id| self.break_queue(*id, Broken::Superseded));
        losing
    }

    /// The next mutation to run; `None` if there is none, or no connection for it.
    pub fn start(&mut self, now: Duration) -> Option<Job<M>> {
        while let Some((at, id)) = self.paused.first().copied()
            && at <= now
        {
            self.paused.remove(&(at, id));
            self.make_ready(id);
        }
        if self.running >= self.options.connections {
            return None;
        }
        let user = self.order.iter().find(|entry| self.may_start(entry)).map(|(_, user)| user)?;
        let user = Arc::clone(user);
        let id = self.users.get(&user)?.ready.front().copied()?;
        let queue = self.queues.get_mut(&id)?;
        let first = queue.waiting.front()?;
        let operations = first.operations;
        let too_often = queue.conflicts >= CONFLICT_RETRIES;
        let why = if queue.is_slow { GivesUp::TookTooLong } else { GivesUp::InTheWay };
        let job = Job {
            queue: id,
            client: Arc::clone(&queue.client),
            user: Arc::clone(&user),
            mutation: Arc::clone(&first.mutation),
            gives_up: too_often.then_some(why),
            waited: queue.waited,
        };
        queue.state = Doing::Running;
        self.running += 1;
        let served = self.served;
        let mut tag = 0;
        self.change(&user, |user| {
            tag = user.tag.max(served);
            user.ready.pop_front();
            user.running += 1;
            user.tag = tag + operations;
        });
        self.served = tag;
        self.highest = self.highest.max(tag + operations);
        Some(job)
    }

    /// Whether one more of a user's may run: while others wait, half of the connections are for one user, and
    /// otherwise all but one.
    fn may_start(&self, ((absent, ..), user): &(Place, Arc<str>)) -> bool {
        let Some(known) = self.users.get(user) else { return false };
        // For those who are there, those who are not do not count.
        let waiting = if *absent { self.order.len() } else { self.present };
        let connections = self.options.connections;
        let most = if waiting > 1 { connections / 2 } else { connections - 1 };
        known.running < most.max(1)
    }

    /// A run has ended. `jitter`, from 0 to 1, spreads tries that follow. If the queue is broken by it, its
    /// session must end.
    pub fn ended(&mut self, id: QueueId, ended: Ended, now: Duration, jitter: f64) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let user = Arc::clone(&queue.user);
        self.running -= 1;
        let again = matches!(ended, Ended::Conflict | Ended::Slow | Ended::Away(_));
        let superseded = std::mem::take(&mut queue.is_superseded) && again;
        let ended = if superseded { Ended::Broken(Broken::Superseded) } else { ended };
        // What is broken already is not tried again.
        let is_broken = queue.broken.is_some();
        let mut wait = None;
        self.away.remove(&id);
        match &ended {
            Ended::Conflict | Ended::Slow if !is_broken => {
                queue.is_slow = ended == Ended::Slow;
                queue.conflicts += if ended == Ended::Slow { SLOW_COUNTS } else { 1 };
                wait = Some(CONFLICT_PAUSE * queue.conflicts.min(20));
            }
            Ended::Away(why) if !(is_broken || self.stopping && queue.is_last_try) => {
                self.away.insert(id, why.clone());
                queue.is_last_try = self.stopping;
                queue.waited = true;
                queue.pause = (queue.pause * 2).min(MAX_PAUSE);
                wait = Some(queue.pause);
            }
            _ => {}
        }
        queue.state = match wait {
            Some(wait) => Doing::Paused(now + wait.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)),
            None => Doing::Ready,
        };
        if let Doing::Paused(at) = queue.state {
            self.paused.insert((at, id));
        }
        self.change(&user, |user| user.running -= 1);
        if wait.is_some() {
            return;
        }
        match ended {
            // The client sends it again.
            Ended::Away(_) => self.break_queue(id, Broken::Stopped),
            Ended::Broken(broken) => self.break_queue(id, broken),
            Ended::Acknowledged | Ended::Conflict | Ended::Slow => {
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.conflicts = 0;
                    (queue.is_slow, queue.waited) = (false, false);
                    queue.is_last_try = false;
                    queue.pause = MIN_PAUSE;
                    if let Some(done) = queue.waiting.pop_front() {
                        self.bytes -= done.bytes;
                        self.waiting -= 1;
                    }
                }
                self.make_ready(id);
            }
        }
        self.drop_if_done(id);
        if self.waiting == 0 {
            // Nobody is owed anything.
            self.served = self.highest;
            self.sweep();
        }
    }

    /// The server stops: what is there is applied, but Postgres is not waited for any more. What waits for it is
    /// tried once more, at once, and what finds it away from now on once more after a pause: it may have been the
    /// connection alone that was lost, and there are clients that send nothing again.
    pub fn stop(&mut self) {
        self.stopping = true;
        let away = |(id, queue): (&QueueId, &ClientQueue<M>)| match queue.state {
            Doing::Paused(at) if queue.conflicts == 0 => Some((at, *id)),
            _ => None,
        };
        let mut waiting: Vec<(Duration, QueueId)> = self.queues.iter().filter_map(away).collect();
        // In the order in which they would have been tried.
        waiting.sort_unstable();
        for (at, id) in waiting {
            self.paused.remove(&(at, id));
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.is_last_try = true;
            }
            self.make_ready(id);
        }
    }

    /// When [`Scheduler::start`] has something again that waits for a time.
    pub fn deadline(&self) -> Option<Duration> {
        self.paused.first().map(|(at, _)| *at)
    }

    /// Why a queue is not taken any further, if so.
    pub fn broken(&self, id: QueueId) -> Option<&Broken> {
        self.queues.get(&id)?.broken.as_ref()
    }

    /// Whether nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        self.waiting == 0 && self.running == 0
    }

    /// How many mutations wait or run.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Why a mutation waits that Postgres could not take when it was tried last, if one does: that of the oldest queue.
    pub fn away(&self) -> Option<&str> {
        self.away.values().next().map(String::as_str)
    }

    /// How many bytes of mutations wait or run.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a queue is empty, or not there.
    pub fn is_empty(&self, id: QueueId) -> bool {
        self.queues.get(&id).is_none_or(|queue| queue.waiting.is_empty())
    }

    fn make_ready(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        queue.state = Doing::Ready;
        if !queue.waiting.is_empty() {
            let user = Arc::clone(&queue.user);
            self.change(&user, |user| user.ready.push_back(id));
        }
    }

    fn break_queue(&mut self, id: QueueId, why: Broken) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let user = Arc::clone(&queue.user);
        let keeps = usize::from(queue.state == Doing::Running);
        for dropped in queue.waiting.drain(keeps..) {
            self.bytes -= dropped.bytes;
            self.waiting -= 1;
        }
        if let Doing::Paused(at) = queue.state {
            self.paused.remove(&(at, id));
            queue.state = Doing::Ready;
        }
        if keeps == 0 {
            self.away.remove(&id);
        }
        queue.broken.get_or_insert(why);
        self.change(&user, |user| user.ready.retain(|ready| *ready != id));
    }

    fn drop_if_done(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get(&id) else { return };
        if queue.attached > 0 || !queue.waiting.is_empty() || queue.state != Doing::Ready {
            return;
        }
        let Some(queue) = self.queues.remove(&id) else { return };
        if let Some(of_client) = self.clients.get_mut(&queue.client) {
            of_client.retain(|other| *other != id);
            if of_client.is_empty() {
                self.clients.remove(&queue.client);
            }
        }
        if let Some(user) = self.users.get_mut(&queue.user) {
            user.queues -= 1;
        }
        if self.users.len() >= self.sweep_at {
            self.sweep();
            self.sweep_at = (2 * self.users.len()).max(MIN_SWEEP);
        }
    }

    /// Evicts users who have nothing here and are owed nothing, nor owe.
    fn sweep(&mut self) {
        let served = self.served;
        self.users.retain(|_, user| user.queues > 0 || user.tag > served);
    }

    /// Changes something of a user, and gives them their place anew: behind all who wait alike, if it is another.
    fn change(&mut self, name: &Arc<str>, change: impl FnOnce(&mut User)) {
        let Some(user) = self.users.get_mut(name) else { return };
        let before = user.place.take();
        if let Some(place) = before {
            self.order.remove(&(place, Arc::clone(name)));
            self.present -= usize::from(!place.0);
        }
        change(user);
        if !user.ready.is_empty() {
            user.tag = user.tag.max(self.served);
            let (absent, tag, running) = (user.attached == 0, user.tag, user.running);
            let stamp =
                before.filter(|before| (before.0, before.1, before.2) == (absent, tag, running));
            let stamp = stamp.map_or_else(
                || {
                    self.stamps += 1;
                    self.stamps
                },
                |before| before.3,
            );
            let place = (absent, tag, running, stamp);
            user.place = Some(place);
            self.order.insert((place, Arc::clone(name)));
            self.present += usize::from(!place.0);
        }
    }
}

#[cfg(test)]
mod tests;
