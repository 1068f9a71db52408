//! An application's schema for the documents of a kind: what it says of itself, and the threads that ask it.

use std::sync::Arc;

use rowtide_schema::{Bundle, SchemaLimits, SchemaPool};
use thiserror::Error;

use crate::tlsync::{TlsyncSchema, TlsyncSchemaError};

/// An application's schema, ready to be asked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DocumentApplication {
    pub(super) pool: SchemaPool,
    pub(super) schema: Arc<TlsyncSchema>,
}

/// Why an application's schema cannot be asked.
#[derive(Debug, Error)]
pub enum ApplicationUnusable {
    /// What it says of itself is not understood.
    #[error(transparent)]
    Schema(#[from] TlsyncSchemaError),
    /// There are no threads for it.
    #[error("no threads can be had: {0}")]
    Threads(#[from] std::io::Error),
}

impl DocumentApplication {
    /// Starts the threads that ask a bundle.
    ///
    /// # Errors
    /// If the bundle is not understood, or there are no threads to be had.
    pub fn start(
        bundle: Bundle,
        limits: &SchemaLimits,
    ) -> Result<DocumentApplication, ApplicationUnusable> {
        let schema = Arc::new(TlsyncSchema::read(bundle.description())?);
        Ok(DocumentApplication { pool: SchemaPool::start(bundle, limits)?, schema })
    }
}
