//! Catalogs as Postgres would give them, written down by hand.

use rowtide_plan::catalog::{
    Catalog, CatalogColumn, CatalogIndex, CatalogTable, ColumnInput, ReplicaIdentity,
    TableStreaming,
};
use rowtide_plan::value::ColumnType;

/// A table of columns `(name, type)`, its key, and the columns of its other indexes; replica identity
/// is full. A type in upper case is an enum of `OPEN`, `DONE`.
pub(crate) fn table(
    name: &str,
    columns: &[(&str, &str)],
    key: &[&str],
    indexed: &[&str],
) -> CatalogTable {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut indexes = vec![CatalogIndex {
        name: format!("{name}_pkey"),
        columns: names(key),
        of_elements: false,
    }];
    indexes.extend(indexed.iter().map(|column| CatalogIndex {
        name: format!("{name}_{column}"),
        columns: names(&[column]),
        of_elements: false,
    }));
    CatalogTable {
        oid: 1,
        schema: "public".to_owned(),
        name: name.to_owned(),
        columns: columns
            .iter()
            .map(|(name, kind)| column(name, kind, key.contains(name)))
            .collect(),
        primary_key: names(key),
        indexes,
        replica_identity: ReplicaIdentity::Full,
        row_security: false,
        insert_trigger: false,
        streaming: TableStreaming::default(),
    }
}

fn column(name: &str, type_name: &str, not_null: bool) -> CatalogColumn {
    let is_enum = type_name.chars().all(|character| character.is_ascii_uppercase());
    let kind = match type_name {
        "boolean" => ColumnType::Bool,
        "integer" | "bigint" => ColumnType::Int,
        "double precision" => ColumnType::Float8,
        array if array.ends_with("[]") => {
            let element = column(name, array.trim_end_matches("[]"), not_null);
            ColumnType::Array(Box::new(element.kind))
        }
        "character(3)" => ColumnType::Char,
        _ if is_enum => ColumnType::Enum,
        plain => ColumnType::of(plain, 'b', true),
    };
    let labels = if is_enum { vec!["open".to_owned(), "done".to_owned()] } else { Vec::new() };
    CatalogColumn {
        name: name.to_owned(),
        toastable: matches!(type_name, "text" | "jsonb" | "text[]" | "character(3)" | "numeric"),
        kind,
        type_oid: 1,
        type_name: type_name.to_lowercase(),
        not_null,
        deterministic: !name.ends_with("_ci"),
        labels,
        input: ColumnInput {
            type_name: type_name.to_lowercase(),
            is_int8: type_name == "bigint",
            ..ColumnInput::default()
        },
    }
}

/// People who see notes: their own, those of their teams, those shared with them.
pub(crate) fn notes() -> Catalog {
    let note = [
        ("id", "bigint"),
        ("ownerId", "text"),
        ("team", "uuid"),
        ("shared", "boolean"),
        ("archived", "boolean"),
        ("title", "text"),
        ("title_ci", "text"),
        ("country", "character(3)"),
        ("status", "STATUS"),
        ("mood", "MOOD"),
        ("stars", "integer"),
        ("price", "numeric"),
        ("score", "double precision"),
        ("due", "date"),
        ("made", "timestamptz"),
        ("seen", "timestamptz"),
        ("extra", "jsonb"),
        ("tags", "text[]"),
        ("editors", "uuid[]"),
        ("levels", "integer[]"),
        ("moods", "MOOD[]"),
        ("place", "point"),
    ];
    let mut note = table("note", &note, &["id"], &["ownerId", "team"]);
    let mood = note.column("mood").expect("the column is there");
    note.columns[mood].type_oid = 2;
    let member =
        [("team", "uuid"), ("person", "text"), ("role", "text"), ("left_at", "timestamptz")];
    let share = [("note", "bigint"), ("person", "text")];
    let team = [("id", "uuid"), ("org", "text")];
    let org = [("id", "text"), ("person", "text")];
    let log = [("line", "text"), ("person", "text")];
    Catalog {
        tables: vec![
            note,
            table("member", &member, &["team", "person"], &["person"]),
            table("share", &share, &["note", "person"], &[]),
            table("team", &team, &["id"], &["org"]),
            table("org", &org, &["id", "person"], &["person"]),
            table("log", &log, &[], &[]),
        ],
        ..Catalog::default()
    }
}
