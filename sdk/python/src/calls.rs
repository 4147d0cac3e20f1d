//! One way of running a call, for both the blocking and the asyncio client.
//!
//! A [`Call`] is a future that has not been started, and may be run once: [`Call::wait`] blocks the calling thread without the GIL and looks for
//! signals (Ctrl-C) in between; [`Call::start`] runs it on the runtime and hands the outcome to a callback. Dropping a call, or cancelling it, cancels
//! the request on the wire.
//!
//! Threads do not survive a fork, so the runtime belongs to a process id: a forked child makes its own, and clients from before the fork refuse to work
//! there (see `client`).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anabranch_client::Error;
use futures::future::BoxFuture;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

use crate::errors::raised;

/// How long Ctrl-C may go unnoticed.
const SIGNAL_TICK: Duration = Duration::from_millis(50);

/// How a reply becomes a Python object, once the GIL is held.
pub(crate) type Reply = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

type Outcome = Result<Reply, Error>;

/// A call that has not been started.
#[pyclass(frozen, module = "anabranch._anabranch")]
pub(crate) struct Call(Mutex<Option<BoxFuture<'static, Outcome>>>);

/// A call under way.
#[pyclass(frozen, module = "anabranch._anabranch")]
pub(crate) struct Running(AbortHandle);

impl Call {
    pub(crate) fn new(future: impl Future<Output = Outcome> + Send + 'static) -> Self {
        Self(Mutex::new(Some(Box::pin(future))))
    }

    fn take(&self) -> PyResult<BoxFuture<'static, Outcome>> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.ok_or_else(|| PyRuntimeError::new_err("a call can be run once only"))
    }
}

#[pymethods]
impl Call {
    /// Runs the call to its end on this thread.
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut future = self.take()?;
        let runtime = runtime(py)?;
        let outcome: PyResult<Outcome> = py.detach(|| {
            runtime.block_on(async {
                loop {
                    match tokio::time::timeout(SIGNAL_TICK, &mut future).await {
                        Ok(outcome) => return Ok(outcome),
                        Err(_) => Python::attach(|py| py.check_signals())?,
                    }
                }
            })
        });
        finish(py, outcome?)
    }

    /// Starts the call; `done(result, error)` is called from another thread when it ends, one of them `None`.
    fn start(&self, py: Python<'_>, done: Py<PyAny>) -> PyResult<Running> {
        let future = self.take()?;
        let task = runtime(py)?.spawn(async move {
            let outcome = future.await;
            // Nobody waits for an answer in an interpreter that is ending, or whose event loop is closed.
            let _ = Python::try_attach(|py| match finish(py, outcome) {
                Ok(result) => done.call1(py, (result, py.None())),
                Err(error) => done.call1(py, (py.None(), error.into_value(py))),
            });
        });
        Ok(Running(task.abort_handle()))
    }
}

#[pymethods]
impl Running {
    /// Cancels the call; `done` is not called then.
    fn cancel(&self) {
        self.0.abort();
    }
}

fn finish(py: Python<'_>, outcome: Outcome) -> PyResult<Py<PyAny>> {
    match outcome {
        Ok(reply) => reply(py),
        Err(error) => Err(raised(py, &error)),
    }
}

/// The runtime of this process.
fn runtime(py: Python<'_>) -> PyResult<&'static Runtime> {
    static RUNTIME: Mutex<Option<(u32, &'static Runtime)>> = Mutex::new(None);
    let pid = std::process::id();
    let mut current = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((owner, runtime)) = *current
        && owner == pid
    {
        return Ok(runtime);
    }
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("anabranch").enable_all().build();
    let runtime: &'static Runtime = match built {
        // Never dropped: its threads end with the process.
        Ok(runtime) => Box::leak(Box::new(runtime)),
        Err(error) => return Err(PyRuntimeError::new_err(format!("cannot start threads: {error}"))),
    };
    let _ = py;
    *current = Some((pid, runtime));
    Ok(runtime)
}
