//! Loads: the rows of many topics as one snapshot sees them. All queries of a load run in one
//! read-only transaction at `REPEATABLE READ`, one query for each branch, and all of it is sent together, for one
//! round trip. Queries name tables and columns, and for a moment another one may have such a name: so before the transaction ends, and
//! while it holds the tables so that nobody renames them, they are held against the plan. Nothing is left behind
//! in the session, so a pooler may sit in between.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::{TryStreamExt, pin_mut, poll};
use rowtide_engine::{InvalidSnapshot, Loaded, TopicRows, TransactionSnapshot};
use rowtide_plan::encode::{Datum, EncodeError, RowEncoder};
use rowtide_plan::map::{IdMap, SeededMap};
use rowtide_plan::plan::{BranchId, Plan, TableId};
use rowtide_plan::row::Topic;
use rowtide_plan::sql::{load_sql, quote_table};
use rowtide_protocol::{InvalidLsn, Lsn};
use thiserror::Error;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use crate::connect::{
    ConnectError, ConnectOptions, TEXT_SETTINGS, connect, reason, reason_without_values,
};
use crate::table_trouble::TableTrouble;
use crate::wal::{WalError, WalLayout, commit_behind, flush};

/// Why a load did not arrive.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Postgres cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A query failed.
    #[error("a load failed: {}", reason_without_values(.0))]
    Query(#[source] tokio_postgres::Error),
    /// The tables no longer have the plan's shape.
    #[error("a load does not fit the tables any more: {what}")]
    SchemaChanged {
        /// What Postgres said.
        what: String,
    },
    /// A row cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Postgres' answer has another form than its documentation says.
    #[error("a load was answered in a form that is not known: {0}")]
    Answer(String),
}

impl From<tokio_postgres::Error> for LoadError {
    fn from(error: tokio_postgres::Error) -> LoadError {
        match error.code().and_then(TableTrouble::of_code) {
            Some(TableTrouble::OtherTable) => LoadError::SchemaChanged { what: reason(&error) },
            Some(TableTrouble::NotNow) | None => LoadError::Query(error),
        }
    }
}

impl From<InvalidSnapshot> for LoadError {
    fn from(error: InvalidSnapshot) -> LoadError {
        LoadError::Answer(error.to_string())
    }
}

impl From<WalError> for LoadError {
    fn from(error: WalError) -> LoadError {
        match error {
            WalError::Query(error) => error.into(),
            WalError::Position(error) => error.into(),
        }
    }
}

impl From<InvalidLsn> for LoadError {
    fn from(error: InvalidLsn) -> LoadError {
        LoadError::Answer(error.to_string())
    }
}

impl LoadError {
    /// What it says of a table; `None` where it is about the connection or all of Postgres.
    pub fn trouble(&self) -> Option<TableTrouble> {
        match self {
            LoadError::Query(error) => error.code().and_then(TableTrouble::of_code),
            // A row that is not of the plan's types is one of a column that has become another.
            LoadError::SchemaChanged { .. } | LoadError::Encode(_) => {
                Some(TableTrouble::OtherTable)
            }
            LoadError::Connect(_) | LoadError::Answer(_) => None,
        }
    }

    /// Whether other tables may be read all the same.
    fn is_of_a_table(&self) -> bool {
        self.trouble().is_some()
    }
}

/// Runs loads over one connection, which it makes when it needs it.
pub struct Loader {
    options: ConnectOptions,
    connection: Option<Connection>,
    /// Whether a table could not be read lately. Then each is read behind a savepoint, so that one that fails
    /// does not take the others with it.
    guarded: bool,
    /// Whether Postgres has refused to commit a message lately.
    refused: bool,
}

/// What is to be loaded.
#[derive(Clone, Copy)]
struct Asked<'a> {
    plan: &'a Plan,
    topics: &'a [Topic],
    most: &'a [Option<usize>],
}

/// What a load brought.
#[derive(Debug)]
pub struct LoadedTopics {
    /// The rows, and what their snapshot had seen.
    pub topics: Loaded,
    /// How many `SELECT`s of rows it took.
    pub queries: u64,
    /// Why some topics could not be read, by table.
    pub failed: BTreeMap<String, LoadError>,
}

struct Connection {
    client: Client,
    wal: WalLayout,
}

impl Loader {
    /// A loader that has not connected yet.
    pub fn new(options: ConnectOptions) -> Loader {
        Loader { options, connection: None, guarded: false, refused: false }
    }

    /// Loads `topics`; the snapshot is taken after the call. A table that cannot be read leaves its topics
    /// without rows, and the others have theirs. `before` are the rows that each topic was thought to have, as
    /// in [`Load::before`](rowtide_engine::Load::before), and `most` how many rows of each are wanted, as in
    /// [`Load::most`](rowtide_engine::Load::most); both may be shorter than `topics`.
    ///
    /// # Errors
    /// When Postgres does not answer. The connection is made anew by the next call.
    pub async fn load(
        &mut self,
        plan: &Plan,
        topics: &[Topic],
        before: &[TopicRows],
        most: &[Option<usize>],
    ) -> Result<LoadedTopics, LoadError> {
        let asked = Asked { plan, topics, most };
        let mut loaded = match self.try_load(asked).await {
            Err(error) if error.is_of_a_table() && !self.guarded => {
                self.guarded = true;
                self.try_load(asked).await?
            }
            other => other?,
        };
        for (rows, before) in loaded.topics.rows.iter_mut().zip(before) {
            if let Some(rows) = rows.as_mut().filter(|_| !before.is_empty()) {
                *rows = before.loaded_anew(rows.iter().cloned());
            }
        }
        Ok(loaded)
    }

    /// Sees to it that something is committed, and streamed, if Postgres' clock is behind this moment, in microseconds since
    /// 1970 UTC. Where that is refused time does not pass by itself, and it is said.
    ///
    /// # Errors
    /// When Postgres does not answer. The connection is made anew by the next call.
    pub async fn commit_behind(&mut self, us: i64) -> Result<(), LoadError> {
        let connection = self.connected().await?;
        match commit_behind(&connection.client, us).await {
            Ok(()) => self.refused = false,
            Err(error) if error.as_db_error().is_some() => {
                if !std::mem::replace(&mut self.refused, true) {
                    let error = reason(&error);
                    tracing::warn!(error, "rows whose time has come wait for the next commit");
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.connection = Some(connection);
        Ok(())
    }

    async fn connected(&mut self) -> Result<Connection, LoadError> {
        match self.connection.take() {
            Some(connection) if !connection.client.is_closed() => Ok(connection),
            _ => open(&self.options).await,
        }
    }

    async fn try_load(&mut self, asked: Asked<'_>) -> Result<LoadedTopics, LoadError> {
        let connection = self.connected().await?;
        // Given back only after a success: a failed or cancelled load leaves a transaction open.
        let loaded = run(&connection, asked, self.guarded).await?;
        self.connection = Some(connection);
        self.guarded = !loaded.failed.is_empty();
        Ok(loaded)
    }
}

async fn open(options: &ConnectOptions) -> Result<Connection, LoadError> {
    let client = connect(options, "load").await?;
    let wal = WalLayout::read(&client).await?;
    Ok(Connection { client, wal })
}

async fn run(
    connection: &Connection,
    asked: Asked<'_>,
    guarded: bool,
) -> Result<LoadedTopics, LoadError> {
    let Asked { plan, topics, .. } = asked;
    let client = &connection.client;
    // Row-level security that hid rows would leave them out in silence; a query that it applies to fails instead.
    let mut begin =
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL row_security TO off".to_owned();
    for (name, value) in TEXT_SETTINGS {
        begin += &format!("; SET LOCAL {name} TO '{value}'");
    }
    let begin = client.batch_execute(&begin);
    // The snapshot of the transaction is taken before the statement's functions run, so no commit
    // that it sees lies behind the position.
    let sql = "SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text, \
               pg_current_wal_flush_lsn()::text";
    let head = client.query_typed(sql, &[]);
    let mut by_branch: BTreeMap<BranchId, Vec<usize>> = BTreeMap::new();
    for (index, topic) in topics.iter().enumerate() {
        by_branch.entry(topic.branch).or_default().push(index);
    }
    let queries = by_branch.len() as u64;
    let mut rows: Vec<Option<TopicRows>> = vec![Some(TopicRows::default()); topics.len()];
    let mut failed = BTreeMap::new();
    let head = if guarded {
        begin.await?;
        let head = head.await?;
        client.batch_execute("SAVEPOINT branch").await?;
        for (branch, places) in by_branch {
            let table = plan.branch(branch).table;
            let loaded = match load_branch(client, asked, branch, &places).await {
                Ok(body) => hold_against_plan(client, plan, &[table]).await.map(|()| body),
                failed => failed,
            };
            match loaded {
                Ok(body) => put(&mut rows, body),
                Err(error) if error.is_of_a_table() => {
                    client.batch_execute("ROLLBACK TO SAVEPOINT branch").await?;
                    failed.insert(plan.table(table).name.clone(), error);
                    places.into_iter().for_each(|place| rows[place] = None);
                }
                Err(error) => return Err(error),
            }
        }
        client.batch_execute("COMMIT").await?;
        head
    } else {
        let mut tables: Vec<TableId> =
            by_branch.keys().map(|branch| plan.branch(*branch).table).collect();
        tables.sort_unstable();
        tables.dedup();
        // All are sent in this order before the first is answered. If one fails, those behind it do nothing.
        let begin = Sent::send(begin).await;
        let head = Sent::send(head).await;
        let mut bodies = Vec::new();
        for (branch, places) in &by_branch {
            bodies.push(Sent::send(load_branch(client, asked, *branch, places)).await);
        }
        let holds = Sent::send(hold_against_plan(client, plan, &tables)).await;
        let commit = Sent::send(client.batch_execute("COMMIT")).await;
        begin.answer().await?;
        let head = head.answer().await?;
        for body in bodies {
            put(&mut rows, body.answer().await?);
        }
        holds.answer().await?;
        commit.answer().await?;
        head
    };
    let head = head.first().ok_or_else(|| LoadError::Answer("no snapshot".to_owned()))?;
    let snapshot: TransactionSnapshot = head.get::<_, &str>(0).parse()?;
    let position = connection.wal.end_of_last_record(head.get::<_, &str>(1).parse()?);
    let flushed: Lsn = head.get::<_, &str>(2).parse()?;
    if flushed < position {
        flush(client, position).await?;
    }
    Ok(LoadedTopics { topics: Loaded { snapshot, position, rows }, queries, failed })
}

/// A question that was sent, and is answered behind those before it.
struct Sent<F: Future> {
    question: Pin<Box<F>>,
    answer: Option<F::Output>,
}

impl<F: Future> Sent<F> {
    /// Sends what a future asks first.
    async fn send(question: F) -> Sent<F> {
        let mut question = Box::pin(question);
        let answer = match poll!(question.as_mut()) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        };
        Sent { question, answer }
    }

    async fn answer(self) -> F::Output {
        match self.answer {
            Some(answer) => answer,
            None => self.question.await,
        }
    }
}

/// Whether what the queries of this transaction called by the tables' names were the tables of the plan, with its columns in
/// its order. They are locked by these queries, so they still have the names under which they were read. What is asked is
/// answered from the catalog as it is, which is what names were looked up in, and not as the snapshot has it.
async fn hold_against_plan(
    client: &Client,
    plan: &Plan,
    tables: &[TableId],
) -> Result<(), LoadError> {
    let sql = "SELECT t.place - 1, \
                 (pg_identify_object_as_address('pg_class'::regclass, t.oid, a.attnum)).object_names \
               FROM unnest($1::oid[]) WITH ORDINALITY AS t(oid, place) \
               JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped \
               ORDER BY t.place, a.attnum";
    let oids: Vec<u32> = tables.iter().map(|table| plan.table(*table).catalog.oid).collect();
    let rows = client.query_typed(sql, &[(&oids, Type::OID_ARRAY)]).await?;
    let mut columns: Vec<Vec<String>> = vec![Vec::new(); tables.len()];
    for row in &rows {
        let (place, names): (i64, Option<Vec<String>>) = (row.get(0), row.get(1));
        let place = usize::try_from(place).unwrap_or_default();
        let catalog = &plan.table(tables[place]).catalog;
        if let Some([schema, name, column]) = names.as_deref()
            && (schema, name) == (&catalog.schema, &catalog.name)
            && catalog.column(column).is_some()
        {
            columns[place].push(column.clone());
        }
    }
    for (table, columns) in tables.iter().zip(&columns) {
        let catalog = &plan.table(*table).catalog;
        if !columns.iter().eq(catalog.columns.iter().map(|column| &column.name)) {
            let table = quote_table(&catalog.schema, &catalog.name);
            let what = format!("{table} is another table, or has other columns, for a while");
            return Err(LoadError::SchemaChanged { what });
        }
    }
    Ok(())
}

fn put(rows: &mut [Option<TopicRows>], body: IdMap<usize, TopicRows>) {
    for (place, loaded) in body {
        rows[place] = Some(loaded);
    }
}

/// The rows of each topic of one branch, by the topic's place. They are put in order here, as they arrive, so
/// that an engine need not look at each.
async fn load_branch(
    client: &Client,
    asked: Asked<'_>,
    branch: BranchId,
    places: &[usize],
) -> Result<IdMap<usize, TopicRows>, LoadError> {
    let Asked { plan, topics, most } = asked;
    let table = plan.branch(branch).table;
    let columns = &plan.table(table).catalog.columns;
    let read = plan.read_columns(table).into_iter();
    let names: Vec<&str> = read.map(|column| columns[column].name.as_str()).collect();
    let encoder = RowEncoder::new(plan, table, &names)?;
    let by_topic: SeededMap<&Topic, usize> =
        places.iter().map(|place| (&topics[*place], *place)).collect();
    let kind = plan.branch(branch).anchor_type(plan);
    let anchors: Option<Vec<String>> = kind.map(|kind| {
        places.iter().filter_map(|place| topics[*place].anchor.as_ref()?.to_text(kind)).collect()
    });
    let most_of = |place: &usize| most.get(*place).copied().flatten();
    let is_window = plan.branch(branch).window.is_some();
    let limits: Option<Vec<i64>> = is_window.then(|| {
        let limit = |place: &usize| i64::try_from(most_of(place)?).ok();
        places.iter().map(|place| limit(place).unwrap_or(i64::MAX)).collect()
    });
    let limits = limits.iter().map(|limits| (limits as &(dyn ToSql + Sync), Type::INT8_ARRAY));
    let anchors = anchors.iter().map(|anchors| (anchors as &(dyn ToSql + Sync), Type::TEXT_ARRAY));
    let parameters: Vec<(&(dyn ToSql + Sync), Type)> = limits.chain(anchors).collect();
    let stream = client.query_typed_raw(&load_sql(plan, branch), parameters).await?;
    pin_mut!(stream);
    let mut rows: IdMap<usize, TopicRows> = IdMap::default();
    while let Some(row) = stream.try_next().await? {
        // Rows that are there already do not make it wait, and others share the thread.
        tokio::task::coop::consume_budget().await;
        let mut datums = Vec::with_capacity(names.len());
        // The rows of a window are those of one topic, though they may be in others, too, and not among the first there.
        let of_topic: Option<usize> = match is_window {
            true => {
                let place: &str = row.try_get(0)?;
                let place = place.parse::<usize>().ok().and_then(|place| place.checked_sub(1));
                let of = place.and_then(|place| places.get(place));
                Some(*of.ok_or_else(|| LoadError::Answer("no such place".to_owned()))?)
            }
            false => None,
        };
        for column in 0..names.len() {
            let text: Option<&str> = row.try_get(column + usize::from(is_window))?;
            datums.push(text.map_or(Datum::Null, |text| Datum::Text(text.as_bytes())));
        }
        let row = Arc::new(encoder.row(&datums)?);
        // Postgres and the filter in memory judge alike; if they ever did not, the row would not count: it
        // would not be seen, and not keep others from being seen where a rule asks that it is not there.
        let fits = |place: &&usize| of_topic.is_none_or(|of| of == **place);
        let places = row.image.topics.iter().filter_map(|topic| by_topic.get(topic));
        for place in places.filter(fits) {
            rows.entry(*place).or_default().insert(Arc::clone(&row));
        }
    }
    Ok(rows)
}
