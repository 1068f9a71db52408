//! Which client ids are connected, and whose they are. A client id belongs to the user who first used
//! it; that is kept in the database, and asked of it for many connects with one statement. Of one
//! client id the newest connection wins, once the client is heard on it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rowtide_postgres::client_registry::{Claimed, Settled, claim, settled};
use rowtide_postgres::connect::{ConnectOptions, Names, connect, reason};
use rowtide_protocol::{Lsn, Refusal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::limits::{CLAIM_BATCH, CLAIM_GATHER, CLAIM_TIMEOUT};

/// Why a connect is refused.
pub(crate) enum Refused {
    OtherUser,
    TooManySessions(usize),
    Unavailable(String),
}

struct Request {
    client_id: String,
    user_id: String,
    /// The highest mutation whose outcome the client knows.
    settled: u64,
    reply: oneshot::Sender<Result<Known, String>>,
}

/// What is known of a client.
#[derive(Clone)]
struct Known {
    claimed: Claimed,
    refused: Vec<Refusal>,
    /// Rows that are not older have the effects of all that was settled; any have them if there is none.
    until: Option<Lsn>,
}

#[derive(Default)]
struct Connected {
    /// The newest connection of each client id.
    clients: HashMap<Box<str>, (u64, CancellationToken)>,
    /// How many connections each user has.
    users: HashMap<String, usize>,
    next: u64,
}

/// The registry. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Registry {
    claims: mpsc::Sender<Request>,
    connected: Arc<Mutex<Connected>>,
    sessions_per_user: usize,
}

/// A connection's place in the registry, given up when it is dropped.
pub(crate) struct Entry {
    registry: Registry,
    client: Box<str>,
    user_id: String,
    number: u64,
    superseded: CancellationToken,
    known: Known,
}

impl Entry {
    /// Waits until a newer connection of the client id has come. Cancel safe.
    pub(crate) async fn superseded(&self) {
        self.superseded.cancelled().await;
    }

    /// The client has been heard on this connection after it was let in: older ones of it are told to
    /// go. Not before: a `connect` may arrive when the client has given up the connection, and is on
    /// another by now.
    pub(crate) fn take_over(&self) {
        let mut connected = self.registry.lock();
        match connected.clients.get(&self.client) {
            Some((number, _)) if *number > self.number => self.superseded.cancel(),
            Some((number, _)) if *number == self.number => {}
            older => {
                if let Some((_, older)) = older {
                    older.cancel();
                }
                let place = (self.number, self.superseded.clone());
                connected.clients.insert(self.client.clone(), place);
            }
        }
    }

    pub(crate) fn client(&self) -> &str {
        &self.client
    }

    /// Every mutation up to this one was settled when the client came.
    pub(crate) fn last_mutation(&self) -> u64 {
        self.known.claimed.last_mutation
    }

    /// What was refused of those that the client does not know the outcome of.
    pub(crate) fn refused(&self) -> &[Refusal] {
        &self.known.refused
    }

    /// Rows that are not older have the effects of all of them.
    pub(crate) fn settled_until(&self) -> Option<Lsn> {
        self.known.until
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut connected = self.registry.lock();
        if connected.clients.get(&self.client).is_some_and(|(number, _)| *number == self.number) {
            connected.clients.remove(&self.client);
        }
        if let Some(count) = connected.users.get_mut(&self.user_id) {
            *count -= 1;
            if *count == 0 {
                connected.users.remove(&self.user_id);
            }
        }
    }
}

impl Registry {
    /// Starts the task that claims client ids; it ends with `stop`.
    pub(crate) fn start(
        database: ConnectOptions,
        names: Names,
        sessions_per_user: usize,
        stop: CancellationToken,
    ) -> Registry {
        let (claims, requests) = mpsc::channel(CLAIM_BATCH);
        tokio::spawn(async move {
            stop.run_until_cancelled(run(database, names, requests)).await;
        });
        Registry { claims, connected: Arc::default(), sessions_per_user }
    }

    fn lock(&self) -> MutexGuard<'_, Connected> {
        // Whole between any two statements that hold it.
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a connection of a client of a user. If only the newest connection of a client
    /// is to stay, [`Entry::take_over`] tells others of it to go.
    pub(crate) async fn enter(
        &self,
        client: &str,
        user_id: &str,
        settled: u64,
        newest_only: bool,
    ) -> Result<Entry, Refused> {
        let (reply, known) = oneshot::channel();
        let (client_id, user) = (client.to_owned(), user_id.to_owned());
        let request = Request { client_id, user_id: user, settled, reply };
        let away = || Refused::Unavailable("the database is not there; come back later".to_owned());
        let asked = async {
            self.claims.send(request).await.map_err(|_| away())?;
            known.await.map_err(|_| away())?.map_err(Refused::Unavailable)
        };
        let known = timeout(CLAIM_TIMEOUT, asked).await.map_err(|_| away())??;
        if known.claimed.user_id != user_id {
            return Err(Refused::OtherUser);
        }
        let mut connected = self.lock();
        // One that comes back before its old connection is known to be gone takes its own place.
        let returns = newest_only && connected.clients.contains_key(client);
        let count = connected.users.entry(user_id.to_owned()).or_default();
        if *count >= self.sessions_per_user && !returns {
            return Err(Refused::TooManySessions(self.sessions_per_user));
        }
        *count += 1;
        connected.next += 1;
        let number = connected.next;
        drop(connected);
        Ok(Entry {
            registry: self.clone(),
            client: client.into(),
            user_id: user_id.to_owned(),
            number,
            superseded: CancellationToken::new(),
            known,
        })
    }
}

async fn run(database: ConnectOptions, names: Names, mut requests: mpsc::Receiver<Request>) {
    let mut client: Option<Client> = None;
    let mut batch = Vec::new();
    while requests.recv_many(&mut batch, 1).await > 0 {
        tokio::time::sleep(CLAIM_GATHER).await;
        while batch.len() < CLAIM_BATCH
            && let Ok(request) = requests.try_recv()
        {
            batch.push(request);
        }
        let claimed = claim_all(&database, &names, &mut client, &batch).await;
        if let Err(error) = &claimed {
            client = None;
            tracing::warn!(error, "cannot look up client ids");
        }
        for (index, request) in batch.drain(..).enumerate() {
            let answer = match &claimed {
                Ok(claimed) => claimed[index]
                    .clone()
                    .ok_or_else(|| "this `clientId` is being claimed; connect again".to_owned()),
                Err(_) => Err("the database is not there; come back later".to_owned()),
            };
            // A client that has gone does not wait for it.
            drop(request.reply.send(answer));
        }
    }
}

async fn claim_all(
    database: &ConnectOptions,
    names: &Names,
    client: &mut Option<Client>,
    batch: &[Request],
) -> Result<Vec<Option<Known>>, String> {
    if client.as_ref().is_none_or(Client::is_closed) {
        *client = Some(connect(database, "clients").await.map_err(|error| error.to_string())?);
    }
    let Some(client) = client else { return Err("not connected".to_owned()) };
    let failed = |error: tokio_postgres::Error| reason(&error);
    let wanted: Vec<(String, String)> =
        batch.iter().map(|r| (r.client_id.clone(), r.user_id.clone())).collect();
    let claimed = claim(client, names, &wanted).await.map_err(failed)?;
    // Most clients know how their mutations ended.
    let knows = |(request, claimed): (&Request, &Option<Claimed>)| {
        let behind = claimed.as_ref()?.last_mutation > request.settled;
        behind.then(|| (request.client_id.clone(), request.settled))
    };
    let behind: Vec<(String, u64)> = batch.iter().zip(&claimed).filter_map(knows).collect();
    let told = match behind.is_empty() {
        true => Settled::default(),
        false => settled(client, names, &behind).await.map_err(failed)?,
    };
    let known = |(request, claimed): (&Request, Option<Claimed>)| {
        let claimed = claimed?;
        let mut refused = told.refused.get(&request.client_id).cloned().unwrap_or_default();
        // What was refused since is told by the stream.
        refused.retain(|refusal| refusal.id <= claimed.last_mutation);
        let until = (claimed.last_mutation > request.settled).then_some(told.until);
        Some(Known { claimed, refused, until })
    };
    Ok(batch.iter().zip(claimed).map(known).collect())
}
