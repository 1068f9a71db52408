//! Carrying out what a room answers, in order: what follows an edit waits until the edit is durable.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::Ordering;

use rowtide_schema::Unanswered;
use tokio::time::Instant;

use super::super::mailbox::{DocumentError, Done};
use super::super::outbox::frame_bytes;
use super::super::room::UnreadableDocument;
use super::super::settings::DocumentKind;
use super::super::telemetry;
use super::{AwakeTask, End, HEAVY_MESSAGE};
use crate::journal::{Receipt, Refused};
use crate::place::{Closing, Effect, Frame, Socket};

/// What waits for an edit to be durable, or is one.
#[derive(Debug)]
pub(super) enum Waiting {
    Edit { receipt: Receipt, bytes: usize, since: Instant },
    Send(Socket, Frame),
    Close(Socket, Closing),
    Done(Done),
}

impl AwakeTask {
    /// Carries out effects, in order.
    pub(super) async fn take(&mut self, effects: Vec<Effect>) {
        match self.answered(effects).await {
            Ok(effects) => self.carry_out(effects).await,
            Err(error) => {
                tracing::error!(document = %self.document, %error, "a room waits for nothing more");
                self.end.get_or_insert(End::Broken);
            }
        }
    }

    /// Carries out effects, and tells that it is done once they are durable.
    pub(super) async fn take_and_tell(&mut self, effects: Vec<Effect>, done: Done) {
        self.take(effects).await;
        if self.end.is_some() {
            // Not all of it was carried out.
            done.send(Err(DocumentError::Unsaved)).ok();
            return;
        }
        self.waiting.push_back(Waiting::Done(done));
        self.release().await;
    }

    /// Asks the application's schema what a room asks it. Nothing else happens in the room until it has the answer, so
    /// that pushes keep their order.
    pub(super) async fn answered(
        &mut self,
        mut effects: Vec<Effect>,
    ) -> Result<Vec<Effect>, UnreadableDocument> {
        while let Some(effect) = effects.pop_if(|effect| matches!(effect, Effect::Ask(_))) {
            let Effect::Ask(question) = effect else { break };
            let application =
                self.shared.kinds.get(self.document.kind()).and_then(DocumentKind::application);
            let answer = match application.cloned() {
                Some(application) => {
                    let answer = application.pool.ask(&self.key, question).await;
                    telemetry::asked(answer.is_ok());
                    answer
                }
                None => Err(Unanswered::Ended),
            };
            if let Err(error) = &answer {
                tracing::warn!(document = %self.document, %error, "the application's schema did not answer");
            }
            let heavy = answer.as_ref().is_ok_and(|answer| answer.len() > HEAVY_MESSAGE);
            let now = self.now();
            let more = self.ask(heavy, move |room| room.answered(now, answer)).await;
            effects.extend(more.unwrap_or_else(|| Ok(Vec::new()))?);
        }
        Ok(effects)
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Edit(edit) => {
                    self.is_new = false;
                    let bytes = edit.len();
                    let receipt = self.shared.journal.append(&self.key, edit, self.failures).await;
                    self.waiting_bytes += bytes;
                    self.waiting.push_back(Waiting::Edit { receipt, bytes, since: Instant::now() });
                }
                // The room was given its answer.
                Effect::Ask(_) => {}
                Effect::SendAtOnce(socket, frame) => effects.extend(self.send(socket, frame)),
                Effect::Send(socket, frame) if self.waiting.is_empty() => {
                    effects.extend(self.send(socket, frame));
                }
                Effect::Close(socket, closing) if self.waiting.is_empty() => {
                    self.say_goodbye(socket, closing);
                }
                Effect::Send(socket, frame) => {
                    self.waiting_bytes += frame_bytes(&frame);
                    self.waiting.push_back(Waiting::Send(socket, frame));
                }
                Effect::Close(socket, closing) => {
                    self.waiting.push_back(Waiting::Close(socket, closing));
                }
            }
        }
    }

    /// Carries out what waits up to the next edit.
    pub(super) async fn release(&mut self) {
        let mut effects = Vec::new();
        while let Some(first) = self.waiting.pop_front() {
            match first {
                Waiting::Edit { .. } => {
                    self.waiting.push_front(first);
                    break;
                }
                Waiting::Send(socket, frame) => {
                    self.waiting_bytes -= frame_bytes(&frame);
                    effects.extend(self.send(socket, frame));
                }
                Waiting::Close(socket, closing) => self.say_goodbye(socket, closing),
                Waiting::Done(done) => {
                    done.send(Ok(())).ok();
                }
            }
        }
        self.carry_out(effects).await;
    }

    /// Gives a frame to a socket. One that is too slow is gone, and what the room says to that is returned.
    fn send(&mut self, socket: Socket, frame: Frame) -> Vec<Effect> {
        let slow = self.members.get(&socket).is_some_and(|member| !member.outbox.push(frame));
        if !slow {
            return Vec::new();
        }
        if let Some(member) = self.members.remove(&socket) {
            telemetry::slow();
            member.outbox.give_up();
        }
        let now = self.now();
        self.room.left(now, socket)
    }

    pub(super) fn say_goodbye(&mut self, socket: Socket, closing: Closing) {
        if let Some(member) = self.members.remove(&socket) {
            telemetry::closed(closing);
            member.outbox.close(closing);
        }
    }

    pub(super) async fn durable(&mut self, result: Result<u64, Refused>) {
        let Some(Waiting::Edit { bytes, since, .. }) = self.waiting.pop_front() else { return };
        self.waiting_bytes -= bytes;
        match result {
            Ok(number) => {
                telemetry::pushed(since.elapsed());
                self.number = number;
                self.add_unsaved(bytes);
                self.release().await;
                self.refresh_refusing().await;
            }
            Err(Refused) => {
                telemetry::refused();
                self.end.get_or_insert(End::Broken);
            }
        }
    }

    pub(super) fn add_unsaved(&mut self, bytes: usize) {
        self.unsaved_bytes += bytes;
        self.shared.unsaved_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn remove_unsaved(&mut self, bytes: usize) {
        self.unsaved_bytes -= bytes;
        self.shared.unsaved_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What becomes of the edit that everything else waits for.
pub(super) async fn first_receipt(waiting: &mut VecDeque<Waiting>) -> Result<u64, Refused> {
    match waiting.front_mut() {
        // Without the journal's thread there is nobody to write it.
        Some(Waiting::Edit { receipt, .. }) => receipt.await.unwrap_or(Err(Refused)),
        _ => pending().await,
    }
}
