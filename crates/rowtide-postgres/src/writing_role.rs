//! The role that operations are done as, if the definition names one (`[writes] role`): whether it is there, whether the server
//! may become it, and whether it may do what the rules allow. Grants of single columns are the application's affair: they
//! judge what is written, as its policies do.

use rowtide_plan::check::Problem;
use rowtide_plan::plan::{Plan, Table};
use rowtide_plan::sql::{quote_identifier, quote_table};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use crate::check::{current_role, fatal};

/// Since then a membership may be one that does not let become the role.
const SET_OPTION: i32 = 160_000;

/// What is wrong with the role, as whoever applies mutations sees it.
///
/// # Errors
/// When Postgres does not answer.
pub(crate) async fn unfit(client: &Client, plan: &Plan) -> Result<Vec<Problem>, Error> {
    let Some(role) = &plan.writes_as else { return Ok(Vec::new()) };
    let (quoted, own) = (quote_identifier(role), current_role(client).await?);
    let sql = "SELECT rolsuper OR rolbypassrls, current_setting('server_version_num')::int \
               FROM pg_catalog.pg_roles WHERE rolname = $1";
    let found = client.query_typed(sql, &[(role, Type::TEXT)]).await?;
    let Some(found) = found.first() else {
        let what = format!("there is no role {quoted}, which operations are to be done as");
        return Ok(vec![fatal(
            what,
            format!("CREATE ROLE {quoted} NOLOGIN;  -- or correct [writes]"),
        )]);
    };
    let mut problems = Vec::new();
    let right = if found.get::<_, i32>(1) < SET_OPTION { "MEMBER" } else { "SET" };
    let sql = format!("SELECT pg_catalog.pg_has_role($1::name, '{right}')");
    let member = client.query_typed(&sql, &[(role, Type::TEXT)]).await?;
    if !member.first().is_some_and(|row| row.get(0)) {
        let what =
            format!("role {own} may not become role {quoted}, which operations are to be done as");
        problems.push(fatal(what, format!("GRANT {quoted} TO {own};")));
    }
    if found.get(0) {
        let what = format!(
            "row-level security does not judge operations: role {quoted} is exempt from it"
        );
        let repair = Some(format!("ALTER ROLE {quoted} NOSUPERUSER NOBYPASSRLS;"));
        problems.push(Problem { what, repair, fatal: false });
    }
    for table in plan.tables.iter().filter(|table| table.published) {
        problems.extend(not_granted(client, role, table).await?);
    }
    Ok(problems)
}

/// What the rules of a table allow, and the role may not do.
async fn not_granted(client: &Client, role: &str, table: &Table) -> Result<Vec<Problem>, Error> {
    let rules = &table.write;
    let (updates, deletes) = (!rules.updates.is_empty(), rules.delete.is_some());
    if rules.insert.is_none() && !updates && !deletes {
        return Ok(Vec::new());
    }
    let sql = "SELECT pg_catalog.has_schema_privilege($1::name, c.relnamespace, 'USAGE'), \
               pg_catalog.has_any_column_privilege($1::name, c.oid, 'INSERT'), \
               pg_catalog.has_any_column_privilege($1::name, c.oid, 'UPDATE'), \
               pg_catalog.has_table_privilege($1::name, c.oid, 'DELETE'), \
               (SELECT bool_and(pg_catalog.has_column_privilege($1::name, c.oid, key, 'SELECT')) \
                FROM unnest($3::text[]) AS key) \
               FROM pg_catalog.pg_class c WHERE c.oid = $2";
    let catalog = &table.catalog;
    let key: Vec<&str> = table.key.iter().map(|key| catalog.columns[*key].name.as_str()).collect();
    let params: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
        [(&role, Type::TEXT), (&catalog.oid, Type::OID), (&key, Type::TEXT_ARRAY)];
    let rows = client.query_typed(sql, &params).await?;
    // It is gone meanwhile, which is said elsewhere.
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let (role, name) = (quote_identifier(role), quote_table(&catalog.schema, &catalog.name));
    let mut problems = Vec::new();
    if !row.get::<_, bool>(0) {
        let schema = quote_identifier(&catalog.schema);
        let what =
            format!("role {role}, which operations are done as, may not use schema {schema}");
        problems.push(fatal(what, format!("GRANT USAGE ON SCHEMA {schema} TO {role};")));
    }
    let needed = [
        ("INSERT", "insert into", 1, rules.insert.is_some()),
        ("UPDATE", "update", 2, updates),
        ("DELETE", "delete from", 3, deletes),
        ("SELECT", "find rows by the key of", 4, updates || deletes),
    ];
    for (privilege, does, at, _) in needed.iter().filter(|(.., needed)| *needed) {
        if row.get::<_, Option<bool>>(*at) != Some(true) {
            let what =
                format!("role {role}, which operations are done as, may not {does} table {name}");
            problems.push(fatal(what, format!("GRANT {privilege} ON {name} TO {role};")));
        }
    }
    Ok(problems)
}
