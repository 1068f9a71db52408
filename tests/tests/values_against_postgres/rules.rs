//! Rules of the whole language that a row and the claims decide, over random values: who sees a row by the plan is
//! who would see it if Postgres judged the rule. Each rule is written twice, for the definition and for Postgres, which
//! has no claims: there stands the value that the claim is.

use rand::Rng;
use rowtide_plan::catalog::{Catalog, CatalogColumn, ReplicaIdentity};
use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::plan::Selection;
use rowtide_plan::sql::{quote_identifier, quote_literal};
use rowtide_plan::value::{ColumnType, Instant, Value};
use serde_json::{Map, Value as Json};

use super::{ROWS, World, any, load, rows, samples};

/// As the definition has it, and as Postgres reads it.
#[derive(Clone, Debug)]
struct Said {
    rule: String,
    sql: String,
}

impl Said {
    fn alike(text: String) -> Said {
        Said { rule: text.clone(), sql: text }
    }

    /// `write` puts it in its place.
    fn within(&self, write: impl Fn(&str) -> String) -> Said {
        Said { rule: write(&self.rule), sql: write(&self.sql) }
    }

    /// A column of times beside `now()`, with an interval in one of the ways in which Postgres reads these.
    fn beside_the_present(world: &mut World) -> Said {
        let is_moment = |column: &&CatalogColumn| column.kind == ColumnType::TimestampTz;
        let columns: Vec<String> = (world.table.columns.iter().filter(is_moment))
            .map(|column| quote_identifier(&column.name))
            .collect();
        let column = any(&mut world.rng, &columns);
        let is = any(&mut world.rng, &["<", "<=", ">", ">="]);
        let sign = any(&mut world.rng, &["+", "-"]);
        let intervals = [
            "24 hours",
            "1 day -02:30",
            "1.5 weeks",
            "90 min ago",
            "1h 30m",
            "250 ms",
            "36:00:00.5",
            "-9000 days",
            "2 weeks 3 days 4 hours 5 mins 6.7 secs",
            "1000000 days",
        ];
        let interval = any(&mut world.rng, &intervals);
        match world.rng.random_range(0..4) {
            0 => Said::alike(format!("({column} {is} now())")),
            1 => Said::alike(format!("(now() {is} {column})")),
            2 => Said::alike(format!("({column} {is} now() {sign} interval '{interval}')")),
            _ => Said::alike(format!("(now() {sign} '{interval}'::interval {is} {column})")),
        }
    }

    fn joined(parts: &[Said], word: &str) -> Said {
        let each =
            |of: fn(&Said) -> &String| parts.iter().map(of).cloned().collect::<Vec<_>>().join(word);
        Said { rule: each(|said| &said.rule), sql: each(|said| &said.sql) }
    }
}

/// A term of a comparison, and what it is.
struct Typed {
    said: Said,
    kind: ColumnType,
    /// Of which enum.
    type_name: String,
}

#[tokio::test]
async fn a_rule_shows_the_rows_that_postgres_would_show() {
    let mut world = World::new().await;
    world.table.replica_identity = ReplicaIdentity::Full;
    let catalog = Catalog { tables: vec![world.table.clone()], ..Catalog::default() };
    for _ in 0..12 {
        let claims = claims(&mut world);
        let rules: Vec<Said> = (0..25)
            .map(|_| condition(&mut world, &claims, 3))
            .flat_map(|said| [said.within(|text| format!("NOT ({text})")), said])
            .collect();
        let answers: Vec<String> =
            rules.iter().map(|said| format!("({}) IS TRUE", said.sql)).collect();
        let now = "(extract(epoch FROM now()) * 1000000)::int8::text";
        let sql = format!("SELECT {}, {now} FROM everything ORDER BY id", answers.join(",\n"));
        let answers = rows(&world.client, &sql).await;
        let now = answers[0].last().unwrap().as_deref().unwrap().parse().unwrap();
        let now = Instant::of_unix_us(now);
        for (at, said) in rules.iter().enumerate() {
            // What JSON leaves as it is, and TOML does not.
            let visible = Json::from(said.rule.as_str()).to_string().replace('\u{7f}', "\\u007f");
            let text = format!("[tables.everything]\nvisible = {visible}\n");
            let definition = Definition::parse("rowtide.toml", &text)
                .unwrap_or_else(|error| panic!("{}\n{error:?}", said.rule));
            let plan = match compile(&definition, &catalog) {
                Ok(plan) => plan,
                Err(error) => {
                    let message = &error.problems[0].message;
                    assert!(message.contains("alternatives"), "{}\n{error:?}", said.rule);
                    continue;
                }
            };
            let resolved = plan.resolve_claims("no one", &claims);
            let reached = plan.reached(Selection::Always, &resolved);
            for (row, answers) in world.encode(&plan).iter().zip(&answers) {
                let seen = row.image.topics.iter().any(|topic| {
                    let filter = &plan.branch(topic.branch).claim_filter;
                    reached.contains(topic)
                        && filter.passes(&row.image.kept, &resolved, &|_, _| None, now)
                });
                let wanted = answers[at].as_deref() == Some("t");
                let id = std::str::from_utf8(&row.image.key).unwrap();
                assert_eq!(seen, wanted, "row {id} by {}\nwith {claims:?}", said.rule);
            }
            // A load of each of its topics brings the rows of the topic.
            for topic in &reached {
                let branch = plan.branch(topic.branch);
                let anchors = branch.anchor_type(&plan).map(|kind| {
                    topic.anchor.iter().filter_map(|anchor| anchor.to_text(kind)).collect()
                });
                let sql = rowtide_plan::sql::load_sql(&plan, topic.branch);
                let loaded = load(&world, &sql, anchors).await;
                let encoded = world.encode(&plan);
                let of_topic = encoded.iter().zip(&world.texts);
                let of_topic = of_topic.filter(|(row, _)| row.image.topics.contains(topic));
                let wanted: Vec<&String> = of_topic.filter_map(|(_, t)| t[0].as_ref()).collect();
                let missing: Vec<_> =
                    wanted.iter().filter(|id| !loaded.contains_key(**id)).collect();
                assert!(missing.is_empty(), "{missing:?} by {}\n{sql}", said.rule);
            }
        }
    }
}

/// A token: each claim is a value of some row, or what a hostile token may hold.
fn claims(world: &mut World) -> Map<String, Json> {
    let mut claims = Map::new();
    for name in CLAIM_NAMES {
        let claim = match world.rng.random_range(0..6) {
            0 => continue,
            1 => {
                let text = any(&mut world.rng, samples::CLAIMS);
                serde_json::from_str(text).unwrap_or_else(|_| Json::from(text))
            }
            _ => {
                let all = world.comparable();
                let column = any(&mut world.rng, &all);
                let row = world.rng.random_range(0..ROWS);
                world.texts[row][column].clone().into()
            }
        };
        claims.insert(name.to_owned(), claim);
    }
    for name in ARRAY_NAMES {
        let all = world.comparable();
        let column = any(&mut world.rng, &all);
        let count = world.rng.random_range(0..6);
        let mut elements: Vec<Json> = (0..count)
            .map(|_| world.texts[world.rng.random_range(0..ROWS)][column].clone().into())
            .collect();
        if world.rng.random_bool(0.3) {
            elements.push(Json::from(7));
            elements.retain(|element| !element.is_null());
        }
        let claim = if world.rng.random_bool(0.1) { "none".into() } else { elements.into() };
        claims.insert(name.to_owned(), claim);
    }
    claims
}

const CLAIM_NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Claims that are arrays, mostly.
const ARRAY_NAMES: [&str; 2] = ["e", "f"];

/// A condition, in parentheses where it is not one word.
fn condition(world: &mut World, claims: &Map<String, Json>, depth: u32) -> Said {
    let kinds = if depth == 0 { 12 } else { 19 };
    let inner = |world: &mut World| condition(world, claims, depth.saturating_sub(1));
    match world.rng.random_range(0..kinds) {
        0 => Said::alike(any(&mut world.rng, &["a_bool", "true", "false", "NULL"]).to_owned()),
        1 => {
            let column = any(&mut world.rng, &world.table.columns.clone());
            let name = quote_identifier(&column.name);
            // What is asked of a composite value is not whether its fields are null.
            let sql = format!("(num_nulls({name}) = 1)");
            Said { rule: format!("({name} IS NULL)"), sql }
        }
        2 => in_list(world),
        3 => between(world, claims),
        4..6 => {
            let word = any(&mut world.rng, &["IS DISTINCT FROM", "IS NOT DISTINCT FROM"]);
            compared(world, claims, &[word], false)
        }
        6..10 => compared(world, claims, &["=", "<>", "<", "<=", ">", ">="], true),
        10 => among_claims(world, claims),
        11 => among_elements(world, claims),
        12 => inner(world).within(|text| format!("(NOT {text})")),
        13 => {
            let answers = ["TRUE", "NOT TRUE", "FALSE", "NOT FALSE", "UNKNOWN", "NOT UNKNOWN"];
            let answer = any(&mut world.rng, &answers);
            inner(world).within(|text| format!("({text} IS {answer})"))
        }
        14 => {
            let default = any(&mut world.rng, &["true", "false"]);
            inner(world).within(|text| format!("coalesce({text}, {default})"))
        }
        15 => Said::beside_the_present(world),
        16 => joined(&[inner(world), inner(world), inner(world)], " OR "),
        _ => joined(&[inner(world), inner(world)], " AND "),
    }
}

fn joined(parts: &[Said], word: &str) -> Said {
    Said::joined(parts, word).within(|text| format!("({text})"))
}

/// A column, perhaps as another type.
fn term(world: &mut World) -> Typed {
    let all = world.comparable();
    let column = any(&mut world.rng, &all);
    let column = world.table.columns[column].clone();
    cast(world, &column)
}

fn cast(world: &mut World, column: &CatalogColumn) -> Typed {
    let name = quote_identifier(&column.name);
    let (rule, type_name) = (name.clone(), column.type_name.clone());
    // Beside an `oid` Postgres would make an `oid` of every number.
    let sql = if column.name == "an_oid" { format!("{name}::int8") } else { name.clone() };
    let typed = Typed { said: Said { rule, sql }, kind: column.kind.clone(), type_name };
    if world.rng.random_bool(0.6) {
        return typed;
    }
    let (to, kind): (&[&str], _) = match &column.kind {
        ColumnType::Int if column.name == "an_oid" => (&["int8", "bigint"], ColumnType::Int),
        ColumnType::Int => match world.rng.random_range(0..4) {
            0 => (&["int8", "bigint"], ColumnType::Int),
            1 => (&["numeric", "decimal"], ColumnType::Numeric),
            2 => (&["float8", "double precision"], ColumnType::Float8),
            _ => (&["text", "varchar"], ColumnType::Text),
        },
        ColumnType::Float4 => (&["float8"], ColumnType::Float8),
        ColumnType::Bool | ColumnType::Uuid | ColumnType::Char | ColumnType::Enum => {
            (&["text"], ColumnType::Text)
        }
        ColumnType::Text => (&["text", "character varying"], ColumnType::Text),
        ColumnType::TimestampTz => {
            (&["timestamptz", "timestamp with time zone"], ColumnType::TimestampTz)
        }
        _ => return typed,
    };
    let to = any(&mut world.rng, to);
    let said = match (column.kind == ColumnType::Enum, world.rng.random_bool(0.5)) {
        // The application's own cast of this type is another.
        (true, _) => Said { rule: format!("{name}::text"), sql: format!("enum_out({name})::text") },
        (_, true) => typed.said.within(|text| format!("({text})::{to}")),
        _ => typed.said.within(|text| format!("CAST({text} AS {to})")),
    };
    Typed { said, kind, type_name: to.to_owned() }
}

/// The text of a value that is of the kind, or null.
fn text_of(world: &mut World, kind: &ColumnType, type_name: &str) -> Option<String> {
    let is_like = |column: &&CatalogColumn| {
        column.kind == *kind && (*kind != ColumnType::Enum || column.type_name == type_name)
    };
    let columns: Vec<String> =
        world.table.columns.iter().filter(is_like).map(|column| column.name.clone()).collect();
    if columns.is_empty() || world.rng.random_bool(0.1) {
        return None;
    }
    let name = any(&mut world.rng, &columns);
    let column = world.table.column(&name).unwrap();
    world.texts[world.rng.random_range(0..ROWS)][column].clone()
}

/// The name of the type in SQL, without what makes one column's type special.
fn sql_type(kind: &ColumnType, type_name: &str) -> String {
    let name = match kind {
        ColumnType::Bool => "bool",
        ColumnType::Int => "int8",
        ColumnType::Float4 => "float4",
        ColumnType::Float8 => "float8",
        ColumnType::Numeric => "numeric",
        ColumnType::Text => "text",
        ColumnType::Char => "bpchar",
        ColumnType::Uuid => "uuid",
        ColumnType::Bytea => "bytea",
        ColumnType::TimestampTz => "timestamptz",
        ColumnType::Timestamp => "timestamp",
        ColumnType::Date => "date",
        ColumnType::Time => "time",
        _ => type_name,
    };
    name.to_owned()
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A literal that can stand beside `typed`.
fn literal(world: &mut World, typed: &Typed) -> Said {
    let Typed { kind, type_name, .. } = typed;
    let Some(text) = text_of(world, kind, type_name) else { return Said::alike("NULL".into()) };
    let is_number = matches!(
        kind,
        ColumnType::Int | ColumnType::Float4 | ColumnType::Float8 | ColumnType::Numeric
    ) && text.parse::<f64>().is_ok_and(f64::is_finite);
    let of_type = sql_type(kind, type_name);
    match world.rng.random_range(0..3) {
        0 if is_number => Said::alike(text.replace('+', "")),
        // A `char(n)` has a length.
        0 | 1 if *kind != ColumnType::Char && *kind != ColumnType::Int => {
            Said::alike(format!("{}::{of_type}", quoted(&text)))
        }
        _ if *kind == ColumnType::Int => Said::alike(format!("'{text}'::bigint")),
        _ => Said::alike(quoted(&text)),
    }
}

/// A claim that stands beside `typed`.
fn claim(world: &mut World, claims: &Map<String, Json>, typed: &Typed) -> Said {
    let name = any(&mut world.rng, &CLAIM_NAMES);
    let of_type = sql_type(&typed.kind, &typed.type_name);
    let value = claims.get(name).map_or(Value::Null, |json| Value::from_claim(&typed.kind, json));
    let is_label = |text: &String| {
        let mut columns = world.table.columns.iter();
        columns.any(|c| c.type_name == typed.type_name && c.labels.contains(text))
    };
    let text = value.to_text(&typed.kind);
    let sql = match text {
        Some(text) if typed.kind != ColumnType::Enum || is_label(&text) => {
            format!("{}::{of_type}", quote_literal(&text))
        }
        // Postgres has no value that is none of the labels.
        Some(_) => return literal(world, typed),
        None => format!("NULL::{of_type}"),
    };
    let cast = !matches!(typed.kind, ColumnType::Char | ColumnType::Enum);
    let rule = match cast && world.rng.random_bool(0.3) {
        true => format!("auth.claims.{name}::{of_type}"),
        false => format!("auth.claims.{name}"),
    };
    Said { rule, sql }
}

/// What can stand on the other side.
fn beside(world: &mut World, claims: &Map<String, Json>, typed: &Typed) -> Said {
    match world.rng.random_range(0..4) {
        0 => {
            let fits = |world: &mut World| {
                let other = term(world);
                let same = other.kind.family() == typed.kind.family()
                    // `varchar` and `char(n)` beside each other are said to be compared as text.
                    && (other.kind == ColumnType::Char) == (typed.kind == ColumnType::Char)
                    && (other.kind != ColumnType::Enum || other.type_name == typed.type_name);
                same.then_some(other.said)
            };
            (0..200).find_map(|_| fits(world)).unwrap_or_else(|| literal(world, typed))
        }
        1 => literal(world, typed),
        _ => claim(world, claims, typed),
    }
}

/// `item = ANY (array)`, or that it is no element.
fn among(world: &mut World, item: Said, array: Said) -> Said {
    let word = any(&mut world.rng, &["= ANY", "= SOME", "<> ALL"]);
    joined(&[item, array.within(|text| format!("({text})"))], &format!(" {word} "))
}

/// A column, or a literal, is among the elements of a claim.
fn among_claims(world: &mut World, claims: &Map<String, Json>) -> Said {
    let mut typed = term(world);
    let name = any(&mut world.rng, &ARRAY_NAMES);
    let array = ColumnType::Array(Box::new(typed.kind.clone()));
    // No label need be among them.
    let mut of_type = sql_type(&typed.kind, &typed.type_name);
    if typed.kind == ColumnType::Enum {
        typed.said.sql = format!("enum_out({})::text", typed.said.sql);
        of_type = "text".to_owned();
    }
    let value = Value::from_claim(&array, &claims[name]);
    let sql = value.to_text(&array).map_or("NULL".to_owned(), |text| quote_literal(&text));
    let rule = format!("auth.claims.{name}");
    among(world, typed.said, Said { rule, sql: format!("{sql}::{of_type}[]") })
}

/// A column, a literal or a claim is among the elements of a column.
fn among_elements(world: &mut World, claims: &Map<String, Json>) -> Said {
    let has_elements = |column: &&CatalogColumn| {
        column.kind.element().is_some_and(|element| *element != ColumnType::Enum)
    };
    let columns: Vec<CatalogColumn> =
        world.table.columns.iter().filter(has_elements).cloned().collect();
    let array = any(&mut world.rng, &columns);
    let kind = array.kind.element().unwrap().clone();
    let type_name = array.type_name.trim_end_matches("[]").to_owned();
    let name = Said::alike(quote_identifier(&array.name));
    let element = Typed { said: name.clone(), kind, type_name };
    let item = beside(world, claims, &element);
    among(world, item, name)
}

fn compared(
    world: &mut World,
    claims: &Map<String, Json>,
    words: &[&str],
    may_be_equal: bool,
) -> Said {
    let typed = term(world);
    let ordered = typed.kind.family().is_some_and(|family| family.is_ordered());
    let words = if ordered || !may_be_equal { words } else { &words[..2] };
    let word = any(&mut world.rng, words);
    let other = beside(world, claims, &typed);
    let mut sides = [typed.said, other];
    if world.rng.random_bool(0.3) {
        sides.reverse();
    }
    joined(&sides, &format!(" {word} "))
}

fn between(world: &mut World, claims: &Map<String, Json>) -> Said {
    let typed = loop {
        let typed = term(world);
        if typed.kind.family().is_some_and(|family| family.is_ordered()) {
            break typed;
        }
    };
    let word = any(&mut world.rng, &["BETWEEN", "NOT BETWEEN"]);
    let ends = [beside(world, claims, &typed), beside(world, claims, &typed)];
    let ends = Said::joined(&ends, " AND ");
    joined(&[typed.said, ends], &format!(" {word} "))
}

fn in_list(world: &mut World) -> Said {
    let typed = term(world);
    let count = world.rng.random_range(1..5);
    let list: Vec<Said> = (0..count).map(|_| literal(world, &typed)).collect();
    let list = Said::joined(&list, ", ").within(|text| format!("({text})"));
    let word = any(&mut world.rng, &["IN", "NOT IN"]);
    joined(&[typed.said, list], &format!(" {word} "))
}
