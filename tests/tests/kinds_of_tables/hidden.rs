//! Columns that clients do not get: in no message, live or by the log, and in nothing that is kept for them; rules go by them
//! all the same, and who writes is told that there is no such column.

use std::path::Path;
use std::sync::Arc;

use rowtide_plan::definition::Definition;
use rowtide_tests::{App, Raw, Writer, insert, update};
use serde_json::{Value, json};

use crate::kit::{Operator, Stage};

const TABLE: &str = "
CREATE TABLE account (id int PRIMARY KEY, owner text NOT NULL, name text,
  password text NOT NULL DEFAULT 's3cret', tier text NOT NULL DEFAULT 'free');
CREATE INDEX ON account (owner);
INSERT INTO account VALUES (1, 'ann', 'one', 's3cret 1', 'free'), (2, 'bob', 'two', 's3cret 2', 'free');";

const VISIBLE: &str = "[tables.account]\nvisible = \"owner = auth.user_id OR tier = 'public'\"\n";

const DEFINITION: &str = r#"
[tables.account]
visible = "owner = auth.user_id OR tier = 'public'"
hidden = ["password", "tier"]
[tables.account.insert]
allow = "new.owner = auth.user_id AND new.tier = 'free'"
[[tables.account.insert.limit]]
where = "owner = auth.user_id AND tier = 'free'"
max = 3
code = "too_many_accounts"
[[tables.account.update]]
allow = "old.owner = auth.user_id AND old.password <> 's3cret locked'"
[tables.account.delete]
allow = "old.tier = 'free'"
"#;

/// What ann holds, and what she does not get of it.
const HELD: &str = "SELECT (to_jsonb(a) - 'password' - 'tier')::text FROM account a \
                    WHERE owner = 'ann' OR tier = 'public'";

/// Every byte of the files in a directory.
fn bytes_in(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(dir).expect("the directory is there") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => bytes.extend(bytes_in(&path)),
            false => bytes.extend(std::fs::read(&path).expect("a file")),
        }
    }
    bytes
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Everything that one is told up to `ready`, the cursor of it among that.
async fn told(app: &App, cursor: Option<&Value>) -> (Vec<Value>, Value) {
    let mut raw = Raw::open(app).await;
    raw.say(&Raw::connect_from(&App::token("ann"), cursor.and_then(Value::as_str))).await;
    let mut messages = Vec::new();
    loop {
        let text = raw.hear_text().await.expect("it is brought up to date");
        assert!(!text.contains("s3cret"), "{text}");
        let message: Value = serde_json::from_str(&text).expect("it is JSON");
        if message["type"] == "ready" {
            return (messages, message["cursor"].clone());
        }
        messages.push(message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_go_by_hidden_columns_and_nobody_is_sent_them() {
    let mut stage = Stage::new(DEFINITION, TABLE).await;
    stage.holds("account", HELD).await;
    for statement in [
        "UPDATE account SET name = 'renamed'",
        "UPDATE account SET tier = 'public' WHERE id = 2",
        "UPDATE account SET name = 'public', password = 's3cret 3' WHERE id = 2",
        "UPDATE account SET tier = 'free' WHERE id = 2",
        "INSERT INTO account VALUES (3, 'eve', 'three', 's3cret 3', 'public'), (4, 'ann', 'four', 's3cret 4', 'free')",
        "DELETE FROM account WHERE id = 3",
        "UPDATE account SET id = 5, password = 's3cret 5' WHERE id = 4",
    ] {
        stage.run(statement).await;
        stage.holds("account", HELD).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_value_is_in_no_message_and_in_no_log() {
    let mut app = App::with(DEFINITION, TABLE).await;
    let (first, cursor) = told(&app, None).await;
    let row = json!({ "id": 1, "owner": "ann", "name": "one" });
    assert!(first.iter().any(|message| message["rows"] == json!([row])), "{first:?}");
    let mut live = Writer::live(&app, "ann").await;
    let sql = app.database.connect().await;
    // What changes nothing that anybody reads is told to nobody.
    sql.batch_execute("UPDATE account SET password = 's3cret 7' WHERE id = 1").await.unwrap();
    sql.batch_execute("UPDATE account SET name = 'a name that is logged'").await.unwrap();
    let row = json!({ "id": 1, "owner": "ann", "name": "a name that is logged" });
    let put = json!([{ "op": "put", "table": "account", "row": row }]);
    assert_eq!(Value::from(live.hears().await), put);
    let (back, cursor) = told(&app, Some(&cursor)).await;
    assert_eq!(back[0]["mode"], "resume");
    let changes: Vec<&Value> = back.iter().filter(|message| message["type"] == "tx").collect();
    assert!(matches!(changes[..], [tx] if tx["changes"] == put), "{back:?}");
    app.stop_server().await;
    let log = bytes_in(&app.options().log.dir.clone());
    assert!(holds(&log, "a name that is logged") && !holds(&log, "s3cret"));
    // Whoever comes back to a definition that hides more has nothing left of it.
    let hiding = DEFINITION.replace(r#"["password""#, r#"["password", "name""#);
    app.options().definition = Arc::new(Definition::parse("rowtide.toml", &hiding).unwrap());
    app.start_server().await;
    let (back, _) = told(&app, Some(&cursor)).await;
    assert_eq!(back[0]["mode"], "snapshot", "{back:?}");
    let row = json!({ "id": 1, "owner": "ann" });
    assert!(back.iter().any(|message| message["rows"] == json!([row])), "{back:?}");
    app.stop_server().await;
    assert!(!holds(&bytes_in(&app.options().log.dir.clone()), "a name that is logged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_is_told_of_no_hidden_column() {
    let app = App::with(DEFINITION, TABLE).await;
    let mut ann = Writer::live(&app, "ann").await;
    for (column, value) in [("password", json!("mine")), ("tier", json!(1)), ("other", json!(1))] {
        let said = format!("table `account` has no column `{column}`");
        let row = json!({ "id": 1, "owner": "ann", column: value });
        ann.mutate(json!([update("account", row.clone())])).await.rejected("bad_request", &said);
        ann.mutate(json!([insert("account", row)])).await.rejected("bad_request", &said);
    }
    // What an insert leaves out has its default, and rules for writing judge that.
    let row = json!({ "id": 3, "owner": "ann", "name": "three" });
    let changes = ann.mutate(json!([insert("account", row.clone())])).await.applied();
    assert_eq!(changes, [json!({ "op": "put", "table": "account", "row": row })]);
    assert_eq!(app.one("SELECT password || tier FROM account WHERE id = 3").await, "s3cretfree");
    let sql = app.database.connect().await;
    sql.batch_execute("UPDATE account SET password = 's3cret locked' WHERE id = 3").await.unwrap();
    let rename = |id: i32| json!([update("account", json!({ "id": id, "name": "new" }))]);
    ann.mutate(rename(3)).await.rejected("forbidden", "no rule allows");
    ann.mutate(rename(1)).await.applied();
    let row = |id: i32| json!([insert("account", json!({ "id": id, "owner": "ann" }))]);
    ann.mutate(row(4)).await.applied();
    ann.mutate(row(5)).await.rejected("too_many_accounts", "");
    // What no client has given and the database does not take is said without its name.
    let takes_it_away = "DELETE FROM account;
        CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS
          $$BEGIN new.password := NULL; RETURN new; END$$;
        CREATE TRIGGER forget BEFORE INSERT ON account FOR EACH ROW EXECUTE FUNCTION forget()";
    sql.batch_execute(takes_it_away).await.unwrap();
    let rejected = ann.mutate(row(6)).await.rejected;
    let (code, message) = rejected.expect("it was rejected");
    assert_eq!(code, "constraint");
    assert!(message.contains("must not be null") && !message.contains("password"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_of_what_looks_like_a_secret_until_it_is_hidden() {
    let operator = Operator::new(VISIBLE, TABLE).await;
    let said = operator.is_set_up().await;
    let secret = "column \"password\" looks like a secret";
    assert!(said.contains(secret), "{said}");
    assert!(said.contains("hidden = [\"password\"] in [tables.account]"), "{said}");
    let operator = Operator::new(&format!("{VISIBLE}hidden = [\"password\"]\n"), TABLE).await;
    let said = operator.is_set_up().await;
    assert!(!said.contains(secret), "{said}");
}
