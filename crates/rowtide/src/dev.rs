//! `rowtide dev`: everything that is needed to see an application live, from one command. A private
//! cluster if no database is given, the application's tables and sample data, set-up, the server, and
//! tokens to try.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use miette::{Context, IntoDiagnostic, Result, miette};
use rowtide_postgres::cluster::Cluster;
use rowtide_postgres::connect::connect;
use rowtide_postgres::migrate::migrate;
use rowtide_postgres::setup::setup;

use crate::application::Application;
use crate::auth::sign;
use crate::config::Settings;
use crate::hub::HubOptions;
use crate::server::{Server, ServerOptions};

/// How long tokens for development are good.
const TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

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

/// Runs until it is told to stop.
///
/// # Errors
/// When a step fails; what was started is stopped.
pub async fn run(options: DevOptions) -> Result<()> {
    let DevOptions { dir, application, mut settings } = options;
    let secret = secret(&dir)?;
    settings.token_secret.get_or_insert(secret.clone());
    let cluster = match &settings.database_url {
        Some(_) => None,
        None => {
            let cluster =
                Cluster::start(&dir, |step| eprintln!("{step} …")).await.into_diagnostic()?;
            if cluster.adopted() {
                eprintln!("taking over the PostgreSQL that still runs in `{}`", dir.display());
            }
            cluster.create_database(&application.name).await.into_diagnostic()?;
            settings.database_url = Some(cluster.url(&application.name));
            Some(cluster)
        }
    };
    let served = serve(&application, &settings, &secret).await;
    if let Some(cluster) = cluster {
        eprintln!("stopping PostgreSQL …");
        tokio::task::spawn_blocking(move || cluster.stop())
            .await
            .into_diagnostic()?
            .into_diagnostic()?;
    }
    served
}

async fn serve(application: &Application, settings: &Settings, secret: &str) -> Result<()> {
    let (database, names) = settings.database()?;
    let mut client = connect(&database, "dev").await.into_diagnostic()?;
    for name in migrate(&mut client, &application.migrations).await.into_diagnostic()? {
        eprintln!("applied {name}");
    }
    let tables = application.definition.tables();
    for step in setup(&client, &names, &tables).await.into_diagnostic()? {
        eprintln!("{step}");
    }
    drop(client);
    let config = settings.check()?;
    let server = Server::start(ServerOptions {
        hub: HubOptions {
            database,
            names,
            definition: application.definition.clone(),
            engines: config.engines,
            outbox_bytes: config.outbox_bytes,
        },
        auth: config.auth,
        listen: config.listen,
        max_message_bytes: config.max_message_bytes,
        sessions_per_user: config.sessions_per_user,
    })
    .await
    .into_diagnostic()?;
    tokio::select! {
        () = server.hub().wait_until_ready() => {}
        () = interrupted() => {
            server.stop().await;
            return Ok(());
        }
    }
    println!("ready http://{}", server.address());
    println!("psql '{}'", settings.database_url.as_deref().unwrap_or_default());
    for user in ["u1", "u2"] {
        println!("token {user} {}", sign(secret, user, TOKEN_LIFETIME).into_diagnostic()?);
    }
    println!("watch a user's rows in another terminal: rowtide watch --user u1");
    interrupted().await;
    eprintln!("stopping …");
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
