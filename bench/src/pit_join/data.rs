//! The workload: seeded files, made once for each configuration, and the comparison of answers.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use arrow::array::{Array as _, ArrayRef, Float32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::ipc::reader::FileReader;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::{Options, ours};
use crate::report::{START_US, say};

const DAY_US: i64 = 86_400_000_000;
const CHUNK: usize = 1 << 17;

/// Makes the files where they are not there yet; gives their folder.
pub(super) fn prepare(options: &Options) -> anyhow::Result<PathBuf> {
    let Options { spine_rows, view_rows, views, features, entities, days, seed, commits, .. } = options;
    let name = format!("pit-{spine_rows}x{views}x{view_rows}x{features}-{entities}-{days}-{seed}-{commits}");
    let folder = options.folder.join(name);
    if folder.join("ready").exists() {
        return Ok(fs::canonicalize(folder)?);
    }
    say(&format!("making the data in {}", folder.display()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    for view in 0..*views {
        write_view(options, view, &folder.join(format!("view{view}.parquet")))?;
    }
    write_spine(options, &folder.join("spine.parquet"))?;
    let folder = fs::canonicalize(folder)?;
    say("loading our own tables");
    ours::load(options, &folder, ours::FOLDER, 1)?;
    ours::load(options, &folder, ours::UNCOMPACTED, options.commits)?;
    fs::write(folder.join("ready"), "")?;
    Ok(folder)
}

fn write_view(options: &Options, view: usize, path: &Path) -> anyhow::Result<()> {
    let schema = view_schema(view, options.features);
    let mut rng = StdRng::seed_from_u64(options.seed + 1 + view as u64);
    let mut times = times(&mut rng, options.view_rows, options.days);
    times.sort_unstable();
    let mut writer = writer(path, &schema)?;
    for chunk in times.chunks(CHUNK) {
        let entities = Int64Array::from_iter_values(chunk.iter().map(|_| rng.random_range(0..options.entities)));
        let at = TimestampMicrosecondArray::from_iter_values(chunk.iter().copied()).with_timezone("UTC");
        let mut columns: Vec<ArrayRef> = vec![Arc::new(entities), Arc::new(at)];
        for _ in 0..options.features {
            columns.push(Arc::new(Float32Array::from_iter_values(chunk.iter().map(|_| rng.random::<f32>()))));
        }
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns)?)?;
    }
    writer.close()?;
    Ok(())
}

fn write_spine(options: &Options, path: &Path) -> anyhow::Result<()> {
    let schema = spine_schema();
    let mut rng = StdRng::seed_from_u64(options.seed);
    let times = times(&mut rng, options.spine_rows, options.days);
    let mut writer = writer(path, &schema)?;
    for (number, chunk) in times.chunks(CHUNK).enumerate() {
        let first = (number * CHUNK) as i64;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(first..first + chunk.len() as i64)),
            Arc::new(Int64Array::from_iter_values(chunk.iter().map(|_| rng.random_range(0..options.entities)))),
            Arc::new(TimestampMicrosecondArray::from_iter_values(chunk.iter().copied()).with_timezone("UTC")),
        ];
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns)?)?;
    }
    writer.close()?;
    Ok(())
}

fn times(rng: &mut StdRng, rows: usize, days: i64) -> Vec<i64> {
    (0..rows).map(|_| START_US + rng.random_range(0..days * DAY_US)).collect()
}

fn writer(path: &Path, schema: &SchemaRef) -> anyhow::Result<ArrowWriter<File>> {
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?)).build();
    Ok(ArrowWriter::try_new(File::create(path)?, Arc::clone(schema), Some(properties))?)
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

pub(super) fn view_schema(view: usize, features: usize) -> SchemaRef {
    let mut fields = vec![Field::new("entity", DataType::Int64, false), Field::new("at", timestamp(), false)];
    fields.extend((0..features).map(|i| Field::new(format!("f{view}_{i}"), DataType::Float32, true)));
    Arc::new(Schema::new(fields))
}

fn spine_schema() -> SchemaRef {
    let field = |name: &str, data_type| Field::new(name, data_type, false);
    Arc::new(Schema::new(vec![field("row", DataType::Int64), field("entity", DataType::Int64), field("event_timestamp", timestamp())]))
}

/// Reads every file once, so that a run finds them warm.
pub(super) fn read_all(folder: &Path) -> anyhow::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    for path in files(folder)? {
        let mut file = File::open(path)?;
        while file.read(&mut buffer)? > 0 {}
    }
    Ok(())
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "parquet") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Bytes of our tables' data files.
pub(super) fn own_bytes(folder: &Path) -> anyhow::Result<u64> {
    files(&folder.join(ours::FOLDER))?.iter().map(|path| Ok(fs::metadata(path)?.len())).sum()
}

/// Bytes of the peers' views.
pub(super) fn peer_bytes(folder: &Path) -> anyhow::Result<u64> {
    let views = files(folder)?.into_iter().filter(|path| path.parent() == Some(folder) && !path.ends_with("spine.parquet"));
    views.map(|path| Ok(fs::metadata(path)?.len())).sum()
}

/// Compares answers with the first, cell by cell; gives their rows.
pub(super) fn compare(first: &Path, others: &[PathBuf]) -> anyhow::Result<usize> {
    let first = read_answer(first)?;
    for path in others {
        let other = read_answer(path)?;
        ensure!(other.num_rows() == first.num_rows(), "{}: {} rows, not {}", path.display(), other.num_rows(), first.num_rows());
        for (i, field) in first.schema().fields().iter().enumerate() {
            let column = other.column_by_name(field.name()).with_context(|| format!("{}: no column {}", path.display(), field.name()))?;
            let column = cast(column, field.data_type())?;
            ensure!(column.to_data() == first.column(i).to_data(), "{}: column {} differs", path.display(), field.name());
        }
    }
    Ok(first.num_rows())
}

fn read_answer(path: &Path) -> anyhow::Result<RecordBatch> {
    let reader = FileReader::try_new(File::open(path)?, None)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    Ok(concat_batches(&schema, &batches)?)
}
