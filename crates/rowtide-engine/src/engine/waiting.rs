//! Who waits for which topic. A view waits for as many topics as it looks at and are waiting; it may come to
//! look at one, stop looking, or a topic may change its phase. All three happen here and nowhere else, so
//! that the count cannot go wrong.

use super::Engine;
use crate::topic::{TopicKey, TopicState, ViewKey};

impl Engine {
    /// The view looks at the topic from now on.
    pub(super) fn attach(&mut self, view_key: ViewKey, key: TopicKey) {
        let (view, state) = (&mut self.views[view_key], &mut self.topics[key]);
        state.add_view(view_key);
        view.hold_until(state.ahead().map(|ahead| ahead.until));
        if state.is_waiting() {
            view.wait_for_one();
        }
    }

    /// The view does not look at the topic any more. If nobody does, the topic must be dropped.
    pub(super) fn detach(&mut self, view_key: ViewKey, key: TopicKey) {
        let (view, state) = (&mut self.views[view_key], &mut self.topics[key]);
        state.remove_view(view_key);
        if state.is_waiting() {
            view.waited_for_one();
        }
    }

    /// Changes the phase of a topic, by one of its methods.
    pub(super) fn change_phase<T>(
        &mut self,
        key: TopicKey,
        change: impl FnOnce(&mut TopicState) -> T,
    ) -> T {
        let state = &mut self.topics[key];
        let was_waiting = state.is_waiting();
        let changed = change(state);
        let is_waiting = state.is_waiting();
        for view in state.views().iter().filter(|_| was_waiting != is_waiting) {
            match is_waiting {
                true => self.views[*view].wait_for_one(),
                false => self.views[*view].waited_for_one(),
            }
        }
        changed
    }

    /// The rows of a topic are needed: those that were not read are asked for.
    pub(super) fn need_rows(&mut self, key: TopicKey) {
        if self.change_phase(key, TopicState::want) {
            self.loads.want(key);
        }
    }
}
