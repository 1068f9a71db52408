//! Asks Postgres about the rules for writing and those of documents: whether it takes each of them, and of which type each
//! claim in them must be. A rule that it does not take is shown where it stands in the definition.

use rowtide_plan::calls::{ParamKind, PlannedCall};
use rowtide_plan::error::DefinitionProblem;
use rowtide_plan::judged_rule::JudgedRule;
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::value::ColumnType;
use rowtide_plan::write::{
    RuleStatement, Statement, document_rule_statements, limit_lock, lock, rule_statements, write,
    write_as_role,
};
use rowtide_protocol::OpKind;
use tokio_postgres::error::{ErrorPosition, SqlState};
use tokio_postgres::types::{Kind, Type};
use tokio_postgres::{Client, Error};

use crate::connect::reason;
use rowtide_plan::sql::{quote_identifier, quote_literal};

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
    for call in &mut plan.calls {
        let problems = prepare_call(client, call, busy).await?;
        if !problems.is_empty() {
            rejected.push((format!("mutations.{}", call.name), problems));
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
        let mut answer = client.prepare(&statement.sql).await;
        let mut asked = &statement;
        // A column that has no prefix is of two rows, or a table is named as such: then it is of each row in turn.
        if let (Err(error), Some(bare)) = (&answer, statement.bare.as_deref())
            && let Some(&SqlState::AMBIGUOUS_COLUMN | &SqlState::UNDEFINED_TABLE) = error.code()
        {
            answer = client.prepare(&bare.sql).await;
            asked = bare;
            if answer.is_ok() {
                rule.set_bare();
            }
        }
        match answer {
            Ok(prepared) => rule.set_types(prepared.params().iter().map(kind)),
            Err(error)
                if busy == Busy::IsAnError
                    && error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) =>
            {
                return Err(error);
            }
            Err(error) if error.as_db_error().is_some() => {
                let at = position(&error, &asked.sql).and_then(|at| at.checked_sub(asked.starts));
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

/// Asks about the statement of a named mutation, and about the defaults of its parameters.
async fn prepare_call(
    client: &Client,
    call: &mut PlannedCall,
    busy: Busy,
) -> Result<Vec<DefinitionProblem>, Error> {
    let is_locked = |error: &Error| {
        busy == Busy::IsAnError && error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
    };
    let sql = call.ask();
    let prepared = match client.prepare(&sql).await {
        Ok(prepared) => prepared,
        Err(error) if error.as_db_error().is_none() || is_locked(&error) => return Err(error),
        Err(error) => {
            let at = position(&error, &sql);
            let said = match error.code() {
                Some(&SqlState::INDETERMINATE_DATATYPE) => {
                    "the type of a claim cannot be told; write auth.claims.NAME::text".to_owned()
                }
                _ => reason(&error),
            };
            return Ok(vec![call.problem(&said, at)]);
        }
    };
    let mut problems = Vec::new();
    for (text, type_name, problem) in call.defaults() {
        let sql = format!("SELECT {}::{type_name}", quote_literal(text));
        match client.prepare(&sql).await {
            Ok(_) => {}
            Err(error) if error.as_db_error().is_none() => return Err(error),
            Err(_) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        let Some((params, claims)) = prepared.params().split_at_checked(call.params.len()) else {
            return Ok(vec![call.problem("it reads a parameter as a part of a comment", None)]);
        };
        let (params, claims): (Vec<ParamKind>, Vec<(ColumnType, String)>) =
            (params.iter().map(param_kind).collect(), claims.iter().map(kind).collect());
        call.set_types(params, claims);
    }
    Ok(problems)
}

fn param_kind(of: &Type) -> ParamKind {
    let named = |kind| ParamKind { kind, name: of.name().to_owned() };
    match of.kind() {
        // Its checks are Postgres' to make.
        Kind::Domain(inner) => param_kind(inner),
        Kind::Array(element) => named(ColumnType::Array(Box::new(param_kind(element).kind))),
        _ => named(kind(of).0),
    }
}

/// The rules fit; then so do the statements that are made of them, or the table cannot be written so: it has rewrite
/// rules of its own (`CREATE RULE`). What no rule allows nobody writes.
async fn whole_statements(
    client: &Client,
    plan: &Plan,
    table: TableId,
    busy: Busy,
) -> Result<Option<DefinitionProblem>, Error> {
    for (_, rule, statement) in mutation_statements(plan, table, true) {
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

/// The statements of every operation that a rule allows, with that rule: of the server's own role, and of the one that
/// writes, if that is asked for.
pub(crate) fn mutation_statements(
    plan: &Plan,
    table: TableId,
    with_role: bool,
) -> impl Iterator<Item = (OpKind, &JudgedRule, Statement)> {
    let of = plan.table(table);
    let all: Vec<usize> = of.sent_columns().map(|(column, _)| column).collect();
    let rules = &of.write;
    let allowed = [
        (OpKind::Insert, rules.insert.as_ref().map(|insert| &insert.allow)),
        (OpKind::Update, rules.updates.first().map(|update| &update.allow)),
        (OpKind::Delete, rules.delete.as_ref()),
    ];
    let allowed = allowed.into_iter().filter_map(|(kind, rule)| Some((kind, rule?)));
    allowed.flat_map(move |(kind, rule)| {
        let mut statements = vec![lock(plan, table, kind), write(plan, table, kind, &all)];
        let by_role = plan.writes_as.is_some() && with_role;
        if kind == OpKind::Insert {
            // With every default, and with the key as it must be given.
            let given = of.key.iter().copied().filter(|key| !of.makes_key(*key));
            let given: Vec<usize> = given.collect();
            statements.push(write(plan, table, kind, &of.key));
            if given != of.key {
                statements.push(write(plan, table, kind, &given));
            }
            statements.extend(limit_lock(plan, table));
        }
        statements.extend(by_role.then(|| write_as_role(plan, table, kind, &all)));
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
