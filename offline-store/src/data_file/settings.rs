//! How columns are encoded, chosen by what they hold.
//!
//! | column | encoding | why |
//! | -- | -- | -- |
//! | values of which a sample repeats few | dictionary | runs and small numbers, whatever the type |
//! | floats whose dictionary halves them | dictionary | rounded amounts: their mantissas are as random as any, and there are few of them |
//! | other floats | byte stream split | the bytes of sign and exponent compress apart from those of the mantissa, and decode without a branch |
//! | other integers, times, positions | delta binary packed | keys are sorted, times ascend within an entity |
//! | other text and bytes | plain | |
//!
//! All pages are zstd at level 1: higher ones cost more to write than they save. Columns that are split by byte streams are left as they are for
//! [`super::pack`], which compresses them. Statistics by page are kept of keys and times alone, which is where readers
//! prune. `docs/decisions/layout.md` has what was measured.

use std::collections::HashSet;
use std::hash::Hash;

use ahash::RandomState;
use anabranch_core::name::reserved;
use anabranch_core::{DataType, Scalar};
use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType as ArrowType, Float32Type, Float64Type};
use arrow::row::{RowConverter, SortField};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::footer::SORTED_BY;
use crate::schema::TableField;

/// How many values of a column are looked at.
const SAMPLE: usize = 4_096;

/// A column of which less than one in so many sampled values is a new one gets a dictionary.
const REPEATS: usize = 4;

/// Floats of which at least one in so many sampled values is not a new one may be worth a dictionary, and are counted.
const FLOAT_REPEATS: usize = 32;

/// Rows of a page. A compressor looks at 128 KiB at a time: in pages this long each byte stream of a float column fills such a block by itself, so that
/// what is random is stored as it is and what is not compresses well. Shorter pages cost a tenth of the bytes and a third of the speed.
const PAGE_ROWS: usize = 128 << 10;

/// Pages of a wide type may be as long.
const PAGE_BYTES: usize = 4 << 20;

/// How hard zstd tries.
pub(super) const ZSTD_LEVEL: i32 = 1;

/// How pages are compressed.
pub(super) fn compression() -> Compression {
    Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL).unwrap_or_default())
}

/// The settings for a file with these columns.
pub(super) fn properties(fields: &[TableField], columns: &[ArrayRef], sorted_by: &[i32], row_group_rows: usize) -> WriterProperties {
    let ids = sorted_by.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let mut builder = WriterProperties::builder()
        .set_compression(compression())
        // Row groups are cut by the writer, at most half as large again.
        .set_max_row_group_row_count(Some(row_group_rows.max(1) * 2))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_data_page_size_limit(PAGE_BYTES)
        .set_write_batch_size(PAGE_ROWS / 8)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(64))
        .set_key_value_metadata((!ids.is_empty()).then(|| vec![KeyValue::new(SORTED_BY.to_owned(), ids)]));
    for (field, column) in fields.iter().zip(columns) {
        let path = path(field);
        if sorted_by.contains(&field.id) && ![reserved::ARRIVAL, reserved::SOURCE, reserved::POSITION].contains(&field.name.as_str()) {
            builder = builder.set_column_statistics_enabled(path.clone(), EnabledStatistics::Page);
        }
        let dictionary = repeats(column, row_group_rows);
        builder = builder.set_column_dictionary_enabled(path.clone(), dictionary);
        if let Some(encoding) = encoding(field.data_type).filter(|_| !dictionary) {
            if encoding == Encoding::BYTE_STREAM_SPLIT {
                builder = builder.set_column_compression(path.clone(), Compression::UNCOMPRESSED);
            }
            builder = builder.set_column_encoding(path, encoding);
        }
    }
    builder.build()
}

fn path(field: &TableField) -> ColumnPath {
    match field.data_type {
        DataType::Scalar(_) => ColumnPath::new(vec![field.name.clone()]),
        DataType::List(_) | DataType::Vector(_) => ColumnPath::new(vec![field.name.clone(), "list".to_owned(), "element".to_owned()]),
    }
}

const fn encoding(data_type: DataType) -> Option<Encoding> {
    match data_type {
        DataType::Vector(_) | DataType::Scalar(Scalar::F32 | Scalar::F64) | DataType::List(Scalar::F32 | Scalar::F64) => {
            Some(Encoding::BYTE_STREAM_SPLIT)
        }
        DataType::Scalar(Scalar::I32 | Scalar::I64 | Scalar::Timestamp) => Some(Encoding::DELTA_BINARY_PACKED),
        _ => None,
    }
}

/// Whether values of a column repeat, by a sample of rows spread over it; where it repeats some, floats of a first row group are counted.
fn repeats(column: &ArrayRef, row_group_rows: usize) -> bool {
    let values = match column.as_list_opt::<i32>() {
        Some(list) => list.values(),
        None => column,
    };
    let step = (values.len() / SAMPLE).max(1);
    let rows = UInt32Array::from_iter_values((0..values.len()).step_by(step).map(|row| row as u32));
    let distinct = || {
        let sample = take(values, &rows, None).ok()?;
        let converter = RowConverter::new(vec![SortField::new(sample.data_type().clone())]).ok()?;
        let keys = converter.convert_columns(&[sample]).ok()?;
        Some(keys.iter().map(|row| row.as_ref().to_vec()).collect::<HashSet<_>>().len())
    };
    let Some(distinct) = distinct() else { return false };
    if distinct * REPEATS < rows.len().max(1) {
        return true;
    }
    let is_rare = rows.len() - distinct > rows.len() / FLOAT_REPEATS;
    let group = values.slice(0, values.len().min(row_group_rows));
    match group.data_type() {
        ArrowType::Float32 if is_rare => halves(group.as_primitive::<Float32Type>().iter().flatten().map(f32::to_bits), 32),
        ArrowType::Float64 if is_rare => halves(group.as_primitive::<Float64Type>().iter().flatten().map(f64::to_bits), 64),
        _ => false,
    }
}

/// Whether a dictionary of values of so many bits, and their places in it, take less than half of what they take side by side.
fn halves<T: Hash + Eq>(values: impl Iterator<Item = T>, width: usize) -> bool {
    let mut distinct = HashSet::with_hasher(RandomState::new());
    let (mut count, most) = (0, values.size_hint().1.unwrap_or(usize::MAX));
    for value in values {
        distinct.insert(value);
        count += 1;
        if distinct.len() > most / 2 {
            return false;
        }
    }
    let place_bits = usize::BITS - distinct.len().saturating_sub(1).leading_zeros();
    (distinct.len() * width + count * place_bits as usize) * 2 < count * width
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float32Array, Float64Array, Int64Array};

    use super::*;

    /// Numbers that look random.
    fn random(row: u64) -> u64 {
        row.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (row.wrapping_mul(0xd134_2543_de82_ef95) >> 7)
    }

    fn repeats_of(column: impl Array + 'static) -> bool {
        repeats(&(Arc::new(column) as ArrayRef), 1 << 18)
    }

    #[test]
    fn rounded_amounts_get_a_dictionary_and_random_ones_none() {
        let rows = 100_000_u64;
        let cents = |row: u64| (random(row) % 12_000) as f64 / 100.0;
        assert!(repeats_of((0..rows).map(|row| (row % 20 > 0).then(|| cents(row))).collect::<Float64Array>()));
        assert!(!repeats_of((0..rows).map(|row| Some(random(row) as f64 / 3.0)).collect::<Float64Array>()));
        // 14 bits and a dictionary are not worth it beside 32.
        assert!(!repeats_of((0..rows).map(|row| Some(cents(row) as f32)).collect::<Float32Array>()));
        assert!(repeats_of((0..rows).map(|row| Some((random(row) % 500) as f32 / 7.0)).collect::<Float32Array>()));
        // Integers of a narrow range are narrow without one.
        assert!(!repeats_of((0..rows).map(|row| Some((random(row) % 12_000) as i64)).collect::<Int64Array>()));
    }

    #[test]
    fn columns_without_values_are_no_trouble() {
        assert!(repeats_of(Float64Array::from(Vec::<f64>::new())));
        assert!(repeats_of(Float64Array::new_null(50)));
    }
}
