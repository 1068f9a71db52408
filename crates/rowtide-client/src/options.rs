//! The settings of a client: which server it connects to, and who it is there. They do not change while the
//! client runs. So they hold a source of tokens and not a token, which would expire before the client ends.

use std::sync::Arc;

/// Returns a token, or `None` where nobody is signed in: the client then connects without one, which the server lets in
/// if the definition does, to read what everyone sees. The client calls it for each connect.
pub type TokenSource = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// The settings of a client.
#[derive(Clone)]
pub struct ClientOptions {
    /// `ws://…/sync` or `wss://…/sync`.
    pub url: String,
    /// The source of tokens.
    pub token: TokenSource,
    /// The id of this client's queue of mutations: 8 to 64 of `A-Z a-z 0-9 _ -`. A stored queue keeps the id
    /// that it began with.
    pub client_id: String,
    /// The application's version, if it has one.
    pub app_version: Option<i64>,
}
