//! Hash maps, of which there are two kinds. What comes from outside (keys of rows, claims, client ids) is chosen by
//! somebody who may want it to collide: it is kept under a hash with a seed that nobody knows, in a [`SeededMap`].
//! These cannot be walked through in the order of the hash, so nothing that a core does depends on the seed. Numbers
//! that this server gives out itself are kept in an [`IdMap`], whose hash is a multiplication; what may be such a
//! number is said by [`Id`], and text never is. No other hash is allowed: see `clippy.toml`.

#![expect(
    clippy::disallowed_types,
    reason = "the hash without a seed is wrapped here, for ids alone"
)]

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;

use rustc_hash::FxHasher;

use crate::ids::{BranchId, ClaimId, TableId};

/// A map whose keys come from outside. What has to be walked through is kept in a list or in order beside it.
///
/// SipHash-1-3 with a seed of its own: some 15 ns more for a short key than a hash without one.
#[derive(Clone)]
pub struct SeededMap<K, V>(HashMap<K, V>);

/// A set of what comes from outside; see [`SeededMap`].
#[derive(Clone)]
pub struct SeededSet<K>(HashSet<K>);

impl<K, V> Default for SeededMap<K, V> {
    fn default() -> SeededMap<K, V> {
        SeededMap(HashMap::new())
    }
}

impl<K, V> fmt::Debug for SeededMap<K, V> {
    /// Says how many there are: what clients have chosen has no place in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries", self.0.len())
    }
}

impl<K: Eq + Hash, V> SeededMap<K, V> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key)
    }

    /// Whether there is a value of the key.
    pub fn contains_key<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// Puts a value in the place of the key's former one, which is returned.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    /// The value of a key, made if there is none.
    pub fn or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        self.0.entry(key).or_insert_with(make)
    }

    /// Takes out the value of a key.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.0.remove(key)
    }

    /// Takes out all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// All entries in the order of their keys.
    pub fn sorted(&self) -> Vec<(&K, &V)>
    where
        K: Ord,
    {
        let mut all: Vec<(&K, &V)> = self.0.iter().collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }
}

impl<K: Eq + Hash, V> Extend<(K, V)> for SeededMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        self.0.extend(entries);
    }
}

impl<K: Eq + Hash, V> FromIterator<(K, V)> for SeededMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> SeededMap<K, V> {
        SeededMap(entries.into_iter().collect())
    }
}

impl<K> Default for SeededSet<K> {
    fn default() -> SeededSet<K> {
        SeededSet(HashSet::new())
    }
}

impl<K> fmt::Debug for SeededSet<K> {
    /// As of [`SeededMap`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl<K: Eq + Hash> SeededSet<K> {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the key is there.
    pub fn contains<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains(key)
    }

    /// Adds a key; whether it was not there.
    pub fn insert(&mut self, key: K) -> bool {
        self.0.insert(key)
    }
}

impl<K: Eq + Hash> Extend<K> for SeededSet<K> {
    fn extend<I: IntoIterator<Item = K>>(&mut self, keys: I) {
        self.0.extend(keys);
    }
}

impl<K: Eq + Hash> FromIterator<K> for SeededSet<K> {
    fn from_iter<I: IntoIterator<Item = K>>(keys: I) -> SeededSet<K> {
        SeededSet(keys.into_iter().collect())
    }
}

/// A small number that this server, or Postgres' catalog, has given out one after the other.
pub trait Id: Eq + Hash {}

impl Id for u16 {}
impl Id for u32 {}
impl Id for u64 {}
impl Id for usize {}
impl Id for TableId {}
impl Id for BranchId {}
impl Id for ClaimId {}

/// The hash of ids, and of nothing else.
pub struct IdHash<K>(PhantomData<fn() -> K>);

impl<K> Clone for IdHash<K> {
    fn clone(&self) -> IdHash<K> {
        IdHash(PhantomData)
    }
}

impl<K> Default for IdHash<K> {
    fn default() -> IdHash<K> {
        IdHash(PhantomData)
    }
}

impl<K: Id> BuildHasher for IdHash<K> {
    type Hasher = FxHasher;

    fn build_hasher(&self) -> FxHasher {
        FxHasher::default()
    }
}

/// A map of ids; the order in which it is walked through is the same in every run.
pub type IdMap<K, V> = HashMap<K, V, IdHash<K>>;
/// A set of ids; see [`IdMap`].
pub type IdSet<K> = HashSet<K, IdHash<K>>;
