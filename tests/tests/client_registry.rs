//! Client ids belong to the user who first used them, for ever, however many claim at once.

use std::time::Duration;

use rowtide_postgres::client_registry::{Claimed, Wanted, claim, outcomes, remove_unused, removed};
use rowtide_postgres::connect::Names;
use rowtide_postgres::setup::setup;
use rowtide_tests::{App, Bystander, Database, Dir, Node, PATIENCE, Raw, eventually, flushed};
use tokio_postgres::Client;

async fn database() -> Database {
    let database = Database::create().await;
    setup(&database.connect().await, &database.names(), &[]).await.unwrap();
    database
}

fn knowing(client: &str, user: &str, known: u64) -> Wanted {
    Wanted { client: client.to_owned(), user: user.to_owned(), known, outcomes: 0 }
}

fn wanted(pairs: &[(&str, &str)]) -> Vec<Wanted> {
    pairs.iter().map(|(id, user)| knowing(id, user, 0)).collect()
}

async fn owners(client: &Client, database: &Database, pairs: &[(&str, &str)]) -> Vec<String> {
    let claimed = claim(client, &database.names(), &wanted(pairs)).await.unwrap();
    claimed.into_iter().map(|claimed| claimed.map_or("-".to_owned(), |it| it.user_id)).collect()
}

#[tokio::test]
async fn the_first_user_of_a_client_id_keeps_it() {
    let database = database().await;
    let client = database.connect().await;
    assert_eq!(owners(&client, &database, &[("one", "ann"), ("two", "bob")]).await, ["ann", "bob"]);
    let again = [("two", "ann"), ("three", "ann"), ("one", "ann")];
    assert_eq!(owners(&client, &database, &again).await, ["bob", "ann", "ann"]);
    assert_eq!(owners(&client, &database, &[]).await, [""; 0]);
}

#[tokio::test]
async fn of_several_in_one_batch_the_first_takes_the_id() {
    let database = database().await;
    let client = database.connect().await;
    let batch = [("one", "ann"), ("one", "bob"), ("two", "bob"), ("one", "ann")];
    assert_eq!(owners(&client, &database, &batch).await, ["ann", "ann", "bob", "ann"]);
}

#[tokio::test]
async fn the_last_acknowledged_mutation_is_told() {
    let database = database().await;
    let client = database.connect().await;
    owners(&client, &database, &[("one", "ann")]).await;
    let schema = database.names().schema;
    let update = format!("UPDATE {schema}.client SET last_mutation = 7 WHERE client_id = 'one'");
    client.batch_execute(&update).await.unwrap();
    let claimed = claim(&client, &database.names(), &wanted(&[("one", "ann")])).await.unwrap();
    let is_unused_for_long = false;
    let user_id = "ann".to_owned();
    assert_eq!(claimed, [Some(Claimed { user_id, last_mutation: 7, is_unused_for_long })]);
}

/// A database that has gone back does not make a client count from there.
#[tokio::test]
async fn what_a_client_knows_is_never_undercut_and_is_nobody_elses() {
    let database = database().await;
    let client = database.connect().await;
    owners(&client, &database, &[("one", "ann"), ("two", "ann")]).await;
    let ask = async |wanted: &[Wanted]| {
        let claimed = claim(&client, &database.names(), wanted).await.unwrap();
        let short = |it: Claimed| (it.user_id, it.last_mutation);
        claimed.into_iter().map(|it| it.map(short)).collect::<Vec<_>>()
    };
    let is = |user: &str, last| Some((user.to_owned(), last));
    let batch = [
        knowing("one", "ann", 5),
        knowing("one", "bob", 9),
        knowing("one", "ann", 3),
        knowing("new", "bob", 4),
        knowing("new", "bob", 6),
        knowing("two", "ann", 0),
    ];
    let [ann, bob] = [is("ann", 5), is("bob", 6)];
    let expected = [ann.clone(), ann.clone(), ann.clone(), bob.clone(), bob, is("ann", 0)];
    assert_eq!(ask(&batch).await, expected);
    assert_eq!(ask(&[knowing("one", "ann", 2)]).await, [ann]);
    let most = i64::MAX.unsigned_abs();
    assert_eq!(ask(&[knowing("one", "ann", u64::MAX)]).await, [is("ann", most)], "its own doing");
}

/// A commit is streamed before it can be seen: a client may know of it already.
#[tokio::test]
async fn what_a_client_knows_and_nobody_sees_yet_is_not_claimed_before_it_is_seen() {
    let database = database().await;
    let (client, open) = (database.connect().await, database.connect().await);
    owners(&client, &database, &[("one", "ann"), ("two", "bob")]).await;
    let schema = database.names().schema;
    open.batch_execute("BEGIN").await.unwrap();
    let update = format!("UPDATE {schema}.client SET last_mutation = 7 WHERE client_id = 'one'");
    open.batch_execute(&update).await.unwrap();
    let batch = [knowing("one", "ann", 7), knowing("two", "bob", 1)];
    let last = |claimed: Vec<Option<Claimed>>| {
        claimed.into_iter().map(|it| it.map(|it| it.last_mutation)).collect::<Vec<_>>()
    };
    let claimed = claim(&client, &database.names(), &batch).await.unwrap();
    assert_eq!(last(claimed), [None, Some(1)]);
    open.batch_execute("COMMIT").await.unwrap();
    let claimed = claim(&client, &database.names(), &batch).await.unwrap();
    assert_eq!(last(claimed), [Some(7), Some(1)]);
}

/// A session waits for the stream to come there, and Postgres streams only what it has flushed.
#[tokio::test]
async fn what_is_acknowledged_is_flushed_also_while_a_transaction_that_wrote_is_open() {
    let database = database().await;
    let (client, open) = (database.connect().await, database.connect().await);
    open.batch_execute("BEGIN; CREATE TABLE later (id int)").await.unwrap();
    for round in 0..20 {
        open.batch_execute(&format!("INSERT INTO later VALUES ({round})")).await.unwrap();
        let until = outcomes(&client, &database.names(), &[]).await.unwrap().until;
        let flushed = flushed(&client).await;
        assert!(until <= flushed, "round {round}: {flushed} is before {until}");
    }
}

#[tokio::test]
async fn text_that_postgres_cannot_store_claims_nothing_and_spoils_nothing() {
    let database = database().await;
    let client = database.connect().await;
    let long = "x".repeat(10_000);
    let batch = [("one", "a\0nn"), ("two", "bob"), ("three", "it's \"\\ $1; --"), ("four", &long)];
    let owners = owners(&client, &database, &batch).await;
    assert_eq!(owners, ["-", "bob", "it's \"\\ $1; --", &long]);
}

#[tokio::test]
async fn claiming_what_is_known_writes_nothing() {
    let database = database().await;
    let client = database.connect().await;
    owners(&client, &database, &[("one", "ann")]).await;
    client.batch_execute("BEGIN").await.unwrap();
    owners(&client, &database, &[("one", "bob"), ("one", "ann")]).await;
    let sql = "SELECT pg_current_xact_id_if_assigned()::text";
    let row = client.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, Option<&str>>(0), None, "no transaction id was taken");
}

#[tokio::test]
async fn an_id_that_another_server_claims_at_the_same_moment_is_waited_for() {
    let database = database().await;
    let (mine, theirs) = (database.connect().await, database.connect().await);
    theirs.batch_execute("BEGIN").await.unwrap();
    assert_eq!(owners(&theirs, &database, &[("one", "ann")]).await, ["ann"]);
    let names = database.names();
    let task = tokio::spawn(async move { claim(&mine, &names, &wanted(&[("one", "bob")])).await });
    let waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                 AND datname = current_database()";
    eventually("the second waits for the first", || async {
        (!theirs.query(waits, &[]).await.unwrap().is_empty()).then_some(())
    })
    .await;
    theirs.batch_execute("COMMIT").await.unwrap();
    let claimed = task.await.unwrap().unwrap();
    assert_eq!(claimed[0].as_ref().unwrap().user_id, "ann");
}

/// A commit that waits for a standby ends with the standby's return; who connects does not wait that long.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_stalls_holds_up_nobody_who_connects() {
    let dir = Dir::new();
    let mut node = Node::start(&dir, "primary").await;
    let names = Names::of("default").unwrap();
    let client = node.connect("postgres").await;
    setup(&client, &names, &[]).await.unwrap();
    node.set("synchronous_standby_names", "nobody").await;
    let claims = async {
        for known in [0, 5] {
            let claimed = claim(&client, &names, &[knowing("one", "ann", known)]).await.unwrap();
            let (user_id, last_mutation) = ("ann".to_owned(), known);
            let is_unused_for_long = false;
            assert_eq!(claimed, [Some(Claimed { user_id, last_mutation, is_unused_for_long })]);
        }
    };
    tokio::time::timeout(PATIENCE, claims).await.expect("it waits for no standby");
    node.stop();
}

#[tokio::test]
async fn rows_that_nobody_uses_are_removed_and_those_who_come_back_are_told() {
    let database = database().await;
    let (client, names) = (database.connect().await, database.names());
    let (year, schema) = (Duration::from_secs(365 * 86_400), &names.schema);
    let old = knowing("old", "ann", 3);
    let batch = [knowing("old", "ann", 3), knowing("used", "ann", 2)];
    assert_eq!(claim(&client, &names, &batch).await.unwrap().len(), 2);
    owners(&client, &database, &[("idle", "bob")]).await;
    // Nothing was ever removed: who knows more than the database is one whose database has gone back.
    assert!(removed(&client, &names, &[&knowing("lost", "ann", 9)]).await.unwrap().is_empty());
    client
        .batch_execute(&format!(
            "UPDATE {schema}.client SET created_at = now() - interval '366 days';
             INSERT INTO {schema}.refusal VALUES ('old', 2, 'forbidden', 'no'), ('used', 1, 'x', 'x');
             INSERT INTO {schema}.named_mutation VALUES ('idle', 'name', 1)"
        ))
        .await
        .unwrap();
    // One that is used is noted, once.
    let mut noted = Vec::new();
    for _ in 0..2 {
        let claimed = claim(&client, &names, &[knowing("used", "ann", 2)]).await.unwrap();
        noted.push(claimed[0].as_ref().unwrap().is_unused_for_long);
    }
    assert_eq!(noted, [true, false]);
    assert_eq!(remove_unused(&client, &names, year).await.unwrap(), 2);
    assert_eq!(remove_unused(&client, &names, year).await.unwrap(), 0);
    let left = format!(
        "SELECT (SELECT string_agg(client_id, ' ' ORDER BY client_id) FROM {schema}.client) || '/' ||
         (SELECT string_agg(client_id, ' ') FROM {schema}.refusal) || '/' ||
         (SELECT count(*) FROM {schema}.named_mutation)"
    );
    let left: String = client.query_one(&left, &[]).await.unwrap().get(0);
    assert_eq!(left, " used/used/0");
    // Its number was 3, and is not known any more: it could take a mutation twice.
    let heard = Wanted { known: 0, outcomes: 3, ..knowing("heard", "ann", 0) };
    let batch = [old, heard, knowing("idle", "bob", 0), knowing("used", "ann", 2)];
    let claimed = claim(&client, &names, &batch).await.unwrap();
    let last = |it: &Option<Claimed>| it.as_ref().map(|it| it.last_mutation);
    assert_eq!(claimed.iter().map(last).collect::<Vec<_>>(), [None, None, Some(0), Some(2)]);
    let all: Vec<&Wanted> = batch.iter().collect();
    let mut told: Vec<String> = removed(&client, &names, &all).await.unwrap().into_iter().collect();
    told.sort();
    assert_eq!(told, ["heard", "old"]);
}

/// A server that removes what nobody has used for so long, as often as it can.
async fn server(unused_for: Option<Duration>) -> App {
    App::with_options(Bystander::DEFINITION, Bystander::TABLES, |options| {
        options.gateway.client.unused_clients = unused_for;
        options.gateway.client.removal_every = Duration::from_millis(1);
    })
    .await
}

/// Puts ids there of whom one was used a year ago and the other yesterday.
async fn leave(client: &Client, schema: &str) {
    let rows = format!(
        "INSERT INTO {schema}.client (client_id, user_id, created_at) VALUES
           ('old', 'ann', now() - interval '365 days'), ('new', 'ann', now() - interval '1 day');
         INSERT INTO {schema}.refusal VALUES ('old', 1, 'x', 'x'), ('new', 1, 'x', 'x')"
    );
    client.batch_execute(&rows).await.unwrap();
}

/// Which of them are there still, with what is kept of them.
async fn left(client: &Client, schema: &str) -> String {
    let sql = format!(
        "SELECT concat((SELECT string_agg(client_id, ' ' ORDER BY client_id)
                        FROM {schema}.client WHERE client_id IN ('new', 'old')), '/',
                       (SELECT string_agg(client_id, ' ' ORDER BY client_id) FROM {schema}.refusal))"
    );
    client.query_one(&sql, &[]).await.unwrap().get(0)
}

const MONTH: Duration = Duration::from_secs(30 * 86_400);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_removes_what_nobody_uses_also_where_nobody_ever_connects() {
    let app = server(Some(MONTH)).await;
    let (client, schema) = (app.database.connect().await, app.database.names().schema);
    for _ in 0..2 {
        leave(&client, &schema).await;
        eventually("what nobody uses is removed", || async {
            (left(&client, &schema).await == "new/new").then_some(())
        })
        .await;
        // Another time, over another connection.
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE application_name = 'rowtide clients' AND datname = current_database()";
        assert!(!client.query(sql, &[]).await.unwrap().is_empty());
        let delete = format!("DELETE FROM {schema}.client; DELETE FROM {schema}.refusal");
        client.batch_execute(&delete).await.unwrap();
    }
}

/// Client ids are claimed some milliseconds after they have come, and a time to remove that lies before that is taken
/// first. So of two who come, one after the other, the second knows that there was such a time after the first had come.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_uses_is_removed_only_where_that_is_wanted() {
    for (unused_for, expected) in [
        (Some(MONTH), "new/new"),
        (Some(13 * MONTH), "new old/new old"),
        // 0 days.
        (None, "new old/new old"),
    ] {
        let app = server(unused_for).await;
        let (client, schema) = (app.database.connect().await, app.database.names().schema);
        leave(&client, &schema).await;
        for _ in 0..2 {
            Raw::live(&app, "u1").await.assert_alive().await;
        }
        assert_eq!(left(&client, &schema).await, expected, "{unused_for:?}");
    }
}
