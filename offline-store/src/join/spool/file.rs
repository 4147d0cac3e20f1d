//! A file without a name, and the segments that are appended to it.
//!
//! A file is written from its beginning to its end and read at any place by as many readers as want to, each by an offset of its own.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType as ArrowType, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use super::{Batches, SpillFiles};
use crate::join::JoinError;

/// Rows of a batch in a file, so that a reader holds little of it at a time.
pub(super) const FILED_ROWS: usize = 1 << 14;

/// A failure of a file that rows are spilled to.
pub(in crate::join) fn spilling(error: ArrowError) -> JoinError {
    match error {
        ArrowError::IoError(_, error) => JoinError::Spill(error),
        other => JoinError::Gather(other),
    }
}

/// A file that batches are appended to.
pub(in crate::join) struct SpillFile {
    file: Arc<File>,
    end: u64,
}

/// Batches in a file.
#[derive(Debug, Clone)]
pub(in crate::join) struct Segment {
    file: Arc<File>,
    start: u64,
}

impl SpillFile {
    pub(in crate::join) fn new(files: &SpillFiles) -> Result<Self, JoinError> {
        Ok(Self { file: Arc::new(files().map_err(JoinError::Spill)?), end: 0 })
    }

    /// Appends batches of a schema, and tells where they lie.
    pub(in crate::join) fn append(
        &mut self,
        schema: &SchemaRef,
        batches: impl IntoIterator<Item = Result<RecordBatch, JoinError>>,
    ) -> Result<Segment, JoinError> {
        let segment = Segment { file: Arc::clone(&self.file), start: self.end };
        let mut writer = segment.writer(schema)?;
        for batch in batches {
            write(&mut writer, schema, &batch?)?;
        }
        self.end = ended(writer)?;
        Ok(segment)
    }

    /// Its only segment, for whoever writes it batch by batch.
    pub(super) fn first(self) -> Segment {
        Segment { file: self.file, start: 0 }
    }

    /// How many bytes were written.
    pub(in crate::join) const fn bytes(&self) -> u64 {
        self.end
    }
}

pub(super) type SegmentWriter = StreamWriter<BufWriter<At>>;

impl Segment {
    pub(super) fn writer(&self, schema: &SchemaRef) -> Result<SegmentWriter, JoinError> {
        StreamWriter::try_new(BufWriter::new(At { file: Arc::clone(&self.file), at: self.start }), schema).map_err(spilling)
    }

    /// Reads the batches, in these columns where some are named, ascending.
    pub(in crate::join) fn read(&self, columns: Option<Vec<usize>>) -> Result<SegmentReader, JoinError> {
        StreamReader::try_new(BufReader::new(At { file: Arc::clone(&self.file), at: self.start }), columns).map(SegmentReader).map_err(spilling)
    }

    /// As [`Segment::read`], opened when the first batch is asked for.
    pub(in crate::join) fn batches(&self, columns: Option<Vec<usize>>) -> Batches {
        let mut wanted = Some((self.clone(), columns));
        let mut reader = None;
        Box::new(std::iter::from_fn(move || {
            if let Some((segment, columns)) = wanted.take() {
                match segment.read(columns) {
                    Ok(opened) => reader = Some(opened),
                    Err(error) => return Some(Err(error)),
                }
            }
            reader.as_mut().and_then(Iterator::next)
        }))
    }
}

/// Ends a segment; gives where the next one begins.
pub(super) fn ended(mut writer: SegmentWriter) -> Result<u64, JoinError> {
    writer.finish().map_err(spilling)?;
    let mut buffered = writer.into_inner().map_err(spilling)?;
    buffered.flush().map_err(JoinError::Spill)?;
    Ok(buffered.get_ref().at)
}

/// The batches of a segment.
pub(in crate::join) struct SegmentReader(StreamReader<BufReader<At>>);

impl Iterator for SegmentReader {
    type Item = Result<RecordBatch, JoinError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|batch| batch.map_err(spilling))
    }
}

/// A place in a file that others read and write too.
pub(super) struct At {
    file: Arc<File>,
    at: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read_at(buffer, self.at)?;
        self.at += bytes as u64;
        Ok(bytes)
    }
}

impl Write for At {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.at)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn write(writer: &mut SegmentWriter, schema: &SchemaRef, batch: &RecordBatch) -> Result<(), JoinError> {
    for first in (0..batch.num_rows()).step_by(FILED_ROWS) {
        let rows = FILED_ROWS.min(batch.num_rows() - first);
        let columns = batch.slice(first, rows).columns().iter().map(compact).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        writer.write(&RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?).map_err(spilling)?;
    }
    Ok(())
}

/// Views are written with all that they lie in, so they take along what they need alone.
fn compact(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        ArrowType::Utf8View => Arc::new(column.as_string_view().gc()),
        ArrowType::BinaryView => Arc::new(column.as_binary_view().gc()),
        _ => Arc::clone(column),
    }
}
