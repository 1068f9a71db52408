//! Who may be in which live document. Rules over the document's row say what somebody may do, Postgres judges them, and
//! the feed says when they are to be judged again. [`watching`] decides whose standing is asked for and who is told; the
//! rest is a thin shell around it.

mod chores;
mod documents;
mod doorkeeper;
mod endpoint;
pub mod limits;
mod telemetry;
mod touching;
pub mod watching;

pub use documents::{Documents, DocumentsError, DocumentsOptions, storage_of};
pub use doorkeeper::{AtDoor, Doorkeeper, RowNews};
