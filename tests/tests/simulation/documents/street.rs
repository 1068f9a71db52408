//! People and the connections between them and the server, which keep the order of what they carry and end at any moment.

use rand::Rng;
use rowtide_access::watching::MemberId;
use rowtide_documents::place::Frame;

use super::house::Place;
use super::people::Learnt;
use super::rows::State;
use super::{Event, Fate, Line, OUT_WITHIN_MS, Papers, may};

impl Papers {
    pub(super) fn send(&mut self, line: u64, frame: Option<Frame>) {
        let delay = self.rng.random_range(1..40);
        let Some(open) = self.lines.get_mut(&line) else { return };
        open.to_person_ms = (self.now_ms + delay).max(open.to_person_ms);
        let at_ms = open.to_person_ms;
        if frame.is_some() && self.house.runs {
            let person = open.person;
            let is_owner = self.people[person].is_owner;
            let may_so = |state: State| may(state.standing(is_owner)).is_some();
            let since = self.now_ms.saturating_sub(OUT_WITHIN_MS);
            assert!(
                self.rows.was_since(since, may_so),
                "person {person} is told and may not be there"
            );
        }
        self.after(at_ms - self.now_ms, Event::ToPerson(line, frame));
    }

    pub(super) fn say_to_server(&mut self, line: u64, frame: Option<Frame>) {
        let delay = self.rng.random_range(1..40);
        let Some(open) = self.lines.get_mut(&line) else { return };
        open.to_server_ms = (self.now_ms + delay).max(open.to_server_ms);
        let at_ms = open.to_server_ms;
        self.after(at_ms - self.now_ms, Event::ToServer(line, frame));
    }

    /// The server ends a connection, behind what it has sent.
    pub(super) fn hang_up(&mut self, line: u64) {
        self.leave(MemberId(line));
        self.send(line, None);
    }

    /// Both sides lose a connection, with what is under way.
    pub(super) fn cut(&mut self, line: u64) {
        self.seen.count("cut sockets of documents");
        self.after(1, Event::ToServer(line, None));
        self.person_hears(line, None);
    }

    pub(super) fn connect(&mut self, number: usize) {
        if self.people[number].connection.is_some() {
            return;
        }
        if !self.house.runs {
            return self.soon(1_000, Event::Connect(number));
        }
        let client = self.rng.random_range(1..1 << 30);
        let forgets = self.people[number].is_forgetful || (!self.is_drawing && self.rng.random());
        let person = &mut self.people[number];
        if forgets {
            person.forget(client);
        }
        self.next_line += 1;
        let line = self.next_line;
        person.connection = Some((line, self.now_ms));
        let greeting = person.greeting();
        let now = self.now();
        let (life, at) = (self.house.life, self.now_ms);
        self.lines.insert(line, Line { person: number, life, to_server_ms: at, to_person_ms: at });
        self.house.people.insert(MemberId(line), Place::Asks);
        self.house.watching.come(MemberId(line), self.document.clone(), None, now);
        self.watch();
        self.say_to_server(line, Some(greeting));
        self.after(5_000, Event::Ping(number, line));
    }

    pub(super) fn edit(&mut self, number: usize) {
        if !self.is_stormy {
            return;
        }
        self.soon(3_000, Event::Edit(number));
        let person = &mut self.people[number];
        let Some((line, _)) = person.connection else { return };
        if !person.is_welcome || person.is_forgetful {
            return;
        }
        let mark = format!("m{}-{number}", self.fates.len());
        let frame = person.edit(&mark);
        self.fates.insert(mark, Fate::Unknown);
        self.say_to_server(line, Some(frame));
    }

    pub(super) fn ping(&mut self, number: usize, line: u64) {
        if self.people[number].connection.is_some_and(|(now, _)| now == line) {
            if let Some(ping) = self.people[number].ping() {
                self.say_to_server(line, Some(ping));
            }
            self.after(5_000, Event::Ping(number, line));
        }
    }

    pub(super) fn person_hears(&mut self, line: u64, frame: Option<Frame>) {
        let Some(number) = self.lines.get(&line).map(|line| line.person) else { return };
        if self.people[number].connection.is_none_or(|(now, _)| now != line) {
            return;
        }
        let Some(frame) = frame else {
            self.people[number].connection = None;
            self.people[number].is_welcome = false;
            return self.soon(1_500, Event::Connect(number));
        };
        for learnt in self.people[number].hear(&frame) {
            match learnt {
                Learnt::Welcome => self.seen.count("people who were let in"),
                Learnt::Answers(frame) => self.say_to_server(line, Some(frame)),
                Learnt::Shown(mark) | Learnt::Saved(mark) => self.learn(&mark, Fate::Saved),
                Learnt::Refused(mark) => {
                    self.seen.count("edits that were refused");
                    self.learn(&mark, Fate::Refused);
                }
            }
        }
    }

    pub(super) fn learn(&mut self, mark: &str, fate: Fate) {
        match self.fates.get_mut(mark) {
            Some(known @ Fate::Unknown) => *known = fate,
            Some(Fate::Deleted) => {}
            Some(known) => assert_eq!(*known, fate, "what is told of {mark} changes"),
            None => panic!("{mark} was never made"),
        }
    }
}
