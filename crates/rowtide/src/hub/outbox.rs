//! The queue between an engine and one session. The engine never waits for a client: it puts what
//! there is to say into the session's outbox and goes on. What queues up for a slow client is shared
//! bytes, folded into as few frames as possible when the client reads again; past a limit the outbox
//! is emptied and the session is told `slow_consumer`. Rows of a snapshot do not count against the
//! limit, because they are shared with the engine's own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rowtide_engine::{Message, Place, Slice};
use rowtide_feed::Acknowledgement;
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::row::Row;
use rowtide_protocol::{Cursor, ErrorCode, Mode, ready_frame, reject_frame, tx_frame};
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::frames::{FRAME_BYTES, SnapshotFrame, SnapshotFrames};
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
    /// The rows of a new replica, from a place on.
    Snapshot {
        frames: Arc<SnapshotFrames>,
        at: Place,
    },
    Ready(Cursor),
    Tx {
        message: Arc<Message>,
        acknowledgements: Vec<Arc<Acknowledgement>>,
    },
}

/// What was taken from a queue.
enum Taken {
    Begin(Mode),
    /// The part that begins at `at` is to be made.
    Snapshot {
        frames: Arc<SnapshotFrames>,
        at: Place,
    },
    Ready(Cursor),
    Tx {
        messages: Messages,
        acknowledgements: Vec<Arc<Acknowledgement>>,
    },
    Closed(ErrorCode, String),
}

/// Messages of a view, in order.
pub type Messages = SmallVec<[Arc<Message>; 1]>;

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
    /// One or more messages, never none.
    Tx {
        /// In order. Several may be told as one: the client is only brought forward faster.
        messages: Messages,
        /// The mutations of the session's client that they acknowledge, in order.
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
        if let Item::Tx { message, acknowledgements } = &item {
            if !acknowledgements.iter().all(|acknowledgement| queue.tell(acknowledgement)) {
                let message = "mutations were settled while this connection was made";
                queue.closed = Some((ErrorCode::Restarting, message.to_owned()));
                return true;
            }
            queue.bytes += message.size();
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
        loop {
            let frame = match self.take()? {
                Taken::Snapshot { frames, at } => {
                    let frame = frames.frame(&self.plan, at);
                    self.went_on(frame.as_ref().map(|frame| frame.next));
                    let Some(SnapshotFrame { frame, rows, .. }) = frame else { continue };
                    telemetry::rows_sent(rows);
                    frame
                }
                Taken::Closed(code, message) => return Some(Delivery::Closed(code, message)),
                Taken::Begin(mode) => return Some(Delivery::Begin(mode)),
                Taken::Ready(cursor) => ready_frame(cursor),
                Taken::Tx { messages, acknowledgements } => {
                    self.frames_of(&messages, &acknowledgements)?
                }
            };
            return Some(Delivery::Frame(frame));
        }
    }

    /// The first frame of what messages say; those behind it are kept.
    fn frames_of(
        &self,
        messages: &[Arc<Message>],
        acknowledgements: &[Arc<Acknowledgement>],
    ) -> Option<Bytes> {
        let last = messages.last()?;
        let commit_time_us = messages.iter().rev().find_map(|message| message.commit_time_us);
        commit_time_us.into_iter().for_each(telemetry::commit_sent);
        if let ([message], []) = (messages, acknowledgements) {
            return Some(message.frame());
        }
        let ack = acknowledgements.iter().map(|of| of.last_mutation).max();
        let rejected = acknowledgements.iter().flat_map(|of| &of.rejected);
        // A rejection is told before it is acknowledged.
        let mut frames: VecDeque<Bytes> =
            rejected.map(|r| reject_frame(r.id, &r.code, &r.message)).collect();
        let time = commit_time_us.map(rfc3339);
        let bodies = messages.iter().map(|message| &message.changes()[..]);
        frames.push_back(tx_frame(last.cursor, bodies, ack, time.as_deref()));
        let first = frames.pop_front();
        if !frames.is_empty() {
            self.lock().frames = frames;
        }
        first
    }

    /// The next step, if there is one. A session takes either steps or frames.
    pub(super) fn try_next_step(&self) -> Option<Step> {
        loop {
            return Some(match self.take()? {
                Taken::Begin(mode) => Step::Begin(mode),
                Taken::Ready(cursor) => Step::Ready(cursor),
                Taken::Tx { messages, acknowledgements } => Step::Tx { messages, acknowledgements },
                Taken::Closed(code, message) => Step::Closed(code, message),
                Taken::Snapshot { frames, at } => {
                    let slice = frames.slice(at);
                    self.went_on(slice.as_ref().map(|slice| slice.next));
                    let Some(Slice { table, rows, .. }) = slice else { continue };
                    telemetry::rows_sent(rows.len() as u64);
                    Step::Snapshot { table, rows: rows.into_iter().cloned().collect() }
                }
            });
        }
    }

    /// What comes next. A snapshot stays where it is: its frames are made without the lock, because engines
    /// wait for that.
    fn take(&self) -> Option<Taken> {
        let mut queue = self.lock();
        if let Some(Item::Snapshot { frames, at }) = queue.items.front() {
            return Some(Taken::Snapshot { frames: Arc::clone(frames), at: *at });
        }
        let Some(item) = queue.items.pop_front() else {
            let (code, message) = queue.closed.clone()?;
            return Some(Taken::Closed(code, message));
        };
        Some(match item {
            Item::Begin(mode) => Taken::Begin(mode),
            Item::Ready(cursor) => Taken::Ready(cursor),
            Item::Snapshot { frames, at } => Taken::Snapshot { frames, at },
            Item::Tx { message, mut acknowledgements } => {
                let mut bytes = message.size();
                queue.bytes -= message.size();
                let mut messages = Messages::from_elem(message, 1);
                while bytes < FRAME_BYTES
                    && let Some(Item::Tx { .. }) = queue.items.front()
                    && let Some(Item::Tx { message, acknowledgements: more }) =
                        queue.items.pop_front()
                {
                    acknowledgements.extend(more);
                    bytes += message.size();
                    queue.bytes -= message.size();
                    messages.push(message);
                }
                Taken::Tx { messages, acknowledgements }
            }
        })
    }

    /// A part of the snapshot at the front was taken; the next begins at `next`, if there is one.
    fn went_on(&self, next: Option<Place>) {
        let mut queue = self.lock();
        // Unless the queue was emptied meanwhile.
        if let Some(Item::Snapshot { at, .. }) = queue.items.front_mut() {
            match next {
                Some(next) => *at = next,
                None => drop(queue.items.pop_front()),
            }
        }
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
    use rowtide_engine::{TopicRows, ViewRows};
    use rowtide_plan::catalog::{
        Catalog, CatalogColumn, CatalogIndex, CatalogTable, ColumnInput, ReplicaIdentity,
    };
    use rowtide_plan::claims::Claims;
    use rowtide_plan::compile::compile;
    use rowtide_plan::definition::Definition;
    use rowtide_plan::plan::BranchId;
    use rowtide_plan::row::{Image, Topic};
    use rowtide_plan::value::ColumnType;
    use rowtide_protocol::{Epoch, Lsn, Refusal, ServerMessage, ViewId};

    use super::super::garbage::Garbage;
    use super::*;

    /// A plan of one table that everyone sees.
    fn plan() -> Arc<Plan> {
        let column = CatalogColumn {
            name: "id".into(),
            kind: ColumnType::Int,
            type_oid: 20,
            type_name: "bigint".into(),
            not_null: true,
            toastable: false,
            deterministic: true,
            labels: Vec::new(),
            input: ColumnInput::default(),
        };
        let table = CatalogTable {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            columns: vec![column],
            primary_key: vec!["id".into()],
            indexes: vec![CatalogIndex { name: "t_pkey".into(), columns: vec!["id".into()] }],
            replica_identity: ReplicaIdentity::Full,
            row_security: false,
        };
        let definition = Definition::parse("rowtide.toml", "[tables.t]\nvisible = 'true'").unwrap();
        let catalog = Catalog { tables: vec![table], ..Catalog::default() };
        Arc::new(compile(&definition, &catalog).unwrap())
    }

    /// A snapshot of so many rows of about a kibibyte.
    fn snapshot(plan: &Arc<Plan>, rows: usize) -> Arc<SnapshotFrames> {
        let topic = Topic { branch: BranchId(0), anchor: None };
        let row = |id: usize| {
            let json = Bytes::from(format!("{{\"id\":{id},\"text\":\"{}\"}}", "x".repeat(1000)));
            let key = Bytes::from(format!("{{\"id\":{id}}}"));
            let image = Image { key, kept: Box::default(), topics: [topic.clone()].into() };
            Arc::new(Row { image, json })
        };
        let held: TopicRows = (0..rows).map(row).collect();
        let claims = Claims(Box::default());
        let rows = ViewRows::freeze(plan, &claims, [(&topic, &held)].into_iter());
        Arc::new(SnapshotFrames::new(Arc::new(rows), Garbage::start().unwrap()))
    }

    fn frame(outbox: &Outbox) -> Bytes {
        match outbox.try_next() {
            Some(Delivery::Frame(frame)) => frame,
            other => panic!("{other:?} is not a frame"),
        }
    }

    #[test]
    fn a_snapshot_is_sent_in_frames_that_are_made_once_for_all_who_have_them() {
        let plan = plan();
        let frames = snapshot(&plan, 1000);
        let cursor = Cursor { epoch: Epoch(1), view: ViewId(1), lsn: Lsn(1) };
        let outboxes = [0, 1].map(|_| Outbox::new(Arc::clone(&plan), 1000, None));
        for outbox in &outboxes {
            let _told =
                outbox.push(Item::Snapshot { frames: Arc::clone(&frames), at: Place::default() });
            let _told = outbox.push(Item::Ready(cursor));
        }
        let (mut rows, mut count) = (0, 0);
        loop {
            let [first, second] = outboxes.each_ref().map(frame);
            assert_eq!(first, second);
            match ServerMessage::parse(std::str::from_utf8(&first).unwrap()).unwrap() {
                ServerMessage::Snapshot { rows: part, .. } => {
                    assert_eq!(first.as_ptr(), second.as_ptr(), "the same bytes");
                    assert!(first.len() < 2 * FRAME_BYTES);
                    rows += part.len();
                    count += 1;
                }
                ServerMessage::Ready { .. } => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(rows == 1000 && count > 10, "{rows} rows in {count} frames");
        assert_eq!(frames.alive(), 0, "no frame is kept");
        assert!(outboxes.iter().all(|outbox| outbox.try_next().is_none()));
    }

    #[test]
    fn a_client_is_sent_away_in_the_middle_of_a_snapshot() {
        let plan = plan();
        let outbox = Outbox::new(Arc::clone(&plan), 200, Some(0));
        let frames = snapshot(&plan, 1000);
        let _told = outbox.push(Item::Snapshot { frames, at: Place::default() });
        drop(frame(&outbox));
        for lsn in 1..100 {
            let _told = outbox.push(tx(lsn, "x"));
        }
        assert!(matches!(outbox.try_next(), Some(Delivery::Closed(ErrorCode::SlowConsumer, _))));
    }

    #[test]
    fn a_message_that_is_told_by_itself_is_one_frame_for_all() {
        let outboxes = [outbox(1000), outbox(1000)];
        let Item::Tx { message, .. } = tx(1, "") else { unreachable!("a tx was made") };
        for outbox in &outboxes {
            let message = Arc::clone(&message);
            let _told = outbox.push(Item::Tx { message, acknowledgements: Vec::new() });
        }
        let [first, second] = outboxes.each_ref().map(frame);
        assert_eq!((first.as_ptr(), first.len()), (second.as_ptr(), second.len()));
    }

    fn outbox(limit_bytes: usize) -> Outbox {
        let plan = Plan { tables: vec![], branches: vec![], claims: vec![], min_client: None };
        Outbox::new(Arc::new(plan), limit_bytes, Some(0))
    }

    fn tx(lsn: u64, changes: &'static str) -> Item {
        let cursor = Cursor { epoch: Epoch(1), view: ViewId(1), lsn: Lsn(lsn) };
        let message = Message::new(cursor, changes.into(), 1, Some(0));
        Item::Tx { message, acknowledgements: Vec::new() }
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
            let Item::Tx { message, .. } = tx(lsn, "") else { unreachable!("a tx was made") };
            Item::Tx { message, acknowledgements: vec![Arc::new(acknowledgement)] }
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
