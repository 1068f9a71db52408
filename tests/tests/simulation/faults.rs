//! What goes wrong, and how it is mended again.

use rand::Rng;
use rowtide_protocol::{ErrorCode, Lsn};

use crate::network::Side;
use crate::postgres::Slot;
use crate::server::Server;
use crate::world::{At, Event, World};

impl World {
    pub fn fault(&mut self) {
        if !self.stormy {
            return;
        }
        let pause = self.rng.random_range(100..self.weather.pace_ms);
        self.after(pause, Event::Fault);
        let server = self.rng.random_range(0..self.servers.len());
        match self.rng.random_range(0..104) {
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
            let at = At { server, life: state.life };
            self.after(1, Event::Replicate(at));
            self.after(1000, Event::Watch(at));
        }
    }

    fn kill_server(&mut self, server: usize) {
        if !self.servers[server].running {
            return;
        }
        self.seen.count("killed servers");
        self.say(|| format!("server {server} is killed"));
        // A write that was under way is durable up to somewhere.
        let queue = std::mem::take(&mut self.servers[server].log_queue);
        let written = self.rng.random_range(0..=queue.len());
        if written < queue.len() {
            self.seen.count("kills with a torn tail");
        }
        for entry in queue.iter().take(written) {
            if self.disk.append(entry).is_err() {
                break;
            }
        }
        self.server_ends(server);
        if self.weather.epochs_end && self.disk.holder.is_none() && self.rng.random_bool(0.03) {
            self.seen.count("replaced disks");
            self.disk.replace();
        }
    }

    /// The process is gone; it is started again some time.
    pub fn server_ends(&mut self, server: usize) {
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

    /// Stops in order: sessions are told, and what is queued for the log is written.
    fn stop_server(&mut self, server: usize) {
        let state = &mut self.servers[server];
        if !state.running || std::mem::replace(&mut state.stopping, true) {
            return;
        }
        self.seen.count("stopped servers");
        let at = At { server, life: state.life };
        state.stream = None;
        state.queues.clear();
        self.walsender.take_if(|walsender| *walsender == (server, at.life));
        let sessions: Vec<u64> = self.servers[server].sessions.keys().copied().collect();
        for session in sessions {
            self.end_session(at, session, Some(ErrorCode::Restarting));
        }
        if self.servers[server].log_queue.is_empty() {
            self.server_ends(server);
        }
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

    /// A synchronous standby does not answer for a while: what is committed is streamed, and nobody sees it.
    fn stall_standby(&mut self) {
        if !self.postgres.up || std::mem::replace(&mut self.postgres.stalled, true) {
            return;
        }
        self.seen.count("stalls of a standby");
        let delay = self.rng.random_range(200..10_000);
        self.after(delay, Event::EndStall);
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
        let durable = self.disk.end >= streamed;
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

    /// Postgres has thrown away what the slot needs.
    fn lose_slot(&mut self) {
        if self.postgres.slot.take().is_none() {
            return;
        }
        self.seen.count("lost slots");
        self.slot_was_lost = true;
        self.walsender = None;
        for server in 0..self.servers.len() {
            let at = At { server, life: self.servers[server].life };
            if self.servers[server].stream.take().is_some() {
                self.after(100, Event::Replicate(at));
            }
        }
    }
}
