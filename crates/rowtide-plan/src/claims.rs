//! The claims of a session, brought to the types that the rules compare them as. They are the whole
//! identity of a view: who has the same claims sees the same rows.

use serde_json::Map;

use crate::filter::Predicate;
use crate::plan::{BranchId, Claim, Plan, Source};
use crate::row::Topic;
use crate::value::Value;

/// One value for each of [`Plan::claims`]; null where the token has none that fits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claims(pub Box<[Value]>);

impl Plan {
    /// The claims of a token that the rules ask for.
    pub fn resolve_claims(&self, user_id: &str, claims: &Map<String, serde_json::Value>) -> Claims {
        let resolve = |wanted: &crate::plan::ClaimUse| match &wanted.claim {
            Claim::UserId => Value::parse(&wanted.kind, user_id).unwrap_or(Value::Null),
            Claim::Named(name) => {
                claims.get(name).map_or(Value::Null, |claim| Value::from_claim(&wanted.kind, claim))
            }
        };
        Claims(self.claims.iter().map(resolve).collect())
    }

    /// The topics that a view with these claims reaches without a link.
    pub fn reached(&self, claims: &Claims) -> Vec<Topic> {
        let reached = |(index, branch): (usize, &crate::plan::Branch)| {
            let anchor = match branch.source {
                Source::Links => return None,
                Source::Everyone => None,
                Source::Claim(claim) => match &claims.0[usize::from(claim.0)] {
                    Value::Null => return None,
                    value => Some(value.clone()),
                },
            };
            // What no row can change is decided here, so that nothing is loaded in vain.
            let open = conjuncts(&branch.claim_filter.0)
                .filter(|part| !names_columns(part))
                .all(|part| part.judge(&[], &claims.0) == Some(true));
            open.then_some(Topic { branch: BranchId(index as u16), anchor })
        };
        self.branches.iter().enumerate().filter_map(reached).collect()
    }
}

fn conjuncts(predicate: &Predicate) -> impl Iterator<Item = &Predicate> {
    match predicate {
        Predicate::And(parts) => parts.iter(),
        single => std::slice::from_ref(single).iter(),
    }
}

fn names_columns(predicate: &Predicate) -> bool {
    let mut found = false;
    predicate.operands(&mut |operand| {
        found |= matches!(operand, crate::filter::Operand::Column(_));
    });
    found
}
