//! A directory of one test.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory for one test, with everything in it removed in the end; a cluster that a failing test
/// left running in it is stopped.
#[derive(Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// Makes a directory that was not there.
    ///
    /// # Panics
    /// When it cannot be made.
    #[expect(clippy::new_without_default, reason = "it makes something on disk")]
    pub fn new() -> Dir {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let path = loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("rowtide-test-{}-{count}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match fs::create_dir(&path) {
                Ok(()) => break path,
                // Left by a process of this id that was killed, or made by one that has it elsewhere.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        };
        // As root the server is another user, who must be able to get there.
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&path, mode).expect("its mode can be set");
        Dir(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where a file of this name in it is, as an argument.
    pub fn join(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Writes a file and returns where it is.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        let parent = path.parent().expect("it is in a directory");
        fs::create_dir_all(parent).expect("a directory can be made");
        fs::write(&path, text).expect("a file can be written");
        path.display().to_string()
    }

    /// The process id of the cluster that runs below `name`, if one does.
    pub fn cluster(&self, name: &str) -> Option<u32> {
        let text = fs::read_to_string(self.0.join(name).join("postgres/postmaster.pid")).ok()?;
        let pid: u32 = text.lines().next()?.parse().ok()?;
        alive(pid).then_some(pid)
    }
}

fn alive(pid: u32) -> bool {
    let asked = Command::new("kill").args(["-0", &pid.to_string()]).output();
    asked.is_ok_and(|asked| asked.status.success())
}

impl Drop for Dir {
    fn drop(&mut self) {
        for entry in self.0.read_dir().into_iter().flatten().flatten() {
            if let Some(pid) = self.cluster(&entry.file_name().to_string_lossy()) {
                drop(Command::new("kill").args(["-s", "QUIT", &pid.to_string()]).status());
                while alive(pid) {
                    std::thread::yield_now();
                }
            }
        }
        let removed = fs::remove_dir_all(&self.0);
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}
