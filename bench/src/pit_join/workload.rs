//! The workloads: seeded Parquet files and our tables of the same rows, made once for each configuration and kept.
//!
//! ```text
//! FOLDER/pit-uniform-…/view0.parquet …   the views, in arrival order: what the peers read, and we as `same`
//!                      spine-ROWS.parquet
//!                      own/              our tables of these rows, loaded in bulk
//!                      uncompacted/      our tables of these rows, as so many commits of a stream left them
//! ```
//!
//! Views are written chunk by chunk, each chunk a slice of the time span, so that the largest is made in little memory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::anyhow;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use clap::{Args, ValueEnum};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::Serialize;

use super::runner::Runner;
use super::{realistic, tables, uniform};
use crate::report::{START_US, say};

/// Microseconds of a second.
pub(super) const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;
/// Rows of a bulk load by default.
pub(super) const BULK_ROWS: usize = 5_000_000;
/// Rows that are made at a time.
const CHUNK: usize = 1 << 17;

/// How large the workload is.
#[derive(Args, Serialize, Clone, Debug)]
pub(super) struct Size {
    /// Rows of the spine.
    #[arg(long, default_value_t = 1_000_000)]
    pub(super) spine_rows: usize,
    /// Rows of each view.
    #[arg(long, default_value_t = 5_000_000)]
    pub(super) view_rows: usize,
    /// Views.
    #[arg(long, default_value_t = 3)]
    pub(super) views: usize,
    /// Features of each view.
    #[arg(long, default_value_t = 8)]
    pub(super) features: usize,
    /// Entities.
    #[arg(long, default_value_t = 100_000)]
    pub(super) entities: usize,
    /// Days that the times spread over, in arrival order.
    #[arg(long, default_value_t = 30)]
    pub(super) days: i64,
    /// The generator's seed.
    #[arg(long, default_value_t = 42)]
    pub(super) seed: u64,
    /// Commits that leave the rows of a view uncompacted.
    #[arg(long, default_value_t = 100)]
    pub(super) commits: usize,
    /// Rows that a bulk load appends at a time; a view of more is compacted afterwards.
    #[arg(long, default_value_t = BULK_ROWS)]
    pub(super) bulk_rows: usize,
}

/// What the rows hold.
#[derive(ValueEnum, Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub(super) enum Values {
    /// Random f32, uniform entities, times to the microsecond.
    Uniform,
    /// Counts, amounts and ratios with nulls, Zipf entities, known times, ties.
    Realistic,
}

impl Values {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Realistic => "realistic",
        }
    }

    fn view_schema(self, view: usize, features: usize) -> SchemaRef {
        let mut fields = vec![Field::new("entity", DataType::Int64, false), Field::new("at", timestamp(), false)];
        if self == Self::Realistic {
            fields.push(Field::new("known", timestamp(), false));
        }
        let value = |i| match self {
            Self::Uniform => DataType::Float32,
            Self::Realistic => realistic::data_type(i),
        };
        fields.extend((0..features).map(|i| Field::new(format!("f{view}_{i}"), value(i), true)));
        Arc::new(Schema::new(fields))
    }
}

/// A slice of a view or a spine that is to be made.
pub(super) struct Slice {
    /// How many rows came before it.
    pub(super) first: usize,
    pub(super) rows: usize,
    /// The microseconds that it spreads over.
    pub(super) from_us: i64,
    pub(super) to_us: i64,
}

/// Rows in chunks that spread evenly over the days.
fn slices(rows: usize, days: i64) -> impl Iterator<Item = Slice> {
    let at = move |row: usize| START_US + (i128::from(days * DAY_US) * row as i128 / rows.max(1) as i128) as i64;
    (0..rows).step_by(CHUNK).map(move |first| {
        let count = CHUNK.min(rows - first);
        Slice { first, rows: count, from_us: at(first), to_us: at(first + count) }
    })
}

/// The files of one workload.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) folder: PathBuf,
    pub(super) size: Size,
    pub(super) values: Values,
}

impl Files {
    /// Makes the views and the spine where they are not there yet.
    pub(super) fn prepare(parent: &Path, size: &Size, values: Values) -> anyhow::Result<Self> {
        let Size { view_rows, views, features, entities, days, seed, commits, bulk_rows, .. } = size;
        let name = format!("pit-{}-{views}x{view_rows}x{features}-{entities}-{days}-{seed}-{commits}-{bulk_rows}", values.name());
        fs::create_dir_all(parent.join(&name))?;
        let folder = fs::canonicalize(parent.join(name))?;
        let files = Self { folder, size: size.clone(), values };
        on_all_cores(*views, |view| {
            let (schema, seed) = (values.view_schema(view, *features), seed + 1 + view as u64);
            let rows: Rows = match values {
                Values::Uniform => Box::new(uniform::view(Arc::clone(&schema), *entities, seed)),
                Values::Realistic => Box::new(realistic::view(Arc::clone(&schema), *entities, size.seed, seed)),
            };
            write(&files.view(view), &schema, slices(*view_rows, *days), rows)
        })?;
        let schema = spine_schema();
        // Rows of the spine come in no order: each slice spreads over all days.
        let whole = slices(size.spine_rows, *days).map(|slice| Slice { from_us: START_US, to_us: START_US + days * DAY_US, ..slice });
        let rows: Rows = match values {
            Values::Uniform => Box::new(uniform::spine(Arc::clone(&schema), *entities, *seed)),
            Values::Realistic => Box::new(realistic::spine(Arc::clone(&schema), *entities, *seed)),
        };
        write(&files.spine(), &schema, whole, rows)?;
        Ok(files)
    }

    pub(super) fn view(&self, view: usize) -> PathBuf {
        self.folder.join(format!("view{view}.parquet"))
    }

    pub(super) fn spine(&self) -> PathBuf {
        self.folder.join(format!("spine-{}.parquet", self.size.spine_rows))
    }

    /// The files that a runner reads.
    pub(super) fn of(&self, runner: Runner) -> anyhow::Result<Vec<PathBuf>> {
        let mut found = vec![self.spine()];
        match runner.tables() {
            // Beside them lies the metadata database, whose log comes and goes.
            Some(tables) => all(&self.folder.join(tables).join("objects"), &mut found)?,
            None => found.extend((0..self.size.views).map(|view| self.view(view))),
        }
        Ok(found)
    }

    /// The bytes of our tables' data files, and of the peers' views.
    pub(super) fn bytes(&self) -> anyhow::Result<(u64, u64)> {
        let peers = (0..self.size.views).map(|view| Ok(fs::metadata(self.view(view))?.len())).sum::<anyhow::Result<u64>>()?;
        Ok((tables::bytes(&self.folder.join(tables::OWN), self.size.views)?, peers))
    }
}

/// Does so many pieces of work, as many at a time as there are cores.
fn on_all_cores(count: usize, work: impl Fn(usize) -> anyhow::Result<()> + Sync) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    let one_by_one = || -> anyhow::Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            work(number)?;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..std::thread::available_parallelism()?.get().min(count)).map(|_| scope.spawn(one_by_one)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread that makes rows panicked"))?)
    })
}

/// All files in a folder, however deep.
fn all(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            all(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// Makes the rows of one slice after the other.
type Rows = Box<dyn FnMut(&Slice) -> anyhow::Result<RecordBatch>>;

/// Writes a file whole or not at all.
fn write(path: &Path, schema: &SchemaRef, slices: impl Iterator<Item = Slice>, mut rows: Rows) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    say(&format!("making {}", path.display()));
    let part = path.with_extension("part");
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?)).build();
    let mut writer = ArrowWriter::try_new(File::create(&part)?, Arc::clone(schema), Some(properties))?;
    for slice in slices {
        writer.write(&rows(&slice)?)?;
    }
    writer.into_inner()?.sync_all()?;
    Ok(fs::rename(part, path)?)
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn spine_schema() -> SchemaRef {
    let field = |name: &str, data_type| Field::new(name, data_type, false);
    Arc::new(Schema::new(vec![field("row", DataType::Int64), field("entity", DataType::Int64), field("event_timestamp", timestamp())]))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use arrow::array::AsArray as _;
    use arrow::datatypes::{Int64Type, TimestampMicrosecondType};

    use super::*;

    #[test]
    fn realistic_rows_come_as_they_become_known_are_true_before_and_tie() {
        let mut view = realistic::view(Values::Realistic.view_schema(0, 3), 100, 1, 2);
        let (mut last, mut rows, mut entities_at, mut entities_known) = (i64::MIN, 0, HashSet::new(), HashSet::new());
        for slice in slices(CHUNK + 1_000, 30) {
            let batch = view(&slice).unwrap();
            let entities = batch.column(0).as_primitive::<Int64Type>().values();
            let (at, known) =
                (batch.column(1).as_primitive::<TimestampMicrosecondType>(), batch.column(2).as_primitive::<TimestampMicrosecondType>());
            for ((entity, at), known) in entities.iter().zip(at.values()).zip(known.values()) {
                assert!(at <= known && last <= *known, "the peers' queries rely on both");
                (last, rows) = (*known, rows + 1);
                entities_at.insert((*entity, *at));
                entities_known.insert((*entity, *known));
            }
        }
        assert_eq!(rows, CHUNK + 1_000);
        assert!(entities_at.len() < rows && entities_known.len() < rows);
    }
}
