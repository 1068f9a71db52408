//! From definition and catalog to the plan. Every alternative of a rule becomes a branch; a
//! membership's inner alternatives become branches of the inner table, linked to the outer one where the
//! membership finds its rows, and otherwise the fillers of a set that it asks.
//! Branches that would hold the same topics for the same views are one branch, so that a path which
//! several rules share is loaded, kept and followed once.

mod documents;
mod identity;
mod membership;
mod names;
mod predicate;
mod queries;
mod sent;
mod time;
mod types;
mod unstreamed;
mod windows;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub(crate) use self::identity::instead_of_full;
use self::identity::too_small_identity;
use self::membership::{Reached, anchor_membership};
use crate::catalog::{Catalog, CatalogColumn, TableName};
use crate::claims::{Claim, ClaimUse};
use crate::definition::{Definition, SelectDefinition, Sync, TableDefinition};
use crate::error::{DefinitionError, DefinitionProblem};
use crate::filter::{ClaimFilter, Filter, Operand, Predicate};
use crate::ids::{BranchId, ClaimId, TableId, WindowId};
use crate::plan::{Branch, Link, Plan, Selection, Source};
use crate::rule::normal::{Part, alternatives};
use crate::rule::{Member, Rule};
use crate::sql_text::Span;
use crate::value::ColumnType;
use crate::write_rules::{UpdateRule, WriteRules};

/// The most branches of a definition.
const MAX_BRANCHES: usize = 4_096;

/// Compiles a definition.
///
/// # Errors
/// All that does not fit the catalog, each with its place in the definition.
pub fn compile(definition: &Definition, catalog: &Catalog) -> Result<Plan, DefinitionError> {
    let (plan, tables, documents) = compile_all(definition, catalog);
    let problems = tables.into_iter().chain(documents);
    let problems: Vec<DefinitionProblem> = problems.flat_map(|(_, found)| found).collect();
    if problems.is_empty() { Ok(plan) } else { Err(definition.error(problems)) }
}

/// Compiles what fits the catalog: tables whose rules do not fit any more have no branches, and are
/// returned with the reason; so are queries and documents that do not fit, as `queries.NAME` and `documents.NAME`.
pub fn compile_partly(
    definition: &Definition,
    catalog: &Catalog,
) -> (Plan, Vec<(String, DefinitionError)>) {
    let (mut plan, tables, documents) = compile_all(definition, catalog);
    plan.unfit = tables.iter().map(|(table, _)| table.clone()).collect();
    let rejected = tables.into_iter().chain(documents);
    let rejected = rejected.map(|(table, found)| (table, definition.error(found)));
    (plan, rejected.collect())
}

/// The problems of each entry of the definition.
type ByEntry = Vec<(String, Vec<DefinitionProblem>)>;

/// What fits, and the problems of tables, and of queries and documents.
fn compile_all(definition: &Definition, catalog: &Catalog) -> (Plan, ByEntry, ByEntry) {
    let mut rejected: BTreeMap<usize, Vec<DefinitionProblem>> = BTreeMap::new();
    let mut rejected_queries: BTreeMap<usize, Vec<DefinitionProblem>> = BTreeMap::new();
    loop {
        let mut compiler = Compiler::new(definition, catalog);
        for (index, table) in definition.tables.iter().enumerate() {
            if rejected.contains_key(&index) {
                continue;
            }
            // Nothing of a table that does not fit stays in the plan.
            let before = compiler.plan.clone();
            compiler.published_table(table);
            let found = std::mem::take(&mut compiler.problems);
            if !found.is_empty() {
                compiler.plan = before;
                rejected.insert(index, found);
            }
        }
        for (index, query) in definition.queries.iter().enumerate() {
            if rejected_queries.contains_key(&index) {
                compiler.plan.unfit_queries.push(query.name.clone());
                continue;
            }
            let before = compiler.plan.clone();
            compiler.query(definition, query);
            let found = std::mem::take(&mut compiler.problems);
            if !found.is_empty() {
                compiler.plan = before;
                compiler.plan.unfit_queries.push(query.name.clone());
                rejected_queries.insert(index, found);
            }
        }
        compiler.selection = Selection::Always;
        let mut documents = Vec::new();
        for document in &definition.documents {
            let before = compiler.plan.clone();
            compiler.document(document);
            let found = std::mem::take(&mut compiler.problems);
            if !found.is_empty() {
                compiler.plan = before;
                documents.push((format!("documents.{}", document.name), found));
            }
        }
        let plan = compiler.finish();
        // Only now it is known what a replica identity must hold. Each table that is rejected for that makes
        // it less for the others, so this is repeated.
        let mut more = false;
        for (index, table) in definition.tables.iter().enumerate() {
            let of = (table.name.clone(), table.span.clone());
            let found = too_small_identities(&plan, Some(of), &table.visible);
            if !found.is_empty() && !rejected.contains_key(&index) {
                rejected.insert(index, found);
                more = true;
            }
        }
        for (index, query) in definition.queries.iter().enumerate() {
            let of = |select: &SelectDefinition| too_small_identities(&plan, None, &select.rule);
            let found: Vec<DefinitionProblem> = query.selects.iter().flat_map(of).collect();
            if !found.is_empty() && !rejected_queries.contains_key(&index) {
                rejected_queries.insert(index, found);
                more = true;
            }
        }
        if !more {
            let name = |index: usize| definition.tables[index].wire_name.clone();
            let by_table = rejected.into_iter().map(|(index, found)| (name(index), found));
            let query = |index: usize| format!("queries.{}", definition.queries[index].name);
            let by_query = rejected_queries.into_iter().map(|(index, found)| (query(index), found));
            return (plan, by_table.collect(), by_query.chain(documents).collect());
        }
    }
}

/// What is wrong with the replica identities of a table and of those that a rule looks into.
fn too_small_identities(
    plan: &Plan,
    table: Option<(TableName, Span)>,
    rule: &Rule,
) -> Vec<DefinitionProblem> {
    let mut names: Vec<(TableName, Span)> = table.into_iter().collect();
    rule.members(&mut |member| {
        names.push((member.table.name(), member.table.span.clone()));
    });
    let of = |(name, span): (TableName, Span)| {
        too_small_identity(plan, plan.table_id(&name.schema, &name.name)?, span)
    };
    names.into_iter().filter_map(of).collect()
}

struct Compiler<'a> {
    catalog: &'a Catalog,
    older_clients: bool,
    plan: Plan,
    problems: Vec<DefinitionProblem>,
    /// Which views the branches being compiled are for.
    selection: Selection,
    /// The window that the rows of the rule being compiled are for.
    window: Option<WindowId>,
    /// The tables whose rows the membership being compiled is about, outermost first.
    outer: Vec<TableId>,
    /// The memberships of this table's rule: one that stands in several alternatives is compiled once.
    members: HashMap<*const Member, Result<Arc<Reached>, Rejected>>,
}

/// A part of a rule that was rejected. Its problem is in the list already.
#[derive(Clone, Copy)]
struct Rejected;

impl Compiler<'_> {
    fn new<'a>(definition: &Definition, catalog: &'a Catalog) -> Compiler<'a> {
        let Definition { min_client, int8, anonymous, .. } = *definition;
        let (writes_as, calls) = (definition.writes_as.clone(), definition.calls.clone());
        let plan = Plan { min_client, int8, anonymous, writes_as, calls, ..Plan::default() };
        let (problems, outer, members) = (Vec::new(), Vec::new(), HashMap::new());
        let older_clients = definition.older_clients();
        let selection = Selection::Always;
        Compiler { catalog, older_clients, plan, problems, selection, window: None, outer, members }
    }

    fn finish(mut self) -> Plan {
        self.note_claims_of_queries();
        for (index, branch) in self.plan.branches.iter().enumerate() {
            let table = &mut self.plan.tables[usize::from(branch.table.0)];
            table.branches.push(BranchId(index as u16));
        }
        self.plan
    }

    fn problem(&mut self, problem: DefinitionProblem) -> Rejected {
        self.problems.push(problem);
        Rejected
    }

    fn published_table(&mut self, definition: &TableDefinition) {
        self.members.clear();
        let Ok(id) = self.synced_table(&definition.name, &definition.span) else { return };
        let table = &mut self.plan.tables[usize::from(id.0)];
        table.published = true;
        table.name_json = serde_json::Value::from(definition.wire_name.clone()).to_string();
        table.name = definition.wire_name.clone();
        let hidden = self.hidden_columns(id, &definition.sent);
        self.plan.tables[usize::from(id.0)].hidden = hidden;
        let write = WriteRules {
            immutable: self.written_columns(id, &definition.immutable),
            readonly: self.written_columns(id, &definition.readonly),
            insert: definition.insert.clone(),
            updates: (definition.updates.iter())
                .map(|(columns, allow)| UpdateRule {
                    columns: columns.as_ref().map(|columns| self.written_columns(id, columns)),
                    allow: allow.clone(),
                })
                .collect(),
            delete: definition.delete.clone(),
        };
        self.plan.tables[usize::from(id.0)].write = write;
        self.selection = match definition.sync {
            Sync::Always => Selection::Always,
            Sync::OnDemand => Selection::Never,
        };
        for branch in self.rule(id, &definition.visible, &definition.visible_span) {
            self.plan.branches[usize::from(branch.0)].published = true;
        }
    }

    fn of(&self, table: TableId, column: usize) -> &CatalogColumn {
        &self.plan.table(table).catalog.columns[column]
    }

    /// The branches of a rule, unpublished.
    fn rule(&mut self, table: TableId, rule: &Rule, span: &Span) -> Vec<BranchId> {
        let alternatives = match alternatives(rule, span.clone()) {
            Ok(alternatives) => alternatives,
            Err(problem) => {
                self.problem(problem);
                return Vec::new();
            }
        };
        if self.plan.branches.len() + alternatives.len() > MAX_BRANCHES {
            let label = format!("more than {MAX_BRANCHES} in the definition");
            let problem =
                DefinitionProblem::new(span.clone(), "there are too many alternatives", label);
            self.problem(problem.help("write fewer alternatives"));
            return Vec::new();
        }
        let mut branches = Vec::new();
        for alternative in alternatives {
            if alternative.iter().any(Part::is_never) {
                // It is held against the catalog like all others, but nothing is to be loaded for it.
                let before = self.plan.clone();
                let _: Result<BranchId, Rejected> = self.alternative(table, &alternative);
                self.plan = before;
                self.members.clear();
            } else if let Ok(branch) = self.alternative(table, &alternative)
                && !branches.contains(&branch)
            {
                branches.push(branch);
            }
        }
        branches
    }

    fn alternative(&mut self, table: TableId, parts: &[Part<'_>]) -> Result<BranchId, Rejected> {
        let membership = anchor_membership(parts);
        let by_param = parts.iter().any(Part::is_param_equal);
        let mut anchor = None;
        let mut named_by = Vec::new();
        let mut rejected = false;
        let mut whole = None;
        if let Some(member) = membership {
            match self.member(table, member) {
                Err(Rejected) => rejected = true,
                Ok(reached) => {
                    let first = |columns: &Vec<usize>| columns.first().copied();
                    named_by =
                        reached.inner.iter().map(|(from, kept)| (*from, first(kept))).collect();
                    anchor = Some((first(&reached.outer), Source::Links));
                    // One column finds the rows, and all of them say whether they are in.
                    whole = (reached.outer.len() > 1).then(|| self.in_set(member, &reached));
                }
            }
        }
        let (mut row_parts, mut claim_parts) = (Vec::new(), Vec::new());
        for part in parts {
            let rule = match part {
                Part::Member(member) if membership.is_some_and(|of| Arc::ptr_eq(of, member)) => {
                    continue;
                }
                Part::Member(member) => &Rule::Member(Arc::clone(member)),
                Part::ClaimEqual(rule) | Part::Filter(rule) => rule,
            };
            let mut predicate = self.predicate(table, rule);
            if let (Part::ClaimEqual(of), None, Ok(equal)) = (part, anchor, &predicate)
                && (!by_param || of.names_param())
                && let Some((found, rest)) = self.claim_anchor(table, equal)
            {
                let (column, source) = found;
                (anchor, predicate) = (Some((Some(column), source)), Ok(rest));
            }
            match predicate {
                Err(Rejected) => rejected = true,
                Ok(Predicate::Literal(Some(true))) => {}
                Ok(Predicate::And(parts)) => {
                    parts.into_iter().for_each(|part| sort(part, &mut row_parts, &mut claim_parts));
                }
                Ok(part) => sort(part, &mut row_parts, &mut claim_parts),
            }
        }
        if rejected {
            return Err(Rejected);
        }
        claim_parts.extend(whole);
        let claim_filter = conjunction(claim_parts);
        // Judged over the kept columns, so those are numbered first.
        let mut columns = Vec::new();
        claim_filter.operands(&mut |operand| columns.extend(operand.column()));
        for column in columns {
            self.keep(table, column);
        }
        let kept = &self.plan.table(table).kept;
        let number = |column| kept.iter().position(|other| *other == column).unwrap_or_default();
        let branch = Branch {
            table,
            anchor: anchor.and_then(|(column, _)| column),
            source: anchor.map_or(Source::Everyone, |(_, source)| source),
            filter: Filter(conjunction(row_parts)),
            claim_filter: ClaimFilter(claim_filter.with_columns(&number)),
            selection: self.selection,
            // What memberships ask is asked of all rows.
            window: self.window.filter(|_| self.outer.is_empty()),
            published: false,
            links: Vec::new(),
            fills: Vec::new(),
        };
        Ok(self.branch(branch, &named_by))
    }

    /// The branch, or one that is the same in all that decides its topics and who reaches them.
    fn branch(&mut self, branch: Branch, named_by: &[(BranchId, Option<usize>)]) -> BranchId {
        let same = |index: &usize| {
            let other = &self.plan.branches[*index];
            let id = BranchId(*index as u16);
            let names = |(from, column): &(BranchId, Option<usize>)| {
                let link = Link { target: id, column: *column };
                self.plan.branch(*from).links.contains(&link)
            };
            let named = || self.plan.branches.iter().flat_map(|from| &from.links);
            let count = || named().filter(|link| link.target == id).count();
            other.selection == branch.selection
                && other.window == branch.window
                && other.table == branch.table
                && other.anchor == branch.anchor
                && other.source == branch.source
                && other.filter == branch.filter
                && other.claim_filter == branch.claim_filter
                && count() == named_by.len()
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

    /// The anchor that an equality with a claim is, and what must hold besides.
    fn claim_anchor(
        &mut self,
        table: TableId,
        equal: &Predicate,
    ) -> Option<((usize, Source), Predicate)> {
        let (Predicate::Compare(_, left, right) | Predicate::Any(left, right)) = equal else {
            return None;
        };
        let (column, claim) = match (left, right) {
            (column, Operand::Claim(claim)) | (Operand::Claim(claim), column) => (column, *claim),
            _ => return None,
        };
        match column {
            Operand::Column(column) => {
                Some(((*column, Source::Claim(claim)), Predicate::Literal(Some(true))))
            }
            // A claim that is the text of a value fits its type, so these are all rows, and perhaps more.
            Operand::Cast(column, ColumnType::Text) => {
                let kind = self.of(table, *column).kind.clone();
                let ClaimUse { claim, kind: of_claim } = &self.plan.claims[usize::from(claim.0)];
                let kind = match of_claim {
                    ColumnType::Array(_) => ColumnType::Array(Box::new(kind)),
                    _ => kind,
                };
                let claim = claim.clone();
                Some(((*column, Source::Claim(self.claim(&claim, kind))), equal.clone()))
            }
            _ => None,
        }
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
}

/// Puts a condition to those of the row alone, or to those that ask for claims, sets or the time.
fn sort(part: Predicate, row_parts: &mut Vec<Predicate>, claim_parts: &mut Vec<Predicate>) {
    let mut of_view = part.asks_sets() || part.asks_time();
    part.operands(&mut |operand| of_view |= matches!(operand, Operand::Claim(_)));
    if of_view { claim_parts.push(part) } else { row_parts.push(part) }
}

fn conjunction(mut parts: Vec<Predicate>) -> Predicate {
    match parts.len() {
        0 => Predicate::Literal(Some(true)),
        1 => parts.remove(0),
        _ => Predicate::And(parts),
    }
}
