//! What each metric is, in a sentence, for whoever looks at `/metrics` itself (`# HELP`). The page for operators says what to do
//! about it.

use metrics::describe_gauge;

const HELP: &[(&str, &str)] = &[
    ("rowtide_ready", "1 if new sessions would be served with rows that are up to date"),
    ("rowtide_replication_lag_seconds", "how long ago WAL ended where the position is now"),
    ("rowtide_replication_lag_bytes", "how far the position is behind the end of WAL"),
    ("rowtide_slot_retained_wal_bytes", "WAL that Postgres keeps for the replication slot"),
    ("rowtide_slot_status", "1 for the status of the replication slot"),
    ("rowtide_position_lsn", "up to where every commit has been taken in, as a number"),
    ("rowtide_sessions", "sessions that are served"),
    ("rowtide_subscriptions", "subscriptions of sessions that are served"),
    ("rowtide_subscribes_total", "subscriptions that were asked for, by what became of it"),
    ("rowtide_views", "views: what sessions with the same claims see"),
    ("rowtide_topics", "topics in use: sets of rows that views are made of"),
    ("rowtide_topics_loading", "topics whose rows are waited for"),
    ("rowtide_load_queries_total", "queries that have loaded rows"),
    ("rowtide_loaded_rows_total", "rows that were loaded by queries"),
    ("rowtide_histories_total", "questions to the log for clients that came back, by result"),
    ("rowtide_log_bytes", "the size of the log on disk"),
    ("rowtide_log_oldest_lsn", "from where on clients can be resumed, as a number"),
    ("rowtide_log_end_lsn", "up to where the log is durable, as a number"),
    ("rowtide_log_write_seconds", "how long durable writes of the log take"),
    ("rowtide_log_failing", "1 while the log cannot be written"),
    ("rowtide_stream_bytes", "what is on its way from the stream to engines and log"),
    ("rowtide_row_bytes", "rows that are held in memory"),
    ("rowtide_epochs_total", "epochs that have begun, by reason: each sends everyone a snapshot"),
    ("rowtide_connects_total", "connects, by mode or by the code of the rejection"),
    ("rowtide_sessions_ended_total", "sessions that have ended, by code"),
    ("rowtide_mutations_total", "mutations that were acknowledged, by outcome"),
    (
        "rowtide_mutation_seconds",
        "from a mutation's arrival until it is applied or rejected in Postgres",
    ),
    ("rowtide_mutations_waiting", "mutations that wait for their turn"),
    ("rowtide_mutations_failing", "1 while mutations cannot be applied, and wait"),
    ("rowtide_mutation_retries_total", "tries of mutations that were made again, by reason"),
    (
        "rowtide_commit_to_send_seconds",
        "from a commit, by Postgres' clock, until it goes to a client",
    ),
    ("rowtide_sent_frames_total", "frames that were sent to clients"),
    ("rowtide_sent_bytes_total", "bytes that were sent to clients"),
    ("rowtide_deflated_text_bytes_total", "bytes of the texts of frames that were sent deflated"),
    ("rowtide_deflated_bytes_total", "bytes of the frames that were sent deflated"),
    ("rowtide_sent_rows_total", "rows that were sent to clients"),
    ("rowtide_connections", "open connections, HTTP and WebSocket"),
    ("rowtide_limited_total", "how often a client was held up or turned away, by limit"),
    ("rowtide_jwks_age_seconds", "how old the keys of the issuer are"),
    ("rowtide_refused_tables", "tables that do not fit their rules and are not served"),
    ("rowtide_unreadable_tables", "tables that loads cannot read"),
    (
        "rowtide_document_standings_total",
        "what people may do with documents, as often as Postgres was asked",
    ),
    ("rowtide_document_standings_failed_total", "such questions that Postgres did not answer"),
    ("rowtide_document_connects_total", "connects to documents, by the reason that was told"),
    ("rowtide_document_sockets", "open sockets of documents"),
    (
        "rowtide_document_effects_waiting",
        "documents that are to be held against their rows, deleted or published",
    ),
    ("rowtide_document_effects_failed", "documents of which that failed and is not tried any more"),
    ("rowtide_document_effects_total", "documents that were deleted, published or unpublished"),
    ("rowtide_document_effect_retries_total", "such tries that failed"),
    ("rowtide_rooms_awake", "documents that are open"),
    ("rowtide_room_sessions", "sockets that are in documents"),
    ("rowtide_room_pushes_total", "edits of documents that were made durable"),
    ("rowtide_room_push_seconds", "from when an edit of a document is heard until it is durable"),
    ("rowtide_room_refused_pushes_total", "edits of documents that could not be made durable"),
    ("rowtide_room_unsaved_bytes", "edits that are in the journal and not in a saved document"),
    ("rowtide_room_save_seconds", "how long saving a document takes"),
    ("rowtide_room_saved_bytes_total", "bytes of documents that were saved"),
    ("rowtide_room_save_failures_total", "saves of documents that failed"),
    ("rowtide_room_saves_failing", "documents whose last save failed"),
    (
        "rowtide_room_superseded_total",
        "documents that were not saved because another server had written them",
    ),
    (
        "rowtide_room_merged_total",
        "documents that were opened with edits of this server and what another one had written",
    ),
    ("rowtide_storage_failures_total", "calls of the storage of documents that failed, by reason"),
    ("rowtide_room_open_seconds", "how long a document takes until it is open"),
    ("rowtide_room_open_failures_total", "documents that could not be opened"),
    ("rowtide_room_schema_questions_total", "questions to the application's schema of documents"),
    (
        "rowtide_room_schema_failures_total",
        "questions to the application's schema of documents that had no answer within its limits",
    ),
    ("rowtide_room_closed_total", "sockets that documents closed, by reason"),
    ("rowtide_journal_bytes", "the size of the journal of edits on disk"),
    (
        "rowtide_journal_write_seconds",
        "how long a group of edits takes until it is durable in the journal",
    ),
    (
        "rowtide_journal_failing",
        "1 while the journal cannot be written, and documents can only be read",
    ),
];

/// Has the exporter say it. It keeps one text for a name, whatever kind of metric that is.
pub(crate) fn describe() {
    for &(name, help) in HELP {
        describe_gauge!(name, help);
    }
}
