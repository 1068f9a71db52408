//! What must hold after every step, recomputed from scratch.

use rowtide_protocol::Lsn;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::topic::{Phase, TopicKey};
use crate::{Engine, SessionId};

impl Engine {
    /// Panics if the engine's state contradicts itself.
    pub(crate) fn check_invariants(&self) {
        for (key, state) in &self.topics {
            assert_eq!(self.index.get(&state.topic), Some(&key), "the index knows every topic");
            assert!(!state.views.is_empty(), "a topic without views is dropped");
            for view in &state.views {
                assert!(self.views[*view].reach.contains_key(&key), "its views reach it");
            }
            for row in state.rows.values() {
                assert!(row.image.topics.contains(&state.topic), "a row lies in its own topics");
            }
            if let Phase::Loading { load, .. } = &state.phase {
                assert!(self.loads[load].contains(&key), "a loading topic is part of a load");
            }
            if let Phase::Loaded { ahead: Some(ahead) } = &state.phase {
                assert!(ahead.until > self.position, "what the stream has passed is forgotten");
            }
        }
        assert_eq!(self.index.len(), self.topics.len());
        for (view_key, view) in &self.views {
            assert_eq!(self.views_by_claims.get(&view.claims), Some(&view_key));
            assert!(view.live.len() + view.joining.len() > 0, "a view without sessions is dropped");
            for session in view.live.iter().chain(view.joining.iter().map(|(id, _)| id)) {
                assert_eq!(self.sessions.get(session).map(|of| of.view), Some(view_key));
            }
            assert!(!view.dirty, "a step ends with every view looked at");
            let unloaded = |key: &&TopicKey| !self.topics[**key].is_loaded();
            assert_eq!(view.waiting, view.reach.keys().filter(unloaded).count());
            assert!(view.gained.iter().all(|key| view.reach.contains_key(key)));
            if view.is_whole(self.position) {
                assert!(
                    view.gained.is_empty() && view.touched.is_empty(),
                    "a whole view has spoken"
                );
                let early = |(_, not_before): &(SessionId, Lsn)| *not_before > self.position;
                assert!(view.joining.iter().all(early), "a whole view keeps nobody waiting");
                assert!(view.live.iter().all(|id| view.settled.iter().all(|(of, _)| of != id)));
            }
            self.check_reach(view_key);
        }
    }

    /// A view reaches exactly what its claims and its link rows name, as often as they do.
    fn check_reach(&self, view_key: usize) {
        let view = &self.views[view_key];
        let mut counts: FxHashMap<TopicKey, u32> = FxHashMap::default();
        let mut open: Vec<TopicKey> = Vec::new();
        let mut seen: FxHashSet<TopicKey> = FxHashSet::default();
        let from_claims = self.plan.reached(&view.claims);
        let mut name = |topic, open: &mut Vec<TopicKey>| {
            let key = self.index[&topic];
            *counts.entry(key).or_insert(0) += 1;
            if seen.insert(key) {
                open.push(key);
            }
        };
        from_claims.into_iter().for_each(|topic| name(topic, &mut open));
        while let Some(key) = open.pop() {
            let state = &self.topics[key];
            assert!(state.views.contains(&view_key), "a topic knows who reaches it");
            let branch = self.plan.branch(state.topic.branch);
            for row in state.rows.values() {
                if !branch.claim_filter.passes(&row.image.kept, &view.claims) {
                    continue;
                }
                for link in &branch.links {
                    let value = &row.image.kept[link.column];
                    if !value.is_null() {
                        let anchor = Some(value.clone());
                        name(rowtide_plan::row::Topic { branch: link.target, anchor }, &mut open);
                    }
                }
            }
        }
        assert_eq!(counts, view.reach);
    }
}
