//! The words that travel between a Rowtide client and the server, as types: messages, cursors, log
//! positions and codes. `docs/protocol.md` is the contract; this crate is its one reading in Rust,
//! used by the server and by the client alike. Everything that arrives from outside is parsed here,
//! once, into types that cannot be wrong. No I/O.

mod client_message;
mod code;
mod cursor;
mod deflate;
mod frame;
mod made_key;
mod server_message;

pub use client_message::{
    BadMessage, CallOp, ClientId, ClientMessage, Connect, MAX_OPS, Mutate, Op, OpKind, OpValue,
    RowOp, Subscribe,
};
pub use code::{ErrorCode, RejectCode, SubscriptionCode};
pub use cursor::{Cursor, Epoch, InvalidCursor, InvalidLsn, Lsn, ViewId};
pub use deflate::{DEFLATE, DEFLATE_FROM_BYTES, Deflated, InflateError, TextFrame, inflate};
pub use frame::{
    TxParts, connected_frame, delete_change, error_frame, pong_frame, put_change, ready_frame,
    reject_frame, snapshot_frame, subscription_error_frame, tx_frame,
};
pub use made_key::{KeyReference, MadeKey};
pub use server_message::{ChangedRow, Connected, Mode, Rejected, ServerMessage, TableKey};

/// The version of the protocol that this crate speaks.
pub const PROTOCOL_VERSION: u64 = 1;

/// The WebSocket subprotocol that a client offers and the server echoes.
pub const SUBPROTOCOL: &str = "rowtide.v1";
