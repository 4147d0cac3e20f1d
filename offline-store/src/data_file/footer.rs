//! Footers of data files, which never change and are kept.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use tokio::task::spawn_blocking;

use super::fetch::unreadable;
use crate::{Error, Result};

/// The key of a file's metadata that names the fields by which it is sorted, as our writer does.
pub(super) const SORTED_BY: &str = "anabranch.sorted-by";

/// How much of a file's end is read at first; footers of most files are smaller.
const TAIL_BYTES: u64 = 64 << 10;

/// What a file says of itself.
#[derive(Debug)]
pub(crate) struct Footer {
    pub(crate) path: String,
    /// The file's bytes.
    pub(crate) bytes: u64,
    pub(crate) arrow: ArrowReaderMetadata,
    /// The ids of the fields by which the file is sorted; empty where it does not say so.
    pub(crate) sorted_by: Vec<i32>,
    /// The file itself, where the store has it on a disk of this machine.
    pub(super) local: Option<PathBuf>,
}

/// Reads footers and keeps them.
#[derive(Debug)]
pub(crate) struct Footers(moka::future::Cache<String, Arc<Footer>>);

impl Footers {
    pub(crate) fn new(bytes: u64) -> Self {
        let weigh = |_: &String, footer: &Arc<Footer>| u32::try_from(footer.arrow.metadata().memory_size()).unwrap_or(u32::MAX).max(1);
        Self(moka::future::Cache::builder().weigher(weigh).max_capacity(bytes).build())
    }

    pub(crate) async fn get(&self, objects: &Arc<dyn ObjectStore>, path: &str) -> Result<Arc<Footer>> {
        if let Some(known) = self.0.get(path).await {
            return Ok(known);
        }
        let footer = Arc::new(read(objects, path).await?);
        self.0.insert(path.to_owned(), Arc::clone(&footer)).await;
        Ok(footer)
    }
}

async fn read(objects: &Arc<dyn ObjectStore>, path: &str) -> Result<Footer> {
    let location = Path::parse(path).map_err(|error| Error::corrupt(path, error))?;
    let failed = |error| Error::objects(path, error);
    let mut wanted = TAIL_BYTES;
    loop {
        let options = GetOptions { range: Some(GetRange::Suffix(wanted)), ..GetOptions::default() };
        let result = objects.get_opts(&location, options).await.map_err(failed)?;
        let (name, bytes, start) = (path.to_owned(), result.meta.size, result.range.start);
        // A file on a disk is read where it is parsed, in one go.
        let read: Box<dyn FnOnce() -> Result<(Bytes, Option<PathBuf>)> + Send> = match result.payload {
            GetResultPayload::File(file, local) => {
                let name = name.clone();
                Box::new(move || tail(&file, start, bytes).map(|tail| (tail, Some(local))).map_err(|error| unreadable(&name, error)))
            }
            GetResultPayload::Stream(_) => {
                let tail = result.bytes().await.map_err(failed)?;
                Box::new(move || Ok((tail, None)))
            }
        };
        let parsed =
            spawn_blocking(move || read().and_then(|(tail, local)| parse(name, bytes, local, &tail))).await.map_err(|_| Error::Closing)??;
        match parsed {
            Parsed::Footer(footer) => return Ok(*footer),
            Parsed::More(needed) if needed > wanted => wanted = needed,
            Parsed::More(_) => return Err(Error::corrupt(path, "its footer does not end")),
        }
    }
}

fn tail(file: &File, start: u64, end: u64) -> io::Result<Bytes> {
    let mut tail = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or_default()];
    file.read_exact_at(&mut tail, start)?;
    Ok(tail.into())
}

enum Parsed {
    Footer(Box<Footer>),
    More(u64),
}

fn parse(path: String, bytes: u64, local: Option<PathBuf>, tail: &Bytes) -> Result<Parsed> {
    let damaged = |error: ParquetError| Error::corrupt(&path, error);
    let mut reader = ParquetMetaDataReader::new().with_column_index_policy(PageIndexPolicy::Skip).with_offset_index_policy(PageIndexPolicy::Optional);
    match reader.try_parse_sized(tail, bytes) {
        Ok(()) => {}
        Err(ParquetError::NeedMoreData(needed)) => return Ok(Parsed::More(needed as u64)),
        Err(ParquetError::NeedMoreDataRange(range)) => return Ok(Parsed::More(bytes.saturating_sub(range.start))),
        Err(error) => return Err(damaged(error)),
    }
    let metadata = Arc::new(reader.finish().map_err(damaged)?);
    let said = metadata.file_metadata().key_value_metadata().into_iter().flatten().find(|pair| pair.key == SORTED_BY);
    let sorted_by = said.and_then(|pair| pair.value.as_deref()).map(|ids| ids.split(',').filter_map(|id| id.parse().ok()).collect());
    let arrow = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new()).map_err(damaged)?;
    Ok(Parsed::Footer(Box::new(Footer { path, bytes, arrow, sorted_by: sorted_by.unwrap_or_default(), local })))
}
