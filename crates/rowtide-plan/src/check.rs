//! Checks the tables of a plan. A finding is a problem or a possible improvement, with the SQL for it.

mod queries;
mod windows;

use std::collections::BTreeSet;

use self::queries::{asked_for_by_nobody, selected_from_all};
pub(crate) use self::windows::window_index;
use self::windows::windows_without_index;
use crate::catalog::{Catalog, CatalogColumn, CatalogTable, ReplicaIdentity};
use crate::compile::{compile, instead_of_full};
use crate::definition::Definition;
use crate::error::DefinitionError;
use crate::filter::Operand;
use crate::plan::{Branch, Plan, Source, Table};
use crate::sql::{quote_identifier, quote_table};
use crate::value::{ColumnType, Int8Form};

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A sentence.
    pub what: String,
    /// The SQL that repairs it, or what else to do.
    pub repair: Option<String>,
    /// Whether the server cannot serve the plan like this.
    pub fatal: bool,
}

/// The plan as it will be once setup has given every table a replica identity that holds the whole old
/// row, and the tables that have a smaller one now.
///
/// # Errors
/// With everything that does not fit even then.
pub fn plan_once_set_up(
    definition: &Definition,
    catalog: &Catalog,
) -> Result<(Plan, Vec<Problem>), DefinitionError> {
    let mut set_up = catalog.clone();
    for table in set_up.tables.iter_mut().filter(|table| table.streaming.full_rejected.is_none()) {
        table.replica_identity = ReplicaIdentity::Full;
        let partitions = &mut table.streaming.partitions;
        partitions.iter_mut().for_each(|part| part.replica_identity = ReplicaIdentity::Full);
    }
    let plan = compile(definition, &set_up)?;
    let problems = match compile(definition, catalog) {
        Ok(_) => Vec::new(),
        Err(error) => error
            .problems
            .into_iter()
            .map(|problem| {
                let what = format!("{}: {}", problem.message, problem.label);
                Problem { what, repair: problem.help, fatal: true }
            })
            .collect(),
    };
    Ok((plan, problems))
}

/// Looks at the tables of a plan: an index for every anchor, keys that JavaScript can hold, columns that are not
/// streamed, values that every view keeps, rules that allow what can never be, and what makes Postgres reject the
/// application's own writes.
pub fn check_plan(plan: &Plan) -> Vec<Problem> {
    let mut problems = Vec::new();
    for table in &plan.tables {
        problems.extend(rejected_writes(&table.catalog));
        problems.extend(given_away(plan, table));
        problems.extend(needed_and_hidden(table));
        problems.extend(compared_with_itself(table));
        problems.extend(asked_for_by_nobody(plan, table));
        problems.extend(selected_from_all(plan, table));
        let left_out = not_streamed(table).map(|what| Problem { what, repair: None, fatal: false });
        problems.extend(left_out);
    }
    let note = |what, repair| Problem { what, repair, fatal: false };
    for table in &plan.tables {
        let catalog = &table.catalog;
        let quoted = quote_table(&catalog.schema, &catalog.name);
        problems.extend(windows_without_index(plan, table));
        let whole = reached(plan, table).filter(|branch| branch.window.is_none());
        let mut anchors: Vec<usize> = whole.filter_map(|of| of.anchor).collect();
        anchors.sort_unstable();
        anchors.dedup();
        for anchor in anchors {
            let column = &catalog.columns[anchor].name;
            if anchor_index(catalog, column).is_none() {
                let name = quote_identifier(column);
                let is_array = catalog.columns[anchor].kind.element().is_some();
                let of_elements = if is_array { "USING gin " } else { "" };
                // Postgres makes none of a partitioned table so.
                let beside = if catalog.streaming.partitioned { "" } else { " CONCURRENTLY" };
                let repair = format!("CREATE INDEX{beside} ON {quoted} {of_elements}({name});");
                let what = format!(
                    "no index serves the anchor {name} of {quoted}: every load reads the whole table"
                );
                problems.push(note(what, Some(repair)));
            }
        }
        if reached(plan, table).any(is_held_whole) {
            let what = format!(
                "no column finds the rows of {quoted} that its rule asks other tables for: all of it is held in memory"
            );
            problems.push(note(what, None));
        }
        for column in copied(plan, table) {
            let name = quote_identifier(&catalog.columns[column].name);
            let what = format!(
                "a rule asks for all values of {name} of {quoted}, whoever the user is: each view keeps all of them"
            );
            let repair = "nest it in the membership that finds the rows: `a IN (SELECT … WHERE … AND b IN (SELECT …))`";
            problems.push(note(what, Some(repair.to_owned())));
        }
        for key in &table.key {
            let column = &catalog.columns[*key];
            let is_number = plan.form_of(column) == Int8Form::Number;
            let is_int8 = column.kind == ColumnType::Int && column.input.is_int8;
            if is_int8 && is_number && table.published {
                let name = quote_identifier(&column.name);
                let what = format!(
                    "the key {name} of {quoted} is a bigint: JavaScript clients lose digits beyond 2^53"
                );
                let repair = "int8 = \"string\" in [app], where no older clients are served";
                problems.push(note(what, Some(repair.to_owned())));
            }
        }
    }
    problems
}

/// That Postgres rejects the application's updates and deletes of a table as it is.
pub fn rejected_writes(catalog: &CatalogTable) -> Option<Problem> {
    let rejected = catalog.streaming.full_rejected.as_ref()?;
    let partitions = catalog.streaming.partitions.iter().map(|part| &part.replica_identity);
    let mut identities = partitions.chain([&catalog.replica_identity]);
    identities.any(|identity| *identity == ReplicaIdentity::Full).then_some(())?;
    let quoted = quote_table(&catalog.schema, &catalog.name);
    let what = format!(
        "Postgres rejects every update and delete of table {quoted}, also the application's own"
    );
    let repair = Some(instead_of_full(rejected, &quoted));
    Some(Problem { what, repair, fatal: true })
}

/// That a rule for updates asks whose a row was, and not whose it will be.
fn given_away(plan: &Plan, table: &Table) -> Vec<Problem> {
    let catalog = &table.catalog;
    let quoted = quote_table(&catalog.schema, &catalog.name);
    let mut problems = Vec::new();
    for rule in &table.write.updates {
        let named = rule.allow.prefixed();
        let is_of_old_alone =
            !named.old.is_empty() && named.new.is_empty() && !rule.allow.is_bare();
        let decides = |column: usize| {
            let name = &catalog.columns[column].name;
            named.compared.contains(name) && !named.new.contains(name)
                || is_of_old_alone && decides_who_sees(plan, table, column)
        };
        let all: Vec<usize> = (0..catalog.columns.len()).collect();
        let written = rule.columns.as_deref().unwrap_or(&all);
        let written = written.iter().copied().filter(|column| {
            let fixed = [&table.key, &table.write.immutable, &table.write.readonly, &table.hidden];
            !fixed.iter().any(|columns| columns.contains(column))
                && !catalog.columns[*column].input.is_of_postgres_alone()
        });
        let names: Vec<String> = written
            .filter(|column| decides(*column))
            .map(|column| quote_identifier(&catalog.columns[column].name))
            .collect();
        if names.is_empty() {
            continue;
        }
        let what = format!(
            "whoever may update a row of {quoted} may hand it to somebody else: the rule names `old` alone, and {} \
             may be written, which says whose it is",
            names.join(", ")
        );
        // What has no prefix is in a subquery of the subquery's own tables first.
        let instead = match rule.allow.tables() {
            [] => "leave `old.` out".to_owned(),
            _ => format!("write `{}.` in place of `old.`", quote_identifier(&catalog.name)),
        };
        let repair = format!(
            "{instead}, so that the rule must hold of the row as it will be, too; or make the column immutable"
        );
        problems.push(Problem { what, repair: Some(repair), fatal: false });
    }
    problems
}

/// That a rule compares a column of a subquery with itself, because the row's has no prefix.
fn compared_with_itself(table: &Table) -> Vec<Problem> {
    let catalog = &table.catalog;
    let quoted = quote_table(&catalog.schema, &catalog.name);
    let rows = ["old", "new", catalog.name.as_str()];
    let mut problems = Vec::new();
    for rule in table.write.rules().filter(|rule| !rule.tables().is_empty()) {
        let same = rule.prefixed().same.iter();
        for (prefix, column) in same.filter(|(prefix, _)| !rows.contains(&prefix.as_str())) {
            let (prefix, column) = (quote_identifier(prefix), quote_identifier(column));
            let what = format!(
                "a rule for {quoted} compares {prefix}.{column} with {column}: where {prefix} is of a subquery, that is the \
                 same column, and not the row's"
            );
            let repair =
                format!("write {}.{column} for that of the row", quote_identifier(&catalog.name));
            problems.push(Problem { what, repair: Some(repair), fatal: false });
        }
    }
    problems
}

/// Whether `visible` compares a column with a claim, or finds it by a membership.
fn decides_who_sees(plan: &Plan, table: &Table, column: usize) -> bool {
    table.branches.iter().map(|branch| plan.branch(*branch)).any(|branch| {
        let mut is_compared = branch.published && branch.anchor == Some(column);
        branch.claim_filter.0.operands(&mut |operand| {
            let of = operand.column().and_then(|kept| table.kept.get(kept));
            is_compared |= of == Some(&column);
        });
        is_compared
    })
}

/// That a rule allows inserts, and Postgres needs a value that no client can give. A trigger may give it.
fn needed_and_hidden(table: &Table) -> Option<Problem> {
    table.write.insert.as_ref()?;
    let catalog = &table.catalog;
    let is_needed = |column: &&CatalogColumn| {
        let input = &column.input;
        column.not_null && input.default.is_none() && !input.is_of_postgres_alone()
    };
    let hidden = table.hidden.iter().map(|column| &catalog.columns[*column]);
    let column = hidden.into_iter().find(is_needed)?;
    let (name, quoted) =
        (quote_identifier(&column.name), quote_table(&catalog.schema, &catalog.name));
    let what = format!(
        "an insert into {quoted} needs a value of {name}, which clients do not get and cannot give"
    );
    let repair = format!("ALTER TABLE {quoted} ALTER COLUMN {name} SET DEFAULT …; or a trigger");
    Some(Problem { what, repair: Some(repair), fatal: false })
}

/// The columns of a table that clients are sent without, a sentence for each.
pub fn not_streamed(table: &Table) -> impl Iterator<Item = String> {
    let catalog = &table.catalog;
    let quoted = quote_table(&catalog.schema, &catalog.name);
    let published = catalog.streaming.left_out.iter().filter(|_| table.published);
    published.map(move |column| {
        let name = quote_identifier(&column.name);
        let why = if column.is_virtual {
            "is a VIRTUAL generated column, which Postgres does not publish"
        } else {
            "is a generated column, which Postgres publishes since version 18"
        };
        format!("column {name} of {quoted} {why}: clients do not get it")
    })
}

/// The branches of a table that something is loaded for.
fn reached<'a>(plan: &'a Plan, table: &'a Table) -> impl Iterator<Item = &'a Branch> {
    table.branches.iter().map(|branch| plan.branch(*branch)).filter(|branch| branch.is_reached())
}

/// Whether the rows of a branch are decided by other tables, and all of them are loaded to decide it.
fn is_held_whole(branch: &Branch) -> bool {
    let asks = branch.source == Source::Links || branch.claim_filter.0.asks_sets();
    branch.anchor.is_none() && branch.window.is_none() && asks
}

/// The columns of a table whose values are in sets of every view, and no claim says which: as indexes into the catalog's
/// columns.
fn copied(plan: &Plan, table: &Table) -> BTreeSet<usize> {
    let of_all = reached(plan, table).filter(|branch| {
        let mut names_claim = false;
        branch.claim_filter.0.operands(&mut |operand| {
            names_claim |= matches!(operand, Operand::Claim(_));
        });
        branch.source == Source::Everyone && !names_claim
    });
    let fills = of_all.flat_map(|branch| &branch.fills);
    fills.flat_map(|fill| &fill.columns).map(|column| table.kept[*column]).collect()
}

/// The index that finds rows by `column`, or by the elements of the array that it is.
pub(crate) fn anchor_index<'a>(
    catalog: &'a crate::catalog::CatalogTable,
    column: &str,
) -> Option<&'a str> {
    let is_array =
        catalog.column(column).is_some_and(|at| catalog.columns[at].kind.element().is_some());
    let serves = |index: &&crate::catalog::CatalogIndex| match (is_array, index.of_elements) {
        (true, true) => index.columns.iter().any(|of| of == column),
        (false, false) => index.columns.first().is_some_and(|first| first == column),
        _ => false,
    };
    catalog.indexes.iter().find(serves).map(|index| index.name.as_str())
}
