//! The service `Registry`.

use anabranch_proto::v1;
use anabranch_proto::v1::registry_server::Registry;
use bytes::Bytes;
use tonic::{Request, Response, Status, async_trait};

use super::Grpc;
use crate::app::{ApplyRequest, Planned, Proposal};
use crate::auth::Verb;
use crate::wire;

#[async_trait]
impl Registry for Grpc {
    async fn plan(&self, request: Request<v1::PlanRequest>) -> Result<Response<v1::PlanReply>, Status> {
        let scope = self.enter(&request, Verb::ReadDefinitions, wire::target(request.get_ref().target.as_ref())).await?;
        let m = request.into_inner();
        let planned = scope.plan(&proposal(m.files, m.definitions, m.delete)).await?;
        Ok(Response::new(plan_reply(&planned)))
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyReply>, Status> {
        let scope = self.enter(&request, Verb::Apply, wire::target(request.get_ref().target.as_ref())).await?;
        let m = request.into_inner();
        let applied = scope
            .apply(ApplyRequest {
                proposal: proposal(m.files, m.definitions, m.delete),
                allow_breaking: m.allow_breaking,
                author: m.author,
                message: m.message,
            })
            .await?;
        Ok(Response::new(v1::ApplyReply { commit: applied.commit.to_string(), plan: Some(plan_reply(&applied.planned)) }))
    }

    async fn list_definitions(&self, request: Request<v1::ListDefinitionsRequest>) -> Result<Response<v1::ListDefinitionsReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadDefinitions, wire::target(m.target.as_ref())).await?;
        let (commit, definitions) = scope.list_definitions(&m.kind, &m.name).await?;
        Ok(Response::new(v1::ListDefinitionsReply { commit: commit.to_string(), definitions: definitions.iter().map(wire::definition).collect() }))
    }
}

fn proposal(files: Vec<v1::YamlFile>, canonical: Vec<Bytes>, delete: Vec<v1::DefinitionName>) -> Proposal {
    Proposal {
        files: files.into_iter().map(|file| (file.name, file.text)).collect(),
        canonical,
        delete: delete.into_iter().map(|name| (name.kind, name.name)).collect(),
    }
}

fn plan_reply(planned: &Planned) -> v1::PlanReply {
    v1::PlanReply {
        commit: planned.commit.to_string(),
        text: planned.plan.to_string(),
        json: serde_json::to_string(&planned.plan).unwrap_or_default(),
        changes: !planned.plan.is_empty(),
        breaking: planned.plan.is_breaking(),
    }
}
