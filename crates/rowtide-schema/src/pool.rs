//! Threads that answer questions, each with a context of its own. Questions wait in one queue, which is bounded, and fair
//! to those who ask; each is answered by whichever thread is free. One thread, if there are several, is kept for what is
//! not about a whole document.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::bundle::{Bundle, spawn};
use crate::context::BundleContext;
use crate::kept::KeptAnswers;
use crate::limits::SchemaLimits;
use crate::question::{Scale, SchemaQuestion, Unanswered};
use crate::queue::{FairQueue, Turn};

type Answer = Result<Bytes, Unanswered>;

#[derive(Debug)]
struct Asked {
    question: SchemaQuestion,
    done: oneshot::Sender<Answer>,
    _place: OwnedSemaphorePermit,
}

/// Answers questions with a bundle. Cheap to clone; its threads end with the last one.
#[derive(Clone, Debug)]
pub struct SchemaPool {
    askers: Arc<Askers>,
    bundle: Bundle,
}

/// The end of those who ask. The threads end when it is dropped.
#[derive(Debug)]
struct Askers {
    desk: Arc<Desk>,
    /// Places in the queue.
    places: Arc<Semaphore>,
    kept: Mutex<KeptAnswers>,
}

/// What passes between those who ask and the threads.
#[derive(Debug)]
struct Desk {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug)]
struct Queue {
    waiting: FairQueue<Asked>,
    /// Nobody will ask any more.
    is_over: bool,
}

impl Desk {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Askers {
    fn drop(&mut self) {
        self.desk.queue().is_over = true;
        self.desk.changed.notify_all();
    }
}

impl SchemaPool {
    /// Starts the threads.
    ///
    /// # Errors
    /// If there are no threads to be had.
    pub fn start(bundle: Bundle, limits: &SchemaLimits) -> std::io::Result<SchemaPool> {
        let threads = limits.threads.max(1);
        let waiting = FairQueue::new((threads - 1).max(1));
        let queue = Mutex::new(Queue { waiting, is_over: false });
        let desk = Arc::new(Desk { queue, changed: Condvar::new() });
        let askers = Arc::new(Askers {
            desk: Arc::clone(&desk),
            places: Arc::new(Semaphore::new(limits.questions.max(1))),
            kept: Mutex::new(KeptAnswers::new(limits.kept_bytes)),
        });
        for n in 0..threads {
            let (desk, bundle, limits) = (Arc::clone(&desk), bundle.clone(), limits.clone());
            let worker = Worker { desk, bundle, limits: limits.clone() };
            spawn(format!("schema-{n}"), &limits, move || worker.run())?;
        }
        Ok(SchemaPool { askers, bundle })
    }

    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Asks a question for a document, which `asker` names: it waits for one question at the most of each other one that
    /// asks. One document's questions are answered in their order.
    ///
    /// # Errors
    /// If it has no answer within its limits.
    pub async fn ask(
        &self,
        asker: &Arc<str>,
        question: SchemaQuestion,
    ) -> Result<Bytes, Unanswered> {
        let to_keep = (question.scale == Scale::Schema).then(|| question.text.clone());
        if let Some(answer) = to_keep.as_ref().and_then(|text| self.kept().get(text)) {
            return Ok(answer);
        }
        let places = Arc::clone(&self.askers.places);
        let place = places.acquire_owned().await.map_err(|_| Unanswered::Ended)?;
        let (done, answer) = oneshot::channel();
        let scale = question.scale;
        let asked = Asked { question, done, _place: place };
        let desk = &self.askers.desk;
        desk.queue().waiting.put(asker, scale, asked);
        // Whichever thread is woken by one alone might be none that can answer it.
        desk.changed.notify_all();
        let answer = answer.await.unwrap_or(Err(Unanswered::Ended))?;
        if let Some(text) = to_keep {
            self.kept().keep(text, answer.clone());
        }
        Ok(answer)
    }

    fn kept(&self) -> MutexGuard<'_, KeptAnswers> {
        self.askers.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker {
    desk: Arc<Desk>,
    bundle: Bundle,
    limits: SchemaLimits,
}

impl Worker {
    fn run(self) {
        // None before the first question, and after one that was too much.
        let mut context = None;
        while let Some((turn, Asked { question, done, _place: place })) = self.next() {
            drop(place);
            // Otherwise nobody waits for it any more.
            if !done.is_closed() {
                let answered =
                    catch_unwind(AssertUnwindSafe(|| self.answer(&question, &mut context)));
                let answer = answered.unwrap_or_else(|_| {
                    Err(Unanswered::Failed("the interpreter failed".to_owned()))
                });
                if answer.is_err() {
                    context = None;
                }
                done.send(answer).ok();
            }
            self.desk.queue().waiting.end(turn);
            self.desk.changed.notify_all();
        }
    }

    /// The next question; none once nobody can ask.
    fn next(&self) -> Option<(Turn, Asked)> {
        let mut queue = self.desk.queue();
        loop {
            if queue.is_over {
                return None;
            }
            if let Some(next) = queue.waiting.next() {
                return Some(next);
            }
            queue = self.desk.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn answer(&self, question: &SchemaQuestion, context: &mut Option<BundleContext>) -> Answer {
        let text = std::str::from_utf8(&question.text)
            .map_err(|error| Unanswered::Failed(error.to_string()))?;
        let context = match context {
            Some(context) => context,
            None => context.insert(BundleContext::load(&self.bundle.source, &self.limits)?),
        };
        let within = match question.scale {
            Scale::Schema | Scale::Push => self.limits.push,
            Scale::Document => self.limits.document,
        };
        context.answer(text, within).map(Bytes::from)
    }
}
