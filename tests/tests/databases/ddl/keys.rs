//! Keys and constraints: another primary key, none, one that is deferrable or of ranges; identities; what is not enforced.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rowtide_plan::sql::quote_literal;

use super::{Change, Place, change as plain, transaction, transactions, until_mended};

/// Takes the primary key away, whatever it is called, and does `then` in the same statement.
fn without_key(name: &str, then: &str) -> String {
    format!(
        "DO $do$ DECLARE c text; BEGIN SELECT conname INTO STRICT c FROM pg_constraint WHERE conrelid = {}::regclass \
         AND contype = 'p'; EXECUTE format({}, c); END $do$",
        quote_literal(name),
        quote_literal(&format!(
            "ALTER TABLE {} DROP CONSTRAINT %I CASCADE{then}",
            name.replace('%', "%%")
        ))
    )
}

pub(super) fn change(at: &Place, rng: &mut SmallRng) -> Option<Change> {
    let Place { name, id, owner, key, fresh, .. } = at;
    let again = format!("ALTER TABLE {name} ADD PRIMARY KEY ({key})");
    Some(match rng.random_range(0..18) {
        0 | 1 => {
            let one = format!(
                "{}; ALTER TABLE {name} ADD {fresh} bigint GENERATED ALWAYS AS IDENTITY; {}; {}",
                at.flip(),
                without_key(name, &format!(", ADD PRIMARY KEY ({fresh})")),
                at.flip()
            );
            plain("other primary keys", transactions(&[one]))
        }
        2 => {
            let one = format!(
                "ALTER TABLE {name} ADD {fresh} int NOT NULL DEFAULT 1; {}",
                without_key(name, &format!(", ADD PRIMARY KEY ({fresh}, {key})"))
            );
            plain("longer primary keys", transactions(&[one]))
        }
        3 => {
            let all = [
                format!("CREATE UNIQUE INDEX {fresh} ON {name} ({key})"),
                without_key(
                    name,
                    &format!(", ADD CONSTRAINT {fresh} PRIMARY KEY USING INDEX {fresh}"),
                ),
            ];
            plain("primary keys by another index", transactions(&all))
        }
        4 => until_mended("primary keys dropped", without_key(name, ""), again),
        5 => {
            let deferrable = format!(", ADD PRIMARY KEY ({key}) DEFERRABLE");
            until_mended(
                "primary keys that become deferrable",
                without_key(name, &deferrable),
                format!("{}; {again}", without_key(name, "")),
            )
        }
        6 | 7 if at.version >= 18 => {
            let one = format!(
                "ALTER TABLE {name} ADD {fresh} int4range NOT NULL DEFAULT int4range((random() * 2000000000)::int, NULL), \
                 ADD {fresh}t int4range NOT NULL DEFAULT '[1,5)'; {}",
                without_key(
                    name,
                    &format!(", ADD PRIMARY KEY ({fresh}, {fresh}t WITHOUT OVERLAPS)")
                )
            );
            until_mended(
                "temporal keys",
                transactions(&[one]),
                transaction(&format!(
                    "{}; {again}; ALTER TABLE {name} DROP {fresh}, DROP {fresh}t",
                    without_key(name, "")
                )),
            )
        }
        6 => plain(
            "deferrable unique columns",
            format!("ALTER TABLE {name} ADD {fresh} int UNIQUE DEFERRABLE INITIALLY DEFERRED"),
        ),
        7 => plain(
            "exclusions",
            format!(
                "ALTER TABLE {name} ADD {fresh} int4range, ADD EXCLUDE USING gist ({fresh} WITH &&)"
            ),
        ),
        8 => {
            let distinct = if at.version >= 15 { "NULLS NOT DISTINCT" } else { "" };
            plain(
                "unique columns, null among them",
                format!(
                    "ALTER TABLE {name} ADD {fresh} int, ADD {fresh}b int, ADD UNIQUE {distinct} ({fresh}, {id})"
                ),
            )
        }
        9 => {
            let enforced = if at.version >= 18 { "NOT ENFORCED" } else { "NOT VALID" };
            plain(
                "constraints that are not enforced",
                format!(
                    "ALTER TABLE {name} ADD CONSTRAINT {fresh} CHECK ({owner} = 'nobody') {enforced}; ALTER TABLE {name} DROP CONSTRAINT {fresh}"
                ),
            )
        }
        10 if at.version >= 18 => plain(
            "constraints that are not enforced",
            format!(
                "ALTER TABLE {name} ADD CONSTRAINT {fresh} CHECK ({owner} <> 'nobody') NOT ENFORCED"
            ),
        ),
        10 => plain(
            "constraints that are validated",
            format!(
                "ALTER TABLE {name} ADD CONSTRAINT {fresh} CHECK ({owner} <> 'nobody') NOT VALID; ALTER TABLE {name} VALIDATE CONSTRAINT {fresh}"
            ),
        ),
        11 if at.version >= 18 => plain(
            "not null, not looked at",
            format!(
                "ALTER TABLE {name} ADD CONSTRAINT {fresh} NOT NULL {owner} NOT VALID; ALTER TABLE {name} DROP CONSTRAINT {fresh}"
            ),
        ),
        11 | 12 => {
            plain("columns null again", format!("ALTER TABLE {name} ALTER {owner} DROP NOT NULL"))
        }
        13 => until_mended(
            "identities by an index",
            format!(
                "CREATE UNIQUE INDEX {fresh} ON {name} ({key}); ALTER TABLE {name} REPLICA IDENTITY USING INDEX {fresh}"
            ),
            format!(
                "ALTER TABLE {name} REPLICA IDENTITY FULL; DROP INDEX IF EXISTS {}",
                at.beside(fresh)
            ),
        ),
        14 => {
            let between = if rng.random_bool(0.5) { at.flip() } else { String::new() };
            let identity = ["DEFAULT", "NOTHING"].choose(rng).expect("one");
            let all = [
                format!("ALTER TABLE {name} REPLICA IDENTITY {identity}"),
                between,
                format!("ALTER TABLE {name} REPLICA IDENTITY FULL"),
            ];
            plain("identities altered and back", transactions(&all))
        }
        15 if at.other.referable => plain(
            "deferrable references",
            format!(
                "ALTER TABLE {name} ADD {fresh} {} REFERENCES {} ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED",
                at.other.key_type,
                at.other.sql()
            ),
        ),
        15 => {
            plain("keys dropped and back", transactions(&[without_key(name, ""), at.flip(), again]))
        }
        16 => {
            let one = without_key(name, &format!(", ADD PRIMARY KEY ({key})"));
            plain("keys made anew", transactions(&[format!("{}; {one}; {}", at.flip(), at.flip())]))
        }
        _ => {
            let before = format!("ALTER TABLE {name} RENAME {id} TO {fresh}");
            plain(
                "keys renamed and back",
                transactions(&[
                    before,
                    at.flip(),
                    format!("ALTER TABLE {name} RENAME {fresh} TO {id}"),
                ]),
            )
        }
    })
}
