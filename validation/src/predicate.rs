//! One rule, compiled for the type of its column.
//!
//! A predicate looks at a whole column at once and marks the rows that break it. Nulls break only `not_null`. Numbers are compared in the column's own
//! type, texts and bytes byte by byte. In a set, NaN is one value and −0 is 0; a NaN lies in no range.

use anabranch_core::definition::Rule;
use anabranch_core::{DataType, Scalar, Value};
use arrow::array::{Array, ArrowPrimitiveType, AsArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use regex::Regex;

/// How much of a value or a set a reason shows.
const SHOWN_CHARS: usize = 80;

/// A rule for a column of a type.
#[derive(Debug)]
pub(crate) struct Predicate {
    test: Test,
    demand: String,
}

/// Why a rule does not compile.
#[derive(Debug)]
pub(crate) enum Unfit {
    Reason(String),
    Pattern(regex::Error),
}

#[derive(Debug)]
enum Test {
    NotNull,
    I32Range(i32, i32),
    /// Integers and timestamps.
    I64Range(i64, i64),
    F32Range(f32, f32),
    F64Range(f64, f64),
    TextRange(Option<String>, Option<String>),
    /// Whether false is allowed, whether true is.
    BoolSet([bool; 2]),
    /// Sorted, as all the sets below.
    I32Set(Vec<i32>),
    I64Set(Vec<i64>),
    F32Set(Vec<u32>),
    F64Set(Vec<u64>),
    BytesSet(Vec<Vec<u8>>),
    Pattern(Regex),
}

impl Predicate {
    /// Compiles a rule for a column of a type.
    pub(crate) fn compile(rule: &Rule, data_type: DataType) -> Result<Self, Unfit> {
        let value = |json| Value::from_json(data_type, json).map_err(|error| Unfit::Reason(error.to_string()));
        match rule {
            Rule::NotNull {} => Ok(Self { test: Test::NotNull, demand: String::new() }),
            Rule::Range { min, max } => {
                let (min, max) = (min.as_ref().map(value).transpose()?, max.as_ref().map(value).transpose()?);
                let demand = match (&min, &max) {
                    (Some(min), Some(max)) => format!("between {} and {}", shown(min), shown(max)),
                    (Some(min), None) => format!("at least {}", shown(min)),
                    (None, Some(max)) => format!("at most {}", shown(max)),
                    (None, None) => return Err(Unfit::Reason("a range needs min, max or both".to_owned())),
                };
                Ok(Self { test: range(data_type, min, max)?, demand })
            }
            Rule::OneOf { values } => {
                let values = values.iter().map(value).collect::<Result<Vec<_>, _>>()?;
                let demand = cut(values.iter().map(shown).collect::<Vec<_>>().join(", "));
                Ok(Self { test: set(data_type, values)?, demand })
            }
            Rule::Pattern { regex } => {
                if data_type != DataType::Scalar(Scalar::String) {
                    return Err(Unfit::Reason(format!("a pattern needs a string column, not {data_type}")));
                }
                Ok(Self { test: Test::Pattern(whole_text(regex).map_err(Unfit::Pattern)?), demand: cut(regex.clone()) })
            }
        }
    }

    /// True for each row that breaks the rule; `None` where none does. The column is in canonical form for the type compiled for.
    pub(crate) fn broken(&self, column: &dyn Array) -> Option<BooleanBuffer> {
        let rows = column.len();
        let bad = match &self.test {
            Test::NotNull => return column.nulls().filter(|nulls| nulls.null_count() > 0).map(|nulls| !nulls.inner()),
            Test::I32Range(min, max) => outside::<Int32Type>(column, *min, *max),
            Test::I64Range(min, max) if is_timestamp(column) => outside::<TimestampMicrosecondType>(column, *min, *max),
            Test::I64Range(min, max) => outside::<Int64Type>(column, *min, *max),
            Test::F32Range(min, max) => outside::<Float32Type>(column, *min, *max),
            Test::F64Range(min, max) => outside::<Float64Type>(column, *min, *max),
            Test::TextRange(min, max) => {
                let texts = column.as_string::<i32>();
                let below = |text: &str| min.as_deref().is_some_and(|min| text < min);
                let above = |text: &str| max.as_deref().is_some_and(|max| text > max);
                BooleanBuffer::collect_bool(rows, |row| texts.is_valid(row) && (below(texts.value(row)) || above(texts.value(row))))
            }
            Test::BoolSet(allowed) => {
                let values = column.as_boolean();
                BooleanBuffer::collect_bool(rows, |row| !allowed[usize::from(values.value(row))])
            }
            Test::I32Set(set) => {
                let values = column.as_primitive::<Int32Type>().values();
                BooleanBuffer::collect_bool(rows, |row| set.binary_search(&values[row]).is_err())
            }
            Test::I64Set(set) => {
                let values = match is_timestamp(column) {
                    true => column.as_primitive::<TimestampMicrosecondType>().values(),
                    false => column.as_primitive::<Int64Type>().values(),
                };
                BooleanBuffer::collect_bool(rows, |row| set.binary_search(&values[row]).is_err())
            }
            Test::F32Set(set) => {
                let values = column.as_primitive::<Float32Type>().values();
                BooleanBuffer::collect_bool(rows, |row| set.binary_search(&f32_identity(values[row])).is_err())
            }
            Test::F64Set(set) => {
                let values = column.as_primitive::<Float64Type>().values();
                BooleanBuffer::collect_bool(rows, |row| set.binary_search(&f64_identity(values[row])).is_err())
            }
            Test::BytesSet(set) => bytes_outside(column, set),
            Test::Pattern(regex) => {
                let texts = column.as_string::<i32>();
                BooleanBuffer::collect_bool(rows, |row| texts.is_valid(row) && !regex.is_match(texts.value(row)))
            }
        };
        let bad = match column.nulls() {
            Some(nulls) => &bad & nulls.inner(),
            None => bad,
        };
        (bad.count_set_bits() > 0).then_some(bad)
    }

    /// Why a value that breaks the rule does.
    pub(crate) fn reason(&self, value: &Value) -> String {
        match &self.test {
            Test::NotNull => "it is null".to_owned(),
            Test::Pattern(_) => format!("{} does not match {}", shown(value), self.demand),
            test if test.is_set() => format!("{} is not one of {}", shown(value), self.demand),
            _ => format!("{} is not {}", shown(value), self.demand),
        }
    }
}

impl Test {
    const fn is_set(&self) -> bool {
        matches!(self, Self::BoolSet(_) | Self::I32Set(_) | Self::I64Set(_) | Self::F32Set(_) | Self::F64Set(_) | Self::BytesSet(_))
    }
}

/// A value as a reason shows it.
fn shown(value: &Value) -> String {
    cut(value.to_json().to_string())
}

/// A regular expression that matches where the given one matches the whole text.
fn whole_text(pattern: &str) -> Result<Regex, regex::Error> {
    // Alone first: "a)|(b" is wrong, though it would be right within a group.
    Regex::new(pattern)?;
    // A pattern in verbose mode may end in a comment, which a line break ends; elsewhere a line break would be matched.
    Regex::new(&format!(r"\A(?:{pattern})\z")).or_else(|_| Regex::new(&format!("\\A(?:{pattern}\n)\\z")))
}

fn range(data_type: DataType, min: Option<Value>, max: Option<Value>) -> Result<Test, Unfit> {
    Ok(match data_type {
        DataType::Scalar(Scalar::I32) => {
            let bound = |value, or| if let Some(Value::I32(i)) = value { i } else { or };
            Test::I32Range(bound(min, i32::MIN), bound(max, i32::MAX))
        }
        DataType::Scalar(Scalar::I64 | Scalar::Timestamp) => {
            let bound = |value, or| match value {
                Some(Value::I64(i)) => i,
                Some(Value::Timestamp(t)) => t.micros(),
                _ => or,
            };
            Test::I64Range(bound(min, i64::MIN), bound(max, i64::MAX))
        }
        DataType::Scalar(Scalar::F32) => {
            let bound = |value, or| if let Some(Value::F32(x)) = value { x } else { or };
            Test::F32Range(bound(min, f32::NEG_INFINITY), bound(max, f32::INFINITY))
        }
        DataType::Scalar(Scalar::F64) => {
            let bound = |value, or| if let Some(Value::F64(x)) = value { x } else { or };
            Test::F64Range(bound(min, f64::NEG_INFINITY), bound(max, f64::INFINITY))
        }
        DataType::Scalar(Scalar::String) => {
            let bound = |value| if let Some(Value::String(s)) = value { Some(s) } else { None };
            Test::TextRange(bound(min), bound(max))
        }
        _ => return Err(Unfit::Reason(format!("{data_type} has no range"))),
    })
}

fn set(data_type: DataType, values: Vec<Value>) -> Result<Test, Unfit> {
    macro_rules! sorted {
        ($($variant:ident($x:ident) => $identity:expr),+) => {{
            let mut set: Vec<_> = values.into_iter().filter_map(|value| match value { $(Value::$variant($x) => Some($identity),)+ _ => None }).collect();
            set.sort_unstable();
            set
        }};
    }
    Ok(match data_type {
        DataType::Scalar(Scalar::Bool) => Test::BoolSet([values.contains(&Value::Bool(false)), values.contains(&Value::Bool(true))]),
        DataType::Scalar(Scalar::I32) => Test::I32Set(sorted!(I32(i) => i)),
        DataType::Scalar(Scalar::I64 | Scalar::Timestamp) => Test::I64Set(sorted!(I64(i) => i, Timestamp(t) => t.micros())),
        DataType::Scalar(Scalar::F32) => Test::F32Set(sorted!(F32(x) => f32_identity(x))),
        DataType::Scalar(Scalar::F64) => Test::F64Set(sorted!(F64(x) => f64_identity(x))),
        DataType::Scalar(Scalar::String | Scalar::Bytes) => Test::BytesSet(sorted!(String(s) => s.into_bytes(), Bytes(b) => b)),
        _ => return Err(Unfit::Reason(format!("{data_type} is not a scalar"))),
    })
}

/// Marks values that are not within both bounds; what cannot be compared, a NaN, is not.
fn outside<T: ArrowPrimitiveType>(column: &dyn Array, min: T::Native, max: T::Native) -> BooleanBuffer
where
    T::Native: PartialOrd,
{
    let values = column.as_primitive::<T>().values();
    BooleanBuffer::collect_bool(values.len(), |row| !((values[row] >= min) & (values[row] <= max)))
}

fn bytes_outside(column: &dyn Array, set: &[Vec<u8>]) -> BooleanBuffer {
    let missing = |bytes: &[u8]| set.binary_search_by(|known| known.as_slice().cmp(bytes)).is_err();
    if let Some(texts) = column.as_string_opt::<i32>() {
        return BooleanBuffer::collect_bool(texts.len(), |row| texts.is_valid(row) && missing(texts.value(row).as_bytes()));
    }
    let bytes = column.as_binary::<i32>();
    BooleanBuffer::collect_bool(bytes.len(), |row| bytes.is_valid(row) && missing(bytes.value(row)))
}

fn is_timestamp(column: &dyn Array) -> bool {
    matches!(column.data_type(), arrow::datatypes::DataType::Timestamp(..))
}

fn f32_identity(x: f32) -> u32 {
    if x.is_nan() { f32::NAN.to_bits() } else { (x + 0.0).to_bits() }
}

fn f64_identity(x: f64) -> u64 {
    if x.is_nan() { f64::NAN.to_bits() } else { (x + 0.0).to_bits() }
}

fn cut(text: String) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
