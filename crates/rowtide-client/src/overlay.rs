//! The rows that pending mutations change: for each of them the operations on it, in order, and the row that
//! results. No operation changes a row's key, so rows do not depend on each other, and a change costs only
//! as much as the rows that it names.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::op::Op;
use crate::row::{Key, Row};

/// One row with pending operations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layer {
    ops: VecDeque<LayerOp>,
    /// The row as it is shown; `None` if it is not shown.
    pub(crate) row: Option<Row>,
}

#[derive(Clone, Debug)]
struct LayerOp {
    mutation: u64,
    ops: Arc<[Op]>,
    index: usize,
}

/// The rows with pending operations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overlay {
    tables: BTreeMap<String, HashMap<Key, Layer>>,
}

impl Overlay {
    /// The shown row, if operations on it are pending. The outer `None`: the base has the row.
    pub(crate) fn get(&self, table: &str, key: &str) -> Option<Option<&Row>> {
        Some(self.tables.get(table)?.get(key)?.row.as_ref())
    }

    /// The rows of a table with pending operations, if it has any; `None` where no row is shown.
    pub(crate) fn rows(&self, table: &str) -> Option<&HashMap<Key, Layer>> {
        self.tables.get(table)
    }

    /// Every key with pending operations.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (&str, &Key)> {
        self.tables.iter().flat_map(|(table, rows)| rows.keys().map(move |key| (&**table, key)))
    }

    pub(crate) fn clear(&mut self) {
        self.tables.clear();
    }

    /// Applies the operation `ops[index]` on top, if it is on a row; `base` is the row below all operations.
    pub(crate) fn push(
        &mut self,
        key: Key,
        mutation: u64,
        ops: &Arc<[Op]>,
        index: usize,
        base: Option<&Row>,
    ) {
        let Some(op) = ops[index].on_row() else { return };
        let rows = self.tables.entry(op.table.clone()).or_default();
        let layer =
            rows.entry(key).or_insert_with(|| Layer { row: base.cloned(), ..Layer::default() });
        layer.row = op.apply(layer.row.take());
        layer.ops.push_back(LayerOp { mutation, ops: Arc::clone(ops), index });
    }

    /// Removes a mutation's operations from one row. The caller must call [`Overlay::rebuild`] then.
    pub(crate) fn remove(&mut self, table: &str, key: &str, mutation: u64) {
        let Some(rows) = self.tables.get_mut(table) else { return };
        let Some(layer) = rows.get_mut(key) else { return };
        // Mutations are mostly acknowledged in order.
        while layer.ops.front().is_some_and(|op| op.mutation == mutation) {
            layer.ops.pop_front();
        }
        layer.ops.retain(|op| op.mutation != mutation);
        if layer.ops.is_empty() {
            rows.remove(key);
        }
    }

    /// Applies the row's pending operations to `base` again.
    pub(crate) fn rebuild(&mut self, table: &str, key: &str, base: Option<&Row>) {
        let Some(layer) = self.tables.get_mut(table).and_then(|rows| rows.get_mut(key)) else {
            return;
        };
        let on_rows = layer.ops.iter().filter_map(|op| op.ops[op.index].on_row());
        layer.row = on_rows.fold(base.cloned(), |row, op| op.apply(row));
    }
}
