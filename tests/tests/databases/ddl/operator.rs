//! What an operator does: settings of roles and databases, rights, row-level security, the publication altered by hand,
//! connections that are ended.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rowtide_plan::sql::{quote_identifier, quote_literal};

use super::{Change, Place, Script, change as plain, transactions, until_mended};

/// Settings that change what a value looks like, what a name means, and how long something may take.
pub(super) const SETTINGS: &[&str] = &[
    "DateStyle = 'German'",
    "DateStyle = 'SQL, DMY'",
    "TimeZone = 'Asia/Kathmandu'",
    "extra_float_digits = -9",
    "bytea_output = escape",
    "IntervalStyle = sql_standard",
    "IntervalStyle = iso_8601",
    "search_path = s2",
    "search_path = nowhere",
    "default_transaction_isolation = serializable",
    "default_transaction_read_only = on",
    "default_transaction_deferrable = on",
    "row_security = off",
    "standard_conforming_strings = off",
    "statement_timeout = 1",
    "lock_timeout = 1",
    "idle_in_transaction_session_timeout = 1",
    "idle_session_timeout = 1",
    "client_encoding = LATIN1",
    "quote_all_identifiers = on",
    "transform_null_equals = on",
    "array_nulls = off",
    "backslash_quote = off",
    "xmlbinary = hex",
    "session_replication_role = replica",
    "enable_seqscan = off",
    "enable_indexscan = off",
    "plan_cache_mode = force_generic_plan",
    "work_mem = '64kB'",
    "logical_decoding_work_mem = '64kB'",
    "check_function_bodies = off",
    "lc_monetary = 'C'",
    "default_text_search_config = 'simple'",
    "constraint_exclusion = on",
    "jit = on",
    "synchronous_commit = off",
    "application_name = 'somebody else'",
    "wal_sender_timeout = '1min'",
];

/// Whoever comes is a new session, with what is set by now.
fn ended(at: &Place) -> String {
    format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid() \
         AND backend_type IN ('client backend', 'walsender')",
        at.database
    )
}

pub(super) fn change(at: &Place, rng: &mut SmallRng) -> Option<Change> {
    let Place { name, owner, fresh, publication, role, database, .. } = at;
    let set = *SETTINGS.choose(rng).expect("one");
    Some(match rng.random_range(0..35) {
        0..4 => plain(
            "settings of the database",
            format!("ALTER DATABASE {database} SET {set}; {}", ended(at)),
        ),
        4..8 => plain(
            "settings of a role in the database",
            format!("ALTER ROLE {role} IN DATABASE {database} SET {set}; {}", ended(at)),
        ),
        8 | 9 if at.limited => {
            plain("settings of a role", format!("ALTER ROLE {role} SET {set}; {}", ended(at)))
        }
        10 => plain("connections ended", ended(at)),
        8 | 11 | 12 if at.limited => until_mended(
            "rights revoked",
            format!("REVOKE SELECT ON {name} FROM {role}"),
            format!("GRANT SELECT ON {name} TO {role}"),
        ),
        13 if at.limited => {
            let all = [
                format!("REVOKE SELECT ON {name} FROM {role}"),
                at.flip(),
                format!("GRANT SELECT ON {name} TO {role}"),
            ];
            plain("rights revoked and given again", transactions(&all))
        }
        14 if at.limited && at.table.name.schema != "public" => {
            let schema = quote_identifier(&at.table.name.schema);
            until_mended(
                "rights to schemas revoked",
                format!("REVOKE USAGE ON SCHEMA {schema} FROM {role}"),
                format!("GRANT USAGE ON SCHEMA {schema} TO {role}"),
            )
        }
        15 if at.limited => {
            // Of some columns alone.
            let column =
                at.free.first().map_or(owner.clone(), |column| quote_identifier(&column.name));
            until_mended(
                "rights to one column",
                format!(
                    "REVOKE SELECT ON {name} FROM {role}; GRANT SELECT ({column}) ON {name} TO {role}"
                ),
                format!("GRANT SELECT ON {name} TO {role}"),
            )
        }
        16 | 17 if at.limited => until_mended(
            "row-level security that hides rows",
            format!(
                "ALTER TABLE {name} ENABLE ROW LEVEL SECURITY; CREATE POLICY {fresh} ON {name} USING ({owner} = 'bob')"
            ),
            format!("ALTER TABLE {name} DISABLE ROW LEVEL SECURITY"),
        ),
        18 if at.limited => {
            let all = [
                format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"),
                at.flip(),
                format!("ALTER TABLE {name} DISABLE ROW LEVEL SECURITY"),
            ];
            plain("row-level security and back", transactions(&all))
        }
        19 if at.limited => plain(
            "row-level security that hides nothing from the server",
            format!(
                "ALTER ROLE {role} BYPASSRLS; ALTER TABLE {name} ENABLE ROW LEVEL SECURITY; ALTER TABLE {name} ADD {fresh} int DEFAULT 1"
            ),
        ),
        20 if at.version >= 15 => {
            let columns: Vec<String> = at
                .table
                .key
                .iter()
                .chain([&at.table.owner])
                .map(|name| quote_identifier(name))
                .collect();
            until_mended(
                "tables published without some columns",
                format!(
                    "ALTER PUBLICATION {publication} DROP TABLE {name}; ALTER PUBLICATION {publication} ADD TABLE {name} ({}); \
                     ALTER TABLE {name} ADD {fresh} int DEFAULT 5",
                    columns.join(", ")
                ),
                format!("ALTER PUBLICATION {publication} DROP TABLE {name}"),
            )
        }
        21 if at.version >= 15 => {
            let all = [
                format!("ALTER PUBLICATION {publication} DROP TABLE {name}"),
                format!("ALTER PUBLICATION {publication} ADD TABLE {name} WHERE ({owner} = 'bob')"),
                at.flip(),
                format!(
                    "ALTER PUBLICATION {publication} DROP TABLE {name}; ALTER PUBLICATION {publication} ADD TABLE {name}"
                ),
            ];
            plain("tables published in part and back", transactions(&all))
        }
        22 => {
            let all = [
                format!("ALTER PUBLICATION {publication} DROP TABLE {name}"),
                at.flip(),
                format!("ALTER PUBLICATION {publication} ADD TABLE {name}"),
            ];
            plain("tables taken out and put back", transactions(&all))
        }
        23 => until_mended(
            "partitions not published through their root",
            format!("ALTER PUBLICATION {publication} SET (publish_via_partition_root = false)"),
            format!("ALTER PUBLICATION {publication} SET (publish_via_partition_root = true)"),
        ),
        24 => {
            let all = [
                format!("ALTER PUBLICATION {publication} SET (publish = 'insert')"),
                at.flip(),
                format!(
                    "ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete, truncate')"
                ),
            ];
            plain("operations not published for a while", transactions(&all))
        }
        25 => until_mended(
            "publications renamed",
            format!("ALTER PUBLICATION {publication} RENAME TO {fresh}"),
            format!("ALTER PUBLICATION {fresh} RENAME TO {publication}"),
        ),
        26 if at.version >= 15 => {
            let schema = quote_identifier(&at.table.name.schema);
            plain(
                "schemas published",
                format!("ALTER PUBLICATION {publication} ADD TABLES IN SCHEMA {schema}"),
            )
        }
        26 => until_mended(
            "publications of one table",
            format!("ALTER PUBLICATION {publication} SET TABLE {name}"),
            String::new(),
        ),
        27 if at.version >= 18 => until_mended(
            "generated columns not published",
            format!("ALTER PUBLICATION {publication} SET (publish_generated_columns = none)"),
            format!("ALTER PUBLICATION {publication} SET (publish_generated_columns = stored)"),
        ),
        27 if at.version >= 15 => until_mended(
            "other publications with a list of columns",
            format!(
                "CREATE PUBLICATION {fresh}_{} FOR TABLE {name} ({}, {owner})",
                at.slot, at.key
            ),
            format!("DROP PUBLICATION {fresh}_{}", at.slot),
        ),
        28 => {
            let one = format!("DROP PUBLICATION {publication}");
            until_mended(
                "publications dropped beside writes",
                transactions(&[at.flip(), one, at.flip()]),
                String::new(),
            )
        }
        29 => {
            // Whoever streams comes back at once.
            let slot = quote_literal(&at.slot);
            let one = format!(
                "DO $do$ BEGIN FOR turn IN 1..100 LOOP BEGIN \
                 PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = {slot} AND active; \
                 PERFORM pg_drop_replication_slot({slot}); EXIT; \
                 EXCEPTION WHEN object_in_use THEN PERFORM pg_sleep(0.01); END; END LOOP; END $do$"
            );
            plain("slots dropped", Script(vec![at.flip(), one, at.flip()]))
        }
        30 if at.limited => until_mended(
            "the right to stream taken away",
            format!("ALTER ROLE {role} NOREPLICATION; {}", ended(at)),
            format!("ALTER ROLE {role} REPLICATION"),
        ),
        30 | 31 => plain(
            "other owners",
            format!(
                "ALTER TABLE {name} OWNER TO pg_monitor; ALTER PUBLICATION {publication} OWNER TO pg_monitor"
            ),
        ),
        32 => {
            let flip = at.flip().replace('\'', "''");
            let many = format!(
                "DO $do$ BEGIN FOR turn IN 1..90 LOOP BEGIN EXECUTE '{flip}'; IF turn % 7 = 0 THEN RAISE 'none'; END IF; \
                 EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $do$"
            );
            plain("transactions of many others", many)
        }
        33 => plain(
            "WAL that is nobody's",
            format!(
                "SELECT pg_logical_emit_message(true, 'rowtide', '{fresh}'); SELECT pg_switch_wal(); {}; \
                 SELECT pg_logical_emit_message(false, 'rowtide', '{fresh}')",
                at.flip()
            ),
        ),
        _ => plain(
            "the end of what was set",
            format!(
                "ALTER DATABASE {database} RESET ALL; ALTER ROLE {role} IN DATABASE {database} RESET ALL"
            ),
        ),
    })
}
