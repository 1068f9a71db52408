//! Histories of changes, people and answers, held against a Postgres in which a commit is streamed before it is
//! visible.

use proptest::prelude::*;
use rowtide_feed::{Change, RowChange};
use rowtide_plan::catalog::{
    Catalog, CatalogColumn, CatalogTable, ColumnInput, ReplicaIdentity, TableStreaming,
};
use rowtide_plan::definition::Definition;
use rowtide_plan::row::{Image, Row};
use rowtide_plan::value::ColumnType;
use rowtide_protocol::Lsn;

use super::*;

const BOARD: TableId = TableId(0);
const MEMBER: TableId = TableId(1);

fn table(oid: u32, name: &str, column: &str) -> CatalogTable {
    let column = CatalogColumn {
        name: column.to_owned(),
        kind: ColumnType::Text,
        type_oid: 25,
        type_name: "text".to_owned(),
        not_null: true,
        toastable: true,
        deterministic: true,
        labels: Vec::new(),
        input: ColumnInput { type_name: "text".to_owned(), ..ColumnInput::default() },
    };
    CatalogTable {
        oid,
        schema: "public".to_owned(),
        name: name.to_owned(),
        primary_key: vec![column.name.clone()],
        columns: vec![column],
        indexes: Vec::new(),
        replica_identity: ReplicaIdentity::Full,
        row_security: false,
        insert_trigger: false,
        streaming: TableStreaming::default(),
    }
}

fn plan() -> Plan {
    let text = r#"
[tables.board]
visible = 'true'
[documents.board]
table = "board"
protocol = "tlsync"
read = 'id IN (SELECT board FROM member)'
edit = 'false'
"#;
    let definition = Definition::parse("rowtide.toml", text).unwrap();
    let tables = vec![table(1, "board", "id"), table(2, "member", "board")];
    let catalog = Catalog { tables, ..Catalog::default() };
    rowtide_plan::compile::compile(&definition, &catalog).unwrap()
}

/// What a row says, before the members are looked at.
const STATES: [Standing; 5] =
    [Standing::Missing, Standing::Gone, Standing::Forbidden, Standing::Read, Standing::Edit];

#[derive(Clone, Debug)]
struct Write {
    /// Of a document, or of the members: whether everybody is one.
    document: Option<usize>,
    state: usize,
    is_visible: bool,
    is_streamed: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Write(Option<usize>, usize),
    BecomesVisible(usize),
    Stream,
    Come(usize),
    Leave(usize),
    TakeSnapshot,
    Answer,
    Fail,
    Wait(u64),
    Begin,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (proptest::option::weighted(0.7, 0..3usize), 0..5usize).prop_map(|(d, s)| Step::Write(d, s)),
        4 => (0..6usize).prop_map(Step::BecomesVisible),
        4 => Just(Step::Stream),
        3 => (0..3usize).prop_map(Step::Come),
        1 => (0..9usize).prop_map(Step::Leave),
        4 => Just(Step::TakeSnapshot),
        4 => Just(Step::Answer),
        1 => Just(Step::Fail),
        3 => (1..1_500u64).prop_map(Step::Wait),
        1 => Just(Step::Begin),
    ];
    proptest::collection::vec(step, 1..80)
}

struct World {
    plan: Plan,
    watching: Watching,
    now: Duration,
    /// The first have the ids 1, 2, and so on.
    writes: Vec<Write>,
    asked: Option<Vec<MemberId>>,
    /// How many had been streamed then.
    streamed: usize,
    /// Up to where writes were made, and which of them were visible.
    snapshot: Option<Vec<bool>>,
    next: u64,
    here: BTreeMap<MemberId, (usize, Option<Standing>)>,
}

impl World {
    fn new() -> World {
        let (watching, now) = (Watching::default(), Duration::from_secs(100));
        let (asked, snapshot) = (None, None);
        let (writes, here) = (Vec::new(), BTreeMap::new());
        let (plan, streamed, next) = (plan(), 0, 0);
        World { plan, watching, now, writes, asked, streamed, snapshot, next, here }
    }

    fn document(index: usize) -> DocumentId {
        DocumentId::new("board", &format!("d{index}")).unwrap()
    }

    fn truth(&self, document: usize, visible: &[bool]) -> Standing {
        let seen = self.writes.iter().zip(visible).filter(|(_, visible)| **visible);
        let (mut row, mut is_member) = (Standing::Missing, false);
        for (write, _) in seen {
            match write.document {
                Some(of) if of == document => row = STATES[write.state],
                None => is_member = write.state % 2 == 1,
                Some(_) => {}
            }
        }
        if row == Standing::Forbidden && is_member { Standing::Read } else { row }
    }

    fn visible(&self) -> Vec<bool> {
        self.writes.iter().map(|write| write.is_visible).collect()
    }

    fn transaction(&self, index: usize) -> Transaction {
        let write = &self.writes[index];
        let key = |id: &str| format!("{{\"id\":\"{id}\"}}").into_bytes().into();
        let image = |key| Image { key, kept: [].into(), topics: [].into() };
        let (table, image) = match write.document {
            Some(document) => (BOARD, image(key(World::document(document).id()))),
            None => (MEMBER, image(key("m"))),
        };
        let row = if write.document.is_some() && write.state == 0 {
            RowChange::Delete(image)
        } else {
            RowChange::Insert(Arc::new(Row { image, json: "{}".into() }))
        };
        Transaction {
            lsn: Lsn(index as u64 + 1),
            xid: index as u32 + 1,
            commit_time_us: 0,
            truncated: Vec::new(),
            changes: Changes::Rows(vec![Change { table, row }]),
            acknowledgements: Vec::new(),
        }
    }

    fn stream(&mut self) {
        let Some(index) = self.writes.iter().position(|write| !write.is_streamed) else { return };
        self.writes[index].is_streamed = true;
        self.watching.follow(&self.plan, &self.transaction(index), self.now);
    }

    /// The standing that is told is true of a moment that is not before what was streamed of it when it was asked for.
    fn carry(&mut self) {
        for effect in self.watching.pass(self.now) {
            match effect {
                WatchEffect::Ask(asked) => {
                    assert!(self.asked.is_none(), "one at a time");
                    self.asked = Some(asked);
                    let is_not = |write: &Write| !write.is_streamed;
                    self.streamed =
                        self.writes.iter().position(is_not).unwrap_or(self.writes.len());
                }
                WatchEffect::Tell(member, MemberTold::Unknown) => drop(self.here.remove(&member)),
                WatchEffect::Tell(member, MemberTold::May(standing)) => {
                    let (document, told) = self.here.get_mut(&member).expect("they are there");
                    assert_ne!(*told, Some(standing), "it is news");
                    *told = Some(standing);
                    let document = *document;
                    self.holds(document, standing);
                    if !matches!(standing, Standing::Read | Standing::Edit) {
                        self.here.remove(&member);
                    }
                }
                WatchEffect::Name(..) => {}
            }
        }
    }

    fn holds(&self, document: usize, standing: Standing) {
        let snapshot = self.snapshot.as_ref().expect("it was just answered");
        assert_eq!(self.truth(document, snapshot), standing);
        for (index, write) in self.writes[..self.streamed].iter().enumerate() {
            if write.document.is_none_or(|of| of == document) {
                assert!(snapshot.get(index) == Some(&true), "a streamed change was not seen");
            }
        }
    }

    fn answer(&mut self) {
        let Some(asked) = self.asked.take() else { return };
        let visible = self.snapshot.take().unwrap_or_else(|| self.visible());
        let running = visible.iter().enumerate().filter(|(_, visible)| !**visible);
        let running = running.map(|(index, _)| index as u64 + 1).collect();
        let snapshot = TransactionSnapshot::new(visible.len() as u64 + 1, running);
        let answered = |member: &MemberId| {
            let document = self.watching.member(*member)?.0.clone();
            let index = (0..3).find(|index| World::document(*index) == document)?;
            answer(self.truth(index, &visible), None)
        };
        let answers = asked.iter().map(answered).collect();
        // Those that were streamed since it was taken are not in it.
        self.snapshot = Some(visible);
        self.watching.answered(&snapshot, answers, self.now);
        self.carry();
        self.snapshot = None;
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write(document, state) => {
                // Whoever writes a row waits until the write before is visible.
                let waits = |write: &Write| write.document == document && !write.is_visible;
                if !self.writes.iter().any(waits) {
                    let (is_visible, is_streamed) = (false, false);
                    self.writes.push(Write { document, state, is_visible, is_streamed });
                }
            }
            Step::BecomesVisible(nth) => {
                let hidden = self.writes.iter_mut().filter(|write| !write.is_visible);
                if let Some(write) = hidden.into_iter().nth(nth) {
                    write.is_visible = true;
                }
            }
            Step::Stream => self.stream(),
            Step::Come(document) => {
                self.next += 1;
                let member = MemberId(self.next);
                self.here.insert(member, (document, None));
                self.watching.come(member, World::document(document), None, self.now);
            }
            Step::Leave(nth) => {
                if let Some(member) = self.here.keys().nth(nth).copied() {
                    self.here.remove(&member);
                    self.watching.leave(member);
                }
            }
            Step::TakeSnapshot => {
                if self.asked.is_some() && self.snapshot.is_none() {
                    self.snapshot = Some(self.visible());
                }
            }
            Step::Answer => self.answer(),
            Step::Fail => {
                if self.asked.take().is_some() {
                    self.snapshot = None;
                    self.watching.failed(Duration::from_millis(100), self.now);
                }
            }
            Step::Wait(ms) => self.now += Duration::from_millis(ms),
            Step::Begin => {
                let streamed = (0..self.writes.len()).filter(|at| self.writes[*at].is_streamed);
                let recent: Vec<_> = streamed.map(|at| Arc::new(self.transaction(at))).collect();
                self.watching.begin(&self.plan, &recent, self.now);
            }
        }
        if self.snapshot.is_none() || self.asked.is_some() {
            self.carry();
        }
    }

    /// Postgres answers, and nothing more happens.
    fn come_to_rest(&mut self) {
        self.writes.iter_mut().for_each(|write| write.is_visible = true);
        while self.writes.iter().any(|write| !write.is_streamed) {
            self.stream();
        }
        self.snapshot = None;
        self.carry();
        for _ in 0..200 {
            self.answer();
            let Some(deadline) = self.watching.deadline() else { break };
            self.now = self.now.max(deadline);
            self.carry();
        }
        assert_eq!(self.watching.deadline(), None, "nothing is left to do");
        let visible = self.visible();
        for (document, told) in self.here.values() {
            let truth = self.truth(*document, &visible);
            assert_eq!(*told, Some(truth));
        }
        assert_eq!(self.watching.members(), self.here.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn what_is_told_is_true_and_not_older_than_what_was_streamed(steps in steps()) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        world.come_to_rest();
    }
}

fn answer(standing: Standing, name: Option<&str>) -> Option<StandingAnswer> {
    let name = name.map(str::to_owned);
    Some(StandingAnswer { standing, name, may_restore: false, row: None })
}

const NOTHING: (u64, Vec<u64>) = (1, Vec::new());

fn nothing_running() -> TransactionSnapshot {
    TransactionSnapshot::new(NOTHING.0, NOTHING.1)
}

#[test]
fn a_row_that_is_not_there_yet_is_looked_for_before_it_is_missing() {
    let (mut watching, mut now) = (Watching::default(), Duration::ZERO);
    watching.come(MemberId(1), World::document(0), None, now);
    let ask = WatchEffect::Ask(vec![MemberId(1)]);
    let mut asked = 0;
    loop {
        assert_eq!(watching.pass(now), std::slice::from_ref(&ask));
        asked += 1;
        watching.answered(&nothing_running(), vec![answer(Standing::Missing, None)], now);
        match watching.pass(now).first() {
            None => now = watching.deadline().expect("it is asked again"),
            Some(effect) => {
                let told = MemberTold::May(Standing::Missing);
                assert_eq!(*effect, WatchEffect::Tell(MemberId(1), told));
                break;
            }
        }
    }
    assert!(now >= MISSING_FOR && asked > 2, "{now:?} {asked}");
    assert_eq!(watching.members(), 0);
}

#[test]
fn who_is_there_stays_for_a_while_when_nobody_answers_and_who_comes_for_a_shorter_one() {
    let (mut watching, mut now) = (Watching::default(), Duration::ZERO);
    let plan = plan();
    watching.come(MemberId(1), World::document(0), None, now);
    watching.pass(now);
    watching.answered(&nothing_running(), vec![answer(Standing::Edit, None)], now);
    let told = WatchEffect::Tell(MemberId(1), MemberTold::May(Standing::Edit));
    assert_eq!(watching.pass(now), [told]);
    assert_eq!(watching.deadline(), None);
    let mut world = World::new();
    let (is_visible, is_streamed) = (true, true);
    world.writes.push(Write { document: Some(0), state: 4, is_visible, is_streamed });
    watching.follow(&plan, &world.transaction(0), now);
    watching.come(MemberId(2), World::document(1), None, now);
    let mut gone = Vec::new();
    while watching.members() > 0 {
        for effect in watching.pass(now) {
            match effect {
                WatchEffect::Ask(_) => watching.failed(Duration::from_secs(1), now),
                WatchEffect::Tell(member, MemberTold::Unknown) => gone.push((member, now)),
                other => panic!("{other:?}"),
            }
        }
        now = watching.deadline().map_or(now, |deadline| deadline.max(now));
    }
    assert_eq!(gone, [(MemberId(2), UNKNOWN_AT_CONNECT), (MemberId(1), UNKNOWN_WHILE_OPEN)]);
}

#[test]
fn a_document_is_told_the_name_of_its_row_once_for_each_name() {
    let (mut watching, now) = (Watching::default(), Duration::ZERO);
    let plan = plan();
    watching.come(MemberId(1), World::document(0), None, now);
    watching.come(MemberId(2), World::document(0), None, now);
    watching.pass(now);
    let first = answer(Standing::Edit, Some("a"));
    watching.answered(&nothing_running(), vec![first.clone(), first], now);
    let names = |effects: Vec<WatchEffect>| -> Vec<String> {
        let name = |effect| match effect {
            WatchEffect::Name(_, name) => Some(name),
            _ => None,
        };
        effects.into_iter().filter_map(name).collect()
    };
    assert_eq!(names(watching.pass(now)), ["a"]);
    watching.begin(&plan, &[], now);
    watching.pass(now);
    let (same, other) = (answer(Standing::Edit, Some("a")), answer(Standing::Edit, Some("b")));
    watching.answered(&nothing_running(), vec![same, other], now);
    assert_eq!(names(watching.pass(now)), ["b"]);
}

/// Somebody who may edit, and was told so.
fn one_who_edits() -> Watching {
    let mut watching = Watching::default();
    watching.come(MemberId(1), World::document(0), None, Duration::ZERO);
    watching.pass(Duration::ZERO);
    let edit = answer(Standing::Edit, None);
    watching.answered(&nothing_running(), vec![edit], Duration::ZERO);
    let told = WatchEffect::Tell(MemberId(1), MemberTold::May(Standing::Edit));
    assert_eq!(watching.pass(Duration::ZERO), [told]);
    watching
}

#[test]
fn while_the_stream_is_interrupted_everybody_is_asked_for_again_and_again() {
    let (mut watching, mut now) = (one_who_edits(), Duration::ZERO);
    assert_eq!(watching.deadline(), None);
    watching.streams(false, now);
    for _ in 0..3 {
        now = watching.deadline().expect("they are asked for");
        watching.streams(false, now);
        let ask = WatchEffect::Ask(vec![MemberId(1)]);
        assert_eq!(watching.pass(now), [ask]);
        watching.answered(&nothing_running(), vec![answer(Standing::Edit, None)], now);
        assert_eq!(watching.pass(now), []);
    }
    assert_eq!(now, 3 * ASK_WITHOUT_STREAM);
    // Where Postgres does not answer either, nobody stays for long.
    let told = loop {
        now = watching.deadline().expect("they are asked for").max(now);
        match watching.pass(now).pop() {
            Some(WatchEffect::Ask(_)) => watching.failed(Duration::from_secs(1), now),
            Some(told) => break told,
            None => {}
        }
    };
    assert_eq!(told, WatchEffect::Tell(MemberId(1), MemberTold::Unknown));
    assert_eq!(now, 4 * ASK_WITHOUT_STREAM + UNKNOWN_WHILE_OPEN);
    let mut watching = one_who_edits();
    watching.streams(false, now);
    watching.streams(true, now);
    assert_eq!(watching.deadline(), None);
}

#[test]
fn a_table_that_changes_all_the_time_keeps_nobody_out_and_nobody_unasked() {
    let mut world = World::new();
    let count = 2 * ASKED_AT_ONCE as u64 + 7;
    for member in 1..=count {
        world.watching.come(MemberId(member), World::document(0), None, world.now);
    }
    let mut told = BTreeSet::new();
    let began = world.now;
    let mut is_answered = true;
    while world.now < began + UNKNOWN_AT_CONNECT / 2 {
        // Each answer has seen all but the change that came while it was under way.
        world.now += ASK_AGAIN;
        for effect in world.watching.pass(world.now) {
            match effect {
                WatchEffect::Ask(asked) => (world.asked, is_answered) = (Some(asked), false),
                WatchEffect::Tell(member, MemberTold::May(Standing::Read)) => {
                    assert!(told.insert(member));
                }
                other => panic!("{other:?}"),
            }
        }
        let (is_visible, is_streamed) = (true, false);
        world.writes.push(Write { document: None, state: 1, is_visible, is_streamed });
        world.stream();
        if !is_answered {
            is_answered = true;
            let asked = world.asked.take().expect("it was asked");
            let answers = asked.iter().map(|_| answer(Standing::Read, None)).collect();
            let last = world.writes.len() as u64;
            let snapshot = TransactionSnapshot::new(last, Vec::new());
            world.watching.answered(&snapshot, answers, world.now);
        }
    }
    assert_eq!(told.len() as u64, count);
    assert_eq!(world.watching.members() as u64, count);
    assert!(world.watching.deadline().is_some(), "the last change is to be asked for");
}

#[test]
fn an_answer_that_the_stream_has_overtaken_by_beginning_anew_does_not_count() {
    let (mut watching, now) = (Watching::default(), Duration::ZERO);
    watching.come(MemberId(1), World::document(0), None, now);
    let ask = WatchEffect::Ask(vec![MemberId(1)]);
    assert_eq!(watching.pass(now), std::slice::from_ref(&ask));
    watching.begin(&plan(), &[], now);
    watching.answered(&nothing_running(), vec![answer(Standing::Edit, None)], now);
    assert_eq!(watching.pass(now), []);
    assert_eq!(watching.pass(now + ASK_AGAIN), [ask]);
}
