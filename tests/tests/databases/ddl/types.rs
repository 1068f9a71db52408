//! Types of columns: changes that keep what is stored and changes that write it anew, and what becomes of enums, domains
//! and composite types.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rowtide_plan::sql::quote_identifier;

use super::{Change, Place, change as plain, transactions, until_mended};

/// What a column of a type may become, by a cast that Postgres has.
fn others(kind: &str) -> &'static [&'static str] {
    match kind {
        "varchar(3)" => &["varchar(9)", "varchar", "text", "varchar(4)"],
        "varchar" => &["text", "varchar(8000)"],
        "text" => &["varchar", "varchar(20000)", "name"],
        "name" | "char(3)" | "\"char\"" => &["text", "varchar"],
        "bool" => &["int4", "text"],
        "int2" => &["int4", "int8", "numeric"],
        "int4" => &["int8", "numeric", "oid", "float8", "text"],
        "int8" => &["numeric", "text", "float8"],
        "oid" => &["int8"],
        "float4" => &["float8"],
        "float8" => &["text"],
        "numeric(10,2)" => &["numeric(20,2)", "numeric", "numeric(20,4)", "numeric(10,1)"],
        "numeric" => &["text"],
        "cidr" => &["inet"],
        "inet" => &["text"],
        "timestamp" => &["timestamptz", "timestamp(0)"],
        "timestamptz" => &["timestamp", "timestamptz(0)"],
        "timestamptz(0)" => &["timestamptz"],
        "date" => &["timestamp", "text"],
        "time" => &["timetz", "interval"],
        "mood" | "uuid" | "pair" | "int4range" | "interval" => &["text"],
        "calm" => &["mood"],
        "positive" => &["int4", "int8"],
        "json" => &["jsonb", "text"],
        "jsonb" => &["json"],
        "bit(3)" => &["varbit", "bit varying(5)"],
        "int4[]" => &["int8[]", "text[]"],
        "char(3)[]" => &["text[]"],
        "moods" | "mood[]" => &["text[]"],
        _ => &["text"],
    }
}

pub(super) fn change(at: &Place, rng: &mut SmallRng) -> Option<Change> {
    let Place { name, fresh, owner, .. } = at;
    Some(match rng.random_range(0..19) {
        0..5 => {
            let column = at.free.choose(rng)?;
            let (to, column) = (others(column.kind()).choose(rng)?, quote_identifier(&column.name));
            let one = format!(
                "ALTER TABLE {name} ALTER {column} DROP DEFAULT, ALTER {column} TYPE {to} USING {column}::{to}"
            );
            let writes = if rng.random_bool(0.4) { at.flip() } else { String::new() };
            plain("types altered to another", transactions(&[format!("{writes}; {one}; {writes}")]))
        }
        5 => {
            // Under UTC nothing is written anew, elsewhere all is.
            let zone = ["UTC", "Asia/Kathmandu"].choose(rng).expect("one");
            let kinds = ["timestamp", "timestamptz"];
            let column = at.free.iter().find(|column| kinds.contains(&column.kind()))?;
            let to = if column.kind() == "timestamp" { kinds[1] } else { kinds[0] };
            plain(
                "types altered under a zone",
                format!(
                    "BEGIN; SET LOCAL TimeZone = '{zone}'; ALTER TABLE {name} ALTER {} TYPE {to}; COMMIT",
                    quote_identifier(&column.name)
                ),
            )
        }
        6 => {
            let some = at.some(rng)?;
            let there =
                format!("ALTER TABLE {name} ALTER {some} DROP DEFAULT, ALTER {some} TYPE text");
            let back = format!("ALTER TABLE {name} ALTER {some} TYPE varchar");
            plain("types altered twice in a row", transactions(&[there, at.flip(), back]))
        }
        7 => {
            let label = format!("{fresh}'s");
            let place = ["BEFORE 'ok'", "AFTER 'ok'", ""].choose(rng).expect("one");
            plain(
                "labels added and used",
                transactions(&[
                    format!("ALTER TYPE mood ADD VALUE '{}' {place}", label.replace('\'', "''")),
                    format!(
                        "ALTER TABLE {name} ADD {fresh} mood; UPDATE {name} SET {fresh} = '{}'",
                        label.replace('\'', "''")
                    ),
                ]),
            )
        }
        8 => plain(
            "labels renamed beside writes",
            transactions(&[format!(
                "{}; ALTER TYPE mood RENAME VALUE 'ok' TO '{fresh}'; {}; ALTER TYPE mood RENAME VALUE '{fresh}' TO 'ok'; \
                 ALTER TYPE mood RENAME VALUE '' TO '{fresh}'; ALTER TYPE mood RENAME VALUE 'sad' TO ''; \
                 ALTER TYPE mood RENAME VALUE '{fresh}' TO 'sad'",
                at.flip(),
                at.flip()
            )]),
        ),
        9 => plain(
            "enums made anew",
            transactions(&[format!(
                "CREATE TYPE mood_{fresh} AS ENUM ('sad', 'x', 'ok'); ALTER TABLE {name} ADD {fresh} mood_{fresh} DEFAULT 'ok'; \
                 CREATE TYPE mood_{fresh}b AS ENUM ('ok', 'sad'); ALTER TABLE {name} ALTER {fresh} DROP DEFAULT, \
                 ALTER {fresh} TYPE mood_{fresh}b USING {fresh}::text::mood_{fresh}b; DROP TYPE mood_{fresh}; \
                 ALTER TYPE mood_{fresh}b RENAME TO mood_{fresh}"
            )]),
        ),
        10 => {
            let sql = [
                "ADD CONSTRAINT small CHECK (value < 2147483647) NOT VALID",
                "SET DEFAULT 5",
                "DROP DEFAULT",
                "DROP NOT NULL",
                "RENAME TO positives; ALTER DOMAIN positives RENAME TO positive",
            ];
            let sql = sql.choose(rng).expect("one");
            plain("domains altered in other ways", format!("ALTER DOMAIN positive {sql}"))
        }
        11 => {
            let sql = [
                "RENAME TO feeling; ALTER TYPE feeling RENAME TO mood",
                "SET SCHEMA s2; ALTER TYPE s2.mood SET SCHEMA public",
                "OWNER TO CURRENT_USER",
            ];
            let sql = sql.choose(rng).expect("one");
            plain("types renamed and back", format!("ALTER TYPE mood {sql}"))
        }
        16 | 17 => {
            let rename =
                |from: &str, to: &str| format!("ALTER TYPE mood RENAME VALUE '{from}' TO '{to}'");
            let write = format!("ALTER TABLE {name} ADD {fresh} mood DEFAULT 'ok'");
            let rows = format!("UPDATE {name} SET {fresh} = 'l{fresh}' WHERE random() < 0.7");
            let all = [
                write,
                rename("ok", &format!("l{fresh}")),
                rows,
                rename(&format!("l{fresh}"), "ok"),
            ];
            if rng.random_bool(0.5) {
                plain("labels renamed and back", transactions(&all))
            } else {
                plain("labels renamed and back", transactions(&[all.join("; ")]))
            }
        }
        18 => {
            let all = [
                format!("ALTER TABLE {name} ADD {fresh} pair DEFAULT '(1,kept)'"),
                "ALTER TYPE pair DROP ATTRIBUTE b".to_owned(),
                "ALTER TYPE pair ADD ATTRIBUTE b text".to_owned(),
            ];
            plain("attributes dropped and added", transactions(&all))
        }
        12 => plain(
            "attributes renamed",
            format!(
                "ALTER TYPE pair RENAME ATTRIBUTE b TO {fresh} CASCADE; ALTER TYPE pair RENAME ATTRIBUTE {fresh} TO b"
            ),
        ),
        13 => plain(
            "attributes dropped",
            format!(
                "ALTER TYPE pair ADD ATTRIBUTE {fresh} int; ALTER TYPE pair DROP ATTRIBUTE {fresh}"
            ),
        ),
        14 => {
            // What is computed changes for all rows, written by nobody.
            let sql = match at.version {
                17.. => format!(
                    "ALTER TABLE {name} ALTER {fresh} SET EXPRESSION AS (lower({owner}) || '2')"
                ),
                _ => format!("ALTER TABLE {name} ALTER {fresh} DROP EXPRESSION"),
            };
            let add = format!(
                "ALTER TABLE {name} ADD {fresh} text GENERATED ALWAYS AS (upper({owner})) STORED"
            );
            plain("expressions altered", transactions(&[add, at.flip(), sql, at.flip()]))
        }
        _ => until_mended(
            "types in another schema",
            "ALTER TYPE mood SET SCHEMA s2".to_owned(),
            "ALTER TYPE s2.mood SET SCHEMA public".to_owned(),
        ),
    })
}
