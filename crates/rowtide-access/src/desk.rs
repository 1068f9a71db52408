//! Where it is asked what rows say of their documents, besides what those who come are told: for effects, for what a new
//! document begins as, and for what is published. One question at a time, over one connection.

use std::sync::Arc;

use rowtide_feed::Feed;
use rowtide_postgres::connect::ConnectOptions;
use rowtide_postgres::standings::{
    STANDING_TIMEOUT, StandingAsked, StandingAsker, StandingError, Standings,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::limits::{RECONCILED_AT_ONCE, REQUESTS_AT_ONCE};

type Answer<T> = oneshot::Sender<Result<T, StandingError>>;

enum DeskRequest {
    Standings(Vec<StandingAsked>, Answer<Standings>),
    Published(Arc<str>, Option<String>, Answer<Vec<String>>),
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Desk(mpsc::Sender<DeskRequest>);

impl Desk {
    /// Starts to answer, until `stop`.
    pub(crate) fn start(database: ConnectOptions, feed: Feed, stop: CancellationToken) -> Desk {
        let (inbox, requests) = mpsc::channel(REQUESTS_AT_ONCE);
        tokio::spawn(async move { stop.run_until_cancelled(run(database, feed, requests)).await });
        Desk(inbox)
    }

    /// What somebody may do with each of these documents, and what its row says.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub(crate) async fn ask(&self, asked: Vec<StandingAsked>) -> Result<Standings, StandingError> {
        self.request(|answer| DeskRequest::Standings(asked, answer)).await
    }

    /// The ids of the next published documents of a kind behind one, in the order of their keys.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub(crate) async fn published(
        &self,
        kind: &Arc<str>,
        after: Option<String>,
    ) -> Result<Vec<String>, StandingError> {
        self.request(|answer| DeskRequest::Published(Arc::clone(kind), after, answer)).await
    }

    async fn request<T>(
        &self,
        request: impl FnOnce(Answer<T>) -> DeskRequest,
    ) -> Result<T, StandingError> {
        let (answer, answered) = oneshot::channel();
        // Nobody answers any more when the server ends.
        self.0.send(request(answer)).await.map_err(|_| StandingError::Silent)?;
        answered.await.unwrap_or(Err(StandingError::Silent))
    }
}

async fn run(database: ConnectOptions, feed: Feed, mut requests: mpsc::Receiver<DeskRequest>) {
    let mut asker = StandingAsker::new(database);
    while let Some(request) = requests.recv().await {
        let plan = feed.state().plan;
        match request {
            DeskRequest::Standings(asked, answer) => {
                let answered = match &plan {
                    Some(plan) => within(asker.ask(plan, &asked)).await,
                    None => Err(StandingError::Unfit),
                };
                looks(&feed, answered.as_ref().err());
                answer.send(answered).ok();
            }
            DeskRequest::Published(kind, after, answer) => {
                let most = RECONCILED_AT_ONCE as i64;
                let answered = match &plan {
                    Some(plan) => {
                        within(asker.published_ids(plan, &kind, after.as_deref(), most)).await
                    }
                    None => Err(StandingError::Unfit),
                };
                looks(&feed, answered.as_ref().err());
                answer.send(answered).ok();
            }
        }
    }
}

async fn within<T>(
    asks: impl Future<Output = Result<T, StandingError>>,
) -> Result<T, StandingError> {
    timeout(STANDING_TIMEOUT * 2, asks).await.unwrap_or(Err(StandingError::Silent))
}

fn looks(feed: &Feed, error: Option<&StandingError>) {
    if error.is_some_and(StandingError::asks_for_a_look) {
        feed.look();
    }
}
