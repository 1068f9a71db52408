//! Which columns a write writes, where their values come from, and which rules are about them.

use crate::plan::Table;
use crate::write_rules::UpdateRule;

/// Where an insert of these columns has the value of a column from.
pub(super) enum Origin<'a> {
    /// The client gives it.
    Client,
    /// This expression of the table's.
    Default(&'a str),
    /// It is null, or Postgres numbers it.
    Nothing,
    /// Postgres computes it.
    Generated,
}

pub(super) fn origin<'a>(table: &'a Table, columns: &[usize], index: usize) -> Origin<'a> {
    let input = &table.catalog.columns[index].input;
    match &input.default {
        _ if input.generated.is_some() => Origin::Generated,
        _ if columns.contains(&index) && !input.is_of_postgres_alone() => Origin::Client,
        Some(default) => Origin::Default(default),
        None => Origin::Nothing,
    }
}

/// A column for an insert that has none, as Postgres wants one: null, as if it were left out, for which it stands behind
/// `OVERRIDING USER VALUE`.
pub(super) fn any(table: &Table) -> Option<usize> {
    table.catalog.columns.iter().position(|column| column.input.generated.is_none())
}

/// Whether an insert of these columns leaves the key, or a part of it, to be made.
pub(super) fn leaves_key(table: &Table, columns: &[usize]) -> bool {
    !table.is_keyless()
        && table.key.iter().any(|column| !matches!(origin(table, columns, *column), Origin::Client))
}

/// Those of the columns that an update would set.
pub(super) fn written<'a>(
    table: &'a Table,
    columns: &'a [usize],
) -> impl Iterator<Item = usize> + 'a {
    columns.iter().copied().filter(|column| {
        let numbered = table.catalog.columns[*column].input.is_of_postgres_alone();
        !numbered && !table.key.contains(column) && !table.write.immutable.contains(column)
    })
}

/// Those that only an insert writes, and that must be as they are.
pub(super) fn immutable<'a>(
    table: &'a Table,
    columns: &'a [usize],
) -> impl Iterator<Item = usize> + 'a {
    columns
        .iter()
        .copied()
        .filter(|column| !table.key.contains(column) && table.write.immutable.contains(column))
}

/// For each column that is written, the rules of which one must hold.
pub(super) fn coverage(table: &Table, columns: &[usize]) -> Vec<Vec<usize>> {
    let covering = |column: usize| {
        let names = |(index, rule): (usize, &UpdateRule)| {
            rule.columns.as_ref().is_none_or(|columns| columns.contains(&column)).then_some(index)
        };
        table.write.updates.iter().enumerate().filter_map(names).collect()
    };
    written(table, columns).map(covering).collect()
}
