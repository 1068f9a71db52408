//! What strangers and clients do to take the server from others: many sockets, halves of requests, floods of what is
//! small. While each is tried a bystander's session gets its changes, the server says that it is ready, and it is
//! counted for the operator which limit was reached.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rowtide::limits::{ClientLimits, ConnectionLimits, HEALTH_TIMEOUT};
use rowtide::server::ServerOptions;
use rowtide_tests::{
    App, Bystander, Database, Dir, PATIENCE, Raw, Running, SECRET, asked, eventually, http,
    http_get, rowtide, said, warnings,
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// Longer than a test takes.
const FOR_GOOD: Duration = Duration::from_secs(3_600);

/// How often it is said in a log that this limit of connections is reached.
fn times_told(log: &str, limit: &str) -> usize {
    let limit = format!("limit=\"{limit}\"");
    let tells = |line: &&str| line.contains("a limit of connections is reached");
    log.lines().filter(tells).filter(|line| line.contains(&limit)).count()
}

/// Fails unless one of the servers of this process has said that this limit is reached.
fn assert_told(limit: &str) {
    let log = warnings().text(0);
    assert!(times_told(&log, limit) > 0, "{limit}: {log}");
}

async fn app(change: impl FnOnce(&mut ConnectionLimits, &mut ClientLimits)) -> App {
    warnings();
    let change = |options: &mut ServerOptions| {
        change(&mut options.connections, &mut options.gateway.client);
    };
    App::with_options(Bystander::DEFINITION, Bystander::TABLES, change).await
}

/// Opens connections and writes this on each.
async fn open(address: SocketAddr, count: usize, begin: &[u8]) -> Vec<TcpStream> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut socket = TcpStream::connect(address).await.unwrap();
        drop(socket.write_all(begin).await);
        sockets.push(socket);
    }
    sockets
}

/// Fails unless the server ends each of these.
async fn assert_ended(what: &str, sockets: Vec<TcpStream>) {
    let deadline = Instant::now() + PATIENCE;
    for mut socket in sockets {
        let mut answer = Vec::new();
        let read = socket.read_to_end(&mut answer);
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(timeout(left, read).await.is_ok(), "{what}: still open");
    }
}

/// How often a limit was reached.
async fn limited(app: &App, limit: &str) -> f64 {
    limited_in(&http_get(app, "/metrics").await, limit)
}

fn limited_in(metrics: &str, limit: &str) -> f64 {
    value_in(metrics, &format!("rowtide_limited_total{{limit=\"{limit}\"}}"))
}

/// The value of a metric on a page of them.
fn value_in(metrics: &str, name: &str) -> f64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    metrics.lines().find_map(value).unwrap_or_else(|| panic!("no {name}"))
}

const UPGRADE: &[u8] =
    b"GET /sync HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn strangers_hold_no_memory() {
    let app = app(|_, client| client.message_bytes = 4 << 20).await;
    let mut bystander = Bystander::of(&app).await;
    let before = limited(&app, "first_message").await;
    // A frame of just below 4 MiB is to come, and nearly all of it does.
    let header = [0x81, 0xff, 0, 0, 0, 0, 0, 0x3f, 0xff, 0xff, 1, 2, 3, 4];
    let mut sockets = open(app.address(), 150, UPGRADE).await;
    for socket in &mut sockets {
        drop(socket.write_all(&header).await);
        drop(timeout(Duration::from_secs(1), socket.write_all(&[b'x'; 100_000])).await);
    }
    bystander.assert_undisturbed(&app, "large first messages").await;
    assert_ended("large first messages", sockets).await;
    assert!(limited(&app, "first_message").await >= before + 150.0);
    // Whoever is let in may send as much as clients may.
    let mut raw = Raw::live(&app, "u1").await;
    raw.send(Message::text(format!("{}{{\"type\":\"ping\"}}", " ".repeat(4_000_000)))).await;
    raw.until("pong").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_of_requests_are_given_up() {
    let app = app(|connections, _| {
        connections.head_timeout = Duration::from_millis(500);
        connections.http_timeout = Duration::from_secs(2);
    })
    .await;
    let mut bystander = Bystander::of(&app).await;
    let before = limited(&app, "http_time").await;
    let huge = [b"GET / HTTP/1.1\r\nX: ", &[b'x'; 200_000][..]].concat();
    let many = [b"GET / HTTP/1.1\r\n".to_vec(), b"X: y\r\n".repeat(5_000)].concat();
    let pipelined = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200);
    for (what, count, begin) in [
        ("nothing", 200, &b""[..]),
        ("half a line", 500, b"GET / HT"),
        ("half a head", 500, b"GET /health/ready HTTP/1.1\r\nHost: x\r\n"),
        ("half a body", 50, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx"),
        (
            "half a chunk",
            50,
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nx",
        ),
        ("half an upgrade", 50, &UPGRADE[..UPGRADE.len() - 2]),
        ("a head that is too large", 20, &huge),
        ("too many headers", 20, &many),
        ("requests behind each other", 20, &pipelined),
        ("a request that is answered", 20, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("no HTTP", 20, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ] {
        let sockets = open(app.address(), count, begin).await;
        bystander.assert_undisturbed(&app, what).await;
        assert_ended(what, sockets).await;
    }
    assert!(limited(&app, "http_time").await >= before + 1_000.0);
    // Byte by byte, and never done; an answer that is not read.
    let slow = TcpSocket::new_v4().unwrap();
    slow.set_recv_buffer_size(1_024).unwrap();
    let mut slow = slow.connect(app.address()).await.unwrap();
    drop(slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await);
    let mut dripping = open(app.address(), 1, b"GET /").await.remove(0);
    let dripped = async {
        while dripping.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, dripped).await.expect("a head that drips is given up");
    bystander.assert_undisturbed(&app, "slow ones").await;
    eventually("the bystander and who asks are left", || async {
        let metrics = http_get(&app, "/metrics").await;
        (value_in(&metrics, "rowtide_connections") == 2.0).then_some(())
    })
    .await;
    drop(slow);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_connections_leaves_room_for_health() {
    let app = app(|connections, _| {
        connections.connections = 40;
        // They hold their places as long as the test takes.
        connections.head_timeout = FOR_GOOD;
        connections.http_timeout = FOR_GOOD;
    })
    .await;
    let mut bystander = Bystander::of(&app).await;
    let before = limited(&app, "max_connections").await;
    let silent = open(app.address(), 300, b"").await;
    bystander.assert_undisturbed(&app, "more connections than there may be").await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes();
    assert_eq!(http(&app, &get("/health/live")).await, 200);
    assert_eq!(http(&app, &get("/metrics")).await, 200);
    assert_eq!(http(&app, &get("/")).await, 503);
    assert_eq!(http(&app, UPGRADE).await, 503);
    assert!(limited(&app, "max_connections").await >= before + 200.0);
    assert_told("max_connections");
    drop(silent);
    eventually("there is room again", || async {
        (http(&app, &get("/")).await == 200).then_some(())
    })
    .await;
    Raw::live(&app, "u1").await.assert_alive().await;
    bystander.assert_undisturbed(&app, "after it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_takes_no_place_of_another() {
    let app = app(|connections, _| {
        connections.per_address = 5;
        connections.head_timeout = FOR_GOOD;
        connections.http_timeout = FOR_GOOD;
    })
    .await;
    let mut bystander = Bystander::of(&app).await;
    let before = limited(&app, "connections_per_address").await;
    let greedy = Ipv4Addr::new(127, 0, 0, 77);
    let connect = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((IpAddr::V4(greedy), 0).into()).unwrap();
        socket.connect(app.address()).await.unwrap()
    };
    let ask = async |path: &str| {
        let mut socket = connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        drop(socket.write_all(request.as_bytes()).await);
        let mut answer = Vec::new();
        drop(timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap());
        String::from_utf8_lossy(&answer).split(' ').nth(1).map(str::to_owned)
    };
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(connect().await);
    }
    eventually("its places are taken", || async {
        (ask("/").await.as_deref() == Some("503")).then_some(())
    })
    .await;
    assert_eq!(ask("/health/ready").await.as_deref(), Some("200"));
    assert!(limited(&app, "connections_per_address").await >= before + 2.0);
    assert_told("connections_per_address");
    bystander.assert_undisturbed(&app, "a greedy address").await;
    Raw::live(&app, "u1").await.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_tokens_and_of_pings_waits_with_its_sender() {
    let app = app(|_, _| ()).await;
    let mut bystander = Bystander::of(&app).await;
    let (tokens, messages) = (limited(&app, "auth").await, limited(&app, "messages").await);
    let mut flood = Raw::live(&app, "u1").await;
    let auth = json!({ "type": "auth", "token": "x".repeat(14_000) });
    let good = json!({ "type": "auth", "token": App::token("u1") });
    for _ in 0..50 {
        flood.say(&good).await;
    }
    flood.say(&auth).await;
    bystander.assert_undisturbed(&app, "tokens").await;
    eventually("tokens are held up", || async {
        (limited(&app, "auth").await > tokens).then_some(())
    })
    .await;
    // They take memory of nobody but their sender: what is not read is not sent.
    let mut pings = Raw::live(&app, "u2").await;
    // They are written as one, so that they come faster than they may, however slowly they could be made.
    let of_websocket: &[u8] = &[0x89, 0x80, 0, 0, 0, 0];
    let of_ours: &[u8] = &[&[0x81, 0x8f, 0, 0, 0, 0], &br#"{"type":"ping"}"#[..]].concat();
    let many = [of_websocket, of_ours].concat().repeat(10_000);
    drop(timeout(Duration::from_secs(5), pings.write(&many)).await);
    bystander.assert_undisturbed(&app, "pings").await;
    eventually("pings are held up", || async {
        (limited(&app, "messages").await > messages).then_some(())
    })
    .await;
}

/// Of who was told to go what was on its way is still read, and no more: there is no pace then.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_a_stranger_who_was_sent_away_is_not_read() {
    /// As many as the buffers of sockets may hold beside those that are read.
    const IN_BUFFERS: usize = 100_000;
    let app = app(|_, _| ()).await;
    let mut bystander = Bystander::of(&app).await;
    let ping = [&[0x89, 0xfd, 0, 0, 0, 0][..], &[b'x'; 125]].concat();
    let pings = ping.repeat(500);
    let mut stranger = open(app.address(), 1, UPGRADE).await.remove(0);
    stranger.write_all(&[0x81, 0x81, 0, 0, 0, 0, b'x']).await.unwrap();
    let mut sent = 0;
    let flood = async {
        while stranger.write_all(&pings).await.is_ok() {
            sent += 500;
        }
    };
    timeout(PATIENCE, flood).await.expect("the connection ends");
    assert!(sent <= rowtide::limits::GOODBYE_MESSAGES + IN_BUFFERS, "{sent} were taken");
    bystander.assert_undisturbed(&app, "pings of a stranger").await;
}

/// A server that is a process of its own, and may have so many files open.
struct Served {
    running: Running,
    address: SocketAddr,
    _database: Database,
    dir: Dir,
}

impl Served {
    async fn start(files: u32) -> Served {
        let dir = Dir::new();
        let database = Database::with(Bystander::TABLES).await;
        let definition = dir.write("rowtide.toml", Bystander::DEFINITION);
        let (url, log_dir) = (database.url().await, dir.join("log"));
        let settings = ["--definition", &definition, "--database-url", &url, "--environment"];
        let mut set_up = rowtide(["setup"]);
        set_up.args(settings).arg(database.name());
        let set_up = said(set_up).await;
        assert_eq!(set_up.code(), Some(0), "{set_up:?}");
        let serve = rowtide(["serve", "--listen", "127.0.0.1:0", "--log-dir", &log_dir]);
        let mut command = Command::new("sh");
        // As some containers have it.
        command.arg("-c").arg(format!("umask 000; ulimit -n {files} && exec \"$0\" \"$@\""));
        command.arg(serve.get_program()).args(serve.get_args()).args(settings);
        command.arg(database.name());
        // Variables of the test run are no settings of the server.
        let variables = std::env::vars().map(|(name, _)| name);
        for name in variables.filter(|name| name.starts_with("ROWTIDE_")) {
            command.env_remove(name);
        }
        command.env("ROWTIDE_TOKEN_SECRET", SECRET).current_dir("/");
        let mut running = Running::start(command);
        let address = running.line("ready http://").await.parse::<SocketAddr>().unwrap();
        eventually("it has opened what it opens at the start", || async {
            let noted = |log: std::fs::DirEntry| log.path().join("note").is_file();
            std::fs::read_dir(&log_dir).ok()?.flatten().any(noted).then_some(())
        })
        .await;
        eventually("it is ready", || async {
            let request = b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n";
            let mut socket = asked(address, request, HEALTH_TIMEOUT).await;
            let mut answer = String::new();
            timeout(PATIENCE, socket.read_to_string(&mut answer)).await.ok()?.ok()?;
            answer.starts_with("HTTP/1.1 200").then_some(())
        })
        .await;
        Served { running, address, _database: database, dir }
    }

    /// What it answers, which has to be 200, within a time.
    async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut socket = asked(self.address, request.as_bytes(), HEALTH_TIMEOUT).await;
        let mut answer = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {}", self.running.said());
        answer
    }

    /// How many connections it says that there are, that which asks among them.
    async fn connections(&self) -> f64 {
        value_in(&self.get("/metrics").await, "rowtide_connections")
    }

    /// How many files it has open.
    fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.running.id())).unwrap().count()
    }

    /// Lets it have so many files open from now on.
    fn allow_files(&self, files: usize) {
        let pid = i32::try_from(self.running.id()).ok().and_then(Pid::from_raw);
        let limits = Rlimit { current: Some(files as u64), maximum: Some(files as u64) };
        prlimit(pid, Resource::Nofile, limits).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_files_may_be_open_and_health_is_told_all_the_same() {
    let served = Served::start(320).await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let url = format!("ws://{}/sync", served.address);
        let mut session = Raw::open_url(&url, None).await;
        session.say(&Raw::connect(&App::token("u1"))).await;
        session.until("ready").await;
        sessions.push(session);
    }
    eventually("they and who asks are counted", || async {
        (served.connections().await == 4.0).then_some(())
    })
    .await;
    let silent = open(served.address, 400, b"").await;
    // 256 of 320 are left for others.
    let metrics = served.get("/metrics").await;
    for path in ["/health/ready", "/health/live"] {
        served.get(path).await;
    }
    assert!(value_in(&metrics, "rowtide_connections") >= 64.0, "{metrics}");
    assert!(limited_in(&metrics, "max_connections") >= 300.0, "{metrics}");
    let told = served.running.says("a limit of connections is reached").await;
    assert_eq!(told.matches("a limit of connections is reached").count(), 1, "{told}");
    assert_eq!(times_told(&told, "max_connections"), 1, "{told}");
    drop((silent, sessions));
    eventually("nobody is left but who asks", || async {
        (served.connections().await == 1.0).then_some(())
    })
    .await;
    // Nor may others read what it has written, whatever its umask is.
    let mut ways = vec![served.dir.path().join("log")];
    while let Some(way) = ways.pop() {
        let metadata = std::fs::metadata(&way).unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(mode, if metadata.is_dir() { 0o700 } else { 0o600 }, "{}", way.display());
        if metadata.is_dir() {
            ways.extend(std::fs::read_dir(&way).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    drop(served.running.stop().await);
}

/// Whatever has them open: what was left for others was not enough.
#[tokio::test(flavor = "multi_thread")]
async fn the_system_has_no_file_for_a_connection_and_health_is_told_all_the_same() {
    let served = Served::start(1_024).await;
    assert_eq!(limited_in(&served.get("/metrics").await, "open_files"), 0.0);
    served.allow_files(served.files() + 20);
    let silent = open(served.address, 100, b"").await;
    for path in ["/health/ready", "/health/live"] {
        served.get(path).await;
    }
    let metrics = served.get("/metrics").await;
    assert!(limited_in(&metrics, "open_files") >= 1.0, "{metrics}");
    assert_eq!(limited_in(&metrics, "max_connections"), 0.0, "{metrics}");
    served.running.says("connections cannot be accepted").await;
    let told = served.running.says("limit=\"open_files\"").await;
    assert_eq!(times_told(&told, "open_files"), 1, "{told}");
    drop(silent);
    eventually("there is room again", || async {
        let mut socket = TcpStream::connect(served.address).await.unwrap();
        drop(socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await);
        let mut answer = Vec::new();
        drop(timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap());
        answer.starts_with(b"HTTP/1.1 200").then_some(())
    })
    .await;
    drop(served.running.stop().await);
}
