//! What is immutable: nodes and commits in packs, and blobs. Everything read is verified against its hash and kept in a cache bounded in bytes.
//! What is damaged is named by its hash and its pack, and is never served.

mod read;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use moka::sync::Cache;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::pack::{Encoder, PackBuilder};
use crate::tree::{Node, NodeReader};
use crate::{Commit, CommitId, Digest, EntryKind, Error, MetadataStore, NodeHash, PackId, PackIndex, Result};

/// The longest blob: larger things are data files.
pub(crate) const MAX_BLOB_BYTES: usize = 64 << 20;

/// Entries of a pack that are compressed by one thread, and
const SHARE: usize = 512;
/// how many such shares at a time.
const SHARES_AT_ONCE: usize = 4;

/// Reads and writes immutable things.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) metadata: Arc<dyn MetadataStore>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    cache: Cache<[u8; 32], Cached>,
}

#[derive(Debug, Clone)]
enum Cached {
    Node(Arc<Node>),
    Commit(Arc<Commit>),
    Blob(Bytes),
}

impl Cached {
    fn bytes(&self) -> u32 {
        let bytes = match self {
            Self::Node(node) => node.memory_bytes(),
            Self::Commit(commit) => {
                512 + commit.message.len() + commit.metadata.iter().map(|(key, value)| 64 + key.len() + value.len()).sum::<usize>()
            }
            Self::Blob(bytes) => 128 + bytes.len(),
        };
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

/// A node or commit that is new.
#[derive(Debug, Clone)]
pub(crate) enum Fresh {
    Node(NodeHash, Arc<Node>),
    Commit(CommitId, Arc<Commit>, Bytes),
}

impl Store {
    pub(crate) fn new(metadata: Arc<dyn MetadataStore>, objects: Arc<dyn ObjectStore>, cache_bytes: u64) -> Self {
        let cache = Cache::builder().max_capacity(cache_bytes).weigher(|_, cached: &Cached| cached.bytes()).build();
        Self { metadata, objects, cache }
    }

    pub(crate) async fn commit(&self, id: &CommitId) -> Result<Arc<Commit>> {
        if let Some(Cached::Commit(commit)) = self.cache.get(&id.0) {
            return Ok(commit);
        }
        let name = format!("commit {id}");
        let bytes = self.fetch(&id.0, &name).await?.ok_or(Error::NoCommit(*id))?;
        let commit = Arc::new(Commit::decode(&bytes).map_err(|error| Error::corrupt(name, error.to_string()))?);
        self.cache.insert(id.0, Cached::Commit(commit.clone()));
        Ok(commit)
    }

    /// Writes a pack; when this returns it is durable, and nothing names it yet.
    pub(crate) async fn write_pack(&self, fresh: &[Fresh]) -> Result<Option<PackIndex>> {
        if fresh.is_empty() {
            return Ok(None);
        }
        let failed = |error| Error::backend("writing a pack", error);
        let shares = fresh.chunks(SHARE).map(<[Fresh]>::to_vec);
        let encode = |share: Vec<Fresh>| tokio::task::spawn_blocking(move || encode(&share));
        let encoded: Vec<_> = stream::iter(shares).map(encode).buffered(SHARES_AT_ONCE).try_collect().await.map_err(failed)?;
        let build = move || {
            let mut pack = PackBuilder::new();
            encoded.into_iter().flatten().for_each(|(kind, hash, entry)| pack.add_encoded(kind, hash, &entry));
            pack.finish()
        };
        let (bytes, index) = tokio::task::spawn_blocking(build).await.map_err(failed)?;
        self.put_pack(&index.pack, bytes).await?;
        Ok(Some(index))
    }

    /// Writes a pack durably.
    pub(crate) async fn put_pack(&self, pack: &PackId, bytes: Bytes) -> Result<()> {
        let path = pack_path(pack);
        self.objects.put(&path, bytes.into()).await.map_err(|error| Error::backend(format!("writing {path}"), error))?;
        Ok(())
    }

    /// Keeps what was just published at hand.
    pub(crate) fn remember(&self, fresh: Vec<Fresh>) {
        for entry in fresh {
            match entry {
                Fresh::Node(hash, node) => self.cache.insert(hash.0, Cached::Node(node)),
                Fresh::Commit(id, commit, _) => self.cache.insert(id.0, Cached::Commit(commit)),
            }
        }
    }

    pub(crate) async fn put_blob(&self, bytes: Bytes) -> Result<Digest> {
        if bytes.len() > MAX_BLOB_BYTES {
            return Err(Error::invalid("blob", format!("{} bytes are over {MAX_BLOB_BYTES}: write a data file", bytes.len())));
        }
        let digest = Digest::of(&bytes);
        let path = blob_path(&digest);
        // Written also where it exists: a name that is seen need not be durable yet.
        self.objects.put(&path, bytes.clone().into()).await.map_err(|error| Error::backend(format!("writing {path}"), error))?;
        self.cache.insert(digest.0, Cached::Blob(bytes));
        Ok(digest)
    }

    pub(crate) async fn blob(&self, digest: &Digest) -> Result<Bytes> {
        if let Some(Cached::Blob(bytes)) = self.cache.get(&digest.0) {
            return Ok(bytes);
        }
        let path = blob_path(digest);
        let failed = |error| match error {
            object_store::Error::NotFound { .. } => Error::NoBlob(digest.to_string()),
            error => Error::backend(format!("reading {path}"), error),
        };
        let bytes = self.objects.get(&path).await.map_err(failed)?.bytes().await.map_err(failed)?;
        if Digest::of(&bytes) != *digest {
            return Err(Error::corrupt(path.to_string(), "its bytes are not what its name says"));
        }
        self.cache.insert(digest.0, Cached::Blob(bytes.clone()));
        Ok(bytes)
    }
}

#[async_trait]
impl NodeReader for Store {
    async fn node(&self, hash: &NodeHash) -> Result<Arc<Node>> {
        // A walk over cached nodes never waits; this lets others run.
        tokio::task::coop::consume_budget().await;
        if let Some(node) = self.cached(hash) {
            return Ok(node);
        }
        let name = format!("node {hash}");
        let bytes = self.fetch(&hash.0, &name).await?.ok_or_else(|| Error::corrupt(&name, "no pack holds it"))?;
        let node = Arc::new(Node::decode(bytes).map_err(|error| Error::corrupt(name, error.to_string()))?);
        self.cache.insert(hash.0, Cached::Node(node.clone()));
        Ok(node)
    }

    fn cached(&self, hash: &NodeHash) -> Option<Arc<Node>> {
        match self.cache.get(&hash.0) {
            Some(Cached::Node(node)) => Some(node),
            _ => None,
        }
    }

    async fn nodes(&self, hashes: &[NodeHash]) -> Result<Vec<Arc<Node>>> {
        let mut found: Vec<_> = hashes.iter().map(|hash| self.cached(hash)).collect();
        let missing: Vec<_> = (0..hashes.len()).filter(|at| found[*at].is_none()).collect();
        if missing.len() > 1 {
            let asked: Vec<_> = missing.iter().map(|at| hashes[*at]).collect();
            for (at, node) in missing.into_iter().zip(self.fetch_nodes(&asked).await?) {
                self.cache.insert(hashes[at].0, Cached::Node(node.clone()));
                found[at] = Some(node);
            }
        }
        let mut nodes = Vec::with_capacity(hashes.len());
        for (hash, node) in hashes.iter().zip(found) {
            nodes.push(match node {
                Some(node) => node,
                None => self.node(hash).await?,
            });
        }
        Ok(nodes)
    }
}

fn encode(share: &[Fresh]) -> Vec<(EntryKind, [u8; 32], Vec<u8>)> {
    let mut encoder = Encoder::new();
    let mut encode = |entry: &Fresh| match entry {
        Fresh::Node(hash, node) => (EntryKind::Node, hash.0, encoder.encode(node.bytes())),
        Fresh::Commit(id, _, bytes) => (EntryKind::Commit, id.0, encoder.encode(bytes)),
    };
    share.iter().map(&mut encode).collect()
}

pub(crate) fn pack_path(pack: &PackId) -> Path {
    Path::from(format!("packs/{pack}"))
}

fn blob_path(digest: &Digest) -> Path {
    Path::from(format!("blobs/{digest}"))
}
