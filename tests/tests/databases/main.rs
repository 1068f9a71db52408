//! Random databases and random lives of them, against a real Postgres: tables of every type with odd names, keys,
//! defaults, generated columns, partitions and triggers; writes in all their forms and DDL in all its forms, also by
//! transactions that are open meanwhile or prepared; settings and rights of roles. The server is a superuser's or one of a role
//! that may stream and read alone. Clients of one user look on: one that streams, some that come back with a cursor, often
//! and seldom, and one that comes anew. After every
//! step all three hold what SQL says, or a table is rejected by its name; nothing is ever wrong in silence. In the end
//! everything is mended, and then everything is served.
//!
//! `ROWTIDE_DATABASES` sets how many lives are lived, `ROWTIDE_FIRST_SEED` which is the first, `ROWTIDE_AT_ONCE` how many go
//! on at once; `ROWTIDE_SEED` repeats one and prints what it does.

mod clients;
mod ddl;
mod schema;
mod seen;
mod world;
mod writes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use crate::seen::Seen;
use crate::world::World;

/// How many lives go on at once: they mostly wait.
const AT_ONCE: u64 = 16;
/// How many steps a life has.
const STEPS: usize = 10;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("it is a number"))
}

async fn live(seed: u64, told: bool) -> Seen {
    let mut world = World::begin(seed, told).await;
    world.check().await;
    for _ in 0..STEPS {
        world.step().await;
        world.check().await;
    }
    world.mend().await;
    world.check_all().await;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_database_lives_through_clients_hold_what_it_holds() {
    if let Some(seed) = number("ROWTIDE_SEED") {
        live(seed, true).await;
        return;
    }
    let lives = number("ROWTIDE_DATABASES").unwrap_or(200);
    let first = number("ROWTIDE_FIRST_SEED").unwrap_or(0);
    let at_once = number("ROWTIDE_AT_ONCE").unwrap_or(AT_ONCE);
    let next = Arc::new(AtomicU64::new(0));
    let mut living = JoinSet::new();
    for _ in 0..at_once.min(lives) {
        let next = Arc::clone(&next);
        living.spawn(async move {
            let (mut seen, mut failed) = (Seen::default(), Vec::new());
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= lives {
                    return (seen, failed);
                }
                let seed = first + seed;
                match tokio::spawn(live(seed, false)).await {
                    Ok(more) => seen.add(more),
                    Err(error) => failed.push(format!("ROWTIDE_SEED={seed}: {error}")),
                }
            }
        });
    }
    let (mut seen, mut failed) = (Seen::default(), Vec::new());
    while let Some(ended) = living.join_next().await {
        let (more, mut others) = ended.expect("it only waits for lives");
        seen.add(more);
        failed.append(&mut others);
    }
    println!("{seen}");
    assert!(failed.is_empty(), "{} lives fail\n{}", failed.len(), failed.join("\n"));
    if lives >= 200 {
        seen.assert_all();
    }
}
