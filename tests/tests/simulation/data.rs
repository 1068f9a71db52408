//! The tables of the simulated application, its rows, and the rules for reading them.

use rowtide_plan::definition::Definition;
use serde_json::{Map, Value};

use crate::postgres::catalog::{Kind, Relation};

pub const USERS: [&str; 3] = ["ann", "bob", "cat"];
pub const TABLES: [&str; 4] = ["team", "member", "note", "comment"];
pub const TEAM: usize = 0;
pub const MEMBER: usize = 1;
pub const NOTE: usize = 2;
pub const COMMENT: usize = 3;

/// A comment is two links away from who may read it: over its note's team and their membership. A team is shown to
/// its members, unless a membership of theirs is hidden, and to those whose token names it. Comments are synced on demand,
/// note by note.
/// Who may write is judged by the simulated Postgres alone.
const DEFINITION: &str = "
    [tables.team]
    visible = '''id = ANY (auth.claims.open)
                 OR id IN (SELECT parent FROM member WHERE person = auth.user_id)
                 AND id NOT IN (SELECT parent FROM member WHERE person = auth.user_id AND hidden)'''

    [tables.member]
    visible = 'person = auth.user_id'
    [tables.member.insert]
    allow = 'true'
    [[tables.member.update]]
    allow = 'true'
    [tables.member.delete]
    allow = 'true'

    [tables.note]
    visible = '''NOT hidden AND (person = auth.user_id
                 OR parent IN (SELECT parent FROM member WHERE person = auth.user_id))'''
    [tables.note.insert]
    allow = 'true'
    [[tables.note.update]]
    allow = 'true'
    [tables.note.delete]
    allow = 'true'

    [tables.comment]
    sync = 'on_demand'
    visible = '''parent IN (SELECT id FROM note WHERE NOT hidden AND parent IN
                 (SELECT parent FROM member WHERE person = auth.user_id))'''
    [tables.comment.insert]
    allow = 'true'
    [[tables.comment.update]]
    allow = 'true'
    [tables.comment.delete]
    allow = 'true'

    [queries.thread]
    params = { note = 'int8' }
    [queries.thread.select]
    comment = { where = 'parent = params.note' }
";

/// The teams that the token of a user names.
pub fn open_teams(user: &str) -> &'static [i64] {
    match user {
        "ann" => &[0, 2],
        "bob" => &[2, 3],
        _ => &[],
    }
}

/// The claims of a user's token; some have none.
pub fn claims_of(user: &str) -> Map<String, Value> {
    let open = open_teams(user);
    let claim = (!open.is_empty()).then(|| ("open".to_owned(), open.into()));
    claim.into_iter().collect()
}

pub fn definition() -> Definition {
    Definition::parse("rowtide.toml", DEFINITION).unwrap()
}

/// A row; all tables begin with the same columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub id: i64,
    /// The team of a member or a note, the note of a comment.
    pub parent: Option<i64>,
    pub person: Option<String>,
    /// Who wrote it last: the tag of a mutation, or 0.
    pub mark: u64,
    pub hidden: bool,
    /// What a column holds that tables do not have in the beginning.
    pub extra: Option<String>,
}

impl Row {
    /// A column has been added: all rows have what it begins with.
    pub fn reset(&mut self, field: crate::postgres::catalog::Field) {
        use crate::postgres::catalog::Field;
        match field {
            Field::Id => {}
            Field::Parent => self.parent = None,
            Field::Person => self.person = None,
            Field::Mark => self.mark = 0,
            Field::Hidden => self.hidden = false,
            Field::Extra => self.extra = None,
        }
    }
}

/// A row with the JSON that clients hold of it, made once.
#[derive(Debug)]
pub struct Stored {
    pub row: Row,
    pub json: Map<String, Value>,
}

impl Stored {
    pub fn new(relation: &Relation, row: Row) -> Stored {
        let value = |column: &crate::postgres::catalog::Column| {
            let text = relation.text(&row, column);
            let value = match (text, column.kind) {
                (None, _) => Value::Null,
                (Some(text), Kind::Text) => Value::from(text),
                (Some(text), Kind::Bigint) => text.parse::<i64>().unwrap().into(),
                (Some(text), Kind::Boolean) => (text == "t").into(),
            };
            (column.name.clone(), value)
        };
        let json = relation.columns.iter().map(value).collect();
        Stored { row, json }
    }
}
