//! Values as the server compares them. A value is read from the text that Postgres prints and is
//! brought to one form, so that equality and hashing agree with Postgres' `=` for the type.

/// What a column's type means to Rowtide: how its text becomes JSON, and whether rules can compare
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// `bool`
    Bool,
    /// `int2`, `int4`, `int8`, `oid`
    Int,
    /// `float4`
    Float4,
    /// `float8`
    Float8,
    /// `numeric`
    Numeric,
    /// `text`, `varchar`, `name`
    Text,
    /// `char(n)`: trailing blanks do not count
    Char,
    /// `uuid`
    Uuid,
    /// an enum type
    Enum,
    /// `json`, `jsonb`
    Json,
    /// `bytea`
    Bytea,
    /// `timestamptz`
    TimestampTz,
    /// `timestamp`
    Timestamp,
    /// `date`
    Date,
    /// `time`
    Time,
    /// An array of one of these
    Array(Box<ColumnType>),
    /// Anything else: a string as Postgres prints it
    Other,
}

/// A value of a column that a rule needs, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// SQL `NULL`.
    Null,
    /// `bool`.
    Bool(bool),
    /// `int2`, `int4`, `int8`, `oid`.
    Int(i64),
    /// Text, varchar, enum labels, `char(n)` without trailing blanks.
    Text(Box<str>),
}
