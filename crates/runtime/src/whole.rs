//! A segment of its own for one payload that many tasks see in place, and its second life.
//!
//! Fresh pages cost many times what a copy into warm ones does, so the pages of a whole that no task
//! names any more carry the next one. First every worker that was told of it must have let go of its
//! last view: each holds a [`Lease`](bireme_shm::lease::Lease) with a ticket of its own, which is
//! released with that view and never before what forked children see. What a worker does not
//! release because it died is not used again; the kernel frees it with the last mapping.

use crate::share::Share;
use bireme_shm::arena::{ArenaError, Budget};
use bireme_shm::os::{memory, process};
use bireme_shm::segment::{HEADER_BYTES, Segment, TICKETS};
use std::collections::HashMap;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak, mpsc};

/// The memory of a whole, counted until dropped.
#[derive(Debug)]
struct Pages {
    segment: Arc<Segment>,
    share: Share,
}

impl Pages {
    fn len(&self) -> u64 {
        self.segment.size() - HEADER_BYTES
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.share.shrink(self.len());
    }
}

/// A segment that carries one payload for many tasks.
#[derive(Debug)]
pub struct Whole {
    pages: ManuallyDrop<Pages>,
    len: u64,
    gone: mpsc::Sender<Pages>,
    kick: Arc<OwnedFd>,
    /// Process that gives it up: a forked child inherits the object only.
    owner: i32,
}

impl Whole {
    /// Its segment's id; the bytes begin at `HEADER_BYTES`.
    pub fn id(&self) -> u32 {
        self.pages.segment.id()
    }

    /// Number of its bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Write `len` bytes from `source` to offset `at` of its bytes, before any task names it.
    ///
    /// # Safety
    /// The source is readable. It may change meanwhile: then some of both is written.
    ///
    /// # Errors
    /// When the system has no memory for it, or it would end beyond the last byte.
    pub unsafe fn write(&self, at: usize, source: *const u8, len: usize) -> Result<(), ArenaError> {
        let refused = |source| ArenaError::System {
            needed: self.len,
            source,
        };
        if at as u64 + len as u64 > self.len {
            return Err(refused(io::ErrorKind::InvalidInput.into()));
        }
        let offset = HEADER_BYTES + at as u64;
        // SAFETY: the caller's word.
        unsafe { memory::write_at(self.pages.segment.fd(), offset, source, len) }.map_err(refused)
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if self.owner != process::own_pid() {
            return;
        }
        // SAFETY: taken once, here, and not touched again.
        let pages = unsafe { ManuallyDrop::take(&mut self.pages) };
        if self.gone.send(pages).is_ok() {
            process::ring(&self.kick); // or the supervisor would sleep on while nothing else happens
        }
    }
}

/// Stands for a ticket whose release would say nothing.
const NEVER: u32 = u32::MAX;

/// Whom a segment was sent to: its ticket, and the worker's serial number.
type Lent = Vec<(u32, u32)>;

#[derive(Debug)]
struct Live {
    segment: Weak<Segment>,
    lent: Lent,
}

/// Pages that no task will name again, until those they were lent to have let go of them.
#[derive(Debug)]
struct Resting {
    pages: Pages,
    lent: Lent,
    since_ns: u64,
}

/// The wholes of one client.
#[derive(Debug)]
pub(crate) struct Wholes {
    live: HashMap<u32, Live>,
    resting: Vec<Resting>,
    gone: (mpsc::Sender<Pages>, mpsc::Receiver<Pages>),
    last: u32,
}

impl Wholes {
    pub(crate) fn new() -> Self {
        Self {
            live: HashMap::new(),
            resting: Vec::new(),
            gone: mpsc::channel(),
            last: 0,
        }
    }

    /// Make a whole of `len` bytes.
    ///
    /// Its segment is a little larger, so that it fits the next payload of about that size: the same array
    /// with other arguments beside it. The kernel gives no memory to what is not used.
    ///
    /// `lives` tells of a worker, by its serial number, whether it lives; `trim` gives back what
    /// else of the budget is not in use.
    pub(crate) fn make(
        &mut self,
        len: u64,
        share: Share,
        kick: &Arc<OwnedFd>,
        lives: impl Fn(u32) -> bool,
        trim: impl FnOnce(),
    ) -> Result<(Whole, Arc<Segment>), ArenaError> {
        self.last += 1;
        // Above all ids of arenas' segments.
        let id = 0xf000_0000 | (self.last & 0x0fff_ffff);
        let refused = |source| ArenaError::System {
            needed: len,
            source,
        };
        let room = len + len / 64;
        let pages = if let Some(mut warm) = self.warm(len, lives) {
            warm.segment = Arc::new(warm.segment.renamed(id).map_err(refused)?);
            warm
        } else {
            if share.grow(room).is_err() {
                self.resting.clear();
                trim();
                share.reserve(room)?;
            }
            let segment = Segment::create(id, room + HEADER_BYTES).map_err(|source| {
                share.shrink(room);
                refused(source)
            })?;
            let segment = Arc::new(segment);
            Pages { segment, share }
        };
        let segment = Arc::clone(&pages.segment);
        let live = Live {
            segment: Arc::downgrade(&segment),
            lent: Vec::new(),
        };
        self.live.insert(id, live);
        let whole = Whole {
            pages: ManuallyDrop::new(pages),
            len,
            gone: self.gone.0.clone(),
            kick: Arc::clone(kick),
            owner: process::own_pid(),
        };
        Ok((whole, segment))
    }

    /// Pages that everybody has let go of and that `len` bytes fill by half at least.
    fn warm(&mut self, len: u64, lives: impl Fn(u32) -> bool) -> Option<Pages> {
        self.resting.retain_mut(|resting| {
            let Resting { pages, lent, .. } = resting;
            let segment = &pages.segment;
            segment.take_released(|ticket| lent.retain(|(lent, _)| *lent != ticket));
            lent.iter().all(|(_, serial)| lives(*serial))
        });
        let fits = |resting: &Resting| {
            resting.lent.is_empty() && (len..=2 * len).contains(&resting.pages.len())
        };
        let best = (0..self.resting.len())
            .filter(|index| fits(&self.resting[*index]))
            .min_by_key(|index| self.resting[*index].pages.len())?;
        Some(self.resting.swap_remove(best).pages)
    }

    /// The ticket of the segment with this id for the worker with a serial number.
    pub(crate) fn lend(&mut self, id: u32, serial: u32) -> u32 {
        let Some(live) = self.live.get_mut(&id) else {
            return 0;
        };
        let next = live.lent.len() as u32;
        // The last ticket is everybody's who comes too late for one: nobody waits for its release.
        let (ticket, awaited) = if next < TICKETS - 1 {
            (next, next)
        } else {
            (TICKETS - 1, NEVER)
        };
        live.lent.push((awaited, serial));
        ticket
    }

    /// The segments that tasks may name.
    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        let live = self.live.values();
        live.filter_map(|live| live.segment.upgrade()).collect()
    }

    /// Lay to rest what no task names any more. `forget` is told each id, and gives the serial
    /// numbers of the workers that never heard of it.
    pub(crate) fn rest(&mut self, now_ns: u64, mut forget: impl FnMut(u32) -> Vec<u32>) {
        while let Ok(pages) = self.gone.1.try_recv() {
            let id = pages.segment.id();
            let unsent = forget(id);
            let mut lent = self
                .live
                .remove(&id)
                .map_or_else(Vec::new, |live| live.lent);
            lent.retain(|(_, serial)| !unsent.contains(serial));
            self.resting.push(Resting {
                pages,
                lent,
                since_ns: now_ns,
            });
        }
    }

    /// Give back what has rested since before `limit_ns`, or all.
    pub(crate) fn give_back(&mut self, limit_ns: u64) {
        self.resting.retain(|resting| resting.since_ns >= limit_ns);
    }

    /// Whether something rests.
    pub(crate) fn any_rests(&self) -> bool {
        !self.resting.is_empty()
    }
}
