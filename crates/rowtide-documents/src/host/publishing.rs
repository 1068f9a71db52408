//! Publishing documents: a copy of what a document is now is put where an address leads, read there, and taken back.

use super::mailbox::PublishError;
use super::naming::{DocumentId, is_part};
use super::objects::PublishedCopy;
use super::{Host, StorageError};

impl Host {
    /// Publishes a document as it is now under `slug`, and nowhere else: a copy that stays as it is until another edition
    /// is published. One that is published so already is left alone. No two documents may be published under one address
    /// at a time.
    ///
    /// # Errors
    /// [`PublishError::Slug`] and [`PublishError::Taken`] if it cannot have the address; others if it cannot be saved or
    /// copied, and then it is to be done again.
    pub async fn publish(
        &self,
        document: &DocumentId,
        slug: &str,
        edition: &str,
    ) -> Result<(), PublishError> {
        // Clients leave out of an address what means a directory.
        if !is_part(slug) || matches!(slug, "." | "..") {
            return Err(PublishError::Slug);
        }
        let objects = &self.shared.objects;
        if objects.is_published(document, slug, edition).await? {
            return Ok(());
        }
        self.save(document).await?;
        if objects.current(document).await?.is_none() {
            // Nobody has ever edited it.
            self.begin_empty(document).await?;
        }
        match objects.publish_at(document, slug, edition).await? {
            true => Ok(()),
            false => Err(PublishError::Taken),
        }
    }

    /// Which document was published under `slug`; [`Host::published`] is what of it.
    ///
    /// # Errors
    /// If the storage fails.
    pub async fn published_at(&self, slug: &str) -> Result<Option<DocumentId>, StorageError> {
        if !is_part(slug) {
            return Ok(None);
        }
        self.shared.objects.owner_of(slug).await
    }

    /// The copy of a document that was published under `slug`.
    ///
    /// # Errors
    /// If the storage fails.
    pub async fn published(
        &self,
        document: &DocumentId,
        slug: &str,
    ) -> Result<Option<PublishedCopy>, StorageError> {
        self.shared.objects.published(document, slug).await
    }

    /// Which copy it is that [`Host::published`] would read.
    ///
    /// # Errors
    /// If the storage fails.
    pub async fn published_version(
        &self,
        document: &DocumentId,
        slug: &str,
    ) -> Result<Option<String>, StorageError> {
        self.shared.objects.published_version(document, slug).await
    }

    /// Takes back what is published of a document, if something is.
    ///
    /// # Errors
    /// If the storage fails; it is to be done again then.
    pub async fn unpublish(&self, document: &DocumentId) -> Result<(), StorageError> {
        self.shared.objects.withdraw(document).await
    }
}
