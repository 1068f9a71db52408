//! What an error of Postgres' means for a mutation: refused for good, worth another try, or Postgres
//! is not there. What a client is told names constraints, columns and tables, and never repeats a
//! value, because the value may be another user's.

use rowtide_plan::catalog::CatalogTable;
use rowtide_plan::write::{Param, Rejection};
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

/// What a write's statement was sent with, to say what of it was wrong.
pub(super) struct Sent<'a> {
    pub(super) table: &'a CatalogTable,
    pub(super) params: &'a [Param],
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::of(&error, None)
    }
}

impl Failure {
    pub(super) fn of(error: &Error, sent: Option<&Sent<'_>>) -> Failure {
        match error.as_db_error() {
            Some(database) => judge(database, sent),
            None => Failure::Away(reason(error)),
        }
    }
}

impl Sent<'_> {
    /// What Postgres could not read, if it says so: `unnamed portal parameter $2`.
    fn parameter(&self, error: &DbError) -> Option<&Param> {
        let number = error.where_()?.split_once("portal parameter $")?.1;
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        let number: usize = number[..digits].parse().ok()?;
        self.params.get(number.checked_sub(1)?)
    }

    /// A value that was read and does not fit, or could not be read.
    fn misfit(&self, error: &DbError) -> Rejection {
        let (table, code) = (&self.table.name, error.code().code());
        let name = |column: usize| format!("`{}`", self.table.columns[column].name);
        let columns = match self.parameter(error) {
            Some(Param::Claim(..)) => {
                let what =
                    format!("a claim of the token does not fit the rules of table `{table}`");
                return Rejection::new(RejectCode::Forbidden, what);
            }
            Some(Param::Value(column)) => format!("column {}", name(*column)),
            None => {
                let mut columns: Vec<usize> = Vec::new();
                for param in self.params {
                    match param {
                        Param::Value(column) if !columns.contains(column) => columns.push(*column),
                        _ => {}
                    }
                }
                let names: Vec<String> = columns.into_iter().map(name).collect();
                format!("one of the columns {}", names.join(", "))
            }
        };
        let what =
            format!("{columns} of table `{table}` does not take this value (SQLSTATE {code})");
        Rejection::new(RejectCode::BadRequest, what)
    }

    /// Which column a domain's constraint, that knows of no table, was for.
    fn of_column(&self, error: &DbError) -> String {
        match self.parameter(error) {
            Some(Param::Value(column)) => {
                let (column, table) = (&self.table.columns[*column].name, &self.table.name);
                format!(" of column `{column}` of table `{table}`")
            }
            _ => format!(" of table `{}`", self.table.name),
        }
    }
}

fn judge(error: &DbError, sent: Option<&Sent<'_>>) -> Failure {
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
        // Of a statement that was sent behind one that failed, whose error is the one that counts.
        SqlState::IN_FAILED_SQL_TRANSACTION,
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
    if away.contains(code) || matches!(code.code().get(..2), Some("08" | "53")) {
        return Failure::Away(said());
    }
    if conflict.contains(code) {
        return Failure::Conflict(said());
    }
    Failure::Rejected(rejection(error, sent))
}

fn rejection(error: &DbError, sent: Option<&Sent<'_>>) -> Rejection {
    let of_table = match (error.table(), sent) {
        (Some(table), _) => format!(" of table `{table}`"),
        (None, Some(sent)) => sent.of_column(error),
        (None, None) => String::new(),
    };
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
            sent.map_or_else(
                || Rejection::new(RejectCode::BadRequest, "a value does not fit its column"),
                |sent| sent.misfit(error),
            )
        }
        // The limits of Postgres itself, such as what an index takes.
        (code, index, _) if code.code().starts_with("54") => {
            let index = index.map_or_else(String::new, |index| format!(" for `{index}`"));
            let what = format!("a value{of_table} is too large{index} (SQLSTATE {})", code.code());
            Rejection::new(RejectCode::TooLarge, what)
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
