//! Random DDL: what an application's migrations do, what an operator does by mistake, and how that is mended.

use rand::Rng;
use rand::seq::IndexedRandom;
use rowtide_plan::sql::{quote_identifier, quote_table};

use crate::schema::{column, some_value};
use crate::world::World;

/// What is done to a database.
pub(crate) struct Change {
    pub(crate) what: &'static str,
    pub(crate) sql: String,
    /// What takes it back, for what keeps a table or everything from being served.
    pub(crate) mend: Option<String>,
}

fn change(what: &'static str, sql: String) -> Change {
    Change { what, sql, mend: None }
}

fn until_mended(what: &'static str, sql: String, mend: String) -> Change {
    Change { what, sql, mend: Some(mend) }
}

impl World {
    /// What is done next.
    pub(crate) async fn change(&mut self) -> Option<Change> {
        let number = self.rng.random_range(0..self.tables.len());
        let table = self.tables[number].clone();
        let (name, id) = (table.sql(), table.id());
        let names = self.app.database.names();
        let publication = quote_identifier(&names.publication);
        self.changes += 1;
        let fresh = format!("x{}", self.changes);
        let owner = quote_identifier(&table.owner);
        // Columns that neither a rule nor the key names.
        let columns = self.columns(number).await;
        let parent = table.parent.as_ref().map(|(name, _)| name.clone());
        let free: Vec<_> = columns
            .iter()
            .filter(|column| {
                let name = &column.name;
                !table.key.contains(name)
                    && *name != table.owner
                    && !name.to_lowercase().contains("flag")
                    && parent.as_ref() != Some(name)
            })
            .cloned()
            .collect();
        let some = free.choose(&mut self.rng).map(|column| quote_identifier(&column.name));
        let all =
            || self.tables.iter().map(crate::schema::Table::sql).collect::<Vec<_>>().join(", ");
        Some(match self.rng.random_range(0..44) {
            0..=3 => {
                let column = column(&mut self.rng, &table.owner);
                change("columns added", format!("ALTER TABLE {name} ADD {fresh} {column}"))
            }
            4 => change("columns dropped", format!("ALTER TABLE {name} DROP {}", some?)),
            5 => {
                change("columns renamed", format!("ALTER TABLE {name} RENAME {} TO {fresh}", some?))
            }
            6 => {
                let column = some?;
                let to = ["text", "jsonb", "varchar"].choose(&mut self.rng).unwrap();
                let using = if *to == "jsonb" {
                    format!("to_jsonb({column})")
                } else {
                    format!("{column}::{to}")
                };
                change(
                    "types altered",
                    format!(
                        "ALTER TABLE {name} ALTER {column} DROP DEFAULT, ALTER {column} TYPE {to} USING {using}"
                    ),
                )
            }
            7 => {
                let column = free.choose(&mut self.rng)?.clone();
                let value = some_value(&mut self.rng, column.kind());
                change(
                    "defaults set",
                    format!("ALTER TABLE {name} ALTER {} SET DEFAULT {value}", some?),
                )
            }
            8 => change("labels added", format!("ALTER TYPE mood ADD VALUE '{fresh}' BEFORE 'ok'")),
            9 => change(
                "labels renamed",
                format!(
                    "ALTER TYPE mood RENAME VALUE 'ok' TO '{fresh}'; ALTER TYPE mood RENAME VALUE 'sad' TO 'ok'; ALTER TYPE mood RENAME VALUE '{fresh}' TO 'sad'"
                ),
            ),
            10 => change(
                "attributes added",
                format!("ALTER TYPE pair ADD ATTRIBUTE {fresh} text CASCADE"),
            ),
            11 => change(
                "constraints added",
                format!(
                    "ALTER TABLE {name} ADD CONSTRAINT {fresh} CHECK ({id} IS NOT NULL) NOT VALID"
                ),
            ),
            12 => change("indexes made", format!("CREATE INDEX {fresh} ON {name} ({owner})")),
            13 => change("tables rewritten", format!("VACUUM FULL {name}")),
            14 => change("tables without rows", format!("BEGIN; TRUNCATE {name} CASCADE; COMMIT")),
            15 => change(
                "domains altered",
                "ALTER DOMAIN positive DROP CONSTRAINT IF EXISTS positive_check".to_owned(),
            ),
            16 => change(
                "storage altered",
                format!("ALTER TABLE {name} ALTER {} SET STORAGE EXTERNAL", some?),
            ),
            17 => {
                let set = [
                    "DateStyle = 'German'",
                    "TimeZone = 'Asia/Kathmandu'",
                    "extra_float_digits = -9",
                    "bytea_output = escape",
                    "IntervalStyle = sql_standard",
                    "search_path = s2",
                    "default_transaction_isolation = serializable",
                    "row_security = off",
                ]
                .choose(&mut self.rng)
                .unwrap();
                change(
                    "settings of the database",
                    format!("ALTER DATABASE {} SET {set}", self.app.database.name()),
                )
            }
            18 => change(
                "writes beside DDL in one transaction",
                format!(
                    "BEGIN; UPDATE {name} SET {owner} = 'bob'; ALTER TABLE {name} ADD {fresh} int DEFAULT 7; UPDATE {name} SET {owner} = 'ann' WHERE {fresh} = 7; COMMIT"
                ),
            ),
            19 => change(
                "DDL that is rolled back",
                format!(
                    "BEGIN; ALTER TABLE {name} RENAME TO {fresh}; ALTER TABLE {} DROP {owner}; ROLLBACK",
                    quote_table(&table.name.schema, &fresh)
                ),
            ),
            20 => change(
                "tables made anew",
                format!(
                    "BEGIN; CREATE TABLE {fresh} (LIKE {name} INCLUDING ALL); INSERT INTO {fresh} OVERRIDING SYSTEM VALUE SELECT {list} FROM {name}; DROP TABLE {name}; \
                 ALTER TABLE {fresh} SET SCHEMA {schema}; ALTER TABLE {schema}.{fresh} RENAME TO {bare}; \
                 ALTER TABLE {name} REPLICA IDENTITY FULL; ALTER PUBLICATION {publication} ADD TABLE {name}; COMMIT",
                    schema = quote_identifier(&table.name.schema),
                    bare = quote_identifier(&table.name.name),
                    list = "*",
                ),
            ),
            21 => until_mended(
                "tables renamed",
                format!("ALTER TABLE {name} RENAME TO {fresh}"),
                format!(
                    "ALTER TABLE {} RENAME TO {}",
                    quote_table(&table.name.schema, &fresh),
                    quote_identifier(&table.name.name)
                ),
            ),
            22 => until_mended(
                "tables in another schema",
                format!("CREATE SCHEMA {fresh}; ALTER TABLE {name} SET SCHEMA {fresh}"),
                format!(
                    "ALTER TABLE {} SET SCHEMA {}",
                    quote_table(&fresh, &table.name.name),
                    quote_identifier(&table.name.schema)
                ),
            ),
            23 => until_mended(
                "columns of rules renamed",
                format!("ALTER TABLE {name} RENAME {owner} TO {fresh}"),
                format!("ALTER TABLE {name} RENAME {fresh} TO {owner}"),
            ),
            24 | 25 => until_mended(
                "tables taken out of the publication",
                format!("ALTER PUBLICATION {publication} DROP TABLE {name}"),
                String::new(),
            ),
            26 => until_mended(
                "tables published in part",
                format!(
                    "ALTER PUBLICATION {publication} DROP TABLE {name}; ALTER PUBLICATION {publication} ADD TABLE {name} WHERE ({owner} = 'ann')"
                ),
                format!("ALTER PUBLICATION {publication} DROP TABLE {name}"),
            ),
            27 => until_mended(
                "operations not published",
                format!("ALTER PUBLICATION {publication} SET (publish = 'insert, update')"),
                format!(
                    "ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete, truncate')"
                ),
            ),
            28 => until_mended(
                "publications dropped",
                format!("DROP PUBLICATION {publication}"),
                String::new(),
            ),
            29 | 30 => {
                let identity = ["DEFAULT", "NOTHING"].choose(&mut self.rng).unwrap();
                until_mended(
                    "identities altered",
                    format!("ALTER TABLE {name} REPLICA IDENTITY {identity}"),
                    format!("ALTER TABLE {name} REPLICA IDENTITY FULL"),
                )
            }
            31 => until_mended(
                "row-level security",
                format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"),
                format!(
                    "ALTER TABLE {name} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY"
                ),
            ),
            32 => until_mended(
                "tables unlogged",
                format!("ALTER TABLE {name} SET UNLOGGED"),
                format!("ALTER TABLE {name} SET LOGGED"),
            ),
            33 => {
                let part = table.partitions.choose(&mut self.rng)?.clone();
                let (part, place) = (
                    quote_table(&part.schema, &part.name),
                    table.partitions.iter().position(|p| *p == part)?,
                );
                until_mended(
                    "partitions detached",
                    format!("ALTER TABLE {name} DETACH PARTITION {part}"),
                    format!(
                        "ALTER TABLE {name} ATTACH PARTITION {part} FOR VALUES WITH (MODULUS 2, REMAINDER {place})"
                    ),
                )
            }
            34 => change(
                "rows of two tables swapped",
                format!(
                    "BEGIN; UPDATE {name} SET {owner} = CASE {owner} WHEN 'ann' THEN 'bob' ELSE 'ann' END; COMMIT"
                ),
            ),
            35 => until_mended(
                "tables that inherit",
                format!(
                    "CREATE TABLE {fresh} () INHERITS ({name}); INSERT INTO {fresh} SELECT * FROM ONLY {name}"
                ),
                format!("DROP TABLE {fresh}"),
            ),
            36 => change(
                "publications of more tables",
                format!(
                    "CREATE TABLE {fresh} (id int PRIMARY KEY); ALTER PUBLICATION {publication} ADD TABLE {fresh}; INSERT INTO {fresh} VALUES (1)"
                ),
            ),
            37 => change(
                "other publications",
                format!("CREATE PUBLICATION {fresh}_{} FOR TABLE {}", names.slot, all()),
            ),
            38 => change(
                "comments",
                format!("COMMENT ON TABLE {name} IS 'x'; COMMENT ON COLUMN {name}.{id} IS 'y'"),
            ),
            39 => change(
                "statistics",
                format!("ANALYZE {name}; ALTER TABLE {name} SET (fillfactor = 50)"),
            ),
            40 => change(
                "rules",
                format!(
                    "CREATE OR REPLACE RULE r AS ON DELETE TO {name} WHERE old.{owner} = 'nobody' DO INSTEAD NOTHING"
                ),
            ),
            41 => change(
                "columns not null",
                format!(
                    "UPDATE {name} SET {owner} = 'bob' WHERE {owner} IS NULL; ALTER TABLE {name} ALTER {owner} SET NOT NULL"
                ),
            ),
            42 => change(
                "views over it",
                format!("CREATE OR REPLACE VIEW v AS SELECT {id} AS a FROM {name}"),
            ),
            _ => change(
                "locks",
                format!(
                    "BEGIN; LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE; UPDATE {name} SET {owner} = {owner}; COMMIT"
                ),
            ),
        })
    }
}
