//! Live documents beside live rows.
//!
//! A document belongs to a row, and several people edit it at once in a *room*, the authoritative
//! copy. A room is a state machine without I/O, clock or randomness: [`place`] has the words that
//! the rooms of both protocols share, [`tlsync`] and [`yjs`] are these rooms. The [`host`] keeps rooms awake while
//! somebody is in them, makes every edit durable in its [`journal`] before its result is told, and stores the documents
//! as objects.

pub mod host;
pub mod journal;
pub mod place;
pub mod tlsync;
pub mod yjs;
