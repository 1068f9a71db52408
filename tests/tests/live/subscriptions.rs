//! Subscriptions: a client holds what it may see of what is synced always, and of what it has asked for.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rowtide_tests::{App, Bystander, Raw, Running, eventually, http_get, rowtide, said};
use serde_json::{Value, json};
use tokio_postgres::Client;

const DEFINITION: &str = r#"
[tables.channel]
visible = 'open OR id IN (SELECT channel FROM member WHERE person = auth.user_id)'
[tables.message]
sync = "on_demand"
visible = '''
  channel IN (SELECT id FROM channel
              WHERE open OR id IN (SELECT channel FROM member WHERE person = auth.user_id))
  AND author NOT IN (SELECT blocked FROM block WHERE person = auth.user_id)'''
update = [{ allow = 'author = auth.user_id' }]
[tables.reaction]
sync = "on_demand"
visible = 'true'

[queries.channel]
params = { channel = "int4" }
[queries.channel.select]
message = { where = 'channel = params.channel' }
reaction = { where = 'message IN (SELECT id FROM message WHERE channel = params.channel)' }

[queries.some]
params = { ids = "int4[]" }
[queries.some.select]
message = { where = 'id = ANY (params.ids)' }

[queries.by]
params = { author = "text = 'ann'" }
[queries.by.select]
message = { where = 'author = params.author' }

[queries.first]
params = { channel = "int4", count = "int8 = 3" }
[queries.first.select]
message = { where = 'channel = params.channel', order = 'author, id DESC', limit = 'params.count' }

[queries.newest]
[queries.newest.select]
message = { where = 'true', order = 'message.id desc', limit = 5 }
"#;

const TABLES: &str = "
CREATE TABLE channel (id int PRIMARY KEY, open bool NOT NULL);
CREATE TABLE member (channel int, person text, PRIMARY KEY (channel, person));
CREATE TABLE block (person text, blocked text, PRIMARY KEY (person, blocked));
CREATE TABLE message (id int PRIMARY KEY, channel int NOT NULL, author text NOT NULL, body text);
CREATE TABLE reaction (id int PRIMARY KEY, message int NOT NULL);
ALTER TABLE channel REPLICA IDENTITY FULL;
ALTER TABLE message REPLICA IDENTITY FULL;
ALTER TABLE reaction REPLICA IDENTITY FULL;
INSERT INTO channel SELECT n, n < 4 FROM generate_series(1, 6) AS n;
INSERT INTO member VALUES (4, 'ann'), (5, 'ann'), (4, 'bob');
INSERT INTO block VALUES ('ann', 'eve');
INSERT INTO message SELECT n, n % 6 + 1, (ARRAY['ann', 'bob', 'eve'])[n % 3 + 1], 'm' FROM generate_series(1, 600) AS n;
INSERT INTO reaction SELECT n, n % 60 + 1 FROM generate_series(1, 30) AS n;
";

/// A row by its table and key.
pub(super) type Rows = BTreeMap<(String, i64), Value>;

/// A client as a page of the protocol makes it: what it was told, and nothing else.
pub(super) struct Replica {
    pub(super) raw: Raw,
    pub(super) rows: Rows,
    /// How it came.
    pub(super) mode: String,
    cursor: String,
    /// What it has the rows of.
    subscribed: BTreeMap<u64, Value>,
    asked: BTreeMap<u64, Value>,
    errors: Vec<(u64, String)>,
}

fn key(table: &Value, row: &Value) -> (String, i64) {
    (table.as_str().unwrap().to_owned(), row["id"].as_i64().unwrap())
}

fn channel(id: u64, channel: i64) -> Value {
    json!({ "id": id, "query": "channel", "params": { "channel": channel } })
}

impl Replica {
    pub(super) async fn connect(
        app: &App,
        user: &str,
        subscriptions: &[Value],
        before: Option<Replica>,
    ) -> Replica {
        let mut raw = Raw::open(app).await;
        let mut connect = Raw::connect(&App::token(user));
        connect["subscriptions"] = subscriptions.into();
        let (mut rows, mut cursor) = (Rows::new(), String::new());
        if let Some(before) = before {
            connect["cursor"] = before.cursor.clone().into();
            (rows, cursor) = (before.rows, before.cursor);
        }
        raw.say(&connect).await;
        let subscribed =
            subscriptions.iter().map(|of| (of["id"].as_u64().unwrap(), of.clone())).collect();
        let (asked, errors) = (BTreeMap::new(), Vec::new());
        let mode = String::new();
        let mut replica = Replica { raw, rows, mode, cursor, subscribed, asked, errors };
        while replica.hear().await != "ready" {}
        replica
    }

    /// Takes one message in; returns its type.
    pub(super) async fn hear(&mut self) -> String {
        let message = self.raw.hear().await.unwrap();
        match message["type"].as_str().unwrap() {
            "connected" => {
                let features = message["features"].as_array().unwrap();
                assert!(features.contains(&"subscriptions".into()));
                message["mode"].as_str().unwrap().clone_into(&mut self.mode);
                if message["mode"] == "snapshot" {
                    self.rows.clear();
                }
            }
            "snapshot" => {
                for row in message["rows"].as_array().unwrap() {
                    self.rows.insert(key(&message["table"], row), row.clone());
                }
            }
            "ready" => message["cursor"].as_str().unwrap().clone_into(&mut self.cursor),
            "tx" => {
                for change in message["changes"].as_array().unwrap() {
                    let row = key(&change["table"], &change["row"]);
                    match change["op"].as_str().unwrap() {
                        "put" => self.rows.insert(row, change["row"].clone()),
                        _ => self.rows.remove(&row),
                    };
                }
                message["cursor"].as_str().unwrap().clone_into(&mut self.cursor);
                for id in message["subscribed"].as_array().into_iter().flatten() {
                    let asked = self.asked.remove(&id.as_u64().unwrap()).expect("it was asked for");
                    self.subscribed.insert(id.as_u64().unwrap(), asked);
                }
                for id in message["unsubscribed"].as_array().into_iter().flatten() {
                    self.subscribed.remove(&id.as_u64().unwrap()).expect("it was there");
                }
            }
            "subscription_error" => {
                let code = message["code"].as_str().unwrap().to_owned();
                self.subscribed.remove(&message["id"].as_u64().unwrap());
                self.asked.remove(&message["id"].as_u64().unwrap());
                self.errors.push((message["id"].as_u64().unwrap(), code));
            }
            other => panic!("{other}"),
        }
        message["type"].as_str().unwrap().to_owned()
    }

    async fn subscribe(&mut self, subscription: &Value) {
        let mut message = subscription.clone();
        message["type"] = "subscribe".into();
        self.asked.insert(subscription["id"].as_u64().unwrap(), subscription.clone());
        self.raw.say(&message).await;
    }

    async fn unsubscribe(&mut self, id: u64) {
        self.raw.say(&json!({ "type": "unsubscribe", "id": id })).await;
    }

    /// What SQL says that it holds.
    async fn truth(&self, sql: &Client, user: &str) -> Rows {
        let member = "SELECT channel FROM member WHERE person = $1::text";
        let visible = format!(
            "channel IN (SELECT id FROM channel WHERE open OR id IN ({member}))
             AND author NOT IN (SELECT blocked FROM block WHERE person = $1)"
        );
        let (mut channels, mut authors) = (vec![0], vec![String::new()]);
        let mut windows = String::new();
        for subscription in self.subscribed.values() {
            let params = &subscription["params"];
            let first = |condition: &str, order: &str, rows: i64| {
                format!(
                    "UNION (SELECT 'message', id, to_jsonb(message)::text FROM message WHERE {visible} AND {condition}
                            ORDER BY {order} LIMIT {rows})"
                )
            };
            match subscription["query"].as_str().unwrap() {
                "first" => {
                    let condition = format!("channel = {}", params["channel"]);
                    let rows = params["count"].as_i64().unwrap_or(3);
                    windows += &first(&condition, "author COLLATE \"C\", id DESC", rows);
                }
                "newest" => windows += &first("true", "id DESC", 5),
                "channel" => channels.push(params["channel"].as_i64().unwrap() as i32),
                _ => authors.push(params["author"].as_str().unwrap_or("ann").to_owned()),
            }
        }
        let all = format!(
            "SELECT 'channel', id, to_jsonb(channel)::text FROM channel WHERE open OR id IN ({member})
             UNION SELECT 'message', id, to_jsonb(message)::text FROM message
                 WHERE {visible} AND (channel = ANY ($2::int4[]) OR author = ANY ($3::text[]))
             UNION SELECT 'reaction', id, to_jsonb(reaction)::text FROM reaction
                 WHERE message IN (SELECT id FROM message WHERE channel = ANY ($2::int4[])) {windows}"
        );
        let rows = sql.query(&all, &[&user, &channels, &authors]).await.unwrap();
        let row = |row: &tokio_postgres::Row| {
            let key = (row.get::<_, String>(0), i64::from(row.get::<_, i32>(1)));
            (key, serde_json::from_str(row.get(2)).unwrap())
        };
        rows.iter().map(row).collect()
    }

    /// Hears until it holds what SQL says.
    async fn comes_to_have_the_truth(&mut self, sql: &Client, user: &str) {
        loop {
            let truth = self.truth(sql, user).await;
            if self.rows == truth && self.asked.is_empty() {
                return;
            }
            self.hear().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_holds_what_it_may_see_of_what_it_asks_for() {
    let app = App::with(DEFINITION, TABLES).await;
    let sql = app.database.connect().await;
    let mut ann = Replica::connect(&app, "ann", &[channel(7, 1), channel(8, 6)], None).await;
    ann.comes_to_have_the_truth(&sql, "ann").await;
    assert!(ann.rows.keys().any(|(table, _)| table == "message"));
    let mut rng = StdRng::seed_from_u64(5);
    let mut next = 10;
    for round in 0..100 {
        let (n, other) = (rng.random_range(1..7), rng.random_range(1..7));
        let id = rng.random_range(1..700);
        let statement = match rng.random_range(0..9) {
            0 => format!("UPDATE message SET channel = {n} WHERE id = {id}"),
            1 => format!("DELETE FROM message WHERE id = {id}"),
            2 => format!(
                "INSERT INTO message VALUES ({id}, {n}, 'bob', 'n') ON CONFLICT (id) DO UPDATE SET author = 'eve'"
            ),
            3 => format!("UPDATE channel SET open = NOT open WHERE id = {n}"),
            4 => format!(
                "DELETE FROM member WHERE channel = {n} AND person = 'ann'; \
                 INSERT INTO member VALUES ({other}, 'ann') ON CONFLICT DO NOTHING"
            ),
            5 => "DELETE FROM block".to_owned(),
            6 => "INSERT INTO block VALUES ('ann', 'eve') ON CONFLICT DO NOTHING".to_owned(),
            7 => format!(
                "DELETE FROM message WHERE id IN (SELECT id FROM message WHERE channel = {n} ORDER BY author, id DESC LIMIT 30)"
            ),
            _ => format!("UPDATE message SET body = 'x{round}' WHERE channel = {n}"),
        };
        sql.batch_execute(&format!("BEGIN; {statement}; COMMIT")).await.unwrap();
        match rng.random_range(0..5) {
            4 => {
                next += 1;
                let asked = match round % 3 {
                    0 => json!({ "id": next, "query": "newest" }),
                    1 => json!({ "id": next, "query": "first", "params": { "channel": n } }),
                    _ => {
                        json!({ "id": next, "query": "first", "params": { "channel": n, "count": 40 } })
                    }
                };
                ann.subscribe(&asked).await;
            }
            0 => {
                next += 1;
                ann.subscribe(&channel(next, other)).await;
            }
            1 => {
                next += 1;
                let params = json!({ "author": (["ann", "bob", "eve"])[round % 3] });
                ann.subscribe(&json!({ "id": next, "query": "by", "params": params })).await;
            }
            2 if !ann.subscribed.is_empty() => {
                let id = *ann.subscribed.keys().next().unwrap();
                ann.unsubscribe(id).await;
                while ann.subscribed.contains_key(&id) {
                    ann.hear().await;
                }
            }
            _ => {}
        }
        if round % 15 == 14 {
            // Away, while things change.
            let subscriptions: Vec<Value> = ann.subscribed.values().cloned().collect();
            let away = ann;
            sql.batch_execute(&format!("UPDATE message SET channel = {n} WHERE id % 7 = 0"))
                .await
                .unwrap();
            ann = Replica::connect(&app, "ann", &subscriptions, Some(away)).await;
        }
        ann.comes_to_have_the_truth(&sql, "ann").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_subscription_is_told_and_the_rest_goes_on() {
    let definition = format!("{}\n{DEFINITION}", Bystander::DEFINITION);
    let app = App::with(&definition, &format!("{TABLES}; {}", Bystander::TABLES)).await;
    let mut bystander = Bystander::of(&app).await;
    let sql = app.database.connect().await;
    let wrong = json!({ "id": 3, "query": "chanel" });
    let mut ann = Replica::connect(&app, "ann", &[channel(1, 1), wrong], None).await;
    assert_eq!(ann.errors, [(3, "bad_request".to_owned())]);
    let long = "x".repeat(5_000);
    for (id, (query, params)) in [
        ("nothing", json!({})),
        (&long[..], json!({})),
        ("channel", json!({})),
        ("channel", json!({ "channel": "one" })),
        ("channel", json!({ "channel": 1.5 })),
        ("channel", json!({ "channel": 3_000_000_000u64 })),
        ("channel", json!({ "channel": [1] })),
        ("channel", json!({ "channel": { "a": 1 } })),
        ("channel", json!({ "channel": true })),
        ("channel", json!({ "channel": 1, "other": 2 })),
        ("by", json!({ "author": 5 })),
        ("first", json!({ "channel": 1, "count": 10_001 })),
        ("first", json!({ "channel": 1, "count": 1_000_000_000_000u64 })),
        ("first", json!({ "channel": 1, "count": -1 })),
        ("first", json!({ "channel": 1, "count": null })),
        ("first", json!({ "channel": 1, "count": "many" })),
    ]
    .into_iter()
    .enumerate()
    {
        let id = id as u64 + 20;
        ann.errors.clear();
        ann.subscribe(&json!({ "id": id, "query": query, "params": params })).await;
        while ann.errors.is_empty() {
            ann.hear().await;
        }
        assert_eq!(ann.errors, [(id, "bad_request".to_owned())], "{params}");
    }
    // An id that was refused is free, null fits nothing, and a default stands for what is left out.
    ann.subscribe(&json!({ "id": 20, "query": "by", "params": {} })).await;
    ann.subscribe(&json!({ "id": 21, "query": "by", "params": { "author": null } })).await;
    ann.errors.clear();
    ann.unsubscribe(99).await;
    while ann.errors.is_empty() || !ann.asked.is_empty() {
        ann.hear().await;
    }
    assert_eq!(ann.errors, [(99, "bad_request".to_owned())]);
    ann.unsubscribe(21).await;
    while ann.subscribed.contains_key(&21) {
        ann.hear().await;
    }
    ann.comes_to_have_the_truth(&sql, "ann").await;
    // Over the limit.
    ann.errors.clear();
    for id in 100..260 {
        ann.subscribe(&channel(id, 1)).await;
    }
    while !ann.asked.is_empty() {
        ann.hear().await;
    }
    let too_many = ann.errors.iter().filter(|(_, code)| code == "too_many").count();
    assert_eq!((too_many, ann.errors.len(), ann.subscribed.len()), (62, 62, 100));
    ann.comes_to_have_the_truth(&sql, "ann").await;
    // Other tests are counted beside this one.
    let counted = |name: &'static str| {
        let page = http_get(&app, "/metrics");
        async move { page.await.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()) }
    };
    for (name, at_least) in [
        ("rowtide_subscriptions ", 100.0),
        ("rowtide_subscribes_total{result=\"taken\"}", 100.0),
        ("rowtide_subscribes_total{result=\"bad_request\"}", 12.0),
        ("rowtide_subscribes_total{result=\"too_many\"}", 62.0),
    ] {
        let count: Option<f64> = counted(name).await;
        assert!(count.is_some_and(|count| count >= at_least), "{name}: {count:?}");
    }
    // Of more than fits into `connect`, when she comes back.
    for id in 100..198 {
        ann.unsubscribe(id).await;
    }
    while ann.subscribed.contains_key(&197) {
        ann.hear().await;
    }
    ann.errors.clear();
    for id in 300..310 {
        let params = json!({ "author": "x".repeat(2_000) });
        ann.subscribe(&json!({ "id": id, "query": "by", "params": params })).await;
    }
    let all = "x".repeat(60_000);
    ann.subscribe(&json!({ "id": 310, "query": "by", "params": { "author": all } })).await;
    while !ann.asked.is_empty() {
        ann.hear().await;
    }
    assert!(ann.errors.iter().all(|(_, code)| code == "too_many"), "{:?}", ann.errors);
    let there: Vec<Value> = ann.subscribed.values().cloned().collect();
    assert!(there.len() > 7, "{}", there.len());
    ann = Replica::connect(&app, "ann", &there, Some(ann)).await;
    ann.comes_to_have_the_truth(&sql, "ann").await;
    // An id in use.
    ann.subscribe(&channel(300, 2)).await;
    ann.raw.ending().await.assert("an id in use", "bad_request");
    eventually("those of a session that has ended are not counted", || async {
        let count: Option<f64> = counted("rowtide_subscriptions ").await;
        count.filter(|count| *count < 100.0)
    })
    .await;
    bystander.assert_undisturbed(&app, "subscriptions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_demand_can_be_written_by_who_may_see_it() {
    let app = App::with(DEFINITION, TABLES).await;
    let sql = app.database.connect().await;
    let mut ann = Replica::connect(&app, "ann", &[], None).await;
    let update = |number: u64, id: i64| {
        let op = json!({ "op": "update", "table": "message", "row": { "id": id, "body": "new" } });
        json!({ "type": "mutate", "id": number, "ops": [op] })
    };
    // One that nobody has asked for, of an open channel; and one of a channel that is not for her.
    sql.batch_execute(
        "INSERT INTO message VALUES (1001, 1, 'ann', 'old'), (1002, 6, 'ann', 'old')",
    )
    .await
    .unwrap();
    ann.raw.say(&update(1, 1001)).await;
    ann.raw.say(&update(2, 1002)).await;
    loop {
        let message = ann.raw.hear().await.unwrap();
        assert!(message["type"] != "reject" || message["id"] == 2, "{message}");
        if message["type"] == "tx" && message["ack"] == 2 {
            break;
        }
    }
    let bodies =
        sql.query("SELECT body FROM message WHERE id > 1000 ORDER BY id", &[]).await.unwrap();
    let bodies: Vec<String> = bodies.iter().map(|row| row.get(0)).collect();
    assert_eq!(bodies, ["new", "old"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_was_sent_is_a_parameter_as_it_is() {
    let columns = [
        ("o", "bool", vec!["true", "false"]),
        ("i2", "int2", vec!["-32768"]),
        ("i8", "int8", vec!["9223372036854775807"]),
        ("f4", "float4", vec!["0.1", "NaN"]),
        ("f8", "float8", vec!["1e300", "-Infinity", "0.1"]),
        ("n", "numeric", vec!["12.50", "NaN", "1e40"]),
        ("s", "text", vec!["", "a\"b\\"]),
        ("u", "uuid", vec!["0190a000-0000-7000-8000-00000000abcd"]),
        ("b", "bytea", vec!["\\x", "\\x00ff10"]),
        ("d", "date", vec!["2026-02-28", "0044-03-15 BC", "12024-01-01", "infinity"]),
        ("t", "time", vec!["23:59:59.000001", "24:00"]),
        ("ts", "timestamp", vec!["2026-02-28 01:02:03.5", "-infinity", "12024-01-01 00:00"]),
        ("tz", "timestamptz", vec!["2026-02-28 01:02:03.5+02", "infinity", "0044-03-15 BC"]),
    ];
    let (mut definition, mut tables) = (String::new(), String::new());
    for (name, kind, values) in &columns {
        definition += &format!(
            "[tables.{name}]\nvisible = 'true'\n[tables.{name}_2]\nsync = 'on_demand'\nvisible = 'true'\n\
             [queries.{name}]\nparams = {{ v = '{kind}' }}\n[queries.{name}.select]\n{name}_2 = {{ where = 'v = params.v' }}\n\
             [queries.{name}_any]\nparams = {{ v = '{kind}[]' }}\n[queries.{name}_any.select]\n{name}_2 = {{ where = 'v = ANY (params.v)' }}\n"
        );
        for table in [(*name).to_owned(), format!("{name}_2")] {
            tables += &format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, v {kind}); ALTER TABLE {table} REPLICA IDENTITY FULL;"
            );
            for (id, value) in (1..).zip(values) {
                tables += &format!("INSERT INTO {table} VALUES ({id}, '{value}');");
            }
        }
    }
    let app = App::with(&definition, &tables).await;
    let mut ann = Replica::connect(&app, "ann", &[], None).await;
    let mut next = 0;
    for (name, _, values) in &columns {
        for at in 1..=values.len() as i64 {
            let value = ann.rows[&((*name).to_owned(), at)]["v"].clone();
            for (query, given) in
                [((*name).to_owned(), value.clone()), (format!("{name}_any"), json!([value, null]))]
            {
                next += 1;
                let of = json!({ "id": next, "query": query, "params": { "v": given } });
                ann.subscribe(&of).await;
                while !ann.asked.is_empty() {
                    ann.hear().await;
                }
                assert_eq!(ann.errors, [], "{of}");
                let table = format!("{name}_2");
                let held: Vec<&(String, i64)> =
                    ann.rows.keys().filter(|(of, _)| *of == table).collect();
                assert_eq!(held, [&(table.clone(), at)], "{of}");
                ann.unsubscribe(next).await;
                while ann.subscribed.contains_key(&next) {
                    ann.hear().await;
                }
            }
        }
    }
}

/// The words that end a `watch` which asks for what it cannot have.
async fn refused_watch(app: &App, args: &[&str]) -> String {
    let said = said(watch(app, args)).await;
    assert_eq!(said.code(), Some(1), "{said:?}");
    // A long sentence is broken into lines behind a rule.
    said.err.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
}

fn watch(app: &App, args: &[&str]) -> std::process::Command {
    let (token, url) = (App::token("ann"), app.url());
    rowtide([&["watch", "--token", &token, "--url", &url], args].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_watches_what_queries_select() {
    let app = App::with(DEFINITION, TABLES).await;
    let sql = app.database.connect().await;
    let args = ["--query", "channel", "--param", "channel=4", "--query", "by"];
    let some = ["--query", "some", "--param", "ids=[1004, 1005]"];
    let mut shown = Running::start(watch(&app, &[&args[..], &some].concat()));
    for line in ["subscribed to channel", "subscribed to by", "subscribed to some", "live"] {
        shown.line(line).await;
    }
    sql.batch_execute(
        "INSERT INTO message VALUES (1001, 5, 'bob', 'no'), (1002, 4, 'eve', 'no'), (1003, 4, 'bob', 'yes'), \
         (1004, 6, 'bob', 'no'), (1005, 5, 'bob', 'listed')",
    )
    .await
    .unwrap();
    shown.line(r#"message put {"author":"bob","body":"listed""#).await;
    shown.line(r#"message put {"author":"bob","body":"yes""#).await;
    sql.batch_execute("DELETE FROM member WHERE channel = 4 AND person = 'ann'").await.unwrap();
    shown.line(r#"message delete {"id":1003}"#).await;
    assert!(!shown.stop().await.out.contains(r#""no""#));
    for (args, words) in [
        (&["--query", "chanel"][..], "no query `chanel`; did you mean `channel`?"),
        (&["--query", "channel"], "needs the parameter `channel`, of type int4"),
        (&["--query", "channel", "--param", "channel=one"], "must be of type int4"),
        (&["--query", "by", "--param", "channel=1"], "no parameter `channel`"),
    ] {
        let begins = format!("the server refuses the query `{}`: ", args[1]);
        let said = refused_watch(&app, args).await;
        assert!(said.contains(&begins) && said.contains(words), "{said}");
    }
}
