//! The feed: one interface between what reads Postgres and what serves clients. Committed transactions
//! travel through it in commit order, each routed already, together with what there is to say about the
//! database. Whoever follows it sees by the previous position of each event whether it has missed one, and
//! then asks for what is between. In one process it is a bounded ring of shared batches; nothing in the
//! interface needs both sides to be in one process.

mod change;
pub mod codec;
mod event;
mod follower;
mod past;
mod ring;
mod subscription;

pub use change::{Acknowledgement, Change, Changes, History, RowChange, Transaction};
pub use event::{EpochReason, Event, Fingerprint};
pub use follower::{Follower, Taken};
pub use past::{HistoryQuery, PastError};
pub use ring::{Ring, Since};
pub use subscription::{
    Feed, FeedEnded, FeedState, FollowError, Generation, LogExtent, Publisher, ReplicatorStatus,
    Request, Subscription, feed,
};
