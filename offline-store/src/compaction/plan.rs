//! Which files of a table are rewritten together.

use std::collections::BTreeMap;

use anabranch_versioning::CommitId;
use iceberg::spec::{Literal, PrimitiveLiteral};

use super::{CompactOptions, CompactionScope};
use crate::Result;
use crate::metadata::TableState;
use crate::scan::LiveFile;
use crate::schema::SORT_ORDER_ID;
use crate::table::{OfflineStore, TableName};

/// What a snapshot's summary says of the scope of the compaction that made it.
pub(super) const SCOPE: &str = "anabranch.compaction";
pub(super) const FULL: &str = "full";
pub(super) const SMALL: &str = "small";

/// How many files of the target's size one job of small files makes at most, so that a large backlog is committed in parts.
const JOB_FILES: u64 = 32;

/// What is to be done to a table as it is at a commit.
pub(super) struct Plan {
    pub(super) state: TableState,
    /// The table's snapshot then.
    pub(super) snapshot: i64,
    pub(super) jobs: Vec<Job>,
    /// All files of the table.
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// Files that are rewritten together, as one commit.
pub(super) struct Job {
    pub(super) files: Vec<LiveFile>,
    /// How many rows a new file gets.
    pub(super) rows_per_file: u64,
    /// Whether it is worth it even if there are not fewer files after it.
    pub(super) always: bool,
}

impl Job {
    fn new(files: Vec<LiveFile>, target_bytes: u64, always: bool) -> Self {
        let mut job = Self { files, rows_per_file: 0, always };
        job.rows_per_file = job.rows().div_ceil(outputs(job.bytes(), target_bytes)).max(1);
        job
    }

    pub(super) fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.data_file.record_count()).sum()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(size).sum()
    }
}

fn size(file: &LiveFile) -> u64 {
    file.data_file.file_size_in_bytes()
}

/// How many files of about the target's size so many bytes make.
fn outputs(bytes: u64, target_bytes: u64) -> u64 {
    let target = target_bytes.max(1);
    (bytes.saturating_add(target / 2) / target).max(1)
}

impl OfflineStore {
    /// What a compaction of a table at a commit would do.
    pub(super) async fn plan_compaction(&self, commit: &CommitId, name: &TableName, options: &CompactOptions) -> Result<Plan> {
        let state = self.table(commit, name).await?;
        let mut files = self.live_files(commit, &state).await?;
        self.fill(commit, &state, &mut files).await?;
        let snapshot = state.entry.current_snapshot.unwrap_or_default();
        let mut plan = Plan { snapshot, jobs: Vec::new(), files: files.len() as u64, bytes: files.iter().map(size).sum(), state };
        let spec = plan.state.metadata().default_partition_spec_id();
        let mut partitions = BTreeMap::<Option<i32>, Vec<LiveFile>>::new();
        let mut strays = Vec::new();
        for file in files {
            match partition(&file) {
                Some(value) if file.spec == spec => partitions.entry(value).or_default().push(file),
                _ => strays.push(file),
            }
        }
        let full = options.scope == CompactionScope::Full;
        let mut settled = Vec::new();
        if full {
            for (partition, files) in &partitions {
                if strays.is_empty() && self.settled(commit, &plan.state, files).await? {
                    settled.push(*partition);
                }
            }
        }
        let chosen = partitions.into_iter().filter(|(partition, _)| !settled.contains(partition)).map(|(_, files)| match full {
            true => files,
            false => files.into_iter().filter(|file| size(file) < options.small_bytes || foreign(file)).collect(),
        });
        if strays.is_empty() {
            let jobs = chosen.flat_map(|files| jobs(files, options));
            plan.jobs = jobs.collect();
        } else {
            // Rows of files with other partitions may go to any partition, so these are rewritten together with all that they may join.
            strays.extend(chosen.flatten());
            plan.jobs = vec![Job::new(strays, options.target_bytes, true)];
        }
        Ok(plan)
    }

    /// Whether the files of a partition are what one full compaction made of it, or one file alone.
    async fn settled(&self, commit: &CommitId, state: &TableState, files: &[LiveFile]) -> Result<bool> {
        let Some(first) = files.first() else { return Ok(true) };
        if files.iter().any(|file| foreign(file) || file.snapshot != first.snapshot) {
            return Ok(false);
        }
        let snapshot = self.snapshot(commit, state.entry.uuid, first.snapshot).await?;
        Ok(files.len() == 1 || snapshot.summary.get(SCOPE).is_some_and(|scope| scope == FULL))
    }
}

/// The jobs that some files of one partition give.
fn jobs(files: Vec<LiveFile>, options: &CompactOptions) -> Vec<Job> {
    let worthwhile = |job: Job| {
        let fewer = job.files.len() > 1 && outputs(job.bytes(), options.target_bytes) < job.files.len() as u64;
        (job.always || fewer).then_some(job)
    };
    let job = |files: Vec<LiveFile>| {
        let always = options.scope == CompactionScope::Full || files.iter().any(foreign);
        Job::new(files, options.target_bytes, always)
    };
    if options.scope == CompactionScope::Full {
        return Some(files).filter(|files| !files.is_empty()).into_iter().map(job).collect();
    }
    let most = options.target_bytes.saturating_mul(JOB_FILES);
    let (mut parts, mut bytes) = (Vec::<Vec<LiveFile>>::new(), u64::MAX);
    for file in files {
        bytes = bytes.saturating_add(size(&file));
        match parts.last_mut().filter(|_| bytes <= most) {
            Some(part) => part.push(file),
            None => {
                bytes = size(&file);
                parts.push(vec![file]);
            }
        }
    }
    parts.into_iter().map(job).filter_map(worthwhile).collect()
}

/// Whether a file is not in the table's own form, whatever its size: its rows lie in another order, or lack their reserved columns.
fn foreign(file: &LiveFile) -> bool {
    file.fill.is_some() || file.data_file.sort_order_id() != Some(SORT_ORDER_ID)
}

/// The partition of a file; the outer `None` is one that is not known.
fn partition(file: &LiveFile) -> Option<Option<i32>> {
    match file.data_file.partition().fields() {
        [] => Some(None),
        [Some(Literal::Primitive(PrimitiveLiteral::Int(value)))] => Some(Some(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_are_made_as_are_nearest_to_the_target() {
        for (bytes, files) in [(0, 1), (1, 1), (149, 1), (150, 2), (249, 2), (250, 3), (u64::MAX, u64::MAX / 100)] {
            assert_eq!(outputs(bytes, 100), files, "{bytes}");
        }
        assert_eq!(outputs(7, 0), 7);
    }
}
