//! Our side: the join over our tables or over the peers' files.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anabranch_core::definition::Role;
use anabranch_core::selection::Selection;
use anabranch_core::{Position, SourceId, Timestamp};
use anabranch_offline_store::join::{JoinLimits, JoinOptions, JoinPlan, Joined, Spine, ViewRows, ViewScan, join, join_within};
use anabranch_offline_store::{FileRows, Fill, ViewFile, ViewFiles};
use anabranch_versioning::local_objects;
use arrow::ipc::writer::FileWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

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
    let mut phases = Vec::new();
    let joined = runtime.block_on(async {
        let spine = ParquetRecordBatchReaderBuilder::try_new(File::open(spine)?)?.with_batch_size(1 << 16).build()?;
        let schema = arrow::array::RecordBatchReader::schema(&spine);
        let spine = Spine::new(schema, spine.collect::<Result<Vec<_>, _>>()?, Spine::DEFAULT_TIME_COLUMN)?;
        phases.push(("spine decoded", start.elapsed().as_secs_f64()));
        let selection = Selection::Features((0..views).map(|view| format!("view{view}")).collect());
        let plan = JoinPlan::new(spine, &selection, &definitions, JoinOptions::default())?;
        phases.push(("spine ordered", start.elapsed().as_secs_f64()));
        let rows: Arc<dyn ViewRows> = match tables {
            Some(tables) => {
                let store = tables::open(&folder.join(tables)).await?;
                let head = tables::head(&store).await?;
                store.view_rows(head)
            }
            None => same_files(folder, &plan)?,
        };
        phases.push(("store opened", start.elapsed().as_secs_f64()));
        anyhow::Ok(match options.memory_limit {
            None => join(Arc::new(plan), rows).await?,
            Some(memory_bytes) => {
                let folder = folder.clone();
                let limits = JoinLimits { memory_bytes, part_rows: usize::MAX, spill: Arc::new(move || tempfile::tempfile_in(&folder)) };
                join_within(Arc::new(plan), rows, &limits).await?
            }
        })
    })?;
    // What was spilled comes back as it is read.
    for batch in joined.rows.batches() {
        std::hint::black_box(batch?);
    }
    let run = Run::measured(start.elapsed());
    if let Some(path) = &options.answer {
        write(&joined, path)?;
    }
    if options.explain {
        say(&format!("seconds until: {phases:?}, joined {}; {}", run.wall_s, serde_json::to_string(&joined.report)?));
    }
    Ok(run)
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
