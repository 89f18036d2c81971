//! CPU time of processes, from /proc.

use std::collections::BTreeMap;

/// CPU time used so far, seconds, by process name.
pub(crate) type Times = BTreeMap<String, f64>;

/// User and system time of each process that runs.
pub(crate) fn times(processes: &[(String, u32)]) -> Times {
    processes
        .iter()
        .filter_map(|(name, pid)| Some((name.clone(), time(*pid, 14)?)))
        .collect()
}

/// That of the processes that this one has started and that have ended.
pub(crate) fn of_ended_children() -> f64 {
    time(std::process::id(), 16).expect("this process runs")
}

/// User time, the field `first` of a process' stat as it is documented, and system time, which follows it; in seconds.
fn time(pid: u32, first: usize) -> Option<f64> {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name in parentheses, may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |n: usize| fields.get(n - 3)?.parse::<f64>().ok();
    Some((field(first)? + field(first + 1)?) / ticks)
}

/// Microseconds per operation, by process name; nothing when there was no operation.
pub(crate) fn per_operation(before: &Times, after: &Times, operations: u64) -> Times {
    if operations == 0 {
        return Times::new();
    }
    let used = after
        .iter()
        .filter_map(|(name, t)| Some((name.clone(), t - before.get(name)?)));
    used.map(|(name, seconds)| (name, seconds * 1e6 / operations as f64))
        .collect()
}

/// For people.
pub(crate) fn shown(times: &Times) -> String {
    let each: Vec<String> = times.iter().map(|(name, us)| format!("{name} {us:.1}")).collect();
    each.join(", ")
}
