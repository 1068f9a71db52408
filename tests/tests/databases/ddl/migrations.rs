//! What else an application's migrations do, and an operator by hand.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rowtide_plan::sql::{quote_identifier, quote_table};

use super::{Change, Place, change as plain, until_mended};
use crate::schema::some_value;

pub(super) fn change(at: &Place, rng: &mut SmallRng) -> Option<Change> {
    let Place { table, name, id, owner, publication, fresh, .. } = at;
    let some = at.some(rng);
    Some(match rng.random_range(4..44) {
        4 => plain("columns dropped", format!("ALTER TABLE {name} DROP {}", some?)),
        5 => plain("columns renamed", format!("ALTER TABLE {name} RENAME {} TO {fresh}", some?)),
        6 => {
            let column = some?;
            let to = ["text", "jsonb", "varchar"].choose(rng).unwrap();
            let using = if *to == "jsonb" {
                format!("to_jsonb({column})")
            } else {
                format!("{column}::{to}")
            };
            plain(
                "types altered",
                format!(
                    "ALTER TABLE {name} ALTER {column} DROP DEFAULT, ALTER {column} TYPE {to} USING {using}"
                ),
            )
        }
        7 => {
            let column = at.free.choose(rng)?.clone();
            let value = some_value(rng, column.kind());
            plain("defaults set", format!("ALTER TABLE {name} ALTER {} SET DEFAULT {value}", some?))
        }
        8 => plain("labels added", format!("ALTER TYPE mood ADD VALUE '{fresh}' BEFORE 'ok'")),
        9 => plain(
            "labels renamed",
            format!(
                "ALTER TYPE mood RENAME VALUE 'ok' TO '{fresh}'; ALTER TYPE mood RENAME VALUE 'sad' TO 'ok'; ALTER TYPE mood RENAME VALUE '{fresh}' TO 'sad'"
            ),
        ),
        10 => {
            plain("attributes added", format!("ALTER TYPE pair ADD ATTRIBUTE {fresh} text CASCADE"))
        }
        11 => plain(
            "constraints added",
            format!("ALTER TABLE {name} ADD CONSTRAINT {fresh} CHECK ({id} IS NOT NULL) NOT VALID"),
        ),
        12 => plain("indexes made", format!("CREATE INDEX {fresh} ON {name} ({owner})")),
        13 => plain("tables rewritten", format!("VACUUM FULL {name}")),
        14 => plain("tables without rows", format!("BEGIN; TRUNCATE {name} CASCADE; COMMIT")),
        15 => plain(
            "domains altered",
            "ALTER DOMAIN positive DROP CONSTRAINT IF EXISTS positive_check".to_owned(),
        ),
        16 => plain(
            "storage altered",
            format!("ALTER TABLE {name} ALTER {} SET STORAGE EXTERNAL", some?),
        ),
        18 => plain(
            "writes beside DDL in one transaction",
            format!(
                "BEGIN; UPDATE {name} SET {owner} = 'bob'; ALTER TABLE {name} ADD {fresh} int DEFAULT 7; UPDATE {name} SET {owner} = 'ann' WHERE {fresh} = 7; COMMIT"
            ),
        ),
        19 => plain(
            "DDL that is rolled back",
            format!(
                "BEGIN; ALTER TABLE {name} RENAME TO {fresh}; ALTER TABLE {} DROP {owner}; ROLLBACK",
                at.beside(fresh)
            ),
        ),
        20 => plain(
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
                at.beside(fresh),
                quote_identifier(&table.name.name)
            ),
        ),
        22 => until_mended(
            "tables in another schema",
            format!("CREATE SCHEMA {fresh}; ALTER TABLE {name} SET SCHEMA {fresh}"),
            format!(
                "ALTER TABLE {} SET SCHEMA {}",
                quote_table(fresh, &table.name.name),
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
            let identity = ["DEFAULT", "NOTHING"].choose(rng).unwrap();
            until_mended(
                "identities altered",
                format!("ALTER TABLE {name} REPLICA IDENTITY {identity}"),
                format!("ALTER TABLE {name} REPLICA IDENTITY FULL"),
            )
        }
        31 => until_mended(
            "row-level security",
            format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"),
            format!("ALTER TABLE {name} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY"),
        ),
        32 => until_mended(
            "tables unlogged",
            format!(
                "ALTER PUBLICATION {publication} DROP TABLE {name}; ALTER TABLE {name} SET UNLOGGED"
            ),
            format!("ALTER TABLE {name} SET LOGGED"),
        ),
        33 => {
            let part = table.partitions.choose(rng)?.clone();
            let bounds = &table.bounds[table.partitions.iter().position(|p| *p == part)?];
            let part = quote_table(&part.schema, &part.name);
            until_mended(
                "partitions detached",
                format!("ALTER TABLE {name} DETACH PARTITION {part}"),
                format!("ALTER TABLE {name} ATTACH PARTITION {part} {bounds}"),
            )
        }
        34 => plain(
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
        36 => plain(
            "publications of more tables",
            format!(
                "CREATE TABLE {fresh} (id int PRIMARY KEY); ALTER PUBLICATION {publication} ADD TABLE {fresh}; INSERT INTO {fresh} VALUES (1)"
            ),
        ),
        37 => plain(
            "other publications",
            format!("CREATE PUBLICATION {fresh}_{} FOR TABLE {}", at.slot, at.all),
        ),
        38 => plain(
            "comments",
            format!("COMMENT ON TABLE {name} IS 'x'; COMMENT ON COLUMN {name}.{id} IS 'y'"),
        ),
        39 => {
            plain("statistics", format!("ANALYZE {name}; ALTER TABLE {name} SET (fillfactor = 50)"))
        }
        40 => plain(
            "rules",
            format!(
                "CREATE OR REPLACE RULE r AS ON DELETE TO {name} WHERE old.{owner} = 'nobody' DO INSTEAD NOTHING"
            ),
        ),
        41 => plain(
            "columns not null",
            format!(
                "UPDATE {name} SET {owner} = 'bob' WHERE {owner} IS NULL; ALTER TABLE {name} ALTER {owner} SET NOT NULL"
            ),
        ),
        42 => plain(
            "views over it",
            format!("CREATE OR REPLACE VIEW v AS SELECT {id} AS a FROM {name}"),
        ),
        _ => plain(
            "locks",
            format!(
                "BEGIN; LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE; UPDATE {name} SET {owner} = {owner}; COMMIT"
            ),
        ),
    })
}
