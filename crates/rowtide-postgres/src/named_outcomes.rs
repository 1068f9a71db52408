//! What became of mutations that older clients have named. Such a client sends nothing again, so a tab that comes
//! back must be told what became of what it had sent before. The database knows for each name which tab sent it, and
//! whether that tab is known to have heard.
//!
//! **No outcome is passed over.** A tab joins its view first, and is then told here. A mutation that is about to be
//! acknowledged has the row of its user locked until it can be seen. So the row is locked before the names are read:
//! what could not be locked is asked again, and what is committed under a later lock comes with the stream. A commit may
//! be told only with its effects, and which rows the tab has by then is not known here: so the row is written again, and
//! the stream brings it with a position at which the tab has the effects of everything that was found.

use std::collections::{BTreeMap, BTreeSet};

use rowtide_plan::sql::quote_identifier;
use tokio_postgres::{Client, IsolationLevel};

use crate::client_registry::{LOCAL, Wanted, claim};
use crate::connect::Names;

/// A tab that asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tab {
    /// The client that counts the mutations of its user.
    pub client: Box<str>,
    /// The user.
    pub user: Box<str>,
    /// Which of the user's tabs it is.
    pub session: Box<str>,
}

/// What became of a mutation that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedOutcome {
    /// Its name.
    pub name: Box<str>,
    /// The number that it was given.
    pub number: u64,
    /// With which code it was rejected; `None` if it was applied.
    pub rejected: Option<String>,
}

/// What a tab was told: the name of a mutation of a client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// The client.
    pub client: Box<str>,
    /// The name.
    pub name: Box<str>,
}

/// What became of the mutations of each tab that it is not known to have heard of, in the order of their numbers. `None`:
/// a mutation of the user is being acknowledged right now, and the tab must ask again. Where something is found, the
/// stream brings the user's row with the highest of the numbers or a higher one.
///
/// # Errors
/// When a statement fails.
pub async fn outcomes_of(
    client: &mut Client,
    names: &Names,
    tabs: &[Tab],
) -> Result<Vec<Option<Vec<NamedOutcome>>>, tokio_postgres::Error> {
    // A row that is not there cannot be locked.
    let row = |tab: &Tab| (tab.client.to_string(), tab.user.to_string());
    // One text that cannot be stored must not make a statement fail for the others: nothing was ever sent under it.
    let storable =
        |tab: &&Tab| [&tab.client, &tab.user, &tab.session].iter().all(|t| !t.contains('\0'));
    let rows: BTreeSet<(String, String)> = tabs.iter().filter(storable).map(row).collect();
    let wanted = |(client, user)| Wanted { client, user, known: 0, outcomes: 0 };
    let rows: Vec<Wanted> = rows.into_iter().map(wanted).collect();
    claim(client, names, &rows).await?;
    let schema = quote_identifier(&names.schema);
    // Whatever the database's default is: the names are read as they are once the rows are locked.
    let begin = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
    let transaction = begin.read_only(false).start().await?;
    // Whoever connects waits for no standby; see the registry of clients.
    transaction.batch_execute("SET LOCAL synchronous_commit = local").await?;
    let ids: Vec<&str> = rows.iter().map(|row| row.client.as_str()).collect();
    let lock = format!(
        "SELECT client_id FROM {schema}.client WHERE client_id = ANY ($1::text[]) \
         FOR NO KEY UPDATE SKIP LOCKED"
    );
    let locked: BTreeSet<String> =
        transaction.query(&lock, &[&ids]).await?.iter().map(|row| row.get(0)).collect();
    let free: Vec<&Tab> =
        tabs.iter().filter(storable).filter(|tab| locked.contains(&*tab.client)).collect();
    let mut found: BTreeMap<(String, String), Vec<NamedOutcome>> = BTreeMap::new();
    if !free.is_empty() {
        let clients: Vec<&str> = free.iter().map(|tab| &*tab.client).collect();
        let sessions: Vec<&str> = free.iter().map(|tab| &*tab.session).collect();
        let read = format!(
            "SELECT n.client_id, n.session_id, n.name, n.number, \
             CASE WHEN n.refused IS NOT NULL THEN coalesce(n.refused -> 0 ->> 'code', '') END \
             FROM {schema}.named_mutation AS n JOIN (SELECT DISTINCT client_id, session_id \
             FROM unnest($1::text[], $2::text[]) AS w(client_id, session_id)) AS w \
             USING (client_id, session_id) WHERE NOT n.told ORDER BY n.number"
        );
        for row in transaction.query(&read, &[&clients, &sessions]).await? {
            let number = u64::try_from(row.get::<_, i64>(3)).unwrap_or(0);
            let name = row.get::<_, String>(2).into();
            let outcome = NamedOutcome { name, number, rejected: row.get(4) };
            found.entry((row.get(0), row.get(1))).or_default().push(outcome);
        }
        let told: BTreeSet<&str> = found.keys().map(|(client, _)| client.as_str()).collect();
        if !told.is_empty() {
            let told: Vec<&str> = told.into_iter().collect();
            let touch = format!(
                "UPDATE {schema}.client SET refused = NULL, name = NULL \
                 WHERE client_id = ANY ($1::text[])"
            );
            transaction.execute(&touch, &[&told]).await?;
        }
    }
    transaction.commit().await?;
    let outcomes = |tab: &Tab| {
        let key = (tab.client.to_string(), tab.session.to_string());
        let is_free = locked.contains(&*tab.client) || !storable(&tab);
        is_free.then(|| found.get(&key).cloned().unwrap_or_default())
    };
    Ok(tabs.iter().map(outcomes).collect())
}

/// Notes that the tabs which sent these mutations have heard what became of them.
///
/// # Errors
/// When the statement fails.
pub async fn mark_told(
    client: &Client,
    names: &Names,
    told: &[Told],
) -> Result<(), tokio_postgres::Error> {
    if told.is_empty() {
        return Ok(());
    }
    let schema = quote_identifier(&names.schema);
    let sql = format!(
        "UPDATE {schema}.named_mutation AS n SET told = true \
         FROM unnest($1::text[], $2::text[]) AS w(client_id, name) \
         WHERE n.client_id = w.client_id AND n.name = w.name AND NOT n.told RETURNING {LOCAL}"
    );
    let clients: Vec<&str> = told.iter().map(|told| &*told.client).collect();
    let names: Vec<&str> = told.iter().map(|told| &*told.name).collect();
    client.query(&sql, &[&clients, &names]).await.map(drop)
}
