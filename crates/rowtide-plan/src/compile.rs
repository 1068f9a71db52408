//! From definition and catalog to the plan. Every alternative of a rule becomes a branch; a
//! membership's inner alternatives become branches of the inner table, linked to the outer one.
//! Branches that would hold the same topics for the same views are one branch, so that a path which
//! several rules share is loaded, kept and followed once.

use std::ops::Range;

use crate::catalog::{Catalog, CatalogColumn, CatalogTable, ReplicaIdentity};
use crate::definition::{Definition, TableName};
use crate::error::{DefinitionError, Problem, did_you_mean};
use crate::filter::{ClaimFilter, Comparison, Filter, Operand, Predicate};
use crate::plan::{Branch, BranchId, Claim, ClaimId, ClaimUse, Link, Plan, Source, Table, TableId};
use crate::rule::normal::{Part, alternatives};
use crate::rule::{Member, Name, Rule, Term};
use crate::sql::quote_table;
use crate::value::{ColumnType, Family, Value};

/// Compiles a definition.
///
/// # Errors
/// All that does not fit the catalog, each with its place in the definition.
pub fn compile(definition: &Definition, catalog: &Catalog) -> Result<Plan, DefinitionError> {
    let (plan, problems) = compile_tables(definition, catalog);
    let problems: Vec<Problem> = problems.into_iter().flat_map(|(_, found)| found).collect();
    if problems.is_empty() { Ok(plan) } else { Err(definition.error(problems)) }
}

/// Compiles what fits the catalog: tables whose rules do not fit any more have no branches, and are
/// returned with the reason.
pub fn compile_partly(
    definition: &Definition,
    catalog: &Catalog,
) -> (Plan, Vec<(String, DefinitionError)>) {
    let (plan, problems) = compile_tables(definition, catalog);
    let refused = problems.into_iter().map(|(table, found)| (table, definition.error(found)));
    (plan, refused.collect())
}

/// What was found wrong, by the table of the definition.
type ByTable = Vec<(String, Vec<Problem>)>;

fn compile_tables(definition: &Definition, catalog: &Catalog) -> (Plan, ByTable) {
    let mut compiler = Compiler {
        catalog,
        plan: Plan {
            tables: Vec::new(),
            branches: Vec::new(),
            claims: Vec::new(),
            min_client: definition.min_client,
        },
        problems: Vec::new(),
    };
    let mut by_table = Vec::new();
    for table in &definition.tables {
        // If the table does not fit, nothing of it stays.
        let before = compiler.plan.clone();
        compiler.published_table(table);
        let found = std::mem::take(&mut compiler.problems);
        if !found.is_empty() {
            compiler.plan = before;
            by_table.push((table.name.name.clone(), found));
        }
    }
    // What a replica identity must hold is known only now.
    let plan = &mut compiler.plan;
    for index in 0..plan.branches.len() {
        let table = usize::from(plan.branches[index].table.0);
        plan.tables[table].branches.push(BranchId(index as u16));
    }
    for table in &definition.tables {
        let mut found = Vec::new();
        let mut names = vec![(table.name.clone(), table.span.clone())];
        table.visible.members(&mut |member| {
            let name =
                TableName { schema: member.table.schema.clone(), name: member.table.name.clone() };
            names.push((name, member.table.span.clone()));
        });
        for (name, span) in names {
            if let Some(id) = compiler.plan.table_id(&name.schema, &name.name) {
                found.extend(too_small_identity(&compiler.plan, id, span));
            }
        }
        if !found.is_empty() {
            by_table.push((table.name.name.clone(), found));
        }
    }
    (compiler.plan, by_table)
}

struct Compiler<'a> {
    catalog: &'a Catalog,
    plan: Plan,
    problems: Vec<Problem>,
}

/// What has been refused already; nothing more is to be said of it.
struct Refused;

impl Compiler<'_> {
    fn problem(&mut self, problem: Problem) -> Refused {
        self.problems.push(problem);
        Refused
    }

    fn published_table(&mut self, definition: &crate::definition::TableDefinition) {
        let Ok(id) = self.table(&definition.name, &definition.span) else { return };
        self.plan.tables[usize::from(id.0)].published = true;
        for (column, span) in &definition.columns {
            let name = Name { text: column.clone(), span: span.clone() };
            // A column that is not there has been put among the problems.
            let _: Result<usize, Refused> = self.column(id, &name);
        }
        for branch in self.rule(id, &definition.visible, &definition.visible_span) {
            self.plan.branches[usize::from(branch.0)].published = true;
        }
    }

    fn table(&mut self, name: &TableName, span: &Range<usize>) -> Result<TableId, Refused> {
        if let Some(id) = self.plan.table_id(&name.schema, &name.name) {
            return Ok(id);
        }
        let fits = |table: &&CatalogTable| table.schema == name.schema && table.name == name.name;
        let Some(catalog) = self.catalog.tables.iter().find(fits) else {
            let quoted = quote_table(&name.schema, &name.name);
            let problem = Problem::new(
                span.clone(),
                format!("the database has no table {quoted}"),
                "unknown table",
            );
            return Err(self.problem(problem.help(
                "create it, or mend the name; without quotes SQL folds names to lower case",
            )));
        };
        if catalog.primary_key.is_empty() {
            let quoted = quote_table(&name.schema, &name.name);
            let problem = Problem::new(
                span.clone(),
                format!("table {quoted} has no primary key"),
                "its rows cannot be told apart",
            );
            let help = format!("ALTER TABLE {quoted} ADD PRIMARY KEY (…);");
            return Err(self.problem(problem.help(help)));
        }
        let key = catalog.primary_key.iter().filter_map(|column| catalog.column(column)).collect();
        let name_json = serde_json::Value::from(catalog.name.clone()).to_string();
        self.plan.tables.push(Table {
            catalog: catalog.clone(),
            name_json,
            published: false,
            key,
            kept: Vec::new(),
            branches: Vec::new(),
        });
        Ok(TableId((self.plan.tables.len() - 1) as u16))
    }

    fn column(&mut self, table: TableId, name: &Name) -> Result<usize, Refused> {
        let catalog = &self.plan.table(table).catalog;
        if let Some(index) = catalog.column(&name.text) {
            return Ok(index);
        }
        let names = catalog.columns.iter().map(|column| column.name.as_str());
        let close = did_you_mean(&name.text, names).map(str::to_owned);
        let problem = Problem::new(
            name.span.clone(),
            format!("table `{}` has no column `{}`", catalog.name, name.text),
            "unknown column",
        );
        let problem = match close {
            Some(close) if close.to_lowercase() == name.text.to_lowercase() => {
                problem.help(format!(
                    "write \"{close}\" in double quotes: without them SQL folds names to lower case"
                ))
            }
            Some(close) => problem.help(format!("did you mean \"{close}\"?")),
            None => problem,
        };
        Err(self.problem(problem))
    }

    fn of(&self, table: TableId, column: usize) -> &CatalogColumn {
        &self.plan.table(table).catalog.columns[column]
    }

    /// The branches of a rule, unpublished.
    fn rule(&mut self, table: TableId, rule: &Rule, span: &Range<usize>) -> Vec<BranchId> {
        let alternatives = match alternatives(rule, span.clone()) {
            Ok(alternatives) => alternatives,
            Err(problem) => {
                self.problem(problem);
                return Vec::new();
            }
        };
        let mut branches = Vec::new();
        for alternative in alternatives {
            if let Ok(branch) = self.alternative(table, &alternative)
                && !branches.contains(&branch)
            {
                branches.push(branch);
            }
        }
        branches
    }

    fn alternative(&mut self, table: TableId, parts: &[Part<'_>]) -> Result<BranchId, Refused> {
        let mut members = parts.iter().filter_map(|part| match part {
            Part::Member(member) => Some(*member),
            _ => None,
        });
        let member = members.next();
        if let (Some(_), Some(second)) = (member, members.next()) {
            let problem = Problem::new(
                second.span.clone(),
                "an alternative can have only one membership",
                "a second membership that must hold at the same time",
            );
            return Err(self.problem(problem.help(
                "join memberships with OR, nest one in the other, or keep a column on the row that \
                 says one of them",
            )));
        }
        let mut anchor = None;
        let mut named_by = Vec::new();
        if let Some(member) = member {
            let (column, inner) = self.member(table, member)?;
            anchor = Some((column, Source::Links));
            named_by = inner;
        }
        let (mut row_parts, mut claim_parts) = (Vec::new(), Vec::new());
        let mut refused = false;
        for part in parts {
            let rule = match part {
                Part::Member(_) => continue,
                Part::ClaimEqual(rule) if anchor.is_none() => {
                    match self.claim_anchor(table, rule) {
                        Ok(found) => {
                            anchor = Some(found);
                            continue;
                        }
                        Err(Refused) => {
                            refused = true;
                            continue;
                        }
                    }
                }
                Part::ClaimEqual(rule) | Part::Filter(rule) => rule,
            };
            match self.predicate(table, rule) {
                Err(Refused) => refused = true,
                Ok(Predicate::And(parts)) => {
                    parts.into_iter().for_each(|part| sort(part, &mut row_parts, &mut claim_parts));
                }
                Ok(part) => sort(part, &mut row_parts, &mut claim_parts),
            }
        }
        if refused {
            return Err(Refused);
        }
        let claim_filter = conjunction(claim_parts);
        // Judged over the kept columns, so those are numbered first.
        let mut columns = Vec::new();
        claim_filter.operands(&mut |operand| {
            if let Operand::Column(column) = operand {
                columns.push(*column);
            }
        });
        for column in columns {
            self.keep(table, column);
        }
        let kept = &self.plan.table(table).kept;
        let number = |column| kept.iter().position(|other| *other == column).unwrap_or_default();
        let branch = Branch {
            table,
            anchor: anchor.map(|(column, _)| column),
            source: anchor.map_or(Source::Everyone, |(_, source)| source),
            filter: Filter(conjunction(row_parts)),
            claim_filter: ClaimFilter(claim_filter.with_columns(&number)),
            published: false,
            links: Vec::new(),
        };
        Ok(self.branch(branch, &named_by))
    }

    /// The branch, or one that is the same in all that decides its topics and who reaches them.
    fn branch(&mut self, branch: Branch, named_by: &[(BranchId, usize)]) -> BranchId {
        let same = |index: &usize| {
            let other = &self.plan.branches[*index];
            let id = BranchId(*index as u16);
            let names = |(from, column): &(BranchId, usize)| {
                let link = Link { target: id, column: *column };
                self.plan.branch(*from).links.contains(&link)
            };
            let named = self.plan.branches.iter().flat_map(|from| &from.links);
            let count = named.filter(|link| link.target == id).count();
            other.table == branch.table
                && other.anchor == branch.anchor
                && other.source == branch.source
                && other.filter == branch.filter
                && other.claim_filter == branch.claim_filter
                && count == named_by.len()
                && named_by.iter().all(names)
        };
        if let Some(index) = (0..self.plan.branches.len()).find(same) {
            return BranchId(index as u16);
        }
        let id = BranchId(self.plan.branches.len() as u16);
        self.plan.branches.push(branch);
        for (from, column) in named_by {
            let link = Link { target: id, column: *column };
            self.plan.branches[usize::from(from.0)].links.push(link);
        }
        id
    }

    /// The anchor column of a membership, and the branches that name its values, each with the place
    /// of the value among the kept columns.
    fn member(
        &mut self,
        table: TableId,
        member: &Member,
    ) -> Result<(usize, Vec<(BranchId, usize)>), Refused> {
        let outer = self.comparable(table, &member.column);
        let name =
            TableName { schema: member.table.schema.clone(), name: member.table.name.clone() };
        let inner_table = self.table(&name, &member.table.span)?;
        let inner = self.comparable(inner_table, &member.selected);
        let problems = self.problems.len();
        let branches = self.rule(inner_table, &member.rule, &member.span);
        let (outer, inner) = (outer?, inner?);
        if self.problems.len() > problems {
            return Err(Refused);
        }
        let (a, b) = (self.of(table, outer), self.of(inner_table, inner));
        if !same_family(a, b) {
            let (a, b) = (a.type_name.clone(), b.type_name.clone());
            let problem = Problem::new(
                member.span.clone(),
                format!("a column of type {a} cannot be looked for among values of type {b}"),
                "the types differ",
            );
            return Err(self.problem(problem.help("both columns must have the same kind of type")));
        }
        let kept = self.keep(inner_table, inner);
        Ok((outer, branches.into_iter().map(|branch| (branch, kept)).collect()))
    }

    fn claim_anchor(&mut self, table: TableId, rule: &Rule) -> Result<(usize, Source), Refused> {
        let (Rule::Compare(_, Term::Column(name), Term::Claim(claim, _), _)
        | Rule::Compare(_, Term::Claim(claim, _), Term::Column(name), _)) = rule
        else {
            unreachable!("the normal form gives `column = claim` here")
        };
        let column = self.comparable(table, name)?;
        let kind = self.of(table, column).kind.clone();
        Ok((column, Source::Claim(self.claim(claim, kind))))
    }

    fn claim(&mut self, claim: &Claim, kind: ColumnType) -> ClaimId {
        let wanted = ClaimUse { claim: claim.clone(), kind };
        let claims = &mut self.plan.claims;
        let index = claims.iter().position(|other| *other == wanted).unwrap_or_else(|| {
            claims.push(wanted);
            claims.len() - 1
        });
        ClaimId(index as u16)
    }

    fn keep(&mut self, table: TableId, column: usize) -> usize {
        let kept = &mut self.plan.tables[usize::from(table.0)].kept;
        kept.iter().position(|other| *other == column).unwrap_or_else(|| {
            kept.push(column);
            kept.len() - 1
        })
    }

    /// A column whose values can be compared.
    fn comparable(&mut self, table: TableId, name: &Name) -> Result<usize, Refused> {
        let index = self.column(table, name)?;
        let column = self.of(table, index);
        let (type_name, deterministic) = (column.type_name.clone(), column.deterministic);
        if column.kind.family().is_none() {
            let problem = Problem::new(
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
            let problem = Problem::new(
                name.span.clone(),
                "a read rule cannot compare text with a non-deterministic collation",
                "its collation is not deterministic",
            );
            return Err(self.problem(problem.help("give the column a deterministic collation")));
        }
        Ok(index)
    }

    fn predicate(&mut self, table: TableId, rule: &Rule) -> Result<Predicate, Refused> {
        Ok(match rule {
            Rule::Constant(answer) => Predicate::Literal(*answer),
            Rule::Not(inner) => Predicate::Not(Box::new(self.predicate(table, inner)?)),
            Rule::And(parts) => Predicate::And(flat_and(self.predicates(table, parts)?)),
            Rule::Or(parts) => Predicate::Or(flat_or(self.predicates(table, parts)?)),
            Rule::Bare(term) => Predicate::Bare(self.boolean(table, term)?),
            Rule::IsNull(term) => Predicate::IsNull(match term {
                Term::Column(name) => Operand::Column(self.column(table, name)?),
                Term::Claim(claim, _) => Operand::Claim(self.claim(claim, ColumnType::Text)),
                literal => return Err(self.not_a_column(literal)),
            }),
            Rule::In(term, values) => {
                let beside = self.beside(table, term)?;
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
            Rule::Member(_) => unreachable!("the normal form keeps memberships out of filters"),
        })
    }

    fn predicates(&mut self, table: TableId, parts: &[Rule]) -> Result<Vec<Predicate>, Refused> {
        // All of them, so that every problem is found.
        let parts: Vec<Result<Predicate, Refused>> =
            parts.iter().map(|part| self.predicate(table, part)).collect();
        parts.into_iter().collect()
    }

    fn not_a_column(&mut self, term: &Term) -> Refused {
        let problem =
            Problem::new(term.span(), "a literal cannot stand here", "not a column or a claim");
        self.problem(problem.help("compare a column or a claim"))
    }

    fn boolean(&mut self, table: TableId, term: &Term) -> Result<Operand, Refused> {
        match term {
            Term::Claim(claim, _) => Ok(Operand::Claim(self.claim(claim, ColumnType::Bool))),
            Term::Column(name) => {
                let index = self.column(table, name)?;
                let column = self.of(table, index);
                if column.kind == ColumnType::Bool {
                    return Ok(Operand::Column(index));
                }
                let (text, type_name) = (name.text.clone(), column.type_name.clone());
                let problem = Problem::new(
                    name.span.clone(),
                    format!("column `{text}` is not a boolean"),
                    format!("of type {type_name}"),
                );
                Err(self.problem(problem.help("compare it with something")))
            }
            literal => Err(self.not_a_column(literal)),
        }
    }

    /// The column that `term` is, or a stand-in of the type that a claim beside a literal has.
    fn beside(&mut self, table: TableId, term: &Term) -> Result<Beside, Refused> {
        match term {
            Term::Column(name) => {
                let index = self.comparable(table, name)?;
                let column = self.of(table, index);
                Ok(Beside {
                    kind: column.kind.clone(),
                    labels: column.labels.clone(),
                    type_name: column.type_name.clone(),
                })
            }
            _ => Ok(Beside::plain(ColumnType::Text)),
        }
    }

    fn comparison(
        &mut self,
        table: TableId,
        comparison: Comparison,
        left: &Term,
        right: &Term,
        span: &Range<usize>,
    ) -> Result<Predicate, Refused> {
        let beside = match (left, right) {
            (Term::Column(a), Term::Column(b)) => {
                let (a, b) = (self.comparable(table, a)?, self.comparable(table, b)?);
                let (a, b) = (self.of(table, a), self.of(table, b));
                if !same_family(a, b) {
                    let label = format!("{} and {}", a.type_name, b.type_name);
                    let problem =
                        Problem::new(span.clone(), "these columns have different types", label);
                    let help = "compare columns of the same kind of type";
                    return Err(self.problem(problem.help(help)));
                }
                Beside::plain(a.kind.clone())
            }
            (Term::Column(_), _) => self.beside(table, left)?,
            (_, Term::Column(_)) => self.beside(table, right)?,
            (Term::Claim(..), literal) | (literal, Term::Claim(..)) => {
                Beside::plain(match literal {
                    Term::Number(text, _) if text.parse::<i64>().is_ok() => ColumnType::Int,
                    Term::Number(..) => ColumnType::Numeric,
                    Term::Bool(..) => ColumnType::Bool,
                    _ => ColumnType::Text,
                })
            }
            _ => {
                let what = "a comparison of two literals says nothing about the row";
                let problem = Problem::new(span.clone(), what, "two literals");
                return Err(self.problem(problem.help("compare a column or a claim")));
            }
        };
        let ordered = beside.kind.family().is_some_and(Family::is_ordered);
        if !matches!(comparison, Comparison::Equal | Comparison::NotEqual) && !ordered {
            let what = format!("`{}` is not supported for {}", comparison.sql(), beside.type_name);
            let problem = Problem::new(span.clone(), what, "only numbers and times have an order");
            return Err(self.problem(problem.help(
                "how text is ordered depends on the collation; compare with = or <>, or keep a \
                 number",
            )));
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
    ) -> Result<Operand, Refused> {
        let fits = |number: bool| {
            use ColumnType::{Bool, Char, Enum, Float4, Float8, Int, Numeric, Text};
            match beside.kind {
                Int | Float4 | Float8 | Numeric => true,
                Bool | Text | Char | Enum => !number,
                _ => !number,
            }
        };
        let value = match term {
            Term::Column(name) => return Ok(Operand::Column(self.comparable(table, name)?)),
            Term::Claim(claim, _) => {
                return Ok(Operand::Claim(self.claim(claim, beside.kind.clone())));
            }
            Term::Null(_) => Some(Value::Null),
            Term::Bool(value, _) => {
                (beside.kind == ColumnType::Bool).then_some(Value::Bool(*value))
            }
            Term::Number(text, _) if fits(true) => Value::parse(&beside.kind, text).ok(),
            Term::Number(..) => None,
            Term::Text(text, _) if !beside.labels.is_empty() && !beside.labels.contains(text) => {
                None
            }
            Term::Text(text, _) => Value::parse(&beside.kind, text).ok(),
        };
        value.map(Operand::Literal).ok_or_else(|| {
            let what = format!("this is not a value of type {}", beside.type_name);
            let problem = Problem::new(term.span(), what, "does not fit");
            let close = match term {
                Term::Text(text, _) => did_you_mean(text, beside.labels.iter().map(String::as_str)),
                _ => None,
            };
            self.problem(match (close, term) {
                (Some(label), _) => problem.help(format!("did you mean '{label}'?")),
                (None, Term::Number(..)) => {
                    problem.help("write it as the column's type has it; text stands in 'quotes'")
                }
                (None, _) => problem.help("write it as Postgres prints values of this type"),
            })
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
    fn plain(kind: ColumnType) -> Beside {
        let type_name = match kind {
            ColumnType::Int => "integer",
            ColumnType::Numeric => "numeric",
            ColumnType::Bool => "boolean",
            _ => "text",
        };
        Beside { kind, labels: Vec::new(), type_name: type_name.to_owned() }
    }
}

fn same_family(a: &CatalogColumn, b: &CatalogColumn) -> bool {
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

/// Puts a condition to those of the row alone, or to those that ask for claims.
fn sort(part: Predicate, row_parts: &mut Vec<Predicate>, claim_parts: &mut Vec<Predicate>) {
    let mut claims = false;
    part.operands(&mut |operand| claims |= matches!(operand, Operand::Claim(_)));
    if claims { claim_parts.push(part) } else { row_parts.push(part) }
}

fn conjunction(mut parts: Vec<Predicate>) -> Predicate {
    match parts.len() {
        0 => Predicate::Literal(Some(true)),
        1 => parts.remove(0),
        _ => Predicate::And(parts),
    }
}

/// The stream must bring the old value of every column that decides who saw a row, and of every
/// column that an update may leave out because it is stored out of line.
fn too_small_identity(plan: &Plan, id: TableId, span: Range<usize>) -> Option<Problem> {
    let table = plan.table(id);
    let catalog = &table.catalog;
    let identity: Vec<usize> = match &catalog.replica_identity {
        ReplicaIdentity::Full => return None,
        ReplicaIdentity::Nothing => Vec::new(),
        ReplicaIdentity::Key => table.key.clone(),
        ReplicaIdentity::Index(columns) => {
            columns.iter().filter_map(|column| catalog.column(column)).collect()
        }
    };
    let mut needed: Vec<usize> = table.key.clone();
    needed.extend(&table.kept);
    for branch in table.branches.iter().map(|branch| plan.branch(*branch)) {
        needed.extend(branch.anchor);
        branch.filter.0.operands(&mut |operand| {
            if let Operand::Column(column) = operand {
                needed.push(*column);
            }
        });
    }
    let toasted = (0..catalog.columns.len()).filter(|column| catalog.columns[*column].toastable);
    let missing = needed.into_iter().chain(toasted).find(|column| !identity.contains(column))?;
    let quoted = quote_table(&catalog.schema, &catalog.name);
    let column = &catalog.columns[missing].name;
    let problem = Problem::new(
        span,
        format!("the replica identity of table {quoted} is too small"),
        format!("the stream does not bring the old value of \"{column}\""),
    );
    Some(problem.help(format!("ALTER TABLE {quoted} REPLICA IDENTITY FULL;")))
}
