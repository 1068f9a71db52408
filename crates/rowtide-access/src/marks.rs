//! What the stream says of documents: which are to be seen to, and where it cannot say which. Of a row that has changed
//! only what concerns publishing counts, so that what the server writes into rows itself makes nothing be done.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rowtide_documents::host::DocumentId;
use rowtide_feed::{Change, Changes, RowChange, Transaction};
use rowtide_plan::documents::{PlannedKind, PublishingColumns};
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::row::Row;
use serde_json::value::RawValue;

use crate::effects::Mark;
use crate::limits::MOST_KNOWN_ROWS;

/// What a row says of publishing, as the stream has it: whether, where, and which edition.
type Says = [String; 3];

/// What the stream said last, of each document that it spoke of. See the module.
#[derive(Debug, Default)]
pub(crate) struct StreamMarks {
    said: BTreeMap<DocumentId, Says>,
}

/// What a transaction comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Marked {
    /// Which documents are to be seen to, in order.
    pub(crate) documents: Vec<(DocumentId, Mark)>,
    /// Any document of some kinds may be.
    pub(crate) is_unknown: bool,
}

impl StreamMarks {
    /// Takes the next transaction of the stream.
    pub(crate) fn take(&mut self, plan: &Plan, transaction: &Transaction) -> Marked {
        let mut marked = Marked::default();
        let is_of_kind = |table: &TableId| plan.documents.iter().any(|kind| kind.table == *table);
        marked.is_unknown = transaction.truncated.iter().any(is_of_kind);
        let changes: &[Change] = match &transaction.changes {
            Changes::Rows(changes) => changes,
            Changes::TooLarge(tables) => {
                marked.is_unknown |= tables.iter().any(is_of_kind);
                &[]
            }
        };
        if marked.is_unknown {
            self.said.clear();
        }
        for change in changes {
            for kind in plan.documents.iter().filter(|kind| kind.table == change.table) {
                let id = kind.id_of_key(change.key());
                let document = id.and_then(|id| DocumentId::new(&kind.name, &id).ok());
                // Of what no document can be called there is nothing.
                let Some(document) = document else { continue };
                let mark = match &change.row {
                    RowChange::Delete(_) => {
                        self.said.remove(&document);
                        Some(Mark::Deleted)
                    }
                    RowChange::Insert(row) => self.says(plan, kind, &document, row, true),
                    RowChange::Update { after, .. } => {
                        self.says(plan, kind, &document, after, false)
                    }
                };
                let mark = mark.map(|mark| match mark {
                    Mark::Changed(_) => Mark::Changed(Some(transaction.xid)),
                    Mark::Deleted => Mark::Deleted,
                });
                marked.documents.extend(mark.map(|mark| (document, mark)));
            }
        }
        marked
    }

    /// Whether what a row says is news.
    fn says(
        &mut self,
        plan: &Plan,
        kind: &PlannedKind,
        document: &DocumentId,
        row: &Row,
        is_new: bool,
    ) -> Option<Mark> {
        let says = says(plan, kind, kind.publishing?, row);
        if self.said.len() >= MOST_KNOWN_ROWS {
            self.said.clear();
        }
        let is_published = says[0] == "true";
        let before = self.said.insert(document.clone(), says.clone());
        // Of a row that has just come nothing is published yet.
        let is_news = if is_new { is_published } else { before.as_ref() != Some(&says) };
        is_news.then_some(Mark::Changed(None))
    }
}

fn says(plan: &Plan, kind: &PlannedKind, columns: PublishingColumns, row: &Row) -> Says {
    let table = plan.table(kind.table);
    let read: BTreeMap<Cow<'_, str>, &RawValue> =
        serde_json::from_slice(&row.json).unwrap_or_default();
    let says = |column: usize| {
        let of = &table.catalog.columns[column];
        if let Some(kept) = table.kept.iter().position(|kept| *kept == column)
            && !table.is_sent(column)
        {
            return row
                .image
                .kept
                .get(kept)
                .and_then(|value| value.to_text(&of.kind))
                .unwrap_or_default();
        }
        let value = read.get(of.name.as_str());
        value.map_or_else(String::new, |value| value.get().to_owned())
    };
    let edition = columns.edition.map_or_else(String::new, says);
    [says(columns.published), says(columns.slug), edition]
}
