//! The repository under test, its keys and its values.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::{RandomIds, SystemClock};
use anabranch_versioning::{Change, CommitId, CommitRequest, Key, KeyKind, Repository, RepositoryOptions, SqliteMetadata, local_objects};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

use super::Options;
use crate::report::{Report, now, say};

/// The repository and what it was made with.
pub(super) struct Bench {
    pub(super) options: Options,
    pub(super) repository: Arc<Repository>,
    folder: PathBuf,
}

impl Bench {
    pub(super) async fn open(options: &Options, folder: &Path) -> anyhow::Result<Self> {
        let repository = open(options, folder).await?;
        Ok(Self { options: options.clone(), repository, folder: folder.to_owned() })
    }

    /// Closes the repository and opens it again with an empty cache.
    pub(super) async fn reopen(&mut self) -> anyhow::Result<()> {
        self.repository.close().await;
        self.repository = open(&self.options, &self.folder).await?;
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.repository.close().await;
    }

    /// Where packs lie.
    pub(super) fn packs(&self) -> PathBuf {
        self.folder.join("objects").join("packs")
    }

    /// Fills `main` with all keys, in commits of ascending keys.
    pub(super) async fn load(&self, report: &mut Report) -> anyhow::Result<()> {
        let mut rng = self.rng(0);
        let start = now();
        let mut first = 0;
        while first < self.options.keys {
            let last = (first + self.options.load_batch).min(self.options.keys);
            self.put("main", first..last, &mut rng).await?;
            first = last;
            say(&format!("{last} keys in {:.1} s", start.elapsed().as_secs_f64()));
        }
        report.figure("load_keys_per_s", self.options.keys as f64 / start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Commits fresh values at some keys.
    pub(super) async fn put(&self, branch: &str, keys: impl Iterator<Item = u64>, rng: &mut StdRng) -> anyhow::Result<CommitId> {
        let changes: anyhow::Result<Vec<_>> = keys.map(|number| Ok(Change::put(key(number)?, self.value(rng)))).collect();
        Ok(self.repository.commit(branch, CommitRequest::new("bench", "put", changes?)).await?.commit)
    }

    pub(super) fn value(&self, rng: &mut StdRng) -> Bytes {
        let mut value = vec![0; self.options.value_bytes];
        rng.fill_bytes(&mut value);
        value.into()
    }

    pub(super) fn any_key(&self, rng: &mut StdRng) -> u64 {
        rng.random_range(0..self.options.keys)
    }

    /// A generator of its own for each use.
    pub(super) fn rng(&self, stream: u64) -> StdRng {
        StdRng::seed_from_u64(self.options.seed ^ (stream << 32))
    }

    pub(super) async fn head(&self, branch: &str) -> anyhow::Result<CommitId> {
        Ok(self.repository.branch(branch).await?.head)
    }
}

async fn open(options: &Options, folder: &Path) -> anyhow::Result<Arc<Repository>> {
    let metadata = Arc::new(SqliteMetadata::open(&folder.join("metadata.db"), &RandomIds::from_os()).await?);
    let objects = local_objects(&folder.join("objects"))?;
    let repository = RepositoryOptions { cache_bytes: options.cache_bytes, ..RepositoryOptions::default() };
    Ok(Repository::open(metadata, objects, Arc::new(SystemClock), Arc::new(RandomIds::from_os()), repository).await?)
}

/// The key of a number: paths of one length, so that they order by number.
pub(super) fn key(number: u64) -> anyhow::Result<Key> {
    Ok(Key::new(KeyKind::Object, &[format!("trajectories/{number:012}.parquet").as_bytes()])?)
}

/// Bytes of all files beneath a directory.
pub(super) fn directory_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => directory_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Bytes that this process has handed to the kernel to be written, logs and databases included.
pub(super) fn written_bytes() -> f64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(f64::NAN)
}
