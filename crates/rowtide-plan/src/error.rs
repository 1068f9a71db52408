//! What is wrong with a definition, shown where it is wrong. All problems are collected before any is
//! reported, so that a person mends a file once.

use std::collections::HashSet;
use std::ops::Range;

use miette::{Diagnostic, NamedSource, SourceSpan};
use thiserror::Error;

/// A definition that cannot be used, with everything that is wrong with it.
#[derive(Clone, Debug, Error, Diagnostic)]
#[error("`{file}` cannot be used")]
#[diagnostic(help("{} found", if problems.len() == 1 { "1 problem".to_owned() } else { format!("{} problems", problems.len()) }))]
pub struct DefinitionError {
    /// The name of the file.
    pub file: String,
    #[source_code]
    source_code: NamedSource<String>,
    /// In the order of the file.
    #[related]
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Error, Diagnostic)]
#[error("{message}")]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// Words under the place.
    pub label: String,
    #[label("{label}")]
    place: SourceSpan,
    /// What to write instead.
    #[help]
    pub help: Option<String>,
    /// Whether it is the table in the database that is wrong: said once, wherever it is named.
    of_table: bool,
}

impl Problem {
    pub(crate) fn new(
        place: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Problem {
        let place = SourceSpan::new(place.start.into(), place.end.saturating_sub(place.start));
        Problem { message: message.into(), label: label.into(), place, help: None, of_table: false }
    }

    /// As [`Problem::new`], where the table in the database is what is wrong.
    pub(crate) fn of_table(
        place: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Problem {
        Problem { of_table: true, ..Problem::new(place, message, label) }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }
}

impl DefinitionError {
    pub(crate) fn new(file: &str, text: &str, mut problems: Vec<Problem>) -> DefinitionError {
        problems.sort_by_key(|problem| (problem.place.offset(), problem.place.len()));
        // A condition that stands in several alternatives is judged in each.
        let mut seen = HashSet::new();
        problems.retain(|problem| {
            let place = if problem.of_table { None } else { Some(problem.place) };
            seen.insert((place, problem.message.clone(), problem.label.clone()))
        });
        DefinitionError {
            file: file.to_owned(),
            source_code: NamedSource::new(file, text.to_owned()),
            problems,
        }
    }
}

/// The name that was meant by one that is not there, if one is close to it.
pub(crate) fn did_you_mean<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (distance(&wrong.to_lowercase(), &name.to_lowercase()), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, name)| *distance <= 1 + name.chars().count() / 4)
        .map(|(_, name)| name)
}

/// How many characters must be put in, taken out or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
