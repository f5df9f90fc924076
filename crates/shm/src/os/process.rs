//! Processes: descriptors for them, signals, ends, limits.

use crate::prim::{AtomicU32, Ordering};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

/// A descriptor for process `pid`, which must be a child or known to live.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// A descriptor for `pid`, a child that was just born. Without one nobody could watch over it: then it is ended.
pub fn open_newborn(pid: i32) -> io::Result<OwnedFd> {
    open(pid).inspect_err(|_| {
        kill_pid(pid);
        reap_blocking(pid);
    })
}

/// A descriptor for the calling process.
pub fn open_self() -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(
        rustix::process::getpid(),
        PidfdFlags::empty(),
    )?)
}

/// Process id of the caller, asked of the system once a process.
///
/// It is kept in a page that the kernel clears in forked children, however they were forked.
pub fn own_pid() -> i32 {
    static KEPT: OnceLock<Option<&'static AtomicU32>> = OnceLock::new();
    let ask = || rustix::process::getpid().as_raw_nonzero().get();
    let Some(kept) = KEPT.get_or_init(page_wiped_by_forks) else {
        return ask();
    };
    // RELAXED, both: every thread of a process stores the same.
    match kept.load(Ordering::Relaxed) {
        0 => {
            let pid = ask();
            kept.store(pid as u32, Ordering::Relaxed);
            pid
        }
        pid => pid as i32,
    }
}

/// A word that is 0 at first, and again in each forked child; `None` where the kernel has no such thing.
fn page_wiped_by_forks() -> Option<&'static AtomicU32> {
    use rustix::mm::{Advice, MapFlags, ProtFlags};
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    let size = super::memory::page_size();
    // SAFETY: a fresh page of our own, never unmapped. It is zeros, which is a valid atomic.
    unsafe {
        let page =
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), size, protection, flags).ok()?;
        rustix::mm::madvise(page, size, Advice::LinuxWipeOnFork).ok()?;
        Some(&*page.cast())
    }
}

/// Whether a signal is one that the kernel, or the program itself, answers a program's own fault with.
pub fn is_fault(signal: i32) -> bool {
    const FAULTS: [i32; 9] = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGABRT,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGSYS,
        libc::SIGTRAP,
        libc::SIGXCPU,
        libc::SIGXFSZ,
    ];
    FAULTS.contains(&signal)
}

/// Send a signal through a process descriptor: never to a recycled id.
pub fn signal(process: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    let signal = Signal::from_named_raw(number).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_send_signal(process, signal)?)
}

/// Send SIGKILL to a process id that the caller knows to be its own descendant.
pub fn kill_pid(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It returned this code.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
    /// It ended, and somebody else took the reason.
    Unknown,
}

/// Reap child `pid` if it has ended: how, and its peak resident memory in KiB.
pub fn reap(pid: i32) -> Option<(End, u64)> {
    loop {
        let mut status = 0;
        // SAFETY: `usage` is plain data that the call fills; zeroed is a valid value of it.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live locals.
        let reaped = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) };
        if reaped == 0 {
            return None;
        }
        if reaped < 0 {
            if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Some((End::Unknown, 0)); // somebody else reaped it
        }
        let end = if libc::WIFEXITED(status) {
            End::Exited(libc::WEXITSTATUS(status))
        } else {
            End::Signalled(libc::WTERMSIG(status))
        };
        return Some((end, usage.ru_maxrss as u64));
    }
}

/// Wait until one of `fds` is readable or hung up; gives a flag for each.
///
/// `None` waits for ever. An interrupted wait reports nothing ready.
pub fn poll(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut entries: Vec<PollFd<'_>> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    let limit = timeout.map(|t| rustix::event::Timespec {
        tv_sec: t.as_secs() as i64,
        tv_nsec: i64::from(t.subsec_nanos()),
    });
    match rustix::event::poll(&mut entries, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(rustix::io::Errno::INVAL) => poll_in_parts(&mut entries, timeout),
        Err(error) => return Err(error.into()),
    }
    Ok(entries
        .iter()
        .map(|entry| !entry.revents().is_empty())
        .collect())
}

/// Poll more descriptors than this process may have open by now, some at a time.
fn poll_in_parts(entries: &mut [PollFd<'_>], timeout: Option<Duration>) {
    const PAUSE: Duration = Duration::from_millis(5);
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let most = most.map_or(usize::MAX, |most| most.max(1) as usize);
    let begun = now_ns();
    loop {
        let at_once = rustix::event::Timespec::default();
        let look = |part| rustix::event::poll(part, Some(&at_once)).unwrap_or(0);
        let ready: usize = entries.chunks_mut(most).map(look).sum();
        let passed = Duration::from_nanos(now_ns() - begun);
        let left = timeout.map_or(PAUSE, |timeout| timeout.saturating_sub(passed));
        if ready > 0 || left.is_zero() {
            return;
        }
        pause(left.min(PAUSE));
    }
}

/// What ended a [`poll_or_hangup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The descriptor at this position; the peer comes last.
    By(usize),
    /// A descriptor was closed behind the back of its owner: nothing can be heard any more.
    Deaf,
}

/// Wait until one of `readable` can be read or `peer` hangs up; `None` when interrupted.
pub fn poll_or_hangup(readable: &[BorrowedFd<'_>], peer: BorrowedFd<'_>) -> Option<Woken> {
    let mut entries: Vec<PollFd<'_>> = readable
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    entries.push(PollFd::from_borrowed_fd(peer, PollFlags::RDHUP));
    let _ = rustix::event::poll(&mut entries, None);
    let closed = |entry: &PollFd<'_>| entry.revents().contains(PollFlags::NVAL);
    if entries.iter().any(closed) {
        return Some(Woken::Deaf);
    }
    let woken = entries.iter().position(|entry| !entry.revents().is_empty());
    woken.map(Woken::By)
}

/// Process id of the parent.
pub fn parent() -> i32 {
    rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get())
}

/// Whether the process behind a descriptor has ended.
pub fn has_ended(process: impl AsFd) -> bool {
    poll(&[process.as_fd()], Some(Duration::ZERO)).is_ok_and(|ready| ready[0])
}

/// Have process `pid` go on, which somebody stopped.
pub fn continue_pid(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, Signal::CONT);
    }
}

/// Have the caller continued, if it is stopped, when the thread that made it ends: then it can notice.
pub fn continue_with_parents_end() {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::CONT));
}

/// Adopt orphaned descendants, so that they can be found and ended.
pub fn adopt_orphans() {
    let _ = rustix::process::set_child_subreaper(Pid::from_raw(own_pid()));
}

/// Block all signals in the calling thread: signals belong to Python's main thread.
pub fn block_signals() {
    // SAFETY: `set` is initialised by sigfillset before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Process ids of the direct children of `pid` (all threads), from `/proc`.
pub fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for task in tasks.flatten() {
        if let Ok(text) = std::fs::read_to_string(task.path().join("children")) {
            found.extend(
                text.split_ascii_whitespace()
                    .filter_map(|word| word.parse::<i32>().ok()),
            );
        }
    }
    found
}

/// Whether the calling process has children, ended or not. Of a process that adopts orphans: descendants.
pub fn has_children() -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::All, look), Err(rustix::io::Errno::CHILD))
}

/// Process ids of the caller's children that have not ended.
pub fn living_children() -> Vec<i32> {
    own_children(|pid| !is_zombie(pid))
}

/// Process ids of the caller's children that have ended, and that nobody has waited for yet.
pub fn ended_children() -> Vec<i32> {
    own_children(is_zombie)
}

fn own_children(wanted: impl Fn(i32) -> bool) -> Vec<i32> {
    if !has_children() {
        return Vec::new();
    }
    let mut found = children(own_pid());
    found.retain(|pid| wanted(*pid));
    found
}

/// The parent of `pid` at this moment, its parent, and so on.
fn ancestors(pid: i32) -> impl Iterator<Item = i32> {
    let parent = |pid: &i32| stat_field::<i32>(*pid, 4).filter(|parent| *parent > 0);
    std::iter::successors(parent(&pid), parent)
}

/// All descendants of `pid` at this moment, parents before children.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut found = children(pid);
    let mut next = 0;
    while next < found.len() {
        found.extend(children(found[next]));
        next += 1;
    }
    found
}

/// End every descendant of the calling process and reap what it adopts; bounded.
pub fn end_descendants() {
    for _ in 0..1000 {
        let family = descendants(own_pid());
        if family.is_empty() {
            return;
        }
        for pid in family {
            kill_pid(pid);
        }
        // SAFETY: a null status pointer is allowed; the call touches no memory of ours.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
        pause(Duration::from_millis(1));
    }
}

/// Soft limits of this process, which those it starts inherit.
pub fn limits() -> [Option<u64>; 9] {
    use rustix::process::{Resource, getrlimit};
    [
        Resource::As,
        Resource::Core,
        Resource::Cpu,
        Resource::Data,
        Resource::Fsize,
        Resource::Memlock,
        Resource::Nofile,
        Resource::Nproc,
        Resource::Stack,
    ]
    .map(|resource| getrlimit(resource).current)
}

/// Sleep for `time`.
pub fn pause(time: Duration) {
    let _ = poll(&[], Some(time));
}

/// Bytes waiting in a pipe, asked at either end.
pub fn bytes_waiting(pipe: impl AsFd) -> usize {
    rustix::io::ioctl_fionread(pipe).map_or(0, |n| n as usize)
}

/// A pipe, both ends close-on-exec: (read, write). The read end does not block.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let flags = rustix::fs::fcntl_getfl(&read)?;
    rustix::fs::fcntl_setfl(&read, flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok((read, write))
}

/// Read what is there into `buffer`; `Ok(0)` at the end, `WouldBlock` when nothing waits.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(fd, buffer)?)
}

/// An event counter for waking a poller: close-on-exec, not blocking.
pub fn event() -> io::Result<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Make an event counter readable.
pub fn ring(event: impl AsFd) {
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

/// Make an event counter unreadable again.
pub fn hush(event: impl AsFd) {
    let _ = rustix::io::read(event, &mut [0u8; 8]);
}

/// A number that no other process, here or elsewhere, is likely to get.
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => (now_ns() << 20) ^ own_pid() as u64, // a system without it: unlike those of its neighbours
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the same for all processes of the machine.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// End this process at once, running nothing of its exit handlers.
pub fn leave(code: i32) -> ! {
    // SAFETY: never returns; skips handlers on purpose.
    unsafe { libc::_exit(code) }
}

/// Wait for a child that was just killed, and forget it.
pub fn reap_blocking(pid: i32) {
    // SAFETY: a null status pointer is allowed.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// What `/proc/PID/stat` says from its third field on.
fn stat(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, in parentheses, may hold anything.
    Some(stat.rsplit_once(')')?.1.to_owned())
}

/// Field `number` (from 3 on, as in the manual) of what [`stat`] gives.
fn field<T: std::str::FromStr>(stat: &str, number: usize) -> Option<T> {
    stat.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

fn stat_field<T: std::str::FromStr>(pid: i32, number: usize) -> Option<T> {
    field(&stat(pid)?, number)
}

/// When process `pid` started, in clock ticks since boot: with the id, its identity.
pub fn start_time(pid: i32) -> Option<u64> {
    stat_field(pid, 22)
}

/// The moment of the monotonic clock in the ticks of [`start_time`].
///
/// The one stands still while the machine sleeps, the other does not: a sleep since then is not seen.
pub fn ticks_at(moment_ns: u64) -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let since_boot = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    let then = since_boot.saturating_sub(now_ns().saturating_sub(moment_ns));
    (u128::from(then) * u128::from(rustix::param::clock_ticks_per_second()) / 1_000_000_000) as u64
}

/// Whether process `pid` has ended, and nobody has waited for it yet.
pub fn is_zombie(pid: i32) -> bool {
    stat_field(pid, 3) == Some('Z')
}

/// Whether somebody has stopped process `pid`: SIGSTOP, or a terminal.
pub fn is_stopped(pid: i32) -> bool {
    stat_field(pid, 3) == Some('T')
}

/// Name the calling process, for `ps` and `top`: the command's own name, and the line it was started with.
///
/// The line is written over, so no more of `title` is seen there than the line had bytes.
pub fn set_title(title: &str) {
    let mut name = title.as_bytes()[..title.len().min(15)].to_vec();
    name.push(0);
    let _ =
        rustix::thread::set_name(std::ffi::CStr::from_bytes_until_nul(&name).unwrap_or_default());
    let Some((start, end)) = command_line() else {
        return;
    };
    let shown = &title.as_bytes()[..title.len().min(end - start - 1)];
    // SAFETY: the kernel says that these bytes hold the strings of `argv`. They lie above the main
    // thread's stack, stay mapped, and nobody looks at them once the program has read its arguments.
    unsafe {
        let line = start as *mut u8;
        line.write_bytes(0, end - start);
        line.copy_from_nonoverlapping(shown.as_ptr(), shown.len());
    }
}

/// Where the line lies in memory that this process was started with.
fn command_line() -> Option<(usize, usize)> {
    let stat = stat(own_pid())?;
    let (start, end) = (field(&stat, 48)?, field(&stat, 49)?);
    (start < end).then_some((start, end))
}

/// What a process that is gone has left behind: programs and forks that it started, wherever they are.
#[derive(Clone, Copy, Debug)]
pub struct Legacy<'a> {
    /// An entry of the environment that its programs got.
    pub marker: &'a str,
    /// A socket that it alone held, and that its forks hold too.
    pub socket: u64,
    /// A moment before it started, in clock ticks: what is older is not its.
    pub since: u64,
}

impl Legacy<'_> {
    /// The processes' ids.
    pub fn find(&self) -> Vec<i32> {
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        let pids = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            start_time(*pid).is_some_and(|started| started >= self.since)
                && (self.has_marker(*pid) || self.has_socket(*pid))
        })
        .collect()
    }

    fn has_marker(&self, pid: i32) -> bool {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|entry| entry == self.marker.as_bytes())
    }

    /// Children of the caller, and theirs, do not count: it may have forked one just when it held the socket.
    fn has_socket(&self, pid: i32) -> bool {
        let name = format!("socket:[{}]", self.socket);
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd"));
        let holds = fds.is_ok_and(|fds| {
            fds.flatten()
                .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == &*name))
        });
        holds && !ancestors(pid).any(|ancestor| ancestor == own_pid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_pid_is_asked_again_in_a_forked_child() {
        let here = own_pid();
        assert_eq!(here, std::process::id() as i32);
        // SAFETY: the child calls nothing that allocates or locks, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let told = own_pid();
            // SAFETY: as above.
            unsafe { libc::_exit(i32::from(told == here || told != libc::getpid())) };
        }
        let mut status = 0;
        // SAFETY: the child is ours, and `status` is written by the call.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
        assert_eq!(own_pid(), here);
    }

    #[test]
    fn a_newborn_that_nobody_can_watch_is_ended_and_reaped() {
        // SAFETY: the child allocates nothing and takes no lock, and ends; so does its own, which waits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let none = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: as above; the limit is read from a live local.
            unsafe {
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none);
                let newborn = libc::fork();
                if newborn == 0 {
                    libc::pause();
                }
                let refused = open_newborn(newborn).is_err();
                let left = libc::waitpid(-1, std::ptr::null_mut(), 0) > 0;
                libc::_exit(i32::from(!refused || left));
            }
        }
        let mut status = 0;
        // SAFETY: the child is ours, and `status` is written by the call.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
    }
}
