//! Queries. What a subscription sees of a table is what may be seen of it and is selected, so both rules become one; a
//! parameter of the query finds the rows, where one does.

use super::Compiler;
use crate::claims::Claim;
use crate::definition::{Definition, LimitDefinition, QueryDefinition, SelectDefinition, toml_key};
use crate::error::{DefinitionProblem, did_you_mean};
use crate::filter::Operand;
use crate::ids::QueryId;
use crate::plan::{Selection, Source};
use crate::queries::{ParamType, PlannedQuery};
use crate::rule::Rule;
use crate::value::{ColumnType, Family};
use crate::window::WindowLimit;

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
                None => {
                    format!("write [tables.{}], with who may see its rows", toml_key(&select.table))
                }
            };
            self.problem(problem.help(help));
            return;
        };
        // One that does not fit the database is told of by itself.
        let Some(id) = self.plan.table_id(&table.name.schema, &table.name.name) else { return };
        if !self.plan.table(id).published {
            return;
        }
        if let Some(window) = &select.window {
            match self.window(query, id, window) {
                None => return,
                of => self.window = of,
            }
        }
        self.members.clear();
        self.selection = Selection::Query(query);
        let rule = Rule::And(vec![table.visible.clone(), select.rule.clone()]);
        for branch in self.rule(id, &rule, &select.rule_span) {
            self.plan.branches[usize::from(branch.0)].published = true;
        }
        self.members.clear();
        self.window = None;
    }

    /// A parameter is compared with what is of its type, as Postgres would have it.
    fn hold_params_against_types(&mut self, query: &QueryDefinition) {
        let mut found = Vec::new();
        for (param, place) in &query.params {
            let is_used = query.selects.iter().any(|select| {
                let limit = select.window.as_ref().map(|window| &window.limit);
                let counts =
                    matches!(limit, Some(LimitDefinition::Param(name)) if *name == param.name);
                counts || select.rule.names_param_called(&param.name)
            });
            if !is_used {
                let what = format!(
                    "the query `{}` does not use the parameter `{}`",
                    query.name, param.name
                );
                let problem = DefinitionProblem::new(place.clone(), what, "this parameter");
                found.push(problem.help(format!(
                    "name it in a `where` or as a `limit` as `params.{}`, or leave it out",
                    param.name
                )));
            }
        }
        for used in &self.plan.claims {
            let Claim::Param { query: of, name } = &used.claim else { continue };
            let declared = query.params.iter().find(|(param, _)| param.name == **name);
            let Some((param, place)) = declared.filter(|_| **of == *query.name) else { continue };
            let is_array = matches!(used.kind, ColumnType::Array(_));
            if param.kind.is_array() != is_array && used.kind != ColumnType::Json {
                let (is, how) = match is_array {
                    true => ("no array, and is compared with ANY", "declare an array, such as"),
                    false => {
                        ("an array", "write `column = ANY (params.…)`, or declare no array but")
                    }
                };
                let what = format!("`params.{name}` is {is}");
                let problem = DefinitionProblem::new(place.clone(), what, "this type");
                let element = param.kind.element_sql();
                let array = if is_array { "[]" } else { "" };
                found.push(problem.help(format!("{how} `{element}{array}`")));
            } else if !fits(&param.kind, &used.kind) {
                let what = format!(
                    "`params.{name}` is of type {}, and is compared with another type",
                    param.kind.sql()
                );
                let problem = DefinitionProblem::new(place.clone(), what, "this type");
                found.push(problem.help(match ParamType::name_for(&used.kind) {
                    Some(name) => format!("write \"{name}\""),
                    None => "leave it out: only `IS NULL` can be asked there".to_owned(),
                }));
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
        for window in &plan.windows {
            if let WindowLimit::Param(claim) = window.limit {
                plan.queries[usize::from(window.query.0)].claims[usize::from(claim.0)] = true;
            }
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
    if is_array != declared.is_array() {
        return false;
    }
    let own = declared.element().family();
    // What is no integer would be null beside one, and be compared with nothing.
    own == other
        || (own, other) == (Some(Family::Text), Some(Family::Enum))
        || (own == Some(Family::Int) && matches!(other, Some(Family::Float | Family::Numeric)))
}
