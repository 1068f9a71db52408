//! `order` and `limit` of what a query selects of a table: the window that a subscription has of it.

use sqlparser::ast::{Expr, OrderByExpr, OrderBySort};
use toml::Spanned;

use super::sql_text;
use crate::error::{DefinitionProblem, did_you_mean};
use crate::rule::{Name, QueryScope};
use crate::sql_text::{Span, SqlText, fold};
use crate::window::MAX_WINDOW_ROWS;

/// The first rows in an order.
#[derive(Clone, Debug)]
pub(crate) struct WindowDefinition {
    /// Never empty.
    pub(crate) order: Vec<OrderedBy>,
    pub(crate) limit: LimitDefinition,
    pub(crate) limit_span: Span,
}

/// A column of an order.
#[derive(Clone, Debug)]
pub(crate) struct OrderedBy {
    pub(crate) column: Name,
    pub(crate) descending: bool,
    pub(crate) nulls_first: bool,
}

/// How many rows.
#[derive(Clone, Debug)]
pub(crate) enum LimitDefinition {
    Rows(u32),
    /// A parameter of the query.
    Param(String),
}

/// Reads both; `None` if there is neither.
///
/// # Errors
/// All that is wrong with them.
pub(super) fn window(
    text: &str,
    table: &str,
    order: Option<&Spanned<String>>,
    limit: Option<&Spanned<toml::Value>>,
    query: &QueryScope<'_>,
) -> Result<Option<WindowDefinition>, Vec<DefinitionProblem>> {
    let (order, limit) = match (order, limit) {
        (None, None) => return Ok(None),
        (Some(order), None) => {
            let what = "an order without a limit says nothing: rows have no order for a client";
            let problem = DefinitionProblem::new(order.span(), what, "this order");
            return Err(vec![problem.help("add `limit`, as in `limit = 50`, or take `order` out")]);
        }
        (None, Some(limit)) => {
            let what = "a limit needs an order, which says which rows are the first";
            let problem = DefinitionProblem::new(limit.span(), what, "this limit");
            return Err(vec![problem.help(
                "add `order`, as in `order = 'created_at DESC'`, with a column of the table",
            )]);
        }
        (Some(order), Some(limit)) => (order, limit),
    };
    let mut problems = Vec::new();
    let sql = sql_text(text, order);
    let columns = match sql.order() {
        Ok(columns) => columns,
        Err(problem) => return Err(vec![problem]),
    };
    let mut ordered = Vec::new();
    for of in &columns {
        match ordered_by(&sql, table, of) {
            Ok(of) => ordered.push(of),
            Err(problem) => problems.push(problem),
        }
    }
    match limit_of(limit, query) {
        Ok(found) if problems.is_empty() => {
            Ok(Some(WindowDefinition { order: ordered, limit: found, limit_span: limit.span() }))
        }
        Ok(_) => Err(problems),
        Err(problem) => {
            problems.push(problem);
            Err(problems)
        }
    }
}

fn ordered_by(
    sql: &SqlText,
    table: &str,
    of: &OrderByExpr,
) -> Result<OrderedBy, DefinitionProblem> {
    let place = || sql.place(sqlparser::ast::Spanned::span(of));
    let problem = |what: &str| DefinitionProblem::new(place(), what, "this part");
    let name = match &of.expr {
        Expr::Identifier(name) => name,
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [of, name] if fold(of) == table => name,
            _ => return Err(problem("this is no column of the table").help(COLUMNS)),
        },
        _ => return Err(problem("rows are ordered by columns alone").help(COLUMNS)),
    };
    let descending = match &of.options.sort {
        None | Some(OrderBySort::Asc) => false,
        Some(OrderBySort::Desc) => true,
        Some(OrderBySort::Using(_)) => {
            return Err(problem("`USING` is not supported").help("write ASC or DESC"));
        }
    };
    if of.with_fill.is_some() {
        return Err(problem("this is not SQL of Postgres").help(COLUMNS));
    }
    let nulls_first = of.options.nulls_first.unwrap_or(descending);
    Ok(OrderedBy { column: Name { text: fold(name), span: place() }, descending, nulls_first })
}

const COLUMNS: &str = "write columns, separated by commas, each with ASC or DESC if it matters, and NULLS FIRST or NULLS LAST: \
                       'created_at DESC, id DESC'";

fn limit_of(
    limit: &Spanned<toml::Value>,
    query: &QueryScope<'_>,
) -> Result<LimitDefinition, DefinitionProblem> {
    let problem = |what: String| DefinitionProblem::new(limit.span(), what, "this limit");
    let help =
        format!("write a number from 1 to {MAX_WINDOW_ROWS}, or a parameter: 'params.count'");
    let number = match limit.get_ref() {
        toml::Value::Integer(number) => Some(*number),
        toml::Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    if let Some(number) = number {
        return match u32::try_from(number).ok().filter(|rows| (1..=MAX_WINDOW_ROWS).contains(rows))
        {
            Some(rows) => Ok(LimitDefinition::Rows(rows)),
            None => Err(problem(format!("a window has 1 to {MAX_WINDOW_ROWS} rows")).help(help)),
        };
    }
    let toml::Value::String(text) = limit.get_ref() else {
        return Err(
            problem("a limit is a number, or a parameter of the query".to_owned()).help(help)
        );
    };
    let Some(name) = text.trim().strip_prefix("params.") else {
        return Err(
            problem("a limit is a number, or a parameter of the query".to_owned()).help(help)
        );
    };
    if query.params.contains(&name) {
        return Ok(LimitDefinition::Param(name.to_owned()));
    }
    let what = format!("the query `{}` has no parameter `{name}`", query.name);
    let help = match did_you_mean(name, query.params.iter().copied()) {
        Some(close) => format!("did you mean `params.{close}`?"),
        None => format!("write it among the query's `params`: {name} = \"int4 = 50\""),
    };
    Err(problem(what).help(help))
}
