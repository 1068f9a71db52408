//! What the commands that are clients have in common: whose rows, which server, and where mutations
//! are kept until they are acknowledged.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use miette::{Result, miette};
use rowtide_client::{Client, ClientOptions, FileStorage, Op, TokenSource};

use crate::dev;
use crate::said::said;

/// Who is the client, and of which server.
#[derive(Args, Debug)]
pub(crate) struct ClientArgs {
    /// The user, with the secret of `rowtide dev`
    #[arg(long, value_name = "ID", required_unless_present_any = ["token", "anonymous"])]
    user: Option<String>,
    /// A token
    #[arg(long, value_name = "TOKEN", conflicts_with = "user")]
    token: Option<String>,
    /// Nobody: without a token, where the definition lets such clients in
    #[arg(long, conflicts_with_all = ["user", "token"])]
    anonymous: bool,
    /// The directory of `rowtide dev`
    #[arg(long, default_value = ".rowtide", value_name = "DIR")]
    dir: PathBuf,
    /// The server
    #[arg(long, default_value = "ws://127.0.0.1:4400/sync", value_name = "URL")]
    url: String,
    /// The version that the client says it is
    #[arg(long, value_name = "NUMBER")]
    app_version: Option<i64>,
    /// A file that keeps mutations until they are acknowledged, also those of earlier runs
    #[arg(long, value_name = "FILE")]
    queue: Option<PathBuf>,
}

impl ClientArgs {
    /// Whether mutations outlive the process.
    pub(crate) fn keeps(&self) -> bool {
        self.queue.is_some()
    }

    /// A client that starts to connect.
    ///
    /// # Errors
    /// When there is no token, or the queue cannot be used.
    pub(crate) async fn connect(self, command: &str) -> Result<Client> {
        let token: TokenSource = match (self.token, self.user) {
            (Some(token), _) => Arc::new(move || Some(token.clone())),
            (None, Some(user)) => {
                let dir = self.dir;
                // Once now, so that a mistake is told at once.
                let first = dev::token(&dir, &user)?;
                Arc::new(move || Some(dev::token(&dir, &user).unwrap_or_else(|_| first.clone())))
            }
            (None, None) if self.anonymous => Arc::new(|| None),
            (None, None) => {
                return Err(miette!("say who you are: --user ID, --token TOKEN or --anonymous"));
            }
        };
        let options = ClientOptions {
            url: self.url,
            token,
            client_id: format!("{command}-{:016x}", rand::random::<u64>()),
            app_version: self.app_version,
        };
        match self.queue {
            None => Ok(Client::start(options)),
            Some(path) => {
                let storage = FileStorage::open(path).map_err(said)?;
                Client::open(options, storage).await.map_err(said)
            }
        }
    }
}

/// Reads one operation, or an array of them.
///
/// # Errors
/// With what is wrong and an example of what is right.
pub(crate) fn read_ops(text: &str) -> Result<Vec<Op>> {
    let ops = if text.trim_start().starts_with('[') {
        serde_json::from_str::<Vec<Op>>(text)
    } else {
        serde_json::from_str::<Op>(text).map(|op| vec![op])
    };
    ops.map_err(|error| {
        miette!(
            help = r#"write {"op":"update","table":"file","row":{"id":"f1","name":"Plan B"}}, or an array of such; `op` is insert, update or delete, or call: {"op":"call","name":"accept","args":{}}"#,
            "not an operation: {error}"
        )
    })
}
