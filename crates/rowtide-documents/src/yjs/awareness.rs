//! Who is in a room of Yjs, and where: a state for each client, which is never stored.
//!
//! A state belongs to the socket that spoke for the client first, and nobody else may change it. Clients of
//! `y-websocket` pass on what they hear of others, so a state that comes from somebody else is passed over in silence,
//! and one that comes late, from before its client left, does not bring that client back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::wire::AwarenessEntry;
use crate::place::Socket;

/// How long a state is shown that is not renewed. Clients renew theirs after half of it.
const LIFETIME: Duration = Duration::from_secs(30);

/// For how many clients it is remembered that they have left.
const GONE: usize = 1_000;

const NOBODY: &str = "null";

/// The states of a room's clients.
#[derive(Debug, Default)]
pub(crate) struct Awareness {
    present: BTreeMap<u64, Presence>,
    gone: BTreeMap<u64, Gone>,
}

#[derive(Debug)]
struct Presence {
    clock: u64,
    state: Box<str>,
    socket: Socket,
    renewed: Duration,
}

#[derive(Debug)]
struct Gone {
    clock: u64,
    at: Duration,
}

/// How much one socket may say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// For how many clients it may speak.
    pub(crate) clients: usize,
    /// The longest state, in bytes.
    pub(crate) state_bytes: usize,
}

impl Awareness {
    /// What a socket says, which joined at `joined`; the clients whose states it has changed are returned.
    pub(crate) fn hear(
        &mut self,
        now: Duration,
        socket: Socket,
        joined: Duration,
        entries: &[AwarenessEntry<'_>],
        allowance: Allowance,
    ) -> BTreeSet<u64> {
        let mut own = self.present.values().filter(|presence| presence.socket == socket).count();
        // A message may name a client any number of times.
        let mut changed = BTreeSet::new();
        for entry in entries {
            let leaves = entry.state.trim() == NOBODY;
            let news = match self.present.get(&entry.client) {
                Some(presence) => {
                    presence.socket == socket
                        && (entry.clock > presence.clock || leaves && entry.clock == presence.clock)
                }
                None => {
                    let late = self
                        .gone
                        .get(&entry.client)
                        .is_some_and(|gone| entry.clock <= gone.clock && joined < gone.at);
                    !leaves && !late && own < allowance.clients
                }
            };
            if !news || entry.state.len() > allowance.state_bytes {
                continue;
            }
            if leaves {
                self.present.remove(&entry.client);
                self.remember(entry.client, Gone { clock: entry.clock, at: now });
                own -= 1;
            } else {
                let presence = Presence {
                    clock: entry.clock,
                    state: entry.state.into(),
                    socket,
                    renewed: now,
                };
                self.gone.remove(&entry.client);
                own += usize::from(self.present.insert(entry.client, presence).is_none());
            }
            changed.insert(entry.client);
        }
        changed
    }

    /// Removes the states of a socket; the clients are returned.
    pub(crate) fn leave(&mut self, now: Duration, socket: Socket) -> BTreeSet<u64> {
        self.remove(now, |presence| presence.socket == socket)
    }

    /// Removes the states that were not renewed; the clients are returned.
    pub(crate) fn expire(&mut self, now: Duration) -> BTreeSet<u64> {
        self.gone.retain(|_, gone| gone.at + LIFETIME > now);
        self.remove(now, |presence| presence.renewed + LIFETIME <= now)
    }

    /// When the next state is too old.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        self.present.values().map(|presence| presence.renewed + LIFETIME).min()
    }

    /// The clients that are there.
    pub(crate) fn clients(&self) -> BTreeSet<u64> {
        self.present.keys().copied().collect()
    }

    /// What there is to say of clients.
    pub(crate) fn entries<'a>(&'a self, clients: &'a BTreeSet<u64>) -> Vec<AwarenessEntry<'a>> {
        let entry = |client: &u64| {
            let present =
                self.present.get(client).map(|presence| (presence.clock, &*presence.state));
            let gone = || self.gone.get(client).map(|gone| (gone.clock, NOBODY));
            let (clock, state) = present.or_else(gone)?;
            Some(AwarenessEntry { client: *client, clock, state })
        };
        clients.iter().filter_map(entry).collect()
    }

    fn remove(&mut self, now: Duration, which: impl Fn(&Presence) -> bool) -> BTreeSet<u64> {
        let removed: Vec<_> = self.present.extract_if(.., |_, presence| which(presence)).collect();
        for (client, presence) in &removed {
            self.remember(*client, Gone { clock: presence.clock, at: now });
        }
        removed.into_iter().map(|(client, _)| client).collect()
    }

    fn remember(&mut self, client: u64, gone: Gone) {
        self.gone.insert(client, gone);
    }

    /// Forgets those who left first, if there are too many. What was told of them is told before.
    pub(crate) fn forget_some(&mut self) {
        while self.gone.len() > GONE {
            let oldest =
                self.gone.iter().min_by_key(|(_, gone)| gone.at).map(|(client, _)| *client);
            let Some(oldest) = oldest else { break };
            self.gone.remove(&oldest);
        }
    }
}
