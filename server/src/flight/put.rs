//! `DoPut`: rows of a view go in, in bulk. The one result carries a `BulkReply`.

use std::sync::Arc;

use anabranch_proto::v1::flight_command::Command;
use arrow_flight::{FlightData, PutResult};
use futures::{StreamExt, stream};
use prost::Message;
use tonic::{Request, Status, Streaming};

use super::{Outgoing, streams, wrong};
use crate::App;
use crate::auth::Verb;
use crate::error::Error;
use crate::grpc::caller;
use crate::wire;

pub(super) async fn put(app: &Arc<App>, request: Request<Streaming<FlightData>>) -> Result<Outgoing<PutResult>, Status> {
    let caller = caller(&request);
    let mut incoming = streams::incoming(request.into_inner(), app.config().limits.push_bytes as u64).await?;
    let Command::Bulk(bulk) = incoming.command else { return Err(wrong("DoPut", "bulk").into()) };
    let (repository, reference) = wire::target(bulk.target.as_ref());
    let scope = app.enter(&caller, Verb::WriteRows, repository, reference).await?;
    let mut load = scope.bulk_stream(bulk.view, bulk.stream_id, &bulk.author, bulk.message).await?;
    let mut number = bulk.first_batch;
    while let Some(batch) = incoming.batches.next().await {
        load.write(Some(number), batch.map_err(streams::failed)?).await.map_err(Error::from)?;
        number += 1;
    }
    let loaded = load.finish().await.map_err(Error::from)?;
    scope.count_load(&loaded);
    let result = PutResult { app_metadata: wire::bulk(loaded).encode_to_vec().into() };
    Ok(stream::once(async { Ok(result) }).boxed())
}
