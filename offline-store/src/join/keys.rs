//! The keys and times of a chunk, grouped by entity and in the total order of each.
//!
//! A sorted chunk is taken as it lies. The rows of any other are brought into that order first: those of entities that are asked for, by a counting
//! sort, and within each entity by event and known time. Where two rows of an entity then tie, the rest of the total order decides, and only then are
//! its columns read: [`Keys::TailNeeded`].

use anabranch_core::columns::conform;

use anabranch_core::{Position, SourceId};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::ScalarBuffer;
use arrow::compute::concat;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};

use super::JoinError;
use super::entities::Run;
use super::plan::ViewPlan;
use super::rows::{ChunkInfo, ColumnReader};

/// The rows of a chunk that are of entities of the spine.
#[derive(Debug)]
pub(super) struct ChunkKeys {
    /// Entities' rows, each in its total order; places are those of `event`.
    pub(super) runs: Vec<Run>,
    pub(super) event: ScalarBuffer<i64>,
    /// None where known times are the event times.
    pub(super) known: Option<ScalarBuffer<i64>>,
    /// The row of the chunk that each place is; none where they are the same.
    rows: Option<Vec<u32>>,
}

impl ChunkKeys {
    /// Of a sorted chunk whose rows are known when they are true.
    #[cfg(test)]
    pub(super) fn sorted(runs: Vec<Run>, event: Vec<i64>) -> Self {
        Self { runs, event: event.into(), known: None, rows: None }
    }

    /// The event times of a run, and its known times where they are others.
    pub(super) fn times(&self, run: &Run) -> (&[i64], Option<&[i64]>) {
        let rows = run.start as usize..run.end as usize;
        (&self.event[rows.clone()], self.known.as_ref().map(|known| &known[rows]))
    }

    /// The row of the chunk at a place.
    pub(super) fn row(&self, place: usize) -> u32 {
        self.rows.as_ref().map_or(place as u32, |rows| rows[place])
    }

    /// Whether the chunk was in no order.
    pub(super) fn is_grouped(&self) -> bool {
        self.rows.is_some()
    }

    #[inline]
    pub(super) fn known_at(&self, place: usize) -> i64 {
        self.known.as_ref().map_or(self.event[place], |known| known[place])
    }
}

/// The keys of a chunk, or what is missing to order them.
#[derive(Debug)]
pub(super) enum Keys {
    Ready(ChunkKeys),
    /// Rows of one entity tie in event and known time: [`order_ties`] takes these with the chunk's tail.
    TailNeeded(ChunkKeys),
}

/// What decides between rows that tie in event and known time.
#[derive(Debug)]
pub(super) struct Tail {
    arrival: ScalarBuffer<i64>,
    source: ScalarBuffer<i32>,
    position: ScalarBuffer<i64>,
}

impl Tail {
    pub(super) fn of(&self, row: u32) -> (i64, i32, i64) {
        let row = row as usize;
        (self.arrival[row], self.source[row], self.position[row])
    }
}

/// Takes what a reader of [`super::plan::Places::head`] gives.
pub(super) fn keys(plan: &ViewPlan, info: ChunkInfo, reader: ColumnReader) -> Result<Keys, JoinError> {
    let columns = read_all(plan, &plan.places.head, info.rows, reader)?;
    let (keys, times) = columns.split_at(plan.places.keys);
    let keys: Vec<_> = plan.scan.layout.keys().iter().map(|key| key.scalar()).zip(keys.iter().cloned()).collect();
    let event = times_of(plan, &times[0])?;
    let known = times.get(1).map(|known| known_times(known, &event));
    let runs = plan.timeline.index.runs(&keys, info.rows)?;
    let keys = ChunkKeys { runs, event, known, rows: None };
    let ordered = |run: &Run| match keys.times(run) {
        (event, None) => event.is_sorted(),
        (event, Some(known)) => event.iter().zip(known).is_sorted(),
    };
    if info.sorted && keys.runs.iter().all(ordered) {
        return Ok(Keys::Ready(keys));
    }
    Ok(group(plan, keys))
}

/// Brings the rows of each entity together and into the order of their times.
fn group(plan: &ViewPlan, keys: ChunkKeys) -> Keys {
    let entities = plan.timeline.rows.len();
    let mut starts = vec![0_u32; entities + 1];
    for run in &keys.runs {
        starts[run.entity as usize + 1] += run.end - run.start;
    }
    for entity in 0..entities {
        starts[entity + 1] += starts[entity];
    }
    // Times lie beside their rows, so that ordering an entity looks at nothing else.
    let mut rows = vec![(0_i64, 0_i64, 0_u32); starts[entities] as usize];
    let mut next = starts.clone();
    for run in &keys.runs {
        for row in run.start..run.end {
            let place = &mut next[run.entity as usize];
            rows[*place as usize] = (keys.event[row as usize], keys.known_at(row as usize), row);
            *place += 1;
        }
    }
    let mut tied = false;
    let mut runs = Vec::new();
    for entity in 0..entities {
        let (start, end) = (starts[entity], starts[entity + 1]);
        if start == end {
            continue;
        }
        let of_entity = &mut rows[start as usize..end as usize];
        if !of_entity.is_sorted() {
            of_entity.sort_unstable();
        }
        tied |= of_entity.windows(2).any(|pair| (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1));
        runs.push(Run { entity: entity as u32, start, end });
    }
    let known = keys.known.as_ref().map(|_| rows.iter().map(|(_, known, _)| *known).collect::<Vec<_>>().into());
    let event = rows.iter().map(|(event, ..)| *event).collect::<Vec<_>>().into();
    let keys = ChunkKeys { runs, event, known, rows: Some(rows.into_iter().map(|(_, _, row)| keys.row(row as usize)).collect()) };
    if tied { Keys::TailNeeded(keys) } else { Keys::Ready(keys) }
}

impl ChunkKeys {
    /// The same rows in another order; `rows` are places of these.
    fn permuted(&self, runs: Vec<Run>, rows: Vec<u32>) -> Self {
        let pick = |times: &ScalarBuffer<i64>| rows.iter().map(|place| times[*place as usize]).collect::<Vec<_>>().into();
        let (event, known) = (pick(&self.event), self.known.as_ref().map(pick));
        let rows = rows.into_iter().map(|place| self.row(place as usize)).collect();
        Self { runs, event, known, rows: Some(rows) }
    }
}

/// Orders rows that tie in event and known time by the rest of the total order.
pub(super) fn order_ties(keys: &ChunkKeys, tail: &Tail) -> ChunkKeys {
    let mut places: Vec<u32> = (0..keys.event.len() as u32).collect();
    let time = |place: &u32| (keys.event[*place as usize], keys.known_at(*place as usize));
    for run in &keys.runs {
        let of_entity = &mut places[run.start as usize..run.end as usize];
        for tied in of_entity.chunk_by_mut(|a, b| time(a) == time(b)).filter(|tied| tied.len() > 1) {
            tied.sort_by_key(|place| tail.of(keys.row(*place as usize)));
        }
    }
    keys.permuted(keys.runs.clone(), places)
}

/// Takes what a reader of [`super::plan::Places::tail`] gives.
pub(super) fn tail(plan: &ViewPlan, info: ChunkInfo, reader: ColumnReader) -> Result<Tail, JoinError> {
    let columns = read_all(plan, &plan.places.tail, info.rows, reader)?;
    if let Some(place) = columns.iter().position(|column| column.null_count() > 0) {
        let name = &plan.scan.columns[plan.places.tail[place]].name;
        return Err(wrong(plan, format!("column {name:?} is null in a row")));
    }
    let source = columns[1].as_primitive::<Int32Type>().values().clone();
    let position = columns[2].as_primitive::<Int64Type>().values().clone();
    let lawful = |row: &usize| {
        let source = u32::try_from(source[*row]).ok().and_then(|source| SourceId::new(source).ok());
        source.is_some() && u64::try_from(position[*row]).ok().and_then(|position| Position::new(position).ok()).is_some()
    };
    if let Some(row) = (0..info.rows).find(|row| !lawful(row)) {
        return Err(wrong(plan, format!("row {row} of a chunk has an unlawful source or position")));
    }
    Ok(Tail { arrival: columns[0].as_primitive::<TimestampMicrosecondType>().values().clone(), source, position })
}

/// Columns of a whole chunk, in their canonical types.
fn read_all(plan: &ViewPlan, places: &[usize], rows: usize, reader: ColumnReader) -> Result<Vec<ArrayRef>, JoinError> {
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|error| JoinError::scan(&plan.scan.name, error))?;
    let column = |(i, place): (usize, &usize)| -> Result<ArrayRef, JoinError> {
        let parts = batches.iter().map(|batch| {
            batch.get(i).ok_or_else(|| wrong(plan, format!("a batch has {} columns where {} were asked for", batch.len(), places.len())))
        });
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let whole = match parts.as_slice() {
            [] => arrow::array::new_empty_array(&plan.scan.columns[*place].data_type.to_arrow()),
            [one] => ArrayRef::clone(one),
            more => concat(&more.iter().map(|part| part.as_ref()).collect::<Vec<_>>())?,
        };
        if whole.len() != rows {
            return Err(wrong(plan, format!("a chunk of {rows} rows gave {}", whole.len())));
        }
        canonical(plan, *place, &whole)
    };
    places.iter().enumerate().map(column).collect()
}

/// A column in the type that the scan asked for.
pub(super) fn canonical(plan: &ViewPlan, place: usize, column: &ArrayRef) -> Result<ArrayRef, JoinError> {
    let wanted = &plan.scan.columns[place];
    let conformed = conform(column, wanted.data_type).map_err(|error| wrong(plan, format!("column {:?}: {error}", wanted.name)))?;
    match conformed.misfits {
        Some(_) => Err(wrong(plan, format!("a value of column {:?} does not fit {}", wanted.name, wanted.data_type))),
        None => Ok(conformed.column),
    }
}

pub(super) fn wrong(plan: &ViewPlan, reason: String) -> JoinError {
    JoinError::Rows { view: plan.scan.name.clone(), reason }
}

fn times_of(plan: &ViewPlan, column: &ArrayRef) -> Result<ScalarBuffer<i64>, JoinError> {
    if column.null_count() > 0 {
        return Err(wrong(plan, format!("column {:?} is null in a row", plan.scan.layout.view().event_timestamp)));
    }
    Ok(column.as_primitive::<TimestampMicrosecondType>().values().clone())
}

fn known_times(column: &ArrayRef, event: &ScalarBuffer<i64>) -> ScalarBuffer<i64> {
    let column = column.as_primitive::<TimestampMicrosecondType>();
    if column.null_count() == 0 {
        return column.values().clone();
    }
    column.iter().zip(event).map(|(known, event)| known.unwrap_or(*event)).collect::<Vec<_>>().into()
}
