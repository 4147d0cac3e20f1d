//! What the versioned map holds of a table: one `table` entry and a `snapshot` entry for each snapshot, in canonical bytes.
//!
//! Keys: `table` / namespace / name, and `snapshot` / table uuid (16 bytes) / snapshot id (8 bytes, big-endian).
//!
//! ```text
//! table     'T' | version = 1 | uuid 16 B | digest of the metadata blob 32 B | current snapshot | last sequence number i64
//! snapshot  'S' | version = 1 | parent | sequence number i64 | time ms i64 | schema id i32 | manifest list | n u32, n × (key, value) | m u32, m × file
//! file      name | rows u64 | i u32, i × (source u32, first u64, last u64) | fill
//! fill      00  or  01 | arrival i64 | source u32 | first position u64
//! ```
//!
//! Numbers are big-endian; an optional snapshot id is `00`, or `01` and an i64; texts are a `u32` length and UTF-8. The pairs of the summary stand in
//! strictly ascending order of keys. The manifest list is a path in the object store, a file's name the part of its path behind `data/<uuid>/`; a file
//! that an outside writer put elsewhere is given by its whole location.
//!
//! An *interval* says that the rows of a source from one position to another, both included, are in the table (or were refused on the way here). A *fill*
//! is what rows without reserved columns read as: arrival and source for all of them, and positions counted from the first in the order of the file.
//!
//! Refused: other versions, bytes left over, lengths beyond the end, an interval that ends before it begins, what does not fit a map value.

use std::collections::BTreeMap;

use anabranch_core::{Position, SourceId, Timestamp};
use anabranch_versioning::{Digest, Key, KeyKind};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, Result};

const VERSION: u8 = 1;

/// What Iceberg calls a snapshot that has the rows of its parent in other files.
pub(crate) const REPLACE: &str = "replace";

/// The `table` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableEntry {
    /// The table, for as long as it lives, on whatever branches.
    pub uuid: Uuid,
    /// The blob that holds everything of the table's metadata but snapshots.
    pub metadata: Digest,
    /// The current snapshot; none before the first append.
    pub current_snapshot: Option<i64>,
    /// The largest sequence number so far.
    pub last_sequence_number: i64,
}

/// Rows of one source, from one position to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval {
    /// The source.
    pub source: SourceId,
    /// The first position.
    pub first: Position,
    /// The last position.
    pub last: Position,
}

/// What rows without reserved columns read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// When we had them.
    pub arrival: Timestamp,
    /// Their source.
    pub source: SourceId,
    /// The position of the file's first row.
    pub first_position: Position,
}

/// A data file that a snapshot added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedFile {
    /// The part of its path behind `data/<uuid>/`, or its whole location.
    pub name: String,
    /// How many rows it holds.
    pub rows: u64,
    /// The positions that are in the table by it.
    pub intervals: Vec<Interval>,
    /// What its rows read as where they carry no reserved columns.
    pub fill: Option<Fill>,
}

/// The `snapshot` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// The snapshot before.
    pub parent: Option<i64>,
    /// Larger than the parent's.
    pub sequence_number: i64,
    /// Milliseconds since the epoch; never before the parent's.
    pub time_ms: i64,
    /// The table's current schema when it was made.
    pub schema_id: i32,
    /// The path of the manifest list.
    pub manifest_list: String,
    /// Iceberg's summary, `operation` included.
    pub summary: BTreeMap<String, String>,
    /// The files that it added; those of a compaction hold rows that earlier snapshots added.
    pub files: Vec<AddedFile>,
}

/// The key of a `table` entry.
///
/// # Errors
/// Refuses names that are too long for a key.
pub fn table_key(namespace: &str, name: &str) -> Result<Key> {
    Ok(Key::new(KeyKind::Table, &[namespace.as_bytes(), name.as_bytes()])?)
}

/// The key of a `snapshot` entry.
///
/// # Errors
/// None in practice: the parts are short.
pub fn snapshot_key(table: Uuid, snapshot: i64) -> Result<Key> {
    Ok(Key::new(KeyKind::Snapshot, &[table.as_bytes(), &snapshot.to_be_bytes()])?)
}

/// What the keys of all snapshots of a table begin with.
///
/// # Errors
/// None in practice: the part is short.
pub fn snapshot_prefix(table: Uuid) -> Result<Key> {
    Ok(Key::prefix(KeyKind::Snapshot, &[table.as_bytes()])?)
}

impl TableEntry {
    /// The canonical bytes.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(b'T');
        writer.raw(self.uuid.as_bytes());
        writer.raw(self.metadata.as_bytes());
        writer.snapshot(self.current_snapshot);
        writer.i64(self.last_sequence_number);
        writer.finish()
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where they are not what [`TableEntry::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new("table entry", b'T', bytes)?;
        let entry = Self {
            uuid: Uuid::from_bytes(reader.array()?),
            metadata: Digest(reader.array()?),
            current_snapshot: reader.snapshot()?,
            last_sequence_number: reader.i64()?,
        };
        reader.end()?;
        Ok(entry)
    }
}

impl SnapshotEntry {
    /// Whether it has the rows of its parent in other files: a compaction. Its files add nothing to what earlier snapshots added.
    pub fn only_rewrites(&self) -> bool {
        self.summary.get("operation").is_some_and(|operation| operation == REPLACE)
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(b'S');
        writer.snapshot(self.parent);
        writer.i64(self.sequence_number);
        writer.i64(self.time_ms);
        writer.raw(&self.schema_id.to_be_bytes());
        writer.text(&self.manifest_list);
        writer.len(self.summary.len());
        for (key, value) in &self.summary {
            writer.text(key);
            writer.text(value);
        }
        writer.len(self.files.len());
        for file in &self.files {
            file.encode(&mut writer);
        }
        writer.finish()
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where they are not what [`SnapshotEntry::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new("snapshot entry", b'S', bytes)?;
        let parent = reader.snapshot()?;
        let (sequence_number, time_ms) = (reader.i64()?, reader.i64()?);
        let schema_id = i32::from_be_bytes(reader.array()?);
        let manifest_list = reader.text()?;
        let mut summary = BTreeMap::new();
        for _ in 0..reader.u32()? {
            let (key, value) = (reader.text()?, reader.text()?);
            if summary.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(reader.malformed("the summary is out of order"));
            }
            summary.insert(key, value);
        }
        let files = (0..reader.u32()?).map(|_| AddedFile::decode(&mut reader)).collect::<Result<_>>()?;
        reader.end()?;
        Ok(Self { parent, sequence_number, time_ms, schema_id, manifest_list, summary, files })
    }
}

impl AddedFile {
    fn encode(&self, writer: &mut Writer) {
        writer.text(&self.name);
        writer.u64(self.rows);
        writer.len(self.intervals.len());
        for interval in &self.intervals {
            writer.raw(&interval.source.get().to_be_bytes());
            writer.u64(interval.first.get());
            writer.u64(interval.last.get());
        }
        match &self.fill {
            None => writer.raw(&[0]),
            Some(fill) => {
                writer.raw(&[1]);
                writer.i64(fill.arrival.micros());
                writer.raw(&fill.source.get().to_be_bytes());
                writer.u64(fill.first_position.get());
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let (name, rows) = (reader.text()?, reader.u64()?);
        let intervals = (0..reader.u32()?).map(|_| Interval::decode(reader)).collect::<Result<_>>()?;
        let fill = match reader.array::<1>()? {
            [0] => None,
            [1] => Some(Fill { arrival: Timestamp(reader.i64()?), source: reader.source()?, first_position: reader.position()? }),
            _ => return Err(reader.malformed("a flag is neither 0 nor 1")),
        };
        Ok(Self { name, rows, intervals, fill })
    }
}

impl Interval {
    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let interval = Self { source: reader.source()?, first: reader.position()?, last: reader.position()? };
        if interval.first > interval.last {
            return Err(reader.malformed("an interval ends before it begins"));
        }
        Ok(interval)
    }

    /// Whether the positions of both have one in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.source == other.source && self.first <= other.last && other.first <= self.last
    }

    /// The same positions in as few intervals as can be, in order.
    pub fn merged(mut intervals: Vec<Self>) -> Vec<Self> {
        intervals.sort_unstable();
        let mut merged: Vec<Self> = Vec::new();
        for interval in intervals {
            match merged.last_mut() {
                Some(last) if last.source == interval.source && interval.first.get() <= last.last.get().saturating_add(1) => {
                    last.last = last.last.max(interval.last);
                }
                _ => merged.push(interval),
            }
        }
        merged
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn new(tag: u8) -> Self {
        Self(vec![tag, VERSION])
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn i64(&mut self, number: i64) {
        self.raw(&number.to_be_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.raw(&number.to_be_bytes());
    }

    fn len(&mut self, len: usize) {
        // What is longer than 4 GiB is refused by the map, whose values are bounded.
        self.raw(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.len(text.len());
        self.raw(text.as_bytes());
    }

    fn snapshot(&mut self, id: Option<i64>) {
        match id {
            None => self.raw(&[0]),
            Some(id) => {
                self.raw(&[1]);
                self.i64(id);
            }
        }
    }

    fn finish(self) -> Bytes {
        self.0.into()
    }
}

struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(what: &'static str, tag: u8, bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Self { what, rest: bytes };
        match reader.array()? {
            [found, VERSION] if found == tag => Ok(reader),
            [found, version] if found == tag => Err(reader.malformed(&format!("format version {version}, this program knows {VERSION}"))),
            _ => Err(reader.malformed("it does not begin like one")),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.malformed("cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn source(&mut self) -> Result<SourceId> {
        let id = self.u32()?;
        SourceId::new(id).map_err(|error| self.malformed(&error.to_string()))
    }

    fn position(&mut self) -> Result<Position> {
        let position = self.u64()?;
        Position::new(position).map_err(|error| self.malformed(&error.to_string()))
    }

    fn text(&mut self) -> Result<String> {
        let len = self.u32()? as usize;
        let bytes = self.take(len)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.malformed("a text is not UTF-8"))
    }

    fn snapshot(&mut self) -> Result<Option<i64>> {
        match self.array()? {
            [0] => Ok(None),
            [1] => Ok(Some(self.i64()?)),
            _ => Err(self.malformed("a flag is neither 0 nor 1")),
        }
    }

    fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed("bytes are left over")) }
    }

    fn malformed(&self, reason: &str) -> Error {
        Error::corrupt(self.what, reason)
    }
}

#[cfg(test)]
mod tests;
