//! Fail points: named steps at which a test may have a process die.
//!
//! Each [`Point`] stands before one step that others can see. Only a build with the feature
//! `fail-points` knows them; in any other, [`point`] is nothing. There, the folder that the
//! environment variable [`FOLDER`] names holds two files:
//!
//! - `plan`, written by the test, one line `NAME PASS EVERY`: processes whose serial number is a
//!   multiple of `EVERY` die when they come to the point `NAME` for the `PASS`th time;
//! - `deaths`, where a process puts the point's name and its own pid down before it dies.
//!
//! The death is a SIGKILL: nothing is unwound or flushed. A process that never calls [`arm`], such as
//! the client, passes every point.

/// Names every point once, in the order in which a worker meets them.
macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A step of a worker or of the template; it stands before what its name says.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Point {
            $($(#[$doc])* $point,)*
        }

        impl Point {
            /// Every point.
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            /// The name by which a plan asks for it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// Template: a birth was asked for, nothing is forked.
    TemplateFork = "template.fork",
    /// Template: the worker is forked, and nobody knows.
    TemplateBorn = "template.born",
    /// Template: a worker is reaped, its certificate not sent.
    TemplateEnded = "template.ended",
    /// Nothing of the control segment is mapped.
    BirthAttach = "birth.attach",
    /// Attached, not ready.
    BirthReady = "birth.ready",
    /// Ready, and has not looked for work.
    BirthWork = "birth.work",
    /// A queued slot was seen.
    ClaimSwap = "claim.swap",
    /// The slot is claimed, the head is late.
    ClaimHead = "claim.head",
    /// More is queued and somebody sleeps.
    ClaimWake = "claim.wake",
    /// A sleeper's bit is cleared, its word is not.
    WakeWord = "wake.word",
    /// A sleeper's word is cleared, it sleeps on.
    WakeCall = "wake.call",
    /// Claimed, counted as current.
    BeginRunning = "begin.running",
    /// Running, payload not seen.
    BeginPayload = "begin.payload",
    /// An item of several is next.
    ProgressItem = "progress.item",
    /// The item is noted, when it began is not.
    ProgressStart = "progress.start",
    /// A segment has arrived and is not mapped.
    SegmentAttach = "segment.attach",
    /// Memory is wanted, not counted.
    ArenaCount = "arena.count",
    /// Counted, not reserved.
    ArenaReserve = "arena.reserve",
    /// Reserved, not on the free list.
    ArenaKeep = "arena.keep",
    /// Given back to the system, still counted.
    ArenaShrink = "arena.shrink",
    /// A new segment exists, the client has not got it.
    SegmentSend = "segment.send",
    /// The client has a segment without a block.
    SegmentUse = "segment.use",
    /// The result's block is there, its bytes are not.
    ResultBytes = "result.bytes",
    /// The result is in its block, the slot does not name it.
    ResultPlace = "result.place",
    /// The slot names the result, the row does not count it.
    ResultCount = "result.count",
    /// Everything is written, the slot is `Running`.
    FinishDone = "finish.done",
    /// `Done`, without a mark.
    FinishMark = "finish.mark",
    /// The done bit is set, the summary is not.
    FinishSummary = "finish.summary",
    /// Marked, the client may sleep.
    FinishNotify = "finish.notify",
    /// The wish is taken, the client sleeps on.
    NotifyCall = "notify.call",
    /// The supervisor is wanted.
    FinishBell = "finish.bell",
    /// Last step of a task.
    FinishEnd = "finish.end",
    /// A lent block is not seen any more.
    ReleaseBit = "release.bit",
    /// The release bit is set, its summary is not.
    ReleaseSummary = "release.summary",
    /// The spinner's role is free and wanted.
    SpinTake = "spin.take",
    /// The spinner has seen enough.
    SpinGive = "spin.give",
    /// The role is free again, the queue not looked at.
    SpinLook = "spin.look",
    /// Nothing to do, nobody knows.
    SleepWord = "sleep.word",
    /// The word is set, the bit is not.
    SleepBit = "sleep.bit",
    /// Announced, the queue not looked at again.
    SleepLook = "sleep.look",
    /// Slept; a wake may have been spent.
    SleepEnd = "sleep.end",
    /// Its time is over, nobody knows.
    LeaveFlag = "leave.flag",
    /// It says that it leaves.
    LeaveExit = "leave.exit",
}

/// Where `plan` and `deaths` lie.
pub const FOLDER: &str = "BIREME_FAIL_POINTS";

#[cfg(not(all(feature = "fail-points", not(loom))))]
mod armed {
    /// Dies here, if this process was armed for the point.
    #[inline]
    pub const fn point(_: super::Point) {}

    /// Reads what this process, number `serial` of its kind, is to die of.
    #[inline]
    pub const fn arm(_: u32) {}
}

#[cfg(all(feature = "fail-points", not(loom)))]
mod armed {
    use super::{FOLDER, Point};
    use crate::os::process;
    use crate::prim::{AtomicU32, Ordering};
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::PathBuf;
    use std::time::Duration;

    /// The point to die at, plus 1; 0 for none.
    static ARMED: AtomicU32 = AtomicU32::new(0);
    /// Passes that are left.
    static PASSES: AtomicU32 = AtomicU32::new(0);

    /// Dies here, if this process was armed for the point.
    pub fn point(point: Point) {
        // RELAXED, both: private to this process; written before it takes part in anything.
        if ARMED.load(Ordering::Relaxed) == point as u32 + 1
            && PASSES.fetch_sub(1, Ordering::Relaxed) == 1
        {
            die(point);
        }
    }

    /// Reads what this process, number `serial` of its kind, is to die of.
    pub fn arm(serial: u32) {
        let (point, passes) = plan(serial).unwrap_or((0, 0));
        PASSES.store(passes, Ordering::Relaxed);
        ARMED.store(point, Ordering::Relaxed);
    }

    fn folder() -> Option<PathBuf> {
        std::env::var_os(FOLDER).map(PathBuf::from)
    }

    fn plan(serial: u32) -> Option<(u32, u32)> {
        let text = std::fs::read_to_string(folder()?.join("plan")).ok()?;
        let mut words = text.split_ascii_whitespace();
        let name = words.next()?;
        let pass = words.next()?.parse().ok()?;
        let every: u32 = words.next()?.parse().ok()?;
        let point = Point::ALL.iter().find(|point| point.name() == name)?;
        (every != 0 && serial.is_multiple_of(every)).then_some((*point as u32 + 1, pass))
    }

    fn die(point: Point) {
        let told = folder().map(|folder| {
            let mut file = OpenOptions::new()
                .append(true)
                .create(true)
                .open(folder.join("deaths"))?;
            file.write_all(format!("{} {}\n", point.name(), process::own_pid()).as_bytes())
        });
        // Without its line the test finds that nobody died here.
        drop(told);
        process::kill_pid(process::own_pid());
        loop {
            process::pause(Duration::from_secs(1)); // the signal is on its way
        }
    }
}

pub use armed::{arm, point};
