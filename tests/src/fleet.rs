//! Servers of one slot behind one address, each a process of its own: one serves, others wait to take
//! its place. As a load balancer does, clients are led to a server that says it is ready, while their
//! connections to another stay; as a service manager does, a server that has ended is started again.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rowtide_plan::definition::Definition;
use rowtide_postgres::connect::Names;
use rowtide_postgres::migrate::{Migration, migrate};
use rowtide_postgres::setup::setup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::proxy::{Proxy, Upstream};
use crate::{Dir, Node, Running, SECRET, eventually, rowtide};

/// How often servers are asked whether they are ready.
const ASK: Duration = Duration::from_millis(50);
/// How long one may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// See the module's text.
pub struct Fleet {
    /// The network between clients and servers.
    pub front: Arc<Proxy>,
    /// The network between servers and Postgres.
    pub back: Arc<Proxy>,
    /// The servers.
    pub members: Vec<Member>,
    definition: String,
    /// Where servers of one machine keep their log: one has it at a time.
    log_dir: String,
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
    balancer: JoinHandle<()>,
}

/// One server.
pub struct Member {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it keeps its log.
    log_dir: String,
    process: Option<Running>,
    /// The connects of this process that were told already.
    told: BTreeMap<String, u64>,
}

impl Fleet {
    /// The database of a fleet, and its environment.
    pub const DATABASE: &str = "fleet";

    /// The slot of a fleet.
    pub const SLOT: &str = "rowtide_fleet";

    /// Prepares a database on `node` for a definition over tables that `sql` makes, with no server yet.
    ///
    /// # Panics
    /// When something of it is refused.
    pub async fn prepare(dir: &Dir, node: &Node, definition: &str, sql: &str) -> Fleet {
        node.cluster().create_database(Fleet::DATABASE).await.expect("a database can be made");
        let mut client = node.connect(Fleet::DATABASE).await;
        let migration = Migration { name: "tables.sql".to_owned(), sql: sql.to_owned() };
        migrate(&mut client, &[migration]).await.unwrap_or_else(|error| panic!("{error}"));
        let parsed = Definition::parse("fleet.toml", definition);
        let parsed = parsed.unwrap_or_else(|error| panic!("{error}"));
        let names = Names::of(Fleet::DATABASE).expect("the name of an environment");
        let set_up = setup(&client, &names, &parsed.tables()).await;
        set_up.unwrap_or_else(|error| panic!("{error:?}"));
        // Until there is a server nobody listens there.
        let front = Arc::new(Proxy::start(Upstream::Tcp(free_address())).await);
        let back = Arc::new(Proxy::start(node.upstream()).await);
        let addresses = Arc::new(Mutex::default());
        let balancer = tokio::spawn(balance(Arc::clone(&addresses), Arc::clone(&front)));
        let definition = dir.write("fleet.toml", definition);
        let log_dir = dir.join("log");
        Fleet { front, back, members: Vec::new(), definition, log_dir, addresses, balancer }
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("ws://{}/sync", self.front.address())
    }

    /// Starts one server more, and returns its place.
    pub fn add(&mut self) -> usize {
        self.add_with(self.log_dir.clone())
    }

    /// As [`Fleet::add`], on another machine as it were: with a log of its own.
    pub fn add_elsewhere(&mut self) -> usize {
        self.add_with(format!("{}-{}", self.log_dir, self.members.len()))
    }

    fn add_with(&mut self, log_dir: String) -> usize {
        let address = free_address();
        self.members.push(Member { address, log_dir, process: None, told: BTreeMap::new() });
        locked(&self.addresses).push(address);
        let place = self.members.len() - 1;
        self.start(place);
        place
    }

    /// Starts the server at this place again, where it listened.
    pub fn start(&mut self, place: usize) {
        let database = format!("postgres://postgres@{}/{}", self.back.address(), Fleet::DATABASE);
        let listen = self.members[place].address.to_string();
        let mut command = rowtide(["serve", "--requests-per-minute", "0"]);
        command.args(["--database-url", &format!("{database}?sslmode=disable")]);
        command.args(["--definition", &self.definition, "--listen", &listen]);
        command.args(["--environment", Fleet::DATABASE, "--log-dir"]);
        command.arg(&self.members[place].log_dir);
        command.env("ROWTIDE_TOKEN_SECRET", SECRET);
        let member = &mut self.members[place];
        member.process = Some(Running::start(command));
        member.told.clear();
    }

    /// Starts every server again that has ended by itself, for example because Postgres was away.
    pub fn revive(&mut self) {
        for place in 0..self.members.len() {
            if !self.members[place].runs() {
                self.start(place);
            }
        }
    }

    /// The place of the server that is ready, once one is.
    ///
    /// # Panics
    /// When none becomes ready.
    pub async fn ready(&mut self) -> usize {
        let addresses: Vec<SocketAddr> = self.members.iter().map(|member| member.address).collect();
        let address = eventually("a server is ready", || first_ready(&addresses)).await;
        let place = addresses.iter().position(|other| *other == address);
        let place = place.expect("it is one of them");
        // The balancer leads there too, once it has asked.
        eventually("clients are led to it", || async {
            matches!(self.front.leads_to(), Upstream::Tcp(to) if to == address).then_some(())
        })
        .await;
        place
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.balancer.abort();
        for member in &mut self.members {
            if member.runs() {
                member.signal("KILL");
            }
        }
    }
}

impl Member {
    /// Whether the process runs.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(Running::runs)
    }

    /// Sends a signal, such as `STOP`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, name: &str) {
        self.process.as_ref().expect("it runs").signal(name);
    }

    /// Kills it as it stands.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn kill(&mut self) {
        self.signal("KILL");
        let process = self.process.take().expect("it runs");
        process.ended().await;
    }

    /// Stops it in order, and returns how it ended.
    ///
    /// # Panics
    /// When it does not run, or does not end.
    pub async fn stop(&mut self) -> Option<i32> {
        self.process.take().expect("it runs").stop().await.code()
    }

    /// Whether it says that it is ready.
    pub async fn is_ready(&self) -> bool {
        matches!(get(self.address, "/health/ready").await, Some((200, _)))
    }

    /// How many connects it has answered since it was asked before, by mode or refusal; nothing if it
    /// does not say.
    pub async fn new_connects(&mut self) -> BTreeMap<String, u64> {
        let answer = get(self.address, "/metrics").await;
        let text = answer.map(|(_, text)| text).unwrap_or_default();
        let line = |line: &str| {
            let (result, count) =
                line.strip_prefix("rowtide_connects_total{result=\"")?.split_once("\"} ")?;
            Some((result.to_owned(), count.parse().ok()?))
        };
        let connects: BTreeMap<String, u64> = text.lines().filter_map(line).collect();
        let told = |result: &String| self.told.get(result).copied().unwrap_or(0);
        let new = connects.iter().map(|(result, count)| (result.clone(), count - told(result)));
        let new = new.collect();
        self.told.extend(connects);
        new
    }

    /// The end of what it has said.
    pub fn said(&self) -> String {
        let said = self.process.as_ref().map(Running::said).unwrap_or_default();
        let lines: Vec<&str> = said.lines().rev().take(40).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// Leads clients to a server that is ready; as long as there is none, to the one that was.
async fn balance(addresses: Arc<Mutex<Vec<SocketAddr>>>, front: Arc<Proxy>) {
    let mut current = None;
    loop {
        let mut addresses = locked(&addresses).clone();
        // The one that serves goes on serving.
        addresses.sort_by_key(|address| Some(*address) != current);
        if let Some(ready) = first_ready(&addresses).await
            && current != Some(ready)
        {
            current = Some(ready);
            front.lead_to(Upstream::Tcp(ready));
        }
        tokio::time::sleep(ASK).await;
    }
}

async fn first_ready(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    for address in addresses {
        if let Some((200, _)) = get(*address, "/health/ready").await {
            return Some(*address);
        }
    }
    None
}

/// Status and body of what a server answers; `None` if it does not in time.
async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
    };
    timeout(ANSWER, asked).await.ok().flatten()
}

/// An address that nobody listens on, with a port that the system gives to nobody who leaves the choice to it: those of
/// Linux begin above.
///
/// # Panics
/// When there is none.
pub fn free_address() -> SocketAddr {
    let ports = std::iter::repeat_with(|| rand::random_range(10_000..32_000_u16)).take(1_000);
    let mut addresses = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let is_free = |address: &SocketAddr| TcpListener::bind(address).is_ok();
    addresses.find(is_free).expect("there is a free port")
}

fn locked(addresses: &Mutex<Vec<SocketAddr>>) -> MutexGuard<'_, Vec<SocketAddr>> {
    addresses.lock().unwrap_or_else(PoisonError::into_inner)
}
