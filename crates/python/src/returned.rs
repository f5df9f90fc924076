//! How what a task returned, or raised, is encoded for its caller.

use crate::codec::{self, Encoded, form, result};
use crate::worker::Hooks;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

/// How the items of a task ended.
pub(crate) struct Run<'py> {
    pub(crate) values: Vec<Bound<'py, PyAny>>,
    /// Positions in `values` that hold encoded exceptions.
    pub(crate) failed: Vec<usize>,
    pub(crate) upto: u64,
}

/// The bytes of an encoded exception as a Python object.
pub(crate) fn raised_bytes<'py>(py: Python<'py>, raised: &Encoded<'_>) -> Bound<'py, PyBytes> {
    PyBytes::new(py, raised.bytes.as_slice())
}

pub(crate) fn encode_error<'py>(hooks: &Hooks<'py>, error: PyErr) -> PyResult<Encoded<'py>> {
    let py = hooks.encode_exception.py();
    let encode = |error: PyErr| hooks.encode_exception.call1((error.into_value(py),));
    // An exception whose own code raises in turn is told as that.
    let bytes = encode(error).or_else(encode)?.cast_into::<PyBytes>()?;
    Ok(raised(bytes))
}

/// An encoded exception on its way.
fn raised(bytes: Bound<'_, PyBytes>) -> Encoded<'_> {
    Encoded {
        form: form::RAISED,
        by_value: false,
        bytes: codec::Bytes::Python(bytes),
        buffers: Vec::new(),
    }
}

/// The kind of a result encoded so.
fn kind(encoded: &Encoded<'_>) -> u32 {
    if encoded.by_value {
        encoded.form | result::BY_VALUE
    } else {
        encoded.form
    }
}

/// Encode a value: packed, pickled, or by value when pickle cannot.
fn encode_value<'py>(
    hooks: &Hooks<'py>,
    value: &Bound<'py, PyAny>,
) -> PyResult<(u32, Encoded<'py>)> {
    if let Some(packed) = codec::pack_scalar(value) {
        return Ok((packed.form, packed));
    }
    let encoded = match codec::dumps(value) {
        Ok(encoded) => encoded,
        Err(_) => Encoded::by_value(&hooks.dumps_result.call1((value,))?)?,
    };
    Ok((kind(&encoded), encoded))
}

pub(crate) fn encode_run<'py>(
    py: Python<'py>,
    hooks: &Hooks<'py>,
    run: Run<'py>,
    single: bool,
) -> PyResult<(u32, Encoded<'py>)> {
    let Run { values, failed, .. } = run;
    if single {
        let value = values.into_iter().next().expect("one call, one value");
        if !failed.is_empty() {
            let bytes = value.cast_into::<PyBytes>()?;
            return Ok((form::RAISED, raised(bytes)));
        }
        return encode_value(hooks, &value);
    }
    if failed.is_empty() {
        if let Some(packed) = codec::pack_list(&values) {
            return Ok((packed.form, packed));
        }
        let list = PyList::new(py, values)?.into_any();
        let encoded = match codec::dumps(&list) {
            Ok(encoded) => encoded,
            Err(_) => match hooks.dumps_result.call1((&list,)) {
                Ok(pair) => Encoded::by_value(&pair)?,
                Err(_) => {
                    return encode_each(
                        py,
                        hooks,
                        list.cast_into::<PyList>()?.iter().collect(),
                        &[],
                    );
                }
            },
        };
        return Ok((kind(&encoded), encoded));
    }
    encode_each(py, hooks, values, &failed)
}

/// Encode a list in which some items failed, or cannot be pickled.
fn encode_each<'py>(
    py: Python<'py>,
    hooks: &Hooks<'py>,
    values: Vec<Bound<'py, PyAny>>,
    failed: &[usize],
) -> PyResult<(u32, Encoded<'py>)> {
    let pairs = PyList::empty(py);
    for (index, value) in values.into_iter().enumerate() {
        if failed.binary_search(&index).is_ok() {
            pairs.append((false, value))?;
            continue;
        }
        match codec::dumps(&value)
            .map(drop)
            .or_else(|_| hooks.dumps_result.call1((&value,)).map(drop))
        {
            Ok(()) => pairs.append((true, value))?,
            Err(error) => pairs.append((false, raised_bytes(py, &encode_error(hooks, error)?)))?,
        }
    }
    let encoded = match codec::dumps(pairs.as_any()) {
        Ok(encoded) => encoded,
        Err(_) => Encoded::by_value(&hooks.dumps_result.call1((&pairs,))?)?,
    };
    Ok((kind(&encoded) | result::MIXED, encoded))
}
