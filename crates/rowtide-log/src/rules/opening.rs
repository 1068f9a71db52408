//! What becomes of a log that is opened: it goes on, is shortened to what can be read, or is replaced. It is
//! looked at part by part, the newest first: the newest says which log it is, and older ones belong to it as
//! far back as each ends where the next begins.

use rowtide_protocol::{Epoch, Lsn};
use thiserror::Error;

use crate::identity::LogIdentity;

/// What a part of a log says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The epoch that it is of.
    pub epoch: Epoch,
    /// [`LogIdentity::bytes`] of what it is of.
    pub identity: Vec<u8>,
    /// [`LogIdentity::columns`] of it, if it says.
    pub columns: Option<Vec<u16>>,
    /// It holds what is behind this position.
    pub after: Lsn,
    /// Up to this one.
    pub end: Lsn,
}

/// Why a part of a log cannot be used, for good.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unusable {
    /// It was written in another format.
    #[error("of another version")]
    OtherVersion,
    /// It is damaged: what is wrong.
    #[error("damaged: {0}")]
    Damaged(String),
}

/// Why a log that was there cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Replaced {
    /// It was written in another format.
    #[error("it was written by another version")]
    OtherVersion,
    /// It is damaged: what is wrong.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// It is of something else.
    #[error("it is of another database, slot or definition")]
    OtherIdentity,
}

/// Whether a log goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Began {
    /// The log that was there, with its epoch.
    Continued,
    /// As [`Began::Continued`], but older segments were damaged and are pruned: what was wrong.
    Shortened(String),
    /// There was none.
    New,
    /// There was one that cannot go on, and a new one is in its place: why.
    Replaced(Replaced),
}

/// A log that is being opened.
#[derive(Debug)]
pub struct LogOpening {
    identity: LogIdentity,
    found: Found,
    /// A part did not belong to it.
    closed: bool,
}

#[derive(Debug)]
enum Found {
    Nothing,
    Unfit(Replaced),
    Parts { epoch: Epoch, begins: Lsn, count: usize, missing: Option<String> },
}

/// What becomes of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpeningVerdict {
    /// It goes on with so many of its newest parts; any others are of no use any more.
    Continues {
        /// What it is of: what it should be of, or perhaps that before tables got more columns.
        of: LogIdentity,
        /// At least one.
        parts: usize,
        /// [`Began::Continued`] or [`Began::Shortened`].
        began: Began,
    },
    /// A new one begins: [`Began::New`] or [`Began::Replaced`]. No part that is there is of use.
    Begins(Began),
}

impl Header {
    /// What it is of, if that is `identity`, or may be the same before tables got more columns.
    fn of(&self, identity: &LogIdentity) -> Option<LogIdentity> {
        if self.identity == identity.bytes() {
            return Some(identity.clone());
        }
        let plan = *self.identity.first_chunk::<32>()?;
        let older = LogIdentity { plan, columns: self.columns.clone()?, ..identity.clone() };
        let same = self.identity == older.bytes() && identity.may_have_grown_from(&older);
        same.then_some(older)
    }
}

impl LogOpening {
    /// Opens a log that should be of `identity`.
    pub fn new(identity: &LogIdentity) -> LogOpening {
        LogOpening { identity: identity.clone(), found: Found::Nothing, closed: false }
    }

    /// Looks at the next part, the newest first; whether it belongs to the log. Behind one that does not, no further
    /// parts are looked at.
    pub fn part(&mut self, part: Result<&Header, Unusable>) -> bool {
        self.closed = self.closed || !self.belongs(part);
        !self.closed
    }

    fn belongs(&mut self, part: Result<&Header, Unusable>) -> bool {
        match (&mut self.found, part) {
            (Found::Unfit(_), _) => false,
            (Found::Nothing, Err(unusable)) => {
                self.found = Found::Unfit(match unusable {
                    Unusable::OtherVersion => Replaced::OtherVersion,
                    Unusable::Damaged(why) => Replaced::Damaged(why),
                });
                false
            }
            (Found::Nothing, Ok(header)) => {
                match header.of(&self.identity) {
                    Some(of) => self.identity = of,
                    None => {
                        self.found = Found::Unfit(Replaced::OtherIdentity);
                        return false;
                    }
                }
                let Header { epoch, after: begins, .. } = *header;
                self.found = Found::Parts { epoch, begins, count: 1, missing: None };
                true
            }
            (Found::Parts { missing, .. }, Err(unusable)) => {
                *missing = Some(format!("a part of it is {unusable}"));
                false
            }
            // What a new epoch has left: its own beginning is here.
            (Found::Parts { epoch, .. }, Ok(header)) if header.epoch != *epoch => false,
            (Found::Parts { begins, count, .. }, Ok(header)) if header.end == *begins => {
                *begins = header.after;
                *count += 1;
                true
            }
            (Found::Parts { missing, .. }, Ok(_)) => {
                *missing = Some("a part of it is missing".to_owned());
                false
            }
        }
    }

    /// What becomes of it, when there are no more parts or one did not belong to it.
    pub fn verdict(self) -> OpeningVerdict {
        match self.found {
            Found::Nothing => OpeningVerdict::Begins(Began::New),
            Found::Unfit(why) => OpeningVerdict::Begins(Began::Replaced(why)),
            Found::Parts { count: parts, missing, .. } => OpeningVerdict::Continues {
                of: self.identity,
                parts,
                began: missing.map_or(Began::Continued, Began::Shortened),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> LogIdentity {
        LogIdentity {
            plan: [7; 32],
            columns: vec![3],
            system: 1,
            database: 2,
            timeline: 3,
            slot: "rowtide".into(),
        }
    }

    fn part(epoch: u64, after: u64, end: u64) -> Result<Header, Unusable> {
        let (identity, columns) = (identity().bytes(), Some(identity().columns));
        Ok(Header { epoch: Epoch(epoch), identity, columns, after: Lsn(after), end: Lsn(end) })
    }

    /// The parts, the newest first.
    #[track_caller]
    fn becomes(parts: &[Result<Header, Unusable>], verdict: OpeningVerdict) {
        let mut opening = LogOpening::new(&identity());
        let mut belonging = 0;
        // Also what lies behind the first that does not belong to it is never taken up again.
        for part in parts {
            belonging += usize::from(opening.part(part.as_ref().map_err(Clone::clone)));
        }
        if let OpeningVerdict::Continues { parts, .. } = verdict {
            assert_eq!(belonging, parts);
        } else {
            assert_eq!(belonging, 0);
        }
        assert_eq!(opening.verdict(), verdict);
    }

    #[test]
    fn the_newest_part_says_which_log_it_is_and_older_ones_belong_to_it_up_to_a_gap() {
        let damaged = || Err(Unusable::Damaged("x".into()));
        let continues = |parts, began| OpeningVerdict::Continues { of: identity(), parts, began };
        let shortened = |why: &str| Began::Shortened(why.into());
        becomes(&[], OpeningVerdict::Begins(Began::New));
        becomes(&[part(1, 0, 9)], continues(1, Began::Continued));
        becomes(&[part(1, 9, 9), part(1, 5, 9), part(1, 0, 5)], continues(3, Began::Continued));
        becomes(&[part(2, 3, 9), part(1, 0, 3), part(2, 0, 3)], continues(1, Began::Continued));
        becomes(
            &[part(1, 9, 12), part(1, 0, 8), part(1, 8, 9)],
            continues(1, shortened("a part of it is missing")),
        );
        becomes(
            &[part(1, 9, 12), damaged(), part(1, 5, 9)],
            continues(1, shortened("a part of it is damaged: x")),
        );
        becomes(
            &[part(1, 9, 12), part(1, 5, 9), Err(Unusable::OtherVersion)],
            continues(2, shortened("a part of it is of another version")),
        );
        let replaced = |why| OpeningVerdict::Begins(Began::Replaced(why));
        becomes(&[damaged(), part(1, 0, 9)], replaced(Replaced::Damaged("x".into())));
        becomes(&[Err(Unusable::OtherVersion), part(1, 0, 9)], replaced(Replaced::OtherVersion));
        let other = LogIdentity { timeline: 4, ..identity() }.bytes();
        let other = part(1, 9, 12).map(|header| Header { identity: other, ..header });
        becomes(&[other, part(1, 0, 9)], replaced(Replaced::OtherIdentity));
    }

    #[test]
    fn a_log_of_fewer_columns_is_opened_as_what_it_is_and_no_other() {
        let newer = |columns: Vec<u16>| LogIdentity { plan: [8; 32], columns, ..identity() };
        let open = |identity: &LogIdentity, part: &Header| {
            let mut opening = LogOpening::new(identity);
            opening.part(Ok(part));
            opening.verdict()
        };
        let part = part(1, 10, 20).unwrap();
        let continues = |of| OpeningVerdict::Continues { of, parts: 1, began: Began::Continued };
        assert_eq!(open(&newer(vec![4]), &part), continues(identity()));
        let replaced = OpeningVerdict::Begins(Began::Replaced(Replaced::OtherIdentity));
        for other in [newer(vec![2]), newer(vec![3]), newer(vec![4, 1])] {
            assert_eq!(open(&other, &part), replaced, "{:?}", other.columns);
        }
        let elsewhere = LogIdentity { database: 9, ..newer(vec![4]) };
        assert_eq!(open(&elsewhere, &part), replaced);
        let of_earlier_version = Header { columns: None, ..part.clone() };
        assert_eq!(open(&newer(vec![4]), &of_earlier_version), replaced);
        assert_eq!(open(&identity(), &of_earlier_version), continues(identity()));
    }
}
