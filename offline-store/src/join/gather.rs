//! The output: the spine's batches with the matched features beside them.
//!
//! A batch of the spine is one batch of the output, unless its text, bytes or lists together outgrow 32-bit offsets; then it is cut in two, and again.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::compute::{concat, interleave};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use super::plan::JoinPlan;
use super::view::Matches;
use super::{JoinError, Joined};

/// The place of a row that matched nothing.
pub(super) const NULL: (u32, u32) = (u32::MAX, 0);

/// Arrow's `interleave` spells out the place of every item of every list, 16 bytes each, so long columns of lists are made in parts of so many rows.
const LIST_ROWS: usize = 4_096;

/// A feature's values: one null, then a column of each block.
struct Source {
    columns: Vec<ArrayRef>,
    /// Which view's matches say where they are.
    view: usize,
}

/// Puts the output together; `matches` are the views' in their order.
pub(super) fn gather(plan: &JoinPlan, matches: Vec<Matches>) -> Result<Joined, JoinError> {
    let mut sources = Vec::new();
    for (view, (plan, matched)) in plan.views.iter().zip(&matches).enumerate() {
        for (place, feature) in plan.features().enumerate() {
            let null = new_null_array(&feature.data_type.to_arrow(), 1);
            let columns = std::iter::once(null).chain(matched.blocks.iter().map(|block| Arc::clone(&block[place]))).collect();
            sources.push(Source { columns, view });
        }
    }
    let mut joined = Joined { schema: Arc::clone(&plan.schema), batches: Vec::with_capacity(plan.spine.batches().len()) };
    let mut first_row = 0;
    for batch in plan.spine.batches() {
        extend(&mut joined, batch, first_row, &sources, &matches)?;
        first_row += batch.num_rows();
    }
    Ok(joined)
}

fn extend(joined: &mut Joined, batch: &RecordBatch, first_row: usize, sources: &[Source], matches: &[Matches]) -> Result<(), JoinError> {
    let rows = batch.num_rows();
    match features(first_row, rows, sources, matches) {
        Ok(features) => {
            let columns = batch.columns().iter().cloned().chain(features).collect();
            joined.batches.push(RecordBatch::try_new(Arc::clone(&joined.schema), columns)?);
            Ok(())
        }
        Err(ArrowError::OffsetOverflowError(_)) if rows > 1 => {
            let half = rows / 2;
            extend(joined, &batch.slice(0, half), first_row, sources, matches)?;
            extend(joined, &batch.slice(half, rows - half), first_row + half, sources, matches)
        }
        Err(error) => Err(error.into()),
    }
}

fn features(first_row: usize, rows: usize, sources: &[Source], matches: &[Matches]) -> Result<Vec<ArrayRef>, ArrowError> {
    let place = |at: &(u32, u32)| if *at == NULL { (0, 0) } else { (at.0 as usize + 1, at.1 as usize) };
    let mut places: Vec<(usize, usize)> = Vec::new();
    let mut view = None;
    let mut features = Vec::with_capacity(sources.len());
    for source in sources {
        if view != Some(source.view) {
            view = Some(source.view);
            places.clear();
            places.extend(matches[source.view].at[first_row..first_row + rows].iter().map(place));
        }
        let columns: Vec<&dyn Array> = source.columns.iter().map(AsRef::as_ref).collect();
        features.push(pick(&columns, &places)?);
    }
    Ok(features)
}

fn pick(columns: &[&dyn Array], places: &[(usize, usize)]) -> Result<ArrayRef, ArrowError> {
    if !matches!(columns[0].data_type(), DataType::List(_)) || places.len() <= LIST_ROWS {
        return interleave(columns, places);
    }
    let parts = places.chunks(LIST_ROWS).map(|places| interleave(columns, places)).collect::<Result<Vec<_>, _>>()?;
    let items = parts.iter().map(|part| part.as_list::<i32>().values().len()).sum();
    if i32::try_from(items).is_err() {
        return Err(ArrowError::OffsetOverflowError(items));
    }
    concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())
}
