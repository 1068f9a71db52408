//! The statements of a file of SQL, each with its line, as `psql` finds them: a semicolon ends one, unless it stands
//! in quotes, in a comment, in parentheses or in the body of a function. Of files that have the way back in
//! them, too (dbmate, goose, sql-migrate, node-pg-migrate, tern), only the way there is taken. Pure.

/// A statement of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Statement<'a> {
    /// Without the semicolon.
    pub(super) text: &'a str,
    /// Where it begins, from 1.
    pub(super) line: usize,
}

/// What a file is, for whoever applies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// The file, with what is not to be applied left blank, so that lines stay where they are.
    pub(super) sql: String,
    /// The file says that it must not be one transaction.
    pub(super) no_transaction: bool,
}

/// Takes the way there of a file.
pub(super) fn parts(file: &str) -> Parts {
    let file = file.strip_prefix('\u{feff}').unwrap_or(file);
    let mark = |line: &str| {
        let words: Vec<String> =
            line.trim().trim_start_matches('-').split_whitespace().map(str::to_lowercase).collect();
        if !line.trim_start().starts_with("--") {
            return Mark::None;
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["migrate:up", options @ ..] => Mark::Up(options.contains(&"transaction:false")),
            ["+migrate", "up", options @ ..] => Mark::Up(options.contains(&"notransaction")),
            ["+goose", "up", ..] | ["up", "migration"] => Mark::Up(false),
            ["migrate:down" | "+goose" | "+migrate", ..]
                if words[0] == "migrate:down" || words.get(1) == Some(&"down") =>
            {
                Mark::Down
            }
            ["down", "migration"] | ["create", "above", "/", "drop", "below", ..] => Mark::Down,
            ["+goose", "no", "transaction"] | ["no-transaction"] => Mark::NoTransaction,
            _ => Mark::None,
        }
    };
    let mut up = !file.lines().any(|line| matches!(mark(line), Mark::Up(_)));
    let mut parts = Parts { sql: String::with_capacity(file.len()), no_transaction: false };
    for line in file.split_inclusive('\n') {
        match mark(line) {
            Mark::Up(no_transaction) => {
                up = true;
                parts.no_transaction |= no_transaction;
            }
            Mark::Down => up = false,
            Mark::NoTransaction => parts.no_transaction = true,
            Mark::None => {}
        }
        parts.sql.push_str(if up {
            line
        } else if line.ends_with('\n') {
            "\n"
        } else {
            ""
        });
    }
    parts
}

enum Mark {
    None,
    Up(bool),
    Down,
    NoTransaction,
}

/// The statements of a text. A line that begins with a backslash, as a command of `psql` does, is one.
pub(super) fn statements(sql: &str) -> Vec<Statement<'_>> {
    let mut found = Vec::new();
    let mut scan = Scan { sql, at: 0 };
    let mut start = None;
    // Open parentheses; and open `BEGIN` and `CASE` in the body of a function that is not quoted.
    let (mut parentheses, mut blocks) = (0_usize, 0_usize);
    let mut words: Vec<String> = Vec::new();
    let mut end_of = |start: &mut Option<usize>, end: usize| {
        if let Some(start) = start.take() {
            let line = 1 + sql[..start].matches('\n').count();
            found.push(Statement { text: sql[start..end].trim_end(), line });
        }
    };
    while let Some(c) = scan.peek() {
        let at = scan.at;
        if scan.skip_blank() {
            continue;
        }
        if c == '\\' && start.is_none() {
            scan.skip_line();
            start = Some(at);
            end_of(&mut start, scan.at);
            continue;
        }
        if c == ';' && parentheses == 0 && blocks == 0 {
            end_of(&mut start, at);
            (scan.at, words) = (at + 1, Vec::new());
            continue;
        }
        start.get_or_insert(at);
        match c {
            '(' => parentheses += 1,
            ')' => parentheses = parentheses.saturating_sub(1),
            _ => {}
        }
        let Some(word) = scan.skip_token() else { continue };
        let word = word.to_ascii_uppercase();
        // `CREATE [OR REPLACE] FUNCTION`
        if words.len() < 4 {
            words.push(word.clone());
        }
        let body = words.first().is_some_and(|first| first == "CREATE")
            && words.iter().any(|word| word == "FUNCTION" || word == "PROCEDURE");
        if body && parentheses == 0 {
            match word.as_str() {
                "BEGIN" => blocks += 1,
                "CASE" if blocks > 0 => blocks += 1,
                "END" => blocks = blocks.saturating_sub(1),
                _ => {}
            }
        }
    }
    end_of(&mut start, sql.len());
    found
}

struct Scan<'a> {
    sql: &'a str,
    at: usize,
}

impl Scan<'_> {
    fn rest(&self) -> &str {
        &self.sql[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// To behind what `end` is found before; to the end of the text if it is not.
    fn skip_to(&mut self, end: &str) {
        self.at = self.rest().find(end).map_or(self.sql.len(), |found| self.at + found + end.len());
    }

    fn skip_line(&mut self) {
        self.at = self.rest().find('\n').map_or(self.sql.len(), |found| self.at + found);
    }

    /// Skips white space, or a comment.
    fn skip_blank(&mut self) -> bool {
        let rest = self.rest();
        if rest.starts_with("--") {
            self.skip_line();
            return true;
        }
        if rest.starts_with("/*") {
            let mut depth = 0_usize;
            while self.at < self.sql.len() {
                let rest = self.rest();
                if rest.starts_with("/*") {
                    (depth, self.at) = (depth + 1, self.at + 2);
                } else if rest.starts_with("*/") {
                    (depth, self.at) = (depth.saturating_sub(1), self.at + 2);
                } else {
                    self.at += self.peek().map_or(1, char::len_utf8);
                }
                if depth == 0 {
                    break;
                }
            }
            return true;
        }
        match self.peek() {
            Some(c) if c.is_whitespace() => {
                self.at += c.len_utf8();
                true
            }
            _ => false,
        }
    }

    /// Skips what belongs together, and returns it if it is a word.
    fn skip_token(&mut self) -> Option<&str> {
        let start = self.at;
        let c = self.peek()?;
        match c {
            '\'' => self.skip_string(false),
            '"' => {
                self.at += 1;
                self.skip_to("\"");
            }
            '$' => match dollar_tag(self.rest()).map(str::to_owned) {
                Some(tag) => {
                    self.at += tag.len();
                    self.skip_to(&tag);
                }
                None => self.at += 1,
            },
            c if is_word(c) => {
                let rest = self.rest();
                self.at += rest.find(|c| !is_word(c) && c != '$').unwrap_or(rest.len());
                let word = &self.sql[start..self.at];
                if word.eq_ignore_ascii_case("e") && self.rest().starts_with('\'') {
                    self.skip_string(true);
                    return None;
                }
                return Some(&self.sql[start..self.at]);
            }
            c => self.at += c.len_utf8(),
        }
        None
    }

    /// Two quotes in it are two strings, which comes to the same.
    fn skip_string(&mut self, escapes: bool) {
        self.at += 1;
        let mut escaped = false;
        while let Some(c) = self.peek() {
            self.at += c.len_utf8();
            match c {
                _ if escaped => escaped = false,
                '\\' if escapes => escaped = true,
                '\'' => {
                    // An escape string goes on as one behind two quotes.
                    if escapes && self.rest().starts_with('\'') {
                        self.at += 1;
                        continue;
                    }
                    return;
                }
                _ => {}
            }
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The `$tag$` that a text begins with.
fn dollar_tag(text: &str) -> Option<&str> {
    let inner = text.get(1..)?;
    let end = inner.find('$')?;
    let tag = &inner[..end];
    let good = tag.chars().all(is_word) && !tag.starts_with(|c: char| c.is_ascii_digit());
    good.then(|| &text[..end + 2])
}

/// The beginning or the end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Begin,
    Commit,
    RollBack,
}

impl Statement<'_> {
    fn words(&self) -> Vec<String> {
        let words = self.text.split(|c: char| !is_word(c)).filter(|word| !word.is_empty());
        words.take(12).map(str::to_ascii_uppercase).collect()
    }

    /// It cannot be part of a transaction.
    pub(super) fn is_alone(&self) -> bool {
        let words = self.words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let concurrently = words.contains(&"CONCURRENTLY");
        match words.as_slice() {
            ["CREATE", "INDEX", ..] | ["CREATE", "UNIQUE", "INDEX", ..] => concurrently,
            ["DROP", "INDEX", ..] | ["REINDEX", ..] => concurrently,
            ["ALTER", "TABLE", ..] => concurrently && words.contains(&"DETACH"),
            ["VACUUM", ..] | ["ALTER", "SYSTEM", ..] => true,
            ["CREATE" | "DROP", "DATABASE" | "TABLESPACE", ..] => true,
            ["CREATE" | "DROP" | "ALTER", "SUBSCRIPTION", ..] => true,
            _ => false,
        }
    }

    /// How it begins or ends a transaction, if it does.
    pub(super) fn transaction(&self) -> Option<Bound> {
        let words = self.words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["BEGIN", ..] | ["START", "TRANSACTION", ..] => Some(Bound::Begin),
            ["COMMIT" | "END", ..] => Some(Bound::Commit),
            ["ROLLBACK" | "ABORT", rest @ ..] if !rest.contains(&"TO") => Some(Bound::RollBack),
            _ => None,
        }
    }

    /// It is a command of `psql`.
    pub(super) fn is_of_psql(&self) -> bool {
        self.text.starts_with('\\')
    }

    /// It wants the lines behind it.
    pub(super) fn copies_from_input(&self) -> bool {
        let words = self.words();
        words.first().is_some_and(|first| first == "COPY")
            && words.windows(2).any(|pair| pair[0] == "FROM" && pair[1] == "STDIN")
    }

    /// The line of a character in it, which Postgres counts from 1.
    pub(super) fn line_of(&self, position: Option<usize>) -> usize {
        let before = self.text.chars().take(position.map_or(0, |position| position - 1));
        self.line + before.filter(|c| *c == '\n').count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(sql: &str) -> Vec<(&str, usize)> {
        statements(sql).into_iter().map(|statement| (statement.text, statement.line)).collect()
    }

    #[test]
    fn a_semicolon_ends_a_statement_where_it_is_one() {
        for (sql, wanted) in [
            ("a; b ;\n\nc", &[("a", 1), ("b", 1), ("c", 3)][..]),
            ("-- x;\n/* y; /* z; */ ; */ a;;\n;-- b;", &[("a", 2)]),
            ("a ';' \";\" 'it''s;' b", &[("a ';' \";\" 'it''s;' b", 1)]),
            ("a E'\\';' ; b", &[("a E'\\';'", 1), ("b", 1)]),
            ("a '\\'; b", &[("a '\\'", 1), ("b", 1)]),
            (
                "a $$;$$; b $x$ ; $$ ; $x$; c$1; d",
                &[("a $$;$$", 1), ("b $x$ ; $$ ; $x$", 1), ("c$1", 1), ("d", 1)],
            ),
            (
                "CREATE RULE r AS ON INSERT TO t DO (a; b); c",
                &[("CREATE RULE r AS ON INSERT TO t DO (a; b)", 1), ("c", 1)],
            ),
            (
                "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; c",
                &[
                    (
                        "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
                        1,
                    ),
                    ("c", 1),
                ],
            ),
            ("BEGIN; a; END; b", &[("BEGIN", 1), ("a", 1), ("END", 1), ("b", 1)]),
            ("\\restrict x;y\na;\n\\q", &[("\\restrict x;y", 1), ("a", 2), ("\\q", 3)]),
            ("ä 'ö;ü'; ß", &[("ä 'ö;ü'", 1), ("ß", 1)]),
            ("a 'not ended;", &[("a 'not ended;", 1)]),
            ("", &[]),
        ] {
            assert_eq!(texts(sql), wanted, "{sql}");
        }
    }

    #[test]
    fn only_the_way_there_is_taken_and_lines_stay() {
        for (file, wanted, no_transaction) in [
            ("-- migrate:up\na;\n-- migrate:down\nb;\n", &[("a", 2)][..], false),
            ("-- migrate:up transaction:false\na;\n-- migrate:down\nb;", &[("a", 2)], true),
            ("-- +goose Up\na;\n-- +goose Down\nb;", &[("a", 2)], false),
            ("-- +goose NO TRANSACTION\n-- +goose Up\na", &[("a", 3)], true),
            ("x;\n-- +migrate Up\na;\n-- +migrate Down\nb;", &[("a", 3)], false),
            ("-- Up Migration\na;\n-- Down Migration\nb;", &[("a", 2)], false),
            ("a;\n---- create above / drop below ----\nb;", &[("a", 1)], false),
            ("-- no-transaction\na", &[("a", 2)], true),
            ("\u{feff}a; -- upwards\nb", &[("a", 1), ("b", 2)], false),
        ] {
            let parts = parts(file);
            assert_eq!(
                (texts(&parts.sql).as_slice(), parts.no_transaction),
                (wanted, no_transaction),
                "{file}"
            );
        }
    }

    #[test]
    fn what_must_stand_alone_is_known() {
        let is = |sql: &str| statements(sql)[0].is_alone();
        for sql in [
            "CREATE INDEX CONCURRENTLY ON t (a)",
            "create unique index concurrently if not exists i on t (a)",
            "DROP INDEX CONCURRENTLY i",
            "REINDEX TABLE CONCURRENTLY t",
            "VACUUM t",
            "ALTER SYSTEM SET a = 1",
            "ALTER TABLE t DETACH PARTITION p CONCURRENTLY",
        ] {
            assert!(is(sql), "{sql}");
        }
        for sql in
            ["CREATE INDEX ON t (a)", "SELECT 'VACUUM'", "REFRESH MATERIALIZED VIEW CONCURRENTLY v"]
        {
            assert!(!is(sql), "{sql}");
        }
        let bound = |sql: &str| statements(sql)[0].transaction();
        assert_eq!(
            (bound("BEGIN"), bound("start transaction")),
            (Some(Bound::Begin), Some(Bound::Begin))
        );
        assert_eq!((bound("ROLLBACK TO a"), bound("end")), (None, Some(Bound::Commit)));
        assert!(statements("COPY t (a) FROM stdin WITH CSV")[0].copies_from_input());
    }

    proptest! {
        /// Whatever the text is, statements are parts of it, in order.
        #[test]
        fn any_text_is_split(text in "[a-cE;'\"$()\\\\/*\\-\n ]{0,60}") {
            let mut from = 0;
            for statement in statements(&text) {
                let at = text[from..].find(statement.text);
                prop_assert!(at.is_some() && !statement.text.trim().is_empty());
                from += at.unwrap_or(0) + statement.text.len();
            }
        }
    }
}
