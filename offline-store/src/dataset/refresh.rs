//! Refreshing: a dataset at a later commit, made of the earlier one's rows wherever those cannot have changed.
//!
//! A row of a dataset is a function of its spine row and of the rows of each view that are candidates for it (see [`crate::join`]). So, for one definition
//! of the views, a row can have changed only where a row that was added since is a candidate for it. [`changed_rows`] finds those from the keys and times of
//! the added rows alone, and says that all rows must be joined again
//!
//! - where the views, keys, features, lookbacks or output names are others than before, or a column lies under another field of its table;
//! - where rows were taken away: a reset, a revert, an erasure, a commit that does not descend from the earlier one.
//!
//! A spine that is itself a function of the commit is made anew; [`earlier_rows`] finds its rows in the earlier dataset by their values.
//! [`assemble`] puts both kinds of rows together in the order of the spine. The outcome equals the full join, row by row.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_core::Timestamp;
use anabranch_core::columns::{KeyColumns, conform};
use anabranch_core::definition::{Column, Role};
use anabranch_core::key::KeyWriter;
use anabranch_core::selection::SelectedView;
use anabranch_core::types::{DataType, Scalar};
use anabranch_versioning::CommitId;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use futures::TryStreamExt;
use tokio::task::spawn_blocking;

use super::cells::write_cell;
use super::groups::canonical_schema;
use super::{DatasetColumn, DatasetError, GROUP_ROWS};
use crate::join::{JoinOptions, Knowledge, Spine};
use crate::scan::ScanRequest;
use crate::table::{OfflineStore, TableName};
use crate::{Error, Result};

/// Which rows of a spine can have changed between two commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// All of them, and why.
    All(String),
    /// Those marked.
    Rows(Vec<bool>),
}

/// Where a row of a refreshed dataset comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowSource {
    /// The row of this number of the earlier dataset.
    Earlier(u32),
    /// The next of the rows that were joined again.
    Joined,
}

/// A commit and the views selected there.
#[derive(Debug, Clone, Copy)]
pub struct SelectedAt<'a> {
    /// The commit.
    pub commit: &'a CommitId,
    /// The views.
    pub views: &'a [SelectedView],
}

/// Which rows of a spine can have another outcome at `to` than at `from`.
///
/// # Errors
/// Those of reading the tables; where the spine does not fit the views.
pub async fn changed_rows(store: &OfflineStore, from: SelectedAt<'_>, to: SelectedAt<'_>, spine: &Spine, options: JoinOptions) -> Result<Changed> {
    if let Some(reason) = redefined(from.views, to.views) {
        return Ok(Changed::All(reason));
    }
    let mut marks = vec![false; spine.rows()];
    for view in to.views {
        let table = TableName::features(view.layout.name());
        let Some(now) = store.find_table(to.commit, &table).await? else {
            match store.find_table(from.commit, &table).await? {
                None => continue,
                Some(_) => return Ok(Changed::All(format!("rows of feature view {:?} were taken away", view.name))),
            }
        };
        if let Some(then) = store.find_table(from.commit, &table).await? {
            let field = |column: &Column| (then.field(&column.name).map(|field| field.id), now.field(&column.name).map(|field| field.id));
            if let Some(column) = scanned(view).find(|column| matches!(field(column), (then, now) if then != now)) {
                return Ok(Changed::All(format!("column {:?} of feature view {:?} is another field than before", column.name, view.name)));
            }
        }
        let added = store.added_files(Some(from.commit), to.commit, &table).await?;
        if added.removed {
            return Ok(Changed::All(format!("rows of feature view {:?} were taken away", view.name)));
        }
        if added.files.is_empty() {
            continue;
        }
        let columns: Vec<_> = view.layout.columns()[..view.layout.first_feature()].to_vec();
        let mut timelines = Timelines::new(spine, view, options)?;
        let mut rows = store.scan_files(to.commit, &ScanRequest::all(table, columns), &added.files).await?;
        while let Some(batch) = rows.try_next().await? {
            timelines = spawn_blocking(move || timelines.touch(&batch)).await.map_err(|_| Error::Closing)??;
        }
        timelines.mark(&mut marks);
    }
    Ok(Changed::Rows(marks))
}

/// The columns of a view's table that its part of a join reads.
fn scanned(view: &SelectedView) -> impl Iterator<Item = &Column> {
    let (head, features) = view.layout.columns().split_at(view.layout.first_feature());
    head.iter().chain(view.features.iter().map(|place| &features[*place]))
}

/// What about the views makes every row another one.
fn redefined(then: &[SelectedView], now: &[SelectedView]) -> Option<String> {
    if then.len() != now.len() {
        return Some("other views are joined than before".to_owned());
    }
    then.iter().zip(now).find_map(|(then, now)| {
        let differs = |what: &str| Some(format!("feature view {:?} has {what} than before", now.name));
        if then.name != now.name || then.layout.name() != now.layout.name() {
            return Some("other views are joined than before".to_owned());
        }
        if then.key_columns != now.key_columns || then.layout.keys() != now.layout.keys() {
            return differs("other keys");
        }
        if !scanned(then).eq(scanned(now)) || then.output != now.output {
            return differs("other columns");
        }
        if then.layout.view().lookback != now.layout.view().lookback {
            return differs("another lookback");
        }
        None
    })
}

/// The spine's rows by entity and time, and which of them added rows touch.
struct Timelines {
    groups: HashMap<Box<[u8]>, (usize, usize)>,
    /// Row numbers, those of an entity together in the order of their times.
    rows: Vec<u32>,
    times: Vec<i64>,
    /// What is added to the number of touching rows at each place; one more than there are rows.
    steps: Vec<i64>,
    keys: Vec<(String, Scalar)>,
    event: String,
    known: Option<String>,
    lookback: Option<i64>,
    options: JoinOptions,
}

impl Timelines {
    fn new(spine: &Spine, view: &SelectedView, options: JoinOptions) -> Result<Self> {
        let keys: Vec<_> = view.layout.keys().iter().map(|key| (key.name.clone(), widened(key.scalar()))).collect();
        let named: Vec<_> = view.key_columns.iter().zip(&keys).map(|(column, (_, scalar))| (column.clone(), *scalar)).collect();
        let mut by_key: HashMap<Box<[u8]>, Vec<(i64, u32)>> = HashMap::new();
        let (mut writer, mut first_row) = (KeyWriter::default(), 0);
        for batch in spine.batches() {
            let columns = key_columns(batch, &named)?;
            let times = canonical_column(batch, spine.time_column(), Scalar::Timestamp)?;
            let times = times.as_primitive::<TimestampMicrosecondType>();
            for row in 0..batch.num_rows() {
                if columns.write(row, &mut writer) {
                    let at = (times.value(row), (first_row + row) as u32);
                    match by_key.get_mut(writer.as_bytes()) {
                        Some(rows) => rows.push(at),
                        None => drop(by_key.insert(writer.as_bytes().into(), vec![at])),
                    }
                }
            }
            first_row += batch.num_rows();
        }
        let (mut groups, mut rows, mut times) = (HashMap::with_capacity(by_key.len()), Vec::new(), Vec::new());
        for (key, mut of_key) in by_key {
            of_key.sort_unstable();
            let start = rows.len();
            times.extend(of_key.iter().map(|(time, _)| *time));
            rows.extend(of_key.iter().map(|(_, row)| *row));
            groups.insert(key, (start, rows.len()));
        }
        let column = |role| view.layout.columns().iter().find(|column| column.role == role).map(|column| column.name.clone());
        Ok(Self {
            groups,
            steps: vec![0; rows.len() + 1],
            rows,
            times,
            keys,
            event: column(Role::EventTime).unwrap_or_default(),
            known: column(Role::KnownTime),
            lookback: view.layout.view().lookback.map(|lookback| lookback.micros()),
            options,
        })
    }

    /// Takes rows that were added.
    fn touch(mut self, batch: &RecordBatch) -> Result<Self> {
        let columns = key_columns(batch, &self.keys)?;
        let event = canonical_column(batch, &self.event, Scalar::Timestamp)?;
        let known = self.known.as_ref().map(|known| canonical_column(batch, known, Scalar::Timestamp)).transpose()?;
        let (event, known) =
            (event.as_primitive::<TimestampMicrosecondType>(), known.as_ref().map(|known| known.as_primitive::<TimestampMicrosecondType>()));
        let mut writer = KeyWriter::default();
        for row in 0..batch.num_rows() {
            if !columns.write(row, &mut writer) {
                continue;
            }
            let Some((start, end)) = self.groups.get(writer.as_bytes()).copied() else { continue };
            let at = event.value(row);
            let known = known.filter(|known| known.is_valid(row)).map_or(at, |known| known.value(row));
            let (first, last) = self.reach(at, known);
            let times = &self.times[start..end];
            let (first, last) = (times.partition_point(|time| *time < first), times.partition_point(|time| *time <= last));
            if first < last {
                self.steps[start + first] += 1;
                self.steps[start + last] -= 1;
            }
        }
        Ok(self)
    }

    /// The first and the last time of spine rows that a row is a candidate for; the first lies behind the last where there is none.
    fn reach(&self, event: i64, known: i64) -> (i64, i64) {
        let after = if self.options.strict { event.saturating_add(1) } else { event };
        let last = self.lookback.map_or(i64::MAX, |lookback| event.saturating_add(lookback));
        match self.options.knowledge {
            Knowledge::Any => (after, last),
            Knowledge::Spine => (after.max(known), last),
            Knowledge::At(Timestamp(time)) if known <= time => (after, last),
            Knowledge::At(_) => (1, 0),
        }
    }

    fn mark(&self, marks: &mut [bool]) {
        let mut touching = 0;
        for (row, step) in self.rows.iter().zip(&self.steps) {
            touching += step;
            marks[*row as usize] |= touching > 0;
        }
    }
}

/// Integers of every width are one key space.
const fn widened(scalar: Scalar) -> Scalar {
    if matches!(scalar, Scalar::I32) { Scalar::I64 } else { scalar }
}

fn key_columns(batch: &RecordBatch, keys: &[(String, Scalar)]) -> Result<KeyColumns> {
    let column = |(name, scalar): &(String, Scalar)| Ok((*scalar, canonical_column(batch, name, *scalar)?));
    Ok(KeyColumns::new(keys.iter().map(column).collect::<Result<_>>()?)?)
}

fn canonical_column(batch: &RecordBatch, name: &str, scalar: Scalar) -> Result<ArrayRef> {
    let column = batch.column_by_name(name).ok_or(DatasetError::Schema)?;
    Ok(conform(column, DataType::Scalar(scalar))?.column)
}

/// For each row of a spine the number of an equal row in the first columns of an earlier dataset, if there is one. Both are in canonical form.
///
/// # Errors
/// [`DatasetError::Schema`] where the earlier dataset has fewer columns, or others.
pub fn earlier_rows(columns: &[DatasetColumn], earlier: &[RecordBatch], spine: &[RecordBatch]) -> Result<Vec<Option<u32>>, DatasetError> {
    let mut known: HashMap<[u8; 32], u32> = HashMap::new();
    for (number, row) in row_hashes(columns, earlier)?.into_iter().enumerate() {
        // Equal rows of a spine have equal features, so any of them will do.
        known.entry(row).or_insert(number as u32);
    }
    Ok(row_hashes(columns, spine)?.iter().map(|row| known.get(row).copied()).collect())
}

fn row_hashes(columns: &[DatasetColumn], batches: &[RecordBatch]) -> Result<Vec<[u8; 32]>, DatasetError> {
    let schema = canonical_schema(columns);
    let mut hashes = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    let mut bytes = Vec::new();
    for batch in batches {
        let fits = |place: usize| batch.columns().get(place).is_some_and(|column| column.data_type() == schema.field(place).data_type());
        if !(0..columns.len()).all(fits) {
            return Err(DatasetError::Schema);
        }
        for row in 0..batch.num_rows() {
            bytes.clear();
            columns.iter().zip(batch.columns()).for_each(|(column, array)| write_cell(array, column.data_type, row, &mut bytes));
            hashes.push(*blake3::hash(&bytes).as_bytes());
        }
    }
    Ok(hashes)
}

/// Rows of an earlier dataset and rows joined again, in the order that `sources` say; all of one schema.
///
/// # Errors
/// [`DatasetError::Schema`] where the batches are not of the schema, or there are not as many rows as the sources want.
pub fn assemble(schema: &SchemaRef, earlier: &[RecordBatch], joined: &[RecordBatch], sources: &[RowSource]) -> Result<Vec<RecordBatch>> {
    let types = |batch: &RecordBatch| {
        batch.columns().iter().map(|column| column.data_type().clone()).eq(schema.fields().iter().map(|field| field.data_type().clone()))
    };
    if !earlier.iter().chain(joined).all(types) {
        return Err(DatasetError::Schema.into());
    }
    let places = |batches: &[RecordBatch], first: usize| -> Vec<(usize, usize)> {
        batches.iter().enumerate().flat_map(|(batch, rows)| (0..rows.num_rows()).map(move |row| (first + batch, row))).collect()
    };
    let (of_earlier, mut of_joined) = (places(earlier, 0), places(joined, earlier.len()).into_iter());
    let place = |source: &RowSource| match source {
        RowSource::Earlier(row) => of_earlier.get(*row as usize).copied(),
        RowSource::Joined => of_joined.next(),
    };
    let places = sources.iter().map(place).collect::<Option<Vec<_>>>().ok_or(DatasetError::Schema)?;
    let column = |column: usize, rows: &[(usize, usize)]| -> Result<ArrayRef> {
        let arrays: Vec<&dyn Array> = earlier.iter().chain(joined).map(|batch| batch.column(column).as_ref()).collect();
        Ok(interleave(&arrays, rows)?)
    };
    places
        .chunks(GROUP_ROWS)
        .map(|rows| {
            let columns = (0..schema.fields().len()).map(|place| column(place, rows)).collect::<Result<Vec<_>>>()?;
            Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
        })
        .collect()
}
