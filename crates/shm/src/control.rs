//! The control segment of one pool: header, worker rows, task slots, bitmaps.
//!
//! ```text
//! +--------+------------+-----------------+-----------+---------------------------+
//! | Header | rows: Row  | sleepers bitmap | done bits | slots: Slot (448 B each)  |
//! +--------+------------+-----------------+-----------+---------------------------+
//! ```
//!
//! Every field is an atomic, because any process of the pool may be writing it;
//! nothing here is ever borrowed as a plain reference. Offsets are computed from
//! the counts in the header, which each process checks once when it attaches.

use crate::os::{futex, memory, process};
use crate::prim::{AtomicU32, AtomicU64, Ordering};
use crate::view::{View, bitmap_words};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

const MAGIC: u64 = u64::from_le_bytes(*b"bireme\x00\x01");
/// Bytes of arguments or result that fit in the slot itself.
pub const INLINE_BYTES: usize = 128;

/// Orders to the workers, in [`Header::orders`].
pub mod order {
    /// Leave when idle.
    pub const LEAVE: u32 = 1;
}

/// What the whole pool shares.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Header {
    magic: AtomicU64,
    slots: AtomicU32,
    rows: AtomicU32,
    /// `order::*` bits. Written by the client.
    pub orders: AtomicU32,
    /// Cores this pool may use: spinning stops when more processes are awake. Written once.
    pub cores: AtomicU32,
    /// Nonzero while the client holds tasks back for want of slots: workers ring when the queue runs dry.
    pub backlog: AtomicU32,
    /// Workers that live. Written by the client.
    pub alive: AtomicU32,
    /// A number of this pool's own. Written once.
    pool: AtomicU64,
    _pad0: [AtomicU32; 4],
    tail: Line<AtomicU64>,
    head: Line<AtomicU64>,
    spinner: Line<AtomicU32>,
    wish: Line<AtomicU32>,
    done_summary: Line<AtomicU64>,
    /// Bytes of real memory in the client's arena. Written by the client.
    pub client_bytes: Line<AtomicU64>,
    /// Limit of [`Control::arena_bytes`]. Written once.
    pub arena_limit: Line<AtomicU64>,
}

/// A value alone on its cache line.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Line<T>(pub T);

/// One worker.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct Row {
    /// Sleeping word.
    pub park: AtomicU32,
    /// `row_flag::*` bits: what the client asks of this worker alone.
    pub flags: AtomicU32,
    /// Process id. Written by the client at birth.
    pub pid: AtomicU32,
    /// Slot index + 1 that it runs, 0 when none. A hint for deadlines; the slot's word decides.
    pub current: AtomicU32,
    /// Claims finished. Written by the worker.
    pub claims: AtomicU64,
    /// Items finished. Written by the worker.
    pub items: AtomicU64,
    /// Nanoseconds spent in tasks. Written by the worker.
    pub busy_ns: AtomicU64,
    /// Bytes of real memory in its arena. Written by the worker; the client clears it after a death.
    pub arena_bytes: AtomicU64,
    _rest: [AtomicU64; 9],
}

/// Bits of [`Row::flags`].
pub mod row_flag {
    /// Finish the task at hand and leave.
    pub const RETIRE: u32 = 1;
    /// Set by the worker itself when it leaves as agreed.
    pub const LEFT: u32 = 2;
    /// Messages wait in the control socket.
    pub const MAIL: u32 = 4;
    /// The last word of a worker that leaves: nobody stays behind that it has started.
    pub const ALONE: u32 = 8;
}

/// Where a message lies: in the slot (`segment == 0`) or in an arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Id of the arena segment; 0 for the slot's own bytes.
    pub segment: u32,
    /// Bit of the segment's release map that frees the block.
    pub ticket: u32,
    /// Offset in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A [`Location`] in shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct SharedLocation {
    segment: AtomicU32,
    ticket: AtomicU32,
    offset: AtomicU64,
    len: AtomicU64,
}

impl SharedLocation {
    /// Store; published by the slot's word.
    pub fn store(&self, location: Location) {
        // RELAXED, all: the slot's word publishes them.
        self.segment.store(location.segment, Ordering::Relaxed);
        self.ticket.store(location.ticket, Ordering::Relaxed);
        self.offset.store(location.offset, Ordering::Relaxed);
        self.len.store(location.len, Ordering::Relaxed);
    }

    /// Load, after the slot's word was acquired.
    pub fn load(&self) -> Location {
        Location {
            segment: self.segment.load(Ordering::Relaxed),
            ticket: self.ticket.load(Ordering::Relaxed),
            offset: self.offset.load(Ordering::Relaxed),
            len: self.len.load(Ordering::Relaxed),
        }
    }
}

/// One task. The submitter writes all up to `inline_args` before `Queued`; the worker
/// writes the rest between `Running` and `Done`.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Slot {
    word: AtomicU64,
    /// Which function: never reused while the pool lives.
    pub function: AtomicU64,
    /// Where its pickle lies, for a worker that has not seen it.
    pub function_at: SharedLocation,
    /// How the arguments are encoded, and what to do with them (the binding's business).
    pub kind: AtomicU32,
    /// Attempt number, from 0.
    pub attempt: AtomicU32,
    /// Where the arguments are.
    pub args_at: SharedLocation,
    /// First item of the payload to run.
    pub first: AtomicU64,
    /// One past the last item to run.
    pub last: AtomicU64,
    /// Index of item 0 of the payload within the whole call.
    pub base: AtomicU64,
    /// Limit of one item in nanoseconds; 0 for none.
    pub timeout_ns: AtomicU64,
    /// Seed of the call, when `kind` says that there is one.
    pub seed: AtomicU64,
    /// Item in progress, and the one to blame when the worker dies.
    pub progress: Line<AtomicU64>,
    /// When the item in progress began (`CLOCK_MONOTONIC`, nanoseconds); 0 when not timed.
    pub started_ns: AtomicU64,
    /// One past the last item that ran: below `last` when the rest was handed back.
    pub upto: AtomicU64,
    /// How the result is encoded (the binding's business).
    pub result_kind: AtomicU32,
    /// `result_flag::*` bits.
    pub result_flags: AtomicU32,
    /// Where the result is.
    pub result_at: SharedLocation,
    inline_args: [AtomicU64; INLINE_BYTES / 8],
    inline_result: [AtomicU64; INLINE_BYTES / 8],
}

/// Bits of [`Slot::result_flags`].
pub mod result_flag {
    /// The worker sent messages (log records, segments) before `Done`.
    pub const MESSAGES: u32 = 1;
    /// The worker wrote to its standard output or error.
    pub const OUTPUT: u32 = 2;
}

impl Slot {
    /// Copy `bytes` (at most [`INLINE_BYTES`]) into the argument area.
    pub fn write_inline_args(&self, bytes: &[u8]) {
        write_words(&self.inline_args, bytes);
    }

    /// Copy `bytes` (at most [`INLINE_BYTES`]) into the result area.
    pub fn write_inline_result(&self, bytes: &[u8]) {
        write_words(&self.inline_result, bytes);
    }

    /// Copy `len` bytes out of the argument area; clipped to its size.
    pub fn read_inline_args(&self, len: u64) -> ([u8; INLINE_BYTES], usize) {
        read_words(&self.inline_args, len)
    }

    /// Copy `len` bytes out of the result area; clipped to its size.
    pub fn read_inline_result(&self, len: u64) -> ([u8; INLINE_BYTES], usize) {
        read_words(&self.inline_result, len)
    }
}

fn write_words(words: &[AtomicU64], bytes: &[u8]) {
    debug_assert!(bytes.len() <= INLINE_BYTES);
    for (word, chunk) in words.iter().zip(bytes.chunks(8)) {
        let mut raw = [0; 8];
        raw[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_le_bytes(raw), Ordering::Relaxed); // RELAXED: the slot's word publishes it
    }
}

fn read_words(words: &[AtomicU64], len: u64) -> ([u8; INLINE_BYTES], usize) {
    let len = (len as usize).min(INLINE_BYTES);
    let mut out = [0; INLINE_BYTES];
    for (word, chunk) in words.iter().zip(out.chunks_mut(8)).take(len.div_ceil(8)) {
        chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes()); // RELAXED: after an acquire of the word
    }
    (out, len)
}

/// The mapped control segment.
#[derive(Debug)]
pub struct Control {
    fd: OwnedFd,
    map: memory::Mapping,
    slots: usize,
    rows: usize,
    at: Offsets,
}

#[derive(Clone, Copy, Debug)]
struct Offsets {
    rows: usize,
    sleepers: usize,
    done: usize,
    slots: usize,
    total: usize,
}

impl Offsets {
    fn new(slots: usize, rows: usize) -> Self {
        let after_header = size_of::<Header>().next_multiple_of(128);
        let sleepers = after_header + rows * size_of::<Row>();
        let done = sleepers + (bitmap_words(rows) * 8).next_multiple_of(64);
        let first_slot = (done + bitmap_words(slots) * 8).next_multiple_of(64);
        Self {
            rows: after_header,
            sleepers,
            done,
            slots: first_slot,
            total: first_slot + slots * size_of::<Slot>(),
        }
    }
}

impl Control {
    /// Make a control segment with `slots` (a power of two) and `rows` workers.
    ///
    /// # Panics
    /// If `slots` is no power of two, or `rows` is 0 or above 65,535.
    pub fn create(slots: usize, rows: usize, cores: u32, arena_limit: u64) -> io::Result<Self> {
        assert!(slots.is_power_of_two() && rows > 0 && u16::try_from(rows).is_ok());
        let at = Offsets::new(slots, rows);
        let fd = memory::create("bireme-control", at.total)?;
        let control = Self::map(fd, slots, rows, at)?;
        let header = control.header();
        header.slots.store(slots as u32, Ordering::Relaxed);
        header.rows.store(rows as u32, Ordering::Relaxed);
        header.cores.store(cores, Ordering::Relaxed);
        header.pool.store(process::random(), Ordering::Relaxed);
        header.arena_limit.0.store(arena_limit, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release);
        Ok(control)
    }

    /// Attach to the segment behind `fd`, checking that it is one of ours.
    pub fn attach(fd: OwnedFd) -> io::Result<Self> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        if !memory::is_sealed(fd.as_fd()) {
            return Err(invalid("a control segment that may shrink"));
        }
        let size = memory::size(fd.as_fd())? as usize;
        if size < size_of::<Header>() {
            return Err(invalid("too small for a control segment"));
        }
        let probe = Self::map(
            fd.try_clone()?,
            1,
            1,
            Offsets {
                total: size_of::<Header>(),
                ..Offsets::new(1, 1)
            },
        )?;
        if probe.header().magic.load(Ordering::Acquire) != MAGIC {
            return Err(invalid("not a control segment of this version of bireme"));
        }
        let slots = probe.header().slots.load(Ordering::Relaxed) as usize;
        let rows = probe.header().rows.load(Ordering::Relaxed) as usize;
        let at = Offsets::new(slots.max(1), rows.max(1));
        if !slots.is_power_of_two() || rows == 0 || u16::try_from(rows).is_err() || at.total != size
        {
            return Err(invalid("control segment with impossible sizes"));
        }
        Self::map(fd, slots, rows, at)
    }

    fn map(fd: OwnedFd, slots: usize, rows: usize, at: Offsets) -> io::Result<Self> {
        let map = memory::Mapping::new(&fd, 0, at.total, memory::Sharing::Shared)?;
        map.exclude_from_dumps();
        Ok(Self {
            fd,
            map,
            slots,
            rows,
            at,
        })
    }

    /// What the worker born as number `serial` of this pool marks its programs with: no other worker of any
    /// pool, program or container has it.
    pub fn mark_of(&self, serial: u32) -> String {
        let pool = self.header().pool.load(Ordering::Relaxed); // RELAXED: written once
        format!("{pool:016x}:{serial}")
    }

    /// Keep the segment out of forked children of this process.
    pub fn exclude_from_forks(&self) {
        self.map.exclude_from_forks();
    }

    /// The descriptor to pass to other processes.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn array<T>(&self, offset: usize, index: usize, count: usize) -> &T {
        assert!(index < count, "index {index} out of {count}");
        // SAFETY: `offset + count * size_of::<T>()` lies inside the mapping by the
        // computation in `Offsets::new`, whose total is the mapped length; offsets are aligned
        // for `T` (at most 128, and mappings start on a page). `T` consists of atomics only, so a
        // shared reference to memory that others write is sound; zeroed bytes are valid.
        unsafe { &*self.map.base().add(offset).cast::<T>().add(index) }
    }

    /// The header.
    pub fn header(&self) -> &Header {
        self.array(0, 0, 1)
    }

    /// Row `index`.
    pub fn row(&self, index: usize) -> &Row {
        self.array(self.at.rows, index, self.rows)
    }

    /// Bytes of real memory held by all arenas of the pool.
    pub fn arena_bytes(&self) -> u64 {
        // SYNC(budget): each process counts its own before it adds up.
        let rows = (0..self.rows).map(|row| &self.row(row).arena_bytes);
        rows.chain([&self.header().client_bytes.0])
            .map(|bytes| bytes.load(Ordering::SeqCst))
            .fold(0, u64::saturating_add)
    }

    /// Slot `index`.
    pub fn slot(&self, index: usize) -> &Slot {
        self.array(self.at.slots, index, self.slots)
    }
}

impl View for Control {
    fn slots(&self) -> usize {
        self.slots
    }
    fn rows(&self) -> usize {
        self.rows
    }
    fn word(&self, index: usize) -> &AtomicU64 {
        &self.slot(index).word
    }
    fn tail(&self) -> &AtomicU64 {
        &self.header().tail.0
    }
    fn head(&self) -> &AtomicU64 {
        &self.header().head.0
    }
    fn done(&self, index: usize) -> &AtomicU64 {
        self.array(self.at.done, index, bitmap_words(self.slots))
    }
    fn done_summary(&self) -> &AtomicU64 {
        &self.header().done_summary.0
    }
    fn sleepers(&self, index: usize) -> &AtomicU64 {
        self.array(self.at.sleepers, index, bitmap_words(self.rows))
    }
    fn spinner(&self) -> &AtomicU32 {
        &self.header().spinner.0
    }
    fn park(&self, row: usize) -> &AtomicU32 {
        &self.row(row).park
    }
    fn client_wish(&self) -> &AtomicU32 {
        &self.header().wish.0
    }
    fn orders(&self) -> &AtomicU32 {
        &self.header().orders
    }
    fn futex_wait(&self, word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
        futex::wait(word, expected, timeout);
    }
    fn futex_wake(&self, word: &AtomicU32, count: u32) {
        futex::wake(word, count);
    }
}
