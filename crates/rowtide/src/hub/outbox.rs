//! The queue between an engine and one session. The engine never waits for a client: it puts what
//! there is to say into the session's outbox and goes on. What queues up for a slow client is shared
//! bytes, folded into as few frames as possible when the client reads again; past a limit the outbox
//! is emptied and the session is told `slow_consumer`. Rows of a snapshot do not count against the
//! limit, because they are shared with the engine's own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rowtide_feed::Acknowledgement;
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::row::Row;
use rowtide_protocol::{
    Cursor, ErrorCode, Mode, ready_frame, reject_frame, snapshot_frame, tx_frame,
};
use tokio::sync::Notify;

use crate::telemetry;

use rowtide_plan::value::rfc3339;

/// What a session is to do next.
#[derive(Debug)]
pub enum Delivery {
    /// Say `connected`, in this mode. Comes first.
    Begin(Mode),
    /// Send this text frame (valid UTF-8).
    Frame(Bytes),
    /// Say this error and close. Nothing comes after it.
    Closed(ErrorCode, String),
}

/// About how many bytes of rows go into one frame, and about how many of folded transactions.
const FRAME_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Outbox {
    plan: Arc<Plan>,
    limit_bytes: usize,
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Of the transactions in `items`.
    bytes: usize,
    /// Frames that are made already and come first.
    frames: VecDeque<Bytes>,
    closed: Option<(ErrorCode, String)>,
    /// Whether it was said that the limit is near.
    is_warned: bool,
    /// Of a client that numbers its mutations: up to which number it has been told every outcome.
    told: Option<u64>,
}

impl Queue {
    /// Whether a acknowledgement follows what the client has been told. If mutations in between were settled
    /// by another queue or server, between the moment when the client's last number was read and the one
    /// when its session joined the stream, their refusals would be taken for confirmations: the client
    /// must come back and be told.
    fn tell(&mut self, acknowledgement: &Acknowledgement) -> bool {
        let Some(told) = &mut self.told else { return true };
        let last = acknowledgement.last_mutation;
        let first = acknowledgement.rejected.first().map_or(last, |refused| refused.id);
        let follows = first <= *told + 1;
        *told = last.max(*told);
        follows
    }
}

#[derive(Debug)]
pub(super) enum Item {
    Begin(Mode),
    /// Rows of one table, with how many of them have been sent.
    Snapshot {
        table: TableId,
        rows: Vec<Arc<Row>>,
        sent: usize,
    },
    Ready(Cursor),
    Tx {
        cursor: Cursor,
        changes: Bytes,
        commit_time_us: Option<i64>,
        acknowledgements: Vec<Arc<Acknowledgement>>,
    },
}

/// One step of a session, for those that do not speak in frames of the protocol.
#[derive(Debug)]
pub enum Step {
    /// How the replica is brought up to date.
    Begin(Mode),
    /// Rows of a new replica.
    Snapshot {
        /// Their table.
        table: TableId,
        /// Each once.
        rows: Vec<Arc<Row>>,
    },
    /// The replica is whole.
    Ready(Cursor),
    /// One or more commits.
    Tx {
        /// Up to which commit.
        cursor: Cursor,
        /// Changes as JSON, separated by commas; some may be empty.
        bodies: Vec<Bytes>,
        /// When the last of the commits happened, microseconds since 1970 UTC.
        commit_time_us: Option<i64>,
        /// The mutations of the session's client that were settled, in order.
        acknowledgements: Vec<Arc<Acknowledgement>>,
    },
    /// Nothing comes any more.
    Closed(ErrorCode, String),
}

impl Outbox {
    /// `told` is the mutation up to which the client knows every outcome; `None` for one that does not
    /// number them.
    pub(super) fn new(plan: Arc<Plan>, limit_bytes: usize, told: Option<u64>) -> Outbox {
        Outbox {
            plan,
            limit_bytes,
            queue: Mutex::new(Queue { told, ..Queue::default() }),
            filled: Notify::new(),
        }
    }

    pub(super) fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A queue is whole between any two statements here, so a panic elsewhere cannot spoil it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `item`. Whether the session must be told with [`Outbox::wake`]; if not, it has been told
    /// of something that it has not taken yet.
    #[must_use]
    pub(super) fn push(&self, item: Item) -> bool {
        let mut queue = self.lock();
        if queue.closed.is_some() {
            return false;
        }
        let was_empty = queue.items.is_empty();
        if let Item::Tx { changes, acknowledgements, .. } = &item {
            if !acknowledgements.iter().all(|acknowledgement| queue.tell(acknowledgement)) {
                let message = "mutations were settled while this connection was made";
                queue.closed = Some((ErrorCode::Restarting, message.to_owned()));
                return true;
            }
            queue.bytes += changes.len() + 64;
        }
        if queue.bytes > self.limit_bytes / 2 && !queue.is_warned {
            queue.is_warned = true;
            let (waiting, limit) = (queue.bytes, self.limit_bytes);
            tracing::warn!(
                waiting,
                limit,
                "a client reads slowly and will be sent away at the limit"
            );
        }
        if queue.bytes > self.limit_bytes {
            queue.items.clear();
            let limit = self.limit_bytes;
            let message = format!("more than {limit} bytes were waiting to be read");
            queue.closed = Some((ErrorCode::SlowConsumer, message));
            return true;
        }
        queue.items.push_back(item);
        was_empty
    }

    /// Tells the session that there is something.
    pub(super) fn wake(&self) {
        self.filled.notify_one();
    }

    /// Ends the session after what is queued already.
    pub(super) fn close(&self, code: ErrorCode, message: &str) {
        self.lock().closed.get_or_insert_with(|| (code, message.to_owned()));
        self.filled.notify_one();
    }

    /// The next frame, if there is something to say.
    pub(super) fn try_next(&self) -> Option<Delivery> {
        let made = self.lock().frames.pop_front();
        if let Some(frame) = made {
            return Some(Delivery::Frame(frame));
        }
        let frame = match self.try_next_step()? {
            Step::Closed(code, message) => return Some(Delivery::Closed(code, message)),
            Step::Begin(mode) => return Some(Delivery::Begin(mode)),
            Step::Ready(cursor) => ready_frame(cursor),
            Step::Snapshot { table, rows } => {
                let name = &self.plan.table(table).name_json;
                snapshot_frame(name, rows.iter().map(|row| &row.json[..]))
            }
            Step::Tx { cursor, bodies, commit_time_us, acknowledgements } => {
                let ack = acknowledgements
                    .iter()
                    .map(|acknowledgement| acknowledgement.last_mutation)
                    .max();
                let refused =
                    acknowledgements.iter().flat_map(|acknowledgement| &acknowledgement.rejected);
                // A refusal is told before it is acknowledged.
                let mut frames: VecDeque<Bytes> =
                    refused.map(|r| reject_frame(r.id, &r.code, &r.message)).collect();
                commit_time_us.into_iter().for_each(telemetry::commit_sent);
                let time = commit_time_us.map(rfc3339);
                let bodies = bodies.iter().map(|body| &body[..]);
                frames.push_back(tx_frame(cursor, bodies, ack, time.as_deref()));
                let first = frames.pop_front()?;
                if !frames.is_empty() {
                    self.lock().frames = frames;
                }
                first
            }
        };
        Some(Delivery::Frame(frame))
    }

    /// The next step, if there is one. A session takes either steps or frames.
    pub(super) fn try_next_step(&self) -> Option<Step> {
        let mut queue = self.lock();
        let Some(item) = queue.items.pop_front() else {
            let (code, message) = queue.closed.clone()?;
            return Some(Step::Closed(code, message));
        };
        Some(match item {
            Item::Begin(mode) => Step::Begin(mode),
            Item::Ready(cursor) => Step::Ready(cursor),
            Item::Snapshot { table, rows, sent } => {
                let mut bytes = 0;
                let mut end = sent;
                while end < rows.len() && bytes < FRAME_BYTES {
                    bytes += rows[end].json.len();
                    end += 1;
                }
                let part = rows[sent..end].to_vec();
                if end < rows.len() {
                    queue.items.push_front(Item::Snapshot { table, rows, sent: end });
                }
                Step::Snapshot { table, rows: part }
            }
            Item::Tx { mut cursor, changes, mut commit_time_us, mut acknowledgements } => {
                let mut bytes = changes.len();
                queue.bytes -= changes.len() + 64;
                let mut bodies = vec![changes];
                // Several commits may be folded into one message: the client is only brought
                // forward faster.
                while bytes < FRAME_BYTES
                    && let Some(Item::Tx { .. }) = queue.items.front()
                    && let Some(Item::Tx {
                        cursor: next,
                        changes,
                        commit_time_us: time,
                        acknowledgements: more,
                    }) = queue.items.pop_front()
                {
                    acknowledgements.extend(more);
                    bytes += changes.len();
                    queue.bytes -= changes.len() + 64;
                    bodies.push(changes);
                    cursor = next;
                    commit_time_us = time.or(commit_time_us);
                }
                Step::Tx { cursor, bodies, commit_time_us, acknowledgements }
            }
        })
    }

    /// Waits for the next step. Cancel safe.
    pub(super) async fn next_step(&self) -> Step {
        loop {
            if let Some(step) = self.try_next_step() {
                return step;
            }
            self.filled.notified().await;
        }
    }

    /// Waits for the next frame. Cancel safe.
    pub(super) async fn next(&self) -> Delivery {
        loop {
            if let Some(delivery) = self.try_next() {
                return delivery;
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use rowtide_protocol::{Epoch, Lsn, Refusal, ServerMessage, ViewId};

    use super::*;

    fn outbox(limit_bytes: usize) -> Outbox {
        let plan = Plan { tables: vec![], branches: vec![], claims: vec![], min_client: None };
        Outbox::new(Arc::new(plan), limit_bytes, Some(0))
    }

    fn tx(lsn: u64, changes: &'static str) -> Item {
        let cursor = Cursor { epoch: Epoch(1), view: ViewId(1), lsn: Lsn(lsn) };
        let changes = changes.into();
        Item::Tx { cursor, changes, commit_time_us: Some(0), acknowledgements: Vec::new() }
    }

    #[test]
    fn transactions_that_wait_are_folded_into_one_message() {
        let outbox = outbox(1000);
        assert!(
            outbox.push(tx(1, r#"{"op":"delete","table":"t","row":{"id":1}}"#)),
            "it was empty"
        );
        assert!(!outbox.push(tx(2, "")), "it has been told already");
        assert!(!outbox.push(tx(3, r#"{"op":"delete","table":"t","row":{"id":3}}"#)));
        let Some(Delivery::Frame(frame)) = outbox.try_next() else { panic!("no frame") };
        let text = std::str::from_utf8(&frame).unwrap();
        let Ok(ServerMessage::Tx { cursor, changes, commit_time, .. }) = ServerMessage::parse(text)
        else {
            panic!("not a tx: {text}");
        };
        assert_eq!((changes.len(), cursor.parse::<Cursor>().unwrap().lsn), (2, Lsn(3)));
        assert_eq!(commit_time.as_deref(), Some("1970-01-01T00:00:00.000000Z"));
        assert!(outbox.try_next().is_none());
    }

    #[test]
    fn a_refusal_is_told_before_what_acknowledges_it() {
        let outbox = outbox(1000);
        let settled = |lsn, number, code: Option<&str>| {
            let refusal =
                |code: &str| Refusal { id: number, code: code.into(), message: String::new() };
            let acknowledgement = Acknowledgement {
                client: "c".into(),
                last_mutation: number,
                rejected: code.map(refusal).into_iter().collect(),
                name: None,
            };
            let Item::Tx { cursor, changes, commit_time_us, .. } = tx(lsn, "") else {
                unreachable!("a tx was made")
            };
            let acknowledgements = vec![Arc::new(acknowledgement)];
            Item::Tx { cursor, changes, commit_time_us, acknowledgements }
        };
        for (lsn, number, code) in [(1, 1, None), (2, 2, Some("forbidden")), (3, 3, Some("x"))] {
            let _told = outbox.push(settled(lsn, number, code));
        }
        let mut told = Vec::new();
        while let Some(Delivery::Frame(frame)) = outbox.try_next() {
            match ServerMessage::parse(std::str::from_utf8(&frame).unwrap()).unwrap() {
                ServerMessage::Reject(refusal) => told.push(format!("reject {}", refusal.id)),
                ServerMessage::Tx { ack, .. } => told.push(format!("ack {ack:?}")),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, ["reject 2", "reject 3", "ack Some(3)"]);
    }

    #[test]
    fn a_client_that_does_not_read_is_told_so_and_costs_nothing_more() {
        let outbox = outbox(200);
        for lsn in 1..100 {
            let _told = outbox.push(tx(lsn, "x"));
        }
        assert!(matches!(outbox.try_next(), Some(Delivery::Closed(ErrorCode::SlowConsumer, _))));
        assert!(outbox.lock().items.is_empty());
    }
}
