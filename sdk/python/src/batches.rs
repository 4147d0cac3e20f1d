//! Batches of a saved dataset, one call for each.
//!
//! They come ahead of their reader on the client's own threads; waiting for one holds no GIL. Closing drops what came ahead and ends the stream.

use std::sync::Arc;

use anabranch_client::Batches;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3_arrow::PyRecordBatch;
use tokio::sync::Mutex;

use crate::calls::{Call, Reply};

/// A rank's batches of an epoch.
#[pyclass(frozen, name = "Batches", module = "anabranch._anabranch")]
pub(crate) struct NativeBatches {
    open: Arc<Mutex<Option<Batches>>>,
    #[pyo3(get)]
    batches: u64,
    #[pyo3(get)]
    rows: u64,
    #[pyo3(get)]
    seed: Option<u64>,
    #[pyo3(get)]
    epoch: u64,
    #[pyo3(get)]
    cursor: String,
}

impl NativeBatches {
    pub(crate) fn new(batches: Batches) -> Self {
        let (seed, epoch, cursor) = (batches.seed(), batches.epoch(), batches.cursor().to_owned());
        Self { batches: batches.batches(), rows: batches.rows(), seed, epoch, cursor, open: Arc::new(Mutex::new(Some(batches))) }
    }
}

#[pymethods]
impl NativeBatches {
    /// The next batch and the cursor behind it; `None` at the end, and once closed.
    fn next(&self) -> Call {
        let open = Arc::clone(&self.open);
        Call::new(async move {
            let mut open = open.lock().await;
            let found = match open.as_mut() {
                Some(batches) => batches.next().await?.map(|batch| (batch, batches.cursor().to_owned())),
                None => None,
            };
            if found.is_none() {
                *open = None;
            }
            Ok(Box::new(move |py: Python<'_>| match found {
                Some((batch, cursor)) => (Bound::new(py, PyRecordBatch::new(batch))?, cursor).into_py_any(py),
                None => Ok(py.None()),
            }) as Reply)
        })
    }

    /// Ends the stream, once a call under way has ended.
    fn close(&self) -> Call {
        let open = Arc::clone(&self.open);
        Call::new(async move {
            *open.lock().await = None;
            Ok(Box::new(|py: Python<'_>| Ok(py.None())) as Reply)
        })
    }
}
