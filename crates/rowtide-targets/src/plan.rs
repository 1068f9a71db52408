//! The plan that messages and rows are read with: two tables with columns of every sort that a rule may compare.

use std::sync::{Arc, LazyLock};

use rowtide_plan::catalog::{
    Catalog, CatalogColumn, CatalogIndex, CatalogTable, ColumnInput, ReplicaIdentity,
    TableStreaming,
};
use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::plan::Plan;
use rowtide_plan::value::ColumnType;

/// The definition of [`plan`].
pub(crate) const DEFINITION: &str = r#"
[app]
min_client = 1

[tables.member]
visible = 'person = auth.user_id'

[tables.note]
visible = '''owner = auth.user_id AND size >= 0
             OR team IN (SELECT team FROM member WHERE person = auth.user_id)'''
immutable = ["id"]
[tables.note.insert]
allow = 'new.owner = auth.user_id'
[[tables.note.update]]
allow = 'old.owner = auth.user_id AND new.owner = old.owner'
[tables.note.delete]
allow = 'old.owner = auth.user_id'
"#;

/// Made once.
pub(crate) fn plan() -> Arc<Plan> {
    static PLAN: LazyLock<Arc<Plan>> = LazyLock::new(|| {
        let compiled = Definition::parse("rowtide.toml", DEFINITION)
            .map(|definition| compile(&definition, &catalog()));
        match compiled {
            Ok(Ok(plan)) => Arc::new(plan),
            other => panic!("the plan of the targets is one: {other:?}"),
        }
    });
    Arc::clone(&PLAN)
}

/// What the database has.
pub(crate) fn catalog() -> Catalog {
    let columns: [(&str, ColumnType, u32, &str); 9] = [
        ("id", ColumnType::Int, 23, "integer"),
        ("owner", ColumnType::Text, 25, "text"),
        ("person", ColumnType::Text, 25, "text"),
        ("team", ColumnType::Uuid, 2950, "uuid"),
        ("size", ColumnType::Numeric, 1700, "numeric"),
        ("score", ColumnType::Float8, 701, "double precision"),
        ("done", ColumnType::Bool, 16, "boolean"),
        ("at", ColumnType::TimestampTz, 1184, "timestamp with time zone"),
        ("data", ColumnType::Json, 3802, "jsonb"),
    ];
    let column = |(name, kind, type_oid, type_name): (&str, ColumnType, u32, &str)| CatalogColumn {
        name: name.to_owned(),
        kind,
        type_oid,
        type_name: type_name.to_owned(),
        not_null: name == "id",
        toastable: false,
        deterministic: true,
        labels: Vec::new(),
        input: ColumnInput::default(),
    };
    let index = |name: &str| CatalogIndex {
        name: name.to_owned(),
        columns: vec![name.to_owned()],
        of_elements: false,
    };
    let table = |(oid, name): (u32, &str)| CatalogTable {
        oid,
        schema: "public".to_owned(),
        name: name.to_owned(),
        columns: columns.clone().map(column).into(),
        primary_key: vec!["id".to_owned()],
        indexes: ["id", "owner", "person", "team"].map(index).into(),
        replica_identity: ReplicaIdentity::Full,
        row_security: false,
        insert_trigger: false,
        streaming: TableStreaming::default(),
    };
    Catalog { tables: [(1, "member"), (2, "note")].map(table).into(), ..Catalog::default() }
}
