//! The command line. It only reads arguments and calls what does the work; errors come back here and
//! are printed for a person.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};
use miette::{Context, IntoDiagnostic, Result, miette};
use rowtide_plan::explain::explain;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::application::{Application, read_definition, read_schemas, read_storage};
use crate::config::{Config, ConfigError, Settings, as_text};
use crate::dev::{self, DevOptions, interrupted};
use crate::former_names::{FormerFlags, warn_of_former_name};
use crate::init::{InitArgs, init};
use crate::log_filter::{read_filter, without_values};
use crate::mutate;
use crate::operate::{self, Against};
use crate::said::said;
use crate::server::{Server, ServerOptions};
use crate::terminal::{hand_out, note, tell};
use crate::types::types;
use crate::watch;

/// Live copies of each user's rows of a Postgres database
#[derive(Parser)]
#[command(name = "rowtide", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to say on standard error: `error`, `warn`, `info`, `debug`, or such as `rowtide=debug` [default: info]
    #[arg(long, global = true, value_name = "FILTER")]
    log_level: Option<String>,
    /// The former name of `--log-level`.
    #[arg(long, global = true, hide = true)]
    log: Option<String>,
    /// How to say it
    #[arg(
        long,
        global = true,
        env = "ROWTIDE_LOG_FORMAT",
        default_value = "pretty",
        hide_env = true
    )]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Pretty,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Run an example, or your application, with a private PostgreSQL. DATABASE_URL is never read
    Dev(Dev),
    /// Write a draft of a definition, from the tables of an existing database
    Init(Init),
    /// Serve an existing database
    Serve(Configured),
    /// Hold the definition against the database and say what is wrong
    Check(Configured),
    /// Put what Rowtide needs into the database: its schema, replica identities, publication, slot
    Setup(Setup),
    /// Take out of the database what setup put into it
    Teardown(Teardown),
    /// Show what the definition is compiled to
    Explain(Configured),
    /// Show which documents cannot be deleted or published as their rows say, or have it tried again
    Effects(Effects),
    /// Write the tables as TypeScript, for the JavaScript client
    Types(Types),
    /// Print a token for a user of `rowtide dev`
    Token(Token),
    /// Show a user's live rows, and changes as they come
    Watch(watch::WatchArgs),
    /// Write rows as a user, and say whether it was confirmed or rejected
    Mutate(mutate::MutateArgs),
}

#[derive(Args)]
struct Configured {
    /// A file of settings, in TOML
    #[arg(long, env = "ROWTIDE_CONFIG", value_name = "FILE", hide_env = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    former: FormerFlags,
}

#[derive(Args)]
struct Init {
    #[command(flatten)]
    draft: InitArgs,
    #[command(flatten)]
    configured: Configured,
}

#[derive(Args)]
struct Setup {
    /// Print the SQL instead, as a script for psql, in parts for those who must run them; nothing is changed
    #[arg(long)]
    print: bool,
    /// The role that `rowtide serve` is going to connect as, with --print [default: the user of the database's URL]
    #[arg(long, value_name = "ROLE", requires = "print")]
    server_role: Option<String>,
    #[command(flatten)]
    configured: Configured,
}

#[derive(Args)]
struct Teardown {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print the SQL instead, as a script for psql, in parts for those who must run them; nothing is changed
    #[arg(long, conflicts_with = "yes")]
    print: bool,
    #[command(flatten)]
    configured: Configured,
}

#[derive(Args)]
struct Effects {
    /// Have it tried again: of one document, or of all
    #[arg(long)]
    repeat: bool,
    /// The document, with --repeat
    #[arg(value_name = "NAME/ID", requires = "repeat")]
    document: Option<String>,
    #[command(flatten)]
    configured: Configured,
}

#[derive(Args)]
struct Dev {
    /// Where the private PostgreSQL is kept
    #[arg(long, default_value = ".rowtide", value_name = "DIR")]
    dir: PathBuf,
    /// Which example to run: files or tracker
    #[arg(long, default_value = "files", value_name = "NAME", conflicts_with = "definition")]
    example: String,
    /// The migrations that make your application's tables, with --definition: SQL files, or what golang-migrate, sqlx,
    /// dbmate, goose, Flyway, Prisma and Diesel keep
    #[arg(long, value_name = "DIR", requires = "definition")]
    migrations: Option<PathBuf>,
    #[command(flatten)]
    configured: Configured,
}

#[derive(Args)]
struct Types {
    /// The file to write; without it they are printed
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    configured: Configured,
}

#[derive(Args)]
struct Token {
    /// The user id: the token's `sub`
    user: String,
    /// The directory of `rowtide dev`
    #[arg(long, default_value = ".rowtide", value_name = "DIR")]
    dir: PathBuf,
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = log(&cli) {
        note!("{:?}", miette::Report::from(error));
        return ExitCode::FAILURE;
    }
    allow_open_files();
    // Both libraries that use TLS take the provider that is installed first.
    drop(rustls::crypto::ring::default_provider().install_default());
    // Whoever looks at the threads of a server, such as the benchmarks, finds there what they do.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.thread_name("sessions").enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            note!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let executed = runtime.block_on(execute(cli.command));
    // A thread may wait for standard input for ever.
    runtime.shutdown_background();
    match executed {
        Ok(code) => code,
        Err(error) => {
            note!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

/// Every connection is an open file, and what is allowed at first is often but 1,024.
fn allow_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "the number of open files stays as it is");
    }
}

/// Sets up what is said on standard error.
///
/// # Errors
/// When what to say is given by both of its names in one place, or by a variable that is no text.
fn log(cli: &Cli) -> Result<(), ConfigError> {
    let variable =
        |name: &str| std::env::var_os(name).map(|value| as_text(name, value)).transpose();
    let flags = ("--log", cli.log.clone(), "--log-level", cli.log_level.clone());
    let (by_former, by_name) = ("ROWTIDE_LOG", "ROWTIDE_LOG_LEVEL");
    let variables = (by_former, variable(by_former)?, by_name, variable(by_name)?);
    let mut filter = None;
    let mut former_names = Vec::new();
    for (former_name, former, name, value) in [flags, variables] {
        if former.is_some() && value.is_some() {
            let (former, name) = (former_name.to_owned(), name.to_owned());
            return Err(ConfigError::Twice { former, name });
        }
        if former.is_some() {
            former_names.push((former_name, name));
        }
        filter = filter.or(value).or(former);
    }
    let given = filter.as_deref().unwrap_or("info");
    let filter =
        read_filter(given).map_err(|why| ConfigError::LogLevel { given: given.to_owned(), why })?;
    let writer = std::io::stderr;
    let text = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        // Of a log that cannot be written there is nobody to tell.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    let text = match cli.log_format {
        LogFormat::Pretty => text.with_target(false).boxed(),
        LogFormat::Json => text.json().boxed(),
    };
    tracing_subscriber::registry().with(without_values(filter, text)).init();
    for (former, name) in former_names {
        warn_of_former_name(former, name);
    }
    Ok(())
}

async fn execute(command: Command) -> Result<ExitCode> {
    match command {
        Command::Dev(args) => dev(args).await.map(|()| ExitCode::SUCCESS),
        Command::Init(Init { draft, configured }) => {
            init(draft, &configured.settings()?).await.map(|()| ExitCode::SUCCESS)
        }
        Command::Serve(args) => serve(args).await.map(|()| ExitCode::SUCCESS),
        Command::Check(args) => operate::check(args.settings()?).await,
        Command::Setup(args) => {
            operate::set_up(args.configured.settings()?, args.print, args.server_role).await
        }
        Command::Teardown(Teardown { print: true, configured, .. }) => {
            operate::print_teardown(configured.settings()?).await
        }
        Command::Teardown(args) => operate::tear_down(args.configured.settings()?, args.yes).await,
        Command::Explain(args) => {
            let against = Against::connect(&args.settings()?).await?;
            hand_out(&explain(&against.plan).to_string()).map(|()| ExitCode::SUCCESS)
        }
        Command::Effects(Effects { repeat, document, configured }) => {
            operate::effects(configured.settings()?, repeat, document.as_deref())
        }
        Command::Types(args) => write_types(args).await.map(|()| ExitCode::SUCCESS),
        Command::Token(args) => {
            let token = dev::token(&args.dir, &args.user)?;
            hand_out(&format!("{token}\n")).map(|()| ExitCode::SUCCESS)
        }
        Command::Watch(args) => watch::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Mutate(args) => mutate::run(args).await,
    }
}

impl Configured {
    /// What was given as flags, and all that is set.
    fn flags_and_settings(self) -> Result<(Settings, Settings)> {
        let flags = self.settings.with_former_flags(self.former)?;
        let settings = Settings::read(flags.clone(), self.config.as_deref())?;
        Ok((flags, settings))
    }

    /// All that is set.
    fn settings(self) -> Result<Settings> {
        Ok(self.flags_and_settings()?.1)
    }
}

async fn dev(args: Dev) -> Result<()> {
    let (flags, settings) = args.configured.flags_and_settings()?;
    let (settings, ignored) = settings.of_dev(&flags);
    if !ignored.is_empty() {
        note!(
            "of the environment and the configuration file, `rowtide dev` does not use {}: it has its own, and takes \
             others as flags alone",
            ignored.join(", ")
        );
    }
    let application = match (&settings.definition, &args.migrations) {
        (Some(definition), Some(migrations)) => {
            let (application, unknown) = Application::read(definition.as_ref(), migrations)?;
            for name in unknown {
                note!("left out {name}: it is in no layout of migrations that is known");
            }
            application
        }
        (Some(_), None) => return Err(miette!("--definition needs --migrations")),
        (None, _) => Application::example(&args.example)?,
    };
    dev::run(DevOptions { dir: args.dir, application, settings }).await
}

async fn serve(args: Configured) -> Result<()> {
    let config = args.settings()?.check()?;
    let definition = Arc::new(read_definition(&config.definition)?);
    let schemas = read_schemas(&config.definition, &definition)?;
    let of_definition = read_storage(&definition)?;
    let config = Config { storage: config.storage.or(of_definition), ..config };
    // One listener from the start to the end: a signal that comes between two of them is heard by neither.
    let mut stop = pin!(interrupted());
    let options = ServerOptions { schemas, ..ServerOptions::new(config, definition) };
    let server = tokio::select! {
        // Polled first, so that a signal counts from the beginning.
        biased;
        () = &mut stop => return Ok(()),
        // What the database lacks is waited for: `/health/ready` and the log name it.
        started = Server::start(options) => started.map_err(said)?,
    };
    tell!("listening http://{}", server.address());
    tokio::select! {
        () = server.wait_until_ready() => {
            tell!("ready http://{}", server.address());
            stop.await;
        }
        () = &mut stop => {}
    }
    note!("stopping …");
    server.stop().await;
    Ok(())
}

async fn write_types(args: Types) -> Result<()> {
    let text = types(&Against::connect(&args.configured.settings()?).await?.plan);
    match args.out {
        Some(path) => std::fs::write(&path, text)
            .into_diagnostic()
            .wrap_err_with(|| format!("cannot write `{}`", path.display())),
        None => hand_out(&text),
    }
}
