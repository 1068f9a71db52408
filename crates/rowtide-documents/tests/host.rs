//! The host on real files: whatever was told is there afterwards, and one document's trouble is no other's.

#![allow(clippy::unwrap_used, reason = "a test")]

mod yjs;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use rowtide_documents::host::{
    DocumentError, DocumentId, DocumentKind, DocumentKinds, Host, HostLimits, HostSettings, Joined,
    Outgoing, OutgoingFrames, PublishError, Seat,
};
use rowtide_documents::place::{Access, Closing, Frame, Reason, Socket};
use rowtide_documents::tlsync::TlsyncLimits;
use rowtide_documents::yjs::YjsLimits;
use yjs::{read_number, sync_message};
use yrs::block::ClientID;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Doc, GetString, OffsetKind, Options, ReadTxn, StateVector, Text, Transact, Update};

/// Whatever is waited for comes much sooner.
const DEADLINE: Duration = Duration::from_secs(30);

/// A directory that goes when it is dropped.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("rowtide-host-{}-{next}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    fn objects(&self) -> PathBuf {
        self.0.join("objects")
    }

    /// What is on the disk now, as a crash would leave it: the journal first, because an object that is newer than the
    /// journal is one that was saved before the crash, and an older one has lost edits.
    fn crash(&self) -> Dir {
        let copy = Dir::new();
        for dir in ["journal", "objects"] {
            fs::create_dir(copy.0.join(dir)).unwrap();
            copy_dir(&self.0.join(dir), &copy.0.join(dir));
        }
        copy
    }
}

fn copy_dir(from: &Path, to: &Path) {
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
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Limits with which a test need not wait.
fn quick() -> HostLimits {
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
fn never_saving() -> HostLimits {
    HostLimits {
        save_after: Duration::from_secs(3_600),
        sweep_every: Duration::from_secs(3_600),
        ..HostLimits::default()
    }
}

fn kinds(yjs: YjsLimits) -> DocumentKinds {
    BTreeMap::from([
        ("note".to_owned(), DocumentKind::Yjs(yjs)),
        ("file".to_owned(), DocumentKind::Tlsync(TlsyncLimits::default())),
    ])
}

fn settings(dir: &Dir, limits: HostLimits) -> HostSettings {
    HostSettings {
        environment: "test".to_owned(),
        storage: format!("file://{}", dir.objects().display()),
        journal: dir.0.join("journal"),
        limits,
    }
}

async fn start(dir: &Dir, limits: HostLimits) -> Host {
    Host::start(settings(dir, limits), kinds(YjsLimits::default())).await.unwrap()
}

fn note(id: &str) -> DocumentId {
    DocumentId::new("note", id).unwrap()
}

/// Waits until something is so.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} never comes"));
}

fn new_doc() -> Doc {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let client = u64::from(std::process::id()) << 16 | NEXT.fetch_add(1, Ordering::Relaxed);
    let mut options = Options::with_client_id(ClientID::new(client));
    options.offset_kind = OffsetKind::Utf16;
    Doc::with_options(options)
}

/// A client of Yjs with a text.
struct Peer {
    doc: Doc,
    seat: Seat,
    outgoing: OutgoingFrames,
    closed: Option<Closing>,
    denied: bool,
}

impl Peer {
    async fn join(host: &Host, document: &DocumentId, access: Access) -> Peer {
        Peer::join_with(host, document, access, new_doc()).await
    }

    async fn join_with(host: &Host, document: &DocumentId, access: Access, doc: Doc) -> Peer {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let session = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let Joined { seat, outgoing } = host.join(document, &session, access).await.unwrap();
        let vector = doc.transact().state_vector().encode_v1();
        seat.heard(sync_message(0, &vector)).await;
        Peer { doc, seat, outgoing, closed: None, denied: false }
    }

    fn text(&self) -> String {
        let text = self.doc.get_or_insert_text("text");
        text.get_string(&self.doc.transact())
    }

    async fn write(&self, more: &str) {
        let text = self.doc.get_or_insert_text("text");
        let had = self.doc.transact().state_vector();
        text.push(&mut self.doc.transact_mut(), more);
        let update = self.doc.transact().encode_diff_v1(&had);
        self.seat.heard(sync_message(2, &update)).await;
    }

    async fn hear(&mut self) {
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

    async fn hear_until(&mut self, what: &str, so: impl Fn(&Peer) -> bool) {
        let heard = tokio::time::timeout(DEADLINE, async {
            while !so(self) {
                assert_eq!(self.closed, None, "closed before {what}");
                self.hear().await;
            }
        });
        heard.await.unwrap_or_else(|_| panic!("{what} never comes"));
    }

    async fn hear_text(&mut self, text: &str) {
        self.hear_until(text, |peer| peer.text() == text).await;
    }

    /// As [`Peer::hear_text`], while another one listens and answers.
    async fn hear_text_while(&mut self, text: &str, other: &mut Peer) {
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

    async fn hear_closing(&mut self) -> Closing {
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
async fn text_of(host: &Host, document: &DocumentId, expected: &str) {
    Peer::join(host, document, Access::Read).await.hear_text(expected).await;
}

#[tokio::test]
async fn an_edit_is_durable_before_anybody_hears_of_it() {
    let dir = Dir::new();
    let host = start(&dir, never_saving()).await;
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    let mut written = String::new();
    for more in ["one ", "two ", "three "] {
        writer.write(more).await;
        written.push_str(more);
        reader.hear_text(&written).await;
        let after_crash = dir.crash();
        let host = start(&after_crash, never_saving()).await;
        text_of(&host, &note("a"), &written).await;
    }
    assert!(!dir.objects().join("test").exists(), "nothing was saved yet");
}

/// Writes to a document in a process of its own and tells what it heard, until it is killed.
#[tokio::test]
#[ignore = "run by another test, in a process of its own"]
async fn writing_process() {
    let dir = PathBuf::from(std::env::var_os("ROWTIDE_TEST_DIR").unwrap());
    let dir = std::mem::ManuallyDrop::new(Dir(dir));
    let host = start(&dir, quick()).await;
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    reader.hear_until("step 2", |_| true).await;
    loop {
        writer.write("x").await;
        let before = reader.text().len();
        reader.hear_until("an edit", |reader| reader.text().len() > before).await;
        println!("heard {}", reader.text().len());
    }
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_heard() {
    let dir = Dir::new();
    let mut least = 0;
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["writing_process", "--exact", "--ignored", "--nocapture"])
            .env("ROWTIDE_TEST_DIR", &dir.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = lines
            .map_while(Result::ok)
            .filter_map(|line| line.rsplit_once("heard ")?.1.parse::<usize>().ok());
        let enough = least + 20 + 15 * round;
        least = heard.find(|len| *len >= enough).expect("it writes");
        child.kill().unwrap();
        // What it has told until its end counts too.
        least = heard.max().unwrap_or(least).max(least);
        child.wait().unwrap();
    }
    let host = start(&dir, quick()).await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    reader.hear_until("all that was heard", |reader| reader.text().len() >= least).await;
}

#[tokio::test]
async fn a_room_sleeps_when_it_is_empty_and_saved() {
    let dir = Dir::new();
    let host = start(&dir, quick()).await;
    let id = DocumentId::new("note", "a/b%c ü").unwrap();
    let mut peer = Peer::join(&host, &id, Access::Edit).await;
    let mut other = Peer::join(&host, &id, Access::Edit).await;
    peer.write("kept").await;
    other.hear_text("kept").await;
    assert_eq!(host.health().rooms_awake, 1);
    assert_eq!(host.health().sessions, 2);
    let saved = tokio::time::timeout(DEADLINE, host.next_saved()).await.unwrap();
    assert_eq!(saved.document, id);
    drop((peer, other));
    until("sleep", async || host.health().rooms_awake == 0).await;
    assert_eq!(host.health().unsaved_bytes, 0);
    let folder = dir.objects().join("test/documents/note/a%2Fb%25c %C3%BC");
    assert!(folder.join("current").exists(), "{folder:?}");
    assert_eq!(host.history(&id).await.unwrap().len(), 1);
    text_of(&host, &id, "kept").await;
    // Who only looks saves nothing.
    until("sleep", async || host.health().rooms_awake == 0).await;
    assert_eq!(host.history(&id).await.unwrap().len(), 1);
    peer = Peer::join(&host, &id, Access::Edit).await;
    peer.hear_text("kept").await;
    peer.write("!").await;
    host.save(&id).await.unwrap();
    assert_eq!(host.history(&id).await.unwrap().len(), 2);
}

/// Has every access to objects fail.
fn break_storage(dir: &Dir) {
    if dir.objects().join("test").exists() {
        fs::rename(dir.objects().join("test"), dir.objects().join("away")).unwrap();
    }
    fs::write(dir.objects().join("test"), "in the way").unwrap();
}

fn mend_storage(dir: &Dir) {
    fs::remove_file(dir.objects().join("test")).unwrap();
    if dir.objects().join("away").exists() {
        fs::rename(dir.objects().join("away"), dir.objects().join("test")).unwrap();
    }
}

#[tokio::test]
async fn edits_go_on_while_the_storage_fails_and_are_saved_when_it_is_back() {
    let dir = Dir::new();
    let host = start(&dir, quick()).await;
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    reader.hear().await;
    break_storage(&dir);
    writer.write("one ").await;
    reader.hear_text("one ").await;
    until("a failure", async || host.health().saves_failing.contains_key(&note("a"))).await;
    assert!(matches!(host.save(&note("a")).await, Err(DocumentError::Unsaved)));
    writer.write("two ").await;
    reader.hear_text("one two ").await;
    assert!(host.health().unsaved_bytes > 0);
    mend_storage(&dir);
    until("a save", async || host.health().saves_failing.is_empty()).await;
    host.save(&note("a")).await.unwrap();
    assert_eq!(host.health().unsaved_bytes, 0);
    let stored = host.snapshot(&note("a")).await.unwrap().unwrap();
    let doc = new_doc();
    doc.transact_mut().apply_update(Update::decode_v1(&stored).unwrap()).unwrap();
    assert_eq!(doc.get_or_insert_text("text").get_string(&doc.transact()), "one two ");
}

#[tokio::test]
async fn a_document_with_too_much_that_is_not_saved_can_only_be_read() {
    let dir = Dir::new();
    let host = start(&dir, HostLimits { unsaved_bytes: 2_000, ..quick() }).await;
    let mut writer = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    writer.hear_until("step 1 and 2", |_| true).await;
    break_storage(&dir);
    let large = "x".repeat(2_500);
    writer.write(&large).await;
    reader.hear_text(&large).await;
    until("the limit", async || {
        writer.write("y").await;
        while let Ok(()) = tokio::time::timeout(Duration::from_millis(5), writer.hear()).await {}
        writer.denied
    })
    .await;
    assert_eq!(writer.closed, None);
    mend_storage(&dir);
    // What was written meanwhile is asked for, and nothing is lost.
    let all = writer.text();
    reader.hear_text_while(&all, &mut writer).await;
}

#[tokio::test]
async fn a_deleted_document_is_gone_for_good() {
    let dir = Dir::new();
    let host = start(&dir, never_saving()).await;
    let mut writer = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    let other = Peer::join(&host, &note("ab"), Access::Edit).await;
    other.write("stays").await;
    host.save(&note("ab")).await.unwrap();
    writer.write("gone").await;
    reader.hear_text("gone").await;
    host.save(&note("a")).await.unwrap();
    writer.write("!").await;
    reader.hear_text("gone!").await;

    host.delete(&note("a")).await.unwrap();
    assert_eq!(writer.hear_closing().await, Closing::Final(Reason::NotFound));
    assert_eq!(reader.hear_closing().await, Closing::Final(Reason::NotFound));
    let error = host.join(&note("a"), "s", Access::Edit).await.unwrap_err();
    assert_eq!(error.closing(), Closing::Final(Reason::NotFound));
    assert_eq!(host.history(&note("a")).await.unwrap(), Vec::<String>::new());
    assert!(!dir.objects().join("test/documents/note/a/current").exists());
    // Again does no harm.
    host.delete(&note("a")).await.unwrap();
    drop((writer, reader));
    text_of(&host, &note("ab"), "stays").await;

    // Nothing of it comes back, after a crash neither.
    let after_crash = dir.crash();
    let second = start(&after_crash, quick()).await;
    assert!(second.snapshot(&note("a")).await.unwrap().is_none());
    host.revive(&note("a"));
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    writer.write("new").await;
    text_of(&host, &note("a"), "new").await;
}

#[tokio::test]
async fn who_leaves_at_once_has_said_what_it_said() {
    let dir = Dir::new();
    let host = start(&dir, quick()).await;
    for id in 0..20 {
        let peer = Peer::join(&host, &note(&id.to_string()), Access::Edit).await;
        peer.write("last words").await;
        drop(peer);
    }
    for id in 0..20 {
        text_of(&host, &note(&id.to_string()), "last words").await;
    }
}

#[tokio::test]
async fn a_document_of_yjs_is_restored_for_those_who_are_there() {
    let dir = Dir::new();
    let host = start(&dir, quick()).await;
    let mut writer = Peer::join(&host, &note("a"), Access::Edit).await;
    writer.write("first").await;
    host.save(&note("a")).await.unwrap();
    let times = host.history(&note("a")).await.unwrap();
    writer.write(" and second").await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    reader.hear_text("first and second").await;
    host.restore(&note("a"), &times[0]).await.unwrap();
    reader.hear_text("first").await;
    writer.hear_text("first").await;
    writer.write("!").await;
    reader.hear_text("first!").await;
    let after_crash = dir.crash();
    text_of(&start(&after_crash, never_saving()).await, &note("a"), "first!").await;
}

#[tokio::test]
async fn a_document_can_begin_as_another_and_be_published() {
    let dir = Dir::new();
    let host = start(&dir, never_saving()).await;
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    writer.write("first").await;
    let snapshot = host.snapshot(&note("a")).await.unwrap().unwrap();
    host.begin_from(&note("b"), snapshot.clone()).await.unwrap();
    text_of(&host, &note("b"), "first").await;
    let again = host.begin_from(&note("b"), snapshot.clone()).await;
    assert!(matches!(again, Err(DocumentError::Begun)));
    assert!(matches!(host.begin_from(&note("a"), snapshot).await, Err(DocumentError::Begun)));
    let rubbish = host.begin_from(&note("c"), Bytes::from_static(b"rubbish")).await;
    assert!(matches!(rubbish, Err(DocumentError::Unrestorable(_))));
    let after_crash = dir.crash();
    text_of(&start(&after_crash, never_saving()).await, &note("b"), "first").await;

    host.publish(&note("a"), "s/lug", "1").await.unwrap();
    let published = host.published(&note("a"), "s/lug").await.unwrap();
    writer.write(" and second").await;
    host.save(&note("a")).await.unwrap();
    assert_eq!(host.published(&note("a"), "s/lug").await.unwrap(), published);
    host.publish(&note("a"), "s/lug", "1").await.unwrap();
    assert_eq!(host.published(&note("a"), "s/lug").await.unwrap(), published, "the same edition");
    host.publish(&note("a"), "s/lug", "2").await.unwrap();
    assert_ne!(host.published(&note("a"), "s/lug").await.unwrap(), published);
    host.unpublish(&note("a")).await.unwrap();
    host.unpublish(&note("a")).await.unwrap();
    assert_eq!(host.published(&note("a"), "s/lug").await.unwrap(), None);
    assert_eq!(host.published_at("s/lug").await.unwrap(), None);
    // What nobody has edited is published as it is.
    assert!(!host.has_begun(&note("d")).await.unwrap());
    host.publish(&note("d"), "other", "1").await.unwrap();
    assert!(host.has_begun(&note("d")).await.unwrap());
    assert!(host.published(&note("d"), "other").await.unwrap().is_some());
    let taken = host.publish(&note("a"), "other", "1").await;
    assert!(matches!(taken, Err(PublishError::Taken)));
    let nowhere = host.publish(&note("a"), "", "1").await;
    assert!(matches!(nowhere, Err(PublishError::Slug)));
    host.publish(&note("a"), "s/lug", "3").await.unwrap();
    let stored: Vec<String> =
        host.stored("note").await.unwrap().iter().map(|stored| stored.id().to_owned()).collect();
    assert!(stored.contains(&"a".to_owned()) && stored.contains(&"d".to_owned()));
    host.delete(&note("a")).await.unwrap();
    assert_eq!(host.published(&note("a"), "s/lug").await.unwrap(), None);
}

#[tokio::test]
async fn a_full_host_and_a_full_room_send_away() {
    let dir = Dir::new();
    let limits = HostLimits { rooms_awake: 2, ..quick() };
    let rooms = kinds(YjsLimits { sessions: 2, ..YjsLimits::default() });
    let host = Host::start(settings(&dir, limits), rooms).await.unwrap();
    let first = Peer::join(&host, &note("a"), Access::Edit).await;
    let second = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut third = Peer::join(&host, &note("a"), Access::Edit).await;
    assert_eq!(third.hear_closing().await, Closing::Final(Reason::RoomFull));
    let _other = Peer::join(&host, &note("b"), Access::Edit).await;
    let error = host.join(&note("c"), "s", Access::Edit).await.unwrap_err();
    assert!(matches!(error, DocumentError::Full));
    assert_eq!(error.closing(), Closing::ComeBack);
    drop((first, second, third));
    until("room", async || host.join(&note("c"), "s", Access::Edit).await.is_ok()).await;
    let unknown = DocumentId::new("other", "x").unwrap();
    let error = host.join(&unknown, "s", Access::Edit).await.unwrap_err();
    assert!(matches!(error, DocumentError::NotFound));
}

#[tokio::test]
async fn who_comes_and_goes_makes_no_more_history_and_what_is_old_in_it_is_thinned() {
    let dir = Dir::new();
    let old = dir.objects().join("test/documents/note/a/history");
    fs::create_dir_all(&old).unwrap();
    for time in ["2020-01-01T00:00:00.000Z", "2020-01-01T00:01:00.000Z"] {
        fs::write(old.join(time), [0, 0]).unwrap();
    }
    let limits = HostLimits { history_every: Duration::from_secs(3_600), ..quick() };
    let host = start(&dir, limits).await;
    for edit in ["one", "two", "three"] {
        let writer = Peer::join(&host, &note("a"), Access::Edit).await;
        writer.write(edit).await;
        drop(writer);
        until("sleep", async || host.health().rooms_awake == 0).await;
    }
    let times = host.history(&note("a")).await.unwrap();
    assert!(times.len() == 1 && !times[0].starts_with("2020"), "{times:?}");
}

#[tokio::test]
async fn a_crowd_at_one_document_is_let_in_or_sent_away() {
    let dir = Dir::new();
    let rooms = kinds(YjsLimits { sessions: 4, ..YjsLimits::default() });
    let limits = HostLimits { requests: 4, ..quick() };
    let host = Host::start(settings(&dir, limits), rooms).await.unwrap();
    let document = note("a");
    // Nobody leaves before all have been answered.
    let coming = (0..200).map(|_| Peer::join(&host, &document, Access::Edit));
    let all = tokio::time::timeout(DEADLINE, join_all(coming)).await;
    let mut peers = all.expect("everybody is answered");
    for sent_away in &mut peers[4..] {
        assert_eq!(sent_away.hear_closing().await, Closing::Final(Reason::RoomFull));
    }
    // Who gives up while it waits takes no place either.
    let mut giving_up: Vec<_> =
        (0..200).map(|_| Box::pin(Peer::join(&host, &document, Access::Edit))).collect();
    for coming in &mut giving_up {
        assert!(coming.now_or_never().is_none());
    }
    drop((giving_up, peers));
    until("sleep", async || host.health().rooms_awake == 0).await;
    assert_eq!(host.health().sessions, 0);
}

#[tokio::test]
async fn a_slow_socket_is_sent_away_and_holds_nobody_up() {
    let dir = Dir::new();
    let limits = HostLimits { outbox_bytes: 2_000, ..quick() };
    let host = start(&dir, limits).await;
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut slow = Peer::join(&host, &note("a"), Access::Read).await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    let mut written = String::new();
    for _ in 0..40 {
        writer.write("0123456789").await;
        written.push_str("0123456789");
        reader.hear_text(&written).await;
    }
    assert_eq!(slow.hear_closing().await, Closing::ComeBack);
    assert_eq!(host.health().sessions, 2);
}

#[tokio::test]
async fn access_changes_and_sockets_are_closed_while_they_are_there() {
    let dir = Dir::new();
    let host = start(&dir, quick()).await;
    let mut guest = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut owner = Peer::join(&host, &note("a"), Access::Edit).await;
    guest.write("one ").await;
    owner.hear_text("one ").await;
    host.set_access(&note("a"), guest.seat.socket(), Access::Read).await;
    guest.write("two ").await;
    guest.hear_until("a refusal", |guest| guest.denied).await;
    host.set_access(&note("a"), guest.seat.socket(), Access::Edit).await;
    guest.write("three ").await;
    let (everything, socket) = (guest.text(), guest.seat.socket());
    owner.hear_text_while(&everything, &mut guest).await;
    let forbidden = Closing::Final(Reason::Forbidden);
    host.close_where(&note("a"), move |other: Socket| (other == socket).then_some(forbidden)).await;
    assert_eq!(guest.hear_closing().await, forbidden);
    assert_eq!(owner.closed, None);
    host.close(&note("a"), owner.seat.socket(), Closing::ComeBack).await;
    assert_eq!(owner.hear_closing().await, Closing::ComeBack);
}

#[tokio::test]
async fn what_a_crash_left_is_saved_without_anybody_coming() {
    let dir = Dir::new();
    let host = start(&dir, never_saving()).await;
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    writer.write("kept").await;
    reader.hear_text("kept").await;
    let after_crash = dir.crash();
    let second = start(&after_crash, quick()).await;
    let saved = tokio::time::timeout(DEADLINE, second.next_saved()).await.unwrap();
    assert_eq!(saved.document, note("a"));
    until("sleep", async || second.health().rooms_awake == 0).await;
    assert_eq!(second.health().unsaved_bytes, 0);
    assert!(after_crash.objects().join("test/documents/note/a/current").exists());
}

#[tokio::test]
async fn a_shutdown_saves_everything() {
    let dir = Dir::new();
    let host = start(&dir, never_saving()).await;
    let mut peers = Vec::new();
    for id in 0..20 {
        let peer = Peer::join(&host, &note(&id.to_string()), Access::Edit).await;
        peer.write("kept").await;
        peers.push(peer);
    }
    assert_eq!(host.shutdown(DEADLINE).await, 0);
    for mut peer in peers {
        assert_eq!(peer.hear_closing().await, Closing::ComeBack);
    }
    for id in 0..20 {
        assert!(dir.objects().join(format!("test/documents/note/{id}/current")).exists());
    }
    // Storage and journal are free for the next one, whoever still has this one.
    let second = start(&dir, quick()).await;
    assert!(matches!(host.save(&note("7")).await, Err(DocumentError::Stopping)));
    let host = second;
    text_of(&host, &note("7"), "kept").await;
    // A storage that is away does not hold it up.
    let peer = Peer::join(&host, &note("7"), Access::Edit).await;
    peer.write("!").await;
    break_storage(&dir);
    assert_eq!(host.shutdown(Duration::from_millis(200)).await, 1);
    mend_storage(&dir);
    let host = start(&dir, quick()).await;
    let mut reader = Peer::join(&host, &note("7"), Access::Read).await;
    reader.hear_until("both", |reader| reader.text().contains('!')).await;
}

/// Has reading a document take as long as the pipe that stands in its place is not written.
fn stall_document(dir: &Dir, id: &str) -> PathBuf {
    let folder = dir.objects().join("test/documents/note").join(id);
    fs::create_dir_all(&folder).unwrap();
    let pipe = folder.join("current");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    pipe
}

#[tokio::test]
async fn a_room_that_is_stuck_keeps_no_other_from_being_saved_at_the_stop() {
    let dir = Dir::new();
    let pipe = stall_document(&dir, "a");
    let limits = HostLimits { requests: 1, ..never_saving() };
    let rooms = kinds(YjsLimits { sessions: 2, ..YjsLimits::default() });
    let host = Host::start(settings(&dir, limits), rooms).await.unwrap();
    let stuck = note("a");
    let mut coming: Vec<_> =
        (0..20).map(|_| Box::pin(host.join(&stuck, "s", Access::Edit))).collect();
    for joining in &mut coming {
        assert!(joining.now_or_never().is_none());
    }
    for id in ["b", "c"] {
        let writer = Peer::join(&host, &note(id), Access::Edit).await;
        let mut reader = Peer::join(&host, &note(id), Access::Read).await;
        writer.write("kept").await;
        reader.hear_text("kept").await;
        std::mem::forget((writer, reader));
    }
    let unsaved = host.shutdown(Duration::from_secs(1)).await;
    // Without it the test could not end.
    fs::write(pipe, "").unwrap();
    assert_eq!(unsaved, 1);
    for id in ["b", "c"] {
        assert!(dir.objects().join(format!("test/documents/note/{id}/current")).exists());
    }
}

#[tokio::test]
async fn a_damaged_document_is_told_of_and_no_other_is_concerned() {
    let dir = Dir::new();
    let folder = dir.objects().join("test/documents/note/a");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("current"), "rubbish").unwrap();
    let host = start(&dir, quick()).await;
    let error = host.join(&note("a"), "s", Access::Edit).await.unwrap_err();
    assert!(matches!(error, DocumentError::Unopened));
    assert!(host.health().unopened.contains_key(&note("a")));
    let writer = Peer::join(&host, &note("b"), Access::Edit).await;
    writer.write("fine").await;
    text_of(&host, &note("b"), "fine").await;
    assert_eq!(fs::read(folder.join("current")).unwrap(), b"rubbish");
    // Once it is mended it can be opened.
    fs::write(folder.join("current"), [0, 0]).unwrap();
    Peer::join(&host, &note("a"), Access::Edit).await;
    assert!(host.health().unopened.is_empty());
}

/// The segment of the journal that is written.
fn segment(dir: &Dir) -> PathBuf {
    fs::read_dir(dir.0.join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "edits"))
        .max()
        .unwrap()
}

#[tokio::test]
async fn what_was_torn_off_the_journal_was_told_to_nobody() {
    let dir = Dir::new();
    let host = start(&dir, never_saving()).await;
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    writer.write("one ").await;
    reader.hear_text("one ").await;
    let heard = fs::metadata(segment(&dir)).unwrap().len();
    writer.write("two").await;
    reader.hear_text("one two").await;
    let whole = fs::read(segment(&dir)).unwrap();
    assert!(heard < whole.len() as u64);
    for len in (heard..whole.len() as u64).step_by(7) {
        let torn = dir.crash();
        fs::write(segment(&torn), &whole[..len as usize]).unwrap();
        let host = start(&torn, never_saving()).await;
        text_of(&host, &note("a"), "one ").await;
    }
}

fn file(id: &str) -> DocumentId {
    DocumentId::new("file", id).unwrap()
}

/// What a client of tlsync that comes is told of a document.
async fn records(host: &Host, document: &DocumentId) -> String {
    let snapshot = host.snapshot(document).await.unwrap().unwrap();
    String::from_utf8(snapshot.to_vec()).unwrap()
}

#[tokio::test]
async fn a_document_of_tldraw_is_renamed_and_restored() {
    let dir = Dir::new();
    let host = start(&dir, quick()).await;
    host.rename(&file("f"), "First").await.unwrap();
    host.save(&file("f")).await.unwrap();
    let times = host.history(&file("f")).await.unwrap();
    host.rename(&file("f"), "Second").await.unwrap();
    assert!(records(&host, &file("f")).await.contains("Second"));
    let Joined { seat: _seat, mut outgoing } =
        host.join(&file("f"), "tab", Access::Edit).await.unwrap();
    host.restore(&file("f"), times.last().unwrap()).await.unwrap();
    assert_eq!(outgoing.next().await, Outgoing::Closed(Closing::ComeBack));
    let restored = records(&host, &file("f")).await;
    assert!(restored.contains("First") && !restored.contains("Second"), "{restored}");
    // What it was is in the history too.
    let times = host.history(&file("f")).await.unwrap();
    let mut found = false;
    for time in &times {
        let earlier = host.earlier(&file("f"), time).await.unwrap().unwrap();
        found |= String::from_utf8_lossy(&earlier).contains("Second");
    }
    assert!(found, "{times:?}");
    let error = host.restore(&file("f"), "2000-01-01T00:00:00.000Z").await.unwrap_err();
    assert!(matches!(error, DocumentError::NotFound));
    // A text is no message of tlsync; a message of Yjs neither.
    let Joined { seat, mut outgoing } = host.join(&file("f"), "tab", Access::Edit).await.unwrap();
    seat.heard(Frame::Binary(Bytes::from_static(&[0]))).await;
    assert_eq!(outgoing.next().await, Outgoing::Closed(Closing::ComeBack));
}

/// Runs a test of this file in a process of its own, in which a file that grows too large is an error and no signal.
#[test]
fn without_space_everybody_comes_back_and_nothing_heard_is_lost() {
    let status = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["full_disk", "--exact", "--ignored", "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
#[ignore = "run by another test, in a process of its own"]
async fn full_disk() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = |bytes: Option<u64>| {
        let maximum = getrlimit(Resource::Fsize).maximum;
        setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum }).unwrap();
    };
    let dir = Dir::new();
    let host = start(&dir, never_saving()).await;
    let mut writer = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    limit(Some(20_000));
    let line = "x".repeat(1_000);
    let mut heard = String::new();
    while reader.closed.is_none() {
        writer.write(&line).await;
        let wanted = writer.text();
        while reader.closed.is_none() && reader.text() != wanted {
            reader.hear().await;
        }
        if reader.text() == wanted {
            heard = wanted;
        }
    }
    assert_eq!(reader.closed, Some(Closing::ComeBack));
    assert_eq!(writer.hear_closing().await, Closing::ComeBack);
    assert!(host.health().journal_failing);
    // While there is no space it can be read.
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    reader.hear_text(&heard).await;
    let mut writer = Peer::join_with(&host, &note("a"), Access::Edit, writer.doc.clone()).await;
    writer.write("!").await;
    writer.hear_until("a refusal", |writer| writer.denied).await;
    // When there is space, what was written meanwhile comes.
    limit(None);
    let all = writer.text();
    reader.hear_text_while(&all, &mut writer).await;
    assert!(!host.health().journal_failing);
}
