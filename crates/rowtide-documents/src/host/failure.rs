//! What went wrong with a storage, in words that an operator can read and that are the same each time: no time that
//! something took, no query and nothing of a signature is in them.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};
use thiserror::Error;
use tokio::task::JoinError;

/// Why a storage cannot be used.
#[derive(Debug, Error)]
pub enum StorageError {
    /// Its directory cannot be made or used.
    #[error("the storage's `{dir}` cannot be used: {source}")]
    Dir {
        /// The directory, or a file in it.
        dir: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another process has its directory.
    #[error("the storage in `{0}` is in use by another process")]
    Locked(PathBuf),
    /// Its directory is not the one in which its documents were when the journal was open last.
    #[error(
        "`{dir}` is not the directory that documents were kept in until now: is its disk mounted? If it is to be used all the \
         same, copy the objects into it with `.locks`, or remove `{note}`"
    )]
    Another {
        /// The directory.
        dir: PathBuf,
        /// Where it stands which one it was.
        note: PathBuf,
    },
    /// There is another directory in place of its own, or none.
    #[error("`{0}` is not there any more, or is another directory: is its disk mounted?")]
    Gone(PathBuf),
    /// Something it was asked for failed.
    #[error("the storage failed: {said}")]
    Failed {
        /// What kind of failure it is.
        kind: FailureKind,
        /// What the storage said, and to what.
        said: String,
        /// What failed, with what may be secret in it.
        #[source]
        source: object_store::Error,
    },
    /// An object is not there.
    #[error("an object is not there: {said}")]
    Missing {
        /// What the storage said, and to what.
        said: String,
    },
    /// An object is another one than was expected.
    #[error("an object is another one: {said}")]
    Conflict {
        /// What the storage said, and to what.
        said: String,
    },
    /// There was no answer in time.
    #[error("the storage failed: no answer in {0:?}")]
    Slow(Duration),
    /// The task that asked it has ended.
    #[error("the storage was not asked: {0}")]
    Broken(#[source] JoinError),
}

/// What kind of failure of a storage it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// It does not let this server do that, or does not know it.
    Denied,
    /// It is asked too much, or not well.
    Overloaded,
    /// It cannot be reached, or the connection broke.
    Unreachable,
    /// Something else.
    Other,
}

impl StorageError {
    /// Nothing, if it is that an object is not there.
    pub(super) fn unless_missing<T>(self) -> Result<Option<T>, StorageError> {
        match self {
            StorageError::Missing { .. } => Ok(None),
            failed => Err(failed),
        }
    }

    /// It is no failure, but what somebody wanted to know.
    pub(super) fn is_an_answer(&self) -> bool {
        matches!(self, StorageError::Missing { .. } | StorageError::Conflict { .. })
    }

    /// An object is there that was not expected, or another one.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, StorageError::Conflict { .. })
    }

    /// As metrics call it.
    pub(super) fn label(&self) -> &'static str {
        match self {
            StorageError::Failed { kind: FailureKind::Denied, .. } => "denied",
            StorageError::Failed { kind: FailureKind::Overloaded, .. } => "overloaded",
            StorageError::Failed { kind: FailureKind::Unreachable, .. } => "unreachable",
            StorageError::Slow(_) => "slow",
            StorageError::Gone(_) => "unreachable",
            _ => "other",
        }
    }
}

impl From<object_store::Error> for StorageError {
    fn from(source: object_store::Error) -> StorageError {
        let said = said(&source.to_string());
        let kind = match &source {
            // Without its bucket, nothing can be said of a document.
            object_store::Error::NotFound { .. } if !said.contains("NoSuchBucket") => {
                return StorageError::Missing { said };
            }
            object_store::Error::Precondition { .. }
            | object_store::Error::AlreadyExists { .. } => {
                return StorageError::Conflict { said };
            }
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. } => FailureKind::Denied,
            _ if said.contains(": 5") || said.contains(": 429") || said.contains("SlowDown") => {
                FailureKind::Overloaded
            }
            _ if is_of_the_network(&source) => FailureKind::Unreachable,
            _ => FailureKind::Other,
        };
        StorageError::Failed { kind, said, source }
    }
}

fn is_of_the_network(error: &object_store::Error) -> bool {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<HttpError>() {
            return error.kind() != HttpErrorKind::Unknown;
        }
        cause = inner.source();
    }
    false
}

/// Of a request that failed: which it was, without its query, and the answer's status and code; or how the connection
/// failed. Other texts are as they are.
fn said(text: &str) -> String {
    const REQUEST: &str = "Error performing ";
    const STATUS: &str = "Server returned non-2xx status code: ";
    let Some((_, request)) = text.split_once(REQUEST) else { return text.to_owned() };
    let Some((request, answer)) = request.split_once(" - ") else {
        return "a request failed".to_owned();
    };
    let what = request.split([' ', '?']).take(2).collect::<Vec<_>>().join(" ");
    let code = answer.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    let code = code.map(|(code, _)| format!(" ({code})")).unwrap_or_default();
    let told = match answer.strip_prefix(STATUS) {
        Some(status) => status.split(": ").next().unwrap_or_default().trim_end_matches(':'),
        None => answer.split(['<', '\n']).next().unwrap_or_default().trim_end_matches([' ', ':']),
    };
    format!("{what}: {told}{code}")
}

#[cfg(test)]
mod tests {
    use super::said;

    #[test]
    fn what_is_said_has_neither_queries_nor_times_nor_what_the_answer_repeats_of_a_signature() {
        let denied = "The operation lacked the necessary privileges to complete for path a/b: Error performing PUT \
                      http://h:1/bucket/a/b in 2.1ms, after 2 retries, max_retries: 2, retry_timeout: 15s  - Server \
                      returned non-2xx status code: 403 Forbidden: <?xml?><Error><Code>SignatureDoesNotMatch</Code>\
                      <AWSAccessKeyId>AKID</AWSAccessKeyId></Error>";
        assert_eq!(
            said(denied),
            "PUT http://h:1/bucket/a/b: 403 Forbidden (SignatureDoesNotMatch)"
        );
        let away = "Generic S3 error: Error performing GET http://h:1/bucket?list-type=2&prefix=x in 1s - HTTP error: \
                    connection refused";
        assert_eq!(said(away), "GET http://h:1/bucket: HTTP error: connection refused");
        let plain = "Generic S3 error: Error performing GET http://h/b/k in 1s - Server returned non-2xx status code: \
                     503 Service Unavailable: try later";
        assert_eq!(said(plain), "GET http://h/b/k: 503 Service Unavailable");
        let file = "Generic LocalFileSystem error: no space left";
        assert_eq!(said(file), file);
    }
}
