//! The native half of the Python package: the Rust client, its values in Python's terms, and the command line.
//!
//! In reading order: [`calls`] (one way of running a call, blocking or asyncio), [`client`] (the calls), [`input`] and [`output`] (rows in and out), [`objects`], [`batches`],
//! [`definitions`] and [`errors`]. What a user sees, defaults and documentation among it, is Python: `python/anabranch/`.

mod batches;
mod calls;
mod client;
mod definitions;
mod errors;
mod input;
mod objects;
mod output;

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command line and gives its exit status.
///
/// `program` is the Python interpreter, which starts private servers as `program -m anabranch serve`.
#[pyfunction]
fn main(py: Python<'_>, args: Vec<OsString>, program: std::path::PathBuf) -> u8 {
    let launcher = client::launcher(program);
    py.detach(|| anabranch_cli::run(args, launcher))
}

/// What the package is made of.
#[pymodule]
fn _anabranch(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<calls::Call>()?;
    module.add_class::<calls::Running>()?;
    module.add_class::<batches::NativeBatches>()?;
    module.add_class::<client::NativeClient>()?;
    module.add_class::<objects::NativeObjects>()?;
    module.add_class::<output::NativeTable>()?;
    module.add_function(wrap_pyfunction!(client::connect, module)?)?;
    module.add_function(wrap_pyfunction!(client::open, module)?)?;
    module.add_function(wrap_pyfunction!(definitions::definition_bytes, module)?)?;
    module.add_function(wrap_pyfunction!(input::table_of_columns, module)?)?;
    module.add_function(wrap_pyfunction!(input::json_lines, module)?)?;
    module.add_function(wrap_pyfunction!(main, module)?)
}
