//! The targets. What each promises is in its function; all promise not to panic.

use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use rowtide_feed::codec::{VERSION, decode, decode_change, decode_commit, encode};
use rowtide_gateway::Now;
use rowtide_gateway::auth::{Auth, AuthOptions, Identity};
use rowtide_gateway::conversation::{Conversation, Effect, Input, Known};
use rowtide_gateway::gate::Lengths;
use rowtide_gateway::limits::ClientLimits;
use rowtide_gateway::rate::Verdict;
use rowtide_gateway::session::Session;
use rowtide_legacy::OlderSession;
use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::explain::explain;
use rowtide_postgres::assemble::Assembler;
use rowtide_postgres::mutate::Author;
use rowtide_protocol::{ClientMessage, Cursor, Lsn};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::plan::{catalog, plan};
use crate::seeds;

/// The secret of the targets' tokens.
const SECRET: &str = "a secret of the targets, long enough for HS256";
/// The largest first message of the targets, in bytes.
const LIMIT: usize = 1_000;

/// Something that reads bytes from outside.
pub struct Target {
    /// Its name, which is also that of its libFuzzer binary.
    pub name: &'static str,
    /// What its inputs are made of.
    pub words: &'static [&'static [u8]],
    /// Good inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Says in a word what came of an input; panics if a promise is broken.
    pub run: fn(&[u8]) -> String,
}

/// Every target.
pub fn all() -> [Target; 9] {
    [
        Target { name: "pgoutput", words: &[], seeds: seeds::pgoutput, run: pgoutput },
        Target { name: "feed_event", words: &[], seeds: seeds::feed_event, run: feed_event },
        Target { name: "cursor", words: &[], seeds: seeds::cursor, run: cursor },
        Target { name: "gate", words: &[], seeds: seeds::gate, run: gate },
        Target {
            name: "definition",
            words: seeds::RULE_WORDS,
            seeds: seeds::definition,
            run: definition,
        },
        Target {
            name: "client_message",
            words: seeds::MESSAGE_WORDS,
            seeds: seeds::client_message,
            run: client_message,
        },
        Target {
            name: "session",
            words: seeds::MESSAGE_WORDS,
            seeds: seeds::client_message,
            run: session,
        },
        Target { name: "older", words: seeds::OLDER_WORDS, seeds: seeds::older, run: older },
        Target { name: "token", words: seeds::TOKEN_WORDS, seeds: seeds::token, run: token },
    ]
}

/// Runs the target of this name, for libFuzzer.
///
/// # Panics
/// When there is none, or a promise is broken.
pub fn run(name: &str, bytes: &[u8]) {
    let target = all().into_iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("`{name}` is no target"));
    drop((target.run)(bytes));
}

/// A sentence without what is the input's own: numbers, and what stands in quotes.
fn word(sentence: &str) -> String {
    let unquoted = sentence.split(['`', '"', '\'']).step_by(2).collect::<String>();
    unquoted.chars().filter(|char| !char.is_ascii_digit()).take(100).collect()
}

fn outcome<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    result.map_or_else(|error| word(&error.to_string()), |_| "ok".to_owned())
}

/// Messages of the stream, each behind its length in two bytes: what is none is an error, whatever came before.
fn pgoutput(mut bytes: &[u8]) -> String {
    drop(rowtide_postgres::pgoutput::decode(bytes));
    let mut assembler = Assembler::new(plan(), "rowtide".to_owned(), 1 << 20);
    let (mut events, mut words) = (Vec::new(), String::new());
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let (message, rest) = rest.split_at(rest.len().min(u16::from_be_bytes(*length).into()));
        bytes = rest;
        if let Err(error) = assembler.message(message, &mut events) {
            words += &word(&error.to_string());
            break;
        }
    }
    format!("{words} {}", events.len().min(4))
}

/// Bytes are messages of the feed or an error, also where the checksum fits; what is read is written and read back.
fn feed_event(bytes: &[u8]) -> String {
    drop(decode_change(Lsn(0), bytes));
    drop(decode_commit(Lsn(0), bytes));
    let read = |mut from: &[u8]| loop {
        match decode(&mut from) {
            Ok(event) => {
                let mut again = Vec::new();
                encode(&event, &mut again);
                assert_eq!(decode(&mut &again[..]), Ok(event));
            }
            Err(error) => return word(&error.to_string()),
        }
    };
    let as_it_is = read(bytes);
    let body = bytes.get(4..bytes.len().saturating_sub(4)).unwrap_or_default();
    let Some((_, body)) = body.split_first() else { return as_it_is };
    // The checksum would stop nearly all of them.
    let record = [&[VERSION], body].concat();
    let length = (record.len() as u32 + 4).to_le_bytes();
    let checksum = crc32fast::hash(&record).to_le_bytes();
    read(&[&length[..], &record, &checksum].concat())
}

/// A text is a cursor or none; one that is, is written as it was.
fn cursor(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else { return "not UTF-8".to_owned() };
    let parsed = Cursor::from_str(text);
    if let Ok(cursor) = &parsed {
        assert_eq!(Cursor::from_str(&cursor.to_string()).ok().as_ref(), Some(cursor));
    }
    let length = text.len().min(40);
    format!("{} {length}", outcome(parsed))
}

/// However the bytes of frames are cut, the same is known of their lengths.
fn gate(bytes: &[u8]) -> String {
    let take = |size: usize| {
        let mut lengths = Lengths::new(LIMIT);
        let taken = bytes.chunks(size).try_for_each(|piece| lengths.take(piece));
        (taken, lengths.has_first(), lengths.is_held())
    };
    let whole = take(bytes.len().max(1));
    for size in [1, 3, 125] {
        assert_eq!(take(size), whole);
    }
    let length = bytes.len().min(20);
    format!("{whole:?} {length}")
}

/// A text is a definition, or rejected with a report that can be shown; one that is, compiles or is rejected so.
fn definition(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let definition = match Definition::parse("fuzz.toml", &text) {
        Ok(definition) => definition,
        Err(error) => {
            assert!(!error.problems.is_empty());
            return word(&error.problems[0].to_string());
        }
    };
    match compile(&definition, &catalog()) {
        Ok(plan) => {
            let shape = format!("{} {}", plan.branches.len(), plan.claims.len());
            assert!(!explain(&plan).is_empty() || plan.tables.is_empty());
            shape
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            word(&error.problems[0].to_string())
        }
    }
}

/// A text is a message or rejected; the operations of a mutation are read for the plan or rejected.
fn client_message(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let message = match ClientMessage::parse(&text) {
        Ok(message) => message,
        Err(error) => return word(&error.to_string()),
    };
    match message {
        ClientMessage::Mutate(mutation) => match mutation.ops {
            Err(error) => word(&error.to_string()),
            Ok(ops) => {
                let plan = plan();
                let read = ops.iter().map(|op| match plan.read_op(op) {
                    Ok(_) => "read ".to_owned(),
                    Err(rejection) => word(&rejection.rejection.message),
                });
                read.take(3).collect()
            }
        },
        ClientMessage::Connect(connect) => {
            let has =
                (connect.token.is_some(), connect.cursor.is_some(), connect.app_version.is_some());
            format!("connect {has:?}")
        }
        ClientMessage::Subscribe(subscribe) => {
            let claims = plan().claims_of_nobody();
            match plan().select(&claims, &subscribe.query, &subscribe.params) {
                Ok(_) => "subscribe".to_owned(),
                Err(error) => word(&error.to_string()),
            }
        }
        ClientMessage::Unsubscribe { .. } => "unsubscribe".to_owned(),
        ClientMessage::Auth { .. } => "auth".to_owned(),
        ClientMessage::Ping => "ping".to_owned(),
    }
}

/// A session goes on or ends, whatever the lines are that it hears.
fn session(bytes: &[u8]) -> String {
    let (text, now) = (String::from_utf8_lossy(bytes), now());
    let connect = seeds::CONNECT;
    converse(
        Session::new(ClientLimits::default(), None, Some(plan()), &now),
        &now,
        [connect].into_iter().chain(text.lines()),
    )
}

/// As [`session`], of an older client.
fn older(bytes: &[u8]) -> String {
    let (text, now) = (String::from_utf8_lossy(bytes), now());
    converse(
        OlderSession::new(ClientLimits::default(), identity(), "tab", None),
        &now,
        text.lines(),
    )
}

fn now() -> Now {
    Now { time: Duration::from_secs(5), unix: Duration::from_secs(1_000) }
}

fn identity() -> Identity {
    let author = Author { user_id: "ann".to_owned(), claims: serde_json::Map::new() };
    Identity { author: Arc::new(author), expires_at_s: u64::MAX }
}

/// Holds a conversation in which all that is asked is answered well.
fn converse<'a, C: Conversation>(
    mut conversation: C,
    now: &Now,
    texts: impl Iterator<Item = &'a str>,
) -> String {
    let mut said = String::new();
    let mut inputs = vec![Input::Begin];
    let mut texts = texts.take(40);
    let mut effects = Vec::new();
    let mut now = *now;
    loop {
        let input = match inputs.pop() {
            Some(input) => input,
            None if conversation.reads() => match texts.next() {
                Some(text) => Input::Text(text),
                None => return said,
            },
            // What it waits for is the clock.
            None => match conversation.deadline() {
                Some(deadline) => {
                    now.time = now.time.max(deadline);
                    Input::Clock
                }
                None => return said,
            },
        };
        conversation.step(input, &now, &mut effects);
        for effect in effects.drain(..) {
            let (short, answer) = match effect {
                Effect::Send(_) | Effect::SendDeflated { .. } => ('s', None),
                Effect::Ping => ('p', None),
                Effect::CheckToken(_) => ('t', Some(Input::Token(Ok(identity())))),
                Effect::Claim(_) => ('c', Some(Input::Claimed(Ok(Known::default())))),
                Effect::Open(_) => ('o', Some(Input::Opened(Ok(plan())))),
                Effect::Heard => ('h', None),
                Effect::Subscribe(_)
                | Effect::Unsubscribe(_)
                | Effect::CountSubscription(_)
                | Effect::HasSubscriptions(_) => ('b', None),
                Effect::Rate(..) | Effect::RateOfOrigin => ('r', Some(Input::Rated(Verdict::Now))),
                Effect::Push(_) => ('m', None),
                Effect::Limited(_) => ('l', None),
                Effect::AskOutcomes(_) => ('a', Some(Input::Outcomes(Vec::new()))),
                Effect::NoteTold(_) => ('n', None),
                Effect::CountRejection(_) => ('x', None),
                Effect::End(ending) => {
                    let why = ending.map_or_else(String::new, |ending| word(&ending.message));
                    return format!("{} {why}", said.chars().take(12).collect::<String>());
                }
            };
            if said.len() < 12 {
                said.push(short);
            }
            inputs.extend(answer);
        }
    }
}

/// A header and the claims behind it, in lines: signed, they are a token. What is let in says all that it must; and
/// what is not signed is never let in.
fn token(bytes: &[u8]) -> String {
    static AUTH: LazyLock<(Runtime, Auth)> = LazyLock::new(|| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
        let options = AuthOptions { secret: Some(SECRET.to_owned()), ..AuthOptions::default() };
        let auth = runtime.block_on(Auth::start(&options, CancellationToken::new()));
        (runtime, auth.unwrap_or_else(|error| panic!("{error}")))
    });
    let (runtime, auth) = &*AUTH;
    let check = |token: &str| runtime.block_on(auth.check(token));
    let raw = String::from_utf8_lossy(bytes);
    assert!(check(&raw).is_err(), "nothing of this is signed");
    let Some(at) = bytes.iter().position(|byte| *byte == b'\n') else {
        return "one line".to_owned();
    };
    let (header, payload) = (&bytes[..at], &bytes[at + 1..]);
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    assert!(check(&format!("{message}.")).is_err(), "an empty signature is none");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
    let signature = signature.unwrap_or_else(|error| panic!("{error}"));
    match check(&format!("{message}.{signature}")) {
        Err(error) => word(&error.to_string()),
        Ok(identity) => {
            let (header, payload) = (json(header), json(payload));
            assert_eq!(header["alg"], "HS256");
            assert_eq!(header.get("crit").filter(|crit| !crit.is_null()), None);
            assert_eq!(payload["sub"].as_str(), Some(identity.author.user_id.as_str()));
            assert!(!identity.author.user_id.is_empty());
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            assert!(payload["exp"].as_f64() > Some(now.as_secs_f64() - 60.0));
            format!("let in with {} claims", identity.author.claims.len().min(9))
        }
    }
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("it was read: {error}"))
}
