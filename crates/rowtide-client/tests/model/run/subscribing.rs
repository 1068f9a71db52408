//! What an application asks for in a run, and what it must be told of it.

use rand::Rng;
use rowtide_client::{Step, row_of};
use rowtide_protocol::ServerMessage;
use serde_json::json;

use super::ModelRun;
use crate::server::{Selected, read_cursor};

impl ModelRun {
    /// The application asks for more, or for less.
    pub(super) fn subscribe(&mut self) {
        if self.rng.random_bool(0.4)
            && let Some(id) = self.wanted.keys().next().copied()
        {
            self.client.unsubscribe(id);
            self.wanted.remove(&id);
            return;
        }
        let note = self.rng.random_range(0..3);
        let query = if self.rng.random_bool(0.9) { "marks" } else { "nothing" };
        let id = self.client.subscribe(query, row_of(&json!({ "note": note })).unwrap()).unwrap();
        assert_eq!(self.wanted.insert(id, json!(note)), None, "an id that is in use");
    }

    /// What must follow from a message for subscriptions; which one the application is told to be refused.
    pub(super) fn hold(&mut self, message: &ServerMessage) -> Option<u64> {
        match message {
            ServerMessage::Ready { cursor } => {
                let (_, held) = read_cursor(cursor, self.user);
                self.held = held;
            }
            ServerMessage::Tx { cursor, unsubscribed, .. } => {
                let (_, held) = read_cursor(cursor, self.user);
                self.held = held;
                self.coverage.unsubscribed += unsubscribed.len() as u64;
            }
            ServerMessage::SubscriptionError { id, .. } => {
                return self.wanted.remove(id).map(|_| *id);
            }
            _ => {}
        }
        None
    }

    /// What the application is told of subscriptions, where the client held those of `before`.
    pub(super) fn check_subscriptions(
        &mut self,
        step: &Step,
        refused: Option<u64>,
        before: &Selected,
    ) {
        let told: Vec<u64> = step.refused.iter().map(|refused| refused.id).collect();
        assert_eq!(told, Vec::from_iter(refused), "what is refused is told once");
        let news = |id: &&u64| self.wanted.contains_key(id) && !before.contains_key(id);
        let news: Vec<u64> = self.held.keys().filter(news).copied().collect();
        assert_eq!(step.subscribed, news, "what is there is told when it is");
        self.coverage.subscribed += news.len() as u64;
        self.coverage.subscriptions_refused += told.len() as u64;
    }
}
