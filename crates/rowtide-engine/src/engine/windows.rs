//! The windows of views: what each is now, and what one was at a cursor. Where the rows that topics have do not say, more of
//! them are loaded, and the view waits for these as for all others.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rowtide_plan::filter::ClaimFilter;
use rowtide_plan::plan::{TableId, WindowId};
use rowtide_plan::row::{Image, Row, Topic};
use rowtide_plan::window::Rank;

use super::Engine;
use crate::message::{Body, GoneRow};
use crate::resume::Resume;
use crate::sets::{Moment, ViewSets};
use crate::topic::{TopicKey, ViewKey};
use crate::touched::TouchedRow;
use crate::view::View;
use crate::window::{FirstRows, ViewWindow, WindowRows, most_for_who_comes_back, with_reserve};

impl Engine {
    /// Looks which rows a whole view's windows have now. Whether that is known: otherwise the view waits.
    pub(super) fn look_through_windows(&mut self, view_key: ViewKey) -> bool {
        let view = &self.views[view_key];
        if !view.windows_may_differ() {
            return true;
        }
        let mut next = Vec::new();
        let mut needed = Vec::new();
        for window in &view.windows {
            match self.first_rows(view, window) {
                Ok(rows) => next.push(rows),
                Err(more) => needed.extend(more),
            }
        }
        if !needed.is_empty() {
            for (topic, rows) in needed {
                if let Some(prefix) = &mut self.topics[topic].prefix {
                    prefix.ask_for(rows);
                }
                self.load_more(topic);
            }
            return false;
        }
        let view = &mut self.views[view_key];
        view.windows_are_stale = false;
        for (window, rows) in view.windows.iter_mut().zip(next) {
            window.next = Some(rows);
        }
        true
    }

    /// The rows of a window of a whole view, or what is needed to say which ones they are.
    pub(crate) fn first_rows(
        &self,
        view: &View,
        window: &ViewWindow,
    ) -> Result<FirstRows, Vec<(TopicKey, usize)>> {
        let topics = view.reach.keys().filter(|key| self.is_of_window(**key, window.id));
        let candidates = topics.filter_map(|key| {
            let state = &self.topics[*key];
            let (branch, prefix) = (self.plan.branch(state.id().branch), state.prefix.as_ref()?);
            let (mut seen, mut others) = (Vec::new(), 0);
            let sees_topic = |filter: &ClaimFilter, (_, row): (&Rank, &Arc<Row>)| {
                let View { sets, claims, .. } = view;
                sets.pass_filter(Moment::Now, filter, &row.image.kept, claims, self.time.now)
            };
            let first = prefix.of_topic.as_ref().zip(prefix.rows().next());
            if first.is_some_and(|(filter, first)| !sees_topic(filter, first)) {
                return None;
            }
            for (rank, row) in prefix.rows() {
                if seen.len() == window.limit {
                    break;
                }
                match view.sees(branch, &row.image.kept, self.time.now) {
                    true => seen.push((rank.clone(), row.image.key.clone(), Some(Arc::clone(row)))),
                    false => others += 1,
                }
            }
            Some(Candidates { topic: *key, seen, others, bound: prefix.bound().cloned() })
        });
        first_of(window.limit, candidates.collect())
    }

    fn is_of_window(&self, key: TopicKey, window: WindowId) -> bool {
        self.plan.branch(self.topics[key].id().branch).window == Some(window)
    }

    /// The rows of a topic that are known are too few.
    fn load_more(&mut self, topic: TopicKey) {
        let position = self.position;
        self.change_phase(topic, |state| state.outdate(position));
        self.loads.want(topic);
    }

    /// Which rows the windows of a view that comes back had at its cursor, when it reached the topics `then` and its sets had
    /// what is in `sets`; `None` where more rows must be loaded to tell.
    pub(super) fn windows_then(
        &mut self,
        view_key: ViewKey,
        then: &[Topic],
        sets: &ViewSets,
    ) -> Option<Vec<WindowRows>> {
        let of_windows = |topic: &&Topic| self.plan.branch(topic.branch).window.is_some();
        let of_windows: Vec<Topic> = then.iter().filter(of_windows).cloned().collect();
        let mut is_missing = false;
        for topic in &of_windows {
            let key = self.topics.find(topic);
            if !key.is_some_and(|key| self.views[view_key].looks_at(key)) {
                self.keep_leaving(view_key, topic.clone());
                is_missing = true;
            }
        }
        if is_missing {
            return None;
        }
        let view = &self.views[view_key];
        let resume = view.resume()?;
        let mut all = Vec::new();
        let (mut needed, mut is_too_much) = (Vec::new(), false);
        for window in &view.windows {
            let topics = of_windows.iter().filter_map(|topic| self.topics.find(topic));
            let topics = topics.filter(|key| self.is_of_window(*key, window.id));
            let candidates = topics.filter_map(|key| self.candidates_then(view, resume, key, sets));
            match first_of(window.limit, candidates.collect()) {
                Ok(FirstRows { mut rows, .. }) => {
                    if resume.reshaped.contains(&window.table) {
                        rows.values_mut().for_each(|row| *row = None);
                    }
                    all.push(rows);
                }
                Err(more) => {
                    is_too_much |=
                        more.iter().any(|(_, rows)| *rows > most_for_who_comes_back(window.limit));
                    needed.extend(more);
                }
            }
        }
        if needed.is_empty() {
            return Some(all);
        }
        if is_too_much {
            // It is given up with the next tick, and asks for nothing until then.
            let resume = self.views[view_key].resume_mut()?;
            (resume.is_too_much, resume.asked) = (true, true);
            return None;
        }
        for (topic, rows) in needed {
            if let Some(prefix) = &mut self.topics[topic].prefix {
                prefix.ask_once_for(rows);
            }
            self.load_more(topic);
        }
        None
    }

    /// What a topic had for a window of a view at its cursor, up to where its rows are known now; `None` if the view saw none of
    /// them.
    fn candidates_then(
        &self,
        view: &View,
        resume: &Resume,
        key: TopicKey,
        sets: &ViewSets,
    ) -> Option<Candidates> {
        let state = &self.topics[key];
        let (branch, prefix) = (self.plan.branch(state.id().branch), state.prefix.as_ref()?);
        let (mut seen, mut others) = (Vec::new(), 0);
        let mut from_now = 0;
        let states = resume.states_then(state.id(), state.rows());
        let saw_topic = |filter: &ClaimFilter, (image, _): &(&Image, Option<&Arc<Row>>)| {
            let at = resume.from_time;
            sets.pass_filter(Moment::Now, filter, &image.kept, &view.claims, at)
        };
        let first = prefix.of_topic.as_ref().zip(states.first());
        if first.is_some_and(|(filter, first)| !saw_topic(filter, first)) {
            return None;
        }
        for (image, row) in states {
            from_now += usize::from(row.is_some());
            match sets.pass(Moment::Now, branch, &image.kept, &view.claims, resume.from_time) {
                true => seen.push((prefix.rank(image), image.key.clone(), row.cloned())),
                false => others += 1,
            }
        }
        // Rows that have come since are in the way, too.
        others += state.rows().len() - from_now;
        Some(Candidates { topic: key, seen, others, bound: prefix.bound().cloned() })
    }

    /// Says how the windows of a view differ from what they were at its last message.
    pub(super) fn say_windows(&self, view: &View, touched: &[TouchedRow], body: &mut Body) {
        // Only where rows are gone.
        let touched: LazyCell<BTreeMap<(TableId, &Bytes), &TouchedRow>, _> = LazyCell::new(|| {
            let of_windows = touched.iter().filter(|row| view.is_windowed(row.table));
            of_windows.map(|row| ((row.table, &row.key), row)).collect()
        });
        for window in &view.windows {
            let Some(next) = &window.next else { continue };
            for (key, row) in &next.rows {
                let Some(row) = row else { continue };
                let is_it = |told: &Arc<Row>| Arc::ptr_eq(told, row) || told == row;
                let has = |told: &Option<Arc<Row>>| told.as_ref().is_some_and(is_it);
                if !window.told.get(key).is_some_and(has) {
                    body.push(&self.plan, window.table, key, Ok(&row.json));
                }
            }
            for (key, told) in window.told.iter().filter(|(key, _)| !next.rows.contains_key(*key)) {
                let gone = match touched.get(&(window.table, key)) {
                    Some(touched) => touched.gone(),
                    None => {
                        let (latest, at) = (told.as_ref(), self.stands_at());
                        GoneRow { latest, at, by_change: false }
                    }
                };
                body.push(&self.plan, window.table, key, Err(gone));
            }
        }
    }
}

/// What one topic has for a window.
struct Candidates {
    topic: TopicKey,
    /// Rows that the view sees, or saw, each with its place and what is known of it.
    seen: Vec<(Rank, Bytes, Option<Arc<Row>>)>,
    /// How many rows of the prefix are none of these.
    others: usize,
    /// Where the prefix ends, if it does.
    bound: Option<Rank>,
}

/// The first rows of all candidates, or how many rows of which topics are needed to tell.
fn first_of(limit: usize, all: Vec<Candidates>) -> Result<FirstRows, Vec<(TopicKey, usize)>> {
    if limit == 0 {
        return Ok(FirstRows { rows: BTreeMap::new(), last: None });
    }
    let mut ends = Vec::new();
    let mut rows = Vec::new();
    for Candidates { topic, mut seen, others, bound } in all {
        seen.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        ends.extend(bound.map(|bound| (topic, bound, others)));
        rows.extend(seen.into_iter().take(limit));
    }
    rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    // The order ends in the key, so a row of several topics stands beside itself.
    rows.dedup_by(|a, b| a.1 == b.1);
    rows.truncate(limit);
    let last = rows.last().filter(|_| rows.len() == limit).map(|(rank, ..)| rank);
    let too_short: Vec<(TopicKey, usize)> = ends
        .into_iter()
        .filter(|(_, bound, _)| last.is_none_or(|last| last > bound))
        .map(|(topic, _, others)| (topic, with_reserve(limit) + 2 * others))
        .collect();
    if !too_short.is_empty() {
        return Err(too_short);
    }
    let last = last.cloned();
    let rows = rows.into_iter().map(|(_, key, row)| (key, row)).collect();
    Ok(FirstRows { rows, last })
}
