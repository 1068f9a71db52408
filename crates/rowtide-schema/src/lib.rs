//! An application's own schema for its documents of tldraw: which records there are, whether one is valid, and how
//! one of an older version becomes one of a newer, or the other way round.
//!
//! Only code of the application knows that, so it hands over a [`Bundle`]: one file of JavaScript. It runs in QuickJS,
//! where it has the language and nothing else: no files, no network, no timers. Each thread of a [`SchemaPool`] has a
//! context of its own; a call has so much time and memory, and a context that has used up either is thrown away and
//! made anew. A bundle is taken to say the same to the same question, whichever context it is asked in.

mod bundle;
mod context;
mod kept;
mod limits;
mod pool;
mod question;
mod queue;

pub use bundle::{Bundle, BundleError};
pub use limits::SchemaLimits;
pub use pool::SchemaPool;
pub use question::{Scale, SchemaQuestion, Unanswered};
