//! Why a mutation is rejected. The code tells the application what to do, and the message tells the developer
//! what was wrong. Both are stored in the client's row until the client has been told.

use rowtide_protocol::RejectCode;

/// The longest message of a rejection, in characters; what is beyond is left out.
pub const MAX_MESSAGE_CHARS: usize = 400;

/// Why a mutation is rejected. The message names columns, rules and constraints. It never has values from
/// another user's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The code of the `reject`.
    pub code: RejectCode,
    /// For the developer.
    pub message: String,
}

impl Rejection {
    /// A rejection with this message. The message may repeat what a client sent, and it is stored in the
    /// database. So it is cut to [`MAX_MESSAGE_CHARS`], and control characters become spaces (Postgres
    /// cannot store NUL).
    pub fn new(code: RejectCode, message: impl AsRef<str>) -> Rejection {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        Rejection {
            code,
            message: message.as_ref().chars().take(MAX_MESSAGE_CHARS).map(plain).collect(),
        }
    }
}
