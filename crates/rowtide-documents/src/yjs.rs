//! Documents for everything that speaks Yjs, over the messages of y-protocols.
//!
//! The document is not a tree here but what the clients' updates say, merged; each client orders it for itself. That is
//! enough to store it, to send each client what it lacks, and to forget what was deleted, and it is what lets a room
//! take anything that clients make up: reading an update is a matter of bytes, in bounded memory and without recursion.
//! The library `yrs` orders elements as it takes them in, follows pointers between them while it does, and recurses
//! into what is nested, so that one crafted update of some hundred kilobytes ends the process; tests hold this module
//! against it.

mod arrangement;
mod awareness;
mod document;
mod elements;
mod lib0;
mod limits;
mod ranges;
mod restoring;
mod room;
mod structs;
mod update;
mod wire;

pub use lib0::MalformedYjs;
pub use limits::YjsLimits;
pub use room::{YjsError, YjsRoom};
