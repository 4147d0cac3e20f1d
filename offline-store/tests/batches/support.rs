//! Packed rows for a test.

use std::sync::Arc;

use anabranch_core::columns::column_of;
use anabranch_core::types::DataType;
use anabranch_core::{Timestamp, Value};
use anabranch_offline_store::batches::{BatchesError, CacheLimits, PackedColumn, PackedRows, RowCache, RowsBuilder};
use anabranch_offline_store::dataset::ContentDigest;
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};

pub(crate) const CONTENT: ContentDigest = ContentDigest([7; 32]);

/// Every type that a column may have.
pub(crate) const TYPES: [&str; 13] =
    ["bool", "i32", "i64", "f32", "f64", "timestamp", "string", "bytes", "vector<3>", "list<i64>", "list<bool>", "list<string>", "list<f32>"];

pub(crate) fn columns(types: &[&str]) -> Vec<PackedColumn> {
    let column = |(i, name): (usize, &&str)| PackedColumn { name: format!("c{i}"), data_type: name.parse().unwrap() };
    types.iter().enumerate().map(column).collect()
}

/// A value of a type made of a number; null for every seventh.
pub(crate) fn value(data_type: DataType, n: u64) -> Value {
    let scalar = |name: &str, n: u64| match name {
        "bool" => Value::Bool(n.is_multiple_of(2)),
        "i32" => Value::I32(n as i32),
        "i64" => Value::I64(n as i64),
        "f32" => Value::F32(f32::from_bits(n as u32 & 0xff7f_ffff)),
        "f64" => Value::F64(n as f64 / 3.0),
        "timestamp" => Value::Timestamp(Timestamp(n as i64)),
        "string" => Value::String("ä".repeat((n % 5) as usize)),
        _ => Value::Bytes(vec![n as u8; (n % 4) as usize]),
    };
    if n % 7 == 3 {
        return Value::Null;
    }
    match data_type {
        DataType::Scalar(of) => scalar(of.name(), n),
        DataType::List(of) => Value::List((0..n % 4).map(|i| scalar(of.name(), n + i)).collect()),
        DataType::Vector(size) => Value::Vector((0..size).map(|i| (n + u64::from(i)) as f32).collect()),
    }
}

/// Rows whose cells follow from a seed, their column and their number.
pub(crate) fn rows(columns: &[PackedColumn], rows: u64, seed: u64) -> RecordBatch {
    let fields = columns.iter().map(|column| Field::new(&column.name, column.data_type.to_arrow(), true)).collect::<Vec<_>>();
    let cell = |column: usize, row: u64| (seed ^ (row * 31 + column as u64)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let array = |(i, column): (usize, &PackedColumn)| {
        let values: Vec<_> = (0..rows).map(|row| value(column.data_type, cell(i, row))).collect();
        column_of(column.data_type, &values).unwrap()
    };
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.iter().enumerate().map(array).collect()).unwrap()
}

pub(crate) fn cache(memory_bytes: u64, disk_bytes: u64) -> (tempfile::TempDir, Arc<RowCache>) {
    let folder = tempfile::tempdir().unwrap();
    let cache = RowCache::new(folder.path(), CacheLimits { memory_bytes, disk_bytes });
    (folder, cache)
}

/// Packs rows that come in batches of a size.
pub(crate) async fn packed(
    cache: &Arc<RowCache>,
    content: ContentDigest,
    table: &RecordBatch,
    columns: &[PackedColumn],
    batch: usize,
) -> Result<Arc<PackedRows>, BatchesError> {
    let table = table.clone();
    let fill = move |mut builder: RowsBuilder| async move {
        for from in (0..table.num_rows()).step_by(batch) {
            builder.push(&table.slice(from, batch.min(table.num_rows() - from)))?;
        }
        builder.finish()
    };
    cache.rows(content, columns, fill).await
}
