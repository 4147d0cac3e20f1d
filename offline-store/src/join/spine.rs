//! The caller's side of a join: any columns, one of them a time.
//!
//! The rows are kept as they came and go out again unchanged. Rows are counted from 0 over all batches, and that count is what errors name.
//!
//! A spine lies in memory, with the times of its rows, or on disk, and then nothing is held of it: its rows are judged when they are read for the join.

use anabranch_core::columns::conform;
use anabranch_core::types::{DataType, Scalar};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;

use super::JoinError;
use super::answer::JoinedRows;
use super::spool::{Batches, Spooled};

/// How many rows a batch of taken ones holds.
const TAKEN_ROWS: usize = 64 << 10;

/// The rows that want features, each at its own time.
#[derive(Debug, Clone)]
pub struct Spine {
    rows: Spooled,
    time_column: String,
    /// The time of each row in microseconds; none where the rows lie on disk.
    times: Vec<i64>,
}

impl Spine {
    /// The time column of a caller who names none.
    pub const DEFAULT_TIME_COLUMN: &'static str = "event_timestamp";

    /// The most rows of one join: they are numbered by 32 bits, and the last number says "none".
    pub const MAX_ROWS: usize = u32::MAX as usize - 1;

    /// Takes batches of one schema, and reads the times in `time_column` (timestamps of any unit, or dates) as UTC microseconds.
    ///
    /// # Errors
    /// Where the time column is missing, of another type, null in a row, or beyond what microseconds can tell; where two columns have one name; where
    /// a batch is not of the schema; where there are too many rows.
    pub fn new(schema: SchemaRef, batches: Vec<RecordBatch>, time_column: &str) -> Result<Self, JoinError> {
        if let Some(batch) = batches.iter().position(|batch| batch.schema_ref().fields() != schema.fields()) {
            return Err(JoinError::SpineSchema { batch });
        }
        Self::spooled(Spooled::of(schema, batches), time_column)
    }

    /// Takes rows that were put aside.
    ///
    /// # Errors
    /// As [`Spine::new`]; where the rows lie on disk, what is wrong with one of them is told by the join.
    pub fn spooled(rows: Spooled, time_column: &str) -> Result<Self, JoinError> {
        if rows.rows() > Self::MAX_ROWS {
            return Err(JoinError::SpineTooLarge { rows: rows.rows(), limit: Self::MAX_ROWS });
        }
        let fields = rows.schema().fields();
        if let Some((_, twice)) = fields.iter().enumerate().find(|(i, field)| fields[..*i].iter().any(|other| other.name() == field.name())) {
            return Err(JoinError::AmbiguousColumn { column: twice.name().clone() });
        }
        let held = rows.held().map_or(0, |_| rows.rows());
        let mut spine = Self { rows, time_column: time_column.to_owned(), times: Vec::with_capacity(held) };
        spine.read_times()?;
        Ok(spine)
    }

    /// A spine of one batch.
    ///
    /// # Errors
    /// As [`Spine::new`].
    pub fn of(batch: RecordBatch, time_column: &str) -> Result<Self, JoinError> {
        Self::new(batch.schema(), vec![batch], time_column)
    }

    /// The schema.
    pub const fn schema(&self) -> &SchemaRef {
        self.rows.schema()
    }

    /// All rows, wherever they lie.
    pub fn all(&self) -> JoinedRows {
        self.rows.clone().into()
    }

    /// The rows as they were put aside.
    pub const fn put_aside(&self) -> &Spooled {
        &self.rows
    }

    /// Whether the rows lie on disk.
    pub fn is_on_disk(&self) -> bool {
        self.rows.held().is_none()
    }

    /// The batches in memory, as they came; none where the rows lie on disk.
    pub(super) fn batches(&self) -> &[RecordBatch] {
        self.rows.held().unwrap_or_default()
    }

    /// A pass over the rows in some columns, ascending, or all.
    pub(super) fn rows_in(&self, columns: Option<&[usize]>) -> Batches {
        self.rows.batches(columns)
    }

    /// The column of the times.
    pub fn time_column(&self) -> &str {
        &self.time_column
    }

    /// How many rows there are.
    pub const fn rows(&self) -> usize {
        self.rows.rows()
    }

    /// The names of the columns, which no feature of the output may have.
    pub fn column_names(&self) -> Vec<String> {
        self.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    /// Some rows in memory, ascending, in some columns: in batches of a fair size, however the spine lies in batches.
    ///
    /// # Errors
    /// Where a batch would outgrow what Arrow can tell.
    pub(crate) fn taken(&self, columns: &[usize], rows: &[u32]) -> Result<Vec<RecordBatch>, ArrowError> {
        let batches = self.batches().iter().map(|batch| batch.project(columns)).collect::<Result<Vec<_>, _>>()?;
        let mut starts = Vec::with_capacity(batches.len());
        let mut next = 0;
        for batch in &batches {
            starts.push(next);
            next += batch.num_rows();
        }
        let place = |row: &u32| {
            let row = *row as usize;
            let batch = starts.partition_point(|start| *start <= row) - 1;
            (batch, row - starts[batch])
        };
        let of: Vec<&RecordBatch> = batches.iter().collect();
        rows.chunks(TAKEN_ROWS).map(|rows| interleave_record_batch(&of, &rows.iter().map(place).collect::<Vec<_>>())).collect()
    }

    /// The time of each row in memory, in microseconds.
    pub(super) fn times(&self) -> &[i64] {
        &self.times
    }

    /// A column in the canonical form of `data_type`, one array for each batch in memory.
    ///
    /// # Errors
    /// Where it is missing, of an unlike type, or holds a value that does not fit.
    pub(super) fn column(&self, name: &str, role: &str, data_type: DataType) -> Result<Vec<ArrayRef>, JoinError> {
        let Some((place, field)) = self.schema().column_with_name(name) else {
            let found = if self.schema().fields().is_empty() { "no columns".to_owned() } else { self.column_names().join(", ") };
            return Err(JoinError::MissingColumn { column: name.to_owned(), role: role.to_owned(), found });
        };
        let unlike = || JoinError::ColumnType {
            column: name.to_owned(),
            role: role.to_owned(),
            expected: data_type.to_string(),
            found: field.data_type().to_string(),
        };
        let empty = arrow::array::new_empty_array(field.data_type());
        conform(&empty, data_type).map_err(|_| unlike())?;
        let mut columns = Vec::with_capacity(self.batches().len());
        let mut first_row = 0;
        for batch in self.batches() {
            let conformed = conform(batch.column(place), data_type).map_err(|_| unlike())?;
            if let Some(row) = conformed.misfits.as_ref().and_then(|misfits| misfits.set_indices().next()) {
                return Err(JoinError::Misfit { column: name.to_owned(), row: first_row + row, expected: data_type.to_string() });
            }
            first_row += batch.num_rows();
            columns.push(conformed.column);
        }
        Ok(columns)
    }

    fn read_times(&mut self) -> Result<(), JoinError> {
        for column in self.column(&self.time_column, "the time of each row", DataType::Scalar(Scalar::Timestamp))? {
            let column = column.as_primitive::<TimestampMicrosecondType>();
            if let Some(row) = (column.null_count() > 0).then(|| (0..column.len()).find(|row| column.is_null(*row))).flatten() {
                return Err(JoinError::NullTime { column: self.time_column.clone(), row: self.times.len() + row });
            }
            self.times.extend_from_slice(column.values());
        }
        Ok(())
    }
}
