//! The sets of one view: the values that its rows of some branches have. A value is in a set as often as rows
//! put it there. Three moments are told apart: what is in a set now; what was when the view's link rows were
//! last followed, because rows that a set lets in or shuts out may name topics and fill sets themselves; and
//! what was at the view's last message, by which it is judged what its clients saw. Each past moment is kept as
//! the difference to now, so that it costs what has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rowtide_plan::claims::Claims;
use rowtide_plan::filter::{ClaimFilter, InSet, Operand};
use rowtide_plan::plan::{Branch, SetId};
use rowtide_plan::value::{Instant, Value};
use smallvec::SmallVec;

/// A value of a set, with as many parts as columns are compared with it.
pub(crate) type Member = Box<[Value]>;

/// When it is asked what is in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Now.
    Now,
    /// When link rows were last followed.
    Followed,
    /// At the last message.
    Told,
}

/// All sets of one view.
#[derive(Debug, Default)]
pub(crate) struct ViewSets(Box<[ViewSet]>);

/// Rows that are asked for what has entered or left a set.
#[derive(Debug)]
pub(crate) struct Flips<'a> {
    /// What they are asked by, as indexes into their kept columns.
    pub(crate) columns: Vec<usize>,
    /// Those with one of these values; `None`: any.
    pub(crate) members: Option<&'a BTreeSet<Member>>,
    /// Also those with a null.
    pub(crate) with_null: bool,
}

#[derive(Debug, Default)]
struct ViewSet {
    now: Arc<Members>,
    followed: Past,
    told: Past,
}

/// What is in a set.
#[derive(Clone, Debug, Default, PartialEq)]
struct Members {
    /// How many rows put each there; never none.
    counts: BTreeMap<Member, u32>,
    /// How many of them have a null.
    with_null: usize,
}

/// What was in a set.
#[derive(Debug, Default)]
struct Past {
    /// What was in it and is not now, or the other way round.
    flipped: BTreeSet<Member>,
    /// How many of these have a null.
    flipped_with_null: usize,
    len: usize,
    with_null: usize,
}

/// The sets of a view as they were at one moment, and that moment: nothing that happens to them changes these. The default is that of
/// a plan without any.
#[derive(Clone, Debug)]
pub struct FrozenSets {
    sets: Box<[Arc<Members>]>,
    at: Instant,
}

impl Default for FrozenSets {
    fn default() -> FrozenSets {
        FrozenSets { sets: Box::default(), at: Instant::MINUS_INFINITY }
    }
}

impl ViewSets {
    /// So many, which are empty.
    pub(crate) fn new(sets: usize) -> ViewSets {
        ViewSets((0..sets).map(|_| ViewSet::default()).collect())
    }

    /// One more row puts this there.
    pub(crate) fn add(&mut self, set: SetId, member: Member) {
        let set = &mut self.0[usize::from(set.0)];
        let now = Arc::make_mut(&mut set.now);
        if let Some(count) = now.counts.get_mut(&member) {
            *count += 1;
            return;
        }
        now.with_null += usize::from(has_null(&member));
        now.counts.insert(member.clone(), 1);
        set.flip(member);
    }

    /// One row less does.
    pub(crate) fn remove(&mut self, set: SetId, member: Member) {
        let set = &mut self.0[usize::from(set.0)];
        let now = Arc::make_mut(&mut set.now);
        let Some(count) = now.counts.get_mut(&member) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        now.counts.remove(&member);
        now.with_null -= usize::from(has_null(&member));
        set.flip(member);
    }

    /// Whether a row with these kept columns is one of those that a view with these claims sees, by what was in its sets
    /// at that moment, when it was `at` that time.
    pub(crate) fn pass(
        &self,
        moment: Moment,
        branch: &Branch,
        kept: &[Value],
        claims: &Claims,
        at: Instant,
    ) -> bool {
        self.pass_filter(moment, &branch.claim_filter, kept, claims, at)
    }

    /// As [`ViewSets::pass`], by another filter than that of a branch.
    pub(crate) fn pass_filter(
        &self,
        moment: Moment,
        filter: &ClaimFilter,
        kept: &[Value],
        claims: &Claims,
        at: Instant,
    ) -> bool {
        let ask = |test: &InSet, kept: &[Value]| {
            let now = &self.0[usize::from(test.set.0)].now;
            answer(now, self.past(moment, test.set), test, kept)
        };
        filter.passes(kept, claims, &ask, at)
    }

    /// Whether rows of the branch may be judged otherwise than at that moment, if all of them have this value in this
    /// kept column.
    pub(crate) fn differ(
        &self,
        moment: Moment,
        branch: &Branch,
        common: Option<(usize, &Value)>,
    ) -> bool {
        let mut differ = false;
        branch.claim_filter.0.set_tests(&mut |test| {
            let past = self.past(moment, test.set).filter(|past| past.differs());
            differ |= past.is_some_and(|past| past.may_concern(test, common));
        });
        differ
    }

    /// Whether any set is not what it was at that moment.
    pub(crate) fn any_differ(&self, moment: Moment) -> bool {
        let past = |set: usize| self.past(moment, SetId(set as u16));
        (0..self.0.len()).any(|set| past(set).is_some_and(Past::differs))
    }

    /// Which rows of the branch may be judged otherwise than at that moment.
    pub(crate) fn flips(&self, moment: Moment, branch: &Branch) -> Vec<Flips<'_>> {
        let mut flips = Vec::new();
        branch.claim_filter.0.set_tests(&mut |test| {
            let past = self.past(moment, test.set).filter(|past| past.differs());
            flips.extend(past.map(|past| past.flips(test)));
        });
        flips
    }

    fn past(&self, moment: Moment, set: SetId) -> Option<&Past> {
        let set = &self.0[usize::from(set.0)];
        match moment {
            Moment::Now => None,
            Moment::Followed => Some(&set.followed),
            Moment::Told => Some(&set.told),
        }
    }

    /// The link rows were followed by what is in the sets now.
    pub(crate) fn were_followed(&mut self) {
        self.0.iter_mut().for_each(|set| set.followed = Past::of(&set.now));
    }

    /// A message was made by what is in the sets now.
    pub(crate) fn were_told(&mut self) {
        let of_now = |set: &mut ViewSet| {
            if set.told.differs() {
                set.told = Past::of(&set.now);
            }
        };
        self.0.iter_mut().for_each(of_now);
    }

    /// The last message was made by what is in `then` now.
    pub(crate) fn were_told_by(&mut self, then: &ViewSets) {
        for (set, then) in self.0.iter_mut().zip(&then.0) {
            let (now, then) = (&set.now.counts, &then.now);
            let gone = then.counts.keys().filter(|member| !now.contains_key(*member));
            let new = now.keys().filter(|member| !then.counts.contains_key(*member));
            let flipped: BTreeSet<Member> = gone.chain(new).cloned().collect();
            let flipped_with_null = flipped.iter().filter(|member| has_null(member)).count();
            set.told = Past { flipped, flipped_with_null, ..Past::of(then) };
        }
    }

    /// As they are now, when it is `at` that time.
    pub(crate) fn freeze(&self, at: Instant) -> FrozenSets {
        FrozenSets { sets: self.0.iter().map(|set| Arc::clone(&set.now)).collect(), at }
    }

    /// Panics if what is in the sets now is not what is in `others`, or link rows are to be followed still.
    #[cfg(test)]
    pub(crate) fn check(&self, others: &ViewSets) {
        for (set, other) in self.0.iter().zip(&others.0) {
            assert_eq!(set.now, other.now, "a set has what its rows put there");
            assert!(!set.followed.differs(), "a step ends with link rows followed");
        }
    }
}

impl ViewSet {
    /// What is in the set now has become the other of what it was.
    fn flip(&mut self, member: Member) {
        for past in [&mut self.followed, &mut self.told] {
            let with_null = usize::from(has_null(&member));
            if past.flipped.remove(&member) {
                past.flipped_with_null -= with_null;
            } else {
                past.flipped.insert(member.clone());
                past.flipped_with_null += with_null;
            }
        }
    }
}

impl Past {
    fn of(now: &Members) -> Past {
        let (len, with_null) = (now.counts.len(), now.with_null);
        Past { flipped: BTreeSet::new(), flipped_with_null: 0, len, with_null }
    }

    fn differs(&self) -> bool {
        !self.flipped.is_empty()
    }

    /// Whether rows may have another answer than now, if all of them have this value, which is not null, in this column.
    fn may_concern(&self, test: &InSet, common: Option<(usize, &Value)>) -> bool {
        let is_asked = |(column, _): &(usize, _)| test.columns == [Operand::Column(*column)];
        common.filter(is_asked).is_none_or(|(_, value)| {
            let becomes_unknown = !test.exists && self.flipped_with_null > 0;
            becomes_unknown || self.flipped.contains(std::slice::from_ref(value))
        })
    }

    /// Which rows may have another answer than now.
    fn flips(&self, test: &InSet) -> Flips<'_> {
        let column = |operand: &Operand| match operand {
            Operand::Column(column) => Some(*column),
            Operand::Cast(..) | Operand::Literal(_) | Operand::Claim(_) => None,
        };
        let columns: Vec<usize> = test.columns.iter().filter_map(column).collect();
        // A null in the set makes unknown what is not there, and a set of rows as such is asked by all.
        let all = columns.is_empty() || (!test.exists && self.flipped_with_null > 0);
        Flips { columns, members: (!all).then_some(&self.flipped), with_null: !test.exists }
    }
}

impl FrozenSets {
    /// Whether a row with these kept columns is one of those that a view with these claims sees.
    pub(crate) fn pass(&self, branch: &Branch, kept: &[Value], claims: &Claims) -> bool {
        let ask = |test: &InSet, kept: &[Value]| {
            answer(self.sets.get(usize::from(test.set.0))?, None, test, kept)
        };
        branch.claim_filter.passes(kept, claims, &ask, self.at)
    }
}

/// SQL's answer whether the row's values are in a set as it is now, or as it was.
fn answer(now: &Members, past: Option<&Past>, test: &InSet, kept: &[Value]) -> Option<bool> {
    let asked = asked(test, kept);
    let len = past.map_or(now.counts.len(), |past| past.len);
    let has_flipped = |member: &[Value]| past.is_some_and(|past| past.flipped.contains(member));
    let asks_null = has_null(&asked);
    if !asks_null && now.counts.contains_key(&*asked) != has_flipped(&asked) {
        return Some(true);
    }
    // Without a null on either side nothing is unknown.
    let with_null = past.map_or(now.with_null, |past| past.with_null);
    if test.exists || len == 0 || (!asks_null && with_null == 0) {
        return Some(false);
    }
    if asked.len() == 1 {
        return None;
    }
    let mut still = now.counts.keys().filter(|member| !has_flipped(member));
    let mut gone = past.into_iter().flat_map(|past| &past.flipped);
    let may_be_there = still.any(|member| may_be(member, &asked))
        || gone.any(|member| !now.counts.contains_key(member) && may_be(member, &asked));
    if may_be_there { None } else { Some(false) }
}

/// What a row looks for.
fn asked(test: &InSet, kept: &[Value]) -> SmallVec<[Value; 1]> {
    let value = |operand: &Operand| match operand {
        Operand::Column(column) => kept[*column].clone(),
        Operand::Cast(column, kind) => kept[*column].cast(kind).into_owned(),
        Operand::Literal(value) => value.clone(),
        Operand::Claim(_) => Value::Null,
    };
    test.columns.iter().map(value).collect()
}

fn has_null(values: &[Value]) -> bool {
    values.iter().any(Value::is_null)
}

/// Whether two values are the same, or may be, where one of them is null.
fn may_be(member: &[Value], asked: &[Value]) -> bool {
    member.iter().zip(asked).all(|(a, b)| a == b || a.is_null() || b.is_null())
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const SET: SetId = SetId(0);

    fn value(rng: &mut SmallRng) -> Value {
        match rng.random_range(0..4) {
            0 => Value::Null,
            number => Value::Int(number),
        }
    }

    /// SQL's answer, by the book.
    fn by_the_book(members: &[Member], asked: &[Value], exists: bool) -> Option<bool> {
        let same = |member: &Member| {
            let pairs = || member.iter().zip(asked);
            let is_null = |(a, b): &(&Value, &Value)| a.is_null() || b.is_null();
            if pairs().any(|pair| !is_null(&pair) && pair.0 != pair.1) {
                Some(false)
            } else {
                (!pairs().any(|pair| is_null(&pair))).then_some(true)
            }
        };
        let answers: Vec<Option<bool>> = members.iter().map(same).collect();
        if answers.contains(&Some(true)) {
            Some(true)
        } else if exists || !answers.contains(&None) {
            Some(false)
        } else {
            None
        }
    }

    #[test]
    fn a_set_answers_as_sql_does_at_each_moment() {
        let mut rng = SmallRng::seed_from_u64(3);
        for round in 0..600 {
            let parts = round % 3;
            let mut sets = ViewSets::new(1);
            let (mut now, mut told): (Vec<Member>, Vec<Member>) = (Vec::new(), Vec::new());
            for _ in 0..40 {
                if now.is_empty() || rng.random_bool(0.5) {
                    let member: Member = (0..parts).map(|_| value(&mut rng)).collect();
                    now.push(member.clone());
                    sets.add(SET, member);
                } else {
                    let gone = now.swap_remove(rng.random_range(0..now.len()));
                    sets.remove(SET, gone);
                }
                if rng.random_bool(0.2) {
                    told = now.clone();
                    sets.were_told();
                }
                let kept: Vec<Value> = (0..parts).map(|_| value(&mut rng)).collect();
                let columns = (0..parts).map(Operand::Column).collect();
                let test = InSet { columns, set: SET, exists: parts == 0 || rng.random_bool(0.5) };
                for (moment, members) in [(Moment::Now, &now), (Moment::Told, &told)] {
                    let past = sets.past(moment, SET);
                    let found = answer(&sets.0[0].now, past, &test, &kept);
                    let expected = by_the_book(members, &kept, test.exists);
                    assert_eq!(found, expected, "{moment:?}: {kept:?} in {members:?}, {test:?}");
                }
            }
        }
    }
}
