//! Rights that mutations need and no list of tables shows: what rules read and call, what defaults, constraints and
//! indexes call, and the sequences that defaults take numbers from. Postgres looks at those of a statement as it begins to
//! carry it out, so each statement of a mutation is explained as the role that mutations come as; what it looks at only with
//! a row at hand is read from the catalog. What functions and triggers do inside shows only when they run.

use rowtide_plan::check::Problem;
use rowtide_plan::plan::{Plan, Table, TableId};
use rowtide_plan::sql::quote_table;
use rowtide_plan::write::Statement;
use rowtide_protocol::OpKind;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use crate::catalog::parts_below;
use crate::check::fatal;
use crate::connect::reason;
use crate::rules::mutation_statements;
use crate::sequences::{Sequence, oids, sequences};
use crate::session::Amiss;

/// What a statement is explained under. It is gone when it was.
const NAME: &str = "rowtide_explained";
/// How long a table may be locked.
const PATIENCE: &str = "10s";

/// What the role that asks may not do, of what the mutations need that a plan allows; `amiss` is what their transactions
/// have to set. It leaves nothing behind, and asks nothing that a pooler in transaction mode does not answer.
///
/// # Errors
/// When Postgres does not answer.
pub(crate) async fn lacking(
    client: &Client,
    amiss: &Amiss,
    plan: &Plan,
) -> Result<Vec<Problem>, Error> {
    let begin = format!("BEGIN{}", amiss.local());
    let rows = client.query_typed("SELECT quote_ident(current_user)", &[]).await?;
    let role: String = rows.first().map_or_else(String::new, |row| row.get(0));
    let mut problems = Vec::new();
    let inserted = |table: &&Table| table.write.insert.is_some();
    let written = |table: &&Table| inserted(table) || !table.write.updates.is_empty();
    for row in
        client.query_typed(&functions_sql(), &[(&oids(plan, written), Type::OID_ARRAY)]).await?
    {
        let (function, table): (&str, &str) = (row.get(0), row.get(1));
        let what = format!(
            "role {role} may not call {function}, which a constraint, an index or a column of {table} calls"
        );
        problems.push(fatal(what, format!("GRANT EXECUTE ON FUNCTION {function} TO {role};")));
    }
    for Sequence { name, table, usable } in sequences(client, plan).await? {
        if !usable {
            let what =
                format!("role {role} may not use sequence {name}, which numbers rows of {table}");
            problems.push(fatal(what, format!("GRANT USAGE ON SEQUENCE {name} TO {role};")));
        }
    }
    if !problems.is_empty() {
        // Statements may fail for one of these.
        return Ok(problems);
    }
    for (index, table) in plan.tables.iter().enumerate() {
        let mut fails = None;
        for (kind, _, statement) in mutation_statements(plan, TableId(index as u16)) {
            // What else is of this kind fails for the same reason.
            if fails == Some(kind) {
                continue;
            }
            if let Some((code, why)) = explain(client, &begin, &statement).await? {
                fails = Some(kind);
                let what = format!("role {role} cannot {} {why}", to(kind, table));
                let repair = match code {
                    SqlState::INSUFFICIENT_PRIVILEGE => {
                        format!(
                            "grant role {role} that, too; what rules read needs SELECT, what they call EXECUTE"
                        )
                    }
                    _ => "correct the rules, or what they name".to_owned(),
                };
                problems.push(fatal(what, repair));
            }
        }
    }
    Ok(problems)
}

fn to(kind: OpKind, table: &Table) -> String {
    let name = quote_table(&table.catalog.schema, &table.catalog.name);
    match kind {
        OpKind::Insert => format!("insert into table {name}:"),
        OpKind::Update => format!("update table {name}:"),
        OpKind::Delete => format!("delete from table {name}:"),
    }
}

/// Why Postgres would not begin to carry a statement out; `None` if it would.
async fn explain(
    client: &Client,
    begin: &str,
    statement: &Statement,
) -> Result<Option<(SqlState, String)>, Error> {
    let Statement { sql, params } = statement;
    let nulls = vec!["NULL"; params.len()].join(", ");
    let arguments = if nulls.is_empty() { String::new() } else { format!(" ({nulls})") };
    // With values at hand Postgres would leave out what does not matter for these.
    let tried = format!(
        "{begin}; SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL lock_timeout = '{PATIENCE}'; \
         PREPARE {NAME} AS {sql}; SAVEPOINT prepared; EXPLAIN EXECUTE {NAME}{arguments}"
    );
    let refused = match client.batch_execute(&tried).await {
        Ok(()) => None,
        Err(error) => match error.code() {
            Some(code) => Some((code.clone(), reason(&error))),
            None => return Err(error),
        },
    };
    // Where it could not even be prepared there is neither.
    let end = format!("ROLLBACK TO prepared; DEALLOCATE {NAME}; COMMIT");
    if client.batch_execute(&end).await.is_err() {
        client.batch_execute("ROLLBACK").await?;
    }
    Ok(refused)
}

/// The functions that are called for each row that is written, and that the role that asks may not call. Those that
/// triggers run need no right.
fn functions_sql() -> String {
    let part = parts_below("SELECT unnest($1)");
    format!(
        "WITH RECURSIVE {part}, rel AS (
  SELECT oid AS root, oid FROM unnest($1) AS oid UNION SELECT root, oid FROM part
), type AS (
  SELECT rel.root, t.oid, t.typbasetype FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0
    JOIN pg_type t ON t.oid = a.atttypid WHERE NOT a.attisdropped
  UNION
  SELECT type.root, t.oid, t.typbasetype FROM type JOIN pg_type t ON t.oid = type.typbasetype
), by AS (
  SELECT rel.root, 'pg_constraint'::regclass AS class, k.oid FROM rel JOIN pg_constraint k ON k.conrelid = rel.oid
  UNION ALL
  SELECT type.root, 'pg_constraint'::regclass, k.oid FROM type JOIN pg_constraint k ON k.contypid = type.oid
  UNION ALL
  SELECT rel.root, 'pg_class'::regclass, i.indexrelid FROM rel JOIN pg_index i ON i.indrelid = rel.oid
  UNION ALL
  SELECT rel.root, 'pg_attrdef'::regclass, d.oid FROM rel JOIN pg_attrdef d ON d.adrelid = rel.oid
    JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum = d.adnum AND a.attgenerated <> ''
  UNION ALL
  SELECT rel.root, 'pg_trigger'::regclass, g.oid FROM rel JOIN pg_trigger g ON g.tgrelid = rel.oid
)
SELECT DISTINCT format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
  by.root::regclass::text FROM by
JOIN pg_depend d ON d.classid = by.class AND d.objid = by.oid AND d.refclassid = 'pg_proc'::regclass
JOIN pg_proc p ON p.oid = d.refobjid AND p.prorettype <> 'trigger'::regtype
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE NOT has_function_privilege(p.oid, 'EXECUTE') ORDER BY 1, 2"
    )
}
