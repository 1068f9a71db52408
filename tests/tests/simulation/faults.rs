//! What goes wrong, and how it is mended again.

use rand::Rng;
use rowtide::stopping::{ServerStop, StopStage};
use rowtide_gateway::limits::STOP_PATIENCE;
use rowtide_gateway::scheduler::Scheduler;
use rowtide_protocol::Lsn;

use crate::breaks::Break;
use crate::data::USERS;
use crate::log::Logged;
use crate::network::Side;
use crate::postgres::Slot;
use crate::replicator::Job;
use crate::server::{Server, scheduler_options};
use crate::world::{At, Event, World};

impl World {
    pub fn fault(&mut self) {
        if !self.stormy {
            return;
        }
        let pause = self.rng.random_range(100..self.weather.pace_ms);
        self.after(pause, Event::Fault);
        let server = self.rng.random_range(0..self.servers.len());
        match self.rng.random_range(0..109) {
            0..45 => self.harm_connection(),
            45..55 => self.kill_server(server),
            55..63 => self.stop_server(server),
            63..68 if self.weather.clients_crash => {
                let client = self.rng.random_range(0..self.clients.len());
                self.crash_client(client);
            }
            68..76 => self.fill_disk(),
            76..79 => self.prune(),
            79..88 => self.restart_postgres(),
            88..90 if self.weather.epochs_end => self.promote_standby(),
            90..94 if self.weather.epochs_end => self.restore_copy(),
            94..96 if self.weather.epochs_end => self.lose_slot(),
            96..99 => self.stall_standby(),
            99..104 => self.slow_engine(server),
            104..107 => self.flood(),
            107..109 => self.storm_of_connects(server),
            _ => {}
        }
    }

    fn harm_connection(&mut self) {
        let ids: Vec<u64> = self.network.connections.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.rng.random_range(0..ids.len())];
        let side = if self.rng.random_bool(0.5) { Side::Client } else { Side::Server };
        if self.rng.random_bool(0.3) {
            self.seen.count("stalled connections");
            let until_ms = self.now_ms + self.rng.random_range(500..15_000);
            return self.network.stall(id, side, until_ms);
        }
        let both = self.rng.random_bool(0.6);
        self.seen.count(if both { "cut connections" } else { "half-closed connections" });
        for cut in [Side::Client, Side::Server] {
            if both || cut == side {
                let kept = self.rng.random_range(0..=self.network.under_way(id, cut));
                self.network.cut(id, cut, kept);
            }
            let heard = self.rng.random_range(0..15_000);
            self.after(heard, Event::Close(id, cut));
        }
    }

    pub fn start_server(&mut self, server: usize) {
        let state = &mut self.servers[server];
        if !std::mem::replace(&mut state.running, true) {
            state.life += 1;
            let options = scheduler_options(self.rng.random_range(1..=4));
            state.scheduler = Scheduler::new(options);
            let at = At { server, life: state.life };
            self.after(1, Event::Replicator(at, 0, Box::new(Job::Go)));
            self.after(1000, Event::Watch(at));
        }
    }

    fn kill_server(&mut self, server: usize) {
        if !self.servers[server].running {
            return;
        }
        self.seen.count("killed servers");
        self.say(|| format!("server {server} is killed"));
        self.process_ends(server);
        if self.weather.epochs_end && self.disk.holder.is_none() && self.rng.random_bool(0.03) {
            self.seen.count("replaced disks");
            self.disk.replace();
            self.may_end.insert("disk");
        }
    }

    /// The process ends, with whatever it has not done.
    fn process_ends(&mut self, server: usize) {
        // A write that was under way is durable up to somewhere.
        let queue = std::mem::take(&mut self.servers[server].log_queue);
        let of = |logged: &Logged| match logged {
            Logged::Events(events) => events.len(),
            Logged::Reshaped(..) | Logged::Note(_) => 1,
        };
        let all: usize = queue.iter().map(of).sum();
        let mut written = self.rng.random_range(0..=all);
        if written < all {
            self.seen.count("kills with a torn tail");
        }
        // On a full disk nothing of it is.
        for logged in queue {
            let some = of(&logged).min(written);
            written -= some;
            drop(match logged {
                Logged::Events(events) => self.disk.append(&events[..some]),
                Logged::Reshaped(..) | Logged::Note(_) if some == 0 => Ok(()),
                whole => self.disk.write(&whole),
            });
        }
        self.server_ends(server);
    }

    /// The process is gone; it is started again some time.
    fn server_ends(&mut self, server: usize) {
        let life = self.servers[server].life;
        let ids = self.network.connections.iter();
        let ids = ids.filter(|(_, c)| (c.server, c.server_life) == (server, life));
        let ids: Vec<u64> = ids.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.vanish(id, Side::Server));
        self.servers[server] = Server { life: life + 1, ..Server::default() };
        self.disk.holder.take_if(|holder| *holder == (server, life));
        let noticed = self.rng.random_range(1..3000);
        self.after(noticed, Event::WalsenderEnds(server, life));
        let delay = self.rng.random_range(100..5000);
        self.after(delay, Event::StartServer(server));
    }

    /// Stops in order: what has arrived is acknowledged, sessions are told, and what is queued for the log is
    /// written.
    fn stop_server(&mut self, server: usize) {
        let state = &mut self.servers[server];
        if !state.running || state.stopping.is_some() {
            return;
        }
        self.seen.count("stopped servers");
        let at = At { server, life: state.life };
        self.note_arrived(at);
        let fits = self.plan_of(at).is_some_and(|plan| plan.unfit.is_empty());
        let state = &mut self.servers[server];
        state.stopping = Some(self.now_ms);
        state.arrived.extend(&state.pending);
        // Whoever has found Postgres, a plan or a table away waits a while before it is tried again.
        let since_ms = self.postgres.up_since_ms.max(state.serving_since_ms.unwrap_or(u64::MAX));
        let steady = self.postgres.up && fits && self.now_ms.saturating_sub(since_ms) > 6_000;
        state.stopped_in = steady.then_some(self.postgres.life);
        if !state.scheduler.is_idle() {
            self.seen.count("stops with mutations in flight");
        }
        if self.broken == Some(Break::StopFirst) {
            let ids: Vec<u64> = self.servers[server].connections.keys().copied().collect();
            ids.into_iter().for_each(|id| self.drop_session(at, id));
            self.servers[server].scheduler = Server::default().scheduler;
        }
        // Nothing says who hears of it first.
        let sessions_first = self.rng.random_bool(0.5);
        if sessions_first {
            self.stop_sessions(at);
        }
        self.servers[server].scheduler.stop();
        self.start_mutations(at);
        if !sessions_first {
            self.stop_sessions(at);
        }
        self.servers[server].stop = Some(ServerStop::new(self.time()));
        self.after(20, Event::Stopping(at));
    }

    /// Goes on with a stop, if it is time.
    pub fn go_on_stopping(&mut self, at: At) {
        if self.is_gone(at) {
            return;
        }
        let server = &self.servers[at.server];
        let Some(stop) = server.stop else { return };
        let is_done = match stop.stage() {
            StopStage::Drains => server.connections.is_empty() && server.scheduler.is_idle(),
            // No documents are simulated.
            StopStage::Saves => true,
            StopStage::Ends | StopStage::Over => server.has_ended,
        };
        let next = stop.go_on(is_done, self.time());
        self.servers[at.server].stop = Some(next);
        match next.stage() {
            StopStage::Saves if stop.stage() == StopStage::Drains => match is_done {
                true => self.check_drained(at),
                false => self.seen.count("stops that took too long"),
            },
            StopStage::Ends if stop.stage() == StopStage::Saves => {
                self.end_engines(at);
                self.stop_replicator(at);
            }
            StopStage::Over => {
                if !is_done {
                    self.seen.count("stops with the log held up");
                }
                return self.process_ends(at.server);
            }
            StopStage::Drains | StopStage::Saves | StopStage::Ends => {}
        }
        self.after(20, Event::Stopping(at));
    }

    /// Nothing that had arrived is thrown away.
    fn check_drained(&self, at: At) {
        let server = &self.servers[at.server];
        let now = self.postgres.now();
        let unsettled = |tag: &&u64| !now.applied.contains(tag) && !now.refused.contains(tag);
        let lost = server.arrived.iter().find(unsettled);
        // A full queue or a rate may hold a session up for longer than a stop waits.
        let patience = STOP_PATIENCE.as_millis() as u64;
        let patient = server.stopping.is_some_and(|since| self.now_ms < since + patience);
        let lost = lost.or(server.unread.keys().filter(|_| patient).find(unsettled));
        // What a newer connection sends again, and what waits for a database that is away, may be left.
        let fine = server.let_go || server.stopped_in != Some(self.postgres.life);
        assert!(fine || lost.is_none(), "mutation {lost:?} had arrived, and is thrown away");
        // Older clients send nothing again.
        let lost = server.arrived_of_older.iter().find(unsettled);
        let fine = lost.is_none() || !self.keeps_older_promises(at);
        assert!(fine, "mutation {lost:?} of an older client is thrown away");
    }

    fn fill_disk(&mut self) {
        if !std::mem::replace(&mut self.disk.full, true) {
            self.seen.count("stretches of a full disk");
            let delay = self.rng.random_range(500..8000);
            self.after(delay, Event::EmptyDisk);
        }
    }

    /// The log lets go what is old, but not what is still needed to go on.
    fn prune(&mut self) {
        let confirmed = self.postgres.slot.map_or(Lsn(0), |slot| slot.confirmed);
        let needed = self.postgres.commits_behind(confirmed.min(self.postgres.all_visible_until()));
        self.seen.count("prunings");
        self.disk.prune(needed + self.rng.random_range(2..15));
    }

    fn restart_postgres(&mut self) {
        if !self.postgres.up {
            return;
        }
        self.seen.count("restarts of Postgres");
        self.postgres.stop();
        self.postgres_ends();
    }

    /// All clients of a user make very many mutations at once, large ones among them.
    fn flood(&mut self) {
        let user = USERS[self.rng.random_range(0..USERS.len())];
        let of_user = |client: &usize| {
            let client = &self.clients[*client];
            client.user == user && client.running && client.optimistic.pending().count() < 10
        };
        let theirs: Vec<usize> = (0..self.clients.len()).filter(of_user).collect();
        if theirs.is_empty() {
            return;
        }
        self.seen.count("floods of mutations");
        // As many as the user's rate lets through before everyone must be at rest.
        for number in 0..25 {
            self.mutate(theirs[number % theirs.len()], 5);
        }
    }

    /// A synchronous standby does not answer for a while: what is committed is streamed, and nobody sees it.
    fn stall_standby(&mut self) {
        if !self.postgres.up || std::mem::replace(&mut self.postgres.stalled, true) {
            return;
        }
        self.seen.count("stalls of a standby");
        let delay = self.rng.random_range(200..10_000);
        self.after(delay, Event::EndStall);
    }

    pub fn start_postgres(&mut self) {
        if !std::mem::replace(&mut self.postgres.up, true) {
            self.postgres.up_since_ms = self.now_ms;
        }
    }

    fn postgres_ends(&mut self) {
        self.walsender = None;
        let delay = self.rng.random_range(50..4000);
        self.after(delay, Event::StartPostgres);
    }

    /// A standby takes over that had not got the last commits, and has the slot, as it was some time ago, or
    /// has none.
    fn promote_standby(&mut self) {
        if !self.postgres.up {
            return;
        }
        self.seen.count("promoted standbys");
        let lost = self.rng.random_range(0..=self.postgres.commits().min(4));
        self.postgres.timeline += 1;
        let has_slot = self.rng.random_bool(0.6);
        self.fall_back(lost, has_slot);
    }

    /// A copy of the database from before takes its place, which lacks something that was streamed. That it
    /// is another is told by nothing but what it streams, so the log must have all that was.
    fn restore_copy(&mut self) {
        let current = self.epochs.get(&self.disk.epoch.0).map(|epoch| epoch.history)
            == Some(self.postgres.history());
        let streamed = self.postgres.streamed;
        let behind = self.postgres.commits_behind(streamed);
        let lost = behind + self.rng.random_range(1..4);
        let has_streamed = self.postgres.end_before(behind) == streamed;
        let durable = self.disk.end() >= streamed;
        let enough = lost <= self.postgres.commits();
        if !self.postgres.up || !current || !has_streamed || !durable || !enough {
            return;
        }
        self.seen.count("restored copies");
        self.fall_back(lost, true);
    }

    fn fall_back(&mut self, lost: usize, has_slot: bool) {
        self.say(|| format!("the database goes back by {lost} commits"));
        let before = std::sync::Arc::clone(self.postgres.now());
        let older = self.postgres.end_before(lost + self.rng.random_range(0..3));
        let slot = self.postgres.slot.filter(|_| has_slot);
        let slot = slot.map(|slot| Slot { confirmed: slot.confirmed.min(older), ..slot });
        self.postgres.fall_back(lost, slot);
        self.ledger.forget(&before, self.postgres.now());
        self.postgres_ends();
    }

    /// Postgres has thrown away what the slot needs, or someone has dropped it.
    fn lose_slot(&mut self) {
        let Some(slot) = &mut self.postgres.slot else { return };
        self.may_end.insert("slot");
        if self.rng.random_bool(0.5) {
            self.seen.count("lost slots");
            slot.lost = true;
        } else {
            self.seen.count("dropped slots");
            self.postgres.slot = None;
        }
        // The connection that had it is ended.
        self.walsender = None;
        for server in &mut self.servers {
            if let Some(stream) = &mut server.replicator.stream {
                stream.end();
            }
        }
    }
}
