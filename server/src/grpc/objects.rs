//! The service `Objects`.

use anabranch_proto::v1;
use anabranch_proto::v1::get_object_chunk::Part as Out;
use anabranch_proto::v1::objects_server::Objects;
use anabranch_proto::v1::put_object_chunk::Part as In;
use anabranch_versioning::{ObjectQuery, ObjectReader};
use futures::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{Grpc, caller};
use crate::app::{PutObjects, Wanted};
use crate::auth::Verb;
use crate::boundary::stream_error;
use crate::error::Error;
use crate::wire::{self, objects};

/// What one message of an answer holds at most; clients refuse over 4 MiB.
const CHUNK_BYTES: usize = 256 << 10;

#[async_trait]
impl Objects for Grpc {
    async fn put(&self, request: Request<Streaming<v1::PutObjectChunk>>) -> Result<Response<v1::PutObjectsReply>, Status> {
        let caller = caller(&request);
        let limit = self.0.config().limits.push_bytes as u64;
        let mut chunks = request.into_inner();
        let first = chunks.message().await.map_err(|status| stream_error(status, limit))?;
        let Some(In::Header(header)) = first.and_then(|chunk| chunk.part) else {
            return Err(Error::argument("stream", "its first message must be the header").into());
        };
        let (repository, reference) = wire::target(header.target.as_ref());
        let scope = self.0.enter(&caller, Verb::WriteObjects, repository, reference).await?;
        let mut put = scope.put_objects(&header.author, header.message).await?;
        if let Err(status) = receive(&mut put, &mut chunks, limit).await {
            put.abort().await;
            return Err(status);
        }
        let (committed, put) = put.commit().await?;
        Ok(Response::new(objects::put(&committed, &put)))
    }

    type GetStream = BoxStream<'static, Result<v1::GetObjectChunk, Status>>;

    async fn get(&self, request: Request<v1::GetObjectRequest>) -> Result<Response<Self::GetStream>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadObjects, wire::target(m.target.as_ref())).await?;
        let (commit, info) = scope.stat_object(&m.path).await?;
        let range = m.offset..m.length.map_or(u64::MAX, |length| m.offset.saturating_add(length));
        let object = v1::ObjectAt { commit: commit.to_string(), object: Some(objects::object(&info)) };
        let reader = scope.open_object(info, Some(range)).await?;
        let first = stream::iter([Ok(v1::GetObjectChunk { part: Some(Out::Object(object)) })]);
        Ok(Response::new(first.chain(chunks(reader)).boxed()))
    }

    async fn stat(&self, request: Request<v1::StatObjectRequest>) -> Result<Response<v1::ObjectAt>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadObjects, wire::target(m.target.as_ref())).await?;
        let (commit, info) = scope.stat_object(&m.path).await?;
        Ok(Response::new(v1::ObjectAt { commit: commit.to_string(), object: Some(objects::object(&info)) }))
    }

    async fn list(&self, request: Request<v1::ListObjectsRequest>) -> Result<Response<v1::ListObjectsReply>, Status> {
        let scope = self.enter(&request, Verb::ReadObjects, wire::target(request.get_ref().target.as_ref())).await?;
        let m = request.into_inner();
        let after = Some(m.after).filter(|after| !after.is_empty());
        let query = ObjectQuery { prefix: m.prefix, delimiter: m.delimiter, after, limit: m.limit as usize };
        let (commit, page) = scope.list_objects(query).await?;
        Ok(Response::new(objects::page(&commit, page)))
    }

    async fn delete(&self, request: Request<v1::DeleteObjectsRequest>) -> Result<Response<v1::ObjectCommitReply>, Status> {
        let scope = self.enter(&request, Verb::WriteObjects, wire::target(request.get_ref().target.as_ref())).await?;
        let m = request.into_inner();
        let wanted = Wanted { condition: objects::condition(m.condition)?, author: m.author, message: m.message };
        Ok(Response::new(objects::committed(&scope.delete_objects(m.paths, wanted).await?)))
    }

    async fn copy(&self, request: Request<v1::CopyObjectRequest>) -> Result<Response<v1::ObjectCommitReply>, Status> {
        let scope = self.enter(&request, Verb::WriteObjects, wire::target(request.get_ref().target.as_ref())).await?;
        if !request.get_ref().from_ref.is_empty() {
            let (repository, _) = wire::target(request.get_ref().target.as_ref());
            self.enter(&request, Verb::ReadObjects, (repository, &request.get_ref().from_ref)).await?;
        }
        let m = request.into_inner();
        let wanted = Wanted { condition: objects::condition(m.condition)?, author: m.author, message: m.message };
        Ok(Response::new(objects::committed(&scope.copy_object(&m.from_ref, &m.from, m.to, wanted).await?)))
    }

    async fn rename(&self, request: Request<v1::RenameObjectRequest>) -> Result<Response<v1::ObjectCommitReply>, Status> {
        let scope = self.enter(&request, Verb::WriteObjects, wire::target(request.get_ref().target.as_ref())).await?;
        let m = request.into_inner();
        let wanted = Wanted { condition: objects::condition(m.condition)?, author: m.author, message: m.message };
        Ok(Response::new(objects::committed(&scope.rename_object(m.from, m.to, wanted).await?)))
    }

    async fn import(&self, request: Request<v1::ImportObjectsRequest>) -> Result<Response<v1::PutObjectsReply>, Status> {
        let scope = self.enter(&request, Verb::WriteObjects, wire::target(request.get_ref().target.as_ref())).await?;
        let m = request.into_inner();
        let wanted = Wanted { condition: objects::condition(m.condition)?, author: m.author, message: m.message };
        let (committed, imported) = scope.import_objects(m.source, m.to, wanted).await?;
        Ok(Response::new(objects::put(&committed, &imported)))
    }
}

async fn receive(put: &mut PutObjects, chunks: &mut Streaming<v1::PutObjectChunk>, limit: u64) -> Result<(), Status> {
    while let Some(chunk) = chunks.message().await.map_err(|status| stream_error(status, limit))? {
        match chunk.part {
            Some(In::Object(object)) => put.begin(object.path, &object.content_type, objects::condition(object.condition)?).await?,
            Some(In::Data(data)) => put.write(&data).await?,
            Some(In::Header(_)) => return Err(Error::argument("stream", "a second header came").into()),
            None => return Err(Error::argument("stream", "an empty message came: the sender gave up").into()),
        }
    }
    Ok(())
}

/// The bytes of an object, verified, in messages of a moderate size.
fn chunks(reader: ObjectReader) -> impl futures::Stream<Item = Result<v1::GetObjectChunk, Status>> + Send {
    stream::unfold((reader, bytes::Bytes::new()), |(mut reader, mut ready)| async move {
        if ready.is_empty() {
            match reader.next().await {
                Ok(Some(bytes)) => ready = bytes,
                Ok(None) => return None,
                // An error ends the stream: the consumer drops it.
                Err(error) => return Some((Err(Status::from(Error::from(error))), (reader, ready))),
            }
        }
        let data = ready.split_to(ready.len().min(CHUNK_BYTES));
        Some((Ok(v1::GetObjectChunk { part: Some(Out::Data(data)) }), (reader, ready)))
    })
}
