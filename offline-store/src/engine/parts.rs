//! A spine, cut into parts that lie in the views as near together as can be.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::join::JoinPlan;

/// A cut spine: each part in the spine's order, with the number of each row in the last column.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) schema: SchemaRef,
    pub(super) parts: Vec<Vec<RecordBatch>>,
    /// How many rows all parts have together.
    pub(super) rows: usize,
}

impl Parts {
    /// Cuts the spine of a join by its entities into parts of equally many rows; an entity with more rows than that is cut too.
    pub(super) fn cut(plan: &JoinPlan, parts: usize) -> Result<Self, ArrowError> {
        let (spine, schema) = (plan.spine(), with_number(plan.spine().schema()));
        let rows = spine.rows();
        if rows == 0 {
            return Ok(Self { schema, parts: vec![Vec::new()], rows });
        }
        let columns: Vec<usize> = (0..spine.schema().fields().len()).collect();
        let size = rows.div_ceil(parts.max(1));
        let mut cut = Vec::with_capacity(rows.div_ceil(size));
        for chunk in plan.by_entity().chunks(size) {
            let mut numbers = chunk.to_vec();
            numbers.sort_unstable();
            let (mut batches, mut first) = (spine.taken(&columns, &numbers)?, 0);
            for batch in &mut batches {
                let of_batch = &numbers[first..first + batch.num_rows()];
                first += of_batch.len();
                let number: ArrayRef = Arc::new(UInt64Array::from_iter_values(of_batch.iter().map(|number| u64::from(*number))));
                let numbered = batch.columns().iter().cloned().chain([number]).collect();
                *batch = RecordBatch::try_new(Arc::clone(&schema), numbered)?;
            }
            cut.push(batches);
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
