//! CPU time of processes, from /proc.

use std::collections::BTreeMap;

/// CPU time used so far, seconds, by process name.
pub(crate) type Times = BTreeMap<String, f64>;

/// User and system time of each process that runs.
pub(crate) fn times(processes: &[(String, u32)]) -> Times {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let time = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |n: usize| fields.get(n)?.parse::<f64>().ok();
        Some((field(11)? + field(12)?) / ticks)
    };
    processes
        .iter()
        .filter_map(|(name, pid)| Some((name.clone(), time(pid)?)))
        .collect()
}

/// Microseconds per operation, by process name.
pub(crate) fn per_operation(before: &Times, after: &Times, operations: u64) -> Times {
    let used = after
        .iter()
        .filter_map(|(name, t)| Some((name.clone(), t - before.get(name)?)));
    used.map(|(name, seconds)| (name, seconds * 1e6 / operations as f64))
        .collect()
}
