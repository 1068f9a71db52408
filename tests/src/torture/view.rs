//! What a client has of a document, and what is known of an edit.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use yrs::{Array, Doc, Transact};

/// How a document is edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Drawing,
    Note,
}

impl Kind {
    pub(super) const ALL: [Kind; 2] = [Kind::Drawing, Kind::Note];

    pub(super) fn path(self) -> &'static str {
        match self {
            Kind::Drawing => "/app/drawing",
            Kind::Note => "/doc/note",
        }
    }
}

/// What is known of an edit, by its mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was made, and nobody was told what became of that.
    Unknown,
    /// Somebody was told that it is saved, or was shown it.
    Saved,
    /// Its author was told that it does not count.
    Refused,
    /// It was to be taken back, and nobody was told what became of that.
    Doubtful,
    /// Its author was told that it is taken back.
    TakenBack,
}

/// What a client has of a document.
pub(super) enum View {
    Drawing { records: BTreeMap<String, Value>, clock: i64 },
    Note(Doc),
}

impl View {
    pub(super) fn new(kind: Kind) -> View {
        match kind {
            Kind::Drawing => View::Drawing { records: BTreeMap::new(), clock: -1 },
            Kind::Note => View::Note(Doc::new()),
        }
    }

    /// Everything in it, to be held against what others have.
    pub(super) fn content(&self) -> Vec<String> {
        match self {
            View::Drawing { records, .. } => {
                records.iter().map(|(id, record)| format!("{id} {record}")).collect()
            }
            View::Note(_) => self.marks(),
        }
    }

    /// The marks of edits in it.
    pub(super) fn marks(&self) -> Vec<String> {
        match self {
            View::Drawing { records, .. } => records
                .keys()
                .filter_map(|id| Some(id.strip_prefix("page:m-")?.to_owned()))
                .collect(),
            View::Note(doc) => {
                let marks = doc.get_or_insert_array("marks");
                let transaction = doc.transact();
                marks.iter(&transaction).map(|mark| mark.to_string(&transaction)).collect()
            }
        }
    }

    /// What a drawing is called.
    pub(super) fn name(&self) -> Option<String> {
        match self {
            View::Drawing { records, .. } => {
                Some(records.get("document:document")?["name"].as_str()?.to_owned())
            }
            View::Note(_) => None,
        }
    }

    pub(super) fn take_diff(&mut self, diff: &Value) {
        let View::Drawing { records, .. } = self else { return };
        for (id, op) in diff.as_object().into_iter().flatten() {
            match op[0].as_str() {
                Some("put") => drop(records.insert(id.clone(), op[1].clone())),
                Some("remove") => drop(records.remove(id)),
                _ => {
                    let Some(record) = records.get_mut(id) else { continue };
                    for (key, value) in op[1].as_object().into_iter().flatten() {
                        if value[0] == "put" {
                            record[key] = value[1].clone();
                        }
                        if value[0] == "append" {
                            let (text, more) = (record[key].as_str(), value[1].as_str());
                            let text = text.unwrap_or_default().to_owned();
                            record[key] = Value::from(text + more.unwrap_or_default());
                        }
                    }
                }
            }
        }
    }

    pub(super) fn saw_clock(&mut self, now: &Value) {
        if let (View::Drawing { clock, .. }, Some(now)) = (self, now.as_i64()) {
            *clock = now;
        }
    }
}

pub(super) fn page(mark: &str) -> Value {
    json!({
        "id": format!("page:m-{mark}"), "typeName": "page", "name": mark, "index": "a2", "meta": {},
    })
}
