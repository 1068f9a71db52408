//! The kit of the tests that cross crates: one private cluster for each test binary, a database for
//! each test, a server over it, and a way to wait for something without sleeping for a guess.

mod app;
mod command;
mod database;
mod dir;
mod eventually;
mod older;
pub mod proxy;
mod raw;
pub mod small;
mod truth;
mod writer;

pub use app::{App, SECRET};
pub use command::{Running, Said, rowtide, said};
pub use database::{Database, cluster};
pub use dir::Dir;
pub use eventually::eventually;
pub use older::Older;
pub use raw::{Bystander, Ending, Raw, http, http_get};
pub use truth::{Rows, held, truth};
pub use writer::{Outcome, Writer, delete, insert, update};
