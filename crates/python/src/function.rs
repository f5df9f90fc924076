//! Functions travel once: what was sent, and whether it is still the same.

use crate::codec::{self, Encoded};
use crate::recent::Recent;
use bireme_runtime::task::{FunctionRef, Payload};
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

/// A function whose pickle and buffers are larger gets a segment of its own.
const WHOLE_BYTES: usize = 64 << 10;

/// A function that was sent: remembered no longer than its owner keeps it, for it may hold large values.
enum Held {
    Weak(Py<PyWeakrefReference>),
    /// Of a type that cannot be referred to weakly.
    Strong(Py<PyAny>),
}

impl Held {
    fn is(&self, function: &Bound<'_, PyAny>) -> bool {
        match self {
            Self::Weak(held) => {
                let held = held.bind(function.py()).upgrade();
                held.is_some_and(|held| held.is(function))
            }
            Self::Strong(held) => held.is(function),
        }
    }
}

pub(crate) struct Sent {
    function: Held,
    /// `serialize.Function`: knows whether the function has changed.
    record: Py<PyAny>,
    digest: Py<PyAny>,
    /// `serialize.Known`: definitions that came with the function as `reference` has it, so that its arguments
    /// need not repeat them.
    known: Py<PyAny>,
    stable: bool,
    mutable: bool,
    /// The number of its first placing.
    serial: u64,
    reference: FunctionRef,
}

impl Sent {
    fn is_dead(&self, py: Python<'_>) -> bool {
        matches!(&self.function, Held::Weak(held) if held.bind(py).upgrade().is_none())
    }
}

/// The functions that a client has sent.
#[derive(Default)]
pub(crate) struct Functions {
    /// By address: a first look that costs little.
    sent: Recent<Sent>,
    last_id: u64,
}

fn address(function: &Bound<'_, PyAny>) -> u64 {
    function.as_ptr() as u64
}

impl Functions {
    fn get(&mut self, function: &Bound<'_, PyAny>) -> Option<&mut Sent> {
        let sent = self.sent.get(address(function))?;
        sent.function.is(function).then_some(sent)
    }

    /// `function` if its content is still what was placed with this number, first or anew.
    fn placed(&mut self, function: &Bound<'_, PyAny>, id: u64) -> Option<&mut Sent> {
        self.get(function)
            .filter(|sent| (sent.serial..=sent.reference.id).contains(&id))
    }

    /// The reference of `function` if it was sent and needs no question; else its record to ask.
    pub(crate) fn find<'py>(
        &mut self,
        function: &Bound<'py, PyAny>,
    ) -> Option<(Option<Bound<'py, PyAny>>, FunctionRef, bool)> {
        let sent = self.get(function)?;
        let record = (!sent.stable).then(|| sent.record.bind(function.py()).clone());
        Some((record, sent.reference.clone(), sent.mutable))
    }

    /// The reference of a function with the same content, if one was sent; it is `record` that knows it from now on.
    ///
    /// Gives the record before, too, to be dropped without a lock.
    pub(crate) fn same(
        &mut self,
        function: &Bound<'_, PyAny>,
        record: &Bound<'_, PyAny>,
    ) -> PyResult<Option<(FunctionRef, Py<PyAny>)>> {
        let digest = record.getattr("digest")?;
        let mutable = record.getattr("mutable")?.is_truthy()?;
        let Some(sent) = self.get(function) else {
            return Ok(None);
        };
        if !sent.digest.bind(function.py()).eq(&digest)? {
            return Ok(None);
        }
        let before = std::mem::replace(&mut sent.record, record.clone().unbind());
        sent.mutable = mutable;
        Ok(Some((sent.reference.clone(), before)))
    }

    /// The record of the function that was placed as `reference`, and what workers know by it.
    ///
    /// Another thread may have placed it anew: then `reference` is that from now on.
    pub(crate) fn known<'py>(
        &mut self,
        function: &Bound<'py, PyAny>,
        reference: &mut FunctionRef,
    ) -> Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let py = function.py();
        let sent = self.placed(function, reference.id)?;
        if sent.reference.id != reference.id {
            *reference = sent.reference.clone();
        }
        Some((sent.record.bind(py).clone(), sent.known.bind(py).clone()))
    }

    /// The function that was placed with number `id` is placed anew, with more that is known by it.
    pub(crate) fn place_anew(
        &mut self,
        function: &Bound<'_, PyAny>,
        id: u64,
        placed: Placed,
        known: Bound<'_, PyAny>,
    ) -> Vec<Forgotten> {
        let before = self.placed(function, id);
        let Some(before) = before.filter(|sent| sent.reference.id < placed.reference.id) else {
            return Vec::new(); // another thread was faster, or the content is another by now
        };
        before.reference = placed.reference;
        let known = std::mem::replace(&mut before.known, known.unbind());
        let gone = self.sent.resize(address(function), placed.bytes);
        forgotten(gone).chain([Forgotten::Known(known)]).collect()
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Remember what was sent; gives what is forgotten, to be dropped without a lock.
    ///
    /// `died` is called when the function is no more.
    pub(crate) fn remember(
        &mut self,
        function: &Bound<'_, PyAny>,
        died: &Bound<'_, PyAny>,
        record: &Bound<'_, PyAny>,
        placed: Placed,
    ) -> PyResult<Vec<Forgotten>> {
        let Placed { reference, bytes } = placed;
        let held = match PyWeakrefReference::new_with(function, died) {
            Ok(weak) => Held::Weak(weak.unbind()),
            // Kept for as long as the pool, it would keep its large values, too.
            Err(_) if matches!(reference.blob, Payload::Whole(_)) => return Ok(Vec::new()),
            Err(_) => Held::Strong(function.clone().unbind()),
        };
        let sent = Sent {
            function: held,
            record: record.clone().unbind(),
            digest: record.getattr("digest")?.unbind(),
            known: record.getattr("known")?.unbind(),
            stable: record.getattr("stable")?.is_truthy()?,
            mutable: record.getattr("mutable")?.is_truthy()?,
            serial: reference.id,
            reference,
        };
        let mut gone = Vec::new();
        if self.sent.is_full() {
            gone = self.sent.remove_if(|sent| sent.is_dead(function.py()));
        }
        gone.extend(self.sent.insert(address(function), sent, bytes));
        Ok(forgotten(gone).collect())
    }

    /// Give up the function at this address, if it is the one that was first placed with number `serial`.
    pub(crate) fn forget(&mut self, address: u64, serial: u64) -> Option<Forgotten> {
        self.sent
            .get(address)
            .filter(|sent| sent.serial == serial)?;
        self.sent.remove(address).map(Forgotten::Sent)
    }
}

/// What is no longer remembered. Dropping it may run Python code.
#[expect(dead_code, reason = "kept to be dropped")]
pub(crate) enum Forgotten {
    Sent(Sent),
    Known(Py<PyAny>),
}

fn forgotten(gone: Vec<Sent>) -> impl Iterator<Item = Forgotten> {
    gone.into_iter().map(Forgotten::Sent)
}

/// A function in shared memory, and how many bytes it has there.
#[derive(Clone)]
pub(crate) struct Placed {
    pub(crate) reference: FunctionRef,
    pub(crate) bytes: u64,
}

/// Put a function's payload and buffers into shared memory.
pub(crate) fn place(
    client: &bireme_runtime::client::Client<crate::call::Ticket>,
    pair: &Bound<'_, PyAny>,
) -> PyResult<Result<(Payload, u64), bireme_shm::arena::ArenaError>> {
    let py = pair.py();
    let mut encoded = Encoded::by_value(pair)?;
    encoded.form = codec::form::PARCEL; // always a message: a worker learns its size from the location
    let layout = codec::layout(&encoded, &[]);
    if layout.len > WHOLE_BYTES {
        return Ok(client.whole(layout.len as u64).and_then(|whole| {
            codec::store(py, &encoded, &layout, &whole)?;
            Ok((Payload::Whole(whole), layout.len as u64))
        }));
    }
    Ok(client.blob(layout.len as u64).map(|blob| {
        codec::write(py, &encoded, &layout, blob.base());
        (Payload::Blob(blob), layout.len as u64)
    }))
}
