//! The wait before the next connection: exponential, with full jitter, so that clients that lose their
//! connections together do not come back together.

use std::time::Duration;

use rand::Rng;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// The wait before the try after `failures` failures in a row. `at_most` is what the server asked
/// for, if it did.
pub(crate) fn wait(failures: u32, at_most: Option<Duration>, rng: &mut impl Rng) -> Duration {
    let ceiling = FIRST.saturating_mul(1 << failures.min(10)).min(LONGEST);
    at_most.unwrap_or(ceiling).mul_f64(rng.random::<f64>())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_are_spread_from_zero() {
        let mut rng = SmallRng::seed_from_u64(1);
        for (failures, ceiling_ms) in [(0, 500), (1, 1000), (3, 4000), (20, 30_000)] {
            let waits: Vec<u128> =
                (0..200).map(|_| wait(failures, None, &mut rng).as_millis()).collect();
            assert!(waits.iter().all(|wait| *wait <= ceiling_ms));
            assert!(waits.iter().any(|wait| *wait < ceiling_ms / 4));
            assert!(waits.iter().any(|wait| *wait > ceiling_ms * 3 / 4));
        }
        let asked = Some(Duration::from_millis(10));
        assert!((0..100).all(|_| wait(9, asked, &mut rng).as_millis() <= 10));
    }
}
