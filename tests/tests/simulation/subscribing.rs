//! What clients ask for: the comments of some notes, now of these and now of others. One whose table does not fit
//! is refused, and is asked for again whenever the client is live anew.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rowtide_client::{Optimistic, RefusedSubscription, Row};

use crate::data::COMMENT;
use crate::world::World;

/// The notes that there may be, and one that there never is.
const NOTES: std::ops::Range<i64> = 0..9;

/// What one process of a client asks for.
#[derive(Default)]
pub struct Asked {
    /// The notes whose comments are wanted.
    notes: BTreeSet<i64>,
    /// The subscriptions to these that were not refused.
    wanted: BTreeMap<i64, u64>,
    /// The notes of all subscriptions there ever were.
    all: BTreeMap<u64, i64>,
}

impl Asked {
    /// Brings subscriptions to what is wanted.
    fn ask(&mut self, optimistic: &mut Optimistic) {
        let Asked { notes, wanted, all } = self;
        wanted.retain(|note, id| {
            let stays = notes.contains(note);
            if !stays {
                optimistic.unsubscribe(*id);
            }
            stays
        });
        for note in notes.iter() {
            wanted.entry(*note).or_insert_with(|| {
                let params: Row = [("note".to_owned(), (*note).into())].into_iter().collect();
                let id = optimistic.subscribe("thread", params).expect("there is room for it");
                all.insert(id, *note);
                id
            });
        }
    }

    /// The notes whose comments a client has, as of its cursor.
    pub fn held(&self, optimistic: &Optimistic) -> BTreeSet<i64> {
        let held = self.all.iter().filter(|(id, _)| optimistic.is_subscribed(**id));
        held.map(|(_, note)| *note).collect()
    }

    /// A note whose comments are wanted and not there.
    pub fn lacks(&self, optimistic: &Optimistic) -> Option<i64> {
        let is_there =
            |note: &i64| self.wanted.get(note).is_some_and(|id| optimistic.is_subscribed(*id));
        self.notes.iter().copied().find(|note| !is_there(note))
    }
}

impl World {
    /// The person looks at other notes.
    pub fn look_at_others(&mut self, client: usize) {
        let count = self.rng.random_range(0..4);
        let notes = (0..count).map(|_| self.rng.random_range(NOTES)).collect();
        self.clients[client].asked.notes = notes;
        self.ask_for_comments(client);
    }

    /// Asks for what is wanted and is not asked for, or was refused.
    pub fn ask_for_comments(&mut self, client: usize) {
        let state = &mut self.clients[client];
        state.asked.ask(&mut state.optimistic);
    }

    /// What became of subscriptions.
    pub fn told_of_subscriptions(
        &mut self,
        client: usize,
        subscribed: &[u64],
        refused: &[RefusedSubscription],
    ) {
        for id in subscribed {
            assert!(self.clients[client].optimistic.is_subscribed(*id), "client {client}: {id}");
            self.seen.count("subscriptions that came");
        }
        for RefusedSubscription { id, code, message } in refused {
            assert_eq!(code, "unavailable", "client {client}: {message}");
            self.clients[client].asked.wanted.retain(|_, wanted| wanted != id);
            self.seen.count("subscriptions that do not fit");
        }
    }

    /// What a client wants and has not, in the end.
    pub fn lacks_comments(&self, client: usize) -> Option<String> {
        let unfit = self.postgres.now().database.catalog.unfit();
        let state = &self.clients[client];
        let lacks = state.asked.lacks(&state.optimistic).filter(|_| !unfit.contains(&COMMENT))?;
        Some(format!("it waits for the comments of note {lacks}"))
    }
}
