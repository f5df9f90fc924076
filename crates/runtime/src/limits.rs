//! What this process may use: cores and memory, as affinity, cgroups and limits say.

use std::fs;
use std::path::PathBuf;

/// Cores that this process may use: its affinity mask, capped by the cgroup's CPU quota.
pub fn usable_cpus() -> u32 {
    let affinity = std::thread::available_parallelism().map_or(1, |n| n.get() as u32); // reads the mask and cgroup v2 and v1 quotas
    affinity.max(1)
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Directories of this process's cgroup in hierarchy `controller`, innermost first (v1 and v2).
fn cgroup_dirs(controller: &str) -> Vec<PathBuf> {
    let Ok(text) = fs::read_to_string("/proc/self/cgroup") else {
        return Vec::new();
    };
    let mut dirs = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let roots: &[PathBuf] = if controllers.is_empty() {
            &[
                PathBuf::from("/sys/fs/cgroup"),
                PathBuf::from("/sys/fs/cgroup/unified"),
            ]
        } else if controllers.split(',').any(|name| name == controller) {
            &[PathBuf::from(format!("/sys/fs/cgroup/{controller}"))]
        } else {
            continue;
        };
        for root in roots {
            let mut dir = root.join(path.trim_start_matches('/'));
            loop {
                dirs.push(dir.clone());
                if dir == *root || !dir.pop() {
                    break;
                }
            }
        }
    }
    dirs
}

/// The tightest memory limit of this process's cgroups in bytes, if there is one.
pub fn cgroup_memory_limit() -> Option<u64> {
    cgroup_dirs("memory")
        .iter()
        .flat_map(|dir| ["memory.max", "memory.limit_in_bytes"].map(|file| dir.join(file)))
        .filter_map(|path| number(path.to_str()?))
        .filter(|limit| *limit < 1 << 60)
        .min()
}

/// How often the kernel's OOM killer struck in this process's cgroup.
pub fn oom_kills() -> u64 {
    for dir in cgroup_dirs("memory") {
        for file in ["memory.events", "memory.oom_control"] {
            let Ok(text) = fs::read_to_string(dir.join(file)) else {
                continue;
            };
            let count = text
                .lines()
                .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
            if let Some(count) = count {
                return count;
            }
        }
    }
    0
}

/// Memory that could be had now, in bytes: the smaller of the machine's and the cgroup's.
pub fn available_memory() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("MemAvailable:").map(str::to_owned))?;
            line.split_ascii_whitespace().next()?.parse::<u64>().ok()
        })
        .map_or(u64::MAX, |kib| kib * 1024);
    machine.min(cgroup_memory_limit().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_plausible() {
        assert!(usable_cpus() >= 1);
        assert!(available_memory() > 1 << 20);
        assert!(cgroup_memory_limit().is_none_or(|limit| limit > 1 << 20));
    }
}
