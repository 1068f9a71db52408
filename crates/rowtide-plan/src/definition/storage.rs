//! `[storage]` as a person writes it: where the objects of documents are, unless the server is told otherwise. What a URL
//! must be is for whoever opens it to say; here it is kept with its place, and what may be secret in it is shown to nobody.

use serde::Deserialize;
use toml::Spanned;

use super::Definition;
use crate::error::DefinitionProblem;
use crate::rule::Name;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StorageEntry {
    url: Spanned<String>,
}

impl StorageEntry {
    pub(super) fn url(&self) -> Name {
        Name { text: self.url.get_ref().clone(), span: self.url.span() }
    }

    /// The text of a definition with this entry, as it may be shown: credentials do not belong into it, and whoever has
    /// written some all the same does not find them in a log.
    pub(super) fn shown(&self, text: &str) -> String {
        let span = self.url.span();
        let mut shown = text.to_owned();
        let Some(written) = text.get(span.clone()) else { return shown };
        if !self.url.get_ref().contains('@') {
            return shown;
        }
        // An @ that is written as an escape is not found: nothing is shown then.
        let secret = written.rfind('@').unwrap_or(written.len());
        // Places are in bytes, and stay what they are.
        let stars = written.char_indices().map(|(at, c)| match c {
            '\n' | '\r' => c.to_string(),
            _ if at > 0 && at < secret => "*".repeat(c.len_utf8()),
            _ => c.to_string(),
        });
        shown.replace_range(span, &stars.collect::<String>());
        shown
    }
}

impl Definition {
    /// Where the objects of documents are, as it is written; `None` where that is left to the server's settings.
    pub fn storage_url(&self) -> Option<&str> {
        self.storage.as_ref().map(|url| url.text.as_str())
    }

    /// A problem of the storage's URL, at its place; none if there is no such URL.
    pub fn storage_problem(&self, why: &str) -> Option<DefinitionProblem> {
        let url = self.storage.as_ref()?;
        let what = format!("the storage of documents cannot be used: {why}");
        let problem = DefinitionProblem::new(url.span.clone(), what, "this URL");
        Some(problem.help(
            "write url = \"s3://bucket/prefix\" or url = \"file:///directory\", or leave [storage] out: objects are in \
             the directory of documents then",
        ))
    }
}
