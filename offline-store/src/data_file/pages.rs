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
use parquet::basic::{Encoding, Type as PhysicalType};
use parquet::column::page::{Page, PageReader as _};
use parquet::file::serialized_reader::SerializedPageReader;

use super::footer::Fetched;
use super::read::{FileRead, Group};
use crate::join::{Hybrid, Presence, StoredPage, StoredValues};
use crate::{Error, Result};

/// The pages of one column of a row group.
pub(crate) struct Pages {
    path: String,
    reader: SerializedPageReader<Fetched>,
    /// Bytes of a value.
    width: usize,
    /// Whether pages begin with definition levels.
    has_levels: bool,
    rows_left: usize,
    dictionary: Option<Bytes>,
}

impl FileRead {
    /// Fetches a wanted column of a row group, where its pages can be taken as they are.
    pub(crate) async fn pages(&self, objects: &Arc<dyn ObjectStore>, group: &Group, place: usize) -> Result<Option<Pages>> {
        let Some((leaf, width)) = self.stored_leaf(group, place) else { return Ok(None) };
        let path = group.footer.path.clone();
        let (start, length) = group.metadata().column(leaf).byte_range();
        let range = start..start + length;
        let fetched = Fetched::fetch(objects, &group.footer, vec![range]).await?;
        let column = group.metadata().column(leaf);
        let reader = SerializedPageReader::new(Arc::new(fetched), column, group.rows(), None).map_err(|error| Error::corrupt(&path, error))?;
        let has_levels = column.column_descr().max_def_level() > 0;
        Ok(Some(Pages { path, reader, width, has_levels, rows_left: group.rows(), dictionary: None }))
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
    fn page(&mut self) -> Result<Option<StoredPage>> {
        while self.rows_left > 0 {
            let page = self.reader.get_next_page().map_err(|error| Error::corrupt(&self.path, error))?;
            let stored = match page {
                Some(Page::DictionaryPage { buf, num_values, encoding: Encoding::PLAIN | Encoding::PLAIN_DICTIONARY, .. }) => {
                    let is_whole = self.dictionary.is_none() && (num_values as usize).checked_mul(self.width) == Some(buf.len());
                    self.dictionary = Some(buf).filter(|_| is_whole);
                    match is_whole {
                        true => continue,
                        false => None,
                    }
                }
                Some(Page::DataPage { buf, num_values, encoding, .. }) => self.data_page(buf, num_values as usize, encoding, None),
                Some(Page::DataPageV2 { buf, num_values, encoding, num_nulls, def_levels_byte_len, rep_levels_byte_len, .. }) => {
                    let levels = Levels { before: rep_levels_byte_len as usize, bytes: def_levels_byte_len as usize, nulls: num_nulls as usize };
                    self.data_page(buf, num_values as usize, encoding, Some(levels))
                }
                Some(_) => None,
                None => return Err(Error::corrupt(&self.path, "a column has fewer values than its row group has rows")),
            };
            let page = stored.ok_or_else(|| Error::corrupt(&self.path, "a page is not what its column's metadata and its own header say"))?;
            self.rows_left -= page.rows;
            return Ok(Some(page));
        }
        Ok(None)
    }

    /// The rows of a page; those of the second version say how long their levels are. `None` where it is not what it says.
    fn data_page(&self, buffer: Bytes, rows: usize, encoding: Encoding, levels: Option<Levels>) -> Option<StoredPage> {
        if rows > self.rows_left {
            return None;
        }
        let (presence, values) = match levels {
            None if !self.has_levels => (None, buffer),
            None => {
                let length = usize::try_from(u32::from_le_bytes(*buffer.first_chunk::<4>()?)).ok()?;
                let end = length.checked_add(4).filter(|end| *end <= buffer.len())?;
                (Some(presence(buffer.slice(4..end), rows)?), buffer.slice(end..))
            }
            Some(Levels { before, bytes, nulls }) => {
                let end = before.checked_add(bytes).filter(|end| *end <= buffer.len())?;
                let presence = if self.has_levels && nulls > 0 { Some(presence(buffer.slice(before..end), rows)?) } else { None };
                let present = presence.as_ref().map_or(rows, Presence::count);
                if present.checked_add(nulls) != Some(rows) {
                    return None;
                }
                (presence, buffer.slice(end..))
            }
        };
        let presence = presence.filter(|presence| presence.count() < rows);
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

/// What a page of the second version says of its definition levels.
struct Levels {
    /// Bytes before them.
    before: usize,
    bytes: usize,
    nulls: usize,
}

/// Which rows of a page have a value; `None` where the levels are none.
fn presence(levels: Bytes, rows: usize) -> Option<Presence> {
    Presence::of(&Hybrid::parse(levels, 1, rows)?)
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
