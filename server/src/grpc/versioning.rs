//! The service `Versioning`.

use anabranch_proto::v1;
use anabranch_proto::v1::versioning_server::Versioning;
use tonic::{Request, Response, Status, async_trait};

use super::Grpc;
use crate::auth::Verb;
use crate::wire;

#[async_trait]
impl Versioning for Grpc {
    async fn create_branch(&self, request: Request<v1::CreateBranchRequest>) -> Result<Response<v1::Branch>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::WriteRefs, (&m.repository, &m.from)).await?;
        Ok(Response::new(wire::branch(scope.create_branch(&m.name).await?)))
    }

    async fn delete_branch(&self, request: Request<v1::DeleteBranchRequest>) -> Result<Response<v1::DeleteBranchReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::WriteRefs, (&m.repository, &m.name)).await?;
        scope.delete_branch(&m.name).await?;
        Ok(Response::new(v1::DeleteBranchReply {}))
    }

    async fn list_branches(&self, request: Request<v1::ListBranchesRequest>) -> Result<Response<v1::ListBranchesReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadVersions, (&m.repository, "")).await?;
        let branches = scope.branches(&m.prefix).await?.into_iter().map(wire::branch).collect();
        Ok(Response::new(v1::ListBranchesReply { branches }))
    }

    async fn create_tag(&self, request: Request<v1::CreateTagRequest>) -> Result<Response<v1::Tag>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::WriteRefs, (&m.repository, &m.r#ref)).await?;
        Ok(Response::new(wire::tag(scope.create_tag(&m.name).await?)))
    }

    async fn delete_tag(&self, request: Request<v1::DeleteTagRequest>) -> Result<Response<v1::DeleteTagReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::WriteRefs, (&m.repository, &m.name)).await?;
        scope.delete_tag(&m.name).await?;
        Ok(Response::new(v1::DeleteTagReply {}))
    }

    async fn list_tags(&self, request: Request<v1::ListTagsRequest>) -> Result<Response<v1::ListTagsReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadVersions, (&m.repository, "")).await?;
        let tags = scope.tags(&m.prefix).await?.into_iter().map(wire::tag).collect();
        Ok(Response::new(v1::ListTagsReply { tags }))
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Result<Response<v1::Commit>, Status> {
        let scope = self.enter(&request, Verb::ReadVersions, wire::target(request.get_ref().target.as_ref())).await?;
        Ok(Response::new(wire::commit(&scope.commit_info().await?)))
    }

    async fn log(&self, request: Request<v1::LogRequest>) -> Result<Response<v1::LogReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadVersions, wire::target(m.target.as_ref())).await?;
        let page = scope.log(m.limit).await?;
        Ok(Response::new(v1::LogReply { commits: page.commits.iter().map(wire::commit).collect() }))
    }

    async fn diff(&self, request: Request<v1::DiffRequest>) -> Result<Response<v1::DiffReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadVersions, (&m.repository, &m.left)).await?;
        Ok(Response::new(wire::diff(scope.diff(&m.right, m.limit).await?)))
    }

    async fn merge(&self, request: Request<v1::MergeRequest>) -> Result<Response<v1::MergeReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::Merge, (&m.repository, &m.into)).await?;
        let merged = scope.merge(&m.source, &m.author).await?;
        Ok(Response::new(v1::MergeReply { commit: merged.commit.to_string(), outcome: merged.outcome.to_owned() }))
    }
}
