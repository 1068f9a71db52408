//! Who may be in which live document, and what is done with documents because of their rows. Rules over the document's row
//! say what somebody may do, Postgres judges them, and the feed says when they are to be judged again: [`watching`] decides
//! whose standing is asked for and who is told. The feed says as well which rows are gone, or are to be published:
//! `effects` decides what is done about them. The rest is a thin shell around these two.

mod beginning;
mod carrying;
mod closed;
mod desk;
mod documents;
mod doorkeeper;
mod effects;
mod endpoint;
mod last_words;
mod ledger;
pub mod limits;
mod marks;
mod names;
mod pages;
mod publications;
mod reconciling;
mod rendered;
mod saying;
mod telemetry;
mod touching;
pub mod watching;
mod working;

pub use documents::{Documents, DocumentsError, DocumentsOptions, storage_of};
pub use doorkeeper::{AtDoor, Doorkeeper};
pub use ledger::{FailedEffect, LedgerError, failed_effects, repeat_effects};
