//! What `rowtide watch` asks for, as it is typed: each `--query` with the `--param`s behind it. A terminal gives texts, and the
//! server alone knows of which type a parameter is; so what is not plainly JSON is sent as text, which
//! the server reads as the type that it has.

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use miette::{Result, miette};
use rowtide_client::{Client, RefusedSubscription, Row};
use serde_json::Value;

use crate::said::said;

/// The queries of a command line, in its order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct WatchedQueries(Vec<WatchedQuery>);

#[derive(Clone, Debug, PartialEq)]
struct WatchedQuery {
    name: String,
    params: Row,
}

/// Subscriptions that were made: the names of their queries, by the ids of a client that counts from 1.
pub(crate) struct WatchedSubscriptions(Vec<(u64, String)>);

impl WatchedQueries {
    /// Asks a client for all of them.
    ///
    /// # Errors
    /// When one cannot be sent.
    pub(crate) fn subscribe(self, client: &Client) -> Result<WatchedSubscriptions> {
        let made = self.0.into_iter().map(|WatchedQuery { name, params }| {
            Ok((client.subscribe(&name, params).map_err(said)?, name))
        });
        Ok(WatchedSubscriptions(made.collect::<Result<_>>()?))
    }
}

impl WatchedSubscriptions {
    /// The query of a subscription.
    pub(crate) fn query(&self, id: u64) -> &str {
        self.0.iter().find(|(of, _)| *of == id).map_or("", |(_, name)| name)
    }

    /// What is said of one that the server does not take.
    pub(crate) fn refusal(&self, refused: &RefusedSubscription) -> miette::Report {
        let RefusedSubscription { id, code, message } = refused;
        let query = self.query(*id);
        match code.as_str() {
            "bad_request" => miette!(
                help = "`[queries]` of the definition says what there is; `rowtide explain` lists it with its parameters",
                "the server refuses the query `{query}`: {message}"
            ),
            _ => miette!("the server refuses the query `{query}`: {message} ({code})"),
        }
    }
}

/// A value as it is typed: JSON where that is a word, a list or a text of JSON, and otherwise text. A number is sent as text,
/// since it may be one of a parameter that is text.
fn value(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(Value::Number(_)) | Err(_) => Value::from(text),
        Ok(json) => json,
    }
}

fn bad(command: &mut Command, kind: ErrorKind, what: &str) -> clap::Error {
    command.error(kind, what)
}

impl Args for WatchedQueries {
    fn augment_args(command: Command) -> Command {
        let query = Arg::new("query")
            .long("query")
            .value_name("NAME")
            .action(ArgAction::Append)
            .help("Subscribe to a query of the definition; with several, each takes the --param behind it");
        let param = Arg::new("param")
            .long("param")
            .value_name("NAME=VALUE")
            .action(ArgAction::Append)
            .requires("query")
            .help(
                "A parameter of the query; VALUE is text, or true, false, null or a list as JSON",
            );
        command.arg(query).arg(param)
    }

    fn augment_args_for_update(command: Command) -> Command {
        WatchedQueries::augment_args(command)
    }
}

impl FromArgMatches for WatchedQueries {
    fn from_arg_matches(matches: &ArgMatches) -> Result<WatchedQueries, clap::Error> {
        let placed = |name: &str| -> Vec<(usize, String)> {
            let values = matches.get_many::<String>(name).into_iter().flatten().cloned();
            matches.indices_of(name).into_iter().flatten().zip(values).collect()
        };
        let mut command = Command::new("rowtide watch");
        let mut params = placed("param").into_iter().peekable();
        let mut queries = Vec::new();
        let mut starts = placed("query").into_iter().peekable();
        while let Some((at, name)) = starts.next() {
            let end = starts.peek().map_or(usize::MAX, |(next, _)| *next);
            let mut query = WatchedQuery { name, params: Row::new() };
            while let Some((place, text)) = params.next_if(|(place, _)| *place < end) {
                if place < at {
                    let what = format!("--param {text} stands before the --query that it is of");
                    return Err(bad(&mut command, ErrorKind::ArgumentConflict, &what));
                }
                let Some((param, written)) = text.split_once('=') else {
                    let what = format!("--param {text} is not NAME=VALUE");
                    return Err(bad(&mut command, ErrorKind::ValueValidation, &what));
                };
                if query.params.insert(param.to_owned(), value(written)).is_some() {
                    let name = &query.name;
                    let what = format!("--param {param} is there twice for the query `{name}`");
                    return Err(bad(&mut command, ErrorKind::ArgumentConflict, &what));
                }
            }
            queries.push(query);
        }
        Ok(WatchedQueries(queries))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = WatchedQueries::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(args: &[&str]) -> Result<WatchedQueries, String> {
        let command = WatchedQueries::augment_args(Command::new("watch"));
        let matches = command.try_get_matches_from([&["watch"], args].concat());
        let read = matches.and_then(|matches| WatchedQueries::from_arg_matches(&matches));
        read.map_err(|error| error.to_string())
    }

    fn query(name: &str, params: Value) -> WatchedQuery {
        let Value::Object(params) = params else { panic!("an object") };
        WatchedQuery { name: name.to_owned(), params }
    }

    #[test]
    fn each_query_takes_the_parameters_behind_it() {
        let args = ["--query", "a", "--param", "x=1", "--query=b", "--query", "a", "--param=y=p=q"];
        let expected = [
            query("a", json!({ "x": "1" })),
            query("b", json!({})),
            query("a", json!({ "y": "p=q" })),
        ];
        assert_eq!(read(&args).unwrap().0, expected);
        assert_eq!(read(&[]).unwrap(), WatchedQueries::default());
    }

    #[test]
    fn a_value_is_text_or_what_is_plainly_json() {
        for (text, expected) in [
            ("5", json!("5")),
            ("plain text", json!("plain text")),
            ("", json!("")),
            ("true", json!(true)),
            ("null", json!(null)),
            ("\"true\"", json!("true")),
            ("[1, 2]", json!([1, 2])),
            ("[1, 2", json!("[1, 2")),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (args, says) in [
            (&["--query", "a", "--param", "x"][..], "--param x is not NAME=VALUE"),
            (&["--param", "x=1"], "--query"),
            (&["--param", "x=1", "--query", "a"], "stands before"),
            (&["--query", "a", "--param", "x=1", "--param", "x=2"], "twice"),
        ] {
            let error = read(args).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
