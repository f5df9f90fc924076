//! Calling a task's function: once, or on each item of a chunk, and what its end means for the process.

use crate::codec::mode;
use crate::items::Items;
use crate::returned::{Run, encode_error, raised_bytes};
use crate::worker::{Hooks, forked, stop_requested};
use bireme_shm::os::process;
use pyo3::exceptions::{PyStopIteration, PySystemExit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyList, PyTuple};

/// `sys.exit` in a task ends the worker, as it ends a process.
pub(crate) fn end_if_exit(py: Python<'_>, hooks: &Hooks<'_>, error: PyErr) -> PyResult<PyErr> {
    if error.is_instance_of::<PySystemExit>(py) {
        hooks.leave.call1((error.value(py).getattr("code")?,))?;
    }
    Ok(error)
}

/// Call `function` on each of `items`, in a loop in C: `map` itself.
pub(crate) fn map_items<'py>(
    hooks: &Hooks<'py>,
    function: &Bound<'py, PyAny>,
    items: Items,
    first: u64,
) -> PyResult<Run<'py>> {
    let py = hooks.map.py();
    let items = Bound::new(py, items)?;
    let calls = hooks.map.call1((function, &items))?;
    let values = PyList::empty(py);
    let mut failed = Vec::new();
    loop {
        let ended = values.call_method1("extend", (&calls,));
        if forked() {
            leave_child(hooks, ended);
        }
        let all = values.len() == items.borrow().given();
        let error = match ended {
            Ok(_) if all => break,
            // Raised by the function, and taken for the end of the items.
            Ok(_) => PyStopIteration::new_err(()),
            Err(error) if all => return Err(error), // between two items: no memory
            Err(error) => error,
        };
        let raised = encode_error(hooks, end_if_exit(py, hooks, error)?)?;
        failed.push(values.len());
        values.append(raised_bytes(py, &raised))?;
        if stop_requested() {
            break; // the rest is not to be stopped with it
        }
    }
    Ok(Run {
        upto: first + values.len() as u64,
        values: values.iter().collect(),
        failed,
    })
}

/// The task's function has returned in a child that it forked: the child's life ends here.
pub(crate) fn leave_child(hooks: &Hooks<'_>, outcome: PyResult<Bound<'_, PyAny>>) -> ! {
    let py = hooks.leave.py();
    let code = match outcome {
        Ok(_) => py.None(),
        Err(error) if error.is_instance_of::<PySystemExit>(py) => {
            let code = error.value(py).getattr("code");
            code.map_or_else(|_| py.None(), Bound::unbind)
        }
        Err(error) => {
            error.print(py);
            PyInt::new(py, 1).into_any().unbind()
        }
    };
    // A signal's handler may raise in there; a worker this process is not, whatever happens.
    let _ = hooks.leave.call1((code,));
    process::leave(1)
}

/// Call `function` with an item, as the task's mode says.
pub(crate) fn invoke<'py>(
    function: &Bound<'py, PyAny>,
    what: u32,
    item: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    match what {
        mode::MAP => function.call1((item,)),
        mode::CALL_WITH_KEYWORDS => {
            let (args, kwds): (Bound<'py, PyTuple>, Bound<'py, PyDict>) = item.extract()?;
            function.call(args, Some(&kwds))
        }
        _ => {
            if let Ok(args) = item.cast_exact::<PyTuple>() {
                return function.call1(args.clone());
            }
            let args: Vec<Bound<'py, PyAny>> = item.try_iter()?.collect::<PyResult<_>>()?;
            function.call1(PyTuple::new(item.py(), args)?)
        }
    }
}
