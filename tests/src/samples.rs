//! A column of every type, random values for it, and the JSON that the protocol's page promises for them,
//! said in SQL.

use rand::Rng;
use rand::rngs::SmallRng;
use rowtide_plan::catalog::CatalogColumn;
use rowtide_plan::sql::{quote_identifier, quote_literal};
use rowtide_plan::value::ColumnType;
use serde_json::Value as Json;

/// The columns beside `id`, with their types.
pub const COLUMNS: &[(&str, &str)] = &[
    ("a_bool", "bool"),
    ("an_int2", "int2"),
    ("an_int4", "int4"),
    ("an_int8", "int8"),
    ("an_oid", "oid"),
    ("a_float4", "float4"),
    ("a_float8", "float8"),
    ("a_numeric", "numeric"),
    ("a_money_like", "numeric(10,2)"),
    ("a_text", "text"),
    ("a_varchar", "varchar"),
    ("a_short", "varchar(3)"),
    ("a_name", "name"),
    ("a_char", "char(3)"),
    ("a_uuid", "uuid"),
    ("a_mood", "mood"),
    ("a_json", "json"),
    ("a_jsonb", "jsonb"),
    ("a_bytea", "bytea"),
    ("a_timestamptz", "timestamptz"),
    ("a_second", "timestamptz(0)"),
    ("a_timestamp", "timestamp"),
    ("a_date", "date"),
    ("a_time", "time"),
    ("a_positive", "positive"),
    ("a_calm", "calm"),
    ("an_interval", "interval"),
    ("an_inet", "inet"),
    ("a_cidr", "cidr"),
    ("a \"byte\"", "\"char\""),
    ("a_pair", "pair"),
    ("a_range", "int4range"),
    ("a_timetz", "timetz"),
    ("a_bit", "bit(3)"),
    ("bools", "bool[]"),
    ("ints", "int4[]"),
    ("floats", "float8[]"),
    ("numerics", "numeric[]"),
    ("texts", "text[]"),
    ("chars", "char(3)[]"),
    ("uuids", "uuid[]"),
    ("moods", "mood[]"),
    ("jsons", "json[]"),
    ("byteas", "bytea[]"),
    ("timestamptzs", "timestamptz[]"),
    ("dates", "date[]"),
    ("inets", "inet[]"),
    ("pairs", "pair[]"),
];

/// Made with the columns by [`insert`].
pub const SCHEMA: &str = r#"
CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "so\so"', '');
CREATE DOMAIN positive AS int4 CHECK (value > 0);
CREATE DOMAIN calm AS mood CHECK (value <> 'sad');
CREATE TYPE pair AS (a int, b text);
-- An application's own cast must not change what a load brings.
CREATE FUNCTION shout(mood) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper(enum_out($1)::text)';
CREATE CAST (mood AS text) WITH FUNCTION shout(mood);
"#;

/// What a hostile token may hold, as JSON or as plain text.
pub const CLAIMS: &[&str] = &[
    "0",
    "-1",
    "1",
    "7",
    "32768",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "1e300",
    "0.1",
    "\"1e131071\"",
    "\"1e2147483647\"",
    "\"-1e-16384\"",
    "\"1e39\"",
    "\"NaN\"",
    "\"-Infinity\"",
    "true",
    "\"true\"",
    "[]",
    "{\"a\": 1}",
    "null",
    "\"\"",
    "\"NULL\"",
    "\"{}\"",
    "\"{a,\\\"b\"",
    "\"'; DROP TABLE everything; --\"",
    "\"\\\\\"",
    "\"$1\"",
    "\"sad\"",
    "\"no such mood\"",
    "\"\\\\x00ff\"",
    "\"00000000-0000-0000-0000-000000000000\"",
    "\"infinity\"",
    "\"999999-12-31\"",
    "\"9999999-12-31\"",
    "\"294277-01-01 00:00:00\"",
    "\"2024-01-01T00:00:00Z\"",
    "\"2024-01-01 00:00:00+15:59:59\"",
    "\"4714-11-24 00:00:00+15 BC\"",
    "\"-271821-04-20\"",
    "\"2024-02-30\"",
    "\"24:00:00\"",
    "\"24:00:01\"",
];

const TEXTS: &[&str] = &[
    "", "a", "a ", "a  ", " a", "A", "b", "ab", "é", "e\u{301}", "日本", "'", "\"", "\\", "\\'",
    "\n", "\t", "\r", "\u{1}", "\u{7f}", "\u{2028}", "😀", "NULL", "null", "{", "}", ",", "a,b",
    "[1]", "%s", "$1",
];

/// Creates the table `everything` and fills it.
pub fn insert(rng: &mut SmallRng, rows: usize) -> String {
    let columns: Vec<String> =
        COLUMNS.iter().map(|(name, kind)| format!("{} {kind}", quote_identifier(name))).collect();
    let mut sql = format!("CREATE TABLE everything (id int PRIMARY KEY, {});", columns.join(", "));
    let mut tuples = Vec::new();
    for id in 1..=rows {
        let values: Vec<String> = COLUMNS.iter().map(|(_, kind)| value(rng, kind)).collect();
        tuples.push(format!("({id}, {})", values.join(", ")));
    }
    sql += &format!("INSERT INTO everything VALUES {}", tuples.join(",\n"));
    sql
}

/// A random value of one of the types of [`COLUMNS`] as an SQL expression; one in ten is null.
///
/// # Panics
/// When it is another type.
pub fn value(rng: &mut SmallRng, kind: &str) -> String {
    if rng.random_bool(0.1) {
        return "NULL".into();
    }
    let Some(element) = kind.strip_suffix("[]") else {
        return format!("{}::{kind}", quote_literal(&text(rng, kind)));
    };
    // Other lower bounds are printed before the braces.
    if element == "int4" && rng.random_bool(0.2) {
        return "'[-1:1]={1,NULL,3}'::int4[]".into();
    }
    let shape = rng.random_range(0..4);
    let mut elements = |count: usize| {
        let elements: Vec<String> = (0..count).map(|_| value(rng, element)).collect();
        format!("ARRAY[{}]", elements.join(", "))
    };
    let flat_only = ["bytea", "timestamptz", "date"].contains(&element);
    let array = match shape {
        0 => "'{}'".into(),
        1 if !flat_only => format!("ARRAY[{}, {}]", elements(2), elements(2)),
        _ => elements(shape),
    };
    format!("{array}::{kind}")
}

fn text(rng: &mut SmallRng, kind: &str) -> String {
    let small = rng.random_range(-2..=2i64);
    let any: i64 = rng.random();
    let mut pick = |all: &[&str]| all[rng.random_range(0..all.len())].to_owned();
    // A type of the application may have gone to the other schema.
    match kind.strip_prefix("s2.").unwrap_or(kind) {
        "bool" => pick(&["t", "f"]),
        "int2" => pick(&["32767", "-32768", &small.to_string(), &(any as i16).to_string()]),
        "int4" => {
            pick(&["2147483647", "-2147483648", &small.to_string(), &(any as i32).to_string()])
        }
        "int8" => {
            let ends = ["9223372036854775807", "-9223372036854775808", "2147483648"];
            pick(&[ends[0], ends[1], ends[2], &small.to_string(), &any.to_string()])
        }
        "oid" => pick(&["0", "1", "2", "4294967295", &(any as u32).to_string()]),
        "positive" => pick(&["1", "2", "2147483647", &(any as u16 as u32 + 1).to_string()]),
        "float4" => {
            let ends = ["NaN", "Infinity", "-Infinity", "-0", "0", "0.1", "3.4028235e38", "1e-45"];
            let float = f32::from_bits(any as u32);
            let float = if float.is_finite() { float } else { 1.5 };
            if small > 0 { pick(&ends) } else { pick(&[&float.to_string(), &small.to_string()]) }
        }
        "float8" => {
            let ends = ["NaN", "Infinity", "-Infinity", "-0", "0", "0.1", "1.7976931348623157e308"];
            let more = ["5e-324", "1e20", "123456789012345680", "0.10000000149011612"];
            let float = f64::from_bits(any as u64);
            let float = if float.is_finite() { float } else { 1.5 };
            match small {
                1 => pick(&ends),
                2 => pick(&more),
                _ => pick(&[&format!("{float:e}"), &small.to_string()]),
            }
        }
        "numeric" => {
            let ends =
                ["NaN", "Infinity", "-Infinity", "0", "0.00", "-0.0", "1.0", "1.00", "100", "1e2"];
            let long = format!("{any}{}.{}", any.unsigned_abs(), any.unsigned_abs());
            if small > 0 {
                pick(&ends)
            } else {
                pick(&[&small.to_string(), &long, "1e-30", "1e3000"])
            }
        }
        "numeric(10,2)" => pick(&["0", "1", "1.005", "-99999999.99", &small.to_string()]),
        "varchar(3)" | "char(3)" => pick(TEXTS).chars().take(3).collect(),
        "text" | "varchar" => match small {
            2 => pick(TEXTS).repeat(700),
            1 => format!("{}{}", pick(TEXTS), pick(TEXTS)),
            _ => pick(TEXTS),
        },
        "name" => pick(TEXTS),
        "\"char\"" => pick(&["a", "", "'", "\\"]),
        "uuid" => match small {
            0 => "00000000-0000-0000-0000-000000000000".into(),
            1 => "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11".into(),
            _ => format!("{:032x}", (any as u64 as u128) << 37 ^ any as u64 as u128),
        },
        "mood" => pick(&["sad", "ok", "it's \"so\\so\"", ""]),
        "calm" => pick(&["ok", "it's \"so\\so\"", ""]),
        "json" | "jsonb" => pick(&[
            "{}",
            "null",
            "\"\\u00e9\\n\"",
            "{\"b\" : 1,\n \"a\": [1, 2.50, true, null]}",
            "[[[[1e2]]]]",
            "-0",
            "\" \"",
        ]),
        "bytea" => pick(&["", "\\x00", "\\x0001", "\\xfffefd", "abc", "\\xdeadbeef00"]),
        "timestamptz" | "timestamptz(0)" | "timestamp" => moment(small, any, &mut pick),
        "date" => match small {
            1 => {
                pick(&["infinity", "-infinity", "5874897-12-31", "4714-11-24 BC", "0001-12-31 BC"])
            }
            2 => pick(&["2024-02-29", "0001-01-01", "9999-12-31", "10000-01-01", "1970-01-01"]),
            _ => {
                pick(&[&format!("{:04}-{:02}-{:02}", any as u16 as u32 + 1, any as u8 % 12 + 1, 7)])
            }
        },
        "time" => {
            let time = format!("12:34:{:02}.{}", any as u8 % 60, any as u16);
            pick(&["00:00", "24:00:00", "23:59:59.999999", "12:34:56.7", &time])
        }
        "timetz" => pick(&["12:34:56.7+02", "24:00:00-03:30"]),
        "interval" => pick(&["1 day 02:03:04.5", "-1 mon", "0", "1000 years"]),
        "inet" => pick(&["127.0.0.1", "10.0.0.0/8", "::1"]),
        "cidr" => pick(&["10.0.0.0/8", "192.168.1.1/32"]),
        "pair" => pick(&["(,)", "(1,)", "(1,\"a \"\"b\"\" \\\\\")", "(,x)"]),
        "int4range" => pick(&["[1,3)", "empty", "(,)"]),
        "bit(3)" => pick(&["101", "000"]),
        other => unreachable!("no samples of {other}"),
    }
}

fn moment(small: i64, any: i64, pick: &mut impl FnMut(&[&str]) -> String) -> String {
    match small {
        1 => pick(&[
            "infinity",
            "-infinity",
            "4714-11-24 00:00:00 BC",
            "294276-12-30 23:59:59.999999",
        ]),
        2 => pick(&[
            "2024-01-01 00:00:00",
            "2024-01-01 00:00:00.5",
            "2000-01-01 00:00:00",
            "1999-12-31 23:59:59.999999",
            "0001-12-31 23:59:59.000001 BC",
            "10000-01-01 00:00:00",
        ]),
        _ => {
            let (year, month, second) = (any as u16 as u32 + 1, any as u8 % 12 + 1, any as u8 % 60);
            format!("{year:04}-{month:02}-28 23:01:{second:02}.{:06}", any as u16)
        }
    }
}

/// Whether the JSON is, letter for letter, what [`expected`] gives.
pub fn is_exact(kind: &ColumnType) -> bool {
    match kind {
        ColumnType::Array(element) => is_exact(element),
        kind => matches!(kind, ColumnType::Float4 | ColumnType::Float8),
    }
}

/// The JSON of a column by the protocol's page, as an expression of type `json` or `jsonb`.
pub fn expected(column: &CatalogColumn) -> String {
    let name = quote_identifier(&column.name);
    match &column.kind {
        ColumnType::Array(element) => match scalar("item", element) {
            // Only one dimension has been generated.
            Some(item) => format!(
                "CASE WHEN {name} IS NOT NULL THEN coalesce((SELECT jsonb_agg({item} ORDER BY place) \
                 FROM unnest({name}) WITH ORDINALITY AS each(item, place)), '[]') END"
            ),
            None if matches!(**element, ColumnType::Numeric)
                || column.type_name.contains("pair") =>
            {
                format!("to_jsonb({name}::text[])")
            }
            None if is_exact(element) => format!("to_json({name})"),
            None => format!("to_jsonb({name})"),
        },
        kind => scalar(&name, kind).unwrap_or_else(|| match kind {
            // `to_jsonb` would make a string of an `oid`.
            ColumnType::Int => format!("to_jsonb({name}::int8)"),
            ColumnType::Bool | ColumnType::Json => format!("to_jsonb({name})"),
            kind if is_exact(kind) => format!("to_json({name})"),
            // As the output function prints it; `format` makes an empty text of null.
            _ => format!("CASE WHEN num_nulls({name}) = 0 THEN to_jsonb(format('%s', {name})) END"),
        }),
    }
}

/// What `to_jsonb` makes something else of.
fn scalar(name: &str, kind: &ColumnType) -> Option<String> {
    let text = match kind {
        ColumnType::Bytea => format!("translate(encode({name}, 'base64'), E'\\n', '')"),
        ColumnType::TimestampTz => iso(name, &format!("{} || 'Z'", clock(name))),
        ColumnType::Timestamp => iso(name, &clock(name)),
        ColumnType::Date => iso(name, "''"),
        _ => return None,
    };
    Some(format!("to_jsonb({text})"))
}

fn clock(name: &str) -> String {
    format!("to_char({name}, '\"T\"HH24:MI:SS') || rtrim(rtrim(to_char({name}, '.US'), '0'), '.')")
}

fn iso(name: &str, rest: &str) -> String {
    let part = |part: &str| format!("extract({part} FROM {name})");
    // Postgres has no year 0, ISO 8601 has.
    let year = format!("({0} + CASE WHEN {0} < 0 THEN 1 ELSE 0 END)", part("year"));
    let digits = format!("abs({year})::text");
    let two = |digits: String| format!("'-' || lpad({digits}::text, 2, '0')");
    let (month, day) = (two(part("month")), two(part("day")));
    format!(
        "CASE WHEN NOT isfinite({name}) THEN {name}::text ELSE \
         CASE WHEN {year} BETWEEN 1 AND 9999 THEN lpad({digits}, 4, '0') \
         ELSE CASE WHEN {year} < 0 THEN '-' ELSE '+' END \
              || lpad({digits}, greatest(6, length({digits})), '0') END \
         || {month} || {day} || {rest} END"
    )
}

/// Numbers by their value: `-0`, `1e2` and `100.0` are whole numbers.
pub fn plain(json: Json) -> Json {
    match json {
        Json::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => {
                (float as i64).into()
            }
            _ => Json::Number(number),
        },
        Json::Array(items) => items.into_iter().map(plain).collect(),
        Json::Object(fields) => {
            fields.into_iter().map(|(name, item)| (name, plain(item))).collect()
        }
        other => other,
    }
}
