//! Windows: the order and the limit of what a query selects of a table, held against its columns.

use std::sync::Arc;

use super::Compiler;
use crate::claims::Claim;
use crate::definition::{LimitDefinition, WindowDefinition};
use crate::error::DefinitionProblem;
use crate::ids::{QueryId, TableId, WindowId};
use crate::value::ColumnType;
use crate::window::{MAX_WINDOW_ROWS, OrderColumn, Window, WindowLimit, has_order};

impl Compiler<'_> {
    /// The window of a query of `table`; `None` if there is something wrong with it.
    pub(super) fn window(
        &mut self,
        query: QueryId,
        table: TableId,
        definition: &WindowDefinition,
    ) -> Option<WindowId> {
        let mut order: Vec<OrderColumn> = Vec::new();
        let mut is_whole = true;
        for of in &definition.order {
            let Ok(column) = self.column(table, &of.column) else {
                is_whole = false;
                continue;
            };
            let of_column = self.of(table, column);
            if !has_order(&of_column.kind) {
                let what = format!(
                    "rows cannot be put in order by a column of type {}",
                    of_column.type_name
                );
                let problem = DefinitionProblem::new(of.column.span.clone(), what, "this column");
                self.problem(problem.help("order by a number, a time, a text, a uuid or a bool"));
                is_whole = false;
                continue;
            }
            let (descending, nulls_first) = (of.descending, of.nulls_first);
            let kept = self.keep(table, column);
            order.push(OrderColumn { column, kept, descending, nulls_first });
        }
        let descending = order.last().is_some_and(|last| last.descending);
        for column in self.plan.table(table).key.clone() {
            if order.iter().any(|of| of.column == column) {
                continue;
            }
            let of_column = self.of(table, column);
            if !has_order(&of_column.kind) {
                let what = format!(
                    "rows cannot be put in order by the key of the table, which has a column of type {}",
                    of_column.type_name
                );
                let span = definition.limit_span.clone();
                let problem = DefinitionProblem::new(span, what, "this window");
                self.problem(problem.help(
                    "take `order` and `limit` out, or give the table a key of numbers, texts or uuids",
                ));
                is_whole = false;
                continue;
            }
            // With the direction of the last, so that an index over the same columns serves.
            let (kept, nulls_first) = (self.keep(table, column), descending);
            order.push(OrderColumn { column, kept, descending, nulls_first });
        }
        let limit = match &definition.limit {
            LimitDefinition::Rows(rows) => WindowLimit::Rows(*rows),
            LimitDefinition::Param(name) => {
                let query = &self.plan.queries[usize::from(query.0)];
                let query_name = query.name.as_str().into();
                let param = query.params.iter().find(|param| param.name == *name)?;
                if !param.counts_rows() {
                    let what = format!(
                        "`params.{name}` is a limit, and must be a number of rows from 0 to {MAX_WINDOW_ROWS}"
                    );
                    let span = definition.limit_span.clone();
                    let problem = DefinitionProblem::new(span, what, "this limit");
                    self.problem(problem.help(format!(
                        "declare it as \"int4\", or with a default: {name} = \"int4 = 50\""
                    )));
                    return None;
                }
                let claim = Claim::Param { query: query_name, name: name.as_str().into() };
                WindowLimit::Param(self.claim(&claim, ColumnType::Int))
            }
        };
        if !is_whole {
            return None;
        }
        let id = WindowId(self.plan.windows.len() as u16);
        self.plan.windows.push(Arc::new(Window { query, table, order, limit }));
        Some(id)
    }
}
