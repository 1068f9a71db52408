//! The types that a rule casts to. A literal with a cast is one of that type, and is read when the rule is compiled.
//! A column is cast only where none of its values can fail to be cast, and where the answer depends on nothing but
//! the value.

use sqlparser::ast::{DataType, ExactNumberInfo, TimezoneInfo};

use crate::catalog::CatalogColumn;
use crate::value::ColumnType;

/// A type that a cast names.
#[derive(Clone, Debug)]
pub(crate) struct CastType {
    /// As it was written.
    pub(crate) name: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// `int2`, `int4` or `int8`, by how many bytes they have.
    Int(u8),
    /// Another type of Postgres'.
    Builtin(ColumnType),
    /// One of the application.
    Named(String),
}

impl CastType {
    /// The type that a cast names; `None` for one with a length or a precision, and for arrays.
    pub(crate) fn read(data_type: &DataType) -> Option<CastType> {
        let kind = match data_type {
            DataType::Bool | DataType::Boolean => Kind::Builtin(ColumnType::Bool),
            DataType::Int2(None) | DataType::SmallInt(None) => Kind::Int(2),
            DataType::Int(None) | DataType::Int4(None) | DataType::Integer(None) => Kind::Int(4),
            DataType::Int8(None) | DataType::BigInt(None) => Kind::Int(8),
            DataType::Float4 | DataType::Real => Kind::Builtin(ColumnType::Float4),
            DataType::Float8
            | DataType::DoublePrecision
            | DataType::Float(ExactNumberInfo::None) => Kind::Builtin(ColumnType::Float8),
            DataType::Numeric(ExactNumberInfo::None)
            | DataType::Decimal(ExactNumberInfo::None)
            | DataType::Dec(ExactNumberInfo::None) => Kind::Builtin(ColumnType::Numeric),
            DataType::Text
            | DataType::Varchar(None)
            | DataType::CharacterVarying(None)
            | DataType::CharVarying(None) => Kind::Builtin(ColumnType::Text),
            DataType::Uuid => Kind::Builtin(ColumnType::Uuid),
            DataType::Bytea => Kind::Builtin(ColumnType::Bytea),
            DataType::Date => Kind::Builtin(ColumnType::Date),
            DataType::Time(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
                Kind::Builtin(ColumnType::Time)
            }
            DataType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
                Kind::Builtin(ColumnType::Timestamp)
            }
            DataType::Timestamp(None, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
                Kind::Builtin(ColumnType::TimestampTz)
            }
            DataType::Custom(name, modifiers) if modifiers.is_empty() => {
                let parts = name.0.iter().map(|part| part.as_ident().map(crate::sql_text::fold));
                let parts: Vec<String> = parts.collect::<Option<_>>()?;
                match &parts[..] {
                    [name] if name == "bpchar" => Kind::Builtin(ColumnType::Char),
                    [schema, name] if schema == "public" => Kind::Named(name.clone()),
                    _ => Kind::Named(parts.join(".")),
                }
            }
            _ => return None,
        };
        Some(CastType { name: data_type.to_string().to_ascii_lowercase(), kind })
    }

    /// What values of the type are; `None` for a type of the application.
    pub(crate) fn kind(&self) -> Option<ColumnType> {
        match &self.kind {
            Kind::Int(_) => Some(ColumnType::Int),
            Kind::Builtin(kind) => Some(kind.clone()),
            Kind::Named(_) => None,
        }
    }

    /// The application's type that it is.
    pub(crate) fn of_application(&self) -> Option<&str> {
        match &self.kind {
            Kind::Named(name) => Some(name),
            Kind::Int(_) | Kind::Builtin(_) => None,
        }
    }

    /// Whether a number is within the range of the type.
    pub(crate) fn holds(&self, number: i64) -> bool {
        match self.kind {
            Kind::Int(2) => i16::try_from(number).is_ok(),
            Kind::Int(4) => i32::try_from(number).is_ok(),
            _ => true,
        }
    }

    /// Whether what is of this type is the same as `other`.
    pub(crate) fn fits_in(&self, other: &CastType) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Int(of), Kind::Int(other)) => of <= other,
            (Kind::Builtin(of), Kind::Builtin(other)) => of == other,
            (Kind::Named(of), Kind::Named(other)) => of == other,
            _ => false,
        }
    }

    /// Whether each value of the column can be cast, and to what depends on the value alone. To text that are
    /// those that are written in one way only.
    pub(crate) fn fits_all_of(&self, column: &CatalogColumn) -> bool {
        use ColumnType::{Bool, Char, Enum, Float4, Float8, Int, Numeric, Text, Uuid};
        let type_name = column.type_name.as_str();
        let width = match type_name {
            "smallint" => 2,
            "integer" => 4,
            _ => 8,
        };
        match (&column.kind, &self.kind) {
            (Enum, Kind::Named(name)) => name == type_name.trim_matches('"'),
            (Int, Kind::Int(bytes)) => width <= *bytes,
            // There is no cast from an `oid` to any other number.
            (Int, Kind::Builtin(Numeric | Float8 | Text)) => type_name != "oid",
            (Float4, Kind::Builtin(Float8)) => true,
            (Bool | Char | Enum | Uuid, Kind::Builtin(Text)) => true,
            (kind, Kind::Builtin(to)) => kind == to,
            _ => false,
        }
    }
}
