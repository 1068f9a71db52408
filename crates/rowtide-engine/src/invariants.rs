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
                let view = &self.views[*view];
                let known = view.reach.contains_key(&key) || view.leaving.contains(&key);
                assert!(known, "its views reach it, or have until lately");
            }
            if let Phase::Unread = state.phase {
                assert!(!state.was_read && state.rows.is_empty());
                let links = &self.plan.branch(state.topic.branch).links;
                assert!(links.is_empty(), "what names other topics is read");
            }
            for row in state.rows.iter() {
                assert!(row.image.topics.contains(&state.topic), "a row lies in its own topics");
            }
            if let Phase::Wanted = state.phase {
                let asked_for = self.wanted.contains(&key) || self.postponed.contains(&key);
                assert!(asked_for, "a wanted topic will be asked for");
            }
            if let Phase::Loading { load, .. } = &state.phase {
                assert!(self.loads[load].contains(&key), "a loading topic is part of a load");
            }
            if let Phase::Loaded { ahead: Some(ahead) } = &state.phase {
                assert!(ahead.until > self.position, "what the stream has passed is forgotten");
            }
        }
        assert_eq!(self.index.len(), self.topics.len());
        let rows = self.topics.iter().flat_map(|(_, state)| state.rows.iter());
        assert_eq!(self.row_bytes, rows.map(|row| row.json.len()).sum::<usize>());
        for (view_key, view) in &self.views {
            let shared = self.views_by_claims.get(&view.claims) == Some(&view_key);
            let resuming = view.resume.is_some();
            assert_eq!(resuming, self.resuming.contains(&view_key));
            let places = [shared, resuming, self.apart.contains(&view_key)];
            assert_eq!(
                places.iter().filter(|there| **there).count(),
                1,
                "each view is in one place"
            );
            assert!(!view.is_deserted(), "a view without sessions is dropped");
            for session in view.live.iter().chain(view.joining.iter().map(|(id, _)| id)) {
                assert_eq!(self.sessions.get(session).map(|of| of.view), Some(view_key));
            }
            assert!(!view.dirty, "a step ends with every view looked at");
            let waiting = |key: &&TopicKey| self.topics[**key].is_waiting();
            let topics = view.reach.keys().chain(&view.leaving);
            assert_eq!(view.waiting, topics.filter(waiting).count());
            assert!(view.gained.iter().all(|key| view.reach.contains_key(key)));
            for key in &view.leaving {
                assert!(
                    !view.reach.contains_key(key) && self.topics[*key].views.contains(&view_key)
                );
            }
            if resuming {
                let asked = view.resume.as_ref().is_some_and(|resume| resume.asked);
                let waits = asked || !view.is_whole(self.position);
                assert!(waits, "who comes back waits for the log, for rows or for the stream");
            } else if view.is_whole(self.position) {
                let silent =
                    view.gained.is_empty() && view.touched.is_empty() && view.leaving.is_empty();
                assert!(silent && view.returning.is_none(), "a whole view has spoken");
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
            for row in state.rows.iter() {
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
