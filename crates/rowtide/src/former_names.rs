//! The names that settings had before. For one release they are taken as well: in a file, in the environment and as flags,
//! each with a warning that says the name of now. Whoever gives a setting by both of its names in one place is told so,
//! because nobody can know which of them is meant.

use std::path::{Path, PathBuf};

/// The former names, each with the name that the setting has now.
const FORMER_NAMES: [(&str, &str); 4] = [
    ("outbox_bytes", "send_queue_bytes"),
    ("history_dir", "log_dir"),
    ("history_seconds", "log_seconds"),
    ("history_bytes", "log_bytes"),
];

/// Former names of settings as flags. `--help` does not show them.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct FormerFlags {
    #[arg(long, hide = true)]
    outbox_bytes: Option<String>,
    #[arg(long, hide = true)]
    history_dir: Option<String>,
    #[arg(long, hide = true)]
    history_seconds: Option<String>,
    #[arg(long, hide = true)]
    history_bytes: Option<String>,
}

impl FormerFlags {
    /// The flags that were given, by the former names of their settings.
    pub(crate) fn given(self) -> impl Iterator<Item = (&'static str, String)> {
        let values =
            [self.outbox_bytes, self.history_dir, self.history_seconds, self.history_bytes];
        let named = FORMER_NAMES.iter().zip(values);
        named.filter_map(|((former, _), value)| Some((*former, value?)))
    }
}

/// The name of now of a setting that was given by this name, which may be its former one.
pub(crate) fn current_name(given: &str) -> &str {
    FORMER_NAMES.iter().find(|(former, _)| *former == given).map_or(given, |(_, name)| name)
}

/// The former name of a setting, if it had one.
pub(crate) fn former_name(name: &str) -> Option<&'static str> {
    FORMER_NAMES.iter().find(|(_, now)| *now == name).map(|(former, _)| *former)
}

/// Logs that a former name was given. Both names are as they are written where it was given.
pub(crate) fn warn_of_former_name(former: &str, name: &str) {
    tracing::warn!(
        "`{former}` is called `{name}` now, and the former name is taken for one release more"
    );
}

/// Where in `parent` the log of changes is, with one name for one slot or none. What an earlier version has begun under
/// the name that it used, an upgrade goes on with: otherwise every client would be sent all of its rows again.
pub(crate) fn log_dir(parent: &Path, name: &str, former: &str, slot: Option<&str>) -> PathBuf {
    let of = |name: &str| match slot {
        Some(slot) => parent.join(name).join(slot),
        None => parent.join(name),
    };
    if of(former).is_dir() { of(former) } else { of(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_an_earlier_version_is_gone_on_with() {
        let dir = std::env::temp_dir().join(format!("former-names-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("rowtide-history/rowtide_a")).unwrap();
        let of = |slot| log_dir(&dir, "rowtide-log", "rowtide-history", Some(slot));
        assert_eq!(of("rowtide_a"), dir.join("rowtide-history/rowtide_a"));
        assert_eq!(of("rowtide_b"), dir.join("rowtide-log/rowtide_b"));
        assert_eq!(log_dir(&dir, "log", "history", None), dir.join("log"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
