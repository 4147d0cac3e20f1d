//! The worker itself.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anabranch_core::definition::DefinitionDigest;
use anabranch_core::{BranchId, SourceId};
use anabranch_offline_store::{Append, OfflineStore, TableName, quarantine_shape};
use anabranch_online_store::{Incarnation, Write, rows_of};
use anabranch_versioning::{Change, CommitId, CommitRequest, Expect, MetadataWrite, Read, Repository};
use arrow::array::RecordBatch;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::buffer::Buffer;
use super::{BranchName, Command, Context, PUSH_PIPELINE, Pipeline, Progress, Rest};
use crate::config::duration;
use crate::crash::CrashPoint;
use crate::decode;
use crate::judge::Judges;
use crate::offset::{Offset, OffsetKey};
use crate::publication::{WriteTarget, WriteTargets};
use crate::quarantine::{self, QuarantinedRow};
use crate::wal::{LogEnd, LogRecord, Wal, WalReader};
use crate::{Error, Result};

const AUTHOR: &str = "ingest";
const FIRST_RETRY: Duration = Duration::from_millis(50);

/// Marks, by branch id, that a merge has brought other definitions, to which the offset must move before a row is judged.
const MARKERS: &str = "ingest.settle";

/// The metadata write that marks a branch whose offset must move to the head's definitions; it belongs into the transaction that brings them.
pub(crate) fn settle_marker(branch: BranchId) -> MetadataWrite {
    MetadataWrite::Put { space: MARKERS.to_owned(), key: Bytes::copy_from_slice(&branch.0.to_be_bytes()), value: Bytes::from_static(&[1]) }
}

/// Begins the pipeline of a branch on its log.
///
/// # Errors
/// Where the log and the offset contradict each other, or the head cannot be read.
pub(crate) async fn begin(context: Arc<Context>, branch: BranchName, wal: Wal) -> Result<Pipeline> {
    let key = OffsetKey { branch: branch.id, pipeline: PUSH_PIPELINE.to_owned(), source: wal.source() };
    settle(&context, &branch, &key, wal.first()).await?;
    let state = State::load(&context, &branch, &key, &wal).await?;
    let progress = Progress { online: state.offset.next, committed: state.offset.next, ..Progress::default() };
    let ((commands, received), (progress, seen)) = (mpsc::channel(64), watch::channel(progress));
    let (judges, cancel) = (Arc::new(RwLock::new(Arc::clone(&state.judges))), CancellationToken::new());
    let worker =
        Worker { context, branch: branch.clone(), wal: wal.clone(), key, state, progress, judges: Arc::clone(&judges), cancel: cancel.clone() };
    let task = std::sync::Mutex::new(Some(tokio::spawn(worker.run(received))));
    Ok(Pipeline { branch, wal, commands, progress: seen, judges, cancel, task })
}

async fn read_offset(repository: &Repository, head: &CommitId, key: &OffsetKey) -> Result<Option<Offset>> {
    let bytes = repository.get(head, &key.to_key()?).await.map_err(|error| Error::below("reading the offset", error))?;
    bytes.map(|bytes| Offset::from_bytes(&bytes)).transpose()
}

/// Sees to it that the branch has an offset for the log, and that it names the definitions that a merge brought.
async fn settle(context: &Context, branch: &BranchName, key: &OffsetKey, first: u64) -> Result<()> {
    let below = |error| Error::below("settling the offset", error);
    let (repository, marker) = (&context.repository, branch.id.0.to_be_bytes());
    let marked = repository.metadata().value(MARKERS, &marker).await.map_err(below)?.is_some();
    loop {
        let head = repository.branch(&branch.name).await.map_err(below)?.head;
        let old = read_offset(repository, &head, key).await?;
        if old.is_some() && !marked {
            return Ok(());
        }
        let definitions = anabranch_registry::load(repository, &head).await.map_err(|error| Error::below("settling the offset", error))?;
        let digest = Judges::store(repository, &definitions).await?;
        if old.is_some_and(|old| old.digest == digest) {
            repository.metadata().swap_value(MARKERS, &marker, Some(&[1]), None).await.map_err(below)?;
            return Ok(());
        }
        let new = match old {
            Some(old) => Offset { digest, ..old },
            None => Offset { next: first, last_arrival: anabranch_core::Timestamp::MIN, digest },
        };
        let message = format!("judge source {} by definitions {digest} from position {} on", key.source, new.next);
        let request = CommitRequest {
            base: Some(head),
            reads: vec![Read::Prefix(anabranch_registry::all_definitions().map_err(|error| Error::below("settling the offset", error))?)],
            metadata_writes: vec![MetadataWrite::Delete { space: MARKERS.to_owned(), key: Bytes::copy_from_slice(&marker) }],
            ..CommitRequest::new(AUTHOR, message, vec![change(key, old, new)?])
        };
        match repository.commit(&branch.name, request).await {
            Ok(_) => return Ok(()),
            // Definitions or offset moved meanwhile: look again.
            Err(anabranch_versioning::Error::ReadConflict { .. } | anabranch_versioning::Error::Expect { .. }) => {}
            Err(error) => return Err(below(error)),
        }
    }
}

fn change(key: &OffsetKey, old: Option<Offset>, new: Offset) -> Result<Change> {
    let expect = old.map_or(Expect::Absent, |old| Expect::Value(old.to_bytes()));
    Ok(Change::Put { key: key.to_key()?, value: new.to_bytes(), expect })
}

/// The change that moves an offset to other definitions.
pub(crate) fn rejudge(branch: BranchId, source: SourceId, old: Offset, digest: DefinitionDigest) -> Result<Change> {
    let key = OffsetKey { branch, pipeline: PUSH_PIPELINE.to_owned(), source };
    change(&key, Some(old), Offset { digest, ..old })
}

/// What the worker takes from the head, and what it has done since.
struct State {
    offset: Offset,
    judges: Arc<Judges>,
    /// Where rows go online, by view; nothing on a branch that is not served.
    targets: WriteTargets,
    /// Where it reads on; away while a batch is judged.
    reader: Option<WalReader>,
    buffer: Buffer,
}

impl State {
    async fn load(context: &Context, branch: &BranchName, key: &OffsetKey, wal: &Wal) -> Result<Self> {
        let head = context.repository.branch(&branch.name).await.map_err(|error| Error::below("reading the head", error))?.head;
        let offset = read_offset(&context.repository, &head, key).await?;
        let offset = offset
            .ok_or_else(|| Error::Malformed { what: "branch", reason: format!("{:?} has lost its offset of source {}", branch.name, key.source) })?;
        let judges = Arc::new(Judges::load(&context.repository, offset.digest).await?);
        let layouts: Vec<_> = judges.views().map(|view| Arc::clone(&view.layout)).collect();
        let targets = {
            let gate = context.publisher.gate().await;
            context.publisher.targets(branch.id, layouts.iter(), *gate).await?
        };
        let (log, next) = (wal.clone(), offset.next);
        let reader = tokio::task::spawn_blocking(move || log.read_from(next)).await.map_err(|_| Error::Closing)??;
        let buffer = Buffer::new(offset.next, offset.last_arrival);
        Ok(Self { offset, judges, targets, reader: Some(reader), buffer })
    }
}

struct Worker {
    context: Arc<Context>,
    branch: BranchName,
    wal: Wal,
    key: OffsetKey,
    state: State,
    progress: watch::Sender<Progress>,
    judges: Arc<RwLock<Arc<Judges>>>,
    cancel: CancellationToken,
}

/// Rows of one read, judged and packed.
struct Batch {
    parts: Vec<Part>,
    writes: Vec<Write>,
    next: u64,
    last_arrival: anabranch_core::Timestamp,
}

struct Part {
    /// `None` where the judging definitions have no such view.
    view: Option<String>,
    rows: Option<RecordBatch>,
    refused: Vec<QuarantinedRow>,
}

/// What a commit came to.
enum Outcome {
    Done,
    /// The offset at the head is not ours any more.
    Moved,
    /// The online store lost rows that are in no commit yet.
    Lost,
}

impl Worker {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let cancel = self.cancel.clone();
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.serve(&mut commands) => {}
        }
        self.progress.send_modify(|progress| progress.ended = true);
    }

    async fn serve(&mut self, commands: &mut mpsc::Receiver<Command>) {
        let mut end = self.wal.end();
        let mut flushes: Vec<(u64, oneshot::Sender<()>)> = Vec::new();
        loop {
            self.answer(&mut flushes);
            let next = self.state.buffer.next;
            let wanted = flushes.iter().map(|(upto, _)| *upto).max();
            if self.is_full() || wanted.is_some_and(|upto| next >= upto) && self.state.buffer.since.is_some() {
                self.commit_until_done().await;
                continue;
            }
            let due = self.state.buffer.since.map(|since| since + duration(self.context.config.commit_every));
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Flush { upto, done }) => flushes.push((upto, done)),
                    Some(Command::Pause { paused }) => self.rest(paused).await,
                    None => return,
                },
                () = sleep_until(due) => self.commit_until_done().await,
                // The log's writer is gone only when the log is closed.
                more = beyond(&mut end, next) => if more { self.step_until_done().await } else { return },
            }
        }
    }

    fn answer(&self, flushes: &mut Vec<(u64, oneshot::Sender<()>)>) {
        let committed = self.state.offset.next;
        for (_, done) in flushes.extract_if(.., |(upto, _)| *upto <= committed) {
            // Whoever gave up waiting does not need the answer.
            let _ = done.send(());
        }
    }

    fn is_full(&self) -> bool {
        let (buffer, config) = (&self.state.buffer, &self.context.config);
        buffer.rows + buffer.refused >= config.commit_rows || buffer.bytes >= config.commit_bytes
    }

    /// Judges and publishes what the log has next.
    async fn step_until_done(&mut self) {
        let mut pause = FIRST_RETRY;
        loop {
            match self.step().await {
                Ok(()) => return self.well(),
                Err(error) => pause = self.ill("judging and publishing rows", &error, pause).await,
            }
        }
    }

    async fn step(&mut self) -> Result<()> {
        // Held until the rows are written: who changes what is written to waits for that.
        let context = Arc::clone(&self.context);
        let gate = context.publisher.gate().await;
        if self.state.targets.gate != *gate {
            let layouts: Vec<_> = self.state.judges.views().map(|view| Arc::clone(&view.layout)).collect();
            self.state.targets = context.publisher.targets(self.branch.id, layouts.iter(), *gate).await?;
        }
        let batch = self.read().await?;
        self.context.crash.reach(CrashPoint::Judged);
        if !batch.writes.is_empty() {
            // The reader has moved on; should this fail, it is set back.
            if let Err(error) = self.write_online(&batch.writes).await {
                self.state.reader = None;
                return Err(Error::below("writing online", error));
            }
        }
        drop(gate);
        self.context.crash.reach(CrashPoint::Online);
        let buffer = &mut self.state.buffer;
        for part in batch.parts {
            if let (Some(view), Some(rows)) = (&part.view, part.rows) {
                buffer.add_rows(view, rows)?;
            }
            buffer.add_refused(part.view.as_deref(), part.refused);
        }
        (buffer.next, buffer.last_arrival) = (batch.next, buffer.last_arrival.max(batch.last_arrival));
        buffer.since.get_or_insert_with(Instant::now);
        self.progress.send_modify(|progress| progress.online = batch.next);
        Ok(())
    }

    async fn write_online(&mut self, rows: &[Write]) -> anabranch_online_store::Result<()> {
        if self.state.buffer.incarnation.is_none() {
            self.state.buffer.incarnation = Some(self.context.online.incarnation().await?);
        }
        self.context.online.write(rows).await
    }

    /// Reads, decodes, judges and packs, off the runtime.
    async fn read(&mut self) -> Result<Batch> {
        let (reader, wal, next) = (self.state.reader.take(), self.wal.clone(), self.state.buffer.next);
        let (judges, targets) = (Arc::clone(&self.state.judges), Arc::clone(&self.state.targets.views));
        let (source, config) = (self.wal.source(), &self.context.config);
        let (rows, bytes) = (config.batch_rows, config.commit_bytes);
        let work = tokio::task::spawn_blocking(move || {
            let mut reader = reader.map_or_else(|| wal.read_from(next), Ok)?;
            let records = reader.read(rows, bytes)?;
            judge(&records, &judges, &targets, source, reader.position()).map(|batch| (reader, batch))
        });
        // After an error the reader is gone, and is made anew where the buffer ends.
        let (reader, batch) = work.await.map_err(|_| Error::Closing)??;
        self.state.reader = Some(reader);
        Ok(batch)
    }

    async fn commit_until_done(&mut self) {
        if self.state.buffer.since.is_none() {
            return;
        }
        let mut pause = FIRST_RETRY;
        loop {
            match self.commit().await {
                Ok(Outcome::Done) => return self.well(),
                Ok(Outcome::Moved) => {
                    tracing::warn!(branch = %self.branch.name, source = %self.wal.source(), "the offset was moved by another; beginning again from it");
                    return self.reload_until_done().await;
                }
                Ok(Outcome::Lost) => {
                    tracing::warn!(branch = %self.branch.name, source = %self.wal.source(), "the online store lost rows that are in no commit; writing them again");
                    let upto = self.state.buffer.next;
                    self.reload_until_done().await;
                    while self.state.buffer.next < upto {
                        self.step_until_done().await;
                    }
                }
                Err(error) => pause = self.ill("committing rows", &error, pause).await,
            }
        }
    }

    async fn commit(&mut self) -> Result<Outcome> {
        let mut wrote = None;
        if self.context.publisher.serves(self.branch.id) {
            let syncing = |error| Error::below("syncing the online store", error);
            self.context.online.sync().await.map_err(syncing)?;
            wrote = Some(self.context.online.incarnation().await.map_err(syncing)?);
            if self.state.buffer.incarnation.is_some() && self.state.buffer.incarnation != wrote {
                return Ok(Outcome::Lost);
            }
        }
        self.context.crash.reach(CrashPoint::OnlineSynced);
        ensure_quarantine(&self.context.offline, &self.context.repository, &self.branch.name, &self.state.buffer.quarantines()).await?;
        let (old, buffer) = (self.state.offset, &self.state.buffer);
        let new = Offset { next: buffer.next, last_arrival: buffer.last_arrival, digest: old.digest };
        let key = self.key.to_key()?;
        let append = Append {
            author: AUTHOR.to_owned(),
            message: format!(
                "{} rows of {} views, {} refused, source {} up to {}",
                buffer.rows,
                buffer.views(),
                buffer.refused,
                self.key.source,
                new.next
            ),
            tables: buffer.tables()?,
            extra: vec![change(&self.key, Some(old), new)?],
            ..Append::default()
        };
        let committed = match self.context.offline.append(&self.branch.name, append).await {
            Ok(appended) => appended.committed,
            Err(anabranch_offline_store::Error::Versioning(anabranch_versioning::Error::Expect { key: moved })) if moved == key => {
                return Ok(Outcome::Moved);
            }
            Err(error) => return Err(Error::below("committing rows", error)),
        };
        self.context.crash.reach(CrashPoint::Committed);
        self.state.offset = new;
        self.state.buffer = Buffer::new(new.next, new.last_arrival);
        self.progress.send_modify(|progress| (progress.committed, progress.commit) = (new.next, Some(committed.commit)));
        self.follow_up(&committed.previous, &committed.commit, wrote).await;
        Ok(Outcome::Done)
    }

    /// What follows a commit and may be made up for later.
    async fn follow_up(&self, previous: &CommitId, commit: &CommitId, wrote: Option<Incarnation>) {
        if let Some(wrote) = wrote
            && let Err(error) = self.context.publisher.committed(self.branch.id, previous, commit, wrote).await
        {
            tracing::warn!(%error, "the online generations were not moved on; the next commit will do it");
        }
        self.context.crash.reach(CrashPoint::Advanced);
        if let Err(error) = self.wal.truncate_before(self.state.offset.next).await {
            tracing::warn!(%error, "the log was not cut; the next commit will do it");
        }
        self.context.crash.reach(CrashPoint::Truncated);
    }

    /// Comes to rest, stays until it is let go, and begins again from the head.
    async fn rest(&mut self, paused: oneshot::Sender<Rest>) {
        self.commit_until_done().await;
        let ((held, released), (tell, reloaded)) = (oneshot::channel::<()>(), oneshot::channel());
        if paused.send(Rest { offset: self.state.offset, reloaded, _held: held }).is_err() {
            return;
        }
        self.context.crash.reach(CrashPoint::Paused);
        let _ = released.await;
        self.reload_until_done().await;
        let _ = tell.send(());
    }

    async fn reload_until_done(&mut self) {
        let mut pause = FIRST_RETRY;
        loop {
            match self.reload().await {
                Ok(()) => return self.well(),
                Err(error) => pause = self.ill("reading the head", &error, pause).await,
            }
        }
    }

    async fn reload(&mut self) -> Result<()> {
        settle(&self.context, &self.branch, &self.key, self.wal.first()).await?;
        self.state = State::load(&self.context, &self.branch, &self.key, &self.wal).await?;
        *self.judges.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&self.state.judges);
        let next = self.state.offset.next;
        self.progress.send_modify(|progress| (progress.online, progress.committed) = (next.max(progress.online), next));
        Ok(())
    }

    fn well(&self) {
        self.progress.send_if_modified(|progress| {
            progress.failures = 0;
            progress.last_error.take().is_some()
        });
    }

    /// Tells of a failure and waits; answers how long to wait the next time.
    async fn ill(&self, doing: &'static str, error: &Error, pause: Duration) -> Duration {
        let first = self.progress.borrow().last_error.as_deref() != Some(&error.to_string());
        if first {
            tracing::warn!(%error, branch = %self.branch.name, doing, "the pipeline failed and will try again");
        }
        self.progress.send_modify(|progress| {
            progress.last_error = Some(error.to_string());
            progress.failures += 1;
        });
        tokio::time::sleep(pause).await;
        (pause * 2).min(duration(self.context.config.retry_every))
    }
}

/// Waits until the log goes on beyond a position; false if it never will.
async fn beyond(end: &mut watch::Receiver<LogEnd>, next: u64) -> bool {
    end.wait_for(|end| end.next > next).await.is_ok()
}

/// Ends when something is due; never, if nothing is.
pub(crate) async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Judges records and packs what passed for the online store.
fn judge(records: &[LogRecord], judges: &Judges, targets: &BTreeMap<String, WriteTarget>, source: SourceId, next: u64) -> Result<Batch> {
    let last_arrival = records.last().map_or(anabranch_core::Timestamp::MIN, |record| record.arrival);
    let mut batch = Batch { parts: Vec::with_capacity(records.len()), writes: Vec::new(), next, last_arrival };
    for record in records {
        let name = &record.push.view;
        let Some(view) = judges.view(name) else {
            let (failures, originals) = decode::of_unknown_view(record);
            let refused = quarantine::refused_unread(name, failures, &originals, record.push.kind, record.arrival, source, record.first)?;
            batch.parts.push(Part { view: None, rows: None, refused });
            continue;
        };
        let decoded = decode::decode_record(&view.layout, record);
        let judged = view.judge(&decoded, record.arrival, source)?;
        if let Some(target) = targets.get(name) {
            let view = &target.view;
            let rows = rows_of(&judged.rows, &view.layout, &view.packed, view.generation).map_err(|error| Error::below("packing rows", error))?;
            if let Some(next) = target.next {
                batch.writes.extend(rows.iter().map(|row| Write { generation: next, ..row.clone() }));
            }
            batch.writes.extend(rows);
        }
        batch.parts.push(Part { view: Some(name.clone()), rows: Some(judged.rows), refused: judged.refused });
    }
    Ok(batch)
}

/// Makes the quarantine tables that are missing, in a commit before the one that fills them.
pub(crate) async fn ensure_quarantine(offline: &OfflineStore, repository: &Repository, branch: &str, tables: &[TableName]) -> Result<()> {
    let below = |error| Error::below("making a quarantine table", error);
    for table in tables {
        let head = repository.branch(branch).await.map_err(|error| Error::below("making a quarantine table", error))?.head;
        if offline.find_table(&head, table).await.map_err(below)?.is_some() {
            continue;
        }
        let changes = offline.create_table(table, &quarantine_shape()).await.map_err(below)?;
        match repository.commit(branch, CommitRequest::new(AUTHOR, format!("create table {table}"), changes)).await {
            // Another made it in the meantime.
            Ok(_) | Err(anabranch_versioning::Error::Expect { .. }) => {}
            Err(error) => return Err(Error::below("making a quarantine table", error)),
        }
    }
    Ok(())
}
