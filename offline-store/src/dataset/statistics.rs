//! What the values of each column of a dataset are like, and how far those of two datasets lie apart.
//!
//! All of it is a function of the rows and comes out the same on any machine: distinct values, quantiles and cells from sorted 64-bit keys, mean and
//! deviation by Welford's recurrence in the order of the rows. A column at a time is held as keys, 8 bytes a row, or as many as there is room for
//! (`statistics/keys.rs`).
//!
//! | type | key | ordered |
//! | -- | -- | -- |
//! | bool, integers, timestamps | the number as `i64`, sign bit flipped | yes |
//! | floats | the bits as `f64`, those of negatives all flipped, of others the sign; −0 is 0, NaN has no key and is counted apart | yes |
//! | strings, bytes, lists, vectors | the first 64 bits of BLAKE3 of the cell | no |
//!
//! **Cells** cut the line of keys at powers of two: a cell is all keys that share their first `bits` bits. It is cut on wherever more than one in
//! [`FINENESS`] values would fall into it, and empty ones are left out. Two cells are either disjoint or one within the other, so two datasets, whatever their values, always have
//! common cells: the coarser of theirs. Over them the statistic of Kolmogorov and Smirnov is exact at the cells' edges (the whole one is never smaller), and
//! the population stability index is taken with half a row added to each cell of each side, so that an empty one is no infinity.

mod keys;

use anabranch_core::Timestamp;
use anabranch_core::types::{DataType, Scalar};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

use super::cells::{canonical, write_cell};
use super::{DatasetColumn, DatasetError};
use crate::join::{JoinError, JoinedRows};

pub use keys::KeyRoom;
use keys::{Keys, SortedKeys};

/// No cell that can be cut holds more than one in so many of the values.
pub const FINENESS: usize = 32;

/// The quantiles kept, in percent.
pub const QUANTILES: [usize; 5] = [5, 25, 50, 75, 95];

/// How much of a text is kept as the least or greatest, in bytes.
const TEXT_BYTES: usize = 64;

const SIGN: u64 = 1 << 63;

/// What the values of one column are like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnStatistics {
    /// How many rows have a value.
    pub count: u64,
    /// How many have none.
    pub nulls: u64,
    /// How many values are no number, of those that are floats.
    pub nans: u64,
    /// How many different values there are, NaN not among them.
    pub distinct: u64,
    /// The least value: a number, a bool, a time or the beginning of a text; null where the type has no order or there is no value.
    pub min: Json,
    /// The greatest value.
    pub max: Json,
    /// Of numbers; none where one is infinite.
    pub mean: Option<f64>,
    /// The standard deviation of the values as a population.
    pub stddev: Option<f64>,
    /// The values at [`QUANTILES`] of the ordered ones, the lower where two are as near; empty where the type has no order.
    pub quantiles: Vec<Json>,
    /// Where the values lie, in ascending order.
    pub cells: Vec<Cell>,
}

/// How many values have keys that begin alike. In JSON `[first bits as hex digits, how many bits, rows]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The least key in it.
    pub low: u64,
    /// How many bits all keys in it share.
    pub bits: u32,
    /// How many values.
    pub rows: u64,
}

impl Cell {
    /// The greatest key in it.
    pub const fn high(&self) -> u64 {
        self.low | span(self.bits)
    }
}

/// The bits that keys of a cell may differ in.
const fn span(bits: u32) -> u64 {
    if bits >= 64 { 0 } else { u64::MAX >> bits }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = format!("{:016x}", self.low);
        (&digits[..self.bits.div_ceil(4).max(1) as usize], self.bits, self.rows).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (digits, bits, rows) = <(String, u32, u64)>::deserialize(deserializer)?;
        let low = (digits.len() <= 16).then(|| u64::from_str_radix(&format!("{digits:0<16}"), 16).ok()).flatten();
        match low {
            Some(low) if bits <= 64 && low & span(bits) == 0 => Ok(Self { low, bits, rows }),
            _ => Err(D::Error::custom(format!("{digits:?} with {bits} bits is no cell"))),
        }
    }
}

/// The statistics of each column, whose keys are held in memory or as far as there is room.
///
/// # Errors
/// [`DatasetError::Schema`] where a batch is not of these columns; as its values are refused; [`JoinError::Spill`].
pub fn statistics(columns: &[DatasetColumn], rows: &JoinedRows, room: Option<&KeyRoom>) -> crate::Result<Vec<ColumnStatistics>> {
    let column = |(place, column): (usize, &DatasetColumn)| {
        let (mut gathered, mut first_row) = (Gathered::new(room.cloned()), 0);
        // Column by column, because all distinct values of one are held at a time.
        for array in rows.column(place, columns.len()) {
            let array = array?.ok_or(DatasetError::Schema)?;
            gathered.take(&canonical(&column.name, column.data_type, &array, first_row)?, column.data_type)?;
            first_row += array.len() as u64;
        }
        Ok(gathered.finish(column.data_type)?)
    };
    columns.iter().enumerate().map(column).collect()
}

/// The values of one column.
#[derive(Debug)]
struct Gathered {
    keys: Keys,
    nulls: u64,
    nans: u64,
    moments: Moments,
    /// The least and greatest text.
    texts: Option<(String, String)>,
}

impl Gathered {
    fn new(room: Option<KeyRoom>) -> Self {
        Self { keys: Keys::new(room), nulls: 0, nans: 0, moments: Moments::default(), texts: None }
    }

    fn take(&mut self, column: &ArrayRef, data_type: DataType) -> Result<(), JoinError> {
        self.nulls += column.null_count() as u64;
        let DataType::Scalar(scalar) = data_type else { return self.hash(column, data_type) };
        match scalar {
            Scalar::Bool => column.as_boolean().iter().flatten().try_for_each(|x| self.integer(i64::from(x), true)),
            Scalar::I32 => column.as_primitive::<Int32Type>().iter().flatten().try_for_each(|x| self.integer(i64::from(x), true)),
            Scalar::I64 => column.as_primitive::<Int64Type>().iter().flatten().try_for_each(|x| self.integer(x, true)),
            Scalar::Timestamp => column.as_primitive::<TimestampMicrosecondType>().iter().flatten().try_for_each(|x| self.integer(x, false)),
            Scalar::F32 => column.as_primitive::<Float32Type>().iter().flatten().try_for_each(|x| self.float(f64::from(x))),
            Scalar::F64 => column.as_primitive::<Float64Type>().iter().flatten().try_for_each(|x| self.float(x)),
            Scalar::String => {
                column.as_string::<i32>().iter().flatten().for_each(|x| self.text(x));
                self.hash(column, data_type)
            }
            Scalar::Bytes => self.hash(column, data_type),
        }
    }

    fn integer(&mut self, x: i64, number: bool) -> Result<(), JoinError> {
        if number {
            self.moments.add(x as f64);
        }
        self.keys.push(x as u64 ^ SIGN)
    }

    fn float(&mut self, x: f64) -> Result<(), JoinError> {
        if x.is_nan() {
            self.nans += 1;
            return Ok(());
        }
        self.moments.add(x);
        self.keys.push(float_key(x))
    }

    fn text(&mut self, x: &str) {
        match &mut self.texts {
            None => self.texts = Some((x.to_owned(), x.to_owned())),
            Some((least, _)) if x < least.as_str() => x.clone_into(least),
            Some((_, greatest)) if x > greatest.as_str() => x.clone_into(greatest),
            Some(_) => {}
        }
    }

    fn hash(&mut self, column: &ArrayRef, data_type: DataType) -> Result<(), JoinError> {
        let mut bytes = Vec::new();
        for row in (0..column.len()).filter(|row| column.is_valid(*row)) {
            bytes.clear();
            write_cell(column, data_type, row, &mut bytes);
            self.keys.push(u64::from_be_bytes(blake3::hash(&bytes).as_bytes().first_chunk().copied().unwrap_or_default()))?;
        }
        Ok(())
    }

    fn finish(self, data_type: DataType) -> Result<ColumnStatistics, JoinError> {
        let keys = self.keys.sorted()?;
        let count = keys.len();
        let value = |place: usize| Ok::<_, JoinError>(value_of(keys.at(place)?, data_type));
        let (mut min, mut max) = match count {
            0 => (Json::Null, Json::Null),
            _ => (value(0)?, value(count - 1)?),
        };
        let quantiles = match min {
            Json::Null => Vec::new(),
            _ => QUANTILES.iter().map(|percent| value((count - 1) * percent / 100)).collect::<Result<_, _>>()?,
        };
        if let Some((least, greatest)) = self.texts {
            (min, max) = (beginning(&least), beginning(&greatest));
        }
        let (mean, stddev) = self.moments.finish();
        let (distinct, cells) = (keys.distinct(), cells(&keys)?);
        Ok(ColumnStatistics {
            count: count as u64 + self.nans,
            nulls: self.nulls,
            nans: self.nans,
            distinct,
            min,
            max,
            mean,
            stddev,
            quantiles,
            cells,
        })
    }
}

fn float_key(x: f64) -> u64 {
    // Adding 0 makes −0 into 0.
    let bits = (x + 0.0).to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

/// The value of a key; null where keys are hashes.
fn value_of(key: u64, data_type: DataType) -> Json {
    match data_type {
        DataType::Scalar(Scalar::Bool) => Json::from(key != SIGN),
        DataType::Scalar(Scalar::I32 | Scalar::I64) => Json::from((key ^ SIGN) as i64),
        DataType::Scalar(Scalar::Timestamp) => Json::from(Timestamp((key ^ SIGN) as i64).to_string()),
        DataType::Scalar(Scalar::F32 | Scalar::F64) => {
            let x = f64::from_bits(if key & SIGN == 0 { !key } else { key ^ SIGN });
            if x.is_finite() { Json::from(x) } else { Json::from(if x > 0.0 { "inf" } else { "-inf" }) }
        }
        _ => Json::Null,
    }
}

fn beginning(text: &str) -> Json {
    let end = (0..=text.len().min(TEXT_BYTES)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    Json::from(&text[..end])
}

/// Mean and sum of squared deviations by Welford's recurrence.
#[derive(Debug, Default)]
struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, x: f64) {
        self.count += 1;
        let from_old = x - self.mean;
        self.mean += from_old / self.count as f64;
        self.squares += from_old * (x - self.mean);
    }

    fn finish(self) -> (Option<f64>, Option<f64>) {
        let finite = |x: f64| (self.count > 0 && x.is_finite()).then_some(x);
        (finite(self.mean), finite((self.squares / self.count as f64).sqrt()))
    }
}

/// The cells of sorted keys.
fn cells(keys: &SortedKeys) -> Result<Vec<Cell>, JoinError> {
    let most = keys.len() / FINENESS;
    let (mut cells, mut waiting) = (Vec::new(), vec![(0, keys.len())]);
    while let Some((start, end)) = waiting.pop() {
        if start == end {
            continue;
        }
        let (first, last) = (keys.at(start)?, keys.at(end - 1)?);
        let shared = (first ^ last).leading_zeros();
        if shared == 64 || end - start <= most {
            cells.push(Cell { low: first & !span(shared), bits: shared, rows: (end - start) as u64 });
            continue;
        }
        // Both halves hold something: the first and the last differ in the next bit.
        let bit = SIGN >> shared;
        let half = keys.first_from(start..end, last & !(bit - 1))?;
        waiting.extend([(half, end), (start, half)]);
    }
    Ok(cells)
}

/// How far the values of two columns lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distance {
    /// The population stability index.
    pub psi: f64,
    /// The statistic of Kolmogorov and Smirnov at the edges of common cells; none where values have no order.
    pub ks: Option<f64>,
}

/// Compares two columns of one type by their common cells; none where one has no values.
pub fn distance(left: &ColumnStatistics, right: &ColumnStatistics, data_type: DataType) -> Option<Distance> {
    let common = common_cells(&left.cells, &right.cells);
    let total = |side: fn(&(u64, u64)) -> u64| common.iter().map(side).sum::<u64>() as f64;
    let (lefts, rights) = (total(|cell| cell.0), total(|cell| cell.1));
    if lefts == 0.0 || rights == 0.0 {
        return None;
    }
    let added = common.len() as f64 / 2.0;
    let (mut psi, mut ks, mut below) = (0.0_f64, 0.0_f64, (0, 0));
    for (in_left, in_right) in &common {
        let (p, q) = ((*in_left as f64 + 0.5) / (lefts + added), (*in_right as f64 + 0.5) / (rights + added));
        psi += (p - q) * (p / q).ln();
        below = (below.0 + in_left, below.1 + in_right);
        ks = ks.max((below.0 as f64 / lefts - below.1 as f64 / rights).abs());
    }
    let ordered = !matches!(data_type, DataType::Scalar(Scalar::String | Scalar::Bytes) | DataType::List(_) | DataType::Vector(_));
    Some(Distance { psi, ks: ordered.then_some(ks) })
}

/// The rows of both sides in the coarser of their cells, in ascending order.
fn common_cells(left: &[Cell], right: &[Cell]) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u32, u64, u64)> = left.iter().map(|cell| (cell.low, cell.bits, cell.rows, 0)).collect();
    all.extend(right.iter().map(|cell| (cell.low, cell.bits, 0, cell.rows)));
    // A cell stands before those within it.
    all.sort_unstable();
    let mut common: Vec<(u64, u64)> = Vec::new();
    let mut last: Option<u64> = None;
    for (low, bits, in_left, in_right) in all {
        match common.last_mut() {
            Some(cell) if last.is_some_and(|high| low <= high) => *cell = (cell.0 + in_left, cell.1 + in_right),
            _ => {
                last = Some(low | span(bits));
                common.push((in_left, in_right));
            }
        }
    }
    common
}
