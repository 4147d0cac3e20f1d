//! Errors become the exceptions of `anabranch.errors`, one class for each kind.

use anabranch_client::{Error, ErrorKind, Kinded};
use pyo3::prelude::*;
use serde_json::Value as Json;

use crate::output::json_to_python;

/// The exception for an error of the client.
pub(crate) fn raised(py: Python<'_>, error: &Error) -> PyErr {
    exception(py, error.kind(), &error.to_string(), error.details())
}

/// The exception for what the caller got wrong.
pub(crate) fn invalid(py: Python<'_>, message: &str) -> PyErr {
    exception(py, ErrorKind::InvalidArgument, message, &Json::Null)
}

fn exception(py: Python<'_>, kind: ErrorKind, message: &str, details: &Json) -> PyErr {
    let made =
        json_to_python(py, details).and_then(|details| py.import("anabranch.errors")?.getattr("of_kind")?.call1((kind.name(), message, details)));
    // Where the package itself is broken, that is the error to show.
    made.map_or_else(|error| error, PyErr::from_value)
}
