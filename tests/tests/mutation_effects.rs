//! What everyone hears of a mutation, the writer included: each gets what it brings into their view or
//! takes out of it, all of it in one `tx`, and the writer's brings the acknowledgement with it, also if
//! nothing of what was written is theirs to see any more.

use rowtide_tests::small::{
    GUESTS_COMMENT, MEMBERS_COMMENT, OUR_ISSUE, OUR_PROJECT, OURS, THEIR_ISSUE, THEIR_PROJECT,
    THEIRS, small_file,
};
use rowtide_tests::{App, Writer, delete, insert, update};
use serde_json::{Value, json};

/// `put file edit`, `delete file_state editor/edit`: sorted.
fn brief(changes: &[Value]) -> Vec<String> {
    let mut brief: Vec<String> = changes.iter().map(of_change).collect();
    brief.sort();
    brief
}

fn of_change(change: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let table = text(&change["table"]);
    let key: &[&str] = match table.as_str() {
        "file_state" => &["userId", "fileId"],
        "member" => &["workspace_id", "person_id"],
        "issue_guest" => &["issue_id", "person_id"],
        _ => &["id"],
    };
    let key: Vec<String> = key.iter().map(|column| text(&change["row"][column])).collect();
    format!("{} {table} {}", text(&change["op"]), key.join("/"))
}

/// Sends a mutation; the changes of the one `tx` that acknowledges it.
async fn write(writer: &mut Writer, ops: Value) -> Vec<Value> {
    let id = writer.send(ops).await;
    let tx = writer.raw.tx().await;
    assert_eq!(tx["ack"], id, "{tx}");
    tx["changes"].as_array().unwrap().clone()
}

fn column<'a>(changes: &'a [Value], table: &str, column: &str) -> Vec<&'a Value> {
    let of_table = changes.iter().filter(|change| change["table"] == table);
    of_table.map(|change| &change["row"][column]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_shared_and_taken_back() {
    let app = App::small_files().await;
    let mut owner = Writer::live(&app, "owner").await;
    let mut editor = Writer::live(&app, "editor").await;
    let mut stranger = Writer::live(&app, "stranger").await;
    let file = |row: Value| json!([update("file", row)]);

    // Shared, and visited by someone who has the link.
    let share = file(json!({ "id": "private", "shared": true, "sharedLinkType": "edit" }));
    let changes = write(&mut owner, share).await;
    assert_eq!(brief(&changes), ["put file private"]);
    let visit = json!([insert("file_state", json!({ "userId": "stranger", "fileId": "private" }))]);
    let changes = write(&mut stranger, visit).await;
    assert_eq!(brief(&changes), ["put file private", "put file_state stranger/private"]);
    assert_eq!(column(&changes, "file_state", "isFileOwner"), [false]);

    // The guest writes what a guest may, and both hear of it.
    let changes = write(&mut stranger, file(json!({ "id": "private", "updatedAt": 7 }))).await;
    assert_eq!(column(&changes, "file", "updatedAt"), [7]);
    assert_eq!(column(&owner.hears().await, "file", "updatedAt"), [7]);

    // Out of the writer's own view, and everybody's; what is left are the states.
    let bin = file(json!({ "id": "private", "isDeleted": true }));
    assert_eq!(brief(&write(&mut owner, bin).await), ["delete file private"]);
    assert_eq!(brief(&stranger.hears().await), ["delete file private"]);
    app.database.run(r#"UPDATE file SET "isDeleted" = false WHERE id = 'private'"#).await;
    for writer in [&mut owner, &mut stranger] {
        assert_eq!(brief(&writer.hears().await), ["put file private"]);
    }

    // Taken back: the guests' states go with it. Who is not a guest of it hears nothing.
    let changes = write(&mut owner, file(json!({ "id": "private", "shared": false }))).await;
    assert_eq!(brief(&changes), ["put file private"]);
    let gone = ["delete file private", "delete file_state stranger/private"];
    assert_eq!(brief(&stranger.hears().await), gone);
    let visit = json!([insert("file_state", json!({ "userId": "stranger", "fileId": "private" }))]);
    stranger.mutate(visit).await.rejected("forbidden", "`file_state`");
    let edit = file(json!({ "id": "private", "updatedAt": 8 }));
    stranger.mutate(edit).await.rejected("not_found", "`file`");

    // Deleted for good.
    let away = json!([delete("file", json!({ "id": "edit" }))]);
    let changes = write(&mut owner, away).await;
    assert_eq!(brief(&changes), ["delete file edit", "delete file_state owner/edit"]);
    let gone = ["delete file edit", "delete file_state editor/edit"];
    assert_eq!(brief(&editor.hears().await), gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_triggers_write_is_part_of_the_mutation() {
    let app = App::small_files().await;
    let mut owner = Writer::live(&app, "owner").await;
    let mut editor = Writer::live(&app, "editor").await;
    let mut stranger = Writer::live(&app, "stranger").await;
    let rename = json!([update("user", json!({ "id": "owner", "name": "New" }))]);
    let changes = write(&mut owner, rename).await;
    // All but the deleted one, which nobody sees.
    let files = ["put file closed", "put file edit", "put file private", "put file view"];
    assert_eq!(brief(&changes), [&files[..], &["put user owner"]].concat());
    assert_eq!(column(&changes, "file", "ownerName"), ["New"; 4]);
    let changes = editor.hears().await;
    assert_eq!(brief(&changes), ["put file edit"]);
    assert_eq!(column(&changes, "file", "ownerName"), ["New"]);

    // Columns that a trigger fills are in the rows that come back.
    let new = json!([
        insert("file", small_file("new", "stranger")),
        insert("file_state", json!({ "userId": "stranger", "fileId": "new" })),
    ]);
    let changes = write(&mut stranger, new).await;
    assert_eq!(column(&changes, "file", "ownerName"), ["secret name of stranger"]);
    assert_eq!(column(&changes, "file_state", "isFileOwner"), [true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_sessions_of_a_user_hear_it_and_one_is_told_that_it_is_its_own() {
    let app = App::small_files().await;
    let mut here = Writer::live(&app, "owner").await;
    let mut there = Writer::live(&app, "owner").await;
    let rename = |name: &str| json!([update("file", json!({ "id": "edit", "name": name }))]);
    for (name, other) in [("A", "B"), ("C", "D")] {
        write(&mut here, rename(name)).await;
        let tx = there.raw.tx().await;
        assert_eq!((&tx["changes"][0]["row"]["name"], &tx["ack"]), (&json!(name), &Value::Null));
        write(&mut there, rename(other)).await;
        let tx = here.raw.tx().await;
        assert_eq!((&tx["changes"][0]["row"]["name"], &tx["ack"]), (&json!(other), &Value::Null));
    }
    // A rejection is for who sent it alone: the other hears of what comes after, and of nothing else.
    let rejected = json!([update("file", json!({ "id": "edit", "ownerName": "x" }))]);
    here.mutate(rejected).await.rejected("forbidden", "`ownerName`");
    write(&mut here, rename("E")).await;
    let message = there.raw.hear_news().await.unwrap();
    assert_eq!(message["changes"][0]["row"]["name"], "E", "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_moves_from_one_workspace_to_another() {
    let app = App::small_tracker().await;
    let mut mover = Writer::live(&app, "both").await;
    let mut left = Writer::live(&app, "member").await;
    let mut gains = Writer::live(&app, "stranger").await;
    let mut guest = Writer::live(&app, "guest").await;
    let to =
        |project: &str| json!([update("issue", json!({ "id": OUR_ISSUE, "project_id": project }))]);
    let with_issue = |op: &str| {
        let mut all = vec![
            format!("{op} issue {OUR_ISSUE}"),
            format!("{op} issue_guest {OUR_ISSUE}/guest"),
            format!("{op} comment {MEMBERS_COMMENT}"),
            format!("{op} comment {GUESTS_COMMENT}"),
        ];
        all.sort();
        all
    };
    let issue = [format!("put issue {OUR_ISSUE}")];
    // What hangs on it may be sent to the mover again, and nothing of it is taken away.
    let to_mover = brief(&write(&mut mover, to(THEIR_PROJECT)).await);
    assert!(to_mover.contains(&issue[0]), "{to_mover:?}");
    assert!(to_mover.iter().all(|change| with_issue("put").contains(change)), "{to_mover:?}");
    assert_eq!(brief(&left.hears().await), with_issue("delete"));
    assert_eq!(brief(&gains.hears().await), with_issue("put"));
    // Who sees it in both places hears that it moved.
    let changes = guest.hears().await;
    assert_eq!(brief(&changes), issue);
    assert_eq!(column(&changes, "issue", "project_id"), [THEIR_PROJECT]);
    assert!(brief(&write(&mut mover, to(OUR_PROJECT)).await).contains(&issue[0]));
    assert_eq!(brief(&left.hears().await), with_issue("put"));
    assert_eq!(brief(&gains.hears().await), with_issue("delete"));
    assert_eq!(brief(&guest.hears().await), issue);

    // A whole project, with all that hangs on it, by one update of one row.
    let project = json!([update("project", json!({ "id": OUR_PROJECT, "workspace_id": THEIRS }))]);
    let whole = |op: &str| {
        let mut all = with_issue(op);
        all.push(format!("{op} project {OUR_PROJECT}"));
        all
    };
    let changes = write(&mut mover, project).await;
    assert!(brief(&changes).contains(&format!("put project {OUR_PROJECT}")));
    assert!(brief(&changes).iter().all(|change| whole("put").contains(change)), "{changes:?}");
    assert_eq!(brief(&left.hears().await), whole("delete"));
    assert_eq!(brief(&gains.hears().await), whole("put"));

    // Into the archive: out of the writer's own view, and acknowledged with it.
    let archive = json!({ "id": THEIR_PROJECT, "archived_at": "2026-01-31T12:00:00Z" });
    let gone = [format!("delete issue {THEIR_ISSUE}"), format!("delete project {THEIR_PROJECT}")];
    assert_eq!(brief(&write(&mut gains, json!([update("project", archive)])).await), gone);
    assert_eq!(brief(&mover.hears().await), gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_come_and_go() {
    let app = App::small_tracker().await;
    let mut owner = Writer::live(&app, "owner").await;
    let mut member = Writer::live(&app, "member").await;
    let mut guest = Writer::live(&app, "guest").await;
    let of = |person: &str| json!({ "workspace_id": OURS, "person_id": person });
    let role = |person: &str, role: &str| {
        let mut row = of(person);
        row["role"] = role.into();
        row
    };
    let ours = |op: &str| {
        let mut all = vec![
            format!("{op} workspace {OURS}"),
            format!("{op} project {OUR_PROJECT}"),
            format!("{op} issue {OUR_ISSUE}"),
            format!("{op} issue_guest {OUR_ISSUE}/guest"),
            format!("{op} comment {MEMBERS_COMMENT}"),
            format!("{op} comment {GUESTS_COMMENT}"),
        ];
        let members = ["owner", "member", "suspended", "both"];
        all.extend(members.map(|person| format!("{op} member {OURS}/{person}")));
        all.sort();
        all
    };
    let of_member = [format!("put member {OURS}/member")];
    let suspend = json!([update("member", role("member", "suspended"))]);
    assert_eq!(brief(&write(&mut owner, suspend).await), of_member);
    assert_eq!(brief(&member.hears().await), ours("delete"));
    let back = json!([update("member", role("member", "member"))]);
    assert_eq!(brief(&write(&mut owner, back).await), of_member);
    assert_eq!(brief(&member.hears().await), ours("put"));
    // Leaving takes all of it away from who leaves, together with the acknowledgement.
    let leave = json!([delete("member", of("member"))]);
    assert_eq!(brief(&write(&mut member, leave).await), ours("delete"));
    assert_eq!(brief(&owner.hears().await), [format!("delete member {OURS}/member")]);
    // A guest sees an issue of theirs, and not whose it is.
    let away =
        json!([delete("issue_guest", json!({ "issue_id": OUR_ISSUE, "person_id": "guest" }))]);
    let all_of_it = [
        format!("delete comment {MEMBERS_COMMENT}"),
        format!("delete comment {GUESTS_COMMENT}"),
        format!("delete issue {OUR_ISSUE}"),
        format!("delete issue_guest {OUR_ISSUE}/guest"),
    ];
    assert_eq!(brief(&write(&mut guest, away).await), all_of_it);
    assert_eq!(brief(&owner.hears().await), [format!("delete issue_guest {OUR_ISSUE}/guest")]);
}
