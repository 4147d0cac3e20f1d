//! Restoring the metadata database from a backup against the objects there are.
//!
//! ```text
//! lock ─▶ index every pack ─▶ verify every commit ─▶ judge heads and tags ─▶ judge the logs ─▶ load ─▶ empty the online store ─▶ name the database
//!        in metadata.sqlite.restoring, which an earlier attempt may have left and which is begun anew                              the only step seen
//! ```
//!
//! A crash before the last step leaves a folder without a metadata database, as before; the restore is made again. After it the folder is whole, and the
//! first start fills the online store from the heads before it answers lookups.
//!
//! **Heads.** A head or tag that is not whole is told. With `allow_missing` a branch goes back to the newest commit of its reflog that is, and a tag is
//! left out; without it nothing is restored.
//!
//! **The write-ahead log goes on from the offset at the restored head**, as after any restart: rows that were committed after the backup are in the log as
//! long as it keeps them, and are consumed again, once, because the commits that held them are not in the restored history. Where the log was cut beyond
//! that offset meanwhile, these rows are only in commits made since. Those commits are still in the packs, so the head is *rolled forward* to the lowest
//! commit after it whose offset reaches the log. Where there is none, it is a finding; with `allow_missing` the offset is moved to where the log begins,
//! and the rows between are lost.
//!
//! **Ids.** Every mark is raised by [`ROOM`] beyond the backup's, and that of sources beyond whatever the log and any commit in the packs show; so is the
//! last branch id. Nothing is given twice, though commits and branches made since the backup are forgotten. Epochs get the new database's incarnation.
//!
//! What else was committed since the backup is not lost either: the newest commit that descends from each restored head is told, and can be merged.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use anabranch_core::{BranchId, Clock, RandomIds, SourceId, SystemClock};
use anabranch_ingest::offset::{Offset, OffsetKey};
use anabranch_ingest::pipeline::PUSH_PIPELINE;
use anabranch_ingest::source;
use anabranch_ingest::wal::Wal;
use anabranch_versioning::{
    BranchInfo, Change, CommitId, CommitInfo, CommitRequest, Finding, FsckOptions, MetadataDump, RealFiles, ReflogEntry, Repository,
    RepositoryOptions, SqliteMetadata, Verified, decode_backup, rebuild_index, verify_commits,
};

use super::Stores;
use crate::error::{Error, Result};
use crate::folder::RepositoryFolder;

/// How far every mark is raised beyond the backup's.
const ROOM: u64 = 1 << 16;

const PAGE: usize = 1_000;
const AUTHOR: &str = "anabranch";
const ACTION: &str = "restore";

/// How a backup is restored.
#[derive(Debug, Clone, Copy, Default)]
pub struct RestoreOptions {
    /// Restores what is whole where something is not.
    pub allow_missing: bool,
}

/// A branch that was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredBranch {
    /// The branch.
    pub name: String,
    /// Its head now.
    pub head: CommitId,
    /// Its head in the backup, where that is another.
    pub moved_from: Option<CommitId>,
    /// The newest commit that descends from the head, where there is one: made after the backup, on this branch or on one made from it.
    pub newer: Option<CommitId>,
}

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// The branches.
    pub branches: Vec<RestoredBranch>,
    /// How many tags.
    pub tags: u64,
    /// Packs that were indexed.
    pub packs: u64,
    /// What is not as it was.
    pub findings: Vec<String>,
}

/// Restores a repository whose metadata database is missing.
///
/// # Errors
/// [`Error::Locked`]; [`Error::Precondition`] where there is a metadata database, or where something is missing and that is not allowed; invalid for a
/// damaged backup. The folder is as before then.
pub async fn restore(data: &Path, repository: &str, backup: &Path, options: RestoreOptions) -> Result<Restored> {
    let bytes = std::fs::read(backup).map_err(Error::io(format!("reading {}", backup.display())))?;
    let (_, dump) = decode_backup(&bytes)?;
    let lock = super::lock(data).await?;
    let folder = lock.repository(repository)?;
    if folder.metadata.exists() {
        let reason = format!("{} is there: move it aside before restoring a backup in its place", folder.metadata.display());
        return Err(Error::Precondition(reason));
    }
    let draft = folder.metadata.with_extension("sqlite.restoring");
    remove_database(&draft)?;
    let restored = Restoration { folder: &folder, options, findings: Vec::new(), notes: Vec::new() }.run(dump, &draft).await;
    match &restored {
        Ok(_) => {
            remove_dir(&folder.online)?;
            // What SQLite left beside the database that was moved aside would be taken for the new one's.
            remove_database(&folder.metadata)?;
            let named = std::fs::rename(&draft, &folder.metadata);
            named.map_err(Error::io(format!("naming {}", folder.metadata.display())))?;
            let parent = folder.metadata.parent().unwrap_or(&folder.metadata);
            anabranch_versioning::Files::sync_dir(&RealFiles, parent).map_err(Error::io("syncing the data folder"))?;
        }
        Err(_) => remove_database(&draft)?,
    }
    lock.release();
    restored
}

/// Removes a database with what SQLite keeps beside it.
fn remove_database(path: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("removing {}", Path::new(&file).display()))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(format!("emptying {}", path.display()))(error)),
        _ => Ok(()),
    }
}

struct Restoration<'a> {
    folder: &'a RepositoryFolder,
    options: RestoreOptions,
    findings: Vec<String>,
    /// Findings that keep nothing from being restored.
    notes: Vec<String>,
}

/// A log on disk.
struct Log {
    branch: BranchId,
    source: SourceId,
    first: u64,
}

impl Restoration<'_> {
    async fn run(mut self, dump: MetadataDump, draft: &Path) -> Result<Restored> {
        let sqlite = Arc::new(SqliteMetadata::open(draft, &RandomIds::from_os()).await?);
        let stores = Stores { metadata: sqlite.clone(), ..Stores::at(self.folder, draft).await? };
        let rebuilt = rebuild_index(stores.metadata.as_ref(), &stores.objects).await?;
        self.findings.extend(rebuilt.findings.iter().map(ToString::to_string));
        let commits = all_commits(&stores).await?;
        let options = FsckOptions { owners: stores.owners.clone(), ..FsckOptions::default() };
        let verified = verify_commits(&stores.metadata, &stores.objects, options, &commits).await?;
        let whole: HashSet<CommitId> = commits.iter().filter(|commit| !verified.damaged.contains_key(*commit)).copied().collect();
        let (logs, backed_up) = (self.logs()?, dump.branches.clone());
        let before = self.findings.len();
        let mut dump = self.refs(dump, &whole, &verified.damaged);
        raise(&mut dump, &verified, &logs);
        self.refuse_from(before)?;
        stores.metadata.load(&dump).await?;
        let clock = Arc::new(SystemClock);
        let ids = Arc::new(RandomIds::from_os());
        let versions = Repository::open(stores.metadata.clone(), stores.objects.clone(), clock, ids, RepositoryOptions::default()).await?;
        let history = History::of(&versions, &commits).await?;
        let before = self.findings.len();
        for log in &logs {
            self.log(&versions, &stores, &history, &whole, log).await?;
        }
        self.refuse_from(before)?;
        let mut branches = Vec::new();
        for branch in versions.branches().await? {
            let old = backed_up.iter().find(|old| old.name == branch.name).map(|old| old.head);
            let newer = history.newest_after(&branch.head).filter(|commit| whole.contains(commit));
            branches.push(RestoredBranch { moved_from: old.filter(|old| *old != branch.head), name: branch.name, head: branch.head, newer });
        }
        versions.close().await;
        drop((versions, stores));
        sqlite.close().await;
        let findings = [self.findings, self.notes].concat();
        Ok(Restored { branches, tags: dump.tags.len() as u64, packs: rebuilt.packs, findings })
    }

    /// Where something is missing that may not be.
    fn refuse_from(&self, before: usize) -> Result<()> {
        let found = &self.findings[before..];
        if found.is_empty() || self.options.allow_missing {
            return Ok(());
        }
        let list = found.join("; ");
        Err(Error::Precondition(format!("the backup cannot be restored whole: {list}; --allow-missing restores what is")))
    }

    /// The backup with heads and tags that are whole.
    fn refs(&mut self, mut dump: MetadataDump, whole: &HashSet<CommitId>, damaged: &BTreeMap<CommitId, Vec<Finding>>) -> MetadataDump {
        let why = |commit: &CommitId| match damaged.get(commit).and_then(|findings| findings.first()) {
            Some(finding) => finding.to_string(),
            None => "it is in no pack".to_owned(),
        };
        let mut branches = Vec::new();
        for branch in std::mem::take(&mut dump.branches) {
            if whole.contains(&branch.head) {
                branches.push(branch);
                continue;
            }
            let found = format!("branch {:?}: its head {} is not whole: {}", branch.name, branch.head, why(&branch.head));
            let older = dump.reflog.iter().rev().filter(|(id, _)| *id == branch.id).map(|(_, entry)| entry.new).find(|commit| whole.contains(commit));
            match older {
                Some(head) => {
                    self.findings.push(format!("{found}; {head} is the newest of its reflog that is"));
                    push_reflog(&mut dump, branch.id, branch.head, head);
                    branches.push(BranchInfo { head, ..branch });
                }
                None => self.findings.push(format!("{found}; none of its reflog is, and it is left out")),
            }
        }
        dump.branches = branches;
        dump.tags.retain(|tag| {
            let is_whole = whole.contains(&tag.commit);
            if !is_whole {
                self.findings.push(format!("tag {:?} is left out: {} is not whole: {}", tag.name, tag.commit, why(&tag.commit)));
            }
            is_whole
        });
        dump
    }

    /// The logs that lie in the folder, by branch id.
    fn logs(&self) -> Result<Vec<Log>> {
        let mut logs = Vec::new();
        let folders = match std::fs::read_dir(&self.folder.wal) {
            Ok(folders) => folders,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(logs),
            Err(error) => return Err(Error::io(format!("listing {}", self.folder.wal.display()))(error)),
        };
        for folder in folders {
            let folder = folder.map_err(Error::io(format!("listing {}", self.folder.wal.display())))?.path();
            let Some(branch) = folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) else { continue };
            if let (Some(source), Some(first)) = (Wal::source_of(&RealFiles, &folder)?, Wal::first_in(&RealFiles, &folder)?) {
                logs.push(Log { branch: BranchId(branch), source, first });
            }
        }
        logs.sort_by_key(|log| log.branch.0);
        Ok(logs)
    }

    /// Sees to it that a branch's offset is one that its log can go on from.
    async fn log(&mut self, versions: &Repository, stores: &Stores, history: &History, whole: &HashSet<CommitId>, log: &Log) -> Result<()> {
        let Some(branch) = versions.branches().await?.into_iter().find(|branch| branch.id == log.branch) else {
            // It stays where it is: the id is never given again.
            self.notes.push(format!("the log of branch id {} has rows from {} on, and the backup has no such branch", log.branch.0, log.first));
            return Ok(());
        };
        let key = OffsetKey { branch: log.branch, pipeline: PUSH_PIPELINE.to_owned(), source: log.source }.to_key()?;
        let offset_at = async |commit: &CommitId| -> Result<Option<Offset>> {
            Ok(versions.get(commit, &key).await?.map(|bytes| Offset::from_bytes(&bytes)).transpose()?)
        };
        let offset = offset_at(&branch.head).await?;
        let next = offset.map_or(0, |offset| offset.next);
        if log.first <= next {
            return Ok(());
        }
        let mut best: Option<(u64, &CommitInfo)> = None;
        for info in history.after(&branch.head).into_iter().filter(|info| whole.contains(&info.id)) {
            let Ok(Some(offset)) = offset_at(&info.id).await else { continue };
            let is_better = best
                .as_ref()
                .is_none_or(|(next, best)| (offset.next, std::cmp::Reverse(info.commit.height)) > (*next, std::cmp::Reverse(best.commit.height)));
            if offset.next >= log.first && is_better {
                best = Some((offset.next, info));
            }
        }
        let name = &branch.name;
        if let Some((_, ahead)) = best {
            tracing::info!(branch = %name, commit = %ahead.id, "rolled forward to where the log goes on");
            move_head(stores, &branch, ahead.id).await?;
            return Ok(());
        }
        let lost = format!("rows {next} to {} of source {} on branch {name:?} are neither in its log nor in a commit", log.first - 1, log.source);
        self.findings.push(lost.clone());
        if self.options.allow_missing
            && let Some(offset) = offset
        {
            let change = Change::put(key, Offset { next: log.first, ..offset }.to_bytes());
            versions.commit(name, CommitRequest::new(AUTHOR, format!("restore: {lost}"), vec![change])).await?;
        }
        Ok(())
    }
}

async fn move_head(stores: &Stores, branch: &BranchInfo, to: CommitId) -> Result<()> {
    use anabranch_versioning::{HeadMove, HeadStep, Publication};
    let step = HeadStep { commit: to, time: SystemClock.now(), author: AUTHOR.to_owned(), action: ACTION.to_owned() };
    let head = HeadMove { branch: branch.id, expected: branch.head, steps: vec![step] };
    stores.metadata.publish(&Publication { head: Some(head), ..Publication::default() }).await?;
    Ok(())
}

fn push_reflog(dump: &mut MetadataDump, branch: BranchId, old: CommitId, new: CommitId) {
    let seq = dump.reflog.last().map_or(1, |(_, entry)| entry.seq + 1);
    let (author, action) = (AUTHOR.to_owned(), ACTION.to_owned());
    dump.reflog.push((branch, ReflogEntry { seq, old: Some(old), new, time: SystemClock.now(), author, action }));
}

/// Raises what ids come from beyond all that was given.
fn raise(dump: &mut MetadataDump, verified: &Verified, logs: &[Log]) {
    for next in dump.marks.values_mut() {
        *next = next.saturating_add(ROOM);
    }
    let seen = logs.iter().map(|log| (source::MARK, u64::from(log.source.get())));
    for (mark, id) in verified.ids.iter().map(|(mark, id)| (mark.as_str(), *id)).chain(seen) {
        let next = dump.marks.entry(mark.to_owned()).or_insert(1);
        *next = (*next).max(id.saturating_add(1));
    }
    let branches = logs.iter().map(|log| log.branch.0).chain([verified.last_branch]);
    dump.last_branch = branches.fold(dump.last_branch.saturating_add(ROOM), u64::max);
}

async fn all_commits(stores: &Stores) -> Result<Vec<CommitId>> {
    let (mut all, mut low) = (Vec::new(), CommitId([0; 32]));
    loop {
        let page = stores.metadata.commits_between(&low, &CommitId([0xFF; 32]), PAGE).await?;
        let Some(last) = page.last().copied() else { return Ok(all) };
        // A page begins with the last of the page before.
        let known = all.last().copied();
        all.extend(page.iter().filter(|commit| Some(**commit) != known));
        if page.len() < PAGE {
            return Ok(all);
        }
        low = last;
    }
}

/// Which commits come after which.
struct History {
    commits: HashMap<CommitId, CommitInfo>,
    children: HashMap<CommitId, Vec<CommitId>>,
}

impl History {
    async fn of(versions: &Repository, commits: &[CommitId]) -> Result<Self> {
        let mut history = Self { commits: HashMap::new(), children: HashMap::new() };
        for id in commits {
            // A commit that does not decode was told before.
            let Ok(info) = versions.commit_info(id).await else { continue };
            info.commit.parents.iter().for_each(|parent| history.children.entry(*parent).or_default().push(*id));
            history.commits.insert(*id, info);
        }
        Ok(history)
    }

    /// All that descend from a commit.
    fn after(&self, commit: &CommitId) -> Vec<&CommitInfo> {
        let (mut seen, mut next) = (HashSet::new(), vec![*commit]);
        let mut found = Vec::new();
        while let Some(id) = next.pop() {
            for child in self.children.get(&id).into_iter().flatten() {
                if seen.insert(*child) {
                    next.push(*child);
                    found.extend(self.commits.get(child));
                }
            }
        }
        found
    }

    fn newest_after(&self, commit: &CommitId) -> Option<CommitId> {
        self.after(commit).into_iter().max_by_key(|info| (info.commit.height, info.id)).map(|info| info.id)
    }
}
