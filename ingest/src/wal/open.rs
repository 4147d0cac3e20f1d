//! Opening a log: every segment is read and verified, and a torn tail is cut off.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::{SourceId, Timestamp};
use anabranch_versioning::files::{FileHandle, Files, ensure_dir};
use bytes::Bytes;

use super::format::{self, HEADER, Header, HeaderFlaw, WAL_FORMAT};
use super::keys::KeyWindow;
use super::{LogEnd, Segment, WalOptions};
use crate::{Error, Result};

/// A log that is ready to be written to.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) segments: Vec<Segment>,
    pub(super) end: LogEnd,
    /// The last segment, open at its end.
    pub(super) handle: Box<dyn FileHandle>,
    pub(super) keys: KeyWindow,
}

pub(super) fn segment_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.log"))
}

fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    if digits.len() == 20 { digits.parse().ok() } else { None }
}

/// The segments' first positions, in order; files of other names are not ours.
fn list(files: &dyn Files, folder: &Path) -> Result<Vec<u64>> {
    let names = files.list(folder).map_err(|error| Error::io("listing", folder, error))?;
    Ok(names.iter().filter_map(|name| first_of(name)).collect())
}

pub(super) fn source_of(files: &dyn Files, folder: &Path) -> Result<Option<SourceId>> {
    if !files.exists(folder).map_err(|error| Error::io("looking for", folder, error))? {
        return Ok(None);
    }
    let segments = list(files, folder)?;
    let Some(first) = segments.first() else { return Ok(None) };
    let path = segment_path(folder, *first);
    let bytes = files.read_at(&path, 0, HEADER).map_err(|error| Error::io("reading", &path, error))?;
    match Header::from_bytes(&bytes) {
        Ok(header) => Ok(Some(header.source)),
        // Begun and cut short before anything could be appended.
        Err(HeaderFlaw::Damaged(_)) if segments == [0] && bytes.len() < HEADER => Ok(None),
        Err(flaw) => Err(damaged_header(&path, flaw)),
    }
}

pub(super) fn first_in(files: &dyn Files, folder: &Path) -> Result<Option<u64>> {
    Ok(if source_of(files, folder)?.is_some() { list(files, folder)?.first().copied() } else { None })
}

pub(super) fn remove(files: &dyn Files, folder: &Path) -> Result<()> {
    if !files.exists(folder).map_err(|error| Error::io("looking for", folder, error))? {
        return Ok(());
    }
    for first in list(files, folder)? {
        let path = segment_path(folder, first);
        files.remove(&path).map_err(|error| Error::io("removing", &path, error))?;
    }
    files.sync_dir(folder).map_err(|error| Error::io("syncing", folder, error))
}

pub(super) fn open(files: Arc<dyn Files>, folder: &Path, source: SourceId, options: &WalOptions) -> Result<Opened> {
    ensure_dir(files.as_ref(), folder).map_err(|error| Error::io("creating", folder, error))?;
    let mut scan = Scan {
        files: files.as_ref(),
        source,
        segments: Vec::new(),
        end: LogEnd { next: 0, arrival: Timestamp::MIN },
        keys: KeyWindow::new(options.key_limit),
    };
    let firsts = list(files.as_ref(), folder)?;
    for (i, first) in firsts.iter().enumerate() {
        scan.segment(folder, *first, i + 1 == firsts.len())?;
    }
    let Scan { mut segments, end, keys, .. } = scan;
    let handle = match segments.last() {
        Some(last) => reopen(files.as_ref(), &last.path)?,
        None => {
            let (segment, handle) = begin_segment(files.as_ref(), folder, Header { source, first: end.next, arrival_floor: end.arrival })?;
            segments.push(segment);
            handle
        }
    };
    files.sync_dir(folder).map_err(|error| Error::io("syncing", folder, error))?;
    Ok(Opened { segments, end, handle, keys })
}

/// Opens the last segment and syncs it: what a killed process wrote may be in the page cache only.
fn reopen(files: &dyn Files, path: &Path) -> Result<Box<dyn FileHandle>> {
    let mut handle = files.append(path).map_err(|error| Error::io("opening", path, error))?;
    handle.sync().map_err(|error| Error::io("syncing", path, error))?;
    Ok(handle)
}

/// Makes a new segment durable, name and all, before anything is written to it. After an error there is none.
pub(super) fn begin_segment(files: &dyn Files, folder: &Path, header: Header) -> Result<(Segment, Box<dyn FileHandle>)> {
    let path = segment_path(folder, header.first);
    if files.exists(&path).map_err(|error| Error::io("looking for", &path, error))? {
        // Left by an attempt that failed here before; nothing was ever appended to it.
        files.remove(&path).map_err(|error| Error::io("removing", &path, error))?;
    }
    let begun = || {
        let mut handle = files.create_new(&path)?;
        handle.write_all(&header.to_bytes())?;
        handle.sync()?;
        files.sync_dir(folder)?;
        Ok(handle)
    };
    match begun() {
        Ok(handle) => Ok((Segment { path, first: header.first, len: HEADER as u64, youngest_key: None }, handle)),
        Err(error) => {
            // If this fails too, the next attempt removes it.
            let _ = files.remove(&path);
            Err(Error::io("creating", &path, error))
        }
    }
}

struct Scan<'a> {
    files: &'a dyn Files,
    source: SourceId,
    segments: Vec<Segment>,
    end: LogEnd,
    keys: KeyWindow,
}

impl Scan<'_> {
    fn segment(&mut self, folder: &Path, first: u64, last: bool) -> Result<()> {
        let path = segment_path(folder, first);
        let bytes = Bytes::from(self.files.read(&path).map_err(|error| Error::io("reading", &path, error))?);
        let header = match Header::from_bytes(&bytes) {
            Ok(header) => header,
            // A segment whose header was never synced holds nothing, and the one before says where the log ends.
            Err(HeaderFlaw::Damaged(_)) if last && bytes.len() <= HEADER && (first == 0 || !self.segments.is_empty()) => {
                return self.files.remove(&path).map_err(|error| Error::io("removing", &path, error));
            }
            Err(flaw) => return Err(damaged_header(&path, flaw)),
        };
        self.check_header(folder, &path, header, first)?;
        self.end = LogEnd { next: first, arrival: self.end.arrival.max(header.arrival_floor) };
        let mut segment = Segment { path, first, len: HEADER as u64, youngest_key: None };
        self.records(&mut segment, &bytes, last)?;
        self.segments.push(segment);
        Ok(())
    }

    fn check_header(&self, folder: &Path, path: &Path, header: Header, first: u64) -> Result<()> {
        if header.source != self.source {
            return Err(Error::LogForeign { folder: folder.display().to_string(), found: header.source, expected: self.source });
        }
        if header.first != first {
            return Err(damaged(path, 16, format!("its first position is {}, not what its name says", header.first)));
        }
        if !self.segments.is_empty() && first != self.end.next {
            return Err(damaged(path, 16, format!("it begins at {first}, and the segment before ends at {}", self.end.next)));
        }
        Ok(())
    }

    fn records(&mut self, segment: &mut Segment, bytes: &Bytes, last: bool) -> Result<()> {
        let mut at = HEADER;
        while at < bytes.len() {
            let framed = match format::decode(&bytes.slice(at..)) {
                Ok(framed) if framed.record.first.get() == self.end.next => framed,
                Ok(framed) => {
                    let reason = format!("a record begins at {}, where {} is next", framed.record.first, self.end.next);
                    return Err(damaged(&segment.path, at as u64, reason));
                }
                Err(reason) => {
                    if !last || synced_beyond(bytes, at, self.end.next) {
                        return Err(damaged(&segment.path, at as u64, reason.to_owned()));
                    }
                    tracing::warn!(segment = %segment.path.display(), offset = at, reason, "cutting off a torn record");
                    self.files.truncate(&segment.path, at as u64).map_err(|error| Error::io("cutting", &segment.path, error))?;
                    break;
                }
            };
            self.end = LogEnd { next: framed.record.next(), arrival: self.end.arrival.max(framed.record.arrival) };
            if framed.record.push.key.is_some() {
                segment.youngest_key = Some(framed.record.arrival);
            }
            self.keys.remember_record(&framed.record);
            at += framed.len;
        }
        segment.len = at.min(bytes.len()) as u64;
        Ok(())
    }
}

/// Whether a whole record behind the flaw at `at` was written after the bytes there were durable: then the flaw is no torn write.
fn synced_beyond(bytes: &Bytes, at: usize, next: u64) -> bool {
    (at + 1..bytes.len()).any(|start| {
        let rest = &bytes[start..];
        let Some(len) = format::framed_len(rest) else { return false };
        // Cheap conditions first: the checksum is computed for next to no false start.
        let word = |from: usize| rest.get(from..from + 8).and_then(|word| word.try_into().ok()).map(u64::from_be_bytes);
        len <= rest.len()
            && word(8).is_some_and(|synced| synced > at as u64 && synced <= start as u64)
            && word(16).is_some_and(|first| first >= next)
            && format::decode(&bytes.slice(start..)).is_ok()
    })
}

fn damaged(path: &Path, offset: u64, reason: String) -> Error {
    Error::LogDamaged { segment: path.display().to_string(), offset, reason }
}

fn damaged_header(path: &Path, flaw: HeaderFlaw) -> Error {
    match flaw {
        HeaderFlaw::Damaged(reason) => damaged(path, 0, reason.to_owned()),
        HeaderFlaw::Version(found) => Error::LogNewer { segment: path.display().to_string(), found, known: WAL_FORMAT },
    }
}
