//! Checks the tables of a plan. A finding is a problem or a possible improvement, with the SQL for it.

use crate::catalog::{Catalog, CatalogTable, ReplicaIdentity};
use crate::compile::{compile, instead_of_full};
use crate::definition::Definition;
use crate::error::DefinitionError;
use crate::plan::{Plan, Table};
use crate::sql::{quote_identifier, quote_table};
use crate::value::ColumnType;

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
/// streamed, rules that allow what can never be, and what makes Postgres reject the application's own writes.
pub fn check_plan(plan: &Plan) -> Vec<Problem> {
    let mut problems = Vec::new();
    for table in &plan.tables {
        problems.extend(rejected_writes(&table.catalog));
        problems.extend(inserts_of_nobody(table));
        let left_out = not_streamed(table).map(|what| Problem { what, repair: None, fatal: false });
        problems.extend(left_out);
    }
    let note = |what, repair| Problem { what, repair, fatal: false };
    for table in &plan.tables {
        let catalog = &table.catalog;
        let quoted = quote_table(&catalog.schema, &catalog.name);
        let mut anchors: Vec<usize> =
            table.branches.iter().filter_map(|branch| plan.branch(*branch).anchor).collect();
        anchors.sort_unstable();
        anchors.dedup();
        for anchor in anchors {
            let column = &catalog.columns[anchor].name;
            if anchor_index(catalog, column).is_none() {
                let name = quote_identifier(column);
                let is_array = catalog.columns[anchor].kind.element().is_some();
                let of_elements = if is_array { "USING gin " } else { "" };
                let repair =
                    format!("CREATE INDEX CONCURRENTLY ON {quoted} {of_elements}({name});");
                let what = format!(
                    "no index serves the anchor {name} of {quoted}: every load reads the whole table"
                );
                problems.push(note(what, Some(repair)));
            }
        }
        for key in &table.key {
            let column = &catalog.columns[*key];
            if column.kind == ColumnType::Int && column.type_name == "bigint" && table.published {
                let name = quote_identifier(&column.name);
                let what = format!(
                    "the key {name} of {quoted} is a bigint: JavaScript clients lose digits beyond 2^53"
                );
                problems.push(note(what, None));
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

/// That a rule allows inserts, and no insert can ever be applied: clients name the key, and Postgres takes none.
fn inserts_of_nobody(table: &Table) -> Option<Problem> {
    table.write.insert.as_ref()?;
    let catalog = &table.catalog;
    let key = table.key.iter().map(|key| &catalog.columns[*key]);
    let column = key.into_iter().find(|column| column.input.is_of_postgres_alone())?;
    let (name, quoted) =
        (quote_identifier(&column.name), quote_table(&catalog.schema, &catalog.name));
    let (does, repair) = match column.input.always_identity {
        true => (
            "numbers",
            format!("ALTER TABLE {quoted} ALTER COLUMN {name} SET GENERATED BY DEFAULT;"),
        ),
        false => ("computes", "take the rule out, or make another column the key".to_owned()),
    };
    let what = format!(
        "nobody can insert into {quoted}: clients name the key of a new row, and Postgres alone {does} {name}"
    );
    Some(Problem { what, repair: Some(repair), fatal: true })
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
