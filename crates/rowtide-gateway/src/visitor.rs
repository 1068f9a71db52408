//! Who has come: the bearer of a token, or somebody without one, whom a definition may let in to read. Of those
//! without a token nothing is kept: no client id is claimed, and their mutations are rejected on the spot, so that a
//! stranger costs the database nothing but the rows that everyone sees. Their numbers are acknowledged all the same,
//! in order and in the stream, because a client waits for that. Pure.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rowtide_postgres::mutate::Author;
use rowtide_protocol::{Connect, Cursor, RejectCode, TxParts, reject_frame, tx_frame};

use crate::auth::Identity;
use crate::conversation::Known;

/// Who has come.
#[derive(Clone, Debug)]
pub(crate) enum Visitor {
    /// The bearer of a token.
    User(Identity),
    /// Somebody without one.
    Anonymous,
}

impl Visitor {
    /// How long they may stay, at `unix`, the time since 1970.
    pub(crate) fn remaining(&self, unix: Duration) -> Duration {
        match self {
            Visitor::User(identity) => identity.remaining(unix),
            Visitor::Anonymous => Duration::MAX,
        }
    }

    /// For whom rules are judged; `None`: for nobody.
    pub(crate) fn author(&self) -> Option<&Arc<Author>> {
        match self {
            Visitor::User(identity) => Some(&identity.author),
            Visitor::Anonymous => None,
        }
    }

    /// The user's id, if there is a user.
    pub(crate) fn user_id(&self) -> Option<&str> {
        self.author().map(|author| author.user_id.as_str())
    }
}

/// What is known of a client without a token: what it says itself. Its numbers go on behind those.
pub(crate) fn known_of_nobody(connect: &Connect) -> Known {
    let told = connect.acked.max(connect.outcomes_known);
    let last_mutation = told.unwrap_or(0).min(i64::MAX as u64);
    Known { last_mutation, ..Known::default() }
}

/// The frames that reject the mutations from `first` to `last` and acknowledge all up to `acked`, for a client that
/// stands at `cursor`.
pub(crate) fn turn_down(
    first: u64,
    last: u64,
    acked: u64,
    cursor: Cursor,
) -> impl Iterator<Item = Bytes> {
    let code = RejectCode::Forbidden;
    let message = "whoever has no token writes nothing: connect with one";
    let rejected = (first..=last).map(move |id| reject_frame(id, code.as_str(), message));
    rejected.chain([tx_frame(cursor, [], TxParts { ack: Some(acked), ..TxParts::default() })])
}
