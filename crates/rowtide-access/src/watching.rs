//! Whose standing in which open document is known, and whose is to be asked for. A change of a document's row may
//! change what is true for everyone in it, and a change in a table that the rules look into what is true for everyone
//! in any document of the kind; so each that the stream brings makes those standings wanted again, and what is wanted
//! is asked for together, one question at a time. Pure: told what happens and what time it is, it answers what is to be
//! asked and said.
//!
//! An answer counts only if its snapshot has seen every change that it may depend on and that was streamed before it was
//! asked for; later ones leave the standing wanted. A commit is streamed before it is visible to queries, so changes are
//! remembered until a snapshot has proved them visible; whoever comes after one is held to it as those who were there.
//! While the stream is interrupted, all standings are wanted from time to time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rowtide_documents::host::DocumentId;
use rowtide_engine::TransactionSnapshot;
use rowtide_feed::{Changes, Transaction};
use rowtide_plan::documents::{PlannedKind, Standing};
use rowtide_plan::plan::{Plan, TableId};
use rowtide_postgres::mutate::Author;
use rowtide_postgres::standings::StandingAnswer;

use crate::limits::{
    ASK_AGAIN, ASK_WITHOUT_STREAM, ASKED_AT_ONCE, MISSING_FOR, MOST_SEEN_ROWS, SNAPSHOT_DUE,
    UNKNOWN_AT_CONNECT, UNKNOWN_WHILE_OPEN,
};

/// Somebody at a document; no number is given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// What somebody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberTold {
    /// What they may do from now on. Who may do nothing is forgotten with it.
    May(Standing),
    /// That it could not be known for too long. They are forgotten, and may come again.
    Unknown,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEffect {
    /// To ask what all of these may do, and for the snapshot; it may be nobody. The answer comes before anything else is asked.
    Ask(Vec<MemberId>),
    /// To tell somebody.
    Tell(MemberId, MemberTold),
    /// To give a document the name of its row.
    Name(DocumentId, String),
}

#[derive(Debug)]
struct Member {
    document: DocumentId,
    who: Option<Arc<Author>>,
    came: Duration,
    /// What they were told last.
    told: Option<Standing>,
    /// Since when it is not known what they may do.
    unknown_since: Option<Duration>,
}

#[derive(Debug, Default)]
struct OpenDocument {
    members: BTreeSet<MemberId>,
    name: Option<String>,
}

/// A streamed transaction that may not be visible to queries yet.
#[derive(Debug, Default)]
struct Seen {
    xid: u32,
    /// Which of all those it is, in the order of the stream.
    number: u64,
    /// When it was streamed.
    at: Duration,
    rows: BTreeSet<DocumentId>,
    /// Kinds of which any document may be concerned.
    kinds: BTreeSet<Arc<str>>,
}

impl Seen {
    fn concerns(&self, document: &DocumentId) -> bool {
        self.kinds.contains(document.kind()) || self.rows.contains(document)
    }

    /// Remembers less: which kinds, and not which rows.
    fn forget_rows(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        self.kinds.extend(rows.iter().map(|document| Arc::from(document.kind())));
    }
}

#[derive(Debug)]
struct UnderWay {
    asked: Vec<MemberId>,
    /// The answers have to have seen what is numbered below.
    seen_before: u64,
    /// The stream began anew since: what happened in between nobody knows.
    is_overtaken: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Watching {
    members: BTreeMap<MemberId, Member>,
    documents: BTreeMap<DocumentId, OpenDocument>,
    /// Whose standing is to be asked for, and not before when.
    wanted: BTreeMap<MemberId, Duration>,
    under_way: Option<UnderWay>,
    /// In the order of the stream.
    seen: VecDeque<Seen>,
    /// How many there have been.
    seen_count: u64,
    seen_rows: usize,
    /// By when a snapshot is asked for, also if nobody is.
    snapshot_due: Option<Duration>,
    /// While the stream is interrupted: when all standings are wanted next.
    all_due: Option<Duration>,
    effects: Vec<WatchEffect>,
}

impl Watching {
    /// Somebody comes to a document.
    pub fn come(
        &mut self,
        member: MemberId,
        document: DocumentId,
        who: Option<Arc<Author>>,
        now: Duration,
    ) {
        self.documents.entry(document.clone()).or_default().members.insert(member);
        let unknown_since = Some(now);
        let came = Member { document, who, came: now, told: None, unknown_since };
        self.members.insert(member, came);
        self.wanted.insert(member, now);
    }

    /// Somebody goes.
    pub fn leave(&mut self, member: MemberId) {
        self.wanted.remove(&member);
        let Some(gone) = self.members.remove(&member) else { return };
        if let Some(document) = self.documents.get_mut(&gone.document) {
            document.members.remove(&member);
            if document.members.is_empty() {
                self.documents.remove(&gone.document);
            }
        }
    }

    /// The stream has brought a transaction.
    pub fn follow(&mut self, plan: &Plan, transaction: &Transaction, now: Duration) {
        let (xid, number) = (transaction.xid, self.seen_count);
        let mut seen = Seen { xid, number, at: now, ..Seen::default() };
        let mut whole = |table: TableId| {
            let concerned =
                |kind: &&PlannedKind| kind.table == table || kind.looks_into.contains(&table);
            let kinds = plan.documents.iter().filter(concerned);
            seen.kinds.extend(kinds.map(|kind| Arc::from(kind.name.as_str())));
        };
        transaction.truncated.iter().copied().for_each(&mut whole);
        match &transaction.changes {
            Changes::TooLarge(tables) => tables.iter().copied().for_each(&mut whole),
            Changes::Rows(changes) => {
                for change in changes {
                    for kind in &plan.documents {
                        if kind.looks_into.contains(&change.table) {
                            seen.kinds.insert(kind.name.as_str().into());
                        }
                        if kind.table != change.table {
                            continue;
                        }
                        let id = kind.id_of_key(change.key());
                        // What no document can be called nobody is in.
                        let document = id.and_then(|id| DocumentId::new(&kind.name, &id).ok());
                        let Some(document) = document else { continue };
                        seen.rows.insert(document);
                    }
                }
            }
        }
        if seen.rows.is_empty() && seen.kinds.is_empty() {
            return;
        }
        for document in &seen.rows {
            let members = self.documents.get(document).into_iter().flat_map(|open| &open.members);
            want(&mut self.members, &mut self.wanted, members, now);
        }
        for kind in &seen.kinds {
            let of_kind = self.documents.iter().filter(|(open, _)| open.kind() == &**kind);
            let members = of_kind.flat_map(|(_, open)| &open.members);
            want(&mut self.members, &mut self.wanted, members, now);
        }
        self.seen_count += 1;
        self.seen_rows += seen.rows.len();
        self.seen.push_back(seen);
        // The oldest remember less first.
        let mut oldest = self.seen.iter_mut().filter(|seen| !seen.rows.is_empty());
        while self.seen_rows > MOST_SEEN_ROWS
            && let Some(seen) = oldest.next()
        {
            self.seen_rows -= seen.rows.len();
            seen.forget_rows();
        }
        self.snapshot_due.get_or_insert(now + SNAPSHOT_DUE);
    }

    /// What the stream brought before has no continuation: anything may have changed. `recent` are the last transactions
    /// before what it brings next.
    pub fn begin(&mut self, plan: &Plan, recent: &[Arc<Transaction>], now: Duration) {
        self.seen.clear();
        self.seen_rows = 0;
        for transaction in recent {
            self.follow(plan, transaction, now);
        }
        if let Some(under_way) = &mut self.under_way {
            under_way.is_overtaken = true;
        }
        self.want_all(now);
    }

    /// Whether the stream brings what is committed. While it does not, changes are looked for by asking.
    pub fn streams(&mut self, does: bool, now: Duration) {
        let due = self.all_due.unwrap_or(now + ASK_WITHOUT_STREAM);
        self.all_due = (!does).then_some(due);
    }

    fn want_all(&mut self, now: Duration) {
        let all: Vec<MemberId> = self.members.keys().copied().collect();
        want(&mut self.members, &mut self.wanted, all.iter(), now);
    }

    /// Another server serves from now on: everybody is sent there.
    pub fn send_away(&mut self) {
        for member in self.members.keys().copied().collect::<Vec<_>>() {
            self.effects.push(WatchEffect::Tell(member, MemberTold::Unknown));
            self.leave(member);
        }
    }

    /// What was asked for is answered, in the order of the question; `None` where it could not be.
    pub fn answered(
        &mut self,
        snapshot: &TransactionSnapshot,
        answers: Vec<Option<StandingAnswer>>,
        now: Duration,
    ) {
        let Some(under_way) = self.under_way.take() else { return };
        self.seen.retain(|seen| !snapshot.contains(seen.xid));
        self.seen_rows = self.seen.iter().map(|seen| seen.rows.len()).sum();
        self.snapshot_due = (!self.seen.is_empty()).then_some(now + SNAPSHOT_DUE);
        for (member, answer) in under_way.asked.into_iter().zip(answers) {
            let answer = answer.filter(|_| !under_way.is_overtaken);
            self.answered_of(member, answer, under_way.seen_before, now);
        }
    }

    /// The first change that concerns it, and that the last snapshot may not have seen.
    fn unseen(&self, document: &DocumentId) -> Option<&Seen> {
        self.seen.iter().find(|seen| seen.concerns(document))
    }

    fn answered_of(
        &mut self,
        member: MemberId,
        answer: Option<StandingAnswer>,
        seen_before: u64,
        now: Duration,
    ) {
        let Some(of) = self.members.get(&member) else { return };
        let document = of.document.clone();
        let unseen = self.unseen(&document).map(|seen| (seen.number, seen.at));
        let Some(of) = self.members.get_mut(&member) else { return };
        let is_early = of.told.is_none() && now < of.came + MISSING_FOR;
        let counts = |answer: &StandingAnswer| {
            let may_come_yet = is_early && answer.standing == Standing::Missing;
            unseen.is_none_or(|(number, _)| number >= seen_before) && !may_come_yet
        };
        let Some(answer) = answer.filter(counts) else {
            of.unknown_since.get_or_insert(now);
            self.wanted.insert(member, now + ASK_AGAIN);
            return;
        };
        of.unknown_since = unseen.map(|(_, at)| at);
        if of.told.replace(answer.standing) != Some(answer.standing) {
            self.effects.push(WatchEffect::Tell(member, MemberTold::May(answer.standing)));
        }
        if !matches!(answer.standing, Standing::Read | Standing::Edit) {
            return self.leave(member);
        }
        match unseen {
            Some(_) => drop(self.wanted.insert(member, now + ASK_AGAIN)),
            None => drop(self.wanted.remove(&member)),
        }
        let open = self.documents.entry(document.clone()).or_default();
        if let Some(name) = answer.name.filter(|name| open.name.as_ref() != Some(name)) {
            open.name = Some(name.clone());
            self.effects.push(WatchEffect::Name(document, name));
        }
    }

    /// What was asked for could not be answered, and is asked for again after a pause.
    pub fn failed(&mut self, pause: Duration, now: Duration) {
        let under_way = self.under_way.take();
        for member in under_way.into_iter().flat_map(|under_way| under_way.asked) {
            if let Some(of) = self.members.get_mut(&member) {
                of.unknown_since.get_or_insert(now);
                self.wanted.insert(member, now + pause);
            }
        }
        self.snapshot_due = self.snapshot_due.map(|due| due.max(now + pause));
    }

    /// What is to be done now.
    pub fn pass(&mut self, now: Duration) -> Vec<WatchEffect> {
        if self.all_due.is_some_and(|due| due <= now) {
            self.all_due = Some(now + ASK_WITHOUT_STREAM);
            self.want_all(now);
        }
        // Whoever waits is wanted.
        let waiting = |member: &&MemberId| {
            let until = self.members.get(member).and_then(Member::unknown_until);
            until.is_some_and(|until| until <= now)
        };
        for member in self.wanted.keys().filter(waiting).copied().collect::<Vec<_>>() {
            self.effects.push(WatchEffect::Tell(member, MemberTold::Unknown));
            self.leave(member);
        }
        if self.under_way.is_none() {
            let due = self.wanted.iter().map(|(member, since)| (*since, *member));
            let mut due: Vec<(Duration, MemberId)> =
                due.filter(|(since, _)| *since <= now).collect();
            // Who has waited longest is asked for first, so that nobody waits for ever.
            due.sort_by_key(|(since, _)| *since);
            let asked = due.into_iter().take(ASKED_AT_ONCE).map(|(_, member)| member);
            let asked: Vec<MemberId> = asked.collect();
            if !asked.is_empty() || self.snapshot_due.is_some_and(|due| due <= now) {
                self.effects.push(WatchEffect::Ask(asked.clone()));
                let (seen_before, is_overtaken) = (self.seen_count, false);
                self.under_way = Some(UnderWay { asked, seen_before, is_overtaken });
            }
        }
        std::mem::take(&mut self.effects)
    }

    /// When there is something to do, if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        let members = self.wanted.keys().filter_map(|member| self.members.get(member));
        let unknown = members.filter_map(Member::unknown_until).min();
        let asks = self.wanted.values().copied();
        let asks = asks.chain(self.snapshot_due).min().filter(|_| self.under_way.is_none());
        let all = self.all_due.filter(|_| !self.members.is_empty());
        [unknown, asks, all].into_iter().flatten().min()
    }

    /// Where somebody is, and who they are.
    pub fn member(&self, member: MemberId) -> Option<(&DocumentId, Option<&Arc<Author>>)> {
        self.members.get(&member).map(|of| (&of.document, of.who.as_ref()))
    }

    /// How many there are.
    pub fn members(&self) -> usize {
        self.members.len()
    }
}

impl Member {
    /// Until when they wait for it to be known.
    fn unknown_until(&self) -> Option<Duration> {
        let patience = if self.told.is_none() { UNKNOWN_AT_CONNECT } else { UNKNOWN_WHILE_OPEN };
        Some(self.unknown_since? + patience)
    }
}

/// Their standings are asked for.
fn want<'a>(
    members: &mut BTreeMap<MemberId, Member>,
    wanted: &mut BTreeMap<MemberId, Duration>,
    of: impl Iterator<Item = &'a MemberId>,
    now: Duration,
) {
    for member in of {
        if let Some(known) = members.get_mut(member) {
            known.unknown_since.get_or_insert(now);
            // Changes that keep coming do not put off whose turn it is, nor hurry a database that does not answer.
            wanted.entry(*member).or_insert(now);
        }
    }
}

#[cfg(test)]
mod tests;
