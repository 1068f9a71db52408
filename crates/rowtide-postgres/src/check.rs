//! Checks a plan against a live database: settings, privileges, publication and slot, and what the catalog
//! shows. Every finding comes with the SQL that repairs it, for a person with the privileges to run. The
//! check itself changes nothing.

use rowtide_plan::check::{Problem, check_plan};
use rowtide_plan::plan::Plan;
use rowtide_plan::sql::{quote_identifier, quote_table};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::catalog::{encoding_said, unserved_encoding};
use crate::connect::{APPLICATION, Names};
use crate::published::{PublicationOption, missing_options};
use crate::schemas::{NamedSchema, schemas};
use crate::sequences::oids;
use crate::setup::{
    MAY_STREAM, OWN_TABLES, Writes, foreign, later_columns, slot as find_slot, slot_is_ours,
};

/// The command that creates most of the things that can be missing.
const SETUP: &str = "rowtide setup";

/// What was found.
#[derive(Clone, Debug)]
pub struct Findings {
    /// All problems and possible improvements.
    pub problems: Vec<Problem>,
    /// What [`crate::trial::Trial`] need not find out.
    pub known: AlreadyKnown,
}

/// What a trial knows already, so that it is not said twice.
#[derive(Clone, Copy, Debug)]
pub struct AlreadyKnown {
    /// The role may stream. Otherwise the stream is not tried.
    pub may_stream: bool,
    /// Rowtide's own tables are there, and may be used. Otherwise no mutation is tried.
    pub own_tables: bool,
}

/// Looks at all of it.
///
/// # Errors
/// When a query fails.
pub async fn check(
    client: &Client,
    names: &Names,
    plan: &Plan,
) -> Result<Findings, tokio_postgres::Error> {
    let (mut problems, may_stream) = check_server(client).await?;
    problems.extend(check_tables(client, plan, RowSecurity::Hides).await?);
    let of_own_tables = check_own_tables(client, names).await?;
    let known = AlreadyKnown { may_stream, own_tables: of_own_tables.is_empty() };
    problems.extend(of_own_tables);
    problems.extend(check_publication(client, names, plan).await?);
    problems.extend(check_slot(client, names).await?);
    problems.extend(check_plan(plan));
    Ok(Findings { problems, known })
}

pub(crate) fn fatal(what: impl Into<String>, repair: impl Into<String>) -> Problem {
    Problem { what: what.into(), repair: Some(repair.into()), fatal: true }
}

/// Its problems, and whether the role may stream.
async fn check_server(client: &Client) -> Result<(Vec<Problem>, bool), tokio_postgres::Error> {
    let sql = format!(
        "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), \
         current_setting('wal_level'), quote_ident(current_user), {MAY_STREAM}"
    );
    let row = client.query_one(&sql, &[]).await?;
    let (level, role): (&str, &str) = (row.get(2), row.get(3));
    let mut problems = Vec::new();
    if row.get::<_, i32>(0) < 140_000 {
        problems.push(fatal("the server is older than PostgreSQL 14", "upgrade it"));
    }
    if row.get(1) {
        problems.push(fatal("the server is a standby", "connect to the primary"));
    }
    if level != "logical" {
        let what = format!("wal_level is `{level}`: changes cannot be streamed");
        problems
            .push(fatal(what, "ALTER SYSTEM SET wal_level = logical;  -- then restart Postgres"));
    }
    if let Some(encoding) = unserved_encoding(client).await? {
        let (what, repair) = (encoding_said(&encoding), None);
        problems.push(Problem { what, repair, fatal: true });
    }
    let may_stream: bool = row.get(4);
    if !may_stream {
        let what = format!("role {role} may not stream");
        problems.push(fatal(what, format!("ALTER ROLE {role} REPLICATION;")));
    }
    Ok((problems, may_stream))
}

/// The role that asks, as SQL.
///
/// # Errors
/// When the query fails.
pub(crate) async fn current_role(client: &Client) -> Result<String, tokio_postgres::Error> {
    let rows = client.query_typed("SELECT quote_ident(current_user)", &[]).await?;
    Ok(rows.first().map_or_else(String::new, |row| row.get(0)))
}

/// What row-level security is to a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowSecurity {
    /// It hides rows whose changes are streamed.
    Hides,
    /// It judges what is written, as it does for any role of the application.
    Judges,
}

/// Whether the role that asks has every right to the tables that serving the plan needs.
///
/// # Errors
/// When a query fails.
pub(crate) async fn check_tables(
    client: &Client,
    plan: &Plan,
    row_security: RowSecurity,
) -> Result<Vec<Problem>, tokio_postgres::Error> {
    let sql = "SELECT c.oid::regclass::text, \
               has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid), \
               has_table_privilege(c.oid, 'INSERT'), has_table_privilege(c.oid, 'UPDATE'), \
               has_table_privilege(c.oid, 'DELETE'), c.oid \
               FROM unnest($1::oid[]) WITH ORDINALITY AS wanted(oid, place) \
               JOIN pg_class c ON c.oid = wanted.oid ORDER BY place";
    let role = current_role(client).await?;
    let mut problems = Vec::new();
    let unusable = schemas(client, plan).await?.into_iter().filter(|schema| !schema.usable);
    for NamedSchema { quoted: schema, .. } in unusable {
        let what = format!("role {role} may not use schema {schema}");
        problems.push(fatal(what, format!("GRANT USAGE ON SCHEMA {schema} TO {role};")));
    }
    for row in client.query_typed(sql, &[(&oids(plan, |_| true), Type::OID_ARRAY)]).await? {
        let Some(of) = plan.tables.iter().find(|table| table.catalog.oid == row.get::<_, u32>(6))
        else {
            continue;
        };
        let table: &str = row.get(0);
        if !row.get::<_, bool>(1) {
            let what = format!("role {role} may not read table {table}");
            problems.push(fatal(what, format!("GRANT SELECT ON {table} TO {role};")));
        }
        let writes = Writes::of(plan, of);
        let needed = [
            ("INSERT", 3, writes.insert),
            ("UPDATE", 4, writes.update),
            ("DELETE", 5, writes.delete),
        ];
        for (privilege, at, _) in needed.iter().filter(|(_, _, needed)| *needed) {
            if !row.get::<_, bool>(*at) {
                let what =
                    format!("role {role} may not {} table {table}", privilege.to_lowercase());
                problems.push(fatal(what, format!("GRANT {privilege} ON {table} TO {role};")));
            }
        }
        if row_security == RowSecurity::Hides && row.get(2) {
            let what = format!(
                "row-level security hides rows of table {table} from role {role}, but not their changes"
            );
            problems.push(fatal(what, format!("ALTER ROLE {role} BYPASSRLS;")));
        }
    }
    Ok(problems)
}

/// Whether Rowtide's own tables are there, and the role may use them: without them no client is known.
///
/// # Errors
/// When a query fails.
pub async fn check_own_tables(
    client: &Client,
    names: &Names,
) -> Result<Vec<Problem>, tokio_postgres::Error> {
    // `to_regclass` would fail without the privilege to use the schema.
    let sql = "SELECT quote_ident(current_user), has_schema_privilege(n.oid, 'USAGE'), \
               (SELECT bool_and(has_table_privilege(c.oid, privilege)) FROM \
                unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege), \
               c.relkind = 'r', ARRAY(SELECT a.attname::text FROM pg_attribute a \
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), \
               row_security_active(c.oid) \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = $2";
    let schema = quote_identifier(&names.schema);
    let (mut missing, mut earlier) = (None, None);
    for (name, _) in OWN_TABLES {
        let named = [(&names.schema as _, Type::TEXT), (&name as _, Type::TEXT)];
        let rows = client.query_typed(sql, &named).await?;
        let Some(row) = rows.first() else {
            missing = missing.or(Some(name));
            continue;
        };
        let table = quote_table(&names.schema, name);
        let columns: Vec<String> = row.get(4);
        if let Some(how) = foreign(name, row.get(3), &columns) {
            let repair = "choose another environment, or move it away";
            return Ok(vec![fatal(format!("{table} is not Rowtide's: {how}"), repair)]);
        }
        let role: &str = row.get(0);
        if !(row.get::<_, bool>(1) && row.get::<_, bool>(2)) {
            let repair = format!(
                "GRANT USAGE ON SCHEMA {schema} TO {role}; \
                 GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};"
            );
            return Ok(vec![fatal(format!("role {role} may not write table {table}"), repair)]);
        }
        if row.get::<_, bool>(5) {
            let what = format!("row-level security of table {table} applies to role {role}");
            let repair = format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;");
            return Ok(vec![fatal(what, repair)]);
        }
        if let Some((column, _)) = later_columns(name, &columns).next() {
            let what = format!("table {table} is of an earlier version: it has no column {column}");
            earlier = earlier.or(Some(fatal(what, SETUP)));
        }
    }
    let Some(missing) = missing else { return Ok(earlier.into_iter().collect()) };
    let sql = "SELECT quote_ident(current_database()), quote_ident(current_user), \
               has_database_privilege(current_database(), 'CREATE')";
    let row = client.query_one(sql, &[]).await?;
    let (database, role): (&str, &str) = (row.get(0), row.get(1));
    let grant = format!("GRANT CREATE ON DATABASE {database} TO {role};  -- then: {SETUP}");
    let repair = if row.get(2) { SETUP.to_owned() } else { grant };
    let table = quote_table(&names.schema, missing);
    Ok(vec![fatal(format!("table {table} is missing"), repair)])
}

async fn check_publication(
    client: &Client,
    names: &Names,
    plan: &Plan,
) -> Result<Vec<Problem>, tokio_postgres::Error> {
    let publication = quote_identifier(&names.publication);
    let sql = "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate \
               FROM pg_publication WHERE pubname = $1";
    let Some(row) = client.query_opt(sql, &[&names.publication]).await? else {
        return Ok(vec![fatal(format!("publication {publication} is missing"), SETUP)]);
    };
    let mut problems = Vec::new();
    if !row.get::<_, bool>(0) {
        let what = format!("publication {publication} leaves operations out");
        let repair = format!(
            "ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete, truncate');"
        );
        problems.push(fatal(what, repair));
    }
    let partitioned = plan.tables.iter().any(|table| table.catalog.streaming.partitioned);
    let missing = missing_options(client, &names.publication, partitioned).await?;
    let via_root = missing.iter().any(|option| option.is_via_root());
    for PublicationOption { set, without } in missing {
        let what = format!("publication {publication} {without}");
        problems.push(fatal(what, format!("ALTER PUBLICATION {publication} SET ({set});")));
    }
    // Through `to_jsonb`, columns that only newer versions have are null in older ones.
    let sql = "SELECT t.schemaname::text, t.tablename::text, \
               to_jsonb(r) ->> 'prqual' IS NOT NULL OR to_jsonb(r) ->> 'prattrs' IS NOT NULL \
               FROM pg_publication_tables t \
               JOIN pg_namespace n ON n.nspname = t.schemaname \
               JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
               LEFT JOIN (pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid) \
                 ON p.pubname = t.pubname AND r.prrelid = c.oid \
               WHERE t.pubname = $1";
    let published = client.query(sql, &[&names.publication]).await?;
    let own = (names.schema.as_str(), "client");
    let wanted = plan
        .tables
        .iter()
        .map(|table| (table.catalog.schema.as_str(), table.catalog.name.as_str()))
        .chain([own]);
    for (schema, name) in wanted {
        let table = quote_table(schema, name);
        let add = format!("ALTER PUBLICATION {publication} ADD TABLE {table};");
        let fits = |row: &&tokio_postgres::Row| {
            row.get::<_, &str>(0) == schema && row.get::<_, &str>(1) == name
        };
        match published.iter().find(fits) {
            // What the publication has of it is its partitions.
            None if via_root && is_partitioned(plan, schema, name) => {}
            None => {
                problems.push(fatal(format!("{table} is not in publication {publication}"), add));
            }
            Some(row) if row.get::<_, Option<bool>>(2) == Some(true) => {
                let what =
                    format!("publication {publication} leaves rows or columns of {table} out");
                let drop = format!("ALTER PUBLICATION {publication} DROP TABLE {table};");
                problems.push(fatal(what, format!("{drop} {add}")));
            }
            Some(_) => {}
        }
    }
    Ok(problems)
}

fn is_partitioned(plan: &Plan, schema: &str, name: &str) -> bool {
    let table = plan.table_id(schema, name).map(|id| plan.table(id));
    table.is_some_and(|table| table.catalog.streaming.partitioned)
}

async fn check_slot(client: &Client, names: &Names) -> Result<Vec<Problem>, tokio_postgres::Error> {
    let slot = &names.slot;
    let Some(found) = find_slot(client, slot).await? else {
        let mut problems = vec![fatal(format!("replication slot `{slot}` is missing"), SETUP)];
        problems.extend(check_limits(client).await?);
        return Ok(problems);
    };
    if let Err(error) = slot_is_ours(&found, slot) {
        return Ok(vec![fatal(error.to_string(), error.advice().unwrap_or(SETUP))]);
    }
    if found.lost {
        let what = format!("replication slot `{slot}` is lost: it was too far behind");
        return Ok(vec![fatal(what, SETUP)]);
    }
    if let Some((pid, by)) = found.active.filter(|(_, by)| !by.starts_with(APPLICATION)) {
        let what = format!(
            "replication slot `{slot}` is in use by process {pid} (`{by}`), which is no server of Rowtide's"
        );
        let repair = format!("end that, or SELECT pg_terminate_backend({pid});");
        return Ok(vec![fatal(what, repair)]);
    }
    Ok(Vec::new())
}

/// Checks that the limits leave room for a slot and for the process that streams from it.
async fn check_limits(client: &Client) -> Result<Vec<Problem>, tokio_postgres::Error> {
    let sql = "SELECT name, setting::bigint, used FROM pg_settings JOIN (VALUES \
                 ('max_replication_slots', (SELECT count(*) FROM pg_replication_slots)), \
                 ('max_wal_senders', (SELECT count(*) FROM pg_stat_replication)) \
               ) AS limits(name, used) USING (name) WHERE used >= setting::bigint ORDER BY name";
    let full = client.query(sql, &[]).await?;
    let problem = |row: &tokio_postgres::Row| {
        let (name, limit): (&str, i64) = (row.get(0), row.get(1));
        let repair = format!("ALTER SYSTEM SET {name} = {};  -- then restart Postgres", limit + 10);
        fatal(format!("all of the {limit} that {name} allows are in use"), repair)
    };
    Ok(full.iter().map(problem).collect())
}

/// Whether the role that asks may use the schemas of all tables, and of the types of those that are written, without which
/// rules cannot be tried.
///
/// # Errors
/// When the query fails.
pub async fn may_use_schemas(client: &Client, plan: &Plan) -> Result<bool, tokio_postgres::Error> {
    Ok(schemas(client, plan).await?.iter().all(|schema| schema.usable))
}
