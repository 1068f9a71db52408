//! What expressions are as Postgres prints them, without the parentheses and casts around: literals, arrays, and the paths
//! into the token that Supabase and PostgREST have functions and settings for.

use sqlparser::ast::{
    Array, BinaryOperator, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, Ident, ObjectNamePart, Query, SelectItem, SetExpr, Value as SqlValue,
};

/// A name as Postgres has it.
pub(super) fn fold(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

/// Without parentheses, casts, and a SELECT around it that looks nowhere.
pub(super) fn inner(expr: &Expr) -> &Expr {
    match expr {
        Expr::Nested(of) => inner(of),
        Expr::Cast { expr: of, .. } => inner(of),
        Expr::Subquery(query) => alone(query).map_or(expr, inner),
        other => other,
    }
}

/// The expression of a SELECT that has nothing else.
pub(super) fn alone(query: &Query) -> Option<&Expr> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let bare = select.from.is_empty() && select.selection.is_none() && query.with.is_none();
    match select.projection.as_slice() {
        [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }] if bare => {
            Some(expr)
        }
        _ => None,
    }
}

/// What the value of a SELECT is cast to.
pub(super) fn cast_of_select(expr: &Expr) -> Option<&DataType> {
    match expr {
        Expr::Nested(of) => cast_of_select(of),
        Expr::Cast { data_type, .. } => Some(data_type),
        _ => None,
    }
}

/// The name of a type, as Postgres has it.
pub(super) fn type_text(of: &DataType) -> String {
    let text = of.to_string();
    if text.contains('"') { text } else { text.to_lowercase() }
}

/// The array whose elements a SELECT is.
pub(super) fn unnested(query: &Query) -> Option<&Expr> {
    let Expr::Function(function) = inner(alone(query)?) else { return None };
    let unnests = ["jsonb_array_elements_text", "json_array_elements_text", "unnest"];
    let of = arguments(function)?;
    (unnests.contains(&names(function).concat().as_str()) && of.len() == 1).then(|| inner(of[0]))
}

/// The elements of an array that is written out.
pub(super) fn elements(expr: &Expr) -> Option<&[Expr]> {
    match inner(expr) {
        Expr::Array(Array { elem, .. }) => Some(elem),
        _ => None,
    }
}

pub(super) fn names(function: &Function) -> Vec<String> {
    let part = |part: &ObjectNamePart| match part {
        ObjectNamePart::Identifier(ident) => fold(ident),
        ObjectNamePart::Function(_) => String::new(),
    };
    function.name.0.iter().map(part).collect()
}

pub(super) fn arguments(function: &Function) -> Option<Vec<&Expr>> {
    let FunctionArguments::List(list) = &function.args else {
        return matches!(function.args, FunctionArguments::None).then(Vec::new);
    };
    if !list.clauses.is_empty() {
        return None;
    }
    let argument = |argument| match argument {
        &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref expr)) => Some(expr),
        _ => None,
    };
    list.args.iter().map(argument).collect()
}

/// A literal's text, whatever it is cast to.
pub(super) fn text(expr: &Expr) -> Option<String> {
    match inner(expr) {
        Expr::Value(value) => match &value.value {
            SqlValue::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// The path into the claims that an expression is; empty for the user's id.
pub(super) fn claim(expr: &Expr) -> Option<Vec<String>> {
    let path = match inner(expr) {
        Expr::Function(function) => {
            let names = names(function);
            match names.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                ["auth", "uid"] => Vec::new(),
                ["auth", "email"] => vec!["email".to_owned()],
                ["current_setting"] => {
                    let setting = text(arguments(function)?.first()?)?;
                    vec![setting.strip_prefix("request.jwt.claim.")?.to_owned()]
                }
                ["nullif" | "coalesce"] if is_of_setting(function) => {
                    claim(arguments(function)?.first()?)?
                }
                _ => return None,
            }
        }
        Expr::BinaryOp { left, op, right } => {
            let mut path = if is_claims(left) { Vec::new() } else { claim(left)? };
            match op {
                BinaryOperator::Arrow | BinaryOperator::LongArrow => path.push(text(right)?),
                BinaryOperator::HashArrow | BinaryOperator::HashLongArrow => {
                    let text = text(right)?;
                    let parts = text.trim_matches(['{', '}']).split(',');
                    path.extend(parts.map(|part| part.trim_matches('"').to_owned()));
                }
                _ => return None,
            }
            path
        }
        _ => return None,
    };
    Some(if path == ["sub"] { Vec::new() } else { path })
}

/// Whether `NULLIF` or `COALESCE` only makes null of a setting that is empty.
fn is_of_setting(function: &Function) -> bool {
    arguments(function)
        .is_some_and(|of| of.len() == 2 && text(of[1]).is_some_and(|text| text.is_empty()))
}

/// Whether an expression is all claims.
fn is_claims(expr: &Expr) -> bool {
    let Expr::Function(function) = inner(expr) else { return false };
    let names = names(function);
    match names.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["auth", "jwt"] => true,
        ["current_setting"] => {
            let first = arguments(function).and_then(|of| text(of.first()?));
            first.as_deref() == Some("request.jwt.claims")
        }
        ["nullif" | "coalesce"] => {
            arguments(function).is_some_and(|of| of.first().is_some_and(|of| is_claims(of)))
        }
        _ => false,
    }
}
