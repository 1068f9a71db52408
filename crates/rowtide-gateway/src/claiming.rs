//! What the database's answers mean for those who claim client ids: who gets theirs, what they are told of mutations
//! that they do not know the outcome of, and who is told to come back, or to take a new id. Three questions are asked for
//! a batch of claims, each for those whom the answer before leaves it open for. Pure: `claims.rs` asks them.

use std::collections::HashSet;

use rowtide_postgres::client_registry::{Claimed, Outcomes, Wanted};
use rowtide_protocol::Epoch;

use crate::conversation::{Known, NoClaim};
use crate::opening::Until;
use crate::registry::{ClientClaim, ConnectionId, KnownNumbers};

/// The answer to a claim.
pub type Answer = Result<Known, NoClaim>;

/// What is known at once of a client that says so much of its mutations: one that does not number them is served as long as
/// its rows are there, whatever the database does. `None`: the database is asked.
pub fn known_at_once(known: Option<KnownNumbers>) -> Option<Known> {
    known.is_none().then(Known::default)
}

/// The answer as long as the database is not there.
pub fn away() -> NoClaim {
    NoClaim::Unavailable("the database is not there; come back later".to_owned())
}

/// ClaimBatch that are asked together. The first question: whose are they?
#[derive(Debug)]
pub struct ClaimBatch {
    claims: Vec<ClientClaim>,
    wanted: Vec<Wanted>,
    served: Option<Epoch>,
}

impl ClaimBatch {
    /// A batch of them. `served` is the epoch before anything is asked: what the database says is of its history or a
    /// later one.
    pub fn new(claims: Vec<ClientClaim>, served: Option<Epoch>) -> ClaimBatch {
        let wanted = |claim: &ClientClaim| Wanted {
            client: claim.client.to_string(),
            user: claim.user.to_string(),
            known: claim.known.acked,
            outcomes: claim.known.outcomes,
        };
        let wanted = claims.iter().map(wanted).collect();
        ClaimBatch { claims, wanted, served }
    }

    /// What is asked of `rowtide_postgres::client_registry::claim`.
    pub fn wanted(&self) -> &[Wanted] {
        &self.wanted
    }

    /// The answers, in the same order.
    pub fn claimed(self, claimed: Vec<Option<Claimed>>) -> ClaimedIds {
        let claims = self.claims.into_iter().zip(self.wanted);
        ClaimedIds {
            served: self.served,
            each: claims.zip(claimed).map(|((claim, wanted), row)| (claim, wanted, row)).collect(),
        }
    }

    /// The answer for each where the database cannot be asked.
    pub fn unavailable(self) -> Vec<(ConnectionId, Answer)> {
        self.claims.into_iter().map(|claim| (claim.connection, Err(away()))).collect()
    }
}

/// Whose the ids are. The other questions: were those removed that nobody got, and what became of the mutations of
/// those who are behind?
#[derive(Debug)]
pub struct ClaimedIds {
    served: Option<Epoch>,
    each: Vec<(ClientClaim, Wanted, Option<Claimed>)>,
}

/// Most clients know how their mutations ended.
fn is_behind(claim: &ClientClaim, claimed: &Claimed) -> bool {
    claimed.last_mutation > claim.known.outcomes
}

impl ClaimedIds {
    /// Those that nobody got: what is asked of `rowtide_postgres::client_registry::removed`.
    pub fn unclaimed(&self) -> Vec<&Wanted> {
        let each = self.each.iter();
        each.filter(|(.., claimed)| claimed.is_none()).map(|(_, wanted, _)| wanted).collect()
    }

    /// Those who are behind, with the last outcome that each knows: what is asked of
    /// `rowtide_postgres::client_registry::outcomes`, unless there are none.
    pub fn behind(&self) -> Vec<(String, u64)> {
        let behind = |(claim, _, claimed): &(ClientClaim, Wanted, Option<Claimed>)| {
            let behind = is_behind(claim, claimed.as_ref()?);
            behind.then(|| (claim.client.to_string(), claim.known.outcomes))
        };
        self.each.iter().filter_map(behind).collect()
    }

    /// The answer for each where the database cannot be asked any further.
    pub fn unavailable(self) -> Vec<(ConnectionId, Answer)> {
        self.each.into_iter().map(|(claim, ..)| (claim.connection, Err(away()))).collect()
    }

    /// The answer for each.
    pub fn answers(
        self,
        removed: &HashSet<String>,
        told: &Outcomes,
    ) -> Vec<(ConnectionId, Answer)> {
        let answer = |(claim, _, claimed): (ClientClaim, Wanted, Option<Claimed>)| {
            (claim.connection, answer(&claim, claimed, removed, told, self.served))
        };
        self.each.into_iter().map(answer).collect()
    }
}

fn answer(
    claim: &ClientClaim,
    claimed: Option<Claimed>,
    removed: &HashSet<String>,
    told: &Outcomes,
    served: Option<Epoch>,
) -> Answer {
    let Some(claimed) = claimed else {
        let again = "this `clientId` is being claimed; connect again";
        return Err(match removed.contains(&*claim.client) {
            true => NoClaim::Removed,
            false => NoClaim::Unavailable(again.to_owned()),
        });
    };
    if claimed.user_id != *claim.user {
        return Err(NoClaim::OtherUser);
    }
    let mut rejected = told.rejections.get(&*claim.client).cloned().unwrap_or_default();
    // Of the same id, another claim may know less; and what was rejected since is told by the stream.
    let known = claim.known.outcomes;
    rejected.retain(|rejection| (known + 1..=claimed.last_mutation).contains(&rejection.id));
    let mut keys = told.keys.get(&*claim.client).cloned().unwrap_or_default();
    keys.retain(|made| (known + 1..=claimed.last_mutation).contains(&made.id));
    let until = Until { lsn: told.until, epoch: served };
    let until = is_behind(claim, &claimed).then_some(until);
    Ok(Known { last_mutation: claimed.last_mutation, rejected, keys, until })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use rowtide_protocol::{Lsn, MadeKey, Rejected};

    use super::*;
    use crate::registry::{Registry, Sharing};

    const SERVED: Epoch = Epoch(3);
    const UNTIL: Until = Until { lsn: Lsn(7), epoch: Some(SERVED) };

    /// ClaimBatch of ann, each of a client that knows this much.
    fn claims(known: &[(&str, u64)]) -> ClaimBatch {
        let mut registry = Registry::new(100, Duration::ZERO);
        for (client, outcomes) in known {
            let known = Some(KnownNumbers { outcomes: *outcomes, acked: *outcomes });
            registry.arrive(client, "ann", known, Sharing::NewestWins, Duration::ZERO).unwrap();
        }
        ClaimBatch::new(registry.take_claims(Duration::ZERO, 100), Some(SERVED))
    }

    fn row(user: &str, last_mutation: u64) -> Option<Claimed> {
        Some(Claimed { user_id: user.to_owned(), last_mutation, is_unused_for_long: false })
    }

    fn rejected(id: u64) -> Rejected {
        Rejected { id, code: "forbidden".to_owned(), message: String::new() }
    }

    #[test]
    fn who_is_behind_is_told_what_was_rejected_up_to_its_last_number() {
        let claims =
            claims(&[("behind", 2), ("level", 4), ("bob's", 0), ("twice", 1), ("twice", 3)]);
        let rows = vec![row("ann", 4), row("ann", 4), row("bob", 9), row("ann", 4), row("ann", 4)];
        let claimed = claims.claimed(rows);
        let behind = claimed.behind();
        assert!(behind.contains(&("behind".to_owned(), 2)), "{behind:?}");
        assert!(behind.iter().all(|(client, _)| client != "level"), "{behind:?}");
        assert!(claimed.unclaimed().is_empty());
        let rejections = HashMap::from([
            ("behind".to_owned(), vec![rejected(3), rejected(5)]),
            ("twice".to_owned(), vec![rejected(2), rejected(4)]),
        ]);
        let made = |id| MadeKey { id, op: 0, key: serde_json::Map::new() };
        let keys = HashMap::from([("behind".to_owned(), vec![made(2), made(3), made(4), made(5)])]);
        let told = Outcomes { rejections, keys, until: Lsn(7) };
        let answers = claimed.answers(&HashSet::new(), &told);
        let answers: Vec<Answer> = answers.into_iter().map(|(_, answer)| answer).collect();
        let known =
            |rejected, until| Ok(Known { last_mutation: 4, rejected, keys: Vec::new(), until });
        let with_keys = |keys| known(vec![rejected(3)], Some(UNTIL)).map(|of| Known { keys, ..of });
        assert_eq!(answers[0], with_keys(vec![made(3), made(4)]), "5 is told by the stream");
        assert_eq!(answers[1], known(vec![], None));
        assert_eq!(answers[2], Err(NoClaim::OtherUser));
        assert_eq!(answers[3], known(vec![rejected(2), rejected(4)], Some(UNTIL)));
        assert_eq!(answers[4], known(vec![rejected(4)], Some(UNTIL)));
    }

    #[test]
    fn who_gets_no_row_comes_back_or_takes_a_new_id() {
        let claimed = claims(&[("removed", 3), ("held", 3)]).claimed(vec![None, None]);
        assert_eq!(claimed.unclaimed().len(), 2);
        let removed = HashSet::from(["removed".to_owned()]);
        let answers = claimed.answers(&removed, &Outcomes::default());
        assert_eq!(answers[0].1, Err(NoClaim::Removed));
        assert!(matches!(answers[1].1, Err(NoClaim::Unavailable(_))));
        let away = claims(&[("a", 0)]).unavailable();
        assert!(matches!(away[..], [(_, Err(NoClaim::Unavailable(_)))]));
        let away = claims(&[("a", 0)]).claimed(vec![row("ann", 1)]).unavailable();
        assert!(matches!(away[..], [(_, Err(NoClaim::Unavailable(_)))]));
        assert_eq!(known_at_once(None), Some(Known::default()));
        assert_eq!(known_at_once(Some(KnownNumbers::default())), None);
    }
}
