//! `DoGet` of a saved dataset: a stretch of its rows, or a rank's batches of an epoch.
//!
//! Batches travel some at a time, each message with their sizes and cursors. They are encoded on a thread that may block, just after they are gathered.

use std::sync::Arc;

use anabranch_offline_store::batches::{BatchesError, Chunk};
use anabranch_proto::v1;
use arrow::datatypes::Schema;
use arrow::ipc::writer::{CompressionContext, DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use arrow_flight::{FlightData, SchemaAsIpc};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use tonic::Status;

use super::{Outgoing, streams};
use crate::App;
use crate::app::{EpochRequest, Part};
use crate::auth::{Caller, Verb};
use crate::error::{Error, Result};
use crate::metrics::RepositoryLabels;
use crate::wire;

/// The part of a dataset that a command means.
pub(super) fn part(wanted: &v1::DatasetCommand) -> Part {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Part { name: wanted.name.clone(), columns: wanted.columns.clone(), split: given(&wanted.split), content_digest: given(&wanted.content_digest) }
}

pub(super) async fn rows(app: &Arc<App>, caller: &Caller, command: v1::DatasetRowsCommand) -> Result<Outgoing<FlightData>, Status> {
    let dataset = command.dataset.unwrap_or_default();
    let (repository, reference) = wire::target(dataset.target.as_ref());
    let scope = app.enter(caller, Verb::ReadDataset, repository, reference).await?;
    let groups = command.first_group..command.first_group.saturating_add(command.groups);
    let (schema, batches) = scope.dataset_groups(&part(&dataset), groups).await?;
    let sent = app.metrics().dataset_rows.get_or_create_owned(&RepositoryLabels { repository: scope.repo.name().to_owned() });
    let counted = batches.inspect_ok(move |batch| {
        sent.inc_by(batch.num_rows() as u64);
    });
    Ok(streams::outgoing(schema, counted, None))
}

pub(super) async fn batches(app: &Arc<App>, caller: &Caller, command: v1::BatchesCommand) -> Result<Outgoing<FlightData>, Status> {
    let dataset = command.dataset.unwrap_or_default();
    let (repository, reference) = wire::target(dataset.target.as_ref());
    let scope = app.enter(caller, Verb::ReadDataset, repository, reference).await?;
    let epoch = scope
        .epoch(EpochRequest {
            part: part(&dataset),
            batch_size: command.batch_size,
            rank: command.rank,
            world_size: if command.world_size == 0 { 1 } else { command.world_size },
            seed: command.seed,
            epoch: command.epoch,
            cursor: (!command.cursor.is_empty()).then_some(command.cursor),
            drop_last: command.drop_last,
            chunk_bytes: command.chunk_bytes,
        })
        .await?;
    let start = v1::BatchesStart {
        batches: epoch.batches,
        rows: epoch.rows,
        cursor: epoch.begin.to_string(),
        seed: epoch.begin.seed,
        epoch: epoch.begin.epoch,
        content_digest: epoch.begin.content.to_string(),
    };
    let sent = app.metrics().dataset_rows.get_or_create_owned(&RepositoryLabels { repository: scope.repo.name().to_owned() });
    let messages = epoch.chunks.map_err(Error::from).and_then(move |chunk| {
        sent.inc_by(chunk.rows.num_rows() as u64);
        async move { tokio::task::spawn_blocking(move || encoded(&chunk)).await.map_err(|_| Error::Closing)? }
    });
    let first = with_schema(&epoch.schema, &start);
    // A trainer may keep its stream for hours: a server that shuts down does not wait for it.
    let closing = app.closing().clone();
    let messages = messages.map_err(Status::from).take_until(closing.clone().cancelled_owned());
    let cut_off =
        stream::once(async move { closing.is_cancelled() }).filter_map(|closing| async move { closing.then_some(Err(Error::Closing.into())) });
    Ok(stream::once(async { Ok(first) }).chain(messages).chain(cut_off).boxed())
}

fn with_schema(schema: &Schema, start: &v1::BatchesStart) -> FlightData {
    let options = IpcWriteOptions::default();
    FlightData::from(SchemaAsIpc::new(schema, &options)).with_app_metadata(start.encode_to_vec())
}

/// The message of a chunk.
fn encoded(chunk: &Chunk) -> Result<FlightData> {
    // None of our types is a dictionary.
    let (generator, mut dictionaries) = (IpcDataGenerator::default(), DictionaryTracker::new(false));
    let encoded = generator.encode(&chunk.rows, &mut dictionaries, &IpcWriteOptions::default(), &mut CompressionContext::default());
    let (_, data) = encoded.map_err(BatchesError::Arrow)?;
    let about = v1::BatchesChunk { rows: chunk.sizes.clone(), cursors: chunk.cursors.iter().map(ToString::to_string).collect() };
    Ok(FlightData::from(data).with_app_metadata(about.encode_to_vec()))
}
