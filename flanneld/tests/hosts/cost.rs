//! What flanneld costs while nothing happens.

use std::fs;
use std::time::Duration;

use super::lab::Lab;

const QUIET: Duration = Duration::from_secs(20);

/// The fields of `/proc/<pid>/stat` behind the name, which may hold anything; the first of them has number 3 in proc(5).
fn stat(pid: nix::unistd::Pid) -> Vec<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = text.rsplit(')').next().unwrap().split_whitespace();
    fields.map(|field| field.parse().unwrap_or(0)).collect()
}

fn kilobytes(pid: nix::unistd::Pid, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_quiet_flanneld_runs_no_program_and_says_what_it_costs() {
    let (_lab, daemons, _pods) = Lab::pair();
    // What starting stirred up has settled by then.
    std::thread::sleep(Duration::from_secs(3));
    let pid = daemons[0].pid();
    let before = stat(pid);
    std::thread::sleep(QUIET);
    let after = stat(pid);
    let grown = |number: usize| after[number - 3] - before[number - 3];
    // Numbers of proc(5): 11 faults of ended children, 14 and 15 own time, 16 and 17 time of ended children.
    println!(
        "flanneld, {QUIET:?} quiet: own ticks {} user {} system, children's ticks {}, Pss {} kB, Rss {} kB, anonymous {} kB",
        grown(14),
        grown(15),
        grown(16) + grown(17),
        kilobytes(pid, "Pss:"),
        kilobytes(pid, "Rss:"),
        kilobytes(pid, "Anonymous:"),
    );
    assert_eq!(grown(11), 0, "a program was run although nothing happened");
}
