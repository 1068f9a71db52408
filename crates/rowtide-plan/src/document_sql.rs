//! The SQL of live documents: one query for what the rules and rows say to many people of many documents, and the writes
//! of a save and of a publication that failed.
//! Each person is a row of parameters, one array for each place that names a claim, so that the text of the query
//! depends on the plan alone.

use crate::claims::{Claim, claim_text};
use crate::documents::{PlannedKind, TouchedUnit};
use crate::judged_rule::{JudgedRule, RuleClaim};
use crate::plan::Plan;
use crate::sql::{compared, literal_type, quote_identifier, quote_table};
use crate::value::ColumnType;

/// Names that no table has which a rule may speak of.
const ASKED: &str = "\"rowtide asked\"";
const ROW: &str = "\"rowtide row\"";
const KEY: &str = "\"rowtide key\"";
const PLACE: &str = "\"rowtide place\"";

/// A claim as a `text[]` parameter: one entry for each person.
#[derive(Clone, Debug, PartialEq)]
pub struct AskedClaim {
    claim: Claim,
    kind: ColumnType,
}

impl AskedClaim {
    /// The entry of a person; `None` (null) where they have no such claim, or none that fits.
    pub fn text(
        &self,
        user_id: &str,
        claims: &serde_json::Map<String, serde_json::Value>,
    ) -> Option<String> {
        claim_text(&self.claim, &self.kind, user_id, claims)
    }
}

/// A query for what many people may do with documents of one kind.
///
/// It has a row for each of them: their place, from 1; whether there is a row (null if not), whether it is alive, may be
/// read, may be edited, may be brought back to an earlier state, and is published; then its name, address, edition and
/// source as text, null where the definition has no such column.
#[derive(Clone, Debug, PartialEq)]
pub struct StandingQuery {
    /// The text. `$1` is the documents' ids, `$2` and so on are [`StandingQuery::claims`].
    pub sql: String,
    /// The claims that the rules name.
    pub claims: Vec<AskedClaim>,
}

/// The query for a kind of documents. `parameter` writes the array with this number, from 1.
pub fn standing_query(
    plan: &Plan,
    kind: &PlannedKind,
    parameter: impl Fn(usize) -> String,
) -> StandingQuery {
    let table = plan.table(kind.table);
    let catalog = &table.catalog;
    let from = quote_table(&catalog.schema, &catalog.name);
    let alias = quote_identifier(&catalog.name);
    let mut claims = Vec::new();
    let mut rule = |rule: &JudgedRule| rule.sql(|claim| asked(claim, &mut claims));
    let alive = kind.alive.as_ref().map_or_else(|| "true".to_owned(), &mut rule);
    let (read, edit) = (rule(&kind.read), rule(&kind.edit));
    let restore = kind.restore.as_ref().map_or_else(|| "false".to_owned(), rule);
    let column = |column: usize| quote_identifier(&catalog.columns[column].name);
    let text = |of: Option<usize>| {
        of.map_or_else(|| "NULL::text".to_owned(), |of| format!("{}::text", column(of)))
    };
    let publishing = kind.publishing;
    let published = publishing.map_or_else(|| "false".to_owned(), |of| column(of.published));
    let (name, source) = (text(kind.title), text(kind.source));
    let slug = text(publishing.map(|of| of.slug));
    let edition = text(publishing.and_then(|of| of.edition));
    let key = &catalog.columns[kind.key];
    let is_key = format!("{} = {ASKED}.{KEY}::{}", compared(key), literal_type(key));
    let arrays: Vec<String> = (0..=claims.len()).map(|index| parameter(index + 1)).collect();
    let numbers = (1..=claims.len()).map(of_person);
    let columns: Vec<String> =
        std::iter::once(KEY.to_owned()).chain(numbers).chain([PLACE.to_owned()]).collect();
    let (arrays, columns) = (arrays.join(", "), columns.join(", "));
    let sql = format!(
        "SELECT {ASKED}.{PLACE}, {ROW}.*\n\
         FROM unnest({arrays}) WITH ORDINALITY AS {ASKED} ({columns})\n\
         LEFT JOIN LATERAL (SELECT true AS \"rowtide there\", {alive} IS TRUE AS \"rowtide alive\", \
         {read} IS TRUE AS \"rowtide read\", {edit} IS TRUE AS \"rowtide edit\", {restore} IS TRUE AS \"rowtide restore\", \
         {published} IS TRUE AS \"rowtide published\",\n\
         {name} AS \"rowtide name\", {slug} AS \"rowtide slug\", {edition} AS \"rowtide edition\", \
         {source} AS \"rowtide source\"\n\
         FROM {from} AS {alias} WHERE {is_key}) AS {ROW} ON true"
    );
    StandingQuery { sql, claims }
}

/// The name of a person's claim with this number, from 1.
fn of_person(number: usize) -> String {
    format!("\"rowtide claim {number}\"")
}

/// A claim in a rule; what is the same is one array.
fn asked(named: &RuleClaim, claims: &mut Vec<AskedClaim>) -> String {
    named.sql(|kind, type_name| {
        let wanted = AskedClaim { claim: named.claim.clone(), kind };
        let at = claims.iter().position(|other| *other == wanted).unwrap_or_else(|| {
            claims.push(wanted);
            claims.len() - 1
        });
        format!("{ASKED}.{}::{type_name}", of_person(at + 1))
    })
}

/// The write of a save: `$1` is the documents' ids as `text[]`, `$2` when each was saved, in milliseconds since 1970, as
/// `int8[]`. A time that is there already is never put back. It waits for nobody who has locked a row: it returns the ids whose
/// rows it has not written because of that. `None` if the kind has no column for it.
pub fn touch_sql(plan: &Plan, kind: &PlannedKind) -> Option<String> {
    let touched = kind.touched?;
    let catalog = &plan.table(kind.table).catalog;
    let (key, column) = (&catalog.columns[kind.key], &catalog.columns[touched.column]);
    let column = quote_identifier(&column.name);
    let saved = match touched.unit {
        TouchedUnit::Milliseconds => "s.at".to_owned(),
        TouchedUnit::Timestamp => "pg_catalog.to_timestamp(s.at / 1000.0)".to_owned(),
    };
    let from = quote_table(&catalog.schema, &catalog.name);
    let (name, key_type) = (quote_identifier(&key.name), literal_type(key));
    Some(format!(
        "WITH s AS (SELECT * FROM unnest($1, $2) AS s (id, at)), \
         free AS (SELECT target.{name} AS key FROM {from} AS target JOIN s ON target.{name} = s.id::{key_type} \
         FOR NO KEY UPDATE OF target SKIP LOCKED), \
         written AS (UPDATE {from} AS target SET {column} = {saved} FROM s JOIN free ON free.key = s.id::{key_type} \
         WHERE target.{name} = free.key AND (target.{column} < {saved} OR target.{column} IS NULL)) \
         SELECT s.id FROM {from} AS target JOIN s ON target.{name} = s.id::{key_type} \
         WHERE NOT EXISTS (SELECT FROM free WHERE free.key = target.{name})"
    ))
}

/// The write of why a document is not published: `$1` is its id as `text`, `$2` the reason as `text`, null if it is well.
/// A row that says so already is left alone. `None` if the kind has no column for it.
pub fn publish_error_sql(plan: &Plan, kind: &PlannedKind) -> Option<String> {
    let catalog = &plan.table(kind.table).catalog;
    let key = &catalog.columns[kind.key];
    let column = quote_identifier(&catalog.columns[kind.publishing?.error?].name);
    let from = quote_table(&catalog.schema, &catalog.name);
    let (name, key_type) = (quote_identifier(&key.name), literal_type(key));
    Some(format!(
        "UPDATE {from} SET {column} = $2 WHERE {name} = $1::{key_type} AND {column} IS DISTINCT FROM $2"
    ))
}

/// The ids of rows that say that their documents are published, as text and in the order of the key: `$1` is how many at
/// the most, as `int8`, and `$2` behind which it goes on, as `text`, if it `goes_on`. `None` if none ever is.
pub fn published_ids_sql(plan: &Plan, kind: &PlannedKind, goes_on: bool) -> Option<String> {
    let catalog = &plan.table(kind.table).catalog;
    let key = &catalog.columns[kind.key];
    let published = quote_identifier(&catalog.columns[kind.publishing?.published].name);
    let from = quote_table(&catalog.schema, &catalog.name);
    let (name, key_type) = (quote_identifier(&key.name), literal_type(key));
    let behind = if goes_on { format!(" AND {name} > $2::{key_type}") } else { String::new() };
    Some(format!(
        "SELECT {name}::text FROM {from} WHERE {published}{behind} ORDER BY {name} LIMIT $1"
    ))
}
