//! The page of the configuration tells which limits hold where nothing is set, and which cannot be set. Each number of it
//! that is a limit is held against what a server goes by with an empty configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use rowtide::config::{Config, Settings};
use rowtide::limits::{
    self, ACCEPT_BACKLOG, AUTH_PER_MINUTE, CONNECT_TIMEOUT, ClientLimits, ConnectionLimits,
    DRAIN_TIMEOUT, FIRST_MESSAGE_BYTES, FULL_PATIENCE, GOODBYE_MESSAGES, GOODBYE_TIMEOUT,
    HEAD_BYTES, HEALTH_CONNECTIONS, HEALTH_TIMEOUT, KEPT_DEFLATED_BYTES, MAX_TOKEN_BYTES,
    MAX_USER_ID_BYTES, MESSAGES_PER_SECOND, MUTATION_QUEUE, MUTATION_QUEUE_BYTES, PING_AFTER,
    RATE_PATIENCE, SAVE_TIMEOUT, SILENCE, STOP_PATIENCE, SUBSCRIBES_PER_SECOND, SUBSCRIPTION_BYTES,
    SUBSCRIPTIONS_PER_SESSION, WRITE_TIMEOUT, documents,
};
use rowtide_documents::host::HostLimits;
use rowtide_documents::tlsync::TlsyncLimits;
use rowtide_documents::yjs::YjsLimits;
use rowtide_plan::window::MAX_WINDOW_ROWS;
use rowtide_postgres::standings::STANDING_TIMEOUT;
use rowtide_schema::SchemaLimits;

const PAGE: &str = include_str!("../../docs/configuration.md");

/// What is configured where nothing is set but what has no default.
fn configured(change: impl FnOnce(&mut Settings)) -> Config {
    let mut settings = Settings {
        database_url: Some("postgres://ann@localhost/app".to_owned()),
        token_secret: Some("a secret that is long enough for HS256".to_owned()),
        ..Settings::default()
    };
    change(&mut settings);
    settings.check().unwrap_or_else(|error| panic!("{error}"))
}

/// The rows of the page's tables, by their first cell, with the second.
fn rows() -> BTreeMap<&'static str, &'static str> {
    let cells = |line: &'static str| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        Some((cells.next()?, cells.next()?.trim_end_matches(" |")))
    };
    PAGE.lines().filter_map(cells).collect()
}

#[test]
fn an_empty_configuration_has_the_limits_that_the_page_tells_of() {
    let config = configured(|_| ());
    let Config { client, connections, .. } = &config;
    let seconds = |duration: Duration| duration.as_secs();
    let days = |duration: Duration| duration.as_secs() / 86_400;
    let actual: BTreeMap<&str, u64> = BTreeMap::from([
        ("`jwks_seconds`", seconds(config.auth.jwks_age)),
        ("`send_queue_bytes`", config.send_queue_bytes as u64),
        ("`row_bytes`", config.row_bytes as u64),
        ("`log_seconds`", seconds(config.log.retention)),
        ("`log_bytes`", config.log.max_bytes),
        ("`load_connections`", config.load_connections as u64),
        ("`max_message_bytes`", client.message_bytes as u64),
        ("`max_mutation_bytes`", client.mutation_bytes as u64),
        ("`ops_per_mutation`", client.ops_per_mutation as u64),
        ("`requests_per_minute`", u64::from(client.requests_per_minute)),
        ("`requests_per_address`", u64::from(client.requests_per_address)),
        ("`mutation_connections`", config.mutation_connections as u64),
        ("`mutation_answer_seconds`", seconds(config.mutation_answer)),
        ("`sessions_per_user`", client.sessions_per_user as u64),
        ("`max_connections`", connections.connections as u64),
        ("`connections_per_address`", connections.per_address as u64),
        ("`unused_client_days`", client.unused_clients.map_or(0, days)),
    ]);
    let settings = rows().into_iter().filter(|(name, _)| name.starts_with('`'));
    let told: BTreeMap<&str, u64> =
        settings.filter_map(|(name, told)| Some((name, told.parse().ok()?))).collect();
    assert_eq!(actual, told);
    // The page itself is not to change by mistake.
    let of = |name: &str| told[name];
    assert_eq!(of("`jwks_seconds`"), 300);
    assert_eq!((of("`max_connections`"), of("`connections_per_address`")), (100_000, 0));
    assert_eq!((of("`sessions_per_user`"), of("`unused_client_days`")), (50, 400));
    // A server for tests, which has no configuration, is not another.
    assert_eq!((*client, *connections), (ClientLimits::default(), ConnectionLimits::default()));
}

#[test]
fn zero_is_no_limit_where_the_page_says_so() {
    let zero = || Some("0".to_owned());
    let config = configured(|settings| {
        settings.unused_client_days = zero();
        settings.connections_per_address = zero();
        settings.requests_per_minute = zero();
        settings.requests_per_address = zero();
    });
    assert_eq!(config.client.unused_clients, None);
    assert_eq!((config.connections.per_address, config.client.requests_per_minute), (0, 0));
    assert_eq!(config.client.requests_per_address, 0);
    let config = configured(|settings| settings.unused_client_days = Some("7".to_owned()));
    assert_eq!(config.client.unused_clients, Some(Duration::from_secs(7 * 86_400)));
}

#[test]
fn what_cannot_be_set_is_what_the_page_tells_of() {
    let connections = configured(|_| ()).connections;
    let s = |duration: Duration| format!("{} s", duration.as_secs());
    let kib = |bytes: usize| format!("{} KiB", bytes >> 10);
    // In thousands, as the page writes them.
    let number = |number: u64| match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", number / 1_000, number % 1_000),
    };
    let messages = number(u64::from(MESSAGES_PER_SECOND));
    let waiting = MUTATION_QUEUE_BYTES >> 20;
    let mib = |bytes: usize| format!("{} MiB", bytes >> 20);
    let (tlsync, yjs) = (TlsyncLimits::default(), YjsLimits::default());
    let (host, schema) = (HostLimits::default(), SchemaLimits::default());
    // What one frame may be is what the message may be.
    assert_eq!(documents::YJS_FRAME_BYTES, yjs.message_bytes);
    let rows = rows();
    for (limit, expected) in [
        ("connections that wait to be accepted", number(u64::from(ACCEPT_BACKLOG))),
        ("`connect` must come within", s(CONNECT_TIMEOUT)),
        ("the first message, before `connect` is accepted", kib(FIRST_MESSAGE_BYTES)),
        (
            "messages of one connection, pings of WebSocket among them",
            format!("{messages} at once, and {messages} a second"),
        ),
        (
            "`auth` of one session",
            format!("{AUTH_PER_MINUTE} at once, and {AUTH_PER_MINUTE} a minute"),
        ),
        ("subscriptions of one session", format!("{SUBSCRIPTIONS_PER_SESSION}, then `too_many`")),
        (
            "names of queries and parameters of the subscriptions of one session",
            format!("{}, then `too_many`", kib(SUBSCRIPTION_BYTES)),
        ),
        (
            "different subscriptions of one user",
            "those of a session, times `sessions_per_user`".to_owned(),
        ),
        ("rows of a window", format!("{}, then `bad_request`", number(MAX_WINDOW_ROWS.into()))),
        (
            "`subscribe` and `unsubscribe` of one session",
            format!("{SUBSCRIBES_PER_SECOND} at once, and {SUBSCRIBES_PER_SECOND} a second"),
        ),
        (
            "the head of a request: its time, its size, how many headers",
            format!("{}, {}, 100", s(connections.head_timeout), kib(HEAD_BYTES)),
        ),
        ("a request and its answer in all", s(connections.http_timeout)),
        (
            "connections over `max_connections` or `connections_per_address` that are kept to be asked for health and \
             metrics, and for how long",
            format!(
                "{HEALTH_CONNECTIONS}, of which the oldest goes for a new one; {}",
                s(HEALTH_TIMEOUT)
            ),
        ),
        ("silence before a ping, before the end", format!("{}, {}", s(PING_AFTER), s(SILENCE))),
        ("one write to a client", s(WRITE_TIMEOUT)),
        (
            "frames that are deflated for clients that take that, from a size on; of one snapshot, what of them is kept while \
             several sessions are sent it",
            format!(
                "{}; the deflated form of {}",
                kib(rowtide_protocol::DEFLATE_FROM_BYTES),
                mib(KEPT_DEFLATED_BYTES)
            ),
        ),
        (
            "waiting for the rate, for room in a full queue, before the client is sent away",
            format!("{}, {}", s(RATE_PATIENCE), s(FULL_PATIENCE)),
        ),
        (
            "a document: sockets, of tlsync and of Yjs",
            format!("{}, {}", tlsync.sessions, yjs.sessions),
        ),
        (
            "a document: its size, of tlsync and of Yjs; records of tlsync",
            format!(
                "{}, {}; {}",
                mib(tlsync.document_bytes),
                mib(yjs.document_bytes),
                number(tlsync.records as u64)
            ),
        ),
        (
            "a message to a document of tlsync, in all, and one frame of it; one of Yjs",
            format!(
                "{}, {}; {}",
                mib(tlsync.message_bytes),
                mib(documents::TLSYNC_FRAME_BYTES),
                mib(yjs.message_bytes)
            ),
        ),
        (
            "messages of one socket of a document, of tlsync and of Yjs",
            format!(
                "{} a second and {} at once, {} a second",
                tlsync.messages_a_second,
                number(u64::from(tlsync.messages_at_once)),
                yjs.messages_per_second
            ),
        ),
        (
            "frames to a socket of a document that come shortly after others wait, to go together, of tlsync and of Yjs",
            format!(
                "{:.1} ms, {} ms",
                tlsync.debounce.as_secs_f64() * 1e3,
                documents::GATHER_FRAMES.as_millis()
            ),
        ),
        (
            "an application's schema: its file; loading it",
            format!("{}; {}", mib(schema.bundle_bytes), s(schema.load)),
        ),
        (
            "one question to it, about a push and about a whole document; its memory, its stack",
            format!(
                "{}, {}; {}, {}",
                s(schema.push),
                s(schema.document),
                mib(schema.memory_bytes),
                mib(schema.stack_bytes)
            ),
        ),
        (
            "threads for one schema; older schemas that one document is served in at a time",
            format!("{}; {}", schema.threads, tlsync.editions),
        ),
        (
            "one document is brought down to older schemas for those who come",
            format!(
                "{} times at once, and once every {}",
                tlsync.editions_at_once,
                s(tlsync.edition_every)
            ),
        ),
        (
            "what a schema has said of others, whether clients of them can be served, is kept",
            mib(schema.kept_bytes),
        ),
        ("name of a session of a document", format!("{} bytes", documents::MAX_SESSION_ID_BYTES)),
        (
            "a document's row that is not there when somebody connects is looked for",
            s(documents::MISSING_FOR),
        ),
        (
            "what somebody may do with a document is not known: when they connect, while they are there",
            format!("{}, {}", s(documents::UNKNOWN_AT_CONNECT), s(documents::UNKNOWN_WHILE_OPEN)),
        ),
        (
            "one question of what people may do with documents",
            format!("{}, {} people", s(STANDING_TIMEOUT), documents::ASKED_AT_ONCE),
        ),
        (
            "deleting, publishing or unpublishing a document: at once, tries, pauses between them",
            format!(
                "{} documents, {}, {} to {}",
                documents::EFFECTS_AT_ONCE,
                documents::EFFECT_TRIES,
                s(documents::MIN_EFFECT_PAUSE),
                s(documents::MAX_EFFECT_PAUSE)
            ),
        ),
        ("what a document begins as: sources of sources", documents::MAX_SOURCES.to_string()),
        (
            "requests for what is published and for histories at once; the time of one; its body",
            format!(
                "{}, then 503; {}, then 503; {}",
                documents::REQUESTS_AT_ONCE,
                s(documents::REQUEST_WITHIN),
                kib(documents::MAX_REQUEST_BYTES)
            ),
        ),
        (
            "publications that are held as they are answered; read at once",
            format!("{}; {}", mib(documents::RENDERED_BYTES), documents::RENDERED_AT_ONCE),
        ),
        ("open documents", number(host.rooms_awake as u64)),
        ("the first edit of a document that is not saved waits", s(host.save_after)),
        ("one call of a storage of documents on S3, with its retries", s(host.storage_call)),
        (
            "edits of one document that are not saved; beyond it the document can only be read",
            mib(host.unsaved_bytes),
        ),
        (
            "a client that the server closes the connection of is still read for",
            format!("{}, {} messages", s(GOODBYE_TIMEOUT), number(GOODBYE_MESSAGES as u64)),
        ),
        (
            "stopping: for what was sent to be acknowledged, for goodbyes and mutations in all, for documents to be saved",
            format!("{}, {}, {}", s(STOP_PATIENCE), s(DRAIN_TIMEOUT), s(SAVE_TIMEOUT)),
        ),
        ("token", kib(MAX_TOKEN_BYTES)),
        ("user id", format!("{} bytes", number(MAX_USER_ID_BYTES as u64))),
        (
            "elements of a claim that is an array; one with more is null",
            number(rowtide_plan::value::MAX_CLAIM_ELEMENTS as u64),
        ),
        (
            "mutations of one client that wait, and bytes of all that wait",
            format!("{MUTATION_QUEUE}, {waiting} MiB"),
        ),
    ] {
        let told = rows.get(limit).unwrap_or_else(|| panic!("the page does not tell of: {limit}"));
        // Whole words: 10 s are no 10 seconds of something, and no 100.
        let rest = told.strip_prefix(expected.as_str());
        let rest = rest.unwrap_or_else(|| panic!("{limit}: {told}, and it is {expected}"));
        assert!(!rest.starts_with(char::is_alphanumeric), "{limit}: {told}, and not {expected}");
    }
    assert_eq!((FIRST_MESSAGE_BYTES, limits::JWKS_MAX_AGE.as_secs()), (32 << 10, 300));
}
