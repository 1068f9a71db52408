//! `[writes]` as a person writes it: as which role of the database operations are done. Whether there is such a role, and
//! whether the server may be it, is for `rowtide check` to find.

use serde::Deserialize;
use toml::Spanned;

use crate::error::DefinitionProblem;

/// The longest name of a role in Postgres, in bytes.
const MAX_ROLE_BYTES: usize = 63;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WritesEntry {
    role: Spanned<String>,
}

impl WritesEntry {
    /// The role.
    ///
    /// # Errors
    /// When no role can be called so. To Postgres `none` is the role that a session has anyway.
    pub(super) fn role(self) -> Result<String, DefinitionProblem> {
        let (place, role) = (self.role.span(), self.role.into_inner());
        let fits = (1..=MAX_ROLE_BYTES).contains(&role.len()) && !role.contains('\0');
        if fits && !["none", "public"].contains(&role.as_str()) {
            return Ok(role);
        }
        let what = "no role of Postgres has this name";
        let help = "write a role that policies and grants are for, such as \"authenticated\", or leave \
                    [writes] out: operations are done as the server's own role then";
        Err(DefinitionProblem::new(place, what, "this role").help(help))
    }
}
