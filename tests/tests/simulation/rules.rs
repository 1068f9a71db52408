//! Who may write what: people write rows of their own, and notes of their teams. Judged on the rows as
//! they are, one operation after the other.

use std::sync::Arc;

use rowtide_plan::plan::Plan;
use rowtide_protocol::{OpKind, OpValue, RowOp};

use crate::data::{COMMENT, MEMBER, NOTE, Row, Stored, TABLES};
use crate::postgres::catalog::{Catalog, Field, Relation, usual_name};
use crate::postgres::database::{Database, Work, Writes};
use crate::postgres::ddl::usual_kind;

/// An operation as the server has read it.
#[derive(Clone, Debug)]
pub struct Op {
    kind: OpKind,
    table: usize,
    id: i64,
    parent: Option<i64>,
    person: Option<String>,
    mark: Option<u64>,
    hidden: Option<bool>,
}

impl Op {
    /// Reads what came over the network.
    pub fn read(op: &rowtide_protocol::Op) -> Op {
        fn column<T: serde::de::DeserializeOwned>(op: &RowOp, name: &str) -> Option<T> {
            op.row.get(name).map(|value| match value {
                OpValue::Json(value) => serde_json::from_str(value.get()).unwrap(),
                OpValue::Key(_) => panic!("keys are given here"),
            })
        }
        let rowtide_protocol::Op::Row(op) = op else { panic!("nobody calls anything here") };
        Op {
            kind: op.kind,
            table: TABLES.iter().position(|table| *table == op.table).unwrap(),
            id: column(op, "id").unwrap(),
            parent: column(op, "parent"),
            person: column(op, "person"),
            mark: column(op, "mark"),
            hidden: column(op, "hidden"),
        }
    }

    /// The tag of the mutation that it is part of, unless it is a delete.
    pub fn tag(&self) -> Option<u64> {
        self.mark
    }
}

/// What becomes of operations.
#[derive(Debug)]
pub enum Judged {
    Writes(Writes),
    /// With this code.
    Refused(String),
    /// A table or a column is not as the application calls it, or its rows cannot be written.
    Changed,
}

/// What the operations write.
pub fn judge(database: &Database, user: &str, ops: &[Op], plan: &Plan) -> Judged {
    let mut database = database.clone();
    let mut all = Writes::new();
    for op in ops {
        let Some(relation) = database.catalog.table(op.table).cloned() else {
            return Judged::Changed;
        };
        if !op.fits(&relation, plan) || !database.takes_writes(&relation) {
            return Judged::Changed;
        }
        let row = match op.row(&database, user) {
            Ok(row) => row,
            Err(code) => return Judged::Refused(code.to_owned()),
        };
        let row = row.map(|row| Arc::new(Stored::new(&relation, row)));
        let writes = Writes::from([((relation.oid, op.id), row)]);
        let work = Work { writes, ..Work::default() };
        database.apply(&work, 0);
        all.extend(work.writes);
    }
    Judged::Writes(all)
}

impl Op {
    /// The columns that it writes.
    fn written(&self) -> impl Iterator<Item = Field> {
        [
            self.parent.is_some().then_some(Field::Parent),
            self.person.is_some().then_some(Field::Person),
            self.mark.is_some().then_some(Field::Mark),
            self.hidden.is_some().then_some(Field::Hidden),
        ]
        .into_iter()
        .flatten()
    }

    /// Whether a table has all that the rules and the operation name, as the plan knows it.
    fn fits(&self, relation: &Relation, plan: &Plan) -> bool {
        let of_rules: &[Field] = match self.table {
            MEMBER => &[Field::Parent, Field::Person],
            NOTE => &[Field::Parent, Field::Person, Field::Hidden],
            COMMENT => &[Field::Parent],
            _ => &[],
        };
        let table = plan.tables.iter().find(|table| table.name == TABLES[self.table]);
        let known = |field: Field| {
            let (table, there) = (&table?.catalog, relation.usual(field)?);
            let known = &table.columns[table.column(usual_name(field))?];
            Some(known.type_oid == there.kind.oid())
        };
        self.written().chain(of_rules.iter().copied()).all(|field| known(field) == Some(true))
    }

    /// Whether its table is there, with the columns that it writes, of the types that applications write.
    pub fn is_taken(&self, catalog: &Catalog) -> bool {
        let table = catalog.table(self.table);
        let usual = |field: Field| table?.usual(field).map(|c| c.kind == usual_kind(field));
        table.is_some() && self.written().all(|field| usual(field) == Some(true))
    }

    /// The row that there is after it.
    fn row(&self, database: &Database, user: &str) -> Result<Option<Row>, &'static str> {
        let old = database.get(self.table, self.id);
        let seen = old.is_some() && database.visible(user).contains_key(&(self.table, self.id));
        match (self.kind, old) {
            (OpKind::Insert, None) => {
                let row = Row {
                    id: self.id,
                    parent: self.parent,
                    person: self.person.clone(),
                    mark: self.mark.unwrap_or(0),
                    hidden: self.hidden.unwrap_or(false),
                    extra: None,
                };
                let theirs = row.person.as_deref() == Some(user);
                let may = theirs && matches!(self.table, MEMBER | NOTE | COMMENT);
                may.then_some(Some(row)).ok_or("forbidden")
            }
            (OpKind::Insert, Some(_)) if !seen => Err("forbidden"),
            (_, None) => Err("not_found"),
            (_, Some(_)) if !seen => Err("not_found"),
            (kind, Some(old)) => {
                let theirs = old.person.as_deref() == Some(user);
                let given = self.person.is_some() && self.person != old.person;
                if given || !(theirs || self.table == NOTE) {
                    return Err("forbidden");
                }
                Ok((kind != OpKind::Delete).then(|| Row {
                    parent: self.parent.or(old.parent),
                    mark: self.mark.unwrap_or(old.mark),
                    hidden: self.hidden.unwrap_or(old.hidden),
                    ..old.clone()
                }))
            }
        }
    }
}
