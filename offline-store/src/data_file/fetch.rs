//! Parts of data files: fetched from where they lie, and handed to the Parquet library.
//!
//! ```text
//! Fetch (ranges of a file)  -- fetched from a store, or a file of this machine's disk -->  Fetched, open() where it may take long  -->  Parts
//! ```
//!
//! A file of the disk is read by the thread that decodes it, into memory that is used again and is still in that core's cache then. What comes over a
//! network is awaited before a thread is taken.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf, Bytes, buf::Reader};
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::buffers;
use super::footer::Footer;
use crate::{Error, Result};

/// Ranges of a file that were fetched, or can be read at once.
#[derive(Debug)]
pub(super) struct Fetched {
    path: String,
    bytes: u64,
    /// Ascending and apart.
    ranges: Vec<Range<u64>>,
    lie: Lie,
}

#[derive(Debug)]
enum Lie {
    InMemory(Vec<Bytes>),
    OnDisk(PathBuf),
}

impl Fetched {
    /// Fetches ranges, those that touch as one.
    pub(super) async fn fetch(objects: &Arc<dyn ObjectStore>, footer: &Footer, mut wanted: Vec<Range<u64>>) -> Result<Self> {
        wanted.sort_by_key(|range| range.start);
        let mut ranges: Vec<Range<u64>> = Vec::with_capacity(wanted.len());
        for range in wanted.into_iter().filter(|range| !range.is_empty()) {
            match ranges.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => ranges.push(range),
            }
        }
        let lie = match &footer.local {
            Some(local) => Lie::OnDisk(local.clone()),
            None => {
                let location = Path::parse(&footer.path).map_err(|error| Error::corrupt(&footer.path, error))?;
                Lie::InMemory(objects.get_ranges(&location, &ranges).await.map_err(|error| Error::objects(&footer.path, error))?)
            }
        };
        Ok(Self { path: footer.path.clone(), bytes: footer.bytes, ranges, lie })
    }

    /// Reads what has not come yet, which may take long.
    pub(super) fn open(self) -> Result<Parts> {
        let parts = match self.lie {
            Lie::InMemory(parts) => parts,
            Lie::OnDisk(file) => File::open(file).and_then(|file| read(&file, &self.ranges)).map_err(|error| unreadable(&self.path, error))?,
        };
        Ok(Parts { bytes: self.bytes, parts: self.ranges.into_iter().map(|range| range.start).zip(parts).collect() })
    }
}

/// Reads ranges of a file into memory that is used again.
fn read(mut file: &File, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
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
    ranges.iter().map(part).collect()
}

/// Why a file of the disk was not read.
pub(super) fn unreadable(path: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::corrupt(path, "the file is shorter than it was"),
        io::ErrorKind::NotFound => Error::objects(path, object_store::Error::NotFound { path: path.to_owned(), source: Box::new(error) }),
        _ => Error::objects(path, object_store::Error::Generic { store: "local", source: Box::new(error) }),
    }
}

/// Parts of a file, in memory.
#[derive(Debug)]
pub(super) struct Parts {
    bytes: u64,
    /// By where they begin.
    parts: Vec<(u64, Bytes)>,
}

impl Parts {
    fn from(&self, start: u64) -> parquet::errors::Result<Bytes> {
        let part = self.parts.partition_point(|(first, _)| *first <= start).checked_sub(1).map(|place| &self.parts[place]);
        let rest = part.and_then(|(first, bytes)| {
            let skip = usize::try_from(start - first).ok()?;
            (skip <= bytes.len()).then(|| bytes.slice(skip..))
        });
        rest.ok_or_else(|| ParquetError::General(format!("byte {start} was not fetched")))
    }
}

impl Length for Parts {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for Parts {
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
