//! A sample of what lookups were answered, logged off the hot path into one table for each feature service.
//!
//! A service says which part of its lookups is logged (`logging.sample_rate`). Those on `main` are: a log on other branches would stand in the way of their
//! merge, because both sides would have written rows to one table.
//!
//! ```text
//! lookup ─▶ drawn? ──no──▶ nothing: one comparison
//!             │ yes
//!             ▼
//!        room in the buffer? ──no──▶ counted as dropped; the lookup does not wait
//!             │ yes
//!             ▼
//!           queue ─▶ task: rows by service ─▶ table made or widened ─▶ one commit on `main` for each service
//!                     (every `commit_every` or `commit_rows`, at a flush, when it closes)
//! ```
//!
//! The log is a sample and no ledger: a crash loses what is buffered, at most `buffer_bytes` or `commit_every` of it, and what was dropped is counted and gone.
//! A commit that fails is tried again, with growing pauses, and after [`TRIES`] its rows are dropped and counted. A commit whose answer was lost may be
//! made twice; `_request` and `_row` tell such rows.
//!
//! **The table** `served.<service>` has the columns that [`rows`] says. It is made with the first rows, and follows the service: a column that comes is added,
//! one that goes stays and is null from then on, a type that widens widens. A column that gets a type that the old one does not widen to begins anew under its
//! name; what it held before is read at earlier commits. Nothing of it is removed with the service. A reset of `main` takes rows away as from every table.

mod rows;
mod table;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anabranch_core::definition::Definitions;
use anabranch_core::{Ids, Span};
use anabranch_online_store::{Answer, Lookup};
use anabranch_versioning::CommitId;
use arrow::array::ArrayRef;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::rows::Group;
use crate::config::duration;
use crate::pipeline::{Context, sleep_until};
use crate::publication::Served;
use crate::{Error, Ingest, Result};

pub use rows::{COMMIT, REQUEST, ROW, SAMPLE_RATE, SERVED_AT};

/// How often a commit is tried before its rows are dropped.
const TRIES: u32 = 8;
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Room is given in units of so many bytes.
const UNIT_BYTES: usize = 1 << 10;
/// What a row takes beside its values.
const ROW_BYTES: usize = 64;

/// How what is served is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServingLogConfig {
    /// The longest that a row waits for its commit.
    pub commit_every: Span,
    /// The most rows that wait for a commit.
    pub commit_rows: usize,
    /// About the most bytes that are buffered; what comes beyond is dropped.
    pub buffer_bytes: usize,
}

/// A lookup that is to be logged.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    service: Arc<str>,
    rate: f64,
    request: u128,
}

/// Gives the key columns of a lookup, in the order of [`Lookup::key_columns`]; `None` where they are none, which the lookup would have refused.
pub type KeysOf = Box<dyn FnOnce() -> Option<Vec<ArrayRef>> + Send>;

/// A lookup that was answered.
pub struct ServedLookup {
    /// What drew it.
    pub sample: Sample,
    /// The definitions that it was resolved against.
    pub definitions: Arc<Definitions>,
    /// The commit that what is served answered for; rows pushed since may have been served too.
    pub commit: CommitId,
    /// What was looked up.
    pub lookup: Arc<Lookup>,
    /// For which keys; asked off the hot path.
    pub keys: KeysOf,
    /// What was found.
    pub answer: Answer,
}

/// What became of the rows that were drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServingLogCounts {
    /// Rows in the tables.
    pub logged: u64,
    /// Rows dropped because the buffer was full.
    pub full: u64,
    /// Rows dropped because they could not be committed.
    pub failed: u64,
}

/// Logs what lookups are answered.
#[derive(Debug)]
pub struct ServingLog {
    ids: Arc<dyn Ids>,
    room: Arc<Semaphore>,
    queue: mpsc::Sender<Queued>,
    flushes: mpsc::Sender<oneshot::Sender<()>>,
    counts: Arc<Counts>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Default for ServingLogConfig {
    fn default() -> Self {
        Self { commit_every: Span::seconds(10), commit_rows: 50_000, buffer_bytes: 64 << 20 }
    }
}

impl ServingLogConfig {
    /// Checks every setting against its range.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the first that is out of it.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what, reason: &str| Err(Error::invalid(what, reason));
        if self.commit_every <= Span::default() {
            return refuse("serving_log.commit_every", "it is zero: give a span such as 10s");
        }
        if self.commit_rows == 0 {
            return refuse("serving_log.commit_rows", "it must be at least 1");
        }
        if !(UNIT_BYTES..=u32::MAX as usize).contains(&self.buffer_bytes) {
            return refuse("serving_log.buffer_bytes", "it must be between 1 KiB and 4 GiB");
        }
        Ok(())
    }
}

impl ServingLog {
    /// Begins to log what is served of an ingest's repository. `ids` draw which lookups.
    ///
    /// # Errors
    /// As [`ServingLogConfig::validate`].
    pub fn begin(ingest: &Ingest, ids: Arc<dyn Ids>, config: ServingLogConfig) -> Result<Self> {
        config.validate()?;
        let units = config.buffer_bytes / UNIT_BYTES;
        let (room, counts) = (Arc::new(Semaphore::new(units)), Arc::new(Counts::default()));
        // Each that is queued holds a unit of room at least.
        let ((queue, queued), (flushes, asked)) = (mpsc::channel(units), mpsc::channel(16));
        let context = Arc::clone(&ingest.0.context);
        let task = Task { context, config, counts: Arc::clone(&counts), pending: Vec::new(), rows: 0, since: None };
        let task = Mutex::new(Some(tokio::spawn(task.run(queued, asked))));
        Ok(Self { ids, room, queue, flushes, counts, task })
    }

    /// Decides whether a lookup of a service on `main` is logged.
    pub fn draw(&self, served: &Served, service: &str) -> Option<Sample> {
        let (service, rate) = served.logged.get_key_value(service)?;
        // 53 random bits are a float from 0 to 1, 1 excluded.
        let drawn = (self.ids.random() >> 75) as f64 / (1_u64 << 53) as f64;
        (drawn < *rate).then(|| Sample { service: Arc::clone(service), rate: *rate, request: self.ids.random() })
    }

    /// Takes a lookup that was drawn and answered, or drops it where there is no room.
    pub fn log(&self, served: ServedLookup) {
        let rows = served.answer.rows as u64;
        let room = u32::try_from(served.bytes() / UNIT_BYTES + 1).ok().and_then(|units| Arc::clone(&self.room).try_acquire_many_owned(units).ok());
        let taken = room.is_some_and(|room| self.queue.try_send(Queued { served, room }).is_ok());
        if !taken {
            self.counts.full.fetch_add(rows, Ordering::Relaxed);
        }
    }

    /// What became of the rows that were drawn, since it began.
    pub fn counts(&self) -> ServingLogCounts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ServingLogCounts { logged: of(&self.counts.logged), full: of(&self.counts.full), failed: of(&self.counts.failed) }
    }

    /// Waits until what was taken before is committed, or dropped because it could not be.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.flushes.send(done).await.is_ok() {
            // Nobody answers where the log was closed.
            let _ = flushed.await;
        }
    }

    /// Commits what was taken, if that is possible within the limit, and ends.
    pub async fn close(&self, limit: Duration) {
        if tokio::time::timeout(limit, self.flush()).await.is_err() {
            tracing::warn!("not all that was drawn of what was served could be logged in time; it is lost");
        }
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
    }
}

impl ServedLookup {
    fn bytes(&self) -> usize {
        let Answer { rows, statuses, event_times, values, .. } = &self.answer;
        values.len() + statuses.len() + size_of_val(&event_times[..]) + rows * ROW_BYTES
    }
}

impl fmt::Debug for ServedLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedLookup").field("sample", &self.sample).field("commit", &self.commit).field("rows", &self.answer.rows).finish()
    }
}

#[derive(Debug, Default)]
struct Counts {
    logged: AtomicU64,
    full: AtomicU64,
    failed: AtomicU64,
}

/// A lookup, and the room that it takes until it is written.
#[derive(Debug)]
struct Queued {
    served: ServedLookup,
    room: OwnedSemaphorePermit,
}

/// Writes what is queued.
struct Task {
    context: Arc<Context>,
    config: ServingLogConfig,
    counts: Arc<Counts>,
    pending: Vec<Queued>,
    rows: usize,
    /// When the first of them came.
    since: Option<Instant>,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Queued>, mut flushes: mpsc::Receiver<oneshot::Sender<()>>) {
        loop {
            let due = self.since.map(|since| since + duration(self.config.commit_every));
            tokio::select! {
                biased;
                asked = flushes.recv() => {
                    let Some(done) = asked else { return };
                    while let Ok(queued) = queue.try_recv() {
                        self.take(queued);
                    }
                    self.write().await;
                    // Whoever gave up waiting does not need the answer.
                    let _ = done.send(());
                }
                () = sleep_until(due) => self.write().await,
                Some(queued) = queue.recv() => {
                    self.take(queued);
                    if self.rows >= self.config.commit_rows {
                        self.write().await;
                    }
                }
            }
        }
    }

    fn take(&mut self, queued: Queued) {
        self.rows += queued.served.answer.rows;
        self.pending.push(queued);
        self.since.get_or_insert_with(Instant::now);
    }

    async fn write(&mut self) {
        (self.rows, self.since) = (0, None);
        let mut groups: Vec<(Vec<ServedLookup>, Vec<OwnedSemaphorePermit>)> = Vec::new();
        for Queued { served, room } in self.pending.drain(..) {
            let alike = |other: &ServedLookup| other.sample.service == served.sample.service && Arc::ptr_eq(&other.definitions, &served.definitions);
            match groups.iter_mut().find(|(group, _)| group.first().is_some_and(alike)) {
                Some((group, rooms)) => {
                    group.push(served);
                    rooms.push(room);
                }
                None => groups.push((vec![served], vec![room])),
            }
        }
        for (group, _room) in groups {
            let rows = group.iter().map(|served| served.answer.rows as u64).sum();
            let Some(service) = group.first().map(|served| Arc::clone(&served.sample.service)) else { continue };
            match write_group(&self.context, group).await {
                Ok(()) => self.counts.logged.fetch_add(rows, Ordering::Relaxed),
                Err(error) => {
                    tracing::warn!(%error, %service, rows, "what was served could not be logged, and is dropped");
                    self.counts.failed.fetch_add(rows, Ordering::Relaxed)
                }
            };
        }
    }
}

async fn write_group(context: &Context, lookups: Vec<ServedLookup>) -> Result<()> {
    let group = tokio::task::spawn_blocking(move || Group::new(lookups)).await.map_err(|_| Error::Closing)??;
    let mut pause = FIRST_RETRY;
    for _ in 1..TRIES {
        match table::append(context, &group).await {
            Ok(()) => return Ok(()),
            Err(error) => tracing::debug!(%error, service = %group.service, "logging what was served failed and is tried again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(duration(context.config.retry_every));
    }
    table::append(context, &group).await
}
