//! The worker's side of the kernel: claim, run, publish, sleep.
//!
//! A worker has one thread that calls these and one small *watchdog* thread that
//! waits for the client's end. Nothing here blocks except [`sleep`].

use crate::birth::Birth;
use crate::family::Family;
use crate::message::{BirthOrder, Message};
use crate::parts;
use crate::received::{Arrival, Received};
use crate::share::Share;
use crate::watchdog;
use bireme_shm::arena::{Arena, ArenaError, Block};
use bireme_shm::control::{Control, Location, Slot, order, result_flag, row_flag};
use bireme_shm::fail::{self, Point};
use bireme_shm::lease::{self, Lease};
use bireme_shm::os::process;
use bireme_shm::os::socket;
use bireme_shm::park;
use bireme_shm::prim::Ordering;
use bireme_shm::queue::{self, SlotRef};
use bireme_shm::segment::Segment;
use bireme_shm::view::View;
use bireme_shm::word::{State, Word};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Looks at the queue before an idle worker gives the core up: about 50 µs.
const SPIN_ROUNDS: u32 = 3_000;
/// Rounds after which a spinning worker looks whether it takes a core from others: some microseconds.
const SHORT_SPIN: u32 = 128;
/// Idle time after which a worker gives its free memory back.
pub const TRIM_AFTER: Duration = Duration::from_secs(5);

/// What an idle worker should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Run this task.
    Task(SlotRef),
    /// Nothing queued: spin or sleep.
    Idle,
    /// Leave the pool.
    Leave,
}

/// What became of a finished task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// The result is published.
    Published,
    /// The client decided to kill this worker: claim nothing more and wait for the signal.
    Condemned,
    /// Somebody has written over the slot's word: the client ends the task, nobody else is concerned.
    Overwritten,
}

/// Why there is no memory for a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The arena has none.
    #[error(transparent)]
    Full(#[from] ArenaError),
    /// It could not be told to the client.
    #[error("its task has closed the descriptors of its worker")]
    Robbed,
}

/// Where the bytes of a result are.
#[derive(Debug)]
pub enum ResultPlace<'a> {
    /// To be copied into the slot (at most `INLINE_BYTES`).
    Inline(&'a [u8]),
    /// In a block of this worker's arena.
    Block(&'a Block),
}

/// One worker process.
#[derive(Debug)]
pub struct Worker {
    control: Arc<Control>,
    row: usize,
    order: BirthOrder,
    socket: Arc<OwnedFd>,
    bell: OwnedFd,
    arena: Arena<Share>,
    received: Received,
    claims: u32,
    flags: u32,
    family: Family,
    /// The socket's number. Another under its descriptor: a task has closed what was open.
    socket_inode: u64,
    robbed: bool,
    /// Long messages so far.
    told: u32,
    /// Those of them that were begun and will not be finished, until the client knows.
    given_up: Vec<u32>,
}

/// Send a packet; `false` when the peer is slow.
fn send_now(socket: &OwnedFd, packet: &[u8]) -> io::Result<bool> {
    match socket::send(socket, packet, &[]) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Note which item of a running task comes next, and when it begins if its time is limited.
pub fn progress(control: &Control, slot: SlotRef, item: u64) {
    let fields = control.slot(slot.index as usize);
    fail::point(Point::ProgressItem);
    fields.progress.0.store(item, Ordering::Release); // SYNC(progress): read by the client after our death
    if fields.timeout_ns.load(Ordering::Relaxed) != 0 {
        fail::point(Point::ProgressStart);
        let now = process::now_ns();
        fields.started_ns.store(now, Ordering::Release); // SYNC(deadline): read by the supervisor
    }
}

/// Whether others are idle and nothing is queued: the rest of a long chunk is better shared.
pub fn others_starve(control: &Control) -> bool {
    park::someone_idle(control) && queue::looks_empty(control)
}

impl Worker {
    /// Take up the place that `birth` gives. The descriptors that are not the kernel's come back:
    /// boot, story, client, out, err, and those that the initializer is given.
    pub fn attach(birth: Birth) -> io::Result<(Self, [OwnedFd; 5], Vec<OwnedFd>)> {
        let Birth {
            order,
            control,
            boot,
            story,
            client,
            bell,
            out,
            err,
            given,
            socket,
        } = birth;
        fail::arm(order.serial);
        fail::point(Point::BirthAttach);
        let control = Arc::new(Control::attach(control)?);
        let row = order.row as usize;
        let share = Share::of_worker(Arc::clone(&control), row);
        // Ids below 1 << 12 are the client's; each birth has 4096 of its own.
        let arena = Arena::new((order.serial & 0xf_ffff) << 12, share);
        let worker = Self {
            control,
            row,
            order,
            socket_inode: socket::inode(&socket),
            robbed: false,
            socket: Arc::new(socket),
            told: 0,
            given_up: Vec::new(),
            bell,
            arena,
            received: Received::default(),
            claims: 0,
            flags: 0,
            family: Family::default(),
        };
        Ok((worker, [boot, story, client, out, err], given))
    }

    /// Row of this worker.
    pub fn row(&self) -> usize {
        self.row
    }

    /// Number of this birth within the pool.
    pub fn serial(&self) -> u32 {
        self.order.serial
    }

    /// What its programs are known by, in their environment.
    pub fn mark(&self) -> String {
        self.control.mark_of(self.order.serial)
    }

    /// Another handle of the control socket, for the watchdog.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Tell the client that tasks may come.
    pub fn tell_ready(&mut self) -> io::Result<()> {
        self.family.settle(); // what the initializer has started is no task's
        fail::point(Point::BirthReady);
        self.flags |= result_flag::MESSAGES;
        socket::send_blocking(&self.socket, &Message::Ready.encode(), &[])?;
        fail::point(Point::BirthWork);
        Ok(())
    }

    /// The packets to [`tell`](Self::tell) the client `message` with, and its number for [`give_up`](Self::give_up).
    pub fn packets(&mut self, message: &Message) -> (u32, Vec<Vec<u8>>) {
        self.told = self.told.wrapping_add(1);
        (self.told, parts::packets(message, self.told))
    }

    /// Tell the client something, in a packet. `false` when it does not listen just now: wait for the
    /// [`line`](Self::line), without a lock, and try again.
    ///
    /// Most of the socket's buffer stays free for segments, without which no result can be published.
    pub fn tell(&mut self, packet: &[u8]) -> io::Result<bool> {
        self.look_for_robbery();
        if self.robbed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.flags |= result_flag::MESSAGES;
        if !socket::wait_writable(&*self.socket, Duration::ZERO) {
            return Ok(false);
        }
        while let Some(of) = self.given_up.last() {
            if !send_now(&self.socket, &Message::GivenUp(*of).encode())? {
                return Ok(false);
            }
            self.given_up.pop();
        }
        send_now(&self.socket, packet)
    }

    /// Say no more of message number `of`.
    pub fn give_up(&mut self, of: u32) {
        self.given_up.push(of);
    }

    /// What the client is told over.
    pub fn line(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.socket)
    }

    /// Claim a task, or say what else to do.
    pub fn find_work(&mut self) -> Next {
        let full = self.order.max_claims != 0 && self.claims >= self.order.max_claims;
        // RELAXED, both: orders come with a wake, and are looked at again after the announcement.
        let flags = self.control.row(self.row).flags.load(Ordering::Relaxed);
        if full || self.robbed || flags & row_flag::RETIRE != 0 {
            return self.leave();
        }
        if flags & row_flag::MAIL != 0 {
            self.read_mail();
        }
        if let Some(slot) = queue::claim(&*self.control, self.row as u16) {
            self.claims += 1;
            // A burst wakes its workers one after the other.
            if park::someone_idle(&*self.control) && !queue::looks_empty(&*self.control) {
                fail::point(Point::ClaimWake);
                park::wake_one(&*self.control);
            }
            return Next::Task(slot);
        }
        if self.control.header().orders.load(Ordering::Relaxed) & order::LEAVE != 0 {
            return self.leave();
        }
        Next::Idle
    }

    fn read_mail(&mut self) {
        let flags = &self.control.row(self.row).flags;
        flags.fetch_and(!row_flag::MAIL, Ordering::SeqCst); // SYNC(mail): before reading
        let _ = self.read_socket();
    }

    /// Segments that will not be named again: what was made of their bytes may go.
    pub fn take_forgotten(&mut self) -> Vec<u32> {
        self.received.take_forgotten()
    }

    fn leave(&self) -> Next {
        fail::point(Point::LeaveFlag);
        self.control
            .row(self.row)
            .flags
            .fetch_or(row_flag::LEFT, Ordering::Relaxed); // RELAXED: read after our death
        fail::point(Point::LeaveExit);
        Next::Leave
    }

    /// Spin for work, if this worker may. `false` when it should sleep instead.
    ///
    /// At first it spins even if all cores are taken: of several workers that run out of work
    /// together the others find the role taken, go to sleep, and leave a core to this one.
    pub fn spin(&self) -> bool {
        let tail = self.control.tail();
        let before = tail.load(Ordering::Relaxed); // RELAXED, here and below: a hint to look
        let mut rounds = 0;
        let mut found = false;
        let _ = park::spin(&*self.control, self.row, SPIN_ROUNDS, || {
            rounds += 1;
            found = tail.load(Ordering::Relaxed) != before;
            found || (rounds >= SHORT_SPIN && rounds % SHORT_SPIN == 0 && self.is_crowded())
        });
        found
    }

    /// Whether more processes of this pool are awake than it has cores.
    fn is_crowded(&self) -> bool {
        let header = self.control.header();
        // RELAXED, all: a guess about who else is awake.
        let alive = header.alive.load(Ordering::Relaxed);
        let asleep = park::count_sleepers(&*self.control);
        let client = u32::from(self.control.client_wish().load(Ordering::Relaxed) == 0);
        alive.saturating_sub(asleep) + client > header.cores.load(Ordering::Relaxed)
    }

    /// Give free memory back, drop what the client has forgotten.
    pub fn tidy(&mut self) {
        let _ = self.read_socket();
        lease::unpin();
        self.arena.trim();
    }

    /// The slot's fields.
    pub fn slot(&self, slot: SlotRef) -> &Slot {
        self.control.slot(slot.index as usize)
    }

    /// Begin a claimed task: from here on its death is its own. `false` if it was taken back.
    pub fn begin(&self, slot: SlotRef) -> bool {
        let fields = self.slot(slot);
        if fields.timeout_ns.load(Ordering::Relaxed) != 0 {
            // Reading the payload counts. RELAXED: published by the word.
            fields
                .started_ns
                .store(process::now_ns(), Ordering::Relaxed);
        }
        self.control
            .row(self.row)
            .current
            .store(slot.index + 1, Ordering::Relaxed); // RELAXED: a hint
        fail::point(Point::BeginRunning);
        let begun = queue::advance(&*self.control, slot, State::Claimed, State::Running).is_ok();
        fail::point(Point::BeginPayload);
        if !begun {
            self.control
                .row(self.row)
                .current
                .store(0, Ordering::Relaxed); // RELAXED: a hint
        }
        begun
    }

    /// Whether this task was asked to stop.
    pub fn cancelled(&self, slot: SlotRef) -> bool {
        let bits = self
            .control
            .word(slot.index as usize)
            .load(Ordering::Acquire);
        Word::unpack(bits)
            .is_some_and(|word| word.generation == slot.generation && word.cancelled())
    }

    /// End what the running task has started, which began at `started_ns`.
    pub fn end_family_since(&self, started_ns: u64) {
        self.family.end_since(started_ns);
    }

    /// A task is over: what it has left running is older than whatever comes next.
    /// `true` if it has grown so large that what nobody will wait for should be reaped.
    pub fn settle_family(&mut self) -> bool {
        self.family.settle();
        self.family.is_large()
    }

    /// What nobody will wait for has been reaped.
    pub fn family_reaped(&mut self) {
        self.family.reaped();
    }

    /// The segment with this id, if it has arrived.
    ///
    /// # Errors
    /// There is no memory or descriptor to see it with. The next call tries again.
    pub fn segment(&mut self, id: u32) -> io::Result<Option<Arc<Segment>>> {
        if !self.received.has(id) {
            self.received.map_again(id)?;
            self.read_socket()?;
        }
        Ok(self.received.segment(id))
    }

    /// What to wait with until [`segment`](Self::segment) is asked again.
    pub fn arrival(&self, id: u32) -> Arrival {
        Arrival::new(id, &self.socket)
    }

    /// The hold on a shared segment, for whoever keeps a view of it.
    pub fn lease(&self, id: u32) -> Option<Arc<Lease>> {
        self.received.lease(id)
    }

    /// Handle waiting messages.
    fn read_socket(&mut self) -> io::Result<()> {
        let mut buffer = [0; 64];
        loop {
            match socket::receive(&self.socket, &mut buffer, false) {
                Ok((0, _)) => watchdog::give_up(),
                Ok((len, mut fds)) => match Message::decode(&buffer[..len]) {
                    Some(Message::Segment(id)) if fds.len() == 1 => {
                        self.received.map(id, fds.pop().expect("one"), None)?;
                    }
                    Some(Message::Whole { id, ticket }) if fds.len() == 1 => {
                        self.received
                            .map(id, fds.pop().expect("one"), Some(ticket))?;
                    }
                    Some(Message::Forget(id)) => self.received.forget(id),
                    _ => {} // not for us: a newer client may say more
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Look whether the task that has just ended closed the descriptors of this process.
    ///
    /// Their numbers may be those of a user's files by now. Such a worker writes to none of them, and leaves.
    pub fn look_for_robbery(&mut self) {
        self.robbed = self.robbed || socket::inode(&self.socket) != self.socket_inode;
    }

    /// Say who stays behind, or that nobody does. No process may be started after this.
    pub fn tell_who_stays(&mut self) {
        if process::living_children().is_empty() {
            let flags = &self.control.row(self.row).flags;
            flags.fetch_or(row_flag::ALONE, Ordering::Relaxed); // RELAXED: read after our death
            return;
        }
        self.look_for_robbery();
        for pid in process::descendants(process::own_pid()) {
            if let (Some(started), false) = (process::start_time(pid), self.robbed) {
                let message = Message::Stays { pid, started };
                let _ = socket::send_blocking(&self.socket, &message.encode(), &[]);
            }
        }
    }

    /// Memory for a result.
    pub fn allocate(&mut self, len: u64) -> Result<Block, Refusal> {
        let (socket, flags, robbed) = (&self.socket, &mut self.flags, self.robbed);
        let mut lost = false;
        let block = self.arena.allocate(len, |segment| {
            if robbed {
                lost = true;
                return;
            }
            *flags |= result_flag::MESSAGES;
            fail::point(Point::SegmentSend);
            // A client that is gone needs no segment.
            let _ = socket::send_blocking(
                socket,
                &Message::Segment(segment.id()).encode(),
                &[segment.fd()],
            );
            fail::point(Point::SegmentUse);
        });
        fail::point(Point::ResultBytes);
        if lost {
            return Err(Refusal::Robbed);
        }
        Ok(block?)
    }

    /// Free a block that was never published.
    pub fn free(&mut self, block: &Block) {
        self.arena.free(block.segment.id(), block.ticket);
    }

    /// Publish the result of items up to `upto` and count them.
    pub fn finish(
        &mut self,
        slot: SlotRef,
        kind: u32,
        place: &ResultPlace<'_>,
        upto: u64,
        wrote: bool,
        busy_ns: u64,
    ) -> Finished {
        let fields = self.control.slot(slot.index as usize);
        fail::point(Point::ResultPlace);
        match place {
            ResultPlace::Inline(bytes) => {
                fields.write_inline_result(bytes);
                fields.result_at.store(Location {
                    len: bytes.len() as u64,
                    ..Location::default()
                });
            }
            ResultPlace::Block(block) => fields.result_at.store(Location {
                segment: block.segment.id(),
                ticket: block.ticket,
                offset: block.offset,
                len: block.len,
            }),
        }
        // RELAXED, all: published by the word.
        let items = upto.saturating_sub(fields.first.load(Ordering::Relaxed));
        let handed_back = upto < fields.last.load(Ordering::Relaxed);
        fields.upto.store(upto, Ordering::Relaxed);
        fields.result_kind.store(kind, Ordering::Relaxed);
        let wrote = if wrote { result_flag::OUTPUT } else { 0 };
        fields
            .result_flags
            .store(std::mem::take(&mut self.flags) | wrote, Ordering::Relaxed);
        fail::point(Point::ResultCount);
        let row = self.control.row(self.row);
        row.current.store(0, Ordering::Relaxed);
        row.claims
            .store(row.claims.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        row.items
            .store(row.items.load(Ordering::Relaxed) + items, Ordering::Relaxed);
        row.busy_ns.store(
            row.busy_ns.load(Ordering::Relaxed) + busy_ns,
            Ordering::Relaxed,
        );
        fail::point(Point::FinishDone);
        match queue::advance(&*self.control, slot, State::Running, State::Done) {
            Ok(_) => {}
            Err(word) if word.state == State::Condemned => return Finished::Condemned,
            Err(_) => return Finished::Overwritten,
        }
        fail::point(Point::FinishMark);
        queue::mark_done(&*self.control, slot.index);
        fail::point(Point::FinishNotify);
        park::notify_client(&*self.control, slot.index);
        let waits = self.control.client_wish().load(Ordering::Relaxed) != 0;
        let backlog = self.control.header().backlog.load(Ordering::Relaxed) != 0;
        if (handed_back && !waits) || (backlog && queue::looks_empty(&*self.control)) {
            fail::point(Point::FinishBell);
            if !self.robbed {
                process::ring(&self.bell);
            }
        } else if handed_back {
            park::wake_client(&*self.control);
        }
        fail::point(Point::FinishEnd);
        Finished::Published
    }

    /// A handle that answers, from a signal handler's context, whether the running task shall stop.
    pub fn control(&self) -> Arc<Control> {
        Arc::clone(&self.control)
    }
}

/// Sleep as idle row `row` until there may be work, an order, or `timeout`.
pub fn sleep(control: &Control, row: usize, timeout: Option<Duration>) {
    park::sleep(control, row, timeout, || {
        queue::looks_empty(control)
            && control.row(row).flags.load(Ordering::SeqCst) & (row_flag::RETIRE | row_flag::MAIL)
                == 0
            && control.header().orders.load(Ordering::SeqCst) == 0
    });
}
