//! Objects in a local directory, durable when a put returns.
//!
//! `object_store`'s local back-end syncs nothing. [`LocalObjects`] reads through it and writes itself, through the injected file layer: every write is
//! staged beside its place (`name#N`, which listings pass over), synced, named, and the directory synced before the answer is given. A put, copy or rename
//! is seen as a whole or not at all, also after loss of power. What is left behind by a crash is a staged file that no reader sees.
//!
//! The other back-ends promise durability themselves and are used as they are. A delete is not synced: an object that comes back is garbage, not damage.
//! Refused: conditional updates and attributes, which the local back-end does not have.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, RenameOptions, RenameTargetMode, UploadPart,
};

use crate::files::{FileHandle, Files, RealFiles, ensure_dir, parent, stage};
use crate::{Error, Result};

const STORE: &str = "local objects";

/// Objects in a local directory, which is made if missing; a put is durable when it returns.
///
/// # Errors
/// Fails where the directory cannot be made or read.
pub fn local_objects(root: &FilePath) -> Result<Arc<dyn ObjectStore>> {
    local_objects_on(Arc::new(RealFiles), root)
}

/// As [`local_objects`], written through a given file layer.
///
/// # Errors
/// As [`local_objects`].
pub fn local_objects_on(files: Arc<dyn Files>, root: &FilePath) -> Result<Arc<dyn ObjectStore>> {
    let fail = |error: io::Error| Error::backend(format!("opening the object directory {}", root.display()), error);
    let root = std::path::absolute(root).map_err(fail)?;
    ensure_dir(files.as_ref(), &root).map_err(fail)?;
    let reader = LocalFileSystem::new_with_prefix(&root).map_err(|error| Error::backend("opening the object directory", error))?;
    Ok(Arc::new(LocalObjects { reader, writer: Arc::new(Writer { files, root, synced_dirs: Mutex::default() }) }))
}

#[derive(Debug)]
struct LocalObjects {
    reader: LocalFileSystem,
    writer: Arc<Writer>,
}

#[derive(Debug)]
struct Writer {
    files: Arc<dyn Files>,
    root: PathBuf,
    /// Directories whose names this process knows to be durable.
    synced_dirs: Mutex<HashSet<PathBuf>>,
}

impl Writer {
    /// The file of an object, in a directory that is there durably.
    fn place(&self, path: PathBuf) -> io::Result<PathBuf> {
        let dir = parent(&path);
        let known = || self.synced_dirs.lock().unwrap_or_else(PoisonError::into_inner);
        if !known().contains(dir) {
            self.files.create_dir_all(dir)?;
            for above in dir.ancestors().skip(1).take_while(|above| above.starts_with(&self.root)) {
                self.files.sync_dir(above)?;
            }
            known().insert(dir.to_owned());
        }
        Ok(path)
    }

    fn put(&self, path: PathBuf, payload: &PutPayload, create: bool) -> io::Result<()> {
        let path = self.place(path)?;
        let (mut file, staged) = stage(self.files.as_ref(), &path)?;
        let written = payload.iter().try_for_each(|bytes| file.write_all(bytes));
        self.publish(file, &staged, &path, create, written)
    }

    /// Syncs a staged file and gives it its name; on any failure the staged file is removed.
    fn publish(&self, mut file: Box<dyn FileHandle>, staged: &FilePath, path: &FilePath, create: bool, written: io::Result<()>) -> io::Result<()> {
        let synced = written.and_then(|()| file.sync());
        drop(file);
        let named = synced.and_then(|()| if create { self.files.link(staged, path) } else { self.files.rename(staged, path) });
        if named.is_err() || create {
            // Only litter is left if this fails.
            let _ = self.files.remove(staged);
        }
        named.and_then(|()| self.files.sync_dir(parent(path)))
    }

    fn copy(&self, from: &FilePath, to: PathBuf, create: bool) -> io::Result<()> {
        let to = self.place(to)?;
        if create {
            self.files.link(from, &to)?;
        } else {
            let (file, staged) = stage(self.files.as_ref(), &to)?;
            drop(file);
            self.files.remove(&staged)?;
            self.files.link(from, &staged)?;
            self.files.rename(&staged, &to)?;
        }
        self.files.sync_dir(parent(&to))
    }

    fn rename(&self, from: &FilePath, to: PathBuf) -> io::Result<()> {
        let to = self.place(to)?;
        self.files.rename(from, &to)?;
        self.files.sync_dir(parent(&to))?;
        self.files.sync_dir(parent(from))
    }
}

impl LocalObjects {
    async fn write<T: Send + 'static>(
        &self,
        location: &Path,
        work: impl FnOnce(&Writer, PathBuf) -> io::Result<T> + Send + 'static,
    ) -> object_store::Result<T> {
        let (writer, path) = (self.writer.clone(), self.reader.path_to_filesystem(location)?);
        blocking(location.to_string(), move || work(&writer, path)).await
    }
}

async fn blocking<T: Send + 'static>(what: String, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> object_store::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| failure(&what, error)),
        Err(join) => Err(object_store::Error::JoinError { source: join }),
    }
}

fn failure(path: &str, error: io::Error) -> object_store::Error {
    match error.kind() {
        io::ErrorKind::NotFound => object_store::Error::NotFound { path: path.to_owned(), source: error.into() },
        io::ErrorKind::AlreadyExists => object_store::Error::AlreadyExists { path: path.to_owned(), source: error.into() },
        _ => object_store::Error::Generic { store: STORE, source: error.into() },
    }
}

fn unsupported(operation: &str) -> object_store::Error {
    object_store::Error::NotImplemented { operation: operation.to_owned(), implementer: STORE.to_owned() }
}

impl fmt::Display for LocalObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE} in {}", self.writer.root.display())
    }
}

#[async_trait]
impl ObjectStore for LocalObjects {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        if !options.attributes.is_empty() {
            return Err(unsupported("a put with attributes"));
        }
        let create = match options.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => return Err(unsupported("a conditional put")),
        };
        self.write(location, move |writer, path| writer.put(path, &payload, create)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        if !options.attributes.is_empty() {
            return Err(unsupported("a put with attributes"));
        }
        let (path, file, staged) = self
            .write(location, |writer, path| {
                let path = writer.place(path)?;
                let (file, staged) = stage(writer.files.as_ref(), &path)?;
                Ok((path, file, staged))
            })
            .await?;
        let state = UploadState { file: Some(file), queue: Vec::new(), failed: None };
        Ok(Box::new(Upload { writer: self.writer.clone(), path, staged, state: Arc::new(Mutex::new(state)) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.reader.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> object_store::Result<Vec<bytes::Bytes>> {
        self.reader.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, object_store::Result<Path>>) -> BoxStream<'static, object_store::Result<Path>> {
        let (reader, writer) = (self.reader.clone(), self.writer.clone());
        let delete = move |location: object_store::Result<Path>| {
            let (reader, writer) = (reader.clone(), writer.clone());
            async move {
                let location = location?;
                let path = reader.path_to_filesystem(&location)?;
                blocking(location.to_string(), move || writer.files.remove(&path)).await?;
                Ok(location)
            }
        };
        locations.map(delete).buffered(10).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.reader.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.reader.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.reader.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        let from = self.reader.path_to_filesystem(from)?;
        let create = matches!(options.mode, CopyMode::Create);
        self.write(to, move |writer, to| writer.copy(&from, to, create)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> object_store::Result<()> {
        let from = self.reader.path_to_filesystem(from)?;
        match options.target_mode {
            RenameTargetMode::Overwrite => self.write(to, move |writer, to| writer.rename(&from, to)).await,
            RenameTargetMode::Create => {
                let copy_then_remove = move |writer: &Writer, to| {
                    writer.copy(&from, to, true)?;
                    writer.files.remove(&from)?;
                    writer.files.sync_dir(parent(&from))
                };
                self.write(to, copy_then_remove).await
            }
        }
    }
}

/// A large object in parts, staged until it is complete.
#[derive(Debug)]
struct Upload {
    writer: Arc<Writer>,
    path: PathBuf,
    staged: PathBuf,
    state: Arc<Mutex<UploadState>>,
}

#[derive(Debug)]
struct UploadState {
    /// `None` once completed or aborted.
    file: Option<Box<dyn FileHandle>>,
    /// Parts in the order in which they came, not yet written.
    queue: Vec<PutPayload>,
    failed: Option<String>,
}

impl UploadState {
    /// Writes what is queued, in order, whichever part's future happens to run first.
    fn drain(&mut self) -> io::Result<()> {
        if let Some(failed) = &self.failed {
            return Err(io::Error::other(format!("an earlier part failed: {failed}")));
        }
        let parts = std::mem::take(&mut self.queue);
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("the upload is over"))?;
        let written = parts.iter().flat_map(|part| part.iter()).try_for_each(|bytes| file.write_all(bytes));
        self.failed = written.as_ref().err().map(ToString::to_string);
        written
    }
}

fn lock(state: &Mutex<UploadState>) -> std::sync::MutexGuard<'_, UploadState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        lock(&self.state).queue.push(part);
        let (state, what) = (self.state.clone(), self.path.display().to_string());
        Box::pin(blocking(what, move || lock(&state).drain()))
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let (writer, path, staged, state) = (self.writer.clone(), self.path.clone(), self.staged.clone(), self.state.clone());
        blocking(path.display().to_string(), move || {
            let mut state = lock(&state);
            let written = state.drain();
            let file = state.file.take().ok_or_else(|| io::Error::other("the upload is over"))?;
            writer.publish(file, &staged, &path, false, written)
        })
        .await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        let (writer, staged, state) = (self.writer.clone(), self.staged.clone(), self.state.clone());
        blocking(staged.display().to_string(), move || if lock(&state).file.take().is_some() { writer.files.remove(&staged) } else { Ok(()) }).await
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if lock(&self.state).file.take().is_some() {
            // Given up without a word; only litter is left if this fails.
            let _ = self.writer.files.remove(&self.staged);
        }
    }
}

#[cfg(test)]
mod tests;
