//! Every limit of a bundle, with its unit, in one place.

use std::time::Duration;

/// What a bundle may use. Times are those that a thread has computed, so that a busy machine fails nobody.
#[derive(Clone, Debug)]
pub struct SchemaLimits {
    /// The largest bundle, in bytes.
    pub bundle_bytes: usize,
    /// How long a bundle may take to load, and then to describe itself.
    pub load: Duration,
    /// How long a question about the records of one push, or about a schema alone, may take.
    pub push: Duration,
    /// How long a question about a whole document may take.
    pub document: Duration,
    /// How much memory a context may have, in bytes.
    pub memory_bytes: usize,
    /// How much stack a call may use, in bytes.
    pub stack_bytes: usize,
    /// How many threads answer, each with a context of its own. One of several is kept for questions that are not about a
    /// whole document.
    pub threads: usize,
    /// How many questions may wait for a thread; who has another one waits to ask it.
    pub questions: usize,
    /// How many bytes of questions about schemas alone are kept, with their answers.
    pub kept_bytes: usize,
}

impl Default for SchemaLimits {
    fn default() -> SchemaLimits {
        SchemaLimits {
            bundle_bytes: 8 << 20,
            load: Duration::from_secs(5),
            push: Duration::from_secs(1),
            document: Duration::from_secs(10),
            memory_bytes: 512 << 20,
            stack_bytes: 1 << 20,
            threads: 2,
            questions: 1_024,
            kept_bytes: 1 << 20,
        }
    }
}
