//! What is published, as objects: of each document a record of its publication beside it, and for each address an object
//! that says whose it is, `<environment>/published/<slug>`.
//!
//! The record says all addresses that may be the document's, before anything is done with them, and of which edition it
//! is once all is done. So whatever was interrupted is done again from the record, and done twice it is done once.

use std::time::SystemTime;

use bytes::Bytes;
use object_store::list::PaginatedListOptions;
use object_store::{ListResult, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use super::super::naming::DocumentId;
use super::{Objects, Path, StorageError, time_name};

/// What is known of the publication of a document.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct PublicationRecord {
    /// The addresses that it has, or may have.
    slugs: Vec<String>,
    /// What is published; none while it is not known whether all was done.
    edition: Option<String>,
}

impl Objects {
    fn record_key(&self, document: &DocumentId) -> Path {
        self.key(document, &["publication"])
    }

    fn slug_key(&self, slug: &str) -> Path {
        self.path(&["published", slug])
    }

    async fn record(
        &self,
        document: &DocumentId,
    ) -> Result<Option<PublicationRecord>, StorageError> {
        let object = self.get(&self.record_key(document)).await?;
        // One that cannot be read says nothing of what was done, and is written anew.
        Ok(object.map(|object| serde_json::from_slice(&object).unwrap_or_default()))
    }

    async fn put_record(
        &self,
        document: &DocumentId,
        record: &PublicationRecord,
    ) -> Result<(), StorageError> {
        let json = serde_json::to_vec(record).unwrap_or_default();
        let key = self.record_key(document);
        self.call(self.store.put(&key, json.into())).await.map(drop)
    }

    /// Whose address it is, whether that is published still or not.
    pub(in super::super) async fn owner_of(
        &self,
        slug: &str,
    ) -> Result<Option<DocumentId>, StorageError> {
        let owner = self.get(&self.slug_key(slug)).await?;
        Ok(owner.and_then(|owner| DocumentId::of_key(std::str::from_utf8(&owner).ok()?)))
    }

    /// Whether this edition of the document is published under `slug`, and nothing of it elsewhere.
    pub(in super::super) async fn is_published(
        &self,
        document: &DocumentId,
        slug: &str,
        edition: &str,
    ) -> Result<bool, StorageError> {
        let record = self.record(document).await?.unwrap_or_default();
        Ok(record.slugs == [slug] && record.edition.as_deref() == Some(edition))
    }

    /// Publishes the document as it was saved last, under `slug` and nowhere else. Tells whether it was done: not where
    /// the address is another document's; nothing is published then. No other document may be published under `slug` meanwhile.
    pub(in super::super) async fn publish_at(
        &self,
        document: &DocumentId,
        slug: &str,
        edition: &str,
    ) -> Result<bool, StorageError> {
        if let Some(owner) = self.owner_of(slug).await?.filter(|owner| owner != document) {
            let record = self.record(&owner).await?.unwrap_or_default();
            if record.slugs.iter().any(|other| other == slug) {
                // Its own address is not wanted any more: that one may wait for it.
                self.withdraw(document).await?;
                return Ok(false);
            }
        }
        let mut record = self.record(document).await?.unwrap_or_default();
        record.slugs.retain(|other| other != slug);
        let others = record.slugs.clone();
        record.slugs.push(slug.to_owned());
        self.put_record(document, &PublicationRecord { edition: None, ..record }).await?;
        self.publish(document, slug).await?;
        let owner = document.key().as_bytes().to_vec();
        self.call(self.store.put(&self.slug_key(slug), owner.into())).await?;
        for other in &others {
            self.withdraw_from(document, other).await?;
        }
        let (slugs, edition) = (vec![slug.to_owned()], Some(edition.to_owned()));
        self.put_record(document, &PublicationRecord { slugs, edition }).await?;
        Ok(true)
    }

    /// Takes back everything that is published of a document.
    pub(in super::super) async fn withdraw(
        &self,
        document: &DocumentId,
    ) -> Result<(), StorageError> {
        let Some(record) = self.record(document).await? else { return Ok(()) };
        for slug in &record.slugs {
            self.withdraw_from(document, slug).await?;
        }
        self.remove(&self.record_key(document)).await
    }

    /// The address goes first, so that nothing is found which is only half there.
    async fn withdraw_from(&self, document: &DocumentId, slug: &str) -> Result<(), StorageError> {
        if self.owner_of(slug).await?.as_ref() == Some(document) {
            self.remove(&self.slug_key(slug)).await?;
        }
        self.unpublish(document, slug).await
    }

    /// The ids of all documents of a kind that have objects, in no order.
    pub(in super::super) async fn stored(&self, kind: &str) -> Result<Vec<String>, StorageError> {
        let prefix = self.path(&["documents", kind]);
        let ids = |listed: &ListResult| -> Vec<String> {
            let folders = listed.common_prefixes.iter().filter_map(|path| path.filename());
            folders.filter_map(decoded).collect()
        };
        let Some(pages) = &self.pages else {
            return Ok(ids(&self.call(self.store.list_with_delimiter(Some(&prefix))).await?));
        };
        // Each page is a call with its own time: however many there are, the list comes to its end.
        let (prefix, mut stored) = (format!("{prefix}/"), Vec::new());
        let (delimiter, mut page_token) = (Some("/".into()), None);
        loop {
            let delimiter = delimiter.clone();
            let asked = PaginatedListOptions { delimiter, page_token, ..Default::default() };
            let page = self.call(pages.0.list_paginated(Some(&prefix), asked)).await?;
            stored.extend(ids(&page.result));
            page_token = page.page_token;
            if page_token.is_none() {
                return Ok(stored);
            }
        }
    }

    /// Keeps what a document was aside, whose own objects are going to be deleted.
    pub(in super::super) async fn keep_removed(
        &self,
        document: &DocumentId,
        snapshot: Bytes,
    ) -> Result<(), StorageError> {
        let time = time_name(SystemTime::now());
        let key = self.path(&["removed", document.kind(), document.id(), &time]);
        self.call(self.store.put(&key, snapshot.into())).await.map(drop)
    }
}

/// A part of a key, without what was percent-encoded in it.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use object_store::memory::InMemory;

    use super::super::super::storage::Storage;
    use super::*;

    fn document(id: &str) -> DocumentId {
        DocumentId::new("note", id).expect("a name")
    }

    async fn with_saved(ids: &[&str]) -> Objects {
        let (store, root) = (Arc::new(InMemory::new()), Path::from("of/rowtide"));
        let storage =
            Storage { store, pages: None, root, conditional: false, directory: None, lock: None };
        let objects = Objects::new(storage, "test", "journal", Duration::from_secs(60));
        for id in ids {
            let (snapshot, now) = (id.as_bytes().to_vec(), SystemTime::now());
            let saved = objects.save(&document(id), snapshot.into(), None, now, false).await;
            assert!(saved.is_ok());
        }
        objects
    }

    #[tokio::test]
    async fn an_address_is_the_first_ones_for_as_long_as_that_is_published() {
        let objects = with_saved(&["a", "b"]).await;
        let (a, b) = (document("a"), document("b"));
        assert!(objects.publish_at(&a, "s", "1").await.expect("published"));
        assert!(!objects.publish_at(&b, "s", "1").await.expect("it is asked"));
        assert_eq!(objects.owner_of("s").await.expect("an answer"), Some(a.clone()));
        assert!(objects.publish_at(&a, "t", "1").await.expect("published"));
        assert_eq!(objects.owner_of("s").await.expect("an answer"), None);
        assert!(objects.published(&a, "s").await.expect("an answer").is_none());
        assert!(objects.publish_at(&b, "s", "1").await.expect("published"));
        objects.withdraw(&a).await.expect("withdrawn");
        objects.withdraw(&a).await.expect("and again");
        assert_eq!(objects.owner_of("t").await.expect("an answer"), None);
        assert_eq!(objects.owner_of("s").await.expect("an answer"), Some(b));
    }

    #[tokio::test]
    async fn two_documents_can_change_places() {
        let objects = with_saved(&["a", "b"]).await;
        let (a, b) = (document("a"), document("b"));
        assert!(objects.publish_at(&a, "s", "1").await.expect("published"));
        assert!(objects.publish_at(&b, "t", "1").await.expect("published"));
        assert!(!objects.publish_at(&a, "t", "1").await.expect("it is asked"));
        assert!(objects.publish_at(&b, "s", "1").await.expect("published"));
        assert!(objects.publish_at(&a, "t", "1").await.expect("published"));
        for (slug, owner) in [("s", &b), ("t", &a)] {
            assert_eq!(objects.owner_of(slug).await.expect("an answer").as_ref(), Some(owner));
            assert!(objects.published(owner, slug).await.expect("an answer").is_some());
        }
        for (slug, other) in [("s", &a), ("t", &b)] {
            assert!(objects.published(other, slug).await.expect("an answer").is_none());
        }
    }

    #[tokio::test]
    async fn what_was_interrupted_is_withdrawn_as_well() {
        let objects = with_saved(&["a"]).await;
        let a = document("a");
        assert!(objects.publish_at(&a, "s", "1").await.expect("published"));
        // As if the end had come right after the record was written.
        let slugs = vec!["s".to_owned(), "t".to_owned()];
        let begun = PublicationRecord { slugs, edition: None };
        objects.put_record(&a, &begun).await.expect("written");
        assert!(!objects.is_published(&a, "s", "1").await.expect("an answer"));
        objects.withdraw(&a).await.expect("withdrawn");
        assert_eq!(objects.owner_of("s").await.expect("an answer"), None);
        assert!(objects.published(&a, "s").await.expect("an answer").is_none());
    }

    #[tokio::test]
    async fn stored_documents_are_listed_by_their_own_ids() {
        let ids = ["a", "ä/%", "..", "x y", "%41"];
        let objects = with_saved(&ids).await;
        let mut stored = objects.stored("note").await.expect("a list");
        stored.sort_unstable();
        let mut ids = ids.map(str::to_owned);
        ids.sort_unstable();
        assert_eq!(stored, ids);
        assert_eq!(decoded("%4"), None);
    }
}
