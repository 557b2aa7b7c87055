//! What the cluster costs when nothing happens: memory (PSS) and processor time of kubelite and flanneld on each host.
//!
//! PSS counts a page that several processes share in equal parts (`/proc/<pid>/smaps_rollup`), so the sum is what the
//! processes really take. Processor time is user plus system over a quiet interval, with that of the
//! children that ended in it (`nft`).

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cgroup;
use crate::lab::{HOSTS, Lab};

/// How long the processor time is counted.
pub const INTERVAL: Duration = Duration::from_secs(60);
const PROGRAMS: [&str; 2] = ["kubelite", "flanneld"];

/// One process of one host.
#[derive(Debug, Serialize)]
pub struct Row {
    /// E.g. `node1`.
    pub host: String,
    /// `kubelite` or `flanneld`.
    pub program: String,
    /// Proportional set size in KiB.
    pub pss_kib: u64,
    /// Per cent of one core over [`INTERVAL`].
    pub cpu_percent: f64,
}

/// Measures a running lab; it must be left alone meanwhile.
pub fn idle(lab: &Lab) -> Result<Vec<Row>> {
    lab.check_running()?;
    let mut found = Vec::new();
    for n in 1..=HOSTS {
        let host = crate::network::host_name(n);
        for pid in cgroup::all_of_host(&host) {
            if let Some(program) = program(pid) {
                found.push((host.clone(), program, pid, ticks(pid)?));
            }
        }
    }
    sleep(INTERVAL);
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no CLK_TCK")? as f64;
    let row = |(host, program, pid, before): (String, String, i32, u64)| {
        let used = ticks(pid)?.saturating_sub(before) as f64;
        let cpu_percent = used / per_second / INTERVAL.as_secs_f64() * 100.0;
        Ok(Row { host, program, pss_kib: pss(pid)?, cpu_percent })
    };
    found.into_iter().map(row).collect()
}

/// The rows as the table that stands in docs/benchmarks.md.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from("| host | program | PSS MiB | CPU % of a core |\n|---|---|---|---|\n");
    for row in rows {
        let mib = row.pss_kib as f64 / 1024.0;
        text.push_str(&format!("| {} | {} | {mib:.1} | {:.2} |\n", row.host, row.program, row.cpu_percent));
    }
    text
}

fn program(pid: i32) -> Option<String> {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = exe.file_name()?.to_string_lossy().into_owned();
    PROGRAMS.contains(&name.as_str()).then_some(name)
}

fn ticks(pid: i32) -> Result<u64> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} ended"))?;
    // The fields are counted behind the name, which may hold blanks: utime, stime, cutime and cstime are the 12th to 15th.
    let behind = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(behind.split_whitespace().skip(11).take(4).filter_map(|t| t.parse::<u64>().ok()).sum())
}

fn pss(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("process {pid} ended"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("the kernel tells no PSS")?;
    line.trim().trim_end_matches(" kB").parse().context("PSS is no number")
}
