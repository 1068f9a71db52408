//! Whatever rows become, whatever fails, and whenever the server is killed: in the end what is stored is what rows say, and
//! nothing of a row that is there was ever deleted. Held against a Postgres in which commits are streamed before they are
//! visible, and a ledger that survives.

use proptest::prelude::*;
use rowtide_postgres::standings::DocumentRow;

use super::*;

/// How a row is after a write; none: it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    /// Which of all the rows that have had this id.
    life: usize,
    is_published: bool,
    slug: u8,
    edition: u8,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    document: usize,
    row: Option<Row>,
    is_visible: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    /// The row that it was edited for, if it was.
    life: Option<usize>,
    published: Option<(String, String)>,
}

#[derive(Clone, Debug)]
enum Step {
    Insert(usize, bool, u8),
    Update(usize, bool, u8, u8),
    Delete(usize),
    BecomesVisible(usize),
    /// Follows the stream by so many transactions.
    Follow(usize),
    Answer,
    AnswerFails,
    /// Ends what is done with a document: well, badly, or badly for good.
    End(usize, u8),
    /// Somebody edits a document, if they may come.
    Edit(usize),
    Wait(u64),
    /// The server is killed; what was being done with documents may be done all the same.
    Kill(bool),
    /// The log begins anew: what happened nobody tells.
    Forget,
    Repeat(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0usize..3, any::<bool>(), 0u8..3).prop_map(|(d, p, s)| Step::Insert(d, p, s)),
        3 => (0usize..3, any::<bool>(), 0u8..3, 0u8..3).prop_map(|(d, p, s, e)| Step::Update(d, p, s, e)),
        2 => (0usize..3).prop_map(Step::Delete),
        4 => (0usize..3).prop_map(Step::BecomesVisible),
        4 => (1usize..4).prop_map(Step::Follow),
        4 => Just(Step::Answer),
        1 => Just(Step::AnswerFails),
        4 => (0usize..3, 0u8..5).prop_map(|(nth, how)| Step::End(nth, how)),
        3 => (0usize..3).prop_map(Step::Edit),
        2 => (1u64..400_000).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Kill),
        1 => Just(Step::Forget),
        1 => (0usize..3).prop_map(Step::Repeat),
    ];
    proptest::collection::vec(step, 0..80)
}

fn document(index: usize) -> DocumentId {
    DocumentId::new("file", &format!("d{index}")).expect("a name")
}

fn index(of: &DocumentId) -> usize {
    (0..3).find(|index| document(*index) == *of).expect("it is one of them")
}

#[derive(Default)]
struct World {
    now: Duration,
    writes: Vec<Write>,
    lives: usize,
    effects: DocumentEffects,
    /// So many writes were followed, and as the ledger has it.
    followed: usize,
    ledger_followed: usize,
    ledger: BTreeMap<DocumentId, PendingEffect>,
    closed: BTreeSet<DocumentId>,
    asked: Option<Vec<DocumentId>>,
    under_way: Vec<(DocumentId, Work)>,
    /// What was under way and has ended because the address was another's, which nobody has heard of yet.
    late: Vec<(DocumentId, DocumentId)>,
    stored: BTreeMap<usize, Stored>,
    /// What happened to their rows nobody has told: a row that is there when it is asked for counts as the same.
    untold: BTreeSet<usize>,
    /// The stream has told of the deletion of the row that they were edited for.
    told_deleted: BTreeSet<usize>,
}

impl World {
    fn last(&self, document: usize, visible: bool) -> Option<Row> {
        let writes = self.writes.iter().filter(|write| write.document == document);
        let mut writes = writes.filter(|write| write.is_visible || !visible);
        writes.next_back().and_then(|write| write.row)
    }

    fn write(&mut self, document: usize, row: Option<Row>) {
        // Whoever writes a row waits until the write before is visible.
        let waits = |write: &Write| write.document == document && !write.is_visible;
        if !self.writes.iter().any(waits) && (row.is_some() || self.last(document, false).is_some())
        {
            self.writes.push(Write { document, row, is_visible: false });
        }
    }

    /// What follows from what has happened, in the order of the shell.
    fn go_on(&mut self) {
        let kept = self.effects.take_kept();
        self.closed.extend(kept.closed);
        for (document, entry) in kept.entries {
            match entry {
                Some(entry) => drop(self.ledger.insert(document, entry)),
                None => drop(self.ledger.remove(&document)),
            }
        }
        self.ledger_followed = self.followed;
        self.closed.retain(|closed| !kept.opened.contains(closed));
        for step in self.effects.pass(self.now) {
            match step {
                EffectStep::Ask(asked) => {
                    assert!(self.asked.is_none(), "one at a time");
                    self.asked = Some(asked);
                }
                EffectStep::Do(document, work) => {
                    let is_other = |(other, _): &(DocumentId, Work)| *other != document;
                    assert!(self.under_way.iter().all(is_other), "one at a time for each document");
                    self.under_way.push((document, work));
                }
            }
        }
    }

    fn follow(&mut self, most: usize) {
        for number in self.followed..self.writes.len().min(self.followed.saturating_add(most)) {
            let write = self.writes[number];
            let mark = match write.row {
                Some(_) => Mark::Changed(Some(number as u32 + 1)),
                None => Mark::Deleted,
            };
            if mark == Mark::Deleted {
                self.told_deleted.insert(write.document);
                self.untold.remove(&write.document);
            }
            self.effects.mark(document(write.document), mark, self.now);
            self.followed = number + 1;
        }
    }

    /// A row that is there counts as the one that was, where nobody has told what happened, nor is going to.
    fn take_for_the_same(&mut self, document: usize) {
        let mut behind = self.writes[self.followed..].iter();
        if behind.any(|write| write.document == document && write.row.is_none()) {
            return;
        }
        let row = self.last(document, true);
        if let Some(row) = row
            && self.untold.remove(&document)
            && let Some(stored) = self.stored.get_mut(&document)
        {
            stored.life = stored.life.map(|_| row.life);
        }
    }

    fn answer(&mut self) {
        let Some(asked) = self.asked.take() else { return };
        asked.iter().for_each(|asked| self.take_for_the_same(index(asked)));
        let running = self.writes.iter().enumerate().filter(|(_, write)| !write.is_visible);
        let running = running.map(|(number, _)| number as u64 + 1).collect();
        let snapshot = TransactionSnapshot::new(self.writes.len() as u64 + 1, running);
        let answers = asked.into_iter().map(|asked| {
            let row = self.last(index(&asked), true).map(|row| DocumentRow {
                published: row.is_published,
                slug: Some(slug(row)),
                edition: Some(row.edition.to_string()),
                source: None,
            });
            (asked, Some(row))
        });
        let answers = answers.collect();
        self.effects.answered(&snapshot, answers, |_| true, self.now);
    }

    /// What the host does.
    ///
    /// # Errors
    /// Whose the address is.
    fn carry_out(&mut self, of: &DocumentId, work: &Work) -> Result<(), DocumentId> {
        let document = index(of);
        match work {
            Work::Delete(gone) => {
                // What goes for good goes because somebody has deleted its row.
                let is_told = self.told_deleted.contains(&document);
                assert!(*gone == Gone::Missing || is_told, "it is kept aside");
                if let Some(life) = self.stored.remove(&document).and_then(|stored| stored.life) {
                    let is_there = |write: &Write| {
                        write.document == document && write.row.is_some_and(|row| row.life == life)
                    };
                    let last = self.writes.iter().rposition(is_there).expect("it had a row");
                    let mut later = self.writes[last..].iter();
                    let is_over =
                        later.any(|write| write.document == document && write.row.is_none());
                    assert!(is_over, "it is of a row that is there");
                }
                Ok(())
            }
            Work::Unpublish => {
                if let Some(stored) = self.stored.get_mut(&document) {
                    stored.published = None;
                }
                Ok(())
            }
            Work::Publish { slug, edition, .. } => {
                let has = |stored: &Stored| {
                    stored.published.as_ref().is_some_and(|(other, _)| other == slug)
                };
                let mut others = self.stored.iter().filter(|(other, _)| **other != document);
                if let Some((owner, _)) = others.find(|(_, stored)| has(stored)) {
                    let owner = self::document(*owner);
                    // It gives back what it had: its row says another address.
                    if let Some(stored) = self.stored.get_mut(&document) {
                        stored.published = None;
                    }
                    return Err(owner);
                }
                let stored = self.stored.entry(document);
                let stored = stored.or_insert(Stored { life: None, published: None });
                stored.published = Some((slug.clone(), edition.clone()));
                Ok(())
            }
        }
    }

    fn hear(&mut self) {
        for (document, owner) in std::mem::take(&mut self.late) {
            let failure = WorkFailure { reason: TAKEN.to_owned(), retry: Retry::After(owner) };
            self.effects.ended(&document, Err(failure), self.now);
        }
    }

    fn end(&mut self, nth: usize, how: u8) {
        if self.under_way.is_empty() {
            return;
        }
        let (document, work) = self.under_way.remove(nth % self.under_way.len());
        let failure = |reason: &str, retry| WorkFailure { reason: reason.to_owned(), retry };
        let done = match how {
            0 => Err(failure("why", Retry::Later)),
            // It was done, and nobody heard of it.
            1 => {
                self.carry_out(&document, &work).ok();
                Err(failure("why", Retry::Later))
            }
            // The answer comes later than what it tells of.
            4 => match self.carry_out(&document, &work) {
                Err(owner) => {
                    self.late.push((document, owner));
                    return;
                }
                Ok(()) => Ok(()),
            },
            _ => self
                .carry_out(&document, &work)
                .map_err(|owner| failure(TAKEN, Retry::After(owner))),
        };
        self.effects.ended(&document, done, self.now);
    }

    fn start(&mut self) {
        (self.followed, self.asked) = (self.ledger_followed, None);
        self.closed.clear();
        self.late.clear();
        self.effects = DocumentEffects::default();
        self.effects.resume(self.ledger.clone(), self.now);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Insert(document, is_published, slug) => {
                if self.last(document, false).is_none() {
                    self.lives += 1;
                    let row = Row { life: self.lives, is_published, slug, edition: 0 };
                    self.write(document, Some(row));
                }
            }
            Step::Update(document, is_published, slug, edition) => {
                if let Some(row) = self.last(document, false) {
                    self.write(document, Some(Row { is_published, slug, edition, ..row }));
                }
            }
            Step::Delete(document) => self.write(document, None),
            Step::BecomesVisible(document) => {
                let mut writes = self.writes.iter_mut();
                if let Some(write) =
                    writes.find(|write| write.document == document && !write.is_visible)
                {
                    write.is_visible = true;
                }
            }
            Step::Follow(most) => self.follow(most),
            Step::Answer => {
                self.hear();
                self.answer();
            }
            Step::AnswerFails => {
                if self.asked.take().is_some() {
                    self.effects.not_answered(self.now);
                }
            }
            Step::End(nth, how) => self.end(nth, how),
            Step::Edit(document) => {
                // Whoever comes before the stream has brought the end of a row before is not looked at here.
                let behind = self.writes[self.followed..].iter();
                let mut behind = behind.filter(|write| write.document == document);
                let is_behind = behind.any(|write| write.row.is_none());
                // Whoever comes is held to what was streamed before.
                let mut streamed = self.writes[..self.followed].iter();
                let is_behind = is_behind
                    || streamed.any(|write| write.document == document && !write.is_visible);
                let row = self.last(document, true).filter(|_| !is_behind);
                if let Some(row) = row
                    && !self.closed.contains(&self::document(document))
                {
                    self.take_for_the_same(document);
                    let stored = self.stored.entry(document);
                    let stored = stored.or_insert(Stored { life: None, published: None });
                    let life = *stored.life.get_or_insert(row.life);
                    assert_eq!(life, row.life, "it has what was another row's");
                }
            }
            Step::Wait(ms) => self.now += Duration::from_millis(ms),
            Step::Kill(is_done) => {
                for (document, work) in std::mem::take(&mut self.under_way) {
                    if is_done {
                        self.carry_out(&document, &work).ok();
                    }
                }
                self.start();
            }
            Step::Forget => {
                // Those who begin anew see all that is committed by then.
                self.writes.iter_mut().for_each(|write| write.is_visible = true);
                for index in 0..3 {
                    // What is being deleted is deleted, and what is to be because its row was.
                    let is_delete = |(other, work): &(DocumentId, Work)| {
                        *other == document(index) && matches!(work, Work::Delete(_))
                    };
                    let is_deleting = self.under_way.iter().any(is_delete);
                    let of = self.effects.documents.get(&document(index));
                    let was_deleted = of.is_some_and(|of| of.kept.gone == Some(Gone::Deleted));
                    if !is_deleting && !was_deleted {
                        self.untold.insert(index);
                    }
                }
                self.followed = self.writes.len();
                self.effects.interrupted(self.now);
                for index in 0..3 {
                    self.effects.mark(document(index), Mark::Changed(None), self.now);
                }
            }
            Step::Repeat(index) => drop(self.effects.repeat(&document(index), self.now)),
        }
        // A kill may come before anything follows.
        if !matches!(step, Step::Follow(3)) {
            self.go_on();
        }
    }

    /// Nothing fails, and nothing more happens.
    fn come_to_rest(&mut self) {
        self.writes.iter_mut().for_each(|write| write.is_visible = true);
        self.follow(usize::MAX);
        self.go_on();
        for _ in 0..200 {
            self.answer();
            self.hear();
            while !self.under_way.is_empty() {
                self.end(0, 3);
            }
            self.go_on();
            if let Some(deadline) = self.effects.deadline(self.now) {
                self.now = deadline;
                self.go_on();
            }
        }
        assert_eq!(
            (self.asked.is_none(), self.under_way.len()),
            (true, 0),
            "nothing is left to do"
        );
        for index in 0..3 {
            let failed = self.ledger.get(&document(index));
            let failure = failed.and_then(|kept| kept.failure.as_deref());
            let has_failed = failure.is_some();
            if failure == Some(TAKEN) {
                let wanted = self.last(index, true).map(slug);
                let has = |stored: &Stored| {
                    stored.published.as_ref().map(|(slug, _)| slug) == wanted.as_ref()
                };
                let mut others = self.stored.iter().filter(|(other, _)| **other != index);
                assert!(others.any(|(_, stored)| has(stored)), "nobody has the address");
            }
            assert!(has_failed || failed.is_none(), "nothing is left to do: {failed:?}");
            assert!(has_failed || !self.closed.contains(&document(index)));
            let stored = self.stored.get(&index);
            match self.last(index, true) {
                _ if has_failed => {}
                None => assert_eq!(stored, None),
                Some(row) if row.is_published => {
                    let published = stored.and_then(|stored| stored.published.clone());
                    assert_eq!(published, Some((slug(row), row.edition.to_string())));
                    let life = stored.and_then(|stored| stored.life);
                    assert!(life.is_none_or(|life| life == row.life));
                }
                Some(row) => {
                    assert!(stored.is_none_or(|stored| stored.published.is_none()));
                    let life = stored.and_then(|stored| stored.life);
                    assert!(life.is_none_or(|life| life == row.life));
                }
            }
        }
    }
}

const TAKEN: &str = "another one has it";

fn slug(row: Row) -> String {
    format!("s{}", row.slug)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn what_is_stored_is_what_rows_say_and_nothing_of_a_row_that_is_there_is_deleted(steps in steps()) {
        let mut world = World::default();
        steps.iter().for_each(|step| world.step(step));
        world.come_to_rest();
    }
}

const NOW: Duration = Duration::ZERO;

fn snapshot() -> TransactionSnapshot {
    TransactionSnapshot::new(1, Vec::new())
}

#[test]
fn what_fails_is_tried_ten_times_later_and_later_and_then_not_before_somebody_wants_it() {
    let (mut effects, mut now) = (DocumentEffects::default(), NOW);
    effects.mark(document(0), Mark::Deleted, now);
    let mut pauses = Vec::new();
    loop {
        let delete = EffectStep::Do(document(0), Work::Delete(Gone::Deleted));
        assert_eq!(effects.pass(now), [delete]);
        let failure = WorkFailure { reason: "no disk".to_owned(), retry: Retry::Later };
        effects.ended(&document(0), Err(failure), now);
        let Some(deadline) = effects.deadline(now) else { break };
        pauses.push((deadline - now).as_secs());
        now = deadline;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256]);
    let kept = effects.take_kept();
    assert_eq!(kept.failed, [(document(0), Work::Delete(Gone::Deleted), "no disk".to_owned())]);
    let entry = kept.entries[&document(0)].clone().expect("it is kept");
    assert_eq!(effects.counts(), (0, 1));
    assert_eq!(effects.pass(now), []);
    assert!(effects.repeat(&document(0), now) && !effects.repeat(&document(1), now));
    assert_eq!(effects.pass(now).len(), 1);
    // A start tries it once.
    let mut effects = DocumentEffects::default();
    effects.resume([(document(0), entry)].into(), now);
    assert_eq!(effects.take_kept().closed, [document(0)], "nobody comes to it before");
    assert_eq!(effects.pass(now).len(), 1);
    let failure = WorkFailure { reason: "no disk".to_owned(), retry: Retry::Later };
    effects.ended(&document(0), Err(failure), now);
    assert_eq!((effects.deadline(now), effects.counts()), (None, (0, 1)));
}

#[test]
fn one_that_fails_holds_up_no_other() {
    let mut effects = DocumentEffects::default();
    (0..3).for_each(|index| effects.mark(document(index), Mark::Deleted, NOW));
    assert_eq!(effects.pass(NOW).len(), 3);
    let failure = WorkFailure { reason: "why".to_owned(), retry: Retry::Later };
    effects.ended(&document(0), Err(failure), NOW);
    effects.ended(&document(1), Ok(()), NOW);
    let kept = effects.take_kept();
    assert_eq!((kept.entries.get(&document(1)), kept.opened), (Some(&None), vec![document(1)]));
    assert_eq!(effects.counts(), (2, 0));
}

#[test]
fn a_row_that_is_not_there_is_looked_for_again_once_nobody_can_come() {
    let mut effects = DocumentEffects::default();
    effects.mark(document(0), Mark::Changed(None), NOW);
    let ask = EffectStep::Ask(vec![document(0)]);
    assert_eq!(effects.pass(NOW), std::slice::from_ref(&ask));
    effects.answered(&snapshot(), vec![(document(0), Some(None))], |_| true, NOW);
    assert_eq!(effects.take_kept().closed, [document(0)]);
    assert_eq!(effects.pass(NOW), [ask]);
    let row = Some(Some(DocumentRow::default()));
    effects.answered(&snapshot(), vec![(document(0), row)], |_| false, NOW);
    let kept = effects.take_kept();
    assert_eq!((kept.opened, kept.entries[&document(0)].as_ref()), (vec![document(0)], None));
}

#[test]
fn what_waits_for_an_address_has_it_as_soon_as_it_is_free() {
    let row = |slug: &str, published| {
        let slug = Some(slug.to_owned());
        Some(Some(DocumentRow { published, slug, ..DocumentRow::default() }))
    };
    let taken = || Err(WorkFailure { reason: TAKEN.to_owned(), retry: Retry::After(document(0)) });
    let wants = |effects: &mut DocumentEffects, index, row| {
        effects.mark(document(index), Mark::Changed(None), NOW);
        assert_eq!(effects.pass(NOW), [EffectStep::Ask(vec![document(index)])]);
        effects.answered(&snapshot(), vec![(document(index), row)], |_| true, NOW);
        assert_eq!(effects.pass(NOW).len(), 1);
    };
    let mut effects = DocumentEffects::default();
    wants(&mut effects, 1, row("s", true));
    effects.ended(&document(1), taken(), NOW);
    assert_eq!((effects.counts(), effects.deadline(NOW)), ((0, 1), None), "it is the other's");
    wants(&mut effects, 0, row("s", false));
    effects.ended(&document(0), Ok(()), NOW);
    assert_eq!(effects.pass(NOW), [EffectStep::Ask(vec![document(1)])], "it is free now");
    // The one that has it is going to be seen to.
    effects.answered(&snapshot(), vec![(document(1), row("s", true))], |_| true, NOW);
    assert_eq!(effects.pass(NOW).len(), 1);
    wants(&mut effects, 0, row("s", false));
    effects.ended(&document(1), taken(), NOW);
    assert_eq!(effects.counts(), (2, 0), "nothing is given up");
}

#[test]
fn a_row_that_was_deleted_stays_so_and_one_that_was_missing_is_looked_for_again() {
    let mut effects = DocumentEffects::default();
    let gone = |gone| PendingEffect { gone: Some(gone), ..PendingEffect::default() };
    let changed =
        PendingEffect { is_changed: true, xid: Some(u32::MAX), ..PendingEffect::default() };
    let kept = [
        (document(0), gone(Gone::Deleted)),
        (document(1), gone(Gone::Missing)),
        (document(2), changed),
    ];
    effects.resume(kept.into(), NOW);
    effects.interrupted(NOW);
    let steps = [
        EffectStep::Do(document(0), Work::Delete(Gone::Deleted)),
        EffectStep::Ask(vec![document(1), document(2)]),
    ];
    assert_eq!(effects.pass(NOW), steps);
    // What another history had called a transaction nobody has to see.
    let row = || Some(Some(DocumentRow::default()));
    let answers = vec![(document(1), row()), (document(2), row())];
    effects.answered(&snapshot(), answers, |_| false, NOW);
    assert_eq!(effects.counts(), (1, 0));
}

#[test]
fn what_no_row_can_have_is_forgotten_and_a_kind_that_is_not_there_waits() {
    let mut effects = DocumentEffects::default();
    let note = DocumentId::new("note", "1").expect("a name");
    effects.mark(document(0), Mark::Changed(None), NOW);
    effects.mark(note.clone(), Mark::Deleted, NOW);
    effects.know(["file".to_owned()].into(), |other| *other != document(0));
    assert_eq!((effects.pass(NOW), effects.counts()), (vec![], (0, 0)));
    assert_eq!(effects.take_kept().entries[&document(0)], None);
    effects.know(["file".to_owned(), "note".to_owned()].into(), |_| true);
    assert_eq!(effects.pass(NOW), [EffectStep::Do(note, Work::Delete(Gone::Deleted))]);
}
