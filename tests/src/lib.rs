//! The kit of the tests that cross crates: one private cluster for each test binary, a database for
//! each test, and a way to wait for something without sleeping for a guess.

mod database;
mod eventually;

pub use database::{Database, cluster};
pub use eventually::eventually;
