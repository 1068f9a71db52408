//! What an update of Yjs is made of: *structs*, runs of elements that one client inserted, and the elements that
//! were deleted.
//!
//! A struct says where its elements were inserted, by the ids of their neighbours then, and what they are. It can be
//! cut anywhere between its elements, and a run that was typed on can be joined again: both say the same as before,
//! because a cut names its left part as the neighbour of its right one. So updates can be merged and compared without
//! ever ordering the elements. The format is version 1 of Yjs 13.

use std::ops::Range;

use super::lib0::{MAX_NUMBER, Malformed, Reader, put_buffer, put_number};

/// Texts and lists longer than this are cut when they are read, and not joined any further, so that a cut costs little.
const RUN_BYTES: usize = 4 << 10;

/// What a struct takes beside its content, about, in bytes.
const STRUCT_BYTES: usize = 128;

const KIND: u8 = 0x1f;
const HAS_KEY: u8 = 0x20;
const HAS_RIGHT: u8 = 0x40;
const HAS_LEFT: u8 = 0x80;

const GONE: u8 = 0;
const DELETED: u8 = 1;
const JSON: u8 = 2;
const BINARY: u8 = 3;
const TEXT: u8 = 4;
const EMBED: u8 = 5;
const FORMAT: u8 = 6;
const TYPE: u8 = 7;
const VALUES: u8 = 8;
const DOCUMENT: u8 = 9;
const SKIP: u8 = 10;

const XML_ELEMENT: u64 = 3;
const XML_HOOK: u64 = 5;
const LAST_TYPE: u64 = 6;

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
fn utf16_len(text: &str) -> u64 {
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

fn skip_value(list: List, reader: &mut Reader<'_>) -> Result<(), Malformed> {
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
        STRUCT_BYTES
            + match &self.body {
                Body::Gone | Body::Item(Item { content: Content::Deleted, .. }) => 0,
                Body::Item(Item { content: Content::Text(text), .. }) => text.len(),
                Body::Item(Item { content: Content::Values(_, bytes), .. })
                | Body::Item(Item { content: Content::Single(_, bytes), .. }) => bytes.len(),
            }
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

/// What an update consists of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Elements; the id is that of the first.
    Struct(Id, Struct),
    /// Elements of a client that were deleted.
    Deleted(u64, Range<u64>),
}

/// Reads an update part by part, the structs first. Nothing of it is kept, so reading takes no memory whatever the
/// update announces.
#[derive(Clone, Debug)]
pub(crate) struct UpdateReader<'a> {
    reader: Reader<'a>,
    state: State,
    /// What is still to come of a long run.
    run: Option<Run<'a>>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Clients still to come, structs of the present one, and the id of its next element.
    Structs {
        clients: u64,
        structs: u64,
        next: Id,
    },
    /// Clients still to come, ranges of the present one, and who that is.
    Deleted {
        clients: u64,
        ranges: u64,
        client: u64,
    },
    End,
}

/// Elements that are told of in parts.
#[derive(Clone, Debug)]
struct Run<'a> {
    start: Id,
    left: Option<Id>,
    right: Option<Id>,
    place: Option<Box<Place>>,
    content: Elements<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Elements<'a> {
    Text(&'a str),
    /// So many values.
    Values(List, &'a [u8], u64),
}

impl Run<'_> {
    /// The first part, and the rest if there is one.
    fn part(self) -> (Id, Struct, Option<Self>) {
        let Run { start, left, right, place, content } = self;
        let (len, content, rest) = match content {
            Elements::Text(text) => {
                let (text, rest) = text.split_at(text.floor_char_boundary(RUN_BYTES));
                let more = (!rest.is_empty()).then_some(Elements::Text(rest));
                (utf16_len(text), Content::Text(text.to_owned()), more)
            }
            Elements::Values(list, bytes, count) => {
                let mut reader = Reader::new(bytes);
                let mut taken = 0;
                while taken < count && bytes.len() - reader.rest().len() < RUN_BYTES {
                    // They were read before.
                    if skip_value(list, &mut reader).is_err() {
                        break;
                    }
                    taken += 1;
                }
                let rest = reader.rest();
                let values = &bytes[..bytes.len() - rest.len()];
                let more = (taken < count).then_some(Elements::Values(list, rest, count - taken));
                (taken, Content::Values(list, values.into()), more)
            }
        };
        let next = Id { clock: start.clock + len, ..start };
        let last = Id { clock: (start.clock + len).saturating_sub(1), ..start };
        let rest =
            rest.map(|content| Run { start: next, left: Some(last), right, place: None, content });
        (start, Struct { len, body: Body::Item(Item { left, right, place, content }) }, rest)
    }
}

impl<'a> UpdateReader<'a> {
    pub(crate) fn new(update: &'a [u8]) -> Result<UpdateReader<'a>, Malformed> {
        let mut reader = Reader::new(update);
        let clients = reader.number()?;
        let next = Id { client: 0, clock: 0 };
        let state = State::Structs { clients, structs: 0, next };
        Ok(UpdateReader { reader, state, run: None })
    }

    /// The next part; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Part>, Malformed> {
        loop {
            if let Some(run) = self.run.take() {
                let (id, part, rest) = run.part();
                self.run = rest;
                // Early versions of Yjs wrote structs of no elements.
                if part.len > 0 {
                    return Ok(Some(Part::Struct(id, part)));
                }
                continue;
            }
            match &mut self.state {
                State::Structs { structs: 0, clients: 0, .. } => {
                    let clients = self.reader.number()?;
                    self.state = State::Deleted { clients, ranges: 0, client: 0 };
                }
                State::Structs { structs: structs @ 0, clients, next } => {
                    *clients -= 1;
                    *structs = self.reader.number()?;
                    *next = read_id(&mut self.reader)?;
                }
                State::Structs { structs, next, .. } => {
                    *structs -= 1;
                    let start = *next;
                    let (len, read) = read_struct(&mut self.reader, start)?;
                    next.clock = end_of(start.clock, len)?;
                    match read {
                        Read::Run(run) => self.run = Some(run),
                        Read::Body(body) if len > 0 => {
                            return Ok(Some(Part::Struct(start, Struct { len, body })));
                        }
                        Read::Body(_) | Read::Elsewhere => {}
                    }
                }
                State::Deleted { ranges: 0, clients: 0, .. } => {
                    self.reader.end()?;
                    self.state = State::End;
                }
                State::Deleted { ranges: ranges @ 0, clients, client } => {
                    *clients -= 1;
                    *client = self.reader.number()?;
                    *ranges = self.reader.number()?;
                }
                State::Deleted { ranges, client, .. } => {
                    *ranges -= 1;
                    let start = self.reader.number()?;
                    let end = end_of(start, self.reader.number()?)?;
                    return Ok(Some(Part::Deleted(*client, start..end)));
                }
                State::End => return Ok(None),
            }
        }
    }
}

fn end_of(start: u64, len: u64) -> Result<u64, Malformed> {
    start.checked_add(len).filter(|end| *end <= MAX_NUMBER).ok_or(Malformed::Number)
}

fn read_id(reader: &mut Reader<'_>) -> Result<Id, Malformed> {
    Ok(Id { client: reader.number()?, clock: reader.number()? })
}

/// What was read of a struct.
enum Read<'a> {
    Run(Run<'a>),
    Body(Body),
    /// The elements are not in the update.
    Elsewhere,
}

/// How many elements, and what they are.
fn read_struct<'a>(reader: &mut Reader<'a>, start: Id) -> Result<(u64, Read<'a>), Malformed> {
    let info = reader.byte()?;
    let kind = info & KIND;
    match kind {
        SKIP => return Ok((reader.number()?, Read::Elsewhere)),
        GONE => return Ok((reader.number()?, Read::Body(Body::Gone))),
        _ => {}
    }
    let left = (info & HAS_LEFT != 0).then(|| read_id(reader)).transpose()?;
    let right = (info & HAS_RIGHT != 0).then(|| read_id(reader)).transpose()?;
    let place = if left.is_none() && right.is_none() {
        let parent = match reader.number()? {
            1 => Parent::Root(reader.text()?.into()),
            _ => Parent::Element(read_id(reader)?),
        };
        let key = (info & HAS_KEY != 0).then(|| reader.text().map(Box::from)).transpose()?;
        Some(Box::new(Place { parent, key }))
    } else {
        None
    };
    let (len, content) = match kind {
        TEXT => {
            let text = reader.text()?;
            let content = Elements::Text(text);
            return Ok((utf16_len(text), Read::Run(Run { start, left, right, place, content })));
        }
        JSON | VALUES => {
            let list = if kind == JSON { List::Json } else { List::Any };
            let len = reader.number()?;
            let bytes =
                reader.written(|reader| (0..len).try_for_each(|_| skip_value(list, reader)))?;
            let content = Elements::Values(list, bytes, len);
            return Ok((len, Read::Run(Run { start, left, right, place, content })));
        }
        DELETED => (reader.number()?, Content::Deleted),
        _ => {
            let single = match kind {
                BINARY => Single::Binary,
                EMBED => Single::Embed,
                FORMAT => Single::Format,
                TYPE => Single::Type,
                DOCUMENT => Single::Document,
                kind => return Err(Malformed::Kind(kind.into())),
            };
            let bytes = reader.written(|reader| skip_single(single, reader))?;
            (1, Content::Single(single, bytes.into()))
        }
    };
    Ok((len, Read::Body(Body::Item(Item { left, right, place, content }))))
}

fn skip_single(single: Single, reader: &mut Reader<'_>) -> Result<(), Malformed> {
    match single {
        Single::Binary => reader.buffer().map(drop),
        Single::Embed => reader.json().map(drop),
        Single::Format => {
            reader.text()?;
            reader.json().map(drop)
        }
        Single::Type => match reader.number()? {
            XML_ELEMENT | XML_HOOK => reader.text().map(drop),
            kind if kind <= LAST_TYPE => Ok(()),
            kind => Err(Malformed::Kind(kind)),
        },
        Single::Document => {
            reader.text()?;
            reader.skip_value()
        }
    }
}
