//! Queries: what clients may subscribe to. A subscription names a query and says what its parameters are; what it may see of
//! what it selects is decided by its claims, so a subscription is known by both. Claims that the query's rules do not name are
//! left out, so that all who ask the same of what is everybody's are one.

use serde_json::{Map, Value as Json};
use thiserror::Error;

use crate::claims::{Claim, Claims};
use crate::error::did_you_mean;
use crate::ids::QueryId;
use crate::plan::Plan;
use crate::value::{ColumnType, Value};

/// A `[queries.…]` entry of the definition.
#[derive(Clone, Debug)]
pub struct PlannedQuery {
    /// What the entry calls it.
    pub name: String,
    /// What it takes, in the order of the names.
    pub params: Vec<QueryParam>,
    /// Which of [`Plan::claims`] its rules name.
    pub(crate) claims: Vec<bool>,
}

/// A parameter of a query.
#[derive(Clone, Debug)]
pub struct QueryParam {
    /// What clients call it.
    pub name: String,
    /// Its type.
    pub kind: ParamType,
    /// What it is if a client leaves it out. Without one it must be there.
    pub(crate) default: Option<Json>,
}

/// The type of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamType {
    kind: ColumnType,
    /// As Postgres calls it.
    name: &'static str,
    is_array: bool,
}

/// Why a subscription is refused: what is wrong with its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadParams {
    /// There is no such query.
    #[error("there is no query `{name}`{}", close.as_ref().map(|close| format!("; did you mean `{close}`?")).unwrap_or_default())]
    NoQuery {
        /// As the client calls it, cut to 64 characters.
        name: String,
        /// One that is called nearly so.
        close: Option<String>,
    },
    /// The database does not fit the query now.
    #[error("the query `{query}` does not fit the database now")]
    Unfit {
        /// The query.
        query: String,
    },
    /// The query has no such parameter.
    #[error("the query `{query}` has no parameter `{name}`")]
    Unknown {
        /// The query.
        query: String,
        /// As the client calls it, cut to 64 characters.
        name: String,
    },
    /// A parameter without a default is not there.
    #[error("the query `{query}` needs the parameter `{name}`, of type {kind}")]
    Missing {
        /// The query.
        query: String,
        /// The parameter.
        name: String,
        /// Its type.
        kind: String,
    },
    /// A parameter is not of its type.
    #[error("the parameter `{name}` of the query `{query}` must be of type {kind}")]
    WrongType {
        /// The query.
        query: String,
        /// The parameter.
        name: String,
        /// Its type.
        kind: String,
    },
}

impl ParamType {
    /// The type that Postgres, or standard SQL, calls so.
    pub(crate) fn of_name(name: &str) -> Option<ParamType> {
        let name = name.to_ascii_lowercase();
        let (element, is_array) = match name.strip_suffix("[]") {
            Some(element) => (element.trim_end(), true),
            None => (name.as_str(), false),
        };
        let name = match element {
            "bool" | "boolean" => "bool",
            "int2" | "smallint" => "int2",
            "int4" | "int" | "integer" => "int4",
            "int8" | "bigint" => "int8",
            "float4" | "real" => "float4",
            "float8" | "double precision" => "float8",
            "numeric" | "decimal" => "numeric",
            "text" | "varchar" | "character varying" => "text",
            "uuid" => "uuid",
            "bytea" => "bytea",
            "timestamptz" | "timestamp with time zone" => "timestamptz",
            "timestamp" | "timestamp without time zone" => "timestamp",
            "date" => "date",
            "time" | "time without time zone" => "time",
            _ => return None,
        };
        Some(ParamType { kind: ColumnType::of(name, 'b', true), name, is_array })
    }

    /// As Postgres calls it.
    pub fn sql(&self) -> String {
        format!("{}{}", self.name, if self.is_array { "[]" } else { "" })
    }

    /// Whether it is a list of values.
    pub(crate) fn is_array(&self) -> bool {
        self.is_array
    }

    /// What values of it are; of an array, what its elements are.
    pub(crate) fn element(&self) -> &ColumnType {
        &self.kind
    }

    /// A default that is written so; `None` if it is none of this type. Arrays have no other than null.
    pub(crate) fn default(&self, text: Option<&str>) -> Option<Json> {
        let Some(text) = text else { return Some(Json::Null) };
        let json = match self.kind {
            ColumnType::Bool => Json::Bool(text == "true"),
            _ => Json::from(text),
        };
        let is_bool = self.kind != ColumnType::Bool || matches!(text, "true" | "false");
        (is_bool && self.takes(&json)).then_some(json)
    }

    fn takes(&self, json: &Json) -> bool {
        match (json, self.is_array) {
            (Json::Null, _) => true,
            (Json::Array(items), true) => {
                let fits = |item: &Json| item.is_null() || self.takes_one(item);
                items.len() <= crate::value::MAX_CLAIM_ELEMENTS && items.iter().all(fits)
            }
            (_, true) => false,
            (json, false) => self.takes_one(json),
        }
    }

    fn takes_one(&self, json: &Json) -> bool {
        let is_text = matches!(self.kind, ColumnType::Text);
        match json {
            Json::Null | Json::Array(_) | Json::Object(_) => false,
            Json::Bool(_) => self.kind == ColumnType::Bool,
            Json::Number(_) if is_text => false,
            Json::String(_) if self.kind == ColumnType::Bool => false,
            json => match (Value::from_claim(&self.kind, json), self.name) {
                (Value::Null, _) => false,
                (Value::Int(number), "int2") => i16::try_from(number).is_ok(),
                (Value::Int(number), "int4") => i32::try_from(number).is_ok(),
                _ => true,
            },
        }
    }
}

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
        for QueryParam { name, kind, default } in &planned.params {
            let (name, sql) = (name.clone(), kind.sql());
            match params.get(&name) {
                None if default.is_none() => {
                    return Err(BadParams::Missing { query: query(), name, kind: sql });
                }
                Some(json) if !kind.takes(json) => {
                    return Err(BadParams::WrongType { query: query(), name, kind: sql });
                }
                _ => {}
            }
        }
        let value = |(index, named): (usize, &bool)| {
            let of = &self.claims[index];
            match &of.claim {
                _ if !named => Value::Null,
                Claim::Param { name, .. } => {
                    let given = params.get(&**name);
                    let default = || planned.param(name)?.default.as_ref();
                    let json = given.or_else(default);
                    json.map_or(Value::Null, |json| Value::from_claim(&of.kind, json))
                }
                Claim::UserId | Claim::Named(_) => claims.0[index].clone(),
            }
        };
        let claims = Claims(planned.claims.iter().enumerate().map(value).collect());
        Ok((QueryId(index as u16), claims))
    }
}

impl PlannedQuery {
    fn param(&self, name: &str) -> Option<&QueryParam> {
        self.params.iter().find(|param| param.name == name)
    }
}
