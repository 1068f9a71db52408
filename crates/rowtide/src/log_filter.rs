//! What may be written to the log, whatever its filter says: neither tokens nor values of rows. Our own messages hold
//! none. Libraries do not know what is secret here (the driver logs the parameters of statements at `debug`, that of
//! WebSockets whole frames at `trace`), so of them only warnings and errors are let through.

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

/// A layer that is given what `filter` lets through, and nothing that could hold a value.
pub fn without_values<S>(
    filter: EnvFilter,
    layer: impl Layer<S> + Send + Sync + 'static,
) -> impl Layer<S> + Send + Sync + 'static
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync + 'static,
{
    layer.with_filter(filter_fn(holds_no_values)).with_filter(filter)
}

/// What to log, as it is given: a level, or levels by part, such as `info,rowtide_gateway=debug`.
///
/// # Errors
/// What is wrong with it. A word that is no level would be taken for a part, and nothing else be logged.
pub fn read_filter(given: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let parts = || given.split(',').map(str::trim).filter(|part| !part.is_empty());
    let is_word = |part: &&str| part.chars().all(|c| c.is_ascii_alphanumeric());
    let is_number = |word: &str| matches!(word, "0" | "1" | "2" | "3" | "4" | "5");
    let unknown = parts().filter(is_word).find(|word| {
        !is_number(word)
            && !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word))
            && !word.starts_with("rowtide")
    });
    if let Some(word) = unknown {
        return Err(format!("`{word}` is no level (one of {})", LEVELS.join(", ")));
    }
    EnvFilter::builder().parse(given).map_err(|error| error.to_string())
}

fn holds_no_values(event: &Metadata<'_>) -> bool {
    let krate = event.target().split("::").next().unwrap_or_default();
    let is_ours = krate == "rowtide" || krate.starts_with("rowtide_");
    is_ours || *event.level() <= Level::WARN
}
