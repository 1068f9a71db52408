//! Sets up a database for Rowtide: its own schema, the replica identities, the publication and the slot. First it
//! looks what there is, what is to be done and whether the role may do all of it; if not, it says what is missing and
//! does nothing. Then it does step after step, each in a transaction of its own, so setup can run again at any time,
//! and several times at once. It changes nothing that belongs to others, and nobody waits behind it: for a lock that
//! others are in the way of it asks again and again, for a moment each time (`turns.rs`).

mod found;
mod print;
mod psql;
mod steps;
mod teardown;
mod turns;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rowtide_plan::catalog::TableName;
use rowtide_plan::documents::PlannedKind;
use rowtide_plan::plan::{Plan, Table};
use thiserror::Error;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use self::found::Found;
pub(crate) use self::found::{MAY_STREAM, slot};
pub use self::print::script;
pub use self::steps::Right;
use self::steps::{Action, Step};
pub(crate) use self::steps::{foreign, later_columns, slot_is_ours};
pub use self::teardown::{Torn, teardown, teardown_script, to_tear_down};
pub use self::turns::in_the_way;
use self::turns::{SAY_AGAIN, Turns};
use crate::catalog::{encoding_said, unserved_encoding};
use crate::connect::{ConnectError, ConnectOptions, Names, connect, reason};
use crate::slot_making::{Looks, MakeSlotError, make};
use crate::stream::{create_slot, drop_slot};

/// Why a step failed, or must not be done.
#[derive(Debug, Error)]
pub enum SetupError {
    /// Postgres cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Postgres returned an error. The steps before it stay done.
    #[error("cannot {step}: {}", reason(source))]
    Step {
        /// The step.
        step: String,
        /// The error of Postgres.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The database has another encoding than UTF-8.
    #[error("{}", encoding_said(.0))]
    Encoding(String),
    /// The role lacks rights, and nothing was done.
    #[error("role `{role}` may not do all of it, and nothing was done:{}", listed(missing))]
    NotAllowed {
        /// The role.
        role: String,
        /// What is to be done and cannot be, with each right that is missing for it.
        missing: Vec<(String, Right)>,
    },
    /// The server is a standby.
    #[error("the server is a standby: connect to the primary")]
    Standby,
    /// A table that was asked for is not there.
    #[error("there is no table {0}")]
    NoTable(String),
    /// A table of the name of one of Rowtide's own is somebody else's.
    #[error("{table} is not Rowtide's: {what}; choose another environment, or move it away")]
    Foreign {
        /// The table, quoted.
        table: String,
        /// How that shows.
        what: String,
    },
    /// There can be no slot as the server is configured.
    #[error("cannot create replication slot `{slot}`: {why}")]
    NoSlot {
        /// The slot.
        slot: String,
        /// Why not.
        why: String,
        /// What to do.
        repair: &'static str,
    },
    /// The slot belongs to another database.
    #[error("replication slot `{slot}` belongs to database `{database}`")]
    SlotOfAnother {
        /// The slot.
        slot: String,
        /// The database that it belongs to.
        database: String,
    },
    /// The slot is not one of `pgoutput`.
    #[error("replication slot `{slot}` has another plugin than pgoutput (`{plugin}`)")]
    SlotOfAnotherPlugin {
        /// The slot.
        slot: String,
        /// Its plugin.
        plugin: String,
    },
    /// The slot is one of physical replication.
    #[error("replication slot `{0}` is one of physical replication")]
    PhysicalSlot(String),
    /// A server serves, so nothing may be taken from under it.
    #[error(
        "process {pid} (`{application}`) uses replication slot `{slot}`: stop that server first; nothing was done"
    )]
    InUse {
        /// The slot.
        slot: String,
        /// The walsender.
        pid: i32,
        /// Its application's name.
        application: String,
    },
    /// The slot could not be made.
    #[error("cannot create replication slot `{slot}`: {source}")]
    MakeSlot {
        /// The slot.
        slot: String,
        /// Why not.
        #[source]
        source: MakeSlotError,
    },
    /// It was told to stop.
    #[error(
        "it was stopped before it could {before}; what was done stays, and it can be run again"
    )]
    Stopped {
        /// What it was about to do.
        before: String,
    },
}

impl SetupError {
    /// What to do about it, if the error's own words do not say.
    pub fn advice(&self) -> Option<&str> {
        match self {
            SetupError::NoSlot { repair, .. } => Some(repair),
            SetupError::SlotOfAnother { .. } => Some("choose another environment for this one"),
            SetupError::SlotOfAnotherPlugin { .. } | SetupError::PhysicalSlot(_) => {
                Some("choose another environment, or drop the slot if nobody uses it")
            }
            _ => None,
        }
    }
}

fn listed(missing: &[(String, Right)]) -> String {
    let line = |(step, right): &(String, Right)| {
        format!("\n- to {step} it needs {} ({})", right.what, right.repair)
    };
    missing.iter().map(line).collect()
}

/// What the server's role must be allowed to do to the rows of a table, besides reading them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are named as Postgres' privileges are")]
pub struct Writes {
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
}

impl Writes {
    /// Those that the rules of a table need, and saves of its documents. UPDATE is needed for updates, also for those that
    /// an insert becomes, and to lock a row before a delete.
    pub fn of(plan: &Plan, table: &Table) -> Writes {
        let rules = &table.write;
        let touches = |kind: &PlannedKind| {
            kind.touched.is_some() && plan.table(kind.table).catalog.oid == table.catalog.oid
        };
        let touched = plan.documents.iter().any(touches);
        // Where another role writes, the server's own only judges and locks.
        let itself = plan.writes_as.is_none();
        Writes {
            insert: itself && rules.insert.is_some(),
            update: touched || !rules.updates.is_empty() || rules.delete.is_some(),
            delete: itself && rules.delete.is_some(),
        }
    }

    /// Whether there are any.
    pub fn any(self) -> bool {
        self.insert || self.update || self.delete
    }

    /// Those of a table of a plan, by its name; none if it is not there.
    fn of_name(plan: &Plan, name: &TableName) -> Writes {
        let table = plan
            .tables
            .iter()
            .find(|table| table.catalog.schema == name.schema && table.catalog.name == name.name);
        table.map(|table| Writes::of(plan, table)).unwrap_or_default()
    }
}

/// How setup and teardown speak with a person while they wait, and how they are told to stop.
pub struct Attended<'a> {
    /// Is told what is waited for, once for each.
    pub waits: &'a (dyn Fn(String) + Send + Sync),
    /// Ends it; then nothing of it goes on in Postgres.
    pub stop: &'a CancellationToken,
}

/// Sets up a database for the tables of a definition, over a connection of the caller's. Returns a sentence for each
/// step that it did; none if everything was there already.
///
/// Tables and their partitions get `REPLICA IDENTITY FULL`, so that the stream has the old rows. The slot comes last. To create it
/// Postgres waits for all older transactions, as long as they take.
///
/// # Errors
/// When it cannot be done or is not allowed, and then nothing was done; or when a step fails. Later steps are not
/// tried then.
pub async fn setup(
    client: &Client,
    names: &Names,
    tables: &[TableName],
) -> Result<Vec<String>, SetupError> {
    let (waits, stop) = (|why: String| tracing::info!("{why}"), CancellationToken::new());
    let attended = Attended { waits: &waits, stop: &stop };
    Setup { client, beside: None, names, attended: &attended }.run(tables).await
}

/// As [`setup`], over connections of its own, and attended by a person.
///
/// # Errors
/// As [`setup`], and when it is told to stop.
pub async fn setup_attended(
    options: &ConnectOptions,
    names: &Names,
    tables: &[TableName],
    attended: &Attended<'_>,
) -> Result<Vec<String>, SetupError> {
    let (client, beside) = connections(options).await?;
    Setup { client: &client, beside: Some(&beside), names, attended }.run(tables).await
}

/// One to work with, and one beside it to see whom it waits for and to cancel it.
async fn connections(options: &ConnectOptions) -> Result<(Client, Client), SetupError> {
    let client = connect(options, "setup").await?;
    // What a role or a database may set to something else; and Postgres notices by itself, where it can, should we go
    // without a word.
    let rely = "SET statement_timeout = 0; SET default_transaction_read_only = off; \
                SET default_transaction_isolation = 'read committed'";
    let failed = |source| SetupError::Step { step: "begin".to_owned(), source };
    client.batch_execute(rely).await.map_err(failed)?;
    if let Err(error) = client.batch_execute("SET client_connection_check_interval = '2s'").await {
        tracing::debug!(error = reason(&error), "connections are not checked here");
    }
    Ok((client, connect(options, "setup").await?))
}

/// Rowtide's own tables. `client` counts the mutations of each client. It is in the publication: its row in
/// the stream is the acknowledgement. The row has the last rejection, and `refusal` has the earlier ones.
/// `keys` are those that the last mutation made, or of which is told again, and `made_key` has the earlier ones.
/// `named_mutation` has the mutations of clients that do not number them. `created_at` is when the client was last known to
/// be in use, within a week; it has its name from the time when no row was ever removed.
pub(crate) const OWN_TABLES: [(&str, &str); 4] = [
    (
        "client",
        "client_id text PRIMARY KEY,
         user_id text NOT NULL,
         last_mutation bigint NOT NULL DEFAULT 0,
         refused jsonb,
         keys json,
         name text,
         created_at timestamptz NOT NULL DEFAULT now()",
    ),
    (
        "refusal",
        "client_id text NOT NULL,
         id bigint NOT NULL,
         code text NOT NULL,
         message text NOT NULL,
         PRIMARY KEY (client_id, id)",
    ),
    (
        "made_key",
        "client_id text NOT NULL,
         id bigint NOT NULL,
         op integer NOT NULL,
         key json NOT NULL,
         PRIMARY KEY (client_id, id, op)",
    ),
    (
        "named_mutation",
        "client_id text NOT NULL,
         name text NOT NULL,
         number bigint NOT NULL,
         refused jsonb,
         session_id text,
         told boolean NOT NULL DEFAULT false,
         PRIMARY KEY (client_id, name)",
    ),
];

/// Columns that earlier versions of Rowtide made these tables without: table, column, type.
const LATER_COLUMNS: [(&str, &str, &str); 3] = [
    ("client", "keys", "json"),
    ("named_mutation", "session_id", "text"),
    ("named_mutation", "told", "boolean NOT NULL DEFAULT false"),
];
/// The table of the replica identities that tables had before setup, for teardown. The server has no use for it. It is
/// made with the first record.
pub(crate) const RECORD: &str = "replica_identity";
/// Its columns. `was` is what stands behind `REPLICA IDENTITY`.
pub(crate) const RECORD_COLUMNS: &str = "schema text NOT NULL,
         name text NOT NULL,
         was text NOT NULL,
         PRIMARY KEY (schema, name)";

struct Setup<'a> {
    client: &'a Client,
    beside: Option<&'a Client>,
    names: &'a Names,
    attended: &'a Attended<'a>,
}

impl Setup<'_> {
    async fn run(&self, tables: &[TableName]) -> Result<Vec<String>, SetupError> {
        let turns = Turns { client: self.client, attended: self.attended };
        // Two setups that look at the same time would both create.
        turns.lock_out_others(&self.names.schema).await?;
        let result = self.look_and_do(&turns, tables).await;
        let unlocked = turns.let_others_in(&self.names.schema).await;
        let done = result?;
        unlocked.map(|()| done)
    }

    async fn look_and_do(
        &self,
        turns: &Turns<'_>,
        tables: &[TableName],
    ) -> Result<Vec<String>, SetupError> {
        let fail = |source| SetupError::Step { step: "look at the database".to_owned(), source };
        if let Some(encoding) = unserved_encoding(self.client).await.map_err(fail)? {
            return Err(SetupError::Encoding(encoding));
        }
        let found = Found::read(self.client, self.names, tables).await;
        let found = found.map_err(|source| SetupError::Step {
            step: "look at what is there".to_owned(),
            source,
        })?;
        let steps = steps::setup_steps(&found, self.names, tables)?;
        allowed(&found, &steps)?;
        let mut done = Vec::with_capacity(steps.len());
        for Step { what, action, .. } in steps {
            match action {
                Action::Run { sql, locks } => turns.run(&what, &sql, &locks).await?,
                Action::DropSlot => {
                    let dropped = drop_slot(self.client, &self.names.slot).await;
                    dropped.map_err(|source| SetupError::Step { step: what.clone(), source })?;
                }
                Action::MakeSlot => self.make_slot(&what).await?,
            }
            done.push(what);
        }
        Ok(done)
    }

    async fn make_slot(&self, what: &str) -> Result<(), SetupError> {
        let slot = &self.names.slot;
        let failed = |source| SetupError::Step { step: what.to_owned(), source };
        self.client.batch_execute("SET lock_timeout = 0").await.map_err(failed)?;
        let Some(beside) = self.beside else {
            create_slot(self.client, slot).await.map_err(failed)?;
            return self.client.batch_execute("RESET lock_timeout").await.map_err(failed);
        };
        let stop = self.attended.stop;
        let said = Mutex::new(None::<Instant>);
        let waits = |why| {
            // How long it has been waited for is part of it, so it is another text each time.
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.is_none_or(|at| at.elapsed() > SAY_AGAIN) {
                *said = Some(Instant::now());
                (self.attended.waits)(why);
            }
        };
        match make(self.client, beside, slot, Looks::Closely, waits, stop).await {
            Ok(()) => Ok(()),
            Err(MakeSlotError::Stopped) => Err(SetupError::Stopped { before: what.to_owned() }),
            Err(source) => Err(SetupError::MakeSlot { slot: slot.clone(), source }),
        }
    }
}

/// That the role may do every step.
fn allowed(found: &Found, steps: &[Step]) -> Result<(), SetupError> {
    let mut missing: Vec<(String, Right)> = Vec::new();
    for step in steps {
        for right in &step.missing {
            missing.push((step.what.clone(), right.clone()));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(SetupError::NotAllowed { role: found.server.role.clone(), missing })
}
