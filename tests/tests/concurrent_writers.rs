//! Many people write at once, with more clients than one each, over connections that break: some keep
//! their queues as the Rust client does, some come back and send again what was acknowledged long ago. In the
//! end everyone holds what SQL says, every mutation was acknowledged once, with all of its effects in the
//! transaction that acknowledged it or with none, and what was rejected was rejected by a rule that could.
//!
//! `ROWTIDE_SEED` plays a run again, as far as the system's own timing lets it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rowtide_client::{Client, ClientOptions, Event, Op, Outcome};
use rowtide_tests::{App, PATIENCE, Writer, delete, eventually, held, insert, truth, update};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const USERS: usize = 20;
/// Clients that keep what they have made until it is acknowledged.
const KEEPERS: usize = 40;
/// Clients that send again whatever they like.
const RESENDERS: usize = 12;
const MUTATIONS: usize = 12;

/// A mutation, and what it may be rejected with: the code, and what the message then says.
#[derive(Clone, Debug)]
struct Made {
    ops: Vec<Value>,
    rejections: Rejections,
}

type Rejections = &'static [(&'static str, &'static str)];

/// Makes a mutation of a user.
type Make = fn(&str, &mut StdRng) -> Made;

fn user(n: usize) -> String {
    format!("u{}", n % USERS)
}

fn number_of(user: &str) -> usize {
    user[1..].parse().unwrap()
}

const FILES: &str = include_str!("../../examples/files/rowtide.toml");
const FILES_TABLES: &str = concat!(
    include_str!("../../examples/files/migrations/0001_tables.sql"),
    include_str!("../../examples/files/migrations/0002_derived_columns.sql"),
);
const FILES_ROWS: &str = r#"
INSERT INTO "user" ("id", "name", "email", "avatar", "color", "exportFormat", "exportTheme",
                    "exportBackground", "exportPadding", "createdAt", "updatedAt", "flags")
SELECT 'u' || n, '', '', '', '', '', '', true, true, 1, 1, '' FROM generate_series(0, 19) AS n;
INSERT INTO "file" ("id", "name", "ownerId", "thumbnail", "shared", "sharedLinkType", "published",
                    "lastPublished", "publishedSlug", "createdAt", "updatedAt", "isEmpty")
SELECT 'f' || n, '', 'u' || n / 3, '', n % 3 < 2, CASE n % 2 WHEN 0 THEN 'edit' ELSE 'view' END,
       false, 0, 'f' || n, 1, 1, true
FROM generate_series(0, 59) AS n;
INSERT INTO "file_state" ("userId", "fileId") SELECT "ownerId", "id" FROM "file";
"#;

#[rustfmt::skip]
fn with_files(me: &str, rng: &mut StdRng) -> Made {
    // Often one of their own.
    let file = match rng.random_range(0..3) {
        0 => rng.random_range(0..80),
        _ => number_of(me) * 3 + rng.random_range(0..3),
    };
    let file = format!("f{file}");
    let some = rng.random_range(2..1000);
    let state = json!({ "userId": me, "fileId": file });
    let of_file = |row: Value| {
        let mut row = row;
        row["id"] = file.clone().into();
        row
    };
    let of_state = |row: Value| {
        let mut all = state.clone();
        all.as_object_mut().unwrap().extend(row.as_object().unwrap().clone());
        all
    };
    let guest_or_nobody: Rejections = &[("not_found", "`file`"), ("forbidden", "no rule allows")];
    let (ops, rejections): (Vec<Value>, Rejections) = match rng.random_range(0..15) {
        // A file with its state, over one that is there already or not.
        0..3 => (
            vec![
                insert("file", of_file(json!({
                    "name": format!("n{some}"), "ownerId": me, "thumbnail": "", "shared": some % 2 == 0,
                    "sharedLinkType": "edit", "published": false, "lastPublished": 0,
                    "publishedSlug": format!("s{}", some % 40), "createdAt": 1, "updatedAt": 1, "isEmpty": true,
                }))),
                insert("file_state", of_state(json!({ "lastVisitAt": some }))),
            ],
            &[
                ("max_files_reached", "there are 6 such rows"),
                ("forbidden", "the rule for inserts into table `file` says no, or the key is taken"),
                ("forbidden", "column `ownerId` of table `file` is written by an insert alone"),
                ("constraint", "`file_publishedSlug_key`"),
            ],
        ),
        3 | 4 => (vec![update("file", of_file(json!({ "name": format!("n{some}") })))], guest_or_nobody),
        5 => (vec![update("file", of_file(json!({ "updatedAt": some })))], guest_or_nobody),
        6 => (vec![update("file", of_file(json!({ "shared": some % 2 == 0, "sharedLinkType": "edit" })))], guest_or_nobody),
        7 => (vec![update("file", of_file(json!({ "isDeleted": some % 2 == 0 })))], guest_or_nobody),
        8 => (
            vec![delete("file", json!({ "id": file }))],
            &[("not_found", "`file`"), ("forbidden", "the rule for deletes")],
        ),
        9 | 10 => (
            vec![insert("file_state", of_state(json!({ "lastVisitAt": some })))],
            &[("forbidden", "the rule for inserts into table `file_state`"), ("forbidden", "no rule allows")],
        ),
        // Two rows, of which the second may not be there for them: all or nothing.
        11 => (
            vec![
                update("user", json!({ "id": me, "name": format!("n{some}") })),
                update("file_state", of_state(json!({ "isPinned": true }))),
            ],
            &[("not_found", "ops[1]: there is no such row in table `file_state`"), ("forbidden", "ops[1]: no rule allows")],
        ),
        12 => (vec![update("user", json!({ "id": me, "name": format!("n{some}") }))], &[]),
        13 => (vec![delete("file_state", state)], &[("not_found", "`file_state`")]),
        // What nobody may ever do.
        _ => (
            vec![update("file", of_file(json!({ "name": "never", "ownerName": "never" })))],
            &[("forbidden", "column `ownerName` of table `file` is read-only")],
        ),
    };
    Made { ops, rejections }
}

const TRACKER: &str = include_str!("../../examples/tracker/rowtide.toml");
const TRACKER_TABLES: &str = include_str!("../../examples/tracker/migrations/0001_tables.sql");
const TRACKER_ROWS: &str = "
CREATE FUNCTION id(kind text, n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
  AS $$ SELECT (kind || lpad(n::text, 7, '0') || '-0000-4000-8000-000000000000')::uuid $$;
INSERT INTO person SELECT 'u' || n, '' FROM generate_series(0, 19) AS n;
INSERT INTO workspace SELECT id('a', n), '' FROM generate_series(0, 3) AS n;
INSERT INTO member SELECT id('a', n % 4), 'u' || n, CASE WHEN n < 8 THEN 'owner' ELSE 'member' END::member_role
FROM generate_series(0, 19) AS n;
INSERT INTO project (id, workspace_id, name) SELECT id('b', n), id('a', n % 4), '' FROM generate_series(0, 7) AS n;
INSERT INTO issue (id, project_id, title, author_id)
SELECT id('c', n), id('b', n % 8), '', 'u' || n % 20 FROM generate_series(0, 29) AS n;
INSERT INTO comment (id, issue_id, author_id, body)
SELECT id('d', n), id('c', n), 'u' || n % 20, '' FROM generate_series(0, 29) AS n;
";

#[rustfmt::skip]
fn with_issues(me: &str, rng: &mut StdRng) -> Made {
    // Often of a workspace of their own: what is in it has its number, and more fours.
    let own = number_of(me) % 4;
    let mut id = |kind: &str, fours: usize| {
        let workspace = if rng.random_bool(0.2) { rng.random_range(0..4) } else { own };
        let n = workspace + 4 * rng.random_range(0..fours);
        format!("{kind}{n:07}-0000-4000-8000-000000000000")
    };
    let (workspace, project, issue) = (id("a", 1), id("b", 3), id("c", 9));
    let comment = match rng.random_range(0..2) {
        0 => rng.random_range(0..40),
        _ => number_of(me),
    };
    let comment = format!("d{comment:07}-0000-4000-8000-000000000000");
    let person = user(rng.random_range(0..USERS));
    let some = rng.random_range(0..1000);
    let name = format!("n{some}");
    let member = |role: &str| json!({ "workspace_id": workspace, "person_id": person, "role": role });
    let guest = json!({ "issue_id": issue, "person_id": person });
    const NO_ROW: (&str, &str) = ("not_found", "there is no such row");
    const NO_RULE: (&str, &str) = ("forbidden", "no rule allows");
    const NO_INSERT: (&str, &str) = ("forbidden", "the rule for inserts");
    const THERE: (&str, &str) = ("forbidden", "or the key is taken");
    const FIXED: (&str, &str) = ("forbidden", "is written by an insert alone");
    const NO_DELETE: (&str, &str) = ("forbidden", "the rule for deletes");
    let (ops, rejections): (Vec<Value>, Rejections) = match rng.random_range(0..16) {
        0 | 1 => (
            vec![insert("issue", json!({ "id": issue, "project_id": project, "title": name, "author_id": me }))],
            &[NO_INSERT, THERE, FIXED, NO_RULE],
        ),
        2..4 => (vec![update("issue", json!({ "id": issue, "title": name, "status": "doing" }))], &[NO_ROW, NO_RULE]),
        4 | 5 => (vec![update("issue", json!({ "id": issue, "project_id": project }))], &[NO_ROW, NO_RULE]),
        6 => (vec![delete("issue", json!({ "id": issue }))], &[NO_ROW, NO_DELETE]),
        7 | 8 => (
            vec![insert("comment", json!({ "id": comment, "issue_id": issue, "author_id": me, "body": name }))],
            &[NO_INSERT, THERE, FIXED, NO_RULE, ("constraint", "`comment_issue_id_fkey`")],
        ),
        9 => (vec![update("comment", json!({ "id": comment, "body": name }))], &[NO_ROW, NO_RULE]),
        10 => (
            vec![
                insert("member", member("member")),
                update("workspace", json!({ "id": workspace, "name": name })),
            ],
            &[NO_INSERT, NO_ROW, NO_RULE],
        ),
        11 => (vec![update("member", member("suspended"))], &[NO_ROW, NO_RULE]),
        12 => (vec![insert("issue_guest", guest)], &[
            NO_INSERT, THERE, ("forbidden", "the rules for updates of table `issue_guest` say no"),
            ("constraint", "`issue_guest_issue_id_fkey`"),
        ]),
        13 => (vec![delete("issue_guest", guest)], &[NO_ROW, NO_DELETE]),
        14 => (
            vec![insert("project", json!({ "id": project, "workspace_id": workspace, "name": name }))],
            &[NO_INSERT, THERE, NO_RULE],
        ),
        _ => (
            vec![update("person", json!({ "id": me, "name": name })), update("issue", json!({ "id": issue, "author_id": me }))],
            &[("forbidden", "ops[1]: column `author_id` of table `issue` is written by an insert alone")],
        ),
    };
    Made { ops, rejections }
}

/// Between clients and server: each connection breaks after some bytes, wherever that is in a frame,
/// until it is told that it is enough.
struct Brittle {
    address: SocketAddr,
    lasts: Arc<AtomicBool>,
    broken: Arc<AtomicUsize>,
}

impl Brittle {
    async fn before(server: SocketAddr, mut rng: StdRng) -> Brittle {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lasts = Arc::new(AtomicBool::new(false));
        let broken = Arc::<AtomicUsize>::default();
        let brittle = Brittle { address, lasts: Arc::clone(&lasts), broken: Arc::clone(&broken) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Often enough to come to life, so that nobody waits longer and longer for the next try.
                let bytes = rng.random_range(5_000..8_000) << rng.random_range(0..4);
                let (lasts, broken) = (Arc::clone(&lasts), Arc::clone(&broken));
                tokio::spawn(async move {
                    if carry(client, server, bytes, &lasts).await == Some(Broken) {
                        broken.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        brittle
    }
}

#[derive(PartialEq)]
struct Broken;

async fn carry(
    mut client: TcpStream,
    server: SocketAddr,
    mut left: usize,
    lasts: &AtomicBool,
) -> Option<Broken> {
    let mut server = TcpStream::connect(server).await.ok()?;
    let (mut asked, mut answered) = (vec![0; 4096], vec![0; 4096]);
    loop {
        let (to, bytes) = tokio::select! {
            read = client.read(&mut asked) => (&mut server, &asked[..read.ok()?]),
            read = server.read(&mut answered) => (&mut client, &answered[..read.ok()?]),
        };
        let some = if lasts.load(Ordering::Relaxed) { bytes.len() } else { bytes.len().min(left) };
        to.write_all(&bytes[..some]).await.ok()?;
        if some < bytes.len() {
            return Some(Broken);
        }
        if bytes.is_empty() {
            return None;
        }
        left = left.saturating_sub(some);
    }
}

/// What a client has made, and what it was told of it.
struct Done {
    user: String,
    client_id: String,
    made: Vec<Made>,
    /// Code and message by number; who is told anew with every connect is asked in the end.
    rejected: BTreeMap<u64, (String, String)>,
    client: Option<Client>,
}

/// Makes mutations, a few of them under way at a time, and waits for all outcomes.
async fn keep(url: String, user: String, make: Make, mut rng: StdRng) -> Done {
    let client_id = format!("keeper-{:016x}", rng.random::<u64>());
    let token = user.clone();
    let mut client = Client::start(ClientOptions {
        url,
        token: Arc::new(move || Some(App::token(&token))),
        client_id: client_id.clone(),
        app_version: None,
    });
    let mut made = Vec::new();
    let mut outcomes = BTreeMap::new();
    while outcomes.len() < MUTATIONS {
        if made.len() < MUTATIONS && made.len() - outcomes.len() < 4 {
            let next = make(&user, &mut rng);
            let op = |op: &Value| serde_json::from_value::<Op>(op.clone()).unwrap();
            let id = client.mutate(next.ops.iter().map(op).collect()).unwrap();
            made.push(next);
            assert_eq!(id, made.len() as u64);
            continue;
        }
        match client.next().await {
            Some(Event::Acked(acked)) => {
                let told = outcomes.insert(acked.id, acked.outcome);
                assert_eq!(told, None, "{client_id} is told of mutation {} twice", acked.id);
            }
            Some(Event::Stopped(error)) => panic!("{client_id} has stopped: {error}"),
            None => panic!("{client_id} has stopped"),
            Some(_) => {}
        }
    }
    assert!(client.shown().pending().next().is_none());
    let rejected = outcomes.into_iter().filter_map(|(id, outcome)| match outcome {
        Outcome::Rejected { code, message } => Some((id, (code, message))),
        Outcome::Applied => None,
    });
    Done { user, client_id, made, rejected: rejected.collect(), client: Some(client) }
}

/// Sends mutations again and again, from anywhere before those that are to come; hangs up without
/// hearing what becomes of them, or connects once more while it is connected.
async fn resend(app: &App, user: String, make: Make, mut rng: StdRng) -> Done {
    let client_id = format!("resender-{:016x}", rng.random::<u64>());
    let made: Vec<Made> = (0..MUTATIONS).map(|_| make(&user, &mut rng)).collect();
    let mut older = None;
    loop {
        let (mut writer, connected) = Writer::again(app, &user, &client_id, 0).await;
        let last = connected["lastMutation"].as_u64().unwrap() as usize;
        if last == MUTATIONS {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let told = connected["refused"].as_array().unwrap().iter();
            let rejected = told.map(|rejected| {
                let id = rejected["id"].as_u64().unwrap();
                (id, (text(&rejected["code"]), text(&rejected["message"])))
            });
            return Done { user, client_id, made, rejected: rejected.collect(), client: None };
        }
        let from = rng.random_range(1..=last + 1);
        let to = MUTATIONS.min(last + rng.random_range(1..4));
        for number in from..=to {
            writer.send_as(number as u64, made[number - 1].ops.clone().into()).await;
        }
        match rng.random_range(0..3) {
            0 => drop(writer),
            1 => older = Some(writer),
            _ => {
                loop {
                    match writer.raw.hear().await {
                        Ok(message) if message["ack"].as_u64() >= Some(to as u64) => break,
                        Ok(_) => {}
                        // What an older connection sent was acknowledged while this one came.
                        Err(ending) => break ending.assert(&client_id, "restarting"),
                    }
                }
                drop(older.take());
            }
        }
    }
}

/// Notes, in each transaction, which row of which table it wrote, and which mutation it acknowledged.
fn notes(tables: &[&str]) -> String {
    let mut sql = "
        CREATE TABLE effect (xid text, of_table text, of_row jsonb);
        CREATE TABLE acked (xid text, client_id text, number bigint, rejected boolean);
        CREATE FUNCTION note_effect() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          INSERT INTO effect
          SELECT pg_current_xact_id()::text, TG_TABLE_NAME,
                 CASE TG_OP WHEN 'DELETE' THEN to_jsonb(old) ELSE to_jsonb(new) END;
          RETURN NULL;
        END $$;
        CREATE FUNCTION note_acked() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          INSERT INTO acked VALUES
            (pg_current_xact_id()::text, new.client_id, new.last_mutation, new.refused IS NOT NULL);
          RETURN NULL;
        END $$;"
        .to_owned();
    for table in tables {
        sql += &format!(
            "CREATE TRIGGER note_effect AFTER INSERT OR UPDATE OR DELETE ON \"{table}\"
             FOR EACH ROW EXECUTE FUNCTION note_effect();"
        );
    }
    sql
}

async fn everyone_writes(definition: &str, tables: &str, rows: &str, of: &[&str], make: Make) {
    let seed: u64 = std::env::var("ROWTIDE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    println!("ROWTIDE_SEED={seed}");
    let mut seeds = StdRng::seed_from_u64(seed);
    let mut rng = || StdRng::seed_from_u64(seeds.random());
    let app = App::with(definition, &format!("{tables}\n{rows}\n{}", notes(of))).await;
    let schema = app.database.names().schema;
    app.database
        .run(&format!(
            "CREATE TRIGGER note_acked AFTER UPDATE ON {schema}.client
             FOR EACH ROW WHEN (old.last_mutation <> new.last_mutation)
             EXECUTE FUNCTION note_acked()"
        ))
        .await;
    let brittle = Brittle::before(app.address(), rng()).await;
    let keepers = (0..KEEPERS).map(|n| {
        tokio::spawn(keep(format!("ws://{}/sync", brittle.address), user(n), make, rng()))
    });
    let keepers = join_all(keepers.collect::<Vec<_>>());
    let resenders: Vec<_> = (0..RESENDERS).map(|n| resend(&app, user(n), make, rng())).collect();
    let (keepers, resenders) = tokio::join!(keepers, join_all(resenders));
    brittle.lasts.store(true, Ordering::Relaxed);
    let broken = brittle.broken.load(Ordering::Relaxed);
    println!("{broken} connections broke");
    assert!(broken > 4, "{broken} connections broke");
    let mut all: Vec<Done> = keepers.into_iter().map(|done| done.unwrap()).collect();
    all.extend(resenders);

    every_mutation_was_acknowledged_once(&app, &all).await;
    for done in &all {
        for (id, (code, message)) in &done.rejected {
            let made = &done.made[*id as usize - 1];
            let explains = |(of, said): &(&str, &str)| code == of && message.contains(said);
            assert!(made.rejections.iter().any(explains), "{code} {message:?} of {made:?}");
        }
    }
    let sql = app.database.connect().await;
    for done in &mut all {
        let expected = truth(&sql, definition, &done.user).await;
        // Who sent by hand is asked what a new client is told.
        let mut client = done.client.take().unwrap_or_else(|| app.client(&done.user));
        let what = format!("{} of {} holds what SQL says", done.client_id, done.user);
        let wait = async {
            while held(&client.replica()) != expected {
                let event = client.next().await;
                assert!(!matches!(event, None | Some(Event::Stopped(_))), "{event:?}");
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "not in time: {what}: {:?}", held(&client.replica()));
    }
}

/// Each number of each client once, in one transaction with the effects of all of its operations; and no
/// effect that belongs to none.
async fn every_mutation_was_acknowledged_once(app: &App, all: &[Done]) {
    let sql = app.database.connect().await;
    let mut effects: HashMap<String, Vec<(String, Value)>> = HashMap::new();
    for row in sql.query("SELECT xid, of_table, of_row::text FROM effect", &[]).await.unwrap() {
        let of_row = serde_json::from_str(row.get(2)).unwrap();
        effects.entry(row.get(0)).or_default().push((row.get(1), of_row));
    }
    // The first rows were made by none of them.
    let made_before =
        "SELECT xid FROM effect GROUP BY xid HAVING NOT xid IN (SELECT xid FROM acked)";
    let before = sql.query(made_before, &[]).await.unwrap();
    assert!(before.is_empty(), "{} transactions acknowledge nothing", before.len());
    let mut acked: HashMap<String, BTreeMap<u64, (String, bool)>> = HashMap::new();
    let mut xids = BTreeSet::new();
    let query = "SELECT xid, client_id, number, rejected FROM acked";
    for row in sql.query(query, &[]).await.unwrap() {
        let (xid, number): (String, i64) = (row.get(0), row.get(2));
        assert!(xids.insert(xid.clone()), "two mutations in one transaction");
        let of_client = acked.entry(row.get(1)).or_default();
        let twice = of_client.insert(number as u64, (xid, row.get(3)));
        assert_eq!(twice, None, "mutation {number} is acknowledged twice");
    }
    let mut applied = 0;
    for done in all {
        let of_client = acked.remove(&done.client_id).unwrap();
        let numbers: Vec<u64> = of_client.keys().copied().collect();
        assert_eq!(numbers, (1..=MUTATIONS as u64).collect::<Vec<_>>(), "{}", done.client_id);
        for (number, (xid, rejected)) in of_client {
            let told = done.rejected.get(&number);
            assert_eq!(told.is_some(), rejected, "{} {number}: {told:?}", done.client_id);
            let of_it = effects.get(&xid).map_or(&[][..], Vec::as_slice);
            if rejected {
                assert!(of_it.is_empty(), "{} {number} was rejected: {of_it:?}", done.client_id);
                continue;
            }
            applied += 1;
            for op in &done.made[number as usize - 1].ops {
                let of_op = of_it.iter().any(|(table, row)| {
                    let is = |column: &str| {
                        op["row"][column].is_null() || op["row"][column] == row[column]
                    };
                    op["table"] == **table
                        && ["id", "userId", "fileId", "workspace_id", "person_id", "issue_id"]
                            .iter()
                            .all(|column| is(column))
                });
                assert!(of_op, "{} {number}: {op} is not in {of_it:?}", done.client_id);
            }
        }
    }
    assert!(acked.is_empty(), "{acked:?}");
    let rejected = all.len() * MUTATIONS - applied;
    println!("{applied} mutations were applied, {rejected} rejected");
    // A run of one kind alone would show little.
    assert!(applied > 120 && rejected > 60, "{applied} applied, {rejected} rejected");
    eventually("nothing waits", || async {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        (app.one(waits).await == "0").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_writes_files() {
    // So that some come to the end of it.
    let definition = FILES.replace("max = 200", "max = 6");
    let tables = &["user", "file", "file_state"];
    everyone_writes(&definition, FILES_TABLES, FILES_ROWS, tables, with_files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_writes_issues() {
    let tables = &["person", "workspace", "member", "project", "issue", "comment", "issue_guest"];
    everyone_writes(TRACKER, TRACKER_TABLES, TRACKER_ROWS, tables, with_issues).await;
}
