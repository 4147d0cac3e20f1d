//! Float columns page by page, as they are stored: whoever wants some values of many takes them from the page, and none is decoded for nobody.
//!
//! Only what needs no decoding is given so: `float` and `double` leaves without nulls, dictionary or repetition, plain or split by byte streams. Whether a
//! column chunk is of that kind is known from the footer; a page that is not what its chunk said is damage.

use std::sync::Arc;

use anabranch_core::{DataType, Scalar};
use bytes::Bytes;
use object_store::ObjectStore;
use parquet::basic::{Encoding, Type as PhysicalType};
use parquet::column::page::{Page, PageReader as _};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::file::statistics::Statistics;

use super::footer::Fetched;
use super::read::{FileRead, Group};
use crate::join::FloatPage;
use crate::{Error, Result};

/// The pages of one column of a row group.
pub(crate) struct Pages {
    path: String,
    reader: SerializedPageReader<Fetched>,
    width: usize,
    /// Whether pages of the first version begin with definition levels.
    has_levels: bool,
    rows_left: usize,
}

impl FileRead {
    /// Fetches a wanted column of a row group, where its pages can be taken as they are.
    pub(crate) async fn pages(&self, objects: &Arc<dyn ObjectStore>, group: &Group, place: usize) -> Result<Option<Pages>> {
        let Some((leaf, width)) = self.float_leaf(group, place) else { return Ok(None) };
        let path = group.footer.path.clone();
        let (start, length) = group.metadata().column(leaf).byte_range();
        let range = start..start + length;
        let fetched = Fetched::fetch(objects, &group.footer, vec![range]).await?;
        let column = group.metadata().column(leaf);
        let reader = SerializedPageReader::new(Arc::new(fetched), column, group.rows(), None).map_err(|error| Error::corrupt(&path, error))?;
        let has_levels = column.column_descr().max_def_level() > 0;
        Ok(Some(Pages { path, reader, width, has_levels, rows_left: group.rows() }))
    }

    /// The leaf of a wanted column and the width of its values, where its pages can be taken as they are.
    fn float_leaf(&self, group: &Group, place: usize) -> Option<(usize, usize)> {
        let (physical, width) = match self.columns[place].column.data_type {
            DataType::Scalar(Scalar::F32) => (PhysicalType::FLOAT, 4),
            DataType::Scalar(Scalar::F64) => (PhysicalType::DOUBLE, 8),
            _ => return None,
        };
        let schema = group.footer.arrow.parquet_schema();
        let leaf = self.leaf(schema, place)?;
        let column = group.metadata().column(leaf);
        let descriptor = column.column_descr();
        let is_flat = schema.get_column_root(leaf).is_primitive() && descriptor.max_rep_level() == 0 && descriptor.max_def_level() <= 1;
        let mut encodings = column.encodings();
        let is_stored_whole = encodings.all(|encoding| matches!(encoding, Encoding::PLAIN | Encoding::BYTE_STREAM_SPLIT | Encoding::RLE));
        let no_nulls = descriptor.max_def_level() == 0 || column.statistics().and_then(Statistics::null_count_opt) == Some(0);
        let is_such = column.column_type() == physical && is_flat && no_nulls && is_stored_whole && column.dictionary_page_offset().is_none();
        is_such.then_some((leaf, width))
    }
}

impl Pages {
    fn page(&mut self) -> Result<Option<FloatPage>> {
        let damaged = |reason: &str| Error::corrupt(&self.path, reason);
        if self.rows_left == 0 {
            return Ok(None);
        }
        let page = self.reader.get_next_page().map_err(|error| Error::corrupt(&self.path, error))?;
        let (buffer, rows, encoding, skipped) = match page {
            Some(Page::DataPage { buf, num_values, encoding, .. }) => {
                let skipped = if self.has_levels { 4 + levels(&buf).ok_or_else(|| damaged("a page ends in its levels"))? } else { 0 };
                (buf, num_values, encoding, skipped)
            }
            Some(Page::DataPageV2 { buf, num_values, encoding, num_nulls: 0, def_levels_byte_len, rep_levels_byte_len, .. }) => {
                (buf, num_values, encoding, def_levels_byte_len as usize + rep_levels_byte_len as usize)
            }
            Some(_) => return Err(damaged("a page is not what its column's metadata says")),
            None => return Err(damaged("a column has fewer values than its row group has rows")),
        };
        let (rows, is_split) = (rows as usize, encoding == Encoding::BYTE_STREAM_SPLIT);
        let is_whole = rows.checked_mul(self.width).and_then(|bytes| bytes.checked_add(skipped)) == Some(buffer.len());
        if !is_whole || rows > self.rows_left || !(is_split || encoding == Encoding::PLAIN) {
            return Err(damaged("a page is not as long as its values"));
        }
        self.rows_left -= rows;
        Ok(Some(FloatPage { rows, is_split, bytes: buffer.slice(skipped..) }))
    }
}

/// How many bytes of definition levels follow the first four.
fn levels(buffer: &Bytes) -> Option<usize> {
    let length = buffer.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*length)).ok()
}

impl Iterator for Pages {
    type Item = Result<FloatPage>;

    fn next(&mut self) -> Option<Self::Item> {
        let page = self.page().transpose();
        if matches!(page, Some(Err(_))) {
            self.rows_left = 0;
        }
        page
    }
}
