//! Questions that wait, in an order that is fair to those who ask. Of each asker one question is answered at a time, and
//! askers take turns: however much one asks, another waits for one question of it. Small questions and large ones take
//! turns as well, and large ones never take all that answer, so a small one does not wait until a large one has its answer.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::question::Scale;

/// Questions that wait.
#[derive(Debug)]
pub(crate) struct FairQueue<Q> {
    /// Those who have a question that waits, or is being answered.
    askers: HashMap<Arc<str>, Line<Q>>,
    /// Whose turn it is, where the next question is a small one. Nobody is here whose question is being answered.
    small: VecDeque<Arc<str>>,
    /// The same, where it is a large one.
    large: VecDeque<Arc<str>>,
    large_at_once: usize,
    large_in_hand: usize,
    large_is_next: bool,
}

/// What one asker asks.
#[derive(Debug)]
struct Line<Q> {
    waiting: VecDeque<(Scale, Q)>,
    is_in_hand: bool,
}

/// The turn of an asker, which ends with [`FairQueue::end`].
#[derive(Debug)]
pub(crate) struct Turn {
    asker: Arc<str>,
    scale: Scale,
}

impl Scale {
    fn is_large(self) -> bool {
        self == Scale::Document
    }
}

impl<Q> FairQueue<Q> {
    /// A queue of which so many large questions are answered at once.
    pub(crate) fn new(large_at_once: usize) -> FairQueue<Q> {
        FairQueue {
            askers: HashMap::new(),
            small: VecDeque::new(),
            large: VecDeque::new(),
            large_at_once,
            large_in_hand: 0,
            large_is_next: false,
        }
    }

    /// Puts a question behind those that its asker has asked before.
    pub(crate) fn put(&mut self, asker: &Arc<str>, scale: Scale, question: Q) {
        let nothing = || Line { waiting: VecDeque::new(), is_in_hand: false };
        let line = self.askers.entry(Arc::clone(asker)).or_insert_with(nothing);
        line.waiting.push_back((scale, question));
        if line.waiting.len() == 1 && !line.is_in_hand {
            self.turns(scale).push_back(Arc::clone(asker));
        }
    }

    /// The question whose turn it is, if one can be answered now.
    pub(crate) fn next(&mut self) -> Option<(Turn, Q)> {
        let large_can = !self.large.is_empty() && self.large_in_hand < self.large_at_once;
        let is_large = large_can && (self.large_is_next || self.small.is_empty());
        let asker = if is_large { self.large.pop_front() } else { self.small.pop_front() }?;
        let line = self.askers.get_mut(&asker)?;
        let (scale, question) = line.waiting.pop_front()?;
        line.is_in_hand = true;
        self.large_in_hand += usize::from(is_large);
        self.large_is_next = !is_large;
        Some((Turn { asker, scale }, question))
    }

    /// A question has its answer: whoever has asked it stands behind all others.
    pub(crate) fn end(&mut self, turn: Turn) {
        let Turn { asker, scale } = turn;
        self.large_in_hand -= usize::from(scale.is_large());
        let Some(line) = self.askers.get_mut(&asker) else { return };
        line.is_in_hand = false;
        match line.waiting.front() {
            Some((next, _)) => {
                let next = *next;
                self.turns(next).push_back(asker);
            }
            None => drop(self.askers.remove(&asker)),
        }
    }

    fn turns(&mut self, scale: Scale) -> &mut VecDeque<Arc<str>> {
        if scale.is_large() { &mut self.large } else { &mut self.small }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn put(queue: &mut FairQueue<u32>, asker: &str, scale: Scale, question: u32) {
        queue.put(&asker.into(), scale, question);
    }

    /// What is answered, one after the other, by one who answers.
    fn answered(queue: &mut FairQueue<u32>) -> Vec<u32> {
        let next = || {
            let (turn, question) = queue.next()?;
            queue.end(turn);
            Some(question)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn who_asks_much_waits_for_those_who_ask_once() {
        let mut queue = FairQueue::new(1);
        (0..100).for_each(|n| put(&mut queue, "busy", Scale::Push, n));
        put(&mut queue, "bystander", Scale::Push, 1_000);
        put(&mut queue, "another", Scale::Push, 2_000);
        assert_eq!(answered(&mut queue)[..4], [0, 1_000, 2_000, 1]);
    }

    #[test]
    fn one_question_of_each_is_answered_at_a_time() {
        let mut queue = FairQueue::new(1);
        put(&mut queue, "busy", Scale::Push, 0);
        put(&mut queue, "busy", Scale::Push, 1);
        let (turn, _) = queue.next().expect("the first");
        assert!(queue.next().is_none());
        put(&mut queue, "busy", Scale::Document, 2);
        put(&mut queue, "bystander", Scale::Push, 3);
        queue.end(turn);
        assert_eq!(answered(&mut queue), [3, 1, 2]);
        assert!(queue.askers.is_empty(), "of those who ask nothing nothing is kept");
    }

    #[test]
    fn large_questions_leave_somebody_to_answer_small_ones() {
        let mut queue = FairQueue::new(1);
        put(&mut queue, "a", Scale::Document, 0);
        put(&mut queue, "b", Scale::Document, 1);
        let (turn, question) = queue.next().expect("the first");
        assert_eq!(question, 0);
        assert!(queue.next().is_none(), "one is as many as may be");
        put(&mut queue, "c", Scale::Push, 2);
        assert!(matches!(queue.next(), Some((_, 2))));
        queue.end(turn);
        assert!(matches!(queue.next(), Some((_, 1))));
    }

    #[test]
    fn a_large_question_waits_for_one_small_one_at_the_most() {
        let mut queue = FairQueue::new(1);
        (0..9).for_each(|n| put(&mut queue, &n.to_string(), Scale::Push, n));
        put(&mut queue, "opening", Scale::Document, 100);
        assert_eq!(answered(&mut queue)[..3], [0, 100, 1]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, Scale),
        Next,
        End(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let scale = prop_oneof![Just(Scale::Schema), Just(Scale::Push), Just(Scale::Document)];
        prop_oneof![
            (0..5_u8, scale).prop_map(|(asker, scale)| Step::Put(asker, scale)),
            Just(Step::Next),
            (0..3_usize).prop_map(Step::End),
        ]
    }

    proptest! {
        #[test]
        fn nobody_is_passed_over_and_nothing_is_lost(steps in proptest::collection::vec(step(), 0..200)) {
            let mut queue = FairQueue::new(1);
            let (mut in_hand, mut next) = (Vec::<(u8, Turn)>::new(), 0_u32);
            let mut waiting = BTreeMap::<u8, VecDeque<(Scale, u32)>>::new();
            // How often others were taken, of the same size, since somebody could have been.
            let mut passed = BTreeMap::<(u8, u8), u32>::new();
            let draining = std::iter::repeat_n([Step::End(0), Step::Next], 400).flatten();
            for step in steps.into_iter().chain(draining) {
                match step {
                    Step::Put(asker, scale) => {
                        queue.put(&asker.to_string().as_str().into(), scale, next);
                        waiting.entry(asker).or_default().push_back((scale, next));
                        next += 1;
                    }
                    Step::End(n) => {
                        if in_hand.is_empty() { continue }
                        let (_, turn) = in_hand.remove(n % in_hand.len());
                        queue.end(turn);
                    }
                    Step::Next => {
                        let is_in_hand = |asker: u8| in_hand.iter().any(|(other, _)| *other == asker);
                        let of = |asker: u8| waiting.get(&asker).and_then(|line| line.front());
                        let ready: Vec<u8> = (0..5).filter(|asker| !is_in_hand(*asker) && of(*asker).is_some()).collect();
                        let Some((turn, question)) = queue.next() else {
                            let large = in_hand.iter().any(|(_, turn)| turn.scale.is_large());
                            prop_assert!(ready.iter().all(|asker| large && of(*asker).is_some_and(|(scale, _)| scale.is_large())));
                            continue;
                        };
                        let taken: u8 = turn.asker.parse().expect("a number");
                        prop_assert!(ready.contains(&taken));
                        prop_assert_eq!(of(taken), Some(&(turn.scale, question)));
                        for asker in ready {
                            let alike = of(asker).is_some_and(|(scale, _)| scale.is_large() == turn.scale.is_large());
                            if asker != taken && alike {
                                let times = passed.entry((asker, taken)).or_default();
                                *times += 1;
                                prop_assert!(*times <= 1, "{} was taken twice before {}", taken, asker);
                            }
                        }
                        passed.retain(|(asker, _), _| *asker != taken);
                        waiting.entry(taken).or_default().pop_front();
                        in_hand.push((taken, turn));
                    }
                }
            }
            prop_assert!(waiting.values().all(VecDeque::is_empty));
        }
    }
}
