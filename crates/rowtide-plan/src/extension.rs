//! When a plan is another one with more columns: then nothing is different but the rows of some tables, which have values
//! behind those that they had. Topics, views, links and keys are the same, so whoever serves clients by the one can go over
//! to the other with what they have, and has only the rows of these tables to load again.

use crate::plan::{Plan, TableId};

impl Plan {
    /// How many columns each table has, in the plan's order.
    pub fn column_counts(&self) -> Vec<u16> {
        let count = |table: &crate::plan::Table| table.catalog.columns.len();
        self.tables.iter().map(|table| u16::try_from(count(table)).unwrap_or(u16::MAX)).collect()
    }

    /// This plan before its tables got more columns than these, in the plan's order; `None` if it is not known that it was
    /// one. It says what rows, topics and views were, and not what could be written.
    pub fn before_columns_were_added(&self, counts: &[u16]) -> Option<Plan> {
        let mut before = self.clone();
        (counts.len() == before.tables.len()).then_some(())?;
        for (table, count) in before.tables.iter_mut().zip(counts) {
            let count = usize::from(*count);
            let columns = &mut table.catalog.columns;
            // What rows are found by was there.
            let known = table.key.iter().chain(&table.kept).all(|column| *column < count);
            (known && count <= columns.len()).then(|| columns.truncate(count))?;
            table.hidden.retain(|column| *column < count);
        }
        before.columns_added_by(self).map(|_| before)
    }

    /// The tables whose rows have more columns in `newer`, behind the ones that they have here, if tables that have more are
    /// all by which rows, topics and views of the two differ. A column that clients are not sent is none of a row's. `None` if
    /// there is another difference, or if no table has more columns.
    pub fn columns_added_by(&self, newer: &Plan) -> Option<Vec<TableId>> {
        if self.tables.len() != newer.tables.len() || self.unfit != newer.unfit {
            return None;
        }
        let mut known = newer.clone();
        let (mut is_extended, mut added) = (false, Vec::new());
        for (index, (old, new)) in self.tables.iter().zip(&mut known.tables).enumerate() {
            let count = old.catalog.columns.len();
            if new.catalog.columns.len() > count {
                is_extended = true;
                let is_sent = (count..new.catalog.columns.len()).any(|column| new.is_sent(column));
                added.extend(is_sent.then_some(TableId(u16::try_from(index).ok()?)));
                new.catalog.columns.truncate(count);
                new.hidden.retain(|column| *column < count);
            }
            let (old, new) = (&old.catalog, &new.catalog);
            let told_apart = (&old.replica_identity, &old.primary_key);
            let same = told_apart == (&new.replica_identity, &new.primary_key);
            // What else is different (indexes, defaults, labels) says how rows are found and written, and not what they are.
            if !same || !old.streaming.is_like(&new.streaming) {
                return None;
            }
        }
        let who = |plan: &Plan| (plan.min_client, plan.anonymous);
        let same = who(self) == who(newer) && self.fingerprint() == known.fingerprint();
        (same && is_extended).then_some(added)
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::{
        CatalogColumn, CatalogPartition, CatalogTable, ColumnInput, ReplicaIdentity, TableStreaming,
    };
    use crate::filter::{ClaimFilter, Filter, Predicate};
    use crate::plan::{Branch, BranchId, Plan, Selection, Source, Table, TableId};
    use crate::value::ColumnType;
    use crate::write_rules::WriteRules;

    fn column(name: &str) -> CatalogColumn {
        CatalogColumn {
            name: name.into(),
            kind: ColumnType::Text,
            type_oid: 25,
            type_name: "text".into(),
            not_null: false,
            toastable: true,
            deterministic: true,
            labels: Vec::new(),
            input: ColumnInput::default(),
        }
    }

    fn table(oid: u32, columns: &[&str]) -> Table {
        let catalog = CatalogTable {
            oid,
            schema: "public".into(),
            name: format!("t{oid}"),
            columns: columns.iter().map(|name| column(name)).collect(),
            primary_key: vec!["id".into()],
            indexes: Vec::new(),
            replica_identity: ReplicaIdentity::Full,
            row_security: false,
            insert_trigger: false,
            streaming: TableStreaming::default(),
        };
        Table {
            name: catalog.name.clone(),
            name_json: format!("\"{}\"", catalog.name),
            catalog,
            published: true,
            key: vec![0],
            hidden: Vec::new(),
            kept: Vec::new(),
            branches: vec![BranchId(0)],
            write: WriteRules::default(),
        }
    }

    fn plan(tables: &[&[&str]]) -> Plan {
        let tables: Vec<Table> =
            tables.iter().zip(1..).map(|(columns, oid)| table(oid, columns)).collect();
        let branch = Branch {
            selection: Selection::Always,
            window: None,
            table: TableId(0),
            anchor: None,
            source: Source::Everyone,
            filter: Filter(Predicate::Literal(Some(true))),
            claim_filter: ClaimFilter(Predicate::Literal(Some(true))),
            published: true,
            links: Vec::new(),
            fills: Vec::new(),
        };
        Plan { tables, branches: vec![branch], ..Plan::default() }
    }

    #[test]
    fn a_plan_is_what_it_was_before_its_tables_got_columns() {
        let old = plan(&[&["id", "a"], &["id"]]);
        let mut newer = plan(&[&["id", "a", "b"], &["id", "c"]]);
        let before = |newer: &Plan, counts: &[u16]| newer.before_columns_were_added(counts);
        assert_eq!(newer.column_counts(), [3, 2]);
        let found = before(&newer, &old.column_counts()).unwrap();
        assert_eq!(found.fingerprint(), old.fingerprint());
        assert_eq!(found.columns_added_by(&newer), Some(vec![TableId(0), TableId(1)]));
        assert!(before(&newer, &[3, 2]).is_none(), "nothing was added");
        assert!(before(&newer, &[4, 2]).is_none(), "there are fewer now");
        assert!(before(&newer, &[3]).is_none(), "of other tables");
        assert!(before(&newer, &[0, 2]).is_none(), "without its key it was another");
        newer.tables[0].kept.push(2);
        assert!(before(&newer, &[2, 1]).is_none(), "rules need the column");
    }

    #[test]
    fn a_column_that_clients_do_not_get_is_none_of_their_rows() {
        let old = plan(&[&["id", "a"], &["id"]]);
        let mut newer = plan(&[&["id", "a", "b"], &["id"]]);
        newer.tables[0].hidden = vec![2];
        assert_eq!(newer.fingerprint(), old.fingerprint());
        assert_eq!(old.columns_added_by(&newer), Some(Vec::new()), "its rows are as they were");
        let before = newer.before_columns_were_added(&old.column_counts()).unwrap();
        assert!(before.tables[0].hidden.is_empty());
        assert_eq!(before.columns_added_by(&newer), Some(Vec::new()));
        let mut both = plan(&[&["id", "a", "b", "c"], &["id"]]);
        both.tables[0].hidden = vec![2];
        assert_eq!(old.columns_added_by(&both), Some(vec![TableId(0)]), "one of them is sent");
        newer.tables[0].hidden = vec![1, 2];
        assert_eq!(old.columns_added_by(&newer), None, "another column is gone from rows");
    }

    #[test]
    fn rows_of_partitions_may_be_older_than_the_column() {
        let partition = |null_in_old_rows: &[&str]| CatalogPartition {
            oid: 9,
            name: "\"public\".\"part\"".into(),
            replica_identity: ReplicaIdentity::Full,
            null_in_old_rows: null_in_old_rows.iter().map(|name| (*name).to_owned()).collect(),
        };
        let (mut old, mut newer) = (plan(&[&["id"]]), plan(&[&["id", "a"]]));
        old.tables[0].catalog.streaming.partitions = vec![partition(&[])];
        newer.tables[0].catalog.streaming.partitions = vec![partition(&["a"])];
        assert_eq!(old.columns_added_by(&newer), Some(vec![TableId(0)]));
        newer.tables[0].catalog.streaming.partitions[0].oid = 10;
        assert_eq!(old.columns_added_by(&newer), None, "another partition");
    }

    #[test]
    fn only_columns_behind_the_known_ones_are_an_extension() {
        let old = plan(&[&["id", "a"], &["id"]]);
        let added = |newer: &Plan| old.columns_added_by(newer);
        assert_eq!(added(&plan(&[&["id", "a", "b", "c"], &["id"]])), Some(vec![TableId(0)]));
        let both = Some(vec![TableId(0), TableId(1)]);
        assert_eq!(added(&plan(&[&["id", "a", "b"], &["id", "b"]])), both);
        assert_eq!(added(&old), None, "nothing was added");
        for other in [&["id", "b", "a"][..], &["id"], &["id", "b"], &["id", "x", "b"]] {
            assert_eq!(added(&plan(&[other, &["id"]])), None, "{other:?}");
        }
        assert_eq!(added(&plan(&[&["id", "a", "b"]])), None, "a table is missing");
        let changed = |change: fn(&mut Plan)| {
            let mut newer = plan(&[&["id", "a", "b"], &["id"]]);
            change(&mut newer);
            added(&newer)
        };
        let same = Some(vec![TableId(0)]);
        assert_eq!(changed(|newer| newer.tables[0].catalog.row_security = true), same);
        assert_eq!(changed(|newer| newer.tables[0].catalog.columns[1].not_null = true), same);
        assert_eq!(changed(|newer| newer.tables[0].kept.push(1)), None);
        assert_eq!(changed(|newer| newer.tables[0].key.push(2)), None, "as of one without a key");
        assert_eq!(changed(|newer| newer.branches[0].anchor = Some(2)), None);
        assert_eq!(changed(|newer| newer.unfit.push("t3".to_owned())), None);
        assert_eq!(changed(|newer| newer.min_client = Some(2)), None);
        assert_eq!(changed(|newer| newer.anonymous = true), None);
        let other_type = |newer: &mut Plan| newer.tables[0].catalog.columns[1].type_oid = 20;
        assert_eq!(changed(other_type), None);
        let identity = |newer: &mut Plan| {
            newer.tables[0].catalog.replica_identity = ReplicaIdentity::Key;
        };
        assert_eq!(changed(identity), None);
        assert_eq!(changed(|newer| newer.tables[1].catalog.oid = 9), None, "it was made anew");
    }
}
