//! Which files of a directory are migrations, and in which order: as the usual tools lay them out. golang-migrate and
//! sqlx have `1_name.up.sql` beside `1_name.down.sql`, Prisma and Diesel a folder for each migration, Flyway
//! `V1.2__name.sql` in folders as one likes, others plain files. What undoes a migration is left out. Pure.

use std::path::Path;

/// Folders of which no file is a migration.
const LEFT_OUT: [&str; 8] =
    ["down", "revert", "verify", "rollback", "undo", "meta", "snapshots", "node_modules"];

/// Which files to apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// The migrations, in their order.
    pub migrations: Vec<String>,
    /// Files of SQL that may have been meant as migrations, and are in no layout that is known.
    pub unknown: Vec<String>,
}

/// A name of Flyway's (and of refinery's): a letter, a version, two underscores.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Flyway {
    Versioned(Vec<u64>),
    /// Undoes the version for Flyway; a version of its own for refinery.
    Undo(Vec<u64>),
    /// Stands for all versions up to it.
    Baseline(Vec<u64>),
    Repeatable,
}

impl Flyway {
    fn of(file: &str) -> Option<Flyway> {
        let (prefix, _) = file.split_once("__")?;
        if prefix == "R" {
            return Some(Flyway::Repeatable);
        }
        let version = |text: &str| {
            let numbers: Option<Vec<u64>> =
                text.split(['.', '_']).map(|part| part.parse().ok()).collect();
            let mut numbers = numbers?;
            // 1 and 1.0 are one version.
            while numbers.len() > 1 && numbers.last() == Some(&0) {
                numbers.pop();
            }
            Some(numbers)
        };
        let version = version(prefix.get(1..)?)?;
        match prefix.as_bytes().first()? {
            b'V' => Some(Flyway::Versioned(version)),
            b'U' => Some(Flyway::Undo(version)),
            b'B' => Some(Flyway::Baseline(version)),
            _ => None,
        }
    }
}

/// Whether a file is applied again when it has changed.
pub(super) fn is_repeatable(name: &str) -> bool {
    Flyway::of(file_of(name)) == Some(Flyway::Repeatable)
}

fn file_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Chooses among the files below a directory, which are named by their paths from there, with `/` between.
pub fn choose(paths: &[String]) -> Chosen {
    let is_sql = |path: &&String| {
        Path::new(path).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("sql"))
    };
    let sql: Vec<&String> = paths.iter().filter(is_sql).collect();
    let versions: Vec<Vec<u64>> = sql
        .iter()
        .filter_map(|path| match Flyway::of(file_of(path)) {
            Some(Flyway::Versioned(version)) => Some(version),
            _ => None,
        })
        .collect();
    let mut chosen = Chosen::default();
    for path in sql {
        let mut folders: Vec<&str> = path.split('/').collect();
        let file = folders.pop().unwrap_or_default();
        let left_out = |folder: &&str| folder.starts_with('.') || LEFT_OUT.contains(folder);
        let undoes = file == "down.sql"
            || [".down.sql", ".undo.sql", ".rollback.sql"].iter().any(|end| file.ends_with(end));
        if undoes || folders.iter().any(left_out) {
            continue;
        }
        let known = match Flyway::of(file) {
            Some(Flyway::Undo(version)) if versions.contains(&version) => continue,
            Some(Flyway::Baseline(version)) if versions.iter().any(|it| *it <= version) => continue,
            Some(_) => true,
            None => {
                folders.is_empty()
                    || file == "up.sql"
                    || file == "migration.sql"
                    || file.ends_with(".up.sql")
            }
        };
        let into = if known { &mut chosen.migrations } else { &mut chosen.unknown };
        into.push(path.clone());
    }
    chosen.migrations.sort_by_cached_key(|path| order(path));
    chosen.unknown.sort();
    chosen
}

/// What migrations are sorted by: numbers first, then what has none, then what is applied again and again.
pub(super) fn order(path: &str) -> (u8, Vec<u64>, String) {
    let file = file_of(path);
    let named = match file {
        // The folder has the name.
        "up.sql" | "migration.sql" => {
            path.strip_suffix(file).map_or(file, |dir| file_of(dir.trim_end_matches('/')))
        }
        file => file,
    };
    match Flyway::of(named) {
        Some(Flyway::Repeatable) => return (2, Vec::new(), named.to_owned()),
        Some(Flyway::Versioned(version) | Flyway::Undo(version) | Flyway::Baseline(version)) => {
            return (0, version, path.to_owned());
        }
        None => {}
    }
    let mut numbers = Vec::new();
    let mut rest = named;
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            break;
        }
        numbers.push(rest[..digits].parse().unwrap_or(u64::MAX));
        let Some(more) = rest[digits..].strip_prefix('.') else { break };
        rest = more;
    }
    (u8::from(numbers.is_empty()), numbers, path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(paths: &[&str]) -> Vec<String> {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        choose(&paths).migrations
    }

    #[test]
    fn the_layouts_of_the_usual_tools_are_known() {
        for (tool, paths, wanted) in [
            (
                "golang-migrate, sqlx",
                &["2_b.down.sql", "2_b.up.sql", "10_c.up.sql", "1_a.down.sql", "1_a.up.sql"][..],
                &["1_a.up.sql", "2_b.up.sql", "10_c.up.sql"][..],
            ),
            (
                "Prisma",
                &[
                    "migration_lock.toml",
                    "20240202000000_b/migration.sql",
                    "20240101000000_a/migration.sql",
                ],
                &["20240101000000_a/migration.sql", "20240202000000_b/migration.sql"],
            ),
            (
                "Prisma, from above",
                &["schema.prisma", "migrations/2_b/migration.sql", "migrations/1_a/migration.sql"],
                &["migrations/1_a/migration.sql", "migrations/2_b/migration.sql"],
            ),
            (
                "Diesel",
                &[
                    "2024-02-01-000000_b/up.sql",
                    "2024-02-01-000000_b/down.sql",
                    "00000000000000_diesel_initial_setup/up.sql",
                    "00000000000000_diesel_initial_setup/down.sql",
                    "2024-01-01-000000_a/up.sql",
                    ".keep",
                ],
                &[
                    "00000000000000_diesel_initial_setup/up.sql",
                    "2024-01-01-000000_a/up.sql",
                    "2024-02-01-000000_b/up.sql",
                ],
            ),
            (
                "Flyway",
                &[
                    "R__views.sql",
                    "V10__d.sql",
                    "V1.10__c.sql",
                    "V1_2__b.sql",
                    "U1_2__b.sql",
                    "2024/V1__a.sql",
                    "B2__all.sql",
                    "V1__a.sql.conf",
                ],
                &["2024/V1__a.sql", "V1_2__b.sql", "V1.10__c.sql", "V10__d.sql", "R__views.sql"],
            ),
            (
                "Flyway, from a baseline",
                &["V3__b.sql", "B2__all.sql"],
                &["B2__all.sql", "V3__b.sql"],
            ),
            ("refinery", &["U2__b.sql", "V1__a.sql"], &["V1__a.sql", "U2__b.sql"]),
            (
                "Drizzle",
                &["meta/0000.sql", "0001_b.sql", "0000_a.sql"],
                &["0000_a.sql", "0001_b.sql"],
            ),
            (
                "dbmate, goose, plain",
                &["sample.sql", "10_c.sql", "9_b.sql", "1.10_a.sql", "1.9_a.sql", "README.md"],
                &["1.9_a.sql", "1.10_a.sql", "9_b.sql", "10_c.sql", "sample.sql"],
            ),
            ("by folders", &["up/1.sql", "down/1.sql", "1.SQL"], &["1.SQL"]),
        ] {
            assert_eq!(chosen(paths), wanted, "{tool}");
        }
    }

    #[test]
    fn what_may_have_been_meant_is_named() {
        let paths =
            ["1_a.sql", "later/2_b.sql", "down/1_a.sql", "later/2_b.down.sql", "a/notes.txt"];
        let paths = paths.map(str::to_owned);
        assert_eq!(choose(&paths).unknown, ["later/2_b.sql"]);
    }
}
