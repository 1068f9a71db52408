//! Who may do what: the rules of both examples, tried by everyone. Each line of a table is read as:
//! what is tried, how, and what becomes of it for each of the roles. `$me` is whoever tries. What was
//! applied is undone before the next one tries; what was rejected must have changed nothing, and its
//! rejection must not tell a secret.

use futures_util::future::join_all;
use rowtide_tests::small::{
    ARCHIVED, GUESTS_COMMENT, MEMBERS_COMMENT, OUR_ISSUE, OUR_PROJECT, OURS, SMALL_FILES,
    SMALL_TRACKER, THEIR_PROJECT, THEIRS, small_file,
};
use rowtide_tests::{App, Writer, delete, eventually, insert, update};
use serde_json::{Value, json};
use tokio_postgres::Client;

/// An expectation: applied.
const OK: &str = "applied";
/// Rejected by what the rules say of columns, before a row is looked at.
const NEVER: &str = "forbidden";
const NOT_FOUND: &str = "not_found";

/// What is tried, the operations, and what becomes of it for each role: [`OK`], or a code and what the
/// message says.
type Line<'a> = (&'a str, Value, [&'a str; 5]);

struct Stage {
    sql: Client,
    /// Those that refer to others come before them.
    tables: &'static [&'static str],
    seed: &'static str,
    writers: Vec<(&'static str, Writer)>,
}

impl Stage {
    async fn new(
        app: &App,
        tables: &'static [&'static str],
        seed: &'static str,
        roles: [&'static str; 5],
    ) -> Stage {
        let mut writers = Vec::new();
        for role in roles {
            writers.push((role, Writer::live(app, role).await));
        }
        Stage { sql: app.database.connect().await, tables, seed, writers }
    }

    /// Every row.
    async fn all(&self) -> String {
        let rows =
            |table: &&str| format!("(SELECT jsonb_agg(t ORDER BY t::text) FROM \"{table}\" t)");
        let rows: Vec<String> = self.tables.iter().map(rows).collect();
        let sql = format!("SELECT jsonb_build_array({})::text", rows.join(", "));
        self.sql.query_one(&sql, &[]).await.unwrap().get(0)
    }

    async fn undo(&self) {
        // A `TRUNCATE` would be in the way of those who load rows.
        let empty: String =
            self.tables.iter().map(|table| format!("DELETE FROM \"{table}\"; ")).collect();
        let sql = format!("BEGIN; {empty} {}; COMMIT", self.seed);
        self.sql.batch_execute(&sql).await.unwrap();
    }

    async fn play(mut self, app: &App, lines: Vec<Line<'_>>) {
        let mut wrong = Vec::new();
        let mut writers = std::mem::take(&mut self.writers);
        let mut before = self.all().await;
        for (what, ops, expected) in lines {
            for ((role, writer), expected) in writers.iter_mut().zip(expected) {
                let ops = serde_json::from_str(&ops.to_string().replace("$me", role)).unwrap();
                let rejected = writer.mutate(ops).await.rejected;
                app.commits_are_seen(&self.sql).await;
                let (code, said) = expected.split_once(' ').unwrap_or((expected, ""));
                let (is, message) = rejected.unwrap_or_else(|| (OK.to_owned(), said.to_owned()));
                if is != code || !message.contains(said) || message.contains("secret") {
                    wrong.push(format!("{what}, by {role}: {is} {message:?}, not {expected:?}"));
                }
                let after = self.all().await;
                if is != OK && after != before {
                    wrong.push(format!("{what}, by {role}: rejected, and yet {after}"));
                }
                if is == OK {
                    self.undo().await;
                    before = self.all().await;
                }
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }
}

/// A person as they insert themselves.
fn person(id: &str, email: &str) -> Value {
    json!({
        "id": id, "name": "New", "email": email, "avatar": "secret", "color": "red",
        "exportFormat": "png", "exportTheme": "auto", "exportBackground": true,
        "exportPadding": true, "createdAt": 1, "updatedAt": 1, "flags": "",
    })
}

/// Each column is written by itself.
fn each(table: &str, key: &Value, columns: Value) -> Vec<(String, Value)> {
    let one = |(column, value): (&String, &Value)| {
        let mut row = key.clone();
        row[column] = value.clone();
        (column.clone(), json!([update(table, row)]))
    };
    columns.as_object().unwrap().iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_may_do_with_files() {
    let app = App::small_files().await;
    let roles = ["owner", "editor", "viewer", "stranger", "newcomer"];
    let stage = Stage::new(&app, &["file_state", "file", "user"], SMALL_FILES, roles).await;
    let file = |id: &str, row: Value| {
        let mut row = row;
        row["id"] = id.into();
        json!([update("file", row)])
    };
    let with = |row: Value, more: Value| {
        let mut row = row;
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let state = |user: &str, file: &str| json!({ "userId": user, "fileId": file });
    let new_file = |row: Value| {
        let state = state(row["ownerId"].as_str().unwrap(), row["id"].as_str().unwrap());
        json!([insert("file", row), insert("file_state", state)])
    };
    let mine = || small_file("new", "$me");
    #[rustfmt::skip]
    let mut lines: Vec<Line<'_>> = vec![
        // user
        ("one's own row", json!([insert("user", person("$me", "$me@secret.example"))]), [OK; 5]),
        ("another email", json!([insert("user", person("$me", "new@example.com"))]),
            ["forbidden `email`", "forbidden `email`", "forbidden `email`", "forbidden `email`", OK]),
        ("the owner's row", json!([insert("user", person("owner", "owner@secret.example"))]),
            [OK, NEVER, NEVER, NEVER, NEVER]),
        ("somebody's new row", json!([insert("user", person("nobody", "x"))]), ["forbidden `user`"; 5]),
        ("one's name", json!([update("user", json!({ "id": "$me", "name": "New" }))]), [OK, OK, OK, OK, NOT_FOUND]),
        ("the owner's name", json!([update("user", json!({ "id": "owner", "name": "New" }))]),
            [OK, NOT_FOUND, NOT_FOUND, NOT_FOUND, NOT_FOUND]),
        ("one's own end", json!([delete("user", json!({ "id": "$me" }))]), ["forbidden `user`"; 5]),
        // file: insert
        ("a new file with its state", new_file(mine()), [OK, OK, OK, OK, "constraint file_ownerId_fkey"]),
        ("a copy of a file", new_file(with(mine(), json!({ "createSource": "f/edit" }))),
            [OK, OK, OK, OK, "constraint file_ownerId_fkey"]),
        ("a file for the owner", new_file(small_file("new", "owner")),
            [OK, "forbidden `file`", "forbidden `file`", "forbidden `file`", "forbidden `file`"]),
        ("an owner's name", new_file(with(mine(), json!({ "ownerName": "Me" }))), ["forbidden `ownerName`"; 5]),
        ("an owner's picture", new_file(with(mine(), json!({ "ownerAvatar": "Me" }))), ["forbidden `ownerAvatar`"; 5]),
        ("over a file that one may see", json!([insert("file", small_file("edit", "$me"))]),
            [OK, "forbidden `ownerId`", NEVER, NEVER, NEVER]),
        ("over a file that one may not see", json!([insert("file", small_file("private", "$me"))]),
            [OK, NEVER, NEVER, NEVER, NEVER]),
        ("over a deleted file", json!([insert("file", small_file("gone", "$me"))]), ["forbidden `file`"; 5]),
        ("over a file, and nothing but what may be written",
            json!([insert("file", json!({ "id": "edit", "ownerId": "owner", "createdAt": 1, "updatedAt": 2 }))]),
            [OK, OK, NEVER, NEVER, NEVER]),
        // file: update
        ("the name of a private file", file("private", json!({ "name": "New" })),
            [OK, NOT_FOUND, NOT_FOUND, NOT_FOUND, NOT_FOUND]),
        ("the name of a file to edit", file("edit", json!({ "name": "New" })),
            [OK, "forbidden `name`", NOT_FOUND, NOT_FOUND, NOT_FOUND]),
        ("when a file to edit was edited", file("edit", json!({ "updatedAt": 2 })),
            [OK, OK, NOT_FOUND, NOT_FOUND, NOT_FOUND]),
        ("this and the name", file("edit", json!({ "updatedAt": 2, "name": "New" })),
            [OK, "forbidden `name`", NOT_FOUND, NOT_FOUND, NOT_FOUND]),
        ("when a file to view was edited", file("view", json!({ "updatedAt": 2 })),
            [OK, NOT_FOUND, "forbidden `updatedAt`", NOT_FOUND, NOT_FOUND]),
        ("a deleted file", file("gone", json!({ "updatedAt": 2 })), [NOT_FOUND; 5]),
        ("a deleted file back", file("gone", json!({ "isDeleted": false })), [NOT_FOUND; 5]),
        ("a file that is not there", file("nowhere", json!({ "updatedAt": 2 })), [NOT_FOUND; 5]),
        ("into the bin", file("edit", json!({ "isDeleted": true })),
            [OK, "forbidden `isDeleted`", NOT_FOUND, NOT_FOUND, NOT_FOUND]),
        // file: delete
        ("a file's end", json!([delete("file", json!({ "id": "edit" }))]),
            [OK, "forbidden `file`", NOT_FOUND, NOT_FOUND, NOT_FOUND]),
        ("a deleted file's end", json!([delete("file", json!({ "id": "gone" }))]), [NOT_FOUND; 5]),
        // file_state
        ("a state of a private file", json!([insert("file_state", state("$me", "private"))]),
            [OK, NEVER, NEVER, NEVER, NEVER]),
        ("a state of a shared file", json!([insert("file_state", state("$me", "edit"))]),
            [OK, OK, OK, OK, "constraint file_state_userId_fkey"]),
        ("a state of no file", json!([insert("file_state", state("$me", "nowhere"))]), [NEVER; 5]),
        ("a state for the viewer", json!([insert("file_state", state("viewer", "edit"))]),
            [NEVER, NEVER, OK, NEVER, NEVER]),
        ("over the viewer's state", json!([insert("file_state", state("viewer", "view"))]),
            [NEVER, NEVER, OK, NEVER, NEVER]),
        ("whose file it is", json!([insert("file_state", with(state("$me", "edit"), json!({ "isFileOwner": true })))]),
            ["forbidden `isFileOwner`"; 5]),
        ("a pin", json!([update("file_state", with(state("$me", "edit"), json!({ "isPinned": true })))]),
            [OK, OK, NOT_FOUND, NOT_FOUND, NOT_FOUND]),
        ("a pin of the editor's", json!([update("file_state", with(state("editor", "edit"), json!({ "isPinned": true })))]),
            [NOT_FOUND, OK, NOT_FOUND, NOT_FOUND, NOT_FOUND]),
        ("a pin of what is not shared", json!([update("file_state", with(state("$me", "closed"), json!({ "isPinned": true })))]),
            [OK, NOT_FOUND, "forbidden `isPinned`", NOT_FOUND, NOT_FOUND]),
        ("one's state away", json!([delete("file_state", state("$me", "edit"))]),
            [OK, OK, NOT_FOUND, NOT_FOUND, NOT_FOUND]),
        ("a state of what is not shared away", json!([delete("file_state", state("$me", "closed"))]),
            [OK, NOT_FOUND, OK, NOT_FOUND, NOT_FOUND]),
    ];
    let owners = json!({
        "name": "New", "thumbnail": "x", "shared": true, "sharedLinkType": "edit", "published": true,
        "lastPublished": 2, "publishedSlug": "x", "updatedAt": 2, "isEmpty": false,
    });
    let never = json!({
        "ownerId": "stranger", "createdAt": 2, "createSource": "f/edit", "ownerName": "x", "ownerAvatar": "x",
    });
    let of_user = json!({ "email": "x", "avatar": "x", "createdAt": 2, "flags": "x" });
    let of_state = json!({ "firstVisitAt": 2, "isFileOwner": true });
    let mut columns = Vec::new();
    let (private, me, mine) =
        (json!({ "id": "private" }), json!({ "id": "$me" }), state("$me", "edit"));
    for (column, ops) in each("file", &private, owners) {
        columns.push((column, ops, OK));
    }
    for (column, ops) in each("file", &private, never)
        .into_iter()
        .chain(each("user", &me, of_user))
        .chain(each("file_state", &mine, of_state))
    {
        columns.push((column, ops, NEVER));
    }
    let said: Vec<String> =
        columns.iter().map(|(column, ..)| format!("{NEVER} `{column}`")).collect();
    for ((column, ops, expected), said) in columns.iter().zip(&said) {
        let expected = match *expected {
            OK => [OK, NOT_FOUND, NOT_FOUND, NOT_FOUND, NOT_FOUND],
            // Whoever they are, and whether there is such a row or not.
            _ => [said.as_str(); 5],
        };
        lines.push((column, ops.clone(), expected));
    }
    stage.play(&app, lines).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_may_do_with_issues() {
    let app = App::small_tracker().await;
    let roles = ["owner", "member", "suspended", "guest", "stranger"];
    let tables = &["issue_guest", "comment", "issue", "project", "member", "workspace", "person"];
    let stage = Stage::new(&app, tables, SMALL_TRACKER, roles).await;
    const NEW: &str = "50000000-0000-0000-0000-000000000000";
    let of =
        |workspace: &str, person: &str| json!({ "workspace_id": workspace, "person_id": person });
    let member = |workspace: &str, person: &str, role: &str| json!({ "workspace_id": workspace, "person_id": person, "role": role });
    let issue = |author: &str| json!({ "id": NEW, "project_id": OUR_PROJECT, "title": "New", "author_id": author });
    let comment = |author: &str| json!({ "id": NEW, "issue_id": OUR_ISSUE, "author_id": author, "body": "New" });
    let guest = |person: &str| json!({ "issue_id": OUR_ISSUE, "person_id": person });
    let no: &str = NEVER;
    let nf: &str = NOT_FOUND;
    #[rustfmt::skip]
    stage.play(&app, vec![
        // person
        ("oneself again", json!([insert("person", json!({ "id": "$me", "name": "New" }))]), [OK; 5]),
        ("somebody", json!([insert("person", json!({ "id": "new", "name": "New" }))]), ["forbidden `person`"; 5]),
        ("over the owner", json!([insert("person", json!({ "id": "owner", "name": "New" }))]), [OK, no, no, no, no]),
        ("the owner's name", json!([update("person", json!({ "id": "owner", "name": "New" }))]), [OK, nf, nf, nf, nf]),
        ("oneself away", json!([delete("person", json!({ "id": "$me" }))]), ["forbidden `person`"; 5]),
        // workspace
        ("a new workspace of one's own", json!([
            insert("workspace", json!({ "id": NEW, "name": "New" })),
            insert("member", member(NEW, "$me", "owner")),
            insert("project", json!({ "id": NEW, "workspace_id": NEW, "name": "New" })),
        ]), [OK; 5]),
        ("a new workspace of the owner's", json!([
            insert("workspace", json!({ "id": NEW, "name": "New" })),
            insert("member", member(NEW, "owner", "owner")),
        ]), [OK, "forbidden ops[1]", "forbidden `member`", no, no]),
        ("a workspace's name", json!([update("workspace", json!({ "id": OURS, "name": "New" }))]),
            [OK, "forbidden `name`", nf, nf, nf]),
        ("over a workspace", json!([insert("workspace", json!({ "id": OURS, "name": "New" }))]), [OK, no, no, no, no]),
        ("a workspace's end", json!([delete("workspace", json!({ "id": OURS }))]), [OK, "forbidden `workspace`", nf, nf, nf]),
        // member
        ("a new member", json!([insert("member", member(OURS, "guest", "member"))]), [OK, no, no, no, no]),
        ("oneself as the owner", json!([insert("member", member(OURS, "$me", "owner"))]), [OK, no, no, no, no]),
        ("oneself as a member", json!([insert("member", member(OURS, "$me", "member"))]), [OK, no, no, no, no]),
        ("a workspace as a back door", json!([
            insert("workspace", json!({ "id": OURS, "name": "New" })),
            insert("member", member(OURS, "$me", "owner")),
        ]), [OK, no, no, no, no]),
        ("a role", json!([update("member", member(OURS, "member", "owner"))]), [OK, "forbidden `role`", nf, nf, nf]),
        ("one's own suspension", json!([update("member", member(OURS, "suspended", "member"))]),
            [OK, no, nf, nf, nf]),
        ("leaving", json!([delete("member", of(OURS, "$me"))]), [OK, OK, nf, nf, nf]),
        ("another away", json!([delete("member", of(OURS, "both"))]), [OK, "forbidden `member`", nf, nf, nf]),
        // project
        ("a new project", json!([insert("project", json!({ "workspace_id": OURS, "id": NEW, "name": "New" }))]),
            [OK, OK, no, no, no]),
        ("a project's name", json!([update("project", json!({ "id": OUR_PROJECT, "name": "New" }))]), [OK, OK, nf, nf, nf]),
        ("a project to them", json!([update("project", json!({ "id": OUR_PROJECT, "workspace_id": THEIRS }))]),
            ["forbidden `workspace_id`", no, nf, nf, nf]),
        ("their project to us", json!([update("project", json!({ "id": THEIR_PROJECT, "workspace_id": OURS }))]),
            [nf, nf, nf, nf, no]),
        ("an archived project", json!([update("project", json!({ "id": ARCHIVED, "archived_at": null }))]), [nf; 5]),
        ("into the archive", json!([update("project", json!({ "id": OUR_PROJECT, "archived_at": "2026-01-31T12:00:00Z" }))]),
            [OK, OK, nf, nf, nf]),
        ("a project's end", json!([delete("project", json!({ "id": OUR_PROJECT }))]), [OK, "forbidden `project`", nf, nf, nf]),
        // issue
        ("a new issue", json!([insert("issue", issue("$me"))]), [OK, OK, no, no, no]),
        ("a new issue of the member's", json!([insert("issue", issue("member"))]), ["forbidden `issue`", OK, no, no, no]),
        ("over an issue", json!([insert("issue", json!({ "id": OUR_ISSUE, "status": "done" }))]), [OK, OK, no, no, no]),
        ("an issue's status", json!([update("issue", json!({ "id": OUR_ISSUE, "status": "done" }))]),
            [OK, OK, nf, "forbidden `status`", nf]),
        ("an issue to them", json!([update("issue", json!({ "id": OUR_ISSUE, "project_id": THEIR_PROJECT }))]),
            [no, no, nf, "forbidden `project_id`", nf]),
        ("an issue to nowhere", json!([update("issue", json!({ "id": OUR_ISSUE, "project_id": NEW }))]), [no, no, nf, no, nf]),
        ("an author", json!([update("issue", json!({ "id": OUR_ISSUE, "author_id": "$me" }))]), ["forbidden `author_id`"; 5]),
        ("an issue's end", json!([delete("issue", json!({ "id": OUR_ISSUE }))]), [OK, OK, nf, "forbidden `issue`", nf]),
        // comment
        ("a new comment", json!([insert("comment", comment("$me"))]), [OK, OK, no, OK, no]),
        ("a new comment of the guest's", json!([insert("comment", comment("guest"))]), [no, no, no, OK, no]),
        ("the member's comment", json!([update("comment", json!({ "id": MEMBERS_COMMENT, "body": "New" }))]),
            ["forbidden `body`", OK, nf, no, nf]),
        ("the guest's comment", json!([update("comment", json!({ "id": GUESTS_COMMENT, "body": "New" }))]), [no, no, nf, OK, nf]),
        ("a comment to nowhere", json!([update("comment", json!({ "id": GUESTS_COMMENT, "issue_id": NEW }))]),
            ["forbidden `issue_id`"; 5]),
        ("the guest's comment's end", json!([delete("comment", json!({ "id": GUESTS_COMMENT }))]), [no, no, nf, OK, nf]),
        // issue_guest
        ("a new guest", json!([insert("issue_guest", guest("stranger"))]), [OK, OK, no, no, no]),
        ("oneself as a guest", json!([insert("issue_guest", guest("$me"))]), [OK, OK, no, no, no]),
        ("over a guest", json!([insert("issue_guest", guest("guest"))]), ["forbidden `issue_guest`"; 5]),
        ("nothing of a guest", json!([update("issue_guest", guest("guest"))]), ["forbidden `issue_guest`"; 5]),
        ("a guest away", json!([delete("issue_guest", guest("guest"))]), [OK, OK, nf, OK, nf]),
    ]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_place_is_given_once() {
    // Whatever the database's own defaults are.
    for isolation in ["read committed", "serializable"] {
        let app = App::small_files().await;
        app.database
            .run(&format!(
                "ALTER DATABASE {} SET default_transaction_isolation = '{isolation}';
                 INSERT INTO file (id, name, \"ownerId\", thumbnail, shared, \"sharedLinkType\", published,
                   \"lastPublished\", \"publishedSlug\", \"createdAt\", \"updatedAt\", \"isEmpty\", \"isDeleted\")
                 SELECT 'n' || n, '', 'stranger', '', false, 'view', false, 0, 'n' || n, 1, 1, true, n > 199
                 FROM generate_series(1, 250) AS n",
                app.database.name()
            ))
            .await;
        let mut writers = Vec::new();
        for _ in 0..10 {
            writers.push(Writer::live(&app, "stranger").await);
        }
        let race = (0..).zip(&mut writers).map(|(n, writer)| async move {
            let new = insert("file", small_file(&format!("last{n}"), "stranger"));
            writer.mutate(json!([new])).await.rejected
        });
        let rejected: Vec<_> = join_all(race).await.into_iter().flatten().collect();
        assert_eq!(rejected.len(), 9, "{isolation}: {rejected:?}");
        for (code, message) in &rejected {
            assert_eq!(code, "max_files_reached", "{isolation}: {message}");
            assert!(message.contains("200"), "{message}");
        }
        let files = r#"SELECT count(*) FROM file WHERE "ownerId" = 'stranger' AND NOT "isDeleted""#;
        assert_eq!(app.one(files).await, "200", "{isolation}");
        // What does not count, and what is there already, is not one more; and what goes makes room.
        let mut deleted = small_file("deleted", "stranger");
        deleted["isDeleted"] = true.into();
        let writer = &mut writers[0];
        writer.mutate(json!([insert("file", deleted)])).await.applied();
        let over = json!({ "id": "n1", "ownerId": "stranger", "name": "over" });
        writer.mutate(json!([insert("file", over)])).await.applied();
        let exchange =
            [delete("file", json!({ "id": "n2" })), insert("file", small_file("x", "stranger"))];
        writer.mutate(json!(exchange)).await.applied();
        let one_more = json!([insert("file", small_file("y", "stranger"))]);
        writer.mutate(one_more).await.rejected("max_files_reached", "ops[0]");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_goes_by_the_row_as_it_is_when_others_have_committed() {
    let app = App::small_files().await;
    let mut owner = Writer::live(&app, "owner").await;
    let mut renamed = small_file("private", "owner");
    renamed["name"] = "New".into();
    let delete = r#"DELETE FROM file WHERE id = 'private'"#;
    let insert_theirs = r#"
        INSERT INTO file (id, name, "ownerId", thumbnail, shared, "sharedLinkType", published,
          "lastPublished", "publishedSlug", "createdAt", "updatedAt", "isEmpty")
        VALUES ('private', '', 'OWNER', '', false, 'view', false, 0, 'x', 1, 1, true)"#;
    let insert_ours = insert_theirs.replace("OWNER", "owner");
    let insert_theirs = insert_theirs.replace("OWNER", "stranger");
    for (meanwhile, expected) in [
        (delete, OK),
        (&format!("{delete}; {insert_ours}"), OK),
        (&format!("{delete}; {insert_theirs}"), NEVER),
        (&insert_ours, OK),
        (&insert_theirs, NEVER),
    ] {
        let other = app.database.connect().await;
        let there = if meanwhile.contains("DELETE") { &insert_ours } else { "" };
        other.batch_execute(&format!("{delete}; {there}")).await.unwrap();
        other.batch_execute(&format!("BEGIN; {meanwhile}")).await.unwrap();
        let id = owner.send(json!([insert("file", renamed.clone())])).await;
        eventually("the insert waits", || async {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                           AND datname = current_database() AND application_name = 'rowtide mutate'";
            (app.one(waiting).await == "1").then_some(())
        })
        .await;
        other.batch_execute("COMMIT").await.unwrap();
        let rejected = owner.outcome(id).await.rejected;
        assert_eq!(rejected.map_or(OK.to_owned(), |(code, _)| code), expected, "{meanwhile}");
        let name = if expected == OK { "New" } else { "" };
        assert_eq!(
            app.one("SELECT name FROM file WHERE id = 'private'").await,
            name,
            "{meanwhile}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_counts_what_its_rule_says() {
    let app = App::small_tracker().await;
    app.database
        .run(&format!(
            "INSERT INTO issue (project_id, title, author_id)
             SELECT '{OUR_PROJECT}', '', 'owner' FROM generate_series(1, 500)"
        ))
        .await;
    let mut owner = Writer::live(&app, "owner").await;
    let new = |id: u8, status: &str| {
        json!([insert(
            "issue",
            json!({
                "id": format!("50000000-0000-0000-0000-0000000000{id:02}"), "project_id": OUR_PROJECT,
                "title": "New", "author_id": "owner", "status": status,
            })
        )])
    };
    owner.mutate(new(1, "doing")).await.rejected("too_many_open_issues", "`issue`");
    owner.mutate(new(2, "done")).await.applied();
    // Everyone has a count of their own.
    let mut member = Writer::live(&app, "member").await;
    let mut of_member = new(3, "open");
    of_member[0]["row"]["author_id"] = "member".into();
    member.mutate(of_member).await.applied();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_is_all_or_nothing_and_later_operations_see_earlier_ones() {
    let app = App::small_files().await;
    let mut owner = Writer::live(&app, "owner").await;
    let name = |name: &str| update("file", json!({ "id": "private", "name": name }));
    for (last, code, said) in [
        (update("file", json!({ "id": "nowhere", "name": "x" })), "not_found", "ops[2]"),
        (
            update("file", json!({ "id": "edit", "ownerName": "x" })),
            "forbidden",
            "ops[2]: column `ownerName`",
        ),
        (
            update("file", json!({ "id": "edit", "sharedLinkType": "x" })),
            "constraint",
            "ops[2]: constraint `file_sharedLinkType_check`",
        ),
        (update("file", json!({ "id": "edit", "nam": "x" })), "bad_request", "did you mean `name`"),
        (insert("file", small_file("n", "editor")), "forbidden", "ops[2]"),
    ] {
        let ops = json!([name("A"), insert("file", small_file("new", "owner")), last]);
        owner.mutate(ops).await.rejected(code, said);
        assert_eq!(app.one("SELECT name FROM file WHERE id = 'private'").await, "secret private");
        assert_eq!(app.one("SELECT count(*) FROM file WHERE id = 'new'").await, "0");
    }
    // The same row again and again.
    let changes = owner.mutate(json!([name("A"), name("B"), name("C")])).await.applied();
    let last = changes.last().unwrap();
    assert_eq!(last["row"]["name"], "C");
    let file = |name: &str| {
        let mut file = small_file("new", "owner");
        file["name"] = name.into();
        insert("file", file)
    };
    let away = || delete("file", json!({ "id": "new" }));
    let changes = owner.mutate(json!([file("A"), file("B"), away(), file("C")])).await.applied();
    assert_eq!(changes.last().unwrap()["row"]["name"], "C");
    assert_eq!(app.one("SELECT name FROM file WHERE id = 'new'").await, "C");
    // What was hidden by an earlier operation is not there for a later one.
    let hidden = update("file", json!({ "id": "new", "isDeleted": true }));
    owner.mutate(json!([hidden, away()])).await.rejected("not_found", "ops[1]");
    owner.mutate(json!([away(), away()])).await.rejected("not_found", "ops[1]");
    owner.mutate(json!([away(), file("D"), away()])).await.applied();
    assert_eq!(app.one("SELECT count(*) FROM file WHERE id = 'new'").await, "0");
}

/// A mutation that was read when the table had another shape is read again, and not written by the
/// places that its columns had.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_changes_its_shape_does_not_mix_up_columns() {
    let definition = "[tables.t]\nvisible = 'true'\n[[tables.t.update]]\nallow = 'true'\n";
    let tables =
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text, c text); INSERT INTO t VALUES (1)";
    let app = App::with(definition, tables).await;
    let mut writer = Writer::live(&app, "u1").await;
    let holder = app.database.connect().await;
    holder.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let id = writer.send(json!([update("t", json!({ "id": 1, "b": "B" }))])).await;
    eventually("the update waits", || async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                       AND datname = current_database() AND application_name = 'rowtide mutate'";
        (app.one(waiting).await == "1").then_some(())
    })
    .await;
    holder
        .batch_execute("ALTER TABLE t DROP COLUMN a; UPDATE t SET c = 'C'; COMMIT")
        .await
        .unwrap();
    let schema = app.database.names().schema;
    let client = format!("{schema}.client WHERE client_id = '{}'", writer.client_id);
    eventually("it is acknowledged", || async {
        let last = app.one(&format!("SELECT last_mutation FROM {client}")).await;
        (last == id.to_string()).then_some(())
    })
    .await;
    let rejected = app.one(&format!("SELECT refused->0->>'code' FROM {client}")).await;
    assert_eq!(rejected, "null", "the new shape is waited for");
    assert_eq!(
        (app.one("SELECT b FROM t").await.as_str(), app.one("SELECT c FROM t").await.as_str()),
        ("B", "C")
    );
}
