//! One session's send queue between two threads: the engine's, which fills it, and the session's, which waits for
//! it. Frames are made without the lock, because engines wait for that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rowtide_plan::plan::Plan;
use rowtide_protocol::ErrorCode;
use tokio::sync::Notify;

use crate::send_queue::{Delivery, Dequeued, Item, Made, SendQueue, SessionStep};
use crate::worker::Sink;

/// A shared send queue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outlet {
    shared: Arc<Sides>,
}

#[derive(Debug)]
struct Sides {
    plan: Arc<Plan>,
    queue: Mutex<SendQueue>,
    filled: Notify,
}

impl Outlet {
    /// A shared queue of messages of a plan.
    pub fn new(plan: Arc<Plan>, queue: SendQueue) -> Outlet {
        Outlet { shared: Arc::new(Sides { plan, queue: Mutex::new(queue), filled: Notify::new() }) }
    }

    /// The plan that its messages are of.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.shared.plan
    }

    fn lock(&self) -> MutexGuard<'_, SendQueue> {
        // A queue is whole between any two statements that hold it.
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is something that was not there before. Cancel safe.
    pub async fn filled(&self) {
        self.shared.filled.notified().await;
    }

    /// The next delivery that is there. A session takes either deliveries or steps.
    pub fn try_next(&self) -> Option<Delivery> {
        self.make(|taken| taken.into_delivery(&self.shared.plan))
    }

    /// The next step that is there.
    pub fn try_next_step(&self) -> Option<SessionStep> {
        self.make(Dequeued::into_step)
    }

    fn make<T>(&self, make: impl Fn(Dequeued) -> Made<T>) -> Option<T> {
        loop {
            let taken = self.lock().take()?;
            let Made { said, then } = make(taken);
            self.lock().then(then);
            if said.is_some() {
                return said;
            }
        }
    }

    /// The lock, to see what happens to those who wait for it.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> MutexGuard<'_, SendQueue> {
        self.lock()
    }
}

impl Sink for Outlet {
    fn push(&mut self, item: Item) -> bool {
        let mut queue = self.lock();
        let wake = queue.push(item);
        let warning = queue.take_warning();
        drop(queue);
        if let Some(waiting) = warning {
            tracing::warn!(waiting, "a client reads slowly and will be sent away at the limit");
        }
        wake
    }

    fn close(&mut self, code: ErrorCode, message: &str) {
        if self.lock().close(code, message) {
            self.wake();
        }
    }

    fn wake(&self) {
        self.shared.filled.notify_one();
    }
}
