//! `DoExchange`: the spine goes in, the dataset comes out.

use std::sync::Arc;

use anabranch_offline_store::join::JoinOptions;
use anabranch_proto::v1::HistoricalCommand;
use anabranch_proto::v1::flight_command::Command;
use arrow_flight::FlightData;
use futures::stream;
use tonic::{Request, Status, Streaming};

use super::{Outgoing, streams, wrong};
use crate::App;
use crate::app::DatasetRequest;
use crate::auth::Verb;
use crate::grpc::caller;
use crate::metrics::RepositoryLabels;
use crate::wire;

pub(super) async fn exchange(app: &Arc<App>, request: Request<Streaming<FlightData>>) -> Result<Outgoing<FlightData>, Status> {
    let caller = caller(&request);
    let limits = &app.config().limits;
    let incoming = streams::incoming(request.into_inner(), limits.push_bytes as u64).await?;
    let Command::Historical(command) = incoming.command else { return Err(wrong("DoExchange", "historical").into()) };
    let (repository, reference) = wire::target(command.target.as_ref());
    let scope = app.enter(&caller, Verb::ReadDataset, repository, reference).await?;
    if !command.save_as.is_empty() {
        app.enter(&caller, Verb::SaveDataset, repository, reference).await?;
    }
    let (at_least, timeout_ms) = (command.at_least.clone(), command.timeout_ms);
    let wanted = wanted(command)?;
    let (schema, spine) = streams::collect(incoming.batches, limits.spine_bytes).await?;
    scope.wait_committed(&at_least, timeout_ms).await?;
    let dataset = scope.dataset(wanted, schema, spine).await?;
    let repository = RepositoryLabels { repository: scope.repo.name().to_owned() };
    app.metrics().dataset_rows.get_or_create(&repository).inc_by(dataset.rows);
    let footer = dataset.footer().to_string().into();
    Ok(streams::outgoing(dataset.joined.schema, stream::iter(dataset.joined.batches.into_iter().map(Ok)), Some(footer)))
}

fn wanted(command: HistoricalCommand) -> Result<DatasetRequest, Status> {
    Ok(DatasetRequest {
        selection: wire::selection(command.selection)?,
        options: JoinOptions { knowledge: DatasetRequest::knowledge(&command.knowledge)?, strict: command.strict, full_names: command.full_names },
        time_column: DatasetRequest::time_column(&command.time_column),
        engine: DatasetRequest::engine(&command.engine)?,
        save_as: Some(command.save_as).filter(|name| !name.is_empty()),
        author: command.author,
    })
}
