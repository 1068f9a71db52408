//! What became of records, as others are told: the entries of a diff, written once for all who are told the same.

use super::diff::{Flavour, ObjectDiff, write_patch, write_put};
use super::json::{Json, write_value};

/// What became of a record.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Became {
    /// It is new.
    Put,
    /// It was changed by a diff that had an effect in all of its parts.
    Patched(ObjectDiff),
    Removed,
}

/// The entries of a diff, without the braces around them.
#[derive(Debug, Default)]
pub(super) struct Entries(Vec<u8>);

impl Became {
    /// Whether it is not told the same to clients of each [`Flavour`].
    pub(super) fn appends_text(&self) -> bool {
        matches!(self, Became::Patched(diff) if diff.appends_text())
    }
}

impl Entries {
    /// Tells what became of a record, which is as `after` says now if it is there.
    pub(super) fn tell(
        &mut self,
        id: &str,
        became: &Became,
        after: Option<&Json>,
        flavour: Flavour,
    ) {
        let after = after.unwrap_or(&Json::Null);
        match became {
            Became::Put => write_put(self.begin(id), after),
            Became::Patched(diff) => write_patch(self.begin(id), diff, after, flavour),
            Became::Removed => self.tell_removed(id),
        }
    }

    /// Tells of a record that is there; `write` writes it.
    pub(super) fn tell_put(&mut self, id: &str, write: impl FnOnce(&mut Vec<u8>)) {
        let out = self.begin(id);
        out.extend_from_slice(br#"["put","#);
        write(out);
        out.push(b']');
    }

    /// Tells that a record is not there any more.
    pub(super) fn tell_removed(&mut self, id: &str) {
        self.begin(id).extend_from_slice(br#"["remove"]"#);
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn begin(&mut self, id: &str) -> &mut Vec<u8> {
        if !self.0.is_empty() {
            self.0.push(b',');
        }
        write_value(&mut self.0, id);
        self.0.push(b':');
        &mut self.0
    }
}
