//! The commands for a database that is there already, in the order in which an operator meets them, and
//! what is said when something of it is wrong.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use rowtide_tests::{Database, Dir, Running, Said, eventually, rowtide, said};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[path = "command_line/init.rs"]
mod init;

const TABLES: &str = "
CREATE TABLE note (id text PRIMARY KEY, owner text NOT NULL, body text NOT NULL);
CREATE INDEX ON note (owner);
INSERT INTO note VALUES ('n1', 'ada', 'hello'), ('n2', 'bob', 'secret');";
const DEFINITION: &str = "[tables.note]\nvisible = 'owner = auth.user_id'\n";
const SECRET: &str = "a secret of this test, long enough for HS256";

/// The command over a database of its own.
struct Operator {
    database: Database,
    dir: Dir,
}

impl Operator {
    async fn new(definition: &str) -> Operator {
        let operator = Operator { database: Database::with(TABLES).await, dir: Dir::new() };
        operator.dir.write("rowtide.toml", definition);
        operator
    }

    async fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = rowtide(args);
        command
            .current_dir(self.dir.path())
            .env("DATABASE_URL", self.database.url().await)
            .env("ROWTIDE_ENVIRONMENT", self.database.name())
            .env("ROWTIDE_TOKEN_SECRET", SECRET)
            .env("ROWTIDE_LISTEN", "127.0.0.1:0");
        command
    }

    async fn says(&self, args: &[&str]) -> Said {
        said(self.command(args).await).await
    }
}

#[track_caller]
fn refused(said: &Said, parts: &[&str]) {
    assert_eq!(said.code(), Some(1), "{said:?}");
    for part in parts {
        assert!(said.err.contains(part), "no `{part}` in:\n{}", said.err);
    }
    assert!(!said.err.contains("panicked") && !said.err.contains("stack backtrace"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_database_to_a_server_that_is_watched() {
    let operator = Operator::new(DEFINITION).await;
    let explained = operator.says(&["explain"]).await;
    assert_eq!(explained.code(), Some(0), "{explained:?}");
    assert!(explained.out.contains("note by \"owner\" = auth.user_id"), "{}", explained.out);

    let checked = operator.says(&["check"]).await;
    assert_eq!(checked.code(), Some(1), "{checked:?}");
    for part in ["error: ", "REPLICA IDENTITY FULL", "rowtide setup"] {
        assert!(checked.out.contains(part), "{}", checked.out);
    }
    // It waits for what is missing, and says so.
    let mut server = Running::start(operator.command(&["serve"]).await);
    server.line("listening http://").await;
    eventually("it says what is missing", || async {
        server.said().contains("rowtide setup makes it").then_some(())
    })
    .await;

    let set_up = operator.says(&["setup"]).await;
    assert_eq!(set_up.code(), Some(0), "{set_up:?}");
    assert!(set_up.out.lines().count() >= 3, "{}", set_up.out);
    let again = operator.says(&["setup"]).await;
    assert_eq!(again.out, "everything was there\n");
    let checked = operator.says(&["check"]).await;
    assert_eq!((checked.code(), checked.out.contains("error: ")), (Some(0), false), "{checked:?}");

    let address = server.line("ready http://").await;
    let token = rowtide::auth::sign(SECRET, "ada", std::time::Duration::from_secs(600)).unwrap();
    let url = format!("ws://{address}/sync");
    let watch = operator.command(&["watch", "--token", &token, "--url", &url]).await;
    let mut watch = Running::start(watch);
    watch.line("live").await;
    let sql = "UPDATE note SET body = 'not hers' WHERE owner = 'bob'; \
               UPDATE note SET body = 'edited' WHERE owner = 'ada'";
    operator.database.run(sql).await;
    // The order of columns is the replica's: by name.
    watch.line(r#"note put {"body":"edited""#).await;
    let watched = watch.stop().await;
    assert!(
        !watched.out.contains("not hers") && !watched.out.contains("secret"),
        "{}",
        watched.out
    );
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_definition_is_pointed_into() {
    let operator =
        Operator::new("[tables.note]\nvisible = '''\n  ownr = auth.user_id AND body < 'm'\n'''\n")
            .await;
    for command in ["check", "explain"] {
        let said = operator.says(&[command]).await;
        let parts = ["rowtide.toml:3:3", "no column `ownr`", "did you mean \"owner\"", "`<`"];
        refused(&said, &parts);
    }
    let missing = operator.says(&["check", "--definition", "not-there.toml"]).await;
    refused(&missing, &["cannot read `not-there.toml`", "No such file"]);
}

/// Of rules for writing only Postgres can say whether they are right.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_postgres_does_not_take_is_pointed_into() {
    let rules = "[tables.note.insert]\nallow = 'new.owner = auth.user_id'\n\
                 [[tables.note.update]]\nallow = 'old.ownr = auth.user_id'\n\
                 [tables.note.delete]\nallow = 'old.body + 1'\n";
    let operator = Operator::new(&format!("{DEFINITION}{rules}")).await;
    let checked = operator.says(&["check"]).await;
    assert_eq!(checked.code(), Some(1), "{checked:?}");
    let said = format!("{}{}", checked.out, checked.err);
    for part in ["does not take this rule", "old.ownr", "old.body + 1", "rowtide.toml:6"] {
        assert!(said.contains(part), "no `{part}` in:\n{said}");
    }
    operator.dir.write(
        "rowtide.toml",
        &format!("{DEFINITION}{}", rules.replace("ownr", "owner").replace(" + 1", " > body")),
    );
    let set_up = operator.says(&["setup"]).await;
    assert_eq!(set_up.code(), Some(0), "{set_up:?}");
    let checked = operator.says(&["check"]).await;
    assert_eq!(checked.code(), Some(0), "{checked:?}");
}

/// What others have in the environment is no matter, whatever it is; a setting that cannot be read is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_is_no_text_is_named_if_it_is_a_setting() {
    let operator = Operator::new(DEFINITION).await;
    let no_text = OsStr::from_bytes(b"caf\xe9");
    let mut command = operator.command(&["explain"]).await;
    command.env("LEGACY_NAME", no_text).env(OsStr::from_bytes(b"\xff_NAME"), "value");
    let explained = said(command).await;
    assert_eq!(explained.code(), Some(0), "{explained:?}");
    let mut command = operator.command(&["serve"]).await;
    command.env("LEGACY_NAME", no_text).env("ROWTIDE_ENGINES", "65");
    refused(&said(command).await, &["`engines` is `65`"]);
    for name in ["ROWTIDE_ISSUER", "DATABASE_URL", "ROWTIDE_LOG_LEVEL", "ROWTIDE_LOG"] {
        let mut command = operator.command(&["serve"]).await;
        command.env(name, no_text);
        let says = format!("the value of the environment variable `{name}` is not UTF-8");
        refused(&said(command).await, &[&says]);
    }
    let mut command = operator.command(&["serve"]).await;
    command.env(OsStr::from_bytes(b"ROWTIDE_\xff"), "value");
    refused(&said(command).await, &["the environment variable `ROWTIDE_", "is not a setting"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_is_named_wherever_it_was_set() {
    let operator = Operator::new(DEFINITION).await;
    refused(&operator.says(&["serve", "--engines", "none"]).await, &["`engines` is `none`"]);
    let mut command = operator.command(&["serve"]).await;
    command.env("ROWTIDE_ENGINES", "65");
    refused(&said(command).await, &["`engines` is `65`", "1 to 64"]);
    let mut command = operator.command(&["serve"]).await;
    command.env("ROWTIDE_ENGINS", "2");
    refused(&said(command).await, &["`ROWTIDE_ENGINS` is not a setting", "engines"]);
    operator.dir.write("server.toml", "engines = 2\nlistne = '127.0.0.1:1'\n");
    let said = operator.says(&["serve", "--config", "server.toml"]).await;
    refused(&said, &["`listne` is not a setting", "server.toml:2:1"]);
    // In the file alone it would be taken.
    operator.dir.write("server.toml", "engines = 65\n");
    let said = operator.says(&["serve", "--config", "server.toml"]).await;
    refused(&said, &["`engines` is `65`"]);
    // A flag wins over the file, so that the next mistake is met.
    let flags = ["serve", "--config", "server.toml", "--engines", "1", "--listen", "nowhere"];
    refused(&operator.says(&flags).await, &["`listen` is `nowhere`"]);
    let said = operator.says(&["serve", "--engine", "1"]).await;
    assert_eq!(said.code(), Some(2), "{said:?}");
    assert!(said.err.contains("--engines"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_used_is_named_without_its_password() {
    let operator = Operator::new(DEFINITION).await;
    for command in ["check", "setup"] {
        let nowhere = "postgres://me:pass-word@127.0.0.1:1/app";
        let said = operator.says(&[command, "--database-url", nowhere]).await;
        refused(&said, &["127.0.0.1:1", "refused"]);
        assert!(!said.err.contains("pass-word"), "{}", said.err);
    }
    let nowhere = "postgres://me:pass-word@127.0.0.1:1/app";
    let command = operator.command(&["serve", "--database-url", nowhere]).await;
    let mut server = Running::start(command);
    server.line("listening http://").await;
    eventually("it says what it waits for", || async {
        server.said().contains("127.0.0.1:1").then_some(())
    })
    .await;
    let stopped = server.stop().await;
    assert_eq!(stopped.code(), Some(0), "{stopped:?}");
    assert!(!stopped.err.contains("pass-word"), "{}", stopped.err);
    let url = operator.database.url().await.replace(operator.database.name(), "not_there");
    refused(&operator.says(&["check", "--database-url", &url]).await, &["not_there"]);
    let said = operator.says(&["check", "--database-url", "mysql://localhost/app"]).await;
    refused(&said, &["postgres://"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_is_told_which_it_needs() {
    let operator = Operator::new(DEFINITION).await;
    assert_eq!(operator.says(&["setup"]).await.code(), Some(0));
    let role = format!("stranger_{}", operator.database.name());
    operator.database.run(&format!("CREATE ROLE {role} LOGIN")).await;
    let url = operator.database.url_as(&role).await;
    let checked = operator.says(&["check", "--database-url", &url]).await;
    assert_eq!(checked.code(), Some(1), "{checked:?}");
    let table = "GRANT SELECT ON note TO";
    for part in [&format!("ALTER ROLE {role} REPLICATION;"), &format!("{table} {role};")] {
        assert!(checked.out.contains(part), "no `{part}` in:\n{}", checked.out);
    }
    operator.database.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_synced_is_told_by_what_it_is() {
    let definition = "[tables.log]\nvisible = 'true'\n\n[tables.notes]\nvisible = 'true'\n";
    let operator = Operator::new(definition).await;
    operator.database.run("CREATE TABLE log (line text); CREATE VIEW notes AS TABLE note").await;
    for command in ["check", "explain"] {
        let said = operator.says(&[command]).await;
        let key = ["rowtide.toml:1:9", "\"log\" has no primary key", "ADD PRIMARY KEY"];
        refused(&said, &key);
        refused(&said, &["rowtide.toml:4:9", "\"notes\" is a view"]);
    }
}

/// A deployed server has an environment and a file, which the next version must take.
#[tokio::test(flavor = "multi_thread")]
async fn former_names_of_settings_are_taken_and_warned_of() {
    let operator = Operator::new(DEFINITION).await;
    operator.dir.write("server.toml", "history_seconds = 600\n");
    let mut command = operator.command(&["explain", "--config", "server.toml"]).await;
    command
        .args(["--history-dir", "kept"])
        .env("ROWTIDE_OUTBOX_BYTES", "4096")
        .env("ROWTIDE_LOG", "warn");
    let taken = said(command).await;
    assert_eq!(taken.code(), Some(0), "{taken:?}");
    for (former, name) in [
        ("--history-dir", "--log-dir"),
        ("ROWTIDE_OUTBOX_BYTES", "ROWTIDE_SEND_QUEUE_BYTES"),
        ("history_seconds", "log_seconds"),
        ("ROWTIDE_LOG", "ROWTIDE_LOG_LEVEL"),
    ] {
        let warning = format!("`{former}` is called `{name}` now");
        assert_eq!(taken.err.matches(&warning).count(), 1, "{warning}: {}", taken.err);
    }
    let silent = operator.says(&["--log", "error", "explain", "--history-dir", "kept"]).await;
    assert!(!silent.err.contains("is called"), "the former flag filters nothing: {}", silent.err);
    let both = operator.says(&["explain", "--history-dir", "a", "--log-dir", "a"]).await;
    refused(&both, &["`--history-dir` and `--log-dir` are one setting"]);
    let both = operator.says(&["explain", "--log", "info", "--log-level", "info"]).await;
    refused(&both, &["`--log` and `--log-level` are one setting"]);
    let unknown = said({
        let mut command = operator.command(&["explain"]).await;
        command.env("ROWTIDE_HISTORY_DIRS", "a");
        command
    })
    .await;
    refused(&unknown, &["`ROWTIDE_HISTORY_DIRS` is not a setting", "log_dir", "send_queue_bytes"]);
    assert!(!unknown.err.contains("history_bytes"), "{}", unknown.err);
    let help = operator.says(&["serve", "--help"]).await;
    assert!(help.out.contains("--log-dir") && help.out.contains("--log-level"), "{}", help.out);
    assert!(!help.out.contains("--history") && !help.out.contains("outbox"), "{}", help.out);
}

/// Where nobody says where the log is kept, an upgrade goes on with the one that is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_the_former_directory_is_gone_on_with() {
    let operator = Operator::new(DEFINITION).await;
    assert_eq!(operator.says(&["setup"]).await.code(), Some(0));
    let slot = format!("rowtide_{}", operator.database.name());
    let of = |name: &str| std::path::Path::new(operator.dir.path()).join(name);
    for (name, other) in [("rowtide-log", "rowtide-history"), ("rowtide-history", "rowtide-log")] {
        let mut server = Running::start(operator.command(&["serve"]).await);
        server.line("ready http://").await;
        assert_eq!(server.stop().await.code(), Some(0));
        assert!(of(name).join(&slot).is_dir(), "no log in `{name}`");
        assert!(!of(other).exists(), "`{other}` was made");
        if name == "rowtide-log" {
            std::fs::rename(of(name), of(other)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn help_names_every_command() {
    let help = said(rowtide(["--help"])).await;
    assert_eq!(help.code(), Some(0));
    for command in
        ["dev", "init", "serve", "check", "setup", "teardown", "explain", "token", "watch"]
    {
        assert!(help.out.contains(&format!("\n  {command} ")), "no `{command}`:\n{}", help.out);
        let of_command = said(rowtide([command, "--help"])).await;
        assert_eq!(of_command.code(), Some(0), "{command}");
    }
}

/// A signal may come at any time: here while the server is about to print that it is ready, and cannot, because nobody
/// reads what it prints.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_told_to_stop_as_it_becomes_ready_stops() {
    use std::io::{Read as _, Write as _};

    /// What a pipe holds at most.
    const PIPE: usize = 64 << 10;
    /// The first line has room, and the second has not.
    const ROOM: usize = "listening http://127.0.0.1:65535\n".len();

    let operator = Operator::new(DEFINITION).await;
    assert_eq!(operator.says(&["setup"]).await.code(), Some(0));
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&vec![b'.'; PIPE - ROOM]).unwrap();
    let mut serve = operator.command(&["serve"]).await;
    let server = serve.stdout(writer).stderr(std::process::Stdio::null()).spawn().unwrap();
    // It was given away with the command.
    drop(serve);
    let id = server.id();
    eventually("it waits to print", || async {
        // `write` to the standard output, by the first thread.
        let call = std::fs::read_to_string(format!("/proc/{id}/task/{id}/syscall")).ok()?;
        call.starts_with("1 0x1 ").then_some(())
    })
    .await;
    let kill = std::process::Command::new("kill").args(["-s", "TERM", &id.to_string()]).status();
    assert!(kill.unwrap().success());
    let reads = std::thread::spawn(move || {
        let mut said = Vec::new();
        reader.read_to_end(&mut said).map(|_| said)
    });
    let server = std::sync::Mutex::new(server);
    let ended =
        eventually("it ends", || async { server.lock().unwrap().try_wait().unwrap() }).await;
    assert_eq!(ended.code(), Some(0));
    let said = reads.join().unwrap().unwrap();
    assert!(String::from_utf8_lossy(&said).contains("\nready http://"));
}

/// Whoever read the log has gone, or its disk is full: that is no reason to end, nor to end otherwise.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_reads_ends_nothing() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let closed = || std::io::pipe().unwrap().1;
    let operator = Operator::new(DEFINITION).await;
    assert_eq!(operator.says(&["setup"]).await.code(), Some(0));
    for (said, told) in
        [(Stdio::from(full()), Stdio::from(full())), (Stdio::from(closed()), Stdio::from(closed()))]
    {
        let mut serve = operator.command(&["serve"]).await;
        let address = rowtide_tests::free_address();
        serve.env("ROWTIDE_LISTEN", address.to_string());
        let mut server = serve.stdout(said).stderr(told).spawn().unwrap();
        drop(serve);
        eventually("it is ready", || async {
            let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
            stream
                .write_all(b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await
                .ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            answer.starts_with("HTTP/1.1 200").then_some(())
        })
        .await;
        let id = server.id().to_string();
        let kill = std::process::Command::new("kill").args(["-s", "TERM", &id]).status();
        assert!(kill.unwrap().success());
        let ended = tokio::task::spawn_blocking(move || server.wait().unwrap()).await.unwrap();
        assert_eq!(ended.code(), Some(0), "{ended:?}");
    }
    for output in [Stdio::from(full()), Stdio::from(closed())] {
        let mut check = operator.command(&["check"]).await;
        let ended = check.stdout(output).status().unwrap();
        assert_eq!(ended.code(), Some(0), "it has found nothing");
    }
    // What a command was run for is not lost without a word, unless nobody wants more of it.
    let mut types = operator.command(&["types"]).await;
    let ended = types.stdout(full()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write to standard output"), "{said}");
    let mut types = operator.command(&["types"]).await;
    assert_eq!(types.stdout(closed()).status().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_level_that_is_none_is_named() {
    let operator = Operator::new(DEFINITION).await;
    for (given, why) in [
        ("bogus", "`bogus` is no level"),
        ("info,verbose", "`verbose` is no level"),
        ("info,rowtide_gateway=loud", "cannot be read"),
        ("xx=yy=zz,", "cannot be read"),
    ] {
        refused(&operator.says(&["check", "--log-level", given]).await, &[given, why]);
    }
    for given in ["debug", "WARN", "info,rowtide_gateway=debug", "rowtide_gateway", ""] {
        let said = operator.says(&["explain", "--log-level", given]).await;
        assert_eq!(said.code(), Some(0), "{given}: {said:?}");
    }
}
