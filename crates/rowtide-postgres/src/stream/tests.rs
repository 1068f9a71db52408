use rowtide_plan::plan::Plan;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// Waits for nothing that does not come.
const PATIENCE: Duration = Duration::from_secs(60);
const NEVER: Duration = Duration::from_secs(3600);
/// Soon enough for a test.
const SOON: Duration = Duration::from_millis(20);
/// Says nothing by itself.
const SILENT: Pace = Pace { confirm: NEVER, alive: NEVER, quiet: NEVER, answer: NEVER };

/// The other side of a stream.
struct Walsender {
    socket: DuplexStream,
    wal: u64,
}

/// A status, as Postgres reads it.
#[derive(Debug, PartialEq)]
struct Status {
    confirmed: u64,
    reply: bool,
}

fn intake() -> Intake {
    let plan = Plan::default();
    let assembler = Assembler::new(Arc::new(plan), "rowtide".to_owned(), MAX_TRANSACTION_BYTES);
    Intake::new(assembler, BytesMut::new())
}

fn stream(pace: Pace, room: usize) -> (Stream, Walsender) {
    let (ours, socket) = duplex(room);
    let stream = Stream::over(Box::pin(ours), intake(), "rowtide_default".to_owned(), pace);
    (stream, Walsender { socket, wal: 100 })
}

impl Walsender {
    async fn say(&mut self, kind: u8, body: &[u8]) {
        let bytes = frame(kind, body);
        within(self.socket.write_all(&bytes)).await.expect("the stream is there");
    }

    async fn keep_alive(&mut self, reply: bool) {
        let body = [&b"k"[..], &self.wal.to_be_bytes(), &[0; 8], &[u8::from(reply)]].concat();
        self.say(b'd', &body).await;
    }

    /// A transaction of no change; its end.
    async fn commit(&mut self) -> Lsn {
        let bytes = self.transaction();
        within(self.socket.write_all(&bytes)).await.expect("the stream is there");
        Lsn(self.wal)
    }

    fn transaction(&mut self) -> Vec<u8> {
        self.wal += 10;
        transaction(self.wal, 0, 0)
    }

    /// What is said next.
    async fn hear(&mut self) -> Status {
        let mut bytes = [0; 39];
        within(self.socket.read_exact(&mut bytes)).await.expect("the stream is there");
        assert_eq!((bytes[0], bytes[5]), (b'd', b'r'));
        let confirmed = bytes[6..14].try_into().map(u64::from_be_bytes);
        Status { confirmed: confirmed.unwrap(), reply: bytes[38] == 1 }
    }

    /// The next status that asks for an answer.
    async fn asked(&mut self) {
        while !self.hear().await.reply {}
    }
}

/// A transaction of no change that ends at `end`, with the times of its commit and of its sending.
fn transaction(end: u64, committed_us: i64, sent_us: i64) -> Vec<u8> {
    let sent = sent_us.to_be_bytes();
    let wal = |message: &[u8]| frame(b'd', &[&b"w"[..], &[0; 16], &sent, message].concat());
    let (at, time) = ((end - 5).to_be_bytes(), committed_us.to_be_bytes());
    let begin = [&b"B"[..], &at, &time, &[0, 0, 0, 7]].concat();
    let commit = [&b"C\0"[..], &at, &end.to_be_bytes(), &time].concat();
    [wal(&begin), wal(&commit)].concat()
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

fn ends(batch: &Batch) -> Vec<Lsn> {
    let end = |event: &StreamEvent| match event {
        StreamEvent::Transaction(transaction) => transaction.lsn,
        StreamEvent::Position(lsn) => *lsn,
        StreamEvent::SchemaChanged(change) => change.committed,
        StreamEvent::Switched => panic!("nobody has asked for another plan"),
    };
    batch.events.iter().map(end).collect()
}

#[tokio::test]
async fn what_is_there_comes_at_once_in_order_and_not_more_than_was_asked_for() {
    let (mut stream, mut walsender) = stream(SILENT, 1 << 20);
    let bytes: Vec<u8> = (0..5).flat_map(|_| walsender.transaction()).collect();
    walsender.socket.write_all(&bytes).await.unwrap();
    walsender.keep_alive(false).await;
    let batch = within(stream.next_batch(3, usize::MAX)).await.unwrap();
    assert_eq!(ends(&batch), [Lsn(110), Lsn(120), Lsn(130)]);
    assert!(batch.bytes > 0);
    let batch = within(stream.next_batch(100, 0)).await.unwrap();
    assert_eq!(ends(&batch), [Lsn(140)], "at least one, whatever its bytes");
    let batch = within(stream.next_batch(100, usize::MAX)).await.unwrap();
    assert_eq!(ends(&batch), [Lsn(150), Lsn(150)]);
    assert_eq!(batch.events[1], StreamEvent::Position(Lsn(150)));
}

#[tokio::test]
async fn messages_come_in_any_pieces() {
    let (mut stream, mut walsender) = stream(SILENT, 1);
    let bytes: Vec<u8> = (0..3).flat_map(|_| walsender.transaction()).collect();
    let writing = tokio::spawn(async move {
        walsender.socket.write_all(&bytes).await.unwrap();
        walsender
    });
    let mut came = Vec::new();
    while came.len() < 3 {
        came.extend(ends(&within(stream.next_batch(100, usize::MAX)).await.unwrap()));
    }
    assert_eq!(came, [Lsn(110), Lsn(120), Lsn(130)]);
    writing.await.unwrap();
}

#[tokio::test]
async fn a_database_in_which_nothing_happens_is_asked_and_not_given_up() {
    let (mut stream, mut walsender) = stream(Pace { quiet: SOON, ..SILENT }, 1 << 10);
    let waiting = tokio::spawn(async move { stream.next_batch(1, 1).await });
    assert!(!walsender.hear().await.reply, "the first says that we are there");
    for _ in 0..5 {
        walsender.asked().await;
        // Not about the stream, but that someone is there.
        walsender.say(b'N', b"").await;
    }
    let end = walsender.commit().await;
    assert_eq!(ends(&within(waiting).await.unwrap().unwrap()), [end]);
}

#[tokio::test]
async fn who_does_not_answer_is_given_up() {
    let (mut stream, mut walsender) = stream(Pace { quiet: SOON, answer: SOON, ..SILENT }, 1 << 10);
    let error = within(stream.next_batch(1, 1)).await.unwrap_err();
    assert_eq!(error.to_string(), "the replication stream ended: Postgres has fallen silent");
    walsender.asked().await;
    assert!(within(stream.next_batch(1, 1)).await.is_err());
}

#[tokio::test]
async fn postgres_hears_of_us_and_of_what_is_confirmed_while_nobody_takes_what_comes() {
    let (mut stream, mut walsender) = stream(Pace { confirm: SOON, alive: SOON, ..SILENT }, 64);
    // More than there is room for: it is stuck until someone takes it.
    let bytes: Vec<u8> = (0..100).flat_map(|_| walsender.transaction()).collect();
    let (mut hears, mut says) = split(walsender.socket);
    let stuck = tokio::spawn(async move { says.write_all(&bytes).await.map(|()| says) });
    let mut heard = Vec::new();
    for confirmed in [0, 7, 7, 9] {
        stream.confirm(Lsn(confirmed));
        let mut status = [0; 39];
        loop {
            within(hears.read_exact(&mut status)).await.unwrap();
            if status[6..14] == confirmed.to_be_bytes() {
                break;
            }
        }
        heard.push(confirmed);
    }
    assert_eq!(heard, [0, 7, 7, 9]);
    assert!(!stuck.is_finished());
    let mut came = 0;
    while came < 100 {
        came += within(stream.next_batch(1000, usize::MAX)).await.unwrap().events.len();
    }
    within(stuck).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_question_is_answered_at_once_and_with_what_is_confirmed() {
    let (mut stream, mut walsender) = stream(SILENT, 1 << 10);
    assert_eq!(walsender.hear().await, Status { confirmed: 0, reply: false });
    stream.confirm(Lsn(70));
    stream.confirm(Lsn(60));
    walsender.keep_alive(true).await;
    within(stream.next_batch(1, 1)).await.unwrap();
    assert_eq!(walsender.hear().await, Status { confirmed: 70, reply: false });
}

#[tokio::test]
async fn what_came_before_an_error_is_handed_out_and_nothing_after_it() {
    let (mut stream, mut walsender) = stream(SILENT, 1 << 10);
    let end = walsender.commit().await;
    walsender.say(b'E', b"C42704\0Mpublication \"rowtide_default\" does not exist\0\0").await;
    walsender.commit().await;
    assert_eq!(ends(&within(stream.next_batch(100, usize::MAX)).await.unwrap()), [end]);
    let error = within(stream.next_batch(100, usize::MAX)).await.unwrap_err();
    assert!(matches!(&error, StreamError::PublicationMissing(name) if name == "rowtide_default"));
    let error = within(stream.next_batch(100, usize::MAX)).await.unwrap_err();
    assert!(matches!(error, StreamError::Ended(_)));
}

#[tokio::test]
async fn what_cannot_be_understood_is_an_error_for_good() {
    for wrong in [&b"w"[..], b"k1", b"?"] {
        let (mut stream, mut walsender) = stream(SILENT, 1 << 10);
        walsender.say(b'd', wrong).await;
        walsender.commit().await;
        let error = within(stream.next_batch(100, usize::MAX)).await.unwrap_err();
        assert!(matches!(error, StreamError::Decode(_)), "{error}");
        assert!(within(stream.next_batch(100, usize::MAX)).await.is_err());
    }
}

#[tokio::test]
async fn a_stream_that_stops_says_what_is_confirmed_and_ends_in_order() {
    let (stream, mut walsender) = stream(SILENT, 1 << 10);
    assert_eq!(walsender.hear().await.confirmed, 0);
    stream.confirm(Lsn(70));
    let stopping = tokio::spawn(stream.stop());
    assert_eq!(walsender.hear().await, Status { confirmed: 70, reply: false });
    let mut end = [0; 10];
    within(walsender.socket.read_exact(&mut end)).await.unwrap();
    assert_eq!(&end, b"c\0\0\0\x04X\0\0\0\x04");
    drop(walsender);
    within(stopping).await.unwrap();
}

#[test]
fn a_backlog_is_known_by_the_clock_of_postgres_alone() {
    let mut intake = intake();
    for (committed_us, sent_us, late) in [(2_000, 32_000, 30_000), (40_000, 40_001, 1), (9, 8, 0)] {
        let bytes = transaction(110, committed_us, sent_us);
        intake.room(bytes.len()).extend_from_slice(&bytes);
        intake.take(1, 1, &mut Batch::default()).unwrap();
        assert_eq!(intake.late(), Duration::from_micros(late));
    }
}
