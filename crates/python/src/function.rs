//! Functions travel once: what was sent, and whether it is still the same.

use crate::codec::{self, Encoded};
use bireme_runtime::task::{FunctionRef, Payload};
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

/// Functions remembered; the oldest is forgotten first.
const REMEMBERED: usize = 64;
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

struct Sent {
    function: Held,
    /// Where the function lies: a first look that costs nothing.
    address: usize,
    /// `serialize.Function`: knows whether the function has changed.
    record: Py<PyAny>,
    digest: Py<PyAny>,
    /// `serialize.Known`: definitions that came with the function as `reference` has it, so that its arguments
    /// need not repeat them.
    known: Py<PyAny>,
    stable: bool,
    mutable: bool,
    /// Its number when it was first placed.
    serial: u64,
    reference: FunctionRef,
}

impl Sent {
    fn is(&self, function: &Bound<'_, PyAny>) -> bool {
        self.address == function.as_ptr() as usize && self.function.is(function)
    }

    fn is_dead(&self, py: Python<'_>) -> bool {
        matches!(&self.function, Held::Weak(held) if held.bind(py).upgrade().is_none())
    }
}

/// The functions that a client has sent.
#[derive(Default)]
pub(crate) struct Functions {
    sent: Vec<Sent>,
    last_id: u64,
}

impl Functions {
    /// The reference of `function` if it was sent and needs no question; else its record to ask.
    pub(crate) fn find<'py>(
        &self,
        function: &Bound<'py, PyAny>,
    ) -> Option<(Option<Bound<'py, PyAny>>, FunctionRef, bool)> {
        let py = function.py();
        let sent = self.sent.iter().rev().find(|sent| sent.is(function))?;
        let record = (!sent.stable).then(|| sent.record.bind(py).clone());
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
        for sent in self.sent.iter_mut().filter(|sent| sent.is(function)) {
            if sent.digest.bind(function.py()).eq(&digest)? {
                let before = std::mem::replace(&mut sent.record, record.clone().unbind());
                sent.mutable = mutable;
                return Ok(Some((sent.reference.clone(), before)));
            }
        }
        Ok(None)
    }

    /// The record of the function with `reference`, and what workers know by it.
    pub(crate) fn known<'py>(
        &self,
        py: Python<'py>,
        reference: &FunctionRef,
    ) -> Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let sent = self.sent.iter();
        let sent = sent.rev().find(|sent| sent.reference.id == reference.id)?;
        Some((sent.record.bind(py).clone(), sent.known.bind(py).clone()))
    }

    /// The function that was placed as number `id` lies at `reference` now, too, where more comes with it.
    ///
    /// Gives what was known before, to be dropped without a lock.
    pub(crate) fn place_anew(
        &mut self,
        id: u64,
        reference: FunctionRef,
        known: Bound<'_, PyAny>,
    ) -> Option<Py<PyAny>> {
        let sent = self.sent.iter_mut().find(|sent| sent.reference.id == id)?;
        sent.reference = reference;
        Some(std::mem::replace(&mut sent.known, known.unbind()))
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
        reference: FunctionRef,
    ) -> PyResult<Vec<Forgotten>> {
        let held = match PyWeakrefReference::new_with(function, died) {
            Ok(weak) => Held::Weak(weak.unbind()),
            // Kept for as long as the pool, it would keep its large values, too.
            Err(_) if matches!(reference.blob, Payload::Whole(_)) => return Ok(Vec::new()),
            Err(_) => Held::Strong(function.clone().unbind()),
        };
        let sent = Sent {
            function: held,
            address: function.as_ptr() as usize,
            record: record.clone().unbind(),
            digest: record.getattr("digest")?.unbind(),
            known: record.getattr("known")?.unbind(),
            stable: record.getattr("stable")?.is_truthy()?,
            mutable: record.getattr("mutable")?.is_truthy()?,
            serial: reference.id,
            reference,
        };
        let mut forgotten: Vec<Forgotten> = self
            .sent
            .extract_if(.., |sent| {
                sent.address == function.as_ptr() as usize || sent.is_dead(function.py())
            })
            .map(Forgotten)
            .collect();
        if self.sent.len() >= REMEMBERED {
            forgotten.push(Forgotten(self.sent.remove(0)));
        }
        self.sent.push(sent);
        Ok(forgotten)
    }

    /// Give up the function that was first placed as number `serial`.
    pub(crate) fn forget(&mut self, serial: u64) -> Option<Forgotten> {
        let place = self.sent.iter().position(|sent| sent.serial == serial)?;
        Some(Forgotten(self.sent.remove(place)))
    }
}

/// What is no longer remembered. Dropping it may run Python code.
pub(crate) struct Forgotten(#[expect(dead_code, reason = "kept to be dropped")] Sent);

/// Put a function's payload and buffers into shared memory.
pub(crate) fn place(
    client: &bireme_runtime::client::Client<crate::call::Ticket>,
    pair: &Bound<'_, PyAny>,
) -> PyResult<Result<Payload, bireme_shm::arena::ArenaError>> {
    let py = pair.py();
    let mut encoded = Encoded::by_value(pair)?;
    encoded.form = codec::form::PARCEL; // always a message: a worker learns its size from the location
    let layout = codec::layout(&encoded, &[]);
    if layout.len > WHOLE_BYTES {
        return Ok(client.whole(layout.len as u64).and_then(|whole| {
            codec::store(py, &encoded, &layout, &whole)?;
            Ok(Payload::Whole(whole))
        }));
    }
    Ok(client.blob(layout.len as u64).map(|blob| {
        codec::write(py, &encoded, &layout, blob.base());
        Payload::Blob(blob)
    }))
}
