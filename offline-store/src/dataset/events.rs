//! Spines that are a function of a commit, in an order that is one too.
//!
//! **Every event of a view** is the keys and the event time of each row at the commit. Rows come in the total order (event time, known time, arrival, source, position), and rows that are equal in all of it by their keys, so the order is the
//! same however the table's files are cut. A tombstone is no event: it says that there is none.
//!
//! **The rows of a query** come in the order of their times, and of all their other columns where these are equal: an engine gives them in the order in
//! which its threads come to them, and so what order the query asks for is not kept.
//!
//! This module says what the order is; [`crate::engine`] brings rows into it, in memory or, where they outgrow that, on disk.

use std::sync::Arc;

use anabranch_core::definition::{Column, Role, ViewLayout};
use anabranch_core::name::reserved;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, interleave};
use arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};

use super::groups::{canonical_columns, canonical_schema};
use super::{DatasetColumn, DatasetError, GROUP_ROWS, columns_of};
use crate::Result;
use crate::scan::ScanRequest;
use crate::table::TableName;

/// The order of a spine's rows, and what is made of the rows on the way into it.
#[derive(Debug)]
pub(crate) struct SpineOrder {
    source: Source,
    /// The spine.
    schema: SchemaRef,
    /// Its columns, and the place of a row in the order as bytes.
    keyed: SchemaRef,
    converter: RowConverter,
    /// What the order is by: columns of the source, in canonical form.
    by: Vec<usize>,
    /// How many rows came.
    taken: u64,
}

/// What rows are made a spine of.
#[derive(Debug)]
enum Source {
    /// Rows of a query, of these columns.
    Query(Vec<DatasetColumn>),
    /// Rows of a view, of which the first columns are its events.
    Events,
}

impl SpineOrder {
    /// Rows of a query, by their times and then by all columns, in canonical form.
    ///
    /// # Errors
    /// [`DatasetError::ColumnType`]; where a type has no order.
    pub(crate) fn of_query(query: &SchemaRef, time_column: &str) -> Result<Self> {
        let columns = columns_of(query)?;
        let schema = canonical_schema(&columns);
        let time = columns.iter().position(|column| column.name == time_column);
        let by = time.into_iter().chain((0..columns.len()).filter(|place| Some(*place) != time)).collect();
        let source = Arc::clone(&schema);
        Self::new(Source::Query(columns), &source, schema, by)
    }

    /// The events of a view, with their time in a column of the name `time_column`, and what to scan for them.
    ///
    /// # Errors
    /// [`DatasetError::Rows`] where a key has the name of the time column.
    pub(crate) fn of_events(layout: &ViewLayout, time_column: &str) -> Result<(Self, ScanRequest)> {
        if layout.keys().iter().any(|key| key.name == time_column) {
            let reason = format!("{time_column:?} is a join key of feature view {:?}: give the spine's time column another name", layout.name());
            return Err(DatasetError::Rows { reason }.into());
        }
        let columns: Vec<Column> = layout.table_columns().into_iter().filter(|column| column.role != Role::Feature).collect();
        let event = columns.iter().position(|column| column.role == Role::EventTime).unwrap_or_default();
        let fields = columns[..=event].iter().map(|column| {
            let name = if column.role == Role::EventTime { time_column } else { column.name.as_str() };
            Field::new(name, column.data_type.to_arrow(), false)
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        // Times first, then what the table reserves, then the keys; the tombstone is no part of it.
        let by = (event..columns.len()).filter(|place| columns[*place].name != reserved::TOMBSTONE).chain(0..event).collect();
        let order = Self::new(Source::Events, &crate::scan::schema_of(&columns), schema, by)?;
        Ok((order, ScanRequest::all(TableName::features(layout.name()), columns)))
    }

    fn new(source: Source, input: &SchemaRef, schema: SchemaRef, by: Vec<usize>) -> Result<Self> {
        let converter = RowConverter::new(by.iter().map(|place| SortField::new(input.field(*place).data_type().clone())).collect())?;
        let place = Arc::new(Field::new("", ArrowType::Binary, false));
        let keyed = Arc::new(Schema::new(schema.fields().iter().cloned().chain([place]).collect::<Vec<_>>()));
        Ok(Self { source, schema, keyed, converter, by, taken: 0 })
    }

    /// The columns of the spine.
    pub(crate) const fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The columns of the spine, and last each row's place in the order: bytes that order as the rows do.
    pub(crate) const fn keyed_schema(&self) -> &SchemaRef {
        &self.keyed
    }

    /// The rows that a batch adds to the spine, of [`SpineOrder::keyed_schema`].
    ///
    /// # Errors
    /// As the values of a query are refused.
    pub(crate) fn keyed(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = match &self.source {
            Source::Query(columns) => canonical_columns(columns, batch, self.taken)?,
            Source::Events => without_tombstones(batch)?.columns().to_vec(),
        };
        self.taken += batch.num_rows() as u64;
        let by: Vec<ArrayRef> = self.by.iter().map(|place| Arc::clone(&columns[*place])).collect();
        let places = self.converter.convert_columns(&by)?.try_into_binary()?;
        let of_spine = columns.into_iter().take(self.schema.fields().len());
        Ok(RecordBatch::try_new(Arc::clone(&self.keyed), of_spine.chain([Arc::new(places) as ArrayRef]).collect())?)
    }

    /// A batch without the rows' places.
    pub(crate) fn of_spine(&self, keyed: &RecordBatch) -> Result<RecordBatch> {
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), keyed.columns()[..self.schema.fields().len()].to_vec())?)
    }

    /// The spine, in order, in batches of [`GROUP_ROWS`].
    pub(crate) fn sorted(&self, keyed: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
        let places: Vec<_> = keyed.iter().filter_map(|batch| batch.columns().last()?.as_binary_opt::<i32>()).collect();
        let mut rows: Vec<(usize, usize)> =
            places.iter().enumerate().flat_map(|(batch, rows)| (0..rows.len()).map(move |row| (batch, row))).collect();
        rows.sort_unstable_by(|a, b| places[a.0].value(a.1).cmp(places[b.0].value(b.1)));
        let column = |place: usize, rows: &[(usize, usize)]| -> Result<ArrayRef> {
            let sources: Vec<&dyn Array> = keyed.iter().map(|batch| batch.column(place).as_ref()).collect();
            Ok(interleave(&sources, rows)?)
        };
        rows.chunks(GROUP_ROWS)
            .map(|rows| {
                let columns = (0..self.schema.fields().len()).map(|place| column(place, rows)).collect::<Result<Vec<_>>>()?;
                Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
            })
            .collect()
    }
}

fn without_tombstones(batch: &RecordBatch) -> Result<RecordBatch> {
    let Some(tombstones) = batch.column_by_name(reserved::TOMBSTONE).and_then(|column| column.as_boolean_opt()) else { return Ok(batch.clone()) };
    let kept: BooleanArray = tombstones.iter().map(|tombstone| Some(tombstone != Some(true))).collect();
    Ok(filter_record_batch(batch, &kept)?)
}
