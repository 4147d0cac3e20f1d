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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float32Array, RecordBatch};
    use arrow::ipc::writer::FileWriter;

    use super::*;

    fn answer(folder: &Path, name: &str, batches: &[&[Option<f32>]]) -> std::path::PathBuf {
        let path = folder.join(name);
        let batch = |values: &[Option<f32>]| {
            let values: ArrayRef = Arc::new(Float32Array::from(values.to_vec()));
            RecordBatch::try_from_iter_with_nullable([("value", values, true)]).unwrap()
        };
        let mut writer = FileWriter::try_new(File::create(&path).unwrap(), &batch(&[]).schema()).unwrap();
        batches.iter().for_each(|values| writer.write(&batch(values)).unwrap());
        writer.finish().unwrap();
        path
    }

    #[test]
    fn answers_differ_in_a_value_a_null_and_a_row_but_not_in_batches() {
        let folder = tempfile::tempdir().unwrap();
        let first = answer(folder.path(), "first", &[&[Some(1.0), None], &[Some(0.0), None]]);
        let same = answer(folder.path(), "same", &[&[Some(1.0), None], &[Some(0.0)], &[None]]);
        assert_eq!(compare(&first, &same).unwrap(), 4);
        for other in [[Some(1.0), Some(0.0)], [Some(2.0), None]] {
            let other = answer(folder.path(), "other", &[&other, &[Some(0.0), None]]);
            assert!(compare(&first, &other).unwrap_err().to_string().contains("column value differs"));
        }
        let short = answer(folder.path(), "short", &[&[Some(1.0), None]]);
        assert!(compare(&first, &short).unwrap_err().to_string().contains("2 rows, not 4"));
    }
}
