//! What the servers of a process log, for a test that reads it.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tracing_subscriber::filter::LevelFilter;

/// A place that a subscriber writes to. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was written behind the first `from` bytes.
    pub fn text(&self, from: usize) -> String {
        String::from_utf8_lossy(&self.bytes()[from..]).into_owned()
    }

    /// How many bytes were written.
    pub fn size(&self) -> usize {
        self.bytes().len()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What is warned of in this process, from the first call on.
pub fn warnings() -> &'static Captured {
    static WARNINGS: OnceLock<Captured> = OnceLock::new();
    WARNINGS.get_or_init(|| {
        let warnings = Captured::default();
        let writer = warnings.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_max_level(LevelFilter::WARN);
        log.with_writer(move || writer.clone()).init();
        warnings
    })
}
