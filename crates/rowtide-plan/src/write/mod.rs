//! Writes: the operations of a mutation in terms of the plan, and the statements that judge and do them. A
//! mutation's values become parameters and its names come from the catalog, so no text of a client ever
//! becomes SQL. Everything here is pure. `rowtide-postgres` runs the statements in one transaction and passes
//! the answers back.

mod as_role;
mod call;
mod columns;
mod input;
mod made;
mod op;
mod params;
mod rejection;
mod statement;
mod steps;
mod verdict;
mod visible;

pub use as_role::write_as_role;
pub use call::{Call, go_on_or_fail, misfit, run};
pub use made::{KnownKeys, REFERABLE_MUTATIONS};
pub use op::{Operation, Tolerance, Write};
pub use params::{Param, Statement};
pub use rejection::{MAX_MESSAGE_CHARS, Rejection, Unreadable};
pub use statement::{
    RuleStatement, document_rule_statements, limit_lock, lock, rule_statements, write,
};
pub use steps::GO_ON;
pub use verdict::{WriteVerdict, insert_refused};
