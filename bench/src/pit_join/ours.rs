//! Our side: the join over our tables or over the peers' files.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anabranch_core::definition::Role;
use anabranch_core::selection::Selection;
use anabranch_core::{Position, SourceId, Timestamp};
use anabranch_offline_store::join::{JoinLimits, JoinOptions, JoinPlan, Joined, Spine, ViewRows, ViewScan, join_within};
use anabranch_offline_store::{FileRows, Fill, ViewFile, ViewFiles};
use anabranch_versioning::local_objects;
use arrow::array::RecordBatch;
use arrow::ipc::writer::FileWriter;
use futures::TryStreamExt as _;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::runner::{Run, RunOptions};
use super::tables;
use crate::report::{START_US, now, say};

/// Joins and measures from the first byte read to the answer in Arrow.
pub(super) fn run(options: &RunOptions) -> anyhow::Result<Run> {
    let RunOptions { folder, spine, tables, .. } = options;
    let definitions = tables::definitions(folder)?;
    let views = tables::schemas(folder)?.len();
    let runtime = tables::runtime()?;
    let start = now();
    let (joined, phases) = runtime.block_on(async {
        // The store is opened while the spine is read and ordered.
        let (file, path) = (spine.clone(), folder.clone());
        let planning = tokio::task::spawn_blocking(move || {
            let spine = read_spine(&file)?;
            let decoded = start.elapsed().as_secs_f64();
            let selection = Selection::Features((0..views).map(|view| format!("view{view}")).collect());
            anyhow::Ok((JoinPlan::new(spine, &selection, &definitions, JoinOptions::default())?, decoded))
        });
        let store = match tables {
            Some(tables) => Some(tables::open(&path.join(tables)).await?),
            None => None,
        };
        let head = match &store {
            Some(store) => Some(tables::head(store).await?),
            None => None,
        };
        let opened = start.elapsed().as_secs_f64();
        let (plan, decoded) = planning.await??;
        let phases = [("spine decoded", decoded), ("store opened", opened), ("spine ordered", start.elapsed().as_secs_f64())];
        let rows: Arc<dyn ViewRows> = match store.zip(head) {
            Some((store, head)) => store.view_rows(head),
            None => same_files(folder, &plan)?,
        };
        let memory_bytes = options.memory_limit.unwrap_or(usize::MAX);
        let spill_folder = folder.clone();
        let limits = JoinLimits { memory_bytes, part_rows: usize::MAX, spill: Arc::new(move || tempfile::tempfile_in(&spill_folder)) };
        let joined = join_within(Arc::new(plan), rows, &limits).await?;
        if options.memory_limit.is_some() {
            let mut batches = joined.rows.stream();
            while batches.try_next().await?.is_some() {}
        }
        anyhow::Ok((joined, phases))
    })?;
    let spilled_mb = joined.report.spilled_bytes as f64 / f64::from(1 << 20);
    let run = Run { spilled_mb, ..Run::measured(start.elapsed()) };
    if let Some(path) = &options.answer {
        write(&joined, path)?;
    }
    if options.explain {
        say(&format!("seconds until: {phases:?}, joined {}; {}", run.wall_s, serde_json::to_string(&joined.report)?));
    }
    Ok(run)
}

/// Decodes a spine on two threads, each some of the columns.
fn read_spine(path: &Path) -> anyhow::Result<Spine> {
    let footer = ArrowReaderMetadata::load(&File::open(path)?, ArrowReaderOptions::new())?;
    let schema = Arc::clone(footer.schema());
    let columns = |places: Range<usize>| {
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(File::open(path)?, footer.clone());
        let mask = ProjectionMask::roots(builder.parquet_schema(), places);
        Ok(builder.with_projection(mask).with_batch_size(1 << 16).build()?.collect::<Result<Vec<_>, _>>()?)
    };
    let half = schema.fields().len().div_ceil(2);
    let (left, right) = std::thread::scope(|scope| {
        let right = scope.spawn(|| columns(half..schema.fields().len()));
        let left: anyhow::Result<_> = columns(0..half);
        (left, right.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread that decodes the spine panicked"))))
    });
    let batches = left?.into_iter().zip(right?).map(|(left, right): (RecordBatch, RecordBatch)| {
        RecordBatch::try_new(Arc::clone(&schema), left.columns().iter().chain(right.columns()).cloned().collect())
    });
    let batches = batches.collect::<Result<Vec<_>, _>>()?;
    Ok(Spine::new(schema, batches, Spine::DEFAULT_TIME_COLUMN)?)
}

fn write(joined: &Joined, path: &Path) -> anyhow::Result<()> {
    let mut writer = FileWriter::try_new(File::create(path)?, &joined.schema)?;
    for batch in joined.rows.batches() {
        writer.write(&batch?)?;
    }
    Ok(writer.finish()?)
}

/// The peers' files as they are: they carry no reserved columns, so one source, one arrival, and positions as the rows lie.
fn same_files(folder: &Path, plan: &JoinPlan) -> anyhow::Result<Arc<dyn ViewRows>> {
    let fill = Fill { arrival: Timestamp(START_US), source: SourceId::new(1)?, first_position: Position::new(0)? };
    let file = |scan: &ViewScan| ViewFiles {
        name: scan.name.clone(),
        // Without ids, columns are found by name.
        field_ids: scan.columns.iter().map(|column| (column.role != Role::Reserved).then_some(0)).collect(),
        sorted_by: Vec::new(),
        files: vec![ViewFile { path: format!("{}.parquet", scan.layout.name()), fill: Some(fill) }],
        all_files: 1,
        all_rows: 0,
    };
    Ok(FileRows::new(local_objects(folder)?, plan.scans().map(file).collect()))
}
