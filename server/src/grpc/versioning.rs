//! The service `Versioning`.

use anabranch_core::Timestamp;
use anabranch_proto::v1;
use anabranch_proto::v1::versioning_server::Versioning;
use tonic::{Request, Response, Status, async_trait};

use super::Grpc;
use crate::app::{DiffRequest, LogRequest, MergeOptions, Replay, ReplayOptions, ResetOptions, Scope};
use crate::auth::Verb;
use crate::error::{Error, Result};
use crate::wire::{self, versions};

#[async_trait]
impl Versioning for Grpc {
    async fn create_branch(&self, request: Request<v1::CreateBranchRequest>) -> Result<Response<v1::Branch>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::WriteRefs, (&m.repository, &m.from)).await?;
        Ok(Response::new(versions::branch(scope.create_branch(&m.name, &m.author).await?)))
    }

    async fn delete_branch(&self, request: Request<v1::DeleteBranchRequest>) -> Result<Response<v1::DeleteBranchReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::WriteRefs, (&m.repository, &m.name)).await?;
        scope.delete_branch(&m.name).await?;
        Ok(Response::new(v1::DeleteBranchReply {}))
    }

    async fn rename_branch(&self, request: Request<v1::RenameBranchRequest>) -> Result<Response<v1::Branch>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::WriteRefs, (&m.repository, &m.name)).await?;
        Ok(Response::new(versions::branch(scope.rename_branch(&m.name, &m.new_name).await?)))
    }

    async fn protect_branch(&self, request: Request<v1::ProtectBranchRequest>) -> Result<Response<v1::Branch>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::Protect, (&m.repository, &m.name)).await?;
        Ok(Response::new(versions::branch(scope.protect_branch(&m.name, m.protected).await?)))
    }

    async fn get_branch(&self, request: Request<v1::GetBranchRequest>) -> Result<Response<v1::Branch>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadVersions, (&m.repository, &m.name)).await?;
        Ok(Response::new(versions::branch(scope.named_branch().await?)))
    }

    async fn list_branches(&self, request: Request<v1::ListBranchesRequest>) -> Result<Response<v1::ListBranchesReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadVersions, (&m.repository, "")).await?;
        let listed = scope.branches(&m.prefix, m.limit, &m.page_token).await?;
        let branches = listed.items.into_iter().map(versions::branch).collect();
        Ok(Response::new(v1::ListBranchesReply { branches, next_page_token: listed.next }))
    }

    async fn reflog(&self, request: Request<v1::ReflogRequest>) -> Result<Response<v1::ReflogReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadVersions, (&m.repository, &m.branch)).await?;
        let listed = scope.reflog(m.limit, &m.page_token).await?;
        let moves = listed.items.into_iter().map(versions::head_move).collect();
        Ok(Response::new(v1::ReflogReply { moves, next_page_token: listed.next }))
    }

    async fn create_tag(&self, request: Request<v1::CreateTagRequest>) -> Result<Response<v1::Tag>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::WriteRefs, (&m.repository, &m.r#ref)).await?;
        Ok(Response::new(versions::tag(scope.create_tag(&m.name).await?)))
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
        let listed = scope.tags(&m.prefix, m.limit, &m.page_token).await?;
        let tags = listed.items.into_iter().map(versions::tag).collect();
        Ok(Response::new(v1::ListTagsReply { tags, next_page_token: listed.next }))
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Result<Response<v1::Commit>, Status> {
        let scope = self.enter(&request, Verb::ReadVersions, wire::target(request.get_ref().target.as_ref())).await?;
        Ok(Response::new(versions::commit(&scope.commit_info().await?)))
    }

    async fn show(&self, request: Request<v1::ShowRequest>) -> Result<Response<v1::ShowReply>, Status> {
        let scope = self.enter(&request, Verb::ReadVersions, wire::target(request.get_ref().target.as_ref())).await?;
        let v1::ShowRequest { parent, limit, page_token, values, .. } = request.into_inner();
        let shown = scope.show(parent, &DiffRequest { limit, page_token, values, ..DiffRequest::default() }).await?;
        let (commit, changes) = (Some(versions::commit(&shown.commit)), Some(versions::diff(shown.changes)));
        Ok(Response::new(v1::ShowReply { commit, changes }))
    }

    async fn log(&self, request: Request<v1::LogRequest>) -> Result<Response<v1::LogReply>, Status> {
        let scope = self.enter(&request, Verb::ReadVersions, wire::target(request.get_ref().target.as_ref())).await?;
        let m = request.into_inner();
        let page = scope
            .log(LogRequest {
                limit: m.limit,
                page_token: m.page_token,
                paths: m.paths,
                since: m.since_us.map(Timestamp),
                until: m.until_us.map(Timestamp),
                author: m.author,
                first_parent: m.first_parent,
            })
            .await?;
        let next_page_token = page.next.map(|next| next.to_string()).unwrap_or_default();
        Ok(Response::new(v1::LogReply { commits: page.commits.iter().map(versions::commit).collect(), next_page_token }))
    }

    async fn diff(&self, request: Request<v1::DiffRequest>) -> Result<Response<v1::DiffReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadVersions, (&m.repository, &m.left)).await?;
        let v1::DiffRequest { right, limit, three_dot, path, page_token, values, summary_only, .. } = request.into_inner();
        let report = scope.diff(&right, three_dot, &DiffRequest { limit, page_token, path, values, summary_only }).await?;
        Ok(Response::new(versions::diff(report)))
    }

    async fn merge_base(&self, request: Request<v1::MergeBaseRequest>) -> Result<Response<v1::MergeBaseReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadVersions, (&m.repository, &m.left)).await?;
        let commit = scope.merge_base(&m.right).await?.as_ref().map(versions::commit);
        Ok(Response::new(v1::MergeBaseReply { commit }))
    }

    async fn merge(&self, request: Request<v1::MergeRequest>) -> Result<Response<v1::MergeReply>, Status> {
        let m = request.get_ref();
        // A dry run reads, and is let in where the merge itself would be.
        let scope = self.enter(&request, Verb::Merge, (&m.repository, &m.into)).await?;
        let m = request.into_inner();
        let options = MergeOptions { source: m.source, author: m.author, message: m.message, strategy: m.strategy, squash: m.squash };
        if m.dry_run {
            return Ok(Response::new(versions::merge(scope.preview_merge(options, m.limit, m.values).await?)));
        }
        let merged = scope.merge(options).await.map(versions::merge);
        let reported = |commit, conflicts| v1::MergeReply {
            outcome: "conflict".to_owned(),
            from: String::clone(&commit),
            commit,
            conflicts: Some(conflicts),
            ..v1::MergeReply::default()
        };
        Ok(Response::new(reporting(&scope, m.report_conflicts, merged, reported).await?))
    }

    async fn revert(&self, request: Request<v1::ReplayRequest>) -> Result<Response<v1::ReplayReply>, Status> {
        self.replay(Replay::Revert, request).await
    }

    async fn cherry_pick(&self, request: Request<v1::ReplayRequest>) -> Result<Response<v1::ReplayReply>, Status> {
        self.replay(Replay::CherryPick, request).await
    }

    async fn reset(&self, request: Request<v1::ResetRequest>) -> Result<Response<v1::ResetReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::Reset, (&m.repository, &m.branch)).await?;
        let m = request.into_inner();
        let options = ResetOptions { to: m.to, expected: m.expected, rewind_offsets: m.rewind_offsets, author: m.author };
        let reset = scope.reset(options).await?;
        Ok(Response::new(v1::ResetReply { from: reset.from.to_string(), to: reset.to.to_string() }))
    }
}

impl Grpc {
    async fn replay(&self, replay: Replay, request: Request<v1::ReplayRequest>) -> Result<Response<v1::ReplayReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::Replay, (&m.repository, &m.branch)).await?;
        let m = request.into_inner();
        let options = ReplayOptions { commit: m.commit, parent: m.parent, author: m.author, message: m.message, strategy: m.strategy };
        let replayed = scope.replay(replay, options).await;
        let replayed = replayed.map(|made| v1::ReplayReply { commit: made.commit.to_string(), from: made.previous.to_string(), conflicts: None });
        let reported = |commit: String, conflicts| v1::ReplayReply { from: commit.clone(), commit, conflicts: Some(conflicts) };
        Ok(Response::new(reporting(&scope, m.report_conflicts, replayed, reported).await?))
    }
}

/// Makes conflicts an answer, with the head that stays, where the caller asked for that.
async fn reporting<T>(scope: &Scope, report: bool, outcome: Result<T>, reported: impl FnOnce(String, v1::Conflicts) -> T) -> Result<T> {
    match outcome {
        Err(Error::Conflicts(conflicts)) if report => {
            let head = scope.branch().await?.head;
            Ok(reported(head.to_string(), versions::conflicts(*conflicts)))
        }
        outcome => outcome,
    }
}
