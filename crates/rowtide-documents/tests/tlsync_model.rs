//! A room of tldraw's clients against clients of several versions: they edit what they like, go away, edit on, come
//! back, and the server ends at any effect. Each believes only what it is told, which must at every clock be the very
//! document that the room had then; in the end everybody has the same, and nothing is lost that anybody was told.

#![allow(clippy::unwrap_used, reason = "a test")]

mod tlsync;

use std::time::Duration;

use proptest::prelude::*;
use rowtide_documents::place::{Access, Closing, Reason};
use serde_json::{Value, json};
use tlsync::anything;
use tlsync::diff::Records;
use tlsync::world::World;

/// What a user does to the records that it sees.
#[derive(Clone, Debug)]
enum Edit {
    Remove,
    Move(u32),
    Write(&'static str),
    Type(&'static str),
    AddPoint(u32),
    MovePoint(usize, u32),
    DropPoint,
    Note(u32),
    Forget,
}

#[derive(Clone, Debug)]
enum Step {
    Edit { who: usize, shape: usize, edit: Edit },
    Show { who: usize, at: u32 },
    Push { who: usize },
    Ping { who: usize },
    Hear { who: usize, messages: usize, parts: usize },
    Deliver { who: usize, frames: usize },
    Come { who: usize },
    Cut { who: usize, noticed: bool },
    Store { edits: usize },
    Save { keep_log: bool },
    Crash,
    Lose { older: usize },
    Pass { ms: u64 },
    PassBusy { ms: u64 },
    Rename { name: u32 },
    Restore { older: usize },
    ChangeAccess { who: usize },
    Vandal { how: usize },
    Stranger { newer: bool },
}

const MEMBERS: [(u8, Access); 6] = [
    (8, Access::Edit),
    (7, Access::Edit),
    (8, Access::Edit),
    (6, Access::Edit),
    (5, Access::Read),
    (8, Access::Read),
];

const WRONG: [(&str, Closing); 8] = [
    ("hello", Closing::ComeBack),
    ("{", Closing::ComeBack),
    ("0_{\"type\"", Closing::ComeBack),
    ("{}", Closing::Final(Reason::UnknownError)),
    (
        r#"{"type":"push","clientClock":1,"diff":{"shape:0":["explode"]}}"#,
        Closing::Final(Reason::UnknownError),
    ),
    (
        r#"{"type":"push","clientClock":1,"diff":{"page:page":["remove"],"camera:a":["put",{"id":"camera:a","typeName":"camera"}]}}"#,
        Closing::Final(Reason::InvalidRecord),
    ),
    (
        r#"{"type":"push","clientClock":1,"diff":{"shape:0":["put",{"id":"shape:1","typeName":"shape"}]}}"#,
        Closing::Final(Reason::InvalidRecord),
    ),
    (
        r#"{"type":"push","clientClock":1,"diff":{"shape:0":["put",{"id":"shape:0","typeName":"page"}]}}"#,
        Closing::Final(Reason::InvalidRecord),
    ),
];

fn edit() -> impl Strategy<Value = Edit> {
    let piece = prop_oneof![Just("a"), Just("b😀"), Just("é"), Just("")];
    prop_oneof![
        6 => Just(Edit::Remove),
        3 => (0..4_u32).prop_map(Edit::Move),
        1 => piece.clone().prop_map(Edit::Write),
        4 => piece.prop_map(Edit::Type),
        3 => (0..4_u32).prop_map(Edit::AddPoint),
        2 => (0..4_usize, 0..4_u32).prop_map(|(at, x)| Edit::MovePoint(at, x)),
        1 => Just(Edit::DropPoint),
        2 => (0..4_u32).prop_map(Edit::Note),
        1 => Just(Edit::Forget),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..MEMBERS.len();
    prop_oneof![
        80 => (who.clone(), 0..8_usize, edit()).prop_map(|(who, shape, edit)| Step::Edit { who, shape, edit }),
        5 => (who.clone(), 0..9_u32).prop_map(|(who, at)| Step::Show { who, at }),
        50 => who.clone().prop_map(|who| Step::Push { who }),
        2 => who.clone().prop_map(|who| Step::Ping { who }),
        50 => (who.clone(), 1..4_usize, 1..4_usize)
            .prop_map(|(who, messages, parts)| Step::Hear { who, messages, parts }),
        50 => (who.clone(), 1..4_usize).prop_map(|(who, frames)| Step::Deliver { who, frames }),
        15 => who.clone().prop_map(|who| Step::Come { who }),
        4 => (who.clone(), any::<bool>()).prop_map(|(who, noticed)| Step::Cut { who, noticed }),
        30 => (1..5_usize).prop_map(|edits| Step::Store { edits }),
        2 => any::<bool>().prop_map(|keep_log| Step::Save { keep_log }),
        2 => Just(Step::Crash),
        1 => (0..9_usize).prop_map(|older| Step::Lose { older }),
        5 => (0..40_u64).prop_map(|ms| Step::PassBusy { ms }),
        10 => prop_oneof![0..30_u64, Just(5_000), Just(21_000)].prop_map(|ms| Step::Pass { ms }),
        1 => (0..3_u32).prop_map(|name| Step::Rename { name }),
        1 => (0..9_usize).prop_map(|older| Step::Restore { older }),
        1 => who.prop_map(|who| Step::ChangeAccess { who }),
        2 => (0..WRONG.len()).prop_map(|how| Step::Vandal { how }),
        1 => any::<bool>().prop_map(|newer| Step::Stranger { newer }),
    ]
}

/// What a user's edit makes of the records that it sees.
fn do_edit(records: &mut Records, shape: usize, edit: &Edit) {
    let id = format!("shape:{shape}");
    if let Edit::Remove = edit {
        records.remove(&id);
        return;
    }
    let record = records.entry(id.clone()).or_insert_with(|| {
        let props = json!({"text": "", "points": [], "size": {"w": 1, "h": 0.5}});
        json!({"id": id, "typeName": "shape", "x": 0, "props": props, "meta": {}})
    });
    let texts = |value: &mut Value| value.as_str().unwrap_or_default().to_owned();
    match edit {
        Edit::Remove => {}
        Edit::Move(x) => record["x"] = json!(x),
        Edit::Write(text) => record["props"]["text"] = json!(text),
        Edit::Type(text) => {
            record["props"]["text"] = json!(texts(&mut record["props"]["text"]) + text);
        }
        Edit::AddPoint(x) => {
            record["props"]["points"].as_array_mut().unwrap().push(json!({"x": x, "y": 0}));
        }
        Edit::MovePoint(at, x) => {
            if let Some(point) = record["props"]["points"].as_array_mut().unwrap().get_mut(*at) {
                point["x"] = json!(x);
            }
        }
        Edit::DropPoint => {
            record["props"]["points"].as_array_mut().unwrap().pop();
        }
        Edit::Note(n) => {
            record["meta"]["note"] = json!({"n": n, "text": format!("{n}")});
            record["props"]["size"]["w"] = json!(n);
        }
        Edit::Forget => {
            record["meta"].as_object_mut().unwrap().remove("note");
        }
    }
}

fn play(steps: &[Step]) {
    let mut world = World::new(&MEMBERS);
    for who in 0..MEMBERS.len() {
        world.come(who);
        world.hear(who, 1, 1);
        world.deliver(who, 1);
    }
    for step in steps {
        match step {
            Step::Edit { who, shape, edit } => {
                do_edit(&mut world.members[*who].client.view, *shape, edit);
            }
            Step::Show { who, at } => {
                world.members[*who].client.shown =
                    Some(json!({"id": "instance_presence:mine", "shown": [who, at]}));
            }
            Step::Push { who } => world.members[*who].client.push(),
            Step::Ping { who } => world.members[*who].client.ping(),
            Step::Hear { who, messages, parts } => world.hear(*who, *messages, *parts),
            Step::Deliver { who, frames } => world.deliver(*who, *frames),
            Step::Come { who } => world.come(*who),
            Step::Cut { who, noticed } => world.cut(*who, *noticed),
            Step::Store { edits } => world.store(*edits),
            Step::Save { keep_log } => world.save(*keep_log),
            Step::Crash => world.crash(),
            Step::Lose { older } => world.lose(*older),
            Step::Pass { ms } => world.pass(Duration::from_millis(*ms)),
            Step::PassBusy { ms } => world.pass_busy(Duration::from_millis(*ms)),
            Step::Rename { name } => world.rename(&format!("name {name}")),
            Step::Restore { older } => world.restore(*older),
            Step::ChangeAccess { who } => world.change_access(*who),
            Step::Vandal { how } => world.vandal(WRONG[*how].0, WRONG[*how].1),
            Step::Stranger { newer } => world.stranger(*newer),
        }
    }
    world.end();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everybody_sees_the_room_and_nothing_that_was_told_is_lost(
        steps in proptest::collection::vec(step(), 1..400)
    ) {
        play(&steps);
    }

    #[test]
    fn whatever_somebody_says_hurts_nobody_else(
        texts in proptest::collection::vec(anything::message(), 1..40)
    ) {
        let mut world = World::new(&[(8, Access::Edit), (7, Access::Edit), (6, Access::Read)]);
        for who in 0..3 {
            world.come(who);
            world.hear(who, 1, 1);
        }
        for (n, text) in texts.iter().enumerate() {
            world.members[n % 2].client.shown = Some(json!({"shown": [n]}));
            do_edit(&mut world.members[n % 2].client.view, n % 4, &Edit::Move(n as u32));
            world.members[n % 2].client.push();
            world.hear(n % 2, 1, 1);
            world.say_anything(text);
            world.store(1);
            world.deliver(n % 3, 2);
        }
        world.end();
    }
}
