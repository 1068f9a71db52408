//! What clients get of a row, as a person writes it: all columns, those of `columns`, or all but those of `hidden`.

use toml::Spanned;

use super::names;
use crate::error::DefinitionProblem;
use crate::rule::Name;
use crate::sql_text::Span;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) enum SentColumns {
    All,
    /// With the place of the list.
    Only(Vec<Name>, Span),
    AllBut(Vec<Name>),
}

/// A list of columns, with its place and theirs.
pub(super) type List = Option<Spanned<Vec<Spanned<String>>>>;

impl SentColumns {
    /// Reads `columns` and `hidden` of an entry.
    ///
    /// # Errors
    /// If it has both.
    pub(super) fn read(columns: &List, hidden: &List) -> Result<SentColumns, DefinitionProblem> {
        match (columns, hidden) {
            (None, None) => Ok(SentColumns::All),
            (Some(columns), None) => {
                Ok(SentColumns::Only(names(columns.get_ref()), columns.span()))
            }
            (None, Some(hidden)) => Ok(SentColumns::AllBut(names(hidden.get_ref()))),
            (Some(columns), Some(hidden)) => {
                let mut places = [columns.span(), hidden.span()];
                places.sort_by_key(|place| place.start);
                let [_, second] = places;
                let what = "a table has `columns` or `hidden`, and not both";
                let problem = DefinitionProblem::new(second, what, "the second one");
                Err(problem.help(
                    "`columns` names what clients get, and `hidden` what they do not get: keep one of them",
                ))
            }
        }
    }
}
