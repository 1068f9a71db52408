//! What Rowtide needs in a database, put there: the publication, the replica identities, its own
//! schema, the slot. Every step looks first, so it can be run again at any time.

use rowtide_plan::definition::TableName;
use rowtide_plan::sql::{quote_identifier, quote_table};
use tokio_postgres::Client;

use crate::connect::Names;
use crate::stream::create_slot;

/// Makes a database ready for the tables of a definition and returns a sentence for each thing that
/// was done; none if all was there.
///
/// Tables get `REPLICA IDENTITY FULL`, so that the stream brings the old row.
///
/// # Errors
/// When Postgres refuses a step; those before it stay done.
pub async fn setup(
    client: &Client,
    names: &Names,
    tables: &[TableName],
) -> Result<Vec<String>, tokio_postgres::Error> {
    let mut done = Vec::new();
    let schema = quote_identifier(&names.schema);
    if client
        .query_opt("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[&names.schema])
        .await?
        .is_none()
    {
        done.push(format!("created schema {schema}"));
    }
    client
        .batch_execute(&format!(
            "CREATE SCHEMA IF NOT EXISTS {schema};
             CREATE TABLE IF NOT EXISTS {schema}.client (
               client_id text PRIMARY KEY,
               user_id text NOT NULL,
               last_mutation bigint NOT NULL DEFAULT 0,
               created_at timestamptz NOT NULL DEFAULT now()
             )"
        ))
        .await?;
    for table in tables {
        let full = "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                    WHERE n.nspname = $1 AND c.relname = $2 AND c.relreplident = 'f'";
        if client.query_opt(full, &[&table.schema, &table.name]).await?.is_none() {
            let quoted = quote_table(&table.schema, &table.name);
            client.batch_execute(&format!("ALTER TABLE {quoted} REPLICA IDENTITY FULL")).await?;
            done.push(format!("set the replica identity of {quoted} to FULL"));
        }
    }
    publish(client, names, tables, &mut done).await?;
    if create_slot(client, &names.slot).await? {
        done.push(format!("created replication slot {}", names.slot));
    }
    Ok(done)
}

async fn publish(
    client: &Client,
    names: &Names,
    tables: &[TableName],
    done: &mut Vec<String>,
) -> Result<(), tokio_postgres::Error> {
    let own = TableName { schema: names.schema.clone(), name: "client".to_owned() };
    let mut wanted: Vec<&TableName> = tables.iter().chain([&own]).collect();
    let publication = quote_identifier(&names.publication);
    let there = "SELECT 1 FROM pg_publication WHERE pubname = $1";
    if client.query_opt(there, &[&names.publication]).await?.is_none() {
        let list: Vec<String> =
            wanted.iter().map(|table| quote_table(&table.schema, &table.name)).collect();
        let list = list.join(", ");
        client.batch_execute(&format!("CREATE PUBLICATION {publication} FOR TABLE {list}")).await?;
        done.push(format!("created publication {publication} for {list}"));
        return Ok(());
    }
    let sql =
        "SELECT schemaname::text, tablename::text FROM pg_publication_tables WHERE pubname = $1";
    let rows = client.query(sql, &[&names.publication]).await?;
    let published: Vec<TableName> =
        rows.iter().map(|row| TableName { schema: row.get(0), name: row.get(1) }).collect();
    wanted.retain(|table| !published.contains(table));
    for table in wanted {
        let quoted = quote_table(&table.schema, &table.name);
        client
            .batch_execute(&format!("ALTER PUBLICATION {publication} ADD TABLE {quoted}"))
            .await?;
        done.push(format!("added {quoted} to publication {publication}"));
    }
    Ok(())
}
