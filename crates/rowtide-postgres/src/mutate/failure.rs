//! Classifies Postgres' errors for a mutation: Rowtide rejects the mutation, tries it again, or waits for
//! Postgres. The message for the client names constraints, columns and tables. It never repeats a value,
//! because the value may be another user's.

use rowtide_plan::catalog::CatalogTable;
use rowtide_plan::write::{Param, Rejection};
use rowtide_protocol::RejectCode;
use tokio_postgres::Error;
use tokio_postgres::error::{DbError, SqlState};

use crate::connect::{message_without_values, reason};

/// Why a statement of a mutation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The connection is lost, or Postgres cannot work now.
    Away(String),
    /// Another transaction was in the way, or the tables have just changed.
    Conflict(String),
    /// The mutation can never succeed.
    Rejected(Rejection),
}

/// The table and the parameters of a statement, to find the column that an error is about.
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
    /// The parameter that Postgres could not read, if the error names it: `unnamed portal parameter $2`.
    fn parameter(&self, error: &DbError) -> Option<&Param> {
        let number = error.where_()?.split_once("portal parameter $")?.1;
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        let number: usize = number[..digits].parse().ok()?;
        self.params.get(number.checked_sub(1)?)
    }

    /// The rejection of a value that Postgres could not read, or that does not fit.
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

    /// Names the column, or else the table, for the error of a domain's constraint, which names neither.
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
    let said = || message_without_values(error);
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
        // The error of a statement behind one that failed; the first error counts.
        SqlState::IN_FAILED_SQL_TRANSACTION,
        // Another session made the same name or row at the same time.
        SqlState::INVALID_SQL_STATEMENT_NAME,
        SqlState::DUPLICATE_PSTATEMENT,
        // The tables have changed. The plan changes when the stream says so.
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::DATATYPE_MISMATCH,
    ];
    // A right of the server's own role, which is granted sooner or later; row-level security and triggers say no in the
    // same class, and mean the row.
    let not_granted = *code == SqlState::INSUFFICIENT_PRIVILEGE
        && error.routine().is_some_and(|routine| routine.starts_with("aclcheck"));
    if not_granted {
        return Failure::Away(said());
    }
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
        // The application's trigger has written this message for its users.
        (code, _, _) if *code == SqlState::RAISE_EXCEPTION => constraint(said_briefly(error)),
        (code, _, _) if code.code().starts_with("22") || *code == SqlState::GENERATED_ALWAYS => {
            sent.map_or_else(
                || Rejection::new(RejectCode::BadRequest, "a value does not fit its column"),
                |sent| sent.misfit(error),
            )
        }
        // Postgres' own limits, such as the size of an index entry.
        (code, index, _) if code.code().starts_with("54") => {
            let index = index.map_or_else(String::new, |index| format!(" for `{index}`"));
            let what = format!("a value{of_table} is too large{index} (SQLSTATE {})", code.code());
            Rejection::new(RejectCode::TooLarge, what)
        }
        (code, _, _) => {
            tracing::error!(
                sqlstate = code.code(),
                said = message_without_values(error),
                "a mutation failed in a way that is not the client's doing"
            );
            let what = format!("the database rejected it (SQLSTATE {})", code.code());
            Rejection::new(RejectCode::UnknownError, what)
        }
    }
}

fn said_briefly(error: &DbError) -> String {
    error.message().chars().take(300).collect()
}
