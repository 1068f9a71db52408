//! The host on S3: what holds for files holds here too; a storage that is slow, away or denies costs nobody an edit; and of
//! two servers with one bucket neither overwrites what the other has written.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "host/kit.rs"]
mod kit;
#[path = "host/objects_on_s3.rs"]
mod objects;
mod s3;
#[path = "host/suite.rs"]
mod suite;
mod yjs;

use std::time::Duration;

use rowtide_documents::host::{
    DocumentError, DocumentId, Host, HostLimits, HostSettings, Outgoing, StorageSettings,
    StorageUrl, try_storage,
};
use rowtide_documents::place::{Access, Closing};
use rowtide_documents::yjs::YjsLimits;
use yrs::updates::decoder::Decode;
use yrs::{GetString, Transact, Update};

use kit::{
    DEADLINE, Dir, Peer, file, kinds, never_saving, new_doc, note, quick, records, settings, start,
    text_of, until,
};
use s3::{ACCESS_KEY, Fault, SECRET_KEY};

/// Limits with which a silent storage is given up, and one that answers is not, also where the machine is busy.
fn impatient() -> HostLimits {
    HostLimits { storage_call: Duration::from_secs(3), ..quick() }
}

/// A host with a journal of its own in `own`, and the objects of `dir`.
async fn beside(dir: &Dir, own: &Dir, limits: HostLimits) -> Host {
    let settings = HostSettings { storage: dir.objects.settings(), ..settings(own, limits) };
    Host::start(settings, kinds(YjsLimits::default())).await.unwrap()
}

/// A number at the beginning of a snapshot.
fn number(snapshot: &str, name: &str) -> u64 {
    let (_, rest) = snapshot.split_once(&format!("\"{name}\":")).unwrap();
    rest.split(',').next().unwrap().parse().unwrap()
}

async fn stored_text(host: &Host, document: &DocumentId) -> String {
    let stored = host.snapshot(document).await.unwrap().unwrap();
    let doc = new_doc();
    doc.transact_mut().apply_update(Update::decode_v1(&stored).unwrap()).unwrap();
    doc.get_or_insert_text("text").get_string(&doc.transact())
}

#[tokio::test]
async fn edits_go_on_whatever_the_storage_does_and_are_saved_when_it_is_back() {
    for (fault, expected) in [
        (Fault::Silent, "no answer in"),
        (Fault::Away, "PUT http://"),
        (Fault::Denied, "403 Forbidden (AccessDenied)"),
        (Fault::Throttled, "503 Service Unavailable (SlowDown)"),
        (Fault::Unsaid, "http://"),
    ] {
        let dir = Dir::new().await;
        let host = start(&dir, if fault == Fault::Silent { impatient() } else { quick() }).await;
        let writer = Peer::join(&host, &note("a"), Access::Edit).await;
        let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
        writer.write("one ").await;
        reader.hear_text("one ").await;
        host.save(&note("a")).await.unwrap();
        dir.objects.0.set_fault(Some(fault));
        writer.write("two ").await;
        reader.hear_text("one two ").await;
        until("a failure", async || host.health().saves_failing.contains_key(&note("a"))).await;
        let said = host.health().saves_failing[&note("a")].clone();
        assert!(said.contains(expected), "{fault:?}: {said}");
        for secret in [ACCESS_KEY, SECRET_KEY, "?", "Signature="] {
            assert!(!said.contains(secret), "{fault:?}: {said}");
        }
        writer.write("three").await;
        reader.hear_text("one two three").await;
        assert!(host.health().unsaved_bytes > 0);
        dir.objects.0.set_fault(None);
        until("a save", async || host.health().saves_failing.is_empty()).await;
        host.save(&note("a")).await.unwrap();
        assert_eq!(stored_text(&host, &note("a")).await, "one two three");
        let health = host.health();
        assert_eq!((health.unsaved_bytes, health.superseded), (0, 0), "{fault:?}");
        assert_eq!((reader.closed, writer.closed), (None, None), "{fault:?}");
    }
}

#[tokio::test]
async fn half_an_object_is_no_document_and_a_bucket_that_is_missing_is_not_an_empty_one() {
    let dir = Dir::new().await;
    let host = start(&dir, quick()).await;
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    writer.write(&"kept ".repeat(100)).await;
    host.save(&note("a")).await.unwrap();
    host.shutdown(DEADLINE).await;
    drop(writer);
    dir.objects.0.set_fault(Some(Fault::Half));
    let host = start(&dir, quick()).await;
    let error = host.join(&note("a"), "s", Access::Edit).await.unwrap_err();
    assert_eq!(error.closing(), Closing::ComeBack, "{error}");
    assert!(host.health().unopened.contains_key(&note("a")));
    dir.objects.0.set_fault(None);
    text_of(&host, &note("a"), &"kept ".repeat(100)).await;
    host.shutdown(DEADLINE).await;

    let url: StorageUrl = "s3://another-bucket/x".parse().unwrap();
    let variables = dir.objects.0.variables().map(|(name, value)| (name.into(), value.into()));
    let storage = StorageSettings::read(&url, variables).unwrap();
    let settings = HostSettings { storage, ..settings(&dir, quick()) };
    let host = Host::start(settings, kinds(YjsLimits::default())).await.unwrap();
    let error = host.join(&note("a"), "s", Access::Edit).await.unwrap_err();
    assert!(matches!(error, DocumentError::Unopened), "{error}");
    let said = &host.health().unopened[&note("a")];
    assert!(said.contains("NoSuchBucket"), "{said}");
}

#[tokio::test]
async fn a_storage_that_is_silent_holds_no_stop_up() {
    let dir = Dir::new().await;
    let host = start(&dir, never_saving()).await;
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    writer.write("kept").await;
    reader.hear_text("kept").await;
    dir.objects.0.set_fault(Some(Fault::Silent));
    let stopping = tokio::time::timeout(DEADLINE, host.shutdown(Duration::from_millis(300)));
    assert_eq!(stopping.await.unwrap(), 1);
    // What was not saved is in the journal.
    text_of(&start(&dir.crash().await, quick()).await, &note("a"), "kept").await;
}

#[tokio::test]
async fn an_object_that_somebody_takes_away_is_put_again_by_who_has_it_open() {
    let dir = Dir::new().await;
    let host = start(&dir, never_saving()).await;
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    writer.write("one ").await;
    host.save(&note("a")).await.unwrap();
    dir.objects.0.remove(&dir.objects.key("test/documents/note/a/current"));
    writer.write("two").await;
    host.save(&note("a")).await.unwrap();
    assert_eq!(stored_text(&host, &note("a")).await, "one two");
    assert_eq!(host.health().superseded, 0);
}

#[tokio::test]
async fn an_older_object_that_somebody_brings_back_is_not_taken_for_the_last_put() {
    let dir = Dir::new().await;
    let host = start(&dir, never_saving()).await;
    let key = dir.objects.key("test/documents/note/a/current");
    let mut writer = Peer::join(&host, &note("a"), Access::Edit).await;
    writer.write("one ").await;
    host.save(&note("a")).await.unwrap();
    let backup = dir.objects.0.back_up(&key).unwrap();
    writer.write("two ").await;
    host.save(&note("a")).await.unwrap();
    dir.objects.0.bring_back(&key, &backup);
    let brought_back = dir.objects.0.get(&key);
    writer.write("three").await;
    let error = host.save(&note("a")).await.unwrap_err();
    assert!(matches!(error, DocumentError::Unsaved), "{error}");
    assert_eq!(dir.objects.0.get(&key), brought_back, "it is not overwritten");
    assert_eq!(host.health().superseded, 1);
    assert_eq!(writer.hear_closing().await, Closing::ComeBack);
    // What was there instead is a state of the history.
    let times = host.history(&note("a")).await.unwrap();
    let before = host.earlier(&note("a"), &times[0]).await.unwrap().unwrap();
    let doc = new_doc();
    doc.transact_mut().apply_update(Update::decode_v1(&before).unwrap()).unwrap();
    let text = doc.get_or_insert_text("text").get_string(&doc.transact());
    assert_eq!(text, "one two three");
    // Whoever has all of it brings it back.
    let writer = Peer::join_with(&host, &note("a"), Access::Edit, writer.doc.clone()).await;
    writer.write("!").await;
    until("a save", async || host.save(&note("a")).await.is_ok()).await;
    assert_eq!(host.health().superseded, 1);
}

#[tokio::test]
async fn a_list_of_many_documents_comes_to_its_end_however_long_all_of_its_pages_take() {
    let dir = Dir::new().await;
    let limits = HostLimits { storage_call: Duration::from_secs(4), ..never_saving() };
    let host = start(&dir, limits).await;
    let ids: Vec<String> = (0..24).map(|number| format!("n{number:02}")).collect();
    for id in &ids {
        dir.objects.put(&format!("test/documents/note/{id}/current"), &[0, 0]);
        dir.objects.put(&format!("test/documents/note/{id}/history/2026"), &[0, 0]);
    }
    // Eight pages: each comes long before a call is given up, and all of them later.
    dir.objects.0.set_fault(Some(Fault::Late(Duration::from_millis(600))));
    let mut stored = host.stored("note").await.unwrap();
    stored.sort_unstable();
    assert_eq!(stored, ids.iter().map(|id| note(id)).collect::<Vec<_>>());
}

#[tokio::test]
async fn two_servers_with_one_bucket_overwrite_nothing_and_lose_nothing_of_a_text() {
    let (dir, own) = (Dir::new().await, Dir::new().await);
    let (first, second) =
        (start(&dir, never_saving()).await, beside(&dir, &own, never_saving()).await);
    // Both begin it, and both write on.
    for round in ["begun ", "more "] {
        let ann = Peer::join(&first, &note("a"), Access::Edit).await;
        let mut bob = Peer::join(&second, &note("a"), Access::Edit).await;
        bob.hear().await;
        ann.write(&format!("ann {round}")).await;
        bob.write(&format!("bob {round}")).await;
        first.save(&note("a")).await.unwrap();
        let by_first = dir.objects.get("test/documents/note/a/current");
        let error = second.save(&note("a")).await.unwrap_err();
        assert!(matches!(error, DocumentError::Unsaved), "{error}");
        assert_eq!(dir.objects.get("test/documents/note/a/current"), by_first, "not overwritten");
        assert_eq!(bob.hear_closing().await, Closing::ComeBack);
        // Who comes back finds both, and both are saved; then the other server is the one that has to look again.
        let mut bob = Peer::join_with(&second, &note("a"), Access::Edit, bob.doc.clone()).await;
        bob.hear_until("both", |bob| {
            let text = bob.text();
            text.contains(&format!("ann {round}")) && text.contains(&format!("bob {round}"))
        })
        .await;
        second.save(&note("a")).await.unwrap();
        let both = bob.text();
        assert_eq!(stored_text(&second, &note("a")).await, both);
        ann.write("!").await;
        assert!(first.save(&note("a")).await.is_err());
        until("what both have", async || {
            let Ok(Some(_)) = first.snapshot(&note("a")).await else { return false };
            let text = stored_text(&first, &note("a")).await;
            text.contains('!') && both.chars().all(|letter| text.contains(letter))
        })
        .await;
        drop((ann, bob));
        until("sleep", async || first.health().rooms_awake + second.health().rooms_awake == 0)
            .await;
    }
    assert_eq!((first.health().superseded, second.health().superseded), (2, 2));
    let health = second.health();
    assert!(health.saves_failing.is_empty() && health.unsaved_bytes == 0, "{health:?}");
}

#[tokio::test]
async fn edits_of_a_drawing_that_another_server_has_written_are_made_again_on_top_of_it() {
    let (dir, own) = (Dir::new().await, Dir::new().await);
    let (first, second) =
        (start(&dir, never_saving()).await, beside(&dir, &own, never_saving()).await);
    first.rename(&file("f"), "Begun").await.unwrap();
    first.save(&file("f")).await.unwrap();
    // As long as somebody is there, nothing is saved.
    let _at_first = first.join(&file("f"), "tab", Access::Edit).await.unwrap();
    let mut at_second = second.join(&file("f"), "tab", Access::Edit).await.unwrap();
    second.rename(&file("f"), "By the second").await.unwrap();
    for name in ["One", "Two", "By the first"] {
        first.rename(&file("f"), name).await.unwrap();
    }
    first.save(&file("f")).await.unwrap();
    let by_first = dir.objects.get("test/documents/file/f/current").unwrap();
    assert!(second.save(&file("f")).await.is_err());
    assert_eq!(second.health().superseded, 1);
    assert_eq!(at_second.outgoing.next().await, Outgoing::Closed(Closing::ComeBack));
    // What the second one had is made again, and what both had is in the history.
    until("what both have", async || second.save(&file("f")).await.is_ok()).await;
    let both = records(&second, &file("f")).await;
    assert!(both.contains("By the second"));
    // Clocks that clients have seen say nothing of what both have: they are sent all of it.
    let by_first = String::from_utf8(by_first).unwrap();
    let (seen, told_from) =
        (number(&by_first, "documentClock"), number(&both, "tombstoneHistoryStartsAtClock"));
    assert!(told_from > seen, "{told_from} {seen}");
    let mut kept = Vec::new();
    for time in second.history(&file("f")).await.unwrap() {
        let earlier = second.earlier(&file("f"), &time).await.unwrap().unwrap();
        kept.push(String::from_utf8_lossy(&earlier).into_owned());
    }
    assert!(kept.iter().any(|kept| kept.contains("By the first")), "{kept:?}");
    assert!(kept.iter().any(|kept| kept.contains("By the second")), "{kept:?}");
    assert!(!dir.objects.has("test/documents/file/f/unmerged/"), "all of it fitted");
}

#[tokio::test]
async fn what_cannot_be_made_again_is_kept_aside() {
    let (dir, own) = (Dir::new().await, Dir::new().await);
    let first = start(&dir, never_saving()).await;
    first.rename(&file("f"), "Copied").await.unwrap();
    let snapshot = first.snapshot(&file("f")).await.unwrap().unwrap();
    let _here = first.join(&file("g"), "tab", Access::Edit).await.unwrap();
    dir.objects.fail();
    first.begin_from(&file("g"), snapshot).await.unwrap();
    assert_eq!(first.shutdown(Duration::from_millis(100)).await, 1);
    dir.objects.heal();
    // Another server begins it in another way.
    let second = beside(&dir, &own, never_saving()).await;
    second.rename(&file("g"), "Begun otherwise").await.unwrap();
    second.save(&file("g")).await.unwrap();
    let first = start(&dir, never_saving()).await;
    assert!(records(&first, &file("g")).await.contains("Begun otherwise"));
    assert!(dir.objects.has("test/documents/file/g/unmerged/"));
    until("sleep", async || first.health().rooms_awake == 0).await;
    assert_eq!(first.health().unsaved_bytes, 0);
}

#[tokio::test]
async fn what_a_server_had_not_saved_when_it_ended_is_merged_when_it_comes_back() {
    let (dir, own) = (Dir::new().await, Dir::new().await);
    let first = start(&dir, never_saving()).await;
    first.rename(&file("f"), "Begun").await.unwrap();
    first.save(&file("f")).await.unwrap();
    first.rename(&file("f"), "Not saved").await.unwrap();
    dir.objects.0.set_fault(Some(Fault::Away));
    assert_eq!(first.shutdown(Duration::from_millis(100)).await, 1);
    dir.objects.0.set_fault(None);
    let second = beside(&dir, &own, never_saving()).await;
    for name in ["Two", "Three", "Four"] {
        second.rename(&file("f"), name).await.unwrap();
    }
    second.save(&file("f")).await.unwrap();
    second.shutdown(DEADLINE).await;
    // Nobody comes; the journal says that there is something to be saved.
    let first = start(&dir, quick()).await;
    let saved = tokio::time::timeout(DEADLINE, first.next_saved()).await.unwrap();
    assert_eq!(saved.document, file("f"));
    let stored = dir.objects.get("test/documents/file/f/current").unwrap();
    assert!(String::from_utf8(stored).unwrap().contains("Not saved"));
    until("sleep", async || first.health().rooms_awake == 0).await;
    assert_eq!(first.health().unsaved_bytes, 0);
}

#[tokio::test]
async fn a_document_with_a_long_history_is_deleted_whole_and_no_other() {
    let dir = Dir::new().await;
    let host = start(&dir, never_saving()).await;
    for number in 0..10 {
        let key = |id| format!("test/documents/note/{id}/history/2026-11-01T00:00:00.{number:03}Z");
        dir.objects.put(&key("a"), &[0, 0]);
        dir.objects.put(&key("ab"), &[0, 0]);
    }
    assert_eq!(host.history(&note("a")).await.unwrap().len(), 10);
    host.delete(&note("a")).await.unwrap();
    assert!(!dir.objects.has("test/documents/note/a/"));
    assert_eq!(host.history(&note("ab")).await.unwrap().len(), 10);
}

#[tokio::test]
async fn a_storage_is_tried_before_it_is_needed() {
    let dir = Dir::new().await;
    let settings = dir.objects.settings();
    assert_eq!(try_storage(&settings, "test").await, Vec::<String>::new());
    assert!(!dir.objects.has(""), "nothing is left of it");
    dir.objects.0.set_fault(Some(Fault::Denied));
    let problems = try_storage(&settings, "test").await;
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("cannot be put") && problems[0].contains("AccessDenied"));
    assert!(!problems[0].contains(ACCESS_KEY), "{problems:?}");
    let steps = [
        (Fault::Forgetful, "an object does not keep its metadata"),
        (Fault::NoCopies, "an object cannot be copied: "),
    ];
    for (fault, expected) in steps {
        dir.objects.0.set_fault(Some(fault));
        let problems = try_storage(&settings, "test").await;
        assert_eq!(problems.len(), 1, "{fault:?}: {problems:?}");
        assert!(problems[0].starts_with(expected), "{fault:?}: {problems:?}");
        assert!(!dir.objects.has(""), "nothing is left of it");
    }
    dir.objects.0.set_fault(None);
    dir.objects.0.be_careless();
    let problems = try_storage(&settings, "test").await;
    assert!(problems[0].contains("two servers could overwrite"), "{problems:?}");
}
