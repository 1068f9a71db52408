//! Why a mutation cannot be made, and why a message cannot be applied.

use thiserror::Error;

use crate::replica::ReplicaError;

/// Why a mutation was not made. Nothing of it is shown or sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MutateError {
    /// Too many operations, or none.
    #[error("a mutation has 1 to {max} operations, not {count}")]
    Ops {
        /// How many it had.
        count: usize,
        /// How many it may have.
        max: usize,
    },
    /// An operation without the row's whole primary key.
    #[error("an operation on table `{table}` needs the key column `{column}`")]
    NoKey {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// An argument of a call is nested too deeply.
    #[error("argument `{argument}` of `{call}` is nested more than {max} levels deep")]
    ArgumentDepth {
        /// The name of what is called.
        call: String,
        /// The argument.
        argument: String,
        /// The most levels.
        max: usize,
    },
    /// A value that is nested too deep.
    #[error("the value of `{column}` in table `{table}` is nested more than {max} levels deep")]
    Depth {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// How many levels it may have.
        max: usize,
    },
    /// The mutation does not fit into a message.
    #[error("the mutation has {bytes} bytes; at most {max} can be sent")]
    Size {
        /// The size of its operations as JSON.
        bytes: usize,
        /// The most.
        max: usize,
    },
    /// Too many mutations wait for their acknowledgement.
    #[error("{pending} mutations wait for the server; no more can be kept")]
    QueueFull {
        /// How many wait.
        pending: usize,
    },
    /// Earlier mutations cannot be stored.
    #[error("mutations cannot be stored: {0}")]
    Storage(String),
    /// The client has stopped for good.
    #[error("the client has stopped")]
    Stopped,
}

/// Why a message was not applied. The connection has to end then.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// The server broke the protocol.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// The signed-in user is not the one whom the queue belongs to; see
    /// [`crate::Optimistic::abandon`].
    #[error("{} is signed in, but the pending mutations belong to another user", user_id.as_deref().map_or_else(|| "nobody".to_owned(), |id| format!("`{id}`")))]
    OtherUser {
        /// Who is signed in, if somebody is.
        user_id: Option<String>,
    },
}
