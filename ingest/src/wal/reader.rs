//! Reading a log from a position on, up to its durable end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::Position;
use bytes::Bytes;

use super::format::{self, HEADER};
use super::{LogRecord, Shared};
use crate::{Error, Result};

/// How much is read at once, unless a record is longer.
const CHUNK: usize = 1 << 20;

/// Reads records in order; it never sees one that is not durable. Blocks on the disk, never for new records.
#[derive(Debug)]
pub struct WalReader {
    shared: Arc<Shared>,
    /// The segment being read.
    first: u64,
    /// The next byte in it.
    at: u64,
    /// The position of the next record.
    next: u64,
    /// What was read ahead, from `at` on.
    ahead: Bytes,
}

impl WalReader {
    pub(super) fn new(shared: Arc<Shared>, position: u64) -> Result<Self> {
        let end = shared.end.borrow().next;
        let first = shared.segments().iter().rev().find(|segment| segment.first <= position).map(|segment| segment.first);
        let absent = |reason: String| {
            let position = Position::new(position).unwrap_or_default();
            Error::NotInLog { source_id: shared.source, position, reason }
        };
        let Some(first) = first else {
            let kept = shared.segments().first().map_or(end, |segment| segment.first);
            return Err(absent(format!("it begins at {kept}, and what was before is deleted")));
        };
        if position > end {
            return Err(absent(format!("it ends at {end}")));
        }
        let mut reader = Self { shared: Arc::clone(&shared), first, at: HEADER as u64, next: first, ahead: Bytes::new() };
        while reader.next < position {
            reader.record()?.ok_or_else(|| absent("the records before it are missing".to_owned()))?;
        }
        if reader.next != position {
            return Err(absent(format!("the record around it ends at {}", reader.next)));
        }
        Ok(reader)
    }

    /// The position of the next record.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The records that are there, until they have `max_rows` rows or `max_bytes` bytes of payload together; at least one if there is one.
    ///
    /// # Errors
    /// [`Error::LogDamaged`] or an I/O error; reading again begins where the last success ended.
    pub fn read(&mut self, max_rows: u64, max_bytes: usize) -> Result<Vec<LogRecord>> {
        let (mut records, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while rows < max_rows && bytes < max_bytes {
            let Some(record) = self.record()? else { break };
            rows += u64::from(record.push.rows);
            bytes += record.push.payload.len();
            records.push(record);
        }
        Ok(records)
    }

    fn record(&mut self) -> Result<Option<LogRecord>> {
        let Some((path, len)) = self.segment()? else { return Ok(None) };
        self.fill(&path, len, 4)?;
        let need = format::framed_len(&self.ahead).unwrap_or(0);
        self.fill(&path, len, need)?;
        let framed = format::decode(&self.ahead)
            .and_then(|framed| if framed.record.first.get() == self.next { Ok(framed) } else { Err("the record has another position than is next") });
        let framed =
            framed.map_err(|reason| Error::LogDamaged { segment: path.display().to_string(), offset: self.at, reason: reason.to_owned() })?;
        self.ahead = self.ahead.slice(framed.len..);
        self.at += framed.len as u64;
        self.next = framed.record.next();
        Ok(Some(framed.record))
    }

    /// The segment that holds the next record, with its durable length; `None` at the end of the log.
    fn segment(&mut self) -> Result<Option<(PathBuf, u64)>> {
        let segments = self.shared.segments();
        let gone = || Error::NotInLog {
            source_id: self.shared.source,
            position: Position::new(self.next).unwrap_or_default(),
            reason: "its segment was deleted while it was being read".to_owned(),
        };
        let place = segments.iter().position(|segment| segment.first == self.first).ok_or_else(gone)?;
        let current = &segments[place];
        if self.at < current.len {
            return Ok(Some((current.path.clone(), current.len)));
        }
        let Some(next) = segments.get(place + 1) else { return Ok(None) };
        let found = (next.len > HEADER as u64).then(|| (next.path.clone(), next.len));
        (self.first, self.at) = (next.first, HEADER as u64);
        drop(segments);
        self.ahead = Bytes::new();
        Ok(found)
    }

    /// Reads ahead until `need` bytes are there, or all that the segment durably has.
    fn fill(&mut self, path: &Path, len: u64, need: usize) -> Result<()> {
        let left = usize::try_from(len - self.at).unwrap_or(usize::MAX);
        if self.ahead.len() >= need.min(left) && !self.ahead.is_empty() {
            return Ok(());
        }
        let take = need.max(CHUNK).min(left);
        let bytes = self.shared.files.read_at(path, self.at, take).map_err(|error| Error::io("reading", path, error))?;
        self.ahead = bytes.into();
        Ok(())
    }
}
