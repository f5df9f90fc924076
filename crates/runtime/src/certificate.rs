//! The death certificate of a worker.

use bireme_shm::os::memory;
use std::os::fd::{AsFd, OwnedFd};

/// What is known about the end of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// Row in the pool.
    pub row: u32,
    /// Process id.
    pub pid: i32,
    /// Exit code, when it exited.
    pub exit_code: Option<i32>,
    /// Signal, when one ended it.
    pub signal: Option<i32>,
    /// Peak resident memory in bytes, when known.
    pub peak_bytes: Option<u64>,
    /// Memory limit of the cgroup in bytes, when there is one.
    pub limit_bytes: Option<u64>,
    /// Whether the kernel's OOM killer struck in the cgroup just then.
    pub oom_killed: bool,
    /// The program that it had become by `exec`, if it had.
    pub became: Option<String>,
    /// The Python stack at a fatal signal, as faulthandler wrote it.
    pub stack: String,
    /// The last lines that it printed.
    pub last_output: String,
}

/// Read what faulthandler left in the memory file `story`; it is cut at the first zero byte.
pub(crate) fn read_story(story: &OwnedFd) -> String {
    let Ok(size) = memory::size(story.as_fd()) else {
        return String::new();
    };
    let Ok(map) = memory::Mapping::new(story, 0, size as usize, memory::Sharing::Shared) else {
        return String::new();
    };
    let mut bytes = Vec::new();
    for index in 0..map.len() {
        // SAFETY: inside the mapping; the writer is dead, and a volatile read of a byte is sound whatever it holds.
        let byte = unsafe { map.base().add(index).read_volatile() };
        if byte == 0 {
            break;
        }
        bytes.push(byte);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Bytes reserved for the last words of a worker.
pub(crate) const STORY_BYTES: usize = 16 << 10;
