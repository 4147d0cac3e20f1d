//! Reading the map at one root.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::store::Store;
use crate::tree::{self, NodeReader};
use crate::{Entry, Key, MapReader, Page, Result, Root, Scan};

/// The map at one root; it never changes.
#[derive(Debug, Clone)]
pub struct MapView {
    pub(super) store: Arc<Store>,
    pub(super) root: Root,
}

impl MapView {
    /// The name of the content: two views with the same root hold the same.
    pub fn root(&self) -> Root {
        self.root
    }
}

#[async_trait]
impl MapReader for MapView {
    async fn get(&self, key: &Key) -> Result<Option<Bytes>> {
        tree::get(self.store.as_ref(), &self.root, key.as_bytes()).await
    }

    async fn scan(&self, scan: &Scan) -> Result<Page<Entry>> {
        tree::scan(self.store.as_ref(), &self.root, scan).await
    }
}

/// The map at a root whose nodes need not be stored yet.
pub(super) struct DraftView<'a> {
    pub(super) reader: &'a dyn NodeReader,
    pub(super) root: Root,
}

#[async_trait]
impl MapReader for DraftView<'_> {
    async fn get(&self, key: &Key) -> Result<Option<Bytes>> {
        tree::get(self.reader, &self.root, key.as_bytes()).await
    }

    async fn scan(&self, scan: &Scan) -> Result<Page<Entry>> {
        tree::scan(self.reader, &self.root, scan).await
    }
}
