//! Statements with their values. Every value travels as text, which Postgres reads as the type that the statement
//! says.

use std::error::Error as StdError;

use bytes::BytesMut;
use rowtide_plan::claims::claim_text;
use rowtide_plan::write::{Call, Param, Write};
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

use super::Author;
use super::statements::ReadyStatement;

/// A parameter of any type as text, which Postgres reads.
#[derive(Debug)]
pub(super) struct Text(pub(super) Option<String>);

impl ToSql for Text {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        Ok(match &self.0 {
            None => IsNull::Yes,
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                IsNull::No
            }
        })
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    tokio_postgres::types::to_sql_checked!();
}

/// A statement with its values, to send.
pub(super) struct BoundStatement {
    pub(super) ready: ReadyStatement,
    pub(super) values: Vec<Text>,
}

/// The statement with a write's values and its author's claims.
pub(super) fn bind(ready: ReadyStatement, write: &Write, author: &Author) -> BoundStatement {
    bound(ready, |column| write.value(column), author)
}

/// The statement with a call's values and its author's claims.
pub(super) fn bind_call(ready: ReadyStatement, call: &Call, author: &Author) -> BoundStatement {
    bound(ready, |param| call.value(param), author)
}

fn bound<'a>(
    ready: ReadyStatement,
    value: impl Fn(usize) -> Option<&'a str>,
    author: &Author,
) -> BoundStatement {
    let value = |param: &Param| {
        Text(match param {
            Param::Value(at) => value(*at).map(str::to_owned),
            Param::Claim(claim, kind) => claim_text(claim, kind, &author.user_id, &author.claims),
        })
    };
    let values = ready.params.iter().map(value).collect();
    BoundStatement { ready, values }
}
