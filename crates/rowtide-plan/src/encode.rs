//! From the text of a row's columns to a [`Row`]: its JSON, its key, its topics and the values that
//! are needed later, in one pass. This is where nearly all of the work of a streamed row is done, and
//! it is done once, however many clients see the row.

use bytes::Bytes;
use smallvec::SmallVec;
use thiserror::Error;

use crate::ids::{BranchId, TableId};
use crate::json::{UnexpectedText, push_string, push_value};
use crate::plan::{Branch, Plan};
use crate::row::{Image, Row, Topic};
use crate::value::{ColumnType, InvalidValue, Value};

/// One column of a row on its way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    /// SQL `NULL`.
    Null,
    /// What the type's output function prints.
    Text(&'a [u8]),
    /// Not there: not part of the replica identity.
    Missing,
}

/// Why a row could not be encoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The source does not have a column of the plan.
    #[error("table `{table}` has no column `{column}` any more")]
    NoColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A column that is needed did not come with the row.
    #[error(
        "column `{column}` of table `{table}` did not come with the row: its replica identity is too small"
    )]
    Missing {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// The text of a column is not of its type, or not UTF-8.
    #[error("column `{column}` of table `{table}` holds text that is not of its type")]
    Unexpected {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
}

/// Encodes the rows of one table, as they come from one source.
#[derive(Clone, Debug)]
pub struct RowEncoder {
    table: String,
    columns: Vec<Column>,
    /// Indexes into `columns`, in key order.
    key: Vec<usize>,
    /// Indexes into `columns`.
    kept: Vec<usize>,
    /// The places of all datums that an image is made of.
    sources: Vec<usize>,
    branches: Vec<(BranchId, Branch)>,
}

/// The values of a row by column; of most tables they fit without memory of their own.
type Values = SmallVec<[Value; 12]>;

#[derive(Clone, Debug)]
struct Column {
    name: String,
    /// Where its value is found among the datums.
    source: usize,
    kind: ColumnType,
    /// `,"name":`, without the comma for the first.
    prefix: Vec<u8>,
    /// `"name":`
    key_prefix: Vec<u8>,
    /// Whether a rule needs its value.
    needed: bool,
}

impl RowEncoder {
    /// An encoder for rows whose values come in the order of `columns`, given by their names. Columns
    /// that the plan does not know are left out.
    ///
    /// # Errors
    /// [`EncodeError::NoColumn`] when one of the plan's columns is not among them.
    pub fn new(plan: &Plan, table: TableId, columns: &[&str]) -> Result<RowEncoder, EncodeError> {
        let planned = plan.table(table);
        let branches: Vec<(BranchId, Branch)> =
            planned.branches.iter().map(|id| (*id, plan.branch(*id).clone())).collect();
        let mut needed = vec![false; planned.catalog.columns.len()];
        for (_, branch) in &branches {
            branch.anchor.iter().for_each(|column| needed[*column] = true);
            branch.filter.0.operands(&mut |operand| {
                operand.column().iter().for_each(|column| needed[*column] = true);
            });
        }
        planned.kept.iter().for_each(|column| needed[*column] = true);
        let column = |(index, column): (usize, &crate::catalog::CatalogColumn)| {
            let source = columns.iter().position(|name| *name == column.name).ok_or_else(|| {
                EncodeError::NoColumn { table: planned.name.clone(), column: column.name.clone() }
            })?;
            let mut key_prefix = Vec::new();
            push_string(&mut key_prefix, &column.name);
            key_prefix.push(b':');
            let mut prefix = if index == 0 { Vec::new() } else { vec![b','] };
            prefix.extend_from_slice(&key_prefix);
            let name = column.name.clone();
            let (kind, needed) = (column.kind.clone(), needed[index]);
            Ok(Column { name, source, kind, prefix, key_prefix, needed })
        };
        let columns = planned.catalog.columns.iter().enumerate();
        let columns = columns.map(column).collect::<Result<Vec<Column>, _>>()?;
        let key = planned.key.clone();
        let in_image = |(index, column): &(usize, &Column)| column.needed || key.contains(index);
        let sources = columns.iter().enumerate().filter(in_image).map(|(_, column)| column.source);
        Ok(RowEncoder {
            table: planned.name.clone(),
            sources: sources.collect(),
            columns,
            key,
            kept: planned.kept.clone(),
            branches,
        })
    }

    /// The whole row.
    ///
    /// # Errors
    /// When a column is missing or is not of its type.
    pub fn row(&self, datums: &[Datum<'_>]) -> Result<Row, EncodeError> {
        let size: usize = self
            .columns
            .iter()
            .map(|column| {
                let text = datums.get(column.source).map_or(0, |datum| match datum {
                    Datum::Text(text) => text.len(),
                    _ => 4,
                });
                column.prefix.len() + text + 2
            })
            .sum();
        let mut json = Vec::with_capacity(size + 2);
        json.push(b'{');
        for column in &self.columns {
            json.extend_from_slice(&column.prefix);
            self.push(&mut json, column, datums)?;
        }
        json.push(b'}');
        // The key has memory of its own: maps keep the one that they were given first.
        Ok(Row { image: self.image(datums)?, json: json.into() })
    }

    /// What the engine needs of the row `before` it was updated to `after`, whose row is known already.
    ///
    /// # Errors
    /// When one of those columns is missing or is not of its type.
    pub fn image_before(
        &self,
        before: &[Datum<'_>],
        after: &[Datum<'_>],
        row: &Row,
    ) -> Result<Image, EncodeError> {
        // Most updates change nothing that decides who sees the row.
        if self
            .sources
            .iter()
            .all(|source| before.get(*source).is_some_and(|old| after.get(*source) == Some(old)))
        {
            return Ok(row.image.clone());
        }
        self.image(before)
    }

    /// What the engine needs of the row, without its JSON. Only the key and the columns that rules
    /// need have to be there.
    ///
    /// # Errors
    /// When one of those columns is missing or is not of its type.
    pub fn image(&self, datums: &[Datum<'_>]) -> Result<Image, EncodeError> {
        let mut key = Vec::with_capacity(32);
        for (index, column) in self.key.iter().map(|index| &self.columns[*index]).enumerate() {
            key.push(if index == 0 { b'{' } else { b',' });
            key.extend_from_slice(&column.key_prefix);
            self.push(&mut key, column, datums)?;
        }
        key.push(b'}');
        let mut values = self.values(datums)?;
        let mut topics: SmallVec<[Topic; 4]> = SmallVec::new();
        for (id, branch) in &self.branches {
            if branch.anchor.is_some_and(|column| values[column].is_null())
                || !branch.filter.passes(&values)
            {
                continue;
            }
            match branch.anchor {
                None => topics.push(Topic { branch: *id, anchor: None }),
                Some(column) => {
                    let topic =
                        |anchor: &Value| Topic { branch: *id, anchor: Some(anchor.clone()) };
                    topics.extend(values[column].anchors().map(topic));
                }
            }
        }
        let kept = self.kept.iter();
        let kept = kept.map(|column| std::mem::replace(&mut values[*column], Value::Null));
        Ok(Image {
            key: Bytes::from(key),
            kept: kept.collect(),
            topics: topics.into_iter().collect(),
        })
    }

    /// The values that rules need, by column; the others are null.
    fn values(&self, datums: &[Datum<'_>]) -> Result<Values, EncodeError> {
        let value = |column: &Column| {
            if !column.needed {
                return Ok(Value::Null);
            }
            match self.text(column, datums)? {
                None => Ok(Value::Null),
                // Of a type that cannot be compared a rule asks no more than whether it is null.
                Some(_) if column.kind.family().is_none() && column.kind.element().is_none() => {
                    Ok(Value::Bool(true))
                }
                Some(text) => Value::parse(&column.kind, text)
                    .map_err(|InvalidValue { .. }| self.unexpected(column)),
            }
        };
        self.columns.iter().map(value).collect()
    }

    fn push(
        &self,
        into: &mut Vec<u8>,
        column: &Column,
        datums: &[Datum<'_>],
    ) -> Result<(), EncodeError> {
        match self.text(column, datums)? {
            None => into.extend_from_slice(b"null"),
            Some(text) => push_value(into, &column.kind, text)
                .map_err(|UnexpectedText| self.unexpected(column))?,
        }
        Ok(())
    }

    fn text<'a>(
        &self,
        column: &Column,
        datums: &[Datum<'a>],
    ) -> Result<Option<&'a str>, EncodeError> {
        match datums.get(column.source) {
            Some(Datum::Null) => Ok(None),
            Some(Datum::Text(text)) => {
                std::str::from_utf8(text).map(Some).map_err(|_| self.unexpected(column))
            }
            Some(Datum::Missing) | None => {
                Err(EncodeError::Missing { table: self.table.clone(), column: column.name.clone() })
            }
        }
    }

    fn unexpected(&self, column: &Column) -> EncodeError {
        EncodeError::Unexpected { table: self.table.clone(), column: column.name.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{
        CatalogColumn, CatalogTable, ColumnInput, ReplicaIdentity, TableStreaming,
    };
    use crate::filter::{ClaimFilter, Comparison, Filter, Operand, Predicate};
    use crate::ids::ClaimId;
    use crate::plan::{Source, Table};
    use crate::write_rules::WriteRules;

    /// `item (id int8 PRIMARY KEY, name text, owner text, hidden bool, at timestamptz, tags text[])`,
    /// by `owner` where not `hidden`, and those with an `id` below 10 for everyone.
    fn plan() -> Plan {
        let column = |name: &str, kind: ColumnType| CatalogColumn {
            name: name.into(),
            kind,
            type_oid: 0,
            type_name: String::new(),
            not_null: false,
            toastable: false,
            deterministic: true,
            labels: Vec::new(),
            input: ColumnInput::default(),
        };
        let catalog = CatalogTable {
            oid: 1,
            schema: "public".into(),
            name: "item".into(),
            columns: vec![
                column("id", ColumnType::Int),
                column("na\"me", ColumnType::Text),
                column("owner", ColumnType::Text),
                column("hidden", ColumnType::Bool),
                column("at", ColumnType::TimestampTz),
                column("tags", ColumnType::Array(Box::new(ColumnType::Text))),
            ],
            primary_key: vec!["id".into()],
            indexes: Vec::new(),
            replica_identity: ReplicaIdentity::Full,
            row_security: false,
            streaming: TableStreaming::default(),
        };
        let branch = |anchor, source, filter| Branch {
            table: TableId(0),
            anchor,
            source,
            filter: Filter(filter),
            claim_filter: ClaimFilter(Predicate::Literal(Some(true))),
            published: true,
            links: Vec::new(),
        };
        let visible = Predicate::Not(Box::new(Predicate::Bare(Operand::Column(3))));
        let small = Predicate::Compare(
            Comparison::Less,
            Operand::Column(0),
            Operand::Literal(Value::Int(10)),
        );
        Plan {
            tables: vec![Table {
                catalog,
                name: "item".into(),
                name_json: "\"item\"".into(),
                published: true,
                key: vec![0],
                kept: vec![2],
                branches: vec![BranchId(0), BranchId(1)],
                write: WriteRules::default(),
            }],
            branches: vec![
                branch(Some(2), Source::Claim(ClaimId(0)), visible),
                branch(None, Source::Everyone, small),
            ],
            claims: Vec::new(),
            min_client: None,
            unfit: Vec::new(),
            unjudged: Vec::new(),
            documents: Vec::new(),
        }
    }

    const COLUMNS: [&str; 6] = ["id", "na\"me", "owner", "hidden", "at", "tags"];

    fn encoder(columns: &[&str]) -> RowEncoder {
        RowEncoder::new(&plan(), TableId(0), columns).unwrap()
    }

    fn text(text: &str) -> Datum<'_> {
        Datum::Text(text.as_bytes())
    }

    fn owned_by(owner: &str) -> Topic {
        Topic { branch: BranchId(0), anchor: Some(Value::Text(owner.into())) }
    }

    const EVERYONES: Topic = Topic { branch: BranchId(1), anchor: None };

    #[test]
    fn a_row_has_its_json_its_key_and_its_topics() {
        let at = text("2024-01-01 00:00:00.5+00");
        let datums = [text("7"), text("a\"b"), text("u1"), text("f"), at, text("{x,NULL}")];
        let row = encoder(&COLUMNS).row(&datums).unwrap();
        let json = r#"{"id":7,"na\"me":"a\"b","owner":"u1","hidden":false,"at":"2024-01-01T00:00:00.5Z","tags":["x",null]}"#;
        assert_eq!(row.json, json);
        assert_eq!(row.image.key, r#"{"id":7}"#);
        assert_eq!(*row.image.kept, [Value::Text("u1".into())]);
        assert_eq!(*row.image.topics, [owned_by("u1"), EVERYONES]);
    }

    #[test]
    fn a_row_is_in_no_topic_of_a_null_anchor_or_of_a_filter_that_is_not_true() {
        let topics = |id, owner, hidden| {
            let datums = [text(id), Datum::Null, owner, hidden, Datum::Null, Datum::Null];
            encoder(&COLUMNS).row(&datums).unwrap().image.topics
        };
        assert_eq!(*topics("10", Datum::Null, text("f")), []);
        assert_eq!(*topics("10", text("u1"), text("t")), []);
        assert_eq!(*topics("10", text("u1"), Datum::Null), []);
        assert_eq!(*topics("10", text("u1"), text("f")), [owned_by("u1")]);
        assert_eq!(*topics("9", Datum::Null, text("f")), [EVERYONES]);
    }

    #[test]
    fn columns_come_in_the_order_of_the_source_and_leave_in_that_of_the_catalog() {
        let columns = ["new", "tags", "at", "hidden", "owner", "na\"me", "id"];
        let null = Datum::Null;
        let datums = [text("?"), null, null, null, null, null, text("1")];
        let row = encoder(&columns).row(&datums).unwrap();
        let json = r#"{"id":1,"na\"me":null,"owner":null,"hidden":null,"at":null,"tags":null}"#;
        assert_eq!(row.json, json);
        let missing = RowEncoder::new(&plan(), TableId(0), &columns[..6]).unwrap_err();
        assert_eq!(missing.to_string(), "table `item` has no column `id` any more");
    }

    #[test]
    fn an_old_row_needs_only_what_the_plan_needs() {
        let missing = Datum::Missing;
        let datums = [text("1"), missing, text("u1"), text("f"), missing, missing];
        let image = encoder(&COLUMNS).image(&datums).unwrap();
        assert_eq!(*image.topics, [owned_by("u1"), EVERYONES]);
        let error = encoder(&COLUMNS).row(&datums).unwrap_err();
        assert!(error.to_string().starts_with("column `na\"me` of table `item` did not come"));
        let key_only = [text("1"), missing, missing, missing, missing, missing];
        let error = encoder(&COLUMNS).image(&key_only).unwrap_err();
        assert!(error.to_string().starts_with("column `owner` of table `item` did not come"));
        assert_eq!(encoder(&COLUMNS).image(&[]).unwrap_err().to_string().find("`id`"), Some(7));
    }

    #[test]
    fn the_image_before_an_update_is_that_of_the_row_before_whatever_changed() {
        let datums = |id, name, owner, hidden| {
            [text(id), text(name), text(owner), text(hidden), Datum::Null, Datum::Null]
        };
        let encoder = encoder(&COLUMNS);
        let befores = [
            datums("7", "other", "u1", "f"),
            datums("8", "a", "u1", "f"),
            datums("7", "a", "u2", "f"),
            datums("7", "a", "u1", "t"),
        ];
        let after = datums("7", "a", "u1", "f");
        let row = encoder.row(&after).unwrap();
        for before in befores {
            let image = encoder.image_before(&before, &after, &row).unwrap();
            assert_eq!(image, encoder.image(&before).unwrap(), "{before:?}");
        }
        let mut cut = after;
        cut[2] = Datum::Missing;
        assert!(encoder.image_before(&cut, &after, &row).is_err());
        assert!(encoder.image_before(&[], &after, &row).is_err());
    }

    #[test]
    fn text_that_is_not_of_its_type_is_named() {
        let mut datums = [Datum::Null; 6];
        datums[0] = text("one");
        let error = encoder(&COLUMNS).row(&datums).unwrap_err();
        assert!(error.to_string().starts_with("column `id` of table `item` holds text"));
    }

    proptest::proptest! {
        #[test]
        fn whatever_bytes_come_a_row_is_json_or_rejected(
            bytes in proptest::collection::vec(
                proptest::option::of(proptest::collection::vec(proptest::num::u8::ANY, 0..12)),
                0..7,
            ),
            id in "[0-9]{1,3}",
        ) {
            let mut datums: Vec<Datum<'_>> = bytes
                .iter()
                .map(|bytes| bytes.as_deref().map_or(Datum::Null, Datum::Text))
                .collect();
            if let Some(first) = datums.first_mut() {
                *first = text(&id);
            }
            if let Ok(row) = encoder(&COLUMNS).row(&datums) {
                serde_json::from_slice::<serde_json::Value>(&row.json).unwrap();
                serde_json::from_slice::<serde_json::Value>(&row.image.key).unwrap();
            }
        }
    }
}
