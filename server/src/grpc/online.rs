//! The service `Online`.

use anabranch_online_store::Status as ValueStatus;
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
        let key = |column: &v1::Column| Ok((column.name.clone(), columns::to_arrow(column)?.1));
        let wanted = LookupRequest {
            selection: wire::selection(m.selection)?,
            full_names: m.full_names,
            keys: Keys::Columns(m.keys.iter().map(key).collect::<Outcome<_>>()?),
            at_least: m.at_least,
            timeout_ms: m.timeout_ms,
        };
        Ok(Response::new(reply(&scope.lookup(wanted).await?)?))
    }
}

fn reply(looked: &Looked) -> Outcome<v1::OnlineReply> {
    let status = |status: ValueStatus| match status {
        ValueStatus::Present => v1::Status::Present,
        ValueStatus::NullValue => v1::Status::NullValue,
        ValueStatus::NotFound => v1::Status::NotFound,
        ValueStatus::OutsideTtl => v1::Status::OutsideTtl,
    };
    let columns = looked.features().map(|feature| {
        Ok(v1::FeatureColumn {
            values: Some(columns::from_arrow(feature.name, feature.data_type, feature.column)?),
            statuses: feature.statuses.iter().map(|value| status(*value).into()).collect(),
            event_times_us: feature.event_times.unwrap_or_default().iter().map(|time| time.map_or(0, |time| time.micros())).collect(),
        })
    });
    Ok(v1::OnlineReply { columns: columns.collect::<Outcome<_>>()? })
}
