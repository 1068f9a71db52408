//! What an error of Postgres' means for a mutation: refused for good, worth another try, or Postgres
//! is not there. What a client is told names constraints, columns and tables, and never repeats a
//! value, because the value may be another user's.

use rowtide_plan::write::Rejection;
use rowtide_protocol::RejectCode;
use tokio_postgres::Error;
use tokio_postgres::error::{DbError, SqlState};

use crate::connect::reason;

/// Why a statement of a mutation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The connection is gone, or Postgres cannot work now.
    Away(String),
    /// Another transaction was in the way, or the tables have just changed.
    Conflict(String),
    /// It can never succeed.
    Rejected(Rejection),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error.as_db_error() {
            Some(database) => judge(database),
            None => Failure::Away(reason(&error)),
        }
    }
}

fn judge(error: &DbError) -> Failure {
    let code = error.code();
    let said = || error.message().to_owned();
    let away = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    ];
    let conflict = [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::QUERY_CANCELED,
        // A name or a row that another session made at the same moment.
        SqlState::INVALID_SQL_STATEMENT_NAME,
        SqlState::DUPLICATE_PSTATEMENT,
        // The tables have changed; the plan follows when the stream tells.
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::DATATYPE_MISMATCH,
    ];
    // Classes 08 (connection) and 53 (resources, such as a full disk).
    if away.contains(code) || matches!(&code.code()[..2], "08" | "53") {
        return Failure::Away(said());
    }
    if conflict.contains(code) {
        return Failure::Conflict(said());
    }
    Failure::Rejected(rejection(error))
}

fn rejection(error: &DbError) -> Rejection {
    let of_table = error.table().map_or_else(String::new, |table| format!(" of table `{table}`"));
    let constraint = |message| Rejection::new(RejectCode::Constraint, message);
    match (error.code(), error.constraint(), error.column()) {
        (code, _, Some(column)) if *code == SqlState::NOT_NULL_VIOLATION => {
            constraint(format!("column `{column}`{of_table} must not be null"))
        }
        (code, Some(name), _) if code.code().starts_with("23") => {
            let what = match code.code() {
                "23505" => "there is such a row already",
                "23503" => "a row that is referred to is not there, or is still referred to",
                "23514" => "a value is not allowed",
                _ => "it is violated",
            };
            constraint(format!("constraint `{name}`{of_table}: {what}"))
        }
        (code, _, _) if code.code().starts_with("23") => {
            constraint(format!("a constraint{of_table} is violated ({})", code.code()))
        }
        // Words that the application itself has written, to be read.
        (code, _, _) if *code == SqlState::RAISE_EXCEPTION => constraint(said_briefly(error)),
        (code, _, _) if code.code().starts_with("22") || *code == SqlState::GENERATED_ALWAYS => {
            let what =
                format!("a value does not fit its column{of_table} (SQLSTATE {})", code.code());
            Rejection::new(RejectCode::BadRequest, what)
        }
        (code, _, _) => {
            tracing::error!(
                sqlstate = code.code(),
                said = error.message(),
                "a mutation failed in a way that is not the client's doing"
            );
            let what = format!("the database refused it (SQLSTATE {})", code.code());
            Rejection::new(RejectCode::UnknownError, what)
        }
    }
}

fn said_briefly(error: &DbError) -> String {
    error.message().chars().take(300).collect()
}
