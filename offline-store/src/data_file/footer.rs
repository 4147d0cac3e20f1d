//! Footers of data files, which never change and are kept.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes, buf::Reader};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};
use tokio::task::spawn_blocking;

use super::buffers;
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
    /// Whether the store gives the file itself.
    is_local: bool,
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
        let bytes = result.meta.size;
        let is_local = matches!(result.payload, GetResultPayload::File(..));
        let tail = result.bytes().await.map_err(failed)?;
        let name = path.to_owned();
        let parsed = spawn_blocking(move || parse(name, bytes, is_local, tail)).await.map_err(|_| Error::Closing)??;
        match parsed {
            Parsed::Footer(footer) => return Ok(*footer),
            Parsed::More(needed) if needed > wanted => wanted = needed,
            Parsed::More(_) => return Err(Error::corrupt(path, "its footer does not end")),
        }
    }
}

enum Parsed {
    Footer(Box<Footer>),
    More(u64),
}

fn parse(path: String, bytes: u64, is_local: bool, tail: Bytes) -> Result<Parsed> {
    let damaged = |error: ParquetError| Error::corrupt(&path, error);
    let mut reader = ParquetMetaDataReader::new().with_column_index_policy(PageIndexPolicy::Skip).with_offset_index_policy(PageIndexPolicy::Optional);
    match reader.try_parse_sized(&tail, bytes) {
        Ok(()) => {}
        Err(ParquetError::NeedMoreData(needed)) => return Ok(Parsed::More(needed as u64)),
        Err(ParquetError::NeedMoreDataRange(range)) => return Ok(Parsed::More(bytes.saturating_sub(range.start))),
        Err(error) => return Err(damaged(error)),
    }
    let metadata = Arc::new(reader.finish().map_err(damaged)?);
    let said = metadata.file_metadata().key_value_metadata().into_iter().flatten().find(|pair| pair.key == SORTED_BY);
    let sorted_by = said.and_then(|pair| pair.value.as_deref()).map(|ids| ids.split(',').filter_map(|id| id.parse().ok()).collect());
    let arrow = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new()).map_err(damaged)?;
    Ok(Parsed::Footer(Box::new(Footer { path, bytes, arrow, sorted_by: sorted_by.unwrap_or_default(), is_local })))
}

/// Parts of a file that were fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    bytes: u64,
    /// By where they begin.
    parts: Vec<(u64, Bytes)>,
}

impl Fetched {
    /// Fetches ranges, those that touch as one.
    pub(super) async fn fetch(objects: &Arc<dyn ObjectStore>, footer: &Footer, mut ranges: Vec<Range<u64>>) -> Result<Self> {
        ranges.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges.into_iter().filter(|range| !range.is_empty()) {
            match merged.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        let location = Path::parse(&footer.path).map_err(|error| Error::corrupt(&footer.path, error))?;
        let failed = |error| Error::objects(&footer.path, error);
        let parts = match footer.is_local {
            true => match objects.get_opts(&location, GetOptions::default()).await.map_err(failed)?.payload {
                GetResultPayload::File(file, _) => {
                    let (path, wanted) = (footer.path.clone(), merged.clone());
                    spawn_blocking(move || read_parts(&file, &path, &wanted)).await.map_err(|_| Error::Closing)??
                }
                GetResultPayload::Stream(_) => objects.get_ranges(&location, &merged).await.map_err(failed)?,
            },
            false => objects.get_ranges(&location, &merged).await.map_err(failed)?,
        };
        Ok(Self { bytes: footer.bytes, parts: merged.into_iter().map(|range| range.start).zip(parts).collect() })
    }

    fn from(&self, start: u64) -> parquet::errors::Result<Bytes> {
        let part = self.parts.partition_point(|(first, _)| *first <= start).checked_sub(1).map(|place| &self.parts[place]);
        let rest = part.and_then(|(first, bytes)| {
            let skip = usize::try_from(start - first).ok()?;
            (skip <= bytes.len()).then(|| bytes.slice(skip..))
        });
        rest.ok_or_else(|| ParquetError::General(format!("byte {start} was not fetched")))
    }
}

/// Reads ranges of a file into memory that is used again.
fn read_parts(mut file: &File, path: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
    let part = |range: &Range<u64>| {
        let length = range.end - range.start;
        let mut buffer = buffers::buffer(usize::try_from(length).unwrap_or_default());
        file.seek(SeekFrom::Start(range.start))?;
        file.take(length).read_to_end(&mut buffer)?;
        match buffer.len() as u64 == length {
            true => Ok(buffers::shared(buffer)),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    };
    let parts = ranges.iter().map(part).collect::<io::Result<Vec<_>>>();
    parts.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::corrupt(path, "the file is shorter than it was"),
        _ => Error::objects(path, object_store::Error::Generic { store: "local", source: Box::new(error) }),
    })
}

impl Length for Fetched {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for Fetched {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let rest = self.from(start)?;
        match rest.len() >= length {
            true => Ok(rest.slice(..length)),
            false => Err(ParquetError::EOF(format!("{length} bytes at {start} go beyond what was fetched"))),
        }
    }
}
