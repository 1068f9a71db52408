//! How long a mutation waits for others': a user who has nothing waiting or running, and was served nothing yet,
//! waits for at most one mutation each of the others to start, however much they have.

use std::collections::BTreeMap;

use crate::data::USERS;

/// What is watched of one server.
#[derive(Default)]
pub struct Fairness {
    /// How many mutations of each user wait or run.
    waiting: BTreeMap<String, u64>,
    /// Who was served, or had to wait otherwise.
    known: BTreeMap<String, ()>,
    /// How many mutations of others have started since the first of a user arrived.
    first: BTreeMap<String, usize>,
}

impl Fairness {
    /// A mutation of a user has arrived.
    pub fn arrive(&mut self, user: &str) {
        let waiting = self.waiting.entry(user.to_owned()).or_default();
        *waiting += 1;
        if *waiting == 1 && self.known.insert(user.to_owned(), ()).is_none() {
            self.first.insert(user.to_owned(), 0);
        }
    }

    /// A mutation of a user starts. How many of others have started since it came, if it is the user's first.
    ///
    /// # Panics
    /// When it has waited for more than one of each of the others.
    pub fn start(&mut self, user: &str) -> Option<usize> {
        for (other, started) in &mut self.first {
            if other != user {
                *started += 1;
            }
        }
        let waited = self.first.remove(user)?;
        assert!(waited < USERS.len(), "{user} has waited for {waited} mutations of others");
        Some(waited)
    }

    /// One of a user's is done, or given up.
    pub fn end(&mut self, user: &str) {
        if let Some(waiting) = self.waiting.get_mut(user) {
            *waiting = waiting.saturating_sub(1);
        }
    }

    /// What waited of a user was let go.
    pub fn let_go(&mut self, user: &str) {
        self.first.remove(user);
    }
}
