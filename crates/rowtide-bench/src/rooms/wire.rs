//! What clients of documents say, made as cheaply as it can be: the clients share the machine with what is measured. A
//! push carries a mark, which says who made it and when, and whoever receives it finds the mark without reading the rest.

use clap::ValueEnum;
use tokio_tungstenite::tungstenite::protocol::Message;

/// How documents are edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// Of tldraw's clients: a shape is moved
    Tlsync,
    /// Of Yjs: a text is written
    Yjs,
}

/// Who pushed, by their place in the room, and when, in microseconds since the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) by: u32,
    pub(crate) at_us: u64,
}

/// A day of microseconds is less.
const SENDERS: u64 = 100_000_000_000;
const MOVED: &str = r#""x":["put","#;
const WRITTEN: &[u8] = b"t=";

impl Mark {
    fn number(self) -> u64 {
        u64::from(self.by) * SENDERS + self.at_us
    }

    fn of_number(number: u64) -> Option<Mark> {
        Some(Mark { by: u32::try_from(number / SENDERS).ok()?, at_us: number % SENDERS })
    }
}

/// One client's side of a conversation.
#[derive(Debug)]
pub(crate) struct Speech {
    protocol: Protocol,
    /// The client's place in its room.
    place: u32,
    /// How much of its own it has told.
    clock: u64,
}

impl Speech {
    pub(crate) fn new(protocol: Protocol, place: u32) -> Speech {
        Speech { protocol, place, clock: 0 }
    }

    /// What is said first.
    pub(crate) fn greeting(&self, schema: &str) -> Vec<Message> {
        match self.protocol {
            Protocol::Tlsync => vec![Message::text(format!(
                r#"{{"type":"connect","connectRequestId":"c","lastServerClock":-1,"protocolVersion":8,"schema":{schema}}}"#
            ))],
            // What it has not got, and that it has nothing.
            Protocol::Yjs => vec![
                Message::binary(vec![SYNC, STEP_1, 1, 0]),
                Message::binary(vec![SYNC, STEP_2, 2, 0, 0]),
            ],
        }
    }

    /// Whether this answers the greeting: it has the document.
    pub(crate) fn is_welcome(message: &Message) -> bool {
        match message {
            Message::Text(text) => text.contains(r#""type":"connect""#),
            Message::Binary(bytes) => bytes.starts_with(&[SYNC, STEP_2]),
            _ => false,
        }
    }

    /// What a client says now and then so that it is not taken for dead.
    pub(crate) fn ping(&self) -> Option<Message> {
        (self.protocol == Protocol::Tlsync).then(|| Message::text(r#"{"type":"ping"}"#))
    }

    /// What is pushed before anything else: the shape that is moved.
    pub(crate) fn first_push(&mut self) -> Option<Message> {
        match self.protocol {
            Protocol::Tlsync => {
                let shape = shape(&format!("c{}", self.place));
                Some(self.push_diff(&shape))
            }
            Protocol::Yjs => None,
        }
    }

    /// A push with a mark.
    pub(crate) fn push(&mut self, at_us: u64) -> Message {
        let number = Mark { by: self.place, at_us }.number();
        match self.protocol {
            Protocol::Tlsync => {
                let diff = format!(r#""shape:c{}":["patch",{{{MOVED}{number}]}}]"#, self.place);
                self.push_diff(&diff)
            }
            Protocol::Yjs => {
                let text = format!("t={number};");
                let client = 1_000 + u64::from(self.place);
                let mut update = vec![1, 1];
                var_uint(&mut update, client);
                var_uint(&mut update, self.clock);
                match self.clock.checked_sub(1) {
                    Some(last) => {
                        update.push(STRING | HAS_ORIGIN);
                        var_uint(&mut update, client);
                        var_uint(&mut update, last);
                    }
                    None => {
                        update.extend([STRING, IN_ROOT]);
                        var_text(&mut update, "text");
                    }
                }
                var_text(&mut update, &text);
                // Nothing is deleted.
                update.push(0);
                self.clock += text.len() as u64;
                sync_update(&update)
            }
        }
    }

    /// Pushes that make a document of so many shapes.
    pub(crate) fn large_document(&mut self, shapes: u32) -> Vec<Message> {
        /// Less than 262,144 characters: no client would say it in parts.
        const AT_ONCE: usize = 400;
        match self.protocol {
            Protocol::Tlsync => {
                let all: Vec<String> = (0..shapes).map(|n| shape(&format!("n{n}"))).collect();
                all.chunks(AT_ONCE).map(|some| self.push_diff(&some.join(","))).collect()
            }
            Protocol::Yjs => {
                let mut update = vec![1];
                var_uint(&mut update, u64::from(shapes));
                var_uint(&mut update, 1_000 + u64::from(self.place));
                update.push(0);
                for number in 0..shapes {
                    let key = format!("n{number}");
                    update.extend([ANY | HAS_KEY, IN_ROOT]);
                    var_text(&mut update, "shapes");
                    var_text(&mut update, &key);
                    update.extend([1, ANY_TEXT]);
                    var_text(&mut update, &shape(&key));
                }
                update.push(0);
                vec![sync_update(&update)]
            }
        }
    }

    fn push_diff(&mut self, diff: &str) -> Message {
        self.clock += 1;
        Message::text(format!(
            r#"{{"type":"push","clientClock":{},"diff":{{{diff}}}}}"#,
            self.clock
        ))
    }
}

/// The marks of pushes that a message tells of.
pub(crate) fn marks(message: &Message, mut each: impl FnMut(Mark)) {
    let (bytes, before): (&[u8], &[u8]) = match message {
        Message::Text(text) => (text.as_bytes(), MOVED.as_bytes()),
        Message::Binary(bytes) => (bytes, WRITTEN),
        _ => return,
    };
    let mut rest = bytes;
    while let Some(at) = find(rest, before) {
        rest = &rest[at + before.len()..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = std::str::from_utf8(&rest[..digits]).ok().and_then(|text| text.parse().ok());
        // A shape that was put says no time.
        number
            .filter(|number| *number > 0)
            .and_then(Mark::of_number)
            .into_iter()
            .for_each(&mut each);
        rest = &rest[digits..];
    }
}

/// How many shapes that are put a message has.
pub(crate) fn shapes(message: &Message) -> u32 {
    const SHAPE: &[u8] = br#""type":"geo""#;
    let mut rest: &[u8] = match message {
        Message::Text(text) => text.as_bytes(),
        Message::Binary(bytes) => bytes,
        _ => return 0,
    };
    let mut count = 0;
    while let Some(at) = find(rest, SHAPE) {
        count += 1;
        rest = &rest[at + SHAPE.len()..];
    }
    count
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// A rectangle, as tldraw has it.
fn shape(name: &str) -> String {
    format!(
        r#""shape:{name}":["put",{{"x":0,"y":0,"rotation":0,"isLocked":false,"opacity":1,"meta":{{}},"id":"shape:{name}","type":"geo","props":{{"w":100,"h":100,"geo":"rectangle","dash":"draw","growY":0,"url":"","scale":1,"flipX":false,"flipY":false,"color":"black","labelColor":"black","fill":"none","size":"m","font":"draw","align":"middle","verticalAlign":"middle","richText":{{"type":"doc","content":[{{"type":"paragraph"}}]}}}},"parentId":"page:page","index":"a1","typeName":"shape"}}]"#
    )
}

const SYNC: u8 = 0;
const STEP_1: u8 = 0;
const STEP_2: u8 = 1;
const UPDATE: u8 = 2;
/// Kinds of content of an update, and what stands beside it.
const STRING: u8 = 4;
const ANY: u8 = 8;
const HAS_ORIGIN: u8 = 0x80;
const HAS_KEY: u8 = 0x20;
/// The parent is named, and no element.
const IN_ROOT: u8 = 1;
/// A text, as content of any kind.
const ANY_TEXT: u8 = 119;

fn sync_update(update: &[u8]) -> Message {
    let mut message = vec![SYNC, UPDATE];
    var_uint(&mut message, update.len() as u64);
    message.extend_from_slice(update);
    Message::binary(message)
}

fn var_uint(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn var_text(out: &mut Vec<u8>, text: &str) {
    var_uint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_again() {
        for protocol in [Protocol::Tlsync, Protocol::Yjs] {
            let mut speech = Speech::new(protocol, 49);
            let mut found = Vec::new();
            for at_us in [1, 86_400_000_000] {
                marks(&speech.push(at_us), |mark| found.push(mark));
            }
            let mark = |at_us| Mark { by: 49, at_us };
            assert_eq!(found, [mark(1), mark(86_400_000_000)], "{protocol:?}");
        }
    }
}
