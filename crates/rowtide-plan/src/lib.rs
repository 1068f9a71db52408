//! Definition, read rules and plan: what an application says of its tables, compiled into what the
//! server does with each row. Pure: the catalog is handed in, and nothing here does I/O.

pub mod catalog;
pub mod check;
pub mod claims;
pub mod compile;
pub mod definition;
pub mod encode;
pub mod error;
pub mod explain;
pub mod filter;
mod fingerprint;
mod json;
pub mod plan;
pub mod row;
mod rule;
pub mod sql;
pub mod value;
pub mod write;
