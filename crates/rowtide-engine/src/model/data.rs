//! The rows of the model's tables, and when it was.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};

use rand::Rng;
use rand::rngs::SmallRng;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct DataRow {
    pub(super) id: i64,
    pub(super) x: Option<i64>,
    pub(super) y: Option<&'static str>,
    pub(super) flag: Option<bool>,
    pub(super) m: Option<&'static [Option<&'static str>]>,
    /// A moment, as [`Data::now`] counts them.
    pub(super) t: Option<i64>,
}

/// What `m` may be.
const ARRAYS: [Option<&[Option<&str>]>; 5] = [
    None,
    Some(&[]),
    Some(&[Some("p"), Some("p")]),
    Some(&[Some("q"), None]),
    Some(&[Some("p"), Some("q")]),
];

/// The rows of each table by id, after a commit.
#[derive(Clone, Debug, Default)]
pub(super) struct Data {
    pub(super) tables: [BTreeMap<i64, DataRow>; 3],
    /// When it was, in seconds since [`FIRST_US`].
    pub(super) now: i64,
}

/// 2026-01-01, in microseconds since 1970 UTC.
pub(super) const FIRST_US: i64 = 1_767_225_600_000_000;
/// Moments of rows are before this one.
const MOMENTS: i64 = 60;

impl Index<usize> for Data {
    type Output = BTreeMap<i64, DataRow>;

    fn index(&self, table: usize) -> &BTreeMap<i64, DataRow> {
        &self.tables[table]
    }
}

impl IndexMut<usize> for Data {
    fn index_mut(&mut self, table: usize) -> &mut BTreeMap<i64, DataRow> {
        &mut self.tables[table]
    }
}

impl DataRow {
    pub(super) fn random(rng: &mut SmallRng, id: i64) -> DataRow {
        DataRow {
            id,
            x: [None, Some(1), Some(2), Some(3)][rng.random_range(0..4)],
            y: [None, Some("p"), Some("q")][rng.random_range(0..3)],
            flag: [None, Some(true), Some(false)][rng.random_range(0..3)],
            m: ARRAYS[rng.random_range(0..ARRAYS.len())],
            t: rng.random_bool(0.85).then(|| rng.random_range(0..MOMENTS)),
        }
    }

    /// With so many columns that were added since.
    pub(super) fn json(&self, added: usize) -> serde_json::Value {
        let mut json = serde_json::json!({ "id": self.id, "x": self.x, "y": self.y, "flag": self.flag, "m": self.m });
        json["t"] = self.t.map(|t| format!("2026-01-01T00:00:{t:02}Z")).into();
        for number in 0..added {
            json[added_column(number)] = "z".into();
        }
        json
    }
}

pub(super) fn added_column(number: usize) -> String {
    format!("z{number}")
}
