//! `rowtide init`: a draft of a definition, from a database that is there. What is in the draft is decided in
//! `rowtide-plan`, from facts that `rowtide-postgres` reads; here Postgres is asked about its rules for writing, it is
//! written to a file, and a person is told what comes next.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use miette::{Context, IntoDiagnostic, Result, miette};
use rowtide_plan::catalog::{Catalog, TableName};
use rowtide_plan::check::plan_once_set_up;
use rowtide_plan::definition::Definition;
use rowtide_plan::draft::{Draft, DraftFacts, RefusedWrites, draft};
use rowtide_postgres::connect::connect;
use rowtide_postgres::draft::draft_facts;
use rowtide_postgres::rules::prepare_rules;
use tokio_postgres::Client;

use crate::config::Settings;
use crate::operate::{not_asked, unreachable};
use crate::terminal::{hand_out, note};

/// What a draft is of, and where it goes.
#[derive(Args)]
pub(crate) struct InitArgs {
    /// The file to write, or - for standard output
    #[arg(long, default_value = "rowtide.toml", value_name = "FILE")]
    output: PathBuf,
    /// Write over a file that is there
    #[arg(long)]
    overwrite: bool,
    /// A schema whose tables to take, as often as there are some [default: those of the application]
    #[arg(long, value_name = "NAME")]
    schema: Vec<String>,
}

/// Writes the draft.
///
/// # Errors
/// When the database cannot be asked or has no tables to sync, or the file is there.
pub(crate) async fn init(args: InitArgs, settings: &Settings) -> Result<()> {
    let to_file = args.output != Path::new("-");
    if to_file && !args.overwrite && args.output.exists() {
        return Err(is_there(&args.output));
    }
    let (database, _) = settings.database()?;
    let client = connect(&database, "init").await.map_err(unreachable)?;
    let read = draft_facts(&client, &args.schema).await;
    let (facts, catalog) = read.map_err(|error| not_asked(&error))?;
    let source = format!("the database {}", database.database());
    if facts.tables.is_empty() {
        let looked = match args.schema.as_slice() {
            [] => String::new(),
            schemas => format!(" in schema {}", schemas.join(", ")),
        };
        return Err(miette!(
            help = "make the application's tables first; --schema NAME takes the tables of a schema that is otherwise left out",
            "there is no table{looked} in {source}"
        ));
    }
    let draft = taken(&client, &facts, &catalog, &source).await?;
    if draft.tables == 0 {
        return Err(miette!(
            help = "give each a primary key: `ALTER TABLE … ADD PRIMARY KEY (…)`",
            "no table in {source} has a key: {}",
            draft.without_key.join(", ")
        ));
    }
    if to_file {
        write(&args.output, &draft.text, args.overwrite)?;
    } else {
        hand_out(&draft.text)?;
    }
    tell_of(&draft, &args.output, to_file);
    Ok(())
}

/// The draft whose rules for writing Postgres takes.
async fn taken(
    client: &Client,
    facts: &DraftFacts,
    catalog: &Catalog,
    source: &str,
) -> Result<Draft> {
    let first = draft(facts, catalog, &RefusedWrites::new(), source);
    if first.tables == 0 {
        return Ok(first);
    }
    let definition = Definition::parse("draft", &first.text)?;
    let (mut plan, _) = plan_once_set_up(&definition, catalog)?;
    let problems = prepare_rules(client, &mut plan).await.map_err(|error| not_asked(&error))?;
    let table_of = |wire_name: &str| {
        let (schema, name) = wire_name.split_once('.').unwrap_or(("public", wire_name));
        TableName { schema: schema.to_owned(), name: name.to_owned() }
    };
    let refused: RefusedWrites = problems
        .into_iter()
        .filter_map(|(table, problems)| {
            Some((table_of(&table), problems.into_iter().next()?.message))
        })
        .collect();
    Ok(if refused.is_empty() { first } else { draft(facts, catalog, &refused, source) })
}

fn is_there(path: &Path) -> miette::Report {
    miette!(
        help = "write to another with --output FILE, to standard output with --output -, or over it with --overwrite",
        "`{}` is there already, and nothing was written",
        path.display()
    )
}

fn write(path: &Path, text: &str, overwrite: bool) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).create_new(!overwrite);
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(is_there(path)),
        other => {
            other.into_diagnostic().wrap_err_with(|| format!("cannot write `{}`", path.display()))
        }
    }
}

/// What the draft has, and what comes next.
fn tell_of(draft: &Draft, path: &Path, to_file: bool) {
    if to_file {
        note!("wrote {}, with {} tables", path.display(), draft.tables);
    }
    if !draft.unsaid.is_empty() {
        note!("nobody sees these until you write their rule: {}", draft.unsaid.join(", "));
    }
    if !draft.without_key.is_empty() {
        note!("left out, because they have no key: {}", draft.without_key.join(", "));
    }
    note!(
        "next: read it rule by rule; `rowtide check` holds it against the database, `rowtide setup` makes what is missing \
         there, and `rowtide serve` serves it"
    );
}
