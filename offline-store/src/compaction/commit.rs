//! New files in place of old ones, as one commit on whatever the head is by then.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anabranch_versioning::{Change, CommitId, CommitRequest};
use iceberg::spec::ManifestFile;

use super::plan::{FULL, Job, Plan, SCOPE, SMALL};
use super::{CompactOptions, CompactionScope};
use crate::Result;
use crate::append::{PutSnapshot, snapshot_id};
use crate::data_file::WrittenFile;
use crate::entry::{AddedFile, Interval, REPLACE, SnapshotEntry, snapshot_key};
use crate::manifests::{ManifestWork, live_files};
use crate::metadata::TableState;
use crate::scan::file_location;
use crate::table::OfflineStore;

/// The most intervals that one snapshot's entry says of all its files together: an entry is bounded.
const MOST_INTERVALS: usize = 16 << 10;

/// How the commit of a job went.
pub(super) enum Rewritten {
    Committed {
        commit: CommitId,
        snapshot_id: i64,
    },
    /// The table is not what was planned for any more.
    Superseded(String),
}

impl OfflineStore {
    /// Commits a job's new files in place of its old ones; `own` are the snapshots that this compaction has made before.
    pub(super) async fn commit_rewrite(
        &self,
        branch: &str,
        plan: &Plan,
        job: &Job,
        written: &[WrittenFile],
        own: &HashSet<i64>,
        options: &CompactOptions,
    ) -> Result<Rewritten> {
        let name = &plan.state.name;
        let rewrite = Rewrite {
            plan,
            written,
            gone: job.files.iter().map(|file| file.data_file.file_path().to_owned()).collect(),
            own,
            job,
            options,
            snapshot_id: snapshot_id(self.ids.random()),
        };
        let mut added = None;
        let _turn = self.lock(branch, std::slice::from_ref(name)).await;
        for _ in 0..self.options.append_attempts.max(1) {
            let head = self.head(branch).await?;
            let change = match self.replace(&head, &rewrite, &mut added).await? {
                Ok(change) => change,
                Err(reason) => return Ok(Rewritten::Superseded(reason)),
            };
            let message = format!("compact {name}: {} files to {}", job.files.len(), written.len());
            let request = CommitRequest::new(&options.author, message, vec![Change::Apply(Box::new(change))]);
            match self.repository.commit(branch, request).await {
                Ok(committed) => return Ok(Rewritten::Committed { commit: committed.commit, snapshot_id: rewrite.snapshot_id }),
                Err(anabranch_versioning::Error::Stale { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Rewritten::Superseded("other servers kept moving the table".to_owned()))
    }

    /// What puts the new files on top of the table as it is at `head`, or why they are not wanted there.
    async fn replace(&self, head: &CommitId, rewrite: &Rewrite<'_>, added: &mut Option<ManifestFile>) -> Result<Result<PutSnapshot, String>> {
        let Some(state) = self.find_table(head, &rewrite.plan.state.name).await? else { return Ok(Err("the table was dropped".to_owned())) };
        if let Some(reason) = self.moved(head, &state, rewrite).await? {
            return Ok(Err(reason));
        }
        let Some((parent_id, parent)) = self.parent(head, &state).await? else { return Ok(Err("the table has lost its rows".to_owned())) };
        let work = ManifestWork {
            cache: &self.manifests,
            io: &self.io,
            locations: &self.locations,
            table: &state,
            snapshot_id: rewrite.snapshot_id,
            fan_out: self.options.merge_manifests,
        };
        if added.is_none() {
            *added = Some(work.added(self.uuid(), rewrite.written.iter().map(|file| file.data_file.clone())).await?);
        }
        let (mut manifests, mut found): (Vec<_>, _) = (added.iter().cloned().collect(), 0);
        for manifest in self.manifests.list(&self.io, &self.locations.location(&parent.manifest_list)).await?.iter() {
            match work.without(manifest, &rewrite.gone, self.uuid()).await? {
                Some((without, count)) => {
                    found += count;
                    manifests.push(without);
                }
                None if live_files(manifest) > 0 => manifests.push(manifest.clone()),
                None => {}
            }
        }
        if found != rewrite.gone.len() {
            return Ok(Err("files that were to be rewritten are not there any more".to_owned()));
        }
        let sequence_number = state.entry.last_sequence_number + 1;
        let manifest_list = work.list(self.uuid(), manifests, Some(parent_id), sequence_number).await?;
        let snapshot = SnapshotEntry {
            parent: Some(parent_id),
            sequence_number,
            time_ms: self.now_ms().max(parent.time_ms),
            schema_id: state.metadata().current_schema_id(),
            manifest_list,
            summary: rewrite.summary(&parent.summary),
            files: rewrite.files(&self.intervals_of(head, &state, rewrite).await?),
        };
        Ok(Ok(PutSnapshot {
            table: state.name.key()?,
            uuid: state.entry.uuid,
            metadata: Some(state.entry.metadata),
            parent: Some(parent_id),
            sequence_number,
            snapshot_id: rewrite.snapshot_id,
            key: snapshot_key(state.entry.uuid, rewrite.snapshot_id)?,
            value: snapshot.encode(),
        }))
    }

    /// What happened to the table since the plan, other than appends and this compaction's own commits.
    async fn moved(&self, head: &CommitId, state: &TableState, rewrite: &Rewrite<'_>) -> Result<Option<String>> {
        let planned = &rewrite.plan.state.entry;
        if state.entry.uuid != planned.uuid {
            return Ok(Some("the table was dropped and made anew".to_owned()));
        }
        // A column that comes back would find its values gone from the new files.
        if state.entry.metadata != planned.metadata {
            return Ok(Some("the table's columns or properties were changed".to_owned()));
        }
        let mut next = state.entry.current_snapshot;
        while let Some(id) = next.filter(|id| *id != rewrite.plan.snapshot) {
            let snapshot = self.snapshot(head, state.entry.uuid, id).await?;
            if snapshot.only_rewrites() && !rewrite.own.contains(&id) {
                return Ok(Some("the table was compacted by another".to_owned()));
            }
            next = snapshot.parent;
        }
        Ok(next.is_none().then(|| "the table was moved to another history".to_owned()))
    }

    /// The positions that are in by the files that go.
    async fn intervals_of(&self, head: &CommitId, state: &TableState, rewrite: &Rewrite<'_>) -> Result<Vec<Interval>> {
        let mut intervals = Vec::new();
        let snapshots: BTreeSet<i64> = rewrite.job.files.iter().map(|file| file.snapshot).collect();
        let gone: HashSet<&str> = rewrite.gone.iter().map(|location| self.locations.path(location).unwrap_or(location)).collect();
        for id in snapshots {
            for file in self.snapshot(head, state.entry.uuid, id).await?.files {
                let location = file_location(state, &file);
                if gone.contains(self.locations.path(&location).unwrap_or(&location)) {
                    intervals.extend(file.intervals);
                }
            }
        }
        Ok(Interval::merged(intervals))
    }
}

/// A job with what has become of it.
struct Rewrite<'a> {
    plan: &'a Plan,
    job: &'a Job,
    written: &'a [WrittenFile],
    /// The locations of the files that go.
    gone: HashSet<String>,
    own: &'a HashSet<i64>,
    options: &'a CompactOptions,
    snapshot_id: i64,
}

impl Rewrite<'_> {
    /// The new files. Rows of the old are spread over all of them, so each answers for all of their intervals; where that would be too long, the first
    /// does.
    fn files(&self, intervals: &[Interval]) -> Vec<AddedFile> {
        let all = intervals.len().saturating_mul(self.written.len()) <= MOST_INTERVALS;
        let file = |(place, file): (usize, &WrittenFile)| AddedFile {
            name: file.name.clone(),
            rows: file.data_file.record_count(),
            intervals: if all || place == 0 { intervals.to_vec() } else { Vec::new() },
            fill: None,
        };
        self.written.iter().enumerate().map(file).collect()
    }

    /// Iceberg's summary of a replacement; totals go on from the parent's where it has them.
    fn summary(&self, parent: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let scope = if self.options.scope == CompactionScope::Full { FULL } else { SMALL };
        let mut summary = BTreeMap::from([("operation".to_owned(), REPLACE.to_owned()), (SCOPE.to_owned(), scope.to_owned())]);
        let bytes: u64 = self.written.iter().map(|file| file.data_file.file_size_in_bytes()).sum();
        let figures = [
            ("data-files", "added-data-files", self.written.len() as u64, "deleted-data-files", self.job.files.len() as u64),
            ("records", "added-records", self.job.rows(), "deleted-records", self.job.rows()),
            ("files-size", "added-files-size", bytes, "removed-files-size", self.job.bytes()),
        ];
        for (what, added, plus, removed, minus) in figures {
            summary.insert(added.to_owned(), plus.to_string());
            summary.insert(removed.to_owned(), minus.to_string());
            let total = format!("total-{what}");
            if let Some(before) = parent.get(&total).and_then(|text| text.parse::<u64>().ok()) {
                summary.insert(total, before.saturating_add(plus).saturating_sub(minus).to_string());
            }
        }
        summary
    }
}
