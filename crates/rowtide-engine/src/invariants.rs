//! What must hold after every step, recomputed from scratch.

use std::collections::BTreeSet;

use rowtide_plan::map::IdMap;
use rowtide_plan::row::Topic;

use crate::sets::{Moment, ViewSets};
use crate::topic::{Phase, TopicKey};
use crate::view::Joining;
use crate::{Engine, SessionId};

impl Engine {
    /// Panics if the engine's state contradicts itself.
    pub(crate) fn check_invariants(&self) {
        for (key, state) in self.topics.iter() {
            assert!(!state.views().is_empty(), "a topic without views is dropped");
            for view in state.views() {
                let view = &self.views[*view];
                assert!(view.looks_at(key), "its views reach it, or have until lately");
            }
            if let Phase::Unread = state.phase() {
                assert!(state.rows().is_empty());
                let names_others = self.plan.branch(state.id().branch).names_others();
                assert!(!names_others, "what names other topics is read");
            }
            for row in state.rows().iter() {
                assert!(row.image.topics.contains(state.id()), "a row lies in its own topics");
            }
            if let Phase::Wanted { .. } = state.phase() {
                assert!(self.loads.is_wanted(key), "a wanted topic will be asked for");
            }
            if let Phase::Loading { load, .. } = state.phase() {
                assert!(self.loads.is_under_way(*load, key), "a loading topic is part of a load");
            }
            if let Some(ahead) = state.ahead() {
                assert!(ahead.until > self.position, "what the stream has passed is evicted");
            }
        }
        self.topics.check();
        self.views.check();
        for (view_key, view) in self.views.iter() {
            let resume = view.resume();
            let joining = view.joining.iter().map(|joining| &joining.session);
            let alone = resume.map(|resume| resume.opening.session).or(view.returning());
            let sessions: Vec<_> = view.live.iter().chain(joining).chain(&alone).collect();
            assert!(!sessions.is_empty(), "a view without sessions is dropped");
            for session in sessions {
                assert_eq!(self.sessions.view_of(*session), Some(view_key));
            }
            let waiting = |key: &&TopicKey| self.topics[**key].is_waiting();
            let topics = view.reach.keys().chain(&view.leaving);
            assert_eq!(view.waiting(), topics.filter(waiting).count());
            assert!(view.gained.iter().all(|key| view.reach.contains_key(key)));
            for key in &view.leaving {
                assert!(
                    !view.reach.contains_key(key) && self.topics[*key].views().contains(&view_key)
                );
            }
            if let Some(resume) = resume {
                let waits = resume.asked || !view.is_whole(self.position);
                assert!(waits, "who comes back waits for the log, for rows or for the stream");
            } else if view.is_whole(self.position) {
                let silent =
                    view.gained.is_empty() && view.touched.is_empty() && view.leaving.is_empty();
                let silent =
                    silent && view.retold.is_empty() && !view.sets.any_differ(Moment::Told);
                assert!(silent && view.returning().is_none(), "a whole view has spoken");
                let early = |joining: &Joining| joining.not_before > Some(self.position);
                assert!(view.joining.iter().all(early), "a whole view keeps nobody waiting");
                let owed = |id: &SessionId| view.acknowledgements.iter().any(|(of, _)| of == id);
                assert!(!view.live.iter().any(owed), "who is ready is told at once");
            }
            self.check_reach(view_key);
        }
    }

    /// A view reaches exactly what its claims and its link rows name, as often as they do.
    fn check_reach(&self, view_key: usize) {
        let view = &self.views[view_key];
        let mut counts: IdMap<TopicKey, u32> = IdMap::default();
        let mut sets = ViewSets::new(self.plan.sets);
        let from_claims = self.plan.reached(&view.claims);
        let mut open: BTreeSet<Topic> = BTreeSet::new();
        let mut name = |topic: Topic, open: &mut BTreeSet<Topic>| {
            let key = self.topics.find(&topic).expect("what is named is in use");
            *counts.entry(key).or_insert(0) += 1;
            open.insert(topic);
        };
        from_claims.into_iter().for_each(|topic| name(topic, &mut open));
        // What fills a set comes before what asks it.
        while let Some(topic) = open.pop_first() {
            let state = &self.topics[self.topics.find(&topic).expect("it was named")];
            assert!(state.views().contains(&view_key), "a topic knows who reaches it");
            let branch = self.plan.branch(topic.branch);
            for row in state.rows().iter() {
                if sets.pass(Moment::Now, branch, &row.image.kept, &view.claims) {
                    branch.named(&row.image.kept).for_each(|topic| name(topic, &mut open));
                    branch.filled(&row.image.kept).for_each(|(set, of)| sets.add(set, of));
                }
            }
        }
        assert_eq!(counts, view.reach);
        view.sets.check(&sets);
    }
}
