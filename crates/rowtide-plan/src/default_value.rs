//! What a row has where an insert leaves a column out, as far as the catalog tells. Clients show a row before the server has it,
//! so they want the values of defaults that are constants; others only Postgres can give. A default is read from the text in
//! which Postgres prints it, and only where it is one literal of the column's own type: everything else is an expression, and
//! none is ever evaluated here.

use crate::catalog::CatalogColumn;
use crate::json::push_value;
use crate::value::{ColumnType, Int8Form};

/// What a row has where an insert leaves a column out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// This value, as JSON in the form in which rows are sent.
    Constant(String),
    /// What only Postgres can say: the next number of a sequence, or a column that is computed.
    OfPostgres,
    /// What an expression gives when it is evaluated, such as `now()`.
    Expression,
    /// Nothing: the column is `NOT NULL`, and an insert without it fails unless a trigger fills it.
    Missing,
}

impl CatalogColumn {
    /// What a row has where an insert leaves this column out; `form` is that of its integers.
    pub fn default_value(&self, form: Int8Form) -> DefaultValue {
        if self.input.identity || self.input.is_of_postgres_alone() {
            return DefaultValue::OfPostgres;
        }
        match &self.input.default {
            None if self.not_null => DefaultValue::Missing,
            None => DefaultValue::Constant("null".to_owned()),
            Some(default) if default.starts_with("nextval(") => DefaultValue::OfPostgres,
            Some(default) => constant(self, form, default)
                .map_or(DefaultValue::Expression, DefaultValue::Constant),
        }
    }
}

/// The JSON of a default that is one literal.
fn constant(column: &CatalogColumn, form: Int8Form, default: &str) -> Option<String> {
    let text = match literal(default)? {
        Literal::Null { cast } => return fits(column, cast).then(|| "null".to_owned()),
        Literal::Word(word) => (column.kind == ColumnType::Bool).then(|| word.to_owned())?,
        Literal::Number { digits, cast } => {
            let as_it_is = cast.is_none_or(|cast| cast == without_modifier(&column.type_name));
            (as_it_is && is_number(&column.kind)).then(|| digits.to_owned())?
        }
        Literal::Text { text, cast } => fits(column, cast).then_some(text)?,
    };
    let mut json = Vec::new();
    push_value(&mut json, &column.kind, form, &as_stored(column, text)?).ok()?;
    String::from_utf8(json).ok()
}

/// A literal as Postgres prints it in an expression, and the type that it is cast to.
#[derive(Debug, PartialEq, Eq)]
enum Literal<'a> {
    Null { cast: &'a str },
    Word(&'a str),
    Number { digits: &'a str, cast: Option<&'a str> },
    Text { text: String, cast: &'a str },
}

fn literal(default: &str) -> Option<Literal<'_>> {
    if matches!(default, "true" | "false") {
        return Some(Literal::Word(default));
    }
    if let Some(cast) = default.strip_prefix("NULL::") {
        return Some(Literal::Null { cast });
    }
    if let Some(cast) = default.strip_prefix("ARRAY[]::") {
        return Some(Literal::Text { text: "{}".to_owned(), cast });
    }
    let (digits, cast) = match default.strip_prefix('(').and_then(|rest| rest.split_once(")::")) {
        Some((digits, cast)) => (digits, Some(cast)),
        None => (default, None),
    };
    if is_decimal(digits) {
        return Some(Literal::Number { digits, cast });
    }
    let (text, rest) = quoted(default)?;
    Some(Literal::Text { text, cast: rest.strip_prefix("::")? })
}

/// What is between the quotes that the text begins with, and what follows them. With `E` before it backslashes come in pairs.
fn quoted(text: &str) -> Option<(String, &str)> {
    let escaped = text.starts_with('E');
    let inner = text.strip_prefix('E').unwrap_or(text).strip_prefix('\'')?;
    let mut value = String::new();
    let mut chars = inner.char_indices();
    while let Some((at, char)) = chars.next() {
        let rest = &inner[at + char.len_utf8()..];
        match char {
            '\'' if !rest.starts_with('\'') => return Some((value, rest)),
            '\\' if escaped && !rest.starts_with('\\') => return None,
            '\'' | '\\' if char == '\'' || escaped => {
                chars.next();
            }
            _ => {}
        }
        value.push(char);
    }
    None
}

/// Digits with a point or without, and with a sign or without.
fn is_decimal(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    [whole, fraction]
        .iter()
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_number(kind: &ColumnType) -> bool {
    let floats = matches!(kind, ColumnType::Float4 | ColumnType::Float8);
    floats || matches!(kind, ColumnType::Int | ColumnType::Numeric)
}

/// Whether a literal of type `cast` is stored in the column as it is printed.
fn fits(column: &CatalogColumn, cast: &str) -> bool {
    const TEXTS: [&str; 4] = ["text", "character varying", "bpchar", "name"];
    const NUMBERS: [&str; 6] =
        ["smallint", "integer", "bigint", "numeric", "real", "double precision"];
    let cast = cast.strip_prefix("public.").unwrap_or(cast);
    cast == without_modifier(&column.type_name)
        || match column.kind {
            ColumnType::Text | ColumnType::Char => TEXTS.contains(&cast),
            _ => is_number(&column.kind) && NUMBERS.contains(&cast),
        }
}

/// `numeric` of `numeric(10,2)`.
fn without_modifier(type_name: &str) -> String {
    match (type_name.find('('), type_name.find(')')) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{}", &type_name[..from], &type_name[to + 1..])
        }
        _ => type_name.to_owned(),
    }
}

/// The text as Postgres prints it once it is stored, which a modifier may change: nothing where that is not known.
fn as_stored(column: &CatalogColumn, text: String) -> Option<String> {
    let modifier = column.type_name.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    let modifier = modifier.map(|(modifier, _)| modifier);
    match (&column.kind, modifier) {
        (ColumnType::Numeric, _) if !is_decimal(&text) => None,
        (ColumnType::Numeric, Some(modifier)) => {
            let (_, scale) = modifier.split_once(',').unwrap_or((modifier, "0"));
            let scale: usize = scale.parse().ok()?;
            let (whole, fraction) = text.split_once('.').unwrap_or((text.as_str(), ""));
            match scale {
                0 => fraction.is_empty().then(|| whole.to_owned()),
                _ => (fraction.len() <= scale).then(|| format!("{whole}.{fraction:0<scale$}")),
            }
        }
        (ColumnType::Char, _) => {
            let width = column.input.max_chars.map_or(0, |chars| chars as usize);
            Some(format!("{text:<width$}"))
        }
        (_, None) | (ColumnType::Text, _) => Some(text),
        (ColumnType::Array(_), _) if text == "{}" => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::ColumnInput;

    fn column(kind: ColumnType, type_name: &str) -> CatalogColumn {
        CatalogColumn {
            name: "c".to_owned(),
            kind,
            type_oid: 0,
            type_name: type_name.to_owned(),
            not_null: true,
            toastable: false,
            deterministic: true,
            labels: Vec::new(),
            input: ColumnInput::default(),
        }
    }

    fn of(kind: ColumnType, type_name: &str, default: &str) -> DefaultValue {
        let mut column = column(kind, type_name);
        column.input.max_chars = (column.kind == ColumnType::Char).then_some(3);
        column.input.default = Some(default.to_owned());
        column.default_value(Int8Form::Number)
    }

    #[test]
    fn a_literal_of_the_columns_type_is_what_a_row_has() {
        use ColumnType::*;
        let texts = Array(Box::new(Text));
        let cases = [
            (Bool, "boolean", "false", "false"),
            (Int, "integer", "0", "0"),
            (Int, "bigint", "'-1'::integer", "-1"),
            (Int, "bigint", "(7)::bigint", "7"),
            (Float8, "double precision", "0.5", "0.5"),
            (Float8, "double precision", "'NaN'::double precision", "\"NaN\""),
            (Numeric, "numeric", "1.50", "\"1.50\""),
            (Numeric, "numeric(10,2)", "0", "\"0.00\""),
            (Numeric, "numeric(10,2)", "'-1.5'::numeric", "\"-1.50\""),
            (Text, "text", "''::text", "\"\""),
            (Text, "character varying(20)", "'it''s'::character varying", "\"it's\""),
            (Text, "text", "E'a\\\\b''\\\\'::text", "\"a\\\\b'\\\\\""),
            (Text, "text", "'é…'::text", "\"é…\""),
            (Text, "text", "NULL::character varying", "null"),
            (Char, "character(3)", "'a'::bpchar", "\"a  \""),
            (Enum, "stage", "'todo'::stage", "\"todo\""),
            (Enum, "stage", "'todo'::public.stage", "\"todo\""),
            (Json, "jsonb", "'{\"a\": [1]}'::jsonb", "{\"a\": [1]}"),
            (Bytea, "bytea", "E'\\\\x01'::bytea", "\"AQ==\""),
            (texts.clone(), "text[]", "'{a,NULL}'::text[]", "[\"a\",null]"),
            (texts.clone(), "text[]", "ARRAY[]::text[]", "[]"),
            (texts, "character varying(9)[]", "'{}'::character varying[]", "[]"),
            (
                TimestampTz,
                "timestamp with time zone",
                "'2024-01-01 00:00:00+00'::timestamp with time zone",
                "\"2024-01-01T00:00:00Z\"",
            ),
            (Other, "interval", "'1 day'::interval", "\"1 day\""),
        ];
        for (kind, type_name, default, json) in cases {
            let constant = DefaultValue::Constant(json.to_owned());
            assert_eq!(of(kind, type_name, default), constant, "{default}");
        }
    }

    #[test]
    fn all_else_is_an_expression() {
        use ColumnType::*;
        let cases = [
            (TimestampTz, "timestamp with time zone", "now()"),
            (
                TimestampTz,
                "timestamp(0) with time zone",
                "'2024-01-01 00:00:00+00'::timestamp with time zone",
            ),
            (Date, "date", "('now'::text)::date"),
            (Date, "date", "'2024-01-01 10:00:00'::timestamp without time zone"),
            (Uuid, "uuid", "gen_random_uuid()"),
            (Text, "text", "CURRENT_USER"),
            (Text, "text", "('a'::text || 'b'::text)"),
            (Text, "text", "'a'::text || 'b'::text"),
            (Text, "text", "NULL::text IS NULL"),
            (Text, "text", "true"),
            (Text, "text", "5"),
            (Text, "text", "'a"),
            (Text, "text", "E'\\n'::text"),
            (Int, "integer", "1.5"),
            (Int, "integer", "(1.5)::numeric"),
            (Int, "integer", "1 + 1"),
            (Int, "integer", ""),
            (Numeric, "numeric(10,2)", "1.005"),
            (Numeric, "numeric(10,-2)", "150"),
        ];
        for (kind, type_name, default) in cases {
            assert_eq!(of(kind, type_name, default), DefaultValue::Expression, "{default}");
        }
    }

    #[test]
    fn without_a_default_a_row_has_null_or_what_postgres_numbers() {
        let serial = of(ColumnType::Int, "integer", "nextval('t_c_seq'::regclass)");
        assert_eq!(serial, DefaultValue::OfPostgres);
        let mut plain = column(ColumnType::Int, "integer");
        assert_eq!(plain.default_value(Int8Form::Number), DefaultValue::Missing);
        plain.not_null = false;
        let null = DefaultValue::Constant("null".to_owned());
        assert_eq!(plain.default_value(Int8Form::Number), null);
        plain.input.identity = true;
        assert_eq!(plain.default_value(Int8Form::Number), DefaultValue::OfPostgres);
        plain.input = ColumnInput { generated: Some("1".to_owned()), ..ColumnInput::default() };
        assert_eq!(plain.default_value(Int8Form::Number), DefaultValue::OfPostgres);
    }

    proptest::proptest! {
        #[test]
        fn reading_a_default_is_total(default in "\\PC{0,30}|E?'[\\\\'a]{0,6}'?(::text)?") {
            of(ColumnType::Text, "text", &default);
            of(ColumnType::Numeric, "numeric(10,2)", &default);
        }
    }
}
