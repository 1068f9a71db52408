//! Carries what the [`Registry`] and [`claiming`] decide: asks the database whose client ids are, many with one statement, and tells
//! connections that they have been superseded. Now and then it removes client ids that nobody has used for long.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rowtide_postgres::client_registry::{
    Claimed, Outcomes, claim, outcomes, remove_unused, removed,
};
use rowtide_postgres::connect::{ConnectOptions, Names, connect, reason};
use rowtide_postgres::said_once::SaidOnce;
use tokio::sync::{Notify, oneshot};
use tokio::time::{interval, sleep_until, timeout};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::claiming::{self, Answer};
use crate::conversation::{ClaimRequest, Known, NoClaim};
use crate::engines::Engines;
use crate::limits::{CLAIM_BATCH, CLAIM_COLLECT, CLAIM_TIMEOUT, ClientLimits};
use crate::now::Clock;
use crate::registry::{ClientClaim, ConnectionId, Registry, TooManySessions};
use crate::writer::Writer;

struct Places {
    registry: Registry,
    superseded: HashMap<ConnectionId, CancellationToken>,
    answers: HashMap<ConnectionId, oneshot::Sender<Answer>>,
}

struct Register {
    state: Mutex<Places>,
    asked: Notify,
    clock: Clock,
}

impl Register {
    fn lock(&self) -> MutexGuard<'_, Places> {
        // Whole between any two statements that hold it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The registry of this server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Claims {
    shared: Arc<Register>,
}

/// A connection's place in the registry, given up when it is dropped.
pub(crate) struct Entry {
    shared: Arc<Register>,
    id: ConnectionId,
    superseded: CancellationToken,
}

impl Entry {
    /// Waits until a newer connection of the client id has taken over. Cancel safe.
    pub(crate) async fn superseded(&self) {
        self.superseded.cancelled().await;
    }

    /// The client was heard on this connection: those that have to go are told.
    pub(crate) fn heard(&self) {
        let mut state = self.shared.lock();
        for id in state.registry.heard(self.id) {
            if let Some(superseded) = state.superseded.get(&id) {
                superseded.cancel();
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.registry.leave(self.id);
        state.superseded.remove(&self.id);
        state.answers.remove(&self.id);
    }
}

impl Claims {
    /// Starts the task that claims client ids; it ends with `stop`.
    pub(crate) fn start(
        database: ConnectOptions,
        names: Names,
        limits: ClientLimits,
        writer: Writer,
        engines: Engines,
        clock: Clock,
        stop: CancellationToken,
    ) -> Claims {
        let state = Places {
            registry: Registry::new(limits.sessions_per_user, CLAIM_COLLECT),
            superseded: HashMap::new(),
            answers: HashMap::new(),
        };
        let shared = Arc::new(Register { state: Mutex::new(state), asked: Notify::new(), clock });
        let task = Task {
            shared: Arc::clone(&shared),
            database,
            names,
            writer,
            engines,
            client: None,
            said: SaidOnce::default(),
            said_of_removal: SaidOnce::default(),
            unused_for: limits.unused_clients,
            removal_every: limits.removal_every,
        };
        tokio::spawn(async move {
            stop.run_until_cancelled(task.run()).await;
        });
        Claims { shared }
    }

    /// Takes a place for a connection, and asks what is known of its client. Of one that does not number its mutations
    /// nothing is asked: it is served as long as its rows are there, whatever the database does.
    pub(crate) async fn enter(&self, request: ClaimRequest) -> Result<(Entry, Known), NoClaim> {
        let ClaimRequest { client, user, known, sharing } = request;
        let (reply, answer) = oneshot::channel();
        let superseded = CancellationToken::new();
        let entry = {
            let mut state = self.shared.lock();
            let now = self.shared.clock.time();
            let arrived = state.registry.arrive(&client, &user, known, sharing, now);
            let id = arrived.map_err(|TooManySessions(limit)| NoClaim::TooManySessions(limit))?;
            state.superseded.insert(id, superseded.clone());
            if known.is_some() {
                state.answers.insert(id, reply);
            }
            Entry { shared: Arc::clone(&self.shared), id, superseded }
        };
        if let Some(known) = claiming::known_at_once(known) {
            return Ok((entry, known));
        }
        self.shared.asked.notify_one();
        let answer = timeout(CLAIM_TIMEOUT, answer).await.map_err(|_| claiming::away())?;
        let known = answer.map_err(|_| claiming::away())??;
        Ok((entry, known))
    }
}

struct Task {
    shared: Arc<Register>,
    database: ConnectOptions,
    names: Names,
    writer: Writer,
    engines: Engines,
    client: Option<Client>,
    said: SaidOnce,
    said_of_removal: SaidOnce,
    /// After how long client ids are removed that nobody uses; `None`: never.
    unused_for: Option<Duration>,
    removal_every: Duration,
}

impl Task {
    async fn run(mut self) {
        let mut removal = interval(self.removal_every);
        loop {
            let due = self.shared.lock().registry.claims_at();
            let (shared, clock) = (&self.shared, self.shared.clock);
            let claims = async {
                match due {
                    None => shared.asked.notified().await,
                    Some(at) => sleep_until(clock.instant(at)).await,
                }
            };
            // First what comes once in a while: where somebody connects all the time, it would never come.
            tokio::select! {
                biased;
                _ = removal.tick() => {
                    self.remove_unused().await;
                    removal.reset();
                }
                () = claims => {
                    if due.is_some() {
                        let now = clock.time();
                        let batch = self.shared.lock().registry.take_claims(now, CLAIM_BATCH);
                        self.claim(batch).await;
                    }
                }
            }
        }
    }

    /// A number of those that nobody has used for long, so that who connects does not wait for all of them. It connects
    /// by itself: there may be nobody who does, and clients of the older protocol claim nothing.
    async fn remove_unused(&mut self) {
        let Some(unused_for) = self.unused_for else { return };
        let removed = match connected(&mut self.client, &self.database).await {
            Ok(client) => {
                let removed = remove_unused(client, &self.names, unused_for).await;
                removed.map_err(|error| reason(&error))
            }
            Err(error) => Err(error),
        };
        match removed {
            Ok(count) => {
                self.said_of_removal.clear();
                if count > 0 {
                    tracing::info!(count, "client ids that nobody uses were removed");
                }
            }
            Err(error) if self.said_of_removal.is_new(&error) => {
                tracing::warn!(error, "cannot remove client ids that nobody uses");
            }
            Err(_) => {}
        }
    }

    async fn claim(&mut self, batch: Vec<ClientClaim>) {
        if batch.is_empty() {
            return;
        }
        // What waits of a client is sent again over its newer connection.
        for claim in &batch {
            self.writer.supersede(&claim.client, &claim.user);
        }
        let claims = claiming::ClaimBatch::new(batch, self.engines.epoch());
        let answers = match self.whose(&claims).await {
            Err(error) => {
                self.failed(&error);
                claims.unavailable()
            }
            Ok(rows) => {
                let claimed = claims.claimed(rows);
                match self.what_became(&claimed).await {
                    Err(error) => {
                        self.failed(&error);
                        claimed.unavailable()
                    }
                    Ok((removed, told)) => {
                        self.said.clear();
                        claimed.answers(&removed, &told)
                    }
                }
            }
        };
        let mut state = self.shared.lock();
        for (connection, answer) in answers {
            if let Some(reply) = state.answers.remove(&connection) {
                // A client that has gone does not wait for it.
                drop(reply.send(answer));
            }
        }
    }

    /// The database cannot be asked.
    fn failed(&mut self, error: &str) {
        self.client = None;
        if self.said.is_new(error) {
            tracing::warn!(error, "cannot look up client ids");
        }
    }

    async fn whose(
        &mut self,
        claims: &claiming::ClaimBatch,
    ) -> Result<Vec<Option<Claimed>>, String> {
        let client = connected(&mut self.client, &self.database).await?;
        claim(client, &self.names, claims.wanted()).await.map_err(|error| reason(&error))
    }

    /// Over the connection that has said whose they are: another may lead to a database that has gone back meanwhile.
    async fn what_became(
        &self,
        claimed: &claiming::ClaimedIds,
    ) -> Result<(HashSet<String>, Outcomes), String> {
        let client = self.client.as_ref().ok_or_else(|| "not connected".to_owned())?;
        let removed = removed(client, &self.names, &claimed.unclaimed()).await;
        let removed = removed.map_err(|error| reason(&error))?;
        let behind = claimed.behind();
        let told = match behind.is_empty() {
            true => Outcomes::default(),
            false => {
                outcomes(client, &self.names, &behind).await.map_err(|error| error.to_string())?
            }
        };
        Ok((removed, told))
    }
}

/// The connection of the task; another, where it is lost.
async fn connected<'a>(
    client: &'a mut Option<Client>,
    database: &ConnectOptions,
) -> Result<&'a Client, String> {
    let open = match client.take().filter(|client| !client.is_closed()) {
        Some(open) => open,
        None => connect(database, "clients").await.map_err(|error| error.to_string())?,
    };
    Ok(client.insert(open))
}
