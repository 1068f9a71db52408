//! Takes out of a database what setup put into it: publication, replica identities, Rowtide's own tables and its
//! schema, and last the slot, so that a server which waits for its turn does not make it anew. What is not Rowtide's
//! is left and named: other things in the schema, a slot of another's under our name, replica identities that setup
//! found as they are or that another environment needs. Nothing is taken from under a server that serves.

use std::collections::BTreeSet;

use rowtide_plan::catalog::TableName;
use rowtide_plan::sql::{quote_identifier, quote_literal, quote_table};
use tokio_postgres::error::SqlState;

use super::found::{FULL, Found, FoundTable, Owned};
use super::psql::{HEAD, attempts, block, comment, guard, in_line, whose};
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
    todo: Vec<Todo>,
    left: Vec<String>,
    /// What of the server is in the way of all of it.
    in_use: Option<SetupError>,
    /// What must be possible before anything is done: nobody has built upon what goes. It is undone again.
    trial: Option<Todo>,
    /// Who owns what is changed.
    owners: BTreeSet<String>,
}

/// A step, as it is done and as it is printed.
struct Todo {
    step: Step,
    psql: String,
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
    let plan = possible(&client, names).await?;
    Ok(plan.todo.into_iter().map(|todo| todo.step.what).collect())
}

/// What [`teardown`] would do as one script for `psql`, in parts for those who must run them. It changes nothing.
///
/// # Errors
/// When Postgres cannot be asked, or the role may not read which replica identities tables had.
pub async fn teardown_script(
    options: &ConnectOptions,
    names: &Names,
) -> Result<String, SetupError> {
    let (client, _) = connections(options).await?;
    let failed = |source| SetupError::Step { step: "look at what is there".to_owned(), source };
    let found = Found::read(&client, names, &[]).await.map_err(failed)?;
    let record = found.own(RECORD).filter(|record| record.foreign().is_none());
    if let Some(record) = record {
        let table = quote_table(&names.schema, RECORD);
        let missing = owner_of(&record.owned, "table", &table);
        let what = "read which replica identities tables had".to_owned();
        let missing = missing.into_iter().map(|right| (what.clone(), right)).collect::<Vec<_>>();
        if !missing.is_empty() {
            return Err(SetupError::NotAllowed { role: found.server.role.clone(), missing });
        }
    }
    Ok(plan(&client, names, &found).await?.script(names, &found.server.database))
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
    let Plan { todo, left, .. } = possible(&client, names).await?;
    let mut torn = Torn { done: Vec::new(), left };
    for Step { what, action, .. } in todo.into_iter().map(|todo| todo.step) {
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

/// What is to be done, if it can be.
async fn possible(client: &tokio_postgres::Client, names: &Names) -> Result<Plan, SetupError> {
    let failed = |source| SetupError::Step { step: "look at what is there".to_owned(), source };
    let found = Found::read(client, names, &[]).await.map_err(failed)?;
    let mut plan = plan(client, names, &found).await?;
    if let Some(in_use) = plan.in_use.take() {
        return Err(in_use);
    }
    if let Some(Todo { step, psql }) = &plan.trial
        && step.missing.is_empty()
        && let Err(source) = client.batch_execute(psql).await
    {
        drop(client.batch_execute("ROLLBACK").await);
        return Err(SetupError::Step { step: step.what.clone(), source });
    }
    let steps: Vec<Step> = plan.todo.iter().map(|todo| todo.step.clone()).collect();
    allowed(&found, &steps)?;
    Ok(plan)
}

async fn plan(
    client: &tokio_postgres::Client,
    names: &Names,
    found: &Found,
) -> Result<Plan, SetupError> {
    if found.server.standby {
        return Err(SetupError::Standby);
    }
    let slot = &names.slot;
    let ours = found.slot.as_ref().map(|it| slot_is_ours(it, slot));
    let in_use = match (&ours, found.slot.as_ref().and_then(|slot| slot.active.clone())) {
        (Some(Ok(())), Some((pid, application))) => {
            Some(SetupError::InUse { slot: slot.clone(), pid, application })
        }
        _ => None,
    };
    let (left, owners) = (Vec::new(), BTreeSet::new());
    let mut plan = Plan { todo: Vec::new(), left, in_use, trial: None, owners };
    if let Some(publication) = &found.publication {
        let name = quote_identifier(&names.publication);
        let sql = format!("DROP PUBLICATION IF EXISTS {name}");
        plan.owners.insert(publication.owned.owner.clone());
        plan.run(
            format!("drop publication {name}"),
            format!("{sql};\n"),
            sql,
            Locks::None,
            owner_of(&publication.owned, "publication", &name),
        );
    }
    let failed = |source| SetupError::Step { step: "look at what is there".to_owned(), source };
    plan.identities(client, names, found).await.map_err(failed)?;
    plan.own_tables(names, found);
    match ours {
        Some(Ok(())) => {
            let step = Step {
                what: format!("drop replication slot `{slot}`"),
                action: Action::DropSlot,
                missing: replication(found),
            };
            let psql = format!(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots\n  WHERE slot_name = {};\n",
                quote_literal(slot)
            );
            plan.todo.push(Todo { step, psql });
        }
        Some(Err(not_ours)) => plan.left.push(not_ours.to_string()),
        None => {}
    }
    Ok(plan)
}

impl Plan {
    fn run(&mut self, what: String, psql: String, sql: String, locks: Locks, missing: Vec<Right>) {
        let step = Step { what, action: Action::Run { sql, locks }, missing };
        self.todo.push(Todo { step, psql });
    }

    /// It is run with `psql`.
    fn script(&self, names: &Names, database: &str) -> String {
        let owners: BTreeSet<&str> = self.owners.iter().map(String::as_str).collect();
        let part = |slot: bool| {
            let is_of = |todo: &&Todo| matches!(todo.step.action, Action::DropSlot) == slot;
            let todo = self.todo.iter().filter(is_of);
            let text = |todo: &Todo| format!("\n-- {}\n{}", in_line(&todo.step.what), todo.psql);
            let text = todo.map(text).collect::<String>();
            if text.is_empty() { "\n-- There is nothing to do.\n".to_owned() } else { text }
        };
        let whose = if owners.is_empty() { "whoever likes".to_owned() } else { whose(&owners) };
        let trial = self.trial.as_ref().map(|trial| {
            format!(
                "-- What somebody has built upon them is told before anything is done.\n{}",
                trial.psql
            )
        });
        let left = self.left.iter().map(|left| format!("-- left: {}\n", in_line(left)));
        format!(
            "-- What Rowtide has in database {database}, under the names {slot} and {schema}, is taken out. Stop its servers\n\
             -- first, also those that stand by. Clients lose what they have not been sent yet.\n\
             {HEAD}\
             \n-- Part 1 of 2, for {whose}.\n\n\
             {here}{stopped}{trial}{of_owners}\
             \n-- Part 2 of 2, for a role with REPLICATION, such as the one that the server connects as, or a superuser.\n\n\
             {here}{of_slot}\n{left}",
            database = comment(database),
            slot = comment(&names.slot),
            schema = comment(&names.schema),
            here = guard(database),
            stopped = stopped(&names.slot),
            trial = trial.unwrap_or_default(),
            of_owners = part(false),
            of_slot = part(true),
            left = left.collect::<String>(),
        )
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
        let sql = format!("ALTER TABLE {quoted} REPLICA IDENTITY {was}");
        let is_full = format!(
            "EXISTS (SELECT FROM pg_class WHERE oid = to_regclass({}) AND relreplident = 'f')",
            quote_literal(&quoted)
        );
        // The index that it was is gone.
        let leaves = "WHEN undefined_object THEN\n      RAISE WARNING 'left: %', SQLERRM;\n      EXIT;\n    ";
        self.owners.insert(table.owned.owner.clone());
        self.run(
            format!("set the replica identity of {quoted} to {was}"),
            attempts(&quoted, &format!("NOT {is_full}"), &format!("{sql};"), leaves),
            sql,
            Locks::Exclusive(table.oid),
            owner_of(&table.owned, "table", &quoted),
        );
    }

    fn own_tables(&mut self, names: &Names, found: &Found) {
        let mut missing = Vec::new();
        let mut tables = Vec::new();
        for own in &found.own {
            let table = quote_table(&names.schema, &own.name);
            if let Some(what) = own.foreign() {
                self.left.push(format!("{table} is not Rowtide's: {what}"));
                continue;
            }
            missing.extend(owner_of(&own.owned, "table", &table));
            self.owners.insert(own.owned.owner.clone());
            tables.push(table);
        }
        if !tables.is_empty() {
            let list = tables.join(", ");
            let what = format!("drop table {list}");
            let sql = format!("DROP TABLE IF EXISTS {list}");
            let action = Action::Run { sql: sql.clone(), locks: Locks::None };
            self.trial = Some(Todo {
                step: Step { what: what.clone(), action, missing: missing.clone() },
                psql: format!("BEGIN; SET LOCAL lock_timeout = '5s'; {sql}; ROLLBACK;\n"),
            });
            self.run(what, format!("{sql};\n"), sql, Locks::None, missing);
        }
        if let Some(owned) = &found.schema {
            self.schema(&quote_identifier(&names.schema), owned);
        }
    }

    fn schema(&mut self, schema: &str, owned: &Owned) {
        let sql = format!("DROP SCHEMA IF EXISTS {schema}");
        // There is more in it.
        let leaves = "EXCEPTION WHEN dependent_objects_still_exist THEN\n    RAISE WARNING 'left: %', SQLERRM;";
        self.owners.insert(owned.owner.clone());
        self.run(
            format!("drop schema {schema}"),
            block(&format!("{sql};\n{leaves}")),
            sql,
            Locks::None,
            owner_of(owned, "schema", schema),
        );
    }
}

/// That no server uses the slot, as a statement.
fn stopped(slot: &str) -> String {
    let slot = quote_literal(slot);
    block(&format!(
        "IF EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {slot} AND active\n      \
         AND database = current_database() AND plugin = 'pgoutput') THEN\n    \
         RAISE EXCEPTION 'process % uses replication slot %: stop that server first; nothing was done',\n      \
         (SELECT active_pid FROM pg_replication_slots WHERE slot_name = {slot}), {slot};\n  END IF;"
    ))
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
