//! What an engine has to say to one session, until the session takes it. The engine never waits for a client:
//! it puts what there is to say into the send queue and goes on. What queues up for a slow client is shared
//! bytes, folded into as few frames as possible when the client reads again; past a limit the queue
//! is emptied and the session is told `slow_consumer`. What comes next does not count against the limit, however large: who is
//! told of one large transaction is not slow, and would be told of it again when it comes back. Rows of a snapshot do not count against the
//! limit, because they are shared with the engine's own. Pure: see [`crate::outlet`] for what waits on it.

use std::collections::VecDeque;
use std::sync::Arc;

use rowtide_engine::{Place, Slice, SubscriptionId, Subscriptions, ViewMessage};
use rowtide_feed::Acknowledgement;
use rowtide_plan::plan::{Plan, TableId};
use rowtide_plan::row::Row;
use rowtide_plan::value::rfc3339;
use rowtide_protocol::{
    Cursor, ErrorCode, MadeKey, Mode, TextFrame, TxParts, ready_frame, reject_frame, tx_frame,
};
use smallvec::SmallVec;

use crate::frames::{FRAME_BYTES, FRAME_ROWS, SnapshotFrame, SnapshotFrames};

/// What a session that speaks in frames of the protocol is to do next.
#[derive(Debug)]
pub enum Delivery {
    /// Send `connected`, in this mode. Comes first.
    Begin(Mode),
    /// Send a frame.
    Frame(SessionFrame),
    /// Send this error and close. Nothing comes after it.
    Closed(ErrorCode, String),
}

/// A frame with what its session must know of it.
#[derive(Debug)]
pub struct SessionFrame {
    /// The frame.
    pub frame: TextFrame,
    /// How many rows of a snapshot it holds.
    pub rows: u64,
    /// When the last commit that it tells of happened, microseconds since 1970 UTC.
    pub commit_time_us: Option<i64>,
    /// Every mutation of the client up to this number is acknowledged by it.
    pub acknowledges: Option<u64>,
    /// Where the client stands after it, if it says so.
    pub cursor: Option<Cursor>,
    /// Subscriptions that are over with it.
    pub unsubscribed: Vec<SubscriptionId>,
}

impl SessionFrame {
    /// One of which there is nothing to know.
    fn of(frame: TextFrame) -> SessionFrame {
        let (acknowledges, cursor) = (None, None);
        let unsubscribed = Vec::new();
        SessionFrame { frame, rows: 0, commit_time_us: None, acknowledges, cursor, unsubscribed }
    }
}

/// What there is to say to a session.
#[derive(Debug)]
pub enum Item {
    /// How the replica is brought up to date.
    Begin(Mode),
    /// The rows of a new replica, from a place on.
    Snapshot {
        /// Its frames.
        frames: Arc<SnapshotFrames>,
        /// The place.
        at: Place,
    },
    /// The replica is whole.
    Ready(Cursor),
    /// One step forward.
    Tx {
        /// What has changed.
        message: Arc<ViewMessage>,
        /// The mutations of the session's client that it acknowledges, in order.
        acknowledgements: Vec<Arc<Acknowledgement>>,
        /// What becomes of subscriptions with it.
        subscriptions: Subscriptions,
    },
}

/// Messages of a view, in order.
pub type Messages = SmallVec<[Arc<ViewMessage>; 1]>;

/// What a session is to do next that does not speak in frames of the protocol.
#[derive(Debug)]
pub enum SessionStep {
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

/// What was taken from a queue, not made into frames or rows yet: that needs no queue, so that nobody has to wait
/// for it.
#[derive(Debug)]
pub enum Dequeued {
    /// How the replica is brought up to date.
    Begin(Mode),
    /// The part of a snapshot that begins at a place. [`SendQueue::went_on`] must follow.
    Snapshot {
        /// Its frames.
        frames: Arc<SnapshotFrames>,
        /// The place.
        at: Place,
    },
    /// The replica is whole.
    Ready(Cursor),
    /// Messages that are told as one.
    Tx {
        /// In order.
        messages: Messages,
        /// What they acknowledge.
        acknowledgements: Vec<Arc<Acknowledgement>>,
        /// What becomes of subscriptions with them.
        subscriptions: Subscriptions,
    },
    /// A frame that was made already.
    Frame(SessionFrame),
    /// Nothing comes any more.
    Closed(ErrorCode, String),
}

/// What was made of [`Dequeued`].
#[derive(Debug)]
pub struct Made<T> {
    /// What is to be said; nothing behind the end of a snapshot.
    pub said: Option<T>,
    /// What must be said to the queue.
    pub then: Then,
}

/// What follows from a making for the queue.
#[derive(Debug)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// The snapshot goes on there, or has ended.
    WentOn(Option<Place>),
    /// These frames come first.
    Frames(VecDeque<SessionFrame>),
}

/// The send queue of one session.
#[derive(Debug)]
pub struct SendQueue {
    limit_bytes: usize,
    items: VecDeque<Item>,
    /// Of the transactions in `items`.
    bytes: usize,
    /// Frames that are made already and come first.
    frames: VecDeque<SessionFrame>,
    closed: Option<(ErrorCode, String)>,
    warning: Warning,
    /// Of a client that numbers its mutations: up to which number it has been told every outcome.
    told: Option<u64>,
}

/// Whether it was said that the limit is near.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Warning {
    NotNear,
    Due,
    Said,
}

impl SendQueue {
    /// An empty queue for about `limit_bytes` of changes. `told` is the mutation up to which the client knows every
    /// outcome; `None` for one that does not number them.
    pub fn new(limit_bytes: usize, told: Option<u64>) -> SendQueue {
        SendQueue {
            limit_bytes,
            items: VecDeque::new(),
            bytes: 0,
            frames: VecDeque::new(),
            closed: None,
            warning: Warning::NotNear,
            told,
        }
    }

    /// Whether an acknowledgement follows what the client has been told. If mutations in between were acknowledged
    /// by another queue or server, between the moment when the client's last number was read and the one
    /// when its session joined the stream, their rejections would be taken for confirmations: the client
    /// must come back and be told.
    fn tell(&mut self, acknowledgement: &Acknowledgement) -> bool {
        let Some(told) = &mut self.told else { return true };
        let last = acknowledgement.last_mutation;
        let first = acknowledgement.rejected.first().map_or(last, |rejected| rejected.id);
        let follows = first <= *told + 1;
        *told = last.max(*told);
        follows
    }

    /// Queues `item`. Whether the session must be woken; if not, it has been woken for something that it has not
    /// taken yet.
    #[must_use]
    pub fn push(&mut self, item: Item) -> bool {
        if self.closed.is_some() {
            return false;
        }
        let was_empty = self.items.is_empty();
        if let Item::Tx { message, acknowledgements, .. } = &item {
            if !acknowledgements.iter().all(|acknowledgement| self.tell(acknowledgement)) {
                let message = "mutations were acknowledged while this connection was made";
                return self.close(ErrorCode::Restarting, message);
            }
            self.bytes += message.size();
        }
        self.items.push_back(item);
        // Not more than all of it is behind what comes next.
        if self.bytes > self.limit_bytes / 2 {
            let behind = self.bytes_behind_next();
            if behind > self.limit_bytes / 2 && self.warning == Warning::NotNear {
                self.warning = Warning::Due;
            }
            if behind > self.limit_bytes {
                self.items.clear();
                let limit = self.limit_bytes;
                let message = format!("more than {limit} bytes were waiting to be read");
                return self.close(ErrorCode::SlowConsumer, &message);
            }
        }
        was_empty
    }

    fn bytes_behind_next(&self) -> usize {
        let next = self.items.iter().find_map(|item| match item {
            Item::Tx { message, .. } => Some(message.size()),
            _ => None,
        });
        self.bytes - next.unwrap_or(0)
    }

    /// Ends the session after what is queued already. Whether the session must be woken.
    pub fn close(&mut self, code: ErrorCode, message: &str) -> bool {
        if self.closed.is_some() {
            return false;
        }
        self.closed = Some((code, message.to_owned()));
        true
    }

    /// Whether it is to be said that the client reads slowly: the bytes that wait. Only once.
    pub fn take_warning(&mut self) -> Option<usize> {
        if self.warning != Warning::Due {
            return None;
        }
        self.warning = Warning::Said;
        Some(self.bytes)
    }

    /// What comes next.
    pub fn take(&mut self) -> Option<Dequeued> {
        if let Some(frame) = self.frames.pop_front() {
            return Some(Dequeued::Frame(frame));
        }
        if let Some(Item::Snapshot { frames, at }) = self.items.front() {
            return Some(Dequeued::Snapshot { frames: Arc::clone(frames), at: *at });
        }
        let Some(item) = self.items.pop_front() else {
            let (code, message) = self.closed.clone()?;
            return Some(Dequeued::Closed(code, message));
        };
        Some(match item {
            Item::Begin(mode) => Dequeued::Begin(mode),
            Item::Ready(cursor) => Dequeued::Ready(cursor),
            Item::Snapshot { frames, at } => Dequeued::Snapshot { frames, at },
            Item::Tx { message, mut acknowledgements, mut subscriptions } => {
                let (mut bytes, mut rows) = (message.size(), message.rows);
                self.bytes -= message.size();
                let mut messages = Messages::from_elem(message, 1);
                // Rows that a message shares with the engine are none of its bytes, and are written all the same.
                while bytes < FRAME_BYTES
                    && rows < FRAME_ROWS
                    && let Some(Item::Tx { .. }) = self.items.front()
                    && let Some(Item::Tx { message, acknowledgements: more, subscriptions: then }) =
                        self.items.pop_front()
                {
                    acknowledgements.extend(more);
                    subscriptions.subscribed.extend(then.subscribed);
                    subscriptions.unsubscribed.extend(then.unsubscribed);
                    bytes += message.size();
                    rows += message.rows;
                    self.bytes -= message.size();
                    messages.push(message);
                }
                Dequeued::Tx { messages, acknowledgements, subscriptions }
            }
        })
    }

    /// What was taken has been made.
    pub fn then(&mut self, then: Then) {
        match then {
            Then::Nothing => {}
            Then::Frames(frames) => self.frames = frames,
            // Unless the queue was emptied meanwhile.
            Then::WentOn(next) => {
                if let Some(Item::Snapshot { at, .. }) = self.items.front_mut() {
                    match next {
                        Some(next) => *at = next,
                        None => drop(self.items.pop_front()),
                    }
                }
            }
        }
    }

    /// The next delivery, for who has the queue to themselves.
    pub fn next(&mut self, plan: &Plan) -> Option<Delivery> {
        loop {
            let Made { said, then } = self.take()?.into_delivery(plan);
            self.then(then);
            if said.is_some() {
                return said;
            }
        }
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.frames.is_empty() && self.closed.is_none()
    }
}

impl<T> Made<T> {
    fn of(said: T) -> Made<T> {
        Made { said: Some(said), then: Then::Nothing }
    }
}

impl Dequeued {
    /// Makes a frame of it.
    pub fn into_delivery(self, plan: &Plan) -> Made<Delivery> {
        match self {
            Dequeued::Begin(mode) => Made::of(Delivery::Begin(mode)),
            Dequeued::Frame(frame) => Made::of(Delivery::Frame(frame)),
            Dequeued::Closed(code, message) => Made::of(Delivery::Closed(code, message)),
            Dequeued::Ready(cursor) => {
                let of = SessionFrame::of(TextFrame::new(ready_frame(cursor)));
                Made::of(Delivery::Frame(SessionFrame { cursor: Some(cursor), ..of }))
            }
            Dequeued::Snapshot { frames, at } => match frames.frame(plan, at) {
                None => Made { said: None, then: Then::WentOn(None) },
                Some(SnapshotFrame { frame, rows, next }) => {
                    let frame = SessionFrame { rows, ..SessionFrame::of(frame) };
                    Made { said: Some(Delivery::Frame(frame)), then: Then::WentOn(Some(next)) }
                }
            },
            Dequeued::Tx { messages, acknowledgements, subscriptions } => {
                let mut frames = frames_of(&messages, &acknowledgements, subscriptions);
                let first = frames.pop_front().map(Delivery::Frame);
                let then = if frames.is_empty() { Then::Nothing } else { Then::Frames(frames) };
                Made { said: first, then }
            }
        }
    }

    /// Makes a step of it, for sessions that do not speak in frames.
    pub fn into_step(self) -> Made<SessionStep> {
        match self {
            Dequeued::Begin(mode) => Made::of(SessionStep::Begin(mode)),
            Dequeued::Ready(cursor) => Made::of(SessionStep::Ready(cursor)),
            // Nobody subscribes who does not speak in frames.
            Dequeued::Tx { messages, acknowledgements, subscriptions: _ } => {
                Made::of(SessionStep::Tx { messages, acknowledgements })
            }
            Dequeued::Closed(code, message) => Made::of(SessionStep::Closed(code, message)),
            // Frames are made for those who take deliveries.
            Dequeued::Frame(_) => Made { said: None, then: Then::Nothing },
            Dequeued::Snapshot { frames, at } => match frames.slice(at) {
                None => Made { said: None, then: Then::WentOn(None) },
                Some(Slice { table, rows, next }) => {
                    let rows = rows.into_iter().cloned().collect();
                    Made {
                        said: Some(SessionStep::Snapshot { table, rows }),
                        then: Then::WentOn(Some(next)),
                    }
                }
            },
        }
    }
}

/// The frames of what messages say: a rejection is told before it is acknowledged.
fn frames_of(
    messages: &[Arc<ViewMessage>],
    acknowledgements: &[Arc<Acknowledgement>],
    subscriptions: Subscriptions,
) -> VecDeque<SessionFrame> {
    let Some(last) = messages.last() else { return VecDeque::new() };
    let commit_time_us = messages.iter().rev().find_map(|message| message.commit_time_us);
    let cursor = Some(last.cursor);
    if let ([message], [], true) =
        (messages, acknowledgements, subscriptions == Subscriptions::default())
    {
        return [SessionFrame { commit_time_us, cursor, ..SessionFrame::of(message.frame()) }]
            .into();
    }
    let acknowledges = acknowledgements.iter().map(|of| of.last_mutation).max();
    let rejected = acknowledgements.iter().flat_map(|of| &of.rejected);
    let mut frames: VecDeque<SessionFrame> = rejected
        .map(|r| reject_frame(r.id, &r.code, &r.message))
        .map(TextFrame::new)
        .map(SessionFrame::of)
        .collect();
    let time = commit_time_us.map(rfc3339);
    let bodies = messages.iter().map(|message| &message.changes()[..]);
    let mut keys: Vec<&MadeKey> = acknowledgements.iter().flat_map(|of| &of.keys).collect();
    // A repeat may come together with what it repeats.
    keys.sort_by_key(|made| (made.id, made.op));
    keys.dedup();
    let Subscriptions { subscribed, unsubscribed } = subscriptions;
    let ids = |of: &[SubscriptionId]| of.iter().map(|id| id.0).collect::<Vec<u64>>();
    let parts = TxParts {
        ack: acknowledges,
        keys: &keys,
        commit_time: time.as_deref(),
        subscribed: &ids(&subscribed),
        unsubscribed: &ids(&unsubscribed),
    };
    let text = tx_frame(last.cursor, bodies, parts);
    frames.push_back(SessionFrame {
        commit_time_us,
        acknowledges,
        cursor,
        unsubscribed,
        ..SessionFrame::of(TextFrame::new(text))
    });
    frames
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rowtide_engine::{FrozenSets, TopicRows, ViewRows};
    use rowtide_plan::catalog::{
        Catalog, CatalogColumn, CatalogIndex, CatalogTable, ColumnInput, ReplicaIdentity,
        TableStreaming,
    };
    use rowtide_plan::claims::Claims;
    use rowtide_plan::compile::compile;
    use rowtide_plan::definition::Definition;
    use rowtide_plan::plan::BranchId;
    use rowtide_plan::row::{Image, Topic};
    use rowtide_plan::value::ColumnType;
    use rowtide_protocol::{Epoch, Lsn, Rejected, ServerMessage, ViewId};

    use super::*;
    use crate::garbage::Garbage;

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
            indexes: vec![CatalogIndex {
                name: "t_pkey".into(),
                columns: vec!["id".into()],
                of_elements: false,
            }],
            replica_identity: ReplicaIdentity::Full,
            row_security: false,
            insert_trigger: false,
            streaming: TableStreaming::default(),
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
        let rows =
            ViewRows::freeze(plan, &claims, FrozenSets::default(), [(&topic, &held)].into_iter());
        Arc::new(SnapshotFrames::new(Arc::new(rows), Garbage::in_place()))
    }

    fn frame(queue: &mut SendQueue, plan: &Plan) -> Bytes {
        match queue.next(plan) {
            Some(Delivery::Frame(frame)) => frame.frame.text().clone(),
            other => panic!("{other:?} is not a frame"),
        }
    }

    #[test]
    fn a_snapshot_is_sent_in_frames_that_are_made_once_for_all_who_have_them() {
        let plan = plan();
        let frames = snapshot(&plan, 1000);
        let cursor = Cursor { epoch: Epoch(1), view: ViewId(1), lsn: Lsn(1) };
        let mut queues = [0, 1].map(|_| SendQueue::new(1000, None));
        for sends in &mut queues {
            let _told =
                sends.push(Item::Snapshot { frames: Arc::clone(&frames), at: Place::default() });
            let _told = sends.push(Item::Ready(cursor));
        }
        let (mut rows, mut count) = (0, 0);
        loop {
            let [first, second] = queues.each_mut().map(|queue| frame(queue, &plan));
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
        assert!(queues.iter().all(SendQueue::is_empty));
    }

    /// Takes a snapshot's frames to its end, deflating each: the deflated frames, and how many it had to deflate itself.
    fn take_deflated(queue: &mut SendQueue, plan: &Plan) -> (Vec<Bytes>, usize) {
        let (mut frames, mut own) = (Vec::new(), 0);
        while let Some(Delivery::Frame(SessionFrame { frame, rows: 1.., .. })) = queue.next(plan) {
            own += usize::from(frame.wants_deflating());
            while !frame.deflate_a_stretch() {}
            let deflated = frame.deflated().unwrap();
            let text = rowtide_protocol::inflate(deflated, 1 << 20).unwrap();
            assert_eq!(text.as_bytes(), frame.text());
            frames.push(deflated.clone());
        }
        (frames, own)
    }

    #[test]
    fn what_was_deflated_of_a_snapshot_is_kept_while_several_sessions_are_sent_it() {
        let plan = plan();
        let frames = snapshot(&plan, 1000);
        let mut queues = [0, 1].map(|_| queue(1000));
        for sends in &mut queues {
            let _told =
                sends.push(Item::Snapshot { frames: Arc::clone(&frames), at: Place::default() });
        }
        let kept = Arc::downgrade(&frames);
        drop(frames);
        let [mut first, mut second] = queues;
        let (whole, own) = take_deflated(&mut first, &plan);
        assert!(whole.len() > 10 && own == whole.len(), "{own} of {}", whole.len());
        let (again, own) = take_deflated(&mut second, &plan);
        assert_eq!((&again, own), (&whole, 0));
        let places = |frames: &[Bytes]| frames.iter().map(|of| of.as_ptr()).collect::<Vec<_>>();
        assert_eq!(places(&again), places(&whole), "the same bytes");
        assert!(kept.upgrade().is_none(), "and goes with the last of them");
    }

    #[test]
    fn nothing_is_kept_for_one_session_alone() {
        let plan = plan();
        let frames = snapshot(&plan, 200);
        let weak = Arc::downgrade(&frames);
        let mut sends = queue(1000);
        let _told = sends.push(Item::Snapshot { frames, at: Place::default() });
        let first = sends.next(&plan);
        let Some(Delivery::Frame(SessionFrame { frame, .. })) = first else { panic!("{first:?}") };
        while !frame.deflate_a_stretch() {}
        drop(frame);
        let frames = weak.upgrade().unwrap();
        let again = frames.frame(&plan, Place::default()).unwrap().frame;
        assert!(again.wants_deflating() && frames.alive() == 1);
    }

    #[test]
    fn a_client_is_sent_away_in_the_middle_of_a_snapshot() {
        let plan = plan();
        let mut sends = SendQueue::new(200, Some(0));
        let frames = snapshot(&plan, 1000);
        let _told = sends.push(Item::Snapshot { frames, at: Place::default() });
        drop(frame(&mut sends, &plan));
        for lsn in 1..100 {
            let _told = sends.push(tx(lsn, "x"));
        }
        let next = sends.next(&empty());
        assert!(matches!(next, Some(Delivery::Closed(ErrorCode::SlowConsumer, _))));
    }

    #[test]
    fn a_message_that_is_told_by_itself_is_one_frame_for_all() {
        let mut queues = [queue(1000), queue(1000)];
        let Item::Tx { message, .. } = tx(1, "") else { unreachable!("a tx was made") };
        for sends in &mut queues {
            let message = Arc::clone(&message);
            let _told = sends.push(Item::Tx {
                message,
                acknowledgements: Vec::new(),
                subscriptions: Subscriptions::default(),
            });
        }
        let plan = empty();
        let [first, second] = queues.each_mut().map(|queue| frame(queue, &plan));
        assert_eq!((first.as_ptr(), first.len()), (second.as_ptr(), second.len()));
    }

    fn empty() -> Plan {
        Plan::default()
    }

    fn queue(limit_bytes: usize) -> SendQueue {
        SendQueue::new(limit_bytes, Some(0))
    }

    fn tx(lsn: u64, changes: &'static str) -> Item {
        tx_of(lsn, changes, 1)
    }

    fn tx_of(lsn: u64, changes: &'static str, rows: usize) -> Item {
        let cursor = Cursor { epoch: Epoch(1), view: ViewId(1), lsn: Lsn(lsn) };
        let message = ViewMessage::new(cursor, changes.into(), rows, Some(0));
        Item::Tx { message, acknowledgements: Vec::new(), subscriptions: Subscriptions::default() }
    }

    #[test]
    fn what_has_many_rows_is_not_folded_however_few_bytes_of_its_own_it_has() {
        let mut sends = queue(1 << 20);
        for lsn in 1..=3 {
            let _told = sends.push(tx_of(lsn, "x", 1_000_000));
        }
        for lsn in 1..=3 {
            let Some(Dequeued::Tx { messages, .. }) = sends.take() else { panic!("{lsn}") };
            assert_eq!(messages.len(), 1);
        }
        assert!(sends.is_empty());
    }

    #[test]
    fn transactions_that_wait_are_folded_into_one_message() {
        let mut sends = queue(1000);
        assert!(sends.push(tx(1, r#"{"op":"delete","table":"t","row":{"id":1}}"#)), "it was empty");
        assert!(!sends.push(tx(2, "")), "it has been told already");
        assert!(!sends.push(tx(3, r#"{"op":"delete","table":"t","row":{"id":3}}"#)));
        let text = frame(&mut sends, &empty());
        let text = std::str::from_utf8(&text).unwrap();
        let Ok(ServerMessage::Tx { cursor, changes, commit_time, .. }) = ServerMessage::parse(text)
        else {
            panic!("not a tx: {text}");
        };
        assert_eq!((changes.len(), cursor.parse::<Cursor>().unwrap().lsn), (2, Lsn(3)));
        assert_eq!(commit_time.as_deref(), Some("1970-01-01T00:00:00.000000Z"));
        assert!(sends.is_empty());
    }

    #[test]
    fn a_rejection_is_told_before_what_acknowledges_it() {
        let mut sends = queue(1000);
        let acked = |lsn, number, code: Option<&str>| {
            let rejection =
                |code: &str| Rejected { id: number, code: code.into(), message: String::new() };
            let acknowledgement = Acknowledgement {
                client: "c".into(),
                last_mutation: number,
                rejected: code.map(rejection).into_iter().collect(),
                name: None,
                keys: Vec::new(),
            };
            let Item::Tx { message, .. } = tx(lsn, "") else { unreachable!("a tx was made") };
            let acknowledgements = vec![Arc::new(acknowledgement)];
            Item::Tx { message, acknowledgements, subscriptions: Subscriptions::default() }
        };
        for (lsn, number, code) in [(1, 1, None), (2, 2, Some("forbidden")), (3, 3, Some("x"))] {
            let _told = sends.push(acked(lsn, number, code));
        }
        let mut told = Vec::new();
        while let Some(Delivery::Frame(frame)) = sends.next(&empty()) {
            match ServerMessage::parse(std::str::from_utf8(frame.frame.text()).unwrap()).unwrap() {
                ServerMessage::Reject(rejection) => told.push(format!("reject {}", rejection.id)),
                ServerMessage::Tx { ack, .. } => told.push(format!("ack {ack:?}")),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, ["reject 2", "reject 3", "ack Some(3)"]);
    }

    #[test]
    fn one_message_that_is_larger_than_the_limit_is_sent() {
        const LARGE: &str = r#"{"op":"delete","table":"t","row":{"id":1}}"#;
        let mut sends = queue(10);
        for lsn in [1, 2] {
            let _told = sends.push(tx(lsn, LARGE));
            assert!(matches!(sends.next(&empty()), Some(Delivery::Frame(_))));
        }
        let _told = sends.push(tx(3, LARGE));
        let _told = sends.push(tx(4, LARGE));
        let next = sends.next(&empty());
        assert!(matches!(next, Some(Delivery::Closed(ErrorCode::SlowConsumer, _))));
    }

    #[test]
    fn a_client_that_does_not_read_is_told_so_and_costs_nothing_more() {
        let mut sends = queue(200);
        for lsn in 1..100 {
            let _told = sends.push(tx(lsn, "x"));
        }
        let next = sends.next(&empty());
        assert!(matches!(next, Some(Delivery::Closed(ErrorCode::SlowConsumer, _))));
        assert!(sends.items.is_empty());
    }
}
