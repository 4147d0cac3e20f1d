//! The calls about objects, which take and give bytes and files.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use anabranch_client::{Client, Error, NewObject, ObjectCondition, ObjectQuery, ObjectSource};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

use crate::calls::{Call, Reply};
use crate::client::json;

/// How much is read from a Python file at once.
const READ_BYTES: usize = 1 << 20;

/// Parts of a Python file that are read ahead.
const AHEAD: usize = 2;

/// What must be at a path: nothing, an object of a checksum, or whatever.
fn condition(if_absent: bool, if_match: Option<String>) -> ObjectCondition {
    match if_match {
        _ if if_absent => ObjectCondition::Absent,
        Some(checksum) => ObjectCondition::Checksum(checksum),
        None => ObjectCondition::Any,
    }
}

/// Where the bytes of a new object come from, as Python gives them.
#[derive(FromPyObject)]
enum Source {
    #[pyo3(transparent)]
    Bytes(Vec<u8>),
    #[pyo3(transparent)]
    Path(PathBuf),
    #[pyo3(transparent)]
    File(Py<PyAny>),
}

impl Source {
    fn opened(self) -> ObjectSource {
        match self {
            Self::Bytes(bytes) => ObjectSource::Bytes(bytes.into()),
            Self::Path(path) => ObjectSource::File(path),
            Self::File(file) => ObjectSource::Reader("the file object".to_owned(), Box::new(PythonFile::of(file))),
        }
    }
}

/// A Python object with `read`, read on a thread of its own, bounded ahead.
struct PythonFile {
    file: Option<Py<PyAny>>,
    parts: Option<mpsc::Receiver<io::Result<Vec<u8>>>>,
    ready: Vec<u8>,
    at: usize,
}

impl PythonFile {
    fn of(file: Py<PyAny>) -> Self {
        Self { file: Some(file), parts: None, ready: Vec::new(), at: 0 }
    }

    /// Starts to read; called within the runtime.
    fn start(file: Py<PyAny>) -> mpsc::Receiver<io::Result<Vec<u8>>> {
        let (sender, parts) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            loop {
                let part = Python::try_attach(|py| file.call_method1(py, "read", (READ_BYTES,))?.extract::<Vec<u8>>(py));
                let part = match part {
                    Some(part) => part.map_err(|error| io::Error::other(error.to_string())),
                    None => Err(io::Error::other("the interpreter is ending")),
                };
                let (ended, failed) = (part.as_ref().is_ok_and(Vec::is_empty), part.is_err());
                if ended || sender.blocking_send(part).is_err() || failed {
                    return;
                }
            }
        });
        parts
    }
}

impl AsyncRead for PythonFile {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(file) = this.file.take() {
            this.parts = Some(Self::start(file));
        }
        if this.at == this.ready.len() {
            let Some(parts) = &mut this.parts else { return Poll::Ready(Ok(())) };
            match std::task::ready!(parts.poll_recv(context)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                Some(Ok(part)) => (this.ready, this.at) = (part, 0),
            }
        }
        let end = this.ready.len().min(this.at + into.remaining());
        into.put_slice(&this.ready[this.at..end]);
        this.at = end;
        Poll::Ready(Ok(()))
    }
}

fn reporter(progress: Option<Py<PyAny>>) -> impl FnMut(u64) + Send + 'static {
    move |bytes| {
        // What goes wrong in showing progress is no reason to fail.
        if let Some(progress) = &progress {
            let _ = Python::try_attach(|py| progress.call1(py, (bytes,)).map_err(|error| error.write_unraisable(py, None)));
        }
    }
}

/// The calls about objects of one connection.
#[pyclass(frozen, name = "Objects", module = "anabranch._anabranch")]
pub(crate) struct NativeObjects(pub(crate) Client);

#[pymethods]
impl NativeObjects {
    #[pyo3(signature = (objects, *, content_type, if_absent, if_match, message, progress))]
    fn put(
        &self,
        objects: Vec<(String, Source)>,
        content_type: String,
        if_absent: bool,
        if_match: Option<String>,
        message: String,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Call> {
        let (client, condition) = (self.0.clone(), condition(if_absent, if_match));
        let new = |(path, source): (String, Source)| {
            let (content_type, condition) = (content_type.clone(), condition.clone());
            NewObject { content_type, condition, ..NewObject::new(path, source.opened()) }
        };
        let objects: Vec<_> = objects.into_iter().map(new).collect();
        Ok(Call::new(async move { client.put_objects(objects, &message, reporter(progress)).await.map(json) }))
    }

    fn get(&self, path: String, start: u64, end: Option<u64>) -> PyResult<Call> {
        let client = self.0.clone();
        Ok(Call::new(async move {
            let bytes = client.get_object(&path, Some(start..end.unwrap_or(u64::MAX))).await?.bytes().await?;
            Ok(Box::new(move |py: Python<'_>| PyBytes::new(py, &bytes).into_py_any(py)) as Reply)
        }))
    }

    fn download(&self, path: String, file: PathBuf, progress: Option<Py<PyAny>>) -> PyResult<Call> {
        let (client, mut report) = (self.0.clone(), reporter(progress));
        Ok(Call::new(async move { client.download_object(&path, &file, move |_, come| report(come)).await.map(json) }))
    }

    fn stat(&self, path: String) -> PyResult<Call> {
        let client = self.0.clone();
        Ok(Call::new(async move { client.stat_object(&path).await.map(json) }))
    }

    /// All pages of a listing: objects, and prefixes.
    fn list(&self, prefix: String, delimiter: String, limit: Option<usize>) -> PyResult<Call> {
        let client = self.0.clone();
        Ok(Call::new(async move {
            let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
            let mut query = ObjectQuery { prefix, delimiter, ..ObjectQuery::default() };
            loop {
                let left = limit.map(|limit| limit.saturating_sub(objects.len() + prefixes.len()));
                if left == Some(0) {
                    break;
                }
                query.limit = left.map_or(0, |left| u32::try_from(left).unwrap_or(u32::MAX));
                let page = client.list_objects(&query).await?;
                objects.extend(page.objects);
                prefixes.extend(page.prefixes);
                match page.next {
                    Some(next) => query.after = next,
                    None => break,
                }
            }
            Ok::<_, Error>(json((objects, prefixes)))
        }))
    }

    fn delete(&self, paths: Vec<String>, if_match: Option<String>, message: String) -> PyResult<Call> {
        let client = self.0.clone();
        Ok(Call::new(async move { client.delete_objects(paths, &condition(false, if_match), &message).await.map(json) }))
    }

    fn copy(&self, from_ref: String, source: String, to: String, if_absent: bool, message: String) -> PyResult<Call> {
        let client = self.0.clone();
        Ok(Call::new(async move { client.copy_object(&from_ref, &source, &to, &condition(if_absent, None), &message).await.map(json) }))
    }

    fn rename(&self, source: String, to: String, if_absent: bool, message: String) -> PyResult<Call> {
        let client = self.0.clone();
        Ok(Call::new(async move { client.rename_object(&source, &to, &condition(if_absent, None), &message).await.map(json) }))
    }

    fn import_files(&self, source: String, to: String, if_absent: bool, message: String) -> PyResult<Call> {
        let client = self.0.clone();
        Ok(Call::new(async move { client.import_objects(&source, &to, &condition(if_absent, None), &message).await.map(json) }))
    }
}
