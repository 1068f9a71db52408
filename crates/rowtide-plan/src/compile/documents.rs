//! Live documents, held against the catalog: the table with a key that can be an id, the columns that follow the
//! document or are followed by it, and the tables that its rules look into, whose changes must be streamed for
//! anybody to notice them.

use super::Compiler;
use crate::definition::{DocumentDefinition, OLDER_TABLES, PublishingDefinition};
use crate::documents::{PlannedKind, PublishingColumns, TouchedColumn, TouchedUnit};
use crate::error::DefinitionProblem;
use crate::ids::TableId;
use crate::rule::Name;
use crate::sql::quote_identifier;
use crate::value::ColumnType;

impl Compiler<'_> {
    /// Adds a kind of documents to the plan, if all of it fits.
    pub(super) fn document(&mut self, definition: &DocumentDefinition) {
        let before = self.problems.len();
        let Ok(table) = self.synced_table(&definition.table, &definition.table_span) else {
            return;
        };
        let key = self.document_key(table, definition);
        let title = definition.title.as_ref();
        let title = title.and_then(|name| self.text(table, name, "a name"));
        let touched = definition.touched.as_ref().and_then(|name| self.touched(table, name));
        let publishing = definition.publishing.as_ref().map(|of| self.publishing(table, of));
        let source = definition.source.as_ref();
        let source = source.and_then(|name| self.text(table, name, "a source"));
        let mut looks_into = Vec::new();
        for reference in definition.looks_into() {
            if let Ok(id) = self.table(&reference.name(), &reference.span)
                && !looks_into.contains(&id)
            {
                looks_into.push(id);
            }
        }
        let Some(key) = key.filter(|_| self.problems.len() == before) else { return };
        self.plan.documents.push(PlannedKind {
            name: definition.name.clone(),
            protocol: definition.protocol,
            table,
            key,
            key_type: self.of(table, key).kind.clone(),
            read: definition.read.clone(),
            edit: definition.edit.clone(),
            alive: definition.alive.clone(),
            title,
            touched,
            restore: definition.restore.clone(),
            publishing: publishing.flatten(),
            source,
            looks_into,
        });
    }

    fn document_key(&mut self, table: TableId, definition: &DocumentDefinition) -> Option<usize> {
        let of = self.plan.table(table);
        let [key] = of.key[..] else {
            let columns = of.key.iter().map(|key| of.catalog.columns[*key].name.as_str());
            let columns: Vec<String> = columns.map(quote_identifier).collect();
            let what = format!(
                "documents need a key of one column, and `{}` has ({})",
                of.catalog.name,
                columns.join(", ")
            );
            let span = definition.table_span.clone();
            let problem = DefinitionProblem::new(span, what, "its key is the document's id");
            self.problem(problem.help("use a table whose key is one text or uuid column"));
            return None;
        };
        let column = self.of(table, key);
        if matches!(column.kind, ColumnType::Text | ColumnType::Uuid | ColumnType::Int) {
            return Some(key);
        }
        let what = format!(
            "a key of type {} cannot be the id of a document: {}",
            column.type_name,
            quote_identifier(&column.name)
        );
        let problem = DefinitionProblem::new(definition.table_span.clone(), what, "its key");
        self.problem(problem.help("the key must be text, varchar, uuid or an integer"));
        None
    }

    /// A column of text, for what is said so.
    fn text(&mut self, table: TableId, name: &Name, of: &str) -> Option<usize> {
        let index = self.column(table, name).ok()?;
        let column = self.of(table, index);
        if column.kind == ColumnType::Text {
            return Some(index);
        }
        let what = format!("{of} cannot be of type {}", column.type_name);
        let problem = DefinitionProblem::new(name.span.clone(), what, "not a text");
        self.problem(problem.help("use a column of type text or varchar"));
        None
    }

    /// The columns that say whether and how a document is published; all that is wrong with them is told.
    fn publishing(
        &mut self,
        table: TableId,
        definition: &PublishingDefinition,
    ) -> Option<PublishingColumns> {
        let published = self.column(table, &definition.published).ok();
        let published = published.filter(|index| {
            let column = self.of(table, *index);
            let fits = column.kind == ColumnType::Bool;
            if !fits {
                let what =
                    format!("whether it is published cannot be said in {}", column.type_name);
                let span = definition.published.span.clone();
                let problem = DefinitionProblem::new(span, what, "not a boolean");
                self.problem(problem.help("use a column of type boolean"));
            }
            fits
        });
        let slug = self.text(table, &definition.slug, "an address");
        let republish = definition.republish.as_ref();
        let edition = republish.map(|name| self.column(table, name).ok());
        let error = definition.error.as_ref().map(|name| self.publish_error(table, name));
        for (column, name) in [
            (published, Some(&definition.published)),
            (slug, Some(&definition.slug)),
            (edition.flatten(), republish),
        ] {
            if let (Some(column), Some(name)) = (column, name) {
                self.read_though_hidden(table, column, name);
            }
        }
        if let Some((Some(column), name)) = error.zip(definition.error.as_ref()) {
            self.known_to_older_clients(table, column, name);
        }
        Some(PublishingColumns {
            published: published?,
            slug: slug?,
            edition: match edition {
                Some(edition) => Some(edition?),
                None => None,
            },
            error: match error {
                Some(error) => Some(error?),
                None => None,
            },
        })
    }

    /// What a row says of publishing is found in what clients are sent, and beside it where they are not sent it.
    fn read_though_hidden(&mut self, table: TableId, column: usize, name: &Name) {
        if self.plan.table(table).is_sent(column) {
            return;
        }
        self.known_to_older_clients(table, column, name);
        let of = self.of(table, column);
        if of.kind.family().is_some() {
            self.keep(table, column);
            return;
        }
        let what = format!("a hidden column of type {} cannot say what is published", of.type_name);
        let problem = DefinitionProblem::new(name.span.clone(), what, "rules cannot compare it");
        self.problem(problem.help("use a number or a time, or let clients have the column"));
    }

    /// Older clients are told by these columns what became of what they asked for.
    fn known_to_older_clients(&mut self, table: TableId, column: usize, name: &Name) {
        let of = self.plan.table(table);
        let is_theirs = of.published && OLDER_TABLES.contains(&of.name.as_str());
        if self.older_clients && is_theirs && !of.is_sent(column) {
            let what = format!(
                "column {} is hidden, and older clients need it",
                quote_identifier(&name.text)
            );
            let why = "they are told by it what is published";
            let problem = DefinitionProblem::new(name.span.clone(), what, why);
            let help = "let clients have it, or take `older_clients` out of [app]";
            self.problem(problem.help(help));
        }
    }

    /// The column that says why a document is not published.
    fn publish_error(&mut self, table: TableId, name: &Name) -> Option<usize> {
        let index = self.text(table, name, "a reason")?;
        let of = self.plan.table(table);
        let column = &of.catalog.columns[index];
        let (what, label) = if of.key.contains(&index) {
            ("the key cannot say why a document is not published".to_owned(), "the key")
        } else if column.input.is_of_postgres_alone() {
            let column = quote_identifier(&column.name);
            (format!("Postgres alone writes column {column}"), "generated")
        } else {
            return Some(index);
        };
        let problem = DefinitionProblem::new(name.span.clone(), what, label);
        self.problem(problem.help("use another column, which may be null"));
        None
    }

    /// The column that is set when a document is saved.
    fn touched(&mut self, table: TableId, name: &Name) -> Option<TouchedColumn> {
        let index = self.column(table, name).ok()?;
        let of = self.plan.table(table);
        let column = &of.catalog.columns[index];
        let unit = match column.kind {
            ColumnType::Int if column.type_name == "bigint" => Some(TouchedUnit::Milliseconds),
            ColumnType::TimestampTz => Some(TouchedUnit::Timestamp),
            _ => None,
        };
        let problem = |what: String, label: &str, help: &str| {
            DefinitionProblem::new(name.span.clone(), what, label).help(help)
        };
        let problem = match unit {
            _ if of.key.contains(&index) => problem(
                "the key cannot say when a document was saved".to_owned(),
                "the key",
                "use another column",
            ),
            None => problem(
                format!("the time of a save cannot be written as {}", column.type_name),
                "not a time",
                "use a bigint, for milliseconds since 1970, or a timestamptz",
            ),
            Some(_) if column.input.is_of_postgres_alone() => problem(
                format!("Postgres alone writes column {}", quote_identifier(&column.name)),
                "generated",
                "use a plain column",
            ),
            Some(unit) => return Some(TouchedColumn { column: index, unit }),
        };
        self.problem(problem);
        None
    }
}
