//! Advice on documents, and on what older clients need.

use super::{Followed, whole};

/// The definition of documents of boards, of which these lines are others.
fn board(lines: &[&str]) -> String {
    let usual = ["table = 'board'", "protocol = 'tlsync'", "read = 'true'", "edit = 'false'"];
    let key = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let is_other = |line: &&&str| !lines.iter().any(|other| key(other) == key(line));
    let usual = usual.iter().filter(is_other).chain(lines).copied();
    let lines = usual.collect::<Vec<_>>().join("\n");
    format!("[tables.note]\nvisible = 'true'\n[documents.board]\n{lines}\n")
}

pub(super) fn documents() -> Vec<Followed> {
    let of = |wrong: &[&str], advice, right: &[&[&str]]| Followed {
        wrong: board(wrong),
        advice,
        right: right.iter().map(|lines| board(lines)).collect(),
    };
    let called = |name: &str| board(&[]).replace("documents.board", name);
    let published = ["published = 'open'", "slug = 'slug'"];
    let older = "[app]\nolder_clients = true\n[tables.user]\nvisible = 'true'\n[tables.file_state]\nvisible = 'true'\n[tables.file]\nvisible = 'true'\n";
    let of_older = |lines: &str| format!("{older}{lines}");
    let mut all = vec![
        of(
            &["protocol = 'carrier pigeon'"],
            "write \"tlsync\" or \"yjs\"",
            &[&["protocol = \"tlsync\""], &["protocol = \"yjs\""]],
        ),
        of(&["protocol = 'tlsink'"], "did you mean \"tlsync\"?", &[&["protocol = \"tlsync\""]]),
        of(&["protocol = 'yjs'", "name = 'name'"], "leave `name` out", &[&["protocol = 'yjs'"]]),
        of(
            &["protocol = 'yjs'", "schema = 'x.js'"],
            "leave `schema` out",
            &[&["protocol = 'yjs'"]],
        ),
        of(
            &["table = '.board'"],
            "write NAME, or SCHEMA.NAME for another schema than public",
            &[&["table = 'board'"], &["table = 'other.item'"]],
        ),
        of(&["published = 'open'"], "write `slug = \"COLUMN\"`", &[&published]),
        of(
            &["slug = 'slug'"],
            "write `published = \"COLUMN\"`, a boolean column, or leave it out",
            &[&published, &[]],
        ),
        of(&["published = 'name'", "slug = 'slug'"], "use a column of type boolean", &[&published]),
        of(
            &["published = 'open'", "slug = 'open'"],
            "use a column of type text or varchar",
            &[&published],
        ),
        of(
            &["published = 'open'", "slug = 'slug'", "publish_error = 'id'"],
            "use a column of type text or varchar",
            &[&["published = 'open'", "slug = 'slug'", "publish_error = 'error'"]],
        ),
        of(&["table = 'member'"], "use a table whose key is one text or uuid column", &[&[]]),
        of(
            &["touched = 'name'"],
            "use a bigint, for milliseconds since 1970, or a timestamptz",
            &[&["touched = 'saved_ms'"], &["touched = 'saved_at'"]],
        ),
        of(&["touched = 'id'"], "use another column", &[&["touched = 'saved_at'"]]),
        Followed {
            wrong: called("documents.\"a/b\""),
            advice: "write 1 to 40 of a-z A-Z 0-9 _ -",
            right: vec![called("documents.a_B-1")],
        },
        Followed {
            wrong: called("documents.publish"),
            advice: "choose another name",
            right: vec![called("documents.drawing")],
        },
    ];
    all.push(whole(
        &of_older("columns = ['id', 'name']\n"),
        "add \"ownerId\", or take `older_clients` out of [app]",
        &[&of_older("columns = ['id', 'name', \"ownerId\"]\n")],
    ));
    all.push(whole(
        &of_older("hidden = ['ownerId']\n"),
        "take it out of `hidden`, or `older_clients` out of [app]",
        &[&of_older("hidden = []\n"), "[tables.file]\nvisible = 'true'\nhidden = ['ownerId']\n"],
    ));
    all.push(whole(
        &of_older("").replace("[app]\n", "[app]\nint8 = \"string\"\n"),
        "leave it out, or take `older_clients` out of [app]",
        &[&of_older(""), "[app]\nint8 = \"string\"\n[tables.file]\nvisible = 'true'\n"],
    ));
    all.push(whole(
        &of_older("sync = 'on_demand'\n"),
        "take `sync` out, or `older_clients` out of [app]",
        &[&of_older(""), "[tables.file]\nvisible = 'true'\nsync = 'on_demand'\n"],
    ));
    all
}
