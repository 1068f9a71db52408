//! What was rendered of publications, so that whoever asks again for the same is not answered by doing it again. Of what is kept
//! so many bytes may be there at a time; what was not asked for the longest goes first. Pure.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use rowtide_documents::host::DocumentId;

/// Which copy of a document it is that was rendered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RenderedKey {
    pub(crate) document: DocumentId,
    pub(crate) slug: String,
    /// What the storage tells this copy from others by.
    pub(crate) version: String,
}

#[derive(Debug)]
struct Entry {
    body: Bytes,
    asked: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct RenderedBodies {
    most_bytes: usize,
    bodies: HashMap<RenderedKey, Entry>,
    /// Which of them was asked for when.
    by_age: BTreeMap<u64, RenderedKey>,
    bytes: usize,
    asks: u64,
}

/// What an entry takes beside its body.
fn overhead(key: &RenderedKey) -> usize {
    let document = key.document.kind().len() + key.document.id().len();
    let text = document + key.slug.len() + key.version.len();
    2 * (size_of::<RenderedKey>() + text) + size_of::<Entry>()
}

impl RenderedBodies {
    /// Nothing yet, and never more than so many bytes.
    pub(crate) fn new(most_bytes: usize) -> RenderedBodies {
        RenderedBodies {
            most_bytes,
            bodies: HashMap::new(),
            by_age: BTreeMap::new(),
            bytes: 0,
            asks: 0,
        }
    }

    /// What was rendered of this copy, if it is there still.
    pub(crate) fn get(&mut self, key: &RenderedKey) -> Option<Bytes> {
        let entry = self.bodies.get_mut(key)?;
        self.asks += 1;
        if let Some(key) = self.by_age.remove(&entry.asked) {
            self.by_age.insert(self.asks, key);
        }
        entry.asked = self.asks;
        Some(entry.body.clone())
    }

    /// Keeps what was rendered, if there can be room for it.
    pub(crate) fn keep(&mut self, key: RenderedKey, body: Bytes) {
        let size = overhead(&key) + body.len();
        if size > self.most_bytes || self.bodies.contains_key(&key) {
            return;
        }
        self.asks += 1;
        self.bytes += size;
        self.by_age.insert(self.asks, key.clone());
        self.bodies.insert(key, Entry { body, asked: self.asks });
        while self.bytes > self.most_bytes {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            if let Some(entry) = self.bodies.remove(&oldest) {
                self.bytes -= overhead(&oldest) + entry.body.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slug: &str, version: &str) -> RenderedKey {
        let document = DocumentId::new("note", "a").expect("a name");
        RenderedKey { document, slug: slug.to_owned(), version: version.to_owned() }
    }

    #[test]
    fn what_is_kept_is_of_one_version_and_what_nobody_asks_for_goes_first() {
        let body = Bytes::from(vec![b'x'; 1_000]);
        let of_one = overhead(&key("a", "1")) + body.len();
        let mut bodies = RenderedBodies::new(2 * of_one);
        bodies.keep(key("a", "1"), body.clone());
        bodies.keep(key("b", "1"), body.clone());
        bodies.keep(key("b", "1"), body.clone());
        assert_eq!(bodies.get(&key("a", "1")), Some(body.clone()));
        assert_eq!(bodies.get(&key("a", "2")), None);
        bodies.keep(key("a", "2"), body.clone());
        assert_eq!(bodies.get(&key("b", "1")), None);
        assert_eq!(bodies.get(&key("a", "1")), Some(body.clone()));
        assert_eq!(bodies.get(&key("a", "2")), Some(body));
        assert_eq!((bodies.bytes, bodies.by_age.len()), (2 * of_one, 2));
        bodies.keep(key("c", "1"), vec![b'x'; 2 * of_one].into());
        assert_eq!(bodies.get(&key("c", "1")), None, "it is larger than all");
        assert_eq!(bodies.bodies.len(), 2, "and nothing goes for it");
    }
}
