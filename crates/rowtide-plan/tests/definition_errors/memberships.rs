//! Advice on memberships, names, and the size of rules.

use super::{Followed, rule};

/// So many memberships within each other.
fn within(depth: usize) -> String {
    let before = "note IN (SELECT note FROM share WHERE ".repeat(depth - 1);
    let inner = "id IN (SELECT note FROM share WHERE ";
    format!("{inner}{before}person = auth.user_id{}", ")".repeat(depth))
}

pub(super) fn memberships() -> Vec<Followed> {
    let outer = "write `EXISTS (SELECT 1 FROM … AS s WHERE s.a = note.b AND …)`";
    let plain = "write `SELECT column FROM table WHERE …`";
    vec![
        rule(
            "id IN (SELECT DISTINCT note FROM share)",
            plain,
            &["id IN (SELECT note FROM share WHERE person = 'a')"],
        ),
        rule(
            "EXISTS (SELECT 1 FROM share LIMIT 1)",
            "write `SELECT 1 FROM table WHERE …`",
            &["EXISTS (SELECT 1 FROM share WHERE person = 'a')"],
        ),
        rule(
            "id IN (SELECT note FROM share, member WHERE member.person = auth.user_id)",
            "one table, no join",
            &[
                "id IN (SELECT note FROM share WHERE person IN (SELECT person FROM member WHERE person = auth.user_id))",
            ],
        ),
        rule(
            "id = (SELECT note FROM share WHERE person = auth.user_id)",
            "write `column IN (SELECT column FROM table WHERE …)`",
            &["id IN (SELECT note FROM share WHERE person = auth.user_id)"],
        ),
        rule(
            "id = ANY (SELECT note FROM share WHERE person = auth.user_id)",
            "write `column IN (SELECT …)`",
            &["id IN (SELECT note FROM share WHERE person = auth.user_id)"],
        ),
        rule(
            "id <> ALL (SELECT note FROM share WHERE person = auth.user_id)",
            "write `column NOT IN (SELECT …)`",
            &["id NOT IN (SELECT note FROM share WHERE person = auth.user_id)"],
        ),
        rule(
            "auth.user_id IN (SELECT person FROM share)",
            "`EXISTS (SELECT 1 FROM table WHERE column = auth.user_id)`",
            &["EXISTS (SELECT 1 FROM share WHERE person = auth.user_id)"],
        ),
        rule(
            "5 IN (SELECT note FROM share)",
            "a claim or a literal is compared inside",
            &["EXISTS (SELECT 1 FROM share WHERE note = 5)"],
        ),
        rule(
            "(id, \"ownerId\") IN (SELECT note FROM share)",
            "select as many columns",
            &["(id, \"ownerId\") IN (SELECT note, person FROM share)"],
        ),
        rule(
            "id IN (SELECT person FROM share)",
            "both columns must have the same kind of type",
            &["\"ownerId\" IN (SELECT person FROM share)"],
        ),
        rule(
            "EXISTS (SELECT 1 FROM share WHERE note = id)",
            "`EXISTS (SELECT 1 FROM share WHERE share.a = note.id AND …)`",
            &["EXISTS (SELECT 1 FROM share WHERE share.note = note.id)"],
        ),
        rule(
            "id IN (SELECT note FROM share WHERE person = \"ownerId\")",
            "`EXISTS (SELECT 1 FROM share WHERE share.a = note.\"ownerId\" AND …)`",
            &[
                "EXISTS (SELECT 1 FROM share WHERE share.person = note.\"ownerId\" AND share.note = note.id)",
            ],
        ),
        rule(
            "EXISTS (SELECT 1 FROM share AS s WHERE note.shared AND s.note = note.id)",
            outer,
            &["note.shared AND EXISTS (SELECT 1 FROM share AS s WHERE s.note = note.id)"],
        ),
        rule(
            "EXISTS (SELECT 1 FROM share AS s WHERE s.note = note.id OR s.person = auth.user_id)",
            outer,
            &[
                "EXISTS (SELECT 1 FROM share AS s WHERE s.note = note.id AND s.person = auth.user_id)",
            ],
        ),
        rule(
            "EXISTS (SELECT 1 FROM share AS s WHERE EXISTS (SELECT 1 FROM member AS m WHERE m.person = note.\"ownerId\"))",
            "write `EXISTS (SELECT 1 FROM … AS m WHERE m.a = s.b AND …)`",
            &["EXISTS (SELECT 1 FROM share AS s WHERE s.person = note.\"ownerId\" AND \
               EXISTS (SELECT 1 FROM member AS m WHERE m.person = s.person))"],
        ),
        rule(
            "id IN (SELECT note FROM other.share)",
            "create it, or correct the name",
            &["id IN (SELECT note FROM share)"],
        ),
        rule(
            "ownerId = auth.user_id",
            "write \"ownerId\" in double quotes",
            &["\"ownerId\" = auth.user_id"],
        ),
        rule(
            "id IN (SELECT note FROM shares WHERE person = auth.user_id)",
            "did you mean \"share\"?",
            &["id IN (SELECT note FROM \"share\" WHERE person = auth.user_id)"],
        ),
        rule(&within(9), "shorten the path", &[&within(8)]),
        rule("sharde", "did you mean \"shared\"?", &["\"shared\"", "shared"]),
        rule("nonsense", "it has \"id\", \"ownerId\"", &["\"ownerId\" = auth.user_id"]),
        rule(
            "notes.id = 2",
            "write the column by itself; the table here is `note`",
            &["id = 2", "note.id = 2"],
        ),
        rule("public.note.id = 3", "write the column by itself", &["id = 3"]),
        rule(
            "title = auth.claim.a.b",
            "the claims are `auth.user_id`, `auth.claims.<name>` and, into an object, `auth.claims.<name>.<name>`",
            &["title = auth.user_id", "title = auth.claims.a", "title = auth.claims.a.b"],
        ),
        rule(
            "(\"ownerId\" = auth.user_id OR title = auth.claims.title) AND "
                .repeat(6)
                .replace("title) AND (", "title) AND shared AND (")
                .trim_end_matches(" AND "),
            "every OR beside an anchor doubles them",
            &["(\"ownerId\" = auth.user_id OR title = auth.claims.title) AND shared"],
        ),
        rule(
            &format!("shared{}", " AND shared".repeat(600)),
            "write `column IN (…)` for a long list of literals",
            &[&format!("stars IN (1{})", ", 2".repeat(5_000))],
        ),
        rule(
            &format!("{}stars{}", "(".repeat(70), ")".repeat(70)),
            "leave out parentheses that nothing needs",
            &["stars = 1"],
        ),
    ]
}
