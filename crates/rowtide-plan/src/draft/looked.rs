//! Reads a SELECT within a policy into memberships: what is compared with the row outside becomes what is looked for, and a
//! table that is joined becomes a membership within. The joins must be a tree from one table, by equality, as they are
//! wherever memberships are kept. What a table's own policies hide from whoever asks is part of what is looked for.

use std::collections::BTreeSet;

use sqlparser::ast::{
    Distinct, Expr, GroupByExpr, JoinConstraint, JoinOperator, ObjectNamePart, Query, Select,
    SelectItem, SetExpr, TableFactor, TableWithJoins,
};

use super::expr::{fold, type_text};
use super::policy::{Obstacle, Reader, Reading, Reads, Scope, found};
use super::said::{Looked, Owner, Said};
use crate::catalog::TableName;

/// A table of a SELECT.
struct Table {
    name: TableName,
    number: usize,
    /// What its row must be.
    filter: Vec<Said>,
    /// What its own policies let those see who look into it.
    hidden: Said,
}

/// Columns of two tables that are the same.
struct Edge {
    ends: [(usize, Said); 2],
}

/// A SELECT taken apart.
struct Parts {
    tables: Vec<Table>,
    edges: Vec<Edge>,
    /// Equalities with rows outside: the value there, the table, and its column.
    outside: Vec<(Said, usize, Said)>,
    /// What no row of it decides.
    apart: Vec<Said>,
}

impl Reader<'_> {
    /// A SELECT, as a condition.
    pub(super) fn look(&mut self, query: &Query, reads: Reads) -> Reading<Said> {
        let select = plain(query)?;
        let (scope, conditions) = self.tables(query, select)?;
        self.scopes.push(scope.clone());
        let parts = self.take_apart(query, select, &scope, &conditions, reads);
        self.scopes.pop();
        let Parts { mut tables, mut edges, outside, mut apart } = parts?;
        for table in &mut tables {
            table.hidden = self.hidden_of(&table.name, table.number)?;
        }
        let roots: BTreeSet<usize> = outside.iter().map(|(_, table, _)| *table).collect();
        let root = match roots.iter().copied().collect::<Vec<_>>().as_slice() {
            [] => 0,
            [root] => *root,
            _ => {
                let why = "it compares rows of several tables with the row outside";
                return Err(Obstacle::new(query, why));
            }
        };
        let mut left: Vec<usize> = (0..tables.len()).filter(|at| *at != root).collect();
        let filter = joined(root, &tables, &mut edges, &mut left);
        if !left.is_empty() || !edges.is_empty() {
            let why =
                "its tables are joined in a way that memberships within one another do not say";
            return Err(Obstacle::new(query, why));
        }
        let (row, columns) = outside.into_iter().map(|(outer, _, column)| (outer, column)).unzip();
        let Table { name: table, number, .. } = tables.swap_remove(root);
        apart.push(found(row, Looked { table, number, columns, filter }));
        Ok(Said::all(apart))
    }

    /// The tables of a SELECT, by what they are called, and its conditions.
    fn tables<'a>(&mut self, query: &Query, select: &'a Select) -> Reading<(Scope, Vec<&'a Expr>)> {
        let mut scope = Vec::new();
        let mut conditions: Vec<&Expr> = select.selection.iter().collect();
        for from in &select.from {
            self.join(query, from, &mut scope, &mut conditions)?;
        }
        Ok((scope, conditions))
    }

    /// The tables of one item of FROM. Postgres prints joins in parentheses.
    fn join<'a>(
        &mut self,
        query: &Query,
        from: &'a TableWithJoins,
        scope: &mut Scope,
        conditions: &mut Vec<&'a Expr>,
    ) -> Reading<()> {
        let factors = std::iter::once((&from.relation, None));
        let joins = from.joins.iter().map(|join| (&join.relation, Some(&join.join_operator)));
        for (factor, operator) in factors.chain(joins) {
            match factor {
                TableFactor::NestedJoin { table_with_joins, alias: None } => {
                    self.join(query, table_with_joins, scope, conditions)?;
                }
                factor => scope.push(self.looked_into(query, factor)?),
            }
            match operator {
                None | Some(JoinOperator::CrossJoin(_)) => {}
                Some(
                    JoinOperator::Join(JoinConstraint::On(on))
                    | JoinOperator::Inner(JoinConstraint::On(on)),
                ) => conditions.push(on),
                Some(_) => return Err(Obstacle::new(query, "only inner joins can be said")),
            }
        }
        Ok(())
    }

    fn looked_into(
        &mut self,
        query: &Query,
        factor: &TableFactor,
    ) -> Reading<(String, TableName, usize)> {
        let parts = match factor {
            TableFactor::Table { name, args: None, .. } => {
                let part = |part: &ObjectNamePart| match part {
                    ObjectNamePart::Identifier(ident) => Some(fold(ident)),
                    ObjectNamePart::Function(_) => None,
                };
                name.0.iter().map(part).collect::<Option<Vec<_>>>()
            }
            _ => None,
        };
        let name = match parts.as_deref() {
            Some([name]) => TableName { schema: "public".to_owned(), name: name.clone() },
            Some([schema, name]) => TableName { schema: schema.clone(), name: name.clone() },
            _ => return Err(Obstacle::new(query, "what it looks into is no table")),
        };
        let called = match factor {
            TableFactor::Table { alias: Some(alias), .. } => fold(&alias.name),
            _ => name.name.clone(),
        };
        self.numbers += 1;
        Ok((called, name, self.numbers))
    }

    fn take_apart(
        &mut self,
        query: &Query,
        select: &Select,
        scope: &Scope,
        conditions: &[&Expr],
        reads: Reads,
    ) -> Reading<Parts> {
        let tables = scope.iter().map(|(_, name, number)| Table {
            name: name.clone(),
            number: *number,
            filter: Vec::new(),
            hidden: Said::always(),
        });
        let (edges, outside, apart) = (Vec::new(), Vec::new(), Vec::new());
        let mut parts = Parts { tables: tables.collect(), edges, outside, apart };
        let may_correlate = !matches!(reads, Reads::AsItIs);
        let mut said = Vec::new();
        for condition in conditions {
            said.extend(self.read(condition)?.conjuncts().to_vec());
        }
        if let Reads::Value(value, cast) = reads {
            let item = match select.projection.as_slice() {
                [SelectItem::UnnamedExpr(item) | SelectItem::ExprWithAlias { expr: item, .. }] => {
                    self.value(item)?
                }
                _ => return Err(Obstacle::new(query, "it has several columns")),
            };
            let item = match cast {
                Some(to) => Said::Cast(Box::new(item), type_text(&to)),
                None => item,
            };
            said.push(Said::equal(self.uncast(&item, [&value]), self.uncast(&value, [&item])));
        }
        for part in said {
            parts.put(part, may_correlate).map_err(|why| Obstacle::new(query, why))?;
        }
        Ok(parts)
    }
}

impl Parts {
    /// Which of its tables a condition is about, and whether it is about a row outside.
    fn about(&self, said: &Said) -> (BTreeSet<usize>, bool) {
        let (mut own, mut outside) = (BTreeSet::new(), false);
        said.each_column(&mut |owner, _| {
            let at = match owner {
                Owner::Row => None,
                Owner::Looked(number) => self.tables.iter().position(|of| of.number == number),
            };
            match (at, owner) {
                (Some(at), _) => drop(own.insert(at)),
                (None, Owner::Row) => outside = true,
                // Of a SELECT within: its own affair. Of one around: outside.
                (None, Owner::Looked(number)) => {
                    outside |= self.tables.iter().all(|of| number < of.number);
                }
            }
        });
        (own, outside)
    }

    /// Puts a condition where it belongs.
    fn put(&mut self, part: Said, may_correlate: bool) -> Result<(), &'static str> {
        let (own, outside) = self.about(&part);
        if let Said::Binary(left, operator, right) = &part
            && operator == "="
        {
            let is_column = |of: &Said| matches!(of, Said::Column(..));
            let sides = [(left, right), (right, left)];
            if own.len() == 2 && !outside && is_column(left) && is_column(right) {
                let end = |of: &Said| (self.about(of).0.first().copied(), of.clone());
                if let ((Some(a), left), (Some(b), right)) = (end(left), end(right)) {
                    self.edges.push(Edge { ends: [(a, left), (b, right)] });
                    return Ok(());
                }
            }
            for (inner, outer) in sides {
                let (of_inner, of_outer) = (self.about(inner), self.about(outer));
                let correlates = of_outer == (BTreeSet::new(), true) && !of_inner.1;
                if let (Some(at), true) = (of_inner.0.first().copied(), correlates)
                    && may_correlate
                    && is_column(inner)
                    && is_column(outer)
                {
                    self.outside.push(((**outer).clone(), at, (**inner).clone()));
                    return Ok(());
                }
            }
        }
        match own.iter().copied().collect::<Vec<_>>().as_slice() {
            [] if outside => self.apart.push(part),
            // What only claims decide is decided where the rows are looked for.
            [] => self.tables[0].filter.push(part),
            [at] => self.tables[*at].filter.push(part),
            _ => return Err("one condition in it is about several of its tables"),
        }
        Ok(())
    }
}

/// What the row of a table must be, with those that it is joined with.
fn joined(at: usize, tables: &[Table], edges: &mut Vec<Edge>, left: &mut Vec<usize>) -> Said {
    let mut filter = tables[at].filter.clone();
    let mut next = 0;
    while let Some(other) = left.get(next).copied() {
        let (mut row, mut columns) = (Vec::new(), Vec::new());
        edges.retain(|edge| {
            let [(a, left), (b, right)] = &edge.ends;
            let pair = match (*a == at && *b == other, *b == at && *a == other) {
                (true, _) => (left, right),
                (_, true) => (right, left),
                _ => return true,
            };
            row.push(pair.0.clone());
            columns.push(pair.1.clone());
            false
        });
        if row.is_empty() {
            next += 1;
            continue;
        }
        left.retain(|of| *of != other);
        let within = joined(other, tables, edges, left);
        let Table { name, number, .. } = &tables[other];
        let of = Looked { table: name.clone(), number: *number, columns, filter: within };
        filter.push(found(row, of));
        next = 0;
    }
    let hidden = &tables[at].hidden;
    let implied = hidden.alternatives().iter().any(|alternative| {
        let has = |part: &Said| filter.iter().any(|of| of.is_same(part));
        alternative.conjuncts().iter().all(has)
    });
    if !implied {
        filter.push(hidden.clone());
    }
    Said::all(filter)
}

/// The SELECT of a query that has nothing which memberships do not say.
fn plain(query: &Query) -> Reading<&Select> {
    let no = |why| Err(Obstacle::new(query, why));
    let SetExpr::Select(select) = query.body.as_ref() else {
        return no("it is more than one SELECT");
    };
    let grouped = match &select.group_by {
        GroupByExpr::Expressions(by, with) => !by.is_empty() || !with.is_empty(),
        GroupByExpr::All(_) => true,
    };
    let distinct = !matches!(&select.distinct, None | Some(Distinct::Distinct));
    if grouped || distinct || select.having.is_some() {
        return no("it counts or groups rows");
    }
    if query.with.is_some() || query.limit_clause.is_some() || query.fetch.is_some() {
        return no("it has WITH or LIMIT");
    }
    if select.from.is_empty() {
        return no("it looks into no table");
    }
    Ok(select)
}
