//! The service `Ingest`.

use anabranch_proto::v1;
use anabranch_proto::v1::ingest_server::Ingest;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{Grpc, caller};
use crate::app::{FileUpload, PushRequest, RowsPayload, Spool};
use crate::auth::Verb;
use crate::boundary::stream_error;
use crate::error::Error;
use crate::wire;

#[async_trait]
impl Ingest for Grpc {
    async fn push(&self, request: Request<v1::PushRequest>) -> Result<Response<v1::PushReply>, Status> {
        let scope = self.enter(&request, Verb::WriteRows, wire::target(request.get_ref().target.as_ref())).await?;
        let m = request.into_inner();
        let rows = match m.rows {
            Some(v1::push_request::Rows::Json(json)) => RowsPayload::Json(json),
            Some(v1::push_request::Rows::ArrowIpc(ipc)) => RowsPayload::Arrow(ipc),
            None => return Err(Error::argument("rows", "there are none: give json or arrow_ipc").into()),
        };
        let push = PushRequest { view: m.view, rows, idempotency_key: m.idempotency_key };
        Ok(Response::new(wire::pushed(scope.push(push).await?)))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::PushReply>, Status> {
        let scope = self.enter(&request, Verb::WriteRows, wire::target(request.get_ref().target.as_ref())).await?;
        let m = request.into_inner();
        let rows = RowsPayload::Tombstones(m.json);
        let push = PushRequest { view: m.view, rows, idempotency_key: m.idempotency_key };
        Ok(Response::new(wire::pushed(scope.push(push).await?)))
    }

    async fn flush(&self, request: Request<v1::FlushRequest>) -> Result<Response<v1::FlushReply>, Status> {
        let scope = self.enter(&request, Verb::WatchIngest, wire::target(request.get_ref().target.as_ref())).await?;
        Ok(Response::new(v1::FlushReply { commit: scope.flush().await?.to_string() }))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let scope = self.enter(&request, Verb::WatchIngest, wire::target(request.get_ref().target.as_ref())).await?;
        Ok(Response::new(wire::status(scope.status().await?)))
    }

    async fn ingest_file(&self, request: Request<Streaming<v1::FileChunk>>) -> Result<Response<v1::BulkReply>, Status> {
        let caller = caller(&request);
        let limits = &self.0.config().limits;
        let mut chunks = request.into_inner();
        let mut next = async || chunks.message().await.map_err(|status| stream_error(status, limits.push_bytes as u64));
        let Some(v1::file_chunk::Part::Header(header)) = next().await?.and_then(|chunk| chunk.part) else {
            return Err(Error::argument("stream", "its first message must be the header of the file").into());
        };
        let (repository, reference) = wire::target(header.target.as_ref());
        let scope = self.0.enter(&caller, Verb::WriteRows, repository, reference).await?;
        let mut spool = Spool::create(self.0.folder(), limits.upload_bytes).await?;
        while let Some(chunk) = next().await? {
            match chunk.part {
                Some(v1::file_chunk::Part::Data(data)) => spool.write(&data).await?,
                Some(v1::file_chunk::Part::Header(_)) => return Err(Error::argument("stream", "a second header came").into()),
                None => return Err(Error::argument("stream", "an empty message came: the sender gave up").into()),
            }
        }
        let file = spool.finish().await?;
        let upload = FileUpload { view: header.view, format: header.format, name: header.name, author: header.author, message: header.message };
        Ok(Response::new(wire::bulk(scope.ingest_file(upload, file).await?)))
    }

    async fn list_quarantine(&self, request: Request<v1::ListQuarantineRequest>) -> Result<Response<v1::ListQuarantineReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadQuarantine, wire::target(m.target.as_ref())).await?;
        let (rows, total) = scope.quarantine(&m.view, m.limit).await?;
        Ok(Response::new(v1::ListQuarantineReply { rows: rows.into_iter().map(wire::quarantined).collect(), total }))
    }
}
