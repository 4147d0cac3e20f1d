//! Reading entries out of packs.
//!
//! Entries that are read together are located together, and those that lie near each other in a pack are read as one range. A pack may be compacted away
//! between the look at the index and the read ([`crate::Repository::compact`]): whoever finds it missing looks again, and only an entry that the index
//! still places there is told as damage.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStoreExt;

use super::{Store, pack_path};
use crate::pack::unpack;
use crate::tree::{Node, NodeReader};
use crate::{Error, Location, NodeHash, PackId, Result};

/// Entries of a pack are read as one range if no more than this lies between them,
const NEAR_BYTES: u64 = 32 << 10;
/// and the range is no longer than this.
const RANGE_BYTES: u64 = 4 << 20;
/// Ranges that are read at a time.
const RANGES_AT_ONCE: usize = 16;
/// How often an entry is looked for: its pack may be compacted away under a read.
const LOOKS: usize = 3;

/// Entries that are read as one range; each with its place among those asked for.
struct Near {
    pack: PackId,
    range: Range<u64>,
    entries: Vec<(usize, NodeHash, Location)>,
}

impl Store {
    /// The verified bytes of a node or commit; `None` if no pack holds it.
    pub(super) async fn fetch(&self, hash: &[u8; 32], name: &str) -> Result<Option<Bytes>> {
        match self.locate(hash).await? {
            Some(location) => self.fetch_at(location, hash, name).await,
            None => Ok(None),
        }
    }

    /// As [`Store::fetch`], from where the index placed it a while ago.
    pub(crate) async fn fetch_at(&self, mut location: Location, hash: &[u8; 32], name: &str) -> Result<Option<Bytes>> {
        for _ in 0..LOOKS {
            let object = named(name, &location);
            match self.read_range(&location.pack, location.offset..location.offset.saturating_add(u64::from(location.len))).await {
                Ok(Some(entry)) => return unpack(&entry, hash, &object).map(Some),
                Ok(None) => {}
                Err(Error::Corrupt { reason, .. }) => return Err(Error::corrupt(object, reason)),
                Err(error) => return Err(error),
            }
            match self.locate(hash).await? {
                Some(again) if again != location => location = again,
                Some(_) => break,
                None => return Ok(None),
            }
        }
        Err(Error::corrupt(name, format!("its pack {} is missing", pack_path(&location.pack))))
    }

    async fn locate(&self, hash: &[u8; 32]) -> Result<Option<Location>> {
        Ok(self.metadata.locate(&[*hash]).await?.pop().flatten())
    }

    /// Nodes in the order asked, none of which is cached.
    pub(super) async fn fetch_nodes(&self, hashes: &[NodeHash]) -> Result<Vec<Arc<Node>>> {
        let asked: Vec<_> = hashes.iter().map(|hash| hash.0).collect();
        let locations = self.metadata.locate(&asked).await?;
        let read: Vec<Vec<(usize, Arc<Node>)>> =
            stream::iter(near(hashes, &locations)).map(|near| self.read_near(near)).buffer_unordered(RANGES_AT_ONCE).try_collect().await?;
        let mut nodes = vec![None; hashes.len()];
        read.into_iter().flatten().for_each(|(at, node)| nodes[at] = Some(node));
        let mut found = Vec::with_capacity(hashes.len());
        for (hash, node) in hashes.iter().zip(nodes) {
            found.push(match node {
                Some(node) => node,
                // Alone, to look again or to tell what is wrong.
                None => self.node(hash).await?,
            });
        }
        Ok(found)
    }

    /// The nodes of a range; none if it cannot be read as the index says.
    async fn read_near(&self, near: Near) -> Result<Vec<(usize, Arc<Node>)>> {
        let bytes = match self.read_range(&near.pack, near.range.clone()).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) | Err(Error::Corrupt { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let unpack_all =
            move || near.entries.iter().map(|(at, hash, location)| Ok((*at, unpack_node(&bytes, near.range.start, hash, location)?))).collect();
        tokio::task::spawn_blocking(unpack_all).await.map_err(|error| Error::backend("unpacking nodes", error))?
    }

    /// A range of a pack; `None` if the pack is missing, damage if it is cut short.
    async fn read_range(&self, pack: &PackId, range: Range<u64>) -> Result<Option<Bytes>> {
        let path = pack_path(pack);
        let cut_short = |len| Error::corrupt(path.to_string(), format!("the pack is cut short: {len} bytes, of which the index needs {}", range.end));
        match self.objects.get_range(&path, range.clone()).await {
            Ok(bytes) if bytes.len() as u64 == range.end - range.start => Ok(Some(bytes)),
            Ok(bytes) => Err(cut_short(range.start + bytes.len() as u64)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            // A range that ends behind the object is refused in as many ways as there are stores.
            Err(error) => match self.objects.head(&path).await {
                Ok(meta) if meta.size < range.end => Err(cut_short(meta.size)),
                _ => Err(Error::backend(format!("reading {path}"), error)),
            },
        }
    }
}

fn named(name: &str, location: &Location) -> String {
    format!("{name} in {}", pack_path(&location.pack))
}

/// Puts located entries that lie near each other together.
fn near(hashes: &[NodeHash], locations: &[Option<Location>]) -> Vec<Near> {
    let located = hashes.iter().zip(locations).enumerate();
    let mut entries: Vec<_> = located.filter_map(|(at, (hash, location))| Some((at, *hash, (*location)?))).collect();
    entries.sort_unstable_by_key(|(_, _, location)| (location.pack, location.offset));
    let mut ranges: Vec<Near> = Vec::new();
    for entry in entries {
        let Location { pack, offset, len } = entry.2;
        let end = offset.saturating_add(u64::from(len));
        match ranges.last_mut() {
            Some(last) if last.pack == pack && offset <= last.range.end.saturating_add(NEAR_BYTES) && end - last.range.start <= RANGE_BYTES => {
                last.range.end = last.range.end.max(end);
                last.entries.push(entry);
            }
            _ => ranges.push(Near { pack, range: offset..end, entries: vec![entry] }),
        }
    }
    ranges
}

fn unpack_node(bytes: &Bytes, start: u64, hash: &NodeHash, location: &Location) -> Result<Arc<Node>> {
    let at = (location.offset - start) as usize;
    // Copied, so that a node in the cache does not keep the whole range.
    let entry = Bytes::copy_from_slice(&bytes[at..at + location.len as usize]);
    let object = named(&format!("node {hash}"), location);
    let node = Node::decode(unpack(&entry, &hash.0, &object)?).map_err(|error| Error::corrupt(object, error.to_string()))?;
    Ok(Arc::new(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_lie_near_each_other_are_one_range() {
        let (a, b) = (PackId([1; 32]), PackId([2; 32]));
        let at = |pack, offset, len| Some(Location { pack, offset, len });
        let far = 8 + NEAR_BYTES + 5000;
        let long = RANGE_BYTES as u32;
        let locations = [at(b, 900, 100), at(a, 4000, 1000), None, at(a, 8, 100), at(a, far + 1, 10), at(b, 1000, long), at(b, 1000, 1)];
        let hashes: Vec<_> = (0..7u8).map(|n| NodeHash([n; 32])).collect();
        let ranges: Vec<_> = near(&hashes, &locations)
            .into_iter()
            .map(|near| (near.pack, near.range, near.entries.iter().map(|entry| entry.0).collect::<Vec<_>>()))
            .collect();
        let end = 1000 + u64::from(long);
        assert_eq!(ranges, [(a, 8..5000, vec![3, 1]), (a, far + 1..far + 11, vec![4]), (b, 900..1000, vec![0]), (b, 1000..end, vec![5, 6])]);
    }
}
