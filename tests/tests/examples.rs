//! The examples: files keeps its derived columns true, whoever writes and however many write at once;
//! the tracker shows each change to those who are to see it, whichever way the right came or went. The others play the stories
//! that their pages tell.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rowtide::application::Application;
use rowtide_client::{Client as Watcher, Event};
use rowtide_postgres::migrate::migrate;
use rowtide_tests::{App, Database, PATIENCE, Rows, held, truth};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

#[path = "examples/chat.rs"]
mod chat;
#[path = "examples/saas.rs"]
mod saas;
#[path = "examples/story.rs"]
mod story;
#[path = "examples/supabase.rs"]
mod supabase;

/// Rows whose derived columns say what is not so; the rules of the example in SQL.
const UNTRUE: &str = r#"
  SELECT 'the owner of ' || f."id" FROM "file" f JOIN "user" u ON u."id" = f."ownerId"
  WHERE (f."ownerName", f."ownerAvatar") IS DISTINCT FROM (u."name", u."avatar")
  UNION ALL
  SELECT 'the state of ' || s."userId" || ' for ' || f."id"
  FROM "file_state" s JOIN "file" f ON f."id" = s."fileId"
  WHERE s."isFileOwner" IS DISTINCT FROM (f."ownerId" = s."userId")"#;

/// Guests of files that were shared once and are not any more.
const GUESTS_LEFT: &str = r#"
  SELECT s."userId" || ' of ' || f."id"
  FROM "file_state" s JOIN "file" f ON f."id" = s."fileId"
  WHERE f."ownerId" <> s."userId" AND NOT f."shared" AND f."id" LIKE 'new%'"#;

async fn files() -> Database {
    let application = Application::example("files").unwrap();
    let database = Database::create().await;
    let mut client = database.connect().await;
    migrate(&mut client, &application.migrations).await.unwrap_or_else(|error| panic!("{error}"));
    database
}

async fn texts(client: &Client, sql: &str) -> Vec<String> {
    let rows = client.query(sql, &[]).await.unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
    rows.iter().map(|row| row.get(0)).collect()
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_has_a_thousand_people_their_files_and_guests() {
    let database = files().await;
    let client = database.connect().await;
    let count = async |what: &str| -> i64 {
        client.query_one(&format!("SELECT count(*) FROM {what}"), &[]).await.unwrap().get(0)
    };
    assert_eq!(count("\"user\"").await, 1_000);
    assert_eq!(count("file").await, 20_000);
    assert!(count(r#"file_state WHERE NOT "isFileOwner""#).await > 100, "guests");
    assert_eq!(texts(&client, UNTRUE).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn derived_columns_are_true_after_each_kind_of_write() {
    let database = files().await;
    let client = database.connect().await;
    let guests = async |file: &str| {
        let sql = format!(
            r#"SELECT "userId" FROM "file_state" WHERE "fileId" = '{file}' AND NOT "isFileOwner" ORDER BY 1"#
        );
        texts(&client, &sql).await
    };
    for write in [
        r#"UPDATE "file" SET "shared" = true WHERE "id" = 'f1';
           INSERT INTO "file_state" ("userId", "fileId") VALUES ('u900', 'f1'), ('u901', 'f1')"#,
        r#"UPDATE "user" SET "name" = 'Another', "avatar" = 'other.png' WHERE "id" = 'u1'"#,
        r#"UPDATE "user" SET "name" = 'The same' WHERE "id" IN ('u1', 'u2', 'u900')"#,
        r#"UPDATE "file" SET "ownerName" = 'forged', "ownerAvatar" = 'forged' WHERE "id" = 'f1'"#,
        r#"UPDATE "file_state" SET "isFileOwner" = NOT "isFileOwner" WHERE "fileId" = 'f1'"#,
        r#"INSERT INTO "file_state" ("userId", "fileId", "isFileOwner") VALUES ('u902', 'f1', true)"#,
        r#"UPDATE "file_state" SET "userId" = 'u903' WHERE "userId" = 'u902' AND "fileId" = 'f1'"#,
        r#"UPDATE "file_state" SET "fileId" = 'f5', "isFileOwner" = true
           WHERE "userId" = 'u901' AND "fileId" = 'f1'"#,
        r#"UPDATE "file_state" SET "fileId" = 'f1' WHERE "userId" = 'u901' AND "fileId" = 'f5'"#,
        r#"UPDATE "file" SET "ownerId" = 'u900' WHERE "id" = 'f1'"#,
        r#"UPDATE "file" SET "ownerId" = 'u1', "ownerName" = 'forged' WHERE "id" = 'f1'"#,
    ] {
        run(&client, write).await;
        assert_eq!(texts(&client, UNTRUE).await, Vec::<String>::new(), "{write}");
    }
    assert_eq!(guests("f1").await, ["u900", "u901", "u903"]);
    run(&client, r#"UPDATE "file" SET "name" = 'still shared' WHERE "id" = 'f1'"#).await;
    assert_eq!(guests("f1").await.len(), 3);
    run(&client, r#"UPDATE "file" SET "shared" = false WHERE "id" = 'f1'"#).await;
    assert_eq!(guests("f1").await, Vec::<String>::new());
    let owner = r#"SELECT "userId" FROM "file_state" WHERE "fileId" = 'f1'"#;
    assert_eq!(texts(&client, owner).await, ["u1"], "the owner's own state stays");
    run(&client, r#"DELETE FROM "user" WHERE "id" = 'u1'"#).await;
    assert_eq!(texts(&client, r#"SELECT "id" FROM "file" WHERE "ownerId" = 'u1'"#).await.len(), 0);
}

/// What people do to a few files and users, so that they meet; each touches one file at a time.
fn write(rng: &mut StdRng, serial: usize) -> String {
    let user = format!("u{}", rng.random_range(1..=4));
    let file = format!("new{}", rng.random_range(0..8));
    match rng.random_range(0..10) {
        0 => format!(r#"UPDATE "user" SET "name" = 'Name {serial}' WHERE "id" = '{user}'"#),
        1 => format!(
            r#"UPDATE "user" SET "avatar" = '{serial}.png', "name" = 'N{serial}' WHERE "id" = '{user}'"#
        ),
        2 => format!(
            r#"BEGIN;
            INSERT INTO "file" ("id", "name", "ownerId", "thumbnail", "shared", "sharedLinkType",
              "published", "lastPublished", "publishedSlug", "createdAt", "updatedAt", "isEmpty")
            VALUES ('{file}', 'New', '{user}', '', true, 'edit', false, 0, '{file}', 0, 0, true)
            ON CONFLICT DO NOTHING;
            INSERT INTO "file_state" ("userId", "fileId")
            SELECT "ownerId", "id" FROM "file" WHERE "id" = '{file}' ON CONFLICT DO NOTHING;
            COMMIT"#
        ),
        3 => format!(r#"UPDATE "file" SET "shared" = NOT "shared" WHERE "id" = '{file}'"#),
        // As the rules of a mutation will: only for a file that is shared, held until the end.
        4 => format!(
            r#"INSERT INTO "file_state" ("userId", "fileId")
            SELECT '{user}', "id" FROM "file" WHERE "id" = '{file}' AND "shared" FOR SHARE
            ON CONFLICT DO NOTHING"#
        ),
        5 => format!(
            r#"UPDATE "file" SET "updatedAt" = {serial}, "ownerName" = 'forged' WHERE "id" = '{file}'"#
        ),
        6 => format!(
            r#"UPDATE "file_state" SET "lastVisitAt" = {serial} WHERE "userId" = '{user}' AND "fileId" = '{file}'"#
        ),
        7 => format!(
            r#"UPDATE "file_state" SET "isFileOwner" = NOT "isFileOwner" WHERE "userId" = '{user}' AND "fileId" = '{file}'"#
        ),
        // While it is shared: only a file that stops to be loses the states of those who do not own it.
        8 => {
            format!(r#"UPDATE "file" SET "ownerId" = '{user}' WHERE "id" = '{file}' AND "shared""#)
        }
        _ => format!(r#"DELETE FROM "file" WHERE "id" = '{file}'"#),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_who_write_at_once_neither_deadlock_nor_leave_untruth() {
    let database = files().await;
    let seed = std::env::var("ROWTIDE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    let mut writers = Vec::new();
    for writer in 0..6 {
        let client = database.connect().await;
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(writer));
        writers.push(tokio::spawn(async move {
            for serial in 0..300 {
                let sql = write(&mut rng, serial);
                if let Err(error) = client.batch_execute(&sql).await {
                    // A file may be deleted while someone else begins to visit it.
                    let expected = error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION);
                    assert!(expected, "ROWTIDE_SEED={seed}: {error:?}\n{sql}");
                    client.batch_execute("ROLLBACK").await.unwrap();
                }
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let client = database.connect().await;
    assert_eq!(texts(&client, UNTRUE).await, Vec::<String>::new(), "ROWTIDE_SEED={seed}");
    assert_eq!(texts(&client, GUESTS_LEFT).await, Vec::<String>::new(), "ROWTIDE_SEED={seed}");
}

const TRACKER: &str = include_str!("../../examples/tracker/rowtide.toml");

/// The id of a row of the tracker's sample data.
fn id(kind: char, number: u32) -> String {
    format!("00000000-0000-4000-{kind}000-{number:012}")
}

/// Takes events in until the replica holds these rows.
async fn holds(watcher: &mut Watcher, expected: &Rows, after: &str) {
    let wait = async {
        while held(&watcher.replica()) != *expected {
            let event = watcher.next().await;
            assert!(!matches!(event, None | Some(Event::Stopped(_))), "{event:?} after {after}");
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "not in time after {after}: {:?}", held(&watcher.replica()));
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_follows_the_tracker_whichever_way_a_right_comes_or_goes() {
    let app = App::example("tracker").await;
    let client = app.database.connect().await;
    // A member of workspace 1, its owner, a member of workspace 2, and one who is in neither.
    let people = ["u5", "u1", "u15", "u100"];
    let mut watchers: Vec<(&str, Watcher)> =
        people.iter().map(|person| (*person, app.client(person))).collect();
    let (home, other) = (id('8', 1), id('8', 2));
    let (project, theirs) = (id('9', 1), id('9', 4));
    let (issue, comment) = (id('a', 5), id('b', 9));
    let steps = [
        // Single issues, for somebody who is no member.
        format!("INSERT INTO issue_guest VALUES ('{issue}', 'u100')"),
        format!("UPDATE issue SET title = 'seen by a guest' WHERE id = '{issue}'"),
        format!("INSERT INTO comment (issue_id, author_id, body) VALUES ('{issue}', 'u1', 'new')"),
        format!("UPDATE comment SET issue_id = '{}' WHERE id = '{comment}'", id('a', 6)),
        format!("UPDATE issue_guest SET issue_id = '{}' WHERE person_id = 'u100'", id('a', 6)),
        "UPDATE issue_guest SET person_id = 'u101' WHERE person_id = 'u100'".to_owned(),
        // What a project holds goes where it goes.
        format!("UPDATE project SET workspace_id = '{other}' WHERE id = '{project}'"),
        format!("UPDATE issue SET project_id = '{theirs}' WHERE project_id = '{project}'"),
        format!("UPDATE project SET archived_at = now() WHERE id = '{theirs}'"),
        format!("UPDATE issue SET title = 'archived' WHERE id = '{issue}'"),
        format!("UPDATE project SET archived_at = NULL WHERE id = '{theirs}'"),
        format!("UPDATE project SET workspace_id = '{home}' WHERE id = '{project}'"),
        // Members come and go.
        format!("DELETE FROM member WHERE workspace_id = '{home}' AND person_id = 'u5'"),
        format!("INSERT INTO member VALUES ('{home}', 'u100', 'suspended')"),
        "UPDATE member SET role = 'member' WHERE role = 'suspended'".to_owned(),
        format!(
            "UPDATE member SET workspace_id = '{other}' WHERE person_id = 'u100' AND workspace_id = '{home}'"
        ),
        format!(
            "BEGIN; DELETE FROM member WHERE person_id = 'u1'; \
                 INSERT INTO issue_guest VALUES ('{issue}', 'u1'); COMMIT"
        ),
        format!("DELETE FROM issue WHERE id = '{issue}'"),
        format!("DELETE FROM workspace WHERE id = '{other}'"),
    ];
    let mut moved = 0;
    for step in &steps {
        let mut before = Vec::new();
        for (person, watcher) in &mut watchers {
            let expected = truth(&client, TRACKER, person).await;
            holds(watcher, &expected, "what was before").await;
            before.push(expected);
        }
        run(&client, step).await;
        let mut changed = false;
        for ((person, watcher), before) in watchers.iter_mut().zip(before) {
            let expected = truth(&client, TRACKER, person).await;
            changed |= expected != before;
            holds(watcher, &expected, step).await;
        }
        moved += usize::from(changed);
    }
    // All but what happens in an archived project was for somebody to see.
    assert_eq!(moved, steps.len() - 1);
}
