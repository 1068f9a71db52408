//! What `/health/ready` says: of the replicator's side by the feed, of the gateway by itself.

use rowtide_access::Documents;
use rowtide_feed::{Feed, ReplicatorStatus};
use rowtide_gateway::Gateway;
use rowtide_protocol::Lsn;
use serde::{Serialize, Serializer};

/// How the server is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Whether new sessions would be served with rows that are up to date.
    pub ready: bool,
    /// Why, for a person.
    pub detail: String,
    /// Where the stream stands: every commit up to this LSN has been taken in by all engines. `None` as long as none runs.
    #[serde(serialize_with = "as_text")]
    pub position: Option<Lsn>,
    /// The log can bring clients up to date from this LSN on. `None` as long as there is no log, or nothing has begun in it.
    #[serde(serialize_with = "as_text")]
    pub oldest: Option<Lsn>,
    /// How many `SELECT`s of rows the loads have run since the start.
    pub load_queries: u64,
    /// How many rows these have read.
    pub loaded_rows: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Tables of the definition that do not fit their rules: the others are served. A server is ready only when all have
    /// fitted once since it started.
    #[serde(rename = "refusedTables")]
    pub rejected_tables: Vec<String>,
    /// Tables that could not be read by the last load that wanted to; who sees their rows waits.
    pub unreadable_tables: Vec<String>,
    /// Why mutations cannot be applied and wait, `None` if they do not. What is read is served all the same.
    pub mutations_wait_for: Option<String>,
    /// Why nobody can come to a live document, `None` if they can, or the definition has none. Rows are served all the same.
    pub documents_wait_for: Option<String>,
    /// Which live documents cannot be saved to their storage, and why, `None` if all can. Their edits are in the journal, and
    /// they are edited all the same.
    pub unsaved_documents: Option<String>,
}

fn as_text<S: Serializer>(position: &Option<Lsn>, serializer: S) -> Result<S::Ok, S::Error> {
    position.map(|lsn| lsn.to_string()).serialize(serializer)
}

impl Health {
    /// Looks; waits for nothing.
    pub(crate) fn of(feed: &Feed, gateway: &Gateway, documents: Option<&Documents>) -> Health {
        let (state, engines) = (feed.state(), gateway.health());
        let failing = state.log_failing.or(engines.trouble);
        let trouble = match (state.status, failing) {
            (ReplicatorStatus::Standby(reason) | ReplicatorStatus::Waiting(reason), _)
            | (ReplicatorStatus::Streaming, Some(reason)) => Some(reason),
            (ReplicatorStatus::Starting, _) => Some("catching up with the stream".to_owned()),
            (ReplicatorStatus::Streaming, None) if engines.position.is_none() => {
                Some("engines are starting".to_owned())
            }
            (ReplicatorStatus::Streaming, None) => None,
        };
        let missing = state.incomplete.into_iter().chain(gateway.auth().missing_keys());
        let mut troubles: Vec<String> = trouble.into_iter().chain(missing).collect();
        // What is missing may be why nothing is served.
        troubles.dedup();
        let ready = troubles.is_empty();
        let mutations_wait_for = gateway.mutations_wait_for();
        let documents_wait_for = documents.and_then(Documents::missing);
        let unsaved_documents = documents.and_then(Documents::unsaved);
        let detail = if ready {
            let of_mutations = mutations_wait_for.iter().map(|why| ("mutations", why));
            let waiting =
                of_mutations.chain(documents_wait_for.iter().map(|why| ("documents", why)));
            let waiting = waiting.map(|(what, why)| format!("; {what} wait: {why}"));
            let unsaved =
                unsaved_documents.iter().map(|why| format!("; documents are not saved: {why}"));
            format!("streaming{}", waiting.chain(unsaved).collect::<String>())
        } else {
            troubles.join("; ")
        };
        Health {
            ready,
            detail,
            position: engines.position,
            oldest: state.log.map(|log| log.oldest),
            load_queries: engines.load_queries,
            loaded_rows: engines.loaded_rows,
            sessions: engines.sessions,
            rejected_tables: state.rejected_tables.into_iter().map(|(table, _)| table).collect(),
            unreadable_tables: engines.unreadable_tables,
            mutations_wait_for,
            documents_wait_for,
            unsaved_documents,
        }
    }
}
