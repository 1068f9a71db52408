//! Conditions, held against the types of the columns that they name. A literal or a claim takes the type
//! of the column beside it. A comparison that Postgres would decide differently is rejected.

use super::types::{Beside, element_of, example};
use super::{Compiler, Rejected};
use crate::catalog::CatalogColumn;
use crate::claims::Claim;
use crate::error::{DefinitionProblem, did_you_mean};
use crate::filter::{Comparison, Operand, Predicate};
use crate::ids::TableId;
use crate::rule::{CastType, Name, Rule, Term};
use crate::sql_text::Span;
use crate::value::{ColumnType, Family, Value};

impl Compiler<'_> {
    /// A column whose values can be compared.
    pub(super) fn comparable(&mut self, table: TableId, name: &Name) -> Result<usize, Rejected> {
        let index = self.column(table, name)?;
        let column = self.of(table, index);
        let (type_name, deterministic) = (column.type_name.clone(), column.deterministic);
        if column.kind.family().is_none() {
            let problem = DefinitionProblem::new(
                name.span.clone(),
                format!("a read rule cannot compare values of type {type_name}"),
                format!("of type {type_name}"),
            );
            let is_array = element_of(self.of(table, index)).is_some();
            return Err(self.problem(problem.help(if is_array {
                "write `x = ANY (column)`, or test it with IS NULL"
            } else {
                "such a column can only be tested with IS NULL; keep what you compare in a column \
                 of a plain type"
            })));
        }
        if !deterministic {
            let problem = DefinitionProblem::new(
                name.span.clone(),
                "a read rule cannot compare text with a non-deterministic collation",
                "its collation is not deterministic",
            );
            return Err(self.problem(problem.help("give the column a deterministic collation")));
        }
        Ok(index)
    }

    pub(super) fn predicate(&mut self, table: TableId, rule: &Rule) -> Result<Predicate, Rejected> {
        Ok(match rule {
            Rule::Constant(answer) => Predicate::Literal(*answer),
            Rule::Not(inner) => Predicate::Not(Box::new(self.predicate(table, inner)?)),
            Rule::And(parts) => Predicate::And(flat_and(self.predicates(table, parts)?)),
            Rule::Or(parts) => Predicate::Or(flat_or(self.predicates(table, parts)?)),
            Rule::Bare(term) => Predicate::Bare(self.boolean(table, term)?),
            Rule::Is(inner, answer) => {
                Predicate::Is(Box::new(self.predicate(table, inner)?), *answer)
            }
            Rule::IsNull(term) => Predicate::IsNull(match term {
                Term::Column(name) => Operand::Column(self.column(table, name)?),
                Term::Claim(Claim::UserId, _) => {
                    Operand::Claim(self.claim(&Claim::UserId, ColumnType::Text))
                }
                // Whether it is there, whatever it is.
                Term::Claim(claim, _) => Operand::Claim(self.claim(claim, ColumnType::Json)),
                Term::Cast(inner, to, span) if !term.is_literal() => {
                    match self.cast(table, inner, to, span)? {
                        // A cast makes no null, and no value of null.
                        Operand::Cast(column, _) => Operand::Column(column),
                        operand => operand,
                    }
                }
                literal => return Err(self.not_a_column(literal)),
            }),
            Rule::Same(left, right, span) => {
                let equal = self.comparison(table, Comparison::Equal, left, right, span)?;
                let Predicate::Compare(_, left, right) = &equal else { return Ok(equal) };
                let both = [left, right].map(|operand| match operand {
                    Operand::Literal(value) => Predicate::Literal(Some(value.is_null())),
                    operand => Predicate::IsNull(operand.clone()),
                });
                let is_equal = Predicate::Is(Box::new(equal.clone()), Some(true));
                Predicate::Or(vec![is_equal, Predicate::And(both.into())])
            }
            Rule::In(term, values) => {
                if term.is_literal() {
                    return Err(self.not_a_column(term));
                }
                let own = self.own_type(table, term)?;
                let beside = own.unwrap_or_else(|| Beside::of_literals(values));
                let operand = self.operand(table, term, &beside)?;
                let of_list = self.type_of_list(table, beside, values)?;
                let mut read = Vec::new();
                for value in values {
                    match self.operand(table, value, &of_list)? {
                        Operand::Literal(value) => read.push(value),
                        _ => return Err(self.not_a_column(value)),
                    }
                }
                Predicate::In(operand, read)
            }
            Rule::Compare(comparison, left, right, span) => {
                self.comparison(table, *comparison, left, right, span)?
            }
            Rule::Any(item, array, span) => self.any(table, item, array, span)?,
            Rule::Member(member) => self.member_predicate(table, member)?,
        })
    }

    fn predicates(&mut self, table: TableId, parts: &[Rule]) -> Result<Vec<Predicate>, Rejected> {
        // All of them, so that every problem is found.
        let parts: Vec<Result<Predicate, Rejected>> =
            parts.iter().map(|part| self.predicate(table, part)).collect();
        parts.into_iter().collect()
    }

    fn not_a_column(&mut self, term: &Term) -> Rejected {
        let problem = DefinitionProblem::new(
            term.span(),
            "a literal cannot stand here",
            "not a column or a claim",
        );
        self.problem(problem.help("compare a column or a claim"))
    }

    fn boolean(&mut self, table: TableId, term: &Term) -> Result<Operand, Rejected> {
        match term {
            Term::Cast(inner, to, _) if to.kind() == Some(ColumnType::Bool) => {
                self.boolean(table, inner)
            }
            Term::Claim(claim, _) => Ok(Operand::Claim(self.claim(claim, ColumnType::Bool))),
            Term::Column(name) => {
                let index = self.column(table, name)?;
                let column = self.of(table, index);
                if column.kind == ColumnType::Bool {
                    return Ok(Operand::Column(index));
                }
                let (text, type_name) = (name.text.clone(), column.type_name.clone());
                let problem = DefinitionProblem::new(
                    name.span.clone(),
                    format!("column `{text}` is not a boolean"),
                    format!("of type {type_name}"),
                );
                Err(self.problem(problem.help("compare it with something")))
            }
            literal => Err(self.not_a_column(literal)),
        }
    }

    fn beside(&mut self, table: TableId, name: &Name) -> Result<Beside, Rejected> {
        let index = self.comparable(table, name)?;
        let column = self.of(table, index);
        Ok(Beside::of_column(column))
    }

    fn comparison(
        &mut self,
        table: TableId,
        comparison: Comparison,
        left: &Term,
        right: &Term,
        span: &Span,
    ) -> Result<Predicate, Rejected> {
        if left.is_literal() && right.is_literal() {
            let what = "a comparison of two literals says nothing about the row";
            let problem = DefinitionProblem::new(span.clone(), what, "two literals");
            return Err(self.problem(problem.help("compare a column or a claim")));
        }
        let (first, second) = (self.own_type(table, left), self.own_type(table, right));
        let (first, second) = (first?, second?);
        let beside = match (&first, &second) {
            (Some(a), Some(b)) => {
                if !a.same_family(b) {
                    let label = format!("{} and {}", a.type_name, b.type_name);
                    let what = match (left, right) {
                        (Term::Column(_), Term::Column(_)) => "these columns have different types",
                        _ => "these have different types",
                    };
                    let problem = DefinitionProblem::new(span.clone(), what, label);
                    let help = match (left, right) {
                        (Term::Column(_), Term::Column(_)) => {
                            "compare columns of the same kind of type".to_owned()
                        }
                        _ => format!("compare it with what is of type {}", a.type_name),
                    };
                    return Err(self.problem(problem.help(help)));
                }
                a.clone()
            }
            (Some(beside), None) | (None, Some(beside)) => beside.clone(),
            (None, None) => {
                let other = if left.is_literal() { left } else { right };
                Beside::of_literals(std::slice::from_ref(other))
            }
        };
        let ordered = beside.kind.family().is_some_and(Family::is_ordered);
        if !matches!(comparison, Comparison::Equal | Comparison::NotEqual) && !ordered {
            let what = format!("`{}` is not supported for {}", comparison.sql(), beside.type_name);
            let problem =
                DefinitionProblem::new(span.clone(), what, "only numbers and times have an order");
            let text = beside.kind.family() == Some(Family::Text);
            return Err(self.problem(problem.help(if text {
                "how text is ordered depends on its collation: compare with = or <>, or keep a number"
            } else {
                "compare with = or <>, or keep a number"
            })));
        }
        let sides = [(left, &first, right, &second), (right, &second, left, &first)];
        let sides = sides.map(|(term, own, other, type_of_other)| {
            let operand = self.operand(table, term, own.as_ref().unwrap_or(&beside))?;
            // Beside what was cast to text, `char(n)` is text, and blanks at the end of the other count.
            let is = |of: &Option<Beside>, kind| of.as_ref().is_some_and(|of| of.kind == kind);
            let is_text = matches!(other, Term::Cast(..)) && is(type_of_other, ColumnType::Text);
            Ok(match operand {
                Operand::Column(column) if is_text && is(own, ColumnType::Char) => {
                    Operand::Cast(column, ColumnType::Text)
                }
                operand => operand,
            })
        });
        let [left, right] = sides;
        Ok(Predicate::Compare(comparison, left?, right?))
    }

    /// `item = ANY (array)`.
    fn any(
        &mut self,
        table: TableId,
        item: &Term,
        array: &Term,
        span: &Span,
    ) -> Result<Predicate, Rejected> {
        let own = self.own_type(table, item)?;
        let (element, array) = match (array, array.uncast()) {
            (Term::Column(name), _) => {
                let (index, element) = self.array_column(table, name)?;
                (element, Operand::Column(index))
            }
            (array, Term::Claim(claim @ (Claim::Named(_) | Claim::Param { .. }), _)) => {
                let element = match (array, &own) {
                    (Term::Cast(_, to, span), _) => self.cast_type(to, span)?,
                    (_, Some(own)) => own.clone(),
                    (_, None) => Beside::of_literals(std::slice::from_ref(item)),
                };
                let kind = ColumnType::Array(Box::new(element.kind.clone()));
                let claim = Operand::Claim(self.claim(claim, kind));
                (element, claim)
            }
            (other, _) => {
                let problem = DefinitionProblem::new(other.span(), "this is no array", "no array");
                let help = "write `= ANY (column)` or `= ANY (auth.claims.NAME)`";
                return Err(self.problem(problem.help(help)));
            }
        };
        if let Some(own) = &own {
            let is_char = |of: &Beside| of.kind == ColumnType::Char;
            if !own.same_family(&element) || is_char(own) != is_char(&element) {
                let label = format!("{} and an array of {}", own.type_name, element.type_name);
                let what = "these have different types";
                let problem = DefinitionProblem::new(span.clone(), what, label);
                let help = "compare it with elements of the same kind of type";
                return Err(self.problem(problem.help(help)));
            }
        }
        let item = self.operand(table, item, own.as_ref().unwrap_or(&element))?;
        Ok(Predicate::Any(item, array))
    }

    /// A column that is an array whose elements can be compared, and what these are.
    fn array_column(&mut self, table: TableId, name: &Name) -> Result<(usize, Beside), Rejected> {
        let index = self.column(table, name)?;
        let column = self.of(table, index);
        if let Some(element) = element_of(column) {
            return Ok((index, element));
        }
        let what = format!("a read rule cannot look into values of type {}", column.type_name);
        let label = format!("of type {}", column.type_name);
        let problem = DefinitionProblem::new(name.span.clone(), what, label);
        Err(self.problem(problem.help(
            "ANY takes columns that are arrays of numbers, texts, times, booleans and uuids",
        )))
    }

    /// What the literals of a list are beside a column or a claim that is `beside`.
    fn type_of_list(
        &mut self,
        table: TableId,
        beside: Beside,
        values: &[Term],
    ) -> Result<Beside, Rejected> {
        use ColumnType::{Float4, Float8};
        // Postgres widens a `float4` beside one number, and narrows several to it.
        let mut of_list = Beside { one_of_several: values.len() > 1, ..beside };
        for value in values {
            let Some(own) = self.own_type(table, value)? else { continue };
            match (&of_list.kind, own.kind) {
                (Float4, Float8) => of_list.kind = Float8,
                (Float8, Float4) => {}
                (kind, own_kind) if *kind == own_kind && of_list.type_oid == own.type_oid => {}
                _ => {
                    let label = format!("{} and {}", of_list.type_name, own.type_name);
                    let what = "these have different types";
                    let problem = DefinitionProblem::new(value.span(), what, label);
                    return Err(self.problem(
                        problem.help("leave the cast out: literals take the type of the column"),
                    ));
                }
            }
        }
        Ok(of_list)
    }

    /// What a term is by itself; `None` for a literal or a claim without a cast, which takes the type beside it.
    fn own_type(&mut self, table: TableId, term: &Term) -> Result<Option<Beside>, Rejected> {
        match term {
            Term::Column(name) => self.beside(table, name).map(Some),
            Term::Cast(_, to, span) => self.cast_type(to, span).map(Some),
            _ => Ok(None),
        }
    }

    fn cast_type(&mut self, to: &CastType, span: &Span) -> Result<Beside, Rejected> {
        if let Some(kind) = to.kind() {
            return Ok(Beside::of_kind(kind, &to.name));
        }
        let named = to.of_application().unwrap_or_default();
        let is_it = |column: &&CatalogColumn| {
            column.kind == ColumnType::Enum && column.type_name.trim_matches('"') == named
        };
        let mut columns = self.catalog.tables.iter().flat_map(|table| &table.columns);
        if let Some(column) = columns.find(is_it) {
            return Ok(Beside::of_column(column));
        }
        let what = format!("casts to {} are not supported in a read rule", to.name);
        let problem = DefinitionProblem::new(span.clone(), what, "not supported");
        let help = "leave the cast out: literals and claims take the type of the column";
        Err(self.problem(problem.help(help)))
    }

    /// `inner` as the type `to`.
    fn cast(
        &mut self,
        table: TableId,
        inner: &Term,
        to: &CastType,
        span: &Span,
    ) -> Result<Operand, Rejected> {
        let own = self.cast_type(to, span)?;
        match inner {
            Term::Column(name) => {
                let index = self.comparable(table, name)?;
                let column = self.of(table, index);
                let (kind, type_name) = (column.kind.clone(), column.type_name.clone());
                if !to.fits_all_of(column) {
                    let what =
                        format!("a column of type {type_name} cannot be cast to {}", to.name);
                    let label = "not each of its values can be, or not always to the same";
                    let problem = DefinitionProblem::new(span.clone(), what, label);
                    return Err(self.problem(problem.help(
                        "leave the cast out: literals and claims take the type of the column",
                    )));
                }
                let is_the_same = kind == own.kind || kind == ColumnType::Float4;
                Ok(if is_the_same {
                    Operand::Column(index)
                } else {
                    Operand::Cast(index, own.kind)
                })
            }
            Term::Claim(claim, _) => Ok(Operand::Claim(self.claim(claim, own.kind))),
            Term::Cast(innermost, first, first_span) => {
                if !first.fits_in(to) {
                    let what = "this cast of a cast is not supported in a read rule";
                    let problem = DefinitionProblem::new(span.clone(), what, "cast twice");
                    let help = "cast once, to the type that it is compared with";
                    return Err(self.problem(problem.help(help)));
                }
                self.cast(table, innermost, first, first_span)
            }
            literal => {
                let operand = self.operand(table, literal, &own)?;
                if let Operand::Literal(Value::Int(number)) = operand
                    && !to.holds(number)
                {
                    return Err(self.not_of_type(literal, &own));
                }
                Ok(operand)
            }
        }
    }

    fn operand(
        &mut self,
        table: TableId,
        term: &Term,
        beside: &Beside,
    ) -> Result<Operand, Rejected> {
        use ColumnType::{Bool, Float4, Float8, Int, Numeric};
        let value = match term {
            Term::Cast(inner, to, span) => return self.cast(table, inner, to, span),
            Term::Column(name) => return Ok(Operand::Column(self.comparable(table, name)?)),
            Term::Claim(claim, _) => {
                return Ok(Operand::Claim(self.claim(claim, beside.kind.clone())));
            }
            Term::Null(_) => Some(Value::Null),
            Term::Bool(value, _) => (beside.kind == Bool).then_some(Value::Bool(*value)),
            Term::Number(text, _) => match beside.kind {
                // A number without quotes is no `float4`: both become a `float8`.
                Float4 if !beside.one_of_several => Value::parse(&Float8, text).ok(),
                Int | Float4 | Float8 | Numeric => Value::parse(&beside.kind, text).ok(),
                _ => None,
            },
            Term::Text(text, _) if !beside.labels.is_empty() && !beside.labels.contains(text) => {
                None
            }
            Term::Text(text, _) => Value::parse(&beside.kind, text).ok(),
        };
        value.map(Operand::Literal).ok_or_else(|| self.not_of_type(term, beside))
    }

    fn not_of_type(&mut self, term: &Term, beside: &Beside) -> Rejected {
        let what = format!("this is not a value of type {}", beside.type_name);
        let problem = DefinitionProblem::new(term.span(), what, "does not fit");
        let close = match term {
            Term::Text(text, _) => did_you_mean(text, beside.labels.iter().map(String::as_str)),
            _ => None,
        };
        let help = match close {
            Some(label) => format!("did you mean '{label}'?"),
            None => format!("write {}", example(beside)),
        };
        self.problem(problem.help(help))
    }
}

/// Whether values of two columns can be compared; enums only with their own kind.
pub(super) fn same_family(a: &CatalogColumn, b: &CatalogColumn) -> bool {
    let same = a.kind.family() == b.kind.family();
    same && (a.kind != ColumnType::Enum || a.type_oid == b.type_oid)
}

fn flat_and(parts: Vec<Predicate>) -> Vec<Predicate> {
    let flat = |part| match part {
        Predicate::And(inner) => inner,
        other => vec![other],
    };
    parts.into_iter().flat_map(flat).collect()
}

fn flat_or(parts: Vec<Predicate>) -> Vec<Predicate> {
    let flat = |part| match part {
        Predicate::Or(inner) => inner,
        other => vec![other],
    };
    parts.into_iter().flat_map(flat).collect()
}
