//! The row of a client in Rowtide's own table `client`: which number was settled last, and what was
//! refused under it. It is in the publication, and every settling writes it, so that the stream
//! carries the acknowledgement in the same transaction as the effects.

use rowtide_plan::sql::quote_identifier;
use rowtide_protocol::Refusal;

use super::{Number, Ticket};
use crate::connect::Names;

/// How many refusals of a client are kept for it to be told later.
pub(super) const KEPT_REFUSALS: u64 = 100;
/// How many names of an older client's mutations are kept to know a repeat by.
pub(super) const KEPT_NAMES: u64 = 1_000;

/// The statements about the row, as text.
pub(super) struct ClientRow {
    /// `$1` client, `$2` user, `$3` number: moves the row on from the number before. A row, if it did.
    pub(super) advance_given: String,
    /// `$1` client, `$2` user, `$3` name, `$4` refusal or null: moves the row on by one, if the name
    /// is new.
    pub(super) advance_next: String,
    /// `$1` client, `$2` user, `$3` number, `$4` refusals, `$5` the last number of these: as
    /// `advance_given`, and keeps what was refused.
    pub(super) refuse_given: String,
    /// `$1` client: whose the row is, and the last number; nobody moves it on until the transaction ends.
    pub(super) look: String,
    /// `$1` client, `$2` name: whose the row is, what was refused under the name, and whether it is known.
    pub(super) look_name: String,
    /// `$1` client, `$2` number: writes the row again, with what was refused from this number on. So it
    /// tells of every number that it acknowledges and that is not acknowledged by then.
    pub(super) touch: String,
    /// `$1` client, `$2` name, `$3` refusals or null: writes the row again for a name.
    pub(super) touch_name: String,
}

impl ClientRow {
    pub(super) fn new(names: &Names) -> ClientRow {
        let schema = quote_identifier(&names.schema);
        let client = format!("{schema}.client");
        let (refusal, named) = (format!("{schema}.refusal"), format!("{schema}.named_mutation"));
        let theirs = "client_id = $1::text AND user_id = $2::text";
        ClientRow {
            advance_given: format!(
                "UPDATE {client} SET last_mutation = $3::bigint, refused = NULL, name = NULL \
                 WHERE {theirs} AND last_mutation = $3::bigint - 1 RETURNING last_mutation"
            ),
            advance_next: format!(
                "WITH moved AS (UPDATE {client} SET last_mutation = last_mutation + 1, \
                 refused = $4::jsonb, name = $3::text WHERE {theirs} AND NOT EXISTS (SELECT FROM \
                 {named} WHERE client_id = $1::text AND name = $3::text) RETURNING last_mutation), \
                 kept AS (INSERT INTO {named} (client_id, name, number, refused) \
                 SELECT $1::text, $3::text, last_mutation, $4::jsonb FROM moved), \
                 forgotten AS (DELETE FROM {named} WHERE client_id = $1::text \
                 AND number <= (SELECT last_mutation FROM moved) - {KEPT_NAMES}) \
                 SELECT last_mutation FROM moved"
            ),
            refuse_given: format!(
                "WITH moved AS (UPDATE {client} SET last_mutation = $5::bigint, \
                 refused = $4::jsonb, name = NULL WHERE {theirs} \
                 AND last_mutation = $3::bigint - 1 RETURNING last_mutation), \
                 kept AS (INSERT INTO {refusal} (client_id, id, code, message) \
                 SELECT $1::text, id, code, message FROM moved, \
                 jsonb_to_recordset($4::jsonb) AS r(id bigint, code text, message text)), \
                 forgotten AS (DELETE FROM {refusal} WHERE client_id = $1::text AND id <= \
                 (SELECT id FROM {refusal}, moved WHERE client_id = $1::text \
                 ORDER BY id DESC OFFSET {KEPT_REFUSALS} - 1 LIMIT 1)) \
                 SELECT last_mutation FROM moved"
            ),
            look: format!(
                "SELECT user_id, last_mutation FROM {client} WHERE client_id = $1::text FOR UPDATE"
            ),
            look_name: format!(
                "SELECT c.user_id, n.refused::text, n.name IS NOT NULL FROM {client} AS c \
                 LEFT JOIN {named} AS n ON n.client_id = c.client_id AND n.name = $2::text \
                 WHERE c.client_id = $1::text"
            ),
            touch: format!(
                "UPDATE {client} SET name = NULL, refused = (SELECT jsonb_agg(jsonb_build_object(\
                 'id', id, 'code', code, 'message', message) ORDER BY id) FROM {refusal} \
                 WHERE client_id = $1::text AND id >= $2::bigint) WHERE client_id = $1::text"
            ),
            touch_name: format!(
                "UPDATE {client} SET name = $2::text, refused = $3::jsonb \
                 WHERE client_id = $1::text"
            ),
        }
    }
}

impl Ticket {
    /// The parameters by which the row is found and moved on.
    pub(super) fn parameters(&self) -> Vec<Option<String>> {
        let number = match &self.number {
            Number::Given(number) => number.to_string(),
            Number::Next { name } => name.to_string(),
        };
        vec![Some(self.client.to_string()), Some(self.user_id.to_string()), Some(number)]
    }
}

/// Refusals as the row holds them.
pub(super) fn refusals_json(refusals: &[Refusal]) -> String {
    let refusals: Vec<serde_json::Value> = refusals
        .iter()
        .map(|refusal| {
            serde_json::json!({
                "id": refusal.id, "code": refusal.code, "message": refusal.message
            })
        })
        .collect();
    serde_json::Value::Array(refusals).to_string()
}
