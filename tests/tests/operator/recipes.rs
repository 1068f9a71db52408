//! Every recipe of `docs/definition.md` is tried as it stands there: its SQL makes a database, `rowtide check` has nothing to say of its
//! definition, and a server sends each of the people that it names exactly what it says, before and after everything that it says is done.

mod page;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rowtide::auth::sign_claims;
use rowtide_plan::definition::Definition;
use rowtide_tests::{App, Raw};
use serde_json::{Value, json};
use tokio_postgres::Client;

use self::page::{Comes, NOBODY, Recipe, Row, RowIs, Step, Who, anchor, recipes};
use crate::{Operator, SECRET, succeeded};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/definition.md");
/// Recipes that the server does not know how to cook yet.
const NOT_YET: &[&str] = &[];
/// What is wrong with claims and rules, in the form of recipes.
const BAD_INPUT: &str = include_str!("recipes/bad_input.md");
/// The recipe whose definition is what `rowtide init` writes for its SQL.
const DRAFTED: &str = "From row-level security";
/// What everyone sees: once a row of it is there, so is all that was committed before.
const MARK: (&str, &str) =
    ("CREATE TABLE mark (id int PRIMARY KEY);", "\n[tables.mark]\nvisible = 'true'\n");
/// So many are tried at once.
const AT_ONCE: usize = 4;

/// Rows by table and key.
type Rows = BTreeMap<(String, String), Value>;
/// The columns of the key of each table.
type Keys = BTreeMap<String, Vec<String>>;

fn key(keys: &Keys, table: &str, row: &Value) -> Result<(String, String), String> {
    let columns = keys.get(table).ok_or_else(|| format!("there is no table {table}"))?;
    let value = |column: &String| match &row[column] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Ok((table.to_owned(), columns.iter().map(value).collect::<Vec<_>>().join("/")))
}

async fn keys(sql: &Client) -> Keys {
    let of_keys = "SELECT c.relname::text, a.attname::text FROM pg_index i
        JOIN pg_class c ON c.oid = i.indrelid JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE i.indisprimary AND c.relnamespace = 'public'::regnamespace AND a.attnum = ANY (i.indkey)
        ORDER BY array_position(i.indkey, a.attnum)";
    let mut keys = Keys::new();
    for row in sql.query(of_keys, &[]).await.unwrap() {
        keys.entry(row.get(0)).or_default().push(row.get(1));
    }
    keys
}

/// A client of somebody, and what it should have.
struct Seer {
    who: Who,
    raw: Raw,
    rows: Rows,
    expected: BTreeSet<(String, String)>,
    /// The number of its next mutation.
    next: u64,
}

impl Seer {
    async fn come(app: &App, who: &Who, keys: &Keys) -> Result<Seer, String> {
        let mut connect = Raw::connect("");
        if who.name == NOBODY {
            connect.as_object_mut().expect("an object").remove("token");
        } else {
            let token =
                sign_claims(SECRET, &who.name, who.claims.clone(), Duration::from_secs(600));
            connect["token"] = token.expect("a token can be signed").into();
        }
        if let Some((query, params)) = &who.asks {
            connect["subscriptions"] = json!([{ "id": 1, "query": query, "params": params }]);
        }
        let mut raw = Raw::open(app).await;
        raw.say(&connect).await;
        let (rows, expected) = (Rows::new(), BTreeSet::new());
        let mut seer = Seer { who: who.clone(), raw, rows, expected, next: 1 };
        while seer.hear(keys).await?["type"] != "ready" {}
        Ok(seer)
    }

    /// Takes one message in, and returns it.
    async fn hear(&mut self, keys: &Keys) -> Result<Value, String> {
        let heard = self.raw.hear().await;
        let message = heard.map_err(|ending| format!("{}: {ending:?}", self.who.name))?;
        for row in message["rows"].as_array().into_iter().flatten() {
            let table = message["table"].as_str().unwrap_or_default();
            self.rows.insert(key(keys, table, row)?, row.clone());
        }
        for change in message["changes"].as_array().into_iter().flatten() {
            let row = key(keys, change["table"].as_str().unwrap_or_default(), &change["row"])?;
            match change["op"] == "put" {
                true => self.rows.insert(row, change["row"].clone()),
                false => self.rows.remove(&row),
            };
        }
        match message["type"].as_str() {
            Some("subscription_error") => Err(format!("{}: {message}", self.who.name)),
            _ => Ok(message),
        }
    }

    /// Writes, and waits for what becomes of it: the code, if it is refused.
    async fn write(&mut self, ops: &[Value], keys: &Keys) -> Result<Option<String>, String> {
        let (id, mut refused) = (self.next, None);
        self.next += 1;
        self.raw.say(&json!({ "type": "mutate", "id": id, "ops": ops })).await;
        loop {
            let message = self.hear(keys).await?;
            if message["type"] == "reject" && message["id"] == id {
                refused = message["code"].as_str().map(str::to_owned);
            }
            if message["ack"].as_u64() >= Some(id) {
                return Ok(refused);
            }
        }
    }

    fn held(&self) -> BTreeSet<(String, String)> {
        self.rows.keys().filter(|(table, _)| table != "mark").cloned().collect()
    }

    /// Notes what is said to come, and what of it is told in full; returns that.
    fn expect(&mut self, rows: &[Row], keys: &Keys) -> Result<Vec<Value>, String> {
        let mut whole = Vec::new();
        for row in rows {
            let row = match &row.is {
                RowIs::Key(key) => (row.table.clone(), key.clone()),
                RowIs::Whole(value) => {
                    whole.push(value.clone());
                    key(keys, &row.table, value)?
                }
            };
            self.expected.insert(row);
        }
        Ok(whole)
    }
}

struct Kitchen<'a> {
    sql: Client,
    keys: Keys,
    seers: Vec<Seer>,
    recipe: &'a Recipe,
    marks: i32,
}

impl Kitchen<'_> {
    fn seer(&mut self, name: &str) -> Result<&mut Seer, String> {
        let found = self.seers.iter_mut().find(|seer| seer.who.name == name);
        found.ok_or_else(|| format!("{name} is not among who sees what"))
    }

    /// Fails unless everyone has what they should have, and nothing else.
    async fn look(&mut self, after: &str) -> Result<(), String> {
        self.marks += 1;
        let insert = format!("INSERT INTO mark VALUES ({})", self.marks);
        self.sql.batch_execute(&insert).await.map_err(|error| format!("{error:?}"))?;
        let mark = ("mark".to_owned(), self.marks.to_string());
        for seer in &mut self.seers {
            while !seer.rows.contains_key(&mark) {
                seer.hear(&self.keys).await?;
            }
            if seer.held() != seer.expected {
                let (name, held, expected) = (&seer.who.name, seer.held(), &seer.expected);
                return Err(format!("{after}: {name} has {held:?} and not {expected:?}"));
            }
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step, comes: &[Comes]) -> Result<(), String> {
        let keys = self.keys.clone();
        let after = format!("{step:?}");
        let mut refused = None;
        match step {
            Step::Sql(sql) => {
                let done = self.sql.batch_execute(sql).await;
                done.map_err(|error| format!("{sql}: {error:?}"))?;
            }
            Step::Writes(name, ops) => refused = self.seer(name)?.write(ops, &keys).await?,
            Step::Later => {}
        }
        let mut said = None;
        let mut whole = Vec::new();
        for comes in comes {
            match comes {
                Comes::Applied | Comes::Nothing => {}
                Comes::Refused(code) => said = Some(code.clone()),
                Comes::Gets(name, rows) => {
                    for value in self.seer(name)?.expect(rows, &keys)? {
                        whole.push((name, value));
                    }
                }
                Comes::Loses(name, rows) => {
                    for row in rows {
                        let RowIs::Key(key) = &row.is else { return Err("name its key".into()) };
                        let row = (row.table.clone(), key.clone());
                        if !self.seer(name)?.expected.remove(&row) {
                            return Err(format!("{after}: {name} cannot lose {row:?}"));
                        }
                    }
                }
            }
        }
        if refused != said {
            return Err(format!("{after}: refused with {refused:?}, and not {said:?}"));
        }
        if matches!(step, Step::Later) {
            // Whoever has to wait for something hears it; who does not has nothing to wait for.
            for seer in &mut self.seers {
                while seer.held() != seer.expected {
                    seer.hear(&keys).await?;
                }
            }
        }
        self.look(&after).await?;
        whole.iter().try_for_each(|(name, value)| self.sent_whole(name, value))
    }

    fn sent_whole(&mut self, name: &str, value: &Value) -> Result<(), String> {
        let rows = &self.seer(name)?.rows;
        let is_there = rows.values().any(|row| row == value);
        is_there.then_some(()).ok_or_else(|| format!("{name} is not sent {value}, but {rows:?}"))
    }

    async fn cook(&mut self, app: &App) -> Result<(), String> {
        let recipe = self.recipe;
        for (who, rows) in &recipe.clients {
            let mut seer = Seer::come(app, who, &self.keys).await?;
            let whole = seer.expect(rows, &self.keys)?;
            self.seers.push(seer);
            whole.iter().try_for_each(|value| self.sent_whole(&who.name, value))?;
        }
        self.look("as it begins").await?;
        for (step, comes) in &recipe.steps {
            self.step(step, comes).await?;
        }
        Ok(())
    }
}

/// Tries a recipe.
async fn cooked(recipe: &Recipe) -> Result<(), String> {
    let definition = format!("{}{}", recipe.definition, MARK.1);
    let parsed = Definition::parse("rowtide.toml", &definition);
    let parsed = parsed.map_err(|error| format!("{:?}", error.problems))?;
    let operator = Operator::new(&recipe.sql, &definition).await;
    if recipe.heading == DRAFTED {
        let drafted = operator.says(&["init", "--output", "-"]).await;
        succeeded(&drafted);
        // Comments name the database, and policies as its version of Postgres shows them.
        let rules = |text: &str| {
            let is_rule = |line: &&str| !line.is_empty() && !line.starts_with('#');
            text.lines().filter(is_rule).map(str::to_owned).collect::<Vec<_>>()
        };
        if rules(&drafted.out) != rules(&recipe.definition) {
            return Err(format!("`rowtide init` writes:\n{}", drafted.out));
        }
    }
    operator.database.run(MARK.0).await;
    succeeded(&operator.says(&["setup"]).await);
    let checked = operator.says(&["check"]).await;
    let notes: Vec<&str> =
        checked.out.lines().filter_map(|line| line.strip_prefix("note: ")).collect();
    let is_said = |note: &&str| recipe.notes.iter().any(|said| note.contains(said));
    let is_fine =
        checked.code() == Some(0) && notes.len() == recipe.notes.len() && notes.iter().all(is_said);
    is_fine.then_some(()).ok_or_else(|| format!("{}{}", checked.out, checked.err))?;
    let change = |options: &mut rowtide::server::ServerOptions| {
        options.gateway.auth.secret = Some(SECRET.to_owned());
    };
    let app = App::over(operator.database, &Arc::new(parsed), change).await;
    let sql = app.database.connect().await;
    let keys = keys(&sql).await;
    let mut kitchen = Kitchen { sql, keys, seers: Vec::new(), recipe, marks: 0 };
    kitchen.cook(&app).await
}

/// What is not as these recipes say, under their headings.
async fn wrong_of(recipes: Vec<Recipe>) -> Vec<String> {
    let mut rest = recipes.into_iter().peekable();
    let mut wrong = Vec::new();
    while rest.peek().is_some() {
        let tasks: Vec<_> = rest
            .by_ref()
            .take(AT_ONCE)
            .map(|recipe| {
                let heading = recipe.heading.clone();
                (heading, tokio::spawn(async move { cooked(&recipe).await }))
            })
            .collect();
        for (heading, task) in tasks {
            match task.await {
                Ok(Ok(())) => {}
                Ok(Err(what)) => wrong.push(format!("{heading}: {what}")),
                Err(panicked) => wrong.push(format!("{heading}: {panicked}")),
            }
        }
    }
    wrong
}

fn page() -> String {
    std::fs::read_to_string(PAGE).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recipe_of_the_page_is_as_it_says() {
    let mut recipes = recipes(&page()).unwrap_or_else(|wrong| panic!("{wrong}"));
    for name in NOT_YET.iter().chain(&[DRAFTED]) {
        assert!(recipes.iter().any(|of| of.heading == *name), "no recipe is called {name}");
    }
    recipes.retain(|of| !NOT_YET.contains(&&*of.heading));
    let wrong = wrong_of(recipes).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_fit_nothing_circles_and_scans_harm_nobody() {
    let recipes = recipes(BAD_INPUT).unwrap_or_else(|wrong| panic!("{wrong}"));
    let wrong = wrong_of(recipes).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The page is tried, and not only read: what is changed in it is found.
#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_that_is_wrong_is_found() {
    let page = page();
    let of_first = |page: &str| {
        let first = recipes(page).map(|mut recipes| recipes.remove(0));
        first.unwrap_or_else(|wrong| panic!("{wrong}"))
    };
    assert_eq!(of_first(&page).heading, "Rows of one's own");
    let mut changed = Vec::new();
    for (is, becomes, found) in [
        ("| `bob` | `note` 3 |", "| `bob` | `note` 2, 3 |", "as it begins: bob has"),
        ("`ann` gets `note` 4", "applied", "ann has"),
        (
            "| `bob` deletes `note` `{\"id\": 1}` | `not_found` |",
            "| `bob` deletes `note` `{\"id\": 1}` | applied |",
            "refused with Some(\"not_found\")",
        ),
        (
            "visible = 'owner = auth.user_id'\ninsert",
            "visible = 'true'\ninsert",
            "as it begins: ann has",
        ),
        ("CREATE INDEX ON note (owner);\n", "", "no index serves the anchor"),
        ("`ann` loses `note` 2;", "`ann` loses `note` 7;", "ann cannot lose"),
    ] {
        assert!(page.contains(is), "{is}");
        changed.push((of_first(&page.replacen(is, becomes, 1)), found));
    }
    let (changed, found): (Vec<_>, Vec<_>) = changed.into_iter().unzip();
    let wrong = wrong_of(changed).await;
    assert_eq!(wrong.len(), found.len(), "{wrong:#?}");
    for (wrong, found) in wrong.iter().zip(found) {
        assert!(wrong.contains(found), "no `{found}` in: {wrong}");
    }
    // What is left out, or said in other words, is told as well.
    for (is, becomes, found) in [
        ("| who | sees |", "| who | does not see |", "a table with the columns"),
        ("| `bob` | `note` 3 |", "| `bob` | notes |", "which rows?"),
        ("`ann` gets `note` 4", "`ann` is happy", "what comes of it?"),
        ("](#rows-of-ones-own)", "](#rows)", "no line of the overview"),
        ("### Teams\n", "### Teams\n\nSoon.\n\n### Rows in teams\n", "has no SQL"),
    ] {
        assert!(page.contains(is), "{is}");
        let wrong = recipes(&page.replacen(is, becomes, 1)).expect_err(becomes);
        assert!(wrong.contains(found), "no `{found}` in: {wrong}");
    }
}

#[test]
fn what_links_name_of_the_page_is_a_heading_of_it() {
    let page = page();
    let headings = page.lines().filter(|line| line.starts_with("##"));
    let anchors: BTreeSet<String> =
        headings.map(|line| anchor(line.trim_start_matches('#').trim_start())).collect();
    let mut links: Vec<(String, String)> = Vec::new();
    let mut named = |file: &str, text: &str, before: &str| {
        for link in text.split(before).skip(1) {
            let link = link.split(')').next().unwrap_or_default();
            links.push((file.to_owned(), link.to_owned()));
        }
    };
    named("definition.md", &page, "](#");
    let docs = std::path::Path::new(PAGE).parent().expect("it is in a directory");
    for file in docs.read_dir().unwrap().flatten() {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        named(&file.file_name().to_string_lossy(), &text, "](definition.md#");
    }
    links.retain(|(_, link)| !anchors.contains(link));
    assert!(links.is_empty(), "{links:?}");
}
