//! Whether the rules of documents can be asked, and what their rows are told be written: Postgres looks at the rights of a
//! statement as it begins to carry it out, so each is explained as the role that it will come from.

use rowtide_plan::check::Problem;
use rowtide_plan::document_sql::{publish_error_sql, standing_query, touch_sql};
use rowtide_plan::plan::Plan;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::check::{current_role, fatal};
use crate::connect::reason;
use crate::rights::explain;

/// What the role that asks may not do, of what the rules of documents need.
///
/// # Errors
/// When Postgres does not answer.
pub(crate) async fn unanswerable(
    client: &Client,
    plan: &Plan,
) -> Result<Vec<Problem>, tokio_postgres::Error> {
    let mut problems = Vec::new();
    for kind in &plan.documents {
        // Of nobody Postgres would leave out what it does not need.
        let query = standing_query(plan, kind, |_| "ARRAY['']::text[]".to_owned());
        let Err(error) = client.batch_execute(&format!("EXPLAIN {}", query.sql)).await else {
            continue;
        };
        let Some(code) = error.code() else { return Err(error) };
        let what =
            format!("the rules of documents.{} cannot be judged: {}", kind.name, reason(&error));
        let repair = match *code {
            SqlState::INSUFFICIENT_PRIVILEGE => {
                "grant the server's role that; what rules read needs SELECT, what they call EXECUTE"
            }
            _ => "correct the rules, or what they name",
        };
        problems.push(fatal(what, repair));
    }
    Ok(problems)
}

/// What the role that asks may not do, of what it writes into rows because of their documents. It leaves nothing behind.
///
/// # Errors
/// When Postgres does not answer.
pub(crate) async fn unwritable(
    client: &Client,
    plan: &Plan,
) -> Result<Vec<Problem>, tokio_postgres::Error> {
    let mut problems = Vec::new();
    if plan.documents.is_empty() {
        return Ok(problems);
    }
    let role = current_role(client).await?;
    for kind in &plan.documents {
        let writes: [(_, &[&str], _); 2] = [
            (touch_sql(plan, kind), &["text[]", "int8[]"], "`touched`, when they were saved"),
            (
                publish_error_sql(plan, kind),
                &["text", "text"],
                "`publish_error`, why they are not published",
            ),
        ];
        for (sql, types, said) in writes {
            let Some(sql) = sql else { continue };
            let Some((code, why)) = explain(client, "BEGIN", &sql, types).await? else { continue };
            let what =
                format!("role {role} cannot tell rows of documents.{} {said}: {why}", kind.name);
            let repair = match code {
                SqlState::INSUFFICIENT_PRIVILEGE => {
                    format!("grant role {role} UPDATE of that column, and SELECT of it and the key")
                }
                _ => "correct the definition, or what stands in the way".to_owned(),
            };
            problems.push(fatal(what, repair));
        }
    }
    Ok(problems)
}
