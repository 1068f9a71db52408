//! Where objects are stored: in a directory, or in a bucket of S3 or of a server that speaks as S3 does.
//!
//! Which of them it is a URL says; how a bucket is reached, and as whom, the variables that clients of S3 go by. Both are
//! read once, before anything is asked of the storage. A directory is one host's at a time, which a lock sees to; a bucket
//! has none, so there each put says what it follows on.

use std::ffi::OsString;
use std::fmt;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::list::PaginatedListStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use thiserror::Error;

use super::directory::{Directory, remove_unfinished};
use super::failure::StorageError;
use super::transport::Transport;
use crate::journal::{HeldLock, hold_lock};

/// A request to S3 that failed and may be sent again is, so many times.
const RETRIES: usize = 2;

/// The first pause before that, and the longest.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// After so long nothing is sent again.
const RETRIES_WITHIN: Duration = Duration::from_secs(15);

/// In a storage's directory, a directory for each environment with its lock.
const LOCKS: &str = ".locks";

/// The variables of the environment that say how S3 is reached, and as whom.
const VARIABLES: [&str; 23] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT",
    ENDPOINT,
    "AWS_ENDPOINT_URL_S3",
    ALLOW_HTTP,
    VIRTUAL_HOSTED,
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_METADATA_ENDPOINT",
    "AWS_IMDSV1_FALLBACK",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_KMS_KEY_ID",
    "AWS_SSE_BUCKET_KEY_ENABLED",
    "AWS_REQUEST_PAYER",
];
const ENDPOINT: &str = "AWS_ENDPOINT_URL";
const ALLOW_HTTP: &str = "AWS_ALLOW_HTTP";
const VIRTUAL_HOSTED: &str = "AWS_VIRTUAL_HOSTED_STYLE_REQUEST";
/// Those of them that say yes or no.
const YES_OR_NO: [&str; 4] =
    [ALLOW_HTTP, VIRTUAL_HOSTED, "AWS_IMDSV1_FALLBACK", "AWS_SSE_BUCKET_KEY_ENABLED"];

/// Where objects are, as a URL says it: `file:///directory` or `s3://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageUrl {
    /// In a directory.
    Files(PathBuf),
    /// In a bucket.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// What all keys begin with; empty if they begin with nothing in particular.
        prefix: String,
    },
}

/// A URL that is none of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadStorageUrl {
    /// It begins with neither.
    #[error("expected file:///directory or s3://bucket/prefix")]
    Scheme,
    /// The directory is missing.
    #[error("expected the path of a directory from the root on, as in file:///var/lib/objects")]
    Directory,
    /// It has a user, a password, a query or a fragment.
    #[error(
        "expected s3://bucket/prefix and nothing else: credentials, region and endpoint are variables of the \
         environment, such as AWS_ACCESS_KEY_ID"
    )]
    More,
    /// No bucket can be called so.
    #[error("expected the name of a bucket after s3://, 3 to 63 of a-z A-Z 0-9 . - _")]
    Bucket,
    /// No key can begin so.
    #[error("expected a prefix of names with single slashes between them, without `.` and `..`")]
    Prefix,
}

impl FromStr for StorageUrl {
    type Err = BadStorageUrl;

    fn from_str(url: &str) -> Result<StorageUrl, BadStorageUrl> {
        if let Some(path) = url.strip_prefix("file:") {
            let path = path.strip_prefix("//").filter(|path| path.starts_with('/'));
            let dir = path.filter(|path| path.len() > 1).ok_or(BadStorageUrl::Directory)?;
            return Ok(StorageUrl::Files(dir.into()));
        }
        let place = url.strip_prefix("s3://").ok_or(BadStorageUrl::Scheme)?;
        if place.contains(['@', '?', '#', ':']) {
            return Err(BadStorageUrl::More);
        }
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) {
            return Err(BadStorageUrl::Bucket);
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if prefix.starts_with('/') || prefix.ends_with('/') {
            return Err(BadStorageUrl::Prefix);
        }
        Path::parse(prefix).map_err(|_| BadStorageUrl::Prefix)?;
        Ok(StorageUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

/// A variable of the environment does not fit a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the storage cannot be used: `{variable}` {why}")]
pub struct BadStorageVariable {
    /// The variable.
    pub variable: String,
    /// What is wrong with it; never its value where that may be secret.
    pub why: String,
}

/// A storage, and how it is reached.
#[derive(Clone)]
pub struct StorageSettings(Place);

#[derive(Clone)]
enum Place {
    Files(PathBuf),
    S3 { builder: Box<AmazonS3Builder>, prefix: Path },
}

/// Without what is secret in it.
impl fmt::Debug for StorageSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Files(dir) => f.debug_tuple("Files").field(dir).finish(),
            Place::S3 { prefix, .. } => f.debug_tuple("S3").field(prefix).finish(),
        }
    }
}

impl StorageSettings {
    /// The directory of files.
    pub fn files(dir: PathBuf) -> StorageSettings {
        StorageSettings(Place::Files(dir))
    }

    /// A storage and what the environment's variables say of it.
    ///
    /// # Errors
    /// If one of them does not fit.
    pub fn read(
        url: &StorageUrl,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<StorageSettings, BadStorageVariable> {
        let (bucket, prefix) = match url {
            StorageUrl::Files(dir) => return Ok(StorageSettings::files(dir.clone())),
            StorageUrl::S3 { bucket, prefix } => (bucket, prefix),
        };
        let mut given = Vec::new();
        for (name, value) in variables {
            let Some(name) = VARIABLES.into_iter().find(|known| name == *known) else { continue };
            let value = value.into_string().map_err(|_| bad(name, "is not UTF-8"))?;
            if !value.is_empty() {
                given.push((name, value));
            }
        }
        let value = |name: &str| {
            given.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
        };
        for name in YES_OR_NO {
            if value(name).is_some_and(|value| !["true", "false"].contains(&value)) {
                return Err(bad(name, "is neither true nor false"));
            }
        }
        for (one, other) in [
            ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
        ] {
            if value(one).is_some() && value(other).is_none() {
                return Err(bad(other, &format!("is not set, and {one} is")));
            }
        }
        for name in ["AWS_ENDPOINT", ENDPOINT, "AWS_ENDPOINT_URL_S3"] {
            let Some(endpoint) = value(name) else { continue };
            check_endpoint(endpoint, value(ALLOW_HTTP) == Some("true"))
                .map_err(|why| bad(name, why))?;
        }
        let (init_backoff, max_backoff) = RETRY_PAUSE;
        let retry = RetryConfig {
            backoff: BackoffConfig { init_backoff, max_backoff, ..BackoffConfig::default() },
            max_retries: RETRIES,
            retry_timeout: RETRIES_WITHIN,
        };
        let mut builder = AmazonS3Builder::new();
        // The more particular names come later.
        given.sort_by_key(|(given, _)| VARIABLES.iter().position(|name| name == given));
        for (name, text) in given {
            let key = AmazonS3ConfigKey::from_str(&name.to_lowercase());
            builder = builder.with_config(key.map_err(|_| bad(name, "is not known"))?, text);
        }
        let builder = builder
            .with_bucket_name(bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            // Not every server that speaks as S3 does knows how to delete many at once.
            .with_disable_bulk_delete(true)
            .with_retry(retry)
            .with_http_connector(Transport);
        // What does not fit shows here, and not when a document is wanted.
        builder.clone().build().map_err(|error| bad("AWS_…", &format!("do not fit: {error}")))?;
        let prefix = Path::parse(prefix).map_err(|error| bad("AWS_…", &error.to_string()))?;
        Ok(StorageSettings(Place::S3 { builder: Box::new(builder), prefix }))
    }

    /// Opens the storage for an environment, and takes its lock if it has one. It is the one that documents of the
    /// journal in `journal` were kept in before, if there were any.
    pub(super) fn open(
        &self,
        environment: &str,
        journal: &std::path::Path,
    ) -> Result<Storage, StorageError> {
        let storage = self.connect()?;
        let Place::Files(dir) = &self.0 else { return Ok(storage) };
        let locks = dir.join(LOCKS).join(environment);
        make_dir(&locks)?;
        let path = locks.join("lock");
        let lock = hold_lock(&path).map_err(|source| StorageError::Dir { dir: path, source })?;
        let lock = Some(lock.ok_or_else(|| StorageError::Locked(dir.clone()))?);
        let directory = Some(Directory::open(dir, &locks, journal)?);
        // Whatever else is in the directory is not the host's.
        let (root, began) = (dir.join(environment), SystemTime::now());
        // Nobody waits for it, and a stop does not, either.
        let sweep = std::thread::Builder::new().name("sweep".to_owned());
        drop(sweep.spawn(move || remove_unfinished(&root, began)));
        Ok(Storage { lock, directory, ..storage })
    }

    /// As [`StorageSettings::open`], beside whoever has it.
    pub(super) fn connect(&self) -> Result<Storage, StorageError> {
        match &self.0 {
            Place::Files(dir) => {
                make_dir(dir)?;
                let files = LocalFileSystem::new_with_prefix(dir)?;
                // A directory without objects would look like a document.
                let files = files.with_fsync(true).with_automatic_cleanup(true);
                let (store, root) = (Arc::new(files), Path::default());
                Ok(Storage {
                    store,
                    pages: None,
                    root,
                    conditional: false,
                    directory: None,
                    lock: None,
                })
            }
            Place::S3 { builder, prefix } => {
                let (store, root) = (Arc::new(builder.as_ref().clone().build()?), prefix.clone());
                let pages = Some(Pages(Arc::clone(&store) as _));
                Ok(Storage { store, pages, root, conditional: true, directory: None, lock: None })
            }
        }
    }
}

/// A storage that lists in pages of which each is an answer of its own.
#[derive(Clone)]
pub(super) struct Pages(pub(super) Arc<dyn PaginatedListStore>);

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pages")
    }
}

/// A storage that is open.
#[derive(Debug)]
pub(super) struct Storage {
    pub(super) store: Arc<dyn ObjectStore>,
    /// The same, if it is one of these.
    pub(super) pages: Option<Pages>,
    /// What all keys begin with.
    pub(super) root: Path,
    /// It can put an object only if the one before is a certain one, and keeps with it who has put it.
    pub(super) conditional: bool,
    /// Says whether it is still there, if it is a directory that a host has.
    pub(super) directory: Option<Directory>,
    /// Keeps others out, where the storage itself does not tell who was faster.
    pub(super) lock: Option<HeldLock>,
}

fn bad(variable: &str, why: &str) -> BadStorageVariable {
    BadStorageVariable { variable: variable.to_owned(), why: why.to_owned() }
}

fn check_endpoint(endpoint: &str, allows_http: bool) -> Result<(), &'static str> {
    let url = reqwest::Url::parse(endpoint).map_err(|_| "is no URL, such as https://s3.example")?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err("is no URL of https, such as https://s3.example");
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("has more in it than scheme, host, port and path");
    }
    if url.scheme() == "http" && !allows_http {
        return Err(
            "begins with http://, over which documents can be read on the way: AWS_ALLOW_HTTP=true allows it",
        );
    }
    Ok(())
}

fn make_dir(dir: &std::path::Path) -> Result<(), StorageError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| StorageError::Dir { dir: dir.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_which_storage_it_is() {
        let parse = StorageUrl::from_str;
        let s3 = |bucket: &str, prefix: &str| {
            Ok(StorageUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
        };
        assert_eq!(parse("file:///var/objects"), Ok(StorageUrl::Files("/var/objects".into())));
        assert_eq!(parse("s3://my-bucket"), s3("my-bucket", ""));
        assert_eq!(parse("s3://my-bucket/"), s3("my-bucket", ""));
        assert_eq!(parse("s3://my-bucket/a/b/"), s3("my-bucket", "a/b"));
        for (url, error) in [
            ("", BadStorageUrl::Scheme),
            ("/var/objects", BadStorageUrl::Scheme),
            ("https://my-bucket", BadStorageUrl::Scheme),
            ("file://objects", BadStorageUrl::Directory),
            ("file:///", BadStorageUrl::Directory),
            ("file:objects", BadStorageUrl::Directory),
            ("file:/var/objects", BadStorageUrl::Directory),
            ("s3://", BadStorageUrl::Bucket),
            ("s3://ab", BadStorageUrl::Bucket),
            ("s3://my bucket", BadStorageUrl::Bucket),
            ("s3://key:secret@bucket", BadStorageUrl::More),
            ("s3://bucket?region=x", BadStorageUrl::More),
            ("s3://bucket//a", BadStorageUrl::Prefix),
            ("s3://bucket/a/../b", BadStorageUrl::Prefix),
        ] {
            assert_eq!(parse(url), Err(error), "{url}");
        }
    }

    #[test]
    fn a_variable_that_does_not_fit_is_named_and_its_value_is_not() {
        let read = |given: &[(&str, &str)]| {
            let url = StorageUrl::from_str("s3://bucket/prefix").expect("a URL");
            let given = given.iter().map(|(name, value)| (name.into(), value.into()));
            StorageSettings::read(&url, given.collect::<Vec<_>>())
        };
        let keys = [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "SECRET")];
        let settings = read(&keys).expect("they fit");
        assert!(!format!("{settings:?}").contains("SECRET"));
        assert!(read(&[]).is_ok(), "the machine may know");
        assert!(read(&[("AWS_ENDPOINT_URL", ""), ("AWS_PROFILE", "x")]).is_ok());
        let refused: [(&[(&str, &str)], &str); 7] = [
            (&keys[..1], "AWS_SECRET_ACCESS_KEY"),
            (&keys[1..], "AWS_ACCESS_KEY_ID"),
            (&[("AWS_ENDPOINT_URL", "localhost:9000")], "AWS_ENDPOINT_URL"),
            (&[("AWS_ENDPOINT", "http://localhost:9000")], "AWS_ENDPOINT"),
            (&[("AWS_ENDPOINT_URL_S3", "https://u:SECRET@h")], "AWS_ENDPOINT_URL_S3"),
            (&[("AWS_ALLOW_HTTP", "yes")], "AWS_ALLOW_HTTP"),
            (&[("AWS_SERVER_SIDE_ENCRYPTION", "rot13")], "AWS_…"),
        ];
        for (given, variable) in refused {
            let error = read(given).expect_err(variable);
            assert_eq!(error.variable, variable, "{error}");
            assert!(!error.to_string().contains("SECRET`") && !error.to_string().contains("u:"));
        }
        let http = [("AWS_ENDPOINT_URL", "http://localhost:9000"), ("AWS_ALLOW_HTTP", "true")];
        assert!(read(&http).is_ok());
    }
}
