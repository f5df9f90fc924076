//! Tasks on their way out and outcomes on their way back.

pub use crate::whole::Whole;

use crate::certificate::Certificate;
use bireme_sched::attempt::Attempt;
use bireme_shm::arena::Block;
use bireme_shm::control::Location;
use bireme_shm::lease::Lease;
use bireme_shm::os::process;
use bireme_shm::prim::{AtomicBool, Ordering};
use bireme_shm::segment::HEADER_BYTES;
use smallvec::SmallVec;
use std::sync::Arc;

/// Bytes in shared memory that the client wrote for workers; released when the last use is over.
#[derive(Debug)]
pub struct Blob {
    pub(crate) block: Block,
    /// Process that may release it: a forked child inherits the object, not the block.
    pub(crate) owner: i32,
}

impl Blob {
    /// Where it lies.
    pub fn location(&self) -> Location {
        Location {
            segment: self.block.segment.id(),
            ticket: self.block.ticket,
            offset: self.block.offset,
            len: self.block.len,
        }
    }

    /// Address of its bytes, for the one who fills it before any task names it.
    pub fn base(&self) -> *mut u8 {
        self.block.base()
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        if self.owner == process::own_pid() {
            self.block.segment.release(self.block.ticket);
        }
    }
}

/// A function that workers can find.
#[derive(Clone, Debug)]
pub struct FunctionRef {
    /// Never reused within a pool.
    pub id: u64,
    /// Its pickle.
    pub blob: Payload,
}

/// Encoded bytes of a function or of arguments.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Few bytes, copied into the slot.
    Inline(Box<[u8]>),
    /// Bytes that the client frees when no task names them any more.
    Blob(Arc<Blob>),
    /// A block that its one reader frees, when the last view of it dies.
    Lent(Arc<Lent>),
    /// A segment of its own, shared by many tasks and freed by the kernel with its last mapping.
    Whole(Arc<Whole>),
}

/// A block whose reader releases it, once a task that names it has ended well; until then it is the client's.
#[derive(Debug)]
pub struct Lent {
    pub(crate) block: Block,
    pub(crate) handed_over: AtomicBool,
    /// As in [`Blob`].
    pub(crate) owner: i32,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.handed_over.load(Ordering::Acquire) && self.owner == process::own_pid() {
            self.block.segment.release(self.block.ticket);
        }
    }
}

impl Lent {
    /// Address of its bytes, for the one who fills it before any task names it.
    pub fn base(&self) -> *mut u8 {
        self.block.base()
    }
}

impl Payload {
    /// Where a worker finds it; `Inline` payloads have only a length.
    pub fn location(&self) -> Location {
        match self {
            Self::Inline(bytes) => Location {
                len: bytes.len() as u64,
                ..Location::default()
            },
            Self::Blob(blob) => blob.location(),
            Self::Lent(lent) => {
                let block = &lent.block;
                Location {
                    segment: block.segment.id(),
                    ticket: block.ticket,
                    offset: block.offset,
                    len: block.len,
                }
            }
            Self::Whole(whole) => Location {
                segment: whole.id(),
                ticket: 0,
                offset: HEADER_BYTES,
                len: whole.len(),
            },
        }
    }

    /// Bytes that it takes on the way to a worker.
    pub fn len(&self) -> u64 {
        self.location().len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One task: a function over the items `first..last` of a payload.
#[derive(Clone, Debug)]
pub struct Task {
    /// What to call.
    pub function: FunctionRef,
    /// How the payload is encoded; the binding's business.
    pub kind: u32,
    /// The arguments.
    pub args: Payload,
    /// Items to run, and how often they were tried.
    pub range: Attempt,
    /// Index of the payload's item 0 within the whole call.
    pub base: u64,
    /// Limit of one item in nanoseconds; 0 for none.
    pub timeout_ns: u64,
    /// Seed of the call; see the binding's `kind`.
    pub seed: u64,
    /// Attempts after the first that a worker's death may cost.
    pub retries: u16,
    /// Shared segments that the arguments name.
    pub shared: Vec<Arc<Whole>>,
}

/// Result bytes.
#[derive(Debug)]
pub enum Data {
    /// Copied out of the slot; the most frequent ones are short.
    Inline(SmallVec<[u8; 16]>),
    /// In the worker's arena, until dropped.
    Block(Arc<ResultBlock>),
}

impl Data {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Block(block) => block.location.len,
        }
    }
}

/// A result in a worker's arena; the block is free again when this is dropped.
#[derive(Debug)]
pub struct ResultBlock {
    pub(crate) lease: Lease,
    pub(crate) location: Location,
}

impl ResultBlock {
    /// Address and length of the bytes; valid while `self` lives.
    ///
    /// # Panics
    /// Never: the location was checked when it arrived.
    pub fn bytes(&self) -> (*mut u8, usize) {
        let at = self
            .lease
            .segment()
            .block(self.location.offset, self.location.len)
            .expect("checked when it arrived");
        (at, self.location.len as usize)
    }
}

/// Why a task was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Its time was over.
    Timeout,
    /// It was cancelled.
    Cancel,
}

/// How items of a task ended.
#[derive(Debug)]
pub enum Outcome {
    /// A result (which may be an encoded exception) of this kind.
    Value {
        /// The binding's business.
        kind: u32,
        /// The bytes.
        data: Data,
    },
    /// The worker died while it ran the (one) item.
    Died(Arc<Certificate>),
    /// The items had finished or were about to run when their worker died, and may not run twice.
    Lost {
        /// How it died.
        certificate: Arc<Certificate>,
        /// The item that it died in, in the payload's numbering.
        culprit: Option<u64>,
    },
    /// The results lie in memory that the client could not map: what the system said.
    Unreachable(String),
    /// The slot says what no process of ours would write.
    Overwritten,
    /// The (one) item was stopped.
    Stopped(StopReason),
    /// The pool broke, starved or was terminated before the items ran.
    Abandoned(Arc<Broken>),
}

/// Why a pool can run nothing, for the time being or any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// `terminate` was called.
    Terminated,
    /// The initializer raised; the bytes are its encoded exception.
    Initializer(Vec<u8>),
    /// The initializer ended its process.
    InitializerDied(String),
    /// Workers are killed before they are ready: the last words of the last one.
    KilledUnborn(String),
    /// Workers are killed as soon as they are ready: the last words of the last one.
    KilledIdle(String),
    /// Workers die as soon as they are ready: the last words of the last one.
    WorkersDie(String),
    /// Workers cannot be started: what the system or their last words said.
    CannotStart(String),
    /// The template cannot fork, or ends by itself: what it said, or how it ended.
    Template(String),
    /// A signal ends template after template.
    TemplateKilled {
        /// That of the last one.
        signal: i32,
        /// How it ended, and what it said.
        story: String,
    },
}

/// Some items of a task have ended.
#[derive(Debug)]
pub struct Completion<T> {
    /// What the submitter attached to the task.
    pub ticket: T,
    /// First item, in the payload's numbering.
    pub first: u64,
    /// One past the last item.
    pub last: u64,
    /// How they ended.
    pub outcome: Outcome,
    /// The task as submitted, to be run again if the submitter decides so.
    pub task: Task,
    /// Row of the worker that ran it.
    pub worker: u32,
    /// Why it had been asked to stop, if it had; the result may stand all the same.
    pub stop: Option<StopReason>,
}
