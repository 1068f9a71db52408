//! The views: those of their claims, which sessions share, and those of sessions that have come back. It is
//! known here which views are in which phase, which must be looked at before the step ends, and which only
//! wait for the stream to come to a position.

use std::collections::BTreeSet;
use std::ops::{Index, IndexMut};

use rowtide_plan::claims::Claims;
use rowtide_plan::map::SeededMap;
use rowtide_plan::plan::Selection;
use rowtide_protocol::Lsn;
use slab::Slab;

use crate::resume::Resume;
use crate::topic::ViewKey;
use crate::view::{View, ViewPhase};
use crate::window::ViewWindow;

/// All views.
#[derive(Debug, Default)]
pub(crate) struct Views {
    views: Slab<View>,
    /// Those in [`ViewPhase::Shared`].
    shared: SeededMap<(Selection, Claims), ViewKey>,
    /// Those in [`ViewPhase::Resuming`].
    resuming: BTreeSet<ViewKey>,
    /// Those in [`ViewPhase::Returning`] and [`ViewPhase::Apart`].
    apart: BTreeSet<ViewKey>,
    /// Those that have something to say at a position of the stream.
    releasable: BTreeSet<(Lsn, ViewKey)>,
    /// Those to look at before the step ends.
    dirty: Vec<ViewKey>,
}

impl Views {
    pub(crate) fn len(&self) -> usize {
        self.views.len()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (ViewKey, &mut View)> {
        self.views.iter_mut()
    }

    pub(crate) fn get(&self, key: ViewKey) -> Option<&View> {
        self.views.get(key)
    }

    /// The view of these claims and this selection.
    pub(crate) fn shared(&self, selection: Selection, claims: &Claims) -> Option<ViewKey> {
        self.shared.get(&(selection, claims.clone())).copied()
    }

    /// Those whose sessions wait to be told what has changed.
    pub(crate) fn resuming(&self) -> impl Iterator<Item = ViewKey> {
        self.resuming.iter().copied()
    }

    /// Does something with what is known of each of those.
    pub(crate) fn each_resume(&mut self, mut each: impl FnMut(&mut Resume)) {
        for key in &self.resuming {
            if let Some(resume) = self.views.get_mut(*key).and_then(View::resume_mut) {
                each(resume);
            }
        }
    }

    /// Those whose sessions have come back and are not with the others of their claims yet.
    pub(crate) fn apart(&self) -> impl Iterator<Item = ViewKey> {
        self.apart.iter().copied()
    }

    pub(crate) fn has_apart(&self) -> bool {
        !self.apart.is_empty()
    }

    /// A new view, that has so many sets and these windows.
    pub(crate) fn add(
        &mut self,
        selection: Selection,
        claims: Claims,
        phase: ViewPhase,
        sets: usize,
        windows: Vec<ViewWindow>,
    ) -> ViewKey {
        let key = self.views.insert(View::new(selection, claims, phase, sets, windows));
        self.enter_phase(key);
        key
    }

    /// Moves a view to another phase; returns the one that it was in.
    pub(crate) fn set_phase(&mut self, key: ViewKey, phase: ViewPhase) -> ViewPhase {
        self.leave_phase(key);
        let before = self.views[key].set_phase(phase);
        self.enter_phase(key);
        before
    }

    /// Takes out a view.
    pub(crate) fn remove(&mut self, key: ViewKey) -> View {
        self.leave_phase(key);
        let view = self.views.remove(key);
        // Others may stay, and have a view looked at that has nothing to say.
        if let Some(at) = view.release_at() {
            self.releasable.remove(&(at, key));
        }
        view
    }

    fn enter_phase(&mut self, key: ViewKey) {
        let view = &self.views[key];
        match view.phase() {
            ViewPhase::Shared => {
                self.shared.insert((view.selection, view.claims.clone()), key);
            }
            ViewPhase::Resuming(_) => drop(self.resuming.insert(key)),
            ViewPhase::Returning(_) | ViewPhase::Apart => drop(self.apart.insert(key)),
        }
    }

    fn leave_phase(&mut self, key: ViewKey) {
        let view = &self.views[key];
        match view.phase() {
            ViewPhase::Shared => {
                self.shared.remove(&(view.selection, view.claims.clone()));
            }
            ViewPhase::Resuming(_) => drop(self.resuming.remove(&key)),
            ViewPhase::Returning(_) | ViewPhase::Apart => drop(self.apart.remove(&key)),
        }
    }

    /// The view must be looked at before the step ends.
    pub(crate) fn mark(&mut self, key: ViewKey) -> &mut View {
        let view = &mut self.views[key];
        if !view.is_dirty {
            view.is_dirty = true;
            self.dirty.push(key);
        }
        view
    }

    /// Those that were marked, in that order.
    pub(crate) fn marked(&self) -> &[ViewKey] {
        &self.dirty
    }

    /// What time it is has become known, for which all have waited.
    pub(crate) fn know_the_time(&mut self) {
        let keys: Vec<ViewKey> = self.views.iter().map(|(key, _)| key).collect();
        keys.into_iter().for_each(|key| self.mark(key).waited_for_one());
    }

    /// Those to look at, in the order in which they were marked.
    pub(crate) fn take_dirty(&mut self) -> Vec<ViewKey> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.retain(|key| match self.views.get_mut(*key) {
            Some(view) => std::mem::take(&mut view.is_dirty),
            None => false,
        });
        dirty
    }

    /// Gives back the list of [`Views::take_dirty`], so that the next step has room in it.
    pub(crate) fn reuse(&mut self, mut dirty: Vec<ViewKey>) {
        dirty.clear();
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// The view has something to say once the stream is there.
    pub(crate) fn look_at(&mut self, key: ViewKey, at: Lsn) {
        self.releasable.insert((at, key));
    }

    /// The stream has come to `position`.
    pub(crate) fn pass(&mut self, position: Lsn) {
        while let Some((lsn, key)) = self.releasable.first().copied()
            && lsn <= position
        {
            self.releasable.pop_first();
            if self.views.contains(key) {
                self.mark(key);
            }
        }
    }

    /// Panics if a view is not where its phase says.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        assert_eq!(self.shared.len() + self.resuming.len() + self.apart.len(), self.views.len());
        for (key, view) in &self.views {
            assert!(!view.is_dirty, "a step ends with every view looked at");
            assert!(match view.phase() {
                ViewPhase::Shared => {
                    let of = (view.selection, view.claims.clone());
                    self.shared.get(&of) == Some(&key)
                }
                ViewPhase::Resuming(_) => self.resuming.contains(&key),
                ViewPhase::Returning(_) | ViewPhase::Apart => self.apart.contains(&key),
            });
        }
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ViewKey, &View)> {
        self.views.iter()
    }
}

impl Index<ViewKey> for Views {
    type Output = View;

    fn index(&self, key: ViewKey) -> &View {
        &self.views[key]
    }
}

impl IndexMut<ViewKey> for Views {
    fn index_mut(&mut self, key: ViewKey) -> &mut View {
        &mut self.views[key]
    }
}
