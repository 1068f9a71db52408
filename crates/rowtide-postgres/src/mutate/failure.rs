//! Classifies Postgres' errors for a mutation: Rowtide rejects the mutation, tries it again, or waits for
//! Postgres. Only what the mutation itself has caused rejects it. A statement that does not fit the database is
//! not the client's doing, and neither is a trigger that is broken; which of the two it is, is told by where
//! Postgres was when it failed. The message for the client names constraints, columns, tables and functions. It never
//! repeats a value, because the value may be another user's.

use std::fmt;

use rowtide_plan::catalog::CatalogTable;
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::write::{Param, Rejection, insert_refused, misfit};
use rowtide_protocol::RejectCode;
use tokio_postgres::Error;
use tokio_postgres::error::{DbError, ErrorPosition, SqlState};

use super::MutateError;
use crate::connect::{message_without_values, reason};
use crate::context::{function, parameter, place, stands_in};

/// Why a statement of a mutation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The connection is lost, or Postgres cannot work now.
    Away(String),
    /// Another transaction was in the way.
    Conflict(String),
    /// The statement was ended because it took too long.
    Slow(String),
    /// Something of the application's in the database fails, such as a trigger: by itself, or because the tables have
    /// changed and the plan has not yet.
    Broken(BrokenTrigger),
    /// The mutation can never succeed.
    Rejected(Rejection),
}

/// What fails in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenTrigger {
    sqlstate: String,
    /// The function that failed, if Postgres names one, and the line of it.
    function: Option<String>,
    place: Option<String>,
    /// Rowtide's statement.
    statement: String,
    /// What Postgres does not understand of a text of the function's.
    misread: Option<Box<Misread>>,
}

/// A text that Postgres could not read as a statement, and what it says of it. It quotes that text alone, and what was
/// put together when it ran may have values in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Misread {
    text: String,
    said: String,
}

impl fmt::Display for BrokenTrigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SQLSTATE {}", self.sqlstate)?;
        self.place.as_ref().map_or(Ok(()), |place| write!(f, ", {place}"))
    }
}

impl BrokenTrigger {
    /// The function, as Postgres names it.
    pub(super) fn function(&self) -> Option<&str> {
        self.function.as_deref()
    }

    /// The rejection of a mutation that meets it, and an error for whoever runs the database. Of the function's own
    /// statement is told what stands in its source.
    pub(super) fn rejection(&self, source: Option<&str>) -> Rejection {
        let BrokenTrigger { sqlstate, function, place, statement, misread } = self;
        let what = match function {
            Some(function) => format!("function `{function}` of the database fails"),
            None => "the database does not do it".to_owned(),
        };
        let written =
            |misread: &&Misread| source.is_some_and(|source| stands_in(&misread.text, source));
        let misread = misread.as_deref().filter(written);
        tracing::error!(
            sqlstate,
            function,
            place,
            statement,
            said = misread.map(|misread| &misread.said),
            inner = misread.map(|misread| &misread.text),
            "a mutation was rejected because something in the database fails; no client has caused that"
        );
        Rejection::new(RejectCode::UnknownError, format!("{what} (SQLSTATE {sqlstate})"))
    }
}

/// The table, the text and the parameters of a statement, to find what an error is about.
pub(super) struct Sent<'a> {
    pub(super) table: &'a CatalogTable,
    /// The columns that clients are not told of.
    pub(super) hidden: &'a [usize],
    /// The table's name on the wire.
    pub(super) name: &'a str,
    pub(super) sql: &'a str,
    pub(super) params: &'a [Param],
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::of(&error, None)
    }
}

impl Failure {
    pub(super) fn of(error: &Error, sent: Option<&Sent<'_>>) -> Failure {
        Failure::of_whom(error, sent, None)
    }

    /// As [`Failure::of`], of what was done as this role: its rights are those of the client.
    pub(super) fn of_whom(error: &Error, sent: Option<&Sent<'_>>, role: Option<&str>) -> Failure {
        match error.as_db_error() {
            Some(database) if role.is_some() && is_no_right(database) => {
                let of = sent.map_or_else(String::new, |sent| format!(" of table `{}`", sent.name));
                let what = format!("the rights of your role in the database do not allow this{of}");
                Failure::Rejected(Rejection::new(RejectCode::Forbidden, what))
            }
            Some(database) => judge(database, sent),
            None => Failure::Away(reason(error)),
        }
    }

    /// As [`Failure::of_whom`], of the statement of a named mutation. What is raised on purpose there is for the caller, who is
    /// told the code that the application has put into the hint.
    pub(super) fn of_call(
        error: &Error,
        plan: &Plan,
        call: usize,
        params: &[Param],
        role: Option<&str>,
    ) -> Failure {
        let Some(database) = error.as_db_error() else { return Failure::of(error, None) };
        let code = database.code().code();
        if let Some(rejection) = raised_by_call(database) {
            return Failure::Rejected(rejection);
        }
        let param = database.where_().and_then(parameter);
        let param = param.and_then(|number| params.get(number.checked_sub(1)?));
        let class = code.get(..2).unwrap_or_default();
        // Values of some types are names of what is in the catalog, and a domain has constraints.
        let of_value = matches!(class, "22" | "23" | "3F" | "42" | "55") && !is_inside(database);
        if let Some(rejection) = misfit(plan, call, param, code).filter(|_| of_value) {
            return Failure::Rejected(rejection);
        }
        match Failure::of_whom(error, None, role) {
            // Of the text of the statement Postgres says where in it something is amiss, and that may be mended. What it says of
            // no place it met as it ran, and would meet again: `params.name::regclass` of a table that is not there.
            Failure::Away(_)
                if matches!(class, "3F" | "42" | "55")
                    && database.position().is_none()
                    && *database.code() != SqlState::INSUFFICIENT_PRIVILEGE
                    && *database.code() != SqlState::LOCK_NOT_AVAILABLE =>
            {
                broken(database, None)
            }
            other => other,
        }
    }

    /// Of a commit: of a mutation that calls what has a name, or of another.
    pub(super) fn of_commit(error: &Error, has_call: bool, role: Option<&str>) -> Failure {
        match error.as_db_error().filter(|_| has_call).and_then(raised_by_call) {
            Some(rejection) => Failure::Rejected(rejection),
            None => Failure::of_whom(error, None, role),
        }
    }

    /// Of an insert that the role does, and that was allowed as the server saw it. That it is refused is told in the words
    /// in which a row is kept secret that is there.
    pub(super) fn of_insert_by_role(self, plan: &Plan, table: TableId) -> Failure {
        match self {
            Failure::Rejected(rejection) if rejection.code == RejectCode::Forbidden => {
                Failure::Rejected(insert_refused(plan, table))
            }
            other => other,
        }
    }

    /// Why a mutation waits. What is rejected here is not the mutation, but what Rowtide does for it.
    pub(super) fn waits(self) -> MutateError {
        match self {
            Failure::Conflict(what) => MutateError::Conflict(what),
            Failure::Slow(what) => MutateError::Slow(what),
            Failure::Away(what) => MutateError::Away(what),
            Failure::Rejected(Rejection { message, .. }) => MutateError::Away(message),
            Failure::Broken(broken) => MutateError::Away(broken.to_string()),
        }
    }

    /// The failure of a statement of Rowtide's own. Its tables may be those of an earlier version.
    pub(super) fn of_own(error: &Error) -> Failure {
        match error.code() {
            Some(&(SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN)) => {
                let said = reason(error);
                Failure::Away(format!(
                    "run `rowtide setup` with this version of the server: {said}"
                ))
            }
            _ => Failure::of(error, None).of_ours(),
        }
    }

    /// The failure of what no client asks for: it is not rejected, but waits.
    pub(super) fn of_ours(self) -> Failure {
        match self {
            Failure::Rejected(rejection) => Failure::Away(rejection.message),
            Failure::Broken(broken) => Failure::Away(broken.to_string()),
            other => other,
        }
    }
}

impl Sent<'_> {
    /// Whether the error names a column that clients are not told of.
    fn is_of_hidden(&self, error: &DbError) -> bool {
        let named = error.column().filter(|_| error.table() == Some(&self.table.name));
        let column = named.and_then(|name| self.table.column(name));
        column.is_some_and(|column| self.hidden.contains(&column))
    }

    /// The parameter that Postgres could not read, if the error names it.
    fn parameter(&self, error: &DbError) -> Option<&Param> {
        self.params.get(parameter(error.where_()?)?.checked_sub(1)?)
    }

    /// The rejection of a value that Postgres could not read, or that does not fit.
    fn misfit(&self, error: &DbError) -> Rejection {
        let (table, code) = (self.name, error.code().code());
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
                let (column, table) = (&self.table.columns[*column].name, self.name);
                format!(" of column `{column}` of table `{table}`")
            }
            _ => format!(" of table `{}`", self.name),
        }
    }
}

/// Whether a function raised the error on purpose: `RAISE` of PL/pgSQL, with whatever SQLSTATE.
fn is_raised(error: &DbError) -> bool {
    error.routine() == Some("exec_stmt_raise") || *error.code() == SqlState::RAISE_EXCEPTION
}

/// The rejection that a call has raised on purpose, with the code that the application has put into the hint. Class 40 asks for
/// another try, whoever says it.
fn raised_by_call(error: &DbError) -> Option<Rejection> {
    if !is_raised(error) || error.code().code().starts_with("40") {
        return None;
    }
    let code = error.hint().filter(|hint| is_code(hint)).unwrap_or("rejected");
    Some(Rejection::new(RejectCode::Application(code.to_owned()), error.message()))
}

/// Whether a text can be the code of a rejection.
fn is_code(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    text.len() <= 64
        && text.bytes().all(plain)
        && text.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
}

/// Whether the role that asked has not been granted something. What row-level security says no to is another matter, and
/// so is what is raised on purpose.
pub(super) fn is_no_right(error: &DbError) -> bool {
    let of_row = error.routine() == Some("ExecWithCheckOptions");
    *error.code() == SqlState::INSUFFICIENT_PRIVILEGE && !of_row && !is_raised(error)
}

/// Whether Postgres was in a function, or in a statement of one.
fn is_inside(error: &DbError) -> bool {
    let internal = matches!(error.position(), Some(ErrorPosition::Internal { .. }));
    internal || error.where_().and_then(function).is_some()
}

fn broken(error: &DbError, sent: Option<&Sent<'_>>) -> Failure {
    let misread = match error.position() {
        Some(ErrorPosition::Internal { query, .. }) => {
            Some(Box::new(Misread { text: query.clone(), said: error.message().to_owned() }))
        }
        _ => None,
    };
    Failure::Broken(BrokenTrigger {
        sqlstate: error.code().code().to_owned(),
        function: error.where_().and_then(function),
        place: error.where_().and_then(place).map(str::to_owned),
        statement: sent.map_or_else(String::new, |sent| sent.sql.to_owned()),
        misread,
    })
}

fn judge(error: &DbError, sent: Option<&Sent<'_>>) -> Failure {
    let code = error.code().code();
    let class = code.get(..2).unwrap_or_default();
    let said = || message_without_values(error);
    let is = |state: &SqlState| error.code() == state;
    let routine = error.routine().unwrap_or_default();
    let inside = is_inside(error);
    // Class 40 asks for another try, whoever says it.
    if is_raised(error) && class != "40" {
        // The application has written this message for its users.
        return Failure::Rejected(Rejection::new(RejectCode::Constraint, said_briefly(error)));
    }
    // A lock on a whole table, or of those who insert under one limit; whoever waits for a row alone is told of which in the
    // context.
    if is(&SqlState::LOCK_NOT_AVAILABLE)
        && error.where_().is_none()
        && routine == "ProcessInterrupts"
    {
        let of = sent.map_or_else(String::new, |sent| format!(" of table `{}`", sent.name));
        return Failure::Away(format!("a write{of} does not get a lock: {}", said()));
    }
    // Class 40 (deadlocks, serialization), a lock that is not had, statements behind one that failed (the first
    // error counts), a prepared statement that another session has or that is of a former shape of the table.
    let conflict = class == "40"
        || is(&SqlState::LOCK_NOT_AVAILABLE)
        || is(&SqlState::IN_FAILED_SQL_TRANSACTION)
        || is(&SqlState::INVALID_SQL_STATEMENT_NAME)
        || is(&SqlState::DUPLICATE_PSTATEMENT)
        || is(&SqlState::OBJECT_IN_USE) && !inside
        || is(&SqlState::FEATURE_NOT_SUPPORTED) && routine == "RevalidateCachedQuery";
    if conflict {
        return Failure::Conflict(said());
    }
    if is(&SqlState::QUERY_CANCELED) {
        return Failure::Slow(said());
    }
    // A right of the server's own role, which is granted sooner or later. Row-level security says no in the same class,
    // and means the row.
    if is(&SqlState::INSUFFICIENT_PRIVILEGE) {
        return match (routine, sent) {
            ("ExecWithCheckOptions", sent) => {
                let of = sent.map_or_else(String::new, |sent| format!(" of table `{}`", sent.name));
                let what = format!("row-level security{of} says no");
                Failure::Rejected(Rejection::new(RejectCode::Forbidden, what))
            }
            _ => Failure::Away(said()),
        };
    }
    // Connections, resources such as a full disk, shutdowns, and what the system does not do.
    let away = matches!(class, "08" | "53" | "57" | "58")
        || is(&SqlState::READ_ONLY_SQL_TRANSACTION)
        || is(&SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT)
        || code == "25P04";
    if away {
        return Failure::Away(said());
    }
    if class == "XX" && !inside {
        // What another transaction changes meanwhile in the catalog shows itself so, too.
        return Failure::Conflict(said());
    }
    if matches!(class, "42" | "3F" | "55") && !inside && !is(&SqlState::GENERATED_ALWAYS) {
        // Values of some types are names of what is in the catalog: of tables, of types, of roles.
        if let Some(sent) = sent
            && sent.parameter(error).is_some()
        {
            return Failure::Rejected(sent.misfit(error));
        }
        // The text of the statement: of an old plan, or of a rule that names what is not there any more.
        let of = sent.map_or_else(String::new, |sent| format!(" of table `{}`", sent.name));
        return Failure::Away(format!(
            "a write{of} does not fit the database, or a rule for it: {}",
            said()
        ));
    }
    if inside
        && matches!(
            class,
            "42" | "3F" | "0A" | "55" | "54" | "XX" | "21" | "22" | "2D" | "2F" | "P0"
        )
    {
        return broken(error, sent);
    }
    match rejection(error, sent) {
        Some(rejection) => Failure::Rejected(rejection),
        None => broken(error, sent),
    }
}

/// The rejection that a mutation has caused; `None` if it has not.
fn rejection(error: &DbError, sent: Option<&Sent<'_>>) -> Option<Rejection> {
    let of_table = match (error.table(), sent) {
        (Some(table), Some(sent)) if table == sent.table.name => {
            format!(" of table `{}`", sent.name)
        }
        (Some(table), _) => format!(" of table `{table}`"),
        (None, Some(sent)) => sent.of_column(error),
        (None, None) => String::new(),
    };
    let constraint = |message| Rejection::new(RejectCode::Constraint, message);
    Some(match (error.code(), error.constraint(), error.column()) {
        (code, _, Some(column)) if *code == SqlState::NOT_NULL_VIOLATION => {
            constraint(if sent.is_some_and(|sent| sent.is_of_hidden(error)) {
                format!("a column{of_table} that clients do not write must not be null")
            } else {
                format!("column `{column}`{of_table} must not be null")
            })
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
        // A check option of a view, which a rule of the database has put before the table.
        (code, _, _) if code.code() == "44000" => {
            constraint(format!("a check option{of_table} is violated"))
        }
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
        _ => return None,
    })
}

fn said_briefly(error: &DbError) -> String {
    error.message().chars().take(300).collect()
}
