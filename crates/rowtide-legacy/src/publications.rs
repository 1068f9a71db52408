//! Whom it is to be told that a file was not published. It shows later, in a column of the row (`publish_error` of the
//! definition), which is null while it is tried; older clients know that column not, and are told a rejection of the
//! mutation that asked for it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rowtide_plan::plan::Plan;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Of how many files it is remembered which mutation asked last.
const MOST_ASKED: usize = 200;

/// What an older client may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    Publish,
    Republish,
    Unpublish,
}

impl Failed {
    fn code(self) -> &'static str {
        match self {
            Failed::Publish => "publish_failed",
            Failed::Republish => "republish_failed",
            Failed::Unpublish => "unpublish_failed",
        }
    }
}

#[derive(Debug)]
struct Asked {
    name: String,
    failed: Failed,
    /// The row has said since that nothing has failed yet.
    is_tried: bool,
}

/// See the module: which mutation of a session asked for it last, by the key of the row.
#[derive(Debug, Default)]
pub(crate) struct Publications {
    asked: BTreeMap<String, Asked>,
}

/// A row that is written, or has changed.
#[derive(Deserialize)]
struct RowOf<'a> {
    #[serde(borrow)]
    table: Cow<'a, str>,
    #[serde(borrow)]
    row: BTreeMap<Cow<'a, str>, &'a RawValue>,
}

/// The names of the columns that tell of publishing.
struct Columns<'a> {
    key: &'a str,
    published: &'a str,
    edition: Option<&'a str>,
    error: &'a str,
}

fn columns<'a>(plan: &'a Plan, table: &str) -> Option<Columns<'a>> {
    plan.documents.iter().find_map(|kind| {
        let of = plan.table(kind.table);
        let publishing = kind.publishing.filter(|_| of.name == table)?;
        let name = |column: usize| of.catalog.columns[column].name.as_str();
        Some(Columns {
            key: name(kind.key),
            published: name(publishing.published),
            edition: publishing.edition.map(name),
            error: name(publishing.error?),
        })
    })
}

impl Publications {
    /// The client has sent a mutation of this name.
    pub(crate) fn asks(&mut self, plan: &Plan, name: &str, updates: Option<&RawValue>) {
        let updates = updates.map_or("null", RawValue::get);
        // What is wrong with it is told otherwise.
        let updates: Vec<RowOf<'_>> = serde_json::from_str(updates).unwrap_or_default();
        for RowOf { table, row } in updates {
            let Some(columns) = columns(plan, &table) else { continue };
            let Some(key) = row.get(columns.key) else { continue };
            let published = row.get(columns.published).map(|value| value.get());
            let is_republished = columns.edition.is_some_and(|edition| row.contains_key(edition));
            let failed = match published {
                Some("false") => Failed::Unpublish,
                Some(_) => Failed::Publish,
                None if is_republished => Failed::Republish,
                None => continue,
            };
            if self.asked.len() >= MOST_ASKED {
                self.asked.clear();
            }
            let asked = Asked { name: name.to_owned(), failed, is_tried: false };
            self.asked.insert(key.get().to_owned(), asked);
        }
    }

    /// What is to be told because of changes, a comma-separated list of `{op, table, row}`: names and codes.
    pub(crate) fn changed(&mut self, plan: &Plan, changes: &[u8]) -> Vec<(String, &'static str)> {
        if self.asked.is_empty() {
            return Vec::new();
        }
        let list = [b"[", changes, b"]"].concat();
        let changes: Vec<RowOf<'_>> = serde_json::from_slice(&list).unwrap_or_default();
        let mut told = Vec::new();
        for RowOf { table, row } in changes {
            let Some(columns) = columns(plan, &table) else { continue };
            let Some(key) = row.get(columns.key) else { continue };
            let Some(error) = row.get(columns.error) else { continue };
            let Some(asked) = self.asked.get_mut(key.get()) else { continue };
            if error.get() == "null" {
                asked.is_tried = true;
            } else if asked.is_tried {
                told.push((asked.name.clone(), asked.failed.code()));
                self.asked.remove(key.get());
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_told_where_no_column_says_it() {
        let plan = Plan::default();
        let mut publications = Publications::default();
        let updates = r#"[{"table":"file","event":"update","row":{"id":"a","published":true}}]"#;
        let updates: &RawValue = serde_json::from_str(updates).unwrap();
        publications.asks(&plan, "m", Some(updates));
        let change = br#"{"op":"put","table":"file","row":{"id":"a","publishError":"why"}}"#;
        assert_eq!(publications.changed(&plan, change), []);
    }
}
