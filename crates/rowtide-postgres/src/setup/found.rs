//! What is there before a database is set up or torn down: the server, the role that asks and what it may do,
//! Rowtide's own tables, the application's, publication and slot. It is read from the catalog, which everyone may
//! read, so that also a role that may do nothing is told what is missing. Nothing is decided here.

use rowtide_plan::catalog::TableName;
use rowtide_plan::sql::{quote_identifier, quote_table};
use tokio_postgres::{Client, Error, Row};

use super::{OWN_TABLES, RECORD};
use crate::catalog::parts_below;
use crate::connect::Names;
use crate::published::{PublicationOption, missing_options, publication_options, wanted};

/// What is there.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) server: Server,
    pub(crate) schema: Option<Owned>,
    /// Of Rowtide's own tables those that are there.
    pub(crate) own: Vec<OwnTable>,
    /// The tables that were asked for, in that order; those that are not there are left out.
    pub(crate) tables: Vec<FoundTable>,
    /// The partitions of these that hold rows.
    pub(crate) partitions: Vec<FoundTable>,
    /// Of tables and partitions those, quoted, whose replica identity is to be `FULL` and is not.
    pub(crate) to_identify: Vec<String>,
    /// The options that the publication lacks, or is to be made with.
    pub(crate) options: Vec<PublicationOption>,
    pub(crate) publication: Option<FoundPublication>,
    pub(crate) slot: Option<FoundSlot>,
}

/// The server and the role that asks.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) database: String,
    pub(crate) role: String,
    /// `server_version_num`.
    pub(crate) version: i32,
    pub(crate) standby: bool,
    pub(crate) wal_level: String,
    pub(crate) free_slots: bool,
    /// The role may stream.
    pub(crate) replication: bool,
    /// The role may create schemas and publications.
    pub(crate) create: bool,
}

/// Something that has an owner.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    pub(crate) owner: String,
    /// The role that asks is the owner, or may do what the owner may.
    pub(crate) ours: bool,
    /// The role that asks may create tables in it (a schema) or insert rows (a table).
    pub(crate) usable: bool,
}

/// One of Rowtide's own tables, or what has its name.
#[derive(Clone, Debug)]
pub(crate) struct OwnTable {
    pub(crate) name: String,
    pub(crate) table: bool,
    pub(crate) columns: Vec<String>,
    pub(crate) owned: Owned,
}

/// A table of the application.
#[derive(Clone, Debug)]
pub(crate) struct FoundTable {
    pub(crate) name: TableName,
    pub(crate) oid: u32,
    /// As it is written behind `REPLICA IDENTITY`.
    pub(crate) identity: String,
    pub(crate) owned: Owned,
    pub(crate) schema_owner: String,
    pub(crate) row_security: bool,
}

impl FoundTable {
    pub(crate) fn quoted(&self) -> String {
        quote_table(&self.name.schema, &self.name.name)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct FoundPublication {
    pub(crate) owned: Owned,
    /// It publishes all operations.
    pub(crate) complete: bool,
    /// It is for all tables, those to come, too.
    pub(crate) all: bool,
    pub(crate) tables: Vec<TableName>,
}

#[derive(Clone, Debug)]
pub(crate) struct FoundSlot {
    /// `None` for a slot of physical replication.
    pub(crate) database: Option<String>,
    /// That is the database that was asked.
    pub(crate) is_here: bool,
    pub(crate) plugin: Option<String>,
    pub(crate) lost: bool,
    /// The process that uses it, with its application's name.
    pub(crate) active: Option<(i32, String)>,
}

impl Found {
    pub(crate) async fn read(
        client: &Client,
        names: &Names,
        tables: &[TableName],
    ) -> Result<Found, Error> {
        let wanted = wanted(client, tables).await?;
        let publication = publication(client, &names.publication).await?;
        let options = match &publication {
            None => publication_options(client).await?,
            Some(_) => missing_options(client, &names.publication, wanted.partitioned).await?,
        };
        let partitions = partitions(client, tables).await?;
        Ok(Found {
            partitions: application_tables(client, &partitions).await?,
            to_identify: wanted.identities,
            options,
            server: server(client).await?,
            schema: schema(client, &names.schema).await?,
            own: own_tables(client, &names.schema).await?,
            tables: application_tables(client, tables).await?,
            publication,
            slot: slot(client, &names.slot).await?,
        })
    }

    pub(crate) fn own(&self, name: &str) -> Option<&OwnTable> {
        self.own.iter().find(|table| table.name == name)
    }

    /// The tables of those names that are not there.
    pub(crate) fn missing<'a>(&self, tables: &'a [TableName]) -> Vec<&'a TableName> {
        let there = |wanted: &TableName| self.tables.iter().any(|table| table.name == *wanted);
        tables.iter().filter(|table| !there(table)).collect()
    }
}

/// Whether a role may stream. Some providers grant that through a role of their own and not through the attribute.
pub(crate) const MAY_STREAM: &str = "(EXISTS (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname = current_user \
     AND (r.rolreplication OR r.rolsuper)) \
     OR EXISTS (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname = 'rds_replication' \
     AND pg_has_role(r.oid, 'MEMBER')))";

async fn server(client: &Client) -> Result<Server, Error> {
    let sql = format!(
        "SELECT current_database()::text, current_user::text, current_setting('server_version_num')::int, \
         pg_is_in_recovery(), current_setting('wal_level'), \
         (SELECT count(*) FROM pg_replication_slots) < current_setting('max_replication_slots')::int, \
         {MAY_STREAM}, has_database_privilege(current_database(), 'CREATE')"
    );
    let row = client.query_one(&sql, &[]).await?;
    Ok(Server {
        database: row.get(0),
        role: row.get(1),
        version: row.get(2),
        standby: row.get(3),
        wal_level: row.get(4),
        free_slots: row.get(5),
        replication: row.get(6),
        create: row.get(7),
    })
}

fn owned(row: &Row, from: usize) -> Owned {
    Owned { owner: row.get(from), ours: row.get(from + 1), usable: row.get(from + 2) }
}

async fn schema(client: &Client, name: &str) -> Result<Option<Owned>, Error> {
    let sql = "SELECT pg_get_userbyid(nspowner)::text, pg_has_role(nspowner, 'USAGE'), \
               has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = $1";
    Ok(client.query_opt(sql, &[&name]).await?.map(|row| owned(&row, 0)))
}

async fn own_tables(client: &Client, schema: &str) -> Result<Vec<OwnTable>, Error> {
    let sql = "SELECT c.relname::text, c.relkind = 'r', \
               ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid \
                     AND a.attnum > 0 AND NOT a.attisdropped), \
               pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE'), \
               c.relkind = 'r' AND has_schema_privilege(c.relnamespace, 'USAGE') \
               AND has_table_privilege(c.oid, 'INSERT') \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = ANY($2) ORDER BY c.relname";
    let names: Vec<&str> = OWN_TABLES.iter().map(|(name, _)| *name).chain([RECORD]).collect();
    let rows = client.query(sql, &[&schema, &names]).await?;
    let table = |row: &Row| OwnTable {
        name: row.get(0),
        table: row.get(1),
        columns: row.get(2),
        owned: owned(row, 3),
    };
    Ok(rows.iter().map(table).collect())
}

async fn application_tables(
    client: &Client,
    tables: &[TableName],
) -> Result<Vec<FoundTable>, Error> {
    let sql = "SELECT n.nspname::text, c.relname::text, c.oid, c.relreplident::text, \
               (SELECT x.relname::text FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid \
                WHERE i.indrelid = c.oid AND i.indisreplident), \
               pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE'), \
               has_table_privilege(c.oid, 'INSERT'), pg_get_userbyid(n.nspowner)::text, c.relrowsecurity \
               FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted(schema, name, place) \
               JOIN pg_namespace n ON n.nspname = wanted.schema \
               JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name \
               WHERE c.relkind IN ('r', 'p') ORDER BY place";
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let rows = client.query(sql, &[&schemas, &names]).await?;
    let table = |row: &Row| FoundTable {
        name: TableName { schema: row.get(0), name: row.get(1) },
        oid: row.get(2),
        identity: match (row.get::<_, &str>(3), row.get::<_, Option<&str>>(4)) {
            ("f", _) => FULL.to_owned(),
            ("n", _) => "NOTHING".to_owned(),
            ("i", Some(index)) => format!("USING INDEX {}", quote_identifier(index)),
            _ => "DEFAULT".to_owned(),
        },
        owned: owned(row, 5),
        schema_owner: row.get(8),
        row_security: row.get(9),
    };
    Ok(rows.iter().map(table).collect())
}

/// The partitions of tables, at any depth, that hold rows.
async fn partitions(client: &Client, tables: &[TableName]) -> Result<Vec<TableName>, Error> {
    let roots = "SELECT c.oid FROM unnest($1::text[], $2::text[]) AS wanted(schema, name) \
                 JOIN pg_namespace n ON n.nspname = wanted.schema \
                 JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name";
    let sql = format!(
        "WITH RECURSIVE {} SELECT DISTINCT n.nspname::text, c.relname::text FROM part \
         JOIN pg_class c ON c.oid = part.oid AND c.relkind = 'r' \
         JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2",
        parts_below(roots)
    );
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let rows = client.query(&sql, &[&schemas, &names]).await?;
    Ok(rows.iter().map(|row| TableName { schema: row.get(0), name: row.get(1) }).collect())
}

/// The replica identity that the stream needs.
pub(crate) const FULL: &str = "FULL";

async fn publication(client: &Client, name: &str) -> Result<Option<FoundPublication>, Error> {
    let sql = "SELECT pg_get_userbyid(pubowner)::text, pg_has_role(pubowner, 'USAGE'), true, \
               pubinsert AND pubupdate AND pubdelete AND pubtruncate, puballtables \
               FROM pg_publication WHERE pubname = $1";
    let Some(row) = client.query_opt(sql, &[&name]).await? else { return Ok(None) };
    // What is in it by itself, and what is in it as a part of a schema.
    let sql = "SELECT schemaname::text, tablename::text FROM pg_publication_tables \
               WHERE pubname = $1 \
               UNION SELECT n.nspname::text, c.relname::text FROM pg_publication p \
               JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class c ON c.oid = r.prrelid \
               JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1";
    let tables = client.query(sql, &[&name]).await?;
    let table = |row: &Row| TableName { schema: row.get(0), name: row.get(1) };
    Ok(Some(FoundPublication {
        owned: owned(&row, 0),
        complete: row.get(3),
        all: row.get(4),
        tables: tables.iter().map(table).collect(),
    }))
}

/// The slot of a name, if there is one.
pub(crate) async fn slot(client: &Client, name: &str) -> Result<Option<FoundSlot>, Error> {
    let sql = "SELECT s.database::text, s.plugin::text, coalesce(s.wal_status = 'lost', false), \
               s.active_pid, coalesce(a.application_name, ''), \
               coalesce(s.database = current_database(), false) FROM pg_replication_slots s \
               LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = $1";
    let Some(row) = client.query_opt(sql, &[&name]).await? else { return Ok(None) };
    Ok(Some(FoundSlot {
        database: row.get(0),
        plugin: row.get(1),
        lost: row.get(2),
        active: row.get::<_, Option<i32>>(3).map(|pid| (pid, row.get(4))),
        is_here: row.get(5),
    }))
}
