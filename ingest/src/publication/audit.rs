//! Comparing what is online with the law: for each entity the row that is last in the total order among the rows at the commit that a generation answers for,
//! and the rows that its branch's pipeline has published beyond.
//!
//! 1. Without keeping anybody away: what history has of the entities is read at the served commit, and compared with what is online. Whatever differs is a
//!    suspect, for a writer may have come between the two reads.
//! 2. The suspects again, in the publisher's turn, so that no generation is advanced or replaced meanwhile: only the pipeline writes then, and its rows are
//!    known by their positions, which lie at or behind the commit's offset. What differs still, differs.
//!
//! Rows of at most [`PART_ROWS`] table rows are held at once: a table of more is gone through several times, each time for the entities of another part
//! of the hashes of keys.
//!
//! Repairs write rows that are missing, or older than history's. What history does not have cannot be taken out of a generation, so the view is rebuilt.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

use anabranch_core::{EntityKey, RowOrder};
use anabranch_offline_store::{ScanRequest, TableName};
use anabranch_online_store::{OnlineStore, PackedRow, ReadGroup, Write, rows_of};
use anabranch_versioning::{CommitId, Scan, scan_all};
use bytes::Bytes;
use futures::TryStreamExt;

use super::serving::Rebuild;
use super::{Line, Publisher, Served, ServedView, offline, online, versioning};
use crate::offset::{Offset, OffsetKey};
use crate::pipeline::PUSH_PIPELINE;
use crate::{Error, Result};

/// Rows of a table that are compared in one pass.
const PART_ROWS: u64 = 4_000_000;
/// Keys that are read online at once.
const KEYS: usize = 2_000;
/// Keys that a report names.
const EXAMPLES: usize = 10;
/// Rows that a sample looks at in one file.
const SAMPLE: usize = 256;

/// What is to be compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditRequest {
    /// The views; none for every view of the branch.
    pub views: Vec<String>,
    /// Whether what differs is to be mended.
    pub repair: bool,
}

/// What came of comparing a view.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ViewAudit {
    /// The view.
    pub view: String,
    /// The commit that it was compared with.
    pub commit: Option<CommitId>,
    /// Entities that history or the online store has.
    pub entities: u64,
    /// Entities whose row online is from beyond the commit, and of its branch's pipeline.
    pub pending: u64,
    /// Entities that history has and the online store has not.
    pub missing: u64,
    /// Entities whose row online is older than history's.
    pub behind: u64,
    /// Entities whose row online history does not have.
    pub unexplained: u64,
    /// Entities whose row online is history's by its order and has other values.
    pub different: u64,
    /// Rows that were written to mend it.
    pub repaired: u64,
    /// Whether the view is being rebuilt because rows could not be mended.
    pub rebuilding: bool,
    /// Some of the keys that differ, each with how.
    pub examples: Vec<String>,
}

impl ViewAudit {
    /// Entities that differ.
    pub const fn differing(&self) -> u64 {
        self.missing + self.behind + self.unexplained + self.different
    }
}

/// How the row of an entity differs from the law.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skew {
    Missing,
    Behind,
    Unexplained,
    Different,
}

/// What comparing one entity came to.
enum Compared {
    Agrees,
    Pending,
    Skewed(Skew),
}

/// The positions from which on rows of a source are in no commit.
type Offsets = HashMap<u32, u64>;

/// The rows that history has of entities.
type Rows = HashMap<EntityKey, Bytes>;

/// Which entities are compared in a pass.
struct Part {
    hasher: RandomState,
    part: u64,
    parts: u64,
}

impl Part {
    fn has(&self, key: &EntityKey) -> bool {
        self.parts == 1 || self.hasher.hash_one(key) % self.parts == self.part
    }
}

impl Publisher {
    /// Compares views of a branch, and mends them where that is asked for.
    pub(crate) async fn audit(&self, line: &Line, request: &AuditRequest) -> Result<Vec<ViewAudit>> {
        let served = line.served().ok_or(Error::Refilling)?;
        if let Some(unknown) = request.views.iter().find(|view| !served.views.contains_key(*view)) {
            return Err(Error::invalid("view", format!("branch {:?} serves no feature view {unknown:?}", line.name())));
        }
        let mut audits = Vec::new();
        for name in served.views.keys().filter(|name| request.views.is_empty() || request.views.contains(name)) {
            audits.extend(self.audit_view(line, name, request.repair).await?);
        }
        Ok(audits)
    }

    /// `None` where the view is not served any more.
    async fn audit_view(&self, line: &Line, name: &str, repair: bool) -> Result<Option<ViewAudit>> {
        let (mut audit, hasher) = (ViewAudit { view: name.to_owned(), ..ViewAudit::default() }, RandomState::new());
        let (mut part, mut parts) = (0, 1);
        while part < parts {
            let served = line.served().ok_or(Error::Refilling)?;
            let Some(view) = served.views.get(name) else { return Ok(None) };
            if part == 0 {
                let files = self.offline.table_files(&served.commit, &TableName::features(name)).await.map_err(offline)?;
                parts = files.iter().map(|file| file.rows).sum::<u64>().div_ceil(PART_ROWS).max(1);
            }
            let which = Part { hasher: hasher.clone(), part, parts };
            audit.commit = Some(served.commit);
            let suspects = match self.compare(line, &served, view, &which, &mut audit).await {
                // Another generation came meanwhile: this part anew.
                Err(Error::Replaced) => continue,
                compared => compared?,
            };
            if !suspects.is_empty() {
                self.judge(line, name, suspects, repair, &mut audit).await?;
            }
            part += 1;
        }
        if repair && audit.unexplained + audit.different > 0 {
            self.ask_for_rebuild(line, &Rebuild { views: vec![name.to_owned()], rows_per_second: None }).await?;
            audit.rebuilding = true;
        }
        Ok(Some(audit))
    }

    /// The first comparison of a part: counts what agrees, and answers who does not.
    async fn compare(&self, line: &Line, served: &Served, view: &ServedView, part: &Part, audit: &mut ViewAudit) -> Result<Rows> {
        let offsets = self.offsets(line, &served.commit).await?;
        let mut history = self.history(&served.commit, view, |key| part.has(key)).await?;
        let (mut agree, mut pending, mut suspects) = (0, 0, Rows::new());
        let keys: Vec<EntityKey> = history.keys().cloned().collect();
        for keys in keys.chunks(KEYS) {
            let rows = read(served.store.as_ref(), view, keys).await?;
            for (key, row) in keys.iter().zip(rows) {
                match compare(history.get(key), row.as_ref(), &offsets)? {
                    Compared::Agrees => agree += 1,
                    Compared::Pending => pending += 1,
                    Compared::Skewed(_) => drop(suspects.insert(key.clone(), Bytes::new())),
                }
            }
        }
        let mut after = None;
        loop {
            let page = served.store.scan(view.generation, after.as_ref(), KEYS).await.map_err(online)?;
            for (key, row) in page.rows.into_iter().filter(|(key, _)| part.has(key)) {
                if history.contains_key(&key) {
                    continue;
                }
                // A key may come twice.
                match compare(None, Some(&row), &offsets)? {
                    Compared::Agrees => {}
                    Compared::Pending => pending += 1,
                    Compared::Skewed(_) => drop(suspects.insert(key.clone(), Bytes::new())),
                }
                history.insert(key, row);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        // A read of the generation that was replaced meanwhile fails, and a scan does not.
        read(served.store.as_ref(), view, &keys[..keys.len().min(1)]).await?;
        audit.entities += agree + pending;
        audit.pending += pending;
        Ok(suspects)
    }

    /// The second comparison, of suspects, with nobody publishing meanwhile.
    async fn judge(&self, line: &Line, name: &str, suspects: Rows, repair: bool, audit: &mut ViewAudit) -> Result<()> {
        let _turn = line.turn.lock().await;
        self.publish_in_turn(line, false).await?;
        let served = line.served().ok_or(Error::Refilling)?;
        let Some(view) = served.views.get(name) else { return Ok(()) };
        audit.commit = Some(served.commit);
        let offsets = self.offsets(line, &served.commit).await?;
        let history = self.history(&served.commit, view, |key| suspects.contains_key(key)).await?;
        let keys: Vec<EntityKey> = suspects.into_keys().collect();
        let mut mend = Vec::new();
        for keys in keys.chunks(KEYS) {
            let rows = read(served.store.as_ref(), view, keys).await?;
            for (key, row) in keys.iter().zip(rows) {
                let expected = history.get(key);
                audit.entities += u64::from(expected.is_some() || row.is_some());
                let skew = match compare(expected, row.as_ref(), &offsets)? {
                    Compared::Agrees => continue,
                    Compared::Pending => {
                        audit.pending += 1;
                        continue;
                    }
                    Compared::Skewed(skew) => skew,
                };
                audit.note(key, skew);
                if let (Skew::Missing | Skew::Behind, Some(row)) = (skew, expected) {
                    mend.push(Write { generation: view.generation, key: key.clone(), row: row.clone() });
                }
            }
        }
        if repair && !mend.is_empty() {
            self.online.write(&mend).await.map_err(online)?;
            self.online.sync().await.map_err(online)?;
            audit.repaired += mend.len() as u64;
        }
        Ok(())
    }

    /// The rows that are last in the total order, of the entities that are wanted.
    async fn history(&self, commit: &CommitId, view: &ServedView, wanted: impl Fn(&EntityKey) -> bool) -> Result<Rows> {
        let request = ScanRequest::all(TableName::features(view.layout.name()), view.layout.table_columns());
        let mut batches = self.offline.scan(commit, &request).await.map_err(offline)?;
        let mut last = Rows::new();
        while let Some(batch) = batches.try_next().await.map_err(offline)? {
            let view = view.clone();
            let packed = tokio::task::spawn_blocking(move || rows_of(&batch, &view.layout, &view.packed, view.generation)).await;
            for Write { key, row, .. } in packed.map_err(|_| Error::Closing)?.map_err(online)? {
                if !wanted(&key) {
                    continue;
                }
                match last.get_mut(&key) {
                    Some(known) if *known >= row => {}
                    // A copy of its own: the row is a small part of its batch's bytes.
                    Some(known) => *known = Bytes::copy_from_slice(&row),
                    None => drop(last.insert(key, Bytes::copy_from_slice(&row))),
                }
            }
        }
        Ok(last)
    }

    /// The offsets of a branch's own pipeline at a commit.
    async fn offsets(&self, line: &Line, commit: &CommitId) -> Result<Offsets> {
        let map = self.repository.at(commit).await.map_err(versioning)?;
        let mut offsets = Offsets::new();
        for entry in scan_all(&map, Scan::prefix(OffsetKey::of_branch(line.branch)?)).await.map_err(versioning)? {
            let key = OffsetKey::from_key(&entry.key)?;
            if key.pipeline == PUSH_PIPELINE {
                offsets.insert(key.source.get(), Offset::from_bytes(&entry.value)?.next);
            }
        }
        Ok(offsets)
    }

    /// Looks whether some rows of history are online, or newer ones: how many were looked at, and how many entities are missing or behind, by view. What a writer
    /// or a move of the head does meanwhile is no skew, and no sample is taken then.
    pub(crate) async fn sample(&self, line: &Line, random: u64) -> Result<BTreeMap<String, (u64, u64)>> {
        let mut sampled = BTreeMap::new();
        let Some(served) = line.served() else { return Ok(sampled) };
        for (name, view) in served.views.iter() {
            let table = TableName::features(name);
            let added = self.offline.added_files(None, &served.commit, &table).await.map_err(offline)?;
            if added.files.is_empty() {
                continue;
            }
            let file = &added.files[usize::try_from(random % added.files.len() as u64).unwrap_or(0)];
            let request = ScanRequest::all(table, view.layout.table_columns());
            let mut batches = self.offline.scan_files(&served.commit, &request, std::slice::from_ref(file)).await.map_err(offline)?;
            let Some(batch) = batches.try_next().await.map_err(offline)? else { continue };
            let length = batch.num_rows().min(SAMPLE);
            let from = usize::try_from(random >> 32).unwrap_or(0) % (batch.num_rows() - length + 1);
            let rows = rows_of(&batch.slice(from, length), &view.layout, &view.packed, view.generation).map_err(online)?;
            let keys: Vec<_> = rows.iter().map(|row| row.key.clone()).collect();
            let Ok(held) = read(served.store.as_ref(), view, &keys).await else { continue };
            let late = |(row, held): &(&Write, Option<Bytes>)| held.as_ref().is_none_or(|held| held[..RowOrder::LEN] < row.row[..RowOrder::LEN]);
            let skewed = rows.iter().zip(held).filter(late).count();
            sampled.insert(name.clone(), (length as u64, skewed as u64));
        }
        Ok(sampled)
    }
}

impl ViewAudit {
    fn note(&mut self, key: &EntityKey, skew: Skew) {
        let (count, how) = match skew {
            Skew::Missing => (&mut self.missing, "missing"),
            Skew::Behind => (&mut self.behind, "behind"),
            Skew::Unexplained => (&mut self.unexplained, "unexplained"),
            Skew::Different => (&mut self.different, "different"),
        };
        *count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(format!("{key}: {how}"));
        }
    }
}

async fn read(store: &dyn OnlineStore, view: &ServedView, keys: &[EntityKey]) -> Result<Vec<Option<Bytes>>> {
    let group = [ReadGroup { generations: &[view.generation], keys }];
    // What is compared is what the store holds, not what is kept of it above.
    store.forget_cached(&group);
    store.read(&group).await.map_err(online)
}

/// Compares what history has of an entity with what is online.
fn compare(history: Option<&Bytes>, held: Option<&Bytes>, offsets: &Offsets) -> Result<Compared> {
    use std::cmp::Ordering;
    let Some(held) = held else {
        return Ok(if history.is_some() { Compared::Skewed(Skew::Missing) } else { Compared::Agrees });
    };
    let row = PackedRow::parse(held).map_err(online)?;
    let order = history.map(|history| held[..RowOrder::LEN].cmp(&history[..RowOrder::LEN]));
    Ok(match (order, history) {
        (Some(Ordering::Less), _) => Compared::Skewed(Skew::Behind),
        (Some(Ordering::Equal), Some(history)) => {
            let expected = PackedRow::parse(history).map_err(online)?;
            // A row that was packed before a column came is of another layout, and the same row all the same.
            let same = held == history || row.fingerprint() != expected.fingerprint();
            if same { Compared::Agrees } else { Compared::Skewed(Skew::Different) }
        }
        _ => {
            let order = row.order().map_err(online)?;
            let pending = offsets.get(&order.source.get()).is_some_and(|next| order.position.get() >= *next);
            if pending { Compared::Pending } else { Compared::Skewed(Skew::Unexplained) }
        }
    })
}
