//! The fingerprint of a plan: whether what was recorded under one plan can be read under another.
//! It covers whatever decides how a row looks, which topics it is in and who sees it, and nothing
//! else, so that new rules for writing, an index or a default do not end anyone's history.

use std::fmt::Debug;

use sha2::{Digest, Sha256};

use crate::plan::Plan;

impl Plan {
    /// The same for two plans under which rows, topics and views are the same, ids included.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        // What is nested is taken as it prints itself. Should that ever change, it costs every client
        // a snapshot and nothing else.
        let mut add = |part: &dyn Debug| {
            digest.update(format!("{part:?}"));
            digest.update([0]);
        };
        add(&self.tables.len());
        for table in &self.tables {
            let catalog = &table.catalog;
            add(&(catalog.oid, &catalog.schema, &catalog.name, table.published));
            add(&(&table.key, &table.kept, &table.branches));
            add(&catalog.columns.len());
            for column in &catalog.columns {
                // How long a text may be decides nothing about one that is there.
                let varchar = column.input.type_name == "character varying";
                let of = if varchar { &column.input.type_name } else { &column.type_name };
                add(&(&column.name, &column.kind, column.type_oid, of));
            }
        }
        add(&self.branches);
        add(&self.claims);
        digest.finalize().into()
    }
}
