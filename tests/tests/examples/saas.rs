//! Organisations, teams and roles: `examples/saas`.

use rowtide_tests::{App, delete, insert, update};
use serde_json::{Value, json};

use super::story::{Example, Person, call};

const DESIGN: &str = "10000000-0000-4000-8000-000000000001";
const LOGO: &str = "20000000-0000-4000-8000-000000000001";
/// The secrets of dora's invitations.
const GOOD: &str = "40000000-0000-4000-8000-000000000001";
const EXPIRED: &str = "40000000-0000-4000-8000-000000000002";
/// What is in hidden columns, and their names.
const HIDDEN: [&str; 6] =
    ["password_hash", "totp_secret", "$2b$", "payment_reference", "cus_", "40000000-"];

async fn comes<'a>(app: &'a App, person: &str, mut claims: Value) -> Person<'a> {
    claims["sub"] = person.into();
    claims["email"] = format!("{person}@acme.example").into();
    Person::comes(app, claims).await
}

async fn dora(app: &App) -> Person<'_> {
    let claims = json!({ "sub": "dora", "email": "dora@studio.example" });
    Person::comes(app, claims).await
}

fn member(person: &str) -> Value {
    json!({ "team_id": DESIGN, "person_id": person })
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_say_who_belongs_to_an_organisation_and_tables_who_is_in_a_team() {
    let example = Example::new("saas").await;
    // What it costs that staff are those who are in a table.
    let in_memory = |table: &str| {
        format!(
            "note: no column finds the rows of \"public\".\"{table}\" that its rule asks other tables for: all of it \
             is held in memory"
        )
    };
    assert_eq!(example.notes().await, [in_memory("organisation"), in_memory("admin")]);
    let app = example.served().await;
    let of_acme = json!({ "orgs": ["acme"] });
    let mut ada = comes(&app, "ada", of_acme.clone()).await;
    ada.sees("organisation", "id", &["acme"]).await;
    ada.sees("team", "name", &["Design"]).await;
    ada.sees("project", "name", &["A new logo"]).await;
    ada.sees("person", "id", &["ada", "ben"]).await;
    ada.sees("invoice", "id", &[]).await;
    ada.sees("invitation", "email", &["dora@studio.example"]).await;
    let managing =
        json!({ "orgs": ["acme", "globex"], "manages": ["acme"], "roles": ["x", "billing"] });
    let mut mia = comes(&app, "mia", managing).await;
    mia.sees("organisation", "id", &["acme", "globex"]).await;
    mia.sees("team", "name", &["Design", "Sales"]).await;
    mia.sees("invoice", "id", &["1", "2", "3"]).await;
    mia.sees("project", "id", &[]).await;
    // Who manages renames the one, and not the other; a plan is not theirs to choose.
    let name = |id: &str| json!([update("organisation", json!({ "id": id, "name": "New" }))]);
    mia.may(name("acme")).await;
    mia.may_not("forbidden", name("globex")).await;
    let plan = json!([update("organisation", json!({ "id": "acme", "plan": "free" }))]);
    mia.may_not("forbidden", plan).await;
    ada.may_not("forbidden", name("acme")).await;
    ada.sees("organisation", "name", &["New"]).await;
    // The manager makes a lead, who may then take somebody out.
    let mut ben = comes(&app, "ben", of_acme).await;
    ben.may_not("forbidden", json!([delete("member", member("ada"))])).await;
    let lead = json!({ "team_id": DESIGN, "person_id": "ben", "role": "lead" });
    ben.may_not("forbidden", json!([update("member", lead)])).await;
    mia.may(json!([update("member", lead)])).await;
    ben.may(json!([delete("member", member("ada"))])).await;
    ada.sees("project", "id", &[]).await;
    ada.sees("team", "id", &[]).await;
    ada.sees("organisation", "id", &["acme"]).await;
    // A claim that is no array is none.
    let mut cleo = comes(&app, "cleo", json!({ "orgs": "acme", "roles": "billing" })).await;
    cleo.sees("organisation", "id", &["globex"]).await;
    cleo.sees("invoice", "id", &[]).await;
    for person in [&ada, &mia, &ben, &cleo] {
        person.never_heard(&HIDDEN);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_accepted_by_name_once_and_in_time() {
    let app = Example::new("saas").await.served().await;
    let mut ada = comes(&app, "ada", json!({ "orgs": ["acme"] })).await;
    let mut dora = dora(&app).await;
    dora.sees("project", "id", &[]).await;
    dora.sees("invitation", "team_id", &[DESIGN, "10000000-0000-4000-8000-000000000003"]).await;
    // There is no way around it.
    dora.may_not("forbidden", json!([insert("member", member("dora"))])).await;
    let accept = |secret: &str| call("accept_invitation", json!({ "secret": secret }));
    dora.may_not("invitation_unknown", accept(LOGO)).await;
    dora.may_not("invitation_expired", accept(EXPIRED)).await;
    dora.may_not("bad_request", accept("none")).await;
    dora.may(accept(GOOD)).await;
    dora.sees("organisation", "id", &["acme"]).await;
    dora.sees("project", "name", &["A new logo"]).await;
    dora.sees("person", "id", &["ada", "ben", "dora"]).await;
    ada.sees("member", "person_id", &["ada", "ben", "dora"]).await;
    ada.sees("invitation", "id", &[]).await;
    let mut ben = comes(&app, "ben", json!({})).await;
    ben.may_not("invitation_unknown", accept(GOOD)).await;
    // Leads invite. The secret is for the mail alone: nobody can choose or read it, or how long it is good.
    let invitation = |more: Value| {
        let mut row = json!({ "id": LOGO, "team_id": DESIGN, "email": "eve@acme.example" });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([insert("invitation", row)])
    };
    ben.may_not("forbidden", invitation(json!({}))).await;
    ada.may_not("bad_request", invitation(json!({ "secret": GOOD }))).await;
    ada.may_not("forbidden", invitation(json!({ "expires_at": "2099-01-01T00:00:00Z" }))).await;
    ada.may(invitation(json!({}))).await;
    let mut eve = comes(&app, "eve", json!({})).await;
    eve.sees("invitation", "id", &[LOGO]).await;
    ada.may(json!([delete("invitation", json!({ "id": LOGO }))])).await;
    eve.sees("invitation", "id", &[]).await;
    // What is written says by whom, whatever the client says.
    let name = |name: &str| json!([update("project", json!({ "id": LOGO, "name": name }))]);
    dora.may(name("A newer logo")).await;
    ada.sees("project", "changed_by", &["dora"]).await;
    dora.may(json!([delete("member", member("dora"))])).await;
    dora.sees("project", "id", &[]).await;
    dora.sees("organisation", "id", &[]).await;
    dora.may_not("not_found", name("mine")).await;
    for person in [&ada, &dora, &ben, &eve] {
        person.never_heard(&HIDDEN);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staff_are_made_and_unmade_by_a_row() {
    let app = Example::new("saas").await.served().await;
    let mut root = comes(&app, "root", json!({})).await;
    let mut ada = comes(&app, "ada", json!({})).await;
    root.sees("organisation", "id", &["acme", "globex"]).await;
    root.sees("project", "id", &[]).await;
    ada.sees("organisation", "id", &["acme"]).await;
    let of_ada = json!({ "person_id": "ada" });
    let plan =
        |plan: &str| json!([update("organisation", json!({ "id": "globex", "plan": plan }))]);
    ada.may_not("forbidden", json!([insert("admin", of_ada)])).await;
    ada.may_not("not_found", plan("business")).await;
    root.may(json!([insert("admin", of_ada)])).await;
    ada.sees("organisation", "id", &["acme", "globex"]).await;
    ada.sees("admin", "person_id", &["ada", "root"]).await;
    ada.may(plan("business")).await;
    // Nobody takes out themselves.
    root.may_not("forbidden", json!([delete("admin", json!({ "person_id": "root" }))])).await;
    root.may(json!([delete("admin", of_ada)])).await;
    ada.sees("organisation", "id", &["acme"]).await;
    ada.sees("admin", "person_id", &[]).await;
    ada.may_not("not_found", plan("free")).await;
}
