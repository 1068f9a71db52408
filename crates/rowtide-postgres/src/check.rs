//! Holds a plan against a live database: settings, privileges, publication and slot, beside what the
//! catalog alone shows.

use rowtide_plan::check::{Problem, check_plan};
use rowtide_plan::plan::Plan;
use rowtide_plan::sql::{quote_identifier, quote_table};
use tokio_postgres::Client;

use crate::connect::Names;

/// Everything that is wrong, or could be better.
///
/// # Errors
/// When a question is not answered.
pub async fn check(
    client: &Client,
    names: &Names,
    plan: &Plan,
) -> Result<Vec<Problem>, tokio_postgres::Error> {
    let mut problems = Vec::new();
    let fatal =
        |what: String, mend: &str| Problem { what, mend: Some(mend.to_owned()), fatal: true };
    let sql = "SELECT current_setting('wal_level'), current_setting('server_version_num')::int, \
               current_user::text, \
               (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user), \
               has_database_privilege(current_database(), 'CREATE'), current_database()::text";
    let row = client.query_one(sql, &[]).await?;
    let level: &str = row.get(0);
    let (version, role, database): (i32, &str, &str) = (row.get(1), row.get(2), row.get(5));
    if version < 140_000 {
        problems.push(fatal("the server is older than PostgreSQL 14".to_owned(), "upgrade it"));
    }
    if level != "logical" {
        let what = format!("wal_level is `{level}`: changes cannot be streamed");
        problems
            .push(fatal(what, "ALTER SYSTEM SET wal_level = logical;  -- then restart Postgres"));
    }
    let role_name = quote_identifier(role);
    if !row.get::<_, Option<bool>>(3).unwrap_or(false) {
        let what = format!("role `{role}` may not stream");
        problems.push(fatal(what, &format!("ALTER ROLE {role_name} REPLICATION;")));
    }
    check_tables(client, plan, &role_name, &mut problems).await?;
    check_publication(client, names, plan, &mut problems).await?;
    let own = "SELECT to_regclass($1)::text, has_database_privilege($2, 'CREATE')";
    let own_table = quote_table(&names.schema, "client");
    let row = client.query_one(own, &[&own_table, &database]).await?;
    if row.get::<_, Option<&str>>(0).is_none() {
        let mend = if row.get::<_, bool>(1) {
            "rowtide setup".to_owned()
        } else {
            let database = quote_identifier(database);
            format!("GRANT CREATE ON DATABASE {database} TO {role_name};  -- then: rowtide setup")
        };
        problems.push(fatal(format!("the table {own_table} is missing"), &mend));
    }
    check_slot(client, names, &mut problems).await?;
    problems.extend(check_plan(plan));
    Ok(problems)
}

async fn check_tables(
    client: &Client,
    plan: &Plan,
    role_name: &str,
    problems: &mut Vec<Problem>,
) -> Result<(), tokio_postgres::Error> {
    for table in &plan.tables {
        let quoted = quote_table(&table.catalog.schema, &table.catalog.name);
        let sql = "SELECT has_table_privilege($1::oid, 'SELECT') \
                   AND has_schema_privilege(relnamespace, 'USAGE') FROM pg_class WHERE oid = $1";
        let row = client.query_opt(sql, &[&table.catalog.oid]).await?;
        if !row.is_some_and(|row| row.get::<_, bool>(0)) {
            let schema = quote_identifier(&table.catalog.schema);
            let mend = format!(
                "GRANT USAGE ON SCHEMA {schema} TO {role_name}; GRANT SELECT ON {quoted} TO {role_name};"
            );
            let what = format!("{quoted} cannot be read");
            problems.push(Problem { what, mend: Some(mend), fatal: true });
        }
    }
    Ok(())
}

async fn check_publication(
    client: &Client,
    names: &Names,
    plan: &Plan,
    problems: &mut Vec<Problem>,
) -> Result<(), tokio_postgres::Error> {
    let publication = quote_identifier(&names.publication);
    let sql = "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate \
               FROM pg_publication WHERE pubname = $1";
    let Some(row) = client.query_opt(sql, &[&names.publication]).await? else {
        let what = format!("publication {publication} is missing");
        let mend = Some("rowtide setup".to_owned());
        problems.push(Problem { what, mend, fatal: true });
        return Ok(());
    };
    if !row.get::<_, bool>(0) {
        let what = format!("publication {publication} leaves operations out");
        let mend = format!(
            "ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete, truncate');"
        );
        problems.push(Problem { what, mend: Some(mend), fatal: true });
    }
    let sql =
        "SELECT schemaname::text, tablename::text FROM pg_publication_tables WHERE pubname = $1";
    let published: Vec<(String, String)> = client
        .query(sql, &[&names.publication])
        .await?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    for table in &plan.tables {
        let name = (table.catalog.schema.clone(), table.catalog.name.clone());
        if !published.contains(&name) {
            let quoted = quote_table(&name.0, &name.1);
            let what = format!("{quoted} is not in publication {publication}");
            let mend = format!("ALTER PUBLICATION {publication} ADD TABLE {quoted};");
            problems.push(Problem { what, mend: Some(mend), fatal: true });
        }
    }
    Ok(())
}

async fn check_slot(
    client: &Client,
    names: &Names,
    problems: &mut Vec<Problem>,
) -> Result<(), tokio_postgres::Error> {
    let sql = "SELECT wal_status, database = current_database() FROM pg_replication_slots \
               WHERE slot_name = $1";
    let problem = |what: String, mend: String| Problem { what, mend: Some(mend), fatal: true };
    let slot = &names.slot;
    match client.query_opt(sql, &[slot]).await? {
        None => {
            let what = format!("replication slot `{slot}` is missing");
            problems.push(problem(what, "rowtide setup".to_owned()));
        }
        Some(row) if !row.get::<_, Option<bool>>(1).unwrap_or(false) => {
            let what = format!("replication slot `{slot}` belongs to another database");
            let mend = "choose another --environment for this one".to_owned();
            problems.push(problem(what, mend));
        }
        Some(row) if row.get::<_, Option<&str>>(0) == Some("lost") => {
            let what = format!("replication slot `{slot}` is lost: it was too far behind");
            let mend =
                format!("SELECT pg_drop_replication_slot('{slot}');  -- then: rowtide setup");
            problems.push(problem(what, mend));
        }
        Some(_) => {}
    }
    Ok(())
}
