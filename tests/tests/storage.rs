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
"#;

struct Deployment {
    database: Database,
    s3: S3,
    dir: Dir,
    definition: String,
}

impl Deployment {
    async fn new() -> Deployment {
        let table = "CREATE TABLE page (id text PRIMARY KEY, owner text NOT NULL); INSERT INTO page VALUES ('p', 'u1')";
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
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
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
