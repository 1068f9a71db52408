//! Asks the database what became of mutations that older clients have named, for many tabs with one statement, and
//! notes what they have heard. Nobody waits for it with their rows: while the database is away, or a mutation of the
//! user is being acknowledged, it is asked again. See [`rowtide_postgres::named_outcomes`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rowtide_postgres::connect::{ConnectOptions, Names, connect, reason};
use rowtide_postgres::named_outcomes::{NamedOutcome, Tab, Told, mark_told, outcomes_of};
use rowtide_postgres::said_once::SaidOnce;
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::limits::{CLAIM_BATCH, CLAIM_COLLECT, OUTCOMES_MAX_PAUSE, OUTCOMES_PAUSE, TOLD_WAITING};

/// A tab that waits for an answer.
struct Question {
    tab: Tab,
    reply: oneshot::Sender<Vec<NamedOutcome>>,
}

#[derive(Default)]
struct Waiting {
    questions: Vec<Question>,
    told: Vec<Told>,
}

#[derive(Default)]
struct Inbox {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Whole between any two statements that hold it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way to what became of named mutations. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outcomes {
    inbox: Arc<Inbox>,
}

impl Outcomes {
    /// Starts the task that asks; it ends with `ends`.
    pub(crate) fn start(
        database: ConnectOptions,
        names: Names,
        ends: CancellationToken,
    ) -> Outcomes {
        let inbox = Arc::new(Inbox::default());
        let (client, said) = (None, SaidOnce::default());
        let task = Task { inbox: Arc::clone(&inbox), database, names, client, said };
        tokio::spawn(async move { ends.run_until_cancelled(task.run()).await });
        Outcomes { inbox }
    }

    /// What became of the mutations of a tab that it is not known to have heard of, however long it takes to know.
    /// Whoever drops it does not ask any more.
    pub(crate) async fn ask(&self, tab: Tab) -> Vec<NamedOutcome> {
        let (reply, answer) = oneshot::channel();
        self.inbox.lock().questions.push(Question { tab, reply });
        self.inbox.changed.notify_one();
        match answer.await {
            Ok(outcomes) => outcomes,
            // The server has ended.
            Err(_) => std::future::pending().await,
        }
    }

    /// Notes what tabs have heard. Best effort: what is not noted is told once more.
    pub(crate) fn note(&self, told: Vec<Told>) {
        let mut waiting = self.inbox.lock();
        let room = TOLD_WAITING.saturating_sub(waiting.told.len());
        waiting.told.extend(told.into_iter().take(room));
        drop(waiting);
        self.inbox.changed.notify_one();
    }
}

struct Task {
    inbox: Arc<Inbox>,
    database: ConnectOptions,
    names: Names,
    client: Option<Client>,
    said: SaidOnce,
}

impl Task {
    async fn run(mut self) {
        let mut pause = OUTCOMES_PAUSE;
        loop {
            self.inbox.changed.notified().await;
            sleep(CLAIM_COLLECT).await;
            while let Some((questions, told)) = self.take() {
                match self.round(questions, &told).await {
                    Ok(again) => {
                        self.said.clear();
                        pause = OUTCOMES_PAUSE;
                        if !again.is_empty() {
                            self.inbox.lock().questions.extend(again);
                            sleep(OUTCOMES_PAUSE).await;
                        }
                    }
                    Err((error, questions)) => {
                        if self.said.is_new(&error) {
                            tracing::warn!(error, "cannot look up the mutations of older clients");
                        }
                        self.client = None;
                        self.put_back(questions, told);
                        pause = (pause * 2).min(OUTCOMES_MAX_PAUSE);
                        sleep(pause).await;
                    }
                }
            }
        }
    }

    /// Nothing has come of these.
    fn put_back(&self, questions: Vec<Question>, told: Vec<Told>) {
        let mut waiting = self.inbox.lock();
        waiting.questions.extend(questions);
        // Before what was noted since.
        waiting.told.splice(..0, told);
        waiting.told.truncate(TOLD_WAITING);
    }

    /// What is to be done together; `None` if nothing waits.
    fn take(&self) -> Option<(Vec<Question>, Vec<Told>)> {
        let mut waiting = self.inbox.lock();
        waiting.questions.retain(|question| !question.reply.is_closed());
        if waiting.questions.is_empty() && waiting.told.is_empty() {
            return None;
        }
        let most = CLAIM_BATCH.min(waiting.questions.len());
        let questions = waiting.questions.drain(..most).collect();
        let most = CLAIM_BATCH.min(waiting.told.len());
        let told = waiting.told.drain(..most).collect();
        Some((questions, told))
    }

    /// Returns the questions that must be asked again; all of them with an error.
    async fn round(
        &mut self,
        questions: Vec<Question>,
        told: &[Told],
    ) -> Result<Vec<Question>, (String, Vec<Question>)> {
        let tabs: Vec<Tab> = questions.iter().map(|question| question.tab.clone()).collect();
        let answers = match self.ask_all(&tabs, told).await {
            Ok(answers) => answers,
            Err(error) => return Err((error, questions)),
        };
        let mut again = Vec::new();
        for (question, answer) in questions.into_iter().zip(answers) {
            match answer {
                // A tab that has gone asks again when it is back.
                Some(outcomes) => drop(question.reply.send(outcomes)),
                None => again.push(question),
            }
        }
        Ok(again)
    }

    async fn ask_all(
        &mut self,
        tabs: &[Tab],
        told: &[Told],
    ) -> Result<Vec<Option<Vec<NamedOutcome>>>, String> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            let connected = connect(&self.database, "outcomes").await;
            self.client = Some(connected.map_err(|error| error.to_string())?);
        }
        let Some(client) = &mut self.client else { return Err("not connected".to_owned()) };
        let failed = |error: tokio_postgres::Error| reason(&error);
        // What a tab has heard before it came back is not told it again.
        mark_told(client, &self.names, told).await.map_err(failed)?;
        if tabs.is_empty() {
            return Ok(Vec::new());
        }
        outcomes_of(client, &self.names, tabs).await.map_err(failed)
    }
}
