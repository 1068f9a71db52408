//! What a process costs, as Linux counts it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// The memory that is held in RAM for a process, in bytes; `None` where there is no `/proc`.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    bytes_of(pid, "VmRSS:")
}

/// The most that it ever was, since [`reset_peak`].
pub(crate) fn peak_bytes(pid: u32) -> Option<u64> {
    bytes_of(pid, "VmHWM:")
}

/// Measures the peak from now on, where the system allows it (proc(5), `clear_refs`).
pub(crate) fn reset_peak(pid: u32) {
    drop(fs::write(format!("/proc/{pid}/clear_refs"), "5"));
}

fn bytes_of(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// How long a process has had a core; `None` where there is no `/proc`.
pub(crate) fn cpu_time(pid: u32) -> Option<Duration> {
    // Linux counts in hundredths of a second for everyone who asks (proc(5), USER_HZ).
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program may hold spaces; what follows its bracket does not.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u32>().ok();
    Some(TICK * (ticks(11)? + ticks(12)?))
}

/// How long the server had a core, for a person.
pub(crate) fn cores_shown(before: Option<Duration>, after: Option<Duration>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("{:.2} s", (after - before).as_secs_f64()),
        _ => "not known".to_owned(),
    }
}

/// What the threads of a process have used, by their names; `engine-0` and `engine-1` are one `engine`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used(pub(crate) BTreeMap<String, Thread>);

/// What one thread has used, or several of one name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Thread {
    /// How long it has had a core.
    pub(crate) time: Duration,
    /// How often it was given one.
    pub(crate) times: u64,
}

impl Used {
    /// By a process, up to now; empty where there is no `/proc`.
    pub(crate) fn by(pid: u32) -> Used {
        let mut used = Used::default();
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let read = |name: &str| fs::read_to_string(task.path().join(name)).ok();
            let (Some(name), Some(thread)) =
                (read("comm"), read("schedstat").as_deref().and_then(Thread::parse))
            else {
                continue;
            };
            let name = name.trim().trim_end_matches(|c: char| c.is_ascii_digit());
            let of_name = used.0.entry(name.trim_end_matches('-').to_owned()).or_default();
            of_name.time += thread.time;
            of_name.times += thread.times;
        }
        used
    }

    /// What was used since then.
    pub(crate) fn since(mut self, before: &Used) -> Used {
        for (name, thread) in &mut self.0 {
            let then = before.0.get(name).copied().unwrap_or_default();
            thread.time = thread.time.saturating_sub(then.time);
            thread.times = thread.times.saturating_sub(then.times);
        }
        self
    }

    /// By all threads.
    pub(crate) fn total(&self) -> Duration {
        self.0.values().map(|thread| thread.time).sum()
    }
}

impl Thread {
    /// Up to now, the thread that asks.
    pub(crate) fn current() -> Thread {
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        Thread::parse(&text).unwrap_or_default()
    }

    /// Nanoseconds on a core, nanoseconds of waiting for one, how often it was given one.
    fn parse(schedstat: &str) -> Option<Thread> {
        let mut numbers = schedstat.split_whitespace().map(|number| number.parse().ok());
        let time = Duration::from_nanos(numbers.next()??);
        Some(Thread { time, times: numbers.nth(1)?? })
    }
}
