//! Memory that several processes map: memfds and their mappings.

use super::process::own_pid;
use crate::prim::{AtomicU32, Ordering};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// Size of a page in bytes.
pub fn page_size() -> usize {
    rustix::param::page_size()
}

/// Make an anonymous memory file of `size` bytes, close-on-exec, sealed against resizing.
///
/// # Errors
/// What the kernel says: no descriptors left, a file-size limit, memfds refused.
pub fn create(name: &str, size: usize) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags)?, // kernels before 6.3
        other => other?,
    };
    rustix::fs::ftruncate(&fd, size as u64)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// Give `len` bytes at `offset` real memory now, so that "full" is an error and not a signal later.
pub fn reserve(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    loop {
        match rustix::fs::fallocate(fd, FallocateFlags::KEEP_SIZE, offset, len) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Write `len` bytes from `source` to the file at `offset`, giving it memory as needed.
///
/// Into memory that nobody has touched yet this is twice as fast as a copy to a mapping: no page is
/// cleared first, and none faults.
///
/// # Safety
/// The source is readable. It may change meanwhile: then some of both is written.
///
/// # Errors
/// What the kernel says, for want of memory for instance; part of it may be written then.
pub unsafe fn write_at(
    fd: BorrowedFd<'_>,
    mut offset: u64,
    mut source: *const u8,
    mut len: usize,
) -> io::Result<()> {
    while len > 0 {
        // SAFETY: the caller's word.
        let done = unsafe { libc::pwrite(fd.as_raw_fd(), source.cast(), len, offset as i64) };
        match usize::try_from(done) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(done) => {
                // SAFETY: so many bytes were read from there.
                source = unsafe { source.add(done) };
                offset += done as u64;
                len -= done;
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// Give the memory of `len` bytes at `offset` back to the system; they read as zeros afterwards.
pub fn punch(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(
        fd,
        FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE,
        offset,
        len,
    )?)
}

/// Whether the file cannot shrink, so that a mapping of it never raises a signal.
pub fn is_sealed(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK))
}

/// Size of the file behind `fd` in bytes.
pub fn size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::fs::fstat(fd)?.st_size as u64)
}

/// How a mapping relates to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Writes are seen by everybody.
    Shared,
    /// Writes stay in this process (copy on write).
    Private,
}

/// A mapped range of a memory file; unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    /// The only process that has it, if its forked children do not; else 0.
    only_in: AtomicU32,
}

// SAFETY: a mapping is plain memory; whoever reads or writes it goes through raw
// pointers or atomics and carries the proof for that access.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Map `len` bytes of `fd` from `offset` (a multiple of the page size), readable and writable.
    pub fn new(fd: impl AsFd, offset: u64, len: usize, sharing: Sharing) -> io::Result<Self> {
        let flags = match sharing {
            Sharing::Shared => MapFlags::SHARED,
            Sharing::Private => MapFlags::PRIVATE | MapFlags::NORESERVE,
        };
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses a fresh address range; nothing of ours lies there.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len.max(1),
                prot,
                flags,
                fd.as_fd(),
                offset,
            )?
        };
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            base,
            len,
            only_in: AtomicU32::new(0),
        })
    }

    /// Keep this mapping out of core dumps.
    pub fn exclude_from_dumps(&self) {
        self.advise(libc::MADV_DONTDUMP);
    }

    /// Keep this mapping out of forked children, which must not use it.
    pub fn exclude_from_forks(&self) {
        // RELAXED: a child that was forked later sees what its parent stored.
        self.only_in.store(own_pid() as u32, Ordering::Relaxed);
        self.advise(libc::MADV_DONTFORK);
    }

    fn advise(&self, advice: libc::c_int) {
        // SAFETY: the range is exactly this mapping; neither advice changes its contents here.
        // Best effort: a kernel that refuses costs nothing but size of dumps.
        unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, advice) };
    }

    /// Address of the first byte.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is empty (it never is).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of `len` bytes at `offset`, or `None` when they do not lie inside.
    pub fn at(&self, offset: u64, len: u64) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        if end > self.len as u64 {
            return None;
        }
        // SAFETY: `offset <= len` of the mapping, so the result is inside or one past its end.
        Some(unsafe { self.base().add(offset as usize) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let only_in = self.only_in.load(Ordering::Relaxed);
        if only_in != 0 && only_in != own_pid() as u32 {
            return; // whatever lies there in a forked child, it is not this
        }
        // SAFETY: `base` and `len` come from mmap, and nobody holds a pointer into a
        // mapping without holding the mapping (through an `Arc`).
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len.max(1)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_unmaps_nothing_that_it_does_not_have() {
        let file = create("test", page_size()).unwrap();
        let map = Mapping::new(&file, 0, page_size(), Sharing::Shared).unwrap();
        map.exclude_from_forks();
        let base = map.base();
        // SAFETY: the child calls nothing that allocates or locks, and ends; it puts a page of its own where
        // its parent's mapping is, and looks whether that outlives the mapping's end.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe {
                let (prot, flags) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
                let at = libc::MAP_FIXED_NOREPLACE | flags;
                let page = libc::mmap(base.cast(), page_size(), prot, at, -1, 0);
                drop(map);
                let lost = libc::msync(base.cast(), page_size(), libc::MS_ASYNC) != 0;
                libc::_exit(i32::from(page != base.cast() || lost));
            }
        }
        let mut status = 0;
        // SAFETY: the child is ours, and `status` is written by the call.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
    }
}
