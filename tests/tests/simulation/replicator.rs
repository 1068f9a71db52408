//! The shell around the replicator's own state machine: what it asks for takes its time and may fail, and its
//! effects are done to the simulated Postgres, disk and feed.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rowtide_feed::{EpochReason, Event as FeedEvent, LogExtent, ReplicatorStatus};
use rowtide_log::LogIdentity;
use rowtide_plan::compile::compile_partly;
use rowtide_plan::plan::Plan;
use rowtide_postgres::connect::Names;
use rowtide_postgres::sightings::Sightings;
use rowtide_postgres::slot::SystemIdentity;
use rowtide_postgres::watch::Observed;
use rowtide_protocol::Lsn;
use rowtide_replicator::limits::WATCH;
use rowtide_replicator::machine::{
    Core, Effect, Input, LogFailure, LogFound, LogRead, Looked, Next, SlotFound, StreamFailure,
    UnseenBehind, UnseenQuestion,
};
use rowtide_replicator::patience::Patience;

use crate::breaks::Break;
use crate::checks::EpochFacts;
use crate::data::{TABLES, definition};
use crate::log::Logged;
use crate::stream::Stream;
use crate::world::{At, Event, World};

/// What a server's replicator has outside of its state machine.
pub struct Replicator {
    core: Core,
    /// What it waits for, by number: an answer to anything else is of the past.
    asked: u64,
    /// When it tried since something came.
    pub fruitless: VecDeque<u64>,
    /// It takes what the stream brings.
    streaming: bool,
    pub stream: Option<Stream>,
    /// The history of Postgres that it is connected to, or was last.
    history: usize,
    /// Everything before was looked at, and nothing was different that matters.
    looked_at: Lsn,
    /// The stream is to go over to a later plan, and has not come there.
    switching: bool,
    /// In this history of Postgres: another has the same positions for other commits.
    looked_in: usize,
    /// What the watch has seen, by which transactions were running.
    sightings: Sightings<(u64, Vec<u64>), Observed>,
    patience: Patience,
    /// Until then no connection is to be had for a look, or it hangs.
    hangs_until_ms: u64,
    pub refused: BTreeSet<usize>,
}

impl Default for Replicator {
    fn default() -> Replicator {
        Replicator {
            core: Core::new(Names {
                slot: "slot".to_owned(),
                publication: "publication".to_owned(),
                schema: "rowtide".to_owned(),
            }),
            asked: 0,
            fruitless: VecDeque::new(),
            streaming: false,
            stream: None,
            history: 0,
            looked_at: Lsn(0),
            switching: false,
            looked_in: 0,
            sightings: Sightings::default(),
            patience: Patience::new(Duration::ZERO),
            hangs_until_ms: 0,
            refused: BTreeSet::new(),
        }
    }
}

/// What is carried out for a replicator, a while after it was asked for.
#[derive(Debug)]
pub enum Job {
    Go,
    Observe,
    Compile(Box<Observed>, Lsn),
    MakeSlot { anew: bool, postgres_life: Option<u64> },
    Connect(Arc<Plan>),
    OpenLog(LogIdentity),
    ReadLog(Lsn),
    LookForUnseen(UnseenQuestion),
    BeginEpoch(LogIdentity, Lsn),
    Stream,
}

impl World {
    /// Which server, in which of its lives, streams.
    fn is_streaming_for(&self, at: At) -> bool {
        self.walsender == Some((at.server, at.life))
    }

    /// Tells the state machine something, and does what it wants.
    pub fn step_replicator(&mut self, at: At, input: Input) {
        if self.is_gone(at) {
            return;
        }
        let looked = matches!(input, Input::Looked(Ok(_)) | Input::Observed(_));
        let step = self.servers[at.server].replicator.core.step(input);
        for effect in step.effects {
            self.perform(at, effect);
        }
        match step.next {
            Some(next) => self.ask(at, next),
            // It goes on as before, so nothing that was seen matters to what clients hold.
            None if looked => self.nothing_has_changed(at),
            None => {}
        }
    }

    fn nothing_has_changed(&mut self, at: At) {
        let Replicator { looked_at, looked_in, history, switching, .. } =
            self.servers[at.server].replicator;
        if looked_in != history || switching {
            return;
        }
        if self.disk.holder == Some((at.server, at.life))
            && let Some(epoch) = self.epochs.get_mut(&self.disk.epoch.0)
        {
            let last = epoch.reshaped.last_mut().map(|(_, read_at)| read_at);
            let read_at = last.unwrap_or(&mut epoch.read_at);
            *read_at = looked_at.max(*read_at);
        }
    }

    fn ask(&mut self, at: At, next: Next) {
        let quick = self.rng.random_range(1..40);
        let (delay, job) = match next {
            Next::Wait(pause) => {
                let mut pause = pause.as_millis() as u64;
                if self.broken == Some(Break::NoBackOff) {
                    pause = 100;
                }
                (self.rng.random_range(pause / 2..=pause), Job::Go)
            }
            Next::Look => (quick, Job::Observe),
            Next::MakeSlot { anew } => (quick, Job::MakeSlot { anew, postgres_life: None }),
            Next::Connect(plan) => (quick, Job::Connect(plan)),
            Next::OpenLog(identity) => (quick, Job::OpenLog(identity)),
            Next::ReadLog { behind } => (quick, Job::ReadLog(behind)),
            Next::LookForUnseen(question, pause) => {
                (quick + pause.as_millis() as u64, Job::LookForUnseen(question))
            }
            // The disk has it as the log's files have it.
            Next::EndLog(identity) => (quick, Job::BeginEpoch(identity, Lsn(0))),
            Next::BeginEpoch(identity, position) => (quick, Job::BeginEpoch(identity, position)),
            Next::Stream => (1, Job::Stream),
        };
        let now = self.time();
        let replicator = &mut self.servers[at.server].replicator;
        replicator.streaming = matches!(job, Job::Stream);
        if !replicator.streaming {
            // Another watch begins with the next stream.
            replicator.sightings.forget();
            replicator.patience = Patience::new(now);
        }
        replicator.asked += 1;
        let asked = replicator.asked;
        self.after(delay, Event::Replicator(at, asked, Box::new(job)));
    }

    /// Carries out what was asked for; what cannot be answered yet is looked at again.
    pub fn work_for_replicator(&mut self, at: At, asked: u64, job: Job) {
        if self.is_gone(at) || self.servers[at.server].replicator.asked != asked {
            return;
        }
        let again = |world: &mut World, delay: u64, job: Job| {
            world.after(delay, Event::Replicator(at, asked, Box::new(job)));
        };
        let away = || "Postgres is away".to_owned();
        let up = self.postgres.up;
        let input = match job {
            Job::Go => {
                self.note_try(at);
                Input::Go
            }
            Job::Observe if up => {
                let observed = Box::new(self.postgres.observe());
                let seen_to = self.postgres.all_visible_until();
                let delay = self.rng.random_range(1..20);
                return again(self, delay, Job::Compile(observed, seen_to));
            }
            Job::Compile(observed, seen_to) if up => {
                let looked_in = self.postgres.history();
                let replicator = &mut self.servers[at.server].replicator;
                (replicator.looked_at, replicator.looked_in) = (seen_to, looked_in);
                Input::Looked(Ok(Box::new(self.compile(*observed))))
            }
            Job::Observe | Job::Compile(..) => Input::Looked(Err(away())),
            Job::MakeSlot { anew, postgres_life } => {
                let life = postgres_life.unwrap_or(self.postgres.life);
                if !up || life != self.postgres.life {
                    Input::SlotMade(Err(away()))
                } else if self.postgres.slot.is_some() && !anew {
                    Input::SlotMade(Ok(()))
                } else if self.postgres.slot.is_some() && self.walsender.is_some() {
                    Input::SlotMade(Err("the slot is in use".to_owned()))
                } else {
                    self.postgres.slot = None;
                    if !self.postgres.create_slot() {
                        self.seen.count("waits for transactions to make a slot");
                        let job = Job::MakeSlot { anew, postgres_life: Some(life) };
                        return again(self, 20, job);
                    }
                    self.say(|| format!("server {} makes the slot", at.server));
                    Input::SlotMade(Ok(()))
                }
            }
            Job::Connect(plan) => {
                // All that was handed to the log is in it first.
                if !self.servers[at.server].log_queue.is_empty() {
                    return again(self, 30, Job::Connect(plan));
                }
                Input::Connected(self.connect_stream(at, plan))
            }
            Job::OpenLog(identity) => Input::LogOpened(self.open_log(at, identity)),
            Job::ReadLog(behind) => {
                let (expected, recent) = (self.disk.committed(behind), self.disk.recent());
                self.seen.count("logs read");
                Input::LogRead(Ok(LogRead { expected, recent }))
            }
            Job::LookForUnseen(_) if !up => Input::Unseen(Err(away())),
            Job::LookForUnseen(question) => {
                let end =
                    matches!(question, UnseenQuestion::BeforeEnd).then_some(self.postgres.wal_end);
                let unseen = match question {
                    UnseenQuestion::BeforeEnd | UnseenQuestion::Now => self.postgres.unseen(None),
                    UnseenQuestion::Still(xids) => self.postgres.unseen(Some(&xids)),
                };
                if unseen.iter().any(|unseen| unseen.waits) {
                    self.seen.count("waits for what is committed and unseen");
                }
                if self.broken == Some(Break::EpochAtConfirmed) {
                    let end = end.and(self.postgres.slot.map(|slot| slot.confirmed));
                    let unseen = Vec::new();
                    let behind = UnseenBehind { end: end.or(Some(Lsn(0))), unseen };
                    return self.step_replicator(at, Input::Unseen(Ok(behind)));
                }
                Input::Unseen(Ok(UnseenBehind { end, unseen }))
            }
            Job::BeginEpoch(identity, position) => {
                // One thread does both, in order.
                if !self.servers[at.server].log_queue.is_empty() {
                    return again(self, 30, Job::BeginEpoch(identity, position));
                }
                match self.disk.begin(identity.clone(), position) {
                    Ok(epoch) => {
                        if position == Lsn(0) {
                            // Whoever finds it, and does not know why, finds no more than that.
                            self.ended_by = Some(at);
                        }
                        Input::EpochBegan(Some(epoch))
                    }
                    Err(crate::disk::Full) => {
                        return again(self, 300, Job::BeginEpoch(identity, position));
                    }
                }
            }
            Job::Stream => return self.take_from_stream(at, asked),
        };
        self.step_replicator(at, input);
    }

    fn compile(&mut self, observed: Observed) -> Looked {
        let catalog = self.postgres.read_catalog(&observed);
        let (plan, rejected) = compile_partly(&definition(), &catalog);
        let rejected = rejected.into_iter().map(|(table, why)| (table, why.to_string())).collect();
        let (plan, unwritable, own) = (Arc::new(plan), Vec::new(), Vec::new());
        let wal_end = self.postgres.wal_end;
        // What is behind it comes soon.
        self.postgres.write_other_wal();
        Looked { observed, plan, rejected, unwritable, own, system: self.system(), wal_end }
    }

    fn system(&self) -> SystemIdentity {
        SystemIdentity { cluster: 1, database: 1, timeline: self.postgres.timeline }
    }

    fn connect_stream(&mut self, at: At, plan: Arc<Plan>) -> Result<SlotFound, StreamFailure> {
        if !self.postgres.up {
            return Err(StreamFailure::Ended("Postgres is away".to_owned()));
        }
        let slot = self.postgres.slot;
        let slot = slot.ok_or_else(|| StreamFailure::SlotMissing("there is no slot".to_owned()))?;
        if slot.lost {
            return Err(StreamFailure::SlotLost("the slot is lost".to_owned()));
        }
        if self.walsender.is_some() && !self.is_streaming_for(at) {
            self.seen.count("looks of a standby");
            self.servers[at.server].replicator.fruitless.clear();
            return Err(StreamFailure::SlotTaken("another has the slot".to_owned()));
        }
        self.walsender = Some((at.server, at.life));
        let (confirmed, wal_ends) = (slot.confirmed, self.postgres.wal_end);
        let stream = Stream::new(plan, confirmed, self.postgres.life);
        let history = self.postgres.history();
        let replicator = &mut self.servers[at.server].replicator;
        (replicator.stream, replicator.history) = (Some(stream), history);
        let remembers_partitions = self.postgres.remembers_partitions;
        Ok(SlotFound { confirmed, wal_ends, system: self.system(), remembers_partitions })
    }

    fn open_log(&mut self, at: At, identity: LogIdentity) -> Result<LogFound, LogFailure> {
        let me = (at.server, at.life);
        if self.disk.holder.is_some_and(|holder| holder != me) {
            self.seen.count("looks of a standby");
            // It waits for another, and looks often.
            self.servers[at.server].replicator.fruitless.clear();
            return Err(LogFailure::Taken("another has the log".to_owned()));
        }
        let opened = self.disk.holder.replace(me).is_none();
        let broken = self.disk.identity.is_none().then_some(EpochReason::NewLog);
        if opened && broken.is_none() {
            self.seen.count("logs taken up");
        }
        let of = self.disk.identity.clone().unwrap_or(identity);
        let (epoch, oldest, durable) = (self.disk.epoch, self.disk.begins, self.disk.end());
        let extent = (durable > Lsn(0)).then_some(LogExtent { oldest, durable });
        let seen = if opened { self.disk.seen() } else { None };
        Ok(LogFound { of, epoch, extent, broken, seen })
    }

    pub fn perform(&mut self, at: At, effect: Effect) {
        match effect {
            Effect::Status(status) => {
                if let ReplicatorStatus::Waiting(why) = &status {
                    self.say(|| format!("server {} waits: {why}", at.server));
                }
                self.servers[at.server].feed.publisher.update(|state| {
                    let news = state.status != status;
                    state.status = status;
                    news
                });
            }
            Effect::Rejected(refused) => {
                let number = |(name, _): &(String, _)| TABLES.iter().position(|t| t == name);
                let numbers = refused.iter().filter_map(number).collect();
                self.servers[at.server].replicator.refused = numbers;
                self.servers[at.server].feed.publisher.update(|state| {
                    let news = state.rejected_tables != refused;
                    state.rejected_tables = refused;
                    news
                });
            }
            Effect::Incomplete(incomplete) => {
                self.servers[at.server].feed.publisher.update(|state| {
                    let news = state.incomplete != incomplete;
                    state.incomplete = incomplete;
                    news
                });
            }
            Effect::Begin(mut generation, newest) => {
                if self.broken == Some(Break::RecentLost) {
                    generation.recent.clear();
                }
                self.say(|| format!("server {} begins at {}", at.server, generation.position));
                if newest.is_some() {
                    self.seen.count("columns added while no server ran");
                }
                self.begin_generation(at, generation, newest);
            }
            Effect::EndGeneration => self.end_generation(at),
            Effect::HandOn(events) => {
                self.servers[at.server].log_queue.push_back(Logged::Events(Arc::clone(&events)));
                self.write_later(at);
                if self.broken == Some(Break::ConfirmBeforeDurable)
                    && let Some(stream) = &mut self.servers[at.server].replicator.stream
                {
                    stream.confirmed = events.iter().filter_map(FeedEvent::lsn).max();
                }
                self.publish(at, events);
            }
            Effect::Switch { at: position, plan } => {
                let replicator = &mut self.servers[at.server].replicator;
                if let Some(stream) = &mut replicator.stream {
                    stream.switch(position, plan);
                    replicator.switching = true;
                }
            }
            Effect::Reshape { of, plan, event } => {
                self.seen.count("tables with more columns and no epoch");
                self.say(|| format!("server {} goes over to {event:?}", at.server));
                let looked_at = self.servers[at.server].replicator.looked_at;
                let facts = self.epochs.get_mut(&self.disk.epoch.0);
                if let (Some(facts), Some(lsn)) = (facts, event.lsn()) {
                    facts.reshaped.push((lsn, looked_at));
                }
                self.write_at_once(at, Logged::Reshaped(of, event.clone()));
                let server = &mut self.servers[at.server];
                server.replicator.switching = false;
                server.feed.publisher.reshape(plan, event);
                for engine in 0..self.servers[at.server].engines.len() {
                    self.wake_engine(at, engine);
                }
            }
            Effect::KeepLook(observed) => {
                self.servers[at.server].log_queue.push_back(Logged::Note(observed));
                self.write_later(at);
            }
            Effect::Publish(events) => self.publish(at, events),
            Effect::Confirm(lsn) => {
                if let Some(stream) = &mut self.servers[at.server].replicator.stream {
                    stream.confirmed = Some(lsn);
                }
            }
            Effect::Disconnect => {
                self.servers[at.server].replicator.switching = false;
                let stream = self.servers[at.server].replicator.stream.take();
                if let Some(stream) = stream.filter(|_| self.is_streaming_for(at)) {
                    self.walsender = None;
                    // It is told what is confirmed, unless that is lost.
                    if stream.is_of(&self.postgres) && self.rng.random_bool(0.9) {
                        stream.tell_confirmed(&mut self.postgres);
                    }
                }
            }
            Effect::CloseLog => self.close_log(at),
            Effect::EpochBegan { reason, position } => self.epoch_began(at, reason, position),
            Effect::Info(text) | Effect::Warn(text) | Effect::Error(text) => {
                self.say(|| format!("server {}: {text}", at.server));
            }
        }
    }

    fn epoch_began(&mut self, at: At, reason: EpochReason, position: Lsn) {
        self.servers[at.server].replicator.switching = false;
        let epoch = self.disk.epoch;
        let read_at = self.servers[at.server].replicator.looked_at;
        self.say(|| {
            format!(
                "server {} begins {epoch:?} at {position}, as of {read_at}: {reason}",
                at.server
            )
        });
        self.seen.count("epochs");
        self.seen.count(reason.as_str());
        let replicator = &self.servers[at.server].replicator;
        let history = replicator.history;
        let of_this = replicator.looked_in == history;
        let read_at = if of_this { replicator.looked_at } else { Lsn(0) };
        let refused = replicator.refused.clone();
        let facts = EpochFacts { history, refused, read_at, reshaped: Vec::new() };
        self.check_that_an_epoch_may_end(at, reason);
        self.epochs.insert(epoch.0, facts);
        self.last_epoch = Some(epoch.0);
    }

    /// Who tries again and again, and gets nothing, must do so ever more seldom.
    fn note_try(&mut self, at: At) {
        let now_ms = self.now_ms;
        let fruitless = &mut self.servers[at.server].replicator.fruitless;
        fruitless.push_back(now_ms);
        while fruitless.front().is_some_and(|then| then + 10_000 < now_ms) {
            fruitless.pop_front();
        }
        assert!(fruitless.len() <= 20, "it tries again and again, and gets nothing");
    }

    /// Looks again, if something was committed since.
    pub fn watch(&mut self, at: At) {
        if self.is_gone(at) {
            return;
        }
        self.after(WATCH.as_millis() as u64, Event::Watch(at));
        self.watch_now(at);
    }

    pub fn watch_now(&mut self, at: At) {
        if matches!(self.broken, Some(Break::NoWatch | Break::SwallowedChange)) {
            return;
        }
        if !self.servers[at.server].replicator.streaming {
            return;
        }
        if self.stormy && self.rng.random_bool(0.03) {
            let until_ms = self.now_ms + self.rng.random_range(500..20_000);
            self.servers[at.server].replicator.hangs_until_ms = until_ms;
        }
        let now = self.time();
        let running = self.postgres.running();
        let seen_to = self.postgres.all_visible_until();
        let looked_in = self.postgres.history();
        let replicator = &mut self.servers[at.server].replicator;
        if !self.postgres.up || self.stormy && self.now_ms < replicator.hangs_until_ms {
            // The next look is over another connection.
            replicator.sightings.forget();
            if replicator.patience.failed(now) {
                self.seen.count("tables that cannot be looked at");
                self.step_replicator(at, Input::Blind("it hangs".to_owned()));
            }
            return;
        }
        replicator.patience.saw(now);
        if !replicator.sightings.may_differ(&running) {
            return;
        }
        let observed = self.postgres.observe();
        (replicator.looked_at, replicator.looked_in) = (seen_to, looked_in);
        match replicator.sightings.saw(running, observed).cloned() {
            Some(news) => self.step_replicator(at, Input::Observed(Box::new(news))),
            None => self.nothing_has_changed(at),
        }
    }

    /// Ends in order: the slot and the log are free for others once what is queued is durable.
    pub fn stop_replicator(&mut self, at: At) {
        let replicator = &mut self.servers[at.server].replicator;
        (replicator.asked, replicator.streaming) = (replicator.asked + 1, false);
        let effects = replicator.core.stop();
        // One that stands by gives the log free, too, also while it stops.
        self.servers[at.server].ends = true;
        effects.into_iter().for_each(|effect| self.perform(at, effect));
    }
}
