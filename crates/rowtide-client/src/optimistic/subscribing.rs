//! Subscriptions of the optimistic layer. They stand beside the base, because which of them are held is true as of the
//! base's cursor, and changes with the message that changes the cursor. So what a `connect` says of both is said
//! here, at once.

use rowtide_protocol::Subscribe;

use super::Optimistic;
use crate::row::Row;
use crate::subscriptions::{SubscribeError, SubscriptionRequest};

/// For `connect`: where the client goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Resumption {
    /// The cursor of the base; `None` before the first `ready`, and where the subscriptions do not fit into a `connect`.
    pub cursor: Option<String>,
    /// With a cursor those whose rows the base has as of it, and otherwise those that are wanted.
    pub subscriptions: Vec<Subscribe>,
}

impl Optimistic {
    /// Asks for what a query of the definition selects, for as long as the client runs or until
    /// [`Optimistic::unsubscribe`]. Returns its id, which no other has.
    ///
    /// # Errors
    /// When the server could not read it, or there are too many. Only the server knows the query and its parameters.
    pub fn subscribe(&mut self, query: &str, params: Row) -> Result<u64, SubscribeError> {
        self.subscriptions.subscribe(query, params)
    }

    /// Asks no longer. Rows that nothing else selects go with a later message. Does nothing where there is no such
    /// subscription.
    pub fn unsubscribe(&mut self, id: u64) {
        self.subscriptions.unsubscribe(id);
    }

    /// Whether the base has the rows of a subscription, as of its cursor.
    pub fn is_subscribed(&self, id: u64) -> bool {
        self.subscriptions.holds(id)
    }

    /// Begins a connection with what its `connect` says.
    pub fn resume(&mut self) -> Resumption {
        let (subscriptions, resumes) = self.subscriptions.name(self.base.cursor().is_some());
        let cursor = self.base.cursor().filter(|_| resumes).map(str::to_owned);
        Resumption { cursor, subscriptions }
    }

    /// The next thing to send of subscriptions on this connection, each once; `None` if there is none, or before
    /// `connected`.
    pub fn next_subscription_request(&mut self) -> Option<SubscriptionRequest> {
        self.subscriptions.next_to_send()
    }
}

#[cfg(test)]
mod tests {
    use rowtide_protocol::ServerMessage;
    use serde_json::{Value, json};

    use super::*;
    use crate::optimistic::Step;
    use crate::row::row_of;
    use crate::subscriptions::RefusedSubscription;

    fn say(client: &mut Optimistic, message: Value) -> Step {
        client.apply(&ServerMessage::parse(&message.to_string()).unwrap()).unwrap()
    }

    fn connected(mode: &str) -> Value {
        json!({"type": "connected", "protocol": 1, "userId": "ann", "mode": mode, "lastMutation": 0,
            "tables": {"note": {"key": ["id"]}}, "features": ["subscriptions"]})
    }

    fn tx(cursor: &str, subscribed: &[u64], unsubscribed: &[u64]) -> Value {
        json!({"type": "tx", "cursor": cursor, "changes": [],
            "subscribed": subscribed, "unsubscribed": unsubscribed})
    }

    fn refusal(id: u64) -> Value {
        json!({"type": "subscription_error", "id": id, "code": "bad_request", "message": "no"})
    }

    fn ready(cursor: &str) -> Value {
        json!({"type": "ready", "cursor": cursor})
    }

    fn channel(client: &mut Optimistic, channel: u64) -> u64 {
        client.subscribe("channel", row_of(&json!({ "channel": channel })).unwrap()).unwrap()
    }

    /// The ids that a `connect` names, and whether it has a cursor.
    fn named(client: &mut Optimistic) -> (Vec<u64>, bool) {
        let Resumption { cursor, subscriptions } = client.resume();
        (subscriptions.iter().map(|subscribe| subscribe.id).collect(), cursor.is_some())
    }

    fn sent(client: &mut Optimistic) -> Value {
        json!(Vec::from_iter(std::iter::from_fn(|| client.next_subscription_request())))
    }

    #[test]
    fn a_connect_names_what_is_held_and_the_rest_is_asked_for_behind_it() {
        let mut client = Optimistic::new("client-1".to_owned());
        let first = channel(&mut client, 1);
        assert_eq!(named(&mut client), (vec![first], false));
        let second = channel(&mut client, 2);
        assert_eq!(sent(&mut client), json!([]), "nothing before `connected`");
        say(&mut client, connected("snapshot"));
        let params = json!({ "channel": 2 });
        let subscribe =
            json!({"type": "subscribe", "id": second, "query": "channel", "params": params});
        assert_eq!(sent(&mut client), json!([subscribe]));
        assert_eq!(sent(&mut client), json!([]), "each once");
        assert!(!client.is_subscribed(first));
        assert_eq!(say(&mut client, ready("1")).subscribed, [first]);
        client.disconnected();
        assert_eq!(named(&mut client), (vec![first], true), "the second was not held yet");
        client.unsubscribe(first);
        say(&mut client, connected("resume"));
        say(&mut client, ready("2"));
        let unsubscribe = json!({"type": "unsubscribe", "id": first});
        assert_eq!(sent(&mut client), json!([unsubscribe, subscribe]));
        assert_eq!(say(&mut client, tx("3", &[second], &[])).subscribed, [second]);
        assert!(client.is_subscribed(first), "its rows are there until the server says so");
        say(&mut client, tx("4", &[], &[first]));
        client.disconnected();
        assert_eq!(named(&mut client), (vec![second], true));
    }

    #[test]
    fn a_refusal_is_told_once_and_nothing_is_asked_for_again() {
        let mut client = Optimistic::new("client-1".to_owned());
        let (good, bad) = (channel(&mut client, 1), channel(&mut client, 2));
        named(&mut client);
        say(&mut client, connected("snapshot"));
        let refused = say(&mut client, refusal(bad)).refused;
        let (code, message) = ("bad_request".to_owned(), "no".to_owned());
        assert_eq!(refused, [RefusedSubscription { id: bad, code, message }]);
        assert_eq!(say(&mut client, ready("1")).subscribed, [good]);
        assert_eq!(sent(&mut client), json!([]));
        assert!(!client.is_subscribed(bad));
        // A server with another definition knows the other no more. Its rows are there until the snapshot is.
        client.disconnected();
        assert_eq!(named(&mut client), (vec![good], true));
        say(&mut client, connected("snapshot"));
        assert_eq!(say(&mut client, refusal(good)).refused.len(), 1);
        client.disconnected();
        assert_eq!(named(&mut client), (vec![good], true));
        say(&mut client, connected("snapshot"));
        assert_eq!(say(&mut client, refusal(good)).refused, [], "it was told");
        say(&mut client, ready("2"));
        client.disconnected();
        assert_eq!(named(&mut client), (vec![], true));
    }

    #[test]
    fn what_is_ended_before_its_answer_is_asked_no_longer_and_answers_to_it_mean_nothing() {
        let mut client = Optimistic::new("client-1".to_owned());
        say(&mut client, connected("snapshot"));
        say(&mut client, ready("1"));
        let unsent = channel(&mut client, 1);
        client.unsubscribe(unsent);
        assert_eq!(sent(&mut client), json!([]));
        let refused = channel(&mut client, 2);
        sent(&mut client);
        client.unsubscribe(refused);
        assert_eq!(sent(&mut client), json!([{"type": "unsubscribe", "id": refused}]));
        for _ in 0..2 {
            assert_eq!(say(&mut client, refusal(refused)), Step::default());
        }
        let came = channel(&mut client, 3);
        sent(&mut client);
        client.unsubscribe(came);
        sent(&mut client);
        assert_eq!(say(&mut client, tx("2", &[came], &[came])), Step::default());
        assert!(!client.is_subscribed(came));
        client.disconnected();
        assert_eq!(named(&mut client), (vec![], true));
    }

    #[test]
    fn what_does_not_fit_into_a_connect_is_asked_for_behind_it() {
        let mut client = Optimistic::new("client-1".to_owned());
        say(&mut client, connected("snapshot"));
        say(&mut client, ready("1"));
        let text = "x".repeat(5_000);
        let params = row_of(&json!({ "text": text })).unwrap();
        let all: Vec<u64> =
            (0..3).map(|_| client.subscribe("q", params.clone()).unwrap()).collect();
        sent(&mut client);
        say(&mut client, tx("2", &all[..2], &[]));
        client.disconnected();
        assert_eq!(named(&mut client), (all[..2].to_vec(), true));
        say(&mut client, connected("resume"));
        sent(&mut client);
        say(&mut client, tx("3", &all[2..], &[]));
        client.disconnected();
        // No cursor without all that is held.
        assert_eq!(named(&mut client), (all[..2].to_vec(), false));
        say(&mut client, connected("snapshot"));
        say(&mut client, ready("4"));
        assert!(!client.is_subscribed(all[2]), "the snapshot is without its rows");
        assert_eq!(sent(&mut client)[0]["id"], all[2]);
        assert_eq!(say(&mut client, tx("5", &all[2..], &[])).subscribed, &all[2..]);
    }

    #[test]
    fn a_server_without_subscriptions_is_not_asked() {
        let mut client = Optimistic::new("client-1".to_owned());
        let early = channel(&mut client, 1);
        let mut older = connected("snapshot");
        older["features"] = json!(["calls"]);
        assert_eq!(say(&mut client, older).refused[0].id, early);
        assert_eq!(sent(&mut client), json!([]));
        assert_eq!(say(&mut client, ready("1")).subscribed, [0_u64; 0]);
    }

    #[test]
    fn another_user_holds_nothing_of_the_former_ones_and_is_asked_for_the_same() {
        let mut client = Optimistic::new("client-1".to_owned());
        let kept = channel(&mut client, 1);
        named(&mut client);
        say(&mut client, connected("snapshot"));
        say(&mut client, ready("1"));
        client.disconnected();
        client.abandon("client-2".to_owned());
        assert!(!client.is_subscribed(kept));
        assert_eq!(named(&mut client), (vec![kept], false));
    }

    #[test]
    fn what_no_message_can_say_is_refused_at_once() {
        let mut client = Optimistic::new("client-1".to_owned());
        let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
        let deep = client.subscribe("q", row_of(&json!({ "x": deep })).unwrap());
        assert!(matches!(deep, Err(SubscribeError::Depth { .. })), "{deep:?}");
        let long = client.subscribe("q", row_of(&json!({ "x": "x".repeat(2 << 20) })).unwrap());
        assert!(matches!(long, Err(SubscribeError::Size { .. })), "{long:?}");
        let many = (0..2_000).find_map(|_| client.subscribe("q", Row::new()).err());
        assert!(matches!(many, Some(SubscribeError::TooMany { .. })));
    }
}
