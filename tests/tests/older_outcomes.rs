//! What became of mutations is told to the tab that sent them, also over a later connection: these clients send nothing
//! again, and show what they have sent over the rows until they hear of it.

use rowtide_postgres::check::check_own_tables;
use rowtide_postgres::setup::setup;
use rowtide_tests::{App, Older, eventually};
use serde_json::{Value, json};
use tokio_postgres::Client;

fn rename(file: &str, name: &str) -> Value {
    json!([{ "table": "file", "event": "update", "row": { "id": file, "name": name } }])
}

/// One that is rejected.
fn takes_over() -> Value {
    json!([{ "table": "file", "event": "insert", "row": { "id": "x", "ownerId": "editor" } }])
}

/// What was told of mutations, in short.
fn told(heard: &[Value]) -> Vec<String> {
    let mut told = Vec::new();
    for message in heard {
        let names = message["mutationIds"].as_array().into_iter().flatten();
        told.extend(names.map(|name| format!("commit {}", name.as_str().unwrap())));
        if message["type"] == "reject" {
            let (name, code) = (message["mutationId"].as_str(), message["errorCode"].as_str());
            told.push(format!("reject {} {}", name.unwrap(), code.unwrap()));
        }
    }
    told
}

/// Holds the row of a file, so that mutations of it wait.
async fn held(app: &App) -> Client {
    let holder = app.database.connect().await;
    holder.batch_execute("BEGIN; SELECT FROM file WHERE id = 'edit' FOR UPDATE").await.unwrap();
    holder
}

async fn count(app: &App, what: &str, wanted: i64) {
    let schema = app.database.names().schema;
    let sql = format!("SELECT count(*) FROM {schema}.named_mutation WHERE {what}");
    let (sql, wanted) = (&sql, &wanted.to_string());
    eventually(what, || async { (app.one(sql).await == *wanted).then_some(()) }).await;
}

/// Until this one is committed: all that was sent before it is told by then.
async fn marker(tab: &mut Older, name: &str) -> Vec<Value> {
    tab.mutate(name, json!([])).await;
    tab.until(name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tab_that_comes_back_is_told_what_was_applied_and_what_was_rejected() {
    let mut app = App::small_files().await;
    let holder = held(&app).await;
    let (mut tab, _) = Older::tab(&app, "owner", "a").await;
    tab.mutate("m1", rename("edit", "1")).await;
    tab.mutate("m2", takes_over()).await;
    tab.assert_alive().await;
    tab.hang_up().await;
    holder.batch_execute("COMMIT").await.unwrap();
    count(&app, "true", 2).await;
    // Neither another tab nor another user, whatever they call themselves.
    let (mut other, _) = Older::tab(&app, "owner", "b").await;
    assert_eq!(told(&marker(&mut other, "b1").await), ["commit b1"]);
    let (mut stranger, _) = Older::tab(&app, "stranger", "a").await;
    assert_eq!(told(&marker(&mut stranger, "a1").await), ["commit a1"]);
    drop((other, stranger));
    // What is needed is in the database, and another server tells it.
    app.stop_server().await;
    app.start_server().await;
    let (mut tab, initial) = Older::tab(&app, "owner", "a").await;
    let files = initial["files"].as_array().unwrap();
    assert!(files.iter().any(|file| file["name"] == "1"), "the effects are there: {files:?}");
    let mut heard = tab.until("m2").await;
    assert_eq!(told(&heard), ["commit m1", "reject m2 forbidden"]);
    heard = marker(&mut tab, "m3").await;
    assert_eq!(told(&heard), ["commit m3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tab_has_heard_is_not_told_it_again() {
    let app = App::small_files().await;
    let (mut tab, _) = Older::tab(&app, "owner", "a").await;
    tab.mutate("m1", takes_over()).await;
    assert_eq!(told(&tab.until("m1").await), ["reject m1 forbidden"]);
    // It answers to the ping that follows.
    let ((), heard) = tab.read_during(count(&app, "told", 1)).await;
    assert_eq!(told(&heard), [""; 0]);
    tab.hang_up().await;
    let (mut tab, _) = Older::tab(&app, "owner", "a").await;
    assert_eq!(told(&marker(&mut tab, "m2").await), ["commit m2"]);
    // What was applied may be told twice, and what was told late is noted after a while.
    tab.hang_up().await;
    let (mut tab, _) = Older::tab(&app, "owner", "a").await;
    assert_eq!(told(&tab.until("m2").await), ["commit m2"]);
    tab.read_during(count(&app, "told", 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_while_a_tab_comes_back_is_told_once() {
    let app = App::small_files().await;
    let holder = held(&app).await;
    let (mut tab, _) = Older::tab(&app, "owner", "a").await;
    tab.mutate("m1", rename("edit", "1")).await;
    tab.mutate("m2", takes_over()).await;
    tab.mutate("m3", rename("edit", "3")).await;
    tab.assert_alive().await;
    // The connection stays, as far as the server knows, and the tab is on another.
    let (mut again, _) = Older::tab(&app, "owner", "a").await;
    tab.hang_up().await;
    again.mutate("m4", rename("edit", "4")).await;
    again.assert_alive().await;
    holder.batch_execute("COMMIT").await.unwrap();
    let mut heard = again.until("m2").await;
    if !told(&heard).contains(&"commit m4".to_owned()) {
        heard.extend(again.until("m4").await);
    }
    let mut told = told(&heard);
    told.sort();
    assert_eq!(told, ["commit m1", "commit m3", "commit m4", "reject m2 forbidden"]);
    assert_eq!(app.one("SELECT name FROM file WHERE id = 'edit'").await, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_tab_are_both_told() {
    let mut app = App::small_files().await;
    let holder = held(&app).await;
    // A browser copies the `sessionId` when a tab is duplicated.
    let (mut first, _) = Older::tab(&app, "owner", "a").await;
    let (mut second, _) = Older::tab(&app, "owner", "a").await;
    first.mutate("m1", rename("edit", "1")).await;
    first.mutate("m2", takes_over()).await;
    first.assert_alive().await;
    second.mutate("n1", rename("edit", "2")).await;
    second.mutate("n2", takes_over()).await;
    second.assert_alive().await;
    drop((first, second));
    holder.batch_execute("COMMIT").await.unwrap();
    count(&app, "true", 4).await;
    app.stop_server().await;
    app.start_server().await;
    let all = ["commit m1", "commit n1", "reject m2 forbidden", "reject n2 forbidden"];
    let (mut first, _) = Older::tab(&app, "owner", "a").await;
    assert_eq!(told(&first.until("n2").await), all);
    let (mut second, _) = Older::tab(&app, "owner", "a").await;
    assert_eq!(told(&second.until("n2").await), all);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_bounded_and_what_is_older_is_not_told() {
    let app = App::small_files().await;
    let schema = app.database.names().schema;
    let (mut tab, _) = Older::tab(&app, "owner", "a").await;
    marker(&mut tab, "m1").await;
    marker(&mut tab, "m2").await;
    // Others of the user send very much. The first was heard, and the second was not.
    let later = format!(
        "UPDATE {schema}.named_mutation SET told = name = 'm1';
         UPDATE {schema}.client SET last_mutation = 1500 WHERE client_id = 'app/owner'"
    );
    app.database.run(&later).await;
    let (mut other, _) = Older::tab(&app, "owner", "b").await;
    marker(&mut other, "b1").await;
    let names =
        format!("SELECT string_agg(name, ' ' ORDER BY number) FROM {schema}.named_mutation");
    assert_eq!(app.one(&names).await, "m2 b1");
    tab.hang_up().await;
    let (mut tab, _) = Older::tab(&app, "owner", "a").await;
    assert_eq!(told(&tab.until("m2").await), ["commit m2"]);
    assert_eq!(told(&marker(&mut tab, "m3").await), ["commit m3"]);
    app.database.run(&format!("UPDATE {schema}.client SET last_mutation = 7000")).await;
    marker(&mut other, "b2").await;
    assert_eq!(app.one(&names).await, "b2");
    tab.hang_up().await;
    let (mut tab, _) = Older::tab(&app, "owner", "a").await;
    assert_eq!(told(&marker(&mut tab, "m4").await), ["commit m4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_has_forgotten_the_user_takes_what_they_send() {
    let app = App::small_files().await;
    let schema = app.database.names().schema;
    let (mut tab, _) = Older::tab(&app, "owner", "a").await;
    marker(&mut tab, "m1").await;
    app.database.run(&format!("DELETE FROM {schema}.client")).await;
    tab.mutate("m2", rename("edit", "2")).await;
    assert_eq!(told(&tab.until("m2").await), ["commit m2"]);
    // What was known before under a number that is given again is not known any more.
    let names =
        format!("SELECT string_agg(name, ' ' ORDER BY number) FROM {schema}.named_mutation");
    assert_eq!(app.one(&names).await, "m2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_an_earlier_version_is_noticed_and_set_up() {
    let app = App::small_files().await;
    let (names, sql) = (app.database.names(), app.database.connect().await);
    let schema = &names.schema;
    let earlier = format!(
        "INSERT INTO {schema}.named_mutation (client_id, name, number) VALUES ('app/x', 'm', 1);
         ALTER TABLE {schema}.named_mutation DROP COLUMN session_id, DROP COLUMN told"
    );
    sql.batch_execute(&earlier).await.unwrap();
    let problems = check_own_tables(&sql, &names).await.unwrap();
    assert!(problems[0].what.contains("session_id") && problems[0].fatal, "{problems:?}");
    assert_eq!(setup(&sql, &names, &[]).await.unwrap().len(), 2);
    assert!(check_own_tables(&sql, &names).await.unwrap().is_empty());
    // What was known is known, and nobody is told of it.
    let kept = format!("SELECT name || told FROM {schema}.named_mutation WHERE session_id IS NULL");
    assert_eq!(app.one(&kept).await, "mfalse");
    let (mut tab, _) = Older::tab(&app, "owner", "a").await;
    assert_eq!(told(&marker(&mut tab, "m1").await), ["commit m1"]);
}
