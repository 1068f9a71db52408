//! A few values of a column, to choose from in development: never all of a table, and never to decide
//! anything by.

use rowtide_plan::catalog::CatalogTable;
use rowtide_plan::sql::{quote_identifier, quote_table};
use tokio_postgres::Client;

/// How many rows are looked at, whatever the size of the table.
const ROWS: i64 = 1_000;

/// At most `limit` values that the column at `column` has, as text, short ones first: of numbered names
/// the low numbers.
///
/// # Errors
/// When the query fails.
pub async fn sample_column(
    client: &Client,
    table: &CatalogTable,
    column: usize,
    limit: i64,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let name = quote_identifier(&table.columns[column].name);
    let from = quote_table(&table.schema, &table.name);
    let sql = format!(
        "SELECT value FROM (SELECT DISTINCT {name}::text AS value
                            FROM (SELECT {name} FROM {from} WHERE {name} IS NOT NULL LIMIT {ROWS}) AS few) AS values
         ORDER BY length(value), value LIMIT {limit}"
    );
    let rows = client.query(&sql, &[]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}
