//! Older clients, over the adapter's own session. They name their mutations, and never send one again. So what a
//! server has received before it stops in order must be applied or refused, once, and what it has taken from a
//! connection must be told there before the goodbye.

use std::collections::BTreeSet;

use rand::Rng;
use rowtide_gateway::conversation::{Ending, Input};
use rowtide_gateway::limits::STOP_PATIENCE;
use rowtide_postgres::named_outcomes::{Tab, Told};
use serde_json::{Value, json};

use crate::breaks::Break;
use crate::data::USERS;
use crate::network::{Parcel, Side};
use crate::world::{At, Event, World};

/// Their number on the network is higher by this than their place among older clients.
pub const OLDER: usize = 1_000;

pub struct Older {
    user: &'static str,
    pub connection: Option<u64>,
    has_left: bool,
    /// Whether its rows have come on this connection.
    live: bool,
    failures: u32,
    /// What it has sent and not heard of, by tag.
    sent: BTreeSet<u64>,
    /// What it was told on this connection to be rejected, which a person is shown, by tag.
    rejected: BTreeSet<u64>,
}

impl Older {
    pub fn new(number: usize) -> Older {
        let user = USERS[number % USERS.len()];
        let (connection, sent, rejected) = (None, BTreeSet::new(), BTreeSet::new());
        Older { user, connection, has_left: false, live: false, failures: 0, sent, rejected }
    }
}

/// The tag of a mutation by its name.
fn tag_of_name(name: &Value) -> u64 {
    name.as_str().and_then(|name| name.strip_prefix('m')).unwrap().parse().unwrap()
}

/// The tag of a mutation as an older client sends it.
pub fn tag_of_text(text: &str) -> Option<u64> {
    let message: Value = serde_json::from_str(text).ok()?;
    (message["type"] == "mutate").then(|| tag_of_name(&message["mutationId"]))
}

/// What a message to an older client says of mutations: their tags, and with which code they were refused.
fn told(text: &str) -> Vec<(u64, Option<String>)> {
    let message: Value = serde_json::from_str(text).expect("servers speak JSON");
    match message["type"].as_str() {
        Some("commit") => {
            let names = message["mutationIds"].as_array().expect("names");
            names.iter().map(|name| (tag_of_name(name), None)).collect()
        }
        Some("reject") => {
            let code = message["errorCode"].as_str().expect("a code").to_owned();
            vec![(tag_of_name(&message["mutationId"]), Some(code))]
        }
        _ => Vec::new(),
    }
}

/// What is told of a mutation that was not taken.
const NOT_TAKEN: &str = "rate_limit_exceeded";

impl World {
    /// The user of a connection of an older client, and the tab, which keeps its name over connections.
    pub fn older_tab(&self, id: u64) -> Option<(&'static str, String)> {
        let number = self.network.connections.get(&id)?.client.checked_sub(OLDER)?;
        Some((self.older[number].user, format!("tab {number}")))
    }

    /// A tab asks what became of what it has sent over earlier connections.
    pub fn answer_outcomes(&mut self, at: At, id: u64, tab: Box<Tab>) {
        if self.is_gone(at) || !self.servers[at.server].connections.contains_key(&id) {
            return;
        }
        if !self.postgres.up {
            return self.after(200, Event::Outcomes(at, id, tab));
        }
        let waits = self.broken != Some(Break::OutcomesWithoutLock);
        let Some(mut found) = self.postgres.outcomes(&tab, waits, self.now_ms) else {
            self.seen.count("outcomes that wait for a row");
            return self.after(20, Event::Outcomes(at, id, tab));
        };
        let Some(connection) = self.servers[at.server].connections.get_mut(&id) else { return };
        let asks_again = std::mem::replace(&mut connection.has_asked, true);
        if self.broken == Some(Break::OutcomesUntold)
            || self.broken == Some(Break::OutcomesAskedOnce) && asks_again
        {
            found.clear();
        }
        if !found.is_empty() {
            self.seen.count("outcomes that tabs had missed");
        }
        self.say(|| format!("{tab:?} is told of {found:?}"));
        if asks_again {
            self.seen.count("outcomes that are asked for again");
        }
        self.step_session(at, id, Input::Outcomes(found));
    }

    /// A server notes what tabs have heard.
    pub fn note_heard(&mut self, at: At, told: Vec<Told>) {
        if self.is_gone(at) {
            return;
        }
        let up = self.postgres.up;
        let left: Vec<Told> = told
            .into_iter()
            .filter(|one| !up || !self.postgres.mark_told(one, self.now_ms))
            .collect();
        if left.is_empty() {
            self.seen.count("notes of what tabs have heard");
        } else {
            self.after(50, Event::Told(at, left));
        }
    }

    /// What an older client has not been told in the end, though it was sent and the database knows of it; or that it
    /// is not there.
    pub fn older_lacks(&self, number: usize) -> Option<String> {
        let client = &self.older[number];
        if client.has_left {
            return None;
        }
        if !client.live {
            return Some("it is not live".to_owned());
        }
        let now = self.postgres.now();
        let known = |tag: &&u64| now.applied.contains(tag) || now.refused.contains(tag);
        let untold = client.sent.iter().find(known)?;
        Some(format!("it was never told of mutation {untold}"))
    }

    pub fn connect_older(&mut self, number: usize) {
        let client = &self.older[number];
        if client.has_left || client.connection.is_some() {
            return;
        }
        let server = self.rng.random_range(0..self.servers.len());
        if !self.servers[server].running || self.servers[server].stopping.is_some() {
            return self.connect_older_later(number);
        }
        let id = self.network.open(OLDER + number, server, self.servers[server].life);
        self.older[number].connection = Some(id);
        self.older[number].rejected.clear();
        // The upgrade, which has said who it is.
        self.send_parcel(id, Side::Server, Parcel::Ping);
    }

    fn connect_older_later(&mut self, number: usize) {
        let client = &mut self.older[number];
        let ceiling = 5_000.min(200 << client.failures.min(10));
        client.failures += 1;
        let delay = self.rng.random_range(0..=ceiling);
        self.after(delay, Event::ConnectOlder(number));
    }

    pub fn older_leaves(&mut self, number: usize) {
        self.older[number].has_left = true;
        if let Some(id) = self.older[number].connection.take() {
            self.end_connection(id, Side::Client);
        }
    }

    pub fn older_receives(&mut self, number: usize, parcel: Parcel) {
        let Some(id) = self.older[number].connection else { return };
        let text = match parcel {
            Parcel::Text(text) => text,
            Parcel::Ping => return self.send_parcel(id, Side::Server, Parcel::Pong),
            Parcel::Pong => return,
            Parcel::End => {
                let client = &mut self.older[number];
                (client.connection, client.live) = (None, false);
                self.end_connection(id, Side::Client);
                return self.connect_older_later(number);
            }
        };
        self.say(|| format!("older client {number} receives {text}"));
        if text.contains("\"initial_data\"") {
            let client = &mut self.older[number];
            (client.live, client.failures) = (true, 0);
        }
        for (tag, refused) in told(&text) {
            let again = refused.is_some() && !self.older[number].rejected.insert(tag);
            assert!(!again, "an older client is told of mutation {tag} twice on one connection");
            let ours = self.older[number].sent.remove(&tag);
            if ours && refused.as_deref() != Some(NOT_TAKEN) {
                self.seen.count("mutations of older clients");
                self.ledger.tell(tag, OLDER + number, refused.is_none(), self.postgres.now());
            }
        }
    }

    /// The person does something.
    pub fn older_acts(&mut self, number: usize) {
        if !self.stormy {
            return;
        }
        let delay = self.rng.random_range(50..1_500);
        self.after(delay, Event::OlderActs(number));
        let client = &self.older[number];
        // People do not wait until they see that their rows are new.
        let (Some(id), user) = (client.connection, client.user) else { return };
        self.ledger.made += 1;
        let tag = self.ledger.made;
        let row = json!({
            "id": self.rng.random_range(0..8), "person": user, "parent": self.rng.random_range(0..4),
            "mark": tag, "hidden": false,
        });
        let update = json!({ "table": "note", "event": "insert", "row": row });
        let message = json!({
            "type": "mutate", "mutationId": format!("m{tag}"), "updates": [update]
        });
        self.say(|| format!("older client {number} makes mutation {tag}"));
        self.older[number].sent.insert(tag);
        self.send(id, Side::Server, message.to_string().into_bytes());
    }

    /// Something is said to an older client.
    pub fn note_told(&mut self, at: At, id: u64, text: &str) {
        for (tag, refused) in told(text) {
            let server = &mut self.servers[at.server];
            if let Some(connection) = server.connections.get_mut(&id) {
                connection.taken.remove(&tag);
            }
            if refused.is_some() {
                server.arrived.remove(&tag);
                server.unread.remove(&tag);
                server.arrived_of_older.remove(&tag);
            }
        }
    }

    /// Whether a server that stops can be held to what it promises older clients: Postgres is there all the time.
    pub fn keeps_older_promises(&self, at: At) -> bool {
        let server = &self.servers[at.server];
        !server.older_let_go && server.stopped_in == Some(self.postgres.life)
    }

    /// A session says goodbye: an older client has been told before what became of all that was taken of it, unless that
    /// took too long.
    pub fn check_goodbye(&mut self, at: At, id: u64, ending: &Ending) {
        let keeps = self.keeps_older_promises(at);
        let server = &self.servers[at.server];
        let Some(connection) = server.connections.get(&id) else { return };
        let patience = STOP_PATIENCE.as_millis() as u64;
        let patient = server.stopping.is_some_and(|since| self.now_ms < since + patience);
        if connection.session.is_older() && keeps && patient && *ending == Ending::stopping() {
            assert!(
                connection.taken.is_empty(),
                "an older client is not told of {:?} before the goodbye",
                connection.taken
            );
            self.seen.count("goodbyes to older clients");
        }
    }
}
