//! The file layer: what a local writer needs of a file system, small enough to be injected.
//!
//! Everything here that must survive loss of power is written through [`Files`]: the local object writer ([`crate::local_objects`]) and the
//! write-ahead log of ingest. A test injects [`crate::testkit::LossyFiles`], which forgets what was not synced.
//!
//! What is durable, and when:
//!
//! - the *content* of a file once [`FileHandle::sync`] has returned;
//! - a *name* (made, replaced or removed by create, rename, link, remove or `create_dir_all`) once [`Files::sync_dir`] of the directory that holds
//!   it has returned, and of every directory above that was made new ([`ensure_dir`] does both);
//! - a rename is atomic: afterwards the name means the old file or the new one, never a mixture.
//!
//! Calls block; async callers run them on a blocking thread. Errors are plain `io::Error`: a full disk is `ErrorKind::StorageFull`.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file system as a writer of logs and objects sees it.
pub trait Files: Send + Sync + fmt::Debug + 'static {
    /// Creates a file to write to; `AlreadyExists` if the name is taken.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FileHandle>>;
    /// Opens a file that exists and writes at its end; `NotFound` otherwise.
    fn append(&self, path: &Path) -> io::Result<Box<dyn FileHandle>>;
    /// The whole content.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// At most `len` bytes from `offset`; fewer where the file ends before.
    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>>;
    /// The length in bytes; `NotFound` if there is no such file.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// Cuts a file to `len` bytes and syncs its content.
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()>;
    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name; `AlreadyExists` if that is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names of the plain files directly in a directory, sorted; `NotFound` if there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates a directory and those above it, where missing. Nothing is synced: see [`ensure_dir`].
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Whether a file or directory has this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
}

/// A file open for writing at its end.
pub trait FileHandle: Send + fmt::Debug {
    /// Writes all bytes at the end; after an error the file may hold a part of them.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written so far durable. After an error nothing written since the last success may be relied on.
    fn sync(&mut self) -> io::Result<()>;
}

/// Creates a directory with those above it and makes all their names durable, also where an earlier process made them and was cut short: every
/// directory from the root of the path down is synced, so call it once per directory and process.
pub fn ensure_dir(files: &dyn Files, dir: &Path) -> io::Result<()> {
    files.create_dir_all(dir)?;
    let mut above: Vec<&Path> = dir.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    above.reverse();
    for parent in above {
        match files.sync_dir(parent) {
            // A directory that we may pass but not open was there before us, and so was its entry.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            done => done?,
        }
    }
    Ok(())
}

/// Makes a file of these bytes appear under its name durably and as a whole: staged beside it, synced, renamed, directory synced.
pub fn replace_file(files: &dyn Files, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (mut handle, staged) = stage(files, path)?;
    let written = handle.write_all(bytes).and_then(|()| handle.sync());
    drop(handle);
    if let Err(error) = written.and_then(|()| files.rename(&staged, path)) {
        // The name is free for the next try; if even this fails, the staged file is litter that no reader sees.
        let _ = files.remove(&staged);
        return Err(error);
    }
    files.sync_dir(parent(path))
}

/// A new file beside `path`, named `path#N`: names that object listings pass over.
pub(crate) fn stage(files: &dyn Files, path: &Path) -> io::Result<(Box<dyn FileHandle>, PathBuf)> {
    let mut number = 0u64;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("#{number}"));
        let staged = PathBuf::from(name);
        match files.create_new(&staged) {
            Ok(handle) => return Ok((handle, staged)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

/// The directory that holds a name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The machine's own file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FileHandle>> {
        Ok(Box::new(OpenOptions::new().append(true).create_new(true).open(path)?))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn FileHandle>> {
        Ok(Box::new(OpenOptions::new().append(true).open(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(len as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(len)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }
}

impl FileHandle for File {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        Write::write_all(self, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
