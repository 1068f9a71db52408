//! What must hold after every step, recomputed from scratch.

use std::collections::BTreeSet;

use rowtide_plan::map::IdMap;
use rowtide_plan::row::Topic;

use crate::sessions::{HeldState, Way};
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
                let branch = self.plan.branch(state.id().branch);
                assert!(!branch.names_others(), "what names other topics is read");
                assert!(!branch.asks_time(), "what turns is read");
                assert!(state.prefix.is_none(), "what is for a window is read");
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
        self.check_sessions();
        for (view_key, view) in self.views.iter() {
            let resume = view.resume();
            let joining = view.joining.iter().map(|joining| &joining.session);
            let alone = resume.map(|resume| resume.opening.session).or(view.returning());
            let sessions = view.live.iter().chain(joining).chain(&alone).chain(&view.awaited_by);
            let sessions: Vec<_> = sessions.collect();
            assert!(!sessions.is_empty(), "a view without sessions is dropped");
            for session in sessions {
                let holds = self.sessions.get(*session).is_some_and(|of| of.holds(view_key));
                assert!(holds, "a session of a view holds it");
            }
            let waiting = |key: &&TopicKey| self.topics[**key].is_waiting();
            let topics = view.reach.keys().chain(&view.leaving);
            let waiting = topics.filter(waiting).count() + usize::from(self.time.is_awaited());
            assert_eq!(view.waiting(), waiting);
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
                let silent = silent && view.turned.is_empty();
                assert!(silent && view.returning().is_none(), "a whole view has spoken");
                assert!(!view.windows_are_stale, "its windows are looked through");
                for window in &view.windows {
                    let first = self.first_rows(view, window);
                    let first = first.map(|first| first.rows);
                    assert_eq!(first.as_ref(), Ok(&window.told), "a window has the first rows");
                }
                let early = |joining: &Joining| joining.not_before > Some(self.position);
                assert!(view.joining.iter().all(early), "a whole view keeps nobody waiting");
                let owed = |id: &SessionId| view.acknowledgements.iter().any(|(of, _)| of == id);
                assert!(!view.live.iter().any(owed), "who is ready is told at once");
            }
            for session in &view.awaited_by {
                let awaits = self.sessions.get(*session).is_some_and(|of| of.awaits(view_key));
                assert!(awaits, "whoever is there does not wait");
            }
            let mut live = view.live.clone();
            live.sort_unstable();
            live.dedup();
            assert_eq!(live.len(), view.live.len(), "a session is in a view once");
            self.check_reach(view_key);
        }
    }

    /// Sessions that are told of several views wait only for one that is not whole, or for the stream.
    fn check_sessions(&self) {
        for (id, session) in self.sessions.iter() {
            assert!(!session.held.is_empty() && session.held[0].subscription.is_none());
            let whole = |view: &TopicKey| {
                let view = &self.views[*view];
                view.is_whole(self.position) && view.resume().is_none()
            };
            for held in &session.held {
                let view = &self.views[held.view];
                let is_live = session.is_simple() || view.live.contains(&id);
                assert!(is_live || !held.state.has_rows(), "it is told of what it has");
                let waits = !session.is_simple() && held.state != HeldState::Live;
                let returns = view.resume().is_some() || view.returning().is_some();
                let awaits = view.awaited_by.contains(&id) || returns;
                assert!(
                    awaits
                        || !waits
                        || session.way == Way::Direct { ready: false }
                            && held.subscription.is_none()
                );
            }
            match session.way {
                Way::Direct { ready: false } => assert!(session.kept.is_empty()),
                Way::Direct { ready: true } | Way::Composed => {
                    assert!(session.unwanted.is_empty());
                    if session.live().iter().all(whole) {
                        assert!(session.kept.is_empty(), "what all have seen is told");
                        assert!(session.acknowledgements.is_empty());
                        let joins = session.views_in(HeldState::Joining);
                        assert!(!joins.iter().any(whole), "{id:?} joins a whole view: {session:?}");
                    }
                }
                Way::Opening(at) => {
                    let all = session.views_in(HeldState::First).iter().all(whole);
                    assert!(!all || at > Some(self.position), "it is sent its first rows");
                }
                Way::Returning => {
                    let all = session.views_in(HeldState::First).is_empty();
                    assert!(!all || !session.live().iter().all(whole), "it is told what it missed");
                }
            }
        }
    }

    /// A view reaches exactly what its claims and its link rows name, as often as they do.
    fn check_reach(&self, view_key: usize) {
        let view = &self.views[view_key];
        let mut counts: IdMap<TopicKey, u32> = IdMap::default();
        let mut sets = ViewSets::new(self.plan.sets);
        let from_claims = self.plan.reached(view.selection, &view.claims);
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
                let at = self.time.now;
                if sets.pass(Moment::Now, branch, &row.image.kept, &view.claims, at) {
                    branch.named(&row.image.kept).for_each(|topic| name(topic, &mut open));
                    branch.filled(&row.image.kept).for_each(|(set, of)| sets.add(set, of));
                }
            }
        }
        assert_eq!(counts, view.reach);
        view.sets.check(&sets);
    }
}
