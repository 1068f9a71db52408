//! Live documents of a server: the host that keeps their rooms, the doorkeeper who knows who may be in them, and what
//! goes between them and the rows. A document takes its name from its row and is deleted with it, and its row is told
//! when it was saved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rowtide_documents::host::{
    ApplicationUnusable, BadStorageVariable, DocumentApplication, DocumentError, DocumentId,
    DocumentKind, DocumentKinds, Host, HostError, HostHealth, HostLimits, HostSettings, Joined,
    StorageError, StorageSettings, StorageUrl,
};
use rowtide_documents::journal::JournalError;
use rowtide_documents::place::Access;
use rowtide_documents::tlsync::TlsyncLimits;
use rowtide_documents::yjs::YjsLimits;
use rowtide_feed::{Feed, FeedState, ReplicatorStatus};
use rowtide_plan::definition::Definition;
use rowtide_plan::documents::DocumentProtocol;
use rowtide_postgres::connect::ConnectOptions;
use rowtide_postgres::said_once::SaidOnce;
use rowtide_schema::{Bundle, SchemaLimits};
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::chores::{Chore, Chores};
use crate::doorkeeper::{Doorkeeper, RowNews};
use crate::limits::{MAX_PAUSE, MIN_PAUSE, NEVER, STANDBY_SAVES};
use crate::telemetry;
use crate::touching::{WhenTold, touch_rows};

/// Where documents are kept, and how.
#[derive(Clone, Debug)]
pub struct DocumentsOptions {
    /// The database of their rows.
    pub database: ConnectOptions,
    /// The directory of the journal, and of objects where no other storage is named.
    pub dir: PathBuf,
    /// Where objects are, if not in that directory.
    pub storage: Option<StorageUrl>,
    /// What the keys of objects begin with.
    pub environment: String,
    /// How much may go on.
    pub limits: HostLimits,
    /// The application's own schemas, by the kind of documents.
    pub schemas: BTreeMap<String, Bundle>,
}

/// Why documents cannot be served, before anybody asks for one.
#[derive(Debug, Error)]
pub enum DocumentsError {
    /// The directory cannot be named.
    #[error("the directory of documents cannot be used: {0}")]
    Dir(#[source] std::io::Error),
    /// What the environment says of the storage does not fit.
    #[error(transparent)]
    Storage(#[from] BadStorageVariable),
    /// The application's own schema of a kind of documents cannot be asked.
    #[error("the schema of `{0}` cannot be used: {1}")]
    Schema(String, #[source] ApplicationUnusable),
}

/// Live documents of a server. Cheap to clone.
#[derive(Clone)]
pub struct Documents {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) kinds: Vec<(Arc<str>, DocumentProtocol)>,
    pub(crate) doorkeeper: Doorkeeper,
    /// There once its journal is not another process's any more.
    host: watch::Receiver<Option<Arc<Host>>>,
    /// Why there is none.
    missing: watch::Receiver<Option<String>>,
    chores: Arc<ChoreList>,
    /// Who waits for rows to be told.
    when_told: mpsc::UnboundedSender<WhenTold>,
}

/// What rows say of documents, for who carries it out.
struct ChoreList {
    chores: Mutex<Chores>,
    came: Notify,
    began: Instant,
}

impl ChoreList {
    fn lock(&self) -> MutexGuard<'_, Chores> {
        self.chores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn take(&self, news: RowNews) {
        match news {
            RowNews::Named(document, name) => self.lock().named(document, name, self.now()),
            RowNews::Deleted(document) => self.lock().deleted(document, self.now()),
        }
        self.came.notify_one();
    }
}

impl Documents {
    /// Starts to serve the documents of a definition, of which there are some, until `stop`. Directory and journal are
    /// waited for where another server has them.
    ///
    /// # Errors
    /// When the directory cannot be one.
    pub fn start(
        options: DocumentsOptions,
        definition: &Definition,
        feed: &Feed,
        stop: &CancellationToken,
    ) -> Result<Documents, DocumentsError> {
        let kinds: Vec<(Arc<str>, DocumentProtocol)> =
            definition.documents().map(|(name, protocol)| (name.into(), protocol)).collect();
        telemetry::begin();
        let dir = std::path::absolute(&options.dir).map_err(DocumentsError::Dir)?;
        let settings = HostSettings {
            environment: options.environment,
            storage: storage_of(&dir, options.storage.as_ref())?,
            journal: dir.join("journal"),
            limits: options.limits,
        };
        let (says_host, host) = watch::channel(None);
        let (says_missing, missing) = watch::channel(None);
        let (when_told, waiting) = mpsc::unbounded_channel();
        let mut of_kinds = DocumentKinds::new();
        for (name, protocol) in &kinds {
            let of_kind = kind(*protocol, options.schemas.get(&**name).cloned());
            let of_kind = of_kind.map_err(|why| DocumentsError::Schema(name.to_string(), why))?;
            of_kinds.insert(name.to_string(), of_kind);
        }
        let chores = Arc::new(ChoreList {
            chores: Mutex::default(),
            came: Notify::new(),
            began: Instant::now(),
        });
        let tells = Arc::clone(&chores);
        let tell = move |of_row| tells.take(of_row);
        let database = options.database;
        let doorkeeper = Doorkeeper::start(database.clone(), feed.clone(), tell, stop.clone());
        let serving = Serving {
            settings,
            kinds: of_kinds,
            database,
            states: feed.watch(),
            chores: Arc::clone(&chores),
            waiting,
            says_host,
            says_missing,
        };
        let ends = stop.clone();
        tokio::spawn(async move { ends.run_until_cancelled(serving.run()).await });
        let shared = Shared { kinds, doorkeeper, host, missing, chores, when_told };
        Ok(Documents { shared: Arc::new(shared) })
    }

    /// Why documents are not served now; `None` if they are.
    pub fn missing(&self) -> Option<String> {
        self.shared.missing.borrow().clone()
    }

    /// What of documents is not saved now, and why; `None` if all can be.
    pub fn unsaved(&self) -> Option<String> {
        let health = self.health()?;
        let (document, why) = health.saves_failing.first_key_value()?;
        let more = match health.saves_failing.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!("{document}{more}: {why}"))
    }

    /// How the host is, if there is one.
    pub fn health(&self) -> Option<HostHealth> {
        self.shared.host.borrow().as_ref().map(|host| host.health())
    }

    /// Brings the gauges of `/metrics` up to date.
    pub fn update_metrics(&self) {
        if let Some(host) = self.shared.host.borrow().as_ref() {
            host.update_gauges();
        }
    }

    /// Before `stop`, and once sockets have gone: saves what is not saved yet, and tells the rows. What cannot be saved in
    /// time is in the journal, and is saved after the next start. Returns of how many documents.
    pub async fn save_all(&self, within: Duration) -> usize {
        let host = self.shared.host.borrow().clone();
        let Some(host) = host else { return 0 };
        let until = Instant::now() + within;
        let unsaved = host.shutdown(within).await;
        let (waits, told) = oneshot::channel();
        // Where nobody tells rows any more, there is nothing to wait for.
        drop(self.shared.when_told.send(waits));
        timeout_at(until, told).await.ok();
        unsaved
    }

    pub(crate) fn host(&self) -> Option<Arc<Host>> {
        self.shared.host.borrow().clone()
    }

    /// Somebody who may comes to a document. One that was deleted with its row begins anew, if there is a row again.
    pub(crate) async fn join(
        &self,
        host: &Host,
        document: &DocumentId,
        session: &str,
        access: Access,
    ) -> Result<Joined, DocumentError> {
        if self.shared.chores.lock().is_deleting(document) {
            return Err(DocumentError::Unopened);
        }
        match host.join(document, session, access).await {
            Err(DocumentError::NotFound) => {}
            other => return other,
        }
        {
            let chores = self.shared.chores.lock();
            if chores.is_deleting(document) {
                return Err(DocumentError::Unopened);
            }
            host.revive(document);
        }
        host.join(document, session, access).await
    }
}

/// The storage that was named, with what the environment says of it, or the one below the directory of documents.
///
/// # Errors
/// If a variable of the environment does not fit.
pub fn storage_of(
    dir: &Path,
    url: Option<&StorageUrl>,
) -> Result<StorageSettings, BadStorageVariable> {
    match url {
        Some(url) => StorageSettings::read(url, std::env::vars_os()),
        None => Ok(StorageSettings::files(dir.join("objects"))),
    }
}

fn kind(
    protocol: DocumentProtocol,
    schema: Option<Bundle>,
) -> Result<DocumentKind, ApplicationUnusable> {
    Ok(match (protocol, schema) {
        (DocumentProtocol::Tlsync, None) => DocumentKind::Tlsync(TlsyncLimits::default()),
        (DocumentProtocol::Tlsync, Some(bundle)) => {
            let application = DocumentApplication::start(bundle, &SchemaLimits::default())?;
            DocumentKind::TlsyncOf(TlsyncLimits::default(), application)
        }
        (DocumentProtocol::Yjs, _) => DocumentKind::Yjs(YjsLimits::default()),
    })
}

/// Keeps a host for as long as this server has the stream: another one that serves has the documents, too.
struct Serving {
    settings: HostSettings,
    kinds: DocumentKinds,
    database: ConnectOptions,
    states: watch::Receiver<FeedState>,
    chores: Arc<ChoreList>,
    waiting: mpsc::UnboundedReceiver<WhenTold>,
    says_host: watch::Sender<Option<Arc<Host>>>,
    says_missing: watch::Sender<Option<String>>,
}

impl Serving {
    async fn run(mut self) {
        let mut states = self.states.clone();
        // Once the publisher's side has gone, nothing is served any more.
        while states.wait_for(has_stream).await.is_ok() {
            let started = tokio::select! {
                host = start_host(&self.settings, &self.kinds, &self.says_missing) => Some(host),
                () = stands_by(&mut states) => None,
            };
            self.says_missing.send_replace(None);
            let Some(host) = started.map(Arc::new) else { continue };
            self.says_host.send_replace(Some(Arc::clone(&host)));
            tokio::select! {
                () = touch_rows(&host, self.database.clone(), self.states.clone(), &mut self.waiting) => {}
                () = do_chores(&host, &self.chores) => {}
                () = stands_by(&mut states) => {}
            }
            self.says_host.send_replace(None);
            // What rows say by then, when this server has the documents again, nobody knows now.
            *self.chores.lock() = Chores::default();
            tracing::info!("documents are given back: another server serves");
            // Whoever still has the host, the journal is another's then.
            host.shutdown(STANDBY_SAVES).await;
        }
    }
}

fn is_away(state: &FeedState) -> bool {
    matches!(state.status, ReplicatorStatus::Standby(_))
}

fn has_stream(state: &FeedState) -> bool {
    state.generation.is_some() && !is_away(state)
}

/// Waits until another server has the stream. Cancel safe.
async fn stands_by(states: &mut watch::Receiver<FeedState>) {
    if states.wait_for(is_away).await.is_err() {
        // Without a publisher's side the server ends.
        std::future::pending().await
    }
}

/// Tries until there is a host: a server that is about to end may have the journal.
async fn start_host(
    settings: &HostSettings,
    kinds: &DocumentKinds,
    missing: &watch::Sender<Option<String>>,
) -> Host {
    let (mut pause, mut said) = (MIN_PAUSE, SaidOnce::default());
    loop {
        let error = match Host::start(settings.clone(), kinds.clone()).await {
            Ok(host) => {
                missing.send_replace(None);
                return host;
            }
            Err(error) => error,
        };
        if said.is_new(&error.to_string()) {
            match &error {
                HostError::Journal(JournalError::Locked(_))
                | HostError::Storage(StorageError::Locked(_)) => {
                    tracing::info!(%error, "documents wait for another server to end");
                }
                _ => tracing::error!(%error, "documents cannot be served; it is tried again"),
            }
        }
        missing.send_replace(Some(error.to_string()));
        sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// Carries out what rows say of their documents, until it is dropped.
async fn do_chores(host: &Host, list: &ChoreList) {
    let mut under_way = FuturesUnordered::new();
    loop {
        let begun = list.lock().begin(list.now());
        for (document, chore) in begun {
            under_way.push(async move {
                let is_done = carry_out(host, &document, chore).await;
                (document, is_done)
            });
        }
        let deadline = list.lock().deadline().unwrap_or(NEVER);
        tokio::select! {
            () = list.came.notified() => {}
            Some((document, is_done)) = under_way.next() => {
                list.lock().ended(&document, is_done, list.now());
            }
            () = sleep_until(list.began + deadline) => {}
        }
    }
}

/// Whether it was done.
async fn carry_out(host: &Host, document: &DocumentId, chore: Chore) -> bool {
    let kind = document.kind();
    match chore {
        Chore::Delete => {
            let done = host.delete(document).await;
            done.inspect_err(|error| {
                tracing::warn!(kind, %error, "a document cannot be deleted; it is tried again");
            })
            .is_ok()
        }
        Chore::Rename(name) => {
            let done = host.rename(document, &name).await;
            done.inspect_err(|error| {
                tracing::debug!(kind, %error, "a document does not take its name");
            })
            .is_ok()
        }
    }
}
