//! Three tabs of one person with the older client, and everything that happens to servers and networks: deploys, kills,
//! tokens that last for seconds, sockets that are dropped or left behind. Every tab ends with the rows that SQL says, and
//! is told what became of everything that a server has taken; what never reached one is lost with these clients, and is
//! counted. `ROWTIDE_SEED` repeats a run, `ROWTIDE_OLDER_ACTIONS` makes it longer.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rowtide_tests::small::{FILES, SMALL_FILES, files_tables};
use rowtide_tests::{Dir, Fleet, Node, Tab, TabTally, eventually, truth};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_postgres::Client;

/// How many things are done if nobody says otherwise.
const ACTIONS: u64 = 1_000;
const USER: &str = "owner";

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn update(table: &str, event: &str, row: Value) -> Value {
    json!({ "table": table, "event": event, "row": row })
}

/// What a person does with the files that a tab shows. Names and states bear a number that is used once.
struct Person {
    rng: StdRng,
    made: u64,
}

impl Person {
    fn act(&mut self, tab: &Tab) {
        let files = tab.rows("file");
        let files: Vec<Value> =
            files.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
        let files: Vec<&str> = files.iter().filter_map(|file| file["id"].as_str()).collect();
        if !files.is_empty() {
            tab.act(self.updates(&files));
        }
    }

    fn updates(&mut self, files: &[&str]) -> Vec<Value> {
        self.made += 1;
        let made = self.made;
        let file = files[self.rng.random_range(0..files.len())];
        let state = |more: Value| {
            let mut row = json!({ "userId": USER, "fileId": file });
            row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            row
        };
        match self.rng.random_range(0..60) {
            0..25 => {
                let name = format!("name {made}");
                vec![update(
                    "file",
                    "update",
                    json!({ "id": file, "name": name, "updatedAt": made }),
                )]
            }
            25..40 => {
                let more = json!({ "lastSessionState": format!("state {made}") });
                vec![update("file_state", "update", state(more))]
            }
            // The adapter leaves the derived column out, and the time of another tab.
            40..46 => {
                let more = json!({ "firstVisitAt": made, "isFileOwner": true });
                vec![update("file_state", "insert", state(more))]
            }
            46..51 => {
                let id = format!("new{made}");
                let row = json!({
                    "id": id, "name": format!("name {made}"), "ownerId": USER, "ownerName": "",
                    "ownerAvatar": "", "thumbnail": "", "shared": false, "sharedLinkType": "view",
                    "published": false, "lastPublished": 0, "publishedSlug": id, "createdAt": made,
                    "updatedAt": made, "isEmpty": true, "isDeleted": false, "createSource": null,
                });
                let state = json!({ "userId": USER, "fileId": id, "firstVisitAt": made });
                vec![update("file", "insert", row), update("file_state", "insert", state)]
            }
            51..54 if files.len() > 6 => {
                vec![
                    update("file", "delete", json!({ "id": file })),
                    update("file_state", "delete", json!({ "userId": USER, "fileId": file })),
                ]
            }
            // It is rejected, with all that is done in the same 50 ms.
            54 => {
                let row = json!({ "id": format!("stolen{made}"), "ownerId": "editor" });
                vec![update("file", "insert", row)]
            }
            _ => vec![update("user", "update", json!({ "id": USER, "name": format!("I {made}") }))],
        }
    }
}

/// Ends in this order.
struct Deployment {
    fleet: Fleet,
    sql: Client,
    node: Node,
    _dir: Dir,
}

impl Deployment {
    async fn start() -> Deployment {
        let dir = Dir::new();
        let node = Node::start(&dir, "postgres").await;
        let tables = format!("{}\n{SMALL_FILES}", files_tables());
        let mut fleet = Fleet::prepare(&dir, &node, FILES, &tables).await;
        fleet.add();
        fleet.ready().await;
        let sql = node.connect(Fleet::DATABASE).await;
        Deployment { fleet, sql, node, _dir: dir }
    }

    /// Something happens to a server or to the network.
    async fn harm(&mut self, rng: &mut StdRng, tabs: &[Tab]) -> &'static str {
        let tab = &tabs[rng.random_range(0..tabs.len())];
        match rng.random_range(0..10) {
            0..3 => {
                assert_eq!(self.fleet.members[0].stop().await, Some(0), "it stops in order");
                self.fleet.start(0);
                "deploys"
            }
            3..5 => {
                self.fleet.members[0].kill().await;
                self.fleet.start(0);
                "kills"
            }
            5 => {
                self.fleet.front.cut();
                "cut networks"
            }
            6 => {
                self.node.crash().await;
                "crashes of Postgres"
            }
            7 => {
                tab.lose_connection(false);
                "sockets left behind"
            }
            _ => {
                tab.lose_connection(true);
                "dropped sockets"
            }
        }
    }

    /// What the database knows of the names: whether each was applied, or its code.
    async fn names(&self) -> BTreeMap<String, Option<String>> {
        let sql = "SELECT name, refused -> 0 ->> 'code' FROM rowtide_fleet.named_mutation";
        let rows = self.sql.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_tab_ends_with_what_sql_says_and_is_told_of_all_that_was_taken() {
    let seed = setting("ROWTIDE_SEED").unwrap_or_else(rand::random);
    let actions = setting("ROWTIDE_OLDER_ACTIONS").unwrap_or(ACTIONS);
    println!("ROWTIDE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut deployment = Deployment::start().await;
    let address = deployment.fleet.front.address().to_string();
    let tabs: Vec<Tab> =
        (0..3).map(|number| Tab::open(&*address, USER, &format!("tab{number}"))).collect();
    for tab in &tabs {
        eventually("the tab has its rows", || async { tab.is_live().then_some(()) }).await;
    }
    let mut person = Person { rng: StdRng::seed_from_u64(rng.random()), made: 0 };
    let mut harms: BTreeMap<&str, u64> = BTreeMap::new();
    let mut next_harm = 60;
    for action in 0..actions {
        person.act(&tabs[rng.random_range(0..tabs.len())]);
        // As fast as a quick person, in three tabs at once: a pace of the test's own, not a wait for something.
        sleep(Duration::from_millis(rng.random_range(0..24))).await;
        if action == next_harm {
            *harms.entry(deployment.harm(&mut rng, &tabs).await).or_default() += 1;
            next_harm += rng.random_range(40..140);
        }
    }
    deployment.fleet.revive();
    deployment.fleet.ready().await;
    deployment.sql = deployment.node.connect(Fleet::DATABASE).await;
    for tab in &tabs {
        comes_to_rest(tab).await;
    }
    let lost = deployment.whole(&tabs).await;
    let tally: Vec<TabTally> = tabs.iter().map(Tab::tally).collect();
    println!("{harms:?}\n{tally:#?}\nnever reached a server that applied it: {lost:?}");
    assert!(harms.values().sum::<u64>() > 5, "a run in which nothing was tried shows nothing");
    let applied: usize = tally.iter().map(|tally| tally.applied).sum();
    assert!(applied > 50 && tally.iter().all(|tally| tally.connections > 1));
}

/// Waits until the tab is told of something that it does now: whatever it sent before has been taken by then, or is lost.
async fn comes_to_rest(tab: &Tab) {
    let before = tab.tally().applied;
    let at_rest = json!({ "id": USER, "name": "at rest" });
    eventually("the tab is told of what it sends", || async {
        if tab.tally().applied > before && tab.is_live() {
            return Some(());
        }
        if tab.is_live() {
            tab.act(vec![update("user", "update", at_rest.clone())]);
        }
        sleep(Duration::from_millis(100)).await;
        None
    })
    .await;
}

impl Deployment {
    /// Fails unless every tab holds what SQL says, was told the truth, and waits for nothing that a server has taken.
    /// Returns how many mutations of each are lost.
    async fn whole(&self, tabs: &[Tab]) -> Vec<usize> {
        for tab in tabs {
            let untold = async || {
                let names = self.names().await;
                let pending = tab.pending().into_iter();
                pending.filter(|name| names.contains_key(name)).collect::<Vec<_>>()
            };
            eventually("the tab is told of all that was taken", || async {
                untold().await.is_empty().then_some(())
            })
            .await;
            eventually("the tab holds what SQL says", || async {
                let expected = truth(&self.sql, FILES, USER).await;
                let holds = expected.iter().all(|(table, rows)| tab.rows(table) == *rows);
                holds.then_some(())
            })
            .await;
        }
        let names = self.names().await;
        let mut lost = Vec::new();
        for tab in tabs {
            assert_eq!(tab.wrong(), [""; 0]);
            // The oldest of those that were told are not known any more.
            for (name, told) in tab.told() {
                let is = names.get(&name);
                assert!(
                    is.is_none_or(|is| *is == told_as(told.as_deref(), is.as_deref())),
                    "{name}"
                );
            }
            lost.push(tab.pending().len());
        }
        lost
    }
}

/// What the database must say of a mutation that was told so, where it says `is`.
fn told_as(told: Option<&str>, is: Option<&str>) -> Option<String> {
    match (told, is) {
        (Some("bad_request"), Some(code @ ("not_found" | "constraint"))) => Some(code.to_owned()),
        (told, _) => told.map(str::to_owned),
    }
}
