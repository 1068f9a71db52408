//! Values, filters and encoders against what Postgres itself answers, over a table with a column of
//! every type and random rows. What the server does in memory with a row of the stream must be what
//! Postgres does with it in a load: the same JSON, the same equality and order, the same filters, the
//! same topics.
//!
//! `ROWTIDE_SEED` runs the rows of one seed again; a failure prints it.

mod rules;
mod windows;

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rowtide_plan::catalog::{CatalogColumn, CatalogTable, TableName};
use rowtide_plan::encode::{Datum, RowEncoder};
use rowtide_plan::filter::{ClaimFilter, Comparison, Filter, Operand, Predicate};
use rowtide_plan::plan::{Branch, BranchId, ClaimId, Plan, Selection, Source, Table, TableId};
use rowtide_plan::row::{Row, Topic};
use rowtide_plan::sql::{load_sql, predicate_sql, quote_identifier};
use rowtide_plan::value::{ColumnType, Value};
use rowtide_plan::write_rules::WriteRules;
use rowtide_postgres::catalog::read_catalog;
use rowtide_tests::Database;
use rowtide_tests::samples::{self, COLUMNS, SCHEMA, insert, plain};
use serde_json::Value as Json;
use serde_json::value::RawValue;
use tokio_postgres::{Client, SimpleQueryMessage};

const ROWS: usize = 120;

/// As of the stream and of loads.
const SETTINGS: &str = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; \
                        SET IntervalStyle = 'postgres'; SET extra_float_digits = 1; \
                        SET bytea_output = 'hex'";

/// A database with one table of every type and random rows.
struct World {
    _database: Database,
    client: Client,
    table: CatalogTable,
    rng: SmallRng,
    /// What the output functions print, rows in the order of their ids, as the stream sends it.
    texts: Vec<Vec<Option<String>>>,
}

impl World {
    async fn new() -> World {
        let seed = std::env::var("ROWTIDE_SEED")
            .map_or_else(|_| rand::random(), |seed| seed.parse().expect("a seed is a number"));
        println!("ROWTIDE_SEED={seed}");
        let mut rng = SmallRng::seed_from_u64(seed);
        let database = Database::with(SCHEMA).await;
        database.run(&insert(&mut rng, ROWS)).await;
        let client = database.connect().await;
        client.batch_execute(SETTINGS).await.unwrap();
        let name = TableName { schema: "public".into(), name: "everything".into() };
        let table = read_catalog(&client, &[name]).await.unwrap().tables.remove(0);
        assert_eq!(table.columns.len(), COLUMNS.len() + 1);
        let texts = rows(&client, "SELECT * FROM everything ORDER BY id").await;
        World { _database: database, client, table, rng, texts }
    }

    /// A plan with these branches; all columns are kept.
    fn plan(&self, branches: Vec<(Option<usize>, Predicate)>) -> Plan {
        let table = Table {
            catalog: self.table.clone(),
            name: "everything".into(),
            name_json: "\"everything\"".into(),
            published: true,
            key: vec![0],
            hidden: Vec::new(),
            kept: (0..self.table.columns.len()).collect(),
            branches: (0..branches.len()).map(|index| BranchId(index as u16)).collect(),
            write: WriteRules::default(),
        };
        let branch = |(anchor, filter): (Option<usize>, Predicate)| Branch {
            table: TableId(0),
            anchor,
            source: anchor.map_or(Source::Everyone, |_| Source::Claim(ClaimId(0))),
            filter: Filter(filter),
            claim_filter: ClaimFilter(Predicate::Literal(Some(true))),
            selection: Selection::Always,
            window: None,
            published: true,
            links: Vec::new(),
            fills: Vec::new(),
        };
        let branches = branches.into_iter().map(branch).collect();
        Plan {
            tables: vec![table],
            branches,
            sets: 0,
            claims: Vec::new(),
            min_client: None,
            ..Plan::default()
        }
    }

    /// The rows, as the stream would bring them.
    fn encode(&self, plan: &Plan) -> Vec<Row> {
        let names: Vec<&str> = self.table.columns.iter().map(|c| c.name.as_str()).collect();
        let encoder = RowEncoder::new(plan, TableId(0), &names).unwrap();
        let encode = |texts: &Vec<Option<String>>| encoder.row(&datums(texts)).unwrap();
        self.texts.iter().map(encode).collect()
    }

    /// The values of all rows, columns that cannot be compared included.
    fn values(&self) -> Vec<Box<[Value]>> {
        let plan = self.plan(Vec::new());
        self.encode(&plan).into_iter().map(|row| row.image.kept).collect()
    }

    /// Columns that can be compared.
    fn comparable(&self) -> Vec<usize> {
        let comparable = |index: &usize| {
            let column = &self.table.columns[*index];
            column.kind.family().is_some()
        };
        (0..self.table.columns.len()).filter(comparable).collect()
    }

    fn column(&self, name: &str) -> &CatalogColumn {
        &self.table.columns[self.table.column(name).unwrap()]
    }
}

fn datums(texts: &[Option<String>]) -> Vec<Datum<'_>> {
    texts
        .iter()
        .map(|text| text.as_ref().map_or(Datum::Null, |t| Datum::Text(t.as_bytes())))
        .collect()
}

async fn rows(client: &Client, sql: &str) -> Vec<Vec<Option<String>>> {
    let answers = client.simple_query(sql).await.unwrap_or_else(|error| {
        panic!("{}\nin: {sql}", rowtide_postgres::connect::reason(&error));
    });
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
        }
        _ => None,
    };
    answers.into_iter().filter_map(row).collect()
}

/// Runs a load; rows by their id.
async fn load(
    world: &World,
    sql: &str,
    anchors: Option<Vec<String>>,
) -> BTreeMap<String, Vec<Option<String>>> {
    let found = match &anchors {
        None => world.client.query(sql, &[]).await,
        Some(anchors) => world.client.query(sql, &[anchors]).await,
    };
    let found = found.unwrap_or_else(|error| {
        panic!("{}\nin: {sql}\nwith {anchors:?}", rowtide_postgres::connect::reason(&error));
    });
    let row = |row: &tokio_postgres::Row| {
        let texts: Vec<Option<String>> = (0..row.len()).map(|column| row.get(column)).collect();
        (texts[0].clone().unwrap(), texts)
    };
    found.iter().map(row).collect()
}

#[tokio::test]
async fn a_load_brings_the_text_that_the_stream_brings() {
    let world = World::new().await;
    let plan = world.plan(vec![(None, Predicate::Literal(Some(true)))]);
    let loaded = load(&world, &load_sql(&plan, BranchId(0)), None).await;
    assert_eq!(loaded.len(), ROWS);
    for streamed in &world.texts {
        let loaded = &loaded[streamed[0].as_deref().unwrap()];
        for ((streamed, loaded), column) in streamed.iter().zip(loaded).zip(&world.table.columns) {
            assert_eq!(streamed, loaded, "{}", column.name);
        }
    }
}

#[tokio::test]
async fn rows_have_the_json_of_the_protocol() {
    let world = World::new().await;
    let plan = world.plan(Vec::new());
    let encoded = world.encode(&plan);
    let select: Vec<String> =
        world.table.columns.iter().map(|c| format!("({})::text", samples::expected(c))).collect();
    let sql = format!("SELECT {} FROM everything ORDER BY id", select.join(", "));
    for (row, expected) in encoded.iter().zip(rows(&world.client, &sql).await) {
        let json: BTreeMap<String, &RawValue> = serde_json::from_slice(&row.json).unwrap();
        assert_eq!(json.len(), world.table.columns.len());
        let id = json["id"].get();
        for (column, expected) in world.table.columns.iter().zip(expected) {
            let (found, expected) = (json[&column.name].get(), expected.as_deref());
            let expected = expected.unwrap_or("null");
            if samples::is_exact(&column.kind) {
                assert_eq!(found, expected, "{} of {id}", column.name);
            } else {
                let read = |text| plain(serde_json::from_str(text).unwrap());
                assert_eq!(read(found), read(expected), "{} of {id}", column.name);
            }
        }
        assert_eq!(row.image.key, format!(r#"{{"id":{id}}}"#));
    }
}

#[tokio::test]
async fn values_are_equal_and_ordered_as_in_postgres() {
    let world = World::new().await;
    let values = world.values();
    for a in world.comparable() {
        for b in world.comparable() {
            let (left, right) = (&world.table.columns[a], &world.table.columns[b]);
            // `varchar`, `text` and `char(n)` beside each other are cast in filters.
            let fits = left.kind.family() == right.kind.family()
                && (left.kind != ColumnType::Enum || left.type_oid == right.type_oid)
                && (left.kind == ColumnType::Char) == (right.kind == ColumnType::Char);
            if !fits {
                continue;
            }
            let side = |alias: &str, column: &CatalogColumn| {
                let name = quote_identifier(&column.name);
                let cast = if column.name == "an_oid" { "::int8" } else { "" };
                format!("{alias}.{name}{cast}")
            };
            let (x, y) = (side("a", left), side("b", right));
            let ordered = left.kind.family().is_some_and(|family| family.is_ordered());
            let less = if ordered { format!("{x} < {y}") } else { "false".into() };
            // One letter for each pair.
            let sql = format!(
                "SELECT string_agg(CASE WHEN {x} = {y} THEN '=' WHEN {less} THEN '<' \
                 WHEN {x} <> {y} THEN '>' ELSE '?' END, '' ORDER BY b.id) \
                 FROM everything a, everything b GROUP BY a.id ORDER BY a.id"
            );
            for (row, answers) in rows(&world.client, &sql).await.iter().enumerate() {
                for (other, answer) in answers[0].as_deref().unwrap().chars().enumerate() {
                    let (x, y) = (&values[row][a], &values[other][b]);
                    let found = match x.compare(y) {
                        None => '?',
                        Some(order) if order.is_eq() => '=',
                        Some(order) if ordered && order.is_lt() => '<',
                        Some(_) => '>',
                    };
                    let texts = (&world.texts[row][a], &world.texts[other][b]);
                    assert_eq!(found, answer, "{} {}: {texts:?}", left.name, right.name);
                    assert_eq!(x == y, found == '=' || (x.is_null() && y.is_null()), "{texts:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn filters_judge_as_postgres_does() {
    let mut world = World::new().await;
    let values = world.values();
    let plan = world.plan(Vec::new());
    for _ in 0..40 {
        let predicates: Vec<Predicate> = (0..40).map(|_| predicate(&mut world, 3)).collect();
        let select: Vec<String> =
            predicates.iter().map(|p| predicate_sql(plan.table(TableId(0)), p)).collect();
        let sql = format!("SELECT {} FROM everything ORDER BY id", select.join(",\n"));
        for (row, answers) in rows(&world.client, &sql).await.into_iter().enumerate() {
            for ((predicate, sql), answer) in predicates.iter().zip(&select).zip(answers) {
                let answer = answer.map(|text| text == "t");
                let found = predicate.judge(&values[row], &[]);
                assert_eq!(found, answer, "row {}: {sql}", row + 1);
            }
        }
    }
}

fn predicate(world: &mut World, depth: u32) -> Predicate {
    let kinds = if depth == 0 { 4 } else { 8 };
    match world.rng.random_range(0..kinds) {
        0 => Predicate::Bare(Operand::Column(world.table.column("a_bool").unwrap())),
        1 => {
            Predicate::IsNull(Operand::Column(world.rng.random_range(0..world.table.columns.len())))
        }
        2 => {
            let all = world.comparable();
            let column = any(&mut world.rng, &all);
            let count = world.rng.random_range(1..5);
            let values = (0..count).map(|_| literal(world, column)).collect();
            Predicate::In(Operand::Column(column), values)
        }
        5 => Predicate::Not(Box::new(predicate(world, depth - 1))),
        6 => Predicate::And((0..2).map(|_| predicate(world, depth - 1)).collect()),
        7 => Predicate::Or((0..3).map(|_| predicate(world, depth - 1)).collect()),
        _ => comparison(world),
    }
}

fn comparison(world: &mut World) -> Predicate {
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    let all = world.comparable();
    let column = any(&mut world.rng, &all);
    let catalog = &world.table.columns[column];
    let ordered = catalog.kind.family().is_some_and(|family| family.is_ordered());
    let operators = [Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual];
    let comparison = any(&mut world.rng, if ordered { &operators } else { &operators[..2] });
    let beside: Vec<usize> = world
        .comparable()
        .into_iter()
        .filter(|other| {
            let other = &world.table.columns[*other];
            other.kind.family() == catalog.kind.family()
                && (catalog.kind != ColumnType::Enum || other.type_oid == catalog.type_oid)
        })
        .collect();
    let other = match world.rng.random_bool(0.5) {
        true => Operand::Column(any(&mut world.rng, &beside)),
        false => Operand::Literal(literal(world, column)),
    };
    match world.rng.random_bool(0.5) {
        true => Predicate::Compare(comparison, Operand::Column(column), other),
        false => Predicate::Compare(comparison, other, Operand::Column(column)),
    }
}

/// A literal that can stand beside a column: often one that a row holds, sometimes one that only
/// another column of the family can hold, sometimes null.
fn literal(world: &mut World, column: usize) -> Value {
    let kind = world.table.columns[column].kind.clone();
    let from = match world.rng.random_range(0..4) {
        0 if kind != ColumnType::Enum => {
            let same = |other: &usize| world.table.columns[*other].kind.family() == kind.family();
            let family: Vec<usize> = world.comparable().into_iter().filter(same).collect();
            any(&mut world.rng, &family)
        }
        _ => column,
    };
    let text = &world.texts[world.rng.random_range(0..ROWS)][from];
    text.as_ref().and_then(|text| Value::parse(&kind, text).ok()).unwrap_or(Value::Null)
}

fn any<T: Clone>(rng: &mut SmallRng, all: &[T]) -> T {
    all.choose(rng).expect("there is something to choose from").clone()
}

#[tokio::test]
async fn a_load_brings_exactly_the_rows_of_its_topics_whatever_is_claimed() {
    let mut world = World::new().await;
    for anchor in world.comparable() {
        let filter = predicate(&mut world, 1);
        let plan = world.plan(vec![(Some(anchor), filter)]);
        let column = world.table.columns[anchor].clone();
        let streamed = world.encode(&plan);
        for _ in 0..4 {
            let mut claimed: Vec<Json> = samples::CLAIMS
                .iter()
                .map(|text| serde_json::from_str(text).unwrap_or_else(|_| Json::from(*text)))
                .collect();
            claimed.push(format!("a\0{}", "'\"\\".repeat(3_000)).into());
            for _ in 0..10 {
                let row = world.rng.random_range(0..ROWS);
                claimed.push(world.texts[row][anchor].clone().into());
            }
            let claimed: BTreeSet<Value> = claimed
                .iter()
                .map(|claim| Value::from_claim(&column.kind, claim))
                .filter(|value| !value.is_null())
                .collect();
            let anchors = claimed.iter().filter_map(|value| value.to_text(&column.kind)).collect();
            let loaded = load(&world, &load_sql(&plan, BranchId(0)), Some(anchors)).await;
            let topics: BTreeSet<Topic> = claimed
                .into_iter()
                .map(|value| Topic { branch: BranchId(0), anchor: Some(value) })
                .collect();
            let wanted: BTreeSet<String> = streamed
                .iter()
                .zip(&world.texts)
                .filter(|(row, _)| row.image.topics.iter().any(|topic| topics.contains(topic)))
                .filter_map(|(_, texts)| texts[0].clone())
                .collect();
            let loaded: BTreeSet<String> = loaded.into_keys().collect();
            assert_eq!(loaded, wanted, "{}", column.name);
        }
    }
}

#[tokio::test]
async fn a_value_as_text_is_read_back_by_postgres() {
    let world = World::new().await;
    let values = world.values();
    for index in world.comparable() {
        let column = &world.table.columns[index];
        let name = quote_identifier(&column.name);
        let mut list = Vec::new();
        for (row, values) in values.iter().enumerate() {
            let Some(text) = values[index].to_text(&column.kind) else { continue };
            let literal = rowtide_plan::sql::quote_literal(&text);
            list.push(format!("({}, {literal}::{})", row + 1, column.type_name));
        }
        let sql = format!(
            "SELECT v.id, {name}::text FROM (VALUES {}) v(id, value) JOIN everything USING (id) \
             WHERE ({name} = v.value) IS NOT TRUE",
            list.join(", ")
        );
        assert_eq!(rows(&world.client, &sql).await, Vec::<Vec<_>>::new(), "{}", column.name);
    }
}

#[tokio::test]
async fn the_index_of_an_anchor_serves_its_load() {
    let world = World::new().await;
    world.client.batch_execute("SET enable_seqscan = off").await.unwrap();
    for name in ["a_bool", "an_int2", "an_int4", "an_int8", "a_numeric", "a_text", "a_varchar"]
        .into_iter()
        .chain(["a_name", "a_char", "a_uuid", "a_mood", "a_timestamptz", "a_date", "a_positive"])
    {
        let column = quote_identifier(&world.column(name).name);
        world
            .client
            .batch_execute(&format!("CREATE INDEX ON everything ({column})"))
            .await
            .unwrap();
        let anchor = world.table.column(name).unwrap();
        let plan = world.plan(vec![(Some(anchor), Predicate::Literal(Some(true)))]);
        let sql = load_sql(&plan, BranchId(0)).replace("$1", "'{}'::text[]");
        let explained = rows(&world.client, &format!("EXPLAIN {sql}")).await;
        let plan = explained.iter().flatten().flatten().cloned().collect::<Vec<_>>().join("\n");
        assert!(plan.contains("Index Cond"), "{name}: {plan}");
    }
}
