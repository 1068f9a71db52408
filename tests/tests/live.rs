//! The promises of the protocol, end to end: a real cluster, a server, clients over WebSockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rowtide_client::{Client, Event, Status};
use rowtide_postgres::connect::ConnectOptions;
use rowtide_tests::{App, PATIENCE, Raw, Rows, eventually, held, truth};

#[path = "live/deflate.rs"]
mod deflate;
#[path = "live/subscriptions.rs"]
mod subscriptions;
#[path = "live/time.rs"]
mod time;

const FILES: &str = include_str!("../../examples/files/rowtide.toml");
const TRACKER: &str = include_str!("../../examples/tracker/rowtide.toml");
const CHAT: &str = include_str!("live/chat.toml");
const CHAT_TABLES: &str = include_str!("live/chat.sql");

/// Takes events in until `done` says so of the replica.
async fn until(client: &mut Client, what: &str, done: impl Fn(&Rows) -> bool) {
    let wait = async {
        while !done(&held(&client.replica())) {
            let event = client.next().await;
            assert!(!matches!(event, None | Some(Event::Stopped(_))), "{event:?}");
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "not in time: {what}; holds {:?}", held(&client.replica()));
}

async fn live(client: &mut Client) {
    while client.next().await != Some(Event::Status(Status::Live)) {}
}

fn has(rows: &Rows, table: &str, text: &str) -> bool {
    rows[table].iter().any(|row| row.contains(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_reaches_those_who_may_see_it_and_leaves_those_who_may_not() {
    let app = App::example("files").await;
    let sql = app.database.connect().await;
    let run = async |statement: &str| {
        sql.batch_execute(statement).await.unwrap_or_else(|error| panic!("{error:?}"));
    };
    let (mut owner, mut guest) = (app.client("u1"), app.client("u900"));
    live(&mut owner).await;
    live(&mut guest).await;
    let expected = truth(&sql, FILES, "u1").await;
    assert_eq!(held(&owner.replica()), expected);

    run("UPDATE file SET name = 'mine alone' WHERE id = 'f1'").await;
    until(&mut owner, "the owner's edit", |rows| has(rows, "file", "mine alone")).await;

    // Sharing and a guest's state make it visible, in one step: never the link without the file.
    run("UPDATE file SET shared = true WHERE id = 'f1'").await;
    run(r#"INSERT INTO file_state ("userId", "fileId") VALUES ('u900', 'f1')"#).await;
    until(&mut guest, "the guest's file", |rows| {
        let state = has(rows, "file_state", "\"fileId\":\"f1\"");
        let file = has(rows, "file", "mine alone");
        assert_eq!(state, file, "state and file come together");
        file
    })
    .await;

    // What leaves a view: each cause in turn, and each time the way back.
    for (gone, back) in [
        (
            r#"UPDATE file SET "isDeleted" = true WHERE id = 'f1'"#,
            r#"UPDATE file SET "isDeleted" = false WHERE id = 'f1'"#,
        ),
        (
            r#"DELETE FROM file_state WHERE "userId" = 'u900' AND "fileId" = 'f1'"#,
            r#"INSERT INTO file_state ("userId", "fileId") VALUES ('u900', 'f1')"#,
        ),
        (
            "UPDATE file SET shared = false WHERE id = 'f1'",
            r#"UPDATE file SET shared = true WHERE id = 'f1';
               INSERT INTO file_state ("userId", "fileId") VALUES ('u900', 'f1')"#,
        ),
    ] {
        run(gone).await;
        until(&mut guest, gone, |rows| !has(rows, "file", "mine alone")).await;
        run(back).await;
        until(&mut guest, back, |rows| has(rows, "file", "mine alone")).await;
    }
    // Who owned it is a guest of it now, because the state is still there and it is shared.
    run("UPDATE file SET \"ownerId\" = 'u900' WHERE id = 'f1'").await;
    until(&mut owner, "another owner", |rows| has(rows, "file", "\"ownerId\":\"u900\"")).await;
    run("DELETE FROM file_state WHERE \"userId\" = 'u1' AND \"fileId\" = 'f1'").await;
    until(&mut owner, "no guest any more", |rows| !has(rows, "file", "mine alone")).await;
    run("DELETE FROM file WHERE id = 'f1'").await;
    until(&mut guest, "deleted", |rows| !has(rows, "file", "mine alone")).await;
    run("TRUNCATE file CASCADE").await;
    until(&mut guest, "truncated", |rows| rows["file"].is_empty() && rows["file_state"].is_empty())
        .await;
    let expected = truth(&sql, FILES, "u900").await;
    assert_eq!(held(&guest.replica()), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_membership_two_levels_up_decides_who_sees_a_comment() {
    let app = App::example("tracker").await;
    let sql = app.database.connect().await;
    let run = async |statement: &str| {
        sql.batch_execute(statement).await.unwrap_or_else(|error| panic!("{error:?}"));
    };
    let mut client = app.client("u1");
    live(&mut client).await;
    let before = truth(&sql, TRACKER, "u1").await;
    assert!(before["comment"].len() > 50);
    assert_eq!(held(&client.replica()), before);
    run("UPDATE member SET role = 'suspended' WHERE person_id = 'u1'").await;
    let without = truth(&sql, TRACKER, "u1").await;
    assert!(without["comment"].len() < before["comment"].len());
    until(&mut client, "suspended", |rows| *rows == without).await;
    run("UPDATE member SET role = 'member' WHERE person_id = 'u1'").await;
    let again = truth(&sql, TRACKER, "u1").await;
    until(&mut client, "let in again", |rows| *rows == again).await;
    // A whole project moves to a workspace that the user is no member of.
    run("UPDATE project SET workspace_id = '00000000-0000-4000-8000-000000000010' \
         WHERE workspace_id IN (SELECT workspace_id FROM member WHERE person_id = 'u1')")
    .await;
    let moved = truth(&sql, TRACKER, "u1").await;
    until(&mut client, "moved away", |rows| *rows == moved).await;
}

/// One random statement on the tables of the files example.
fn files_statement(rng: &mut StdRng) -> String {
    let user = format!("u{}", rng.random_range(1..30));
    let file = format!("f{}", rng.random_range(1..600));
    match rng.random_range(0..12) {
        0 => format!("UPDATE \"user\" SET name = 'n{}' WHERE id = '{user}'", rng.random::<u16>()),
        1..4 => format!("UPDATE file SET name = 'n{}' WHERE id = '{file}'", rng.random::<u16>()),
        4 => format!("UPDATE file SET shared = NOT shared WHERE id = '{file}'"),
        5 => format!("UPDATE file SET \"isDeleted\" = NOT \"isDeleted\" WHERE id = '{file}'"),
        6..8 => format!(
            "INSERT INTO file_state (\"userId\", \"fileId\") SELECT '{user}', id FROM file \
             WHERE id = '{file}' ON CONFLICT DO NOTHING"
        ),
        8 => {
            format!("DELETE FROM file_state WHERE \"userId\" = '{user}' AND \"fileId\" = '{file}'")
        }
        9 => format!("UPDATE file SET \"ownerId\" = '{user}' WHERE id = '{file}'"),
        10 => format!(
            "UPDATE file_state SET \"fileId\" = '{file}' WHERE ctid IN (SELECT ctid FROM file_state \
             WHERE \"userId\" = '{user}' AND \"fileId\" NOT IN ('{file}') LIMIT 1) \
             AND NOT EXISTS (SELECT FROM file_state WHERE \"userId\" = '{user}' AND \"fileId\" = '{file}')"
        ),
        _ => format!("DELETE FROM file WHERE id = '{file}'"),
    }
}

/// One random statement on the tables of the tracker.
fn tracker_statement(rng: &mut StdRng) -> String {
    let person = format!("u{}", rng.random_range(1..30));
    let id = |kind: &str, n: u32| format!("00000000-0000-4000-{kind}000-{n:012}");
    let workspace = id("8", rng.random_range(1..5));
    let project = id("9", rng.random_range(1..13));
    let issue = id("a", rng.random_range(1..120));
    match rng.random_range(0..10) {
        0 => format!(
            "INSERT INTO member VALUES ('{workspace}', '{person}', 'member') \
             ON CONFLICT (workspace_id, person_id) DO UPDATE SET role = 'member'"
        ),
        1 => format!(
            "UPDATE member SET role = 'suspended' WHERE workspace_id = '{workspace}' AND person_id = '{person}'"
        ),
        2 => format!(
            "DELETE FROM member WHERE workspace_id = '{workspace}' AND person_id = '{person}'"
        ),
        3 => format!("UPDATE project SET workspace_id = '{workspace}' WHERE id = '{project}'"),
        4 => format!(
            "UPDATE project SET archived_at = CASE WHEN archived_at IS NULL THEN now() END WHERE id = '{project}'"
        ),
        5 => format!(
            "UPDATE issue SET project_id = '{project}', title = 'moved' WHERE id = '{issue}'"
        ),
        6 => {
            format!("INSERT INTO issue_guest VALUES ('{issue}', '{person}') ON CONFLICT DO NOTHING")
        }
        7 => format!("DELETE FROM issue_guest WHERE issue_id = '{issue}'"),
        8 => format!(
            "INSERT INTO comment (issue_id, author_id, body) SELECT id, '{person}', 'c{}' FROM issue WHERE id = '{issue}'",
            rng.random::<u16>()
        ),
        _ => format!("DELETE FROM issue WHERE id = '{issue}' AND random() < 0.1"),
    }
}

/// One random statement on the tables of the chat.
fn chat_statement(rng: &mut StdRng) -> String {
    let [person, other] = [(); 2].map(|()| format!("u{}", rng.random_range(1..30)));
    let (table, value) = match rng.random_range(0..12) {
        0 => ("admin", format!("'{person}'")),
        1 => ("banned", format!("'{person}'")),
        2..5 => ("block", format!("'{person}', nullif('{other}', 'u7')")),
        5..8 => ("member", format!("'{person}', {}", rng.random_range(1..9))),
        8 => {
            return format!(
                "UPDATE channel SET archived = NOT archived WHERE id = {}",
                rng.random_range(1..9)
            );
        }
        _ => ("message", format!("{}, nullif('{person}', 'u8')", rng.random_range(1..9))),
    };
    match rng.random_bool(0.5) {
        true => format!("INSERT INTO {table} VALUES ({value})"),
        false => format!(
            "DELETE FROM {table} WHERE ctid IN (SELECT ctid FROM {table} ORDER BY random() LIMIT 1)"
        ),
    }
}

/// Writers write at once, each in transactions of a few statements; clients come, go and stay; in the
/// end everyone who stayed holds what SQL says.
async fn everyone_ends_with_what_sql_says(
    app: App,
    definition: &str,
    statement: fn(&mut StdRng) -> String,
) {
    let seed: u64 = std::env::var("ROWTIDE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    println!("ROWTIDE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut clients: Vec<(String, Client)> = Vec::new();
    let mut writers = Vec::new();
    for writer in 0..6 {
        let client = app.database.connect().await;
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(writer + 1));
        writers.push(tokio::spawn(async move {
            for _ in 0..120 {
                let count = rng.random_range(1..4);
                let statements: Vec<String> = (0..count).map(|_| statement(&mut rng)).collect();
                // Writers collide, and a foreign key may be gone: then it is rolled back.
                let sql = format!("BEGIN; {}; COMMIT", statements.join("; "));
                if client.batch_execute(&sql).await.is_err() {
                    drop(client.batch_execute("ROLLBACK").await);
                }
            }
        }));
    }
    while writers.iter().any(|writer| !writer.is_finished()) {
        if clients.len() < 40 {
            let user = format!("u{}", rng.random_range(1..30));
            clients.push((user.clone(), app.client(&user)));
        } else {
            let gone = rng.random_range(0..clients.len());
            clients.swap_remove(gone);
        }
        let (_, client) = clients.last_mut().expect("there are clients");
        drop(tokio::time::timeout(Duration::from_millis(20), client.next()).await);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let sql = app.database.connect().await;
    for (user, mut client) in clients {
        let expected = truth(&sql, definition, &user).await;
        until(&mut client, &format!("{user} of seed {seed}"), |rows| *rows == expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_ends_with_what_sql_says_of_files() {
    everyone_ends_with_what_sql_says(App::example("files").await, FILES, files_statement).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_ends_with_what_sql_says_of_the_tracker() {
    everyone_ends_with_what_sql_says(App::example("tracker").await, TRACKER, tracker_statement)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_ends_with_what_sql_says_of_blocks_bans_and_admins() {
    let app = App::with(CHAT, CHAT_TABLES).await;
    everyone_ends_with_what_sql_says(app, CHAT, chat_statement).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_ever_sees_a_part_of_a_transaction() {
    let definition = "[tables.account]\nvisible = 'true'\n";
    let tables = "CREATE TABLE account (id int PRIMARY KEY, cents int NOT NULL);
                  INSERT INTO account SELECT n, 100 FROM generate_series(1, 20) AS n";
    let app = App::with(definition, tables).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..4u64 {
        let client = app.database.connect().await;
        let done = Arc::clone(&done);
        let mut rng = StdRng::seed_from_u64(writer);
        writers.push(tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let (mut from, mut to) = (rng.random_range(1..=20), rng.random_range(1..=20));
                // Locks are taken in one order.
                if from > to {
                    std::mem::swap(&mut from, &mut to);
                }
                let sql = format!(
                    "BEGIN; UPDATE account SET cents = cents - 1 WHERE id = {from}; \
                     UPDATE account SET cents = cents + 1 WHERE id = {to}; COMMIT"
                );
                client.batch_execute(&sql).await.unwrap();
            }
        }));
    }
    for _ in 0..10 {
        let mut client = app.client("anyone");
        live(&mut client).await;
        for _ in 0..30 {
            let sum: i64 =
                client.replica().rows("account").map(|row| row["cents"].as_i64().unwrap()).sum();
            assert_eq!((sum, client.replica().count("account")), (2000, 20));
            client.next().await;
        }
    }
    done.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_come_back_by_themselves_after_a_restart_of_the_server() {
    let mut app = App::example("files").await;
    let sql = app.database.connect().await;
    let mut client = app.client("u1");
    live(&mut client).await;
    app.stop_server().await;
    sql.batch_execute("UPDATE file SET name = 'while away' WHERE id = 'f1'").await.unwrap();
    app.start_server().await;
    until(&mut client, "the change of meanwhile", |rows| has(rows, "file", "while away")).await;
    let expected = truth(&sql, FILES, "u1").await;
    assert_eq!(held(&client.replica()), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_says_so_to_every_session() {
    let mut app = App::example("files").await;
    let mut sessions = [Raw::live(&app, "u1").await, Raw::live(&app, "u2").await];
    let [first, second] = &mut sessions;
    let (first, second, ()) = tokio::join!(first.ending(), second.ending(), app.stop_server());
    first.assert("the first", "restarting");
    second.assert("the second", "restarting");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_cut_off_and_holds_up_nobody() {
    let definition = "[tables.note]\nvisible = 'owner = auth.user_id'\n";
    let tables = "CREATE TABLE note (id int PRIMARY KEY, owner text NOT NULL, body text NOT NULL);
                  INSERT INTO note VALUES (1, 'slow', ''), (2, 'quick', '')";
    let app = App::with(definition, tables).await;
    let sql = app.database.connect().await;
    let mut slow = Raw::live(&app, "slow").await;
    let mut quick = Raw::live(&app, "quick").await;
    // More than the sockets' buffers and what may wait for a session together.
    for round in 0..160 {
        let write = format!(
            "UPDATE note SET body = '{round}' || repeat('x', 250000) WHERE id = 1; \
             UPDATE note SET body = '{round}' WHERE id = 2"
        );
        sql.batch_execute(&write).await.unwrap_or_else(|error| panic!("{error:?}"));
        quick.until("tx").await;
    }
    slow.ending().await.assert("who did not read", "slow_consumer");
    quick.assert_alive().await;
    let mut again = Raw::live(&app, "slow").await;
    again.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_stay_while_the_stream_is_cut_off() {
    let app = App::example("files").await;
    let sql = app.database.connect().await;
    let mut client = app.client("u1");
    live(&mut client).await;
    let cut = "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots \
               WHERE database = current_database() AND active_pid IS NOT NULL";
    for round in 0..3 {
        let cut = eventually("the stream is there to be cut", || async {
            let count: i64 = sql.query_one(cut, &[]).await.ok()?.get(0);
            (count > 0).then_some(count)
        });
        assert_eq!(cut.await, 1);
        let name = format!("after cut {round}");
        sql.execute("UPDATE file SET name = $1 WHERE id = 'f1'", &[&name]).await.unwrap();
        until(&mut client, &name, |rows| has(rows, "file", &name)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_changes_its_shape_is_served_in_the_new_one_and_others_go_on() {
    let app = App::example("files").await;
    let sql = app.database.connect().await;
    let mut client = app.client("u1");
    live(&mut client).await;
    sql.batch_execute(
        "ALTER TABLE file ADD COLUMN stars int NOT NULL DEFAULT 5;
         UPDATE file SET name = 'starred' WHERE id = 'f1'",
    )
    .await
    .unwrap();
    until(&mut client, "the new column", |rows| {
        has(rows, "file", "starred") && rows["file"].iter().all(|row| row.contains("\"stars\":5"))
    })
    .await;
    // A rule cannot be judged without its column: the table is not served, the others are.
    sql.batch_execute(
        "ALTER TABLE file DROP COLUMN shared CASCADE;
         DROP TRIGGER IF EXISTS file_unshared ON file;
         UPDATE file SET name = 'unseen' WHERE id = 'f1';
         UPDATE \"user\" SET color = 'plaid' WHERE id = 'u1'",
    )
    .await
    .unwrap();
    until(&mut client, "the rest goes on", |rows| {
        rows.get("file").is_none_or(|files| files.is_empty()) && has(rows, "user", "plaid")
    })
    .await;
    eventually("it is said which table is not served", || async {
        (app.server.as_ref()?.health().rejected_tables == ["file"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_is_noticed_and_everyone_is_whole_again() {
    let app = App::example("files").await;
    let sql = app.database.connect().await;
    let mut client = app.client("u1");
    live(&mut client).await;
    let slot = app.database.names().slot;
    eventually("the slot is dropped under the server's feet", || async {
        let cut = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                   WHERE slot_name = $1 AND active_pid IS NOT NULL";
        sql.query(cut, &[&slot]).await.ok()?;
        sql.query("SELECT pg_drop_replication_slot($1)", &[&slot]).await.ok()
    })
    .await;
    sql.batch_execute("UPDATE file SET name = 'in the gap' WHERE id = 'f1'").await.unwrap();
    until(&mut client, "the change in the gap", |rows| has(rows, "file", "in the gap")).await;
    sql.batch_execute("UPDATE file SET name = 'streaming again' WHERE id = 'f1'").await.unwrap();
    until(&mut client, "a change after it", |rows| has(rows, "file", "streaming again")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_read_keeps_only_those_waiting_who_see_it() {
    // A server that is not a superuser.
    let tables = "
        CREATE TABLE diary (id int PRIMARY KEY, owner text);
        CREATE INDEX ON diary (owner);
        CREATE TABLE reader (list int, person text, PRIMARY KEY (list, person));
        CREATE INDEX ON reader (person);
        CREATE TABLE list (id int PRIMARY KEY, name text);
        INSERT INTO diary VALUES (1, 'ann'), (2, 'bob');
        INSERT INTO list VALUES (1, 'groceries');
        INSERT INTO reader VALUES (1, 'ann');
        DO $$ DECLARE role text := current_database() || '_server'; BEGIN
          EXECUTE format('CREATE ROLE %I LOGIN REPLICATION', role);
          EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA public TO %I', role);
          EXECUTE format('ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO %I', role);
          EXECUTE format('ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO %I', role);
        END $$";
    let definition = "
        [tables.diary]
        visible = 'owner = auth.user_id'
        [tables.list]
        visible = 'id IN (SELECT list FROM reader WHERE person = auth.user_id)'";
    let cluster = rowtide_tests::cluster().await;
    let app = App::with_options(definition, tables, |options| {
        let database = options.gateway.database.database();
        let url = cluster.url(database).replacen("postgres@", &format!("{database}_server@"), 1);
        options.gateway.database = ConnectOptions::parse(&url).unwrap();
    })
    .await;
    let unreadable = || app.server.as_ref().unwrap().health().unreadable_tables;
    let role = format!("{}_server", app.database.name());
    app.database.run(&format!("REVOKE SELECT ON list FROM {role}")).await;
    let mut ann = app.client("ann");
    eventually("that is told", || async { (unreadable() == ["list"]).then_some(()) }).await;
    // Nobody else waits, neither now nor later.
    for user in ["bob", "cleo"] {
        let mut client = app.client(user);
        let waited = tokio::time::timeout(PATIENCE, live(&mut client)).await;
        assert!(waited.is_ok(), "{user} waits");
    }
    assert_eq!(unreadable(), ["list"]);
    app.database.run(&format!("GRANT SELECT ON list TO {role}")).await;
    until(&mut ann, "what she waited for", |rows| {
        rows.contains_key("list") && has(rows, "list", "groceries")
    })
    .await;
    eventually("nothing more is told", || async { unreadable().is_empty().then_some(()) }).await;
}
