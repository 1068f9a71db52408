//! A rule that Postgres judges: any boolean expression of its SQL. Only the claims in it are ours: each place that
//! names one becomes a parameter of its own, of the type that Postgres expects there, so that `auth.user_id` can be
//! compared with a `uuid` here and with a `text` there. What Postgres says of a rule is shown where it stands in the
//! definition's file.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlparser::ast::{Expr, Query, Spanned, TableFactor, Visit, Visitor};
use sqlparser::tokenizer::Token;

use crate::claims::Claim;
use crate::error::DefinitionProblem;
use crate::prefixed::Prefixed;
use crate::rule::TableReference;
use crate::sql_text::{Span, SqlText, fold};
use crate::value::ColumnType;

/// A boolean expression over rows, `auth` and the database.
#[derive(Clone, Debug)]
pub struct JudgedRule {
    text: SqlText,
    rows: Rows,
    pieces: Vec<Piece>,
    claims: Vec<RuleClaim>,
    /// The tables that it reads besides.
    tables: Vec<TableReference>,
    /// Whether Postgres has found columns in it that belong to neither `old` nor `new`.
    bare: bool,
    prefixed: Prefixed,
}

/// Under which names a rule finds rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// `old` and `new`, as of a write.
    OldAndNew,
    /// One row, whose columns have no prefix.
    OfTable,
}

impl Rows {
    /// What a person may write in such a rule.
    fn help(self) -> &'static str {
        match self {
            Rows::OldAndNew => {
                "`old` is the row as it was, `new` as it will be, a column without either is meant of both, \
                 `auth.user_id` and `auth.claims.NAME` are who writes; columns with capitals need double quotes"
            }
            Rows::OfTable => {
                "columns of the row have no prefix, `auth.user_id` and `auth.claims.NAME` are who \
                 asks; columns with capitals need double quotes"
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Piece {
    Text(Span),
    /// An index into the claims, and the place that names it.
    Claim(usize, Span),
}

/// One place of a rule that names a claim.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleClaim {
    /// Which.
    pub claim: Claim,
    /// The type that Postgres expects there, once it has been asked: what it means, and its name in
    /// SQL.
    pub kind: Option<(ColumnType, String)>,
}

impl RuleClaim {
    /// The claim as SQL of the type that is expected here. `typed` writes it as a type that it always fits: what is out of
    /// the range of a smaller integer, or none of an enum's labels, is null, and of an array is left out.
    pub(crate) fn sql(&self, typed: impl FnOnce(ColumnType, &str) -> String) -> String {
        let (kind, type_name) = match &self.kind {
            Some((kind, type_name)) => (kind.clone(), type_name.as_str()),
            None => (ColumnType::Text, "text"),
        };
        if kind == ColumnType::Int
            && let Some(range) = integers(type_name)
        {
            let number = typed(kind, "int8");
            return format!("(CASE WHEN {number} BETWEEN {range} THEN {number} END)::{type_name}");
        }
        if let (Some(element), Some(name)) = (kind.element(), type_name.strip_suffix("[]")) {
            if let Some(range) = integers(name) {
                let numbers = typed(kind, "int8[]");
                return format!(
                    "(CASE WHEN {numbers} IS NOT NULL THEN ARRAY(SELECT number FROM unnest({numbers}) AS number \
                     WHERE number BETWEEN {range} OR number IS NULL) END)::{type_name}"
                );
            }
            if *element == ColumnType::Enum {
                let texts = typed(kind, "text[]");
                return format!(
                    "(CASE WHEN {texts} IS NOT NULL THEN ARRAY(SELECT label \
                     FROM unnest(enum_range(NULL::{name})) AS label WHERE concat(label) = ANY({texts})) END)"
                );
            }
        }
        if kind == ColumnType::Enum {
            let text = typed(kind, "text");
            return format!(
                "(SELECT label FROM unnest(enum_range(NULL::{type_name})) AS label \
                 WHERE concat(label) = {text})"
            );
        }
        typed(kind, type_name)
    }
}

/// The range of an integer type that is smaller than `int8`.
fn integers(type_name: &str) -> Option<&'static str> {
    Some(match type_name {
        "\"pg_catalog\".\"int2\"" => "-32768 AND 32767",
        "\"pg_catalog\".\"int4\"" => "-2147483648 AND 2147483647",
        "\"pg_catalog\".\"oid\"" => "0 AND 4294967295",
        _ => return None,
    })
}

impl JudgedRule {
    pub(crate) fn read(text: SqlText, rows: Rows) -> Result<JudgedRule, DefinitionProblem> {
        let expression = text.expression()?;
        let (tables, prefixed) = (tables(&text, &expression), Prefixed::of(&expression));
        let mut words = text.words()?;
        words.retain(|(token, _)| !matches!(token, Token::Whitespace(_)));
        let mut pieces = Vec::new();
        let mut claims = Vec::new();
        let mut written = 0;
        let mut at = 0;
        while at < words.len() {
            let Some(named) = named_claim(&text, &words, at)? else {
                at += 1;
                continue;
            };
            let place = words[at].1.start..words[at + named.words - 1].1.end;
            pieces.push(Piece::Text(written..place.start));
            pieces.push(Piece::Claim(claims.len(), place.clone()));
            claims.push(RuleClaim { claim: named.claim, kind: None });
            written = place.end;
            at += named.words;
        }
        pieces.push(Piece::Text(written..text.text().len()));
        Ok(JudgedRule { text, rows, pieces, claims, tables, bare: false, prefixed })
    }

    /// The tables in its subqueries, each place that names one; those without a schema are of `public`.
    pub(crate) fn tables(&self) -> &[TableReference] {
        &self.tables
    }

    /// The places that name claims, in their order.
    pub fn claims(&self) -> &[RuleClaim] {
        &self.claims
    }

    /// Notes the types that Postgres expects, one for each of [`JudgedRule::claims`].
    pub fn set_types(&mut self, types: impl IntoIterator<Item = (ColumnType, String)>) {
        for (claim, kind) in self.claims.iter_mut().zip(types) {
            claim.kind = Some(kind);
        }
    }

    /// Notes that columns in it have no prefix: it must hold of each row that there is.
    pub fn set_bare(&mut self) {
        self.bare = true;
    }

    /// Whether columns in it have no prefix, once Postgres has been asked.
    pub(crate) fn is_bare(&self) -> bool {
        self.bare
    }

    /// Takes over what Postgres said of the same rule before.
    pub(crate) fn judge_as(&mut self, before: &JudgedRule) {
        self.set_types(before.claims.iter().filter_map(|claim| claim.kind.clone()));
        self.bare = before.bare;
    }

    /// The columns that it names as of `old` or of `new`.
    pub(crate) fn prefixed(&self) -> &Prefixed {
        &self.prefixed
    }

    /// The expression in parentheses; `parameter` writes each claim.
    pub fn sql(&self, mut parameter: impl FnMut(&RuleClaim) -> String) -> String {
        let mut sql = "(".to_owned();
        for piece in &self.pieces {
            match piece {
                Piece::Text(bytes) => sql += &self.text.text()[bytes.clone()],
                Piece::Claim(index, _) => sql += &parameter(&self.claims[*index]),
            }
        }
        // It may end with a comment.
        sql += if sql.contains("--") { "\n)" } else { ")" };
        sql
    }

    /// What Postgres said of the rule, with its place. `at` is the byte of [`JudgedRule::sql`] that it
    /// pointed at, where each claim was written as `parameter` does.
    pub fn problem(
        &self,
        said: &str,
        at: Option<usize>,
        mut parameter: impl FnMut(&RuleClaim) -> String,
    ) -> DefinitionProblem {
        let mut place = self.text.span();
        let mut start = 1;
        for piece in &self.pieces {
            let (bytes, length) = match piece {
                Piece::Text(bytes) => (bytes.clone(), bytes.len()),
                Piece::Claim(index, bytes) => {
                    (bytes.clone(), parameter(&self.claims[*index]).len())
                }
            };
            if let Some(at) = at
                && (start..start + length).contains(&at)
            {
                let from = match piece {
                    Piece::Text(_) => bytes.start + (at - start),
                    Piece::Claim(..) => bytes.start,
                };
                place = self.text.place_of_bytes(self.word_at(from));
            }
            start += length;
        }
        DefinitionProblem::new(place, format!("Postgres does not take this rule: {said}"), "here")
            .help(self.rows.help())
    }

    /// The bytes of the word that begins at `from`.
    fn word_at(&self, from: usize) -> Span {
        let rest = self.text.text().get(from..).unwrap_or("");
        let in_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '"');
        let end = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
        let sign = rest.chars().next().map_or(0, char::len_utf8);
        from..from + end.max(sign)
    }
}

pub(crate) struct Named {
    pub(crate) claim: Claim,
    /// How many words and signs name it.
    pub(crate) words: usize,
}

/// `auth.user_id` or `auth.claims.name`, if one begins at `at`.
pub(crate) fn named_claim(
    text: &SqlText,
    words: &[(Token, Span)],
    at: usize,
) -> Result<Option<Named>, DefinitionProblem> {
    let word = |index: usize| match words.get(index) {
        Some((Token::Word(word), _)) => Some(word),
        _ => None,
    };
    let dot = |index: usize| matches!(words.get(index), Some((Token::Period, _)));
    let follows = at.checked_sub(1).is_some_and(dot);
    let is = |index: usize, name: &str| {
        word(index).is_some_and(|w| w.quote_style.is_none() && w.value.eq_ignore_ascii_case(name))
    };
    if follows || !is(at, "auth") || !dot(at + 1) {
        return Ok(None);
    }
    if is(at + 2, "user_id") {
        return Ok(Some(Named { claim: Claim::UserId, words: 3 }));
    }
    if is(at + 2, "claims")
        && dot(at + 3)
        && let Some(name) = word(at + 4)
    {
        let mut path = vec![name.value.clone()];
        while let (true, Some(step)) = (dot(at + 3 + 2 * path.len()), word(at + 4 + 2 * path.len()))
        {
            path.push(step.value.clone());
        }
        let words = 3 + 2 * path.len();
        return Ok(Some(Named { claim: Claim::Named(path.into()), words }));
    }
    let place = words[at].1.start..words.get(at + 2).map_or(words[at].1.end, |(_, span)| span.end);
    let problem =
        DefinitionProblem::new(text.place_of_bytes(place), "`auth` has no such field", "here");
    Err(problem.help(
        "write auth.user_id, or auth.claims.NAME for another claim of the token; a schema of this name takes double \
         quotes: \"auth\".uid()",
    ))
}

/// Finds the tables of subqueries; names that a `WITH` introduces are none.
struct TableNames<'a> {
    text: &'a SqlText,
    found: Vec<TableReference>,
    introduced: BTreeSet<String>,
}

impl Visitor for TableNames<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let with = query.with.iter().flat_map(|with| &with.cte_tables);
        self.introduced.extend(with.map(|table| fold(&table.alias.name)));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name, args: None, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let parts: Vec<String> =
            name.0.iter().filter_map(|part| part.as_ident()).map(fold).collect();
        let (schema, table) = match &parts[..] {
            [table] if self.introduced.contains(table) => return ControlFlow::Continue(()),
            [table] => ("public".to_owned(), table.clone()),
            [.., schema, table] => (schema.clone(), table.clone()),
            [] => return ControlFlow::Continue(()),
        };
        let span = self.text.place(name.span());
        self.found.push(TableReference { schema, name: table, span });
        ControlFlow::Continue(())
    }
}

fn tables(text: &SqlText, expression: &Expr) -> Vec<TableReference> {
    let mut names = TableNames { text, found: Vec::new(), introduced: BTreeSet::new() };
    // It never breaks off.
    let _: ControlFlow<()> = expression.visit(&mut names);
    names.found
}
