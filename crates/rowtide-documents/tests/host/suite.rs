//! What a host does whatever its storage is: whatever was told is there afterwards, and one document's trouble is no
//! other's.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use rowtide_documents::host::{
    DocumentError, DocumentId, Host, HostLimits, Joined, Outgoing, PublishError,
};
use rowtide_documents::place::{Access, Closing, Frame, Reason, Socket};
use rowtide_documents::yjs::YjsLimits;
use yrs::updates::decoder::Decode;
use yrs::{GetString, Transact, Update};

use crate::kit::{
    DEADLINE, Dir, Peer, file, kinds, never_saving, new_doc, note, quick, records, settings, start,
    text_of, until,
};

#[tokio::test]
async fn an_edit_is_durable_before_anybody_hears_of_it() {
    let dir = Dir::new().await;
    let host = start(&dir, never_saving()).await;
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    let mut written = String::new();
    for more in ["one ", "two ", "three "] {
        writer.write(more).await;
        written.push_str(more);
        reader.hear_text(&written).await;
        let after_crash = dir.crash().await;
        let host = start(&after_crash, never_saving()).await;
        text_of(&host, &note("a"), &written).await;
    }
    assert!(!dir.objects.has("test"), "nothing was saved yet");
}

#[tokio::test]
async fn a_room_sleeps_when_it_is_empty_and_saved() {
    let dir = Dir::new().await;
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
    assert!(dir.objects.has("test/documents/note/a%2Fb%25c %C3%BC/current"));
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

#[tokio::test]
async fn an_earlier_state_is_put_in_place_of_what_cannot_be_opened() {
    let dir = Dir::new().await;
    let host = start(&dir, quick()).await;
    for (document, good) in [(note("a"), "good "), (file("f"), "page:page")] {
        let peer = Peer::join(&host, &note("a"), Access::Edit).await;
        peer.write("good ").await;
        drop(peer);
        host.rename(&document, "good").await.ok();
        host.begin_empty(&document).await.unwrap();
        until("sleep", async || host.health().rooms_awake == 0).await;
        let times = host.history(&document).await.unwrap();
        let key = format!("test/documents/{}/{}/current", document.kind(), document.id());
        dir.objects.put(&key, b"rubbish");
        let opened = host.join(&document, "tab", Access::Read).await;
        assert!(matches!(opened, Err(DocumentError::Unopened)));
        host.restore(&document, &times[0]).await.unwrap();
        assert!(host.health().unopened.is_empty());
        let snapshot = host.snapshot(&document).await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&snapshot).contains(good.trim()));
        // What it was is kept, and cannot be gone back to.
        let times = host.history(&document).await.unwrap();
        let mut rubbish = None;
        for time in &times {
            let earlier = host.earlier(&document, time).await.unwrap();
            rubbish = rubbish.or(earlier.filter(|state| &**state == b"rubbish").map(|_| time));
        }
        let error = host.restore(&document, rubbish.unwrap()).await.unwrap_err();
        assert!(matches!(error, DocumentError::Unrestorable(_)), "{error}");
    }
}

#[tokio::test]
async fn edits_of_what_cannot_be_opened_are_kept_aside_when_it_is_put_back() {
    let dir = Dir::new().await;
    let host = start(&dir, quick()).await;
    let peer = Peer::join(&host, &note("a"), Access::Edit).await;
    peer.write("good ").await;
    host.save(&note("a")).await.unwrap();
    drop(peer);
    host.shutdown(DEADLINE).await;
    let host = start(&dir, never_saving()).await;
    let mut peer = Peer::join(&host, &note("a"), Access::Edit).await;
    peer.hear_text("good ").await;
    peer.write("more ").await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    reader.hear_text("good more ").await;
    let after_crash = dir.crash().await;
    after_crash.objects.put("test/documents/note/a/current", b"rubbish");
    let host = start(&after_crash, quick()).await;
    let times = host.history(&note("a")).await.unwrap();
    host.restore(&note("a"), &times[0]).await.unwrap();
    assert!(after_crash.objects.has("test/documents/note/a/unmerged"));
    text_of(&host, &note("a"), "good ").await;
    host.shutdown(DEADLINE).await;
    text_of(&start(&after_crash, quick()).await, &note("a"), "good ").await;
}

#[tokio::test]
async fn edits_go_on_while_the_storage_fails_and_are_saved_when_it_is_back() {
    let dir = Dir::new().await;
    let host = start(&dir, quick()).await;
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    reader.hear().await;
    dir.objects.fail();
    writer.write("one ").await;
    reader.hear_text("one ").await;
    until("a failure", async || host.health().saves_failing.contains_key(&note("a"))).await;
    assert!(matches!(host.save(&note("a")).await, Err(DocumentError::Unsaved)));
    writer.write("two ").await;
    reader.hear_text("one two ").await;
    assert!(host.health().unsaved_bytes > 0);
    dir.objects.heal();
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
    let dir = Dir::new().await;
    let host = start(&dir, HostLimits { unsaved_bytes: 2_000, ..quick() }).await;
    let mut writer = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    writer.hear_until("step 1 and 2", |_| true).await;
    dir.objects.fail();
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
    dir.objects.heal();
    // What was written meanwhile is asked for, and nothing is lost.
    let all = writer.text();
    reader.hear_text_while(&all, &mut writer).await;
}

#[tokio::test]
async fn a_deleted_document_is_gone_for_good() {
    let dir = Dir::new().await;
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
    assert!(!dir.objects.has("test/documents/note/a/current"));
    // Again does no harm.
    host.delete(&note("a")).await.unwrap();
    drop((writer, reader));
    text_of(&host, &note("ab"), "stays").await;

    // Nothing of it comes back, after a crash neither.
    let after_crash = dir.crash().await;
    let second = start(&after_crash, quick()).await;
    assert!(second.snapshot(&note("a")).await.unwrap().is_none());
    host.revive(&note("a"));
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    writer.write("new").await;
    text_of(&host, &note("a"), "new").await;
}

#[tokio::test]
async fn who_leaves_at_once_has_said_what_it_said() {
    let dir = Dir::new().await;
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
    let dir = Dir::new().await;
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
    let after_crash = dir.crash().await;
    text_of(&start(&after_crash, never_saving()).await, &note("a"), "first!").await;
}

#[tokio::test]
async fn a_document_can_begin_as_another_and_be_published() {
    let dir = Dir::new().await;
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
    let after_crash = dir.crash().await;
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
    let dir = Dir::new().await;
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
    let dir = Dir::new().await;
    for time in ["2020-01-01T00:00:00.000Z", "2020-01-01T00:01:00.000Z"] {
        dir.objects.put(&format!("test/documents/note/a/history/{time}"), &[0, 0]);
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
    let dir = Dir::new().await;
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
    let dir = Dir::new().await;
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
    let dir = Dir::new().await;
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
    let dir = Dir::new().await;
    let host = start(&dir, never_saving()).await;
    let writer = Peer::join(&host, &note("a"), Access::Edit).await;
    let mut reader = Peer::join(&host, &note("a"), Access::Read).await;
    writer.write("kept").await;
    reader.hear_text("kept").await;
    let after_crash = dir.crash().await;
    let second = start(&after_crash, quick()).await;
    let saved = tokio::time::timeout(DEADLINE, second.next_saved()).await.unwrap();
    assert_eq!(saved.document, note("a"));
    until("sleep", async || second.health().rooms_awake == 0).await;
    assert_eq!(second.health().unsaved_bytes, 0);
    assert!(after_crash.objects.has("test/documents/note/a/current"));
}

#[tokio::test]
async fn a_shutdown_saves_everything() {
    let dir = Dir::new().await;
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
        assert!(dir.objects.has(&format!("test/documents/note/{id}/current")));
    }
    // Storage and journal are free for the next one, whoever still has this one.
    let second = start(&dir, never_saving()).await;
    assert!(matches!(host.save(&note("7")).await, Err(DocumentError::Stopping)));
    let host = second;
    text_of(&host, &note("7"), "kept").await;
    // A storage that is away does not hold it up.
    let mut peer = Peer::join(&host, &note("7"), Access::Edit).await;
    peer.hear_text("kept").await;
    peer.write("!").await;
    // What somebody has heard of is in the journal.
    text_of(&host, &note("7"), "kept!").await;
    dir.objects.fail();
    assert_eq!(host.shutdown(Duration::from_millis(200)).await, 1);
    dir.objects.heal();
    let host = start(&dir, quick()).await;
    let mut reader = Peer::join(&host, &note("7"), Access::Read).await;
    reader.hear_until("both", |reader| reader.text().contains('!')).await;
}

#[tokio::test]
async fn a_damaged_document_is_told_of_and_no_other_is_concerned() {
    let dir = Dir::new().await;
    let key = "test/documents/note/a/current";
    dir.objects.put(key, b"rubbish");
    let host = start(&dir, quick()).await;
    let error = host.join(&note("a"), "s", Access::Edit).await.unwrap_err();
    assert!(matches!(error, DocumentError::Unopened));
    assert!(host.health().unopened.contains_key(&note("a")));
    let writer = Peer::join(&host, &note("b"), Access::Edit).await;
    writer.write("fine").await;
    text_of(&host, &note("b"), "fine").await;
    assert_eq!(dir.objects.get(key).unwrap(), b"rubbish");
    // Once it is mended it can be opened.
    dir.objects.put(key, &[0, 0]);
    Peer::join(&host, &note("a"), Access::Edit).await;
    assert!(host.health().unopened.is_empty());
}

#[tokio::test]
async fn a_document_of_tldraw_is_renamed_and_restored() {
    let dir = Dir::new().await;
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
