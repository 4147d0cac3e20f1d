//! The floor: what it takes only to decode the columns that a join needs, keys, times and features, with the parquet crate's Arrow reader on all cores, a
//! row group at a time and nothing kept. No join that reads whole columns of these files with that reader is faster.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::runner::{Run, RunOptions};
use super::tables;
use crate::report::now;

/// Rows of a batch: those of a page of ours, which the reader likes best.
const BATCH_ROWS: usize = 1 << 16;

/// A row group of a file, and the columns of it.
struct Part {
    path: PathBuf,
    footer: ArrowReaderMetadata,
    mask: ProjectionMask,
    group: usize,
}

/// Decodes and measures from the first byte read to the last batch.
pub(super) fn run(options: &RunOptions) -> anyhow::Result<Run> {
    let RunOptions { folder, spine, tables, .. } = options;
    let schemas = tables::schemas(folder)?;
    let views: Vec<Vec<PathBuf>> = match tables {
        Some(tables) => tables::data_files(&folder.join(tables), schemas.len())?,
        None => (0..schemas.len()).map(|view| vec![folder.join(format!("view{view}.parquet"))]).collect(),
    };
    let start = now();
    let mut parts = parts(spine, &["row", "entity", "event_timestamp"])?;
    for (files, schema) in views.iter().zip(&schemas) {
        let columns: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        for file in files {
            parts.extend(self::parts(file, &columns)?);
        }
    }
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        let work = || -> anyhow::Result<usize> {
            let mut rows = 0;
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                rows += part.decode()?;
            }
            Ok(rows)
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a decoding thread panicked"))?.map(|_| ()))
    })?;
    Ok(Run::measured(start.elapsed()))
}

fn parts(path: &Path, columns: &[&str]) -> anyhow::Result<Vec<Part>> {
    let footer = ArrowReaderMetadata::load(&File::open(path)?, ArrowReaderOptions::new())?;
    let leaves = footer.metadata().file_metadata().schema_descr_ptr();
    let wanted = (0..leaves.num_columns()).filter(|i| columns.contains(&leaves.column(*i).name()));
    let mask = ProjectionMask::leaves(&leaves, wanted);
    let part = |group| Part { path: path.to_owned(), footer: footer.clone(), mask: mask.clone(), group };
    Ok((0..footer.metadata().num_row_groups()).map(part).collect())
}

impl Part {
    fn decode(&self) -> anyhow::Result<usize> {
        // A file of its own: threads that share one share where they read.
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(File::open(&self.path)?, self.footer.clone());
        let reader = builder.with_row_groups(vec![self.group]).with_projection(self.mask.clone()).with_batch_size(BATCH_ROWS).build()?;
        let mut rows = 0;
        for batch in reader {
            rows += std::hint::black_box(batch?).num_rows();
        }
        Ok(rows)
    }
}
