//! What processes use of the machine, as Linux counts it.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// CPU time that a process has used so far, in user and kernel mode.
pub fn cpu(process: u32) -> Result<Duration> {
    let fields = stat(&format!("/proc/{process}/stat"))?;
    Ok(ticks(fields[UTIME]) + ticks(fields[STIME]))
}

/// CPU time of all programs that this one has started and that have ended.
pub fn cpu_of_children() -> Result<Duration> {
    let fields = stat("/proc/self/stat")?;
    Ok(ticks(fields[CUTIME]) + ticks(fields[CSTIME]))
}

/// Resident memory of a process, in bytes.
pub fn resident(process: u32) -> Result<u64> {
    memory(process, "VmRSS:")
}

/// The most resident memory that a process ever had, in bytes.
pub fn resident_peak(process: u32) -> Result<u64> {
    memory(process, "VmHWM:")
}

fn memory(process: u32, key: &str) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kibibytes.with_context(|| format!("{path} does not tell {key}"))? * 1024)
}

/// The numbers of a `stat` file, from the third field on.
fn stat(path: &str) -> Result<Vec<u64>> {
    let text = fs::read_to_string(path).with_context(|| format!("{path} cannot be read"))?;
    // The second field is a name that may hold blanks, in parentheses.
    let (_, rest) = text.rsplit_once(") ").with_context(|| format!("{path} cannot be read"))?;
    let fields = rest.split_whitespace().map(|field| field.parse().unwrap_or_default());
    let fields: Vec<u64> = fields.collect();
    anyhow::ensure!(fields.len() > CSTIME, "{path} is too short");
    Ok(fields)
}

fn ticks(ticks: u64) -> Duration {
    // Linux tells programs hundredths of a second, whatever it counts in itself.
    Duration::from_millis(ticks * 10)
}

// Counted from the third field.
const UTIME: usize = 11;
const STIME: usize = 12;
const CUTIME: usize = 13;
const CSTIME: usize = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_memory_are_seen() {
        let before = cpu(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while cpu(std::process::id()).unwrap() < before + Duration::from_millis(20) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let (now, peak) = (resident(std::process::id()), resident_peak(std::process::id()));
        assert!(now.unwrap() > 100_000 && peak.unwrap() > 100_000);
    }

    #[test]
    fn ended_children_are_counted() {
        let before = cpu_of_children().unwrap();
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("sh").args(["-c", script]).status().unwrap().success());
        assert!(cpu_of_children().unwrap() > before);
    }
}
