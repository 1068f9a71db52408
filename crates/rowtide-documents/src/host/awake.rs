//! One room that is awake: a task that takes requests one after the other, carries out what the room answers, and saves
//! the document.
//!
//! What follows an edit waits until the edit is durable. If an edit cannot be made durable, the room knows more than
//! the disk does: then everyone is sent away to come back, and the room is opened again from what is durable. While
//! the journal cannot be written, or saves have failed for long, nobody may edit.

mod carrying;
mod storing;

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use super::mailbox::{DocumentError, Done, Inbox, Request};
use super::naming::DocumentId;
use super::objects::{ObjectVersion, SaveError};
use super::opening::{OpenError, open};
use super::outbox::{Outbox, frame_bytes};
use super::putting_back::put_back;
use super::room::Room;
use super::saving::SavePlan;
use super::shared::Shared;
use super::telemetry;
use crate::journal::{JournalState, Refused};
use crate::place::{Access, Closing, Effect, Reason, Socket};
use carrying::{Waiting, first_receipt};
use storing::{Save, first_save};

/// A message that is longer is read on a thread of its own, so that other rooms need not wait.
const HEAVY_MESSAGE: usize = 64 << 10;

/// So is every message to a document that is larger.
const HEAVY_DOCUMENT: usize = 4 << 20;

/// How often a room that has nothing to do looks whether those who were about to ask it for something have gone.
const LINGER: Duration = Duration::from_secs(1);

/// A socket that is there.
#[derive(Debug)]
struct Member {
    outbox: Outbox,
    access: Access,
    _counted: Counted,
}

/// Counts a socket for as long as it is there.
#[derive(Debug)]
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Counted {
        shared.sessions.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a room ends.
#[derive(Debug)]
enum End {
    /// It knows of edits that are not durable.
    Broken,
    /// Another server has written the document, which is to be opened with what that one has made of it.
    Superseded,
    /// The document is deleted.
    Forgotten(Done),
    /// Everything is saved, and the host stops.
    Stopped,
}

#[derive(Debug)]
struct AwakeTask {
    shared: Arc<Shared>,
    document: DocumentId,
    /// Its name in the journal.
    key: Arc<str>,
    room: Room,
    inbox: Inbox,
    journal: watch::Receiver<JournalState>,
    /// How often the journal had failed when the room was opened: what follows on a lost edit is not written.
    failures: u64,
    members: BTreeMap<Socket, Member>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    plan: SavePlan,
    save: Option<Save>,
    /// The object that the next save follows on, if there is one.
    version: Option<ObjectVersion>,
    /// The clock up to which the document is saved, or being saved.
    covered: u64,
    /// The last edit that is durable.
    number: u64,
    unsaved_bytes: usize,
    /// Who waits for a save that has not begun.
    asked: Vec<Done>,
    last_history: Option<SystemTime>,
    /// Nobody has ever edited it.
    is_new: bool,
    /// The next save is for the history too.
    for_history: bool,
    /// Nobody may edit now.
    refusing: bool,
    stopping: bool,
    end: Option<End>,
}

enum Event {
    Durable(Result<u64, Refused>),
    Saved(Result<ObjectVersion, SaveError>),
    Asked(Option<Request>),
    Journal,
    Due,
}

/// Keeps a room awake for as long as it is of use.
pub(super) async fn keep_awake(shared: Arc<Shared>, document: DocumentId, mut inbox: Inbox) {
    let since = Instant::now();
    match open(&shared, &document).await {
        Ok(opened) => {
            telemetry::opened(since.elapsed());
            shared.open_succeeded(&document);
            let limits = &shared.limits;
            let plan = SavePlan::new(limits.save_after, limits.save_retry, limits.save_retry_max);
            let mut task = AwakeTask {
                key: document.key(),
                room: opened.room,
                inbox,
                journal: shared.journal.state(),
                failures: opened.failures,
                members: BTreeMap::new(),
                waiting: VecDeque::new(),
                waiting_bytes: 0,
                plan,
                save: None,
                version: opened.version,
                covered: opened.saved_clock,
                number: opened.number,
                unsaved_bytes: 0,
                asked: Vec::new(),
                is_new: opened.is_new,
                last_history: opened.last_history,
                for_history: false,
                refusing: false,
                stopping: false,
                end: None,
                document,
                shared,
            };
            task.add_unsaved(opened.edit_bytes);
            task.take(opened.effects).await;
            task.live().await;
        }
        Err(error) => {
            telemetry::open_failed();
            if shared.open_failed(&document, error.to_string()) {
                tracing::error!(%document, %error, "a document cannot be opened");
            }
            let mut newer = matches!(error, OpenError::Newer(_));
            let why = |newer| if newer { DocumentError::Newer } else { DocumentError::Unopened };
            // As long as it has the mailbox nobody else opens the document, or writes it.
            while !inbox.is_empty()
                && let Some(request) = inbox.next().await
            {
                match request {
                    Request::PutBack { snapshot, done } if error.is_of_the_document() => {
                        let is_back = put_back(&shared, &document, snapshot).await;
                        // Whoever comes back can come to it then.
                        newer &= is_back.is_err();
                        done.send(is_back).ok();
                    }
                    // Of what is being deleted nothing is written any more.
                    Request::Forget { done } => {
                        done.send(Ok(())).ok();
                        break;
                    }
                    other => refuse(other, why(newer)),
                }
            }
            shared.gone(&document);
            turn_away(&mut inbox, || why(newer)).await;
        }
    }
}

/// Answers what was still asked of a room that is no more.
async fn turn_away(inbox: &mut Inbox, why: impl Fn() -> DocumentError) {
    inbox.close();
    while let Some(request) = inbox.next().await {
        refuse(request, why());
    }
}

fn refuse(request: Request, why: DocumentError) {
    match request {
        Request::Join { done, .. }
        | Request::Rename { done, .. }
        | Request::Save { done, .. }
        | Request::Restore { done, .. }
        | Request::PutBack { done, .. } => {
            done.send(Err(why)).ok();
        }
        Request::Forget { done } => {
            done.send(Ok(())).ok();
        }
        _ => {}
    }
}

impl AwakeTask {
    fn now(&self) -> Duration {
        self.shared.now()
    }

    async fn live(mut self) {
        self.refresh_refusing().await;
        self.plan_save();
        loop {
            self.begin_save_if_due().await;
            if let Some(end) = self.end.take() {
                return self.end(end).await;
            }
            if self.is_idle() {
                if self.stopping {
                    return self.end(End::Stopped).await;
                }
                if self.shared.retire(&self.document, &self.inbox) {
                    return;
                }
            }
            let event = self.next_event().await;
            match event {
                Event::Durable(result) => self.durable(result).await,
                Event::Saved(result) => self.saved(result).await,
                Event::Journal => self.refresh_refusing().await,
                Event::Due => {
                    let now = self.now();
                    let effects = self.room.tick(now);
                    self.take(effects).await;
                }
                Event::Asked(Some(request)) => self.answer(request).await,
                Event::Asked(None) => return self.end(End::Broken).await,
            }
            self.plan_save();
        }
    }

    async fn next_event(&mut self) -> Event {
        let now = self.now();
        let saves = if self.save.is_none() { self.plan.due() } else { None };
        let lingers = self.is_idle().then_some(now + LINGER);
        // What is due already waits for an edit to be durable, or is done as soon as this returns.
        let saves = saves.filter(|due| *due > now);
        let due = [self.room.next_tick(), saves, lingers].into_iter().flatten().min();
        let due = due.map(|due| self.shared.instant(due));
        let holding = self.is_holding();
        tokio::select! {
            biased;
            result = first_receipt(&mut self.waiting) => Event::Durable(result),
            result = first_save(&mut self.save) => Event::Saved(result),
            Ok(()) = self.journal.changed() => Event::Journal,
            () = wait_until(due) => Event::Due,
            request = self.inbox.next(), if !holding => Event::Asked(request),
        }
    }

    /// Whether nothing more is heard until edits are durable: because many wait, or so that a save can begin.
    fn is_holding(&self) -> bool {
        let save_due = self.save.is_none() && self.plan.due().is_some_and(|due| due <= self.now());
        self.waiting_bytes > self.shared.limits.waiting_bytes
            || (save_due && !self.waiting.is_empty())
    }

    fn is_dirty(&self) -> bool {
        self.room.clock() != self.covered
    }

    fn is_idle(&self) -> bool {
        (self.room.is_empty() || self.stopping)
            && self.members.is_empty()
            && self.waiting.is_empty()
            && self.save.is_none()
            && self.asked.is_empty()
            && !self.is_dirty()
            && self.inbox.is_empty()
    }

    async fn answer(&mut self, request: Request) {
        let now = self.now();
        match request {
            Request::Join { done, .. } if self.stopping => {
                done.send(Err(DocumentError::Stopping)).ok();
            }
            Request::Join { socket, session, access, outbox, done } => {
                let counted = Counted::new(&self.shared);
                self.members.insert(socket, Member { outbox, access, _counted: counted });
                let access = self.effective(access);
                let effects = self.room.join(now, socket, &session, access, rand::random());
                self.take(effects).await;
                done.send(Ok(())).ok();
            }
            Request::Heard { socket, frame, _room } => {
                let heavy = frame_bytes(&frame) > HEAVY_MESSAGE;
                let heard = self.ask(heavy, move |room| room.heard(now, socket, &frame)).await;
                self.take(heard.unwrap_or_default()).await;
            }
            Request::Left { socket } => {
                self.members.remove(&socket);
                let effects = self.room.left(now, socket);
                self.take(effects).await;
            }
            Request::SetAccess { socket, access } => {
                if let Some(member) = self.members.get_mut(&socket) {
                    member.access = access;
                    let access = self.effective(access);
                    let effects = self.room.access_changed(now, socket, access);
                    self.take(effects).await;
                }
            }
            Request::Close { judge } => {
                let judged: Vec<_> = self
                    .members
                    .keys()
                    .filter_map(|socket| Some((*socket, judge(*socket)?)))
                    .collect();
                for (socket, closing) in judged {
                    self.close(socket, closing).await;
                }
            }
            // It would only end the room, as often as it is tried again.
            Request::Rename { done, .. } if !self.journal.borrow().writable => {
                done.send(Err(Refused.into())).ok();
            }
            Request::Rename { name, done } => {
                let effects = self.room.rename(now, &name);
                match self.answered(effects).await {
                    Ok(effects) => self.take_and_tell(effects, done).await,
                    Err(error) => drop(done.send(Err(DocumentError::Unnamed(error)))),
                }
            }
            Request::Save { done, for_history } => {
                self.for_history |= for_history;
                self.asked.push(done);
                self.plan.insist(now);
            }
            Request::Restore { begins: true, done, .. } if !self.is_new => {
                done.send(Err(DocumentError::Begun)).ok();
            }
            Request::Restore { snapshot, done, .. } => {
                let restored = self.ask(true, move |room| room.restore(now, &snapshot)).await;
                let restored = match restored {
                    Some(Ok(effects)) => Some(self.answered(effects).await),
                    other => other,
                };
                match restored {
                    Some(Ok(effects)) => {
                        self.take_and_tell(effects, done).await;
                        self.plan.insist(now);
                    }
                    Some(Err(error)) => {
                        done.send(Err(error.into())).ok();
                    }
                    None => {
                        done.send(Err(DocumentError::Unopened)).ok();
                    }
                }
            }
            // It can be opened after all, and is restored as others are.
            Request::PutBack { done, .. } => drop(done.send(Err(DocumentError::Unsaved))),
            Request::HasBegun { answer } => drop(answer.send(!self.is_new)),
            Request::Forget { done } => self.end = Some(End::Forgotten(done)),
            Request::Stop => {
                self.stopping = true;
                let sockets: Vec<Socket> = self.members.keys().copied().collect();
                for socket in sockets {
                    self.close(socket, Closing::ComeBack).await;
                }
                self.plan.insist(now);
            }
        }
    }

    /// Asks the room for something that may take long.
    async fn ask<R: Send + 'static>(
        &mut self,
        heavy: bool,
        question: impl FnOnce(&mut Room) -> R + Send + 'static,
    ) -> Option<R> {
        if !heavy && self.room.document_bytes() <= HEAVY_DOCUMENT {
            return Some(question(&mut self.room));
        }
        let mut room = self.room.take();
        let asked = spawn_blocking(move || {
            let answer = question(&mut room);
            (room, answer)
        });
        match asked.await {
            Ok((room, answer)) => {
                self.room = room;
                Some(answer)
            }
            Err(error) => {
                tracing::error!(document = %self.document, %error, "a room has failed");
                self.end.get_or_insert(End::Broken);
                None
            }
        }
    }

    /// Has the room close a socket, or closes one that the room does not know.
    async fn close(&mut self, socket: Socket, closing: Closing) {
        let now = self.now();
        let mut effects = self.room.close(now, socket, closing);
        let named = |effect: &Effect| matches!(effect, Effect::Close(other, _) if *other == socket);
        if !effects.iter().any(named) {
            effects.push(Effect::Close(socket, closing));
        }
        self.take(effects).await;
    }

    fn effective(&self, access: Access) -> Access {
        if self.refusing { Access::Read } else { access }
    }

    /// Sees to it that nobody edits what could not be made durable, or what has not been saved for long.
    async fn refresh_refusing(&mut self) {
        let writable = self.journal.borrow_and_update().writable;
        let refusing = !writable || self.unsaved_bytes > self.shared.limits.unsaved_bytes;
        if std::mem::replace(&mut self.refusing, refusing) == refusing {
            return;
        }
        tracing::warn!(document = %self.document, refusing, "whether a document can be edited has changed");
        let now = self.now();
        let granted: Vec<_> =
            self.members.iter().map(|(socket, member)| (*socket, member.access)).collect();
        for (socket, access) in granted {
            let access = self.effective(access);
            let effects = self.room.access_changed(now, socket, access);
            self.take(effects).await;
        }
    }

    async fn end(mut self, end: End) {
        let closing = match &end {
            End::Broken | End::Superseded | End::Stopped => Closing::ComeBack,
            End::Forgotten(_) => Closing::Final(Reason::NotFound),
        };
        while let Some((_, member)) = self.members.pop_first() {
            telemetry::closed(closing);
            member.outbox.close(closing);
        }
        // An older state that is still being written must not take the place of a newer one, nor outlive the document.
        if self.save.is_some() {
            let saved = first_save(&mut self.save).await;
            self.saved(saved).await;
        }
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let waiting = waiting.filter_map(|waiting| match waiting {
            Waiting::Done(done) => Some(done),
            _ => None,
        });
        for done in waiting.chain(std::mem::take(&mut self.asked)) {
            done.send(Err(DocumentError::Unsaved)).ok();
        }
        self.shared.gone(&self.document);
        if let End::Forgotten(done) = end {
            self.shared.save_succeeded(&self.document);
            done.send(Ok(())).ok();
        }
        turn_away(&mut self.inbox, || DocumentError::Unopened).await;
    }
}

impl Drop for AwakeTask {
    fn drop(&mut self) {
        self.remove_unsaved(self.unsaved_bytes);
    }
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}
