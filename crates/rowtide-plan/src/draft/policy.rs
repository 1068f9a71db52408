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

use super::expr::{alone, arguments, claim, elements, fold, inner, names, text, unnested};
use super::said::{Looked, Owner, Said};
use crate::catalog::TableName;

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
    /// Whether it has this value.
    Value(Said),
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
                let value = Box::new(self.read_uncast(expr)?);
                let list = list.iter().map(|one| self.read(one)).collect::<Reading<_>>()?;
                Ok(Said::Among { value, negated: *negated, list })
            }
            Expr::In { expr, target: InTarget::Subquery(query), negated, global: false } => {
                self.member(expr, query, *negated)
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
                let value = Box::new(self.read_uncast(left)?);
                Ok(match elements(right) {
                    Some(list) => {
                        let list = list.iter().map(|one| self.read(one)).collect::<Reading<_>>()?;
                        Said::Among { value, negated: true, list }
                    }
                    None => {
                        let array = Box::new(self.read(right)?);
                        Said::Not(Box::new(Said::OfArray(value, "=".to_owned(), array)))
                    }
                })
            }
            Expr::Cast { expr: of, data_type, .. } => Ok(match (self.read(of)?, data_type) {
                (Said::Literal(text), DataType::Interval { .. }) => {
                    Said::Literal(format!("interval {text}"))
                }
                // They take the type of what they are compared with.
                (said @ (Said::Literal(_) | Said::Claim(_)), _) => said,
                (said, kind) => Said::Cast(Box::new(said), kind.to_string()),
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
                let (array, value) = (self.read(left)?, self.read_uncast(right)?);
                if !matches!(array, Said::Claim(_)) {
                    return Err(Obstacle::new(whole, "rules do not look into JSON of a column"));
                }
                return Ok(Said::OfArray(Box::new(value), "=".to_owned(), Box::new(array)));
            }
            BinaryOperator::Eq => {
                if let Some(said) = self.role(left, right).or_else(|| self.role(right, left)) {
                    return Ok(said);
                }
                for (value, query) in [(left, right), (right, left)] {
                    if let Expr::Subquery(query) = inner(query)
                        && alone(query).is_none()
                    {
                        return self.member(value, query, false);
                    }
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
        let (left, right) = match equality.contains(&operator) {
            true => (self.read_uncast(left)?, self.read_uncast(right)?),
            false => (self.read(left)?, self.read(right)?),
        };
        // One way of writing it, so that the same condition is the same.
        let turns = operator == "=" && matches!(right, Said::Column(..));
        let (left, right) = match turns && !matches!(left, Said::Column(..)) {
            true => (right, left),
            false => (left, right),
        };
        Ok(Said::Binary(Box::new(left), operator.to_owned(), Box::new(right)))
    }

    /// A value where it is compared for being the same: a column that was cast to text is the column itself.
    pub(super) fn read_uncast(&mut self, expr: &Expr) -> Reading<Said> {
        Ok(match self.read(expr)? {
            Said::Cast(of, kind)
                if matches!(*of, Said::Column(..))
                    && matches!(
                        kind.to_lowercase().as_str(),
                        "text" | "character varying" | "varchar"
                    ) =>
            {
                *of
            }
            said => said,
        })
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
            let value = Box::new(self.read_uncast(left)?);
            let list = list.iter().map(|one| self.read(one)).collect::<Reading<_>>()?;
            return Ok(Said::Among { value, negated: false, list });
        }
        if let Expr::Subquery(query) = inner(right)
            && alone(query).is_none()
        {
            return match operator {
                BinaryOperator::Eq => self.member(left, query, false),
                _ => Err(Obstacle::new(whole, "only = goes with ANY over a SELECT")),
            };
        }
        let (left, right) = (self.read_uncast(left)?, self.read(right)?);
        Ok(Said::OfArray(Box::new(left), operator.to_string(), Box::new(right)))
    }

    /// `value IN (SELECT …)`.
    fn member(&mut self, value: &Expr, query: &Query, negated: bool) -> Reading<Said> {
        if let Some(array) = unnested(query) {
            let Some(path) = claim(array) else {
                return Err(Obstacle::new(query, "rules unnest no arrays but those of claims"));
            };
            let value = Box::new(self.read_uncast(value)?);
            let said = Said::OfArray(value, "=".to_owned(), Box::new(Said::Claim(path)));
            return Ok(if negated { Said::Not(Box::new(said)) } else { said });
        }
        let value = self.read_uncast(value)?;
        if self.negated != negated && !matches!(value, Said::Column(..)) {
            let why = "under NOT it matters whether one of its values is null, and what is no column of the row is looked for among the others";
            return Err(Obstacle::new(query, why));
        }
        self.negated ^= negated;
        let found = self.look(query, Reads::Value(value));
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
