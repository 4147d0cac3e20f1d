//! Answers as Arrow IPC files, and how they are compared.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, ensure};
use arrow::array::ArrayRef;
use arrow::compute::{cast, concat};
use arrow::ipc::reader::FileReader;

/// Compares an answer with another, cell by cell, a column at a time; gives the rows.
pub(super) fn compare(first: &Path, other: &Path) -> anyhow::Result<usize> {
    let schema = FileReader::try_new(File::open(first)?, None)?.schema();
    let mut rows = 0;
    for field in schema.fields() {
        let (expected, found) = (column(first, field.name())?, column(other, field.name())?);
        ensure!(found.len() == expected.len(), "{}: {} rows, not {}", other.display(), found.len(), expected.len());
        let found = cast(&found, expected.data_type())?;
        ensure!(found.to_data() == expected.to_data(), "{}: column {} differs", other.display(), field.name());
        rows = expected.len();
    }
    Ok(rows)
}

fn column(path: &Path, name: &str) -> anyhow::Result<ArrayRef> {
    let schema = FileReader::try_new(File::open(path)?, None)?.schema();
    let place = schema.index_of(name).with_context(|| path.display().to_string())?;
    let reader = FileReader::try_new(File::open(path)?, Some(vec![place]))?;
    let arrays = reader.map(|batch| Ok(batch?.column(0).clone())).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(concat(&arrays.iter().map(AsRef::as_ref).collect::<Vec<_>>())?)
}
