//! Rows from Python: Arrow as it is, without a copy, and plain lists by their values.
//!
//! A column of plain values has the type that all its values share: bool, i64, f64, string, bytes, timestamp, or a list of these; integers beside floats
//! are floats. Nothing is parsed or rounded. A time without a zone is UTC.

use anabranch_client::{DataType, Reader, Scalar, Timestamp, Value, column_of};
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType as ArrowType, Field, Schema};
use chrono::NaiveDateTime;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDate, PyDateTime, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyTzInfo};
use pyo3_arrow::input::AnyRecordBatch;
use serde_json::{Map, Value as Json};

use crate::errors::invalid;
use crate::output::NativeTable;

/// The largest integer below which every integer is an f64.
const EXACT_F64: i64 = 1 << 53;

/// Rows of anything that speaks the Arrow PyCapsule interface.
pub(crate) fn reader(rows: &Bound<'_, PyAny>) -> PyResult<Reader> {
    rows.extract::<AnyRecordBatch>()?.into_reader()
}

/// The same as one batch, for what must be sent whole.
pub(crate) fn batch(rows: &Bound<'_, PyAny>) -> PyResult<RecordBatch> {
    let py = rows.py();
    let reader = reader(rows)?;
    let schema = reader.schema();
    let whole = py.detach(|| reader.collect::<Result<Vec<_>, _>>().and_then(|batches| concat_batches(&schema, &batches)));
    whole.map_err(|error| invalid(py, &format!("cannot read the rows: {error}")))
}

/// A table of columns, each a list of plain values.
#[pyfunction]
pub(crate) fn table_of_columns(py: Python<'_>, columns: &Bound<'_, PyDict>) -> PyResult<NativeTable> {
    let (mut fields, mut arrays, mut rows) = (Vec::new(), Vec::new(), None);
    for (name, values) in columns {
        let name: String = name.extract()?;
        let values = values.cast_into::<PyList>()?;
        if *rows.get_or_insert(values.len()) != values.len() {
            let message = format!("column {name:?} has {} values, the others have {}", values.len(), rows.unwrap_or_default());
            return Err(invalid(py, &message));
        }
        let array = column(&name, &values)?;
        fields.push(Field::new(name, array.data_type().clone(), true));
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.unwrap_or_default()));
    let batch = RecordBatch::try_new_with_options(Schema::new(fields).into(), arrays, &options);
    let batch = batch.map_err(|error| invalid(py, &error.to_string()))?;
    Ok(NativeTable::new(batch.schema(), vec![batch]))
}

/// Rows, each a dictionary of plain values, as one JSON object a line.
#[pyfunction]
pub(crate) fn json_lines<'py>(py: Python<'py>, rows: &Bound<'py, PyList>) -> PyResult<Bound<'py, PyBytes>> {
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let row = row.cast_into::<PyDict>().map_err(|_| invalid(py, &format!("row {i} is no dictionary")))?;
        let mut object = Map::new();
        for (name, item) in row {
            let name: String = name.extract()?;
            let value = value_of(&item).map_err(|reason| invalid(py, &format!("row {i}, column {name:?}: {reason}")))?;
            object.insert(name, value.to_json());
        }
        text.push_str(&Json::Object(object).to_string());
        text.push('\n');
    }
    Ok(PyBytes::new(py, text.as_bytes()))
}

fn column(name: &str, items: &Bound<'_, PyList>) -> PyResult<ArrayRef> {
    let py = items.py();
    let at = |row: usize, reason: &str| invalid(py, &format!("column {name:?}, row {row}: {reason}"));
    let mut values = Vec::with_capacity(items.len());
    let mut common = None;
    for (row, item) in items.iter().enumerate() {
        let value = value_of(&item).map_err(|reason| at(row, &reason))?;
        common = shared(common, &value).map_err(|reason| at(row, &reason))?;
        values.push(value);
    }
    let Some(data_type) = common else {
        return Ok(new_null_array(&ArrowType::Null, values.len()));
    };
    if matches!(data_type, DataType::Scalar(Scalar::F64) | DataType::List(Scalar::F64)) {
        for (row, value) in values.iter_mut().enumerate() {
            widen(value).map_err(|reason| at(row, &reason))?;
        }
    }
    column_of(data_type, &values).map_err(|error| invalid(py, &format!("column {name:?}: {error}")))
}

/// The type of a column so far and another value of it; an empty list fits any list.
fn shared(so_far: Option<DataType>, value: &Value) -> Result<Option<DataType>, String> {
    let found = match value {
        Value::Null => return Ok(so_far),
        Value::List(items) => {
            let mut item = None;
            for value in items {
                item = shared(item, value)?;
            }
            match (item, so_far) {
                (None, Some(DataType::List(_))) => return Ok(so_far),
                (None, _) => DataType::List(Scalar::F64),
                (Some(DataType::Scalar(scalar)), _) => DataType::List(scalar),
                (Some(_), _) => return Err("a list of lists is no feature".to_owned()),
            }
        }
        Value::Bool(_) => DataType::Scalar(Scalar::Bool),
        Value::I32(_) | Value::I64(_) => DataType::Scalar(Scalar::I64),
        Value::String(_) => DataType::Scalar(Scalar::String),
        Value::Bytes(_) => DataType::Scalar(Scalar::Bytes),
        Value::Timestamp(_) => DataType::Scalar(Scalar::Timestamp),
        Value::F32(_) | Value::F64(_) | Value::Vector(_) => DataType::Scalar(Scalar::F64),
    };
    match (so_far, found) {
        (None, found) => Ok(Some(found)),
        (Some(a), b) if a == b => Ok(Some(a)),
        (Some(DataType::Scalar(a)), DataType::Scalar(b)) if numeric(a) && numeric(b) => Ok(Some(DataType::Scalar(Scalar::F64))),
        (Some(DataType::List(a)), DataType::List(b)) if numeric(a) && numeric(b) => Ok(Some(DataType::List(Scalar::F64))),
        (Some(a), b) => Err(format!("a {b} beside values of type {a}")),
    }
}

fn numeric(scalar: Scalar) -> bool {
    matches!(scalar, Scalar::I64 | Scalar::F64)
}

fn widen(value: &mut Value) -> Result<(), String> {
    match value {
        Value::I64(i) if (-EXACT_F64..=EXACT_F64).contains(i) => *value = Value::F64(*i as f64),
        Value::I64(i) => return Err(format!("{i} stands beside floats and has no exact float")),
        Value::List(items) => items.iter_mut().try_for_each(widen)?,
        _ => {}
    }
    Ok(())
}

/// A plain Python value, or NumPy's or pandas' own.
fn value_of(item: &Bound<'_, PyAny>) -> Result<Value, String> {
    let unusable = |error: PyErr| error.to_string();
    if item.is_none() {
        Ok(Value::Null)
    } else if let Ok(text) = item.cast::<PyString>() {
        text.extract().map(Value::String).map_err(unusable)
    } else if item.is_instance_of::<PyBool>() {
        item.extract().map(Value::Bool).map_err(unusable)
    } else if let Ok(float) = item.cast::<PyFloat>() {
        float.extract().map(Value::F64).map_err(unusable)
    } else if item.is_instance_of::<PyInt>() {
        item.extract().map(Value::I64).map_err(|_| "the integer needs more than 64 bits".to_owned())
    } else if item.is_instance_of::<PyBytes>() || item.is_instance_of::<PyByteArray>() {
        item.extract().map(Value::Bytes).map_err(unusable)
    } else if item.is_instance_of::<PyDateTime>() {
        time_of(item).map_err(unusable)
    } else if item.is_instance_of::<PyDate>() {
        let midnight: Result<chrono::NaiveDate, _> = item.extract();
        midnight.map(|date| Value::Timestamp(Timestamp(date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros()))).map_err(unusable)
    } else if item.is_instance_of::<PyList>() || item.is_instance_of::<PyTuple>() {
        let items: Result<Vec<_>, String> = item.try_iter().map_err(unusable)?.map(|item| value_of(&item.map_err(unusable)?)).collect();
        items.map(Value::List)
    } else {
        foreign(item).map_err(unusable)?.ok_or_else(|| {
            let name = item.get_type().name().map(|name| name.to_string()).unwrap_or_default();
            format!("a {name} cannot be sent; use bool, int, float, str, bytes, datetime, or a list of these")
        })
    }
}

/// NumPy's scalars and arrays, and pandas' NA.
fn foreign(item: &Bound<'_, PyAny>) -> PyResult<Option<Value>> {
    let kind = item.getattr("dtype").and_then(|dtype| dtype.getattr("kind")).and_then(|kind| kind.extract::<String>());
    let plain = match kind.as_deref() {
        Ok("M") => item.call_method1("astype", ("datetime64[us]",))?.call_method0("tolist")?,
        Ok("m") => return Ok(None),
        Ok(_) => item.call_method0("tolist")?,
        Err(_) if item.get_type().name()? == "NAType" => return Ok(Some(Value::Null)),
        Err(_) => return Ok(None),
    };
    // A dtype of objects gives itself back; do not go round in circles.
    if plain.is(item) { Ok(None) } else { value_of(&plain).map(Some).map_err(pyo3::exceptions::PyValueError::new_err) }
}

fn time_of(item: &Bound<'_, PyAny>) -> PyResult<Value> {
    let py = item.py();
    // pandas' NaT is a datetime that equals nothing.
    if item.ne(item)? {
        return Ok(Value::Null);
    }
    let naive = if item.getattr("tzinfo")?.is_none() {
        item.clone()
    } else {
        let utc = item.call_method1("astimezone", (PyTzInfo::utc(py)?,))?;
        let arguments = PyDict::new(py);
        arguments.set_item("tzinfo", py.None())?;
        utc.call_method("replace", (), Some(&arguments))?
    };
    let naive: NaiveDateTime = naive.extract()?;
    Ok(Value::Timestamp(Timestamp(naive.and_utc().timestamp_micros())))
}
