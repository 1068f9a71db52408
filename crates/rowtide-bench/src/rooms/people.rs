//! People in rooms, who push as they are told to. Somebody else in the room, the witness, sees to it that a person who has
//! pushed may push again: so the number of pushes that are under way is bounded, with any server and either protocol.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use miette::{IntoDiagnostic, Result, miette};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};

use super::wire::{Mark, Protocol, Speech, marks, shapes};
use crate::crowd::{Latency, percentiles};

/// How often a client shows that it is there.
const PING: Duration = Duration::from_secs(5);
/// How many come at once.
const AT_ONCE: usize = 200;
/// How long all may take to be in their rooms, and pushes to be everywhere.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked whether all is everywhere.
const LOOK: Duration = Duration::from_millis(5);

/// A server that has rooms.
#[derive(Clone, Debug)]
pub(crate) struct Rooms {
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
    /// The schema that clients of tlsync say they have, as JSON.
    pub(crate) schema: Arc<str>,
    /// What stands before the name of a room, and what comes behind the session.
    pub(crate) path: Arc<str>,
    pub(crate) query: Arc<str>,
}

impl Rooms {
    async fn open(&self, room: &str, place: u32) -> Result<WebSocketStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await.into_diagnostic()?;
        tcp.set_nodelay(true).into_diagnostic()?;
        let Rooms { address, path, query, .. } = self;
        let url = format!("ws://{address}{path}{room}?sessionId=c{place}&storeId=s{query}");
        let request = url.into_client_request().into_diagnostic()?;
        let config = WebSocketConfig::default().read_buffer_size(4 << 10).write_buffer_size(0);
        let opened = client_async_with_config(request, tcp, Some(config)).await;
        Ok(opened.into_diagnostic()?.0)
    }

    /// Comes to a room, and has its document when this returns.
    pub(crate) async fn enter(&self, room: &str, place: u32) -> Result<Person> {
        let socket = self.open(room, place).await?;
        let speech = Speech::new(self.protocol, place);
        let mut person = Person { socket, speech, shapes: 0 };
        for message in person.speech.greeting(&self.schema) {
            person.say(message).await?;
        }
        loop {
            let message = person.hear().await?;
            if Speech::is_welcome(&message) {
                person.shapes = shapes(&message);
                return Ok(person);
            }
        }
    }
}

/// Somebody in a room.
pub(crate) struct Person {
    socket: WebSocketStream<TcpStream>,
    pub(crate) speech: Speech,
    shapes: u32,
}

impl Person {
    pub(crate) async fn say(&mut self, message: Message) -> Result<()> {
        self.socket.send(message).await.into_diagnostic()
    }

    /// How many shapes the document had when they came.
    pub(crate) fn shapes(&self) -> u32 {
        self.shapes
    }

    /// How many shapes are in what is said next.
    pub(crate) async fn hear_shapes(&mut self) -> Result<u32> {
        Ok(shapes(&self.hear().await?))
    }

    /// What is said next. Cancel safe.
    pub(crate) async fn hear(&mut self) -> Result<Message> {
        match self.socket.next().await {
            Some(Ok(Message::Close(frame))) => Err(miette!("sent away: {frame:?}")),
            Some(message) => message.into_diagnostic(),
            None => Err(miette!("the server closed a connection")),
        }
    }
}

/// What is known of one room.
struct Room {
    /// How many pushes each person may make.
    turns: Vec<Semaphore>,
    latencies_us: Mutex<Vec<u32>>,
}

/// What people in all rooms share.
struct Common {
    began: Instant,
    rooms: Vec<Room>,
    pushing: AtomicBool,
    timed: AtomicBool,
    /// Which stretch of pushing it is.
    stretch: AtomicU64,
    /// The pause between two pushes of one person, in microseconds.
    pause_us: AtomicU64,
    here: AtomicU64,
    pushed: AtomicU64,
    delivered: AtomicU64,
    ended: Mutex<Option<String>>,
}

impl Common {
    fn new(rooms: u32, people: u32) -> Common {
        let room = |_| Room {
            turns: (0..people).map(|_| Semaphore::new(0)).collect(),
            latencies_us: Mutex::default(),
        };
        Common {
            began: Instant::now(),
            rooms: (0..rooms).map(room).collect(),
            pushing: AtomicBool::default(),
            timed: AtomicBool::default(),
            stretch: AtomicU64::default(),
            pause_us: AtomicU64::default(),
            here: AtomicU64::default(),
            pushed: AtomicU64::default(),
            delivered: AtomicU64::default(),
            ended: Mutex::default(),
        }
    }

    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    fn saw(&self, room: u32, place: u32, mark: Mark) {
        let room = &self.rooms[room as usize];
        // Some servers tell everyone of a push, also who made it.
        if mark.by == place || mark.by as usize >= room.turns.len() {
            return;
        }
        self.delivered.fetch_add(1, Ordering::Relaxed);
        if self.timed.load(Ordering::Relaxed) {
            let took = self.now_us().saturating_sub(mark.at_us);
            let mut latencies = room.latencies_us.lock().unwrap_or_else(PoisonError::into_inner);
            latencies.push(u32::try_from(took).unwrap_or(u32::MAX));
        }
        let witness = (mark.by + 1) % room.turns.len() as u32;
        if witness == place && self.pushing.load(Ordering::Relaxed) {
            room.turns[mark.by as usize].add_permits(1);
        }
    }
}

/// People in rooms; dropping them hangs up.
pub(crate) struct People {
    common: Arc<Common>,
    rooms: Rooms,
    prefix: String,
    tasks: JoinSet<()>,
}

/// What came of a stretch of pushing.
pub(crate) struct Pushed {
    pub(crate) pushes: u64,
    /// Until the last was everywhere.
    pub(crate) took: Duration,
    pub(crate) latency: Option<Latency>,
}

impl People {
    /// Of so many rooms, whose names begin with `prefix`, which so many people will be in.
    pub(crate) fn of(rooms: Rooms, prefix: &str, count: u32, in_each: u32) -> People {
        let common = Arc::new(Common::new(count, in_each));
        People { common, rooms, prefix: prefix.to_owned(), tasks: JoinSet::new() }
    }

    /// The people at these places come to all rooms.
    pub(crate) async fn come(&mut self, places: std::ops::Range<u32>) -> Result<()> {
        let doors = Arc::new(Semaphore::new(AT_ONCE));
        for place in places.clone() {
            for room in 0..self.common.rooms.len() as u32 {
                let (common, rooms) = (Arc::clone(&self.common), self.rooms.clone());
                let (doors, name) = (Arc::clone(&doors), format!("{}-{room}", self.prefix));
                self.tasks.spawn(async move {
                    let came = async {
                        let _door = doors.acquire().await.into_diagnostic()?;
                        let mut person = rooms.enter(&name, place).await?;
                        if let Some(push) = person.speech.first_push() {
                            person.say(push).await?;
                        }
                        Ok(person)
                    };
                    let stayed = match came.await {
                        Ok(person) => stay(person, &common, room, place).await,
                        Err(error) => Err(error),
                    };
                    if let Err(why) = stayed {
                        let mut ended = common.ended.lock().unwrap_or_else(PoisonError::into_inner);
                        ended.get_or_insert(format!("{why:?}"));
                    }
                });
            }
        }
        let wanted = u64::from(places.end) * self.common.rooms.len() as u64;
        self.until(|common| common.here.load(Ordering::Relaxed) >= wanted).await
    }

    /// Everybody pushes for a while, with so many pushes under way and no faster than this.
    pub(crate) async fn push(
        &self,
        under_way: usize,
        pause: Duration,
        time: Duration,
        timed: bool,
    ) -> Result<Pushed> {
        let common = &self.common;
        let before = common.pushed.load(Ordering::Relaxed);
        common.timed.store(timed, Ordering::Relaxed);
        common.pause_us.store(pause.as_micros() as u64, Ordering::Relaxed);
        common.stretch.fetch_add(1, Ordering::Relaxed);
        common.pushing.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        for turns in common.rooms.iter().flat_map(|room| &room.turns) {
            turns.add_permits(under_way);
        }
        tokio::time::sleep(time).await;
        common.pushing.store(false, Ordering::Relaxed);
        let others = common.rooms[0].turns.len() as u64 - 1;
        self.until(|common| {
            let pushed = common.pushed.load(Ordering::Relaxed);
            common.delivered.load(Ordering::Relaxed) >= pushed * others
        })
        .await?;
        let took = begun.elapsed();
        let mut all = Vec::new();
        for room in &common.rooms {
            // What was not used is not for the next stretch.
            for turns in &room.turns {
                turns.forget_permits(usize::MAX);
            }
            let mut latencies = room.latencies_us.lock().unwrap_or_else(PoisonError::into_inner);
            all.append(&mut latencies);
        }
        let pushes = common.pushed.load(Ordering::Relaxed) - before;
        Ok(Pushed { pushes, took, latency: percentiles(&mut all) })
    }

    async fn until(&self, holds: impl Fn(&Common) -> bool) -> Result<()> {
        let common = &self.common;
        let waited = timeout(PATIENCE, async {
            while !holds(common) {
                if let Some(why) = &*common.ended.lock().unwrap_or_else(PoisonError::into_inner) {
                    return Err(miette!("somebody was cut off: {why}"));
                }
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        });
        waited.await.map_err(|_| {
            let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
            let (here, pushed, delivered) =
                (of(&common.here), of(&common.pushed), of(&common.delivered));
            miette!("{here} are here, {pushed} pushes were made, {delivered} have arrived")
        })?
    }

    /// Hangs up.
    pub(crate) async fn leave(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Stays in a room, and pushes when it is its turn.
async fn stay(mut person: Person, common: &Common, room: u32, place: u32) -> Result<()> {
    common.here.fetch_add(1, Ordering::Relaxed);
    let turns = &common.rooms[room as usize].turns[place as usize];
    let mut ping = interval(PING);
    let people = (common.rooms.len() * common.rooms[0].turns.len()) as u64;
    let number = u64::from(place) * common.rooms.len() as u64 + u64::from(room);
    let (mut stretch, mut next, mut my_turn) = (0, Instant::now(), false);
    loop {
        tokio::select! {
            heard = person.hear() => marks(&heard?, |mark| common.saw(room, place, mark)),
            Ok(turn) = turns.acquire(), if !my_turn => {
                turn.forget();
                my_turn = true;
                let current = common.stretch.load(Ordering::Relaxed);
                if std::mem::replace(&mut stretch, current) != current {
                    // They do not all begin at once.
                    let pause = common.pause_us.load(Ordering::Relaxed);
                    next = Instant::now() + Duration::from_micros(pause * number / people);
                }
            }
            () = sleep_until(next), if my_turn => {
                my_turn = false;
                if common.pushing.load(Ordering::Relaxed) {
                    common.pushed.fetch_add(1, Ordering::Relaxed);
                    let push = person.speech.push(common.now_us());
                    person.say(push).await?;
                    let pause = common.pause_us.load(Ordering::Relaxed);
                    next = Instant::now() + Duration::from_micros(pause);
                }
            }
            _ = ping.tick() => {
                if let Some(ping) = person.speech.ping() {
                    person.say(ping).await?;
                }
            }
        }
    }
}
