//! Definition, read rules, plan and routing.

pub mod catalog;
pub mod filter;
pub mod plan;
pub mod row;
pub mod value;
