//! Between the engine's words and those of older clients. They hold three tables by name, are told
//! of each row by itself, and must be told whether a row is new to them: so it is kept here which rows
//! a session holds.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use rowtide_feed::Acknowledgement;
use rowtide_plan::plan::{Plan, Table};
use rowtide_plan::row::Row;
use rowtide_plan::write::{Tolerance, Write};
use rowtide_postgres::named_outcomes::NamedOutcome;
use rowtide_protocol::{Lsn, Op, OpKind, OpValue, RowOp};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    mutation_id: Option<String>,
    #[serde(borrow)]
    updates: Option<&'a RawValue>,
}

/// Name and updates of `{"type":"mutate","mutationId":"…","updates":[…]}`, the one message of an older client. The updates
/// are to be read by themselves, so that a mutation that has a name is rejected by it.
///
/// # Errors
/// With what it is instead, and nothing of what was sent: that may be anything.
pub(crate) fn mutation(text: &str) -> Result<(String, Option<&RawValue>), &'static str> {
    let message: Message<'_> =
        serde_json::from_str(text).map_err(|_| "one that is no JSON, or has no `type`")?;
    if message.r#type != "mutate" {
        return Err("one of another `type` than `mutate`");
    }
    let name = message.mutation_id.ok_or("a `mutate` without a `mutationId`")?;
    Ok((name, message.updates))
}

#[derive(Debug, Deserialize)]
pub(crate) struct Update {
    table: String,
    event: OpKind,
    row: BTreeMap<String, Box<RawValue>>,
}

impl Update {
    /// The operation that it asks for; `None` if nothing is left of it. Columns that may never be
    /// written are left out, as those clients expect.
    pub(crate) fn op(mut self, plan: &Plan) -> Option<Op> {
        let found = plan.tables.iter().find(|t| t.published && t.name == self.table);
        let mut empty = false;
        if let Some(table) = found {
            let is = |column: &String| table.sent_column(column);
            let key = |column: &String| is(column).is_some_and(|at| table.key.contains(&at));
            let rules = &table.write;
            self.row.retain(|column, _| {
                let Some(at) = is(column) else { return true };
                key(column)
                    || match self.event {
                        OpKind::Insert => !rules.readonly.contains(&at),
                        OpKind::Update => {
                            !rules.readonly.contains(&at) && !rules.immutable.contains(&at)
                        }
                        OpKind::Delete => false,
                    }
            });
            empty = self.event == OpKind::Update && self.row.keys().all(key);
        }
        let row = self.row.into_iter().map(|(column, json)| (column, OpValue::Json(json)));
        let op = RowOp { kind: self.event, table: self.table, row: row.collect() };
        (!empty).then_some(Op::Row(op))
    }
}

/// What older clients expect of a write. Two tabs insert the same row at once, each with its own time: what only an
/// insert may write is then left out, but not whose a file is. A state that is gone already is as it should be.
pub(crate) fn tolerance(plan: &Plan, write: &Write) -> Tolerance {
    let table = plan.table(write.table);
    let is_left_out = |column: &usize| {
        table.write.immutable.contains(column)
            && !table.key.contains(column)
            && table.catalog.columns[*column].name != "ownerId"
    };
    let left_out = match write.kind {
        OpKind::Insert => write.values.iter().map(|(at, _)| *at).filter(is_left_out).collect(),
        OpKind::Update | OpKind::Delete => Vec::new(),
    };
    let missing = write.kind != OpKind::Insert && table.catalog.name == "file_state";
    Tolerance { missing, left_out }
}

/// A change as the engine says it.
#[derive(Deserialize)]
struct Change<'a> {
    op: &'a str,
    #[serde(borrow)]
    table: Cow<'a, str>,
    #[serde(borrow)]
    row: &'a RawValue,
}

/// What a session holds.
pub(crate) struct Held {
    user_id: String,
    /// The table and key of each row.
    rows: HashSet<(String, String)>,
    /// The rows of a snapshot that is not complete yet.
    arriving: BTreeMap<String, Vec<Arc<Row>>>,
}

impl Held {
    pub(crate) fn new(user_id: &str) -> Held {
        let user_id = user_id.to_owned();
        Held { user_id, rows: HashSet::new(), arriving: BTreeMap::new() }
    }

    /// Takes rows of a new replica.
    pub(crate) fn arrive(&mut self, table: &Table, rows: Vec<Arc<Row>>) {
        self.arriving.entry(table.name.clone()).or_default().extend(rows);
    }

    /// The message that replaces what the client has.
    pub(crate) fn initial_data(&mut self, plan: &Plan, lsn: Lsn) -> String {
        let arriving = std::mem::take(&mut self.arriving);
        self.rows.clear();
        for (table, rows) in &arriving {
            let keys = rows.iter().filter_map(|row| Held::key(plan, table, text(&row.image.key)));
            self.rows.extend(keys);
        }
        let list = |table: &str| {
            let rows = arriving.get(table).into_iter().flatten();
            let rows: Vec<&str> = rows.map(|row| text(&row.json)).collect();
            rows.join(",")
        };
        let own_key = Held::key(plan, "user", &json!({ "id": self.user_id }).to_string());
        let own = arriving
            .get("user")
            .into_iter()
            .flatten()
            .find(|row| Held::key(plan, "user", text(&row.image.key)) == own_key)
            .map_or("null", |row| text(&row.json));
        let (files, states) = (list("file"), list("file_state"));
        format!(
            "{{\"type\":\"initial_data\",\"initialData\":{{\"user\":{own},\"files\":[{files}],\
             \"fileStates\":[{states}],\"lsn\":\"{lsn}\"}}}}"
        )
    }

    /// The messages for changes: a comma-separated list of `{op, table, row}`.
    pub(crate) fn updates(&mut self, plan: &Plan, changes: &[u8]) -> Vec<String> {
        let list = format!("[{}]", text(changes));
        let changes: Vec<Change<'_>> = match serde_json::from_str(&list) {
            Ok(changes) => changes,
            Err(error) => unreachable!("the engine says changes as JSON: {error}"),
        };
        changes.into_iter().filter_map(|change| self.update(plan, &change)).collect()
    }

    fn update(&mut self, plan: &Plan, change: &Change<'_>) -> Option<String> {
        let key = Held::key(plan, &change.table, change.row.get())?;
        let event = match change.op {
            "delete" => {
                self.rows.remove(&key);
                "delete"
            }
            _ if self.rows.insert(key) => "insert",
            _ => "update",
        };
        let (table, row) = (json!(change.table), change.row);
        Some(format!(
            "{{\"type\":\"update\",\"update\":{{\"table\":{table},\"event\":\"{event}\",\
             \"row\":{row}}}}}"
        ))
    }

    /// Table and key of a row, given its JSON or that of its key.
    fn key(plan: &Plan, table: &str, row: &str) -> Option<(String, String)> {
        let known = plan.tables.iter().find(|t| t.published && t.name == table)?;
        let row: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(row).ok()?;
        let column = |name: &String| Some(row.get(name.as_str())?.get());
        let values: Option<Vec<&str>> = known.catalog.primary_key.iter().map(column).collect();
        Some((table.to_owned(), values?.join(",")))
    }
}

fn text(json: &[u8]) -> &str {
    match std::str::from_utf8(json) {
        Ok(text) => text,
        Err(_) => unreachable!("rows are JSON made of UTF-8"),
    }
}

/// The names of the mutations that were applied, of those that are acknowledged.
pub(crate) fn applied(acknowledgements: &[Arc<Acknowledgement>]) -> Vec<&str> {
    let applied =
        acknowledgements.iter().filter(|acknowledgement| acknowledgement.rejected.is_empty());
    applied.filter_map(|acknowledgement| acknowledgement.name.as_deref()).collect()
}

/// The message about mutations that were applied, if any were.
pub(crate) fn commit(names: &[&str]) -> Option<String> {
    (!names.is_empty()).then(|| json!({ "type": "commit", "mutationIds": names }).to_string())
}

/// The messages about mutations of which it was not known what became of them.
pub(crate) fn outcomes(outcomes: &[NamedOutcome]) -> Vec<String> {
    let applied = outcomes.iter().filter(|one| one.rejected.is_none());
    let names: Vec<&str> = applied.map(|one| &*one.name).collect();
    let rejected =
        outcomes.iter().filter_map(|one| Some(reject(&one.name, one.rejected.as_ref()?)));
    commit(&names).into_iter().chain(rejected).collect()
}

/// The message about a mutation that was rejected.
pub(crate) fn reject(mutation_id: &str, code: &str) -> String {
    json!({ "type": "reject", "mutationId": mutation_id, "errorCode": error_code(code) })
        .to_string()
}

/// The nearest of the codes that older clients know.
fn error_code(code: &str) -> &str {
    match code {
        "constraint" | "not_found" | "too_large" => "bad_request",
        "publish_failed"
        | "unpublish_failed"
        | "republish_failed"
        | "client_too_old"
        | "forbidden"
        | "bad_request"
        | "rate_limit_exceeded"
        | "max_files_reached" => code,
        _ => "unknown_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_older_clients_do_not_know_become_the_nearest() {
        for (code, told) in [
            ("constraint", "bad_request"),
            ("not_found", "bad_request"),
            ("too_large", "bad_request"),
            ("forbidden", "forbidden"),
            ("max_files_reached", "max_files_reached"),
            ("too_many_open_issues", "unknown_error"),
        ] {
            assert_eq!(error_code(code), told);
        }
    }
}
