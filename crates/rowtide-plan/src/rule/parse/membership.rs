//! Memberships: `columns IN (SELECT …)`, and `EXISTS (SELECT …)` with the outer row compared for equality, or
//! without it. Both select columns of one table under a rule of the same language; an `EXISTS` says with its
//! equalities what an `IN` says before and behind the word.

use std::sync::Arc;

use sqlparser::ast::{
    BinaryOperator, Expr, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr,
    Spanned, TableFactor,
};

use super::RuleReader;
use crate::rule::{Member, Name, Rule, TableReference, Term};
use crate::sql_text::fold;

/// How deep memberships may be nested.
const MAX_MEMBERSHIPS: usize = 8;

const IN_HELP: &str = "write `SELECT column FROM table WHERE …`: one table, no join, no WITH, no \
                       DISTINCT, GROUP BY, ORDER BY or LIMIT";
const EXISTS_HELP: &str = "write `SELECT 1 FROM table WHERE …`: one table, no join, no WITH, no \
                           DISTINCT, GROUP BY, ORDER BY or LIMIT";

/// `SELECT items FROM table [alias] [WHERE rule]`.
struct Plain<'a> {
    items: &'a [SelectItem],
    table: &'a ObjectName,
    alias: Option<&'a Ident>,
    condition: Option<&'a Expr>,
}

impl RuleReader<'_> {
    /// `columns IN (SELECT …)`.
    pub(super) fn member(
        &mut self,
        whole: &Expr,
        expr: &Expr,
        query: &Query,
        depth: usize,
    ) -> Rule {
        let columns = match expr {
            Expr::Tuple(parts) if !parts.is_empty() => {
                let parts: Vec<Option<Name>> =
                    parts.iter().map(|part| self.looked_for(part)).collect();
                parts.into_iter().collect()
            }
            single => self.looked_for(single).map(|column| vec![column]),
        };
        let Some(columns) = columns.filter(|_| self.may_nest(whole, depth)) else {
            return Self::REJECTED;
        };
        let Some(plain) = plain(query, columns.len()) else {
            return self.reject_select(query, columns.len(), IN_HELP);
        };
        let Some(table) = self.enter(&plain, IN_HELP) else { return Self::REJECTED };
        let selected: Vec<Option<Name>> =
            plain.items.iter().map(|item| self.selected(item)).collect();
        let rule = match plain.condition {
            Some(condition) => self.rule(condition, depth + 1),
            None => Rule::Constant(Some(true)),
        };
        self.scopes.pop();
        let selected: Option<Vec<Name>> = selected.into_iter().collect();
        let Some(selected) = selected else { return Self::REJECTED };
        let span = self.sql.place(whole.span());
        Rule::Member(Arc::new(Member { columns, table, selected, exists: false, rule, span }))
    }

    /// `EXISTS (SELECT …)`.
    pub(super) fn exists(&mut self, whole: &Expr, query: &Query, depth: usize) -> Rule {
        if !self.may_nest(whole, depth) {
            return Self::REJECTED;
        }
        let Some(plain) = plain(query, 1).or_else(|| plain(query, 0)) else {
            return self.reject_select(query, 1, EXISTS_HELP);
        };
        if let Some(item) = plain.items.first().filter(|item| !says_nothing(item)) {
            self.reject(item, "EXISTS selects nothing", "not supported", EXISTS_HELP);
            return Self::REJECTED;
        }
        let Some(table) = self.enter(&plain, EXISTS_HELP) else { return Self::REJECTED };
        let (mut columns, mut selected, mut rules) = (Vec::new(), Vec::new(), Vec::new());
        let mut conditions: Vec<&Expr> = plain.condition.into_iter().collect();
        while let Some(condition) = conditions.pop() {
            match condition {
                Expr::Nested(inner) if self.has_outer_equality(inner) => conditions.push(inner),
                Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                    conditions.extend([right.as_ref(), left.as_ref()]);
                }
                condition => match self.outer_equality(condition) {
                    Some((outer, inner)) => {
                        columns.push(outer);
                        selected.push(inner);
                    }
                    None => rules.push(self.rule(condition, depth + 1)),
                },
            }
        }
        self.scopes.pop();
        let rule = match rules.len() {
            0 => Rule::Constant(Some(true)),
            1 => rules.remove(0),
            _ => Rule::And(rules),
        };
        let span = self.sql.place(whole.span());
        Rule::Member(Arc::new(Member { columns, table, selected, exists: true, rule, span }))
    }

    fn may_nest(&mut self, whole: &Expr, depth: usize) -> bool {
        if depth >= MAX_MEMBERSHIPS {
            let label = format!("more than {MAX_MEMBERSHIPS} levels");
            self.reject(whole, "memberships are nested too deeply", &label, "shorten the path");
        }
        depth < MAX_MEMBERSHIPS
    }

    /// What is looked for in a `SELECT`.
    fn looked_for(&mut self, expr: &Expr) -> Option<Name> {
        match self.term(expr)? {
            Term::Column(name) => Some(name),
            _ => {
                self.reject(
                    expr,
                    "only a column can be looked for in a SELECT",
                    "not a column of this row",
                    "write `column IN (SELECT …)`; a claim or a literal is compared inside: \
                     `EXISTS (SELECT 1 FROM table WHERE column = auth.user_id)`",
                );
                None
            }
        }
    }

    /// What a membership selects.
    fn selected(&mut self, item: &SelectItem) -> Option<Name> {
        let SelectItem::UnnamedExpr(expr) = item else {
            self.reject(item, "a membership selects a column", "not a column", IN_HELP);
            return None;
        };
        match self.term(expr)? {
            Term::Column(name) => Some(name),
            _ => {
                self.reject(expr, "a membership selects a column", "not a column", IN_HELP);
                None
            }
        }
    }

    /// The table of a membership, whose columns are in scope from here on.
    fn enter(&mut self, plain: &Plain<'_>, help: &str) -> Option<TableReference> {
        let parts: Option<Vec<&Ident>> = plain
            .table
            .0
            .iter()
            .map(|part| match part {
                ObjectNamePart::Identifier(ident) => Some(ident),
                ObjectNamePart::Function(_) => None,
            })
            .collect();
        let (schema, name) = match parts.as_deref() {
            Some([table]) => ("public".to_owned(), fold(table)),
            Some([schema, table]) => (fold(schema), fold(table)),
            _ => {
                self.reject(plain.table, "this is not a table", "not supported", help);
                return None;
            }
        };
        self.scopes.push(plain.alias.map_or_else(|| name.clone(), fold));
        Some(TableReference { schema, name, span: self.sql.place(plain.table.span()) })
    }

    fn reject_select(&mut self, query: &Query, columns: usize, help: &str) -> Rule {
        let recursive = query.with.as_ref().is_some_and(|with| with.recursive);
        if recursive {
            self.reject(query, "recursion is not supported in a read rule", "not supported", help);
            return Self::REJECTED;
        }
        let selects = match query.body.as_ref() {
            SetExpr::Select(select) => select.projection.len(),
            _ => columns,
        };
        if selects != columns && plain(query, selects).is_some() {
            let what = format!("columns looked for: {columns}; columns selected: {selects}");
            self.reject(query, &what, "another number of columns", "select as many columns");
        } else {
            let what = "this SELECT is more than a membership";
            self.reject(query, what, "not supported", help);
        }
        Self::REJECTED
    }

    /// The columns of `inner = outer.column`, the outer one first.
    fn outer_equality(&self, condition: &Expr) -> Option<(Name, Name)> {
        let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = condition else { return None };
        let pair = |outer: &Expr, inner: &Expr| {
            Some((self.outer_column(outer)?, self.inner_column(inner)?))
        };
        pair(left, right).or_else(|| pair(right, left))
    }

    /// Whether equalities with the outer row are among conditions that must all hold.
    fn has_outer_equality(&self, condition: &Expr) -> bool {
        match condition {
            Expr::Nested(inner) => self.has_outer_equality(inner),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                self.has_outer_equality(left) || self.has_outer_equality(right)
            }
            condition => self.outer_equality(condition).is_some(),
        }
    }

    /// A column of the row around the membership that is being read. `auth.` is a claim, whatever tables are called.
    fn outer_column(&self, expr: &Expr) -> Option<Name> {
        let Expr::CompoundIdentifier(parts) = unnested(expr) else { return None };
        let [table, column] = parts.as_slice() else { return None };
        let [.., outer, inner] = self.scopes.as_slice() else { return None };
        let table = fold(table);
        let span = self.sql.place(expr.span());
        (table == *outer && table != *inner && table != "auth")
            .then(|| Name { text: fold(column), span })
    }

    fn inner_column(&self, expr: &Expr) -> Option<Name> {
        let span = self.sql.place(expr.span());
        match unnested(expr) {
            Expr::Identifier(column) => Some(Name { text: fold(column), span }),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, _] if fold(table) == "auth" => None,
                [table, column] if Some(&fold(table)) == self.scopes.last() => {
                    Some(Name { text: fold(column), span })
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// A column of an outer row, where it cannot be looked at.
    pub(super) fn reject_outer(&mut self, whole: &Expr) {
        let inner = self.scopes.last().map_or("t", String::as_str);
        let outer = self.scopes.iter().nth_back(1).map_or("outer", String::as_str);
        let help = format!(
            "write `EXISTS (SELECT 1 FROM … AS {inner} WHERE {inner}.a = {outer}.b AND …)`: columns of the \
             row right around it, compared with =, beside the other conditions; what else is asked of \
             that row goes beside the membership"
        );
        let what = "a membership cannot look at the outer row in this way";
        self.reject(whole, what, "a column of an outer table", &help);
    }
}

fn unnested(expr: &Expr) -> &Expr {
    match expr {
        Expr::Nested(inner) => unnested(inner),
        expr => expr,
    }
}

/// Whether what an `EXISTS` selects does not matter.
fn says_nothing(item: &SelectItem) -> bool {
    match item {
        SelectItem::Wildcard(_) => true,
        SelectItem::UnnamedExpr(expr) => {
            matches!(expr, Expr::Value(_) | Expr::Identifier(_) | Expr::CompoundIdentifier(_))
        }
        _ => false,
    }
}

/// The query, if it selects so many things from one table, and does nothing more.
fn plain(query: &Query, items: usize) -> Option<Plain<'_>> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let Select { projection, from, selection, .. } = select.as_ref();
    let [from] = from.as_slice() else { return None };
    let TableFactor::Table { name, alias, .. } = &from.relation else { return None };
    if projection.len() != items
        || alias.as_ref().is_some_and(|alias| !alias.columns.is_empty() || alias.at.is_some())
    {
        return None;
    }
    // Written out again, nothing else may have been there.
    let selected: Vec<String> = projection.iter().map(ToString::to_string).collect();
    let gap = if items == 0 { "" } else { " " };
    let mut plain = format!("SELECT{gap}{} FROM {name}", selected.join(", "));
    if let Some(alias) = alias {
        plain += &format!(" {alias}");
    }
    if let Some(condition) = selection {
        plain += &format!(" WHERE {condition}");
    }
    (query.to_string() == plain).then_some(Plain {
        items: projection,
        table: name,
        alias: alias.as_ref().map(|alias| &alias.name),
        condition: selection.as_ref(),
    })
}
