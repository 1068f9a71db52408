//! Tables that take each other's place, and partitions that come and go.

use rand::Rng;
use rand::rngs::SmallRng;
use rowtide_plan::sql::{quote_identifier, quote_table};

use super::{Change, Place, change as plain, transaction, transactions, until_mended};

pub(super) fn change(at: &Place, rng: &mut SmallRng) -> Option<Change> {
    if !at.table.partitions.is_empty() && rng.random_bool(0.7) {
        return partition(at, rng);
    }
    let Place { name, fresh, publication, .. } = at;
    let bare = quote_identifier(&at.table.name.name);
    let schema = quote_identifier(&at.table.name.schema);
    let full = format!("ALTER TABLE {name} REPLICA IDENTITY FULL");
    let published = format!("ALTER PUBLICATION {publication} ADD TABLE {name}");
    let copy = |with: &str| {
        format!(
            "CREATE TABLE {new} (LIKE {name} INCLUDING ALL); {with}; ALTER TABLE {name} RENAME TO {fresh}; \
             ALTER TABLE {new} RENAME TO {bare}",
            new = at.beside(&format!("{fresh}n")),
        )
    };
    let filled = format!(
        "INSERT INTO {} ({key}, {owner}) SELECT {key}, 'ann' FROM {name}",
        at.beside(&format!("{fresh}n")),
        key = at.key,
        owner = at.owner
    );
    Some(match rng.random_range(0..14) {
        0 | 1 => {
            let rows = if rng.random_bool(0.6) { filled } else { String::new() };
            let one = format!("{}; {full}; {published}; {}", copy(&rows), at.flip());
            plain("tables swapped by their names", transactions(&[one]))
        }
        2 => until_mended(
            "tables swapped for one that is not published",
            transactions(&[copy(&filled)]),
            String::new(),
        ),
        3 => {
            // And the first one comes back, with what was written meanwhile into the other one.
            let there = format!("{}; {full}; {published}", copy(&filled));
            let gone = at.beside(&format!("{fresh}g"));
            let back = format!(
                "ALTER TABLE {name} RENAME TO {fresh}g; ALTER TABLE {} RENAME TO {bare}; DROP TABLE {gone} CASCADE",
                at.beside(fresh)
            );
            plain("tables swapped and back", transactions(&[there, at.flip(), back]))
        }
        4 => {
            let (a, b) = (name, at.other.sql());
            if *a == b {
                return None;
            }
            let (their_schema, their_name) =
                (quote_identifier(&at.other.name.schema), quote_identifier(&at.other.name.name));
            let swap = |one: (&str, &str), two: (&str, &str)| {
                let here = format!("{}.{fresh}", one.0);
                format!(
                    "ALTER TABLE {}.{} RENAME TO {fresh}; ALTER TABLE {}.{} RENAME TO {fresh}o; \
                     ALTER TABLE {}.{fresh}o SET SCHEMA {}; ALTER TABLE {}.{fresh}o RENAME TO {}; \
                     ALTER TABLE {here} SET SCHEMA {}; ALTER TABLE {}.{fresh} RENAME TO {}",
                    one.0, one.1, two.0, two.1, two.0, one.0, one.0, one.1, two.0, two.0, two.1
                )
            };
            let sql = swap((&schema, &bare), (&their_schema, &their_name));
            until_mended("tables of the definition swapped", transaction(&sql), transaction(&sql))
        }
        5 => {
            let there = format!("ALTER TABLE {name} RENAME TO {fresh}");
            let back = format!("ALTER TABLE {} RENAME TO {bare}", at.beside(fresh));
            let write =
                format!("UPDATE {} SET {owner} = {owner}", at.beside(fresh), owner = at.owner);
            plain("tables renamed and back", transactions(&[there, write, back]))
        }
        6 if at.table.name.schema != "public" => {
            let there = format!("ALTER SCHEMA {schema} RENAME TO {fresh}");
            let back = format!("ALTER SCHEMA {fresh} RENAME TO {schema}");
            if rng.random_bool(0.5) {
                until_mended("schemas renamed", there, back)
            } else {
                let write = format!("DELETE FROM {}", quote_table(fresh, &at.table.name.name));
                plain("schemas renamed and back", transactions(&[there, write, back]))
            }
        }
        6 | 7 => {
            let all = [
                format!(
                    "ALTER PUBLICATION {publication} DROP TABLE {name}; ALTER TABLE {name} SET UNLOGGED"
                ),
                at.flip(),
                format!("ALTER TABLE {name} SET LOGGED; {published}"),
            ];
            plain("tables unlogged and back", transactions(&all))
        }
        8 => {
            let all = [
                format!("CREATE SCHEMA {fresh}; ALTER TABLE {name} SET SCHEMA {fresh}"),
                format!(
                    "DELETE FROM {} WHERE random() < 0.3",
                    quote_table(fresh, &at.table.name.name)
                ),
                format!(
                    "ALTER TABLE {} SET SCHEMA {schema}",
                    quote_table(fresh, &at.table.name.name)
                ),
            ];
            plain("tables in another schema and back", transactions(&all))
        }
        9 => {
            let one = format!("DROP TABLE {name} CASCADE");
            let again = format!(
                "CREATE TABLE {name} (LIKE {} INCLUDING ALL); {full}",
                at.beside(&format!("{fresh}n"))
            );
            let kept = format!(
                "CREATE TABLE {} (LIKE {name} INCLUDING ALL)",
                at.beside(&format!("{fresh}n"))
            );
            until_mended("tables dropped", transaction(&format!("{kept}; {one}")), again)
        }
        10 => {
            let kid = format!("CREATE TABLE {} (LIKE {name})", at.beside(fresh));
            let there = format!("ALTER TABLE {} INHERIT {name}", at.beside(fresh));
            let back = format!("ALTER TABLE {} NO INHERIT {name}", at.beside(fresh));
            let rows = format!("INSERT INTO {} SELECT * FROM ONLY {name}", at.beside(fresh));
            plain("tables that inherit for a moment", transactions(&[kid, there, rows, back]))
        }
        11 => plain(
            "tables in the order of an index",
            format!(
                "ALTER TABLE {name} SET (autovacuum_enabled = off); CREATE INDEX {fresh} ON {name} ({}); CLUSTER {name} USING {fresh}",
                at.owner
            ),
        ),
        12 => plain(
            "truncates beside writes",
            transactions(&[
                format!("{}; TRUNCATE {name} CASCADE", at.flip()),
                format!("TRUNCATE {} RESTART IDENTITY CASCADE", at.all),
            ]),
        ),
        _ => plain("indexes made anew", format!("REINDEX TABLE {name}")),
    })
}

fn partition(at: &Place, rng: &mut SmallRng) -> Option<Change> {
    let Place { name, fresh, table, .. } = at;
    let here = at.beside(fresh);
    let place = rng.random_range(0..table.partitions.len());
    let part = quote_table(&table.partitions[place].schema, &table.partitions[place].name);
    let bounds = table.bounds[place].clone();
    // Keys of the range that a new partition has.
    let from = 5000 + 10 * rng.random_range(0..1000);
    let range = format!("FOR VALUES FROM ({from}) TO ({})", from + 10);
    let full = format!("ALTER TABLE {here} REPLICA IDENTITY FULL");
    let rows = format!(
        "INSERT INTO {name} ({id}, {owner}) SELECT n, 'ann' FROM generate_series({from}, {}) n",
        from + 5,
        id = at.id,
        owner = at.owner
    );
    Some(match rng.random_range(0..11) {
        0 | 1 => until_mended(
            "partitions detached concurrently",
            format!("ALTER TABLE {name} DETACH PARTITION {part} CONCURRENTLY"),
            format!("ALTER TABLE {name} ATTACH PARTITION {part} {bounds}"),
        ),
        2 => {
            let all = [
                format!("ALTER TABLE {name} DETACH PARTITION {part}"),
                format!("UPDATE {part} SET {owner} = 'ann' WHERE random() < 0.5", owner = at.owner),
                format!("ALTER TABLE {name} ATTACH PARTITION {part} {bounds}"),
            ];
            plain("partitions detached and attached", transactions(&all))
        }
        10 => {
            let all = [
                format!("ALTER TABLE {part} REPLICA IDENTITY DEFAULT"),
                format!("DELETE FROM {name} WHERE random() < 0.5"),
                format!("ALTER TABLE {part} REPLICA IDENTITY FULL"),
            ];
            plain("identities of partitions altered and back", transactions(&all))
        }
        3 => plain("partitions emptied", format!("TRUNCATE {part}")),
        4 => plain(
            "partitions written by themselves",
            transactions(&[format!(
                "UPDATE {part} SET {owner} = 'ann'; DELETE FROM {part} WHERE random() < 0.3",
                owner = at.owner
            )]),
        ),
        5 if table.ranged => plain(
            "partitions made",
            transactions(&[format!(
                "CREATE TABLE {here} PARTITION OF {name} {range}; {full}; {rows}"
            )]),
        ),
        6 if table.ranged => until_mended(
            "partitions made without identity",
            transactions(&[format!("CREATE TABLE {here} PARTITION OF {name} {range}"), rows]),
            full,
        ),
        7 if table.ranged => {
            // Its columns are in other places.
            let one = format!(
                "CREATE TABLE {here} (junk int, LIKE {name} INCLUDING ALL); ALTER TABLE {here} DROP junk; {full}; \
                 INSERT INTO {here} ({id}, {owner}) VALUES ({from}, 'ann'); ALTER TABLE {name} ATTACH PARTITION {here} {range}",
                id = at.id,
                owner = at.owner
            );
            plain(
                "partitions attached",
                transactions(&[one, rows + " ON CONFLICT DO NOTHING", at.flip()]),
            )
        }
        8 if table.ranged => {
            let one = format!(
                "CREATE TABLE {here} PARTITION OF {name} {range} PARTITION BY LIST ({owner}); \
                 CREATE TABLE {a} PARTITION OF {here} FOR VALUES IN ('ann'); CREATE TABLE {b} PARTITION OF {here} DEFAULT; \
                 ALTER TABLE {a} REPLICA IDENTITY FULL; ALTER TABLE {b} REPLICA IDENTITY FULL",
                a = at.beside(&format!("{fresh}a")),
                b = at.beside(&format!("{fresh}b")),
                owner = at.owner,
            );
            plain("partitions of partitions", transactions(&[one, rows, at.flip()]))
        }
        9 if table.ranged => {
            let make = format!("CREATE TABLE {here} PARTITION OF {name} {range}; {full}; {rows}");
            plain(
                "partitions made and dropped",
                transactions(&[make, at.flip(), format!("DROP TABLE {here}")]),
            )
        }
        _ => plain("partitions rewritten", format!("VACUUM FULL {part}")),
    })
}
