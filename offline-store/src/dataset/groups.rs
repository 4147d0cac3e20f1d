//! The rows of a dataset in canonical form and in groups of a fixed size, so that what is made of them depends on the rows alone and never on how they
//! came in batches.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat;
use arrow::datatypes::{Field, Schema, SchemaRef};

use super::cells::{canonical, with_one_nan};
use super::{DatasetColumn, DatasetError};
use crate::Result;
use crate::join::{JoinError, JoinedRows};

/// How many rows make a group; the last one of a dataset may have fewer.
pub const GROUP_ROWS: usize = 1 << 16;

/// The schema of stored rows: our types, each nullable, no metadata.
pub fn canonical_schema(columns: &[DatasetColumn]) -> SchemaRef {
    let field = |column: &DatasetColumn| Field::new(&column.name, column.data_type.to_arrow(), true);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// Rows in canonical form, in groups of [`GROUP_ROWS`], and their schema.
///
/// # Errors
/// [`DatasetError::Schema`] where a batch is not of these columns; as its values are refused.
pub fn canonical_rows(columns: &[DatasetColumn], batches: Vec<RecordBatch>) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let groups = Groups::new(columns.to_vec(), &batches.into());
    Ok((Arc::clone(groups.schema()), groups.collect::<Result<_, _>>()?))
}

/// Gives the groups one by one.
pub(crate) struct Groups {
    columns: Vec<DatasetColumn>,
    schema: SchemaRef,
    batches: Box<dyn Iterator<Item = Result<RecordBatch, JoinError>> + Send>,
    /// What is left of the batch begun last.
    rest: Option<RecordBatch>,
    /// How many rows were taken.
    taken: u64,
}

impl Groups {
    pub(crate) fn new(columns: Vec<DatasetColumn>, rows: &JoinedRows) -> Self {
        Self { schema: canonical_schema(&columns), columns, batches: rows.batches(), rest: None, taken: 0 }
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn group(&mut self) -> Result<Option<RecordBatch>> {
        let (mut pieces, mut rows) = (Vec::new(), 0);
        while rows < GROUP_ROWS {
            let next = match self.rest.take() {
                Some(rest) => Some(rest),
                None => self.batches.next().transpose()?,
            };
            let Some(batch) = next else { break };
            let wanted = batch.num_rows().min(GROUP_ROWS - rows);
            if wanted < batch.num_rows() {
                self.rest = Some(batch.slice(wanted, batch.num_rows() - wanted));
            }
            if wanted > 0 {
                pieces.push(canonical_columns(&self.columns, &batch.slice(0, wanted), self.taken)?);
                self.taken += wanted as u64;
                rows += wanted;
            }
        }
        if pieces.is_empty() {
            return Ok(None);
        }
        let failed = |error: arrow::error::ArrowError| DatasetError::Rows { reason: error.to_string() };
        let whole = |place: usize| match pieces.as_slice() {
            [only] => Ok(Arc::clone(&only[place])),
            pieces => concat(&pieces.iter().map(|piece| piece[place].as_ref()).collect::<Vec<_>>()),
        };
        let columns = (0..self.columns.len()).map(whole).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(failed)?))
    }
}

/// The columns of a batch in canonical form; `first_row` is where it begins among all rows.
///
/// # Errors
/// As [`canonical_rows`].
pub(crate) fn canonical_columns(columns: &[DatasetColumn], batch: &RecordBatch, first_row: u64) -> Result<Vec<ArrayRef>, DatasetError> {
    if batch.num_columns() != columns.len() {
        return Err(DatasetError::Schema);
    }
    let column =
        |(column, array): (&DatasetColumn, &ArrayRef)| canonical(&column.name, column.data_type, array, first_row).map(|array| with_one_nan(&array));
    columns.iter().zip(batch.columns()).map(column).collect()
}

impl Iterator for Groups {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.group().transpose()
    }
}
