//! Whatever is altered under a server that runs, who follows the feed ends with what the tables hold, or with no
//! table that is not whole; and a table that fits again is served again. Nobody restarts anything.

use std::sync::Arc;

use rowtide_feed::{Generation, ReplicatorStatus};
use rowtide_postgres::connect::ConnectOptions;

use crate::kit::{Mirror, Running, Site, TABLES};

/// A site whose mirror holds a row of each table.
struct Served {
    site: Site,
    running: Running,
    mirror: Mirror,
    first: Arc<Generation>,
}

impl Served {
    async fn new() -> Served {
        let site = Site::new().await;
        let running = site.start().await;
        Served::of(site, running).await
    }

    async fn of(site: Site, running: Running) -> Served {
        site.run("INSERT INTO note VALUES (1, 'a'), (2, 'b'); INSERT INTO other VALUES (1, 'a')")
            .await;
        let first = running.streaming().await;
        let mut mirror = Mirror::new(&site, &running).await;
        mirror.holds_what_is_there("note").await;
        mirror.holds_what_is_there("other").await;
        Served { site, running, mirror, first }
    }

    /// A site whose server is a role that is neither a superuser nor the owner of the tables.
    async fn as_a_stranger() -> Served {
        let site = Site::new().await;
        let role = site.database.stranger("reader", "LOGIN REPLICATION", "note, other").await;
        let url = site.database.url_as(&role).await;
        let running = site.start_at(ConnectOptions::parse(&url).unwrap());
        Served::of(site, running).await
    }

    /// Gives a table's text a default, and waits until the plan has it.
    async fn knows_a_default_of(&self, table: &str) -> Arc<Generation> {
        self.site.run(&format!("ALTER TABLE {table} ALTER body SET DEFAULT 'x'")).await;
        self.running
            .until("the plan knows the default", |state| {
                let generation = state.generation.clone()?;
                let found = generation.plan.tables.iter().find(|t| t.catalog.name == table)?;
                let body = found.catalog.column("body")?;
                found.catalog.columns[body].input.default.is_some().then_some(generation)
            })
            .await
    }

    fn role(&self) -> String {
        format!("{}_reader", self.site.database.name())
    }

    /// Both tables are followed, whatever was done to them.
    async fn is_whole(&mut self) {
        // Of a table that is not there nothing can be waited for.
        let both = |generation: &Generation| generation.plan.tables.len() >= 2;
        let state = "both tables are served";
        self.running
            .until(state, |state| state.generation.as_deref().is_some_and(both).then_some(()))
            .await;
        self.site.run("INSERT INTO other SELECT max(id) + 1, 'more' FROM other").await;
        self.mirror.holds_what_is_there("other").await;
        self.mirror.holds_what_is_there("note").await;
        self.site.run("UPDATE note SET body = body || '.'").await;
        self.mirror.holds_what_is_there("note").await;
    }

    /// A table is refused, and why is said.
    async fn is_refused(&self, table: &str, why: &str) {
        self.running
            .until(&format!("{table} is refused"), |state| {
                let said = state.rejected_tables.iter().find(|(name, _)| name == table)?;
                let generation = state.generation.as_ref()?;
                let served = generation.plan.tables.iter().any(|t| t.catalog.name == table);
                (said.1.contains(why) && !served).then_some(())
            })
            .await;
    }

    /// Nothing is streamed, and why is said.
    async fn waits(&self, said: &str) {
        self.running
            .until(&format!("it waits: {said}"), |state| {
                let ReplicatorStatus::Waiting(why) = &state.status else { return None };
                why.contains(said).then_some(())
            })
            .await;
    }

    async fn stop(self) {
        self.running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_taken_out_of_the_publication_and_put_in_again() {
    let mut served = Served::new().await;
    let publication = served.site.database.names().publication;
    served
        .site
        .run(&format!(
            "ALTER PUBLICATION {publication} DROP TABLE note; \
             UPDATE note SET body = 'unseen'; \
             ALTER PUBLICATION {publication} ADD TABLE note"
        ))
        .await;
    let next = served.running.streaming_after(&served.first).await;
    assert_ne!(next.epoch, served.first.epoch);
    served.is_whole().await;
    served.stop().await;
}

/// Postgres knows the option since version 18; before, no generated column is ever published.
#[tokio::test(flavor = "multi_thread")]
async fn generated_columns_begin_to_be_published_and_cease_again() {
    let mut served = Served::new().await;
    let publication = served.site.database.names().publication;
    let database = &served.site.database;
    let knows_the_option = database.is_at_least(18, "publications of generated columns").await;
    // Postgres takes no update of a table with full identity and a generated column that is not published.
    let add = "ADD shouted text GENERATED ALWAYS AS (upper(body)) STORED";
    served
        .site
        .run(&format!("ALTER TABLE note REPLICA IDENTITY DEFAULT; ALTER TABLE note {add}"))
        .await;
    for published in ["stored", "none"].iter().filter(|_| knows_the_option) {
        let set = "SET (publish_generated_columns =";
        served.site.run(&format!("ALTER PUBLICATION {publication} {set} {published})")).await;
        served.site.run("UPDATE note SET body = body || '!'").await;
        served.site.run("INSERT INTO other SELECT max(id) + 1, 'more' FROM other").await;
        served.mirror.holds_what_is_there("other").await;
    }
    let heal = "ALTER TABLE note DROP shouted; ALTER TABLE note REPLICA IDENTITY FULL";
    served.site.run(heal).await;
    served.is_whole().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_not_published_is_refused_until_it_is() {
    let mut served = Served::new().await;
    let publication = served.site.database.names().publication;
    served.site.run(&format!("ALTER PUBLICATION {publication} DROP TABLE note")).await;
    served.is_refused("note", "not in the publication").await;
    served.site.run("UPDATE note SET body = 'unseen'; INSERT INTO other VALUES (5, 'e')").await;
    served.mirror.holds_what_is_there("other").await;
    assert_eq!(served.mirror.held("note"), None);
    served.site.run(&format!("ALTER PUBLICATION {publication} ADD TABLE note")).await;
    served.is_whole().await;
    assert!(served.running.feed.state().rejected_tables.is_empty());
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_leaves_out_rows_columns_or_operations() {
    let mut served = Served::new().await;
    let publication = served.site.database.names().publication;
    let schema = served.site.database.names().schema;
    let set = |note: &str| {
        format!("ALTER PUBLICATION {publication} SET TABLE {note}, other, {schema}.client")
    };
    let parts = ["note WHERE (id > 1)", "note (id, body)"];
    let knows_parts =
        served.site.database.is_at_least(15, "row filters and lists of columns").await;
    for part in parts.iter().filter(|_| knows_parts) {
        let identity = "ALTER TABLE note REPLICA IDENTITY";
        // A list of columns is taken only with a smaller replica identity.
        served.site.run(&format!("{identity} DEFAULT; {}", set(part))).await;
        served.is_refused("note", "published only in part").await;
        served.site.run("UPDATE note SET body = 'unseen' WHERE id = 1").await;
        served.site.run(&format!("{}; {identity} FULL", set("note"))).await;
        served.is_whole().await;
    }
    let operations =
        |list: &str| format!("ALTER PUBLICATION {publication} SET (publish = '{list}')");
    served.site.run(&operations("insert")).await;
    served.waits("client").await;
    served.site.run("UPDATE note SET body = 'unseen'; DELETE FROM note WHERE id = 1").await;
    served.site.run(&operations("insert, update, delete, truncate")).await;
    served.is_whole().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_dropped_and_created_again_in_one_transaction() {
    let mut served = Served::new().await;
    let publication = served.site.database.names().publication;
    served
        .site
        .run(&format!(
            "BEGIN; DROP TABLE note; CREATE TABLE note (id int PRIMARY KEY, body varchar(20)); \
             ALTER TABLE note REPLICA IDENTITY FULL; INSERT INTO note VALUES (7, 'new'); \
             ALTER PUBLICATION {publication} ADD TABLE note; COMMIT"
        ))
        .await;
    served.running.streaming_after(&served.first).await;
    served.is_whole().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_swapped_for_another_and_back() {
    let mut served = Served::new().await;
    let publication = served.site.database.names().publication;
    served
        .site
        .run(&format!(
            "CREATE TABLE note2 (id int PRIMARY KEY, body varchar(20)); \
             ALTER TABLE note2 REPLICA IDENTITY FULL; INSERT INTO note2 VALUES (9, 'other one'); \
             ALTER PUBLICATION {publication} ADD TABLE note2"
        ))
        .await;
    let swap = "BEGIN; ALTER TABLE note RENAME TO note3; ALTER TABLE note2 RENAME TO note; \
                ALTER TABLE note3 RENAME TO note2; COMMIT;";
    served.site.run(swap).await;
    let swapped = served.running.streaming_after(&served.first).await;
    served.is_whole().await;
    // Back and forth between two looks: loads may have read the other one.
    served.site.run(swap).await;
    served.running.streaming_after(&swapped).await;
    served.is_whole().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_renamed_is_refused_until_it_has_its_name_again() {
    let mut served = Served::new().await;
    served.site.run("ALTER TABLE note RENAME TO elsewhere").await;
    served.is_refused("note", "has no table").await;
    served.site.run("UPDATE elsewhere SET body = 'unseen'").await;
    served.site.run("ALTER TABLE elsewhere RENAME TO note").await;
    served.is_whole().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_level_security_that_hides_rows_refuses_the_table() {
    let mut served = Served::as_a_stranger().await;
    served.site.run("ALTER TABLE note ENABLE ROW LEVEL SECURITY").await;
    served.is_refused("note", "row-level security").await;
    let role = served.role();
    served.site.run(&format!("ALTER ROLE {role} BYPASSRLS")).await;
    served.is_whole().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_level_security_that_was_on_for_a_moment_begins_an_epoch() {
    let mut served = Served::as_a_stranger().await;
    served.site.run("ALTER TABLE note ENABLE ROW LEVEL SECURITY").await;
    served.site.run("ALTER TABLE note DISABLE ROW LEVEL SECURITY").await;
    served.running.streaming_after(&served.first).await;
    served.is_whole().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_granted_again_and_truncation_change_nothing() {
    let mut served = Served::new().await;
    served.site.run("GRANT SELECT ON note TO public; GRANT SELECT ON note TO public").await;
    served.site.run("VACUUM FULL note").await;
    served.site.run("ANALYZE note; CREATE INDEX ON note (body)").await;
    // The plan knows of the one table's default only by a look that has seen what was done to the other before.
    served.knows_a_default_of("other").await;
    served.site.run("TRUNCATE other; INSERT INTO other VALUES (1, 'a')").await;
    let generation = served.knows_a_default_of("note").await;
    assert_eq!(generation.epoch, served.first.epoch);
    served.is_whole().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_no_longer_fits_its_rule_is_served_again_when_it_does() {
    let site = Site::with(
        "[tables.note]\nvisible = 'body = auth.user_id'\n[tables.other]\nvisible = 'true'\n",
        TABLES,
    )
    .await;
    let running = site.start().await;
    let mut served = Served::of(site, running).await;
    served.site.run("ALTER TABLE note RENAME body TO text").await;
    served.is_refused("note", "body").await;
    served.site.run("UPDATE note SET text = 'unseen'").await;
    served.site.run("ALTER TABLE note RENAME text TO body").await;
    served.is_whole().await;
    // The replica identity must hold what decides who sees a row.
    served.site.run("ALTER TABLE note REPLICA IDENTITY DEFAULT").await;
    served.is_refused("note", "replica identity").await;
    served.site.run("UPDATE note SET body = 'unseen too'").await;
    served.site.run("ALTER TABLE note REPLICA IDENTITY FULL").await;
    served.is_whole().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_altered_and_altered_back() {
    let mut served = Served::new().await;
    served
        .site
        .run(
            "ALTER TABLE note ADD COLUMN extra int; UPDATE note SET body = 'x', extra = 1; \
             ALTER TABLE note DROP COLUMN extra",
        )
        .await;
    served.is_whole().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn longer_text_and_another_label_cost_no_epoch() {
    let tables = "CREATE TYPE mood AS ENUM ('sad', 'glad');
                  CREATE TABLE note (id int PRIMARY KEY, body varchar(20), mood mood);
                  CREATE TABLE other (id int PRIMARY KEY, body text);";
    let site = Site::with(crate::kit::DEFINITION, tables).await;
    let running = site.start().await;
    let mut served = Served::of(site, running).await;
    served.site.run("ALTER TYPE mood ADD VALUE 'so so' BEFORE 'glad'").await;
    served.site.run("ALTER TABLE note ALTER body TYPE varchar(200)").await;
    let generation = served
        .running
        .until("the plan knows them", |state| {
            let generation = state.generation.clone()?;
            let note = generation.plan.tables.iter().find(|t| t.catalog.name == "note")?;
            let known = note.catalog.columns[2].labels.len() == 3
                && note.catalog.columns[1].input.max_chars == Some(200);
            known.then_some(generation)
        })
        .await;
    assert_eq!(generation.epoch, served.first.epoch);
    served.is_whole().await;
    // Rows that are there have another text now, and nothing in the stream says so.
    served.site.run("UPDATE note SET mood = 'sad'").await;
    served.mirror.holds_what_is_there("note").await;
    served.site.run("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'").await;
    served.running.streaming_after(&generation).await;
    served.mirror.holds_what_is_there("note").await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_an_alteration_rewrites_are_loaded_again() {
    let mut served = Served::new().await;
    let upper = "ALTER TABLE note ALTER body TYPE varchar(20) USING upper(body)";
    served.site.run(upper).await;
    let next = served.running.streaming_after(&served.first).await;
    served.mirror.holds_what_is_there("note").await;
    let again = "ALTER TABLE note DROP COLUMN body; \
                 ALTER TABLE note ADD COLUMN body varchar(20) DEFAULT 'new'";
    served.site.run(again).await;
    served.running.streaming_after(&next).await;
    served.mirror.holds_what_is_there("note").await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_that_are_not_published_are_said_to_be_missing() {
    let mut served = Served::new().await;
    let names = served.site.database.names();
    let (publication, schema) = (names.publication, names.schema);
    let alter =
        |what: &str| format!("ALTER PUBLICATION {publication} {what} TABLE {schema}.client");
    served.site.run(&alter("DROP")).await;
    served.waits("client").await;
    served.site.run(&alter("ADD")).await;
    served.running.streaming_after(&served.first).await;
    served.is_whole().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_revoked_hold_up_loads_and_nothing_else() {
    let mut served = Served::as_a_stranger().await;
    let role = served.role();
    let mut subscription =
        served.running.feed.subscribe(&served.first, served.first.position).unwrap();
    served.site.run(&format!("REVOKE SELECT ON note FROM {role}")).await;
    crate::kit::within("it is told", async {
        loop {
            let events = subscription.next().await.expect("the epoch goes on");
            let told = |event: &rowtide_feed::Event| {
                matches!(event, rowtide_feed::Event::TableChanged { what, .. } if what.contains("cannot be read"))
            };
            if events.iter().any(told) {
                return;
            }
        }
    })
    .await;
    served.site.run("UPDATE note SET body = 'still streamed'").await;
    served.mirror.holds_what_is_there("note").await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_publication_is_dropped_and_made_again() {
    let mut served = Served::new().await;
    let names = served.site.database.names();
    let (publication, schema) = (names.publication, names.schema);
    served
        .site
        .run(&format!(
            "DROP PUBLICATION {publication}; UPDATE note SET body = 'unseen'; \
             CREATE PUBLICATION {publication} FOR TABLE note, other, {schema}.client"
        ))
        .await;
    served.running.streaming_after(&served.first).await;
    served.is_whole().await;
    // For longer, so that it is seen to be missing.
    let before = served.running.streaming().await;
    served.site.run(&format!("DROP PUBLICATION {publication}")).await;
    served.site.run("UPDATE note SET body = 'unseen'").await;
    served.waits("is missing").await;
    let create = format!("CREATE PUBLICATION {publication} FOR TABLE note, other, {schema}.client");
    served.site.run(&create).await;
    served.running.streaming_after(&before).await;
    served.is_whole().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_published_while_nobody_ran_begins_an_epoch() {
    let served = Served::new().await;
    let Served { site, running, first, .. } = served;
    running.stop().await;
    let publication = site.database.names().publication;
    site.run(&format!(
        "ALTER PUBLICATION {publication} DROP TABLE note; UPDATE note SET body = 'unseen'; \
         ALTER PUBLICATION {publication} ADD TABLE note"
    ))
    .await;
    let running = site.start().await;
    let second = running.streaming().await;
    assert_ne!(first.epoch, second.epoch);
    let mut mirror = Mirror::new(&site, &running).await;
    mirror.holds_what_is_there("note").await;
    running.stop().await;
}
