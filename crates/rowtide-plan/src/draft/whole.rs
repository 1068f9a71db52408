//! A whole draft: the policies of an application on Supabase, with the patterns that its documentation has, as Postgres
//! prints them. `policies.txt` has a policy a line: table, name, whether it allows, command, roles, USING, WITH CHECK.

use super::*;
use crate::catalog::{CatalogColumn, CatalogTable, ColumnInput, ReplicaIdentity, TableStreaming};
use crate::value::ColumnType;

/// The tables: name, columns with their types, the key first; whether row-level security applies, and what they refer to.
const TABLES: [(&str, &str, bool, &str); 21] = [
    ("audit_log", "id int, actor uuid, what text", true, ""),
    ("blocks", "blocker uuid, blocked uuid", false, ""),
    ("comments", "id uuid, task_id uuid, author_id uuid, body text", true, "task_id tasks"),
    ("countries", "code text, name text", false, ""),
    ("documents", "id uuid, team_id uuid, owner uuid, published bool", true, ""),
    ("drafts", "id int, org text", true, ""),
    ("invoices", "id int, tenant_id int, status text", true, ""),
    ("locked", "id int", true, ""),
    ("objects", "id uuid, bucket_id text, name text", true, ""),
    ("posts", "id uuid, author_id uuid, body text", true, ""),
    ("profiles", "id uuid, username text, role text", true, ""),
    ("projects", "id uuid, team_id uuid, deleted_at time", true, "team_id teams"),
    ("reports", "id int, body text", true, ""),
    ("rooms", "id uuid, members uuids", true, ""),
    ("secrets", "id int, user_id uuid", true, ""),
    ("settings", "name text", true, ""),
    ("shares", "id uuid, user_id uuid, expires_at time", true, ""),
    ("tasks", "id uuid, project_id uuid, title text", true, "project_id projects"),
    ("team_members", "team_id uuid, user_id uuid, role text", true, "team_id teams"),
    ("teams", "id uuid, name text, owner_id uuid", true, ""),
    ("todos", "id uuid, user_id uuid, task text", true, ""),
];

/// Tables of which two columns are the key.
const PAIRS: [&str; 2] = ["blocks", "team_members"];

fn named(name: &str) -> TableName {
    TableName { schema: "public".to_owned(), name: name.to_owned() }
}

fn described((name, columns, row_security, _): (&str, &str, bool, &str)) -> CatalogTable {
    let column = |(at, text): (usize, &str)| {
        let (name, kind) = text.split_once(' ').unwrap();
        let type_name = if kind == "uuids" { "uuid[]" } else { "" };
        let input = ColumnInput { type_name: type_name.to_owned(), ..ColumnInput::default() };
        let kind = match kind {
            "uuid" => ColumnType::Uuid,
            "int" => ColumnType::Int,
            "bool" => ColumnType::Bool,
            "time" => ColumnType::TimestampTz,
            "uuids" => ColumnType::Array(Box::new(ColumnType::Uuid)),
            _ => ColumnType::Text,
        };
        CatalogColumn {
            name: name.to_owned(),
            kind,
            type_oid: 1,
            type_name: String::new(),
            not_null: at == 0,
            toastable: false,
            deterministic: true,
            labels: Vec::new(),
            input,
        }
    };
    let columns: Vec<CatalogColumn> = columns.split(", ").enumerate().map(column).collect();
    let keys = if PAIRS.contains(&name) { 2 } else { 1 };
    CatalogTable {
        oid: 1,
        schema: "public".to_owned(),
        name: name.to_owned(),
        primary_key: columns.iter().take(keys).map(|column| column.name.clone()).collect(),
        columns,
        indexes: Vec::new(),
        replica_identity: ReplicaIdentity::Full,
        row_security,
        insert_trigger: false,
        streaming: TableStreaming::default(),
    }
}

fn policies_of(table: &str) -> Vec<RowPolicy> {
    let policy = |line: &str| {
        let fields: Vec<&str> = line.splitn(6, '|').collect();
        let [of, name, permissive, command, roles, rest] = fields[..] else { panic!("{line}") };
        let (using, check) = rest.rsplit_once('|').unwrap();
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (of == table).then(|| RowPolicy {
            name: name.to_owned(),
            permissive: permissive == "t",
            command: match command {
                "r" => PolicyCommand::Select,
                "a" => PolicyCommand::Insert,
                "w" => PolicyCommand::Update,
                "d" => PolicyCommand::Delete,
                _ => PolicyCommand::All,
            },
            roles: roles.split(',').map(str::to_owned).collect(),
            using: given(using),
            check: given(check),
        })
    };
    include_str!("policies.txt").lines().filter_map(policy).collect()
}

fn facts() -> (DraftFacts, Catalog) {
    let table = |(name, _, row_security, refers): (&str, &str, bool, &str)| DraftTable {
        name: named(name),
        row_security,
        policies: policies_of(name),
        foreign_keys: refers
            .split_once(' ')
            .map(|(column, to)| ForeignKey {
                columns: vec![column.to_owned()],
                table: named(to),
                referenced: vec!["id".to_owned()],
            })
            .into_iter()
            .collect(),
    };
    let tables = TABLES.into_iter().map(table).collect();
    let catalog = Catalog { tables: TABLES.map(described).to_vec(), unstreamed: Vec::new() };
    (DraftFacts { tables, others: Vec::new() }, catalog)
}

#[test]
fn a_draft_of_policies() {
    let (facts, catalog) = facts();
    let draft = draft(&facts, &catalog, &RefusedWrites::new(), "the database app");
    let definition = crate::definition::Definition::parse("draft", &draft.text);
    let compiled = crate::check::plan_once_set_up(&definition.unwrap(), &catalog);
    assert!(compiled.is_ok(), "{}", draft.text);
    insta::assert_snapshot!(draft.text);
}

#[test]
fn rules_for_writing_that_postgres_does_not_take_are_left_out_with_the_reason() {
    let (facts, catalog) = facts();
    let refused = RefusedWrites::from([(named("tasks"), "no such function".to_owned())]);
    let draft = draft(&facts, &catalog, &refused, "the database app");
    assert!(
        !draft.text.contains("[tables.tasks.insert]") && draft.text.contains("no such function")
    );
    assert!(draft.text.contains("[tables.profiles.insert]"));
}
