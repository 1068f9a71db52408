//! A mutation is applied once or rejected once, whatever becomes of connections: the client's, the
//! server's, and the one to Postgres, also in the moment of the commit. What was applied is counted by
//! a trigger in the same transaction, so a second time would show.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowtide::server::ServerOptions;
use rowtide_postgres::client_registry::remove_unused;
use rowtide_postgres::connect::ConnectOptions;
use rowtide_tests::{App, Raw, Writer, cluster, eventually, http_get, insert, update};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_postgres::config::{Config, Host};

#[path = "exactly_once/keys.rs"]
mod keys;

const TABLES: &str = "
    CREATE TABLE item (id text PRIMARY KEY, owner text NOT NULL, n int NOT NULL CHECK (n >= 0));
    CREATE TABLE applied (place serial, id text, n int);
    CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO applied (id, n) VALUES (new.id, new.n);
      RETURN NULL;
    END $$;
    CREATE TRIGGER count_it AFTER INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION count_it();";

const DEFINITION: &str = r#"
    [tables.item]
    visible = 'owner = auth.user_id'
    immutable = ["owner"]
    insert.allow = 'new.owner = auth.user_id'
    update = [{ allow = 'old.owner = auth.user_id' }]
"#;

/// The `n`th mutation: it can be told from the others in `applied`.
fn item(n: u64) -> Value {
    json!([insert("item", json!({ "id": format!("i{n}"), "owner": "u1", "n": n }))])
}

/// A mutation that is rejected.
fn rejected() -> Value {
    json!([insert("item", json!({ "id": "x", "owner": "u2", "n": 1 }))])
}

/// No rejection.
const NONE: [(u64, String); 0] = [];

/// Every mutation that was applied, in order.
async fn applied(app: &App) -> String {
    app.one("SELECT string_agg(id, ' ' ORDER BY place) FROM applied").await
}

/// The number up to which a client's mutations are acknowledged.
async fn acked(app: &App, client_id: &str) -> String {
    let schema = app.database.names().schema;
    app.one(&format!("SELECT last_mutation FROM {schema}.client WHERE client_id = '{client_id}'"))
        .await
}

async fn acked_up_to(app: &App, client_id: &str, number: u64) {
    eventually("all of it is acknowledged", || async {
        (acked(app, client_id).await == number.to_string()).then_some(())
    })
    .await;
}

/// Waits until so many of the server's transactions wait for a lock.
async fn wait_for_a_lock(app: &App, count: i64) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
               AND application_name = 'rowtide mutate' AND wait_event_type = 'Lock'";
    let client = app.database.connect().await;
    eventually("transactions that wait", || async {
        let waiting: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        (waiting == count).then_some(())
    })
    .await;
}

/// When a connection is cut off, seen from what is asked over it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// Postgres never gets it.
    Before,
    /// Postgres gets it, and the server is cut off before it has an answer.
    Meanwhile,
    /// Postgres has answered, and the answer is lost.
    After,
    /// Nothing is cut off: Postgres has answered, and the answer does not come.
    Stalled,
}

struct Wire {
    postgres: PathBuf,
    /// Where the next connection that mutates is cut off.
    next: Mutex<Option<(&'static str, Cut)>>,
    there: watch::Sender<bool>,
}

/// What sits between the server and Postgres.
struct Between {
    port: u16,
    wire: Arc<Wire>,
}

impl Between {
    async fn new() -> Between {
        let config: Config = cluster().await.url("postgres").parse().unwrap();
        let [Host::Unix(directory)] = config.get_hosts() else { panic!("{config:?}") };
        let postgres = directory.join(".s.PGSQL.5432");
        let wire = Wire { postgres, next: Mutex::default(), there: watch::Sender::new(true) };
        let wire = Arc::new(wire);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let between = Between { port: listener.local_addr().unwrap().port(), wire };
        let wire = Arc::downgrade(&between.wire);
        tokio::spawn(async move {
            while let Ok((server, _)) = listener.accept().await
                && let Some(wire) = wire.upgrade()
            {
                tokio::spawn(async move { carry(server, &wire).await });
            }
        });
        between
    }

    /// A server that knows of no other way to Postgres.
    async fn app(&self, change: impl FnOnce(&mut ServerOptions)) -> App {
        self.app_of(DEFINITION, TABLES, change).await
    }

    /// The same for another definition, with its tables.
    async fn app_of(
        &self,
        definition: &str,
        tables: &str,
        change: impl FnOnce(&mut ServerOptions),
    ) -> App {
        App::with_options(definition, tables, |options| {
            let database = options.gateway.database.database();
            let port = self.port;
            let url = format!("postgres://postgres@127.0.0.1:{port}/{database}?sslmode=disable");
            options.gateway.database = ConnectOptions::parse(&url).unwrap();
            change(options);
        })
        .await
    }

    fn cut(&self, asked: &'static str, cut: Cut) {
        *self.wire.next.lock().unwrap() = Some((asked, cut));
    }

    /// Fails unless the last cut was made.
    fn assert_was_cut(&self, name: &str) {
        assert_eq!(*self.wire.next.lock().unwrap(), None, "{name}: nothing was cut");
    }

    /// Cuts everything off and lets nothing in, or lets it in again.
    fn set_there(&self, there: bool) {
        self.wire.there.send_replace(there);
    }
}

/// Carries what the server asks and what Postgres answers, until one of them or the wire ends it.
async fn carry(mut server: TcpStream, wire: &Wire) -> Option<()> {
    let mut there = wire.there.subscribe();
    if !*there.borrow_and_update() {
        return None;
    }
    let mut postgres = UnixStream::connect(&wire.postgres).await.ok()?;
    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut mutates = false;
    loop {
        tokio::select! {
            _ = there.changed() => return None,
            read = server.read(&mut asked) => {
                let bytes = &asked[..read.ok().filter(|read| *read > 0)?];
                mutates |= holds(bytes, "rowtide mutate");
                let is_next = |next: &mut (&str, Cut)| mutates && holds(bytes, next.0);
                let cut = wire.next.lock().unwrap().take_if(is_next);
                match cut.map(|(_, cut)| cut) {
                    None => postgres.write_all(bytes).await.ok()?,
                    Some(Cut::Before) => return None,
                    Some(cut) => {
                        postgres.write_all(bytes).await.ok()?;
                        if cut == Cut::Meanwhile {
                            drop(server);
                        }
                        drop(postgres.read(&mut answered).await);
                        if cut == Cut::Stalled {
                            // Until the server has enough of it, which it cannot tell us here.
                            there.changed().await.ok();
                        }
                        return None;
                    }
                }
            }
            read = postgres.read(&mut answered) => {
                let bytes = &answered[..read.ok().filter(|read| *read > 0)?];
                server.write_all(bytes).await.ok()?;
            }
        }
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_at_the_commit_changes_nothing_for_the_client() {
    let between = Between::new().await;
    let app = between.app(|options| options.gateway.mutation_answer = Duration::from_secs(1)).await;
    let mut writer = Writer::live(&app, "u1").await;
    for cut in [Cut::Before, Cut::Meanwhile, Cut::After, Cut::Stalled] {
        between.cut("COMMIT\0", cut);
        writer.send(item(writer.next())).await;
        // Another waits behind it.
        let last = writer.send(item(writer.next())).await;
        assert_eq!(writer.acked_up_to(last).await, NONE, "{cut:?}");
        between.assert_was_cut(&format!("{cut:?}"));
    }
    assert_eq!(applied(&app).await, "i1 i2 i3 i4 i5 i6 i7 i8");
    assert_eq!(acked(&app, &writer.client_id).await, "8");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_when_a_rejection_is_kept_changes_nothing_for_the_client() {
    let between = Between::new().await;
    // Statements that are not prepared can be told apart on the wire.
    let app = between.app(|options| options.gateway.prepared_statements = false).await;
    let mut writer = Writer::live(&app, "u1").await;
    for cut in [Cut::Before, Cut::Meanwhile, Cut::After] {
        between.cut("refusal", cut);
        writer.mutate(rejected()).await.rejected("forbidden", "`item`");
        between.assert_was_cut(&format!("{cut:?}"));
        writer.mutate(item(writer.next())).await.applied();
    }
    assert_eq!(applied(&app).await, "i2 i4 i6");
    let (_, connected) = Writer::again(&app, "u1", &writer.client_id, 0).await;
    let ids: Vec<&Value> =
        connected["refused"].as_array().unwrap().iter().map(|rejected| &rejected["id"]).collect();
    assert_eq!(
        (ids, &connected["lastMutation"]),
        (vec![&json!(1), &json!(3), &json!(5)], &json!(6))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_takes_its_time_is_waited_for_by_its_own_repeat() {
    let between = Between::new().await;
    let app = between.app(|_| ()).await;
    // The commit waits for whoever holds the lock.
    app.database
        .run(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               PERFORM pg_advisory_xact_lock(1);
               RETURN NULL;
             END $$;
             CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED
               FOR EACH ROW EXECUTE FUNCTION wait()",
        )
        .await;
    let holder = app.database.connect().await;
    holder.execute("SELECT pg_advisory_lock(1)", &[]).await.unwrap();
    let mut writer = Writer::live(&app, "u1").await;
    between.cut("COMMIT\0", Cut::Meanwhile);
    let id = writer.send(item(1)).await;
    // The commit that nobody hears of any more, and the next try, which waits for the client's row.
    wait_for_a_lock(&app, 2).await;
    holder.execute("SELECT pg_advisory_unlock(1)", &[]).await.unwrap();
    writer.outcome(id).await.applied();
    assert_eq!(
        (applied(&app).await.as_str(), acked(&app, &writer.client_id).await.as_str()),
        ("i1", "1")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_while_its_mutation_is_under_way_is_told_of_it_once() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut writer = Writer::live(&app, "u1").await;
    writer.mutate(item(1)).await.applied();
    let holder = app.database.connect().await;
    let id = writer.client_id.clone();
    for (round, hangs_up) in [false, true].into_iter().enumerate() {
        let first = 2 + 3 * round as u64;
        hold(&holder, "SELECT FROM item WHERE id = 'i1' FOR UPDATE").await;
        let of_held = json!([update("item", json!({ "id": "i1", "n": first }))]);
        writer.send(of_held.clone()).await;
        wait_for_a_lock(&app, 1).await;
        if hangs_up {
            // The newest connection wins, so the older one goes.
            drop(writer);
        }
        let (mut again, connected) = Writer::again(&app, "u1", &id, first - 1).await;
        assert_eq!(connected["lastMutation"], first - 1);
        let ops = [of_held, item(first + 1), rejected()];
        for ops in ops {
            again.send(ops).await;
        }
        wait_for_a_lock(&app, 2).await;
        holder.batch_execute("COMMIT").await.unwrap();
        let last = first + 2;
        assert_eq!(again.acked_up_to(last).await, [(last, "forbidden".to_owned())]);
        writer = again;
    }
    assert_eq!(applied(&app).await, "i1 i1 i3 i1 i6");
    assert_eq!(acked(&app, &id).await, "7");
}

/// A number names one mutation for ever, so a copy that arrives late over an older connection is a repeat, also where
/// the database has forgotten meanwhile what the client was told.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_copy_is_a_repeat_although_the_database_has_gone_back() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut old = Writer::live(&app, "u1").await;
    for n in 1..=3 {
        old.mutate(item(n)).await.applied();
    }
    let schema = app.database.names().schema;
    let back = format!("UPDATE {schema}.client SET last_mutation = 1; DELETE FROM item");
    app.database.run(&back).await;
    let id = old.client_id.clone();
    let mut new = Raw::open(&app).await;
    new.say(&json!({
        "type": "connect", "protocol": 1, "clientId": id, "token": App::token("u1"), "acked": 3,
    }))
    .await;
    acked_up_to(&app, &id, 3).await;
    // It was sent before the newer connection came, on which nothing is heard of the client yet.
    old.send(item(4)).await;
    acked_up_to(&app, &id, 4).await;
    assert_eq!(new.until("connected").await["lastMutation"], 3);
    new.until("ready").await;
    for n in [4, 5] {
        new.say(&json!({ "type": "mutate", "id": n, "ops": item(n) })).await;
    }
    acked_up_to(&app, &id, 5).await;
    assert_eq!(applied(&app).await, "i1 i2 i3 i4 i5");
}

/// Begins a transaction that holds what the statement locks.
async fn hold(holder: &Client, sql: &str) {
    holder.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_id_is_its_users_alone() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut writer = Writer::live(&app, "u1").await;
    writer.mutate(item(1)).await.applied();
    let mut other = Raw::open(&app).await;
    let mut connect = Raw::connect(&App::token("u2"));
    connect["clientId"] = writer.client_id.clone().into();
    other.say(&connect).await;
    other.ending().await.assert("another user", "forbidden");
    // Its own user notices nothing of that.
    writer.mutate(item(2)).await.applied();
    // Whoever takes it out of the database's hands ends it; a client that is not known may be one of after
    // the backup that the database was restored from.
    let schema = app.database.names().schema;
    let give_away = format!("UPDATE {schema}.client SET user_id = 'u2' WHERE user_id = 'u1'");
    for (name, sql, code) in [
        ("given away", give_away, "forbidden"),
        ("removed", format!("DELETE FROM {schema}.client"), "restarting"),
    ] {
        let mut writer = Writer::live(&app, "u1").await;
        app.database.run(&sql).await;
        writer.send(item(3)).await;
        writer.raw.ending().await.assert(name, code);
    }
    assert_eq!(applied(&app).await, "i1 i2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_waits_for_its_client_also_through_a_restart_of_the_server() {
    let mut app = App::with(DEFINITION, TABLES).await;
    let mut writer = Writer::live(&app, "u1").await;
    let id = writer.client_id.clone();
    let bad = json!([{ "op": "insert\0", "table": "item", "row": {} }]);
    for ops in [rejected(), item(2), bad] {
        writer.send(ops).await;
    }
    drop(writer);
    acked_up_to(&app, &id, 3).await;
    app.stop_server().await;
    app.start_server().await;
    let codes = |connected: &Value| -> Vec<String> {
        let told = connected["refused"].as_array().unwrap().iter();
        told.map(|rejected| format!("{} {}", rejected["id"], rejected["code"])).collect()
    };
    for (knows, told) in [
        (0, &[r#"1 "forbidden""#, r#"3 "bad_request""#][..]),
        (1, &[r#"3 "bad_request""#]),
        (3, &[]),
    ] {
        let (_, connected) = Writer::again(&app, "u1", &id, knows).await;
        assert_eq!(
            (&connected["lastMutation"], codes(&connected).as_slice()),
            (&json!(3), &told.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()[..])
        );
    }
    // The last hundred are kept.
    let (mut writer, _) = Writer::again(&app, "u1", &id, 3).await;
    let mut last = 3;
    for _ in 0..120 {
        last = writer.send(rejected()).await;
    }
    assert_eq!(writer.acked_up_to(last).await.len(), 120);
    let (_, connected) = Writer::again(&app, "u1", &id, 3).await;
    let kept = codes(&connected);
    assert_eq!((kept.len(), kept[0].as_str()), (100, r#"24 "forbidden""#));
    assert_eq!(applied(&app).await, "i2");
}

/// What a client's older connections sent may be acknowledged while it connects anew, after its last number
/// was read and before the stream can tell it anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_that_passes_a_connection_by_is_not_taken_for_success() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut writer = Writer::live(&app, "u1").await;
    let id = writer.client_id.clone();
    writer.mutate(item(1)).await.applied();
    drop(writer);
    let schema = app.database.names().schema;
    let (rejections, acks) = (app.database.connect().await, app.database.connect().await);
    hold(&rejections, &format!("LOCK TABLE {schema}.refusal")).await;
    let connect = json!({
        "type": "connect", "protocol": 1, "clientId": id, "token": App::token("u1"),
    });
    let mut raw = Raw::open(&app).await;
    raw.say(&connect).await;
    // Its last number has been read, and it waits for what was rejected of it.
    eventually("it is looked up", || async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND application_name = 'rowtide clients' AND wait_event_type = 'Lock'";
        (app.one(waits).await == "1").then_some(())
    })
    .await;
    let told = json!([{ "id": 2, "code": "forbidden", "message": "no" }]);
    let ack = |number: u64, rejected: &str| {
        format!(
            "UPDATE {schema}.client SET last_mutation = {number}, refused = {rejected}, name = NULL
             WHERE client_id = '{id}'"
        )
    };
    acks.batch_execute(&ack(2, &format!("'{told}'"))).await.unwrap();
    let passed = app.one("SELECT pg_current_wal_flush_lsn()").await;
    eventually("the stream has brought it", || async {
        let health: Value = serde_json::from_str(&http_get(&app, "/health/ready").await).unwrap();
        let position = health["position"].as_str().unwrap().to_owned();
        (app.one(&format!("SELECT '{position}'::pg_lsn >= '{passed}'")).await == "true")
            .then_some(())
    })
    .await;
    let kept = format!("INSERT INTO {schema}.refusal VALUES ('{id}', 2, 'forbidden', 'no')");
    rejections.batch_execute(&format!("{kept}; COMMIT")).await.unwrap();
    let connected = raw.until("connected").await;
    assert_eq!((&connected["lastMutation"], &connected["refused"]), (&json!(1), &json!([])));
    raw.until("ready").await;
    // Acknowledged as well, and the first that it could hear of.
    acks.batch_execute(&ack(3, "NULL")).await.unwrap();
    let ending = loop {
        match raw.hear().await {
            Ok(message) => assert!(message["ack"].is_null(), "{message}"),
            Err(ending) => break ending,
        }
    };
    ending.assert("an outcome has passed it by", "restarting");
    let mut raw = Raw::open(&app).await;
    raw.say(&connect).await;
    let connected = raw.until("connected").await;
    assert_eq!((&connected["lastMutation"], &connected["refused"]), (&json!(3), &told));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_tells_all_that_it_acknowledges() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut writer = Writer::live(&app, "u1").await;
    for ops in [item(1), rejected(), item(3), rejected(), item(5)] {
        writer.send(ops).await;
    }
    assert_eq!(writer.acked_up_to(5).await.len(), 2);
    let forbidden = |number: u64| (number, "forbidden".to_owned());
    for (again, told) in [
        (1, vec![forbidden(2), forbidden(4)]),
        (2, vec![forbidden(2), forbidden(4)]),
        (3, vec![forbidden(4)]),
        (5, vec![]),
    ] {
        writer.send_as(again, item(again)).await;
        assert_eq!(writer.acked_up_to(again).await, told, "{again}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_in_the_way_is_never_the_clients_concern() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut writers = [Writer::live(&app, "u1").await, Writer::live(&app, "u1").await];
    writers[0].mutate(json!([item(1)[0], item(2)[0]])).await.applied();
    // Each has locked the other's row when both go on.
    app.database
        .run(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               PERFORM pg_advisory_xact_lock_shared(1);
               RETURN NULL;
             END $$;
             CREATE TRIGGER wait AFTER UPDATE ON item FOR EACH ROW EXECUTE FUNCTION wait()",
        )
        .await;
    let holder = app.database.connect().await;
    holder.execute("SELECT pg_advisory_lock(1)", &[]).await.unwrap();
    let set = |id: &str, n: u64| update("item", json!({ "id": id, "n": n }));
    let [first, second] = &mut writers;
    let one = first.send(json!([set("i1", 11), set("i2", 12)])).await;
    let other = second.send(json!([set("i2", 22), set("i1", 21)])).await;
    wait_for_a_lock(&app, 2).await;
    holder.execute("SELECT pg_advisory_unlock(1)", &[]).await.unwrap();
    assert_eq!(first.outcome(one).await.rejected, None);
    assert_eq!(second.outcome(other).await.rejected, None);
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    eventually("the deadlock is counted", || async {
        (app.one(deadlocks).await == "1").then_some(())
    })
    .await;
    let both = "SELECT string_agg(n::text, ' ' ORDER BY place) FROM applied WHERE n > 10";
    assert!(["11 12 22 21", "22 21 11 12"].contains(&app.one(both).await.as_str()));

    // Failures that are gone with another try; a sequence counts them, because it is not rolled back.
    for (code, of) in
        [("40001", "at the write"), ("40P01", "at the write"), ("40001", "at the commit")]
    {
        let deferred = if of == "at the commit" { "DEFERRABLE INITIALLY DEFERRED" } else { "" };
        app.database
            .run(&format!(
                "DROP TRIGGER IF EXISTS fail ON item;
                 DROP SEQUENCE IF EXISTS tries;
                 CREATE SEQUENCE tries;
                 CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                   IF nextval('tries') < 4 THEN
                     RAISE 'in the way' USING ERRCODE = '{code}';
                   END IF;
                   RETURN NULL;
                 END $$;
                 CREATE CONSTRAINT TRIGGER fail AFTER UPDATE ON item {deferred}
                   FOR EACH ROW EXECUTE FUNCTION fail()"
            ))
            .await;
        let name = format!("{code} {of}");
        let rejected = first.mutate(json!([set("i1", 5)])).await.rejected;
        assert_eq!(
            (rejected, app.one("SELECT last_value FROM tries").await.as_str()),
            (None, "4"),
            "{name}"
        );
    }
    assert_eq!(app.one("SELECT count(*) FROM applied WHERE n = 5").await, "3");

    // What never ends is given up, with the number acknowledged.
    app.database
        .run(
            "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               RAISE 'in the way' USING ERRCODE = '40001';
             END $$",
        )
        .await;
    first.mutate(json!([set("i1", 6)])).await.rejected("unknown_error", "others were writing");
    first.mutate(item(7)).await.applied();
}

#[tokio::test(flavor = "multi_thread")]
async fn mutations_wait_while_postgres_is_away() {
    let between = Between::new().await;
    let app = between.app(|_| ()).await;
    let mut writer = Writer::live(&app, "u1").await;
    writer.mutate(item(1)).await.applied();
    between.set_there(false);
    for ops in [item(2), rejected(), item(4)] {
        writer.send(ops).await;
    }
    // The session stays, and is told nothing of them.
    writer.raw.say(&json!({ "type": "ping" })).await;
    assert_eq!(writer.raw.hear_news().await.unwrap()["type"], "pong");
    let mut newcomer = Raw::open(&app).await;
    newcomer.say(&Raw::connect(&App::token("u1"))).await;
    newcomer.ending().await.assert("a newcomer", "unavailable");
    between.set_there(true);
    assert_eq!(writer.acked_up_to(4).await, [(3, "forbidden".to_owned())]);
    assert_eq!(applied(&app).await, "i1 i2 i4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_too_many_mutations_is_sent_away_and_nothing_is_lost() {
    let between = Between::new().await;
    let app = between.app(|_| ()).await;
    let mut writer = Writer::live(&app, "u1").await;
    let id = writer.client_id.clone();
    between.set_there(false);
    // One that is tried and 256 behind it.
    for n in 1..=258 {
        writer.send(item(n)).await;
    }
    writer.raw.ending().await.assert("too many", "unavailable");
    between.set_there(true);
    // What has reached the server is acknowledged without its client.
    acked_up_to(&app, &id, 257).await;
    let (mut writer, connected) = Writer::again(&app, "u1", &id, 0).await;
    assert_eq!((&connected["lastMutation"], &connected["refused"]), (&json!(257), &json!([])));
    writer.mutate(item(258)).await.applied();
    let all: Vec<String> = (1..=258).map(|n| format!("i{n}")).collect();
    assert_eq!(applied(&app).await, all.join(" "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_cannot_be_acknowledged_yet_waits() {
    let app = App::with(DEFINITION, TABLES).await;
    let mut writer = Writer::live(&app, "u1").await;
    writer.mutate(item(1)).await.applied();
    let schema = app.database.names().schema;
    app.database
        .run(&format!(
            "CREATE SEQUENCE tries;
             CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               PERFORM nextval('tries');
               RAISE 'not now';
             END $$;
             CREATE TRIGGER fail BEFORE UPDATE ON {schema}.client FOR EACH ROW EXECUTE FUNCTION fail()"
        ))
        .await;
    writer.send(item(2)).await;
    let last = writer.send(rejected()).await;
    eventually("it is tried again", || async {
        let tries: i64 = app.one("SELECT last_value FROM tries").await.parse().unwrap();
        (tries > 3).then_some(())
    })
    .await;
    app.database.run(&format!("DROP TRIGGER fail ON {schema}.client")).await;
    assert_eq!(writer.acked_up_to(last).await, [(last, "forbidden".to_owned())]);
    assert_eq!(applied(&app).await, "i1 i2");
}

/// A client id that was removed because nobody used it for long is not had again, and what its client still has to send
/// goes on under another.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_id_that_was_removed_is_told_to_take_another() {
    let app = App::with(DEFINITION, TABLES).await;
    let (first, schema) = (Writer::live(&app, "u1").await, app.database.names().schema);
    let mut writer = first;
    writer.mutate(item(1)).await.applied();
    let id = writer.client_id.clone();
    drop(writer);
    app.database
        .run(&format!("UPDATE {schema}.client SET created_at = now() - interval '500 days'"))
        .await;
    let (client, names) = (app.database.connect().await, app.database.names());
    let days = Duration::from_secs(400 * 86_400);
    assert_eq!(remove_unused(&client, &names, days).await.unwrap(), 1);
    for known in [json!({ "settled": 1 }), json!({ "acked": 1 })] {
        let mut raw = Raw::open(&app).await;
        let mut connect = Raw::connect(&App::token("u1"));
        connect["clientId"] = id.clone().into();
        connect.as_object_mut().unwrap().extend(known.as_object().unwrap().clone());
        raw.say(&connect).await;
        raw.ending().await.assert("a client that was removed", "forbidden");
    }
    // One that never had anything acknowledged is new.
    let (mut writer, connected) = Writer::again(&app, "u1", &id, 0).await;
    assert_eq!(connected["lastMutation"], 0);
    writer.mutate(item(2)).await.applied();
}
