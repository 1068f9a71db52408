//! What the gateway promises about sessions that come and go, users who share it, and its end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rowtide::limits::STOP_PATIENCE;
use rowtide_client::{Acked, Event, Op, Outcome};
use rowtide_tests::{App, Older, Raw, Writer, eventually, http_get};
use serde_json::{Value, json};

const DEFINITION: &str = "[tables.note]\nvisible = 'owner = auth.user_id'\n\
                          [tables.note.insert]\nallow = 'new.owner = auth.user_id'\n";
const TABLES: &str = "CREATE TABLE note (id text PRIMARY KEY, owner text NOT NULL)";

fn note(owner: &str, id: impl std::fmt::Display) -> Value {
    let id = format!("{owner}-{id}");
    json!({ "op": "insert", "table": "note", "row": { "id": id, "owner": owner } })
}

/// The value of a metric.
fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(f64::NAN)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sockets_that_close_at_once_nothing_stays() {
    let app = App::example("files").await;
    let hang_up = async |number: usize| {
        let mut raw = Raw::open(&app).await;
        raw.say(&Raw::connect(&App::token(&format!("u{number}")))).await;
        if number.is_multiple_of(10) {
            raw.until("ready").await;
        }
    };
    futures_util::future::join_all((0..300).map(hang_up)).await;
    eventually("views, topics and sessions are gone", || async {
        let text = http_get(&app, "/metrics").await;
        let names = ["rowtide_sessions", "rowtide_views", "rowtide_topics"];
        let gone = names.iter().all(|name| value(&text, name) == 0.0);
        // Those who stayed until then have come as far as their rows.
        (gone && value(&text, "rowtide_load_queries_total") > 0.0).then_some(())
    })
    .await;
    // All places of a user who has hung up are free again, and whoever comes is served.
    let mut sessions = Vec::new();
    for _ in 0..50 {
        let mut session = Raw::live(&app, "u1").await;
        session.assert_alive().await;
        sessions.push(session);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connected_client_is_no_way_past_the_limit_of_sessions() {
    let limit = |options: &mut rowtide::server::ServerOptions| {
        options.gateway.client.sessions_per_user = 3;
    };
    let app = App::with_options(DEFINITION, TABLES, limit).await;
    let connect = Raw::connect(&App::token("u1"));
    let mut first = Raw::open(&app).await;
    first.say(&connect).await;
    first.until("ready").await;
    first.assert_alive().await;
    let mut rejected = 0;
    let mut silent = Vec::new();
    for _ in 0..20 {
        // It says nothing more, so it does not take over.
        let mut raw = Raw::open(&app).await;
        raw.say(&connect).await;
        silent.push(raw);
    }
    for raw in &mut silent {
        if let Err(ending) = raw.hear().await {
            ending.assert("one more", "rate_limit_exceeded");
            rejected += 1;
        }
    }
    assert!(rejected >= 17, "{rejected} of 20");
    assert!(app.server.as_ref().unwrap().health().sessions <= 3);
}

/// A table whose rows wait, before their transaction may go on, for whoever holds a lock.
const HELD: &str = "
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF NEW.owner LIKE 'flood%' THEN PERFORM pg_advisory_xact_lock_shared(1); END IF;
      RETURN NEW;
    END $$;
    CREATE TRIGGER wait BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION wait()";

/// Sessions of a user, each with so many mutations of many operations.
async fn flood(app: &App, user: &str, sessions: usize, mutations: usize) -> Vec<Writer> {
    let mut writers = Vec::new();
    for session in 0..sessions {
        let mut writer = Writer::live(app, user).await;
        for mutation in 0..mutations {
            let ops: Vec<Value> =
                (0..100).map(|op| note(user, format!("{session}-{mutation}-{op}"))).collect();
            writer.send(json!(ops)).await;
        }
        // They have all reached the server when this is answered.
        writer.raw.assert_alive().await;
        writers.push(writer);
    }
    writers
}

async fn waiting(app: &App, connections: i64) {
    let sql = app.database.connect().await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND application_name = 'rowtide mutate' AND wait_event_type IN ('Lock', 'Timeout')";
    eventually("floods hold what they may", || async {
        let count: i64 = sql.query_one(waits, &[]).await.ok()?.get(0);
        (count == connections).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_the_flood_of_another() {
    let app = App::with(DEFINITION, &format!("{TABLES}; {HELD}")).await;
    let holder = app.database.connect().await;
    holder.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
    let mut bystander = Writer::live(&app, "u1").await;
    let floods = flood(&app, "flood", 10, 3).await;
    // All but one of four connections.
    waiting(&app, 3).await;
    bystander.mutate(json!([note("u1", 1)])).await.applied();
    let theirs = app.one("SELECT count(*) FROM note WHERE owner LIKE 'flood%'").await;
    assert_eq!(theirs, "0", "no transaction of the flood came before");
    // Their sessions go, what they had sent stays, and others who are there come first.
    drop(floods);
    bystander.mutate(json!([note("u1", 2)])).await.applied();
    holder.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    eventually("what had reached the server is applied", || async {
        let count = app.one("SELECT count(*) FROM note WHERE owner LIKE 'flood%'").await;
        (count == "3000").then_some(())
    })
    .await;
}

/// A table into which no more transactions of floods write than there are passes for.
const PASSED: &str = "
    CREATE TABLE pass (n int);
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF NEW.owner LIKE 'flood%' AND NEW.id LIKE '%-0' THEN
        LOOP
          DELETE FROM pass WHERE ctid = (SELECT ctid FROM pass LIMIT 1 FOR UPDATE SKIP LOCKED);
          EXIT WHEN FOUND;
          PERFORM pg_sleep(0.01);
        END LOOP;
      END IF;
      RETURN NEW;
    END $$;
    CREATE TRIGGER wait BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION wait()";

#[tokio::test(flavor = "multi_thread")]
async fn where_several_flood_one_waits_for_a_few_transactions() {
    let app = App::with(DEFINITION, &format!("{TABLES}; {PASSED}")).await;
    let sql = app.database.connect().await;
    let mut bystander = Writer::live(&app, "u1").await;
    let floods = [flood(&app, "flood-1", 6, 4).await, flood(&app, "flood-2", 6, 4).await];
    // All four connections.
    waiting(&app, 4).await;
    let id = bystander.send(json!([note("u1", 1)])).await;
    bystander.raw.assert_alive().await;
    // Of 48 the four that run, and what may be started beside it, by one more of each other connection.
    sql.batch_execute("INSERT INTO pass SELECT generate_series(1, 4 + 3)").await.unwrap();
    bystander.outcome(id).await.applied();
    sql.batch_execute("INSERT INTO pass SELECT generate_series(1, 48)").await.unwrap();
    drop(floods);
}

/// How much a user may have in a minute where two thousand edits come at once: the last hundred wait some three seconds.
const RATE: u32 = 1_900;

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_edits_that_were_made_offline_are_delayed_by_a_rate_and_none_is_rejected() {
    let mut app = App::with_options(DEFINITION, TABLES, |options| {
        options.gateway.client.requests_per_minute = RATE;
    })
    .await;
    app.stop_server().await;
    let mut client = app.client("u1");
    let mut waiting = BTreeSet::new();
    for number in 0..2_000 {
        let row = json!({ "id": format!("u1-{number}"), "owner": "u1" });
        let row = row.as_object().unwrap().clone();
        waiting.insert(client.mutate(vec![Op::insert("note", row)]).unwrap());
    }
    assert_eq!(waiting.len(), 2_000);
    let begun = Instant::now();
    app.start_server().await;
    let mut told = BTreeSet::new();
    let hears = async {
        while !waiting.is_empty() {
            match client.next().await.expect("it runs until it is closed") {
                Event::Acked(Acked { id, outcome, .. }) => {
                    assert_eq!(outcome, Outcome::Applied, "mutation {id}");
                    assert!(waiting.remove(&id) && told.insert(id), "{id} is told twice");
                }
                Event::Stopped(error) => panic!("{error}"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(300), hears).await.expect("all are acknowledged");
    // What a bucket does not hold comes with time, and not before: the rate was in the way.
    let least = Duration::from_secs(60) * (2_000 - RATE) / RATE;
    assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
    assert_eq!(app.one("SELECT count(*) FROM note").await, "2000");
    let schema = app.database.names().schema;
    let kept = format!("SELECT count(*) FROM {schema}.refusal");
    assert_eq!(app.one(&kept).await, "0", "none was rejected");
    assert_eq!(client.shown().count("note"), 2_000);
    client.close().await.unwrap();
}

/// How often a server is stopped until it has as much of the machine as it takes to be done in the time that it has.
const STOPS: usize = 10;

/// Stops the server while somebody hears of what they had sent. Whether they heard of all of it before the goodbye: if
/// they did not, the server has waited for as long as it waits, and is started again.
async fn hears_all_before_the_goodbye(app: &mut App, hears: impl Future<Output = bool>) -> bool {
    let began = Instant::now();
    let hears = async { (hears.await, began.elapsed()) };
    let ((has_heard, took), ()) = tokio::join!(hears, app.stop_server());
    if !has_heard {
        assert!(took >= STOP_PATIENCE, "the goodbye came after {took:?}");
        app.start_server().await;
    }
    has_heard
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_client_had_sent_is_applied_when_the_server_stops() {
    let mut app = App::example("files").await;
    let sql = app.database.connect().await;
    for stop in 0..STOPS {
        let (mut ann, initial) = Older::live(&app, "u1").await;
        let file = initial["files"][0]["id"].as_str().unwrap().to_owned();
        let update = |name: &str| json!([{ "table": "file", "event": "update", "row": { "id": file, "name": name } }]);
        // Nothing of it is applied before all of it has reached the server.
        let held = format!("BEGIN; SELECT FROM file WHERE id = '{file}' FOR UPDATE");
        sql.batch_execute(&held).await.unwrap();
        for number in 1..=50 {
            ann.mutate(&format!("m{stop}-{number}"), update(&format!("n{number}"))).await;
        }
        ann.assert_alive().await;
        sql.batch_execute("COMMIT").await.unwrap();
        let last = format!("m{stop}-50");
        let hears = async {
            let has_heard = ann.hears_of_before_the_end(&last).await;
            assert_eq!(ann.closed().await.0, 1012);
            has_heard
        };
        if hears_all_before_the_goodbye(&mut app, hears).await {
            let name = format!("SELECT name FROM file WHERE id = '{file}'");
            assert_eq!(app.one(&name).await, "n50");
            return;
        }
    }
    panic!("it never hears of all before the goodbye");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_had_sent_is_acknowledged_before_the_goodbye() {
    let mut app = App::with(DEFINITION, TABLES).await;
    let sql = app.database.connect().await;
    for stop in 0..STOPS {
        let mut writer = Writer::live(&app, "u1").await;
        sql.batch_execute("BEGIN; LOCK TABLE note IN SHARE MODE").await.unwrap();
        let mut last = 0;
        for number in 0..50 {
            last = writer.send(json!([note("u1", format!("{stop}-{number}"))])).await;
        }
        writer.raw.assert_alive().await;
        sql.batch_execute("COMMIT").await.unwrap();
        let hears = async {
            let mut acked = 0;
            let ending = loop {
                match writer.raw.hear().await {
                    Ok(message) => {
                        assert_ne!(message["type"], "reject", "{message}");
                        acked = message["ack"].as_u64().unwrap_or(acked);
                    }
                    Err(ending) => break ending,
                }
            };
            ending.assert("the client", "restarting");
            acked == last
        };
        if hears_all_before_the_goodbye(&mut app, hears).await {
            let count = format!("SELECT count(*) FROM note WHERE id LIKE 'u1-{stop}-%'");
            assert_eq!(app.one(&count).await, "50");
            return;
        }
    }
    panic!("it never hears of all before the goodbye");
}
