//! Files of rows: Parquet, CSV, JSON lines. A row's position is its number in the file, however it is cut into batches.

use std::fmt::{self, Display};
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use anabranch_core::Position;
use anabranch_core::definition::{FileFormat, ViewLayout};
use arrow::array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::reader::ChunkReader;

use super::csv::CsvRows;
use super::{Decoded, arrow_batch, json};
use crate::wal::RecordKind;
use crate::{Error, Result};

/// A line longer than this is a file that is no JSON lines.
const MAX_LINE: u64 = 16 << 20;

/// Where a file's bytes are.
#[derive(Debug, Clone)]
pub enum FileInput {
    /// On the local disk.
    Path(PathBuf),
    /// On the local disk, under another name than it has for people.
    Spooled {
        /// What messages call it.
        name: String,
        /// Where it lies.
        path: PathBuf,
    },
    /// In memory, under a name for messages.
    Bytes {
        /// What messages call it.
        name: String,
        /// The content.
        bytes: Bytes,
    },
}

impl FileInput {
    /// What messages call it.
    pub fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Bytes { name, .. } | Self::Spooled { name, .. } => name.clone(),
        }
    }

    /// The format that the name's ending tells.
    pub fn format(&self) -> Option<FileFormat> {
        let name = self.name().to_ascii_lowercase();
        let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        if ends(&[".parquet", ".pq"]) {
            Some(FileFormat::Parquet)
        } else if ends(&[".csv"]) {
            Some(FileFormat::Csv)
        } else if ends(&[".jsonl", ".ndjson", ".jsonlines"]) {
            Some(FileFormat::JsonLines)
        } else {
            None
        }
    }

    fn open(&self) -> Result<Box<dyn BufRead + Send>> {
        match self {
            Self::Path(_) | Self::Spooled { .. } => Ok(Box::new(BufReader::with_capacity(1 << 20, self.open_path()?))),
            Self::Bytes { bytes, .. } => Ok(Box::new(Cursor::new(bytes.clone()))),
        }
    }

    fn open_path(&self) -> Result<File> {
        let (Self::Path(path) | Self::Spooled { path, .. }) = self else { return Err(Error::file(&self.name(), "it is in memory")) };
        File::open(path).map_err(|error| Error::file(&self.name(), format!("it cannot be opened: {error}")))
    }

    /// The BLAKE3 hash of the content. Blocks.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be read.
    pub fn content_hash(&self) -> Result<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        let mut reader = self.open()?;
        let read = hasher.update_reader(&mut reader);
        read.map_err(|error| Error::file(&self.name(), format!("it cannot be read: {error}")))?;
        Ok(*hasher.finalize().as_bytes())
    }
}

/// How a file is read.
#[derive(Debug, Clone)]
pub struct FileOptions {
    /// The format; by the name's ending where there is none.
    pub format: Option<FileFormat>,
    /// Whether columns that the view does not have are passed over rather than refused.
    pub ignore_unknown: bool,
    /// How many rows are decoded at once.
    pub batch_rows: usize,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self { format: None, ignore_unknown: false, batch_rows: 16_384 }
    }
}

/// The rows of a file, batch by batch. Blocks.
pub struct FileRows {
    layout: Arc<ViewLayout>,
    file: String,
    limit: usize,
    next: u64,
    rows: Rows,
}

enum Rows {
    Parquet(ParquetRecordBatchReader),
    Csv(CsvRows),
    JsonLines(Box<dyn BufRead + Send>),
}

impl fmt::Debug for FileRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileRows").field("file", &self.file).field("next", &self.next).finish_non_exhaustive()
    }
}

/// Opens a file and checks that its columns can be rows of the view.
///
/// # Errors
/// [`Error::File`] where the file cannot be read, is not of its format, or has columns that do not fit: it says what to do.
pub fn open_file(layout: &Arc<ViewLayout>, input: &FileInput, options: &FileOptions) -> Result<FileRows> {
    let file = input.name();
    let format = options.format.or_else(|| input.format());
    let format =
        format.ok_or_else(|| Error::file(&file, "its name does not tell its format: name it .parquet, .csv or .jsonl, or say the format"))?;
    let limit = options.batch_rows.max(1);
    let rows = match format {
        FileFormat::Parquet => Rows::Parquet(match input {
            FileInput::Path(_) | FileInput::Spooled { .. } => open_parquet(layout, &file, input.open_path()?, options, limit)?,
            FileInput::Bytes { bytes, .. } => open_parquet(layout, &file, bytes.clone(), options, limit)?,
        }),
        FileFormat::Csv => Rows::Csv(CsvRows::open(layout, &file, input.open()?, options.ignore_unknown)?),
        FileFormat::JsonLines => Rows::JsonLines(input.open()?),
    };
    Ok(FileRows { layout: Arc::clone(layout), file, limit, next: 0, rows })
}

fn open_parquet<T: ChunkReader + 'static>(
    layout: &ViewLayout,
    file: &str,
    reader: T,
    options: &FileOptions,
    limit: usize,
) -> Result<ParquetRecordBatchReader> {
    let damaged = |error: parquet::errors::ParquetError| {
        Error::file(file, format!("it is no whole Parquet file, perhaps truncated: {error}; write or copy it again"))
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(reader).map_err(damaged)?;
    let schema = Arc::clone(builder.schema());
    arrow_batch::check_columns(layout, &schema, options.ignore_unknown).map_err(|reason| Error::file(file, reason))?;
    let wanted = (0..schema.fields().len()).filter(|i| layout.columns().iter().any(|column| &column.name == schema.field(*i).name()));
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    builder.with_projection(mask).with_batch_size(limit).build().map_err(damaged)
}

impl Iterator for FileRows {
    type Item = Result<Decoded>;

    fn next(&mut self) -> Option<Self::Item> {
        let decoded = self.read().transpose()?;
        if let Ok(decoded) = &decoded {
            self.next += decoded.batch.num_rows() as u64;
        }
        Some(decoded)
    }
}

impl FileRows {
    /// The position of the next row.
    pub fn position(&self) -> u64 {
        self.next
    }

    fn read(&mut self) -> Result<Option<Decoded>> {
        let first = Position::new(self.next)?;
        match &mut self.rows {
            Rows::Csv(rows) => rows.read(&self.layout, self.limit, first),
            Rows::Parquet(reader) => {
                let damaged = |reason: &dyn Display| {
                    Error::file(&self.file, format!("it is damaged behind row {}: {reason}; write or copy it again", self.next))
                };
                // The reader trusts pages in places and panics where they lie; whoever hears of damage reads no further.
                let read = catch_unwind(AssertUnwindSafe(|| reader.next())).map_err(|_| damaged(&"its pages contradict themselves"))?;
                let Some(batch) = read else { return Ok(None) };
                let batch: RecordBatch = batch.map_err(|error| damaged(&error))?;
                arrow_batch::conform_batch(&self.layout, RecordKind::Rows, &batch, first).map(Some)
            }
            Rows::JsonLines(reader) => {
                let lines = json_lines(&self.file, reader, self.limit)?;
                if lines.is_empty() { Ok(None) } else { json::decode_texts(&self.layout, RecordKind::Rows, lines, first).map(Some) }
            }
        }
    }
}

/// At most `limit` lines that are not blank.
fn json_lines(file: &str, reader: &mut Box<dyn BufRead + Send>, limit: usize) -> Result<Vec<Bytes>> {
    let mut lines = Vec::new();
    while lines.len() < limit {
        let mut line = Vec::new();
        let read = std::io::Read::take(&mut *reader, MAX_LINE).read_until(b'\n', &mut line);
        let read = read.map_err(|error| Error::file(file, format!("it cannot be read: {error}")))?;
        if read as u64 >= MAX_LINE {
            return Err(Error::file(file, "it has a line over 16 MiB: JSON lines have one object a line"));
        }
        if read == 0 {
            break;
        }
        let text = line.trim_ascii();
        if !text.is_empty() {
            lines.push(Bytes::copy_from_slice(text));
        }
    }
    Ok(lines)
}
