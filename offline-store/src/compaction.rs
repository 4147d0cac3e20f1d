//! Compaction: the rows of a table in fewer, larger, sorted files. No row changes.
//!
//! Streams commit small files, and outside engines commit files that are sorted in no order of ours and carry no reserved columns. Reading many of them
//! costs an open, a footer and a bound on the statistics each. A compaction reads some of a table's files, sorts their rows together, writes them out as
//! files of about [`CompactOptions::target_bytes`], reserved columns included, and commits one snapshot (Iceberg's `replace`) that has the new files in
//! place of the old.
//!
//! ```text
//! plan at the head ─▶ read, sort, write files ─▶ lock the table ─▶ head: as planned, or only ─▶ write manifests ─▶ commit ─▶ done
//!  (files, by partition)    (no lock held)        (this process)    appends on top of it?        and a list          │ Stale: another
//!                                                      ▲                  │ no: superseded                             │ server moved
//!                                                      └──────────────────┼──────────────────────────────────────────┘ the table
//! ```
//!
//! **What is planned.** By partition, the files below [`CompactOptions::small_bytes`], where at least two of them become fewer, and whatever was written in
//! an order, with partitions or without reserved columns that are not the table's own. [`CompactionScope::Full`] takes all files of each partition, so
//! that afterwards no two files of it hold the same span of entities; a partition that has only what one full compaction made stays as it is. The plan is
//! fixed when it begins: what is appended meanwhile is left for the next one. It is worked off in jobs of bounded size, each its own commit.
//!
//! **Bounded memory.** A job's files are decoded one after the other into a sort that spills to disk beyond half of [`CompactOptions::memory_bytes`]; the
//! sorted rows are cut into files as they come, none of more than a quarter of it in memory. So what is held is that and one decoded input file.
//!
//! **What is committed.** Inside the committer's queue only this is done: look whether the table still has the columns and the snapshot that the list was
//! written for. Outside of it, and for every head anew: the table is the same one with the same columns, its history since the plan is appends (or this
//! compaction's own commits), and every file that is to go is still live. Otherwise the job is dropped and the outcome is
//! [`CompactionOutcome::Superseded`]; nothing is lost but the work.
//!
//! **Failure points.** A crash before the commit leaves files that no commit names; after it there is a whole commit. The files of before are not touched:
//! older commits, tags and branches, and snapshots whose entries are still in the map, go on naming them.
//!
//! **What others see.** The snapshot's entry says for each new file the source positions of all files that it has rows of, so what is in stays in. Its
//! files count as added to nobody ([`crate::AddedFiles`]): publication, and whoever asks what came since a commit, is given the files that brought the
//! rows. A merge drops a compaction where the other side did more ([`crate::TableResolver`]).

mod commit;
mod plan;
mod rewrite;

use std::collections::HashSet;
use std::path::PathBuf;

use anabranch_versioning::CommitId;

use crate::Result;
use crate::table::{OfflineStore, TableName};

/// Which files of a table are rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CompactionScope {
    /// Small files, and those that are not in the table's own form.
    #[default]
    Small,
    /// All files.
    Full,
}

/// How a table is compacted.
#[derive(Debug, Clone)]
pub struct CompactOptions {
    /// In whose name it is committed.
    pub author: String,
    /// Which files are rewritten.
    pub scope: CompactionScope,
    /// A file of fewer bytes is small.
    pub small_bytes: u64,
    /// About how many bytes a file should have.
    pub target_bytes: u64,
    /// About how much memory is used for rows.
    pub memory_bytes: usize,
    /// Where sorting spills to; none: the system's folder for temporary files.
    pub spill: Option<PathBuf>,
}

impl Default for CompactOptions {
    fn default() -> Self {
        Self {
            author: "compaction".to_owned(),
            scope: CompactionScope::Small,
            small_bytes: 32 << 20,
            target_bytes: 128 << 20,
            memory_bytes: 1 << 30,
            spill: None,
        }
    }
}

/// How a compaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompactionOutcome {
    /// All that was planned was rewritten.
    Compacted,
    /// There was nothing to be gained.
    Nothing,
    /// The table was changed by other than appends meanwhile, as said here; what was committed before stands.
    Superseded(String),
}

impl CompactionOutcome {
    /// Its name for programs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Compacted => "compacted",
            Self::Nothing => "nothing",
            Self::Superseded(_) => "superseded",
        }
    }
}

/// What a compaction did to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compaction {
    /// The table.
    pub table: TableName,
    /// How it ended.
    pub outcome: CompactionOutcome,
    /// The commits made, oldest first.
    pub commits: Vec<CommitId>,
    /// How many files the table had.
    pub files_before: u64,
    /// How many it would have had if nobody else had written.
    pub files_after: u64,
    /// How many bytes they took.
    pub bytes_before: u64,
    /// How many they would have taken after it.
    pub bytes_after: u64,
    /// How many rows were rewritten.
    pub rows: u64,
}

impl OfflineStore {
    /// Rewrites files of a table on a branch as fewer and larger ones.
    ///
    /// # Errors
    /// [`crate::Error::NoTable`]; [`crate::Error::Corrupt`] where a file is missing or damaged; what the object store and the repository fail with. What
    /// was committed before an error stands.
    pub async fn compact(&self, branch: &str, name: &TableName, options: &CompactOptions) -> Result<Compaction> {
        let head = self.head(branch).await?;
        let plan = self.plan_compaction(&head, name, options).await?;
        let mut done = Compaction {
            table: name.clone(),
            outcome: CompactionOutcome::Nothing,
            commits: Vec::new(),
            files_before: plan.files,
            files_after: plan.files,
            bytes_before: plan.bytes,
            bytes_after: plan.bytes,
            rows: 0,
        };
        let mut own = HashSet::new();
        for job in &plan.jobs {
            let written = self.rewrite(&plan, job, options).await?;
            if written.len() >= job.files.len() && !job.always {
                continue;
            }
            match self.commit_rewrite(branch, &plan, job, &written, &own, options).await? {
                commit::Rewritten::Superseded(reason) => {
                    done.outcome = CompactionOutcome::Superseded(reason);
                    return Ok(done);
                }
                commit::Rewritten::Committed { commit, snapshot_id } => {
                    own.insert(snapshot_id);
                    done.outcome = CompactionOutcome::Compacted;
                    done.commits.push(commit);
                    done.count(job, &written);
                }
            }
        }
        Ok(done)
    }

    /// How many files a compaction of a table at a commit would rewrite.
    ///
    /// # Errors
    /// As [`OfflineStore::compact`].
    pub async fn compactable_files(&self, commit: &CommitId, name: &TableName, options: &CompactOptions) -> Result<u64> {
        let plan = self.plan_compaction(commit, name, options).await?;
        Ok(plan.jobs.iter().map(|job| job.files.len() as u64).sum())
    }
}

impl Compaction {
    fn count(&mut self, job: &plan::Job, written: &[crate::data_file::WrittenFile]) {
        self.files_after = self.files_after + written.len() as u64 - job.files.len() as u64;
        let new: u64 = written.iter().map(|file| file.data_file.file_size_in_bytes()).sum();
        self.bytes_after = self.bytes_after + new - job.bytes();
        self.rows += job.rows();
    }
}
