//! What may be written to the log, whatever its filter says: neither tokens nor values of rows. Our own messages hold
//! none. Libraries do not know what is secret here (the driver logs the parameters of statements at `debug`, that of
//! WebSockets whole frames at `trace`), so of them only warnings and errors are let through.

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

/// A layer that is given what `filter` lets through, and nothing that could hold a value.
pub fn without_values<S>(
    filter: &str,
    layer: impl Layer<S> + Send + Sync + 'static,
) -> impl Layer<S> + Send + Sync + 'static
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync + 'static,
{
    layer.with_filter(filter_fn(holds_no_values)).with_filter(EnvFilter::new(filter))
}

fn holds_no_values(event: &Metadata<'_>) -> bool {
    let krate = event.target().split("::").next().unwrap_or_default();
    let is_ours = krate == "rowtide" || krate.starts_with("rowtide_");
    is_ours || *event.level() <= Level::WARN
}
