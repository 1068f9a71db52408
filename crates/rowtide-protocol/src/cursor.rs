//! Positions in the stream. An LSN is a 64-bit number everywhere and text only at the edges,
//! because `0/9…` sorts after `0/10…` as text. A cursor ties an LSN to the epoch of the log that it
//! belongs to, so that a position of another database can never be taken for one of this.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A position in Postgres' write-ahead log, ordered as a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// The text is not two hexadecimal numbers of at most eight digits with a slash between them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not a log position (expected the form 16/B374D848)")]
pub struct InvalidLsn(pub String);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u32::from_str_radix(part, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some((half(high)?, half(low)?)))
            .map(|(high, low)| Lsn(u64::from(high) << 32 | u64::from(low)))
            .ok_or_else(|| InvalidLsn(text.to_owned()))
    }
}

/// The id of one unbroken log. A new epoch means that nobody can resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

/// Which view a cursor was given for: a hash of the claims that decide what is seen. Other claims see
/// other rows, so nobody is brought forward from the one to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ViewId(pub u64);

/// Where a client stands: everything up to `lsn` of the log `epoch` is in its rows.
///
/// Its text, `<epoch>.<view>.<lsn>` in hexadecimal, is opaque to clients and at most 50 bytes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The log that the position belongs to.
    pub epoch: Epoch,
    /// The view whose rows the client holds.
    pub view: ViewId,
    /// The end of the last commit that the client has.
    pub lsn: Lsn,
}

/// The text was not made by [`Cursor`]'s `Display`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this is not a cursor of this server")]
pub struct InvalidCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{:016x}.{:x}", self.epoch.0, self.view.0, self.lsn.0)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |part: &str| {
            let digits = (1..=16).contains(&part.len())
                && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            digits.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        let whole = |part: &str| number(part).filter(|_| part.len() == 16);
        let parse = || {
            let (epoch, rest) = text.split_once('.')?;
            let (view, lsn) = rest.split_once('.')?;
            let (epoch, view) = (Epoch(whole(epoch)?), ViewId(whole(view)?));
            Some(Cursor { epoch, view, lsn: Lsn(number(lsn)?) })
        };
        parse().ok_or(InvalidCursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsns_are_ordered_as_numbers() {
        let nine: Lsn = "0/9000000".parse().unwrap();
        let ten: Lsn = "0/10000000".parse().unwrap();
        assert!(nine < ten);
        assert_eq!(ten.to_string(), "0/10000000");
        for wrong in ["", "/", "1", "0/", "0/+1", "0/123456789", "x/1", "0/1/2", "0/ 1"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_cursor_is_read_back_and_a_forged_one_is_rejected() {
        for lsn in [0, 1, 0x16B_3748, u64::MAX] {
            let cursor = Cursor { epoch: Epoch(0xfeed), view: ViewId(7), lsn: Lsn(lsn) };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        let good = "000000000000feed.0000000000000007.1";
        assert!(good.parse::<Cursor>().is_ok());
        let cut = (0..good.len()).map(|end| good[..end].to_owned());
        let other = ["1.1.1", &good.to_uppercase(), &format!("{good}.1"), &format!("{good} ")];
        for wrong in cut.chain(other.map(str::to_owned)) {
            assert_eq!(wrong.parse::<Cursor>(), Err(InvalidCursor), "{wrong:?}");
        }
    }
}
