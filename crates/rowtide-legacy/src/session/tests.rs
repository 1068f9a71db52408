use rowtide_gateway::conversation::{Known, NoClaim};
use rowtide_gateway::limits::STOP_LISTEN;
use serde_json::Map;

use super::*;

fn now(ms: u64) -> Now {
    Now { time: Duration::from_millis(ms), unix: Duration::from_secs(1) }
}

fn session(plan: Option<Arc<Plan>>) -> OlderSession {
    let author = Arc::new(Author { user_id: "ann".to_owned(), claims: Map::new() });
    let identity = Identity { author, expires_at_s: 1 << 40 };
    OlderSession::new(ClientLimits::default(), identity, "tab", plan)
}

fn step(session: &mut OlderSession, input: Input<'_, SessionStep>, ms: u64) -> Vec<Effect> {
    let mut out = Vec::new();
    session.step(input, &now(ms), &mut out);
    out
}

fn mutate(name: &str) -> String {
    format!(r#"{{"type":"mutate","mutationId":"{name}","updates":[]}}"#)
}

fn pushed(effects: &[Effect]) -> Vec<String> {
    let name = |effect: &Effect| match effect {
        Effect::Push(mutation) => match &mutation.number {
            Number::Next { name, .. } => Some(name.to_string()),
            Number::Given(_) => None,
        },
        _ => None,
    };
    effects.iter().filter_map(name).collect()
}

fn ends(effects: &[Effect]) -> Option<ErrorCode> {
    effects.iter().find_map(|effect| match effect {
        Effect::End(ending) => ending.as_ref().map(|ending| ending.code),
        _ => None,
    })
}

/// What comes to a session in the order in which it may, when the server stops.
fn opening(claimed: bool) -> OlderSession {
    let mut session = session(Some(Arc::new(Plan::default())));
    step(&mut session, Input::Begin, 0);
    if claimed {
        step(&mut session, Input::Claimed(Ok(Known::default())), 1);
    }
    assert!(!session.reads(), "what comes waits in the socket");
    session
}

#[test]
fn what_arrived_before_the_view_was_there_is_taken_when_the_server_stops() {
    for claimed in [false, true] {
        let mut session = opening(claimed);
        assert_eq!(ends(&step(&mut session, Input::Stop, 10)), None, "claimed: {claimed}");
        assert!(session.reads(), "claimed: {claimed}");
        let taken = step(&mut session, Input::Text(&mutate("a")), 11);
        assert_eq!(pushed(&taken), ["a"], "claimed: {claimed}");
        // Nobody tells it of an acknowledgement: it does not wait for one.
        let over = 10 + STOP_LISTEN.as_millis() as u64;
        assert_eq!(session.deadline(), Some(Duration::from_millis(over)));
        let effects = step(&mut session, Input::Clock, over);
        assert_eq!(ends(&effects), Some(ErrorCode::Restarting), "claimed: {claimed}");
        let late = step(&mut session, Input::Text(&mutate("b")), over + 1);
        assert_eq!(pushed(&late), ["b"], "sent before the client has heard of the end");
    }
}

#[test]
fn engines_may_have_stopped_before_the_session_is_told_to() {
    let mut session = opening(true);
    let effects = step(&mut session, Input::Opened(Err(NotServing::Stopped)), 10);
    assert_eq!(ends(&effects), None);
    step(&mut session, Input::Stop, 11);
    assert_eq!(pushed(&step(&mut session, Input::Text(&mutate("a")), 12)), ["a"]);
    // Whatever else is in the way is not its client's doing either.
    let mut session = opening(true);
    let standby = NotServing::Standby("another streams".to_owned());
    let effects = step(&mut session, Input::Opened(Err(standby)), 10);
    assert_eq!(ends(&effects), Some(ErrorCode::Unavailable));
    assert_eq!(pushed(&step(&mut session, Input::Text(&mutate("a")), 11)), ["a"]);
    // One tab too many is.
    let mut session = opening(false);
    let effects = step(&mut session, Input::Claimed(Err(NoClaim::TooManySessions(1))), 10);
    assert_eq!(ends(&effects), Some(ErrorCode::RateLimitExceeded));
    assert!(step(&mut session, Input::Text(&mutate("a")), 11).is_empty());
}

#[test]
fn without_a_plan_what_has_arrived_is_rejected_before_the_goodbye() {
    let mut session = session(None);
    step(&mut session, Input::Begin, 0);
    step(&mut session, Input::Claimed(Ok(Known::default())), 1);
    step(&mut session, Input::Stop, 10);
    assert!(session.reads());
    let told = step(&mut session, Input::Text(&mutate("a")), 11);
    let Some(Effect::Send(text)) = told.first() else { panic!("{told:?}") };
    let text = std::str::from_utf8(text).unwrap();
    assert!(text.contains("reject") && text.contains("unknown_error"), "{text}");
}

#[test]
fn a_live_session_waits_until_what_it_took_is_acknowledged() {
    let mut session = opening(true);
    step(&mut session, Input::Opened(Ok(Arc::new(Plan::default()))), 2);
    // Its first rows have not come.
    step(&mut session, Input::Text(&mutate("a")), 3);
    assert_eq!(pushed(&step(&mut session, Input::Rated(Verdict::Now), 3)), ["a"]);
    step(&mut session, Input::Stop, 10);
    let listened = 10 + STOP_LISTEN.as_millis() as u64;
    assert_eq!(ends(&step(&mut session, Input::Clock, listened)), None);
    assert!(session.deadline() > Some(Duration::from_millis(listened)));
}
