//! Columns page by page, as they are stored: whoever wants some values of many takes them from the page, and none is decoded for nobody.
//!
//! Only what needs no decoding is given so: leaves of numbers and times without repetition, plain, split by byte streams or with a dictionary, null or not.
//! Whether a column chunk is of that kind is known from the footer; a page that is not what its chunk said is damage.

use std::sync::Arc;

use anabranch_core::definition::Role;
use anabranch_core::types::UTC;
use anabranch_core::{DataType, Scalar};
use arrow::datatypes::{DataType as ArrowType, TimeUnit};
use bytes::Bytes;
use object_store::ObjectStore;
use parquet::basic::{Compression, Encoding, Type as PhysicalType};
use parquet::column::page::{Page, PageReader as _};
use parquet::errors::ParquetError;
use parquet::file::serialized_reader::SerializedPageReader;

use super::decompress::decompress;
use super::fetch::{Fetched, Parts};
use super::guard::guarded;
use super::read::{FileRead, Group};
use crate::join::{Hybrid, Presence, StoredPage, StoredValues};
use crate::{Error, Result};

/// The pages of one column of a row group.
pub(crate) struct Pages {
    path: String,
    reader: SerializedPageReader<Parts>,
    /// The most bytes of a page, where pages are compressed by zstd and the reader leaves them so.
    zstd_limit: Option<usize>,
    /// Bytes of a value.
    width: usize,
    /// Whether pages begin with definition levels.
    has_levels: bool,
    rows_left: usize,
    dictionary: Option<Bytes>,
}

/// Columns of a row group that were fetched, whose pages can be taken as they are.
pub(crate) struct StoredColumns {
    fetched: Fetched,
    group: Group,
    /// The leaf of each, and the width of its values.
    leaves: Vec<(usize, usize)>,
}

impl StoredColumns {
    /// Reads what has not come yet, which may take long; gives the pages of each column.
    pub(crate) fn open(self) -> Result<Vec<Pages>> {
        let parts = Arc::new(self.fetched.open()?);
        self.leaves.iter().map(|(leaf, width)| Pages::new(&parts, &self.group, *leaf, *width)).collect()
    }
}

impl FileRead {
    /// Fetches wanted columns of a row group, where the pages of all can be taken as they are.
    pub(crate) async fn pages(&self, objects: &Arc<dyn ObjectStore>, group: &Group, places: &[usize]) -> Result<Option<StoredColumns>> {
        let Some(leaves) = places.iter().map(|place| self.stored_leaf(group, *place)).collect::<Option<Vec<_>>>() else { return Ok(None) };
        let range = |(leaf, _): &(usize, usize)| {
            let (start, length) = group.metadata().column(*leaf).byte_range();
            start..start + length
        };
        let fetched = Fetched::fetch(objects, &group.footer, leaves.iter().map(range).collect()).await?;
        Ok(Some(StoredColumns { fetched, group: group.clone(), leaves }))
    }

    /// The leaf of a wanted column and the width of its values, where its pages can be taken as they are.
    fn stored_leaf(&self, group: &Group, place: usize) -> Option<(usize, usize)> {
        let wanted = &self.columns[place].column;
        // Where these are null, they read as something else.
        if matches!(wanted.role, Role::Reserved | Role::KnownTime) {
            return None;
        }
        let schema = group.footer.arrow.parquet_schema();
        let leaf = self.leaf(schema, place)?;
        let column = group.metadata().column(leaf);
        let descriptor = column.column_descr();
        let stored = group.footer.arrow.schema().fields().get(schema.get_column_root_idx(leaf))?.data_type();
        let (physical, width) = match (wanted.data_type, stored) {
            (DataType::Scalar(Scalar::I32), ArrowType::Int32) => (PhysicalType::INT32, 4),
            (DataType::Scalar(Scalar::I64), ArrowType::Int64) => (PhysicalType::INT64, 8),
            (DataType::Scalar(Scalar::F32), ArrowType::Float32) => (PhysicalType::FLOAT, 4),
            (DataType::Scalar(Scalar::F64), ArrowType::Float64) => (PhysicalType::DOUBLE, 8),
            (DataType::Scalar(Scalar::Timestamp), ArrowType::Timestamp(TimeUnit::Microsecond, Some(zone))) if zone.as_ref() == UTC => {
                (PhysicalType::INT64, 8)
            }
            _ => return None,
        };
        let is_flat = schema.get_column_root(leaf).is_primitive() && descriptor.max_rep_level() == 0 && descriptor.max_def_level() <= 1;
        let is_such = column.column_type() == physical;
        let is_taken = column.encodings().all(|encoding| {
            matches!(encoding, Encoding::PLAIN | Encoding::BYTE_STREAM_SPLIT | Encoding::RLE | Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY)
        });
        (is_flat && is_such && is_taken).then_some((leaf, width))
    }
}

impl Pages {
    fn new(parts: &Arc<Parts>, group: &Group, leaf: usize, width: usize) -> Result<Self> {
        let path = group.footer.path.clone();
        let damaged = |error: ParquetError| Error::corrupt(&path, error);
        let column = group.metadata().column(leaf);
        let has_levels = column.column_descr().max_def_level() > 0;
        // A reader that believes that nothing is compressed gives pages as they are.
        let (column, zstd_limit) = match column.compression() {
            Compression::ZSTD(_) => {
                let limit = usize::try_from(column.uncompressed_size()).unwrap_or_default();
                (&column.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build().map_err(damaged)?, Some(limit))
            }
            _ => (column, None),
        };
        let reader = SerializedPageReader::new(Arc::clone(parts), column, group.rows(), None).map_err(damaged)?;
        Ok(Self { path, reader, zstd_limit, width, has_levels, rows_left: group.rows(), dictionary: None })
    }

    fn page(&mut self) -> Result<Option<StoredPage>> {
        while self.rows_left > 0 {
            let page = guarded(&self.path, || self.reader.get_next_page())?;
            let stored = match page {
                Some(Page::DictionaryPage { buf, num_values, encoding: Encoding::PLAIN | Encoding::PLAIN_DICTIONARY, .. }) => {
                    let values = self.decompressed(buf, true)?;
                    let is_whole = self.dictionary.is_none() && (num_values as usize).checked_mul(self.width) == Some(values.len());
                    self.dictionary = Some(values).filter(|_| is_whole);
                    match is_whole {
                        true => continue,
                        false => None,
                    }
                }
                Some(Page::DataPage { buf, num_values, encoding, .. }) => self.first_version(buf, num_values as usize, encoding)?,
                Some(page @ Page::DataPageV2 { .. }) => self.second_version(page)?,
                Some(_) => None,
                None => return Err(Error::corrupt(&self.path, "a column has fewer values than its row group has rows")),
            };
            let page = stored.ok_or_else(|| Error::corrupt(&self.path, "a page is not what its column's metadata and its own header say"))?;
            self.rows_left -= page.rows;
            return Ok(Some(page));
        }
        Ok(None)
    }

    /// A page that is compressed as a whole, its levels with their length first. `None` where it is not what it says, as in all that follow.
    fn first_version(&self, page: Bytes, rows: usize, encoding: Encoding) -> Result<Option<StoredPage>> {
        let page = self.decompressed(page, true)?;
        let parts = || {
            if !self.has_levels {
                return Some((None, page));
            }
            let length = usize::try_from(u32::from_le_bytes(*page.first_chunk::<4>()?)).ok()?;
            let end = length.checked_add(4).filter(|end| *end <= page.len())?;
            Some((self.presence(page.slice(4..end), rows)?, page.slice(end..)))
        };
        Ok(parts().and_then(|(presence, values)| self.stored(rows, encoding, presence, values)))
    }

    /// A page that says how long its levels are, which are not compressed.
    fn second_version(&self, page: Page) -> Result<Option<StoredPage>> {
        let Page::DataPageV2 { buf, num_values, encoding, num_nulls, def_levels_byte_len, rep_levels_byte_len, is_compressed, .. } = page else {
            return Ok(None);
        };
        let (rows, nulls, before) = (num_values as usize, num_nulls as usize, rep_levels_byte_len as usize);
        let Some(end) = before.checked_add(def_levels_byte_len as usize).filter(|end| *end <= buf.len()) else { return Ok(None) };
        let presence = match self.has_levels && nulls > 0 {
            true => self.presence(buf.slice(before..end), rows),
            false => Some(None),
        };
        let Some(presence) = presence else { return Ok(None) };
        let present = presence.as_ref().map_or(rows, Presence::count);
        if present.checked_add(nulls) != Some(rows) {
            return Ok(None);
        }
        let values = self.decompressed(buf.slice(end..), is_compressed)?;
        Ok(self.stored(rows, encoding, presence, values))
    }

    fn decompressed(&self, page: Bytes, is_compressed: bool) -> Result<Bytes> {
        match self.zstd_limit.filter(|_| is_compressed) {
            Some(limit) => decompress(&page, limit).map_err(|error| Error::corrupt(&self.path, error)),
            None => Ok(page),
        }
    }

    /// Which rows of a page have a value, where not all have one.
    fn presence(&self, levels: Bytes, rows: usize) -> Option<Option<Presence>> {
        if rows > self.rows_left {
            return None;
        }
        let levels = Hybrid::parse(levels, 1, rows)?;
        if levels.is_all(1) { Some(None) } else { Presence::of(&levels).map(|presence| Some(presence).filter(|presence| presence.count() < rows)) }
    }

    fn stored(&self, rows: usize, encoding: Encoding, presence: Option<Presence>, values: Bytes) -> Option<StoredPage> {
        if rows > self.rows_left {
            return None;
        }
        let count = presence.as_ref().map_or(rows, Presence::count);
        let is_whole = count.checked_mul(self.width) == Some(values.len());
        let values = match encoding {
            // A page of nulls may have nothing at all.
            _ if count == 0 => StoredValues::Plain(Bytes::new()),
            Encoding::PLAIN if is_whole => StoredValues::Plain(values),
            Encoding::BYTE_STREAM_SPLIT if is_whole => StoredValues::Split(values),
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => {
                let places = Hybrid::parse(values.slice(1.min(values.len())..), *values.first()?, count)?;
                StoredValues::Dictionary { dictionary: self.dictionary.clone()?, places }
            }
            _ => return None,
        };
        Some(StoredPage { rows, presence, values })
    }
}

impl Iterator for Pages {
    type Item = Result<StoredPage>;

    fn next(&mut self) -> Option<Self::Item> {
        let page = self.page().transpose();
        if matches!(page, Some(Err(_))) {
            self.rows_left = 0;
        }
        page
    }
}
