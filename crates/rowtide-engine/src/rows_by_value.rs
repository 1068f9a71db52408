//! The rows of one topic by what they are asked for in a set. When a value enters or leaves the set, the rows
//! with it are found without looking at the others. An index is made when it is first needed, kept as rows
//! change, and dropped when all of them are put in place anew.

use std::collections::BTreeSet;

use bytes::Bytes;
use rowtide_plan::map::SeededMap;
use rowtide_plan::row::Row;
use rowtide_plan::value::Value;

use crate::TopicRows;
use crate::sets::Member;

/// Keys of rows by the values of some of their kept columns.
#[derive(Debug)]
pub(crate) struct RowsByValue {
    /// Indexes into the kept columns.
    columns: Box<[usize]>,
    keys: SeededMap<Member, BTreeSet<Bytes>>,
    /// Rows with a null among the values.
    with_null: BTreeSet<Bytes>,
}

impl RowsByValue {
    pub(crate) fn new(columns: &[usize], rows: &TopicRows) -> RowsByValue {
        let (keys, with_null) = (SeededMap::default(), BTreeSet::new());
        let mut index = RowsByValue { columns: columns.into(), keys, with_null };
        rows.iter().for_each(|row| index.insert(row));
        index
    }

    pub(crate) fn is_by(&self, columns: &[usize]) -> bool {
        *self.columns == *columns
    }

    pub(crate) fn insert(&mut self, row: &Row) {
        let member = self.member(row);
        let key = row.image.key.clone();
        if member.iter().any(Value::is_null) {
            self.with_null.insert(key);
        } else {
            self.keys.or_insert_with(member, BTreeSet::new).insert(key);
        }
    }

    pub(crate) fn remove(&mut self, row: &Row) {
        let member = self.member(row);
        if member.iter().any(Value::is_null) {
            self.with_null.remove(&row.image.key);
        } else if let Some(keys) = self.keys.get_mut(&member) {
            keys.remove(&row.image.key);
            if keys.is_empty() {
                self.keys.remove(&member);
            }
        }
    }

    /// The rows with this value, which has no null.
    pub(crate) fn with(&self, member: &Member) -> impl Iterator<Item = &Bytes> {
        self.keys.get(member).into_iter().flatten()
    }

    /// The rows that have a null.
    pub(crate) fn with_null(&self) -> impl Iterator<Item = &Bytes> {
        self.with_null.iter()
    }

    /// Panics if it is not the index of these rows.
    #[cfg(test)]
    pub(crate) fn check(&self, rows: &TopicRows) {
        let anew = RowsByValue::new(&self.columns, rows);
        assert_eq!(self.with_null, anew.with_null);
        assert_eq!(self.keys.sorted(), anew.keys.sorted());
    }

    fn member(&self, row: &Row) -> Member {
        self.columns.iter().map(|column| row.image.kept[*column].clone()).collect()
    }
}
