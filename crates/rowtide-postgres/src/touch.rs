//! Writes into rows when their documents were saved, and why they are not published. It is no mutation: nobody is told of it but by the stream, as of
//! any other change.

use std::sync::Arc;
use std::time::Duration;

use rowtide_plan::document_sql::{publish_error_sql, touch_sql};
use rowtide_plan::plan::Plan;
use thiserror::Error;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::connect::{ConnectError, ConnectOptions, connect, reason_without_values};
use crate::table_trouble::TableTrouble;

/// How long one write may take.
const ANSWER: Duration = Duration::from_secs(30);

/// Why it was not written.
#[derive(Debug, Error)]
pub enum TouchError {
    /// Postgres cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The statement failed.
    #[error("it cannot be written when documents were saved: {}", reason_without_values(.0))]
    Query(#[from] tokio_postgres::Error),
    /// The answer took too long.
    #[error("it was not written within {} s when documents were saved", ANSWER.as_secs())]
    Silent,
    /// The plan has no such documents: the table does not fit the database now.
    #[error("the definition's documents do not fit the database now")]
    Unfit,
}

impl TouchError {
    /// Whether somebody has locked the table.
    pub fn is_of_a_lock(&self) -> bool {
        matches!(self, TouchError::Query(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE))
    }

    /// Whether it is of these rows, and others may be written all the same; otherwise Postgres is away.
    pub fn is_of_rows(&self) -> bool {
        match self {
            TouchError::Query(error) => error.code().and_then(TableTrouble::of_code).is_some(),
            TouchError::Connect(_) | TouchError::Silent | TouchError::Unfit => false,
        }
    }
}

/// Writes over one connection, which it makes when it needs it.
pub struct RowToucher {
    options: ConnectOptions,
    client: Option<Client>,
}

impl RowToucher {
    /// One that has not connected yet.
    pub fn new(options: ConnectOptions) -> RowToucher {
        RowToucher { options, client: None }
    }

    /// Writes when documents of a kind were saved, each once, in milliseconds since 1970. Rows that are not there are
    /// passed over; so is everything if the kind has no column for it. Returns the documents whose rows somebody else has
    /// locked: those are to be written later.
    ///
    /// # Errors
    /// When Postgres does not do it; then it has done nothing of it.
    pub async fn touch(
        &mut self,
        plan: &Plan,
        kind: &str,
        saved: &[(Arc<str>, i64)],
    ) -> Result<Vec<String>, TouchError> {
        let of = plan.document_kind(kind).ok_or(TouchError::Unfit)?;
        let Some(sql) = touch_sql(plan, of) else { return Ok(Vec::new()) };
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => connect(&self.options, "touch").await?,
        };
        let ids: Vec<&str> = saved.iter().map(|(id, _)| &**id).collect();
        let times: Vec<i64> = saved.iter().map(|(_, at)| *at).collect();
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&ids, Type::TEXT_ARRAY), (&times, Type::INT8_ARRAY)];
        let written = timeout(ANSWER, client.query_typed(&sql, &parameters)).await;
        let written = written.map_err(|_| TouchError::Silent)?;
        self.client = Some(client);
        written?.iter().map(|row| row.try_get(0).map_err(TouchError::Query)).collect()
    }

    /// Writes why a document is not published, or that it is well; nothing if the kind has no column for it, or the row
    /// says so already.
    ///
    /// # Errors
    /// When Postgres does not do it.
    pub async fn say_publish_error(
        &mut self,
        plan: &Plan,
        kind: &str,
        id: &str,
        reason: Option<&str>,
    ) -> Result<(), TouchError> {
        let of = plan.document_kind(kind).ok_or(TouchError::Unfit)?;
        let Some(sql) = publish_error_sql(plan, of) else { return Ok(()) };
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => connect(&self.options, "touch").await?,
        };
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&id, Type::TEXT), (&reason, Type::TEXT)];
        let written = timeout(ANSWER, client.execute_typed(&sql, &parameters)).await;
        let written = written.map_err(|_| TouchError::Silent)?;
        self.client = Some(client);
        written?;
        Ok(())
    }
}
