//! Very many sockets that connect and close at once, and what is left of them: nothing.

use rand::Rng;
use rowtide_engine::Counts;

use crate::data::USERS;
use crate::network::Side;
use crate::world::{At, World};

/// How many come in the midst of other faults.
const SOME: usize = 30;
/// How many come to a server at rest.
const MANY: usize = 300;
/// Within this every connection that was lost is known to be.
const QUIET_MS: u64 = 20_000;
/// Within this they have gone, and nothing is left.
const GONE_WITHIN_MS: u64 = 60_000;

/// What a server holds of its clients.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    /// The sessions, views and topics of each engine.
    engines: Vec<(usize, usize, usize)>,
    /// The connections that have a send queue, and all.
    connections: (usize, usize),
    /// The connections of these users, as the registry counts them.
    registered: usize,
}

impl World {
    fn held(&self, server: usize, users: &[String]) -> Held {
        let server = &self.servers[server];
        let engine = |thread: &crate::engines::EngineThread| {
            let Counts { sessions, views, topics, .. } = thread.worker.engine().counts();
            (sessions, views, topics)
        };
        let with_queue = server.connections.values().filter(|c| c.has_send_queue()).count();
        Held {
            engines: server.engines.iter().map(engine).collect(),
            connections: (with_queue, server.connections.len()),
            registered: users.iter().map(|user| server.registry.sessions_of(user)).sum(),
        }
    }

    fn ghosts(&mut self, server: usize, users: &[String], count: usize) -> Vec<u64> {
        self.seen.count("storms of connects");
        let life = self.servers[server].life;
        let ghost = |number: usize| {
            let id = self.network.open(0, server, life);
            let user = &users[number % users.len()];
            let client = format!("ghost-{number}-of-{user}");
            let connect = serde_json::json!({
                "type": "connect", "protocol": 1, "clientId": client, "token": user
            });
            self.send(id, Side::Server, connect.to_string().into_bytes());
            // It goes before it has got anything, or soon after.
            let late_ms = self.now_ms + self.rng.random_range(0..150);
            self.network.stall(id, Side::Server, late_ms);
            self.end_connection(id, Side::Client);
            id
        };
        (0..count).map(ghost).collect()
    }

    /// Some connect as people who are there already.
    pub fn storm_of_connects(&mut self, server: usize) {
        let state = &self.servers[server];
        if state.running && state.stopping.is_none() {
            self.ghosts(server, &USERS.map(str::to_owned), SOME);
        }
    }

    /// Many come to a server that serves, as people whom nobody knows, and go. What the server holds is what it held.
    pub fn storm_at_rest(&mut self) {
        let serves = |server: &usize| self.servers[*server].generation.is_some();
        let Some(server) = (0..self.servers.len()).find(serves) else { return };
        let guests = (0..MANY).map(|number| format!("guest-{number}"));
        let users: Vec<String> = USERS.map(str::to_owned).into_iter().chain(guests).collect();
        // Who is gone, and not known to be, goes first.
        let quiet = self.now_ms + QUIET_MS;
        while self.now_ms < quiet {
            self.step();
        }
        let before = self.held(server, &users);
        let at = At { server, life: self.servers[server].life };
        let ghosts = self.ghosts(server, &users[USERS.len()..], MANY);
        let mut most = 0;
        let latest = self.now_ms + GONE_WITHIN_MS;
        let is_gone = |world: &World| {
            let arrived = ghosts.iter().all(|id| !world.network.connections.contains_key(id));
            arrived && world.servers[server].engines.iter().all(|thread| thread.inbox.is_empty())
        };
        while !is_gone(self) {
            assert!(self.now_ms < latest && !self.is_gone(at), "a storm does not end");
            self.step();
            let of_engines = &self.servers[server].engines;
            let views = of_engines.iter().map(|thread| thread.worker.engine().counts().views);
            most = most.max(views.sum::<usize>());
        }
        let after = self.held(server, &users);
        assert_eq!(after, before, "nobody is there any more of a storm");
        self.seen.count("storms at rest");
        if most > MANY / 10 {
            self.seen.count("views of a storm");
        }
    }
}
