//! What unit tests share.

use std::sync::Arc;

use rowtide_plan::catalog::{
    Catalog, CatalogColumn, CatalogIndex, CatalogTable, ColumnInput, ReplicaIdentity,
    TableStreaming,
};
use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::plan::Plan;
use rowtide_plan::value::ColumnType;

fn column(name: &str) -> CatalogColumn {
    CatalogColumn {
        name: name.into(),
        kind: ColumnType::Text,
        type_oid: 25,
        type_name: "text".into(),
        not_null: true,
        toastable: false,
        deterministic: true,
        labels: Vec::new(),
        input: ColumnInput::default(),
    }
}

/// A plan of one table, whose rows are seen by their owners.
pub(crate) fn plan() -> Arc<Plan> {
    let table = CatalogTable {
        oid: 1,
        schema: "public".into(),
        name: "t".into(),
        columns: vec![column("id"), column("owner")],
        primary_key: vec!["id".into()],
        indexes: vec![
            CatalogIndex { name: "t_pkey".into(), columns: vec!["id".into()], of_elements: false },
            CatalogIndex {
                name: "t_owner".into(),
                columns: vec!["owner".into()],
                of_elements: false,
            },
        ],
        replica_identity: ReplicaIdentity::Full,
        row_security: false,
        insert_trigger: false,
        streaming: TableStreaming::default(),
    };
    let definition = "[tables.t]\nvisible = 'owner = auth.user_id'";
    let definition = Definition::parse("rowtide.toml", definition).unwrap();
    let catalog = Catalog { tables: vec![table], ..Catalog::default() };
    Arc::new(compile(&definition, &catalog).unwrap())
}
