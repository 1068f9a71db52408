//! What a document of Yjs is made of: *structs*, runs of elements that one client inserted.
//!
//! A struct says where its elements were inserted, by the ids of their neighbours then, and what they are. It can be
//! cut anywhere between its elements, and a run that was typed on can be joined again: both say the same as before,
//! because a cut names its left part as the neighbour of its right one. So updates can be merged and compared without
//! ever ordering the elements.

use super::lib0::{MalformedYjs, Reader, put_buffer, put_number};

/// Texts and lists longer than this are cut when they are read, and not joined any further, so that a cut costs little.
pub(super) const RUN_BYTES: usize = 4 << 10;

/// What a struct takes beside its content, about, in bytes, in a map that may be half full.
pub(super) const STRUCT_BYTES: usize = 2 * (size_of::<u64>() + size_of::<Struct>());

/// What is allocated by itself takes so many bytes more, about.
const ALLOCATION_BYTES: usize = 24;

/// The first byte of a struct: its kind, and what is said of its place.
pub(super) const KIND: u8 = 0x1f;
pub(super) const HAS_KEY: u8 = 0x20;
pub(super) const HAS_RIGHT: u8 = 0x40;
pub(super) const HAS_LEFT: u8 = 0x80;

pub(super) const GONE: u8 = 0;
pub(super) const DELETED: u8 = 1;
pub(super) const JSON: u8 = 2;
pub(super) const BINARY: u8 = 3;
pub(super) const TEXT: u8 = 4;
pub(super) const EMBED: u8 = 5;
pub(super) const FORMAT: u8 = 6;
pub(super) const TYPE: u8 = 7;
pub(super) const VALUES: u8 = 8;
pub(super) const DOCUMENT: u8 = 9;
pub(super) const SKIP: u8 = 10;

/// One element: the client that inserted it, and how many that client had inserted before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) client: u64,
    pub(crate) clock: u64,
}

/// Elements that follow each other in the clock of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Struct {
    /// How many elements; at least one.
    pub(crate) len: u64,
    pub(crate) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// Elements inside of something deleted: nothing is known of them any more.
    Gone,
    Item(Item),
}

/// Elements, and where they were inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// The element to the left of the first one, then.
    pub(crate) left: Option<Id>,
    /// The element to the right of the last one, then.
    pub(crate) right: Option<Id>,
    /// Said if there is no neighbour to tell it by.
    pub(crate) place: Option<Box<Place>>,
    pub(crate) content: Content,
}

/// The list, text or map that elements are in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) parent: Parent,
    /// In a map, which key.
    pub(crate) key: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Parent {
    /// A type of the document, by its name.
    Root(Box<str>),
    /// A type that is an element itself.
    Element(Id),
}

/// What elements are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// They were deleted, and what they were is forgotten.
    Deleted,
    /// Each is a unit of UTF-16.
    Text(String),
    /// Each is a value, one written after the other.
    Values(List, Box<[u8]>),
    /// One element, as it was written.
    Single(Single, Box<[u8]>),
}

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    /// As texts of JSON, by early versions of Yjs.
    Json,
    /// As values of lib0.
    Any,
}

/// What a single element can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Single {
    Binary,
    Embed,
    /// The start or the end of a formatting.
    Format,
    /// A list, a text or a map, whose elements name it as their parent.
    Type,
    /// Another document, by its name.
    Document,
}

impl Place {
    /// The bytes that it takes, about.
    fn bytes(&self) -> usize {
        let name = match &self.parent {
            Parent::Root(name) => ALLOCATION_BYTES + name.len(),
            Parent::Element(_) => 0,
        };
        let key = self.key.as_deref().map_or(0, |key| ALLOCATION_BYTES + key.len());
        ALLOCATION_BYTES + size_of::<Place>() + name + key
    }
}

impl Single {
    fn kind(self) -> u8 {
        match self {
            Single::Binary => BINARY,
            Single::Embed => EMBED,
            Single::Format => FORMAT,
            Single::Type => TYPE,
            Single::Document => DOCUMENT,
        }
    }
}

/// The length of a text as Yjs counts it.
pub(super) fn utf16_len(text: &str) -> u64 {
    text.chars().map(|char| char.len_utf16() as u64).sum()
}

/// Cuts a text after so many units of UTF-16. As in Yjs, both halves of a pair that is cut through are lost.
fn cut_text(text: &str, at: u64) -> (String, String) {
    let mut units = 0;
    for (offset, char) in text.char_indices() {
        if units == at {
            return (text[..offset].to_owned(), text[offset..].to_owned());
        }
        units += char.len_utf16() as u64;
        if units > at {
            let after = &text[offset + char.len_utf8()..];
            return (format!("{}\u{fffd}", &text[..offset]), format!("\u{fffd}{after}"));
        }
    }
    (text.to_owned(), String::new())
}

/// How many bytes the first `count` values take; all of them if there are fewer.
fn values_len(list: List, bytes: &[u8], count: u64) -> usize {
    let mut reader = Reader::new(bytes);
    for _ in 0..count {
        // They were read before.
        if skip_value(list, &mut reader).is_err() {
            break;
        }
    }
    bytes.len() - reader.rest().len()
}

pub(super) fn skip_value(list: List, reader: &mut Reader<'_>) -> Result<(), MalformedYjs> {
    match list {
        List::Any => reader.skip_value(),
        List::Json => match reader.clone().text()? {
            // Early versions of Yjs write it so.
            "undefined" => reader.text().map(drop),
            _ => reader.json().map(drop),
        },
    }
}

impl Struct {
    /// The bytes that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        let Body::Item(item) = &self.body else { return STRUCT_BYTES };
        let content = match &item.content {
            Content::Deleted => 0,
            Content::Text(text) => ALLOCATION_BYTES + text.len(),
            Content::Values(_, bytes) | Content::Single(_, bytes) => ALLOCATION_BYTES + bytes.len(),
        };
        STRUCT_BYTES + content + item.place.as_deref().map_or(0, Place::bytes)
    }

    /// Cuts it before its element `at`, which is not the first; the right part is returned. `start` is the id of the
    /// first.
    pub(crate) fn cut(&mut self, start: Id, at: u64) -> Struct {
        let len = self.len - at;
        self.len = at;
        let Body::Item(item) = &mut self.body else {
            return Struct { len, body: Body::Gone };
        };
        let content = match &mut item.content {
            Content::Deleted | Content::Single(..) => Content::Deleted,
            Content::Text(text) => {
                let (left, right) = cut_text(text, at);
                *text = left;
                Content::Text(right)
            }
            Content::Values(list, bytes) => {
                let (left, right) = bytes.split_at(values_len(*list, bytes, at));
                let right = Content::Values(*list, right.into());
                *bytes = left.into();
                right
            }
        };
        let left = Some(Id { client: start.client, clock: start.clock + at - 1 });
        Struct { len, body: Body::Item(Item { left, right: item.right, place: None, content }) }
    }

    /// Takes the elements that follow it, if the two say together what they say alone. `start` is the id of its first.
    /// Values are not joined, because those of a map are not a run: each takes the place of the one before it.
    pub(crate) fn join(&mut self, start: Id, next: Struct) -> Result<(), Struct> {
        match (&mut self.body, &next.body) {
            (Body::Gone, Body::Gone) => {}
            (Body::Item(item), Body::Item(other))
                if other.left
                    == Some(Id { client: start.client, clock: start.clock + self.len - 1 })
                    && other.right == item.right =>
            {
                match (&mut item.content, &other.content) {
                    (Content::Deleted, Content::Deleted) => {}
                    (Content::Text(text), Content::Text(more))
                        if text.len() + more.len() <= RUN_BYTES =>
                    {
                        text.push_str(more);
                    }
                    _ => return Err(next),
                }
            }
            _ => return Err(next),
        }
        self.len += next.len;
        Ok(())
    }

    /// Forgets what the elements were, because they are deleted.
    pub(crate) fn forget(&mut self) {
        if let Body::Item(item) = &mut self.body {
            item.content = Content::Deleted;
        }
    }

    /// Writes it without its first `offset` elements. `start` is the id of the first.
    pub(crate) fn write(&self, start: Id, offset: u64, out: &mut Vec<u8>) {
        if offset > 0 {
            self.clone().cut(start, offset).write(
                Id { clock: start.clock + offset, ..start },
                0,
                out,
            );
            return;
        }
        let Body::Item(item) = &self.body else {
            out.push(GONE);
            put_number(out, self.len);
            return;
        };
        let kind = match &item.content {
            Content::Deleted => DELETED,
            Content::Text(_) => TEXT,
            Content::Values(List::Json, _) => JSON,
            Content::Values(List::Any, _) => VALUES,
            Content::Single(single, _) => single.kind(),
        };
        let place = item.place.as_deref().filter(|_| item.left.is_none() && item.right.is_none());
        let key = place.and_then(|place| place.key.as_deref());
        let flag = |flag, set| if set { flag } else { 0 };
        out.push(
            kind | flag(HAS_LEFT, item.left.is_some())
                | flag(HAS_RIGHT, item.right.is_some())
                | flag(HAS_KEY, key.is_some()),
        );
        for id in item.left.iter().chain(&item.right) {
            put_id(out, *id);
        }
        if let Some(place) = place {
            match &place.parent {
                Parent::Root(name) => {
                    put_number(out, 1);
                    put_buffer(out, name.as_bytes());
                }
                Parent::Element(id) => {
                    put_number(out, 0);
                    put_id(out, *id);
                }
            }
            if let Some(key) = key {
                put_buffer(out, key.as_bytes());
            }
        }
        match &item.content {
            Content::Deleted => put_number(out, self.len),
            Content::Text(text) => put_buffer(out, text.as_bytes()),
            Content::Values(_, bytes) => {
                put_number(out, self.len);
                out.extend_from_slice(bytes);
            }
            Content::Single(_, bytes) => out.extend_from_slice(bytes),
        }
    }
}

/// Writes that a number of elements are somewhere else.
pub(crate) fn put_skip(out: &mut Vec<u8>, len: u64) {
    out.push(SKIP);
    put_number(out, len);
}

fn put_id(out: &mut Vec<u8>, id: Id) {
    put_number(out, id.client);
    put_number(out, id.clock);
}
