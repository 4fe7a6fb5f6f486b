//! Figures of the kernel about a process, and of the load of this machine.

use std::fs;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Bytes of memory of its own that process `pid` has touched: heap and stacks, no files.
pub fn memory(pid: u32) -> usize {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("an Anonymous: line");
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

/// Descriptors that process `pid` has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Processor time that process `pid` has had, all its threads together.
pub fn cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let spent = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok());
    Duration::from_nanos(spent.map(|stat| stat.split(' ').next().unwrap().parse::<u64>().unwrap()).sum())
}

/// The processors that this thread may use.
pub fn processors() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor).unwrap()).collect()
}

/// Keeps this thread, and every thread that process `pid` has, to one processor each.
pub fn keep_apart(own: usize, pid: u32, other: usize) {
    let stay = |thread: i32, processor: usize| {
        let mut only = CpuSet::new();
        only.set(processor).unwrap();
        sched_setaffinity(Pid::from_raw(thread), &only).unwrap();
    };
    stay(0, own);
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        stay(task.unwrap().file_name().to_str().unwrap().parse().unwrap(), other);
    }
}

/// Processor time that this thread has had.
pub fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// The value that `percent` of `sample` do not exceed.
pub fn percentile(sample: &mut [Duration], percent: usize) -> Duration {
    sample.sort_unstable();
    sample[(sample.len() * percent / 100).min(sample.len() - 1)]
}

pub fn kib(bytes: usize) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}
