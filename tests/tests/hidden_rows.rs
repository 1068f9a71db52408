//! Rows that a writer may not see: no mutation holds up those who may, and no answer tells of them more than the
//! constraints of the database do.

use rowtide_client::{Event, Status};
use rowtide_tests::{App, PATIENCE, Writer, delete, eventually, held, insert, truth, update};
use serde_json::{Value, json};
use tokio::time::timeout;

const DEFINITION: &str = r#"
[tables.item]
visible = "owner = auth.user_id OR shared"
[tables.item.insert]
allow = 'new.owner = auth.user_id'
[[tables.item.insert.limit]]
where = 'owner = auth.user_id'
max = 2
code = "too_many_items"
[[tables.item.update]]
allow = 'old.owner = auth.user_id'
[tables.item.delete]
allow = 'old.owner = auth.user_id'

[tables.part]
visible = "owner = auth.user_id"
[tables.part.insert]
allow = 'new.owner = auth.user_id AND new.item IN (SELECT id FROM item WHERE owner = auth.user_id)'
"#;

/// Whoever writes the row `slow` waits for whoever has the lock.
const TABLES: &str = "
CREATE TABLE item (id text PRIMARY KEY, owner text NOT NULL, shared bool NOT NULL DEFAULT false, n int);
CREATE TABLE part (id text PRIMARY KEY, owner text NOT NULL, item text REFERENCES item);
INSERT INTO item VALUES ('hidden', 'ann', false), ('shown', 'ann', true), ('slow', 'eve', false);
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NEW.id = 'slow' THEN PERFORM pg_advisory_xact_lock(1); END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER wait BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION wait();";

fn set(id: &str) -> Value {
    update("item", json!({ "id": id, "n": 1 }))
}

/// Whoever waits for a lock of these tests waits for as long as they run: it is given up after five seconds, and asked for
/// again.
async fn at_once<T>(what: &str, wait: impl Future<Output = T>) -> T {
    let waited = timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("{what} waits"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_one_may_not_see_is_neither_waited_for_nor_locked() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut eve = Writer::live(&app, "eve").await;
    eve.mutate(json!([update("item", json!({ "id": "hidden", "n": 1 }))]))
        .await
        .rejected("not_found", "`item`");
    let owner = app.database.connect().await;
    owner.batch_execute("BEGIN; SELECT 1 FROM item WHERE id = 'hidden' FOR UPDATE").await.unwrap();
    for ops in [
        json!([set("hidden")]),
        json!([delete("item", json!({ "id": "hidden" }))]),
        json!([set("hidden"), set("hidden")]),
    ] {
        at_once("the mutation", eve.mutate(ops)).await.rejected("not_found", "`item`");
    }
    let over = insert("item", json!({ "id": "hidden", "owner": "eve" }));
    at_once("an insert", eve.mutate(json!([over]))).await.rejected("forbidden", "key is taken");
    // Nor by a foreign key, where the rule looks whether the writer sees what is referred to.
    let part = insert("part", json!({ "id": "p", "owner": "eve", "item": "hidden" }));
    at_once("a reference", eve.mutate(json!([part]))).await.rejected("forbidden", "");
    owner.batch_execute("COMMIT").await.unwrap();
}

/// Each has locked a row of their own when it comes to the other's hidden one: there a deadlock would begin.
#[tokio::test(flavor = "multi_thread")]
async fn two_who_mean_to_deadlock_over_hidden_rows_hold_up_nobody() {
    let app = App::with(DEFINITION, TABLES).await;
    let (mut eve, mut ann) = (Writer::live(&app, "eve").await, Writer::live(&app, "ann").await);
    let sql = app.database.connect().await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    sql.batch_execute("INSERT INTO item VALUES ('own', 'eve', false)").await.unwrap();
    for _ in 0..20 {
        let one = eve.send(json!([set("own"), set("hidden")])).await;
        let other = ann.send(json!([set("hidden"), set("own")])).await;
        let owner = sql.batch_execute("UPDATE item SET n = 2 WHERE id IN ('own', 'hidden')");
        at_once("who owns them", owner).await.unwrap();
        for outcome in
            [at_once("the one", eve.outcome(one)), at_once("the other", ann.outcome(other))]
        {
            let (code, message) = outcome.await.rejected.unwrap();
            assert!(code == "not_found" && message.contains("ops[1]"), "{code}: {message}");
        }
    }
    assert_eq!(sql.query_one(deadlocks, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_rejection_nothing_is_locked_or_written() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut eve = Writer::live(&app, "eve").await;
    let other = app.database.connect().await;
    // Whoever came as far as to write it would wait.
    other.execute("SELECT pg_advisory_lock(1)", &[]).await.unwrap();
    for (first, code) in [
        (set("hidden"), "not_found"),
        (set("nowhere"), "not_found"),
        (set("shown"), "forbidden"),
        (delete("item", json!({ "id": "shown" })), "forbidden"),
        (insert("item", json!({ "id": "new", "owner": "ann" })), "forbidden"),
        (insert("part", json!({ "id": "p", "owner": "eve", "item": "hidden" })), "forbidden"),
    ] {
        let ops = json!([first, set("slow")]);
        at_once("what is behind", eve.mutate(ops.clone())).await.rejected(code, "ops[0]");
    }
    // A number that was acknowledged before does nothing, either.
    let last = eve.next() - 1;
    eve.send_as(last, json!([set("slow")])).await;
    at_once("a repeat", eve.outcome(last)).await.rejected("forbidden", "ops[0]");
    other.execute("SELECT pg_advisory_unlock(1)", &[]).await.unwrap();
    // All of it is done where nothing is rejected; the second sees what the first did.
    let ops = json!([
        insert("item", json!({ "id": "a", "owner": "eve", "n": 1 })),
        insert("item", json!({ "id": "a", "n": 2, "owner": "eve" })),
        set("slow"),
        delete("item", json!({ "id": "slow" })),
        insert("item", json!({ "id": "b", "owner": "eve" })),
    ]);
    eve.mutate(ops).await.applied();
    let left = "SELECT string_agg(id || coalesce(n, 0), ' ' ORDER BY id) FROM item";
    assert_eq!(app.one(left).await, "a2 b0 hidden0 shown0");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_word_and_no_code_tells_whether_a_hidden_row_is_there() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut eve = Writer::live(&app, "eve").await;
    let mut told = async |ops: Value| eve.mutate(ops).await.rejected;
    let part =
        |item: &str| json!([insert("part", json!({ "id": "p", "owner": "eve", "item": item }))]);
    let foreign = |id: &str| json!([insert("item", json!({ "id": id, "owner": "ann" }))]);
    let own = |id: &str| json!([insert("item", json!({ "id": id, "owner": "eve" }))]);
    for (what, of) in [
        ("an update", &(|id: &str| json!([set(id)])) as &dyn Fn(&str) -> Value),
        ("a delete", &|id: &str| json!([delete("item", json!({ "id": id }))])),
        ("an insert that refers to it", &part),
        ("an insert over it for its owner", &foreign),
    ] {
        let hidden = told(of("hidden")).await;
        assert!(hidden.is_some(), "{what} is applied");
        assert_eq!(hidden, told(of("nowhere")).await, "{what}");
    }
    // Of one's own there cannot be another with its key: that it fails tells of it, but not the words.
    let taken = told(own("hidden")).await.unwrap();
    assert_eq!(Some(taken), told(foreign("hidden")).await);
    // And not even that beyond a limit.
    assert_eq!(told(own("e2")).await, None);
    assert_eq!(told(own("hidden")).await, told(own("e3")).await);
    assert_eq!(told(own("e3")).await.unwrap().0, "too_many_items");
}

/// A row that is replaced while a mutation waits for it is there all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_replaced_meanwhile_is_found() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut ann = Writer::live(&app, "ann").await;
    let other = app.database.connect().await;
    for (ops, left) in [
        (json!([set("hidden")]), "1"),
        (json!([set("shown"), set("hidden")]), "1"),
        (json!([insert("item", json!({ "id": "hidden", "owner": "ann", "n": 2 }))]), "2"),
        (json!([delete("item", json!({ "id": "hidden" }))]), "null"),
    ] {
        other
            .batch_execute(
                "BEGIN; DELETE FROM item WHERE id = 'hidden'; INSERT INTO item VALUES ('hidden', 'ann')",
            )
            .await
            .unwrap();
        let id = ann.send(ops.clone()).await;
        eventually("it waits for the row", || async {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                           AND datname = current_database() AND application_name = 'rowtide mutate'";
            (app.one(waiting).await == "1").then_some(())
        })
        .await;
        other.batch_execute("COMMIT").await.unwrap();
        assert_eq!(ann.outcome(id).await.rejected, None, "{ops}");
        let n = "SELECT (SELECT n FROM item WHERE id = 'hidden')";
        // A commit is streamed before it is seen.
        eventually(&format!("{ops} leaves {left}"), || async {
            (app.one(&format!("({n})")).await == left).then_some(())
        })
        .await;
    }
}

/// Rules that ask sets, arrays and what is not known, of a table `T`.
const ASKING: [&str; 13] = [
    "y NOT IN (SELECT y FROM pair WHERE person = auth.user_id)",
    "NOT EXISTS (SELECT 1 FROM pair AS p WHERE p.y = T.y AND person = auth.user_id)",
    "(x, y) IN (SELECT x, y FROM pair WHERE person = auth.user_id)",
    "(x, y) NOT IN (SELECT x, y FROM pair WHERE person = auth.user_id)",
    "EXISTS (SELECT 1 FROM pair WHERE person = auth.user_id AND x = 3)",
    "x IN (SELECT x FROM pair) AND x IN (SELECT x FROM pair WHERE person = auth.user_id)",
    "NOT (x IN (SELECT x FROM pair WHERE person = auth.user_id) OR y IS NULL)",
    "(x IN (SELECT x FROM pair WHERE person = auth.user_id)) IS NOT TRUE",
    "(y NOT IN (SELECT y FROM pair WHERE person = auth.user_id)) IS NOT FALSE",
    "coalesce(x IN (SELECT x FROM pair WHERE person = auth.user_id), true)",
    "auth.user_id = ANY (people) OR x BETWEEN 2 AND 3 AND y IS DISTINCT FROM 'c'",
    "NOT (auth.user_id = ANY (people))",
    "x::text IN ('1', '03') AND x NOT IN (SELECT x FROM pair WHERE auth.user_id = ANY (people))",
];

/// What a client is sent, what SQL says of the rule, and what an update finds is one and the same.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_write_all_writes_those_rows_that_sql_shows_them() {
    let mut definition = "[tables.pair]\nvisible = 'true'\n".to_owned();
    let mut tables = "
        CREATE TABLE pair (person text, x int, y text, people text[], id serial PRIMARY KEY);
        INSERT INTO pair VALUES ('u1', 1, 'a', '{u1}'), ('u1', NULL, 'b', '{}'), ('u2', 2, NULL, '{u3,NULL}'),
          ('u3', 3, 'c', NULL);"
        .to_owned();
    for (index, rule) in ASKING.iter().enumerate() {
        let rule = rule.replace("T.", &format!("t{index}."));
        definition += &format!(
            "[tables.t{index}]\nvisible = \"{rule}\"\n[[tables.t{index}.update]]\nallow = 'true'\n"
        );
        tables += &format!(
            "CREATE TABLE t{index} (id int PRIMARY KEY, x int, y text, n int, people text[]);
             INSERT INTO t{index} VALUES (1, 1, 'a', 0, '{{u1}}'), (2, 1, NULL, 0, '{{u2,u3}}'), (3, 2, 'b', 0, NULL),
               (4, NULL, 'a', 0, '{{}}'), (5, NULL, NULL, 0, '{{u1,NULL}}'), (6, 3, 'c', 0, '{{NULL}}');"
        );
    }
    let app = App::with(&definition, &tables).await;
    let sql = app.database.connect().await;
    for user in ["u1", "u2", "u3"] {
        let shown = truth(&sql, &definition, user).await;
        let mut client = app.client(user);
        while client.next().await != Some(Event::Status(Status::Live)) {}
        assert_eq!(held(&client.replica()), shown, "{user}");
        let mut writer = Writer::live(&app, user).await;
        for (index, rule) in ASKING.iter().enumerate() {
            let (table, rows) = (format!("t{index}"), &shown[&format!("t{index}")]);
            for id in 1..7 {
                let set = json!([update(&table, json!({ "id": id, "n": 0 }))]);
                let applied = writer.mutate(set).await.rejected.is_none();
                let is_shown = rows.iter().any(|row| row.contains(&format!("\"id\":{id},")));
                assert_eq!(applied, is_shown, "{user}: {id} of {rule}, which shows {rows:?}");
            }
        }
    }
}
