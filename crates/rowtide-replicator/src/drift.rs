//! What the plan relies on, held against what is: two looks at the database are compared, and each difference is
//! a drift with what follows from it. A difference that could have kept changes out of the stream, or shown
//! loads other rows, ends the epoch as of the moment at which it is noticed, because what happened between the
//! two looks cannot be told; so does one that was undone meanwhile, which only the version of a catalog row
//! gives away. Pure.

use std::fmt;

use rowtide_feed::EpochReason;
use rowtide_plan::catalog::UnstreamedKind;
use rowtide_plan::sql::quote_table;
use rowtide_postgres::watch::{
    Observed, ObservedColumn, ObservedMembership, ObservedPartition, ObservedPublication,
    ObservedTable, ObservedType,
};
use sha2::{Digest, Sha256};

/// `varchar`.
const VARCHAR: u32 = 1043;

/// A difference between two looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// What is different.
    pub of: Of,
    /// How.
    pub change: CatalogChange,
}

/// What is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    /// The publication.
    Publication,
    /// A table, quoted, with its schema.
    Table(String),
    /// A type, with its schema.
    Type(String),
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Of::Publication => f.write_str("publication"),
            Of::Table(name) | Of::Type(name) => f.write_str(name),
        }
    }
}

/// How it is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogChange {
    /// There is none any more.
    Gone,
    /// There is one now.
    Appeared,
    /// Another has its name.
    Replaced,
    /// It was written, and looks the same: something was changed and changed back.
    Rewritten,
    /// So was its schema.
    SchemaRewritten,
    /// It publishes other operations, or in another way.
    Operations,
    /// The table is not published any more.
    Unpublished,
    /// The table is published now, or again.
    Published,
    /// The table is published, and was not for a while.
    PublishedAgain,
    /// Other rows or columns are published.
    PublishedOtherwise,
    /// Other publications publish it, or in another way.
    PublishedByOthers,
    /// It is not a plain, permanent table any more, or is one now.
    Kind,
    /// The key is another.
    Key,
    /// The replica identity is another.
    Identity,
    /// Row-level security hides rows from the server's role now, or does not any more.
    RowSecurity {
        /// Whether it does.
        hides: bool,
    },
    /// The server's role may read the table now, or may not any more.
    Readable {
        /// Whether it may.
        readable: bool,
    },
    /// Other tables inherit from it now, or none does any more.
    Children {
        /// Whether any does.
        inherit: bool,
    },
    /// It has other partitions, or one was emptied, rewritten, detached or changed for a while: what rows that brought or
    /// took is not streamed, or not whole.
    Partitions,
    /// A partition has another replica identity, or is of another kind.
    PartitionIdentity,
    /// A column was added.
    ColumnAdded(String),
    /// A column is gone.
    ColumnGone(String),
    /// A column has another name.
    ColumnRenamed {
        /// The one that it had.
        from: String,
        /// The one that it has.
        to: String,
    },
    /// A column has another type.
    ColumnRetyped(String),
    /// A `varchar` takes longer text.
    ColumnWidened(String),
    /// A column is gone, and another has its name.
    ColumnReplaced(String),
    /// Rows were written anew when a column was changed, or of a table that may have been unlogged for a while.
    RowsRewritten,
    /// A column takes or gives other values: what it may be, what it is without a value, how it is kept.
    ColumnRules(String),
    /// A column was written, and looks the same.
    ColumnRewritten(String),
    /// An enum has another label.
    LabelAdded(String),
    /// Labels of an enum have other names, had them for a while, have another order, or are gone.
    Labels,
    /// A composite type has other attributes.
    Attributes,
    /// Nothing that matters here.
    Incidental,
}

/// What follows from a drift. Of several the greatest holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Follows {
    /// Nothing.
    Nothing,
    /// Whoever has to load rows of the table waits until that can be done; what is streamed goes on.
    LoadsWait,
    /// The definition is compiled again. What is served goes on, if rows and topics are the same by it; otherwise an
    /// epoch begins.
    Recompile,
    /// The table is not served until it fits again.
    Reject,
    /// Rows of the table have changed without a trace in the stream: they must be loaded again.
    Reload,
    /// Changes may be missing: an epoch begins.
    Epoch(Missed),
}

/// Why changes may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missed {
    /// Loads may have read another table, or a part.
    Table,
    /// The publication may have left them out.
    Publication,
}

impl Missed {
    /// As the reason of an epoch.
    pub fn reason(self) -> EpochReason {
        match self {
            Missed::Table => EpochReason::TableReplaced,
            Missed::Publication => EpochReason::PublicationChanged,
        }
    }
}

impl Drift {
    /// What follows from it.
    pub fn follows(&self) -> Follows {
        match (&self.of, &self.change) {
            (_, CatalogChange::Incidental) => Follows::Nothing,
            (_, CatalogChange::Readable { .. }) => Follows::LoadsWait,
            (Of::Publication, CatalogChange::Gone) | (_, CatalogChange::Unpublished) => {
                Follows::Reject
            }
            (Of::Table(_), CatalogChange::Gone | CatalogChange::Kind) => Follows::Reject,
            (_, CatalogChange::RowSecurity { hides: true }) => Follows::Reject,
            (Of::Publication, _)
            | (
                _,
                CatalogChange::PublishedAgain
                | CatalogChange::PublishedOtherwise
                | CatalogChange::Published,
            ) => Follows::Epoch(Missed::Publication),
            (
                Of::Table(_),
                CatalogChange::Replaced
                | CatalogChange::Rewritten
                | CatalogChange::SchemaRewritten
                | CatalogChange::ColumnRewritten(_),
            ) => Follows::Epoch(Missed::Table),
            (
                _,
                CatalogChange::Labels
                | CatalogChange::Attributes
                | CatalogChange::ColumnReplaced(_)
                | CatalogChange::RowsRewritten
                | CatalogChange::Partitions,
            ) => Follows::Reload,
            _ => Follows::Recompile,
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.of {
            Of::Publication => f.write_str("the publication")?,
            Of::Table(table) => write!(f, "table {table}")?,
            Of::Type(of) => write!(f, "type {of}")?,
        }
        match &self.change {
            CatalogChange::Gone => f.write_str(" is gone"),
            CatalogChange::Appeared => f.write_str(" is there now"),
            CatalogChange::Replaced => f.write_str(" is another one of that name"),
            CatalogChange::Rewritten => f.write_str(" was changed and changed back"),
            CatalogChange::SchemaRewritten => {
                f.write_str(": its schema was renamed and renamed back")
            }
            CatalogChange::Operations => {
                f.write_str(" publishes other operations, or in another way")
            }
            CatalogChange::Unpublished => f.write_str(" is not published any more"),
            CatalogChange::Published => f.write_str(" is published now"),
            CatalogChange::PublishedAgain => f.write_str(" was not published for a while"),
            CatalogChange::PublishedOtherwise => {
                f.write_str(" is published with other rows or columns")
            }
            CatalogChange::PublishedByOthers => {
                f.write_str(" is published otherwise by other publications")
            }
            CatalogChange::Kind => f.write_str(" is of another kind"),
            CatalogChange::Key => f.write_str(" has another key"),
            CatalogChange::Identity => f.write_str(" has another replica identity"),
            CatalogChange::RowSecurity { hides: true } => {
                f.write_str(": row-level security hides rows from the server's role")
            }
            CatalogChange::RowSecurity { hides: false } => f.write_str(
                ": row-level security does not hide rows from the server's role any more",
            ),
            CatalogChange::Readable { readable: true } => f.write_str(" can be read again"),
            CatalogChange::Readable { readable: false } => {
                f.write_str(" cannot be read any more by the server's role")
            }
            CatalogChange::Children { inherit: true } => {
                f.write_str(": other tables inherit from it now")
            }
            CatalogChange::Children { inherit: false } => {
                f.write_str(": no other table inherits from it any more")
            }
            CatalogChange::Partitions => {
                f.write_str(" has other partitions, or one was emptied, rewritten or detached, or changed and changed back")
            }
            CatalogChange::PartitionIdentity => {
                f.write_str(": one of its partitions has another replica identity")
            }
            CatalogChange::ColumnAdded(column) => write!(f, ": column `{column}` was added"),
            CatalogChange::ColumnGone(column) => write!(f, ": column `{column}` is gone"),
            CatalogChange::ColumnRenamed { from, to } => {
                write!(f, ": column `{from}` was renamed to `{to}`")
            }
            CatalogChange::ColumnRetyped(column) => {
                write!(f, ": column `{column}` has another type")
            }
            CatalogChange::ColumnWidened(column) => {
                write!(f, ": column `{column}` takes longer text")
            }
            CatalogChange::ColumnReplaced(column) => {
                write!(f, ": column `{column}` was dropped and added again")
            }
            CatalogChange::RowsRewritten => {
                f.write_str(": its rows were rewritten, and may have changed")
            }
            CatalogChange::ColumnRules(column) => {
                write!(f, ": column `{column}` takes other values")
            }
            CatalogChange::ColumnRewritten(column) => {
                write!(f, ": column `{column}` was changed and changed back")
            }
            CatalogChange::LabelAdded(label) => write!(f, " has the label `{label}` now"),
            CatalogChange::Labels => f.write_str(" has other labels"),
            CatalogChange::Attributes => f.write_str(" has other attributes"),
            CatalogChange::Incidental => {
                f.write_str(" was changed in something that does not matter")
            }
        }
    }
}

/// Why changes or rows of a table cannot be had whole, beyond what the catalog of its columns says.
pub fn unfit(observed: &Observed, table: &ObservedTable) -> Option<UnstreamedKind> {
    let (Some(publication), Some(membership)) = (&observed.publication, &table.membership) else {
        return Some(UnstreamedKind::Unpublished);
    };
    let ObservedPublication { insert, update, delete, truncate, via_root, .. } = publication;
    let generated = |column: &ObservedColumn| column.generated == "s";
    // Before there was the option no table is expected to have these.
    let computed = publication.generated.as_deref().is_some_and(|which| which != "s")
        && table.columns.iter().any(generated);
    // Its rows are streamed as those of tables of which nothing is known here.
    let apart = table.kind == "p" && !via_root;
    let in_part = membership.filtered || membership.listed || computed || apart;
    if !(*insert && *update && *delete && *truncate) || in_part {
        return Some(UnstreamedKind::PublishedInPart);
    }
    table.row_security_active.then_some(UnstreamedKind::RowSecurity)
}

/// Tells whether rows that were streamed under one look are what they are under another: without a gap in the
/// publication, and in the very same columns. A column that was dropped and added again has another number, and no
/// change of its rows was streamed. It is kept with the log, so that such a change and its undoing are noticed that nobody
/// was there to see. What rewrites rows and leaves no trace in these (the label of an enum that is renamed, `ALTER COLUMN …
/// USING` that keeps the type) is found by the look that is kept with the log. Tables of which nothing is told, and columns
/// that are not streamed, are of no concern.
pub fn continuity_digest(
    observed: &Observed,
    is_told: impl Fn(&ObservedTable) -> bool,
    added: impl Fn(&ObservedTable) -> usize,
) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(format!("{:?}", observed.publication));
    for table in observed.tables.iter().filter(|table| is_told(table)) {
        digest.update(format!("{:?}", (&table.schema, &table.name, table.oid, &table.membership)));
        if !is_always_logged(table) {
            digest.update(format!("{:?}", table.file));
        }
        // What came and went with a partition was not streamed.
        for partition in &table.partitions {
            let ObservedPartition { oid, file, attached, .. } = partition;
            digest.update(format!("{:?}", (oid, file, attached)));
        }
        let computed = observed.publication.as_ref().and_then(|of| of.generated.as_deref());
        let is_streamed = |column: &&ObservedColumn| {
            column.generated.is_empty() || (column.generated == "s" && computed == Some("s"))
        };
        let streamed = table.columns.iter().filter(is_streamed);
        let numbers = streamed.map(|column| (column.number, &column.name));
        let mut numbers: Vec<_> = numbers.collect();
        numbers.truncate(numbers.len().saturating_sub(added(table)));
        digest.update(format!("{numbers:?}"));
    }
    digest.finalize().into()
}

/// Everything that is different, in the order of what it is of.
pub fn compare(before: &Observed, after: &Observed) -> Vec<Drift> {
    let mut drifts = Vec::new();
    publication(before.publication.as_ref(), after.publication.as_ref(), &mut drifts);
    let of = |table: &ObservedTable| Of::Table(quote_table(&table.schema, &table.name));
    for old in &before.tables {
        match after.table(&old.schema, &old.name) {
            None => drifts.push(Drift { of: of(old), change: CatalogChange::Gone }),
            Some(new) => table(old, new, &mut |change| drifts.push(Drift { of: of(old), change })),
        }
    }
    for new in &after.tables {
        if before.table(&new.schema, &new.name).is_none() {
            drifts.push(Drift { of: of(new), change: CatalogChange::Appeared });
        }
    }
    for old in &before.types {
        // One that is not used any more is told by the column that does not.
        if let Some(new) = after.types.iter().find(|new| new.oid == old.oid) {
            let of = || Of::Type(new.name.clone());
            types(old, new, &mut |change| drifts.push(Drift { of: of(), change }));
        }
    }
    drifts
}

fn publication(
    before: Option<&ObservedPublication>,
    after: Option<&ObservedPublication>,
    drifts: &mut Vec<Drift>,
) {
    let change = match (before, after) {
        (None, None) => return,
        (Some(_), None) => CatalogChange::Gone,
        (None, Some(_)) => CatalogChange::Appeared,
        (Some(old), Some(new)) if old == new => return,
        (Some(old), Some(new)) if old.oid != new.oid => CatalogChange::Replaced,
        (Some(old), Some(new)) => {
            let version = new.version;
            let same = ObservedPublication { version, ..old.clone() } == *new;
            if same { CatalogChange::Rewritten } else { CatalogChange::Operations }
        }
    };
    drifts.push(Drift { of: Of::Publication, change });
}

fn table(old: &ObservedTable, new: &ObservedTable, tell: &mut impl FnMut(CatalogChange)) {
    if old == new {
        return;
    }
    if old.oid != new.oid {
        return tell(CatalogChange::Replaced);
    }
    match (&old.membership, &new.membership) {
        (Some(_), None) => tell(CatalogChange::Unpublished),
        (None, Some(_)) => tell(CatalogChange::Published),
        (Some(before), Some(after)) => membership(before, after, tell),
        (None, None) => {}
    }
    if old.other_publications != new.other_publications {
        tell(CatalogChange::PublishedByOthers);
    }
    let mut explained = (old.file, &old.incidental) != (new.file, &new.incidental);
    let mut told = |differs: bool, change: CatalogChange| {
        if differs {
            explained = true;
            tell(change);
        }
    };
    told((&old.kind, &old.persistence) != (&new.kind, &new.persistence), CatalogChange::Kind);
    told(old.key != new.key, CatalogChange::Key);
    let identity = |table: &ObservedTable| (table.identity.clone(), table.identity_columns.clone());
    told(identity(old) != identity(new), CatalogChange::Identity);
    let hides = new.row_security_active;
    told(old.row_security_active != hides, CatalogChange::RowSecurity { hides });
    let inherit = new.children;
    told(old.children != inherit, CatalogChange::Children { inherit });
    let rows = |table: &ObservedTable| -> Vec<_> {
        let rows = |part: &ObservedPartition| (part.oid, part.file, part.attached.clone());
        table.partitions.iter().map(rows).collect()
    };
    let identities = |table: &ObservedTable| -> Vec<_> {
        table.partitions.iter().map(|part| (part.identity.clone(), part.kind.clone())).collect()
    };
    let undone = old.partitions.iter().zip(&new.partitions).any(|(before, after)| {
        let version = after.version;
        before != after && ObservedPartition { version, ..before.clone() } == *after
    });
    let same_rows = rows(old) == rows(new) && !undone;
    told(!same_rows, CatalogChange::Partitions);
    told(same_rows && identities(old) != identities(new), CatalogChange::PartitionIdentity);
    let readable = new.readable;
    told(old.readable != readable, CatalogChange::Readable { readable });
    let switches = |table: &ObservedTable| (table.row_security, table.row_security_forced);
    explained |= switches(old) != switches(new);
    // A new name is written to the row type, too, and rights are not. Who reads past row-level security anyway
    // does not need to know whether it was switched on for a while.
    let of_schema =
        old.schema_version != new.schema_version && old.schema_incidental == new.schema_incidental;
    if of_schema {
        tell(CatalogChange::SchemaRewritten);
    }
    let renamed = old.name_version != new.name_version && !explained;
    let hidden = old.version != new.version && !explained && new.row_security_concerns;
    if renamed || hidden {
        tell(CatalogChange::Rewritten);
    } else if old.version != new.version {
        tell(CatalogChange::Incidental);
    }
    let written = columns(old, new, tell);
    // Not told from a table that was rewritten for some other reason in the same moment: VACUUM FULL, or that it was
    // truncated.
    if old.file != new.file && (written || !is_always_logged(new)) {
        tell(CatalogChange::RowsRewritten);
    }
}

/// Postgres makes no table unlogged that a publication names; one that is published with its schema, or with all tables,
/// may be unlogged and logged again in one transaction, and what was written in between is not streamed.
fn is_always_logged(table: &ObservedTable) -> bool {
    table.membership.as_ref().is_some_and(|membership| membership.named)
}

/// Whether a column that there was is written anew in the catalog.
fn columns(old: &ObservedTable, new: &ObservedTable, tell: &mut impl FnMut(CatalogChange)) -> bool {
    let by_number = |table: &ObservedTable, number: i16| {
        table.columns.iter().find(|column| column.number == number).cloned()
    };
    let mut written = false;
    for before in &old.columns {
        match by_number(new, before.number) {
            Some(after) => {
                written |= before.version != after.version;
                column(before, &after, tell);
            }
            // What it had is gone, though it looks the same.
            None if new.columns.iter().any(|column| column.name == before.name) => {
                tell(CatalogChange::ColumnReplaced(before.name.clone()));
            }
            None => tell(CatalogChange::ColumnGone(before.name.clone())),
        }
    }
    for after in &new.columns {
        if by_number(old, after.number).is_none() {
            // With a default of its own for each row all of them are written anew.
            written = true;
            tell(CatalogChange::ColumnAdded(after.name.clone()));
        }
    }
    written
}

fn membership(
    old: &ObservedMembership,
    new: &ObservedMembership,
    tell: &mut impl FnMut(CatalogChange),
) {
    if (old.filtered, old.listed) != (new.filtered, new.listed) {
        tell(CatalogChange::PublishedOtherwise);
    } else if old != new {
        tell(CatalogChange::PublishedAgain);
    }
}

fn column(old: &ObservedColumn, new: &ObservedColumn, tell: &mut impl FnMut(CatalogChange)) {
    if old == new {
        return;
    }
    let name = || new.name.clone();
    let mut explained = old.incidental != new.incidental;
    let mut told = |differs: bool, change: CatalogChange| {
        if differs {
            explained = true;
            tell(change);
        }
    };
    let renamed = CatalogChange::ColumnRenamed { from: old.name.clone(), to: name() };
    told(old.name != new.name, renamed);
    let widened = new.type_oid == VARCHAR
        && old.type_oid == VARCHAR
        && old.modifier != new.modifier
        && (new.modifier < 0 || (old.modifier >= 0 && new.modifier > old.modifier));
    let of = |column: &ObservedColumn| (column.type_oid, column.modifier);
    told(widened, CatalogChange::ColumnWidened(name()));
    told(of(old) != of(new) && !widened, CatalogChange::ColumnRetyped(name()));
    let rules = |column: &ObservedColumn| {
        let ObservedColumn { not_null, generated, numbered, collation, storage, default, .. } =
            column.clone();
        (not_null, generated, numbered, collation, storage, default)
    };
    told(rules(old) != rules(new), CatalogChange::ColumnRules(name()));
    if !explained {
        tell(CatalogChange::ColumnRewritten(name()));
    }
}

fn types(old: &ObservedType, new: &ObservedType, tell: &mut impl FnMut(CatalogChange)) {
    if old.labels != new.labels {
        let old_ones = old.labels.iter();
        let known =
            |(oid, ..): &&(u32, String, u32)| old.labels.iter().any(|(known, ..)| known == oid);
        if new.labels.iter().filter(known).eq(old_ones) {
            let added = new.labels.iter().filter(|label| !known(label));
            added.for_each(|(_, label, _)| tell(CatalogChange::LabelAdded(label.clone())));
        } else {
            tell(CatalogChange::Labels);
        }
    }
    if old.attributes != new.attributes {
        tell(CatalogChange::Attributes);
    }
    let of = |of: &ObservedType| (of.name.clone(), of.kind.clone(), of.base, of.element);
    if of(old) != of(new) {
        tell(CatalogChange::Kind);
    }
}

#[cfg(test)]
mod tests;
