//! Queries: what clients may subscribe to. A subscription names a query and says what its parameters are; what it may see of
//! what it selects is decided by its claims, so a subscription is known by both. Claims that the query's rules do not name are
//! left out, so that all who ask the same of what is everybody's are one.

use serde_json::Value as Json;
use thiserror::Error;

use crate::json::decode_base64;
use crate::value::{ColumnType, Value, encode_hex};
use crate::window::MAX_WINDOW_ROWS;

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
    /// A parameter that says how many rows there are is no such number.
    #[error(
        "the parameter `{name}` of the query `{query}` must be a number of rows from 0 to {MAX_WINDOW_ROWS}"
    )]
    NoLimit {
        /// The query.
        query: String,
        /// The parameter.
        name: String,
    },
}

impl QueryParam {
    /// Whether it may say how many rows a window has.
    pub(crate) fn counts_rows(&self) -> bool {
        let is_count = |json: &Json| count_of_rows(json).is_some();
        self.kind.kind == ColumnType::Int
            && !self.kind.is_array
            && self.default.as_ref().is_none_or(is_count)
    }
}

/// A number of rows that a window may have, written as a number or as a text of digits.
pub(crate) fn count_of_rows(json: &Json) -> Option<u32> {
    match Value::from_claim(&ColumnType::Int, json) {
        Value::Int(rows) => u32::try_from(rows).ok().filter(|rows| *rows <= MAX_WINDOW_ROWS),
        _ => None,
    }
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

    /// The name of a type for what is compared with values of a kind.
    pub(crate) fn name_for(kind: &ColumnType) -> Option<String> {
        let name = match kind {
            ColumnType::Array(element) => {
                return ParamType::name_for(element).map(|element| element + "[]");
            }
            ColumnType::Bool => "bool",
            ColumnType::Int => "int8",
            ColumnType::Float4 | ColumnType::Float8 => "float8",
            ColumnType::Numeric => "numeric",
            ColumnType::Text | ColumnType::Char | ColumnType::Enum => "text",
            ColumnType::Uuid => "uuid",
            ColumnType::Bytea => "bytea",
            ColumnType::TimestampTz => "timestamptz",
            ColumnType::Timestamp => "timestamp",
            ColumnType::Date => "date",
            ColumnType::Time => "time",
            ColumnType::Json | ColumnType::Other => return None,
        };
        Some(name.to_owned())
    }

    /// How a default of the type is written.
    pub(crate) fn example_of_default(&self) -> String {
        if self.is_array {
            return "leave it out: an array has no default but null".to_owned();
        }
        let (what, example) = match self.kind {
            ColumnType::Bool => ("true, false", "true"),
            ColumnType::Int => ("a number", "5"),
            ColumnType::Float4 | ColumnType::Float8 | ColumnType::Numeric => ("a number", "4.2"),
            ColumnType::Uuid => ("a uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"),
            ColumnType::Bytea => ("hexadecimal digits", "'\\xc0ffee'"),
            ColumnType::TimestampTz => ("a time", "'2026-01-31 12:00:00+00'"),
            ColumnType::Timestamp => ("a time", "'2026-01-31 12:00:00'"),
            ColumnType::Date => ("a date", "'2026-01-31'"),
            ColumnType::Time => ("a time", "'12:00:00'"),
            _ => ("text in single quotes", "'new'"),
        };
        format!("write {what} or null: \"{} = {example}\"", self.name)
    }

    /// Whether values of it are arrays.
    pub(crate) fn is_array(&self) -> bool {
        self.is_array
    }

    /// As Postgres calls it.
    pub fn sql(&self) -> String {
        format!("{}{}", self.name, if self.is_array { "[]" } else { "" })
    }

    /// As Postgres calls it; of an array, what its elements are.
    pub(crate) fn element_sql(&self) -> &'static str {
        self.name
    }

    /// What its values are.
    pub fn column_type(&self) -> ColumnType {
        match self.is_array {
            true => ColumnType::Array(Box::new(self.kind.clone())),
            false => self.kind.clone(),
        }
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
        self.read(&json).filter(|_| is_bool)
    }

    /// What a client gives, as a claim would have it; `None` if it is not of this type.
    pub(crate) fn read(&self, json: &Json) -> Option<Json> {
        match (json, self.is_array) {
            (Json::Null, _) => Some(Json::Null),
            (Json::Array(items), true) if items.len() <= crate::value::MAX_CLAIM_ELEMENTS => {
                let item = |item: &Json| match item {
                    Json::Null => Some(Json::Null),
                    item => self.read_one(item),
                };
                items.iter().map(item).collect()
            }
            (_, true) => None,
            (json, false) => self.read_one(json),
        }
    }

    fn read_one(&self, json: &Json) -> Option<Json> {
        let json = match (json, &self.kind) {
            // A claim has it as Postgres prints it.
            (Json::String(base64), ColumnType::Bytea) => {
                Json::from(format!("\\x{}", encode_hex(&decode_base64(base64)?)))
            }
            (json, _) => json.clone(),
        };
        self.takes_one(&json).then_some(json)
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

impl QueryParam {
    /// Whether a client may leave it out.
    pub fn is_optional(&self) -> bool {
        self.default.is_some()
    }
}

impl PlannedQuery {
    pub(crate) fn param(&self, name: &str) -> Option<&QueryParam> {
        self.params.iter().find(|param| param.name == name)
    }
}
