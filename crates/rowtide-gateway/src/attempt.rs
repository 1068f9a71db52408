//! One try at a mutation: what is to be done under its number for the plan that serves now, and what the answer of
//! Postgres means for the [`scheduler`](crate::scheduler) and for those who watch. Each try reads the mutation anew: its
//! tables and columns are places in a plan, and another may serve by then. Pure: `writer.rs` does what is said here.

use std::sync::Arc;

use rowtide_plan::plan::Plan;
use rowtide_plan::write::{Operation, Rejection, Tolerance, Unreadable, Write};
use rowtide_postgres::mutate::{MutateError, Number, Outcome, Work};
use rowtide_protocol::{KeyReference, Op, RejectCode};

use crate::conversation::{Asked, Mutation};
use crate::scheduler::{Broken, Ended, GivesUp};

/// What a try came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Came {
    /// What the scheduler is told.
    pub ended: Ended,
    /// What those who watch are told.
    pub note: Note,
}

/// What is worth knowing of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// There is no plan, or the queue is broken: its session says so.
    Nothing,
    /// It is acknowledged: `applied`, `repeated`, or the code of the rejection.
    Acknowledged(String),
    /// It waits for this table, which does not fit its rules now, or this named mutation, which does not fit the database.
    WaitsForTable(String),
    /// It waits for Postgres: why.
    WaitsForPostgres(String),
    /// Another transaction was in the way: which, as far as Postgres tells.
    InTheWay(String),
    /// It took longer than it may: what did.
    TookTooLong(String),
}

/// What is to be done for a mutation, and by which plan.
///
/// # Errors
/// When nothing can be done now: with what the try came to. To reject it would lose what its client has written.
pub fn work(
    plan: Option<Arc<Plan>>,
    mutation: &Mutation,
    gives_up: Option<GivesUp>,
) -> Result<(Arc<Plan>, Work), Came> {
    let waits = |why: &str, note| Came { ended: Ended::Away(why.to_owned()), note };
    let plan = plan.ok_or_else(|| waits("nothing is served yet", Note::Nothing))?;
    let work = match (gives_up, &mutation.asked) {
        (Some(why), _) => Work::Reject(vec![given_up(why)]),
        (None, Asked::Reject(rejection)) => Work::Reject(vec![rejection.clone()]),
        (None, Asked::Apply(ops)) => match plan.waits_for(ops) {
            Some(table) => {
                let why = format!("`{table}` does not fit the database now");
                return Err(waits(&why, Note::WaitsForTable(table.to_owned())));
            }
            None => read(&plan, ops, &mutation.number, mutation.tolerance),
        },
    };
    Ok((plan, work))
}

fn given_up(why: GivesUp) -> Rejection {
    let message = match why {
        GivesUp::TookTooLong => "it takes longer in the database than it may take",
        GivesUp::InTheWay => "others were writing the same rows all the time; try again later",
    };
    Rejection::new(RejectCode::UnknownError, message)
}

fn read(
    plan: &Plan,
    ops: &[Op],
    number: &Number,
    tolerance: Option<fn(&Plan, &Write) -> Tolerance>,
) -> Work {
    let read = |(index, op): (usize, &Op)| {
        let read = plan.read_op(op).map_err(|Unreadable { rejection, table }| {
            let message = format!("ops[{index}]: {}", rejection.message);
            (Rejection { message, ..rejection }, table)
        });
        let mut operation = read?;
        if let Some(reference) = refers_ahead(&operation, number, index) {
            let message = format!("ops[{index}]: {reference}: that is not before it");
            return Err((Rejection::new(RejectCode::BadRequest, message), None));
        }
        if let (Some(tolerance), Operation::Write(write)) = (tolerance, &mut operation) {
            write.tolerance = tolerance(plan, write);
        }
        Ok(operation)
    };
    match ops.iter().enumerate().map(read).collect() {
        Ok(operations) => Work::Apply(operations),
        Err((rejection, Some(table))) => Work::RejectIfItFits { table, rejection },
        Err((rejection, None)) => Work::Reject(vec![rejection]),
    }
}

/// A reference of the operation at `index` to a key of what does not come before it.
fn refers_ahead<'a>(
    operation: &'a Operation,
    number: &Number,
    index: usize,
) -> Option<&'a KeyReference> {
    let Number::Given(number) = number else { return None };
    let mut references = operation.references().iter().map(|(_, reference)| reference);
    references.find(|to| (to.id, to.op as usize) >= (*number, index))
}

/// What the answer of Postgres means for the mutation of this number.
pub fn came(number: &Number, answer: Result<Outcome, MutateError>) -> Came {
    let broken = |broken| (Ended::Broken(broken), Note::Nothing);
    let acknowledged = |how| (Ended::Acknowledged, Note::Acknowledged(how));
    let (ended, note) = match answer {
        Ok(Outcome::Acked { rejected }) => {
            acknowledged(rejected.unwrap_or_else(|| "applied".to_owned()))
        }
        Ok(Outcome::Repeated) => acknowledged("repeated".to_owned()),
        Ok(Outcome::Gap { last }) => broken(match number {
            Number::Given(number) => Broken::Gap { number: *number, last },
            Number::Next { .. } => Broken::NotTheirs,
        }),
        Ok(Outcome::NotTheirs) => broken(Broken::NotTheirs),
        Err(MutateError::Conflict(what)) => (Ended::Conflict, Note::InTheWay(what)),
        Err(MutateError::Slow(what)) => (Ended::Slow, Note::TookTooLong(what)),
        Err(MutateError::Away(what)) => (Ended::Away(what.clone()), Note::WaitsForPostgres(what)),
    };
    Came { ended, note }
}

#[cfg(test)]
mod tests {
    use rowtide_protocol::ClientMessage;

    use super::*;
    use crate::testing::plan;

    fn mutation(ops: &str) -> Mutation {
        let text = format!(r#"{{"type":"mutate","id":1,"ops":{ops}}}"#);
        let Ok(ClientMessage::Mutate(sent)) = ClientMessage::parse(&text) else {
            panic!("it is one")
        };
        Mutation {
            number: Number::Given(1),
            author: Arc::default(),
            asked: Asked::Apply(sent.ops.unwrap()),
            tolerance: None,
            operations: 1,
            bytes: text.len(),
        }
    }

    fn insert(column: &str) -> Mutation {
        mutation(&format!(r#"[{{"table":"t","op":"insert","row":{{"id":"1","{column}":"ann"}}}}]"#))
    }

    #[test]
    fn what_the_plan_says_of_a_table_is_held_against_the_database_before_it_rejects() {
        // The table has no rule to insert by, which is what the plan says.
        let (_, work) = work(Some(plan()), &insert("owned"), None).unwrap();
        let Work::RejectIfItFits { rejection, .. } = work else { panic!("{work:?}") };
        assert!(rejection.message.starts_with("ops[0]: "), "{}", rejection.message);
        // Which tables there are the definition says.
        let other = mutation(r#"[{"table":"u","op":"insert","row":{"id":"1"}}]"#);
        let (_, work) = super::work(Some(plan()), &other, None).unwrap();
        assert!(matches!(work, Work::Reject(_)), "{work:?}");
    }

    #[test]
    fn what_cannot_be_judged_now_waits_and_is_given_up_at_last() {
        let nothing = work(None, &insert("owner"), None).unwrap_err();
        assert_eq!(nothing.note, Note::Nothing);
        assert!(matches!(nothing.ended, Ended::Away(_)), "{nothing:?}");
        let mut unfit = Plan::clone(&plan());
        unfit.unfit.push("t".to_owned());
        let unfit = Arc::new(unfit);
        let waiting = work(Some(Arc::clone(&unfit)), &insert("owner"), None).unwrap_err();
        assert_eq!(waiting.note, Note::WaitsForTable("t".to_owned()));
        let Ended::Away(why) = waiting.ended else { panic!("{waiting:?}") };
        assert!(why.contains("`t`"), "{why}");
        let messages = [GivesUp::InTheWay, GivesUp::TookTooLong].map(|why| {
            match work(Some(Arc::clone(&unfit)), &insert("owner"), Some(why)) {
                Ok((_, Work::Reject(rejections))) => rejections[0].message.clone(),
                other => panic!("{other:?}"),
            }
        });
        assert!(messages[0].contains("others") && messages[1].contains("longer"), "{messages:?}");
    }

    #[test]
    fn an_answer_that_acknowledges_nothing_is_tried_again_or_breaks_the_queue() {
        let given = Number::Given(7);
        let next = Number::Next { name: "m".into(), session: "s".into() };
        let ended = |number: &Number, answer| came(number, answer).ended;
        let gap = || Ok(Outcome::Gap { last: 3 });
        assert_eq!(ended(&given, gap()), Ended::Broken(Broken::Gap { number: 7, last: 3 }));
        assert_eq!(ended(&next, gap()), Ended::Broken(Broken::NotTheirs));
        assert_eq!(ended(&given, Ok(Outcome::NotTheirs)), Ended::Broken(Broken::NotTheirs));
        let what = || "what".to_owned();
        assert_eq!(ended(&given, Err(MutateError::Away(what()))), Ended::Away(what()));
        assert_eq!(ended(&given, Err(MutateError::Conflict(what()))), Ended::Conflict);
        assert_eq!(ended(&given, Err(MutateError::Slow(what()))), Ended::Slow);
        let rejected = Outcome::Acked { rejected: Some("forbidden".to_owned()) };
        for (answer, how) in [
            (rejected, "forbidden"),
            (Outcome::Acked { rejected: None }, "applied"),
            (Outcome::Repeated, "repeated"),
        ] {
            let note = Note::Acknowledged(how.to_owned());
            assert_eq!(came(&given, Ok(answer)), Came { ended: Ended::Acknowledged, note });
        }
    }
}
