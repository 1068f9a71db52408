//! The plan: definition and catalog, compiled into what the server does with each row. Branches
//! find rows by one anchor column; links lead from the rows of one branch to topics of another; a
//! view is what can be reached from a user's claims. What else a rule asks of other tables is asked
//! of sets: each view has its own values of a set, which rows of branches fill. The plan is immutable while it serves, and
//! every part of the server reads it: routing, loads, the engine and `rowtide explain`.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::calls::PlannedCall;
use crate::catalog::CatalogTable;
use crate::claims::{Claim, ClaimUse};
use crate::documents::PlannedKind;
use crate::filter::TimeTest;
use crate::filter::{ClaimFilter, Filter, Predicate};
use crate::queries::PlannedQuery;
use crate::row::Topic;
use crate::value::{ColumnType, Int8Form, Value};
use crate::window::Window;
use crate::write_rules::WriteRules;

pub use crate::ids::{BranchId, ClaimId, QueryId, SetId, TableId, WindowId};

/// Definition and catalog, compiled.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The tables of the definition and of its memberships, in that order.
    pub tables: Vec<Table>,
    /// All branches. A link leads from a lower index to a higher one, and so does a set from the branches that fill it to
    /// those that ask it; so there are no cycles.
    pub branches: Vec<Branch>,
    /// How many sets the branches fill and ask.
    pub sets: usize,
    /// The claims that the rules name, once for each type that one is compared as.
    pub claims: Vec<ClaimUse>,
    /// Sessions with a lower `appVersion`, or none, are told `client_too_old`.
    pub min_client: Option<i64>,
    /// How an `int8` is written in the rows that clients are sent.
    pub int8: Int8Form,
    /// Whether those who have no token are let in: they read what the rules give to null, and write nothing.
    pub anonymous: bool,
    /// Tables of the definition that are not in the plan, because the database does not fit them now, as clients know
    /// them. They are not told apart by [`Plan::fingerprint`]: nothing is streamed of them.
    pub unfit: Vec<String>,
    /// Tables that are served, and that nobody can write now, because Postgres does not take a rule for it; as clients know
    /// them.
    pub unjudged: Vec<String>,
    /// The role of the database that operations are done as; `None`: the server's own. [`Plan::fingerprint`] leaves it out.
    pub writes_as: Option<String>,
    /// The mutations that have names. [`Plan::fingerprint`] leaves them out.
    pub calls: Vec<PlannedCall>,
    /// What clients may subscribe to. [`Plan::fingerprint`] has what it selects, by its branches, and what it is called.
    pub queries: Vec<PlannedQuery>,
    /// The windows of queries.
    pub windows: Vec<Arc<Window>>,
    /// Queries of the definition that are not among these, because the database does not fit them now.
    pub unfit_queries: Vec<String>,
    /// What live documents there are, in the order of the definition. They are not told apart by [`Plan::fingerprint`], but
    /// the tables that they need are.
    pub documents: Vec<PlannedKind>,
}

/// A table that is synced, or that only decides who sees rows of another.
#[derive(Clone, Debug)]
pub struct Table {
    /// What Postgres says of it.
    pub catalog: CatalogTable,
    /// The name that clients know it by: as the definition's entry calls it. That of a table in which only memberships
    /// look is its name in Postgres.
    pub name: String,
    /// [`Table::name`] as a JSON string, ready to be spliced into frames.
    pub name_json: String,
    /// Whether the definition has a `[tables.…]` entry for it: rows are sent to clients.
    pub published: bool,
    /// The columns that tell rows apart, as indexes into the catalog's columns: all of them where the table has no key,
    /// and then rows that are the same are one.
    pub key: Vec<usize>,
    /// The columns that clients are not sent and may not name, as indexes into the catalog's columns, in their order. Rules
    /// may use them.
    pub hidden: Vec<usize>,
    /// The columns of [`crate::row::Image::kept`], as indexes into the catalog's columns.
    pub kept: Vec<usize>,
    /// The branches of this table.
    pub branches: Vec<BranchId>,
    /// Who may write.
    pub write: WriteRules,
}

/// One alternative of a rule: rows of one table, found by one anchor column.
#[derive(Clone, Debug)]
pub struct Branch {
    /// The table of the rows.
    pub table: TableId,
    /// The anchor column (index into the catalog's columns); `None`: one topic for all who reach it.
    pub anchor: Option<usize>,
    /// Where the values of the anchor come from.
    pub source: Source,
    /// Which rows of the table are in: decided by the row alone.
    pub filter: Filter,
    /// Which of those a view sees: what also depends on its claims and its sets. Judged over
    /// [`crate::row::Image::kept`].
    pub claim_filter: ClaimFilter,
    /// Which views reach its topics.
    pub selection: Selection,
    /// The window that its rows are for. Such a branch names no others, and only the first rows of its topics are known.
    pub window: Option<WindowId>,
    /// Whether its rows are sent to clients; otherwise they only name topics of other branches, and fill sets.
    pub published: bool,
    /// The topics that rows of this branch name.
    pub links: Vec<Link>,
    /// The sets that rows of this branch fill.
    pub fills: Vec<Fill>,
}

/// Which views reach topics of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Selection {
    /// The view of every session: what is synced always.
    Always,
    /// Those of subscriptions to a query.
    Query(QueryId),
    /// None. It says what may be seen of a table that is synced on demand, for mutations.
    Never,
}

/// How a view reaches topics of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The branch has no anchor: every view reaches its one topic.
    Everyone,
    /// The value of a claim, as the anchor's type; none if the claim is missing or does not fit. Of a claim that is an array,
    /// each element; of an anchor that is one, the rows whose array has the value.
    Claim(ClaimId),
    /// Rows of other branches, those with a [`Link`] to this one.
    Links,
}

/// Rows of one branch name topics of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The branch whose topics are named.
    pub target: BranchId,
    /// Where the topic's anchor value is found in [`crate::row::Image::kept`]; `None`: any row names the one topic of a
    /// branch without an anchor.
    pub column: Option<usize>,
}

/// Rows of one branch are the values of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// The set.
    pub set: SetId,
    /// Where the parts of the value are found in [`crate::row::Image::kept`]; none where it only matters whether there is a
    /// row.
    pub columns: Vec<usize>,
}

impl Plan {
    /// Whether rows of any branch come and go as time passes.
    pub fn asks_time(&self) -> bool {
        self.branches.iter().any(Branch::asks_time)
    }

    /// The window with this id.
    pub fn window(&self, id: WindowId) -> &Arc<Window> {
        &self.windows[usize::from(id.0)]
    }

    /// The windows of a query.
    pub fn windows_of(&self, query: QueryId) -> impl Iterator<Item = WindowId> {
        let of_query = move |(_, window): &(usize, &Arc<Window>)| window.query == query;
        self.windows.iter().enumerate().filter(of_query).map(|(index, _)| WindowId(index as u16))
    }

    /// The table with this id.
    pub fn table(&self, id: TableId) -> &Table {
        &self.tables[usize::from(id.0)]
    }

    /// The branch with this id.
    pub fn branch(&self, id: BranchId) -> &Branch {
        &self.branches[usize::from(id.0)]
    }

    /// The kind of documents that the definition calls so, if it fits.
    pub fn document_kind(&self, name: &str) -> Option<&PlannedKind> {
        self.documents.iter().find(|kind| kind.name == name)
    }

    /// Whether Postgres does not take a rule of this plan now.
    pub fn has_unjudged(&self) -> bool {
        !self.unjudged.is_empty()
            || !self.documents.iter().all(PlannedKind::is_judged)
            || !self.calls.iter().all(PlannedCall::is_judged)
    }

    /// Takes over from the plan that served `before` what Postgres said of rules that it does not take now. They are the
    /// same rules, and what is missing for them may come back any moment: mutations are tried, and wait as long as Postgres
    /// does not take them.
    pub fn judge_as(&mut self, before: &Plan) {
        let Plan { tables, unjudged, documents, calls, .. } = self;
        for new in calls.iter_mut().filter(|call| !call.is_judged()) {
            if let Some(old) = before.calls.iter().find(|old| old.name == new.name) {
                new.judge_as(old);
            }
        }
        for new in documents.iter_mut().filter(|kind| !kind.is_judged()) {
            let old = before.documents.iter().find(|old| old.name == new.name);
            let Some(old) = old else { continue };
            for (new, old) in new.rules_mut().zip(old.rules()) {
                new.judge_as(old);
            }
        }
        unjudged.retain(|name| {
            let is = |table: &&Table| table.published && table.name == *name;
            let old = before.tables.iter().find(is).filter(|_| !before.unjudged.contains(name));
            let new = tables.iter_mut().find(|table| table.published && table.name == *name);
            let (Some(old), Some(new)) = (old, new) else { return true };
            for (new, old) in new.write.rules_mut().zip(old.write.rules()) {
                new.judge_as(old);
            }
            false
        });
    }

    /// The names of the claims beside the user's id that any rule asks for, sorted.
    pub fn named_claims<'a>(&'a self) -> BTreeSet<&'a str> {
        let read = self.claims.iter().map(|wanted| &wanted.claim);
        let written = self.tables.iter().flat_map(|table| table.write.rules());
        let written = written.chain(self.documents.iter().flat_map(PlannedKind::rules));
        let written = written.flat_map(|rule| rule.claims());
        let written = written.chain(self.calls.iter().flat_map(PlannedCall::claims));
        let written = written.map(|named| &named.claim);
        let named = |claim: &'a Claim| match claim {
            Claim::Named(path) => path.first().map(String::as_str),
            Claim::UserId | Claim::Param { .. } => None,
        };
        read.chain(written).filter_map(named).collect()
    }

    /// The columns of a table that its rules compare with the user's id: those rows are the user's own.
    pub fn user_columns(&self, table: TableId) -> impl Iterator<Item = usize> {
        let of_user = |branch: &&Branch| match branch.source {
            Source::Claim(claim) => self.claims[usize::from(claim.0)].claim == Claim::UserId,
            Source::Everyone | Source::Links => false,
        };
        let branches = self.table(table).branches.iter().map(|&branch| self.branch(branch));
        let anchors = branches.filter(of_user).filter_map(|branch| branch.anchor);
        let is_array = move |column: &usize| {
            self.table(table).catalog.columns[*column].kind.element().is_some()
        };
        anchors.filter(move |column| !is_array(column))
    }

    /// The id of the table that the catalog knows as `schema.name`.
    pub fn table_id(&self, schema: &str, name: &str) -> Option<TableId> {
        let fits = |table: &Table| table.catalog.schema == schema && table.catalog.name == name;
        self.tables.iter().position(fits).map(|index| TableId(index as u16))
    }
}

impl Table {
    /// Whether there may be several rows that nothing tells apart: what is left of them after a change is known to
    /// Postgres alone.
    pub fn is_keyless(&self) -> bool {
        self.catalog.primary_key.is_empty()
    }

    /// Whether an insert may leave a column of the key out: a default, Postgres or a trigger gives it a value.
    pub fn makes_key(&self, column: usize) -> bool {
        let input = &self.catalog.columns[column].input;
        !self.is_keyless()
            && (input.default.is_some()
                || input.identity
                || input.is_of_postgres_alone()
                || self.catalog.insert_trigger)
    }
}

impl Branch {
    /// Whether its rows name topics or fill sets, and so decide what is seen of other tables.
    pub fn names_others(&self) -> bool {
        !self.links.is_empty() || !self.fills.is_empty()
    }

    /// Whether a view that reaches its topics sends clients all rows of them that it sees, and not only the first ones.
    pub fn sends_all_rows(&self) -> bool {
        self.published && self.window.is_none()
    }

    /// The conditions of its claim filter that have the same answer for all rows of one topic, because they ask for the anchor
    /// alone; none if there are none.
    pub fn topic_filter(&self, plan: &Plan) -> Option<ClaimFilter> {
        let table = plan.table(self.table);
        let anchor =
            self.anchor.filter(|at| table.catalog.columns[*at].kind.element().is_none())?;
        let parts = match &self.claim_filter.0 {
            Predicate::And(parts) => parts.as_slice(),
            single => std::slice::from_ref(single),
        };
        let is_of_topic = |part: &&Predicate| {
            let mut is_of_topic = true;
            part.operands(&mut |operand| {
                let column = operand.column().map(|kept| table.kept[kept]);
                is_of_topic &= column.is_none_or(|column| column == anchor);
            });
            is_of_topic
        };
        let parts: Vec<Predicate> = parts.iter().filter(is_of_topic).cloned().collect();
        (!parts.is_empty()).then_some(ClaimFilter(Predicate::And(parts)))
    }

    /// What its rows are asked as time passes, each with the kept column.
    pub fn time_tests(&self) -> Vec<(usize, TimeTest)> {
        let tests = self.claim_filter.0.time_tests().into_iter();
        tests.filter_map(|test| Some((test.column.column()?, test.clone()))).collect()
    }

    /// Whether its rows come and go as time passes.
    pub fn asks_time(&self) -> bool {
        self.claim_filter.0.asks_time()
    }

    /// Whether the topics of some views are its. What no view reaches is not loaded, and need not be.
    pub fn is_reached(&self) -> bool {
        self.selection != Selection::Never
    }

    /// Whether it says by itself what may be seen of its table, whatever a subscription selects of that.
    pub(crate) fn says_what_may_be_seen(&self) -> bool {
        self.published && !matches!(self.selection, Selection::Query(_))
    }

    /// The topics that a row with these kept columns names.
    pub fn named(&self, kept: &[Value]) -> impl Iterator<Item = Topic> {
        self.links.iter().filter_map(|link| {
            let anchor = link.column.map(|column| kept[column].clone());
            let is_null = anchor.as_ref().is_some_and(Value::is_null);
            (!is_null).then_some(Topic { branch: link.target, anchor })
        })
    }

    /// The values that a row with these kept columns puts into sets.
    pub fn filled(&self, kept: &[Value]) -> impl Iterator<Item = (SetId, Box<[Value]>)> {
        let value = |fill: &Fill| fill.columns.iter().map(|column| kept[*column].clone()).collect();
        self.fills.iter().map(move |fill| (fill.set, value(fill)))
    }

    /// The type of what topics are made of: the anchor column's, or of an array its elements'.
    pub fn anchor_type<'a>(&self, plan: &'a Plan) -> Option<&'a ColumnType> {
        let columns = &plan.table(self.table).catalog.columns;
        self.anchor.map(|column| &columns[column].kind).map(|kind| kind.element().unwrap_or(kind))
    }
}
