//! Where large things are dropped. To let half a million rows go takes tens of milliseconds, and neither an
//! engine nor a session may make others wait for that; so they are handed to a thread that has nothing else
//! to do.

use std::sync::mpsc::{Sender, channel};

/// The way to the thread, which ends with the last of these.
#[derive(Clone, Debug)]
pub(super) struct Garbage(Sender<Box<dyn Send>>);

impl Garbage {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system gives none.
    pub(super) fn start() -> std::io::Result<Garbage> {
        let (sender, garbage) = channel::<Box<dyn Send>>();
        let drop_all = move || garbage.into_iter().for_each(drop);
        std::thread::Builder::new().name("garbage".to_owned()).spawn(drop_all)?;
        Ok(Garbage(sender))
    }

    /// Has it dropped, soon.
    pub(super) fn throw(&self, thing: impl Send + 'static) {
        // If the thread is not there any more, it is dropped here.
        drop(self.0.send(Box::new(thing)));
    }
}
