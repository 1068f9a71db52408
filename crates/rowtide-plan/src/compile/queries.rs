//! Queries. What a subscription sees of a table is what may be seen of it and is selected, so both rules become one; a
//! parameter of the query finds the rows, where one does.

use super::Compiler;
use crate::claims::Claim;
use crate::definition::{Definition, QueryDefinition, SelectDefinition};
use crate::error::{DefinitionProblem, did_you_mean};
use crate::filter::Operand;
use crate::ids::QueryId;
use crate::plan::{Selection, Source};
use crate::queries::{ParamType, PlannedQuery};
use crate::rule::Rule;
use crate::value::{ColumnType, Family};

impl Compiler<'_> {
    pub(super) fn query(&mut self, definition: &Definition, query: &QueryDefinition) {
        let id = QueryId(self.plan.queries.len() as u16);
        self.plan.queries.push(PlannedQuery {
            name: query.name.clone(),
            params: query.params.iter().map(|(param, _)| param.clone()).collect(),
            claims: Vec::new(),
        });
        for select in &query.selects {
            self.select(definition, id, select);
        }
        self.hold_params_against_types(query);
    }

    fn select(&mut self, definition: &Definition, query: QueryId, select: &SelectDefinition) {
        let tables = || definition.tables.iter();
        let Some(table) = tables().find(|table| table.wire_name == select.table) else {
            let what = format!("the definition has no table `{}`", select.table);
            let problem = DefinitionProblem::new(select.span.clone(), what, "unknown");
            let names = tables().map(|table| table.wire_name.as_str());
            let help = match did_you_mean(&select.table, names) {
                Some(close) => format!("did you mean `{close}`?"),
                None => format!("write [tables.{}], with who may see its rows", select.table),
            };
            self.problem(problem.help(help));
            return;
        };
        // One that does not fit the database is told of by itself.
        let Some(id) = self.plan.table_id(&table.name.schema, &table.name.name) else { return };
        if !self.plan.table(id).published {
            return;
        }
        self.members.clear();
        self.selection = Selection::Query(query);
        let rule = Rule::And(vec![table.visible.clone(), select.rule.clone()]);
        for branch in self.rule(id, &rule, &select.rule_span) {
            self.plan.branches[usize::from(branch.0)].published = true;
        }
        self.members.clear();
    }

    /// A parameter is compared with what is of its type, as Postgres would have it.
    fn hold_params_against_types(&mut self, query: &QueryDefinition) {
        let mut found = Vec::new();
        for (param, place) in &query.params {
            let is_used =
                query.selects.iter().any(|select| select.rule.names_param_called(&param.name));
            if !is_used {
                let what = format!(
                    "the query `{}` does not use the parameter `{}`",
                    query.name, param.name
                );
                let problem = DefinitionProblem::new(place.clone(), what, "this parameter");
                found.push(problem.help(format!(
                    "name it in a `where` as `params.{}`, or leave it out",
                    param.name
                )));
            }
        }
        for used in &self.plan.claims {
            let Claim::Param { query: of, name } = &used.claim else { continue };
            let declared = query.params.iter().find(|(param, _)| param.name == **name);
            let Some((param, place)) = declared.filter(|_| **of == *query.name) else { continue };
            if !fits(&param.kind, &used.kind) {
                let what = format!(
                    "`params.{name}` is of type {}, and is compared with another type",
                    param.kind.sql()
                );
                let problem = DefinitionProblem::new(place.clone(), what, "this type");
                found.push(problem.help(
                    "write the type of the column that it is compared with, and for `= ANY (params.x)` that type with []",
                ));
            }
        }
        self.problems.extend(found);
    }

    /// Which claims the rules of each query name.
    pub(super) fn note_claims_of_queries(&mut self) {
        let plan = &mut self.plan;
        for query in &mut plan.queries {
            query.claims = vec![false; plan.claims.len()];
        }
        for branch in &plan.branches {
            let Selection::Query(query) = branch.selection else { continue };
            let named = &mut plan.queries[usize::from(query.0)].claims;
            if let Source::Claim(claim) = branch.source {
                named[usize::from(claim.0)] = true;
            }
            branch.claim_filter.0.operands(&mut |operand| {
                if let Operand::Claim(claim) = operand {
                    named[usize::from(claim.0)] = true;
                }
            });
        }
    }
}

/// Whether a parameter may be compared with values of a type.
fn fits(declared: &ParamType, kind: &ColumnType) -> bool {
    let (other, is_array) = match kind {
        // Whether it is null can be asked of everything.
        ColumnType::Json => return true,
        ColumnType::Array(element) => (element.family(), true),
        kind => (kind.family(), false),
    };
    let own = declared.element().family();
    let is_number = |of| matches!(of, Some(Family::Int | Family::Float | Family::Numeric));
    let is_comparable = own == other
        || (own, other) == (Some(Family::Text), Some(Family::Enum))
        || (is_number(own) && is_number(other));
    is_comparable && declared.is_array() == is_array
}
