//! What it says of a table that a load cannot read it. Some failures are the connection's, or all of Postgres', and
//! the load is tried again whole; others are of the one table, and whoever does not see it need not wait. Where the
//! table is another than the plan's, the database is looked at at once, and not with the next look that is due. Pure.

use tokio_postgres::error::SqlState;

/// Why a table cannot be read, while others can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableTrouble {
    /// It is not what the plan says: it is not there, or has other columns, or columns of other types.
    OtherTable,
    /// It may be as the plan says: a right is missing, it takes too long, a page cannot be read.
    NotNow,
}

impl TableTrouble {
    /// What an answer of Postgres to a query of the table's rows says; `None` if it says nothing of the table.
    pub fn of_code(code: &SqlState) -> Option<TableTrouble> {
        let other = [
            SqlState::UNDEFINED_COLUMN,
            SqlState::UNDEFINED_TABLE,
            SqlState::UNDEFINED_FUNCTION,
            SqlState::DATATYPE_MISMATCH,
        ];
        if other.contains(code) {
            return Some(TableTrouble::OtherTable);
        }
        // Connection, resources, an operator's intervention. What took too long is a query's own, and so is a page or
        // file that cannot be read.
        let is_of_all = matches!(code.code().get(..2), Some("08" | "53" | "57"));
        (!is_of_all || *code == SqlState::QUERY_CANCELED).then_some(TableTrouble::NotNow)
    }

    /// Whether the database is to be looked at, because the plan may not fit it any more.
    pub fn asks_for_a_look(self) -> bool {
        self == TableTrouble::OtherTable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_another_is_looked_at_and_one_that_cannot_be_read_now_is_not() {
        let asks = |code: SqlState| TableTrouble::of_code(&code).map(TableTrouble::asks_for_a_look);
        for code in ["42703", "42P01", "42883", "42804"] {
            assert_eq!(asks(SqlState::from_code(code)), Some(true), "{code}");
        }
        let not_now = [
            SqlState::INSUFFICIENT_PRIVILEGE,
            SqlState::QUERY_CANCELED,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::DATA_CORRUPTED,
            SqlState::IO_ERROR,
            SqlState::FEATURE_NOT_SUPPORTED,
        ];
        for code in not_now {
            assert_eq!(asks(code.clone()), Some(false), "{}", code.code());
        }
    }

    #[test]
    fn what_is_wrong_with_the_connection_or_the_server_says_nothing_of_a_table() {
        let of_all = [
            SqlState::CONNECTION_FAILURE,
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::OUT_OF_MEMORY,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
        ];
        for code in of_all {
            assert_eq!(TableTrouble::of_code(&code), None, "{}", code.code());
        }
    }
}
