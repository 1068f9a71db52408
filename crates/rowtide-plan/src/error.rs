//! Problems of a definition, shown at their places in the file. All problems are collected before any is
//! reported, so that a person sees them all at once.

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
    pub problems: Vec<DefinitionProblem>,
}

/// One problem of a definition, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Error, Diagnostic)]
#[error("{message}")]
pub struct DefinitionProblem {
    /// What is wrong.
    pub message: String,
    /// A note under the place.
    pub label: String,
    #[label("{label}")]
    place: SourceSpan,
    /// What to write instead.
    #[help]
    pub help: Option<String>,
    /// Whether the table in the database is the problem. It is then reported once, however often it is named.
    of_table: bool,
}

impl DefinitionProblem {
    pub(crate) fn new(
        place: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> DefinitionProblem {
        let place = SourceSpan::new(place.start.into(), place.end.saturating_sub(place.start));
        DefinitionProblem {
            message: message.into(),
            label: label.into(),
            place,
            help: None,
            of_table: false,
        }
    }

    /// As [`DefinitionProblem::new`], for a problem of the table in the database.
    pub(crate) fn of_table(
        place: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> DefinitionProblem {
        DefinitionProblem { of_table: true, ..DefinitionProblem::new(place, message, label) }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> DefinitionProblem {
        self.help = Some(help.into());
        self
    }
}

impl DefinitionError {
    pub(crate) fn new(
        file: &str,
        text: &str,
        mut problems: Vec<DefinitionProblem>,
    ) -> DefinitionError {
        problems.sort_by_key(|problem| (problem.place.offset(), problem.place.len()));
        // A condition in several alternatives has the same problem in each.
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

/// The existing name that is closest to a wrong one, if it is close enough.
pub(crate) fn did_you_mean<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let length = wrong.chars().count();
    names
        .into_iter()
        .map(|name| (name, name.chars().count()))
        // Whoever is wrong may write at any length, and what differs in length by more is not near.
        .filter(|(_, of)| length.abs_diff(*of) <= 1 + of / 4)
        .map(|(name, of)| (distance(&wrong.to_lowercase(), &name.to_lowercase()), name, of))
        .min_by_key(|(distance, ..)| *distance)
        .filter(|(distance, _, of)| *distance <= 1 + of / 4)
        .map(|(_, name, _)| name)
}

/// How many characters must be inserted, deleted or changed (Levenshtein).
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
