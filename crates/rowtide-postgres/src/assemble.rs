//! From messages to transactions. A transaction's changes are kept until it commits and brought
//! to one net change for each row, so that everything behind this point may take them in any order.
//! Rows are encoded and routed here, once. A transaction that grows past a budget of bytes is not
//! held, nor is one that changes or deletes rows which nothing tells apart: only the tables that it touched are
//! remembered.

use std::sync::Arc;

use bytes::Bytes;
use rowtide_feed::{Acknowledgement, Change, Changes, Transaction};
use rowtide_plan::catalog::ReplicaIdentity;
use rowtide_plan::encode::{Datum, EncodeError, RowEncoder};
use rowtide_plan::map::{IdMap, SeededMap};
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::row::{Image, Row};
use rowtide_protocol::{Lsn, MadeKey, Rejected};
use serde::de::DeserializeOwned;
use smallvec::SmallVec;
use thiserror::Error;

use crate::pgoutput::{Malformed, Message, Relation, RelationColumn, Tuple, TupleValue, decode};

/// What the stream brings, in the order of commits.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEvent {
    /// A transaction.
    Transaction(Transaction),
    /// A table no longer has the shape of the plan. The transaction that was committed there follows, without the
    /// changes of that table.
    SchemaChanged(SchemaChange),
    /// Everything up to here has been brought.
    Position(Lsn),
    /// Rows are of the plan behind it from here on: see [`Assembler::switch`]. What shows that comes next, and with it.
    Switched,
}

/// A table that no longer has the shape of the plan. It is told for every transaction that changes the table, until
/// its shape fits again, so that no change is passed over unseen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("table `{table}` has changed: {what}")]
pub struct SchemaChange {
    /// The table.
    pub table: String,
    /// How it differs.
    pub what: String,
    /// Where the transaction was committed that shows it.
    pub committed: Lsn,
}

/// Why the stream cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
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
    /// A change, or an end, of no transaction.
    #[error("the stream has a change that is of no transaction")]
    NoTransaction,
    /// A transaction that begins within another.
    #[error("the stream begins a transaction within another")]
    NotEnded,
}

/// Assembles the transactions of one plan.
pub struct Assembler {
    plan: Arc<Plan>,
    /// The schema of the table whose rows are acknowledgements.
    schema: String,
    max_bytes: usize,
    relations: IdMap<u32, Known>,
    /// The shapes of those that are tables of the plan, for another plan.
    shapes: IdMap<u32, Shape>,
    open: Option<Open>,
    /// What shapes say of partitions, until something else is told.
    told: Told,
    /// The plan of what is committed behind a position.
    next: Option<(Lsn, Arc<Plan>)>,
    /// The plan is the next one, and it was not told yet.
    switched: bool,
}

/// What a relation message says of a table.
struct Shape {
    schema: String,
    name: String,
    replica_identity: u8,
    /// Names with `pg_type.oid`.
    columns: Vec<(String, u32)>,
}

/// What is known of a relation.
enum Known {
    /// The plan does not have it.
    Other,
    /// A table of the plan.
    Table(TableId, Box<RowEncoder>),
    /// A table of the plan that has another shape.
    Unfit(Unfit),
    /// The clients.
    Clients(ClientColumns),
}

/// Before its first change of a partition Postgres tells the shape of the root, then the partition's own, which no change names,
/// and then the change, which names the root (`maybe_send_schema` in `pgoutput.c`).
enum Told {
    Nothing,
    /// The shape of a root.
    Root(TableId, u32),
    /// Behind it, that of a partition of which not all is streamed.
    Partition {
        root: u32,
        oid: u32,
        what: String,
    },
}

/// How a table differs from the plan.
struct Unfit {
    table: String,
    what: String,
}

/// The places of the columns of a client's row. What an earlier version did not have was null.
#[derive(Clone, Copy)]
struct ClientColumns {
    client: usize,
    last_mutation: usize,
    rejected: Option<usize>,
    keys: Option<usize>,
    name: Option<usize>,
}

/// What is known so far of what a transaction did to one row.
struct Draft {
    table: TableId,
    key: Bytes,
    old: Option<Image>,
    new: Option<Arc<Row>>,
}

/// A transaction that has not been committed yet.
struct Open {
    /// Where its commit is.
    committed: Lsn,
    xid: u32,
    commit_time_us: i64,
    truncated: Vec<TableId>,
    acknowledgements: Vec<Arc<Acknowledgement>>,
    changes: Vec<Draft>,
    /// Where the change of a row is found, once there are many.
    index: SeededMap<(TableId, Bytes), usize>,
    bytes: usize,
    /// Set once the changes have been let go.
    too_large: Option<Vec<TableId>>,
    /// Relations of which it was told that they do not fit.
    unfit: Vec<u32>,
}

/// Between the epochs of Unix and of Postgres, in microseconds.
pub(crate) const US_1970_TO_2000: i64 = 946_684_800_000_000;

impl Assembler {
    /// For the tables of `plan`; a transaction whose rows take more than `max_bytes` is not held. `schema` is
    /// that of Rowtide's own tables.
    pub fn new(plan: Arc<Plan>, schema: String, max_bytes: usize) -> Assembler {
        Assembler {
            plan,
            schema,
            max_bytes,
            relations: IdMap::default(),
            shapes: IdMap::default(),
            open: None,
            told: Told::Nothing,
            next: None,
            switched: false,
        }
    }

    /// What is committed behind `at` is of another plan, which has the same tables with more columns. Every row that comes from
    /// there on must have them; what comes before may have some of them already.
    pub fn switch(&mut self, at: Lsn, plan: Arc<Plan>) {
        self.next = Some((at, plan));
    }

    /// What has been brought ends at `end`, outside of a transaction.
    pub fn reached(&mut self, end: Lsn, events: &mut Vec<StreamEvent>) {
        self.pass(end);
        self.tell_switch(events);
    }

    /// Nothing that is committed up to `position` is to come any more.
    fn pass(&mut self, position: Lsn) {
        let Some((_, plan)) = self.next.take_if(|(at, _)| *at < position) else { return };
        self.plan = plan;
        self.switched = true;
        for (id, shape) in std::mem::take(&mut self.shapes) {
            let Shape { schema, name, replica_identity, columns } = &shape;
            let columns = columns.iter().map(|(name, type_oid)| RelationColumn {
                key: false,
                name,
                type_oid: *type_oid,
                type_modifier: -1,
            });
            let columns = columns.collect();
            let (schema, name, replica_identity) = (&schema[..], &name[..], *replica_identity);
            let relation = Relation { id, schema, name, replica_identity, columns };
            let was_unfit = matches!(self.relations.remove(&id), Some(Known::Unfit(_)));
            match self.known(&relation) {
                // Its columns are those of before, so its shape is told again before its next change.
                Ok(Known::Unfit(_)) | Err(_) if !was_unfit => {}
                Ok(known) => drop(self.relations.insert(id, known)),
                Err(_) => {}
            }
            self.shapes.insert(id, shape);
        }
    }

    fn tell_switch(&mut self, events: &mut Vec<StreamEvent>) {
        if std::mem::take(&mut self.switched) {
            events.push(StreamEvent::Switched);
        }
    }

    /// Whether a transaction has begun and not ended: positions are then still those of the one before.
    pub fn in_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// Takes one message of the plugin; what it completes is put behind `events`.
    ///
    /// # Errors
    /// When it cannot be decoded or encoded. What follows cannot be understood then.
    pub fn message(
        &mut self,
        bytes: &[u8],
        events: &mut Vec<StreamEvent>,
    ) -> Result<(), AssembleError> {
        match decode(bytes)? {
            Message::Begin { final_lsn, commit_time_us, xid } => {
                if self.open.is_some() {
                    return Err(AssembleError::NotEnded);
                }
                self.told = Told::Nothing;
                self.pass(Lsn(final_lsn));
                self.open = Some(Open::new(Lsn(final_lsn), xid, commit_time_us));
            }
            Message::Commit { end_lsn, .. } => {
                let open = self.open.take().ok_or(AssembleError::NoTransaction)?;
                self.tell_switch(events);
                events.push(StreamEvent::Transaction(open.commit(Lsn(end_lsn))));
            }
            Message::Relation(relation) => self.relation(&relation, events)?,
            Message::Insert { relation, new } => {
                self.change(Kind::Insert, relation, None, Some(&new), events)?;
            }
            Message::Update { relation, old, new } => {
                self.change(Kind::Update, relation, old.as_ref(), Some(&new), events)?;
            }
            Message::Delete { relation, old } => {
                self.change(Kind::Delete, relation, Some(&old), None, events)?;
            }
            Message::Truncate { relations } => {
                self.told = Told::Nothing;
                for relation in relations {
                    self.truncate(relation, events)?;
                }
            }
            Message::Origin | Message::Type | Message::Logical { .. } => {}
        }
        Ok(())
    }

    fn relation(
        &mut self,
        relation: &Relation<'_>,
        events: &mut Vec<StreamEvent>,
    ) -> Result<(), AssembleError> {
        let known = self.known(relation)?;
        if let Known::Unfit(unfit) = &known {
            let open = self.open.as_mut().ok_or(AssembleError::NoTransaction)?;
            // It may have changed again.
            open.unfit.retain(|told| *told != relation.id);
            open.tell(relation.id, unfit, events);
        }
        if let Known::Table(..) | Known::Unfit(_) = &known {
            let name = |column: &RelationColumn<'_>| (column.name.to_owned(), column.type_oid);
            let shape = Shape {
                schema: relation.schema.to_owned(),
                name: relation.name.to_owned(),
                replica_identity: relation.replica_identity,
                columns: relation.columns.iter().map(name).collect(),
            };
            self.shapes.insert(relation.id, shape);
        }
        self.told = self.told_of_partitions(relation, &known);
        self.relations.insert(relation.id, known);
        Ok(())
    }

    fn told_of_partitions(&self, relation: &Relation<'_>, known: &Known) -> Told {
        let streaming = |table: TableId| &self.plan.table(table).catalog.streaming;
        match (known, &self.told) {
            (Known::Table(table, _), _) if streaming(*table).partitioned => {
                Told::Root(*table, relation.id)
            }
            (Known::Other, Told::Root(table, root)) => {
                let is_known =
                    streaming(*table).partitions.iter().any(|part| part.oid == relation.id);
                let whole =
                    self.plan.table(*table).catalog.replica_identity == ReplicaIdentity::Full;
                let name = relation.name;
                let what = match is_known {
                    // It was made since the tables were looked at, or is gone already.
                    false => format!("it has, or had for a moment, another partition `{name}`"),
                    // Changes of it will have the root's identity, and not say how much of the old row they bring.
                    true if whole && relation.replica_identity != b'f' => {
                        format!(
                            "its partition `{name}` has, or had for a moment, a smaller replica identity"
                        )
                    }
                    true => return Told::Nothing,
                };
                Told::Partition { root: *root, oid: relation.id, what }
            }
            _ => Told::Nothing,
        }
    }

    /// What a relation is to the plan.
    fn known(&self, relation: &Relation<'_>) -> Result<Known, AssembleError> {
        let schema = if relation.schema.is_empty() { "pg_catalog" } else { relation.schema };
        let by_oid = |table: &rowtide_plan::plan::Table| table.catalog.oid == relation.id;
        let unfit = |what| Known::Unfit(Unfit { table: relation.name.to_owned(), what });
        Ok(match self.plan.table_id(schema, relation.name) {
            None if self.plan.tables.iter().any(by_oid) => unfit("it was renamed".to_owned()),
            None if schema == self.schema && relation.name == "client" => {
                let columns = ClientColumns::of(relation);
                columns.map_or_else(|what| unfit(what.to_owned()), Known::Clients)
            }
            None => Known::Other,
            Some(table) => match self.misfit(table, relation) {
                Some(what) => unfit(what),
                None => {
                    let names: Vec<&str> =
                        relation.columns.iter().map(|column| column.name).collect();
                    Known::Table(table, Box::new(RowEncoder::new(&self.plan, table, &names)?))
                }
            },
        })
    }

    /// How a relation differs from the table of the plan; `None` if it does not. Columns that were added behind the known
    /// ones are left out of its rows: they are the same but for those, and what follows is for those to decide who look at
    /// the tables. Of a table without a key every column tells rows apart.
    fn misfit(&self, table: TableId, relation: &Relation<'_>) -> Option<String> {
        let catalog = &self.plan.table(table).catalog;
        if catalog.oid != relation.id {
            Some("it was created anew".to_owned())
        } else {
            let behind = match self.plan.table(table).is_keyless() {
                true => relation.columns.len(),
                false => catalog.columns.len(),
            };
            let mut first = relation.columns.iter().take(behind);
            let added = first.find(|c| catalog.column(c.name).is_none());
            let gone = catalog
                .columns
                .iter()
                .find(|c| !relation.columns.iter().any(|other| other.name == c.name));
            let retyped = relation.columns.iter().find(|column| {
                let known = catalog.column(column.name).map(|index| &catalog.columns[index]);
                known.is_some_and(|known| known.type_oid != column.type_oid)
            });
            let identity = match catalog.replica_identity {
                ReplicaIdentity::Full => b'f',
                ReplicaIdentity::Key => b'd',
                ReplicaIdentity::Index(_) => b'i',
                ReplicaIdentity::Nothing => b'n',
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
        }
    }

    fn truncate(
        &mut self,
        relation: u32,
        events: &mut Vec<StreamEvent>,
    ) -> Result<(), AssembleError> {
        let open = self.open.as_mut().ok_or(AssembleError::NoTransaction)?;
        let table = match self.relations.get(&relation) {
            Some(Known::Table(table, _)) => *table,
            Some(Known::Unfit(unfit)) => {
                open.tell(relation, unfit, events);
                return Ok(());
            }
            Some(Known::Other | Known::Clients(_)) => return Ok(()),
            None => return Err(AssembleError::UnknownRelation(relation)),
        };
        if !open.truncated.contains(&table) {
            open.truncated.push(table);
        }
        open.changes.retain(|change| change.table != table);
        open.index_changes();
        Ok(())
    }

    fn change<'a>(
        &mut self,
        change: Kind,
        relation: u32,
        old: Option<&Tuple<'a>>,
        new: Option<&Tuple<'a>>,
        events: &mut Vec<StreamEvent>,
    ) -> Result<(), AssembleError> {
        let max_bytes = self.max_bytes;
        let told = std::mem::replace(&mut self.told, Told::Nothing);
        let open = self.open.as_mut().ok_or(AssembleError::NoTransaction)?;
        let (table, encoder) = match self.relations.get(&relation) {
            None => return Err(AssembleError::UnknownRelation(relation)),
            Some(Known::Other) => return Ok(()),
            Some(Known::Unfit(unfit)) => {
                open.tell(relation, unfit, events);
                return Ok(());
            }
            Some(Known::Clients(columns)) => {
                if let Some(new) = new.and_then(|new| columns.acknowledgement(new)) {
                    // A mutation that makes keys writes the row twice: what is said last is all.
                    open.acknowledgements.retain(|earlier| earlier.client != new.client);
                    open.acknowledgements.push(Arc::new(new));
                }
                return Ok(());
            }
            Some(Known::Table(table, encoder)) => (*table, encoder),
        };
        if change != Kind::Insert && self.plan.table(table).is_keyless() {
            // There may be another row that is the same.
            open.let_go();
        }
        let catalog = &self.plan.table(table).catalog;
        if let Told::Partition { root, oid, what } = told
            && root == relation
        {
            open.tell(oid, &Unfit { table: catalog.name.clone(), what }, events);
            return Ok(());
        }
        let whole = catalog.replica_identity == ReplicaIdentity::Full;
        if change == Kind::Update && old.is_none() && whole && catalog.streaming.partitioned {
            // A partition that was made since, with an identity of its own.
            let what = "a partition has a smaller replica identity".to_owned();
            open.tell(relation, &Unfit { table: catalog.name.clone(), what }, events);
            return Ok(());
        }
        if let Some(tables) = &mut open.too_large {
            if !tables.contains(&table) {
                tables.push(table);
            }
            return Ok(());
        }
        let new = new.map(|new| datums(new, old));
        if let (Kind::Update, Some(old), Some(new)) = (change, old, &new)
            && !encoder.is_news(&datums(old, None), new)
        {
            return Ok(());
        }
        let new_row = new.as_ref().map(|new| encoder.row(new)).transpose()?.map(Arc::new);
        let old_image = match (change, old, &new_row, &new) {
            (_, Some(old), Some(row), Some(new)) => {
                Some(encoder.image_before(&datums(old, None), new, row)?)
            }
            (_, Some(old), ..) => Some(encoder.image(&datums(old, None))?),
            // Nothing of the replica identity changed, and it holds all that decides who sees the
            // row: the plan was not compiled otherwise.
            (Kind::Update, None, Some(row), _) => Some(row.image.clone()),
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

impl ClientColumns {
    fn of(relation: &Relation<'_>) -> Result<ClientColumns, &'static str> {
        let place = |name| relation.columns.iter().position(|column| column.name == name);
        Ok(ClientColumns {
            client: place("client_id").ok_or("column `client_id` is gone")?,
            last_mutation: place("last_mutation").ok_or("column `last_mutation` is gone")?,
            rejected: place("refused"),
            keys: place("keys"),
            name: place("name"),
        })
    }

    /// `None` for a client of which no mutation is acknowledged: one that has only connected. So it is for a row
    /// that someone else has spoiled: what cannot be read confirms nothing.
    fn acknowledgement(&self, row: &Tuple<'_>) -> Option<Acknowledgement> {
        let text = |place: usize| match row.get(place) {
            Some(TupleValue::Text(text)) => std::str::from_utf8(text).ok(),
            _ => None,
        };
        let client = text(self.client)?;
        let last_mutation: u64 = text(self.last_mutation)?.parse().ok().filter(|last| *last > 0)?;
        let rejected: Vec<Rejected> = list(client, self.rejected.and_then(text))?;
        let keys: Vec<MadeKey> = list(client, self.keys.and_then(text))?;
        let name = self.name.and_then(text).map(Into::into);
        Some(Acknowledgement { client: client.into(), last_mutation, rejected, keys, name })
    }
}

/// What a column of a client's row holds in JSON, if anything; `None` if that is something else.
fn list<T: DeserializeOwned>(client: &str, json: Option<&str>) -> Option<Vec<T>> {
    let Some(json) = json else { return Some(Vec::new()) };
    let read = serde_json::from_str(json);
    if let Err(error) = &read {
        let kind = error.classify();
        tracing::error!(client, ?kind, "the row of a client cannot be read");
    }
    read.ok()
}

/// What a message does to one row.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Insert,
    Update,
    Delete,
}

/// From how many changes on there is an index of them.
const INDEXED_FROM: usize = 8;
/// What a change takes besides its row's JSON, in bytes, about.
const CHANGE_BYTES: usize = 256;

impl Open {
    fn new(committed: Lsn, xid: u32, commit_time_us: i64) -> Open {
        Open {
            committed,
            xid,
            commit_time_us: commit_time_us.saturating_add(US_1970_TO_2000),
            truncated: Vec::new(),
            acknowledgements: Vec::new(),
            changes: Vec::new(),
            index: SeededMap::default(),
            bytes: 0,
            too_large: None,
            unfit: Vec::new(),
        }
    }

    /// The transaction, whose commit ends at `lsn`.
    fn commit(self, lsn: Lsn) -> Transaction {
        let changes = match self.too_large {
            Some(tables) => Changes::TooLarge(tables),
            None => {
                // Inserted and deleted again: nothing happened.
                let change = |draft: Draft| Change::between(draft.table, draft.old, draft.new);
                Changes::Rows(self.changes.into_iter().filter_map(change).collect())
            }
        };
        Transaction {
            lsn,
            xid: self.xid,
            commit_time_us: self.commit_time_us,
            truncated: self.truncated,
            changes,
            acknowledgements: self.acknowledgements,
        }
    }

    /// Tells once that a table does not fit which this transaction changes.
    fn tell(&mut self, relation: u32, unfit: &Unfit, events: &mut Vec<StreamEvent>) {
        if !self.unfit.contains(&relation) {
            self.unfit.push(relation);
            let Unfit { table, what } = unfit;
            events.push(StreamEvent::SchemaChanged(SchemaChange {
                table: table.clone(),
                what: what.clone(),
                committed: self.committed,
            }));
        }
    }

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
        match self.position(table, &key) {
            // What was before the transaction is known from its first change of the row.
            Some(at) => self.changes[at].new = new,
            None => {
                // A row that was there before a TRUNCATE went with it.
                let old = old.filter(|_| !self.truncated.contains(&table));
                if !self.index.is_empty() {
                    self.index.insert((table, key.clone()), self.changes.len());
                }
                self.changes.push(Draft { table, key, old, new });
                if self.changes.len() == INDEXED_FROM {
                    self.index_changes();
                }
            }
        }
    }

    /// Where the change of a row is.
    fn position(&self, table: TableId, key: &Bytes) -> Option<usize> {
        if self.changes.len() < INDEXED_FROM {
            return self.changes.iter().position(|draft| draft.table == table && draft.key == key);
        }
        self.index.get(&(table, key.clone())).copied()
    }

    /// Of a few changes one is found faster without an index.
    fn index_changes(&mut self) {
        self.index.clear();
        if self.changes.len() >= INDEXED_FROM {
            let entries = self.changes.iter().enumerate();
            self.index.extend(entries.map(|(at, draft)| ((draft.table, draft.key.clone()), at)));
        }
    }

    /// Lets the changes go, and remembers their tables.
    fn let_go(&mut self) {
        let mut tables = self.too_large.take().unwrap_or_default();
        for change in self.changes.drain(..) {
            if !tables.contains(&change.table) {
                tables.push(change.table);
            }
        }
        self.index = SeededMap::default();
        self.too_large = Some(tables);
    }
}

/// The values of a tuple; what was not sent because it did not change is taken from the old one.
fn datums<'a>(tuple: &Tuple<'a>, old: Option<&Tuple<'a>>) -> SmallVec<[Datum<'a>; 12]> {
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
