//! Reads a policy of row-level security, as Postgres prints its expression, into what a rule can say: the functions of
//! Supabase and PostgREST that name who asks become claims, casts that say nothing go, and what is looked for in other
//! tables becomes memberships. What has no words in a rule is told with the part that stands in the way. Whether a rule
//! is then accepted is not decided here.

use sqlparser::ast::{
    BinaryOperator, DataType, Expr, Function, Ident, InTarget, Query, UnaryOperator,
    Value as SqlValue,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::expr::{
    alone, arguments, cast_of_select, claim, elements, fold, inner, names, text, type_text,
    unnested,
};
use super::said::{Looked, Owner, Said};
use crate::catalog::TableName;
use crate::value::ColumnType;

/// How deep expressions may be nested.
const MAX_DEPTH: usize = 48;

/// What of a policy cannot be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    /// The part of the policy.
    pub(super) part: String,
    /// What it is.
    pub(super) why: String,
}

impl Obstacle {
    pub(super) fn new(part: impl ToString, why: impl Into<String>) -> Obstacle {
        Obstacle { part: part.to_string(), why: why.into() }
    }
}

pub(super) type Reading<T> = Result<T, Obstacle>;

/// The tables of a SELECT: how each is called there, which it is, and its number.
pub(super) type Scope = Vec<(String, TableName, usize)>;

/// What a SELECT is read for.
pub(super) enum Reads {
    /// Whether it has this value, once what it has is cast to this type.
    Value(Said, Option<DataType>),
    /// Whether it has a row; equality with a row outside may become a membership.
    Whether,
    /// The same, and it stays as it was written.
    AsItIs,
}

/// Reads the expressions of one table's policies.
pub(super) struct Reader<'a> {
    pub(super) table: &'a TableName,
    /// What its own policies let those see who look into a table; `None` if it has none.
    pub(super) hides: &'a mut dyn FnMut(&TableName) -> Reading<Option<Said>>,
    /// The type of a column, if its table is known.
    pub(super) kind: &'a dyn Fn(&TableName, &str) -> Option<ColumnType>,
    /// The SELECTs around, the innermost last.
    pub(super) scopes: Vec<Scope>,
    /// How many tables were looked into.
    pub(super) numbers: usize,
    /// Whether what is read holds where it does not: then more rows that are looked for mean less that is allowed.
    pub(super) negated: bool,
}

/// Reads the text of an expression.
pub(super) fn parse(text: &str) -> Reading<Expr> {
    let parser = Parser::new(&PostgreSqlDialect {}).with_recursion_limit(MAX_DEPTH);
    let parsed = parser.try_with_sql(text).and_then(|mut parser| parser.parse_expr());
    parsed.map_err(|_| Obstacle::new(text, "this cannot be read"))
}

impl Reader<'_> {
    /// A condition or a value.
    pub(super) fn read(&mut self, expr: &Expr) -> Reading<Said> {
        if let Some(path) = claim(expr) {
            return Ok(Said::Claim(path));
        }
        match expr {
            Expr::Nested(inner) => self.read(inner),
            Expr::BinaryOp { left, op, right } => self.binary(expr, left, op, right),
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
                self.negated = !self.negated;
                let of = self.read(expr);
                self.negated = !self.negated;
                Ok(match of? {
                    Said::Member { row, negated, of } => {
                        Said::Member { row, negated: !negated, of }
                    }
                    Said::Among { value, negated, list } => {
                        Said::Among { value, negated: !negated, list }
                    }
                    of => Said::Not(Box::new(of)),
                })
            }
            Expr::UnaryOp { op: UnaryOperator::Minus, .. } | Expr::Interval(_) => {
                Ok(Said::Literal(expr.to_string()))
            }
            Expr::IsNull(of) => self.test(of, "IS NULL"),
            Expr::IsNotNull(of) => self.test(of, "IS NOT NULL"),
            Expr::IsTrue(of) => self.test(of, "IS TRUE"),
            Expr::IsNotTrue(of) => self.test(of, "IS NOT TRUE"),
            Expr::IsFalse(of) => self.test(of, "IS FALSE"),
            Expr::IsNotFalse(of) => self.test(of, "IS NOT FALSE"),
            Expr::IsUnknown(of) => self.test(of, "IS UNKNOWN"),
            Expr::IsNotUnknown(of) => self.test(of, "IS NOT UNKNOWN"),
            Expr::IsDistinctFrom(left, right) => self.compare(left, "IS DISTINCT FROM", right),
            Expr::IsNotDistinctFrom(left, right) => {
                self.compare(left, "IS NOT DISTINCT FROM", right)
            }
            Expr::In { expr, target: InTarget::List(list), negated, global: false } => {
                self.among(expr, *negated, list)
            }
            Expr::In { expr, target: InTarget::Subquery(query), negated, global: false } => {
                self.member(expr, query, None, *negated)
            }
            Expr::Exists { subquery, negated } => {
                let turn = |of: &mut Self| of.negated ^= *negated;
                turn(self);
                let found = self.exists(subquery);
                turn(self);
                let found = found?;
                Ok(if *negated { Said::Not(Box::new(found)) } else { found })
            }
            Expr::AnyOp { left, compare_op, right, .. } => self.any(expr, left, compare_op, right),
            Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => {
                if let Expr::Subquery(_) = inner(right) {
                    return Err(Obstacle::new(expr, "rules have no ALL over a SELECT"));
                }
                match elements(right) {
                    Some(list) => self.among(left, true, list),
                    None => Ok(Said::Not(Box::new(self.of_array(left, "=", right)?))),
                }
            }
            Expr::Cast { expr: of, data_type, .. } => Ok(match (self.read(of)?, data_type) {
                (Said::Literal(text), DataType::Interval { .. }) => {
                    Said::Literal(format!("interval {text}"))
                }
                // They take the type of what they are compared with.
                (said @ (Said::Literal(_) | Said::Claim(_)), _) => said,
                (said, kind) => Said::Cast(Box::new(said), type_text(kind)),
            }),
            Expr::Value(value) => match &value.value {
                SqlValue::Boolean(true) => Ok(Said::always()),
                SqlValue::Boolean(false) => Ok(Said::never()),
                value => Ok(Said::Literal(value.to_string())),
            },
            Expr::TypedString(_) => Ok(Said::Literal(expr.to_string())),
            Expr::Function(function) => self.function(expr, function),
            Expr::Identifier(name) => self.column(expr, None, name),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, column] => self.column(expr, Some(table), column),
                _ => Err(Obstacle::new(expr, "this name has too many parts")),
            },
            Expr::Subquery(query) => match alone(query) {
                Some(inner) => self.read(inner),
                None => {
                    Err(Obstacle::new(expr, "a SELECT stands behind IN, EXISTS or = in a rule"))
                }
            },
            other => Err(Obstacle::new(other, "there are no words for this in a rule")),
        }
    }

    fn binary(
        &mut self,
        whole: &Expr,
        left: &Expr,
        operator: &BinaryOperator,
        right: &Expr,
    ) -> Reading<Said> {
        let word = match operator {
            BinaryOperator::And => return Ok(Said::all([self.read(left)?, self.read(right)?])),
            BinaryOperator::Or => return Ok(Said::any([self.read(left)?, self.read(right)?])),
            BinaryOperator::Question => {
                if !matches!(self.read(left)?, Said::Claim(_)) {
                    return Err(Obstacle::new(whole, "rules do not look into JSON of a column"));
                }
                return self.of_array(right, "=", left);
            }
            BinaryOperator::Eq => {
                if let Some(said) = self.role(left, right).or_else(|| self.role(right, left)) {
                    return Ok(said);
                }
                for (value, query) in [(left, right), (right, left)] {
                    let Expr::Subquery(select) = inner(query) else { continue };
                    if alone(select).is_some() {
                        continue;
                    }
                    // Without a row it is null, and then NOT of it is.
                    if self.negated {
                        let why = "under NOT it matters whether the SELECT has a row, which IN does not tell";
                        return Err(Obstacle::new(whole, why));
                    }
                    return self.member(value, select, cast_of_select(query), false);
                }
                "=".to_owned()
            }
            BinaryOperator::PGLikeMatch => "LIKE".to_owned(),
            BinaryOperator::PGILikeMatch => "ILIKE".to_owned(),
            BinaryOperator::PGNotLikeMatch => "NOT LIKE".to_owned(),
            BinaryOperator::PGNotILikeMatch => "NOT ILIKE".to_owned(),
            BinaryOperator::PGCustomBinaryOperator(_) => {
                return Err(Obstacle::new(whole, "an operator of an extension"));
            }
            other => other.to_string(),
        };
        self.compare(left, &word, right)
    }

    fn compare(&mut self, left: &Expr, operator: &str, right: &Expr) -> Reading<Said> {
        let equality = ["=", "<>", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"];
        let (mut left, mut right) = (self.value(left)?, self.value(right)?);
        if equality.contains(&operator) {
            (left, right) = (self.uncast(&left, [&right]), self.uncast(&right, [&left]));
        }
        // One way of writing it, so that the same condition is the same.
        let turns = operator == "=" && matches!(right, Said::Column(..));
        let (left, right) = match turns && !matches!(left, Said::Column(..)) {
            true => (right, left),
            false => (left, right),
        };
        Ok(Said::Binary(Box::new(left), operator.to_owned(), Box::new(right)))
    }

    /// `value [NOT] IN (…)`.
    fn among(&mut self, value: &Expr, negated: bool, list: &[Expr]) -> Reading<Said> {
        let value = self.value(value)?;
        let list = list.iter().map(|one| self.value(one)).collect::<Reading<Vec<_>>>()?;
        let value = Box::new(self.uncast(&value, &list));
        Ok(Said::Among { value, negated, list })
    }

    /// `value = ANY (array)`, or with another operator.
    fn of_array(&mut self, value: &Expr, operator: &str, array: &Expr) -> Reading<Said> {
        let (value, array) = (self.value(value)?, self.value(array)?);
        let value = match operator {
            "=" => self.uncast(&value, [&array]),
            _ => value,
        };
        Ok(Said::OfArray(Box::new(value), operator.to_owned(), Box::new(array)))
    }

    /// What is compared with something, or looked for.
    pub(super) fn value(&mut self, expr: &Expr) -> Reading<Said> {
        let said = self.read(expr)?;
        known(expr, &said)?;
        Ok(said)
    }

    /// A value that is compared with others for being the same: a column that was cast to text is the column itself where
    /// that is the same for each of them. A literal is read as one of the column's type, which may be written in several
    /// ways; a claim is whatever it is of.
    pub(super) fn uncast<'s>(
        &self,
        value: &Said,
        beside: impl IntoIterator<Item = &'s Said>,
    ) -> Said {
        use ColumnType::{Bool, Enum, Int, Text, Uuid};
        let Said::Cast(column, to) = value else { return value.clone() };
        let is_text = ["text", "character varying", "varchar"].contains(&to.as_str());
        let kind = self.kind_of(column).filter(|_| is_text);
        let stays = |other: &Said| match (&kind, other) {
            (Some(Text), _) => false,
            (Some(Bool | Enum | Int | Uuid), Said::Claim(_)) => false,
            (Some(Bool | Enum | Int | Uuid), Said::Cast(other, _)) => self.kind_of(other) != kind,
            (Some(Bool | Enum | Int | Uuid), other) => self.kind_of(other) != kind,
            _ => true,
        };
        if beside.into_iter().any(stays) { value.clone() } else { (**column).clone() }
    }

    /// The type of a column that is known.
    fn kind_of(&self, column: &Said) -> Option<ColumnType> {
        let Said::Column(owner, name) = column else { return None };
        let table = match owner {
            Owner::Row => self.table,
            Owner::Looked(number) => {
                let mut scopes = self.scopes.iter().flatten();
                &scopes.find(|(.., of)| of == number)?.1
            }
        };
        (self.kind)(table, name)
    }

    fn test(&mut self, of: &Expr, test: &'static str) -> Reading<Said> {
        let said = self.read(of)?;
        known(of, &said)?;
        Ok(Said::Test(Box::new(said), test))
    }

    /// `auth.role() = 'authenticated'`.
    fn role(&self, function: &Expr, name: &Expr) -> Option<Said> {
        let Expr::Function(function) = inner(function) else { return None };
        if names(function) != ["auth", "role"] {
            return None;
        }
        let user = || Box::new(Said::user());
        Some(match text(name)?.as_str() {
            "authenticated" => Said::Test(user(), "IS NOT NULL"),
            "anon" => Said::Test(user(), "IS NULL"),
            _ => Said::never(),
        })
    }

    fn any(
        &mut self,
        whole: &Expr,
        left: &Expr,
        operator: &BinaryOperator,
        right: &Expr,
    ) -> Reading<Said> {
        if let Some(list) = elements(right).filter(|_| *operator == BinaryOperator::Eq) {
            return self.among(left, false, list);
        }
        if let Expr::Subquery(query) = inner(right)
            && alone(query).is_none()
        {
            return match operator {
                BinaryOperator::Eq => self.member(left, query, cast_of_select(right), false),
                _ => Err(Obstacle::new(whole, "only = goes with ANY over a SELECT")),
            };
        }
        self.of_array(left, &operator.to_string(), right)
    }

    /// `value IN (SELECT …)`; what the SELECT has may be cast.
    fn member(
        &mut self,
        value: &Expr,
        query: &Query,
        cast: Option<&DataType>,
        negated: bool,
    ) -> Reading<Said> {
        if let Some(array) = unnested(query) {
            if claim(array).is_none() {
                return Err(Obstacle::new(query, "rules unnest no arrays but those of claims"));
            }
            let said = self.of_array(value, "=", array)?;
            return Ok(if negated { Said::Not(Box::new(said)) } else { said });
        }
        let value = self.value(value)?;
        let is_column = match &value {
            Said::Cast(of, _) => matches!(**of, Said::Column(..)),
            value => matches!(value, Said::Column(..)),
        };
        if self.negated != negated && !is_column {
            let why = "under NOT it matters whether one of its values is null, and what is no column of the row is looked for among the others";
            return Err(Obstacle::new(query, why));
        }
        self.negated ^= negated;
        let found = self.look(query, Reads::Value(value, cast.cloned()));
        self.negated ^= negated;
        Ok(match found? {
            Said::Member { row, of, .. } => Said::Member { row, negated, of },
            found if negated => Said::Not(Box::new(found)),
            found => found,
        })
    }

    fn exists(&mut self, query: &Query) -> Reading<Said> {
        // Of what is not there it matters whether the outer column is null, so it stays as it was written.
        let reads = if self.negated { Reads::AsItIs } else { Reads::Whether };
        self.look(query, reads)
    }

    fn function(&mut self, whole: &Expr, function: &Function) -> Reading<Said> {
        let names = names(function);
        if names.len() > 1 {
            let why = match names.first().map(String::as_str) {
                Some("auth") => "a function that tells who asks, and no claim says the same",
                _ => "a function: what it looks up has to stand in the rule itself",
            };
            return Err(Obstacle::new(whole, why));
        }
        let name = names.concat();
        if name == "current_setting" {
            let why = "a setting of the application's sessions: where it is the user's id, write auth.user_id";
            return Err(Obstacle::new(whole, why));
        }
        let unsaid = || Obstacle::new(whole, "there are no words for this in a rule");
        let plain = function.over.is_none() && function.filter.is_none();
        let arguments = arguments(function).filter(|_| plain).ok_or_else(unsaid)?;
        let arguments =
            arguments.into_iter().map(|one| self.read(one)).collect::<Reading<Vec<_>>>()?;
        arguments.iter().try_for_each(|said| known(whole, said))?;
        Ok(Said::Call(name, arguments))
    }

    fn column(&self, whole: &Expr, table: Option<&Ident>, column: &Ident) -> Reading<Said> {
        let name = fold(column);
        let owner = match table {
            Some(table) => {
                let table = fold(table);
                let mut scopes = self.scopes.iter().rev().flatten();
                match scopes.find(|(called, ..)| *called == table) {
                    Some((.., number)) => Owner::Looked(*number),
                    None if table == self.table.name => Owner::Row,
                    None => return Err(Obstacle::new(whole, "this names no row that is known")),
                }
            }
            None => match self.scopes.last().map(Vec::as_slice) {
                Some([(.., number)]) => Owner::Looked(*number),
                Some(_) => return Err(Obstacle::new(whole, "this names no row that is known")),
                None => Owner::Row,
            },
        };
        Ok(Said::Column(owner, name))
    }

    /// What hides rows of a table that is looked into, said of that row. Rows that must not be there are looked for
    /// among all: that allows less, and never more.
    pub(super) fn hidden_of(&mut self, table: &TableName, number: usize) -> Reading<Said> {
        if self.negated {
            return Ok(Said::always());
        }
        let rule = (self.hides)(table)?.unwrap_or_else(Said::always);
        Ok(rule.of_row(number))
    }
}

/// What is looked for in other tables is said so that it holds where it held: whether it is false or null where it does not
/// may be another than it was, and so may what depends on that.
fn known(whole: &Expr, said: &Said) -> Reading<()> {
    match said.looks() {
        true => Err(Obstacle::new(whole, "it tells false from null of what it looks up")),
        false => Ok(()),
    }
}

/// What is looked for, as a condition.
pub(super) fn found(row: Vec<Said>, of: Looked) -> Said {
    match row.is_empty() {
        true => Said::Exists(Box::new(of)),
        false => Said::Member { row, negated: false, of: Box::new(of) },
    }
}
