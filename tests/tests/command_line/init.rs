//! A definition of nothing: what `init` drafts from databases that are there, and that it goes on from there.

use rowtide_tests::{Database, Dir, Said, rowtide, said};

use super::refused;

/// A database, and a directory without a definition.
struct Newcomer {
    database: Database,
    dir: Dir,
}

impl Newcomer {
    async fn new(sql: &str) -> Newcomer {
        Newcomer { database: Database::with(sql).await, dir: Dir::new() }
    }

    async fn says(&self, args: &[&str]) -> Said {
        let mut command = rowtide(args);
        command
            .current_dir(self.dir.path())
            .env("DATABASE_URL", self.database.url().await)
            .env("ROWTIDE_ENVIRONMENT", self.database.name());
        said(command).await
    }

    async fn succeeds(&self, args: &[&str]) -> Said {
        let said = self.says(args).await;
        assert_eq!(said.code(), Some(0), "{args:?}: {said:?}");
        said
    }

    fn draft(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("rowtide.toml")).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_of_supabase_become_rules_where_they_can_be_said() {
    let roles = "DO $$ DECLARE role text; BEGIN
      FOREACH role IN ARRAY ARRAY['anon', 'authenticated', 'service_role', 'analyst'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN EXECUTE 'CREATE ROLE ' || role; END IF;
      END LOOP; END $$;";
    let newcomer = Newcomer::new(&format!("{roles}{}", include_str!("supabase.sql"))).await;
    let told = newcomer.succeeds(&["init"]).await;
    assert!(
        told.err.contains("nobody sees these") && told.err.contains("rowtide check"),
        "{told:?}"
    );
    let draft = newcomer.draft();
    for part in [
        "[tables.profiles]\nvisible = 'true'",
        "[tables.todos.delete]\nallow = 'old.user_id = auth.user_id'",
        "id IN (SELECT team_id FROM team_members WHERE user_id = auth.user_id)",
        "[tables.documents]\nvisible = 'owner = auth.user_id OR published'",
        "# NOT SAID for reading: \"Members of the team\", because of `private.is_member(",
        "[tables.reports]\nvisible = 'false'",
        "[tables.rooms]\nvisible = 'auth.user_id = ANY (members)'",
        "auth.claims.app_metadata.role = 'admin' AND auth.user_id IS NOT NULL",
        "[tables.drafts]\nvisible = '''\n  id::text = '07'\n",
        "# - events",
    ] {
        assert!(draft.contains(part), "no `{part}` in:\n{draft}");
    }
    assert!(!draft.contains("schema_migrations") && !draft.contains("mfa_factors]"), "{draft}");
    newcomer.succeeds(&["setup"]).await;
    let checked = newcomer.succeeds(&["check"]).await;
    assert!(checked.out.contains("the definition fits the database"), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_keys_suggest_who_reads_where_there_are_no_policies() {
    for (sql, expected) in [
        (
            include_str!("../../../examples/files/migrations/0001_tables.sql"),
            &[
                "[tables.user]\nvisible = 'id = auth.user_id'",
                "[tables.file]\nvisible = '\"ownerId\" = auth.user_id'",
                "[tables.file_state]\nvisible = '\"userId\" = auth.user_id'",
            ][..],
        ),
        (
            include_str!("../../../examples/tracker/migrations/0001_tables.sql"),
            &["workspace_id IN (SELECT workspace_id FROM member WHERE person_id = auth.user_id)"][..],
        ),
    ] {
        let newcomer = Newcomer::new(sql).await;
        newcomer.succeeds(&["init"]).await;
        let draft = newcomer.draft();
        for part in expected {
            assert!(draft.contains(part), "no `{part}` in:\n{draft}");
        }
        newcomer.succeeds(&["setup"]).await;
        newcomer.succeeds(&["check"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_takes_no_file_away_and_says_what_is_in_its_way() {
    let newcomer = Newcomer::new("CREATE TABLE bare (a int)").await;
    refused(&newcomer.says(&["init"]).await, &["has a key: bare", "ADD PRIMARY KEY"]);
    refused(
        &newcomer.says(&["init", "--schema", "nowhere"]).await,
        &["no table in schema nowhere"],
    );
    let sql = newcomer.database.connect().await;
    sql.batch_execute("CREATE TABLE note (id int PRIMARY KEY, owner text)").await.unwrap();
    let printed = newcomer.succeeds(&["init", "--output", "-"]).await;
    assert!(printed.out.contains("visible = 'owner = auth.user_id'"), "{printed:?}");
    assert!(printed.out.contains("# - bare"), "{printed:?}");
    assert!(!newcomer.dir.path().join("rowtide.toml").exists());
    newcomer.succeeds(&["init"]).await;
    refused(&newcomer.says(&["init"]).await, &["is there already", "--overwrite"]);
    newcomer.succeeds(&["init", "--overwrite"]).await;
    let nowhere = ["init", "--output", "x.toml", "--database-url", "postgres://x@127.0.0.1:1/x"];
    let said = newcomer.says(&nowhere).await;
    assert_eq!(said.code(), Some(1), "{said:?}");
    assert!(!newcomer.dir.path().join("x.toml").exists());
}
