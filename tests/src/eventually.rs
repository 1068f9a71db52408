//! Waiting with a deadline: a test asks again and again, is as fast as what it waits for, and fails
//! with what it was waiting for.

use std::time::{Duration, Instant};

/// How long something that must happen may take: nobody waits so long for what happens, also where a machine is busy
/// with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until the answer is `Some`, and returns what is in it.
///
/// # Panics
/// When there is none within [`PATIENCE`]; `what` is then in the message.
#[track_caller]
pub fn eventually<T, F>(what: &str, ask: impl FnMut() -> F) -> impl Future<Output = T>
where
    F: Future<Output = Option<T>>,
{
    let place = std::panic::Location::caller();
    until(what.to_owned(), place, ask)
}

async fn until<T, F>(
    what: String,
    place: &'static std::panic::Location<'static>,
    mut ask: impl FnMut() -> F,
) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what} ({place})");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
