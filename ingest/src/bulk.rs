//! Loads: files and bulk streams, which are committed first and published from the commit.
//!
//! A load is a source of its own (`source.rs`) with one arrival, fixed before its first row is committed. Its rows are judged by the definitions at
//! the head when it begins, which its commits read: had they changed meanwhile, the load is refused and begins again under the new ones, as
//! another source.
//!
//! ```text
//! source + arrival ─▶ what is in already? ─▶ decode, judge ─▶ commit (rows, refused rows, offset of the load) ─▶ publish
//!   (metadata)         (intervals at head)        ▲                 │ more than `bulk_bytes`: in several parts
//!                                                 └─────────────────┘
//! ```
//!
//! - **Again**: rows whose positions are in the view's table or its quarantine at the head are left out, so a retry after a crash, or the same file once
//!   more, adds nothing. After a revert they are not in, and come in again.
//! - **At the same time**: every commit of a load moves an offset of the pipeline `load`, expecting what was there when the intervals were read; of two
//!   loads of the same file one wins, and the other looks again.
//! - **Nothing half-done**: a file that is loaded in parts is decoded to its end before the first part is committed, so that a file that is damaged at
//!   the end leaves nothing behind. A stream that breaks off leaves the parts that were committed, and is made whole by sending it again.
//! - **Failure points**: after the source is given: it is found again. After a commit: the generations still answer for an older one, and are moved on
//!   at start, or by whoever publishes next.

use std::sync::Arc;

use anabranch_core::definition::DefinitionDigest;
use anabranch_core::name::reserved;
use anabranch_core::{Position, SourceId};
use anabranch_offline_store::{Append, Interval, TableName, TableRows};
use anabranch_versioning::{Change, CommitId, Expect, Read};
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use tokio::sync::OwnedRwLockReadGuard;

use crate::crash::CrashPoint;
use crate::decode::{Decoded, FileInput, FileOptions, FileRows, decode_batch, open_file};
use crate::engine::{Ingest, whole};
use crate::judge::{Judged, Judges, ViewJudge};
use crate::offset::{Offset, OffsetKey};
use crate::pipeline::{BranchName, ensure_quarantine};
use crate::quarantine::{self, QuarantinedRow};
use crate::source::{self, LoadOrigin, LoadSource};
use crate::token::Token;
use crate::{Error, Result};

/// The pipeline of loads, as offsets name it.
pub const LOAD_PIPELINE: &str = "load";

/// How often a load that lost against another of the same source looks again.
const ATTEMPTS: usize = 3;

/// A file to be loaded.
#[derive(Debug, Clone)]
pub struct FileLoad {
    /// The feature view.
    pub view: String,
    /// The file.
    pub input: FileInput,
    /// How it is read.
    pub options: FileOptions,
    /// Who loads it.
    pub author: String,
    /// Why; where it is empty the commit says what was loaded.
    pub message: String,
}

/// A bulk stream to be loaded.
#[derive(Debug, Clone)]
pub struct StreamLoad {
    /// The feature view.
    pub view: String,
    /// Names the stream: sent again under the same id, its rows are not doubled.
    pub stream_id: String,
    /// Who loads it.
    pub author: String,
    /// Why; where it is empty the commit says what was loaded.
    pub message: String,
}

/// A load that is committed and, on the served branch, online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// The last commit that it made; the head where everything was in already.
    pub commit: CommitId,
    /// Its source.
    pub source: SourceId,
    /// How many rows it added.
    pub rows: u64,
    /// How many it put to quarantine.
    pub quarantined: u64,
    /// How many were in already.
    pub duplicates: u64,
    /// Given to a later read, which then sees the rows.
    pub token: Token,
}

impl Ingest {
    /// Loads a file. It is in as a whole when this returns, and after an error not at all unless it was too large for one commit.
    ///
    /// # Errors
    /// [`Error::File`] for a file that cannot be rows of the view; of kind conflict where definitions changed while it was loaded: load it again.
    pub async fn load_file(&self, branch: &str, load: FileLoad) -> Result<Loaded> {
        let (ingest, branch) = (self.clone(), branch.to_owned());
        whole(async move { ingest.load_whole_file(&branch, load).await }).await
    }

    async fn load_whole_file(&self, branch: &str, load: FileLoad) -> Result<Loaded> {
        let hashed = load.input.clone();
        let hash = tokio::task::spawn_blocking(move || hashed.content_hash()).await.map_err(|_| Error::Closing)??;
        let origin = LoadOrigin::File { name: load.input.name(), hash };
        let mut attempts = 1;
        loop {
            let work = self.begin_load(branch, &load.view, &origin, &load.author, &load.message).await?;
            match work.run_file(&load).await {
                Err(Error::Overtaken) if attempts < ATTEMPTS => attempts += 1,
                Err(error) => return Err(error),
                Ok(loaded) => return Ok(loaded),
            }
        }
    }

    /// Begins to load a stream. Until it is finished, applies and merges on the branch wait.
    ///
    /// # Errors
    /// Of kind invalid argument for an unknown view or an empty id.
    pub async fn load_stream(&self, branch: &str, load: StreamLoad) -> Result<BulkStream> {
        if load.stream_id.is_empty() || load.stream_id.len() > 256 {
            return Err(Error::invalid("stream id", format!("it has {} bytes; it must have between 1 and 256", load.stream_id.len())));
        }
        let origin = LoadOrigin::Stream { id: load.stream_id };
        let work = self.begin_load(branch, &load.view, &origin, &load.author, &load.message).await?;
        Ok(BulkStream { work, next_batch: 0, next_row: 0 })
    }

    async fn begin_load(&self, branch: &str, view: &str, origin: &LoadOrigin, author: &str, message: &str) -> Result<LoadWork> {
        let branch = self.branch(branch).await?;
        let shared = self.shared(&branch).await;
        let context = &self.0.context;
        let below = |error| Error::below("beginning a load", error);
        let head = context.repository.branch(&branch.name).await.map_err(below)?.head;
        let definitions = anabranch_registry::load(&context.repository, &head).await?;
        definitions.layout(view)?;
        let judges = Judges::compile(&definitions)?;
        let digest = Judges::store(&context.repository, &definitions).await?;
        let unknown = || Error::invalid("feature view", format!("there is no {view:?}"));
        let judge = Arc::clone(judges.view(view).ok_or_else(unknown)?);
        let load = source::of_load(context.repository.metadata().as_ref(), origin, view, digest, self.0.clock.as_ref()).await?;
        context.crash.reach(CrashPoint::SourceGiven);
        let message = match (message, origin) {
            ("", LoadOrigin::File { name, .. }) => format!("load {name} into {view}"),
            ("", LoadOrigin::Stream { id }) => format!("load stream {id} into {view}"),
            (message, _) => message.to_owned(),
        };
        let mut work = LoadWork {
            ingest: self.clone(),
            branch,
            judge,
            digest,
            load,
            author: author.to_owned(),
            message,
            base: head,
            covered: Vec::new(),
            offset: None,
            part: Part::default(),
            totals: Totals::default(),
            commit: None,
            _shared: shared,
        };
        work.look(&head).await?;
        Ok(work)
    }
}

/// A bulk stream on its way in.
#[derive(Debug)]
pub struct BulkStream {
    work: LoadWork,
    next_batch: u64,
    next_row: u64,
}

impl BulkStream {
    /// Takes a batch. Batches are numbered from 0; one that came already is passed over, and without a number it is the next.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a batch out of turn or with columns that cannot be rows of the view; what a commit fails with.
    pub async fn write(&mut self, number: Option<u64>, batch: RecordBatch) -> Result<()> {
        match number.unwrap_or(self.next_batch) {
            number if number < self.next_batch => return Ok(()),
            number if number > self.next_batch => {
                let reason = format!("batch {number} came where {} is next: send batches in order, from 0 on", self.next_batch);
                return Err(Error::invalid("bulk stream", reason));
            }
            _ => {}
        }
        let first = Position::new(self.next_row)?;
        let (judge, load, rows) = (Arc::clone(&self.work.judge), self.work.load, batch.num_rows() as u64);
        let judged = tokio::task::spawn_blocking(move || {
            let decoded = decode_batch(&judge.layout, &batch, first)?;
            judge.judge(&decoded, load.arrival, load.source)
        });
        let judged = judged.await.map_err(|_| Error::Closing)??;
        self.work.take(first.get(), rows, judged)?;
        (self.next_batch, self.next_row) = (self.next_batch + 1, self.next_row + rows);
        if self.work.part.bytes >= self.work.ingest.0.context.config.bulk_bytes {
            self.work.commit().await?;
        }
        Ok(())
    }

    /// Commits what is left and publishes.
    ///
    /// # Errors
    /// What the commit or the online store fail with; the stream can be sent again.
    pub async fn finish(mut self) -> Result<Loaded> {
        whole(async move {
            self.work.commit().await?;
            self.work.finish(self.next_row).await
        })
        .await
    }
}

/// A load under way.
#[derive(Debug)]
struct LoadWork {
    ingest: Ingest,
    branch: BranchName,
    judge: Arc<ViewJudge>,
    digest: DefinitionDigest,
    load: LoadSource,
    author: String,
    message: String,
    /// The head whose definitions judge.
    base: CommitId,
    /// The positions that are in already.
    covered: Vec<Interval>,
    /// The load's offset when that was looked at.
    offset: Option<Bytes>,
    part: Part,
    totals: Totals,
    commit: Option<CommitId>,
    _shared: OwnedRwLockReadGuard<()>,
}

/// What goes into the next commit.
#[derive(Debug, Default)]
struct Part {
    rows: Vec<RecordBatch>,
    refused: Vec<QuarantinedRow>,
    bytes: usize,
    /// The first position, and the one behind the last.
    span: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Totals {
    rows: u64,
    refused: u64,
    duplicates: u64,
}

impl LoadWork {
    fn table(&self) -> TableName {
        TableName::features(self.judge.layout.name())
    }

    fn offset_key(&self) -> OffsetKey {
        OffsetKey { branch: self.branch.id, pipeline: LOAD_PIPELINE.to_owned(), source: self.load.source }
    }

    /// Looks which positions are in at a head, and who loads.
    async fn look(&mut self, head: &CommitId) -> Result<()> {
        let context = &self.ingest.0.context;
        let below = |error| Error::below("looking what is in already", error);
        let mut covered = context.offline.intervals(head, &self.table(), self.load.source).await.map_err(below)?;
        let quarantine = TableName::quarantine(self.judge.layout.name());
        covered.extend(context.offline.intervals(head, &quarantine, self.load.source).await.map_err(below)?);
        self.covered = Interval::merged(covered);
        let offset = context.repository.get(head, &self.offset_key().to_key()?).await;
        self.offset = offset.map_err(|error| Error::below("looking what is in already", error))?;
        Ok(())
    }

    async fn run_file(mut self, load: &FileLoad) -> Result<Loaded> {
        let (layout, input, options) = (Arc::clone(&self.judge.layout), load.input.clone(), load.options.clone());
        let limit = self.ingest.0.context.config.bulk_bytes;
        let (mut rows, mut checked) = (None, false);
        loop {
            let (judge, source, given) = (Arc::clone(&self.judge), self.load, rows.take());
            let (layout, input, options) = (Arc::clone(&layout), input.clone(), options.clone());
            let work = tokio::task::spawn_blocking(move || {
                let rows = given.map_or_else(|| open_file(&layout, &input, &options), Ok)?;
                let read = read_part(rows, &judge, source, limit)?;
                if !read.ended && !checked {
                    open_file(&layout, &input, &options)?.try_for_each(|decoded| decoded.map(drop))?;
                }
                Ok::<_, Error>(read)
            });
            let read = work.await.map_err(|_| Error::Closing)??;
            for (first, count, judged) in read.judged {
                self.take(first, count, judged)?;
            }
            self.commit().await?;
            if read.ended {
                return self.finish(read.rows.position()).await;
            }
            (rows, checked) = (Some(read.rows), true);
        }
    }

    /// Takes judged rows, less those that are in already.
    fn take(&mut self, first: u64, count: u64, judged: Judged) -> Result<()> {
        let covered = |position: u64| {
            // The spans are in order and apart.
            let behind = self.covered.partition_point(|span| span.first.get() <= position);
            behind > 0 && position <= self.covered[behind - 1].last.get()
        };
        let Judged { mut rows, mut refused } = judged;
        let fresh = (first..first + count).filter(|position| !covered(*position)).count() as u64;
        if fresh < count {
            self.totals.duplicates += count - fresh;
            refused.retain(|row| !covered(row.position.get()));
            let positions = rows.column_by_name(reserved::POSITION).and_then(|column| column.as_primitive_opt::<Int64Type>());
            let keep: BooleanArray = positions.into_iter().flatten().map(|position| position.map(|position| !covered(position as u64))).collect();
            rows = filter_record_batch(&rows, &keep).map_err(|error| Error::Malformed { what: "loaded rows", reason: error.to_string() })?;
        }
        if fresh == 0 {
            return Ok(());
        }
        let part = &mut self.part;
        part.bytes += rows.get_array_memory_size() + refused.iter().map(|row| row.payload.len() + 256).sum::<usize>();
        part.span = Some((part.span.map_or(first, |(begin, _)| begin), first + count));
        if rows.num_rows() > 0 {
            part.rows.push(rows);
        }
        part.refused.extend(refused);
        Ok(())
    }

    /// Commits the part, if there is one.
    async fn commit(&mut self) -> Result<()> {
        let part = std::mem::take(&mut self.part);
        let Some((first, next)) = part.span else { return Ok(()) };
        let (rows, refused) = (part.rows.iter().map(|batch| batch.num_rows() as u64).sum::<u64>(), part.refused.len() as u64);
        let (context, quarantine) = (&self.ingest.0.context, TableName::quarantine(self.judge.layout.name()));
        let mut tables = Vec::new();
        if rows > 0 {
            // Refused rows among them are in, too: they are never asked for again.
            let interval = Interval { source: self.load.source, first: Position::new(first)?, last: Position::new(next - 1)? };
            tables.push(TableRows { table: self.table(), batches: part.rows, intervals: vec![interval] });
        }
        if refused > 0 {
            ensure_quarantine(&context.offline, &context.repository, &self.branch.name, std::slice::from_ref(&quarantine)).await?;
            tables.push(TableRows { table: quarantine, batches: vec![quarantine::to_batch(&part.refused)?], intervals: Vec::new() });
        }
        let key = self.offset_key().to_key()?;
        let offset = Offset { next, last_arrival: self.load.arrival, digest: self.digest }.to_bytes();
        let expect = self.offset.clone().map_or(Expect::Absent, Expect::Value);
        let append = Append {
            author: self.author.clone(),
            message: format!("{}: {rows} rows, {refused} refused", self.message),
            tables,
            extra: vec![Change::Put { key: key.clone(), value: offset.clone(), expect }],
            base: Some(self.base),
            reads: vec![Read::Prefix(anabranch_registry::all_definitions()?)],
            ..Append::default()
        };
        use anabranch_versioning::Error as Versioning;
        let committed = match context.offline.append(&self.branch.name, append).await {
            Ok(appended) => appended.committed.commit,
            Err(anabranch_offline_store::Error::Versioning(Versioning::Expect { key: moved })) if moved == key => return Err(Error::Overtaken),
            Err(error) => return Err(Error::below("committing a load", error)),
        };
        context.crash.reach(CrashPoint::LoadCommitted);
        (self.offset, self.commit) = (Some(offset), Some(committed));
        (self.totals.rows, self.totals.refused) = (self.totals.rows + rows, self.totals.refused + refused);
        Ok(())
    }

    /// Publishes, also what an earlier try committed and did not publish.
    async fn finish(self, next: u64) -> Result<Loaded> {
        self.ingest.publish_branch(self.branch.id).await?;
        Ok(Loaded {
            commit: self.commit.unwrap_or(self.base),
            source: self.load.source,
            rows: self.totals.rows,
            quarantined: self.totals.refused,
            duplicates: self.totals.duplicates,
            token: Token { source: self.load.source, next },
        })
    }
}

/// Rows of a file, judged, and the file to be read on.
struct ReadPart {
    rows: FileRows,
    /// First position and number of rows of each batch.
    judged: Vec<(u64, u64, Judged)>,
    ended: bool,
}

fn read_part(mut rows: FileRows, judge: &ViewJudge, load: LoadSource, limit: usize) -> Result<ReadPart> {
    let (mut judged, mut bytes) = (Vec::new(), 0);
    while bytes < limit {
        let Some(decoded) = rows.next() else { return Ok(ReadPart { rows, judged, ended: true }) };
        let decoded: Decoded = decoded?;
        let batch = judge.judge(&decoded, load.arrival, load.source)?;
        bytes += batch.rows.get_array_memory_size() + batch.refused.iter().map(|row| row.payload.len() + 256).sum::<usize>();
        judged.push((decoded.first.get(), decoded.batch.num_rows() as u64, batch));
    }
    Ok(ReadPart { rows, judged, ended: false })
}
