use std::fmt::Write;

use serde_json::{Value, json};

use super::*;
use rowtide_feed::ReplicatorStatus;
use rowtide_protocol::{Epoch, Lsn, TextFrame};

use crate::auth::{Identity, TokenError};
use crate::conversation::NoClaim;
use crate::opening::{Entrance, Until, look};
use crate::send_queue::SessionFrame;

/// A session, what time it is, and what it has said.
struct Run {
    session: Session,
    now: Now,
}

/// Effects in short.
fn brief(effects: &[Effect]) -> String {
    let mut brief = String::new();
    for effect in effects {
        if !brief.is_empty() {
            brief += " ";
        }
        match effect {
            Effect::Send(frame) => {
                let frame: Value = serde_json::from_slice(frame).unwrap();
                brief += frame["type"].as_str().unwrap();
            }
            Effect::SendDeflated { bytes, text_bytes } => {
                let text = rowtide_protocol::inflate(bytes, *text_bytes).unwrap();
                let frame: Value = serde_json::from_str(&text).unwrap();
                write!(brief, "DEFLATED({})", frame["type"].as_str().unwrap()).unwrap();
            }
            Effect::Ping => brief += "PING",
            Effect::CheckToken(token) => write!(brief, "CHECK({token})").unwrap(),
            Effect::Claim(claim) => write!(brief, "CLAIM({})", claim.client).unwrap(),
            Effect::Open(_) => brief += "OPEN",
            Effect::Heard => brief += "HEARD",
            Effect::Subscribe(of) => write!(brief, "SUBSCRIBE({})", of.id.0).unwrap(),
            Effect::Unsubscribe(of) => write!(brief, "UNSUBSCRIBE({})", of.0).unwrap(),
            Effect::CountSubscription(Ok(())) => brief += "COUNT(taken)",
            Effect::CountSubscription(Err(code)) => {
                write!(brief, "COUNT({})", code.as_str()).unwrap();
            }
            Effect::HasSubscriptions(count) => write!(brief, "HAS({count})").unwrap(),
            Effect::Rate(_, operations, _) => write!(brief, "RATE({operations})").unwrap(),
            Effect::RateOfOrigin => brief += "RATE(origin)",
            Effect::Push(mutation) => write!(brief, "PUSH({:?})", mutation.number).unwrap(),
            Effect::AskOutcomes(_) | Effect::NoteTold(_) => panic!("of older clients alone"),
            Effect::CountRejection(code) => write!(brief, "COUNT({})", code.as_str()).unwrap(),
            Effect::End(None) => brief += "END",
            Effect::Limited(limit) => write!(brief, "LIMITED({})", limit.as_str()).unwrap(),
            Effect::End(Some(ending)) => write!(brief, "END({})", ending.code.as_str()).unwrap(),
        }
    }
    brief
}

fn identity(user: &str, expires_at_s: u64) -> Identity {
    let author = Author { user_id: user.to_owned(), claims: serde_json::Map::new() };
    Identity { author: Arc::new(author), expires_at_s }
}

fn plan() -> Arc<Plan> {
    Arc::new(Plan { min_client: Some(2), ..Plan::default() })
}

impl Run {
    fn new() -> Run {
        let now = Now { time: Duration::from_secs(5), unix: Duration::from_secs(1_000) };
        let limits = ClientLimits { mutation_bytes: 300, ..ClientLimits::default() };
        Run { session: Session::new(limits, None, Some(plan()), &now), now }
    }

    fn step(&mut self, input: Input<'_, Delivery>) -> String {
        let mut effects = Vec::new();
        self.session.step(input, &self.now, &mut effects);
        brief(&effects)
    }

    fn text(&mut self, message: &Value) -> String {
        self.step(Input::Text(&message.to_string()))
    }

    fn connect(&mut self) -> String {
        self.connect_with(&Value::Null)
    }

    /// What it accepts of the forms of frames, if it says so.
    fn connect_with(&mut self, accept: &Value) -> String {
        let mut connect = json!({
            "type": "connect", "protocol": 1, "clientId": "client-1", "token": "t", "appVersion": 2,
        });
        if !accept.is_null() {
            connect["accept"] = accept.clone();
        }
        self.text(&connect)
    }

    fn live() -> Run {
        Run::live_with(&Value::Null)
    }

    fn live_with(accept: &Value) -> Run {
        let mut run = Run::new();
        assert_eq!(run.connect_with(accept), "CHECK(t)");
        assert_eq!(run.step(Input::Token(Ok(identity("ann", 2_000)))), "RATE(1)");
        assert_eq!(run.step(Input::Rated(Verdict::Now)), "CLAIM(client-1)");
        let known = Known { last_mutation: 7, ..Known::default() };
        assert_eq!(run.step(Input::Claimed(Ok(known))), "OPEN");
        assert!(!run.session.reads(), "there is nobody yet to take what it sends");
        assert_eq!(run.step(Input::Opened(Ok(plan()))), "");
        assert!(run.session.reads());
        let begin = Delivery::Begin(Mode::Snapshot);
        assert_eq!(run.step(Input::Said(begin)), "PING connected");
        run
    }

    fn mutate(&mut self, id: u64) -> String {
        let op = json!({ "op": "delete", "table": "t", "row": {} });
        self.text(&json!({ "type": "mutate", "id": id, "ops": [op, op] }))
    }

    fn pass(&mut self, time: Duration) -> String {
        self.now.time += time;
        self.now.unix += time;
        self.step(Input::Clock)
    }

    fn ack(&mut self, number: u64) -> String {
        self.say(TextFrame::new(pong_frame()), Some(number))
    }

    fn say(&mut self, frame: TextFrame, acknowledges: Option<u64>) -> String {
        let frame = SessionFrame {
            frame,
            rows: 0,
            commit_time_us: None,
            acknowledges,
            cursor: None,
            unsubscribed: Vec::new(),
        };
        self.step(Input::Said(Delivery::Frame(frame)))
    }
}

#[test]
fn a_large_frame_goes_deflated_to_who_takes_that_once_it_is() {
    let large = || {
        let row = format!(r#"{{"id":1,"text":"{}"}}"#, "x".repeat(10_000));
        TextFrame::new(rowtide_protocol::snapshot_frame("\"t\"", [row.as_bytes()]))
    };
    let deflated = large();
    while !deflated.deflate_a_stretch() {}
    // Names that are not known are of later versions.
    for takes in [json!(["deflate"]), json!(["br", "deflate", ""])] {
        let mut run = Run::live_with(&takes);
        assert!(run.session.takes_deflated());
        assert_eq!(run.say(deflated.clone(), None), "DEFLATED(snapshot)");
        assert_eq!(run.say(large(), None), "snapshot", "nobody has deflated it");
        assert_eq!(run.say(TextFrame::new(pong_frame()), None), "pong");
    }
    for takes in [Value::Null, json!([]), json!(["gzip", "Deflate"])] {
        let mut run = Run::live_with(&takes);
        assert!(!run.session.takes_deflated());
        assert_eq!(run.say(deflated.clone(), None), "snapshot", "another has");
    }
    for wrong in [json!("deflate"), json!([1]), json!({}), json!(true)] {
        assert_eq!(Run::new().connect_with(&wrong), "error END(bad_request)", "{wrong}");
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_connect_is_checked_rated_claimed_and_opened() {
    let mut run = Run::live();
    assert_eq!(run.step(Input::Heard), "HEARD");
    assert_eq!(run.step(Input::Heard), "", "once is enough");
    assert_eq!(run.text(&json!({ "type": "ping" })), "pong");
}

#[test]
fn what_was_read_of_a_client_before_the_epoch_began_is_read_again() {
    let mut run = Run::new();
    run.connect();
    run.step(Input::Token(Ok(identity("ann", 2_000))));
    run.step(Input::Rated(Verdict::Now));
    let epoch = Epoch(3);
    let known = Known {
        last_mutation: 7,
        until: Some(Until { lsn: Lsn(900), epoch: Some(epoch) }),
        ..Known::default()
    };
    let mut effects = Vec::new();
    run.session.step(Input::Claimed(Ok(known)), &run.now, &mut effects);
    let [Effect::Open(request)] = &effects[..] else { panic!("{effects:?}") };
    let streams = ReplicatorStatus::Streaming;
    let look = |epoch| look(false, Some((epoch, ())), &streams, request);
    let not_before = Some(Lsn(900));
    assert_eq!(look(epoch), Entrance::Open { serving: (), not_before });
    let Entrance::Closed(outdated) = look(Epoch(4)) else { panic!("another history") };
    assert_eq!(run.step(Input::Opened(Err(outdated))), "CLAIM(client-1)");
    let known = Known { last_mutation: 5, ..Known::default() };
    assert_eq!(run.step(Input::Claimed(Ok(known))), "OPEN");
    assert_eq!(run.step(Input::Opened(Ok(plan()))), "");
    assert_eq!(run.step(Input::Said(Delivery::Begin(Mode::Snapshot))), "PING connected");
}

#[test]
fn who_may_not_connect_is_told_why() {
    let ends = |code: &str| format!("error END({code})");
    let mut run = Run::new();
    assert_eq!(run.text(&json!({ "type": "ping" })), ends("bad_request"));
    let mut run = Run::new();
    let old = json!({ "type": "connect", "protocol": 1, "clientId": "client-1", "token": "t" });
    assert_eq!(run.text(&old), ends("client_too_old"));
    let mut run = Run::new();
    assert_eq!(run.pass(CONNECT_TIMEOUT), ends("timeout"));
    let mut run = Run::new();
    run.connect();
    assert_eq!(run.step(Input::Token(Err(Unauthorized::UserId.into()))), ends("unauthorized"));
    let mut run = Run::new();
    run.connect();
    run.step(Input::Token(Ok(identity("ann", 2_000))));
    assert_eq!(run.step(Input::Rated(Verdict::TooLong(SECOND))), ends("rate_limit_exceeded"));
    let mut run = Run::new();
    run.connect();
    run.step(Input::Token(Ok(identity("ann", 2_000))));
    run.step(Input::Rated(Verdict::Now));
    assert_eq!(run.step(Input::Claimed(Err(NoClaim::OtherUser))), ends("forbidden"));
    assert_eq!(run.step(Input::Stop), "", "it is over");
}

#[test]
fn a_mutation_over_the_rate_waits_and_nothing_is_read_meanwhile() {
    let mut run = Run::live();
    assert_eq!(run.mutate(8), "HEARD RATE(2)");
    assert_eq!(run.step(Input::Rated(Verdict::Now)), "PUSH(Given(8))");
    assert_eq!(run.mutate(9), "RATE(2)");
    assert_eq!(run.step(Input::Rated(Verdict::After(3 * SECOND))), "");
    assert!(!run.session.reads());
    assert_eq!(run.session.deadline(), Some(run.now.time + 3 * SECOND));
    assert_eq!(run.pass(2 * SECOND), "");
    assert_eq!(run.pass(SECOND), "PUSH(Given(9))");
    assert!(run.session.reads());
    // What would wait too long is sent again by the client, later: nothing is acknowledged for it.
    assert_eq!(run.mutate(10), "RATE(2)");
    let long = run.step(Input::Rated(Verdict::TooLong(20 * SECOND)));
    assert_eq!(long, "error END(rate_limit_exceeded)");
}

#[test]
fn a_full_queue_holds_up_the_client_for_a_while() {
    let full = |run: &mut Run| {
        let author = Arc::new(Author::default());
        let (number, asked) = (Number::Given(8), Asked::Apply(Vec::new()));
        let mutation = Mutation { number, author, asked, tolerance: None, operations: 1, bytes: 1 };
        run.step(Input::Full(Box::new(mutation)))
    };
    let mut run = Run::live();
    run.mutate(8);
    run.step(Input::Rated(Verdict::Now));
    assert_eq!(full(&mut run), "");
    assert!(!run.session.reads());
    assert_eq!(run.pass(FULL_RETRY), "PUSH(Given(8))");
    assert!(run.session.reads(), "there was room");
    run.mutate(9);
    run.step(Input::Rated(Verdict::Now));
    assert_eq!(full(&mut run), "");
    run.pass(FULL_PATIENCE);
    assert_eq!(full(&mut run), "error END(unavailable)");
}

#[test]
fn what_is_too_large_or_wrong_is_rejected_under_its_number() {
    let mut run = Run::live();
    let wrong = json!({ "type": "mutate", "id": 8, "ops": [], "filler": "x".repeat(100) });
    assert_eq!(run.text(&wrong), "HEARD RATE(1)");
    assert_eq!(run.step(Input::Rated(Verdict::Now)), "PUSH(Given(8))");
    let large = json!({ "type": "mutate", "id": 9, "ops": [], "filler": "x".repeat(400) });
    assert_eq!(run.text(&large), "RATE(1)");
    let mut effects = Vec::new();
    run.session.step(Input::Rated(Verdict::Now), &run.now, &mut effects);
    let [Effect::Push(mutation)] = &effects[..] else { panic!("{effects:?}") };
    let Asked::Reject(rejection) = &mutation.asked else { panic!("it is too large") };
    assert_eq!((rejection.code.as_str(), mutation.bytes), ("too_large", 0));
}

#[test]
fn a_server_that_stops_waits_for_what_was_sent_but_not_for_ever() {
    let mut idle = Run::live();
    assert_eq!(idle.step(Input::Stop), "");
    assert!(idle.session.reads(), "what is on its way still comes");
    assert_eq!(idle.pass(crate::limits::STOP_LISTEN), "error END(restarting)");
    let mut sent = Run::live();
    sent.step(Input::Stop);
    sent.mutate(8);
    assert_eq!(sent.step(Input::Rated(Verdict::Now)), "PUSH(Given(8))");
    assert_eq!(sent.pass(SECOND), "");
    assert_eq!(sent.ack(8), "pong error END(restarting)");
    let mut stuck = Run::live();
    stuck.mutate(8);
    stuck.step(Input::Rated(Verdict::Now));
    stuck.step(Input::Stop);
    assert_eq!(stuck.pass(crate::limits::STOP_PATIENCE), "error END(restarting)");
}

#[test]
fn the_token_ends_the_session_and_another_one_prolongs_it() {
    let mut run = Run::live();
    assert_eq!(run.pass(990 * SECOND), "PING");
    let auth = json!({ "type": "auth", "token": "new" });
    assert_eq!(run.text(&auth), "HEARD CHECK(new)");
    assert!(!run.session.reads());
    assert_eq!(run.step(Input::Token(Ok(identity("ann", 3_000)))), "");
    assert!(run.session.reads());
    assert_eq!(run.pass(20 * SECOND), "");
    run.text(&auth);
    assert_eq!(run.step(Input::Token(Ok(identity("eve", 3_000)))), "error END(unauthorized)");
    let mut run = Run::live();
    assert_eq!(run.pass(1_010 * SECOND), "error END(unauthorized)");
}

#[test]
fn silence_is_asked_about_and_ends_the_session() {
    let mut run = Run::live();
    assert_eq!(run.pass(crate::limits::PING_AFTER), "PING");
    assert_eq!(run.step(Input::Heard), "HEARD");
    assert_eq!(run.pass(crate::limits::PING_AFTER), "PING");
    assert_eq!(run.pass(crate::limits::SILENCE), "error END(timeout)");
}

#[test]
fn a_broken_queue_ends_the_session_by_whose_fault_it_is() {
    let gap = || Input::Broken(Broken::Gap { number: 9, last: 7 });
    let mut run = Run::live();
    run.mutate(9);
    run.step(Input::Rated(Verdict::Now));
    assert_eq!(run.step(gap()), "error END(bad_request)", "it has left out a number");
    let mut run = Run::live();
    run.mutate(8);
    run.step(Input::Rated(Verdict::Now));
    assert_eq!(run.step(gap()), "error END(restarting)", "the database has gone back");
    let superseded = Run::live().step(Input::Broken(Broken::Superseded));
    assert_eq!(superseded, "error END(restarting)", "it sends again what was let go");
    assert_eq!(Run::live().step(Input::Superseded), "error END(superseded)");
}

#[test]
fn tokens_are_checked_at_a_pace_and_meanwhile_nothing_is_read() {
    let mut run = Run::live();
    let auth = |n: u32| json!({ "type": "auth", "token": format!("t{n}") });
    for n in 0..AUTH_PER_MINUTE {
        assert_eq!(run.text(&auth(n)).trim_start_matches("HEARD "), format!("CHECK(t{n})"));
        assert!(!run.session.reads(), "one token at a time");
        run.step(Input::Token(Ok(identity("ann", 2_000))));
    }
    assert_eq!(run.text(&auth(99)), "LIMITED(auth)");
    assert!(!run.session.reads());
    let due = run.session.deadline().unwrap();
    assert_eq!(due, run.now.time + 60 * SECOND / AUTH_PER_MINUTE);
    assert_eq!(run.pass(SECOND), "");
    assert!(!run.session.reads());
    assert_eq!(run.pass(due - run.now.time), "CHECK(t99)");
    run.step(Input::Token(Ok(identity("ann", 2_000))));
    assert!(run.session.reads());
    // It was not silent, it was not heard.
    assert_eq!(run.pass(SECOND), "");
}

#[test]
fn a_stranger_is_let_in_once_all_is_there() {
    let mut run = Run::new();
    assert!(!run.session.has_let_in());
    run.connect();
    run.step(Input::Token(Ok(identity("ann", 2_000))));
    run.step(Input::Rated(Verdict::Now));
    run.step(Input::Claimed(Ok(Known::default())));
    assert!(!run.session.has_let_in() && !run.session.reads());
    run.step(Input::Opened(Ok(plan())));
    assert!(run.session.has_let_in() && run.session.reads());
}

/// A session of somebody without a token, under a definition that lets such clients in, or under none yet.
fn without_token(plan: Option<Plan>) -> Run {
    let now = Now { time: Duration::from_secs(5), unix: Duration::from_secs(1_000) };
    Run { session: Session::new(ClientLimits::default(), None, plan.map(Arc::new), &now), now }
}

fn lets_in() -> Plan {
    Plan { anonymous: true, ..Plan::default() }
}

/// Says what the client has, and returns what is asked of the engines.
fn open_without_token(run: &mut Run, acked: u64) -> OpenRequest {
    let connect =
        json!({ "type": "connect", "protocol": 1, "clientId": "client-1", "acked": acked });
    assert_eq!(run.text(&connect), "RATE(origin)");
    let mut effects = Vec::new();
    run.session.step(Input::Rated(Verdict::Now), &run.now, &mut effects);
    let Some(Effect::Open(request)) = effects.pop() else { panic!("{effects:?}") };
    assert!(effects.is_empty(), "nobody is asked whose the client id is: {effects:?}");
    request
}

fn at(lsn: u64) -> Delivery {
    let cursor = Cursor { epoch: Epoch(1), view: rowtide_protocol::ViewId(1), lsn: Lsn(lsn) };
    let text = rowtide_protocol::ready_frame(cursor);
    Delivery::Frame(SessionFrame {
        frame: TextFrame::new(text),
        rows: 0,
        commit_time_us: None,
        acknowledges: None,
        cursor: Some(cursor),
        unsubscribed: Vec::new(),
    })
}

#[test]
fn who_has_no_token_is_let_in_where_the_definition_says_so_and_is_nobody() {
    let connect = json!({ "type": "connect", "protocol": 1, "clientId": "client-1" });
    let refused = "error END(unauthorized)";
    assert_eq!(without_token(Some(Plan::default())).text(&connect), refused);
    // What serves in the end decides, where nothing did when the socket was opened.
    let mut late = without_token(None);
    open_without_token(&mut late, 0);
    assert_eq!(late.step(Input::Opened(Ok(Arc::new(Plan::default())))), refused);
    let mut run = without_token(Some(lets_in()));
    let request = open_without_token(&mut run, 0);
    assert!(request.author.is_none() && request.client.is_none(), "{request:?}");
    run.step(Input::Opened(Ok(Arc::new(lets_in()))));
    let mut effects = Vec::new();
    run.session.step(Input::Said(Delivery::Begin(Mode::Snapshot)), &run.now, &mut effects);
    let [Effect::Ping, Effect::Send(connected)] = &effects[..] else { panic!("{effects:?}") };
    let connected: Value = serde_json::from_slice(connected).unwrap();
    assert_eq!((&connected["userId"], &connected["lastMutation"]), (&Value::Null, &json!(0)));
    // There is no token that could end.
    let year = 365 * 86_400 * SECOND;
    assert_eq!(run.pass(year), "PING");
}

#[test]
fn a_token_that_is_there_and_no_good_makes_nobody_of_nobody() {
    for token in ["", "null", "bad"] {
        let mut run = without_token(Some(lets_in()));
        let connect =
            json!({ "type": "connect", "protocol": 1, "clientId": "client-1", "token": token });
        assert_eq!(run.text(&connect), format!("CHECK({token})"));
        let bad = Err(TokenError::Unauthorized(Unauthorized::Missing));
        assert_eq!(run.step(Input::Token(bad)), "error END(unauthorized)");
    }
}

#[test]
fn a_place_that_has_sent_too_many_without_a_token_is_told_when_to_come_back() {
    let mut run = without_token(Some(lets_in()));
    run.text(&json!({ "type": "connect", "protocol": 1, "clientId": "client-1" }));
    let later = Input::Rated(Verdict::TooLong(SECOND));
    assert_eq!(run.step(later), "error END(rate_limit_exceeded)");
}

#[test]
fn mutations_of_nobody_are_rejected_in_order_once_there_is_a_position_and_never_reach_the_queue() {
    let mut run = without_token(Some(lets_in()));
    open_without_token(&mut run, 7);
    run.step(Input::Opened(Ok(Arc::new(lets_in()))));
    assert_eq!(run.mutate(8), "HEARD COUNT(forbidden)", "its rows are not there yet");
    assert_eq!(run.step(Input::Said(Delivery::Begin(Mode::Snapshot))), "PING connected");
    assert_eq!(run.mutate(9), "COUNT(forbidden)");
    assert_eq!(run.step(Input::Said(at(1))), "ready reject reject tx");
    assert_eq!(run.mutate(10), "COUNT(forbidden) reject tx");
    assert_eq!(run.mutate(9), "reject tx", "it is told again");
    assert_eq!(run.mutate(7), "", "of that one nothing is known");
    assert_eq!(run.mutate(12), "error END(bad_request)");
}

#[test]
fn mutations_of_nobody_wait_for_a_position_up_to_a_number() {
    let mut run = without_token(Some(lets_in()));
    open_without_token(&mut run, u64::MAX);
    let mut run = without_token(Some(lets_in()));
    open_without_token(&mut run, 0);
    run.step(Input::Opened(Ok(Arc::new(lets_in()))));
    let ended = (1..1_000).find(|id| run.mutate(*id).ends_with("END(unavailable)"));
    assert_eq!(ended, Some(MUTATION_QUEUE as u64 + 1));
}

#[test]
fn whoever_signs_in_connects_anew() {
    let mut run = without_token(Some(lets_in()));
    open_without_token(&mut run, 0);
    run.step(Input::Opened(Ok(Arc::new(lets_in()))));
    run.text(&json!({ "type": "auth", "token": "t" }));
    assert_eq!(run.step(Input::Token(Ok(identity("ann", 2_000)))), "error END(unauthorized)");
}
