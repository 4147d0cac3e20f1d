//! How columns are encoded, chosen by what they hold.
//!
//! | column | encoding | why |
//! | -- | -- | -- |
//! | values of which a sample repeats few | dictionary | runs and small numbers, whatever the type |
//! | other floats | byte stream split | the bytes of sign and exponent compress apart from those of the mantissa, and decode without a branch |
//! | other integers, times, positions | delta binary packed | keys are sorted, times ascend within an entity |
//! | other text and bytes | plain | |
//!
//! All pages are zstd at level 1: higher ones cost more to write than they save. Statistics by page are kept of keys and times alone, which is where readers
//! prune. `docs/decisions/layout.md` has what was measured.

use std::collections::HashSet;

use anabranch_core::name::reserved;
use anabranch_core::{DataType, Scalar};
use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::take;
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

/// Rows of a page: large enough that whole columns decode at full speed, small enough that few rows don't cost many.
const PAGE_ROWS: usize = 16 << 10;

/// The settings for a file with these columns.
pub(super) fn properties(fields: &[TableField], columns: &[ArrayRef], sorted_by: &[i32], row_group_rows: usize) -> WriterProperties {
    let ids = sorted_by.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap_or_default()))
        // Row groups are cut by the writer, at most half as large again.
        .set_max_row_group_row_count(Some(row_group_rows.max(1) * 2))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(64))
        .set_key_value_metadata((!ids.is_empty()).then(|| vec![KeyValue::new(SORTED_BY.to_owned(), ids)]));
    for (field, column) in fields.iter().zip(columns) {
        let path = path(field);
        if sorted_by.contains(&field.id) && ![reserved::ARRIVAL, reserved::SOURCE, reserved::POSITION].contains(&field.name.as_str()) {
            builder = builder.set_column_statistics_enabled(path.clone(), EnabledStatistics::Page);
        }
        let dictionary = repeats(column);
        builder = builder.set_column_dictionary_enabled(path.clone(), dictionary);
        if let Some(encoding) = encoding(field.data_type).filter(|_| !dictionary) {
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

/// Whether values of a column repeat, by a sample of rows spread over it.
fn repeats(column: &ArrayRef) -> bool {
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
    distinct().is_some_and(|distinct| distinct * REPEATS < rows.len().max(1))
}
