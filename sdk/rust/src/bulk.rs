//! Sending large amounts of rows over Arrow Flight, committed offline first and published from there.

use anabranch_proto::v1;
use anabranch_proto::v1::flight_command::Command;
use arrow_flight::FlightData;
use bytes::Bytes;
use futures::FutureExt;
use prost::Message;
use serde::Serialize;

use crate::flight::{command, encode};
use crate::upload::upload;
use crate::{Client, Error, Reader};

/// What goes with a bulk stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BulkOptions {
    /// Names the stream, so that a retry is known; empty for a fresh one.
    pub stream_id: String,
    /// The number of the first batch that is sent, for a resumed stream.
    pub first_batch: u64,
    /// The message of the commit; may be empty.
    pub message: String,
}

/// Rows that went in by file or bulk stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ingested {
    /// The commit that holds them.
    pub commit: String,
    /// Rows that are in.
    pub rows: u64,
    /// Rows that the checks refused.
    pub quarantined: u64,
    /// Rows that were in before, from the same file or stream.
    pub duplicates: u64,
    /// The source id.
    pub source: u32,
    /// Given to a later read as `at_least`.
    pub token: String,
}

impl Client {
    /// Sends rows to a view in bulk.
    ///
    /// # Errors
    /// `not_found` for an unknown view; `invalid_argument` where a column is missing or of an unlike type.
    pub async fn bulk(&self, view: &str, rows: Reader, options: &BulkOptions) -> Result<Ingested, Error> {
        let bulk = v1::BulkCommand {
            target: Some(self.target()),
            view: view.to_owned(),
            stream_id: options.stream_id.clone(),
            author: self.author(),
            message: options.message.clone(),
            first_batch: options.first_batch,
        };
        let (messages, mut failure) = upload(encode(command(Command::Bulk(bulk)), rows), FlightData::default());
        let mut flight = self.flight();
        let answer = async move {
            let mut results = flight.do_put(messages).await?.into_inner();
            let mut last = Bytes::new();
            while let Some(result) = results.message().await? {
                last = result.app_metadata;
            }
            Ok(last)
        };
        let last = self.uploaded(answer.boxed(), &mut failure).await?;
        let reply = v1::BulkReply::decode(last).map_err(|error| Error::Protocol(format!("bulk reply: {error}")))?;
        Ok(Ingested::from(reply))
    }
}

impl From<v1::BulkReply> for Ingested {
    fn from(reply: v1::BulkReply) -> Self {
        let v1::BulkReply { commit, rows, quarantined, duplicates, source, token } = reply;
        Self { commit, rows, quarantined, duplicates, source, token }
    }
}
