//! The default store: an LSM tree (`fjall`) in a folder of its own, under a table of the latest rows in memory.
//!
//! All lies in one tree, in the order of the journal, so that an advance never survives the rows written before it:
//!
//! ```text
//! key                                        value
//! 00 | "format"                              1
//! 00 | "incarnation"                         16 bytes
//! 01 | generation                            the commit that it answers for
//! 02 | generation | entity key               the packed row
//! ```
//!
//! Generations and the incarnation are big-endian. A newer format is refused.
//!
//! # Protocol
//!
//! A write takes the stripes of its entities, in ascending order, for as long as it compares its rows with those held, commits the greater ones to the
//! tree as one batch, and puts them into the table. Readers take no stripe. `sync` writes the journal through to the disk, directory included; until
//! then a loss of power may lose the journal's tail, and a killed process loses nothing that was committed.
//!
//! What blocks leaves the async runtime: writes, syncs, misses and large reads. A small read that the table can answer does not.
//!
//! # Failure points
//!
//! - Killed while the folder is being made: the next open finds no version marker, clears what lies there and makes it again.
//! - Disk nearly full: writes are refused before they reach the tree, which would not survive a failed one. Should one fail all the same, the tree
//!   refuses every write until it is opened again; reads go on.
//! - Timed out: the operation goes on behind the caller's back, and is safe to repeat.

mod folder;
mod tree;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::{Generation, Ids};
use async_trait::async_trait;
use bytes::Bytes;

use crate::store::check_commit;
use crate::{Cursor, EmbeddedConfig, Error, Incarnation, OnlineStore, Page, ReadGroup, Result, Write};
use tree::Tree;

/// Reads of more rows than this leave the async runtime even where the table can answer them.
const INLINE_READS: usize = 2_048;

/// Rows that are written, or removed, under one hold of the stripes.
const CHUNK: usize = 4_096;

/// Keeps rows in a folder.
pub struct EmbeddedOnlineStore {
    tree: Arc<Tree>,
    limit: Duration,
}

impl fmt::Debug for EmbeddedOnlineStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedOnlineStore").field("path", &self.tree.path()).finish_non_exhaustive()
    }
}

impl EmbeddedOnlineStore {
    /// Opens a folder, and makes it where it is not there. Nobody else may have it open.
    ///
    /// # Errors
    /// [`Error::Locked`] where somebody has, [`Error::Config`], [`Error::NewerFormat`], [`Error::DiskFull`] and [`Error::Storage`].
    pub async fn open(path: impl AsRef<Path>, config: &EmbeddedConfig, ids: &dyn Ids) -> Result<Self> {
        config.validate()?;
        let (path, config, fresh) = (path.as_ref().to_owned(), config.clone(), Incarnation(ids.random()));
        let limit = Duration::from_millis(config.timeout_ms);
        let tree = tokio::task::spawn_blocking(move || Tree::open(&path, &config, fresh)).await;
        let tree = tree.map_err(|source| Error::Storage { doing: "open", source: source.into() })??;
        Ok(Self { tree: Arc::new(tree), limit })
    }

    /// Runs what blocks off the runtime, within the limit.
    async fn blocking<T: Send + 'static>(&self, doing: &'static str, work: impl FnOnce(&Tree) -> Result<T> + Send + 'static) -> Result<T> {
        let tree = Arc::clone(&self.tree);
        let task = tokio::task::spawn_blocking(move || work(&tree));
        match tokio::time::timeout(self.limit, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(Error::Storage { doing, source: panic.into() }),
            Err(_) => Err(Error::Timeout { doing, limit_ms: self.limit.as_millis() as u64 }),
        }
    }
}

#[async_trait]
impl OnlineStore for EmbeddedOnlineStore {
    async fn write(&self, rows: &[Write]) -> Result<()> {
        rows.iter().try_for_each(Write::check)?;
        for chunk in rows.chunks(CHUNK) {
            let chunk = chunk.to_vec();
            self.blocking("write", move |tree| tree.write(&chunk)).await?;
        }
        Ok(())
    }

    async fn read(&self, groups: &[ReadGroup<'_>]) -> Result<Vec<Option<Bytes>>> {
        if groups.iter().map(ReadGroup::len).sum::<usize>() > INLINE_READS {
            let owned: Vec<_> = groups.iter().map(|group| (group.generations.to_vec(), group.keys.to_vec())).collect();
            let read = move |tree: &Tree| {
                let groups: Vec<_> = owned.iter().map(|(generations, keys)| ReadGroup { generations, keys }).collect();
                let mut known = tree.read_known(&groups);
                known.complete(tree.read_missed(&known.misses)?);
                Ok(known.rows)
            };
            return self.blocking("read", read).await;
        }
        let mut known = self.tree.read_known(groups);
        if !known.misses.is_empty() {
            let misses = std::mem::take(&mut known.misses);
            known.complete(self.blocking("read", move |tree| tree.read_missed(&misses)).await?);
        }
        Ok(known.rows)
    }

    async fn sync(&self) -> Result<()> {
        self.blocking("sync", Tree::sync).await
    }

    async fn published_to(&self, generation: Generation) -> Result<Option<Bytes>> {
        self.blocking("read", move |tree| tree.published_to(generation)).await
    }

    async fn advance(&self, generation: Generation, commit: &[u8], incarnation: Incarnation) -> Result<()> {
        check_commit(commit)?;
        if incarnation != self.tree.incarnation() {
            return Err(Error::Lost);
        }
        let commit = commit.to_vec();
        self.blocking("advance", move |tree| tree.advance(generation, &commit)).await
    }

    async fn incarnation(&self) -> Result<Incarnation> {
        Ok(self.tree.incarnation())
    }

    async fn drop_generation(&self, generation: Generation) -> Result<()> {
        self.blocking("drop a generation", move |tree| tree.forget_commit(generation)).await?;
        let mut after = None;
        loop {
            after = self.blocking("drop a generation", move |tree| tree.drop_some(generation, after.as_ref(), CHUNK)).await?;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn scan(&self, generation: Generation, after: Option<&Cursor>, limit: usize) -> Result<Page> {
        let after = after.cloned();
        self.blocking("scan", move |tree| tree.scan(generation, after.as_ref(), limit.clamp(1, CHUNK))).await
    }
}

#[cfg(test)]
mod tests;
