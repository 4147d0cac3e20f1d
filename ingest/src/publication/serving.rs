//! Which branches are served, rebuilds, and what is left to drop.
//!
//! A branch is served from when it is recorded (`ingest.served`: branch id → nothing) until the record is gone. Then its generations are retired and dropped,
//! which a start finishes where a crash came between.

use std::sync::{Arc, PoisonError};

use anabranch_core::{BranchId, Generation};
use anabranch_versioning::CommitId;
use bytes::Bytes;

use super::fill::{Brought, FillProgress};
use super::generations::{Record, RecordKey};
use super::{Born, Line, Publisher, ServedView, online, versioning};
use crate::crash::CrashPoint;
use crate::pipeline::BranchName;
use crate::{Error, Result};

const SERVED: &str = "ingest.served";

/// A rebuild of what is online of views.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuild {
    /// The views; none for every view of the branch.
    pub views: Vec<String>,
    /// At most so many rows a second for each; none for as fast as it goes.
    pub rows_per_second: Option<u64>,
}

/// A branch that is served online.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedBranch {
    /// The branch.
    pub branch: String,
    /// What its views answer for; none as long as it is filled for the first time, or again after a loss.
    pub commit: Option<CommitId>,
    /// Its views by name; those that are served, or being filled.
    pub views: Vec<ServedViewStatus>,
    /// Whether a fill or rebuild is under way, or asked for.
    pub filling: bool,
}

/// How a view is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedViewStatus {
    /// The view.
    pub view: String,
    /// The generation that answers; none as long as none does.
    pub generation: Option<Generation>,
    /// The fill under way.
    pub fill: Option<FillProgress>,
}

impl Publisher {
    /// Knows the branches that are served, and what a process before left to be dropped.
    pub(super) async fn load_lines(&self) -> Result<()> {
        let branches = self.repository.branches().await.map_err(versioning)?;
        let mut after: Option<Bytes> = None;
        loop {
            let page = self.repository.metadata().values(SERVED, b"", after.as_deref(), 1_000).await.map_err(versioning)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, _) in &page {
                let id = key.as_ref().try_into().ok().map(|bytes| BranchId(u64::from_be_bytes(bytes)));
                match branches.iter().find(|branch| Some(branch.id) == id) {
                    Some(branch) => self.add_line(branch.id, &branch.name, true),
                    // The branch was deleted, and its record was still there when the process ended.
                    None => self.set_recorded(key, false).await?,
                }
            }
        }
        for (key, mut record) in self.generations.all(None).await? {
            if key.branch().is_none_or(|branch| !self.serves(branch)) {
                record = self.generations.change(&key, Record::retire_all).await?;
            }
            if let Some(next) = record.next.filter(|_| record.is_settled()) {
                // Every writer of this process begins with writing both.
                self.ready.lock().unwrap_or_else(PoisonError::into_inner).insert(next, Born::Removed);
            }
            record.retired.iter().for_each(|generation| self.retired.add(*generation));
        }
        self.work.notify_one();
        Ok(())
    }

    fn add_line(&self, branch: BranchId, name: &str, heard: bool) {
        let mut lines = self.lines.write().unwrap_or_else(PoisonError::into_inner);
        lines.entry(branch).or_insert_with(|| Arc::new(Line::new(branch, name.to_owned(), &self.online, &self.retired, heard)));
    }

    async fn set_recorded(&self, key: &[u8], recorded: bool) -> Result<()> {
        let (metadata, old, new) = (self.repository.metadata(), (!recorded).then_some(&[][..]), recorded.then_some(&[][..]));
        metadata.swap_value(SERVED, key, old, new).await.map_err(versioning)?;
        Ok(())
    }

    /// Serves a branch from now on; it answers once it is filled.
    pub(crate) async fn serve(&self, branch: &BranchName) -> Result<()> {
        if !self.serves(branch.id) {
            self.set_recorded(&branch.id.0.to_be_bytes(), true).await?;
            self.add_line(branch.id, &branch.name, false);
        }
        Ok(())
    }

    /// Serves a branch no longer, and lets what it had online be dropped.
    pub(crate) async fn unserve(&self, branch: BranchId) -> Result<()> {
        let Some(line) = self.line(branch) else { return Ok(()) };
        self.set_recorded(&branch.0.to_be_bytes(), false).await?;
        self.lines.write().unwrap_or_else(PoisonError::into_inner).remove(&branch);
        line.end();
        // Whoever fills it now finds it ended.
        let _turn = line.turn.lock().await;
        let mut retired = Vec::new();
        for (key, _) in self.generations.all(Some(branch)).await? {
            retired.extend(self.generations.change(&key, Record::retire_all).await?.retired);
        }
        self.retire(retired).await;
        Ok(())
    }

    /// Drops what is retired.
    pub(crate) async fn drop_retired(&self) -> Result<()> {
        for (key, record) in self.generations.all(None).await? {
            for generation in record.retired.into_iter().filter(|generation| self.retired.has(*generation)) {
                self.online.drop_generation(generation).await.map_err(online)?;
                self.online.sync().await.map_err(online)?;
                self.unmark(generation).await?;
                self.generations.change(&key, |record| record.retired.retain(|other| *other != generation)).await?;
            }
        }
        Ok(())
    }

    /// Records that views are to be rebuilt.
    pub(crate) async fn ask_for_rebuild(&self, line: &Line, rebuild: &Rebuild) -> Result<()> {
        let served = line.served().ok_or(Error::Refilling)?;
        if rebuild.rows_per_second == Some(0) {
            return Err(Error::invalid("rows_per_second", "it is 0: leave it out to go as fast as possible"));
        }
        if let Some(unknown) = rebuild.views.iter().find(|view| !served.views.contains_key(*view)) {
            return Err(Error::invalid("view", format!("branch {:?} serves no feature view {unknown:?}", line.name())));
        }
        let head = self.branch_of(line).await?.head;
        let incarnation = self.online.incarnation().await.map_err(online)?;
        for view in served.views.keys().filter(|view| rebuild.views.is_empty() || rebuild.views.contains(view)) {
            let Some(key) = self.key(line.branch, &head, view).await? else { continue };
            let new = self.generations.allocate().await?;
            // What is being filled already is not begun again.
            let record = self.generations.change(&key, |record| record.next = record.next.or(Some(new))).await?;
            if let (true, Some(rate)) = (record.next == Some(new), rebuild.rows_per_second) {
                self.throttle(new, head, incarnation, rate).await?;
            }
        }
        self.crash.reach(CrashPoint::GenerationRecorded);
        self.work.notify_one();
        Ok(())
    }

    /// Rebuilds whatever is to be rebuilt, one view after the other.
    pub(crate) async fn rebuild_asked(&self) -> Result<()> {
        for (key, record) in self.generations.all(None).await? {
            let (Some(_), Some(_), Some(line)) = (record.current, record.next, key.branch().and_then(|branch| self.line(branch))) else { continue };
            self.rebuild(&line, &key).await?;
        }
        Ok(())
    }

    async fn rebuild(&self, line: &Line, key: &RecordKey) -> Result<()> {
        loop {
            // What the current generation holds too much is found by it.
            self.publish(line).await?;
            let Some(next) = self.generations.get(key).await?.next else { return Ok(()) };
            self.let_writers_hear(line).await?;
            let (head, incarnation) = (self.branch_of(line).await?.head, self.online.incarnation().await.map_err(online)?);
            let definitions = anabranch_registry::load(&self.repository, &head).await.map_err(|error| Error::below("rebuilding", error))?;
            let mut found = None;
            for view in definitions.views() {
                if self.key(line.branch, &head, &view.name).await?.as_ref() == Some(key) {
                    found = Some(definitions.layout(&view.name)?);
                }
            }
            // The view was deleted, and what it had is retired with the next publication.
            let Some(layout) = found else { return Ok(()) };
            let packed = self.packed(&head, &layout).await?;
            let view = ServedView { layout, generation: next, packed };
            if self.bring(&line.fills, &view, &head, incarnation).await? == Brought::Removed {
                self.replace_next(key).await?;
                continue;
            }
            if !self.advance(std::iter::once(&view), &head, incarnation).await? {
                continue;
            }
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).insert(next, Born::Asked);
            let _turn = line.turn.lock().await;
            return self.publish_in_turn(line, true).await;
        }
    }

    /// How a branch is served.
    pub(crate) async fn status(&self, line: &Line) -> Result<ServedBranch> {
        // What is served is looked at after the records: a switch is recorded first, and lookups are answered by it a moment later.
        let records = self.generations.all(Some(line.branch)).await?;
        let served = line.served();
        let mut views: Vec<ServedViewStatus> = Vec::new();
        for (name, view) in served.iter().flat_map(|served| served.views.iter()) {
            views.push(ServedViewStatus { view: name.clone(), generation: Some(view.generation), fill: None });
        }
        for (name, fill) in line.fills.all() {
            match views.iter_mut().find(|view| view.view == name) {
                Some(view) => view.fill = Some(fill),
                None => views.push(ServedViewStatus { view: name, generation: None, fill: Some(fill) }),
            }
        }
        let answers = |generation: Generation| views.iter().any(|view| view.generation == Some(generation));
        let waits = |record: &Record| record.next.is_some() || record.current.is_some_and(|current| !answers(current));
        let filling = served.is_none() || records.iter().any(|(_, record)| waits(record));
        Ok(ServedBranch { branch: line.name(), commit: served.map(|served| served.commit), views, filling })
    }
}
