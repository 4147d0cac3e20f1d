//! Files whose floats are compressed as suits them.
//!
//! Of a page that is split by byte streams most bytes are as random as mantissas are. What compresses is the stream of signs and exponents, by how often each
//! byte comes: a run of bytes that was there before is mostly chance, saves little, and costs the reader time. So each page of floats is compressed twice,
//! with runs as zstd's first level finds them and without any, and the smaller stays. The Parquet library knows levels and nothing else: it is told to
//! leave such columns as they are, and their pages are compressed here. Every zstd reads both.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::column::page::{CompressedPage, Page, PageReader as _, PageWriter as _};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, ParamSwitch};

use super::settings;

/// How far zstd goes on where it finds no run: past the end of every block.
const STRIDE: u32 = 128 << 10;

/// Writes rows as a file of these row groups.
pub(super) fn write(batch: &RecordBatch, groups: Vec<Range<usize>>, properties: &WriterProperties) -> Result<(Vec<u8>, ParquetMetaData)> {
    let (mut bytes, mut packer) = (Vec::new(), Packer::new()?);
    let (mut file, _) = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.clone()))?.into_serialized_writer()?;
    for group in groups {
        let mut loose = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut loose, batch.schema(), Some(properties.clone()))?;
        writer.write(&batch.slice(group.start, group.len()))?;
        let (metadata, loose) = (writer.close()?, Bytes::from(loose));
        for (number, group) in metadata.row_groups().iter().enumerate() {
            let mut packed = file.next_row_group()?;
            for (place, chunk) in group.columns().iter().enumerate() {
                let mut close = closed(&metadata, number, place);
                if chunk.compression() == Compression::UNCOMPRESSED {
                    let chunk = packer.pack(&loose, group.num_rows() as usize, &mut close)?;
                    packed.append_column(&chunk, close)?;
                } else {
                    packed.append_column(&loose, close)?;
                }
            }
            packed.close()?;
        }
    }
    let metadata = file.close()?;
    Ok((bytes, metadata))
}

/// What was said of a column chunk as it was closed.
fn closed(metadata: &ParquetMetaData, group: usize, column: usize) -> ColumnCloseResult {
    let chunk = metadata.row_group(group).column(column);
    let index = metadata.column_index().map(|index| &index[group][column]);
    ColumnCloseResult {
        bytes_written: chunk.compressed_size() as u64,
        rows_written: metadata.row_group(group).num_rows() as u64,
        metadata: chunk.clone(),
        bloom_filter: None,
        column_index: index.filter(|index| !matches!(index, ColumnIndexMetaData::NONE)).cloned(),
        offset_index: metadata.offset_index().map(|index| index[group][column].clone()),
    }
}

struct Packer {
    with_runs: Compressor<'static>,
    without: Compressor<'static>,
}

impl Packer {
    fn new() -> io::Result<Self> {
        let mut without = Compressor::new(settings::ZSTD_LEVEL)?;
        // Without this, zstd takes whoever wants no runs to be in too great a hurry for frequencies, too.
        without.set_parameter(CParameter::LiteralCompressionMode(ParamSwitch::Enable))?;
        without.set_parameter(CParameter::TargetLength(STRIDE))?;
        Ok(Self { with_runs: Compressor::new(settings::ZSTD_LEVEL)?, without })
    }

    /// A chunk of a file with its pages compressed, and `close` as it is of that.
    fn pack(&mut self, file: &Bytes, rows: usize, close: &mut ColumnCloseResult) -> Result<Bytes> {
        let mut pages = SerializedPageReader::new(Arc::new(file.clone()), &close.metadata, rows, None)?;
        let mut packed = TrackedWrite::new(Vec::new());
        let mut writer = SerializedPageWriter::new(&mut packed);
        let (mut whole, mut places) = (0, Vec::new());
        while let Some(page) = pages.get_next_page()? {
            let spec = writer.write_page(self.page(page)?)?;
            whole += spec.uncompressed_size;
            places.push((spec.offset as i64, spec.compressed_size as i32));
        }
        let packed = Bytes::from(packed.into_inner()?);
        if let Some(index) = &mut close.offset_index {
            for (location, (offset, bytes)) in index.page_locations.iter_mut().zip(&places) {
                (location.offset, location.compressed_page_size) = (*offset, *bytes);
            }
        }
        let chunk = close.metadata.clone().into_builder().set_compression(settings::compression()).set_data_page_offset(0);
        close.metadata = chunk.set_total_compressed_size(packed.len() as i64).set_total_uncompressed_size(whole as i64).build()?;
        close.bytes_written = packed.len() as u64;
        Ok(packed)
    }

    fn page(&mut self, page: Page) -> Result<CompressedPage> {
        let Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, statistics } = page else {
            return Err(ParquetError::General("a column that is split by byte streams has a page of another kind".to_owned()));
        };
        let (with_runs, without) = (self.with_runs.compress(&buf)?, self.without.compress(&buf)?);
        let (whole, buf) = (buf.len(), if with_runs.len() < without.len() { with_runs } else { without }.into());
        Ok(CompressedPage::new(Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, statistics }, whole))
    }
}

#[cfg(test)]
mod tests;
