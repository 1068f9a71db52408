//! The Rust client: a live replica of the rows that one user may see, which shows the user's own changes at
//! once. [`Client`] keeps a connection, connects again after every interruption as the protocol asks, and
//! reports what changed. [`Optimistic`] is its state: the rows as the server sent them ([`Replica`]), the
//! mutations that are not acknowledged yet, and what is asked for of tables that are synced on demand. It does
//! no I/O.
//!
//! # A client
//!
//! A client needs the URL of a server, a source of tokens, and an id that no other client has: the server
//! counts mutations by it. [`Client::start`] has a queue of mutations that ends with the process;
//! [`Client::open`] keeps them in a [`Storage`], so that what was written without a connection is sent by the
//! next process. Both return at once, and a task of the Tokio runtime does the rest until the client is
//! closed or dropped.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use rowtide_client::{Client, ClientOptions, Event, FileStorage, Status};
//!
//! # async fn example(new_id: String) -> Result<(), Box<dyn std::error::Error>> {
//! let options = ClientOptions {
//!     url: "wss://example.com/sync".to_owned(),
//!     token: Arc::new(|| std::env::var("TOKEN").ok()),
//!     client_id: new_id,
//!     app_version: None,
//! };
//! let mut client = Client::open(options, FileStorage::open("queue.jsonl")?).await?;
//! while let Some(event) = client.next().await {
//!     match event {
//!         Event::Status(Status::Live) => println!("up to date"),
//!         Event::Status(Status::Offline { reason }) => println!("offline: {reason}"),
//!         Event::Changes(changes) => println!("{} rows have changed", changes.len()),
//!         Event::Stopped(error) => return Err(error.into()),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! An owner must receive its events: while some hundreds wait, the client reads nothing more from the server.
//!
//! # Reading
//!
//! [`Client::shown`] is a guard with the rows as they are shown: those of the server with the pending
//! mutations on top. Rows are JSON objects; [`Optimistic::typed`] makes values of a type of them. A
//! row that was just inserted has the columns that were written, and no others until the server's row comes:
//! columns that the database fills in are `#[serde(default)]` in such a type.
//!
//! ```no_run
//! # fn example(client: &rowtide_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct File {
//!     id: String,
//!     name: String,
//!     #[serde(default)]
//!     owner_name: String,
//! }
//!
//! let shown = client.shown();
//! let mut files: Vec<File> = shown.typed("file").collect::<Result<_, _>>()?;
//! files.sort_by(|a, b| a.name.cmp(&b.name));
//! let key = rowtide_client::row_of(&serde_json::json!({ "id": "f1" }))?;
//! println!("{:?}, pending: {}", shown.get("file", &key), shown.is_pending("file", &key));
//! # Ok(())
//! # }
//! ```
//!
//! # Writing
//!
//! A mutation has one or more operations, which the server applies as one transaction or not at all. It shows
//! at once. [`Event::Acked`] says what became of it, which may be after days and in another process.
//!
//! ```no_run
//! use rowtide_client::{Client, Event, Op, Outcome, row_of};
//! use serde_json::json;
//!
//! # async fn example(client: &mut Client) -> Result<(), Box<dyn std::error::Error>> {
//! let id = client.mutate(vec![
//!     Op::update("file", row_of(&json!({ "id": "f1", "name": "Plan B" }))?),
//!     Op::delete("file_state", row_of(&json!({ "userId": "u1", "fileId": "f2" }))?),
//! ])?;
//! while let Some(event) = client.next().await {
//!     let Event::Acked(acked) = event else { continue };
//!     match acked.outcome {
//!         Outcome::Applied if acked.id == id => break,
//!         Outcome::Applied => {}
//!         // Its effects are shown no longer.
//!         Outcome::Rejected { code, message } => println!("{message} ({code})"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Where the database makes the key, an insert leaves it out. Until it is made, [`made_key`] stands for it
//! in this and later mutations, and the row is shown when its key is known: [`Acked::keys`] has it.
//! A call runs what the server's definition has under a name; nothing of it is shown before it is applied.
//!
//! ```no_run
//! use rowtide_client::{Client, Op, made_key, row_of};
//! use serde_json::json;
//!
//! # fn example(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
//! let id = client.mutate(vec![Op::insert("issue", row_of(&json!({ "title": "New" }))?)])?;
//! let comment = json!({ "id": "c1", "issueId": made_key(id, 0, "id"), "text": "Hi" });
//! client.mutate(vec![
//!     Op::insert("comment", row_of(&comment)?),
//!     Op::call("notify", row_of(&json!({ "comment": "c1" }))?),
//! ])?;
//! # Ok(())
//! # }
//! ```
//!
//! # Subscriptions
//!
//! Tables that are synced on demand are empty until the client subscribes to a query that selects rows of
//! them. The rows are then in the tables as all others are, and the subscription holds over all connections.
//!
//! ```no_run
//! use rowtide_client::{Client, Event, row_of};
//! use serde_json::json;
//!
//! # async fn example(client: &mut Client) -> Result<(), Box<dyn std::error::Error>> {
//! let channel = client.subscribe("channel", row_of(&json!({ "channel": 7 }))?)?;
//! while let Some(event) = client.next().await {
//!     match event {
//!         Event::Subscribed(id) if id == channel => break,
//!         Event::SubscriptionRefused(refused) => println!("{} ({})", refused.message, refused.code),
//!         _ => {}
//!     }
//! }
//! println!("{} messages", client.shown().count("message"));
//! client.unsubscribe(channel);
//! # Ok(())
//! # }
//! ```
//!
//! # Without a task
//!
//! [`Optimistic`] is a state machine without clock, socket or storage, for programs that have their own: it
//! takes the server's messages ([`Optimistic::apply`]), and says what to store ([`Optimistic::unstored`])
//! and what to send ([`Optimistic::next_to_send`]).
//!
//! `examples/files.rs` is a small program with all of this: a list in a terminal that goes on without a
//! connection.

mod backoff;
mod client;
mod connection;
mod event;
mod file_storage;
mod journal;
mod op;
mod optimistic;
mod options;
mod overlay;
mod queue;
mod received;
mod replica;
mod row;
mod shared;
mod storage;
mod subscriptions;

pub use client::{Base, Client, Shown};
pub use event::{ClientStatus, ConnectionError, Event, Status};
pub use file_storage::FileStorage;
pub use op::{CallOp, Op, OpKind, RowOp, made_key};
pub use optimistic::{
    Acked, ApplyError, MutateError, Optimistic, Outcome, Outgoing, Resumption, Step,
};
pub use options::{ClientOptions, TokenSource};
pub use queue::{CorruptQueue, Record};
pub use replica::{Replica, ReplicaError, RowChange};
pub use row::{Key, Row, row_of};
pub use storage::{MemoryStorage, Storage, StorageError};
pub use subscriptions::{RefusedSubscription, SubscribeError, SubscriptionRequest};
