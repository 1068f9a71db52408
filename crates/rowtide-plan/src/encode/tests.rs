use super::*;
use crate::catalog::{CatalogColumn, CatalogTable, ColumnInput, ReplicaIdentity, TableStreaming};
use crate::filter::{ClaimFilter, Comparison, Filter, Operand, Predicate};
use crate::ids::ClaimId;
use crate::plan::{Selection, Source, Table};
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
        insert_trigger: false,
        streaming: TableStreaming::default(),
    };
    let branch = |anchor, source, filter| Branch {
        selection: Selection::Always,
        window: None,
        table: TableId(0),
        anchor,
        source,
        filter: Filter(filter),
        claim_filter: ClaimFilter(Predicate::Literal(Some(true))),
        published: true,
        links: Vec::new(),
        fills: Vec::new(),
    };
    let visible = Predicate::Not(Box::new(Predicate::Bare(Operand::Column(3))));
    let small =
        Predicate::Compare(Comparison::Less, Operand::Column(0), Operand::Literal(Value::Int(10)));
    Plan {
        tables: vec![Table {
            catalog,
            name: "item".into(),
            name_json: "\"item\"".into(),
            published: true,
            key: vec![0],
            hidden: Vec::new(),
            kept: vec![2],
            branches: vec![BranchId(0), BranchId(1)],
            write: WriteRules::default(),
        }],
        branches: vec![
            branch(Some(2), Source::Claim(ClaimId(0)), visible),
            branch(None, Source::Everyone, small),
        ],
        ..Plan::default()
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

/// The plan, but that clients do not get these columns.
fn hiding(hidden: &[usize]) -> Plan {
    let mut plan = plan();
    plan.tables[0].hidden = hidden.to_vec();
    plan
}

#[test]
fn what_is_hidden_is_in_no_json_and_rules_have_it_all_the_same() {
    let datums = |owner, hidden| {
        [text("70"), text("a"), text(owner), text(hidden), Datum::Null, text("{x}")]
    };
    let encoder = |hidden| RowEncoder::new(&hiding(hidden), TableId(0), &COLUMNS).unwrap();
    let row = encoder(&[2, 3, 4]).row(&datums("u1", "f")).unwrap();
    assert_eq!(row.json, r#"{"id":70,"na\"me":"a","tags":["x"]}"#);
    assert_eq!(*row.image.topics, [owned_by("u1")]);
    assert_eq!(*row.image.kept, [Value::Text("u1".into())]);
    let row = encoder(&[2, 3]).row(&datums("u1", "t")).unwrap();
    assert!(row.image.topics.is_empty(), "it is not visible any more");
    let row = encoder(&[1, 2, 3, 4, 5]).row(&datums("u1", "f")).unwrap();
    assert_eq!(row.json, r#"{"id":70}"#, "nothing but the key");
}

#[test]
fn a_column_that_nobody_reads_need_not_come() {
    let plan = hiding(&[1, 2, 3]);
    let columns = ["id", "owner", "hidden", "at", "tags"];
    let encoder = RowEncoder::new(&plan, TableId(0), &columns).unwrap();
    let datums = [text("70"), text("u1"), text("f"), Datum::Null, Datum::Null];
    assert_eq!(encoder.row(&datums).unwrap().json, r#"{"id":70,"at":null,"tags":null}"#);
    let without_owner = ["id", "na\"me", "hidden", "at", "tags"];
    assert!(RowEncoder::new(&plan, TableId(0), &without_owner).is_err(), "a rule needs it");
    let sql = crate::sql::load_sql(&plan, BranchId(0));
    assert!(sql.contains("\"owner\"") && !sql.contains("na\"\"me"), "{sql}");
}

#[test]
fn an_update_of_what_nobody_reads_is_no_news() {
    let before = [text("70"), text("a"), text("u1"), text("f"), Datum::Null, text("{x}")];
    let changed = |column: usize, to| {
        let mut after = before;
        after[column] = to;
        after
    };
    let encoder = |plan: &Plan| RowEncoder::new(plan, TableId(0), &COLUMNS).unwrap();
    let hides = encoder(&hiding(&[1, 2, 3]));
    assert!(!hides.is_news(&before, &changed(1, text("b"))) && !hides.is_news(&before, &before));
    for (column, to) in [(0, "71"), (2, "u2"), (3, "t"), (4, "2024-01-01 00:00:00+00"), (5, "{}")] {
        assert!(hides.is_news(&before, &changed(column, text(to))), "column {column}");
    }
    assert!(hides.is_news(&changed(5, Datum::Missing), &changed(5, Datum::Missing)), "not known");
    let all = encoder(&plan());
    assert!(all.is_news(&before, &before), "where nothing is hidden every update is told");
}

#[test]
fn plans_are_told_apart_by_what_clients_get_and_not_by_what_nobody_reads() {
    let plan = hiding(&[1, 3]);
    assert_ne!(plan.fingerprint(), hiding(&[3]).fingerprint(), "rows have another column");
    assert_ne!(hiding(&[3]).fingerprint(), hiding(&[]).fingerprint(), "a rule needs it");
    let changed = |change: fn(&mut Plan)| {
        let mut other = plan.clone();
        change(&mut other);
        other.fingerprint()
    };
    let retyped = |plan: &mut Plan, at: usize| plan.tables[0].catalog.columns[at].type_oid = 17;
    let of_hidden = |plan: &mut Plan| plan.tables[0].catalog.columns[1].type_oid = 17;
    assert_eq!(changed(of_hidden), plan.fingerprint());
    let mut needed = plan.clone();
    retyped(&mut needed, 3);
    assert_ne!(needed.fingerprint(), plan.fingerprint());
}

#[test]
fn int8_are_strings_where_the_plan_says_so_and_keys_with_them() {
    let mut plan = plan();
    plan.int8 = Int8Form::String;
    assert_ne!(plan.fingerprint(), self::plan().fingerprint(), "rows look otherwise");
    let datums = [text("7"), Datum::Null, text("u1"), text("f"), Datum::Null, Datum::Null];
    let row = |plan: &Plan| RowEncoder::new(plan, TableId(0), &COLUMNS).unwrap().row(&datums);
    assert_eq!(row(&plan).unwrap().image.key, r#"{"id":7}"#, "an int4");
    plan.tables[0].catalog.columns[0].input.is_int8 = true;
    let row = row(&plan).unwrap();
    assert_eq!(row.image.key, r#"{"id":"7"}"#);
    assert!(row.json.starts_with(br#"{"id":"7","#), "{row:?}");
    assert_eq!(*row.image.topics, [owned_by("u1"), EVERYONES], "rules compare numbers");
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
