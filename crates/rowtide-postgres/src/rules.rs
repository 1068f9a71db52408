//! Asks Postgres about the rules for writing and those of documents: whether it takes each of them, and of which type each
//! claim in them must be. A rule that it does not take is shown where it stands in the definition.

use rowtide_plan::error::DefinitionProblem;
use rowtide_plan::judged_rule::JudgedRule;
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::value::ColumnType;
use rowtide_plan::write::{
    RuleStatement, Statement, document_rule_statements, limit_lock, lock, rule_statements, write,
};
use rowtide_protocol::OpKind;
use tokio_postgres::error::{ErrorPosition, SqlState};
use tokio_postgres::types::{Kind, Type};
use tokio_postgres::{Client, Error};

use crate::connect::reason;
use rowtide_plan::sql::quote_identifier;

/// What Postgres does not take, by the table's name, or as `documents.NAME`.
pub type RuleProblems = Vec<(String, Vec<DefinitionProblem>)>;

/// Prepares every rule, of documents as well, notes the types of its claims in the plan, and prepares the statements that
/// the rules become. Tables with a rule that Postgres does not take are returned, and cannot be
/// written as long as this plan serves: mutations of them wait. So are tables that Postgres does not let be written so at
/// all: mutations of them are tried, and rejected with what Postgres says.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn prepare_rules(client: &Client, plan: &mut Plan) -> Result<RuleProblems, Error> {
    prepare(client, plan, Busy::IsAProblem).await
}

/// As [`prepare_rules`], for whoever can wait: where others have a table to themselves that is an error, and not one of
/// its rules.
///
/// # Errors
/// When Postgres cannot be asked, or a table is locked (`lock_not_available`).
pub async fn prepare_rules_unlocked(
    client: &Client,
    plan: &mut Plan,
) -> Result<RuleProblems, Error> {
    prepare(client, plan, Busy::IsAnError).await
}

/// What it is when a table cannot be looked at because others have it to themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Busy {
    IsAProblem,
    IsAnError,
}

async fn prepare(client: &Client, plan: &mut Plan, busy: Busy) -> Result<RuleProblems, Error> {
    let mut rejected = Vec::new();
    for index in 0..plan.tables.len() {
        if !plan.tables[index].published {
            continue;
        }
        let mut problems = prepare_table(client, plan, index, busy).await?;
        let name = plan.tables[index].name.clone();
        if problems.is_empty() {
            let table = TableId(index as u16);
            problems.extend(whole_statements(client, plan, table, busy).await?);
        } else {
            plan.unjudged.push(name.clone());
        }
        if !problems.is_empty() {
            rejected.push((name, problems));
        }
    }
    for index in 0..plan.documents.len() {
        let statements = document_rule_statements(plan, &plan.documents[index]);
        let kind = &mut plan.documents[index];
        let name = format!("documents.{}", kind.name);
        let problems = prepare_all(client, kind.rules_mut(), statements, busy).await?;
        if !problems.is_empty() {
            rejected.push((name, problems));
        }
    }
    Ok(rejected)
}

async fn prepare_table(
    client: &Client,
    plan: &mut Plan,
    index: usize,
    busy: Busy,
) -> Result<Vec<DefinitionProblem>, Error> {
    let statements = rule_statements(&plan.tables[index]);
    prepare_all(client, plan.tables[index].write.rules_mut(), statements, busy).await
}

async fn prepare_all(
    client: &Client,
    rules: impl Iterator<Item = &mut JudgedRule>,
    statements: Vec<RuleStatement>,
    busy: Busy,
) -> Result<Vec<DefinitionProblem>, Error> {
    let mut problems = Vec::new();
    for (rule, statement) in rules.zip(statements) {
        match client.prepare(&statement.sql).await {
            Ok(prepared) => rule.set_types(prepared.params().iter().map(kind)),
            Err(error)
                if busy == Busy::IsAnError
                    && error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) =>
            {
                return Err(error);
            }
            Err(error) if error.as_db_error().is_some() => {
                let at = position(&error, &statement.sql)
                    .and_then(|at| at.checked_sub(statement.starts));
                let mut number = 0;
                let parameter = |_: &_| {
                    number += 1;
                    format!("${number}")
                };
                let said = if error.code() == Some(&SqlState::INDETERMINATE_DATATYPE) {
                    "the type of a claim cannot be told; write auth.claims.NAME::text".to_owned()
                } else {
                    reason(&error)
                };
                problems.push(rule.problem(&said, at, parameter));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(problems)
}

/// The rules fit; then so do the statements that are made of them, or the table cannot be written so: it has rewrite
/// rules of its own (`CREATE RULE`). What no rule allows nobody writes.
async fn whole_statements(
    client: &Client,
    plan: &Plan,
    table: TableId,
    busy: Busy,
) -> Result<Option<DefinitionProblem>, Error> {
    for (_, rule, statement) in mutation_statements(plan, table) {
        match client.prepare(&statement.sql).await {
            Ok(_) => {}
            Err(error)
                if busy == Busy::IsAnError
                    && error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) =>
            {
                return Err(error);
            }
            Err(error) if error.as_db_error().is_some() => {
                return Ok(Some(rule.problem(&reason(&error), None, |_| String::new())));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The statements of every operation that a rule allows, with that rule.
pub(crate) fn mutation_statements(
    plan: &Plan,
    table: TableId,
) -> impl Iterator<Item = (OpKind, &JudgedRule, Statement)> {
    let of = plan.table(table);
    let all: Vec<usize> = (0..of.catalog.columns.len()).collect();
    let rules = &of.write;
    let allowed = [
        (OpKind::Insert, rules.insert.as_ref().map(|insert| &insert.allow)),
        (OpKind::Update, rules.updates.first().map(|update| &update.allow)),
        (OpKind::Delete, rules.delete.as_ref()),
    ];
    let allowed = allowed.into_iter().filter_map(|(kind, rule)| Some((kind, rule?)));
    allowed.flat_map(move |(kind, rule)| {
        let mut statements = vec![lock(plan, table, kind), write(plan, table, kind, &all)];
        let column = |column: &usize| &of.catalog.columns[*column].input;
        // Where Postgres alone makes the key nobody inserts: clients name it.
        if kind == OpKind::Insert && !of.key.iter().any(|key| column(key).is_of_postgres_alone()) {
            // With every default.
            statements.push(write(plan, table, kind, &of.key));
            statements.extend(limit_lock(plan, table));
        }
        statements.into_iter().map(move |statement| (kind, rule, statement))
    })
}

fn kind(of: &Type) -> (ColumnType, String) {
    if let Kind::Array(element) = of.kind() {
        let (element, name) = kind(element);
        return (ColumnType::Array(Box::new(element)), format!("{name}[]"));
    }
    let typtype = if matches!(of.kind(), Kind::Enum(_)) { 'e' } else { 'b' };
    let kind = ColumnType::of(of.name(), typtype, of.schema() == "pg_catalog");
    (kind, format!("{}.{}", quote_identifier(of.schema()), quote_identifier(of.name())))
}

/// The byte that Postgres points at; it counts characters from 1.
fn position(error: &Error, sql: &str) -> Option<usize> {
    let Some(ErrorPosition::Original(position)) = error.as_db_error()?.position() else {
        return None;
    };
    let characters = usize::try_from(*position).ok()?.checked_sub(1)?;
    sql.char_indices().nth(characters).map(|(at, _)| at)
}
