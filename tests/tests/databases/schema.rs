//! Random tables, and rules over them.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rowtide_plan::catalog::TableName;
use rowtide_plan::sql::{quote_identifier, quote_table};
use rowtide_tests::samples::{self, COLUMNS};

/// A table of the definition. Its names are those of the definition, whatever it is called at the moment.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) name: TableName,
    pub(crate) key: Vec<String>,
    pub(crate) key_type: &'static str,
    /// Whether a foreign key can name it.
    pub(crate) referable: bool,
    /// The column that says whose row it is.
    pub(crate) owner: String,
    /// A column that names a row of another table, and which.
    pub(crate) parent: Option<(String, usize)>,
    /// As the definition writes it.
    pub(crate) visible: String,
    /// Its partitions.
    pub(crate) partitions: Vec<TableName>,
    /// Which rows each of them has, as it was made.
    pub(crate) bounds: Vec<String>,
    /// Whether they are ranges of its key, from [`MADE_FROM`] on not taken yet.
    pub(crate) ranged: bool,
}

/// Where the ranges begin that partitions may be made of later.
const MADE_FROM: u32 = 2000;

impl Table {
    /// Its name in SQL.
    pub(crate) fn sql(&self) -> String {
        quote_table(&self.name.schema, &self.name.name)
    }

    /// Its name in the definition and for clients.
    pub(crate) fn wire(&self) -> String {
        let TableName { schema, name } = &self.name;
        if schema == "public" { name.clone() } else { format!("{schema}.{name}") }
    }

    /// The one column of its key that others may name.
    pub(crate) fn id(&self) -> String {
        quote_identifier(&self.key[0])
    }
}

/// Names that ask for trouble.
const NAMES: &[&str] = &[
    "item",
    "Item",
    "select",
    "we\"ird",
    "naïve",
    "ta ble",
    "user",
    "it's",
    "a_name_that_is_as_long_as_a_name_can_be_in_postgres_and_no_longe",
];
const SCHEMAS: &[&str] = &["public", "public", "public", "s2", "Odd \"one\""];
pub(crate) const KEY_TYPES: &[&str] = &["int4", "int8", "text", "uuid"];

fn any<T: Clone>(rng: &mut SmallRng, all: &[T]) -> T {
    all.choose(rng).expect("there is something to choose from").clone()
}

fn odd(rng: &mut SmallRng, plain: &str) -> String {
    match rng.random_range(0..6) {
        0 => format!("{plain} {plain}"),
        1 => format!("{}\"{plain}", plain.to_uppercase()),
        2 => format!("{plain}'é"),
        _ => plain.to_owned(),
    }
}

/// A value that is not null.
pub(crate) fn some_value(rng: &mut SmallRng, kind: &str) -> String {
    loop {
        let value = samples::value(rng, kind);
        if value != "NULL" {
            return value;
        }
    }
}

/// A random kind of column, with what follows its name.
pub(crate) fn column(rng: &mut SmallRng, owner: &str) -> String {
    let (_, kind) = any(rng, COLUMNS);
    match rng.random_range(0..12) {
        0 => format!("{kind} NOT NULL DEFAULT {}", some_value(rng, kind)),
        1 => format!("{kind} DEFAULT {}", samples::value(rng, kind)),
        2 => "float8 DEFAULT random()".to_owned(),
        3 => "bigint GENERATED ALWAYS AS IDENTITY".to_owned(),
        4 => format!("text GENERATED ALWAYS AS (upper({})) STORED", quote_identifier(owner)),
        5 => "varchar(8) COLLATE \"C\" CHECK (true)".to_owned(),
        _ => kind.to_owned(),
    }
}

/// Some tables, and the SQL that makes them. What it makes need not all be served.
pub(crate) fn schema(rng: &mut SmallRng, version: i32) -> (Vec<Table>, String) {
    let mut sql = samples::SCHEMA.to_owned();
    for schema in SCHEMAS {
        sql += &format!("CREATE SCHEMA IF NOT EXISTS {};\n", quote_identifier(schema));
    }
    let mut tables = Vec::new();
    for number in 0..rng.random_range(2..=4) {
        let (table, made) = table(rng, number, &tables, version);
        sql += &made;
        tables.push(table);
    }
    (tables, sql)
}

fn table(rng: &mut SmallRng, number: usize, others: &[Table], version: i32) -> (Table, String) {
    let name = format!("{number}{}", any(rng, NAMES));
    let schema = any(rng, SCHEMAS).to_owned();
    let name = TableName { schema, name: name.chars().take(50).collect() };
    let (owner, flag) = (odd(rng, "owner"), odd(rng, "flag"));
    let key_type = any(rng, KEY_TYPES);
    let mut key = vec![odd(rng, "id")];
    let parent =
        others.iter().position(|_| rng.random_bool(0.6)).map(|of| (odd(rng, "parent"), of));
    let partitioned = rng.random_bool(0.25);
    let mut parts = vec![
        format!("{} {key_type} NOT NULL", quote_identifier(&key[0])),
        format!("{} text", quote_identifier(&owner)),
        format!("{} bool NOT NULL DEFAULT false", quote_identifier(&flag)),
    ];
    if rng.random_bool(0.2) {
        key.push("part".to_owned());
        parts.push("part text NOT NULL DEFAULT 'x'".to_owned());
    }
    if let Some((column, of)) = &parent {
        let other = &others[*of];
        let mut part = format!("{} {}", quote_identifier(column), other.key_type);
        if other.referable && rng.random_bool(0.3) {
            let action = any(rng, &["CASCADE", "SET NULL", "NO ACTION"]);
            let when = any(rng, &["", "", " DEFERRABLE INITIALLY DEFERRED"]);
            let other = other.sql();
            part += &format!(" REFERENCES {other} ON DELETE {action} ON UPDATE CASCADE{when}");
        }
        parts.push(part);
    }
    for extra in 0..rng.random_range(1..=5) {
        let name = odd(rng, &format!("c{extra}"));
        parts.push(format!("{} {}", quote_identifier(&name), column(rng, &owner)));
    }
    if version >= 18 && rng.random_bool(0.08) {
        let owner = quote_identifier(&owner);
        parts.push(format!("shouted text GENERATED ALWAYS AS (upper({owner})) VIRTUAL"));
    }
    let columns: Vec<String> = key.iter().map(|name| quote_identifier(name)).collect();
    let columns = columns.join(", ");
    let quoted = quote_table(&name.schema, &name.name);
    let mut after = String::new();
    let kind_of_key = rng.random_range(0..14);
    match kind_of_key {
        12 if version >= 18 && !partitioned => {
            parts.push("during int4range NOT NULL DEFAULT '[1,2)'".to_owned());
            parts.push("of_what int4range NOT NULL DEFAULT '[1,2)'".to_owned());
            parts.push("PRIMARY KEY (of_what, during WITHOUT OVERLAPS)".to_owned());
        }
        0 => after += &format!("CREATE UNIQUE INDEX ON {quoted} ({columns});\n"),
        1 => parts.push(format!("PRIMARY KEY ({columns}) DEFERRABLE")),
        _ => parts.push(format!("PRIMARY KEY ({columns})")),
    }
    let (mut partitions, mut bounds) = (Vec::new(), Vec::new());
    let ranged = partitioned && key_type.starts_with("int") && rng.random_bool(0.7);
    let mut made = format!("CREATE TABLE {quoted} ({})", parts.join(", "));
    if partitioned {
        let by = if ranged { "RANGE" } else { "HASH" };
        made += &format!(" PARTITION BY {by} ({})", quote_identifier(&key[0]));
        bounds = if ranged {
            vec![
                "FOR VALUES FROM (MINVALUE) TO (6)".to_owned(),
                format!("FOR VALUES FROM (6) TO ({MADE_FROM})"),
            ]
        } else {
            (0..2).map(|part| format!("FOR VALUES WITH (MODULUS 2, REMAINDER {part})")).collect()
        };
        for (part, bounds) in bounds.iter().enumerate() {
            let name =
                TableName { schema: name.schema.clone(), name: format!("{}_{part}", name.name) };
            let part = quote_table(&name.schema, &name.name);
            after += &format!("CREATE TABLE {part} PARTITION OF {quoted} {bounds};\n");
            partitions.push(name);
        }
    } else {
        match rng.random_range(0..20) {
            0 => made = made.replacen("CREATE TABLE", "CREATE UNLOGGED TABLE", 1),
            1 => after += &format!("CREATE TABLE kid{number} () INHERITS ({quoted});\n"),
            _ => {}
        }
    }
    if rng.random_bool(0.2) {
        let elsewhere = if name.schema == "s2" { "public" } else { "s2" };
        let decoy = quote_table(elsewhere, &name.name);
        after += &format!("CREATE TABLE IF NOT EXISTS {decoy} (LIKE {quoted} INCLUDING ALL);\n");
    }
    if rng.random_bool(0.2) {
        after +=
            &trigger(rng, number, &quoted, &quote_identifier(&owner), &quote_identifier(&flag));
    }
    let (o, f) = (quote_identifier(&owner), quote_identifier(&flag));
    let mine = format!("{o} = auth.user_id");
    let visible = match (&parent, rng.random_range(0..5)) {
        (_, 0) => "true".to_owned(),
        (Some((column, of)), 1..=3) => {
            let other = &others[*of];
            let inner = format!(
                "{} IN (SELECT {} FROM {} WHERE {} = auth.user_id)",
                quote_identifier(column),
                other.id(),
                other.sql(),
                quote_identifier(&other.owner),
            );
            if rng.random_bool(0.4) { format!("{mine} OR {inner}") } else { inner }
        }
        (_, 4) => format!("{mine} OR {f}"),
        _ => mine,
    };
    let unlogged = made.contains("UNLOGGED");
    let referable = kind_of_key > 1 && kind_of_key != 12 && key.len() == 1 && !unlogged;
    let table = Table {
        name,
        key,
        key_type,
        referable,
        owner,
        parent,
        visible,
        partitions,
        bounds,
        ranged,
    };
    (table, format!("{made};\n{after}"))
}

/// One that writes other things than the statement says.
fn trigger(rng: &mut SmallRng, number: usize, table: &str, owner: &str, flag: &str) -> String {
    let body = match rng.random_range(0..3) {
        0 => format!("NEW.{flag} := NOT coalesce(NEW.{flag}, false); RETURN NEW;"),
        1 => format!("IF NEW.{owner} IS NULL THEN RETURN NULL; END IF; RETURN NEW;"),
        _ => format!(
            "IF pg_trigger_depth() < 2 THEN UPDATE {table} SET {flag} = true WHERE {owner} = 'bob' AND NOT {flag}; \
             END IF; RETURN NEW;"
        ),
    };
    format!(
        "CREATE FUNCTION f{number}() RETURNS trigger LANGUAGE plpgsql AS $f$BEGIN {body} END$f$;\n\
         CREATE TRIGGER g{number} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION f{number}();\n"
    )
}
