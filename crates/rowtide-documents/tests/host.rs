//! The host on real files, and what is true of its journal whatever the storage is: kills, torn files, a full disk.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "host/drawings.rs"]
mod drawings;
#[path = "host/kit.rs"]
mod kit;
#[path = "host/objects_in_files.rs"]
mod objects;
#[path = "host/suite.rs"]
mod suite;
mod yjs;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::FutureExt;
use rowtide_documents::host::{
    DocumentError, Host, HostError, HostLimits, HostSettings, Joined, StorageError,
};
use rowtide_documents::place::{Access, Closing};
use rowtide_documents::yjs::YjsLimits;

use kit::{Dir, Peer, kinds, never_saving, note, quick, settings, start, text_of, until};
use objects::Objects;

/// Writes to a document in a process of its own and tells what it heard, until it is killed.
#[tokio::test]
#[ignore = "run by another test, in a process of its own"]
async fn writing_process() {
    let dir = PathBuf::from(std::env::var_os("ROWTIDE_TEST_DIR").unwrap());
    let objects = Objects::new(&dir).await;
    let dir = std::mem::ManuallyDrop::new(Dir { path: dir, objects });
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
    let dir = Dir::new().await;
    let mut least = 0;
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["writing_process", "--exact", "--ignored", "--nocapture"])
            .env("ROWTIDE_TEST_DIR", &dir.path)
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

/// Has reading a document take as long as the pipe that stands in its place is not written.
fn stall_document(dir: &Dir, id: &str) -> PathBuf {
    let folder = dir.path.join("objects/test/documents/note").join(id);
    fs::create_dir_all(&folder).unwrap();
    let pipe = folder.join("current");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    pipe
}

#[tokio::test]
async fn a_room_that_is_stuck_keeps_no_other_from_being_saved_at_the_stop() {
    let dir = Dir::new().await;
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
    let unsaved = host.shutdown(Duration::from_secs(5)).await;
    // Without it the test could not end.
    fs::write(pipe, "").unwrap();
    assert_eq!(unsaved, 1);
    for id in ["b", "c"] {
        assert!(dir.objects.has(&format!("test/documents/note/{id}/current")));
    }
}

/// The segment of the journal that is written.
fn segment(dir: &Dir) -> PathBuf {
    fs::read_dir(dir.path.join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "edits"))
        .max()
        .unwrap()
}

#[tokio::test]
async fn what_was_torn_off_the_journal_was_told_to_nobody() {
    let dir = Dir::new().await;
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
        let torn = dir.crash().await;
        fs::write(segment(&torn), &whole[..len as usize]).unwrap();
        let host = start(&torn, never_saving()).await;
        text_of(&host, &note("a"), "one ").await;
    }
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
    let dir = Dir::new().await;
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
    // A name waits, and sends nobody away.
    let named = kit::file("f");
    let Joined { seat: _seat, mut outgoing } =
        host.join(&named, "tab", Access::Read).await.unwrap();
    let unnamed = host.rename(&named, "Name").await.unwrap_err();
    assert!(matches!(unnamed, DocumentError::Journal(_)), "{unnamed}");
    assert!(outgoing.next().now_or_never().is_none());
    let mut writer = Peer::join_with(&host, &note("a"), Access::Edit, writer.doc.clone()).await;
    writer.write("!").await;
    writer.hear_until("a refusal", |writer| writer.denied).await;
    // When there is space, what was written meanwhile comes.
    limit(None);
    let all = writer.text();
    reader.hear_text_while(&all, &mut writer).await;
    assert!(!host.health().journal_failing);
    host.rename(&named, "Name").await.unwrap();
}

#[tokio::test]
async fn a_directory_of_objects_is_one_hosts_at_a_time_and_knows_whose_it_was() {
    let (dir, other) = (Dir::new().await, Dir::new().await);
    let host = start(&dir, never_saving()).await;
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    writer.write("one ").await;
    host.save(&note("a")).await.unwrap();
    assert_eq!(dir.objects.get("test/documents/note/a/writer").map(|id| id.len()), Some(32));
    // Another journal, and the same objects.
    let settings = || HostSettings { storage: dir.objects.settings(), ..settings(&other, quick()) };
    let start = async || Host::start(settings(), kinds(YjsLimits::default())).await;
    let taken = start().await.unwrap_err();
    assert!(matches!(taken, HostError::Storage(StorageError::Locked(_))), "{taken}");
    drop(writer);
    host.shutdown(kit::DEADLINE).await;
    text_of(&start().await.unwrap(), &note("a"), "one ").await;
}

/// A disk that is unmounted leaves a directory in its place, which may be written.
#[tokio::test]
async fn in_another_directory_than_its_own_nothing_is_looked_for_and_nothing_written() {
    let dir = Dir::new().await;
    let host = start(&dir, never_saving()).await;
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    writer.write("one ").await;
    host.save(&note("a")).await.unwrap();
    let awake = Peer::join(&host, &note("awake"), Access::Edit).await;
    awake.write("here ").await;
    drop(writer);
    until("a is asleep", async || host.health().rooms_awake == 1).await;
    let objects = dir.path.join("objects");
    let away = objects.with_extension("away");
    fs::rename(&objects, &away).unwrap();
    for is_there in [false, true] {
        if is_there {
            fs::create_dir_all(objects.join(".locks/test")).unwrap();
        }
        let opened = host.join(&note("a"), "tab", Access::Read).await;
        assert!(opened.is_err(), "it is not what is there that is served");
        assert!(host.save(&note("awake")).await.is_err());
        assert!(host.publish(&note("awake"), "slug", "").await.is_err());
        assert!(!objects.join("test").exists(), "nothing is written");
    }
    fs::remove_dir_all(&objects).unwrap();
    fs::rename(&away, &objects).unwrap();
    until("it heals", async || host.save(&note("awake")).await.is_ok()).await;
    text_of(&host, &note("a"), "one ").await;
    drop(awake);
    host.shutdown(kit::DEADLINE).await;
    // Nor does a server start with it.
    fs::rename(&objects, &away).unwrap();
    let refused = Host::start(settings(&dir, quick()), kinds(YjsLimits::default())).await;
    let error = refused.unwrap_err();
    assert!(matches!(error, HostError::Storage(StorageError::Another { .. })), "{error}");
    fs::remove_dir_all(&objects).unwrap();
    fs::rename(&away, &objects).unwrap();
    text_of(&start(&dir, quick()).await, &note("awake"), "here ").await;
}

#[tokio::test]
async fn what_a_write_has_left_that_was_cut_off_is_removed() {
    let dir = Dir::new().await;
    let of = |id: &str| dir.path.join("objects/test/documents/note").join(id);
    let left = [of("gone").join("history/time#1"), of("a").join("current#12")];
    for path in &left {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "half").unwrap();
    }
    fs::write(of("a").join("current"), [0, 0]).unwrap();
    let _host = start(&dir, quick()).await;
    until("it is removed", async || !left.iter().any(|path| path.exists())).await;
    until("no document is left", async || !of("gone").exists()).await;
    assert!(of("a").join("current").exists());
}
