//! Mutations that have a name: one statement of SQL that the definition gives, with parameters of types that it gives. What a
//! client sends travels as parameters, so no text of it ever becomes SQL. Of which type each parameter and each claim is,
//! Postgres says ([`PlannedCall::ask`]); until it has, the mutation cannot be run, and waits.

use sqlparser::tokenizer::Token;

use crate::error::{DefinitionProblem, did_you_mean};
use crate::judged_rule::{Named, RuleClaim, named_claim};
use crate::sql_text::{Span, SqlText, fold};
use crate::value::ColumnType;

/// What a statement may begin with: what else there is changes the transaction, or is nothing to write with.
const VERBS: [&str; 6] = ["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH"];

/// A named mutation: a `[mutations.…]` entry of the definition.
#[derive(Clone, Debug)]
pub struct PlannedCall {
    /// What the entry calls it.
    pub name: String,
    /// What it takes, in the order of the names.
    pub params: Vec<CallParam>,
    text: SqlText,
    pieces: Vec<Piece>,
    claims: Vec<RuleClaim>,
    judged: bool,
}

/// A parameter of a named mutation.
#[derive(Clone, Debug)]
pub struct CallParam {
    /// What clients call it.
    pub name: String,
    /// Its type as the definition writes it, and its place.
    pub(crate) type_name: String,
    pub(crate) place: Span,
    /// The text that Postgres reads if a client leaves it out; the inner `None` for null. Without one it must be there.
    pub(crate) default: Option<Option<String>>,
    /// The type, once Postgres has been asked.
    pub(crate) kind: Option<ParamKind>,
}

/// What Postgres says of a parameter's type.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamKind {
    /// Its kind.
    pub kind: ColumnType,
    /// Its name in `pg_type`.
    pub name: String,
}

impl ParamKind {
    /// Of a type that Postgres has not been asked about.
    pub(crate) const UNKNOWN: ParamKind =
        ParamKind { kind: ColumnType::Other, name: String::new() };
}

#[derive(Clone, Debug)]
enum Piece {
    Text(Span),
    Param(usize, Span),
    Claim(usize, Span),
}

/// Which value stands at a place of the statement.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CallValue<'a> {
    /// Of a parameter, by its index.
    Param(usize, &'a CallParam),
    /// Of a claim.
    Claim(&'a RuleClaim),
}

impl PlannedCall {
    /// Reads the statement.
    ///
    /// # Errors
    /// When it is not one statement that writes or selects, or names a parameter that is not there, or does not name one
    /// that is.
    pub(crate) fn read(
        name: &str,
        params: Vec<CallParam>,
        text: SqlText,
    ) -> Result<PlannedCall, Vec<DefinitionProblem>> {
        let mut words = text.words().map_err(|problem| vec![problem])?;
        let is_space = |token: &Token| matches!(token, Token::Whitespace(_) | Token::EOF);
        words.retain(|(token, _)| !is_space(token));
        let mut end = text.text().len();
        if let Some((Token::SemiColon, place)) = words.last() {
            end = place.start;
            words.pop();
        }
        let mut problems = one_statement(&text, &words);
        let (mut pieces, mut claims) = (Vec::new(), Vec::new());
        let mut used = vec![false; params.len()];
        let (mut written, mut at) = (0, 0);
        while at < words.len() {
            let (piece, count, place) =
                match (named_param(&text, &words, at, &params), named_claim(&text, &words, at)) {
                    (Some(Ok(index)), _) => {
                        used[index] = true;
                        let place = words[at].1.start..words[at + 2].1.end;
                        (Piece::Param(index, place.clone()), 3, place)
                    }
                    (Some(Err(problem)), _) | (_, Err(problem)) => {
                        problems.push(problem);
                        at += 1;
                        continue;
                    }
                    (None, Ok(Some(Named { claim, words: count }))) => {
                        claims.push(RuleClaim { claim, kind: None });
                        let place = words[at].1.start..words[at + count - 1].1.end;
                        (Piece::Claim(claims.len() - 1, place.clone()), count, place)
                    }
                    (None, Ok(None)) => {
                        at += 1;
                        continue;
                    }
                };
            pieces.push(Piece::Text(written..place.start));
            pieces.push(piece);
            written = place.end;
            at += count;
        }
        pieces.push(Piece::Text(written..end.max(written)));
        for (param, _) in params.iter().zip(used).filter(|(_, used)| !used) {
            let what = format!("`run` does not use the parameter `{}`", param.name);
            let problem = DefinitionProblem::new(param.place.clone(), what, "not used");
            let help =
                format!("write params.{} where its value belongs, or take it out", param.name);
            problems.push(problem.help(help));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(PlannedCall { name: name.to_owned(), params, text, pieces, claims, judged: false })
    }

    /// Whether Postgres takes the statement.
    pub fn is_judged(&self) -> bool {
        self.judged
    }

    /// The places that name claims, in their order.
    pub(crate) fn claims(&self) -> &[RuleClaim] {
        &self.claims
    }

    /// Takes over what Postgres said of the same statement before.
    pub(crate) fn judge_as(&mut self, before: &PlannedCall) {
        let params = before.params.iter().filter_map(|param| param.kind.clone());
        let claims = before.claims.iter().filter_map(|claim| claim.kind.clone());
        if before.judged && before.params.len() == self.params.len() {
            self.set_types(params, claims);
        }
    }

    /// The statement; `value` writes what stands for each parameter and claim.
    pub(crate) fn sql(&self, mut value: impl FnMut(CallValue<'_>) -> String) -> String {
        let text = |piece: &Piece| match piece {
            Piece::Text(bytes) => self.text.text()[bytes.clone()].to_owned(),
            Piece::Param(index, _) => value(CallValue::Param(*index, &self.params[*index])),
            Piece::Claim(index, _) => value(CallValue::Claim(&self.claims[*index])),
        };
        self.pieces.iter().map(text).collect()
    }

    /// The statement to ask Postgres about. Its first parameters are those of the definition, in their order; behind them is
    /// one for each claim.
    pub fn ask(&self) -> String {
        let mut claim = self.params.len();
        self.sql(|value| asked(value, &mut claim))
    }

    /// The defaults of parameters: the text, the type that is to read it, and what is wrong if Postgres does not take it.
    pub fn defaults(&self) -> impl Iterator<Item = (&str, &str, DefinitionProblem)> {
        self.params.iter().filter_map(|param| {
            let text = param.default.as_ref()?.as_ref()?;
            let what = format!("`{text}` is no {}", param.type_name);
            let problem = DefinitionProblem::new(param.place.clone(), what, "this default");
            Some((text.as_str(), param.type_name.as_str(), problem))
        })
    }

    /// Notes the types that Postgres said: of the parameters, and then of each claim what it means and its name in SQL.
    pub fn set_types(
        &mut self,
        params: impl IntoIterator<Item = ParamKind>,
        claims: impl IntoIterator<Item = (ColumnType, String)>,
    ) {
        for (param, kind) in self.params.iter_mut().zip(params) {
            param.kind = Some(kind);
        }
        for (claim, kind) in self.claims.iter_mut().zip(claims) {
            claim.kind = Some(kind);
        }
        self.judged = true;
    }

    /// What Postgres said of the statement, with its place. `at` is the byte of [`PlannedCall::ask`] that it pointed at.
    pub fn problem(&self, said: &str, at: Option<usize>) -> DefinitionProblem {
        let mut place = self.text.span();
        let (mut start, mut claim) = (0, self.params.len());
        for piece in &self.pieces {
            let (bytes, length) = match piece {
                Piece::Text(bytes) => (bytes.clone(), bytes.len()),
                Piece::Param(index, bytes) => {
                    let value = CallValue::Param(*index, &self.params[*index]);
                    (bytes.clone(), asked(value, &mut claim).len())
                }
                Piece::Claim(index, bytes) => {
                    let value = CallValue::Claim(&self.claims[*index]);
                    (bytes.clone(), asked(value, &mut claim).len())
                }
            };
            if let Some(at) = at.filter(|at| (start..start + length).contains(at)) {
                place = match piece {
                    // It is about the type.
                    Piece::Param(index, _) => self.params[*index].place.clone(),
                    Piece::Claim(..) => self.text.place_of_bytes(bytes),
                    Piece::Text(_) => {
                        let from = bytes.start + (at - start);
                        let rest = self.text.text().get(from..bytes.end).unwrap_or("");
                        let in_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '"');
                        let word = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
                        let sign = rest.chars().next().map_or(0, char::len_utf8);
                        self.text.place_of_bytes(from..from + word.max(sign))
                    }
                };
            }
            start += length;
        }
        let what = format!("Postgres does not take this mutation: {said}");
        let problem = DefinitionProblem::new(place, what, "here");
        problem.help(
            "`run` is one statement; `params.NAME` is what a client calls it with, `auth.user_id` and `auth.claims.NAME` \
             are who calls it",
        )
    }
}

fn asked(value: CallValue<'_>, claim: &mut usize) -> String {
    match value {
        CallValue::Param(index, param) => format!("(${}::{})", index + 1, param.type_name),
        CallValue::Claim(_) => {
            *claim += 1;
            format!("${claim}")
        }
    }
}

/// What is wrong with the text as one statement. What it says is for Postgres to judge.
fn one_statement(text: &SqlText, words: &[(Token, Span)]) -> Vec<DefinitionProblem> {
    let mut problems = Vec::new();
    let verb = words.first().map(|(token, place)| (token, place.clone()));
    let is_verb = |token: &Token| match token {
        Token::Word(word) => {
            word.quote_style.is_none()
                && VERBS.iter().any(|verb| word.value.eq_ignore_ascii_case(verb))
        }
        _ => false,
    };
    if !verb.as_ref().is_some_and(|(token, _)| is_verb(token)) {
        let place = verb.map_or(text.span(), |(_, place)| text.place_of_bytes(place));
        let what = "this is no statement that a mutation can run";
        let problem = DefinitionProblem::new(place, what, "here");
        problems.push(problem.help("begin with SELECT, INSERT, UPDATE, DELETE, MERGE or WITH"));
    }
    if let Some((_, place)) = words.iter().find(|(token, _)| *token == Token::SemiColon) {
        let place = text.place_of_bytes(place.clone());
        let problem =
            DefinitionProblem::new(place, "a mutation runs one statement", "it ends here");
        problems.push(problem.help("put several statements into a function, and SELECT that"));
    }
    if let Some((_, place)) = words.iter().find(|(token, _)| matches!(token, Token::Placeholder(_)))
    {
        let place = text.place_of_bytes(place.clone());
        let problem = DefinitionProblem::new(place, "parameters have names", "here");
        problems.push(problem.help("write params.NAME"));
    }
    problems
}

/// The index of the parameter that is named at `at`, if one is.
fn named_param(
    text: &SqlText,
    words: &[(Token, Span)],
    at: usize,
    params: &[CallParam],
) -> Option<Result<usize, DefinitionProblem>> {
    let dot = |index: usize| matches!(words.get(index), Some((Token::Period, _)));
    let word = |index: usize| match words.get(index) {
        Some((Token::Word(word), _)) => Some(word),
        _ => None,
    };
    let first = word(at)?;
    let is_params = first.quote_style.is_none() && first.value.eq_ignore_ascii_case("params");
    if !is_params || !dot(at + 1) || at.checked_sub(1).is_some_and(dot) {
        return None;
    }
    let name = word(at + 2)?;
    let ident = sqlparser::ast::Ident {
        value: name.value.clone(),
        quote_style: name.quote_style,
        span: sqlparser::tokenizer::Span::empty(),
    };
    // Names of parameters keep their case, as those of claims do.
    let is = |param: &CallParam| param.name == name.value || param.name == fold(&ident);
    if let Some(index) = params.iter().position(is) {
        return Some(Ok(index));
    }
    let place = text.place_of_bytes(words[at].1.start..words[at + 2].1.end);
    let what = format!("there is no parameter `{}`", name.value);
    let problem = DefinitionProblem::new(place, what, "not among `params`");
    let names = params.iter().map(|param| param.name.as_str());
    Some(Err(match did_you_mean(&name.value, names) {
        Some(close) => problem.help(format!("did you mean params.{close}?")),
        None => problem.help(format!("add `{} = \"text\"` to `params`", name.value)),
    }))
}
