//! What tests of the host have in common: a directory with a journal and a storage, limits that need no waiting, and a
//! client of Yjs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rowtide_documents::host::{
    DocumentId, DocumentKind, DocumentKinds, Host, HostLimits, HostSettings, Joined, Outgoing,
    OutgoingFrames, Seat,
};
use rowtide_documents::place::{Access, Closing, Frame};
use rowtide_documents::tlsync::TlsyncLimits;
use rowtide_documents::yjs::YjsLimits;
use yrs::block::ClientID;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Doc, GetString, OffsetKind, Options, ReadTxn, StateVector, Text, Transact, Update};

use crate::objects::Objects;
use crate::yjs::{read_number, sync_message};

/// Whatever is waited for comes much sooner.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A directory that goes when it is dropped, with a journal in it, and a storage.
pub(crate) struct Dir {
    pub(crate) path: PathBuf,
    pub(crate) objects: Objects,
}

impl Dir {
    pub(crate) async fn new() -> Dir {
        let path = new_path();
        let objects = Objects::new(&path).await;
        Dir { path, objects }
    }

    /// What is on the disk now, as a crash would leave it: the journal first, because an object that is newer than the
    /// journal is one that was saved before the crash, and an older one has lost edits.
    pub(crate) async fn crash(&self) -> Dir {
        let path = new_path();
        fs::create_dir(path.join("journal")).unwrap();
        copy_dir(&self.path.join("journal"), &path.join("journal"));
        let objects = self.objects.copy(&path).await;
        Dir { path, objects }
    }
}

fn new_path() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("rowtide-host-{}-{next}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// What is in a directory, in another one that is there.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy_dir(&entry.path(), &to);
        } else {
            match fs::copy(entry.path(), &to) {
                // An object that was being written has its own name meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.path));
    }
}

/// Limits with which a test need not wait.
pub(crate) fn quick() -> HostLimits {
    HostLimits {
        save_after: Duration::from_millis(30),
        save_retry: Duration::from_millis(20),
        save_retry_max: Duration::from_millis(100),
        history_every: Duration::ZERO,
        sweep_every: Duration::from_millis(100),
        ..HostLimits::default()
    }
}

/// Limits with which nothing is saved unless somebody asks.
pub(crate) fn never_saving() -> HostLimits {
    HostLimits {
        save_after: Duration::from_secs(3_600),
        sweep_every: Duration::from_secs(3_600),
        ..HostLimits::default()
    }
}

pub(crate) fn kinds(yjs: YjsLimits) -> DocumentKinds {
    BTreeMap::from([
        ("note".to_owned(), DocumentKind::Yjs(yjs)),
        ("file".to_owned(), DocumentKind::Tlsync(TlsyncLimits::default())),
    ])
}

pub(crate) fn settings(dir: &Dir, limits: HostLimits) -> HostSettings {
    HostSettings {
        environment: "test".to_owned(),
        storage: dir.objects.settings(),
        journal: dir.path.join("journal"),
        limits,
    }
}

pub(crate) async fn start(dir: &Dir, limits: HostLimits) -> Host {
    Host::start(settings(dir, limits), kinds(YjsLimits::default())).await.unwrap()
}

pub(crate) fn note(id: &str) -> DocumentId {
    DocumentId::new("note", id).unwrap()
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} never comes"));
}

pub(crate) fn new_doc() -> Doc {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let client = u64::from(std::process::id()) << 16 | NEXT.fetch_add(1, Ordering::Relaxed);
    let mut options = Options::with_client_id(ClientID::new(client));
    options.offset_kind = OffsetKind::Utf16;
    Doc::with_options(options)
}

/// A client of Yjs with a text.
pub(crate) struct Peer {
    pub(crate) doc: Doc,
    pub(crate) seat: Seat,
    pub(crate) outgoing: OutgoingFrames,
    pub(crate) closed: Option<Closing>,
    pub(crate) denied: bool,
}

impl Peer {
    pub(crate) async fn join(host: &Host, document: &DocumentId, access: Access) -> Peer {
        Peer::join_with(host, document, access, new_doc()).await
    }

    pub(crate) async fn join_with(
        host: &Host,
        document: &DocumentId,
        access: Access,
        doc: Doc,
    ) -> Peer {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let session = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let Joined { seat, outgoing } = host.join(document, &session, access).await.unwrap();
        let vector = doc.transact().state_vector().encode_v1();
        seat.heard(sync_message(0, &vector)).await;
        Peer { doc, seat, outgoing, closed: None, denied: false }
    }

    pub(crate) fn text(&self) -> String {
        let text = self.doc.get_or_insert_text("text");
        text.get_string(&self.doc.transact())
    }

    pub(crate) async fn write(&self, more: &str) {
        let text = self.doc.get_or_insert_text("text");
        let had = self.doc.transact().state_vector();
        text.push(&mut self.doc.transact_mut(), more);
        let update = self.doc.transact().encode_diff_v1(&had);
        self.seat.heard(sync_message(2, &update)).await;
    }

    pub(crate) async fn hear(&mut self) {
        match self.outgoing.next().await {
            Outgoing::Closed(closing) => self.closed = Some(closing),
            Outgoing::Frame(Frame::Text(_)) => panic!("a text"),
            Outgoing::Frame(Frame::Binary(frame)) => {
                let mut rest = &frame[..];
                match read_number(&mut rest) {
                    0 => {
                        let kind = read_number(&mut rest);
                        read_number(&mut rest);
                        if kind == 0 {
                            let vector = StateVector::decode_v1(rest).unwrap();
                            let update = self.doc.transact().encode_diff_v1(&vector);
                            self.seat.heard(sync_message(1, &update)).await;
                        } else {
                            let update = Update::decode_v1(rest).unwrap();
                            self.doc.transact_mut().apply_update(update).unwrap();
                        }
                    }
                    2 => self.denied = true,
                    _ => {}
                }
            }
        }
    }

    pub(crate) async fn hear_until(&mut self, what: &str, so: impl Fn(&Peer) -> bool) {
        let heard = tokio::time::timeout(DEADLINE, async {
            while !so(self) {
                assert_eq!(self.closed, None, "closed before {what}");
                self.hear().await;
            }
        });
        heard.await.unwrap_or_else(|_| panic!("{what} never comes"));
    }

    pub(crate) async fn hear_text(&mut self, text: &str) {
        self.hear_until(text, |peer| peer.text() == text).await;
    }

    /// As [`Peer::hear_text`], while another one listens and answers.
    pub(crate) async fn hear_text_while(&mut self, text: &str, other: &mut Peer) {
        let listening = async {
            loop {
                other.hear().await;
            }
        };
        tokio::select! {
            () = listening => {}
            () = self.hear_text(text) => {}
        }
    }

    pub(crate) async fn hear_closing(&mut self) -> Closing {
        let heard = tokio::time::timeout(DEADLINE, async {
            while self.closed.is_none() {
                self.hear().await;
            }
        });
        heard.await.expect("it is closed");
        self.closed.unwrap()
    }
}

/// What a document says to somebody who comes.
pub(crate) async fn text_of(host: &Host, document: &DocumentId, expected: &str) {
    Peer::join(host, document, Access::Read).await.hear_text(expected).await;
}

pub(crate) fn file(id: &str) -> DocumentId {
    DocumentId::new("file", id).unwrap()
}

/// What a client of tlsync that comes is told of a document.
pub(crate) async fn records(host: &Host, document: &DocumentId) -> String {
    let snapshot = host.snapshot(document).await.unwrap().unwrap();
    String::from_utf8(snapshot.to_vec()).unwrap()
}
