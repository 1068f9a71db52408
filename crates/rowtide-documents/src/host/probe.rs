//! Trying a storage before documents need it: an object is put, put again where that must be refused, read, copied, listed
//! and deleted. Each step tells what is refused; a storage that takes a put which it had to refuse would let two servers
//! overwrite each other.

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::{Path, PathPart};
use object_store::{
    Attributes, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion,
};
use tokio::time::timeout;

use super::failure::StorageError;
use super::objects::WRITER;
use super::storage::{Storage, StorageSettings};

/// How long one step may take.
const STEP: Duration = Duration::from_secs(20);

/// Tries a storage for an environment, beside whoever has it. Returns what is wrong with it, step by step; nothing if it
/// can be used.
pub async fn try_storage(settings: &StorageSettings, environment: &str) -> Vec<String> {
    let storage = match settings.connect() {
        Ok(storage) => storage,
        Err(error) => return vec![error.to_string()],
    };
    let name = format!("{:016x}", rand::random::<u64>());
    // In a folder of its own, so that listing it is no matter of how many documents there are.
    let parts = [environment, "probes", &name].map(PathPart::from);
    let key = Path::from_iter(storage.root.parts().chain(parts));
    let probe = Probe { storage, key };
    let mut problems = Vec::new();
    if let Err(problem) = probe.put().await {
        problems.push(problem);
        return problems;
    }
    problems.extend(probe.read().await.err());
    problems.extend(probe.copy().await.err());
    problems.extend(probe.list().await.err());
    problems.extend(probe.delete().await.err());
    problems
}

struct Probe {
    storage: Storage,
    key: Path,
}

const FIRST: Bytes = Bytes::from_static(b"first");
const SECOND: Bytes = Bytes::from_static(b"second");
/// Who puts objects here.
const PROBER: &str = "probe";

impl Probe {
    async fn put_as(
        &self,
        content: &Bytes,
        mode: PutMode,
    ) -> Result<Option<UpdateVersion>, StorageError> {
        // What has no conditions keeps nothing beside an object, and is not asked to.
        let says = self.storage.conditional.then_some((WRITER, PROBER));
        let attributes = Attributes::from_iter(says);
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        let put = self.storage.store.put_opts(&self.key, content.clone().into(), options);
        match within(put).await {
            Ok(put) => Ok(Some(put.into())),
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn put(&self) -> Result<(), String> {
        let refused = |error: StorageError| format!("an object cannot be put: {error}");
        let again = "an object that is there is overwritten by one that must be the first: two servers could overwrite each \
                     other's documents; such a storage cannot be used";
        let stale = "an object is overwritten by one that follows on another: two servers could overwrite each other's \
                     documents; such a storage cannot be used";
        let first = self.put_as(&FIRST, PutMode::Create).await.map_err(refused)?;
        let first = first.ok_or("an object that nobody has put is there already")?;
        if self.put_as(&SECOND, PutMode::Create).await.map_err(refused)?.is_some() {
            return Err(again.to_owned());
        }
        if !self.storage.conditional {
            let put = self.storage.store.put(&self.key, SECOND.into());
            return within(put).await.map(drop).map_err(refused);
        }
        let conditional =
            |error: StorageError| format!("an object cannot be put on a condition: {error}");
        let follows = self.put_as(&SECOND, PutMode::Update(first.clone())).await;
        if follows.map_err(conditional)?.is_none() {
            return Err("an object is refused that follows on the one before".to_owned());
        }
        match self.put_as(&FIRST, PutMode::Update(first)).await.map_err(conditional)? {
            Some(_) => Err(stale.to_owned()),
            None => Ok(()),
        }
    }

    async fn read(&self) -> Result<(), String> {
        for head in [false, true] {
            let asked = GetOptions { head, ..GetOptions::default() };
            let read = within(async {
                let object = self.storage.store.get_opts(&self.key, asked).await?;
                Ok((object.attributes.clone(), object.bytes().await?))
            });
            let read = read.await.map_err(|error| format!("an object cannot be read: {error}"));
            let (attributes, content) = read?;
            if !head && content != SECOND {
                return Err("an object that was put is read as another one".to_owned());
            }
            let says = attributes.get(&WRITER).map(|writer| &**writer);
            if self.storage.conditional && says != Some(PROBER) {
                return Err("an object does not keep its metadata: no server could tell what it has written itself; \
                            such a storage cannot be used"
                    .to_owned());
            }
        }
        Ok(())
    }

    /// As what is published is copied.
    async fn copy(&self) -> Result<(), String> {
        let name = format!("{}-copy", self.key.filename().unwrap_or_default());
        let mut parts: Vec<_> = self.key.parts().collect();
        parts.pop();
        let copy = Path::from_iter(parts.into_iter().chain([PathPart::from(name)]));
        let store = &self.storage.store;
        let copied = within(store.copy(&self.key, &copy)).await;
        copied.map_err(|error| format!("an object cannot be copied: {error}"))?;
        let read = within(async { store.get(&copy).await?.bytes().await }).await;
        let deleted = within(store.delete(&copy)).await;
        match read {
            Ok(content) if content == SECOND => {}
            Ok(_) => return Err("a copy of an object is another one".to_owned()),
            Err(error) => return Err(format!("a copy of an object cannot be read: {error}")),
        }
        deleted.map_err(|error| format!("a copy of an object cannot be deleted: {error}"))
    }

    async fn list(&self) -> Result<(), String> {
        let prefix: Path = self.key.parts().take(self.key.parts().count() - 1).collect();
        let mut listed = self.storage.store.list(Some(&prefix));
        let found = within(async {
            while let Some(object) = listed.try_next().await? {
                if object.location == self.key {
                    return Ok(true);
                }
            }
            Ok(false)
        });
        match found.await {
            Ok(true) => Ok(()),
            Ok(false) => Err("an object that was put is not listed".to_owned()),
            Err(error) => Err(format!("objects cannot be listed: {error}")),
        }
    }

    async fn delete(&self) -> Result<(), String> {
        let deleted = within(self.storage.store.delete(&self.key)).await;
        deleted.map_err(|error| format!("an object cannot be deleted: {error}"))
    }
}

async fn within<T>(call: impl Future<Output = object_store::Result<T>>) -> Result<T, StorageError> {
    match timeout(STEP, call).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(StorageError::Slow(STEP)),
    }
}
