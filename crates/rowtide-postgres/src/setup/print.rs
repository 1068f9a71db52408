//! The SQL of set-up as one script for `psql`, for those who may not, or do not want to, let a program do it. It has a
//! part for each who must run it: an administrator, the owner of the tables, the server's role. A superuser may run
//! all of it as it stands. Each statement looks first whether there is something to do, so it can be run again.

use std::collections::BTreeSet;

use rowtide_plan::catalog::TableName;
use rowtide_plan::plan::Plan;
use rowtide_plan::sql::{quote_identifier, quote_literal, quote_table};

use super::found::{FULL, Found, FoundTable};
use super::psql::{HEAD, attempts, block, comment, guard, one_of, whose};
use super::steps::{later_columns, slot_is_ours};
use super::{OWN_TABLES, RECORD, RECORD_COLUMNS, SetupError, Writes, connections};
use crate::connect::{ConnectOptions, Names};
use crate::schemas::{NamedSchema, schemas};
use crate::sequences::{Sequence, sequences};
use crate::slot_making::FAILOVER_SLOTS;

/// The script for the tables of a definition. `server` is the role that `rowtide serve` is going to connect as. It
/// asks the database who owns what, which every role may, and changes nothing.
///
/// # Errors
/// When Postgres cannot be asked, or a table is not there.
pub async fn script(
    options: &ConnectOptions,
    names: &Names,
    tables: &[TableName],
    plan: &Plan,
    server: &str,
) -> Result<String, SetupError> {
    let (client, _) = connections(options).await?;
    let failed = |source| SetupError::Step { step: "look at what is there".to_owned(), source };
    let found = Found::read(&client, names, tables).await.map_err(failed)?;
    if let Some(table) = found.missing(tables).first() {
        return Err(SetupError::NoTable(quote_table(&table.schema, &table.name)));
    }
    if let Some(slot) = &found.slot {
        slot_is_ours(slot, &names.slot)?;
    }
    let writes = found.tables.iter().map(|table| Writes::of_name(plan, &table.name)).collect();
    let failed = |source| SetupError::Step { step: "look at the sequences".to_owned(), source };
    let sequences = sequences(&client, plan).await.map_err(failed)?;
    let failed = |source| SetupError::Step { step: "look at the schemas".to_owned(), source };
    let schemas = schemas(&client, plan).await.map_err(failed)?;
    let writes_as = plan.writes_as.as_deref();
    Ok(Script { found: &found, names, server, writes, writes_as, sequences, schemas }.text())
}

struct Script<'a> {
    found: &'a Found,
    names: &'a Names,
    server: &'a str,
    /// For each of the tables that were found.
    writes: Vec<Writes>,
    /// The role that operations are done as, if it is another.
    writes_as: Option<&'a str>,
    sequences: Vec<Sequence>,
    schemas: Vec<NamedSchema>,
}

impl Script<'_> {
    fn text(&self) -> String {
        let Script { found, names, server, .. } = self;
        let owner = self.owner();
        let title = whose(&self.owners());
        format!(
            "-- What Rowtide needs in database {database}, under the names {slot} and {schema}.\n\
             {HEAD}\
             {here}\
             \n-- Part 1 of 3, for an administrator: a superuser, or the role that a provider gives for that.\n\n\
             {administrator}\
             \n-- Part 2 of 3, for {title}.\n\n\
             {part_two}\
             \n-- Part 3 of 3, for the role that the server connects as, {server}, or a superuser. Postgres waits\n\
             -- until all transactions that are open now have ended.\n\n\
             {slot_sql}",
            database = comment(&found.server.database),
            slot = comment(&names.slot),
            schema = comment(&names.schema),
            here = guard(&found.server.database),
            administrator = self.administrator(),
            part_two = self.of_owner(owner),
            server = comment(server),
            slot_sql = self.slot(),
        )
    }

    /// Who owns what the second part changes.
    fn owners(&self) -> BTreeSet<&str> {
        let found = self.found;
        let tables = found.tables.iter().chain(&found.partitions).map(|table| &table.owned);
        let own = found.own.iter().map(|table| &table.owned);
        let others = found.publication.iter().map(|publication| &publication.owned);
        tables.chain(own).chain(others).chain(&found.schema).map(|it| it.owner.as_str()).collect()
    }

    /// Who can run the second part without being a superuser, if one role can.
    fn owner(&self) -> Option<String> {
        one_of(&self.owners()).map(str::to_owned)
    }

    fn administrator(&self) -> String {
        let Script { found, server, .. } = self;
        let (role, quoted) = (quote_literal(server), quote_identifier(server));
        let database = quote_identifier(&found.server.database);
        let mut text = block(
            "IF current_setting('wal_level') <> 'logical' THEN\n    \
             RAISE WARNING 'wal_level is %, and must be logical: ALTER SYSTEM SET wal_level = logical, and restart \
             Postgres', current_setting('wal_level');\n  END IF;",
        );
        text += &block(&format!(
            "IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {role}) THEN\n    \
             CREATE ROLE {quoted} LOGIN;  -- it has no password yet\n  END IF;\n  \
             IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {role} AND (rolreplication OR rolsuper)) THEN\n    \
             IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication') THEN\n      \
             GRANT rds_replication TO {quoted};\n    ELSE\n      ALTER ROLE {quoted} REPLICATION;\n    END IF;\n  \
             END IF;\n  \
             IF NOT has_database_privilege({role}, current_database(), 'CONNECT') THEN\n    \
             GRANT CONNECT ON DATABASE {database} TO {quoted};\n  END IF;"
        ));
        if found.tables.iter().any(|table| table.row_security) {
            // Otherwise it would be sent changes of rows that it cannot load.
            text += &block(&format!(
                "IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {role} AND (rolbypassrls OR rolsuper)) THEN\n    \
                 ALTER ROLE {quoted} BYPASSRLS;\n  END IF;"
            ));
        }
        if let Some(writes_as) = self.writes_as {
            let (name, becomes) = (quote_literal(writes_as), quote_identifier(writes_as));
            text += &block(&format!(
                "IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {name}) THEN\n    \
                 CREATE ROLE {becomes} NOLOGIN;  -- policies and grants for it are the application's\n  END IF;\n  \
                 IF NOT pg_has_role({role}, {name}, 'MEMBER') THEN\n    \
                 GRANT {becomes} TO {quoted};\n  END IF;"
            ));
        }
        if let Some(owner) = self.owner() {
            let (role, quoted) = (quote_literal(&owner), quote_identifier(&owner));
            text += &block(&format!(
                "IF NOT has_database_privilege({role}, current_database(), 'CREATE') THEN\n    \
                 GRANT CREATE ON DATABASE {database} TO {quoted};\n  END IF;"
            ));
        }
        let owner = self.owner();
        if let Some(owner) = &owner {
            // Otherwise the owner of the tables would not even find them.
            text += &self.schemas(owner, |schema_owner| schema_owner != owner);
        }
        text += &self.schemas(server, |schema_owner| Some(schema_owner) != owner.as_deref());
        text += &self.sequences(|its_owner| owner.as_deref().is_some_and(|one| one != its_owner));
        text
    }

    /// Lets the server use the sequences of defaults, those whose owner fits.
    fn sequences(&self, fits: impl Fn(&str) -> bool) -> String {
        let (role, quoted) = (quote_literal(self.server), quote_identifier(self.server));
        let sequences = self.sequences.iter().filter(|sequence| fits(&sequence.owner));
        let grant = |Sequence { name, .. }: &Sequence| {
            granted(
                &format!(
                    "has_sequence_privilege({role}, {}, 'USAGE, UPDATE')",
                    quote_literal(name)
                ),
                &format!("GRANT USAGE ON SEQUENCE {name} TO {quoted}"),
            )
        };
        sequences.map(grant).collect()
    }

    /// Lets a role use the schemas of tables and types, those whose owner fits.
    fn schemas(&self, role: &str, fits: impl Fn(&str) -> bool) -> String {
        let of_tables = self.found.tables.iter();
        let of_tables =
            of_tables.map(|table| (table.name.schema.as_str(), table.schema_owner.as_str()));
        let of_plan =
            self.schemas.iter().map(|schema| (schema.name.as_str(), schema.owner.as_str()));
        let named: BTreeSet<&str> = of_tables
            .chain(of_plan)
            .filter(|(_, owner)| fits(owner))
            .map(|(name, _)| name)
            .collect();
        let grant = |schema: &&str| {
            granted(
                &format!(
                    "has_schema_privilege({}, {}, 'USAGE')",
                    quote_literal(role),
                    quote_literal(schema)
                ),
                &format!(
                    "GRANT USAGE ON SCHEMA {} TO {}",
                    quote_identifier(schema),
                    quote_identifier(role)
                ),
            )
        };
        named.iter().map(grant).collect()
    }

    fn of_owner(&self, owner: Option<String>) -> String {
        let Script { found, names, server, writes, .. } = self;
        let (schema, role) = (quote_identifier(&names.schema), quote_literal(server));
        let quoted = quote_identifier(server);
        let mut text = String::new();
        // What a superuser makes is the owner's then, too, so that the owner can add to it.
        let acts = owner.as_ref().map(|owner| quote_identifier(owner));
        if let Some(owner) = &acts {
            text += &format!("SET ROLE {owner};\n");
        }
        text += &block(&format!(
            "IF to_regnamespace({}) IS NULL THEN\n    CREATE SCHEMA {schema};\n  END IF;",
            quote_literal(&schema)
        ));
        for (name, columns) in OWN_TABLES.iter().chain([&(RECORD, RECORD_COLUMNS)]) {
            let table = quote_table(&names.schema, name);
            text += &format!("CREATE TABLE IF NOT EXISTS {table} ({});\n", lines(columns));
        }
        for own in &found.own {
            for (column, kind) in later_columns(&own.name, &own.columns) {
                let table = quote_table(&names.schema, &own.name);
                text += &format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} {kind};\n");
            }
        }
        for table in found.tables.iter().chain(&found.partitions) {
            if table.identity == FULL || found.to_identify.contains(&table.quoted()) {
                text += &self.identity(table);
            }
        }
        text += &self.publication();
        text += &self.schemas(server, |schema_owner| Some(schema_owner) == owner.as_deref());
        text += &format!("GRANT USAGE ON SCHEMA {schema} TO {quoted};\n");
        for (name, _) in OWN_TABLES {
            let table = quote_table(&names.schema, name);
            text += &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {quoted};\n");
        }
        for (table, writes) in found.tables.iter().zip(writes) {
            let all = [
                ("SELECT", true),
                ("INSERT", writes.insert),
                ("UPDATE", writes.update),
                ("DELETE", writes.delete),
            ];
            let wanted: Vec<&str> =
                all.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| *name).collect();
            let table = table.quoted();
            let has = wanted.iter().map(|name| {
                format!("has_table_privilege({role}, {}, '{name}')", quote_literal(&table))
            });
            text += &granted(
                &has.collect::<Vec<_>>().join("\n    AND "),
                &format!("GRANT {} ON {table} TO {quoted}", wanted.join(", ")),
            );
        }
        text += &self.sequences(|its_owner| owner.as_deref().is_none_or(|one| one == its_owner));
        if writes.iter().any(|writes| writes.any()) {
            text += "-- Rules may read other tables, and call functions that not everybody may call: `rowtide check`, as \
                     the server's\n-- role, names what it may not.\n";
        }
        if acts.is_some() {
            text += "RESET ROLE;\n";
        }
        text
    }

    /// Sets a replica identity, with a record of what it was.
    fn identity(&self, table: &FoundTable) -> String {
        let quoted = table.quoted();
        let oid = format!("{}::regclass", quote_literal(&quoted));
        let was = format!(
            "SELECT {}, {}, CASE c.relreplident WHEN 'n' THEN 'NOTHING' WHEN 'i' THEN (SELECT format('USING INDEX \
             %I', x.relname) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid AND \
             i.indisreplident) ELSE 'DEFAULT' END\n        FROM pg_class c WHERE c.oid = {oid}",
            quote_literal(&table.name.schema),
            quote_literal(&table.name.name),
        );
        let record = quote_table(&self.names.schema, RECORD);
        attempts(
            &quoted,
            &format!("EXISTS (SELECT FROM pg_class WHERE oid = {oid} AND relreplident = 'f')"),
            &format!(
                "INSERT INTO {record}\n        {was}\n        ON CONFLICT DO NOTHING;\n      \
                 ALTER TABLE {quoted} REPLICA IDENTITY FULL;"
            ),
            "",
        )
    }

    fn publication(&self) -> String {
        let Script { found, names, .. } = self;
        let (name, publication) =
            (quote_literal(&names.publication), quote_identifier(&names.publication));
        let own = TableName { schema: names.schema.clone(), name: "client".to_owned() };
        let wanted: Vec<&TableName> =
            found.tables.iter().map(|table| &table.name).chain([&own]).collect();
        let list: Vec<String> =
            wanted.iter().map(|table| quote_table(&table.schema, &table.name)).collect();
        let options: Vec<&str> = found.options.iter().map(|option| option.set).collect();
        let with = match found.publication {
            None => format!("\n      WITH ({})", options.join(", ")),
            Some(_) => String::new(),
        };
        let mut body = format!(
            "IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = {name}) THEN\n    \
             CREATE PUBLICATION {publication} FOR TABLE {}{with};\n  END IF;\n  \
             IF NOT (SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate FROM pg_publication\n          \
             WHERE pubname = {name}) THEN\n    \
             ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete, truncate');\n  END IF;",
            list.join(", ")
        );
        for option in options.iter().filter(|_| found.publication.is_some()) {
            body.push_str(&format!("\n  ALTER PUBLICATION {publication} SET ({option});"));
        }
        for (table, quoted) in wanted.iter().zip(&list) {
            let (schema, table) = (quote_literal(&table.schema), quote_literal(&table.name));
            body.push_str(&format!(
                "\n  IF NOT EXISTS (SELECT FROM pg_publication_tables WHERE pubname = {name}\n      \
                 AND schemaname = {schema} AND tablename = {table}) THEN\n    \
                 ALTER PUBLICATION {publication} ADD TABLE {quoted};\n  END IF;"
            ));
        }
        block(&body)
    }

    fn slot(&self) -> String {
        let slot = quote_literal(&self.names.slot);
        let has_failover = self.found.server.version >= FAILOVER_SLOTS;
        let failover = if has_failover { ", failover => true" } else { "" };
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots\n  \
             WHERE slot_name = {slot} AND wal_status = 'lost' AND NOT active;\n"
        );
        format!(
            "{drop}SELECT pg_create_logical_replication_slot({slot}, 'pgoutput'{failover})\n  \
             WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {slot});\n"
        )
    }
}

/// Gives a right that is not there. Who may not give it is told so only if it is needed.
fn granted(has: &str, grant: &str) -> String {
    block(&format!("IF NOT ({has}) THEN\n    {grant};\n  END IF;"))
}

/// Columns as they are shown in a script.
fn lines(columns: &str) -> String {
    let lines = columns.lines().map(|line| format!("\n  {}", line.trim()));
    lines.collect::<String>() + "\n"
}
