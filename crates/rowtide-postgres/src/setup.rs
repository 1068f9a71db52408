//! Sets up a database for Rowtide: its own schema, the replica identities, the publication and the slot.
//! Each step first looks whether there is something to do, so setup can run again at any time, and several
//! times at once. It changes nothing that belongs to others.

use rowtide_plan::catalog::TableName;
use rowtide_plan::sql::{quote_identifier, quote_table};
use thiserror::Error;
use tokio_postgres::{Client, Row};

use crate::catalog::{encoding_said, unserved_encoding};
use crate::connect::{Names, reason};
use crate::published::{missing_options, publication_options, wanted};
use crate::stream::{create_slot, drop_slot};

/// Why a step failed, or must not be done. The steps before it stay done.
#[derive(Debug, Error)]
pub enum SetupError {
    /// Postgres returned an error.
    #[error("cannot {step}: {}", reason(source))]
    Step {
        /// The step.
        step: String,
        /// The error of Postgres.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The database has another encoding than UTF-8.
    #[error("{}", encoding_said(.0))]
    Encoding(String),
    /// The slot belongs to another database.
    #[error(
        "replication slot `{slot}` belongs to database `{database}`; choose another environment for \
         this one"
    )]
    SlotOfAnother {
        /// The slot.
        slot: String,
        /// The database that it belongs to.
        database: String,
    },
}

/// Sets up a database for the tables of a definition. Returns a sentence for each step that it did; none if
/// everything was there already.
///
/// Tables and their partitions get `REPLICA IDENTITY FULL`, so that the stream has the old rows. The slot comes last. To create it
/// Postgres waits for all older transactions, as long as they take.
///
/// # Errors
/// When a step fails. Later steps are not tried then.
pub async fn setup(
    client: &Client,
    names: &Names,
    tables: &[TableName],
) -> Result<Vec<String>, SetupError> {
    let mut setup = Setup { client, names, done: Vec::new() };
    // Two setups that look at the same time would both create.
    let lock = "SELECT pg_advisory_lock(hashtext($1))";
    setup.ask("wait for another setup", lock, &names.schema).await?;
    let result = setup.run(tables).await;
    let unlock = "SELECT pg_advisory_unlock(hashtext($1))";
    let unlocked = setup.ask("end the setup", unlock, &names.schema).await;
    result.and(unlocked)?;
    Ok(setup.done)
}

/// Rowtide's own tables. `client` counts the mutations of each client. It is in the publication: its row in
/// the stream is the acknowledgement. The row has the last rejection, and `refusal` has the earlier ones.
/// `named_mutation` has the mutations of clients that do not number them. `created_at` is when the client was last known to
/// be in use, within a week; it has its name from the time when no row was ever removed.
pub(crate) const OWN_TABLES: [(&str, &str); 3] = [
    (
        "client",
        "client_id text PRIMARY KEY,
         user_id text NOT NULL,
         last_mutation bigint NOT NULL DEFAULT 0,
         refused jsonb,
         name text,
         created_at timestamptz NOT NULL DEFAULT now()",
    ),
    (
        "refusal",
        "client_id text NOT NULL,
         id bigint NOT NULL,
         code text NOT NULL,
         message text NOT NULL,
         PRIMARY KEY (client_id, id)",
    ),
    (
        "named_mutation",
        "client_id text NOT NULL,
         name text NOT NULL,
         number bigint NOT NULL,
         refused jsonb,
         session_id text,
         told boolean NOT NULL DEFAULT false,
         PRIMARY KEY (client_id, name)",
    ),
];

/// Columns that earlier versions of Rowtide made these tables without: table, column, type.
pub(crate) const LATER_COLUMNS: [(&str, &str, &str); 2] = [
    ("named_mutation", "session_id", "text"),
    ("named_mutation", "told", "boolean NOT NULL DEFAULT false"),
];

struct Setup<'a> {
    client: &'a Client,
    names: &'a Names,
    done: Vec<String>,
}

impl Setup<'_> {
    async fn run(&mut self, tables: &[TableName]) -> Result<(), SetupError> {
        let fail = |source| SetupError::Step { step: "look at the tables".to_owned(), source };
        if let Some(encoding) = unserved_encoding(self.client).await.map_err(fail)? {
            return Err(SetupError::Encoding(encoding));
        }
        self.own_tables().await?;
        let wanted = wanted(self.client, tables).await.map_err(fail)?;
        for table in &wanted.identities {
            let sql = format!("ALTER TABLE {table} REPLICA IDENTITY FULL");
            self.run_step(format!("set the replica identity of {table} to FULL"), &sql).await?;
        }
        self.publication(tables, wanted.partitioned).await?;
        self.slot().await
    }

    /// The rows of a query with one parameter.
    async fn ask(&self, step: &str, sql: &str, parameter: &str) -> Result<Vec<Row>, SetupError> {
        self.client
            .query(sql, &[&parameter])
            .await
            .map_err(|source| SetupError::Step { step: step.to_owned(), source })
    }

    async fn run_step(&mut self, step: String, sql: &str) -> Result<(), SetupError> {
        match self.client.batch_execute(sql).await {
            Ok(()) => {
                self.done.push(step);
                Ok(())
            }
            Err(source) => Err(SetupError::Step { step, source }),
        }
    }

    async fn own_tables(&mut self) -> Result<(), SetupError> {
        let schema = quote_identifier(&self.names.schema);
        let sql = "SELECT 1 FROM pg_namespace WHERE nspname = $1";
        if self.ask("look for its schema", sql, &self.names.schema).await?.is_empty() {
            self.run_step(format!("create schema {schema}"), &format!("CREATE SCHEMA {schema}"))
                .await?;
        }
        for (name, columns) in OWN_TABLES {
            let table = quote_table(&self.names.schema, name);
            let sql = "SELECT to_regclass($1)::text";
            let there = self.ask("look for its tables", sql, &table).await?;
            if there[0].get::<_, Option<&str>>(0).is_none() {
                let step = format!("create table {table}");
                self.run_step(step, &format!("CREATE TABLE {table} ({columns})")).await?;
            }
        }
        for (name, column, kind) in LATER_COLUMNS {
            let table = quote_table(&self.names.schema, name);
            let sql = format!(
                "SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass($1) \
                 AND attname = '{column}' AND NOT attisdropped"
            );
            if self.ask("look at its tables", &sql, &table).await?.is_empty() {
                let sql = format!("ALTER TABLE {table} ADD COLUMN {column} {kind}");
                self.run_step(format!("add column {column} to table {table}"), &sql).await?;
            }
        }
        Ok(())
    }

    async fn publication(
        &mut self,
        tables: &[TableName],
        partitioned: bool,
    ) -> Result<(), SetupError> {
        let fail = |source| SetupError::Step { step: "look at the publication".to_owned(), source };
        let own = TableName { schema: self.names.schema.clone(), name: "client".to_owned() };
        let mut wanted: Vec<&TableName> = tables.iter().chain([&own]).collect();
        let name = &self.names.publication;
        let publication = quote_identifier(name);
        let sql = "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate \
                   FROM pg_publication WHERE pubname = $1";
        let there = self.ask("look for the publication", sql, name).await?;
        let Some(there) = there.first() else {
            let list: Vec<String> =
                wanted.iter().map(|table| quote_table(&table.schema, &table.name)).collect();
            let list = list.join(", ");
            let options = publication_options(self.client).await.map_err(fail)?;
            let options: Vec<&str> = options.iter().map(|option| option.set).collect();
            let options = options.join(", ");
            let sql = format!("CREATE PUBLICATION {publication} FOR TABLE {list} WITH ({options})");
            return self
                .run_step(format!("create publication {publication} for {list}"), &sql)
                .await;
        };
        if !there.get::<_, bool>(0) {
            let sql = format!(
                "ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete, truncate')"
            );
            let step = format!("make publication {publication} publish all operations");
            self.run_step(step, &sql).await?;
        }
        let missing = missing_options(self.client, name, partitioned).await.map_err(fail)?;
        for option in missing {
            let set = option.set;
            let sql = format!("ALTER PUBLICATION {publication} SET ({set})");
            self.run_step(format!("alter publication {publication}: {set}"), &sql).await?;
        }
        let sql = "SELECT schemaname::text, tablename::text FROM pg_publication_tables \
                   WHERE pubname = $1";
        let published = self.ask("look at the publication", sql, name).await?;
        let published: Vec<TableName> = published
            .iter()
            .map(|row| TableName { schema: row.get(0), name: row.get(1) })
            .collect();
        wanted.retain(|table| !published.contains(table));
        for table in wanted {
            let quoted = quote_table(&table.schema, &table.name);
            let sql = format!("ALTER PUBLICATION {publication} ADD TABLE {quoted}");
            self.run_step(format!("add {quoted} to publication {publication}"), &sql).await?;
        }
        Ok(())
    }

    async fn slot(&mut self) -> Result<(), SetupError> {
        let slot = &self.names.slot;
        let fail =
            |step: &str, source| SetupError::Step { step: format!("{step} `{slot}`"), source };
        let sql = "SELECT database = current_database(), database::text, wal_status = 'lost' \
                   FROM pg_replication_slots WHERE slot_name = $1";
        if let Some(row) = self.ask("look for the replication slot", sql, slot).await?.first() {
            if row.get::<_, Option<bool>>(0) != Some(true) {
                let database = row.get::<_, Option<String>>(1).unwrap_or_default();
                return Err(SetupError::SlotOfAnother { slot: slot.clone(), database });
            }
            if row.get::<_, Option<bool>>(2) != Some(true) {
                return Ok(());
            }
            // A lost slot is of no use any more.
            let dropped = drop_slot(self.client, slot).await;
            dropped.map_err(|source| fail("drop the lost replication slot", source))?;
            self.done.push(format!("drop the lost replication slot `{slot}`"));
        }
        let created = async {
            self.client.batch_execute("SET lock_timeout = 0").await?;
            create_slot(self.client, slot).await?;
            self.client.batch_execute("RESET lock_timeout").await
        };
        created.await.map_err(|source| fail("create replication slot", source))?;
        self.done.push(format!("create replication slot `{slot}`"));
        Ok(())
    }
}
