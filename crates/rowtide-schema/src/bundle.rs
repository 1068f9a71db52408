//! A bundle that has been tried: it can be loaded, and it does on an empty document what it will be asked for.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use thiserror::Error;

use crate::context::BundleContext;
use crate::limits::SchemaLimits;
use crate::question::Unanswered;

/// How much stack a thread has beside what a call may use.
const SPARE_STACK: usize = 1 << 20;

/// Why a file is no bundle.
#[derive(Debug, Error)]
pub enum BundleError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[source] std::io::Error),
    /// It is too large.
    #[error("it has {bytes} bytes, and may have {max}")]
    TooLarge {
        /// How large it is, in bytes.
        bytes: usize,
        /// How large it may be, in bytes.
        max: usize,
    },
    /// It cannot be loaded, or does not do what a bundle does.
    #[error(transparent)]
    Unusable(#[from] Unanswered),
    /// There is no thread to try it on.
    #[error("no thread can be had: {0}")]
    Thread(#[source] std::io::Error),
}

/// A bundle that can be used. Cheap to clone.
#[derive(Clone)]
pub struct Bundle {
    pub(crate) source: Arc<str>,
    description: Arc<str>,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle").field("bytes", &self.source.len()).finish_non_exhaustive()
    }
}

impl Bundle {
    /// Reads a bundle and tries it on an empty document, which blocks the thread.
    ///
    /// # Errors
    /// If it cannot be read or used.
    pub fn read(path: &Path, limits: &SchemaLimits) -> Result<Bundle, BundleError> {
        let source = std::fs::read_to_string(path).map_err(BundleError::Unreadable)?;
        Bundle::load(source, limits)
    }

    /// Tries the text of a bundle, as [`Bundle::read`] does.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn load(source: impl Into<Arc<str>>, limits: &SchemaLimits) -> Result<Bundle, BundleError> {
        let source = source.into();
        if source.len() > limits.bundle_bytes {
            return Err(BundleError::TooLarge { bytes: source.len(), max: limits.bundle_bytes });
        }
        let (text, of_thread) = (Arc::clone(&source), limits.clone());
        let tried = spawn("schema-load".to_owned(), limits, move || {
            BundleContext::load(&text, &of_thread)?.describe(of_thread.load)
        })
        .map_err(BundleError::Thread)?;
        let described = match tried.join() {
            Ok(described) => described?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        Ok(Bundle { source, description: described.into() })
    }

    /// What it says of itself, as JSON: `{"schema":SCHEMA,"types":{NAME:SCOPE…},"records":[…]}`, the last being those of
    /// a new document.
    pub fn description(&self) -> &str {
        &self.description
    }
}

/// A thread on which bundles can run.
pub(crate) fn spawn<T: Send + 'static>(
    name: String,
    limits: &SchemaLimits,
    run: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<thread::JoinHandle<T>> {
    thread::Builder::new().name(name).stack_size(limits.stack_bytes + SPARE_STACK).spawn(run)
}
