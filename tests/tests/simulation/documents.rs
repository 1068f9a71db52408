//! A document of a row, simulated: the rooms and the decision about who may be there are the real ones; Postgres, the
//! disk, the network and the host around a room are made up, and everything that goes wrong with them comes from one seed.
//! An edit that its author was told is saved, or that another was shown, is there whatever happens after; everyone who may
//! be there comes to have one document; nobody is let in, or stays, whom the row has kept out.

mod house;
mod journal;
mod people;
mod rows;
mod serving;
mod street;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rowtide_access::watching::{MemberId, WatchEffect};
use rowtide_documents::host::DocumentId;
use rowtide_documents::place::{Access, Frame};
use rowtide_engine::TransactionSnapshot;
use rowtide_plan::documents::Standing;
use rowtide_postgres::standings::StandingAnswer;

use self::house::House;
use self::journal::Shelf;
use self::people::Person;
use self::rows::{Rows, State};
use crate::breaks::Break;
use crate::checks::Seen;

/// For how long it may be unknown what somebody may do who is there, and what a change needs on its way.
const OUT_WITHIN_MS: u64 = 45_000;
/// Everything works again, and this is enough for everyone to come to rest.
const RECOVERY_MS: u64 = 60_000;
/// More than happens in any of them.
const MANY: u64 = 200_000;

#[derive(Debug)]
enum Event {
    // Postgres
    Write,
    Show(usize),
    Stream(u64),
    Look(u64),
    Answer(u64, State, TransactionSnapshot),
    // The server
    Start,
    Flush(u64),
    Save(u64),
    Saved(u64, u64, Bytes, u64),
    Tick(u64),
    Watch(u64),
    Opened(u64, MemberId),
    // People
    Connect(usize),
    Edit(usize),
    Ping(usize, u64),
    ToServer(u64, Option<Frame>),
    ToPerson(u64, Option<Frame>),
    // Faults
    Fault,
}

/// What became of an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unknown,
    Saved,
    Refused,
    /// The row was deleted, and what was in the document went with it.
    Deleted,
}

/// A connection: whose it is, and until when each way is taken.
struct Line {
    person: usize,
    life: u64,
    to_server_ms: u64,
    to_person_ms: u64,
}

/// See the module.
pub struct Papers {
    now_ms: u64,
    queue: BTreeMap<(u64, u64), Event>,
    events: u64,
    is_drawing: bool,
    document: DocumentId,
    rows: Rows,
    shelf: Shelf,
    house: House,
    people: Vec<Person>,
    lines: BTreeMap<u64, Line>,
    next_line: u64,
    fates: BTreeMap<String, Fate>,
    is_stormy: bool,
    postgres_silent_until_ms: u64,
    disk_slow_until_ms: u64,
    seen: Seen,
    told: bool,
    broken: Option<Break>,
    rng: SmallRng,
}

impl Papers {
    pub fn new(seed: u64, told: bool, broken: Option<Break>) -> Papers {
        let is_drawing = seed.is_multiple_of(2);
        let kind = if is_drawing { "drawing" } else { "note" };
        let person = |number: usize| Person::new(is_drawing, number < 2, number == 0);
        Papers {
            now_ms: 1_000,
            queue: BTreeMap::new(),
            events: 0,
            is_drawing,
            document: DocumentId::new(kind, "d").expect("a name"),
            rows: Rows::new(),
            shelf: Shelf::default(),
            house: House::default(),
            people: (0..4).map(person).collect(),
            lines: BTreeMap::new(),
            next_line: 0,
            fates: BTreeMap::new(),
            is_stormy: false,
            postgres_silent_until_ms: 0,
            disk_slow_until_ms: 0,
            seen: Seen::default(),
            told,
            broken,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// A storm or two, and what comes after each; returns what was seen.
    pub fn run(mut self) -> Seen {
        self.after(0, Event::Start);
        (0..self.people.len()).for_each(|number| self.after(10, Event::Connect(number)));
        for _ in 0..self.rng.random_range(1..=2) {
            self.is_stormy = true;
            self.after(100, Event::Write);
            self.after(500, Event::Fault);
            (0..self.people.len()).for_each(|number| self.after(50, Event::Edit(number)));
            let storm_ms = self.rng.random_range(10_000..40_000);
            self.go_on(storm_ms);
            self.recover();
        }
        self.seen
    }

    fn go_on(&mut self, for_ms: u64) {
        let end = self.now_ms + for_ms;
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= end
        {
            let ((at_ms, _), event) = entry.remove_entry();
            assert!(self.events < MANY, "it never comes to rest: {event:?}");
            self.now_ms = at_ms;
            self.take(event);
        }
        self.now_ms = end;
    }

    fn recover(&mut self) {
        self.say(|| "the storm is over".to_owned());
        self.is_stormy = false;
        self.postgres_silent_until_ms = 0;
        self.disk_slow_until_ms = 0;
        self.rows.show_all(self.now_ms);
        self.after(0, Event::Stream(self.house.life));
        self.start();
        for number in 0..self.people.len() {
            // One of Yjs may hold what it wrote as a reader, which nobody else does.
            self.people[number].is_forgetful |= !self.is_drawing;
            if let Some((line, _)) = self.people[number].connection
                && !self.is_drawing
            {
                self.cut(line);
            }
        }
        self.go_on(RECOVERY_MS);
        self.check();
        self.readers_try_to_edit();
        self.seen.count("documents that came to rest");
    }

    /// What must hold when everyone has come to rest.
    fn check(&mut self) {
        let state = self.rows.state();
        for (number, person) in self.people.iter().enumerate() {
            let may = may(state.standing(person.is_owner)).is_some();
            let is_there = person.connection.is_some() && person.is_welcome;
            assert!(may || !is_there, "person {number} is there, and the row is {state:?}");
            assert!(!may || is_there, "person {number} is not there, and the row is {state:?}");
        }
        if may(state.standing(true)).is_none() {
            return;
        }
        let server_has = self.people[0].content();
        for (number, person) in self.people.iter().enumerate() {
            if may(state.standing(person.is_owner)).is_some() {
                assert_eq!(person.content(), server_has, "person {number} has another document");
            }
        }
        let marks: BTreeSet<String> = self.people[0].marks().into_iter().collect();
        for (mark, fate) in &self.fates {
            match fate {
                Fate::Saved => assert!(marks.contains(mark), "{mark} was saved and is lost"),
                Fate::Refused => assert!(!marks.contains(mark), "{mark} was refused and is there"),
                Fate::Unknown | Fate::Deleted => {}
            }
        }
        for mark in &marks {
            assert!(self.fates.contains_key(mark), "{mark} was never made");
        }
    }

    /// Who may only read edits all the same, and nothing comes of it.
    fn readers_try_to_edit(&mut self) {
        let state = self.rows.state();
        let mut marks = Vec::new();
        for number in 0..self.people.len() {
            let standing = state.standing(self.people[number].is_owner);
            if let Some((line, _)) = self.people[number].connection
                && standing == Standing::Read
            {
                let mark = format!("m-of-reader-{number}");
                let mut somebody = Person::new(self.is_drawing, false, false);
                somebody.forget(self.rng.random_range(1..1 << 30));
                let edit = somebody.edit(&mark);
                self.say_to_server(line, Some(edit));
                marks.push(mark);
            }
        }
        self.go_on(1_000);
        let there = self.people[0].marks();
        for mark in marks {
            self.seen.count("edits of readers");
            assert!(!there.contains(&mark), "{mark} is there, and its author may only read");
        }
        for (number, person) in self.people.iter_mut().enumerate() {
            person.is_forgetful = number == 0;
        }
    }

    fn take(&mut self, event: Event) {
        let lives = |life: u64| self.house.runs && life == self.house.life;
        match event {
            Event::Write => self.write(),
            Event::Show(number) => self.rows.show(number, self.now_ms),
            Event::Stream(life) if lives(life) => self.stream(),
            Event::Look(life) if lives(life) => self.look(),
            Event::Answer(life, state, snapshot) if lives(life) => self.answer(state, &snapshot),
            Event::Start => self.start(),
            Event::Flush(life) if lives(life) => self.flush(),
            Event::Save(life) if lives(life) => self.save(),
            Event::Saved(life, save, object, number) if lives(life) && save == self.house.saves => {
                self.saved(object, number);
            }
            Event::Tick(life) if lives(life) => self.tick(),
            Event::Watch(life) if lives(life) => {
                self.house.watch_due_ms.take_if(|due| *due <= self.now_ms);
                self.watch();
            }
            Event::Opened(life, member) if lives(life) => self.opened(member),
            Event::Connect(number) => self.connect(number),
            Event::Edit(number) => self.edit(number),
            Event::Ping(number, line) => self.ping(number, line),
            Event::ToServer(line, frame) => self.server_hears(line, frame),
            Event::ToPerson(line, frame) => self.person_hears(line, frame),
            Event::Fault => self.fault(),
            _ => {}
        }
    }

    fn after(&mut self, delay_ms: u64, event: Event) {
        self.events += 1;
        self.queue.insert((self.now_ms + delay_ms, self.events), event);
    }

    fn soon(&mut self, most_ms: u64, event: Event) {
        let delay = self.rng.random_range(1..=most_ms);
        self.after(delay, event);
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.told {
            println!("{:>8} {}", self.now_ms, text());
        }
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.now_ms)
    }

    fn breaks(&self, broken: Break) -> bool {
        self.broken == Some(broken)
    }

    // Postgres

    fn write(&mut self) {
        if !self.is_stormy {
            return;
        }
        let state = if self.rng.random_ratio(2, 5) {
            State::Shared
        } else {
            State::ALL[self.rng.random_range(0..State::ALL.len())]
        };
        if let Some(number) = self.rows.commit(state) {
            self.say(|| format!("the row becomes {state:?}"));
            let stalled = if self.rng.random_ratio(1, 8) { 3_000 } else { 40 };
            self.soon(stalled, Event::Show(number));
            self.soon(60, Event::Stream(self.house.life));
        }
        self.soon(6_000, Event::Write);
    }

    fn stream(&mut self) {
        while let Some(transaction) = self.rows.stream() {
            let now = self.now();
            // Whatever the row says by the time of the next look: a later row of this id has another document.
            if Rows::deletes(&transaction) {
                self.delete();
            }
            self.house.watching.follow(&self.rows.plan, &transaction, now);
        }
        self.watch();
    }

    /// A question is answered some time after the snapshot was taken that its answer is of.
    fn look(&mut self) {
        let now = self.now();
        if self.now_ms < self.postgres_silent_until_ms {
            self.seen.count("questions that were not answered");
            self.house.asked = None;
            self.house.watching.failed(Duration::from_millis(500), now);
            return self.watch();
        }
        let (state, snapshot) = self.rows.snapshot();
        let life = self.house.life;
        self.soon(30, Event::Answer(life, state, snapshot));
    }

    fn answer(&mut self, state: State, snapshot: &TransactionSnapshot) {
        let Some(asked) = self.house.asked.take() else { return };
        let answer = |member: &MemberId| {
            let is_owner = self.people[self.lines.get(&member.0)?.person].is_owner;
            let standing = state.standing(is_owner);
            Some(StandingAnswer { standing, name: None, may_restore: false, row: None })
        };
        let answers = asked.iter().map(answer).collect();
        // As if it had seen whatever was streamed.
        let all = TransactionSnapshot::new(MANY, [].into_iter().collect());
        let seen = if self.breaks(Break::AnswersCountAtOnce) { &all } else { snapshot };
        let now = self.now();
        self.house.watching.answered(seen, answers, now);
        self.watch();
    }

    fn watch(&mut self) {
        let now = self.now();
        for effect in self.house.watching.pass(now) {
            match effect {
                WatchEffect::Ask(members) => {
                    self.house.asked = Some(members);
                    let most = if self.rng.random_ratio(1, 20) { 2_000 } else { 30 };
                    let life = self.house.life;
                    self.soon(most, Event::Look(life));
                }
                WatchEffect::Tell(member, told) => self.tell(member, told),
                WatchEffect::Name(..) => {}
            }
        }
        if let Some(due) = self.house.watching.deadline() {
            let due_ms = (due.as_millis() as u64 + 1).max(self.now_ms + 1);
            if self.house.watch_due_ms.is_none_or(|before| due_ms < before) {
                self.house.watch_due_ms = Some(due_ms);
                let life = self.house.life;
                self.after(due_ms - self.now_ms, Event::Watch(life));
            }
        }
    }

    // Faults

    fn fault(&mut self) {
        if !self.is_stormy {
            return;
        }
        self.soon(4_000, Event::Fault);
        match self.rng.random_range(0..10) {
            0..3 => {
                let number = self.rng.random_range(0..self.people.len());
                if let Some((line, _)) = self.people[number].connection {
                    self.cut(line);
                }
            }
            3..6 => {
                self.say(|| "the server is killed".to_owned());
                self.end_house(false);
                self.soon(3_000, Event::Start);
            }
            6 => {
                self.end_house(true);
                self.soon(3_000, Event::Start);
            }
            7 => {
                self.seen.count("questions before a silence");
                self.postgres_silent_until_ms = self.now_ms + self.rng.random_range(500..40_000);
            }
            _ => self.disk_slow_until_ms = self.now_ms + self.rng.random_range(500..6_000),
        }
    }
}

/// What somebody may do with the document.
fn may(standing: Standing) -> Option<Access> {
    match standing {
        Standing::Edit => Some(Access::Edit),
        Standing::Read => Some(Access::Read),
        _ => None,
    }
}
