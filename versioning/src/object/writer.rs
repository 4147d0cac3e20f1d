//! Bytes on their way in: hashed as they come, held in memory up to one piece, and beyond that sent to the object store in parts.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use object_store::{MultipartUpload, ObjectStoreExt};

use super::{ObjectAddress, ObjectEntry, PIECE_BYTES, content_type};
use crate::store::{MAX_BLOB_BYTES, Store};
use crate::{Digest, Error, Result};

/// What goes to the object store at once; cloud stores want at least 5 MiB.
const PART_BYTES: usize = 8 << 20;

/// How much is hashed before others may run.
const STEP_BYTES: usize = 256 << 10;

/// The longest object: its piece hashes must fit a blob.
const MAX_OBJECT_BYTES: u64 = (MAX_BLOB_BYTES / 32) as u64 * PIECE_BYTES;

/// Hashes a file as a whole and piece by piece.
#[derive(Debug, Default)]
pub(super) struct PieceHasher {
    whole: blake3::Hasher,
    piece: blake3::Hasher,
    hashes: Vec<u8>,
    size: u64,
}

impl PieceHasher {
    /// Takes bytes in. Long work, so others get to run.
    pub(super) async fn update(&mut self, bytes: &[u8]) {
        for step in bytes.chunks(STEP_BYTES) {
            self.step(step);
            tokio::task::consume_budget().await;
        }
    }

    fn step(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let room = PIECE_BYTES - self.size % PIECE_BYTES;
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            self.piece.update(now);
            self.size += now.len() as u64;
            if self.size.is_multiple_of(PIECE_BYTES) {
                self.end_piece();
            }
            bytes = later;
        }
    }

    fn end_piece(&mut self) {
        self.hashes.extend_from_slice(self.piece.finalize().as_bytes());
        self.piece.reset();
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The entry of what was hashed and lies at `address`; the hashes of its pieces are durable then.
    pub(super) async fn finish(mut self, store: &Store, address: ObjectAddress, content_type: String) -> Result<ObjectEntry> {
        if !self.size.is_multiple_of(PIECE_BYTES) {
            self.end_piece();
        }
        let checksum = Digest(*self.whole.finalize().as_bytes());
        let pieces = if self.size > PIECE_BYTES { Some(store.put_blob(self.hashes.into()).await?) } else { None };
        Ok(ObjectEntry { address, checksum, content_type, size: self.size, pieces })
    }
}

/// Takes the bytes of one object. Nothing is visible before its entry is committed; dropped, or failed, it leaves at most garbage that nothing names.
/// It holds at most a few parts of 8 MiB in memory, whatever the object's size.
#[derive(Debug)]
pub struct ObjectWriter {
    store: Arc<Store>,
    id: u128,
    content_type: String,
    hasher: PieceHasher,
    buffer: BytesMut,
    upload: Option<Box<dyn MultipartUpload>>,
    failed: bool,
}

impl ObjectWriter {
    pub(crate) fn new(store: Arc<Store>, id: u128, path: &str, given_type: &str) -> Result<Self> {
        super::check_object_path(path)?;
        let content_type = content_type(given_type, path)?;
        Ok(Self { store, id, content_type, hasher: PieceHasher::default(), buffer: BytesMut::new(), upload: None, failed: false })
    }

    /// How many bytes were taken.
    pub fn written(&self) -> u64 {
        self.hasher.size()
    }

    /// Takes more bytes. After an error the writer takes no more.
    ///
    /// # Errors
    /// The object store's; invalid for an object over 2 TiB.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.failed {
            return Err(Error::invalid("object", "an earlier write of it failed: begin it anew"));
        }
        self.failed = true;
        if self.written() + bytes.len() as u64 > MAX_OBJECT_BYTES {
            return Err(Error::invalid("object", format!("it is over {MAX_OBJECT_BYTES} bytes: split it")));
        }
        self.hasher.update(bytes).await;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PART_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            if self.buffer.len() == PART_BYTES {
                self.send().await?;
            }
            rest = later;
        }
        self.failed = false;
        Ok(())
    }

    /// Sends what is held as a part.
    async fn send(&mut self) -> Result<()> {
        let location = ObjectAddress::Stored(self.id).location();
        let failed = |error| Error::backend(format!("writing {location}"), error);
        if self.upload.is_none() {
            self.upload = Some(self.store.objects.put_multipart(&location).await.map_err(failed)?);
        }
        let part = self.buffer.split().freeze();
        if let Some(upload) = &mut self.upload {
            upload.put_part(part.into()).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Makes everything durable and gives the entry to commit.
    ///
    /// # Errors
    /// The object store's.
    pub async fn finish(mut self) -> Result<ObjectEntry> {
        if self.failed {
            return Err(Error::invalid("object", "a write of it failed: begin it anew"));
        }
        if self.written() <= PIECE_BYTES {
            let digest = self.store.put_blob(std::mem::take(&mut self.buffer).freeze()).await?;
            return Ok(ObjectEntry::of_blob(digest, self.content_type, self.hasher.size()));
        }
        let address = ObjectAddress::Stored(self.id);
        let location = address.location();
        let failed = |error| Error::backend(format!("writing {location}"), error);
        if self.upload.is_none() {
            let whole: Bytes = std::mem::take(&mut self.buffer).freeze();
            self.store.objects.put(&location, whole.into()).await.map_err(failed)?;
        } else if !self.buffer.is_empty() {
            self.send().await?;
        }
        if let Some(upload) = &mut self.upload {
            upload.complete().await.map_err(failed)?;
        }
        self.hasher.finish(&self.store, address, self.content_type).await
    }

    /// Gives the upload up and removes what the object store holds of it.
    pub async fn abort(mut self) {
        if let Some(mut upload) = self.upload.take()
            && let Err(error) = upload.abort().await
        {
            tracing::debug!(%error, id = format!("{:032x}", self.id), "an upload given up may have left parts behind");
        }
    }
}
