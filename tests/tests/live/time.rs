//! Rows that come and go by time alone: nobody commits anything, and everyone is told.

use std::collections::BTreeSet;

use rowtide_tests::App;
use serde_json::json;

use super::subscriptions::Replica;

const DEFINITION: &str = r#"
[tables.project]
visible = 'id IN (SELECT project FROM invitation WHERE person = auth.user_id AND expires_at > now())'
[tables.invitation]
visible = "person = auth.user_id AND now() < expires_at"
update = [{ allow = 'person = auth.user_id' }]
[tables.notice]
visible = "now() BETWEEN starts_at AND starts_at + interval '1 week' AND NOT id IN (SELECT id FROM muted WHERE until > now())"
"#;

const TABLES: &str = "
CREATE TABLE project (id int PRIMARY KEY);
CREATE TABLE invitation (id int PRIMARY KEY, project int, person text, expires_at timestamptz, seen bool);
CREATE TABLE notice (id int PRIMARY KEY, starts_at timestamptz NOT NULL);
CREATE TABLE muted (id int PRIMARY KEY, until timestamptz);
ALTER TABLE project REPLICA IDENTITY FULL;
ALTER TABLE invitation REPLICA IDENTITY FULL;
ALTER TABLE notice REPLICA IDENTITY FULL;
ALTER TABLE muted REPLICA IDENTITY FULL;
INSERT INTO project VALUES (1), (2), (3);
INSERT INTO invitation VALUES (1, 1, 'ann', now() - interval '1 second'), (2, 2, 'ann', 'infinity'), (4, 1, 'bob', NULL);
INSERT INTO notice VALUES (1, now() - interval '6 days'), (2, now() - interval '8 days'), (3, now() + interval '1 hour');
";

/// What comes and goes in some seconds.
const SOON: &str = "
INSERT INTO invitation VALUES (3, 3, 'ann', now() + interval '4 seconds');
INSERT INTO notice VALUES (4, now() + interval '2 seconds'), (5, now());
INSERT INTO muted VALUES (5, now() + interval '3 seconds');
";

fn held(replica: &Replica) -> BTreeSet<String> {
    replica.rows.keys().map(|(table, id)| format!("{table} {id}")).collect()
}

async fn until(replica: &mut Replica, rows: &[&str]) {
    let wanted: BTreeSet<String> = rows.iter().map(|row| (*row).to_owned()).collect();
    while held(replica) != wanted {
        replica.hear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_and_go_while_nobody_commits_and_those_who_were_away_are_told() {
    let app = App::with(DEFINITION, TABLES).await;
    let sql = app.database.connect().await;
    let mut ann = Replica::connect(&app, "ann", &[], None).await;
    let lasting = ["invitation 2", "notice 1", "project 2"];
    until(&mut ann, &lasting).await;

    sql.batch_execute(&format!("BEGIN; {SOON}; COMMIT")).await.unwrap();
    let [invited, project] = ["invitation 3", "project 3"];
    until(&mut ann, &[&lasting[..], &[invited, project]].concat()).await;
    let mut away = Replica::connect(&app, "ann", &[], None).await;
    until(&mut away, &[&lasting[..], &[invited, project]].concat()).await;
    // The other hears nothing of what follows: it comes back with what it has.
    let away = away;

    // Each at its time, and nobody commits.
    let begun = [&lasting[..], &[invited, project, "notice 4"]].concat();
    until(&mut ann, &begun).await;
    until(&mut ann, &[&begun[..], &["notice 5"]].concat()).await;
    let after = [&lasting[..], &["notice 4", "notice 5"]].concat();
    until(&mut ann, &after).await;

    // Nothing is written in what is not seen any more.
    let op = json!({ "op": "update", "table": "invitation", "row": { "id": 3, "seen": true } });
    ann.raw.say(&json!({ "type": "mutate", "id": 1, "ops": [op] })).await;
    let rejected = ann.raw.until("reject").await;
    assert_eq!(rejected["code"], "not_found", "{rejected}");

    let mut back = Replica::connect(&app, "ann", &[], Some(away)).await;
    assert_eq!(back.mode, "resume");
    until(&mut back, &after).await;
    // Whoever comes for all of it has the same.
    let mut new = Replica::connect(&app, "ann", &[], None).await;
    until(&mut new, &after).await;
}
