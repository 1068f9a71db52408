//! What the policies of a table come to: those that allow are joined with OR, those that restrict with AND, and each is
//! for those whom its roles let in. A policy that allows and cannot be said is left out, which allows less; one that
//! restricts cannot be left out, so then nothing is allowed.

use std::collections::BTreeMap;

use super::policy::{Obstacle, Reader, Reading, parse};
use super::said::Said;
use super::{DraftFacts, DraftTable, PolicyCommand, RowPolicy};
use crate::catalog::{Catalog, TableName};

/// Which row of a write a policy's expression is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// One that is there (`USING`).
    There,
    /// One that is written (`WITH CHECK`).
    Written,
}

/// Why a policy, or a part of one, is not in the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) policy: String,
    pub(super) why: Obstacle,
}

/// A rule that policies come to, and what is missing of it.
#[derive(Clone, Debug)]
pub(super) struct Come {
    pub(super) said: Said,
    pub(super) missing: Vec<Missing>,
}

/// Turns policies into rules. `accepts` says whether a rule for reading of a table is one, or why not.
pub(super) struct Policies<'a> {
    pub(super) facts: &'a DraftFacts,
    pub(super) accepts: &'a dyn Fn(&TableName, &Said) -> Result<(), String>,
    catalog: &'a Catalog,
    known: BTreeMap<TableName, Come>,
    /// Those whose rules are being read.
    under_way: Vec<TableName>,
}

/// The roles of Supabase and Postgres that no client has.
const OF_SERVERS: [&str; 4] = ["service_role", "postgres", "supabase_admin", "authenticator"];

impl<'a> Policies<'a> {
    pub(super) fn new(
        facts: &'a DraftFacts,
        catalog: &'a Catalog,
        accepts: &'a dyn Fn(&TableName, &Said) -> Result<(), String>,
    ) -> Policies<'a> {
        Policies { facts, accepts, catalog, known: BTreeMap::new(), under_way: Vec::new() }
    }

    /// The rule for reading a table that has row-level security.
    pub(super) fn reading(&mut self, table: &DraftTable) -> Come {
        if let Some(known) = self.known.get(&table.name) {
            return known.clone();
        }
        self.under_way.push(table.name.clone());
        let accepts = self.accepts;
        let come = self
            .come(table, PolicyCommand::Select, Side::There, &|said| accepts(&table.name, said));
        self.under_way.pop();
        self.known.insert(table.name.clone(), come.clone());
        come
    }

    /// The rule for rows that are written, or that are there to be written. Postgres judges it, which says what it takes.
    pub(super) fn writing(
        &mut self,
        table: &DraftTable,
        command: PolicyCommand,
        side: Side,
    ) -> Come {
        self.come(table, command, side, &|_| Ok(()))
    }

    fn come(
        &mut self,
        table: &DraftTable,
        command: PolicyCommand,
        side: Side,
        accepts: &dyn Fn(&Said) -> Result<(), String>,
    ) -> Come {
        let (mut allowed, mut missing) = (Said::never(), Vec::new());
        let of_command =
            |policy: &&RowPolicy| policy.command == command || policy.command == PolicyCommand::All;
        let policies: Vec<&RowPolicy> = table.policies.iter().filter(of_command).collect();
        let mut miss = |policy: &RowPolicy, why| {
            missing.push(Missing { policy: policy.name.clone(), why });
        };
        for policy in policies.iter().filter(|policy| policy.permissive) {
            let said = match self.said(table, policy, command, side) {
                Ok(Some(said)) => said,
                Ok(None) => continue,
                Err(why) => {
                    miss(policy, why);
                    continue;
                }
            };
            let with = Said::any([allowed.clone(), said.clone()]);
            match accepts(&with) {
                Ok(()) => allowed = with,
                Err(why) => miss(policy, Obstacle { part: String::new(), why }),
            }
        }
        for policy in policies.iter().filter(|policy| !policy.permissive) {
            // Where nothing is allowed there is nothing to restrict.
            if allowed == Said::never() {
                break;
            }
            let restricted = match self.said(table, policy, command, side) {
                Ok(Some(said)) => Ok(Said::all([allowed.clone(), said])),
                Ok(None) => continue,
                Err(why) => Err(why),
            };
            let accepted = restricted.and_then(|with| match accepts(&with) {
                Ok(()) => Ok(with),
                Err(why) => Err(Obstacle { part: String::new(), why }),
            });
            match accepted {
                Ok(with) => allowed = with,
                Err(why) => {
                    miss(policy, why);
                    allowed = Said::never();
                    break;
                }
            }
        }
        Come { said: allowed, missing }
    }

    /// What a policy says of a row; `None` if it is for nobody who is a client.
    fn said(
        &mut self,
        table: &DraftTable,
        policy: &RowPolicy,
        command: PolicyCommand,
        side: Side,
    ) -> Reading<Option<Said>> {
        let text = match side {
            Side::There => policy.using.as_ref(),
            Side::Written => policy.check.as_ref().or(policy.using.as_ref()),
        };
        let is = |role: &str| policy.roles.iter().any(|of| of == role);
        let of_clients: Vec<&String> =
            policy.roles.iter().filter(|role| !OF_SERVERS.contains(&role.as_str())).collect();
        if of_clients.is_empty() {
            return Ok(None);
        }
        // A policy without an expression has nothing to say of these rows, and so allows none.
        let Some(text) = text else { return Ok(None) };
        let said = self.read(&table.name, text)?;
        // One that restricts some is taken to restrict all.
        if !policy.permissive {
            return Ok(Some(said));
        }
        let known = ["public", "authenticated", "anon"];
        if let (false, Some(role)) = (known.iter().any(|role| is(role)), of_clients.first()) {
            let why = "it is for this role of the database alone: who of the clients has it, is not known";
            return Err(Obstacle::new(role, why));
        }
        let user = || Box::new(Said::user());
        let signed_in = is("authenticated") && !is("anon") && !is("public");
        let nobody = is("anon") && !is("authenticated") && !is("public");
        // Whoever has no token writes nothing, so a rule for writing need not say it.
        Ok(match command {
            PolicyCommand::Select if nobody => {
                Some(Said::all([said, Said::Test(user(), "IS NULL")]))
            }
            PolicyCommand::Select if signed_in && !said.asks_for_user() => {
                Some(Said::all([said, Said::Test(user(), "IS NOT NULL")]))
            }
            PolicyCommand::Select => Some(said),
            _ => (!nobody).then_some(said),
        })
    }

    fn read(&mut self, table: &TableName, text: &str) -> Reading<Said> {
        let expr = parse(text)?;
        let catalog = self.catalog;
        let kind = |table: &TableName, column: &str| {
            let table = catalog.table_of(table)?;
            Some(table.columns[table.column(column)?].kind.clone())
        };
        let mut hides = |of: &TableName| self.hidden(of);
        let (hides, kind) = (&mut hides as &mut _, &kind as &_);
        let (scopes, numbers, negated) = (Vec::new(), 0, false);
        Reader { table, hides, kind, scopes, numbers, negated }.read(&expr)
    }

    /// What a table's own policies let those see who look into it.
    fn hidden(&mut self, name: &TableName) -> Reading<Option<Said>> {
        let mut all = self.facts.tables.iter().chain(&self.facts.others);
        let Some(table) = all.find(|table| table.name == *name) else {
            return Ok(None);
        };
        if !table.row_security {
            return Ok(None);
        }
        if self.under_way.contains(name) {
            let why = "the policies of this table look into each other in a circle";
            return Err(Obstacle::new(&name.name, why));
        }
        let Come { said, missing } = self.reading(table);
        match missing.first() {
            Some(missing) if said == Said::never() => Err(Obstacle::new(
                &missing.policy,
                format!("this policy hides rows of {}, and cannot be said", name.name),
            )),
            _ => Ok(Some(said)),
        }
    }
}
