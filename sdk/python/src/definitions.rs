//! Definitions from Python: their fields as JSON, made and checked by the same code as everywhere.

use anabranch_client::{Definition, DefinitionKind, Error};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{invalid, raised};

/// The canonical bytes of a definition of a kind, from its fields as JSON.
#[pyfunction]
pub(crate) fn definition_bytes<'py>(py: Python<'py>, kind: &str, spec: &str) -> PyResult<Bound<'py, PyBytes>> {
    let kind = kind_of(py, kind)?;
    let spec = serde_json::from_str(spec).map_err(|error| invalid(py, &format!("{kind}: {error}")))?;
    let definition = Definition::from_spec(kind, spec).map_err(|error| raised(py, &Error::Core(error)))?;
    Ok(PyBytes::new(py, &definition.to_bytes()))
}

pub(crate) fn kind_of(py: Python<'_>, name: &str) -> PyResult<DefinitionKind> {
    let all = || DefinitionKind::ALL.map(DefinitionKind::name).join(", ");
    DefinitionKind::from_name(name).ok_or_else(|| invalid(py, &format!("{name:?} is no kind of definition; there are {}", all())))
}
