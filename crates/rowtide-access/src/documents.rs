//! Live documents of a server: the host that keeps their rooms, the doorkeeper who knows who may be in them, and what
//! goes between them and the rows. A document takes its name from its row and is deleted with it, and its row is told
//! when it was saved.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rowtide_documents::host::{
    DocumentError, DocumentId, DocumentKind, DocumentKinds, Host, HostError, HostHealth,
    HostLimits, HostSettings, Joined,
};
use rowtide_documents::journal::JournalError;
use rowtide_documents::place::Access;
use rowtide_documents::tlsync::TlsyncLimits;
use rowtide_documents::yjs::YjsLimits;
use rowtide_feed::Feed;
use rowtide_plan::definition::Definition;
use rowtide_plan::documents::DocumentProtocol;
use rowtide_postgres::connect::ConnectOptions;
use rowtide_postgres::said_once::SaidOnce;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::doorkeeper::{Doorkeeper, RowNews};
use crate::limits::{MAX_PAUSE, MIN_PAUSE};
use crate::telemetry;
use crate::touching::touch_rows;

/// Where documents are kept, and how.
#[derive(Clone, Debug)]
pub struct DocumentsOptions {
    /// The database of their rows.
    pub database: ConnectOptions,
    /// The directory of objects and journal.
    pub dir: PathBuf,
    /// What the keys of objects begin with.
    pub environment: String,
    /// How much may go on.
    pub limits: HostLimits,
}

/// Why documents cannot be served, before anybody asks for one.
#[derive(Debug, Error)]
pub enum DocumentsError {
    /// The directory cannot be named.
    #[error("the directory of documents cannot be used: {0}")]
    Dir(#[source] std::io::Error),
    /// The directory's name is no text.
    #[error("the directory of documents `{}` is not UTF-8", .0.display())]
    NotText(PathBuf),
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
    /// Documents whose rows are gone, and that are being deleted.
    deleting: Arc<Mutex<BTreeSet<DocumentId>>>,
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
        let objects = dir.join("objects");
        let objects = objects.to_str().ok_or_else(|| DocumentsError::NotText(dir.clone()))?;
        let settings = HostSettings {
            environment: options.environment,
            storage: format!("file://{objects}"),
            journal: dir.join("journal"),
            limits: options.limits,
        };
        let (says_host, host) = watch::channel(None);
        let (says_missing, missing) = watch::channel(None);
        let (tells, news) = mpsc::unbounded_channel();
        let deleting = Arc::default();
        let of_kinds: DocumentKinds =
            kinds.iter().map(|(name, protocol)| (name.to_string(), kind(*protocol))).collect();
        let tell = move |of_row| drop(tells.send(of_row));
        let database = options.database;
        let doorkeeper = Doorkeeper::start(database.clone(), feed.clone(), tell, stop.clone());
        let (rows, states, ends) = (Arc::clone(&deleting), feed.watch(), stop.clone());
        tokio::spawn(async move {
            let started = ends.run_until_cancelled(start_host(settings, of_kinds, &says_missing));
            let Some(host) = started.await.map(Arc::new) else { return };
            says_host.send_replace(Some(Arc::clone(&host)));
            let touches = touch_rows(Arc::clone(&host), database, states);
            let follows = follow_rows(host, news, &rows);
            let both = async { tokio::join!(touches, follows) };
            ends.run_until_cancelled(both).await;
        });
        let shared = Shared { kinds, doorkeeper, host, missing, deleting };
        Ok(Documents { shared: Arc::new(shared) })
    }

    /// Why documents are not served now; `None` if they are.
    pub fn missing(&self) -> Option<String> {
        self.shared.missing.borrow().clone()
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

    /// After `stop`, and once sockets have gone: saves what is not saved yet. What cannot be in time is in the journal, and
    /// is saved after the next start. Returns of how many documents.
    pub async fn save_all(&self, within: Duration) -> usize {
        let host = self.shared.host.borrow().clone();
        match host {
            Some(host) => host.shutdown(within).await,
            None => 0,
        }
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
        match host.join(document, session, access).await {
            Err(DocumentError::NotFound) => {}
            other => return other,
        }
        {
            let deleting = self.shared.deleting.lock().unwrap_or_else(PoisonError::into_inner);
            if deleting.contains(document) {
                return Err(DocumentError::Unopened);
            }
            host.revive(document);
        }
        host.join(document, session, access).await
    }
}

fn kind(protocol: DocumentProtocol) -> DocumentKind {
    match protocol {
        DocumentProtocol::Tlsync => DocumentKind::Tlsync(TlsyncLimits::default()),
        DocumentProtocol::Yjs => DocumentKind::Yjs(YjsLimits::default()),
    }
}

/// Tries until there is a host: a server that is about to end may have the journal.
async fn start_host(
    settings: HostSettings,
    kinds: DocumentKinds,
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
                HostError::Journal(JournalError::Locked(_)) => {
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

/// Carries what rows say of their documents, one after the other.
async fn follow_rows(
    host: Arc<Host>,
    mut news: mpsc::UnboundedReceiver<RowNews>,
    deleting: &Mutex<BTreeSet<DocumentId>>,
) {
    while let Some(news) = news.recv().await {
        match news {
            RowNews::Named(document, name) => {
                // One that cannot be opened takes its name when somebody comes to it again.
                if let Err(error) = host.rename(&document, &name).await {
                    tracing::debug!(kind = document.kind(), %error, "a document does not take its name");
                }
            }
            RowNews::Deleted(document) => {
                let lock = || deleting.lock().unwrap_or_else(PoisonError::into_inner);
                lock().insert(document.clone());
                let mut pause = MIN_PAUSE;
                while let Err(error) = host.delete(&document).await {
                    tracing::warn!(kind = document.kind(), %error, "a document cannot be deleted; it is tried again");
                    sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
                lock().remove(&document);
            }
        }
    }
}
