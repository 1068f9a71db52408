//! How long each mutation waits for others', in a second and naive account of what the scheduler has: a user who is
//! there, has something that may start and has nothing running, waits. Until one of theirs starts, each other user
//! starts at most one mutation besides others that have together no more operations than the user's own last one.
//! What is tried again is left out while its pause lasts: it is not others that it waits for.

use std::collections::{BTreeMap, VecDeque};

use rowtide_gateway::scheduler::{Ended, QueueId};

/// What a queue is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Ready,
    Running,
    Paused,
}

#[derive(Debug)]
struct Line {
    user: String,
    /// How many sessions use it.
    attached: usize,
    /// The operations of each that runs or waits.
    waiting: VecDeque<u64>,
    doing: Doing,
}

#[derive(Debug)]
struct Wait {
    /// How many operations the user's own last mutation had.
    own: u64,
    /// Of each other user the operations of all that were started but the last, and of that.
    others: BTreeMap<String, (u64, u64)>,
    /// How many were started.
    started: usize,
}

/// What is watched of one server.
#[derive(Default)]
pub struct Fairness {
    lines: BTreeMap<QueueId, Line>,
    last: BTreeMap<String, u64>,
    waits: BTreeMap<String, Wait>,
}

impl Fairness {
    /// A session of a user has a queue.
    pub fn attach(&mut self, queue: QueueId, user: &str) {
        let (user, waiting) = (user.to_owned(), VecDeque::new());
        let line = Line { user, attached: 0, waiting, doing: Doing::Ready };
        self.lines.entry(queue).or_insert(line).attached += 1;
        self.look();
    }

    /// A mutation has come into a queue.
    pub fn arrive(&mut self, queue: QueueId, operations: usize) {
        if let Some(line) = self.lines.get_mut(&queue) {
            line.waiting.push_back(operations as u64);
        }
        self.look();
    }

    /// The session of a queue has gone: what waits in it comes after what those want who are there.
    pub fn leave(&mut self, queue: QueueId) {
        if let Some(line) = self.lines.get_mut(&queue) {
            line.attached -= 1;
        }
        self.look();
    }

    /// The first mutation of a queue starts. How many of others have started while its user waited.
    ///
    /// # Panics
    /// When another user has started more than one may while somebody waits.
    pub fn start(&mut self, queue: QueueId) -> usize {
        let Some(line) = self.lines.get_mut(&queue) else { return 0 };
        line.doing = Doing::Running;
        let (user, operations) = (line.user.clone(), line.waiting.front().copied().unwrap_or(0));
        self.last.insert(user.clone(), operations);
        let waited = self.waits.remove(&user).map_or(0, |wait| wait.started);
        for (waiting, Wait { own, others, started }) in &mut self.waits {
            *started += 1;
            let (before, last) = others.entry(user.clone()).or_default();
            *before += std::mem::replace(last, operations);
            assert!(
                before <= own,
                "{waiting} has waited for {before} operations of {user} and one mutation more, not {own}"
            );
        }
        self.look();
        waited
    }

    /// A run has ended.
    pub fn end(&mut self, queue: QueueId, ended: &Ended) {
        let Some(line) = self.lines.get_mut(&queue) else { return };
        line.doing = match ended {
            Ended::Conflict | Ended::Slow | Ended::Away(_) => Doing::Paused,
            Ended::Acknowledged | Ended::Broken(_) => Doing::Ready,
        };
        match ended {
            Ended::Acknowledged => drop(line.waiting.pop_front()),
            Ended::Broken(_) => line.waiting.clear(),
            Ended::Conflict | Ended::Slow | Ended::Away(_) => {}
        }
        self.look();
    }

    /// What waited in a queue was let go; what runs goes on.
    pub fn let_go(&mut self, queue: QueueId) {
        if let Some(line) = self.lines.get_mut(&queue) {
            line.waiting.truncate(usize::from(line.doing == Doing::Running));
        }
        self.look();
    }

    /// Whoever waits for others now.
    fn look(&mut self) {
        self.lines.retain(|_, line| line.attached > 0 || !line.waiting.is_empty());
        let mut users: BTreeMap<&str, (bool, bool, bool)> = BTreeMap::new();
        for line in self.lines.values() {
            let (is_there, ready, running) = users.entry(&line.user).or_default();
            *is_there |= line.attached > 0;
            *ready |= line.doing == Doing::Ready && !line.waiting.is_empty();
            *running |= line.doing == Doing::Running;
        }
        users.retain(|_, (is_there, ready, running)| *is_there && *ready && !*running);
        self.waits.retain(|user, _| users.contains_key(user.as_str()));
        for user in users.into_keys() {
            if !self.waits.contains_key(user) {
                let own = self.last.get(user).copied().unwrap_or(0);
                let wait = Wait { own, others: BTreeMap::new(), started: 0 };
                self.waits.insert(user.to_owned(), wait);
            }
        }
    }
}
