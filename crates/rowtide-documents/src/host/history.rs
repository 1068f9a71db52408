//! Which earlier states of a document are kept: all of the last hour, then one an hour for a day, one a day for thirty
//! days, and none that is older. So the history of a document has a bounded number of states, however it is edited.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Younger states are all kept.
const ALL: Duration = HOUR;

/// Younger states are kept one an hour.
const HOURLY: Duration = DAY;

/// Younger states are kept one a day.
const DAILY: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Which of the times are kept no longer. Of each hour, and of each day, the last state is kept.
pub(super) fn outdated(times: &[SystemTime], now: SystemTime) -> Vec<SystemTime> {
    let mut newest_first = times.to_vec();
    newest_first.sort_unstable_by(|a, b| b.cmp(a));
    let mut taken = BTreeSet::new();
    newest_first.retain(|time| {
        // One that is yet to come was made before the clock was set back.
        let age = now.duration_since(*time).unwrap_or_default();
        let slot = match age {
            _ if age < ALL => return false,
            _ if age < HOURLY => HOUR,
            _ if age < DAILY => DAY,
            _ => return true,
        };
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        !taken.insert((slot, since.as_secs() / slot.as_secs()))
    });
    newest_first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_thinned_by_age_and_stays_small_however_long_it_goes_on() {
        let minute = Duration::from_secs(60);
        let mut now = UNIX_EPOCH + 20_000 * DAY;
        let mut times = Vec::new();
        for _ in 0..40 * 24 * 60 {
            now += minute;
            times.push(now);
            let outdated = outdated(&times, now);
            assert!(outdated.len() <= 3, "{outdated:?}");
            times.retain(|time| !outdated.contains(time));
        }
        let younger = |than| times.iter().filter(|time| **time + than > now).count();
        assert_eq!(younger(HOUR), 60);
        assert!((60 + 23..=60 + 25).contains(&younger(DAY)), "{}", younger(DAY));
        assert!((60 + 23 + 29..=60 + 25 + 31).contains(&times.len()), "{}", times.len());
        assert!(times.iter().all(|time| *time + DAILY >= now));
    }
}
