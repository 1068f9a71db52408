//! Rights that mutations need and no list of tables shows: what rules read and call, what defaults, constraints and
//! indexes call, and the sequences that defaults take numbers from. Postgres looks at those of a statement as it begins to
//! carry it out, so each statement of a mutation is explained as the role that mutations come as; what it looks at only with
//! a row at hand is read from the catalog. What functions and triggers do inside shows only when they run.

use rowtide_plan::check::Problem;
use rowtide_plan::plan::{Plan, Table, TableId};
use rowtide_plan::sql::{quote_identifier, quote_table};
use rowtide_plan::write::run;
use rowtide_plan::write_rules::UpdateRule;
use rowtide_protocol::OpKind;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row};

use crate::catalog::whole_tables;
use crate::check::{current_role, fatal};
use crate::connect::reason;
use crate::foreign_keys::{self, ENFORCED};
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
    let role = current_role(client).await?;
    let mut problems = Vec::new();
    let written = |table: &&Table| !table.write.updates.is_empty() || table.write.insert.is_some();
    let any = |table: &&Table| written(table) || table.write.delete.is_some();
    let of = async |sql: &str, tables: Vec<u32>| {
        client.query_typed(sql, &[(&tables, Type::OID_ARRAY)]).await
    };
    let mut called = of(&functions_sql(), oids(plan, written)).await?;
    let conditions = of(&conditions_sql(), oids(plan, any)).await?;
    called.extend(conditions.into_iter().filter(|trigger| fires(plan, trigger)));
    for row in called {
        let (function, table): (&str, &str) = (row.get(0), row.get(1));
        let what = format!(
            "role {role} may not call {function}, which a constraint, an index, a column or a trigger's condition of \
             {table} calls"
        );
        let problem = fatal(what, format!("GRANT EXECUTE ON FUNCTION {function} TO {role};"));
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    for Sequence { name, table, usable, .. } in sequences(client, plan).await? {
        if !usable {
            let what =
                format!("role {role} may not use sequence {name}, which numbers rows of {table}");
            problems.push(fatal(what, format!("GRANT USAGE ON SEQUENCE {name} TO {role};")));
        }
    }
    problems.extend(foreign_keys::in_the_way(client, plan).await?);
    if !problems.is_empty() {
        // Statements may fail for one of these.
        return Ok(problems);
    }
    let (as_role, who) = match &plan.writes_as {
        None => (begin.clone(), role.clone()),
        Some(other) => {
            let other = quote_identifier(other);
            (format!("{begin}; SET LOCAL ROLE {other}"), other)
        }
    };
    // That the role is not there, or not to be had, is said elsewhere.
    let is_to_be_had =
        !plan.calls.is_empty() && explain(client, &as_role, "SELECT 1", &[]).await?.is_none();
    let calls = plan.calls.iter().enumerate();
    for (index, call) in calls.filter(|(_, call)| is_to_be_had && call.is_judged()) {
        let statement = run(plan, index);
        let types = vec!["text"; statement.params.len()];
        if let Some((code, why)) = explain(client, &as_role, &statement.sql, &types).await? {
            let what = format!("role {who} cannot run mutation {}: {why}", call.name);
            let repair = match code {
                SqlState::INSUFFICIENT_PRIVILEGE => format!("grant role {who} that"),
                _ => "correct `run`, or what it names".to_owned(),
            };
            problems.push(fatal(what, repair));
        }
    }
    for (index, table) in plan.tables.iter().enumerate() {
        let mut fails = None;
        for (kind, _, statement) in mutation_statements(plan, TableId(index as u16), false) {
            // What else is of this kind fails for the same reason.
            if fails == Some(kind) {
                continue;
            }
            let types = vec!["text"; statement.params.len()];
            if let Some((code, why)) = explain(client, &begin, &statement.sql, &types).await? {
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

/// Why Postgres would not begin to carry a statement out, whose parameters come as these types; `None` if it would.
///
/// # Errors
/// When Postgres does not answer.
pub(crate) async fn explain(
    client: &Client,
    begin: &str,
    sql: &str,
    types: &[&str],
) -> Result<Option<(SqlState, String)>, Error> {
    let list = |of: &[&str]| match of.is_empty() {
        true => String::new(),
        false => format!(" ({})", of.join(", ")),
    };
    // Each is cast where it stands, so it can come as a text: a domain may not take null.
    let (arguments, types) = (list(&vec!["NULL"; types.len()]), list(types));
    // With values at hand Postgres would leave out what does not matter for these.
    let tried = format!(
        "{begin}; SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL lock_timeout = '{PATIENCE}'; \
         PREPARE {NAME}{types} AS {sql}\n; SAVEPOINT prepared; EXPLAIN EXECUTE {NAME}{arguments}"
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
        // It is there if it was prepared, and not known to have been.
        drop(client.batch_execute(&format!("DEALLOCATE {NAME}")).await);
    }
    Ok(refused)
}

/// Whether a trigger fires for a write that a rule allows.
fn fires(plan: &Plan, trigger: &Row) -> bool {
    let (of, events): (u32, i32) = (trigger.get(2), trigger.get(3));
    let columns: Vec<String> = trigger.get(4);
    let Some(table) = plan.tables.iter().find(|table| table.catalog.oid == of) else {
        return false;
    };
    let rules = &table.write;
    let name = |column: &usize| &table.catalog.columns[*column].name;
    let updates = |rule: &UpdateRule| {
        let of_rule = rule.columns.as_ref();
        columns.is_empty()
            || of_rule.is_none_or(|of| of.iter().any(|at| columns.contains(name(at))))
    };
    (events & TRIGGER_INSERT != 0 && rules.insert.is_some())
        || (events & TRIGGER_DELETE != 0 && rules.delete.is_some())
        || (events & TRIGGER_UPDATE != 0 && rules.updates.iter().any(updates))
}

/// Of `pg_trigger.tgtype`.
const TRIGGER_INSERT: i32 = 1 << 2;
const TRIGGER_DELETE: i32 = 1 << 3;
const TRIGGER_UPDATE: i32 = 1 << 4;

/// The functions that what is in `by` calls, also as operators, and that the role that asks may not call: with the table, and
/// the other columns of `by`.
fn lacking_of(others: &str) -> String {
    format!(
        "SELECT DISTINCT format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
  by.root::regclass::text{others} FROM by
JOIN pg_depend d ON d.classid = by.class AND d.objid = by.oid
LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
JOIN pg_proc p ON p.prorettype <> 'trigger'::regtype
  AND (p.oid = o.oprcode OR (d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid))
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE NOT has_function_privilege(p.oid, 'EXECUTE') ORDER BY 1, 2"
    )
}

/// The functions that are called for each row that is inserted or updated.
fn functions_sql() -> String {
    let (relations, lacking) = (whole_tables("$1"), lacking_of(""));
    format!(
        "WITH RECURSIVE {relations}, type AS (
  SELECT rel.root, a.atttypid AS oid FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0
  WHERE NOT a.attisdropped
  UNION
  SELECT type.root, inner_one.oid FROM type JOIN pg_type t ON t.oid = type.oid
  CROSS JOIN LATERAL (
    SELECT t.typbasetype UNION ALL SELECT t.typelem
    UNION ALL SELECT a.atttypid FROM pg_attribute a
    WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
  ) AS inner_one(oid) WHERE inner_one.oid <> 0
), by AS (
  SELECT rel.root, 'pg_constraint'::regclass AS class, k.oid FROM rel JOIN pg_constraint k ON k.conrelid = rel.oid
  WHERE {ENFORCED}
  UNION ALL
  SELECT type.root, 'pg_constraint'::regclass, k.oid FROM type JOIN pg_constraint k ON k.contypid = type.oid
  UNION ALL
  SELECT rel.root, 'pg_class'::regclass, i.indexrelid FROM rel JOIN pg_index i ON i.indrelid = rel.oid
  UNION ALL
  SELECT rel.root, 'pg_attrdef'::regclass, d.oid FROM rel JOIN pg_attrdef d ON d.adrelid = rel.oid
    JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum = d.adnum AND a.attgenerated = 's'
) {lacking}"
    )
}

/// The functions that conditions of triggers call. What triggers run needs no right.
fn conditions_sql() -> String {
    let relations = whole_tables("$1");
    let lacking = lacking_of(", by.root, by.events, by.columns");
    format!(
        "WITH RECURSIVE {relations}, by AS (
  SELECT rel.root, 'pg_trigger'::regclass AS class, g.oid, g.tgtype::int AS events,
    ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = g.tgrelid AND a.attnum = ANY (g.tgattr)) AS columns
  FROM rel JOIN pg_trigger g ON g.tgrelid = rel.oid WHERE g.tgenabled IN ('O', 'A') AND g.tgqual IS NOT NULL
) {lacking}"
    )
}
