//! How Python values are laid out on their way between processes.
//!
//! Small scalars and lists of them travel as packed words. Everything else is pickle,
//! protocol 5; when it has out-of-band buffers it becomes a [`parcel`](bireme_runtime::parcel).

use crate::block::{Block, Hold};
use crate::detach::detached;
use bireme_runtime::parcel::{Layout, Parcel, Place};
use bireme_runtime::task::Whole;
use bireme_shm::arena::ArenaError;
use bireme_shm::control::INLINE_BYTES;
use bireme_shm::os::memory;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyFloat, PyInt, PyList, PyString, PyTuple};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// What a task calls with its payload: the low byte of its kind.
pub(crate) mod mode {
    pub(crate) const CALL: u32 = 0;
    pub(crate) const CALL_WITH_KEYWORDS: u32 = 1;
    pub(crate) const MAP: u32 = 2;
    pub(crate) const STARMAP: u32 = 3;
}

/// How bytes encode values: the second byte of a task's kind, the low byte of a result's.
pub(crate) mod form {
    pub(crate) const PICKLE: u32 = 0;
    pub(crate) const PARCEL: u32 = 1;
    pub(crate) const EMPTY: u32 = 2;
    pub(crate) const INTS: u32 = 3;
    pub(crate) const FLOATS: u32 = 4;
    pub(crate) const RANGE: u32 = 5;
    pub(crate) const NONE: u32 = 6;
    pub(crate) const TRUE: u32 = 7;
    pub(crate) const FALSE: u32 = 8;
    pub(crate) const INT: u32 = 9;
    pub(crate) const FLOAT: u32 = 10;
    /// An encoded exception.
    pub(crate) const RAISED: u32 = 11;
    /// Why shared memory had no room for the result: text.
    pub(crate) const REFUSED: u32 = 12;
}

/// Flags of a task's kind.
pub(crate) mod flag {
    /// Written by `serialize`, not by plain pickle.
    pub(crate) const BY_VALUE: u32 = 1 << 16;
    /// `seed` counts.
    pub(crate) const SEEDED: u32 = 1 << 17;
    /// The worker may hand the rest of the items back.
    pub(crate) const GUIDED: u32 = 1 << 18;
    /// The one reader of the payload's block sees it in place and releases it.
    pub(crate) const LENT: u32 = 1 << 19;
}

/// Flags of a result's kind.
pub(crate) mod result {
    /// Written by `serialize`, not by plain pickle.
    pub(crate) const BY_VALUE: u32 = 1 << 16;
    /// A list in which some items are failures.
    pub(crate) const MIXED: u32 = 1 << 17;
}

/// `pickle`'s functions, looked up once.
pub(crate) struct Pickle {
    dumps: Py<PyAny>,
    loads: Py<PyAny>,
    names: Py<PyTuple>,
}

static PICKLE: PyOnceLock<Pickle> = PyOnceLock::new();

pub(crate) fn pickle(py: Python<'_>) -> PyResult<&'static Pickle> {
    PICKLE.get_or_try_init(py, || {
        let module = py.import("_pickle")?;
        Ok(Pickle {
            dumps: module.getattr("dumps")?.unbind(),
            loads: module.getattr("loads")?.unbind(),
            names: PyTuple::new(py, ["buffer_callback"])?.unbind(),
        })
    })
}

/// Encoded bytes that are still in Python's memory.
pub(crate) struct Encoded<'py> {
    pub(crate) form: u32,
    pub(crate) by_value: bool,
    pub(crate) bytes: Bytes<'py>,
    pub(crate) buffers: Vec<PyBuffer<u8>>,
}

/// Bytes in one of two homes.
pub(crate) enum Bytes<'py> {
    Python(Bound<'py, PyBytes>),
    Rust(Vec<u8>),
    Small([u8; 16], usize),
}

impl Bytes<'_> {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Python(bytes) => bytes.as_bytes(),
            Self::Rust(bytes) => bytes,
            Self::Small(bytes, len) => &bytes[..*len],
        }
    }
}

impl<'py> Encoded<'py> {
    /// Why there is no room for a result; it lies in the slot, since there is no room.
    pub(crate) fn refused(why: &str) -> Self {
        let text = &why.as_bytes()[..why.len().min(INLINE_BYTES)];
        Self::words(form::REFUSED, text.to_vec())
    }

    fn small(form: u32, bytes: &[u8]) -> Self {
        let mut small = [0; 16];
        small[..bytes.len()].copy_from_slice(bytes);
        Self {
            form,
            by_value: false,
            bytes: Bytes::Small(small, bytes.len()),
            buffers: Vec::new(),
        }
    }

    fn words(form: u32, bytes: Vec<u8>) -> Self {
        Self {
            form,
            by_value: false,
            bytes: Bytes::Rust(bytes),
            buffers: Vec::new(),
        }
    }

    /// From what `serialize` gives: bytes and a list of pickle buffers.
    pub(crate) fn by_value(pair: &Bound<'py, PyAny>) -> PyResult<Self> {
        let (bytes, buffers): (Bound<'py, PyBytes>, Vec<Bound<'py, PyAny>>) = pair.extract()?;
        let buffers = raw_buffers(buffers)?;
        let form = if buffers.is_empty() {
            form::PICKLE
        } else {
            form::PARCEL
        };
        Ok(Self {
            form,
            by_value: true,
            bytes: Bytes::Python(bytes),
            buffers,
        })
    }

    /// Whether it may lie in a slot.
    pub(crate) fn fits_inline(&self) -> bool {
        self.buffers.is_empty() && self.bytes.as_slice().len() <= INLINE_BYTES
    }

    /// Bytes of all buffers.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.buffers.iter().map(|buffer| buffer.len_bytes()).sum()
    }
}

/// Lay an encoded value out; `elsewhere` gives segment and offset of buffers that lie in shared segments.
pub(crate) fn layout(encoded: &Encoded<'_>, elsewhere: &[Option<(u32, u64)>]) -> Layout {
    if encoded.form != form::PARCEL {
        return Layout {
            head: Vec::new(),
            pickle_at: 0,
            places: Vec::new(),
            len: encoded.bytes.as_slice().len(),
        };
    }
    let lengths = encoded.buffers.iter().map(|buffer| buffer.len_bytes());
    Layout::new(encoded.bytes.as_slice().len(), lengths, |index| {
        elsewhere.get(index).copied().flatten()
    })
}

/// One copy to make: source, offset in the target, length.
struct Copy(*const u8, usize, usize);

// SAFETY: sources are pinned by their buffers, which the caller keeps. Another thread of the program
// may write one meanwhile: then its own bytes are mixed, as in any unlocked copy.
unsafe impl Send for Copy {}

/// Where a value is written to that nobody else knows yet.
struct Target(*mut u8);

// SAFETY: whoever has the value is the only one who writes there, whichever thread that is.
unsafe impl Send for Target {}

/// Copies below this size are not worth giving the interpreter's lock up.
const DETACH_BYTES: usize = 256 << 10;

/// The copies that put a value where `layout` says.
fn copies(encoded: &Encoded<'_>, layout: &Layout) -> Vec<Copy> {
    let mut copies = Vec::with_capacity(2 + layout.places.len());
    let bytes = encoded.bytes.as_slice();
    copies.push(Copy(layout.head.as_ptr(), 0, layout.head.len()));
    copies.push(Copy(bytes.as_ptr(), layout.pickle_at, bytes.len()));
    for (buffer, place) in encoded.buffers.iter().zip(&layout.places) {
        if let Place::Inside(at) = place {
            copies.push(Copy(buffer.buf_ptr().cast(), *at, buffer.len_bytes()));
        }
    }
    copies
}

/// Run `work`, with the interpreter's lock released if `len` bytes make it long.
fn detached_if_long<R: Send>(py: Python<'_>, len: usize, work: impl FnOnce() -> R + Send) -> R {
    if len >= DETACH_BYTES {
        detached(py, work)
    } else {
        work()
    }
}

/// Write the value to `target`, which has room for `layout.len` bytes and is known to nobody else.
pub(crate) fn write(py: Python<'_>, encoded: &Encoded<'_>, layout: &Layout, target: *mut u8) {
    let (copies, target) = (copies(encoded, layout), Target(target));
    detached_if_long(py, layout.len, move || {
        let Target(target) = { target };
        for Copy(source, at, len) in copies {
            // SAFETY: `at + len <= layout.len`, within the target by the caller's word; see `Copy`
            // and `Target`, which are different memory.
            unsafe { std::ptr::copy_nonoverlapping(source, target.add(at), len) };
        }
    });
}

/// Write the value to a segment of its own that no task names yet.
pub(crate) fn store(
    py: Python<'_>,
    encoded: &Encoded<'_>,
    layout: &Layout,
    target: &Whole,
) -> Result<(), ArenaError> {
    let copies = copies(encoded, layout);
    detached_if_long(py, layout.len, move || {
        copies.into_iter().try_for_each(|Copy(source, at, len)| {
            // SAFETY: see `Copy`.
            unsafe { target.write(at, source, len) }
        })
    })
}

/// Write the value to a memory file that nobody else knows yet: faster than into fresh mapped pages.
pub(crate) fn store_in_file(
    py: Python<'_>,
    encoded: &Encoded<'_>,
    layout: &Layout,
    file: BorrowedFd<'_>,
) -> std::io::Result<()> {
    let copies = copies(encoded, layout);
    detached_if_long(py, layout.len, move || {
        copies.into_iter().try_for_each(|Copy(source, at, len)| {
            // SAFETY: see `Copy`.
            unsafe { memory::write_at(file, at as u64, source, len) }
        })
    })
}

/// Write the bytes of one buffer to a segment of their own that no task names yet.
pub(crate) fn store_buffer(
    py: Python<'_>,
    buffer: &PyBuffer<u8>,
    target: &Whole,
) -> Result<(), ArenaError> {
    let one = Copy(buffer.buf_ptr().cast(), 0, buffer.len_bytes());
    detached(py, move || {
        let Copy(source, at, len) = { one };
        // SAFETY: see `Copy`.
        unsafe { target.write(at, source, len) }
    })
}

fn raw_buffers(buffers: Vec<Bound<'_, PyAny>>) -> PyResult<Vec<PyBuffer<u8>>> {
    buffers
        .into_iter()
        .map(|buffer| PyBuffer::get(&buffer.call_method0("raw")?))
        .collect()
}

/// Whether pickling `value` surely meets no buffer and no class: a shallow look.
pub(crate) fn is_plain(value: &Bound<'_, PyAny>) -> bool {
    value.is_none()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyBool>()
}

/// Pickle `value`; `Err` is what pickle raised.
pub(crate) fn dumps<'py>(value: &Bound<'py, PyAny>) -> PyResult<Encoded<'py>> {
    let py = value.py();
    let pickle = pickle(py)?;
    let dumps = pickle.dumps.bind(py);
    let plain = is_plain(value)
        || value
            .cast_exact::<PyTuple>()
            .is_ok_and(|items| items.len() <= 8 && items.iter().all(|item| is_plain(&item)));
    if plain {
        let bytes = dumps.call1((value, 5))?.cast_into::<PyBytes>()?;
        return Ok(Encoded {
            form: form::PICKLE,
            by_value: false,
            bytes: Bytes::Python(bytes),
            buffers: Vec::new(),
        });
    }
    let buffers = PyList::empty(py);
    let kwargs = pyo3::types::PyDict::new(py);
    kwargs.set_item(
        pickle.names.bind(py).get_item(0)?,
        buffers.getattr("append")?,
    )?;
    let bytes = dumps
        .call((value, 5), Some(&kwargs))?
        .cast_into::<PyBytes>()?;
    let buffers = raw_buffers(buffers.iter().collect())?;
    let form = if buffers.is_empty() {
        form::PICKLE
    } else {
        form::PARCEL
    };
    Ok(Encoded {
        form,
        by_value: false,
        bytes: Bytes::Python(bytes),
        buffers,
    })
}

/// Whether pickled bytes name something of `__main__`, which another process may not find there.
pub(crate) fn names_main(encoded: &Encoded<'_>) -> bool {
    memchr::memmem::find(encoded.bytes.as_slice(), b"__main__").is_some()
}

/// Pack a list whose items are all exact ints of 64 bits, or all exact floats; not without memory for that.
pub(crate) fn pack_list<'py>(items: &[Bound<'py, PyAny>]) -> Option<Encoded<'py>> {
    let first = items.first()?;
    if first.is_exact_instance_of::<PyInt>() {
        let mut words = Vec::new();
        words.try_reserve_exact(items.len() * 8).ok()?;
        for item in items {
            if !item.is_exact_instance_of::<PyInt>() {
                return None;
            }
            words.extend(small_int(item)?.to_le_bytes());
        }
        return Some(Encoded::words(form::INTS, words));
    }
    if first.is_exact_instance_of::<PyFloat>() {
        let mut words = Vec::new();
        words.try_reserve_exact(items.len() * 8).ok()?;
        for item in items {
            words.extend(item.cast_exact::<PyFloat>().ok()?.value().to_le_bytes());
        }
        return Some(Encoded::words(form::FLOATS, words));
    }
    None
}

fn small_int(item: &Bound<'_, PyAny>) -> Option<i64> {
    let mut overflow = 0;
    // SAFETY: `item` is an exact int, so no Python code runs; overflow is reported, not raised.
    let value =
        unsafe { pyo3::ffi::PyLong_AsLongLongAndOverflow(item.as_ptr(), &raw mut overflow) };
    (overflow == 0).then_some(value)
}

/// Pack a scalar result; `None` when it takes pickle.
pub(crate) fn pack_scalar<'py>(value: &Bound<'py, PyAny>) -> Option<Encoded<'py>> {
    if value.is_none() {
        return Some(Encoded::small(form::NONE, &[]));
    }
    if value.is_exact_instance_of::<PyInt>() {
        return Some(Encoded::small(form::INT, &small_int(value)?.to_le_bytes()));
    }
    if let Ok(float) = value.cast_exact::<PyFloat>() {
        return Some(Encoded::small(form::FLOAT, &float.value().to_le_bytes()));
    }
    if let Ok(truth) = value.cast_exact::<PyBool>() {
        return Some(Encoded::small(
            if truth.is_true() {
                form::TRUE
            } else {
                form::FALSE
            },
            &[],
        ));
    }
    None
}

/// A `range` as its start and step, if both fit.
pub(crate) fn pack_range(start: i64, step: i64) -> Encoded<'static> {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&start.to_le_bytes());
    bytes[8..].copy_from_slice(&step.to_le_bytes());
    Encoded::small(form::RANGE, &bytes)
}

/// Encoded empty arguments.
pub(crate) fn empty() -> Encoded<'static> {
    Encoded::small(form::EMPTY, &[])
}

/// Memory that arrived: its bytes, and what keeps them.
pub(crate) struct Arrived<'a> {
    pub(crate) bytes: &'a [u8],
    /// Keeps the memory; `None` when buffers must be copied out.
    pub(crate) hold: Option<Hold>,
}

/// Resolves a buffer that lies in a segment of its own: address and hold.
pub(crate) type Resolve<'a> = dyn FnMut(u32, u64, u64) -> PyResult<(*mut u8, Hold)> + 'a;

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

fn corrupt() -> PyErr {
    PyRuntimeError::new_err("a message in shared memory is damaged")
}

/// Take a value apart: its pickle and its buffers as Python objects.
pub(crate) fn open<'py>(
    py: Python<'py>,
    form: u32,
    arrived: &Arrived<'_>,
    resolve: &mut Resolve<'_>,
) -> PyResult<(Bound<'py, PyAny>, Vec<Bound<'py, PyAny>>)> {
    let bytes = arrived.bytes;
    if form != form::PARCEL {
        return Ok((PyBytes::new(py, bytes).into_any(), Vec::new()));
    }
    let parcel = Parcel::read(bytes).ok_or_else(corrupt)?;
    let mut buffers = Vec::with_capacity(parcel.buffers.len());
    for (place, len) in parcel.buffers {
        buffers.push(match (place, &arrived.hold) {
            (Place::Elsewhere { segment, offset }, _) => {
                let (start, hold) = resolve(segment, offset, len as u64)?;
                Bound::new(py, Block::new(start, len, hold))?.into_any()
            }
            (Place::Inside(at), Some(hold)) => {
                let start = bytes[at..at + len].as_ptr().cast_mut();
                Bound::new(py, Block::new(start, len, Arc::clone(hold)))?.into_any()
            }
            (Place::Inside(at), None) => PyByteArray::new(py, &bytes[at..at + len]).into_any(),
        });
    }
    let pickle = &bytes[parcel.pickle];
    Ok((PyBytes::new(py, pickle).into_any(), buffers))
}

/// Unpickle what [`open`] gave.
pub(crate) fn loads<'py>(
    pickled: &Bound<'py, PyAny>,
    buffers: Vec<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = pickled.py();
    let loads = pickle(py)?.loads.bind(py);
    if buffers.is_empty() {
        return loads.call1((pickled,));
    }
    let kwargs = pyo3::types::PyDict::new(py);
    kwargs.set_item("buffers", buffers)?;
    loads.call((pickled,), Some(&kwargs))
}

/// Start and step of a range.
pub(crate) fn unpack_range(bytes: &[u8]) -> PyResult<(i64, i64)> {
    let word = |at| word(bytes, at).map(|word| word as i64);
    word(0).zip(word(8)).ok_or_else(corrupt)
}

/// Items `first..last` of packed words or a range.
pub(crate) fn unpack_items<'py>(
    py: Python<'py>,
    form: u32,
    bytes: &[u8],
    first: u64,
    last: u64,
) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let words = |index: u64| word(bytes, (index as usize).saturating_mul(8)).ok_or_else(corrupt);
    (first..last)
        .map(|index| match form {
            form::INTS => Ok(PyInt::new(py, words(index)? as i64).into_any()),
            form::FLOATS => Ok(PyFloat::new(py, f64::from_bits(words(index)?)).into_any()),
            form::RANGE => {
                let (start, step) = unpack_range(bytes)?;
                Ok(PyInt::new(py, start.wrapping_add(step.wrapping_mul(index as i64))).into_any())
            }
            _ => Err(PyValueError::new_err("not packed items")),
        })
        .collect()
}

/// A packed scalar; `None` when `form` is not one.
pub(crate) fn unpack_scalar<'py>(
    py: Python<'py>,
    form: u32,
    bytes: &[u8],
) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(Some(match form {
        form::NONE => py.None().into_bound(py),
        form::TRUE => PyBool::new(py, true).to_owned().into_any(),
        form::FALSE => PyBool::new(py, false).to_owned().into_any(),
        form::INT => PyInt::new(py, word(bytes, 0).ok_or_else(corrupt)? as i64).into_any(),
        form::FLOAT => {
            PyFloat::new(py, f64::from_bits(word(bytes, 0).ok_or_else(corrupt)?)).into_any()
        }
        _ => return Ok(None),
    }))
}
