//! Objects on the S3 of the tests.

use std::path::Path;

use rowtide_documents::host::{StorageSettings, StorageUrl};

use crate::s3::{BUCKET, Fault, S3};

/// A server with a bucket, in which keys begin with a prefix.
pub(crate) struct Objects(pub(crate) S3);

const PREFIX: &str = "some/where";

impl Objects {
    pub(crate) async fn new(_dir: &Path) -> Objects {
        Objects(S3::start().await)
    }

    /// What is there now, on a server of its own.
    pub(crate) async fn copy(&self, _dir: &Path) -> Objects {
        Objects(self.0.copy().await)
    }

    pub(crate) fn settings(&self) -> StorageSettings {
        let url: StorageUrl = format!("s3://{BUCKET}/{PREFIX}").parse().unwrap();
        let variables = self.0.variables().map(|(name, value)| (name.into(), value.into()));
        StorageSettings::read(&url, variables).unwrap()
    }

    /// Whether there is an object, or one whose key begins so.
    pub(crate) fn has(&self, key: &str) -> bool {
        !self.0.keys(&self.key(key)).is_empty()
    }

    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.0.get(&self.key(key)).map(Into::into)
    }

    pub(crate) fn put(&self, key: &str, content: &[u8]) {
        self.0.put(&self.key(key), content.to_vec());
    }

    pub(crate) fn key(&self, key: &str) -> String {
        format!("{PREFIX}/{key}")
    }

    /// Has every access fail.
    pub(crate) fn fail(&self) {
        self.0.set_fault(Some(Fault::Denied));
    }

    pub(crate) fn heal(&self) {
        self.0.set_fault(None);
    }
}
