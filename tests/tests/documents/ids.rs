//! A row has one document, however its key is written in an address: what the row says afterwards is true for whoever came.

use std::sync::Arc;

use rowtide_plan::definition::Definition;
use rowtide_tests::{App, Came, Database, Texter, eventually};

/// A type of a key, a key as Postgres prints it, and how else it may be written in an address.
const KEYS: [(&str, &str, &str); 6] = [
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC999C0B4EF8BB6D6BB9BD380A11"),
    ("smallint", "-7", "-07"),
    ("integer", "7", "%2B7"),
    ("bigint", "9007199254740993", "09007199254740993"),
    ("varchar(20)", "a/b%20 \"ü\"", "a%2Fb%2520%20%22%C3%BC%22"),
    ("text", "{a0eebc99}", "%7Ba0eebc99%7D"),
];

fn table(place: usize) -> String {
    format!("page{place}")
}

async fn app() -> App {
    let (mut sql, mut definition) = (String::new(), String::new());
    for (place, (kind, key, _)) in KEYS.into_iter().enumerate() {
        let table = table(place);
        sql += &format!(
            "CREATE TABLE {table} (id {kind} PRIMARY KEY, owner text NOT NULL, shared boolean NOT NULL);
             INSERT INTO {table} VALUES ('{key}', 'u1', true);"
        );
        definition += &format!(
            "[tables.{table}]
             visible = 'owner = auth.user_id'
             [documents.{table}]
             table = '{table}'
             protocol = 'yjs'
             read = 'owner = auth.user_id OR shared'
             edit = 'owner = auth.user_id OR shared'\n"
        );
    }
    let definition = Definition::parse("rowtide.toml", &definition).unwrap();
    App::over(Database::with(&sql).await, &Arc::new(definition), |_| ()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_has_one_document_however_its_key_is_written() {
    let app = app().await;
    let sql = app.database.connect().await;
    for (place, (_, key, written)) in KEYS.into_iter().enumerate() {
        let table = table(place);
        let run = async |statement: &str| sql.batch_execute(statement).await.unwrap();
        let at = app.address().to_string();
        let path = format!("/doc/{table}/{written}");
        let texter = async |user| Texter::open(&at, &path, Some(&App::token(user))).await;
        let (mut owner, mut guest) = (texter("u1").await, texter("u2").await);
        guest.write("secret").await;
        owner.until("secret").await;
        run(&format!("UPDATE {table} SET shared = false")).await;
        assert_eq!(guest.at.end().await, (4403, "FORBIDDEN".to_owned()), "{key}");
        run(&format!("DELETE FROM {table}")).await;
        assert_eq!(owner.at.end().await.1, "NOT_FOUND", "{key}");
        run(&format!("INSERT INTO {table} VALUES ('{key}', 'u3', false)")).await;
        let mut another = eventually("it is another one's", || async {
            let mut another = texter("u3").await;
            matches!(another.at.next().await, Came::Binary(_)).then_some(another)
        })
        .await;
        another.write("begun anew").await;
        let mut reader = texter("u3").await;
        reader.until("begun anew").await;
        assert_eq!(reader.text(), "begun anew", "{key}");
    }
}
