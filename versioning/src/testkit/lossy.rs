//! [`LossyFiles`]: a file layer that forgets what was not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::files::{FileHandle, Files, RealFiles};

/// Files in a real directory that can lose power.
///
/// Writes reach the real directory at once, so that every reader sees them; beside it stands what a disk would hold if power failed now: content up to
/// the last [`FileHandle::sync`] and names up to the last [`Files::sync_dir`]. [`LossyFiles::lose_power`] puts the directory into that state. Only
/// files written through this layer are touched; what it finds there counts as durable. All clones share one disk.
///
/// ```
/// # use anabranch_versioning::{files::Files, testkit::LossyFiles};
/// # let folder = tempfile::tempdir()?;
/// let (files, path) = (LossyFiles::default(), folder.path().join("log"));
/// files.create_new(&path)?.write_all(b"never synced")?;
/// files.lose_power()?;
/// assert!(!path.exists());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct LossyFiles(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    inodes: Vec<Inode>,
    /// What the names mean now.
    names: BTreeMap<PathBuf, usize>,
    /// What they mean after loss of power.
    durable: BTreeMap<PathBuf, usize>,
    /// Directories made and not synced in the one above.
    fresh_dirs: BTreeSet<PathBuf>,
    /// Handles of an earlier power cycle are dead.
    cycle: u64,
    /// Mutating operations so far in this cycle.
    operations: u64,
    cut_after: Option<u64>,
    full: bool,
    away: bool,
}

#[derive(Debug, Default)]
struct Inode {
    durable: Vec<u8>,
    /// How much of `durable` is still current; `tail` follows it.
    kept: usize,
    tail: Vec<u8>,
}

impl Inode {
    fn stable(durable: Vec<u8>) -> Self {
        Self { kept: durable.len(), durable, tail: Vec::new() }
    }

    fn truncate(&mut self, len: usize) {
        if len >= self.kept {
            self.tail.truncate(len - self.kept);
        } else {
            self.kept = len;
            self.tail.clear();
        }
    }

    fn sync(&mut self) {
        self.durable.truncate(self.kept);
        self.durable.append(&mut self.tail);
        self.kept = self.durable.len();
    }
}

impl LossyFiles {
    /// Puts the directory into the state that was durable, kills every open handle and gives power again. Everything not synced is lost.
    pub fn lose_power(&self) -> io::Result<()> {
        self.lose_power_keeping(|_| 0)
    }

    /// As [`LossyFiles::lose_power`], but of each file's unsynced tail the first `keep(length of the tail)` bytes survive: a torn write.
    pub fn lose_power_keeping(&self, mut keep: impl FnMut(usize) -> usize) -> io::Result<()> {
        let mut disk = self.disk();
        let Disk { inodes, names, durable, fresh_dirs, .. } = &mut *disk;
        for path in names.keys() {
            ignore_missing(std::fs::remove_file(path))?;
        }
        durable.retain(|path, _| !path.ancestors().any(|above| fresh_dirs.contains(above)));
        for inode in inodes.iter_mut() {
            let kept = keep(inode.tail.len()).min(inode.tail.len());
            if inode.kept == inode.durable.len() {
                inode.durable.extend_from_slice(&inode.tail[..kept]);
            }
            inode.kept = inode.durable.len();
            inode.tail.clear();
        }
        for dir in fresh_dirs.iter().rev() {
            ignore_missing(std::fs::remove_dir_all(dir))?;
        }
        for (path, inode) in durable.iter() {
            ignore_missing(std::fs::remove_file(path))?;
            std::fs::write(path, &inodes[*inode].durable)?;
        }
        disk.names = disk.durable.clone();
        disk.fresh_dirs.clear();
        disk.cycle += 1;
        disk.operations = 0;
        disk.cut_after = None;
        Ok(())
    }

    /// After this many more mutating operations every operation fails, as if the machine had stopped; [`LossyFiles::lose_power`] brings it back.
    pub fn cut_power_after(&self, operations: u64) {
        let mut disk = self.disk();
        disk.cut_after = Some(disk.operations + operations);
    }

    /// Mutating operations in this power cycle: how many cuts a test has to try.
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// While set, creating and writing fail with `StorageFull`.
    pub fn set_full(&self, full: bool) {
        self.disk().full = full;
    }

    /// While set, every operation fails as one on a network does that is down.
    pub fn set_away(&self, away: bool) {
        self.disk().away = away;
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, inode: usize, file: Box<dyn FileHandle>, cycle: u64) -> Box<dyn FileHandle> {
        Box::new(LossyHandle { disk: self.clone(), inode, file, cycle })
    }
}

impl Disk {
    fn check_power(&self) -> io::Result<()> {
        match self.cut_after {
            _ if self.away => Err(io::ErrorKind::TimedOut.into()),
            Some(cut) if self.operations >= cut => Err(io::Error::other("the power is off")),
            _ => Ok(()),
        }
    }

    /// Counts one mutating operation.
    fn mutate(&mut self) -> io::Result<()> {
        self.check_power()?;
        self.operations += 1;
        Ok(())
    }

    fn need_space(&self) -> io::Result<()> {
        if self.full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// The file behind a name; one that we have not seen is taken as durable.
    fn inode(&mut self, path: &Path) -> io::Result<usize> {
        if let Some(inode) = self.names.get(path) {
            return Ok(*inode);
        }
        let content = std::fs::read(path)?;
        self.inodes.push(Inode::stable(content));
        let inode = self.inodes.len() - 1;
        self.names.insert(path.to_owned(), inode);
        self.durable.insert(path.to_owned(), inode);
        Ok(inode)
    }
}

impl Files for LossyFiles {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FileHandle>> {
        let mut disk = self.disk();
        disk.mutate()?;
        disk.need_space()?;
        let file = RealFiles.create_new(path)?;
        disk.inodes.push(Inode::default());
        let inode = disk.inodes.len() - 1;
        disk.names.insert(path.to_owned(), inode);
        let cycle = disk.cycle;
        Ok(self.handle(inode, file, cycle))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn FileHandle>> {
        let mut disk = self.disk();
        disk.check_power()?;
        let inode = disk.inode(path)?;
        let cycle = disk.cycle;
        Ok(self.handle(inode, RealFiles.append(path)?, cycle))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk().check_power()?;
        RealFiles.read(path)
    }

    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.disk().check_power()?;
        RealFiles.read_at(path, offset, len)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.disk().check_power()?;
        RealFiles.len(path)
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut disk = self.disk();
        disk.mutate()?;
        let inode = disk.inode(path)?;
        RealFiles.truncate(path, len)?;
        let inode = &mut disk.inodes[inode];
        inode.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        inode.sync();
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.mutate()?;
        let inode = disk.inode(from)?;
        ignore_missing(disk.inode(to).map(drop))?;
        RealFiles.rename(from, to)?;
        disk.names.remove(from);
        disk.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.mutate()?;
        let inode = disk.inode(from)?;
        RealFiles.link(from, to)?;
        disk.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.mutate()?;
        disk.inode(path)?;
        RealFiles.remove(path)?;
        disk.names.remove(path);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk().check_power()?;
        RealFiles.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.mutate()?;
        let missing: Vec<PathBuf> = dir.ancestors().filter(|path| !path.as_os_str().is_empty() && !path.exists()).map(Path::to_owned).collect();
        RealFiles.create_dir_all(dir)?;
        disk.fresh_dirs.extend(missing);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.mutate()?;
        if !dir.is_dir() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let Disk { names, durable, fresh_dirs, .. } = &mut *disk;
        let within = |path: &Path| path.parent() == Some(dir);
        durable.retain(|path, _| !within(path));
        durable.extend(names.iter().filter(|(path, _)| within(path)).map(|(path, inode)| (path.clone(), *inode)));
        fresh_dirs.retain(|path| !within(path));
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk().check_power()?;
        RealFiles.exists(path)
    }
}

#[derive(Debug)]
struct LossyHandle {
    disk: LossyFiles,
    inode: usize,
    file: Box<dyn FileHandle>,
    cycle: u64,
}

impl LossyHandle {
    fn operate(&mut self, operate: impl FnOnce(&mut Disk, usize, &mut dyn FileHandle) -> io::Result<()>) -> io::Result<()> {
        let mut disk = self.disk.disk();
        if disk.cycle != self.cycle {
            return Err(io::Error::other("the handle is from before the power was lost"));
        }
        disk.mutate()?;
        operate(&mut disk, self.inode, self.file.as_mut())
    }
}

impl FileHandle for LossyHandle {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.operate(|disk, inode, file| {
            disk.need_space()?;
            file.write_all(bytes)?;
            disk.inodes[inode].tail.extend_from_slice(bytes);
            Ok(())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        // The real file is not synced: the model is what stands for the disk.
        self.operate(|disk, inode, _| {
            disk.inodes[inode].sync();
            Ok(())
        })
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{ensure_dir, replace_file};

    #[test]
    fn content_survives_up_to_the_last_sync_and_names_up_to_the_last_directory_sync() {
        let folder = tempfile::tempdir().unwrap();
        let (files, log) = (LossyFiles::default(), folder.path().join("log"));
        let mut handle = files.create_new(&log).unwrap();
        handle.write_all(b"synced").unwrap();
        handle.sync().unwrap();
        files.sync_dir(folder.path()).unwrap();
        handle.write_all(b" and not").unwrap();
        let unnamed = folder.path().join("unnamed");
        let mut other = files.create_new(&unnamed).unwrap();
        other.write_all(b"x").unwrap();
        other.sync().unwrap();
        files.lose_power().unwrap();
        assert_eq!(files.read(&log).unwrap(), b"synced");
        assert!(!unnamed.exists());
        assert!(handle.write_all(b"late").is_err());
    }

    #[test]
    fn a_torn_tail_keeps_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let (files, log) = (LossyFiles::default(), folder.path().join("log"));
        let mut handle = files.create_new(&log).unwrap();
        files.sync_dir(folder.path()).unwrap();
        handle.write_all(b"abcdef").unwrap();
        files.lose_power_keeping(|tail| tail / 2).unwrap();
        assert_eq!(files.read(&log).unwrap(), b"abc");
    }

    #[test]
    fn an_unsynced_rename_falls_back_to_the_old_file_and_an_unsynced_removal_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (files, name) = (LossyFiles::default(), folder.path().join("name"));
        replace_file(&files, &name, b"old").unwrap();
        let staged = folder.path().join("staged");
        let mut handle = files.create_new(&staged).unwrap();
        handle.write_all(b"new").unwrap();
        handle.sync().unwrap();
        files.rename(&staged, &name).unwrap();
        files.lose_power().unwrap();
        assert_eq!(files.read(&name).unwrap(), b"old");
        files.remove(&name).unwrap();
        files.lose_power().unwrap();
        assert_eq!(files.read(&name).unwrap(), b"old");
    }

    #[test]
    fn a_directory_survives_only_when_the_one_above_was_synced() {
        let folder = tempfile::tempdir().unwrap();
        let (files, dir) = (LossyFiles::default(), folder.path().join("a/b"));
        files.create_dir_all(&dir).unwrap();
        replace_file(&files, &dir.join("f"), b"x").unwrap();
        files.lose_power().unwrap();
        assert!(!folder.path().join("a").exists());
        ensure_dir(&files, &dir).unwrap();
        replace_file(&files, &dir.join("f"), b"x").unwrap();
        files.lose_power().unwrap();
        assert_eq!(files.read(&dir.join("f")).unwrap(), b"x");
    }

    #[test]
    fn after_the_cut_nothing_works_until_power_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let (files, log) = (LossyFiles::default(), folder.path().join("log"));
        files.cut_power_after(1);
        let mut handle = files.create_new(&log).unwrap();
        assert!(handle.write_all(b"x").is_err());
        assert!(files.exists(&log).is_err());
        files.lose_power().unwrap();
        assert!(!files.exists(&log).unwrap());
    }
}
