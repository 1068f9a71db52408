//! What becomes of a session that comes, before it has a place: which engine it is put into, whether it has to wait
//! for engines, and why it gets none. Engines that run serve whatever the replicator is doing: as long as there is a
//! generation there is something to tell. Whoever reads the feed's state and waits for another one is `engines.rs`.
//! Pure.

use std::sync::Arc;

use rowtide_engine::{Opening, SessionId, Subscribing, SubscriptionId};
use rowtide_feed::ReplicatorStatus;
use rowtide_plan::claims::Claims;
use rowtide_plan::plan::Plan;
use rowtide_plan::queries::BadParams;
use rowtide_postgres::mutate::Author;
use rowtide_protocol::{Cursor, Epoch, Lsn, Subscribe, SubscriptionCode};
use thiserror::Error;

use crate::limits::{SUBSCRIPTION_BYTES, SUBSCRIPTIONS_PER_SESSION};

/// Why a session gets no place.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NotServing {
    /// Another server has the slot or the log.
    #[error("this server stands by: {0}")]
    Standby(String),
    /// There is nothing to serve from yet.
    #[error("this server is not ready: {0}")]
    NotReady(String),
    /// What is known of the client was read before the epoch began.
    #[error("the server has begun anew meanwhile")]
    Outdated,
    /// This one stops.
    #[error("the server is stopping")]
    Stopped,
}

/// A position of the database, with the epoch that was served when it was read: in one that began since, the database
/// may have another history, in which the position means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Until {
    /// The position.
    pub lsn: Lsn,
    /// The epoch; `None` if none was served.
    pub epoch: Option<Epoch>,
}

/// What a session that comes wants.
#[derive(Clone, Debug)]
pub struct OpenRequest {
    /// What it sees is decided by these; `None` of somebody without a token.
    pub author: Option<Arc<Author>>,
    /// Whose acknowledgements it is told, if those of a client.
    pub client: Option<Box<str>>,
    /// The mutation up to which the client knows every outcome; `None` for one that does not number them.
    pub told: Option<u64>,
    /// Its first rows must not be older.
    pub not_before: Option<Until>,
    /// What the client has from before.
    pub cursor: Option<Cursor>,
    /// What it is subscribed to. Those that are refused are for the session to tell.
    pub subscriptions: Vec<Subscribe>,
}

/// What a look at the server comes to for a session that wants a place. `S` is what serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entrance<S> {
    /// It is put into an engine of these.
    Open {
        /// The engines that run.
        serving: S,
        /// The position of [`OpenRequest::not_before`], in their epoch: its first rows must not be older.
        not_before: Option<Lsn>,
    },
    /// There are no engines yet: it is looked at again when there are, or the replicator says something else.
    NotYet,
    /// It gets no place.
    Closed(NotServing),
}

/// What becomes of a session that comes. `ended`: the engines are over for good, because the server stops and has
/// drained. `serving` are the engines that run, if some do, with their epoch, and `status` is the replicator's now.
pub fn look<S>(
    ended: bool,
    serving: Option<(Epoch, S)>,
    status: &ReplicatorStatus,
    request: &OpenRequest,
) -> Entrance<S> {
    if ended {
        return Entrance::Closed(NotServing::Stopped);
    }
    match (serving, request.not_before, status) {
        (Some((_, serving)), None, _) => Entrance::Open { serving, not_before: None },
        (Some((epoch, serving)), Some(until), _) if until.epoch == Some(epoch) => {
            Entrance::Open { serving, not_before: Some(until.lsn) }
        }
        // What was read belongs to a history that may be over.
        (Some(_), Some(_), _) => Entrance::Closed(NotServing::Outdated),
        (None, _, ReplicatorStatus::Standby(why)) => {
            Entrance::Closed(NotServing::Standby(why.clone()))
        }
        (None, _, _) => Entrance::NotYet,
    }
}

/// Why a session that has waited for as long as it may gets no place.
pub fn timed_out(status: &ReplicatorStatus) -> NotServing {
    match status {
        ReplicatorStatus::Standby(why) => NotServing::Standby(why.clone()),
        ReplicatorStatus::Waiting(why) => NotServing::NotReady(why.clone()),
        ReplicatorStatus::Starting | ReplicatorStatus::Streaming => {
            NotServing::NotReady("engines are starting".to_owned())
        }
    }
}

impl OpenRequest {
    /// What its engine is told of the session, and which of so many `engines` that is: those who see the same are in
    /// one engine, and share a view there. `not_before` is what [`look`] has said.
    pub fn place(
        &self,
        plan: &Plan,
        engines: usize,
        session: SessionId,
        not_before: Option<Lsn>,
    ) -> (usize, Opening) {
        let claims = claims_of(plan, self.author.as_deref());
        let (subscriptions, refused) = subscribing(plan, &claims, &self.subscriptions);
        let engine = engine_of(&claims, engines);
        // Which rows the client has for what is refused is not known, so that it begins anew.
        let cursor = self.cursor.filter(|_| refused.is_empty());
        let client = self.client.clone();
        (engine, Opening { session, claims, client, not_before, cursor, subscriptions })
    }
}

/// The claims of somebody, as a plan asks for them.
pub(crate) fn claims_of(plan: &Plan, author: Option<&Author>) -> Claims {
    match author {
        Some(author) => plan.resolve_claims(&author.user_id, &author.claims),
        None => plan.claims_of_nobody(),
    }
}

/// A subscription that is refused: its id, and why.
pub(crate) type Refused = (u64, SubscriptionCode, String);

/// What somebody with these claims asks for, as far as they may, and what is refused.
pub(crate) fn subscribing(
    plan: &Plan,
    claims: &Claims,
    asked: &[Subscribe],
) -> (Vec<Subscribing>, Vec<Refused>) {
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    for subscribe in asked {
        match subscribing_one(plan, claims, subscribe, (taken.len(), bytes)) {
            Ok(subscribing) => {
                taken.push(subscribing);
                bytes += bytes_of(subscribe);
            }
            Err(why) => refused.push(why),
        }
    }
    (taken, refused)
}

/// How many bytes of [`SUBSCRIPTION_BYTES`] a subscription takes.
pub(crate) fn bytes_of(asked: &Subscribe) -> usize {
    // A map of JSON always has a text.
    asked.query.len() + serde_json::to_string(&asked.params).map_or(0, |json| json.len())
}

/// What somebody asks for who has so many `others`, of so many bytes.
///
/// # Errors
/// When they may not have it.
pub(crate) fn subscribing_one(
    plan: &Plan,
    claims: &Claims,
    asked: &Subscribe,
    (others, bytes): (usize, usize),
) -> Result<Subscribing, Refused> {
    let id = asked.id;
    if others >= SUBSCRIPTIONS_PER_SESSION {
        let message = format!("a session has at most {SUBSCRIPTIONS_PER_SESSION} subscriptions");
        return Err((id, SubscriptionCode::TooMany, message));
    }
    if bytes + bytes_of(asked) > SUBSCRIPTION_BYTES {
        let message = format!(
            "the subscriptions of a session have at most {SUBSCRIPTION_BYTES} bytes of queries and parameters"
        );
        return Err((id, SubscriptionCode::TooMany, message));
    }
    match plan.select(claims, &asked.query, &asked.params) {
        Ok((query, claims)) => Ok(Subscribing { id: SubscriptionId(id), query, claims }),
        Err(why) => {
            let code = match why {
                BadParams::Unfit { .. } => SubscriptionCode::Unavailable,
                _ => SubscriptionCode::BadRequest,
            };
            Err((id, code, why.to_string()))
        }
    }
}

fn engine_of(claims: &Claims, engines: usize) -> usize {
    // Less than `engines`, so it fits.
    (claims.view_id().0 % engines.max(1) as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Map;

    use super::*;
    use crate::testing::plan;

    const EPOCH: Epoch = Epoch(7);

    fn request(user: &str, not_before: Option<Until>) -> OpenRequest {
        let author = Some(Arc::new(Author { user_id: user.to_owned(), claims: Map::new() }));
        let (client, subscriptions) = (Some("c".into()), Vec::new());
        OpenRequest { author, client, told: None, not_before, cursor: None, subscriptions }
    }

    fn every_status() -> [ReplicatorStatus; 4] {
        let why = || "why".to_owned();
        [
            ReplicatorStatus::Starting,
            ReplicatorStatus::Streaming,
            ReplicatorStatus::Standby(why()),
            ReplicatorStatus::Waiting(why()),
        ]
    }

    #[test]
    fn whoever_comes_enters_engines_that_run_whatever_the_replicator_does() {
        let until = |epoch| Some(Until { lsn: Lsn(3), epoch });
        for status in every_status() {
            let look = |of| look(false, Some((EPOCH, ())), &status, &request("ann", of));
            let open = |not_before| Entrance::Open { serving: (), not_before };
            assert_eq!(look(None), open(None));
            assert_eq!(look(until(Some(EPOCH))), open(Some(Lsn(3))));
            for other in [None, Some(Epoch(6)), Some(Epoch(8))] {
                assert_eq!(look(until(other)), Entrance::Closed(NotServing::Outdated));
            }
        }
    }

    #[test]
    fn without_engines_one_waits_unless_another_server_serves() {
        let [starting, streaming, standby, waiting] = every_status();
        // However old what is known of the client is: it is asked for again when there is an epoch.
        for not_before in [None, Some(Until { lsn: Lsn(3), epoch: Some(EPOCH) })] {
            let look = |status| look::<()>(false, None, status, &request("ann", not_before));
            let closed = Entrance::Closed(NotServing::Standby("why".to_owned()));
            assert_eq!(look(&standby), closed);
            for status in [&starting, &streaming, &waiting] {
                assert_eq!(look(status), Entrance::NotYet);
            }
        }
    }

    #[test]
    fn who_has_waited_too_long_hears_what_the_replicator_waits_for() {
        let [starting, streaming, standby, waiting] = every_status();
        let starts = NotServing::NotReady("engines are starting".to_owned());
        assert_eq!(timed_out(&starting), starts);
        assert_eq!(timed_out(&streaming), starts);
        assert_eq!(timed_out(&standby), NotServing::Standby("why".to_owned()));
        assert_eq!(timed_out(&waiting), NotServing::NotReady("why".to_owned()));
    }

    #[test]
    fn nobody_enters_once_the_engines_are_over() {
        for status in every_status() {
            for serving in [None, Some((EPOCH, ()))] {
                let entrance = look(true, serving, &status, &request("ann", None));
                assert_eq!(entrance, Entrance::Closed(NotServing::Stopped));
            }
        }
    }

    #[test]
    fn who_sees_the_same_is_in_one_engine_and_all_engines_are_used() {
        let plan = plan();
        let place = |user: &str, session| {
            request(user, None).place(&plan, 4, SessionId(session), Some(Lsn(9)))
        };
        let mut used = BTreeSet::new();
        for number in 0..40 {
            let user = format!("user-{number}");
            let (engine, opening) = place(&user, number);
            assert_eq!(place(&user, number + 100).0, engine);
            assert_eq!((opening.session, opening.not_before), (SessionId(number), Some(Lsn(9))));
            used.insert(engine);
        }
        assert_eq!(used, BTreeSet::from([0, 1, 2, 3]));
    }
}
