//! `int8` as strings, where the definition asks for it, and as numbers elsewhere; who writes may use either.

use std::sync::Arc;

use rowtide_plan::definition::Definition;
use rowtide_tests::{App, Raw, Writer, delete, insert, update};
use serde_json::{Value, json};

use crate::kit::Stage;

const TABLE: &str = "
CREATE DOMAIN positive AS int8 CHECK (VALUE > 0);
CREATE TABLE item (id int8 PRIMARY KEY, owner text NOT NULL DEFAULT 'ann', at positive, many int8[], small int4, few int4[]);
INSERT INTO item VALUES (9007199254740993, 'ann', 9007199254740995, '{9007199254740997,NULL}', 5, '{6}');";

const RULES: &str = "
[tables.item]
visible = 'owner = auth.user_id AND at > 1'
[tables.item.insert]
allow = 'new.id > 0'
[[tables.item.update]]
allow = 'true'
[tables.item.delete]
allow = 'true'
";

fn strings() -> String {
    format!("[app]\nint8 = 'string'\n{RULES}")
}

fn put(row: &Value) -> Vec<Value> {
    vec![json!({ "op": "put", "table": "item", "row": row })]
}

/// A client that comes with a cursor or without: how it is brought up to date, its rows, and its cursor.
async fn comes(app: &App, cursor: Option<&Value>) -> (Value, Vec<Value>, Value) {
    let mut raw = Raw::open(app).await;
    raw.say(&Raw::connect_from(&App::token("ann"), cursor.and_then(Value::as_str))).await;
    let mode = raw.until("connected").await["mode"].clone();
    let mut rows = Vec::new();
    loop {
        let message = raw.hear().await.expect("it is brought up to date");
        match message["type"].as_str() {
            Some("ready") => return (mode, rows, message["cursor"].clone()),
            Some("snapshot") => rows.extend(message["rows"].as_array().expect("rows").clone()),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn int8_are_strings_where_the_definition_says_so() {
    let mut app = App::with(RULES, TABLE).await;
    let numbers = json!({
        "id": 9_007_199_254_740_993_i64, "owner": "ann", "at": 9_007_199_254_740_995_i64,
        "many": [9_007_199_254_740_997_i64, null], "small": 5, "few": [6],
    });
    let (_, rows, cursor) = comes(&app, None).await;
    assert_eq!(rows, [numbers]);
    // The same rows, written otherwise, are other rows to who holds them.
    app.stop_server().await;
    app.options().definition = Arc::new(Definition::parse("rowtide.toml", &strings()).unwrap());
    app.start_server().await;
    let row = json!({
        "id": "9007199254740993", "owner": "ann", "at": "9007199254740995",
        "many": ["9007199254740997", null], "small": 5, "few": [6],
    });
    let (mode, rows, cursor) = comes(&app, Some(&cursor)).await;
    assert_eq!((mode, rows), (json!("snapshot"), vec![row.clone()]));
    let mut ann = Writer::live(&app, "ann").await;
    for (id, at) in
        [(json!("9007199254740993"), json!("7")), (json!(9_007_199_254_740_993_i64), json!(8))]
    {
        let set = json!({ "id": id, "at": at, "many": [at, null], "small": 4 });
        let mut row = row.clone();
        let at = at.as_str().map_or_else(|| at.to_string(), str::to_owned);
        (row["at"], row["many"], row["small"]) = (json!(at), json!([at, null]), json!(4));
        assert_eq!(ann.mutate(json!([update("item", set)])).await.applied(), put(&row));
    }
    let other = json!({ "id": "9223372036854775807", "at": "2", "small": "4" });
    let said = "column `small` of table `item` takes a whole number";
    ann.mutate(json!([insert("item", other)])).await.rejected("bad_request", said);
    let last = json!({ "id": "9223372036854775807", "at": 2 });
    let changes = ann.mutate(json!([insert("item", last)])).await.applied();
    assert_eq!(changes[0]["row"]["id"], "9223372036854775807");
    let gone = json!({ "id": "9223372036854775807" });
    let told = vec![json!({ "op": "delete", "table": "item", "row": gone })];
    assert_eq!(ann.mutate(json!([delete("item", gone)])).await.applied(), told);
    // Over the log, too.
    let (mode, rows, _) = comes(&app, Some(&cursor)).await;
    assert_eq!((mode, rows), (json!("resume"), Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_may_use_strings_and_numbers_where_int8_are_numbers() {
    let app = App::with(RULES, TABLE).await;
    let mut ann = Writer::live(&app, "ann").await;
    for id in [json!("12"), json!(12)] {
        let row = json!({ "id": id, "at": id, "many": [id] });
        let changes = ann.mutate(json!([insert("item", row)])).await.applied();
        assert_eq!(changes[0]["row"]["id"], 12);
        assert_eq!(changes[0]["row"]["many"], json!([12]));
        let told = vec![json!({ "op": "delete", "table": "item", "row": { "id": 12 } })];
        assert_eq!(ann.mutate(json!([delete("item", json!({ "id": id }))])).await.applied(), told);
    }
    let no = json!({ "id": "12.0" });
    ann.mutate(json!([delete("item", no)])).await.rejected("bad_request", "`id`");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_follow_rows_whose_keys_are_strings() {
    let mut stage = Stage::new(&strings(), TABLE).await;
    let rows = "SELECT (to_jsonb(i) || jsonb_build_object('id', id::text, 'at', at::text, \
                'many', to_jsonb(many::text[])))::text FROM item i WHERE at > 1";
    stage.holds("item", rows).await;
    for statement in [
        "INSERT INTO item SELECT n, 'ann', n, ARRAY[n], n FROM generate_series(1, 20) n",
        "UPDATE item SET id = id + 100 WHERE id < 10",
        "DELETE FROM item WHERE id % 2 = 0",
        "UPDATE item SET at = 1 WHERE id = 103",
    ] {
        stage.run(statement).await;
        stage.holds("item", rows).await;
    }
}
