//! Members and notes of teams: two tables, `member` and `note`, each of an id, a team and a person.

use std::sync::Arc;

use rowtide_plan::catalog::{
    Catalog, CatalogColumn, CatalogIndex, CatalogTable, ColumnInput, ReplicaIdentity,
    TableStreaming,
};
use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::plan::Plan;
use rowtide_plan::value::ColumnType;

/// The type of a column: what it means, its oid, its name.
pub(crate) type Kind = (ColumnType, u32, &'static str);
pub(crate) const TEXT: Kind = (ColumnType::Text, 25, "text");

/// The plan of a definition of the two. Ids and teams are of one type, and persons are texts.
pub(crate) fn plan(definition: &str, of_ids: Kind) -> Arc<Plan> {
    let column = |name: &str, (kind, type_oid, type_name): Kind| CatalogColumn {
        name: name.to_owned(),
        kind,
        type_oid,
        type_name: type_name.to_owned(),
        not_null: true,
        toastable: false,
        deterministic: true,
        labels: Vec::new(),
        input: ColumnInput::default(),
    };
    let table = |(oid, name): (u32, &str)| CatalogTable {
        oid,
        schema: "public".to_owned(),
        name: name.to_owned(),
        columns: vec![
            column("id", of_ids.clone()),
            column("team", of_ids.clone()),
            column("person", TEXT),
        ],
        primary_key: vec!["id".to_owned()],
        indexes: ["id", "team", "person"]
            .map(|name| CatalogIndex {
                name: name.to_owned(),
                columns: vec![name.to_owned()],
                of_elements: false,
            })
            .into(),
        replica_identity: ReplicaIdentity::Full,
        row_security: false,
        insert_trigger: false,
        streaming: TableStreaming::default(),
    };
    let tables = [(1, "member"), (2, "note")].map(table).into();
    let definition = Definition::parse("rowtide.toml", definition).unwrap();
    Arc::new(compile(&definition, &Catalog { tables, ..Catalog::default() }).unwrap())
}
