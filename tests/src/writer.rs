//! A client that writes, by hand: it numbers its mutations and waits for what becomes of each.

use serde_json::{Value, json};

use crate::{App, Raw};

/// An operation.
pub fn insert(table: &str, row: Value) -> Value {
    json!({ "op": "insert", "table": table, "row": row })
}

/// An operation.
pub fn update(table: &str, row: Value) -> Value {
    json!({ "op": "update", "table": table, "row": row })
}

/// An operation.
pub fn delete(table: &str, row: Value) -> Value {
    json!({ "op": "delete", "table": table, "row": row })
}

/// What became of a mutation.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Code and message, if it was rejected.
    pub rejected: Option<(String, String)>,
    /// All changes that were sent up to its acknowledgement.
    pub changes: Vec<Value>,
}

impl Outcome {
    /// Fails unless it was applied.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn applied(self) -> Vec<Value> {
        assert_eq!(self.rejected, None);
        self.changes
    }

    /// Fails unless it was rejected with this code, and with a message that says `said`. Nothing of it
    /// may have been applied: there are no changes.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn rejected(self, code: &str, said: &str) {
        let Some((is, message)) = self.rejected else { panic!("applied, and not {code}") };
        assert_eq!(is, code, "{message}");
        assert!(message.contains(said), "{message:?} does not say {said:?}");
        assert_eq!(self.changes, [Value::Null; 0]);
    }
}

/// A client of one user.
pub struct Writer {
    /// Its connection.
    pub raw: Raw,
    /// Its client id.
    pub client_id: String,
    next: u64,
}

impl Writer {
    /// A new client that holds its rows.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn live(app: &App, user: &str) -> Writer {
        let client_id = format!("writer-{:016x}", rand::random::<u64>());
        let (writer, _) = Writer::again(app, user, &client_id, 0).await;
        writer
    }

    /// A new client with this token that holds its rows.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn live_with(app: &App, token: &str) -> Writer {
        let mut raw = Raw::open(app).await;
        let connect = Raw::connect(token);
        raw.say(&connect).await;
        raw.until("ready").await;
        let client_id = connect["clientId"].as_str().expect("a text").to_owned();
        Writer { raw, client_id, next: 1 }
    }

    /// A client that comes back, and what `connected` said to it.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn again(app: &App, user: &str, client_id: &str, acked: u64) -> (Writer, Value) {
        let mut raw = Raw::open(app).await;
        raw.say(&json!({
            "type": "connect", "protocol": 1, "clientId": client_id, "token": App::token(user),
            "settled": acked,
        }))
        .await;
        let connected = raw.until("connected").await;
        raw.until("ready").await;
        let next = connected["lastMutation"].as_u64().expect("a number") + 1;
        (Writer { raw, client_id: client_id.to_owned(), next }, connected)
    }

    /// Goes on over another connection, behind the last number that was acknowledged.
    pub fn come_back(&mut self, raw: Raw, last: u64) {
        self.raw = raw;
        self.next = last + 1;
    }

    /// Sends a mutation and waits until it is acknowledged.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn mutate(&mut self, ops: Value) -> Outcome {
        let id = self.send(ops).await;
        self.outcome(id).await
    }

    /// Waits for the next changes; those of one `tx`.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn hears(&mut self) -> Vec<Value> {
        loop {
            let tx = self.raw.tx().await;
            let changes = tx["changes"].as_array().expect("a list");
            if !changes.is_empty() {
                return changes.clone();
            }
        }
    }

    /// The number of the next mutation.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Sends a mutation; its number.
    pub async fn send(&mut self, ops: Value) -> u64 {
        let id = self.next;
        self.next += 1;
        self.send_as(id, ops).await;
        id
    }

    /// Sends a mutation under a number.
    pub async fn send_as(&mut self, id: u64, ops: Value) {
        self.raw.say(&json!({ "type": "mutate", "id": id, "ops": ops })).await;
    }

    /// Waits until a mutation and all before it are acknowledged; numbers and codes of those that were rejected
    /// meanwhile.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn acked_up_to(&mut self, id: u64) -> Vec<(u64, String)> {
        let mut rejected = Vec::new();
        loop {
            let message = match self.raw.hear().await {
                Ok(message) => message,
                Err(ending) => panic!("{ending:?} before mutation {id} was acknowledged"),
            };
            if message["type"] == "reject" {
                let code = message["code"].as_str().expect("a code").to_owned();
                rejected.push((message["id"].as_u64().expect("a number"), code));
            }
            if message["ack"].as_u64() >= Some(id) {
                return rejected;
            }
        }
    }

    /// Waits until a mutation is acknowledged, of which none is under way behind it.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn outcome(&mut self, id: u64) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            let message = match self.raw.hear().await {
                Ok(message) => message,
                Err(ending) => panic!("{ending:?} before mutation {id} was acknowledged"),
            };
            let text = |field: &str| message[field].as_str().unwrap_or_default().to_owned();
            if message["type"] == "reject" && message["id"] == id {
                outcome.rejected = Some((text("code"), text("message")));
            }
            if message["type"] == "tx" {
                outcome.changes.extend(message["changes"].as_array().expect("a list").clone());
                if message["ack"].as_u64() >= Some(id) {
                    return outcome;
                }
            }
        }
    }
}
