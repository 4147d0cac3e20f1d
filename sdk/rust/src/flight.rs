//! Record batches over Arrow Flight, both ways.
//!
//! A batch reader may block (it may even be a Python generator), so it runs on a thread of its own and hands over through a short channel. The metadata
//! of an answer comes with its last message, or in a message that holds nothing else, which the Arrow decoder would not understand.

use std::sync::{Arc, Mutex, PoisonError};

use anabranch_proto::v1;
use arrow::array::{RecordBatch, RecordBatchIterator, RecordBatchReader};
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::{FlightData, FlightDescriptor};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use tonic::Streaming;

use crate::{Client, Error};

/// Rows in Arrow, batch by batch.
pub type Reader = Box<dyn RecordBatchReader + Send>;

const BATCHES_AHEAD: usize = 4;

/// A reader of one batch.
pub(crate) fn reader_of(batch: RecordBatch) -> Reader {
    let schema = batch.schema();
    Box::new(RecordBatchIterator::new([Ok(batch)], schema))
}

/// A command as the bytes of a ticket or descriptor.
pub(crate) fn command(command: v1::flight_command::Command) -> Bytes {
    v1::FlightCommand { command: Some(command) }.encode_to_vec().into()
}

/// The messages of a stream of rows under a command.
pub(crate) fn encode(command: Bytes, rows: Reader) -> impl Stream<Item = Result<FlightData, Error>> + Send + 'static {
    let schema = rows.schema();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(BATCHES_AHEAD);
    // The thread ends with the reader, or when nobody takes its batches any more.
    tokio::task::spawn_blocking(move || {
        for batch in rows {
            if sender.blocking_send(batch.map_err(FlightError::from)).is_err() {
                return;
            }
        }
    });
    let batches = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
    let encoder = FlightDataEncoderBuilder::new().with_schema(schema).with_flight_descriptor(Some(FlightDescriptor::new_cmd(command)));
    encoder.build(batches).map_err(|error| match error {
        FlightError::Arrow(error) => Error::Arrow(error),
        other => Error::Argument(format!("the rows cannot be sent: {other}")),
    })
}

/// What came out of a stream of rows.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) schema: SchemaRef,
    pub(crate) batches: Vec<RecordBatch>,
    /// The last metadata; empty where there was none.
    pub(crate) metadata: Bytes,
}

impl Client {
    /// Reads a stream of rows to its end.
    pub(crate) async fn receive(&self, stream: Streaming<FlightData>) -> Result<Received, Error> {
        let metadata = Arc::new(Mutex::new(Bytes::new()));
        let kept = Arc::clone(&metadata);
        let data = stream.map_err(FlightError::from).try_filter(move |message| {
            if !message.app_metadata.is_empty() {
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = message.app_metadata.clone();
            }
            futures::future::ready(!message.data_header.is_empty())
        });
        let mut decoder = FlightDataDecoder::new(data);
        let mut batches = Vec::new();
        while let Some(message) = decoder.next().await {
            let message = message.map_err(|error| match error {
                FlightError::Tonic(status) => self.error(&status),
                other => Error::Protocol(other.to_string()),
            })?;
            if let DecodedPayload::RecordBatch(batch) = message.payload {
                batches.push(batch);
            }
        }
        let schema = decoder.schema().cloned().unwrap_or_else(|| Arc::new(Schema::empty()));
        let metadata = std::mem::take(&mut *metadata.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Received { schema, batches, metadata })
    }
}
