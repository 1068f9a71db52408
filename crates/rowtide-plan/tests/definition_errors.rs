//! What a person reads when a definition is wrong: every rejection, with the place underlined, what is
//! not supported, and what to write instead.

mod catalogs;
#[path = "definition_errors/queries.rs"]
mod queries;

use miette::{GraphicalReportHandler, GraphicalTheme};
use proptest::prelude::*;
use rowtide_plan::catalog::{
    Catalog, CatalogPartition, FullRejected, LeftOutColumn, ReplicaIdentity, Unstreamed,
    UnstreamedKind,
};
use rowtide_plan::compile::{compile, compile_partly};
use rowtide_plan::definition::Definition;
use rowtide_plan::error::DefinitionError;

use catalogs::{notes, table};

fn read(text: &str, catalog: &Catalog) -> Result<(), DefinitionError> {
    compile(&Definition::parse("rowtide.toml", text)?, catalog).map(drop)
}

fn shown(error: &DefinitionError) -> String {
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .with_links(false);
    let mut shown = String::new();
    handler.render_report(&mut shown, error).expect("a string takes all");
    let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// The message for each of these definitions, one after the other.
#[track_caller]
fn rejections(catalog: &Catalog, definitions: &[impl AsRef<str>]) -> String {
    let message = |text: &dyn AsRef<str>| match read(text.as_ref(), catalog) {
        Ok(()) => panic!("accepted: {}", text.as_ref()),
        Err(error) => format!("{}\n", shown(&error)),
    };
    definitions.iter().map(|text| message(text)).collect::<Vec<_>>().join("\n")
}

/// A definition of `note` with this rule.
fn with_rule(rule: &&str) -> String {
    format!("[tables.note]\nvisible = '''\n  {rule}\n'''\n")
}

/// Compares with what is kept under `name`.
#[track_caller]
fn kept(name: &str, shown: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, shown));
}

#[track_caller]
fn rejected_rules(rules: &[&str]) -> String {
    rejections(&notes(), &rules.iter().map(with_rule).collect::<Vec<_>>())
}

#[test]
fn the_form_of_the_file() {
    kept(
        "the_form_of_the_file",
        &rejections(
            &notes(),
            &[
                "",
                "[tables.note",
                "[tables.note]\n",
                "[tables.note]\nvisible = 5\n",
                "[tables.note]\nvisable = 'true'\n",
                "[table.note]\nvisible = 'true'\n",
                "[tables.other.note]\nvisible = 'true'\n",
                "[tables.\".note\"]\nvisible = 'true'\n",
                "[tables.note]\nvisible = 'true'\n\n[tables.\"public.note\"]\nvisible = 'true'\n",
                "[app]\nmin_client = \"3\"\n\n[tables.note]\nvisible = 'true'\n",
                "[app]\nint8 = \"text\"\n\n[tables.note]\nvisible = 'true'\n",
                "[app]\nint8 = true\n\n[tables.note]\nvisible = 'true'\n",
                "[storage]\nbucket = \"b\"\n\n[tables.note]\nvisible = 'true'\n",
            ],
        ),
    );
}

#[test]
fn write_rules_that_are_not_sql() {
    kept(
        "write_rules_that_are_not_sql",
        &rejections(
            &notes(),
            &[r#"
[tables.note]
visible = 'true'
immutable = ["id", "owner"]

[tables.note.insert]
allow = 'new."ownerId" = = auth.user_id'

[[tables.note.insert.limit]]
where = '''
  "ownerId" = auth.user_id
  AND (archived
'''
max = -1
code = "Too many"

[[tables.note.update]]
columns = ["titel"]
allow = 'true; DROP TABLE note'

[tables.note.delete]
allow = 'old."ownerId'
"#],
        ),
    );
}

/// A definition of `note` with these lines besides its rule.
fn with_lines(lines: &str) -> String {
    format!("[tables.note]\nvisible = 'true'\n{lines}\n")
}

#[test]
fn columns_that_clients_get() {
    let mut catalog = notes();
    catalog.tables[0].streaming.left_out =
        vec![LeftOutColumn { name: "stored".to_owned(), is_virtual: false }];
    let rejected = [
        "columns = ['id', 'title']\nhidden = ['price']",
        "hidden = ['price']\ncolumns = ['id', 'title']",
        "hidden = ['title', 'id']",
        "hidden = ['titel']",
        "hidden = 'title'",
        "columns = ['title', 'price']",
        "columns = []",
        "columns = ['id', 'titel']",
        "columns = ['id', 'stored']",
        "hidden = ['price']\nreadonly = ['price']\nimmutable = ['id', 'price']",
        "columns = ['id', 'title']\n[[tables.note.update]]\ncolumns = ['title', 'price']\nallow = 'true'",
    ];
    kept("columns_that_clients_get", &rejections(&catalog, &rejected.map(with_lines)));
    for accepted in [
        "hidden = []",
        "hidden = ['stored', 'title', 'title']",
        "columns = ['id']",
        "columns = ['id', 'title']\nreadonly = ['id', 'title']",
        "hidden = ['ownerId']\n[tables.note.insert]\nallow = 'new.\"ownerId\" IS NULL'",
    ] {
        read(&with_lines(accepted), &catalog).unwrap_or_else(|error| panic!("{}", shown(&error)));
    }
}

#[test]
fn columns_that_older_clients_need() {
    let mut catalog = notes();
    for name in ["user", "file", "file_state"] {
        let columns = [
            ("id", "text"),
            ("ownerId", "text"),
            ("name", "text"),
            ("published", "boolean"),
            ("slug", "text"),
            ("error", "text"),
        ];
        catalog.tables.push(table(name, &columns, &["id"], &[]));
    }
    let definition = |of_file: &str, documents: &str| {
        let older = "[app]\nolder_clients = true\n[tables.user]\nvisible = 'true'\n[tables.file_state]\nvisible = 'true'\n";
        format!("{older}[tables.file]\nvisible = 'true'\n{of_file}\n{documents}")
    };
    let documents = "[documents.file]\ntable = 'file'\nprotocol = 'tlsync'\nread = 'true'\nedit = 'true'\n\
                     published = 'published'\nslug = 'slug'\npublish_error = 'error'\n";
    let rejected = [
        definition("hidden = ['ownerId']", ""),
        definition("columns = ['id', 'name']", ""),
        definition("hidden = ['published', 'error']", documents),
    ];
    kept("columns_that_older_clients_need", &rejections(&catalog, &rejected));
    let strings = "int8 = 'string'\n[tables.user]";
    let int8 = definition("", "").replace("[tables.user]", strings);
    kept("int8_of_older_clients", &rejections(&catalog, &[int8]));
    let accepted =
        [definition("hidden = ['name']", ""), definition("hidden = ['name']", documents)];
    for text in accepted {
        read(&text, &catalog).unwrap_or_else(|error| panic!("{}", shown(&error)));
    }
}

#[test]
fn what_is_not_one_expression() {
    kept(
        "what_is_not_one_expression",
        &rejected_rules(&[
            "",
            "shared AND",
            "shared archived",
            "shared; archived",
            "SELECT true",
            "shared == true",
            "stars = 5L",
            "title = 'open",
            "stars IN ()",
        ]),
    );
}

#[test]
fn expressions_that_are_not_supported() {
    kept(
        "expressions_that_are_not_supported",
        &rejected_rules(&[
            "lower(title) = auth.user_id",
            "made > now()",
            "title LIKE 'a%'",
            "title NOT ILIKE 'a%'",
            "title ~ '^a'",
            "stars BETWEEN 1 + 1 AND 3",
            "stars + 1 > 3",
            "- stars > 3",
            "title || 'x' = 'ax'",
            "title::varchar(3) = 'a'",
            "(title = 'a')::text = 'true'",
            "coalesce(title, 'a') = 'a'",
            "coalesce(shared, archived)",
            "CASE WHEN shared THEN true ELSE archived END",
            "(shared IS TRUE) = archived",
            "title IS DISTINCT FROM lower(title)",
            "title COLLATE \"C\" = 'a'",
            "(id, stars) = (1, 2)",
            "stars > ANY (ARRAY[1, 2])",
            "stars = ALL (levels)",
            "stars = ANY (ARRAY[]::int[])",
            "stars = ANY ('{1,2}')",
            "stars = ANY (stars)",
            "(stars = ANY (levels)) = shared",
            "stars = ANY (levels::int8[])",
            "extra -> 'a' = '1'",
            "tags[1] = 'a'",
            "(stars = 1) = shared",
            "title = E'a\\n'",
            "stars = $1",
            "5",
            "current_user = \"ownerId\"",
        ]),
    );
}

#[test]
fn memberships_that_are_not_supported() {
    kept(
        "memberships_that_are_not_supported",
        &rejected_rules(&[
            "EXISTS (SELECT 1 FROM share WHERE note = id)",
            "EXISTS (SELECT 1 FROM share AS s WHERE s.note < note.id)",
            "EXISTS (SELECT 1 FROM share AS s WHERE s.note = note.id OR s.person = auth.user_id)",
            "EXISTS (SELECT 1 FROM share AS s WHERE note.shared AND s.note = note.id)",
            "EXISTS (SELECT 1 FROM share AS s WHERE EXISTS (SELECT 1 FROM member AS m WHERE m.person = note.\"ownerId\"))",
            "EXISTS (SELECT 1 FROM share AS s WHERE EXISTS (SELECT 1 FROM member AS m WHERE m.person = title))",
            "EXISTS (SELECT count(*) FROM share)",
            "EXISTS (SELECT 1 FROM share LIMIT 1)",
            "EXISTS (VALUES (1))",
            "NOT EXISTS (SELECT 1 FROM share AS s WHERE s.person = note.id)",
            "(id, 5) IN (SELECT note, person FROM share)",
            "(id, \"ownerId\") IN (SELECT note FROM share)",
            "id = (SELECT note FROM share WHERE person = auth.user_id)",
            "id = ANY (SELECT note FROM share WHERE person = auth.user_id)",
            "5 IN (SELECT note FROM share WHERE person = auth.user_id)",
            "auth.user_id IN (SELECT person FROM share)",
            "id IN (SELECT note FROM share s WHERE s.person = note.\"ownerId\")",
            "id IN (SELECT note FROM share WHERE person = \"ownerId\")",
            "id IN (SELECT note FROM share JOIN member USING (person))",
            "id IN (SELECT note FROM share, member WHERE member.person = auth.user_id)",
            "id IN (SELECT note FROM share AS s (person, note) WHERE person = auth.user_id)",
            "id IN (SELECT DISTINCT note FROM share WHERE person = auth.user_id)",
            "id IN (SELECT note FROM share WHERE person = auth.user_id ORDER BY note LIMIT 1)",
            "id IN (SELECT note FROM share GROUP BY note)",
            "id IN (SELECT max(note) FROM share WHERE person = auth.user_id)",
            "id IN (SELECT note, person FROM share)",
            "id IN (SELECT * FROM share)",
            "id IN (SELECT 1 FROM share)",
            "id IN (SELECT note FROM share UNION SELECT 1)",
            "id IN (WITH s AS (SELECT 1) SELECT note FROM share)",
            "id IN (WITH RECURSIVE up AS (SELECT 1 UNION SELECT * FROM up) SELECT n FROM up)",
            "id IN (SELECT note FROM generate_series(1, 3))",
            "id IN (VALUES (1), (2))",
            "id IN (1, stars, auth.claims.level)",
        ]),
    );
}

#[test]
fn names_that_are_not_there() {
    kept(
        "names_that_are_not_there",
        &rejected_rules(&[
            "ownerId = auth.user_id AND sharde AND \"Title\" = 'a' AND nonsense IS NULL",
            "id IN (SELECT note FROM shares WHERE person = auth.user_id)",
            "id IN (SELECT note FROM other.share WHERE person = auth.user_id)",
            "id IN (SELECT node FROM share WHERE persn = auth.user_id)",
            "note.id = 1 AND notes.id = 2 AND public.note.id = 3",
            "false AND (nope = auth.user_id OR id IN (SELECT node FROM share))",
            "\"ownerId\" = auth.user AND \"ownerId\" = auth.claims AND title = auth.claim.a.b",
        ]),
    );
    kept(
        "tables_that_are_not_there",
        &rejections(
            &notes(),
            &["[tables.Note]\nvisible = 'true'\n\n[tables.noet]\nvisible = 'true'\n\n\
               [tables.\"other.note\"]\nvisible = 'true'\n"],
        ),
    );
    let kinds = [
        UnstreamedKind::View,
        UnstreamedKind::MaterializedView,
        UnstreamedKind::Inherited { child: "public.kid".to_owned() },
        UnstreamedKind::PartitionOf { root: "public.whole".to_owned() },
        UnstreamedKind::PartitionUnstreamed { partition: "\"public\".\"afar\"".to_owned() },
        UnstreamedKind::System,
        UnstreamedKind::Foreign,
        UnstreamedKind::Unlogged,
        UnstreamedKind::Temporary,
        UnstreamedKind::Unpublished,
        UnstreamedKind::PublishedInPart,
        UnstreamedKind::RowSecurity,
        UnstreamedKind::Other,
    ];
    let name = |kind: &UnstreamedKind| {
        let shown = format!("{kind:?}");
        shown.split(' ').next().unwrap_or_default().to_owned()
    };
    let of_kind = |kind: UnstreamedKind| {
        let (schema, name) = ("public".to_owned(), name(&kind));
        Unstreamed { schema, name, kind }
    };
    let catalog = Catalog { unstreamed: kinds.clone().map(of_kind).into(), ..notes() };
    let entry = |kind: UnstreamedKind| format!("[tables.{}]\nvisible = 'true'\n\n", name(&kind));
    let inner = "[tables.note]\nvisible = 'id IN (SELECT id FROM \"View\" WHERE id = 1)'\n";
    kept("what_is_no_table", &rejections(&catalog, &[kinds.map(entry).concat(), inner.to_owned()]));
}

#[test]
fn types_that_do_not_fit() {
    kept(
        "types_that_do_not_fit",
        &rejected_rules(&[
            "title < 'm'",
            "title >= auth.user_id",
            "status > 'open' AND shared < archived",
            "title = 5 AND stars = 'many' AND stars = 1.5 AND stars = 99999999999999999999",
            "price = 'NaN ' AND score = '1,5' AND due = 'tomorrow' AND made > '2026-13-01' AND shared = 1",
            "status = 'opne' AND status IN ('open', 'gone')",
            "team = auth.user_id AND team = 'red'",
            "stars = price AND \"ownerId\" = id AND status = mood AND due = made",
            "extra = '{}' AND tags = '{}' AND place = '(1,1)' AND title_ci = 'a'",
            "extra = auth.claims.extra",
            "'sad' = ANY (moods) AND stars = ANY (tags) AND title = ANY (extra) AND status = ANY (tags)",
            "tags = auth.claims.tags AND country = ANY (tags) AND 'a' = ANY (auth.user_id)",
            "\"ownerId\"::uuid = auth.user_id AND id::int4 = 5 AND due::timestamp = made",
            "due = '2026-01-31'::timestamptz AND team = 'red'::uuid AND stars = 40000::int2",
            "status = 'open'::mood AND status = 'opne'::status AND status = 'open'::nothing",
            "stars::text::int = 5 AND title = 5::int AND 'a'::text = 'b'",
            "stars AND title",
            "1 = 1 AND 'a' IN ('a', 'b') AND NULL IS NULL",
            "auth.claims.level > 'x' AND auth.claims.level IN (1, 'x')",
            "id IN (SELECT person FROM share WHERE person = auth.user_id)",
            "extra IN (SELECT person FROM share WHERE person = auth.user_id)",
        ]),
    );
}

/// With what makes a table peculiar in the stream, each in turn.
#[test]
fn tables_that_are_streamed_otherwise() {
    let left_out = |name: &str, is_virtual| LeftOutColumn { name: name.to_owned(), is_virtual };
    let rule = "[tables.note]\nvisible = 'shouted = auth.user_id OR later = auth.user_id'\n";
    let mut catalog = notes();
    catalog.tables[0].streaming.left_out =
        vec![left_out("shouted", false), left_out("later", true)];
    kept("columns_that_are_not_streamed", &rejections(&catalog, &[rule]));

    let rule = "[tables.note]\nvisible = '\"ownerId\" = auth.user_id'\n";
    let mut shown = String::new();
    let publication = || "\"other\"".to_owned();
    for rejected in [
        FullRejected::VirtualColumn("later".to_owned()),
        FullRejected::ColumnList { publication: publication() },
        FullRejected::GeneratedColumn { publication: publication(), column: "c".to_owned() },
    ] {
        let mut catalog = notes();
        catalog.tables[0].replica_identity = ReplicaIdentity::Key;
        catalog.tables[0].streaming.full_rejected = Some(rejected);
        shown += &rejections(&catalog, &[rule]);
    }
    let mut catalog = notes();
    catalog.tables[0].streaming.partitioned = true;
    let part = |oid, name: &str, replica_identity| CatalogPartition {
        oid,
        name: name.to_owned(),
        replica_identity,
        null_in_old_rows: Vec::new(),
    };
    catalog.tables[0].streaming.partitions = vec![
        part(50, "\"public\".\"old\"", ReplicaIdentity::Full),
        part(51, "\"public\".\"new\"", ReplicaIdentity::Key),
    ];
    shown += &rejections(&catalog, &[rule]);
    let mut older = part(52, "\"public\".\"older\"", ReplicaIdentity::Full);
    older.null_in_old_rows = vec!["added".to_owned(), "id".to_owned()];
    catalog.tables[0].replica_identity = ReplicaIdentity::Full;
    catalog.tables[0].streaming.partitions = vec![older];
    shown += &rejections(&catalog, &[rule]);
    catalog.tables[0].primary_key.clear();
    shown += &rejections(&catalog, &[rule]);
    catalog.tables[0].streaming.deferrable_key = true;
    shown += &rejections(&catalog, &[rule]);
    kept("tables_that_are_streamed_otherwise", &shown);
}

#[test]
fn tables_that_cannot_be_streamed() {
    let mut catalog = notes();
    catalog.tables[0].replica_identity = ReplicaIdentity::Key;
    catalog.tables[2].replica_identity = ReplicaIdentity::Nothing;
    catalog.tables[3].replica_identity = ReplicaIdentity::Index(vec!["id".to_owned()]);
    catalog.tables[4].columns.remove(0);
    kept(
        "tables_that_cannot_be_streamed",
        &rejections(
            &catalog,
            &[
                "[tables.log]\nvisible = 'person = auth.user_id'\n\n[tables.note]\n\
             visible = 'title IN (SELECT line FROM log WHERE person = auth.user_id)'\n",
                "[tables.note]\nvisible = 'id IN (SELECT note FROM share WHERE person = auth.user_id)'\n\n\
             [tables.share]\nvisible = 'person = auth.user_id'\n\n\
             [tables.team]\nvisible = 'org = auth.claims.org'\n",
                "[tables.org]\nvisible = 'person = auth.user_id'\n",
            ],
        ),
    );
}

#[test]
fn places_are_found_however_the_string_is_written() {
    kept(
        "places_are_found_however_the_string_is_written",
        &rejections(
            &notes(),
            &[
                "[tables.note]\nvisible = 'shared AND nope'\n",
                "[tables.note]\nvisible = \"shared AND nope\"\n",
                "[tables.note]\nvisible = \"shared AND \\\"Nope\\\"\"\n",
                "[tables.note]\nvisible = '''shared AND nope'''\n",
                "[tables.note]\nvisible = \"\"\"\nshared AND\n  nope\"\"\"\n",
                "[tables.note]\r\nvisible = '''\r\n  -- Füße\r\n  title = 'Füße' AND nope\r\n'''\r\n",
                "tables.note.visible = '''\n\n\nshared\n  AND /* no\n\n  */ nope\n'''\n",
            ],
        ),
    );
}

#[test]
fn limits() {
    let nested = (0..9).fold("person = auth.user_id".to_owned(), |rule, _| {
        format!("person IN (SELECT person FROM share WHERE {rule})")
    });
    let deep = format!("{}shared{}", "(".repeat(100), ")".repeat(100));
    let either = "(\"ownerId\" = auth.user_id OR title = auth.claims.title)";
    let many = [either; 6].join(" AND ");
    let chain = vec!["shared"; 600].join(" AND ");
    let cut = |rule: &str| {
        let shown = rejected_rules(&[rule]);
        let problem = shown.split("Error:").last().unwrap_or_default();
        problem.lines().map(|line| line.chars().take(80).collect::<String>()).collect::<Vec<_>>()
    };
    let all: Vec<String> =
        [&nested, &deep, &many, &chain].iter().map(|rule| cut(rule).join("\n")).collect();
    kept("limits", &all.join("\n"));
    let large = format!("# {}\n[tables.note]\nvisible = 'true'\n", "x".repeat(1 << 20));
    let error = read(&large, &notes()).unwrap_err();
    assert_eq!(error.problems[0].message, "the definition is larger than 1048576 bytes");
}

#[test]
fn a_table_that_does_not_fit_any_more_takes_no_other_with_it() {
    let text = "[tables.note]\nvisible = '\"ownerId\" = auth.user_id'\n\n\
                [tables.member]\nvisible = 'persn = auth.user_id'\n\n\
                [tables.share]\nvisible = 'person = auth.user_id'\n\n\
                [tables.team]\nvisible = 'id IN (SELECT team FROM member WHERE person = auth.user_id)'\n";
    let definition = Definition::parse("rowtide.toml", text).unwrap();
    let mut catalog = notes();
    catalog.tables[2].replica_identity = ReplicaIdentity::Nothing;
    let (plan, rejected) = compile_partly(&definition, &catalog);
    let rejected: Vec<&str> = rejected.iter().map(|(table, _)| table.as_str()).collect();
    assert_eq!(rejected, ["member", "share"]);
    let served = plan.tables.iter().filter(|table| table.published);
    let served: Vec<&str> = served.map(|table| table.catalog.name.as_str()).collect();
    assert_eq!(served, ["note", "team"]);
    assert!(plan.branches.iter().all(|branch| plan.table(branch.table).catalog.name != "share"));
}

/// Words that make texts which are nearly rules.
const WORDS: [&str; 46] = [
    "(",
    ")",
    ",",
    ".",
    ";",
    "=",
    "<>",
    "<",
    "-",
    "+",
    "*",
    "::",
    "[",
    "]",
    "'",
    "\"",
    "$$",
    "--",
    "/*",
    "AND",
    "OR",
    "NOT",
    "IN",
    "IS",
    "NULL",
    "BETWEEN",
    "LIKE",
    "CASE",
    "WHEN",
    "END",
    "SELECT",
    "FROM",
    "WHERE",
    "WITH",
    "EXISTS",
    "INTERVAL",
    "note",
    "share",
    "shared",
    "\"ownerId\"",
    "auth.user_id",
    "auth.claims.x",
    "5",
    "1e9",
    "'ä'",
    "\r\n",
];

/// A definition of documents of `note`, with these lines in place of those that fit.
fn with_documents(lines: &str) -> String {
    let fitting = [
        ("table", "table = \"team\""),
        ("protocol", "protocol = \"tlsync\""),
        ("read", "read = 'org = auth.user_id'"),
        ("edit", "edit = 'false'"),
    ];
    let given = |name: &&str| lines.lines().any(|line| line.starts_with(&format!("{name} =")));
    let fitting = fitting.iter().filter(|(name, _)| !given(name)).map(|(_, line)| *line);
    let fitting = fitting.collect::<Vec<_>>().join("\n");
    format!("[tables.note]\nvisible = 'true'\n\n[documents.board]\n{fitting}\n{lines}\n")
}

#[test]
fn documents() {
    let wrong = [
        "protocol = \"tlsink\"",
        "protocol = \"carrier pigeon\"",
        "publishes = \"published\"",
        "published = \"shared\"",
        "slug = \"org\"",
        "republish = \"org\"",
        "publish_error = \"org\"",
        "published = \"org\"\nslug = \"missing\"",
        "table = \"note\"\nread = 'true'\npublished = \"shared\"\nslug = \"stars\"\npublish_error = \"id\"",
        "source = \"missing\"",
        "restore = 'org ='",
        "table = \".team\"",
        "table = \"teams\"",
        "table = \"member\"",
        "table = \"log\"",
        "read = 'org ='",
        "read = 'auth.name = org'",
        "read = 'id IN (SELECT team FROM members)'",
        "read = 'id IN (SELECT team FROM Elsewhere.member)'",
        "name = \"title\"",
        "name = \"id\"",
        "protocol = \"yjs\"\nname = \"org\"",
        "protocol = \"yjs\"\nschema = \"schema.js\"",
        "touched = \"org\"",
        "touched = \"id\"",
        "table = \"note\"\nread = 'true'\ntouched = \"id\"",
        "table = \"note\"\nread = 'true'\ntouched = \"stars\"",
    ];
    let definitions: Vec<String> = wrong.iter().map(|lines| with_documents(lines)).collect();
    let named = |name: &str| with_documents("").replace("documents.board", name);
    let names = ["documents.\"a/b\"", "documents.publish", "documents.\"\""].map(named);
    kept("documents", &rejections(&notes(), &[&definitions[..], &names].concat()));
}

#[test]
fn where_objects_are_does_not_matter_to_rows() {
    let plan = |text: &str| {
        let definition = Definition::parse("rowtide.toml", text).expect("it is a definition");
        (definition.storage_url().map(str::to_owned), compile(&definition, &notes()).expect("fits"))
    };
    let (none, without) = plan("[tables.note]\nvisible = 'shared'\n");
    let (some, with) =
        plan("[storage]\nurl = 's3://bucket/a'\n[tables.note]\nvisible = 'shared'\n");
    assert_eq!((none, some.as_deref()), (None, Some("s3://bucket/a")));
    assert_eq!(with.fingerprint(), without.fingerprint());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_is_written_is_read_or_rejected(text in "\\PC{0,200}") {
        if let Err(error) = read(&text, &notes()) {
            shown(&error);
        }
    }

    #[test]
    fn whatever_rule_is_written_is_read_or_rejected(
        words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..60),
        quotes in proptest::sample::select(&["'''", "\"\"\"", "'", "\""][..]),
    ) {
        let text = format!("[tables.note]\nvisible = {quotes}{}{quotes}\n", words.join(" "));
        if let Err(error) = read(&text, &notes()) {
            shown(&error);
        }
    }
}

#[test]
fn a_rule_of_any_length_and_depth_is_read_or_rejected() {
    let shapes = [
        ("(", "shared", ")"),
        ("NOT ", "shared", ""),
        ("NOT (", "shared", ")"),
        ("", "shared", " AND shared"),
        ("", "shared", " = shared"),
        ("", "stars", "::int"),
        ("", "shared", " IS NULL"),
        ("", "stars", "[1]"),
        ("- ", "1", ""),
        ("lower(", "title", ")"),
        ("CASE WHEN ", "shared", " THEN true END"),
        ("id IN (SELECT id FROM note WHERE ", "true", ")"),
        ("id IN (1, (", "2", "))"),
        ("ARRAY[", "1", "]"),
        ("EXISTS (SELECT 1 WHERE ", "true", ")"),
        ("(SELECT ", "1", ")"),
        ("shared AND (archived OR ", "shared", ")"),
    ];
    for (before, middle, after) in shapes {
        for times in [1, 10, 60, 100, 240, 490, 10_000] {
            let rule = format!("{}{middle}{}", before.repeat(times), after.repeat(times));
            let text = format!(
                "[tables.note]\nvisible = '{rule}'\n\n[tables.note.delete]\nallow = '{rule}'\n\n\
                 [documents.note]\ntable = \"note\"\nprotocol = \"yjs\"\nread = '{rule}'\nedit = '{rule}'\n"
            );
            // Whether it is accepted is said elsewhere; here it must only come to an end.
            let _: Result<(), DefinitionError> = read(&text, &notes());
        }
    }
}
