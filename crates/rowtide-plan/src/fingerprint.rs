//! The fingerprint of a plan. Two plans with one fingerprint can read each other's log. It covers everything
//! that decides how a row looks, which topics it is in and who sees it. It covers nothing else, so that the
//! log stays readable after a change of write rules, indexes, defaults, or of columns that nobody outside of Postgres knows of.

use std::fmt::Debug;

use sha2::{Digest, Sha256};

use crate::plan::{Plan, TableId};
use crate::value::Int8Form;

impl Plan {
    /// Equal for two plans with the same rows, topics and views, ids included.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        // Nested parts enter in their `Debug` form. If that form changes, every client needs a snapshot,
        // and nothing worse happens.
        let mut add = |part: &dyn Debug| {
            digest.update(format!("{part:?}"));
            digest.update([0]);
        };
        add(&self.tables.len());
        for (index, table) in self.tables.iter().enumerate() {
            let catalog = &table.catalog;
            add(&(catalog.oid, &catalog.schema, &catalog.name, table.published));
            // Clients hold its rows under it.
            if table.name != catalog.name {
                add(&table.name);
            }
            add(&(&table.key, &table.kept, &table.branches));
            let read = self.read_columns(TableId(index as u16));
            add(&read.len());
            for column in read {
                // Where it is in the catalog decides nothing; where rules look for it is said above.
                if !table.is_sent(column) {
                    add(&"hidden");
                }
                // A plan that is cut to fewer columns may need others.
                let Some(column) = catalog.columns.get(column) else { continue };
                // How long a text may be decides nothing about one that is there.
                let varchar = column.input.type_name == "character varying";
                let of = if varchar { &column.input.type_name } else { &column.type_name };
                add(&(&column.name, &column.kind, column.type_oid, of));
            }
        }
        add(&self.branches);
        if self.int8 == Int8Form::String {
            add(&self.int8);
        }
        add(&self.claims);
        if !self.windows.is_empty() {
            add(&self.windows);
        }
        for query in &self.queries {
            // Who comes back says what it has by this name, and by those parameters that it gives.
            add(&(&query.name, &query.params));
        }
        digest.finalize().into()
    }
}
