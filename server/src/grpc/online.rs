//! The service `Online`.

use anabranch_ingest::{AuditRequest, Rebuild};
use anabranch_online_store::Lookup;
use anabranch_proto::v1;
use anabranch_proto::v1::online_server::Online;
use tonic::{Request, Response, Status, async_trait};

use super::Grpc;
use crate::app::{Keys, Looked, LookupRequest};
use crate::auth::Verb;
use crate::error::Result as Outcome;
use crate::{columns, wire};

#[async_trait]
impl Online for Grpc {
    async fn get_online_features(&self, request: Request<v1::OnlineRequest>) -> Result<Response<v1::OnlineReply>, Status> {
        let scope = self.enter(&request, Verb::Lookup, wire::target(request.get_ref().target.as_ref())).await?;
        let m = request.into_inner();
        let key = |column: &v1::KeyColumn| Ok((column.name.clone(), columns::to_arrow(column)?));
        let wanted = LookupRequest {
            selection: wire::selection(m.selection)?,
            full_names: m.full_names,
            keys: Keys::Columns(m.keys.iter().map(key).collect::<Outcome<_>>()?),
            at_least: m.at_least,
            timeout_ms: m.timeout_ms,
        };
        Ok(Response::new(reply(scope.lookup(wanted).await?, m.known_schema)))
    }

    async fn list_served(&self, request: Request<v1::ListServedRequest>) -> Result<Response<v1::ListServedReply>, Status> {
        let scope = self.enter(&request, Verb::WatchIngest, (&request.get_ref().repository, "")).await?;
        let branches = scope.serving().await?.into_iter().map(wire::serving::served).collect();
        Ok(Response::new(v1::ListServedReply { branches }))
    }

    async fn serve_branch(&self, request: Request<v1::ServeBranchRequest>) -> Result<Response<v1::ServedBranch>, Status> {
        let scope = self.enter(&request, Verb::ServeOnline, wire::target(request.get_ref().target.as_ref())).await?;
        Ok(Response::new(wire::serving::served(scope.serve().await?)))
    }

    async fn unserve_branch(&self, request: Request<v1::UnserveBranchRequest>) -> Result<Response<v1::UnserveBranchReply>, Status> {
        let scope = self.enter(&request, Verb::ServeOnline, wire::target(request.get_ref().target.as_ref())).await?;
        scope.unserve().await?;
        Ok(Response::new(v1::UnserveBranchReply {}))
    }

    async fn rebuild_online(&self, request: Request<v1::RebuildOnlineRequest>) -> Result<Response<v1::ServedBranch>, Status> {
        let scope = self.enter(&request, Verb::ServeOnline, wire::target(request.get_ref().target.as_ref())).await?;
        let v1::RebuildOnlineRequest { views, rows_per_second, .. } = request.into_inner();
        let rebuild = Rebuild { views, rows_per_second: (rows_per_second > 0).then_some(rows_per_second) };
        Ok(Response::new(wire::serving::served(scope.rebuild(rebuild).await?)))
    }

    async fn move_online(&self, request: Request<v1::MoveOnlineRequest>) -> Result<Response<v1::MoveOnlineReply>, Status> {
        let scope = self.enter(&request, Verb::ServeOnline, (&request.get_ref().repository, "")).await?;
        let anabranch_ingest::Moved { copied, again, moved } = scope.move_online(!request.get_ref().compare).await?;
        Ok(Response::new(v1::MoveOnlineReply { copied, again, moved }))
    }

    async fn audit(&self, request: Request<v1::AuditRequest>) -> Result<Response<v1::AuditReply>, Status> {
        let verb = if request.get_ref().repair { Verb::ServeOnline } else { Verb::WatchIngest };
        let scope = self.enter(&request, verb, wire::target(request.get_ref().target.as_ref())).await?;
        let v1::AuditRequest { views, repair, .. } = request.into_inner();
        let views = scope.audit(AuditRequest { views, repair }).await?;
        Ok(Response::new(v1::AuditReply { views: views.into_iter().map(wire::serving::audited).collect() }))
    }
}

/// The buffers of the answer go out as they are.
fn reply(looked: Looked, known_schema: u64) -> v1::OnlineReply {
    let Looked { lookup, answer } = looked;
    let schema_id = lookup.schema_id();
    v1::OnlineReply {
        schema_id,
        schema: (known_schema != schema_id).then(|| schema(&lookup)),
        // A lookup has few rows.
        rows: answer.rows as u32,
        as_of_us: answer.as_of.micros(),
        statuses: answer.statuses.into(),
        event_times_us: answer.event_times,
        values: answer.values.into(),
    }
}

fn schema(lookup: &Lookup) -> v1::OnlineSchema {
    let features = lookup.features().iter().map(|feature| v1::OnlineFeature {
        name: feature.name.clone(),
        r#type: feature.data_type.to_string(),
        view: feature.view as u32,
    });
    v1::OnlineSchema { views: lookup.views().map(str::to_owned).collect(), features: features.collect() }
}
