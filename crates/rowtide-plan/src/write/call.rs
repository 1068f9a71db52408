//! Calls: a named mutation with the arguments of a client, read by the types of its parameters, and the statement that runs it.
//! The statement is the definition's, so it does nothing only if it is not begun: another one stands before it, which fails
//! if what came before in the transaction has not been done.

use rowtide_protocol::{CallOp, KeyReference, OpValue, RejectCode};
use serde_json::value::RawValue;

use super::input;
use super::params::{Param, Params, Statement};
use super::rejection::{Rejection, Unreadable, meant, shown};
use super::steps::NEXT;
use crate::calls::{CallParam, CallValue, ParamKind, PlannedCall};
use crate::plan::Plan;

/// A call in terms of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The index of the mutation in [`Plan::calls`].
    pub call: usize,
    /// A value for each parameter: the text that Postgres reads.
    pub values: Vec<Option<String>>,
    /// The parameters whose values are keys that are made first; [`Plan::with_keys`] puts them among the values.
    pub references: Vec<(usize, KeyReference)>,
}

/// Fails unless the next write of the transaction may begin. Where it fails nobody sees it: an answer before it says why.
pub fn go_on_or_fail() -> String {
    format!("SELECT 1 / (CASE WHEN {NEXT} THEN 1 ELSE 0 END)")
}

/// The statement of a named mutation. In [`Statement::params`] the value of a column is that of the parameter with this index.
pub fn run(plan: &Plan, call: usize) -> Statement {
    let mut params = Params::default();
    let sql = plan.calls[call].sql(|value| match value {
        CallValue::Param(index, param) => params.argument(index, &param.type_name),
        CallValue::Claim(claim) => params.rule_claim(claim),
    });
    Statement { sql, params: params.list }
}

impl Plan {
    /// Reads a call.
    ///
    /// # Errors
    /// `bad_request`, with a message that names the argument.
    pub fn read_call(&self, op: &CallOp) -> Result<Call, Unreadable> {
        self.read_call_of(op).map_err(|message| Unreadable {
            rejection: Rejection::new(RejectCode::BadRequest, message),
            table: None,
        })
    }

    fn read_call_of(&self, op: &CallOp) -> Result<Call, String> {
        let Some(call) = self.calls.iter().position(|call| call.name == op.name) else {
            let names = self.calls.iter().map(|call| call.name.as_str());
            let meant = meant(&op.name, names);
            return Err(format!("there is no mutation `{}`{meant}", shown(&op.name)));
        };
        let planned = &self.calls[call];
        let is = |name: &str| planned.params.iter().any(|param| param.name == name);
        if let Some(unknown) = op.args.keys().find(|name| !is(name)) {
            let meant = meant(unknown, planned.params.iter().map(|param| param.name.as_str()));
            let unknown = shown(unknown);
            return Err(format!("mutation `{}` has no argument `{unknown}`{meant}", planned.name));
        }
        let mut references = Vec::new();
        let value = |(index, param): (usize, &CallParam)| match (
            op.args.get(&param.name),
            &param.default,
        ) {
            (Some(OpValue::Json(json)), _) => text_of_argument(planned, param, json),
            (Some(OpValue::Key(reference)), _) => {
                references.push((index, reference.clone()));
                Ok(None)
            }
            (None, Some(default)) => Ok(default.clone()),
            (None, None) => Err(format!("{} is missing", argument(planned, param))),
        };
        let values: Result<Vec<Option<String>>, String> =
            planned.params.iter().enumerate().map(value).collect();
        Ok(Call { call, values: values?, references })
    }
}

fn argument(call: &PlannedCall, param: &CallParam) -> String {
    format!("argument `{}` of mutation `{}`", param.name, call.name)
}

/// The text of a value for a parameter.
///
/// # Errors
/// What is wrong, with the names.
pub(super) fn text_of_argument(
    call: &PlannedCall,
    param: &CallParam,
    json: &RawValue,
) -> Result<Option<String>, String> {
    input::text_of_param(kind(param), json)
        .map_err(|wanted| format!("{} takes {wanted}", argument(call, param)))
}

/// The type, of which Postgres has been asked before anything is read.
fn kind(param: &CallParam) -> &ParamKind {
    static UNKNOWN: ParamKind = ParamKind::UNKNOWN;
    param.kind.as_ref().unwrap_or(&UNKNOWN)
}

impl Call {
    /// The value of a parameter.
    pub fn value(&self, param: usize) -> Option<&str> {
        self.values.get(param)?.as_deref()
    }
}

/// What is wrong with an argument that Postgres cannot read, and Rowtide could not tell, or with a claim.
pub fn misfit(
    plan: &Plan,
    call: usize,
    param: Option<&Param>,
    sqlstate: &str,
) -> Option<Rejection> {
    let planned = plan.calls.get(call)?;
    let Param::Value(index) = param? else {
        let what = format!("a claim of the token does not fit mutation `{}`", planned.name);
        return Some(Rejection::new(RejectCode::Forbidden, what));
    };
    let name = &planned.params.get(*index)?.name;
    let what = format!(
        "argument `{name}` of mutation `{}` does not take this value (SQLSTATE {sqlstate})",
        planned.name
    );
    Some(Rejection::new(RejectCode::BadRequest, what))
}
