//! Memberships. The branches of the inner rule are the same wherever a membership stands: where it finds the rows
//! of an alternative they name its topics, and everywhere else they fill a set.

use std::sync::Arc;

use super::predicate::same_family;
use super::{Compiler, Rejected};
use crate::error::DefinitionProblem;
use crate::filter::{InSet, Operand, Predicate};
use crate::ids::{BranchId, SetId, TableId};
use crate::plan::Fill;
use crate::rule::normal::Part;
use crate::rule::{Member, Name};

/// The most sets of a definition.
const MAX_SETS: usize = 4_096;

/// What a membership compares, and with what.
#[derive(Debug)]
pub(super) struct Reached {
    /// The columns of the outer table, as indexes into the catalog's columns.
    pub(super) outer: Vec<usize>,
    /// The branches of the inner rule, each with the places of the selected columns among the kept ones.
    pub(super) inner: Vec<(BranchId, Vec<usize>)>,
}

/// The membership that finds the rows of an alternative, unless a parameter of a query does: the first that looks at them and names a claim. Without one, and
/// without a claim to find them by, the first that looks at them, or one that says whether the whole table is in.
pub(super) fn anchor_membership<'a>(parts: &[Part<'a>]) -> Option<&'a Arc<Member>> {
    let members = || {
        parts.iter().filter_map(|part| match part {
            Part::Member(member) => Some(*member),
            _ => None,
        })
    };
    let by_claim = parts.iter().any(|part| matches!(part, Part::ClaimEqual(_)));
    let of_rows = || members().filter(|member| !member.columns.is_empty());
    if parts.iter().any(Part::is_param_equal) {
        return None;
    }
    of_rows()
        .find(|member| member.rule.names_param())
        .or_else(|| of_rows().find(|member| member.rule.names_claim()))
        .or_else(|| of_rows().chain(members()).next().filter(|_| !by_claim))
}

impl Compiler<'_> {
    pub(super) fn member(
        &mut self,
        table: TableId,
        member: &Arc<Member>,
    ) -> Result<Arc<Reached>, Rejected> {
        let key = Arc::as_ptr(member);
        if let Some(known) = self.members.get(&key) {
            return known.clone();
        }
        let outer = self.comparables(table, &member.columns);
        self.outer.push(table);
        let inner = self.inner(member);
        self.outer.pop();
        let reached = self.joined(table, member, outer, inner).map(Arc::new);
        self.members.insert(key, reached.clone());
        reached
    }

    /// A membership that is a filter: whether the row's values are in the set of those that are selected.
    pub(super) fn member_predicate(
        &mut self,
        table: TableId,
        member: &Arc<Member>,
    ) -> Result<Predicate, Rejected> {
        let reached = self.member(table, member)?;
        Ok(self.in_set(member, &reached))
    }

    pub(super) fn in_set(&mut self, member: &Member, reached: &Reached) -> Predicate {
        if reached.inner.is_empty() {
            return Predicate::Literal(Some(false));
        }
        let set = self.known_set(&reached.inner);
        if set.is_none() && self.plan.sets >= MAX_SETS {
            let label = format!("more than {MAX_SETS} in the definition");
            let what = "there are too many memberships";
            let problem = DefinitionProblem::new(member.span.clone(), what, label);
            self.problem(problem.help("write fewer memberships beside those that find rows"));
            return Predicate::Literal(None);
        }
        let set = set.unwrap_or_else(|| self.new_set(&reached.inner));
        let columns = reached.outer.iter().map(|column| Operand::Column(*column)).collect();
        Predicate::InSet(InSet { columns, set, exists: member.exists })
    }

    /// The set that these branches fill, with these of their kept columns.
    fn known_set(&self, filled_by: &[(BranchId, Vec<usize>)]) -> Option<SetId> {
        let plan = &self.plan;
        let same = |set: &SetId| {
            let fills = || plan.branches.iter().flat_map(|branch| &branch.fills);
            fills().filter(|fill| fill.set == *set).count() == filled_by.len()
                && filled_by.iter().all(|(branch, columns)| {
                    let mut of_branch = plan.branch(*branch).fills.iter();
                    of_branch.any(|fill| fill.set == *set && fill.columns == *columns)
                })
        };
        (0..plan.sets).map(|index| SetId(index as u16)).find(same)
    }

    fn new_set(&mut self, filled_by: &[(BranchId, Vec<usize>)]) -> SetId {
        let plan = &mut self.plan;
        let set = SetId(plan.sets as u16);
        plan.sets += 1;
        for (branch, columns) in filled_by {
            let fill = Fill { set, columns: columns.clone() };
            plan.branches[usize::from(branch.0)].fills.push(fill);
        }
        set
    }

    fn comparables(&mut self, table: TableId, names: &[Name]) -> Result<Vec<usize>, Rejected> {
        // All of them, so that every problem is found.
        let columns: Vec<Result<usize, Rejected>> =
            names.iter().map(|name| self.comparable(table, name)).collect();
        columns.into_iter().collect()
    }

    /// The inner table of a membership, the columns that it selects, and the branches of its rule.
    fn inner(&mut self, member: &Member) -> Result<(TableId, Vec<usize>, Vec<BranchId>), Rejected> {
        let table = self.table(&member.table.name(), &member.table.span)?;
        let selected = self.comparables(table, &member.selected);
        let problems = self.problems.len();
        let branches = self.rule(table, &member.rule, &member.span);
        if self.problems.len() > problems {
            Err(Rejected)
        } else {
            Ok((table, selected?, branches))
        }
    }

    fn joined(
        &mut self,
        table: TableId,
        member: &Member,
        outer: Result<Vec<usize>, Rejected>,
        inner: Result<(TableId, Vec<usize>, Vec<BranchId>), Rejected>,
    ) -> Result<Reached, Rejected> {
        let (outer, (inner_table, selected, branches)) = (outer?, inner?);
        for (outer, inner) in outer.iter().zip(&selected) {
            let (a, b) = (self.of(table, *outer), self.of(inner_table, *inner));
            if !same_family(a, b) {
                let what = format!(
                    "a column of type {} cannot be looked for among values of type {}",
                    a.type_name, b.type_name
                );
                let problem = DefinitionProblem::new(member.span.clone(), what, "the types differ");
                return Err(
                    self.problem(problem.help("both columns must have the same kind of type"))
                );
            }
        }
        let kept: Vec<usize> =
            selected.iter().map(|column| self.keep(inner_table, *column)).collect();
        let inner = branches.into_iter().map(|branch| (branch, kept.clone())).collect();
        Ok(Reached { outer, inner })
    }
}
