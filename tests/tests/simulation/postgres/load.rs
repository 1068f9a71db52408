//! Loads, as Postgres answers them: the rows of topics as one snapshot sees them, read by the names of the
//! plan. What the plan says and the database does not have fails for its table alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use rowtide_engine::{Loaded, TopicRows, TransactionSnapshot};
use rowtide_plan::encode::{Datum, EncodeError, RowEncoder};
use rowtide_plan::plan::{BranchId, Plan};
use rowtide_plan::row::{Row, Topic};
use rowtide_postgres::load::LoadError;
use rowtide_postgres::table_trouble::TableTrouble;
use tokio_postgres::error::SqlState;

use super::Postgres;

impl Postgres {
    /// Whether someone has locked one of the tables of these topics.
    pub fn is_locked(&self, plan: &Plan, topics: &[Topic]) -> bool {
        let mut names =
            topics.iter().map(|topic| &plan.table(plan.branch(topic.branch).table).catalog.name);
        names.any(|name| {
            let oid = self.visible.catalog.named(name).map(|relation| relation.oid);
            let hidden = self.log.iter().rev().filter(|commit| !commit.visible);
            let locks = hidden.flat_map(|commit| &commit.work.ddl).filter_map(|ddl| ddl.locks());
            locks.into_iter().any(|locked| Some(locked) == oid)
        })
    }

    /// The rows of topics, and of the tables that cannot be read why.
    pub fn load(
        &self,
        plan: &Plan,
        topics: &[Topic],
        before: &[TopicRows],
    ) -> (Loaded, BTreeMap<String, TableTrouble>) {
        let mut rows: Vec<Option<TopicRows>> = vec![Some(TopicRows::default()); topics.len()];
        let mut failed = BTreeMap::new();
        let mut by_branch: BTreeMap<BranchId, Vec<usize>> = BTreeMap::new();
        for (place, topic) in topics.iter().enumerate() {
            by_branch.entry(topic.branch).or_default().push(place);
        }
        for (branch, places) in by_branch {
            match self.read(plan, branch) {
                Ok(read) => {
                    for place in places {
                        let of_topic =
                            read.iter().filter(|row| row.image.topics.contains(&topics[place]));
                        let of_topic: Vec<Arc<Row>> = of_topic.cloned().collect();
                        rows[place] = Some(match before.get(place) {
                            Some(before) => before.loaded_anew(of_topic),
                            None => of_topic.into_iter().collect(),
                        });
                    }
                }
                Err(why) => {
                    failed.insert(plan.table(plan.branch(branch).table).catalog.name.clone(), why);
                    places.into_iter().for_each(|place| rows[place] = None);
                }
            }
        }
        let hidden = self.log.iter().filter(|commit| !commit.visible).map(|commit| commit.xid);
        let running = self.open.iter().copied().chain(hidden).collect();
        let snapshot = TransactionSnapshot::new(self.next_xid, running);
        (Loaded { snapshot, position: self.wal_end, rows }, failed)
    }

    /// All rows of a branch's table that the server's role may see.
    fn read(&self, plan: &Plan, branch: BranchId) -> Result<Vec<Arc<Row>>, TableTrouble> {
        let branch = plan.branch(branch);
        let planned = &plan.table(branch.table).catalog;
        let relation =
            self.visible.catalog.named(&planned.name).ok_or(told(SqlState::UNDEFINED_TABLE))?;
        // A load does not let row-level security leave rows out.
        if !relation.granted || relation.row_security {
            return Err(told(SqlState::INSUFFICIENT_PRIVILEGE));
        }
        let column = |name: &str| relation.columns.iter().find(|column| column.name == name);
        let columns: Option<Vec<_>> = planned.columns.iter().map(|c| column(&c.name)).collect();
        let columns = columns.ok_or(told(SqlState::UNDEFINED_COLUMN))?;
        if let Some(anchor) = branch.anchor
            && planned.columns[anchor].type_oid != columns[anchor].kind.oid()
        {
            // There is no operator between the anchors' type and the column's.
            return Err(told(SqlState::UNDEFINED_FUNCTION));
        }
        let names: Vec<&str> = planned.columns.iter().map(|column| column.name.as_str()).collect();
        let encoder = RowEncoder::new(plan, branch.table, &names).map_err(not_encoded)?;
        let encoded = |stored: &Arc<crate::data::Stored>| {
            let texts: Vec<Option<String>> =
                columns.iter().map(|column| relation.text(&stored.row, column)).collect();
            let datums: Vec<Datum<'_>> = texts.iter().map(datum).collect();
            encoder.row(&datums).map(Arc::new).map_err(not_encoded)
        };
        self.visible.of_oid(relation.oid).map(encoded).collect()
    }
}

fn datum(text: &Option<String>) -> Datum<'_> {
    text.as_ref().map_or(Datum::Null, |text| Datum::Text(text.as_bytes()))
}

/// What an error of Postgres says of a table.
fn told(code: SqlState) -> TableTrouble {
    TableTrouble::of_code(&code).expect("it is of a table")
}

/// What a row says of its table that is not of the plan's types.
fn not_encoded(error: EncodeError) -> TableTrouble {
    LoadError::from(error).trouble().expect("it is of a table")
}
