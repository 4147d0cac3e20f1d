//! Packed datasets that somebody reads, or read lately, within a budget of memory and one of disk.
//!
//! A dataset is named by its content, so equal ones are packed once, whatever they are called and wherever. Of many who ask for one at a time, the first
//! packs it and the others wait; if the first gives up, the next one does it. What a block takes is reserved before it is kept: where the budget is spent,
//! datasets that nobody reads are dropped, the one longest unused first, and where none is left, memory gives way to disk and disk to a refusal.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::OnceCell;

use super::packed::PackedColumn;
use super::{BatchesError, PackedRows, RowsBuilder};
use crate::dataset::ContentDigest;

/// What a cache may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Memory.
    pub memory_bytes: u64,
    /// Space in its folder.
    pub disk_bytes: u64,
}

/// What a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheUse {
    /// Memory.
    pub memory_bytes: u64,
    /// Space in its folder.
    pub disk_bytes: u64,
    /// Datasets that are packed.
    pub datasets: usize,
    /// How often one was packed.
    pub builds: u64,
}

/// Packed datasets within a budget.
#[derive(Debug)]
pub struct RowCache {
    folder: PathBuf,
    limits: CacheLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<ContentDigest, Entry>,
    memory_bytes: u64,
    disk_bytes: u64,
    builds: u64,
    /// Counts uses, to tell which is the oldest.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    rows: Arc<OnceCell<Arc<PackedRows>>>,
    used: u64,
}

/// Where a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Medium {
    Memory,
    Disk,
}

/// Bytes of a budget, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    cache: Weak<RowCache>,
    medium: Medium,
    bytes: u64,
}

impl RowCache {
    /// A cache with nothing in it, whose files lie in a folder.
    pub fn new(folder: &Path, limits: CacheLimits) -> Arc<Self> {
        Arc::new(Self { folder: folder.to_owned(), limits, state: Mutex::default() })
    }

    /// What it may use.
    pub const fn limits(&self) -> CacheLimits {
        self.limits
    }

    /// What it uses.
    pub fn usage(&self) -> CacheUse {
        let state = self.state();
        let datasets = state.entries.values().filter(|entry| entry.rows.initialized()).count();
        CacheUse { memory_bytes: state.memory_bytes, disk_bytes: state.disk_bytes, datasets, builds: state.builds }
    }

    /// The rows of a content; `fill` packs them where that has not been done.
    ///
    /// # Errors
    /// What `fill` fails with; the next who asks tries again.
    pub async fn rows<F, E>(
        self: &Arc<Self>,
        content: ContentDigest,
        columns: &[PackedColumn],
        fill: impl FnOnce(RowsBuilder) -> F,
    ) -> Result<Arc<PackedRows>, E>
    where
        F: Future<Output = Result<PackedRows, E>>,
        E: From<BatchesError>,
    {
        let cell = self.cell(content);
        let build = async {
            let packed = fill(RowsBuilder::new(Arc::clone(self), self.folder.clone(), columns)).await?;
            self.state().builds += 1;
            Ok(Arc::new(packed))
        };
        cell.get_or_try_init(|| build).await.cloned()
    }

    fn cell(&self, content: ContentDigest) -> Arc<OnceCell<Arc<PackedRows>>> {
        let mut state = self.state();
        // Entries that were given up before they were filled.
        state.entries.retain(|_, entry| entry.rows.initialized() || Arc::strong_count(&entry.rows) > 1);
        state.clock += 1;
        let used = state.clock;
        let entry = state.entries.entry(content).or_insert_with(|| Entry { rows: Arc::default(), used });
        entry.used = used;
        Arc::clone(&entry.rows)
    }

    /// Takes bytes of a budget, dropping what nobody reads where that is needed.
    pub(super) fn reserve(cache: &Arc<Self>, medium: Medium, bytes: u64) -> Option<Reservation> {
        loop {
            let dropped = {
                let mut state = cache.state();
                let limit = match medium {
                    Medium::Memory => cache.limits.memory_bytes,
                    Medium::Disk => cache.limits.disk_bytes,
                };
                let used = state.used(medium);
                if *used + bytes <= limit {
                    *used += bytes;
                    return Some(Reservation { cache: Arc::downgrade(cache), medium, bytes });
                }
                if bytes > limit {
                    return None;
                }
                state.oldest_idle()?
            };
            // Outside of the lock, which giving back takes.
            drop(dropped);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn used(&mut self, medium: Medium) -> &mut u64 {
        match medium {
            Medium::Memory => &mut self.memory_bytes,
            Medium::Disk => &mut self.disk_bytes,
        }
    }

    /// Takes out the dataset that nobody reads, the one longest unused.
    fn oldest_idle(&mut self) -> Option<Entry> {
        let idle = |entry: &&Entry| entry.rows.get().is_some_and(|rows| Arc::strong_count(rows) == 1) && Arc::strong_count(&entry.rows) == 1;
        let (content, _) = self.entries.iter().filter(|(_, entry)| idle(entry)).min_by_key(|(_, entry)| entry.used)?;
        let content = *content;
        self.entries.remove(&content)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(cache) = self.cache.upgrade() {
            let mut state = cache.state();
            *state.used(self.medium) -= self.bytes;
        }
    }
}
