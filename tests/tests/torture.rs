//! Nothing is lost, doubled or stuck, whatever fails: see [`rowtide_tests::torture`]. A short run; `make
//! torture` makes a long one. `ROWTIDE_SEED` repeats what a run did, `ROWTIDE_TORTURE_SECONDS` says how
//! long it takes.

use std::path::Path;
use std::time::Duration;

use rowtide_tests::torture::{torture, with_clients};

/// How long a run takes if nobody says otherwise, in seconds: two rounds.
const SECONDS: u64 = 20;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: {text}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_stuck_whatever_fails() {
    let seed = setting("ROWTIDE_SEED").unwrap_or_else(rand::random);
    let seconds = setting("ROWTIDE_TORTURE_SECONDS").unwrap_or(SECONDS);
    println!("ROWTIDE_SEED={seed}");
    let report = torture(seed, Duration::from_secs(seconds)).await;
    assert!(report.findings.is_empty(), "ROWTIDE_SEED={seed}: {:#?}", report.findings);
    // A run in which nothing was tried shows nothing.
    assert!(report.outcomes["confirmed"] > 0 && report.faults.len() > 3, "{report}");
    assert!(report.documents["edits saved"] > 0 && report.documents["sent away"] > 0, "{report}");
}

/// Clients of Yjs and of two versions of tldraw's protocol, as `scripts/real-clients.sh` has installed them, in a deployment
/// whose sockets are cut and whose servers are killed and stopped. Without it there is nothing to run.
#[tokio::test(flavor = "multi_thread")]
async fn real_clients_lose_nothing_and_come_to_have_the_same() {
    let Ok(clients) = std::env::var("ROWTIDE_REAL_CLIENTS") else { return };
    for kind in ["yjs", "tldraw-3.11.0", "tldraw-5.4.2"] {
        let came = with_clients(&Path::new(&clients).join(kind)).await;
        let came = came.unwrap_or_else(|why| panic!("{kind}: {why}"));
        println!("{kind}: {came}");
    }
}
