//! Arrow columns of our types: reading cells, building columns, bringing foreign columns into canonical form and encoding keys.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, BooleanBuilder, FixedSizeListBuilder, Float32Builder, Float64Builder, Int32Builder,
    Int64Array, Int64Builder, StringBuilder, TimestampMicrosecondBuilder, make_builder,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType as ArrowType, Field, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};

use crate::key::KeyWriter;
use crate::types::{DataType, Scalar, UTC};
use crate::{Error, Timestamp, Value};

/// The value in a row of a column that is in canonical form for `data_type`.
///
/// # Errors
/// [`Error::Type`] where the column is not of that type.
pub fn value_at(column: &dyn Array, data_type: DataType, row: usize) -> Result<Value, Error> {
    if column.data_type() != &data_type.to_arrow() {
        return Err(Error::Type { expected: data_type.to_string(), found: column.data_type().to_string() });
    }
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    Ok(match data_type {
        DataType::Scalar(scalar) => scalar_at(column, scalar, row),
        DataType::List(scalar) => {
            let items = column.as_list::<i32>().value(row);
            Value::List((0..items.len()).map(|i| scalar_at(&items, scalar, i)).collect())
        }
        DataType::Vector(_) => Value::Vector(column.as_fixed_size_list().value(row).as_primitive::<Float32Type>().values().to_vec()),
    })
}

fn scalar_at(column: &dyn Array, scalar: Scalar, row: usize) -> Value {
    match scalar {
        Scalar::Bool => Value::Bool(column.as_boolean().value(row)),
        Scalar::I32 => Value::I32(column.as_primitive::<Int32Type>().value(row)),
        Scalar::I64 => Value::I64(column.as_primitive::<Int64Type>().value(row)),
        Scalar::F32 => Value::F32(column.as_primitive::<Float32Type>().value(row)),
        Scalar::F64 => Value::F64(column.as_primitive::<Float64Type>().value(row)),
        Scalar::String => Value::String(column.as_string::<i32>().value(row).to_owned()),
        Scalar::Bytes => Value::Bytes(column.as_binary::<i32>().value(row).to_vec()),
        Scalar::Timestamp => Value::Timestamp(Timestamp(column.as_primitive::<TimestampMicrosecondType>().value(row))),
    }
}

/// Builds a column of `data_type` from values.
///
/// # Errors
/// [`Error::Type`] at the first value of another type.
pub fn column_of<'a>(data_type: DataType, values: impl IntoIterator<Item = &'a Value>) -> Result<ArrayRef, Error> {
    match data_type {
        DataType::Scalar(scalar) => scalar_column(scalar, values),
        DataType::List(scalar) => list_column(scalar, values),
        DataType::Vector(n) => vector_column(n, values),
    }
}

macro_rules! collect {
    ($builder:ty, $variant:ident, $scalar:expr, $values:expr, $value:ident => $append:expr) => {{
        let mut builder = <$builder>::new();
        for value in $values {
            match value {
                Value::Null => builder.append_null(),
                Value::$variant($value) => builder.append_value($append),
                other => return Err(unlike($scalar.name(), other)),
            }
        }
        Ok(Arc::new(builder.finish()) as ArrayRef)
    }};
}

fn scalar_column<'a>(scalar: Scalar, values: impl IntoIterator<Item = &'a Value>) -> Result<ArrayRef, Error> {
    match scalar {
        Scalar::Bool => collect!(BooleanBuilder, Bool, scalar, values, x => *x),
        Scalar::I32 => collect!(Int32Builder, I32, scalar, values, x => *x),
        Scalar::I64 => collect!(Int64Builder, I64, scalar, values, x => *x),
        Scalar::F32 => collect!(Float32Builder, F32, scalar, values, x => *x),
        Scalar::F64 => collect!(Float64Builder, F64, scalar, values, x => *x),
        Scalar::String => collect!(StringBuilder, String, scalar, values, x => x),
        Scalar::Bytes => collect!(BinaryBuilder, Bytes, scalar, values, x => x),
        Scalar::Timestamp => {
            let built: Result<ArrayRef, Error> = collect!(TimestampMicrosecondBuilder, Timestamp, scalar, values, x => x.0);
            Ok(Arc::new(built?.as_primitive::<TimestampMicrosecondType>().clone().with_timezone(UTC)))
        }
    }
}

fn list_column<'a>(scalar: Scalar, values: impl IntoIterator<Item = &'a Value>) -> Result<ArrayRef, Error> {
    let mut offsets = vec![0_i32];
    let mut items = Vec::new();
    let mut valid = Vec::new();
    for value in values {
        match value {
            Value::Null => valid.push(false),
            Value::List(list) => {
                items.extend(list.iter());
                valid.push(true);
            }
            other => return Err(unlike("list", other)),
        }
        offsets.push(i32::try_from(items.len()).map_err(|_| unlike("lists of fewer than 2^31 items", value))?);
    }
    if let Some(null) = items.iter().find(|item| item.is_null()) {
        return Err(unlike("a list without nulls", null));
    }
    let items = scalar_column(scalar, items)?;
    let field = Arc::new(Field::new("element", scalar.to_arrow(), false));
    let offsets = arrow::buffer::OffsetBuffer::new(offsets.into());
    let list = arrow::array::ListArray::try_new(field, offsets, items, Some(NullBuffer::from(valid)));
    Ok(Arc::new(list.map_err(|error| Error::Malformed { what: "list column", reason: error.to_string() })?))
}

fn vector_column<'a>(n: u32, values: impl IntoIterator<Item = &'a Value>) -> Result<ArrayRef, Error> {
    let field = Arc::new(Field::new("element", ArrowType::Float32, false));
    let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), i32::try_from(n).unwrap_or(i32::MAX)).with_field(field);
    for value in values {
        match value {
            Value::Null => {
                builder.values().append_value_n(0.0, n as usize);
                builder.append(false);
            }
            Value::Vector(items) if items.len() == n as usize => {
                builder.values().append_slice(items);
                builder.append(true);
            }
            other => return Err(unlike(&format!("vector<{n}>"), other)),
        }
    }
    Ok(Arc::new(builder.finish()))
}

/// A column of nulls.
pub fn null_column(data_type: DataType, rows: usize) -> ArrayRef {
    arrow::array::new_null_array(&data_type.to_arrow(), rows)
}

/// An empty column.
pub fn empty_column(data_type: DataType) -> ArrayRef {
    make_builder(&data_type.to_arrow(), 0).finish()
}

/// A column in canonical form, and which of its rows did not fit.
#[derive(Debug, Clone)]
pub struct Conformed {
    /// The column; null where the row did not fit.
    pub column: ArrayRef,
    /// True for each row whose value does not fit the type; `None` where all do.
    pub misfits: Option<BooleanBuffer>,
}

/// Brings a foreign column into the canonical form of `data_type`.
///
/// Integers of any width become integers where they fit, floats become integers where they are whole, integers become floats where that is exact,
/// strings and bytes of any layout become ours, timestamps of any unit become UTC microseconds (without a zone they are taken as UTC; finer units are
/// floored), dictionaries are unpacked. Nothing is parsed from text.
///
/// # Errors
/// [`Error::Type`] where no row could ever fit, because the types are unlike.
pub fn conform(column: &ArrayRef, data_type: DataType) -> Result<Conformed, Error> {
    let target = data_type.to_arrow();
    if column.data_type() == &target {
        return Ok(Conformed { column: Arc::clone(column), misfits: None });
    }
    let unlike = || Error::Type { expected: data_type.to_string(), found: column.data_type().to_string() };
    if let ArrowType::Dictionary(_, values) = column.data_type() {
        return conform(&cast(column, values).ok_or_else(unlike)?, data_type);
    }
    if column.data_type() == &ArrowType::Null {
        return Ok(Conformed { column: null_column(data_type, column.len()), misfits: None });
    }
    if !is_like(column.data_type(), data_type) {
        return Err(unlike());
    }
    let result = match column.data_type() {
        ArrowType::Timestamp(unit, _) => Some(microseconds(column, *unit)),
        ArrowType::Date32 => cast(column, &ArrowType::Timestamp(TimeUnit::Second, None)).map(|seconds| microseconds(&seconds, TimeUnit::Second)),
        ArrowType::Date64 => {
            cast(column, &ArrowType::Timestamp(TimeUnit::Millisecond, None)).map(|millis| microseconds(&millis, TimeUnit::Millisecond))
        }
        _ => cast(column, &target),
    };
    let result = result.ok_or_else(unlike)?;
    let misfits = misfits(column, &result);
    if misfits.is_none() {
        return Ok(Conformed { column: result, misfits });
    }
    // Rows that did not survive the way there and back unchanged become null.
    let cleared = misfits.as_ref().map(|bad| arrow::compute::nullif(&result, &BooleanArray::new(bad.clone(), None)));
    let column = cleared.and_then(Result::ok).ok_or_else(unlike)?;
    Ok(Conformed { column, misfits })
}

fn is_like(from: &ArrowType, to: DataType) -> bool {
    match to {
        DataType::Scalar(Scalar::Bool) => from == &ArrowType::Boolean,
        DataType::Scalar(Scalar::I32 | Scalar::I64 | Scalar::F32 | Scalar::F64) => from.is_integer() || from.is_floating(),
        DataType::Scalar(Scalar::String) => matches!(from, ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View),
        DataType::Scalar(Scalar::Bytes) => {
            matches!(from, ArrowType::Binary | ArrowType::LargeBinary | ArrowType::BinaryView | ArrowType::FixedSizeBinary(_))
        }
        DataType::Scalar(Scalar::Timestamp) => matches!(from, ArrowType::Timestamp(..) | ArrowType::Date32 | ArrowType::Date64),
        DataType::List(scalar) => item_type(from).is_some_and(|item| is_like(item, DataType::Scalar(scalar))),
        DataType::Vector(_) => item_type(from).is_some_and(ArrowType::is_floating),
    }
}

fn item_type(list: &ArrowType) -> Option<&ArrowType> {
    match list {
        ArrowType::List(item) | ArrowType::LargeList(item) | ArrowType::FixedSizeList(item, _) => Some(item.data_type()),
        _ => None,
    }
}

fn cast(column: &ArrayRef, target: &ArrowType) -> Option<ArrayRef> {
    cast_with_options(column, target, &CastOptions { safe: true, ..CastOptions::default() }).ok()
}

/// Times of a unit as UTC microseconds: finer ones floored, null where they do not fit.
fn microseconds(column: &ArrayRef, unit: TimeUnit) -> ArrayRef {
    let scaled = |values: &Int64Array, factor: i64| values.unary_opt::<_, Int64Type>(|t| t.checked_mul(factor));
    let raw = arrow::compute::cast(column, &ArrowType::Int64).unwrap_or_else(|_| arrow::array::new_null_array(&ArrowType::Int64, column.len()));
    let raw = raw.as_primitive::<Int64Type>();
    let micros = match unit {
        TimeUnit::Second => scaled(raw, 1_000_000),
        TimeUnit::Millisecond => scaled(raw, 1_000),
        TimeUnit::Microsecond => raw.clone(),
        TimeUnit::Nanosecond => raw.unary(|ns: i64| ns.div_euclid(1_000)),
    };
    Arc::new(micros.reinterpret_cast::<TimestampMicrosecondType>().with_timezone(UTC))
}

/// Rows that had a value and have none now, and whole-number rows that changed on the way.
fn misfits(from: &ArrayRef, to: &ArrayRef) -> Option<BooleanBuffer> {
    let numeric = |t: &ArrowType| t.is_integer() || t.is_floating();
    let exact = numeric(from.data_type()) && numeric(to.data_type()) && !(from.data_type().is_floating() && to.data_type().is_floating());
    let back = if exact { cast(to, from.data_type()) } else { None };
    let same = back.and_then(|back| arrow::compute::kernels::cmp::not_distinct(from, &back).ok());
    let bad =
        BooleanBuffer::collect_bool(from.len(), |row| from.is_valid(row) && (to.is_null(row) || same.as_ref().is_some_and(|same| !same.value(row))));
    (bad.count_set_bits() > 0).then_some(bad)
}

/// Key columns in canonical form, in the order of their join keys' names.
#[derive(Debug, Clone)]
pub struct KeyColumns {
    columns: Vec<(Scalar, ArrayRef)>,
}

impl KeyColumns {
    /// Key columns of these types.
    ///
    /// # Errors
    /// [`Error::Type`] where a column is not canonical for its type, or no key can have that type.
    pub fn new(columns: Vec<(Scalar, ArrayRef)>) -> Result<Self, Error> {
        for (scalar, column) in &columns {
            if !scalar.is_key() || column.data_type() != &scalar.to_arrow() {
                return Err(Error::Type { expected: format!("a key of type {}", scalar.name()), found: column.data_type().to_string() });
            }
        }
        Ok(Self { columns })
    }

    /// Writes the key of a row over what the writer holds; false where a part is null and the row has no key.
    pub fn write(&self, row: usize, writer: &mut KeyWriter) -> bool {
        writer.clear();
        for (scalar, column) in &self.columns {
            if column.is_null(row) {
                return false;
            }
            match scalar {
                Scalar::I32 => writer.integer(i64::from(column.as_primitive::<Int32Type>().value(row))),
                Scalar::I64 => writer.integer(column.as_primitive::<Int64Type>().value(row)),
                Scalar::String => writer.string(column.as_string::<i32>().value(row)),
                Scalar::Bytes => writer.bytes(column.as_binary::<i32>().value(row)),
                Scalar::Bool => writer.bool(column.as_boolean().value(row)),
                Scalar::Timestamp => writer.timestamp(Timestamp(column.as_primitive::<TimestampMicrosecondType>().value(row))),
                Scalar::F32 | Scalar::F64 => return false,
            }
        }
        true
    }
}

fn unlike(expected: &str, value: &Value) -> Error {
    Error::Type { expected: expected.to_owned(), found: value.to_json().to_string() }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, LargeStringArray, TimestampNanosecondArray, TimestampSecondArray};

    use super::*;

    fn of(data_type: &str) -> DataType {
        data_type.parse().unwrap()
    }

    #[test]
    fn columns_give_back_the_values_they_were_built_from() {
        let cases = [
            ("bool", vec![Value::Bool(true), Value::Null]),
            ("timestamp", vec![Value::Timestamp(Timestamp(-1)), Value::Null]),
            ("list<string>", vec![Value::List(vec![Value::String("a".into())]), Value::Null, Value::List(vec![])]),
            ("vector<2>", vec![Value::Vector(vec![1.0, 2.0]), Value::Null]),
        ];
        for (data_type, values) in cases {
            let column = column_of(of(data_type), &values).unwrap();
            let read: Vec<_> = (0..values.len()).map(|row| value_at(&column, of(data_type), row).unwrap()).collect();
            assert_eq!(read, values);
            assert_eq!(empty_column(of(data_type)).data_type(), column.data_type());
        }
        assert!(column_of(of("i64"), &[Value::Bool(true)]).is_err());
    }

    #[test]
    fn foreign_columns_conform_where_nothing_is_lost() {
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), Some(1.5), None]));
        let conformed = conform(&floats, of("i64")).unwrap();
        assert_eq!(conformed.misfits.unwrap().iter().collect::<Vec<_>>(), [false, true, false]);
        assert!(conformed.column.is_null(1));

        let wide: ArrayRef = Arc::new(Int64Array::from(vec![7, 1 << 40]));
        assert_eq!(conform(&wide, of("i32")).unwrap().misfits.unwrap().count_set_bits(), 1);
        assert!(conform(&wide, of("f64")).unwrap().misfits.is_none());

        let text: ArrayRef = Arc::new(LargeStringArray::from(vec!["a"]));
        assert_eq!(value_at(&conform(&text, of("string")).unwrap().column, of("string"), 0).unwrap(), Value::String("a".into()));
        assert!(conform(&text, of("i64")).is_err());
    }

    #[test]
    fn times_of_other_units_become_microseconds_or_misfit() {
        let seconds: ArrayRef = Arc::new(TimestampSecondArray::from(vec![2, i64::MAX / 10]));
        let conformed = conform(&seconds, of("timestamp")).unwrap();
        assert_eq!(value_at(&conformed.column, of("timestamp"), 0).unwrap(), Value::Timestamp(Timestamp(2_000_000)));
        assert_eq!(conformed.misfits.unwrap().iter().collect::<Vec<_>>(), [false, true]);
        let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![-1]));
        assert_eq!(value_at(&conform(&nanos, of("timestamp")).unwrap().column, of("timestamp"), 0).unwrap(), Value::Timestamp(Timestamp(-1)));
    }
}
