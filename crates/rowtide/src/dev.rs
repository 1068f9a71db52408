//! `rowtide dev`: everything that is needed to see an application live, from one command. A private
//! cluster if no database is given, the application's tables and sample data, set-up, the server, and
//! tokens to try.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use miette::{Context, IntoDiagnostic, Result, miette};
use rowtide_postgres::cluster::Cluster;
use rowtide_postgres::connect::connect;
use rowtide_postgres::migrate::migrate;
use rowtide_postgres::setup::setup;

use crate::application::{Application, fit};
use crate::auth::sign;
use crate::config::Settings;
use crate::former_names::log_dir;
use crate::limits::TOKEN_LIFETIME;
use crate::playground::PlaygroundOptions;
use crate::server::{Server, ServerOptions};
use crate::terminal::{note, tell};

/// What `rowtide dev` is told.
#[derive(Debug)]
pub struct DevOptions {
    /// Where cluster and secret are kept.
    pub dir: PathBuf,
    /// What to run.
    pub application: Application,
    /// Settings that were given; `database_url` and `token_secret` are made if they were not.
    pub settings: Settings,
}

/// The secret of a development directory, made if it is not there.
///
/// # Errors
/// When the directory cannot be written.
pub fn secret(dir: &Path) -> Result<String> {
    let path = dir.join("token-secret");
    if let Ok(secret) = fs::read_to_string(&path) {
        return Ok(secret.trim().to_owned());
    }
    fs::create_dir_all(dir)
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot make `{}`", dir.display()))?;
    let secret: String = (0..32).map(|_| format!("{:02x}", rand::random::<u8>())).collect();
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let written = options.open(&path).and_then(|mut file| writeln!(file, "{secret}"));
    written.into_diagnostic().wrap_err_with(|| format!("cannot write `{}`", path.display()))?;
    Ok(secret)
}

/// A token for `user`, signed with the secret of a development directory.
///
/// # Errors
/// When there is no such directory.
pub fn token(dir: &Path, user: &str) -> Result<String> {
    if !dir.join("token-secret").exists() {
        let dir = dir.display();
        return Err(miette!(
            help = "start `rowtide dev` first, or name its directory with --dir",
            "there is no secret in `{dir}`"
        ));
    }
    sign(&secret(dir)?, user, TOKEN_LIFETIME).into_diagnostic()
}

/// Runs until it is told to stop, which it may be at any step.
///
/// # Errors
/// When a step fails; what was started is stopped.
pub async fn run(options: DevOptions) -> Result<()> {
    let DevOptions { dir, application, mut settings } = options;
    let stop = interrupted();
    tokio::pin!(stop);
    let secret = match &settings.token_secret {
        Some(secret) => secret.clone(),
        None => secret(&dir)?,
    };
    settings.token_secret = Some(secret.clone());
    settings
        .log_dir
        .get_or_insert_with(|| log_dir(&dir, "log", "history", None).display().to_string());
    let cluster = match &settings.database_url {
        Some(_) => {
            settings.check()?;
            None
        }
        None => {
            // A mistake is told before anything is made.
            let url = "postgres://postgres@localhost/postgres".to_owned();
            Settings { database_url: Some(url), ..settings.clone() }.check()?;
            let cluster = tokio::select! {
                // Polled first, so that a signal counts from the beginning.
                biased;
                () = &mut stop => return Ok(()),
                started = Cluster::start(&dir, |step| note!("{step} …")) => started.map_err(told)?,
            };
            if cluster.adopted() {
                note!("taking over the PostgreSQL that still runs in `{}`", dir.display());
            }
            settings.database_url = Some(cluster.url(&application.name));
            // Slots are the cluster's, and it may keep several applications, a database for each.
            settings.environment.get_or_insert(application.name.clone());
            Some(cluster)
        }
    };
    let served = async {
        let server = tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            started = start(&application, &settings, cluster.as_ref(), &secret) => started?,
        };
        let printed = tokio::select! {
            () = &mut stop => return finish(server).await,
            () = server.wait_until_ready() => print_ready(&server, &settings, &secret),
        };
        if printed.is_ok() {
            stop.await;
        }
        finish(server).await.and(printed)
    };
    let served = served.await;
    if let Some(cluster) = cluster {
        note!("stopping PostgreSQL …");
        let stopped = tokio::task::spawn_blocking(move || cluster.stop()).await;
        stopped.into_diagnostic()?.map_err(told)?;
    }
    served
}

/// An error whose words name its cause already.
fn told(error: impl std::fmt::Display) -> miette::Report {
    miette!("{error}")
}

/// Makes the database ready, and starts a server for it.
async fn start(
    application: &Application,
    settings: &Settings,
    cluster: Option<&Cluster>,
    secret: &str,
) -> Result<Server> {
    if let Some(cluster) = cluster {
        cluster.create_database(&application.name).await.map_err(told)?;
    }
    let config = settings.check()?;
    let mut client = connect(&config.database, "dev").await.map_err(told)?;
    for name in migrate(&mut client, &application.migrations).await.map_err(told)? {
        note!("applied {name}");
    }
    fit(&client, &application.definition).await?;
    let tables = application.definition.tables();
    for step in setup(&client, &config.names, &tables).await.map_err(told)? {
        note!("{step}");
    }
    drop(client);
    let mut options = ServerOptions::new(config, application.definition.clone());
    options.schemas.clone_from(&application.schemas);
    // Whoever opens it can be anyone, so it is not for others to reach.
    options.playground = options.listen.ip().is_loopback().then(|| PlaygroundOptions {
        application: application.name.clone(),
        database_url: settings.database_url.clone().unwrap_or_default(),
        secret: secret.to_owned(),
    });
    Server::start(options).await.map_err(told)
}

fn print_ready(server: &Server, settings: &Settings, secret: &str) -> Result<()> {
    tell!("ready http://{}", server.address());
    tell!("psql '{}'", settings.database_url.as_deref().unwrap_or_default());
    for user in ["u1", "u2"] {
        tell!("token {user} {}", sign(secret, user, TOKEN_LIFETIME).map_err(told)?);
    }
    if server.address().ip().is_loopback() {
        tell!("see two people side by side: open http://{} in a browser", server.address());
    }
    tell!("watch a user's rows in another terminal: rowtide watch --user u1");
    Ok(())
}

async fn finish(server: Server) -> Result<()> {
    note!("stopping …");
    server.stop().await;
    Ok(())
}

/// Waits for Ctrl-C or a request to end.
pub(crate) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        drop(tokio::signal::ctrl_c().await);
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
