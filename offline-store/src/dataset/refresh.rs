//! Refreshing: a dataset at a later commit, made of the earlier one's rows wherever those cannot have changed.
//!
//! A row of a dataset is a function of its spine row and of the rows of each view that are candidates for it (see [`crate::join`]). So, for one definition
//! of the views, a row can have changed only where a row that was added since is a candidate for it. [`changed_rows`] finds those from the keys and times of
//! the added rows alone, and says that all rows must be joined again
//!
//! - where the views, keys, features, lookbacks or output names are others than before, or a column lies under another field of its table;
//! - where rows were taken away: a reset, a revert, an erasure, a commit that does not descend from the earlier one.
//!
//! A spine that is itself a function of the commit is made anew; [`Sources::of_derived`] finds its rows in the earlier dataset, which is in the same order,
//! as the two are read side by side. [`assemble`] puts both kinds of rows together in the order of the spine. The outcome equals the full join, row by row.
//!
//! Neither dataset is held. In memory are two bytes for each row of the spine, one for each earlier row, and of the spine so many rows at a time as the
//! caller says: the keys and times of the added rows are read once for each such stretch of it.

mod sources;

use std::collections::HashMap;

use anabranch_core::Timestamp;
use anabranch_core::columns::{KeyColumns, conform};
use anabranch_core::definition::{Column, Role};
use anabranch_core::key::KeyWriter;
use anabranch_core::selection::SelectedView;
use anabranch_core::types::{DataType, Scalar};
use anabranch_versioning::CommitId;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use futures::TryStreamExt;
use tokio::task::spawn_blocking;

use super::DatasetError;
use crate::join::{JoinError, JoinOptions, Knowledge, Spine};
use crate::scan::ScanRequest;
use crate::table::{OfflineStore, TableName};
use crate::{Error, Result};

pub use sources::{Sources, assemble};

/// Which rows of a spine can have changed between two commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// All of them, and why.
    All(String),
    /// Those marked.
    Rows(Vec<bool>),
}

/// A commit and the views selected there.
#[derive(Debug, Clone, Copy)]
pub struct SelectedAt<'a> {
    /// The commit.
    pub commit: &'a CommitId,
    /// The views.
    pub views: &'a [SelectedView],
}

/// Which rows of a spine can have another outcome at `to` than at `from`; so many of its rows are looked at together, about.
///
/// # Errors
/// Those of reading the tables; where the spine does not fit the views.
pub async fn changed_rows(
    store: &OfflineStore,
    from: SelectedAt<'_>,
    to: SelectedAt<'_>,
    spine: &Spine,
    options: JoinOptions,
    rows_at_once: usize,
) -> Result<Changed> {
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
        let request = ScanRequest::all(table, columns);
        let (mut stretches, mut first_row) = (Stretches::new(spine, view, rows_at_once)?, 0);
        loop {
            let (of, time) = (view.clone(), spine.time_column().to_owned());
            let next = move || {
                let timelines = stretches.next()?.map(|rows| Timelines::new(&rows, &time, &of, options)).transpose()?;
                Ok::<_, Error>((stretches, timelines))
            };
            let timelines;
            (stretches, timelines) = spawn_blocking(next).await.map_err(|_| Error::Closing)??;
            let Some(mut timelines) = timelines else { break };
            let mut rows = store.scan_files(to.commit, &request, &added.files).await?;
            while let Some(batch) = rows.try_next().await? {
                timelines = spawn_blocking(move || timelines.touch(&batch)).await.map_err(|_| Error::Closing)??;
            }
            timelines.mark(&mut marks[first_row..]);
            first_row += timelines.spine_rows;
        }
    }
    Ok(Changed::Rows(marks))
}

/// The columns of a spine that a view looks at, some rows at a time.
struct Stretches {
    rows: Box<dyn Iterator<Item = Result<RecordBatch, JoinError>> + Send>,
    at_once: usize,
}

impl Stretches {
    fn new(spine: &Spine, view: &SelectedView, at_once: usize) -> Result<Self> {
        let wanted = |name: &String| name == spine.time_column() || view.key_columns.contains(name);
        let names = spine.column_names();
        let places: Vec<usize> = (0..names.len()).filter(|place| wanted(&names[*place])).collect();
        Ok(Self { rows: spine.put_aside().batches(Some(&places)), at_once })
    }

    fn next(&mut self) -> Result<Option<Vec<RecordBatch>>> {
        let (mut batches, mut rows) = (Vec::new(), 0);
        while rows < self.at_once
            && let Some(batch) = self.rows.next().transpose()?
        {
            rows += batch.num_rows();
            batches.push(batch);
        }
        Ok((rows > 0).then_some(batches))
    }
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

/// Rows of a spine by entity and time, and which of them added rows touch.
struct Timelines {
    /// How many rows there are, those without a key too.
    spine_rows: usize,
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
    fn new(spine: &[RecordBatch], time_column: &str, view: &SelectedView, options: JoinOptions) -> Result<Self> {
        let keys: Vec<_> = view.layout.keys().iter().map(|key| (key.name.clone(), widened(key.scalar()))).collect();
        let named: Vec<_> = view.key_columns.iter().zip(&keys).map(|(column, (_, scalar))| (column.clone(), *scalar)).collect();
        let mut by_key: HashMap<Box<[u8]>, Vec<(i64, u32)>> = HashMap::new();
        let (mut writer, mut first_row) = (KeyWriter::default(), 0);
        for batch in spine {
            let columns = key_columns(batch, &named)?;
            let times = canonical_column(batch, time_column, Scalar::Timestamp)?;
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
            spine_rows: first_row,
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
