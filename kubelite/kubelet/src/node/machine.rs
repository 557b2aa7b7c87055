//! Measurements of this machine.

/// Memory in bytes; 0 if the kernel doesn't say.
pub(crate) fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&text, "MemTotal:").unwrap_or(0) * 1024
}

/// The number after `key` in a text like /proc/meminfo.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}
