//! The folder beneath the tree: made durably, cleared where its making was cut short, watched for space.
//!
//! The tree syncs its own folder but not the one that names it, and cannot open a folder in which its making was cut short: one without the version
//! marker, which is written last.

use std::error::Error as StdError;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use crate::{Error, Result};

const LOCK: &str = "lock";
const VERSION: &str = "version";
/// What a tree has made before its version marker is whole.
const HALF_MADE: [&str; 4] = [LOCK, VERSION, "0.jnl", "keyspaces"];
/// Bytes of a whole version marker, at least.
const VERSION_BYTES: u64 = 4;

/// Makes the folder where it is not there, and clears it where its making was cut short.
pub(super) fn prepare(path: &Path) -> Result<()> {
    let failed = |source: io::Error| match is_full(&source) {
        true => Error::DiskFull { path: path.to_owned(), source: Some(source.into()) },
        false => Error::Storage { doing: "make its folder", source: source.into() },
    };
    make(path).map_err(failed)?;
    if is_whole(path) || fs::read_dir(path).map_err(failed)?.next().is_none() {
        return Ok(());
    }
    let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path.join(LOCK)).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Error::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // Whoever had the lock may have made the folder whole meanwhile.
    if is_whole(path) {
        return Ok(());
    }
    clear(path).map_err(failed)
}

fn is_whole(path: &Path) -> bool {
    fs::metadata(path.join(VERSION)).is_ok_and(|marker| marker.len() >= VERSION_BYTES)
}

/// Makes a folder and those above it, each durable in the one above.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make(above)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    File::open(above)?.sync_all()
}

fn clear(path: &Path) -> io::Result<()> {
    let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    if let Some(foreign) = names.iter().find(|name| !HALF_MADE.iter().any(|known| name.as_os_str() == *known)) {
        let message = format!("{} holds {}, which is not an online store's: choose an empty folder", path.display(), foreign.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    for name in names.iter().filter(|name| name.as_os_str() != LOCK) {
        let entry = path.join(name);
        if entry.is_dir() { fs::remove_dir_all(entry)? } else { fs::remove_file(entry)? }
    }
    File::open(path)?.sync_all()
}

/// Free space on the disk of a folder.
pub(super) fn free_bytes(path: &Path) -> Result<u64> {
    let disk = rustix::fs::statvfs(path).map_err(|source| Error::Storage { doing: "look at its disk", source: source.into() })?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Whether a full disk, or a quota, is at the bottom of an error.
pub(super) fn is_full(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
            return true;
        }
        next = error.source();
    }
    false
}
