//! An application to serve: its definition, and for development its migrations and sample data. Two
//! come with the binary.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::Diagnostic;
use rowtide_documents::host::{BadStorageUrl, StorageUrl};
use rowtide_documents::tlsync::TlsyncSchema;
use rowtide_plan::check::{Problem, plan_once_set_up};
use rowtide_plan::definition::Definition;
use rowtide_plan::error::DefinitionError;
use rowtide_plan::plan::Plan;
use rowtide_postgres::catalog::read_catalog;
use rowtide_postgres::check::may_use_schemas;
use rowtide_postgres::migrate::{Chosen, Migration, choose};
use rowtide_postgres::rules::prepare_rules_unlocked;
use rowtide_schema::{Bundle, SchemaLimits};
use thiserror::Error;
use tokio_postgres::Client;

/// Why an application cannot be read.
#[derive(Debug, Error, Diagnostic)]
pub enum ApplicationError {
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The definition is wrong.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Definition(#[from] DefinitionError),
    /// Postgres cannot be asked about it.
    #[error("cannot hold the definition against the database: {}", rowtide_postgres::connect::reason(.0))]
    Postgres(tokio_postgres::Error),
    /// The directory holds none.
    #[error("there are no migrations in `{}`", .0.display())]
    #[diagnostic(help(
        "files such as 1_name.sql, 1_name.up.sql or V1__name.sql, or folders with up.sql or migration.sql"
    ))]
    NoMigrations(PathBuf),
    /// There is no such example.
    #[error("there is no example `{0}`")]
    #[diagnostic(help("the examples are `files` and `tracker`"))]
    NoExample(String),
}

/// What `rowtide dev` runs.
#[derive(Clone, Debug)]
pub struct Application {
    /// Its name, also of its database.
    pub name: String,
    /// What to sync.
    pub definition: Arc<Definition>,
    /// The application's own schemas of documents, by the kind of documents.
    pub schemas: BTreeMap<String, Bundle>,
    /// Its tables, and then its sample data.
    pub migrations: Vec<Migration>,
}

struct Example {
    name: &'static str,
    definition: &'static str,
    migrations: &'static [(&'static str, &'static str)],
}

macro_rules! example_file {
    ($path:literal) => {
        include_str!(concat!("../../../examples/", $path))
    };
}

const EXAMPLES: [Example; 2] = [
    Example {
        name: "files",
        definition: example_file!("files/rowtide.toml"),
        migrations: &[
            ("0001_tables.sql", example_file!("files/migrations/0001_tables.sql")),
            (
                "0002_derived_columns.sql",
                example_file!("files/migrations/0002_derived_columns.sql"),
            ),
            ("sample.sql", example_file!("files/sample.sql")),
            ("sample_neighbours.sql", example_file!("files/sample_neighbours.sql")),
        ],
    },
    Example {
        name: "tracker",
        definition: example_file!("tracker/rowtide.toml"),
        migrations: &[
            ("0001_tables.sql", example_file!("tracker/migrations/0001_tables.sql")),
            ("sample.sql", example_file!("tracker/sample.sql")),
        ],
    },
];

impl Application {
    /// One of the examples.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn example(name: &str) -> Result<Application, ApplicationError> {
        let example = EXAMPLES
            .iter()
            .find(|example| example.name == name)
            .ok_or_else(|| ApplicationError::NoExample(name.to_owned()))?;
        let file = format!("examples/{name}/rowtide.toml");
        let migration = |(name, sql): &(&str, &str)| Migration {
            name: (*name).to_owned(),
            sql: (*sql).to_owned(),
        };
        Ok(Application {
            name: name.to_owned(),
            definition: Arc::new(Definition::parse(&file, example.definition)?),
            schemas: BTreeMap::new(),
            migrations: example.migrations.iter().map(migration).collect(),
        })
    }

    /// A definition and a directory of migrations, laid out as any of the usual tools does. Returned with the files of
    /// SQL that are in none of these layouts.
    ///
    /// # Errors
    /// When a file cannot be read, there is no migration, or the definition is wrong.
    pub fn read(
        definition: &Path,
        migrations: &Path,
    ) -> Result<(Application, Vec<String>), ApplicationError> {
        let mut paths = Vec::new();
        files_below(migrations, "", &mut paths)?;
        let Chosen { migrations: names, unknown } = choose(&paths);
        if names.is_empty() {
            return Err(ApplicationError::NoMigrations(migrations.to_owned()));
        }
        let file = |name: String| Ok(Migration { sql: read(&migrations.join(&name))?, name });
        let files = names.into_iter().map(file).collect::<Result<_, ApplicationError>>()?;
        let path = definition;
        let definition = Arc::new(read_definition(path)?);
        let schemas = read_schemas(path, &definition)?;
        // It is checked alone: what is served for development is kept beside its private database.
        read_storage(&definition)?;
        let name = "application".to_owned();
        Ok((Application { name, definition, schemas, migrations: files }, unknown))
    }
}

/// Adds the files below a directory, by their paths from there.
fn files_below(dir: &Path, prefix: &str, into: &mut Vec<String>) -> Result<(), ApplicationError> {
    let fail = |source| ApplicationError::Unreadable { path: dir.to_owned(), source };
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{prefix}{name}");
        // Not through links, which may lead in a circle.
        if path.is_dir() && !path.is_symlink() {
            files_below(&path, &format!("{name}/"), into)?;
        } else {
            into.push(name);
        }
    }
    Ok(())
}

/// The plan of a definition for the tables as they will be once they are set up, and what has to be
/// set up for it: asked before that is done, so that a mistake in the definition is told with its
/// place and nothing was changed.
///
/// # Errors
/// With all that does not fit, or when Postgres cannot be asked.
pub async fn fit(
    client: &Client,
    definition: &Definition,
) -> Result<(Plan, Vec<Problem>), ApplicationError> {
    let catalog = read_catalog(client, &definition.tables()).await;
    let catalog = catalog.map_err(ApplicationError::Postgres)?;
    let (mut plan, not_set_up) = plan_once_set_up(definition, &catalog)?;
    // Without that right Postgres takes no rule, whatever it says.
    if !may_use_schemas(client, &plan).await.map_err(ApplicationError::Postgres)? {
        return Ok((plan, not_set_up));
    }
    let rejected =
        prepare_rules_unlocked(client, &mut plan).await.map_err(ApplicationError::Postgres)?;
    let problems: Vec<_> = rejected.into_iter().flat_map(|(_, problems)| problems).collect();
    if !problems.is_empty() {
        return Err(definition.error(problems).into());
    }
    Ok((plan, not_set_up))
}

/// Reads a definition's file.
///
/// # Errors
/// When it cannot be read, or is wrong.
pub fn read_definition(path: &Path) -> Result<Definition, ApplicationError> {
    Ok(Definition::parse(&path.display().to_string(), &read(path)?)?)
}

/// Reads the application's own schemas of documents, and tries each on an empty document. `path` is that of the
/// definition's file.
///
/// # Errors
/// With what is wrong with each, at its place in the definition.
pub fn read_schemas(
    path: &Path,
    definition: &Definition,
) -> Result<BTreeMap<String, Bundle>, ApplicationError> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let (mut schemas, mut problems) = (BTreeMap::new(), Vec::new());
    for (kind, file) in definition.schemas() {
        let read = Bundle::read(&dir.join(file), &SchemaLimits::default());
        let understood = read.map_err(|error| error.to_string()).and_then(|bundle| {
            let schema = TlsyncSchema::read(bundle.description());
            schema.map(|_| bundle).map_err(|error| error.to_string())
        });
        match understood {
            Ok(bundle) => drop(schemas.insert(kind.to_owned(), bundle)),
            Err(why) => problems.extend(definition.schema_problem(kind, &why)),
        }
    }
    if problems.is_empty() { Ok(schemas) } else { Err(definition.error(problems).into()) }
}

/// Where the definition says that objects of documents are, if it does. The server's setting comes before it.
///
/// # Errors
/// When that is no storage, at its place in the definition.
pub fn read_storage(definition: &Definition) -> Result<Option<StorageUrl>, ApplicationError> {
    let url = definition.storage_url().map(str::parse).transpose();
    url.map_err(|why: BadStorageUrl| {
        let problem = definition.storage_problem(&why.to_string());
        definition.error(problem.into_iter().collect()).into()
    })
}

fn read(path: &Path) -> Result<String, ApplicationError> {
    std::fs::read_to_string(path)
        .map_err(|source| ApplicationError::Unreadable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(url: &str) -> Result<Option<StorageUrl>, (String, String)> {
        let text = format!("[storage]\nurl = {url}\n\n[tables.note]\nvisible = 'true'\n");
        let definition = Definition::parse("rowtide.toml", &text).expect("it is a definition");
        read_storage(&definition).map_err(|error| {
            let report = format!("{:?}", miette::Report::new(error));
            let place = report.lines().find(|line| line.contains("url = ")).unwrap_or_default();
            (words(&report), place.to_owned())
        })
    }

    /// What a report says, however its lines are broken.
    fn words(report: &str) -> String {
        report.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_definition_says_where_objects_are_and_is_shown_what_is_wrong_with_it() {
        let s3 = StorageUrl::S3 { bucket: "bucket".to_owned(), prefix: "prefix".to_owned() };
        assert_eq!(storage("'s3://bucket/prefix'"), Ok(Some(s3)));
        let files = StorageUrl::Files("/objects".into());
        assert_eq!(storage("'file:///objects'"), Ok(Some(files)));
        for (url, expected) in [
            ("'file:objects'", "the path of a directory from the root on"),
            ("'file://objects'", "the path of a directory from the root on"),
            ("'https://bucket'", "expected file:///directory or s3://bucket/prefix"),
            ("''", "expected file:///directory or s3://bucket/prefix"),
        ] {
            let (report, place) = storage(url).expect_err(url);
            assert!(report.contains("rowtide.toml:2:7"), "{report}");
            assert!(place.contains(url), "{report}");
            assert!(report.contains(expected), "{report}");
        }
    }

    #[test]
    fn a_secret_in_the_storage_of_a_definition_is_shown_to_nobody() {
        let secrets = [
            "'s3://key:SECRET@bucket'",
            r#""s3://key:SECRET\u0040bucket""#,
            "\"\"\"\ns3://käy:SECRET@bucket\"\"\"",
        ];
        for url in secrets {
            let (report, _) = storage(url).expect_err(url);
            assert!(report.contains("credentials, region and endpoint are variables"), "{report}");
            assert!(!report.contains("SECRET"), "{report}");
        }
        // Nor where something else is wrong beside it.
        let text = "[storage]\nurl = 's3://key:SECRET@bucket'\n[tables.note]\nvisible = 'a +'\n";
        let error = Definition::parse("rowtide.toml", text).expect_err("no rule");
        let report = format!("{:?}", miette::Report::new(error));
        assert!(report.contains("visible") && !report.contains("SECRET"), "{report}");
    }
}
