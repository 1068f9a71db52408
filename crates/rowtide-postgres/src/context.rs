//! What the context of an error says of where Postgres was: in which function, at which parameter. Its lines are in
//! the language of the server, from the innermost to the outermost, and a line that quotes a statement may hold values of
//! rows: what a function puts together when it runs is quoted as it was run. So nothing is taken from such a line.

/// The number of the parameter that a context names: `unnamed portal parameter $2`, with or without the value behind it.
/// A dollar of another context stands in a statement or in a function.
pub(crate) fn parameter(context: &str) -> Option<usize> {
    let (_, rest) = context.split_once('$')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let behind = &rest[digits..];
    let is_last = behind.is_empty() || behind.starts_with(" = ");
    rest[..digits].parse().ok().filter(|_| is_last)
}

/// The line of the innermost function: `PL/pgSQL function stamp() line 3 at assignment`. It holds no value.
pub(crate) fn place(context: &str) -> Option<&str> {
    context.lines().find(|line| named(line).is_some())
}

/// The innermost function: with the types of its arguments, in parentheses, where its language tells them.
pub(crate) fn function(context: &str) -> Option<String> {
    context.lines().find_map(named)
}

/// The function that a line names behind the `PL/` of its language. Before that there are words alone, and so there are up to the
/// name: where there is anything else, such as a quote in whatever form, the line quotes a statement or an expression.
fn named(line: &str) -> Option<String> {
    let are_words = |text: &str| text.chars().all(|c| c.is_alphabetic() || matches!(c, ' ' | '-'));
    let (before, rest) = line.split_once("PL/").filter(|(before, _)| are_words(before))?;
    if let Some((head, arguments)) = rest.split_once('(') {
        let plain = head.split('"').next().unwrap_or_default();
        let (words, _) = head.split_at(plain.rfind(' ').map_or(0, |at| at + 1));
        let name = &head[words.len()..];
        let begins = name.starts_with(|c: char| c.is_alphabetic() || matches!(c, '_' | '"'));
        let is_name = are_words(words) && begins && name.matches('"').count() % 2 == 0;
        return is_name.then_some(format!("{name}({}", arguments.split_inclusive(')').next()?));
    }
    // `PL/Python function "stamp"`, and `compilation of PL/pgSQL function "stamp" near line 3`.
    let is_function = !rest.starts_with("pgSQL") || !before.is_empty();
    let name = rest.split('"').nth(1).filter(|_| is_function)?;
    Some(name.to_owned())
}

/// Whether a statement stands in the source of a function, word for word. What PL/pgSQL takes out of one it leaves blank
/// (`INTO` and what follows it), and `PERFORM` is a `SELECT` to Postgres.
pub(crate) fn stands_in(statement: &str, source: &str) -> bool {
    let statement = statement.trim();
    let expression = statement.strip_prefix("SELECT ").unwrap_or(statement);
    [statement, expression].iter().any(|statement| {
        let mut rest = source;
        statement.split("  ").map(str::trim).filter(|part| !part.is_empty()).all(|part| {
            let behind = rest.find(part).map(|at| &rest[at + part.len()..]);
            rest = behind.unwrap_or_default();
            behind.is_some()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_is_read_from_the_context() {
        for (place, number) in [
            ("unnamed portal parameter $2", Some(2)),
            ("unnamed portal parameter $12 = '$5'", Some(12)),
            ("unbenannter Portal-Parameter $3", Some(3)),
            ("SQL statement \"UPDATE item SET n = $1\"", None),
            ("PL/pgSQL function a$1() line 3 at assignment", None),
            ("JSON data, line 1: {", None),
            ("costs $", None),
        ] {
            assert_eq!(parameter(place), number, "{place}");
        }
    }

    #[test]
    fn the_function_is_read_from_the_context_and_never_from_a_statement() {
        let within = "SQL statement \"UPDATE t SET n = 1\"\nPL/pgSQL function app.stamp(integer,text) line 3 at SQL statement";
        let put_together = "SQL statement \"SELECT nextval('a value')\"\nPL/pgSQL function stamp() line 3 at EXECUTE";
        let quoted = "SQL-Anweisung »SELECT f('PL/pgSQL function f(1)')«\nPL/pgSQL-Funktion stamp() Zeile 3 bei EXECUTE";
        for (place, name) in [
            ("PL/pgSQL function stamp() line 3 at assignment", Some("stamp()")),
            ("PL/pgSQL-Funktion stamp() Zeile 3 bei Zuweisung", Some("stamp()")),
            ("fonction PL/pgSQL stamp(), ligne 3, à affectation", Some("stamp()")),
            (within, Some("app.stamp(integer,text)")),
            (put_together, Some("stamp()")),
            (quoted, Some("stamp()")),
            ("Traceback\nPL/Python function \"stamp\"", Some("stamp")),
            (
                "PL/pgSQL function app.\"Odd one\"(integer) line 3 at IF",
                Some("app.\"Odd one\"(integer)"),
            ),
            ("compilation of PL/pgSQL function \"stamp\" near line 3", Some("stamp")),
            ("PL/pgSQL assignment \"NEW.a = 1\"", None),
            (
                "PL/pgSQL assignment \"NEW.a = f(1)\"\nPL/pgSQL function stamp() line 3 at assignment",
                Some("stamp()"),
            ),
            ("PL/pgSQL-Zuweisung »f(1)«", None),
            ("affectation PL/pgSQL « a := f(1) »", None),
            ("SQL statement \"SELECT f(1)\"", None),
            ("unnamed portal parameter $2", None),
        ] {
            assert_eq!(function(place).as_deref(), name, "{place}");
        }
        assert_eq!(place(put_together), Some("PL/pgSQL function stamp() line 3 at EXECUTE"));
    }

    #[test]
    fn a_statement_is_told_apart_from_what_was_put_together() {
        let source = "BEGIN\n  PERFORM no_function(1);\n  SELECT a INTO STRICT b FROM c;\n  NEW.x := no(2);\n  \
                      EXECUTE 'SELEC ' || NEW.body;\nEND";
        for (statement, stands) in [
            ("SELECT no_function(1)", true),
            ("SELECT a               FROM c", true),
            ("NEW.x := no(2)", true),
            ("SELECT no(2)", true),
            ("SELEC value", false),
            ("SELECT a  value  FROM c", false),
        ] {
            assert_eq!(stands_in(statement, source), stands, "{statement}");
        }
    }
}
