//! Tries what `rowtide serve` is going to do, as far as that leaves no trace: it connects as the server does, starts the
//! stream and ends it, and sends a mutation of a client that does not exist down the path of all mutations. What the
//! catalog cannot tell shows here: a pooler in the way, a password or a certificate that only one of the addresses
//! wants, a role or a database with settings or limits under which it does not work.

use std::sync::Arc;
use std::time::Duration;

use rowtide_plan::catalog::TableName;
use rowtide_plan::check::Problem;
use rowtide_plan::plan::{BranchId, Plan, Table};
use rowtide_plan::sql::{load_sql, quote_table};
use tokio::time::timeout;
use tokio_postgres::{Client, Error, Row};

use crate::check::{
    AlreadyKnown, RowSecurity, check_own_tables, check_tables, fatal, may_use_schemas,
};
use crate::connect::{
    CONNECT, ConnectError, ConnectOptions, Names, connect, connect_shared, reason,
};
use crate::document_rights::{unanswerable, unwritable};
use crate::handshake::{self, Failure};
use crate::mutate::{Author, MutateError, Mutator, Number, Outcome, Ticket, Work};
use crate::rights::lacking;
use crate::session::Amiss;
use crate::slot::is_standby;
use crate::stream::{Instance, Stream, StreamError};
use crate::unseen::unseen_before_end;
use crate::watch::Watcher;
use crate::writing_role::unfit;

/// Connections of a server besides those for loads and mutations: the stream, what looks at the catalog, the slot and
/// what is running, client ids, and what is asked for when an epoch begins.
const OTHER_CONNECTIONS: usize = 6;
/// Those of a server that has documents: for their rules, for what rows say, for when they were saved, and for why they are
/// not published.
const DOCUMENT_CONNECTIONS: usize = 4;
/// How long a trial of a mutation may take.
const ANSWER: Duration = Duration::from_secs(10);

/// SQLSTATE.
const TOO_MANY_CONNECTIONS: &str = "53300";

/// How a server is going to be configured.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Where stream and loads go to.
    pub database: ConnectOptions,
    /// Where mutations go to.
    pub mutations: ConnectOptions,
    /// Whether statements of mutations are prepared.
    pub prepared_statements: bool,
    /// How many connections load rows.
    pub load_connections: usize,
    /// How many connections apply mutations.
    pub mutation_connections: usize,
}

impl Trial {
    /// Tries it, over `client` where it need not be a connection of its own.
    ///
    /// # Errors
    /// When a question to the database, over `client`, is not answered.
    pub async fn run(
        &self,
        client: &Client,
        names: &Names,
        plan: &Arc<Plan>,
        known: AlreadyKnown,
    ) -> Result<Vec<Problem>, Error> {
        if is_standby(client).await? {
            // That is said elsewhere, and everything else follows from it.
            return Ok(Vec::new());
        }
        let mut problems = session(client).await?;
        problems.extend(self.limits(client, plan).await?);
        problems.extend(unanswerable(client, plan).await?);
        problems.extend(unwritable(client, plan).await?);
        if let Some(pooled) = pooled(client, &self.database).await {
            problems.push(pooled);
        }
        if known.may_stream {
            problems.extend(self.stream(names, plan).await);
        }
        problems.extend(self.look(names, plan).await);
        problems.extend(self.mutate(client, names, plan, known.own_tables).await?);
        Ok(problems)
    }

    /// Whether role, database and server let it have its connections.
    async fn limits(&self, client: &Client, plan: &Plan) -> Result<Vec<Problem>, Error> {
        let of_documents = if plan.documents.is_empty() { 0 } else { DOCUMENT_CONNECTIONS };
        let wanted =
            self.load_connections + self.mutation_connections + OTHER_CONNECTIONS + of_documents;
        let sql = "SELECT quote_ident(current_user), rolconnlimit, quote_ident(current_database()), datconnlimit, \
                   rolsuper, current_setting('max_connections')::int - (SELECT sum(setting::int)::int FROM pg_settings \
                     WHERE name IN ('superuser_reserved_connections', 'reserved_connections')) \
                   FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()";
        let row = client.query_one(sql, &[]).await?;
        let (role, database): (&str, &str) = (row.get(0), row.get(2));
        let mut problems = Vec::new();
        let mut check = |allowed: i32, whose: String, repair: String| {
            let allowed = usize::try_from(allowed).ok();
            if let Some(allowed) = allowed.filter(|allowed| *allowed < wanted) {
                let what = format!(
                    "{whose} may have {allowed} connections, and the server opens up to {wanted}"
                );
                problems.push(fatal(what, repair));
            }
        };
        // Neither holds for a superuser; -1 stands for any number.
        if !row.get::<_, bool>(4) {
            let repair = format!(
                "ALTER ROLE {role} CONNECTION LIMIT {wanted};  -- or lower mutation_connections"
            );
            check(row.get(1), format!("role {role}"), repair);
            let repair = format!(
                "ALTER DATABASE {database} CONNECTION LIMIT {wanted};  -- or lower mutation_connections"
            );
            check(row.get(3), format!("database {database}"), repair);
        }
        let repair = "raise max_connections and restart Postgres, or lower mutation_connections";
        check(row.get(5), "everybody together".to_owned(), repair.to_owned());
        Ok(problems)
    }

    /// Looks at what a server looks at as long as it serves, and has what it loads planned.
    async fn look(&self, names: &Names, plan: &Plan) -> Vec<Problem> {
        // That there is no connection is said elsewhere.
        let Ok(client) = connect(&self.database, "check").await else { return Vec::new() };
        let name = |table: &Table| TableName {
            schema: table.catalog.schema.clone(),
            name: table.catalog.name.clone(),
        };
        let tables: Vec<TableName> = plan.tables.iter().map(name).collect();
        let mut watcher = match Watcher::new(client, names, &tables).await {
            Ok(watcher) => watcher,
            Err(error) => return vec![unseen_by_server(&error)],
        };
        if let Err(error) = watcher.look_with_catalog(&tables).await {
            return vec![unseen_by_server(&error)];
        }
        let mut problems = Vec::new();
        if let Err(error) = unseen_before_end(watcher.client()).await {
            problems.push(unseen_by_server(&error));
        }
        // That it may not is said elsewhere.
        if !may_use_schemas(watcher.client(), plan).await.unwrap_or_default() {
            return problems;
        }
        let branches = plan.branches.iter().enumerate();
        for (index, branch) in branches.filter(|(_, branch)| branch.is_reached()) {
            let prepared = watcher.client().prepare(&load_sql(plan, BranchId(index as u16))).await;
            if let Err(error) = prepared {
                let of = &plan.table(branch.table).catalog;
                let table = quote_table(&of.schema, &of.name);
                let what = format!("rows of table {table} cannot be loaded: {}", reason(&error));
                let problem =
                    fatal(what, "let the role read the table, and use the types of its columns");
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
        problems
    }

    /// Starts to stream, as far as nobody else does.
    async fn stream(&self, names: &Names, plan: &Arc<Plan>) -> Option<Problem> {
        let started =
            Stream::start(&self.database, names, Arc::clone(plan), Instance(rand::random())).await;
        let used = matches!(&started, Err(StreamError::SlotActive { .. }));
        let error = match started {
            Ok((stream, _)) => {
                stream.stop().await;
                return None;
            }
            // A server may be serving; that a slot is missing or lost is said elsewhere.
            Err(
                StreamError::SlotActive { .. }
                | StreamError::SlotMissing(_)
                | StreamError::SlotLost(_),
            ) => {
                let entered = timeout(CONNECT, handshake::try_out(&self.database)).await;
                match entered {
                    Ok(Ok(())) => return None,
                    // The server that serves has the last one.
                    Ok(Err(Failure::Rejected(rejection)))
                        if used && rejection.code == TOO_MANY_CONNECTIONS =>
                    {
                        return None;
                    }
                    Ok(Err(Failure::Rejected(rejection))) => rejection.message,
                    Ok(Err(Failure::Other(why))) => why,
                    Err(_) => format!("it took longer than {} s", CONNECT.as_secs()),
                }
            }
            Err(StreamError::Connect(ConnectError::Stream { reason, .. })) => reason,
            Err(error) => error.to_string(),
        };
        let repair = if error.contains("max_wal_senders") {
            "raise max_wal_senders and restart Postgres"
        } else if error.contains("pg_hba.conf") {
            "let pg_hba.conf take the role for this database, too, when it comes to stream"
        } else {
            "database_url must lead to Postgres itself, and not to a pooler (a pooler can be the \
             mutation_database_url), and take a connection with replication=database"
        };
        Some(fatal(format!("no connection can stream: {error}"), repair))
    }

    /// Goes the way of all mutations.
    async fn mutate(
        &self,
        client: &Client,
        names: &Names,
        plan: &Arc<Plan>,
        own_tables: bool,
    ) -> Result<Vec<Problem>, Error> {
        let rules = plan.tables.iter().any(|table| table.write.rules().next().is_some())
            || !plan.calls.is_empty();
        // It may be a pooler's: nothing is to be left behind in it.
        let (other, amiss) = match connect_shared(&self.mutations, "mutate").await {
            Ok(connected) => connected,
            Err(error) => {
                let repair = pooler_advice(&error.to_string()).or(error.advice());
                let what = format!("no mutation can be applied: {error}");
                return Ok(vec![fatal(what, repair.unwrap_or("correct mutation_database_url"))]);
            }
        };
        let mut problems = Vec::new();
        // It may lead to another database of the same name.
        let identity = "SELECT (SELECT system_identifier FROM pg_control_system()), oid, current_user::text \
                        FROM pg_database WHERE datname = current_database()";
        let here = client.query_one(identity, &[]).await?;
        match other.query_typed(identity, &[]).await.map(|rows| rows.into_iter().next()) {
            Ok(Some(there)) => {
                let of = |row: &Row| (row.get::<_, i64>(0), row.get::<_, u32>(1));
                if of(&here) != of(&there) {
                    let repair =
                        "let both lead to one database: mutations are acknowledged by the stream";
                    let what = "mutation_database_url leads to another database than database_url";
                    return Ok(vec![fatal(what, repair)]);
                }
                let another = here.get::<_, &str>(2) != there.get::<_, &str>(2);
                if rules {
                    problems.extend(rights(&other, &amiss, plan, another).await);
                    problems.extend(unfit(&other, plan).await?);
                }
                if another
                    && own_tables
                    && let Ok(lacking) = check_own_tables(&other, names).await
                {
                    let lacks = !lacking.is_empty();
                    problems.extend(lacking);
                    if lacks {
                        return Ok(problems);
                    }
                }
            }
            Ok(None) => {}
            Err(error) => {
                let repair = "correct mutation_database_url";
                let what = format!("no mutation can be applied: {}", reason(&error));
                return Ok(vec![fatal(what, repair)]);
            }
        }
        if !own_tables {
            return Ok(problems);
        }
        let prepare = self.prepared_statements;
        let mutator = Mutator::new(self.mutations.clone(), names.clone(), 1, prepare, ANSWER);
        let mut tried = try_mutation(&mutator, plan).await;
        if tried.is_ok() {
            // A pooler that hands out a connection for each transaction gives another one now, since this one has
            // the last.
            let busy = other.batch_execute("BEGIN; SELECT 1").await;
            tried = try_mutation(&mutator, plan).await;
            if busy.is_ok() {
                drop(other.batch_execute("ROLLBACK").await);
            }
        }
        if let Err(why) = tried {
            let what = format!("no mutation can be applied: {why}");
            let repair = if why.contains("prepared statement") && prepare {
                "set prepared_statements = false: the pooler does not know of prepared statements"
            } else if why.contains("permission denied") {
                "see the other errors, or `rowtide setup --print` for what the server's role needs"
            } else {
                "mutation_database_url must lead to the primary, in transaction or session mode"
            };
            problems.push(fatal(what, repair));
        }
        Ok(problems)
    }
}

/// That a server could not see what it serves by.
fn unseen_by_server(error: &dyn std::error::Error) -> Problem {
    fatal(
        error.to_string(),
        "let the server's role read Postgres' catalogs and call its functions, as every role may by itself",
    )
}

/// What the role of mutations may not do. What it may not do to the tables themselves is said only of another role than the
/// one that loads and streams, of which it is said elsewhere.
async fn rights(client: &Client, amiss: &Amiss, plan: &Plan, another: bool) -> Vec<Problem> {
    let looked = async {
        let of_tables = check_tables(client, plan, RowSecurity::Judges).await?;
        // Without these everything else fails.
        match of_tables.is_empty() {
            true => lacking(client, amiss, plan).await,
            false if another => Ok(of_tables),
            false => Ok(Vec::new()),
        }
    };
    looked.await.unwrap_or_else(|error| {
        // As behind a pooler that does not know of prepared statements.
        let what = format!("what the role of mutations may do cannot be seen: {}", reason(&error));
        vec![Problem { what, repair: None, fatal: false }]
    })
}

/// Sends a mutation of a client that does not exist, which changes nothing.
async fn try_mutation(mutator: &Mutator, plan: &Arc<Plan>) -> Result<(), String> {
    let client = format!("rowtide check {:08x}", rand::random::<u32>());
    let ticket =
        Ticket { client: client.into(), user_id: "rowtide check".into(), number: Number::Given(1) };
    let work = Work::Apply(Vec::new());
    match timeout(ANSWER, mutator.apply(plan, &ticket, &Author::default(), &work)).await {
        Ok(Ok(Outcome::Gap { .. } | Outcome::NotTheirs)) => Ok(()),
        Ok(Ok(other)) => Err(format!("a client that is not there was answered with {other:?}")),
        Ok(Err(MutateError::Away(why) | MutateError::Conflict(why) | MutateError::Slow(why))) => {
            Err(why)
        }
        Err(_) => Err(format!("there was no answer within {} s", ANSWER.as_secs())),
    }
}

/// What the server's sessions begin with. What role and database set is overruled as the server connects, and what the
/// URL sets is not; only a pooler that does not pass `options` on leaves the others in force.
async fn session(client: &Client) -> Result<Vec<Problem>, Error> {
    let sql = "SELECT name, current_setting(name), source = 'client', quote_ident(current_user) FROM pg_settings \
               WHERE name = 'default_transaction_read_only' AND setting = 'on' OR setting <> '0' \
                 AND name IN ('statement_timeout', 'transaction_timeout', 'idle_session_timeout') ORDER BY name";
    let problem = |row: &Row| {
        let (name, value, role): (&str, &str, &str) = (row.get(0), row.get(1), row.get(3));
        let is_fatal = name == "default_transaction_read_only";
        let (harmless, harm) = match is_fatal {
            true => ("off", "they can only read"),
            false => ("0", "what takes longer fails"),
        };
        let (whose, repair) = match row.get(2) {
            true => (
                "`options` in database_url".to_owned(),
                format!("take {name} out of `options` in database_url"),
            ),
            false => {
                (format!("role {role}"), format!("ALTER ROLE {role} SET {name} = {harmless};"))
            }
        };
        let what = format!("sessions begin with {name} = {value}, set by {whose}: {harm}");
        Problem { what, repair: Some(repair), fatal: is_fatal }
    };
    Ok(client.query(sql, &[]).await?.iter().map(problem).collect())
}

/// Whether a pooler hands out Postgres' connections for each transaction: then two that are open at once have one, or
/// one of them has another after a while.
async fn pooled(client: &Client, options: &ConnectOptions) -> Option<Problem> {
    let pid = async |client: &Client| -> Option<i32> {
        let rows = client.query_typed("SELECT pg_backend_pid()", &[]).await.ok()?;
        rows.first().map(|row| row.get(0))
    };
    let other = connect(options, "check").await.ok()?;
    let first = pid(client).await?;
    other.batch_execute("BEGIN").await.ok()?;
    let others = pid(&other).await?;
    let again = pid(client).await?;
    drop(other.batch_execute("ROLLBACK").await);
    (others == first || again != first).then(|| {
        let what = "database_url leads to a pooler that hands out connections for each transaction";
        let repair =
            "let database_url lead to Postgres itself; the pooler can be the mutation_database_url";
        fatal(what, repair)
    })
}

/// What helps with what a pooler says when it does not let us in.
fn pooler_advice(said: &str) -> Option<&'static str> {
    said.contains("unsupported startup parameter")
        .then_some("set ignore_startup_parameters = options in the pooler's configuration")
}
