//! What stands on the other side of a literal or a claim, and so what these are.

use crate::catalog::CatalogColumn;
use crate::rule::Term;
use crate::sql::quote_literal;
use crate::value::ColumnType;

/// What a literal or a claim is compared with.
#[derive(Clone)]
pub(super) struct Beside {
    pub(super) kind: ColumnType,
    pub(super) labels: Vec<String>,
    pub(super) type_name: String,
    /// Of an enum, its type.
    pub(super) type_oid: Option<u32>,
    /// Whether the literal is one of several in a list.
    pub(super) one_of_several: bool,
}

impl Beside {
    pub(super) fn of_column(column: &CatalogColumn) -> Beside {
        Beside {
            kind: column.kind.clone(),
            labels: column.labels.clone(),
            type_name: column.type_name.clone(),
            type_oid: (column.kind == ColumnType::Enum).then_some(column.type_oid),
            one_of_several: false,
        }
    }

    pub(super) fn of_kind(kind: ColumnType, type_name: &str) -> Beside {
        let type_name = type_name.to_owned();
        Beside { kind, labels: Vec::new(), type_name, type_oid: None, one_of_several: false }
    }

    pub(super) fn same_family(&self, other: &Beside) -> bool {
        self.kind.family() == other.kind.family() && self.type_oid == other.type_oid
    }

    /// What a claim is, to judge by the literals that it is compared with.
    pub(super) fn of_literals(literals: &[Term]) -> Beside {
        let integer = |term: &Term| match term {
            Term::Number(text, _) => text.parse::<i64>().is_ok(),
            term => matches!(term, Term::Null(_)),
        };
        let number = |term: &Term| matches!(term, Term::Number(..) | Term::Null(_));
        let boolean = |term: &Term| matches!(term, Term::Bool(..) | Term::Null(_));
        let (kind, type_name) = if literals.iter().all(|term| matches!(term, Term::Null(_))) {
            (ColumnType::Text, "text")
        } else if literals.iter().all(integer) {
            (ColumnType::Int, "integer")
        } else if literals.iter().all(number) {
            (ColumnType::Numeric, "numeric")
        } else if literals.iter().all(boolean) {
            (ColumnType::Bool, "boolean")
        } else {
            (ColumnType::Text, "text")
        };
        Beside::of_kind(kind, type_name)
    }
}

/// How a literal of the type is written.
pub(super) fn example(beside: &Beside) -> String {
    const MOST_LABELS: usize = 8;
    let shown = || beside.labels.iter().take(MOST_LABELS);
    let labels = || shown().map(|label| quote_literal(label)).collect::<Vec<_>>();
    let example = match beside.kind {
        ColumnType::Bool => "true or false",
        ColumnType::Int => "a whole number, such as 42",
        ColumnType::Float4 | ColumnType::Float8 | ColumnType::Numeric => "a number, such as 4.2",
        ColumnType::Enum => {
            let more = if beside.labels.len() > MOST_LABELS { ", …" } else { "" };
            return format!("one of {}{more}", labels().join(", "));
        }
        ColumnType::Uuid => "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', for example",
        ColumnType::Bytea => "'\\xc0ffee', for example",
        ColumnType::TimestampTz => "'2026-01-31 12:00:00+00', for example",
        ColumnType::Timestamp => "'2026-01-31 12:00:00', for example",
        ColumnType::Date => "'2026-01-31', for example",
        ColumnType::Time => "'12:00:00', for example",
        _ => "'text' in single quotes",
    };
    example.to_owned()
}

/// What the elements of an array are, if rules can look for them: of Postgres' own types, since a value that is looked for
/// must be one of the type, and no labels.
pub(super) fn element_of(column: &CatalogColumn) -> Option<Beside> {
    const TYPES: [&str; 18] = [
        "boolean",
        "smallint",
        "integer",
        "bigint",
        "oid",
        "real",
        "double precision",
        "numeric",
        "text",
        "character varying",
        "name",
        "bpchar",
        "uuid",
        "bytea",
        "timestamp with time zone",
        "timestamp without time zone",
        "date",
        "time without time zone",
    ];
    let kind = column.kind.element()?.clone();
    let element = column.input.type_name.strip_suffix("[]")?;
    (TYPES.contains(&element) && column.deterministic).then(|| Beside::of_kind(kind, element))
}
