//! Definition, read rules and plan: what an application says of its tables, compiled into what the
//! server does with each row. Pure: the catalog is handed in, and nothing here does I/O.

pub mod catalog;
pub mod claims;
pub mod encode;
pub mod filter;
mod json;
pub mod plan;
pub mod row;
pub mod sql;
pub mod value;
