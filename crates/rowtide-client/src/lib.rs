//! The Rust client: a live replica of the rows that one user may see, which shows the user's own changes at
//! once. [`Optimistic`] is the state: the rows as the server sent them ([`Replica`]) and the mutations that
//! are not acknowledged yet, with what is asked for of tables that are synced on demand. It does no I/O. [`Client`] keeps a connection, connects again after every
//! interruption as the protocol asks, and reports what changed.
//!
//! ```no_run
//! # async fn example(options: rowtide_client::ClientOptions) -> Result<(), Box<dyn std::error::Error>> {
//! use rowtide_client::{Client, Event, FileStorage, Op, row_of};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct File {
//!     id: String,
//!     name: String,
//! }
//!
//! let mut client = Client::open(options, FileStorage::open("queue.jsonl")?).await?;
//! let plan = File { id: "f1".to_owned(), name: "Plan".to_owned() };
//! let id = client.mutate(vec![Op::insert("file", row_of(&plan)?)])?;
//! // What a query of the definition selects, of tables that are not sent by themselves.
//! let shapes = client.subscribe("shapes", row_of(&serde_json::json!({ "file": "f1" }))?)?;
//! while let Some(event) = client.next().await {
//!     match event {
//!         Event::Changes(_) => {
//!             let files: Vec<File> = client.shown().typed("file").collect::<Result<_, _>>()?;
//!             println!("{} files", files.len());
//!         }
//!         Event::Acked(acked) if acked.id == id => println!("{:?}", acked.outcome),
//!         Event::Subscribed(subscribed) if subscribed == shapes => println!("the shapes are there"),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```

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
pub use op::{CallOp, Op, OpKind, RowOp};
pub use optimistic::{
    Acked, ApplyError, MutateError, Optimistic, Outcome, Outgoing, Resumption, Step,
};
pub use options::{ClientOptions, TokenSource};
pub use queue::{CorruptQueue, Record};
pub use replica::{Replica, ReplicaError, RowChange};
pub use row::{Key, Row, row_of};
pub use storage::{MemoryStorage, Storage, StorageError};
pub use subscriptions::{RefusedSubscription, SubscribeError, SubscriptionRequest};
