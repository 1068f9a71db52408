//! Updates of Yjs, version 1 of its format: structs, and which elements were deleted.
//!
//! An update comes from outside. It is read part by part and nothing of it is kept, so it takes no memory whatever it
//! announces; what is long comes in several parts.

use std::ops::Range;

use super::lib0::{MAX_NUMBER, MalformedYjs, Reader};
use super::structs::{
    BINARY, Body, Content, DELETED, DOCUMENT, EMBED, FORMAT, GONE, HAS_KEY, HAS_LEFT, HAS_RIGHT,
    Id, Item, JSON, KIND, List, Parent, Place, RUN_BYTES, SKIP, Single, Struct, TEXT, TYPE, VALUES,
    skip_value, utf16_len,
};

const XML_ELEMENT: u64 = 3;
const XML_HOOK: u64 = 5;
const LAST_TYPE: u64 = 6;
/// A value of lib0 that is one.
const OBJECT: u8 = 118;

/// What an update consists of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Elements; the id is that of the first.
    Struct(Id, Struct),
    /// Elements of a client that were deleted.
    Deleted(u64, Range<u64>),
}

/// Reads an update, the structs first.
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
    pub(crate) fn new(update: &'a [u8]) -> Result<UpdateReader<'a>, MalformedYjs> {
        let mut reader = Reader::new(update);
        let clients = reader.number()?;
        let next = Id { client: 0, clock: 0 };
        let state = State::Structs { clients, structs: 0, next };
        Ok(UpdateReader { reader, state, run: None })
    }

    /// Whether it brings nothing at all, as far as its beginning tells.
    pub(crate) fn is_empty(update: &[u8]) -> Result<bool, MalformedYjs> {
        Ok(UpdateReader::new(update)?.next()?.is_none())
    }

    /// The next part; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Part>, MalformedYjs> {
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

fn end_of(start: u64, len: u64) -> Result<u64, MalformedYjs> {
    start.checked_add(len).filter(|end| *end <= MAX_NUMBER).ok_or(MalformedYjs::Number)
}

fn read_id(reader: &mut Reader<'_>) -> Result<Id, MalformedYjs> {
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
fn read_struct<'a>(reader: &mut Reader<'a>, start: Id) -> Result<(u64, Read<'a>), MalformedYjs> {
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
    // A client knows the elements that it inserted before, and of its own no others. Clients do not look, and break.
    let parent = place.as_deref().and_then(|place| match &place.parent {
        Parent::Element(id) => Some(id),
        Parent::Root(_) => None,
    });
    let is_later = |id: &Id| id.client == start.client && id.clock >= start.clock;
    if left.iter().chain(&right).chain(parent).any(is_later) {
        return Err(MalformedYjs::Later);
    }
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
                kind => return Err(MalformedYjs::Kind(kind.into())),
            };
            let bytes = reader.written(|reader| skip_single(single, reader))?;
            (1, Content::Single(single, bytes.into()))
        }
    };
    Ok((len, Read::Body(Body::Item(Item { left, right, place, content }))))
}

fn skip_single(single: Single, reader: &mut Reader<'_>) -> Result<(), MalformedYjs> {
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
            kind => Err(MalformedYjs::Kind(kind)),
        },
        Single::Document => {
            reader.text()?;
            // Clients take its options for an object without looking.
            match reader.clone().byte()? {
                OBJECT => reader.skip_value(),
                kind => Err(MalformedYjs::Kind(kind.into())),
            }
        }
    }
}
