//! Takes out of a database what setup put into it: publication, replica identities, Rowtide's own tables and its
//! schema, and last the slot, so that a server which waits for its turn does not make it anew. What is not Rowtide's
//! is left and named: other things in the schema, a slot of another's under our name, replica identities that setup
//! found as they are or that another environment needs. Nothing is taken from under a server that serves.

use rowtide_plan::catalog::TableName;
use rowtide_plan::sql::{quote_identifier, quote_table};
use tokio_postgres::error::SqlState;

use super::found::{FULL, Found, FoundTable};
use super::steps::{Action, Locks, Right, Step, owner_of, replication, slot_is_ours};
use super::turns::Turns;
use super::{Attended, RECORD, SetupError, allowed, connections};
use crate::connect::{ConnectOptions, Names};

/// What was taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Torn {
    /// A sentence for each step.
    pub done: Vec<String>,
    /// What was left, with the reason.
    pub left: Vec<String>,
}

/// What is to be done.
struct Plan {
    steps: Vec<Step>,
    left: Vec<String>,
}

/// What [`teardown`] would do, in the order in which it does it.
///
/// # Errors
/// As [`teardown`].
pub async fn to_tear_down(
    options: &ConnectOptions,
    names: &Names,
) -> Result<Vec<String>, SetupError> {
    let (client, _) = connections(options).await?;
    let plan = plan(&client, names).await?;
    Ok(plan.steps.into_iter().map(|step| step.what).collect())
}

/// Takes out what setup put in.
///
/// # Errors
/// When a server uses the slot, or the role lacks a right, and then nothing was done; when a step fails; when it is
/// told to stop.
pub async fn teardown(
    options: &ConnectOptions,
    names: &Names,
    attended: &Attended<'_>,
) -> Result<Torn, SetupError> {
    let (client, _) = connections(options).await?;
    let turns = Turns { client: &client, attended };
    turns.lock_out_others(&names.schema).await?;
    let Plan { steps, left } = plan(&client, names).await?;
    let mut torn = Torn { done: Vec::new(), left };
    for Step { what, action, .. } in steps {
        match action {
            Action::Run { sql, locks } => match turns.run(&what, &sql, &locks).await {
                // Of a schema: there is more in it. Of a replica identity: the index that it was is gone.
                Err(SetupError::Step { source, .. })
                    if source.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST)
                        || source.code() == Some(&SqlState::UNDEFINED_OBJECT) =>
                {
                    let why = crate::connect::reason(&source);
                    torn.left.push(format!("it did not {what}: {why}"));
                    continue;
                }
                run => run?,
            },
            Action::DropSlot => {
                let sql = "SELECT pg_drop_replication_slot($1)";
                let dropped = client.query_one(sql, &[&names.slot]).await;
                dropped.map_err(|source| SetupError::Step { step: what.clone(), source })?;
            }
            Action::MakeSlot => {}
        }
        torn.done.push(what);
    }
    Ok(torn)
}

async fn plan(client: &tokio_postgres::Client, names: &Names) -> Result<Plan, SetupError> {
    let failed = |source| SetupError::Step { step: "look at what is there".to_owned(), source };
    let found = Found::read(client, names, &[]).await.map_err(failed)?;
    if found.server.standby {
        return Err(SetupError::Standby);
    }
    let slot = &names.slot;
    let ours = found.slot.as_ref().map(|it| slot_is_ours(it, slot));
    if let (Some(Ok(())), Some((pid, application))) =
        (&ours, found.slot.as_ref().and_then(|slot| slot.active.clone()))
    {
        return Err(SetupError::InUse { slot: slot.clone(), pid, application });
    }
    let mut plan = Plan { steps: Vec::new(), left: Vec::new() };
    if let Some(publication) = &found.publication {
        let name = quote_identifier(&names.publication);
        plan.run(
            format!("drop publication {name}"),
            format!("DROP PUBLICATION IF EXISTS {name}"),
            Locks::None,
            owner_of(&publication.owned, "publication", &name),
        );
    }
    plan.identities(client, names, &found).await.map_err(failed)?;
    plan.own_tables(client, names, &found).await?;
    match ours {
        Some(Ok(())) => plan.steps.push(Step {
            what: format!("drop replication slot `{slot}`"),
            action: Action::DropSlot,
            missing: replication(&found),
        }),
        Some(Err(not_ours)) => plan.left.push(not_ours.to_string()),
        None => {}
    }
    allowed(&found, &plan.steps)?;
    Ok(plan)
}

impl Plan {
    fn run(&mut self, what: String, sql: String, locks: Locks, missing: Vec<Right>) {
        self.steps.push(Step { what, action: Action::Run { sql, locks }, missing });
    }

    /// Gives tables the replica identities back that they had.
    async fn identities(
        &mut self,
        client: &tokio_postgres::Client,
        names: &Names,
        found: &Found,
    ) -> Result<(), tokio_postgres::Error> {
        let record = quote_table(&names.schema, RECORD);
        let mut recorded: Vec<(TableName, String)> = Vec::new();
        if found.own(RECORD).is_some_and(|record| record.foreign().is_none() && record.owned.ours) {
            let sql = format!("SELECT schema, name, was FROM {record} ORDER BY schema, name");
            for row in client.query(&sql, &[]).await? {
                recorded.push((TableName { schema: row.get(0), name: row.get(1) }, row.get(2)));
            }
        }
        let published = found.publication.iter().flat_map(|publication| &publication.tables);
        let published: Vec<TableName> =
            published.filter(|table| table.schema != names.schema).cloned().collect();
        let all: Vec<TableName> =
            recorded.iter().map(|(name, _)| name).chain(&published).cloned().collect();
        let tables = Found::read(client, names, &all).await?.tables;
        let others = elsewhere(client, names).await?;
        let mut seen: Vec<&TableName> = Vec::new();
        for table in tables.iter().filter(|table| table.identity == FULL) {
            if seen.contains(&&table.name) {
                continue;
            }
            seen.push(&table.name);
            let was = recorded.iter().find(|(name, _)| *name == table.name).map(|(_, was)| was);
            let other = others.iter().find(|(name, _)| *name == table.name);
            match (was, other) {
                (_, Some((_, publication))) => self.left.push(format!(
                    "the replica identity of {} is FULL: publication {} needs it",
                    table.quoted(),
                    quote_identifier(publication)
                )),
                (None, None) => self.left.push(format!(
                    "the replica identity of {} is FULL, and setup had not set it",
                    table.quoted()
                )),
                (Some(was), None) => self.identity(table, was),
            }
        }
        Ok(())
    }

    fn identity(&mut self, table: &FoundTable, was: &str) {
        let quoted = table.quoted();
        self.run(
            format!("set the replica identity of {quoted} to {was}"),
            format!("ALTER TABLE {quoted} REPLICA IDENTITY {was}"),
            Locks::Exclusive(table.oid),
            owner_of(&table.owned, "table", &quoted),
        );
    }

    async fn own_tables(
        &mut self,
        client: &tokio_postgres::Client,
        names: &Names,
        found: &Found,
    ) -> Result<(), SetupError> {
        let mut missing = Vec::new();
        let mut tables = Vec::new();
        for own in &found.own {
            let table = quote_table(&names.schema, &own.name);
            if let Some(what) = own.foreign() {
                self.left.push(format!("{table} is not Rowtide's: {what}"));
                continue;
            }
            missing.extend(owner_of(&own.owned, "table", &table));
            tables.push(table);
        }
        if !tables.is_empty() {
            let list = tables.join(", ");
            let what = format!("drop table {list}");
            let sql = format!("DROP TABLE {list}");
            if missing.is_empty() {
                // What somebody has built upon them is told before anything is done.
                let trial = format!("BEGIN; SET LOCAL lock_timeout = '5s'; {sql}; ROLLBACK");
                if let Err(source) = client.batch_execute(&trial).await {
                    drop(client.batch_execute("ROLLBACK").await);
                    return Err(SetupError::Step { step: what, source });
                }
            }
            self.run(what, sql, Locks::None, missing);
        }
        if let Some(owned) = &found.schema {
            let schema = quote_identifier(&names.schema);
            self.run(
                format!("drop schema {schema}"),
                format!("DROP SCHEMA {schema}"),
                Locks::None,
                owner_of(owned, "schema", &schema),
            );
        }
        Ok(())
    }
}

/// The tables that other environments publish, with the publication.
async fn elsewhere(
    client: &tokio_postgres::Client,
    names: &Names,
) -> Result<Vec<(TableName, String)>, tokio_postgres::Error> {
    let sql = "SELECT schemaname::text, tablename::text, pubname::text FROM pg_publication_tables \
               WHERE pubname LIKE 'rowtide\\_%' AND pubname <> $1 ORDER BY pubname";
    let rows = client.query(sql, &[&names.publication]).await?;
    let table = |row: &tokio_postgres::Row| {
        (TableName { schema: row.get(0), name: row.get(1) }, row.get(2))
    };
    Ok(rows.iter().map(table).collect())
}
