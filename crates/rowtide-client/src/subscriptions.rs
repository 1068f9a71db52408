//! What a client asks for beyond the rows that it is sent always. A subscription is *wanted* from when the owner makes it
//! until the owner ends it, and *held* while the replica has its rows as of the cursor; the two differ while there is
//! no connection or no answer. `connect` names those that are held, since the server tells what has changed in
//! these since the cursor; what is wanted is asked for behind it. Pure.

use std::collections::BTreeMap;

use rowtide_protocol::{Connected, Mode, ServerMessage, Subscribe};
use serde::Serialize;
use thiserror::Error;

use crate::op::within_depth;
use crate::row::Row;

/// The most subscriptions of one client. A server takes fewer of one connection, and says so.
const MAX_SUBSCRIPTIONS: usize = 1_000;
/// The largest subscription, in bytes of JSON.
const MAX_BYTES: usize = 1 << 20;
/// How deep a parameter may be nested: arrays of more dimensions.
const MAX_DEPTH: usize = 100;
/// The most bytes of JSON of subscriptions in `connect`, which may have 32 KiB with its token.
const MAX_CONNECT_BYTES: usize = 12 << 10;
/// What a server that has subscriptions says in `features`.
const FEATURE: &str = "subscriptions";

/// Why a subscription was not made. Nothing is asked for then.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SubscribeError {
    /// A parameter that is nested too deep.
    #[error("parameter `{param}` of `{query}` is nested more than {max} levels deep")]
    Depth {
        /// The query.
        query: String,
        /// The parameter.
        param: String,
        /// The most levels.
        max: usize,
    },
    /// It does not fit into a message.
    #[error("the subscription to `{query}` has {bytes} bytes; at most {max} can be sent")]
    Size {
        /// The query.
        query: String,
        /// The size as JSON.
        bytes: usize,
        /// The most.
        max: usize,
    },
    /// There are too many.
    #[error("a client has at most {max} subscriptions")]
    TooMany {
        /// The most.
        max: usize,
    },
    /// The client has stopped for good.
    #[error("the client has stopped")]
    Stopped,
}

/// A subscription that the server has refused. It is not there any more, and is not asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedSubscription {
    /// The subscription.
    pub id: u64,
    /// See the protocol's codes of a `subscription_error`.
    pub code: String,
    /// For the developer.
    pub message: String,
}

/// What is sent of subscriptions behind `connect`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SubscriptionRequest {
    /// One is wanted.
    Subscribe(Subscribe),
    /// One is wanted no longer.
    Unsubscribe {
        /// Which one.
        id: u64,
    },
}

/// What a message did to subscriptions.
#[derive(Debug, Default)]
pub(crate) struct SubscriptionStep {
    /// Those that are wanted, and held from now on.
    pub(crate) subscribed: Vec<u64>,
    /// Those that were wanted.
    pub(crate) refused: Vec<RefusedSubscription>,
}

/// What the connection was last told of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Wanted,
    Unwanted,
}

#[derive(Clone, Debug)]
struct Entry {
    subscribe: Subscribe,
    bytes: usize,
    wanted: bool,
    held: bool,
    told: Told,
    /// `connect` named it, and it was not refused: a snapshot has its rows.
    named: bool,
}

/// The subscriptions of one client. See the module's text.
#[derive(Clone, Debug, Default)]
pub(crate) struct SubscriptionSet {
    entries: BTreeMap<u64, Entry>,
    /// The highest id that was given. None is given twice, so that no answer can be of an older one.
    last: u64,
    connected: bool,
    snapshot_arrives: bool,
}

impl SubscriptionSet {
    pub(crate) fn subscribe(&mut self, query: &str, params: Row) -> Result<u64, SubscribeError> {
        let query = query.to_owned();
        if let Some((param, _)) = params.iter().find(|(_, value)| !within_depth(value, MAX_DEPTH)) {
            let param = param.clone();
            return Err(SubscribeError::Depth { query, param, max: MAX_DEPTH });
        }
        let subscribe = Subscribe { id: self.last + 1, query, params };
        let bytes = serde_json::to_string(&subscribe).map_or(0, |text| text.len());
        if bytes > MAX_BYTES {
            let query = subscribe.query;
            return Err(SubscribeError::Size { query, bytes, max: MAX_BYTES });
        }
        if self.entries.len() >= MAX_SUBSCRIPTIONS {
            return Err(SubscribeError::TooMany { max: MAX_SUBSCRIPTIONS });
        }
        self.last += 1;
        let (wanted, held, told, named) = (true, false, Told::Nothing, false);
        self.entries.insert(self.last, Entry { subscribe, bytes, wanted, held, told, named });
        Ok(self.last)
    }

    pub(crate) fn unsubscribe(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.wanted = false;
            self.drop_what_is_over();
        }
    }

    pub(crate) fn holds(&self, id: u64) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.held)
    }

    /// What `connect` names, and whether a cursor may be sent with it. `cursor`: whether there is one.
    pub(crate) fn name(&mut self, cursor: bool) -> (Vec<Subscribe>, bool) {
        let held = self.entries.values().filter(|entry| entry.held);
        let fits = held.map(|entry| entry.bytes).sum::<usize>() <= MAX_CONNECT_BYTES;
        let resumes = cursor && fits;
        let mut room = MAX_CONNECT_BYTES;
        let mut named = Vec::new();
        for entry in self.entries.values_mut() {
            let counts = if resumes { entry.held } else { entry.wanted && entry.bytes <= room };
            if counts {
                room = room.saturating_sub(entry.bytes);
                (entry.told, entry.named) = (Told::Wanted, true);
                named.push(entry.subscribe.clone());
            }
        }
        (named, resumes)
    }

    /// The next thing to send on this connection, each once.
    pub(crate) fn next_to_send(&mut self) -> Option<SubscriptionRequest> {
        if !self.connected {
            return None;
        }
        let differs = |entry: &&mut Entry| match entry.told {
            Told::Nothing => entry.wanted,
            Told::Wanted => !entry.wanted,
            Told::Unwanted => false,
        };
        let entry = self.entries.values_mut().find(differs)?;
        if entry.wanted {
            entry.told = Told::Wanted;
            return Some(SubscriptionRequest::Subscribe(entry.subscribe.clone()));
        }
        entry.told = Told::Unwanted;
        Some(SubscriptionRequest::Unsubscribe { id: entry.subscribe.id })
    }

    /// Follows a message that the replica has applied.
    pub(crate) fn apply(&mut self, message: &ServerMessage) -> SubscriptionStep {
        let mut step = SubscriptionStep::default();
        match message {
            ServerMessage::Connected(connected) => step.refused = self.connected(connected),
            ServerMessage::Ready { .. } if std::mem::take(&mut self.snapshot_arrives) => {
                for (id, entry) in &mut self.entries {
                    if entry.named && !entry.held && entry.wanted {
                        step.subscribed.push(*id);
                    }
                    entry.held = entry.named;
                }
            }
            ServerMessage::Tx { subscribed, unsubscribed, .. } => {
                for id in subscribed {
                    let Some(entry) = self.entries.get_mut(id) else { continue };
                    if entry.wanted && !entry.held {
                        step.subscribed.push(*id);
                    }
                    entry.held = true;
                }
                for id in unsubscribed {
                    let Some(entry) = self.entries.get_mut(id) else { continue };
                    (entry.held, entry.named, entry.told) = (false, false, Told::Nothing);
                }
            }
            ServerMessage::SubscriptionError { id, code, message } => {
                // Its rows, if there are some, go with the snapshot that comes for this reason.
                if let Some(entry) = self.entries.get_mut(id) {
                    (entry.named, entry.told) = (false, Told::Nothing);
                    if std::mem::take(&mut entry.wanted) {
                        let (id, code, message) = (*id, code.clone(), message.clone());
                        step.refused.push(RefusedSubscription { id, code, message });
                    }
                }
            }
            _ => {}
        }
        self.drop_what_is_over();
        step
    }

    fn connected(&mut self, connected: &Connected) -> Vec<RefusedSubscription> {
        self.snapshot_arrives = connected.mode == Mode::Snapshot;
        self.connected = connected.features.iter().any(|feature| feature == FEATURE);
        if self.connected {
            return Vec::new();
        }
        // An older server would take them for a breach of the protocol.
        let mut refused = Vec::new();
        for (id, entry) in &mut self.entries {
            (entry.named, entry.told) = (false, Told::Nothing);
            if std::mem::take(&mut entry.wanted) {
                let code = "bad_request".to_owned();
                let message = "the server has no subscriptions".to_owned();
                refused.push(RefusedSubscription { id: *id, code, message });
            }
        }
        refused
    }

    /// The connection has ended.
    pub(crate) fn disconnected(&mut self) {
        (self.connected, self.snapshot_arrives) = (false, false);
        for entry in self.entries.values_mut() {
            (entry.named, entry.told) = (false, Told::Nothing);
        }
        self.drop_what_is_over();
    }

    /// The replica has no rows any more.
    pub(crate) fn cleared(&mut self) {
        for entry in self.entries.values_mut() {
            entry.held = false;
        }
        self.drop_what_is_over();
    }

    fn drop_what_is_over(&mut self) {
        self.entries.retain(|_, entry| entry.wanted || entry.held || entry.told != Told::Nothing);
    }
}
