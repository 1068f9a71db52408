//! Random writes: whatever columns a table has at the moment, in statements and transactions of every form.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rowtide_plan::sql::quote_identifier;
use rowtide_tests::samples::{self, COLUMNS};

use crate::schema::some_value;
use crate::world::World;

/// A column as it is now.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// As in [`COLUMNS`].
    kind: String,
    not_null: bool,
}

/// The name of a type in [`COLUMNS`] for what `format_type` says.
fn short(kind: &str) -> String {
    let (element, array) = kind.strip_suffix("[]").map_or((kind, ""), |element| (element, "[]"));
    let short = match element {
        "boolean" => "bool",
        "smallint" => "int2",
        "integer" => "int4",
        "bigint" => "int8",
        "real" => "float4",
        "double precision" => "float8",
        "character varying" => "varchar",
        "character varying(3)" => "varchar(3)",
        "character varying(8)" => "varchar(3)",
        "character(3)" => "char(3)",
        "timestamp with time zone" => "timestamptz",
        "timestamp(0) with time zone" => "timestamptz(0)",
        "timestamp without time zone" => "timestamp",
        "time without time zone" => "time",
        "time with time zone" => "timetz",
        other => other,
    };
    format!("{short}{array}")
}

impl World {
    /// The columns of a table that can be written.
    pub(crate) async fn columns(&self, table: usize) -> Vec<Column> {
        let sql = "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute \
                   WHERE attrelid = to_regclass($1::text) AND attnum > 0 AND NOT attisdropped \
                   AND attgenerated = '' AND attidentity <> 'a' ORDER BY attnum";
        let rows = self.sql.query(sql, &[&self.tables[table].sql()]).await.unwrap_or_default();
        let column = |row: &tokio_postgres::Row| Column {
            name: row.get(0),
            kind: short(row.get(1)),
            not_null: row.get(2),
        };
        let columns = rows.iter().map(column);
        let known = |column: &Column| {
            COLUMNS.iter().any(|(_, kind)| *kind == column.kind)
                || column.kind.strip_suffix("[]").is_some()
        };
        columns.filter(known).collect()
    }

    fn value(&mut self, table: usize, column: &Column) -> String {
        let of = self.tables[table].clone();
        if column.name == of.owner {
            return ["'ann'", "'ann'", "'bob'", "NULL"].choose(&mut self.rng).unwrap().to_string();
        }
        if of.key.contains(&column.name) {
            let small = self.rng.random_range(0..12);
            return match column.kind.as_str() {
                "text" => format!("'{}'", ["a", "b", "c d", "é", "'' \"", "A"][small % 6]),
                "uuid" => format!("'00000000-0000-0000-0000-{small:012}'"),
                "int4" | "int8" => small.to_string(),
                kind => some_value(&mut self.rng, kind),
            };
        }
        if let Some((name, other)) = &of.parent
            && *name == column.name
        {
            let other = &self.tables[*other];
            return format!(
                "(SELECT {} FROM {} ORDER BY random() LIMIT 1)",
                other.id(),
                other.sql()
            );
        }
        if column.not_null {
            some_value(&mut self.rng, &column.kind)
        } else {
            samples::value(&mut self.rng, &column.kind)
        }
    }

    fn insert(&mut self, table: usize, columns: &[Column]) -> String {
        let names: Vec<String> = columns.iter().map(|c| quote_identifier(&c.name)).collect();
        let name = self.tables[table].sql();
        let mut rows = Vec::new();
        for _ in 0..self.rng.random_range(1..8) {
            let values: Vec<String> = columns.iter().map(|c| self.value(table, c)).collect();
            rows.push(format!("({})", values.join(", ")));
        }
        let key: Vec<String> =
            self.tables[table].key.iter().map(|name| quote_identifier(name)).collect();
        let conflict = match self.rng.random_range(0..3) {
            0 => String::new(),
            1 => " ON CONFLICT DO NOTHING".to_owned(),
            _ => {
                rows.truncate(1);
                let sets: Vec<String> =
                    names.iter().map(|name| format!("{name} = excluded.{name}")).collect();
                format!(" ON CONFLICT ({}) DO UPDATE SET {}", key.join(", "), sets.join(", "))
            }
        };
        format!("INSERT INTO {name} ({}) VALUES {}{conflict}", names.join(", "), rows.join(", "))
    }

    fn some_rows(&mut self, table: usize) -> String {
        let of = &self.tables[table];
        let (name, id, owner) = (of.sql(), of.id(), quote_identifier(&of.owner));
        match self.rng.random_range(0..5) {
            0 => String::new(),
            1 => format!(" WHERE {owner} = 'ann'"),
            2 => " WHERE random() < 0.4".to_owned(),
            _ => format!(" WHERE {id} = (SELECT {id} FROM {name} ORDER BY random() LIMIT 1)"),
        }
    }

    /// One random statement over a table; `None` if it is not there.
    pub(crate) async fn statement(&mut self, table: usize) -> Option<(&'static str, String)> {
        let mut columns = self.columns(table).await;
        if columns.is_empty() {
            return None;
        }
        let of = self.tables[table].clone();
        let name = of.sql();
        let id = of.id();
        Some(match self.rng.random_range(0..20) {
            0..=7 => ("inserts", self.insert(table, &columns)),
            8..=12 => {
                columns.retain(|column| !of.key.contains(&column.name));
                columns.shuffle(&mut self.rng);
                columns.truncate(self.rng.random_range(1..=3));
                let sets: Vec<String> = columns
                    .iter()
                    .map(|c| format!("{} = {}", quote_identifier(&c.name), self.value(table, c)))
                    .collect();
                if sets.is_empty() {
                    return None;
                }
                let rows = self.some_rows(table);
                ("updates", format!("UPDATE {name} SET {}{rows}", sets.join(", ")))
            }
            13 => {
                let key = columns.iter().find(|column| column.name == of.key[0]).cloned()?;
                let value = self.value(table, &key);
                let one = format!("(SELECT {id} FROM {name} ORDER BY random() LIMIT 1)");
                ("updates of keys", format!("UPDATE {name} SET {id} = {value} WHERE {id} = {one}"))
            }
            14 if of.key_type.starts_with("int") => {
                ("updates of all keys", format!("UPDATE {name} SET {id} = {id} + 1"))
            }
            15 => ("updates that change nothing", format!("UPDATE {name} SET {id} = {id}")),
            16 | 17 => {
                let rows = self.some_rows(table);
                ("deletes", format!("DELETE FROM {name}{rows}"))
            }
            18 if self.rng.random_bool(0.4) => ("truncates", format!("TRUNCATE {name} CASCADE")),
            18 if self.rng.random_bool(0.3) => ("truncates", format!("TRUNCATE ONLY {name}")),
            _ if of.key_type.starts_with("int") => {
                let owner = quote_identifier(&of.owner);
                let sql = format!(
                    "INSERT INTO {name} ({id}, {owner}) SELECT n, CASE n % 3 WHEN 0 THEN 'bob' ELSE 'ann' END \
                     FROM generate_series(1000, 1600) n ON CONFLICT DO NOTHING"
                );
                ("inserts of many", sql)
            }
            _ => ("deletes of all", format!("DELETE FROM {name}")),
        })
    }

    /// A transaction over any tables.
    pub(crate) async fn write(&mut self) {
        let mut sql = String::new();
        let mut kinds = Vec::new();
        let settings = [
            "session_replication_role = replica",
            "synchronous_commit = off",
            "DateStyle = 'SQL, DMY'",
            "TimeZone = 'Asia/Tokyo'",
            "extra_float_digits = -3",
            "bytea_output = escape",
            "search_path = s2, public",
            "IntervalStyle = iso_8601",
        ];
        if self.rng.random_bool(0.2) {
            sql += &format!("SET LOCAL {};\n", settings.choose(&mut self.rng).unwrap());
        }
        for _ in 0..self.rng.random_range(1..=4) {
            let table = self.rng.random_range(0..self.tables.len());
            let Some((kind, statement)) = self.statement(table).await else { continue };
            match self.rng.random_range(0..8) {
                0 => sql += &format!("SAVEPOINT a;\n{statement};\nROLLBACK TO a;\n"),
                1 => sql += &format!("SAVEPOINT a;\n{statement};\nRELEASE a;\n"),
                _ => {
                    sql += &format!("{statement};\n");
                    kinds.push(kind);
                }
            }
        }
        let (what, taken) = match self.rng.random_range(0..10) {
            0 => {
                self.prepared += 1;
                let name = format!("{}_{}", self.app.database.name(), self.prepared);
                let taken = self.run(&format!("BEGIN;\n{sql}PREPARE TRANSACTION '{name}'")).await;
                if taken {
                    // Others write meanwhile.
                    let table = self.rng.random_range(0..self.tables.len());
                    if let Some((_, other)) = self.statement(table).await {
                        self.run(&format!("SET lock_timeout = 50; {other}")).await;
                        self.run("RESET lock_timeout").await;
                    }
                    let end = if self.rng.random_bool(0.7) { "COMMIT" } else { "ROLLBACK" };
                    self.run(&format!("{end} PREPARED '{name}'")).await;
                }
                ("prepared transactions", taken)
            }
            1 => (
                "transactions that are rolled back",
                self.run(&format!("BEGIN;\n{sql}ROLLBACK")).await,
            ),
            _ => ("transactions", self.run(&format!("BEGIN;\n{sql}COMMIT")).await),
        };
        self.seen.note(what, taken);
        kinds.into_iter().for_each(|kind| self.seen.note(kind, taken));
    }

    /// Takes all rows of a table out and puts them in again with `COPY`.
    pub(crate) async fn copy(&mut self) {
        use futures_util::{SinkExt, TryStreamExt};
        let table = self.rng.random_range(0..self.tables.len());
        let columns = self.columns(table).await;
        let names: Vec<String> = columns.iter().map(|c| quote_identifier(&c.name)).collect();
        let (name, names) = (self.tables[table].sql(), names.join(", "));
        let copied = async {
            let out =
                self.sql.copy_out(&format!("COPY (SELECT {names} FROM {name}) TO STDOUT")).await?;
            let rows: Vec<bytes::Bytes> = out.try_collect().await?;
            self.sql.batch_execute(&format!("BEGIN; DELETE FROM {name}")).await?;
            let sink = self.sql.copy_in(&format!("COPY {name} ({names}) FROM STDIN")).await?;
            let mut sink = Box::pin(sink);
            for row in rows {
                sink.send(row).await?;
            }
            sink.as_mut().finish().await?;
            self.sql.batch_execute("COMMIT").await
        };
        let copied: Result<(), tokio_postgres::Error> = copied.await;
        if copied.is_err() {
            drop(self.sql.batch_execute("ROLLBACK").await);
        }
        self.say(&format!("COPY of {name}: {copied:?}"));
        self.seen.note("copies", copied.is_ok());
    }
}

impl Column {
    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }
}
