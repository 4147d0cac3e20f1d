//! Streams of batches, in and out.

use anabranch_offline_store::join::{Spool, Spooled};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use tonic::{Status, Streaming};

use super::command;
use crate::boundary::stream_error;
use crate::error::{Error, Result, chain};
use anabranch_proto::v1::flight_command::Command;

/// Rows that are encoded at a time: large batches would hold up the runtime.
const ENCODED_ROWS: usize = 16 << 10;

/// A stream whose first message has been read for its command.
pub(super) struct Incoming {
    pub(super) command: Command,
    pub(super) batches: FlightRecordBatchStream,
}

/// Reads the command of a stream; its batches are yet to be read.
pub(super) async fn incoming(mut messages: Streaming<FlightData>, limit: u64) -> Result<Incoming, Status> {
    let first = messages.message().await.map_err(|status| stream_error(status, limit))?;
    let first = first.ok_or_else(|| Error::argument("stream", "it is empty: its first message has the command and the schema"))?;
    let descriptor = first.flight_descriptor.as_ref();
    let command = command(&descriptor.ok_or_else(|| Error::argument("stream", "its first message has no descriptor"))?.cmd)?;
    let rest = messages.map_err(move |status| FlightError::Tonic(Box::new(stream_error(status, limit))));
    let batches = FlightRecordBatchStream::new_from_flight_data(stream::once(async { Ok(first) }).chain(rest));
    Ok(Incoming { command, batches })
}

/// What a stream that fails answers with.
pub(super) fn failed(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => Error::argument("stream", chain(&other)).into(),
    }
}

/// Reads a whole stream and puts its rows aside.
pub(super) async fn collect(mut batches: FlightRecordBatchStream, spool: impl FnOnce(SchemaRef) -> Spool) -> Result<Spooled, Status> {
    let first = batches.next().await.transpose().map_err(failed)?;
    let schema = batches.schema().cloned().ok_or_else(|| Error::argument("stream", "it has no schema"))?;
    let (mut spool, mut next) = (spool(schema), first);
    while let Some(batch) = next {
        spool = spool.take(batch).await.map_err(Error::from)?;
        next = batches.next().await.transpose().map_err(failed)?;
    }
    Ok(spool.finish().map_err(Error::from)?)
}

/// The messages of batches; the last one carries `footer`.
pub(super) fn outgoing(
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch, Error>> + Send + 'static,
    footer: Option<Bytes>,
) -> BoxStream<'static, Result<FlightData, Status>> {
    let slices = batches.map_ok(|batch| stream::iter(slices(batch)).map(Ok)).try_flatten();
    let external = slices.map_err(|error: Error| FlightError::Tonic(Box::new(error.into())));
    let messages = FlightDataEncoderBuilder::new().with_schema(schema).build(external).map_err(failed);
    match footer {
        None => messages.boxed(),
        Some(footer) => stream::unfold((messages.boxed(), None, Some(footer)), with_footer).boxed(),
    }
}

type Footing = (BoxStream<'static, Result<FlightData, Status>>, Option<FlightData>, Option<Bytes>);

/// Holds each message back until the next one shows that it is not the last.
async fn with_footer((mut messages, mut held, mut footer): Footing) -> Option<(Result<FlightData, Status>, Footing)> {
    loop {
        match (messages.next().await, held.take()) {
            (Some(Ok(message)), None) => held = Some(message),
            (Some(Ok(message)), Some(before)) => return Some((Ok(before), (messages, Some(message), footer))),
            (Some(Err(status)), _) => return Some((Err(status), (messages, None, None))),
            (None, Some(mut last)) => {
                last.app_metadata = footer.take().unwrap_or_default();
                return Some((Ok(last), (messages, None, None)));
            }
            (None, None) => return None,
        }
    }
}

fn slices(batch: RecordBatch) -> Vec<RecordBatch> {
    let rows = batch.num_rows();
    (0..rows).step_by(ENCODED_ROWS).map(|at| batch.slice(at, ENCODED_ROWS.min(rows - at))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    async fn sent(rows: Vec<i64>) -> Vec<FlightData> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(rows))]).unwrap();
        outgoing(schema, stream::iter([Ok(batch)]), Some(Bytes::from_static(b"end"))).map(Result::unwrap).collect().await
    }

    #[tokio::test]
    async fn the_footer_comes_with_the_last_message_whatever_it_is() {
        for rows in [0, 1, ENCODED_ROWS as i64 * 2 + 1] {
            let messages = sent((0..rows).collect()).await;
            let (last, others) = messages.split_last().unwrap();
            assert_eq!(last.app_metadata.as_ref(), b"end");
            assert!(others.iter().all(|message| message.app_metadata.is_empty()));
            let decoded: Vec<_> =
                FlightRecordBatchStream::new_from_flight_data(stream::iter(messages.into_iter().map(Ok))).try_collect().await.unwrap();
            assert_eq!(decoded.iter().map(RecordBatch::num_rows).sum::<usize>(), rows as usize);
        }
    }
}
