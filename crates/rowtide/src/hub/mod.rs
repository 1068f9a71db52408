//! The hub joins the stream, the loads and the engines, and hands every session the frames of its
//! view.

use std::sync::Arc;

use bytes::Bytes;
use rowtide_plan::plan::Plan;
use rowtide_protocol::ErrorCode;

/// What a session is to do next.
#[derive(Debug)]
pub enum Delivery {
    /// Send this text frame (valid UTF-8).
    Frame(Bytes),
    /// Say this error and close. Nothing comes after it.
    Closed(ErrorCode, String),
}

/// One session's place in its view; dropping it leaves the view.
#[derive(Debug)]
pub struct Subscription {}

impl Subscription {
    /// Waits for the next frame. Cancel safe.
    pub async fn next(&mut self) -> Delivery {
        std::future::pending().await
    }

    /// A further frame that is already there, so that several are written with one flush.
    pub fn try_next(&mut self) -> Option<Delivery> {
        None
    }
}

/// The hub has stopped or cannot take sessions now.
#[derive(Debug, thiserror::Error)]
#[error("the server cannot take sessions at the moment: {0}")]
pub struct HubUnavailable(pub String);

/// What `/health/ready` says.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Whether new sessions would be served with rows that are up to date.
    pub ready: bool,
    /// Why, for a person.
    pub detail: String,
    /// How many `SELECT`s of rows the loads have run since the start.
    pub load_queries: u64,
    /// Open sessions.
    pub sessions: u64,
}

/// A cheap handle to the hub.
#[derive(Clone, Debug)]
pub struct Hub {}

impl Hub {
    /// The plan that serves at the moment.
    pub fn plan(&self) -> Arc<Plan> {
        unreachable!("placeholder")
    }

    /// Joins the view of this user.
    ///
    /// # Errors
    /// When the hub has stopped.
    pub async fn open(
        &self,
        _user_id: &str,
        _claims: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Subscription, HubUnavailable> {
        std::future::pending().await
    }

    /// How the hub is doing.
    pub fn health(&self) -> Health {
        Health::default()
    }
}
