//! The row of a client in Rowtide's own table `client`. It has the last acknowledged number, and the
//! rejection under that number if there was one. The table is in the publication, and every acknowledgement
//! writes the row, so the stream has the acknowledgement in the same transaction as the effects.

use rowtide_plan::sql::quote_identifier;
use rowtide_plan::write::{GO_ON, REFERABLE_MUTATIONS};
use rowtide_protocol::Rejected;

use super::{Number, Ticket};
use crate::connect::Names;

/// How many rejections of a client are stored, for a client that comes back.
pub(super) const KEPT_REJECTIONS: u64 = 100;
/// How many names of a user's older clients are stored, to recognize a repeat.
pub(super) const KEPT_NAMES: u64 = 1_000;
/// How many of them, where the tab that sent a mutation is not known to have heard what became of it.
pub(super) const KEPT_UNTOLD: u64 = 5_000;

/// How many keys are told again with a mutation that is sent again: all of its own, and some of those behind it.
pub(super) const REPEATED_KEYS: u64 = 1_000;

/// The SQL of the statements on the row.
pub(super) struct ClientRowSql {
    /// `$1` client, `$2` user, `$3` number: advances the row from the number before. Returns a row if it did, and
    /// lets the writes that follow begin.
    pub(super) advance_given: String,
    /// `$1` client, `$2` user, `$3` name, `$4` rejection or null, `$5` session: advances the row by one if the
    /// name is new. Makes the row if there is none, because these clients send nothing again. Names of a row
    /// that was there before go.
    pub(super) advance_next: String,
    /// `$1` client, `$2` user, `$3` number, `$4` rejections, `$5` the last number of these: as
    /// `advance_given`, and stores the rejections.
    pub(super) reject_given: String,
    /// Nothing of what later versions have added to the tables.
    pub(super) look_at_all: String,
    /// `$1` client: the row's user and last number. Locks the row until the transaction ends.
    pub(super) look: String,
    /// `$1` client, `$2` name: the row's user, the rejection under the name, and whether the name is known.
    pub(super) look_name: String,
    /// `$1` client, `$2` number, `$3` keys: writes the keys that the mutation of this number made into the row, which is at
    /// this number, and keeps them.
    pub(super) keep_keys: String,
    /// `$1` client, `$2` numbers, `$3` an operation of each: the number and the operation, the key that this made, or null,
    /// whether the mutation was rejected, and whether it made any.
    pub(super) look_keys: String,
    /// `$1` client, `$2` number: writes the row again, with all rejections from this number on, and the keys, of which the
    /// first come first. So the stream repeats the outcome of every number from this one to the last.
    pub(super) touch: String,
    /// `$1` client, `$2` name, `$3` rejections or null: writes the row again for a name.
    pub(super) touch_name: String,
}

impl ClientRowSql {
    pub(super) fn new(names: &Names) -> ClientRowSql {
        let schema = quote_identifier(&names.schema);
        let client = format!("{schema}.client");
        let (rejections, named) = (format!("{schema}.refusal"), format!("{schema}.named_mutation"));
        let made = format!("{schema}.made_key");
        let theirs = "client_id = $1::text AND user_id = $2::text";
        ClientRowSql {
            advance_given: format!(
                "UPDATE {client} SET last_mutation = $3::bigint, refused = NULL, keys = NULL, name = NULL \
                 WHERE {theirs} AND last_mutation = $3::bigint - 1 RETURNING last_mutation, {GO_ON}"
            ),
            advance_next: format!(
                "WITH moved AS (INSERT INTO {client} AS c \
                 (client_id, user_id, last_mutation, refused, name) \
                 SELECT $1::text, $2::text, 1, $4::jsonb, $3::text WHERE NOT EXISTS (SELECT FROM \
                 {named} WHERE client_id = $1::text AND name = $3::text) \
                 ON CONFLICT (client_id) DO UPDATE SET last_mutation = c.last_mutation + 1, \
                 refused = excluded.refused, keys = NULL, name = excluded.name, created_at = now() \
                 WHERE c.user_id = excluded.user_id RETURNING c.last_mutation), \
                 kept AS (INSERT INTO {named} (client_id, name, number, refused, session_id) \
                 SELECT $1::text, $3::text, last_mutation, $4::jsonb, $5::text FROM moved), \
                 evicted AS (DELETE FROM {named} AS n USING moved WHERE n.client_id = $1::text AND \
                 (n.told AND n.number <= last_mutation - {KEPT_NAMES} \
                 OR n.number <= last_mutation - {KEPT_UNTOLD} OR n.number >= last_mutation)) \
                 SELECT last_mutation, {GO_ON} FROM moved"
            ),
            reject_given: format!(
                "WITH moved AS (UPDATE {client} SET last_mutation = $5::bigint, \
                 refused = $4::jsonb, keys = NULL, name = NULL WHERE {theirs} \
                 AND last_mutation = $3::bigint - 1 RETURNING last_mutation), \
                 kept AS (INSERT INTO {rejections} (client_id, id, code, message) \
                 SELECT $1::text, id, code, message FROM moved, \
                 jsonb_to_recordset($4::jsonb) AS r(id bigint, code text, message text)), \
                 evicted AS (DELETE FROM {rejections} WHERE client_id = $1::text AND id <= \
                 (SELECT id FROM {rejections}, moved WHERE client_id = $1::text \
                 ORDER BY id DESC OFFSET {KEPT_REJECTIONS} - 1 LIMIT 1)) \
                 SELECT last_mutation FROM moved"
            ),
            look_at_all: format!("SELECT c.keys, m.key FROM {client} AS c, {made} AS m LIMIT 0"),
            look: format!(
                "SELECT user_id, last_mutation FROM {client} WHERE client_id = $1::text FOR UPDATE"
            ),
            look_name: format!(
                "SELECT c.user_id, n.refused::text, n.name IS NOT NULL FROM {client} AS c \
                 LEFT JOIN {named} AS n ON n.client_id = c.client_id AND n.name = $2::text \
                 WHERE c.client_id = $1::text"
            ),
            keep_keys: format!(
                "WITH kept AS (INSERT INTO {made} (client_id, id, op, key) \
                 SELECT $1::text, id, op, key FROM \
                 json_to_recordset($3::json) AS k(id bigint, op integer, key json) \
                 ON CONFLICT (client_id, id, op) DO UPDATE SET key = excluded.key), \
                 evicted AS (DELETE FROM {made} WHERE client_id = $1::text \
                 AND id <= $2::bigint - {REFERABLE_MUTATIONS}) \
                 UPDATE {client} SET keys = $3::json WHERE client_id = $1::text"
            ),
            look_keys: format!(
                "SELECT n.id, n.op, m.key::text, EXISTS (SELECT FROM {rejections} AS r \
                 WHERE r.client_id = $1::text AND r.id = n.id), EXISTS (SELECT FROM {made} AS o \
                 WHERE o.client_id = $1::text AND o.id = n.id) \
                 FROM unnest($2::bigint[], $3::bigint[]) AS n(id, op) \
                 LEFT JOIN {made} AS m ON m.client_id = $1::text AND m.id = n.id AND m.op = n.op"
            ),
            touch: format!(
                "UPDATE {client} SET name = NULL, refused = (SELECT jsonb_agg(jsonb_build_object(\
                 'id', id, 'code', code, 'message', message) ORDER BY id) FROM {rejections} \
                 WHERE client_id = $1::text AND id >= $2::bigint), \
                 keys = (SELECT json_agg(json_build_object('id', k.id, 'op', k.op, 'key', k.key) \
                 ORDER BY k.id, k.op) \
                 FROM (SELECT id, op, key FROM {made} WHERE client_id = $1::text \
                 AND id >= $2::bigint ORDER BY id, op LIMIT {REPEATED_KEYS}) AS k) \
                 WHERE client_id = $1::text"
            ),
            touch_name: format!(
                "UPDATE {client} SET name = $2::text, refused = $3::jsonb, keys = NULL \
                 WHERE client_id = $1::text"
            ),
        }
    }
}

impl Ticket {
    /// The parameters that find and advance the row.
    pub(super) fn parameters(&self) -> Vec<Option<String>> {
        let number = match &self.number {
            Number::Given(number) => number.to_string(),
            Number::Next { name, .. } => name.to_string(),
        };
        vec![Some(self.client.to_string()), Some(self.user_id.to_string()), Some(number)]
    }
}

/// Rejections in the form in which the row has them.
pub(super) fn rejections_json(rejections: &[Rejected]) -> String {
    let rejections: Vec<serde_json::Value> = rejections
        .iter()
        .map(|rejection| {
            serde_json::json!({
                "id": rejection.id, "code": rejection.code, "message": rejection.message
            })
        })
        .collect();
    serde_json::Value::Array(rejections).to_string()
}
