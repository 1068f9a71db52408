//! Live documents of a server: the host that keeps their rooms, the doorkeeper who knows who may be in them, and what
//! goes between them and the rows. A document takes its name from its row, is published and deleted as that says, and its
//! row is told when it was saved.

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
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::carrying::{EffectsNeed, carry_out_effects};
use crate::closed::EffectsShared;
use crate::desk::Desk;
use crate::doorkeeper::Doorkeeper;
use crate::limits::{MAX_PAUSE, MIN_PAUSE, NEVER, STANDBY_SAVES, UNKNOWN_AT_CONNECT};
use crate::names::DocumentNames;
use crate::saying::PublishErrors;
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
    names: Arc<NameList>,
    pub(crate) effects: Arc<EffectsShared>,
    pub(crate) desk: Desk,
    /// Who waits for rows to be told.
    when_told: mpsc::UnboundedSender<WhenTold>,
}

/// What rows call documents, for who carries it out.
struct NameList {
    names: Mutex<DocumentNames>,
    came: Notify,
    began: Instant,
}

impl NameList {
    fn lock(&self) -> MutexGuard<'_, DocumentNames> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn named(&self, document: DocumentId, name: String) {
        self.lock().named(document, name, self.now());
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
        let names = Arc::new(NameList {
            names: Mutex::default(),
            came: Notify::new(),
            began: Instant::now(),
        });
        let effects = Arc::new(EffectsShared::new());
        let (named, waits, states) = (Arc::clone(&names), Arc::clone(&effects), feed.watch());
        let tell = move |document: DocumentId, name| {
            // What begins as a copy takes its name when it has begun.
            let name = match may_begin_as_another(&states, &document) {
                true => waits.named(&document, name),
                false => Some(name),
            };
            if let Some(name) = name {
                named.named(document, name);
            }
        };
        let database = options.database;
        let desk = Desk::start(database.clone(), feed.clone(), stop.clone());
        let doorkeeper = Doorkeeper::start(database.clone(), feed.clone(), tell, stop.clone());
        let serving = Serving {
            settings,
            kinds: of_kinds,
            database,
            states: feed.watch(),
            feed: feed.clone(),
            dir,
            names: Arc::clone(&names),
            effects: Arc::clone(&effects),
            desk: desk.clone(),
            waiting,
            says_host,
            says_missing,
        };
        let ends = stop.clone();
        tokio::spawn(async move { ends.run_until_cancelled(serving.run()).await });
        let shared = Shared { kinds, doorkeeper, host, missing, names, effects, desk, when_told };
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

    /// Somebody who may comes to a document.
    pub(crate) async fn join(
        &self,
        host: &Host,
        document: &DocumentId,
        session: &str,
        access: Access,
    ) -> Result<Joined, DocumentError> {
        self.revive(host, document)?;
        host.join(document, session, access).await
    }

    /// Lets a document begin anew that was deleted with its row, because there is a row again.
    ///
    /// # Errors
    /// While it is not deleted yet, or seems to have to be.
    pub(crate) fn revive(&self, host: &Host, document: &DocumentId) -> Result<(), DocumentError> {
        match self.shared.effects.is_closed(document, || host.revive(document)) {
            true => Err(DocumentError::Unopened),
            false => Ok(()),
        }
    }

    /// Waits until it is known which documents nobody may come to.
    ///
    /// # Errors
    /// If that takes longer than those who come wait.
    pub(crate) async fn when_caught_up(&self) -> Result<(), Elapsed> {
        timeout(UNKNOWN_AT_CONNECT, self.shared.effects.when_caught_up()).await
    }

    /// It is known by now that a document has begun: it takes the name that waits for that.
    pub(crate) fn has_begun_by_now(&self, document: &DocumentId) {
        if let Some(name) = self.shared.effects.begun(document) {
            self.shared.names.named(document.clone(), name);
        }
    }
}

/// Whether the row of a document may say what it begins as.
fn may_begin_as_another(states: &watch::Receiver<FeedState>, document: &DocumentId) -> bool {
    let state = states.borrow();
    let kind = state.plan.as_ref().and_then(|plan| plan.document_kind(document.kind()));
    kind.is_some_and(|kind| kind.source.is_some())
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
    feed: Feed,
    dir: PathBuf,
    names: Arc<NameList>,
    effects: Arc<EffectsShared>,
    desk: Desk,
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
            let effects = EffectsNeed {
                host: &host,
                dir: &self.dir,
                feed: &self.feed,
                desk: &self.desk,
                errors: PublishErrors::start(self.database.clone(), self.states.clone()),
                shared: &self.effects,
                missing: &self.says_missing,
            };
            tokio::select! {
                () = touch_rows(&host, self.database.clone(), self.states.clone(), &mut self.waiting) => {}
                () = give_names(&host, &self.names) => {}
                () = carry_out_effects(effects) => {}
                () = stands_by(&mut states) => {}
            }
            self.says_host.send_replace(None);
            self.says_missing.send_replace(None);
            // What rows say by then, when this server has the documents again, nobody knows now.
            *self.names.lock() = DocumentNames::default();
            self.effects.end();
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

/// Gives documents the names of their rows, until it is dropped.
async fn give_names(host: &Host, list: &NameList) {
    let mut under_way = FuturesUnordered::new();
    loop {
        let begun = list.lock().begin(list.now());
        for (document, name) in begun {
            under_way.push(async move {
                let done = host.rename(&document, &name).await;
                let done = done.inspect_err(|error| {
                    tracing::debug!(kind = document.kind(), %error, "a document does not take its name");
                });
                (document, done.is_ok())
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
