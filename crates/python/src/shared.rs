//! Memory that a task fills on purpose where its result will lie: as a result it needs no copy.
//!
//! Before the data there is room for the message that the result becomes. The block is handed
//! over in place only if nothing in the worker could see it afterwards; else it is copied, as
//! any other array.

use crate::block::{Block, Hold};
use crate::codec::{Encoded, form};
use bireme_runtime::parcel;
use bireme_shm::arena;
use bireme_shm::lease::Lease;
use bireme_shm::prim::{AtomicBool, Ordering};
use pyo3::ffi;
use pyo3::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// Room for a result's message before the data; keeps the data on a page.
pub(crate) const HEADROOM: usize = 4096;

/// A block that this worker fills; with its last view it is released, unless it went ahead as a result.
struct Own {
    block: arena::Block,
    lease: Option<Lease>,
    /// The last view is about to be dropped by the one who hands the block over.
    leaving: AtomicBool,
}

impl Drop for Own {
    fn drop(&mut self) {
        if *self.leaving.get_mut()
            && let Some(lease) = self.lease.take()
        {
            lease.pass_on();
        }
    }
}

/// Blocks that may become results.
static OWN: Mutex<Vec<std::sync::Weak<Own>>> = Mutex::new(Vec::new());

/// `block` as memory for a task: all but the room before the data.
pub(crate) fn lend(block: arena::Block) -> Block {
    let len = block.len as usize - HEADROOM;
    // SAFETY: the block is longer than the room.
    let start = unsafe { block.base().add(HEADROOM) };
    let lease = Some(Lease::new(Arc::clone(&block.segment), block.ticket));
    let own = Arc::new(Own {
        block,
        lease,
        leaving: AtomicBool::new(false),
    });
    let mut all = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|one| one.strong_count() > 0);
    all.push(Arc::downgrade(&own));
    Block::new(start, len, own as Hold)
}

/// Turn a result whose one buffer lies in a lent block, which nothing else sees, into that block.
///
/// The block has the message in it then, and is the receiver's.
pub(crate) fn hand_over(py: Python<'_>, encoded: &mut Encoded<'_>) -> Option<arena::Block> {
    let [buffer] = encoded.buffers.as_slice() else {
        return None;
    };
    let (start, len) = (buffer.buf_ptr() as usize, buffer.len_bytes());
    let (own, at) = {
        let all = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find_map(|one| {
            let own = one.upgrade()?;
            let at = start.checked_sub(own.block.base() as usize)?;
            (at + len <= own.block.len as usize).then_some((own, at))
        })?
    };
    let message = parcel::head_before(encoded.bytes.as_slice(), at as u64, len);
    let alone = buffer
        .obj(py)
        .is_some_and(|object| is_last_view(py, object));
    if encoded.form != form::PARCEL || message.len() > HEADROOM || !alone {
        return None;
    }
    if own.lease.as_ref().is_some_and(Lease::is_pinned) {
        return None; // a forked child sees it
    }
    let block = own.block.clone().up_to((at + len) as u64);
    own.leaving.store(true, Ordering::Relaxed); // RELAXED: the interpreter's lock is held, and nobody else has it
    drop(own);
    encoded.buffers.clear();
    // SAFETY: the room before the data is ours and as long as HEADROOM; nobody else knows the block.
    unsafe { std::ptr::copy_nonoverlapping(message.as_ptr(), block.base(), message.len()) };
    Some(block)
}

/// Whether `view` (a pickled buffer's memoryview of an array), the array and all that it is a view of,
/// down to a [`Block`], are referred to by nothing but the one before.
fn is_last_view(py: Python<'_>, view: &Bound<'_, PyAny>) -> bool {
    let count = |object: &Bound<'_, PyAny>| {
        // SAFETY: the pointer is to a live object, and the interpreter's lock is held.
        unsafe { ffi::Py_REFCNT(object.as_ptr()) }
    };
    if count(view) != 1 {
        return false;
    }
    let mut next = view.getattr(pyo3::intern!(py, "obj"));
    while let Ok(base) = next {
        if count(&base) != 2 {
            return false; // more than the view's reference and ours
        }
        if base.is_instance_of::<Block>() {
            return true;
        }
        next = base.getattr(pyo3::intern!(py, "base"));
    }
    false
}
