//! The write-ahead log: where pushed rows become durable before they are acknowledged.
//!
//! One log is one source on one branch. A *record* is one push: rows of one view in one payload, or tombstones for them. A *position* is the number of
//! a row in the log, so a record of n rows takes n positions. The log is a folder of segments, each named by its first position; `wal/format.rs` draws
//! their bytes.
//!
//! **Invariants**
//!
//! - `append` returns only after the record's bytes are synced, and with them the name of their segment and of the folder.
//! - Positions are dense: record follows record, segment follows segment. Arrivals never decrease, whatever the clock does, across restarts too.
//! - What was acknowledged is there after any loss of power; what is there afterwards is a prefix of what was appended.
//! - An append that fails (disk full, I/O error) leaves the log as it was: partial bytes are cut off before anything else is written. If the cut fails
//!   too, the log refuses appends until a cut succeeds; a record whose append failed may then be found after a restart, as any record that was written
//!   and not acknowledged may.
//!
//! **Opening.** All segments are read and verified. At the end of the last one a torn record is cut off, which can only be one that was never
//! acknowledged. A damaged record is *torn* if no later record says that it was synced; every record carries how much of its segment was durable when
//! it was written, so damage to what was acknowledged is told from a torn tail, and is [`Error::LogDamaged`], never skipped. (Damage within the very
//! last group of records cannot be told from a torn write by anyone.) What is found is synced again before it is trusted: a killed process may have
//! left it in the page cache only.
//!
//! **States of the writer**, which is a thread of its own:
//!
//! ```text
//!          write or sync fails                 cut succeeds
//! CLEAN ──────────────────────▶ DIRTY(len) ──────────────────▶ CLEAN
//!   │ ▲ group written + synced     │ ▲ cut fails: appends are refused
//!   └─┘                            └─┘
//! ```
//!
//! **Idempotency keys.** A key is remembered with the push that it came with for at least [`WalOptions::key_window`] after that push's arrival, across
//! restarts (segments that hold younger keys are not deleted), unless [`WalOptions::key_limit`] newer keys came after it. A push that repeats a
//! remembered key with the same content is answered with the first one's positions; with other content it is refused.

mod format;
mod keys;
mod open;
mod reader;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anabranch_core::{Clock, Position, SourceId, Span, Timestamp};
use anabranch_versioning::Files;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use format::{PayloadFormat, RecordKind, WAL_FORMAT};
pub use reader::WalReader;

use crate::{Error, Result};

/// The longest idempotency key, in bytes.
pub const MAX_KEY_BYTES: usize = 256;

/// The most rows of one push.
pub const MAX_ROWS: u32 = 1 << 24;

const QUEUE: usize = 4096;

/// Limits of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WalOptions {
    /// A segment that has reached this size is followed by a new one.
    pub segment_bytes: u64,
    /// The largest payload of one push.
    pub max_push_bytes: usize,
    /// How many bytes of pushes may wait to be written; further ones wait outside.
    pub queue_bytes: usize,
    /// How long an idempotency key is remembered at least.
    pub key_window: Span,
    /// How many keys are remembered at most.
    pub key_limit: usize,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, max_push_bytes: 64 << 20, queue_bytes: 256 << 20, key_window: Span::seconds(600), key_limit: 100_000 }
    }
}

impl WalOptions {
    /// Checks that the limits make sense together.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the limit at fault.
    pub fn validate(&self) -> Result<()> {
        if self.segment_bytes < 4096 {
            return Err(Error::invalid("wal.segment_bytes", "it must be at least 4096"));
        }
        if !(1..=1 << 30).contains(&self.max_push_bytes) {
            return Err(Error::invalid("wal.max_push_bytes", "it must lie between 1 and 1 GiB"));
        }
        if self.queue_bytes < self.max_push_bytes {
            return Err(Error::invalid("wal.queue_bytes", "it must be at least max_push_bytes"));
        }
        Ok(())
    }
}

/// A push to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// The feature view, at most 255 bytes.
    pub view: String,
    /// Rows or tombstones.
    pub kind: RecordKind,
    /// How the payload is written.
    pub format: PayloadFormat,
    /// How many rows the payload holds; [`crate::decode::count_rows`] says.
    pub rows: u32,
    /// The producer's key, at most [`MAX_KEY_BYTES`].
    pub key: Option<Bytes>,
    /// The rows.
    pub payload: Bytes,
}

/// A push that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The position of its first row.
    pub first: Position,
    /// How many rows it has.
    pub rows: u32,
    /// When it was appended.
    pub arrival: Timestamp,
    /// Whether it had been appended before, under the same key.
    pub duplicate: bool,
}

impl Appended {
    /// The position behind its last row.
    pub fn next(&self) -> u64 {
        self.first.get() + u64::from(self.rows)
    }
}

/// A record as the log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The position of its first row.
    pub first: Position,
    /// When it was appended.
    pub arrival: Timestamp,
    /// The push.
    pub push: NewRecord,
}

impl LogRecord {
    /// The position behind its last row.
    pub fn next(&self) -> u64 {
        self.first.get() + u64::from(self.push.rows)
    }
}

/// The durable end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// The position that the next row gets.
    pub next: u64,
    /// The last arrival given.
    pub arrival: Timestamp,
}

/// A write-ahead log; clones share it.
#[derive(Debug, Clone)]
pub struct Wal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    room: Arc<Semaphore>,
    options: WalOptions,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

/// What the writer and the readers share.
#[derive(Debug)]
struct Shared {
    files: Arc<dyn Files>,
    folder: PathBuf,
    source: SourceId,
    segments: Mutex<Vec<Segment>>,
    end: watch::Sender<LogEnd>,
}

impl Shared {
    fn segments(&self) -> MutexGuard<'_, Vec<Segment>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One file of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    path: PathBuf,
    /// The position of its first row.
    first: u64,
    /// How many of its bytes are durable.
    len: u64,
    /// The arrival of its youngest record with a key.
    youngest_key: Option<Timestamp>,
}

#[derive(Debug)]
enum Request {
    Append { record: NewRecord, done: oneshot::Sender<Result<Appended>>, room: tokio::sync::OwnedSemaphorePermit },
    Truncate { below: u64, done: oneshot::Sender<Result<()>> },
}

impl Wal {
    /// The source of the log in a folder; `None` if there is no log yet.
    ///
    /// # Errors
    /// As [`Wal::open`].
    pub fn source_of(files: &dyn Files, folder: &Path) -> Result<Option<SourceId>> {
        open::source_of(files, folder)
    }

    /// The position of the first row that the log in a folder still has; `None` if there is no log yet.
    ///
    /// # Errors
    /// As [`Wal::open`].
    pub fn first_in(files: &dyn Files, folder: &Path) -> Result<Option<u64>> {
        open::first_in(files, folder)
    }

    /// Opens the log of `source` in a folder, or begins it. Blocks.
    ///
    /// # Errors
    /// [`Error::LogDamaged`], [`Error::LogNewer`] or [`Error::LogForeign`] for a log that must not be written to; otherwise an I/O error.
    pub fn open(files: Arc<dyn Files>, folder: &Path, source: SourceId, clock: Arc<dyn Clock>, options: WalOptions) -> Result<Self> {
        options.validate()?;
        let opened = open::open(Arc::clone(&files), folder, source, &options)?;
        let (end, _) = watch::channel(opened.end);
        let segments = Mutex::new(opened.segments);
        let shared = Arc::new(Shared { files, folder: folder.to_owned(), source, segments, end });
        let (requests, receiver) = mpsc::channel(QUEUE);
        let writer = writer::Writer::new(Arc::clone(&shared), clock, options.clone(), opened.handle, opened.keys);
        let thread = thread::Builder::new().name("wal-writer".to_owned()).spawn(move || writer.run(receiver));
        let thread = thread.map_err(|error| Error::io("starting the writer of", folder, error))?;
        let room = Arc::new(Semaphore::new(units(options.queue_bytes)));
        let inner = Inner { shared, requests: Mutex::new(Some(requests)), room, options, thread: Mutex::new(Some(thread)) };
        Ok(Self(Arc::new(inner)))
    }

    /// The log's source.
    pub fn source(&self) -> SourceId {
        self.0.shared.source
    }

    /// Where the log lies.
    pub fn folder(&self) -> &Path {
        &self.0.shared.folder
    }

    /// Appends a push and waits until it is durable.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::Invalid`] for a push that no log takes, [`Error::KeyReused`], [`Error::Full`] when the disk is full (the log
    /// stays usable), an I/O error, or [`Error::Closing`].
    pub async fn append(&self, record: NewRecord) -> Result<Appended> {
        self.check(&record)?;
        let need = u32::try_from(units(record.payload.len())).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.0.room).acquire_many_owned(need).await.map_err(|_| Error::Closing)?;
        let (done, outcome) = oneshot::channel();
        self.requests()?.send(Request::Append { record, done, room }).await.map_err(|_| Error::Closing)?;
        outcome.await.map_err(|_| Error::Closing)?
    }

    /// Deletes the segments that hold nothing from `below` on and no key that is still to be remembered.
    ///
    /// # Errors
    /// An I/O error; what was deleted until then stays deleted.
    pub async fn truncate_before(&self, below: u64) -> Result<()> {
        let (done, outcome) = oneshot::channel();
        self.requests()?.send(Request::Truncate { below, done }).await.map_err(|_| Error::Closing)?;
        outcome.await.map_err(|_| Error::Closing)?
    }

    /// The durable end, and notice of its moves.
    pub fn end(&self) -> watch::Receiver<LogEnd> {
        self.0.shared.end.subscribe()
    }

    /// A reader that begins at a position, which must be the beginning of a record or the end.
    ///
    /// # Errors
    /// [`Error::NotInLog`], or as [`WalReader::read`].
    pub fn read_from(&self, position: u64) -> Result<WalReader> {
        WalReader::new(Arc::clone(&self.0.shared), position)
    }

    /// The first position that the log still holds.
    pub fn first(&self) -> u64 {
        self.0.shared.segments().first().map_or(0, |segment| segment.first)
    }

    /// Writes what was accepted and ends the writer; later appends are [`Error::Closing`].
    pub async fn close(&self) {
        self.take_requests();
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A join error is a panic of the writer, which every waiter has seen as `Closing`.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    fn take_requests(&self) {
        drop(self.0.requests.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn requests(&self) -> Result<mpsc::Sender<Request>> {
        self.0.requests.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(Error::Closing)
    }

    fn check(&self, record: &NewRecord) -> Result<()> {
        let limit = self.0.options.max_push_bytes;
        if record.payload.len() > limit {
            return Err(Error::TooLarge {
                what: "the push".to_owned(),
                size: format!("{} bytes", record.payload.len()),
                limit: format!("{limit} bytes"),
                advice: "split it, or load it as a file or over Flight",
            });
        }
        if record.rows == 0 || record.rows > MAX_ROWS {
            return Err(Error::invalid("push", format!("it has {} rows; a push has between 1 and {MAX_ROWS}", record.rows)));
        }
        if record.view.is_empty() || record.view.len() > usize::from(u8::MAX) {
            return Err(Error::invalid("push", "the name of its view must have between 1 and 255 bytes"));
        }
        match &record.key {
            Some(key) if key.is_empty() || key.len() > MAX_KEY_BYTES => {
                Err(Error::invalid("idempotency key", format!("it has {} bytes; it must have between 1 and {MAX_KEY_BYTES}", key.len())))
            }
            _ => Ok(()),
        }
    }
}

/// Removes the segments of a log that is closed. Blocks.
pub(crate) fn remove(files: &dyn Files, folder: &Path) -> Result<()> {
    open::remove(files, folder)
}

/// Bytes in units of 1 KiB, so that a queue of any size fits a semaphore.
fn units(bytes: usize) -> usize {
    (bytes >> 10) + 1
}

#[cfg(test)]
mod tests;
