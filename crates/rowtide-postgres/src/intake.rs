//! From bytes to events: the messages that are there are found in the buffer, decoded where they lie, and
//! assembled into transactions, many at a time and without a copy of their own. Pure: bytes come in as they come,
//! and what is not all there yet waits for the rest.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rowtide_plan::plan::Plan;
use rowtide_protocol::Lsn;
use thiserror::Error;

use crate::assemble::{AssembleError, Assembler, StreamEvent, US_1970_TO_2000};
use crate::walsender::{Frame, Said, StreamRejection};

/// What was there at once, in the order of commits.
#[derive(Debug, Default)]
pub struct Batch {
    /// Never empty when it is handed out.
    pub events: Vec<StreamEvent>,
    /// About how much memory their transactions take, in bytes.
    pub bytes: usize,
}

/// Why nothing more comes.
#[derive(Debug, Error)]
pub(crate) enum IntakeError {
    #[error("the stream has ended")]
    Ended,
    #[error(transparent)]
    Rejected(StreamRejection),
    #[error(transparent)]
    Decode(#[from] AssembleError),
}

/// What has come and was not taken yet.
pub(crate) struct Intake {
    assembler: Assembler,
    buffer: BytesMut,
    answer: bool,
    /// How long after its commit the last transaction was sent, in microseconds.
    late_us: i64,
}

impl Intake {
    /// `buffer` is what has come already.
    pub(crate) fn new(assembler: Assembler, buffer: BytesMut) -> Intake {
        Intake { assembler, buffer, answer: false, late_us: 0 }
    }

    /// Where what comes is put: with room for `bytes`, or for the rest of a message that is larger.
    pub(crate) fn room(&mut self, bytes: usize) -> &mut BytesMut {
        // Most of the time everything was taken, and the buffer is used again as it is.
        let missing = Frame::length(&self.buffer)
            .map_or(0, |length| length.saturating_sub(self.buffer.len()));
        self.buffer.reserve(missing.clamp(bytes, MAX_ROOM.max(bytes)));
        &mut self.buffer
    }

    /// What is committed behind `at` is of another plan: see [`Assembler::switch`].
    pub(crate) fn switch(&mut self, at: Lsn, plan: Arc<Plan>) {
        self.assembler.switch(at, plan);
    }

    /// Whether Postgres wants to hear from us at once; it is asked once.
    pub(crate) fn wants_answer(&mut self) -> bool {
        std::mem::take(&mut self.answer)
    }

    /// How long after its commit the last transaction was sent, by Postgres' clock.
    pub(crate) fn late(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.late_us).unwrap_or(0))
    }

    /// Takes what is there, until the batch has so many events or so many bytes.
    pub(crate) fn take(
        &mut self,
        max_events: usize,
        max_bytes: usize,
        batch: &mut Batch,
    ) -> Result<(), IntakeError> {
        let mut taken = 0;
        let result = self.take_from(&mut taken, max_events, max_bytes, batch);
        self.buffer.advance(taken);
        if self.buffer.is_empty() && taken > MAX_KEPT {
            self.buffer = BytesMut::new();
        }
        result
    }

    fn take_from(
        &mut self,
        taken: &mut usize,
        max_events: usize,
        max_bytes: usize,
        batch: &mut Batch,
    ) -> Result<(), IntakeError> {
        while batch.events.len() < max_events.max(1) && batch.bytes <= max_bytes {
            let rest = &self.buffer[*taken..];
            let first = Frame::first(rest).map_err(AssembleError::Malformed)?;
            let Some((frame, length)) = first else { return Ok(()) };
            *taken += length;
            match Said::read(frame).map_err(AssembleError::Malformed)? {
                Said::Wal { sent_us, message } => {
                    let before = batch.events.len();
                    self.assembler.message(message, &mut batch.events)?;
                    for event in &batch.events[before..] {
                        if let StreamEvent::Transaction(transaction) = event {
                            batch.bytes += transaction.bytes();
                            let sent_us = sent_us.saturating_add(US_1970_TO_2000);
                            self.late_us = sent_us.saturating_sub(transaction.commit_time_us);
                        }
                    }
                }
                Said::KeepAlive { end, reply } => {
                    self.answer |= reply;
                    // Within a transaction the position is still that of the one before.
                    if !self.assembler.in_transaction() {
                        self.assembler.reached(end, &mut batch.events);
                        match batch.events.last_mut() {
                            Some(StreamEvent::Position(position)) => *position = end,
                            _ => batch.events.push(StreamEvent::Position(end)),
                        }
                    }
                }
                Said::Rejected(rejection) => return Err(IntakeError::Rejected(rejection)),
                Said::Done => return Err(IntakeError::Ended),
                Said::Aside => {}
            }
        }
        Ok(())
    }
}

/// The most that is reserved ahead: a message that is larger is believed as it comes.
const MAX_ROOM: usize = 8 << 20;
/// The buffer of more than this is given back when it was taken.
const MAX_KEPT: usize = 1 << 20;
