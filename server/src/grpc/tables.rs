//! The service `Tables`.

use anabranch_proto::v1;
use anabranch_proto::v1::tables_server::Tables;
use tonic::{Request, Response, Status, async_trait};

use super::Grpc;
use crate::app::CompactRequest;
use crate::auth::Verb;
use crate::wire::{self, tables};

#[async_trait]
impl Tables for Grpc {
    async fn compact(&self, request: Request<v1::CompactRequest>) -> Result<Response<v1::CompactReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::Compact, (&m.repository, &m.branch)).await?;
        let v1::CompactRequest { views, full, author, .. } = request.into_inner();
        let done = scope.compact(CompactRequest { views, full, author }).await?;
        Ok(Response::new(v1::CompactReply { tables: done.into_iter().map(tables::compacted).collect() }))
    }

    async fn list_files(&self, request: Request<v1::ListFilesRequest>) -> Result<Response<v1::ListFilesReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadRows, wire::target(m.target.as_ref())).await?;
        let (commit, files) = scope.table_files(&m.view).await?;
        Ok(Response::new(v1::ListFilesReply { commit: commit.to_string(), files: files.into_iter().map(tables::file).collect() }))
    }

    async fn get_metadata(&self, request: Request<v1::GetMetadataRequest>) -> Result<Response<v1::GetMetadataReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadRows, wire::target(m.target.as_ref())).await?;
        let (commit, metadata) = scope.table_metadata(&m.view).await?;
        Ok(Response::new(v1::GetMetadataReply { commit: commit.to_string(), metadata }))
    }
}
