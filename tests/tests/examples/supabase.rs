//! Row-level security as the judge of what is written, and a definition that `rowtide init` has drafted: `examples/supabase`.

use rowtide_tests::{App, delete, insert, update};
use serde_json::{Value, json};

use super::story::{Example, Person};

const ADA: &str = "a0000000-0000-4000-8000-000000000001";
const BEN: &str = "b0000000-0000-4000-8000-000000000001";
const CLEO: &str = "c0000000-0000-4000-8000-000000000001";
const DORA: &str = "d0000000-0000-4000-8000-000000000001";
const SHOPPING: &str = "10000000-0000-4000-8000-000000000001";
const BREAD: &str = "20000000-0000-4000-8000-000000000001";
const NEW: &str = "20000000-0000-4000-8000-000000000009";

/// The draft that a definition was made of: without what stands between EDIT and END, and with what stands behind INIT.
fn draft_of(definition: &str) -> String {
    let (mut draft, mut edited) = (String::new(), false);
    for line in definition.lines() {
        match line.strip_prefix("# ") {
            Some("END") => edited = false,
            Some(edit) if edit.starts_with("EDIT") => edited = true,
            _ if edited => {}
            Some(init) if init.starts_with("INIT ") => draft += &format!("{}\n", &init[5..]),
            _ => draft += &format!("{line}\n"),
        }
    }
    draft
}

async fn comes<'a>(app: &'a App, user: &str) -> Person<'a> {
    Person::comes(app, json!({ "sub": user, "role": "authenticated" })).await
}

fn item(id: &str, list: &str, title: &str) -> Value {
    json!([insert("items", json!({ "id": id, "list_id": list, "title": title }))])
}

fn title(id: &str, title: &str) -> Value {
    json!([update("items", json!({ "id": id, "title": title }))])
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_judge_what_is_written_and_triggers_know_who_writes() {
    let example = Example::new("supabase").await;
    let draft = example.says(&["init", "--output", "-"]).await.out;
    let draft = draft.replace(example.database.name(), "supabase");
    let definition = include_str!("../../../examples/supabase/rowtide.toml");
    assert_eq!(draft_of(definition), draft);
    assert_eq!(example.notes().await, [""; 0]);
    let app = example.served().await;

    let (mut ada, mut ben) = (comes(&app, ADA).await, comes(&app, BEN).await);
    let (mut cleo, mut dora) = (comes(&app, CLEO).await, comes(&app, DORA).await);
    let mut nobody = Person::comes(&app, Value::Null).await;
    for person in [&mut ada, &mut ben, &mut cleo] {
        person.sees("items", "title", &["Bread", "Milk", "Middlemarch"]).await;
        person.sees("list_members", "user_id", &[BEN, CLEO]).await;
    }
    for person in [&mut dora, &mut nobody] {
        person.sees("items", "title", &["Middlemarch"]).await;
        person.sees("lists", "name", &["Books to read"]).await;
        person.sees("list_members", "user_id", &[]).await;
        person.sees("profiles", "username", &["ada", "ben", "cleo", "dora"]).await;
    }

    // Who edits a list, a function says that only the policies ask. The trigger knows who it was, and so does the one that
    // writes where nobody else may.
    ben.may(title(BREAD, "Rye bread")).await;
    ada.sees("items", "title", &["Rye bread", "Milk", "Middlemarch"]).await;
    assert_eq!(ada.row("items", "id", BREAD)["updated_by"], BEN);
    cleo.sees("activity", "actor_id", &["null", BEN]).await;
    assert_eq!(cleo.row("activity", "actor_id", BEN)["what"], "changed Rye bread");
    dora.sees("activity", "what", &[]).await;
    ben.may(item(NEW, SHOPPING, "Butter")).await;
    cleo.sees("items", "title", &["Rye bread", "Milk", "Middlemarch", "Butter"]).await;
    assert_eq!(cleo.row("items", "id", NEW)["created_by"], BEN);
    let forged = json!({ "id": DORA, "list_id": SHOPPING, "title": "x", "created_by": ADA });
    ben.may_not("forbidden", json!([insert("items", forged)])).await;
    cleo.may_not("forbidden", title(BREAD, "Cake")).await;
    cleo.may_not("forbidden", item(DORA, SHOPPING, "Cake")).await;
    dora.may_not("forbidden", item(DORA, SHOPPING, "Cake")).await;
    dora.may_not("not_found", title(BREAD, "Cake")).await;
    dora.may_not("forbidden", title("20000000-0000-4000-8000-000000000003", "Emma")).await;
    nobody.may_not("forbidden", item(DORA, SHOPPING, "Cake")).await;
    ada.may_not("forbidden", json!([delete("items", json!({ "id": NEW }))])).await;
    ben.may(json!([delete("items", json!({ "id": NEW }))])).await;

    // Owners share. Who shares does not share further, and may leave.
    let of = |user: &str| json!({ "list_id": SHOPPING, "user_id": user });
    ben.may_not("forbidden", json!([insert("list_members", of(DORA))])).await;
    ada.may(json!([insert("list_members", of(DORA))])).await;
    dora.sees("items", "title", &["Rye bread", "Milk", "Middlemarch"]).await;
    dora.may(title(BREAD, "White bread")).await;
    let reads = json!({ "list_id": SHOPPING, "user_id": DORA, "can_edit": false });
    dora.may_not("forbidden", json!([update("list_members", reads)])).await;
    ada.may(json!([update("list_members", reads)])).await;
    dora.may_not("forbidden", title(BREAD, "No bread")).await;
    dora.may_not("forbidden", json!([delete("list_members", of(BEN))])).await;
    dora.may(json!([delete("list_members", of(DORA))])).await;
    dora.sees("items", "title", &["Middlemarch"]).await;
    ada.may(json!([delete("list_members", of(CLEO))])).await;
    cleo.sees("items", "title", &["Middlemarch"]).await;

    // A list that is made is its maker's, whatever the client says, and one's own profile is all that one writes of them.
    let list = |owner: &str| {
        json!([insert("lists", json!({ "id": NEW, "name": "Mine", "owner_id": owner }))])
    };
    dora.may_not("forbidden", list(ADA)).await;
    dora.may(json!([insert("lists", json!({ "id": NEW, "name": "Mine" }))])).await;
    dora.sees("lists", "owner_id", &[ADA, DORA]).await;
    let name =
        |id: &str| json!([update("profiles", json!({ "id": id, "username": "dora the second" }))]);
    dora.may_not("forbidden", name(ADA)).await;
    dora.may(name(DORA)).await;
    nobody.sees("profiles", "username", &["ada", "ben", "cleo", "dora the second"]).await;
    for person in [&ada, &ben, &cleo, &dora, &nobody] {
        person.never_heard(&["encrypted_password", "@example.com"]);
    }
}
