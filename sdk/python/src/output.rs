//! Values for Python: tables that speak Arrow, and JSON as plain objects.

use anabranch_client::data_type_of;
use anabranch_client::{Timestamp, Value};
use anabranch_client::{conform, value_at};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use chrono::DateTime;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyKeyError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule, PyDict, PyList};
use pyo3_arrow::PyTable;
use pyo3_arrow::error::PyArrowResult;
use serde_json::Value as Json;

use crate::errors::invalid;

/// Rows in Arrow, held natively.
#[pyclass(frozen, name = "Table", module = "anabranch._anabranch")]
pub(crate) struct NativeTable {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl NativeTable {
    pub(crate) fn new(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        Self { schema, batches }
    }

    fn shared(&self) -> PyResult<PyTable> {
        PyTable::try_new(self.batches.clone(), self.schema.clone())
    }
}

#[pymethods]
impl NativeTable {
    #[getter]
    fn num_rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    #[getter]
    fn column_names(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    #[getter]
    fn column_types(&self) -> Vec<String> {
        self.schema
            .fields()
            .iter()
            .map(|field| data_type_of(field.data_type()).map_or_else(|| field.data_type().to_string(), |t| t.to_string()))
            .collect()
    }

    /// The values of one column as plain objects.
    fn column(&self, py: Python<'_>, name: &str) -> PyResult<Py<PyList>> {
        let index = self.schema.index_of(name).map_err(|_| PyKeyError::new_err(name.to_owned()))?;
        let list = PyList::empty(py);
        for batch in &self.batches {
            append(py, &list, batch.column(index)).map_err(|error| invalid(py, &format!("column {name:?}: {error}")))?;
        }
        Ok(list.unbind())
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(&self, py: Python<'py>, requested_schema: Option<Bound<'py, PyCapsule>>) -> PyResult<Bound<'py, PyAny>> {
        let table = Bound::new(py, self.shared()?)?;
        table.call_method1("__arrow_c_stream__", (requested_schema,))
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyArrowResult<Bound<'py, PyAny>> {
        Ok(Bound::new(py, self.shared()?)?.call_method0("__arrow_c_schema__")?)
    }
}

fn append(py: Python<'_>, list: &Bound<'_, PyList>, column: &ArrayRef) -> PyResult<()> {
    let data_type =
        data_type_of(column.data_type()).ok_or_else(|| PyTypeError::new_err(format!("{} has no plain form; use to_arrow()", column.data_type())))?;
    let conformed = conform(column, data_type).map_err(|error| PyTypeError::new_err(error.to_string()))?;
    for row in 0..conformed.column.len() {
        let value = value_at(&conformed.column, data_type, row).map_err(|error| PyTypeError::new_err(error.to_string()))?;
        list.append(to_python(py, value)?)?;
    }
    Ok(())
}

fn to_python(py: Python<'_>, value: Value) -> PyResult<Py<PyAny>> {
    match value {
        Value::Null => Ok(py.None()),
        Value::Bool(b) => b.into_py_any(py),
        Value::I32(i) => i.into_py_any(py),
        Value::I64(i) => i.into_py_any(py),
        Value::F32(x) => x.into_py_any(py),
        Value::F64(x) => x.into_py_any(py),
        Value::String(text) => text.into_py_any(py),
        Value::Bytes(bytes) => Ok(PyBytes::new(py, &bytes).into_any().unbind()),
        Value::Timestamp(time) => time_to_python(py, time),
        Value::Vector(items) => items.into_py_any(py),
        Value::List(items) => {
            let list = PyList::empty(py);
            items.into_iter().try_for_each(|item| list.append(to_python(py, item)?))?;
            Ok(list.into_any().unbind())
        }
    }
}

/// A time as Python's, in UTC; beyond Python's years it stays a number of microseconds.
fn time_to_python(py: Python<'_>, time: Timestamp) -> PyResult<Py<PyAny>> {
    let python = DateTime::from_timestamp_micros(time.micros()).and_then(|time| time.into_py_any(py).ok());
    python.map_or_else(|| time.micros().into_py_any(py), Ok)
}

/// JSON as plain objects.
pub(crate) fn json_to_python(py: Python<'_>, json: &Json) -> PyResult<Py<PyAny>> {
    match json {
        Json::Null => Ok(py.None()),
        Json::Bool(b) => b.into_py_any(py),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => i.into_py_any(py),
            (None, Some(u)) => u.into_py_any(py),
            (None, None) => n.as_f64().into_py_any(py),
        },
        Json::String(text) => text.into_py_any(py),
        Json::Array(items) => {
            let list = PyList::empty(py);
            items.iter().try_for_each(|item| list.append(json_to_python(py, item)?))?;
            Ok(list.into_any().unbind())
        }
        Json::Object(map) => {
            let dict = PyDict::new(py);
            map.iter().try_for_each(|(key, value)| dict.set_item(key, json_to_python(py, value)?))?;
            Ok(dict.into_any().unbind())
        }
    }
}
