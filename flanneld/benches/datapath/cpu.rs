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

/// Processor time so far, in seconds, of these processes, of this one, and of the kernel's threads for packets.
///
/// Forwarding happens in the kernel, as a rule on account of whoever sent or received; what is too much for that goes to
/// `ksoftirqd`. What others do on the machine isn't counted; what the kernel does while a processor idles isn't, either.
pub fn seconds(processes: &[Pid]) -> f64 {
    let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as f64;
    let all = processes.iter().copied().chain([Pid::this()]).chain(ksoftirqd());
    all.map(ticks).sum::<f64>() / per_second
}

/// Their names are ksoftirqd/ and the processor's number.
fn ksoftirqd() -> impl Iterator<Item = Pid> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.unwrap().file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        name.starts_with("ksoftirqd/").then_some(Pid::from_raw(pid))
    })
}

fn ticks(pid: Pid) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // utime and stime are fields 14 and 15, ended threads included; the second may hold anything.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    fields.skip(11).take(2).map(|field| field.parse::<f64>().unwrap()).sum()
}
