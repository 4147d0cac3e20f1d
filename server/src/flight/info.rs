//! `GetFlightInfo`: what a saved dataset is, and the endpoints whose rows, in their order, are the dataset.

use std::sync::Arc;

use anabranch_proto::v1;
use anabranch_proto::v1::flight_command::Command;
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use prost::Message;
use tonic::{Request, Status};

use super::batches::part;
use super::{command, wrong};
use crate::App;
use crate::auth::Verb;
use crate::error::Error;
use crate::grpc::caller;
use crate::wire;

/// Row groups of one endpoint: 262,144 rows.
const GROUPS: u64 = 4;

pub(super) async fn info(app: &Arc<App>, request: Request<FlightDescriptor>) -> Result<FlightInfo, Status> {
    let caller = caller(&request);
    let descriptor = request.into_inner();
    let Command::Dataset(wanted) = command(&descriptor.cmd)? else { return Err(wrong("GetFlightInfo", "dataset").into()) };
    let (repository, reference) = wire::target(wanted.target.as_ref());
    let scope = app.enter(&caller, Verb::ReadDataset, repository, reference).await?;
    let located = scope.locate(&part(&wanted)).await?;
    let content_digest = located.manifest.content_digest.to_string();
    let commit = located.commit.to_string();
    let target = Some(v1::Target { repository: scope.repo.name().to_owned(), r#ref: format!("commit:{commit}") });
    let pinned = v1::DatasetCommand { target, content_digest: content_digest.clone(), ..wanted };
    let bytes = located.manifest.parts.iter().map(|part| part.bytes).sum::<u64>();
    let mut info = FlightInfo::new()
        .try_with_schema(&located.schema)
        .map_err(|error| Error::part(anabranch_offline_store::batches::BatchesError::Arrow(error)))?
        .with_descriptor(descriptor)
        .with_total_records(i64::try_from(located.rows).unwrap_or(-1))
        .with_total_bytes(i64::try_from(bytes).unwrap_or(-1))
        .with_ordered(true)
        .with_app_metadata(v1::DatasetInfo { commit, content_digest }.encode_to_vec());
    for first_group in (0..located.groups).step_by(GROUPS as usize) {
        let groups = GROUPS.min(located.groups - first_group);
        let rows = Command::DatasetRows(v1::DatasetRowsCommand { dataset: Some(pinned.clone()), first_group, groups });
        let ticket = Ticket::new(v1::FlightCommand { command: Some(rows) }.encode_to_vec());
        info = info.with_endpoint(FlightEndpoint::new().with_ticket(ticket));
    }
    Ok(info)
}
