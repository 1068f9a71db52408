//! How far the statements of a mutation have come. All are sent together, so no answer can stop the next one: a setting of
//! the transaction does. Each statement does something only if the one before has come as far as it must, and passes that on.

/// What a statement has written, as a common table expression. No table that a rule may speak of has its name.
pub(super) const WRITTEN: &str = "\"rowtide written\"";

/// What lets the next write of a transaction begin, as an expression.
pub const GO_ON: &str = "pg_catalog.set_config('rowtide.step', 'next', true)";
pub(super) const NEXT: &str = "pg_catalog.current_setting('rowtide.step', true) = 'next'";
/// The row of an update or a delete is locked.
pub(super) const HAS_LOCK: &str = "pg_catalog.current_setting('rowtide.step', true) = 'locked'";

/// Goes on to `step` where the condition holds, and otherwise does nothing more.
pub(super) fn step(condition: &str, step: &str) -> String {
    format!(
        "pg_catalog.set_config('rowtide.step', CASE WHEN {condition} THEN '{step}' ELSE 'stop' END, true)"
    )
}
