//! What people may do with documents, asked of Postgres: many people and documents at once, as one snapshot sees them.
//! The snapshot comes with the answer, so that whoever follows the stream knows which changes it has seen. Nothing is
//! left behind in the session, so a pooler may sit in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use rowtide_engine::{InvalidSnapshot, TransactionSnapshot};
use rowtide_plan::document_sql::{AskedClaim, published_ids_sql, standing_query};
use rowtide_plan::documents::{RowJudged, Standing};
use rowtide_plan::plan::Plan;
use thiserror::Error;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::connect::{ConnectError, ConnectOptions, TEXT_SETTINGS, connect, reason_without_values};
use crate::mutate::Author;
use crate::table_trouble::TableTrouble;

/// How long one question may take.
pub const STANDING_TIMEOUT: Duration = Duration::from_secs(10);

/// Why it is not known what somebody may do.
#[derive(Debug, Error)]
pub enum StandingError {
    /// Postgres cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The query failed.
    #[error("the rules of documents cannot be judged: {}", reason_without_values(.0))]
    Query(#[from] tokio_postgres::Error),
    /// Postgres' answer has another form than its documentation says.
    #[error("the rules of documents were answered in a form that is not known: {0}")]
    Answer(#[from] InvalidSnapshot),
    /// The answer took too long.
    #[error("the rules of documents were not answered within {} s", STANDING_TIMEOUT.as_secs() * 2)]
    Silent,
    /// The plan has no such documents: the table or a rule does not fit the database now.
    #[error("the definition's documents do not fit the database now")]
    Unfit,
}

impl StandingError {
    /// Whether it is of these rules or tables, and others may be judged all the same.
    fn is_of_a_kind(&self) -> bool {
        match self {
            StandingError::Query(error) => error.code().and_then(TableTrouble::of_code).is_some(),
            StandingError::Unfit => true,
            StandingError::Connect(_) | StandingError::Answer(_) | StandingError::Silent => false,
        }
    }

    /// Whether the database is to be looked at, because the plan may not fit it any more.
    pub fn asks_for_a_look(&self) -> bool {
        let StandingError::Query(error) = self else { return false };
        let trouble = error.code().and_then(TableTrouble::of_code);
        trouble.is_some_and(TableTrouble::asks_for_a_look)
    }
}

/// Somebody and a document.
#[derive(Clone, Debug)]
pub struct StandingAsked {
    /// The kind, as the definition calls it.
    pub kind: Arc<str>,
    /// The document's id, as Postgres prints it.
    pub id: Arc<str>,
    /// Who they are, if they have said so.
    pub who: Option<Arc<Author>>,
}

/// What somebody may do with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingAnswer {
    /// What they may do.
    pub standing: Standing,
    /// The name that the row gives the document, where the kind follows one.
    pub name: Option<String>,
    /// Whether they may see its history and go back in it.
    pub may_restore: bool,
    /// What the row says of publishing and beginning, whoever asks; none if there is no row.
    pub row: Option<DocumentRow>,
}

/// What a row says of its document, whoever asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocumentRow {
    /// Whether it is published.
    pub published: bool,
    /// Its address.
    pub slug: Option<String>,
    /// What is another value each time that it is published anew.
    pub edition: Option<String>,
    /// What it begins as.
    pub source: Option<String>,
}

/// Answers, and what they had seen.
#[derive(Debug)]
pub struct Standings {
    /// What had been committed for each answer, or more.
    pub snapshot: TransactionSnapshot,
    /// In the order of the questions.
    pub answers: Vec<Result<StandingAnswer, StandingError>>,
}

/// Asks over one connection, which it makes when it needs it.
pub struct StandingAsker {
    options: ConnectOptions,
    client: Option<Client>,
}

impl StandingAsker {
    /// One that has not connected yet.
    pub fn new(options: ConnectOptions) -> StandingAsker {
        StandingAsker { options, client: None }
    }

    /// Asks; the snapshot is taken after the call. Without questions it is the snapshot alone. Where a rule fails, each
    /// question is asked by itself, so that others are answered.
    ///
    /// # Errors
    /// When Postgres does not answer. The connection is made anew by the next call.
    pub async fn ask(
        &mut self,
        plan: &Plan,
        asked: &[StandingAsked],
    ) -> Result<Standings, StandingError> {
        match self.try_ask(plan, asked).await {
            Err(error) if error.is_of_a_kind() => {}
            other => return other,
        }
        // What comes later has seen no less.
        let Standings { snapshot, .. } = self.try_ask(plan, &[]).await?;
        let mut answers = Vec::with_capacity(asked.len());
        for one in asked {
            match self.try_ask(plan, std::slice::from_ref(one)).await {
                Ok(alone) => answers.extend(alone.answers),
                Err(error) if error.is_of_a_kind() => answers.push(Err(error)),
                Err(error) => return Err(error),
            }
        }
        Ok(Standings { snapshot, answers })
    }

    /// The ids of rows that say that their documents are published, in the order of the key and behind one of them; so
    /// many at the most. None if the kind is never published.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn published_ids(
        &mut self,
        plan: &Plan,
        kind: &str,
        after: Option<&str>,
        most: i64,
    ) -> Result<Vec<String>, StandingError> {
        let of = plan.document_kind(kind).ok_or(StandingError::Unfit)?;
        let Some(sql) = published_ids_sql(plan, of, after.is_some()) else {
            return Ok(Vec::new());
        };
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => connect(&self.options, "documents").await?,
        };
        let most: (&(dyn ToSql + Sync), Type) = (&most, Type::INT8);
        let after = after.as_ref().map(|after| (after as &(dyn ToSql + Sync), Type::TEXT));
        let parameters: Vec<_> = std::iter::once(most).chain(after).collect();
        let rows = timeout(STANDING_TIMEOUT, client.query_typed(&sql, &parameters)).await;
        let rows = rows.map_err(|_| StandingError::Silent)??;
        self.client = Some(client);
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn try_ask(
        &mut self,
        plan: &Plan,
        asked: &[StandingAsked],
    ) -> Result<Standings, StandingError> {
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => connect(&self.options, "documents").await?,
        };
        let answered = run(&client, plan, asked).await;
        match &answered {
            // A transaction that has failed is ended, and the connection is as good as before.
            Err(error) if error.is_of_a_kind() => {
                client.batch_execute("ROLLBACK").await?;
                self.client = Some(client);
            }
            // A cancelled or failed one may be open still.
            Err(_) => {}
            Ok(_) => self.client = Some(client),
        }
        answered
    }
}

/// The questions of each kind are one query; all are of one snapshot.
async fn run(
    client: &Client,
    plan: &Plan,
    asked: &[StandingAsked],
) -> Result<Standings, StandingError> {
    let mut begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL row_security TO off; \
         SET LOCAL statement_timeout TO {}",
        STANDING_TIMEOUT.as_millis()
    );
    for (name, value) in TEXT_SETTINGS {
        begin += &format!("; SET LOCAL {name} TO '{value}'");
    }
    let mut by_kind: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, one) in asked.iter().enumerate() {
        by_kind.entry(&one.kind).or_default().push(place);
    }
    client.batch_execute(&begin).await?;
    let head = client.query_typed("SELECT pg_current_snapshot()::text", &[]);
    let bodies = by_kind.iter().map(|(kind, places)| of_kind(client, plan, kind, asked, places));
    // The first poll sends them all; Postgres answers in order.
    let (head, bodies) = futures_util::try_join!(
        async { head.await.map_err(StandingError::from) },
        try_join_all(bodies)
    )?;
    client.batch_execute("COMMIT").await?;
    let snapshot = head.first().map_or("", |row| row.get(0)).parse()?;
    let mut answers: Vec<StandingAnswer> = asked.iter().map(|one| answer(one, None)).collect();
    for ((_, places), rows) in by_kind.iter().zip(&bodies) {
        for row in rows {
            let place = usize::try_from(row.get::<_, i64>(0)).unwrap_or_default();
            let place = place.checked_sub(1).and_then(|place| places.get(place));
            if let Some(place) = place {
                answers[*place] = answer(&asked[*place], Some(row));
            }
        }
    }
    Ok(Standings { snapshot, answers: answers.into_iter().map(Ok).collect() })
}

async fn of_kind(
    client: &Client,
    plan: &Plan,
    kind: &str,
    asked: &[StandingAsked],
    places: &[usize],
) -> Result<Vec<Row>, StandingError> {
    let kind = plan.document_kind(kind).ok_or(StandingError::Unfit)?;
    let query = standing_query(plan, kind, |number| format!("${number}"));
    let ids: Vec<Option<String>> =
        places.iter().map(|place| Some(asked[*place].id.to_string())).collect();
    let of_claim = |claim: &AskedClaim| {
        let text = |place: &usize| {
            let who = asked[*place].who.as_ref()?;
            claim.text(&who.user_id, &who.claims)
        };
        places.iter().map(text).collect()
    };
    let arrays: Vec<Vec<Option<String>>> =
        std::iter::once(ids).chain(query.claims.iter().map(of_claim)).collect();
    let parameters: Vec<(&(dyn ToSql + Sync), Type)> =
        arrays.iter().map(|array| (array as &(dyn ToSql + Sync), Type::TEXT_ARRAY)).collect();
    Ok(client.query_typed(&query.sql, &parameters).await?)
}

fn answer(asked: &StandingAsked, row: Option<&Row>) -> StandingAnswer {
    let there = row.filter(|row| row.get::<_, Option<bool>>(1) == Some(true));
    let judged =
        there.map(|row| RowJudged { alive: row.get(2), read: row.get(3), edit: row.get(4) });
    let says = |row: &Row| DocumentRow {
        published: row.get(6),
        slug: row.get(8),
        edition: row.get(9),
        source: row.get(10),
    };
    StandingAnswer {
        standing: Standing::of(judged, asked.who.is_some()),
        name: there.and_then(|row| row.get(7)),
        may_restore: there.is_some_and(|row| row.get(5)),
        row: there.map(says),
    }
}
