//! Batches of a saved dataset for a trainer, and the dataset as a whole.
//!
//! The order of an epoch depends on the dataset, the split, the seed and the epoch alone. Of `world_size` workers each reads its `rank`'s batches: disjoint
//! and complete. [`Batches::cursor`] is the place of *all* ranks behind the batch given out last: workers that have had equally many batches hold the same
//! text, and may go on from it in any number, with any batch size, each row that is left coming exactly once.
//!
//! Rows come ahead of their reader, in chunks of whole batches, and no more than about `prefetch_bytes` of them (or four batches, where these are larger):
//! one chunk is being read, two wait, one comes in. Dropping the [`Batches`] ends the stream, here and at the server.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anabranch_proto::v1;
use anabranch_proto::v1::flight_command::Command;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use arrow_flight::{FlightDescriptor, FlightInfo, Ticket};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::flight::command;
use crate::{Client, Error, Table};

/// Endpoints that are read at a time.
const PARALLEL: usize = 4;
/// Chunks that wait between the stream and its reader.
const WAITING: usize = 2;
/// Chunks in memory in all: those that wait, one that is read and one that comes in.
const CHUNKS: u64 = WAITING as u64 + 2;

/// A saved dataset, or the part of one that is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SavedQuery {
    /// Its name.
    pub name: String,
    /// The columns; empty for all.
    pub columns: Vec<String>,
    /// The split; empty for all rows.
    pub split: String,
    /// The content that it must have; empty for any.
    pub content_digest: String,
}

/// What a saved dataset is, and where its rows are.
#[derive(Debug, Clone)]
pub struct Located {
    /// The columns.
    pub schema: SchemaRef,
    /// How many rows there are.
    pub rows: u64,
    /// How many bytes all columns and rows of the dataset take as they are stored.
    pub stored_bytes: u64,
    /// The commit that its name was looked up at.
    pub commit: String,
    /// Its content.
    pub content_digest: String,
    /// What the endpoints give, one behind the other, is the dataset.
    pub tickets: Vec<Ticket>,
}

/// How a rank reads an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchesQuery {
    /// The dataset.
    pub dataset: SavedQuery,
    /// Rows in a batch.
    pub batch_size: u32,
    /// What shuffles the rows; `None` for their own order, or what the cursor says.
    pub seed: Option<u64>,
    /// The epoch; `None` for the first, or what the cursor says.
    pub epoch: Option<u64>,
    /// Which worker this is, from 0.
    pub rank: u32,
    /// Of how many.
    pub world_size: u32,
    /// Where to go on; empty for the beginning.
    pub cursor: String,
    /// Leave out a last batch that is not full, for all ranks alike.
    pub drop_last: bool,
    /// About how much may be fetched ahead.
    pub prefetch_bytes: u64,
}

impl BatchesQuery {
    /// All rows of a dataset in their order, for one worker.
    pub fn new(name: impl Into<String>, batch_size: u32) -> Self {
        let dataset = SavedQuery { name: name.into(), ..SavedQuery::default() };
        Self {
            dataset,
            batch_size,
            seed: None,
            epoch: None,
            rank: 0,
            world_size: 1,
            cursor: String::new(),
            drop_last: false,
            prefetch_bytes: 8 << 20,
        }
    }
}

/// A rank's batches of an epoch, fetched ahead.
#[derive(Debug)]
pub struct Batches {
    schema: SchemaRef,
    start: v1::BatchesStart,
    given: u64,
    cursor: String,
    chunks: mpsc::Receiver<Result<Chunk, Error>>,
    current: VecDeque<(RecordBatch, String)>,
    /// Bytes of chunks that have come and are not read through.
    held: Arc<AtomicUsize>,
    most_held: usize,
    held_by_current: usize,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Chunk {
    rows: RecordBatch,
    about: v1::BatchesChunk,
    bytes: usize,
}

impl Client {
    /// Looks a saved dataset up.
    ///
    /// # Errors
    /// `not_found` for an unknown ref, dataset or split; `invalid_argument` for an unknown column; `failed_precondition` where its rows are not stored, or
    /// where it has another content.
    pub async fn locate_dataset(&self, query: &SavedQuery) -> Result<Located, Error> {
        let descriptor = FlightDescriptor::new_cmd(command(Command::Dataset(self.dataset_command(query))));
        let info = self.flight().get_flight_info(descriptor).await.map_err(|status| self.error(&status))?.into_inner();
        let unreadable = |error: &dyn std::fmt::Display| Error::Protocol(format!("dataset {:?}: {error}", query.name));
        let about = v1::DatasetInfo::decode(info.app_metadata.clone()).map_err(|error| unreadable(&error))?;
        let FlightInfo { total_records, total_bytes, ref endpoint, .. } = info;
        let tickets = endpoint.iter().filter_map(|endpoint| endpoint.ticket.clone()).collect();
        Ok(Located {
            rows: u64::try_from(total_records).map_err(|error| unreadable(&error))?,
            stored_bytes: u64::try_from(total_bytes).unwrap_or_default(),
            commit: about.commit,
            content_digest: about.content_digest,
            tickets,
            schema: Arc::new(info.try_decode_schema().map_err(|error| unreadable(&error))?),
        })
    }

    /// Fetches a saved dataset, some endpoints at a time.
    ///
    /// # Errors
    /// As [`Client::locate_dataset`].
    pub async fn fetch_dataset(&self, query: &SavedQuery) -> Result<Table, Error> {
        let located = self.locate_dataset(query).await?;
        let fetch = |ticket: Ticket| async move {
            let stream = self.flight().do_get(ticket).await.map_err(|status| self.error(&status))?.into_inner();
            Ok::<_, Error>(self.receive(stream).await?.batches)
        };
        let parts: Vec<Vec<RecordBatch>> = stream::iter(located.tickets).map(fetch).buffered(PARALLEL).try_collect().await?;
        let table = Table { schema: located.schema, batches: parts.into_iter().flatten().filter(|batch| batch.num_rows() > 0).collect() };
        if table.rows() as u64 != located.rows {
            return Err(Error::Protocol(format!("dataset {:?}: {} rows came of {}", query.name, table.rows(), located.rows)));
        }
        Ok(table)
    }

    /// Begins or resumes a rank's batches of an epoch.
    ///
    /// # Errors
    /// As [`Client::locate_dataset`]; `invalid_argument` for a batch size of 0, a rank that the world does not have and what is no cursor;
    /// `failed_precondition` for a cursor of another dataset, split, seed or epoch.
    pub async fn dataset_batches(&self, query: &BatchesQuery) -> Result<Batches, Error> {
        let batches = v1::BatchesCommand {
            dataset: Some(self.dataset_command(&query.dataset)),
            batch_size: query.batch_size,
            rank: query.rank,
            world_size: query.world_size,
            seed: query.seed,
            epoch: query.epoch,
            cursor: query.cursor.clone(),
            drop_last: query.drop_last,
            chunk_bytes: (query.prefetch_bytes / CHUNKS).max(1),
        };
        if query.world_size == 0 {
            return Err(Error::Argument("world_size is 0: give how many workers there are".to_owned()));
        }
        let ticket = Ticket { ticket: command(Command::Batches(batches)) };
        let stream = self.flight().do_get(ticket).await.map_err(|status| self.error(&status))?.into_inner();
        let mut decoder = FlightDataDecoder::new(stream.map_err(FlightError::from));
        let first = decoder.next().await.ok_or_else(|| Error::Protocol("batches: the stream is empty".to_owned()))?;
        let first = first.map_err(|error| self.stream_error(error))?;
        let DecodedPayload::Schema(schema) = first.payload else {
            return Err(Error::Protocol("batches: the stream does not begin with a schema".to_owned()));
        };
        let start = v1::BatchesStart::decode(first.inner.app_metadata).map_err(|error| Error::Protocol(format!("batches: {error}")))?;
        let (sender, chunks) = mpsc::channel(WAITING);
        let held = Arc::new(AtomicUsize::new(0));
        let (client, counter) = (self.clone(), Arc::clone(&held));
        let task = tokio::spawn(async move {
            while let Some(message) = decoder.next().await {
                let chunk = message.map_err(|error| client.stream_error(error)).and_then(chunk_of);
                let failed = chunk.is_err();
                if let Ok(chunk) = &chunk {
                    counter.fetch_add(chunk.bytes, Ordering::Relaxed);
                }
                if sender.send(chunk).await.is_err() || failed {
                    return;
                }
            }
        });
        let (cursor, current) = (start.cursor.clone(), VecDeque::new());
        Ok(Batches { schema, start, given: 0, cursor, chunks, current, held, most_held: 0, held_by_current: 0, task })
    }

    fn dataset_command(&self, query: &SavedQuery) -> v1::DatasetCommand {
        let SavedQuery { name, columns, split, content_digest } = query.clone();
        v1::DatasetCommand { target: Some(self.target()), name, columns, split, content_digest }
    }

    fn stream_error(&self, error: FlightError) -> Error {
        match error {
            FlightError::Tonic(status) => self.error(&status),
            other => Error::Protocol(other.to_string()),
        }
    }
}

fn chunk_of(message: arrow_flight::decode::DecodedFlightData) -> Result<Chunk, Error> {
    let unreadable = |reason: &dyn std::fmt::Display| Error::Protocol(format!("batches: {reason}"));
    let about = v1::BatchesChunk::decode(message.inner.app_metadata.clone()).map_err(|error| unreadable(&error))?;
    let DecodedPayload::RecordBatch(rows) = message.payload else { return Err(unreadable(&"a message has no rows")) };
    let sizes: u64 = about.rows.iter().map(|rows| u64::from(*rows)).sum();
    if sizes != rows.num_rows() as u64 || about.rows.len() != about.cursors.len() {
        return Err(unreadable(&"the sizes of a chunk do not add up"));
    }
    Ok(Chunk { bytes: rows.get_array_memory_size(), rows, about })
}

impl Batches {
    /// The next batch; `None` at the end of the epoch.
    ///
    /// # Errors
    /// [`Error::Unreachable`] where the connection is lost: [`Batches::cursor`] is where to go on.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        if self.given == self.start.batches {
            return Ok(None);
        }
        if self.current.is_empty() {
            self.held.fetch_sub(std::mem::take(&mut self.held_by_current), Ordering::Relaxed);
            let early = || Error::Protocol(format!("batches: {} came of {}", self.given, self.start.batches));
            let Chunk { rows, about, bytes } = self.chunks.recv().await.ok_or_else(early)??;
            self.most_held = self.most_held.max(self.held.load(Ordering::Relaxed));
            self.held_by_current = bytes;
            let mut at = 0;
            for (size, cursor) in about.rows.into_iter().zip(about.cursors) {
                self.current.push_back((rows.slice(at, size as usize), cursor));
                at += size as usize;
            }
        }
        let (batch, cursor) = self.current.pop_front().ok_or_else(|| Error::Protocol("batches: a chunk is empty".to_owned()))?;
        self.cursor = cursor;
        self.given += 1;
        Ok(Some(batch))
    }

    /// Where all ranks stand behind the batch given out last; where the epoch was begun, before the first.
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    /// The columns.
    pub const fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How many batches this rank gets, from where it began.
    pub const fn batches(&self) -> u64 {
        self.start.batches
    }

    /// How many rows the epoch has for all ranks together, those before the cursor too.
    pub const fn rows(&self) -> u64 {
        self.start.rows
    }

    /// What shuffles the rows.
    pub const fn seed(&self) -> Option<u64> {
        self.start.seed
    }

    /// The epoch.
    pub const fn epoch(&self) -> u64 {
        self.start.epoch
    }

    /// The content of the dataset.
    pub fn content_digest(&self) -> &str {
        &self.start.content_digest
    }

    /// The most bytes of rows that were held here at a time, as far as seen when a chunk was taken.
    pub const fn most_held_bytes(&self) -> usize {
        self.most_held
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.task.abort();
    }
}
