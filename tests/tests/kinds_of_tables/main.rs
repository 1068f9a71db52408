//! Tables as people have them: generated columns, partitions, inheritance, keys that are deferred or none, types that
//! change, other encodings. Each is served right, whoever connects and whenever, or is rejected by name: by `rowtide
//! check`, by `rowtide setup` before it has changed anything, and by a server that runs. What the application itself
//! writes never fails for it.

mod generated;
mod hidden;
mod int8;
mod keys;
mod kit;
mod partitions;
mod rejected;
mod types;
