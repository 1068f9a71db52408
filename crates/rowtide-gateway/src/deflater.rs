//! Deflates frames beside the threads that serve sockets. Few frames are deflated at a time, each a stretch of about a
//! millisecond, and who comes first has the next turn: so a session waits for a stretch of each of the others at the
//! most, however large their frames are.

use std::sync::Arc;
use std::thread::available_parallelism;

use rowtide_protocol::TextFrame;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::limits::PROCESSORS_PER_DEFLATING;

/// Where turns at deflating are had. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Deflater {
    turns: Arc<Semaphore>,
}

impl Deflater {
    /// One for this machine.
    pub(crate) fn start() -> Deflater {
        let processors = available_parallelism().map_or(1, usize::from);
        Deflater { turns: Arc::new(Semaphore::new((processors / PROCESSORS_PER_DEFLATING).max(1))) }
    }

    /// Waits until the frame is deflated, or cannot be. Cancel safe: what was done already is not done again.
    pub(crate) async fn deflate(&self, frame: TextFrame) {
        while frame.wants_deflating() {
            let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await else { return };
            // Others who send the same may have had their turns meanwhile.
            if !frame.wants_deflating() {
                return;
            }
            let part = frame.clone();
            let stretch = spawn_blocking(move || {
                let is_done = part.deflate_a_stretch();
                drop(turn);
                is_done
            });
            // Without it the text is sent.
            if !matches!(stretch.await, Ok(false)) {
                return;
            }
        }
    }
}
