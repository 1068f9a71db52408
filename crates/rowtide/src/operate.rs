//! What an operator does with a database: `rowtide check`, `setup` and `teardown`, and with documents: `rowtide effects`. What they find, do and want is
//! decided in `rowtide-postgres`; here it is said to a person.

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use miette::{Report, Result, miette};
use rowtide_access::{failed_effects, repeat_effects, storage_of};
use rowtide_documents::host::try_storage;
use rowtide_plan::check::{Problem, rejected_writes};
use rowtide_plan::definition::Definition;
use rowtide_plan::plan::Plan;
use rowtide_plan::secrets::sent_secrets;
use rowtide_postgres::check::{Findings, check as check_database};
use rowtide_postgres::connect::{ConnectError, ConnectOptions, Names, connect, reason};
use rowtide_postgres::setup::{
    Attended, SetupError, Torn, in_the_way, script, setup_attended, teardown, teardown_script,
    to_tear_down,
};
use rowtide_postgres::trial::Trial;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use crate::application::{ApplicationError, fit, read_definition, read_schemas, read_storage};
use crate::config::{Settings, StorageTrial};
use crate::dev::interrupted;
use crate::said::said;
use crate::terminal::{hand_out, note, tell};

/// A definition held against a database.
pub(crate) struct Against {
    client: Client,
    names: Names,
    pub(crate) plan: Plan,
    not_set_up: Vec<Problem>,
}

impl Against {
    /// Connects, and compiles the definition as it will be once it is set up.
    ///
    /// # Errors
    /// When the database cannot be reached, or the definition does not fit it.
    pub(crate) async fn connect(settings: &Settings) -> Result<Against> {
        let path = settings.definition_path();
        let definition = read_definition(&path)?;
        read_schemas(&path, &definition)?;
        read_storage(&definition)?;
        let (database, names) = settings.database()?;
        let client = connect(&database, "check").await.map_err(unreachable)?;
        let (plan, not_set_up) = fit_unlocked(&client, &definition, Some(ATTEMPTS)).await?;
        Ok(Against { client, names, plan, not_set_up })
    }

    /// What is wrong with the database as it is, and what shows when a server's way is tried.
    async fn problems(self, trial: &Trial) -> Result<Vec<Problem>> {
        let Against { client, names, plan, not_set_up: mut problems } = self;
        let failed = |error| not_asked(&error);
        let Findings { problems: found, known } =
            check_database(&client, &names, &plan).await.map_err(failed)?;
        problems.extend(found);
        let tried = trial.run(&client, &names, &Arc::new(plan), known).await.map_err(failed)?;
        for problem in tried {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        Ok(problems)
    }
}

/// How often it is tried to look at tables that somebody has locked, where nobody waits for it.
const ATTEMPTS: usize = 10;
/// How long one of these attempts waits for its locks, and others behind it.
const ATTEMPT: &str = "SET lock_timeout = '1s'";
const PAUSE: Duration = Duration::from_millis(200);

/// As [`fit`], where others may be changing the tables: says who they are, and tries again; so many times, or until they
/// have done.
async fn fit_unlocked(
    client: &Client,
    definition: &Definition,
    attempts: Option<usize>,
) -> Result<(Plan, Vec<Problem>)> {
    client.batch_execute(ATTEMPT).await.map_err(|error| not_asked(&error))?;
    let mut attempt = 1;
    loop {
        let error = match fit(client, definition).await {
            Ok(fitted) => {
                let reset = client.batch_execute("RESET lock_timeout").await;
                reset.map_err(|error| not_asked(&error))?;
                return Ok(fitted);
            }
            Err(ApplicationError::Postgres(error)) if is_locked(&error) => error,
            Err(ApplicationError::Postgres(error)) => return Err(not_asked(&error)),
            Err(error) => return Err(error.into()),
        };
        let who = in_the_way(client, &definition.tables()).await;
        let who = who.map_err(|error| not_asked(&error))?;
        if attempts == Some(attempt) {
            let who = who.map_or_else(|| reason(&error), |who| format!("locked by {who}"));
            return Err(miette!("the tables cannot be looked at: {who}"));
        }
        // Then once in a while: each attempt takes more than a second.
        if attempt % 10 == 1 {
            let who = who.as_deref().unwrap_or("others who have come and gone");
            note!("waiting: to look at the tables, it waits for {who}");
        }
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_locked(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// A question that Postgres does not answer. Where the role may not ask it, the database was hardened.
pub(crate) fn not_asked(error: &tokio_postgres::Error) -> Report {
    let why = format!("Postgres cannot be asked about the database: {}", reason(error));
    match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => miette!(
            help = "let the role read Postgres' catalogs and call its functions, as every role may by itself",
            "{why}"
        ),
        _ => said(why),
    }
}

/// A database that cannot be reached, with what may help.
pub(crate) fn unreachable(error: ConnectError) -> Report {
    match error.advice() {
        Some(advice) => miette!(help = advice, "{error}"),
        None => said(error),
    }
}

fn not_set_up(error: SetupError) -> Report {
    match error {
        SetupError::Connect(error) => unreachable(error),
        SetupError::NotAllowed { .. } => miette!(
            help = "`rowtide setup --print` prints the SQL, in parts for those who must run them",
            "{error}"
        ),
        error => not_done(error),
    }
}

fn not_torn_down(error: SetupError) -> Report {
    match error {
        SetupError::Connect(error) => unreachable(error),
        SetupError::NotAllowed { .. } => miette!(
            help = "run it with a `database_url` of a role that may do all of it, such as a superuser; \
                    `rowtide teardown --print` prints the SQL, for the owner of Rowtide's tables, in parts for those who \
                    must run them",
            "{error}"
        ),
        error => not_done(error),
    }
}

fn not_done(error: SetupError) -> Report {
    match error.advice() {
        Some(advice) => miette!(help = advice.to_owned(), "{error}"),
        None => said(error),
    }
}

/// `rowtide check`.
///
/// # Errors
/// When it cannot be checked.
pub(crate) async fn check(settings: Settings) -> Result<ExitCode> {
    let (trial, mut storage) = settings.trial()?;
    let against = Against::connect(&settings).await?;
    let environment = against.names.slot.clone();
    let definition = read_definition(&settings.definition_path())?;
    let secrets = sent_secrets(&definition, &against.plan);
    let mut problems = against.problems(&trial).await?;
    problems.extend(secrets);
    if definition.documents().next().is_some() {
        storage.url = storage.url.or(read_storage(&definition)?);
        problems.extend(storage_problems(&storage, &environment).await);
    }
    print_problems(&problems);
    if problems.iter().any(|problem| problem.fatal) {
        return Ok(ExitCode::FAILURE);
    }
    tell!("the definition fits the database");
    Ok(ExitCode::SUCCESS)
}

/// What is wrong with the storage of documents.
async fn storage_problems(storage: &StorageTrial, environment: &str) -> Vec<Problem> {
    let problem = |what| Problem { what, repair: None, fatal: true };
    // A directory that is not there yet is made when the server starts, as the user that it runs as.
    let Some(url) = &storage.url else { return Vec::new() };
    match storage_of(&storage.dir, Some(url)) {
        Ok(settings) => {
            let found = try_storage(&settings, environment).await;
            found
                .into_iter()
                .map(|what| problem(format!("the storage of documents: {what}")))
                .collect()
        }
        Err(error) => vec![problem(error.to_string())],
    }
}

fn print_problems(problems: &[Problem]) {
    for problem in problems {
        let kind = if problem.fatal { "error" } else { "note" };
        tell!("{kind}: {}", problem.what);
        if let Some(repair) = &problem.repair {
            tell!("  {repair}");
        }
    }
}

/// Runs what may have to wait, says whom for, and stops it at a signal.
async fn attended<T>(
    work: impl AsyncFnOnce(&Attended<'_>) -> Result<T, SetupError>,
) -> Result<T, SetupError> {
    let (waits, stop) = (|why: String| note!("waiting: {why}"), CancellationToken::new());
    let attended = Attended { waits: &waits, stop: &stop };
    let work = work(&attended);
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => done,
        () = interrupted() => {
            note!("stopping …");
            stop.cancel();
            // It gives up in Postgres, too, before it ends.
            work.await
        }
    }
}

/// `rowtide setup`.
///
/// # Errors
/// When it cannot be set up.
pub(crate) async fn set_up(
    settings: Settings,
    print: bool,
    server_role: Option<String>,
) -> Result<ExitCode> {
    let definition = read_definition(&settings.definition_path())?;
    let (database, names) = settings.database()?;
    let client = connect(&database, "setup").await.map_err(unreachable)?;
    let (plan, _) = fit_unlocked(&client, &definition, None).await?;
    drop(client);
    let tables = definition.tables();
    if print {
        let role = server_role.as_deref().unwrap_or(database.user());
        let script = script(&database, &names, &tables, &plan, role).await;
        hand_out(&script.map_err(not_set_up)?.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let done =
        attended(async |attended| setup_attended(&database, &names, &tables, attended).await);
    let done = done.await.map_err(not_set_up)?;
    if done.is_empty() {
        tell!("everything was there");
    }
    done.iter().for_each(|step| tell!("{step}"));
    // What others have made, and keeps the application from writing what is synced.
    let in_the_way: Vec<Problem> =
        plan.tables.iter().filter_map(|table| rejected_writes(&table.catalog)).collect();
    print_problems(&in_the_way);
    Ok(if in_the_way.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `rowtide teardown`.
///
/// # Errors
/// When it is not wanted, or cannot be done.
pub(crate) async fn tear_down(settings: Settings, yes: bool) -> Result<ExitCode> {
    let (database, names) = settings.database()?;
    let todo = to_tear_down(&database, &names).await.map_err(not_torn_down)?;
    if !yes && !todo.is_empty() {
        tell!("this will, in {}:", database.target());
        todo.iter().for_each(|step| tell!("- {step}"));
        if !agreed(&database)? {
            tell!("nothing was done");
            return Ok(ExitCode::FAILURE);
        }
    }
    let torn = attended(async |attended| teardown(&database, &names, attended).await).await;
    let Torn { done, left } = torn.map_err(not_torn_down)?;
    if done.is_empty() {
        tell!("nothing was there");
    }
    done.iter().for_each(|step| tell!("{step}"));
    left.iter().for_each(|what| tell!("left: {what}"));
    Ok(ExitCode::SUCCESS)
}

/// `rowtide teardown --print`.
///
/// # Errors
/// When the database cannot be asked, or does not tell all.
pub(crate) async fn print_teardown(settings: Settings) -> Result<ExitCode> {
    let (database, names) = settings.database()?;
    let script = teardown_script(&database, &names).await.map_err(not_torn_down)?;
    hand_out(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Asks a person at a terminal for the database's name.
fn agreed(database: &ConnectOptions) -> Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(miette!(
            help = "say --yes",
            "there is no terminal to ask at; nothing was done"
        ));
    }
    hand_out("clients lose what they have not been sent yet. The database's name, to go on: ")?;
    let mut line = String::new();
    stdin.lock().read_line(&mut line).map_err(said)?;
    Ok(line.trim() == database.database())
}

/// `rowtide effects`: what cannot be done with documents because of their rows. The server may be running or not; it is on
/// the machine that has the documents.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn effects(
    settings: Settings,
    repeat: bool,
    document: Option<&str>,
) -> Result<ExitCode> {
    let dir = settings.check()?.documents_dir;
    if repeat {
        let count = repeat_effects(&dir, document).map_err(said)?;
        tell!("{count} will be tried again");
        let is_found = count > 0 || document.is_none();
        return Ok(if is_found { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let failed = failed_effects(&dir).map_err(said)?;
    if failed.is_empty() {
        tell!("nothing has failed");
    }
    failed.iter().for_each(|one| tell!("{}: {}", one.document, one.reason));
    Ok(ExitCode::SUCCESS)
}
