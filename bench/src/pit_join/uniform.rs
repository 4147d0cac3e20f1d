//! The first workload: uniform entities, times to the microsecond, random f32, which no codec makes small.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::workload::Slice;

/// Makes a view's rows, in the order of their times.
pub(super) fn view(schema: SchemaRef, entities: usize, seed: u64) -> impl FnMut(&Slice) -> anyhow::Result<RecordBatch> {
    let mut rng = StdRng::seed_from_u64(seed);
    move |slice| {
        let mut times = times(&mut rng, slice);
        times.sort_unstable();
        let mut columns: Vec<ArrayRef> = vec![keys(&mut rng, slice, entities), at(times)];
        while columns.len() < schema.fields().len() {
            columns.push(Arc::new(Float32Array::from_iter_values((0..slice.rows).map(|_| rng.random::<f32>()))));
        }
        Ok(RecordBatch::try_new(Arc::clone(&schema), columns)?)
    }
}

/// Makes the spine's rows, in no order.
pub(super) fn spine(schema: SchemaRef, entities: usize, seed: u64) -> impl FnMut(&Slice) -> anyhow::Result<RecordBatch> {
    let mut rng = StdRng::seed_from_u64(seed);
    move |slice| {
        let rows = Int64Array::from_iter_values((slice.first..slice.first + slice.rows).map(|row| row as i64));
        let columns: Vec<ArrayRef> = vec![Arc::new(rows), keys(&mut rng, slice, entities), at(times(&mut rng, slice))];
        Ok(RecordBatch::try_new(Arc::clone(&schema), columns)?)
    }
}

fn times(rng: &mut StdRng, slice: &Slice) -> Vec<i64> {
    (0..slice.rows).map(|_| rng.random_range(slice.from_us..slice.to_us)).collect()
}

fn keys(rng: &mut StdRng, slice: &Slice, entities: usize) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values((0..slice.rows).map(|_| rng.random_range(0..entities as i64))))
}

fn at(times: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
}
