//! What the operating system says about this process: processor share, memory, cores, disk. Linux' /proc;
//! where that can't be read the numbers are 0.

use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Shortest stretch over which the processor share is measured; a shorter one would only show noise.
const SAMPLE_MIN: Duration = Duration::from_secs(1);

/// Measures this process.
#[derive(Debug)]
pub(crate) struct Process {
    last: Mutex<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    cpu: Duration,
    percent: f64,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Percent of one core, over the time since the measurement before.
    pub(crate) cpu_percent: f64,
    /// Processor time since the start, user and system.
    pub(crate) cpu: Duration,
    /// Resident memory in bytes.
    pub(crate) memory_bytes: u64,
}

impl Process {
    pub(crate) fn new() -> Self {
        let sample = Sample {
            at: Instant::now(),
            cpu: cpu_time(),
            percent: 0.0,
        };
        Self {
            last: Mutex::new(sample),
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        let cpu = cpu_time();
        let mut last = self.last.lock();
        let elapsed = last.at.elapsed();
        if elapsed >= SAMPLE_MIN {
            let used = cpu.saturating_sub(last.cpu).as_secs_f64();
            *last = Sample {
                at: Instant::now(),
                cpu,
                percent: used / elapsed.as_secs_f64() * 100.0,
            };
        }
        Usage {
            cpu_percent: (last.percent * 10.0).round() / 10.0,
            cpu,
            memory_bytes: resident_bytes(),
        }
    }
}

/// Size of a file system and what of it is free for this process, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Disk {
    pub(crate) size_bytes: u64,
    pub(crate) free_bytes: u64,
}

/// The file system that holds `path`; `None` where it can't be asked.
pub(crate) fn disk(path: &Path) -> Option<Disk> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(Disk {
        size_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
    })
}

/// Processors that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn cpu_time() -> Duration {
    std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| ticks(&stat))
        .map(|ticks| {
            Duration::from_secs_f64(
                ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64,
            )
        })
        .unwrap_or_default()
}

/// User and system time of a `/proc/PID/stat` line (proc(5), fields 14 and 15). The command's name
/// before them may hold anything, so they are counted from its closing parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages
        .unwrap_or_default()
        .saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(ticks(stat), Some(200));
        assert_eq!(ticks("42 (a"), None);
    }

    #[test]
    fn a_file_system_has_a_size() {
        let disk = disk(Path::new("/")).unwrap();
        assert!(disk.size_bytes >= disk.free_bytes && disk.size_bytes > 0);
        assert_eq!(super::disk(Path::new("/nowhere/at/all")), None);
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(Process::new().usage().memory_bytes > 0);
        assert!(cores() > 0);
    }
}
