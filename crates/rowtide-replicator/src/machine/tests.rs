use rowtide_feed::{Changes, LogExtent};
use rowtide_plan::catalog::{
    Catalog, CatalogColumn, CatalogTable, ColumnInput, ReplicaIdentity, TableStreaming,
};
use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::value::ColumnType;
use rowtide_postgres::unseen::Unseen;
use rowtide_postgres::watch::{
    ObservedColumn, ObservedMembership, ObservedPublication, ObservedRights, ObservedType,
};

use super::*;

const SYSTEM: SystemIdentity = SystemIdentity { cluster: 1, database: 2, timeline: 1 };

fn names() -> Names {
    Names::of("test").unwrap()
}

/// Rowtide's own table, as it is when it is set up.
fn own_table() -> ObservedTable {
    let membership = ObservedMembership {
        oid: Some(1),
        version: Some(1),
        named: true,
        filtered: false,
        listed: false,
    };
    ObservedTable {
        schema: names().schema,
        name: "client".to_owned(),
        oid: 1,
        version: 1,
        name_version: 1,
        schema_version: 1,
        schema_incidental: String::new(),
        file: 1,
        incidental: String::new(),
        kind: "r".to_owned(),
        persistence: "p".to_owned(),
        identity: "d".to_owned(),
        identity_columns: Vec::new(),
        key: vec![1],
        row_security: false,
        row_security_forced: false,
        other_publications: Vec::new(),
        row_security_concerns: false,
        row_security_active: false,
        readable: true,
        rights: ObservedRights { insert: true, update: true, delete: true },
        children: false,
        partitions: Vec::new(),
        membership: Some(membership),
        columns: Vec::new(),
    }
}

fn looked() -> Looked {
    let publication = ObservedPublication {
        oid: 1,
        version: 1,
        insert: true,
        update: true,
        delete: true,
        truncate: true,
        via_root: false,
        generated: None,
    };
    let plan = Plan::default();
    Looked {
        observed: Observed {
            publication: Some(publication),
            tables: vec![own_table()],
            types: Vec::new(),
        },
        plan: Arc::new(plan),
        rejected: Vec::new(),
        unwritable: Vec::new(),
        own: Vec::new(),
        system: SYSTEM,
        wal_end: Lsn(0),
    }
}

fn slot(confirmed: u64, wal_ends: u64) -> SlotFound {
    SlotFound {
        confirmed: Lsn(confirmed),
        wal_ends: Lsn(wal_ends),
        system: SYSTEM,
        remembers_partitions: false,
    }
}

fn transaction(lsn: u64) -> Brought {
    Brought::Transaction(Arc::new(Transaction {
        lsn: Lsn(lsn),
        xid: lsn as u32,
        commit_time_us: 0,
        truncated: Vec::new(),
        changes: Changes::Rows(Vec::new()),
        acknowledgements: Vec::new(),
    }))
}

fn position(lsn: u64) -> Brought {
    Brought::Position { lsn: Lsn(lsn), time_us: 0 }
}

fn unseen(end: Option<u64>, unseen: Vec<Unseen>) -> Input {
    Input::Unseen(Ok(UnseenBehind { end: end.map(Lsn), unseen }))
}

fn extent(oldest: u64, durable: u64) -> Option<LogExtent> {
    Some(LogExtent { oldest: Lsn(oldest), durable: Lsn(durable) })
}

/// Drives a core: each input must find it waiting for what it answers.
struct Driven {
    core: Core,
    next: Next,
    effects: Vec<Effect>,
    remembers_partitions: bool,
}

impl Driven {
    fn new() -> Driven {
        let core = Core::new(names());
        let (effects, remembers_partitions) = (Vec::new(), false);
        let mut driven = Driven { core, next: Next::Stream, effects, remembers_partitions };
        driven.tell(Input::Go);
        driven
    }

    fn tell(&mut self, input: Input) {
        let Step { effects, next } = self.core.step(input);
        self.effects = effects;
        if let Some(next) = next {
            self.next = next;
        }
    }

    /// As one that has nothing in its log; an epoch begins at `end`.
    fn begin_epoch(&mut self, confirmed: u64, end: u64) {
        assert!(matches!(self.next, Next::Look), "{:?}", self.next);
        self.tell(Input::Looked(Ok(Box::new(looked()))));
        self.connect(confirmed, end);
        assert!(matches!(self.next, Next::LookForUnseen(UnseenQuestion::BeforeEnd, _)));
        self.tell(unseen(Some(end), Vec::new()));
        let Next::BeginEpoch(_, at) = &self.next else { panic!("{:?}", self.next) };
        assert_eq!(*at, Lsn(end));
        self.tell(Input::EpochBegan(Some(Epoch(7))));
        assert!(matches!(self.next, Next::Stream));
    }

    fn connect(&mut self, confirmed: u64, end: u64) {
        assert!(matches!(self.next, Next::Connect(_)), "{:?}", self.next);
        let remembers_partitions = self.remembers_partitions;
        let found = SlotFound { remembers_partitions, ..slot(confirmed, end) };
        self.tell(Input::Connected(Ok(found)));
        let Next::OpenLog(of) = self.next.clone() else { panic!("{:?}", self.next) };
        let (epoch, extent) = (Epoch(1), None);
        let broken = Some(EpochReason::NewLog);
        self.tell(Input::LogOpened(Ok(LogFound { of, epoch, extent, broken, seen: None })));
    }

    /// It is told that the slot is lost, and takes the log's place after a pause.
    fn lose_slot_and_open_log(&mut self) {
        self.tell(Input::Connected(Err(StreamFailure::SlotLost("it is lost".to_owned()))));
        self.pause();
        self.tell(Input::Go);
        self.tell(Input::Looked(Ok(Box::new(looked()))));
        let Next::OpenLog(of) = self.next.clone() else { panic!("{:?}", self.next) };
        let (epoch, extent, broken) = (Epoch(1), extent(5, 30), None);
        self.tell(Input::LogOpened(Ok(LogFound { of, epoch, extent, broken, seen: None })));
    }

    fn handed_on(&self) -> Vec<u64> {
        let events = self.effects.iter().filter_map(|effect| match effect {
            Effect::HandOn(events) => Some(events),
            _ => None,
        });
        events.flat_map(|events| events.iter()).filter_map(|e| Some(e.lsn()?.0)).collect()
    }

    fn confirmed(&self) -> Option<Lsn> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Confirm(lsn) => Some(*lsn),
            _ => None,
        })
    }

    fn pause(&self) -> Duration {
        let Next::Wait(pause) = self.next else { panic!("{:?}", self.next) };
        pause
    }
}

#[test]
fn an_epoch_begins_at_the_end_of_wal_and_passes_over_what_is_before() {
    let mut driven = Driven::new();
    driven.begin_epoch(10, 20);
    let begun = driven.effects.iter().find_map(|effect| match effect {
        Effect::Begin(generation, _) => Some((generation.epoch, generation.position)),
        _ => None,
    });
    assert_eq!(begun, Some((Epoch(7), Lsn(20))));
    let brought = vec![transaction(12), position(15), transaction(20), transaction(25)];
    driven.tell(Input::Streamed(brought, None));
    assert_eq!(driven.handed_on(), [25]);
    let committed = Lsn(19);
    let unfit = StreamFailure::Unfit { table: "t".to_owned(), what: "x".to_owned(), committed };
    driven.tell(Input::Streamed(Vec::new(), Some(unfit)));
    assert!(matches!(driven.next, Next::Stream), "loads of this epoch have it");
}

#[test]
fn where_partitions_are_remembered_the_stream_begins_anew_at_the_epoch() {
    let mut driven = Driven::new();
    driven.remembers_partitions = true;
    driven.begin_epoch(10, 20);
    driven.tell(Input::Streamed(vec![transaction(12)], None));
    assert!(matches!(driven.next, Next::Stream));
    // What this connection brings behind the epoch may lack rows of a partition.
    driven.tell(Input::Streamed(vec![position(15), transaction(25), transaction(30)], None));
    assert_eq!((driven.handed_on(), driven.confirmed()), (Vec::new(), Some(Lsn(20))));
    assert!(driven.effects.iter().any(|effect| matches!(effect, Effect::Disconnect)));
    let Next::Connect(_) = driven.next else { panic!("{:?}", driven.next) };
    let found = SlotFound { remembers_partitions: true, ..slot(20, 30) };
    driven.tell(Input::Connected(Ok(found)));
    let Next::OpenLog(of) = driven.next.clone() else { panic!("{:?}", driven.next) };
    let extent = Some(LogExtent { oldest: Lsn(20), durable: Lsn(20) });
    let (epoch, broken) = (Epoch(7), None);
    driven.tell(Input::LogOpened(Ok(LogFound { of, epoch, extent, broken, seen: None })));
    driven.tell(Input::LogRead(Ok(LogRead { expected: Vec::new(), recent: Vec::new() })));
    assert!(matches!(driven.next, Next::Stream));
    driven.tell(Input::Streamed(vec![transaction(25), transaction(30)], None));
    assert_eq!(driven.handed_on(), [25, 30]);
}

#[test]
fn what_is_durable_and_was_brought_is_confirmed() {
    let mut driven = Driven::new();
    driven.begin_epoch(10, 20);
    driven.tell(Input::Streamed(vec![transaction(12)], None));
    assert_eq!(driven.confirmed(), Some(Lsn(12)), "the log begins behind it");
    driven.tell(Input::Streamed(vec![transaction(30)], None));
    assert_eq!(driven.confirmed(), Some(Lsn(20)));
    driven.tell(Input::Durable(Lsn(30)));
    assert_eq!(driven.confirmed(), Some(Lsn(30)));
    driven.tell(Input::Durable(Lsn(30)));
    assert_eq!(driven.confirmed(), None);
}

#[test]
fn an_epoch_waits_for_a_commit_that_waits_for_a_standby_and_a_moment_for_one_at_work() {
    let one = |waits| vec![Unseen { xid: 5, waits, who: "transaction 5".to_owned() }];
    let mut driven = Driven::new();
    driven.tell(Input::Looked(Ok(Box::new(looked()))));
    driven.connect(10, 20);
    driven.tell(unseen(Some(20), one(true)));
    let said = |effect: &Effect| matches!(effect, Effect::Status(ReplicatorStatus::Waiting(why)) if why.contains("transaction 5"));
    assert!(driven.effects.iter().any(said));
    for _ in 0..50 {
        let Next::LookForUnseen(question, _) = &driven.next else { panic!("{:?}", driven.next) };
        assert_eq!(*question, UnseenQuestion::Still(vec![5]));
        driven.tell(unseen(None, one(true)));
    }
    driven.tell(unseen(None, one(false)));
    let Next::BeginEpoch(_, at) = &driven.next else { panic!("{:?}", driven.next) };
    assert_eq!(*at, Lsn(20), "where WAL ended when it was first asked");
    let mut driven = Driven::new();
    driven.tell(Input::Looked(Ok(Box::new(looked()))));
    driven.connect(10, 20);
    driven.tell(unseen(Some(20), one(false)));
    assert!(matches!(driven.next, Next::LookForUnseen(..)));
}

#[test]
fn whoever_cannot_look_at_the_tables_is_not_ready_whatever_is_streamed_until_they_can() {
    let mut driven = Driven::new();
    driven.begin_epoch(10, 20);
    let status = |driven: &Driven| {
        let status = driven.effects.iter().rev().find_map(|effect| match effect {
            Effect::Status(status) => Some(status.clone()),
            _ => None,
        });
        status.map(|status| matches!(status, ReplicatorStatus::Streaming))
    };
    driven.tell(Input::Streamed(vec![position(25)], None));
    assert_eq!(status(&driven), Some(true));
    driven.tell(Input::Blind("too many connections".to_owned()));
    assert_eq!(status(&driven), Some(false));
    driven.tell(Input::Streamed(vec![position(30)], None));
    assert_eq!(status(&driven), None);
    driven.tell(Input::Observed(Box::new(looked().observed)));
    assert_eq!(status(&driven), Some(true));
}

#[test]
fn a_commit_that_took_longer_than_a_moment_begins_the_epoch_once_more() {
    let at_work = || vec![Unseen { xid: 15, waits: false, who: "transaction 15".to_owned() }];
    let mut driven = Driven::new();
    driven.tell(Input::Looked(Ok(Box::new(looked()))));
    driven.connect(10, 20);
    driven.tell(unseen(Some(20), at_work()));
    while matches!(driven.next, Next::LookForUnseen(..)) {
        driven.tell(unseen(None, at_work()));
    }
    driven.tell(Input::EpochBegan(Some(Epoch(7))));
    driven.tell(Input::Streamed(vec![transaction(12), transaction(15), transaction(25)], None));
    assert!(driven.handed_on().is_empty(), "a load may not have seen 15");
    let why = |effect: &Effect| matches!(effect, Effect::Warn(why) if why.contains("missing_transactions"));
    assert!(driven.effects.iter().any(why), "{:?}", driven.effects);
}

#[test]
fn a_connection_that_brings_nothing_does_not_shorten_the_pause() {
    let mut driven = Driven::new();
    driven.begin_epoch(10, 20);
    let fails = || Input::Streamed(Vec::new(), Some(StreamFailure::Ended("it ended".to_owned())));
    driven.tell(fails());
    let mut last = driven.pause();
    let log = |ends| LogFound {
        of: driven.core.log.clone().unwrap().of,
        epoch: Epoch(7),
        extent: extent(20, ends),
        broken: None,
        seen: None,
    };
    let (log, later) = (log(20), log(30));
    let connect = |driven: &mut Driven, log: &LogFound| {
        driven.tell(Input::Go);
        driven.tell(Input::Looked(Ok(Box::new(looked()))));
        driven.tell(Input::Connected(Ok(slot(20, 40))));
        driven.tell(Input::LogOpened(Ok(log.clone())));
        driven.tell(Input::LogRead(Ok(LogRead { expected: Vec::new(), recent: Vec::new() })));
        assert!(matches!(driven.next, Next::Stream));
    };
    for _ in 0..10 {
        connect(&mut driven, &log);
        driven.tell(Input::Streamed(vec![position(21)], None));
        driven.tell(fails());
        assert!(driven.pause() >= last && driven.pause() <= MAX_PAUSE);
        last = driven.pause();
    }
    assert_eq!(last, MAX_PAUSE);
    connect(&mut driven, &log);
    driven.tell(Input::Streamed(vec![transaction(30)], None));
    assert_eq!(driven.handed_on(), [30]);
    driven.tell(fails());
    assert_eq!(driven.pause(), MIN_PAUSE);
    connect(&mut driven, &later);
    driven.tell(Input::Streamed(vec![position(35)], None));
    assert_eq!(driven.handed_on(), [35]);
}

#[test]
fn other_transactions_than_those_of_the_log_are_not_handed_on_and_end_the_epoch() {
    let mut driven = Driven::new();
    driven.begin_epoch(10, 20);
    driven.tell(Input::Streamed(vec![transaction(30)], None));
    let ends = Some(StreamFailure::Ended("it ended".to_owned()));
    driven.tell(Input::Streamed(Vec::new(), ends));
    driven.tell(Input::Go);
    driven.tell(Input::Looked(Ok(Box::new(looked()))));
    driven.tell(Input::Connected(Ok(slot(20, 40))));
    let of = driven.core.log.clone().unwrap().of;
    let (epoch, extent, broken) = (Epoch(7), extent(20, 30), None);
    driven.tell(Input::LogOpened(Ok(LogFound { of, epoch, extent, broken, seen: None })));
    let expected = vec![Committed { lsn: Lsn(30), xid: 30, commit_time_us: 0 }];
    driven.tell(Input::LogRead(Ok(LogRead { expected, recent: Vec::new() })));
    driven.tell(Input::Streamed(vec![transaction(29), transaction(41)], None));
    assert_eq!(driven.handed_on(), Vec::<u64>::new());
    assert_eq!(driven.confirmed(), None);
    assert_eq!(driven.core.broken, Some(EpochReason::OtherTransactions));
}

/// Nobody is there to see it, and nothing of it is streamed.
#[test]
fn a_log_of_a_column_that_was_dropped_and_added_again_is_not_gone_on_with() {
    let column = |number| ObservedColumn {
        number,
        name: "hidden".to_owned(),
        type_oid: 16,
        modifier: -1,
        not_null: true,
        generated: String::new(),
        numbered: String::new(),
        collation: 0,
        storage: "p".to_owned(),
        default: None,
        version: 1,
        incidental: String::new(),
    };
    let identity = |number| {
        let mut driven = Driven::new();
        let mut looked = looked();
        looked.observed.tables[0].columns = vec![column(number)];
        driven.tell(Input::Looked(Ok(Box::new(looked))));
        driven.tell(Input::Connected(Ok(slot(40, 40))));
        let Next::OpenLog(of) = driven.next else { panic!("{:?}", driven.next) };
        of
    };
    assert_eq!(identity(3), identity(3));
    assert_ne!(identity(3), identity(4));
}

#[test]
fn a_slot_is_made_only_by_who_has_the_log_whose_epoch_is_over_then() {
    let mut driven = Driven::new();
    driven.tell(Input::Looked(Ok(Box::new(looked()))));
    driven.lose_slot_and_open_log();
    assert!(matches!(driven.next, Next::Connect(_)), "another may have made it meanwhile");
    driven.lose_slot_and_open_log();
    assert!(matches!(driven.next, Next::EndLog(_)));
    driven.tell(Input::EpochBegan(Some(Epoch(2))));
    assert!(matches!(driven.next, Next::MakeSlot { anew: true }));
    driven.tell(Input::SlotMade(Ok(())));
    driven.tell(Input::Connected(Ok(slot(40, 40))));
    let Next::OpenLog(of) = driven.next.clone() else { panic!("{:?}", driven.next) };
    let (epoch, extent, broken) = (Epoch(2), None, None);
    driven.tell(Input::LogOpened(Ok(LogFound { of, epoch, extent, broken, seen: None })));
    driven.tell(unseen(Some(41), Vec::new()));
    driven.tell(Input::EpochBegan(Some(Epoch(3))));
    let reason = driven.effects.iter().find_map(|effect| match effect {
        Effect::EpochBegan { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, Some(EpochReason::SlotLost));
}

#[test]
fn a_slot_that_another_has_made_meanwhile_costs_no_epoch() {
    let mut driven = Driven::new();
    driven.tell(Input::Looked(Ok(Box::new(looked()))));
    driven.lose_slot_and_open_log();
    driven.tell(Input::Connected(Ok(slot(10, 30))));
    let Next::OpenLog(of) = driven.next.clone() else { panic!("{:?}", driven.next) };
    let (epoch, extent, broken) = (Epoch(1), extent(5, 30), None);
    driven.tell(Input::LogOpened(Ok(LogFound { of, epoch, extent, broken, seen: None })));
    assert!(matches!(driven.next, Next::ReadLog { behind: Lsn(10) }), "{:?}", driven.next);
}

fn with_labels(labels: &[(u32, &str, u32)]) -> Looked {
    let mut looked = looked();
    let labels = labels.iter().map(|(oid, label, by)| (*oid, (*label).to_owned(), *by)).collect();
    let (name, kind) = ("public.mood".to_owned(), "e".to_owned());
    let attributes = Vec::new();
    let mood = ObservedType { oid: 90, name, kind, base: 0, element: 0, labels, attributes };
    looked.observed.types.push(mood);
    looked
}

fn kept(effects: &[Effect]) -> Option<&Observed> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::KeepLook(observed) => Some(&**observed),
        _ => None,
    })
}

#[test]
fn what_has_changed_rows_while_no_server_ran_is_told_by_the_look_that_is_kept_with_the_log() {
    let before = with_labels(&[(1, "sad", 5)]).observed;
    for (now, continues) in [
        (with_labels(&[(1, "sad", 5)]), true),
        (with_labels(&[(1, "sad", 5), (2, "glad", 6)]), true),
        (with_labels(&[(1, "blue", 6)]), false),
        (with_labels(&[(1, "sad", 7)]), false),
    ] {
        let mut driven = Driven::new();
        let observed = now.observed.clone();
        driven.tell(Input::Looked(Ok(Box::new(now))));
        driven.tell(Input::Connected(Ok(slot(10, 30))));
        let Next::OpenLog(of) = driven.next.clone() else { panic!("{:?}", driven.next) };
        let (epoch, extent, broken) = (Epoch(1), extent(5, 30), None);
        let seen = Some(Box::new(before.clone()));
        driven.tell(Input::LogOpened(Ok(LogFound { of, epoch, extent, broken, seen })));
        if continues {
            driven.tell(Input::LogRead(Ok(LogRead { expected: Vec::new(), recent: Vec::new() })));
            driven.tell(unseen(None, Vec::new()));
        } else {
            assert!(matches!(driven.next, Next::EndLog(_)), "{:?}", driven.next);
            assert!(driven.effects.iter().any(|effect| matches!(effect, Effect::Warn(_))));
            driven.tell(Input::EpochBegan(Some(Epoch(2))));
            driven.tell(unseen(Some(31), Vec::new()));
            driven.tell(Input::EpochBegan(Some(Epoch(3))));
        }
        assert!(matches!(driven.next, Next::Stream));
        assert_eq!(kept(&driven.effects), Some(&observed));
    }
}

/// Until its epoch has begun: who starts meanwhile must find it, too.
#[test]
fn a_look_at_what_ends_the_epoch_is_not_kept() {
    let mut driven = Driven::new();
    driven.begin_epoch(10, 20);
    let begun = looked().observed;
    assert_eq!(kept(&driven.effects), Some(&begun));
    let mut incidental = begun.clone();
    incidental.tables[0].incidental.push('x');
    driven.tell(Input::Observed(Box::new(incidental.clone())));
    assert_eq!(kept(&driven.effects), Some(&incidental));
    let mut replaced = incidental;
    replaced.tables[0].oid += 1;
    driven.tell(Input::Observed(Box::new(replaced)));
    assert_eq!(kept(&driven.effects), None);
}

#[test]
fn who_stands_by_makes_no_slot_later() {
    let mut driven = Driven::new();
    driven.tell(Input::Looked(Ok(Box::new(looked()))));
    driven.tell(Input::Connected(Err(StreamFailure::SlotMissing("there is none".to_owned()))));
    driven.tell(Input::Go);
    driven.tell(Input::Looked(Ok(Box::new(looked()))));
    driven.tell(Input::LogOpened(Err(LogFailure::Taken("another has it".to_owned()))));
    driven.tell(Input::Go);
    assert!(matches!(driven.next, Next::Connect(_)));
    assert_eq!(driven.core.slot_action, SlotAction::Keep);
    assert_eq!(driven.core.broken, None);
}

#[test]
fn when_someone_cannot_follow_a_generation_begins_where_the_log_ends() {
    let mut driven = Driven::new();
    driven.begin_epoch(10, 20);
    driven.tell(Input::Outrun);
    assert!(driven.effects.iter().any(|effect| matches!(effect, Effect::EndGeneration)));
    driven.tell(Input::Looked(Ok(Box::new(looked()))));
    driven.tell(Input::Connected(Ok(slot(25, 40))));
    let Next::OpenLog(of) = driven.next.clone() else { panic!("{:?}", driven.next) };
    let (epoch, extent, broken) = (Epoch(7), extent(20, 30), None);
    driven.tell(Input::LogOpened(Ok(LogFound { of, epoch, extent, broken, seen: None })));
    let (expected, recent) = (Vec::new(), Vec::new());
    driven.tell(Input::LogRead(Ok(LogRead { expected, recent })));
    driven.tell(unseen(None, Vec::new()));
    let begun = driven.effects.iter().find_map(|effect| match effect {
        Effect::Begin(generation, _) => Some((generation.epoch, generation.position)),
        _ => None,
    });
    assert_eq!(begun, Some((Epoch(7), Lsn(30))));
}

#[test]
fn without_a_publication_nothing_is_streamed_and_with_one_an_epoch_begins() {
    let mut driven = Driven::new();
    let mut without = looked();
    without.observed.publication = None;
    driven.tell(Input::Looked(Ok(Box::new(without))));
    driven.pause();
    assert_eq!(driven.core.broken, Some(EpochReason::PublicationChanged));
    driven.tell(Input::Go);
    driven.begin_epoch(10, 20);
}

#[test]
fn without_the_acknowledgements_nothing_is_streamed() {
    let mut driven = Driven::new();
    let mut without = looked();
    without.observed.tables[0].membership = None;
    driven.tell(Input::Looked(Ok(Box::new(without))));
    driven.pause();
}

#[test]
fn who_stood_by_takes_the_place_as_it_finds_it() {
    let mut driven = Driven::new();
    driven.tell(Input::Looked(Ok(Box::new(looked()))));
    driven.tell(Input::Connected(Err(StreamFailure::SlotMissing("there is none".to_owned()))));
    driven.tell(Input::Go);
    driven.tell(Input::Looked(Ok(Box::new(looked()))));
    let taken = LogFailure::Taken("another server uses it".to_owned());
    driven.tell(Input::LogOpened(Err(taken)));
    assert_eq!(driven.pause(), STANDBY_LOOK);
    driven.tell(Input::Go);
    driven.tell(Input::Connected(Ok(slot(20, 30))));
    driven.tell(Input::Looked(Ok(Box::new(looked()))));
    driven.tell(Input::Connected(Ok(slot(20, 30))));
    let Next::OpenLog(of) = driven.next.clone() else { panic!("{:?}", driven.next) };
    let (epoch, extent, broken) = (Epoch(4), extent(5, 25), None);
    driven.tell(Input::LogOpened(Ok(LogFound { of, epoch, extent, broken, seen: None })));
    assert!(matches!(driven.next, Next::ReadLog { behind: Lsn(20) }), "the other made the slot");
}

/// What the operator is warned of.
fn warned(driven: &Driven) -> Vec<&str> {
    let said = driven.effects.iter().filter_map(|effect| match effect {
        Effect::Warn(text) | Effect::Error(text) => Some(text.as_str()),
        _ => None,
    });
    said.collect()
}

#[test]
fn each_trouble_is_told_once_until_it_streams() {
    let mut driven = Driven::new();
    let mut count = 0;
    for _ in 0..10 {
        for why in ["rejected", "starting up"] {
            driven.tell(Input::Looked(Err(why.to_owned())));
            count += warned(&driven).len();
            let waits = |effect: &Effect| matches!(effect, Effect::Status(ReplicatorStatus::Waiting(said)) if said == why);
            assert!(driven.effects.iter().any(waits), "readiness says what is wrong now");
            driven.tell(Input::Go);
        }
    }
    assert_eq!(count, 2);
    driven.begin_epoch(10, 20);
    driven.tell(Input::Streamed(vec![transaction(30)], None));
    let ends = StreamFailure::Ended("rejected".to_owned());
    driven.tell(Input::Streamed(Vec::new(), Some(ends)));
    assert_eq!(warned(&driven), ["the stream is interrupted: rejected"], "it is news again");
}

#[test]
fn what_does_not_fit_is_waited_for_at_the_start_and_left_out_later() {
    let unfit = || {
        let rejected = vec![("note".to_owned(), "it has no column `team`".to_owned())];
        Input::Looked(Ok(Box::new(Looked { rejected, ..looked() })))
    };
    let mut driven = Driven::new();
    driven.tell(unfit());
    assert_eq!(warned(&driven).len(), 1);
    assert!(warned(&driven)[0].contains("note") && warned(&driven)[0].contains("team"));
    let mut last = Duration::ZERO;
    for _ in 0..10 {
        assert!(driven.pause() >= last && driven.pause() <= MAX_PAUSE);
        last = driven.pause();
        driven.tell(Input::Go);
        driven.tell(unfit());
        assert_eq!(warned(&driven), [""; 0]);
    }
    driven.tell(Input::Go);
    let rule = vec![("note".to_owned(), "Postgres does not take this rule".to_owned())];
    let unwritable = Looked { unwritable: rule, ..looked() };
    driven.tell(Input::Looked(Ok(Box::new(unwritable))));
    assert!(matches!(driven.next, Next::Wait(_)), "nor is a table served that nobody could write");
    driven.tell(Input::Go);
    driven.begin_epoch(10, 20);
    driven.tell(Input::Streamed(vec![transaction(30)], None));
    driven.tell(Input::Streamed(Vec::new(), Some(StreamFailure::Ended("it ended".to_owned()))));
    driven.tell(Input::Go);
    driven.tell(unfit());
    assert!(matches!(driven.next, Next::Connect(_)), "it has served, and serves the rest");
}

/// Of one table that everyone sees.
fn plan_of(columns: &[&str]) -> Arc<Plan> {
    let column = |name: &&str| CatalogColumn {
        name: (*name).to_owned(),
        kind: ColumnType::Int,
        type_oid: 20,
        type_name: "bigint".to_owned(),
        not_null: *name == "id",
        toastable: false,
        deterministic: true,
        labels: Vec::new(),
        input: ColumnInput::default(),
    };
    let table = CatalogTable {
        oid: 9,
        schema: "public".to_owned(),
        name: "note".to_owned(),
        columns: columns.iter().map(column).collect(),
        primary_key: vec!["id".to_owned()],
        indexes: Vec::new(),
        replica_identity: ReplicaIdentity::Full,
        row_security: false,
        insert_trigger: false,
        streaming: TableStreaming::default(),
    };
    let definition = Definition::parse("rowtide.toml", "[tables.note]\nvisible = 'true'").unwrap();
    let catalog = Catalog { tables: vec![table], ..Catalog::default() };
    Arc::new(compile(&definition, &catalog).unwrap())
}

fn observed_column(number: i16) -> ObservedColumn {
    ObservedColumn {
        number,
        name: format!("column {number}"),
        type_oid: 20,
        modifier: -1,
        not_null: false,
        generated: String::new(),
        numbered: String::new(),
        collation: 0,
        storage: "p".to_owned(),
        default: None,
        version: 1,
        incidental: String::new(),
    }
}

/// A look at a table of these columns, when WAL ended at `wal_end`.
fn looked_at(columns: &[&str], wal_end: u64) -> Looked {
    let mut looked = looked();
    let numbers = 1..=columns.len() as i16;
    looked.observed.tables.push(ObservedTable {
        schema: "public".to_owned(),
        name: "note".to_owned(),
        oid: 9,
        columns: numbers.map(observed_column).collect(),
        ..own_table()
    });
    Looked { plan: plan_of(columns), wal_end: Lsn(wal_end), ..looked }
}

impl Driven {
    /// Streams from an epoch at 20, with a table that has a column beside its key.
    fn of_columns() -> Driven {
        let mut driven = Driven::new();
        driven.tell(Input::Looked(Ok(Box::new(looked_at(&["id", "a"], 20)))));
        driven.connect(10, 20);
        driven.tell(unseen(Some(20), Vec::new()));
        driven.tell(Input::EpochBegan(Some(Epoch(7))));
        assert!(matches!(driven.next, Next::Stream));
        driven
    }

    /// What was looked at is another, and it is gone into.
    fn drifts(&mut self, looked: Looked) {
        self.tell(Input::Observed(Box::new(looked.observed.clone())));
        assert!(matches!(self.next, Next::Look), "{:?}", self.next);
        self.tell(Input::Looked(Ok(Box::new(looked))));
    }

    /// It streams again, over the log that it has, which ends at `ends`. With which plan, and with which behind where.
    fn streams_again(&mut self, ends: u64, wal_ends: u64) -> (Arc<Plan>, Option<(Lsn, Arc<Plan>)>) {
        let Next::Connect(plan) = self.next.clone() else { panic!("{:?}", self.next) };
        self.tell(Input::Connected(Ok(slot(20, wal_ends))));
        let Next::OpenLog(_) = &self.next else { panic!("{:?}", self.next) };
        let of = self.core.log.as_ref().unwrap().of.clone();
        let (epoch, extent) = (Epoch(7), extent(20, ends));
        self.tell(Input::LogOpened(Ok(LogFound { of, epoch, extent, broken: None, seen: None })));
        let Next::ReadLog { .. } = &self.next else { panic!("{:?}", self.next) };
        let read = LogRead { expected: Vec::new(), recent: Vec::new() };
        self.tell(Input::LogRead(Ok(read)));
        assert!(matches!(self.next, Next::Stream), "{:?}", self.next);
        let switch = self.effects.iter().find_map(|effect| match effect {
            Effect::Switch { at, plan } => Some((*at, Arc::clone(plan))),
            _ => None,
        });
        (plan, switch)
    }

    /// Of each event that is handed on, and of each time the rows are others, the position; of these with the tables.
    fn told(&self) -> Vec<(u64, Vec<TableId>)> {
        let mut told = Vec::new();
        for effect in &self.effects {
            match effect {
                Effect::HandOn(events) => {
                    let lsns = events.iter().filter_map(Event::lsn);
                    told.extend(lsns.map(|lsn| (lsn.0, Vec::new())));
                }
                Effect::Reshape { event: Event::Reshaped { lsn, tables, .. }, .. } => {
                    told.push((lsn.0, tables.clone()));
                }
                _ => {}
            }
        }
        told
    }
}

#[test]
fn columns_that_are_added_end_no_epoch() {
    let mut driven = Driven::of_columns();
    let before = Arc::clone(&driven.core.serving.as_ref().unwrap().plan);
    driven.tell(Input::Streamed(vec![transaction(30)], None));
    driven.drifts(looked_at(&["id", "a", "b"], 40));
    let (plan, switch) = driven.streams_again(30, 42);
    assert!(Arc::ptr_eq(&plan, &before), "rows are as before up to there");
    let (at, newer) = switch.unwrap();
    assert_eq!((at, newer.columns_added_by(&plan)), (Lsn(40), None));
    assert_eq!(plan.columns_added_by(&newer), Some(vec![TableId(0)]));
    assert!(!driven.effects.iter().any(|effect| matches!(effect, Effect::Begin(..))));
    driven.tell(Input::Streamed(vec![transaction(36)], None));
    driven.tell(Input::Streamed(vec![transaction(40), Brought::Switched, transaction(50)], None));
    let of_note = vec![TableId(0)];
    assert_eq!(driven.told(), [(40, vec![]), (41, of_note), (50, vec![])]);
    let of = driven.effects.iter().find_map(|effect| match effect {
        Effect::Reshape {
            of,
            plan,
            event: Event::Reshaped { previous, plan: fingerprint, .. },
        } => {
            assert_eq!((*previous, fingerprint.0), (Lsn(40), plan.fingerprint()));
            Some(of.clone())
        }
        _ => None,
    });
    assert!(Arc::ptr_eq(&driven.core.serving.as_ref().unwrap().plan, &newer));
    // Nothing ends in WAL where that is told, and a commit may begin before it.
    driven.tell(Input::Durable(Lsn(41)));
    assert_eq!(driven.confirmed(), Some(Lsn(40)));
    // The log is of what serves now, so that the next connection goes on as ever.
    assert_eq!(driven.core.log.as_ref().map(|log| log.of.clone()), of);
    driven.tell(Input::Streamed(Vec::new(), Some(StreamFailure::Ended("cut".to_owned()))));
    driven.tell(Input::Go);
    driven.tell(Input::Looked(Ok(Box::new(looked_at(&["id", "a", "b"], 60)))));
    let (plan, switch) = driven.streams_again(50, 60);
    assert!(Arc::ptr_eq(&plan, &newer) && switch.is_none());
}

#[test]
fn a_column_that_clients_do_not_get_is_told_as_a_plan_of_the_same_rows() {
    let mut driven = Driven::of_columns();
    let before = Arc::clone(&driven.core.serving.as_ref().unwrap().plan);
    let mut looked = looked_at(&["id", "a", "b"], 40);
    Arc::make_mut(&mut looked.plan).tables[0].hidden = vec![2];
    driven.drifts(looked);
    let (_, switch) = driven.streams_again(20, 42);
    let (at, newer) = switch.unwrap();
    assert_eq!((at, newer.fingerprint()), (Lsn(40), before.fingerprint()));
    driven.tell(Input::Streamed(vec![transaction(40), Brought::Switched, transaction(50)], None));
    assert_eq!(driven.told(), [(40, vec![]), (41, vec![]), (50, vec![])], "no rows are others");
    assert!(Arc::ptr_eq(&driven.core.serving.as_ref().unwrap().plan, &newer));
}

#[test]
fn columns_that_were_added_while_no_server_ran_end_no_epoch() {
    let of = Driven::of_columns().core.log.unwrap().of;
    let opens = |of: &LogIdentity, columns: &[&str]| {
        let mut driven = Driven::new();
        driven.tell(Input::Looked(Ok(Box::new(looked_at(columns, 60)))));
        driven.tell(Input::Connected(Ok(slot(20, 62))));
        let (epoch, extent) = (Epoch(7), extent(20, 30));
        let log = LogFound { of: of.clone(), epoch, extent, broken: None, seen: None };
        driven.tell(Input::LogOpened(Ok(log.clone())));
        (driven, log)
    };
    let (mut driven, log) = opens(&of, &["id", "a", "b"]);
    let newer = Arc::clone(&driven.core.looked.as_ref().unwrap().plan);
    // Rows are brought as the log has them.
    let Next::Connect(before) = driven.next.clone() else { panic!("{:?}", driven.next) };
    assert_eq!(before.columns_added_by(&newer), Some(vec![TableId(0)]));
    assert!(driven.effects.iter().any(|effect| matches!(effect, Effect::Disconnect)));
    driven.tell(Input::Connected(Ok(slot(20, 62))));
    driven.tell(Input::LogOpened(Ok(log)));
    let Next::ReadLog { .. } = &driven.next else { panic!("{:?}", driven.next) };
    driven.tell(Input::LogRead(Ok(LogRead { expected: Vec::new(), recent: Vec::new() })));
    driven.tell(unseen(None, Vec::new()));
    assert!(matches!(driven.next, Next::Stream), "{:?}", driven.next);
    let begins = driven.effects.iter().find_map(|effect| match effect {
        Effect::Begin(generation, newest) => Some((Arc::clone(&generation.plan), newest.clone())),
        _ => None,
    });
    let (plan, newest) = begins.unwrap();
    assert!(Arc::ptr_eq(&plan, &before) && Arc::ptr_eq(&newest.unwrap(), &newer));
    let switches = |effect: &Effect| matches!(effect, Effect::Switch { at: Lsn(60), plan } if Arc::ptr_eq(plan, &newer));
    assert!(driven.effects.iter().any(switches), "{:?}", driven.effects);
    driven.tell(Input::Streamed(vec![transaction(40), Brought::Switched, transaction(70)], None));
    assert_eq!(driven.told(), [(40, vec![]), (41, vec![TableId(0)]), (70, vec![])]);
    // They may be gone again before anyone was told; only who writes had heard of them.
    let (mut driven, log) = opens(&of, &["id", "a", "b"]);
    let streams = |driven: &mut Driven| {
        driven.tell(Input::Connected(Ok(slot(20, 62))));
        driven.tell(Input::LogOpened(Ok(log.clone())));
        driven.tell(Input::LogRead(Ok(LogRead { expected: Vec::new(), recent: Vec::new() })));
        driven.tell(unseen(None, Vec::new()));
        assert!(matches!(driven.next, Next::Stream), "{:?}", driven.next);
    };
    streams(&mut driven);
    driven.effects.clear();
    driven.drifts(looked_at(&["id", "a"], 70));
    streams(&mut driven);
    let begins = driven.effects.iter().any(|effect| matches!(effect, Effect::Begin(_, None)));
    assert!(begins, "{:?}", driven.effects);
    // A log of other columns is what it says, and no earlier one of these.
    let renamed = LogIdentity { plan: [9; 32], ..of.clone() };
    assert!(matches!(opens(&renamed, &["id", "a", "b"]).0.next, Next::EndLog(_)));
    assert!(matches!(opens(&of, &["id", "b", "a"]).0.next, Next::EndLog(_)));
}

/// The log turns out not to go on, on a connection that was made as if it did.
#[test]
fn an_epoch_that_begins_all_the_same_has_rows_with_all_of_their_columns() {
    let mut driven = Driven::of_columns();
    driven.drifts(looked_at(&["id", "a", "b"], 40));
    let newer = Arc::clone(&driven.core.looked.as_ref().unwrap().plan);
    driven.tell(Input::Connected(Ok(slot(10, 40))));
    let of = driven.core.log.as_ref().unwrap().of.clone();
    let (epoch, extent) = (Epoch(7), extent(20, 20));
    driven.tell(Input::LogOpened(Ok(LogFound { of, epoch, extent, broken: None, seen: None })));
    driven.tell(Input::LogRead(Ok(LogRead { expected: Vec::new(), recent: Vec::new() })));
    driven.tell(Input::EpochBegan(Some(Epoch(8))));
    driven.tell(unseen(Some(45), Vec::new()));
    driven.tell(Input::EpochBegan(Some(Epoch(9))));
    let switched = driven.effects.iter().any(|effect| {
        matches!(effect, Effect::Switch { at: Lsn(10), plan } if Arc::ptr_eq(plan, &newer))
    });
    assert!(switched, "{:?}", driven.effects);
    driven.tell(Input::Streamed(vec![Brought::Switched, transaction(50)], None));
    assert_eq!(driven.told(), [(50, vec![])], "all of it is loaded with them");
}

#[test]
fn columns_that_come_and_go_before_anyone_was_told_are_nothing() {
    let mut driven = Driven::of_columns();
    let before = Arc::clone(&driven.core.serving.as_ref().unwrap().plan);
    driven.drifts(looked_at(&["id", "a", "b"], 30));
    let (_, switch) = driven.streams_again(20, 30);
    assert!(switch.is_some());
    // Another before the stream has come there: both at once, behind the later look.
    driven.drifts(looked_at(&["id", "a", "b", "c"], 40));
    let (plan, switch) = driven.streams_again(20, 40);
    assert!(Arc::ptr_eq(&plan, &before));
    assert_eq!(switch.map(|(at, _)| at), Some(Lsn(40)));
    driven.drifts(looked_at(&["id", "a"], 50));
    let (plan, switch) = driven.streams_again(20, 50);
    assert!(Arc::ptr_eq(&plan, &before) && switch.is_none());
    driven.tell(Input::Streamed(vec![transaction(60)], None));
    assert_eq!(driven.told(), [(60, vec![])]);
}

#[test]
fn what_is_more_than_columns_added_begins_an_epoch() {
    let rewritten = {
        let mut looked = looked_at(&["id", "a", "b"], 30);
        looked.observed.tables[1].file = 2;
        looked
    };
    let other = looked_at(&["id", "c", "b"], 30);
    for (looked, reason) in
        [(rewritten, EpochReason::TableReplaced), (other, EpochReason::OtherTables)]
    {
        let mut driven = Driven::of_columns();
        driven.drifts(looked);
        driven.tell(Input::Connected(Ok(slot(20, 30))));
        let of = driven.core.log.as_ref().unwrap().of.clone();
        let (epoch, extent) = (Epoch(7), extent(20, 20));
        driven.tell(Input::LogOpened(Ok(LogFound { of, epoch, extent, broken: None, seen: None })));
        driven.tell(Input::EpochBegan(Some(Epoch(8))));
        driven.tell(unseen(Some(30), Vec::new()));
        driven.tell(Input::EpochBegan(Some(Epoch(9))));
        let began = driven.effects.iter().find_map(|effect| match effect {
            Effect::EpochBegan { reason, .. } => Some(*reason),
            _ => None,
        });
        assert_eq!(began, Some(reason));
    }
}
