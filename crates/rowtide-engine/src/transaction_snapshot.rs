//! Which transactions a load has seen. A load and the stream are fitted by transaction id: a
//! streamed transaction is *in* a snapshot when its id is visible there. The stream names
//! transactions by 32 bits, snapshots by 64; the missing half is the one that puts the id within two
//! thousand million of the snapshot, which Postgres guarantees for every transaction that can still
//! matter.

use std::str::FromStr;

use thiserror::Error;

/// What `pg_current_snapshot()` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionSnapshot {
    xmin: u64,
    xmax: u64,
    /// In progress, ascending.
    xip: Box<[u64]>,
}

/// The text is not `xmin:xmax:xip,…`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not a snapshot (expected the form 10:20:10,14)")]
pub struct InvalidSnapshot(String);

impl TransactionSnapshot {
    /// A snapshot that sees every transaction below `xmax` but those in `xip`.
    pub fn new(xmax: u64, mut xip: Vec<u64>) -> TransactionSnapshot {
        xip.sort_unstable();
        let xmin = xip.first().map_or(xmax, |first| xmax.min(*first));
        TransactionSnapshot { xmin, xmax, xip: xip.into() }
    }

    /// Whether the streamed transaction `xid` is visible in this snapshot, given that it committed.
    pub fn contains(&self, xid: u32) -> bool {
        // Two's complement brings the difference of the low halves into ±2^31.
        let distance = xid.wrapping_sub(self.xmax as u32) as i32;
        let full = self.xmax.wrapping_add_signed(i64::from(distance));
        full < self.xmin || (full < self.xmax && self.xip.binary_search(&full).is_err())
    }
}

impl FromStr for TransactionSnapshot {
    type Err = InvalidSnapshot;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.splitn(3, ':');
            let xmin: u64 = parts.next()?.parse().ok()?;
            let xmax: u64 = parts.next()?.parse().ok()?;
            let xip = parts.next()?;
            let xip: Vec<u64> = xip
                .split(',')
                .filter(|x| !x.is_empty())
                .map(str::parse)
                .collect::<Result<_, _>>()
                .ok()?;
            let snapshot = TransactionSnapshot::new(xmax, xip);
            (xmin <= snapshot.xmin).then_some(snapshot)
        };
        parse().ok_or_else(|| InvalidSnapshot(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_in_a_snapshot_when_it_is_visible_there() {
        let snapshot: TransactionSnapshot = "10:20:10,14".parse().unwrap();
        let seen: Vec<u32> = (8..23).filter(|xid| snapshot.contains(*xid)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 15, 16, 17, 18, 19]);
    }

    #[test]
    fn ids_of_32_bits_are_widened_around_the_snapshot() {
        let wrap = 1u64 << 32;
        let snapshot = TransactionSnapshot::new(3 * wrap + 5, vec![3 * wrap - 2]);
        assert!(snapshot.contains(4) && !snapshot.contains(5));
        assert!(snapshot.contains(u32::MAX) && !snapshot.contains(u32::MAX - 1));
    }

    #[test]
    fn other_text_is_rejected() {
        for wrong in ["", "1", "1:2", "a:b:c", "1:2:x", "-1:2:", "9:20:1"] {
            assert!(wrong.parse::<TransactionSnapshot>().is_err(), "{wrong:?}");
        }
        assert_eq!("7:7:".parse(), Ok(TransactionSnapshot::new(7, vec![])));
    }
}
