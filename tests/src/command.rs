//! The `rowtide` command as a process of its own, with what it prints and how it ends. Whatever becomes
//! of a test, the process is told to stop and waited for, so that a cluster it started goes with it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::{Database, Dir, SECRET, eventually};

/// How long a step of a process may take: the longest makes a cluster and its sample data.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often a process is looked at.
const POLL: Duration = Duration::from_millis(5);

/// The command with these arguments, in the root directory and without settings of the environment that
/// the tests run in.
///
/// # Panics
/// When the binary is not there and cannot be built.
pub fn rowtide<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    command(BINARY.get_or_init(|| built("rowtide")), args)
}

/// As [`rowtide`], of the benchmarks; the server that they measure is beside them.
///
/// # Panics
/// When one of the binaries is not there and cannot be built.
pub fn rowtide_bench<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let binary = BINARY.get_or_init(|| {
        built("rowtide");
        built("rowtide-bench")
    });
    command(binary, args)
}

fn command<I: AsRef<OsStr>>(binary: &Path, args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text == "DATABASE_URL" || text.starts_with("ROWTIDE_") && text != "ROWTIDE_PG_BIN" {
            command.env_remove(&name);
        }
    }
    command.args(args).current_dir("/");
    command
}

/// The binary beside the tests, built by `cargo test --workspace`, or now if it is not there or older
/// than its source.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.ancestors().nth(2).expect("tests are built to target/PROFILE/deps");
    let binary = profile.join(name);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let sources = ["crates", "examples", "clients/js/client/src"];
    let newest = sources.map(|dir| newest(&root.join(dir))).into_iter().max();
    let built = binary.metadata().and_then(|metadata| metadata.modified());
    if built.is_ok_and(|built| Some(built) >= newest) {
        return binary;
    }
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // With the features that the tests are built with, so that it builds little anew; aloud, because it may take minutes.
    build.args(["build", "--workspace", "--bin", name]).current_dir(root);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo can be run").success(), "{name} is not built");
    binary
}

/// When the newest of the source files below `dir` was written.
fn newest(dir: &Path) -> SystemTime {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in dir.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            // Tests, benchmarks and fuzz targets are not in the binary, nor is an example's own page.
            if !["tests", "benches", "web", "rowtide-targets"]
                .iter()
                .any(|name| path.ends_with(name))
            {
                newest = newest.max(self::newest(&path));
            }
        } else if let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) {
            newest = newest.max(modified);
        }
    }
    newest
}

/// What a process has said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub out: String,
    /// What it printed to standard error.
    pub err: String,
}

impl Said {
    /// The exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be run or does not end.
pub async fn said(command: Command) -> Said {
    Running::start(command).ended().await
}

/// A server that is a process, without a rate for its users, and where it listens. It need not be ready.
///
/// # Panics
/// When it ends before.
pub async fn serve(database: &Database, dir: &Dir, definition: &str) -> (Running, String) {
    let mut command = rowtide(["serve", "--listen", "127.0.0.1:0"]);
    command.args(["--database-url", &database.url().await]);
    command.args(["--definition", definition, "--environment", database.name()]);
    command.args(["--log-dir", &dir.join("log"), "--requests-per-minute", "0"]);
    command.env("ROWTIDE_TOKEN_SECRET", SECRET);
    let mut running = Running::start(command);
    let address = running.line("listening http://").await;
    (running, address)
}

/// A process that runs.
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    out: Output,
    err: Output,
}

struct Output {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    fn of(pipe: impl Read + Send + 'static) -> Output {
        let text = Arc::new(Mutex::new(String::new()));
        let target = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let mut text = target.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
            }
        });
        Output { text, reader: Some(reader) }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All of it, once the process has ended.
    fn whole(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("a reader does not panic");
        }
        self.text()
    }
}

impl Running {
    /// Starts a command.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn start(command: Command) -> Running {
        Running::with(command, Stdio::null())
    }

    /// Starts a command that is told something; see [`Running::say`].
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn start_to_say(command: Command) -> Running {
        Running::with(command, Stdio::piped())
    }

    fn with(mut command: Command, input: Stdio) -> Running {
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command can be run");
        let out = Output::of(child.stdout.take().expect("its output is a pipe"));
        let err = Output::of(child.stderr.take().expect("its errors are a pipe"));
        let input = child.stdin.take();
        Running { child, input, out, err }
    }

    /// Writes a line to its standard input.
    ///
    /// # Panics
    /// When it was not started to be told something, or has ended.
    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it was started to be told something");
        writeln!(input, "{line}").expect("it reads");
    }

    /// What follows `beginning` in the first line that begins so, of either output; waits for it.
    ///
    /// # Panics
    /// When the process ends without it, or it does not come in time.
    pub async fn line(&mut self, beginning: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Asked first: what was said before the end has been read when the outputs are.
            let ended = self.child.try_wait().expect("a child can be asked");
            let text = match ended {
                Some(_) => self.out.whole() + &self.err.whole(),
                None => self.out.text() + &self.err.text(),
            };
            if let Some(rest) = text.lines().find_map(|line| line.strip_prefix(beginning)) {
                return rest.to_owned();
            }
            assert!(ended.is_none(), "ended ({ended:?}) without `{beginning}`:\n{text}");
            assert!(Instant::now() < deadline, "no line `{beginning}` in time:\n{text}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether it has not ended.
    ///
    /// # Panics
    /// Never.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// What it has printed until now.
    pub fn said(&self) -> String {
        self.out.text() + &self.err.text()
    }

    /// Waits until it has printed this. What has happened may be told by other ways before what it says of it has been
    /// read.
    ///
    /// # Panics
    /// When it does not come in time.
    pub async fn says(&self, part: &str) -> String {
        let what = format!("it says `{part}`");
        eventually(&what, || async { Some(self.said()).filter(|said| said.contains(part)) }).await
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `TERM`.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.args(["-s", name, &self.child.id().to_string()]);
        assert!(kill.status().expect("there is a kill").success(), "cannot send {name}");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(mut self) -> Said {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                return Said { status, out: self.out.whole(), err: self.err.whole() };
            }
            let said = || self.out.text() + &self.err.text();
            assert!(Instant::now() < deadline, "it does not end:\n{}", said());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Tells it to stop, as a service manager does, and waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn stop(self) -> Said {
        self.signal("TERM");
        self.ended().await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal("TERM");
            drop(self.child.wait());
        }
    }
}
