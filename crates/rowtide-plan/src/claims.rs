//! Claims: which ones the rules name, and those of a session, brought to the types that the rules compare them
//! as. They are the whole identity of a view: who has the same claims sees the same rows.

use std::borrow::Cow;

use rowtide_protocol::ViewId;
use serde_json::Map;
use sha2::{Digest, Sha256};

use crate::value::{ColumnType, Value};

/// A claim of the token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// `auth.user_id`: the token's `sub`.
    UserId,
    /// `auth.claims.<name>`, or a path into it, a name for each object: `auth.claims.app_metadata.role`. Never empty.
    Named(Box<[String]>),
    /// `params.<name>` of a query: what a subscription says of it. No token has it.
    Param {
        /// The query.
        query: Box<str>,
        /// The parameter.
        name: Box<str>,
    },
}

impl Claim {
    /// What a token has there; `None` where it has nothing, or a step of the path is into something that is no object.
    fn of_token<'a>(
        &self,
        user_id: &str,
        claims: &'a Map<String, serde_json::Value>,
    ) -> Option<Cow<'a, serde_json::Value>> {
        match self {
            Claim::UserId => Some(Cow::Owned(user_id.into())),
            Claim::Named(path) => {
                let (first, steps) = path.split_first()?;
                let found = steps.iter().try_fold(claims.get(first)?, |json, step| json.get(step));
                found.map(Cow::Borrowed)
            }
            Claim::Param { .. } => None,
        }
    }
}

/// A claim, as the type of what it is compared with: a session's claims are brought to these types
/// once, when it connects. A claim that is missing or does not fit the type is null.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimUse {
    /// Which claim.
    pub claim: Claim,
    /// The type that it is compared as.
    pub kind: ColumnType,
}

impl ClaimUse {
    /// The claim of a token, brought to the type.
    pub(crate) fn resolve(&self, user_id: &str, claims: &Map<String, serde_json::Value>) -> Value {
        let json = self.claim.of_token(user_id, claims);
        json.map_or(Value::Null, |json| Value::from_claim(&self.kind, &json))
    }
}

/// One value for each of [`Plan::claims`](crate::plan::Plan::claims); null where the token has none that fits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claims(pub Box<[Value]>);

impl Claims {
    /// Names the view of these claims in cursors. Clients keep cursors, so what it is must never change: the
    /// first eight bytes, as a big-endian number, of the SHA-256 of the claims' bytes one after the other, each as
    /// [`Value::write`] has them. Claims of two plans may have one id; their epochs differ.
    pub fn view_id(&self) -> ViewId {
        let mut bytes = Vec::with_capacity(64);
        self.0.iter().for_each(|value| value.write(&mut bytes));
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(Sha256::digest(&bytes));
        ViewId(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// A claim as text that Postgres reads as `kind`; `None` (null) where the token has none that fits.
pub fn claim_text(
    claim: &Claim,
    kind: &ColumnType,
    user_id: &str,
    claims: &Map<String, serde_json::Value>,
) -> Option<String> {
    let json = claim.of_token(user_id, claims).filter(|json| !json.is_null())?;
    if kind.family().is_some() || kind.element().is_some() {
        return Value::from_claim(kind, &json).to_text(kind);
    }
    let text = match (&*json, kind) {
        (serde_json::Value::String(text), ColumnType::Other) => text.clone(),
        (json, _) => json.to_string(),
    };
    (!text.contains('\0')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_through_objects_alone() {
        let claims =
            serde_json::json!({ "app": { "role": "admin", "no": null }, "list": [{ "role": 1 }] });
        let claims = claims.as_object().unwrap();
        let text = |path: &[&str]| {
            let path = path.iter().map(|step| (*step).to_owned()).collect();
            claim_text(&Claim::Named(path), &ColumnType::Text, "ann", claims)
        };
        assert_eq!(text(&["app", "role"]).as_deref(), Some("admin"));
        assert_eq!(text(&["app"]).as_deref(), Some(r#"{"no":null,"role":"admin"}"#));
        for path in [
            &["app", "other"][..],
            &["app", "no"],
            &["app", "role", "x"],
            &["list", "role"],
            &["x", "y"],
        ] {
            assert_eq!(text(path), None, "{path:?}");
        }
        assert_eq!(
            claim_text(&Claim::UserId, &ColumnType::Text, "ann", claims).as_deref(),
            Some("ann")
        );
    }

    #[test]
    fn the_id_of_a_view_is_the_one_that_clients_have_kept() {
        let id = |values: &[Value]| format!("{:016x}", Claims(values.into()).view_id().0);
        assert_eq!(id(&[]), "e3b0c44298fc1c14");
        assert_eq!(id(&[Value::Text("u1".into())]), "7cb0f8dd79a80293");
        assert_eq!(id(&[Value::Text("u1".into()), Value::Int(7), Value::Null]), "073453e6ecea44b0");
        let numeric = |text| Value::parse(&ColumnType::Numeric, text).unwrap();
        assert_eq!(id(&[numeric("1.0"), Value::Bool(true)]), "17b358d1971b18aa");
        assert_eq!(id(&[numeric("1.0")]), id(&[numeric("1.00")]), "equal claims have one view");
    }
}
