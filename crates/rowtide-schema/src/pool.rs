//! Threads that answer questions, each with a context of its own. Questions stand in one row, which is bounded; each is
//! answered by whichever thread is free.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::bundle::{Bundle, spawn};
use crate::context::BundleContext;
use crate::limits::SchemaLimits;
use crate::question::{Scale, SchemaQuestion, Unanswered};

type Answer = Result<Bytes, Unanswered>;

struct Asked {
    question: SchemaQuestion,
    done: oneshot::Sender<Answer>,
}

/// Answers questions with a bundle. Cheap to clone; its threads end with the last one.
#[derive(Clone, Debug)]
pub struct SchemaPool {
    row: mpsc::Sender<Asked>,
    bundle: Bundle,
}

impl SchemaPool {
    /// Starts the threads.
    ///
    /// # Errors
    /// If there are no threads to be had.
    pub fn start(bundle: Bundle, limits: &SchemaLimits) -> std::io::Result<SchemaPool> {
        let (row, asked) = mpsc::channel(limits.questions.max(1));
        let asked = Arc::new(Mutex::new(asked));
        for n in 0..limits.threads.max(1) {
            let worker = Worker {
                asked: Arc::clone(&asked),
                bundle: bundle.clone(),
                limits: limits.clone(),
            };
            spawn(format!("schema-{n}"), limits, move || worker.run())?;
        }
        Ok(SchemaPool { row, bundle })
    }

    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Asks a question. Waits as long as too many others do.
    ///
    /// # Errors
    /// If it has no answer within its limits.
    pub async fn ask(&self, question: SchemaQuestion) -> Result<Bytes, Unanswered> {
        let (done, answer) = oneshot::channel();
        let asked = Asked { question, done };
        self.row.send(asked).await.map_err(|_| Unanswered::Ended)?;
        answer.await.unwrap_or(Err(Unanswered::Ended))
    }
}

struct Worker {
    asked: Arc<Mutex<mpsc::Receiver<Asked>>>,
    bundle: Bundle,
    limits: SchemaLimits,
}

impl Worker {
    fn run(self) {
        // None before the first question, and after one that was too much.
        let mut context = None;
        while let Some(Asked { question, done }) = self.next() {
            // Nobody waits for it any more.
            if done.is_closed() {
                continue;
            }
            let answered = catch_unwind(AssertUnwindSafe(|| self.answer(&question, &mut context)));
            let answer = answered
                .unwrap_or_else(|_| Err(Unanswered::Failed("the interpreter failed".to_owned())));
            if answer.is_err() {
                context = None;
            }
            done.send(answer).ok();
        }
    }

    fn next(&self) -> Option<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv()
    }

    fn answer(&self, question: &SchemaQuestion, context: &mut Option<BundleContext>) -> Answer {
        let text = std::str::from_utf8(&question.text)
            .map_err(|error| Unanswered::Failed(error.to_string()))?;
        let context = match context {
            Some(context) => context,
            None => context.insert(BundleContext::load(&self.bundle.source, &self.limits)?),
        };
        let within = match question.scale {
            Scale::Push => self.limits.push,
            Scale::Document => self.limits.document,
        };
        context.answer(text, within).map(Bytes::from)
    }
}
