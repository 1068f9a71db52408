//! Everything at once: scribes write, statements change rows behind the server's back, and all the
//! while networks fail, servers and Postgres are killed, frozen and started again. Then everything
//! heals, and what was promised is held against what is there: every mutation that a client holds as
//! confirmed was applied exactly once and every rejected one not at all, every replica is what SQL says,
//! and nobody is stuck. Documents of rows are edited at the same time, and have what they were said to have, for those
//! alone who may be there. That makes a round; rounds follow until the time is over. What is done is
//! decided by a seed, when it happens is up to the machine.

mod desk;
mod editors;
mod papers;
mod real_clients;
mod view;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rowtide_postgres::connect::{ConnectOptions, connect};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use self::papers::Papers;
pub use self::real_clients::with_clients;
use crate::proxy::{Direction, Flow, Proxy};
use crate::{Dir, Fleet, Node, Scribe, truth};

/// How many clients write.
const SCRIBES: usize = 12;
/// How many users they are of.
const USERS: usize = 4;
/// How many servers there are for the one slot.
const SERVERS: usize = 2;
/// How many connections change rows behind the server's back.
const MEDDLERS: u64 = 2;
/// How long it storms before everything heals and is looked at.
const STORM: Duration = Duration::from_secs(12);
/// How long everyone has to be whole again. The longest wait of a client before it tries again is half
/// of it.
const HEALING: Duration = Duration::from_secs(180);
/// How often it is said how things stand.
const SAY: Duration = Duration::from_secs(5);
/// With this many findings there is no use in going on.
const ENOUGH: usize = 10;

/// What was done and what came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How often each fault was inflicted.
    pub faults: BTreeMap<&'static str, u64>,
    /// How many mutations were confirmed, and how many rejected with each code.
    pub outcomes: BTreeMap<String, u64>,
    /// How many connects were answered, by mode, or refused, by code; as far as the servers lived long
    /// enough to be asked.
    pub connects: BTreeMap<String, u64>,
    /// What happened to documents, and how often.
    pub documents: BTreeMap<&'static str, u64>,
    /// How often clients were closed and opened again.
    pub reopened: u64,
    /// How often everything was healed and looked at.
    pub rounds: u64,
    /// What must not be.
    pub findings: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rounds; faults:", self.rounds)?;
        self.faults.iter().try_for_each(|(fault, count)| write!(f, " {fault} {count}"))?;
        write!(f, "; mutations:")?;
        self.outcomes.iter().try_for_each(|(outcome, count)| write!(f, " {outcome} {count}"))?;
        write!(f, "; connects:")?;
        self.connects.iter().try_for_each(|(result, count)| write!(f, " {result} {count}"))?;
        write!(f, "; documents:")?;
        self.documents.iter().try_for_each(|(what, count)| write!(f, " {what} {count},"))?;
        write!(f, "; reopened {}; findings {}", self.reopened, self.findings.len())
    }
}

/// What can go wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Cut,
    HalfClose,
    Stall,
    Delay,
    Drip,
    Refuse,
    Strand,
    KillServer,
    RestartServer,
    FreezeServer,
    KillPostgres,
    CrashPostgres,
    RestartPostgres,
    EndSessions,
}

impl Fault {
    /// Each with how often it is chosen.
    const ALL: [(Fault, u32); 14] = [
        (Fault::Cut, 6),
        (Fault::HalfClose, 3),
        (Fault::Stall, 4),
        (Fault::Delay, 3),
        (Fault::Drip, 2),
        (Fault::Refuse, 2),
        (Fault::Strand, 2),
        (Fault::KillServer, 4),
        (Fault::RestartServer, 2),
        (Fault::FreezeServer, 2),
        (Fault::KillPostgres, 1),
        (Fault::CrashPostgres, 1),
        (Fault::RestartPostgres, 1),
        (Fault::EndSessions, 2),
    ];

    fn name(self) -> &'static str {
        match self {
            Fault::Cut => "cut",
            Fault::HalfClose => "half-close",
            Fault::Stall => "stall",
            Fault::Delay => "delay",
            Fault::Drip => "drip",
            Fault::Refuse => "refuse",
            Fault::Strand => "strand",
            Fault::KillServer => "kill-server",
            Fault::RestartServer => "restart-server",
            Fault::FreezeServer => "freeze-server",
            Fault::KillPostgres => "kill-postgres",
            Fault::CrashPostgres => "crash-postgres",
            Fault::RestartPostgres => "restart-postgres",
            Fault::EndSessions => "end-sessions",
        }
    }
}

/// Tortures a deployment for about `time`, as `seed` decides, and says on standard output how it goes.
///
/// # Panics
/// When it cannot be set up.
pub async fn torture(seed: u64, time: Duration) -> Report {
    let dir = Dir::new();
    let node = Node::start(&dir, "postgres").await;
    let mut fleet = Fleet::prepare(&dir, &node, &definition(), &tables()).await;
    for _ in 0..SERVERS {
        fleet.add();
    }
    let mut scribes = Vec::new();
    for number in 0..SCRIBES {
        let user = format!("u{}", number % USERS + 1);
        let queue = (number % 2 == 0).then(|| dir.join(&format!("queue-{number}")).into());
        scribes.push(Scribe::start(fleet.url(), &user, queue).await);
    }
    let papers = Papers::new(fleet.front.address().to_string());
    let report = Arc::new(Mutex::new(Report::default()));
    let teller = tokio::spawn(tell(Arc::clone(&report)));
    let rng = StdRng::seed_from_u64(seed);
    let mut ordeal = Ordeal { rng, node, fleet, papers, report: Arc::clone(&report) };
    let until = Instant::now() + time;
    while Instant::now() < until && locked(&report).findings.len() < ENOUGH {
        scribes = ordeal.storm(scribes).await;
        ordeal.calm().await;
        ordeal.look(&mut scribes).await;
    }
    teller.abort();
    let report = locked(&report).clone();
    println!("done: {report}");
    report
}

fn definition() -> String {
    format!("{}{}", Scribe::DEFINITION, papers::DEFINITION)
}

fn tables() -> String {
    format!("{}{}", Scribe::TABLES, papers::TABLES)
}

/// Says every few seconds how it goes.
async fn tell(report: Arc<Mutex<Report>>) {
    let begun = Instant::now();
    loop {
        sleep(SAY).await;
        let report = locked(&report).clone();
        println!("{:>5} s: {report}", begun.elapsed().as_secs());
    }
}

fn locked(report: &Mutex<Report>) -> MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Ordeal {
    rng: StdRng,
    node: Node,
    fleet: Fleet,
    papers: Papers,
    report: Arc<Mutex<Report>>,
}

impl Ordeal {
    /// Lets everyone write while faults are inflicted.
    async fn storm(&mut self, scribes: Vec<Scribe>) -> Vec<Scribe> {
        let stop = CancellationToken::new();
        let mut writing = Vec::new();
        for mut scribe in scribes {
            let (seed, stop) = (self.rng.random(), stop.clone());
            writing.push(tokio::spawn(async move {
                scribe.write_until(seed, &stop).await;
                scribe
            }));
        }
        let url = self.node.cluster().url(Fleet::DATABASE);
        let documents = self.papers.begin(&mut self.rng, url.clone(), &stop);
        let mut meddling = Vec::new();
        for _ in 0..MEDDLERS {
            meddling.push(tokio::spawn(meddle(url.clone(), self.rng.random(), stop.clone())));
        }
        let until = Instant::now() + STORM;
        while Instant::now() < until {
            sleep(Duration::from_millis(self.rng.random_range(50..1000))).await;
            if self.rng.random_bool(0.6) {
                self.fleet.front.heal();
                self.fleet.back.heal();
            }
            if self.rng.random_bool(0.7) {
                self.fleet.revive();
            }
            let fault = Fault::ALL.choose_weighted(&mut self.rng, |(_, weight)| *weight);
            let (fault, _) = *fault.expect("there are faults");
            *locked(&self.report).faults.entry(fault.name()).or_default() += 1;
            self.inflict(fault).await;
        }
        stop.cancel();
        for task in meddling {
            task.await.expect("meddling does not fail");
        }
        self.papers.end(documents).await;
        let mut scribes = Vec::new();
        for task in writing {
            scribes.push(task.await.expect("a scribe does not fail"));
        }
        scribes
    }

    async fn inflict(&mut self, fault: Fault) {
        let rng = &mut self.rng;
        let network: &Proxy =
            if rng.random_bool(0.6) { &self.fleet.front } else { &self.fleet.back };
        let direction = if rng.random() { Direction::ToServer } else { Direction::ToClient };
        let member = rng.random_range(0..self.fleet.members.len());
        let a_while = Duration::from_millis(rng.random_range(0..2000));
        match fault {
            Fault::Cut => network.cut(),
            Fault::HalfClose => network.half_close(direction),
            Fault::Stall => network.flow(direction, Flow::Stalled),
            Fault::Delay => network.flow(direction, Flow::Delayed(a_while / 4)),
            Fault::Drip => {
                let (bytes, every) = (rng.random_range(1..2000), Duration::from_millis(5));
                network.flow(direction, Flow::Drip { bytes, every });
            }
            Fault::Refuse => network.refuse(true),
            Fault::Strand => network.strand(),
            Fault::KillServer => {
                if self.fleet.members[member].runs() {
                    self.count_connects(member).await;
                    self.fleet.members[member].kill().await;
                }
            }
            Fault::RestartServer => {
                if self.fleet.members[member].runs() {
                    self.count_connects(member).await;
                    let said = self.fleet.members[member].said();
                    let code = self.fleet.members[member].stop().await;
                    // It may have been about to end because Postgres was away.
                    if code != Some(0) && self.node.runs() && said.contains("ready http") {
                        self.found(format!(
                            "a server that was stopped ended with {code:?}: {said}"
                        ));
                    }
                    self.fleet.start(member);
                }
            }
            Fault::FreezeServer => {
                if self.fleet.members[member].runs() {
                    self.fleet.members[member].signal("STOP");
                    sleep(a_while).await;
                    self.fleet.members[member].signal("CONT");
                }
            }
            Fault::KillPostgres => {
                self.node.kill().await;
                sleep(a_while / 2).await;
                self.node.start_again().await;
            }
            Fault::CrashPostgres => self.node.crash().await,
            Fault::RestartPostgres => {
                // In order it ends once whoever streams has all, for which a stalled or dripping network
                // takes for ever, also on a connection that is made just before.
                self.fleet.back.heal();
                self.fleet.back.cut();
                self.node.stop();
                self.node.start_again().await;
            }
            Fault::EndSessions => {
                if let Ok(client) = self.node.cluster().connect("postgres").await {
                    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                               WHERE application_name LIKE 'rowtide %' AND random() < 0.5 \
                               AND pid <> pg_backend_pid()";
                    // Postgres may be recovering.
                    drop(client.batch_execute(sql).await);
                }
            }
        }
    }

    /// Everything works again.
    async fn calm(&mut self) {
        self.fleet.front.heal();
        self.fleet.back.heal();
        // What is stranded is given up in the end, as the system gives up a connection that is not
        // answered.
        self.fleet.front.cut();
        self.fleet.back.cut();
        let until = Instant::now() + HEALING;
        loop {
            // One that ends while Postgres recovers is started again.
            self.fleet.revive();
            for member in &self.fleet.members {
                if member.is_ready().await {
                    return;
                }
            }
            if Instant::now() > until {
                let said: Vec<String> = self.fleet.members.iter().map(|m| m.said()).collect();
                self.found(format!("no server becomes ready:\n{}", said.join("\n---\n")));
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Holds what was promised against what is there.
    async fn look(&mut self, scribes: &mut [Scribe]) {
        let until = Instant::now() + HEALING;
        let resting = scribes.iter_mut().map(|scribe| scribe.comes_to_rest(until));
        futures_util::future::join_all(resting).await;
        let client = self.node.connect(Fleet::DATABASE).await;
        let round = locked(&self.report).rounds + 1;
        // Who holds this is not stuck.
        let sql = format!("UPDATE marker SET value = {round}");
        client.batch_execute(&sql).await.expect("a marker can be set");
        let definition = definition();
        let mut rows = BTreeMap::new();
        for scribe in scribes.iter() {
            let held = truth(&client, &definition, &scribe.user).await;
            rows.insert(scribe.user.clone(), held);
        }
        let until = Instant::now() + HEALING;
        let holding = scribes.iter_mut().map(|scribe| scribe.hold(&rows[&scribe.user], until));
        futures_util::future::join_all(holding).await;
        let mut findings = audit(&client, scribes).await;
        self.papers.look(&client, Instant::now() + HEALING).await;
        for place in 0..self.fleet.members.len() {
            self.count_connects(place).await;
        }
        findings.extend(self.enter(scribes));
        if !findings.is_empty() {
            for member in &self.fleet.members {
                println!("a server said:\n{}\n", member.said());
            }
            println!("Postgres said:\n{}\n", self.node.log());
        }
        findings.into_iter().for_each(|finding| self.found(finding));
        client.batch_execute("TRUNCATE applied").await.expect("a table can be emptied");
    }

    /// Enters the books of a round into the report, and returns what the scribes found.
    fn enter(&self, scribes: &mut [Scribe]) -> Vec<String> {
        let mut report = locked(&self.report);
        let mut findings = Vec::new();
        for scribe in scribes {
            let tally = std::mem::take(&mut scribe.tally);
            for (outcome, count) in tally.outcomes {
                *report.outcomes.entry(outcome).or_default() += count;
            }
            report.reopened += tally.reopened;
            findings.extend(tally.findings);
        }
        let (counts, found) = self.papers.take_books();
        counts
            .into_iter()
            .for_each(|(what, count)| *report.documents.entry(what).or_default() += count);
        findings.extend(found);
        report.rounds += 1;
        findings
    }

    fn found(&self, what: String) {
        let mut report = locked(&self.report);
        println!("finding in round {}: {what}", report.rounds);
        report.findings.push(what);
    }

    /// Adds to the report what a server counts since it was started or last asked.
    async fn count_connects(&mut self, place: usize) {
        for (result, count) in self.fleet.members[place].new_connects().await {
            *locked(&self.report).connects.entry(result).or_default() += count;
        }
    }
}

/// Holds the books of scribes, who have nothing pending, against the database.
///
/// # Panics
/// When the database does not answer.
pub async fn audit(client: &Client, scribes: &[Scribe]) -> Vec<String> {
    let sql = "SELECT mark, count(*) FROM applied GROUP BY mark";
    let rows = client.query(sql, &[]).await.expect("the marks can be counted");
    let mut applied: BTreeMap<String, i64> =
        rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut findings = Vec::new();
    for scribe in scribes {
        for mark in &scribe.tally.confirmed {
            match applied.remove(mark) {
                Some(1) => {}
                Some(count) => findings.push(format!("{mark} was applied {count} times")),
                None => findings.push(format!("{mark} is confirmed but was not applied")),
            }
        }
        applied.retain(|mark, _| !scribe.tally.untold.contains(mark));
        for mark in &scribe.tally.rejected {
            if applied.remove(mark).is_some() {
                findings.push(format!("{mark} is rejected but was applied"));
            }
        }
    }
    let nobodys = applied.keys().map(|mark| format!("{mark} was applied, but nobody knows"));
    findings.extend(nobodys);
    findings
}

/// Changes rows behind the server's back until `stop`, with a new connection when the old one is lost.
async fn meddle(url: String, seed: u64, stop: CancellationToken) {
    let mut rng = StdRng::seed_from_u64(seed);
    let options = ConnectOptions::parse(&url).expect("the URL of a cluster can be read");
    while !stop.is_cancelled() {
        let Ok(client) = connect(&options, "meddler").await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        while !stop.is_cancelled() && !client.is_closed() {
            sleep(Duration::from_millis(rng.random_range(5..60))).await;
            let sql = meddling(&mut rng);
            // Postgres may go away, or a row may be in use by others.
            let done = timeout(Duration::from_secs(20), client.batch_execute(&sql)).await;
            if !matches!(done, Ok(Ok(()))) {
                drop(client.batch_execute("ROLLBACK").await);
            }
        }
    }
}

fn meddling(rng: &mut StdRng) -> String {
    let user = format!("u{}", rng.random_range(1..=USERS));
    let (project, task) = (rng.random_range(1..=6), rng.random_range(1..=40));
    match rng.random_range(0..12) {
        0..4 => {
            let (mut from, mut to) = (rng.random_range(1..=10), rng.random_range(1..=10));
            // Locks are taken in one order.
            if from > to {
                std::mem::swap(&mut from, &mut to);
            }
            format!(
                "BEGIN; UPDATE account SET cents = cents - 7 WHERE id = {from}; \
                 UPDATE account SET cents = cents + 7 WHERE id = {to}; COMMIT"
            )
        }
        4 => format!("INSERT INTO member VALUES ({project}, '{user}') ON CONFLICT DO NOTHING"),
        5 => format!("DELETE FROM member WHERE project_id = {project} AND user_id = '{user}'"),
        6 => format!("UPDATE task SET project_id = {project}, mark = NULL WHERE id = {task}"),
        7 => format!("UPDATE task SET title = 'meddled', mark = NULL WHERE id = {task}"),
        8 => format!("UPDATE project SET name = 'p{}' WHERE id = {project}", rng.random::<u8>()),
        9 => format!(
            "BEGIN; DELETE FROM task WHERE id = {task}; INSERT INTO task VALUES \
             ({task}, {project}, 'again'); COMMIT"
        ),
        10 => "UPDATE task SET title = 'all', mark = NULL".to_owned(),
        _ => format!(
            "UPDATE entry SET open = false, mark = NULL WHERE id IN \
             (SELECT id FROM entry WHERE owner = '{user}' AND open LIMIT 3)"
        ),
    }
}
