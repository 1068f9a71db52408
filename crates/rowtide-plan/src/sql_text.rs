//! SQL in the definition's file: the text, its place in the file, and its expression. A place in the SQL
//! becomes a place in the file, so that a problem is underlined where a person wrote it. All
//! recursion over an expression is bounded here, by its size and its nesting.

use std::ops::Range;

use sqlparser::ast::{Expr, Ident, OrderByExpr};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{
    Location, Span as SqlSpan, Token, TokenWithSpan, Tokenizer, TokenizerError,
};

use crate::error::DefinitionProblem;

/// Bytes of the definition's file.
pub(crate) type Span = Range<usize>;

/// How deep expressions may be nested.
const MAX_DEPTH: usize = 64;
/// How many words and signs a rule may have, literals and commas aside: a chain of operators is as
/// deep as it is long.
const MAX_WORDS: usize = 1_000;

/// SQL text as it stands in the definition's file.
#[derive(Clone, Debug)]
pub(crate) struct SqlText {
    text: String,
    /// With its quotes.
    span: Span,
    /// Where the text begins in the file, and how it is written there; `None` if it is written with
    /// escapes, so that places in it cannot be told.
    written: Option<(usize, String)>,
}

impl SqlText {
    /// The TOML string at `span` of `file`, which says `text`.
    pub(crate) fn new(file: &str, span: Span, text: &str) -> SqlText {
        let quoted = file.get(span.clone()).unwrap_or("");
        let long = quoted.starts_with("'''") || quoted.starts_with("\"\"\"");
        let quotes = if long { 3 } else { 1 };
        let mut from = quotes;
        if long {
            // A newline right after the quotes is not part of the string.
            let after = quoted.get(from..).unwrap_or("");
            from +=
                if after.starts_with("\r\n") { 2 } else { usize::from(after.starts_with('\n')) };
        }
        let written = quoted.get(from..quoted.len().saturating_sub(quotes)).unwrap_or("");
        let verbatim = written == text || written.replace("\r\n", "\n") == text;
        let written = verbatim.then(|| (span.start + from, written.to_owned()));
        SqlText { text: text.to_owned(), span, written }
    }

    /// The whole string, with its quotes.
    pub(crate) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Where a place in the text is found in the file; the whole if that cannot be told.
    pub(crate) fn place(&self, span: SqlSpan) -> Span {
        let Some((base, written)) = &self.written else { return self.span() };
        match (offset(written, span.start), offset(written, span.end)) {
            (Some(start), Some(end)) if start < end => {
                base + start..base + with_parentheses(written, start, end)
            }
            _ => self.span(),
        }
    }

    /// The text itself.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Where bytes of the text are found in the file; the whole if that cannot be told.
    pub(crate) fn place_of_bytes(&self, bytes: Span) -> Span {
        match &self.written {
            Some((base, written)) if *written == self.text => base + bytes.start..base + bytes.end,
            _ => self.span(),
        }
    }

    /// The words and signs of the text, each with its bytes.
    ///
    /// # Errors
    /// With the place that cannot be read.
    pub(crate) fn words(&self) -> Result<Vec<(Token, Span)>, DefinitionProblem> {
        let tokens = Tokenizer::new(&PostgreSqlDialect {}, &self.text)
            .tokenize_with_location()
            .map_err(|TokenizerError { message, location }| self.not_sql(&message, location))?;
        let bytes = |token: TokenWithSpan| {
            let start = offset(&self.text, token.span.start)?;
            Some((token.token, start..offset(&self.text, token.span.end)?))
        };
        let words: Vec<(Token, Span)> = tokens.into_iter().filter_map(bytes).collect();
        // To Postgres a comment begins also within what is one operator here.
        let has_comment = |(token, place): &&(Token, Span)| {
            let sign = &self.text[place.clone()];
            let begins = |word: &str| sign.find(word).is_some_and(|at| at > 0);
            matches!(token, Token::CustomBinaryOperator(_)) && (begins("--") || begins("/*"))
        };
        if let Some((_, place)) = words.iter().find(has_comment) {
            let place = self.place_of_bytes(place.clone());
            let problem =
                DefinitionProblem::new(place, "Postgres reads this as a comment", "from here");
            return Err(problem.help("put a space behind the operator"));
        }
        Ok(words)
    }

    /// The one expression that the text is.
    ///
    /// # Errors
    /// With the place where it stops being one.
    pub(crate) fn expression(&self) -> Result<Expr, DefinitionProblem> {
        let tokens = self.tokens()?;
        let help = "write one boolean expression; join parts with AND and OR";
        self.parsed(tokens, |parser| parser.parse_expr(), help)
    }

    /// The columns of an order, as ORDER BY has them.
    ///
    /// # Errors
    /// With the place where it stops being one.
    pub(crate) fn order(&self) -> Result<Vec<OrderByExpr>, DefinitionProblem> {
        let tokens = self.tokens()?;
        let parse =
            |parser: &mut Parser<'_>| parser.parse_comma_separated(Parser::parse_order_by_expr);
        self.parsed(tokens, parse, "write columns, separated by commas")
    }

    fn tokens(&self) -> Result<Vec<TokenWithSpan>, DefinitionProblem> {
        let tokens = Tokenizer::new(&PostgreSqlDialect {}, &self.text)
            .tokenize_with_location()
            .map_err(|TokenizerError { message, location }| self.not_sql(&message, location))?;
        self.check_tokens(&tokens)?;
        Ok(tokens)
    }

    /// What all of the text is; `help` says how to end it where it goes on.
    fn parsed<T>(
        &self,
        tokens: Vec<TokenWithSpan>,
        parse: impl FnOnce(&mut Parser<'_>) -> Result<T, ParserError>,
        help: &str,
    ) -> Result<T, DefinitionProblem> {
        let mut parser = Parser::new(&PostgreSqlDialect {})
            .with_recursion_limit(MAX_DEPTH)
            .with_tokens_with_locations(tokens);
        let parsed = parse(&mut parser).map_err(|error| match error {
            ParserError::RecursionLimitExceeded => {
                let label = format!("more than {MAX_DEPTH} levels");
                DefinitionProblem::new(self.span(), "the rule is nested too deeply", label)
                    .help("leave out parentheses that nothing needs")
            }
            ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
                let (message, location) = located(&message);
                self.not_sql(message, location)
            }
        })?;
        let rest = parser.peek_token();
        if rest.token == Token::EOF {
            return Ok(parsed);
        }
        let label = format!("`{}` is not expected here", rest.token);
        let problem =
            DefinitionProblem::new(self.place(rest.span), "the rule goes on after its end", label);
        Err(problem.help(help))
    }

    /// Rejects what the parser accepts and Postgres does not, and what is too long.
    fn check_tokens(&self, tokens: &[TokenWithSpan]) -> Result<(), DefinitionProblem> {
        let mut words = 0;
        for token in tokens {
            match &token.token {
                Token::Whitespace(_)
                | Token::Comma
                | Token::Number(_, false)
                | Token::SingleQuotedString(_) => {}
                Token::DoubleEq => {
                    let place = self.place(token.span);
                    let problem =
                        DefinitionProblem::new(place, "`==` is not SQL", "not an operator");
                    return Err(problem.help("write ="));
                }
                Token::Number(number, true) => {
                    let place = self.place(token.span);
                    let problem =
                        DefinitionProblem::new(place, "this is not a number", "a letter after it");
                    return Err(problem.help(format!("write {number}")));
                }
                _ => words += 1,
            }
        }
        if words <= MAX_WORDS {
            return Ok(());
        }
        let label = format!("{words} words and signs, more than {MAX_WORDS}");
        let problem = DefinitionProblem::new(self.span(), "the rule is too long", label);
        Err(problem.help("write `column IN (…)` for a long list of literals"))
    }

    fn not_sql(&self, message: &str, at: Location) -> DefinitionProblem {
        let end = Location { line: at.line, column: at.column.saturating_add(1) };
        let message = message.replace("found: EOF", "found the end");
        let place = match &self.written {
            // The parser has no place for the end of the text: the last that stands before it is shown.
            Some((base, written)) if at.line == 0 => {
                let written = written.trim_end();
                match written.char_indices().next_back() {
                    Some((last, _)) => base + last..base + written.len(),
                    None => self.span(),
                }
            }
            _ => self.place(SqlSpan { start: at, end }),
        };
        DefinitionProblem::new(place, "this is not SQL", message)
    }
}

/// An identifier as Postgres reads it: without quotes it is folded to lower case, but only in ASCII.
pub(crate) fn fold(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() }
}

/// The byte of `written` at a line and column, which count from 1, columns in characters.
fn offset(written: &str, at: Location) -> Option<usize> {
    let line = usize::try_from(at.line).ok()?.checked_sub(1)?;
    let column = usize::try_from(at.column).ok()?.checked_sub(1)?;
    let mut lines = written.split_inclusive('\n');
    let start: usize = lines.by_ref().take(line).map(str::len).sum();
    let line = lines.next()?.trim_end_matches(['\r', '\n']);
    let within = line.char_indices().nth(column).map_or(line.len(), |(offset, _)| offset);
    Some(start + within)
}

/// The end of a place, moved on to what closes the parentheses that it opens: the parser leaves them
/// out.
fn with_parentheses(written: &str, start: usize, end: usize) -> usize {
    let mut open = 0_i32;
    for (at, character) in written[start..].char_indices() {
        if start + at >= end && open == 0 {
            break;
        }
        match character {
            '(' => open += 1,
            ')' if open > 0 => {
                open -= 1;
                if open == 0 && start + at >= end {
                    return start + at + 1;
                }
            }
            _ => {}
        }
    }
    end
}

/// Takes ` at Line: 1, Column: 5` off a message of the parser's.
fn located(message: &str) -> (&str, Location) {
    let nowhere = Location { line: 0, column: 0 };
    let found = || {
        let (said, at) = message.rsplit_once(" at Line: ")?;
        let (line, column) = at.split_once(", Column: ")?;
        Some((said, Location { line: line.parse().ok()?, column: column.parse().ok()? }))
    };
    found().unwrap_or((message, nowhere))
}
