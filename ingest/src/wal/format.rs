//! The bytes of a segment. Numbers are big-endian.
//!
//! A segment is named `<first position, 20 digits>.log` and begins with a header:
//!
//! ```text
//! 0          8         10       12       16               24              32      36
//! +----------+---------+--------+--------+----------------+---------------+-------+
//! | anabrlog | version | 0      | source | first position | arrival floor | crc32 |
//! | 8 bytes  | u16 = 1 | u16    | u32    | u64            | i64           | u32   |
//! +----------+---------+--------+--------+----------------+---------------+-------+
//! ```
//!
//! The arrival floor is the last arrival of the segment before, so that a log whose older segments are gone still never goes back in time. The
//! checksum (CRC-32, IEEE 802.3) covers the bytes before it. Records follow:
//!
//! ```text
//! 0      4       8        16         24     28        36     37       38         39        41
//! +------+-------+--------+----------+------+---------+------+--------+----------+---------+------+-----+---------+
//! | len  | crc32 | synced | first    | rows | arrival | kind | format | view len | key len | view | key | payload |
//! | u32  | u32   | u64    | position | u32  | i64     | u8   | u8     | u8       | u16     |      |     |         |
//! +------+-------+--------+----------+------+---------+------+--------+----------+---------+------+-----+---------+
//! ```
//!
//! `len` counts the bytes from `synced` on; the checksum covers `len` and those. `synced` is how many bytes of the segment were durable when the record
//! was written. No key has length 0. `kind` is 1 for rows and 2 for tombstones; `format` is 1 for JSON and 2 for an Arrow IPC stream.

use anabranch_core::{Position, SourceId, Timestamp};
use bytes::Bytes;

use super::{LogRecord, NewRecord};

/// The version of the log's format.
pub const WAL_FORMAT: u16 = 1;

pub(super) const HEADER: usize = 36;
const MAGIC: &[u8; 8] = b"anabrlog";
/// Length and checksum.
const PREFIX: usize = 8;
/// From `synced` to the key's length.
const FIXED: usize = 33;
/// No record is longer: the largest payload that options allow, and room for names.
const MAX_LEN: usize = (1 << 30) + 4096;

/// How a payload is written; the numbers are persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PayloadFormat {
    /// A JSON object, or an array of objects: a row each.
    Json = 1,
    /// An Arrow IPC stream.
    Arrow = 2,
}

impl PayloadFormat {
    /// The name in messages and in quarantine.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Arrow => "arrow",
        }
    }
}

/// What a record does with its rows; the numbers are persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// They are rows of the view.
    Rows = 1,
    /// They are keys and event times from which on there is nothing.
    Tombstones = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source: SourceId,
    pub(super) first: u64,
    pub(super) arrival_floor: Timestamp,
}

/// Why a header does not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderFlaw {
    /// It is cut short or its checksum is wrong.
    Damaged(&'static str),
    /// It is whole and of another version.
    Version(u16),
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&WAL_FORMAT.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.source.get().to_be_bytes());
        bytes[16..24].copy_from_slice(&self.first.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.arrival_floor.0.to_be_bytes());
        let crc = crc32fast::hash(&bytes[..32]);
        bytes[32..36].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, HeaderFlaw> {
        let bytes: &[u8; HEADER] = bytes.first_chunk().ok_or(HeaderFlaw::Damaged("its header is cut short"))?;
        if &bytes[..8] != MAGIC {
            return Err(HeaderFlaw::Damaged("it does not begin as a log segment does"));
        }
        if crc32fast::hash(&bytes[..32]) != u32_at(bytes, 32) {
            return Err(HeaderFlaw::Damaged("the checksum of its header is wrong"));
        }
        let version = u16_at(bytes, 8);
        if version != WAL_FORMAT {
            return Err(HeaderFlaw::Version(version));
        }
        let source = SourceId::new(u32_at(bytes, 12)).map_err(|_| HeaderFlaw::Damaged("its source id needs more than 31 bits"))?;
        Ok(Self { source, first: u64_at(bytes, 16), arrival_floor: Timestamp(u64_at(bytes, 24) as i64) })
    }
}

/// A record that was read, and what only the log itself needs to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Framed {
    pub(super) record: LogRecord,
    pub(super) synced: u64,
    /// Bytes in the segment.
    pub(super) len: usize,
}

/// Writes a record behind what the buffer holds.
pub(super) fn encode(buffer: &mut Vec<u8>, record: &NewRecord, first: u64, arrival: Timestamp, synced: u64) {
    let key = record.key.as_deref().unwrap_or_default();
    let len = (FIXED + record.view.len() + key.len() + record.payload.len()) as u32;
    let at = buffer.len();
    buffer.extend_from_slice(&len.to_be_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&synced.to_be_bytes());
    buffer.extend_from_slice(&first.to_be_bytes());
    buffer.extend_from_slice(&record.rows.to_be_bytes());
    buffer.extend_from_slice(&arrival.0.to_be_bytes());
    buffer.extend_from_slice(&[record.kind as u8, record.format as u8, record.view.len() as u8]);
    buffer.extend_from_slice(&(key.len() as u16).to_be_bytes());
    buffer.extend_from_slice(record.view.as_bytes());
    buffer.extend_from_slice(key);
    buffer.extend_from_slice(&record.payload);
    let crc = checksum(len, &buffer[at + PREFIX..]);
    buffer[at + 4..at + PREFIX].copy_from_slice(&crc.to_be_bytes());
}

/// The length in the segment of the record that begins here, if these bytes can be the beginning of one.
pub(super) fn framed_len(bytes: &[u8]) -> Option<usize> {
    let len = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    (FIXED..=MAX_LEN).contains(&len).then_some(PREFIX + len)
}

/// Reads the record that `bytes` begins with.
pub(super) fn decode(bytes: &Bytes) -> Result<Framed, &'static str> {
    let len = framed_len(bytes).ok_or("no record has the length given there")?;
    if bytes.len() < len {
        return Err("the record is cut short");
    }
    let body = &bytes[PREFIX..len];
    if checksum((len - PREFIX) as u32, body) != u32_at(bytes, 4) {
        return Err("the checksum of the record is wrong");
    }
    // From here on a fault is a defect of the writer: the bytes are as written.
    let first = Position::new(u64_at(body, 8)).map_err(|_| "the position needs more than 63 bits")?;
    let kind = match body[28] {
        1 => RecordKind::Rows,
        2 => RecordKind::Tombstones,
        _ => return Err("the kind of the record is unknown"),
    };
    let format = match body[29] {
        1 => PayloadFormat::Json,
        2 => PayloadFormat::Arrow,
        _ => return Err("the format of the payload is unknown"),
    };
    let view_end = FIXED + usize::from(body[30]);
    let key_end = view_end + usize::from(u16_at(body, 31));
    let view = body.get(FIXED..view_end).ok_or("the view's name is cut short")?;
    let view = std::str::from_utf8(view).map_err(|_| "the view's name is not UTF-8")?.to_owned();
    if body.len() < key_end {
        return Err("the key is cut short");
    }
    let key = (key_end > view_end).then(|| bytes.slice(PREFIX + view_end..PREFIX + key_end));
    let payload = bytes.slice(PREFIX + key_end..len);
    let push = NewRecord { view, kind, format, rows: u32_at(body, 16), key, payload };
    let record = LogRecord { first, arrival: Timestamp(u64_at(body, 20) as i64), push };
    Ok(Framed { record, synced: u64_at(body, 0), len })
}

fn checksum(len: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&len.to_be_bytes());
    hasher.update(body);
    hasher.finalize()
}

// The callers have checked the lengths.

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes[at..].first_chunk().map_or(0, |word| u16::from_be_bytes(*word))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |word| u32::from_be_bytes(*word))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |word| u64::from_be_bytes(*word))
}
