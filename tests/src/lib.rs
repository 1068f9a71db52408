//! The kit of the tests that cross crates: one private cluster for each test binary, a database for
//! each test, a server over it, and a way to wait for something without sleeping for a guess.

mod app;
mod at_document;
mod captured;
mod command;
mod database;
mod dir;
mod eventually;
mod fleet;
mod node;
mod older;
mod pooler;
pub mod proxy;
mod raw;
pub mod samples;
mod scribe;
pub mod small;
mod tab;
pub mod torture;
mod truth;
mod writer;

pub use app::{App, SECRET, flushed};
pub use at_document::{AtDocument, Came, Drawer, Texter};
pub use captured::{Captured, warnings};
pub use command::{Running, Said, rowtide, rowtide_bench, said, serve};
pub use database::{Database, cluster};
pub use dir::Dir;
pub use eventually::{PATIENCE, eventually};
pub use fleet::{Fleet, Member, free_address};
pub use node::Node;
pub use older::Older;
pub use pooler::Pooler;
pub use raw::{Bystander, Ending, Raw, asked, http, http_get};
pub use scribe::{Scribe, Tally};
pub use tab::{Tab, TabTally};
pub use truth::{Rows, held, truth};
pub use writer::{Outcome, Writer, delete, insert, update};
