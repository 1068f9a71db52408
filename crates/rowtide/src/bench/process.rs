//! What a process costs, as Linux counts it.

use std::fs;
use std::time::Duration;

/// The memory that is held in RAM for a process, in bytes; `None` where there is no `/proc`.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    bytes_of(pid, "VmRSS:")
}

/// The most that it ever was, since [`reset_peak`].
pub(super) fn peak_bytes(pid: u32) -> Option<u64> {
    bytes_of(pid, "VmHWM:")
}

/// Measures the peak from now on, where the system allows it (proc(5), `clear_refs`).
pub(super) fn reset_peak(pid: u32) {
    drop(fs::write(format!("/proc/{pid}/clear_refs"), "5"));
}

fn bytes_of(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// How long a process has had a core; `None` where there is no `/proc`.
pub(super) fn cpu_time(pid: u32) -> Option<Duration> {
    // Linux counts in hundredths of a second for everyone who asks (proc(5), USER_HZ).
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program may hold spaces; what follows its bracket does not.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u32>().ok();
    Some(TICK * (ticks(11)? + ticks(12)?))
}

/// How long the server had a core, for a person.
pub(super) fn cores_shown(before: Option<Duration>, after: Option<Duration>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("{:.2} s", (after - before).as_secs_f64()),
        _ => "not known".to_owned(),
    }
}
