//! What is done with a document because of its row, one work at a time: the host does it, and the row is told that it is
//! tried.

use rowtide_documents::host::{DocumentError, DocumentId, Host, PublishError};

use crate::effects::{Gone, Retry, Work, WorkFailure};
use crate::saying::PublishErrors;

/// What it is called that could not be done.
pub(crate) fn words(work: &Work) -> &'static str {
    match work {
        Work::Delete(_) => "deleted",
        Work::Publish { .. } => "published",
        Work::Unpublish => "unpublished",
    }
}

/// Does it. Done again, it does no more.
///
/// # Errors
/// Why it is not done, and whether trying again would come to the same.
pub(crate) async fn carry_out(
    host: &Host,
    errors: &PublishErrors,
    document: &DocumentId,
    work: &Work,
) -> Result<(), WorkFailure> {
    let again = |reason: String| WorkFailure { reason, retry: Retry::Later };
    match work {
        Work::Delete(gone) => {
            let delete = async {
                if *gone == Gone::Missing {
                    host.keep_removed(document).await?;
                }
                host.delete(document).await
            };
            delete.await.map_err(|error| again(error.to_string()))
        }
        // The row says that it is tried, so that it shows when it fails once more.
        Work::Unpublish => {
            tried(errors, document).await?;
            host.unpublish(document).await.map_err(|error| again(error.to_string()))
        }
        Work::Publish { slug, edition, has_source } => {
            tried(errors, document).await?;
            // One that was deleted before is, and there is a row again.
            host.revive(document);
            let begun = || host.has_begun(document);
            if *has_source && !begun().await.map_err(|error| again(error.to_string()))? {
                let reason = "nobody has opened it yet, and it begins as another one".to_owned();
                return Err(WorkFailure { reason, retry: Retry::Never });
            }
            let Err(error) = host.publish(document, slug, edition).await else { return Ok(()) };
            let retry = match error {
                PublishError::Slug | PublishError::Document(DocumentError::NotFound) => {
                    Retry::Never
                }
                // Whoever had it may have given it back meanwhile.
                PublishError::Taken => match host.published_at(slug).await {
                    Ok(Some(owner)) if owner != *document => Retry::After(owner),
                    Ok(_) | Err(_) => Retry::Later,
                },
                PublishError::Document(_) | PublishError::Storage(_) => Retry::Later,
            };
            Err(WorkFailure { reason: error.to_string(), retry })
        }
    }
}

/// Nothing has failed yet, says the row.
async fn tried(errors: &PublishErrors, document: &DocumentId) -> Result<(), WorkFailure> {
    let said = errors.well(document).await;
    said.map_err(|error| WorkFailure { reason: error.to_string(), retry: Retry::Later })
}
