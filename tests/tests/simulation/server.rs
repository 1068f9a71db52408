//! A server process: its replicator, its feed, and what serves clients. It may be killed between any two events,
//! and everything in here is gone then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rowtide::stopping::ServerStop;
use rowtide_feed::Generation;
use rowtide_gateway::conversation::Mutation;
use rowtide_gateway::limits::{CLAIM_COLLECT, ClientLimits};
use rowtide_gateway::rate::Rate;
use rowtide_gateway::registry::Registry;
use rowtide_gateway::scheduler::{QueueId, Scheduler, SchedulerOptions};

use crate::engines::EngineThread;
use crate::fairness::Fairness;
use crate::feed::ServerFeed;
use crate::log::Logged;
use crate::replicator::Replicator;
use crate::sessions::Connection;
use crate::world::{At, World};

/// How many mutations of a client may wait.
const MUTATION_QUEUE: usize = 12;
/// How many operations a user may have in a minute.
const REQUESTS_PER_MINUTE: u32 = 120;

pub struct Server {
    /// Grows with every start and every end, so that what was meant for an earlier life is known.
    pub life: u64,
    pub running: bool,
    /// When it was asked to stop.
    pub stopping: Option<u64>,
    /// How far it is with that.
    pub stop: Option<ServerStop>,
    pub generation: Option<Arc<Generation>>,
    pub serving_since_ms: Option<u64>,
    /// How many there were.
    pub generations: u64,
    /// None while there is nothing to follow.
    pub engines: Vec<EngineThread>,
    pub sessions: u64,
    /// By connection.
    pub connections: BTreeMap<u64, Connection>,
    pub limits: ClientLimits,
    pub registry: Registry,
    pub rate: Rate,
    pub scheduler: Scheduler<Mutation>,
    pub fairness: Fairness,
    /// How often a client id was claimed, and when each client's was last.
    pub claims: u64,
    pub claimed: BTreeMap<String, u64>,
    /// The last claim of its client when each mutation was put into its queue, by queue and tag.
    pub pushed: BTreeMap<(QueueId, u64), u64>,
    /// Whose each client is.
    pub users: BTreeMap<String, String>,
    /// Mutations that waited or ran when it was asked to stop, by tag.
    pub arrived: BTreeSet<u64>,
    /// Those that had arrived then and were not read yet, with their connection: its session was held up.
    pub unread: BTreeMap<u64, u64>,
    /// The life of Postgres then, if it was there.
    pub stopped_in: Option<u64>,
    /// Those of older clients that had arrived then, or have since, read or not, by tag.
    pub arrived_of_older: BTreeSet<u64>,
    /// Whether mutations of older clients were given up because Postgres was away, or had forgotten who sends them.
    pub older_let_go: bool,
    /// Mutations that wait or run, by tag.
    pub pending: BTreeSet<u64>,
    /// Whether something was let go that waited.
    pub let_go: bool,
    /// What is not durable yet.
    pub log_queue: VecDeque<Logged>,
    pub writing: bool,
    /// The log is given free once that is empty.
    pub log_closing: bool,
    /// All has been said, and with the log the process ends.
    pub ends: bool,
    /// Nothing is left to be done.
    pub has_ended: bool,
    pub replicator: Replicator,
    pub feed: ServerFeed,
}

/// What a server's scheduler goes by, with so many connections to Postgres that apply mutations.
pub fn scheduler_options(connections: usize) -> SchedulerOptions {
    SchedulerOptions { connections, queue: MUTATION_QUEUE, bytes: 1 << 20 }
}

impl Default for Server {
    fn default() -> Server {
        let limits =
            ClientLimits { requests_per_minute: REQUESTS_PER_MINUTE, ..ClientLimits::default() };
        Server {
            life: 0,
            running: false,
            stopping: None,
            stop: None,
            generation: None,
            serving_since_ms: None,
            generations: 0,
            engines: Vec::new(),
            sessions: 0,
            connections: BTreeMap::new(),
            registry: Registry::new(limits.sessions_per_user, CLAIM_COLLECT),
            rate: Rate::new(limits.requests_per_minute),
            limits,
            scheduler: Scheduler::new(scheduler_options(1)),
            fairness: Fairness::default(),
            claims: 0,
            claimed: BTreeMap::new(),
            pushed: BTreeMap::new(),
            users: BTreeMap::new(),
            arrived: BTreeSet::new(),
            unread: BTreeMap::new(),
            arrived_of_older: BTreeSet::new(),
            older_let_go: false,
            stopped_in: None,
            pending: BTreeSet::new(),
            let_go: false,
            log_queue: VecDeque::new(),
            writing: false,
            log_closing: false,
            ends: false,
            has_ended: false,
            replicator: Replicator::default(),
            feed: ServerFeed::default(),
        }
    }
}

impl World {
    /// Whether something was meant for a server that is not there any more.
    pub fn is_gone(&self, at: At) -> bool {
        let server = &self.servers[at.server];
        !server.running || server.life != at.life
    }

    /// What time it is, for the cores.
    pub fn time(&self) -> Duration {
        Duration::from_millis(self.now_ms)
    }
}
