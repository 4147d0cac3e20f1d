//! What a join will do, judged before any data is read: columns found and typed, keys numbered, the spine ordered, the scans bounded.

use std::sync::Arc;

use anabranch_core::definition::{Column, Definitions, Role, ViewLayout};
use anabranch_core::selection::{SelectedView, Selection};
use anabranch_core::types::{DataType, Scalar};
use anabranch_core::{Error, Timestamp};
use arrow::array::ArrayRef;
use arrow::datatypes::{Field, Schema, SchemaRef};

use super::entities::{EntityIndex, Groups, KeyHint};
use super::{JoinError, JoinOptions, ScanHint, Spine, ViewScan};

/// A join that can only fail by what it reads.
#[derive(Debug)]
pub struct JoinPlan {
    pub(super) spine: Spine,
    pub(super) schema: SchemaRef,
    pub(super) views: Vec<Arc<ViewPlan>>,
    pub(super) selected: Vec<SelectedView>,
    pub(super) options: JoinOptions,
}

/// The columns of the spine that make a key, and the types that they are read as.
type KeyOfSpine = Vec<(String, DataType)>;

/// One view's part of it.
#[derive(Debug)]
pub(super) struct ViewPlan {
    pub(super) scan: ViewScan,
    pub(super) places: Places,
    pub(super) timeline: Arc<Timeline>,
    pub(super) options: JoinOptions,
}

/// Where a scan's columns lie, by what they are for.
#[derive(Debug)]
pub(super) struct Places {
    /// Keys, event time, and the known time where there is one.
    pub(super) head: Vec<usize>,
    /// How many of these are keys.
    pub(super) keys: usize,
    pub(super) features: Vec<usize>,
    /// Arrival, source, position.
    pub(super) tail: Vec<usize>,
    pub(super) tombstone: usize,
}

impl Places {
    fn of(columns: &[Column]) -> Self {
        let of = |role| columns.iter().enumerate().filter(move |(_, column)| column.role == role).map(|(place, _)| place);
        let mut tail: Vec<usize> = of(Role::Reserved).collect();
        // Scans end with arrival, source, position and tombstone.
        let tombstone = tail.pop().unwrap_or_default();
        let head = of(Role::Key).chain(of(Role::EventTime)).chain(of(Role::KnownTime)).collect();
        Self { head, keys: of(Role::Key).count(), features: of(Role::Feature).collect(), tail, tombstone }
    }
}

/// The spine's rows that have a key, by entity and time.
#[derive(Debug)]
pub(super) struct Timeline {
    pub(super) index: EntityIndex,
    pub(super) rows: Groups,
    /// The time of each of `rows.all()`.
    pub(super) times: Vec<i64>,
    /// The first and the last of these; none: there are none.
    span: Option<(Timestamp, Timestamp)>,
    /// The keys, where a provider may look for them among bounds.
    pub(super) hint: Option<Arc<KeyHint>>,
    /// All rows of the spine, those without a key included.
    pub(super) spine_rows: usize,
}

impl JoinPlan {
    /// Resolves a selection and plans its join.
    ///
    /// # Errors
    /// As [`JoinPlan::of_views`]; and where the selection names what does not exist.
    pub fn new(spine: Spine, selection: &Selection, definitions: &Definitions, options: JoinOptions) -> Result<Self, JoinError> {
        let selected = selection.resolve(definitions, &spine.column_names(), options.full_names)?;
        Self::of_views(spine, selected, options)
    }

    /// Plans the join of views that were resolved with the spine's columns as taken.
    ///
    /// # Errors
    /// Where a key column is missing, of an unlike type, or holds a value that no key can be.
    pub fn of_views(spine: Spine, selected: Vec<SelectedView>, options: JoinOptions) -> Result<Self, JoinError> {
        let schema = output_schema(&spine, &selected)?;
        let mut timelines: Vec<(KeyOfSpine, Arc<Timeline>)> = Vec::new();
        let mut views = Vec::with_capacity(selected.len());
        for view in &selected {
            let key = key_columns(view);
            let timeline = match timelines.iter().find(|(known, _)| *known == key) {
                Some((_, timeline)) => Arc::clone(timeline),
                None => {
                    let timeline = Arc::new(Timeline::new(&spine, view, &key)?);
                    timelines.push((key, Arc::clone(&timeline)));
                    timeline
                }
            };
            let (name, layout) = (view.name.clone(), Arc::clone(&view.layout));
            // Nothing is known yet of rows that lie on disk: each part of them is planned by itself.
            let hint = if spine.is_on_disk() { ScanHint::anything() } else { timeline.hint(&layout) };
            let scan = ViewScan { hint, columns: scan_columns(view), name, layout };
            views.push(Arc::new(ViewPlan { places: Places::of(&scan.columns), scan, timeline, options }));
        }
        Ok(Self { spine, schema, views, selected, options })
    }

    /// The spine.
    pub const fn spine(&self) -> &Spine {
        &self.spine
    }

    /// The same with the spine in memory, wherever it lies.
    ///
    /// # Errors
    /// As [`JoinPlan::of_views`]; where rows on disk cannot be read.
    pub fn in_memory(self: &Arc<Self>) -> Result<Arc<Self>, JoinError> {
        if !self.spine.is_on_disk() {
            return Ok(Arc::clone(self));
        }
        let batches = self.spine.rows_in(None).collect::<Result<_, _>>()?;
        let spine = Spine::new(Arc::clone(self.spine.schema()), batches, self.spine.time_column())?;
        Self::of_views(spine, self.selected.clone(), self.options).map(Arc::new)
    }

    /// The places of the spine's columns that a join looks at, its time and its keys, ascending.
    pub(super) fn joined_columns(&self) -> Vec<usize> {
        let wanted =
            |field: &Field| field.name() == self.spine.time_column() || self.selected.iter().any(|view| view.key_columns.contains(field.name()));
        self.spine.schema().fields().iter().enumerate().filter(|(_, field)| wanted(field)).map(|(place, _)| place).collect()
    }

    /// The keys of the view that is named first in some rows of a spine of this plan, once all its times and keys are judged; none: there is no view.
    pub(super) fn judged_keys(&self, rows: &Spine) -> Result<Option<Vec<(Scalar, ArrayRef)>>, JoinError> {
        let mut first = None;
        for view in &self.selected {
            let columns = keys_of_spine(rows, view, &key_columns(view))?;
            let of_batch = || columns.into_iter().filter_map(|(scalar, mut arrays)| Some((scalar, arrays.pop()?))).collect();
            first = first.or_else(|| Some(of_batch()));
        }
        Ok(first)
    }

    /// The schema of the output: the spine's columns, then the features.
    pub const fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// What will be read, view by view.
    pub fn scans(&self) -> impl Iterator<Item = &ViewScan> {
        self.views.iter().map(|view| &view.scan)
    }
}

impl ViewPlan {
    /// Whether rows have known times of their own.
    pub(super) fn has_known(&self) -> bool {
        self.places.head.len() > self.places.keys + 1
    }
}

impl Timeline {
    fn new(spine: &Spine, view: &SelectedView, key: &[(String, DataType)]) -> Result<Self, JoinError> {
        let columns = keys_of_spine(spine, view, key)?;
        let counts: Vec<usize> = spine.batches().iter().map(|batch| batch.num_rows()).collect();
        let key = |batch: usize| columns.iter().map(|(scalar, arrays)| (*scalar, Arc::clone(&arrays[batch]))).collect();
        let keys: Vec<Vec<(Scalar, ArrayRef)>> = (0..counts.len()).map(key).collect();
        let (index, ids, entities) = EntityIndex::of(&keys, &counts)?;
        let (rows, times) = Groups::by_time(&ids, spine.times(), entities);
        let span = times.iter().min().zip(times.iter().max()).map(|(first, last)| (Timestamp(*first), Timestamp(*last)));
        let scalars: Vec<Scalar> = columns.iter().map(|(scalar, _)| *scalar).collect();
        let hint = index.hint(&scalars).map(Arc::new);
        Ok(Self { index, rows, times, span, hint, spine_rows: spine.rows() })
    }

    fn hint(&self, layout: &ViewLayout) -> ScanHint {
        let last = self.span.map_or(Timestamp::MIN, |(_, last)| last);
        let lookback = layout.view().lookback;
        let min_event_time = self.span.zip(lookback).map(|((first, _), lookback)| first.minus(lookback));
        ScanHint { min_event_time, max_event_time: last, keys: self.hint.clone() }
    }
}

/// The spine's values of a key, column by column, one array for each batch in memory.
fn keys_of_spine(spine: &Spine, view: &SelectedView, key: &[(String, DataType)]) -> Result<Vec<(Scalar, Vec<ArrayRef>)>, JoinError> {
    let mut columns = Vec::with_capacity(key.len());
    for (join_key, (column, data_type)) in view.layout.keys().iter().zip(key) {
        let role = format!("join key {:?} of feature view {:?}", join_key.name, view.name);
        let DataType::Scalar(scalar) = data_type else {
            return Err(JoinError::Selection(Error::Type { expected: "a join key".to_owned(), found: data_type.to_string() }));
        };
        columns.push((*scalar, spine.column(column, &role, *data_type)?));
    }
    Ok(columns)
}

/// The spine's columns for a view's key. Integers of every width are one key space, so they are all read as `i64`.
fn key_columns(view: &SelectedView) -> KeyOfSpine {
    let widen = |scalar| if scalar == Scalar::I32 { Scalar::I64 } else { scalar };
    view.key_columns.iter().zip(view.layout.keys()).map(|(column, key)| (column.clone(), DataType::Scalar(widen(key.scalar())))).collect()
}

fn scan_columns(view: &SelectedView) -> Vec<Column> {
    let all = view.layout.columns();
    let (head, features) = all.split_at(view.layout.first_feature());
    head.iter().chain(view.features.iter().map(|place| &features[*place])).cloned().chain(ViewLayout::reserved_columns()).collect()
}

fn output_schema(spine: &Spine, selected: &[SelectedView]) -> Result<SchemaRef, JoinError> {
    let mut fields: Vec<_> = spine.schema().fields().iter().cloned().collect();
    for view in selected {
        for (place, name) in view.features.iter().zip(&view.output) {
            if fields.iter().any(|field| field.name() == name) {
                return Err(JoinError::AmbiguousColumn { column: name.clone() });
            }
            fields.push(Arc::new(Field::new(name, view.layout.view().fields[*place].data_type.to_arrow(), true)));
        }
    }
    Ok(Arc::new(Schema::new_with_metadata(fields, spine.schema().metadata().clone())))
}
