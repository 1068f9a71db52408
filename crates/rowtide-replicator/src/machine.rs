//! The replicator as a state machine: it is told what came of the last thing that it asked for, and answers with
//! effects, which are carried out in order and at once, and with the one thing that it waits for next. It takes its
//! place, holds the stream against the log, decides where engines begin, hands on what comes, and confirms what is
//! durable. It has no clock, no randomness and no I/O: the shell performs effects against Postgres and a disk, the
//! simulation against its own.
//!
//! An epoch always begins at the end of WAL, once everything that was committed before can be seen: then a load has
//! it, and what the stream brings from before is passed over. So nothing that a table, a publication or a slot was
//! for a while needs to be known: what was missed meanwhile lies before the epoch.

//!
//! Where tables have more columns and nothing else is different, the epoch goes on. The stream brings rows of the plan of
//! before up to where WAL ended when the tables were looked at, and rows with the new columns behind it; where it comes to
//! that, whoever follows is told which tables are to be loaded again.

mod input;
mod missing;
mod streaming;

use std::sync::Arc;
use std::time::Duration;

use rowtide_feed::{
    EpochReason, Event, Fingerprint, Generation, LogExtent, ReplicatorStatus, Transaction,
};
use rowtide_log::{Committed, LogIdentity};
use rowtide_plan::check::{not_streamed, rejected_writes};
use rowtide_plan::plan::{Plan, TableId};
use rowtide_postgres::connect::Names;
use rowtide_postgres::said_once::SaidOnce;
use rowtide_postgres::slot::SystemIdentity;
use rowtide_postgres::watch::{Observed, ObservedTable};
use rowtide_protocol::{Epoch, Lsn};
use sha2::{Digest, Sha256};

pub use self::input::{
    Brought, Effect, Input, LogFailure, LogFound, LogRead, Looked, Next, SlotFound, Step,
    StreamFailure, UnseenBehind, UnseenQuestion,
};
use self::missing::{incomplete, unservable, unwritable};
use self::streaming::Streaming;
use crate::continuity::{
    Continuity, Decision, Evidence, SlotAction, decide, decide_by_transactions,
};
use crate::drift::{Drift, Follows, compare, continuity_digest, unfit};
use crate::limits::{COMMIT_LOOKS, MAX_PAUSE, MIN_PAUSE, STANDBY_LOOK, UNSEEN_LOOK};

/// What is waited for.
#[derive(Debug)]
enum State {
    /// A pause to pass, or to be started at all.
    Idle,
    /// A look at the database.
    Looking,
    /// The end of a log that does not go on.
    EndingLog(Ending),
    /// A slot.
    MakingSlot,
    /// A connection that streams.
    Connecting,
    /// The log.
    OpeningLog(Opening),
    /// What the log has that the slot has not confirmed.
    ReadingLog(SlotFound),
    /// That what was committed can be seen.
    AwaitingVisibility(AwaitingVisibility),
    /// An epoch in the log.
    Beginning { slot: SlotFound, position: Lsn, reason: EpochReason, at_work: AtWork },
    /// What the stream brings.
    Streaming(Streaming),
}

/// Whether all of the definition has fitted at some look. Before that this server is not ready to take the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fitted {
    NotYet,
    /// It is told once it streams: until there the generation may be one that lacks something.
    Once,
    Told,
}

/// What follows the end of a log.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// A slot.
    Slot(SlotAction),
    /// An epoch, once everything that was committed before can be seen.
    Epoch(SlotFound, EpochReason),
}

/// For what the log is opened.
#[derive(Clone, Copy, Debug)]
enum Opening {
    /// To make a slot: nothing may go on with the log then.
    Slot(SlotAction),
    /// To be held against a stream.
    Stream(SlotFound),
}

/// Where engines begin, once everything that they are not told of can be seen.
#[derive(Debug)]
struct AwaitingVisibility {
    slot: SlotFound,
    begins: Begins,
    /// How often has been asked.
    looks: u32,
}

/// The ids of transactions that were at work for longer than a commit takes, and may yet turn out to have been at theirs.
type AtWork = Vec<u32>;

#[derive(Debug)]
enum Begins {
    Epoch { reason: EpochReason, position: Option<Lsn> },
    Log(LogRead),
}

/// What is known of the log while it is open.
#[derive(Clone, Debug)]
struct OpenLog {
    of: LogIdentity,
    epoch: Epoch,
    /// `None` while nothing has begun in it.
    extent: Option<LogExtent>,
}

/// What a stream must bring to go on with a log.
fn continuity_of(expected: Vec<Committed>, extent: LogExtent) -> Continuity {
    Continuity::of_log(expected, extent.oldest, extent.durable)
}

/// What is known of the generation that is served.
#[derive(Debug)]
struct Serving {
    plan: Arc<Plan>,
    /// The position of the last transaction, or where the epoch began if there was none.
    previous: Lsn,
    /// Everything up to here was handed on.
    handed_on: Lsn,
    /// Who writes goes by a newer plan already.
    written_by_newer: bool,
}

/// The replicator.
#[derive(Debug)]
pub struct Core {
    names: Names,
    state: State,
    /// What the definition comes to, as of the last look.
    looked: Option<Looked>,
    log: Option<OpenLog>,
    /// The generation, while there is one.
    serving: Option<Serving>,
    /// The plan that the log is of, where that is the one of the last look before its tables got more columns, until the
    /// generation begins that goes on with it.
    of_log: Option<Arc<Plan>>,
    fitted: Fitted,
    /// The troubles that were told since it streamed last.
    said: SaidOnce,
    /// Another server has the place; what it made of the tables and the log is not known.
    standing_by: bool,
    /// Why the next stream cannot be the continuation of the log, if it cannot.
    broken: Option<EpochReason>,
    /// A change did not fit its table, which may fit again by now.
    unfit_change: bool,
    /// Rows were changed without a trace in the stream while no server ran: the log does not tell what they are.
    changed_unseen: bool,
    /// The slot has to be made before anything can be streamed.
    slot_action: SlotAction,
    pause: Duration,
    /// Something came of the last connection.
    progress: bool,
}

impl Core {
    /// One that has not begun: its first input is [`Input::Go`]. The names are for what is said.
    pub fn new(names: Names) -> Core {
        Core {
            names,
            state: State::Idle,
            looked: None,
            log: None,
            serving: None,
            of_log: None,
            fitted: Fitted::NotYet,
            said: SaidOnce::default(),
            standing_by: false,
            broken: None,
            unfit_change: false,
            changed_unseen: false,
            slot_action: SlotAction::Keep,
            pause: MIN_PAUSE,
            progress: true,
        }
    }

    /// Takes what came of what it asked for last. While it streams several inputs may come, in any order; what
    /// comes late, or to another state, changes nothing.
    pub fn step(&mut self, input: Input) -> Step {
        if matches!(input, Input::LogEnded) {
            return self.log_gone();
        }
        let state = std::mem::replace(&mut self.state, State::Idle);
        match (state, input) {
            (State::Idle, Input::Go) if self.standing_by => self.connect(Vec::new()),
            (State::Idle, Input::Go) => self.look(Vec::new()),
            (State::Looking, Input::Looked(Ok(looked))) => self.looked(*looked),
            (State::Looking, Input::Looked(Err(why))) => self.wait(&why),
            (State::EndingLog(ending), Input::EpochBegan(Some(epoch))) => {
                if let Some(log) = &mut self.log {
                    (log.epoch, log.extent) = (epoch, None);
                }
                match ending {
                    Ending::Slot(action) => {
                        self.state = State::MakingSlot;
                        let anew = action == SlotAction::MakeAnew;
                        self.then(Vec::new(), Next::MakeSlot { anew })
                    }
                    Ending::Epoch(slot, reason) => self.begin_once_visible(slot, reason),
                }
            }
            (State::MakingSlot, Input::SlotMade(Ok(()))) => {
                self.slot_action = SlotAction::Keep;
                let text = format!("the replication slot `{}` was made", self.names.slot);
                self.connect(vec![Effect::Warn(text)])
            }
            (State::MakingSlot, Input::SlotMade(Err(why))) => self.wait(&why),
            (State::Connecting, Input::Connected(Ok(slot))) => self.connected(slot),
            (State::Connecting, Input::Connected(Err(failure))) => self.failed(failure),
            (State::OpeningLog(opening), Input::LogOpened(found)) => self.opened(opening, found),
            (State::ReadingLog(slot), Input::LogRead(Ok(read))) => self.read(slot, read),
            (State::ReadingLog(_), Input::LogRead(Err(why))) => self.wait(&why),
            (State::AwaitingVisibility(awaiting), Input::Unseen(Ok(unseen))) => {
                self.look_at_unseen(awaiting, unseen)
            }
            (State::AwaitingVisibility(_), Input::Unseen(Err(why))) => self.wait(&why),
            (
                State::Beginning { slot, position, reason, at_work },
                Input::EpochBegan(Some(epoch)),
            ) => self.epoch_began(slot, position, reason, at_work, epoch),
            (State::EndingLog(_) | State::Beginning { .. }, Input::EpochBegan(None)) => {
                self.log_gone()
            }
            (State::Streaming(streaming), input) => self.stream(streaming, input),
            (state, _) => {
                self.state = state;
                Step { effects: Vec::new(), next: None }
            }
        }
    }

    /// Gives up the place: the generation ends, and the log is free once it is durable.
    pub fn stop(&mut self) -> Vec<Effect> {
        self.state = State::Idle;
        (self.serving, self.of_log) = (None, None);
        (self.log, self.changed_unseen) = (None, false);
        vec![Effect::Disconnect, Effect::EndGeneration, Effect::CloseLog]
    }

    fn then(&self, effects: Vec<Effect>, next: Next) -> Step {
        Step { effects, next: Some(next) }
    }

    fn look(&mut self, effects: Vec<Effect>) -> Step {
        self.state = State::Looking;
        self.then(effects, Next::Look)
    }

    fn connect(&mut self, effects: Vec<Effect>) -> Step {
        let Some(looked) = &self.looked else { return self.look(effects) };
        let plan = Arc::clone(self.before_added().unwrap_or(&looked.plan));
        self.state = State::Connecting;
        self.then(effects, Next::Connect(plan))
    }

    /// Waits, the longer the more often nothing came of it.
    fn wait(&mut self, why: &str) -> Step {
        let mut effects = vec![Effect::Disconnect];
        self.tell_trouble(why, &mut effects);
        self.pause_then(effects)
    }

    /// Shows why nothing comes. The operator is told once, and not with each try.
    fn tell_trouble(&mut self, why: &str, effects: &mut Vec<Effect>) {
        effects.push(Effect::Status(ReplicatorStatus::Waiting(why.to_owned())));
        if self.said.is_new(why) {
            let served = self.serving.is_some();
            let what = if served { "the stream is interrupted" } else { "nothing is served yet" };
            effects.push(Effect::Warn(format!("{what}: {why}")));
        }
    }

    fn pause_then(&mut self, effects: Vec<Effect>) -> Step {
        if std::mem::take(&mut self.progress) {
            self.pause = MIN_PAUSE;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(MAX_PAUSE);
        self.state = State::Idle;
        self.then(effects, Next::Wait(pause))
    }

    /// Looks at the database anew: at once if something came since the last time, and else after a pause.
    fn look_anew(&mut self, mut effects: Vec<Effect>) -> Step {
        effects.push(Effect::Disconnect);
        if std::mem::take(&mut self.progress) {
            self.pause = MIN_PAUSE;
            self.look(effects)
        } else {
            self.pause_then(effects)
        }
    }

    fn stand_by(&mut self, why: String) -> Step {
        self.standing_by = true;
        // Whoever has the place sees to the slot, and goes on with the log or does not.
        self.slot_action = SlotAction::Keep;
        self.broken = None;
        let mut effects = self.stop();
        effects.push(Effect::Status(ReplicatorStatus::Standby(why)));
        self.then(effects, Next::Wait(STANDBY_LOOK))
    }

    fn log_gone(&mut self) -> Step {
        let mut trouble = Vec::new();
        self.tell_trouble("the log's writer has ended", &mut trouble);
        let mut effects = self.stop();
        effects.append(&mut trouble);
        self.pause_then(effects)
    }

    /// Of a database, with the plan and the publication as they were at the last look.
    fn identity(&self, system: SystemIdentity) -> Option<LogIdentity> {
        let looked = self.looked.as_ref()?;
        Some(self.identity_with(looked, &looked.plan, system))
    }

    /// Of a database as it was at the last look, but for the columns that `plan` does not have.
    fn identity_with(&self, looked: &Looked, plan: &Plan, system: SystemIdentity) -> LogIdentity {
        let mut digest = Sha256::new();
        digest.update(plan.fingerprint());
        let id = |table: &ObservedTable| looked.plan.table_id(&table.schema, &table.name);
        let is_told = |table: &ObservedTable| {
            let own = table.schema == self.names.schema && table.name == "client";
            own || id(table).is_some()
        };
        let columns = |plan: &Plan, id: TableId| plan.table(id).catalog.columns.len();
        let added = |table: &ObservedTable| {
            id(table).map_or(0, |id| columns(&looked.plan, id) - columns(plan, id))
        };
        digest.update(continuity_digest(&looked.observed, is_told, added));
        let SystemIdentity { cluster, database, timeline } = system;
        let (columns, slot) = (plan.column_counts(), self.names.slot.clone());
        let plan = digest.finalize().into();
        LogIdentity { plan, columns, system: cluster, database, timeline, slot }
    }

    /// The plan that a log is of, if that is the one of the last look before its tables got more columns.
    fn plan_before(&self, of: &LogIdentity, system: SystemIdentity) -> Option<Arc<Plan>> {
        let looked = self.looked.as_ref()?;
        let before = looked.plan.before_columns_were_added(&of.columns)?;
        (self.identity_with(looked, &before, system) == *of).then(|| Arc::new(before))
    }

    /// Takes note of what is different from the last look. What follows from it is returned.
    fn drifted(&mut self, observed: &Observed, effects: &mut Vec<Effect>) -> Follows {
        let Some(looked) = &self.looked else { return Follows::Nothing };
        let drifts = compare(&looked.observed, observed);
        let mut events = Vec::new();
        for drift in drifts.iter().filter(|drift| drift.follows() > Follows::Nothing) {
            let what = drift.to_string();
            effects.push(Effect::Warn(what.clone()));
            events.push(Event::TableChanged { table: drift.of.to_string(), what });
        }
        if !events.is_empty() && self.serving.is_some() {
            effects.push(Effect::Publish(events.into()));
        }
        let follows = drifts.iter().map(Drift::follows).max().unwrap_or(Follows::Nothing);
        let reason = match follows {
            Follows::Epoch(missed) => Some(missed.reason()),
            Follows::Reload => Some(EpochReason::TableReplaced),
            Follows::Nothing | Follows::LoadsWait | Follows::Recompile | Follows::Reject => None,
        };
        self.broken = self.broken.or(reason);
        follows
    }

    /// Holds what the database was like when the log was written last against what it is. What was written meanwhile is
    /// in the stream, with the names and types that it had then; what has changed rows in any other way is not.
    fn unseen_drift(&mut self, seen: &Observed) -> Vec<Effect> {
        let Some(looked) = &self.looked else { return Vec::new() };
        let drifts = compare(seen, &looked.observed).into_iter();
        let silent: Vec<_> = drifts.filter(|drift| drift.follows() == Follows::Reload).collect();
        self.changed_unseen |= !silent.is_empty();
        silent.iter().map(|drift| Effect::Warn(format!("while no server ran: {drift}"))).collect()
    }

    fn looked(&mut self, mut looked: Looked) -> Step {
        let mut effects = vec![Effect::Rejected(looked.rejected.clone())];
        self.drifted(&looked.observed, &mut effects);
        for trouble in unwritable(&looked) {
            if self.said.is_new(&trouble) {
                effects.push(Effect::Error(trouble));
            }
        }
        self.tell_peculiar(&looked.plan, &mut effects);
        if let Some(before) = &self.looked {
            if looked.plan.has_unjudged() {
                Arc::make_mut(&mut looked.plan).judge_as(&before.plan);
            }
            let shape = |plan: &Plan| -> Vec<_> {
                plan.tables.iter().map(|table| table.catalog.clone()).collect()
            };
            let is_same = |plan: &Plan| {
                let same_rows = plan.fingerprint() == looked.plan.fingerprint();
                same_rows && shape(plan) == shape(&looked.plan)
            };
            let same_rows = before.plan.fingerprint() == looked.plan.fingerprint();
            // What serves may be older than the last look: columns may be gone again that nobody was told of.
            let serving = self.serving.as_ref().map(|serving| &serving.plan);
            let known = [serving, Some(&before.plan)];
            if let Some(known) = known.into_iter().flatten().find(|plan| is_same(plan)) {
                looked.plan = Arc::clone(known);
            }
            if std::mem::take(&mut self.unfit_change) && same_rows {
                // It was altered back since, and what was written meanwhile cannot be told.
                self.broken = self.broken.or(Some(EpochReason::AlteredBack));
            }
        }
        let missing = self.missing(&looked.observed);
        let unservable = match self.fitted {
            Fitted::NotYet => unservable(&looked),
            Fitted::Once | Fitted::Told => None,
        };
        let system = looked.system;
        self.looked = Some(looked);
        self.tell_incomplete(&mut effects);
        if missing.is_some() {
            // What is committed without a publication is brought by no slot.
            self.broken = self.broken.or(Some(EpochReason::PublicationChanged));
        }
        if let Some(why) = missing.or(unservable) {
            effects.push(Effect::Disconnect);
            self.tell_trouble(&why, &mut effects);
            return self.pause_then(effects);
        }
        match self.slot_action {
            SlotAction::Keep | SlotAction::Wait => self.connect(effects),
            action => {
                let Some(identity) = self.identity(system) else { return self.look(effects) };
                self.state = State::OpeningLog(Opening::Slot(action));
                self.then(effects, Next::OpenLog(identity))
            }
        }
    }

    /// Tells what of the tables clients do not get, and what of them the application cannot write.
    fn tell_peculiar(&mut self, plan: &Plan, effects: &mut Vec<Effect>) {
        let rejected = plan.tables.iter().filter_map(|table| rejected_writes(&table.catalog));
        for problem in rejected.filter(|problem| self.said.is_new(&problem.what)) {
            let repair = problem.repair.unwrap_or_default();
            effects.push(Effect::Error(format!("{} ({repair})", problem.what)));
        }
        let left_out = plan.tables.iter().flat_map(not_streamed);
        effects.extend(left_out.filter(|what| self.said.is_new(what)).map(Effect::Warn));
    }

    /// Tells what of the definition is missing, until all of it has fitted once.
    fn tell_incomplete(&mut self, effects: &mut Vec<Effect>) {
        let (Fitted::NotYet, Some(looked)) = (self.fitted, &self.looked) else { return };
        match incomplete(looked) {
            None => self.fitted = Fitted::Once,
            incomplete => effects.push(Effect::Incomplete(incomplete)),
        }
    }

    /// What no table can do without, if it is missing.
    fn missing(&self, observed: &Observed) -> Option<String> {
        let Names { publication, schema, .. } = &self.names;
        if observed.publication.is_none() {
            return Some(format!("publication `{publication}` is missing; rowtide setup makes it"));
        }
        // It brings the acknowledgements.
        let whole =
            observed.table(schema, "client").is_some_and(|own| unfit(observed, own).is_none());
        let why = format!(
            "changes of table `{schema}.client` are not published; rowtide setup sees to that"
        );
        (!whole).then_some(why)
    }

    fn connected(&mut self, slot: SlotFound) -> Step {
        if std::mem::take(&mut self.standing_by) {
            // Whoever had the place may have seen other tables, and has dealt with what was known here.
            (self.looked, self.broken, self.slot_action) = (None, None, SlotAction::Keep);
            return self.look(vec![Effect::Disconnect]);
        }
        let Some(identity) = self.identity(slot.system) else { return self.look(Vec::new()) };
        self.state = State::OpeningLog(Opening::Stream(slot));
        self.then(Vec::new(), Next::OpenLog(identity))
    }

    fn opened(&mut self, opening: Opening, found: Result<LogFound, LogFailure>) -> Step {
        let found = match found {
            Ok(found) => found,
            Err(LogFailure::Taken(why)) => return self.stand_by(why),
            Err(LogFailure::Unusable(why)) => return self.wait(&why),
        };
        let LogFound { of, epoch, extent, broken, seen } = found;
        self.broken = self.broken.or(broken);
        let effects = seen.map_or(Vec::new(), |seen| self.unseen_drift(&seen));
        let held = self.log.replace(OpenLog { of: of.clone(), epoch, extent }).is_some();
        let mut step = self.go_on(opening, of, held);
        step.effects.splice(0..0, effects);
        step
    }

    /// With what is behind opening the log, of which is known what it is of, and whether it was open already.
    fn go_on(&mut self, opening: Opening, of: LogIdentity, held: bool) -> Step {
        match opening {
            // Another may have made it, and gone on, before the place was ours.
            Opening::Slot(_) if !held => {
                self.slot_action = SlotAction::Keep;
                self.connect(Vec::new())
            }
            Opening::Slot(action) => {
                // Before there is a slot: it may come to stand where the log of another history ends.
                self.state = State::EndingLog(Ending::Slot(action));
                self.then(Vec::new(), Next::EndLog(of))
            }
            Opening::Stream(slot) => {
                if self.serving.is_none()
                    && self.of_log.is_none()
                    && let Some(before) = self.plan_before(&of, slot.system)
                {
                    // Rows are brought as the log has them, up to where the columns are told of.
                    self.of_log = Some(before);
                    return self.connect(vec![Effect::Disconnect]);
                }
                self.hold_against(slot)
            }
        }
    }

    fn hold_against(&mut self, slot: SlotFound) -> Step {
        let identity = self.identity(slot.system);
        let (Some(log), Some(identity)) = (&self.log, identity) else {
            return self.look(vec![Effect::Disconnect]);
        };
        let evidence = Evidence {
            of_log: &log.of,
            of_stream: &identity,
            log_ends: log.extent.map(|extent| extent.durable),
            slot_confirmed: slot.confirmed,
            wal_ends: slot.wal_ends,
            broken: self.broken,
        };
        let (plan, columns) = (log.of.plan, log.of.columns.clone());
        let of_serving = LogIdentity { plan, columns, ..identity.clone() };
        // The stream begins with the plan of before, which the log is of.
        let evidence = match self.before_added() {
            Some(_) => Evidence { of_stream: &of_serving, ..evidence },
            None => evidence,
        };
        match decide(&evidence) {
            Decision::Begin(reason) => self.end_log(slot, reason),
            Decision::Continue if self.changed_unseen => {
                self.end_log(slot, EpochReason::TableReplaced)
            }
            Decision::Continue => {
                let begins = log.extent.map(|extent| extent.oldest);
                let behind = begins.map_or(slot.confirmed, |begins| begins.max(slot.confirmed));
                self.state = State::ReadingLog(slot);
                self.then(Vec::new(), Next::ReadLog { behind })
            }
        }
    }

    /// The log does not go on, and says so by itself from here on: until the epoch begins a standby may have to be waited
    /// for, and why there has to be one is known to this server alone.
    fn end_log(&mut self, slot: SlotFound, reason: EpochReason) -> Step {
        let of = self.log.as_ref().filter(|log| log.extent.is_some()).map(|log| log.of.clone());
        let Some(of) = of else { return self.begin_once_visible(slot, reason) };
        // An end is all that a log tells; whoever has ended it knows more.
        self.broken = Some(reason);
        self.state = State::EndingLog(Ending::Epoch(slot, reason));
        self.then(Vec::new(), Next::EndLog(of))
    }

    fn begin_once_visible(&mut self, slot: SlotFound, reason: EpochReason) -> Step {
        let begins = Begins::Epoch { reason, position: None };
        self.state = State::AwaitingVisibility(AwaitingVisibility { slot, begins, looks: 0 });
        self.then(Vec::new(), Next::LookForUnseen(UnseenQuestion::BeforeEnd, Duration::ZERO))
    }

    fn read(&mut self, slot: SlotFound, read: LogRead) -> Step {
        let Some(extent) = self.extent() else { return self.look(vec![Effect::Disconnect]) };
        if let Decision::Begin(reason) =
            decide_by_transactions(slot.confirmed, extent.oldest, &read.expected)
        {
            return self.end_log(slot, reason);
        }
        if let (Some(serving), Some(looked)) = (&self.serving, &self.looked)
            && Arc::ptr_eq(&serving.plan, &looked.plan)
            // Columns that only those who write had heard of are gone again: they must hear of that, too.
            && !serving.written_by_newer
        {
            return self.begin_to_stream(slot, continuity_of(read.expected, extent), Vec::new());
        }
        if let (Some(_), Some(looked)) = (&self.serving, &self.looked)
            && let Some(switch) = self.switch(looked.wal_end)
        {
            let continuity = continuity_of(read.expected, extent);
            return self.begin_to_stream(slot, continuity, vec![switch]);
        }
        let begins = Begins::Log(read);
        self.state = State::AwaitingVisibility(AwaitingVisibility { slot, begins, looks: 0 });
        self.then(Vec::new(), Next::LookForUnseen(UnseenQuestion::Now, Duration::ZERO))
    }

    /// From where to where the open log goes.
    fn extent(&self) -> Option<LogExtent> {
        self.log.as_ref()?.extent
    }

    fn look_at_unseen(&mut self, mut awaiting: AwaitingVisibility, behind: UnseenBehind) -> Step {
        let UnseenBehind { end, mut unseen } = behind;
        match &mut awaiting.begins {
            Begins::Epoch { position, .. } => {
                *position = position.or(end.map(|end| end.max(awaiting.slot.confirmed)));
            }
            // Engines are told of these.
            Begins::Log(read) => unseen.retain(|unseen| {
                !read.recent.iter().any(|transaction| transaction.xid == unseen.xid)
            }),
        }
        // What is at work for that long and does not wait for a standby has not come to its commit; if the stream brings
        // it all the same, the epoch begins once more.
        let patient = awaiting.looks < COMMIT_LOOKS;
        let at_work = unseen.iter().filter(|unseen| !unseen.waits).map(|unseen| unseen.xid);
        let at_work: AtWork = at_work.collect();
        unseen.retain(|unseen| unseen.waits || patient);
        if let Some(first) = unseen.iter().find(|unseen| unseen.waits).or(unseen.first()) {
            let mut effects = Vec::new();
            if first.waits {
                let who = &first.who;
                let why = format!(
                    "rows cannot be loaded yet: {who} may be committed and wait for a synchronous standby"
                );
                effects.push(Effect::Status(ReplicatorStatus::Waiting(why)));
            }
            let xids = unseen.iter().map(|unseen| unseen.xid).collect();
            awaiting.looks += 1;
            self.state = State::AwaitingVisibility(awaiting);
            let question = UnseenQuestion::Still(xids);
            return self.then(effects, Next::LookForUnseen(question, UNSEEN_LOOK));
        }
        let AwaitingVisibility { slot, begins, .. } = awaiting;
        match begins {
            Begins::Epoch { reason, position } => {
                let (Some(identity), Some(position)) = (self.identity(slot.system), position)
                else {
                    return self.look(vec![Effect::Disconnect]);
                };
                self.state = State::Beginning { slot, position, reason, at_work };
                self.then(Vec::new(), Next::BeginEpoch(identity, position))
            }
            Begins::Log(LogRead { expected, recent }) => {
                let epoch = self.log.as_ref().map(|log| log.epoch);
                let (Some(epoch), Some(extent)) = (epoch, self.extent()) else {
                    return self.look(vec![Effect::Disconnect]);
                };
                let previous = recent.last().map_or(extent.oldest, |last| last.lsn);
                let before = self.before_added().cloned();
                // Where all rows have the columns.
                let wal_end = self.looked.as_ref().map(|looked| looked.wal_end);
                let switch = wal_end.and_then(|at| self.switch(at));
                let mut effects = self.begin(before, epoch, previous, extent.durable, recent);
                effects.extend(switch);
                self.begin_to_stream(slot, continuity_of(expected, extent), effects)
            }
        }
    }

    fn epoch_began(
        &mut self,
        slot: SlotFound,
        position: Lsn,
        reason: EpochReason,
        at_work: AtWork,
        epoch: Epoch,
    ) -> Step {
        let Some(of) = self.identity(slot.system) else {
            return self.look(vec![Effect::Disconnect]);
        };
        let extent = Some(LogExtent { oldest: position, durable: position });
        self.log = Some(OpenLog { of, epoch, extent });
        (self.broken, self.changed_unseen) = (None, false);
        // The stream began with the plan of before, for an epoch that would have gone on.
        let mut effects = Vec::from_iter(self.switch(slot.confirmed));
        effects.push(Effect::EpochBegan { reason, position });
        effects.extend(self.begin(None, epoch, position, position, Vec::new()));
        let plan = self.looked.as_ref().map_or([0; 32], |looked| looked.plan.fingerprint());
        let plan = Fingerprint(plan);
        let began = Event::EpochBegan { epoch, plan, position, reason };
        effects.push(Effect::Publish([began].into()));
        self.begin_to_stream(slot, Continuity::of_epoch(position, at_work), effects)
    }

    /// Begins a generation at a position, where `previous` is that of the transaction before it. Its plan is that of the last
    /// look, or the one `before` that got more columns.
    fn begin(
        &mut self,
        before: Option<Arc<Plan>>,
        epoch: Epoch,
        previous: Lsn,
        position: Lsn,
        recent: Vec<Arc<Transaction>>,
    ) -> Vec<Effect> {
        let Some(looked) = &self.looked else { return Vec::new() };
        let newest = before.is_some().then(|| Arc::clone(&looked.plan));
        let plan = before.unwrap_or_else(|| Arc::clone(&looked.plan));
        let written_by_newer = newest.is_some();
        let serving =
            Serving { plan: Arc::clone(&plan), previous, handed_on: position, written_by_newer };
        (self.serving, self.of_log) = (Some(serving), None);
        let generation = Generation { epoch, plan, position, recent };
        vec![Effect::Begin(generation, newest), Effect::Status(ReplicatorStatus::Starting)]
    }

    /// The plan that serves, or that the log is of, if the last look has found tables with more columns and nothing else that is
    /// different.
    fn before_added(&self) -> Option<&Arc<Plan>> {
        let before = self.serving.as_ref().map(|serving| &serving.plan).or(self.of_log.as_ref())?;
        before.columns_added_by(&self.looked.as_ref()?.plan).map(|_| before)
    }

    /// Has a stream that begins with the plan of before bring rows of the last look's behind a position.
    fn switch(&self, at: Lsn) -> Option<Effect> {
        let looked = self.looked.as_ref().filter(|_| self.before_added().is_some())?;
        Some(Effect::Switch { at, plan: Arc::clone(&looked.plan) })
    }

    /// The stream is where rows are of the plan of the last look.
    fn reshape(&mut self, serving: &mut Serving) -> Option<Effect> {
        let looked = self.looked.as_ref()?;
        let tables = serving.plan.columns_added_by(&looked.plan)?;
        let (plan, system) = (Arc::clone(&looked.plan), looked.system);
        let of = self.identity(system)?;
        // Behind every position that anyone was told, and before the next.
        let (previous, lsn) = (serving.previous, Lsn(serving.handed_on.0 + 1));
        let fingerprint = Fingerprint(plan.fingerprint());
        let event = Event::Reshaped { previous, lsn, plan: fingerprint, tables };
        let (of_now, written_by_newer) = (Arc::clone(&plan), false);
        *serving = Serving { plan: of_now, previous: lsn, handed_on: lsn, written_by_newer };
        if let Some(log) = &mut self.log {
            log.of = of.clone();
        }
        Some(Effect::Reshape { of, plan, event })
    }

    /// What can be done about a stream that does not go on.
    fn failed(&mut self, failure: StreamFailure) -> Step {
        match failure {
            StreamFailure::SlotTaken(why) => self.stand_by(why),
            StreamFailure::OwnConnection(_) => {
                self.state = State::Idle;
                self.then(vec![Effect::Disconnect], Next::Wait(STANDBY_LOOK))
            }
            StreamFailure::SlotMissing(why) => {
                self.make_slot(SlotAction::Make, EpochReason::SlotMissing, &why)
            }
            StreamFailure::SlotLost(why) => {
                self.make_slot(SlotAction::MakeAnew, EpochReason::SlotLost, &why)
            }
            // Up to Postgres 17 what was written before it was made cannot be decoded any more.
            StreamFailure::PublicationMissing(why) => {
                self.make_slot(SlotAction::MakeAnew, EpochReason::PublicationChanged, &why)
            }
            StreamFailure::Unfit { table, what, .. } => {
                self.unfit_change = true;
                let text = format!("table `{table}` has changed: {what}");
                let event = Event::TableChanged { table, what };
                self.look_anew(vec![Effect::Warn(text), Effect::Publish([event].into())])
            }
            StreamFailure::Ended(why) => self.wait(&why),
        }
    }

    /// What was committed and not streamed cannot be told, so nothing that is held is true any more.
    fn make_slot(&mut self, action: SlotAction, reason: EpochReason, why: &str) -> Step {
        self.standing_by = false;
        self.slot_action = action;
        if self.log.is_some() {
            self.broken = self.broken.or(Some(reason));
        }
        self.wait(why)
    }

    fn begin_to_stream(
        &mut self,
        slot: SlotFound,
        continuity: Continuity,
        mut effects: Vec<Effect>,
    ) -> Step {
        let wal_end = slot.wal_ends.max(continuity.end());
        if slot.remembers_partitions && slot.confirmed < continuity.begin() {
            // What this connection finds out on its way to the epoch may not be true any more there.
            self.state = State::Streaming(Streaming::up_to_epoch(continuity, wal_end));
            return self.then(effects, Next::Stream);
        }
        let behind = self.serving.as_ref().map_or(continuity.end(), |serving| serving.handed_on);
        effects.push(Effect::Info(format!("streaming behind {behind}")));
        if let Some(looked) = &self.looked {
            effects.push(Effect::KeepLook(Box::new(looked.observed.clone())));
        }
        // Until there nobody's cursor is too far ahead.
        effects.push(Effect::Publish([Event::StreamBegan { wal_end }].into()));
        self.state = State::Streaming(Streaming::new(continuity, wal_end));
        self.then(effects, Next::Stream)
    }
}

#[cfg(test)]
mod tests;
