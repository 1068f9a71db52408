//! What a server does with what it hears: of Postgres, of people, and of its disk.

use bytes::Bytes;
use rand::Rng;
use rowtide_access::watching::{MemberId, MemberTold};
use rowtide_documents::place::{Closing, Effect, Frame, Socket};

use super::house::{House, Place, Room, Waiting};
use super::rows::State;
use super::{Event, Fate, Papers, may};
use crate::breaks::Break;

/// How long after the first edit a document is saved.
const SAVE_AFTER_MS: u64 = 8_000;

impl Papers {
    pub(super) fn start(&mut self) {
        if self.house.runs {
            return;
        }
        self.house = House { life: self.house.life + 1, runs: true, ..House::default() };
        self.say(|| "a server starts".to_owned());
        let now = self.now();
        let recent = self.rows.recent();
        self.house.watching.begin(&self.rows.plan, &recent, now);
        self.house.watching.streams(true, now);
        let life = self.house.life;
        self.soon(50, Event::Stream(life));
        if self.shelf.object.is_some() || !self.shelf.edits().is_empty() {
            // What a server before has left is saved.
            self.open_room();
        }
    }

    pub(super) fn end_house(&mut self, in_order: bool) {
        if !self.house.runs {
            return;
        }
        if in_order {
            self.seen.count("documents of stopped servers");
            self.flush();
            if let Some(room) = &self.house.room {
                self.shelf.object = Some(room.snapshot());
                self.shelf.settle(self.house.written);
                self.shelf.flush();
            }
        } else {
            self.seen.count("documents of killed servers");
            let unflushed = self.shelf.unflushed();
            if unflushed > 0 {
                self.seen.count("edits that were not flushed");
            }
            let kept = self.rng.random_range(0..=unflushed);
            self.shelf.crash(kept);
        }
        self.house.runs = false;
        self.house.room = None;
        let lines: Vec<u64> = self.lines.keys().copied().collect();
        for line in lines {
            self.hang_up(line);
        }
    }

    pub(super) fn open_room(&mut self) {
        if self.house.room.is_some() {
            return;
        }
        let edits = self.shelf.edits();
        let begins_at = match edits.is_empty() && !self.breaks(Break::ClocksBeginAgain) {
            true => self.now_ms,
            false => 0,
        };
        let object = self.shelf.object.clone();
        let room = Room::open(self.is_drawing, object.as_deref(), &edits, begins_at);
        let saved = match &object {
            Some(object) => Room::open(self.is_drawing, Some(object), &[], 0).clock(),
            None if edits.is_empty() => room.clock(),
            None => 0,
        };
        self.house.covered = saved;
        self.house.written = self.shelf.flush();
        if !edits.is_empty() {
            self.seen.count("edits that were replayed");
        }
        self.house.room = Some(room);
        self.plan_save();
    }

    /// Carries out what a room asks for, in order.
    pub(super) fn carry(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Edit(edit) => {
                    let number = self.shelf.append(edit);
                    self.house.written = number;
                    self.house.waiting.push_back(Waiting::Edit(number));
                    if !std::mem::replace(&mut self.house.flush_due, true) {
                        let slow = self.now_ms < self.disk_slow_until_ms;
                        let life = self.house.life;
                        self.soon(if slow { 2_000 } else { 10 }, Event::Flush(life));
                    }
                }
                Effect::SendAtOnce(socket, frame) => self.send(socket.0, Some(frame)),
                effect => {
                    if self.house.waiting.is_empty() || self.breaks(Break::ToldBeforeFlushed) {
                        self.told_effect(effect);
                    } else {
                        self.house.waiting.push_back(Waiting::Told(effect));
                    }
                }
            }
        }
        self.plan_save();
        let due = self.house.room.as_ref().and_then(Room::next_tick);
        let due = due.map(|due| due.as_millis() as u64 + 1);
        let due = due.filter(|due| self.house.tick_due_ms.is_none_or(|before| *due < before));
        if let Some(due) = due {
            self.house.tick_due_ms = Some(due);
            let life = self.house.life;
            self.after(due.saturating_sub(self.now_ms), Event::Tick(life));
        }
    }

    pub(super) fn told_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Send(socket, frame) | Effect::SendAtOnce(socket, frame) => {
                self.send(socket.0, Some(frame));
            }
            Effect::Close(socket, _) => self.hang_up(socket.0),
            Effect::Edit(_) => {}
            Effect::Ask(_) => panic!("no room here has a schema to ask"),
        }
    }

    pub(super) fn flush(&mut self) {
        let durable = self.shelf.flush();
        self.house.flush_due = false;
        while let Some(next) = self.house.waiting.pop_front() {
            match next {
                Waiting::Edit(number) if number > durable => {
                    self.house.waiting.push_front(next);
                    return;
                }
                Waiting::Edit(_) => {}
                Waiting::Told(effect) => self.told_effect(effect),
            }
        }
    }

    pub(super) fn plan_save(&mut self) {
        let Some(room) = &self.house.room else { return };
        let is_dirty = room.clock() != self.house.covered;
        if is_dirty && !self.house.is_saving && self.house.save_due_ms.is_none() {
            self.house.save_due_ms = Some(self.now_ms + SAVE_AFTER_MS);
            let life = self.house.life;
            self.after(SAVE_AFTER_MS, Event::Save(life));
        }
    }

    pub(super) fn save(&mut self) {
        if self.house.is_saving || self.house.save_due_ms.is_none_or(|due| due > self.now_ms) {
            return;
        }
        let Some(room) = &self.house.room else { return };
        let life = self.house.life;
        if !self.house.waiting.is_empty() {
            return self.after(20, Event::Save(life));
        }
        self.house.save_due_ms = None;
        self.house.is_saving = true;
        self.house.covered = room.clock();
        self.house.saves += 1;
        let save = self.house.saves;
        let (snapshot, number) = (room.snapshot(), self.house.written);
        if self.breaks(Break::SettledBeforeSaved) {
            self.shelf.settle(number);
        }
        let most = if self.rng.random_ratio(1, 5) { 4_000 } else { 100 };
        self.soon(most, Event::Saved(life, save, snapshot, number));
    }

    pub(super) fn saved(&mut self, object: Bytes, number: u64) {
        self.house.is_saving = false;
        self.seen.count("documents that were saved");
        self.shelf.object = Some(object);
        self.shelf.settle(number);
        self.plan_save();
        self.sleep();
    }

    /// A room that nobody is in, and that is saved, goes.
    pub(super) fn sleep(&mut self) {
        let Some(room) = &self.house.room else { return };
        let in_it = |place: &Place| matches!(place, Place::In | Place::Opens(_));
        if room.is_empty()
            && !self.house.people.values().any(in_it)
            && !self.house.is_saving
            && room.clock() == self.house.covered
            && self.house.waiting.is_empty()
        {
            self.seen.count("rooms that fell asleep");
            self.house.room = None;
        }
    }

    pub(super) fn tick(&mut self) {
        self.house.tick_due_ms = None;
        let now = self.now();
        if let Some(room) = &mut self.house.room {
            let effects = room.tick(now);
            self.carry(effects);
        }
        self.sleep();
    }

    /// The row is gone, and its document with it.
    pub(super) fn delete(&mut self) {
        self.seen.count("documents that were deleted");
        self.say(|| "the document is deleted".to_owned());
        self.house.waiting.clear();
        self.house.room = None;
        self.house.save_due_ms = None;
        // A save that is under way is waited for.
        self.house.is_saving = false;
        self.house.saves += 1;
        self.shelf.forget();
        let lines: Vec<u64> = self.house.people.keys().map(|member| member.0).collect();
        lines.into_iter().for_each(|line| self.hang_up(line));
        self.fates.values_mut().for_each(|fate| *fate = Fate::Deleted);
    }

    pub(super) fn tell(&mut self, member: MemberId, told: MemberTold) {
        let access = match told {
            MemberTold::May(standing) => may(standing),
            MemberTold::Unknown => {
                self.seen.count("standings that stayed unknown");
                None
            }
        };
        let Some(access) = access else {
            let now = self.now();
            if matches!(self.house.people.get(&member), Some(Place::In)) {
                self.seen.count("people who were sent away");
                if let Some(room) = &mut self.house.room {
                    let effects = room.close(now, Socket(member.0), Closing::ComeBack);
                    self.carry(effects);
                }
            }
            return self.hang_up(member.0);
        };
        let life = self.house.life;
        let is_lost = self.breaks(Break::AccessOvertaken);
        match self.house.people.get_mut(&member) {
            Some(place @ Place::Asks) => {
                *place = Place::Opens(access);
                let most = if self.rng.random_ratio(1, 5) { 3_000 } else { 50 };
                self.soon(most, Event::Opened(life, member));
            }
            Some(Place::Opens(known)) => {
                self.seen.count("changes while a room is opened");
                if !is_lost {
                    *known = access;
                }
            }
            Some(Place::In) => {
                self.seen.count("people who may do something else");
                let now = self.now();
                if let Some(room) = &mut self.house.room {
                    let effects = room.access_changed(now, Socket(member.0), access);
                    self.carry(effects);
                }
            }
            None => {}
        }
    }

    pub(super) fn opened(&mut self, member: MemberId) {
        let Some(Place::Opens(access)) = self.house.people.get(&member) else { return };
        let access = *access;
        let Some(line) = self.lines.get(&member.0) else { return };
        let person = line.person;
        self.open_room();
        self.house.people.insert(member, Place::In);
        let now = self.now();
        let is_owner = self.people[person].is_owner;
        let begun = self.people[person].connection.map_or(0, |(_, begun_ms)| begun_ms);
        let may_so = |state: State| may(state.standing(is_owner)).is_some();
        assert!(
            self.rows.was_since(begun, may_so),
            "person {person} is let in and may not be there"
        );
        let room = self.house.room.as_mut().expect("it was opened");
        let effects = room.join(now, Socket(member.0), &format!("tab-{person}"), access);
        self.carry(effects);
    }

    pub(super) fn server_hears(&mut self, line: u64, frame: Option<Frame>) {
        let Some(life) = self.lines.get(&line).map(|line| line.life) else { return };
        if !self.house.runs || life != self.house.life {
            return;
        }
        let (member, now) = (MemberId(line), self.now());
        let is_in = matches!(self.house.people.get(&member), Some(Place::In));
        match frame {
            Some(frame) if is_in => {
                if let Some(room) = &mut self.house.room {
                    let effects = room.heard(now, Socket(line), &frame);
                    self.carry(effects);
                }
            }
            // What comes before somebody is let in waits in the socket.
            Some(frame) if self.house.people.contains_key(&member) => {
                self.after(20, Event::ToServer(line, Some(frame)));
            }
            Some(_) => {}
            None => {
                self.leave(member);
                self.lines.remove(&line);
            }
        }
    }

    pub(super) fn leave(&mut self, member: MemberId) {
        let now = self.now();
        self.house.watching.leave(member);
        if let Some(Place::In) = self.house.people.remove(&member)
            && let Some(room) = &mut self.house.room
        {
            let effects = room.left(now, Socket(member.0));
            self.carry(effects);
        }
        self.sleep();
    }
}
