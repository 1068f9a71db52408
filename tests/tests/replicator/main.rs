//! The replicator against a real Postgres: what one who follows the feed is told, and how it takes its place.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test")]

mod drift;
mod kit;
mod published;
mod unseen;

use rowtide_feed::ReplicatorStatus;
use rowtide_tests::eventually;
use rowtide_tests::proxy::Proxy;

use crate::kit::{Mirror, Site};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_published_and_the_epoch_goes_on_after_a_restart() {
    let site = Site::new().await;
    site.run("INSERT INTO note VALUES (1, 'before')").await;
    let running = site.start().await;
    let first = running.streaming().await;
    let mut mirror = Mirror::new(&site, &running).await;
    site.run("INSERT INTO note VALUES (2, 'a'), (3, 'b'); UPDATE note SET body = 'c' WHERE id = 2")
        .await;
    mirror.holds_what_is_there("note").await;
    site.run("DELETE FROM note WHERE id = 1; TRUNCATE other; INSERT INTO other VALUES (1)").await;
    mirror.holds_what_is_there("note").await;
    mirror.holds_what_is_there("other").await;
    running.stop().await;
    site.run("INSERT INTO note VALUES (4, 'meanwhile')").await;
    let running = site.start().await;
    let second = running.streaming().await;
    assert_eq!(first.epoch, second.epoch);
    let mut mirror = Mirror::new(&site, &running).await;
    mirror.holds_what_is_there("note").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_durable_is_confirmed_also_if_nobody_follows() {
    let site = Site::new().await;
    let running = site.start().await;
    running.streaming().await;
    let written = "INSERT INTO note VALUES (1, 'a') RETURNING pg_current_wal_lsn()::text";
    let written = site.one(written).await.unwrap();
    let slot = site.database.names().slot;
    let confirmed = format!(
        "SELECT (confirmed_flush_lsn > '{written}')::text FROM pg_replication_slots \
         WHERE slot_name = '{slot}'"
    );
    eventually("it is confirmed", || async {
        (site.one(&confirmed).await.as_deref() == Some("true")).then_some(())
    })
    .await;
    assert!(running.handle.log_statistics().unwrap().end.0 > 0);
    running.stop().await;
}

/// A disk that does not answer cannot be had here; one that has nothing can: whoever asked it would be told so.
#[tokio::test(flavor = "multi_thread")]
async fn how_large_the_log_is_is_told_without_asking_the_disk() {
    let site = Site::new().await;
    let running = site.start().await;
    running.streaming().await;
    let mut mirror = Mirror::new(&site, &running).await;
    site.run("INSERT INTO note VALUES (1, 'a')").await;
    mirror.holds_what_is_there("note").await;
    let before = running.handle.log_statistics().unwrap();
    assert!(before.bytes > 0 && before.end >= before.oldest, "{before:?}");
    for file in std::fs::read_dir(site.log.path()).unwrap() {
        // The writer may have taken one of its own away by now.
        drop(std::fs::remove_file(file.unwrap().path()));
    }
    let after = running.handle.log_statistics().unwrap();
    assert!(after.bytes > 0 && after.oldest == before.oldest, "{after:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_stands_by_and_takes_the_place_with_the_same_epoch() {
    let site = Site::new().await;
    let first = site.start().await;
    let epoch = first.streaming().await.epoch;
    let second = site.start().await;
    let standby = |status: &ReplicatorStatus| matches!(status, ReplicatorStatus::Standby(_));
    second.until("it stands by", |state| standby(&state.status).then_some(())).await;
    assert!(second.feed.state().generation.is_none());
    first.stop().await;
    assert_eq!(second.streaming().await.epoch, epoch);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_without_a_slot_and_begins_an_epoch_when_that_is_dropped_later() {
    let site = Site::new().await;
    site.drop_slot().await;
    let running = site.start().await;
    let first = running.streaming().await;
    let mut mirror = Mirror::new(&site, &running).await;
    site.run("INSERT INTO note VALUES (1, 'a')").await;
    mirror.holds_what_is_there("note").await;
    site.drop_slot().await;
    site.run("UPDATE note SET body = 'meanwhile'").await;
    running.streaming_after(&first).await;
    mirror.holds_what_is_there("note").await;
    assert_ne!(mirror.generation().unwrap().epoch, first.epoch);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_while_postgres_is_away() {
    let site = Site::new().await;
    let network = Proxy::start(site.database.upstream().await).await;
    network.refuse(true);
    let running = site.start_at(site.database.options_through(&network));
    let waiting = |status: &ReplicatorStatus| matches!(status, ReplicatorStatus::Waiting(_));
    running.until("it waits", |state| waiting(&state.status).then_some(())).await;
    network.heal();
    running.streaming().await;
    running.stop().await;
}
