//! Why a mutation is rejected. The code tells the application what to do, and the message tells the developer
//! what was wrong. Both are stored in the client's row until the client has been told.

use rowtide_protocol::RejectCode;

use crate::error::did_you_mean;
use crate::ids::TableId;

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

/// Why an operation cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Why it is rejected, if the table is as the plan says.
    pub rejection: Rejection,
    /// The table whose columns the plan was asked for; `None` if none was.
    pub table: Option<TableId>,
}

/// At most so much of a client's text is said back.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

pub(super) fn meant<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> String {
    match did_you_mean(&shown(wrong), names) {
        Some(close) => format!("; did you mean `{close}`?"),
        None => String::new(),
    }
}
