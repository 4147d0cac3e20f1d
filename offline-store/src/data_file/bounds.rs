//! What Iceberg wants to know of a file's columns, from Parquet's own statistics.

use std::collections::HashMap;

use anabranch_core::{DataType, Scalar};
use iceberg::spec::Datum;
use parquet::data_type::{AsBytes, ByteArray};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;

use crate::schema::TableField;

/// Sizes, counts and bounds by field id.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    pub(super) sizes: HashMap<i32, u64>,
    pub(super) values: HashMap<i32, u64>,
    pub(super) nulls: HashMap<i32, u64>,
    pub(super) lower: HashMap<i32, Datum>,
    pub(super) upper: HashMap<i32, Datum>,
}

impl Metrics {
    /// Of a file that was written with these fields, one Parquet column for each.
    pub(super) fn of(fields: &[TableField], file: &ParquetMetaData) -> Self {
        let mut metrics = Self::default();
        for (place, field) in fields.iter().enumerate() {
            let id = field.element_id.unwrap_or(field.id);
            let mut bounds = Bounds::default();
            for group in file.row_groups() {
                let Some(column) = group.columns().get(place) else { continue };
                *metrics.sizes.entry(id).or_default() += column.compressed_size() as u64;
                *metrics.values.entry(id).or_default() += column.num_values() as u64;
                let statistics = column.statistics();
                *metrics.nulls.entry(id).or_default() += statistics.and_then(Statistics::null_count_opt).unwrap_or_default();
                if let DataType::Scalar(scalar) = field.data_type {
                    bounds.add(scalar, statistics, column.num_values() as u64);
                }
            }
            let (lower, upper) = bounds.finish();
            metrics.lower.extend(lower.map(|datum| (id, datum)));
            metrics.upper.extend(upper.map(|datum| (id, datum)));
        }
        metrics
    }
}

/// The bounds over row groups; none as soon as one group cannot tell.
#[derive(Default)]
struct Bounds {
    lower: Option<Datum>,
    upper: Option<Datum>,
    unknown: bool,
}

impl Bounds {
    fn add(&mut self, scalar: Scalar, statistics: Option<&Statistics>, values: u64) {
        if statistics.and_then(Statistics::null_count_opt) == Some(values) {
            return;
        }
        let Some((low, high)) = statistics.and_then(|statistics| bounds(scalar, statistics)) else {
            self.unknown = true;
            return;
        };
        if self.lower.as_ref().is_none_or(|lower| low < *lower) {
            self.lower = Some(low);
        }
        if self.upper.as_ref().is_none_or(|upper| high > *upper) {
            self.upper = Some(high);
        }
    }

    fn finish(self) -> (Option<Datum>, Option<Datum>) {
        if self.unknown { (None, None) } else { (self.lower, self.upper) }
    }
}

fn bounds(scalar: Scalar, statistics: &Statistics) -> Option<(Datum, Datum)> {
    match (scalar, statistics) {
        (Scalar::Bool, Statistics::Boolean(s)) => Some((Datum::bool(*s.min_opt()?), Datum::bool(*s.max_opt()?))),
        (Scalar::I32, Statistics::Int32(s)) => Some((Datum::int(*s.min_opt()?), Datum::int(*s.max_opt()?))),
        (Scalar::I64, Statistics::Int64(s)) => Some((Datum::long(*s.min_opt()?), Datum::long(*s.max_opt()?))),
        (Scalar::Timestamp, Statistics::Int64(s)) => Some((Datum::timestamptz_micros(*s.min_opt()?), Datum::timestamptz_micros(*s.max_opt()?))),
        (Scalar::F32, Statistics::Float(s)) => Some((Datum::float(*s.min_opt()?), Datum::float(*s.max_opt()?))),
        (Scalar::F64, Statistics::Double(s)) => Some((Datum::double(*s.min_opt()?), Datum::double(*s.max_opt()?))),
        // A cut text is a bound below, but none above.
        (Scalar::String, Statistics::ByteArray(s)) if s.min_is_exact() && s.max_is_exact() => {
            let text = |bytes: &ByteArray| std::str::from_utf8(bytes.as_bytes()).ok().map(Datum::string);
            Some((text(s.min_opt()?)?, text(s.max_opt()?)?))
        }
        _ => None,
    }
}
