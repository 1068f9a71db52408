//! From what a client asks for to what it selects: the query of its name, and its parameters as claims.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use crate::claims::{Claim, Claims};
use crate::error::did_you_mean;
use crate::ids::QueryId;
use crate::plan::Plan;
use crate::queries::{BadParams, QueryParam, count_of_rows};
use crate::value::Value;
use crate::window::WindowLimit;

impl Plan {
    /// The claims of a subscription to a query by somebody with these claims: theirs, as far as the query's rules name them, and
    /// its parameters.
    ///
    /// # Errors
    /// If there is no such query, or the parameters are not those that it takes.
    pub fn select(
        &self,
        claims: &Claims,
        query: &str,
        params: &Map<String, Json>,
    ) -> Result<(QueryId, Claims), BadParams> {
        let cut = |name: &str| name.chars().take(64).collect::<String>();
        let Some(index) = self.queries.iter().position(|known| known.name == query) else {
            if self.unfit_queries.iter().any(|unfit| unfit == query) {
                return Err(BadParams::Unfit { query: query.to_owned() });
            }
            let names = self.queries.iter().map(|known| known.name.as_str());
            let close = did_you_mean(query, names).map(str::to_owned);
            return Err(BadParams::NoQuery { name: cut(query), close });
        };
        let planned = &self.queries[index];
        let query = || planned.name.clone();
        if let Some(name) = params.keys().find(|name| planned.param(name).is_none()) {
            return Err(BadParams::Unknown { query: query(), name: cut(name) });
        }
        let mut given: BTreeMap<&str, Json> = BTreeMap::new();
        for QueryParam { name, kind, default } in &planned.params {
            let json = match (params.get(name), default) {
                (Some(json), _) => kind.read(json).ok_or_else(|| BadParams::WrongType {
                    query: query(),
                    name: name.clone(),
                    kind: kind.sql(),
                })?,
                (None, Some(default)) => default.clone(),
                (None, None) => {
                    let (name, kind) = (name.clone(), kind.sql());
                    return Err(BadParams::Missing { query: query(), name, kind });
                }
            };
            given.insert(name, json);
        }
        let windows = self.windows_of(QueryId(index as u16)).map(|id| self.window(id).limit);
        for limit in windows {
            let WindowLimit::Param(claim) = limit else { continue };
            let Claim::Param { name, .. } = &self.claims[usize::from(claim.0)].claim else {
                continue;
            };
            if given.get(&**name).is_some_and(|json| count_of_rows(json).is_none()) {
                return Err(BadParams::NoLimit { query: query(), name: name.to_string() });
            }
        }
        let value = |(index, named): (usize, &bool)| {
            let of = &self.claims[index];
            match &of.claim {
                _ if !named => Value::Null,
                Claim::Param { name, .. } => {
                    let json = given.get(&**name);
                    json.map_or(Value::Null, |json| Value::from_claim(&of.kind, json))
                }
                Claim::UserId | Claim::Named(_) => claims.0[index].clone(),
            }
        };
        let claims = Claims(planned.claims.iter().enumerate().map(value).collect());
        Ok((QueryId(index as u16), claims))
    }
}
