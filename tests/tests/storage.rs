//! Documents on S3, end to end: real servers with directories of their own and one bucket, one after the other. What the
//! first had acknowledged and could not save is not lost when the second has gone on without it.

#[path = "../../crates/rowtide-documents/tests/s3/mod.rs"]
mod s3;

use rowtide_plan::definition::Definition;
use rowtide_postgres::setup::setup;
use rowtide_tests::{
    App, Database, Dir, Drawer, Running, SECRET, Texter, eventually, rowtide, said,
};
use s3::{ACCESS_KEY, BUCKET, Fault, S3, SECRET_KEY};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DEFINITION: &str = r#"
[tables.page]
visible = 'owner = auth.user_id'

[documents.text]
table = "page"
protocol = "yjs"
read = 'owner = auth.user_id'
edit = 'owner = auth.user_id'

[documents.drawing]
table = "page"
protocol = "tlsync"
read = 'owner = auth.user_id'
edit = 'owner = auth.user_id'
published = "is_public"
slug = "address"
"#;

struct Deployment {
    database: Database,
    s3: S3,
    dir: Dir,
    definition: String,
}

impl Deployment {
    async fn new() -> Deployment {
        let table = "CREATE TABLE page (id text PRIMARY KEY, owner text NOT NULL, is_public boolean, address text); \
                     INSERT INTO page VALUES ('p', 'u1')";
        let (database, dir) = (Database::with(table).await, Dir::new());
        let parsed = Definition::parse("rowtide.toml", DEFINITION).unwrap();
        let sql = database.connect().await;
        setup(&sql, &database.names(), &parsed.tables()).await.unwrap();
        let definition = dir.write("rowtide.toml", DEFINITION);
        Deployment { database, s3: S3::start().await, dir, definition }
    }

    /// The command, for a server that has a directory of its own.
    async fn command(&self, command: &str, own: &str) -> std::process::Command {
        let mut command = rowtide([command]);
        command.args(["--database-url", &self.database.url().await]);
        command.args(["--definition", &self.definition, "--environment", self.database.name()]);
        command.args(["--log-dir", &self.dir.join(own), "--requests-per-minute", "0"]);
        command.env("ROWTIDE_STORAGE_URL", format!("s3://{BUCKET}/documents"));
        command.env("ROWTIDE_TOKEN_SECRET", SECRET).envs(self.s3.variables());
        command
    }

    async fn serve(&self, own: &str) -> Process {
        let mut command = self.command("serve", own).await;
        command.args(["--listen", "127.0.0.1:0"]);
        let mut running = Running::start(command);
        let address = running.line("listening http://").await;
        let token = App::token("u1");
        eventually("documents are served", || async {
            let ready = get(&address, "/health/ready").await;
            (ready.contains(" 200 ") && ready.contains(r#""documentsWaitFor":null"#)).then_some(())
        })
        .await;
        let drawer = Drawer::live(&address, "/app/drawing/p", Some(&token), "s").await;
        let texter = Texter::open(&address, "/doc/text/p", Some(&token)).await;
        let reader = Texter::open(&address, "/doc/text/p", Some(&token)).await;
        Process { running, address, drawer, texter, reader }
    }
}

struct Process {
    running: Running,
    address: String,
    drawer: Drawer,
    texter: Texter,
    reader: Texter,
}

impl Process {
    /// Draws and writes something, which is acknowledged.
    async fn edit(&mut self, name: &str) {
        assert_eq!(self.drawer.draw(name).await, "commit");
        self.texter.write(&format!("<{name}>")).await;
        self.reader.until(&format!("<{name}>")).await;
    }

    async fn has(&mut self, name: &str) {
        assert!(self.drawer.has(name), "{name} is lost");
        self.reader.until(&format!("<{name}>")).await;
    }
}

async fn get(address: &str, path: &str) -> String {
    get_with(address, path, "").await
}

async fn get_with(address: &str, path: &str, headers: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    socket.read_to_string(&mut said).await.unwrap();
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_bucket_loses_nothing_of_the_first() {
    let deployment = Deployment::new().await;
    let mut first = deployment.serve("first").await;
    first.edit("one").await;
    let s3 = &deployment.s3;
    eventually("what is written comes to the bucket", || async {
        let keys = s3.keys("documents/");
        let current = keys.iter().filter(|key| key.ends_with("/current")).count();
        (current == 2).then_some(())
    })
    .await;
    // The storage goes away, and the server says so and goes on; then it is killed.
    s3.set_fault(Some(Fault::Denied));
    first.edit("two").await;
    let ready = eventually("the server says what is not saved", || async {
        let ready = get(&first.address, "/health/ready").await;
        (!ready.contains(r#""unsavedDocuments":null"#)).then_some(ready)
    })
    .await;
    assert!(ready.contains(" 200 ") && ready.contains("AccessDenied"), "{ready}");
    let metrics = get(&first.address, "/metrics").await;
    let denied = r#"rowtide_storage_failures_total{reason="denied"}"#;
    let denied = metrics.lines().find(|line| line.starts_with(denied));
    assert!(denied.is_some_and(|line| !line.ends_with(" 0")), "{denied:?}");
    first.running.signal("KILL");
    let log = first.running.ended().await;
    for secret in [ACCESS_KEY, SECRET_KEY, "X-Amz", "Signature="] {
        assert!(!log.err.contains(secret) && !log.out.contains(secret), "{secret}");
    }
    s3.set_fault(None);
    // Another one takes over, which knows nothing of what was not saved.
    let mut second = deployment.serve("second").await;
    second.has("one").await;
    assert!(!second.drawer.has("two"));
    second.edit("three").await;
    second.running.stop().await;
    // The first comes back.
    let mut first = deployment.serve("first").await;
    for name in ["one", "two", "three"] {
        first.has(name).await;
    }
    first.running.stop().await;
    // All of it is in the bucket now, whoever serves.
    let mut third = deployment.serve("third").await;
    for name in ["one", "two", "three"] {
        third.has(name).await;
    }
    third.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tries_the_storage_and_says_what_is_wrong_with_it() {
    let deployment = Deployment::new().await;
    let checked = said(deployment.command("check", "first").await).await;
    assert_eq!(checked.code(), Some(0), "{}", checked.out);
    assert_eq!(deployment.s3.keys(""), Vec::<String>::new(), "it leaves nothing behind");
    deployment.s3.set_fault(Some(Fault::Denied));
    let checked = said(deployment.command("check", "first").await).await;
    assert_eq!(checked.code(), Some(1));
    assert!(checked.out.contains("the storage of documents: an object cannot be put"));
    assert!(checked.out.contains("403 Forbidden (AccessDenied)"), "{}", checked.out);
    assert!(!checked.out.contains(ACCESS_KEY), "{}", checked.out);
    deployment.s3.set_fault(None);
    let mut command = deployment.command("check", "first").await;
    command.env_remove("AWS_ALLOW_HTTP");
    let checked = said(command).await;
    assert!(checked.out.contains("`AWS_ENDPOINT_URL` begins with http://"), "{}", checked.out);
    let mut command = deployment.command("serve", "first").await;
    command.env("ROWTIDE_STORAGE_URL", "s3://key:secret@bucket");
    let checked = said(command).await;
    assert!(checked.err.contains("storage_url") && !checked.err.contains("key:secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_definition_says_where_objects_are_unless_the_server_is_told_otherwise() {
    let mut deployment = Deployment::new().await;
    let stored = |url: &str| format!("{DEFINITION}\n[storage]\nurl = \"{url}\"\n");
    let of_definition = stored(&format!("s3://{BUCKET}/of-the-definition"));
    deployment.definition = deployment.dir.write("stored.toml", &of_definition);
    let places = || {
        let asked = deployment.s3.take_asked();
        let is = |place: &str| asked.iter().any(|asked| asked.contains(place));
        (is("of-the-definition/"), is("documents/rowtide"))
    };
    let mut command = deployment.command("check", "first").await;
    command.env_remove("ROWTIDE_STORAGE_URL");
    let checked = said(command).await;
    assert_eq!(checked.code(), Some(0), "{}{}", checked.out, checked.err);
    assert_eq!(places(), (true, false));
    let checked = said(deployment.command("check", "first").await).await;
    assert_eq!(checked.code(), Some(0), "{}{}", checked.out, checked.err);
    assert_eq!(places(), (false, true));
    // A server has them where it was checked.
    let mut command = deployment.command("serve", "first").await;
    command.env_remove("ROWTIDE_STORAGE_URL").args(["--listen", "127.0.0.1:0"]);
    let mut running = Running::start(command);
    let address = running.line("listening http://").await;
    let token = App::token("u1");
    let mut drawer = eventually("documents are served", || async {
        let ready = get(&address, "/health/ready").await;
        let is_served = ready.contains(r#""documentsWaitFor":null"#) && ready.contains(" 200 ");
        is_served.then_some(())?;
        Some(Drawer::live(&address, "/app/drawing/p", Some(&token), "s").await)
    })
    .await;
    assert_eq!(drawer.draw("one").await, "commit");
    drop(drawer);
    running.stop().await;
    let kept = deployment.s3.keys("of-the-definition/");
    assert!(kept.iter().any(|key| key.ends_with("/documents/drawing/p/current")), "{kept:?}");
    // What is no storage is shown in the definition, also to one who is told another.
    for (url, expected) in [
        ("file:objects", "the path of a directory from the root on"),
        ("https://bucket", "expected file:///directory or s3://bucket/prefix"),
        ("s3://key:secret@bucket", "credentials, region and endpoint are variables"),
    ] {
        deployment.definition = deployment.dir.write("stored.toml", &stored(url));
        for command in ["check", "serve"] {
            let checked = said(deployment.command(command, "first").await).await;
            assert_eq!(checked.code(), Some(1), "{url}");
            let words = checked.err.split_whitespace().filter(|word| *word != "│");
            let err = words.collect::<Vec<_>>().join(" ");
            assert!(err.contains("stored.toml:") && err.contains(expected), "{}", checked.err);
            assert!(!err.contains("secret"), "{}", checked.err);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_read_once_for_all_who_ask() {
    let deployment = Deployment::new().await;
    let mut server = deployment.serve("first").await;
    server.edit("one").await;
    let publish = "UPDATE page SET is_public = true, address = 'here'";
    deployment.database.run(publish).await;
    let answer = eventually("it is published", || async {
        let answer = get(&server.address, "/app/publish/here").await;
        answer.contains(" 200 ").then_some(answer)
    })
    .await;
    let tag = answer.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag");
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    let reads = || {
        let asked = deployment.s3.take_asked();
        let is_read = |asked: &&String| {
            asked.starts_with("GET ") && asked.contains("/drawing/p/published/here")
        };
        asked.iter().filter(is_read).count()
    };
    assert_eq!(reads(), 1);
    for _ in 0..3 {
        let again = get(&server.address, "/app/publish/here").await;
        assert_eq!(again.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()), body);
        let known = format!("If-None-Match: {tag}\r\n");
        let known = get_with(&server.address, "/app/publish/here", &known).await;
        assert!(known.contains(" 304 "), "{known}");
    }
    assert_eq!(reads(), 0, "it is held");
    // Another copy is read, once.
    server.edit("two").await;
    deployment.database.run("UPDATE page SET is_public = false").await;
    eventually("it is not published", || async {
        get(&server.address, "/app/publish/here").await.contains(" 404 ").then_some(())
    })
    .await;
    // The row says so at once; the copy is there until it was taken back.
    eventually("the copy is taken back", || async {
        let keys = deployment.s3.keys("documents/");
        (!keys.iter().any(|key| key.contains("/drawing/p/published/here"))).then_some(())
    })
    .await;
    deployment.database.run(publish).await;
    eventually("it is published anew", || async {
        let known = format!("If-None-Match: {tag}\r\n");
        let answer = get_with(&server.address, "/app/publish/here", &known).await;
        (answer.contains(" 200 ") && answer.contains("two")).then_some(())
    })
    .await;
    assert_eq!(reads(), 1);
    // Who has it already is told so by a server that has read nothing of it.
    let answer = get(&server.address, "/app/publish/here").await;
    let tag = answer.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag");
    server.running.stop().await;
    let server = deployment.serve("first").await;
    reads();
    let known = format!("If-None-Match: {tag}\r\n");
    let known = get_with(&server.address, "/app/publish/here", &known).await;
    assert!(known.contains(" 304 "), "{known}");
    assert_eq!(reads(), 0);
}
