//! What the operating system says about this process.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

/// Seconds of CPU time that this process has used.
pub(crate) fn cpu_seconds() -> f64 {
    seconds(ClockId::ProcessCPUTime)
}

/// Seconds of CPU time that this thread has used.
pub(crate) fn thread_cpu_seconds() -> f64 {
    seconds(ClockId::ThreadCPUTime)
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Bytes of memory that the process has now.
pub(crate) fn memory_bytes() -> u64 {
    memory("VmRSS:")
}

/// Bytes of memory that it had at most, since the start or the last [`forget_memory_max`].
pub(crate) fn memory_bytes_max() -> u64 {
    memory("VmHWM:")
}

/// The highest mark begins anew.
pub(crate) fn forget_memory_max() {
    fs::write("/proc/self/clear_refs", "5").expect("Linux lets a process reset its own mark");
}

fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells a process about itself");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("it tells the memory");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("in KiB")
}
