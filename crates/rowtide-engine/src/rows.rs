//! The rows of one topic, in chunks that are shared until they are changed. To freeze them is to take a
//! reference to each chunk, so it costs as many steps as there are chunks; who changes a chunk that somebody
//! has frozen changes a copy of it. A row is found by its key through an index of places, which holds no keys
//! of its own, and which a topic of a few rows does without. The order of rows means nothing.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rowtide_plan::row::Row;
use smallvec::SmallVec;

/// How many rows a chunk has; only the last has fewer. What one change of a frozen row copies.
const CHUNK: usize = 256;
/// More rows than this are found through an index.
const INDEX_ABOVE: usize = 8;

type Chunk = Arc<Vec<Arc<Row>>>;
/// Nearly all topics have one chunk.
type Chunks = SmallVec<[Chunk; 1]>;

/// The rows of one topic by the JSON of their primary key. A clone shares all of it, until one of both
/// changes.
#[derive(Clone, Debug, Default)]
pub struct TopicRows {
    chunks: Chunks,
    /// Set once there have been more than [`INDEX_ABOVE`] rows.
    index: Option<Arc<Index>>,
    bytes: usize,
}

/// A row before and after its topic was loaded again.
pub(crate) type Replaced = (Option<Arc<Row>>, Option<Arc<Row>>);

/// From keys to places. Keys come from clients, so the hash has a seed that nobody knows; what the rows
/// are, and their order, does not depend on it.
#[derive(Clone, Debug, Default)]
struct Index {
    hasher: RandomState,
    places: HashTable<u32>,
}

/// Rows as they were at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct FrozenRows(Chunks);

impl TopicRows {
    /// How many there are.
    pub fn len(&self) -> usize {
        len(&self.chunks)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The JSON of all rows, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Each row once.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Row>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).inspect(|_| look())
    }

    /// The row with this key.
    pub fn get(&self, key: &[u8]) -> Option<&Arc<Row>> {
        self.place(key).map(|place| row(&self.chunks, place))
    }

    /// Puts a row in the place of the one with its key, which is returned.
    pub fn insert(&mut self, new: Arc<Row>) -> Option<Arc<Row>> {
        self.bytes += new.json.len();
        let end = self.len();
        let place = match &mut self.index {
            None => self.place(&new.image.key),
            Some(index) => {
                let Index { hasher, places } = Arc::make_mut(index);
                let chunks = &self.chunks;
                let hash = hasher.hash_one(&*new.image.key);
                let entry = places.entry(
                    hash,
                    |place| row(chunks, *place).image.key == new.image.key,
                    |place| hasher.hash_one(&*row(chunks, *place).image.key),
                );
                match entry {
                    Entry::Occupied(entry) => Some(*entry.get()),
                    Entry::Vacant(entry) => {
                        entry.insert(end as u32);
                        None
                    }
                }
            }
        };
        if let Some(place) = place {
            let old = std::mem::replace(row_mut(&mut self.chunks, place), new);
            self.bytes -= old.json.len();
            return Some(old);
        }
        match self.chunks.last_mut().filter(|chunk| chunk.len() < CHUNK) {
            Some(chunk) => Arc::make_mut(chunk).push(new),
            None => self.chunks.push(Arc::new(vec![new])),
        }
        if self.index.is_none() && end + 1 > INDEX_ABOVE {
            self.index = Some(Arc::new(Index::of(&self.chunks)));
        }
        None
    }

    /// Takes out the row with this key.
    pub fn remove(&mut self, key: &Bytes) -> Option<Arc<Row>> {
        let place = self.place(key)?;
        let last_place = self.len() as u32 - 1;
        if let Some(index) = &mut self.index {
            let Index { hasher, places } = Arc::make_mut(index);
            let hash = hasher.hash_one(&**key);
            if let Ok(entry) = places.find_entry(hash, |at| *at == place) {
                entry.remove();
            }
            let last_hash = hasher.hash_one(&*row(&self.chunks, last_place).image.key);
            if let Some(moved) = places.find_mut(last_hash, |at| *at == last_place) {
                *moved = place;
            }
        }
        let chunk = self.chunks.last_mut()?;
        let last = Arc::make_mut(chunk).pop()?;
        if chunk.is_empty() {
            self.chunks.pop();
        }
        let old = if place == last_place {
            last
        } else {
            std::mem::replace(row_mut(&mut self.chunks, place), last)
        };
        self.bytes -= old.json.len();
        Some(old)
    }

    /// These rows brought to what a load has read: what is the same stays shared, so that
    /// [`TopicRows::changed_since`] costs little.
    pub fn loaded_anew(&self, loaded: impl IntoIterator<Item = Arc<Row>>) -> TopicRows {
        let mut rows = self.clone();
        let mut gone = vec![true; self.len()];
        for row in loaded {
            if let Some(place) = self.place(&row.image.key) {
                gone[place as usize] = false;
                if *self::row(&self.chunks, place) == row {
                    continue;
                }
            }
            rows.insert(row);
        }
        for (row, _) in self.iter().zip(gone).filter(|(_, gone)| *gone) {
            rows.remove(&row.image.key);
        }
        rows
    }

    /// What differs from `before`: the rows of before and of now. Rows of chunks that both share are not
    /// looked at.
    pub(crate) fn changed_since(&self, before: &TopicRows) -> Vec<Replaced> {
        let mut changed = Vec::new();
        for now in self.not_shared_with(before) {
            let then = before.get(&now.image.key);
            if then.is_none_or(|then| !Arc::ptr_eq(then, now) && then != now) {
                changed.push((then.cloned(), Some(Arc::clone(now))));
            }
        }
        let gone = before.not_shared_with(self);
        let gone = gone.filter(|then| self.get(&then.image.key).is_none());
        changed.extend(gone.map(|then| (Some(Arc::clone(then)), None)));
        changed
    }

    /// The rows of chunks that are not at the same place in `other`.
    fn not_shared_with(&self, other: &TopicRows) -> impl Iterator<Item = &Arc<Row>> {
        let of_other = other.chunks.iter().map(Some).chain(std::iter::repeat(None));
        let pairs = self.chunks.iter().zip(of_other);
        let differ = pairs.filter(|(own, other)| other.is_none_or(|o| !Arc::ptr_eq(own, o)));
        differ.flat_map(|(chunk, _)| chunk.iter()).inspect(|_| look())
    }

    /// The rows as they are now: nothing that happens to these changes them.
    pub(crate) fn freeze(&self) -> FrozenRows {
        FrozenRows(self.chunks.clone())
    }

    fn place(&self, key: &[u8]) -> Option<u32> {
        match &self.index {
            Some(index) => {
                let is_it = |place: &u32| row(&self.chunks, *place).image.key == key;
                index.places.find(index.hasher.hash_one(key), is_it).copied()
            }
            None => {
                let mut rows = self.chunks.iter().flat_map(|chunk| chunk.iter());
                rows.position(|row| row.image.key == key).map(|place| place as u32)
            }
        }
    }
}

impl FromIterator<Arc<Row>> for TopicRows {
    /// Of rows with one key, the last stays.
    fn from_iter<I: IntoIterator<Item = Arc<Row>>>(rows: I) -> TopicRows {
        let mut all = TopicRows::default();
        for row in rows {
            all.insert(row);
        }
        all
    }
}

impl Index {
    fn of(chunks: &Chunks) -> Index {
        let mut index = Index::default();
        let Index { hasher, places } = &mut index;
        let hash = |place: &u32| hasher.hash_one(&*row(chunks, *place).image.key);
        for place in 0..len(chunks) as u32 {
            places.insert_unique(hash(&place), place, hash);
        }
        index
    }
}

impl FrozenRows {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        len(&self.0)
    }

    /// The rows from a place on.
    pub(crate) fn starting_at(&self, place: usize) -> impl Iterator<Item = &Arc<Row>> {
        let chunks = self.0.iter().skip(place / CHUNK);
        chunks.flat_map(|chunk| chunk.iter()).skip(place % CHUNK).inspect(|_| look())
    }
}

/// Notes in tests that somebody has looked at a row.
fn look() {
    #[cfg(test)]
    LOOKED_AT.with(|count| count.set(count.get() + 1));
}

#[cfg(test)]
thread_local! {
    /// How many rows were looked at one after the other.
    pub(crate) static LOOKED_AT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn len(chunks: &Chunks) -> usize {
    chunks.last().map_or(0, |last| (chunks.len() - 1) * CHUNK + last.len())
}

fn row(chunks: &Chunks, place: u32) -> &Arc<Row> {
    let place = place as usize;
    &chunks[place / CHUNK][place % CHUNK]
}

fn row_mut(chunks: &mut Chunks, place: u32) -> &mut Arc<Row> {
    let place = place as usize;
    &mut Arc::make_mut(&mut chunks[place / CHUNK])[place % CHUNK]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    use rowtide_plan::row::Image;

    use super::*;

    fn row(key: u32, version: u32) -> Arc<Row> {
        let key = Bytes::from(format!("{{\"id\":{key}}}"));
        let image = Image { key, kept: Box::default(), topics: Box::default() };
        Arc::new(Row { image, json: Bytes::from(format!("{{\"version\":{version}}}")) })
    }

    fn all(rows: impl IntoIterator<Item = Arc<Row>>) -> BTreeMap<Bytes, Bytes> {
        let mut all = BTreeMap::new();
        for row in rows {
            assert!(all.insert(row.image.key.clone(), row.json.clone()).is_none(), "each once");
        }
        all
    }

    #[test]
    fn rows_are_those_of_a_map_and_frozen_ones_stay_as_they_were() {
        let mut rng = SmallRng::seed_from_u64(1);
        for round in 0..60 {
            let keys = [6, 40, 1500][round % 3];
            let mut rows = TopicRows::default();
            let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
            let mut frozen: Vec<(FrozenRows, BTreeMap<Bytes, Bytes>)> = Vec::new();
            let mut grows = true;
            for version in 0..4000 {
                grows ^= rng.random_bool(0.001);
                let new = row(rng.random_range(0..keys), version);
                let key = new.image.key.clone();
                assert_eq!(rows.get(&key).map(|row| &row.json), model.get(&key));
                let old = if rng.random_bool(if grows { 0.8 } else { 0.3 }) {
                    assert_eq!(
                        rows.insert(Arc::clone(&new)).map(|row| row.json.clone()),
                        model.insert(key, new.json.clone())
                    );
                    continue;
                } else {
                    rows.remove(&key)
                };
                assert_eq!(old.map(|row| row.json.clone()), model.remove(&key));
                if rng.random_bool(0.01) {
                    frozen.push((rows.freeze(), model.clone()));
                }
            }
            assert_eq!(rows.len(), model.len());
            assert_eq!(rows.bytes(), model.values().map(Bytes::len).sum::<usize>());
            assert_eq!(all(rows.iter().cloned()), model);
            for (rows, model) in frozen {
                assert_eq!(rows.len(), model.len());
                assert_eq!(all(rows.starting_at(0).cloned()), model);
                let half = rows.len() / 2;
                assert_eq!(rows.starting_at(half).count(), rows.len() - half);
            }
        }
    }

    #[test]
    fn rows_that_are_loaded_anew_are_what_was_read_and_differ_by_what_has_changed() {
        let mut rng = SmallRng::seed_from_u64(2);
        for round in 0..200 {
            let keys = [3, 12, 900][round % 3];
            let before: TopicRows = (0..keys).map(|key| row(key, 0)).collect();
            let mut loaded: Vec<Arc<Row>> =
                before.iter().map(|of| Arc::new((**of).clone())).collect();
            for fresh in 0..rng.random_range(0..4) {
                match rng.random_range(0..3) {
                    0 if !loaded.is_empty() => {
                        drop(loaded.swap_remove(rng.random_range(0..loaded.len())));
                    }
                    1 if !loaded.is_empty() => {
                        let at = rng.random_range(0..loaded.len());
                        loaded[at] = Arc::new(Row { json: "1".into(), ..(*loaded[at]).clone() });
                    }
                    _ => loaded.push(row(keys + fresh, 0)),
                }
            }
            let after = before.loaded_anew(loaded.iter().cloned());
            let wanted = all(loaded);
            assert_eq!(all(after.iter().cloned()), wanted);
            assert_eq!(after.bytes(), wanted.values().map(Bytes::len).sum::<usize>());
            let mut then = all(before.iter().cloned());
            let looked_at = LOOKED_AT.get();
            let changed = after.changed_since(&before);
            assert!(LOOKED_AT.get() - looked_at <= 16 * CHUNK, "most chunks are shared");
            for (old, new) in changed {
                let key = old.as_ref().or(new.as_ref()).unwrap().image.key.clone();
                let new = new.map(|row| row.json.clone());
                assert_ne!(old.map(|row| row.json.clone()), new, "it has changed");
                match new {
                    Some(json) => then.insert(key, json),
                    None => then.remove(&key),
                };
            }
            assert_eq!(then, wanted);
        }
    }

    #[test]
    fn freezing_copies_no_row_and_a_change_afterwards_one_chunk() {
        let mut rows: TopicRows = (0..1000).map(|key| row(key, 0)).collect();
        let probe = Arc::clone(rows.get(b"{\"id\":0}").unwrap());
        let before = Arc::strong_count(&probe);
        let frozen = rows.freeze();
        assert_eq!(Arc::strong_count(&probe), before, "the row itself was not touched");
        rows.insert(row(1, 1));
        assert_eq!(Arc::strong_count(&probe), before + 1, "its chunk is there twice now");
        let far = frozen.starting_at(900).next().unwrap();
        assert_eq!(Arc::strong_count(far), 1, "another chunk is shared still");
    }
}
