//! The task that owns the stream. It hands every transaction to every engine, in order, waiting where
//! an engine is behind, so that Postgres is held up and not our memory; and it confirms to Postgres
//! what all engines have taken in. What ends the stream is said, waited out with growing pauses, and
//! begun again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rand::Rng;
use rowtide_engine::Input;
use rowtide_postgres::connect::connect;
use rowtide_postgres::stream::{Stream, StreamError, StreamEvent, create_slot, drop_slot};
use rowtide_protocol::Lsn;

use super::engine_thread::Command;
use super::{Generation, Shared, Status};

/// The pause after the first failure; it doubles with each.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// How many events that are there already are handed on together.
const BATCH: usize = 64;

pub(super) async fn run(shared: Arc<Shared>) {
    let stop = shared.stop.clone();
    let mut pause = MIN_PAUSE;
    while !stop.is_cancelled() {
        let streamed = stop.run_until_cancelled(stream_until_it_ends(&shared, &mut pause)).await;
        let Some(error) = streamed else { break };
        if let Some(error) = error {
            shared.set_status(Status::Waiting(error.to_string()));
            tracing::warn!(%error, ?pause, "the stream is interrupted");
            if let Err(error) = mend(&shared, &error).await {
                tracing::warn!(%error, "cannot mend the stream yet");
            }
            let jitter = rand::rng().random_range(0.5..1.0);
            let wait = tokio::time::sleep(pause.mul_f64(jitter));
            if stop.run_until_cancelled(wait).await.is_none() {
                break;
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
    shared.generation().stop.cancel();
}

/// Streams into the current generation. `None` when another has begun.
async fn stream_until_it_ends(shared: &Shared, pause: &mut Duration) -> Option<StreamError> {
    let generation = shared.generation();
    let options = &shared.options;
    let started =
        Stream::start(&options.database, &options.names, Arc::clone(&generation.plan)).await;
    let (mut stream, end) = match started {
        Ok(started) => started,
        Err(error) => return Some(error),
    };
    tracing::info!(slot = options.names.slot, "streaming");
    *pause = MIN_PAUSE;
    let ended = feed(shared, &generation, &mut stream, end).await;
    stream.stop().await;
    ended
}

async fn feed(
    shared: &Shared,
    generation: &Generation,
    stream: &mut Stream,
    end: Lsn,
) -> Option<StreamError> {
    loop {
        let first = tokio::select! {
            event = stream.next() => event,
            () = generation.schema_changed.notified() => {
                Err(StreamError::SchemaChanged {
                    table: "a loaded table".to_owned(),
                    what: "a load did not fit it".to_owned(),
                })
            }
            () = shared.stop.cancelled() => return None,
        };
        let Gathered { inputs, reached, error } = gather(first, stream);
        if !inputs.is_empty() {
            for engine in &generation.engines {
                if engine.commands.send(Command::Stream(inputs.clone())).await.is_err() {
                    return None;
                }
            }
        }
        if reached >= end {
            shared.set_status(Status::Streaming);
        }
        stream.confirm(generation.position());
        match error {
            None => {}
            Some(error @ StreamError::SchemaChanged { .. }) => {
                tracing::warn!(%error, "reading the catalog again");
                match shared.renew(false).await {
                    // The stream tells of a shape from before the catalog was read. Whatever was
                    // written then is seen by every load since, so it is passed over.
                    Ok(false) => {}
                    Ok(true) => return None,
                    Err(error) => return Some(StreamError::Ended(error.to_string())),
                }
            }
            Some(error) => return Some(error),
        }
    }
}

/// What was there at once.
struct Gathered {
    inputs: Vec<Input>,
    /// The position after them.
    reached: Lsn,
    error: Option<StreamError>,
}

/// The first event and those that need not be waited for, up to an error: handing on each by itself
/// would wake every engine for each.
fn gather(first: Result<StreamEvent, StreamError>, stream: &mut Stream) -> Gathered {
    let mut gathered = Gathered { inputs: Vec::new(), reached: Lsn(0), error: None };
    let mut next = Some(first);
    while let Some(event) = next {
        let (input, lsn) = match event {
            Ok(StreamEvent::Transaction(transaction)) => {
                let lsn = transaction.lsn;
                (Input::Transaction(Arc::new(transaction)), lsn)
            }
            Ok(StreamEvent::Position(lsn)) => (Input::Position(lsn), lsn),
            Err(error) => return Gathered { error: Some(error), ..gathered },
        };
        gathered.inputs.push(input);
        gathered.reached = lsn;
        let more = gathered.inputs.len() < BATCH;
        next = more.then(|| stream.next().now_or_never()).flatten();
    }
    gathered
}

/// What can be done about a stream that does not start.
async fn mend(shared: &Shared, error: &StreamError) -> Result<(), super::HubError> {
    let slot = &shared.options.names.slot;
    let lost = matches!(error, StreamError::SlotLost(_));
    if !lost && !matches!(error, StreamError::SlotMissing(_)) {
        return Ok(());
    }
    let client = connect(&shared.options.database, "slot").await?;
    if lost {
        drop_slot(&client, slot).await?;
    }
    create_slot(&client, slot).await?;
    tracing::error!(slot, "the replication slot was gone: a new one begins a new epoch");
    // What was committed in between was not streamed, so nothing that is held is true any more.
    shared.renew(true).await?;
    Ok(())
}
