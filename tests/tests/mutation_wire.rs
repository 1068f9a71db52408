//! What mutations are on the way to Postgres: how often an answer is waited for, and that nothing of one
//! is left behind for the next. Between the server and Postgres is a pooler as it is found in the field:
//! it hands out another connection for each transaction.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowtide_postgres::connect::ConnectOptions;
use rowtide_tests::{App, Writer, cluster, delete, eventually, insert, update};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio_postgres::config::{Config, Host};

const TABLES: &str =
    "CREATE TABLE item (id text PRIMARY KEY, owner text NOT NULL, name text, n int);";

const DEFINITION: &str = r#"
    [tables.item]
    visible = 'owner = auth.user_id'
    immutable = ["owner"]
    insert.allow = 'new.owner = auth.user_id'
    update = [{ allow = 'old.owner = auth.user_id' }]
    delete.allow = 'old.owner = auth.user_id'
    [[tables.item.insert.limit]]
    where = 'owner = auth.user_id'
    max = 100
    code = "too_many_items"
"#;

/// A message of Postgres' protocol, either way: its type and what is in it.
type Message = (u8, Vec<u8>);

/// All that come, to be taken without losing a part of one.
fn messages(mut from: impl AsyncReadExt + Unpin + Send + 'static) -> UnboundedReceiver<Message> {
    let (sender, messages) = unbounded_channel();
    tokio::spawn(async move {
        while let Some(message) = read(&mut from).await
            && sender.send(message).is_ok()
        {}
    });
    messages
}

async fn read(from: &mut (impl AsyncReadExt + Unpin)) -> Option<Message> {
    let kind = from.read_u8().await.ok()?;
    let length = from.read_u32().await.ok()?;
    let mut body = vec![0; length as usize - 4];
    from.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}

async fn write(to: &mut (impl AsyncWriteExt + Unpin), (kind, body): &Message) -> Option<()> {
    let mut bytes = vec![*kind];
    bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    to.write_all(&bytes).await.ok()
}

#[derive(Default)]
struct Seen {
    /// What was asked: the SQL, or `prepared` if it was parsed before.
    asked: Vec<String>,
    /// By which of the connections transactions were done.
    connections: BTreeSet<usize>,
    /// What sessions held between two transactions.
    left: BTreeSet<String>,
    /// Whether a transaction is under way.
    open: bool,
}

struct Pooler {
    port: u16,
    seen: Arc<Mutex<Seen>>,
    /// Whether answers are held back.
    holds: watch::Sender<bool>,
}

impl Pooler {
    /// Over so many connections for each that the server makes.
    async fn over(connections: usize) -> Pooler {
        let config: Config = cluster().await.url("postgres").parse().unwrap();
        let [Host::Unix(directory)] = config.get_hosts() else { panic!("{config:?}") };
        let postgres = directory.join(".s.PGSQL.5432");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, holds) = (Arc::<Mutex<Seen>>::default(), watch::Sender::new(false));
        let pooler = Pooler { port, seen: Arc::clone(&seen), holds: holds.clone() };
        tokio::spawn(async move {
            while let Ok((server, _)) = listener.accept().await {
                let (postgres, seen) = (postgres.clone(), Arc::clone(&seen));
                let held = holds.subscribe();
                tokio::spawn(async move { pool(server, postgres, connections, &seen, held).await });
            }
        });
        pooler
    }

    /// A server whose mutations go through it.
    async fn app(&self, prepare: bool) -> App {
        App::with_options(DEFINITION, TABLES, |options| {
            let database = options.gateway.database.database();
            let port = self.port;
            let url = format!("postgres://postgres@127.0.0.1:{port}/{database}?sslmode=disable");
            options.gateway.mutation_database = Some(ConnectOptions::parse(&url).unwrap());
            options.gateway.mutation_connections = 1;
            options.gateway.prepared_statements = prepare;
            // What is asked is counted.
            options.gateway.mutation_look = Duration::from_secs(86_400);
        })
        .await
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Waits until no transaction is under way.
    async fn is_at_rest(&self) {
        eventually("no transaction is under way", || async { (!self.seen().open).then_some(()) })
            .await;
    }

    /// Waits until so much was asked.
    async fn was_asked(&self, count: usize) -> Vec<String> {
        eventually("all of it is asked", || async {
            let seen = self.seen();
            (seen.asked.len() >= count).then(|| seen.asked.clone())
        })
        .await
    }
}

/// Serves one connection of the server's.
async fn pool(
    mut server: TcpStream,
    postgres: PathBuf,
    connections: usize,
    seen: &Mutex<Seen>,
    mut holds: watch::Receiver<bool>,
) -> Option<()> {
    let length = server.read_u32().await.ok()?;
    let mut startup = vec![0; length as usize - 4];
    server.read_exact(&mut startup).await.ok()?;
    let mut pool = Vec::new();
    for number in 0..connections {
        let (answers, mut asks) = UnixStream::connect(&postgres).await.ok()?.into_split();
        asks.write_u32(length).await.ok()?;
        asks.write_all(&startup).await.ok()?;
        let mut answers = messages(answers);
        loop {
            let greeting = answers.recv().await?;
            if number == 0 {
                write(&mut server, &greeting).await?;
            }
            if greeting.0 == b'Z' {
                break;
            }
        }
        pool.push((asks, answers));
    }
    let (asked, mut hears) = server.into_split();
    let mut asked = messages(asked);
    let mut current = 0;
    loop {
        // A transaction begins.
        let mut next = Some(asked.recv().await?);
        current = (current + 1) % connections;
        {
            let mut seen = seen.lock().unwrap();
            seen.open = true;
            seen.connections.insert(current);
        }
        let (asks, answers) = &mut pool[current];
        let (mut owed, mut parsed, mut open) = (0, None, true);
        while open {
            if let Some(message) = next.take() {
                match message.0 {
                    b'P' => parsed = Some(text(&message.1)),
                    b'Q' | b'S' => {
                        owed += 1;
                        let sql =
                            if message.0 == b'Q' { Some(text(&message.1)) } else { parsed.take() };
                        seen.lock()
                            .unwrap()
                            .asked
                            .push(sql.unwrap_or_else(|| "prepared".to_owned()));
                    }
                    _ => {}
                }
                write(asks, &message).await?;
            }
            if *holds.borrow_and_update() {
                tokio::select! {
                    message = asked.recv() => next = Some(message?),
                    _ = holds.changed() => {}
                }
                continue;
            }
            tokio::select! {
                message = asked.recv() => next = Some(message?),
                _ = holds.changed() => {}
                answer = answers.recv() => {
                    let answer = answer?;
                    if answer.0 == b'Z' {
                        owed -= 1;
                        open = owed > 0 || answer.1 != b"I";
                    }
                    write(&mut hears, &answer).await?;
                }
            }
        }
        let left = left_in(asks, answers).await?;
        let mut seen = seen.lock().unwrap();
        seen.left.extend(left);
        seen.open = false;
    }
}

/// The text of a query, or that of a statement behind its name.
fn text(body: &[u8]) -> String {
    let texts = body.split(|byte| *byte == 0).filter(|text| !text.is_empty());
    texts
        .map(String::from_utf8_lossy)
        .find(|text| text.contains(' ') || text.len() > 4)
        .unwrap_or_default()
        .into_owned()
}

/// What a session holds that a transaction should not leave in it.
async fn left_in(
    asks: &mut OwnedWriteHalf,
    answers: &mut UnboundedReceiver<Message>,
) -> Option<Vec<String>> {
    let sql = "SELECT 'setting ' || name FROM pg_settings WHERE source = 'session' \
               UNION ALL SELECT 'statement ' || statement FROM pg_prepared_statements \
               UNION ALL SELECT 'lock ' || locktype FROM pg_locks \
                 WHERE pid = pg_backend_pid() AND locktype = 'advisory' \
               UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE name <> '' \
               UNION ALL SELECT 'channel ' || channel FROM pg_listening_channels() AS channel \
               UNION ALL SELECT 'table ' || relname FROM pg_class \
                 WHERE relnamespace = pg_my_temp_schema()\0";
    write(asks, &(b'Q', sql.as_bytes().to_vec())).await?;
    let mut left = Vec::new();
    loop {
        let (kind, body) = answers.recv().await?;
        match kind {
            // One column: how many there are, its length, its text.
            b'D' => left.push(String::from_utf8_lossy(body.get(6..)?).into_owned()),
            b'E' => left.push(String::from_utf8_lossy(&body).into_owned()),
            b'Z' => return Some(left),
            _ => {}
        }
    }
}

fn new(id: &str) -> Value {
    json!([insert("item", json!({ "id": id, "owner": "u1", "name": "New" }))])
}

fn rename(id: &str) -> Value {
    json!([update("item", json!({ "id": id, "name": "Newer" }))])
}

fn away(id: &str) -> Value {
    json!([delete("item", json!({ "id": id }))])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_of_one_row_takes_two_round_trips() {
    for prepare in [true, false] {
        let pooler = Pooler::over(1).await;
        let app = pooler.app(prepare).await;
        let mut writer = Writer::live(&app, "u1").await;
        // What is prepared once for a connection.
        for ops in [new("a"), rename("a"), away("a"), new("b")] {
            writer.mutate(ops).await.applied();
        }
        for (name, ops) in
            [("an insert", new("c")), ("an update", rename("b")), ("a delete", away("b"))]
        {
            // An acknowledgement may be faster than the answer to its commit, which must not be held back.
            pooler.is_at_rest().await;
            pooler.seen().asked.clear();
            pooler.holds.send_replace(true);
            let id = writer.send(ops).await;
            // The beginning, the client's number, who writes, a lock, the write: all before there is any answer.
            let first = pooler.was_asked(5).await;
            assert!(first[0].starts_with("BEGIN"), "{name}: {first:?}");
            pooler.holds.send_replace(false);
            writer.outcome(id).await.applied();
            // And the second is the commit.
            let all = pooler.seen().asked.clone();
            assert_eq!((all.len(), all[5].as_str()), (6, "COMMIT"), "{name}: {all:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_may_hand_out_another_connection_for_each_transaction() {
    let pooler = Pooler::over(3).await;
    let app = pooler.app(false).await;
    let mut writer = Writer::live(&app, "u1").await;
    for n in 0..2 {
        let id = format!("i{n}");
        writer.mutate(new(&id)).await.applied();
        writer.mutate(rename(&id)).await.applied();
        // An insert that meets a row, a rejection, a repeat: each has transactions of its own.
        writer.mutate(new(&id)).await.applied();
        let other = json!([insert("item", json!({ "id": "x", "owner": "u2" }))]);
        writer.mutate(other).await.rejected("forbidden", "`item`");
        let last = writer.next() - 1;
        writer.send_as(last, rename(&id)).await;
        writer.outcome(last).await.rejected("forbidden", "`item`");
        writer.mutate(json!([rename(&id)[0], away(&id)[0]])).await.applied();
    }
    let seen = pooler.seen();
    assert_eq!(seen.connections, BTreeSet::from([0, 1, 2]));
    assert_eq!(seen.left, BTreeSet::new());
}
