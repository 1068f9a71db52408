//! The kit of the tests that cross crates: one private cluster for each test binary, a database for
//! each test, a server over it, and a way to wait for something without sleeping for a guess.

mod app;
mod database;
mod eventually;
mod truth;

pub use app::{App, SECRET};
pub use database::{Database, cluster};
pub use eventually::eventually;
pub use truth::{Rows, held, truth};
