//! Names of a definition, looked up in the catalog. A table joins the plan when it is first named, with its
//! key; one that cannot be synced is a problem with its reason. A name that is not there is a problem that
//! says what was probably meant.

use super::unstreamed::unstreamed;
use super::{Compiler, Rejected};
use crate::catalog::{CatalogTable, TableName};
use crate::error::{DefinitionProblem, did_you_mean};
use crate::ids::TableId;
use crate::plan::Table;
use crate::rule::Name;
use crate::sql::{quote_identifier, quote_table};
use crate::sql_text::Span;
use crate::write_rules::WriteRules;

impl Compiler<'_> {
    /// The table with this name, whose rows are sent to clients: it needs a key.
    pub(super) fn synced_table(
        &mut self,
        name: &TableName,
        span: &Span,
    ) -> Result<TableId, Rejected> {
        let id = self.table(name, span)?;
        let catalog = &self.plan.table(id).catalog;
        if catalog.primary_key.is_empty() {
            let problem = no_key(catalog, span.clone());
            return Err(self.problem(problem));
        }
        Ok(id)
    }

    /// The table with this name. It joins the plan when it is first named. One without a key is told by all of its
    /// columns.
    pub(super) fn table(&mut self, name: &TableName, span: &Span) -> Result<TableId, Rejected> {
        if let Some(id) = self.plan.table_id(&name.schema, &name.name) {
            return Ok(id);
        }
        let Some(catalog) = self.catalog.table_of(name) else {
            let mut others = self.catalog.unstreamed.iter();
            if let Some(other) = others.find(|o| o.schema == name.schema && o.name == name.name) {
                return Err(self.problem(unstreamed(other, span.clone())));
            }
            let quoted = quote_table(&name.schema, &name.name);
            let what = format!("the database has no table {quoted}");
            let problem = DefinitionProblem::new(span.clone(), what, "unknown table");
            let here = self.catalog.tables.iter().filter(|table| table.schema == name.schema);
            let help = meant(&name.name, here.map(|table| table.name.as_str()));
            let help = help.unwrap_or_else(|| {
                "create it, or correct the name; without quotes SQL folds names to lower case"
                    .to_owned()
            });
            return Err(self.problem(problem.help(help)));
        };
        // Partitions that are made later would have no replica identity, and could not be updated.
        let keyless = catalog.primary_key.is_empty();
        if keyless && catalog.streaming.partitioned {
            let problem = no_key(catalog, span.clone());
            return Err(self.problem(problem));
        }
        let key = catalog.primary_key.iter().map(|column| catalog.column(column));
        let Some(key) = key.collect::<Option<Vec<usize>>>() else {
            let quoted = quote_table(&name.schema, &name.name);
            let what = format!("the primary key of table {quoted} has a generated column");
            let problem =
                DefinitionProblem::of_table(span.clone(), what, "the stream does not bring it");
            return Err(self.problem(problem.help("make the key of plain columns")));
        };
        let key = if keyless { (0..catalog.columns.len()).collect() } else { key };
        let wire_name = match catalog.schema.as_str() {
            "public" => catalog.name.clone(),
            schema => format!("{schema}.{}", catalog.name),
        };
        let name_json = serde_json::Value::from(wire_name.clone()).to_string();
        self.plan.tables.push(Table {
            catalog: catalog.clone(),
            name: wire_name,
            name_json,
            published: false,
            key,
            hidden: Vec::new(),
            kept: Vec::new(),
            branches: Vec::new(),
            write: WriteRules::default(),
        });
        Ok(TableId((self.plan.tables.len() - 1) as u16))
    }

    /// Why a table has no column of this name, if it has one that is not streamed.
    fn not_streamed(&self, table: TableId, name: &Name) -> Option<DefinitionProblem> {
        let catalog = &self.plan.table(table).catalog;
        let mut left_out = catalog.streaming.left_out.iter();
        let column = left_out.find(|column| column.name == name.text)?;
        let what = format!(
            "column `{}` of table `{}` is generated and not streamed",
            name.text, catalog.name
        );
        let (why, help) = if column.is_virtual {
            ("computed when it is read", "make it STORED")
        } else {
            (
                "Postgres publishes generated columns since version 18",
                "make it a plain column that a trigger fills",
            )
        };
        Some(DefinitionProblem::new(name.span.clone(), what, why).help(help))
    }

    /// The column with this name.
    pub(super) fn column(&mut self, table: TableId, name: &Name) -> Result<usize, Rejected> {
        let catalog = &self.plan.table(table).catalog;
        if let Some(index) = catalog.column(&name.text) {
            return Ok(index);
        }
        if let Some(problem) = self.not_streamed(table, name) {
            return Err(self.problem(problem));
        }
        let catalog = &self.plan.table(table).catalog;
        let names = catalog.columns.iter().map(|column| column.name.as_str());
        let outer = self.outer.last().map(|outer| &self.plan.table(*outer).catalog);
        let outer = outer.filter(|outer| outer.column(&name.text).is_some());
        let help = match outer {
            // Postgres would take it from there.
            Some(outer) => Some(format!(
                "`{outer}` has it: write `{outer}.{column}`, or an alias of `{outer}` in its place, and compare it with = in an \
                 EXISTS: `EXISTS (SELECT 1 FROM {inner} WHERE {inner}.a = {outer}.{column} AND …)`",
                outer = quote_if_needed(&outer.name),
                column = quote_if_needed(&name.text),
                inner = quote_if_needed(&catalog.name),
            )),
            None => meant(&name.text, names.clone()),
        };
        let help = help.unwrap_or_else(|| format!("it has {}", some_of(names)));
        let problem = DefinitionProblem::new(
            name.span.clone(),
            format!("table `{}` has no column `{}`", catalog.name, name.text),
            "unknown column",
        );
        Err(self.problem(problem.help(help)))
    }

    /// Those of the columns that are there; the others have been put among the problems.
    pub(super) fn columns(&mut self, table: TableId, names: &[Name]) -> Vec<usize> {
        names.iter().filter_map(|name| self.column(table, name).ok()).collect()
    }
}

/// That nothing tells the rows of a table apart.
fn no_key(catalog: &CatalogTable, span: Span) -> DefinitionProblem {
    let quoted = quote_table(&catalog.schema, &catalog.name);
    if catalog.streaming.deferrable_key {
        let what = format!("the primary key of table {quoted} is DEFERRABLE");
        let why = "two rows may have the same key within a transaction";
        let help = "make the key NOT DEFERRABLE, or add a unique index that is not, over columns that are NOT NULL";
        return DefinitionProblem::of_table(span, what, why).help(help);
    }
    let what = format!("table {quoted} has no primary key");
    let help = if catalog.streaming.partitioned {
        format!("ALTER TABLE {quoted} ADD PRIMARY KEY (…);")
    } else {
        format!(
            "ALTER TABLE {quoted} ADD PRIMARY KEY (…); or a unique index over columns that are NOT NULL"
        )
    };
    DefinitionProblem::of_table(span, what, "its rows cannot be told apart").help(help)
}

/// What was meant by a name that is not there.
fn meant<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let close = did_you_mean(wrong, names)?;
    Some(if close.to_ascii_lowercase() == wrong {
        format!("write \"{close}\" in double quotes: without them SQL folds names to lower case")
    } else {
        format!("did you mean \"{close}\"?")
    })
}

/// A name as it is written in a rule.
fn quote_if_needed(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.chars().all(plain) { name.to_owned() } else { quote_identifier(name) }
}

/// The first of these names, for people.
fn some_of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> String {
    const SHOWN: usize = 12;
    let shown: Vec<String> = names.clone().take(SHOWN).map(quote_identifier).collect();
    let more = if names.count() > SHOWN { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}
