//! The second workload: values as they occur.
//!
//! Entities follow Zipf's law, in the views and in the spine; which entity has which rank is shuffled. A row becomes known at a whole second, in batches as
//! a stream processor stamps them, and the files are in the order of that: arrival order. It was true at a whole second before: mostly some seconds,
//! now and then hours or days. Some rows correct an earlier one: they speak of the same entity and the same event time, are known later and hold other
//! values. So rows tie in event time, in known time and in both, and the spine's times, whole seconds too, meet them exactly.
//!
//! Features take turns at three kinds: counts (i64, geometric), amounts (f64, log-normal, rounded to cents) and ratios (f32, of two small counts). Cells
//! are null independently. [`Parameters`] are printed with the report.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, SchemaRef};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use super::workload::{SECOND_US, Slice};

/// What the generator draws from.
#[derive(Serialize, Clone, Copy, Debug)]
pub(super) struct Parameters {
    /// The exponent of Zipf's law.
    zipf_exponent: f64,
    /// The part of the cells that are null.
    null_share: f64,
    /// The mean seconds from a row's event time to its known time, exponential.
    delay_mean_s: f64,
    /// The part of the rows that are known up to an hour late, and up to three days late; uniform.
    hour_late_share: f64,
    days_late_share: f64,
    /// The part of the rows that correct an earlier row of the same 131,072.
    correction_share: f64,
    /// The mean of a count.
    count_mean: f64,
    /// The median of an amount, and the standard deviation of its logarithm.
    amount_median: f64,
    amount_sigma: f64,
    /// The largest denominator of a ratio.
    ratio_of: u32,
}

pub(super) const PARAMETERS: Parameters = Parameters {
    zipf_exponent: 1.0,
    null_share: 0.05,
    delay_mean_s: 30.0,
    hour_late_share: 0.05,
    days_late_share: 0.01,
    correction_share: 0.02,
    count_mean: 12.0,
    amount_median: 30.0,
    amount_sigma: 1.2,
    ratio_of: 50,
};

/// The type of a feature by its number.
pub(super) const fn data_type(feature: usize) -> DataType {
    match feature % 3 {
        0 => DataType::Int64,
        1 => DataType::Float64,
        _ => DataType::Float32,
    }
}

/// Makes a view's rows, in the order of their known times. `workload` seeds which entity is how frequent.
pub(super) fn view(schema: SchemaRef, entities: usize, workload: u64, seed: u64) -> impl FnMut(&Slice) -> anyhow::Result<RecordBatch> {
    let zipf = Zipf::new(entities, workload);
    let mut rng = StdRng::seed_from_u64(seed);
    move |slice| {
        let mut known: Vec<i64> = (0..slice.rows).map(|_| second(rng.random_range(slice.from_us..slice.to_us))).collect();
        known.sort_unstable();
        let mut keys: Vec<i64> = (0..slice.rows).map(|_| zipf.entity(&mut rng)).collect();
        let mut events: Vec<i64> = known.iter().map(|known| second(known - delay_us(&mut rng))).collect();
        for row in 1..slice.rows {
            if rng.random_bool(PARAMETERS.correction_share) {
                let earlier = rng.random_range(0..row);
                (keys[row], events[row]) = (keys[earlier], events[earlier]);
            }
        }
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(keys)), at(events), at(known)];
        for feature in 0..schema.fields().len() - columns.len() {
            columns.push(values(&mut rng, feature, slice.rows));
        }
        Ok(RecordBatch::try_new(Arc::clone(&schema), columns)?)
    }
}

/// Makes the spine's rows, in no order.
pub(super) fn spine(schema: SchemaRef, entities: usize, seed: u64) -> impl FnMut(&Slice) -> anyhow::Result<RecordBatch> {
    let zipf = Zipf::new(entities, seed);
    let mut rng = StdRng::seed_from_u64(seed);
    move |slice| {
        let rows = Int64Array::from_iter_values((slice.first..slice.first + slice.rows).map(|row| row as i64));
        let keys = Int64Array::from_iter_values((0..slice.rows).map(|_| zipf.entity(&mut rng)));
        let times = (0..slice.rows).map(|_| second(rng.random_range(slice.from_us..slice.to_us))).collect();
        Ok(RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(rows), Arc::new(keys), at(times)])?)
    }
}

/// Entities by Zipf's law.
struct Zipf {
    /// For each rank the part of all draws that fall on it or a lower one.
    up_to: Vec<f64>,
    entity: Vec<i64>,
}

impl Zipf {
    fn new(entities: usize, seed: u64) -> Self {
        let mut up_to = Vec::with_capacity(entities);
        let mut sum = 0.0;
        for rank in 1..=entities {
            sum += (rank as f64).powf(-PARAMETERS.zipf_exponent);
            up_to.push(sum);
        }
        up_to.iter_mut().for_each(|part| *part /= sum);
        let mut entity: Vec<i64> = (0..entities as i64).collect();
        entity.shuffle(&mut StdRng::seed_from_u64(seed));
        Self { up_to, entity }
    }

    fn entity(&self, rng: &mut StdRng) -> i64 {
        let drawn = rng.random::<f64>();
        self.entity[self.up_to.partition_point(|part| *part < drawn).min(self.entity.len() - 1)]
    }
}

const fn second(us: i64) -> i64 {
    us - us.rem_euclid(SECOND_US)
}

fn delay_us(rng: &mut StdRng) -> i64 {
    let kind = rng.random::<f64>();
    let seconds = if kind < PARAMETERS.days_late_share {
        rng.random_range(0.0..3.0 * 86_400.0)
    } else if kind < PARAMETERS.days_late_share + PARAMETERS.hour_late_share {
        rng.random_range(0.0..3_600.0)
    } else {
        exponential(rng) * PARAMETERS.delay_mean_s
    };
    (seconds * SECOND_US as f64) as i64
}

fn exponential(rng: &mut StdRng) -> f64 {
    -(1.0 - rng.random::<f64>()).ln()
}

/// Box and Muller's, one of the two.
fn normal(rng: &mut StdRng) -> f64 {
    (2.0 * exponential(rng)).sqrt() * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

fn values(rng: &mut StdRng, feature: usize, rows: usize) -> ArrayRef {
    let Parameters { count_mean, amount_median, amount_sigma, ratio_of, .. } = PARAMETERS;
    match feature % 3 {
        0 => Arc::new((0..rows).map(|_| cell(rng, |rng| (exponential(rng) * count_mean) as i64)).collect::<Int64Array>()),
        1 => {
            let amount = |rng: &mut StdRng| ((normal(rng) * amount_sigma).exp() * amount_median * 100.0).round() / 100.0;
            Arc::new((0..rows).map(|_| cell(rng, amount)).collect::<Float64Array>())
        }
        _ => {
            let ratio = |rng: &mut StdRng| {
                let of = rng.random_range(1..=ratio_of);
                rng.random_range(0..=of) as f32 / of as f32
            };
            Arc::new((0..rows).map(|_| cell(rng, ratio)).collect::<Float32Array>())
        }
    }
}

fn cell<T>(rng: &mut StdRng, value: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
    (!rng.random_bool(PARAMETERS.null_share)).then(|| value(rng))
}

fn at(times: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
}
