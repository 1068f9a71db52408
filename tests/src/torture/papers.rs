//! Rows that have a drawing and a text each, and what happens to them while people edit: they are shared and no longer
//! shared, renamed, deleted so that they come back and deleted for good. The desk keeps the books of all documents; what a
//! statement did whose answer was lost is found out before anything is concluded from it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rowtide_postgres::connect::{ConnectOptions, connect};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::desk::{Books, Desk, Row};
use super::editors::{Editor, End};
use super::view::{Fate, Kind, View};

/// How many rows there are at a time.
const SLOTS: usize = 3;
pub(super) const OWNER: &str = "owner";
const GUESTS: [&str; 2] = ["guest", "other"];

pub(super) const TABLES: &str = "
    CREATE TABLE paper (
      id text PRIMARY KEY, owner text NOT NULL, shared text NOT NULL, is_deleted boolean NOT NULL DEFAULT false,
      name text NOT NULL, edited_at bigint, version bigint NOT NULL DEFAULT 0);
    CREATE INDEX ON paper (owner);
    INSERT INTO paper SELECT n || '-0', 'owner', 'edit', false, 'paper ' || n FROM generate_series(0, 2) AS n;";

/// Whose rows nobody who counts rows sees: when a document was saved is written into them at any time.
pub(super) const DEFINITION: &str = r#"
[tables.paper]
visible = 'owner = auth.user_id'

[documents.drawing]
table = "paper"
protocol = "tlsync"
alive = 'NOT is_deleted'
read = '''owner = auth.user_id OR shared <> 'no' '''
edit = '''owner = auth.user_id OR shared = 'edit' '''
name = "name"
touched = "edited_at"

[documents.note]
table = "paper"
protocol = "yjs"
alive = 'NOT is_deleted'
read = '''owner = auth.user_id OR shared <> 'no' '''
edit = '''owner = auth.user_id OR shared = 'edit' '''
"#;

/// See the module.
pub(super) struct Papers {
    pub(super) desk: Arc<Desk>,
    editors: Vec<Editor>,
    address: String,
}

impl Papers {
    /// Of servers at this address.
    pub(super) fn new(address: String) -> Papers {
        let row = |slot: usize| Row {
            id: format!("{slot}-0"),
            generation: 0,
            version: 0,
            shared: "edit".to_owned(),
            is_deleted: false,
            name: format!("paper {slot}"),
            is_doubtful: false,
            closed_to_guests: None,
            closed_to_all: None,
        };
        let desk = Desk::default();
        desk.books().rows = (0..SLOTS).map(row).collect();
        let mut editors = Vec::new();
        for slot in 0..SLOTS {
            for kind in Kind::ALL {
                for user in [OWNER, GUESTS[0], GUESTS[1]] {
                    editors.push(Editor::new(user, slot, kind, editors.len()));
                }
            }
        }
        Papers { desk: Arc::new(desk), editors, address }
    }

    /// Everybody edits, until `stop`.
    pub(super) fn begin(
        &mut self,
        rng: &mut StdRng,
        url: String,
        stop: &CancellationToken,
    ) -> Storm {
        let mut editing = Vec::new();
        for mut editor in std::mem::take(&mut self.editors) {
            let (desk, stop, address) =
                (Arc::clone(&self.desk), stop.clone(), self.address.clone());
            let rng = StdRng::seed_from_u64(rng.random());
            editing.push(tokio::spawn(async move {
                editor.edit_until(&address, &desk, rng, &stop).await;
                editor
            }));
        }
        let changing = change(url, Arc::clone(&self.desk), rng.random(), stop.clone());
        Storm { editing, changing: tokio::spawn(changing) }
    }

    /// Takes back who edited.
    ///
    /// # Panics
    /// When a task has failed.
    pub(super) async fn end(&mut self, storm: Storm) {
        storm.changing.await.expect("changing rows does not fail");
        for task in storm.editing {
            self.editors.push(task.await.expect("an editor does not fail"));
        }
    }

    /// What was counted and found since it was asked last.
    pub(super) fn take_books(&self) -> (BTreeMap<&'static str, u64>, Vec<String>) {
        let mut books = self.desk.books();
        (std::mem::take(&mut books.counts), std::mem::take(&mut books.findings))
    }

    /// Holds documents against the books, and people against the rows, when everything works again.
    ///
    /// # Panics
    /// When the database does not answer.
    pub(super) async fn look(&mut self, client: &Client, until: Instant) {
        for slot in 0..SLOTS {
            settle(client, &self.desk, slot).await.expect("a row can be asked for");
        }
        let rows = self.desk.books().rows.clone();
        let stop = CancellationToken::new();
        // Whoever has nothing yet gets what the server has.
        for slot in 0..SLOTS {
            for kind in Kind::ALL {
                self.editors.insert(0, Editor::new(OWNER, slot, kind, usize::MAX));
            }
        }
        let gone: Vec<String> = self.desk.books().gone.keys().rev().take(2).cloned().collect();
        let at_gone = gone.iter().zip(Kind::ALL).map(|(document, kind)| {
            let editor = Editor::new(OWNER, 0, kind, usize::MAX);
            (editor, document.clone(), Some("NOT_FOUND"))
        });
        let mut all: Vec<(Editor, String, Option<&str>)> = at_gone.collect();
        for mut editor in std::mem::take(&mut self.editors) {
            let row = &rows[editor.slot];
            let out = match editor.user {
                _ if row.is_deleted => Some("NOT_FOUND"),
                OWNER => None,
                _ if row.shared == "no" => Some("FORBIDDEN"),
                _ => None,
            };
            if row.shared == "view" && editor.user != OWNER && editor.kind == Kind::Note {
                // It has what it wrote, and nobody else does.
                editor.forget();
            }
            all.push((editor, row.id.clone(), out));
        }
        let mut people: Vec<Person> = Vec::new();
        for (mut editor, document, out) in all {
            let is_fresh = editor.is_fresh();
            let (user, slot, kind) = (editor.user, editor.slot, editor.kind);
            let (view, here) = (Arc::clone(&editor.view), Arc::clone(&editor.here));
            let (desk, stop, address) =
                (Arc::clone(&self.desk), stop.clone(), self.address.clone());
            let of = document.clone();
            let task = tokio::spawn(async move {
                let end = editor.stay(&address, &desk, &of, until, &stop).await;
                (editor, end)
            });
            people.push(Person { user, slot, kind, document, out, is_fresh, view, here, task });
        }
        let complaint = loop {
            let complaint = people.iter().find_map(|person| person.complaint(&people, &rows));
            if complaint.is_none() || Instant::now() > until {
                break complaint;
            }
            sleep(Duration::from_millis(50)).await;
        };
        complaint.into_iter().for_each(|complaint| self.desk.found(complaint));
        for person in people.iter().filter(|person| person.is_fresh && person.out.is_none()) {
            self.hold(person);
        }
        self.take_out(client, &people, until).await;
        stop.cancel();
        for person in people {
            let (editor, end) = person.task.await.expect("an editor does not fail");
            if let (Some(expected), End::SentAway(reason)) = (person.out, &end)
                && reason != expected
            {
                let (user, document) = (person.user, &person.document);
                self.desk.found(format!(
                    "{user} is kept out of {document} with {reason}, not {expected}"
                ));
            }
            if !person.is_fresh {
                self.editors.push(editor);
            }
        }
    }

    /// Holds what the server has against the books.
    fn hold(&self, person: &Person) {
        let there = locked(&person.view).marks();
        let mut books = self.desk.books();
        let Books { fates, findings, .. } = &mut *books;
        let (kind, document) = (person.kind, &person.document);
        let fates = fates.entry((kind, document.clone())).or_default();
        let mut found = |mark: &str, wrong: &str| {
            findings.push(format!("{mark} of {kind:?} {document} {wrong}"));
        };
        for (mark, fate) in &*fates {
            let is_there = there.contains(mark);
            match fate {
                Fate::Saved if !is_there => found(mark, "was saved and is not there"),
                Fate::Refused if is_there => found(mark, "was refused and is there"),
                Fate::TakenBack if is_there => found(mark, "was taken back and is there"),
                _ => {}
            }
        }
        for mark in &there {
            if !fates.contains_key(mark) {
                found(mark, "is there and was never made");
            }
        }
    }

    /// A row is no longer shared: guests who are there are sent away.
    async fn take_out(&self, client: &Client, people: &[Person], until: Instant) {
        let is_guest = |person: &&Person| person.user != OWNER && person.out.is_none();
        let Some(slot) = people.iter().find(is_guest).map(|person| person.slot) else { return };
        let id = self.desk.document(slot);
        let sql = "UPDATE paper SET shared = 'no', version = version + 1 WHERE id = $1";
        client.execute(sql, &[&id]).await.expect("a row can be changed");
        settle(client, &self.desk, slot).await.expect("a row can be asked for");
        for guest in people.iter().filter(is_guest).filter(|person| person.slot == slot) {
            while !guest.task.is_finished() {
                if Instant::now() > until {
                    let (user, kind) = (guest.user, guest.kind);
                    self.desk.found(format!(
                        "{user} stays in {kind:?} {id}, which is not shared any more"
                    ));
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// What goes on in a storm.
pub(super) struct Storm {
    editing: Vec<JoinHandle<Editor>>,
    changing: JoinHandle<()>,
}

/// Somebody who is looked at.
struct Person {
    user: &'static str,
    slot: usize,
    kind: Kind,
    document: String,
    /// The reason with which they are to be kept out.
    out: Option<&'static str>,
    is_fresh: bool,
    view: Arc<Mutex<View>>,
    here: Arc<AtomicBool>,
    task: JoinHandle<(Editor, End)>,
}

impl Person {
    /// What is not as it should be.
    fn complaint(&self, people: &[Person], rows: &[Row]) -> Option<String> {
        let Person { user, kind, document, .. } = self;
        if self.out.is_some() {
            let waits = format!("{user} is not kept out of {kind:?} {document}");
            return (!self.task.is_finished()).then_some(waits);
        }
        if self.task.is_finished() || !self.here.load(Ordering::Relaxed) {
            return Some(format!("{user} is not in {kind:?} {document}"));
        }
        let of_server = people
            .iter()
            .find(|other| other.is_fresh && other.kind == *kind && other.document == *document)?;
        let server_has = locked(&of_server.view).content();
        let view = locked(&self.view);
        let has = view.content();
        if has != server_has {
            let mut text = format!("{user} has another {kind:?} {document} than the server:");
            for (whose, one, other) in [("alone", &has, &server_has), ("lacks", &server_has, &has)]
            {
                let only: Vec<&String> = one.iter().filter(|part| !other.contains(part)).collect();
                text += &format!(" {whose} {only:?}");
            }
            return Some(text);
        }
        let name = view.name()?;
        let expected = &rows[self.slot].name;
        (name != *expected).then(|| format!("{document} is called {name}, and its row {expected}"))
    }
}

/// Finds out what a row is, and voids statements on the way.
async fn settle(client: &Client, desk: &Desk, slot: usize) -> Result<(), tokio_postgres::Error> {
    let sql = "UPDATE paper SET version = version + 1 WHERE id IN ($1, $2) \
               RETURNING id, version, shared, is_deleted, name";
    let (id, next) = {
        let books = desk.books();
        let Row { id, generation, .. } = &books.rows[slot];
        (id.clone(), format!("{slot}-{}", generation + 1))
    };
    let found = client.query_one(sql, &[&id, &next]).await?;
    let now = Instant::now();
    let mut books = desk.books();
    let row = &mut books.rows[slot];
    (row.version, row.shared, row.is_deleted) = (found.get(1), found.get(2), found.get(3));
    row.name = found.get(4);
    row.is_doubtful = false;
    let now_if = |closed: bool, since: Option<Instant>| closed.then(|| since.unwrap_or(now));
    row.closed_to_guests = now_if(row.shared == "no", row.closed_to_guests);
    row.closed_to_all = now_if(row.is_deleted, row.closed_to_all);
    if found.get::<_, String>(0) == next {
        row.generation += 1;
        let gone = std::mem::replace(&mut row.id, next);
        row.closed_to_guests = None;
        row.closed_to_all = None;
        books.gone.insert(gone, now);
    }
    Ok(())
}

/// Changes rows at random moments, with a new connection when the old one is lost.
async fn change(url: String, desk: Arc<Desk>, seed: u64, stop: CancellationToken) {
    let mut rng = StdRng::seed_from_u64(seed);
    let options = ConnectOptions::parse(&url).expect("the URL of a cluster can be read");
    while !stop.is_cancelled() {
        let Ok(client) = connect(&options, "papers").await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        while !stop.is_cancelled() && !client.is_closed() {
            sleep(Duration::from_millis(rng.random_range(50..600))).await;
            let slot = rng.random_range(0..SLOTS);
            let row = desk.books().rows[slot].clone();
            let done = if row.is_doubtful {
                settle(&client, &desk, slot).await
            } else {
                change_one(&client, &desk, slot, row, &mut rng).await
            };
            if done.is_err() {
                desk.count("lost statements");
                break;
            }
        }
    }
}

async fn change_one(
    client: &Client,
    desk: &Desk,
    slot: usize,
    row: Row,
    rng: &mut StdRng,
) -> Result<(), tokio_postgres::Error> {
    let (what, set) = match rng.random_range(0..12) {
        0..3 => ("no longer shared", "shared = 'no'".to_owned()),
        3 => ("shared to look at", "shared = 'view'".to_owned()),
        4..7 => ("shared", "shared = 'edit'".to_owned()),
        7 => ("deleted for now", "is_deleted = true".to_owned()),
        8..10 => ("given back", "is_deleted = false".to_owned()),
        10 => ("renamed", format!("name = 'paper {slot} {}'", rng.random::<u16>())),
        _ => ("deleted for good", String::new()),
    };
    {
        // From now on it may be so, whether that is told or not.
        let mut books = desk.books();
        let row = &mut books.rows[slot];
        row.is_doubtful = true;
        if what.starts_with("shared") {
            row.closed_to_guests = None;
        }
        if what == "given back" {
            row.closed_to_all = None;
        }
    }
    let Row { id, version, generation, .. } = row;
    let sql = if set.is_empty() {
        format!(
            "WITH gone AS (DELETE FROM paper WHERE id = '{id}' AND version = {version} RETURNING 1) \
             INSERT INTO paper SELECT '{slot}-{}', 'owner', 'edit', false, 'paper {slot}' FROM gone",
            generation + 1
        )
    } else {
        format!(
            "UPDATE paper SET {set}, version = version + 1 WHERE id = '{id}' AND version = {version}"
        )
    };
    match timeout(Duration::from_secs(20), client.execute(&sql, &[])).await {
        Ok(Ok(_)) => {
            desk.count(what);
            settle(client, desk, slot).await
        }
        Ok(Err(error)) => Err(error),
        // Whatever becomes of it, it is found out over the next connection.
        Err(_) => Ok(()),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
