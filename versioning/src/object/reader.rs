//! Bytes on their way out: fetched a few pieces at a time, each verified before any byte of it is given out.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::{ObjectAddress, ObjectEntry, ObjectInfo, PIECE_BYTES, piece_count};
use crate::store::Store;
use crate::{Digest, Error, Result};

/// How many pieces are asked for at once.
const WINDOW_PIECES: u64 = 4;

/// Reads an object, or a range of it, piece by piece; holds at most 4 MiB of it at once.
#[derive(Debug)]
pub struct ObjectReader {
    store: Arc<Store>,
    info: ObjectInfo,
    range: Range<u64>,
    at: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Verified already.
    Blob(Bytes),
    File {
        location: Path,
        /// One for each piece.
        hashes: Bytes,
        /// Pieces that were fetched and not verified, in order.
        fetched: VecDeque<Bytes>,
    },
}

impl ObjectReader {
    /// Opens an object; fails here if the file is missing or not as long as its entry says.
    pub(crate) async fn open(store: Arc<Store>, info: ObjectInfo, range: Option<Range<u64>>) -> Result<Self> {
        let range = info.entry.clip(range)?;
        let (path, entry) = (info.path.as_str(), &info.entry);
        let source = match entry.address() {
            ObjectAddress::Blob(digest) => {
                let bytes = blob(&store, digest, || entry.named(path)).await?;
                if bytes.len() as u64 != entry.size {
                    return Err(entry.wrong(path, format!("it has {} bytes where its entry says {}", bytes.len(), entry.size)));
                }
                Source::Blob(bytes)
            }
            address => {
                let location = address.location();
                check_length(&store, path, entry, &location).await?;
                Source::File { hashes: hashes(&store, path, entry).await?, location, fetched: VecDeque::new() }
            }
        };
        Ok(Self { store, at: range.start, range, info, source })
    }

    /// What is read.
    pub fn info(&self) -> &ObjectInfo {
        &self.info
    }

    /// Which bytes of it are read.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The next bytes, at most [`PIECE_BYTES`]; `None` at the end of the range.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::ImportChanged`] where the next piece is not what was put or imported; the object store's.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.at >= self.range.end {
            return Ok(None);
        }
        if let Source::Blob(bytes) = &self.source {
            let end = self.range.end.min(self.at + PIECE_BYTES);
            let part = bytes.slice(self.at as usize..end as usize);
            self.at = end;
            return Ok(Some(part));
        }
        let index = self.at / PIECE_BYTES;
        let piece = self.piece(index).await?;
        let start = index * PIECE_BYTES;
        let end = self.range.end.min(start + piece.len() as u64);
        let part = piece.slice((self.at - start) as usize..(end - start) as usize);
        self.at = end;
        Ok(Some(part))
    }

    /// A piece, verified.
    async fn piece(&mut self, index: u64) -> Result<Bytes> {
        let (info, end, store) = (&self.info, self.range.end, &self.store);
        let Source::File { location, hashes, fetched } = &mut self.source else { return Ok(Bytes::new()) };
        if fetched.is_empty() {
            *fetched = fetch(store, info, location, index..piece_count(end).min(index + WINDOW_PIECES)).await?;
        }
        let (piece, at) = (fetched.pop_front().unwrap_or_default(), index as usize * 32);
        if hashes.get(at..at + 32) != Some(blake3::hash(&piece).as_bytes().as_slice()) {
            let first = index * PIECE_BYTES;
            return Err(info
                .entry
                .wrong(&info.path, format!("bytes {first}..{} are not those that its checksum stands for", first + piece.len() as u64)));
        }
        tokio::task::consume_budget().await;
        Ok(piece)
    }

    /// All that is left, for what is known to be small.
    ///
    /// # Errors
    /// As [`ObjectReader::next`].
    pub async fn bytes(mut self) -> Result<Bytes> {
        let mut all = BytesMut::new();
        while let Some(part) = self.next().await? {
            if part.len() as u64 == self.range.end - self.range.start {
                return Ok(part);
            }
            all.extend_from_slice(&part);
        }
        Ok(all.freeze())
    }
}

/// Pieces as they lie there, not verified.
async fn fetch(store: &Store, info: &ObjectInfo, location: &Path, pieces: Range<u64>) -> Result<VecDeque<Bytes>> {
    let ObjectInfo { path, entry } = info;
    let bytes = pieces.start * PIECE_BYTES..(pieces.end * PIECE_BYTES).min(entry.size);
    let mut window = match store.objects.get_range(location, bytes.clone()).await {
        Ok(window) => window,
        Err(error) => {
            // A file that was cut short meanwhile is damage, and no trouble of the store.
            check_length(store, path, entry, location).await?;
            return Err(Error::backend(format!("reading {location}"), error));
        }
    };
    if window.len() as u64 != bytes.end - bytes.start {
        return Err(entry.wrong(path, "it was cut short"));
    }
    let mut fetched = VecDeque::new();
    while !window.is_empty() {
        fetched.push_back(window.split_to(window.len().min(PIECE_BYTES as usize)));
    }
    Ok(fetched)
}

async fn check_length(store: &Store, path: &str, entry: &ObjectEntry, location: &Path) -> Result<()> {
    match store.objects.head(location).await {
        Ok(found) if found.size == entry.size => Ok(()),
        Ok(found) => Err(entry.wrong(path, format!("it has {} bytes where its entry says {}", found.size, entry.size))),
        Err(object_store::Error::NotFound { .. }) => Err(entry.wrong(path, "it is missing")),
        Err(error) => Err(Error::backend(format!("reading {location}"), error)),
    }
}

/// The hash of each piece.
async fn hashes(store: &Store, path: &str, entry: &ObjectEntry) -> Result<Bytes> {
    let Some(pieces) = entry.pieces else { return Ok(Bytes::copy_from_slice(entry.checksum.as_bytes())) };
    let named = || format!("the piece hashes of object {path:?} at blobs/{pieces}");
    let hashes = blob(store, &pieces, named).await?;
    if hashes.len() as u64 != piece_count(entry.size) * 32 {
        return Err(Error::corrupt(named(), "they are not one for each piece"));
    }
    Ok(hashes)
}

async fn blob(store: &Store, digest: &Digest, named: impl Fn() -> String) -> Result<Bytes> {
    store.blob(digest).await.map_err(|error| match error {
        Error::NoBlob(_) => Error::corrupt(named(), "it is missing"),
        Error::Corrupt { reason, .. } => Error::corrupt(named(), reason),
        error => error,
    })
}
