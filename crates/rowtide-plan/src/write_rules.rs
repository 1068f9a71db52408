//! The rules of a table for inserts, updates and deletes. Each is any boolean expression of Postgres', which
//! Postgres itself judges. Only the claims in it are ours: each place that names one becomes a parameter of
//! its own, of the type that Postgres expects there, so that `auth.user_id` can be compared with a `uuid` here
//! and with a `text` there. What Postgres says of a rule is shown where it stands in the definition's file.

use sqlparser::tokenizer::Token;

use crate::claims::Claim;
use crate::error::DefinitionProblem;
use crate::sql_text::{Span, SqlText};
use crate::value::ColumnType;

/// The rules of one table.
#[derive(Clone, Debug, Default)]
pub struct WriteRules {
    /// Columns that an insert writes and an update never does.
    pub immutable: Vec<usize>,
    /// Columns that a client never writes.
    pub readonly: Vec<usize>,
    /// Who may insert; `None`: nobody.
    pub insert: Option<InsertRule>,
    /// Who may update. A column may be written if any rule that names it holds.
    pub updates: Vec<UpdateRule>,
    /// Who may delete; `None`: nobody.
    pub delete: Option<WriteRule>,
}

/// The rule for inserts.
#[derive(Clone, Debug)]
pub struct InsertRule {
    /// Over `new`.
    pub allow: WriteRule,
    /// An insert must not exceed any of them.
    pub limits: Vec<RowLimit>,
}

/// How many rows there may be.
#[derive(Clone, Debug)]
pub struct RowLimit {
    /// Which rows count: over the table's columns, without a prefix.
    pub counted: WriteRule,
    /// The most.
    pub max: i64,
    /// The code that an insert beyond it is rejected with.
    pub code: String,
}

/// A rule for updates.
#[derive(Clone, Debug)]
pub struct UpdateRule {
    /// The columns that it is about; `None`: all that are written.
    pub columns: Option<Vec<usize>>,
    /// Over `old` and `new`.
    pub allow: WriteRule,
}

impl WriteRules {
    /// Every rule, in the order of the definition's reference.
    pub fn rules(&self) -> impl Iterator<Item = &WriteRule> {
        let insert = self.insert.iter().flat_map(|insert| {
            let counted = insert.limits.iter().map(|limit| &limit.counted);
            std::iter::once(&insert.allow).chain(counted)
        });
        insert.chain(self.updates.iter().map(|rule| &rule.allow)).chain(&self.delete)
    }

    /// As [`WriteRules::rules`], mutable.
    pub fn rules_mut(&mut self) -> impl Iterator<Item = &mut WriteRule> {
        let insert = self.insert.iter_mut().flat_map(|insert| {
            let counted = insert.limits.iter_mut().map(|limit| &mut limit.counted);
            std::iter::once(&mut insert.allow).chain(counted)
        });
        insert.chain(self.updates.iter_mut().map(|rule| &mut rule.allow)).chain(&mut self.delete)
    }
}

/// A boolean expression over `old`, `new`, `auth` and the database.
#[derive(Clone, Debug)]
pub struct WriteRule {
    text: SqlText,
    pieces: Vec<Piece>,
    claims: Vec<RuleClaim>,
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

impl WriteRule {
    pub(crate) fn read(text: SqlText) -> Result<WriteRule, DefinitionProblem> {
        text.expression()?;
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
        Ok(WriteRule { text, pieces, claims })
    }

    /// The places that name claims, in their order.
    pub fn claims(&self) -> &[RuleClaim] {
        &self.claims
    }

    /// Notes the types that Postgres expects, one for each of [`WriteRule::claims`].
    pub fn set_types(&mut self, types: impl IntoIterator<Item = (ColumnType, String)>) {
        for (claim, kind) in self.claims.iter_mut().zip(types) {
            claim.kind = Some(kind);
        }
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

    /// What Postgres said of the rule, with its place. `at` is the byte of [`WriteRule::sql`] that it
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
        let help = "`old` is the row as it was, `new` as it will be, `auth.user_id` and \
                    `auth.claims.NAME` who writes; columns with capitals need double quotes";
        DefinitionProblem::new(place, format!("Postgres does not take this rule: {said}"), "here")
            .help(help)
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

struct Named {
    claim: Claim,
    /// How many words and signs name it.
    words: usize,
}

/// `auth.user_id` or `auth.claims.name`, if one begins at `at`.
fn named_claim(
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
        return Ok(Some(Named { claim: Claim::Named(name.value.clone()), words: 5 }));
    }
    let place = words[at].1.start..words.get(at + 2).map_or(words[at].1.end, |(_, span)| span.end);
    let problem =
        DefinitionProblem::new(text.place_of_bytes(place), "`auth` has no such field", "here");
    Err(problem.help("write auth.user_id, or auth.claims.NAME for another claim of the token"))
}
