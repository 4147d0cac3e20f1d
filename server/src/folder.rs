//! The data folder: what lies where, who may use it, and how others find its server.
//!
//! ```text
//! <data>/
//!   lock                locked (flock) for as long as a server uses the folder; holds its pid
//!   server.json         {"pid", "address", "version", "started_us"}: there while the server answers
//!   tmp/                uploads and other files under way; emptied at start
//!   spill/              what work puts on disk that outgrew its memory; emptied at start
//!   metadata.sqlite  objects/  wal/  online/        of the repository `default`
//!   repositories/<name>/…                           the same four of every other repository
//! ```
//!
//! The lock is the kernel's, so that it goes with its process however that ends; the file stays. `server.json` is written whole or not at all, and only
//! once the server answers; after a crash an old one may lie there, so whoever reads it tries the address.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anabranch_core::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The file that says how to reach the server of a data folder.
pub const SERVER_FILE: &str = "server.json";

const LOCK_FILE: &str = "lock";

/// What [`SERVER_FILE`] holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFile {
    /// The server's process.
    pub pid: u32,
    /// Where it answers.
    pub address: SocketAddr,
    /// Its version.
    pub version: String,
    /// When it started, in UTC microseconds.
    pub started_us: i64,
}

/// A data folder that this process alone uses.
#[derive(Debug)]
pub struct DataFolder {
    root: PathBuf,
    lock: File,
}

/// Where the parts of one repository lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryFolder {
    /// The metadata database.
    pub metadata: PathBuf,
    /// What is immutable.
    pub objects: PathBuf,
    /// The write-ahead log.
    pub wal: PathBuf,
    /// The online store.
    pub online: PathBuf,
}

impl RepositoryFolder {
    /// Where a repository lies in a data folder that somebody else may be using; nothing is made.
    pub(crate) fn of(root: &Path, name: &str) -> Self {
        Self::at(&base(root, name))
    }

    fn at(base: &Path) -> Self {
        Self { metadata: base.join("metadata.sqlite"), objects: base.join("objects"), wal: base.join("wal"), online: base.join("online") }
    }
}

impl DataFolder {
    /// Makes the folder if it is missing, locks it and clears what an earlier server left under way.
    ///
    /// # Errors
    /// [`Error::Locked`] where another server uses it.
    pub fn open(root: &Path) -> Result<Self> {
        let failed = |what: &str| Error::io(format!("{what} data folder {}", root.display()));
        let fresh = !root.exists();
        std::fs::create_dir_all(root).map_err(failed("making"))?;
        let root = root.canonicalize().map_err(failed("opening"))?;
        if fresh && let Some(parent) = root.parent() {
            File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed("syncing"))?;
        }
        let mut lock = File::options().read(true).write(true).create(true).truncate(false).open(root.join(LOCK_FILE)).map_err(failed("locking"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { folder: root.display().to_string(), holder: holder(&root) }),
            Err(TryLockError::Error(source)) => return Err(failed("locking")(source)),
        }
        lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())).map_err(failed("locking"))?;
        let folder = Self { root, lock };
        folder.remove_server_file();
        for passing in [folder.tmp(), folder.spill()] {
            if passing.exists() {
                std::fs::remove_dir_all(&passing).map_err(Error::io(format!("emptying {}", passing.display())))?;
            }
            std::fs::create_dir(&passing).map_err(Error::io(format!("making {}", passing.display())))?;
        }
        Ok(folder)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where uploads lie while they are under way.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Where work spills to that outgrew its memory.
    pub fn spill(&self) -> PathBuf {
        self.root.join("spill")
    }

    /// Where a repository lies; its folder is made.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be made.
    pub fn repository(&self, name: &str) -> Result<RepositoryFolder> {
        let base = base(&self.root, name);
        std::fs::create_dir_all(&base).map_err(Error::io(format!("making {}", base.display())))?;
        Ok(RepositoryFolder::at(&base))
    }

    /// Says that the server answers.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be written.
    pub fn write_server_file(&self, address: SocketAddr, started: Timestamp) -> Result<()> {
        let file = ServerFile { pid: std::process::id(), address, version: env!("CARGO_PKG_VERSION").to_owned(), started_us: started.micros() };
        let text = serde_json::to_vec_pretty(&file).map_err(|error| Error::Config(error.to_string()))?;
        let (path, draft) = (self.root.join(SERVER_FILE), self.tmp().join(SERVER_FILE));
        let written = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, &path));
        written.map_err(Error::io(format!("writing {}", path.display())))
    }

    /// Gives the folder back: says that no server answers, then unlocks it, also where someone still holds this value.
    pub fn release(&self) {
        self.remove_server_file();
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "cannot unlock the data folder");
        }
    }

    /// Says that the server does not answer any more.
    fn remove_server_file(&self) {
        if let Err(error) = std::fs::remove_file(self.root.join(SERVER_FILE))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "cannot remove server.json");
        }
    }
}

fn base(root: &Path, repository: &str) -> PathBuf {
    if repository == "default" { root.to_owned() } else { root.join("repositories").join(repository) }
}

/// What is known of who holds the lock.
fn holder(root: &Path) -> String {
    let file = std::fs::read(root.join(SERVER_FILE)).ok().and_then(|bytes| serde_json::from_slice::<ServerFile>(&bytes).ok());
    match file {
        Some(file) => format!("the server at {} (pid {})", file.address, file.pid),
        None => match std::fs::read_to_string(root.join(LOCK_FILE)) {
            Ok(pid) if !pid.is_empty() => format!("a server that is starting or stopping (pid {pid})"),
            _ => "another process".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_user_is_told_who_the_first_is() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("data");
        let first = DataFolder::open(&root).unwrap();
        let said = || DataFolder::open(&root).unwrap_err().to_string();
        assert!(said().contains(&format!("pid {}", std::process::id())));
        first.write_server_file("127.0.0.1:7420".parse().unwrap(), Timestamp(5)).unwrap();
        assert!(said().contains("the server at 127.0.0.1:7420"));
        drop(first);
        DataFolder::open(&root).unwrap();
    }

    #[test]
    fn what_a_crash_left_behind_is_cleared() {
        let root = tempfile::tempdir().unwrap();
        let first = DataFolder::open(root.path()).unwrap();
        first.write_server_file("127.0.0.1:7420".parse().unwrap(), Timestamp(5)).unwrap();
        std::fs::write(first.tmp().join("upload"), b"half").unwrap();
        drop(first);
        let second = DataFolder::open(root.path()).unwrap();
        assert!(!root.path().join(SERVER_FILE).exists());
        assert_eq!(std::fs::read_dir(second.tmp()).unwrap().count(), 0);
    }
}
