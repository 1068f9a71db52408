//! Whether the rules of documents can be asked: Postgres looks at the rights of a query as it begins to carry it out, so
//! each is explained as the role that will ask it.

use rowtide_plan::check::Problem;
use rowtide_plan::document_sql::standing_query;
use rowtide_plan::plan::Plan;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::check::fatal;
use crate::connect::reason;

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
