//! From a token to topics. The claims that the rules ask for are read from the token, and the branches that
//! have a claim for their anchor name the topics that a view reaches without a link. Conditions on claims
//! alone are decided here, so that nothing is loaded in vain.

use serde_json::Map;

use crate::claims::{ClaimUse, Claims};
use crate::filter::Predicate;
use crate::ids::BranchId;
use crate::plan::{Branch, Plan, Selection, Source};
use crate::row::Topic;
use crate::value::Value;

impl Plan {
    /// The claims of a token that the rules ask for.
    pub fn resolve_claims(&self, user_id: &str, claims: &Map<String, serde_json::Value>) -> Claims {
        let resolve = |wanted: &ClaimUse| wanted.resolve(user_id, claims);
        Claims(self.claims.iter().map(resolve).collect())
    }

    /// The claims of those who have no token: null, each of them.
    pub fn claims_of_nobody(&self) -> Claims {
        Claims(self.claims.iter().map(|_| Value::Null).collect())
    }

    /// The topics that a view of this selection with these claims reaches without a link, each once. Of one branch these are
    /// several where its claim is an array.
    pub fn reached(&self, selection: Selection, claims: &Claims) -> Vec<Topic> {
        let reached = |(index, branch): (usize, &Branch)| {
            let anchors: Vec<Option<Value>> = match branch.source {
                Source::Links => Vec::new(),
                Source::Everyone => vec![None],
                Source::Claim(claim) => {
                    let value = &claims.0[usize::from(claim.0)];
                    value.anchors().cloned().map(Some).collect()
                }
            };
            // What no row can change is decided here, so that nothing is loaded in vain.
            let open = conjuncts(&branch.claim_filter.0)
                .filter(|part| !names_columns(part) && !part.asks_sets())
                .all(|part| part.judge(&[], &claims.0) == Some(true));
            let topic = move |anchor| Topic { branch: BranchId(index as u16), anchor };
            anchors.into_iter().filter(move |_| open).map(topic)
        };
        let selected = |(_, branch): &(usize, &Branch)| branch.selection == selection;
        self.branches.iter().enumerate().filter(selected).flat_map(reached).collect()
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
        found |= operand.column().is_some();
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::Claim;
    use crate::filter::{ClaimFilter, Comparison, Filter, Operand};
    use crate::ids::{ClaimId, TableId};
    use crate::value::ColumnType;

    /// Branches: by the user's id; by a workspace if the role is `admin`; for everyone; by links.
    fn plan() -> Plan {
        let named =
            |name: &str, kind| ClaimUse { claim: Claim::Named([name.to_owned()].into()), kind };
        let branch = |anchor, source, claims| Branch {
            table: TableId(0),
            anchor,
            source,
            filter: Filter(Predicate::Literal(Some(true))),
            claim_filter: ClaimFilter(claims),
            selection: Selection::Always,
            window: None,
            published: true,
            links: Vec::new(),
            fills: Vec::new(),
        };
        let all = || Predicate::Literal(Some(true));
        let admin = Predicate::Compare(
            Comparison::Equal,
            Operand::Claim(ClaimId(2)),
            Operand::Literal(Value::Text("admin".into())),
        );
        let of_the_row =
            Predicate::Compare(Comparison::Less, Operand::Column(0), Operand::Claim(ClaimId(1)));
        Plan {
            tables: Vec::new(),
            branches: vec![
                branch(Some(0), Source::Claim(ClaimId(0)), all()),
                branch(Some(1), Source::Claim(ClaimId(1)), Predicate::And(vec![of_the_row, admin])),
                branch(None, Source::Everyone, all()),
                branch(Some(0), Source::Links, all()),
            ],
            claims: vec![
                ClaimUse { claim: Claim::UserId, kind: ColumnType::Text },
                named("workspace", ColumnType::Int),
                named("role", ColumnType::Text),
            ],
            ..Plan::default()
        }
    }

    fn resolve(user_id: &str, claims: serde_json::Value) -> Claims {
        plan().resolve_claims(user_id, claims.as_object().unwrap())
    }

    #[test]
    fn nobody_reaches_what_everyone_sees() {
        let nobody = plan().claims_of_nobody();
        assert_eq!(reached(&nobody), [2]);
        // Whoever has a token that says nothing of what the rules ask for sees the same.
        let without = plan().resolve_claims("", &Map::new());
        assert_ne!(without, nobody, "text may be empty, and is not null");
    }

    fn reached(claims: &Claims) -> Vec<u16> {
        plan().reached(Selection::Always, claims).iter().map(|topic| topic.branch.0).collect()
    }

    #[test]
    fn claims_are_brought_to_the_types_of_the_rules() {
        let claims = resolve("u1", serde_json::json!({ "workspace": "7", "role": 5, "x": 1 }));
        let expected = [Value::Text("u1".into()), Value::Int(7), Value::Text("5".into())];
        assert_eq!(*claims.0, expected);
        let claims = resolve("u\0", serde_json::json!({ "workspace": "seven", "role": null }));
        assert_eq!(*claims.0, [Value::Null, Value::Null, Value::Null]);
    }

    #[test]
    fn a_view_reaches_what_its_claims_name_and_what_is_everyones() {
        let admin = serde_json::json!({ "workspace": 7, "role": "admin" });
        let topics = plan().reached(Selection::Always, &resolve("u1", admin));
        let anchors: Vec<Option<Value>> = topics.into_iter().map(|topic| topic.anchor).collect();
        assert_eq!(anchors, [Some(Value::Text("u1".into())), Some(Value::Int(7)), None]);
        let no_one = resolve("\0", serde_json::json!({}));
        assert_eq!(reached(&no_one), [2]);
    }

    #[test]
    fn a_claim_that_is_an_array_reaches_a_topic_for_each_element() {
        let mut plan = plan();
        plan.claims[1].kind = ColumnType::Array(Box::new(ColumnType::Int));
        let reached = |workspace: serde_json::Value| {
            let claims = serde_json::json!({ "role": "admin", "workspace": workspace });
            let claims = plan.resolve_claims("\0", claims.as_object().unwrap());
            plan.reached(Selection::Always, &claims)
                .into_iter()
                .map(|topic| (topic.branch.0, topic.anchor))
                .collect::<Vec<_>>()
        };
        let [seven, nine] = [7, 9].map(|number| (1, Some(Value::Int(number))));
        assert_eq!(reached(serde_json::json!([9, "7", null, 9, "x"])), [seven, nine, (2, None)]);
        assert_eq!(reached(serde_json::json!([])), [(2, None)]);
        assert_eq!(reached(serde_json::json!(7)), [(2, None)]);
        let nobody = plan.reached(Selection::Always, &plan.claims_of_nobody());
        assert_eq!(nobody, [Topic { branch: BranchId(2), anchor: None }]);
    }

    #[test]
    fn a_condition_on_claims_alone_closes_the_branch() {
        let member = serde_json::json!({ "workspace": 7, "role": "member" });
        assert_eq!(reached(&resolve("u1", member)), [0, 2]);
        let unknown = serde_json::json!({ "workspace": 7 });
        assert_eq!(reached(&resolve("u1", unknown)), [0, 2]);
    }
}
