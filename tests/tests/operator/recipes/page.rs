//! The recipes of `docs/definition.md`, as the page says them. A recipe has a heading, SQL, a definition, a table of who sees what, and a
//! table of what is done and what comes of it. The tables are plain English of a few forms, and whatever has another form is an error:
//! nothing that a recipe says goes untried.

use serde_json::{Map, Value, json};

/// The section that holds the recipes, each under a heading of the next level.
const SECTION: &str = "\n## Recipes\n";
const SEES: [&str; 2] = ["who", "sees"];
const DONE: [&str; 2] = ["what is done", "what comes of it"];
/// How the page calls who has no token.
pub(super) const NOBODY: &str = "somebody without a token";

#[derive(Debug, Default)]
pub(super) struct Recipe {
    pub(super) heading: String,
    pub(super) sql: String,
    pub(super) definition: String,
    /// What `rowtide check` has to say of it.
    pub(super) notes: Vec<String>,
    pub(super) clients: Vec<(Who, Vec<Row>)>,
    pub(super) steps: Vec<(Step, Vec<Comes>)>,
}

/// Whoever connects.
#[derive(Clone, Debug)]
pub(super) struct Who {
    /// The user, or [`NOBODY`].
    pub(super) name: String,
    pub(super) claims: Map<String, Value>,
    /// A query, and its parameters.
    pub(super) asks: Option<(String, Value)>,
}

/// A row of a table.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) table: String,
    pub(super) is: RowIs,
}

#[derive(Clone, Debug)]
pub(super) enum RowIs {
    /// The one with this key.
    Key(String),
    /// All that is sent of it.
    Whole(Value),
}

#[derive(Debug)]
pub(super) enum Step {
    Sql(String),
    /// Operations of one mutation of this user.
    Writes(String, Vec<Value>),
    /// Nothing, but that time passes.
    Later,
}

#[derive(Debug)]
pub(super) enum Comes {
    Applied,
    /// With this code.
    Refused(String),
    Gets(String, Vec<Row>),
    Loses(String, Vec<Row>),
    /// No row comes or goes.
    Nothing,
}

/// What a cell of a table is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part<'a> {
    Code(&'a str),
    Words(&'a str),
}

/// All recipes of the page, in its order.
///
/// # Errors
/// With what is not said as a recipe says it.
pub(super) fn recipes(page: &str) -> Result<Vec<Recipe>, String> {
    let (before, section) = page.split_once(SECTION).ok_or("there is no section of recipes")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let (overview, of_recipes) = section.split_once("\n### ").ok_or("there is no recipe")?;
    let recipes: Vec<Recipe> =
        of_recipes.split("\n### ").map(recipe).collect::<Result<_, String>>()?;
    for Recipe { heading, .. } in &recipes {
        let link = format!("](#{})", anchor(heading));
        if !before.contains(&link) && !overview.contains(&link) {
            return Err(format!("{heading}: no line of the overview leads to it"));
        }
    }
    Ok(recipes)
}

/// A heading as links name it.
pub(super) fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

fn recipe(text: &str) -> Result<Recipe, String> {
    let (heading, body) = text.split_once('\n').ok_or_else(|| format!("{text}: is empty"))?;
    let mut recipe = Recipe { heading: heading.to_owned(), ..Recipe::default() };
    let wrong = |what: &str| format!("{heading}: {what}");
    let mut lines = body.lines();
    while let Some(line) = lines.next() {
        let block = match line {
            "```sql" => &mut recipe.sql,
            "```toml" => &mut recipe.definition,
            _ if line.starts_with('|') => {
                let rows = lines.by_ref().take_while(|line| line.starts_with('|'));
                let rows: Vec<&str> = rows.skip(1).collect();
                table(&mut recipe, line, &rows).map_err(|what| wrong(&what))?;
                continue;
            }
            _ => {
                if let Some(note) = line.strip_prefix("`rowtide check` notes `") {
                    recipe.notes.push(note.split('`').next().unwrap_or_default().to_owned());
                }
                continue;
            }
        };
        for line in lines.by_ref().take_while(|line| *line != "```") {
            block.push_str(line);
            block.push('\n');
        }
    }
    for (is_there, what) in [
        (!recipe.sql.is_empty(), "has no SQL"),
        (!recipe.definition.is_empty(), "has no definition"),
        (!recipe.clients.is_empty(), "does not say who sees what"),
        (!recipe.steps.is_empty(), "does not say what comes of a change"),
    ] {
        is_there.then_some(()).ok_or_else(|| wrong(what))?;
    }
    Ok(recipe)
}

fn table(recipe: &mut Recipe, header: &str, rows: &[&str]) -> Result<(), String> {
    let header = cells(header)?;
    for row in rows {
        let [left, right] = cells(row)?;
        let named = |what: String| format!("{what}, in {row}");
        if header == SEES {
            recipe.clients.push((who(left).map_err(named)?, seen(right).map_err(named)?));
        } else if header == DONE {
            let comes = items(right).iter().map(|item| comes(item)).collect::<Result<_, String>>();
            recipe.steps.push((step(left).map_err(named)?, comes.map_err(named)?));
        } else {
            return Err(format!("a table with the columns {header:?}"));
        }
    }
    Ok(())
}

fn cells(row: &str) -> Result<[&str; 2], String> {
    let cells: Vec<&str> = row.trim().trim_matches('|').split('|').map(str::trim).collect();
    cells.try_into().map_err(|_| format!("not two columns: {row}"))
}

fn parts(cell: &str) -> Vec<Part<'_>> {
    let pieces = cell.split('`').enumerate().map(|(at, piece)| match at % 2 {
        1 => Part::Code(piece),
        _ => Part::Words(piece.trim()),
    });
    pieces.filter(|part| *part != Part::Words("")).collect()
}

/// What is between semicolons that are in no code.
fn items(cell: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    for (at, piece) in cell.split('`').enumerate() {
        let mut own =
            if at % 2 == 0 { piece.split(';').collect() } else { vec![piece] }.into_iter();
        let last = items.last_mut().expect("there is one");
        if at > 0 {
            last.push('`');
        }
        last.push_str(own.next().unwrap_or_default());
        items.extend(own.map(str::to_owned));
    }
    items
}

fn json_of(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))
}

fn who(cell: &str) -> Result<Who, String> {
    let parts = parts(cell);
    let (name, rest) = match &parts[..] {
        [Part::Code(name), rest @ ..] => (*name, rest),
        [Part::Words(NOBODY), rest @ ..] => (NOBODY, rest),
        [Part::Words(words), rest @ ..] if words.strip_prefix(NOBODY) == Some(" asking for") => {
            return Ok(Who { name: NOBODY.to_owned(), claims: Map::new(), asks: asks(rest)? });
        }
        _ => return Err("who is that?".to_owned()),
    };
    let (claims, rest) = match rest {
        [Part::Words("with"), Part::Code(claims), rest @ ..] => (json_of(claims)?, rest),
        rest => (json!({}), rest),
    };
    let Value::Object(claims) = claims else { return Err("claims are an object".to_owned()) };
    let asks = match rest {
        [] => None,
        [Part::Words("asking for"), rest @ ..] => asks(rest)?,
        _ => return Err("who asks for what?".to_owned()),
    };
    Ok(Who { name: name.to_owned(), claims, asks })
}

fn asks(parts: &[Part<'_>]) -> Result<Option<(String, Value)>, String> {
    match parts {
        [Part::Code(query)] => Ok(Some(((*query).to_owned(), json!({})))),
        [Part::Code(query), Part::Code(params)] => {
            Ok(Some(((*query).to_owned(), json_of(params)?)))
        }
        _ => Err("asking for what?".to_owned()),
    }
}

fn seen(cell: &str) -> Result<Vec<Row>, String> {
    if cell == "nothing" {
        return Ok(Vec::new());
    }
    let rows = items(cell).iter().map(|item| rows(&parts(item))).collect::<Result<Vec<_>, _>>()?;
    Ok(rows.into_iter().flatten().collect())
}

fn rows(parts: &[Part<'_>]) -> Result<Vec<Row>, String> {
    let row = |table: &str, is| Row { table: table.to_owned(), is };
    match parts {
        [Part::Code(table), Part::Words(keys)] => {
            let keys = keys.split(',').map(|key| RowIs::Key(key.trim().to_owned()));
            Ok(keys.map(|is| row(table, is)).collect())
        }
        [Part::Code(table), Part::Code(whole)] => {
            Ok(vec![row(table, RowIs::Whole(json_of(whole)?))])
        }
        _ => Err("which rows?".to_owned()),
    }
}

fn step(cell: &str) -> Result<Step, String> {
    match &parts(cell)[..] {
        [Part::Code(sql)] => Ok(Step::Sql((*sql).to_owned())),
        [Part::Words(_)] => Ok(Step::Later),
        [Part::Code(name), rest @ ..] => Ok(Step::Writes((*name).to_owned(), ops(rest)?)),
        [Part::Words(words), rest @ ..] if words.starts_with(NOBODY) => {
            let verb = Part::Words(words[NOBODY.len()..].trim());
            let rest: Vec<Part<'_>> = std::iter::once(verb).chain(rest.iter().cloned()).collect();
            Ok(Step::Writes(NOBODY.to_owned(), ops(&rest)?))
        }
        _ => Err("what is done?".to_owned()),
    }
}

fn ops(parts: &[Part<'_>]) -> Result<Vec<Value>, String> {
    let op = |parts: &[Part<'_>]| {
        let [Part::Words(verb), Part::Code(name), Part::Code(value)] = parts else {
            return Err("which operation?".to_owned());
        };
        let value = json_of(value)?;
        match verb.strip_prefix("and ").unwrap_or(verb) {
            "inserts" => Ok(json!({ "op": "insert", "table": name, "row": value })),
            "updates" => Ok(json!({ "op": "update", "table": name, "row": value })),
            "deletes" => Ok(json!({ "op": "delete", "table": name, "row": value })),
            "calls" => Ok(json!({ "op": "call", "name": name, "args": value })),
            verb => Err(format!("{verb} is no operation")),
        }
    };
    parts.chunks(3).map(op).collect()
}

fn comes(item: &str) -> Result<Comes, String> {
    match &parts(item)[..] {
        [Part::Words("applied")] => Ok(Comes::Applied),
        [Part::Words("nothing")] => Ok(Comes::Nothing),
        [Part::Code(code)] => Ok(Comes::Refused((*code).to_owned())),
        [Part::Code(name), Part::Words("gets"), rest @ ..] => {
            Ok(Comes::Gets((*name).to_owned(), rows(rest)?))
        }
        [Part::Code(name), Part::Words("loses"), rest @ ..] => {
            Ok(Comes::Loses((*name).to_owned(), rows(rest)?))
        }
        [Part::Words(words), rest @ ..] => match words.strip_prefix(NOBODY).map(str::trim) {
            Some("gets") => Ok(Comes::Gets(NOBODY.to_owned(), rows(rest)?)),
            Some("loses") => Ok(Comes::Loses(NOBODY.to_owned(), rows(rest)?)),
            _ => Err("what comes of it?".to_owned()),
        },
        _ => Err("what comes of it?".to_owned()),
    }
}
