//! From messages to transactions. A transaction's changes are gathered until it commits and brought
//! to one net change for each row, so that everything behind this point may take them in any order.
//! Rows are encoded and routed here, once. A transaction that grows past a budget of bytes is not
//! held: only the tables that it touched are remembered.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rowtide_feed::{Acknowledgement, Change, Changes, Transaction};
use rowtide_plan::encode::{Datum, EncodeError, RowEncoder};
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::row::{Image, Row};
use rowtide_protocol::{Lsn, Refusal};
use rustc_hash::FxBuildHasher;
use thiserror::Error;

use crate::pgoutput::{Malformed, Message, Relation, Tuple, TupleValue, decode};

/// Why the stream cannot go on.
#[derive(Debug, Error)]
pub enum AssembleError {
    /// Postgres sent what is not of the protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A row cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A change names a table whose shape was not sent.
    #[error("the stream has a change of relation {0}, whose shape it has not told")]
    UnknownRelation(u32),
    /// A table no longer has the shape that the plan was compiled for.
    #[error("table `{table}` has changed: {what}")]
    SchemaChanged {
        /// The table.
        table: String,
        /// How.
        what: String,
    },
}

/// Gathers transactions for one plan.
pub struct Assembler {
    plan: Arc<Plan>,
    /// The schema of the table whose rows are acknowledgements.
    schema: String,
    max_bytes: usize,
    relations: HashMap<u32, Known, FxBuildHasher>,
    open: Option<Open>,
}

/// What is known of a relation.
enum Known {
    /// The plan does not have it.
    Other,
    /// A table of the plan.
    Table(TableId, Box<RowEncoder>),
    /// The clients, with the places of the columns of a [`Acknowledgement`], in its order.
    Clients([usize; 4]),
}

/// What is known so far of what a transaction did to one row.
struct Draft {
    table: TableId,
    old: Option<Image>,
    new: Option<Arc<Row>>,
}

/// A transaction that has not been committed yet.
#[derive(Default)]
struct Open {
    xid: u32,
    commit_time_us: i64,
    truncated: Vec<TableId>,
    acknowledgements: Vec<Arc<Acknowledgement>>,
    changes: Vec<Draft>,
    /// Where the change of a row is found, once there are several.
    index: HashMap<(TableId, Bytes), usize, FxBuildHasher>,
    bytes: usize,
    /// Set once the changes have been let go.
    too_large: Option<Vec<TableId>>,
}

/// Between the epochs of Unix and of Postgres.
const US_1970_TO_2000: i64 = 946_684_800_000_000;

impl Assembler {
    /// For the tables of `plan`; a transaction whose rows take more than `max_bytes` is not held. `schema` is
    /// that of Rowtide's own tables.
    pub fn new(plan: Arc<Plan>, schema: String, max_bytes: usize) -> Assembler {
        Assembler { plan, schema, max_bytes, relations: HashMap::default(), open: None }
    }

    /// A transaction begins; the time is in microseconds since 2000.
    pub fn begin(&mut self, xid: u32, commit_time_us: i64) {
        let commit_time_us = commit_time_us.saturating_add(US_1970_TO_2000);
        self.open = Some(Open { xid, commit_time_us, ..Open::default() });
    }

    /// The transaction that ends at `lsn`.
    pub fn commit(&mut self, lsn: Lsn) -> Transaction {
        let open = self.open.take().unwrap_or_default();
        let changes = match open.too_large {
            Some(tables) => Changes::TooLarge(tables),
            None => {
                // Inserted and deleted again: nothing happened.
                let change = |draft: Draft| Change::between(draft.table, draft.old, draft.new);
                Changes::Rows(open.changes.into_iter().filter_map(change).collect())
            }
        };
        Transaction {
            lsn,
            xid: open.xid,
            commit_time_us: open.commit_time_us,
            truncated: open.truncated,
            changes,
            acknowledgements: open.acknowledgements,
        }
    }

    /// Takes one message between begin and commit.
    ///
    /// # Errors
    /// When it cannot be decoded or encoded, or a table has changed.
    pub fn message(&mut self, bytes: &[u8]) -> Result<(), AssembleError> {
        match decode(bytes)? {
            Message::Relation(relation) => self.relation(&relation),
            Message::Insert { relation, new } => {
                self.change(Kind::Insert, relation, None, Some(&new))
            }
            Message::Update { relation, old, new } => {
                self.change(Kind::Update, relation, old.as_ref(), Some(&new))
            }
            Message::Delete { relation, old } => {
                self.change(Kind::Delete, relation, Some(&old), None)
            }
            Message::Truncate { relations } => {
                for relation in relations {
                    self.truncate(relation)?;
                }
                Ok(())
            }
            Message::Begin { .. }
            | Message::Commit { .. }
            | Message::Origin
            | Message::Type
            | Message::Logical { .. } => Ok(()),
        }
    }

    fn relation(&mut self, relation: &Relation<'_>) -> Result<(), AssembleError> {
        let schema = if relation.schema.is_empty() { "pg_catalog" } else { relation.schema };
        let by_oid = |table: &rowtide_plan::plan::Table| table.catalog.oid == relation.id;
        let known = match self.plan.table_id(schema, relation.name) {
            None if self.plan.tables.iter().any(by_oid) => {
                self.relations.insert(relation.id, Known::Other);
                return Err(changed(relation.name, "it was renamed".to_owned()));
            }
            None if schema == self.schema && relation.name == "client" => clients(relation),
            None => Known::Other,
            Some(table) => {
                // Until its next shape is told, its changes are passed over.
                self.relations.insert(relation.id, Known::Other);
                self.check_shape(table, relation)?;
                let names: Vec<&str> = relation.columns.iter().map(|column| column.name).collect();
                Known::Table(table, Box::new(RowEncoder::new(&self.plan, table, &names)?))
            }
        };
        self.relations.insert(relation.id, known);
        Ok(())
    }

    fn check_shape(&self, table: TableId, relation: &Relation<'_>) -> Result<(), AssembleError> {
        let catalog = &self.plan.table(table).catalog;
        let what = if catalog.oid != relation.id {
            Some("it was created anew".to_owned())
        } else {
            let added = relation.columns.iter().find(|c| catalog.column(c.name).is_none());
            let gone = catalog
                .columns
                .iter()
                .find(|c| !relation.columns.iter().any(|other| other.name == c.name));
            let retyped = relation.columns.iter().find(|column| {
                let known = catalog.column(column.name).map(|index| &catalog.columns[index]);
                known.is_some_and(|known| known.type_oid != column.type_oid)
            });
            let identity = match catalog.replica_identity {
                rowtide_plan::catalog::ReplicaIdentity::Full => b'f',
                rowtide_plan::catalog::ReplicaIdentity::Key => b'd',
                rowtide_plan::catalog::ReplicaIdentity::Index(_) => b'i',
                rowtide_plan::catalog::ReplicaIdentity::Nothing => b'n',
            };
            added
                .map(|column| format!("column `{}` was added", column.name))
                .or_else(|| gone.map(|column| format!("column `{}` is gone", column.name)))
                .or_else(|| {
                    retyped.map(|column| format!("column `{}` has another type", column.name))
                })
                .or_else(|| {
                    (identity != relation.replica_identity)
                        .then(|| "its replica identity is another".to_owned())
                })
        };
        what.map_or(Ok(()), |what| Err(changed(relation.name, what)))
    }

    fn truncate(&mut self, relation: u32) -> Result<(), AssembleError> {
        let table = match self.relations.get(&relation) {
            Some(Known::Table(table, _)) => *table,
            Some(_) => return Ok(()),
            None => return Err(AssembleError::UnknownRelation(relation)),
        };
        let open = self.open.get_or_insert_default();
        if !open.truncated.contains(&table) {
            open.truncated.push(table);
        }
        open.changes.retain(|change| change.table != table);
        open.index_changes();
        Ok(())
    }

    fn change(
        &mut self,
        change: Kind,
        relation: u32,
        old: Option<&Tuple<'_>>,
        new: Option<&Tuple<'_>>,
    ) -> Result<(), AssembleError> {
        let max_bytes = self.max_bytes;
        let open = self.open.get_or_insert_default();
        let (table, encoder) = match self.relations.get(&relation) {
            None => return Err(AssembleError::UnknownRelation(relation)),
            Some(Known::Other) => return Ok(()),
            Some(Known::Clients(columns)) => {
                let acknowledgement = new.and_then(|new| acknowledgement(new, columns));
                open.acknowledgements.extend(acknowledgement.map(Arc::new));
                return Ok(());
            }
            Some(Known::Table(table, encoder)) => (*table, encoder),
        };
        if let Some(tables) = &mut open.too_large {
            if !tables.contains(&table) {
                tables.push(table);
            }
            return Ok(());
        }
        let new_row = new.map(|new| encoder.row(&datums(new, old))).transpose()?.map(Arc::new);
        let old_image = match (change, old, &new_row) {
            (_, Some(old), _) => Some(encoder.image(&datums(old, None))?),
            // Nothing of the replica identity changed, and it holds all that decides who sees the
            // row: the plan was not compiled otherwise.
            (Kind::Update, None, Some(row)) => Some(row.image.clone()),
            _ => None,
        };
        open.bytes += new_row.as_ref().map_or(0, |row| row.json.len()) + CHANGE_BYTES;
        open.put(table, old_image, new_row);
        if open.bytes > max_bytes {
            open.let_go();
        }
        Ok(())
    }
}

/// Where a acknowledgement is found in rows of the clients' table.
fn clients(relation: &Relation<'_>) -> Known {
    let place = |name| relation.columns.iter().position(|column| column.name == name);
    let places = ["client_id", "last_mutation", "refused", "name"].map(place);
    match places {
        [Some(client), Some(last), Some(refused), Some(name)] => {
            Known::Clients([client, last, refused, name])
        }
        _ => Known::Other,
    }
}

/// `None` for a client that has not settled anything: one that has only connected.
fn acknowledgement(row: &Tuple<'_>, places: &[usize; 4]) -> Option<Acknowledgement> {
    let text = |place: usize| match row.get(place) {
        Some(TupleValue::Text(text)) => std::str::from_utf8(text).ok(),
        _ => None,
    };
    let [client, last, refused, name] = places.map(text);
    let last_mutation: u64 = last?.parse().ok().filter(|last| *last > 0)?;
    // Written by us; a row that someone else has spoiled is an acknowledgement all the same.
    let refused: Vec<Refusal> =
        refused.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    Some(Acknowledgement {
        client: client?.into(),
        last_mutation,
        rejected: refused,
        name: name.map(Into::into),
    })
}

/// What a message does to one row.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Insert,
    Update,
    Delete,
}

/// What a change takes besides its row's JSON, in bytes, about.
const CHANGE_BYTES: usize = 256;

impl Open {
    /// Adds what happened to a row to what is known of it.
    fn put(&mut self, table: TableId, old: Option<Image>, new: Option<Arc<Row>>) {
        let new_key = new.as_ref().map(|row| row.image.key.clone());
        match (old, new_key) {
            // The key changed: one row is gone, and another is there.
            (Some(old), Some(key)) if old.key != key => {
                self.put_one(table, old.key.clone(), Some(old), None);
                self.put_one(table, key, None, new);
            }
            (old, Some(key)) => self.put_one(table, key, old, new),
            (Some(old), None) => self.put_one(table, old.key.clone(), Some(old), None),
            (None, None) => {}
        }
    }

    fn put_one(&mut self, table: TableId, key: Bytes, old: Option<Image>, new: Option<Arc<Row>>) {
        if self.changes.len() == 1 && self.index.is_empty() {
            self.index_changes();
        }
        match self.index.get(&(table, key.clone())) {
            // What was before the transaction is known from its first change of the row.
            Some(at) => self.changes[*at].new = new,
            None => {
                // A row that was there before a TRUNCATE went with it.
                let old = old.filter(|_| !self.truncated.contains(&table));
                if !self.changes.is_empty() {
                    self.index.insert((table, key), self.changes.len());
                }
                self.changes.push(Draft { table, old, new });
            }
        }
    }

    fn index_changes(&mut self) {
        let entry = |(at, change): (usize, &Draft)| {
            let of_old = change.old.as_ref().map(|image| image.key.clone());
            let key = change.new.as_ref().map(|row| row.image.key.clone()).or(of_old);
            key.map(|key| ((change.table, key), at))
        };
        self.index = self.changes.iter().enumerate().filter_map(entry).collect();
    }

    fn let_go(&mut self) {
        let mut tables = Vec::new();
        for change in self.changes.drain(..) {
            if !tables.contains(&change.table) {
                tables.push(change.table);
            }
        }
        self.index = HashMap::default();
        self.too_large = Some(tables);
    }
}

/// The values of a tuple; what was not sent because it did not change is taken from the old one.
fn datums<'a>(tuple: &Tuple<'a>, old: Option<&Tuple<'a>>) -> Vec<Datum<'a>> {
    let datum = |(index, value): (usize, &TupleValue<'a>)| match value {
        TupleValue::Null => Datum::Null,
        TupleValue::Text(text) => Datum::Text(text),
        TupleValue::Unchanged => match old.and_then(|old| old.get(index)) {
            Some(TupleValue::Text(text)) => Datum::Text(text),
            Some(TupleValue::Null) => Datum::Null,
            _ => Datum::Missing,
        },
    };
    tuple.iter().enumerate().map(datum).collect()
}

fn changed(table: &str, what: String) -> AssembleError {
    AssembleError::SchemaChanged { table: table.to_owned(), what }
}
