//! What the watch says of a publication is what Postgres publishes, whatever the publication names, and it waits for
//! nobody who has locked a table.

use rowtide_feed::ReplicatorStatus;
use rowtide_plan::catalog::TableName;
use rowtide_postgres::watch::Watcher;

use crate::kit::{DEFINITION, Mirror, Site, TABLES, within};

const PARTITIONED: &str = "
CREATE TABLE event (at int PRIMARY KEY, body text) PARTITION BY RANGE (at);
CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (10);
CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (at);
CREATE TABLE event_21 PARTITION OF event_2 FOR VALUES FROM (10) TO (15);
CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY);
CREATE VIEW seen AS SELECT 1 AS id;
CREATE SCHEMA apart;
CREATE TABLE apart.event_3 PARTITION OF public.event FOR VALUES FROM (20) TO (30);
CREATE TABLE apart.note (id int PRIMARY KEY);";

const NAMES: [(&str, &str); 10] = [
    ("public", "event"),
    ("public", "event_1"),
    ("public", "event_2"),
    ("public", "event_21"),
    ("apart", "event_3"),
    ("apart", "note"),
    ("public", "note"),
    ("public", "other"),
    ("public", "fleeting"),
    ("public", "seen"),
];

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_published_as_postgres_says_they_are() {
    let site = Site::not_set_up(DEFINITION, &format!("{TABLES}{PARTITIONED}")).await;
    let names = site.database.names();
    let publication = &names.publication;
    let knows_schemas = site.database.is_at_least(15, "publications of schemas").await;
    let name = |(schema, name): &(&str, &str)| TableName {
        schema: (*schema).to_owned(),
        name: (*name).to_owned(),
    };
    let tables: Vec<TableName> = NAMES.iter().map(name).collect();
    let mut watcher = Watcher::new(site.database.connect().await, &names, &tables).await.unwrap();
    for of in [
        "FOR TABLE note",
        "FOR TABLE note, event",
        "FOR TABLE event_2, other",
        "FOR TABLE event, event_21, apart.event_3",
        "FOR TABLE apart.event_3",
        "FOR TABLES IN SCHEMA apart",
        "FOR TABLES IN SCHEMA public",
        "FOR TABLES IN SCHEMA apart, TABLE event_21",
        "FOR TABLES IN SCHEMA apart, TABLE event, apart.note",
        "FOR ALL TABLES",
        "",
    ] {
        if of.contains("IN SCHEMA") && !knows_schemas {
            continue;
        }
        for via_root in [false, true] {
            let with = format!("WITH (publish_via_partition_root = {via_root})");
            site.run(&format!("CREATE PUBLICATION {publication} {of} {with}")).await;
            let sql = format!(
                "SELECT schemaname || '.' || tablename FROM pg_publication_tables \
                 WHERE pubname = '{publication}'"
            );
            let rows = site.client.query(&sql, &[]).await.unwrap();
            let said: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            let observed = watcher.look().await.unwrap();
            for (schema, name) in NAMES {
                let table = observed.table(schema, name);
                let observed = table.is_some_and(|table| table.membership.is_some());
                let streamed = match name {
                    // Postgres names the leaves or the root; one in between is neither, and has no rows of its own.
                    "event_2" => continue,
                    "event" if !via_root => continue,
                    _ => said.contains(&format!("{schema}.{name}")),
                };
                assert_eq!(observed, streamed, "{schema}.{name}, {of} {with}: {said:?}");
            }
            site.run(&format!("DROP PUBLICATION {publication}")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_waits_for_no_lock_of_a_table() {
    let site = Site::new().await;
    let names = site.database.names();
    let table = TableName { schema: "public".to_owned(), name: "note".to_owned() };
    let mut watcher = Watcher::new(site.database.connect().await, &names, &[table]).await.unwrap();
    site.run("BEGIN; LOCK TABLE note IN ACCESS EXCLUSIVE MODE").await;
    let observed = within("it looks", watcher.look()).await.unwrap();
    assert!(observed.table("public", "note").unwrap().membership.is_some());
    site.run("ROLLBACK").await;
}

/// A table may be rejected for what it is for a moment, and be again what it was when the next look comes: that look is
/// news only if the one before saw what the table was rejected for.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_seen_and_what_tables_are_judged_by_are_of_one_moment() {
    let site = Site::new().await;
    let tables = [TableName { schema: "public".to_owned(), name: "note".to_owned() }];
    let mut watcher =
        Watcher::new(site.database.connect().await, &site.database.names(), &tables).await.unwrap();
    let altering = tokio::spawn(async move {
        loop {
            site.run("CREATE TABLE kid () INHERITS (note)").await;
            site.run("DROP TABLE kid").await;
        }
    });
    let mut seen = [0, 0];
    while seen.iter().any(|often| *often < 20) {
        let looked = within("it looks", watcher.look_with_catalog(&tables)).await;
        let (observed, catalog) = looked.unwrap();
        let inherited = observed.table("public", "note").unwrap().children;
        assert_eq!(inherited, !catalog.unstreamed.is_empty(), "{catalog:?}");
        seen[usize::from(inherited)] += 1;
    }
    altering.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_unlogged_for_a_moment_is_loaded_again_where_all_tables_are_published() {
    let site = Site::new().await;
    let publication = site.database.names().publication;
    site.run(&format!(
        "DROP PUBLICATION {publication}; CREATE PUBLICATION {publication} FOR ALL TABLES"
    ))
    .await;
    site.run("INSERT INTO note VALUES (1, 'a')").await;
    let running = site.start().await;
    let first = running.streaming().await;
    let mut mirror = Mirror::new(&site, &running).await;
    mirror.holds_what_is_there("note").await;
    site.run(
        "ALTER TABLE note SET UNLOGGED; UPDATE note SET body = 'not streamed'; \
         ALTER TABLE note SET LOGGED",
    )
    .await;
    let second = running.streaming_after(&first).await;
    assert_ne!(first.epoch, second.epoch);
    mirror.holds_what_is_there("note").await;
    running.stop().await;
    // So it is where nobody was there to see.
    site.run("ALTER TABLE note SET UNLOGGED; UPDATE note SET body = 'nor this'; ALTER TABLE note SET LOGGED")
        .await;
    let running = site.start().await;
    assert_ne!(running.streaming().await.epoch, second.epoch);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_renamed_and_renamed_back_begins_an_epoch() {
    let site = Site::new().await;
    let running = site.start().await;
    let first = running.streaming().await;
    site.run("ALTER SCHEMA public RENAME TO gone; ALTER SCHEMA gone RENAME TO public").await;
    running.streaming_after(&first).await;
    let granted = running.streaming().await;
    site.run("GRANT USAGE ON SCHEMA public TO PUBLIC; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        .await;
    site.run("INSERT INTO note VALUES (1, 'a')").await;
    let mut mirror = Mirror::new(&site, &running).await;
    mirror.holds_what_is_there("note").await;
    let streams = running.feed.state().status == ReplicatorStatus::Streaming;
    assert!(streams && running.streaming().await.epoch == granted.epoch);
    running.stop().await;
}
