//! Good inputs of each target, and the words that they are made of.

use std::sync::Arc;

use rowtide_feed::codec::encode;
use rowtide_feed::{Acknowledgement, Change, Changes, Event, Transaction};
use rowtide_plan::encode::{Datum, RowEncoder};
use rowtide_plan::plan::TableId;
use rowtide_protocol::{Cursor, Epoch, Lsn, Rejected, ViewId};

use crate::plan::{DEFINITION, plan};

/// A good first message.
pub(crate) const CONNECT: &str =
    r#"{"type":"connect","protocol":1,"clientId":"client-1","token":"t","appVersion":3}"#;

const ROW: [(&str, u32, &str); 9] = [
    ("id", 23, "7"),
    ("owner", 25, "ann"),
    ("person", 25, "ann"),
    ("team", 2950, "5e7f2a1c-0000-4000-8000-1234567890ab"),
    ("size", 1700, "12.50"),
    ("score", 701, "0.1"),
    ("done", 16, "t"),
    ("at", 1184, "2024-02-29 12:00:00.123456+00"),
    ("data", 3802, r#"{"a": [1, null]}"#),
];

pub(crate) const RULE_WORDS: &[&[u8]] = &[
    b" AND ",
    b" OR ",
    b" NOT ",
    b" IN (SELECT team FROM member WHERE person = auth.user_id)",
    b"auth.user_id",
    b"auth.claims.x",
    b"old.owner",
    b"new.owner",
    b" = ",
    b" <> ",
    b" >= ",
    b" IS NULL",
    b"'text'",
    b"::text",
    b"[tables.note]",
    b"[tables.member]",
    b"visible = ",
    b"[tables.note.insert]",
    b"[[tables.note.update]]",
    b"[tables.note.delete]",
    b"allow = ",
    b"where = ",
    b"immutable = ",
    b"readonly = ",
    b"true",
    b"[app]",
    b"min_client = 3",
    b"EXISTS",
    b"(",
    b")",
    b"'''",
    b"--",
    b"/*",
    b"$1",
    b"\"id\"",
];

pub(crate) const MESSAGE_WORDS: &[&[u8]] = &[
    b"\"type\"",
    b"\"connect\"",
    b"\"mutate\"",
    b"\"auth\"",
    b"\"ping\"",
    b"\"id\"",
    b"\"ops\"",
    b"\"op\"",
    b"\"insert\"",
    b"\"update\"",
    b"\"delete\"",
    b"\"table\"",
    b"\"note\"",
    b"\"member\"",
    b"\"row\"",
    b"\"owner\"",
    b"\"size\"",
    b"\"at\"",
    b"\"data\"",
    b"\"score\"",
    b"\"done\"",
    b"\"team\"",
    b"\"cursor\"",
    b"\"settled\"",
    b"\"acked\"",
    b",",
    b":",
    b"\n",
];

pub(crate) const OLDER_WORDS: &[&[u8]] = &[
    b"\"type\"",
    b"\"mutate\"",
    b"\"mutationId\"",
    b"\"updates\"",
    b"\"table\"",
    b"\"value\"",
    b"\"user\"",
    b"\"file\"",
    b"\"file_state\"",
    b"\"fileId\"",
    b"\"userId\"",
    b"\"create\"",
    b"\"update\"",
    b"\"delete\"",
    b"\"ping\"",
    b"0_",
    b"1_",
    b"2_",
    b"ping",
    b",",
    b":",
    b"\n",
];

pub(crate) const TOKEN_WORDS: &[&[u8]] = &[
    b"\"alg\"",
    b"\"HS256\"",
    b"\"none\"",
    b"\"RS256\"",
    b"\"crit\"",
    b"\"kid\"",
    b"\"sub\"",
    b"\"exp\"",
    b"\"nbf\"",
    b"\"iss\"",
    b"\"aud\"",
    b"\"jwk\"",
    b"\"b64\"",
    b"4000000000",
    b",",
    b":",
    b"\n",
];

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub(crate) fn definition() -> Vec<Vec<u8>> {
    texts(&[
        DEFINITION,
        "[tables.note]\nvisible = 'owner = auth.user_id'\n",
        "[tables.note]\nvisible = 'true'\n[tables.note.insert]\nallow = 'new.size < 5 AND new.owner = auth.claims.x'\n[[tables.note.insert.limit]]\nwhere = 'owner = auth.user_id'\nmax = 5\n",
        "[tables.note]\nvisible = 'person IN (SELECT owner FROM member WHERE team IN (SELECT team FROM note WHERE owner = auth.user_id))'",
        "[tables.note]\nvisible = '(owner, person) NOT IN (SELECT owner, person FROM member) OR owner = auth.user_id AND NOT EXISTS (SELECT 1 FROM member AS m WHERE m.owner = note.owner AND m.team IS NULL)'",
        "[tables.\"public.note\"]\nvisible = '''done AND NOT (size > 1.5 OR at IS NULL) AND owner = auth.user_id'''",
    ])
}

pub(crate) fn client_message() -> Vec<Vec<u8>> {
    texts(&[
        CONNECT,
        r#"{"type":"connect","protocol":1,"clientId":"client-1","cursor":"AAAA","settled":3,"acked":4}"#,
        r#"{"type":"auth","token":"x.y.z"}"#,
        "{\"type\":\"ping\"}\n{\"type\":\"ping\"}",
        r#"{"type":"mutate","id":1,"ops":[{"op":"insert","table":"note","row":{"id":7,"owner":"ann","size":"1.5","score":0.1,"done":true}}]}"#,
        r#"{"type":"mutate","id":2,"ops":[{"op":"update","table":"note","row":{"id":7,"at":"2024-02-29T12:00:00Z","data":{"a":[1,null]}}},{"op":"delete","table":"note","row":{"id":8}}]}"#,
        r#"{"type":"mutate","id":3,"ops":[{"op":"insert","table":"member","row":{"id":7,"team":"5e7f2a1c-0000-4000-8000-1234567890ab"}}]}"#,
    ])
}

pub(crate) fn older() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"type":"mutate","mutationId":"m1","updates":[{"table":"file","type":"create","value":{"id":"f1","name":"a"}}]}"#,
        r#"{"type":"mutate","mutationId":"m2","updates":[{"table":"file_state","type":"update","value":{"fileId":"f1","userId":"ann","position":3}}]}"#,
        "2_{\"type\":\"mutate\",\n1_\"mutationId\":\"m\",\n0_\"updates\":[]}",
        r#"{"type":"ping"}"#,
        "ping\nping",
    ])
}

pub(crate) fn token() -> Vec<Vec<u8>> {
    texts(&[
        "{\"alg\":\"HS256\",\"typ\":\"JWT\"}\n{\"sub\":\"ann\",\"exp\":4000000000}",
        "{\"alg\":\"HS256\",\"kid\":\"a\"}\n{\"sub\":\"ann\",\"exp\":4000000000.5,\"nbf\":1,\"iss\":\"x\",\"aud\":[\"y\"],\"role\":{\"a\":1}}",
        "{\"alg\":\"HS256\",\"crit\":[\"b64\"],\"b64\":false}\n{\"sub\":\"ann\",\"exp\":4000000000}",
        "{\"alg\":\"none\"}\n{\"sub\":17,\"exp\":1}",
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.",
    ])
}

pub(crate) fn cursor() -> Vec<Vec<u8>> {
    let cursor = |n: u64| Cursor { epoch: Epoch(n), view: ViewId(!n), lsn: Lsn(n << 20) };
    [0, 1, 0x1234_5678, u64::MAX].map(|n| cursor(n).to_string().into_bytes()).into()
}

pub(crate) fn gate() -> Vec<Vec<u8>> {
    let masked = |first: u8, payload: &[u8]| {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..126 => frame.push(0x80 | length as u8),
            length => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
        }
        frame.extend([1, 2, 3, 4]);
        frame.extend(payload);
        frame
    };
    vec![
        masked(0x81, b"{}"),
        [masked(0x01, b"ab"), masked(0x89, b"ping"), masked(0x80, &[b'x'; 900])].concat(),
        [masked(0x81, &[b'x'; 1_000]), masked(0x81, &[b'x'; 1_001])].concat(),
        vec![0x81, 0xff, 0, 0, 0, 0, 0, 0x40, 0, 0, 1, 2, 3, 4],
    ]
}

fn changes() -> Vec<Change> {
    let plan = plan();
    let table = TableId(1);
    let names = ROW.map(|(name, _, _)| name);
    let Ok(encoder) = RowEncoder::new(&plan, table, &names) else { return Vec::new() };
    let row = |id: &str| {
        let datums = ROW.map(|(name, _, text)| {
            let text = if name == "id" { id } else { text };
            Datum::Text(text.as_bytes())
        });
        encoder.row(&datums).ok().map(Arc::new)
    };
    let (one, two) = (row("1"), row("2"));
    let image =
        |row: &Option<Arc<rowtide_plan::row::Row>>| row.as_ref().map(|row| row.image.clone());
    [
        Change::between(table, None, one.clone()),
        Change::between(table, image(&two), two.clone()),
        Change::between(table, image(&one), None),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub(crate) fn feed_event() -> Vec<Vec<u8>> {
    let acknowledgement = Acknowledgement {
        client: "client-1".into(),
        last_mutation: 7,
        rejected: vec![Rejected { id: 6, code: "forbidden".to_owned(), message: "no".to_owned() }],
        name: Some("m1".into()),
        keys: Vec::new(),
    };
    let transaction = |changes| {
        let transaction = Arc::new(Transaction {
            lsn: Lsn(200),
            xid: 9,
            commit_time_us: 1_700_000_000_000_000,
            truncated: vec![TableId(0)],
            changes,
            acknowledgements: vec![Arc::new(acknowledgement.clone())],
        });
        Event::Transaction { previous: Lsn(100), transaction }
    };
    let events = [
        transaction(Changes::Rows(changes())),
        transaction(Changes::TooLarge(vec![TableId(0), TableId(1)])),
        Event::Position { previous: Lsn(100), lsn: Lsn(300), time_us: 5 },
    ];
    let bytes = |event: &Event| {
        let mut bytes = Vec::new();
        encode(event, &mut bytes);
        bytes
    };
    let mut seeds: Vec<Vec<u8>> = events.iter().map(bytes).collect();
    seeds.push(seeds.concat());
    seeds
}

pub(crate) fn pgoutput() -> Vec<Vec<u8>> {
    let tuple = || {
        let mut tuple = (ROW.len() as u16).to_be_bytes().to_vec();
        for (index, (_, _, text)) in ROW.iter().enumerate() {
            match index {
                4 => tuple.push(b'n'),
                8 => tuple.push(b'u'),
                _ => {
                    tuple.push(b't');
                    tuple.extend((text.len() as u32).to_be_bytes());
                    tuple.extend(text.as_bytes());
                }
            }
        }
        tuple
    };
    let of = |parts: &[&[u8]]| parts.concat();
    let oid = 2_u32.to_be_bytes();
    let mut columns = (ROW.len() as u16).to_be_bytes().to_vec();
    for (name, kind, _) in ROW {
        columns.extend(of(&[
            &[1],
            name.as_bytes(),
            &[0],
            &kind.to_be_bytes(),
            &(-1_i32).to_be_bytes(),
        ]));
    }
    let begin = of(&[b"B", &200_u64.to_be_bytes(), &5_u64.to_be_bytes(), &9_u32.to_be_bytes()]);
    let commit =
        of(&[b"C\0", &200_u64.to_be_bytes(), &210_u64.to_be_bytes(), &5_u64.to_be_bytes()]);
    let relation = of(&[b"R", &oid, b"public\0note\0f", &columns]);
    let insert = of(&[b"I", &oid, b"N", &tuple()]);
    let update = of(&[b"U", &oid, b"O", &tuple(), b"N", &tuple()]);
    let delete = of(&[b"D", &oid, b"O", &tuple()]);
    let truncate = of(&[b"T", &1_u32.to_be_bytes(), &[0], &oid]);
    let framed = |messages: &[&Vec<u8>]| {
        let frame = |message: &&Vec<u8>| of(&[&(message.len() as u16).to_be_bytes(), message]);
        messages.iter().flat_map(frame).collect::<Vec<u8>>()
    };
    vec![
        framed(&[&begin, &relation, &insert, &update, &delete, &commit]),
        framed(&[
            &begin, &relation, &insert, &truncate, &insert, &commit, &begin, &delete, &commit,
        ]),
        framed(&[&begin, &relation, &update, &relation, &update, &commit]),
        insert,
        relation,
    ]
}
