//! Conditions, held against the types of the columns that they name. A literal or a claim takes the type
//! of the column beside it. A comparison that Postgres would decide differently is rejected.

use super::{Compiler, Rejected};
use crate::catalog::CatalogColumn;
use crate::claims::Claim;
use crate::error::{DefinitionProblem, did_you_mean};
use crate::filter::{Comparison, Operand, Predicate};
use crate::ids::TableId;
use crate::rule::{Name, Rule, Term};
use crate::sql::quote_literal;
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
            return Err(self.problem(problem.help(
                "such a column can only be tested with IS NULL; keep what you compare in a column \
                 of a plain type",
            )));
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
            Rule::IsNull(term) => Predicate::IsNull(match term {
                Term::Column(name) => Operand::Column(self.column(table, name)?),
                Term::Claim(Claim::UserId, _) => {
                    Operand::Claim(self.claim(&Claim::UserId, ColumnType::Text))
                }
                // Whether it is there, whatever it is.
                Term::Claim(claim, _) => Operand::Claim(self.claim(claim, ColumnType::Json)),
                literal => return Err(self.not_a_column(literal)),
            }),
            Rule::In(term, values) => {
                let beside = match term {
                    Term::Column(name) => self.beside(table, name)?,
                    Term::Claim(..) => Beside::of_literals(values),
                    literal => return Err(self.not_a_column(literal)),
                };
                let operand = self.operand(table, term, &beside)?;
                let mut read = Vec::new();
                for value in values {
                    match self.operand(table, value, &beside)? {
                        Operand::Literal(value) => read.push(value),
                        _ => return Err(self.not_a_column(value)),
                    }
                }
                Predicate::In(operand, read)
            }
            Rule::Compare(comparison, left, right, span) => {
                self.comparison(table, *comparison, left, right, span)?
            }
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
        Ok(Beside {
            kind: column.kind.clone(),
            labels: column.labels.clone(),
            type_name: column.type_name.clone(),
        })
    }

    fn comparison(
        &mut self,
        table: TableId,
        comparison: Comparison,
        left: &Term,
        right: &Term,
        span: &Span,
    ) -> Result<Predicate, Rejected> {
        let beside = match (left, right) {
            (Term::Column(a), Term::Column(b)) => {
                let (first, second) = (self.beside(table, a), self.comparable(table, b));
                let (first, second) = (first?, second?);
                let a = self.comparable(table, a)?;
                let (a, b) = (self.of(table, a), self.of(table, second));
                if !same_family(a, b) {
                    let label = format!("{} and {}", a.type_name, b.type_name);
                    let problem = DefinitionProblem::new(
                        span.clone(),
                        "these columns have different types",
                        label,
                    );
                    let help = "compare columns of the same kind of type";
                    return Err(self.problem(problem.help(help)));
                }
                first
            }
            (Term::Column(name), _) | (_, Term::Column(name)) => self.beside(table, name)?,
            (Term::Claim(..), other) | (other, Term::Claim(..)) => {
                Beside::of_literals(std::slice::from_ref(other))
            }
            _ => {
                let what = "a comparison of two literals says nothing about the row";
                let problem = DefinitionProblem::new(span.clone(), what, "two literals");
                return Err(self.problem(problem.help("compare a column or a claim")));
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
        let left = self.operand(table, left, &beside)?;
        let right = self.operand(table, right, &beside)?;
        Ok(Predicate::Compare(comparison, left, right))
    }

    fn operand(
        &mut self,
        table: TableId,
        term: &Term,
        beside: &Beside,
    ) -> Result<Operand, Rejected> {
        use ColumnType::{Bool, Float4, Float8, Int, Numeric};
        let value = match term {
            Term::Column(name) => return Ok(Operand::Column(self.comparable(table, name)?)),
            Term::Claim(claim, _) => {
                return Ok(Operand::Claim(self.claim(claim, beside.kind.clone())));
            }
            Term::Null(_) => Some(Value::Null),
            Term::Bool(value, _) => (beside.kind == Bool).then_some(Value::Bool(*value)),
            Term::Number(text, _) => match beside.kind {
                Int | Float4 | Float8 | Numeric => Value::parse(&beside.kind, text).ok(),
                _ => None,
            },
            Term::Text(text, _) if !beside.labels.is_empty() && !beside.labels.contains(text) => {
                None
            }
            Term::Text(text, _) => Value::parse(&beside.kind, text).ok(),
        };
        value.map(Operand::Literal).ok_or_else(|| {
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
        })
    }
}

/// What a literal or a claim is compared with.
struct Beside {
    kind: ColumnType,
    labels: Vec<String>,
    type_name: String,
}

impl Beside {
    /// What a claim is, to judge by the literals that it is compared with.
    fn of_literals(literals: &[Term]) -> Beside {
        let integer = |term: &Term| match term {
            Term::Number(text, _) => text.parse::<i64>().is_ok(),
            term => matches!(term, Term::Null(_)),
        };
        let number = |term: &Term| matches!(term, Term::Number(..) | Term::Null(_));
        let boolean = |term: &Term| matches!(term, Term::Bool(..) | Term::Null(_));
        let (kind, type_name) = if literals.iter().all(|term| matches!(term, Term::Null(_))) {
            (ColumnType::Text, "text")
        } else if literals.iter().all(integer) {
            (ColumnType::Int, "integer")
        } else if literals.iter().all(number) {
            (ColumnType::Numeric, "numeric")
        } else if literals.iter().all(boolean) {
            (ColumnType::Bool, "boolean")
        } else {
            (ColumnType::Text, "text")
        };
        Beside { kind, labels: Vec::new(), type_name: type_name.to_owned() }
    }
}

/// How a literal of the type is written.
fn example(beside: &Beside) -> String {
    let labels = || beside.labels.iter().map(|label| quote_literal(label)).collect::<Vec<_>>();
    let example = match beside.kind {
        ColumnType::Bool => "true or false",
        ColumnType::Int => "a whole number, such as 42",
        ColumnType::Float4 | ColumnType::Float8 | ColumnType::Numeric => "a number, such as 4.2",
        ColumnType::Enum if beside.labels.len() <= 8 => {
            return format!("one of {}", labels().join(", "));
        }
        ColumnType::Uuid => "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', for example",
        ColumnType::Bytea => "'\\xc0ffee', for example",
        ColumnType::TimestampTz => "'2026-01-31 12:00:00+00', for example",
        ColumnType::Timestamp => "'2026-01-31 12:00:00', for example",
        ColumnType::Date => "'2026-01-31', for example",
        ColumnType::Time => "'12:00:00', for example",
        _ => "'text' in single quotes",
    };
    example.to_owned()
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
