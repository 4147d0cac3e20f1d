//! The online store as lookups on one branch may read it.
//!
//! A read answers only for what is still served: it fails with [`Error::Lost`] while what the store lost is filled again, and with [`Error::Replaced`] where a
//! generation that it asked for was replaced by another, whose rows it did not see; who resolves the views again finds the new one.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use anabranch_core::Generation;
use anabranch_online_store::{Cursor, Error, Incarnation, OnlineStore, Page, ReadGroup, Result, Write};
use async_trait::async_trait;
use bytes::Bytes;

/// What the views of a branch were published under; none as long as nothing is served.
pub(super) type ServedIncarnation = Arc<RwLock<Option<Incarnation>>>;

/// Generations that are dropped, or will be.
#[derive(Debug, Default)]
pub(super) struct Retired {
    any: AtomicBool,
    generations: RwLock<HashSet<Generation>>,
}

impl Retired {
    pub(super) fn add(&self, generation: Generation) {
        self.generations.write().unwrap_or_else(PoisonError::into_inner).insert(generation);
        self.any.store(true, Ordering::Release);
    }

    pub(super) fn has(&self, generation: Generation) -> bool {
        self.any.load(Ordering::Acquire) && self.generations.read().unwrap_or_else(PoisonError::into_inner).contains(&generation)
    }
}

/// The store, and what is served of it.
#[derive(Debug)]
pub(super) struct KeptStore {
    pub(super) online: Arc<dyn OnlineStore>,
    pub(super) served: ServedIncarnation,
    pub(super) retired: Arc<Retired>,
}

#[async_trait]
impl OnlineStore for KeptStore {
    async fn write(&self, rows: &[Write]) -> Result<()> {
        self.online.write(rows).await
    }

    async fn read(&self, groups: &[ReadGroup<'_>]) -> Result<Vec<Option<Bytes>>> {
        // Looked at before the read, lest a refill that ends behind it vouches for what was not there yet.
        let served = *self.served.read().unwrap_or_else(PoisonError::into_inner);
        let rows = self.online.read(groups).await?;
        if served.is_some() && served != Some(self.online.incarnation().await?) {
            return Err(Error::Lost);
        }
        // A generation is retired before its rows are dropped.
        match groups.iter().flat_map(|group| group.generations).any(|generation| self.retired.has(*generation)) {
            true => Err(Error::Replaced),
            false => Ok(rows),
        }
    }

    fn forget_cached(&self, groups: &[ReadGroup<'_>]) {
        self.online.forget_cached(groups);
    }

    async fn sync(&self) -> Result<()> {
        self.online.sync().await
    }

    async fn published_to(&self, generation: Generation) -> Result<Option<Bytes>> {
        self.online.published_to(generation).await
    }

    async fn advance(&self, generation: Generation, commit: &[u8], incarnation: Incarnation) -> Result<()> {
        self.online.advance(generation, commit, incarnation).await
    }

    async fn incarnation(&self) -> Result<Incarnation> {
        self.online.incarnation().await
    }

    async fn drop_generation(&self, generation: Generation) -> Result<()> {
        self.online.drop_generation(generation).await
    }

    async fn scan(&self, generation: Generation, after: Option<&Cursor>, limit: usize) -> Result<Page> {
        self.online.scan(generation, after, limit).await
    }
}
