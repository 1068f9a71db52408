//! Functions and triggers that come, change and go: what they write is written by nobody's statement.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::{Change, Place, change as plain, transactions};

pub(super) fn change(at: &Place, rng: &mut SmallRng) -> Option<Change> {
    let Place { name, owner, fresh, other, .. } = at;
    let there = other.sql();
    let their_owner = rowtide_plan::sql::quote_identifier(&other.owner);
    let function = |body: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION f{fresh}() RETURNS trigger LANGUAGE plpgsql AS $f$BEGIN {body} END$f$"
        )
    };
    let quiet = "RETURN coalesce(NEW, OLD);";
    let elsewhere = format!(
        "IF pg_trigger_depth() < 2 THEN UPDATE {there} SET {their_owner} = 'ann' WHERE {their_owner} = 'bob' AND random() < 0.5; \
         END IF; RETURN NULL;"
    );
    let trigger = |when: &str| {
        format!("CREATE TRIGGER g{fresh} {when} ON {name} FOR EACH ROW EXECUTE FUNCTION f{fresh}()")
    };
    let after = trigger("AFTER INSERT OR UPDATE OR DELETE");
    Some(match rng.random_range(0..9) {
        0 | 1 => plain(
            "triggers that write another table",
            transactions(&[function(&elsewhere), after, at.flip()]),
        ),
        2 => plain(
            "triggers that write something else",
            transactions(&[
                function(&format!("NEW.{owner} := coalesce(NEW.{owner}, 'ann'); RETURN NEW;")),
                trigger("BEFORE INSERT OR UPDATE"),
                at.flip(),
            ]),
        ),
        3 => plain(
            "functions altered",
            transactions(&[
                function(quiet),
                after,
                at.flip(),
                function(&elsewhere),
                format!(
                    "ALTER FUNCTION f{fresh}() SET search_path = s2; ALTER FUNCTION f{fresh}() SECURITY DEFINER"
                ),
                at.flip(),
                format!("ALTER FUNCTION f{fresh}() RENAME TO h{fresh}"),
            ]),
        ),
        4 => {
            let sql = [
                "DISABLE TRIGGER ALL",
                "ENABLE TRIGGER ALL",
                "ENABLE ALWAYS TRIGGER USER",
                "DISABLE TRIGGER USER",
            ];
            let sql = sql.choose(rng).expect("one");
            plain(
                "triggers switched",
                transactions(&[format!("ALTER TABLE {name} {sql}"), at.flip()]),
            )
        }
        5 => plain(
            "triggers renamed and dropped",
            transactions(&[
                function(quiet),
                after,
                format!("ALTER TRIGGER g{fresh} ON {name} RENAME TO h{fresh}"),
                at.flip(),
                format!("DROP TRIGGER h{fresh} ON {name}"),
            ]),
        ),
        6 => plain(
            "triggers at the end of a transaction",
            transactions(&[
                function(&elsewhere),
                format!(
                    "CREATE CONSTRAINT TRIGGER g{fresh} AFTER UPDATE ON {name} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
                     EXECUTE FUNCTION f{fresh}()"
                ),
                at.flip(),
            ]),
        ),
        7 => plain(
            "event triggers",
            format!(
                "CREATE FUNCTION e{fresh}() RETURNS event_trigger LANGUAGE plpgsql AS $f$BEGIN PERFORM 1; END$f$; \
                 CREATE EVENT TRIGGER e{fresh} ON ddl_command_end EXECUTE FUNCTION e{fresh}()"
            ),
        ),
        _ => plain(
            "rules that write more",
            format!(
                "CREATE OR REPLACE RULE r2 AS ON UPDATE TO {name} DO ALSO UPDATE {there} SET {their_owner} = 'ann' WHERE {their_owner} = 'bob'"
            ),
        ),
    })
}
