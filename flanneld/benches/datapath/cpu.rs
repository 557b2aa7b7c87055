//! Processors: keeping a host's programs on one, and what work has cost.

use std::fs;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Where a host's programs run.
pub struct Pinned(Option<usize>);

impl Pinned {
    /// On this processor only, or anywhere.
    pub fn to(processor: Option<usize>) -> Pinned {
        Pinned(processor)
    }

    /// Keeps the calling thread there, for good.
    pub fn stay(&self) {
        if let Some(processor) = self.0 {
            let mut set = CpuSet::new();
            set.set(processor).unwrap();
            sched_setaffinity(Pid::from_raw(0), &set).unwrap();
        }
    }

    /// Runs something there; threads and programs that it starts stay.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
        self.stay();
        let result = work();
        sched_setaffinity(Pid::from_raw(0), &before).unwrap();
        result
    }
}

/// Processor time so far, in seconds.
///
/// Forwarding happens in the kernel, in whatever context it finds, so the kernel's time of the whole machine is counted, and of
/// the time outside of it that of our own processes. What others do in the kernel meanwhile is counted too: measure on a
/// quiet machine.
pub fn seconds(processes: &[Pid]) -> f64 {
    let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as f64;
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let fields: Vec<f64> =
        stat.lines().next().unwrap().split_whitespace().skip(1).map(|f| f.parse().unwrap()).collect();
    // system, irq, softirq of proc(5).
    let kernel = fields[2] + fields[5] + fields[6];
    let own = processes.iter().chain([&Pid::this()]).map(|pid| user(*pid)).sum::<f64>();
    (kernel + own) / per_second
}

fn user(pid: Pid) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // utime is the 14th field; the second may hold anything.
    stat.rsplit(')').next().unwrap().split_whitespace().nth(11).unwrap().parse().unwrap()
}
