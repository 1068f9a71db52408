//! What serves one connection: the gateway's own session, whose effects are carried over the simulated network,
//! as its shell carries them over a socket.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use futures_util::FutureExt;
use rand::Rng;
use rowtide_engine::SessionId;
use rowtide_gateway::auth::Identity;
use rowtide_gateway::claiming::{Answer as ClaimAnswer, ClaimBatch, ClaimedIds, known_at_once};
use rowtide_gateway::conversation::{ClaimRequest, Effect, Ending, Input, NoClaim};
use rowtide_gateway::limits::{CLAIM_BATCH, CLAIM_TIMEOUT, OPEN_TIMEOUT};
use rowtide_gateway::listening::Listening;
use rowtide_gateway::opening::{self, Entrance};
use rowtide_gateway::registry::ConnectionId;
use rowtide_gateway::scheduler::{Broken, QueueId};
use rowtide_gateway::send_queue::{Delivery, SendQueue};
use rowtide_gateway::session::Session;
use rowtide_gateway::worker::EngineArrival;
use rowtide_gateway::{NotServing, Now, OpenRequest, Outlet};
use rowtide_legacy::OlderSession;
use rowtide_postgres::client_registry::{Claimed, Outcomes, Wanted};
use rowtide_postgres::mutate::Author;
use rowtide_protocol::Lsn;

use crate::breaks::Break;
use crate::data::claims_of;
use crate::network::{Parcel, Side};
use crate::postgres::{Claim, refusal};
use crate::speaker::{Said, Speaker};
use crate::world::{At, Event, World};

/// How many bytes of changes may wait for a client that does not read.
const SEND_QUEUE_BYTES: usize = 3_000;
/// How much may be on its way on one connection.
const UNDER_WAY: usize = 6;

pub struct Connection {
    pub session: Speaker,
    /// Whose it is, once that is asked for.
    pub client: Option<ClaimRequest>,
    pub entry: Option<ConnectionId>,
    /// The engine's session: of which generation and engine.
    pub engine: Option<(u64, usize, SessionId)>,
    outlet: Option<Outlet>,
    pub queue: Option<QueueId>,
    /// What has arrived and is not read.
    pub inbox: VecDeque<String>,
    draining: bool,
    /// When the clock is due that was set for it.
    clock_ms: u64,
    /// What is read of its client.
    pub listening: Listening,
    /// A tab of an older client has asked what became of what it sent before.
    pub has_asked: bool,
    /// What was taken of an older client, and not told it yet, by tag.
    pub taken: BTreeSet<u64>,
}

impl Connection {
    /// Whether something may wait for its client.
    pub fn has_send_queue(&self) -> bool {
        self.outlet.is_some()
    }
}

fn identity_of(user_id: String) -> Identity {
    let claims = claims_of(&user_id);
    let author = Arc::new(Author { user_id, claims });
    Identity { author, expires_at_s: 1 << 40 }
}

/// What a session asked for, and waits for.
#[derive(Debug)]
pub enum Answer {
    Token(String),
    Open(OpenRequest, u64),
}

impl World {
    fn now(&self) -> Now {
        Now { time: self.time(), unix: self.time() }
    }

    /// A connection is there: the session begins.
    fn begin_session(&mut self, at: At, id: u64) {
        let (now, plan) = (self.now(), self.plan_of(at));
        let older = self.older_tab(id);
        let server = &mut self.servers[at.server];
        let session = match older {
            None => Speaker::Session(Box::new(Session::new(server.limits, None, plan, &now))),
            Some((user, tab)) => {
                let identity = identity_of(user.to_owned());
                Speaker::Older(Box::new(OlderSession::new(server.limits, identity, &tab, plan)))
            }
        };
        let connection = Connection {
            session,
            client: None,
            entry: None,
            engine: None,
            outlet: None,
            queue: None,
            inbox: VecDeque::new(),
            draining: false,
            clock_ms: u64::MAX,
            listening: Listening::default(),
            has_asked: false,
            taken: BTreeSet::new(),
        };
        server.connections.insert(id, connection);
        self.step_session(at, id, Input::Begin);
    }

    /// Something has arrived from a client.
    pub fn server_receives(&mut self, at: At, id: u64, parcel: Parcel) {
        if self.servers[at.server].stopping.is_some()
            && !self.servers[at.server].connections.contains_key(&id)
        {
            // Nobody listens any more.
            return self.end_connection(id, Side::Server);
        }
        if !self.servers[at.server].connections.contains_key(&id) {
            self.begin_session(at, id);
        }
        match parcel {
            Parcel::Text(text) => {
                if let Some(connection) = self.servers[at.server].connections.get_mut(&id) {
                    connection.inbox.push_back(text);
                }
                self.read(at, id);
            }
            Parcel::Pong => self.step_session(at, id, Input::Heard),
            Parcel::Ping => {}
            Parcel::End => {
                self.let_go_unread(at, id);
                self.drop_session(at, id);
            }
        }
    }

    /// Reads what has arrived, as far as the session reads.
    fn read(&mut self, at: At, id: u64) {
        loop {
            let Some(connection) = self.servers[at.server].connections.get_mut(&id) else { return };
            if !connection.listening.is_open(connection.session.reads()) {
                return;
            }
            let Some(text) = connection.inbox.pop_front() else { return };
            self.step_session(at, id, Input::Text(&text));
        }
    }

    /// One input for a session, with all that follows from it at once.
    pub fn step_session(&mut self, at: At, id: u64, input: Input<'_, Said>) {
        let now = self.now();
        let mut effects = Vec::new();
        let Some(connection) = self.servers[at.server].connections.get_mut(&id) else { return };
        connection.session.step(input, &now, &mut effects);
        let mut inputs: VecDeque<Input<'static, Said>> = VecDeque::new();
        loop {
            for effect in std::mem::take(&mut effects) {
                if !self.carry(at, id, effect, &mut inputs) {
                    return;
                }
            }
            let Some(input) = inputs.pop_front() else { break };
            let Some(connection) = self.servers[at.server].connections.get_mut(&id) else { return };
            connection.session.step(input, &now, &mut effects);
        }
        self.set_clock(at, id);
        // It may read again.
        self.after(0, Event::Read(at, id));
    }

    pub fn read_later(&mut self, at: At, id: u64) {
        if !self.is_gone(at) {
            self.read(at, id);
        }
    }

    fn set_clock(&mut self, at: At, id: u64) {
        let Some(connection) = self.servers[at.server].connections.get_mut(&id) else { return };
        if connection.listening.is_over() {
            return;
        }
        let Some(deadline) = connection.session.deadline() else { return };
        let deadline_ms = (deadline.as_micros().div_ceil(1000) as u64).max(self.now_ms);
        if deadline_ms < connection.clock_ms {
            connection.clock_ms = deadline_ms;
            self.after(deadline_ms - self.now_ms, Event::Clock(at, id));
        }
    }

    pub fn clock(&mut self, at: At, id: u64) {
        if self.is_gone(at) {
            return;
        }
        let now = self.time();
        let Some(connection) = self.servers[at.server].connections.get_mut(&id) else { return };
        connection.clock_ms = u64::MAX;
        if connection.listening.is_over() {
            return;
        }
        if connection.session.deadline().is_some_and(|deadline| deadline <= now) {
            self.step_session(at, id, Input::Clock);
        } else {
            self.set_clock(at, id);
        }
    }

    /// Carries out an effect; whether the session goes on.
    fn carry(
        &mut self,
        at: At,
        id: u64,
        effect: Effect,
        inputs: &mut VecDeque<Input<'static, Said>>,
    ) -> bool {
        match effect {
            Effect::Send(frame) => {
                if self.older_tab(id).is_some() {
                    self.note_told(at, id, std::str::from_utf8(&frame).expect("frames are text"));
                }
                self.send(id, Side::Client, frame.to_vec());
            }
            Effect::SendDeflated { bytes, text_bytes } => {
                self.seen.count("deflated frames");
                let text = rowtide_protocol::inflate(&bytes, text_bytes).expect("a deflated text");
                self.send(id, Side::Client, text.into_bytes());
            }
            Effect::Ping => self.send_parcel(id, Side::Client, Parcel::Ping),
            Effect::CheckToken(token) => {
                let delay = self.rng.random_range(0..5);
                self.after(delay, Event::Answer(at, id, Box::new(Answer::Token(token))));
            }
            Effect::Claim(request) => self.claim(at, id, request, inputs),
            Effect::Open(request) => {
                let most = if self.older_tab(id).is_some() { 1_000 } else { 5 };
                let delay = self.rng.random_range(0..most);
                let until_ms = self.now_ms + OPEN_TIMEOUT.as_millis() as u64;
                let answer = Box::new(Answer::Open(request, until_ms));
                self.after(delay, Event::Answer(at, id, answer));
            }
            Effect::Subscribe(wanted) => {
                self.tell_engine(at, id, |session| EngineArrival::Subscribe(session, wanted));
            }
            Effect::Unsubscribe(no_more) => {
                self.tell_engine(at, id, |session| EngineArrival::Unsubscribe(session, no_more));
            }
            Effect::Heard => self.heard(at, id),
            Effect::Limited(_) | Effect::CountSubscription(_) | Effect::HasSubscriptions(_) => {}
            Effect::Rate(author, operations, longest) => {
                let now = self.time();
                let rate = &mut self.servers[at.server].rate;
                let verdict = rate.take(&author.user_id, operations, now, longest);
                if verdict != rowtide_gateway::rate::Verdict::Now {
                    self.seen.count("rates that are passed");
                }
                inputs.push_back(Input::Rated(verdict));
            }
            Effect::Push(mutation) => {
                if let Err(mutation) = self.push_mutation(at, id, *mutation) {
                    self.seen.count("full queues");
                    inputs.push_back(Input::Full(Box::new(mutation)));
                }
            }
            Effect::AskOutcomes(tab) => {
                let delay = self.rng.random_range(1..20);
                self.after(delay, Event::Outcomes(at, id, Box::new(tab)));
            }
            Effect::NoteTold(told) => {
                let delay = self.rng.random_range(1..20);
                self.after(delay, Event::Told(at, told));
            }
            Effect::RateOfOrigin => panic!("everybody has a token here"),
            Effect::CountRejection(_) => {}
            Effect::End(ending) => {
                // What ends for another reason than the stop may leave what had arrived: its client comes back and
                // sends that again.
                if ending != Some(Ending::stopping()) {
                    self.let_go_unread(at, id);
                }
                match ending {
                    Some(ending) => self.say_goodbye(at, id, &ending),
                    None => self.drop_session(at, id),
                }
                return false;
            }
        }
        true
    }

    /// Tells the engine of a session something about it, if these are the engines that it is in.
    fn tell_engine(
        &mut self,
        at: At,
        id: u64,
        make: impl FnOnce(SessionId) -> EngineArrival<Outlet>,
    ) {
        let server = &self.servers[at.server];
        let Some(connection) = server.connections.get(&id) else { return };
        if let Some((generations, engine, session)) = connection.engine
            && generations == server.generations
        {
            self.give(at, engine, make(session));
        }
    }

    /// The connection is over, as far as the server knows.
    pub fn drop_session(&mut self, at: At, id: u64) {
        self.leave_view(at, id);
        let server = &mut self.servers[at.server];
        if let Some(connection) = server.connections.remove(&id) {
            if let Some(queue) = connection.queue {
                server.scheduler.detach(queue);
                server.fairness.leave(queue);
            }
            self.start_mutations(at);
        }
        self.end_connection(id, Side::Server);
    }

    /// It has no place any more, neither in the registry nor in an engine.
    fn leave_view(&mut self, at: At, id: u64) {
        let server = &mut self.servers[at.server];
        let Some(connection) = server.connections.get_mut(&id) else { return };
        connection.outlet = None;
        if let Some(entry) = connection.entry.take() {
            server.registry.leave(entry);
        }
        if let Some((generations, engine, session)) = connection.engine.take()
            && generations == server.generations
            && self.broken != Some(Break::ClosesNothing)
        {
            self.give(at, engine, EngineArrival::Close(session));
        }
    }

    /// The session ends, and its client is told: what it has sent before it hears of that is read.
    fn say_goodbye(&mut self, at: At, id: u64, ending: &Ending) {
        self.check_goodbye(at, id, ending);
        self.leave_view(at, id);
        let now = self.time();
        let Some(connection) = self.servers[at.server].connections.get_mut(&id) else { return };
        let until = connection.listening.say_goodbye(now);
        self.send_parcel(id, Side::Client, Parcel::End);
        self.after((until - now).as_millis() as u64, Event::Goodbye(at, id));
        self.after(0, Event::Read(at, id));
    }

    /// The client has not answered to the goodbye.
    pub fn goodbye_is_over(&mut self, at: At, id: u64) {
        if !self.is_gone(at) {
            self.drop_session(at, id);
        }
    }

    fn claim(
        &mut self,
        at: At,
        id: u64,
        request: ClaimRequest,
        inputs: &mut VecDeque<Input<'static, Said>>,
    ) {
        let now = self.time();
        let ClaimRequest { client, user, known, sharing } = request.clone();
        let server = &mut self.servers[at.server];
        let before = server.connections.get_mut(&id).and_then(|of| of.entry.take());
        before.into_iter().for_each(|entry| server.registry.leave(entry));
        match server.registry.arrive(&client, &user, known, sharing, now) {
            Err(too_many) => {
                inputs.push_back(Input::Claimed(Err(NoClaim::TooManySessions(too_many.0))));
            }
            Ok(entry) => {
                if let Some(connection) = server.connections.get_mut(&id) {
                    connection.client = Some(request);
                    connection.entry = Some(entry);
                }
                if let Some(known) = known_at_once(known) {
                    return inputs.push_back(Input::Claimed(Ok(known)));
                }
                let due = server.registry.claims_at().map_or(0, |at| at.as_millis() as u64);
                self.after(due.saturating_sub(self.now_ms), Event::Claims(at));
            }
        }
    }

    /// Claims that wait are asked of Postgres together, and answered when it can say.
    pub fn ask_claims(&mut self, at: At) {
        if self.is_gone(at) {
            return;
        }
        let now = self.time();
        let claims = self.servers[at.server].registry.take_claims(now, CLAIM_BATCH);
        if claims.is_empty() {
            return;
        }
        let generation = self.servers[at.server].generation.as_ref();
        let served = generation.map(|generation| generation.epoch);
        for claim in &claims {
            self.let_go_older_mutations(at, &claim.client, &claim.user);
        }
        let until_ms = self.now_ms + CLAIM_TIMEOUT.as_millis() as u64;
        let (claims, delay) =
            (Box::new(ClaimBatch::new(claims, served)), self.rng.random_range(1..20));
        self.after(delay, Event::Claim(at, claims, until_ms));
    }

    /// What older connections of a client had sent is sent again.
    fn let_go_older_mutations(&mut self, at: At, client: &str, user: &str) {
        let server = &mut self.servers[at.server];
        server.claims += 1;
        server.claimed.insert(client.to_owned(), server.claims);
        let lost = match self.broken {
            Some(Break::OlderMutationsStay) => Vec::new(),
            Some(Break::OneLine) => server.scheduler.supersede(client, "everyone"),
            _ => server.scheduler.supersede(client, user),
        };
        if !lost.is_empty() {
            self.seen.count("mutations that a newer connection sends again");
            let server = &mut self.servers[at.server];
            lost.into_iter().for_each(|queue| server.fairness.let_go(queue));
            server.let_go = true;
            self.tell_broken(at);
        }
    }

    /// The first question of a batch of claims: whose are they?
    pub fn claim_ids(&mut self, at: At, claims: Box<ClaimBatch>, until_ms: u64) {
        if self.is_gone(at) {
            return;
        }
        if !self.postgres.up || self.now_ms >= until_ms {
            return self.tell_claims(at, claims.unavailable());
        }
        let mut rows = Vec::new();
        for wanted in claims.wanted() {
            let Wanted { client, user, known, .. } = wanted;
            let spent = if self.broken == Some(Break::NumbersGoBack) { 0 } else { *known };
            match self.postgres.claim(client, user, spent, self.now_ms) {
                Claim::Row(row) => rows.push(Some(Claimed {
                    user_id: row.user.clone(),
                    last_mutation: row.last,
                    is_unused_for_long: false,
                })),
                Claim::Locked => {
                    self.seen.count("claims of a row that another transaction has");
                    rows.push(None);
                }
                Claim::Waits => {
                    self.seen.count("claims that wait");
                    return self.after(20, Event::Claim(at, claims, until_ms));
                }
            }
        }
        let (claimed, delay) = (Box::new(claims.claimed(rows)), self.rng.random_range(0..10));
        self.after(delay, Event::ClaimOutcomes(at, claimed));
    }

    /// The other questions, and the answers.
    pub fn answer_claims(&mut self, at: At, claimed: ClaimedIds) {
        if self.is_gone(at) {
            return;
        }
        let at_once = self.broken == Some(Break::FirstRowsAtOnce);
        let until = if at_once { Lsn(0) } else { self.postgres.wal_end };
        let mut told = Outcomes { until, ..Outcomes::default() };
        for (client, known) in claimed.behind() {
            let row = self.postgres.visible.clients.get(&client);
            let refused = row.into_iter().flat_map(|row| row.refused.range(known + 1..));
            let rejected = refused.map(|(number, code)| refusal(*number, code)).collect();
            told.rejections.insert(client, rejected);
        }
        // No row of a client is removed here.
        self.tell_claims(at, claimed.answers(&HashSet::new(), &told));
    }

    fn tell_claims(&mut self, at: At, answers: Vec<(ConnectionId, ClaimAnswer)>) {
        for (entry, answer) in answers {
            let mut of = self.servers[at.server].connections.iter();
            let id = of.find(|(_, c)| c.entry == Some(entry)).map(|(id, _)| *id);
            if let Some(id) = id {
                self.step_session(at, id, Input::Claimed(answer));
            }
        }
    }

    pub fn answer_session(&mut self, at: At, id: u64, answer: Answer) {
        if self.is_gone(at) {
            return;
        }
        match answer {
            Answer::Token(user_id) => {
                self.step_session(at, id, Input::Token(Ok(identity_of(user_id))));
            }
            Answer::Open(request, until_ms) => self.open_session(at, id, request, until_ms),
        }
    }

    /// A session that waits for a place is looked at.
    fn open_session(&mut self, at: At, id: u64, request: OpenRequest, until_ms: u64) {
        let server = &mut self.servers[at.server];
        let Some(connection) = server.connections.get_mut(&id) else { return };
        if connection.listening.is_over() {
            return;
        }
        let status = server.feed.feed.state().status;
        let serving = server.generation.clone().map(|generation| (generation.epoch, generation));
        let opened = match opening::look(server.ends, serving, &status, &request) {
            Entrance::Open { serving, not_before } => Ok((serving, not_before)),
            Entrance::Closed(why) => Err(why),
            Entrance::NotYet if self.now_ms >= until_ms => Err(opening::timed_out(&status)),
            Entrance::NotYet => {
                let answer = Box::new(Answer::Open(request, until_ms));
                return self.after(50, Event::Answer(at, id, answer));
            }
        };
        let (generation, not_before) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                if why == NotServing::Outdated {
                    self.seen.count("claims of an epoch before");
                }
                return self.step_session(at, id, Input::Opened(Err(why)));
            }
        };
        let plan = Arc::clone(&generation.plan);
        server.sessions += 1;
        let session = SessionId(server.sessions);
        let (engine, opening) = request.place(&plan, server.engines.len(), session, not_before);
        let outlet = Outlet::new(Arc::clone(&plan), SendQueue::new(SEND_QUEUE_BYTES, request.told));
        connection.engine = Some((server.generations, engine, session));
        connection.outlet = Some(outlet.clone());
        self.give(at, engine, EngineArrival::Open(opening, outlet));
        self.step_session(at, id, Input::Opened(Ok(plan)));
    }

    fn heard(&mut self, at: At, id: u64) {
        let server = &mut self.servers[at.server];
        let entry = server.connections.get(&id).and_then(|connection| connection.entry);
        let Some(entry) = entry else { return };
        let to_go = server.registry.heard(entry);
        let of = server.connections.iter();
        let of = of.filter(|(_, c)| c.entry.is_some_and(|entry| to_go.contains(&entry)));
        let ids: Vec<u64> = of.map(|(id, _)| *id).collect();
        for id in ids {
            self.after(0, Event::Supersede(at, id));
        }
    }

    pub fn supersede_session(&mut self, at: At, id: u64) {
        if !self.is_gone(at) {
            self.step_session(at, id, Input::Superseded);
        }
    }

    /// Sessions whose mutations are not taken any further are told.
    pub fn tell_broken(&mut self, at: At) {
        let server = &self.servers[at.server];
        let broken = |(id, connection): (&u64, &Connection)| {
            let broken = server.scheduler.broken(connection.queue?)?;
            Some((*id, broken.clone()))
        };
        let broken: Vec<(u64, Broken)> = server.connections.iter().filter_map(broken).collect();
        for (id, why) in broken {
            self.seen.count(match &why {
                Broken::Gap { last: 0, .. } => "clients that were forgotten",
                Broken::Gap { .. } => "gaps",
                Broken::NotTheirs => "clients of others",
                Broken::Superseded => "older connections that end",
                Broken::Stopped => "queues that are stopped",
            });
            self.after(0, Event::Broken(at, id, why));
        }
    }

    pub fn break_session(&mut self, at: At, id: u64, why: Broken) {
        if !self.is_gone(at) {
            self.step_session(at, id, Input::Broken(why));
        }
    }

    /// Sessions for which something was queued are woken.
    pub fn look_at_outlets(&mut self, at: At) {
        let server = &mut self.servers[at.server];
        let mut woken = Vec::new();
        for (id, connection) in &mut server.connections {
            let Some(outlet) = &connection.outlet else { continue };
            if outlet.filled().now_or_never().is_some()
                && !std::mem::replace(&mut connection.draining, true)
            {
                woken.push(*id);
            }
        }
        for id in woken {
            let delay = self.rng.random_range(0..10);
            self.after(delay, Event::Drain(at, id));
        }
    }

    /// Says what there is, as far as the socket takes it.
    pub fn drain(&mut self, at: At, id: u64) {
        if self.is_gone(at) {
            return;
        }
        let room = UNDER_WAY.saturating_sub(self.network.under_way(id, Side::Client));
        for _ in 0..room {
            let Some(connection) = self.servers[at.server].connections.get_mut(&id) else { return };
            let outlet = connection.outlet.as_ref();
            let said = outlet.and_then(|outlet| connection.session.take(outlet));
            let Some(said) = said else {
                connection.draining = false;
                return;
            };
            match &said {
                Said::Delivery(Delivery::Closed(rowtide_protocol::ErrorCode::SlowConsumer, _)) => {
                    self.seen.count("slow clients");
                }
                Said::Delivery(Delivery::Closed(_, why)) if why.contains("more has changed") => {
                    self.seen.count("resets");
                }
                Said::Delivery(Delivery::Closed(_, why))
                    if why.contains("while this connection") =>
                {
                    self.seen.count("acknowledgements that passed by");
                }
                _ => {}
            }
            if let Said::Delivery(Delivery::Frame(frame)) = &said
                && connection.session.takes_deflated()
            {
                while !frame.frame.deflate_a_stretch() {}
            }
            self.step_session(at, id, Input::Said(said));
        }
        let delay = self.rng.random_range(1..20);
        self.after(delay, Event::Drain(at, id));
    }

    /// The server is to stop: what has arrived already comes first.
    pub fn stop_sessions(&mut self, at: At) {
        let ids: Vec<u64> = self.servers[at.server].connections.keys().copied().collect();
        for id in ids {
            let connections = &mut self.servers[at.server].connections;
            let Some(connection) = connections.get_mut(&id) else { continue };
            if self.broken == Some(Break::OlderGoodbyeFirst) && connection.session.is_older() {
                self.say_goodbye(at, id, &Ending::stopping());
                continue;
            }
            connection.listening.stop();
            while let Some(connection) = self.servers[at.server].connections.get_mut(&id)
                && connection.listening.takes(connection.session.reads())
                && let Some(text) = connection.inbox.pop_front()
            {
                self.step_session(at, id, Input::Text(&text));
            }
            if let Some(connection) = self.servers[at.server].connections.get_mut(&id)
                && connection.listening.tells()
            {
                self.step_session(at, id, Input::Stop);
            }
        }
    }
}
