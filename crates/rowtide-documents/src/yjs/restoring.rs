//! Bringing an earlier state of a document back.
//!
//! Clients hold on to what they have, so a document cannot be replaced: whatever it lacks they would bring again. It is
//! edited instead, as somebody would who never saw it: everything that is there is deleted, and the earlier state is
//! inserted anew, by a client that exists only for that. Its id is higher than all others, so that its values are the
//! last ones of their keys.

use std::collections::{BTreeMap, VecDeque};

use super::arrangement::{Arrangement, Tangled};
use super::document::Document;
use super::lib0::MAX_NUMBER;
use super::structs::{Body, Content, Id, Item, Parent, Place, Single, Struct};

/// Clients choose their ids below this; some choose higher ones.
const USUAL_CLIENTS: u64 = 1 << 32;

/// The update that makes `present` what `earlier` says.
///
/// # Errors
/// If the elements of `earlier` cannot be arranged.
pub(crate) fn restoring(present: &Document, earlier: &Document) -> Result<Vec<u8>, Tangled> {
    let arrangement = Arrangement::new(earlier)?;
    let mut lists: BTreeMap<Parent, Vec<_>> = BTreeMap::new();
    for (list, elements) in arrangement.lists() {
        lists.entry(list.parent.clone()).or_default().push((&list.key, elements));
    }
    let client = restorer(present);
    let mut restored = Document::default();
    let mut next = Id { client, clock: 0 };
    let roots = lists.keys().filter(|parent| matches!(parent, Parent::Root(_)));
    // A type is inserted before what is in it, whose parent it is then.
    let mut parents: VecDeque<(Parent, Parent)> =
        roots.map(|root| (root.clone(), root.clone())).collect();
    while let Some((before, now)) = parents.pop_front() {
        for (key, elements) in lists.get(&before).into_iter().flatten() {
            let mut left = None;
            for (id, element) in elements {
                let Body::Item(Item { content, .. }) = &element.body else { continue };
                if let Content::Single(Single::Type, _) = content {
                    parents.push_back((Parent::Element(*id), Parent::Element(next)));
                }
                let place = Place { parent: now.clone(), key: (*key).clone() };
                let item = Item {
                    left,
                    right: None,
                    place: left.is_none().then(|| Box::new(place)),
                    content: content.clone(),
                };
                let len = element.len;
                restored.insert(next, Struct { len, body: Body::Item(item) });
                next.clock += len;
                left = Some(Id { clock: next.clock - 1, ..next });
            }
        }
    }
    for (id, part) in present.structs() {
        for living in present.deleted().missing(id.client, id.clock..id.clock + part.len) {
            restored.delete(id.client, living);
        }
    }
    Ok(restored.to_update())
}

/// An id that no client has, as high as can be.
fn restorer(document: &Document) -> u64 {
    let highest = document.clients().next_back().unwrap_or(0).max(USUAL_CLIENTS);
    if highest < MAX_NUMBER {
        return highest + 1;
    }
    let mut free = MAX_NUMBER;
    for client in document.clients().rev() {
        if client < free {
            break;
        }
        free = client - 1;
    }
    free
}
