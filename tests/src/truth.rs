//! What a user should hold, asked of Postgres itself: the `visible` rules as the definition writes
//! them, with the user's id in the place of `auth.user_id`.

use std::collections::{BTreeMap, BTreeSet};

use rowtide_client::Replica;
use tokio_postgres::Client;

/// The rows of each table, as JSON with sorted keys. Columns whose JSON is another than `to_jsonb`'s
/// (times, numerics) are left out.
pub type Rows = BTreeMap<String, BTreeSet<String>>;

const LEFT_OUT: [&str; 3] = ["created_at", "archived_at", "estimate"];

/// What `user` should hold now, in one statement and so as of one commit.
///
/// # Panics
/// When the definition cannot be read or Postgres refuses.
pub async fn truth(client: &Client, definition: &str, user: &str) -> Rows {
    let definition: toml::Table = definition.parse().expect("the definition is TOML");
    let tables = definition["tables"].as_table().expect("it has tables");
    let user = format!("'{}'", user.replace('\'', "''"));
    let parts: Vec<String> = tables
        .iter()
        .map(|(table, entry)| {
            let visible = entry["visible"].as_str().expect("a rule is text");
            let visible = visible.replace("auth.user_id", &user);
            let without: String = LEFT_OUT.iter().map(|column| format!(" - '{column}'")).collect();
            format!(
                "SELECT '{table}' AS name, (to_jsonb(\"{table}\".*){without})::text AS row \
                 FROM \"{table}\" WHERE {visible}"
            )
        })
        .collect();
    let sql = parts.join(" UNION ALL ");
    let rows = client.query(&sql, &[]).await.unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
    let mut truth: Rows = tables.keys().map(|table| (table.clone(), BTreeSet::new())).collect();
    for row in rows {
        let json: serde_json::Value = serde_json::from_str(row.get(1)).expect("it is JSON");
        truth.entry(row.get(0)).or_default().insert(json.to_string());
    }
    truth
}

/// What a replica holds, in the same form.
pub fn held(replica: &Replica) -> Rows {
    let rows = |table: &str| {
        let json = |row: &rowtide_client::Row| {
            let mut row = row.clone();
            for column in LEFT_OUT {
                row.remove(column);
            }
            serde_json::Value::Object(row).to_string()
        };
        (table.to_owned(), replica.rows(table).map(json).collect())
    };
    replica.tables().map(rows).collect()
}
