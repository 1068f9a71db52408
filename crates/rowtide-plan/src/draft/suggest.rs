//! What foreign keys suggest where no policy says who may read. A row that names a user is that user's; a group is its
//! members', whose rows are those of a table that names a user and a group; what belongs to a row that somebody sees is
//! seen with it. What was found is a suggestion, and the narrowest comes first.

use super::said::{Looked, Said};
use super::{DraftFacts, DraftTable, ForeignKey};
use crate::catalog::{Catalog, TableName};
use crate::value::ColumnType;

/// How far a chain of foreign keys is followed.
const MAX_CHAIN: usize = 4;

/// Tables of people, as they are called.
const PEOPLE: [&str; 13] = [
    "user", "users", "appuser", "appusers", "account", "accounts", "profile", "profiles", "person",
    "persons", "people", "member", "members",
];

/// Columns that name a user, the surest first.
const OWNERS: [&str; 16] = [
    "owner",
    "ownerid",
    "user",
    "userid",
    "profileid",
    "accountid",
    "personid",
    "authuserid",
    "uid",
    "author",
    "authorid",
    "createdby",
    "createdbyid",
    "creatorid",
    "senderid",
    "memberid",
];

/// Suggests rules for reading.
pub(super) struct Suggestions<'a> {
    facts: &'a DraftFacts,
    catalog: &'a Catalog,
    numbers: usize,
}

/// A rule, and why.
pub(super) struct Suggestion {
    pub(super) said: Said,
    pub(super) because: String,
}

fn folded(name: &str) -> String {
    name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}

impl<'a> Suggestions<'a> {
    pub(super) fn new(facts: &'a DraftFacts, catalog: &'a Catalog) -> Suggestions<'a> {
        Suggestions { facts, catalog, numbers: 0 }
    }

    /// The rules that a table's keys suggest, the narrowest first.
    pub(super) fn of(&mut self, table: &DraftTable) -> Vec<Suggestion> {
        self.chain(table, &mut Vec::new())
    }

    fn table(&self, name: &TableName) -> Option<&'a DraftTable> {
        self.facts.tables.iter().find(|table| table.name == *name)
    }

    /// Whether rows of a table are people.
    fn is_of_people(&self, name: &TableName) -> bool {
        if (name.schema.as_str(), name.name.as_str()) == ("auth", "users") {
            return true;
        }
        let Some(table) = self.table(name) else { return false };
        let one = self.catalog.table_of(name).is_some_and(|of| of.primary_key.len() == 1);
        let names = PEOPLE.contains(&folded(&name.name).as_str());
        // A table of members that names a group is a table of memberships.
        one && names && table.foreign_keys.iter().all(|key| self.leads_to_person_by_key(table, key))
    }

    /// Whether a foreign key makes the rows one with those of people, as a profile's key does.
    fn leads_to_person_by_key(&self, table: &DraftTable, key: &ForeignKey) -> bool {
        let key_of = self.catalog.table_of(&table.name).map(|of| of.primary_key.as_slice());
        key_of == Some(key.columns.as_slice()) && key.table != table.name
    }

    /// The columns that name a user, the surest first.
    fn owners(&self, table: &DraftTable) -> Vec<String> {
        let Some(described) = self.catalog.table_of(&table.name) else { return Vec::new() };
        if self.is_of_people(&table.name) {
            return described.primary_key.clone();
        }
        let place = |name: &str| OWNERS.iter().position(|known| *known == folded(name));
        let refers = |name: &str| {
            table.foreign_keys.iter().find(|key| key.columns.len() == 1 && key.columns[0] == name)
        };
        let mut owners: Vec<(usize, String)> = Vec::new();
        for column in &described.columns {
            let names_person = match refers(&column.name) {
                Some(key) => self.is_of_people(&key.table),
                None => {
                    use ColumnType::{Char, Int, Text, Uuid};
                    let names = matches!(column.kind, Text | Char | Uuid | Int);
                    names && place(&column.name).is_some()
                }
            };
            if names_person {
                owners.push((place(&column.name).unwrap_or(OWNERS.len()), column.name.clone()));
            }
        }
        owners.sort_by_key(|(place, _)| *place);
        owners.into_iter().map(|(_, name)| name).collect()
    }

    /// The memberships of a group's rows: a table that names a user and the group.
    fn memberships(&self, group: &TableName) -> Vec<(&'a DraftTable, &'a ForeignKey, String)> {
        if self.is_of_people(group) {
            return Vec::new();
        }
        let of = |table: &'a DraftTable| {
            let key = table.foreign_keys.iter().find(|key| {
                key.table == *group && key.columns.len() == 1 && table.name != *group
            })?;
            let person = self.owners(table).into_iter().find(|name| *name != key.columns[0])?;
            let described = self.catalog.table_of(&table.name)?;
            // Of each user and group there is one row, or it says what it is.
            let both = [&key.columns[0], &person];
            let pair = both.iter().all(|name| described.primary_key.contains(name));
            let called = ["member", "participant", "collaborator", "enrol", "subscription"];
            let says = called.iter().any(|word| folded(&table.name.name).contains(word));
            (pair || says).then_some((table, key, person))
        };
        self.facts.tables.iter().filter_map(of).collect()
    }

    fn chain(&mut self, table: &DraftTable, seen: &mut Vec<TableName>) -> Vec<Suggestion> {
        let mut found = Vec::new();
        if let Some(owner) = self.owners(table).first() {
            let because = format!("`{owner}` names a user");
            found.push(Suggestion { said: Said::equal(Said::row(owner), Said::user()), because });
        }
        for (members, key, person) in self.memberships(&table.name) {
            let because = format!("`{}` names its members", members.name.name);
            let row = Said::row(&key.referenced[0]);
            let said = self.member(row, members, &key.columns[0], |number| {
                Said::equal(Said::row(&person), Said::user()).of_row(number)
            });
            found.push(Suggestion { said, because });
        }
        if seen.len() >= MAX_CHAIN || !found.is_empty() && !seen.is_empty() {
            return found;
        }
        seen.push(table.name.clone());
        for key in &table.foreign_keys {
            if key.columns.len() != 1 || seen.contains(&key.table) || self.is_of_people(&key.table)
            {
                continue;
            }
            let Some(parent) = self.table(&key.table) else { continue };
            let mut of_parent = self.chain(parent, seen);
            // Who is a member of what it belongs to sees it, before who owns that.
            of_parent.sort_by_key(|one| !matches!(one.said, Said::Member { .. }));
            let Some(first) = of_parent.into_iter().next() else { continue };
            let because = format!("it belongs to a row of `{}`", key.table.name);
            let row = Said::row(&key.columns[0]);
            let said = match through(&first.said, &key.referenced[0]) {
                // What is asked of the parent's key is asked of this column.
                Some(Said::Member { of, .. }) => {
                    Said::Member { row: vec![row], negated: false, of }
                }
                _ => {
                    let referenced = key.referenced[0].clone();
                    self.member(row, parent, &referenced, |number| first.said.of_row(number))
                }
            };
            found.push(Suggestion { said, because });
        }
        seen.pop();
        found
    }

    fn member(
        &mut self,
        row: Said,
        table: &DraftTable,
        column: &str,
        filter: impl FnOnce(usize) -> Said,
    ) -> Said {
        self.numbers += 1;
        let number = self.numbers;
        let columns = vec![Said::row(column).of_row(number)];
        let of = Looked { table: table.name.clone(), number, columns, filter: filter(number) };
        Said::Member { row: vec![row], negated: false, of: Box::new(of) }
    }
}

/// The membership that a condition is, of this column alone.
fn through(said: &Said, column: &str) -> Option<Said> {
    match said {
        Said::Member { row, negated: false, .. } if *row == [Said::row(column)] => {
            Some(said.clone())
        }
        _ => None,
    }
}
