//! Who may write what: people write rows of their own, and notes of their teams. Judged on the rows as
//! they are, one operation after the other.

use rowtide_protocol::OpKind;

use crate::data::{COMMENT, MEMBER, NOTE, Place, Row, Schema, TABLES, Tables, Writes};

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
        fn column<T: serde::de::DeserializeOwned>(
            op: &rowtide_protocol::Op,
            name: &str,
        ) -> Option<T> {
            op.row.get(name).map(|value| serde_json::from_str(value.get()).unwrap())
        }
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

/// What the operations write, or the code with which they are refused.
pub fn judge(
    schema: &Schema,
    tables: &Tables,
    user: &str,
    ops: &[Op],
) -> Result<Writes, &'static str> {
    let mut tables = tables.clone();
    let mut all = Writes::new();
    for op in ops {
        let place: Place = (op.table, op.id);
        let there = tables.get(place).is_some();
        let seen = there && tables.visible(user).contains_key(&place);
        let row = match (op.kind, tables.get(place)) {
            (OpKind::Insert, None) => {
                let row = Row {
                    id: op.id,
                    parent: op.parent,
                    person: op.person.clone(),
                    mark: op.mark.unwrap_or(0),
                    hidden: op.hidden.unwrap_or(false),
                };
                let theirs = row.person.as_deref() == Some(user);
                let may = theirs && matches!(op.table, MEMBER | NOTE | COMMENT);
                Some(may.then_some(row).ok_or("forbidden")?)
            }
            (OpKind::Insert, Some(_)) if !seen => return Err("forbidden"),
            (_, None) => return Err("not_found"),
            (_, Some(_)) if !seen => return Err("not_found"),
            (kind, Some(old)) => {
                let theirs = old.person.as_deref() == Some(user);
                let given = op.person.is_some() && op.person != old.person;
                if given || !(theirs || op.table == NOTE) {
                    return Err("forbidden");
                }
                (kind != OpKind::Delete).then(|| Row {
                    parent: op.parent.or(old.parent),
                    mark: op.mark.unwrap_or(old.mark),
                    hidden: op.hidden.unwrap_or(old.hidden),
                    ..old.clone()
                })
            }
        };
        let mut write = Writes::new();
        write.insert(place, row.map(|row| schema.store(op.table, row)));
        tables.write(&write);
        all.append(&mut write);
    }
    Ok(all)
}
