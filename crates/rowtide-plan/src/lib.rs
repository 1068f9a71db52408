//! Definition, read rules and plan. The definition says which rows of a table a user may see and write; this
//! crate compiles it into a plan, which says what the server does with each row. The caller passes the
//! catalog: nothing here does I/O.

pub mod calls;
pub mod catalog;
pub mod check;
pub mod claims;
mod columns;
pub mod compile;
pub mod default_value;
pub mod definition;
pub mod document_sql;
pub mod documents;
pub mod draft;
pub mod encode;
pub mod error;
pub mod explain;
mod extension;
pub mod filter;
mod fingerprint;
mod ids;
mod json;
pub mod judged_rule;
pub mod map;
mod operand;
pub mod plan;
mod prefixed;
pub mod queries;
mod reach;
pub mod row;
mod rule;
pub mod secrets;
mod select;
pub mod sql;
mod sql_text;
pub mod value;
pub mod window;
pub mod write;
pub mod write_rules;
