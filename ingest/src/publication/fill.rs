//! Bringing a generation up to a commit from the files of its table.
//!
//! A generation that answers for no commit is filled from all of history. How far that is is noted in the metadata database about every `fill_mark_rows` rows
//! (`ingest.fill`: generation → [`FillMark`]), after the rows were made durable online, so that a process that begins again reads no file that is done, and
//! writes nothing of a file twice but what came after the mark. The files are those of the commit that the fill began at, in one order and each with its
//! rows in one order; what came since follows as for every generation. A mark that was set under another incarnation speaks of rows that are lost, and is
//! not used.
//!
//! ```text
//! mark, version 2, big-endian: 02 | incarnation 16 B | files done u64 | rows written of the files behind them u64 | rows a second u64, 0 for any | commit 32 B
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anabranch_core::Generation;
use anabranch_offline_store::{AddedFile, ScanRequest, TableName};
use anabranch_online_store::Incarnation;
use anabranch_versioning::CommitId;
use arrow::array::RecordBatch;
use futures::TryStreamExt;
use tokio::time::Instant;

use super::{Publisher, ServedView, offline, online, versioning};
use crate::crash::CrashPoint;
use crate::{Error, Result};

const MARKS: &str = "ingest.fill";
const MARK_VERSION: u8 = 2;
const MARK_BYTES: usize = 1 + 16 + 8 + 8 + 8 + 32;
/// Rows that are written at once where a fill is throttled.
const THROTTLED_ROWS: usize = 1_024;

/// How far a fill is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FillProgress {
    /// The generation that is filled.
    pub generation: Generation,
    /// Rows written of the files, those of before a restart included.
    pub rows_done: u64,
    /// Rows of all the files.
    pub rows: u64,
    /// At most so many rows a second; none where it goes as fast as it can.
    pub rows_per_second: Option<u64>,
}

/// Where a fill goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FillMark {
    incarnation: Incarnation,
    files_done: u64,
    /// Rows written of the files behind those that are done.
    rows_done: u64,
    /// 0 for as fast as it goes.
    rows_per_second: u64,
    commit: CommitId,
}

/// Where progress is told.
#[derive(Debug, Default)]
pub(super) struct Fills {
    under_way: Mutex<Vec<(String, FillProgress)>>,
    ended: AtomicBool,
}

impl Fills {
    pub(super) fn all(&self) -> Vec<(String, FillProgress)> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, view: &str, progress: FillProgress) {
        let mut fills = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        match fills.iter_mut().find(|(of, known)| of == view && known.generation == progress.generation) {
            Some((_, known)) => *known = progress,
            None => fills.push((view.to_owned(), progress)),
        }
    }

    /// Lets every fill of the branch give up.
    pub(super) fn end_all(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn end(&self, generation: Generation) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).retain(|(_, fill)| fill.generation != generation);
    }
}

/// Takes the progress away however the fill ends.
struct Told<'a>(&'a Fills, Generation);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.end(self.1);
    }
}

/// What came of bringing a generation up to a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Brought {
    /// Every row is written.
    Done,
    /// The same, of a generation that answered for no commit.
    Filled,
    /// The generation holds rows that the commit does not have.
    Removed,
}

impl FillMark {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MARK_BYTES);
        bytes.push(MARK_VERSION);
        bytes.extend_from_slice(&self.incarnation.0.to_be_bytes());
        bytes.extend_from_slice(&self.files_done.to_be_bytes());
        bytes.extend_from_slice(&self.rows_done.to_be_bytes());
        bytes.extend_from_slice(&self.rows_per_second.to_be_bytes());
        bytes.extend_from_slice(self.commit.as_bytes());
        bytes
    }

    /// None for what is no mark of this version: a fill may always begin anew.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let ([MARK_VERSION], rest) = bytes.split_first_chunk::<1>()? else { return None };
        let (incarnation, rest) = rest.split_first_chunk::<16>()?;
        let (files_done, rest) = rest.split_first_chunk::<8>()?;
        let (rows_done, rest) = rest.split_first_chunk::<8>()?;
        let (rows_per_second, commit) = rest.split_first_chunk::<8>()?;
        Some(Self {
            incarnation: Incarnation(u128::from_be_bytes(*incarnation)),
            files_done: u64::from_be_bytes(*files_done),
            rows_done: u64::from_be_bytes(*rows_done),
            rows_per_second: u64::from_be_bytes(*rows_per_second),
            commit: CommitId::from_slice(commit).ok()?,
        })
    }
}

impl Publisher {
    /// Writes every row that a commit has and the generation of a view has not. Who calls advances the generation.
    pub(super) async fn bring(&self, fills: &Fills, view: &ServedView, to: &CommitId, incarnation: Incarnation) -> Result<Brought> {
        let _told = Told(fills, view.generation);
        let mut done = Brought::Done;
        loop {
            let from = self.online.published_to(view.generation).await.map_err(online)?;
            let from = from.map(|bytes| CommitId::from_slice(&bytes)).transpose().map_err(versioning)?;
            if from == Some(*to) {
                return Ok(done);
            }
            if from.is_none() {
                done = Brought::Filled;
            }
            let mark = if from.is_none() { self.mark(view.generation).await?.filter(|mark| mark.incarnation == incarnation) } else { None };
            let until = mark.as_ref().map_or(*to, |mark| mark.commit);
            let mut fill = Fill { publisher: self, fills, view, from, to: until, incarnation, mark };
            if fill.run().await? == Brought::Removed {
                return Ok(Brought::Removed);
            }
            if until == *to {
                return Ok(done);
            }
            self.online.advance(view.generation, until.as_bytes(), incarnation).await.map_err(online)?;
        }
    }

    /// Notes how fast a generation may be filled, before its fill begins.
    pub(super) async fn throttle(&self, generation: Generation, commit: CommitId, incarnation: Incarnation, rows_per_second: u64) -> Result<()> {
        self.set_mark(generation, &FillMark { incarnation, files_done: 0, rows_done: 0, rows_per_second, commit }).await
    }

    async fn mark(&self, generation: Generation) -> Result<Option<FillMark>> {
        let bytes = self.repository.metadata().value(MARKS, &generation.0.to_be_bytes()).await.map_err(versioning)?;
        Ok(bytes.and_then(|bytes| FillMark::from_bytes(&bytes)))
    }

    async fn set_mark(&self, generation: Generation, mark: &FillMark) -> Result<()> {
        let (key, metadata) = (generation.0.to_be_bytes(), self.repository.metadata());
        loop {
            let old = metadata.value(MARKS, &key).await.map_err(versioning)?;
            if metadata.swap_value(MARKS, &key, old.as_deref(), Some(&mark.to_bytes())).await.map_err(versioning)? {
                return Ok(());
            }
        }
    }

    /// Forgets how far a fill was.
    pub(super) async fn unmark(&self, generation: Generation) -> Result<()> {
        let (key, metadata) = (generation.0.to_be_bytes(), self.repository.metadata());
        while let Some(old) = metadata.value(MARKS, &key).await.map_err(versioning)? {
            if metadata.swap_value(MARKS, &key, Some(&old), None).await.map_err(versioning)? {
                break;
            }
        }
        Ok(())
    }
}

/// One pass over files.
struct Fill<'a> {
    publisher: &'a Publisher,
    fills: &'a Fills,
    view: &'a ServedView,
    from: Option<CommitId>,
    to: CommitId,
    incarnation: Incarnation,
    mark: Option<FillMark>,
}

/// Where a pass over files stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Files of which every row is written.
    files: usize,
    /// Rows of the files behind them that are written.
    rows: u64,
}

impl Place {
    /// The place some rows on.
    fn after(mut self, rows: u64, files: &[AddedFile]) -> Self {
        self.rows += rows;
        while let Some(file) = files.get(self.files).filter(|file| file.rows <= self.rows) {
            (self.files, self.rows) = (self.files + 1, self.rows - file.rows);
        }
        self
    }
}

impl Fill<'_> {
    async fn run(&mut self) -> Result<Brought> {
        let table = TableName::features(self.view.layout.name());
        let added = self.publisher.offline.added_files(self.from.as_ref(), &self.to, &table).await.map_err(offline)?;
        if added.removed {
            return Ok(Brought::Removed);
        }
        let (mark, whole) = (self.mark.take(), self.from.is_none());
        let rate = mark.as_ref().map(|mark| mark.rows_per_second).filter(|rate| *rate > 0);
        let mut place = Place { files: 0, rows: 0 };
        if let Some(mark) = mark {
            place = Place { files: usize::try_from(mark.files_done).unwrap_or(usize::MAX).min(added.files.len()), rows: mark.rows_done };
        }
        let mut progress = FillProgress {
            generation: self.view.generation,
            rows_done: rows_of(&added.files[..place.files]) + place.rows,
            rows: rows_of(&added.files),
            rows_per_second: rate,
        };
        let (mut pace, mut unmarked, every) = (Pace::new(rate), 0, self.publisher.fill_mark_rows.max(1));
        let (mut written, rest) = (place.rows, &added.files[place.files..]);
        let request = ScanRequest::all(table, self.view.layout.table_columns());
        let mut batches = self.publisher.offline.scan_files(&self.to, &request, rest).await.map_err(offline)?;
        while let Some(batch) = batches.try_next().await.map_err(offline)? {
            if whole {
                self.fills.tell(self.view.layout.name(), progress.clone());
            }
            // What a pass before this one wrote is read and not written.
            let mut at = usize::try_from(written).unwrap_or(usize::MAX).min(batch.num_rows());
            written -= at as u64;
            while at < batch.num_rows() {
                let most = if whole { usize::try_from(every - unmarked).unwrap_or(usize::MAX) } else { usize::MAX };
                let rows = most.min(batch.num_rows() - at);
                self.write(batch.slice(at, rows), &mut pace).await?;
                (at, place, unmarked) = (at + rows, place.after(rows as u64, &added.files), unmarked + rows as u64);
                progress.rows_done += rows as u64;
                if whole && unmarked >= every {
                    self.mark(place, rate).await?;
                    unmarked = 0;
                }
            }
        }
        Ok(Brought::Done)
    }

    /// Notes how far the fill is, once that is durable online.
    async fn mark(&self, place: Place, rate: Option<u64>) -> Result<()> {
        self.publisher.online.sync().await.map_err(online)?;
        let (files_done, rows_done, rows_per_second) = (place.files as u64, place.rows, rate.unwrap_or(0));
        let mark = FillMark { incarnation: self.incarnation, files_done, rows_done, rows_per_second, commit: self.to };
        self.publisher.set_mark(self.view.generation, &mark).await?;
        self.publisher.crash.reach(CrashPoint::FillMarked);
        Ok(())
    }

    async fn write(&self, batch: RecordBatch, pace: &mut Pace) -> Result<()> {
        let view = self.view.clone();
        let packed = tokio::task::spawn_blocking(move || anabranch_online_store::rows_of(&batch, &view.layout, &view.packed, view.generation)).await;
        let rows = packed.map_err(|_| Error::Closing)?.map_err(online)?;
        let at_once = if pace.rate.is_some() { THROTTLED_ROWS } else { rows.len().max(1) };
        for rows in rows.chunks(at_once) {
            if self.fills.is_ended() {
                return Err(Error::Unserved(self.view.layout.name().to_owned()));
            }
            self.publisher.online.write(rows).await.map_err(online)?;
            pace.wrote(rows.len()).await;
        }
        Ok(())
    }
}

fn rows_of(files: &[AddedFile]) -> u64 {
    files.iter().map(|file| file.rows).sum()
}

/// Keeps a fill to its rate.
struct Pace {
    rate: Option<u64>,
    began: Instant,
    rows: u64,
}

impl Pace {
    fn new(rate: Option<u64>) -> Self {
        Self { rate, began: Instant::now(), rows: 0 }
    }

    async fn wrote(&mut self, rows: usize) {
        let Some(rate) = self.rate else { return };
        self.rows += rows as u64;
        let due = Duration::from_micros(self.rows.saturating_mul(1_000_000) / rate.max(1));
        tokio::time::sleep_until(self.began + due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_its_bytes_and_other_bytes_are_none() {
        let commit = CommitId::from_slice(&[7; 32]).unwrap();
        let mark = FillMark { incarnation: Incarnation(5), files_done: 3, rows_done: 4, rows_per_second: 9, commit };
        let bytes = mark.to_bytes();
        assert_eq!(bytes.len(), MARK_BYTES);
        assert_eq!(FillMark::from_bytes(&bytes), Some(mark));
        let newer = [&[3], &bytes[1..]].concat();
        for other in [&[][..], &bytes[..64], &newer] {
            assert_eq!(FillMark::from_bytes(other), None);
        }
    }

    #[test]
    fn a_place_moves_over_files_by_their_rows() {
        let file = |rows| AddedFile { name: String::new(), rows, intervals: Vec::new(), fill: None };
        let files = [file(5), file(0), file(2), file(9)];
        let (mut place, mut seen) = (Place { files: 0, rows: 0 }, Vec::new());
        for rows in [4, 1, 3, 8] {
            place = place.after(rows, &files);
            seen.push((place.files, place.rows));
        }
        assert_eq!(seen, [(0, 4), (2, 0), (3, 1), (4, 0)]);
    }
}
