//! How often a user may ask for something: a token bucket for each, which a connect and a mutation
//! take one from alike. What has not been used for a while is forgotten.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio_util::sync::CancellationToken;

/// How often buckets that are full again are forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// The buckets of all users. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Rate {
    buckets: Option<Arc<DefaultKeyedRateLimiter<String>>>,
}

impl Rate {
    /// `per_minute` for each user, all of them at once if none was taken before; 0: as many as they
    /// like. Ends with `stop`.
    pub(crate) fn start(per_minute: u32, stop: CancellationToken) -> Rate {
        let Some(per_minute) = NonZeroU32::new(per_minute) else { return Rate { buckets: None } };
        let buckets = Arc::new(RateLimiter::keyed(Quota::per_minute(per_minute)));
        let kept = Arc::clone(&buckets);
        tokio::spawn(async move {
            let forget = async {
                loop {
                    tokio::time::sleep(FORGET).await;
                    kept.retain_recent();
                    kept.shrink_to_fit();
                }
            };
            stop.run_until_cancelled(forget).await;
        });
        Rate { buckets: Some(buckets) }
    }

    /// Takes one from a user's bucket; `false` if it is empty.
    pub(crate) fn take(&self, user_id: &str) -> bool {
        let Some(buckets) = &self.buckets else { return true };
        buckets.check_key(&user_id.to_owned()).is_ok()
    }
}
