//! Columns that look like secrets, by their names, and that clients are sent because nobody has said otherwise. Who names a
//! column in `columns` has decided that it is sent, so there nothing is said.

use crate::check::Problem;
use crate::definition::{Definition, SentColumns, TableDefinition, toml_key, toml_string};
use crate::plan::{Plan, Table};
use crate::sql::{quote_identifier, quote_table};
use crate::value::ColumnType;

/// Tells of each table whose rows are sent with what looks like a secret.
pub fn sent_secrets(definition: &Definition, plan: &Plan) -> Vec<Problem> {
    let of_entry = |entry: &TableDefinition| {
        let (SentColumns::All | SentColumns::AllBut(_)) = &entry.sent else { return None };
        let is = |table: &&Table| table.published && table.name == entry.wire_name;
        told(plan.tables.iter().find(is)?)
    };
    definition.tables.iter().filter_map(of_entry).collect()
}

fn told(table: &Table) -> Option<Problem> {
    let is_key = |column: &usize| table.key.contains(column);
    let found = table
        .sent_columns()
        .filter(|(at, column)| !is_key(at) && is_secret(&column.name, &column.kind));
    let found: Vec<usize> = found.map(|(column, _)| column).collect();
    let names = |columns: &[usize], quoted: fn(&str) -> String| {
        let name = |column: &usize| quoted(&table.catalog.columns[*column].name);
        columns.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    let looks = match found.len() {
        0 => return None,
        1 => format!("column {} looks like a secret", names(&found, quote_identifier)),
        _ => format!("columns {} look like secrets", names(&found, quote_identifier)),
    };
    let quoted = quote_table(&table.catalog.schema, &table.catalog.name);
    let what = format!("{looks}, and whoever sees a row of {quoted} gets it");
    let mut hidden = [&table.hidden[..], &found].concat();
    hidden.sort_unstable();
    let hidden = names(&hidden, toml_string);
    let header = toml_key(&table.name);
    let repair =
        format!("hidden = [{hidden}] in [tables.{header}]; or name in `columns` what clients get");
    Some(Problem { what, repair: Some(repair), fatal: false })
}

/// A word of a name that says so by itself.
const SECRET_WORDS: [&str; 19] = [
    "password",
    "passwords",
    "passwd",
    "passphrase",
    "pwd",
    "pw",
    "secret",
    "secrets",
    "salt",
    "otp",
    "totp",
    "mfa",
    "cvv",
    "cvc",
    "ssn",
    "credential",
    "credentials",
    "encrypted",
    "apikey",
];
/// What makes a secret of the word `key` behind it.
const SECRET_KEYS: [&str; 7] =
    ["api", "private", "access", "signing", "encryption", "session", "recovery"];
/// The last word of what is said about a secret.
const ABOUT: [&str; 23] = [
    "at",
    "on",
    "date",
    "count",
    "counts",
    "enabled",
    "required",
    "set",
    "verified",
    "expires",
    "expiry",
    "expiration",
    "type",
    "kind",
    "policy",
    "length",
    "limit",
    "used",
    "usage",
    "attempts",
    "version",
    "name",
    "label",
];
/// The first word of what is said about one.
const ASKING: [&str; 6] = ["has", "is", "needs", "requires", "must", "can"];

/// Whether a column holds a secret, to judge by its name and what it can hold.
fn is_secret(name: &str, kind: &ColumnType) -> bool {
    let can_hold = match kind {
        ColumnType::Bool
        | ColumnType::TimestampTz
        | ColumnType::Timestamp
        | ColumnType::Date
        | ColumnType::Time
        | ColumnType::Enum => false,
        // A number of them, as a rule; of a token of digits it is not known.
        ColumnType::Int | ColumnType::Float4 | ColumnType::Float8 | ColumnType::Numeric => {
            return matches!(words(name).join(" ").as_str(), "ssn" | "otp" | "cvv" | "cvc");
        }
        _ => true,
    };
    let words = words(name);
    let (Some(first), Some(last)) = (words.first(), words.last()) else { return false };
    if !can_hold || ABOUT.contains(&last.as_str()) || ASKING.contains(&first.as_str()) {
        return false;
    }
    let is_token = |word: &String| matches!(word.as_str(), "token" | "tokens" | "session");
    let pair = |pair: &[String]| pair[1] == "key" && SECRET_KEYS.contains(&pair[0].as_str());
    let of_token = |pair: &[String]| {
        is_token(&pair[0]) && matches!(pair[1].as_str(), "hash" | "digest" | "value" | "data")
    };
    words.iter().any(|word| SECRET_WORDS.contains(&word.as_str()))
        || is_token(last)
        || words.windows(2).any(|two| pair(two) || of_token(two))
}

/// The words of a name, in lower case: `passwordHash` and `password_hash` have the same.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before_is_lower = false;
    for character in name.chars() {
        let begins = character.is_uppercase() && before_is_lower;
        if begins || !character.is_alphanumeric() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| character.is_alphanumeric()) {
            word.extend(character.to_lowercase());
        }
        before_is_lower = character.is_lowercase() || character.is_numeric();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(name: &str, kind: ColumnType) -> bool {
        is_secret(name, &kind)
    }

    #[test]
    fn what_looks_like_a_secret_is_told_from_what_is_said_about_one() {
        for name in [
            "password",
            "password_hash",
            "passwordHash",
            "hashed_password",
            "passwd",
            "client_secret",
            "secret",
            "token",
            "access_token",
            "resetToken",
            "token_hash",
            "api_key",
            "apiKey",
            "API_KEY",
            "apikey",
            "private_key",
            "otp",
            "totp_secret",
            "mfa_recovery",
            "salt",
            "encrypted_password",
            "session",
            "session_token",
            "ssn",
        ] {
            assert!(looks(name, ColumnType::Text), "{name}");
            assert!(!looks(name, ColumnType::TimestampTz), "{name}, as a time");
        }
        for name in [
            "id",
            "name",
            "token_count",
            "token_type",
            "password_changed_at",
            "has_password",
            "mfa_enabled",
            "session_id",
            "public_key",
            "key",
            "passenger",
            "tokenizer",
            "salted",
            "secretary",
            "assault",
            "otpauth_name",
            "password_policy",
            "",
        ] {
            assert!(!looks(name, ColumnType::Text), "{name}");
        }
        assert!(!looks("tokens", ColumnType::Int) && !looks("secret", ColumnType::Bool));
        assert!(looks("ssn", ColumnType::Int) && looks("token", ColumnType::Uuid));
    }
}
