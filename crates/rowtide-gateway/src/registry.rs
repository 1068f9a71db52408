//! Which connections there are, of which clients and users. A client id belongs to the user who first used it;
//! that is kept in the database, and asked of it for many connections together. Of one client id the newest
//! connection wins, once the client is heard on it. Every connection that is let in counts for its user. Pure:
//! what is asked and what is told is for the caller to carry.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::limits::TABS_PER_SESSION;

/// Names one connection for as long as it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

/// Whether several connections of a client may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One: the newest on which the client is heard.
    NewestWins,
    /// Any number.
    Shared,
}

/// How far a client knows of its mutations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownNumbers {
    /// It knows, for good, the outcome of those up to this one.
    pub outcomes: u64,
    /// It was told that those up to this one were acknowledged: its numbers go on behind it, whatever the database says. 0 for
    /// a client that does not say it; its numbers go back with the database.
    pub acked: u64,
}

/// A question to the database: whose is this client id, and how far are its mutations acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientClaim {
    /// Who asks.
    pub connection: ConnectionId,
    /// The client id.
    pub client: Box<str>,
    /// Who takes it, if nobody has it.
    pub user: Box<str>,
    /// How far the client knows of its mutations.
    pub known: KnownNumbers,
}

/// The user has as many connections as one may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManySessions(pub usize);

#[derive(Debug)]
struct Connection {
    client: Box<str>,
    user: Box<str>,
    sharing: Sharing,
    heard: bool,
}

/// How many connections a user has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    /// Of clients of which one connection stays.
    own: usize,
    /// Of those that share a client.
    shared: usize,
}

impl Count {
    fn of(&mut self, sharing: Sharing) -> &mut usize {
        match sharing {
            Sharing::NewestWins => &mut self.own,
            Sharing::Shared => &mut self.shared,
        }
    }
}

/// The registry.
#[derive(Debug)]
pub struct Registry {
    sessions_per_user: usize,
    /// How long claims are collected before they are asked together.
    collect: Duration,
    connections: HashMap<ConnectionId, Connection>,
    /// The connections of each client, the oldest first.
    clients: HashMap<Box<str>, Vec<ConnectionId>>,
    users: HashMap<Box<str>, Count>,
    next: u64,
    claims: VecDeque<ClientClaim>,
    claims_at: Option<Duration>,
}

impl Registry {
    /// An empty registry. Claims are collected for `collect` before they are due.
    pub fn new(sessions_per_user: usize, collect: Duration) -> Registry {
        Registry {
            sessions_per_user,
            collect,
            connections: HashMap::new(),
            clients: HashMap::new(),
            users: HashMap::new(),
            next: 0,
            claims: VecDeque::new(),
            claims_at: None,
        }
    }

    /// A connection says whose it is: it counts from now on, and its client id is to be claimed if the client numbers
    /// its mutations. Connections that share a client are counted by themselves, and may be [`TABS_PER_SESSION`] times
    /// as many: they are tabs, and whoever opens one more expects it to work. Where the user has
    /// as many as one may have, a client that comes back before its old connection is known to be gone is let in
    /// all the same, once: as long as it has not been heard, no further one of it is.
    ///
    /// # Errors
    /// When the user has too many.
    pub fn arrive(
        &mut self,
        client: &str,
        user: &str,
        known: Option<KnownNumbers>,
        sharing: Sharing,
        now: Duration,
    ) -> Result<ConnectionId, TooManySessions> {
        let count = *self.users.get(user).copied().unwrap_or_default().of(sharing);
        let limit = match sharing {
            Sharing::NewestWins => self.sessions_per_user,
            Sharing::Shared => self.sessions_per_user.saturating_mul(TABS_PER_SESSION),
        };
        if count >= limit && !self.comes_back(client, user, sharing) {
            return Err(TooManySessions(limit));
        }
        let id = ConnectionId(self.next);
        self.next += 1;
        *self.users.entry(user.into()).or_default().of(sharing) += 1;
        self.clients.entry(client.into()).or_default().push(id);
        let connection =
            Connection { client: client.into(), user: user.into(), sharing, heard: false };
        self.connections.insert(id, connection);
        if let Some(known) = known {
            self.claims_at.get_or_insert(now + self.collect);
            let (client, user) = (client.into(), user.into());
            self.claims.push_back(ClientClaim { connection: id, client, user, known });
        }
        Ok(id)
    }

    fn comes_back(&self, client: &str, user: &str, sharing: Sharing) -> bool {
        let Some(others) = self.clients.get(client) else { return false };
        let replaced = |id: &ConnectionId| {
            let other = &self.connections[id];
            other.heard && &*other.user == user
        };
        sharing == Sharing::NewestWins && others.iter().all(replaced)
    }

    /// When the claims that wait are due.
    pub fn claims_at(&self) -> Option<Duration> {
        self.claims_at
    }

    /// The claims to be asked together, at most `most`, if they are due.
    pub fn take_claims(&mut self, now: Duration, most: usize) -> Vec<ClientClaim> {
        if self.claims_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let batch: Vec<ClientClaim> = self.claims.drain(..most.min(self.claims.len())).collect();
        // What is left is due at once.
        self.claims_at = (!self.claims.is_empty()).then_some(now);
        batch
    }

    /// The client was heard on a connection after it was let in. Not before: a `connect` may arrive when the
    /// client has given up the connection, and is on another by now. Returns the connections that have to go,
    /// which may be this one.
    pub fn heard(&mut self, id: ConnectionId) -> Vec<ConnectionId> {
        let Some(connection) = self.connections.get_mut(&id) else { return Vec::new() };
        connection.heard = true;
        if connection.sharing == Sharing::Shared {
            return Vec::new();
        }
        let of_client = self.clients.get(&connection.client).cloned().unwrap_or_default();
        let is_heard = |other: &&ConnectionId| self.connections[*other].heard;
        let newest = of_client.iter().rev().find(is_heard).copied();
        of_client.into_iter().filter(|other| Some(*other) < newest).collect()
    }

    /// A connection has gone.
    pub fn leave(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if let Some(others) = self.clients.get_mut(&connection.client) {
            others.retain(|other| *other != id);
            if others.is_empty() {
                self.clients.remove(&connection.client);
            }
        }
        if let Some(count) = self.users.get_mut(&connection.user) {
            *count.of(connection.sharing) -= 1;
            if *count == Count::default() {
                self.users.remove(&connection.user);
            }
        }
        self.claims.retain(|claim| claim.connection != id);
    }

    /// How many connections a user has.
    pub fn sessions_of(&self, user: &str) -> usize {
        self.users.get(user).map_or(0, |count| count.own + count.shared)
    }

    /// Whether nothing is held of anyone.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
            && self.clients.is_empty()
            && self.users.is_empty()
            && self.claims.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn registry(limit: usize) -> Registry {
        Registry::new(limit, Duration::from_millis(5))
    }

    fn arrive(registry: &mut Registry, client: &str) -> Result<ConnectionId, TooManySessions> {
        registry.arrive(client, "ann", Some(KnownNumbers::default()), Sharing::NewestWins, NOW)
    }

    #[test]
    fn the_newest_wins_once_it_is_heard() {
        let mut registry = registry(10);
        let first = arrive(&mut registry, "c").unwrap();
        let second = arrive(&mut registry, "c").unwrap();
        assert_eq!(registry.heard(first), []);
        assert_eq!(registry.heard(first), [], "the second may be a ghost");
        assert_eq!(registry.heard(second), [first]);
        // A ghost that is heard after a newer one is the one to go.
        let third = arrive(&mut registry, "c").unwrap();
        let fourth = arrive(&mut registry, "c").unwrap();
        assert_eq!(registry.heard(fourth), [first, second, third]);
        assert!(registry.heard(third).contains(&third));
        let other = registry.arrive("s", "ann", None, Sharing::Shared, NOW).unwrap();
        let another = registry.arrive("s", "ann", None, Sharing::Shared, NOW).unwrap();
        assert_eq!((registry.heard(other), registry.heard(another)), (vec![], vec![]));
    }

    #[test]
    fn one_client_that_is_connected_is_no_way_past_the_limit() {
        let mut registry = registry(3);
        let first = arrive(&mut registry, "c").unwrap();
        registry.heard(first);
        let mut let_in = 1;
        for _ in 0..400 {
            let_in += usize::from(arrive(&mut registry, "c").is_ok());
        }
        assert_eq!((let_in, registry.sessions_of("ann")), (3, 3));
    }

    #[test]
    fn a_client_that_comes_back_takes_its_own_place_once() {
        let mut registry = registry(2);
        for client in ["a", "b"] {
            let id = arrive(&mut registry, client).unwrap();
            registry.heard(id);
        }
        assert_eq!(arrive(&mut registry, "c"), Err(TooManySessions(2)));
        let again = arrive(&mut registry, "a").unwrap();
        assert_eq!(arrive(&mut registry, "a"), Err(TooManySessions(2)));
        let gone = registry.heard(again);
        assert_eq!(gone.len(), 1);
        registry.leave(gone[0]);
        arrive(&mut registry, "a").unwrap();
        // Another's client id is no way either.
        let other =
            |registry: &mut Registry| registry.arrive("b", "eve", None, Sharing::NewestWins, NOW);
        let eve = [other(&mut registry).unwrap(), other(&mut registry).unwrap()];
        assert_eq!(other(&mut registry), Err(TooManySessions(2)));
        eve.into_iter().for_each(|id| registry.leave(id));
    }

    #[test]
    fn tabs_that_share_a_client_are_counted_by_themselves() {
        let mut registry = registry(2);
        let tab =
            |registry: &mut Registry| registry.arrive("app/ann", "ann", None, Sharing::Shared, NOW);
        let tabs: Vec<_> = (0..2 * TABS_PER_SESSION).map(|_| tab(&mut registry).unwrap()).collect();
        assert_eq!(tab(&mut registry), Err(TooManySessions(2 * TABS_PER_SESSION)));
        // Nobody asks whose the client is, and there is room for today's clients.
        assert_eq!(registry.claims_at(), None);
        let own = [arrive(&mut registry, "a").unwrap(), arrive(&mut registry, "b").unwrap()];
        assert_eq!(arrive(&mut registry, "c"), Err(TooManySessions(2)));
        registry.leave(tabs[0]);
        tab(&mut registry).unwrap();
        assert_eq!(registry.sessions_of("ann"), 2 * TABS_PER_SESSION + 2);
        own.into_iter().chain(tabs).for_each(|id| registry.leave(id));
        assert_eq!(registry.sessions_of("ann"), 1);
    }

    #[test]
    fn claims_are_collected() {
        let mut registry = registry(10);
        for client in ["a", "b", "c"] {
            arrive(&mut registry, client).unwrap();
        }
        assert_eq!(registry.take_claims(NOW, 2), []);
        let due = registry.claims_at().unwrap();
        assert_eq!(registry.take_claims(due, 2).len(), 2);
        assert_eq!(registry.take_claims(due, 2).len(), 1);
        assert_eq!(registry.claims_at(), None);
    }

    /// Whatever the order in which they come, are heard and go: users count what is open, one connection at most
    /// is left of a client when all are heard, and nothing stays of those who have gone.
    #[test]
    fn every_open_connection_counts_and_nothing_stays() {
        for seed in 0..500 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut registry = registry(5);
            let mut open: Vec<(ConnectionId, usize)> = Vec::new();
            for step in 0..100 {
                let client = rng.random_range(0..4);
                match rng.random_range(0..4) {
                    0 | 1 => {
                        let user = ["ann", "bob"][client % 2];
                        let client_id = client.to_string();
                        let now = Duration::from_millis(step);
                        let sharing = Sharing::NewestWins;
                        if let Ok(id) = registry.arrive(&client_id, user, None, sharing, now) {
                            open.push((id, client % 2));
                        }
                        registry.take_claims(now, 3);
                    }
                    2 if !open.is_empty() => {
                        let at = rng.random_range(0..open.len());
                        for gone in registry.heard(open[at].0) {
                            registry.leave(gone);
                            open.retain(|(id, _)| *id != gone);
                        }
                    }
                    _ if !open.is_empty() => {
                        let (id, _) = open.swap_remove(rng.random_range(0..open.len()));
                        registry.leave(id);
                    }
                    _ => {}
                }
                for (index, user) in ["ann", "bob"].into_iter().enumerate() {
                    let count = open.iter().filter(|(_, of)| *of == index).count();
                    assert_eq!(registry.sessions_of(user), count, "seed {seed}");
                    // A heard one and one that comes back, of each of two clients.
                    assert!(count <= 5 + 2, "seed {seed}: {count}");
                }
            }
            open.into_iter().for_each(|(id, _)| registry.leave(id));
            assert!(registry.is_empty(), "seed {seed}");
        }
    }
}
