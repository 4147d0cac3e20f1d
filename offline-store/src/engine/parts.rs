//! A spine, cut into parts that lie in the views as near together as can be.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{SortColumn, concat, interleave_record_batch, lexsort_to_indices};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::join::Spine;

/// How many rows a batch of a part holds.
const BATCH_ROWS: usize = 64 << 10;

/// A cut spine: each part in the spine's order, with the number of each row in the last column.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) schema: SchemaRef,
    pub(super) parts: Vec<Vec<RecordBatch>>,
    /// How many rows all parts have together.
    pub(super) rows: usize,
}

impl Parts {
    /// Cuts a spine by the values of `keys` into parts of equally many rows; an entity with more rows than that is cut too.
    pub(super) fn cut(spine: &Spine, keys: &[String], parts: usize) -> Result<Self, ArrowError> {
        let schema = with_number(spine.schema());
        let rows = spine.rows();
        if rows == 0 {
            return Ok(Self { schema, parts: vec![Vec::new()], rows });
        }
        let order = by_key(spine, keys)?;
        let mut starts = Vec::with_capacity(spine.batches().len());
        let mut next = 0;
        for batch in spine.batches() {
            starts.push(next);
            next += batch.num_rows();
        }
        let size = rows.div_ceil(parts.max(1));
        let mut cut = Vec::with_capacity(rows.div_ceil(size));
        for chunk in order.values().chunks(size) {
            let mut numbers = chunk.to_vec();
            numbers.sort_unstable();
            let batches = numbers.chunks(BATCH_ROWS).map(|numbers| taken(spine.batches(), &starts, &schema, numbers));
            cut.push(batches.collect::<Result<_, _>>()?);
        }
        Ok(Self { schema, parts: cut, rows })
    }
}

/// The name of the column of row numbers beside these columns. No feature is called so: two underscores in a row are kept for output columns, and no view
/// has an empty name.
pub(super) fn number_column(spine: &Schema) -> String {
    let mut name = "__row".to_owned();
    while spine.column_with_name(&name).is_some() {
        name.push('_');
    }
    name
}

fn with_number(spine: &SchemaRef) -> SchemaRef {
    let number = Arc::new(Field::new(number_column(spine), DataType::UInt64, false));
    let fields: Vec<_> = spine.fields().iter().cloned().chain([number]).collect();
    Arc::new(Schema::new_with_metadata(fields, spine.metadata().clone()))
}

fn by_key(spine: &Spine, keys: &[String]) -> Result<UInt32Array, ArrowError> {
    let mut columns = Vec::with_capacity(keys.len());
    for key in keys {
        let place = spine.schema().index_of(key)?;
        let arrays: Vec<_> = spine.batches().iter().map(|batch| batch.column(place).as_ref()).collect();
        columns.push(SortColumn { values: concat(&arrays)?, options: None });
    }
    lexsort_to_indices(&columns, None)
}

fn taken(batches: &[RecordBatch], starts: &[usize], schema: &SchemaRef, numbers: &[u32]) -> Result<RecordBatch, ArrowError> {
    let place = |number: &u32| {
        let number = *number as usize;
        let batch = starts.partition_point(|start| *start <= number) - 1;
        (batch, number - starts[batch])
    };
    let places: Vec<_> = numbers.iter().map(place).collect();
    let rows = interleave_record_batch(&batches.iter().collect::<Vec<_>>(), &places)?;
    let number: ArrayRef = Arc::new(UInt64Array::from_iter_values(numbers.iter().map(|number| u64::from(*number))));
    let columns = rows.columns().iter().cloned().chain([number]).collect();
    RecordBatch::try_new(Arc::clone(schema), columns)
}
