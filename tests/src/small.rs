//! The examples with a handful of rows, so that a test can name everyone and everything in them. What
//! only some may read holds the word `secret`, which nobody else may ever be told.

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::{App, eventually};

/// The definition of the files example.
pub const FILES: &str = include_str!("../../examples/files/rowtide.toml");
const FILES_TABLES: &str = concat!(
    include_str!("../../examples/files/migrations/0001_tables.sql"),
    include_str!("../../examples/files/migrations/0002_derived_columns.sql"),
);
const TRACKER: &str = include_str!("../../examples/tracker/rowtide.toml");
const TRACKER_TABLES: &str = include_str!("../../examples/tracker/migrations/0001_tables.sql");

/// The SQL that makes the tables of the files example.
pub fn files_tables() -> &'static str {
    FILES_TABLES
}

impl App {
    /// The files example with [`SMALL_FILES`].
    ///
    /// # Panics
    /// When something of it does not start.
    pub async fn small_files() -> App {
        App::with(FILES, &format!("{FILES_TABLES}\n{SMALL_FILES}")).await
    }

    /// The tracker with [`SMALL_TRACKER`].
    ///
    /// # Panics
    /// When something of it does not start.
    pub async fn small_tracker() -> App {
        App::with(TRACKER, &format!("{TRACKER_TABLES}\n{SMALL_TRACKER}")).await
    }

    /// Waits until queries see what was acknowledged: Postgres streams a commit a moment before others see it.
    ///
    /// # Panics
    /// When a commit takes too long that waits for no lock.
    pub async fn commits_are_seen(&self, client: &Client) {
        let committing = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                          AND application_name = 'rowtide mutate' AND state = 'active' \
                          AND query = 'COMMIT' AND wait_event_type IS DISTINCT FROM 'Lock'";
        eventually("commits are seen", || async {
            let count: i64 = client.query_one(committing, &[]).await.expect("a count").get(0);
            (count == 0).then_some(())
        })
        .await;
    }

    /// What a query for one value answers, as text; `null` for null. It sees what was acknowledged.
    ///
    /// # Panics
    /// When it does not answer with one row.
    pub async fn one(&self, sql: &str) -> String {
        let client = self.database.connect().await;
        self.commits_are_seen(&client).await;
        let row = client.query_one(&format!("SELECT ({sql})::text"), &[]).await;
        let row = row.unwrap_or_else(|error| panic!("{error:?}\nin: {sql}"));
        row.get::<_, Option<String>>(0).unwrap_or_else(|| "null".to_owned())
    }
}

/// The `owner` has files of every kind: `private`, `view` and `edit` are what they say; `gone` is
/// deleted; `closed` is not shared, though `viewer` still has a state of it. `viewer` is a guest of
/// `view`, `editor` of `edit` and of `gone`. The `stranger` has nothing.
pub const SMALL_FILES: &str = r#"
INSERT INTO "user" ("id", "name", "email", "avatar", "color", "exportFormat", "exportTheme",
                    "exportBackground", "exportPadding", "createdAt", "updatedAt", "flags")
SELECT id, 'secret name of ' || id, id || '@secret.example', 'secret', 'red', 'png', 'auto', true, true, 1, 1, ''
FROM unnest(ARRAY['owner', 'editor', 'viewer', 'stranger']) AS id;
INSERT INTO "file" ("id", "name", "ownerId", "thumbnail", "shared", "sharedLinkType", "published",
                    "lastPublished", "publishedSlug", "createdAt", "updatedAt", "isEmpty", "isDeleted")
SELECT id, 'secret ' || id, 'owner', '', id IN ('view', 'edit', 'gone'),
       CASE WHEN id IN ('edit', 'gone') THEN 'edit' ELSE 'view' END, false,
       0, 'slug-' || id, 1, 1, true, id = 'gone'
FROM unnest(ARRAY['private', 'view', 'edit', 'gone', 'closed']) AS id;
INSERT INTO "file_state" ("userId", "fileId", "lastSessionState")
SELECT "ownerId", "id", 'secret' FROM "file"
UNION VALUES ('viewer', 'view', 'secret'), ('viewer', 'closed', 'secret'), ('editor', 'edit', 'secret'), ('editor', 'gone', 'secret');
"#;

/// A file as its owner inserts it.
pub fn small_file(id: &str, owner: &str) -> Value {
    json!({
        "id": id, "name": "Plan", "ownerId": owner, "thumbnail": "", "shared": false,
        "sharedLinkType": "view", "published": false, "lastPublished": 0, "publishedSlug": id,
        "createdAt": 1, "updatedAt": 1, "isEmpty": true,
    })
}

/// In [`OURS`] are its `owner`, a `member`, one who is `suspended`, and one who is in [`THEIRS`] too,
/// `both`; the `guest` sees [`OUR_ISSUE`] alone. The `stranger` owns [`THEIRS`]. The member wrote the
/// issue and [`MEMBERS_COMMENT`], the guest [`GUESTS_COMMENT`].
pub const SMALL_TRACKER: &str = "
INSERT INTO person SELECT id, 'secret name of ' || id
FROM unnest(ARRAY['owner', 'member', 'suspended', 'guest', 'stranger', 'both']) AS id;
INSERT INTO workspace VALUES
  ('10000000-0000-0000-0000-000000000001', 'secret ours'),
  ('10000000-0000-0000-0000-000000000002', 'secret theirs');
INSERT INTO member VALUES
  ('10000000-0000-0000-0000-000000000001', 'owner', 'owner'),
  ('10000000-0000-0000-0000-000000000001', 'member', 'member'),
  ('10000000-0000-0000-0000-000000000001', 'suspended', 'suspended'),
  ('10000000-0000-0000-0000-000000000001', 'both', 'member'),
  ('10000000-0000-0000-0000-000000000002', 'both', 'member'),
  ('10000000-0000-0000-0000-000000000002', 'stranger', 'owner');
INSERT INTO project (id, workspace_id, name) VALUES
  ('20000000-0000-0000-0000-000000000001', '10000000-0000-0000-0000-000000000001', 'secret ours'),
  ('20000000-0000-0000-0000-000000000002', '10000000-0000-0000-0000-000000000002', 'secret theirs'),
  ('20000000-0000-0000-0000-000000000003', '10000000-0000-0000-0000-000000000001', 'secret old');
UPDATE project SET archived_at = '2026-01-01' WHERE name = 'secret old';
INSERT INTO issue (id, project_id, title, author_id) VALUES
  ('30000000-0000-0000-0000-000000000001', '20000000-0000-0000-0000-000000000001', 'secret ours', 'member'),
  ('30000000-0000-0000-0000-000000000002', '20000000-0000-0000-0000-000000000002', 'secret theirs', 'stranger');
INSERT INTO issue_guest VALUES ('30000000-0000-0000-0000-000000000001', 'guest');
INSERT INTO comment (id, issue_id, author_id, body) VALUES
  ('40000000-0000-0000-0000-000000000001', '30000000-0000-0000-0000-000000000001', 'member', 'secret'),
  ('40000000-0000-0000-0000-000000000002', '30000000-0000-0000-0000-000000000001', 'guest', 'secret');
";

/// The workspace that most are in.
pub const OURS: &str = "10000000-0000-0000-0000-000000000001";
/// The stranger's workspace.
pub const THEIRS: &str = "10000000-0000-0000-0000-000000000002";
/// The project of [`OURS`].
pub const OUR_PROJECT: &str = "20000000-0000-0000-0000-000000000001";
/// The project of [`THEIRS`].
pub const THEIR_PROJECT: &str = "20000000-0000-0000-0000-000000000002";
/// A project of [`OURS`] that nobody sees any more.
pub const ARCHIVED: &str = "20000000-0000-0000-0000-000000000003";
/// The member's issue in [`OUR_PROJECT`].
pub const OUR_ISSUE: &str = "30000000-0000-0000-0000-000000000001";
/// The stranger's issue in [`THEIR_PROJECT`].
pub const THEIR_ISSUE: &str = "30000000-0000-0000-0000-000000000002";
/// The member's comment on [`OUR_ISSUE`].
pub const MEMBERS_COMMENT: &str = "40000000-0000-0000-0000-000000000001";
/// The guest's comment on [`OUR_ISSUE`].
pub const GUESTS_COMMENT: &str = "40000000-0000-0000-0000-000000000002";
