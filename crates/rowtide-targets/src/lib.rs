//! What is fuzzed. Each target is a function over any bytes that panics if a promise is broken and otherwise says in a
//! word what came of them. `fuzz/` gives them to libFuzzer; [`drive`] gives them mutated seeds on stable Rust and keeps
//! what came to something new, so every test run fuzzes for a moment, and for longer where it is asked to.

mod driver;
mod mutate;
mod plan;
mod seeds;
mod targets;

pub use driver::{Budget, Found, drive, seconds};
pub use targets::{Target, all, run};
