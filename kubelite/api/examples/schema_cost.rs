//! Measures what the catalogue of schemas costs: time to make it, and resident memory before and after.

use std::time::Instant;

/// Resident memory in KiB, as the kernel counts it.
fn resident() -> std::io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse().unwrap_or(0))
}

#[allow(clippy::print_stdout)]
fn main() -> std::io::Result<()> {
    let (before, start) = (resident()?, Instant::now());
    let definitions = kubelite_api::schema::names().count();
    println!(
        "{definitions} definitions in {:?}, {} KiB more resident",
        start.elapsed(),
        resident()? - before
    );
    Ok(())
}
